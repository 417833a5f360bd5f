"""The benchmark of frozen parts runs, and freezes what it says; no time is asserted."""

import argparse

import jax
import pytest

from benchmarks import frozen
from retina_jax.models.single_tower import Tower
from retina_jax.models.towers import TOWERS
from retina_jax.train.frozen import Frozen


@pytest.mark.slow
def test_a_line_has_what_is_saved():
    options = argparse.Namespace(tiny=True, rows=2, size=32, turns=1)
    line = frozen.measured("vit_b16", options)
    trained, first, kept = line["trained"], line["first"], line["frozen"]
    for name in ("optimizer_mib", "gflop"):
        assert kept[name] < first[name] < trained[name]
    assert kept["temporary_mib"] < trained["temporary_mib"]
    assert trained["ratio"]["median"] == 1 and kept["cpu_ms"]["median"] > 0


@pytest.mark.fast
@pytest.mark.parametrize(
    "name", [n for n, (s, *_) in frozen.SYSTEMS.items() if s["name"] in TOWERS]
)
def test_the_first_part_is_a_part(name):
    """Some of the tower's parameters, and not all."""
    spec, first, _ = frozen.SYSTEMS[name]
    model = Tower(key="image", tower=spec, classes=frozen.CLASSES)
    batch = frozen.photographs(1, 224)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), batch)["params"])
    mask = Frozen((*first, (".*", {}))).mask(shapes)
    found = jax.tree.leaves(mask["image"])
    assert any(found) and not all(found)
