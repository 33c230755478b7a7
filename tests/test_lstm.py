"""The language model and the classifiers of sequences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import create_model, rules
from zoo.errors import UserError
from zoo.models.lstm import POOLS

jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
TOKENS = np.random.default_rng(0).integers(0, 11, (3, 6)).astype(np.int32)
TINY = {"width": 8, "init_scale": 0.5}
PADDED = np.where(np.arange(6)[None] < np.array([6, 2, 4])[:, None], TOKENS, -1)


def shapes(model, x):
    return jax.eval_shape(model.init, {"params": jax.random.key(0)}, x)


def count(model, x=TOKENS):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes(model, x)))


@pytest.mark.parametrize("width, parameters", [(200, 4_651_600), (650, 19_775_200), (1500, 66_022_000)])
def test_the_sizes_of_the_paper(width, parameters):
    assert count(create_model("lstm_lm", width=width)) == parameters


def test_options_that_change_the_parameters():
    base = create_model("lstm_lm", num_classes=11, width=8)
    tied, two = base.clone(tied=True), base.clone(biases=2)
    assert count(base) - count(tied) == 11 * 8
    assert count(two) - count(base) == 2 * 32
    assert shapes(base.clone(embed_dim=5), TOKENS)["params"]["embed"]["embedding"].shape == (11, 5)
    assert count(base.clone(cell="gru")) == count(base) - 2 * (8 * 8 * 2 + 8)
    assert count(base.clone(depth=1)) == count(base) - (2 * 8 * 32 + 32)
    features = base.clone(num_classes=0, embed_size=11)
    assert jax.eval_shape(features.init_with_output, {"params": jax.random.key(0)}, TOKENS)[0].shape == (3, 6, 8)


@pytest.mark.parametrize("options", [{}, {"tied": True, "cell": "gru", "biases": 2}, {"cell": "rnn"}])
def test_logits_depend_on_the_past_alone(options):
    model = create_model("lstm_lm", num_classes=11, **TINY, **options)
    variables = model.init({"params": jax.random.key(0)}, TOKENS)
    other = TOKENS.copy()
    other[:, 3] = (other[:, 3] + 1) % 11
    a, b = (jit(model.apply)(variables, x) for x in (TOKENS, other))
    assert a.shape == (3, 6, 11)
    np.testing.assert_array_equal(a[:, :3], b[:, :3])
    assert (np.abs(a - b)[:, 3:].max(-1) > 1e-4).all()


def test_a_tied_head_is_the_embedding():
    model = create_model("lstm_lm", num_classes=11, tied=True, **TINY)
    variables = model.init({"params": jax.random.key(0)}, TOKENS)
    states = model.clone(num_classes=0, embed_size=11, tied=False)
    bias = np.arange(11.0, dtype=np.float32)
    params = {**variables["params"], "head": {"bias": bias}}
    h = states.apply({"params": {k: v for k, v in params.items() if k != "head"}}, TOKENS)
    wanted = h @ params["embed"]["embedding"].T + bias[None, None]
    np.testing.assert_allclose(model.apply({"params": params}, TOKENS), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pool", ["last", "max"])
def test_what_leaves_the_last_layer_is_dropped_before_it_is_pooled(pool):
    options = {"vocab_size": 11, "num_classes": 0, "pool": pool, "width": 64, "dropout": 0.5, "variational": True}
    model = create_model("lstm_classifier", **options)
    variables = model.init({"params": jax.random.key(0)}, TOKENS)
    stretched = {**variables["params"], "embed": {"embedding": 50 * variables["params"]["embed"]["embedding"]}}
    pooled = model.apply({"params": stretched}, TOKENS[:, :1], train=True, rngs={"dropout": jax.random.key(1)})
    assert 0.3 < np.mean(pooled == 0) < 0.7
    assert pooled.min() < -1.05  # kept states are twice what they were


def test_an_empty_sequence_has_states_of_zero():
    model = create_model("lstm_classifier", vocab_size=11, num_classes=0, pool="max", **TINY)
    variables = model.init({"params": jax.random.key(0)}, TOKENS)
    np.testing.assert_array_equal(model.apply(variables, np.full((2, 6), -1, np.int32)), 0)


BFLOAT16 = {
    "lstm_lm": ({"num_classes": 11}, TOKENS),
    "tied": ({"num_classes": 11, "tied": True, "cell": "gru"}, TOKENS),
    "additive": ({"vocab_size": 11, "pool": "additive"}, PADDED),
    "mean": ({"vocab_size": 11, "pool": "mean", "cell": "rnn"}, PADDED),
}


@pytest.mark.parametrize("case", BFLOAT16)
def test_bfloat16_is_of_the_products_and_close_to_float32(case):
    """Forward and backward: operands of every product with a kernel, and nothing that comes out of one."""
    options, x = BFLOAT16[case]
    model = create_model("lstm_classifier" if "vocab_size" in options else "lstm_lm", **options, **TINY)
    rounded = model.clone(dtype="bfloat16")
    variables = model.init({"params": jax.random.key(0)}, x)
    assert jax.tree.map(lambda s: (s.shape, s.dtype), shapes(rounded, x)) == jax.tree.map(
        lambda s: (s.shape, s.dtype), shapes(model, x)
    )

    def loss(model, variables):
        return jnp.sum(jnp.sin(model.apply(variables, x)))

    (a, found), (b, wanted) = (jit(jax.value_and_grad(partial(loss, m)))(variables) for m in (rounded, model))
    assert a != b
    np.testing.assert_allclose(a, b, rtol=0.02, atol=0.02)
    for g, w in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert g.dtype == jnp.float32
        np.testing.assert_allclose(g, w, atol=0.03 * np.abs(w).max() + 1e-3)
    jaxpr = jax.make_jaxpr(jax.grad(partial(loss, rounded)))(variables).jaxpr
    products = [e for e in equations(jaxpr) if e.primitive.name == "dot_general"]
    of_kernels = [e for e in products if not e.params["dimension_numbers"][1][0]]  # attention's have a batch dimension
    assert len(of_kernels) >= 11
    assert {v.aval.dtype.name for e in of_kernels for v in e.invars} == {"bfloat16"}
    assert {v.aval.dtype.name for e in products for v in e.outvars} == {"float32"}


def equations(jaxpr):
    """Every equation, those of loops and custom gradients too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            if hasattr(inner := getattr(value, "jaxpr", value), "eqns"):
                yield from equations(inner)


@pytest.mark.parametrize("pool", POOLS)
def test_padding_changes_nothing(pool):
    model = create_model("lstm_classifier", vocab_size=11, embed_dim=5, pool=pool, depth=2, **TINY)
    variables = model.init({"params": jax.random.key(0)}, PADDED)
    padded = jit(model.apply)(variables, PADDED)
    longer = model.apply(variables, np.concatenate([PADDED, np.full((3, 2), -1, np.int32)], 1))
    steps = slice(None, 2 if pool == "none" else None)  # of row 1, the real ones: logits of every step or of the whole
    np.testing.assert_allclose(longer[1, steps], padded[1, steps], rtol=1e-4, atol=1e-5)
    short = model.apply(variables, PADDED[1:2, :2])
    np.testing.assert_allclose(short[0], padded[1, steps], rtol=1e-4, atol=1e-5)
    assert np.abs(padded - model.apply(variables, TOKENS))[1].max() > 1e-3  # and what is no padding does


@pytest.mark.parametrize("pool", ["additive", "dot"])
def test_attention(pool):
    """Weights are of the real states, add up to 1, and average the states; their scores by hand."""
    model = create_model("lstm_classifier", num_classes=0, vocab_size=11, embed_dim=5, pool=pool, **TINY)
    variables = model.init({"params": jax.random.key(0)}, PADDED)
    params = jax.tree.map(lambda x: 3 * x, variables["params"])
    pooled, weights = model.apply({"params": params}, PADDED, return_weights=True)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    assert ((np.asarray(weights) > 0) == (PADDED >= 0)).all()
    body = {name: params[name] for name in ("embed", "recurrent")}
    last = model.clone(pool="last").apply({"params": body}, PADDED)
    for row, length in enumerate((6, 2, 4)):
        one = PADDED[row : row + 1, :length]
        states = states_of(model, body, one)[0]
        keys, query = states @ params["key"]["kernel"], last[row] @ params["query"]["kernel"]
        if pool == "additive":
            scores = jnp.tanh(keys + (query + params["key"]["bias"])[None]) @ params["score"]["kernel"][:, 0]
        else:
            scores = keys @ query / np.sqrt(8)
        wanted = jax.nn.softmax(scores)
        np.testing.assert_allclose(weights[row, :length], wanted, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(pooled[row], wanted @ states, rtol=1e-3, atol=1e-4)
        assert wanted.max() > 1.05 / length  # not all the same


def states_of(model, params, token):
    def keep(module, name):
        return module.name == "recurrent"

    _, seen = model.clone(pool="last").apply({"params": params}, token, capture_intermediates=keep)
    return seen["intermediates"]["recurrent"]["__call__"][0][1]


def test_mean_and_maximum_of_the_states():
    base = create_model("lstm_classifier", num_classes=0, vocab_size=11, embed_dim=5, **TINY)
    params = base.clone(pool="last").init({"params": jax.random.key(0)}, PADDED)["params"]
    states = states_of(base, params, PADDED[2:, :4])[0]
    for pool, wanted in (("mean", states.mean(0)), ("max", states.max(0))):
        found = base.clone(pool=pool).apply({"params": params}, PADDED)[2]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_vectors_instead_of_tokens():
    model, x = create_model("lstm_classifier", bidirectional=False, **TINY), np.ones((2, 5, 3), np.float32)
    logits, variables = jax.eval_shape(model.init_with_output, {"params": jax.random.key(0)}, x)
    assert logits.shape == (2, 2)
    paths = rules.flatten(variables["params"])
    assert not any("embed" in path or "reverse" in path for path in paths)
    assert paths["recurrent/layer1/input/kernel"].shape == (3, 32)


def test_text_cnn():
    """Maxima over the windows of each filter; padding is zeros, and a sentence may be shorter than a filter."""
    model = create_model("text_cnn", num_classes=0, vocab_size=11, embed_dim=5, kernel_sizes=(1, 3), filters=4)
    variables = model.init({"params": jax.random.key(0)}, PADDED)
    found, params = model.apply(variables, PADDED), variables["params"]
    table = np.concatenate([params["embed"]["embedding"], np.zeros((1, 5))])
    for row in PADDED:
        x = table[row]
        framed = np.concatenate([np.zeros((1, 5)), x, np.zeros((1, 5))])
        one = (x @ params["conv1"]["kernel"][0] + params["conv1"]["bias"][None]).max(0)
        windows = np.stack([framed[t : t + 3] for t in range(6)])
        three = np.einsum("twd,wdf->tf", windows, params["conv3"]["kernel"]).max(0) + params["conv3"]["bias"]
        wanted = np.maximum(np.concatenate([one, three]), 0)
        np.testing.assert_allclose(found[[(row == r).all() for r in PADDED].index(True)], wanted, rtol=1e-4, atol=1e-5)
    assert model.apply(variables, PADDED[:, :1]).shape == (3, 8)
    for key in ("embed_dropout", "dropout"):
        dropping = model.clone(**{"dropout": 0.0, key: 0.5})
        assert (
            np.abs(dropping.apply(variables, PADDED, train=True, rngs={"dropout": jax.random.key(0)}) - found).max() > 0
        )


@pytest.mark.parametrize(
    "name, options, line",
    [
        ("lstm_lm", {"cell": "ltsm"}, "unknown cell of lstm_lm 'ltsm'; did you mean 'lstm'"),
        ("lstm_lm", {"biases": 3}, "biases is 3; it must be 1 or 2"),
        ("lstm_lm", {"width": 0}, "width is 0"),
        ("lstm_lm", {"depth": 0}, "depth is 0"),
        ("lstm_lm", {"dropout": 1.0}, r"dropout is 1\.0"),
        ("lstm_lm", {"recurrent_dropout": -0.1}, r"recurrent_dropout is -0\.1"),
        ("lstm_lm", {"init_scale": 0.0}, r"init_scale is 0\.0"),
        ("lstm_lm", {"variational": True}, "variational is a kind of dropout"),
        ("lstm_lm", {"forget_bias": 1.0, "cell": "gru"}, "only cell 'lstm' has a forget gate"),
        ("lstm_lm", {"tied": True, "embed_dim": 5}, "tied needs embed_dim 200"),
        ("lstm_lm", {"tied": True, "embed_size": 5}, "tied needs embed_size 10000"),
        ("lstm_lm", {"embed_dim": 0}, "embed_dim is 0"),
        ("lstm_lm", {"num_classes": 0}, "embed_size must tell"),
        ("lstm_lm", {"num_classes": -1}, "num_classes is -1"),
        ("lstm_classifier", {"pool": "sum"}, "pool is 'sum'; it must be 'last', 'mean'"),
        ("lstm_classifier", {"vocab_size": 1}, "vocab_size is 1"),
        ("lstm_classifier", {"embed_dim": 0}, "embed_dim is 0"),
        ("text_cnn", {"kernel_sizes": ()}, r"kernel_sizes is \(\)"),
        ("text_cnn", {"filters": 0}, "filters is 0"),
        ("text_cnn", {"activation": "rleu"}, "did you mean 'relu'"),
        ("text_cnn", {"embed_dropout": 1.0}, r"embed_dropout is 1\.0"),
    ],
)  # fmt: skip
def test_mistakes(name, options, line):
    with pytest.raises(UserError, match=line) as error:
        create_model(name, **options)
    assert "\n" not in str(error.value)


def test_inputs_that_do_not_fit():
    for name, options in (("lstm_lm", {}), ("lstm_classifier", {"vocab_size": 5}), ("text_cnn", {})):
        for x in (np.zeros((2, 3), np.float32), np.zeros(3, np.int32)):
            with pytest.raises(UserError, match=r"it must be integers \[B, T\]"):
                shapes(create_model(name, **options), x)
    with pytest.raises(UserError, match=r"it must be vectors float \[B, T, D\], or set vocab_size"):
        shapes(create_model("lstm_classifier"), TOKENS)
    model = create_model("lstm_classifier", vocab_size=11, pool="max")
    with pytest.raises(UserError, match="pool 'max' has no weights to return"):
        jax.eval_shape(partial(model.init, return_weights=True), {"params": jax.random.key(0)}, TOKENS)
