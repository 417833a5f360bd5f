"""Evaluations that configs share, as plain data; like `presets`, it imports no library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from retina_jax import presets

# The seven of ODIR's labels that have a definition, N D G C A H M, and keywords of each.
ODIR = {
    "normal": ("normal fundus",),
    "diabetic retinopathy": (
        "diabetic retinopathy", "mild nonproliferative retinopathy",
        "moderate non proliferative retinopathy", "severe nonproliferative retinopathy",
        "proliferative diabetic retinopathy", "severe proliferative diabetic retinopathy",
    ),
    "glaucoma": ("glaucoma", "suspected glaucoma"),
    "cataract": ("cataract",),
    "age related macular degeneration": (
        "age-related macular degeneration", "dry age-related macular degeneration",
        "wet age-related macular degeneration",
    ),
    "hypertensive retinopathy": ("hypertensive retinopathy",),
    "pathologic myopia": ("pathological myopia",),
}  # fmt: skip
FIVES = ("normal", "age related macular degeneration", "diabetic retinopathy", "glaucoma")
APTOS = (
    "no diabetic retinopathy", "mild diabetic retinopathy", "moderate diabetic retinopathy",
    "severe diabetic retinopathy", "proliferative diabetic retinopathy",
)  # fmt: skip


def evaluators(scale: presets.Scale, modality: str = "cfp") -> presets.Config:
    """Zero-shot classification, retrieval and a linear probe on the embedded data."""
    labels = presets.labelled(scale.size, presets.DIAGNOSES, "diagnosis")
    test = presets.data(scale.dataset, "test", 64, labels)
    prompts = {"template": presets.PROMPTS[modality], "length": scale.length}
    pairs = {**test, "transforms": presets.captioned(scale.size, scale.length)}
    fitted = {"train": {**test, "split": scale.probe}, "test": test}
    return {
        "zeroshot": {"name": "zeroshot", "data": test, "classes": presets.DIAGNOSES, **prompts},
        "retrieval": {"name": "retrieval", "data": pairs},
        "linear_probe": {"name": "linear_probe", **fitted, "classes": presets.DIAGNOSES},
    }


def generative(scale: presets.Scale, few_shot: bool) -> presets.Config:
    """Those of definitions, what is made of hidden patches, and fits of one picture a class."""
    made = evaluators(scale)
    made["zeroshot"] |= presets.DEFINITIONS
    diagnoses = presets.captioned(scale.size, scale.length, source="diagnosis")
    hidden = {**made["zeroshot"]["data"], "transforms": diagnoses}
    made["reconstruction"] = {"name": "reconstruction", "data": hidden}
    if few_shot:
        fitted = {**made["linear_probe"], "shots": (1,)}
        prompts = {**presets.DEFINITIONS, "length": scale.length}
        made["fewshot"] = {**fitted, "name": "fewshot", "repeats": 2, **prompts}
        short = {"steps": 2, "checks": 1, "batch_size": 8}
        made["finetune"] = {**fitted, "name": "finetune", **short}
    return made


def captioning(test: presets.Config, split: str | None, **options: Any) -> presets.Config:
    """Captions of the pictures `test`, beside those of the nearest pictures of another split."""
    known = {"train": {**test, "split": split}} if split else {}
    return {"name": "captioning", **known, "test": test, **options}


def skku_table(size: int, length: int) -> presets.Config:
    """What SKKU's paper tabulates: zero-shot on ODIR, few-shot on FIVES, fine-tuning on APTOS.

    Args:
      size: side of a picture in pixels.
      length: tokens of a definition.
    """

    def split(corpus: str, name: str, classes: Any, **options: Any) -> presets.Config:
        transforms = presets.labelled(size, classes, "labels")
        return presets.data(f"{corpus}/default", name, 64, transforms, **options)

    keywords = tuple(ODIR.values())
    # Photographs of patients with one of the seven labels and no other.
    one = {"patient_flags": tuple("NDGCAHM"), "labels": sum(keywords, ())}
    return {
        "odir_zeroshot": {
            "name": "zeroshot",
            "data": split("odir", "train+validation+test", keywords, where=one),
            "classes": tuple(ODIR),
            "length": length,
            "metrics": ("accuracy", "balanced_accuracy", "auc"),
            **presets.DEFINITIONS,
        },
        "fives_fewshot": {
            "name": "finetune",
            **{name: split("fives", name, FIVES) for name in ("train", "test")},
            "classes": FIVES,
            "shots": (1, 5, 10),
            "repeats": 3,
            "learning_rates": (1e-5, 1e-4),
            "steps": 300,
            "metrics": ("accuracy", "auc"),
        },
        "aptos_finetune": {
            "name": "finetune",
            **{name: split("aptos", name, APTOS) for name in ("train", "validation", "test")},
            "classes": APTOS,
            "steps": 3200,  # 50 epochs
            "checks": 50,
            "metrics": ("quadratic_kappa", "accuracy", "auc"),
        },
    }


# What Sükei et al. predict from OCT: columns of the table of `fundus_oct/downstream`, beside the
# usual ones. The first two are 0 or 1; central subfield thickness is in micrometres.
_YES_NO = (("no", "0"), ("yes", "1"))
FUNDUS_OCT_TASKS = {
    "good_acuity": {"name": "label", "classes": _YES_NO, "source": "good_acuity"},
    "high_need": {"name": "label", "classes": _YES_NO, "source": "high_treatment_need"},
    "thickness": {"name": "quantity", "source": "central_thickness"},
}


# Of embedded eyes: whether anything is wrong with one, and its refraction in dioptres.
EMBEDDED_OCT_TASKS = {
    "disease": {
        "name": "label",
        "classes": ("normal", ("disease", *presets.DIAGNOSES[1:])),
        "source": "diagnosis",
    },
    "myopia": {"name": "quantity", "source": "myopia"},
}


def _firsts(classes: Sequence[Any]) -> tuple[str, ...]:
    """The names of classes, each a name or a tuple of synonyms."""
    return tuple(name if isinstance(name, str) else name[0] for name in classes)


def downstream(
    data: presets.Config, tasks: presets.Config, tuned: presets.Config | None = None,
    incomplete: bool = False, image: str = "oct", folds: int = 5,
) -> presets.Config:  # fmt: skip
    """Sükei et al.: an encoder and one linear layer, frozen and fine-tuned, by folds of patients.

    Means over the folds of the area under the curve of binary targets and of R2 of quantities.

    Args:
      data: the records without their targets.
      tasks: name -> the transform that makes the target, a `label` of two classes or a `quantity`.
      tuned: options of fine-tuning beside the defaults of `FineTune`; None for the probe alone.
      incomplete: whether records may lack a target, '' in its field; a task leaves these out, and
        the log counts them.
      image: the batch key of the encoder.
      folds: the number of folds.
    """
    made = {}
    for name, target in tasks.items():
        quantity = target["name"] == "quantity"
        known = {"ban": {"mode": "exact", "field": target["source"], "words": ("",)}}
        shared = {
            "train": {
                **data,
                "transforms": (*data["transforms"], target),
                **(known if incomplete else {}),
            },
            "classes": (name,) if quantity else _firsts(target["classes"]),
            "labels": "target" if quantity else "label",
            "metrics": ("r2",) if quantity else ("auc",),
            "image": image,
            "folds": folds,
        }
        made[f"{name}_probe"] = {"name": "linear_probe", **shared}
        if tuned is not None:
            made[f"{name}_finetune"] = {"name": "finetune", **shared, **tuned}
    return made


# Of each kind of labels: the transform that makes them, and options of an evaluator.
KINDS = {
    "classes": ("label", {}),
    "grades": ("label", {"metrics": ("quadratic_kappa", "balanced_accuracy", "accuracy", "auc")}),
    "labels": ("multi_label", {"labels": "labels"}),
}


def own_split(
    dataset: str, classes: Any, size: int = 224, kind: str = "classes", train: str = "train",
    test: str = "test", validation: str | None = None, source: str = "labels", **options: Any,
) -> presets.Config:  # fmt: skip
    """A linear probe of a data set of one's own, fitted on one split and scored on another.

    Args:
      dataset: its address, 'manifest/mine' for instance.
      classes: names, or tuples of a name and its synonyms.
      size: side of a picture in pixels.
      kind: 'classes', 'grades' (classes in their order) or 'labels' (any number a record).
      train, test, validation: splits; thresholds are chosen on the last one, if there is any.
      source: the field that has the labels.
      **options: options of `linear_probe`.
    """
    [found] = presets.chosen(kind, tuple(KINDS))
    transform, more = KINDS[found]
    label = {"name": transform, "classes": classes, "source": source}
    splits = {"train": train, "test": test, "validation": validation}
    parts = {
        name: presets.data(dataset, split, 64, (*presets.photographs(size), label))
        for name, split in splits.items()
        if split
    }
    return {"name": "linear_probe", **parts, "classes": _firsts(classes), **more, **options}


def frozen_probes(dataset: str, classes: Any, **options: Any) -> presets.Config:
    """`own_split`, with its options, by the linear, nearest-neighbour and attentive probe."""
    names = {"linear_probe": "linear_probe", "knn_probe": "knn", "attentive_probe": "attentive"}
    return {key: {**own_split(dataset, classes, **options), "name": name}
            for key, name in names.items()}  # fmt: skip


def volumes(dataset: str, split: str, slices: int, side: int) -> presets.Config:
    """OCT volumes [slices side side 1] alone, all looking like right eyes."""
    read = {"name": "volume", "slices": slices, "size": side}
    right = {"name": "canonical_laterality", "source": "oct"}
    return presets.data(dataset, split, 64, (read, right))


def fundus_oct_poster(dataset: str, slices: int, side: int) -> presets.Config:
    """`downstream` of all records of a table of patients, frozen and fine-tuned."""
    patients = volumes(dataset, "train+validation+test", slices, side)
    tuned = {"augment": presets.oct_augmentation(mirror=False)}
    return downstream(patients, FUNDUS_OCT_TASKS, tuned, incomplete=True)


def embedded_pairs(
    test: presets.Config, fitted: str, slices: int, side: int
) -> presets.Config:  # fmt: skip
    """Probes of the diagnosis by either picture, and `downstream`, frozen, as it takes less long.

    Args:
      test: pairs of the test split.
      fitted: the split that probes of the diagnosis are fitted on.
      slices, side: B-scans of a volume, and pixels of their sides.
    """
    label = {"name": "label", "classes": presets.DIAGNOSES, "source": "diagnosis"}
    pairs = {**test, "transforms": (*test["transforms"], label)}
    both = {"train": {**pairs, "split": fitted}, "test": pairs, "classes": presets.DIAGNOSES}
    scans = volumes(test["dataset"], test["split"], slices, side)
    return {
        "linear_probe_fundus": {"name": "linear_probe", "image": "image", **both},
        "linear_probe_oct": {"name": "linear_probe", "image": "oct", **both},
        **downstream(scans, EMBEDDED_OCT_TASKS),
    }


def of_eyes(dataset: str, split: str, size: int, *transforms: presets.Config) -> presets.Config:
    """Both eyes of patients, and what further transforms make."""
    return presets.data(dataset, split, 64, ({"name": "eyes", "size": size}, *transforms))


def report_retrieval(
    dataset: str, size: int, length: int, source: str = "report", **options: Any
) -> presets.Config:  # fmt: skip
    """Patients of the test split and their reports in one language."""
    reports = presets.text_inputs(length, source)
    return {
        "name": "retrieval",
        "image": "eyes",
        "caption": source,
        "data": of_eyes(dataset, "test", size, *reports),
        **options,
    }


def patients(dataset: str, size: int, length: int, probe: str) -> presets.Config:
    """Zero-shot, retrieval in both languages and linear probes on the embedded patients.

    Args:
      dataset: its address.
      size: side of a picture in pixels.
      length: tokens of a text.
      probe: the split that linear probes are fitted on.
    """
    grades = ("mild", "moderate", "severe", "proliferative")
    diagnoses = tuple(
        (name, *(f"{grade} {name}" for grade in grades if name == "diabetic retinopathy"))
        for name in presets.DIAGNOSES
    )
    # What else the eyes may have.
    findings = (*diagnoses, ("hypertensive retinopathy",), ("diabetic macular edema",))

    def data(split: str, name: str, classes: Any) -> presets.Config:
        label = {"name": name, "classes": classes, "source": "labels"}
        return of_eyes(dataset, split, size, label)

    def fitted(name: str, classes: Any) -> presets.Config:
        both = {"train": data(probe, name, classes), "test": data("test", name, classes)}
        return {"name": "linear_probe", "image": "eyes", **both, "classes": _firsts(classes)}

    return {
        "zeroshot": {
            "name": "zeroshot",
            "image": "eyes",
            "data": data("test", "label", diagnoses),
            "classes": presets.DIAGNOSES,
            "template": "Right eye: {}. Left eye: {}.",
            "length": length,
        },
        "retrieval": report_retrieval(dataset, size, length),
        "retrieval_chinese": report_retrieval(dataset, size, length, "report_zh"),
        "linear_probe": fitted("label", diagnoses),
        "linear_probe_labels": {**fitted("multi_label", findings), "labels": "labels"},
    }


# The labels that are probed on real pictures, as the manifests have them.
ODIR_KEYWORDS = (
    "normal", "cataract", "pathological myopia", "glaucoma", "age-related macular degeneration",
)  # fmt: skip
_GRADES = ("mild non-proliferative", "moderate non-proliferative", "severe non-proliferative",
           "proliferative")  # fmt: skip
PROBED = {
    "odir": tuple((name,) for name in ODIR_KEYWORDS),
    "idrid": (
        ("no diabetic retinopathy",),
        tuple(f"{grade} diabetic retinopathy" for grade in _GRADES),
    ),
    "grades": tuple((f"{grade} diabetic retinopathy",) for grade in ("no", *_GRADES)),
    "oct": (("normal",), ("cnv",), ("dme",), ("drusen",)),
    "ffa": (("non_ffa",), ("arterial_phase",), ("venous_phase",)),
}


def labelled_rows(
    dataset: str, split: str, probed: str, size: int, where: presets.Config | None = None
) -> presets.Config:  # fmt: skip
    """The rows of a manifest whose label is one of the classes of `PROBED`, each picture once."""
    classes = PROBED[probed]
    names = [name for synonyms in classes for name in synonyms]
    where = {"labels": names, "duplicate_of": "", **(where or {})}
    return presets.data(dataset, split, 64, presets.labelled(size, classes, "labels"), where=where)


def row_probe(
    train: presets.Config, probed: str, test: str | None = None, **options: Any
) -> presets.Config:
    """A linear probe of `labelled_rows`, between two splits or across folds of one."""
    names = _firsts(PROBED[probed])
    names = ("no diabetic retinopathy", "diabetic retinopathy") if probed == "idrid" else names
    known = {"test": {**train, "split": test}} if test else {}
    return {"name": "linear_probe", "train": train, **known, "classes": names, **options}


def odir_keywords(
    dataset: str, size: int, length: int, prompt: presets.Config,
    where: presets.Config | None = None,
) -> presets.Config:  # fmt: skip
    """Zero-shot of ODIR-5K's classes and retrieval of its keywords, over the test patients.

    Args:
      dataset: address of the manifest.
      size: side of a picture in pixels.
      length: tokens of a text.
      prompt: options that say how a class is put into words.
      where: conditions on the rows.
    """
    test = labelled_rows(dataset, "test", "odir", size, where)
    # As the annotators write it.
    prompt = {"classes": ("normal fundus", *ODIR_KEYWORDS[1:]), "length": length, **prompt}
    only = {"where": where} if where else {}
    pairs = presets.data(dataset, "test", 64, presets.captioned(size, length), **only)
    return {
        "odir_zeroshot": {"name": "zeroshot", "data": test, **prompt},
        "odir_retrieval": {"name": "retrieval", "data": pairs},
    }
