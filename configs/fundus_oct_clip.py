"""Fundus photographs and OCT volumes of the same eye, with CLIP's loss (Sükei et al., 2023).

A photograph finds the OCT volume of its eye among others, and the other way round.

    retina-jax train --config=fundus_oct_clip          # embedded data, minutes
    retina-jax train --config=fundus_oct_clip:smoke    # seconds
    retina-jax train --config=fundus_oct_clip:full --config.data_dir=DIR

`:full` is a ResNet-18 at 224 pixels and an R3D-18 for 32 B-scans of 128 x 128, in batches of 256
with at most one pair of a patient, 100 epochs. Of the published recipe only the losses are known,
so all else is ours. It needs pairs that say which eye they are of (docs/add_a_dataset.md). Options:

    --config.model.towers.image.depth=50                   # a larger ResNet
    --config.model.towers.image="{'name': 'vit'}"          # ViT-B/16
    --config.model.towers.oct="{'name': 'attention_mil',   # each B-scan by itself
        'encoder': {'name': 'resnet', 'depth': 18}}"
    --config.objectives.contrastive.blockwise=1024         # for batches from some 8,000 pairs on
    # 32 pairs at a time; with the loss of CLOOB such towers may not start (docs/results.md)
    --config.microbatch=32 --config.model.towers.{image,oct}.norm=group
"""

from retina_jax import presets

BOTH = ("image", "oct")
FOUND = {"name": "retrieval", "other": "oct", "right": "eye"}  # each finds the other
# As CLIP has it: biases, gains of norms and the temperature do not decay.
RULES = ((".*(bias|scale)", {"decay": False}), (".*", {}))


def get_config(variant="demo"):
    """full; demo and smoke on embedded data."""
    presets.chosen(variant, ("full", "demo", "smoke"))
    return full() if variant == "full" else embedded(variant)


def full():
    """The published encoders."""
    towers = {"image": {"name": "resnet", "depth": 18}, "oct": {"name": "resnet3d"}}
    test = presets.data("fundus_oct/default", "test", 64, pictures(224, 32, 128))
    return {
        **clip(towers, 512, "fundus_oct/default", "train", 256, augmented(224, 32, 128), 5e-4),
        "total": {"epochs": 100},
        "loading": {"num_workers": 8},
        "evaluators": {"retrieval": {**FOUND, "data": test, "pools": (100, 1000), "caption": "id"}},
        "corpora": presets.how_to_get("fundus_oct/default"),
    }


def embedded(variant):
    """Small encoders of the embedded pairs."""
    dataset, shape, batch_size, steps, dim, width, pools = {
        "demo": ("synthetic_retina/demo_pairs", (64, 5, 64), 32, 360, 128, 16, (100, 1000)),
        "smoke": ("synthetic_retina/smoke_multimodal", (32, 4, 32), 8, 2, 16, 8, (20,)),
    }[variant]
    image = presets.resnet(width)
    # Convolutions in three dimensions take several times as long on processors.
    oct = {"name": "attention_mil", "encoder": image}
    towers = {"image": image, "oct": oct if variant == "demo" else {"name": "resnet3d", "width": 4}}
    label = {"name": "label", "classes": presets.DIAGNOSES, "source": "diagnosis"}
    read = pictures(*shape)
    test = presets.data(dataset, "test", 64, (*read, label))
    train = {**test, "split": presets.SCALES[variant].probe}
    probe = {"name": "linear_probe", "train": train, "test": test, "classes": presets.DIAGNOSES}
    return {
        **clip(towers, dim, dataset, "public", batch_size, augmented(*shape), 1e-3),
        "total": {"steps": steps},
        "evaluators": {
            "retrieval": {**FOUND, "data": {**test, "transforms": read}, "pools": pools},
            "linear_probe_fundus": {**probe, "image": "image"},
            "linear_probe_oct": {**probe, "image": "oct"},
        },
    }


def clip(towers, dim, dataset, split, batch_size, transforms, learning_rate):
    """Pairs, at most one of a patient in a batch: two eyes of one are no negatives."""
    pairs = presets.data(dataset, split, batch_size, transforms, distinct="patient")
    adamw = presets.adamw(learning_rate, 0.1, {"percent": 10}, b2=0.98)
    return {
        "model": {"name": "dual", "towers": towers, "dim": dim},
        "streams": {"pairs": pairs},
        "objectives": {"contrastive": presets.contrastive(BOTH)},
        "optimization": {**adamw, "rules": RULES},
    }


def pictures(size, slices, side):
    """Photographs [size size 3] and volumes [slices side side 1], all looking like right eyes."""
    volume = {"name": "volume", "slices": slices, "size": side}
    return (*presets.photographs(size), volume, {"name": "canonical_laterality", "source": BOTH})


def augmented(size, slices, side):
    """Each drawn by itself, as they share no pixels; no mirrors, as they share the side."""
    crop = {"name": "random_resized_crop", "size": size, "area": (0.8, 1.0)}
    less = {"size": None, "area": (0.85, 1.0), "ratio": (0.9, 1.1), "source": "oct"}
    affine = {"name": "random_affine", "probability": 0.5, "degrees": 10.0, "scale": (1.0, 1.0)}
    jitter = {"name": "color_jitter", "probability": 0.8, "source": BOTH, "share": False}
    noise = {"name": "gaussian_noise", "source": BOTH}
    return (*pictures(size, slices, side), affine, crop, {**crop, **less}, jitter, noise)
