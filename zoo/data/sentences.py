"""Labelled sentences: a TSV or CSV of sentence and label per line, or a folder of such files.

Rows are token ids int32 [N, length], -1 behind the end of a sentence; labels are numbered in their sorted order.
"""

import csv
import io
import pathlib
from collections import Counter
from collections.abc import Mapping

import numpy as np

from zoo.data import text
from zoo.errors import UserError
from zoo.types import Source

Path = pathlib.Path
DELIMITERS = {".tsv": "\t", ".csv": ","}
HEADERS = {"label", "sentence", "text"}


def sst2(data_dir: Path, options: Mapping) -> Source:
    """Stanford Sentiment Treebank, two classes, whole sentences: 6,920 / 872 / 1,821 (Socher et al. 2013)."""
    folder = next((p for p in (data_dir / "text/sst2", data_dir / "sst2") if p.is_dir()), data_dir / "text/sst2")
    source = load(folder, options)
    return source._replace(class_names=("negative", "positive"))


def load(path: Path, options: Mapping) -> Source:
    """`sentences:<path>`: a file, or a folder with train.tsv (or .csv) and perhaps dev.tsv and test.tsv.

    A first line that names its columns (label, sentence, text) is a header. TSV has no quotes, CSV has. The vocabulary
    is that of the training sentences, with <unk>.

    Raises:
      UserError: no such file, a line without a sentence and a label or with more or fewer cells than the first (with
        its number), one class, one word, or a label that the training sentences do not have.
    """
    text.check_options(options)
    if not path.exists():
        raise UserError(f"sentences:{path}: no such file or folder")
    files = {"train": path}
    if path.is_dir():
        found = {ending: text.split_files(sorted(path.glob(f"*{ending}")), ending) for ending in DELIMITERS}
        files = next((splits for splits in found.values() if "train" in splits), None)
        if files is None:
            raise UserError(f"sentences:{path}: the folder has no train.tsv or train.csv")
    split = list if options["tokens"] == "characters" else str.split
    rows = {name: _read(file) for name, file in files.items()}
    names = tuple(sorted({label for _, label in rows["train"]}))
    if len(names) < 2:
        raise UserError(f"{files['train']}: all labels are {names[0]!r}; there must be 2 classes or more")
    counts = Counter(token for sentence, _ in rows["train"] for token in split(sentence))
    if len(counts) < 2:
        raise UserError(f"{files['train']}: the sentences have one word, {next(iter(counts))!r}; they need 2")
    vocab = text.vocabulary(counts, options, unknown=True)
    arrays = {}
    for name, pairs in rows.items():
        if unknown := {label for _, label in pairs} - set(names):
            raise UserError(f"{files[name]}: label {min(unknown)!r} is not in {files['train']}: {', '.join(names)}")
        cut = [split(sentence)[: options["length"]] for sentence, _ in pairs]
        token = np.full((len(pairs), options["length"]), -1, np.int32)
        inside = np.arange(options["length"])[None] < np.array([len(tokens) for tokens in cut])[:, None]
        token[inside] = text.encode([token for tokens in cut for token in tokens], vocab)
        arrays[name] = {"token": token, "label": np.array([names.index(label) for _, label in pairs], np.int32)}
    return Source(**arrays, class_names=names, vocab=vocab)


def _read(path: Path) -> list[tuple[str, str]]:
    """(sentence, label) per line."""
    if path.suffix not in DELIMITERS:
        raise UserError(f"{path}: labelled sentences are .tsv or .csv files")
    quoting = csv.QUOTE_NONE if path.suffix == ".tsv" else csv.QUOTE_MINIMAL
    reader = csv.reader(io.StringIO(text.read(path), newline=""), delimiter=DELIMITERS[path.suffix], quoting=quoting)
    rows, columns, width = [], (0, 1), 0
    try:
        for row in reader:
            width = width or len(row)
            named = [cell.strip().lower() for cell in row]
            if reader.line_num == 1 and "label" in named and set(named) & (HEADERS - {"label"}):
                columns = next(i for i, cell in enumerate(named) if cell in HEADERS - {"label"}), named.index("label")
                continue
            if not row:
                continue
            if len(row) <= max(columns) or not all(row[i].strip() for i in columns):
                raise UserError(f"{path}, line {reader.line_num}: it must have a sentence and a label: {row}"[:200])
            if len(row) != width:
                line = f"{path}, line {reader.line_num}: {len(row)} cells, but the first line has {width}"
                raise UserError(f"{line}; a sentence with a comma needs quotes" if path.suffix == ".csv" else line)
            rows.append((row[columns[0]].strip(), row[columns[1]].strip()))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}") from None
    if not rows:
        raise UserError(f"{path}: the file is empty")
    return rows
