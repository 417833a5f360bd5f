"""How results came about: of which parameters, by which program, on which machine."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax

import retina_jax
from retina_jax.scoring import hashes
from retina_jax.train import averaging, environment, run_directory
from retina_jax.types import Experiment, Results, TrainState

_BOOTSTRAP_SEED = 0


def of(experiment: Experiment, state: TrainState, results: Mapping[str, Results]) -> dict[str, Any]:
    """What `results.json` says under 'provenance'; what a machine lacks is None.

    Args:
      experiment: what was run.
      state: what was evaluated; on every process whole, or its weights have no hash.
      results: what its evaluators returned.
    """
    weights = _weights_hash(averaging.averaged(state))
    about: dict[str, Any] = {}
    if experiment.about is not None:
        about = experiment.about(run_directory.resolved_settings(experiment), weights)
    seconds = [result.seconds for result in results.values() if result.seconds is not None]
    facts = environment.facts()
    commit = facts.get("commit") or ""
    identity = run_directory.identity(experiment, int(state.step))
    return {
        "library": retina_jax.__version__,
        "commit": commit.rstrip("+") or None,
        "dirty": commit.endswith("+") if commit else None,
        "command": facts.get("command"),
        "config_hash": identity["configuration"],
        "data": identity["data"],
        "started": facts.get("time"),
        "seconds": round(sum(seconds), 3) if seconds else None,
        "versions": {"python": facts.get("python"), **(facts.get("versions") or {})},
        "device": {
            "platform": jax.default_backend(),
            "kinds": facts.get("devices"),
            "count": jax.device_count(),
            "processes": facts.get("processes"),
        },
        "precision": _precision(experiment, state),
        "seeds": {"run": experiment.settings.seed, "bootstrap": _BOOTSTRAP_SEED},
        "model": {
            "weights_hash": weights,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
            **about,
        },
    }


def _precision(experiment: Experiment, state: TrainState) -> str:
    """'bfloat16/float32': what towers compute in, several joined by '+', and of the parameters."""
    computed = set(_dtypes(run_directory.resolved_settings(experiment)["model"])) or {"float32"}
    stored = {str(leaf.dtype) for leaf in jax.tree.leaves(state.params)}
    return f"{'+'.join(sorted(computed))}/{'+'.join(sorted(stored))}"


def _dtypes(spec: Mapping[str, Any]) -> Iterator[str]:
    """The dtypes that a model's spec and those inside it name."""
    if spec.get("dtype"):
        yield str(spec["dtype"])
    for value in spec.values():
        if isinstance(value, Mapping):
            yield from _dtypes(value)


def _weights_hash(state: TrainState) -> str | None:
    variables: Mapping[str, Any] = {"params": state.params, **state.model_state}
    leaves = jax.tree.leaves(variables)
    if not all(getattr(leaf, "is_fully_addressable", True) for leaf in leaves):
        return None
    return hashes.weights_hash(variables)
