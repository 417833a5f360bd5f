"""Pictures, and one training step of pairs, for PyTorch's originals and for ours."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from convert import parity

from retina_jax.losses import contrastive


def photographs(size: int, count: int = 4, seed: int = 0) -> np.ndarray:
    """u8[count size size 3], each with its own colours and shapes: noise is alike everywhere."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, size // 4, size // 4, 3), np.uint8)
    return np.repeat(np.repeat(coarse, 4, axis=1), 4, axis=2)


def normalized(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> Any:
    """The same as PyTorch's originals take it, f32[... 3 H W] of torch."""
    torch = parity.torch_or_skip()
    pixels = (images.astype(np.float32) / 255 - np.float32(mean)) / np.float32(std)
    return torch.tensor(np.moveaxis(pixels, -1, -3).copy())


def texts(length: int, vocab: int, end: int, count: int = 4, seed: int = 0) -> dict[str, Any]:
    """Token ids [count length] of several lengths, `end` at the end of each, 0 after it."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, vocab - 2, (count, length)).astype(np.int32)
    lengths = length - np.arange(count)
    mask = np.arange(length) < lengths[:, None]
    ids = np.where(mask, ids, 0).astype(np.int32)
    ids[np.arange(count), lengths - 1] = end
    return {"text": ids, "text_mask": mask}


def torch_loss(a: Any, b: Any, scale: Any) -> Any:
    """Cross-entropy of scaled similarities both ways, as CLIP's own code has it."""
    torch = parity.torch_or_skip()
    logits, labels = scale * a @ b.T, torch.arange(len(a))
    entropy = torch.nn.functional.cross_entropy
    return (entropy(logits, labels) + entropy(logits.T, labels)) / 2


def loss_of(out: Any) -> Any:
    """The same of the outputs of our `dual`, by the loss that trains it."""
    return contrastive.softmax(out["z"]["image"], out["z"]["text"], out["scale"])


def loss(model: Any, variables: Any, batch: Any) -> Any:
    """The same of our `dual`."""
    return loss_of(model.apply(variables, batch))
