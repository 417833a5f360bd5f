"""How pictures come to a model, and how those of another differ."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from retina_jax.convert import describe
from retina_jax.models import MODELS
from retina_jax.models.towers import TOWERS


@dataclasses.dataclass(frozen=True)
class Pixels:
    """How pictures come to a model.

    Attributes:
      mean, std: moments of each channel, in units of [0, 1]; None for none.
      sizes: batch key -> pixels of the longer side, where a transform states it.
    """

    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    sizes: Mapping[str, int]

    @classmethod
    def of(cls, model: Mapping[str, Any], chains: Sequence[Sequence[Mapping[str, Any]]]) -> Pixels:
        """Those of a spec in MODELS, and of the transforms before it: the first that state one."""
        known = inspect.signature(MODELS[model["name"]]).parameters

        def option(name: str) -> tuple[float, ...] | None:
            value = model.get(name, known[name].default if name in known else None)
            return None if value is None else tuple(float(x) for x in value)

        sizes: dict[str, int] = {}
        for chain in chains:
            sizes = {**describe.picture_sizes(describe.picture_transforms(chain)), **sizes}
        return cls(option("mean"), option("std"), sizes)

    def size(self, part: str) -> int | None:
        """Of what the part reads; a tower of both eyes is not called as its batch key is."""
        return self.sizes.get(part, next(iter(self.sizes.values()), None))

    def unlike(self, part: str, other: Pixels, other_part: str) -> str:
        """How a part's pictures differ from those of another's, in words; '' if nothing does."""
        found = [
            f"{name} {one or 'not set'} instead of {two or 'not set'}"
            for name, one, two in (("mean", self.mean, other.mean), ("std", self.std, other.std))
            if (one is None) != (two is None)
            or (one and two and not np.allclose(one, two, atol=1e-4))
        ]
        one, two = self.size(part), other.size(other_part)
        if one and two and one != two:
            found.append(f"{one} instead of {two} pixels")
        return ", ".join(found)


def picture_towers(model: Mapping[str, Any]) -> set[str]:
    """Names of the parts of a spec in MODELS that are towers which read pixels."""
    alone = {model.get("key", "image"): model["tower"]} if "tower" in model else {}
    towers = {**model.get("towers", {}), **alone}
    return {
        part
        for part, spec in towers.items()
        if spec["name"] in TOWERS and TOWERS[spec["name"]].reads == "pixels"
    }
