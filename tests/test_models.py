"""Models by name: their options, and mistakes in them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

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
        ("lenet5", {"pool": 2}, r"model 'lenet5': pool is 2; it must be a string"),
        ("resnet50", {"variant": "resnet18"}, r"model 'resnet50' has no option 'variant'"),
        ("resnet50", {"zeroinit": True}, r"model 'resnet50' has no option 'zeroinit'; did you mean 'zero_init'"),
        ("resnet50", {"depths": 4}, r"model 'resnet50': depths is 4; it must be a tuple of integers"),
        ("resnet50", {"in_channels": "rgb"}, r"model 'resnet50': in_channels is 'rgb'; it must be an integer or None"),
        ("resnet55", {}, r"unknown model 'resnet55'; did you mean 'resnet"),
        ("lenet5", {"variant": 1998}, r"model 'lenet5': variant is 1998; it must be a string"),
    ],
)
def test_mistakes(name, options, line):
    with pytest.raises(UserError, match=line) as error:
        create_model(name, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [jnp.bfloat16, np.dtype(jnp.bfloat16), jnp.zeros(1, jnp.bfloat16).dtype])
def test_a_dtype_is_its_name(kind):
    assert create_model("resnet18", dtype=kind) == create_model("resnet18", dtype="bfloat16")
    with pytest.raises(UserError, match=r"unknown dtype of resnet 'float16'; did you mean 'bfloat16'"):
        create_model("resnet18", dtype=np.float16)


def test_list_models(monkeypatch):
    assert list_models() == sorted(models.MODELS)
    assert list_models("lenet*") == ["lenet5"]
    assert list_models("?lp") == ["mlp"]
    assert list_models("nothing*") == []
    monkeypatch.setattr(models, "MODELS", {"net20": None, "net110": None, "mlp": None, "NET": None})
    assert list_models("net*") == ["net110", "net20"]


class Trainless(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x


def test_a_module_without_train(monkeypatch):
    monkeypatch.setitem(models.MODELS, "own", Trainless)
    with pytest.raises(UserError, match=r"^model 'own': Trainless.__call__ has no keyword `train`; add `train: bool"):
        create_model("own")


def test_training_by_hand():
    """As the docstring of `create_model` has it."""
    x, key = np.ones((4, 9, 9, 3), np.float32), jax.random.key(0)

    def trained(model):
        variables = model.init(key, x)
        return model.apply(variables, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"])

    model = create_model("convnet2d", norm="batch", widths=(8, 8), dropout=0.5)
    y, state = jax.eval_shape(lambda: trained(model))
    assert y.shape == (4, 10)
    assert state.keys() == {"batch_stats"}
    assert jax.eval_shape(lambda: trained(create_model("mlp", widths=())))[1] == {}
    variables = jax.eval_shape(model.init, key, x)
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jit(lambda v: jax.jvp(lambda x: model.apply(v, x), (x,), (x,))).lower(variables)
