"""Files of word vectors: word2vec's binary and text formats, GloVe's, NumPy's, the projector's, and runs of ours.

word2vec: a line `V D`, then per word its name, a space and D numbers (float32 little-endian in the binary form). GloVe
is the text form without the first line. A name that ends in .gz is compressed. NumPy's .npz has arrays `words` [V] and
`vectors` [V, D].
"""

import gzip
import json
import pathlib
import zipfile

import numpy as np

from zoo.errors import UserError, lookup
from zoo.words.vectors import Vectors

FORMATS = ("bin", "text", "glove", "npz")


def load(path: str | pathlib.Path, *, format: str = "auto", limit: int | None = None) -> Vectors:
    """Vectors from a file.

    Args:
      path: of the file.
      format: 'bin', 'text', 'glove' or 'npz'; 'auto': 'bin' and 'npz' by the name (.bin, .bin.gz, .npz), else by
        whether the first line is two numbers.
      limit: the most words to read.

    Raises:
      UserError: no such file, or content that is not of the format (with its line or word).
    """
    path = pathlib.Path(path)
    if format != "auto":
        lookup("format of vectors", format, dict.fromkeys(FORMATS))
    if limit is not None and limit < 1:
        raise UserError(f"words.load: limit is {limit}; it must be at least 1")
    try:
        if format == "npz" or (format == "auto" and path.suffix == ".npz"):
            return _checked(path, *_read_npz(path, limit))
        with _open(path, "rb") as file:
            if format == "bin" or (format == "auto" and ".bin" in path.suffixes):
                return _checked(path, *_read_binary(path, file, limit))
            return _checked(path, *_read_text(path, file, format, limit))
    except (OSError, EOFError) as error:
        raise UserError(f"cannot read vectors {path}: {getattr(error, 'strerror', None) or error}") from None


def save(path: str | pathlib.Path, vectors: Vectors, *, format: str = "auto") -> None:
    """Writes vectors; 'auto' is 'bin' for .bin and .bin.gz, 'npz', 'glove' for names with 'glove', else 'text'."""
    path = pathlib.Path(path)
    if format == "auto" and path.suffix == ".npz":
        format = "npz"
    elif format == "auto":
        format = "bin" if ".bin" in path.suffixes else "glove" if "glove" in path.name.lower() else "text"
    lookup("format of vectors", format, dict.fromkeys(FORMATS))
    for word in vectors.words:
        if not word or any(space in word for space in " \t\n\r"):
            raise UserError(f"{path}: word {word!r} cannot be written; a word must have no spaces")
    table = np.asarray(vectors.table, "<f4")
    try:
        with _open(path, "wb") as file:
            if format == "npz":
                np.savez(file, words=np.array(vectors.words), vectors=table)
                return
            if format != "glove":
                file.write(f"{len(table)} {table.shape[1]}\n".encode())
            for word, row in zip(vectors.words, table, strict=True):
                numbers = row.tobytes() if format == "bin" else " ".join(map(str, row)).encode()
                file.write(word.encode() + b" " + numbers + b"\n")
    except OSError as error:
        raise UserError(f"cannot write vectors {path}: {error.strerror or error}") from None


def projector(folder: str | pathlib.Path, vectors: Vectors) -> None:
    """vectors.tsv and metadata.tsv in `folder`, as projector.tensorflow.org takes them."""
    folder = pathlib.Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "vectors.tsv").write_text("".join("\t".join(map(str, row)) + "\n" for row in vectors.table))
        (folder / "metadata.tsv").write_text("".join(f"{word}\n" for word in vectors.words), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror or error}") from None


def from_run(workdir: str | pathlib.Path) -> Vectors:
    """The vectors of the last checkpoint of a run of skipgram or cbow, the output vectors included.

    The vocabulary is read from the corpus that the run's config names.
    """
    from zoo import config, data
    from zoo.checkpoint import load_variables

    workdir = pathlib.Path(workdir)
    params = load_variables(workdir)["params"]
    if {"input", "output"} - set(params):
        raise UserError(f"{workdir} is no run of word vectors: its parameters are {', '.join(params)}")
    try:
        settings = json.loads((workdir / "config.json").read_text())["data"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"cannot read {workdir / 'config.json'}: {error}") from None
    words = data.load_corpus({**config.default().data.to_dict(), **settings}).words
    if len(words) != len(params["input"]):
        raise UserError(f"{workdir}: {len(params['input'])} vectors, but its corpus has {len(words)} words now")
    return Vectors(words, params["input"], params["output"])


def _open(path: pathlib.Path, mode: str):
    return gzip.open(path, mode) if path.suffix == ".gz" else open(path, mode)


def _header(line: bytes) -> tuple[int, int] | None:
    parts = line.split()
    if len(parts) == 2 and all(part.isdigit() for part in parts):
        return int(parts[0]), int(parts[1])
    return None


def _read_binary(path, file, limit):
    header = _header(file.readline(200))
    if header is None or not all(header):
        raise UserError(f"{path}:1: no word2vec file: the first line must be the numbers of words and of features")
    count, features = header
    words, rows = [], []
    for number in range(1, min(count, limit or count) + 1):
        word = bytearray()
        while (letter := file.read(1)) not in (b" ", b"") and len(word) < 10_000:
            word += letter
        row = file.read(4 * features)
        if letter != b" " or len(row) < 4 * features:
            raise UserError(f"{path}: ends or is damaged at word {number} of {count}")
        words.append(_decoded(bytes(word).lstrip(b"\n"), f"{path}: word {number}"))
        rows.append(np.frombuffer(row, "<f4"))
    return words, rows


def _read_text(path, file, format, limit):
    words, rows, header, features = [], [], None, None
    for number, line in enumerate(file, start=1):
        if number == 1 and format != "glove":
            header = _header(line)
            if header is not None:
                features = header[1]
                continue
            if format == "text":
                raise UserError(f"{path}:1: the first line must be the numbers of words and of features")
        # Split from the right: words of GloVe may contain spaces.
        parts = line.rstrip().split(b" ")
        features = len(parts) - 1 if features is None else features
        try:
            if not 0 < features < len(parts):
                raise ValueError
            row = np.array(parts[-features:], np.float32)
        except ValueError:
            raise UserError(f"{path}:{number}: a line must be a word and {features} numbers") from None
        words.append(_decoded(b" ".join(parts[:-features]), f"{path}:{number}"))
        rows.append(row)
        if limit and len(words) == limit:
            return words, rows
    if header and len(words) != header[0]:
        raise UserError(f"{path}: the first line tells of {header[0]} words, there are {len(words)}")
    return words, rows


def _read_npz(path, limit):
    try:
        with np.load(path) as arrays:  # which refuses pickled objects
            words, table = arrays["words"][:limit], arrays["vectors"][:limit]
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        line = str(error.args[0] if error.args else error).splitlines()[0]
        raise UserError(f"{path} has no arrays 'words' and 'vectors': {line}") from None
    kinds = words.dtype.kind + table.dtype.kind
    if kinds != "Uf" or words.ndim != 1 or table.ndim != 2 or len(words) != len(table):
        raise UserError(f"{path}: words {words.dtype}{list(words.shape)} and vectors {table.dtype}{list(table.shape)}")
    return words.tolist(), table.astype(np.float32)


def _decoded(word: bytes, where: str) -> str:
    try:
        return word.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{where}: {word[:40]!r} is not UTF-8 text") from None


def _checked(path, words, rows) -> Vectors:
    if not words:
        raise UserError(f"{path} has no vectors")
    table = np.stack(rows)
    if not np.isfinite(table).all():
        row = int(np.flatnonzero(~np.isfinite(table).all(1))[0])
        raise UserError(f"{path}: the vector of {words[row]!r} (word {row + 1}) is not finite")
    return Vectors(tuple(words), table)
