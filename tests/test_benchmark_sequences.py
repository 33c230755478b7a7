"""`benchmark.py lstm` and `benchmark.py words`: that both sides do the same work, and what is made of their figures."""

import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import benchmark
import benchmark_lstm
import benchmark_sequences
import benchmark_words
from benchmark_cases import LANGUAGE_MODELS, SMALLEST_LANGUAGE_MODEL
from benchmark_worker import UnavailableError


class FakeWorker:
    """Takes scripted seconds for every step; trains vectors that reach the scripted correlations."""

    def __init__(self, seconds, spearman):
        self.seconds, self.spearman = seconds, spearman

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def ask(self, operation, *_):
        return {"spearman": self.spearman, "words": 1000}[operation]

    def side(self, _):
        def side(steps):
            return self.seconds * steps

        side.worker = self
        return side


@pytest.fixture
def measured(monkeypatch):
    def run(subcommand, **seconds):
        def worker(file, library, *_):
            if library not in seconds:
                raise UnavailableError(f"no {library}")
            return FakeWorker(seconds[library], [0.9, 0.2, 0.4] if library == "zoo" else [0.9, 0.5, 0.1])

        monkeypatch.setattr(benchmark_sequences, "_worker", worker)
        return dict(benchmark.SUBCOMMANDS[subcommand](benchmark.parse([subcommand, "--quick"])))

    return run


def test_word_vectors_that_were_timed_are_evaluated(measured):
    found = measured("words", zoo=1.0, gensim=1.5)
    skipgram, cbow = found["skipgram"]["targets"], found["cbow"]["targets"]
    assert (skipgram[0]["value"], skipgram[0]["reached"], cbow[0]["reached"]) == (1.5, False, True)
    # The first training of each side was not timed, however good its vectors are.
    assert found["skipgram"]["spearman"] == {"zoo": [0.2, 0.4], "gensim": [0.5, 0.1]}
    assert skipgram[1]["value"] == pytest.approx(0.0)
    assert "zoo 0.300 ± 0.141, gensim 0.300 ± 0.283" in found["skipgram"]["note"]
    assert found["cbow"]["work"] == {"amount": 1000, "unit": "words"}


def test_language_models_beside_torch(measured):
    (found,) = measured("lstm", zoo=1.0, torch=0.5).values()
    assert [target["reached"] for target in found["targets"]] == [False]
    assert found["work"]["amount"] == SMALLEST_LANGUAGE_MODEL.batch_size * SMALLEST_LANGUAGE_MODEL.length
    with pytest.raises(UnavailableError, match="no torch"):
        measured("lstm", zoo=1.0)


def test_sizes_of_zaremba():
    """Zaremba et al. 2014 count one bias per gate; both sides here have PyTorch's two."""
    counts = {name: case.parameters - 8 * case.width for name, case in LANGUAGE_MODELS.items()}
    assert counts == {"hidden 200": 4_651_600, "hidden 650": 19_775_200, "hidden 1500": 66_022_000}


@pytest.mark.parametrize("library", ["zoo", "torch"])
def test_training_a_language_model(library):
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"needs {library}")
    train = benchmark_lstm.ENGINES[library](SMALLEST_LANGUAGE_MODEL)["train"]  # which compares the parameters' number
    assert train(4) > 0


@pytest.mark.parametrize("library", ["zoo", "gensim"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of gensim
def test_training_word_vectors(library):
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"needs {library}")
    operations = benchmark_words.ENGINES[library]("skipgram", True)
    assert operations["train"](2) > 0
    one, other = operations["spearman"]()
    assert one != other or library == "zoo"  # seeds differ; of 4 pairs, few correlations are possible
    if library == "gensim":
        assert operations["words"]() > 2_000 * 4
