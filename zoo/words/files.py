"""Files of word vectors: word2vec's binary and text formats, GloVe's, NumPy's, the projector's, and runs of ours.

word2vec: a line `V D`, then per word its name, a space and D numbers (float32 little-endian in the binary form). GloVe
is the text form without the first line. NumPy's .npz has arrays `words` [V], `vectors` [V, D] and perhaps `output`
[V, D]. All may be compressed by gzip, for writing by a name that ends in .gz.
"""

import gzip
import pathlib
import zipfile
import zlib

import numpy as np

from zoo.errors import UserError, lookup
from zoo.words.vectors import Vectors

MOST_FEATURES, MOST_LINE = 2**16, 2**20
FORMATS = ("bin", "text", "glove", "npz")


def load(path: str | pathlib.Path, *, format: str = "auto", limit: int | None = None) -> Vectors:
    """Vectors from a file.

    Args:
      path: of the file.
      format: 'bin', 'text', 'glove' or 'npz'; 'auto': 'bin' by the name (.bin, .bin.gz), else by the content: whether
        the first line is two numbers.
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
        with open(path, "rb") as file:
            start = file.read(4)
        if format == "npz" or (format == "auto" and start == b"PK\x03\x04"):
            return _checked(path, *_read_npz(path, limit))
        with gzip.open(path) if path.suffix == ".gz" or start[:2] == b"\x1f\x8b" else open(path, "rb") as file:
            if format == "bin" or (format == "auto" and _is_binary(path, file)):
                return _checked(path, *_read_binary(path, file, limit))
            return _checked(path, *_read_text(path, file, format, limit))
    except (OSError, EOFError, zlib.error) as error:
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
        with gzip.open(path, "wb") if path.suffix == ".gz" else open(path, "wb") as file:
            if format == "npz":
                output = {} if vectors.output is None else {"output": np.asarray(vectors.output, "<f4")}
                np.savez(file, words=np.array(vectors.words), vectors=table, **output)
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


def from_run(source: str | pathlib.Path) -> Vectors:
    """The vectors of skipgram or cbow, the output vectors included: of a run folder's last checkpoint, or of a file of
    `zoo.save_weights`."""
    from zoo import weights  # which reads files of vectors with this module

    _, variables, said = weights.load_model(source)
    params, words = variables["params"], said.get("vocab") or ()
    if {"input", "output"} - set(params):
        raise UserError(f"{source} is no run of word vectors: its parameters are {', '.join(params)}")
    if len(words) != len(params["input"]):
        raise UserError(f"{source} says {len(words)} words for its {len(params['input'])} vectors; train it again")
    return Vectors(tuple(words), params["input"], params["output"])


def _is_binary(path: pathlib.Path, file) -> bool:
    """By the name; files without an ending, such as downloads in a cache, by whether the second line is text."""
    if path.suffix:
        return ".bin" in path.suffixes
    header, line = _header(file.readline(200)), file.readline(MOST_LINE)
    file.seek(0)
    try:
        numbers = [float(part) for part in line.split()[1:]]
    except ValueError:
        return header is not None
    return header is not None and len(numbers) != header[1]


def _header(line: bytes) -> tuple[int, int] | None:
    parts = line.split()
    if len(parts) == 2 and all(part.isdigit() for part in parts):
        return int(parts[0]), int(parts[1])
    return None


def _read_binary(path, file, limit):
    header = _header(file.readline(200))
    if header is None or not all(header) or header[1] > MOST_FEATURES:
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
    lines = iter(lambda: file.readline(MOST_LINE), b"")  # a damaged file may have no end of a line for long
    for number, line in enumerate(lines, start=1):
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
            output = arrays["output"][:limit] if "output" in arrays else None
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        line = (str(error) or type(error).__name__).splitlines()[0][:160]
        raise UserError(f"{path} has no arrays 'words' and 'vectors': {line}") from None
    kinds = words.dtype.kind + table.dtype.kind
    if kinds != "Uf" or words.ndim != 1 or table.ndim != 2 or len(words) != len(table):
        raise UserError(f"{path}: words {words.dtype}{list(words.shape)} and vectors {table.dtype}{list(table.shape)}")
    if output is None:
        return words.tolist(), table.astype(np.float32)
    if output.dtype.kind != "f" or output.shape != table.shape:
        raise UserError(f"{path}: output {output.dtype}{list(output.shape)} for vectors {list(table.shape)}")
    return words.tolist(), table.astype(np.float32), output.astype(np.float32)


def _decoded(word: bytes, where: str) -> str:
    try:
        return word.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{where}: {word[:40]!r} is not UTF-8 text") from None


def _checked(path, words, rows, output=None) -> Vectors:
    if not words:
        raise UserError(f"{path} has no vectors")
    vectors = Vectors(tuple(words), np.stack(rows), output)
    for table in filter(lambda table: table is not None, vectors[1:]):
        if not np.isfinite(table).all():
            row = int(np.flatnonzero(~np.isfinite(table).all(1))[0])
            raise UserError(f"{path}: the vector of {words[row]!r} (word {row + 1}) is not finite")
    return vectors
