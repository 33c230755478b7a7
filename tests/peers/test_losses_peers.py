"""Losses and their gradients against PyTorch and Keras."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import numpy as np
import pytest

from zoo import losses

torch = pytest.importorskip("torch")
F = torch.nn.functional
ROWS = 12
rng = np.random.default_rng(0)


def both(ours, theirs, x):
    """Value and gradient of the sum, ours and PyTorch's."""
    value, gradient = jax.value_and_grad(lambda x: ours(x).sum())(x)
    tensor = torch.tensor(x, requires_grad=True)
    total = theirs(tensor).sum()
    total.backward()
    np.testing.assert_allclose(value, total.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=1e-4, atol=1e-5)


LABEL = rng.integers(5, size=ROWS)
YES = torch.tensor(np.eye(5, dtype=np.float32)[LABEL])


@pytest.mark.parametrize(
    "name, options, theirs",
    [
        ("cross_entropy", {}, lambda z: F.cross_entropy(z, torch.tensor(LABEL), reduction="none")),
        (
            "cross_entropy",
            {"label_smoothing": 0.3},
            lambda z: F.cross_entropy(z, torch.tensor(LABEL), reduction="none", label_smoothing=0.3),
        ),
        (
            "binary_cross_entropy",
            {},
            lambda z: F.binary_cross_entropy_with_logits(z, YES, reduction="none").mean(-1),
        ),
    ],
)
def test_classification(name, options, theirs):
    logits = np.float32(3 * rng.standard_normal((ROWS, 5)))
    both(lambda z: losses.CLASSIFICATION[name](z, LABEL, **options), theirs, logits)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_classification_by_one_logit(label_smoothing):
    label = np.float32(LABEL % 2)
    target = torch.tensor(label * (1 - label_smoothing) + label_smoothing / 2)[:, None]
    for name in ("cross_entropy", "binary_cross_entropy"):
        both(
            lambda z, name=name: losses.CLASSIFICATION[name](z, label, label_smoothing=label_smoothing),
            lambda z: F.binary_cross_entropy_with_logits(z, target, reduction="none"),
            np.float32(3 * rng.standard_normal((ROWS, 1))),
        )


@pytest.mark.parametrize(
    "name, options, theirs",
    [
        ("mse", {}, lambda p, t: F.mse_loss(p, t, reduction="none")),
        ("mae", {}, lambda p, t: F.l1_loss(p, t, reduction="none")),
        ("huber", {"delta": 0.7}, lambda p, t: F.huber_loss(p, t, reduction="none", delta=0.7)),
        ("poisson", {}, lambda p, t: F.poisson_nll_loss(p, t, reduction="none")),
    ],
)
def test_regression(name, options, theirs):
    prediction, target = np.float32(2 * rng.standard_normal((2, 50)))
    target = np.abs(np.round(target)) if name == "poisson" else target
    both(
        lambda p: losses.REGRESSION[name](p, target, **options),
        lambda p: theirs(p, torch.tensor(target)),
        prediction,
    )


def test_kl_divergence():
    target = np.float32(rng.dirichlet(np.ones(5), ROWS))
    both(
        lambda z: losses.kl_divergence(z, target),
        lambda z: F.kl_div(F.log_softmax(z, -1), torch.tensor(target), reduction="none").sum(-1),
        np.float32(2 * rng.standard_normal((ROWS, 5))),
    )


def test_ctc():
    """Rows of different lengths, repeated tokens among them."""
    steps, lengths = np.array([15, 9, 12, 15]), np.array([5, 3, 1, 4])
    token = np.where(np.arange(5) < lengths[:, None], rng.integers(1, 4, (4, 5)), -1)
    keep = np.arange(15) < steps[:, None]
    logits = np.float32(rng.standard_normal((4, 15, 4)))

    def theirs(z):
        log_p = F.log_softmax(z, -1).transpose(0, 1)  # [T, B, C]
        lengths_of = (torch.tensor(n) for n in (steps, lengths))
        return F.ctc_loss(log_p, torch.tensor(np.maximum(token, 0)), *lengths_of, reduction="none")

    both(lambda z: losses.ctc(z, token, keep), theirs, logits)


@pytest.mark.filterwarnings("ignore")  # of Keras about JAX
def test_those_of_keras():
    keras = pytest.importorskip("keras")
    logits, yes = np.float32(rng.standard_normal((ROWS, 5))), np.eye(5, dtype=np.float32)[LABEL]

    def compare(ours, theirs, x):
        for mine, other in zip(
            *(jax.value_and_grad(lambda x, f=f: f(x).sum())(x) for f in (ours, theirs)), strict=True
        ):
            np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)

    compare(
        lambda z: losses.focal(z, LABEL, gamma=1.5),
        lambda z: keras.losses.categorical_focal_crossentropy(yes, z, alpha=1.0, gamma=1.5, from_logits=True),
        logits,
    )
    compare(
        lambda z: losses.focal(z, LABEL % 2, alpha=0.25),
        lambda z: keras.losses.binary_focal_crossentropy(
            np.float32(LABEL % 2)[:, None], z, apply_class_balancing=True, alpha=0.25, gamma=2.0, from_logits=True
        ),
        logits[:, :1],
    )
    compare(lambda z: losses.squared_hinge(z, LABEL), lambda z: keras.losses.squared_hinge(2 * yes - 1, z), logits)
    compare(  # where every logit is above 0, Keras's is the same
        lambda z: losses.categorical_hinge(z, LABEL), lambda z: keras.losses.categorical_hinge(yes, z), logits + 10
    )
    prediction, target = np.float32(3 * rng.standard_normal((2, 20)))
    compare(
        lambda p: losses.log_cosh(p, target)[None].mean(-1), lambda p: keras.losses.log_cosh(target[None], p[None]),
        prediction,
    )  # fmt: skip
