"""How the items of a checkpoint are stored: every chunk with a checksum, compared when it is read.

Orbax has no option for it (0.12): the codecs of an array are set where its specification for
writing is made, and one more is added there, `crc32c` of zarr3, behind the compression. A thread
makes them after `save` has returned, so this holds from the import on. How an array is stored is
told beside it: checkpoints without checksums, as version 0.1 wrote, are read as ever.
"""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false
from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint._src.serialization import tensorstore_utils

from data_pipelines import places
from data_pipelines.errors import InputError

_specification = tensorstore_utils.build_array_write_spec


@functools.wraps(_specification)
def _with_checksum(*args: Any, **keywords: Any) -> Any:
    made: Any = _specification(*args, **keywords)
    stored = made.json.get("base", made.json)  # of another dtype than in memory, it is converted
    if stored["driver"] == "zarr3":
        stored["metadata"]["codecs"][0]["configuration"]["codecs"].append({"name": "crc32c"})
    return made


tensorstore_utils.build_array_write_spec = _with_checksum


def manager(
    directory: Path, items: Iterable[str], options: ocp.CheckpointManagerOptions | None = None
) -> ocp.CheckpointManager:
    """What keeps the checkpoints in a directory, each of the named items.

    Raises:
      InputError: if what one of them says of itself is damaged.
    """
    handlers = {item: ocp.PyTreeCheckpointHandler(use_zarr3=True) for item in items}
    try:
        return ocp.CheckpointManager(directory, item_handlers=handlers, options=options)
    except (ValueError, TypeError, KeyError) as error:
        if places.reason(error):
            raise
        raise InputError(
            f"A file _CHECKPOINT_METADATA in {directory} is damaged ({error}): move the "
            "checkpoint that it is of away, and the one before it takes over."
        ) from error


def saving(tree: Any) -> ocp.args.PyTreeSave:
    """What a manager is told to write of an item: a tree of arrays."""
    return ocp.args.PyTreeSave(jax.tree.map(_array, tree))


def _array(leaf: Any) -> Any:
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def restoring(target: Any) -> ocp.args.PyTreeRestore:
    """What a manager is told to read of an item.

    Args:
      target: a tree like the one that was written, of ShapeDtypeStructs with shardings, or of
        host arrays, which the result then has too.
    """
    arguments = ocp.checkpoint_utils.construct_restore_args(target)
    return ocp.args.PyTreeRestore(item=target, restore_args=arguments)


def reason(error: BaseException) -> str:
    """Why a checkpoint cannot be read, in some words: Orbax wraps what TensorStore said."""
    while error.__cause__ is not None:
        error = error.__cause__
    if any(word in str(error).lower() for word in ("digest mismatch", "checksum")):
        return "a checksum does not fit what is stored"
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
