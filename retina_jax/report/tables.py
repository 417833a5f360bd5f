"""Tables of the page as plain values; the template makes cards of their rows on a narrow screen."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from retina_jax.types import Score

DASH = "–"
_MOST_POINTS = 10  # of a curve


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell.

    Attributes:
      text: what it says.
      note: what stands beneath in small letters, an interval for instance.
      bold: whether it is set in bold, which is kept for differences that were tested.
      drawing: what `charts` has drawn; it stands in the place of the text.
    """

    text: str
    note: str = ""
    bold: bool = False
    drawing: Markup = Markup("")


@dataclasses.dataclass(frozen=True)
class PageTable:
    """A table.

    Attributes:
      caption: what it shows, in words.
      heads: names of the columns.
      rows: as many cells each; the first names the row.
      texts: how many of the columns, from the left, are words.
    """

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    texts: int = 1


def number(value: Any, missing: str = "not defined") -> str:
    """A figure as people read it: three decimals below 10, four significant digits above."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return missing
    if round(value, 3) == 0:
        return "0.000"  # and no sign
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"


def signed(value: float) -> str:
    """A difference with its sign; a dash for what is not finite."""
    return f"{'−' if value < 0 else '+'}{number(abs(value))}" if math.isfinite(value) else DASH


def spread(score: Score, between: str = "–") -> str:
    """The interval of a figure, or else its deviation over repetitions; '' where it has neither."""
    if score.low is not None and score.high is not None:
        return f"{number(score.low)}{between}{number(score.high)}"
    return "" if score.deviation is None else f"± {number(score.deviation)}"


def words(name: str) -> str:
    """A name of the program as words."""
    return name.replace("_", " ")


def figure(value: Any, why: str = "") -> Cell:
    """A cell of a number, or of what `results.json` says of one: value, low and high, suppressed.

    Args:
      value: a number, None, or an object with 'value' and perhaps 'low' and 'high'.
      why: what stands beneath where it is not defined.
    """
    if isinstance(value, Mapping):
        if value.get("suppressed"):
            return Cell("not shown")
        ends = [number(value.get(name), "") for name in ("low", "high")]
        if all(ends):
            return Cell(number(value.get("value")), f"({ends[0]}–{ends[1]})")
        value = value.get("value")
    return Cell(number(value), why if number(value, "") == "" else "")


def count(value: Any) -> str:
    """A whole number with commas."""
    return f"{value:,}" if isinstance(value, int) else DASH


def cells(*texts: str) -> tuple[Cell, ...]:
    """Cells that say something and no more."""
    return tuple(Cell(text) for text in texts)


def listed(caption: str, pairs: Sequence[tuple[str, str]]) -> PageTable:
    """A table of names and what each of them is."""
    rows = tuple(cells(name, text) for name, text in pairs if text)
    return PageTable(caption, ("what", "value"), rows, texts=2)


def of_curves(
    caption: str,
    series: Sequence[tuple[int, Sequence[float], Sequence[float]]],
    labels: Sequence[str],
) -> PageTable:
    """Some points of curves, evenly spaced, the first and the last of each among them.

    Args:
      caption: what the curves show.
      series: run, steps and values of each curve.
      labels: what the runs are called; a single one is not named.
    """
    rows: list[tuple[str, ...]] = []
    for run, steps, values in series:
        count = min(_MOST_POINTS, len(values))
        for k in range(count):
            at = round(k * (len(values) - 1) / max(count - 1, 1))
            rows.append((labels[run], f"{steps[at]:,.0f}", f"{values[at]:.4g}"))
    heads = ("run", "step", "value")[-3 if len(labels) > 1 else -2 :]
    return PageTable(caption, heads, tuple(cells(*row[-len(heads) :]) for row in rows))
