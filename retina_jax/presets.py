"""What configs share: plain data, and functions that return plain data.

It imports nothing but the standard library, so a config can be read wherever Python runs.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

Config = dict[str, Any]
Transforms = tuple[Config, ...]

# The coarse diagnoses of the embedded data, in the order of their labels.
DIAGNOSES = (
    "normal", "diabetic retinopathy", "glaucoma", "age related macular degeneration",
    "pathologic myopia", "cataract",
)  # fmt: skip
# The prompt of a class by modality.
PROMPTS = {
    "cfp": "A fundus photograph of {}",
    "ffa": "A fundus fluorescein angiography image of {}",
    "oct": "An optical coherence tomography scan of {}",
}
# Prompts that are the "name: definition" of a class.
DEFINITIONS = {"template": "{}", "knowledge": "cfp", "mode": "define"}
# SKKU: all chosen words become the mask, 30 % of single tokens.
MASKED_WORDS = {"name": "mask_tokens", "probability": 0.3, "whole_words": False,
                "mask_token_share": 1.0, "random_token_share": 0.0}  # fmt: skip
# Leaves out, and counts in the log, records whose caption is empty.
WITH_CAPTION = {"mode": "exact", "field": "caption", "words": ("",)}

RESNET_50 = {"name": "resnet", "depth": 50}
# Bio_ClinicalBERT, and the vocabulary that its authors publish with the weights.
CLINICAL_BERT = {"name": "bert", "vocab_size": 28_996}
CLINICAL_VOCABULARY = {"name": "wordpiece", "vocab": "vocab.txt"}
# Sizes and ids that a model has from the tokenizer.
OF_TOKENIZER = {"vocab_size": None, "bos_id": None, "eos_id": None}
# Towers in half precision, as FLAIR, KeepFIT and RET-CLIP were trained; statistics of norms,
# embeddings and losses stay float32. Steps of ResNets are limited by the bytes that they move.
HALF = {"dtype": "bfloat16"}
# The towers of FLAIR and KeepFIT.
FLAIR_TOWERS = {"image": RESNET_50, "text": {**CLINICAL_BERT, "pool": "flair"}}
# The 31 data sets of FLAIR's pre-training, as its tables spell the folders; those that it is tested
# on (02, 13, 25, 36 to 38) and 22, whose list is empty, are not among them.
FLAIR_SETS = (
    "01_EYEPACS", "03_IDRID", "03_IDRiD", "04_RFMid", "05_1000x39", "06_DEN", "07_LAG",
    "08_ODIR-5K", "09_PAPILA", "10_PARAGUAY", "11_STARE", "12_ARIA", "14_AGAR300", "15_APTOS",
    "16_FUND-OCT", "17_DiaRetDB1", "18_DRIONS-DB", "19_Drishti-GS1", "20_E-ophta", "21_G1020",
    "23_HRF", "24_ORIGA", "26_ROC", "27_BRSET", "28_OIA-DDR", "29_AIROGS", "30_SUSTech-SYSU",
    "31_JICHI", "32_CHAKSU", "33_DR1-2", "34_Cataract", "35_ScarDat",
)  # fmt: skip
# Sets labelled in free text, whose words are not replaced by knowledge. The released list says
# 06_EYENET for the set whose folder is 06_DEN.
FREE_TEXT_SETS = ("06_DEN", "06_EYENET", "08_ODIR-5K", "11_STARE", "31_JICHI")

# The public training sets of KeepFIT by modality; it leaves out whole labels only.
PUBLIC = {
    "cfp": {
        "dataset": "flair/default",
        "split": "train",
        "where": {"dataset": tuple(name for name in FLAIR_SETS if name != "05_1000x39")},
        "ban": {"mode": "exact"},
    },
    "ffa": {"dataset": "ffa_ir/default", "split": "train", "ban": WITH_CAPTION},
    "oct": {"dataset": "kermany_oct/default", "split": "train"},
}

# The expert pairs of all modalities.
MM_RETINAL = {"dataset": "mm_retinal/default", "split": "train", "ban": WITH_CAPTION}

_BUILD, _PREPARE = "run python -m data_pipelines.build", "run python -m data_pipelines.prepare"
_AS_THEY_ARE = "--source=FOLDER --size=512 --crop=none --pad=none --data_dir=DIR"
_TO_512 = "--source=FOLDER --max_side=512 --data_dir=DIR"
HOW_TO_GET = {
    "flair/default": "put FLAIR's or KeepFIT's dataframes of pre-training, not those of transfer, "
    "which list test pictures of the same folders, and the images they name under one folder, then "
    f"{_PREPARE} --dataset=flair {_AS_THEY_ARE}",
    "mm_retinal/default": "ask the authors of MM-Retinal for its folders CFP, FFA and OCT and "
    f"their tables, then {_PREPARE} --dataset=mm_retinal {_AS_THEY_ARE}",
    "ffa_ir/default": f"ask PhysioNet for FFA-IR, then {_PREPARE} --dataset=ffa_ir {_AS_THEY_ARE}",
    "ffa_ir/images": f"obtain FFA-IR from PhysioNet and {_BUILD} --dataset=ffa_ir --name=images "
    "--source=FOLDER --data_dir=DIR",
    "ffa_ir/cases": f"{_BUILD} --dataset=ffa_ir --name=cases --source=FOLDER --unit=case "
    "--max_images=16 --data_dir=DIR",
    "kermany_oct/default": f"download Kermany's OCT2017, then {_PREPARE} --dataset=kermany_oct "
    f"{_AS_THEY_ARE}",
    "odir/default": f"get ODIR-5K, then {_BUILD} --dataset=odir {_TO_512}",
    "fives/default": f"get FIVES, then {_BUILD} --dataset=fives {_TO_512}",
    "aptos/default": f"get APTOS 2019, then {_BUILD} --dataset=aptos {_TO_512}",
    "ret_clip/default": "put train_imgs.tsv and train_texts.jsonl in the form of RET-CLIP under "
    f"one folder, then {_BUILD} --dataset=ret_clip {_TO_512}",
    "fundus_oct/default": "put a table pairs.csv and the files it names into one folder, then "
    f"{_BUILD} --dataset=fundus_oct --source=FOLDER --slices=32 --data_dir=DIR",
    "fundus_oct/downstream": "put a table pairs.csv of patients to predict for, with the columns "
    "good_acuity and high_treatment_need (0 or 1) and central_thickness (in micrometres), and the "
    f"files it names into one folder, then {_BUILD} --dataset=fundus_oct --name=downstream "
    "--source=FOLDER --slices=32 --column labels= --data_dir=DIR",
    **{
        f"text_corpus/{name}": "put ophthalmic texts as .txt files, paragraphs separated by blank "
        f"lines, into one folder and {_BUILD} --dataset=text_corpus --name={name} "
        "--source=FOLDER --data_dir=DIR"
        for name in ("ophthalmology", "eye")
    },
}


def data(
    dataset: str, split: str, batch_size: int, transforms: Transforms, **options: Any
) -> Config:  # fmt: skip
    """Records of a stream or of an evaluation: options of `inputs.streams` or `.evaluations`."""
    named = {"dataset": dataset, "split": split, "batch_size": batch_size}
    return {**named, "transforms": transforms, **options}


def how_to_get(*datasets: str) -> dict[str, str]:
    """What is said where one of these data sets is missing: {address: sentence}."""
    return {name: HOW_TO_GET[name] for name in datasets}


@dataclasses.dataclass(frozen=True)
class Scale:
    """What a run on embedded data is made of.

    Attributes:
      dataset: address of the photographs; those of other modalities have a suffix.
      size: side of a picture in pixels.
      length: tokens of a text.
      image: the tower of pictures.
      text: the tower of texts.
      dim: dimensions of the common space.
      probe: the split that a linear probe is fitted on.
    """

    dataset: str
    size: int
    length: int
    image: Config
    text: Config
    dim: int
    probe: str


def resnet(width: int) -> Config:
    """A narrow ResNet-18."""
    return {"name": "resnet", "depth": 18, "width": width}


def vit(width: int, depth: int = 1, patch_size: int = 8) -> Config:
    """A small vision transformer."""
    size = {"width": width, "depth": depth, "heads": 4, "mlp_dim": 4 * width}
    return {"name": "vit", **size, "patch_size": patch_size}


def bert(width: int, depth: int) -> Config:
    """A small text tower over the tokenizer's vocabulary."""
    size = {"width": width, "depth": depth, "heads": 4, "mlp_dim": 4 * width, "max_length": 128}
    return {"name": "bert", "vocab_size": None, **size}


def scale(variant: str, modality: str = "cfp", **changes: Any) -> Scale:
    """That of a variant for data of a modality, with some of its attributes changed."""
    found = dataclasses.replace(SCALES[variant], **changes)
    if modality == "cfp":
        return found
    return dataclasses.replace(found, dataset=f"{found.dataset}_{modality}")


# demo takes minutes on two cores, smoke seconds.
SCALES = {
    "demo": Scale("synthetic_retina/demo", 96, 48, resnet(32), bert(128, 2), 128, "public[:1000]"),
    "smoke": Scale("synthetic_retina/smoke", 32, 32, resnet(8), bert(32, 1), 16, "public"),
}


def photographs(
    size: int, augment: bool = False, mirror: bool = True, **decode: Any
) -> Transforms:  # fmt: skip
    """Decoding, and FLAIR's augmentation where asked for; texts that name sides want no mirror."""
    flip = ({"name": "random_flip"},) if mirror else ()
    changes = (*flip, {"name": "random_affine"}, {"name": "color_jitter"}) if augment else ()
    return ({"name": "decode", "size": size, **decode}, *changes)


def fundus_augmentation(source: Any = "image", mirror: bool = True, **options: Any) -> Transforms:
    """Changes of decoded fundus photographs: place, light, colours of the camera, and focus.

    Args:
      source: the fields, which share their draws.
      mirror: whether they may be mirrored; not where texts name sides.
      **options: what every transform is given, e.g. `where={'modality': 'cfp'}` in a mixed stream.
    """
    colours = ({"name": "color_jitter", "probability": 0.5, "saturation": 0.2},
               {"name": "color_cast"})  # fmt: skip
    return _acquired(colours, 15.0, mirror, {"source": source, **options})


def oct_augmentation(source: Any = "oct", mirror: bool = True, **options: Any) -> Transforms:
    """Small turns, light, speckle and focus of OCT, the rest as for `fundus_augmentation`.

    Of volumes of horizontal B-scans, or of B-scans that are decoded as pictures (`source='image'`).
    """
    changes = ({"name": "color_jitter", "probability": 0.5}, {"name": "speckle_noise"})
    return _acquired(changes, 8.0, mirror, {"source": source, **options})


def _acquired(changes: Transforms, degrees: float, mirror: bool, own: Config) -> Transforms:
    place = {"probability": 0.5, "degrees": degrees, "scale": (0.9, 1.1), "shift": 0.05}
    flip = ({"name": "random_flip"},) if mirror else ()
    light = ({"name": "random_gamma"}, {"name": "gaussian_blur"})
    return tuple(
        {**spec, **own} for spec in (*flip, {"name": "random_affine", **place}, *changes, *light)
    )


def text_inputs(length: int, source: str, group: str | None = None) -> Transforms:
    """The tokens of a free text, and an id of records that are equal in a field.

    Args:
      length: tokens of a text, its ends included.
      source: the field of the text.
      group: the field that is compared; by default the text.
    """
    return (
        # Before the text makes way for its tokens, where its field is the 'text' of the batch.
        {"name": "group", "source": group or source},
        {"name": "tokenize", "source": source, "length": length},
    )


def bilingual(length: int, sources: Sequence[str], group: str) -> Transforms:
    """A text in one of its languages, drawn; `group` as in `text_inputs`."""
    drawn = {"name": "caption", "sources": sources, "target": "text"}
    return (drawn, *text_inputs(length, "text", group))


def unmirrored(source: str) -> Transforms:
    """Small changes of geometry and colours, but no mirrors: the texts name the sides."""
    own = {"source": source, "share": False}
    return ({"name": "random_affine", **own}, {"name": "color_jitter", **own})


def captioned(
    size: int, length: int, augment: bool = False, mirror: bool = True, source: str = "caption"
) -> Transforms:
    """Pictures with their free text; equal texts share a group (KeepFIT's expert stream)."""
    return (*photographs(size, augment, mirror), *text_inputs(length, source))


def categorical(
    size: int, length: int, template: str | None = None, **prompt: Any
) -> Transforms:  # fmt: skip
    """Augmented pictures with a prompt made of one of their labels; equal labels share a group.

    Args:
      size: side of a picture in pixels.
      length: tokens of a prompt.
      template: the prompt with {} for the label; None for that of the modality.
      **prompt: options of the transform `prompt`.
    """
    return (
        *photographs(size, augment=True),
        {"name": "prompt", "template": template, **prompt},
        {"name": "tokenize", "source": "prompt", "length": length},
        {"name": "group", "source": "category"},
    )


def flair_prompts(size: int, length: int) -> Transforms:
    """Pictures and prompts as FLAIR makes them of its public sets."""
    words = {"knowledge": "cfp", "attributes": "attributes", "excluded": FREE_TEXT_SETS}
    return categorical(size, length, "A [ATR] fundus photograph of {}", **words)


def labelled(size: int, classes: Sequence[Any], source: str) -> Transforms:
    """Pictures with the index of their class; a class is a label or a tuple of synonyms."""
    return (*photographs(size), {"name": "label", "classes": classes, "source": source})


def contrastive(*pairs: tuple[str, str], **options: Any) -> Config:
    """The contrastive loss of pairs of embeddings."""
    return {"name": "contrastive", "pairs": pairs, **options}


def keepfit_streams(public: Config, expert: Config, batch_size: int, prefix: str = "") -> Config:
    """Public pictures beside as many expert pairs, which are drawn with replacement."""
    return {
        f"{prefix}public": {**public, "batch_size": batch_size},
        f"{prefix}expert": {**expert, "batch_size": batch_size, "replacement": True},
    }


# KeepFIT's terms: both streams are contrasted, and expert texts revise the public ones.
KEEPFIT_TERMS = {
    "objectives": {
        "public": contrastive(("public/image", "public/text"), groups=True),
        "expert": contrastive(("expert/image", "expert/text"), groups=True),
        "reference": {"name": "reference"},
    },
    "weights": {"reference": 100.0},
}


def adamw(
    learning_rate: float,
    weight_decay: float,
    warmup: Mapping[str, float],
    *,
    schedule: str = "cosine",
    horizon: Mapping[str, float] | None = None,
    **options: Any,
) -> Config:
    """AdamW over all parameters with gradients clipped at norm 1, as FLAIR and KeepFIT train.

    Args:
      learning_rate: the highest one.
      weight_decay: the weight decay of all parameters.
      warmup: duration of the linear rise.
      schedule: what follows it.
      horizon: duration after which the schedule would end; by default that of the training.
      **options: the options of the optimizer.
    """
    end = {"horizon": horizon} if horizon else {}
    return {
        "optimizer": {"name": "adamw", "weight_decay": weight_decay, **options},
        "learning_rate": learning_rate,
        "schedule": {"name": schedule, "warmup": warmup, **end},
        "clip": 1.0,
    }


def keepfit(
    towers: Config, dim: int, public: Config, expert: Config, batch_size: int, **options: Any
) -> Config:
    """The model, with its options, the streams and the terms of KeepFIT."""
    return {
        "model": {"name": "keepfit", "towers": towers, "dim": dim, **options},
        "streams": keepfit_streams(public, expert, batch_size),
        **KEEPFIT_TERMS,
    }


def keepfit_embedded(scale: Scale, prompts: Transforms, batch_size: int) -> Config:
    """The same on embedded data; `prompts` are the transforms of the public pictures."""
    public, expert = ({"dataset": scale.dataset, "split": name} for name in ("public", "expert"))
    return keepfit(
        {"image": scale.image, "text": scale.text},
        scale.dim,
        {**public, "transforms": prompts},
        {**expert, "transforms": captioned(scale.size, scale.length)},
        batch_size,
    )


# How FLAIR and KeepFIT train what they publish.
FLAIR_RECIPE = {
    "tokenizer": CLINICAL_VOCABULARY,
    "optimization": adamw(1e-4, 1e-5, {"epochs": 1}, horizon={"epochs": 100}),
    "loading": {"num_workers": 8},
}


def chosen(variant: str, *groups: Sequence[str]) -> list[str]:
    """The words of a variant, which are separated by commas.

    Args:
      variant: what follows the colon of `--config=NAME:VARIANT`.
      *groups: words that exclude each other.

    Raises:
      ValueError: for a word of no group, or two of one.
    """
    found = variant.split(",")
    known = list(dict.fromkeys(word for group in groups for word in group))
    for word in found:
        if word not in known:
            raise ValueError(f"There is no variant '{word}'; choose from {', '.join(known)}.")
    for group in groups:
        if len(both := [word for word in found if word in group]) > 1:
            raise ValueError(f"The variants {', '.join(both)} exclude each other; leave one out.")
    return found


def without(config: Config, *patterns: str, path: str = "") -> Config:
    """The config without the keys whose dotted path matches one of the patterns.

    Args:
      config: is not changed.
      *patterns: for example 'stages.knowledge.objectives.reference*'.
      path: where the config lies in a larger one, with a dot at its end.
    """
    kept = {}
    for key, value in config.items():
        if not any(fnmatch.fnmatchcase(path + key, pattern) for pattern in patterns):
            nested = isinstance(value, dict)
            kept[key] = without(value, *patterns, path=f"{path}{key}.") if nested else value
    return kept
