"""Whether the parts of an experiment fit each other: traced, so nothing is compiled or computed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from data_pipelines.errors import InputError
from retina_jax.settings import Origin
from retina_jax.train import loop, restore, sharding, text_lengths
from retina_jax.types import Evaluator, Experiment, TrainState

_logger = logging.getLogger(__name__)


def check(experiment: Experiment, before: Mapping[str, TrainState]) -> TrainState:
    """Traces the initialisation, the loss, what the evaluators ask for, and the warm start.

    Args:
      experiment: one stage.
      before: name -> shapes of the states of the stages before it.

    Returns:
      Shapes and dtypes of its state.

    Raises:
      InputError: one sentence about the first two parts that do not fit.
    """
    stage = f"stage '{experiment.name}'" if experiment.name else "the config"
    batch = loop.on_device_shapes(experiment.data.example())
    rng = jax.eval_shape(lambda: jax.random.key(0))
    where = f"The model, optimizer and streams of {stage} do not fit"
    state = _traced(where, experiment.init, rng, batch)
    for key, origin in experiment.settings.restore_from.items():
        if origin.stage is not None:
            _check_origin(stage, key, origin, state, before)
    where = f"The model, objectives and streams of {stage} do not fit"
    # As the step has them: only then its trace is this one.
    parts = (state.params, state.model_state, sharding.of_all_processes(batch), rng)
    placed = sharding.laid_out(parts, sharding.replicated(experiment.mesh))
    _traced(where, experiment.loss, *placed)
    if experiment.settings.text_lengths:
        _check_text_lengths(stage, experiment, placed)
    for name, evaluator in experiment.evaluators.items():
        _check_needs(f"The evaluator '{name}' and the model of {stage}", evaluator, state)
    return state


def check_evaluator(which: str, evaluator: Evaluator, variables: Mapping[str, Any]) -> None:
    """Traces what an evaluator will ask another model for than the one that is trained.

    Args:
      which: the two, for the sentence.
      evaluator: built with the encoder of that model.
      variables: collection -> tree of arrays of that model.

    Raises:
      InputError: one sentence about what does not fit.
    """
    held = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), dict(variables))
    number: Any = jax.ShapeDtypeStruct((), jnp.int32)
    _check_needs(which, evaluator, TrainState(number, held.pop("params"), held, None, number))


def _check_text_lengths(stage: str, experiment: Experiment, placed: Sequence[Any]) -> None:
    """Traces the loss on the shortest texts too, and says where other numbers are drawn."""
    params, model_state, batch, rng = placed
    lengths = text_lengths.check(experiment.settings.text_lengths, batch)
    short = jax.eval_shape(partial(text_lengths.cut, length=lengths[0]), batch)
    with text_lengths.refusing_padding():
        where = f"The model and the text_lengths of {stage} do not fit"
        _traced(where, experiment.loss, params, model_state, short, rng)
    drawn = [
        sorted(text_lengths.draws(jax.make_jaxpr(experiment.loss)(params, model_state, rows, rng)))
        for rows in (batch, short)
    ]
    _logger.info(
        "The step of %s is compiled for texts of %s tokens%s.",
        stage,
        ", ".join(map(str, lengths)),
        "; its dropout draws other numbers at each of these" if drawn[0] != drawn[1] else "",
    )


def _check_needs(which: str, evaluator: Evaluator, state: TrainState) -> None:
    for need in evaluator.needs():
        _traced(f"{which} do not fit", partial(evaluator.encoder.trace, need=need), state)


def _traced(where: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Shapes of what `function` returns; what does not fit is an InputError that says where."""
    try:
        return jax.eval_shape(function, *arguments)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except Exception as error:  # noqa: BLE001 (JAX and Flax have kinds of their own)
        reason = " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__
        link = " (https://flax.readthedocs.io"  # of its pages on errors
        raise InputError(
            f"{where}, compare the sizes that they name: {reason.partition(link)[0]}"
        ) from error


def _check_origin(
    stage: str, key: str, origin: Origin, state: TrainState, before: Mapping[str, TrainState]
) -> None:
    if origin.stage is None or origin.stage not in before:
        raise InputError(
            f"The config's restore_from names the stage '{origin.stage}', but before {stage} run "
            f"{sorted(before)}."
        )
    known = before[origin.stage]
    try:
        restore.subtrees(
            {"params": state.params, **state.model_state},
            {"params": known.params, **known.model_state},
            take=origin.take,
            ignore=origin.ignore,
            where=restore.option(key),
        )
    except InputError as error:
        where = f"The model of stage '{origin.stage}' and that of {stage} do not fit"
        raise InputError(f"{where}: {error}") from error
