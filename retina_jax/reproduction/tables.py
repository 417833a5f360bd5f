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
      experiment: one of the `sets` of its table, or a name of `knowledge.experiments`, which has
        its classes and counts.
      metric: as an evaluator names it.
      published: name of a model -> its figure.
      seen: models whose pre-training has pictures of the test set.
      of: the class that is told from the rest, or '' for all.
    """

    experiment: str
    metric: str
    published: Mapping[str, float]
    seen: Sequence[str] = ()
    of: str = ""


@dataclasses.dataclass(frozen=True)
class PublishedSplit:
    """What is told apart in a corpus that has a published split.

    Attributes:
      corpus: its builder.
      field: the field of the labels.
      classes: name -> the labels that it joins.
      counts: split -> pictures of each class.
    """

    corpus: str
    field: str
    classes: Mapping[str, Sequence[str]]
    counts: Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class PublishedTable:
    """A table.

    Attributes:
      name, about, source: its name here, what it is, where its figures were read.
      task: one of TASKS.
      decimals: to which figures are rounded, in each repeat.
      defects: what is known to be wrong with it, a sentence each.
      cells: its figures.
      sets: corpora with a published split, by what is told apart.
      bootstraps: what was published is the median over so many draws of the test records.
    """

    name: str
    about: str
    source: str
    task: str
    decimals: int
    defects: Sequence[str]
    cells: Sequence[PublishedFigure]
    sets: Mapping[str, PublishedSplit] = dataclasses.field(default_factory=dict)
    bootstraps: int = 0


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
    sets = {key: _split(**value) for key, value in raw.pop("sets", {}).items()}
    return PublishedTable(name=name, cells=cells, sets=sets, **raw)


def _split(counts: Mapping[str, Sequence[int]], **about: Any) -> PublishedSplit:
    return PublishedSplit(counts={name: tuple(found) for name, found in counts.items()}, **about)
