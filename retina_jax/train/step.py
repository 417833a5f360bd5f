"""The pure functions of a run: the loss, the initial state, one step."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportUnknownLambdaType=false
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from data_pipelines.errors import InputError
from retina_jax.train import averaging, microbatch, text_lengths
from retina_jax.train.frozen import Frozen
from retina_jax.types import (
    Batch,
    LossFn,
    Metrics,
    Microbatching,
    ModelState,
    Outputs,
    Params,
    Rng,
    Scalar,
    Term,
    TrainState,
)

StepFn = Callable[[TrainState, Batch, Rng], tuple[TrainState, Metrics]]


def compose(
    model: nn.Module,
    objectives: Sequence[Term],
    weights: Mapping[str, float],
    microbatching: Microbatching | None = None,
    frozen: Frozen = Frozen(),  # noqa: B008 (frozen)
) -> LossFn:
    """The loss of a run: the weighted sum of all terms of all objectives.

    Args:
      model: a Linen module whose `__call__(batch, train)` returns named outputs.
      objectives: functions of (outputs, batch) that return named scalars.
      weights: term name -> factor; a term that is not named has factor 1.
      microbatching: how the model sees a batch in pieces; None for at once. The terms see it whole.
      frozen: the parameters without a gradient, whose modules are called as in evaluation.

    Returns:
      `loss(params, model_state, batch, rng) -> (loss, (metrics, model_state))`. Metrics are the
      unweighted terms, 'loss', and 'scale' where the model has one, 'scale/<pair>' where several.

    Raises:
      InputError: while tracing, if two objectives give a term of the same name, a weight names a
        term that none gives, an objective needs an output or a batch key that is not there, or
        the model cannot see a batch in pieces.
    """
    forward = microbatch.forward(model, microbatching, frozen)

    def loss(
        params: Params, model_state: ModelState, batch: Batch, rng: Rng
    ) -> tuple[Scalar, tuple[Metrics, ModelState]]:
        out, model_state = forward(frozen.stopped(params), model_state, batch, rng)
        terms: Metrics = {}
        for objective in objectives:
            for name, value in _terms(objective, out, batch).items():
                if name in terms:
                    raise InputError(f"Two objectives give the term '{name}'; remove one of them.")
                terms[name] = value
        if unknown := sorted(set(weights) - set(terms)):
            raise InputError(
                f"No objective gives the term '{unknown[0]}' of 'weights'; terms: {sorted(terms)}."
            )
        total = jnp.asarray(sum(weights.get(name, 1.0) * value for name, value in terms.items()))
        metrics = {**terms, "loss": total}
        scale = out.get("scale", {})
        several = isinstance(scale, Mapping)
        metrics |= {f"scale/{k}": v for k, v in scale.items()} if several else {"scale": scale}
        return total, (metrics, model_state)

    return loss


def _terms(objective: Term, out: Outputs, batch: Batch) -> Metrics:
    try:
        return objective(out, batch)
    except KeyError as error:
        raise InputError(
            f"The objective {type(objective).__name__} needs {error}, but the model gives "
            f"{sorted(out)}, with the embeddings {sorted(out.get('z', ()))}, and the batch has "
            f"{sorted(batch)}: name what is there, add the transform that makes it, or choose "
            "another objective or model."
        ) from error


def initialize(
    model: nn.Module, optimizer: optax.GradientTransformation, averaged: Frozen | None = None
) -> Callable[[Rng, Batch], TrainState]:
    """`init(rng, batch) -> TrainState`, to be jitted with the shardings of the state.

    Args:
      model: a Linen module with `__call__(batch, train)`.
      optimizer: gradient transformation over all parameters.
      averaged: all but what this freezes has a moving average; None for no average.
    """

    def init(rng: Rng, batch: Batch) -> TrainState:
        params_rng, dropout_rng = jax.random.split(rng)
        variables = model.init({"params": params_rng, "dropout": dropout_rng}, batch, train=True)
        params = variables["params"]
        model_state = {k: v for k, v in variables.items() if k != "params"}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            model_state=model_state,
            opt_state=optimizer.init(params),
            skipped=jnp.zeros(2, jnp.int32),
            average=None if averaged is None else averaging.begin(params, model_state, averaged),
        )

    return init


def make_step(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    frozen: Frozen = Frozen(),  # noqa: B008 (frozen)
    ema: float | None = None,
    lengths: Sequence[int] = (),
) -> StepFn:
    """`step(state, batch, rng) -> (state, metrics)`.

    The randomness of a step is `fold_in(rng, state.step)`: nothing random is saved. A step whose
    loss or gradient is not finite leaves parameters, model state, optimizer state and average
    alone and is counted in `state.skipped`.

    Args:
      loss: what `compose` returned.
      optimizer: gradient transformation over all parameters; its state has nothing for frozen ones.
      frozen: the same as in `compose`. These parameters pass through the step untouched, and the
        metric 'gradient_norm' is that of the others.
      ema: decay of the moving average that the state keeps (see `averaging`); None for none.
      lengths: shorter lengths that texts are cut to where they fit (see `text_lengths`).
    """

    def step(state: TrainState, batch: Batch, rng: Rng) -> tuple[TrainState, Metrics]:
        gradient = text_lengths.by_length(jax.value_and_grad(loss, has_aux=True), lengths)
        (value, (metrics, model_state)), grads = gradient(
            state.params, state.model_state, batch, jax.random.fold_in(rng, state.step)
        )
        norm = optax.tree.norm(frozen.trained(grads))
        finite = jnp.isfinite(norm) & jnp.isfinite(value)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = frozen.kept(state.params, optax.apply_updates(state.params, updates))
        average = None
        if ema is not None:
            taken = state.step - state.skipped[0]
            average = averaging.update(state.average, params, model_state, ema, taken, frozen)
        changed = (params, model_state, opt_state, average)
        kept = (state.params, state.model_state, state.opt_state, state.average)
        params, model_state, opt_state, average = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), changed, kept
        )
        skipped = jnp.where(
            finite, state.skipped * jnp.array([1, 0]), state.skipped + jnp.array([1, 1])
        )
        state = TrainState(
            step=state.step + 1,
            params=params,
            model_state=model_state,
            opt_state=opt_state,
            skipped=skipped,
            average=average,
        )
        return state, {**metrics, "gradient_norm": norm, "skipped_in_a_row": skipped[1]}

    return step
