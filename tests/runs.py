"""Small real runs for the tests: the smoke configs, cut to what a test needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

import retina_jax
from retina_jax import cli, config_files

ROOT = Path(__file__).resolve().parents[1]
# The configs of published systems; the others are studies on real pictures.
SYSTEMS = tuple(name for name in config_files.names() if name not in ("odir", "real"))


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
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        **{"cwd": ROOT, **options},
    )


# Python and JAX start once; each command line runs in a copy of that process, before any device.
_DRIVER = """
import json, os, runpy, sys, traceback
import retina_jax.experiment, retina_jax.report, retina_jax.train.loop
for number, (module, arguments) in enumerate(json.load(sys.stdin)):
    child = os.fork()
    if not child:
        for stream, descriptor in (("out", 1), ("err", 2)):
            path = f"{sys.argv[1]}/{number}.{stream}"
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
        sys.argv = [module, *arguments]
        status = 0
        try:
            runpy.run_module(module, run_name="__main__")
        except SystemExit as end:
            status = end.code or 0
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with open(f"{sys.argv[1]}/{number}.status", "w") as file:
        file.write(str(status))
"""


def command_lines(
    lines: Sequence[tuple[str, Sequence[str]]], folder: Path
) -> list[tuple[int, str, str]]:
    """Runs (module, arguments) one after the other: their (status, stdout, stderr).

    Args:
      lines: command lines of programs of the library.
      folder: for what they print.
    """
    done = python("-c", _DRIVER, str(folder), input=json.dumps(lines))
    assert done.returncode == 0, done.stderr

    def read(number: int) -> tuple[int, str, str]:
        status, out, err = (
            (folder / f"{number}.{what}").read_text(encoding="utf-8")
            for what in ("status", "out", "err")
        )
        return int(status), out, err

    return [read(number) for number in range(len(lines))]
