r"""Fundus photographs and OCT volumes of the same eye, with CLIP's loss (Sükei et al., 2023).

    retina-jax train --config=fundus_oct_clip          # embedded data, minutes
    retina-jax train --config=fundus_oct_clip:smoke    # seconds
    retina-jax train --config=fundus_oct_clip:full --config.data_dir=DIR

`:full` is the authors' poster: a ResNet-18 from ImageNet for infrared pictures of 224 pixels, an
R3D-18 from Kinetics for 20 B-scans of 224 x 224 (`:scratch`: both random), batches of 512; what the
OCT encoder then predicts for other patients, a data set of its own. Common space, augmentation,
optimizer and 100 epochs are ours. Pairs have to say which eye they are of (docs/add_a_dataset.md).
The starts are torchvision's; and some options:

    retina-jax convert --source=torchvision_resnet --src=resnet18-f37072fd.pth --dst=resnet18
    retina-jax convert --source=torchvision_r3d --src=r3d_18-b3b3357e.pth --dst=r3d18 \
        --option=grey=true                                 # its stem summed over the colours
    --config.model.towers.image.depth=50 --config.model.towers.image="{'name': 'vit'}"    # or
    --config.model.towers.oct="{'name': 'attention_mil',
        'encoder': {'name': 'resnet', 'depth': 18}}"       # attention over B-scans
    --config.objectives.contrastive.blockwise=1024         # for batches from some 8,000 pairs on
    --config.microbatch=32 --config.model.towers.{image,oct}.norm=group    # of :full, less memory
"""

from retina_jax import evaluation_presets, presets, starts

BOTH = ("image", "oct")
FOUND = {"name": "retrieval", "other": "oct", "right": "eye"}  # each finds the other
RULES = ((".*(bias|scale)", {"decay": False}), (".*", {}))  # norms and temperature too: CLIP's


def get_config(variant="demo"):
    """full, as published, or from scratch; demo and smoke on embedded data."""
    return starts.scaled(variant, full, embedded)


def full():
    """The published encoders, and what they start from."""
    towers = {"image": {"name": "resnet", "depth": 18}, "oct": {"name": "resnet3d"}}
    dataset, others = "fundus_oct/default", "fundus_oct/downstream"
    read, shown = (make(224, 20, 224) for make in (augmented, pictures))
    test = presets.data(dataset, "test", 64, shown)
    return {
        **clip(
            towers, 512, dataset, "train", 512, read, 1e-3, **starts.IMAGENET_PIXELS, **presets.HALF
        ),
        "restore_from": starts.FUNDUS_OCT_START,
        "total": {"epochs": 100},
        "loading": {"num_workers": 8},
        "evaluators": {
            "retrieval": {**FOUND, "data": test, "pools": (100, 1000), "caption": "id"},
            **evaluation_presets.fundus_oct_poster(others, 20, 224),
        },
        "corpora": presets.how_to_get(dataset, others),
    }


def embedded(variant):
    """Small encoders of the embedded pairs."""
    dataset, shape, batch_size, steps, dim, width, pools = {
        "demo": ("synthetic_retina/demo_pairs", (64, 5, 64), 32, 360, 128, 16, (100, 1000)),
        "smoke": ("synthetic_retina/smoke_multimodal", (32, 4, 32), 8, 2, 16, 8, (20,)),
    }[variant]
    image = presets.resnet(width)
    oct = {"name": "attention_mil", "encoder": image}  # 3-D convolutions take far longer
    towers = {"image": image, "oct": oct if variant == "demo" else {"name": "resnet3d", "width": 4}}
    test = presets.data(dataset, "test", 64, pictures(*shape))
    probes = evaluation_presets.embedded_pairs(test, presets.SCALES[variant].probe, *shape[1:])
    return {
        **clip(towers, dim, dataset, "public", batch_size, augmented(*shape), 1e-3),
        "total": {"steps": steps},
        "evaluators": {"retrieval": {**FOUND, "data": test, "pools": pools}, **probes},
    }


def clip(towers, dim, dataset, split, batch_size, transforms, learning_rate, **options):
    """Pairs, at most one of a patient in a batch: two eyes of one are no negatives."""
    pairs = presets.data(dataset, split, batch_size, transforms, distinct="patient")
    adamw = presets.adamw(learning_rate, 0.1, {"percent": 10}, b2=0.98)
    return {
        "model": {"name": "dual", "towers": towers, "dim": dim, **options},
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
