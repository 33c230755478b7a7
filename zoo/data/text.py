"""Running text: files to streams of tokens, and the two texts that language models are compared on.

A split is one array of token ids int32 [N]; zoo.data.streams makes windows of it. Words are separated by white space,
and every line ends with `<eos>` (as in Mikolov's preparation of the Penn Treebank); as characters it ends with a
newline. The vocabulary is in the order of falling counts, of the training text; what it does not have is `<unk>`.
"""

import gzip
import lzma
import pathlib
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from zoo.errors import UserError
from zoo.types import Source

Path = pathlib.Path
EOS, UNK = "<eos>", "<unk>"
# Of config.data, for sets that are text.
OPTIONS = {
    "tokens": "auto",  # 'characters' or 'words'; 'auto': words of the Penn Treebank and of sentences, else characters
    "min_count": 1,  # a token that is rarer in the training text is <unk>
    "vocab_size": 0,  # the most frequent tokens, with <unk> and <eos>; 0: all
    "length": 64,  # tokens in a window of training; what sentences are padded or cut to
}
SPLITS = {"train": ("train",), "validation": ("valid", "val", "validation", "dev"), "test": ("test",)}
OPENERS = {".gz": gzip.open, ".xz": lzma.open}
UNREADABLE = (OSError, EOFError, lzma.LZMAError, zlib.error)  # what reading a file raises, or unpacking a damaged one


def check_options(options: Mapping) -> None:
    if options["tokens"] not in ("auto", "characters", "words"):
        raise UserError(f"config.data.tokens is {options['tokens']!r}; it must be 'auto', 'characters' or 'words'")
    for key, least in (("min_count", 1), ("vocab_size", 0), ("length", 1)):
        if options[key] < least:
            raise UserError(f"config.data.{key} is {options[key]}; it must be at least {least}")


def load(path: Path, options: Mapping) -> Source:
    """`text:<path>`: one file, or a folder.

    A folder with a file for training (train.txt, or a name that has the word, such as ptb.train.txt.xz) and perhaps for
    validation and test has these splits; else its *.txt files are one text, in the order of their names.

    Raises:
      UserError: no such file, not UTF-8 (with the offset), empty, or a vocabulary of one.
    """
    if not path.exists():
        raise UserError(f"text:{path}: no such file or folder")
    if path.is_file():
        return source({"train": read(path)}, options, str(path))
    files = sorted(
        p for p in path.iterdir() if p.name.removesuffix(p.suffix if p.suffix in OPENERS else "").endswith(".txt")
    )
    if not files:
        raise UserError(f"text:{path}: the folder has no .txt files")
    found = split_files(files, ".txt")
    if "train" not in found:
        return source({"train": "".join(map(read, files))}, options, str(path))
    return source({split: read(file) for split, file in found.items()}, options, str(path))


def split_files(files: Iterable[Path], ending: str) -> dict[str, Path]:
    """Split -> the file that has its word in its name, between dots, before `ending`."""
    found = {}
    for file in files:
        words = file.name.partition(ending)[0].split(".")
        for split, names in SPLITS.items():
            if set(words) & set(names):
                if split in found:
                    raise UserError(f"{found[split]} and {file.name} are both called the {split} split")
                found[split] = file
    return found


def ptb(data_dir: Path, options: Mapping) -> Source:
    """The Penn Treebank as Mikolov prepared it: 929,589 / 73,760 / 82,430 tokens with <eos>, 10,000 word types."""
    if options["tokens"] == "auto":
        options = {**options, "tokens": "words"}
    return load(_find(data_dir, "text/ptb", "ptb"), options)


def tinyshakespeare(data_dir: Path, options: Mapping) -> Source:
    """1,115,394 characters of Shakespeare's plays, 65 different ones (Karpathy 2015); the last 10 % are the test."""
    whole = load(_find(data_dir, "text/tinyshakespeare.txt", "tinyshakespeare.txt"), options)
    token = whole.train["token"]
    start = len(token) * 9 // 10
    return whole._replace(train={"token": token[:start]}, test={"token": token[start:]})


def _find(data_dir: Path, *names: str) -> Path:
    for name in names:
        if (data_dir / name).exists():
            return data_dir / name
    raise UserError(f"{data_dir / names[0]} does not exist; put it there, or set ZOO_DATA_DIR or config.data.dir")


def read(path: Path) -> str:
    """A text file, perhaps compressed (.gz, .xz); every line ends with a newline, whatever it is in the file."""
    try:
        with OPENERS.get(path.suffix, open)(path, "rb") as file:
            data = file.read()
    except UNREADABLE as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        offset = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        raise UserError(f"{path} is not UTF-8: byte 0x{data[offset]:02x} at offset {offset}") from None


def source(texts: Mapping[str, str], options: Mapping, what: str) -> Source:
    """Token ids of the texts by split; `what` names them in an error line."""
    check_options(options)
    words = options["tokens"] == "words"
    split = {name: (_words if words else list)(text) for name, text in texts.items()}
    for name, tokens in split.items():
        if not set(tokens) - {EOS}:
            raise UserError(f"{what}: the {name} text is empty")
    counts = Counter(split["train"])
    if len(counts.keys() - {EOS, UNK}) < 2:
        raise UserError(
            f"{what}: the text has one {'word' if words else 'character'}, {next(iter(counts))!r}; it needs 2"
        )
    others = set().union(*(split[name] for name in split.keys() - {"train"}))
    vocab = vocabulary(counts, options, must=(EOS if words else "\n",), unknown=bool(others - counts.keys()))
    arrays = {name: {"token": encode(tokens, vocab)} for name, tokens in split.items()}
    return Source(**arrays, vocab=vocab)


def _words(text: str) -> list[str]:
    return [word for line in text.splitlines() for word in (*line.split(), EOS)]


def vocabulary(counts: Counter, options: Mapping, *, must: Sequence[str] = (), unknown: bool) -> tuple[str, ...]:
    """Tokens by falling count (equal ones by name), within `min_count` and `vocab_size`.

    Args:
      must: tokens that are never left out.
      unknown: <unk> is needed even where nothing is left out.
    """
    counts = Counter(counts) + Counter()
    order = sorted(counts.keys() | set(must), key=lambda token: (-counts[token], token))
    kept = [token for token in order if counts[token] >= options["min_count"] or token in (*must, UNK)]
    if not set(kept) - {*must, UNK}:
        raise UserError(f"config.data.min_count is {options['min_count']}; no token of the text comes that often")
    size = options["vocab_size"] or len(kept) + 1
    if UNK not in kept and (unknown or len(kept) < len(order) or len(kept) > size):
        kept.append(UNK)
    always = [token for token in kept if token in (*must, UNK)]
    if size < len(always) + 1:
        raise UserError(f"config.data.vocab_size is {size}; it must be at least {len(always) + 1}, with {always}")
    if len(kept) > size:
        free = size - len(always)
        chosen = set([token for token in kept if token not in always][:free]) | set(always)
        kept = [token for token in kept if token in chosen]
    return tuple(kept)


def encode(tokens: Iterable[str], vocab: Sequence[str]) -> np.ndarray:
    """int32 ids; the id of <unk> for what `vocab` does not have."""
    ids = {token: i for i, token in enumerate(vocab)}
    unknown = ids.get(UNK, -1)
    return np.fromiter((ids.get(token, unknown) for token in tokens), np.int32)
