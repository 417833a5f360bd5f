"""What a figure of few patients is worth, in words that go with it."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FEW_EVENTS = 100  # records with and without what is looked for (Collins et al. 2016)
FEW_OF_CLASS, FEW_GROUPS, LEAST_GROUPS = 10, 20, 5  # patients


def few_events(counts: Sequence[int]) -> bool:
    """Whether one of the numbers of records with and without something is below `FEW_EVENTS`."""
    return any(count < FEW_EVENTS for count in counts)


def tags(
    members: Sequence[np.ndarray], groups: np.ndarray, share: np.ndarray | None = None
) -> tuple[str, ...]:  # fmt: skip
    """Tags of a figure.

    Args:
      members: bool[N] for each class or outcome that records may have; [] where they have none.
      groups: [N], what is independent.
      share: f[N], what a row counts for; 1 / R of a record that has R rows. None for 1 each.

    Returns:
      'few events' where one of them has fewer than 100 records; 'too few', which leaves no interval
      and no comparison, below 20 groups, or where fewer than two of them have 10 groups; 'no value'
      below 5 groups.
    """
    groups = np.asarray(groups)
    count = len(np.unique(groups))
    found: list[str] = []
    counts = np.ones(len(groups)) if share is None else share
    if few_events([round(counts[np.asarray(rows)].sum()) for rows in members]):
        found.append("few events")
    enough = [len(np.unique(groups[rows])) >= FEW_OF_CLASS for rows in members]
    if count < FEW_GROUPS or (members and sum(enough) < 2):
        found.append("too few")
    if count < LEAST_GROUPS:
        found.append("no value")
    return tuple(found)
