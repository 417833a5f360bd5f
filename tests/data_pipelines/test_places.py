"""Places that users name: homes, addresses, locks, and what the system says of a full disk."""

import errno
import fcntl
import logging
import pathlib
import pwd
import resource

import pytest

from data_pipelines import build, places
from data_pipelines.errors import InputError
from data_pipelines.records import storage


def test_a_tilde_is_the_home_and_a_folder_of_that_name_is_not_made(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert places.local("~/runs/a", "--workdir") == tmp_path / "runs" / "a"
    assert places.local("runs/~a", "--workdir") == pathlib.Path("runs/~a")
    assert storage.data_folder("~/d") == tmp_path / "d"


def test_without_a_home_one_is_asked_for_only_where_it_is_needed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(InputError, match="--data_dir, or TFDS_DATA_DIR.* no such home folder"):
        storage.data_folder(None)
    assert storage.data_folder(tmp_path) == tmp_path


@pytest.mark.parametrize("address", ["gs://bucket/run", "s3://bucket", "hdfs:/x", "file:///tmp/x"])
def test_an_address_is_refused_before_anything_is_made(address: str) -> None:
    with pytest.raises(InputError, match=f"--workdir is {address}, and addresses"):
        places.local(address, "--workdir")
    with pytest.raises(InputError, match="--source is"):
        build.list_corpus("manifest", "mine", {"source": address})


def test_a_full_disk_costs_no_file_that_was_whole(tmp_path: pathlib.Path) -> None:
    page = tmp_path / "report.html"
    places.write_whole(page, "as it was")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # no file may grow beyond that
    try:
        with pytest.raises(InputError, match="Cannot write in .*; free some space"):
            with places.written(tmp_path):
                places.write_whole(page, "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(page.name, "as it was")]


def test_a_folder_has_one_writer(tmp_path: pathlib.Path) -> None:
    with (
        places.claimed(tmp_path, "trains here"),
        pytest.raises(InputError, match="Another process trains here"),
        places.claimed(tmp_path, "trains here"),
    ):
        pass
    with places.claimed(tmp_path, "trains here"):
        pass  # it was let go


def test_a_file_system_without_locks_is_no_rival(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(file: object, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING), places.claimed(tmp_path, "trains"):
        assert "has no locks (No locks available)" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("write() failed: No space left on device"),  # of array_record
        ValueError("RESOURCE_EXHAUSTED: Error writing: Disk quota exceeded"),  # of tensorstore
    ],
)
def test_what_the_system_says_is_one_sentence(error: Exception, tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match=f"Cannot write in {tmp_path}: .*[a-z]; free some space"):
        with places.written(tmp_path):
            raise error


def test_a_place_that_cannot_be_is_named_with_what_to_do(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for taken in (file, file / "below" / "it"):
        with pytest.raises(InputError, match=f"^{file} is a file, and no folder: name another"):
            with places.claimed(taken, "trains here"):
                pass
    told = r"^Cannot write in /proc/q: No such file or directory; name another folder\.$"
    with pytest.raises(InputError, match=told), places.claimed(pathlib.Path("/proc/q/x"), "builds"):
        pass
    with pytest.raises(InputError, match="Read-only file system; name another folder"):
        with places.written(tmp_path):
            raise OSError(errno.EROFS, "Read-only file system", str(tmp_path / "a"))


def test_a_wrong_program_and_a_file_elsewhere_are_not_taken_for_a_full_disk(
    tmp_path: pathlib.Path,
) -> None:
    for error in (RuntimeError("shapes differ"), ValueError("no"), InputError("a sentence")):
        with pytest.raises(type(error), match=f"^{error}$"), places.written(tmp_path):
            raise error
    with pytest.raises(PermissionError), places.written(tmp_path / "data"):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "table.csv"))
