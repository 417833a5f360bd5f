"""KeepFIT-FFA: reports of fluorescein angiograms (MM-Retinal, MICCAI 2024).

Two stages from one command: `contrastive` trains KeepFIT on angiograms and their texts; `captioner`
starts from its image tower and learns to write the reports, word by word.

    retina-jax train --config=ffa_captioner          # embedded data, minutes
    retina-jax train --config=ffa_captioner:smoke    # seconds
    retina-jax train --config=ffa_captioner:full --config.data_dir=DIR

The captions of the test set are scored beside the commonest caption of the training set and that of
the nearest training picture. How they are written is an option, also for a finished run:

    retina-jax evaluate --config=ffa_captioner --workdir=DIR \\
        --config.stages.captioner.model.decoding.beams=5

with length_penalty and block_trigrams beside `beams`. Other ways have options of their own, so they
are given whole: --config.stages.captioner.model.decoding="{'name': 'greedy'}", or 'nucleus'.

`:full` is the published captioner: ResNet-50 at 224 pixels, 3 + 3 layers, FFA-IR and MM-Retinal
one to one, 15 epochs, Adam with amsgrad, gradients clipped by value, beam search with 3 beams; it
is scored by case, on the mean of the patch features of up to 16 pictures. Its first stage lacks
the table of lesions that the published one read, which is not public: FFA-IR's reports stand in its
place. Records without a report are left out. `:released` differs where the released code does
(docs/fidelity.md): each picture is scored against the report of its case, as the vocabulary spells
it, and pictures are mirrored in training although reports name the eye. Both need words.txt, or
--config.stages.captioner.tokenizer.vocab:

    python -m data_pipelines.text.train_tokenizer --output=words.txt --model_type=words \\
        --dataset=ffa_ir/images --field=caption --data_dir=DIR
"""

from retina_jax import presets

REPORTS = {"dataset": "ffa_ir/images", "split": "train", "ban": presets.WITH_CAPTION}
EXPERT = {**presets.MM_RETINAL, "where": {"modality": "ffa"}}
# The ids and the number of words are the tokenizer's.
CAPTIONER = {
    "name": "captioner", "vocab_size": None, "bos_id": None, "eos_id": None,
    "decoding": {"name": "beam", "beams": 3},
}  # fmt: skip
# The trunk comes from the first stage, and learns half as fast as the rest, which is new.
TRUNK = {
    "stage": "contrastive",
    "take": ("image",),
    "ignore": ("image_projection", "text", "text_projection", "logit_scale", "attention"),
}
RULES = (("image/.*", {"learning_rate": 0.5}), (".*", {}))


def get_config(variant="demo"):
    """full, as published, or as released; demo and smoke on embedded data."""
    presets.chosen(variant, ("full", "released", "demo", "smoke"))
    return embedded(variant) if variant in presets.SCALES else full(variant == "released")


def full(released):
    """The published recipe."""
    contrastive = {
        "model": {"name": "keepfit", "towers": presets.FLAIR_TOWERS},
        "streams": presets.keepfit_streams(
            {**REPORTS, "transforms": presets.captioned(512, 256, augment=True, mirror=released)},
            {**EXPERT, "transforms": presets.captioned(512, 256)},
            batch_size=24,
        ),
        "epoch_of": "public",
        **presets.KEEPFIT_TERMS,
        "total": {"epochs": 8},
        "corpora": presets.how_to_get("ffa_ir/images", "mm_retinal/default"),
        **presets.FLAIR_RECIPE,
    }
    cropped = (
        {"name": "decode", "size": 256, "fit": "short"},
        {"name": "random_crop", "size": 224},
        *(({"name": "random_flip", "swap_sides": False},) if released else ()),
        {"name": "tokenize", "length": 90},
    )
    data = {"batch_size": 128, "transforms": cropped}  # 64 on each of four GPUs, of both streams
    picture = {"name": "decode", "size": 224, "fit": "squash"}
    case = {"name": "case_pictures", "size": 224, "count": 16, "fit": "squash"}
    scored = {
        split: {"dataset": "ffa_ir/images", "batch_size": 64, "transforms": (picture,)}
        if released
        else {"dataset": "ffa_ir/cases", "batch_size": 8, "transforms": (case,)}
        for split in ("train", "validation", "test")
    }
