"""Our own files: what the header says, and that it makes the same model with the same weights."""

import json

import flax.linen as nn
import jax
import numpy as np
import pytest

import zoo
from zoo import rules as tree
from zoo.errors import UserError
from zoo.weights import files, header, safetensors


def variables_of(model, shape):
    rng = np.random.default_rng(3)
    shapes = jax.eval_shape(model.init, {"params": jax.random.key(0)}, np.zeros((1, *shape), np.float32))
    return jax.tree.map(lambda s: rng.random(s.shape, np.float32), shapes)


CASES = {
    "mlp": ({"widths": (7, 5), "norm": "batch", "norm_eps": 1e-3}, (6,)),
    "lenet5": ({"variant": "1998"}, (28, 28, 1)),
    "resnet20_cifar": ({"depths": (1, 1, 1), "num_classes": 3}, (32, 32, 3)),
    "wrn16_4": ({"in_channels": 2}, (32, 32, 2)),
    "unet": ({"variant": "2015", "depth": 2, "width": 4}, (60, 60, 1)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_file_makes_its_model_again(tmp_path, name):
    options, shape = CASES[name]
    model = zoo.create_model(name, **options)
    variables = variables_of(model, shape)
    path = tmp_path / "x.safetensors"
    zoo.save_weights(path, model, variables, input_size=shape, licence="MIT")
    again, found, says = zoo.load_model(path)
    assert again == model
    jax.tree.map(np.testing.assert_array_equal, found, variables)
    assert says["model"] == name
    assert says["licence"] == "MIT"
    assert says.get("batch_norm", {}).get("epsilon") == {"mlp": 1e-3, "lenet5": None, "unet": None}.get(name, 1e-5)
    assert ("padding" in says) == (name != "mlp")
    jax.tree.map(np.testing.assert_array_equal, zoo.load_weights(model, path, input=shape), variables)


def test_the_header(tmp_path):
    model = zoo.create_model("resnet18", depths=(1,), width=4, num_classes=2)
    given = {
        "input_size": (32, 32, 3), "mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2), "channel_order": "RGB",
        "crop": 0.875, "interpolation": "bilinear", "class_names": ("cat", "dog"), "source": "here",
        "source_sha256": "0" * 64, "licence": "MIT",
    }  # fmt: skip
    zoo.save_weights(tmp_path / "x", model, variables_of(model, (32, 32, 3)), **given)
    weights = files.read(tmp_path / "x")
    says = json.loads(weights.metadata["zoo"])
    assert {k: tuple(v) if isinstance(v, list) else v for k, v in says.items() if k in given} == given
    assert says["batch_norm"] == {"epsilon": 1e-5, "momentum": 0.9}
    assert says["options"] == {"depths": [1], "width": 4, "num_classes": 2}
    assert says["sha256"] == header.checksum(weights.tensors)
    assert says["padding"]


def test_numbers_of_numpy_in_the_header(tmp_path):
    x = np.random.default_rng(0).random((9, 3), np.float32)
    model = zoo.create_model("mlp", widths=())
    given = {"mean": tuple(x.mean(0)), "std": x.std(0), "crop": np.float64(0.5), "input_size": np.array([3])}
    given |= {"target_mean": jax.numpy.float32(0.25), "class_names": np.array(["a", "b"])}
    zoo.save_weights(tmp_path / "x", model, variables_of(model, (3,)), **given)
    says = zoo.load_model(tmp_path / "x")[2]
    assert (says["mean"], says["std"]) == (x.mean(0).tolist(), x.std(0).tolist())
    assert (says["crop"], says["input_size"], says["target_mean"]) == (0.5, [3], 0.25)
    assert says["class_names"] == ["a", "b"]


def test_a_batch_tells_the_input(tmp_path):
    """Its shape and dtype, for models that take something else than images: here a lookup, which needs integers."""

    class Lookup(nn.Module):
        @nn.compact
        def __call__(self, token):
            return nn.Dense(3, name="head")(nn.Embed(7, 4, name="embed")(token))

    tokens = np.zeros((2, 5), np.int32)
    variables = jax.tree.map(
        lambda s: np.full(s.shape, 0.5, np.float32), jax.eval_shape(Lookup().init, jax.random.key(0), tokens)
    )
    safetensors.write(tmp_path / "x", tree.flatten(variables), {})
    found = zoo.load_weights(Lookup(), tmp_path / "x", input=tokens)
    jax.tree.map(np.testing.assert_array_equal, found, variables)


def test_every_model_knows_its_name():
    for name in zoo.list_models():
        assert zoo.create_model(header.identify(zoo.create_model(name))[0]) == zoo.create_model(name)
        assert header.identify(zoo.create_model(name))[1] == {}
    found, options = header.identify(zoo.create_model("resnet50", num_classes=3, stem="3x3"))
    assert (found, options) == ("resnet50", {"num_classes": 3, "stem": "3x3"})


@pytest.mark.parametrize(
    "given, line",
    [
        ({"lisence": "MIT"}, "save_weights has no option 'lisence'; did you mean 'licence'"),
        ({"mean": 0.5}, "save_weights: mean is 0.5; it must be a tuple of numbers"),
        ({"channel_order": "RBG"}, "channel_order is 'RBG'; it must be 'RGB', 'BGR' or 'L'"),
    ],
)
def test_metadata_that_makes_no_sense(tmp_path, given, line):
    model = zoo.create_model("mlp", widths=())
    with pytest.raises(UserError, match=line):
        zoo.save_weights(tmp_path / "x", model, variables_of(model, (3,)), **given)
    assert not (tmp_path / "x").exists()


def test_a_path_that_cannot_be_written(tmp_path):
    model = zoo.create_model("mlp", widths=())
    with pytest.raises(UserError, match=r"cannot write .*No such file"):
        zoo.save_weights(tmp_path / "no" / "x", model, variables_of(model, (3,)))


@pytest.mark.parametrize(
    "name, options, line",
    [
        ("lenet5", {"pool": "avg"}, "was saved with pool='max'; the model has 'avg'"),
        ("lenet5", {"activation": "tanh"}, "was saved with activation='relu'; the model has 'tanh'"),
        ("mlp", {}, r"holds a LeNet5 \(lenet5\), not a MLP"),
        ("lenet5", {"dropout": 0.5, "kernel_init": "he_normal", "num_classes": 3}, None),
    ],
)
def test_the_same_weights_in_another_function_are_refused(tmp_path, capsys, name, options, line):
    saved = zoo.create_model("lenet5")
    zoo.save_weights(tmp_path / "x", saved, variables_of(saved, (28, 28, 1)))
    model = zoo.create_model(name, **options)
    if line is None:
        assert zoo.load_weights(model, tmp_path / "x")["params"]["head"]["bias"].shape == (3,)
        assert "a new head: 10 classes in the file, 3 in the model" in capsys.readouterr().out
    else:
        with pytest.raises(UserError, match=line):
            zoo.load_weights(model, tmp_path / "x")


# Options with another of which the same weights are another function; all the rest are header.FREE.
MEANING = {
    "activation", "biases", "bidirectional", "bn_eps", "bottleneck", "bottleneck_stride", "cardinalities", "cell",
    "combine", "connections", "conv_bias", "depth", "depths", "dims", "encoder_name", "encoder_options", "features",
    "filters",
    "global_pool", "groups", "head_activation", "hidden", "kernel_size", "kernel_sizes", "norm", "norm_eps",
    "norm_place",
    "padding", "pieces", "pool", "pool_size", "preactivation", "response_norm", "shortcut", "stage_stride", "stem",
    "stem_width", "tied", "up", "vocab_size", "weight_standardization", "widening", "width", "widths",
    "zero_padded_pool",
}  # fmt: skip


def test_every_option_of_every_model_is_known_as_free_or_as_meaning_something():
    """A new option belongs in one of the two."""
    fields = {field for make in zoo.models.MODELS.values() for field in header._fields(make())}
    assert not MEANING & set(header.FREE)
    assert fields == MEANING | set(header.FREE)


@pytest.mark.parametrize(
    "name, options, other",
    [
        (
            "lstm_classifier", {"vocab_size": 7, "width": 3, "embed_dim": 3},
            {"forget_bias": 1.0, "init_scale": 0.1, "dropout": 0.5, "variational": True, "recurrent_dropout": 0.2},
        ),
        ("lstm_lm", {"num_classes": 7, "width": 3}, {"embed_dim": 3, "embed_size": 7}),
        ("text_cnn", {"vocab_size": 7, "filters": 2, "embed_dim": 3}, {"embed_dropout": 0.3}),
    ],
)  # fmt: skip
def test_options_that_act_only_in_training_are_free(tmp_path, name, options, other):
    saved = zoo.create_model(name, **options)
    token = np.zeros((1, 5), np.int32)
    shapes = jax.eval_shape(saved.init, {"params": jax.random.key(0)}, token)
    variables = jax.tree.map(lambda s: np.ones(s.shape, np.float32), shapes)
    zoo.save_weights(tmp_path / "x", saved, variables)
    found = zoo.load_weights(zoo.create_model(name, **options, **other), tmp_path / "x")
    jax.tree.map(np.testing.assert_array_equal, found, variables)


def test_the_options_of_a_run_are_checked(tmp_path, monkeypatch):
    """By its model.json; one from before there was such a file is believed."""
    model = zoo.create_model("mlp", widths=(4,), activation="tanh")
    variables = variables_of(model, (3,))
    monkeypatch.setattr(zoo.checkpoint, "load_variables", lambda path: variables)
    other = zoo.create_model("mlp", widths=(4,))
    zoo.load_weights(other, tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(header.semantics(model, {})))
    jax.tree.map(np.testing.assert_array_equal, zoo.load_weights(model, tmp_path), variables)
    with pytest.raises(UserError, match="was saved with activation='tanh'; the model has 'relu'"):
        zoo.load_weights(other, tmp_path)


def test_a_file_of_others_makes_no_model(tmp_path):
    np.savez(tmp_path / "x.npz", w=np.ones(3))
    with pytest.raises(UserError, match=r"has no header of this zoo; use load_weights\(model, \.\.\.\)"):
        zoo.load_model(tmp_path / "x.npz")
