"""The comparison with PyTorch: equal steps pass, unequal ones stop it; no time is asserted."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

import jax
import numpy as np
import pytest
from runs import python


@pytest.fixture(scope="module")
def benchmarks(root: Path) -> ModuleType:
    """The folder benchmarks/ as a package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root))
        import benchmarks.steps
        import benchmarks.train_step_gpu
    return benchmarks


@pytest.mark.fast
def test_only_equal_steps_are_compared(benchmarks: ModuleType) -> None:
    agreement = benchmarks.steps.agreement
    gradient = {"a": np.array([[3.0, 4.0]]), "b": np.array([12.0])}

    def changed(**parts: list) -> dict[str, np.ndarray]:
        return {**gradient, **{name: np.array(values) for name, values in parts.items()}}

    found = agreement(2.0, gradient, 2.0 * (1 + 9e-6), changed(b=[12.001]))
    assert found["loss_difference"] == pytest.approx(9e-6)
    assert found["gradient_cosine"] == pytest.approx(1) and found["gradient_norm_ratio"] > 1
    for loss, other in (
        (2.0 * (1 + 1.1e-5), gradient),
        (2.0 * (1 - 1.1e-5), gradient),
        (float("nan"), gradient),
        (2.0, changed(a=[[4.0, 3.0]])),
        (2.0, {name: values * 1.002 for name, values in gradient.items()}),
        (2.0, {name: -values for name, values in gradient.items()}),
        (2.0, {"a": gradient["a"]}),
    ):
        with pytest.raises(SystemExit, match="same steps|gradients for"):
            agreement(2.0, gradient, loss, other)


@pytest.mark.fast
def test_operations_are_those_that_open_clip_counts(benchmarks: ModuleType) -> None:
    # Its table of profiles has 41.09 thousand million for the forward pass of ViT-B-16, of which
    # 5.96 are the text tower's, and no maps of the embeddings.
    gpu = benchmarks.train_step_gpu
    found = gpu.pair_flops(224, gpu.VIT_B, gpu.BERT, 77)
    assert found / 3e9 == pytest.approx(41.09, rel=0.005)
    deeper = gpu.pair_flops(224, {**gpu.VIT_B, "depth": 24}, gpu.BERT, 77)
    assert (deeper - found) / 3e9 == pytest.approx(35.13, rel=0.01)


@pytest.mark.fast
def test_the_largest_batch_is_the_last_before_memory_ends(
    benchmarks: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = benchmarks.train_step_gpu.largest
    collected: list[None] = []  # seconds each, where other tests have left much to look through
    monkeypatch.setattr(
        benchmarks.train_step_gpu, "gc", SimpleNamespace(collect=lambda: collected.append(None))
    )

    def fits(most: int, message: str = "RESOURCE_EXHAUSTED: out of memory"):
        def step(rows: int) -> None:
            if rows > most:
                raise jax.errors.JaxRuntimeError(message)

        return step

    assert largest(fits(100), 16, 1024) == 64
    assert len(collected) == 4  # also after the batch that did not fit
    assert largest(fits(128), 16, 1024) == 128
    assert largest(fits(5000), 16, 1024) == 1024
    assert largest(fits(8), 16, 1024) == 0
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        largest(fits(100, "INTERNAL: a fault"), 16, 1024)


@pytest.mark.slow
def test_figures_of_a_card_are_made_on_any_device(
    benchmarks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = benchmarks.train_step_gpu
    small = {"width": 32, "depth": 1, "heads": 2, "mlp_dim": 64}
    sizes = {"VIT_B": {**gpu.VIT_B, **small}, "BERT": {**gpu.BERT, **small}, "ROWS": 4,
             "PIXELS": 32, "RESNET": {"name": "resnet", "depth": 18, "width": 4}, "RESNET_ROWS": 2,
             "RESNET_PIXELS": 32, "MICROBATCH": 2, "TILE": 2, "LARGEST": 4}  # fmt: skip
    for name, value in sizes.items():
        monkeypatch.setattr(gpu, name, value)
    monkeypatch.setattr(benchmarks.torch_twins, "torch", None)
    lines = {line["figure"]: line for line in gpu.figures(2, tmp_path)}
    assert set(lines) == {"gpu/vit_b16/ours", "gpu/largest batch/whole", "gpu/resnet50_512/ours",
                          "gpu/largest batch/tiles and microbatches"}  # fmt: skip
    assert lines["gpu/vit_b16/ours"]["pairs_per_second"] > 0
    assert lines["gpu/vit_b16/ours"]["mfu"] is None  # a processor's peak is not in the table
    assert lines["gpu/largest batch/whole"]["rows"] == 4
    assert lines["gpu/largest batch/tiles and microbatches"]["rows"] == 4


def test_open_clip_timm_torchvision_and_transformers_take_the_same_step(tmp_path: Path) -> None:
    for name in ("torch", "open_clip", "transformers"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed; see the extra 'benchmark'")
    output = tmp_path / "train_step.jsonl"
    done = python("-m", "benchmarks.train_step", "--tiny", "--rounds=2", f"--output={output}")
    assert done.returncode == 0, done.stderr[-3000:]
    first, *lines, last = [json.loads(line) for line in output.read_text().splitlines()]
    assert (first["figure"], last["figure"]) == ("environment", "load")
    assert [line["figure"] for line in lines] == [
        "step/vit_s16/ours", "step/vit_s16/open_clip", "step/vit_s16/plain, compiled",
        "step/resnet18/ours", "step/resnet18/plain",
    ]  # fmt: skip
    for line in lines:
        assert line["wall_s"]["median"] > 0
        if not line["figure"].endswith("/ours"):
            assert line["loss_difference"] <= 1e-5 and line["gradient_cosine"] > 0.9999
            assert line["met"] == (line["ratio_wall"]["median"] >= line["goal"] == 1.25)
            assert line["figure"].split("/")[2] in done.stderr
