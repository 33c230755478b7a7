"""Skip-gram and CBOW: one block by hand, in plain loops, for every loss; what the options do; what is learned."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from zoo import create_model
from zoo.data import corpus, grammar
from zoo.errors import UserError
from zoo.tasks import word2vec

V, D, WINDOW, BLOCK = 9, 4, 2, 6
COUNTS = np.array([40, 30, 20, 9, 8, 7, 6, 5, 4])
META = {"name": "test", "num_classes": V, "counts": COUNTS}


def model_of(name, **options):
    return create_model(name, num_classes=V, features=D, **options)


def random_params(seed=0):
    normal = np.random.default_rng(seed).standard_normal
    return {name: np.float32(normal((V, D))) for name in ("input", "output")}


def span(sentences):
    """The batch of some sentences."""
    tokens, segments = zip(*((word, i) for i, s in enumerate(sentences) for word in s), strict=True)
    batch = {
        "token": np.zeros(64 + 2 * corpus.MARGIN, np.int32),
        "segment": np.full(64 + 2 * corpus.MARGIN, -1, np.int32),
    }
    place = slice(corpus.MARGIN, corpus.MARGIN + len(tokens))
    batch["token"][place], batch["segment"][place] = tokens, segments
    return batch | {"count": np.int32(len(tokens))}


# No word twice among the centers' neighbours would hide that updates are added: 3 and 1 come again.
BATCH = span([[3, 1, 4, 8], [5, 1]])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def targets(loss, word, output, noise, negatives):
    """[(row of the output table, 1 or 0, weight)] that predict `word` from a hidden vector."""
    if loss == "negative":
        return [(word, 1, 1.0)] + [(n, 0, negatives / len(noise)) for n in noise]
    points, signs = corpus.huffman(COUNTS)
    return [(p, int(s > 0), 1.0) for p, s in zip(points[word], signs[word], strict=True) if s]


def by_hand(name, loss, params, near, noise, *, combine="mean", negatives=5, lr=0.1):
    """(params, loss, pairs) of one block in plain loops; all gradients are taken at the old values."""
    table, output = params["input"].astype(float), params["output"].astype(float)
    d_table, d_output, total, pairs = np.zeros_like(table), np.zeros_like(output), 0.0, 0
    tokens = BATCH["token"][corpus.MARGIN - WINDOW : corpus.MARGIN + BLOCK + WINDOW]
    for i in range(BLOCK):
        around = [i + WINDOW + o for k, o in enumerate((-2, -1, 1, 2)) if near[i, k]]
        center = tokens[i + WINDOW]
        if not around:
            continue
        if name == "skipgram":
            jobs = [(table[center], [center], tokens[j]) for j in around]
        else:
            hidden = table[tokens[around]].sum(0) / (len(around) if combine == "mean" else 1)
            jobs = [(hidden, tokens[around], center)]
        for hidden, rows, word in jobs:
            pairs += 1
            gradient = np.zeros(D)
            if loss == "softmax":
                p = np.exp(output @ hidden) / np.exp(output @ hidden).sum()
                total -= np.log(p[word])
                p[word] -= 1
                gradient += p @ output
                d_output += np.outer(p, hidden)
            else:
                for row, label, weight in targets(loss, word, output, noise, negatives):
                    score = output[row] @ hidden
                    total -= weight * np.log(sigmoid(score if label else -score))
                    error = weight * (sigmoid(score) - label)
                    gradient += error * output[row]
                    d_output[row] += error * hidden
            for row in rows:
                d_table[row] += gradient
    return {"input": table - lr * d_table, "output": output - lr * d_output}, total, pairs


@functools.cache
def one_step(name, loss, combine="mean", negatives=5):
    model = model_of(name, **({"combine": combine} if name == "cbow" else {}))
    sampling = {"shared": 3, "negatives": negatives} if loss == "negative" else {}
    task = word2vec.make(model, META, loss=loss, window=WINDOW, block=BLOCK, **sampling)
    params = random_params()
    new, metrics = jax.device_get(jax.jit(task.step)(params, BATCH, jax.random.key(4), 0.1))
    # What the step drew.
    key_window, key_loss = jax.random.split(jax.random.fold_in(jax.random.key(4), 0))
    near = np.asarray(word2vec._block(BATCH, 0, BLOCK, WINDOW, key_window).near)
    noise = np.searchsorted(corpus.noise_cdf(COUNTS, 0.75), np.asarray(jax.random.uniform(key_loss, (3,))))
    return new, metrics, by_hand(name, loss, params, near, noise, combine=combine, negatives=negatives)


CASES = [(n, loss, "mean", 5) for n in ("skipgram", "cbow") for loss in ("negative", "hierarchical", "softmax")]
CASES += [("cbow", "negative", "sum", 5), ("skipgram", "negative", "mean", 2)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_block_by_hand(case):
    new, metrics, (wanted, total, pairs) = one_step(*case)
    for table in ("input", "output"):
        np.testing.assert_allclose(new[table], wanted[table], rtol=1e-4, atol=1e-5)
    assert metrics["loss"][1] == pairs > 0
    assert metrics["loss"][0] == pytest.approx(total, rel=1e-5)


def test_only_touched_rows_move():
    new, _, _ = one_step("skipgram", "negative")
    same = (new["input"] == random_params()["input"]).all(1)
    assert set(np.flatnonzero(~same)) <= {1, 3, 4, 5, 8}
    assert not same[[3, 4]].any()


@pytest.fixture(scope="module")
def windows():
    """The neighbours of many words in a row of one sentence, by offset: 64 blocks of 256, window 3."""
    batch = {"token": jnp.arange(1300), "segment": jnp.zeros(1300, jnp.int32)}
    draw = jax.jit(jax.vmap(lambda k: word2vec._block(batch, 0, 256, 3, k).near))
    return np.asarray(draw(jax.random.split(jax.random.key(0), 64))).reshape(-1, 6)


def test_the_window_is_dynamic(windows):
    """Each word draws 1, 2 or 3: neighbours at distance d with probability (4 - d) / 3, the same on both sides."""
    np.testing.assert_allclose(windows.mean(0), [1 / 3, 2 / 3, 1, 1, 2 / 3, 1 / 3], atol=0.02)
    np.testing.assert_array_equal(windows, windows[:, ::-1])


def test_no_window_reaches_over_a_sentence():
    near = np.asarray(word2vec._block(BATCH, 0, 7, WINDOW, jax.random.key(0)).near)
    assert not near[3, 2:].any()  # 8 ends the first sentence
    assert not near[4, :2].any()  # 5 begins the second
    assert near[4, 2]
    assert not near[6].any()  # after the end


def test_negatives_are_drawn_by_count_to_the_power():
    """With one row to push and no neighbours' gradients, what moves tells what was drawn."""
    drawn = {}
    for power in (0.0, 0.75, 5.0):
        objective = word2vec.negative_sampling(COUNTS, negatives=5, power=power, shared=2000)
        output = jnp.ones((V, D))
        args = jnp.ones((1, D)), jnp.zeros(1, jnp.int32), jnp.ones((1, 1)), jax.random.key(1), 0.1
        moved = 1 - np.asarray(objective(output, *args)[1])[1:, 0]
        drawn[power] = moved / moved.sum()
        np.testing.assert_allclose(drawn[power], COUNTS[1:] ** power / (COUNTS[1:] ** power).sum(), atol=0.04)
    assert drawn[5.0][0] > drawn[0.75][0] > drawn[0.0][0]


def test_the_blocks_of_a_step_follow_one_another():
    """A step over 12 words in blocks of 6 is two steps over 6 each, where no window crosses."""
    both = span([[3, 1, 4, 8, 2, 6], [5, 1, 0, 7, 2, 3]])
    task = word2vec.make(model_of("cbow"), META, loss="softmax", window=1, block=6)  # window 1 draws nothing
    step = jax.jit(task.step)
    params, key = random_params(), jax.random.key(0)
    whole, metrics = step(params, both, key, 0.1)
    first, one = step(params, span([[3, 1, 4, 8, 2, 6]]), key, 0.1)
    second, two = step(first, span([[5, 1, 0, 7, 2, 3]]), key, 0.1)
    for table in ("input", "output"):
        np.testing.assert_allclose(whole[table], second[table], rtol=1e-5, atol=1e-6)
    assert metrics["loss"][1] == one["loss"][1] + two["loss"][1] == 12
    assert not np.allclose(whole["output"], first["output"])


@pytest.mark.parametrize("name, least", [("skipgram", 0.95), ("cbow", 0.6)])
def test_analogies_of_the_grammar(name, least):
    """Half of the recipe skipgram_grammar; the CBOW beside it has not seen enough yet. By chance it would be 0.003."""
    mesh = Mesh(np.array(jax.local_devices()[:1]), ("data",))
    made = grammar.load()
    data = corpus.make(made, "grammar", {"batch_size": 16384, "sample": 0.0}, seed=0, mesh=mesh)
    task = word2vec.make(create_model(name, num_classes=len(made.words), features=50), data.meta, block=32)
    step = jax.jit(task.step, donate_argnums=0)
    params, losses = task.init(jax.random.key(0), data.train.fetch(0))["params"], []
    steps = 10 * data.meta["steps_per_epoch"]
    for i in range(steps):
        lr = np.float32(0.05 * (1 - i / steps))
        params, metrics = step(params, data.train.fetch(i), jax.random.fold_in(jax.random.key(1), i), lr)
        losses.append(metrics["loss"][0] / metrics["loss"][1])
    assert losses[0] > losses[-1] + 0.5
    (batch,) = data.eval("analogies")
    _, (_, metrics) = jax.jit(functools.partial(task.loss, train=False))(params, {}, batch, None)
    assert metrics["accuracy"][1] == 960
    assert metrics["accuracy"][0] >= least * 960


# --- models and mistakes -----------------------------------------------------------------------------------------


def test_models_give_the_logits_of_the_full_softmax():
    params = random_params()
    found = model_of("skipgram").apply({"params": params}, np.array([2, 7]))
    np.testing.assert_allclose(found, params["input"][[2, 7]] @ params["output"].T, rtol=1e-5, atol=1e-6)
    context = np.array([[3, 1, -1], [2, -1, -1]])
    for combine, scale in (("mean", 2), ("sum", 1)):
        found = model_of("cbow", combine=combine).apply({"params": params}, context)
        hidden = np.stack([(params["input"][3] + params["input"][1]) / scale, params["input"][2]])
        np.testing.assert_allclose(found, hidden @ params["output"].T, rtol=1e-5, atol=1e-6)


def test_initial_values():
    params = create_model("skipgram", num_classes=500, features=20).init(jax.random.key(0), np.zeros(1, int))["params"]
    assert not params["output"].any()
    assert 0.024 < np.abs(params["input"]).max() <= 0.025  # 0.5 / 20


@pytest.mark.parametrize(
    "options, line",
    [
        ({"loss": "nce"}, r"unknown loss of task word2vec 'nce'"),
        ({"window": 0}, r"task word2vec: window is 0; it must be at least 1"),
        ({"shared": 0}, r"task word2vec: shared is 0"),
        ({"negatives": 0}, r"task word2vec: negatives is 0"),
        ({"loss": "softmax", "shared": 64}, r"shared is an option of loss negative, and loss is softmax; leave it out"),
        ({"loss": "hierarchical", "negatives": 5}, r"negatives is an option of loss negative"),
        ({"loss": "hierarchical", "power": 1.0}, r"power is an option of loss negative, and loss is hierarchical"),
        ({"block": 1024}, r"block 1024 \+ window 5 must be at most 512"),
    ],
)
def test_mistakes(options, line):
    with pytest.raises(UserError, match=line):
        word2vec.make(model_of("skipgram"), META, **options)


def test_other_models_and_data():
    with pytest.raises(UserError, match=r"model MLP has no word vectors"):
        word2vec.make(create_model("mlp"), META)
    with pytest.raises(UserError, match=r"data set 'digits' is not a corpus"):
        word2vec.num_outputs({"name": "digits", "num_classes": 10})
    for options, line in (({"combine": "max"}, "combine is 'max'"), ({"features": 0}, "features is 0")):
        with pytest.raises(UserError, match=line):
            create_model("cbow", **options)
    with pytest.raises(UserError, match=r"num_classes is 1; it must be at least 2"):
        create_model("cbow", num_classes=1)


@pytest.mark.parametrize("name, wanted", [("skipgram", r"\[B\]"), ("cbow", r"\[B\] or \[B, C\]")])
@pytest.mark.parametrize("kind, shape", [(np.float32, (4, 8, 8, 1)), (np.uint8, (4, 8, 8, 1)), (np.float32, (4,))])
def test_inputs_that_are_no_words(name, wanted, kind, shape):
    with pytest.raises(UserError, match=rf"{name}: the input is {kind.__name__}\[4.*; it must be .* {wanted}"):
        jax.eval_shape(model_of(name).init, jax.random.key(0), np.zeros(shape, kind))
