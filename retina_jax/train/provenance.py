"""How results came about: of which parameters, by which program, on which machine."""

# A library that states none of its types, or only a part:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

import retina_jax
from retina_jax.scoring import hashes
from retina_jax.train import averaging, environment, run_directory
from retina_jax.types import Experiment, TrainState

_BOOTSTRAP_SEED = 0


def of(experiment: Experiment, state: TrainState) -> dict[str, Any]:
    """What `results.json` says under 'provenance'; what a machine lacks is None.

    Args:
      experiment: what was run.
      state: what was evaluated; on every process whole, or its weights have no hash.
    """
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
        "versions": {"python": facts.get("python"), **(facts.get("versions") or {})},
        "device": {
            "platform": jax.default_backend(),
            "kinds": facts.get("devices"),
            "processes": facts.get("processes"),
        },
        "seeds": {"run": experiment.settings.seed, "bootstrap": _BOOTSTRAP_SEED},
        "model": {
            "weights_hash": _weights_hash(averaging.averaged(state)),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
            "seen_test_set": {name: "yes" for name in experiment.overlaps},
        },
    }


def _weights_hash(state: TrainState) -> str | None:
    variables: Mapping[str, Any] = {"params": state.params, **state.model_state}
    leaves = jax.tree.leaves(variables)
    if not all(getattr(leaf, "is_fully_addressable", True) for leaf in leaves):
        return None
    return hashes.weights_hash(variables)
