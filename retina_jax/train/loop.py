"""The order of a run. The only training loop of this library."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportUnknownLambdaType=false
from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_pipelines import places
from data_pipelines.errors import InputError
from data_pipelines.images import preparation
from retina_jax import distributed
from retina_jax.scoring import beside
from retina_jax.train import (
    averaging,
    early_stopping,
    environment,
    loaders,
    provenance,
    run_directory,
    sharding,
)
from retina_jax.train.checkpoint import Checkpointer, Retention
from retina_jax.train.frozen import Frozen
from retina_jax.train.meter import Meter
from retina_jax.train.phases import Phases
from retina_jax.train.preemption import Preempted, Preemption
from retina_jax.train.schedule import itstime
from retina_jax.train.step import StepFn, make_step
from retina_jax.train.writer import Writer, write_results
from retina_jax.types import Batch, Experiment, Metrics, Results, TrainState

_logger = logging.getLogger(__name__)
# The initialisation's place among the steps' random numbers: no run has so many steps.
_NO_STEP = 2**32 - 1


def train(experiment: Experiment, workdir: Path) -> None:
    """Trains to `experiment.total` steps, going on from the newest checkpoint in `workdir`.

    With `keep.patience` it may end earlier, and the results are those of the best checkpoint.
    Writes checkpoints/, config.json, starts.jsonl, phases.json, parameters.txt, metrics.jsonl,
    tensorboard/ and, at the end, results.json. Running it again after it finished does nothing.

    Raises:
      InputError: for a checkpoint of another model, too many non-finite steps, a full disk, or a
        directory that another process trains in.
      Preempted: after SIGTERM, once the state is saved; before the first step the process ends.
    """
    workdir = places.local(workdir, "The run's directory")
    with run_directory.claimed(workdir), places.written(workdir):
        _train(experiment, workdir)


def _train(experiment: Experiment, workdir: Path) -> None:
    retention = Retention(experiment.settings.keep.last, experiment.settings.keep.best)
    prepared, frozen = experiment.preparation, _frozen(experiment).patterns
    checkpointer = Checkpointer(workdir / "checkpoints", retention, False, prepared, frozen)
    with (
        contextlib.closing(checkpointer),
        distributed.together(),
        loaders.watched(),
        Preemption(checkpointer) as preemption,
    ):
        warn_of_preparation(experiment.evaluated, experiment.preparation)
        preemption.requested(max(checkpointer.steps(), default=0))  # Orbax counts from there
        phases = Phases(workdir, active=jax.process_index() == 0)
        state = start(experiment, checkpointer, phases)
        step, keep = int(state.step), experiment.settings.keep
        over = early_stopping.over(keep, early_stopping.history(workdir, keep, step))
        over = over or (keep.patience is not None and step == experiment.total)
        scored = checkpointer.best_step() if over else None
        if run_directory.check_run_directory(workdir, experiment, step, scored):
            _logger.info("%s is complete at step %d.", workdir, step)
            return
        environment.append_start(workdir, int(state.step))
        if jax.process_index() == 0:
            environment.describe_parameters(experiment, state, workdir)
        writer = Writer(workdir, int(state.step), active=jax.process_index() == 0)
        with contextlib.closing(writer):
            _run(experiment, state, workdir, checkpointer, writer, preemption, phases)


def warn_of_preparation(evaluated: Mapping[str, Any], trained: Mapping[str, Any]) -> None:
    """Logs which evaluation data were prepared otherwise than all that was trained on."""
    if what := preparation.unlike(evaluated, trained):
        _logger.warning("The model is evaluated on pictures unlike those it learns from: %s.", what)


def abstract_state(experiment: Experiment) -> TrainState:
    """Shapes, dtypes and shardings of the experiment's state, without any memory."""
    shardings = sharding.parameters(
        experiment.shapes, experiment.mesh, smallest=experiment.settings.mesh.smallest
    )
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        experiment.shapes,
        shardings,
    )


def on_device_shapes(batch: Batch) -> dict[str, Any]:
    """Shapes and dtypes of what of a host batch goes to the devices (see `sharding.put`)."""
    return {
        key: on_device_shapes(value)
        if isinstance(value, Mapping)
        else jax.ShapeDtypeStruct(value.shape, value.dtype)
        for key, value in batch.items()
        if not key.startswith("_") or key == "_mask"
    }


def fresh_state(experiment: Experiment, abstract: TrainState) -> TrainState:
    """Random parameters from the seed, born sharded; then the warm start, if there is one."""
    example = on_device_shapes(experiment.data.example())
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)

    # Parameters depend on the shapes of the batch only, never on its contents.
    def init_from_shapes(rng: jax.Array) -> TrainState:
        zeros = jax.tree.map(lambda leaf: jax.numpy.zeros(leaf.shape, leaf.dtype), example)
        return experiment.init(rng, zeros)

    # It runs once: on a processor, optimising its many small random generators costs far more.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    rng = jax.random.fold_in(jax.random.key(experiment.settings.seed), _NO_STEP)
    state = jax.jit(init_from_shapes, out_shardings=shardings, compiler_options=options)(rng)
    if experiment.warm_start is None:
        _logger.info("All parameters are fresh: the config has no 'restore_from'.")
        return state
    fresh = {"params": state.params, **state.model_state}
    warm = experiment.warm_start(fresh)
    placed = jax.tree.map(lambda new, old: old if new is old else _like(new, old), warm, fresh)
    state = state.replace(params=placed.pop("params"), model_state=placed)
    if state.average is None:
        return state
    average = averaging.begin(state.params, state.model_state, _frozen(experiment))
    return state.replace(average=average)


def _like(value: np.ndarray, old: jax.Array) -> jax.Array:
    """A host array that every process has, laid out as `old`."""
    value = np.asarray(value, old.dtype)
    return jax.make_array_from_callback(old.shape, old.sharding, lambda index: value[index])


def start(experiment: Experiment, checkpointer: Checkpointer, phases: Phases) -> TrainState:
    """The newest checkpoint of this run if there is one, else a fresh state."""
    abstract = abstract_state(experiment)
    if checkpointer.steps():
        with phases.phase("Reading the newest checkpoint"):
            state = checkpointer.restore(abstract)
        if state is not None:
            _logger.info("Going on at step %d of %d.", int(state.step), experiment.total)
            return state
    with phases.phase("Making the first parameters"):
        return fresh_state(experiment, abstract)


def _frozen(experiment: Experiment) -> Frozen:
    return Frozen(experiment.settings.optimization.rules)


def jit_step(experiment: Experiment, state: TrainState) -> jax.stages.Wrapped:
    """The step as it is run: the state (real or abstract) is donated and stays where it lies."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    ema, lengths = experiment.settings.optimization.ema, experiment.settings.text_lengths
    step = make_step(experiment.loss, experiment.optimizer, _frozen(experiment), ema, lengths)
    return jitted(step, shardings, experiment.mesh)


def jitted(step: StepFn, shardings: Any, mesh: jax.sharding.Mesh) -> jax.stages.Wrapped:
    """A step whose state is given away and stays where it lies.

    Args:
      step: what `make_step` returned.
      shardings: a tree like its state.
      mesh: the mesh on which its metrics are everywhere.
    """
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, sharding.replicated(mesh)))


def fit(
    step_fn: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
    state: TrainState,
    batches: Iterable[Batch],
    checks: Callable[[int, TrainState, Metrics], bool],
) -> None:
    """Trains: the body of a run, and of a fine-tuning whose model nobody keeps.

    Args:
      step_fn: what makes the next state of a state, which it may destroy, and a batch.
      state: before the first batch.
      batches: one for each step, on the devices; where they end the training ends.
      checks: is shown the number of batches consumed, the state after them and the metrics of the
        last one, and logs, saves or scores them; the state is gone after the next step. Training
        stops where it returns True.
    """
    step = int(state.step)
    for batch in batches:
        state, metrics = step_fn(state, batch)
        del batch  # on the devices its place is the next one's
        step += 1
        if checks(step, state, metrics):
            break


def evaluate(experiment: Experiment, state: TrainState, at_end: bool = True) -> dict[str, Results]:
    """Runs the evaluators of the experiment on `state`, on its average where it keeps one.

    Args:
      experiment: whose evaluators these are.
      state: what is evaluated.
      at_end: whether to run those too that its settings leave for the end.
    """
    state = averaging.averaged(state)
    waiting = () if at_end else experiment.settings.at_end
    found: dict[str, Results] = {}
    for name, evaluator in experiment.evaluators.items():
        if name not in waiting:
            began = time.monotonic()
            result = evaluator.run(state)
            found[name] = dataclasses.replace(result, seconds=time.monotonic() - began)
    return found


def write(
    experiment: Experiment, state: TrainState, results: Mapping[str, Results], folder: Path,
    name: str | None = None,
) -> None:  # fmt: skip
    """Writes `results.json` and the records beside it; `name` in the place of the stage's."""
    step = int(state.step)
    of, how = run_directory.identity(experiment, step), provenance.of(experiment, state, results)
    about = (experiment.overlaps, of, how, experiment.evaluated)
    write_results(folder, name or experiment.name, step, results, *about)


def _scalars(results: Mapping[str, Results]) -> dict[str, float]:
    return {
        f"eval/{evaluator}/{metric}": score.value
        for evaluator, result in results.items()
        for metric, score in result.scores.items()
    }


def _run(
    experiment: Experiment,
    state: TrainState,
    workdir: Path,
    checkpointer: Checkpointer,
    writer: Writer,
    preemption: Preemption,
    phases: Phases,
) -> None:
    total, begin, every = experiment.total, int(state.step), experiment.every
    everywhere = sharding.replicated(experiment.mesh)
    rng = jax.jit(lambda: jax.random.key(experiment.settings.seed), out_shardings=everywhere)()
    step_fn = _compiled_when_called(jit_step(experiment, state), rng, phases)
    keep = experiment.settings.keep
    # Asked of every stage before it compiles, so that Orbax counts from its first step on.
    reached, stop = begin, preemption.requested(begin)
    values = early_stopping.history(workdir, keep, begin)
    evaluated = functools.partial(_evaluate, experiment, workdir, writer, values)
    due = itstime(begin, every["evaluate"], total) and not stop
    if due := due and early_stopping.unscored(workdir, keep, begin):  # saved when told to stop
        checkpointer.save(state, evaluated(state, begin))
    meter = Meter(name=experiment.name, start=begin, total=total, examples=experiment.examples,
                  visible=jax.process_index() == 0)  # fmt: skip
    end = begin if stop or early_stopping.over(keep, values) else total

    def checks(step: int, state: TrainState, metrics: Metrics) -> bool:
        nonlocal reached, stop
        preemption.stepped()
        meter.add(metrics)
        if itstime(step, every["log"], total):
            _log(experiment, state, step, meter, writer)
        reached, stop = step, preemption.requested(step)
        evaluates = itstime(step, every["evaluate"], total) and not stop
        if evaluates or stop or itstime(step, every["checkpoint"], total):
            jax.block_until_ready(metrics)  # the steps themselves are training time
            with meter.paused():
                scores: dict[str, float] = {}
                try:
                    if evaluates:
                        scores = evaluated(state, step)
                finally:  # an evaluation that fails costs no training
                    checkpointer.save(state, scores)
        return stop or (evaluates and early_stopping.over(keep, values))

    batches = experiment.data.batches(begin, end)
    with contextlib.closing(meter), contextlib.closing(batches):
        placed = _placed(batches, end - begin, experiment.mesh, meter, phases)
        fit(step_fn, state, placed, checks)
    if begin == total and keep.patience is None and not due:
        evaluated(state, total)  # it was killed between a checkpoint and its results
    if stop or preemption.requested(reached + 1):  # the step at which all would agree to stop
        checkpointer.wait()
        told = f"Stopped after step {reached} of {total} as requested; the state is saved in"
        raise Preempted(f"{told} {workdir}. Run the same command to go on.")
    if keep.patience is not None:
        _evaluate_best(experiment, workdir, checkpointer, reached)


def _evaluate_best(
    experiment: Experiment, workdir: Path, checkpointer: Checkpointer, reached: int
) -> None:
    """Writes the results of the best checkpoint of a run that is over at step `reached`."""
    checkpointer.wait()
    state = checkpointer.restore_model(abstract_state(experiment), checkpointer.best_step())
    assert state is not None  # the last step is saved
    step = int(state.step)
    why = early_stopping.reason(workdir, experiment.settings.keep, reached)
    _logger.info("Over after %d of %d steps; step %d %s.", reached, experiment.total, step, why)
    results = evaluate(experiment, state)
    if jax.process_index() == 0:
        for line in beside.sentences(experiment.settings.evaluators, results):
            _logger.info("%s", line)
        write(experiment, state, results, workdir)


def _compiled_when_called(
    step_fn: jax.stages.Wrapped, rng: jax.Array, phases: Phases
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The step, compiled for the first state and batch that it is called with, as is told."""
    compiled: list[jax.stages.Compiled] = []

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        if not compiled:
            with phases.phase("Tracing the step"):
                lowered = step_fn.lower(state, batch, rng)
            with phases.phase("Compiling the step"):
                compiled.append(lowered.compile())
            phases.save()
        return compiled[0](state, batch, rng)

    return step


def _placed(
    batches: Iterator[Batch], count: int, mesh: jax.sharding.Mesh, meter: Meter, phases: Phases
) -> Iterator[Batch]:
    """The next `count` batches on the devices; the time until one is there counts as waiting."""
    for number in range(count):
        first = phases.phase("Reading the first batch") if number == 0 else contextlib.nullcontext()
        with meter.waiting(), first:
            batch = next(batches)
        yield sharding.put(batch, mesh)


def _log(
    experiment: Experiment, state: TrainState, step: int, meter: Meter, writer: Writer
) -> None:
    values = meter.collect()
    skipped = int(jax.device_get(state.skipped)[0])
    # The schedule stands still on a skipped step, as the optimizer does.
    values["learning_rate"] = float(
        np.asarray(experiment.learning_rate(max(step - 1 - skipped, 0)))
    )
    values["skipped_steps"] = skipped
    writer.write(step, {f"train/{name}": value for name, value in values.items()})
    in_a_row = int(values.get("skipped_in_a_row", 0))
    if in_a_row >= experiment.settings.most_skipped:
        raise InputError(
            f"The loss or its gradient was not finite in {in_a_row} steps in a row up to step "
            f"{step}; look for broken pixels or lower optimization.learning_rate. These steps "
            "changed nothing, and earlier checkpoints are kept."
        )


def _evaluate(
    experiment: Experiment, workdir: Path, writer: Writer, values: list[float],
    state: TrainState, step: int,
) -> dict[str, float]:  # fmt: skip
    """The metrics of a step, of which that of `keep.best` is added to `values`."""
    over = step == experiment.total and experiment.settings.keep.patience is None
    results = evaluate(experiment, state, at_end=over)
    scalars = _scalars(results)
    best = experiment.settings.keep.best
    if best and best not in scalars:
        raise InputError(f"keep.best is '{best}', but the metrics are {', '.join(scalars)}.")
    if scalars:
        writer.write(step, scalars)
    if over and jax.process_index() == 0:
        write(experiment, state, results, workdir)
    values.append(early_stopping.worst_if_unknown(scalars.get(best or "")))
    return scalars
