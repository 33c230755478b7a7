"""Weights of models over words and characters: a real character LSTM, and word vectors as an embedding."""

import gzip
import json
import pathlib

import jax
import numpy as np
import pytest

import zoo
from zoo import words
from zoo.errors import UserError
from zoo.weights import import_weights

REAL = pathlib.Path(__file__).resolve().parents[2] / "shared" / "weights" / "charrnn_shakespeare"


@pytest.fixture(scope="module")
def shakespeare():
    """(model, import) of the published LSTM."""
    if not REAL.is_dir():
        pytest.skip(f"needs the real weights in {REAL}")
    model = zoo.create_model("lstm_lm", num_classes=65, width=128, depth=2)
    return model, import_weights(model, REAL / "charrnn.npz")


def test_the_shakespeare_lstm(shakespeare, shared_data):
    """TensorFlow's BasicLSTMCell, whose forget gate has 1 added when it runs: 1.330071 nats, as published with it."""
    model, done = shakespeare
    assert done.rules == "BasicLSTMCell of TensorFlow"
    vocab, told = (json.loads((REAL / name).read_text()) for name in ("vocab.json", "expected.json"))
    text = (shared_data / "text/tinyshakespeare.txt").read_text()[:10_001]
    token = np.array([[vocab[letter] for letter in text]], np.int32)
    logits = np.asarray(jax.jit(model.apply)(done.variables, token[:, :-1]))[0]
    np.testing.assert_allclose(logits[0], told["first_step_logits"], atol=1e-4)
    nats = -jax.nn.log_softmax(logits)[np.arange(10_000), token[0, 1:]].mean()
    assert nats == pytest.approx(told["mean_nll_nats_first_10000_predictions_from_zero_state"], abs=2e-5)


def test_a_basic_lstm_cell_needs_the_same_cell(shakespeare):
    model = zoo.create_model("lstm_lm", num_classes=65, width=128, depth=2, biases=2)
    with pytest.raises(UserError, match=r"BasicLSTMCell of TensorFlow; the model must have biases=1, not 2"):
        import_weights(model, REAL / "charrnn.npz")


def test_the_forget_bias_of_a_basic_lstm_cell_is_told(tmp_path):
    tensors = {"embedding": (5, 3), "softmax_w": (2, 5), "softmax_b": (5,)}
    tensors |= {"cell_0/basic_lstm_cell/kernel": (5, 8), "cell_0/basic_lstm_cell/bias": (8,)}
    np.savez(tmp_path / "x.npz", **{name: np.zeros(shape, np.float32) for name, shape in tensors.items()})
    model = zoo.create_model("lstm_lm", num_classes=5, width=2, depth=1, embed_dim=3)
    done = import_weights(model, tmp_path / "x.npz")
    assert done.notes == [
        "BasicLSTMCell: 1 was added to the bias of the forget gate, its forget_bias unless it was made with another"
    ]
    bias = done.variables["params"]["recurrent"]["layer1"]["input"]["bias"]
    np.testing.assert_array_equal(bias, [0, 0, 1, 1, 0, 0, 0, 0])


VECTORS = words.Vectors(("the", "film", "bad", "good"), np.arange(12, dtype=np.float32).reshape(4, 3))


@pytest.mark.parametrize("name", ["v.bin", "v.bin.gz", "v.txt", "v.txt.gz", "glove.txt", "glove.txt.gz", "v.npz"])
def test_files_of_word_vectors(tmp_path, capsys, name):
    """The input table of a skip-gram is the file's, word for word; the output table starts at zero, as always."""
    words.save(tmp_path / name, VECTORS)
    if name.endswith(".gz"):
        assert gzip.decompress((tmp_path / name).read_bytes())
    assert words.load(tmp_path / name).words == VECTORS.words
    if "glove" not in name:
        (tmp_path / "cached").write_bytes((tmp_path / name).read_bytes())  # told by the content alone
        np.testing.assert_array_equal(words.load(tmp_path / "cached").table, VECTORS.table)
    model = zoo.create_model("skipgram", num_classes=4, features=3)
    found = zoo.load_weights(model, tmp_path / name)["params"]
    np.testing.assert_array_equal(found["input"], VECTORS.table)
    assert not found["output"].any()
    assert "input: vectors for 4 of 4 words; all else is new" in capsys.readouterr().out


MODELS = {
    "cbow": ("input", {"features": 3, "num_classes": 5}),
    "lstm_classifier": ("embed", {"embed_dim": 3, "vocab_size": 5, "width": 2}),
    "lstm_lm": ("embed", {"embed_dim": 3, "num_classes": 5, "width": 2}),
    "text_cnn": ("embed", {"embed_dim": 3, "vocab_size": 5, "filters": 2}),
}


@pytest.mark.parametrize("name", MODELS)
def test_rows_of_known_words(tmp_path, name):
    place, options = MODELS[name]
    model = zoo.create_model(name, **options)
    words.save(tmp_path / "v.bin", VECTORS)
    done = import_weights(model, tmp_path / "v.bin", words=("good", "unknown", "the", "else", "bad"), seed=3)
    table = done.variables["params"][place]
    table = table["embedding"] if place == "embed" else table
    np.testing.assert_array_equal(table[[0, 2, 4]], VECTORS.table[[3, 0, 2]])
    fresh = model.init({"params": jax.random.key(3)}, np.zeros((1, 4), np.int32))["params"]
    fresh_table = fresh[place]["embedding"] if place == "embed" else fresh[place]
    np.testing.assert_allclose(table[[1, 3]], fresh_table[np.array([1, 3])], atol=1e-6)
    assert done.notes == [
        f"{'embed/embedding' if place == 'embed' else 'input'}: vectors for 3 of 5 words; all else is new"
    ]
    assert jax.tree.structure(done.variables["params"]) == jax.tree.structure(fresh)


@pytest.mark.parametrize(
    "name, options, given, line",
    [
        ("skipgram", {"num_classes": 4, "features": 2}, None, "vectors of 3 numbers, the model has features=2"),
        ("text_cnn", {"vocab_size": 4}, None, "vectors of 3 numbers, the model has embed_dim=128"),
        ("skipgram", {"num_classes": 9, "features": 3}, None, "4 words for a model of 9"),
        (
            "skipgram",
            {"num_classes": 2, "features": 3},
            ("x", "y"),
            "knows none of the 2 words of the model, such as 'x'",
        ),
        ("lenet5", {}, None, "holds word vectors; LeNet5 has no table of words"),
    ],
)
def test_vectors_that_do_not_fit(tmp_path, name, options, given, line):
    words.save(tmp_path / "v.txt", VECTORS)
    with pytest.raises(UserError, match=line):
        import_weights(zoo.create_model(name, **options), tmp_path / "v.txt", words=given)


@pytest.mark.parametrize(
    "arrays, line",
    [
        (
            {"words": np.array(["a"]), "vectors": np.ones((2, 3), np.float32)},
            r"words <U1\[1\] and vectors float32\[2, 3\]",
        ),
        ({"words": np.ones(1), "vectors": np.ones((1, 3), np.float32)}, r"words float64\[1\]"),
        (
            {"words": np.array(["a"], object), "vectors": np.ones((1, 3))},
            r"words.npy holds object; .*pickled objects are never read",
        ),
        (
            {"words": np.array(["a"]), "vectors": np.ones((1, 3)), "output": np.ones((1, 2))},
            r"output float64\[1, 2\] for vectors \[1, 3\]",
        ),
        (
            {"words": np.array(["a"]), "vectors": np.ones((1, 1)), "output": np.full((1, 1), np.inf)},
            "'a' .* not finite",
        ),
    ],
)
def test_arrays_that_are_no_vectors(tmp_path, arrays, line):
    np.savez(tmp_path / "v.npz", **arrays)
    with pytest.raises(UserError, match=line):
        words.load(tmp_path / "v.npz")


@pytest.mark.parametrize("name", ["v.txt", "v.npz"])
def test_a_skipgram_goes_on_from_a_file(tmp_path, capsys, name):
    """config.init_from, by the words of its corpus; NumPy's format has the output vectors too."""
    table = np.full((2, 8), [[0.25], [-0.5]], np.float32)
    known = words.Vectors(("paris", "italy"), table, table + 1)
    words.save(tmp_path / name, known)
    settings = {
        "model.name": "skipgram", "model.features": 8, "task.name": "word2vec", "task.block": 32, "task.shared": 8,
        "data.name": "grammar", "data.batch_size": 4096, "optim.name": "sgd", "optim.lr": 1e-9, "total_steps": 1,
        "init_from": str(tmp_path / name),
    }  # fmt: skip
    zoo.train(zoo.config.override(zoo.config.default(), settings.items()), tmp_path / "run")
    run = words.from_run(tmp_path / "run")
    for word in known.words:
        np.testing.assert_allclose(run.table[run.row(word)], known.table[known.row(word)], atol=1e-6)
        output = known.output[known.row(word)] if name == "v.npz" else 0
        np.testing.assert_allclose(run.output[run.row(word)], output, atol=1e-6)
    assert np.abs(run.table[run.row("france")]).max() <= 0.5 / 8


def test_a_classifier_starts_from_google_news(tmp_path, shared_data):
    """config.init_from: the words of SST-2 that the file knows start from its vectors."""
    config = zoo.config.default()
    config.model = {"name": "text_cnn", "embed_dim": 300, "filters": 2}
    config.data.update(name="sst2", batch_size=64, min_count=20)
    config.update(total_steps=1, init_from=str(shared_data / "wordvec/googlenews_1000.npz"))
    config.optim.update(name="sgd", lr=1e-9)
    zoo.train(config, tmp_path / "run")
    run = zoo.weights.files.read(tmp_path / "run").tensors["params/embed/embedding"]
    vectors = words.load(config.init_from)
    vocab = zoo.run.prepare(config).dataset.meta["vocab"]
    assert run[vocab.index("good")] == pytest.approx(vectors.table[vectors.row("good")], abs=1e-6)
    known = np.array([word in vectors.index() for word in vocab])
    assert 300 < known.sum() < len(vocab)
    norms = np.linalg.norm(run, axis=1)
    assert norms[known] == pytest.approx(1, abs=1e-4)
    assert norms[~known].min() > 1.5  # uniform in +-0.25
