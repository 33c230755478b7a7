"""PyTorch files, zip (since 1.6) and legacy, without PyTorch and without running anything that is in them.

A pickle is a program for a small stack machine. This one has the instructions that build numbers, words and plain
containers, and the few functions of PyTorch that put a tensor together; whatever else a pickle names is refused, and
nothing is ever imported or called on its behalf. Instructions are decoded by the standard library's `pickletools`,
which asks for no more memory than the file has bytes.
"""

import math
import pickletools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from zoo.errors import UserError

_NAMES = {
    "Float": "<f4", "Double": "<f8", "Half": "<f2", "BFloat16": jnp.bfloat16, "Long": "<i8", "Int": "<i4",
    "Short": "<i2", "Char": "i1", "Byte": "u1", "Bool": "?",
}  # fmt: skip
STORAGES = {f"torch.{name}Storage": np.dtype(dtype) for name, dtype in _NAMES.items()}
MOST = 2**20  # instructions of a pickle, about 100 bytes of memory each; more in a large file
MAGIC = 0x1950A86A20F9469CFC6C
# Where training scripts keep the weights in a checkpoint, beside the optimizer and the like.
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "weights", "params")


class Storage(NamedTuple):
    """A flat array, stored apart from the pickle."""

    dtype: np.dtype
    key: str
    size: int


class Tensor(NamedTuple):
    """A view of a storage; strides count items."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


FUNCTIONS = {
    "torch._utils._rebuild_tensor": lambda *a: Tensor(*a[:4]),
    "torch._utils._rebuild_tensor_v2": lambda *a: Tensor(*a[:4]),  # requires_grad and hooks follow
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch.Size": tuple,
    "torch.device": lambda *a: ":".join(map(str, a)),
    "collections.OrderedDict": lambda items=(): dict(items),
    "builtins.set": list,
    "__builtin__.set": list,
}


def read_zip(files: dict[str, memoryview]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors by name and the plain values beside them, of the members of an archive."""
    (pickled,) = [name for name in files if name == "data.pkl" or name.endswith("/data.pkl")]
    folder = pickled.removesuffix("data.pkl")
    if bytes(files.get(f"{folder}byteorder", b"little")) != b"little":
        raise UserError("a PyTorch file of a big-endian machine; save it again on a usual one")
    whole = files[pickled].obj  # the mapped file, unless the member is compressed
    if isinstance(whole, bytearray) and len(whole) > MOST:
        raise UserError(
            f"data.pkl is compressed, which torch.save never does, and has {len(whole):,} bytes: a zip bomb?"
        )
    value = unpickle(_File(files[pickled]), most=MOST + len(whole) // 64)
    return _state_dict(value, {}, lambda key: files[f"{folder}data/{key}"])


def read_legacy(data) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The same of a legacy file: five pickles (the fourth has the weights), then the storages."""
    file = _File(memoryview(data))
    if unpickle(file) != MAGIC:
        raise UserError("a pickle, but not of PyTorch's; weights come from torch.save(model.state_dict(), ...)")
    unpickle(file), unpickle(file)
    storages: dict[str, Storage] = {}
    value, where = unpickle(file, storages, MOST + len(data) // 64), {}
    for key in unpickle(file):
        size = int.from_bytes(file.read(8), "little") * storages[key].dtype.itemsize
        where[key] = file.read(size)
    return _state_dict(value, storages, where.__getitem__)


class _File:
    """`read` and `readline` over a buffer, without copying what is large."""

    def __init__(self, view: memoryview):
        self.view, self.at = view, 0

    def read(self, size: int):
        part = self.view[self.at : self.at + size]
        self.at += len(part)
        return bytes(part) if size < 2**16 else part

    def readline(self) -> bytes:
        for size in (2**6, 2**10, 2**16):  # most lines are short
            line, end, _ = bytes(self.view[self.at : self.at + size]).partition(b"\n")
            if end:
                break
        self.at += len(line) + len(end)
        return line + end


def unpickle(file, storages: dict[str, Storage] | None = None, most: int = MOST):
    """Runs one pickle: plain values, with `Tensor` where there are tensors.

    Args:
      file: has `read` and `readline`; left behind the pickle.
      storages: takes the storages that the pickle names, by key.
      most: instructions.

    Raises:
      UserError: an instruction or a name that is not needed for data, or more than `most`.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def marked() -> list:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def popped(count: int) -> list:
        if len(stack) < count + (marks[-1] if marks else 0):
            raise ValueError("the pickle takes more from its stack than there is")
        items = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return items

    def named(name: str):
        if name not in FUNCTIONS and name not in STORAGES:
            raise UserError(
                f"the pickle asks for {name!r}, which was not run; only tensors and plain containers are read: "
                "save model.state_dict()"
            )
        return STORAGES.get(name) or _Function(name)

    for count, (opcode, arg, _) in enumerate(pickletools.genops(file)):
        if count >= most:
            raise UserError(f"a pickle of more than {most:,} instructions, which weights never need; save state_dict()")
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return popped(1)[0]
            case "MARK":
                marks.append(len(stack))
            case "POP":
                popped(1)
            case "POP_MARK":
                marked()
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(popped(int(opcode.name[-1]))))
            case "TUPLE":
                stack.append(tuple(marked()))
            case "LIST" | "FROZENSET":
                stack.append(marked())
            case "DICT":
                stack.append(_pairs(marked()))
            case "APPEND":
                (item,) = popped(1)
                _top(stack, list).append(item)
            case "APPENDS" | "ADDITEMS":
                items = marked()
                _top(stack, list).extend(items)
            case "SETITEM":
                items = popped(2)
                _top(stack, dict).update(_pairs(items))
            case "SETITEMS":
                items = marked()
                _top(stack, dict).update(_pairs(items))
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[arg] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[arg])
            case "GLOBAL":
                stack.append(named(".".join(arg.split(" "))))
            case "STACK_GLOBAL":
                module, name = popped(2)
                stack.append(named(f"{module}.{name}"))
            case "REDUCE":
                function, arguments = popped(2)
                if not isinstance(function, _Function) or not isinstance(arguments, tuple):
                    raise ValueError(f"the pickle calls a {type(function).__name__}")
                stack.append(FUNCTIONS[function.name](*arguments))
            case "BUILD":  # the `_metadata` of a state_dict, or the hooks of a parameter
                popped(1)
                _top(stack, dict)
            case "PERSID" | "BINPERSID":
                (identity,) = popped(1) if opcode.name == "BINPERSID" else (None,)
                storage = _storage(identity)
                if storages is not None:
                    storages[storage.key] = storage
                stack.append(storage)
            case name if name in _CONSTANTS:
                stack.append(arg)
            case name:
                raise UserError(f"the pickle has the instruction {name}, which weights never need; it was not run")
    raise ValueError("the pickle has no end")


_CONSTANTS = {  # instructions whose argument is the value
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8",
}  # fmt: skip


class _Function(NamedTuple):
    name: str  # of FUNCTIONS


def _top(stack: list, kind: type):
    if not stack or type(stack[-1]) is not kind:
        raise ValueError(f"the pickle fills something that is not a {kind.__name__}")
    return stack[-1]


def _pairs(items: list) -> dict:
    return dict(zip(items[::2], items[1::2], strict=True))


def _storage(identity) -> Storage:
    kind, dtype, key, _, size, *view = identity
    if kind != "storage" or not isinstance(dtype, np.dtype) or type(size) is not int or any(view):
        raise ValueError(f"the pickle names a storage {str(identity)[:80]}")
    return Storage(dtype, str(key), size)


def _state_dict(value, storages, content) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors by name, and what lies beside them: plain values, and (in 'left_out') how many tensors where."""
    metadata = {}
    if isinstance(value, dict):
        for key in WRAPPERS:
            if isinstance(value.get(key), dict) and tensors_in(value[key]):
                rest = {str(k): v for k, v in value.items() if k != key}
                counts = {k: len(tensors_in(v)) for k, v in rest.items()}
                metadata = {k: v for k, v in rest.items() if isinstance(v, str | int | float | bool)}
                metadata["left_out"] = {k: count for k, count in counts.items() if count}
                value = value[key]
                break
    found = tensors_in(value)
    return {name: _array(name, tensor, content(tensor.storage.key)) for name, tensor in found.items()}, metadata


def tensors_in(value) -> dict[str, Tensor]:
    """Name -> tensor of nested containers, '/' between the levels; each container is entered once."""
    found, todo, seen = {}, [("", value)], set()
    while todo:
        name, value = todo.pop()
        if isinstance(value, Tensor):
            found[name] = value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen and not isinstance(value, Storage):
            seen.add(id(value))
            items = value.items() if isinstance(value, dict) else enumerate(value)
            todo.extend(reversed([(f"{name}/{k}" if name else str(k), v) for k, v in items]))
    return found


def _array(name: str, tensor: Tensor, content: memoryview) -> np.ndarray:
    storage, offset, shape, strides = tensor
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError(f"{name} is not a tensor")
    size, itemsize = math.prod(shape), storage.dtype.itemsize
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if len(content) != storage.size * itemsize or size > storage.size or (size and last >= storage.size):
        raise UserError(f"{name}: the shape {list(shape)} does not fit a storage of {storage.size} items")
    if not size:
        return np.zeros(shape, storage.dtype)
    flat = np.frombuffer(content, storage.dtype)[offset:]
    return np.lib.stride_tricks.as_strided(flat, shape, [stride * itemsize for stride in strides], writeable=False)
