"""Every option of every optimizer, and those that no library here has, against the equations of their papers."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zoo import optim

STEPS = 20
RATES = np.float32(0.1 * np.sin(np.pi * (1 + np.arange(STEPS)) / (STEPS + 1)))  # rise, then fall
POINTS = np.random.default_rng(1).standard_normal(STEPS)


@pytest.fixture(scope="module")
def params():
    normal = np.random.default_rng(0).standard_normal
    return {"dense1": {"bias": np.float32(normal(3)), "kernel": np.float32(normal((4, 3)))}}


def gradient(param, x):
    """Of a bowl around `x`, steeper for matrices."""
    return (1 + param.ndim) / 5 * (param - x)


def trained(params, name, *, rates=RATES, steps=STEPS, points=POINTS, **options):
    """Parameters and optimizer state after some steps."""
    tx = optim.make({"name": name, **options}, lambda step: jnp.asarray(rates)[step], params)
    state = tx.init(params)
    for x in np.float32(points[:steps]):
        updates, state = tx.update(jax.tree.map(lambda p, x=x: gradient(p, x), params), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def assert_close(found, wanted, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), found, wanted)


def by_paper(params, transcription, points=POINTS, rates=RATES):
    """Each parameter in float64 through `transcription(param, gradient, rates) -> param`."""

    def of_leaf(param):
        grads = lambda p, t: gradient(p, points[t])  # noqa: E731
        return transcription(np.float64(param), grads, np.float64(rates))

    return jax.tree.map(of_leaf, params)


# --- options ---------------------------------------------------------------------------------------------------

OTHER = {
    "b1": 0.5, "b2": 0.8, "beta": 0.5, "bias_correction": False, "centered": True, "eps": 0.01, "form": "keras",
    "initial_accumulator": 0.5, "l1": 0.3, "l2": 0.3, "momentum": 0.5, "nesterov": None, "ns_steps": 2, "rho": 0.5,
    "rms": 0.0, "trust": 0.01, "weight_power": 0.0,
}  # fmt: skip
OPTIONS = [
    (name, option)
    for name, fn in optim.OPTIMIZERS.items()
    for option in inspect.signature(fn).parameters
    if option not in ("decay", "rate")
]


@pytest.mark.parametrize("name, option", OPTIONS)
def test_every_option_has_an_effect(params, name, option):
    given = {"momentum": 0.9} if option in ("form", "nesterov") and name in ("sgd", "rmsprop") else {}
    given = {"trust": 1.0} if (name, option) == ("lars", "eps") else given
    default = inspect.signature(optim.OPTIMIZERS[name]).parameters[option].default
    other = not default if option == "nesterov" else OTHER[option]
    usual, _ = trained(params, name, steps=5, **given)
    changed, _ = trained(params, name, steps=5, **given, **{option: other})
    differences = jax.tree.map(lambda a, b: np.abs(a - b).max(), usual, changed)
    assert max(jax.tree.leaves(differences)) > 1e-5


def test_muon_leaves_vectors_embeddings_and_the_head_to_adam(params):
    kernel = params["dense1"]["kernel"]
    tree = {
        **params,
        "embed": {"embedding": kernel},
        "head": {"kernel": kernel},
        "conv": {"kernel": kernel[None, None]},
    }
    found, _ = trained(tree, "muon")
    by_adam, _ = trained(tree, "adam", nesterov=True)
    for path in (("dense1", "bias"), ("embed", "embedding"), ("head", "kernel")):
        assert_close(found[path[0]][path[1]], by_adam[path[0]][path[1]])
    # A convolution of one pixel is a matrix.
    assert_close(found["conv"]["kernel"][0, 0], trained(params, "muon")[0]["dense1"]["kernel"], atol=1e-5)
    assert not np.allclose(found["dense1"]["kernel"], by_adam["dense1"]["kernel"], atol=1e-3)


def test_the_forms_of_momentum_differ_when_the_rate_changes(params):
    constant = np.full(STEPS, 0.05, np.float32)
    for options in ({}, {"momentum": 0.5}):
        forms = [trained(params, "momentum", form=form, rates=constant, **options)[0] for form in ("pytorch", "keras")]
        assert_close(*forms, rtol=1e-4)


# --- papers ----------------------------------------------------------------------------------------------------


def lars(param, grad, rates, momentum=0.9, trust=0.02, decay=0.1):
    velocity = np.zeros_like(param)
    for t, rate in enumerate(rates):
        g = grad(param, t) + decay * param
        ratio = trust * np.linalg.norm(param) / np.linalg.norm(g) if param.ndim > 1 else 1
        velocity = momentum * velocity + rate * ratio * g
        param = param - velocity
    return param


def lamb(param, grad, rates, b1=0.9, b2=0.999, eps=1e-6, decay=0.1):
    m = v = np.zeros_like(param)
    for t, rate in enumerate(rates):
        g = grad(param, t)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        direction = m / (1 - b1 ** (t + 1)) / (np.sqrt(v / (1 - b2 ** (t + 1))) + eps) + decay * param
        param = param - rate * np.linalg.norm(param) / np.linalg.norm(direction) * direction
    return param


def amsgrad(param, grad, rates, corrected=False, b1=0.9, b2=0.8, eps=1e-8):
    m = v = most = np.zeros_like(param)
    for t, rate in enumerate(rates):
        g = grad(param, t)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        most = np.maximum(most, v / (1 - b2 ** (t + 1)) if corrected else v)
        param = param - rate * (m / (1 - b1 ** (t + 1)) if corrected else m) / (np.sqrt(most) + eps)
    return param


def muon(param, grad, rates, beta=0.95, rms=0.2, decay=0.1):
    m = np.zeros_like(param)
    for t, rate in enumerate(rates):
        g = grad(param, t)
        m = beta * m + (1 - beta) * g
        ahead = beta * m / (1 - beta ** (t + 2)) + (1 - beta) * g / (1 - beta ** (t + 1))
        x = ahead.T / np.linalg.norm(ahead)  # wide, as 4 x 3 kernels are tall
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        param = param - rate * (rms * np.sqrt(max(param.shape)) * x.T + decay * param)
    return param


def schedule_free(param, grad, rates, b1=0.9, power=2, decay=0.1):
    """(x, y): SGD, algorithm of Defazio et al. 2024 with weights lr_max ** power."""
    x = z = param
    total = 0
    for t in range(len(rates)):
        y = (1 - b1) * z + b1 * x
        z = z - rates[t] * (grad(y, t) + decay * y)
        weight = max(rates[: t + 1]) ** power
        total += weight
        x = x + weight / total * (z - x)
    return np.stack([x, (1 - b1) * z + b1 * x])


EVERYWHERE = {"weight_decay": 0.1, "wd_mults": ((".*", 1.0),)}


@pytest.mark.parametrize(
    "name, options, paper",
    [
        ("lars", {"trust": 0.02, **EVERYWHERE}, lars),
        ("lamb", EVERYWHERE, lamb),
        ("amsgrad", {"bias_correction": False, "b2": 0.8}, amsgrad),
        ("amsgrad", {"b2": 0.8}, lambda *args: amsgrad(*args, corrected=True)),
    ],
)
def test_as_in_the_paper(params, name, options, paper):
    assert_close(trained(params, name, **options)[0], by_paper(params, paper), rtol=1e-4, atol=1e-5)


def test_muon_as_in_its_equations(params):
    kernel = {"dense1": {"kernel": params["dense1"]["kernel"]}}
    assert_close(trained(kernel, "muon", **EVERYWHERE)[0], by_paper(kernel, muon), rtol=1e-4, atol=1e-5)


def test_schedule_free_as_in_the_paper(params):
    found, state = trained(params, "schedule_free_sgd", **EVERYWHERE)
    wanted = by_paper(params, schedule_free)
    average = optim.schedule_free_average(state, found)
    assert_close(found, jax.tree.map(lambda xy: xy[1], wanted), rtol=1e-4, atol=1e-5)
    assert_close(average, jax.tree.map(lambda xy: xy[0], wanted), rtol=1e-4, atol=1e-5)
    assert not np.allclose(average["dense1"]["bias"], found["dense1"]["bias"], atol=1e-3)
    assert optim.schedule_free_average(trained(params, "adam")[1], params) is None


def test_schedule_free_starts_at_a_rate_of_zero(params):
    """A warmup: the first weight is 0 of 0."""
    rates = np.concatenate([[0], RATES[:-1]])
    found, _ = trained(params, "schedule_free_sgd", rates=rates, **EVERYWHERE)
    wanted = by_paper(params, lambda p, g, r: schedule_free(p, lambda w, t: g(w, t + 1), r[1:]), rates=rates)
    assert_close(found, jax.tree.map(lambda xy: xy[1], wanted), rtol=1e-4, atol=1e-5)


def test_ftrl_minimizes_the_regularized_sum(params):
    """Each step is the argmin of the paper's problem, from the whole history, under changing rates."""
    l1, l2, beta = 0.2, 0.1, 0.5
    past, w = [], np.float64(params["dense1"]["bias"])
    for t, rate in enumerate(np.float64(RATES)):
        past.append((gradient(w, POINTS[t]), w, rate))
        n = np.cumsum([g**2 for g, _, _ in past], axis=0)
        pulls = [
            np.sqrt(n[s]) / r - (np.sqrt(n[s - 1]) / past[s - 1][2] if s else 0) for s, (_, _, r) in enumerate(past)
        ]
        slope = sum(g for g, _, _ in past) - sum(p * at for p, (_, at, _) in zip(pulls, past, strict=True))
        curvature = sum(pulls) + beta / rate + 2 * l2
        w = -np.sign(slope) * np.maximum(np.abs(slope) - l1, 0) / curvature
    found, _ = trained(params, "ftrl", l1=l1, l2=l2, beta=beta)
    np.testing.assert_allclose(found["dense1"]["bias"], w, rtol=1e-4, atol=1e-5)


def test_ftrl_without_penalties_is_adagrad_at_a_constant_rate(params):
    rates = np.full(STEPS, 0.05, np.float32)
    wanted, _ = trained(params, "adagrad", initial_accumulator=0.0, eps=0.0, rates=rates)
    assert_close(trained(params, "ftrl", rates=rates)[0], wanted, rtol=1e-4, atol=1e-5)


def test_ftrl_gives_exact_zeros(params):
    found, _ = trained(params, "ftrl", l1=1000.0)
    assert not np.any(found["dense1"]["kernel"])


def test_ftrl_at_a_rate_of_zero_stands_still(params):
    rates = np.concatenate([[0, 0], RATES])
    points = np.concatenate([[5, 5], POINTS])
    found, _ = trained(params, "ftrl", rates=rates, points=points, steps=STEPS + 2)
    assert_close(found, trained(params, "ftrl")[0], rtol=0, atol=0)
    zero = trained(params, "ftrl", rates=np.zeros(3), steps=3)[0]
    assert_close(zero, params, rtol=0, atol=0)
