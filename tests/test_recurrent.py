"""Recurrent layers: their equations, gradients, masks, directions and dropout."""

# ruff: noqa: N803

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import rules
from zoo.models import recurrent
from zoo.models.recurrent import CELLS, Recurrent

B, T, D, H = 3, 5, 4, 6
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
X = np.random.default_rng(0).standard_normal((B, T, D)).astype(np.float32)
LENGTHS = np.array([5, 2, 3])
KEEP = np.arange(T)[None] < LENGTHS[:, None]


def random(model, x=X, seed=1):
    normal = np.random.default_rng(seed).standard_normal
    shapes = jax.eval_shape(lambda x: model.init({"params": jax.random.key(0)}, x), x)
    return jax.tree.map(lambda s: (0.5 * normal(s.shape)).astype(np.float32), shapes)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_hand(cell, params, x_TD):
    """One sequence in float64, step by step and gate by gate: the states [T, H]."""
    w, u = (params[name]["kernel"].astype(np.float64) for name in ("input", "recurrent"))
    b = params["input"]["bias"].astype(np.float64)
    v = params["recurrent"].get("bias", np.zeros_like(b)).astype(np.float64)
    h, c, states = np.zeros(H), np.zeros(H), []
    for x in x_TD:
        a, r = (np.split(part, CELLS[cell].gates) for part in (x @ w + b, h @ u + v))
        if cell == "lstm":
            i, f, o = (sigmoid(a[k] + r[k]) for k in (0, 1, 3))
            c = f * c + i * np.tanh(a[2] + r[2])
            h = o * np.tanh(c)
        elif cell == "gru":
            reset, update = sigmoid(a[0] + r[0]), sigmoid(a[1] + r[1])
            h = (1 - update) * np.tanh(a[2] + reset * r[2]) + update * h
        else:
            h = np.tanh(a[0] + r[0])
        states.append(h)
    return np.array(states)


@pytest.mark.parametrize("biases", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_states_by_hand_with_padding_and_both_directions(cell, biases):
    model = Recurrent(width=H, cell=cell, biases=biases, bidirectional=True)
    params = random(model)["params"]
    assert ("bias" in params["layer1"]["recurrent"]) == (biases == 2)
    carry, h = jit(partial(model.apply, keep_BT=KEEP))({"params": params}, X)
    for row, length in enumerate(LENGTHS):
        there = by_hand(cell, params["layer1"], X[row, :length])
        back = by_hand(cell, params["layer1_reverse"], X[row, :length][::-1])[::-1]
        np.testing.assert_allclose(h[row, :length], np.concatenate([there, back], -1), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(h[row, length:], 0)
        np.testing.assert_allclose(carry["layer1"]["h"][row], there[-1], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(carry["layer1_reverse"]["h"][row], back[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_are_those_of_a_plain_scan(cell, reverse):
    """Of every argument, with padding, dropout of h and a gradient that comes through the last carry too."""
    rng, cell = np.random.default_rng(2), CELLS[cell]
    columns = cell.gates * H
    shapes = [(T, B, columns), (H, columns), (columns,)]
    carry = {key: jnp.asarray(rng.standard_normal((B, H)), jnp.float32) for key in cell.carry}
    arguments = (carry, *(jnp.asarray(0.5 * rng.standard_normal(shape), jnp.float32) for shape in shapes))
    keep, drop = KEEP.T[..., None], jnp.asarray(rng.random((B, H)), jnp.float32)
    weight = jnp.asarray(rng.standard_normal((T, B, H)), jnp.float32)

    def plain(carry, inputs, kernel, bias):
        def step(carry, xs):
            x, keep = xs
            new = cell.step(carry, x, (carry["h"] * drop) @ kernel + bias[None])
            new = {key: jnp.where(keep, new[key], carry[key]) for key in carry}
            return new, new["h"]

        return jax.lax.scan(step, carry, (inputs, keep), reverse=reverse)

    def ours(*arguments):
        return recurrent.run(cell, reverse, jnp.float32, *arguments, keep, drop)

    def scalar(fn, *arguments):
        last, h = fn(*arguments)
        return jnp.sum(weight * h) + sum(jnp.sum(jnp.sin(x)) for x in last.values())

    found, wanted = (jit(jax.value_and_grad(partial(scalar, fn), (0, 1, 2, 3)))(*arguments) for fn in (ours, plain))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        assert np.abs(b).max() > 1e-2


def test_only_the_recurrent_product_is_in_the_loop():
    """One matrix product in the loop of the forward and of the backward pass, and none that adds up a gradient."""
    model = Recurrent(width=H)
    variables = random(model)

    def loss(variables, x):
        return model.apply(variables, x)[1].sum()

    scans = [e for e in jaxprs(jax.make_jaxpr(jax.grad(loss))(variables, X).jaxpr) if e.primitive.name == "scan"]
    assert len(scans) == 2
    for scan in scans:
        inner = list(jaxprs(scan.params["jaxpr"].jaxpr))
        products = [equation for equation in inner if equation.primitive.name == "dot_general"]
        assert [p.outvars[0].aval.shape[0] for p in products] == [B]


def jaxprs(jaxpr):
    """Every equation, inner ones too."""
    for equation in jaxpr.eqns:
        yield equation
        if equation.primitive.name == "scan":
            continue
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from jaxprs(inner)


def test_a_sequence_in_two_pieces_with_the_carry():
    model = Recurrent(width=H, depth=2)
    variables = random(model)
    _, whole = model.apply(variables, X)
    carry, first = model.apply(variables, X[:, :2])
    last, second = model.apply(variables, X[:, 2:], carry)
    np.testing.assert_allclose(np.concatenate([first, second], 1), whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(last["layer2"]["h"], whole[:, -1], rtol=1e-5, atol=1e-6)
    assert {len(leaf) for leaf in jax.tree.leaves(last)} == {B}


def test_how_the_weights_start():
    for options, scale in (({}, H**-0.5), ({"init_scale": 0.01}, 0.01)):
        model = Recurrent(width=H, forget_bias=1.5, **options)
        params = rules.flatten(model.init({"params": jax.random.key(0)}, X)["params"])
        for path, leaf in params.items():
            if path.endswith("kernel"):
                assert 0.8 * scale < np.abs(leaf).max() <= scale
        np.testing.assert_array_equal(params["layer1/input/bias"].reshape(4, H)[:, 0], [0, 1.5, 0, 0])


@pytest.mark.parametrize("variational", [False, True])
def test_dropout_is_on_what_enters_and_leaves_a_layer(variational):
    """Of the last output, whose mask can be seen; and the states inside differ from those without dropout."""
    model = Recurrent(width=H, dropout=0.5, variational=variational)
    variables, long = random(model), np.ones((2, 40, D), np.float32)
    carry, h = model.apply(variables, long, train=True, rngs={"dropout": jax.random.key(0)})
    zero = np.asarray(h) == 0
    assert 0.2 < zero.mean() < 0.8
    assert (zero == zero[:, :1]).all() == variational
    plain, _ = model.apply(variables, long)
    assert np.abs(carry["layer1"]["h"] - plain["layer1"]["h"]).max() > 1e-2


def test_recurrent_dropout_is_of_h_and_in_training_alone():
    model = Recurrent(width=H, recurrent_dropout=0.5)
    variables = random(model)
    plain = Recurrent(width=H).apply(variables, X)[1]
    np.testing.assert_array_equal(model.apply(variables, X)[1], plain)
    found = model.apply(variables, X, train=True, rngs={"dropout": jax.random.key(0)})[1]
    np.testing.assert_allclose(found[:, 0], plain[:, 0], rtol=1e-6)  # h is zero before the first step
    assert np.abs(found[:, 1:] - plain[:, 1:]).max() > 1e-2
