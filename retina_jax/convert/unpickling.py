"""An unpickler of what PyTorch writes that knows tensors and plain values, and runs nothing."""

from __future__ import annotations

import collections
import math
import mmap
import pickle
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NoReturn

import numpy as np

from data_pipelines.errors import InputError

UnpicklingError = pickle.UnpicklingError
_STORAGES = {"DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2",
             "BFloat16Storage": "bfloat16", "LongStorage": "<i8", "IntStorage": "<i4",
             "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1",
             "BoolStorage": "?"}  # fmt: skip


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """The float32 whose upper halves are these u16."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


class StoredNumbers:
    """Numbers that tensors are views of, read when a tensor asks for them."""

    def __init__(self, kind: str, count: int, read: Callable[[], bytes]):
        if kind not in _STORAGES.values() or not isinstance(count, int) or count < 0:
            raise ValueError(f"a storage of {count!r} numbers of type {kind!r}")
        self.kind, self.count, self._read = kind, count, read
        self._dtype = np.dtype("<u2" if kind == "bfloat16" else kind)

    @property
    def size(self) -> int:
        """Bytes of a number."""
        return self._dtype.itemsize

    @property
    def bytes(self) -> int:
        """Its length in the file."""
        return self.count * self._dtype.itemsize

    def numbers(self) -> np.ndarray:
        """Array [count], as stored."""
        data = self._read()
        if len(data) < self.bytes:
            raise EOFError("the numbers end early")
        found = np.frombuffer(data, self._dtype, self.count)
        return from_bfloat16(found) if self.kind == "bfloat16" else found

    def part(self, offset: int, count: int) -> StoredNumbers:
        """`count` of its numbers from `offset` on."""
        size = self._dtype.itemsize
        if min(offset, count) < 0 or offset + count > self.count:
            raise ValueError("a part that reaches beyond its storage")
        whole = self._read
        return StoredNumbers(
            self.kind, count, lambda: whole()[offset * size : (offset + count) * size]
        )


class StoredTensor:
    """A view of a storage."""

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any):
        numbers = [offset, *shape, *strides]
        if not isinstance(storage, StoredNumbers) or len(shape) != len(strides):
            raise ValueError("a tensor without a storage")
        if any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in numbers):
            raise ValueError("a tensor of negative or fractional sizes")
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if 0 not in shape and last >= storage.count:
            raise ValueError("a tensor that reaches beyond its storage")
        self._storage, self._offset = storage, offset
        self.shape, self._strides, self._last = tuple(shape), tuple(strides), last

    @property
    def bytes(self) -> int:
        """Its length as an array, whatever it shares with others."""
        return math.prod(self.shape) * self._storage.size

    def array(self) -> np.ndarray:
        """The numbers, copied out of the storage."""
        if 0 in self.shape:
            return np.zeros(self.shape, self._storage.numbers().dtype)
        numbers = self._storage.numbers()
        if self._last >= len(numbers):
            raise ValueError("a tensor that reaches beyond its storage")
        numbers = numbers[self._offset :]
        strides = tuple(stride * numbers.itemsize for stride in self._strides)
        return np.lib.stride_tricks.as_strided(numbers, self.shape, strides).copy()


class InertObject:
    """An object of the file of which only the attributes are kept."""

    def __init__(self, *_: Any, **__: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, Mapping):
            self.__dict__.update(state)


def _first(value: Any, *_: Any) -> Any:
    return value


def _nothing(*_: Any, **__: Any) -> None:
    return None


# Names in a file -> what stands for them. Only these are known.
_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): lambda *_: {},
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("torch._utils", "_rebuild_tensor_v2"): StoredTensor,
    ("torch._utils", "_rebuild_tensor"): StoredTensor,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch.jit._pickle", "build_intlist"): _first,
    ("torch.jit._pickle", "build_doublelist"): _first,
    ("torch.jit._pickle", "build_boollist"): _first,
    ("torch.jit._pickle", "build_tensorlist"): _first,
    ("torch.jit._pickle", "restore_type_tag"): _first,
    ("torch", "Size"): _first,
    ("torch", "device"): _first,
    # Settings of a training that checkpoints hold beside the weights.
    ("argparse", "Namespace"): InertObject,
    ("numpy", "dtype"): InertObject,
    ("numpy", "ndarray"): InertObject,
    ("numpy.core.multiarray", "_reconstruct"): InertObject,
    ("numpy._core.multiarray", "_reconstruct"): InertObject,
    ("numpy.core.multiarray", "scalar"): _nothing,
    ("numpy._core.multiarray", "scalar"): _nothing,
    ("_codecs", "encode"): _nothing,
    ("pathlib", "PosixPath"): _nothing,
    ("pathlib", "WindowsPath"): _nothing,
    **{("torch", name): kind for name, kind in _STORAGES.items()},
    **{("torch", name.replace("Storage", "Tensor")): kind for name, kind in _STORAGES.items()},
    **{
        ("torch", name): name
        for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool")
    },
}


def _refuse_references(pid: Any) -> NoReturn:
    raise ValueError(f"a reference {str(pid)[:40]!r} that is no storage")


def _whole(read: Callable[..., bytes], is_whole: Callable[..., bool]) -> Callable[..., bytes]:
    """What reads, with an error where the file ends within what is asked for."""

    def checked(*size: int) -> bytes:
        data = read(*size)
        if not is_whole(data, *size):
            raise EOFError("it ends early")
        return data

    return checked


class TensorUnpickler(pickle._Unpickler):
    """An unpickler that knows the names in _KNOWN and calls nothing else.

    It is the one in Python: that in C makes room for as many objects as a file names.
    """

    dispatch = {code: load for code, load in pickle._Unpickler.dispatch.items()
                if code not in (pickle.BYTEARRAY8[0], pickle.NEXT_BUFFER[0])}  # fmt: skip

    stack: list[Any]  # which the stubs do not have

    def __init__(
        self, file: BinaryIO | mmap.mmap, refer: Callable[[Any], Any] = _refuse_references
    ):
        # Files of Python 2 hold bytes that are no UTF-8.
        super().__init__(file, encoding="latin-1")
        self._file_read = _whole(file.read, lambda data, size: len(data) == size)
        self._file_readline = _whole(file.readline, lambda data: data.endswith(b"\n"))
        self._refer = refer

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name; InputError for one that is not in the table."""
        if module == "__torch__" or module.startswith("__torch__."):
            return InertObject  # a module of a TorchScript file, of which the parameters are wanted
        if (module, name) not in _KNOWN:
            raise InputError(
                f"asks for {module[:60]}.{name[:60]}, which is neither a tensor nor a plain value "
                "and could run any code; save its state_dict alone, best as safetensors"
            )
        return _KNOWN[module, name]

    def load_build(self) -> None:
        """Sets attributes, of inert objects alone: a tensor stays as it was checked."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, InertObject):
            target.__setstate__(state)
        elif isinstance(target, StoredTensor | StoredNumbers | type):
            raise ValueError("a tensor that is changed after it was made")

    dispatch[pickle.BUILD[0]] = load_build  # pyright: ignore[reportArgumentType]

    def persistent_load(self, pid: Any) -> Any:
        """What the file refers to by a description."""
        return self._refer(pid)


def storage_references(
    storage: Callable[[str, str, int], StoredNumbers],
) -> Callable[[Any], StoredNumbers]:
    """Storages by ('storage', type, key, location, count) and maybe (key, offset, count) of a part.

    Args:
      storage: (type, key, count) -> the whole storage.
    """

    def refer(pid: Any) -> StoredNumbers:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            _refuse_references(pid)
        _, kind, key, _, count, *part = pid
        found = storage(kind, str(key), count)
        return found.part(*part[0][1:]) if part and part[0] is not None else found

    return refer
