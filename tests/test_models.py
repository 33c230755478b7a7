"""Models by name: their options, and mistakes in them."""

import pytest

from zoo import create_model, list_models, models
from zoo.errors import UserError
from zoo.models import model_options, resnet, wide_resnet


def test_options_of_a_table_of_variants():
    options = model_options("lenet5")
    assert options["variant"] == "modern"
    assert options["num_classes"] == 10
    assert not {"options", "name", "parent"} & set(options)


def test_defaults_are_those_of_the_variant():
    assert model_options("resnet18")["depths"] == (2, 2, 2, 2)
    assert model_options("resnet18")["num_classes"] == 1000
    assert model_options("resnet110_cifar")["depths"] == (18, 18, 18)
    assert model_options("resnet110_cifar")["num_classes"] == 10
    assert model_options("resnetv2_50")["preactivation"]
    assert model_options("convnet1d")["dims"] == 1
    assert not {"options", "name", "parent", "variant"} & set(model_options("resnet18"))


def test_every_variant_has_its_own_line():
    for module in (resnet, wide_resnet):
        assert module.VARIANTS.keys() <= models.MODELS.keys()
        for name in module.VARIANTS:
            assert create_model(name) == module.make(name)
    assert len({create_model(name) for name in [*resnet.VARIANTS, *wide_resnet.VARIANTS]}) == 28


@pytest.mark.parametrize(
    "name, options, line",
    [
        ("lenet", {}, r"unknown model 'lenet'; did you mean 'lenet5'"),
        ("MLP", {}, r"unknown model 'MLP'.*mlp"),
        ("mlp", {"num_class": 3}, r"model 'mlp' has no option 'num_class'; did you mean 'num_classes'"),
        ("lenet5", {"num_class": 3}, r"model 'lenet5' has no option 'num_class'; did you mean 'num_classes'"),
        ("lenet5", {"varian": "1998"}, r"model 'lenet5' has no option 'varian'; did you mean 'variant'"),
        ("mlp", {"parent": None}, r"model 'mlp' has no option 'parent'"),
        ("mlp", {"dropout": "half"}, r"model 'mlp': dropout is 'half'; it must be a number"),
        ("mlp", {"widths": 512}, r"model 'mlp': widths is 512; it must be a tuple"),
        ("mlp", {"widths": (5.5,)}, r"model 'mlp': widths is \(5\.5,\)"),
        ("lenet5", {"pool": 2}, r"model 'lenet5': pool is 2; it must be a word"),
        ("resnet50", {"variant": "resnet18"}, r"model 'resnet50' has no option 'variant'"),
        ("resnet50", {"zeroinit": True}, r"model 'resnet50' has no option 'zeroinit'; did you mean 'zero_init'"),
        ("resnet50", {"depths": 4}, r"model 'resnet50': depths is 4; it must be a tuple of integers"),
        ("resnet50", {"in_channels": "rgb"}, r"model 'resnet50': in_channels is 'rgb'; it must be an integer or None"),
        ("resnet55", {}, r"unknown model 'resnet55'; did you mean 'resnet"),
        ("lenet5", {"variant": 1998}, r"model 'lenet5': variant is 1998; it must be a word"),
    ],
)
def test_mistakes(name, options, line):
    with pytest.raises(UserError, match=line) as error:
        create_model(name, **options)
    assert "\n" not in str(error.value)


def test_list_models(monkeypatch):
    assert list_models() == sorted(models.MODELS)
    assert list_models("lenet*") == ["lenet5"]
    assert list_models("?lp") == ["mlp"]
    assert list_models("nothing*") == []
    monkeypatch.setattr(models, "MODELS", {"net20": None, "net110": None, "mlp": None, "NET": None})
    assert list_models("net*") == ["net110", "net20"]
