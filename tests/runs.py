"""Small real runs for the tests: the smoke configs, cut to what a test needs."""

import contextlib
import dataclasses
import fcntl
import functools
import json
import multiprocessing
import os
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

import retina_jax
from retina_jax import cli, config_files, experiment
from retina_jax.types import Experiment

ROOT = Path(__file__).resolve().parents[1]
# The configs of published systems; the others are of classifiers, and studies on real pictures.
SYSTEMS = tuple(name for name in config_files.names() if name not in ("classifier", "odir", "real"))


def whole_config(name: str, variant: str = "smoke") -> ConfigDict:
    """The config `name:variant` as a program sees it."""
    return cli.config_dict_of(retina_jax.get_config(f"{name}:{variant}"))


def config(name: str, variant: str = "smoke", **options: Any) -> ConfigDict:
    """The same without evaluators, with top-level options set."""
    made = whole_config(name, variant)
    for stage in made.stages.values() if "stages" in made else (made,):
        stage.evaluators = {}
        for option, value in options.items():
            shared = option in ("seed", "data_dir", "mesh")
            (made if shared else stage)[option] = value
    return made


@functools.cache
def built(name: str) -> list[Experiment]:
    """The stages of `name:smoke`, built once for all tests of a worker; not to be trained."""
    return experiment.build_all(whole_config(name), Path("unused"))


def logged(workdir: Path, name: str = "loss") -> dict[int, Any]:
    """{step: value} of `train/<name>` in the metrics of a run."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line[f"train/{name}"] for line in lines if f"train/{name}" in line}


def host(tree: Any) -> list[np.ndarray]:
    """Leaves as host arrays."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def assert_same_bits(first: Any, second: Any) -> None:
    """Both trees have the same leaves, bit by bit."""
    one, other = host(first), host(second)
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert a.tobytes() == b.tobytes()


def bert_vocabulary(path: Path) -> None:
    """Writes a vocab.txt of as many rows as that of Bio_ClinicalBERT, without its words."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    rows = [*special, *(f"[unused{i}]" for i in range(28_996 - len(special)))]
    path.write_text("\n".join(rows) + "\n")


def python(
    *arguments: str, env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess:
    """Runs python with `arguments` in the repository's root and captures its output."""
    return subprocess.run([sys.executable, *arguments], env={**os.environ, **(env or {})},
                          capture_output=True, text=True, timeout=600, check=False,
                          **{"cwd": ROOT, **options})  # fmt: skip


# Python and JAX start once for each worker of pytest; every program runs in a copy of that process,
# made before any device is in use.
_COPIES = multiprocessing.get_context("forkserver")
_IMPORTED = ["quick_tracing", "runs", "retina_jax.experiment", "retina_jax.report"]
_COPIES.set_forkserver_preload(_IMPORTED)


class Program:
    """A program that runs beside the test as `python -m MODULE` or `python -c CODE` would."""

    def __init__(self, *line: str, env: Mapping[str, str] | None = None):
        self._folder, self._line = Path(tempfile.mkdtemp()), list(line)
        given = (str(self._folder), self._line, dict(env or {}))
        self.process = _COPIES.Process(target=_run_as_main, args=given)
        self.process.start()

    def finish(self, timeout: float = 600) -> subprocess.CompletedProcess:
        """Waits for its end; its status and what it printed."""
        self.process.join(timeout)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        out, err = ((self._folder / name).read_text("utf-8") for name in ("stdout", "stderr"))
        shutil.rmtree(self._folder)
        return subprocess.CompletedProcess(self._line, self.process.exitcode, out, err)


def _run_as_main(folder: str, line: list[str], env: Mapping[str, str]) -> None:
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT), descriptor)
    os.environ.update(env)
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    sys.argv = line
    if line[0] == "-c":
        sys.argv = line[:1] + line[2:]
        exec(line[1], {"__name__": "__main__"})
    else:
        runpy.run_module(line[0], run_name="__main__")


def program(*line: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess:
    """Runs a `Program` to its end."""
    return Program(*line, env=env).finish()


def job(*line: str, **env: str) -> list[Program]:
    """Both processes of a job of `jax.distributed`, each of which runs that line."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2", **env}
    return [Program(*line, env={**shared, "JAX_PROCESS_ID": str(i)}) for i in (0, 1)]


def devices(number: int) -> dict[str, str]:
    """The environment of a `Program` that sees so many of them."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={number}"
    return {"XLA_FLAGS": flags}


@contextlib.contextmanager
def once(place: Path) -> Iterator[bool]:
    """Whether this process is the first of all that come to `place`; the others wait for it.

    What the first one made is complete for the others, unless it failed: then the next one tries.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(place.with_name(place.name + ".lock"), "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = place.with_name(place.name + ".made")
        yield not made.exists()
        made.touch()


@dataclasses.dataclass(frozen=True)
class SmokeRun:
    """A run of configs/<name>.py:smoke that is over; to be looked at, not to be changed."""

    arguments: tuple[str, ...]  # of every program, about this run
    workdir: Path
    stdout: str
    stderr: str


def smoke_run(name: str, shared: Path) -> SmokeRun:
    """Trains a smoke config as users do, once for all tests of all workers.

    Args:
      name: of the config.
      shared: the folder that all workers of a session have.
    """
    folder = shared / "smoke_runs" / name
    arguments = (f"--config=configs/{name}.py:smoke", f"--workdir={folder / 'run'}")
    with once(folder) as first:
        if first:
            done = program("retina_jax.main", *arguments)
            assert done.returncode == 0, done.stderr[-3000:]
            (folder / "stdout").write_text(done.stdout, "utf-8")
            (folder / "stderr").write_text(done.stderr, "utf-8")
    printed = ((folder / stream).read_text("utf-8") for stream in ("stdout", "stderr"))
    return SmokeRun(arguments, folder / "run", *printed)
