"""Changes of some of the records of a stream."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from grain.transforms import RandomMap

from data_pipelines.text.texts import comparable
from data_pipelines.transforms.fields import Record, field


@dataclasses.dataclass(frozen=True)
class Where(RandomMap):
    """A random transform of the records that fulfil every condition; others stay as they are.

    In a config it is an option that each random transform takes: `{'name': 'speckle_noise',
    'source': 'image', 'where': {'modality': 'oct'}}`.

    Attributes:
        where: {field: value or collection of values}, as for `Source.select`.
        transform: what is done to them.
    """

    where: Mapping[str, str | Collection[str]]
    transform: RandomMap

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        """Returns the record, changed or not."""
        fulfilled = all(
            not comparable(values).isdisjoint(comparable(field(record, name)))
            for name, values in self.where.items()
        )
        changed: Any = self.transform.random_map(record, rng) if fulfilled else record
        return changed
