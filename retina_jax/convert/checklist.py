"""The items of reporting checklists that a model's folder answers itself: `checklist.md`.

Items are those of TRIPOD+AI (Collins et al. 2024, BMJ 385:e078378), in words of our own. What
nobody but an author can say is 'author'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

FILE = "checklist.md"
AUTHOR = "author"
_HEAD = """# Checklist

What this folder says for the items of a reporting checklist, and where that stands. `author` is
what only an author can state; the wording of the items is in the checklists themselves.
"""
Facts = Mapping[str, Any]


def rows(about: Facts, results: Facts) -> list[tuple[str, str, str, str]]:
    """Item, what it asks for, what is known (AUTHOR if only an author knows), and where that is.

    Args:
      about: a `model_folder.Description` as plain data.
      results: the `results.json` of the run at that step, {} where there is none.
    """
    return [(item, what, said(about, results) or AUTHOR, place)
            for item, what, place, said in _TRIPOD]  # fmt: skip


def text(about: Facts, results: Facts) -> str:
    """The file, of what `rows` is given."""
    lines = [f"| {item} | {what} | {known} | {place if known != AUTHOR else ''} |"
             for item, what, known, place in rows(about, results)]  # fmt: skip
    same = [f"- {item}: as TRIPOD+AI {other}." for item, other in OTHERS]
    table = ["| item | what is asked | what is known | source |", "|---|---|---|---|", *lines]
    rest = "Every other item of STARD-AI (2025) and CLAIM (2024): author."
    return "\n".join([_HEAD, "## TRIPOD+AI", "", *table, "", "## STARD-AI and CLAIM", "", *same,
                      f"- {rest}"]) + "\n"  # fmt: skip


def _each(results: Facts, say: Callable[[Facts], str]) -> str:
    """'evaluator: what is said of it' of those evaluations of which anything is."""
    entries: Mapping[str, Facts] = results.get("evaluations", {})
    said = ((name, say(entry)) for name, entry in entries.items())
    return "; ".join(f"{name}: {what}" for name, what in said if what)


def _partition(about: Facts, results: Facts) -> str:
    del about

    def of(entry: Facts) -> str:
        data = entry.get("data", {})
        known = "by patient" if data.get("groups_known") else "patients not all known"
        return f"{data.get('name')} {data.get('split')}, {known}, split_hash {data['split_hash']}" \
            if data.get("split_hash") else ""  # fmt: skip

    return _each(results, of)


def _preparation(about: Facts, results: Facts) -> str:
    del results
    steps = [str(spec["name"]) for spec in about["transforms"]]
    prepared = ["prepared pictures"] if about["preparation"] else []
    return ", ".join([*prepared, *steps])


def _numbers(about: Facts, results: Facts) -> str:
    del about

    def of(entry: Facts) -> str:
        classes = ", ".join(f"{row['class']} {row['n']}" for row in entry.get("per_class", ()))
        data = entry.get("data", {})
        sizes = f"{data.get('records')} records of {data.get('groups')} patients"
        return f"{sizes} ({classes})" if classes else sizes

    return _each(results, of)


def _flow(about: Facts, results: Facts) -> str:
    del about

    def of(entry: Facts) -> str:
        flow = entry.get("flow", {})
        return ", ".join(f"{name} {count}" for name, count in flow.items() if count is not None)

    return _each(results, of)


def _scores(about: Facts, results: Facts) -> str:
    primary = {name: entry.get("primary") for name, entry in results.get("evaluations", {}).items()}
    found = [
        f"{row['evaluator']} {row['metric']} {row['value']:.3f}"
        + (f" ({row['low']:.3f} to {row['high']:.3f})" if row.get("low") is not None else "")
        for row in about["evaluated"]
        if row["value"] is not None and primary.get(row["evaluator"]) == row["metric"]
    ]
    return "; ".join(found)


def _measures(about: Facts, results: Facts) -> str:
    del results
    return ", ".join(sorted({str(row["metric"]) for row in about["evaluated"]}))


def _subgroups(about: Facts, results: Facts) -> str:
    del about
    return _each(results, lambda entry: ", ".join(entry.get("subgroups", {})))


def _thresholds(about: Facts, results: Facts) -> str:
    del results
    points: Mapping[str, Facts] = (about["decision"] or {}).get("operating_points", {})
    return "; ".join(
        f"{name}: {' + '.join(point['labels'])} >= {point['value']:.4f} ({point['rule']})"
        for name, point in points.items()
    )


def _calibration(about: Facts, results: Facts) -> str:
    del results
    fitted = (about["decision"] or {}).get("calibration", {"method": "none"})
    return "" if fitted["method"] == "none" else (
        f"{fitted['method']}, fitted on {fitted['n']} validation records")  # fmt: skip


def _imbalance(about: Facts, results: Facts) -> str:
    del results
    decision = about["decision"] or {}
    shares = ", ".join(f"{share:.3f}" for share in decision.get("prior", ()))
    return f"decision '{decision['rule']}', shares in training {shares}" if shares else ""


def _quality(about: Facts, results: Facts) -> str:
    del results
    return f"limits of {', '.join(about['quality'])}" if about.get("quality") else ""


def _specification(about: Facts, results: Facts) -> str:
    del results
    return f"`{about['model']['name']}`, weights {about['source'].get('weights_hash') or 'here'}"


_TRIPOD: tuple[tuple[str, str, str, Callable[[Facts, Facts], str]], ...] = (
    ("1-11", "title, background, data, participants, outcome", "", lambda *_: ""),
    ("12a", "how data were divided", "results.json: data", _partition),
    ("12b", "how predictors were prepared", "config.json: transforms", _preparation),
    ("12c", "model, tuning, internal validation", "recipe.json",
     lambda about, _: "all settings of the run" if about["source"].get("run") else ""),
    ("12e", "measures of performance", "config.json: evaluated", _measures),
    ("12g", "how predictions are made", "config.json: decision", lambda about, _: (
        f"rule '{about['decision']['rule']}'" if about["decision"] else "")),
    ("13", "class imbalance", "config.json: decision", _imbalance),
    ("15", "output and thresholds", "config.json: decision", _thresholds),
    ("16-19", "ethics, funding, protocol, involvement", "", lambda *_: ""),
    ("20a", "flow of records", "results.json: flow", _flow),
    ("21", "records and events", "results.json: per_class", _numbers),
    ("22", "the full model", "model.safetensors, config.json", _specification),
    ("23a", "performance with intervals", "config.json: evaluated", _scores),
    ("23a", "subgroups", "results.json: subgroups", _subgroups),
    ("24", "recalibration", "config.json: decision", _calibration),
    ("25-26", "interpretation, limitations", "", lambda *_: ""),
    ("27a", "pictures of poor quality", "quality.json", _quality),
)  # fmt: skip
OTHERS = (
    ("STARD-AI 19 (records that cannot be judged)", "27a and 20a"),
    ("STARD-AI 23 (fairness)", "23a"),
    ("STARD-AI 30 (cross-tabulation)", "21; `confusion` in results.json"),
    ("STARD-AI 40b (data)", "20a; `records/*.parquet` of the run, which stay with it"),
    ("CLAIM 20 (parts disjoint by patient)", "12a"),
    ("CLAIM 39 (confusion and failures)", "21; `confusion` in results.json"),
)
