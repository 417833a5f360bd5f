"""Where features of test records lie in a plane, as points in the colour and shape of a class.

A point has no name, no hash and no attribute of a patient, and stands in no order: like a curve, it
is of a record without saying of which.
"""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import numpy as np

from retina_jax.report.charts import SERIES, Plot, symbol
from retina_jax.report.from_records import Drawing
from retina_jax.report.tables import Cell, PageTable, count, figure, number
from retina_jax.scoring.predictions import TEST, Predictions

MOST_POINTS = 600
_SIZE, _EDGES = (380, 330), (50, 28)  # pixels, and those of them beside the plane
_Groups = list[tuple[str, np.ndarray]]


def drawn(found: Predictions) -> Drawing | None:
    """A map of test records; None where they have no places.

    Args:
      found: all rows of an evaluation.
    """
    shares = found.about.get("place_variance")
    test = found.where(found.split == TEST)
    if test.places is None or not shares or test.labels.dtype.kind == "f":
        return None
    places = test.places.astype(np.float64)
    groups = _groups(test)
    rows = np.random.default_rng(0).permutation(len(places))[:MOST_POINTS]
    chosen = places[rows]
    plot = Plot(*_ends(chosen), _SIZE)
    across, up = (f"direction {k}: {number(share)} of the variance"
                  for k, share in enumerate(shares, 1))  # fmt: skip
    plot.named(across, up)
    shown = _shown(groups)
    which = np.full(len(places), SERIES - 1)
    for colour, (_, members) in enumerate(shown):
        which[members] = colour
    for (x, y), colour in zip(chosen.tolist(), which[rows].tolist(), strict=True):
        plot.mark(x, y, colour)
    few = f"{count(len(rows))} of {count(len(places))}, drawn at random (seed 0)"
    title = f"Features of the test records{f': {few}' if len(rows) < len(places) else ''}"
    legend = tuple((k, f"{name}, {count(len(m))}") for k, (name, m) in enumerate(shown))
    says = "; ".join(
        f"{name}: {count(len(members))}, mean {_pair(places[members].mean(axis=0))}, spread "
        f"{_pair(places[members].std(axis=0))}" for name, members in shown
    )  # fmt: skip
    return Drawing(
        title, plot.svg(), f"Shares of the variance {_pair(np.array(shares))}. {says}", legend,
        _table(groups, places), tuple(symbol(7, 7, k) for k in range(len(shown))),
    )  # fmt: skip


def _groups(test: Predictions) -> _Groups:
    """Classes with their rows; of several labels the records that have one, none or more."""
    names = [str(name) for name in test.about["classes"]]
    if test.labels.ndim == 1:
        found = [(name, np.flatnonzero(test.labels == k)) for k, name in enumerate(names)]
    else:
        had = test.labels == 1
        several = had.sum(axis=1)
        found = [(f"{name} alone", np.flatnonzero(had[:, k] & (several == 1)))
                 for k, name in enumerate(names)]  # fmt: skip
        found += [("none of these", np.flatnonzero(several == 0)),
                  ("several of these", np.flatnonzero(several > 1))]  # fmt: skip
    return [(name, rows) for name, rows in found if len(rows)]


def _shown(groups: _Groups) -> _Groups:
    """As many groups as there are shapes: the most frequent, and what is left as one."""
    if len(groups) <= SERIES:
        return groups
    frequent = sorted(range(len(groups)), key=lambda k: -len(groups[k][1]))[: SERIES - 1]
    rest = [groups[k][1] for k in range(len(groups)) if k not in frequent]
    kept = [groups[k] for k in sorted(frequent)]
    return [*kept, (f"{len(rest)} others", np.concatenate(rest))]


def _ends(places: np.ndarray) -> tuple[tuple[float, float], tuple[float, float]]:
    """Ends of both axes on which a unit is as long on one as on the other."""
    low, high = places.min(axis=0), places.max(axis=0)
    room = np.array(_SIZE) - _EDGES
    unit = 1.08 * float(((high - low) / room).max()) or 1.0
    first, last = (low + high - unit * room) / 2, (low + high + unit * room) / 2
    return (float(first[0]), float(last[0])), (float(first[1]), float(last[1]))


def _table(groups: _Groups, places: np.ndarray) -> PageTable:
    rows: list[tuple[Cell, ...]] = []
    for name, members in groups:
        mean, spread = places[members].mean(axis=0), places[members].std(axis=0)
        rows.append((Cell(name), Cell(count(len(members))), *map(figure, map(float, mean)),
                     *map(figure, map(float, spread))))  # fmt: skip
    return PageTable(
        "All test records along both directions; spread: standard deviation",
        ("class", "records", "mean on 1", "mean on 2", "spread on 1", "spread on 2"), tuple(rows),
    )  # fmt: skip


def _pair(values: np.ndarray) -> str:
    return f"({number(float(values[0]))}, {number(float(values[1]))})"
