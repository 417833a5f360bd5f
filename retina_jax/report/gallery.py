"""Examples of an evaluation as a page shows them: pictures and texts of `results.json`."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

# Anything else could make the page fetch something, or smuggle markup into an attribute.
_INLINE_IMAGE = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+={0,2}")


@dataclasses.dataclass(frozen=True)
class PageCard:
    """An image, a text, or both; `image` is an inline data URI that is safe to embed."""

    image: str | None
    text: str
    score: float | None = None
    correct: bool | None = None


@dataclasses.dataclass(frozen=True)
class Example:
    """One query of a retrieval gallery with its answers, best first."""

    evaluator: str
    query: PageCard
    answers: tuple[PageCard, ...]


def number(value: Any) -> float | None:
    """The number; None for none, or one that is not finite."""
    return None if value is None or not math.isfinite(float(value)) else float(value)


def _card(raw: Mapping[str, Any]) -> tuple[PageCard, bool]:
    """The card, and whether it had an image that is not an inline one."""
    image = raw.get("image")
    safe = isinstance(image, str) and _INLINE_IMAGE.fullmatch(image) is not None
    correct = raw.get("correct")
    card = PageCard(
        image=image if safe else None,
        text=str(raw.get("text") or ""),
        score=number(raw.get("score")),
        correct=None if correct is None else bool(correct),
    )
    return card, bool(image) and not safe


def read(raw: Sequence[Any], notices: list[str], where: str) -> list[Example]:
    """The readable examples; what is left out, and pictures from elsewhere, become notices."""
    examples, broken, refused = [], 0, 0
    for item in raw:
        try:
            query, foreign = _card(item["query"])
            cards = [_card(answer) for answer in item["answers"]]
            evaluator = str(item.get("evaluator") or "retrieval")
        except (KeyError, TypeError, ValueError, AttributeError):
            broken += 1
            continue
        refused += foreign + sum(foreign for _, foreign in cards)
        examples.append(Example(evaluator, query, tuple(card for card, _ in cards)))
    if broken:
        notices.append(f"{where}results.json: {broken} gallery examples could not be read.")
    if refused:
        notices.append(
            f"{where}results.json: {refused} images are not embedded in the file and are not shown."
        )
    return examples
