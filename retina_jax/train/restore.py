"""Starting from parameters of another run: named subtrees, with leftovers refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from data_pipelines.errors import InputError
from retina_jax.train.checkpoint import difference, shapes_by_name


def _under(prefix: str, name: str) -> bool:
    return name == prefix or name.startswith(prefix + "/")


def subtrees(
    params: Mapping[str, Any],
    source: Mapping[str, Any],
    *,
    take: Sequence[str],
    ignore: Sequence[str] = (),
) -> dict[str, Any]:
    """`params` with the top-level subtrees `take` replaced by those of `source`.

    Args:
      params: nested dict of the new model's parameters.
      source: nested dict of the old model's parameters.
      take: names of top-level subtrees that both have with the same names and shapes.
      ignore: names of top-level subtrees of `source` that are left behind on purpose.

    Raises:
      InputError: if a subtree of `source` is in neither list, or one that is taken is missing or
        differs; the sentence names the parameters and the shapes.
    """
    if leftover := sorted(set(source) - set(take) - set(ignore)):
        raise InputError(
            f"The checkpoint to start from has {leftover} which restore neither takes nor ignores; "
            "name each in restore.take or restore.ignore."
        )
    for name in take:
        for tree, whose in ((source, "the checkpoint to start from"), (params, "the new model")):
            if name not in tree:
                raise InputError(f"restore.take names '{name}', but {whose} has {sorted(tree)}.")
        found = difference(
            {f"{name}/{k}": v for k, v in shapes_by_name(source[name]).items()},
            {f"{name}/{k}": v for k, v in shapes_by_name(params[name]).items()},
        )
        if found:
            raise InputError(f"The checkpoint to start from does not fit the new model: it {found}.")
    return {**params, **{name: source[name] for name in take}}


def read_params(directory: Path) -> dict[str, Any]:
    """Parameters of the newest checkpoint in a run's `checkpoints` directory, as host arrays."""
    directory = Path(directory).absolute()
    if not directory.is_dir():
        raise InputError(f"There is no checkpoint to start from in {directory}.")
    with ocp.CheckpointManager(
        directory, item_handlers={"model": ocp.StandardCheckpointHandler()}
    ) as manager:
        step = manager.latest_step()
        if step is None:
            raise InputError(f"There is no complete checkpoint to start from in {directory}.")
        tree = manager.item_metadata(step)["model"].tree
        host = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), tree)
        restored = manager.restore(
            step, args=ocp.args.Composite(model=ocp.args.StandardRestore(host))
        )
    return restored["model"]["params"]
