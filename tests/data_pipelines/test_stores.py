"""Runs, models and data sets at addresses, in a storage service that is memory of this process."""

import pathlib
import sys
import uuid

import fsspec
import pytest

from data_pipelines import stores
from data_pipelines.errors import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bucket() -> str:
    return f"memory://{uuid.uuid4().hex}"


def _there(address: str) -> dict[str, bytes]:
    memory = fsspec.filesystem("memory")
    root = memory._strip_protocol(address)
    return {path.removeprefix(f"{root}/"): memory.cat_file(path) for path in memory.find(root)}


def _write(folder: pathlib.Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_what_a_run_writes_is_at_its_address_and_the_next_one_begins_with_it(bucket: str) -> None:
    run = f"{bucket}/runs/a"
    with stores.mirrored(run, "--workdir") as here:
        assert here.name == "a" and not list(here.iterdir())
        _write(here, checkpoints__5___CHECKPOINT_METADATA="", checkpoints__5__model="five")
        _write(here, lock="", metrics="1", **{"checkpoints__6.orbax-checkpoint-tmp__model": "half"})
    assert set(_there(run)) == {
        "checkpoints/5/_CHECKPOINT_METADATA", "checkpoints/5/model", "metrics"
    }  # fmt: skip
    assert not here.exists()
    with pytest.raises(KeyError), stores.mirrored(f"{run}/", "--workdir") as here:
        assert (here / "checkpoints/5/model").read_text() == "five"
        (here / "checkpoints/5/model").unlink()
        (here / "checkpoints/5/_CHECKPOINT_METADATA").unlink()
        _write(here, metrics="12", checkpoints__8___CHECKPOINT_METADATA="")
        raise KeyError("a run that failed")
    assert set(_there(run)) == {"checkpoints/8/_CHECKPOINT_METADATA", "metrics"}
    assert _there(run)["metrics"] == b"12"


def test_it_is_there_while_the_run_goes_on_and_a_service_that_fails_may_come_back(
    bucket: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sender = stores._Sender(fsspec.filesystem("memory"), f"/{bucket[9:]}/a", pathlib.Path("/none"))

    class Twice:
        times = iter((False, False, True))

        def wait(self, seconds: float) -> bool:
            return next(self.times)

    pushed = iter((OSError("quota"), None))

    def push() -> None:
        if error := next(pushed):
            raise error

    monkeypatch.setattr(sender, "push", push)
    stores._sending(sender, Twice())  # type: ignore[arg-type]
    assert "quota" in caplog.text and next(pushed, "both") == "both"


def test_a_checkpoint_that_is_there_in_part_counts_for_nothing(
    bucket: str, tmp_path: pathlib.Path
) -> None:
    memory = fsspec.filesystem("memory")
    order: list[str] = []
    _write(tmp_path / "run", checkpoints__5___CHECKPOINT_METADATA="", checkpoints__5__z="five")
    put, there = memory.put_file, f"{bucket}/a"

    def one_then_killed(path: str, to: str) -> None:
        order.append(to.rsplit("/", 1)[-1])
        if len(order) > 1:
            raise KeyboardInterrupt
        put(path, to)

    memory.put_file = one_then_killed
    try:
        with pytest.raises(KeyboardInterrupt):
            stores.send(tmp_path / "run", there)
    finally:
        del memory.put_file
    assert order == ["z", "_CHECKPOINT_METADATA"] and set(_there(there)) == {"checkpoints/5/z"}
    with stores.mirrored(there, "--workdir") as here:
        assert not [path for path in here.rglob("*") if path.is_file()]


def test_a_copy_follows_what_is_there_and_fetches_the_rest_once(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = fsspec.filesystem("memory")
    for name in ("a", "b", "checkpoints/1/_CHECKPOINT_METADATA"):
        memory.pipe(f"{bucket}/m/{name}", name.encode())
    place = stores.near(f"{bucket}/m", "--src", skip=("checkpoints",))
    assert sorted(path.name for path in place.iterdir()) == ["a", "b"]
    memory.pipe(f"{bucket}/m/a", b"A")  # as long as before
    memory.rm_file(memory._strip_protocol(f"{bucket}/m/b"))
    stores._copied.cache_clear()  # another program
    fetched: list[str] = []
    get = memory.get_file
    monkeypatch.setattr(
        memory, "get_file", lambda there, to: (fetched.append(there[-1]), get(there, to))
    )
    assert stores.near(f"{bucket}/m/", "--src", skip=("checkpoints",)) == place
    assert [(path.name, path.read_text()) for path in place.iterdir()] == [("a", "A")]
    assert fetched == ["a"]
    assert stores.near(f"{bucket}/m/a", "--src").read_text() == "A"  # a file
    with pytest.raises(InputError, match="--src is .*/nothing, and there is nothing"):
        stores.near(f"{bucket}/nothing", "--src")


def test_nothing_takes_the_place_of_what_is_at_an_address(bucket: str) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe(f"{bucket}/m/a", b"a")
    with pytest.raises(InputError, match="--dst is .*/m, where something is"):
        with stores.delivered(f"{bucket}/m", "--dst"):
            pass
    with stores.delivered(f"{bucket}/m", "--output", replace=True) as place:
        _write(place, b="b")
    assert _there(f"{bucket}/m") == {"a": b"a", "b": b"b"}
    with pytest.raises(KeyError), stores.delivered(f"{bucket}/n", "--dst") as place:
        _write(place, half="h")
        raise KeyError
    assert not _there(f"{bucket}/n")


def test_a_service_that_cannot_be_reached_is_one_sentence(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise RuntimeError("403 Forbidden\nand a page of it")

    memory = fsspec.filesystem("memory")
    monkeypatch.setattr(memory, "find", gone)
    with pytest.raises(InputError, match=r"cannot be read or written: 403 Forbidden\.$"):
        stores.near(f"{bucket}/x", "--src")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(InputError, match=r"needs a package: pip install 'retina_jax\[stores\]'"):
        stores.near("gs://bucket/run", "--src")
    assert not pathlib.Path("gs:").exists()
