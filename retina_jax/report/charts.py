"""Drawings as inline SVG that takes its colours from the page, and is readable in light and dark.

Titles and legends are HTML beside a drawing: no text of a user gets into the SVG. Series differ in
colour and in dashes; a path has 120 points at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from retina_jax.types import Score

SERIES = 6  # as many colours as the page's style sheet has
MOST_POINTS = 120
_DASHES = ("", "7 2", "2 2", "7 2 2 2", "12 3", "4 4")
# Shapes of points around (0, 0), as different as the dashes of lines.
_SHAPES = ("M-3.2 0a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0-6.4 0z", "M-3-3h6v6h-6z",
           "M0-3.8L3.8 3h-7.6z", "M-3.2-3.2l6.4 6.4m0-6.4l-6.4 6.4",
           "M0-4.2L3.2 0L0 4.2L-3.2 0z", "M-4 0h8m-4-4v8")  # fmt: skip
_OF_LINES = (3, 5)
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 8, 8, 20

Series = tuple[int, Sequence[float], Sequence[float]]  # index of the run, steps, values
Numbers = Sequence[float] | np.ndarray


class Plot:
    """A drawing on two axes, to which lines, bands and dots are added.

    Args:
      x, y: the ends of the axes; values outside are drawn at the edge.
      size: width and height in pixels; the drawing then fills the width of what holds it.
      whole: whether the ticks of x are whole numbers.
    """

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        size: tuple[int, int] = (340, 200),
        whole: bool = False,
    ):
        self._x, self._y, self._size = x, y, size
        self._parts: list[str] = []
        width, height = size
        for value in _ticks(*y, 5):
            at = self._across(value)
            self._parts.append(f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" '
                               f'y1="{at}" y2="{at}"/>')  # fmt: skip
            self._parts.append(f'<text x="{_LEFT - 5}" y="{at + 4:.1f}" text-anchor="end">'
                               f"{_tick(value)}</text>")  # fmt: skip
        for value in _ticks(*x, 4, whole):
            self._parts.append(f'<text x="{self._along(value)}" y="{height - 5}" '
                               f'text-anchor="middle">{_tick(value)}</text>')  # fmt: skip
        base = height - _BOTTOM
        self._parts.append(
            f'<line class="axis" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{base}" y2="{base}"/>'
        )

    def line(self, x: Numbers, y: Numbers, colour: int) -> Plot:
        """A line through points, of which at most MOST_POINTS are kept."""
        dash = _DASHES[colour % SERIES]
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self._parts.append(
            f'<path class="line s{colour % SERIES}"{dashes} d="{self._path(x, y)}"/>'
        )
        return self

    def chance(self, x: Numbers, y: Numbers) -> Plot:
        """A dotted line: what knowing nothing would give."""
        self._parts.append(f'<path class="chance" d="{self._path(x, y)}"/>')
        return self

    def band(self, x: Numbers, low: Numbers, high: Numbers, colour: int) -> Plot:
        """The area between two lines."""
        there, back = self._path(x, low), self._path(list(x)[::-1], list(high)[::-1])
        self._parts.append(f'<path class="band s{colour % SERIES}" d="{there}L{back[1:]}Z"/>')
        return self

    def dots(self, x: Numbers, y: Numbers, colour: int, ring: bool = False) -> Plot:
        """A dot at each point, or a ring."""
        kind, radius = ("ring", 5.5) if ring else ("dot", 2.6)
        self._parts += [
            f'<circle class="{kind} s{colour % SERIES}" cx="{self._along(a)}" '
            f'cy="{self._across(b)}" r="{radius}"/>' for a, b in zip(x, y, strict=True)
        ]  # fmt: skip
        return self

    def mark(self, x: float, y: float, colour: int) -> Plot:
        """A point whose shape says its colour too."""
        self._parts.append(symbol(self._along(x), self._across(y), colour))
        return self

    def named(self, x: str, y: str) -> Plot:
        """What the axes are, written inside along their ends; words of the program only."""
        right, base = self._size[0] - _RIGHT, self._size[1] - _BOTTOM
        self._parts += [
            f'<text class="name" x="{right}" y="{base - 6}" text-anchor="end">{x} →</text>',
            f'<text class="name" x="{_LEFT}" y="{_TOP + 6}">↑ {y}</text>',
        ]
        return self

    def bars(self, x: Numbers, low: Numbers, high: Numbers, colour: int) -> Plot:
        """A vertical interval at each x."""
        self._parts += [
            f'<line class="line s{colour % SERIES}" x1="{self._along(a)}" x2="{self._along(a)}" '
            f'y1="{self._across(b)}" y2="{self._across(c)}"/>'
            for a, b, c in zip(x, low, high, strict=True)
        ]
        return self

    def svg(self) -> Markup:
        """The `<svg>` element; whatever holds it says in words what it shows."""
        width, height = self._size
        return Markup(
            f'<svg class="plot" viewBox="0 0 {width} {height}" aria-hidden="true">'
            f"{''.join(self._parts)}</svg>"
        )

    def _along(self, value: float) -> float:
        return _place(value, self._x, _LEFT, self._size[0] - _RIGHT)

    def _across(self, value: float) -> float:
        return _place(value, self._y, self._size[1] - _BOTTOM, _TOP)

    def _path(self, x: Numbers, y: Numbers) -> str:
        across, up = np.asarray(x, np.float64).tolist(), np.asarray(y, np.float64).tolist()
        kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), MOST_POINTS)).round().astype(int))
        return "M" + "L".join(f"{self._along(across[i])} {self._across(up[i])}" for i in kept)


def symbol(x: float, y: float, colour: int) -> Markup:
    """The shape of a colour at a place in pixels."""
    which = colour % SERIES
    kind = "line" if which in _OF_LINES else "mark"
    return Markup(f'<path class="{kind} s{which}" transform="translate({x} {y})" '
                  f'd="{_SHAPES[which]}"/>')  # fmt: skip


def curves(
    series: Sequence[Series], *, points: bool = False, chance: float | None = None
) -> Markup:
    """One metric against the step, a line per run.

    Args:
      series: (index of the run, steps, finite values); empty ones are not drawn. A series of more
        than 120 points is drawn as the means of equal shares of it, within a band from their
        smallest to their largest value.
      points: mark every value, for metrics that are measured now and then.
      chance: a level to mark with a dotted line.

    Returns:
      An `<svg>` element that fills the width of what holds it.
    """
    drawn = [(index, np.asarray(x), np.asarray(y)) for index, x, y in series if len(y)]
    steps = [x for _, found, _ in drawn for x in (found.min(), found.max())]
    values = [y for _, _, found in drawn for y in (found.min(), found.max())]
    values += [] if chance is None else [chance]
    plot = Plot(_widened(steps, 0.0), _widened(values, 0.06), whole=True)
    if chance is not None:
        plot.chance((min(steps), max(steps)), (chance, chance))
    for index, x, y in drawn:
        if len(y) > MOST_POINTS:
            shares = np.array_split(np.arange(len(y)), MOST_POINTS)
            middle = [x[share].mean() for share in shares]
            ends = [[limit(y[share]) for share in shares] for limit in (np.min, np.max)]
            plot.band(middle, ends[0], ends[1], index)
            plot.line(middle, [y[share].mean() for share in shares], index)
            continue
        plot.line(x, y, index)
        if points or len(y) == 1:
            plot.dots(x, y, index)
    return plot.svg()


def score_bar(score: Score, domain: tuple[float, float], run: int = 0) -> Markup:
    """The chance level, the interval and the value of one score on a small horizontal axis.

    Args:
      score: a score with a finite value.
      domain: the ends of the axis.
      run: index of the run, for the colour and the shape.

    Returns:
      An `<svg>` element of 150 x 16 px.
    """
    width, pad = 150.0, 4.0
    ends = (pad, width - pad)
    parts = [f'<line class="axis" x1="{pad}" x2="{width - pad}" y1="8" y2="8"/>']
    if score.chance is not None:
        at = _place(score.chance, domain, *ends)
        parts.append(f'<path class="chance" d="M{at} 2L{at} 14"/>')
    if score.low is not None and score.high is not None:
        start, end = (_place(value, domain, *ends) for value in (score.low, score.high))
        parts.append(
            f'<rect class="band s{run % SERIES}" x="{start}" y="4.5" '
            f'width="{max(1.0, round(end - start, 1))}" height="7" rx="3.5"/>'
        )
    parts.append(symbol(_place(score.value, domain, *ends), 8, run))
    return Markup(
        f'<svg class="bar" width="{width:.0f}" height="16" viewBox="0 0 {width:.0f} 16" '
        f'aria-hidden="true">{"".join(parts)}</svg>'
    )


def domain(scores: Sequence[Score]) -> tuple[float, float] | None:
    """Ends of the axis on which to draw some scores of one metric.

    Args:
      scores: scores with finite values, at least one.

    Returns:
      (0, 1) or (-1, 1) where all numbers lie there; else from 0 or the smallest to the largest;
      None where the only number is the value itself, which has nothing to be compared with.
    """
    numbers = [
        number
        for score in scores
        for number in (score.value, score.low, score.high, score.chance)
        if number is not None
    ]
    low, high = min(numbers), max(numbers)
    if -1 <= low and high <= 1:
        return (0.0, 1.0) if low >= 0 else (-1.0, 1.0)
    if len(numbers) == 1 or low == high:
        return None
    return min(low, 0.0), high


def _place(value: float, ends: tuple[float, float], first: float, last: float) -> float:
    """Where a value lies between two pixels, at the nearer one if it is outside."""
    share = (min(max(float(value), ends[0]), ends[1]) - ends[0]) / (ends[1] - ends[0])
    return round(first + share * (last - first), 1)


def _widened(values: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = float(min(values)), float(max(values))
    if low == high:
        return low - (abs(low) / 10 or 0.5), high + (abs(high) / 10 or 0.5)
    return low - margin * (high - low), high + margin * (high - low)


def _ticks(low: float, high: float, most: int, whole: bool = False) -> list[float]:
    """At most `most` round numbers between two others, besides one that fits at an end."""
    size = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if (high - low) / (size * m) <= most)
    step = max(step, 1.0) if whole else step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def _tick(value: float) -> str:
    """A short label: 1e-4, 0.25, 40, 12k, 3M."""
    size = abs(value)
    if size and size < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    for scale, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= scale:
            return f"{value / (1e3 if letter == 'k' else scale):.4g}{letter}"
    return f"{value:.4g}"
