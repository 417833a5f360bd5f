"""RET-CLIP: both eyes of a patient and the report on them (Du et al., MICCAI 2024).

One image tower for both eyes and one text tower; three heads of each, for the left eye, the right
eye and the patient, and a contrastive loss with a temperature of its own at each of these levels.

    python -m retina_jax.main --config=configs/retclip.py          # embedded data, minutes
    python -m retina_jax.main --config=configs/retclip.py:smoke    # seconds
    python -m retina_jax.main --config=configs/retclip.py:odir     # real patients, 15-20 minutes
    python -m retina_jax.main --config=configs/retclip.py:full --config.data_dir=DIR

`:odir` trains on patients of ODIR-5K with the annotators' keywords in English and Chinese;
`:odir_eyes` trains the same towers on single photographs and is evaluated on the same patients.
Figures are in docs/results.md. Build both first, with the folder that holds the manifest.csv:

    python -m data_pipelines.build --dataset=manifest --name=odir_patients --source=ODIR \
        --unit=patient --label_separator=+ --max_side=128
    python -m data_pipelines.build --dataset=manifest --name=odir_eyes --source=ODIR \
        --label_separator=+ --max_side=128

`:full` is the published recipe: ViT-B/16 at 224 pixels and RoBERTa-wwm-ext-base-chinese over 100
tokens, batch 256, 10 epochs, AdamW. It starts from random weights, the published one from
Chinese-CLIP's. The vocab.txt of 21,128 rows comes with these weights from their authors; put it
into the current folder or name it by `--config.tokenizer.vocab=FILE`.

A patient with one photograph takes part: the eye that is there stands in for the other, and the
level of the missing eye leaves the row out of its loss (`eye_mask`).

Options of the loss and of large batches, as published unless given:

    --config.objectives.contrastive.kind=sigmoid --config.model.bias_init=-10
    --config.objectives.contrastive.groups=True          # equal reports are no negatives
    --config.objectives.contrastive.local_negatives=256  # negatives of one device, as published
    --config.objectives.contrastive.blockwise=1024       # no matrix of logits; for large batches
    --config.microbatch=64                               # activations of 64 patients at a time
    --config.model.dtype=bfloat16                        # towers in half precision
"""

from ml_collections import config_dict

from configs import common

LEVEL_PAIRS = tuple((level, f"text_{level}") for level in ("left", "right", "patient"))
# The mean and the deviation of CLIP's training pictures, by which Chinese-CLIP's tower reads.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
CHINESE_CLIP_VIT = {
    "name": "vit",
    "activation": "quick_gelu",
    "pre_norm": True,
    "patch_bias": False,
    "initialization": "torch",
}
CHINESE_ROBERTA = {"name": "bert", "vocab_size": 21_128, "pool": "cls"}
# By the published names of parameters, what holds 'bn', 'ln', 'bias' or 'logit_scale' does not
# decay. The norms of the text tower are called LayerNorm there, so their gains do.
DECAY = (
    (r".*bias", {"decay": False}),
    (r"image/.*norm\d?/scale", {"decay": False}),
    (r"logit_(scale|bias)_\w+", {"decay": False}),
    (r".*", {}),
)
CORPUS = (
    "put train_imgs.tsv and train_texts.jsonl in the form of RET-CLIP under one folder, then run "
    "python -m data_pipelines.build --dataset=ret_clip --source=FOLDER --max_side=512 "
    "--data_dir=DIR"
)
# The coarse diagnoses of the embedded patients, and what else their eyes may have.
DIAGNOSES = tuple(
    (name, *(f"{grade} {name}" for grade in ("mild", "moderate", "severe", "proliferative")))
    if name == "diabetic retinopathy"
    else (name,)
    for name in common.DIAGNOSES
)
FINDINGS = (*DIAGNOSES, ("hypertensive retinopathy",), ("diabetic macular edema",))
# The eight labels of ODIR, N D G C A H M O, as its manifest writes them.
ODIR_LABELS = (
    "normal",
    "diabetic retinopathy",
    "glaucoma",
    "cataract",
    "age-related macular degeneration",
    "hypertensive retinopathy",
    "pathological myopia",
    "other",
)
ODIR_SIZE, ODIR_LENGTH, ODIR_DIM = 96, 48, 128
# Of half the width of the other demonstrations: a photograph costs a third.
ODIR_TOWERS = {"image": common.small_resnet(width=16), "text": common.small_bert()}
ODIR_PATIENTS, ODIR_EYES = "manifest/odir_patients", "manifest/odir_eyes"


def get_config(variant: str = "demo"):
    """demo (default), smoke, odir, odir_eyes or full."""
    return common.choose(
        variant, demo=_demo, smoke=_smoke, odir=_odir, odir_eyes=_odir_eyes, full=_full
    )


def contrastive(pairs, groups):
    """The loss of pairs of embeddings, with its options open to the command line."""
    options = {"kind": "softmax", "groups": groups, "local_negatives": config_dict.placeholder(int)}
    return {"contrastive": common.contrastive(*pairs, **options)}


def tripartite(image, text, dim, **options):
    """The model."""
    return {
        "name": "tripartite",
        "towers": {"image": image, "text": text},
        "dim": dim,
        "bias_init": config_dict.placeholder(float),
        "dtype": "float32",
        **options,
    }


def reports(length, sources=("report", "report_zh"), group="report"):
    """A report in one of its languages, and an id of those that are equal in the field `group`."""
    return (
        {"name": "caption", "sources": sources, "target": "text"},
        *common.said(length, "text", group),
    )


def augmented(source):
    """Small changes of geometry and colours, but no mirrors: the texts name the sides."""
    return (
        {"name": "random_affine", "source": source, "share": False},
        {"name": "color_jitter", "source": source, "share": False},
    )


def patients(dataset, split, size, batch_size, *more):
    """Evaluation data: both eyes of patients, and what `more` transforms make."""
    return {
        "dataset": dataset,
        "split": split,
        "batch_size": batch_size,
        "transforms": ({"name": "eyes", "size": size}, *more),
    }


def retrieval(dataset, split, size, length, batch_size, source="report", **options):
    """Patients and their reports in one language."""
    said = common.said(length, source)
    return {
        "name": "retrieval",
        "image": "eyes",
        "caption": source,
        "picture": "left_image",
        "data": patients(dataset, split, size, batch_size, *said),
        **options,
    }


def _embedded_evaluators(dataset, size, length, batch_size, train):
    def data(split, name, classes):
        made = {"name": name, "classes": classes, "source": "labels"}
        return patients(dataset, split, size, batch_size, made)

    return {
        "zeroshot": {
            "name": "zeroshot",
            "image": "eyes",
            "data": data("test", "label", DIAGNOSES),
            "classes": common.DIAGNOSES,
            "template": "Right eye: {}. Left eye: {}.",
            "length": length,
        },
        "retrieval": retrieval(dataset, "test", size, length, batch_size),
        "retrieval_chinese": retrieval(dataset, "test", size, length, batch_size, "report_zh"),
        "linear_probe": {
            "name": "linear_probe",
            "image": "eyes",
            "train": data(train, "label", DIAGNOSES),
            "test": data("test", "label", DIAGNOSES),
            "classes": common.DIAGNOSES,
        },
        "linear_probe_labels": {
            "name": "linear_probe",
            "image": "eyes",
            "labels": "labels",
            "train": data(train, "multi_label", FINDINGS),
            "test": data("test", "multi_label", FINDINGS),
            "classes": tuple(names[0] for names in FINDINGS),
        },
    }


def _embedded(dataset, size, length, batch_size, total, image, text, dim, train):
    return common.stage(
        model=tripartite(image, text, dim, scale_init=1 / 0.07),
        streams={
            "patients": {
                "dataset": dataset,
                "split": "public",
                "batch_size": batch_size,
                "distinct": "patient",
                "transforms": (
                    {"name": "eyes", "size": size},
                    *augmented("eyes"),
                    *reports(length),
                ),
            }
        },
        epoch_of="patients",
        objectives=contrastive(LEVEL_PAIRS, groups=True),
        optimization=common.adamw(1e-3, 1e-4, {"name": "cosine", "warmup": {"percent": 5}}),
        total=total,
        evaluators=_embedded_evaluators(dataset, size, length, 64, train),
    )


def _demo():
    return _embedded(
        "synthetic_retina/patients",
        size=96,
        length=128,
        batch_size=32,
        total={"steps": 250},
        image=common.small_resnet(),
        text=common.small_bert(),
        dim=128,
        train="public[:1000]",
    )


def _smoke():
    return _embedded(
        "synthetic_retina/smoke_patients",
        size=32,
        length=32,
        batch_size=8,
        total={"steps": 2},
        image=common.small_vit(),
        text=common.small_bert(width=32, depth=1),
        dim=16,
        train="public",
    )


def _odir_evaluators(template):
    def labelled(split, classes):
        made = {"name": "multi_label", "classes": classes}
        return patients(ODIR_PATIENTS, split, ODIR_SIZE, 64, made)

    # No examples to look at: not every patient has a left photograph to show.
    pool = ODIR_PATIENTS, "test", ODIR_SIZE, ODIR_LENGTH, 64
    return {
        "zeroshot": {
            "name": "zeroshot",
            "image": "eyes",
            "labels": "labels",
            # No words describe the rest.
            "data": labelled("test", ODIR_LABELS[:-1]),
            # As the annotators write it.
            "classes": ("normal fundus", *ODIR_LABELS[1:-1]),
            "template": template,
            "length": ODIR_LENGTH,
        },
        "probe": {
            "name": "linear_probe",
            "image": "eyes",
            "labels": "labels",
            "train": labelled("train", ODIR_LABELS),
            "test": labelled("test", ODIR_LABELS),
            "classes": ODIR_LABELS,
        },
        "retrieval": retrieval(*pool, examples=0),
        "retrieval_chinese": retrieval(*pool, "report_zh", examples=0),
    }


def _odir_stage(model, dataset, batch_size, transforms, pairs, template):
    return common.stage(
        model=model,
        streams={
            "train": {
                "dataset": dataset,
                "split": "train",
                "batch_size": batch_size,
                "distinct": "patient",
                "transforms": transforms,
            }
        },
        epoch_of="train",
        objectives=contrastive(pairs, groups=True),
        optimization=common.adamw(1e-3, 1e-2, {"name": "cosine", "warmup": {"percent": 5}}),
        total={"epochs": 20},
        evaluators=_odir_evaluators(template),
        corpora={
            name: f"run python -m data_pipelines.build --dataset=manifest --name={name[9:]} "
            f"--source=FOLDER {unit}--label_separator=+ --max_side=128, where FOLDER holds its "
            "manifest.csv"
            for name, unit in {dataset: "", ODIR_PATIENTS: "--unit=patient "}.items()
        },
    )


def _odir():
    return _odir_stage(
        tripartite(**ODIR_TOWERS, dim=ODIR_DIM, scale_init=1 / 0.07),
        ODIR_PATIENTS,
        32,
        ({"name": "eyes", "size": ODIR_SIZE}, *augmented("eyes"), *reports(ODIR_LENGTH)),
        LEVEL_PAIRS,
        "left eye: {}; right eye: {}",
    )


def _odir_eyes():
    return _odir_stage(
        {"name": "dual", "towers": ODIR_TOWERS, "dim": ODIR_DIM, "dtype": "float32"},
        ODIR_EYES,
        64,
        (
            {"name": "decode", "size": ODIR_SIZE},
            *augmented("image"),
            *reports(ODIR_LENGTH, ("caption", "caption_zh"), "caption"),
        ),
        (("image", "text"),),
        "{}",
    )


def _published_eyes(size):
    """As timm's transform for training, one draw for each eye."""
    own = {"source": "eyes", "share": False}
    strength = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2}
    return (
        {"name": "eyes", "size": 512, "fit": "squash"},
        {"name": "random_resized_crop", "size": size, "area": (0.9, 1.0), **own},
        {"name": "random_flip", "probability": 0.5, **own},
        {"name": "color_jitter", "probability": 1.0, **strength, **own},
        {"name": "random_erasing", "probability": 0.1, "source": "eyes"},
    )


def _full():
    config = common.stage(
        seed=123,
        tokenizer={"name": "wordpiece", "vocab": common.VOCABULARY_FILE},
        model=tripartite(CHINESE_CLIP_VIT, CHINESE_ROBERTA, 512, mean=CLIP_MEAN, std=CLIP_STD),
        streams={
            "patients": {
                "dataset": "ret_clip/default",
                "split": "train",
                "batch_size": 256,
                "distinct": "patient",
                "transforms": (*_published_eyes(224), *reports(100, group="text")),
            }
        },
        epoch_of="patients",
        objectives=contrastive(LEVEL_PAIRS, groups=False),
        optimization={
            "optimizer": {
                "name": "adamw",
                "weight_decay": 1e-3,
                "b1": 0.9,
                "b2": 0.98,
                "eps": 1e-6,
            },
            "learning_rate": 3e-5,
            "schedule": {"name": "cosine", "warmup": {"steps": 50}},
            "clip": None,
            "rules": DECAY,
        },
        total={"epochs": 10},
        corpora={"ret_clip/default": CORPUS},
    )
    config.loading.num_workers = 8
    return config
