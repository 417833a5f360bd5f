"""KeepFIT V2: expert knowledge of MM-Retinal V2 injected into public categories (arXiv 2501.15798).

Two stages: `text` trains the text tower by masked-language modelling of ophthalmic text, whole
words at a time; `knowledge` starts from it and trains public images beside expert pairs.
    retina-jax train --config=mmretinal_v2          # embedded data, minutes
    retina-jax train --config=mmretinal_v2:smoke    # seconds
    retina-jax train --config=mmretinal_v2:full --config.data_dir=DIR

More words after the colon, e.g. `mmretinal_v2:full,oct,no_local`, change one thing each:
    cfp, ffa, oct     one model for this modality; for photographs unless told otherwise
    joint             one model for all three, with batches of each and GroupNorm; half an hour
    no_text           without the textual pre-training
    no_global         without what experts give as a whole: their contrastive term and the reference
    no_local          without what experts give in places: captions, injection and appearance
    appearance        predicts codes of hidden patches from a codebook, codebook.npy or
                      --config.stages.knowledge.model.local.appearance.codebook=FILE
    retcop_stage0     with `full`: the textual pre-training of RetCoP, of the same group
    scratch           random weights, not published ones (of `full` by the commands in flair.py)
The abstract fixes modalities, categorical public data, textual pre-training, and that concepts are
injected by contrastive, appearance by generative learning. All else is ours (docs/fidelity.md).
    global   the reference attention of V1 over expert pairs of this batch and a memory (weight 100)
    local    learned queries look at the last feature map; a decoder writes the expert's caption
             from them, and a public prompt after a look at those of similar expert images
"""

from retina_jax import evaluation_presets, presets, starts

SIZES, MODALITIES = ("full", "demo", "smoke"), ("cfp", "ffa", "oct")
APART = (("no_text", "retcop_stage0"), ("no_global",), ("no_local", "appearance"), ("scratch",))
# What a word leaves out of the last stage; the appearance stays out without the word for it.
LEFT_OUT = {
    "no_global": ("objectives.expert", "objectives.reference", "weights.reference*"),
    "no_local": ("model.local", "objectives.caption", "*.injection", "evaluators.captioning*"),
}
TRAINED = {"stage": "text", "take": ("text",), "ignore": ("mlm_head",)}
APPEARANCE = ("model.local.appearance", "objectives.appearance", "weights.appearance*")


def get_config(variant="demo"):
    """Words separated by commas: a size, modalities, and changes; see the top of this file."""
    words = presets.chosen(variant, SIZES, *((m, "joint") for m in MODALITIES), *APART)
    size = next((word for word in words if word in SIZES), "demo")
    if size != "full" and "retcop_stage0" in words:
        raise ValueError(f"The variant 'retcop_stage0' needs 'full', not '{size}'.")
    modalities = tuple(m for m in MODALITIES if m in words or "joint" in words) or ("cfp",)
    text, knowledge = full(modalities, words) if size == "full" else embedded(modalities, size)
    if size == "demo" and not modalities[1:] and "scratch" not in words and starts.has_lite0():
        knowledge = starts.from_lite0(knowledge)
    if "no_text" not in words:
        published = knowledge.get("restore_from")
        knowledge["restore_from"] = {**published, "text": TRAINED} if published else TRAINED
    out = sum((LEFT_OUT.get(w, ()) for w in words), () if "appearance" in words else APPEARANCE)
    first = {} if "no_text" in words else {"text": text}
    made = {"stages": {**first, "knowledge": presets.without(knowledge, *out)}}
    return starts.scratch(made) if "scratch" in words else made


def full(modalities, words):
    """The scale of the paper's group."""
    bert, corpus = presets.CLINICAL_BERT, "text_corpus/ophthalmology"
    # Textual pre-training as the field does it; that of KeepFIT V2 is not public.
    length, batch_size, epochs = 256, 256, 20
    optimization = presets.adamw(5e-5, 0.01, {"percent": 6}, schedule="linear")
    if "retcop_stage0" in words:  # as released, 24 texts on each of four devices
        length, batch_size, epochs = 112, 96, 1000
        optimization = presets.adamw(1e-5, 0.05, {"epochs": 40}, b1=0.9, b2=0.95)
    text = {
        **presets.FLAIR_RECIPE,
        **masked_language(bert, corpus, "train", length, batch_size),
        "restore_from": starts.FLAIR_START["text"],
        "total": {"epochs": epochs},
        "optimization": optimization,
        "corpora": presets.how_to_get(corpus),
    }
    # The public angiograms are labelled by the reports of their cases, which name the eye.
    read = {
        "cfp": presets.flair_prompts(512, 256),
        "ffa": presets.captioned(512, 256, augment=True, mirror=False),
        "oct": presets.categorical(512, 256, modality="modality"),
    }
    expert = {**presets.MM_RETINAL, "transforms": presets.captioned(512, 256)}
    pairs = {
        m: ({**presets.PUBLIC[m], "transforms": read[m]}, {**expert, "where": {"modality": m}})
        for m in modalities
    }
    local = {"decoder": {"vocab_size": 28_996, "depth": 3, "mlp_dim": 2048}}
    sets = (presets.PUBLIC[modality]["dataset"] for modality in modalities)
    # Several have smaller batches, and a ResNet with other norms than ImageNet's.
    rows, begun = (16, ("text",)) if modalities[1:] else (48, ("text", "image"))
    return text, {
        "restore_from": {tower: starts.FLAIR_START[tower] for tower in begun},
        **presets.FLAIR_RECIPE,
        **injected(pairs, rows, presets.RESNET_50, bert, 512, local, memory=4096, **presets.HALF),
        "total": {"epochs": 25},
        "optimization": presets.adamw(1e-4, 1e-5, {"epochs": 1}),
        "corpora": presets.how_to_get(*sets, "mm_retinal/default"),
    }


def embedded(modalities, size):
    """Small models on the embedded data."""
    scale = presets.scale(size)
    rows, steps, texts, reports = 24, 200, 64, "synthetic_retina/reports"
    warmup, image, memory = (6, 5), scale.image, 96
    local: dict = {"queries": 16, "width": 128, "heads": 4, "mlp_dim": 256, "length": 48}
    if size == "smoke":
        rows, steps, warmup, image, memory = 8, 2, (50, 50), presets.vit(32), 12
        reports, texts = "synthetic_retina/smoke_reports", 8
        local = dict(queries=4, width=16, depth=1, heads=2, mlp_dim=32, nearest=2, length=16)
    elif len(modalities) > 1:
        rows = 12
    local["decoder"] = {"vocab_size": None, "depth": 1 if size == "smoke" else 2}
    text = masked_language(scale.text, reports, "public", scale.length, texts)
    linear = presets.adamw(1e-3, 0.01, {"percent": warmup[0]}, schedule="linear")
    text |= {"optimization": linear, "total": {"steps": steps}}
    prompts = presets.categorical(scale.size, scale.length, modality="modality")
    captions = presets.captioned(scale.size, scale.length)
    pairs, evaluators = {}, {}
    for modality in modalities:
        own, suffix = presets.scale(size, modality), f"_{modality}" if modalities[1:] else ""
        public, expert = ({"dataset": own.dataset, "split": s} for s in ("public", "expert"))
        pairs[modality] = {**public, "transforms": prompts}, {**expert, "transforms": captions}
        test = presets.data(own.dataset, "test", 64, presets.photographs(own.size))
        found = evaluation_presets.evaluators(own, modality)
        found["captioning"] = evaluation_presets.captioning(test, "expert")
        evaluators |= {f"{name}{suffix}": spec for name, spec in found.items()}
    return text, {
        **injected(pairs, rows, image, scale.text, scale.dim, local, memory=memory),
        "total": {"steps": steps},
        "optimization": presets.adamw(1e-3, 1e-4, {"percent": warmup[1]}),
        "evaluators": evaluators,
    }


def masked_language(text, dataset, split, length, batch_size):
    """Textual pre-training of the text tower."""
    tokenize = {"name": "tokenize", "source": "text", "length": length}
    mask = {"name": "mask_tokens", "probability": 0.15, "whole_words": True}
    return {
        "model": {"name": "text_mlm", "encoder": text},
        "streams": {"text": presets.data(dataset, split, batch_size, (tokenize, mask))},
        "objectives": {"masked_language": {"name": "masked_language"}},
    }


def injected(pairs, rows, image, text, dim, local, **options):
    """The model, the streams of each modality, the terms of both injections, their weights."""
    several = len(pairs) > 1
    prefixes = {modality: f"{modality}_" if several else "" for modality in pairs}
    public, expert = (tuple(p + kind for p in prefixes.values()) for kind in ("public", "expert"))
    streams = {}
    for modality, (first, second) in pairs.items():
        streams |= presets.keepfit_streams(first, second, rows, prefixes[modality])
    image = {**image, "norm": "group"} if several and image["name"] == "resnet" else image
    local = {**local, "appearance": {"codebook": "codebook.npy", "share": 0.4}}
    both = [[(f"{s}/image", f"{s}/text") for s in kind] for kind in (public, expert)]
    return {
        "model": {
            "name": "keepfit",
            "towers": {"image": image, "text": text},
            "dim": dim,
            "streams": tuple(zip(public, expert, strict=True)),
            **options,
            "local": {**local, "bos_id": None, "eos_id": None},  # the tokenizer's
        },
        "streams": streams,
        "objectives": {
            "public": presets.contrastive(*both[0], groups=True),
            "expert": presets.contrastive(*both[1], groups=True),
            "reference": {"name": "reference", "texts": tuple(f"{s}/text" for s in public)},
            "caption": {"name": "caption", "streams": expert, "smoothing": 0.1},
            "injection": {"name": "caption", "term": "injection", "streams": public},
            "appearance": {"name": "appearance", "streams": (*public, *expert)},
        },
        "weights": {
            **{f"reference/{stream}" if several else "reference": 100.0 for stream in public},
            "injection": 0.5,
            **{f"appearance/{stream}": 0.5 for stream in (*public, *expert)},
        },
    }
