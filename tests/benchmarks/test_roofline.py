"""What whole steps move, of programs that are compiled and not run."""

import pytest

from benchmarks import roofline

_VIT = {"name": "vit", "width": 8, "depth": 1, "heads": 1, "mlp_dim": 8}
_STEPS = {
    attention: ("flair:smoke", {"model.towers.image": {**_VIT, "attention": attention}})
    for attention in ("cudnn", "xla")
}


def test_a_step_that_a_processor_cannot_have_stops_no_other(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(roofline, "STEPS", _STEPS)
    monkeypatch.setattr(roofline.devices, "prepare", lambda _: None)  # of this process, for good
    _, refused, told = roofline.lines(["cudnn", "xla"], "cpu:1", largest=2)
    assert refused["figure"] == "roofline/cudnn" and "needs an NVIDIA GPU" in refused["refused"]
    assert told["figure"] == "roofline/xla" and "mfu" not in told
    assert told["tflop"] > 0 and told["traffic_gb"] > sum(told["kernels_gb"].values()) > 0
