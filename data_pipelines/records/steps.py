"""What happens to one record on its way into a batch."""

from __future__ import annotations

import dataclasses
from typing import Any

import grain

from data_pipelines import batch as batch_contract
from data_pipelines.errors import InputError


def _named(error: Exception, transform: Any, record: Any, dataset: str) -> InputError:
    name = record.get("id", "?") if isinstance(record, dict) else "?"
    reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    label = type(transform).__name__.strip("_")
    return InputError(f"Record '{name}' of {dataset}, {label}: {reason}")


@dataclasses.dataclass(frozen=True)
class Steps(grain.transforms.RandomMap):
    """All transforms of a record, one after another; failures name the record and the data set.

    They are one step for Grain, which takes longer between steps than many a transform does. The
    random ones draw in turn from the one generator of the record.
    """

    transforms: tuple[Any, ...]
    dataset: str

    def random_map(self, record: Any, rng: Any) -> Any:
        """Returns the record after all steps; `rng` is its own generator, which they share."""
        for transform in self.transforms:
            try:
                if isinstance(transform, grain.transforms.RandomMap):
                    record = transform.random_map(record, rng)
                else:
                    record = transform.map(record)
            except Exception as error:
                raise _named(error, transform, record, self.dataset) from error
        return record

    def map(self, record: Any) -> Any:
        """Returns the record after all steps, of which none is random."""
        return self.random_map(record, None)

    def over(self, dataset: grain.MapDataset) -> grain.MapDataset:
        """Returns the records of a data set after these steps."""
        random = any(isinstance(t, grain.transforms.RandomMap) for t in self.transforms)
        return dataset.random_map(self) if random else dataset.map(self.map)


@dataclasses.dataclass(frozen=True)
class Select(grain.transforms.Map):
    """Keeps the batch keys of a record, and refuses floats that are not finite."""

    keys: tuple[str, ...] | None

    def map(self, record: dict[str, Any]) -> dict[str, Any]:
        """Returns the keys that are kept; raises `InputError` where one is missing or unusable."""
        made = [key for key, value in record.items() if batch_contract.fits(key, value)]
        keys = made if self.keys is None else self.keys
        unfit = [key for key in keys if key not in made]
        if unfit or not keys:
            raise InputError(
                f"the transforms did not make the batch keys {unfit or 'at all'}; "
                f"made were {made or 'none'} out of the fields {sorted(record)}."
            )
        for key in keys:
            if batch_contract.unusable(key, record[key]):
                raise InputError(f"'{key}' has values that are NaN or infinite.")
        return {key: record[key] for key in keys}
