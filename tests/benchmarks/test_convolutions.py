"""The benchmark of convolutions runs, and both ways give one number; no time is asserted."""

import argparse

import pytest

from benchmarks import convolutions


@pytest.mark.fast
@pytest.mark.parametrize(
    ("kind", "shape"),
    [("depthwise", (8, 4, 3, 1)), ("depthwise", (8, 4, 5, 2)), ("pointwise", (8, 4, 6))],
)
def test_both_ways_are_of_the_same_numbers(kind, shape):
    options = argparse.Namespace(tiny=True, rows=2, turns=1, dtype="float32")
    line = convolutions.measured(kind, shape, options)
    assert line["apart"] < 1e-5 and line["ratio"]["median"] > 0
