"""What a run tells of itself: `starts.jsonl` of each start, `parameters.txt` of its arrays."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import collections
import contextlib
import datetime
import importlib.metadata
import json
import logging
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from clu import parameter_overview

from retina_jax.types import Experiment, TrainState

_logger = logging.getLogger(__name__)
_LIBRARIES = (
    "retina_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain",
    "tensorflow-datasets", "numpy", "scipy", "scikit-learn", "pillow",
)  # fmt: skip
STARTS = "starts.jsonl"
_PATIENCE = 10  # seconds for git


def append_start(workdir: Path, step: int) -> None:
    """Adds a line to `starts.jsonl`, on the first process; a run never fails for want of it.

    Args:
      workdir: the run's directory.
      step: where it begins.
    """
    if jax.process_index() != 0:
        return
    line = {"step": step, **facts()}
    try:
        with (Path(workdir) / STARTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        _logger.warning("How the run was started could not be written down: %s.", error)


def describe_parameters(experiment: Experiment, state: TrainState, workdir: Path) -> None:
    """Writes the table of all arrays to `parameters.txt`, and logs how many each part has."""
    overview = parameter_overview.get_parameter_overview(state.params, include_stats=False)
    (workdir / "parameters.txt").write_text(f"{overview}\n", encoding="utf-8")
    counts = {
        part: sum(leaf.size for leaf in jax.tree.leaves(tree))
        for part, tree in state.params.items()
    }
    _logger.info(
        "%s has %s parameters, all named in %s:",
        f"The model of stage '{experiment.name}'" if experiment.name else "The model",
        f"{sum(counts.values()):,}",
        workdir / "parameters.txt",
    )
    _logger.info("  %s", ", ".join(f"{part} {count:,}" for part, count in counts.items()))


def facts() -> dict[str, Any]:
    """Time, command, commit, versions and devices; None for what this machine cannot tell."""
    found: dict[str, Any] = {}
    for name, find in _FACTS.items():
        try:
            found[name] = find()
        except Exception as error:  # noqa: BLE001 (whatever a machine may lack)
            found[name] = None
            _logger.debug("'%s' of this start is not known: %s", name, error)
    return found


def _git(*arguments: str) -> str:
    # The commit is that of this library's checkout, not of a folder that it happens to lie in.
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_PATIENCE)
    return done.stdout.strip()


def _commit() -> str | None:
    """The commit of this checkout, with '+' if its files were changed; None where it is none."""
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)
    except subprocess.CalledProcessError:
        return None
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return _git("rev-parse", "HEAD") + ("+" if changed else "")


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _devices() -> dict[str, int]:
    """Kind -> how many."""
    return dict(collections.Counter(device.device_kind for device in jax.devices()))


_FACTS: dict[str, Callable[[], Any]] = {
    "time": lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "command": lambda: list(sys.argv),
    "commit": _commit,
    "python": platform.python_version,
    "versions": _versions,
    "devices": _devices,
    "processes": jax.process_count,
}
