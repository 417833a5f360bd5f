"""Files of torch.save without PyTorch, and without running what they ask to be run.

Such a file is a pickle, a small program that names the functions that rebuild its objects. Here
only names in a fixed table are known: each stands for a function of this module that makes inert
descriptions. Every other name ends the reading with a sentence.
"""

from __future__ import annotations

import collections
import functools
import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from data_pipelines.errors import InputError

# Before PyTorch 1.6 a file was several pickles and raw bytes in a row, and began with this number.
_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_START = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
_PREFIXES = ("module.", "_orig_mod.")
_STORAGES = {"DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2",
             "BFloat16Storage": "bfloat16", "LongStorage": "<i8", "IntStorage": "<i4",
             "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1",
             "BoolStorage": "?"}  # fmt: skip


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """The float32 whose upper halves are these u16."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


class _Storage:
    """Numbers that tensors are views of, read when a tensor asks for them."""

    def __init__(self, kind: str, count: int, read: Callable[[], bytes]):
        if kind not in _STORAGES.values() or not isinstance(count, int) or count < 0:
            raise ValueError(f"a storage of {count!r} numbers of type {kind!r}")
        self.kind, self.count, self._read = kind, count, read
        self._dtype = np.dtype("<u2" if kind == "bfloat16" else kind)

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

    def part(self, offset: int, count: int) -> _Storage:
        """`count` of its numbers from `offset` on."""
        size = self._dtype.itemsize
        if min(offset, count) < 0 or offset + count > self.count:
            raise ValueError("a part that reaches beyond its storage")
        whole = self._read
        return _Storage(self.kind, count, lambda: whole()[offset * size : (offset + count) * size])


class _Tensor:
    """A view of a storage."""

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any):
        numbers = [offset, *shape, *strides]
        if not isinstance(storage, _Storage) or len(shape) != len(strides):
            raise ValueError("a tensor without a storage")
        if any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in numbers):
            raise ValueError("a tensor of negative or fractional sizes")
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if 0 not in shape and last >= storage.count:
            raise ValueError("a tensor that reaches beyond its storage")
        self._storage, self._offset = storage, offset
        self.shape, self._strides = tuple(shape), tuple(strides)

    def array(self) -> np.ndarray:
        """The numbers, copied out of the storage."""
        if 0 in self.shape:
            return np.zeros(self.shape, self._storage.numbers().dtype)
        numbers = self._storage.numbers()[self._offset :]
        strides = tuple(stride * numbers.itemsize for stride in self._strides)
        return np.lib.stride_tricks.as_strided(numbers, self.shape, strides).copy()


class _Inert:
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
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("torch._utils", "_rebuild_tensor"): _Tensor,
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
    ("argparse", "Namespace"): _Inert,
    ("numpy", "dtype"): _Inert,
    ("numpy", "ndarray"): _Inert,
    ("numpy.core.multiarray", "_reconstruct"): _Inert,
    ("numpy._core.multiarray", "_reconstruct"): _Inert,
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


class _Reader(pickle.Unpickler):
    """An unpickler that knows the names in _KNOWN and calls nothing else."""

    def __init__(self, file: BinaryIO, refer: Callable[[Any], Any] = _refuse_references):
        # Files of Python 2 hold bytes that are no UTF-8.
        super().__init__(file, encoding="latin-1")
        self._refer = refer

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name; InputError for one that is not in the table."""
        if module == "__torch__" or module.startswith("__torch__."):
            return _Inert  # a module of a TorchScript file, of which the parameters are wanted
        if (module, name) not in _KNOWN:
            raise InputError(
                f"asks for {module}.{name}, which is neither a tensor nor a plain value and could "
                "run any code; save its state_dict alone, best as safetensors"
            )
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """What the file refers to by a description."""
        return self._refer(pid)


def _described(storage: Callable[[str, str, int], _Storage]) -> Callable[[Any], _Storage]:
    """Storages by ('storage', type, key, location, count) and maybe (key, offset, count) of a part.

    Args:
      storage: (type, key, count) -> the whole storage.
    """

    def refer(pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            _refuse_references(pid)
        _, kind, key, _, count, *part = pid
        found = storage(kind, str(key), count)
        return found.part(*part[0][1:]) if part and part[0] is not None else found

    return refer


def read(path: Path, start: bytes) -> dict[str, np.ndarray]:
    """Tensors of a file of torch.save or torch.jit.save.

    Args:
      path: the path of the file.
      start: its first bytes.

    Returns:
      {name: array}, in the types of the file; bfloat16 as float32.

    Raises:
      InputError: as `files.read_tensors`.
    """
    try:
        if start.startswith(b"PK"):
            with zipfile.ZipFile(path) as archive:
                return _tensors(_from_zip(archive))
        if start.startswith(_LEGACY_START):
            with path.open("rb") as file:
                return _tensors(_from_stream(file))
        if tarfile.is_tarfile(path):
            with tarfile.open(path, "r:") as archive:
                return _tensors(_from_tar(archive))
    except InputError as error:
        raise InputError(f"{path} {error}.") from None
    except (zipfile.BadZipFile, tarfile.TarError, pickle.UnpicklingError, EOFError, RuntimeError,
            struct.error) as error:  # fmt: skip
        raise InputError(f"{path} is cut off or damaged ({error}); get it again.") from None
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
        raise InputError(
            f"{path} is no readable file of PyTorch: it has {error}; get it again."
        ) from None
    raise InputError(
        f"{path} is neither a safetensors nor a PyTorch file; it begins with {start!r}."
    )


def _from_zip(archive: zipfile.ZipFile) -> Any:
    """What the pickle of PyTorch's present format describes."""
    names = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
    if len(names) != 1:
        raise InputError("is a zip archive without the data.pkl of a PyTorch file")
    folder = names[0].split("/")[0]
    order = f"{folder}/byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
        raise InputError("was written on a big-endian machine; save it again on another")

    def storage(kind: str, key: str, count: int) -> _Storage:
        return _Storage(kind, count, lambda: archive.read(f"{folder}/data/{key}"))

    return _Reader(io.BytesIO(archive.read(names[0])), _described(storage)).load()


def _from_stream(file: BinaryIO) -> Any:
    """What the pickle of PyTorch's format before 1.6 describes; `file` has to stay open."""
    made: dict[str, _Storage] = {}
    places: dict[str, int] = {}

    def storage(kind: str, key: str, count: int) -> _Storage:
        def data() -> bytes:
            file.seek(places[key])
            return file.read(made[key].bytes)

        return made.setdefault(key, _Storage(kind, count, data))

    def load() -> Any:
        return _Reader(file, _described(storage)).load()

    if load() != _MAGIC:
        raise InputError("begins like a PyTorch file and is none")
    for _ in ("the version of the format", "sizes of the machine's integers"):
        load()
    found = load()
    for key in load():
        places[key] = file.tell() + 8
        (count,) = struct.unpack("<q", file.read(8))
        if key not in made or count != made[key].count:
            raise ValueError(f"a storage {key!r} of another size than described")
        file.seek(made[key].bytes, io.SEEK_CUR)
    if missing := set(made) - set(places):
        raise ValueError(f"no numbers for {len(missing)} storages")
    return found


def _from_tar(archive: tarfile.TarFile) -> Any:
    """What the pickle of PyTorch's first format, before 2017, describes."""

    def member(name: str) -> BinaryIO:
        try:
            file = archive.extractfile(name)
        except KeyError:
            file = None
        if file is None:
            raise InputError(
                f"is a tar archive without the '{name}' of a PyTorch file; get it again"
            )
        return io.BytesIO(file.read())

    storages: dict[Any, _Storage] = {}
    file = member("storages")
    for _ in range(_Reader(file).load()):
        key, _, kind = _Reader(file).load()
        (count,) = struct.unpack("<q", file.read(8))
        empty = _Storage(kind, count, bytes)
        storages[key] = _Storage(kind, count, functools.partial(bytes, file.read(empty.bytes)))
    for key, root, offset, count in _Reader(file).load():
        storages[key] = storages[root].part(offset, count)
    tensors: dict[str, _Tensor] = {}
    file = member("tensors")
    for _ in range(_Reader(file).load()):
        key, storage, _ = _Reader(file).load()
        (axes,) = struct.unpack("<i4x", file.read(8))
        shape, strides = (struct.unpack(f"<{axes}q", file.read(8 * axes)) for _ in range(2))
        (offset,) = struct.unpack("<q", file.read(8))
        tensors[str(key)] = _Tensor(storages[storage], offset, shape, strides)
    return _Reader(member("pickle"), lambda pid: tensors[str(pid)]).load()


def _tensors(found: Any) -> dict[str, np.ndarray]:
    """{name: array} of the state dict in what was read."""
    state = _state(found)
    flat: dict[str, np.ndarray] = {}
    for name, value in state.items():
        if isinstance(value, _Tensor):
            flat[str(name)] = value.array()
        elif isinstance(value, bool | int | float):
            flat[str(name)] = np.asarray(value)
        else:
            raise InputError(f"has '{name}' among its tensors, which is none")
    for prefix in _PREFIXES * 2:  # compiled and distributed, in either order
        if all(name.startswith(prefix) for name in flat):
            flat = {name.removeprefix(prefix): value for name, value in flat.items()}
    return flat


def _state(found: Any) -> Mapping[str, Any]:
    """The dict of tensors in a file: the whole, or below one of the names that trainings use."""
    if isinstance(found, _Inert):
        return dict(_parameters(found, ""))
    if isinstance(found, Mapping):
        for name in _WRAPPERS:
            if isinstance(found.get(name), Mapping | _Inert):
                return _state(found[name])
        if any(isinstance(value, _Tensor) for value in found.values()):
            return found
        names = ", ".join(str(name) for name in list(found)[:5])
        raise InputError(f"holds no tensors under its names ({names}) or under {_WRAPPERS}")
    raise InputError("holds no dict of tensors by their names")


def _parameters(module: _Inert, prefix: str) -> Iterator[tuple[str, _Tensor]]:
    """(name, tensor) of a module of TorchScript, named as in its state dict."""
    for name, value in vars(module).items():
        if isinstance(value, _Tensor):
            yield prefix + name, value
        elif isinstance(value, _Inert):
            yield from _parameters(value, f"{prefix}{name}.")
