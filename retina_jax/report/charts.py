"""Curves and score bars as inline SVG that takes its colours from the page.

Matplotlib draws with placeholder colours, which are then replaced by CSS variables, so that one
drawing is readable in light and in dark. Titles and legends are HTML beside the drawing: no text
of a user gets into the SVG.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from retina_jax.types import Score

SERIES = 6  # as many colours as the page's style sheet has

_INK, _GRID = "#010203", "#010204"
_COLOURS = {_INK: "var(--muted)", _GRID: "var(--line)"}
_COLOURS |= {f"#0101{index:02x}": f"var(--series-{index})" for index in range(SERIES)}
_SERIES_INKS = [ink for ink in _COLOURS if ink.startswith("#0101")]
_DASHES = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.2, 1.2, 1.2)), "solid", "solid")
_BINS = 120

Series = tuple[int, Sequence[float], Sequence[float]]  # index of the run, steps, values


def curves(
    panel: str, series: Sequence[Series], *, points: bool = False, chance: float | None = None
) -> str:
    """One metric against the step, a line per run.

    Args:
      panel: a name that no other drawing of the page has; letters, digits and '-'.
      series: (index of the run, steps, finite values); empty ones are not drawn. A series of more
        than 120 points is drawn as the means of equal shares of it, within a band from their
        smallest to their largest value.
      points: mark every value, for metrics that are measured now and then.
      chance: a level to mark with a dotted line.

    Returns:
      An `<svg>` element that fills the width of what holds it.
    """
    figure = Figure(figsize=(3.5, 2.0))
    axes = figure.add_axes((0.125, 0.13, 0.855, 0.82))
    _style(axes)
    for index, steps, values in series:
        if len(values):
            _draw(axes, index, np.asarray(steps), np.asarray(values), points)
    if chance is not None:
        axes.axhline(chance, color=_INK, linewidth=1, linestyle=(0, (1, 2)))
    axes.margins(x=0.02, y=0.08)
    return _svg(figure, panel)


def score_bar(score: Score, domain: tuple[float, float], run: int = 0) -> str:
    """The chance level, the interval and the value of one score on a small horizontal axis.

    Args:
      score: a score with a finite value.
      domain: the ends of the axis.
      run: index of the run, for the colour.

    Returns:
      An `<svg>` element of 190 x 16 px.
    """
    low, high = domain
    width, pad = 190.0, 4.0

    def place(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return round(pad + share * (width - 2 * pad), 1)

    colour = f"var(--series-{run % SERIES})"
    parts = [f'<line x1="{pad}" x2="{width - pad}" y1="8" y2="8" stroke="var(--line)"/>']
    if score.chance is not None:
        at = place(score.chance)
        parts.append(
            f'<line x1="{at}" x2="{at}" y1="2" y2="14" stroke="var(--muted)" '
            'stroke-width="1.5" stroke-dasharray="2 1.5"/>'
        )
    if score.low is not None and score.high is not None:
        start, end = place(score.low), place(score.high)
        parts.append(
            f'<rect x="{start}" y="4.5" width="{max(1.0, round(end - start, 1))}" '
            f'height="7" rx="3.5" fill="{colour}" opacity=".35"/>'
        )
    parts.append(f'<circle cx="{place(score.value)}" cy="8" r="3" fill="{colour}"/>')
    return (
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


def _style(axes: Axes) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)
    axes.grid(axis="y", color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, labelsize=7.5, length=0, pad=4)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))


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


def _draw(axes: Axes, index: int, steps: np.ndarray, values: np.ndarray, points: bool) -> None:
    style = {
        "color": _SERIES_INKS[index % SERIES],
        "linestyle": _DASHES[index % SERIES],
        "linewidth": 1.6,
        "solid_capstyle": "round",
    }
    if len(values) <= _BINS:
        marked = points or len(values) == 1
        axes.plot(steps, values, marker="o" if marked else None, markersize=3.5, **style)
        return
    shares = np.array_split(np.arange(len(values)), _BINS)
    middle = [steps[share].mean() for share in shares]
    axes.fill_between(
        middle,
        [values[share].min() for share in shares],
        [values[share].max() for share in shares],
        color=style["color"],
        alpha=0.18,
        linewidth=0,
    )
    axes.plot(middle, [values[share].mean() for share in shares], **style)


def _svg(figure: Figure, panel: str) -> str:
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": panel}):
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    # Several drawings share one document: their ids must differ.
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{panel}-", text)
    text = re.sub(
        r'<svg [^>]*?(viewBox="[^"]*")[^>]*>',
        r'<svg class="curve" \1 xmlns:xlink="http://www.w3.org/1999/xlink" '
        'aria-hidden="true">',
        text,
        count=1,
    )
    text = re.sub(r'font: ([\d.]+px)[^;"]*', r"font-size: \1", text)
    for placeholder, variable in _COLOURS.items():
        text = text.replace(placeholder, variable)
    return re.sub(r"\n\s*", "\n", text)
