"""Tensors in files: safetensors in and out, and PyTorch's files in."""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_pipelines.errors import InputError
from data_pipelines.text.texts import shown
from retina_jax.convert import pytorch, unpickling

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4",
           "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?"}  # fmt: skip
_NAMES = {np.dtype(code): name for name, code in _DTYPES.items() if name != "BF16"}
_LARGEST_HEADER = 100_000_000
_PREFIXES = ("module.", "_orig_mod.")
_INDEX = ".index.json"


def read_tensors(path: Path | str) -> dict[str, np.ndarray]:
    """The tensors of a safetensors or PyTorch file by their names.

    A PyTorch file may hold them flat or under 'state_dict', 'model' or 'model_state_dict', beside
    other things such as an optimizer, which are left unread. Prefixes that PyTorch's wrappers put
    before all names ('module.', '_orig_mod.') are taken off. No code of the file is run.

    Args:
      path: the path of the file; its name does not matter. Or the index of a model in several
        files, 'model.safetensors.index.json', or the folder that it lies in.

    Returns:
      {name: array}; float16 and bfloat16 are widened to float32, other types stay.

    Raises:
      InputError: if there is no such file, it is cut off, in another format, or holds anything but
        tensors and plain values.
    """
    found: dict[str, np.ndarray] = {}
    for part in parts(path):
        found |= _read(part)
    if odd := next((name for name in found if not name.isprintable()), None):
        raise InputError(f"{path} is damaged: it has a tensor called {odd[:60]!r}; get it again.")
    for prefix in _PREFIXES * 2:  # compiled and distributed, in either order
        if all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): value for name, value in found.items()}
    return {name: widened(array) for name, array in found.items()}


def parts(path: Path | str) -> list[Path]:
    """The files that the tensors lie in: one, or those that an index names.

    Args:
      path: a file, an index, or the folder of one, see `read_tensors`.

    Raises:
      InputError: if there is no such file, or an index names files that are not beside it.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(path.glob(f"*{_INDEX}"))
        if len(found) != 1:
            raise InputError(f"{path} is a folder; name the file in it.")
        path = found[0]
    if not path.is_file():
        raise InputError(f"{path} does not exist.")
    if not path.name.endswith(_INDEX):
        return [path]
    try:
        files = sorted(set(json.loads(path.read_text("utf-8"))["weight_map"].values()))
        wrong = [name for name in files if Path(name).name != name]
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        raise InputError(f"{path} is no index of a model in several files.") from None
    missing = [name for name in files if not (path.parent / name).is_file()]
    if wrong or missing or not files:
        raise InputError(
            f"{path} names {', '.join((wrong or missing)[:3]) or 'no files'}, which are not beside "
            "it: get all parts of the model."
        )
    return [path.parent / name for name in files]


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}.") from None
    if len(start) <= 8 or not any(start):  # no format has a whole start then
        size = path.stat().st_size
        raise InputError(f"{path} is empty or cut off ({size} bytes); get it again.")
    if start[8:9] == b"{":
        return read_safetensors(path)[0]
    return pytorch.read(path, start)


def nonfinite(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """Names of tensors with a NaN or an infinite number."""
    return [n for n, a in tensors.items() if a.dtype.kind == "f" and not np.isfinite(a).all()]


def widened(array: np.ndarray) -> np.ndarray:
    """float16 as float32; anything else as it is."""
    return array.astype(np.float32) if array.dtype == np.float16 else array


def read_safetensors(path: Path | str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata of a safetensors file; bfloat16 comes as float32.

    The arrays are read-only views of the file until they are copied.

    Raises:
      InputError: if the file is cut off or its header is none.
    """
    if Path(path).stat().st_size <= 8:  # no file of nothing can be mapped
        raise InputError(f"{path} is empty or cut off; get it again.")
    with Path(path).open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    length = int.from_bytes(data[:8], "little")
    if length > min(_LARGEST_HEADER, len(data) - 8):
        raise InputError(f"{path} is cut off within its header; get it again.")
    try:
        header = json.loads(data[8 : 8 + length])
        metadata = header.pop("__metadata__", {})
        tensors, left = {}, len(data) - 8 - length
        for name, entry in header.items():
            tensors[name] = _tensor(data, 8 + length, **entry)
            begin, end = entry["data_offsets"]
            left -= end - begin
            if left < 0:
                raise ValueError("tensors of more bytes than the file has")
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise InputError(
            f"{path} is cut off or no safetensors file ({shown(str(error))})."
        ) from None
    return tensors, metadata


def _tensor(
    data: mmap.mmap, start: int, dtype: str, shape: list[int], data_offsets: list[int]
) -> np.ndarray:
    if dtype not in _DTYPES:
        raise ValueError(f"a tensor of type {dtype}, which is none of {sorted(_DTYPES)}")
    kind, (begin, end) = np.dtype(_DTYPES[dtype]), data_offsets
    if start + end > len(data):
        raise ValueError(f"a tensor ends at byte {start + end}, the file at {len(data)}")
    count = math.prod(shape)
    if min([begin, *shape, 0]) < 0 or count * kind.itemsize != end - begin:
        raise ValueError(f"a tensor of shape {shape} in {end - begin} bytes")
    array = np.frombuffer(data, kind, count, start + begin).reshape(shape)
    return unpickling.from_bfloat16(array) if dtype == "BF16" else array


def write_safetensors(
    path: Path | str, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes tensors as a safetensors file, in the order of their names.

    Args:
      path: the path of the file.
      tensors: name -> array.
      metadata: texts by name.

    Raises:
      InputError: if the file cannot be written.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in sorted(tensors):
        array = tensors[name]
        header[name] = {
            "dtype": _NAMES[array.dtype.newbyteorder("<")],
            "shape": list(array.shape),
            "data_offsets": [end, end := end + array.nbytes],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the arrays begin at a multiple of 8
    try:
        with Path(path).open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in sorted(tensors):
                array = tensors[name]
                file.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error.strerror or error}.") from None
