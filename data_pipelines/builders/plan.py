"""What a builder decides before it writes: rows by split, and what is left out and why."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any

from data_pipelines.builders import table


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which row goes where, decided before anything is written.

    Attributes:
        rows: {split: rows}.
        skipped: rows that cannot be used, by line.
        remarks: sentences for the user.
    """

    rows: Mapping[str, list[Any]]
    skipped: tuple[table.Skipped, ...]
    remarks: tuple[str, ...]

    @property
    def kept(self) -> int:
        """Number of usable rows."""
        return sum(len(rows) for rows in self.rows.values())

    def reasons(self) -> dict[str, int]:
        """Returns {reason: number of skipped rows}, the most frequent one first."""
        return dict(collections.Counter(row.reason for row in self.skipped).most_common())
