"""What maps are compared with, and when they are shown."""

import dataclasses
import pathlib
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from data_pipelines.errors import InputError
from data_pipelines.images import placement, preparation
from data_pipelines.images.single import Preprocessing
from data_pipelines.transforms.pictures import Decode
from retina_jax.decision import Decision
from retina_jax.saliency import drawing, maps, randomised, removal, scores, study, verdict

pytestmark = pytest.mark.fast


def test_figures_of_a_map():
    saliency = np.array([[0, 1, 2, 0], [0, 3, 4, 0], [0, 0, 0, 0], [1, 0, 0, 1]], float)
    mask = np.zeros((4, 4), bool)
    mask[:2, 1:3] = True
    found = scores.localisation(saliency, mask)
    expected = {"energy": 0.833333, "mask_share": 0.25, "lift": 3.333333, "pointing": 1.0,
                "auc": 0.979167, "average_precision": 0.916667}  # fmt: skip
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, abs=5e-7), name
    twice = np.zeros((4, 4))
    twice[0, 1] = twice[3, 3] = 1
    assert scores.localisation(twice, mask).pointing == 0.5
    nothing = scores.localisation(np.zeros((4, 4)), mask)
    assert np.isnan(nothing.energy) and np.isnan(nothing.pointing)


def test_similarity_is_one_of_itself_and_low_of_noise():
    rng = np.random.default_rng(0)
    one = maps.centre(48, 48)
    assert scores.similarity(one, 3 * one + 1) == pytest.approx(1)
    assert scores.similarity(one, rng.uniform(size=one.shape)) < 0.3


def masks(count=40, side=32):
    """A spot for each picture, anywhere."""
    rng = np.random.default_rng(0)
    found = np.zeros((count, side, side), bool)
    for mask, (y, x) in zip(found, rng.integers(2, side - 6, (count, 2)), strict=True):
        mask[y : y + 4, x : x + 4] = True
    return found


def judged(saliency, drawn):
    lifts = np.array([scores.lift(s, m) for s, m in zip(saliency, drawn, strict=True)])
    rng = np.random.default_rng(1)
    spot = maps.centre(*drawn[0].shape)
    mean = verdict.mean_of_others([scores.unit(s) for s in saliency])
    controls = {
        "random_weights": [scores.lift(rng.uniform(size=m.shape), m) for m in drawn],
        "prior": [scores.lift(spot, m) for m in drawn],
        "edges": [scores.lift(rng.uniform(size=m.shape), m) for m in drawn],
        "mean_map": [scores.lift(a, m) for a, m in zip(mean, drawn, strict=True)],
    }
    controls = {name: np.asarray(values) for name, values in controls.items()}
    return verdict.judge(lifts, controls, np.arange(len(drawn)), cascade(0.1), 0.5)


def cascade(last, before=0.1):
    """Similarities that fall, those of the last two steps given."""
    alike = (0.9, 0.8, 0.7, before, last)
    return {step: (1.0, value) for step, value in zip(randomised.STEPS, alike, strict=True)}


def test_an_oracle_passes_and_neither_chance_nor_the_middle_does():
    drawn = masks()
    oracle = [mask + 0.01 for mask in drawn.astype(float)]
    passed = judged(oracle, drawn)
    assert passed.passes and not passed.sentence and passed.low > 30
    rng = np.random.default_rng(5)
    chance = judged([rng.uniform(size=m.shape) for m in drawn], drawn)
    assert not chance.passes and "random weights" in chance.sentence
    middle = judged([maps.centre(*m.shape) for m in drawn], drawn)
    assert not middle.passes and "not shown" in middle.sentence
    controls = {name: np.full(len(drawn), 1.0) + 0.01 * np.arange(len(drawn)) % 0.03
                for name in verdict.CONTROLS}  # fmt: skip
    nine, groups = np.full(len(drawn), 9.0), np.arange(len(drawn))
    for steps in (cascade(0.6), cascade(0.1, before=0.6)):
        alike = verdict.judge(nine, controls, groups, steps, 0.5)
        assert not alike.passes and "as like those of random weights" in alike.sentence
    assert verdict.judge(nine, controls, groups, cascade(0.1), 0.5).passes


@dataclasses.dataclass(frozen=True)
class Model:
    """What of a model makes cases."""

    preprocessing: Preprocessing
    description = SimpleNamespace(modality="cfp")

    def preprocess(self, data):
        return self.preprocessing(data)


def write_eye(folder, spot=(slice(28, 34), slice(60, 66))):
    """A wide photograph with a dark border and a spot, in a folder beside one of its mask."""
    y, x = np.mgrid[:60, :100]
    picture = np.zeros((60, 100, 3), np.uint8)
    picture[(y - 30) ** 2 + (x - 50) ** 2 < 25**2] = (180, 90, 40)
    mask = np.zeros((60, 100), bool)
    mask[spot] = True
    picture[mask] = (20, 250, 250)
    for name, pixels in (("pictures", picture), ("masks", mask)):
        (folder / name).mkdir()
        Image.fromarray(pixels).save(folder / name / "eye.png")
    return mask


PREPARED = Preprocessing(
    (Decode(64, source="image"),), preparation.Preparation(size=48, format="png")
)


def green(variables, batch, classes):
    """Maps of the greenest pixels, on the canvas."""
    return np.maximum(batch["image"][..., 1] - 100.0, 0), np.array([[0.0, 1.0]])


def test_a_map_is_of_the_pixels_of_its_picture(tmp_path):
    """A map of the canvas of a field that was cut out finds the mark where it was made."""
    mask = write_eye(tmp_path)
    (case,) = study.cases(Model(PREPARED), tmp_path / "pictures", tmp_path / "masks", None, 5)
    assert case.mask.shape == (60, 100) and case.canvas.shape == (64, 64, 3)
    # By its share the second class is the one that is decided for, and by a half it is not.
    given = green, {}, lambda *_: {}, lambda _: np.array([[0.7, 0.3]])
    assert list(study.findings(study.Asked(*given, Decision(), "image"), [case], {1})) == [None]
    asked = study.Asked(*given, Decision("single", "balanced", (0.9, 0.1)), "image")
    (found,) = study.findings(asked, [case], {1})
    located = found.localisation
    assert located.pointing == 1 and located.energy > 0.8
    box = placement.seen(case.way)
    assert 48 <= box.height <= 52 and 48 <= box.width <= 52  # the border is no part of a picture
    assert located.mask_share == mask.sum() / (box.height * box.width)
    told = [{"control": (1.0, 0.1, 0.01)}, 2.0]
    judgement = verdict.Judgement(told[1], 1, 3, told[0], 0, 0, 1, True, "", {})
    about = {"method": "gradients", "rows": []}
    drawing.write(tmp_path / "out", about, [found], judgement, ["none", "any"], False)
    written = np.load(tmp_path / "out" / "maps" / "eye.npy")
    assert written.shape == (60, 100) and written.dtype == np.float32
    assert mask[np.unravel_index(written.argmax(), written.shape)] and not written[:, :20].any()
    with Image.open(tmp_path / "out" / "eye.png") as sheet:
        assert sheet.height < sheet.width / 2  # in the proportions of the photograph


def test_a_mask_has_the_size_of_its_picture_and_a_mark_that_is_seen(tmp_path):
    mask = write_eye(tmp_path, (slice(0, 4), slice(0, 9)))
    folders = tmp_path / "pictures", tmp_path / "masks"
    with pytest.raises(InputError, match="No picture of .* has a mask"):
        study.cases(Model(PREPARED), *folders, None, 5)  # it lies in the border
    Image.fromarray(mask[:-1]).save(tmp_path / "masks" / "eye.png")
    with pytest.raises(InputError, match=r"eye.png has \(59, 100\) pixels .* \(60, 100\)"):
        study.cases(Model(PREPARED), *folders, None, 5)


def test_both_eyes_are_of_their_patient_where_names_tell(tmp_path):
    write_eye(tmp_path)
    folders = tmp_path / "pictures", tmp_path / "masks"
    for folder in folders:
        for name in ("7_left", "7_right"):
            shutil.copy(folder / "eye.png", folder / f"{name}.png")
    pattern = "(?P<patient>[0-9]+)_.*"
    found = study.cases(Model(PREPARED), *folders, None, 5, pattern)
    assert [case.patient for case in found] == ["7", "7", "eye"]
    assert len({case.patient for case in study.cases(Model(PREPARED), *folders, None, 5)}) == 3
    with pytest.raises(InputError, match="--pattern has groups of the names patient"):
        study.cases(Model(PREPARED), *folders, None, 5, "[0-9]+")
    with pytest.raises(InputError, match="--pattern fits no name of .*, such as '7_left'"):
        study.cases(Model(PREPARED), *folders, None, 5, "(?P<patient>p[0-9]+)_.*")
    found = study.cases(Model(PREPARED), *folders, None, 5, "(?P<patient>[0-9]+)?_?.*")
    assert [case.patient for case in found] == ["7", "7", "eye"]  # a group that took no part


@pytest.mark.parametrize(("name", "absent"), [
    ("normal", True), ("No diabetic retinopathy", True), ("healthy", True), ("", False),
    ("mild non-proliferative diabetic retinopathy", False), ("nodule", False),
    ("normal tension glaucoma", False)])  # fmt: skip
def test_a_class_without_a_finding_has_no_map(name, absent):
    assert study.normal(name) == absent


def test_masks_are_what_is_not_zero_or_has_a_bit(tmp_path):
    values = np.array([[0, 1, 16], [3, 8, 17]], np.uint8)
    Image.fromarray(values).save(tmp_path / "m.png")
    assert study.mask_of(tmp_path / "m.png", None).tolist() == [[False, True, True], [True] * 3]
    found = study.mask_of(tmp_path / "m.png", 15).tolist()
    assert found == [[False, True, False], [True, True, True]]
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="broken.png cannot be read"):
        study.mask_of(tmp_path / "broken.png", None)
    (tmp_path / "pictures").mkdir()
    with pytest.raises(InputError, match="has a mask in"):
        study.cases(None, tmp_path / "pictures", tmp_path, None, 5)


def case_of(path, canvas, mask, batch):
    """One whose canvas is its picture."""
    return study.Case(path, path.stem, batch, canvas, mask, (placement.mirror(canvas, False),))


def test_a_drawing_has_the_picture_and_its_map(tmp_path):
    mask = np.zeros((32, 32), bool)
    mask[4:12, 4:12] = True
    picture = np.full((32, 32, 3), 120, np.uint8)
    Image.fromarray(picture).save(tmp_path / "eye.png")
    saliency = maps.enlarged(np.eye(4), 32, 32)
    case = case_of(tmp_path / "eye.png", picture, mask, {})
    found = study.Finding(case, 1, saliency, (4, 4), scores.localisation(saliency, mask))
    drawing.draw(found, "a map of many words that takes two lines " * 2, tmp_path / "a.png")
    pixels = np.asarray(Image.open(tmp_path / "a.png"))
    top = pixels.shape[0] - 332
    left, right = pixels[top : top + 320, :320], pixels[top : top + 320, 332:652]
    assert (left == 255).all(-1).any() and not (right == 255).all(-1).any()
    bright = right.astype(int).sum(-1)
    assert bright[16, 16] > bright[16, 304] + 50  # a cell of the diagonal against one beside it
    rows = np.flatnonzero((pixels[:top] < 128).any(axis=(1, 2)))  # two lines of large letters
    assert rows.max() - rows.min() > 35 and top > 56


def test_cells_are_changed_in_the_order_of_the_map():
    """A class that is bright green where the map is: it falls first and rises first."""
    picture = np.zeros((56, 56, 3), np.uint8)
    y, x = np.mgrid[:56, :56]
    picture[(y - 28) ** 2 + (x - 28) ** 2 < 26**2] = (180, 90, 40)
    mask = np.zeros((56, 56), bool)
    mask[20:28, 24:32] = True
    picture[mask] = (180, 250, 40)
    colour = removal.mean_colour(picture)
    assert colour[0] > 170 and 90 < colour[1] < 110  # nothing of what is outside the eye
    ranks = removal.ranks_of(mask.astype(float))
    assert set(ranks[5:7, 6:8].ravel()) == {0, 1, 2, 3}
    steps = removal.changed(picture, np.zeros_like(picture), ranks)
    assert len(steps) == 21 and (steps[0] == picture).all() and not steps[-1].any()
    assert not steps[1][mask].any() and (steps[1][~mask] != picture[~mask]).any(-1).mean() < 0.05

    def ask(pictures):
        return (pictures[:, mask, 1] > 200).mean(axis=1)

    own = removal.areas(picture, ranks, ask)
    random = removal.areas(picture, removal.random_ranks(0), ask)
    assert own.deletion < 0.05 < 0.2 < random.deletion and own.insertion > 0.95 > random.insertion


@pytest.mark.parametrize(
    "values, deletion, relative",
    [([0.9, 0.6, 0.3, 0.2, 0.1], 0.4, 0.444444), ([0.1, 0.5, 0.8, 0.85, 0.9], 0.6625, 6.625)],
)
def test_areas_are_by_the_trapezoid(values, deletion, relative):
    picture = np.full((28, 28, 3), 90, np.uint8)
    found = removal.areas(picture, removal.random_ranks(0), lambda _: np.array(values))
    assert (found.deletion, found.insertion) == (pytest.approx(deletion),) * 2
    assert found.deletion_relative == pytest.approx(relative, abs=5e-7)


def test_a_study_asks_for_each_map_once():
    """Of a model whose pictures are its cells: the map is right, and random weights are not."""
    size, count = 32, 12
    rng = np.random.default_rng(0)
    drawn = masks(count, size)
    calls = []

    def explain(variables, batch, classes):
        calls.append(int(classes[0]))
        noise = rng.uniform(size=(1, 8, 8))
        cells = batch["image"].reshape(1, 8, 4, 8, 4).mean(axis=(2, 4))
        own = variables["params"]["image"]["layer1_0"]["kernel"][0]
        return own * cells + (1 - own) * noise, np.array([[0.0, 1.0]])

    def variables(value):
        layers = {f"layer{n}_0": {"kernel": np.full(1, value)} for n in range(1, 5)}
        return {"params": {"image": layers}}

    black = np.zeros((size, size, 3), np.uint8)
    cases = [
        case_of(pathlib.Path(f"{n}.png"), black, mask, {"image": mask[None].astype(float)})
        for n, mask in enumerate(drawn)
    ]
    asked = study.Asked(
        explain, variables(1.0), lambda *_: variables(0.0), lambda b: np.tile([0.0, 1.0], (21, 1)),
        Decision(), "image",
    )  # fmt: skip
    found = [one for one in study.findings(asked, cases, {1}) if one is not None]
    assert len(found) == count and calls == [1] * count
    steps = study.cascade(asked, found, seeds=2)
    assert len(calls) == count * (1 + 2 * len(randomised.STEPS)) and set(calls[count:]) == {1}
    # Layer 1 alone decides here, and is random in the last step only.
    assert steps["three_quarters"][1] == pytest.approx(1) and steps["all"][1] < 0.5
    told = study.controls(found, steps["all"][0])
    assert list(told) == list(verdict.CONTROLS) and told["random_weights"].mean() < 2
    assert np.mean([one.localisation.lift for one in found]) > 10
    summary = study.removal_summary(list(study.removals(asked, found)), found)
    assert summary["insertion"][:3] == (1.0, 1.0, 0.0)  # whatever is removed it says the same
