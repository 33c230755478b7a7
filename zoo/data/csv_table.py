"""Tables in text files: `csv:<path>?target=<column>`, with more options behind it, divided by `&` as in a URL.

    csv:/data/houses.csv?target=price&categories=zip&drop=id

A space in a name is written `+` or `%20`, and `+` itself `%2B`. A column is of numbers if all its values are, else of
categories; so is the target: numbers are for task regression, and classes, words or named in `categories`, for task
classification. The path is a file, or a folder with train.csv and perhaps valid.csv and test.csv; .gz and .xz are read
as they are.
"""

import csv
import io
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from zoo import options as options_of
from zoo.data import text
from zoo.errors import UserError, did_you_mean, few
from zoo.types import Source

Path = pathlib.Path

DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "space": " "}
MISSING = "?,NA,N/A,NaN,nan,null"
READING = ("header", "delimiter", "missing")  # the options that say how a file is read


class Table(NamedTuple):
    """The cells of a file: column -> strings [N], '' where a value is missing; and the line of each row."""

    path: Path
    columns: dict[str, list[str]]
    lines: list[int]


def parse(rest: str) -> tuple[str, dict[str, str]]:
    """(path, options) of what follows `csv:`.

    Raises:
      UserError: an option that does not exist, is given twice or has no value, or no target.
    """
    path, _, query = rest.partition("?")
    options = options_of.from_query(f"csv:{path}", load, query)
    if not path or not options.get("target"):
        raise UserError(f"csv:{rest}: a table needs a path and a target, as in csv:/data/mine.csv?target=price")
    return path, options


def load(
    path: Path,
    *,
    target: str = "",
    header: str = "yes",
    delimiter: str = "",
    missing: str = MISSING,
    categories: str = "",
    drop: str = "",
) -> Source:
    """The table in a file, or those in a folder.

    Args:
      path: file or folder.
      target: the column to predict.
      header: 'yes': the first line has the names of the columns; 'no': they are '1', '2', ...
      delimiter: a name of DELIMITERS or the character itself; '': found in the first lines. With 'space' several
        spaces or tabs are one.
      missing: what stands for a missing value, divided by commas; an empty cell always does.
      categories: columns, divided by commas, whose numbers are names.
      drop: columns to leave out, divided by commas.

    Raises:
      UserError: no such file or column, an empty file, one that is not UTF-8, a row with more or fewer cells than the
        first, a column without values, a split that does not fit the training split.
    """
    if not path.exists():
        raise UserError(f"csv:{path}: no such file or folder")
    files = {"train": path}
    if path.is_dir():
        kinds = {ending: sorted(path.glob(f"*{ending}*")) for ending in (".csv", ".tsv")}
        found = (text.split_files(files, ending) for ending, files in kinds.items())
        files = next((splits for splits in found if "train" in splits), None)
        if files is None:
            raise UserError(f"csv:{path}: the folder has no train.csv or train.tsv")
    reading = {"header": header, "delimiter": delimiter, "missing": _names(missing)}
    tables = {split: read(file, **reading) for split, file in files.items()}
    return source(tables, target=target, categories=_names(categories), drop=_names(drop))


def reading_of(name: str) -> str:
    """Those of the options in the name of a data set that say how a file is read, as they stand there."""
    parts = name.partition("?")[2].split("&")
    return "&".join(part for part in parts if part.partition("=")[0] in READING)


def read_new(path: Path, query: str, names: Sequence[str], *, ordered: bool) -> Table:
    """A new table for a model with inputs `names`, which was trained on one that was read by `query` of `reading_of`.

    Without a header the columns have these names, if they are known to be `ordered` as in the file. Where the training
    had none either, names are places in the file, or among the inputs where there are no other columns.
    """
    options = options_of.from_query("csv_options", load, query)
    if "missing" in options:
        options["missing"] = _names(options["missing"])
    if options.get("header") != "no":
        return read(path, **options | {"header": "", "names": names if ordered else ()})
    found = read(path, **options)
    if len(found.columns) != len(names):
        return found
    places = sorted(names, key=lambda name: (len(name), name))  # of numbers
    return found._replace(columns=dict(zip(places, found.columns.values(), strict=True)))


def _names(listed: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in listed.split(",") if name.strip())


def read(
    path: Path,
    *,
    header: str = "yes",
    delimiter: str = "",
    missing: Iterable[str] = _names(MISSING),
    names: Sequence[str] = (),
    content: str | None = None,
) -> Table:
    """A file as it stands; `names` of the columns where it has no header, `content` in place of what is in the file.

    A `header` of '' is the first line unless that is all numbers.
    """
    content = text.read(path) if content is None else content
    lines = list(io.StringIO(content))
    if not any(line.strip() for line in lines):
        raise UserError(f"{path}: the file is empty")
    if header not in ("yes", "no", ""):
        raise UserError(f"{path}: header is {header!r}; it must be 'yes' or 'no'")
    delimiter = DELIMITERS.get(delimiter, delimiter) or _sniff(lines)
    if len(delimiter) != 1:
        raise UserError(f"{path}: delimiter is {delimiter!r}; it must be one character, or {', '.join(DELIMITERS)}")
    reader = _reader(lines, delimiter)
    rows, numbers, missing = [], [], set(missing)
    try:
        for row in reader:
            if row:
                rows.append(["" if cell.strip() in missing else cell.strip() for cell in row])
                numbers.append(reader.line_num)
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}") from None
    if header == "yes" or (not header and not _are_numbers(rows[0])):
        names, rows, numbers = rows[0], rows[1:], numbers[1:]
        if all(_is_number(name) for name in names):
            raise UserError(f"{path}: the first line has only numbers, and no names of columns; add header=no")
        if not all(names) or len(set(names)) < len(names):
            raise UserError(f"{path}: each column needs a name of its own, and the first line has {', '.join(names)}")
    names = names or [str(i + 1) for i in range(len(rows[0]))]
    if not rows:
        raise UserError(f"{path}: the file has a header and no rows")
    for row, line in zip(rows, numbers, strict=True):
        if len(row) != len(names):
            raise UserError(f"{path}, line {line}: {len(row)} cells, but there are {len(names)} columns")
    return Table(path, dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)), numbers)


def _reader(lines: Iterable[str], delimiter: str, *, strict: bool = True):
    if delimiter == " ":
        lines = (line.replace("\t", " ").strip() for line in lines)
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=strict)


def _sniff(lines: Sequence[str]) -> str:
    """The delimiter that gives the first lines equally many cells, and the most."""
    lines = [line for line in lines if line.strip()][:10]

    def score(delimiter: str) -> tuple[int, int]:
        try:
            cells = [len(row) for row in _reader(lines, delimiter, strict=False)]
        except csv.Error:  # a cell is too long
            return 0, 0
        return (cells.count(cells[0]) if cells[0] > 1 else 0), cells[0]

    return max(DELIMITERS.values(), key=score)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # 2020_01 is a number to Python


def _are_numbers(cells: Iterable[str]) -> bool:
    return all(_is_number(cell) for cell in set(cells) if cell)


def source(
    tables: Mapping[str, Table], *, target: str, categories: Sequence[str] = (), drop: Sequence[str] = ()
) -> Source:
    """Tables by split as a Source; what a column is, the training table says."""
    train = tables["train"]
    for what, wanted in (("target", [target]), ("categories", categories), ("drop", drop)):
        for name in wanted:
            if name not in train.columns:
                raise UserError(f"{train.path}: {what}: there is no column {name!r}{did_you_mean(name, train.columns)}")
    if target in drop:
        raise UserError(f"{train.path}: drop: {target!r} is the target")
    kept = [name for name in train.columns if name not in (target, *drop)]
    if not kept:
        raise UserError(f"{train.path}: there is no column beside the target")
    for name in kept:
        if not any(train.columns[name]):
            raise UserError(f"{train.path}: column {name!r} has no value in any row; leave it out with drop={name}")
    words = [name for name in kept if name in categories or not _are_numbers(train.columns[name])]
    numbers = [name for name in kept if name not in words]
    for name in words:
        _check_levels(train, name)
    class_names = None
    if target in categories or not _are_numbers(train.columns[target]):
        found = set(train.columns[target]) - {""}
        class_names = tuple(sorted(found, key=float if _are_numbers(found) else None))
        if len(class_names) < 2:
            raise UserError(f"{train.path}: target {target!r} is {class_names[0]!r} in every row; it needs 2 classes")
    splits = {}
    for split, table in tables.items():
        if table is not train:
            _check_columns(table, train, (*kept, target), words)
        splits[split] = inputs(table, numbers, words) | _answers(table, target, class_names)
    names = {"feature_names": tuple(numbers) or None, "category_names": tuple(words) or None}
    return Source(**splits, class_names=class_names, **names)


def inputs(table: Table, numbers: Sequence[str], words: Sequence[str]) -> dict[str, np.ndarray]:
    """'feature' float32 [N, len(numbers)], NaN where a value is missing, and 'category' strings [N, len(words)]."""
    arrays = {}
    if numbers:
        arrays["feature"] = np.stack([_floats(table, name) for name in numbers], axis=1)
    if words:
        arrays["category"] = np.stack([np.array(table.columns[name]) for name in words], axis=1)
    return arrays


def _floats(table: Table, name: str) -> np.ndarray:
    found = np.empty(len(table.lines), np.float32)
    for row, cell in enumerate(table.columns[name]):
        value = float(cell) if cell and _is_number(cell) else np.nan
        if cell and not abs(value) <= float(np.finfo(np.float32).max):
            raise UserError(
                f"{table.path}, line {table.lines[row]}: column {name!r} is {cell!r}; it must be a finite number"
            )
        found[row] = value
    return found


def _answers(table: Table, target: str, class_names: Sequence[str] | None) -> dict[str, np.ndarray]:
    cells = table.columns[target]
    if "" in cells:
        raise UserError(f"{table.path}, line {table.lines[cells.index('')]}: the target {target!r} is missing")
    if class_names is None:
        return {"target": _floats(table, target)}
    places = {name: i for i, name in enumerate(class_names)}
    for cell, line in zip(cells, table.lines, strict=True):
        if cell not in places:
            raise UserError(
                f"{table.path}, line {line}: class {cell!r} is not in the training file{did_you_mean(cell, places)}"
            )
    return {"label": np.array([places[cell] for cell in cells], np.int32)}


def _check_levels(table: Table, name: str) -> None:
    """Refuses a name or a measurement as a category."""
    rows, levels = len(table.lines), len(set(table.columns[name]))
    if levels > 20 and levels > rows / 2:
        raise UserError(
            f"{table.path}: column {name!r} has {levels} different values in {rows} rows, too many for a category; "
            f"leave it out with drop={name}"
        )


def _check_columns(table: Table, train: Table, names: Sequence[str], words: Sequence[str]) -> None:
    for name in names:
        if name not in table.columns:
            raise UserError(
                f"{table.path}: column {name!r} of {train.path.name} is missing{did_you_mean(name, table.columns)}"
            )
    for name in words:
        found, known = set(table.columns[name]) - {""}, set(train.columns[name])
        if found and _are_numbers(found) and not found & known:
            raise UserError(
                f"{table.path}: column {name!r} has the numbers {few(map(repr, sorted(found)))}; in {train.path.name} "
                f"it has the categories {few(map(repr, sorted(known - {''})))}"
            )
