"""ODIR-5K: photographs, and both eyes of patients, with the annotators' keywords (docs/results.md).

    retina-jax train --config=odir:flair           # photographs, probed on ODIR and IDRiD
    retina-jax train --config=odir:retclip         # patients, in English and Chinese
    retina-jax train --config=odir:retclip_eyes    # its towers on single photographs

Each takes 15-20 minutes on two cores. Where data are missing the run says how to build them.
"""

import retina_jax
from retina_jax import evaluation_presets, presets

SIZE, LENGTH = 96, 48  # of both studies of patients
BUILD = "run python -m data_pipelines.build --dataset=manifest --name={} --source=FOLDER {}"
BUILT = {
    "odir": "--max_side=160",
    "idrid": "--max_side=160",
    "odir_patients": "--unit=patient --label_separator=+ --max_side=128",
    "odir_eyes": "--label_separator=+ --max_side=128",
}
# The eight labels, N D G C A H M O, as the manifest writes them; no words describe the last.
LABELS = (
    "normal", "diabetic retinopathy", "glaucoma", "cataract", "age-related macular degeneration",
    "hypertensive retinopathy", "pathological myopia", "other",
)  # fmt: skip


def get_config(variant="flair"):
    """flair, retclip or retclip_eyes."""
    presets.chosen(variant, ("flair", "retclip", "retclip_eyes"))
    config, built = flair() if variant == "flair" else retclip(eyes=variant == "retclip_eyes")
    build = BUILD + ", where FOLDER holds its manifest.csv"
    corpora = {f"manifest/{name}": build.format(name, BUILT[name]) for name in built}
    return {**config, "optimization": presets.adamw(1e-3, 1e-2, {"percent": 5}), "corpora": corpora}


def flair():
    """Keywords against photographs, and a probe of another set."""
    odir, length = "manifest/odir", 24
    prompts = presets.categorical(SIZE, length, presets.PROMPTS["cfp"], source="caption")
    train = evaluation_presets.labelled_rows(odir, "train", "odir", SIZE)
    every = "train+validation+test"
    graded = evaluation_presets.labelled_rows("manifest/idrid", every, "idrid", SIZE)
    template = {"template": presets.PROMPTS["cfp"]}
    return {
        **retina_jax.get_config("flair:demo"),
        "streams": {"public": presets.data(odir, "train", 64, prompts)},
        "total": {"epochs": 28},
        "evaluators": {
            **evaluation_presets.odir_keywords(odir, SIZE, length, template),
            "odir_probe": evaluation_presets.row_probe(train, "odir", "test"),
            "idrid_probe": evaluation_presets.row_probe(graded, "idrid"),
        },
    }, ("odir", "idrid")


def retclip(eyes):
    """Patients, or single photographs, evaluated on the same patients.

    Of half the width of the other demonstrations: a photograph costs a third.
    """
    config, patients = retina_jax.get_config("retclip:demo"), "manifest/odir_patients"
    config["model"]["towers"]["image"] = presets.resnet(16)
    name, rows, template = "odir_patients", 32, "left eye: {}; right eye: {}"
    pictures = ({"name": "eyes", "size": SIZE}, *presets.unmirrored("eyes"))
    texts = presets.bilingual(LENGTH, ("report", "report_zh"), "report")
    if eyes:
        name, rows, template = "odir_eyes", 64, "{}"
        pictures = (*presets.photographs(SIZE), *presets.unmirrored("image"))
        texts = presets.bilingual(LENGTH, ("caption", "caption_zh"), "caption")
        config["model"] = {"name": "dual", **{k: config["model"][k] for k in ("towers", "dim")}}
        pair = presets.contrastive(("image", "text"), groups=True)
        config["objectives"] = {"contrastive": pair}
    read, dataset = (*pictures, *texts), f"manifest/{name}"
    stream = presets.data(dataset, "train", rows, read, distinct="patient")

    def data(split, classes):
        label = {"name": "multi_label", "classes": classes}
        return evaluation_presets.of_eyes(patients, split, SIZE, label)

    # As the annotators write it.
    prompts = {"classes": ("normal fundus", *LABELS[1:-1]), "template": template, "length": LENGTH}
    both = {"image": "eyes", "labels": "labels"}
    fitted = {"train": data("train", LABELS), "test": data("test", LABELS), "classes": LABELS}
    config["evaluators"] = {
        "zeroshot": {"name": "zeroshot", "data": data("test", LABELS[:-1]), **prompts, **both},
        "probe": {"name": "linear_probe", **fitted, **both},
    }
    # No examples to look at: not every patient has a left photograph to show.
    for key, source in {"retrieval": "report", "retrieval_chinese": "report_zh"}.items():
        retrieval = evaluation_presets.report_retrieval(patients, SIZE, LENGTH, source, examples=0)
        config["evaluators"][key] = retrieval
    config |= {"streams": {"train": stream}, "total": {"epochs": 20}}
    return config, dict.fromkeys((name, "odir_patients"))
