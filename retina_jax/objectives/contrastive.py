"""Contrastive pairing of named embeddings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from data_pipelines.errors import InputError
from retina_jax.losses import blockwise, cloob, contrastive
from retina_jax.types import Array, Batch, Outputs, Scalar

KINDS = ("softmax", "sigmoid", "infoloob", "cloob")
GROUPED = ("softmax", "sigmoid")
# Embeddings of both sides and, for GROUPED, ids of the groups and the rows that count.
PairLoss = Callable[[Array, Array, Array | None, Array | None], Scalar]


@dataclasses.dataclass(frozen=True)
class Contrastive:
    """CLIP-type loss of pairs of embeddings in `out['z']`.

    Attributes:
      pairs: names of the two embeddings of each pair, e.g. (('public/image', 'public/text'),).
        Both must come from the same stream. Each pair is one term, 'contrastive/image-text' or
        'contrastive/public/image-text'.
      kind: 'softmax' (CLIP, InfoNCE), 'sigmoid' (SigLIP), 'cloob', or 'infoloob', CLOOB's loss in
        both directions without its retrieval. The first two take the model's `out['scale']`, a
        scalar or one for each pair, by its first name, and 'sigmoid' its `out['bias']` as well.
        Where `out['row_mask']` has a pair's first name, only these rows of it count.
      groups: if true, rows that share the stream's `group` id are positives of each other (FLAIR's
        soft targets); otherwise only row i matches row i. For 'softmax' and 'sigmoid'.
      symmetric: False compares the first of a pair with all of the second, and not the reverse
        (SKKU, eq. 2). For 'softmax'.
      inv_tau: inverse temperature of InfoLOOB, fixed. None takes the model's scale, which if it
        is learned only ever grows to its bound (see `losses.contrastive.infoloob`).
      beta: inverse temperature of CLOOB's retrieval, fixed.
      local_negatives: compare only within consecutive groups of this many rows, the batch of one
        device in published code that gathers no embeddings; None compares the whole batch.
      blockwise: compute in tiles of at most this many rows and columns, with the same result in
        memory linear in the batch (`losses.blockwise`); None makes the whole matrix of logits.
    """

    pairs: Sequence[tuple[str, str]]
    kind: str = "softmax"
    groups: bool = False
    symmetric: bool = True
    inv_tau: float | None = 30.0
    beta: float = 8.0
    local_negatives: int | None = None
    blockwise: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"A contrastive loss has kind {list(KINDS)}, not '{self.kind}'.")
        if self.groups and self.kind not in GROUPED:
            raise InputError(
                f"'{self.kind}' has one positive a row; remove 'groups' or use {list(GROUPED)}."
            )
        if not self.symmetric and self.kind != "softmax":
            raise InputError(
                f"'{self.kind}' has no single direction; remove 'symmetric' or use 'softmax'."
            )
        if self.local_negatives is not None and self.blockwise is not None:
            raise InputError(
                "'local_negatives' needs no 'blockwise': its logits are few; remove one of them."
            )

    def __call__(self, out: Outputs, batch: Batch) -> dict[str, Scalar]:
        """One scalar a pair.

        Raises:
          InputError: while tracing, for a pair of two streams, one that is named twice or lacks
            a scale, and where a loss refuses the number of rows or that some do not count.
        """
        terms = {}
        for first, second in self.pairs:
            stream, _, one = first.rpartition("/")
            stream_of_second, _, other = second.rpartition("/")
            if stream_of_second != stream:
                raise InputError(
                    f"'{first}' and '{second}' are rows of different streams; pair one stream's."
                )
            rows = batch[stream] if stream else batch
            name = "/".join(filter(None, ("contrastive", stream, f"{one}-{other}")))
            if name in terms:
                raise InputError(f"Two pairs of embeddings give the term '{name}'; remove one.")
            mask = out.get("row_mask", {}).get(first)
            if mask is not None and self.kind not in GROUPED:
                raise InputError(
                    f"'{self.kind}' needs every row of '{first}' to be there, and the model marks "
                    f"missing ones; use {list(GROUPED)}."
                )
            tile = self.blockwise
            loss = self._dense(out, first) if tile is None else self._blockwise(out, first, tile)
            groups = rows["group"] if self.groups else None
            arrays = out["z"][first], out["z"][second], groups, mask
            if self.local_negatives is None:
                terms[name] = loss(*arrays)
            else:
                terms[name] = contrastive.local(loss, self.local_negatives, *arrays)
        return terms

    def _dense(self, out: Outputs, first: str) -> PairLoss:
        scale = self._scale(out, first)

        def softmax(a: Array, b: Array, groups: Array | None, mask: Array | None) -> Scalar:
            targets = None if groups is None else contrastive.group_targets(groups, mask)
            return contrastive.softmax(a, b, scale, targets, mask, symmetric=self.symmetric)

        def sigmoid(a: Array, b: Array, groups: Array | None, mask: Array | None) -> Scalar:
            positives = None if groups is None else groups[:, None] == groups
            return contrastive.sigmoid(a, b, scale, _of(out, "bias", first), positives, mask)

        def infoloob(a: Array, b: Array, *_: Array | None) -> Scalar:
            return contrastive.infoloob(a, b, scale) + contrastive.infoloob(b, a, scale)

        return {
            "softmax": softmax,
            "sigmoid": sigmoid,
            "infoloob": infoloob,
            "cloob": lambda a, b, *_: cloob.cloob(a, b, scale, self.beta),
        }[self.kind]

    def _blockwise(self, out: Outputs, first: str, tile: int) -> PairLoss:
        scale = self._scale(out, first)

        def softmax(a: Array, b: Array, *rows: Array | None) -> Scalar:
            return blockwise.softmax(a, b, scale, *rows, symmetric=self.symmetric, tile=tile)

        def sigmoid(a: Array, b: Array, *rows: Array | None) -> Scalar:
            return blockwise.sigmoid(a, b, scale, _of(out, "bias", first), *rows, tile=tile)

        return {
            "softmax": softmax,
            "sigmoid": sigmoid,
            "infoloob": lambda a, b, *_: blockwise.infoloob(a, b, scale, both=True, tile=tile),
            "cloob": lambda a, b, *_: blockwise.cloob(a, b, scale, self.beta, tile=tile),
        }[self.kind]

    def _scale(self, out: Outputs, first: str) -> Scalar | float:
        if self.kind in GROUPED or self.inv_tau is None:
            return _of(out, "scale", first)
        return self.inv_tau


def _of(out: Outputs, what: str, first: str) -> Scalar:
    """The scale or bias of the pair that begins with `first`, where a model has one or several."""
    if what not in out:
        raise InputError(
            f"The contrastive loss needs the model's '{what}': set the model's {what}_init (the "
            "bias of SigLIP: -10), or choose another kind."
        )
    values = out[what]
    if not isinstance(values, Mapping):
        return values
    if first not in values:
        raise InputError(
            f"The model has a {what} for pairs that begin with {sorted(values)}, but none for "
            f"'{first}'."
        )
    return values[first]
