"""Published tables, as data: what was evaluated how, what came out, what is wrong with it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from data_pipelines.errors import InputError

TASKS = ("zero_shot", "probe", "few_shot")


@dataclasses.dataclass(frozen=True)
class PublishedFigure:
    """One figure of a table, of several models.

    Attributes:
      experiment: a name of `knowledge.experiments`, which has its classes and counts.
      metric: as an evaluator names it.
      published: name of a model -> its figure.
      seen: models whose pre-training has pictures of the test set.
    """

    experiment: str
    metric: str
    published: Mapping[str, float]
    seen: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class PublishedTable:
    """A table.

    Attributes:
      name, about, source: its name here, what it is, where its figures were read.
      task: one of TASKS.
      decimals: to which figures are rounded, in each repeat.
      defects: what is known to be wrong with it, a sentence each.
      cells: its figures.
    """

    name: str
    about: str
    source: str
    task: str
    decimals: int
    defects: Sequence[str]
    cells: Sequence[PublishedFigure]


def names() -> list[str]:
    """All tables."""
    folder = resources.files("retina_jax.reproduction") / "tables"
    return sorted(path.name.removesuffix(".json") for path in folder.iterdir())


def load(name: str) -> PublishedTable:
    """The table of a name.

    Raises:
      InputError: for an unknown one.
    """
    if name not in names():
        raise InputError(f"There is no table '{name}'; there are {', '.join(names())}, and bench.")
    path = resources.files("retina_jax.reproduction") / "tables" / f"{name}.json"
    raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    cells = [PublishedFigure(**cell) for cell in raw.pop("cells")]
    return PublishedTable(name=name, cells=cells, **raw)
