"""Maps of a model: gradient times activation of the last cells of a tower, and rollout.

Selvaraju et al. 2017 (Grad-CAM): the map is ReLU(sum_k w_k A_k), where A_k are the channels of the
last cells that a score depends on, and w_k the mean over cells of d score / d A_k.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from data_pipelines.errors import InputError
from data_pipelines.images import functional
from retina_jax.models.vit import ViT, patch_grid
from retina_jax.types import Array, Batch

# Collection -> tree of the arrays of a model.
Variables = Mapping[str, Any]
# (bound model, batch) -> f[B C], the score of each class.
Score = Callable[[nn.Module, Batch], Array]
# (variables, batch, classes i32[B], of which negative ones stand for the class of the greatest
# score) -> maps f32[B h w] of the scores of these classes, and all scores f[B C].
Explainer = Callable[[Variables, Batch, Array], tuple[Array, Array]]
# The way to a module and a name -> what it showed.
Places = dict[tuple[str, ...], Array]


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


def explainer(model: nn.Module, key: str, score: Score) -> Explainer:
    """Gradient times activation of the last cells of a tower that a score depends on.

    These are the last map of a convolutional network, the patch tokens behind the last block of a
    ViT that pools them by their mean, and those before the last block of one that pools by its
    class token: behind that block nothing reads them any more.

    Args:
      model: has a tower named `key`.
      score: what is explained.
    """

    def run(variables: Variables, batch: Batch, classes: Array) -> tuple[Array, Array]:
        tower = getattr(model.bind(variables), key)

        def asked(added: Variables) -> tuple[Array, Places]:
            return _observed(model, {**variables, **added}, batch, score)

        shapes = jax.eval_shape(lambda: asked({})[1])
        path = _cells_of(tower, key, shapes)
        places = {
            place: jnp.zeros(x.shape, x.dtype)
            for place, x in shapes.items() if place[-1] in ("inputs", "cells")
        }  # fmt: skip

        def chosen(added: Array) -> tuple[Array, tuple[Array, Array]]:
            tree = traverse_util.unflatten_dict({**places, path: added})
            found, seen = asked({"perturbations": tree})
            which = jnp.where(classes < 0, found.argmax(axis=1), classes)
            return jnp.take_along_axis(found, which[:, None], axis=1).sum(), (found, seen[path])

        gradients, (found, cells) = jax.grad(chosen, has_aux=True)(places[path])
        if path[-1] == "inputs":  # of every block
            cells, gradients = cells[-1], gradients[-1]
        cells, gradients = (
            _on_grid(tower, x.astype(jnp.float32), batch[key]) for x in (cells, gradients)
        )
        return combine(cells, gradients), found

    return jax.jit(run)


def rollout(model: nn.Module, key: str, score: Score) -> Explainer:
    """Attention rollout (Abnar and Zuidema 2020): where the tower looks, whatever the class.

    Of a tower that pools by its class token the row of that token, else the mean of the rows of
    the patches. The weights are spelt out, also where training fuses them away.

    Args:
      model: has a ViT named `key`.
      score: what its other answer is.
    """

    def run(variables: Variables, batch: Batch, classes: Array) -> tuple[Array, Array]:
        del classes
        tower = getattr(model.bind(variables), key)
        found, seen = _observed(model, variables, batch, score)
        weights = [x for place, x in seen.items() if place[0] == key and place[-1] == "weights"]
        if not weights or not isinstance(tower, ViT):
            raise InputError(
                f"Rollout follows the attention of a ViT, which a {type(tower).__name__} is not: "
                "ask for gradients."
            )
        rolled = rolled_out(weights[0].mean(axis=2))
        first = tower.others()
        rows = rolled[:, 0] if tower.pool == "cls" else rolled[:, first:].mean(axis=1)
        return _on_grid(tower, rows[..., None], batch[key])[..., 0], found

    return jax.jit(run)


# What makes the maps, and what a picture of one says.
METHODS = {"gradients": explainer, "rollout": rollout}
CAPTIONS = {"gradients": "Areas that changed the score of '{}'", "rollout": "Where the tower looks"}


def rolled_out(weights: Array) -> Array:
    """A_L ... A_1, where A_l is half the attention of layer l and half the identity.

    Args:
      weights: f[L B T T], the attention of each layer, its rows sum to 1.

    Returns:
      f[B T T], whose rows sum to 1.
    """
    own = jnp.eye(weights.shape[-1], dtype=weights.dtype)
    total = own
    for layer in weights:
        total = (layer + own) / 2 @ total
    return total


def _observed(
    model: nn.Module, variables: Variables, batch: Batch, score: Score
) -> tuple[Array, Places]:
    """The scores, and what `models.layers.observed` and attention show on the way to them."""

    def ask(bound: nn.Module) -> Array:
        return score(bound, batch)

    found, state = nn.apply(ask, model, mutable=["intermediates"])(variables)
    seen: Any = traverse_util.flatten_dict(state.get("intermediates", {}))
    return found, {place: values[0] for place, values in seen.items()}


def _cells_of(tower: nn.Module, key: str, places: Mapping[tuple[str, ...], Any]) -> tuple[str, ...]:
    """Where the last cells are that a score depends on."""
    name = "inputs" if getattr(tower, "pool", None) == "cls" else "cells"
    found = [place for place in places if place[0] == key and place[-1] == name]
    if len(found) != 1 or getattr(tower, "reads", None) != "pixels":
        raise InputError(
            f"Maps are made of towers that read single pictures, which the '{key}' tower, a "
            f"{type(tower).__name__}, does not."
        )
    return found[0]


def _on_grid(tower: Any, x: Array, image: Array) -> Array:
    """f[B h w F] of a map, or of tokens f[B T F] without those that are no patches."""
    if x.ndim == 4:
        return x
    return x[:, tower.others() :].reshape(len(x), *patch_grid(image.shape, tower.patch_size), -1)


def enlarged(saliency: np.ndarray, height: int, width: int) -> np.ndarray:
    """A map f[h w] at the size of its picture, bilinear."""
    from PIL import Image

    picture = Image.fromarray(np.asarray(saliency, np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR)).clip(min=0)


def by_head(bound: nn.Module, batch: Batch) -> Array:
    """The logits of a classifier, f[B C]."""
    return bound.classify(batch)["logits"]  # pyright: ignore[reportAttributeAccessIssue]


def by_texts(prototypes: np.ndarray, scale: float) -> Score:
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
