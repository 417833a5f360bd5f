"""What each fault does to a run: how it ends, what is said, and what is left of what was finished.

    python -m benchmarks.drill --workdir=FOLDER

Small trainings by the program that users start, one fault in each: then the same command goes on,
and what it ends with is compared with a run that was left alone. Then one flipped bit in the arrays
of a checkpoint, many times, with checksums and as checkpoints were stored before. One JSON line
each; the status is 1 if anything is not as docs/faults.md says.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import hashlib
import logging
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from benchmarks import measuring
from data_pipelines.errors import InputError
from retina_jax.train import checksums, restore

_ROOT = Path(__file__).resolve().parents[1]
_OPTIONS = (
    "--config=flair:smoke", "--config.total.steps=40", "--config.every.log.steps=1",
    "--config.every.checkpoint={'steps': 5}", "--config.keep.last=100", "--config.evaluators={}",
)  # fmt: skip
# The program, with another one in the place of Python in the processes that it starts.
_LOADERS_BY = """
import multiprocessing.spawn, runpy, sys
multiprocessing.spawn.set_executable(sys.argv.pop(1))
runpy.run_module("retina_jax.main", run_name="__main__", alter_sys=True)
"""


class Run:
    """A small training in a folder, begun as often as it is asked for.

    Attributes:
      workdir: where it lives.
      process: the last one that was begun.
      kept: files that a fault must not change, with their content.
    """

    def __init__(self, folder: Path, name: str, processes: int = 1) -> None:
        self.workdir, self._folder, self.processes = folder / name, folder, processes
        self.kept: dict[Path, bytes] = {}

    def start(self, *options: str, program: Sequence[str] = (), **variables: str) -> None:
        """Begins, or goes on, with more options or another program, and variables of its own."""
        launcher = ["launch/local.sh", str(self.processes)] if self.processes > 1 else []
        line = [*launcher, sys.executable, *(program or ("-m", "retina_jax.main")), *_OPTIONS,
                f"--workdir={self.workdir}", *options]  # fmt: skip
        shared = {"JAX_PLATFORMS": "cpu", "TFDS_DATA_DIR": f"{self._folder / 'data'}",
                  "JAX_COMPILATION_CACHE_DIR": f"{self._folder / 'programs'}"}  # fmt: skip
        self._said = self._folder / f"{self.workdir.name}.stderr"
        with open(self._said, "w", encoding="utf-8") as said:
            self.process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=said, cwd=_ROOT,
                                            env={**os.environ, **shared, **variables})  # fmt: skip
        self._begun = time.monotonic()

    def said(self) -> str:
        """What it said until now."""
        return self._said.read_text("utf-8", errors="replace")

    def until(self, happened: Callable[[], Any]) -> None:
        """Waits for the moment of a fault, from which on seconds are counted."""
        while not happened():
            if self.process.poll() is not None:
                raise SystemExit(f"{self.workdir} ended before its fault:\n{self.said()[-3000:]}")
            time.sleep(0.01)
        self._begun = time.monotonic()

    def until_saved(self) -> None:
        """Waits for its second checkpoint."""
        self.until((self.workdir / "checkpoints" / "10").exists)

    def end(self) -> tuple[int, float]:
        """Its status as a shell says it, and the seconds since `start` or `until`."""
        status = self.process.wait()
        return status if status >= 0 else 128 - status, time.monotonic() - self._begun

    def no_room(self, size: int) -> None:
        """From now on no file of it may grow beyond so many bytes, as on a full disk."""
        for number in _processes(f"--workdir={self.workdir}"):
            resource.prlimit(number, resource.RLIMIT_FSIZE, (size, size))


def _processes(*words: str) -> list[int]:
    """Processes in whose command line and variables all the words are."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = b"\0".join((folder / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:  # it is gone, or another user's
            continue
        if all(word.encode() in text for word in words):
            found.append(int(folder.name))
    return found


def killed(run: Run) -> None:
    """The process is killed."""
    run.start()
    run.until_saved()
    run.process.kill()


def told(run: Run) -> None:
    """SIGTERM."""
    run.start()
    run.until_saved()
    run.process.terminate()


def told_as_it_compiles(run: Run) -> None:
    """SIGTERM while the step is compiled."""
    run.start(JAX_COMPILATION_CACHE_DIR=f"{run.workdir}-programs")
    run.until(lambda: "Compiling the step" in run.said())
    time.sleep(0.5)
    run.process.terminate()


def damaged(run: Run) -> None:
    """A bit of the newest checkpoint is flipped."""
    killed(run)
    run.end()
    newest = run.workdir / "checkpoints" / str(max(digests(run.workdir)))
    path = max((newest / "model").rglob("*"), key=lambda path: path.stat().st_size)
    path.write_bytes(flipped(path.read_bytes(), random.Random(5)))
    run.start()


def loader_killed_at_its_start(run: Run) -> None:
    """A loader process is killed at its start."""
    no_python = run.workdir.with_suffix(".sh")
    no_python.write_text("#!/bin/sh\nkill -9 $$\n")
    no_python.chmod(0o700)
    run.start("--config.loading.num_workers=1", program=("-c", _LOADERS_BY, str(no_python)))


def loader_killed(run: Run) -> None:
    """A loader process is killed later."""
    name = f"of {run.workdir}"
    run.start("--config.loading.num_workers=1", DRILL=name)
    run.until_saved()
    for number in _processes("spawn_main", f"DRILL={name}"):
        os.kill(number, signal.SIGKILL)


def one_lost(run: Run) -> None:
    """One of two processes is killed."""
    _lose(run, 1)


def first_lost(run: Run) -> None:
    """The first of two processes is killed."""
    _lose(run, 0)


def _lose(run: Run, number: int) -> None:
    run.start(LAUNCH_GRACE="100")
    run.until_saved()
    (lost,) = _processes(f"--workdir={run.workdir}", f"JAX_PROCESS_ID={number}")
    os.kill(lost, signal.SIGKILL)


def no_room_for_checkpoints(run: Run) -> None:
    """The disk is full in a checkpoint."""
    run.start()
    run.until_saved()
    run.no_room(150_000)


def no_room_for_two(run: Run) -> None:
    """The disk is full in a checkpoint of two processes."""
    run.start(LAUNCH_GRACE="100")
    run.until_saved()
    run.no_room(150_000)


def no_room_for_metrics(run: Run) -> None:
    """The disk is full in metrics.jsonl."""
    run.start()
    run.until_saved()
    run.no_room((run.workdir / "metrics.jsonl").stat().st_size)


def no_room_for_the_report(run: Run) -> None:
    """The disk is full in the report."""
    run.start()
    run.end()
    page = run.workdir / "report.html"
    run.kept[page] = page.read_bytes()
    run.start()
    run.no_room(len(run.kept[page]) - 1)


def cut(run: Run) -> None:
    """A file of records is cut to 60 %."""
    killed(run)
    run.end()
    data = run.workdir.with_suffix(".data")
    shutil.copytree(run.workdir.parent / "data", data)
    (path,) = data.rglob("*public.array_record*")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    run.start(TFDS_DATA_DIR=str(data))


# The fault, how many processes it is of, the status it ends with, a part of what is said.
FAULTS: tuple[tuple[Callable[[Run], None], int, int, str], ...] = (
    (killed, 1, 137, ""),
    (told, 1, 143, "Run the same command to go on"),
    (told_as_it_compiles, 1, 143, "Stopped at once"),
    (damaged, 1, 0, "a checksum does not fit"),
    (loader_killed_at_its_start, 1, 2, "A loader process was killed"),
    (loader_killed, 1, 2, "A loader process was killed"),
    (one_lost, 2, 137, "Another process of this job was lost"),
    (first_lost, 2, 137, "Another process of this job was lost"),
    (no_room_for_checkpoints, 1, 2, "free some space"),
    (no_room_for_two, 2, 2, "free some space"),
    (no_room_for_metrics, 1, 2, "free some space"),
    (no_room_for_the_report, 1, 2, "free some space"),
    (cut, 1, 2, "is damaged"),
)


def digests(workdir: Path) -> dict[int, str]:
    """Of each finished checkpoint, a digest of its parameters and statistics, '' if unreadable."""
    place, found = workdir / "checkpoints", {}
    for step in sorted(int(path.name) for path in place.glob("*") if path.name.isdigit()):
        found[step] = ""
        with contextlib.suppress(InputError):
            leaves = jax.tree.leaves(restore.read_variables(place, step))
            bits = b"".join(np.asarray(leaf).tobytes() for leaf in leaves)
            found[step] = hashlib.sha256(bits).hexdigest()
    return found


def faults(folder: Path, only: str = "") -> Iterator[dict[str, Any]]:
    """Each fault whose name has `only` in it, and what came of it."""

    @functools.cache
    def straight(processes: int) -> dict[int, str]:
        run = Run(folder, f"alone-{processes}", processes)
        run.start()
        if run.end()[0]:
            raise SystemExit(run.said()[-3000:])
        return digests(run.workdir)

    for fault, processes, expected, part in FAULTS:
        if only not in fault.__name__:
            continue
        alone = straight(processes)
        run = Run(folder, fault.__name__, processes)
        fault(run)
        status, seconds = run.end()
        said = re.split(r"[\r\n]+", run.said())
        sentence = next((line for line in said if part and part in line), "")
        left = digests(run.workdir)
        # SIGTERM saves a step of its own, of which the end tells.
        whole = all(bits == alone.get(step, bits) != "" for step, bits in left.items()) and all(
            path.read_bytes() == content for path, content in run.kept.items()
        )
        traceback = any("Traceback" in line for line in said)
        run.start()
        again, _ = run.end()
        same = digests(run.workdir).get(40) == alone[40]
        held = status == expected and bool(sentence or not part) and whole and not traceback
        yield {
            "figure": f"fault/{(fault.__doc__ or '').rstrip('.')}",
            "status": status,
            "seconds": round(seconds, 1),
            "sentence": sentence.replace(str(folder), "FOLDER"),
            "traceback": traceback,
            "finished": list(left),
            "whole": whole,
            "then": {"status": again, "same bits": same},
            "as described": held and again == 0 and same,
        }


def managers(place: Path) -> Iterator[tuple[str, Any, Any, Any]]:
    """(how arrays are stored, a manager of checkpoints, what it saves, what it restores)."""
    made: Any = checksums.manager(place, ["model"])
    yield "with checksums", made, checksums.saving, checksums.restoring
    shutil.rmtree(place)
    made = ocp.CheckpointManager(place, item_handlers={"model": ocp.StandardCheckpointHandler()})
    yield "without, as before", made, ocp.args.StandardSave, ocp.args.StandardRestore


def flipped(whole: bytes, chance: random.Random) -> bytes:
    """The same with one bit changed."""
    data = bytearray(whole)
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def flips(folder: Path, number: int) -> Iterator[dict[str, Any]]:
    """One flipped bit in a random byte of the arrays of a checkpoint, many times."""
    draw = np.random.default_rng(0)
    tree = {f"layer{i}": draw.normal(size=(64, 256)).astype(np.float32) for i in range(8)}
    wanted = [leaf.tobytes() for leaf in jax.tree.leaves(tree)]
    place = folder / "flips"
    shutil.rmtree(place, ignore_errors=True)
    for stored, manager, saving, restoring in managers(place):
        counts: collections.Counter[str] = collections.Counter()
        manager.save(0, args=ocp.args.Composite(model=saving(tree)))
        manager.wait_until_finished()
        files = [path for path in (place / "0" / "model").rglob("*") if path.is_file()]
        sizes, chance = [path.stat().st_size for path in files], random.Random(5)
        for _ in range(number):
            (path,) = chance.choices(files, sizes)
            whole = path.read_bytes()
            path.write_bytes(flipped(whole, chance))
            try:
                found = manager.restore(0, args=ocp.args.Composite(model=restoring(tree)))["model"]
                same = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(found)] == wanted
                counts["without effect" if same else "silently other parameters"] += 1
            except Exception:  # noqa: BLE001 (Orbax raises many kinds for a broken file)
                counts["noticed"] += 1
            path.write_bytes(whole)
        manager.close()
        yield {"figure": f"flips/{stored}", "flips": number, "bytes": sum(sizes), **counts}


def main() -> None:
    """Prints the lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--workdir", required=True, type=Path, help="an empty folder")
    parser.add_argument("--flips", type=int, default=100, help="of each kind of checkpoint")
    parser.add_argument("--only", default="", help="faults whose name has this in it")
    parser.add_argument("--output", help="a file for the lines, too")
    given = parser.parse_args()
    logging.disable(logging.ERROR)

    def lines() -> Iterator[dict[str, Any]]:
        yield measuring.environment(["jax", "orbax-checkpoint", "tensorstore"])
        yield from faults(given.workdir.absolute(), given.only)
        yield from flips(given.workdir.absolute(), given.flips)

    told = measuring.tell(lines(), given.output)
    raise SystemExit(not all(line.get("as described", True) for line in told))


if __name__ == "__main__":
    main()
