"""KeepFIT-FFA: reports of fluorescein angiograms (MM-Retinal, MICCAI 2024).

Two stages from one command: `contrastive` trains KeepFIT on angiograms and their texts; `captioner`
starts from its image tower and learns to write the reports, word by word.

    python -m retina_jax.main --config=configs/ffa_captioner.py          # embedded data, minutes
    python -m retina_jax.main --config=configs/ffa_captioner.py:smoke    # seconds
    python -m retina_jax.main --config=configs/ffa_captioner.py:full --config.data_dir=DIR

The captions of the test set are scored beside the commonest caption of the training set and that of
the nearest training picture. How they are written is an option, also for a finished run:

    python -m retina_jax.evaluate --config=configs/ffa_captioner.py --workdir=DIR \\
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

from configs import common, keepfit

FFA_IR = (
    "obtain FFA-IR from PhysioNet and run python -m data_pipelines.build --dataset=ffa_ir "
    "--name=images --source=FOLDER --data_dir=DIR"
)
FFA_IR_CASES = (
    "run python -m data_pipelines.build --dataset=ffa_ir --name=cases --source=FOLDER --unit=case "
    "--max_images=16 --data_dir=DIR"
)
# The public and the expert pairs of both stages.
REPORTS = {"dataset": "ffa_ir/images", "split": "train", "ban": common.WITH_CAPTION}
EXPERT = {**keepfit.EXPERT, "where": {"modality": "ffa"}}
TAKE = {
    "stage": "contrastive",
    "take": ("image",),
    "ignore": ("image_projection", "text", "text_projection", "logit_scale", "attention"),
    # The published captioner normalises its pictures as ImageNet's, KeepFIT does not.
    "allow_other_pixels": True,
}
BEAM = {"name": "beam", "beams": 3, "length_penalty": 0.0, "block_trigrams": False}


def get_config(variant: str = "demo"):
    """demo (default), smoke, full or released."""
    return common.choose(
        variant, demo=_demo, smoke=_smoke, full=_full, released=lambda: _full(released=True)
    )


def captioner(tower, max_length, **options):
    """The model; the ids and the number of words are the tokenizer's."""
    return {
        "name": "captioner",
        "tower": tower,
        "vocab_size": None,
        "bos_id": None,
        "eos_id": None,
        "max_length": max_length,
        "decoding": BEAM,
        **options,
    }


def gentle(learning_rate, **optimizer):
    """The trunk learns half as fast as the rest, which is new."""
    return {
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "schedule": {"name": "constant"},
        "clip": None,
        "rules": (("image/.*", {"learning_rate": 0.5}), (".*", {})),
    }


def _embedded(dataset, size, length, batch_size, image, text, dim, steps, **model):
    """Both stages on the embedded data, whose `public` angiograms have labels and no captions."""
    cosine = {"name": "cosine", "warmup": {"percent": 5}}
    prompts = common.categorical(size, 48, template=common.PROMPTS["ffa"])
    public, expert = ({"dataset": dataset, "split": split} for split in ("public", "expert"))
    augmented = (
        {"name": "decode", "size": size},
        {"name": "random_affine", "probability": 0.5, "shift": 0.03},
        {"name": "color_jitter"},
        {"name": "tokenize", "length": length},
    )

    def scored(split):
        data = {"dataset": dataset, "split": split, "batch_size": 32}
        return {**data, "transforms": common.photographs(size, False)}

    return common.stages(
        contrastive=common.stage(
            model=keepfit.keepfit(image, text, dim),
            streams=keepfit.streams(public, expert, batch_size, size, 48, prompts),
            epoch_of="public",
            objectives=keepfit.objectives(),
            weights=keepfit.WEIGHTS,
            optimization=common.adamw(1e-3, 1e-4, cosine),
            total={"steps": steps[0]},
        ),
        captioner=common.stage(
            tokenizer={"name": "word_level"},
            model=captioner(image, length, **model),
            streams={"expert": {**expert, "batch_size": batch_size, "transforms": augmented}},
            epoch_of="expert",
            objectives={"caption": {"name": "caption"}},
            optimization={
                **gentle(1e-3, name="adamw", weight_decay=1e-2),
                "schedule": cosine,
                "clip": 1.0,
            },
            total={"steps": steps[1]},
            restore_from=TAKE,
            evaluators={
                "captioning": {
                    "name": "captioning",
                    "train": scored("expert"),
                    "test": scored("test"),
                }
            },
        ),
    )


def _demo():
    return _embedded(
        "synthetic_retina/demo_ffa",
        size=96,
        length=64,
        batch_size=32,
        image=common.small_resnet(),
        text=common.small_bert(),
        dim=128,
        steps=(200, 400),
        width=128,
        heads=4,
        mlp_dim=256,
    )


def _smoke():
    return _embedded(
        "synthetic_retina/smoke_ffa",
        size=32,
        length=24,
        batch_size=8,
        image=common.small_resnet(width=8),
        text=common.small_bert(width=32, depth=1),
        dim=16,
        steps=(2, 2),
        width=16,
        depth=1,
        heads=2,
        mlp_dim=16,
    )


def _contrastive(released):
    """KeepFIT on angiograms, which all have texts: equal ones are positives of each other."""
    reports = common.captioned(512, 256, augment=True, mirror=released)
    return common.stage(
        tokenizer={"name": "wordpiece", "vocab": common.VOCABULARY_FILE},
        model=keepfit.keepfit(common.RESNET_50, {**common.CLINICAL_BERT, "pool": "flair"}, 512),
        streams=keepfit.streams(REPORTS, EXPERT, 24, 512, 256, reports),
        epoch_of="public",
        objectives=keepfit.objectives(),
        weights=keepfit.WEIGHTS,
        optimization=common.adamw(
            1e-4, 1e-5, {"name": "cosine", "warmup": {"epochs": 1}, "horizon": {"epochs": 100}}
        ),
        total={"epochs": 8},
        loading={"num_workers": 8, "num_threads": 2},
        corpora={"ffa_ir/images": FFA_IR, "mm_retinal/default": keepfit.EXPERT_CORPUS},
    )


def _full(released=False):
    size, length = 224, 90
    cropped = (
        {"name": "decode", "size": 256, "fit": "short"},
        {"name": "random_crop", "size": size},
        *(({"name": "random_flip", "swap_sides": False},) if released else ()),
        {"name": "tokenize", "length": length},
    )
    data = {"batch_size": 128, "transforms": cropped}  # 64 on each of four GPUs, of both streams

    def scored(split):
        if released:
            pictures = {"name": "decode", "size": size, "fit": "squash"}
        else:
            pictures = {"name": "case_pictures", "size": size, "count": 16, "fit": "squash"}
        return {
            "dataset": "ffa_ir/images" if released else "ffa_ir/cases",
            "split": split,
            "batch_size": 64 if released else 8,
            "transforms": (pictures,),
        }

    def captioning(split):
        return {
            "name": "captioning",
            **({"train": scored("train")} if split == "test" else {}),
            "test": scored(split),
            "length": length if released else None,
            "image": "image" if released else "images",
        }

    return common.stages(
        contrastive=_contrastive(released),
        captioner=common.stage(
            tokenizer={"name": "word_level", "vocab": "words.txt", "shared_ends": released},
            model=captioner(common.RESNET_50, length),
            streams={"reports": {**REPORTS, **data}, "expert": {**EXPERT, **data}},
            epoch_of="reports",
            objectives={"caption": {"name": "caption"}},
            optimization=gentle(1e-4, name="amsgrad", weight_decay=5e-5, clip_value=0.1),
            total={"epochs": 15},
            every={"evaluate": {"epochs": 1}, "checkpoint": {"epochs": 1}, "log": {"steps": 50}},
            keep={"last": 2, "best": "eval/validation/cider_d"},
            restore_from=TAKE,
            loading={"num_workers": 8, "num_threads": 2},
            evaluators={"validation": captioning("validation"), "captioning": captioning("test")},
            corpora={} if released else {"ffa_ir/cases": FFA_IR_CASES},
        ),
    )
