"""Contrastive pairing of named embeddings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from data_pipelines.errors import InputError
from retina_jax.losses import contrastive
from retina_jax.types import Batch, Outputs, Scalar


def _stream(name: str) -> str:
    return name.rpartition("/")[0]


@dataclasses.dataclass(frozen=True)
class Contrastive:
    """CLIP-type loss of pairs of embeddings in `out['z']`.

    Attributes:
      pairs: names of the two embeddings of each pair, e.g. (('public/image', 'public/text'),).
        Both must come from the same stream. Each pair is one term, 'contrastive/image-text' or
        'contrastive/public/image-text'.
      groups: if true, rows that share the stream's `group` id are positives of each other (FLAIR's
        soft targets); otherwise only row i matches row i.
    """

    pairs: Sequence[tuple[str, str]]
    groups: bool = False

    def __call__(self, out: Outputs, batch: Batch) -> dict[str, Scalar]:
        """One scalar a pair.

        Raises:
          InputError: while tracing, for a pair of two streams, or one that is named twice.
        """
        terms = {}
        for first, second in self.pairs:
            stream = _stream(first)
            if _stream(second) != stream:
                raise InputError(
                    f"'{first}' and '{second}' are rows of different streams; pair one stream's."
                )
            rows = batch[stream] if stream else batch
            targets = contrastive.group_targets(rows["group"]) if self.groups else None
            name = "/".join(filter(None, ("contrastive", stream, _pair(first, second))))
            if name in terms:
                raise InputError(f"Two pairs of embeddings give the term '{name}'; remove one.")
            terms[name] = contrastive.softmax(
                out["z"][first], out["z"][second], out["scale"], targets
            )
        return terms


def _pair(first: str, second: str) -> str:
    return f"{first.rpartition('/')[2]}-{second.rpartition('/')[2]}"
