"""What one flipped bit in the arrays of a checkpoint does: noticed, silent, or without effect.

    python -m benchmarks.drill --workdir=FOLDER

One JSON line with checksums, and one of checkpoints as they were stored before. What other faults
do is tested in small (tests/train/test_faults.py); docs/faults.md has both.
"""

from __future__ import annotations

import argparse
import collections
import logging
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from benchmarks import measuring
from retina_jax.train import checksums


def managers(place: Path) -> Iterator[tuple[str, Any, Any, Any]]:
    """(how arrays are stored, a manager of checkpoints, what it saves, what it restores)."""
    made: Any = checksums.manager(place, ["model"])
    yield "with checksums", made, checksums.saving, checksums.restoring
    shutil.rmtree(place)
    made = ocp.CheckpointManager(place, item_handlers={"model": ocp.StandardCheckpointHandler()})
    yield "without, as before", made, ocp.args.StandardSave, ocp.args.StandardRestore


def flips(folder: Path, number: int) -> Iterator[dict[str, Any]]:
    """One flipped bit in a random byte of the arrays of a checkpoint, many times."""
    draw = np.random.default_rng(0)
    tree = {f"layer{i}": draw.normal(size=(64, 256)).astype(np.float32) for i in range(8)}
    wanted = [leaf.tobytes() for leaf in jax.tree.leaves(tree)]
    place = folder / "flips"
    shutil.rmtree(place, ignore_errors=True)
    for stored, manager, saving, restoring in managers(place):
        counts: collections.Counter[str] = collections.Counter()
        manager.save(0, args=ocp.args.Composite(model=saving(tree)))
        manager.wait_until_finished()
        files = [path for path in (place / "0" / "model").rglob("*") if path.is_file()]
        sizes, chance = [path.stat().st_size for path in files], random.Random(5)
        for _ in range(number):
            (path,) = chance.choices(files, sizes)
            whole = path.read_bytes()
            flipped = bytearray(whole)
            flipped[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
            path.write_bytes(flipped)
            try:
                found = manager.restore(0, args=ocp.args.Composite(model=restoring(tree)))["model"]
                same = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(found)] == wanted
                counts["without effect" if same else "silently other parameters"] += 1
            except Exception:  # noqa: BLE001 (Orbax raises many kinds for a broken file)
                counts["noticed"] += 1
            path.write_bytes(whole)
        manager.close()
        yield {"figure": f"flips/{stored}", "flips": number, "bytes": sum(sizes), **counts}


def main() -> None:
    """Prints the lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--workdir", required=True, type=Path, help="an empty folder")
    parser.add_argument("--flips", type=int, default=100, help="of each kind of checkpoint")
    parser.add_argument("--output", help="a file for the lines, too")
    given = parser.parse_args()
    logging.disable(logging.ERROR)

    def lines() -> Iterator[dict[str, Any]]:
        yield measuring.environment(["jax", "orbax-checkpoint", "tensorstore"])
        yield from flips(given.workdir.absolute(), given.flips)

    measuring.tell(lines(), given.output)


if __name__ == "__main__":
    main()
