"""Checkpoints: the last ones to go on from, the best one to keep."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportUnknownLambdaType=false
from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from data_pipelines import places
from data_pipelines.errors import InputError
from retina_jax import distributed
from retina_jax.train import averaging, checksums
from retina_jax.train.optimizer import parameter_name
from retina_jax.types import TrainState

_logger = logging.getLogger(__name__)

# Two items, so that an evaluation reads the model without the optimizer's moments. Where a run
# keeps a moving average, that is the model, and what training goes on from is 'raw' of the other.
_MODEL = ("params", "model_state")
_TRAINING = ("step", "opt_state", "skipped")
ITEMS = {"model": _MODEL, "training": _TRAINING}


# Name of a parameter -> its shape, in any sequence.
Shapes = Mapping[str, Sequence[int]]


def _item(state: TrainState, item: str) -> dict[str, Any]:
    weights = {}
    if item == "training" and state.average is not None:
        weights = {"raw": averaging.raw(state)}
    return {name: getattr(averaging.averaged(state), name) for name in ITEMS[item]} | weights


def shapes_by_name(tree: Any) -> dict[str, tuple[int, ...]]:
    """{'params/image/conv1/kernel': (7, 7, 3, 64), ...} of a tree of anything that has a shape."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {parameter_name(path): tuple(leaf.shape) for path, leaf in leaves}


def difference(have: Shapes, want: Shapes) -> str:
    """What keeps `have` from being `want`, in words; '' if nothing does."""
    extra, missing = sorted(set(have) - set(want)), sorted(set(want) - set(have))
    shapes = [n for n in sorted(set(have) & set(want)) if tuple(have[n]) != tuple(want[n])]
    parts = []
    for names, what in ((missing, "lacks"), (extra, "has in excess")):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            parts.append(f"{what} {', '.join(names[:3])}{more}")
    for name in shapes[:3]:
        parts.append(f"has {name} of shape {tuple(have[name])} instead of {tuple(want[name])}")
    return "; ".join(parts)


@dataclasses.dataclass(frozen=True)
class Retention:
    """Which checkpoints a run keeps.

    Attributes:
      last: how many of the newest.
      best: an evaluation metric such as 'eval/zeroshot/balanced_accuracy'; the checkpoint with its
        highest value is kept too. None to keep only the newest.
    """

    last: int = 2
    best: str | None = None


def refuse_absent(checkpoints: Path) -> None:
    """Raises InputError where the folder around checkpoints is not there: a slip of the pen."""
    if not checkpoints.parent.is_dir():
        raise InputError(
            f"There is no folder {checkpoints.parent}: name the folder of a run or of a model."
        )


class Checkpointer:
    """Asynchronous checkpoints of a TrainState in one directory.

    Args:
      directory: the place of this run's checkpoints; made if it is not there.
      retention: what to keep.
      read_only: whether the directory is only looked at, for evaluating a run that may still be
        going on: nothing is created, deleted or renamed.
      preparation: how the training pictures were prepared (see `Experiment`); it goes into every
        checkpoint.
      frozen: regexes of the parameters that are not trained, of which a checkpoint has no optimizer
        state; they go into every checkpoint as well.
    """

    def __init__(
        self,
        directory: Path,
        retention: Retention = Retention(),  # noqa: B008 (frozen)
        read_only: bool = False,
        preparation: Mapping[str, Any] | None = None,
        frozen: Sequence[str] = (),
    ):
        if read_only:
            refuse_absent(Path(directory).absolute())
        if read_only and not Path(directory).is_dir():
            raise InputError(f"There is no checkpoint in {directory}; train first or fix the path.")
        self._read_only = read_only
        self._about = {"preparation": dict(preparation or {}), "frozen": list(frozen)}
        self.directory = Path(directory).absolute()
        best = retention.best
        policies: list[preservation_policy.PreservationPolicy] = [
            preservation_policy.LatestN(retention.last)
        ]
        if best:
            # Orbax's own best_fn with max_to_keep deletes the newest checkpoint when it is not the
            # best; and a policy without best_fn forgets the metrics when the run is restarted.
            policies.append(
                preservation_policy.BestN(
                    get_metric_fn=self._value, n=1, keep_checkpoints_without_metrics=False
                )
            )
        self._best = best
        # Nothing is created by looking at a run, and no other process is waited for.
        alone = {"save_interval_steps": 0, "create": False, "save_root_metadata": False}
        looking: dict[str, Any] = alone if read_only else {}
        self._manager = checksums.manager(
            self.directory,
            ITEMS,
            ocp.CheckpointManagerOptions(
                **looking,
                best_fn=self._value if best else None,
                best_mode="max",
                read_only=read_only,
                preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
            ),
        )

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def _value(self, metrics: Mapping[str, float]) -> float:
        """What is best where it is highest; a run may have been told of another one before."""
        value = metrics.get(self._best or "", -math.inf)
        return value if math.isfinite(value) else -math.inf

    def best_step(self) -> int | None:
        """Step of the checkpoint with the best metric, or of the newest where none has one."""
        steps = self.steps()
        found = self._manager.best_step() if self._best and steps else None
        known = found is not None and self._value(self._manager.metrics(found) or {}) > -math.inf
        return found if known else max(steps, default=None)

    def preparation(self, step: int) -> dict[str, Any]:
        """How the pictures behind a checkpoint were prepared; {} where that was not recorded."""
        return self._recorded(step).get("preparation", {})

    def _recorded(self, step: int) -> Mapping[str, Any]:
        return self._manager.metadata(step).custom_metadata or {}

    def save(self, state: TrainState, metrics: Mapping[str, float] | None = None) -> None:
        """Starts writing `state`; returns as soon as its arrays are copied.

        Args:
          state: the state to save under its own step; if that is there, it only gets `metrics`.
          metrics: evaluation results at this step, for choosing the best.

        Raises:
          InputError: if the disk is full or the directory cannot be written.
        """
        step = int(state.step)
        if not self._best or not math.isfinite((metrics or {}).get(self._best, math.nan)):
            metrics = None
        if step in self._manager.all_steps():
            if metrics is not None:
                self._score(step, metrics)
            return
        items = {item: checksums.saving(_item(state, item)) for item in ITEMS}
        with places.written(self.directory):
            self._manager.save(
                step,
                args=ocp.args.Composite(**items),
                metrics=metrics,
                force=True,
                custom_metadata=self._about,
            )

    def _score(self, step: int, metrics: Mapping[str, float]) -> None:
        """Gives a checkpoint other metrics, as Orbax writes them with one."""
        path = self.directory / str(step) / "metrics" / "metrics"
        if jax.process_index() == 0:
            with places.written(self.directory):
                path.parent.mkdir(exist_ok=True)
                places.write_whole(path, json.dumps(dict(metrics)))
        distributed.wait("a checkpoint has metrics")
        self._manager.reload()

    def restore(self, target: TrainState, step: int | None = None) -> TrainState | None:
        """The newest readable checkpoint, or None if there is no checkpoint at all.

        Args:
          target: shapes, dtypes and shardings of the state to restore (ShapeDtypeStructs).
          step: a certain checkpoint instead of the newest one.

        Raises:
          InputError: if the checkpoint is of another model or optimizer, or none can be read.
        """
        return self._newest(step, lambda at: self._read(at, target, tuple(ITEMS)))

    def restore_model(self, target: TrainState, step: int | None = None) -> TrainState | None:
        """As `restore`, for the model only: `opt_state` of the result is that of `target`.

        The weights are the average where the run keeps one; `step` is that of the checkpoint.
        """

        def read(at: int) -> TrainState:
            return self._read(at, target, ("model",)).replace(step=np.int32(at))

        return self._newest(step, read)

    def _newest(self, step: int | None, read: Any) -> TrainState | None:
        steps = self.steps()
        if step is not None and step not in steps:
            raise InputError(f"No checkpoint {step} in {self.directory}; there are {steps}.")
        candidates = steps[::-1] if step is None else [step]
        unreadable = []
        for candidate in candidates:
            try:
                state = read(candidate)
            except InputError:
                raise
            except Exception as error:  # noqa: BLE001 (Orbax raises many kinds for a broken file)
                _logger.warning(
                    "Checkpoint %d in %s cannot be read (%s); trying the one before it.",
                    candidate,
                    self.directory,
                    checksums.reason(error),
                )
                unreadable.append(candidate)
                continue
            self._set_aside(unreadable)
            return state
        if candidates:
            raise InputError(
                f"None of the checkpoints {candidates} in {self.directory} can be read; "
                "restore the folder from a copy or start in another --workdir."
            )
        return None

    def _set_aside(self, steps: list[int]) -> None:
        """Renames broken checkpoints: Orbax would refuse to save the same step again."""
        if not steps or self._read_only:
            return
        if jax.process_index() == 0:
            for step in steps:
                (self.directory / str(step)).rename(self.directory / f"unreadable-{step}")
        distributed.wait("unreadable checkpoints are set aside")
        self._manager.reload()

    def _read(self, step: int, target: TrainState, items: tuple[str, ...]) -> TrainState:
        metadata = self._manager.item_metadata(step)
        for item in items:
            have = shapes_by_name(metadata[item].tree)
            want = shapes_by_name(_item(target, item))
            if found := difference(have, want):
                averages, wanted = (any(n.startswith("raw/") for n in s) for s in (have, want))
                if averages != wanted:
                    which = "with" if averages else "without"
                    found = f"was trained {which} optimization.ema, unlike this config"
                before, now = self._recorded(step).get("frozen"), self._about["frozen"]
                if item == "training" and before is not None and before != now:
                    found = f"was trained with {before} frozen, and this config freezes {now}"
                raise InputError(
                    f"Checkpoint {step} in {self.directory} is of another {item}: it {found}. "
                    "Use the config it was trained with, or another --workdir."
                )
        args = {item: checksums.restoring(_item(target, item)) for item in items}
        restored = self._manager.restore(step, args=ocp.args.Composite(**args))
        fields = {k: v for item in items for k, v in restored[item].items()}
        weights = fields.pop("raw", None)
        state = target.replace(**fields, average=None)
        return state if weights is None else averaging.resumed(state, weights)

    def reached_preemption(self, step: int) -> bool:
        """Whether the cluster announced the end of this job (needs jax.distributed)."""
        return self._manager.reached_preemption(step)

    def wait(self) -> None:
        """Blocks until everything saved is on disk.

        Raises:
          InputError: if a write failed, on a full disk for instance; earlier checkpoints remain.
        """
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError, RuntimeError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            reason = places.reason(error) or first
            raise InputError(
                f"The last checkpoint in {self.directory} could not be written: {reason}. "
                f"Complete ones: {self.steps()}; free some space and run the command again."
            ) from None

    def close(self) -> None:
        """Waits for pending writes and releases the manager's threads."""
        self.wait()
        self._manager.close()
