"""From a folder of a model to its answers about a picture: `retina_jax.load`."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pyarrow as pa

from data_pipelines import quality
from data_pipelines.cases import listing
from data_pipelines.errors import InputError
from data_pipelines.images import single
from data_pipelines.images.single import Pictures, Preprocessing
from data_pipelines.text.texts import listed
from data_pipelines.text.tokenizers import TOKENIZERS, Tokenizer
from data_pipelines.transforms.volumes import Volume
from retina_jax.build import build
from retina_jax.convert import card, hashes, model_folder
from retina_jax.convert.registry import NO_LICENCE
from retina_jax.evals.encoder import Encoder, frozen_state
from retina_jax.models import MODELS
from retina_jax.prediction import requests, rows, running, scoring
from retina_jax.train import sharding
from retina_jax.types import Batch, TrainState

_logger = logging.getLogger(__name__)
# Words by which a licence says that not every use is free.
_RESTRICTED = ("nc", "noncommercial", "nd", "research")


@dataclasses.dataclass(frozen=True)
class PretrainedModel:
    """A model that is ready to be asked. `print` shows what it is and under which terms.

    Attributes:
      description: all that its folder says about it.
      model: the Flax module; `model.apply(variables, batch)` is the whole of it.
      variables: collection -> tree of arrays.
      preprocessing: pictures -> a batch of one row; None for a model of texts.
      tokenizer: the tokenizer of its texts; None where it reads none, or has no file of it.
    """

    description: model_folder.Description
    model: nn.Module
    variables: Mapping[str, Any]
    preprocessing: Preprocessing | None
    tokenizer: Tokenizer | None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that it was made for, in the order of their labels."""
        return tuple(self.description.classes)

    @property
    def model_hash(self) -> str:
        """The hash of all that its answers depend on; see `convert.hashes`."""
        return self._hash

    @property
    def licence(self) -> str:
        """The licence of the weights, or that none is given."""
        return self.description.licence or NO_LICENCE

    def __str__(self) -> str:
        about = self.description
        leaves = jax.tree.leaves(self.variables["params"])
        lines = [
            f"{about.title}: {about.model['name']}, {sum(x.size for x in leaves):,} parameters",
            f"licence: {self.licence}",
            *([about.terms] if about.terms else []),
            *([f"cite: {about.citation}"] if about.citation else []),
            *([f"classes: {', '.join(self.classes)}"] if self.classes else []),
            *(f"left behind: {line}" for line in card.left_behind(about.ignored)),
            *(f"not in the original: {path}, {why}" for path, why in about.filled.items()),
        ]
        return "\n".join(lines)

    __repr__ = __str__

    def preprocess(self, pictures: Pictures, **about: str) -> Batch:
        """A batch of one row; `pictures` and the rest as for `single.Preprocessing`.

        Where nothing says otherwise pictures are of the modality that the model is for.
        """
        if self.preprocessing is None:
            raise InputError(f"'{self.description.title}' reads texts and no pictures.")
        about = {"modality": self.description.modality or "cfp", **about}
        return self.preprocessing(pictures, **about)

    def outputs(self, batch: Batch, method: str) -> dict[str, np.ndarray]:
        """What a method of the module makes of a batch, {name: array[B ...]}."""
        return self._encoder.encode_batch(self._state, batch, method)

    def temperature(self) -> float:
        """The inverse temperature of what `embed` returns."""
        return self._encoder.scale(self._state)

    def embed(self, batch: Batch) -> dict[str, np.ndarray]:
        """Unit embeddings {key: f32[B D]} of what the batch holds."""
        return self.outputs(batch, "embed")

    def features(self, pictures: Pictures, **about: str) -> dict[str, np.ndarray]:
        """What the towers pool of one case, {key: f32[1 F]}; arguments as for `preprocess`."""
        return self.outputs(self.preprocess(pictures, **about), "features")

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit embeddings f32[N D] of texts; longer ones than the model's are cut at their end.

        Raises:
          InputError: for a model that reads none, or a text instead of a list of texts.
        """
        texts = listed(texts, "texts")
        length = self.description.text_length
        if self.tokenizer is None or length is None or not hasattr(self.model, "embed"):
            raise InputError(
                f"'{self.description.title}' cannot read texts: "
                + ("its folder has no tokenizer; convert it again with --tokenizer=FILE."
                   if hasattr(self.model, "embed") else "it has no tower that embeds them.")
            )  # fmt: skip
        if not texts:
            return self._encoder.texts(self._state, self.tokenizer, [""], length)[:0]
        return self._encoder.texts(self._state, self.tokenizer, texts, length)

    def zero_shot(
        self,
        pictures: Pictures,
        classes: Sequence[str] | None = None,
        template: str | None = None,
        **about: str,
    ) -> dict[str, float]:
        """How likely each class is, from the similarity of a case to sentences about classes.

        softmax(scale * cosine) over the classes, each the mean of the unit embeddings of its
        prompts, as `evals.zeroshot.ZeroShot` has it.

        Args:
          pictures, **about: arguments of `preprocess`.
          classes: their names; None for those that the model was made for.
          template: sentence with {} for the name; None for the model's own, or the bare name.

        Returns:
          {name: probability}, in the order of the names; they sum to one.

        Raises:
          InputError: for a model that does not compare pictures with texts, or classes that are
            not a list of different texts.
        """
        asked = scoring.by_texts(self, classes, template)
        return _answer(asked, self.preprocess(pictures, **about))

    def classify(
        self, pictures: Pictures, *, force: bool = False, **about: str
    ) -> dict[str, float]:
        """{class: probability} by the head of a classifier.

        Args:
          pictures, **about: arguments of `preprocess`.
          force: ask about a picture that is ungradable too, see `data_pipelines.quality`.

        Raises:
          InputError: for a model without such a head, or one whose classes have no names, or an
            ungradable picture.
        """
        asked = scoring.by_head(self)
        batch = self.preprocess(pictures, **about)
        if not force:
            self._refuse_ungradable(pictures, about.get("modality"))
        return _answer(asked, batch)

    def _refuse_ungradable(self, pictures: Pictures, modality: str | None) -> None:
        """Raises InputError as `predict` leaves such a picture out, by the same rules."""
        readers = self.preprocessing.readers if self.preprocessing else {}
        inputs = pictures if isinstance(pictures, Mapping) else dict.fromkeys(readers, pictures)
        for key, value in inputs.items():
            usual = "oct" if isinstance(readers[key], Volume) else "cfp"
            kind = modality or self.description.modality or usual
            for picture in single.shown(value):
                found = quality.of_bytes(single.encoded(picture), kind)
                if found.state == quality.UNGRADABLE:
                    raise InputError(
                        f"The picture is ungradable ({', '.join(found.reasons)}), so the model is "
                        "not asked about it: take a better one, or add force=True."
                    )

    def predict(
        self,
        sources: str | Path | Sequence[str | Path],
        classes: Sequence[str] | None = None,
        *,
        recursive: bool = False,
        columns: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Iterator[pa.Table]:
        """What the model says of any number of pictures, row by row, as `retina_jax.predict` does.

            for rows in model.predict("photographs/"):
                print(rows.to_pylist())

        Args:
          sources: files, folders, patterns, tables or data sets; see `cases.listing.listed`.
          classes: the classes of zero-shot; None for the head, or the model's own.
          recursive, columns: arguments of `cases.listing.listed`.
          **options: the options of `prediction.requests.Options`.

        Yields:
          The rows of a batch as a table, whose columns docs/predict.md has; on the level of eyes or
          patients all rows at once. A picture that cannot be read is a row with the error.

        Raises:
          InputError: for what the model cannot be asked, or a source that is not there.
        """
        given = [sources] if isinstance(sources, str | Path) else sources
        asked = requests.predicting(self, requests.Options(classes=classes, **options))
        found = listing.listed(
            [str(source) for source in given],
            columns=columns,
            recursive=recursive,
            data_dir=asked.options.data_dir,
        )
        for remark in found.remarks:
            _logger.warning("%s.", remark[:1].upper() + remark[1:])
        job = running.prediction_job(asked)
        yield from job.tables(
            requests.arranged(found.entries, asked), rows.Watch(asked.options.force)
        )

    def report(self, pictures: Pictures, **about: str) -> str:
        """What a model that writes says of a case; arguments as for `preprocess`."""
        if self.tokenizer is None or not hasattr(self.model, "generate"):
            raise InputError(
                f"'{self.description.title}' writes no texts, or its folder has no tokenizer."
            )
        batch = self.preprocess(pictures, **about)
        written = self.outputs(batch, "generate")["generated"]
        return self.tokenizer.decode(written[0])

    @functools.cached_property
    def _hash(self) -> str:
        return hashes.model_hash(self.description, self.variables)

    @functools.cached_property
    def _encoder(self) -> Encoder:
        mesh, about = sharding.make_mesh(1, 1, jax.local_devices()[:1]), self.description
        return Encoder(self.model, mesh, about.test_time_flip, about.padding)

    @functools.cached_property
    def _state(self) -> TrainState:
        return frozen_state(self.variables, self._encoder.mesh)


def _answer(asked: scoring.Scorer, batch: Batch) -> dict[str, float]:
    probabilities = asked.decision.probabilities(asked.ask(batch)[0])
    return dict(zip(asked.classes, probabilities[0].tolist(), strict=True))


def load(folder: Path | str) -> PretrainedModel:
    """The model in a folder that `python -m retina_jax.convert` wrote; nothing of it is run.

        model = retina_jax.load("flair")
        print(model.zero_shot("photograph.jpg", ["normal", "glaucoma"]))

    Terms that do not allow every use are logged as a warning.

    Raises:
      InputError: for a folder that is damaged, or not one of these.
    """
    description, variables = model_folder.read_folder(folder)
    model = build(MODELS, description.model)
    tokenizer = build(TOKENIZERS, description.tokenizer) if description.tokenizer else None
    variables = jax.device_put(variables, jax.local_devices()[0])
    loaded = PretrainedModel(description, model, variables, description.preprocessing(), tokenizer)
    words = loaded.licence.lower().replace("_", "-").split("-")
    if description.licence is None or set(words) & set(_RESTRICTED):
        says = f"has the licence {loaded.licence}" if description.licence else "names no licence"
        terms = f" {description.terms}" if description.terms else ""
        _logger.warning("'%s' %s: see that your use is allowed.%s", description.title, says, terms)
    return loaded
