"""How many layers of its tower lie above a parameter, for rates that fall towards the input.

As in the fine-tuning of BEiT (Bao et al. 2022) and MAE (He et al. 2022): the blocks of a tower are
its layers, what comes before them (patches, words, positions, the stem of a convolutional network)
is one layer below the first, and what comes after them, up to the head, one above the last. A ViT
of 12 blocks has 13 layers above its patches, 12 above its first block and 1 above its last.

Layers are found by their names, which all towers share: stacked on a first axis (`blocks`,
`layers`, see `models.layer_stack.scan_layers`) or numbered (`layer<stage>_<block>`, `block<n>`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

_STACKED = ("blocks", "layers")
_NUMBERED = re.compile(r"layer(\d+)_(\d+)|block(\d+)")
_BEFORE = re.compile(r"\w+_embedding|embedding_norm|pre_norm|stem_\w+|conv\d|bn\d")
_AFTER = ("attention_pool",)  # has positions of its own
Path = tuple[str, ...]


def layers_above(shapes: Mapping[Path, Sequence[int]]) -> dict[Path, np.ndarray | None]:
    """The number of layers above each parameter of a model.

    Args:
      shapes: names on the way to a parameter -> its shape.

    Returns:
      f64[], or f64[depth 1 ... 1] where layers are stacked; 0 for what lies above the layers of its
      tower, or is part of none. None for what comes before layers that are not there.
    """
    stacks = stacks_of(shapes)
    places = {path: _place(path, stacks) for path in shapes}
    towers: dict[Path, set[tuple[int, ...]]] = {}
    for path, shape in shapes.items():
        place = places[path]
        if path[: place + 1] in stacks:
            towers.setdefault(path[:place], set()).update((i,) for i in range(shape[0]))
        elif place < len(path) and (number := _number(path[place])):
            towers.setdefault(path[:place], set()).add(number)
    return {path: _above(path, places[path], shape, towers) for path, shape in shapes.items()}


def stacks_of(paths: Iterable[Path]) -> set[Path]:
    """Paths of the modules whose parameters have layers on a first axis.

    A stack may lie in a module of such a name, as those of `models.decoder_blocks` may.
    """
    found = {path[: i + 1] for path in paths for i, name in enumerate(path) if name in _STACKED}
    return found - {path[:-1] for path in found}


def stack_of(path: Path, stacks: set[Path]) -> Path:
    """Which of the stacks a parameter is of; () for none."""
    return next((path[:i] for i in range(len(path), 0, -1) if path[:i] in stacks), ())


def _above(
    path: Path, place: int, shape: Sequence[int], towers: Mapping[Path, set[tuple[int, ...]]]
) -> np.ndarray | None:
    if place == len(path):
        return np.zeros(())
    tower, name = path[:place], path[place]
    if name in _STACKED:
        return np.arange(shape[0], 0.0, -1).reshape(-1, *(1,) * (len(shape) - 1))
    if number := _number(name):
        return np.array(float(len(towers[tower]) - sorted(towers[tower]).index(number)))
    # Words may be embedded beside the module that has the layers, as in `models.clip_text`.
    depths = [len(found) for other, found in towers.items() if other[:place] == tower]
    return np.array(max(depths) + 1.0) if depths else None


def _place(path: Path, stacks: set[Path]) -> int:
    """Where on the way to a parameter a layer begins, or what is before layers; else its length."""
    for place, name in enumerate(path):
        if name in _AFTER:
            break
        if path[: place + 1] in stacks or _NUMBERED.fullmatch(name) or _BEFORE.fullmatch(name):
            return place
    return len(path)


def _number(name: str) -> tuple[int, ...]:
    """(stage, block) or (block,) of a numbered layer; () of anything else."""
    found = _NUMBERED.fullmatch(name)
    return tuple(int(group) for group in found.groups() if group) if found else ()
