"""Every export loads strictly into the code that it is for, by names, shapes and types.

Where PyTorch is in an environment of its own, TORCH_PYTHON names its interpreter.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from convert import parity

from retina_jax.convert import files, rules
from retina_jax.convert.formats import SOURCES

BLOCKS = {"width": 16, "depth": 2, "heads": 1, "mlp_dim": 32}
VIT = {"name": "vit", **BLOCKS, "patch_size": 8, "pool": "cls"}
CLIP_VIT = {**VIT, "pre_norm": True, "patch_bias": False, "activation": "quick_gelu"}
CLIP_RESNET = {"name": "clip_resnet", "depths": (1, 1, 1, 1), "width": 4}
CLIP_TEXT = {"name": "clip_text", "vocab_size": 30, **BLOCKS, "max_length": 8}
BERT = {"name": "bert", "vocab_size": 30, **BLOCKS, "max_length": 8}
RESNET = {"name": "resnet", "depth": 18, "width": 4}


def dual(image, text, **options):
    return {"name": "dual", "towers": {"image": image, "text": text}, "dim": 12, **options}


def tower(spec, key="image", **options):
    return {"name": "tower", "key": key, "tower": spec, **options}


KEEPFIT = {**dual(RESNET, BERT), "name": "keepfit",
           "reference": {"heads": 2, "softmax_axis": "heads"}}  # fmt: skip
NETWORK = tower({"name": "efficientnet", "variant": "b0"}, classes=3)
DECODER = {"width": 8, "depth": 2, "heads": 1, "mlp_dim": 16}
RESNET_CLIP = {"projection_bias": ("image",)}
# Name of a skeleton -> the source, and our model.
CASES = {
    "bert": ("bert", tower(BERT, "text")),
    "bert_masked": ("bert", {"name": "text_mlm", "encoder": BERT}),
    "captioner": ("captioner", {"name": "captioner", "tower": RESNET, "vocab_size": 30,
                                "bos_id": 0, "eos_id": 0, **BLOCKS}),
    "chinese_clip": ("chinese_clip", dual(CLIP_VIT, BERT)),
    "chinese_clip_resnet": ("chinese_clip_resnet", dual(CLIP_RESNET, BERT, **RESNET_CLIP)),
    "clip": ("clip", dual(CLIP_VIT, CLIP_TEXT)),
    "clip_resnet": ("clip_resnet", dual(CLIP_RESNET, CLIP_TEXT, **RESNET_CLIP)),
    "cloob_resnet": ("cloob", dual(CLIP_RESNET, CLIP_TEXT, **RESNET_CLIP)),
    "cloob_vit": ("cloob", dual(CLIP_VIT, CLIP_TEXT)),
    "efficientnet": ("efficientnet", NETWORK),
    "efficientnet_timm": ("efficientnet_timm", NETWORK),
    "flair": ("flair", dual(RESNET, BERT)),
    "keepfit": ("keepfit", KEEPFIT),
    "open_clip": ("open_clip", dual(CLIP_VIT, CLIP_TEXT)),
    "retclip": ("retclip", {"name": "tripartite", "towers": {"image": CLIP_VIT, "text": BERT},
                            "dim": 12}),
    "retfound": ("retfound", {"name": "masked_autoencoder", "towers": {"image": VIT},
                              "image_decoder": DECODER}),
    "retfound_classifier": ("retfound", tower({**VIT, "pool": "patch_mean"}, classes=3)),
    "timm": ("timm", tower(VIT, classes=3)),
    "torchvision_r3d": ("torchvision_r3d", tower({"name": "resnet3d", "width": 4, "channels": 3},
                                                 "oct", classes=3)),
    "torchvision_resnet": ("torchvision_resnet", tower(RESNET, classes=3)),
}  # fmt: skip


def pixels(spec):
    """The side of the pictures of which each skeleton has 2 x 2 positions."""
    return 16 if "'vit'" in str(spec) else 64


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """A folder with an export of each case, of random numbers."""
    folder, rng, shapes = tmp_path_factory.mktemp("exports"), np.random.default_rng(0), {}
    for name, (source, spec) in CASES.items():
        known = shapes.setdefault(str(spec), rules.abstract(spec, pixels(spec)))
        flat = {path: rng.normal(size=shape).astype(np.float32) for path, shape in known.items()}
        variables = rules.traverse_util.unflatten_dict(flat, sep="/")
        tensors = rules.export(SOURCES[source], spec, variables)
        files.write_safetensors(folder / f"{name}.safetensors", tensors, {"format": "pt"})
    return folder


def test_every_source_is_tried():
    assert {source for source, _ in CASES.values()} == set(SOURCES)


@pytest.mark.parametrize("name", CASES)
def test_exports_have_the_counts_of_every_norm(name, exports):
    """Without PyTorch too: an int64 beside each mean that runs, and positions where pinned."""
    tensors, _ = files.read_safetensors(exports / f"{name}.safetensors")
    means = {key.removesuffix("running_mean") for key in tensors if key.endswith("running_mean")}
    counts = {key.removesuffix("num_batches_tracked"): value for key, value in tensors.items()
              if key.endswith("num_batches_tracked")}  # fmt: skip
    assert set(counts) == means
    assert all(count.shape == () and count.dtype == np.int64 for count in counts.values())
    positions = [key for key in tensors if key.endswith("position_ids")]
    if name in ("flair", "keepfit"):
        assert positions == ["text_model.model.embeddings.position_ids"]
        np.testing.assert_array_equal(tensors[positions[0]], np.arange(8)[None])
    else:
        assert not positions


def test_every_export_loads_strictly(exports):
    """All names, none in excess, and every number where PyTorch has it."""
    if python := os.environ.get("TORCH_PYTHON"):
        script = Path(__file__).with_name("skeletons.py")
        # Of another environment: no module of this one, no numpy, and none of its variables.
        done = subprocess.run([python, "-I", str(script), str(exports)], env={}, check=False,
                              capture_output=True, text=True, timeout=300)  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        loaded = done.stdout.split()
    else:
        parity.torch_or_skip()
        from convert import skeletons

        loaded = skeletons.load(exports)
    assert loaded == sorted(CASES), sys.version
