"""Files of weights that claim what they do not hold, come in parts, or hold no numbers."""

import json
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from convert.pickles import Storage, Tensor, pickled, tensor, zipped

from data_pipelines.errors import InputError
from retina_jax.convert import files, registry

pytestmark = pytest.mark.fast

MAGIC = pickled(0x1950A86A20F9469CFC6C)
TENSORS = {"half": np.float16([[1.5, -2.25]]), "single": np.arange(6, dtype=np.float32),
           "count": np.asarray(7, np.int64)}  # fmt: skip


def same(found):
    """Whether these are TENSORS, half precision widened."""
    assert sorted(found) == sorted(TENSORS)
    for name, value in TENSORS.items():
        np.testing.assert_array_equal(found[name], value)


def text(word):
    return b"X" + struct.pack("<I", len(word)) + word.encode()


def changed_afterwards(target, **attributes):
    """A pickle of {'w': a tensor of 4 numbers} whose tensor or storage BUILD changes."""
    build = b"}" + b"".join(
        text(name) + b"J" + struct.pack("<i", value) + b"s" for name, value in attributes.items()
    )
    after = {"tensor": b"", "storage": b"", target: build + b"b"}
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    storage += b"K\x04tQ" + after["storage"]
    made = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00K\x04\x85K\x01\x85\x89}tR"
    return b"\x80\x02}" + text("w") + made + after["tensor"] + b"s."


@pytest.mark.parametrize("target", ["tensor", "storage"])
def test_a_tensor_stays_as_it_was_checked(tmp_path, target):
    """A file may not make a tensor longer once it was found to fit its storage."""
    for attributes in ({"count": 10**9}, {}):
        with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
            archive.writestr("archive/data.pkl", changed_afterwards(target, **attributes))
            archive.writestr("archive/data/0", np.ones(4, np.float32).tobytes())
        with pytest.raises(InputError, match="a tensor that is changed after it was made"):
            files.read_tensors(tmp_path / "x.pth")


CLAIMS = {
    "objects": b"\x80\x02Nr\xa3\x4f\x4b\x39.",  # to be kept as the 961,236,899th of the pickle
    "bytes": b"\x80\x02T\xff\xff\xff\x7f.",  # 2 GB
    "a buffer": b"\x80\x05\x96\x00\x00\x00\x00\x80\x00\x00\x00.",  # 512 GB
}


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize("kind", ["stream", "zip"])
def test_what_a_file_claims_is_bounded_before_it_is_read(tmp_path, claim, kind):
    path = tmp_path / "x.pth"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", CLAIMS[claim])
    else:
        path.write_bytes(MAGIC + CLAIMS[claim])
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=str(path)) as refusal:
            files.read_tensors(path)
        assert str(refusal.value).isprintable()
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()


def test_a_small_file_makes_no_large_arrays(tmp_path):
    """One number that claims to be a billion, and zeros in a compressed part."""
    one = np.ones(1, np.float32)
    repeated = {"x": Tensor(Storage("FloatStorage", "0", one), 0, (10**9,), (0,))}
    with pytest.raises(InputError, match="tensors of 4000000000 bytes, which is far more"):
        files.read_tensors(zipped(tmp_path / "repeated.pt", repeated, {"0": one}))
    zeros = np.zeros(10**6, np.float32)
    zipped(tmp_path / "stored.pt", {"x": tensor("0", zeros)}, {"0": zeros})
    with (
        zipfile.ZipFile(tmp_path / "stored.pt") as old,
        zipfile.ZipFile(tmp_path / "compressed.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(InputError, match="tensors of 4000000 bytes"):
        files.read_tensors(tmp_path / "compressed.pt")


def test_the_reason_is_one_line(tmp_path):
    (tmp_path / "x.pth").write_bytes(MAGIC + b"\x80\x02Floa\x1bt\n.")
    with pytest.raises(InputError, match="could not convert string to float") as refusal:
        files.read_tensors(tmp_path / "x.pth")
    assert str(refusal.value).isprintable()


def test_a_zip_whose_directory_points_before_its_start(tmp_path):
    path = tmp_path / "x.pth"
    zipped(path, {"x": tensor("0", TENSORS["single"])}, {"0": TENSORS["single"]})
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\x01\x02") + 42  # the offset of the last part
    data[place : place + 4] = b"\xff\xff\xff\x7f"
    path.write_bytes(data)
    with pytest.raises(InputError, match="x.pth is .*get it again"):
        files.read_tensors(path)


@pytest.fixture
def sharded(tmp_path):
    """A folder of a model in two files with an index, both with a wrapper's prefix."""
    names = {}
    for number, part in enumerate((list(TENSORS)[:1], list(TENSORS)[1:])):
        file = f"model-{number}.safetensors"
        files.write_safetensors(tmp_path / file, {f"module.{n}": TENSORS[n] for n in part})
        names |= {f"module.{name}": file for name in part}
    index = {"metadata": {}, "weight_map": names}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


def test_a_model_in_several_files_is_read_by_its_index_or_its_folder(sharded):
    for path in (sharded, sharded / "model.safetensors.index.json"):
        same(files.read_tensors(path))
    assert registry.sha256(sharded) == registry.sha256(sharded / "model.safetensors.index.json")
    (sharded / "model-1.safetensors").unlink()
    with pytest.raises(InputError, match="names model-1.safetensors, which are not beside it"):
        files.read_tensors(sharded)


@pytest.mark.parametrize("index", ['{"weight_map": 1}', "[]", '{"weight_map": {"a": "../b"}}', "{"])
def test_an_index_that_is_none_or_names_files_elsewhere(tmp_path, index):
    (tmp_path / "x.index.json").write_text(index)
    with pytest.raises(InputError, match="is no index|names ../b, which are not beside it"):
        files.read_tensors(tmp_path)


def test_prefixes_are_taken_off_safetensors_too(tmp_path):
    tensors = {f"_orig_mod.module.{name}": value for name, value in TENSORS.items()}
    files.write_safetensors(tmp_path / "x", tensors)
    same(files.read_tensors(tmp_path / "x"))


def test_tensors_of_safetensors_that_share_bytes_are_refused(tmp_path):
    """Widened, a thousand names of the same bytes would be a thousand arrays."""
    entry = {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}
    header = json.dumps({f"{i}": entry for i in range(3)}).encode()
    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(InputError, match="tensors of more bytes than the file has"):
        files.read_tensors(tmp_path / "x")


def test_nan_and_infinite_weights_are_named():
    tensors = {**TENSORS, "a": np.float32([0, np.nan]), "b": np.float16([np.inf])}
    assert files.nonfinite(tensors) == ["a", "b"]
