"""Files of torch.save in all of its formats, written without PyTorch."""

import collections
import io
import pickle
import struct
import tarfile
import zipfile


class Storage:
    """What a pickle refers to by ('storage', type, key, place, count)."""

    def __init__(self, kind, key, array):
        self.kind, self.key, self.array = kind, key, array


def _named(module, name, **attributes):
    """A class that is pickled as `module.name`."""
    return type(name, (), {"__module__": module, **attributes})


class Pickler(pickle._Pickler):
    """Writes names of modules that are not installed; the one in C looks them up."""

    part = ()  # of the storage; None for all of it, in files before PyTorch 1.6

    def save_global(self, obj, name=None):
        self.write(b"c" + f"{obj.__module__}\n{obj.__name__}\n".encode())
        self.memoize(obj)

    dispatch = {**pickle._Pickler.dispatch, type: save_global}

    def persistent_id(self, obj):
        if isinstance(obj, Storage):
            kind = _named("torch", obj.kind)
            return ("storage", kind, obj.key, "cpu", obj.array.size, *self.part)
        return None


_KINDS = {"f2": "HalfStorage", "f4": "FloatStorage", "f8": "DoubleStorage", "i8": "LongStorage",
          "b1": "BoolStorage"}  # fmt: skip


class Tensor:
    """A tensor as PyTorch pickles it."""

    def __init__(self, storage, offset, shape, strides):
        self.parts = (storage, offset, shape, strides, False, collections.OrderedDict())

    def __reduce__(self):
        return _rebuild_call, self.parts


def _rebuild_call(*parts):
    raise AssertionError("only its name is written")


_rebuild_call.__module__, _rebuild_call.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
_rebuild_call.__name__ = "_rebuild_tensor_v2"
Pickler.dispatch[type(_rebuild_call)] = Pickler.save_global


def tensor(key, array):
    """A whole array as a Tensor."""
    storage = Storage(_KINDS[array.dtype.str[1:]], key, array.ravel())
    strides = [stride // array.itemsize for stride in array.strides]
    return Tensor(storage, 0, array.shape, tuple(strides))


def pickled(value, *part):
    """A pickle of protocol 2, whose storages are described with `part`."""
    buffer = io.BytesIO()
    pickler = Pickler(buffer, 2)
    pickler.part = part
    pickler.dump(value)
    return buffer.getvalue()


def zipped(path, value, arrays):
    """A file of torch.save since PyTorch 1.6, without PyTorch."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(value))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
        for key, array in arrays.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
    return path


def streamed(path, value, arrays):
    """A file of torch.save before PyTorch 1.6, without PyTorch."""
    parts = [pickled(x) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    parts += [pickled(value, None), pickled(list(arrays))]
    for array in arrays.values():
        parts.append(struct.pack("<q", array.size) + array.tobytes())
    path.write_bytes(b"".join(parts))
    return path


class _Named(Pickler):
    """Writes a Tensor as a reference to it."""

    def __init__(self, file, names):
        super().__init__(file, 2)
        self.names = names

    def persistent_id(self, obj):
        return str(self.names[id(obj)]) if id(obj) in self.names else None


def tarred(path, value, arrays):
    """A file of torch.save before 2017, without PyTorch."""
    tensors = [x for x in _leaves(value) if isinstance(x, Tensor)]
    parts = {"storages": [pickled(len(arrays))], "tensors": [pickled(len(tensors))]}
    for key, array in arrays.items():
        parts["storages"].append(
            pickled((key, "cpu", _named("torch", _KINDS[array.dtype.str[1:]])))
        )
        parts["storages"].append(struct.pack("<q", array.size) + array.tobytes())
    parts["storages"].append(pickled([]))
    for number, found in enumerate(tensors):
        storage, offset, shape, strides, *_ = found.parts
        kind = _named("torch", storage.kind.replace("Storage", "Tensor"))
        parts["tensors"].append(pickled((number, storage.key, kind)))
        sizes = struct.pack(f"<i4x{2 * len(shape)}qq", len(shape), *shape, *strides, offset)
        parts["tensors"].append(sizes)
    buffer = io.BytesIO()
    _Named(buffer, {id(x): i for i, x in enumerate(tensors)}).dump(value)
    parts["pickle"] = [buffer.getvalue()]
    with tarfile.open(path, "w:") as archive:
        for name, content in parts.items():
            info = tarfile.TarInfo(name)
            info.size = len(b"".join(content))
            archive.addfile(info, io.BytesIO(b"".join(content)))
    return path


def _leaves(value):
    """Values of nested dicts, each once."""
    if not isinstance(value, dict):
        return [value]
    found = [leaf for inner in value.values() for leaf in _leaves(inner)]
    return list({id(leaf): leaf for leaf in found}.values())
