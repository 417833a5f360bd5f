"""Three systems on the same real pictures: photographs, OCT and angiograms (docs/results.md).

    retina-jax train --config=real:flair
    retina-jax train --config=real:contrastive_generative
    retina-jax train --config=real:mmretinal_v2
    retina-jax train --config=real:mmretinal_v2,no_local    # and other changes of its config

The models of the demonstrations train on ODIR-5K, IDRiD, Kermany's OCT and angiograms at once, 400
steps of 48 images, and each set is probed. Where data are missing the run says how to build them.
"""

import retina_jax
from retina_jax import evaluation_presets, presets

RETINA, SIZE, LENGTH = "manifest/retina", 96, 48
CORPORA = {
    RETINA: "put the folders odir, idrid, kermany_oct and ffa, each with its manifest.csv, into "
    "one FOLDER and run python -m data_pipelines.build --dataset=manifest --name=retina "
    "--source=FOLDER --csv='*/manifest.csv' --max_side=160"
}
SYSTEMS = ("flair", "contrastive_generative", "mmretinal_v2")


def get_config(variant="flair"):
    """A system, and for KeepFIT V2 changes of it."""
    presets.chosen(variant, SYSTEMS, ("no_text",), ("no_global",), ("no_local", "appearance"))
    system, _, changes = variant.partition(",")
    config = retina_jax.get_config(f"{system}:{','.join(filter(None, ('demo', changes)))}")
    if system == "flair":
        return {**config, **flair()}
    if system == "contrastive_generative":
        return {**config, **contrastive_generative(config["streams"]["pairs"]["transforms"])}
    config["stages"]["knowledge"] |= mmretinal_v2()
    if text := config["stages"].get("text"):  # it reads captions first
        text["streams"]["text"] |= {"dataset": "text_corpus/eye", "split": "train"}
        text["corpora"] = presets.how_to_get("text_corpus/eye")
    return config


def flair():
    """The captions of all sets as they are, or a description of those that are a known class."""
    captions = presets.categorical(SIZE, LENGTH, "{}", source="caption", knowledge="cfp")
    return study({"public": presets.data(RETINA, "train", 48, captions)}, {"template": "{}"})


def contrastive_generative(transforms):
    """The transforms of the demonstration with the caption in the place of a label."""
    source = {"prompt": {"source": "caption"}}
    transforms = tuple({**spec, **source.get(spec["name"], {})} for spec in transforms)
    made = study({"public": presets.data(RETINA, "train", 48, transforms)}, presets.DEFINITIONS)
    pairs = made["evaluators"]["odir_retrieval"]["data"]
    made["evaluators"]["reconstruction"] = {"name": "reconstruction", "data": pairs}
    return made


def mmretinal_v2():
    """Labels as public categories, and what annotators wrote for ODIR-5K as experts' texts.

    All modalities are in one batch, as most of these sets are too small for batches of their own.
    """
    source = {"dataset": RETINA, "split": "train"}
    public, expert = {"modality": ("cfp", "ffa", "oct")}, {"caption_origin": "annotator_keywords"}
    prompts = presets.categorical(SIZE, LENGTH, modality="modality")
    pairs = presets.captioned(SIZE, LENGTH)
    streams = presets.keepfit_streams(
        {**source, "where": public, "transforms": prompts},
        {**source, "where": expert, "transforms": pairs},
        batch_size=24,
    )
    return study(streams, {"template": presets.PROMPTS["cfp"]})


def study(streams, prompt):
    """What all three have in common."""
    odir = {"dataset": "odir"}
    evaluators = evaluation_presets.odir_keywords(RETINA, SIZE, LENGTH, prompt, odir)
    folders = {"odir": "odir", "idrid": "idrid", "oct": "kermany_oct", "ffa": "ffa"}
    for probed, folder in folders.items():
        rows = evaluation_presets.labelled_rows(
            RETINA, "train+validation", probed, SIZE, {"dataset": folder}
        )
        evaluators[f"{probed}_probe"] = evaluation_presets.row_probe(rows, probed, "test")
    return {
        "streams": streams,
        "optimization": presets.adamw(1e-3, 1e-2, {"percent": 5}),
        "total": {"steps": 400},
        "evaluators": evaluators,
        "corpora": CORPORA,
    }
