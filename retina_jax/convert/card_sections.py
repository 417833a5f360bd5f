"""What the card of a classifier says beside that of any model: evaluation, decision, provenance.

Sections and header follow the model cards of the Hugging Face hub (`model-index`) and what CLAIM
and TRIPOD+AI ask for. What nobody stated is 'not stated', never a guess.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from retina_jax.metrics import small_samples

UNKNOWN = "not stated"


def header(about: Mapping[str, Any]) -> list[str]:
    """Lines of YAML for the hub; JSON is YAML too."""
    if not about.get("decision"):
        return []
    # Hubs have no tag for a number of a picture.
    quantity = about["decision"]["task"] == "regression"
    lines = [] if quantity else ["pipeline_tag: image-classification"]
    trained = about["source"].get("trained") or ()
    names = sorted({spec["dataset"] for spec in trained if spec.get("dataset")})
    lines.append(f"datasets: {json.dumps(names)}")
    if about["evaluated"]:
        metrics = sorted({row["metric"] for row in about["evaluated"]})
        lines.append(f"metrics: {json.dumps(metrics)}")
        index = {"name": about["title"], "results": results(about)}
        lines.append(f"model-index: {json.dumps([index], ensure_ascii=False)}")
    return lines


def results(about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The entries of `model-index`, one for each evaluation, with intervals in `args`."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in about["evaluated"]:
        if row["value"] is None:
            continue
        kept = ("low", "high", "count", "groups")
        known = {key: row[key] for key in kept if row.get(key) is not None}
        entry = {"type": row["metric"], "name": row["metric"].replace("_", " "),
                 "value": row["value"], "args": known}  # fmt: skip
        found.setdefault(row["evaluator"], []).append(entry)
    data = about["source"].get("data") or {}
    dataset = {"type": next(iter(data), UNKNOWN), "name": next(iter(data), UNKNOWN)}
    if revision := next(iter(data.values()), None):
        dataset["revision"] = revision
    return [
        {"task": {"type": "image-classification", "name": name}, "dataset": dataset,
         "metrics": metrics}
        for name, metrics in found.items()
    ]  # fmt: skip


def sections(about: Mapping[str, Any]) -> dict[str, list[str]]:
    """Title -> lines; {} of a model that decides nothing."""
    if not about.get("decision"):
        return {}
    source = about["source"]
    return {
        "## Intended use and users": [f"- {UNKNOWN}", "- Research use only; no medical device."],
        "## Out of scope": ["- Diagnosis of patients; pictures unlike those it was trained on."],
        "## Training data": [
            *(
                f"- {spec.get('dataset')}, split {spec.get('split')}"
                for spec in source.get("trained", ())
            ),
            f"- Records of each class (share): {_shares(about)}",
            *(f"- {what}: {UNKNOWN}" for what in ("Dates", "Countries", "Devices", "Labellers")),
        ],
        "## Evaluation": _evaluation(about),
        "## Subgroups": [f"- {UNKNOWN}"],
        "## Calibration and thresholds": _decision(about["decision"]),
        "## Quality limits": _quality(about),
        "## Known failures": [f"- {UNKNOWN}"],
        "## How it was made": [
            f"- {what}: {_told(source.get(key))}"
            for what, key in (
                ("Command", "command"), ("Commit", "commit"), ("Versions", "versions"),
                ("Configuration", "configuration"), ("Records of each split", "split_hash"),
                ("Weights", "weights_hash"), ("Model", "model_hash"),
            )
        ],
    }  # fmt: skip


def _told(value: Any) -> str:
    if not value:
        return UNKNOWN
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return f"`{' '.join(value) if isinstance(value, list | tuple) else value}`"


def _shares(about: Mapping[str, Any]) -> str:
    pairs = zip(about["classes"], about["decision"]["prior"], strict=False)
    return ", ".join(f"{name} {share:.3f}" for name, share in pairs) or UNKNOWN


def _evaluation(about: Mapping[str, Any]) -> list[str]:
    if not about["evaluated"]:
        return [f"- {UNKNOWN}"]
    rows = ["| evaluation | metric | value | 95 % interval | n |", "|---|---|---|---|---|"]
    for row in about["evaluated"]:
        bounds = [row.get("low"), row.get("high")]
        interval = UNKNOWN if None in bounds else f"{bounds[0]:.3f} to {bounds[1]:.3f}"
        value = UNKNOWN if row["value"] is None else f"{row['value']:.3f}"
        rows.append(
            f"| {row['evaluator']} | {row['metric']} | {value} | {interval} | {row.get('count')} |"
        )
    internal = "All on splits of the data set that it was trained on: no external test."
    return [*rows, "", internal]


def _decision(decision: Mapping[str, Any]) -> list[str]:
    if decision["task"] == "regression":
        return ["- A number, in the unit of the training records; there is nothing to decide."]
    fitted, points = decision["calibration"], decision["operating_points"]
    lines = [f"- Decision: {decision['rule']}"]
    if fitted["method"] == "none":
        lines.append("- Calibration: none")
    else:
        lines.append(
            f"- Calibration: {fitted['method']} {_numbers(fitted['T'])}, on {fitted['n']} "
            f"validation records (negative log likelihood {fitted['nll_before']:.3f}, then "
            f"{fitted['nll_after']:.3f}); elsewhere untested"
        )
    for name, point in points.items():
        lines.append(f"- {operating_point(name, point)}")
    return lines if points else [*lines, "- threshold .5, not chosen for any purpose"]


def operating_point(name: str, point: Mapping[str, Any]) -> str:
    """A stored threshold (`decision.OperatingPoint` as plain data), with what it was chosen on."""
    reached = ""
    if point.get("sensitivity") is not None and point.get("specificity") is not None:
        reached = (
            f", on which its sensitivity is {point['sensitivity']:.3f} and its specificity "
            f"{point['specificity']:.3f}"
        )
    few = small_samples.few_events([point["n_pos"], point["n_neg"]])
    return (
        f"{name}: {' + '.join(point['labels'])} at {point['value']:.4f} ({point['rule']}, chosen "
        f"on {point['n_pos']} validation records with and {point['n_neg']} without{reached}"
        f"{'; few events' if few else ''})"
    )


def _numbers(value: float | Sequence[float]) -> str:
    values = [value] if isinstance(value, int | float) else value
    return ", ".join(f"{number:.3f}" for number in values)


def _quality(about: Mapping[str, Any]) -> list[str]:
    limits = about.get("quality") or {}
    return [f"- {name}: {low:.3g} to {high:.3g}" for name, (low, high) in limits.items()] or [
        f"- {UNKNOWN}"
    ]
