"""Word vectors against people's judgements: analogies and pairs, in the formats of word2vec and WordSim-353."""

import pathlib
from typing import Any

import numpy as np

from zoo.errors import UserError
from zoo.words.vectors import Vectors


def pairs(vectors: Vectors, path: str | pathlib.Path) -> dict[str, Any]:
    """Agreement with a file of lines `word word score`, split by tabs, spaces or commas; '#' begins a comment.

    Words are compared in lower case. Returns {'spearman', 'pearson', 'count', 'unknown'}: pairs with a word that has
    no vector count as unknown and are left out.
    """
    from scipy import stats  # takes 0.4 s: only where it is asked for

    index, unit, asked, unknown = _folded(vectors), vectors.unit(), [], 0
    for number, line in _lines(path):
        if line.startswith("#"):
            continue
        parts = line.replace(",", " ").split()
        try:
            one, other, score = parts[0], parts[1], float(parts[2])
            if len(parts) != 3 or not np.isfinite(score):
                raise ValueError
        except (ValueError, IndexError):
            raise UserError(f"{path}:{number}: {line!r} is not a pair; a line is: word word score") from None
        if one.lower() in index and other.lower() in index:
            asked.append((unit[index[one.lower()]] @ unit[index[other.lower()]], score))
        else:
            unknown += 1
    if len(asked) < 2:
        raise UserError(f"{path}: only {len(asked)} pair(s) of words that have vectors; a correlation needs 2")
    found, scores = zip(*asked, strict=True)
    if len(set(found)) < 2 or len(set(scores)) < 2:
        raise UserError(f"{path}: all {len(asked)} pairs have the same similarity or score; there is no correlation")
    return {
        "spearman": float(stats.spearmanr(found, scores)[0]),
        "pearson": float(stats.pearsonr(found, scores)[0]),
        "count": len(asked),
        "unknown": unknown,
    }


def analogies(vectors: Vectors, path: str | pathlib.Path, *, restrict: int = 300_000) -> dict[str, dict[str, Any]]:
    """Accuracy over a file of questions `a b c d` in sections `: name`, by 3CosAdd.

    Args:
      vectors: what to ask.
      path: of the questions; words are compared in lower case.
      restrict: only the first (most frequent) so many words are known and may be the answer.

    Returns:
      section -> {'correct', 'count', 'unknown', 'accuracy'}, and 'total'. The accuracy of no question is NaN.
    """
    limited = Vectors(vectors.words[:restrict], vectors.table[:restrict])
    index, unit, sections, name = _folded(limited), limited.unit(), {}, "(no section)"
    # Of words that differ in case alone, the most frequent stands for all.
    first = np.array([index[word.lower()] for word in limited.words])
    for number, line in _lines(path):
        if line.startswith(":"):
            name = line[1:].strip()
            continue
        words = line.lower().split()
        if len(words) != 4:
            raise UserError(f"{path}:{number}: {line!r} is not a question; a line is four words, or ': section'")
        sections.setdefault(name, []).append([index.get(word, -1) for word in words])
    if not sections:
        raise UserError(f"{path} has no questions")
    results = {}
    for name, rows in sections.items():
        asked = np.array(rows)
        asked = asked[(asked >= 0).all(1)]
        correct = 0
        for start in range(0, len(asked), 512):  # 512 x V similarities at a time
            a, b, c, d = asked[start : start + 512].T
            similar = (unit[b] - unit[a] + unit[c]) @ unit.T
            for known in (a, b, c):
                similar[first[None, :] == known[:, None]] = -np.inf
            correct += int((first[similar.argmax(1)] == d).sum())
        results[name] = {"correct": correct, "count": len(asked), "unknown": len(rows) - len(asked)}
    total = {key: sum(result[key] for result in results.values()) for key in ("correct", "count", "unknown")}
    results["total"] = total
    for result in results.values():
        result["accuracy"] = result["correct"] / result["count"] if result["count"] else float("nan")
    return results


def _folded(vectors: Vectors) -> dict[str, int]:
    return {word.lower(): i for i, word in reversed(list(enumerate(vectors.words)))}


def _lines(path):
    """(number, stripped line) of the lines of a UTF-8 file that are not empty."""
    try:
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    text = line.decode("utf-8").removeprefix("\ufeff").strip()  # of Windows, before the first word
                except UnicodeDecodeError as error:
                    raise UserError(f"{path}:{number}: not UTF-8 text at byte {error.start} of the line") from None
                if text:
                    yield number, text
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
