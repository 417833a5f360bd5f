"""Fundus photographs and OCT volumes of the same eye, with CLIP's loss (Sükei et al., 2023).

A photograph finds the OCT volume of its eye among others, and the other way round. Both encoders
are kept: that of photographs for where there is no OCT. `configs/fundus_oct_cloob.py` is the same
with the loss of CLOOB.

    python -m retina_jax.main --config=configs/fundus_oct_clip.py          # embedded data, minutes
    python -m retina_jax.main --config=configs/fundus_oct_clip.py:smoke    # seconds
    python -m retina_jax.main --config=configs/fundus_oct_clip.py:full --config.data_dir=DIR

`:full` is a ResNet-18 at 224 pixels and an R3D-18 for 32 B-scans of 128 x 128, in batches of 256
with at most one pair of a patient, 100 epochs. Of the published recipe only the losses are known,
so all other settings are ours. It needs pairs of your own that say which eye they are of, in a
folder as data_pipelines/builders/fundus_oct.py describes:

    python -m data_pipelines.build --dataset=fundus_oct --source=FOLDER --slices=32 --data_dir=DIR

Left eyes are mirrored, in both pictures, and nothing is mirrored at random. Options:

    --config.model.towers.image.depth=50                   # a larger ResNet
    --config.model.towers.image="{'name': 'vit'}"          # ViT-B/16
    # each B-scan by itself, and attention over them
    --config.model.towers.oct="{'name': 'attention_mil', 'encoder': {'name': 'resnet'}}"
    --config.model.dtype=bfloat16                          # towers in half precision
    --config.objectives.contrastive.blockwise=1024         # for batches from some 8,000 pairs on

The activations of 256 pairs, of the order of 100 GB in single precision, are shared by all devices.
To pass 32 pairs at a time, with the gradient of all, towers must not normalise over the batch but
over groups of channels; with the loss of CLOOB such towers may not start (see docs/results.md):

    --config.model.towers.image.norm=group --config.model.towers.oct.norm=group
    --config.microbatch=32
"""

from configs import common

FULL = "fundus_oct/default"
CORPUS = (
    "put a table pairs.csv and the files it names into one folder, then run python -m "
    "data_pipelines.build --dataset=fundus_oct --source=FOLDER --slices=32 --data_dir=DIR"
)
CLIP = {"kind": "softmax"}
# CLIP's inverse temperature is learned from 1 / 0.07 up to 100; other losses bring their own.
LEARNED_SCALE = {"learn_scale": True, "scale_init": 1 / 0.07, "scale_max": 100.0}
SMALL = common.small_resnet(width=16)


def get_config(variant: str = "demo"):
    """demo (default), smoke or full."""
    return variants(variant, CLIP, LEARNED_SCALE)


def variants(variant, loss, scale):
    """The config of a loss: options of `contrastive`, and of the model's temperature."""
    return common.choose(
        variant,
        demo=lambda: _demo(loss, scale),
        smoke=lambda: _smoke(loss, scale),
        full=lambda: _full(loss, scale),
    )


def transforms(size, slices, side, augment=False):
    """Photographs [size size 3] and volumes [slices side side 1], all looking like right eyes.

    The augmentation is drawn for each of the two by itself, since they share no pixels, and has no
    mirrors, since they share the side of the eye.
    """
    read = (
        {"name": "decode", "size": size},
        {"name": "volume", "slices": slices, "size": side},
        {"name": "canonical_laterality", "source": ("image", "oct")},
    )
    if not augment:
        return read
    both = {"source": ("image", "oct"), "share": False}
    return (
        *read,
        {"name": "random_affine", "probability": 0.5, "degrees": 10.0, "scale": (1.0, 1.0)},
        {"name": "random_resized_crop", "size": size, "area": (0.8, 1.0)},
        {
            "name": "random_resized_crop",
            "size": None,
            "area": (0.85, 1.0),
            "ratio": (0.9, 1.1),
            "source": "oct",
        },
        {"name": "color_jitter", "probability": 0.8, **both},
        {"name": "gaussian_noise", "source": ("image", "oct")},
    )


def model(image, oct, dim, scale):
    """A tower for each of the two, and their common space.

    Towers normalise over the batch of all devices: embeddings then differ from the first step.
    With groups of channels they begin alike, and the retrieval of CLOOB, a mean over the batch,
    makes what differs smaller still.
    """
    return {
        "name": "dual",
        "towers": {"image": image, "oct": oct},
        "dim": dim,
        "dtype": "float32",
        **scale,
    }


def objective(loss):
    """The term that pairs both."""
    return {"contrastive": common.contrastive(("image", "oct"), **loss)}


def adamw(learning_rate):
    """AdamW as CLIP has it: biases, gains of norms and the temperature do not decay."""
    schedule = {"name": "cosine", "warmup": {"percent": 10}}
    return {
        **common.adamw(learning_rate, 0.1, schedule, b1=0.9, b2=0.98),
        "rules": ((".*(bias|scale)", {"decay": False}), (".*", {})),
    }


def stream(dataset, split, batch_size, shape):
    """Pairs, at most one of a patient in a batch: two eyes of one are no negatives."""
    return {
        "pairs": {
            "dataset": dataset,
            "split": split,
            "batch_size": batch_size,
            "distinct": "patient",
            "transforms": transforms(*shape, augment=True),
        }
    }


def retrieval(dataset, split, batch_size, shape, pools, **options):
    """Each finds the other, in the whole split and in random pools of it."""
    return {
        "name": "retrieval",
        "data": {
            "dataset": dataset,
            "split": split,
            "batch_size": batch_size,
            "transforms": transforms(*shape),
        },
        "other": "oct",
        "right": "eye",
        "pools": pools,
        **options,
    }


def probe(dataset, train, test, shape, key):
    """Linear probe of the diagnosis on the features of one of the two towers."""
    labels = {"name": "label", "classes": common.DIAGNOSES, "source": "diagnosis"}

    def data(split):
        return {
            "dataset": dataset,
            "split": split,
            "batch_size": 64,
            "transforms": (*transforms(*shape), labels),
        }

    return {
        "name": "linear_probe",
        "train": data(train),
        "test": data(test),
        "classes": common.DIAGNOSES,
        "image": key,
    }


def _embedded(loss, scale, dataset, shape, batch_size, total, towers, dim, pools, train):
    test = {"dataset": dataset, "train": train, "test": "test", "shape": shape}
    return common.stage(
        model=model(*towers, dim, scale),
        streams=stream(dataset, "public", batch_size, shape),
        epoch_of="pairs",
        objectives=objective(loss),
        optimization=adamw(1e-3),
        total=total,
        evaluators={
            "retrieval": retrieval(dataset, "test", 64, shape, pools),
            "linear_probe_fundus": probe(**test, key="image"),
            "linear_probe_oct": probe(**test, key="oct"),
        },
    )


def _demo(loss, scale):
    return _embedded(
        loss,
        scale,
        "synthetic_retina/demo_pairs",
        shape=(64, 5, 64),
        batch_size=32,
        total={"steps": 360},
        # 3-D convolutions take several times as long on processors.
        towers=(SMALL, {"name": "attention_mil", "encoder": SMALL}),
        dim=128,
        pools=(100, 1000),
        train="public[:1000]",
    )


def _smoke(loss, scale):
    return _embedded(
        loss,
        scale,
        "synthetic_retina/smoke_multimodal",
        shape=(32, 4, 32),
        batch_size=8,
        total={"steps": 2},
        towers=(common.small_resnet(width=8), {"name": "resnet3d", "width": 4}),
        dim=16,
        pools=(20,),
        train="public",
    )


def _full(loss, scale):
    shape = (224, 32, 128)
    config = common.stage(
        model=model({"name": "resnet", "depth": 18}, {"name": "resnet3d"}, 512, scale),
        streams=stream(FULL, "train", 256, shape),
        epoch_of="pairs",
        objectives=objective(loss),
        optimization=adamw(5e-4),
        total={"epochs": 100},
        evaluators={"retrieval": retrieval(FULL, "test", 64, shape, (100, 1000), caption="id")},
        corpora={FULL: CORPUS},
    )
    config.loading.num_workers = 8
    return config
