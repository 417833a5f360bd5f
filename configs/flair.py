"""FLAIR: a vision-language foundation model of the retina (Silva-Rodriguez et al., 2024).

Images against prompts made of their labels and expert knowledge; images that share a label are
positives of each other.

    python -m retina_jax.main --config=configs/flair.py          # embedded data, minutes
    python -m retina_jax.main --config=configs/flair.py:smoke    # seconds
    python -m retina_jax.main --config=configs/flair.py:odir     # real photographs, 15-20 minutes
    python -m retina_jax.main --config=configs/flair.py:real     # photographs, OCT, angiograms
    python -m retina_jax.main --config=configs/flair.py:full --config.data_dir=DIR

`:odir` trains on the keywords of ODIR-5K and probes ODIR and IDRiD; its figures are in
docs/results.md. Build both first, with the folders that hold their manifest.csv:

    python -m data_pipelines.build --dataset=manifest --name=odir --source=ODIR --max_side=160
    python -m data_pipelines.build --dataset=manifest --name=idrid --source=IDRID --max_side=160

`:real` trains on ODIR-5K, IDRiD, Kermany's OCT and angiograms at once, 400 steps of 48 images, and
probes each; SKKU and KeepFIT V2 have a variant of that name with the same images and steps. Put
the four folders, each with its manifest.csv, into one and build them as one data set:

    python -m data_pipelines.build --dataset=manifest --name=retina --source=FOLDER \\
        --csv='*/manifest.csv' --max_side=160

`:full` is the published recipe: ResNet-50 at 512 pixels, Bio_ClinicalBERT, batch 128, 15 epochs
over 31 data sets, from random weights. `--config.model.dtype=bfloat16` computes the towers in half
precision. Bio_ClinicalBERT's vocab.txt comes with its weights from its authors; put it into the
current folder or name it by `--config.tokenizer.vocab=FILE`.
"""

from configs import common

PUBLIC_CORPUS = (
    "put FLAIR's or KeepFIT's dataframes and the images they name under one folder, then run "
    "python -m data_pipelines.prepare --dataset=flair --source=FOLDER --size=512 --crop=none "
    "--pad=none --data_dir=DIR"
)
KNOWLEDGE = "cfp"
TEMPLATE = "A [ATR] fundus photograph of {}"
# Sets labelled in free text, whose words are not replaced by knowledge. The released list says
# 06_EYENET for the set whose folder is 06_DEN.
FREE_TEXT = ("06_DEN", "06_EYENET", "08_ODIR-5K", "11_STARE", "31_JICHI")
# Labels as the manifests of ODIR-5K and IDRiD have them.
ODIR_SIZE = 96
ODIR_CLASSES = (
    ("normal",),
    ("cataract",),
    ("pathological myopia",),
    ("glaucoma",),
    ("age-related macular degeneration",),
)
IDRID_GRADES = (
    ("no diabetic retinopathy",),
    (
        "mild non-proliferative diabetic retinopathy",
        "moderate non-proliferative diabetic retinopathy",
        "severe non-proliferative diabetic retinopathy",
        "proliferative diabetic retinopathy",
    ),
)


IDRID_NAMES = ("no diabetic retinopathy", "diabetic retinopathy")
# Labels of the other sets of `:real`, by the name of their folder.
OCT_CLASSES = (("normal",), ("cnv",), ("dme",), ("drusen",))
PHASES = (("non_ffa",), ("arterial_phase",), ("venous_phase",))
REAL, REAL_BATCH, REAL_STEPS, REAL_LENGTH = "manifest/retina", 48, 400, 48
REAL_CORPUS = (
    "put the folders odir, idrid, kermany_oct and ffa, each with its manifest.csv, into one FOLDER "
    "and run python -m data_pipelines.build --dataset=manifest --name=retina --source=FOLDER "
    "--csv='*/manifest.csv' --max_side=160"
)


def get_config(variant: str = "demo"):
    """demo (default), smoke, odir, real or full."""
    return common.choose(variant, demo=_demo, smoke=_smoke, odir=_odir, real=_real, full=_full)


def towers(image, text, dim, **options):
    """Two towers that meet in `dim` dimensions."""
    pair = {"image": image, "text": text}
    return {"name": "dual", "towers": pair, "dim": dim, "dtype": "float32", **options}


# The data sets of the published pre-training, as their tables spell the folders.
ASSEMBLY = (
    "01_EYEPACS", "02_MESSIDOR", "03_IDRID", "03_IDRiD", "04_RFMid", "05_1000x39", "06_DEN",
    "07_LAG", "08_ODIR-5K", "09_PAPILA", "10_PARAGUAY", "11_STARE", "12_ARIA", "13_FIVES",
    "14_AGAR300", "15_APTOS", "16_FUND-OCT", "17_DiaRetDB1", "18_DRIONS-DB", "19_Drishti-GS1",
    "20_E-ophta", "21_G1020", "22_HEI-MED", "23_HRF", "24_ORIGA", "26_ROC", "27_BRSET",
    "28_OIA-DDR", "29_AIROGS", "30_SUSTech-SYSU", "31_JICHI", "32_CHAKSU", "33_DR1-2",
    "34_Cataract", "35_ScarDat",
)  # fmt: skip
CONTRASTIVE = {"contrastive": common.contrastive(("image", "text"), groups=True)}


def _embedded(dataset, size, length, batch_size, total, image, text, dim, train):
    return common.stage(
        model=towers(image, text, dim),
        streams={
            "public": {
                "dataset": dataset,
                "split": "public",
                "batch_size": batch_size,
                "transforms": common.categorical(size, length, knowledge=KNOWLEDGE),
            }
        },
        epoch_of="public",
        objectives=CONTRASTIVE,
        optimization=common.adamw(1e-3, 1e-4, {"name": "cosine", "warmup": {"percent": 5}}),
        total=total,
        evaluators=common.embedded_evaluators(
            dataset, size, length, 64, {"train": train, "test": "test"}
        ),
    )


def _demo():
    return _embedded(
        "synthetic_retina/demo",
        size=96,
        length=48,
        batch_size=32,
        total={"steps": 250},
        image=common.small_resnet(),
        text=common.small_bert(),
        dim=128,
        train="public[:1000]",
    )


def _smoke():
    return _embedded(
        "synthetic_retina/smoke",
        size=32,
        length=32,
        batch_size=8,
        total={"steps": 2},
        image=common.small_resnet(width=8),
        text=common.small_bert(width=32, depth=1),
        dim=16,
        train="public",
    )


def _rows(dataset, split, classes, where=None):
    """The rows of a manifest whose label is one of the classes, each image once."""
    names = [name for synonyms in classes for name in synonyms]
    return {
        "dataset": dataset,
        "split": split,
        "batch_size": 64,
        "where": {"labels": names, "duplicate_of": "", **(where or {})},
        "transforms": common.labelled(ODIR_SIZE, classes, "labels"),
    }


def _odir_texts(dataset, length, prompt, where=None):
    """Zero-shot of ODIR-5K's classes and retrieval of its keywords, over the test patients."""
    test = _rows(dataset, "test", ODIR_CLASSES, where)
    retrieval = {k: v for k, v in test.items() if k != "where"}
    retrieval["transforms"] = common.captioned(ODIR_SIZE, length)
    return {
        "odir_zeroshot": {
            "name": "zeroshot",
            "data": test,
            # As the annotators write it.
            "classes": ("normal fundus", *(names[0] for names in ODIR_CLASSES[1:])),
            "length": length,
            **prompt,
        },
        "odir_retrieval": {
            "name": "retrieval",
            "data": {**retrieval, "where": where} if where else retrieval,
        },
    }


def _probe(train, test, classes, names=None):
    """A probe between two selections of rows; `names` of classes other than the first synonyms."""
    return {
        "name": "linear_probe",
        "train": train,
        **({"test": test} if test else {}),
        "classes": names or tuple(synonyms[0] for synonyms in classes),
    }


def _odir():
    length = 24
    odir, idrid = "manifest/odir", "manifest/idrid"
    return common.stage(
        model=towers(common.small_resnet(), common.small_bert(), 128),
        streams={
            "public": {
                "dataset": odir,
                "split": "train",
                "batch_size": 64,
                "transforms": common.categorical(ODIR_SIZE, length, source="caption"),
            }
        },
        epoch_of="public",
        objectives=CONTRASTIVE,
        optimization=common.adamw(1e-3, 1e-2, {"name": "cosine", "warmup": {"percent": 5}}),
        total={"epochs": 28},
        evaluators={
            **_odir_texts(odir, length, {"template": common.PROMPT}),
            "odir_probe": _probe(
                _rows(odir, "train", ODIR_CLASSES), _rows(odir, "test", ODIR_CLASSES), ODIR_CLASSES
            ),
            "idrid_probe": _probe(
                _rows(idrid, "train+validation+test", IDRID_GRADES), None, IDRID_GRADES, IDRID_NAMES
            ),
        },
        corpora={
            name: f"run python -m data_pipelines.build --dataset=manifest --name={name[9:]} "
            "--source=FOLDER --max_side=160, where FOLDER holds its manifest.csv"
            for name in (odir, idrid)
        },
    )


def real_evaluators(prompt):
    """Zero-shot and retrieval of ODIR-5K, and probes of all four sets between their own splits."""

    def probe(folder, classes, names=None):
        splits = ("train+validation", "test")
        rows = (_rows(REAL, split, classes, {"dataset": folder}) for split in splits)
        return _probe(*rows, classes, names)

    return {
        **_odir_texts(REAL, REAL_LENGTH, prompt, {"dataset": "odir"}),
        "odir_probe": probe("odir", ODIR_CLASSES),
        "idrid_probe": probe("idrid", IDRID_GRADES, IDRID_NAMES),
        "oct_probe": probe("kermany_oct", OCT_CLASSES),
        "ffa_probe": probe("ffa", PHASES),
    }


def real_stream(transforms):
    """All training pictures of the four real sets."""
    return {"dataset": REAL, "split": "train", "batch_size": REAL_BATCH, "transforms": transforms}


def real(model, streams, prompt, **settings):
    """A stage over the four real sets.

    Args:
      model: the spec.
      streams: the stream 'public', and others.
      prompt: options of the zero-shot evaluation that say how a class is put into words.
      **settings: of `common.stage`, instead of those here.
    """
    return common.stage(
        **{
            "model": model,
            "streams": streams,
            "epoch_of": "public",
            "objectives": CONTRASTIVE,
            "optimization": common.adamw(1e-3, 1e-2, {"name": "cosine", "warmup": {"percent": 5}}),
            "total": {"steps": REAL_STEPS},
            "evaluators": real_evaluators(prompt),
            "corpora": {REAL: REAL_CORPUS},
            **settings,
        }
    )


def _real():
    """The captions of all sets as they are, or a description of those that are a known class."""
    return real(
        towers(common.small_resnet(), common.small_bert(), 128),
        {
            "public": real_stream(
                common.categorical(
                    ODIR_SIZE, REAL_LENGTH, template="{}", source="caption", knowledge=KNOWLEDGE
                )
            )
        },
        {"template": "{}"},
    )


def published(size, length):
    """Images and prompts as FLAIR makes them of its public sets."""
    return common.categorical(
        size,
        length,
        template=TEMPLATE,
        knowledge=KNOWLEDGE,
        attributes="attributes",
        excluded=FREE_TEXT,
    )


def _full():
    config = common.stage(
        tokenizer={"name": "wordpiece", "vocab": common.VOCABULARY_FILE},
        model=towers(common.RESNET_50, {**common.CLINICAL_BERT, "pool": "flair"}, 512),
        streams={
            "public": {
                "dataset": "flair/default",
                "split": "train",
                "batch_size": 128,
                "balance": "dataset",
                # Classes that the published evaluation calls unseen.
                "ban": {"mode": "substring"},
                "transforms": published(512, 77),
            }
        },
        epoch_of="public",
        objectives=CONTRASTIVE,
        optimization=common.adamw(
            1e-4, 1e-5, {"name": "cosine", "warmup": {"epochs": 1}, "horizon": {"epochs": 100}}
        ),
        total={"epochs": 15},
        corpora={"flair/default": PUBLIC_CORPUS},
    )
    config.loading.num_workers = 8
    return config
