"""KeepFIT V2: expert knowledge of MM-Retinal V2 injected into public categories (arXiv 2501.15798).

Stages from one command: `text` trains the text tower by masked-language modelling of ophthalmic
text, whole words at a time; `knowledge` starts from it and trains public images with prompts
beside expert image-text pairs. An interrupted run goes on in the stage it was in.

    python -m retina_jax.main --config=configs/mmretinal_v2.py          # embedded data, minutes
    python -m retina_jax.main --config=configs/mmretinal_v2.py:smoke    # seconds
    python -m retina_jax.main --config=configs/mmretinal_v2.py:real     # real pictures
    python -m retina_jax.main --config=configs/mmretinal_v2.py:full --config.data_dir=DIR

More words after the colon, separated by commas, change one thing each:

    cfp, ffa, oct     one model for this modality; for photographs unless told otherwise
    joint             one model for all three, each with templates and batches of its own, so that
                      negatives and experts are of one modality; on embedded data half an hour. Its
                      image tower has GroupNorm: the modalities have no statistics in common
    no_text           without the textual pre-training
    no_global         without what experts give as a whole: their contrastive term and the reference
    no_local          without what experts give in places: captions, injection and appearance
    appearance        predicts codes of hidden patches from a codebook, codebook.npy or
                      --config.stages.knowledge.model.local.appearance.codebook=FILE
                      (`models/appearance.py`)
    retcop_stage0     with `full`: the textual pre-training of RetCoP, of the same group

For instance `--config=configs/mmretinal_v2.py:cfp,no_local`.

The abstract fixes four things: pairs of three modalities; categorical public data, into which
their knowledge is injected; textual pre-training first; and an injection that joins contrastive
learning of global concepts with generative learning of local appearance. No recipe and no code is
public, so everything else here is a design of ours (docs/fidelity.md), after KeepFIT V1 and later
code of the same group where there is any:

    global   the reference attention of V1 over expert pairs, those of this batch and a memory of
             earlier ones; mean squared error, weight 100
    local    learned queries look at the last feature map; a text decoder writes the expert's
             caption from them (label smoothing 0.1), and a public image's prompt after its queries
             looked at those of the 4 most similar expert images (weight 0.5)

`:real` trains on the four sets of `configs/flair.py:real`, in as many steps of as many images. The
labels are the public categories, the keywords that annotators wrote for ODIR-5K are the experts'
texts, and the text tower first reads the captions of `text_corpus/eye`. All modalities are in one
batch there, as most of these sets are too small for batches of their own.

`:full` has the scale of the paper's group: ResNet-50 at 512 pixels, 48 + 48 pairs a step (16 + 16
of each modality in `joint`), 25 epochs.
"""

from configs import common, flair, keepfit
from configs.flair import PUBLIC_CORPUS, published
from configs.keepfit import EXPERT, EXPERT_CORPUS, PUBLIC

SIZES = ("demo", "smoke", "real", "full")
MODALITIES = ("cfp", "ffa", "oct")
CHANGES = ("no_text", "no_global", "no_local", "appearance", "retcop_stage0")
# At most one word of each.
APART = (
    SIZES,
    ("no_text", "retcop_stage0"),
    ("no_local", "appearance"),
    *((modality, "joint") for modality in MODALITIES),
)
# The tokenizer's ids of a text's ends: what the decoder of the local injection writes with.
ENDS = {"bos_id": None, "eos_id": None}
TEXT_CORPUS = (
    "put ophthalmic texts as .txt files, paragraphs separated by blank lines, into one folder and "
    "run python -m data_pipelines.build --dataset=text_corpus --name=ophthalmology "
    "--source=FOLDER --data_dir=DIR"
)
PUBLIC_DATA = {
    "cfp": PUBLIC,
    "ffa": {"dataset": "ffa_ir/default", "split": "train", "ban": common.WITH_CAPTION},
    "oct": {"dataset": "kermany_oct/default", "split": "train"},
}
HOW_TO_GET = {
    "cfp": PUBLIC_CORPUS,
    "ffa": "ask PhysioNet for FFA-IR, then run python -m data_pipelines.prepare --dataset=ffa_ir "
    "--source=FOLDER --size=512 --crop=none --pad=none --data_dir=DIR",
    "oct": "download Kermany's OCT2017, then run python -m data_pipelines.prepare "
    "--dataset=kermany_oct --source=FOLDER --size=512 --crop=none --pad=none --data_dir=DIR",
}


def get_config(variant: str = "demo"):
    """Words separated by commas: a size, modalities, and changes; see the top of this file."""
    words = variant.split(",")
    for word in words:
        if word not in (*SIZES, *MODALITIES, "joint", *CHANGES):
            known = ", ".join((*SIZES, *MODALITIES, "joint", *CHANGES))
            raise ValueError(f"There is no variant '{word}'; choose from {known}.")
    for group in APART:
        if len(both := [word for word in words if word in group]) > 1:
            raise ValueError(f"The variants {', '.join(both)} exclude each other; leave one out.")
    size = next((word for word in words if word in SIZES), "demo")
    modalities = tuple(word for word in MODALITIES if word in words) or MODALITIES[:1]
    modalities = MODALITIES if "joint" in words or size == "real" else modalities
    changes = tuple(word for word in words if word in CHANGES)
    if size == "real" and len(words) > len(changes) + 1:
        raise ValueError("The variant 'real' has all modalities; leave out the words for them.")
    if "retcop_stage0" in changes and size != "full":
        raise ValueError("The variant 'retcop_stage0' needs 'full': it is a thousand epochs.")
    made = {"demo": _demo, "smoke": _smoke, "real": _real, "full": _full}[size](modalities, changes)
    if "no_text" in changes:
        made.pop("text")
    return common.stages(**made)


def restored(changes):
    """What the last stage starts from; the head that predicts masked words stays behind."""
    if "no_text" in changes:
        return None
    return {"stage": "text", "take": ("text",), "ignore": ("mlm_head",)}


def names(modality, modalities):
    """The public and the expert stream of a modality, which names them if there are several."""
    prefix = f"{modality}_" if len(modalities) > 1 else ""
    return f"{prefix}public", f"{prefix}expert"


def model(image, text, dim, modalities, changes, local, memory):
    """Towers, reference attention and, unless left out, the modules of the local injection."""
    if len(modalities) > 1 and image["name"] == "resnet":
        image = {**image, "norm": "group"}
    if "appearance" in changes:
        local = {**local, "appearance": {"codebook": "codebook.npy", "share": 0.4}}
    return keepfit.keepfit(
        image,
        text,
        dim,
        streams=tuple(names(modality, modalities) for modality in modalities),
        memory=memory,
        local=None if "no_local" in changes else local,
    )


def objectives(modalities, changes):
    """The terms that the changes leave, and their weights."""
    pairs = [names(modality, modalities) for modality in modalities]
    public, expert = zip(*pairs, strict=True)

    def contrastive(streams):
        both = ((f"{stream}/image", f"{stream}/text") for stream in streams)
        return common.contrastive(*both, groups=True)

    def weight(term, streams, factor):
        return {term if len(streams) == 1 else f"{term}/{s}": factor for s in streams}

    terms, weights = {"public": contrastive(public)}, {}
    if "no_global" not in changes:
        terms["expert"] = contrastive(expert)
        texts = tuple(f"{stream}/text" for stream in public)
        terms["reference"] = {"name": "reference", "texts": texts}
        weights |= weight("reference", public, 100.0)
    if "no_local" not in changes:
        terms["caption"] = {"name": "caption", "streams": expert, "smoothing": 0.1}
        terms["injection"] = {"name": "caption", "term": "injection", "streams": public}
        weights["injection"] = 0.5
        if "appearance" in changes:
            terms["appearance"] = {"name": "appearance", "streams": (*public, *expert)}
            weights |= weight("appearance", (*public, *expert), 0.5)
    return {"objectives": terms, "weights": weights}


def streams(modalities, public, expert, batch_size, size, length, prompts):
    """Batches of each modality: public images beside expert pairs drawn with replacement."""
    made = {}
    for modality in modalities:
        pair = keepfit.streams(
            public[modality], expert[modality], batch_size, size, length, prompts[modality]
        )
        made |= zip(names(modality, modalities), pair.values(), strict=True)
    return {"streams": made, "epoch_of": names(modalities[0], modalities)[0]}


def language(dataset, split, text, length, batch_size, total, optimization, **settings):
    """The stage that pre-trains the text tower."""
    return common.stage(
        model={"name": "text_mlm", "encoder": text},
        streams={
            "text": {
                "dataset": dataset,
                "split": split,
                "batch_size": batch_size,
                "transforms": (
                    {"name": "tokenize", "source": "text", "length": length},
                    {"name": "mask_tokens", "probability": 0.15, "whole_words": True},
                ),
            }
        },
        epoch_of="text",
        objectives={"masked_language": {"name": "masked_language"}},
        total=total,
        optimization=optimization,
        **settings,
    )


def written(dataset, size):
    """What the decoder of the local injection writes about test pictures."""
    pictures = {"dataset": dataset, "batch_size": 64, "transforms": common.photographs(size, False)}
    train, test = ({**pictures, "split": split} for split in ("expert", "test"))
    return {"name": "captioning", "train": train, "test": test}


def _embedded(modalities, changes, dataset, size, length, batch_size, train, towers, **settings):
    """The stage on embedded data, whose sets are named `dataset`, `dataset`_ffa and _oct."""
    sets = {m: dataset if m == "cfp" else f"{dataset}_{m}" for m in modalities}
    evaluators = {}
    for modality in modalities:
        splits = {"train": train, "test": "test"}
        found = common.embedded_evaluators(
            sets[modality], size, length, 64, splits, common.PROMPTS[modality]
        )
        if "no_local" not in changes:
            found["captioning"] = written(sets[modality], size)
        suffix = f"_{modality}" if len(modalities) > 1 else ""
        evaluators |= {f"{name}{suffix}": spec for name, spec in found.items()}
    return common.stage(
        model=model(**towers, modalities=modalities, changes=changes),
        **streams(
            modalities,
            {m: {"dataset": name, "split": "public"} for m, name in sets.items()},
            {m: {"dataset": name, "split": "expert"} for m, name in sets.items()},
            batch_size,
            size,
            length,
            dict.fromkeys(
                modalities, common.categorical(size, length, template=None, modality="modality")
            ),
        ),
        **objectives(modalities, changes),
        evaluators=evaluators,
        restore_from=restored(changes),
        **settings,
    )


def _demo(modalities, changes):
    text, length = common.small_bert(), 48
    local = {
        "queries": 16, "width": 128, "heads": 4, "mlp_dim": 256, "nearest": 4, "length": length,
        "decoder": {"vocab_size": None, "depth": 2}, **ENDS,
    }  # fmt: skip
    return {
        "text": language(
            "synthetic_retina/reports",
            "public",
            text,
            length=length,
            batch_size=64,
            total={"steps": 200},
            optimization=common.adamw(1e-3, 0.01, {"name": "linear", "warmup": {"percent": 6}}),
        ),
        "knowledge": _embedded(
            modalities,
            changes,
            "synthetic_retina/demo",
            size=96,
            length=length,
            batch_size=24 if len(modalities) == 1 else 12,
            train="public[:1000]",
            towers={
                "image": common.small_resnet(),
                "text": text,
                "dim": 128,
                "local": local,
                "memory": 96,
            },  # fmt: skip
            total={"steps": 200},
            optimization=common.adamw(1e-3, 1e-4, {"name": "cosine", "warmup": {"percent": 5}}),
        ),
    }


def _real(modalities, changes):
    """One model of all modalities; prompts of each, and batches that mix them."""
    size, length = flair.ODIR_SIZE, flair.REAL_LENGTH
    made = _demo(MODALITIES[:1], changes)
    text, knowledge = made["text"], made["knowledge"]
    text.streams.text.dataset, text.streams.text.split = "text_corpus/eye", "train"
    text.corpora = {"text_corpus/eye": TEXT_CORPUS.replace("ophthalmology", "eye")}
    source = {"dataset": flair.REAL, "split": "train"}
    pair = keepfit.streams(
        {**source, "where": {"modality": modalities}},
        {**source, "where": {"caption_origin": "annotator_keywords"}},
        flair.REAL_BATCH // 2,
        size,
        length,
        common.categorical(size, length, template=None, modality="modality"),
    )
    own = ("model", "objectives", "weights", "restore_from")
    stage = flair.real(
        streams=pair, prompt={"template": common.PROMPT}, **{name: knowledge[name] for name in own}
    )
    return {"text": text, "knowledge": stage}


def _smoke(modalities, changes):
    text, length = common.small_bert(width=32, depth=1), 32
    local = {
        "queries": 4, "width": 16, "depth": 1, "heads": 2, "mlp_dim": 32, "nearest": 2,
        "length": 16, "decoder": {"vocab_size": None, "depth": 1}, **ENDS,
    }  # fmt: skip
    return {
        "text": language(
            "synthetic_retina/reports",
            "public[:64]",
            text,
            length=length,
            batch_size=8,
            total={"steps": 2},
            optimization=common.adamw(1e-3, 0.01, {"name": "linear", "warmup": {"percent": 50}}),
        ),
        "knowledge": _embedded(
            modalities,
            changes,
            "synthetic_retina/smoke",
            size=32,
            length=length,
            batch_size=8,
            train="public",
            towers={
                "image": common.small_vit(),
                "text": text,
                "dim": 16,
                "local": local,
                "memory": 12,
            },  # fmt: skip
            total={"steps": 2},
            optimization=common.adamw(1e-3, 1e-4, {"name": "cosine", "warmup": {"percent": 50}}),
        ),
    }


def _full(modalities, changes):
    text = dict(common.CLINICAL_BERT)
    recipe = {
        "tokenizer": {"name": "wordpiece", "vocab": common.VOCABULARY_FILE},
        "loading": {"num_workers": 8, "num_threads": 2},
    }
    size, length = 512, 256
    described = common.categorical(size, length, template=None, modality="modality")
    # The public angiograms are labelled by the reports of their cases, which name the eye.
    prompts = {
        "cfp": published(size, length),
        "ffa": common.captioned(size, length, augment=True, mirror=False),
        "oct": described,
    }
    corpora = {PUBLIC_DATA[m]["dataset"]: HOW_TO_GET[m] for m in modalities}
    decoder = {"vocab_size": text["vocab_size"], "depth": 3, "mlp_dim": 2048}
    local = {"decoder": decoder, **ENDS}
    mlm = _retcop_stage0() if "retcop_stage0" in changes else _field_norm()
    return {
        "text": language(
            "text_corpus/ophthalmology",
            "train",
            text,
            corpora={"text_corpus/ophthalmology": TEXT_CORPUS},
            **mlm,
            **recipe,
        ),
        "knowledge": common.stage(
            model=model(common.RESNET_50, text, 512, modalities, changes, local, memory=4096),
            **streams(
                modalities,
                PUBLIC_DATA,
                {m: {**EXPERT, "where": {"modality": m}} for m in modalities},
                48 if len(modalities) == 1 else 16,
                size,
                length,
                prompts,
            ),
            **objectives(modalities, changes),
            total={"epochs": 25},
            optimization=common.adamw(1e-4, 1e-5, {"name": "cosine", "warmup": {"epochs": 1}}),
            restore_from=restored(changes),
            corpora={**corpora, "mm_retinal/default": EXPERT_CORPUS},
            **recipe,
        ),
    }


def _field_norm():
    """Domain-specific pre-training as the field does it; that of KeepFIT V2 is not public."""
    return {
        "length": 256,
        "batch_size": 256,
        "total": {"epochs": 20},
        "optimization": common.adamw(5e-5, 0.01, {"name": "linear", "warmup": {"percent": 6}}),
    }


def _retcop_stage0():
    """RetCoP's textual pre-training as released, with 24 texts on each of four devices."""
    return {
        "length": 112,
        "batch_size": 96,
        "total": {"epochs": 1000},
        "optimization": common.adamw(
            1e-5, 0.05, {"name": "cosine", "warmup": {"epochs": 40}}, b1=0.9, b2=0.95
        ),
    }
