"""Keras's own ResNets and LSTMs: in from all its formats, the same maps and logits, a training step; and out again."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
import warnings
from functools import partial

import jax
import numpy as np
import pytest
from test_export_torch import equal, random_variables

import zoo
from zoo.weights import import_weights, peers

pytest.importorskip("h5py")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    keras = pytest.importorskip("keras")
    from keras.src.applications import resnet as peer
if keras.backend.backend() != "jax":
    pytest.skip("needs Keras over JAX", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore")  # of Keras's own
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module", autouse=True)
def _rank_promotion():
    with jax.numpy_rank_promotion("allow"):  # Keras needs it
        yield


SMALL = {"depths": (2, 3), "width": 4, "stem_width": 64, "num_classes": 5, "conv_bias": True, "bn_eps": 1.001e-5}
OPTIONS = {
    "v1": ("resnet50", SMALL | {"bottleneck_stride": "1x1"}),
    "v2": ("resnetv2_50", SMALL | {"stage_stride": "last", "zero_padded_pool": True}),
}


@pytest.fixture(scope="module", params=OPTIONS)
def pair(request):
    """Our model and Keras's, of two stages, with random statistics; and the ends of its stages."""
    v2 = request.param == "v2"

    def stages(x):
        if v2:
            x = peer.stack_residual_blocks_v2(x, 4, 2, name="conv2")
            return peer.stack_residual_blocks_v2(x, 8, 3, stride1=1, name="conv3")
        x = peer.stack_residual_blocks_v1(x, 4, 2, stride1=1, name="conv2")
        return peer.stack_residual_blocks_v1(x, 8, 3, name="conv3")

    keras.utils.set_random_seed(0)
    net = peer.ResNet(
        stages, v2, True, "net", weights=None, input_shape=(45, 38, 3), classes=5, classifier_activation=None,
        weights_name=None,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    for variable in net.weights:
        if variable.path.endswith(("gamma", "moving_variance")):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif not variable.path.endswith("kernel"):
            variable.assign(rng.normal(0, 0.1, variable.shape))
    name, options = OPTIONS[request.param]
    return zoo.create_model(name, **options), net, ["conv1_conv" if v2 else "conv1_relu", "conv2_block2_out"]


def save(net, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (net.save_weights if path.name.endswith(".weights.h5") else net.save)(path)


X = np.random.default_rng(1).standard_normal((2, 45, 38, 3)).astype(np.float32)


def close(found, wanted):
    wanted = np.asarray(wanted)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.fixture(scope="module")
def imported(pair, tmp_path_factory):
    """By every format of Keras; the same each time."""
    model, net, _ = pair
    folder, variables = tmp_path_factory.mktemp("keras"), None
    for name in ("x.weights.h5", "x.h5", "x.keras"):
        save(net, folder / name)
        done = import_weights(model, folder / name)
        assert done.rules.startswith("Keras's ResNet V")
        assert done.notes == []
        variables = variables or done.variables
        equal(done.variables, variables)
    return variables


def test_maps_and_logits(pair, imported):
    model, net, ends = pair
    outputs = keras.Model(
        net.input, [*(net.get_layer(name).output for name in ends), net.layers[-3].output, net.output]
    )
    *maps, logits = outputs(X, training=False)
    close(jit(model.apply)(imported, X), logits)
    inner = {**imported, "params": {k: v for k, v in imported["params"].items() if k != "head"}}
    found = jit(model.clone(features_only=True).apply)(inner, X)
    assert [m.shape for m in found] == [m.shape for m in maps]
    assert [-(-45 // s.stride) for s in model.stages] == [m.shape[1] for m in found]
    for ours, theirs in zip(found, maps, strict=True):
        close(ours, theirs)


def test_a_training_step(pair, imported, monkeypatch):
    """Loss, all gradients, statistics (Keras moves them by 0.01, ours by 0.1); softplus for ReLU, which has no kink."""
    model, net, _ = pair
    weight = np.random.default_rng(2).standard_normal((2, 5)).astype(np.float32)
    trainable, fixed = [v.value for v in net.trainable_variables], [v.value for v in net.non_trainable_variables]
    layers = [layer for layer in net.layers if isinstance(layer, keras.layers.Activation)]
    for layer in layers:
        monkeypatch.setattr(layer, "activation", keras.activations.softplus)
    monkeypatch.setattr(zoo.models.resnet.nn, "relu", jax.nn.softplus)

    def theirs(trainable):
        logits, moved = net.stateless_call(trainable, fixed, X, training=True)
        return (logits * weight).sum(), moved

    def ours(params):
        logits, state = model.apply({**imported, "params": params}, X, train=True, mutable=["batch_stats"])
        return (logits * weight).sum(), state["batch_stats"]

    (wanted, moved), wanted_grads = jit(jax.value_and_grad(theirs, has_aux=True))(trainable)
    (loss, stats), grads = jit(jax.value_and_grad(ours, has_aux=True))(imported["params"])
    close(loss, wanted)
    before = dict(zip((v.path for v in net.non_trainable_variables), fixed, strict=True))
    after = dict(zip(before, moved, strict=True))
    # Both as Keras's file would have them, by our own export.
    exported, _ = zoo.weights.export.tensors(model, flat({"params": grads, "batch_stats": stats}), "keras h5", None)
    compared = 0
    for variable, gradient in zip(net.trainable_variables, wanted_grads, strict=True):
        if np.abs(gradient).max() > 1e-4:  # a bias before BN has none, but rounding
            np.testing.assert_allclose(
                exported[variable.path], gradient, rtol=1e-3, atol=2e-3 * np.abs(gradient).max(), err_msg=variable.path
            )
            compared += 1
    assert compared > len(trainable) // 2
    for path, start in before.items():
        if path.endswith(("moving_mean", "moving_variance")):
            np.testing.assert_allclose(
                (exported[path] - 0.9 * start) / 0.1, (after[path] - 0.99 * start) / 0.01, rtol=1e-2, atol=1e-3
            )


def flat(variables):
    return {name: np.asarray(leaf) for name, leaf in zoo.rules.flatten(variables).items()}


@pytest.mark.parametrize("name", ["x.weights.h5", "x.h5"])
def test_out_again(pair, tmp_path, name):
    model, net, _ = pair
    variables = random_variables(model, (45, 38, 3))
    zoo.save_weights(tmp_path / name, model, variables, layout="keras")
    other = keras.models.clone_model(net)
    other.load_weights(tmp_path / name)
    close(jit(model.apply)(variables, X), other(X, training=False))
    equal(import_weights(model, tmp_path / name).variables, variables)


@pytest.mark.parametrize(
    "name, options, must",
    [
        ("resnet50", {"conv_bias": True}, "must have bn_eps=1.001e-05, bottleneck_stride='1x1', not 1e-05, '3x3'"),
        ("resnetv2_50", {}, "must have conv_bias=True, bn_eps=1.001e-05, stage_stride='last', zero_padded_pool=True"),
        (
            "resnetv2_50",
            OPTIONS["v2"][1] | {"bottleneck_stride": "1x1", "weight_standardization": True},
            "must have bottleneck_stride='3x3', weight_standardization=False, not '1x1', True",
        ),
        (
            "resnet50",
            OPTIONS["v1"][1] | {"stage_stride": "last", "shortcut": "D"},
            "must have stage_stride='first', shortcut='B', not 'last', 'D'",
        ),
    ],
)
def test_the_options_that_keras_needs_are_told(tmp_path, name, options, must):
    ours, wanted = OPTIONS["v2" if "v2" in name else "v1"]
    model = zoo.create_model(ours, **wanted)
    zoo.save_weights(tmp_path / "x.h5", model, random_variables(model, (45, 38, 3)), layout="keras")
    shape = {key: SMALL[key] for key in ("depths", "width", "stem_width", "num_classes")}
    with pytest.raises(zoo.UserError, match=must.replace("(", r"\(")):
        import_weights(zoo.create_model(name, **shape | options), tmp_path / "x.h5")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ResNet50", "ResNet101", "ResNet152", "ResNet50V2", "ResNet101V2", "ResNet152V2"])
def test_whole_networks(tmp_path, name):
    keras.utils.set_random_seed(0)
    net = getattr(keras.applications, name)(
        weights=None, input_shape=(64, 64, 3), classes=7, classifier_activation=None
    )
    v2 = name.endswith("V2")
    _, options = OPTIONS["v2" if v2 else "v1"]
    options = {k: v for k, v in options.items() if k not in ("depths", "width", "stem_width")} | {"num_classes": 7}
    ours = name.lower().replace("resnet", "resnetv2_").removesuffix("v2") if v2 else name.lower()
    model = zoo.create_model(ours, **options)
    save(net, tmp_path / "x.weights.h5")
    done = import_weights(model, tmp_path / "x.weights.h5")
    lines = peers.verify(tmp_path / "x.weights.h5", model, done, ours)  # what --verify says
    assert f"of keras.applications.{name}'s, relative to the largest" in lines
    assert "maps of 5 stages within" in lines
    done.variables["params"]["stem"]["bias"] += 1
    with pytest.raises(zoo.UserError, match="at most 1e-04 is rounding"):
        peers.verify(tmp_path / "x.weights.h5", model, done, ours)


def test_verify_a_stack_of_layers(tmp_path):
    """A `.keras` file has its network in it, whose softmax is left out, and tells another activation."""
    keras.utils.set_random_seed(0)
    dense = [keras.layers.Dense(9, activation="relu"), keras.layers.Dense(3, activation="softmax")]
    net = keras.Sequential([keras.Input((4, 5, 3)), keras.layers.Flatten(), *dense])
    options = {"widths": (9,), "num_classes": 3}
    for name in ("x.keras", "x.weights.h5"):
        save(net, tmp_path / name)
    model = zoo.create_model("mlp", **options)
    done = import_weights(model, tmp_path / "x.keras", input=(4, 5, 3))
    assert "logits within" in peers.verify(tmp_path / "x.keras", model, done, "mlp")
    with pytest.raises(zoo.UserError, match="at most 1e-04 is rounding"):
        peers.verify(tmp_path / "x.keras", model.clone(activation="tanh"), done, "mlp")
    with pytest.raises(zoo.UserError, match="has weights without their network"):
        peers.verify(tmp_path / "x.weights.h5", model, done, "mlp")


def recurrent(bidirectional):
    keras.utils.set_random_seed(0)
    lstm = keras.layers.LSTM(5, return_sequences=True)
    layers = [keras.layers.Embedding(11, 6), keras.layers.Bidirectional(lstm) if bidirectional else lstm]
    net = keras.Sequential([*layers, keras.layers.LSTM(5, return_sequences=True)][: 2 if bidirectional else 3])
    net.add(keras.layers.Dense(11))
    net.build((None, 7))
    return net


@pytest.mark.parametrize("name", ["x.weights.h5", "x.h5", "x.keras"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_lstm(tmp_path, name, bidirectional):
    net = recurrent(bidirectional)
    options = {"num_classes": 11, "width": 5, "embed_dim": 6}
    if bidirectional:
        model = zoo.create_model("lstm_classifier", vocab_size=11, pool="mean", **options)
    else:
        model = zoo.create_model("lstm_lm", **options)
    save(net, tmp_path / name)
    done = import_weights(model, tmp_path / name)
    assert done.rules == "layers of Keras in their order"
    token = np.random.default_rng(0).integers(0, 11, (3, 7)).astype(np.int32)
    wanted = np.asarray(net(token))
    close(jit(model.apply)(done.variables, token), wanted.mean(1) if bidirectional else wanted)
    if name == "x.keras" and not bidirectional:
        assert "logits within" in peers.verify(tmp_path / name, model, done, "lstm_lm")
    if name != "x.keras":
        variables = random_variables(model, (7,))
        zoo.save_weights(tmp_path / name, model, variables, layout="keras")
        net.load_weights(tmp_path / name)
        wanted = np.asarray(net(token))
        close(jit(model.apply)(variables, token), wanted.mean(1) if bidirectional else wanted)
        equal(import_weights(model, tmp_path / name).variables, variables)


def dense(*names):
    """Trained layers with shapes that tell nothing, BN and dropout between."""
    keras.utils.set_random_seed(0)
    parts = [[keras.layers.Dense(6, name=name), keras.layers.BatchNormalization()] for name in names[:-1]]
    parts = [part for pair in parts for part in (*pair, keras.layers.ReLU(), keras.layers.Dropout(0.1))]
    net = keras.Sequential([keras.Input((6,)), *parts, keras.layers.Dense(6, name=names[-1])])
    net.compile(optimizer="adam", loss="mse")
    net.fit(np.ones((8, 6)), np.ones((8, 6)), verbose=0)
    return net


@pytest.mark.parametrize("name", ["x.weights.h5", "x.h5", "x.keras"])
@pytest.mark.parametrize("names", [("zz", "aa", "out"), ("dense_7", "dense_3", "dense")])
def test_a_trained_stack_with_names_of_its_own(tmp_path, name, names):
    """By the order of the layers in the file; what the optimizer remembers is left out."""
    net = dense(*names)
    save(net, tmp_path / name)
    model = zoo.create_model("mlp", widths=(6, 6), num_classes=6, norm="batch", norm_eps=1e-3)
    done = import_weights(model, tmp_path / name, input=(6,))
    (note,) = done.notes
    assert note.startswith("optimizer and the like left out (")
    x = np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)
    close(jit(model.apply)(done.variables, x), net(x, training=False))


NORMS = {"batch": ("BatchNormalization", {}), "layer": ("LayerNormalization", {})}
NORMS["group:3"] = ("GroupNormalization", {"groups": 3})


@pytest.mark.parametrize("norm", NORMS)
def test_normalizations(tmp_path, capsys, norm):
    """Their epsilon is in the files that hold the network; of the others, and of an export, it is told."""
    kind, options = NORMS[norm]
    layers = [keras.layers.Dense(6), getattr(keras.layers, kind)(**options), keras.layers.ReLU(), keras.layers.Dense(3)]
    net = keras.Sequential([keras.Input((4,)), *layers])
    ours, keras_has = ({"widths": (6,), "num_classes": 3, "norm": norm} | eps for eps in ({}, {"norm_eps": 1e-3}))
    model, other = zoo.create_model("mlp", **keras_has), zoo.create_model("mlp", **ours)
    note = "norm_eps=0.001 is usual for layers of Keras in their order; the model has 1e-05, and the file cannot tell"
    x = 0.05 * np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
    for name in ("x.keras", "x.h5", "x.weights.h5"):
        save(net, tmp_path / name)
        if name == "x.weights.h5":
            assert import_weights(other, tmp_path / name).notes == [f"{note} which is right"]
        else:
            with pytest.raises(zoo.UserError, match=r"their order; the model must have norm_eps=0.001, not 1e-05"):
                import_weights(other, tmp_path / name)
        done = import_weights(model, tmp_path / name)
        assert done.notes == []
        close(jit(model.apply)(done.variables, x), net(x, training=False))
    variables = random_variables(model, (4,))
    for name in ("ours.h5", "ours.weights.h5"):
        zoo.save_weights(tmp_path / name, model, variables, layout="keras")
        net.load_weights(tmp_path / name)
        close(jit(model.apply)(variables, x), net(x, training=False))
        assert capsys.readouterr().out == ""
        zoo.save_weights(tmp_path / name, other, variables, layout="keras")
        assert note in capsys.readouterr().out
    layers[1].epsilon = 1e-5
    close(jit(other.apply)(variables, x), net(x, training=False))


def test_normalizations_of_two_kinds_are_refused(tmp_path):
    norms = [keras.layers.BatchNormalization(epsilon=epsilon) for epsilon in (1e-3, 1e-5)]
    dense = [keras.layers.Dense(4) for _ in range(3)]
    net = keras.Sequential([keras.Input((4,)), dense[0], norms[0], dense[1], norms[1], dense[2]])
    save(net, tmp_path / "x.keras")
    model = zoo.create_model("mlp", widths=(4, 4), num_classes=4, norm="batch")
    with pytest.raises(zoo.UserError, match=r"x.keras: its normalizations have epsilons of 1e-05 and 0.001, the model"):
        import_weights(model, tmp_path / "x.keras")


@pytest.mark.parametrize(
    "layer, norm, shown",
    [
        (keras.layers.GroupNormalization(2), "group:3", r"GroupNormalization\(groups=2\)"),
        (keras.layers.GroupNormalization(2), "layer", r"GroupNormalization\(groups=2\)"),
        (keras.layers.LayerNormalization(), "group:3", r"LayerNormalization\(\)"),
    ],
)
def test_normalizations_of_another_kind_are_refused(tmp_path, layer, norm, shown):
    """Their names are alike in a legacy file, and the shapes everywhere."""
    net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6), layer, keras.layers.Dense(3)])
    save(net, tmp_path / "x.h5")
    model = zoo.create_model("mlp", widths=(6,), num_classes=3, norm=norm, norm_eps=1e-3)
    with pytest.raises(zoo.UserError, match=f"x.h5: its normalizations are {shown}; the model has norm={norm!r}"):
        import_weights(model, tmp_path / "x.h5")
