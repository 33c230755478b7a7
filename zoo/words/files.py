"""Files of word vectors: word2vec's binary and text formats, GloVe's, NumPy's, the projector's, and runs of ours.

word2vec: a line `V D`, then per word its name, a space and D numbers (float32 little-endian in the binary form). GloVe
is the text form without the first line. NumPy's .npz has arrays `words` [V], `vectors` [V, D] and perhaps `output`
[V, D]. All may be compressed by gzip, for writing by a name that ends in .gz.
"""

import codecs
import contextlib
import gzip
import math
import mmap
import pathlib
import zlib

import numpy as np

from zoo.errors import UserError, lookup
from zoo.words.vectors import Vectors

MOST_FEATURES, MOST_LINE = 2**16, 2**20
SPARE, RATIO = 2**25, 8  # a file of gzip may grow to SPARE bytes and RATIO times its size; usual are 1.1 to 4 times
OBJECT = 64  # bytes that Python needs for a word
FORMATS = ("bin", "text", "glove", "npz")


def load(path: str | pathlib.Path, *, format: str = "auto", limit: int | None = None) -> Vectors:
    """Vectors from a file.

    Args:
      path: of the file.
      format: 'bin', 'text', 'glove' or 'npz'; 'auto': 'bin' by the name (.bin, .bin.gz), else by the content.
      limit: the most words to read. Of a repeated word the first is kept, with a printed note.

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
        packed = path.suffix == ".gz" or start[:2] == b"\x1f\x8b"
        room = SPARE + RATIO * path.stat().st_size if packed else math.inf
        with gzip.open(path) if packed else open(path, "rb") as file:
            if format == "bin" or (format == "auto" and _is_binary(path, file)):
                return _checked(path, *_read_binary(path, file, limit, room))
            return _checked(path, *_read_text(path, file, format, limit, room))
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
        if not word or (format != "npz" and any(space in word for space in " \t\n\r")):
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

    _, variables, info = weights.load_model(source)
    params, words = variables["params"], info.get("vocab") or ()
    if {"input", "output"} - set(params):
        raise UserError(f"{source} is not a run of word vectors: its parameters are {', '.join(params)}")
    if len(words) != len(params["input"]):
        raise UserError(f"{source} says {len(words)} words for its {len(params['input'])} vectors; train it again")
    return Vectors(tuple(words), params["input"], params["output"])


def _is_binary(path: pathlib.Path, file) -> bool:
    """By the name .bin; else by whether the second line is text, or a word and as many numbers as the first says."""
    if ".bin" in path.suffixes:
        return True
    header, line = _header(file.readline(200)), file.readline(MOST_LINE)
    file.seek(0)
    if header is None:
        return False
    with contextlib.suppress(ValueError):  # UnicodeDecodeError is one
        if all(letter.isprintable() or letter.isspace() for letter in line.decode()):
            return False
    try:
        return len([float(part) for part in line.split()[1:]]) != header[1]
    except ValueError:
        return True


def _header(line: bytes) -> tuple[int, int] | None:
    parts = line.split()
    if len(parts) == 2 and all(part.isdigit() for part in parts):
        return int(parts[0]), int(parts[1])
    return None


def _read_binary(path, file, limit, room):
    header = _header(file.readline(200))
    if header is None or not all(header) or header[1] > MOST_FEATURES:
        raise UserError(f"{path}:1: no word2vec file: the first line must be the numbers of words and of features")
    count, features = header
    words, rows = [], bytearray()
    for number in range(1, min(count, limit or count) + 1):
        word = bytearray()
        while (letter := file.read(1)) not in (b" ", b"") and len(word) < 10_000:
            word += letter
        row = file.read(4 * features)
        if letter != b" " or len(row) < 4 * features:
            raise UserError(f"{path}: ends or is damaged at word {number} of {count}")
        words.append(_decoded(bytes(word).lstrip(b"\n"), f"{path}: word {number}"))
        rows += row
        room = _left(path, room, len(word) + len(row))
    return words, np.frombuffer(rows, "<f4").reshape(-1, features)


def _read_text(path, file, format, limit, room):
    words, rows, header, features = [], bytearray(), None, None
    lines = iter(lambda: file.readline(MOST_LINE), b"")  # a damaged file may have no end of a line for long
    for number, line in enumerate(lines, start=1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
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
            rows += np.array(parts[-features:], "<f4").data
        except ValueError:
            raise UserError(f"{path}:{number}: a line must be a word and {features} numbers") from None
        words.append(_decoded(b" ".join(parts[:-features]), f"{path}:{number}"))
        room = _left(path, room, len(line))
        if len(words) == limit:
            break
    if header and len(words) not in (header[0], limit):
        raise UserError(f"{path}: the first line announces {header[0]} words, the file has {len(words)}")
    if not words:
        raise UserError(f"{path} has no vectors")
    return words, np.frombuffer(rows, "<f4").reshape(-1, features)


def _left(path, room: float, used: int) -> float:
    """Of the bytes that a file may unpack to, after a word and its vector."""
    room -= used + OBJECT
    if room < 0:
        raise UserError(f"{path}: unpacks to many times its size, which vectors never do: a gzip bomb?")
    return room


def _read_npz(path, limit):
    from zoo.weights import archives  # which reads word vectors too

    try:
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        arrays = archives.npz(archives.members(data), "fiubU")
        words, table = arrays["words"][:limit], arrays["vectors"][:limit]
        output = arrays["output"][:limit] if "output" in arrays else None
    except OSError:
        raise
    except Exception as error:  # whatever damaged bytes make the parsers of zipfile and NumPy raise
        line = (str(error) or type(error).__name__).splitlines()[0][:160]
        raise UserError(f"{path} has no arrays 'words' and 'vectors': {line}") from None
    kinds = words.dtype.kind + table.dtype.kind
    if kinds != "Uf" or words.ndim != 1 or table.ndim != 2 or len(words) != len(table) or not table.shape[1]:
        raise UserError(f"{path}: words {words.dtype}{list(words.shape)} and vectors {table.dtype}{list(table.shape)}")
    if output is not None and (output.dtype.kind != "f" or output.shape != table.shape):
        raise UserError(f"{path}: output {output.dtype}{list(output.shape)} for vectors {list(table.shape)}")
    tables = [table] if output is None else [table, output]
    used = words.nbytes + OBJECT * len(words) + sum(x.nbytes + 4 * x.size for x in tables)
    if used > max(archives.SPARE, 4 * len(data)):
        raise UserError(
            f"{path}: {len(words):,} words and vectors of {table.shape[1]} in {len(data):,} bytes: a zip bomb?"
        )
    return words.tolist(), *(np.array(x, np.float32) for x in tables)


def _decoded(word: bytes, where: str) -> str:
    try:
        return word.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{where}: {word[:40]!r} is not UTF-8 text") from None


def _checked(path, words, table, output=None) -> Vectors:
    if not words:
        raise UserError(f"{path} has no vectors")
    if "" in words:
        raise UserError(f"{path}: word {words.index('') + 1} is empty; there is nothing before its numbers")
    for array in filter(lambda array: array is not None, (table, output)):
        if not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array).all(1))[0])
            raise UserError(f"{path}: the vector of {words[row]!r} (word {row + 1}) is not finite")
    if len(set(words)) < len(words):  # as gensim has it
        first = {word: i for i, word in reversed(list(enumerate(words)))}
        again = next(word for i, word in enumerate(words) if first[word] != i)
        print(f"{path}: {len(words) - len(first)} words again, such as {again!r}; the first is kept", flush=True)
        rows = sorted(first.values())
        words, table = [words[i] for i in rows], table[rows]
        output = None if output is None else output[rows]
    return Vectors(tuple(words), table, output)
