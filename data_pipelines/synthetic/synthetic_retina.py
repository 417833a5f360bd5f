"""The embedded data set: patients, photographs and reports drawn by ``data_pipelines.synthetic``.

Nothing is downloaded. Build it with

    python -m data_pipelines.build --dataset=synthetic_retina --name=demo --data_dir=DIR

The pictures are drawings and the patients do not exist: fit for trying, testing and teaching the
software, not for any statement about people.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.processes import workers
from data_pipelines.synthetic import records

# Up to so many patients, starting processes takes longer than drawing.
_FEW = 100
_LABELLED_PUBLIC = ("expert", "validation", "test")
_SMOKE: dict[str, Any] = {"patients": (24, 16, 8, 24), "image_size": 32}


@dataclasses.dataclass(eq=False, kw_only=True)
class SyntheticConfig(tfds.core.BuilderConfig):
    """A named recipe (TFDS's own base class is not frozen; the recipe is)."""

    recipe: records.SyntheticSpec


def _config(name: str, description: str, **recipe: Any) -> SyntheticConfig:
    return SyntheticConfig(
        name=name, description=description, version="1.0.0", recipe=records.SyntheticSpec(**recipe)
    )


class SyntheticRetina(tfds.core.GeneratorBasedBuilder):
    """Procedurally drawn eyes with their causes, labels and bilingual reports.

    Splits: 'public' (many eyes; labels only in 'smoke', 'demo' and 'large'), 'expert' (fewer, with
    captions), 'validation' and 'test'; no patient is in two of them. Licence: that of the project.
    """

    embedded = True
    # Nothing is downloaded. TFDS would look for a checksum file beside this one, and needs the
    # undeclared package importlib_resources to do so.
    url_infos = None
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [
        _config("smoke", "Tiny, for tests.", captioned=_LABELLED_PUBLIC, **_SMOKE),
        _config(
            "smoke_ffa",
            "Tiny fluorescein angiograms.",
            modality="ffa",
            captioned=_LABELLED_PUBLIC,
            **_SMOKE,
        ),
        _config(
            "smoke_oct",
            "Tiny foveal OCT B-scans.",
            modality="oct",
            captioned=_LABELLED_PUBLIC,
            **_SMOKE,
        ),
        _config(
            "demo",
            "Colour photographs of 96 pixels.",
            patients=(1500, 400, 100, 300),
            captioned=_LABELLED_PUBLIC,
        ),
        _config(
            "demo_ffa",
            "Fluorescein angiograms of 96 pixels.",
            patients=(500, 200, 50, 150),
            modality="ffa",
            captioned=_LABELLED_PUBLIC,
        ),
        _config(
            "demo_oct",
            "Foveal OCT B-scans of 96 pixels.",
            patients=(500, 200, 50, 150),
            modality="oct",
            captioned=_LABELLED_PUBLIC,
        ),
        _config(
            "smoke_multimodal",
            "Tiny, with angiogram and OCT volume.",
            extras=("ffa", "oct"),
            oct_slices=4,
            **_SMOKE,
        ),
        _config(
            "demo_multimodal",
            "Photograph, angiogram and OCT volume of each eye.",
            patients=(500, 100, 40, 120),
            extras=("ffa", "oct"),
        ),
        # Enough test eyes for pools of 1,000.
        _config(
            "demo_pairs",
            "Photograph and OCT volume of each eye, 64 pixels.",
            patients=(1500, 0, 100, 600),
            image_size=64,
            extras=("oct",),
            oct_slices=5,
        ),
        _config(
            "smoke_patients",
            "Tiny, both eyes of a patient and the report.",
            unit="patient",
            **_SMOKE,
        ),
        _config(
            "patients",
            "Both eyes of a patient and the report.",
            patients=(1500, 400, 100, 300),
            unit="patient",
        ),
        _config(
            "large",
            "Colour photographs of 256 pixels.",
            patients=(6000, 1600, 400, 1000),
            image_size=256,
            captioned=_LABELLED_PUBLIC,
        ),
        _config(
            "reports",
            "English and Chinese reports without pictures.",
            patients=(3000, 0, 100, 100),
            unit="text",
        ),
        _config("smoke_reports", "The first of them.", patients=(16, 0, 4, 4), unit="text"),
    ]

    def __init__(self, *, processes: int | None = None, **kwargs: Any) -> None:
        """Make the builder.

        Args:
            processes: how many draw the pictures; None is one for each core. It does not change
                the result.
            **kwargs: arguments of TFDS: data_dir, config, version.
        """
        self._processes = processes or os.cpu_count() or 1
        self._workers = None
        kwargs.setdefault("file_format", "array_record")
        super().__init__(**kwargs)

    @property
    def recipe(self) -> records.SyntheticSpec:
        """What is drawn."""
        config: Any = self.builder_config
        return config.recipe

    @property
    def sizes(self) -> dict[str, int]:
        """Number of records of each split, known before they are drawn."""
        counts = zip(records.SPLITS, self.recipe.patients, strict=True)
        return {split: n * records.PER_PATIENT[self.recipe.unit] for split, n in counts if n}

    def download_and_prepare(self, **kwargs: Any) -> None:
        """Build the data set (see TFDS) with the same worker processes for all splits."""
        few = max(self.recipe.patients) <= _FEW
        with workers(1 if few else self._processes) as self._workers:
            super().download_and_prepare(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features(self.recipe))
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager
        return {split: self._generate_examples(split) for split in self.sizes}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, records.Record]]:
        for record in records.generate(self.recipe, split, self._workers):
            yield record["id"], record


def features(recipe: records.SyntheticSpec) -> dict[str, Any]:
    """TFDS features of a record of ``recipe``: what ``records.patient_records`` returns."""
    text = tfds.features.Text()
    labels = tfds.features.Sequence(tfds.features.Text())
    encoded = tfds.features.Tensor(shape=(), dtype=np.object_)
    common = {"id": text, "patient": text, "dataset": text}
    if recipe.unit == "text":
        return {**common, "text": text, "language": text}
    person = {"labels": labels, "age": np.int32, "sex": text}
    causes = {
        "diagnosis": text,
        "dr_grade": np.int32,
        "macular_oedema": np.int32,
        "cup_to_disc": np.float32,
        "amd_stage": np.int32,
        "myopia": np.float32,
        "cataract": np.int32,
        "subretinal_fluid": np.int32,
        "phase": text,
    }
    if recipe.unit == "patient":
        out = {**common, **person, "report": text, "report_zh": text}
        for side in ("left", "right"):
            out |= {f"{side}_image": encoded, f"{side}_labels": labels}
            out |= {f"{side}_{key}": feature for key, feature in causes.items()}
        return out
    extras: dict[str, Any] = {kind: encoded for kind in recipe.extras}
    if "oct" in recipe.extras:
        # The B-scans are stacked vertically in one picture, the superior one on top.
        extras["oct_slices"] = np.int32
    return {
        **common,
        **person,
        **causes,
        **extras,
        "image": encoded,
        "modality": text,
        "caption": text,
        "caption_zh": text,
        "eye": text,
    }
