"""Corpora for word vectors: running text as one array of word numbers, its vocabulary, and how it is fed.

Words are lower-cased runs of letters and their marks, with apostrophes and hyphens inside; a line is a sentence.
Subsampling, vocabulary and noise distribution follow word2vec (Mikolov et al. 2013b, "Distributed representations of
words and phrases and their compositionality", section 2.3 and its released code).
"""

import array
import functools
import heapq
import pathlib
import re
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from zoo.data import feed, text
from zoo.errors import UserError
from zoo.types import Dataset, Feed

ASCII_WORD = re.compile(r"[a-z]+(?:['-][a-z]+)*")
BREAK = -1  # stands in `Corpus.token` between two sentences: no window reaches over it
UNKNOWN = "<unk>"
CONTINUED = ""  # the last item of a piece of a sentence that continues in the next piece
PIECE = 2**16  # bytes of a line that are read at once
IN_MEMORY, CHUNK = 2**26, 2**18  # words that are kept in memory (256 MB), and those of a longer text at a time
MARGIN = 512  # empty places on both sides of the words of a step: room for a window and for the last block


class Corpus(NamedTuple):
    """A text in numbers. The words are sorted from frequent to rare; ties in the order of their first appearance."""

    token: np.ndarray  # int32 [N]: index into `words`, or BREAK; memory-mapped where N is above IN_MEMORY
    words: tuple[str, ...]
    counts: np.ndarray  # int64 [V]
    questions: np.ndarray | None = None  # int32 [Q, 4], analogies a : b = c : d with a known answer


def sentences(path: pathlib.Path) -> Iterator[list[str]]:
    """The words of each line of a text file (.txt, .xz or .gz), or of all text files of a folder in order of name.

    A line of more than PIECE bytes, as the one of text8, comes in several lists; all but the last end in CONTINUED.

    Raises:
      UserError: no such file, or bytes that are not UTF-8 (with their offset in the unpacked text).
    """
    path = pathlib.Path(path)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.name.endswith((".txt", ".txt.xz", ".txt.gz")))
        if not files:
            raise UserError(f"folder {path} has no text: no file ends in .txt, .txt.xz or .txt.gz")
        for file in files:
            yield from sentences(file)
        return
    offset, line, begun, piece = 0, b"", False, None
    try:
        with text.OPENERS.get(path.suffix, open)(path, "rb") as file:
            while piece != b"":
                piece = file.readline(PIECE)
                line, ends = line + piece, len(piece) < PIECE or piece.endswith(b"\n")
                cut = len(line) if ends else line.rfind(b" ") + 1  # no word goes over a space
                found = words_in(line[:cut].decode("utf-8"))
                if found or (begun and ends):
                    yield found if ends else [*found, CONTINUED]
                begun = not ends and (begun or bool(found))
                offset, line = offset + cut, line[cut:]
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text: byte {line[error.start]:#04x} at offset {offset + error.start}"
        ) from None
    except text.UNREADABLE as error:
        raise UserError(f"cannot read text {path}: {getattr(error, 'strerror', None) or error}") from None


def words_in(line: str) -> list[str]:
    """The words of a text, in lower case."""
    return (ASCII_WORD if line.isascii() else _word()).findall(line.lower())


@functools.cache  # looking for all marks takes 10 ms
def _word() -> re.Pattern:
    """ASCII_WORD in all scripts: with marks on letters, such as the vowels of Hindi, and typographic apostrophes."""
    marks = "".join(c for c in map(chr, range(0x300, 0x20000)) if unicodedata.category(c).startswith("M"))
    run = rf"[^\W\d_]+(?:(?![\0-\u02ff])[{marks}]+[^\W\d_]*)*"  # most words end here: 4 times as fast
    return re.compile(rf"{run}(?:['\u2019-]{run})*")


def encode(texts: Iterable[list[str]], *, min_count: int = 1, vocab_size: int = 0, what: str = "the text") -> Corpus:
    """Sentences as a corpus, with little more memory than its arrays: 100 MB of text in one line, 14 million words of
    which 150,000 are different, take 82 MB at the most (as lists 1.4 GB, in the same time).

    Args:
      texts: the words of each sentence, or of its pieces, all but the last of which end in CONTINUED.
      min_count: words that are rarer than this are left out, and their neighbours become neighbours.
      vocab_size: with a number, the vocabulary is the `vocab_size` - 1 most frequent words and UNKNOWN, which takes
        the place of all others.
      what: for the error line.

    Raises:
      UserError: an empty text, a vocabulary of less than two words, or no room for a long text in the folder for
        temporary files.
    """
    words, token = _numbered(texts, what)
    starts = range(0, len(token), CHUNK)
    counts = sum(np.bincount(token[start : start + CHUNK] - BREAK, minlength=len(words) + 1) for start in starts)[1:]
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] >= min_count]
    if vocab_size and len(order) > vocab_size - 1:
        order = order[: vocab_size - 1]
    if len(order) + bool(vocab_size) < 2:
        raise UserError(
            f"{what} has a vocabulary of {len(order)} word(s) that occur at least {min_count} times; word vectors need "
            "at least 2: give more text, or a lower data.min_count"
        )
    fill = len(order) if vocab_size else BREAK - 1
    index = np.full(len(words) + 1, fill, np.int32)
    index[order] = np.arange(len(order))
    index[BREAK] = BREAK
    end = 0
    for start in starts:  # in place
        part = index[token[start : start + CHUNK]]
        part = part[part >= BREAK]
        token[end : end + len(part)] = part
        end += len(part)
    kept, total, counts = [words[i] for i in order], counts.sum(), counts[order]
    if vocab_size:
        kept, counts = [*kept, UNKNOWN], np.append(counts, total - counts.sum())
    return Corpus(token[:end], tuple(kept), counts)


def _numbered(texts: Iterable[list[str]], what: str) -> tuple[list[str], np.ndarray]:
    """(words in the order of their first appearance, the text as numbers of them and BREAK, int32 [N])."""
    numbers: dict[str, int] = {}
    token, most = array.array("i"), IN_MEMORY
    try:
        with tempfile.TemporaryFile() as file:  # without a name: it is gone when nothing maps it any more
            for sentence in texts:
                goes_on = sentence[-1:] == [CONTINUED]
                token.extend([numbers.setdefault(word, len(numbers)) for word in sentence[: len(sentence) - goes_on]])
                if not goes_on:
                    token.append(BREAK)
                if len(token) > most:
                    token.tofile(file)
                    token, most = array.array("i"), CHUNK
            if not numbers:
                raise UserError(f"{what} is empty: it has no words")
            if not file.tell():
                return list(numbers), np.frombuffer(token, np.int32)
            token.tofile(file)
            file.flush()
            return list(numbers), np.memmap(file, np.int32, "r+")
    except OSError as error:
        folder = tempfile.gettempdir()
        raise UserError(f"{what}: cannot keep its words in {folder} (TMPDIR): {error.strerror or error}") from None


def keep_probability(counts: np.ndarray, sample: float) -> np.ndarray:
    """Of each word to stay in the text: sqrt(t / f) + t / f of its frequency f, at most 1 (as released; t = `sample`).

    `sample` 0 keeps everything.
    """
    if not sample:
        return np.ones(len(counts), np.float32)
    share = sample / np.maximum(counts / counts.sum(), 1e-30)
    return np.minimum(np.sqrt(share) + share, 1).astype(np.float32)


def noise_cdf(counts: np.ndarray, power: float) -> np.ndarray:
    """Cumulative distribution of the negative words, proportional to counts ** power; float32 [V], ends in 1."""
    weight = np.cumsum(np.asarray(counts, np.float64) ** power)
    return (weight / weight[-1]).astype(np.float32)


def huffman(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Huffman codes of the words: (inner nodes on the way from the root, int32 [V, L]; signs, float32 [V, L]).

    The sign is +1 for code 0, -1 for code 1 and 0 beyond the end of a code; there are V - 1 inner nodes, 0 the root.
    """
    size = len(counts)
    heap = [(int(count), i) for i, count in enumerate(counts)]
    heapq.heapify(heap)
    parent, sign = np.zeros(2 * size - 1, np.int32), np.zeros(2 * size - 1, np.float32)
    for node in range(size, 2 * size - 1):
        (a, first), (b, second) = heapq.heappop(heap), heapq.heappop(heap)
        parent[[first, second]], sign[[first, second]] = node, (1, -1)
        heapq.heappush(heap, (a + b, node))
    paths = []
    for word in range(size):
        path = []
        while word != 2 * size - 2:
            path.append((2 * size - 2 - parent[word], sign[word]))
            word = parent[word]
        paths.append(path[::-1])
    length = max(map(len, paths))
    points, signs = np.zeros((size, length), np.int32), np.zeros((size, length), np.float32)
    for word, path in enumerate(paths):
        points[word, : len(path)], signs[word, : len(path)] = zip(*path, strict=True)
    return points, signs


def make(corpus: Corpus, name: str, options: Mapping[str, Any], *, seed: int, mesh: Mesh) -> Dataset:
    """The data set of a corpus: one row is one word, one training step takes `batch_size` of them in their order.

    A training batch is {'token': int32 [S], 'segment': int32 [S], 'count': int32}: the words that subsampling left,
    from place MARGIN on, and the number of the sentence each is from. Evaluation has the split 'analogies', where
    there are questions: {'question': int32 [B, 4], 'mask'}. `corpus.token` may be memory-mapped.

    Raises:
      UserError: settings that make no sense.
    """
    span, sample, rows = options["batch_size"], options["sample"], len(corpus.token)
    if span < 1 or not 0 <= sample < 1:
        key, right = ("batch_size", "at least 1") if span < 1 else ("sample", "in [0, 1), for example 1e-3")
        raise UserError(f"config.data.{key} is {options[key]}; it must be {right}")
    keep, steps, replicated = keep_probability(corpus.counts, sample), -(-rows // span), feed.replicated(mesh)

    def fetch(step: int) -> dict[str, jax.Array]:
        text = np.asarray(corpus.token[step % steps * span :][:span])
        chance = np.random.Generator(np.random.Philox(key=[seed, step])).random(len(text), np.float32)
        stays = (text >= 0) & (chance < keep[text])
        count = int(stays.sum())
        token, segment = np.zeros(span + 2 * MARGIN, np.int32), np.full(span + 2 * MARGIN, -1, np.int32)
        token[MARGIN : MARGIN + count] = text[stays]
        segment[MARGIN : MARGIN + count] = np.cumsum(text == BREAK)[stays]
        return jax.device_put({"token": token, "segment": segment, "count": np.int32(count)}, replicated)

    evaluated = {} if corpus.questions is None else {"analogies": {"question": corpus.questions}}
    # As many as there are, or 1000: a batch holds the similarities of all its questions to all words.
    eval_batch = -(-min(1000, len(corpus.questions) if evaluated else 1) // mesh.size) * mesh.size
    meta = {
        "name": name,
        "batch_size": span,
        "eval_batch_size": eval_batch,
        "steps_per_epoch": steps,
        "splits": {"train": rows} | {split: len(arrays["question"]) for split, arrays in evaluated.items()},
        "shapes": {"token": ()},
        "dtypes": {"token": "int32"},
        "bytes": corpus.token.nbytes,
        "on_device": False,
        "num_classes": len(corpus.words),
        "class_names": None,
        "vocab": corpus.words,
        "counts": corpus.counts,
    }
    batches = feed.evaluation(evaluated, eval_batch, mesh, keep=True)
    return Dataset(Feed(fetch, lambda fetched, step: fetched), batches, lambda batch: batch, meta)


# --- pairs as arrays, for those who want to see them -------------------------------------------------------------


def skip_gram_batch(
    token: np.ndarray, batch_size: int, num_skips: int, skip_window: int, start: int = 0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """(centers, labels), int32 [batch_size] each: `num_skips` different neighbours of each word, drawn at random.

    The centers are the words from place `start` + `skip_window` on; after the end of the text it begins again.
    """
    if not 0 < num_skips <= 2 * skip_window or batch_size < 1 or batch_size % num_skips:
        raise UserError(
            f"skip_gram_batch: batch_size {batch_size}, num_skips {num_skips}, skip_window {skip_window}; num_skips "
            "must be in 1..2 * skip_window and divide batch_size"
        )
    windows = _windows(token, batch_size // num_skips, skip_window, start)
    rng = np.random.default_rng([seed, start])
    around = np.delete(windows, skip_window, axis=1)
    labels = rng.permuted(around, axis=1)[:, :num_skips]
    return np.repeat(windows[:, skip_window], num_skips), labels.ravel()


def cbow_batch(token: np.ndarray, batch_size: int, R: int, start: int = 0) -> tuple[np.ndarray, np.ndarray]:  # noqa: N803
    """(contexts int32 [batch_size, 2 R], labels int32 [batch_size]): the R words before and after each label."""
    if batch_size < 1 or R < 1:
        raise UserError(f"cbow_batch: batch_size {batch_size}, R {R}; both must be at least 1")
    windows = _windows(token, batch_size, R, start)
    return np.delete(windows, R, axis=1), windows[:, R]


def _windows(token: np.ndarray, rows: int, window: int, start: int) -> np.ndarray:
    if len(token) < 2 * window + 1:
        raise UserError(f"the text has {len(token)} words; a window of {window} on both sides needs {2 * window + 1}")
    first = (start + np.arange(rows)) % (len(token) - 2 * window)
    return np.asarray(token, np.int32)[first[:, None] + np.arange(2 * window + 1)]
