"""What whole steps move, of programs that are compiled and not run."""

import json

from runs import program

# Of a process of its own: the benchmark asks a program, which has flags.
_STEPS = """
import json

from benchmarks import roofline

vit = {"name": "vit", "width": 8, "depth": 1, "heads": 1, "mlp_dim": 8}
roofline.STEPS = {
    attention: ("flair:smoke", {"model.towers.image": {**vit, "attention": attention}})
    for attention in ("cudnn", "xla")
}
for line in roofline.lines(["cudnn", "xla"], "cpu:1", largest=2):
    print(json.dumps(line))
"""


def test_a_step_that_a_processor_cannot_have_stops_no_other():
    done = program("-c", _STEPS)
    assert done.returncode == 0, done.stderr[-2000:]
    refused, told = map(json.loads, done.stdout.splitlines()[-2:])
    assert refused["figure"] == "roofline/cudnn" and "needs an NVIDIA GPU" in refused["refused"]
    assert told["figure"] == "roofline/xla" and "mfu" not in told
    assert told["tflop"] > 0 and told["traffic_gb"] > sum(told["kernels_gb"].values()) > 0
