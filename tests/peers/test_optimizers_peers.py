"""The optimizers against those of PyTorch and Keras: 20 steps on a small problem with changing rates."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zoo import optim

STEPS = 20
RATES = np.float32(0.1 * np.sin(np.pi * (1 + np.arange(STEPS)) / (STEPS + 1)))  # rise, then fall
CONSTANT = np.full(STEPS, 0.05, np.float32)
POINTS = np.float32(np.random.default_rng(1).standard_normal(STEPS))
NORMAL = np.random.default_rng(0).standard_normal
PARAMS = {"dense1": {"bias": np.float32(NORMAL(3)), "kernel": np.float32(NORMAL((4, 3)))}}
DECAY = {"weight_decay": 0.1, "wd_mults": ((".*", 1.0),)}


def gradient(param, x):
    """Of a bowl around `x`, steeper for matrices."""
    return np.float32((1 + param.ndim) / 5 * (param - x))


def trained(name, rates, params=PARAMS, **options):
    """Parameters after all steps."""
    tx = optim.make({"name": name, **options}, lambda step: jnp.asarray(rates)[step], params)
    state = tx.init(params)
    update = jax.jit(tx.update)
    for x in POINTS:
        updates, state = update(jax.tree.map(lambda p, x=x: gradient(np.asarray(p), x), params), state, params)
        params = optax.apply_updates(params, updates)
    return params


def assert_close(found, wanted, rtol=1e-4, atol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), found, wanted)


# --- PyTorch ---------------------------------------------------------------------------------------------------


def by_torch(make, rates, params=PARAMS):
    torch = pytest.importorskip("torch")

    def of_leaf(array):
        tensor = torch.nn.Parameter(torch.tensor(array))
        optimizer = make(torch.optim)([tensor])
        for rate, x in zip(rates, POINTS, strict=True):
            optimizer.param_groups[0]["lr"] = float(rate)
            tensor.grad = torch.tensor(gradient(tensor.detach().numpy(), x))
            optimizer.step()
        return tensor.detach().numpy()

    return jax.tree.map(of_leaf, params)


def of(name, **options):
    """Of `torch.optim`, with a rate that is set before each step."""
    return lambda module: lambda params: getattr(module, name)(params, lr=1.0, **options)


TINY = 1e-12  # where PyTorch adds eps outside of a root, optax inside
TORCH = [
    ("sgd", {}, of("SGD", weight_decay=0.1)),
    ("momentum", {}, of("SGD", momentum=0.9, weight_decay=0.1)),
    ("nesterov", {}, of("SGD", momentum=0.9, nesterov=True, weight_decay=0.1)),
    ("adagrad", {"initial_accumulator": 0.1, "eps": TINY},
     of("Adagrad", initial_accumulator_value=0.1, eps=TINY, weight_decay=0.1)),
    ("adadelta", {}, of("Adadelta", weight_decay=0.1)),
    ("rmsprop", {"rho": 0.99, "eps": TINY}, of("RMSprop", eps=TINY, weight_decay=0.1)),
    ("rmsprop", {"eps": TINY, "momentum": 0.9}, of("RMSprop", alpha=0.9, eps=TINY, momentum=0.9, weight_decay=0.1)),
    ("adam", {}, of("Adam", weight_decay=0.1)),
    ("adamax", {}, of("Adamax", weight_decay=0.1)),
    ("nadam", {}, of("NAdam", momentum_decay=1e9, weight_decay=0.1)),  # a decay that ends its schedule at once
    ("adamw", {}, of("AdamW", weight_decay=0.1)),
]  # fmt: skip


@pytest.mark.parametrize("name, options, make", TORCH, ids=lambda x: x if isinstance(x, str) else "")
def test_as_in_torch(name, options, make):
    assert_close(trained(name, RATES, **DECAY, **options), by_torch(make, RATES))


@pytest.mark.parametrize("rms, adjust", [(0.2, "match_rms_adamw"), (0.0, "original")])
def test_muon_as_in_torch(rms, adjust):
    """Without Nesterov's momentum, which optax corrects for its start; PyTorch iterates in bfloat16."""
    kernel = {"conv": {"kernel": np.float32(NORMAL((3, 8)))}}
    transposed = {"kernel": kernel["conv"]["kernel"].T}  # [out, in]
    wanted = by_torch(of("Muon", nesterov=False, adjust_lr_fn=adjust, weight_decay=0.1), RATES, transposed)
    found = trained("muon", RATES, kernel, nesterov=False, rms=rms, **DECAY)["conv"]["kernel"]
    np.testing.assert_allclose(found, wanted["kernel"].T, atol=0.02)
    assert np.abs(found - kernel["conv"]["kernel"]).max() > 0.3


# --- Keras -----------------------------------------------------------------------------------------------------


def by_keras(make, rates, params=PARAMS):
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")

    def of_leaf(array):
        variable = keras.Variable(array)
        optimizer = make(keras.optimizers)
        optimizer.build([variable])
        for rate, x in zip(rates, POINTS, strict=True):
            optimizer.learning_rate = float(rate)
            optimizer.apply([gradient(np.asarray(variable), x)], [variable])
        return np.asarray(variable)

    return jax.tree.map(of_leaf, params)


def keras_of(name, **options):
    return lambda module: getattr(module, name)(**options)


KERAS = [
    ("momentum", {"form": "keras"}, keras_of("SGD", momentum=0.9), RATES),
    ("nesterov", {"form": "keras", "momentum": 0.8}, keras_of("SGD", momentum=0.8, nesterov=True), RATES),
    ("adagrad", {}, keras_of("Adagrad"), RATES),
    ("adadelta", {"rho": 0.95, "eps": 1e-7}, keras_of("Adadelta"), RATES),
    ("rmsprop", {"eps": 1e-7}, keras_of("RMSprop"), RATES),
    ("rmsprop", {"eps": 1e-7, "centered": True, "momentum": 0.9, "form": "keras"},
     keras_of("RMSprop", centered=True, momentum=0.9), RATES),
    ("lion", DECAY, keras_of("Lion", weight_decay=0.1), RATES),
    ("lamb", {"eps": 1e-7}, keras_of("Lamb"), RATES),
    ("ftrl", {"initial_accumulator": 0.1, "l1": 0.1, "l2": 0.2, "beta": 0.3},
     keras_of("Ftrl", l1_regularization_strength=0.1, l2_regularization_strength=0.2, beta=0.3), CONSTANT),
    ("schedule_free_adamw", {"eps": 1e-7}, keras_of("ScheduleFreeAdamW", warmup_steps=0), CONSTANT),
]  # fmt: skip


@pytest.mark.parametrize("name, options, make, rates", KERAS, ids=lambda x: x if isinstance(x, str) else "")
def test_as_in_keras(name, options, make, rates):
    assert_close(trained(name, rates, **options), by_keras(make, rates))


def test_ftrl_under_a_falling_rate():
    """Why ours is not Keras's: there, the weights shrink with the rate, though no gradient asks for it."""
    rates = np.float32([0.5] * 10 + [0.005] * 10)
    ours, keras = (f["dense1"]["bias"] for f in (trained("ftrl", rates), by_keras(keras_of("Ftrl"), rates)))
    adagrad = trained("adagrad", rates, initial_accumulator=0.0, eps=0.0)["dense1"]["bias"]
    assert np.abs(keras).max() < 0.1 * np.abs(adagrad).max()
    np.testing.assert_allclose(ours, adagrad, atol=0.1)
