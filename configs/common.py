"""Pieces that the configs share: functions that return plain settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

# The coarse diagnoses of the embedded data, in the order of their labels.
DIAGNOSES = (
    "normal",
    "diabetic retinopathy",
    "glaucoma",
    "age related macular degeneration",
    "pathologic myopia",
    "cataract",
)
# Prompts of a class by modality.
PROMPTS = {
    "cfp": "A fundus photograph of {}",
    "ffa": "A fundus fluorescein angiography image of {}",
    "oct": "An optical coherence tomography scan of {}",
}
PROMPT = PROMPTS["cfp"]
# Leaves out, and counts in the log, records whose caption is empty.
WITH_CAPTION = {"mode": "exact", "field": "caption", "words": ("",)}
# All devices split the batch; `fsdp` of them also split each array of at least `smallest` numbers.
MESH = {"data": -1, "fsdp": 1, "smallest": 2**16}


def choose(variant: str, **variants: Any) -> ConfigDict:
    """Calls the variant of a config that was asked for with `configs/x.py:variant`."""
    if variant not in variants:
        raise ValueError(f"There is no variant '{variant}'; choose from {', '.join(variants)}.")
    return variants[variant]()


def stage(**settings: Any) -> ConfigDict:
    """A stage of a run: the settings that every one has, then those given."""
    config = ConfigDict(
        {
            "seed": 0,
            "data_dir": config_dict.placeholder(str),
            "tokenizer": {"name": "sentencepiece"},
            "loading": {"num_workers": 0, "num_threads": 2},
            "weights": {},
            "every": {
                "log": {"steps": 10},
                "evaluate": {"steps": 0},
                "checkpoint": {"percent": 20},
            },
            "keep": {"last": 2, "best": config_dict.placeholder(str)},
            "mesh": dict(MESH),
            "restore_from": config_dict.placeholder(object),
            "microbatch": config_dict.placeholder(int),  # rows; None for whole batches
            "statistics_per_microbatch": False,
            "most_skipped": 20,
            "evaluators": {},
            "corpora": {},
        }
    )
    for name, value in settings.items():
        config[name] = value
    return config


def stages(**by_name: ConfigDict) -> ConfigDict:
    """A run of several stages in the order given; they share `seed`, `data_dir` and `mesh`."""
    shared = {"seed": 0, "data_dir": config_dict.placeholder(str), "mesh": dict(MESH)}
    config = ConfigDict({**shared, "order": tuple(by_name), "stages": by_name})
    for name in by_name:
        for option in shared:
            config.stages[name][option] = config.get_ref(option)
    return config


def photographs(size: int, augment: bool, mirror: bool = True) -> tuple[dict[str, Any], ...]:
    """Decoding, and FLAIR's augmentation where asked for; texts that name sides want no mirror."""
    decode = {"name": "decode", "size": size}
    if not augment:
        return (decode,)
    return (
        decode,
        *(({"name": "random_flip"},) if mirror else ()),
        {"name": "random_affine"},
        {"name": "color_jitter"},
    )


def categorical(
    size: int, length: int, augment: bool = True, template: str | None = PROMPT, **prompt: Any
) -> tuple[dict[str, Any], ...]:
    """Images with a prompt made of one of their labels; equal labels share a group (FLAIR)."""
    return (
        *photographs(size, augment),
        {"name": "prompt", "template": template, **prompt},
        {"name": "tokenize", "source": "prompt", "length": length},
        {"name": "group", "source": "category"},
    )


def captioned(
    size: int, length: int, augment: bool = False, source: str = "caption", mirror: bool = True
) -> tuple[dict[str, Any], ...]:
    """Images with their free text; equal texts share a group (KeepFIT's expert stream)."""
    return (*photographs(size, augment, mirror), *said(length, source))


def said(length: int, source: str, group: str | None = None) -> tuple[dict[str, Any], ...]:
    """The free text of records, and an id of those equal in the field `group`, if not in it."""
    return (
        # Before the text makes way for its tokens, where its field is the 'text' of the batch.
        {"name": "group", "source": group or source},
        {"name": "tokenize", "source": source, "length": length},
    )


def labelled(size: int, classes: tuple, source: str) -> tuple[dict[str, Any], ...]:
    """Images with the index of their class."""
    return (*photographs(size, False), {"name": "label", "classes": classes, "source": source})


def small_resnet(width: int = 32, depth: int = 18) -> dict[str, Any]:
    """A narrow ResNet for processors."""
    return {"name": "resnet", "depth": depth, "width": width}


def small_vit(width: int = 32, depth: int = 1, patch_size: int = 8) -> dict[str, Any]:
    """A small vision transformer."""
    return {
        "name": "vit",
        "width": width,
        "depth": depth,
        "heads": 4,
        "mlp_dim": 4 * width,
        "patch_size": patch_size,
    }


def small_bert(width: int = 128, depth: int = 2) -> dict[str, Any]:
    """A small text tower over the shipped bilingual vocabulary."""
    return {
        "name": "bert",
        "vocab_size": None,  # the tokenizer's
        "width": width,
        "depth": depth,
        "heads": 4,
        "mlp_dim": 4 * width,
        "max_length": 128,
        "dropout": 0.1,
    }


def contrastive(*pairs: tuple[str, str], **options: Any) -> dict[str, Any]:
    """The loss of pairs of embeddings; its tiles are open to the command line."""
    return {
        "name": "contrastive",
        "pairs": pairs,
        "blockwise": config_dict.placeholder(int),  # None: the whole matrix of logits
        **options,
    }


RESNET_50 = {"name": "resnet", "depth": 50}
# vocab.txt of Bio_ClinicalBERT, which its authors publish with the weights.
VOCABULARY_FILE = "vocab.txt"
CLINICAL_BERT = {"name": "bert", "vocab_size": 28_996}  # Bio_ClinicalBERT: the tower's defaults


def adamw(
    learning_rate: float, weight_decay: float, schedule: Mapping[str, Any], **options: Any
) -> dict[str, Any]:
    """AdamW over all parameters with gradients clipped at norm 1, as FLAIR and KeepFIT train."""
    return {
        "optimizer": {"name": "adamw", "weight_decay": weight_decay, **options},
        "learning_rate": learning_rate,
        "schedule": dict(schedule),
        "clip": 1.0,
        "rules": ((".*", {}),),
    }


def embedded_evaluators(
    dataset: str,
    size: int,
    length: int,
    batch_size: int,
    splits: Mapping[str, str],
    template: str = PROMPT,
) -> dict[str, Any]:
    """Zero-shot, retrieval and linear probe on the embedded data.

    Args:
      dataset: its address.
      size: side of the images in pixels.
      length: tokens of a text.
      batch_size: rows evaluated at once.
      splits: 'train' (of the probe) and 'test'.
      template: prompt of a class, with {} for its name.
    """

    def data(split: str, transforms: tuple) -> dict[str, Any]:
        return {
            "dataset": dataset,
            "split": splits[split],
            "batch_size": batch_size,
            "transforms": transforms,
        }

    labels = labelled(size, DIAGNOSES, "diagnosis")
    return {
        "zeroshot": {
            "name": "zeroshot",
            "data": data("test", labels),
            "classes": DIAGNOSES,
            "template": template,
            "length": length,
        },
        "retrieval": {"name": "retrieval", "data": data("test", captioned(size, length))},
        "linear_probe": {
            "name": "linear_probe",
            "train": data("train", labels),
            "test": data("test", labels),
            "classes": DIAGNOSES,
        },
    }
