"""Weights in the formats of others: what is read, and what is refused without running it."""

import io
import json
import os
import pathlib
import pickle
import struct
import sys
import types
import zipfile
from unittest import mock

import numpy as np
import pytest
import weight_files as make

import zoo
from zoo.errors import UserError
from zoo.weights import files, safetensors

FORMATS = {
    "PyTorch zip": lambda tensors: make.torch_zip(make.state_dict(tensors)),
    "PyTorch": lambda tensors: make.torch_legacy(make.state_dict(tensors)),
    "npz": make.npz,
    "npz, compressed": lambda tensors: make.npz(tensors, compressed=True),
}


@pytest.fixture
def read(tmp_path):
    def read_bytes(content: bytes):
        path = tmp_path / "file"
        path.write_bytes(content)
        return files.read(path)

    return read_bytes


def equal(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("name", FORMATS)
def test_formats(read, name):
    """Told by the bytes: the file has no ending."""
    tensors = make.arrays()
    found = read(FORMATS[name](tensors))
    assert found.format == name.partition(",")[0]
    equal(found.tensors, tensors)


def test_safetensors(tmp_path):
    tensors = make.arrays() | {"b": make.bfloat16([[1.5, -2]]), "flag": np.array([True, False])}
    safetensors.write(tmp_path / "x", tensors, {"said": "é"})
    found = files.read(tmp_path / "x")
    assert (found.format, found.metadata) == ("safetensors", {"said": "é"})
    equal(found.tensors, tensors)
    content = (tmp_path / "x").read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    entry = json.loads(content[8 : 8 + size])["conv1.weight"]
    assert (size % 8, entry["dtype"], entry["shape"]) == (0, "F32", [6, 1, 5, 5])


@pytest.mark.parametrize("start", [b"\x80\x02", b"PK\x03\x00", b"\x89H\x00"])
def test_safetensors_whose_length_looks_like_another_format(read, start):
    text = json.dumps({"w": F32}).encode().ljust(int.from_bytes(start, "little"))
    content = struct.pack("<Q", len(text)) + text + np.ones(2, np.float32).tobytes()
    assert content.startswith(start)
    np.testing.assert_array_equal(read(content).tensors["w"], np.ones(2))


@pytest.mark.parametrize("write", [make.torch_zip, make.torch_legacy])
def test_torch_strides_and_shared_storages(read, write):
    """A transposed view, a slice, and two names for one storage; bfloat16; nested containers beside the weights."""
    base, low = np.arange(24, dtype=np.float32).reshape(4, 6), make.bfloat16(np.arange(6) / 8)
    weights = {
        "transposed": make.Tensor(base.T, strides=(1, 6), key="0"),
        "slice": make.Tensor(base, strides=(6, 2), offset=7, key="0", shape=(3, 2)),
        "low": make.Tensor(low, key="1"),
    }
    weights["transposed"].array = weights["slice"].array = base
    checkpoint = {"epoch": 3, "state_dict": weights, "optimizer": {"state": {0: {"momentum": make.Tensor(base)}}}}
    found = read(write(checkpoint))
    assert found.metadata == {"epoch": 3, "left_out": {"optimizer": 1}}
    np.testing.assert_array_equal(found.tensors["transposed"], base.T)
    np.testing.assert_array_equal(found.tensors["slice"], base[1:, 1:5:2])
    np.testing.assert_array_equal(found.tensors["low"].astype(np.float32), low.astype(np.float32))
    assert found.tensors.keys() == weights.keys()


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_a_tensor_beside_the_weights_is_left_out(read, key):
    """As PyTorch's ImageNet example saves its best accuracy."""
    weights = {"w": make.Tensor(np.ones(2, np.float32))}
    best = make.Tensor(np.array(71.3, np.float32))
    found = read(make.torch_zip({"epoch": 3, "arch": "resnet18", key: weights, "best_acc1": best}))
    assert found.tensors.keys() == {"w"}
    assert found.metadata == {"epoch": 3, "arch": "resnet18", "left_out": {"best_acc1": 1}}


def test_nested_names_of_an_unknown_container(read):
    tensor = make.Tensor(np.ones(2, np.float32))
    found = read(make.torch_zip({"encoder": {"w": tensor}, "decoder": [tensor, {"b": tensor}]}))
    assert found.tensors.keys() == {"encoder/w", "decoder/0", "decoder/1/b"}


class Runs:
    """A pickle that would make a file when loaded as pickles are."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("write", [make.torch_zip, make.torch_legacy])
@pytest.mark.parametrize(
    "function, arguments",
    [
        (os.mkdir, ["hacked"]),
        (eval, ["__import__('os').mkdir('hacked')"]),
        (pathlib.Path.mkdir, [pathlib.Path("hacked")]),
    ],
)
def test_a_pickle_that_runs_code_is_refused(read, tmp_path, monkeypatch, write, function, arguments):
    monkeypatch.chdir(tmp_path)
    content = write({"state_dict": {"w": make.Tensor(np.ones(2, np.float32))}, "x": Runs(function, *arguments)})
    if function is os.mkdir:  # it is a weapon: the usual unpickler does make the folder
        pickle.loads(pickle.dumps(Runs(function, *arguments), 2))
        assert (tmp_path / "hacked").exists()
        (tmp_path / "hacked").rmdir()
    with pytest.raises(UserError, match=r"asks for '[\w.]+', which was not run; .*save model.state_dict\(\)") as error:
        read(content)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    "code, line",
    [
        (b"\x80\x02(S'mkdir hacked'\nios\nsystem\n.", "INST"),
        (b"\x80\x02(cos\nsystem\nS'x'\no.", "'os.system'"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "'os.system'"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "NEWOBJ"),
        (b"\x80\x02ccollections\nOrderedDict\n}b.", "not a dict"),  # would set attributes of the class
        (b"\x80\x02K\x01)R.", "calls a int"),
        (b"\x80\x02]\x94h\x00a.", "holds no tensor"),  # a list in itself
        (b"\x80\x02(((.", "more from its stack"),
        (b"\x80\x02\x8d" + b"\xff" * 7 + b"\x7f.", "expected"),  # a word of 2**63 bytes
        (b"\x80\x02r\xff\xff\xff\x7f.", "list index"),
    ],
)
def test_instructions_that_weights_never_need(read, code, line):
    with pytest.raises(UserError, match=line):
        read(make.zipped({"a/data.pkl": code, "a/byteorder": b"little"}))


def test_a_pickle_that_refers_to_itself_many_times_is_read_once(read):
    value = [make.Tensor(np.ones(1, np.float32))]
    for _ in range(60):  # 2**60 paths lead to the tensor
        value = [value, value]
    assert len(read(make.torch_zip({"w": value})).tensors) == 1


def test_a_whole_pickled_model_is_refused(read):
    module = types.ModuleType("their_net")
    module.Net = type("Net", (), {"__module__": "their_net"})
    with mock.patch.dict(sys.modules, {"their_net": module}):
        content = make.torch_zip(module.Net())
    with pytest.raises(UserError, match=r"their_net\.Net|copyreg"):
        read(content)


@pytest.mark.parametrize(
    "tensor, line",
    [
        (lambda a: make.Tensor(a, shape=(10**12,), strides=(0,)), "does not fit a storage of 24"),  # 4 TB of zeros
        (lambda a: make.Tensor(a, shape=(4, 6), strides=(6, 1), offset=1), "does not fit"),
        (lambda a: make.Tensor(a, shape=(4, 6), strides=(-6, 1)), "is not a tensor"),
        (lambda a: make.Tensor(a, shape=(4, 2.5), strides=(6, 1)), "is not a tensor"),
    ],
)
def test_tensors_beyond_their_storage(read, tensor, line):
    with pytest.raises(UserError, match=line):
        read(make.torch_zip({"w": tensor(np.zeros((4, 6), np.float32))}))


def bomb(declared=None) -> bytes:
    """200 MB of zeros in 200 kB, which may claim to be fewer."""
    content = make.zipped({"w.npy": bytes(200_000_000)}, zipfile.ZIP_DEFLATED)
    return content if declared is None else content.replace(struct.pack("<I", 200_000_000), struct.pack("<I", declared))


def header_of(entries: dict, data=b"") -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "content, line",
    [
        (b"", "is empty"),
        (b"hello, these are not weights", "unknown format"),
        (make.zipped({"a.txt": b"x"}), "zip archive of a.txt"),
        (pickle.dumps({"w": [1.0]}), "not of PyTorch's"),
        (make.torch_legacy({"epoch": 3}), "holds no tensor"),
        (make.torch_zip({"w": make.Tensor(np.ones(9, np.float32))}, zipfile.ZIP_BZIP2), "compressed in a way"),
        (make.npz({"w": np.array([{}], object)}), "never read"),
        (make.npz({"w": np.array([(1, 2)], "i4,f4")}), "weights are numbers"),
        (make.npz({"w": np.array(["word"])}), "weights are numbers"),
        (struct.pack("<Q", 2**62) + b"{}", "a header of 4611686018427387904 bytes"),
        (header_of({"w": F32}), "cannot lie at bytes 0..8 of 0"),
        (header_of({"w": F32 | {"shape": [2**62]}}, bytes(8)), "cannot lie"),
        (header_of({"w": F32 | {"shape": [-2]}}, bytes(8)), "has shape"),
        (header_of({"w": F32 | {"dtype": "F33"}}, bytes(8)), "unknown dtype 'F33'"),
        (header_of({"w": F32, "v": F32}, bytes(8)), "'v'.*cannot lie"),  # two tensors in one place
        (header_of({"w": F32}, bytes(9)), "1 bytes after the last tensor"),
        (header_of({"w": F32, "__metadata__": {"a": 1}}, bytes(8)), "words only"),
        (header_of({}), "holds no tensor"),
        (header_of({"w": F32}, bytes(8)).replace(b'{"w":', b'{"w":1,"w":'), "safetensors"),
    ],
)
def test_refused(read, content, line):
    with pytest.raises(UserError, match=line) as error:
        read(content)
    assert "\n" not in str(error.value)
    assert "file" in str(error.value)


@pytest.mark.parametrize("declared, line", [(None, "200,000,.*zip bomb"), (1_000, "its length or checksum is wrong")])
def test_zip_bombs(read, declared, line):
    with pytest.raises(UserError, match=line):
        read(bomb(declared))


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the weights .*: No such file"):
        files.read(tmp_path / "nothing")
    with pytest.raises(UserError, match="is not a run folder"):
        files.read(tmp_path)


def test_a_file_is_mapped_not_copied(read):
    found = read(make.npz({"w": np.arange(1000.0)})).tensors["w"]
    assert not found.flags.owndata
    assert not found.flags.writeable


def keras_file(tensors, **options) -> bytes:
    buffer = io.BytesIO()
    with pytest.importorskip("h5py").File(buffer, "w") as root:
        for name, array in tensors.items():
            root.create_dataset(name, data=array, **options)
        root.attrs["keras_version"] = "3.15"
    return buffer.getvalue()


def test_keras(read):
    tensors = {f"layers/dense/vars/{name}": array for name, array in make.arrays().items()}
    found = read(keras_file(tensors))
    assert (found.format, found.metadata["keras_version"]) == ("HDF5", "3.15")
    equal(found.tensors, tensors)
    archive = {"model.weights.h5": keras_file(tensors), "config.json": b'{"name": "net"}'}
    found = read(make.zipped(archive))
    assert (found.format, found.metadata["config.json"]) == ("Keras", '{"name": "net"}')
    equal(found.tensors, tensors)


def test_keras_optimizers_are_left_out(read):
    beside = {"optimizer/vars/0": np.ones(3), "layers/dropout/seed_generator/vars/0": np.arange(2)}
    found = read(keras_file({"layers/dense/vars/0": np.ones(2)} | beside))
    assert found.tensors.keys() == {"layers/dense/vars/0"}
    assert found.metadata["left_out"] == {"optimizer and the like": 2}


@pytest.mark.parametrize("chunks", [False, True])
def test_the_order_of_the_layers_of_a_keras_file(read, chunks):
    buffer = io.BytesIO()
    with pytest.importorskip("h5py").File(buffer, "w") as root:
        for layer in ("zz", "aa"):
            for leaf in ("kernel:0", "bias:0"):
                root[f"model_weights/{layer}/{layer}/{leaf}"] = np.ones(2)
            root[f"model_weights/{layer}"].attrs["weight_names"] = [
                f"{layer}/{leaf}:0".encode() for leaf in ("kernel", "bias")
            ]
        attributes = root["model_weights"].attrs
        for name, layers in {"layer_names0": ["zz"], "layer_names1": ["aa"]}.items() if chunks else ():
            attributes[name] = layers
        if not chunks:
            attributes["layer_names"] = ["zz", "aa"]
    names = ["zz/zz/kernel", "zz/zz/bias", "aa/aa/kernel", "aa/aa/bias"]
    assert list(read(buffer.getvalue()).tensors) == names


def test_keras_data_sets_that_claim_to_be_huge(read):
    h5py = pytest.importorskip("h5py")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as root:
        root.create_dataset("w", shape=(10**6, 10**6), dtype="f4", chunks=(10, 10))  # nothing is stored
    with pytest.raises(UserError, match=r"w has the shape \(1000000, 1000000\), in a file of"):
        read(buffer.getvalue())


def test_keras_data_in_other_files(read, tmp_path):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "secret").write_bytes(bytes(8))
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as root:
        root.create_dataset("w", shape=(2,), dtype="f4", external=[(str(tmp_path / "secret"), 0, 8)])
    with pytest.raises(UserError, match="w lies in another file"):
        read(buffer.getvalue())


def test_keras_without_h5py(read, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"needs h5py: pip install -e '\.\[keras\]'"):
        read(b"\x89HDF\r\n\x1a\n" + bytes(100))


def test_a_run_folder(monkeypatch, tmp_path):
    variables = {"params": {"head": {"kernel": np.ones((2, 3), np.float32)}}}
    monkeypatch.setattr(zoo.checkpoint, "load_variables", lambda path: variables if path == tmp_path else None)
    found = files.read(tmp_path)
    equal(found.tensors, {"params/head/kernel": variables["params"]["head"]["kernel"]})
    assert found.format == "run folder"
