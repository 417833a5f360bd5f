"""Random transforms draw from their record only: who makes a batch cannot change a pixel."""

import pathlib

import numpy as np
import pytest

from data_pipelines import batch, pipelines
from data_pipelines import transforms as T
from data_pipelines.records import sources
from data_pipelines.text.tokenizers import SentencePiece

PAIRED = ("image", "ffa")


def patients(data_dir: pathlib.Path) -> pipelines.Stream:
    """RET-CLIP's augmentation: everything is drawn for each eye."""
    source = sources.load("synthetic_retina/smoke_patients", "expert", data_dir)
    tokenizer = SentencePiece()
    return pipelines.Stream(source, (
        T.Eyes(28, fit="squash"), T.RandomResizedCrop(24, (0.9, 1.0), source="eyes", share=False),
        T.RandomFlip(0.5, "eyes", share=False),
        T.ColorJitter(1.0, 0.2, 0.2, 0.2, source="eyes", share=False),
        T.RandomErasing(0.5, source="eyes"), T.ComposeCaption(("report", "report_zh")),
        T.Sentences(drop=0.2), T.Tokenize(tokenizer, 24), T.MaskPatches(36),
        T.MaskTokens(tokenizer, 0.3, False, mask_token_share=1.0, random_token_share=0.0),
    ), 4)  # fmt: skip


def pairs(data_dir: pathlib.Path) -> pipelines.Stream:
    """Fundus, angiogram and OCT volume of an eye, with shared geometry."""
    source = sources.load("synthetic_retina/smoke_multimodal", "expert", data_dir)
    return pipelines.Stream(source, (
        T.Decode(28), T.Decode(28, "ffa", "ffa"), T.ForegroundCrop(28, fit="squash"),
        T.Volume(3, (20, 28)), T.CanonicalLaterality((*PAIRED, "oct")),
        T.RandomResizedCrop(24, (0.8, 1.0), source=PAIRED), T.RandomAffine(1.0, 10, source=PAIRED),
        T.RandomAffine(1.0, 0, (1.0, 1.0), 0.05, source="oct"), T.RandomFlip(0.5, (*PAIRED, "oct")),
        T.ColorJitter(1.0, source="oct"), T.GaussianNoise(1.0), T.Standardize(),
        T.Prompt(modality="modality"), T.Sentences(), T.Group("category"),
    ), 8)  # fmt: skip


@pytest.fixture(scope="module")
def streams(data_dir: pathlib.Path) -> dict[str, pipelines.Stream]:
    return {"patients": patients(data_dir), "pairs": pairs(data_dir)}


@pytest.fixture(scope="module")
def reference(streams: dict[str, pipelines.Stream]) -> list[dict]:
    return take(pipelines.train(streams, seed=3, num_threads=0), 6)


def take(data: pipelines.TrainData, stop: int, start: int = 0) -> list[dict]:
    with data.batches(start, stop) as batches:
        return list(batches)


def test_batches_keep_the_contract(reference: list[dict]) -> None:
    for one in reference:
        batch.check(one)
    assert set(reference[0]["patients"]) == {"eyes", "eye_mask", "text", "text_mask", "masked_text",
                                             "masked", "patch_mask"}  # fmt: skip
    assert set(reference[0]["pairs"]) == {"image", "oct", "group"}
    assert reference[0]["pairs"]["oct"].shape == (8, 3, 20, 28, 1)
    assert reference[0]["pairs"]["oct"].dtype == np.float32
    assert (~reference[0]["patients"]["patch_mask"]).sum(1).tolist() == [9] * 4


@pytest.mark.parametrize(("threads", "workers"), [(1, 0), (3, 0), (1, 2)])
def test_threads_and_workers_change_nothing(
    streams: dict[str, pipelines.Stream], reference: list[dict], threads: int, workers: int
) -> None:
    data = pipelines.train(streams, seed=3, num_threads=threads, num_workers=workers)
    for k, one in enumerate(take(data, 6, start=2), 2):
        for stream, arrays in one.items():
            for key, value in arrays.items():
                np.testing.assert_array_equal(value, reference[k][stream][key], err_msg=key)


def test_processes_together_are_one(
    streams: dict[str, pipelines.Stream], reference: list[dict]
) -> None:
    parts = [take(pipelines.train(streams, seed=3, process_index=p, process_count=2), 3, start=2)[0]
             for p in range(2)]  # fmt: skip
    for stream, arrays in reference[2].items():
        for key, value in arrays.items():
            joined = np.concatenate([part[stream][key] for part in parts])
            np.testing.assert_array_equal(joined, value, err_msg=key)


def test_rows_and_epochs_draw_anew(streams: dict[str, pipelines.Stream]) -> None:
    source = streams["patients"].source
    same = pipelines.Stream(source.subset([0]), streams["patients"].transforms, 8)
    one = next(pipelines.train({"": same}, seed=0).batches(0, 1))
    for key in ("eyes", "patch_mask", "text"):
        assert len({row.tobytes() for row in one[key]}) > 2, key


def test_canonical_eyes_all_look_right(data_dir: pathlib.Path) -> None:
    """The disc, the brightest place of a normal fundus, lies nasally: to the right in OD."""
    source = sources.load("synthetic_retina/smoke_multimodal", "test", data_dir)
    normal = [record for record in map(source.__getitem__, range(len(source)))
              if list(record["labels"]) == ["normal"]]  # fmt: skip
    sides = {"OD": [], "OS": [], "mirrored": []}
    canonical = T.CanonicalLaterality()
    for record in normal:
        decoded = T.Decode(32).map(record)
        sides[record["eye"]].append(disc(decoded["image"]))
        sides["mirrored"].append(disc(canonical.map(decoded)["image"]))
    assert min(len(found) for found in sides.values()) >= 3
    assert np.median(sides["OD"]) > 0.55 and np.median(sides["OS"]) < 0.45
    assert np.mean(np.array(sides["mirrored"]) > 0.5) > 0.9


def disc(image: np.ndarray) -> float:
    """The column of the brightest pixels, in parts of the width."""
    brightness = image.astype(float).sum(-1)
    bright = brightness >= np.quantile(brightness, 0.99)
    return float((np.nonzero(bright)[1].mean() + 0.5) / image.shape[1])
