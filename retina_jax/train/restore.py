"""Starting from another run's model: named parts, with leftovers refused."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportUnknownLambdaType=false
from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from data_pipelines import places
from data_pipelines.errors import InputError
from retina_jax.train import checksums
from retina_jax.train.checkpoint import (
    ITEMS,
    Checkpointer,
    Retention,
    difference,
    refuse_absent,
    shapes_by_name,
)


def subtrees(
    model: Mapping[str, Any],
    source: Mapping[str, Any],
    *,
    take: Sequence[str] | Mapping[str, str],
    ignore: Sequence[str] = (),
    where: str = "restore_from",
) -> dict[str, Any]:
    """`model` with the parts named in `take` replaced by those of `source`.

    Args:
      model: the new model's variables, collection -> part -> tree: {'params': {'image': ...}, ...}.
      source: the old model's variables. A part's BatchNorm statistics go with its parameters.
      take: names of parts that both have, or {part of the new model: its name in the old one}; what
        is in them has the same names and shapes.
      ignore: names of parts of `source` that are left behind on purpose.
      where: which option this is, for the sentences.

    Raises:
      InputError: if a part of `source` is in neither list, or one that is taken is missing or
        differs; the sentence names the parameters and the shapes.
    """
    names = part_names(take)
    parts = {name for collection in source.values() for name in collection}
    if leftover := sorted(parts - set(names.values()) - set(ignore)):
        raise InputError(
            f"The checkpoint to start from has {leftover} which {where} neither takes nor "
            f"ignores; name each in {where}.take or {where}.ignore."
        )
    for tree, wanted, whose in (
        (source, names.values(), "the checkpoint to start from"),
        (model, names, "the new model"),
    ):
        for name in wanted:
            if name not in tree["params"]:
                have = sorted(tree["params"])
                raise InputError(f"{where}.take names '{name}', but {whose} has {have}.")
    taken = {
        key: {new: tree[there] for new, there in names.items() if there in tree}
        for key, tree in source.items()
    }
    expected = {
        key: {new: tree[new] for new in names if new in tree} for key, tree in model.items()
    }
    if found := difference(shapes_by_name(taken), shapes_by_name(expected)):
        raise InputError(
            f"The checkpoint to start from does not fit the new model ({where}): it {found}."
        )
    return {key: {**tree, **taken.get(key, {})} for key, tree in model.items()}


def option(name: str) -> str:
    """The option that an origin of that name is, for sentences; '' is the only origin."""
    return f"restore_from.{name}" if name else "restore_from"


def part_names(take: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """{part of the new model: its name in the old one}."""
    return dict(take) if isinstance(take, Mapping) else {name: name for name in take}


def read_variables(directory: Path, step: int | None = None) -> dict[str, Any]:
    """Variables of a checkpoint in a run's `checkpoints` directory, as host arrays.

    Args:
      directory: the checkpoints of a run, or of `write_variables`.
      step: the step of the checkpoint; None for the newest.

    Raises:
      InputError: if there is none, or it is damaged.
    """
    with _manager(directory) as manager:
        step = _newest(manager, directory, step)
        try:
            tree = manager.item_metadata(step)["model"].tree
            host = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), tree)
            args = ocp.args.Composite(model=checksums.restoring(host))
            restored = manager.restore(step, args=args)["model"]
        except Exception as error:  # noqa: BLE001 (Orbax raises many kinds for a broken file)
            why = checksums.reason(error)
            raise InputError(
                f"Checkpoint {step} in {directory} cannot be read ({why}); it is damaged, so name "
                f"another one or go on with its run. There are {sorted(manager.all_steps())}."
            ) from None
    return {"params": restored["params"], **restored["model_state"]}


def about(directory: Path) -> dict[str, Any]:
    """What is kept beside the newest checkpoint; {} where nothing is."""
    with _manager(directory) as manager:
        return dict(manager.metadata(_newest(manager, directory, None)).custom_metadata or {})


def newest_step(directory: Path) -> int:
    """Step of the newest complete checkpoint; InputError if there is none."""
    with _manager(directory) as manager:
        return _newest(manager, directory, None)


def step_of_run(directory: Path, keep: Mapping[str, Any]) -> int:
    """The step of the checkpoint that is a run's model: the newest, or the best (`settings.Keep`).

    Args:
      directory: the checkpoints of the run.
      keep: that setting of the run.

    Raises:
      InputError: if there is no checkpoint.
    """
    if keep.get("patience") is None:
        return newest_step(directory)
    retention = Retention(keep.get("last", 2), keep["best"])
    with contextlib.closing(Checkpointer(directory, retention, read_only=True)) as checkpointer:
        step = checkpointer.best_step()
    if step is None:
        raise InputError(f"There is no complete checkpoint to start from in {directory}.")
    return step


def _manager(directory: Path) -> ocp.CheckpointManager:
    directory = Path(directory).absolute()
    refuse_absent(directory)
    if not directory.is_dir():
        raise InputError(f"There is no checkpoint to start from in {directory}.")
    # For these two all processes would meet, and one of them may look alone.
    alone = ocp.CheckpointManagerOptions(create=False, save_root_metadata=False)
    return checksums.manager(directory, ITEMS, alone)


def _newest(manager: ocp.CheckpointManager, directory: Path, step: int | None) -> int:
    steps = sorted(manager.all_steps())
    if not steps:
        raise InputError(f"There is no complete checkpoint to start from in {directory}.")
    if step is not None and step not in steps:
        raise InputError(f"There is no checkpoint {step} in {directory}; there are {steps}.")
    return steps[-1] if step is None else step


def write_variables(
    directory: Path, variables: Mapping[str, Any], about: Mapping[str, Any]
) -> None:
    """Writes variables as checkpoint 0, without an optimizer, for runs to start from.

    Args:
      directory: made if it is not there; has no checkpoints yet.
      variables: collection -> tree of arrays.
      about: kept beside them; anything that JSON can hold.

    Raises:
      InputError: if it cannot be written, or has checkpoints.
    """
    directory = Path(directory).absolute()
    if directory.is_dir() and any(directory.iterdir()):
        raise InputError(f"{directory} is not empty; choose another --dst.")
    others = {name: tree for name, tree in variables.items() if name != "params"}
    model = {"params": variables["params"], "model_state": others}
    with places.written(directory):
        directory.mkdir(parents=True, exist_ok=True)
        with _manager(directory) as manager:
            args = ocp.args.Composite(model=checksums.saving(model))
            manager.save(0, args=args, custom_metadata=dict(about))
            manager.wait_until_finished()
