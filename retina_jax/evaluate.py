"""Scores a checkpoint: python -m retina_jax.evaluate --config=flair --workdir=DIR."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

from data_pipelines import places, stores
from data_pipelines.errors import InputError
from retina_jax import cli, distributed, experiment
from retina_jax.train import loop
from retina_jax.train.checkpoint import Checkpointer, Retention
from retina_jax.types import Experiment, Results, TrainState

_logger = logging.getLogger(__name__)
_CONFIG = cli.define_config("config", "The config the run was trained with")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lives; by default workdir/<config>")
_OUTPUT = flags.DEFINE_string("output", None, "Where results go; by default <workdir>/evaluation")
_STEP = flags.DEFINE_integer(
    "step", None, "The checkpoint; by default the newest, or with keep.patience the best"
)
_BEST = flags.DEFINE_bool("best", False, "Score the checkpoint that was best in keep.best instead")
_SUBGROUP = flags.DEFINE_multi_string(
    "subgroup", [], "A field of the records by which patients are grouped, beside the usual ones"
)
_UNTRAINED = flags.DEFINE_bool("untrained", False, "Score the parameters that training began with")


def _state(stage: Experiment, directory: Path) -> TrainState:
    abstract = loop.abstract_state(stage)
    if _UNTRAINED.value:
        return loop.fresh_state(stage, abstract)
    retention = Retention(stage.settings.keep.last, stage.settings.keep.best)
    checkpointer = Checkpointer(directory / "checkpoints", retention, read_only=True)
    best = _BEST.value or (_STEP.value is None and stage.settings.keep.patience is not None)
    step = checkpointer.best_step() if best else _STEP.value
    state = checkpointer.restore_model(abstract, step)
    if state is None:
        raise InputError(f"There is no checkpoint in {directory}; train first, or fix --workdir.")
    # Of its own step: an earlier checkpoint may have taken over from a damaged one.
    loop.warn_of_preparation(stage.evaluated, checkpointer.preparation(int(state.step)))
    return state


def _choice(stage: Experiment) -> str:
    """Which parameters are scored, for the name of the output."""
    chosen = {
        "untrained": _UNTRAINED.value,
        "best": _BEST.value,
        f"step-{_STEP.value}": _STEP.value is not None,
    }
    names = [name for name, asked in chosen.items() if asked]
    if len(names) > 1:
        raise InputError(f"Choose one of --untrained, --best and --step, not {len(names)} of them.")
    if _BEST.value and not stage.settings.keep.best:
        raise InputError("--best needs a metric in the config's keep.best.")
    return names[0] if names else ""


def _refuse_unknown(stage: Experiment, fields: Sequence[str]) -> None:
    """Raises InputError for a field that no evaluator's records have, before anything is run."""
    sources = [need.data.source for evaluator in stage.evaluators.values()
               for need in evaluator.needs() if need.data is not None]  # fmt: skip
    known = {name for source in sources for name in source.fields}
    if unknown := sorted(set(fields) - known):
        raise InputError(
            f"--subgroup={unknown[0]} is no field of the records; these have "
            f"{', '.join(sorted(known))}."
        )


def _grouped(results: Mapping[str, Results], fields: Sequence[str]) -> dict[str, Results]:
    """Results whose records are grouped by these fields too, where they have them."""
    found = dict(results)
    for name, result in results.items():
        said = result.predictions
        own = [field for field in fields
               if said is not None and all(field in s.fields for s in said.source)]  # fmt: skip
        if said is not None:
            found[name] = dataclasses.replace(result, predictions=said.grouped(own))
        if left := sorted(set(fields) - set(own)):
            _logger.warning("'%s' has no records with %s to group by.", name, ", ".join(left))
    return found


def main(_: list[str]) -> None:
    """Runs the evaluators of the last stage that has any."""
    distributed.initialize()
    workdir = cli.workdir(_WORKDIR.value)
    stages = [stage for stage in experiment.build_all(_CONFIG.value, workdir) if stage.evaluators]
    if not stages:
        raise InputError("This config has no evaluators.")
    stage = stages[-1]
    choice = _choice(stage)
    _refuse_unknown(stage, _SUBGROUP.value)
    name = "-".join(filter(None, ("evaluation", choice)))
    given = _WORKDIR.value if stores.is_address(_WORKDIR.value) else workdir
    state = _state(stage, experiment.stage_directory(workdir, stage.name))
    written = stores.delivered(_OUTPUT.value or f"{given}/{name}", "--output", replace=True)
    with written as output, places.written(output):
        output.mkdir(parents=True, exist_ok=True)  # known before the evaluators run
        results = _grouped(loop.evaluate(stage, state), _SUBGROUP.value)
        if distributed.is_first():
            from retina_jax import report  # its charts take a second to import

            loop.write(stage, state, results, output, name=choice)
            print(report.summary(output))
            print(f"Page: {report.write([output], output / 'report.html')}")
            if _SUBGROUP.value:
                print(report.subgroups(output, _SUBGROUP.value))


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    cli.run(main)
