"""Trains what a config describes: python -m retina_jax.main --config=mmretinal_v2."""

from __future__ import annotations

import logging
from pathlib import Path

from absl import flags

from retina_jax import cli, distributed, experiment
from retina_jax.train import loop, run_directory
from retina_jax.train.phases import Phases

_CONFIG = cli.define_config("config", "The config, e.g. configs/flair.py:smoke")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lives; by default workdir/<config>")


def main(_: list[str]) -> None:
    """Trains every stage, then prints the results and writes the page."""
    distributed.initialize()
    with cli.run_directory(_WORKDIR.value) as workdir:
        _train(workdir)


def _train(workdir: Path) -> None:
    with Phases(workdir, active=distributed.is_first()).phase("Opening data, matching all parts"):
        stages = experiment.build_all(_CONFIG.value, workdir)
    logging.getLogger("retina_jax").info("The run lives in %s.", workdir)
    directories = [experiment.stage_directory(workdir, stage.name) for stage in stages]
    run_directory.check_stages(stages, directories)
    with run_directory.claimed(workdir):
        for stage, directory in zip(stages, directories, strict=True):
            loop.train(stage, directory)
        if distributed.is_first():
            from retina_jax import report  # its charts take a second to import

            print(report.summary(workdir))
            print(f"Page: {report.write([workdir], workdir / 'report.html')}")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    cli.run(main)
