"""The verdict of a study in the results of the run that it is of."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines import places
from data_pipelines.errors import InputError
from retina_jax import record
from retina_jax.saliency.verdict import Judgement
from retina_jax.scoring import summary


def into_results(
    out: Path, told: Judgement, about: Mapping[str, Any], classes: Sequence[str]
) -> str:
    """Writes a verdict into `results.json` where a study lies in the folder of a run.

    It is in each evaluation of the run's own model with these classes, as `summary.SALIENCY`.

    Args:
      out: the folder of the study.
      told: the verdict.
      about: 'weights_hash' and 'method' of the study.
      classes: those that the model tells apart.

    Returns:
      A sentence on where it is or why it is not; '' where no run has written results.

    Raises:
      InputError: where what a run wrote cannot be read.
    """
    path = out.resolve().parent / "results.json"
    if not path.is_file():
        return ""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        config = path.with_name("config.json")
        given = record.flat(json.loads(config.read_text("utf-8"))) if config.is_file() else {}
        own = (results.get("provenance") or {}).get("model") or {}
        evaluations = dict(results.get("evaluations") or {})
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path} and what lies beside it cannot be read ({error}).") from None
    if own.get("weights_hash") != about["weights_hash"]:
        return f"{path} is of other weights, so it has no word on these maps."
    specs = given.get("evaluators") or {}
    chosen = [name for name, entry in evaluations.items()
              if list(entry.get("classes") or ()) == list(classes)
              and not (specs.get(name) or {}).get("of")]  # fmt: skip
    if not chosen:
        return f"{path} has no evaluation of these classes, so it has no word on these maps."
    verdict = {"folder": out.name, **about, **dataclasses.asdict(told)}
    for name in chosen:
        evaluations[name][summary.SALIENCY] = summary.plain(verdict)
    places.write_whole(path, json.dumps(results, indent=1))
    return f"The verdict is in {path} too, as '{summary.SALIENCY}' of {', '.join(chosen)}."
