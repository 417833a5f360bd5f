"""Photographs that pass for some, and a model without weights that tells how red they are."""

import dataclasses
import functools
from pathlib import Path

import folders
import numpy as np
from PIL import Image

from data_pipelines.cases import listing
from retina_jax.prediction import output, requests, running
from retina_jax.prediction.rows import Watch

CLASSES = ("normal", 'a,b "c"', "cup")
# A classifier of them, as a folder describes it.
CLASSIFIER = {"model": {"name": "tower", "key": "image", "tower": folders.VIT, "classes": 3},
              "tokenizer": None, "text_length": None, "template": None,
              "classes": CLASSES}  # fmt: skip


def photograph(red: int = 180, side: int = 320) -> np.ndarray:
    """A disc of some texture on black, uint8 [side side 3]."""
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    inside = (np.hypot(rows, columns) < 0.47 * side)[..., None]
    texture = 12 * np.sin(rows / 9)[..., None] * np.cos(columns / 7)[..., None]
    return np.where(inside, np.array([red, 110, 60]) + texture, 0).astype(np.uint8)


def write(folder: Path, count: int = 7) -> Path:
    """A folder of photographs, one that is black, and one that is none."""
    folder.mkdir()
    for i in range(count):
        Image.fromarray(photograph(130 + 15 * i)).save(folder / f"{i}.png")
    Image.fromarray(np.zeros((320, 320, 3), np.uint8)).save(folder / "black.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff junk")
    (folder / "notes.md").write_text("no picture")
    return folder


def described(folder: Path, **options):
    """The description of `CLASSIFIER`."""
    return folders.description(folder, **{**CLASSIFIER, **options})


@dataclasses.dataclass
class Redness:
    """As `loading.PretrainedModel` is asked; its scores are means of the channels."""

    description: object
    model: object = None
    licence: str = "MIT"
    model_hash: str = "f" * 64
    asked: int = 0

    @property
    def classes(self):
        return tuple(self.description.classes)

    @functools.cached_property
    def preprocessing(self):
        return self.description.preprocessing()

    def outputs(self, batch, method):
        self.asked += 1
        means = batch["image"].astype(np.float32).mean(axis=(1, 2))
        return {"logits": means / 64, "pooled": means, "image": means}


def job(model, sources, kept=(), columns=None, recursive=False, **options):
    """The job, the entries and the request of a prediction."""
    request = requests.predicting(model, requests.Options(**{"batch_size": 4, **options}))
    found = listing.listed(
        [str(source) for source in sources],
        columns=columns,
        keep=[name.removeprefix(listing.KEPT) for name in kept],
        recursive=recursive,
        data_dir=options.get("data_dir"),
    )
    entries = requests.arranged(found.entries, request)
    return running.prediction_job(request, kept), entries, request


def rows(model, sources, **options):
    """The rows of a prediction by their ids."""
    made, entries, _ = job(model, sources, **options)
    tables = made.tables(entries, Watch(options.get("force", False)))
    return {row["record"]: row for table in tables for row in table.to_pylist()}


def run(made, entries, out, each=3):
    """A run into a folder, with everything that is written; the parts' bytes by their names."""
    known = output.claim(out, {"classes": ["a"]}, False)
    entries = entries if known is None else known
    watch = Watch()
    parts = output.run(made, out, entries, watch, each, quiet=True)
    output.finish(made, out, parts, watch, 1.0, True)
    return {part.name: part.read_bytes() for part in parts}
