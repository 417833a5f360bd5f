"""Comparing a converted model with its PyTorch original, or with what was stored of it.

A test calls `original` in a function that makes the PyTorch module, and `check`, which converts
the original's state dict and compares features and gradients. Where PyTorch is not installed,
`stored` reads a state dict, inputs and outputs that `store` wrote.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from retina_jax.build import build
from retina_jax.convert import rules
from retina_jax.models import MODELS

FIXTURES = Path(__file__).parent / "fixtures"
RELATIVE = 1e-4  # of the largest number of an output, in float32
COSINE = 0.9999


def torch_or_skip() -> Any:
    """The module torch, with what torchvision needs to be imported beside a CPU build of it."""
    torch = pytest.importorskip("torch", exc_type=ImportError)
    try:
        import torchvision  # noqa: F401
    except ImportError:
        pass
    except RuntimeError:
        # A wheel of torchvision for another build lacks these operators, which nothing here calls.
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        torch_or_skip.library = library  # it undoes itself when it is collected
    torch.set_num_threads(1)
    return torch


def randomize(module: Any, seed: int = 0) -> Any:
    """Random parameters and statistics everywhere: no zero bias or unit gain hides a mistake."""
    torch = torch_or_skip()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if not value.is_floating_point() or name.endswith((".pe", "logit_scale", "attn_mask")):
                continue
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith("running_var"):
                value.copy_(noise.abs() + 0.5)
            elif value.ndim < 2:
                gain = any(part in name.lower() for part in ("norm", "bn", "ln_"))
                value.copy_(0.2 * noise + (1.0 if gain else 0.0))
            else:
                value.copy_(noise / value[0].numel() ** 0.5)
    return module


def tensors(module: Any) -> dict[str, np.ndarray]:
    """The state dict of a PyTorch module as numpy arrays."""
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


def apply(
    converted: rules.Converted, batch: Mapping[str, Any], method: str = "__call__", **keywords: Any
) -> Any:
    """What the converted model gives for a batch, with the updated statistics for train=True."""
    model = build(MODELS, converted.spec)
    mutable = ["batch_stats"] if keywords.get("train") else False
    return model.apply(converted.variables, batch, method=method, mutable=mutable, **keywords)


def close(ours: Any, theirs: Any, relative: float = RELATIVE) -> None:
    """Asserts that arrays differ by at most `relative` of their largest number."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    scale = np.abs(theirs).max()
    assert scale > 0
    assert np.abs(ours - theirs).max() <= relative * scale


def differ(rows: Any, least: float = 1e-3) -> None:
    """Asserts that no two rows are alike: an output that ignores its input matches nothing."""
    rows = np.asarray(rows).reshape(len(rows), -1)
    scale = np.abs(rows).max()
    for i in range(len(rows)):
        for j in range(i):
            assert np.abs(rows[i] - rows[j]).max() > least * scale


def same_gradients(
    source: rules.WeightFormat,
    converted: rules.Converted,
    loss: Callable[[Any, Mapping[str, Any]], Any],
    module: Any,
    prepared: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None,
) -> None:
    """Asserts that our gradient, in their layout, points where theirs does, tensor by tensor.

    Args:
      source: of the converted model.
      converted: the model.
      loss: (our module, variables) -> the number that `module` was differentiated by.
      module: the PyTorch original after `backward()`.
      prepared: names of `module` -> names in the source's layout; `source.prepare` by default.
    """
    model = build(MODELS, converted.spec)
    others = {k: v for k, v in converted.variables.items() if k != "params"}
    of = jax.grad(lambda params: loss(model, {"params": params, **others}))
    gradient = jax.jit(of)(converted.variables["params"])
    # Not a model's values, but they go the same way; what has no gradient is zero.
    still = jax.tree.map(np.zeros_like, others)
    ours = rules.export(source, converted.spec, {"params": gradient, **still})
    theirs = {
        name: np.zeros(p.shape, np.float32) if p.grad is None else p.grad.numpy()
        for name, p in module.named_parameters()
    }
    theirs = (prepared or source.prepare)(theirs)
    used = {name for name, value in theirs.items() if np.abs(value).max() > 0}
    assert used, "the original has no gradient"
    largest = max(np.linalg.norm(value) for value in theirs.values())
    for name in sorted(used):
        a, b = ours[name].ravel(), theirs[name].ravel()
        if np.linalg.norm(b) < 1e-6 * largest:
            continue  # rounding: the bias of a map to keys has no gradient but that
        cosine = a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-30)
        assert cosine > COSINE, f"{name}: cosine {cosine}"
        assert np.linalg.norm(a) == pytest.approx(np.linalg.norm(b), rel=1e-3), name


def round_trip(source: rules.WeightFormat, state: Mapping[str, np.ndarray], **options: Any) -> None:
    """Asserts that ours -> their layout -> ours keeps every bit, and all of theirs come back."""
    first = rules.convert(source, state, **options)
    back = rules.export(source, first.spec, first.variables)
    kept = {k: v for k, v in source.prepare(state).items() if k not in first.ignored}
    assert set(kept) <= set(back)
    for name, value in kept.items():
        np.testing.assert_array_equal(back[name], np.asarray(value, np.float32), err_msg=name)
    again = rules.convert(source, back, **options)
    assert again.spec == first.spec
    one, two = rules.flatten(first.variables), rules.flatten(again.variables)
    assert sorted(one) == sorted(two)
    for name, value in one.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, two[name], err_msg=name)


def same_tree(converted: rules.Converted, image_size: int | None = None) -> None:
    """Asserts that the variables are those that the model initialises."""
    expected = rules.abstract(converted.spec, image_size)
    assert rules.shapes_of(rules.flatten(converted.variables)) == expected


def store(name: str, state: Mapping[str, np.ndarray], **arrays: np.ndarray) -> Path:
    """Writes fixtures/<name>.npz: a state dict, and inputs and outputs by keyword.

    Numbers of the state dict are kept as they are; make the model tiny instead.
    """
    FIXTURES.mkdir(exist_ok=True)
    path = FIXTURES / f"{name}.npz"
    np.savez_compressed(path, **{f"state/{k}": v for k, v in state.items()}, **arrays)
    return path


def stored(name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The state dict, and the other arrays, of fixtures/<name>.npz."""
    with np.load(FIXTURES / f"{name}.npz") as found:
        arrays = dict(found)
    state = {k.removeprefix("state/"): v for k, v in arrays.items() if k.startswith("state/")}
    return state, {k: v for k, v in arrays.items() if not k.startswith("state/")}
