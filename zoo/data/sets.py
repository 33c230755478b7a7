"""Data sets by name, as they come: embedded, generated, or read from files.

A new data set is one function that returns a `Source`, and one line in DATASETS.
"""

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from zoo import options as options_of
from zoo.data import (
    adding,
    cifar,
    corpus,
    csv_table,
    grammar,
    idx,
    isbi,
    morse,
    sentences,
    sklearn_sets,
    tables,
    text,
)
from zoo.data import folder as image_folder
from zoo.data import shapes as drawn_shapes
from zoo.errors import UserError, lookup
from zoo.types import Source

DATASETS: dict[str, Callable[[pathlib.Path], Source]] = {
    "adding": adding.adding,
    "adult": tables.adult,
    "auto_mpg": tables.auto_mpg,
    "breast_cancer": sklearn_sets.breast_cancer,
    "breast_cancer_wisconsin": tables.breast_cancer_wisconsin,
    "cifar10": cifar.cifar10,
    "cifar100": cifar.cifar100,
    "cifar100_coarse": cifar.cifar100_coarse,
    "diabetes": sklearn_sets.diabetes,
    "digits": sklearn_sets.digits,
    "fashion_mnist": idx.fashion_mnist,
    "iris": sklearn_sets.iris,
    "isbi2012": isbi.isbi2012,
    "mnist": idx.mnist,
    "morse": morse.morse,
    "morse_difficult": morse.morse_difficult,
    "morse_words": morse.morse_words,
    "shapes": drawn_shapes.shapes,
    "wine": sklearn_sets.wine,
}
# Those with options in the name, as in morse?noise=4&shift=yes: what makes them, whose arguments these are.
GENERATED = {"adding": adding.generate, "morse": morse.generate, "morse_words": morse.words}
# Texts: these take the settings of `zoo.data.text.OPTIONS` too. Kinds go by a path, as in text:/data/novel.txt.
TEXTS = {"ptb": text.ptb, "sst2": sentences.sst2, "tinyshakespeare": text.tinyshakespeare}
TEXT_KINDS = {"sentences": sentences.load, "text": text.load}
KINDS = ("csv", "folder", "tfds", "words", *TEXT_KINDS)


def data_dir(setting: str | None = None) -> pathlib.Path:
    """`config.data.dir`, else $ZOO_DATA_DIR, else ~/.cache/zoo/data."""
    return pathlib.Path(setting or os.environ.get("ZOO_DATA_DIR") or "~/.cache/zoo/data").expanduser()


def load(
    name: str,
    folder: str | None = None,
    *,
    image_size: int = 0,
    on_error: str = "stop",
    text_options: Mapping[str, Any] = text.OPTIONS,
) -> Source:
    """The data set called `name` as it comes.

    Args:
      name: one of DATASETS or TEXTS, one of GENERATED with options, `tfds:<name>`, or `folder:`, `sentences:`,
        `text:<path>` or `csv:<path>?target=<column>` (a path is relative to the working folder, else to `folder`).
      folder: as `data_dir` takes it.
      image_size, on_error: of `folder:` sets, whose images may be of any size, and damaged; see zoo.data.folder.
      text_options: values for all of `zoo.data.text.OPTIONS`.

    Raises:
      UserError: an unknown name, missing or damaged files.
    """
    if on_error not in ("stop", "skip"):
        raise UserError(f"config.data.on_error is {on_error!r}; it must be 'stop' or 'skip'")
    kind, colon, rest = name.partition(":")
    if colon:
        lookup("kind of data set", kind, dict.fromkeys(KINDS))
    if on_error == "skip" and kind != "folder":
        raise UserError(f"config.data.on_error is 'skip', which only folder: data sets support, not {name!r}")
    if name not in TEXTS and kind not in TEXT_KINDS:
        for key, default in text.OPTIONS.items():
            if text_options[key] != default:
                raise UserError(f"config.data.{key} is {text_options[key]!r}, but data set {name!r} is not text")
    if colon and kind in ("csv", "folder", *TEXT_KINDS):
        rest, table_options = csv_table.parse(rest) if kind == "csv" else (rest, None)
        if not rest:
            raise UserError(f"data set {name!r} has no path; it must be {kind}:<path>, as in {kind}:/data/mine")
        path = pathlib.Path(rest).expanduser()
        path = next((p for p in (path, data_dir(folder) / path) if p.exists()), path).absolute()
        if kind in TEXT_KINDS:
            return TEXT_KINDS[kind](path, text_options)
        if kind == "csv":
            return csv_table.load(path, **table_options)
        return image_folder.load(path, image_size=image_size, on_error=on_error)
    if kind == "tfds" and colon:
        from zoo.data import tfds_source

        return tfds_source.load(rest, data_dir=folder)
    if "?" in name:
        name, _, query = name.partition("?")
        generate = lookup("data set with options", name, GENERATED)
        return generate(**options_of.from_query(f"data set {name!r}", generate, query))
    if name in TEXTS:
        return TEXTS[name](data_dir(folder), text_options)
    return lookup("data set", name, DATASETS | TEXTS)(data_dir(folder))


def load_corpus(options: Mapping[str, Any]) -> corpus.Corpus:
    """The corpus of `config.data`: grammar, or `words:<path>`, several paths separated by commas.

    A path is relative to the working folder, else to `data_dir`.

    Raises:
      UserError: a file that cannot be read, or a vocabulary of less than two words.
    """
    name, limits = options["name"], {key: options[key] for key in ("min_count", "vocab_size")}
    for key in limits:
        if limits[key] < 0 or (key == "vocab_size" and limits[key] == 1):
            raise UserError(f"config.data.{key} is {limits[key]}; it must be 0 or more, and vocab_size not 1")
    if name == "grammar":
        return grammar.load(**limits)
    paths = [pathlib.Path(path).expanduser() for path in name.removeprefix("words:").split(",") if path]
    if not paths:
        raise UserError("data set 'words:' has no path; it must be words:<path>, as in words:/data/text8.txt")
    folder = data_dir(options["dir"])
    found = [next((p for p in (path, folder / path) if p.exists()), path) for path in paths]
    texts = (sentence for path in found for sentence in corpus.sentences(path))
    return corpus.encode(texts, **limits, what=f"data set {name!r}")
