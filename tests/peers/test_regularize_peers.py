"""Penalties and constraints against those of Keras and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zoo import create_model, regularize, tasks
from zoo.constraints import CONSTRAINTS
from zoo.regularize import PENALTIES

OFF = {"penalties": (), "activity": (), "constraints": (), "sparsity": (), "sparsity_kind": "random"}
normal = np.random.default_rng(0).standard_normal
DENSE, CONV = np.float32(normal((7, 5))), np.float32(normal((3, 3, 4, 6)))


@pytest.fixture(scope="module")
def keras():
    return pytest.importorskip("keras")


# --- Keras -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("w", [DENSE, CONV], ids=["dense", "conv"])
def test_penalties_of_keras(keras, w):
    """Its l2 has no half, and its L1L2 takes both strengths."""
    k = keras.regularizers
    np.testing.assert_allclose(PENALTIES["l1"](0.3)(w), k.L1(0.3)(w), rtol=1e-5)
    np.testing.assert_allclose(PENALTIES["l2"](0.6)(w), k.L2(0.3)(w), rtol=1e-5)
    np.testing.assert_allclose(PENALTIES["elastic_net"](0.5, 0.2)(w), k.L1L2(l1=0.1, l2=0.2)(w), rtol=1e-5)


@pytest.mark.parametrize("w, axis", [(DENSE, 0), (CONV, [0, 1, 2])], ids=["dense", "conv"])
def test_constraints_of_keras(keras, w, axis):
    """Keras adds 1e-7 to the norms it divides by."""
    k = keras.constraints
    np.testing.assert_allclose(CONSTRAINTS["max_norm"](1.7)(w), k.MaxNorm(1.7, axis=axis)(w), rtol=2e-6)
    np.testing.assert_allclose(CONSTRAINTS["unit_norm"]()(w), k.UnitNorm(axis=axis)(w), rtol=2e-6)
    np.testing.assert_array_equal(CONSTRAINTS["non_negative"]()(w), k.NonNeg()(w))


@pytest.mark.parametrize("kind, values, peer", [
    ("max_norm", (0.9,), lambda k: k.MaxNorm(0.9, axis=0)), ("non_negative", (), lambda k: k.NonNeg()),
])  # fmt: skip
def test_training_as_in_keras(keras, kind, values, peer):
    """Steps of SGD on one batch with a penalty on the kernel, one on the outputs, and a constraint after each step."""
    x, y, lr = np.float32(normal((16, 7))), np.float32(normal((16, 1))), 0.2
    project = CONSTRAINTS[kind](*values)
    start = np.asarray(project(np.float32(normal((7, 1)))))

    layer = keras.layers.Dense(
        1, use_bias=False, kernel_regularizer=keras.regularizers.L2(0.05), kernel_constraint=peer(keras.constraints),
        activity_regularizer=keras.regularizers.L1(0.3),
    )  # fmt: skip
    network = keras.Sequential([keras.Input((7,)), layer])
    layer.set_weights([start])
    network.compile(keras.optimizers.SGD(lr), "mean_squared_error")
    wanted = []
    for _ in range(5):
        network.train_on_batch(x, y)
        wanted.append(np.asarray(layer.kernel.value))

    meta = {"name": "test", "target_mean": 0.0, "target_std": 1.0}
    task = tasks.make({"name": "regression"}, create_model("mlp", widths=(), num_classes=1), meta)
    params = {"head": {"kernel": start, "bias": np.zeros(1, np.float32)}}
    options = {
        "penalties": (("l2", ".*kernel", 0.1),),
        "activity": (("l1", "head", 0.3),),
        "constraints": ((kind, ".*kernel", *values),),
    }
    task, project, _ = regularize.make(
        {**OFF, **options}, task, params, {"head": {"kernel": "train", "bias": "freeze"}}, seed=0
    )
    batch = {"feature": x, "target": y[:, 0]}

    @jax.jit
    def step(params):
        # optax's squared_error is Keras's mean_squared_error for one output.
        grads = jax.grad(lambda p: task.loss(p, {}, batch, jax.random.key(0), train=True)[0])(params)
        kernel = params["head"]["kernel"] - lr * grads["head"]["kernel"]
        return project({"head": {"kernel": kernel, "bias": params["head"]["bias"]}})

    for kernel in wanted:
        params = step(params)
        np.testing.assert_allclose(params["head"]["kernel"], kernel, atol=2e-6)
    assert not np.allclose(wanted[-1], start, atol=1e-2)


# --- PyTorch ---------------------------------------------------------------------------------------------------


def test_max_norm_is_renorm_of_torch():
    torch = pytest.importorskip("torch")
    wanted = torch.renorm(torch.tensor(CONV), 2, 3, 1.7)  # each slice of the last axis
    np.testing.assert_allclose(CONSTRAINTS["max_norm"](1.7)(CONV), wanted.numpy(), rtol=1e-6)


def test_l2_is_the_weight_decay_of_torch_sgd():
    """Momentum too: the penalty is part of the gradient, as PyTorch's coupled weight decay is."""
    torch = pytest.importorskip("torch")
    target, tx = np.float32(normal(DENSE.shape)), optax.sgd(0.1, momentum=0.9)
    weight = torch.nn.Parameter(torch.tensor(DENSE))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=0.3)
    for _ in range(10):
        optimizer.zero_grad()
        ((weight - torch.tensor(target)) ** 2).sum().backward()
        optimizer.step()

    @jax.jit
    def train(w):
        def one(carry, _):
            w, state = carry
            grad = jax.grad(lambda w: jnp.sum((w - target) ** 2) + PENALTIES["l2"](0.3)(w))(w)
            update, state = tx.update(grad, state)
            return (w + update, state), None

        return jax.lax.scan(one, (w, tx.init(w)), length=10)[0][0]

    np.testing.assert_allclose(train(jnp.asarray(DENSE)), weight.detach().numpy(), rtol=1e-5, atol=1e-6)
