"""Tiny models with random variables, described as a folder describes them."""

from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from retina_jax.convert import model_folder, rules

WORDS = ("normal", "glaucoma", "cataract", "a", "photograph", "of", "eye", "left", "right", "large",
         "cup")  # fmt: skip
SIZE = 32
VIT = {"name": "vit", "width": 16, "depth": 1, "heads": 2, "mlp_dim": 16, "patch_size": 16}


def vocabulary(folder: Path) -> Path:
    """A vocab.txt of a few words."""
    path = folder / "words.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    return path


def bert(**options: Any) -> dict[str, Any]:
    """The spec of a text tower over `vocabulary`."""
    return {"name": "bert", "vocab_size": len(WORDS) + 5, "width": 16, "depth": 1, "heads": 2,
            "mlp_dim": 16, "max_length": 12, **options}  # fmt: skip


def dual(**options: Any) -> dict[str, Any]:
    """The spec of an image and a text tower."""
    return {"name": "dual", "towers": {"image": VIT, "text": bert(**options)}, "dim": 8}


def description(folder: Path, **options: Any) -> model_folder.Description:
    """Of `dual`, unless `options` say something else."""
    given = {"title": "tiny", "model": dual(), "image_size": SIZE,
             "transforms": ({"name": "decode", "size": SIZE},),
             "tokenizer": {"name": "wordpiece", "vocab": str(vocabulary(folder)),
                           "lower_case": True},
             "text_length": 8, "classes": ("normal", "glaucoma", "cataract"),
             "template": "a photograph of {}", "licence": "MIT",
             "citation": "Nobody, Nothing, 2026", "source": {"run": "tiny", "step": 7},
             **options}  # fmt: skip
    return model_folder.Description(**given)


def variables(described: model_folder.Description, seed: int = 0) -> dict[str, Any]:
    """Random ones of the described model."""
    rng = np.random.default_rng(seed)
    shapes = rules.abstract(dict(described.model), described.image_size)
    flat = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    # Within its bounds, so that it makes a difference.
    flat |= {name: np.float32(1.5) for name in flat if name.startswith("params/logit_scale")}
    return traverse_util.unflatten_dict(flat, sep="/")


def write(folder: Path, **options: Any) -> model_folder.Description:
    """Writes a tiny model to `folder`/model and returns its description."""
    described = description(folder, **options)
    model_folder.write_folder(folder / "model", described, variables(described))
    return described
