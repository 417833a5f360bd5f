"""Maps of a model: gradient times activation of the last cells of a tower (Grad-CAM).

Selvaraju et al. 2017: the map is ReLU(sum_k w_k A_k), where A_k are the channels of the last
cells before they are pooled, and w_k the mean over cells of d score / d A_k.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.errors import InputError
from data_pipelines.images import functional
from retina_jax.types import Array, Batch

# Collection -> tree of the arrays of a model.
Variables = Mapping[str, Any]


def combine(cells: Array, gradients: Array) -> Array:
    """ReLU(sum_k w_k A_k).

    Args:
      cells: A, f[B ... F], of any number of axes of space.
      gradients: d score / d A, of the same shape.

    Returns:
      f32[B ...].
    """
    space = tuple(range(1, cells.ndim - 1))
    weights = gradients.mean(axis=space, keepdims=True)
    return jax.nn.relu((weights * cells).sum(axis=-1)).astype(jnp.float32)


def explainer(
    model: nn.Module, key: str, score: Callable[[nn.Module, Batch], Array]
) -> Callable[[Variables, Batch, Array], tuple[Array, Array]]:
    """What makes the maps of a model.

    Args:
      model: has a tower named `key` that pools its cells by their mean: a ResNet, an EfficientNet,
        or a ViT with pool='mean'.
      score: (bound model, batch) -> f[B C].

    Returns:
      (variables, batch, classes i32[B]) -> maps f32[B h w], of the scores of these classes, and
      the scores f32[B C]. The model is in evaluation mode.
    """

    def run(variables: Variables, batch: Batch, classes: Array) -> tuple[Array, Array]:
        seen: dict[str, Array] = {}

        def scores(added: Array | None) -> Array:
            def replaced(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext):
                out = call(*args, **kwargs)
                if context.module.name != key or context.method_name != "__call__":
                    return out
                cells = _cells(out, context.module)
                seen["cells"] = cells
                cells = cells if added is None else cells + added
                return {**out, "pooled": cells.mean(axis=tuple(range(1, cells.ndim - 1)))}

            def ask(bound: nn.Module) -> Array:
                return score(bound, batch)

            with nn.intercept_methods(replaced):
                return nn.apply(ask, model)(variables)

        def chosen(added: Array) -> Array:
            return jnp.take_along_axis(scores(added), classes[:, None], axis=1).sum()

        found = scores(None)
        gradients = jax.grad(chosen)(jnp.zeros_like(seen["cells"]))
        return combine(seen["cells"], gradients), found

    return jax.jit(run)


def _cells(out: Mapping[str, Array], tower: nn.Module) -> Array:
    """f32[B h w F], the cells that a tower pools by their mean."""
    if "map" in out:
        return out["map"].astype(jnp.float32)
    if "tokens" in out and getattr(tower, "pool", None) == "mean":
        tokens = out["tokens"].astype(jnp.float32)
        side = round(tokens.shape[1] ** 0.5)
        if side * side == tokens.shape[1]:
            return tokens.reshape(len(tokens), side, side, -1)
    raise InputError(
        "A map needs a tower that pools its cells by their mean, a ResNet, an EfficientNet or a "
        "ViT with pool='mean' on squares; this one pools otherwise."
    )


def enlarged(saliency: np.ndarray, height: int, width: int) -> np.ndarray:
    """A map f[h w] at the size of its picture, bilinear."""
    from PIL import Image

    picture = Image.fromarray(np.asarray(saliency, np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR)).clip(min=0)


def by_head(bound: nn.Module, batch: Batch) -> Array:
    """The logits of a classifier, f[B C]."""
    return bound.classify(batch)["logits"]  # pyright: ignore[reportAttributeAccessIssue]


def by_texts(prototypes: np.ndarray, scale: float) -> Callable[[nn.Module, Batch], Array]:
    """scale (cos(x, p_c) - the mean over the other classes), f[B C].

    The bare cosine also rises for what all prompts share.

    Args:
      prototypes: f[C D], those of the classes.
      scale: the inverse temperature.
    """

    def score(bound: nn.Module, batch: Batch) -> Array:
        (z,) = bound.embed(batch).values()  # pyright: ignore[reportAttributeAccessIssue]
        found = scale * z @ jnp.asarray(prototypes).T
        others = (found.sum(1, keepdims=True) - found) / max(found.shape[1] - 1, 1)
        return found - others

    return score


def edges(picture: np.ndarray) -> np.ndarray:
    """Sobel magnitude f[H W] of the green channel of u8[H W 3]."""
    from scipy import ndimage

    green = functional.blur(picture, 1.0)[..., 1].astype(np.float64)
    return np.hypot(ndimage.sobel(green, 0), ndimage.sobel(green, 1))


def centre(height: int, width: int) -> np.ndarray:
    """A Gaussian f[H W] in the middle, its deviation a sixth of the side."""
    y = (np.arange(height) - (height - 1) / 2) / (height / 6)
    x = (np.arange(width) - (width - 1) / 2) / (width / 6)
    return np.exp(-(y[:, None] ** 2 + x[None] ** 2) / 2)
