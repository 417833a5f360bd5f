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
      train: the experiment whose records are trained on; '' where they are of the same.
      seen: models whose pre-training has pictures of the test set.
      of: the class that is told from the rest, or '' for all.
    """

    experiment: str
    metric: str
    published: Mapping[str, float]
    train: str = ""
    seen: Sequence[str] = ()
    of: str = ""


@dataclasses.dataclass(frozen=True)
class PublishedSplit:
    """What is told apart in a corpus as its authors hand it on, and in which parts of it.

    Attributes:
      corpus: its builder.
      field: the field of the labels.
      classes: name -> the labels that it joins.
      counts: split -> pictures of each class.
      template: the sentence of a class in zero-shot, with {} for its name; '' for the model's.
      knowledge: whose descriptions are prompts too, 'oct' for instance; '' for the model's.
    """

    corpus: str
    field: str
    classes: Mapping[str, Sequence[str]]
    counts: Mapping[str, tuple[int, ...]]
    template: str = ""
    knowledge: str = ""


@dataclasses.dataclass(frozen=True)
class PublishedTable:
    """A table.

    Attributes:
      name, about, source: its name here, what it is, where its figures were read.
      task: one of TASKS.
      decimals: to which figures are rounded, in each repeat.
      defects: what is known to be wrong with it, a sentence each.
      cells: its figures.
      sets: corpora that are read as their authors hand them on, by what is told apart.
      bootstraps: what was published is the median over so many draws of the test records.
      hashed: whether the hashes of all weights that it is of are known.
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
    hashed: bool = True


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


def of_sets(table: PublishedTable, names: Sequence[str]) -> PublishedTable:
    """A table with the figures of some of its sets only.

    Raises:
      InputError: for a set that it does not have.
    """
    known = list(dict.fromkeys(cell.experiment for cell in table.cells))
    if unknown := [name for name in names if name not in known]:
        raise InputError(
            f"{table.name} has no set '{unknown[0]}': --rows names some of {', '.join(known)}."
        )
    cells = [cell for cell in table.cells if cell.experiment in names]
    return dataclasses.replace(table, cells=cells)


def _split(counts: Mapping[str, Sequence[int]], **about: Any) -> PublishedSplit:
    return PublishedSplit(counts={name: tuple(found) for name, found in counts.items()}, **about)
