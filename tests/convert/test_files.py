"""Files of tensors: every kind that PyTorch writes, safetensors, and what is refused."""

import io
import json
import struct
import zipfile

import numpy as np
import pytest
from convert import parity
from convert.pickles import Pickler, Storage, Tensor, pickled, streamed, tarred, tensor, zipped

from data_pipelines.errors import InputError
from retina_jax.convert import files

pytestmark = pytest.mark.fast

TENSORS = {"half": np.float16([[1.5, -2.25], [0.0, 65504.0]]),
           "single": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
           "double": np.float64([np.pi]), "count": np.asarray(7, np.int64),
           "nothing": np.zeros((0, 3), np.float32),
           "flags": np.asarray([True, False])}  # fmt: skip


def same(found, expected):
    """Same names, numbers and, half precision apart, types."""
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        wide = np.float32 if value.dtype == np.float16 else value.dtype
        assert found[name].dtype == wide, name
        assert found[name].shape == value.shape, name
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def state():
    """A state dict of TENSORS and their storages."""
    arrays = {str(i): array for i, array in enumerate(TENSORS.values())}
    names = zip(TENSORS, arrays.items(), strict=True)
    return {name: tensor(key, array) for name, (key, array) in names}, arrays


@pytest.mark.parametrize("write", [zipped, streamed, tarred])
@pytest.mark.parametrize("wrap", ["", "state_dict", "model", "model_state_dict"])
def test_files_of_pytorch_without_pytorch(tmp_path, write, wrap):
    tensors, arrays = state()
    settings = {"epoch": 3, "optimizer": {"lr": 0.1, "moments": tensors["single"]}}
    found = files.read_tensors(
        write(tmp_path / "weights.pth", {**settings, wrap: tensors} if wrap else tensors, arrays)
    )
    same(found, TENSORS)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_taken_off_all_or_none(tmp_path, prefix):
    tensors, arrays = state()
    prefixed = {prefix + name: value for name, value in tensors.items()}
    same(files.read_tensors(zipped(tmp_path / "a.pt", prefixed, arrays)), TENSORS)
    mixed = {**prefixed, "alone": tensors["count"]}
    found = files.read_tensors(zipped(tmp_path / "b.pt", mixed, arrays))
    assert sorted(found) == sorted(mixed)


def test_views_of_one_storage_are_cut_out_of_it(tmp_path):
    numbers = np.arange(12, dtype=np.float32)
    storage = Storage("FloatStorage", "0", numbers)
    tensors = {"transposed": Tensor(storage, 0, (4, 3), (1, 4)),
               "later": Tensor(storage, 8, (2, 2), (2, 1)),
               "repeated": Tensor(storage, 1, (5,), (0,))}  # fmt: skip
    found = files.read_tensors(zipped(tmp_path / "views.pt", tensors, {"0": numbers}))
    np.testing.assert_array_equal(found["transposed"], numbers.reshape(3, 4).T)
    np.testing.assert_array_equal(found["later"], numbers[8:].reshape(2, 2))
    np.testing.assert_array_equal(found["repeated"], np.ones(5))


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [((13,), (1,), 0), ((2,), (1,), 11), ((2, 2), (100, 1), 0), ((2,), (-1,), 3), ((-1,), (1,), 0)],
)
def test_a_view_beyond_its_storage_is_refused(tmp_path, shape, strides, offset):
    numbers = np.arange(12, dtype=np.float32)
    view = {"x": Tensor(Storage("FloatStorage", "0", numbers), offset, shape, strides)}
    with pytest.raises(InputError, match="no readable file of PyTorch: it has a tensor"):
        files.read_tensors(zipped(tmp_path / "bad.pt", view, {"0": numbers}))


class Foreign:
    """Runs a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def _function(module, name):
    def call():
        raise AssertionError("only its name is written")

    call.__module__, call.__name__ = module, name
    return call


@pytest.mark.parametrize("write", [zipped, streamed, tarred])
@pytest.mark.parametrize(("module", "name"),
                         [("os", "system"), ("builtins", "exec"), ("builtins", "getattr"),
                          ("torch.hub", "load"), ("collections", "OrderedDict.fromkeys"),
                          ("numpy", "load")])  # fmt: skip
def test_foreign_code_is_refused_and_not_run(tmp_path, write, module, name):
    mark = tmp_path / "was_run"
    tensors, arrays = state()
    value = {"state_dict": tensors, "x": Foreign(_function(module, name), f"touch {mark}")}
    with pytest.raises(InputError, match=f"asks for {module}.{name}, which is neither") as refusal:
        files.read_tensors(write(tmp_path / "evil.pth", value, arrays))
    assert str(refusal.value).startswith(str(tmp_path / "evil.pth"))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["Float\nStorage", "load\x01\u2028" + "x" * 5000])
def test_what_a_sentence_quotes_of_a_file_is_one_short_line(tmp_path, name):
    tensors, arrays = state()
    odd = struct.pack("<Q", 2) + json.dumps({"a": {name: 1}}).encode()
    header = json.dumps({name: {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    (tmp_path / "key").write_bytes(struct.pack("<Q", len(odd) - 8) + odd[8:])
    (tmp_path / "name").write_bytes(struct.pack("<Q", len(header)) + header + b"1")
    zipped(tmp_path / "code", {"x": Foreign(_function("torch", name), "")}, arrays)
    zipped(tmp_path / "tensor", {name: tensors["single"]}, arrays)
    for file in ("key", "name", "code", "tensor"):
        with pytest.raises(InputError) as refusal:
            files.read_tensors(tmp_path / file)
        told = str(refusal.value).removeprefix(str(tmp_path))
        assert told.isprintable() and len(told) < 400, told


def test_old_files_are_those_that_pytorch_reads(tmp_path):
    """PyTorch writes them no longer, but reads them: the files of these tests are real ones."""
    torch = parity.torch_or_skip()
    tensors, arrays = state()
    for write in (zipped, streamed, tarred):
        found = torch.load(write(tmp_path / "x", tensors, arrays), weights_only=False)
        for name, value in TENSORS.items():
            np.testing.assert_array_equal(found[name].numpy(), value, err_msg=write.__name__)


def test_parts_of_a_storage_begin_where_they_are_said_to(tmp_path):
    """Files of PyTorch 0.2 and 0.3 describe a part by (key, offset, count)."""
    numbers = np.arange(12, dtype=np.float32)

    for (offset, shape), expected in (((1, (2, 2)), numbers[5:9].reshape(2, 2)), ((3, (4,)), None)):
        view = Tensor(Storage("FloatStorage", "0", numbers), offset, shape, (2, 1)[-len(shape) :])
        parts = [pickled(x) for x in (0x1950A86A20F9469CFC6C, 1001, {})]
        parts += [pickled({"x": view}, ("part", 4, 6)), pickled(["0"]),
                  struct.pack("<q", 12) + numbers.tobytes()]  # fmt: skip
        (tmp_path / "x").write_bytes(b"".join(parts))
        if expected is None:
            with pytest.raises(InputError, match="a tensor that reaches beyond its storage"):
                files.read_tensors(tmp_path / "x")
        else:
            np.testing.assert_array_equal(files.read_tensors(tmp_path / "x")["x"], expected)


def test_a_reference_to_a_file_is_no_storage(tmp_path):
    class Path(Pickler):
        def persistent_id(self, obj):
            return "somewhere" if obj == 1 else None

    buffer = io.BytesIO()
    Path(buffer, 2).dump({"x": 1})
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("archive/data.pkl", buffer.getvalue())
    with pytest.raises(InputError, match="it has a reference 'somewhere' that is no storage"):
        files.read_tensors(tmp_path / "x.pt")


@pytest.mark.parametrize("kind", ["zip", "stream", "tar", "safetensors"])
def test_a_file_that_is_cut_off_is_a_sentence_wherever_it_is_cut(tmp_path, kind):
    tensors, arrays = state()
    whole = tmp_path / "whole"
    if kind == "safetensors":
        files.write_safetensors(whole, TENSORS)
    else:
        {"zip": zipped, "stream": streamed, "tar": tarred}[kind](whole, tensors, arrays)
    data = whole.read_bytes()
    cut = tmp_path / "cut"
    shortest = 1200 if kind == "tar" else 20  # what is shorter has no mark of its format
    longest = len(data.rstrip(b"\0") if kind == "tar" else data)  # tar archives end in zeros
    for length in np.linspace(shortest, longest - 1, 40).astype(int):
        cut.write_bytes(data[:length])
        with pytest.raises(InputError) as refusal:
            files.read_tensors(cut)
        assert "\n" not in str(refusal.value) and str(cut) in str(refusal.value)
        assert "cut off" in str(refusal.value) or "get it again" in str(refusal.value)


def test_a_flipped_bit_in_an_archive_is_noticed(tmp_path):
    tensors, arrays = state()
    path = zipped(tmp_path / "x.pt", tensors, arrays)
    data = bytearray(path.read_bytes())
    place = data.find(arrays["1"].tobytes())
    data[place + 5] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match="cut off or damaged .*CRC"):
        files.read_tensors(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", r"is empty or cut off \(0 bytes\)"),
        (struct.pack("<Q", 40)[:5], r"is empty or cut off \(5 bytes\)"),
        (struct.pack("<Q", 40), r"is empty or cut off \(8 bytes\)"),
        (struct.pack("<Q", 40) + b'{"a":', "cut off within its header"),
        (bytes(4096), "is empty or cut off"),  # room that was made and never filled
        (b"<html>not found</html>", "is neither a safetensors nor a PyTorch file; it begins with"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "neither .* begins with b'version"),
        (struct.pack("<Q", 2**40) + b"{}", "cut off within its header"),
        (struct.pack("<Q", 2) + b"{" + b"]", "cut off or no safetensors file"),
    ],
)
def test_other_files_are_a_sentence(tmp_path, content, sentence):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        files.read_tensors(tmp_path / "x")


def test_no_file_and_a_folder_are_sentences(tmp_path):
    with pytest.raises(InputError, match="nowhere does not exist"):
        files.read_tensors(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is a folder; name the file in it"):
        files.read_tensors(tmp_path)


@pytest.mark.parametrize(("value", "sentence"),
                         [({"epoch": 3, "lr": 0.1},
                           r"holds no tensors under its names \(epoch, lr\)"),
                          ([1, 2], "holds no dict of tensors"),
                          ({"state_dict": {"nested": {"x": 1}}},
                           r"holds no tensors under its names \(nested\)")])  # fmt: skip
def test_a_file_without_tensors_says_what_it_holds(tmp_path, value, sentence):
    with pytest.raises(InputError, match=sentence):
        files.read_tensors(zipped(tmp_path / "x.pt", value, {}))


def test_something_else_among_tensors_is_named(tmp_path):
    tensors, arrays = state()
    mixed = {**tensors, "extra": {"lr": 0.1}}
    with pytest.raises(InputError, match="has 'extra' among its tensors, which is none"):
        files.read_tensors(zipped(tmp_path / "x.pt", mixed, arrays))


@pytest.mark.parametrize(("change", "sentence"),
                         [({"dtype": "F8_E4M3"}, "type F8_E4M3"),
                          ({"shape": [3, 2]}, r"shape \[3, 2\] in 16 bytes"),
                          ({"shape": [-2, -2]}, r"shape \[-2, -2\]"),
                          ({"data_offsets": [0, 99]}, "ends at byte"),
                          ({"data_offsets": [-16, 0]}, "tensor")])  # fmt: skip
def test_a_header_that_does_not_fit_its_numbers(tmp_path, change, sentence):
    entry = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16], **change}
    header = json.dumps({"x": entry}).encode()
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    with pytest.raises(InputError, match=sentence):
        files.read_tensors(tmp_path / "x")


def test_bfloat16_and_metadata_of_safetensors(tmp_path):
    bits = np.uint16([0x3F80, 0xC000, 0x0000, 0x7F80])  # 1, -2, 0, infinity
    header = {"__metadata__": {"format": "pt"},
              "x": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}  # fmt: skip
    text = json.dumps(header).encode()
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(text)) + text + bits.tobytes())
    tensors, metadata = files.read_safetensors(tmp_path / "x")
    np.testing.assert_array_equal(tensors["x"], np.float32([1, -2, 0, np.inf]))
    assert tensors["x"].dtype == np.float32 and metadata == {"format": "pt"}


def test_what_is_written_is_read(tmp_path):
    odd = {"transposed": TENSORS["single"].T, "big_endian": TENSORS["single"].astype(">f4")}
    files.write_safetensors(tmp_path / "x", {**TENSORS, **odd}, {"who": "nobody"})
    found, metadata = files.read_safetensors(tmp_path / "x")
    same({k: v for k, v in found.items() if k != "half"},
         {k: v.astype(v.dtype.newbyteorder("<")) for k, v in {**TENSORS, **odd}.items()
          if k != "half"})  # fmt: skip
    assert found["half"].dtype == np.float16 and metadata == {"who": "nobody"}
    assert int.from_bytes((tmp_path / "x").read_bytes()[:8], "little") % 8 == 0
    with pytest.raises(InputError, match="Cannot write .*no_such"):
        files.write_safetensors(tmp_path / "no_such" / "x", TENSORS)


def test_files_that_pytorch_writes(tmp_path):
    """Against torch itself: both formats, half precision, parameters, and a TorchScript archive."""
    torch = parity.torch_or_skip()
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    network.register_parameter("shared", network[0].weight)
    network[0].bias.data = torch.nn.Parameter(torch.randn(9)[::3])
    expected = {name: value.numpy() for name, value in network.state_dict().items()}
    for new in (True, False):
        torch.save(
            {"model": network.state_dict(), "epoch": 1, "lr": np.float64(0.1), "args": _settings()},
            tmp_path / "x.pth", _use_new_zipfile_serialization=new,
        )  # fmt: skip
        same(files.read_tensors(tmp_path / "x.pth"), expected)
    torch.jit.script(network).save(tmp_path / "script.pt")
    same(files.read_tensors(tmp_path / "script.pt"), expected)
    half = {"x": torch.randn(5).bfloat16(), "y": torch.randn(2, 3).half()}
    torch.save(half, tmp_path / "half.pt")
    same(files.read_tensors(tmp_path / "half.pt"), {k: v.float().numpy() for k, v in half.items()})


def _settings():
    import argparse
    import pathlib

    return argparse.Namespace(lr=0.1, out=pathlib.Path("x"))


def test_safetensors_are_those_of_the_library(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    files.write_safetensors(tmp_path / "ours", TENSORS, {"a": "b"})
    theirs = library.load_file(tmp_path / "ours")
    for name, value in TENSORS.items():
        np.testing.assert_array_equal(theirs[name], value)
    library.save_file(TENSORS, tmp_path / "theirs")
    same(files.read_tensors(tmp_path / "theirs"), TENSORS)
