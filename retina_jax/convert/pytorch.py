"""Files of torch.save without PyTorch, and without running what they ask to be run.

Such a file is a pickle, a small program that names the functions that rebuild its objects. Here
only names in a fixed table are known: each stands for a function of this module that makes inert
descriptions. Every other name ends the reading with a sentence. What a file claims to hold is
compared with its length before room is made for it.
"""

from __future__ import annotations

import functools
import io
import mmap
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data_pipelines.errors import InputError
from data_pipelines.text.texts import shown
from retina_jax.convert.unpickling import (
    InertObject,
    StoredNumbers,
    StoredTensor,
    TensorUnpickler,
    UnpicklingError,
    storage_references,
)

# Before PyTorch 1.6 a file was several pickles and raw bytes in a row, and began with this number.
_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_START = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
# Half precision is widened and tied weights are stored once: a file may hold more than its bytes.
_MOST, _SLACK = 4, 1 << 20
_MOST_MODULES = 100_000


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
        limit = _MOST * path.stat().st_size + _SLACK
        if start.startswith(b"PK"):
            with zipfile.ZipFile(path) as archive:
                return _tensors(_from_zip(archive, limit), limit)
        if start.startswith(_LEGACY_START):
            # Of a mapped file no more is read than there is, whatever is asked for.
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
                return _tensors(_from_stream(data), limit)
        if tarfile.is_tarfile(path):
            with tarfile.open(path, "r:") as archive:
                return _tensors(_from_tar(archive, limit), limit)
    except InputError as error:
        raise InputError(f"{path} {shown(str(error))}.") from None
    except (zipfile.BadZipFile, zlib.error, tarfile.TarError, UnpicklingError, EOFError,
            RuntimeError, struct.error, OSError, MemoryError) as error:  # fmt: skip
        raise InputError(f"{path} is cut off or damaged ({_why(error)}); get it again.") from None
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise InputError(
            f"{path} is no readable file of PyTorch: it has {_why(error)}; get it again."
        ) from None
    raise InputError(
        f"{path} is neither a safetensors nor a PyTorch file; it begins with {start!r}."
    )


def _why(error: Exception) -> str:
    """What an error says, on one line: it may quote the file."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = f"an unknown entry {text}" if isinstance(error, LookupError) else text
    return shown(text[:200])


def _from_zip(archive: zipfile.ZipFile, limit: int) -> Any:
    """What the pickle of PyTorch's present format describes."""

    def member(name: str) -> bytes:
        claimed = archive.getinfo(name).file_size
        if claimed > limit:
            raise ValueError(f"a part '{name[-40:]}' that claims {claimed} bytes")
        return archive.read(name)

    names = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
    if len(names) != 1:
        raise InputError("is a zip archive without the data.pkl of a PyTorch file")
    folder = names[0].split("/")[0]
    order = f"{folder}/byteorder"
    if order in archive.namelist() and member(order) != b"little":
        raise InputError("was written on a big-endian machine; save it again on another")

    def storage(kind: str, key: str, count: int) -> StoredNumbers:
        return StoredNumbers(kind, count, lambda: member(f"{folder}/data/{key}"))

    return TensorUnpickler(io.BytesIO(member(names[0])), storage_references(storage)).load()


def _from_stream(file: mmap.mmap) -> Any:
    """What the pickle of PyTorch's format before 1.6 describes; `file` has to stay open."""
    made: dict[str, StoredNumbers] = {}
    places: dict[str, int] = {}

    def storage(kind: str, key: str, count: int) -> StoredNumbers:
        def data() -> bytes:
            file.seek(places[key])
            return file.read(made[key].bytes)

        return made.setdefault(key, StoredNumbers(kind, count, data))

    def load() -> Any:
        return TensorUnpickler(file, storage_references(storage)).load()

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


def _from_tar(archive: tarfile.TarFile, limit: int) -> Any:
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
        return io.BytesIO(file.read(limit))

    storages: dict[Any, StoredNumbers] = {}
    file = member("storages")
    for _ in range(TensorUnpickler(file).load()):
        key, _, kind = TensorUnpickler(file).load()
        (count,) = struct.unpack("<q", file.read(8))
        empty = StoredNumbers(kind, count, bytes)
        storages[key] = StoredNumbers(kind, count, functools.partial(bytes, file.read(empty.bytes)))
    for key, root, offset, count in TensorUnpickler(file).load():
        storages[key] = storages[root].part(offset, count)
    tensors: dict[str, StoredTensor] = {}
    file = member("tensors")
    for _ in range(TensorUnpickler(file).load()):
        key, storage, _ = TensorUnpickler(file).load()
        (axes,) = struct.unpack("<i4x", file.read(8))
        shape, strides = (struct.unpack(f"<{axes}q", file.read(8 * axes)) for _ in range(2))
        (offset,) = struct.unpack("<q", file.read(8))
        tensors[str(key)] = StoredTensor(storages[storage], offset, shape, strides)
    return TensorUnpickler(member("pickle"), lambda pid: tensors[str(pid)]).load()


def _tensors(found: Any, limit: int) -> dict[str, np.ndarray]:
    """{name: array} of the state dict in what was read; all of them have `limit` bytes at most."""
    state = _state(found)
    total = sum(value.bytes for value in state.values() if isinstance(value, StoredTensor))
    if total > limit:
        raise ValueError(f"tensors of {total} bytes, which is far more than the file has")
    flat: dict[str, np.ndarray] = {}
    for name, value in state.items():
        if isinstance(value, StoredTensor):
            flat[str(name)] = value.array()
        elif isinstance(value, bool | int | float):
            flat[str(name)] = np.asarray(value)
        else:
            raise InputError(f"has '{name}' among its tensors, which is none")
    return flat


def _state(found: Any) -> Mapping[str, Any]:
    """The dict of tensors in a file: the whole, or below one of the names that trainings use."""
    if isinstance(found, InertObject):
        return _parameters(found)
    if isinstance(found, Mapping):
        for name in _WRAPPERS:
            if isinstance(found.get(name), Mapping | InertObject):
                return _state(found[name])
        if any(isinstance(value, StoredTensor) for value in found.values()):
            return found
        names = ", ".join(str(name) for name in list(found)[:5])
        raise InputError(f"holds no tensors under its names ({names}) or under {_WRAPPERS}")
    raise InputError("holds no dict of tensors by their names")


def _parameters(module: InertObject) -> dict[str, StoredTensor]:
    """Tensors of a module of TorchScript, named as in its state dict."""
    found: dict[str, StoredTensor] = {}
    waiting, seen = [("", module)], 0
    while waiting:
        prefix, inner = waiting.pop()
        seen += 1
        if seen > _MOST_MODULES:
            raise ValueError("modules within modules without an end")
        for name, value in vars(inner).items():
            if isinstance(value, StoredTensor):
                found[f"{prefix}{name}"] = value
            elif isinstance(value, InertObject):
                waiting.append((f"{prefix}{name}.", value))
    return found
