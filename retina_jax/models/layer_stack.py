"""Equal layers one after another, and what their backward pass keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from data_pipelines.errors import InputError
from retina_jax.types import Array

KEPT = "kept"  # for the backward pass, in the place of the product in it


def residual_sum(x: Array, branch: Array) -> Array:
    """x + branch, which the backward pass keeps in the place of the branch's last product.

    The product then adds `x` in its own kernel, and a norm of the sum reads one array, not two.
    """
    return checkpoint_name(x + branch, KEPT)


_policies = jax.checkpoint_policies
_kept = _policies.save_only_these_names(KEPT)
# What is kept of the forward pass for the backward pass; the rest is computed again.
_CHECKPOINTS: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "full": _policies.nothing_saveable,
    "dots": _policies.save_from_both_policies(_policies.dots_saveable, _kept),
    "dots_no_batch": _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable, _kept
    ),
}


def scan_layers(
    layer: type[nn.Module], depth: int, *, scan: bool, remat: str, inputs: Sequence[Any]
) -> Callable[..., nn.Module]:
    """A class of `depth` equal layers one after another.

    Their parameters are those of one layer with a first axis of `depth` more. They are the same
    arrays, with the same first values and the same dropout, whether the layers are a loop or
    written out, so a checkpoint of one is a checkpoint of the other, and the program of a loop
    does not grow with the depth.

    Args:
      layer: its `__call__(x, *inputs, train)` returns (x, anything).
      depth: number of layers.
      scan: a loop, which compiles as quickly as one layer, or layers written out.
      remat: what the backward pass computes again: 'none' of a layer, 'full' (all of it), 'dots'
        (all but matrix products) or 'dots_no_batch' (all but products with parameters; the towers'
        default: logits of attention, which 'dots' keeps in float32, take more memory than all else
        and 1 % of the operations to compute again).
      inputs: for each of `inputs` 0 if its first axis runs over the layers, else `nn.broadcast`.

    Returns:
      A class that takes the attributes of `layer`; a call returns (x, the stacked anything).

    Raises:
      InputError: for an unknown `remat`, or a depth below 1.
    """
    if depth < 1:
        raise InputError(f"A transformer needs at least one layer, not {depth}.")
    if remat not in _CHECKPOINTS:
        raise InputError(f"There is no remat '{remat}'; choose from {tuple(_CHECKPOINTS)}.")
    one = layer
    if remat != "none":
        # Within a loop nothing can be merged with the forward pass anyway.
        layer = nn.remat(
            layer,
            policy=_CHECKPOINTS[remat],
            prevent_cse=not scan,
            static_argnums=(len(inputs) + 2,),
        )
    axes: Any = (*inputs, nn.broadcast)  # Flax names one axis for all
    scanned: Any = nn.scan(
        layer,
        variable_axes={"params": 0, "intermediates": 0, "perturbations": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=axes,
        length=depth,
        unroll=1 if scan else depth,
    )

    class Stack(scanned):
        """A call of its own, as one of what `nn.scan` makes cannot be intercepted."""

        of_depth = staticmethod(partial(scan_layers, one, scan=scan, remat=remat, inputs=inputs))
        layered = tuple(axis == 0 for axis in inputs)

        def __call__(self, *given: Any) -> Any:
            return super().__call__(*given)

    return Stack


def is_stack(module: nn.Module) -> bool:
    """Whether a module is of a class that `scan_layers` made."""
    return hasattr(type(module), "of_depth")


def in_two(stacked: nn.Module, first: int, *given: Any) -> tuple[Array, Any]:
    """What equal layers give whose first ones are frozen: called for evaluation, without gradient.

    Two loops, one after the other, so that no backward pass goes through the first of them where
    nothing before them is trained either.

    Args:
      stacked: a bound module of a class that `scan_layers` made.
      first: how many of its layers are frozen, of which there are more.
      given: what it is called with: x, inputs, train.
    """
    kind: Any = type(stacked)
    fields = {field.name for field in dataclasses.fields(kind)} - {"parent", "name"}
    options = {name: getattr(stacked, name) for name in fields}
    x, *inputs, train = given
    params = stacked.variables["params"]
    depth = len(jax.tree.leaves(params)[0])
    rngs = {"dropout": stacked.make_rng("dropout")} if stacked.has_rng("dropout") else {}
    found: list[Any] = []
    for part, fixed in ((slice(first), True), (slice(first, depth), False)):
        own = jax.tree.map(lambda leaf, part=part: leaf[part], params)
        own = jax.lax.stop_gradient(own) if fixed else own
        layers = kind.of_depth(len(range(depth)[part]))(**options, parent=None)
        sliced = (jax.tree.map(lambda leaf, part=part: leaf[part], value) if layered else value
                  for value, layered in zip(inputs, kind.layered, strict=True))  # fmt: skip
        x, more = layers.apply({"params": own}, x, *sliced, train and not fixed, rngs=rngs)
        found.append(more)
    if any(more is None for more in found):  # decoders keep what they saw in evaluation alone
        return x, None
    return x, jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)
