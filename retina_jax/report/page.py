"""Assembles the page: what the files say, as plain values for the template."""

from __future__ import annotations

import importlib.resources
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import retina_jax
from data_pipelines import places
from data_pipelines.errors import InputError
from retina_jax.metrics import subgroups
from retina_jax.report import (
    curves,
    documents,
    evaluated,
    from_records,
    gallery,
    headline,
    records,
    reproduced,
    results,
    saliency,
)
from retina_jax.report.tables import Cell, PageTable, cells, listed, number

PAGE = "report.html"
_MANY_BYTES, _MOST_BYTES = 5_000_000, 10_000_000
_OF_ONE, _KICKER = "retina_jax · one run".encode(), 20_000  # how a page of one run begins
_logger = logging.getLogger(__name__)
_EXAMPLES, _WAIT = "train/examples_per_second", "train/data_wait"
_SKIPPED = "train/skipped_steps"


def write(
    workdirs: Sequence[Path],
    output: Path,
    *,
    common: float | None = None,
    decision: str = "",
    model: Path | None = None,
) -> Path:
    """Writes one self-contained HTML page about one run, or comparing several.

    The page loads nothing from anywhere: style, drawings and pictures are inline, there is no
    script, and a content security policy forbids the rest. The same files give the same page.

    Args:
      workdirs: work directories of runs; the first is the one that the others are compared with.
      output: the file to write; its directory is made.
      common: compare runs of other test sets on the records that both have, if these are at least
        this share of the smaller set; None does not.
      decision: what a probability of two classes decides, 'refer' for instance, for a curve of its
        net benefit; '' draws none.
      model: the folder of the model that a single run was converted to, whose card the page then
        has; None for none.

    Returns:
      `output`.

    Raises:
      InputError: a directory in which no run has written, records of another version or of other
        results, runs without a common record, a model of another run, an output that belongs to a
        run, or a place that cannot be written.
    """
    folders, output = [Path(workdir) for workdir in workdirs], Path(output)
    if model is not None and len(folders) > 1:
        raise InputError("A page of several runs has no model card; name one run.")
    runs = [records.load(folder) for folder in folders]
    _check_output(folders, output)
    text = _small(runs, common, decision, model)
    with places.written(output.parent):
        output.parent.mkdir(parents=True, exist_ok=True)
        places.write_whole(output, text)
    return output


def _check_output(folders: Sequence[Path], output: Path) -> None:
    """Raises InputError where a page would take the place of a run's page or of its files."""
    where, own = output.resolve(), folders[0].resolve() if len(folders) == 1 else None
    of_run = any(where.is_relative_to(folder.resolve()) for folder in folders) or any(
        (where.parent / name).is_file() for name in records.FILES
    )
    others = where.name == PAGE and where.parent != own
    single = own is None and where.is_file() and _OF_ONE in where.read_bytes()[:_KICKER]
    if where.is_dir() or single or (of_run and (others or where.suffix != ".html")):
        raise InputError(
            f"{output} is, or would take the place of, what a run has written: name another file "
            "as --output, ending in .html and best outside of all runs."
        )


def _small(
    runs: Sequence[records.Run], common: float | None, decision: str, model: Path | None
) -> str:
    """A page that can be sent: without pictures where it has more than _MOST_BYTES with them."""
    text = render(runs, common, decision, model)
    size = len(text.encode("utf-8"))
    if size > _MOST_BYTES:
        _logger.warning("A page of %.0f MB is too large, so it has no pictures.", size / 1e6)
        return render(runs, common, decision, model, from_records.Pictures(0))
    if size > _MANY_BYTES:
        _logger.warning("The page has %.1f MB, which is much to send.", size / 1e6)
    return text


def render(
    runs: Sequence[records.Run],
    common: float | None = None,
    decision: str = "",
    model: Path | None = None,
    pictures: from_records.Pictures | None = None,
) -> str:
    """The page as HTML text; see `write`. `pictures` is how many it may have, or None."""
    files = importlib.resources.files("retina_jax.report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(files.joinpath("page.html").read_text("utf-8"))
    several = len(runs) > 1
    labels = _labels(runs)
    verdicts = [] if several else headline.verdicts(runs[0])
    pictures = pictures or from_records.Pictures()
    sections = [evaluated.section(verdict, pictures, decision) for verdict in verdicts]
    studies = [] if several else saliency.studies(runs[0], pictures)
    return template.render(
        title=" vs ".join(labels) if several else runs[0].name,
        style=Markup(files.joinpath("page.css").read_text("utf-8")),
        several=several,
        number=number,
        version=retina_jax.__version__,
        runs=[
            _run(index, run, label, pictures)
            for index, (run, label) in enumerate(zip(runs, labels, strict=True))
        ],
        verdicts=verdicts,
        sections=[section for section in sections if section is not None],
        studies=studies,
        tasks=results.compared(runs, labels, common) if several else [],
        compared=_compared(runs, labels) if several else None,
        figures=results.every_figure(runs, labels),
        stages=curves.stages(runs, labels),
        logged=any(stage.rows for run in runs for stage in run.stages),
        differences=_differences(runs, labels) if several else None,
        beside=[] if several else [t for s in runs[0].stages for t in reproduced.tables(s)],
        documents=[] if several else documents.documents(runs[0], model),
    )


def _labels(runs: Sequence[records.Run]) -> list[str]:
    """Names that tell the runs apart: the folder is added to a name that two of them have."""
    names = [run.name for run in runs]
    return [f"{run.name} ({run.path})" if names.count(run.name) > 1 else run.name for run in runs]


def _run(
    index: int, run: records.Run, label: str, pictures: from_records.Pictures
) -> dict[str, Any]:  # fmt: skip
    configs = [
        {
            "title": " · ".join(part for part in (label, stage.name, "config.json") if part),
            "text": json.dumps(stage.config, indent=2, ensure_ascii=False, default=str),
        }
        for stage in run.stages
        if stage.config
    ]
    return {
        "index": index,
        "label": label,
        "path": run.path,
        "sentence": _sentence(run),
        "facts": _facts(run),
        "configs": configs,
        "provenance": _provenance(run),
        "notices": [notice for stage in run.stages for notice in _notices(stage)],
        "galleries": _galleries(run, pictures),
    }


def _galleries(
    run: records.Run, pictures: from_records.Pictures
) -> list[tuple[str, list[gallery.Example], int]]:
    """Evaluators with their examples, and how many more there are than a page may have pictures."""
    found: dict[str, list[gallery.Example]] = {}
    for example in (example for stage in run.stages for example in stage.gallery):
        found.setdefault(example.evaluator.replace("_", " "), []).append(example)
    made: list[tuple[str, list[gallery.Example], int]] = []
    for name, every in found.items():
        shown: list[gallery.Example] = []
        for example in every:
            count = sum(card.image is not None for card in (example.query, *example.answers))
            if count <= pictures.left:
                pictures.left -= count
                shown.append(example)
        made.append((name, shown, len(every) - len(shown)))
    return made


def _provenance(run: records.Run) -> list[PageTable]:
    """How results came about, a table a stage, and the hashes of what was scored."""
    made: list[PageTable] = []
    for stage in run.stages:
        told = _flatten(stage.provenance, "") if stage.provenance else []
        where = f" of {stage.name}" if stage.name else ""
        if told:
            made.append(listed(f"How it was made{where}", [(k, v.strip('"')) for k, v in told]))
        data = [(name, entry["data"]) for name, entry in stage.evaluations.items()
                if isinstance(entry.get("data"), dict)]  # fmt: skip
        names = ("name", "split", "licence", "test_hash", "images_hash", "split_hash")
        known = [name for name in names if any(found.get(name) for _, found in data)]
        rows = tuple(
            cells(evaluator, *(_short(name, found.get(name)) for name in known))
            for evaluator, found in data
        )
        if rows:
            heads = ("evaluation", *(name.replace("_", " ") for name in known))
            made.append(PageTable(f"What was scored{where}", heads, rows, texts=len(heads)))
    return made


def _short(name: str, value: Any) -> str:
    """The first digits of a hash, anything else as it is; '–' for nothing."""
    return str(value or "–")[: 12 if name.endswith("_hash") else None]


def _compared(runs: Sequence[records.Run], labels: Sequence[str]) -> PageTable:
    """What was trained and how, a row a run."""
    facts = [_facts(run) for run in runs]
    seeds = [
        " + ".join(str(stage.config["seed"]) for stage in run.stages if "seed" in stage.config)
        for run in runs
    ]
    saw = [_saw(run) for run in runs]
    heads = ("run", "trained", *(name for name, _ in facts[0]), "seed", "saw test records of")
    rows = tuple(
        (Cell(label), Cell(_sentence(run)), *(Cell(value) for _, value in of_run),
         Cell(seed or "–"), Cell(seen))
        for label, run, of_run, seed, seen in zip(labels, runs, facts, seeds, saw, strict=True)
    )  # fmt: skip
    return PageTable("What was trained, and on what", heads, rows, texts=2)


def _saw(run: records.Run) -> str:
    """Evaluations whose test records a run was trained on, and those of which nobody knows."""
    seen = [name for stage in run.stages for name in stage.overlaps]
    told = [(name, said) for stage in run.stages
            for name, said in (stage.model.get("seen_test_set") or {}).items()]  # fmt: skip
    seen += [name for name, said in told if said == "yes" and name not in seen]
    open_ones = [name for name, said in told if said == "unknown"]
    not_known = f"not known: {', '.join(open_ones)}" if open_ones else ""
    return "; ".join(filter(None, (", ".join(seen), not_known))) or "none known"


def _notices(stage: records.StageRecord) -> list[str]:
    skipped = stage.series(_SKIPPED)[1]
    if not skipped or not skipped[-1]:
        return list(stage.notices)
    where = f"Stage {stage.name}: " if stage.name else ""
    return [
        *stage.notices,
        f"{where}{skipped[-1]:.0f} steps were skipped because their loss or "
        "gradient was not finite.",
    ]


def _sentence(run: records.Run) -> str:
    """What was trained: the models and terms that the configs name."""
    parts = []
    for stage in run.stages:
        model = " ".join(_names(stage.config.get("model"))) or "a model"
        terms = _names(stage.config.get("objectives"))
        text = f"{model} trained with {', '.join(terms)}" if terms else model
        parts.append(f"{stage.name}: {text}" if stage.name else text)
    return "; then ".join(parts)


def _names(value: Any) -> list[str]:
    """The names of a spec, or of several in a mapping or a list, each once."""
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        return [value["name"]]
    several = value.values() if isinstance(value, Mapping) else value
    if not isinstance(value, Mapping | list | tuple):
        return []
    return list(dict.fromkeys(name for item in several for name in _names(item)))


def _facts(run: records.Run) -> list[tuple[str, str]]:
    steps = [stage.step for stage in run.stages if stage.step is not None]
    seconds = sum(stage.seconds for stage in run.stages)
    rate = _mean(run, _EXAMPLES)
    wait = _mean(run, _WAIT)
    return [
        ("steps", " + ".join(f"{step:,}" for step in steps) or "–"),
        ("wall time", _duration(seconds) if seconds else "–"),
        (
            "examples per second",
            "–" if rate is None else f"{rate:,.3g}" if rate < 100 else f"{rate:,.0f}",
        ),
        ("waiting for data", "–" if wait is None else f"{100 * wait:.1f} %"),
    ]


def _mean(run: records.Run, key: str) -> float | None:
    """Mean of a metric over the last stage that logged it, without its first line (compiling)."""
    for stage in reversed(run.stages):
        values = stage.series(key)[1]
        if values:
            kept = values[1:] or values
            return sum(kept) / len(kept)
    return None


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _differences(runs: Sequence[records.Run], labels: Sequence[str]) -> PageTable:
    """Dotted config keys whose values are not the same in all runs, with the values."""
    flat = [
        {key: value for stage in run.stages for key, value in _flatten(stage.config, stage.name)}
        for run in runs
    ]
    keys = sorted({key for config in flat for key in config}, key=subgroups.order)
    rows = [(key, *(config.get(key, "–") for config in flat)) for key in keys]
    made = tuple(cells(*row) for row in rows if len(set(row[1:])) > 1)
    heads = ("option", *labels)
    return PageTable("What differs in the configs", heads, made, texts=len(heads))


def _flatten(value: Any, prefix: str) -> list[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        return [
            pair
            for key, item in value.items()
            for pair in _flatten(item, f"{prefix}.{key}" if prefix else str(key))
        ]
    return [(prefix, json.dumps(value, ensure_ascii=False, default=str))]
