"""Durations become steps, steps become learning rates, and one function says when."""

# A library that states none of its types, or only a part:
# pyright: reportMissingTypeStubs=false
from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax

from data_pipelines.errors import InputError
from retina_jax.build import build

UNITS = ("steps", "epochs", "examples", "percent")


def steps(
    duration: Mapping[str, Any], *, batch_size: int, records: int, total: int | None = None
) -> int:
    """Number of steps of a duration such as `{'epochs': 15}`.

    Args:
      duration: one of the keys 'steps', 'epochs', 'examples', 'percent' (of `total`) and its value.
      batch_size: rows of a global batch of the stream that defines the epoch.
      records: length of that stream; an epoch is `records / batch_size` steps.
      total: steps of the whole run, for 'percent'.

    Returns:
      The number of steps, rounded up; a positive duration is at least 1 step.

    Raises:
      InputError: if it has not exactly one unit, or a negative or non-finite value.
    """
    if len(duration) != 1 or next(iter(duration)) not in UNITS:
        raise InputError(f"A duration has exactly one of {', '.join(UNITS)}; got {dict(duration)}.")
    ((unit, value),) = duration.items()
    if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
        raise InputError(f"A duration is a number >= 0; got {value!r} {unit}.")
    if unit == "percent" and total is None:
        raise InputError("'percent' is relative to the length of the run and cannot define it.")
    per_unit = {
        "steps": 1.0,
        "epochs": records / batch_size,
        "examples": 1.0 / batch_size,
        "percent": (total or 0) / 100.0,
    }[unit]
    # A tolerance keeps 3 epochs of 10/10 records at 3 steps whatever the rounding of the product.
    return math.ceil(value * per_unit - 1e-9)


def itstime(step: int, every: int, total: int) -> bool:
    """Whether something done every `every` steps (0: only at the end) is due after `step` steps."""
    return step == total or (every > 0 and step % every == 0)


def constant(*, peak: float, total: int, warmup: int = 0) -> optax.Schedule:
    """Linear warm-up over `warmup` steps, then `peak` (`total` steps in all)."""
    del total
    return optax.join_schedules([_warmup(peak, warmup), optax.constant_schedule(peak)], [warmup])


def cosine(
    *,
    peak: float,
    total: int,
    warmup: int = 0,
    horizon: int | None = None,
    end: float = 0.0,
    from_zero: bool = False,
    cycles: int = 1,
) -> optax.Schedule:
    """Linear warm-up, then half a cosine from `peak` to `end`, or several one after another.

    With p the part of the way from the warm-up to the horizon, restarts are those of CLOOB's
    training (Fürst et al. 2022): 1/2 (1 + cos(pi (cycles p mod 1))), and `end` from p = 1 on.

    Args:
      peak: learning rate at the end of the warm-up.
      total: steps of the run.
      warmup: steps of the warm-up, in which step i has rate `peak * (i + 1) / warmup`.
      from_zero: the rate of step i of the warm-up is `peak * i / warmup`, as in CLOOB's training.
      cycles: times that the rate falls from `peak`, which it jumps back to.
      horizon: step at which the cosine reaches `end`; by default `total`. FLAIR and KeepFIT fix it
        at 100 epochs whatever the length of the run (docs/fidelity.md).
      end: learning rate at the horizon and beyond.
    """
    length = max((horizon or total) - warmup, 1)
    if cycles < 1:
        raise InputError(f"A cosine falls once or more often, not {cycles} times (cycles).")
    decay = optax.cosine_decay_schedule(peak, length, alpha=end / peak if peak else 0.0)

    def restarted(count: Any) -> Any:
        # The place within a cycle in whole numbers, which has no rounding at its ends.
        return decay(jnp.where(count < length, count * cycles % length, length))

    rise = optax.linear_schedule(0.0, peak, warmup) if from_zero else _warmup(peak, warmup)
    fall = decay if cycles == 1 else restarted
    return optax.join_schedules([rise, fall], [warmup])


def linear(*, peak: float, total: int, warmup: int = 0) -> optax.Schedule:
    """Linear warm-up, then linear decay to 0 at `total` (BERT)."""
    decay = optax.linear_schedule(peak, 0.0, max(total - warmup, 1))
    return optax.join_schedules([_warmup(peak, warmup), decay], [warmup])


def _warmup(peak: float, warmup: int) -> optax.Schedule:
    return optax.linear_schedule(peak / max(warmup, 1), peak, max(warmup - 1, 1))


SCHEDULES = {"constant": constant, "cosine": cosine, "linear": linear}


def learning_rate(
    spec: Mapping[str, Any], peak: float, *, batch_size: int, records: int, total: int
) -> optax.Schedule:
    """The schedule of `spec`, whose 'warmup' and 'horizon' are durations.

    Args:
      spec: `{'name': 'cosine', 'warmup': {'epochs': 1}, 'horizon': {'epochs': 100}}`, for instance.
      peak: the highest learning rate.
      batch_size, records, total: the same as in `steps`.
    """
    keywords = dict(spec)
    for key in ("warmup", "horizon"):
        if keywords.get(key) is not None:
            keywords[key] = steps(
                keywords[key], batch_size=batch_size, records=records, total=total
            )
    return build(SCHEDULES, keywords, peak=peak, total=total)
