"""Morse code symbols in frames of 64 values (Dey, Chugg & Beerel 2018, arXiv:1807.04239): generated, not stored.

A dot is 1 to 3 values long, a dash 4 to 9, and 1 to 3 zeros lie between; a value of them is Gaussian, mean 12 and
standard deviation 1.34; the frame is clipped to 0..16, divided by 16 and rounded to 3 decimals. 64 classes, with 5,000
training, 1,000 validation and 1,000 test frames each. The paper's baseline has no noise and starts at the first value;
its difficult set has dashes from 3 values, a random start, and noise of standard deviation 4.

Two of the classes, H^ and (, have the same code in the authors' codebook, so of these a half is guessed at best: no
classifier gets more than 63/64 = 98.4 % of all right.
"""

import string

import numpy as np

from zoo.options import check_ranges
from zoo.types import Source

FRAME = 64
ROWS = {"train": 5000, "validation": 1000, "test": 1000}  # of each class
WORDS = {"train": 20_000, "validation": 2000, "test": 2000}
LONGEST = 5  # letters of a word
STEPS, STEP = 64, 4  # of a word, and values of each: 256, more than the longest word has
CODES = {
    "J^": ".---.", "H^": "-.--.", "N~": "--.--", "CH": "----", "G^": "--.-.", "!": "-.-.--", '"': ".-..-.",
    "'": ".----.", "C,": "-.-..", ")": "-.--.-", "(": "-.--.", "+": ".-.-.", "-": "-....-", ",": "--..--",
    "/": "-..-.", ".": ".-.-.-", "1": ".----", "0": "-----", "3": "...--", "2": "..---", "5": ".....",
    "4": "....-", "7": "--...", "6": "-....", "9": "----.", "8": "---..", ";": "-.-.-.", ":": "---...",
    "=": "-...-", "?": "..--..", "A": ".-", "@": ".--.-.", "C": "-.-.", "B": "-...", "E": ".",
    "D": "-..", "G": "--.", "F": "..-.", "I": "..", "H": "....", "K": "-.-", "J": ".---",
    "M": "--", "L": ".-..", "O": "---", "N": "-.", "Q": "--.-", "S": "...", "U": "..-",
    "T": "-", "W": ".--", "V": "...-", "Y": "-.--", "X": "-..-", "Z": "--..", "_": "..--.-",
    "U..": "..--", "D-": "..--.", "O..": "---.", "S^": "...-.", "P": ".--.", "A..": ".-.-", "E`": "..-..",
    "R": ".-.",
}  # fmt: skip
LETTERS = tuple(string.ascii_uppercase)


def morse(data_dir=None) -> Source:
    """Morse code, the baseline: features float32 [N, 64, 1] in 0..1 (for `convnet1d`; an `mlp` flattens them)."""
    return generate()


def morse_difficult(data_dir=None) -> Source:
    """Morse code with short dashes, shifts and noise: the difficult set."""
    return generate(shortest_dash=3, shift=True, noise=4.0)


def generate(
    *, shortest_dash: int = 4, shift: bool = False, noise: float = 0.0, dilation: int = 1, rows=None, seed: int = 2018
) -> Source:
    """A set of other difficulty; equal arguments give equal frames.

    Args:
      shortest_dash: values; the longest has 9.
      shift: zeros in front, as many as leaves the symbol in the frame, at random.
      noise: standard deviation of what is added to all values (which are around 12), before clipping.
      dilation: every length times this, that of the frame too.
      rows: split -> frames of each class; default ROWS.

    Raises:
      UserError: a number that makes no sense.
    """
    check_ranges("morse", shortest_dash=(shortest_dash, 1, 9), dilation=(dilation, 1, 100), **_drawn(noise, seed))
    rng, counts = np.random.default_rng(seed), rows or ROWS
    number = sum(counts.values())
    parts = {split: [] for split in counts}
    for code in CODES.values():
        frames = _frames(rng, code, number, shortest_dash, shift, noise, dilation)
        for split, part in zip(counts, np.split(frames, np.cumsum(list(counts.values()))[:-1]), strict=True):
            parts[split].append(part)
    arrays = {}
    for split, count in counts.items():
        order = rng.permutation(count * len(CODES))
        feature = np.concatenate(parts[split])[order, :, None]
        arrays[split] = {"feature": feature, "label": (order // count).astype(np.int32)}
    return Source(**arrays, class_names=tuple(CODES))


def morse_words(data_dir=None) -> Source:
    """Words of 1 to 5 random letters in Morse code, to be transcribed: features float32 [N, 64, 4], 4 values a step."""
    return words()


def words(*, noise: float = 1.0, rows=None, seed: int = 1844) -> Source:
    """Sequences without alignment: 'transcript' int32 [N, LONGEST], -1 behind the end, numbers of LETTERS.

    Marks are those of the baseline; the word starts anywhere, and 6 to 9 zeros lie between two letters. Equal arguments
    give equal words.

    Args:
      noise: standard deviation of what is added to all values (which are around 12), before clipping.
      rows: split -> words; default WORDS.

    Raises:
      UserError: a number that makes no sense.
    """
    check_ranges("morse_words", **_drawn(noise, seed))
    rng, arrays = np.random.default_rng(seed), {}
    width = max(len(CODES[letter]) for letter in LETTERS)
    lengths = np.array([[_lengths(mark, 4) for mark in CODES[letter].ljust(width)] for letter in LETTERS])
    for split, number in (rows or WORDS).items():
        letter = rng.integers(len(LETTERS), size=(number, LONGEST), dtype=np.int32)
        place, count = np.arange(LONGEST)[None], rng.integers(1, LONGEST + 1, number)[:, None]
        inside = place < count
        low, high = np.moveaxis(lengths[letter] * inside[..., None, None], -1, 0)  # each [N, LONGEST, width]
        marks = rng.integers(low, high + 1)
        gaps = rng.integers(1, 4, marks.shape) * (marks > 0)
        last = (np.array([len(CODES[letter]) for letter in LETTERS])[letter] - 1)[..., None]
        between = rng.integers(6, 10, (number, LONGEST, 1)) * (place + 1 < count)[..., None]
        np.put_along_axis(gaps, last, between, axis=-1)
        signal = _signal(rng, marks.reshape(number, -1), gaps.reshape(number, -1), STEPS * STEP, True, noise)
        arrays[split] = {
            "feature": signal.reshape(number, STEPS, STEP),
            "transcript": np.where(inside, letter, -1).astype(np.int32),
        }
    return Source(**arrays, class_names=LETTERS)


def _drawn(noise: float, seed: int) -> dict[str, tuple[float, float, float]]:
    return {"noise": (noise, 0, 1000), "seed": (seed, 0, 2**63 - 1)}


def _frames(rng, code: str, number: int, shortest_dash: int, shift: bool, noise: float, dilation: int) -> np.ndarray:
    """float32 [number, FRAME * dilation]."""
    low, high = np.array([_lengths(mark, shortest_dash) for mark in code]).T
    marks = dilation * rng.integers(low, high + 1, (number, len(code)))
    gaps = dilation * rng.integers(1, 4, (number, len(code)))
    gaps[:, -1] = 0
    return _signal(rng, marks, gaps, FRAME * dilation, shift, noise)


def _lengths(mark: str, shortest_dash: int) -> tuple[int, int]:
    """Least and most values of a dot or a dash; none of anything else."""
    return {".": (1, 3), "-": (shortest_dash, 9)}.get(mark, (0, 0))


def _signal(rng, marks: np.ndarray, gaps: np.ndarray, values: int, shift: bool, noise: float) -> np.ndarray:
    """float32 [N, values] of the lengths of marks and of the gaps behind them, int [N, M] both; the last gap is 0."""
    ends = np.cumsum(marks + gaps, axis=1) - gaps
    if shift:
        ends += rng.integers(0, np.maximum(values - ends[:, -1], 0) + 1)[:, None]
    edges, row = np.zeros((len(marks), values + 1), np.int32), np.arange(len(marks))[:, None]
    np.add.at(edges, (row, np.minimum(ends - marks, values)), 1)
    np.add.at(edges, (row, np.minimum(ends, values)), -1)
    on = edges.cumsum(axis=1)[:, :-1] > 0
    x = np.where(on, 12 + 1.34 * rng.standard_normal(on.shape, np.float32), 0)
    if noise:
        x += noise * rng.standard_normal(on.shape, np.float32)
    return np.round(np.clip(x, 0, 16) / 16, 3).astype(np.float32)
