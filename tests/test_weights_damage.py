"""Thousands of damaged files: always either right or one clear line, in little time and memory."""

import functools
import gzip
import io
import json
import pathlib
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
import weight_files as make

import zoo
from zoo import words
from zoo.errors import UserError
from zoo.weights import files, header, keras_tables, pytorch, rules, safetensors


def ours(path) -> bytes:
    model = zoo.create_model("mlp", widths=(8,))
    params = {"dense1": {"kernel": np.ones((5, 8), np.float32), "bias": np.zeros(8, np.float32)}}
    params["head"] = {"kernel": np.full((8, 10), 0.5, np.float32), "bias": np.arange(10, dtype=np.float32)}
    zoo.save_weights(path, model, {"params": params})
    return path.read_bytes()


def theirs(path) -> bytes:
    safetensors.write(path, make.arrays(), {"said": "something"})
    return path.read_bytes()


def keras(path) -> bytes:
    h5py = pytest.importorskip("h5py")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as root:
        for name, array in make.arrays().items():
            root.create_dataset(f"layers/{name}/vars/0", data=array)
        root.create_dataset("packed", data=np.arange(999.0), chunks=(100,), compression="gzip")
    return buffer.getvalue()


# What checks its contents by itself gives them whole or not at all.
CHECKED = {
    "PyTorch zip": lambda path: make.torch_zip(make.state_dict(make.arrays())),
    "npz": lambda path: make.npz(make.arrays()),
    "npz, compressed": lambda path: make.npz(make.arrays(), compressed=True),
    "ours": ours,
}
PLAIN = {
    "PyTorch": lambda path: make.torch_legacy(make.state_dict(make.arrays())),
    "safetensors": theirs,
    "HDF5": keras,
    "Keras": lambda path: make.zipped({"model.weights.h5": keras(path)}),
}


def word_vectors(name):
    def write(path) -> bytes:
        rng = np.random.default_rng(0)
        path = path.with_name(name)
        words.save(path, words.Vectors(tuple(f"w{i}" for i in range(40)), rng.random((40, 6), np.float32)))
        return path.read_bytes()

    return write


PLAIN |= {f"word vectors{name}": word_vectors(f"v{name}") for name in (".bin", ".txt", ".txt.gz", ".npz")}
FORMATS = CHECKED | PLAIN


def mutations(content: bytes, count: int, seed: int = 0):
    """`count` damaged copies: cut off, bytes changed (mostly where headers are), lengths made huge, parts repeated."""
    rng = np.random.default_rng(seed)
    size = len(content)
    for number in range(count):
        data = bytearray(content)
        # Headers are at the start, zip directories at the end.
        place = rng.choice([rng.integers(size), rng.integers(min(size, 600)), size - 1 - rng.integers(min(size, 600))])
        match number % 6:
            case 0:
                del data[place:]
            case 1:
                data[place] ^= 1 << rng.integers(8)
            case 2:
                for at in rng.integers(max(place - 40, 0), min(place + 40, size), 5):
                    data[at] = rng.integers(256)
            case 3:
                huge = [2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, -(2**31), 10**9][rng.integers(6)]
                wide = "<Q" if huge > 2**32 else "<I"
                part = struct.pack(wide, huge % (1 << 8 * struct.calcsize(wide)))
                data[place : place + len(part)] = part
            case 4:
                other = rng.integers(size)
                data[place:place] = data[other : other + rng.integers(1, 60)]
            case 5:
                data[place : place + rng.integers(1, 200)] = b""
        yield bytes(data)


def attempt(path: pathlib.Path):
    """Everything that reading gives, or None where one line refuses it."""
    line = ""
    try:
        weights = files.read(path)
        if path.name == "ours":
            header.read(path, weights)
    except UserError as error:
        line = str(error)
    if not line:
        return {name: np.array(array) for name, array in weights.tensors.items()}
    assert "\n" not in line
    assert 10 < len(line) < 1000
    return None


def check(name: str, path: pathlib.Path, count: int, seed: int = 0) -> tuple[int, int]:
    """How many of the damaged files were refused, and how many read."""
    content = FORMATS[name](path)
    path.write_bytes(content)
    whole = attempt(path)
    assert len(whole) >= (1 if "word" in name else 4)
    refused = read = 0
    tracemalloc.start()
    for number, data in enumerate(mutations(content, count, seed)):
        path.write_bytes(data)
        start = time.perf_counter()
        tracemalloc.reset_peak()
        found = attempt(path)
        assert time.perf_counter() - start < 10, f"mutation {number}"
        assert tracemalloc.get_traced_memory()[1] < 2 * len(data) + 100e6, f"mutation {number}"
        if found is None:
            refused += 1
            continue
        read += 1
        if name in CHECKED:
            for key in found.keys() & whole.keys():
                assert found[key].tobytes() == whole[key].tobytes(), f"mutation {number}: {key} is wrong"
    tracemalloc.stop()
    return refused, read


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files(tmp_path, name):
    refused, _ = check(name, tmp_path / name.partition(",")[0], 300)
    assert refused > 60  # a sixth is cut off, and more


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_a_thousand_damaged_files(tmp_path, name):
    for seed in range(1, 5):
        refused, _ = check(name, tmp_path / name.partition(",")[0], 1_000, seed)
        assert refused > 200


def packed_words(count) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, words=np.zeros(count, "<U10"), vectors=np.zeros((count, 30), np.float32))
    return buffer.getvalue()


def pickled(code, method) -> bytes:
    return make.zipped({"archive/data.pkl": b"\x80\x02" + code}, method)


STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
BOMBS = {  # -> (content, what the error says)
    "words and vectors": (lambda: packed_words(500_000), "expands to 80,000,256: a zip bomb"),
    "words alone": (lambda: packed_words(350_000), "350,000 words and vectors of 30 in .* a zip bomb"),
    "text": (lambda: gzip.compress((b"a" + b" 1" * 500_000 + b"\n") * 40), "unpacks to many times its size"),
    "binary": (lambda: gzip.compress(b"9999999 50000\n" + (b"a " + bytes(200_000)) * 200), "unpacks to many times"),
    "packed pickle": (lambda: pickled(b"}" * 1_500_000, DEFLATED), "data.pkl is compressed.* a zip bomb"),
    "pickle": (lambda: pickled(b"}" * 1_100_000, STORED), "a pickle of more than 1,065,7.. instructions"),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "pickle")) for n in BOMBS])
def test_bombs(tmp_path, name):
    content, line = BOMBS[name]
    path = tmp_path / "x"
    path.write_bytes(content())
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=line):
            files.read(path)
        assert tracemalloc.get_traced_memory()[1] < 2 * path.stat().st_size + 100e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("legacy", [False, True])
def test_pickles_of_many_instructions(tmp_path, monkeypatch, legacy):
    monkeypatch.setattr(pytorch, "MOST", 1000)
    nested = functools.reduce(lambda inner, _: [inner], range(400), {"w": make.Tensor(np.ones(2, np.float32))})
    (tmp_path / "x").write_bytes((make.torch_legacy if legacy else make.torch_zip)(nested))
    with pytest.raises(UserError, match=r"a pickle of more than 1,0.* instructions"):
        files.read(tmp_path / "x")


def test_what_is_unpacked_is_in_memory_once(tmp_path):
    (tmp_path / "x").write_bytes(make.npz({"w": np.zeros(15 * 2**20, np.float32)}, compressed=True))
    tracemalloc.start()
    files.read(tmp_path / "x")
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


def test_a_short_line_of_a_pickle_is_read_without_what_follows():
    file = pytorch._File(memoryview(b"V\n" * 2**15 + b"x" * 2000 + b"\n"))
    tracemalloc.start()
    assert file.readline() == b"V\n"
    assert tracemalloc.get_traced_memory()[1] < 2000
    tracemalloc.stop()
    file.at = 2**16
    assert file.readline() == b"x" * 2000 + b"\n"
    assert file.readline() == b""


def test_a_changed_weight_of_ours_is_found(tmp_path):
    path = tmp_path / "ours"
    content = ours(path)
    flipped = bytearray(content)
    flipped[-3] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(UserError, match="is damaged: its checksum is not the one in its header"):
        zoo.load_model(path)


@pytest.mark.parametrize(
    "config",
    ["", "{", "[" * 100_000, '{"class_name": "BatchNormalization"}', 7, b"", "[null]"],
    ids=lambda c: str(c)[:9],
)
def test_a_network_of_keras_that_makes_no_sense(config):
    table = rules.Table("Keras", (), usual={"norm_eps": 1e-3})
    model = zoo.create_model("mlp", norm="batch")
    assert keras_tables.told(table, {"config.json": config}, model) == table
    layer = {"class_name": "BatchNormalization", "config": {"epsilon": 0.5}}
    told = keras_tables.told(table, {"model_config": json.dumps([layer])}, model)
    assert told.requires == {"norm_eps": 0.5}


def test_a_header_of_ours_that_makes_no_sense(tmp_path):
    path = tmp_path / "ours"
    content = ours(path)
    for wrong, line in ((b'\\"mlp\\"', "unknown model 'mlq'"), (b'\\"widths\\"', "no option 'widtht'")):
        changed = content.replace(wrong, wrong[:-3] + bytes([wrong[-3] + 1]) + wrong[-2:])
        assert changed != content
        path.write_bytes(changed)
        with pytest.raises(UserError, match=line):
            zoo.load_model(path)
    safetensors.write(path, make.arrays(), {"zoo": json.dumps([1])})
    with pytest.raises(UserError, match="has no header of this zoo"):
        zoo.load_model(path)
