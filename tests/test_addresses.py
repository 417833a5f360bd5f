"""Programs at addresses: a finished run is read, converted and reported where it lies."""

import uuid
from pathlib import Path

import fsspec
import jax
import pytest
from absl import flags
from absl.testing import flagsaver
from runs import assert_same_bits

from data_pipelines import stores
from data_pipelines.errors import InputError
from retina_jax import cli, main, origins, trained
from retina_jax.convert import __main__ as convert
from retina_jax.convert import model_folder
from retina_jax.report import __main__ as report


@pytest.fixture(autouse=True)
def parsed():
    flags.FLAGS.mark_as_parsed()
    yield
    flags.FLAGS.unparse_flags()


def test_a_run_at_an_address_is_started_from_converted_and_reported(
    smoke_run, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    local = smoke_run("flair").workdir
    bucket = f"memory://{uuid.uuid4().hex}"
    run, memory = f"{bucket}/runs/run", fsspec.filesystem("memory")
    stores.send(local, run)
    assert origins.state_of(run) == origins.state_of(str(local)) != {}
    start, expected = origins.read(run), origins.read(str(local))
    assert_same_bits(start.variables, expected.variables)
    assert start.told.startswith(f"{run} at step ")
    assert trained.behind(run).specs == trained.behind(local).specs
    with flagsaver.flagsaver(src=run, dst=f"{bucket}/model", source="run"):
        convert.main([])
        with pytest.raises(InputError, match="--dst is .*/model, where something is"):
            convert.main([])
    assert model_folder.read_folder(f"{bucket}/model")[0].title == "run"
    memory.rm_file(memory._strip_protocol(f"{run}/report.html"))
    assert report.main([run]) == 0
    assert capsys.readouterr().out.strip().endswith(f"{run}/report.html")
    assert b"<html" in memory.cat_file(f"{run}/report.html")
    assert report.main([run, "--output", f"{run}/results.json"]) == 2


def test_a_run_trains_in_a_folder_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    run, seen = f"memory://{uuid.uuid4().hex}/run", []
    monkeypatch.setattr(
        main, "_train", lambda folder: seen.append((folder / "results.json").write_text("{}"))
    )
    monkeypatch.setattr(main.distributed, "initialize", lambda: None)
    with flagsaver.flagsaver(workdir=run):
        main.main([])
    assert seen and fsspec.filesystem("memory").cat_file(f"{run}/results.json") == b"{}"
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(InputError, match="the 2 processes of this job .*: mount the bucket"):
        cli.run_directory(run)
    assert not Path("memory:").exists()
