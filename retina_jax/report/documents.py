"""What a page has for those who publish: a checklist of reporting, and the card of the model."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipelines.errors import InputError
from retina_jax.convert import card, checklist, folder_config
from retina_jax.report import gallery
from retina_jax.report.records import Run, StageRecord
from retina_jax.report.tables import Cell, PageTable, cells

_ONLY_OF_A_MODEL = ("config.json: decision", folder_config.QUALITY)
_UNKNOWN = "told by a converted model"
# Where a run itself has what a model's folder has.
_OF_A_RUN = {
    "recipe.json": "config.json",
    "config.json: evaluated": "results.json: scores",
    "model.safetensors, config.json": "checkpoints, config.json",
}
_ABSENT: dict[str, Any] = {
    **dict.fromkeys(("licence", "terms", "citation", "tokenizer", "text_length", "template",
                     "preparation", "decision", "quality")),
    **dict.fromkeys(("transforms", "classes", "evaluated"), ()),
    **dict.fromkeys(("ignored", "filled", "source"), {}),
}  # fmt: skip
Facts = Mapping[str, Any]
CardSection = tuple[str, tuple[str, ...], PageTable | None, str]


@dataclasses.dataclass(frozen=True)
class Documents:
    """Both, of a stage that was evaluated.

    Attributes:
      stage: its name, '' for a run without stages.
      checklist: items of TRIPOD+AI and what is known.
      others: sentences on items of other checklists.
      card: title, items of a list, a table or None, and any other text of each section; () where
        no model was named.
    """

    stage: str
    checklist: PageTable
    others: tuple[str, ...]
    card: tuple[CardSection, ...]


def documents(run: Run, model: Path | None = None) -> list[Documents]:
    """Those of every stage of a run that was evaluated; with `model`, of the stage it was made of.

    Args:
      run: the run.
      model: the folder of the model that it was converted to, or None.

    Raises:
      InputError: for a folder of no model, or of one with other results than the run's.
    """
    stages = [stage for stage in run.stages if stage.evaluations]
    if model is None:
        return [_made(stage, _of_stage(stage), ()) for stage in stages]
    about = _of_folder(model)
    told = [(row["evaluator"], row["metric"], row["value"]) for row in about.get("evaluated", ())]
    for stage in stages:
        own = {
            (row.evaluator, row.metric, gallery.number(row.score.value)) for row in stage.entries
        }
        if told and own.issuperset(told):
            of_model = card.sections(about, model.name).items()
            sections = (_section(title, lines) for title, lines in of_model)
            return [_made(stage, about, tuple(sections))]
    if not told:
        raise InputError(
            f"{model} was converted before its run was evaluated: convert the run again."
        )
    raise InputError(
        f"{model} has other results than {run.path}: name the folder that retina-jax convert "
        "--source=run made of this run, of the step that was evaluated."
    )


def _of_folder(model: Path) -> Facts:
    """What the folder of a model states, limits of quality too; {} or None for what it does not."""
    about = folder_config.read(model)
    if missing := [name for name in ("title", "model", "weights") if name not in about]:
        raise InputError(f"{model / folder_config.CONFIG} is damaged: it has no '{missing[0]}'.")
    with contextlib.suppress(OSError, ValueError):
        about["quality"] = json.loads((model / folder_config.QUALITY).read_text("utf-8"))
    return {**_ABSENT, **about}


def _section(title: str, lines: list[str]) -> CardSection:
    """Without the marks of Markdown; lines that are no items stay as they are."""
    plain = [line for block in lines for line in block.split("\n") if not line.startswith("```")]
    items = tuple(
        line.removeprefix("- ").replace("`", "") for line in plain if line.startswith("- ")
    )
    heads, *rows = [
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in plain if line.startswith("|") and not line.startswith("|---")
    ] or [()]  # fmt: skip
    made = tuple(cells(*row) for row in rows)
    table = PageTable(title.lstrip("# "), heads, made, texts=2) if rows else None
    rest = [line for line in plain if not line.startswith(("- ", "|"))]
    return title.lstrip("# "), items, table, "\n".join(rest).strip("\n")


def _of_stage(stage: StageRecord) -> Facts:
    """What a stage says of its model, in the words of a model's folder."""
    streams: Mapping[str, Facts] = stage.config.get("streams") or {}
    first = next(iter(streams.values()), {})
    return {
        "model": stage.config.get("model") or {"name": "a model"},
        "transforms": first.get("transforms", ()),
        "preparation": stage.config.get("preparation"),
        "decision": None,
        "source": {"run": stage.folder.name, **stage.model},
        "evaluated": [
            {"evaluator": row.evaluator, "metric": row.metric, **dataclasses.asdict(row.score),
             "value": gallery.number(row.score.value)}
            for row in stage.entries
        ],
    }  # fmt: skip


def _made(stage: StageRecord, about: Facts, made: tuple[CardSection, ...]) -> Documents:
    rows = []
    for item, what, known, place in checklist.rows(about, {"evaluations": stage.evaluations}):
        absent = known == checklist.AUTHOR
        if not made:
            known = _UNKNOWN if absent and place.startswith(_ONLY_OF_A_MODEL) else known
            place = _OF_A_RUN.get(place, place)
        answer = Cell(known.replace("`", ""), note="" if absent else place)
        rows.append((Cell(f"{item} · {what}"), answer))
    same = (f"{item}: as TRIPOD+AI {other}".replace("`", "") for item, other in checklist.OTHERS)
    others = (*same, f"every other item of STARD-AI (2025) and CLAIM (2024): {checklist.AUTHOR}")
    caption = f"TRIPOD+AI (2024); '{checklist.AUTHOR}' is what only an author can state"
    table = PageTable(caption, ("item", "what is known"), tuple(rows), texts=2)
    return Documents(stage.name, table, others, made)
