"""Transforms read and write the fields they are told to, and name what is wrong."""

import inspect
import pickle

import numpy as np
import pytest
import simplejpeg
from grain.transforms import RandomMap
from picture_files import encode
from PIL import Image

from data_pipelines import transforms as T
from data_pipelines.errors import InputError
from data_pipelines.images import functional
from data_pipelines.text.texts import text_group
from data_pipelines.text.tokenizers import SentencePiece


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("fit", "corner"), [("canvas", 0), ("squash", 120), ("crop", 120)])
def test_decode_fits(fit: str, corner: int, jpeg: bytes) -> None:
    record = {"image": jpeg, "id": "a"}
    result = T.Decode(32, fit=fit).map(record)
    assert result["image"].shape == (32, 32, 3) and record["image"] is jpeg
    assert abs(int(result["image"][-1, 0, 1]) - corner) < 60
    assert (result["image"][-1].max() == 0) == (fit == "canvas")


def test_the_short_side_is_scaled_and_nothing_is_cut(jpeg: bytes) -> None:
    wide = T.Decode(32, fit="short").map({"image": jpeg})["image"]
    assert wide.shape == (32, 42, 3)  # 80 x 32 / 60 = 42.7, rounded down
    whole = functional.resize(functional.decode_image(jpeg), 32, 42).astype(int)
    assert np.abs(wide - whole).mean() < 1.5
    tall = simplejpeg.encode_jpeg(np.zeros((90, 40, 3), np.uint8))
    assert T.Decode(32, fit="short").map({"image": tall})["image"].shape == (72, 32, 3)
    for square in (T.Eyes, T.ForegroundCrop):
        with pytest.raises(InputError, match="canvas, squash or crop"):
            square(32, fit="short")


@pytest.mark.parametrize(("height", "width"), [(90, 131), (131, 90), (77, 77)])
def test_the_middle_of_a_scaled_picture_is_torchvisions(height: int, width: int) -> None:
    """Resize(40) and CenterCrop(33) by PIL, with the rounding of torchvision."""
    image = rng(1).integers(0, 255, (9, 9, 3), dtype=np.uint8)
    image = functional.resize(image, height, width)
    short = min(height, width)
    size = (int(40 * width / short), int(40 * height / short))
    left, top = (int(round((side - 33) / 2.0)) for side in size)
    scaled = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    expected = np.asarray(scaled.crop((left, top, left + 33, top + 33)), int)
    record = {"image": encode(image)}
    found = T.Decode(33, fit="crop", short_side=40).map(record)["image"]
    assert np.abs(found - expected).max() <= 1
    plain = T.Decode(33, fit="crop").map(record)["image"]
    assert np.abs(plain - expected).max() > 5


@pytest.mark.parametrize(("height", "width"), [(640, 800), (800, 640), (700, 700)])
def test_scaled_decoding_costs_no_visible_quality(height: int, width: int) -> None:
    blurred = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    large = functional.resize(blurred, height, width)
    data = simplejpeg.encode_jpeg(large, 95)
    full = functional.canvas(functional.decode_image(data), 64).astype(int)
    assert np.abs(T.Decode(64).map({"image": data})["image"] - full).mean() < 1.5


def test_decode_names_what_it_got(jpeg: bytes) -> None:
    with pytest.raises(InputError, match="no field 'picture'.*id, image"):
        T.Decode(32, source="picture").map({"image": jpeg, "id": "a"})
    with pytest.raises(InputError, match="bytes of a picture"):
        T.Decode(32).map({"image": np.zeros((4, 4, 3), np.uint8)})
    for options in ({"fit": "squash", "short_side": 40}, {"fit": "crop", "short_side": 31}):
        with pytest.raises(InputError, match="'short_side' is for the fit 'crop' and at least"):
            T.Decode(32, **options)
    with pytest.raises(InputError, match="canvas, squash, crop or short"):
        T.Decode(32, fit="stretch")
    assert "small" in T.Decode(8, target="small").map({"image": jpeg})


RANDOM = [T.RandomResizedCrop(24), T.RandomCrop(24), T.RandomFlip(1.0), T.RandomAffine(1.0),
          T.ColorJitter(1.0, saturation=0.3), T.GaussianNoise(1.0, (0.05, 0.1), "image"),
          T.RandomErasing(1.0)]  # fmt: skip


@pytest.mark.parametrize("transform", RANDOM, ids=lambda t: type(t).__name__)
def test_random_pictures_depend_on_the_generator_only(
    transform: RandomMap, picture: np.ndarray
) -> None:
    record = {"image": picture.copy()}
    first = transform.random_map(record, rng(1))["image"]
    assert (first == transform.random_map(record, rng(1))["image"]).all()
    assert first.dtype == np.uint8 and first.shape[2] == 3
    assert (record["image"] == picture).all(), "a transform must not change its record"
    others = [transform.random_map(record, rng(seed))["image"] for seed in range(5)]
    fixed = isinstance(transform, T.RandomFlip)
    assert fixed or any((first != other).any() for other in others)


@pytest.mark.parametrize(
    "transform",
    [T.RandomFlip(0.0), T.RandomAffine(0.0), T.ColorJitter(0.0), T.RandomErasing(0.0),
     T.GaussianNoise(0.0, source="image")],
    ids=lambda t: type(t).__name__,
)  # fmt: skip
def test_probability_zero_changes_nothing(transform: RandomMap, picture: np.ndarray) -> None:
    assert (transform.random_map({"image": picture}, rng())["image"] == picture).all()


def test_probability_is_a_share(picture: np.ndarray) -> None:
    flip = T.RandomFlip(0.3)
    changed = [flip.random_map({"image": picture}, rng(s))["image"][0, 0, 0] != picture[0, 0, 0]
               for s in range(400)]  # fmt: skip
    assert 0.2 < np.mean(changed) < 0.4
    with pytest.raises(InputError, match="0..1"):
        T.RandomFlip(1.5)


def test_augmenting_needs_a_decoded_picture(jpeg: bytes) -> None:
    with pytest.raises(InputError, match="decode"):
        T.RandomFlip(1.0).random_map({"image": jpeg}, rng())


def test_eyes_are_decoded_left_first(jpeg: bytes, picture: np.ndarray) -> None:
    mirrored = simplejpeg.encode_jpeg(np.ascontiguousarray(picture[:, ::-1]), 95)
    record = {"left_image": jpeg, "right_image": mirrored}
    result = T.Eyes(32, fit="squash").map(record)
    assert result["eyes"].shape == (2, 32, 32, 3) and result["eyes"].dtype == np.uint8
    assert (result["eyes"][0] == T.Decode(32, fit="squash").map({"image": jpeg})["image"]).all()
    assert np.abs(result["eyes"][1].astype(int) - result["eyes"][0][:, ::-1]).mean() < 4
    assert result["eye_mask"].tolist() == [True, True] and result["eye_mask"].dtype == bool
    one = T.Eyes(32, target="pair", mask="there").map({**record, "left_image": b""})
    assert one["there"].tolist() == [False, True]
    assert not one["pair"][0].any() and one["pair"][1].any()
    with pytest.raises(InputError, match="both 'left_image' and 'right_image' are empty"):
        T.Eyes(32).map({"left_image": b"", "right_image": b""})
    with pytest.raises(InputError, match="got ndarray"):
        T.Eyes(32).map({**record, "right_image": picture})


def test_the_field_of_view_is_cut_out() -> None:
    y, x = np.mgrid[:120, :200]
    field = np.where((y - 60) ** 2 + (x - 130) ** 2 < 45**2, 160, 3).astype(np.uint8)
    image = np.stack([field, field // 2, field // 4], -1)
    cut = T.ForegroundCrop(45, fit="squash").map({"image": image})["image"]
    assert cut.shape == (45, 45, 3) and (cut[22, [1, -2], 0] > 100).all()
    assert (cut[[1, -2], 22, 0] > 100).all() and cut[0, 0, 0] < 100
    other = np.roll(image, -60, axis=1)
    eyes = T.ForegroundCrop(45, "eyes", "squash").map({"eyes": np.stack([image, other])})["eyes"]
    assert (eyes[0] == cut).all() and np.abs(eyes[1].astype(int) - cut).max() < 3
    with pytest.raises(InputError, match="no field of view"):
        T.ForegroundCrop(8, "oct").map({"oct": np.zeros((2, 9, 9, 1), np.uint8)})


def test_each_eye_has_an_erased_box_of_its_own(picture: np.ndarray) -> None:
    erase = T.RandomErasing(0.5, (0.1, 0.2), source="eyes")
    boxes = set()
    for seed in range(40):
        eyes = erase.random_map({"eyes": np.stack([picture, picture])}, rng(seed))["eyes"]
        filled = (eyes == np.uint8([123, 117, 104])).all(-1)
        shares = filled.mean((1, 2))
        assert all(share < 0.01 or 0.07 < share < 0.23 for share in shares)
        boxes.add(tuple(share > 0.01 for share in shares))
    assert len(boxes) == 4
    with pytest.raises(InputError, match="name photographs"):
        T.RandomErasing(1.0, source="oct").random_map({"oct": np.zeros((2, 9, 9, 1), np.uint8)},
                                                      rng())  # fmt: skip


def test_patches_are_hidden_by_share() -> None:
    mask = T.MaskPatches().random_map({}, rng())["patch_mask"]
    assert mask.shape == (196,) and (~mask).sum() == 49
    for patches, ratio in ((64, 0.4), (100, 0.015), (49, 0.75)):
        mask = T.MaskPatches(patches, ratio, "hidden").random_map({}, rng())["hidden"]
        assert (~mask).sum() == round((1 - ratio) * patches)


def test_caption_chooses_a_text_that_is_there() -> None:
    record = {"caption": "normal", "caption_zh": "正常"}
    texts = {T.ComposeCaption().random_map(record, rng(seed))["caption"] for seed in range(20)}
    assert texts == {"normal", "正常"}
    only = {"caption": "", "caption_zh": "正常"}
    assert all(T.ComposeCaption().random_map(only, rng(s))["caption"] == "正常" for s in range(9))
    assert T.ComposeCaption().random_map({"caption": "", "caption_zh": ""}, rng())["caption"] == ""


def test_text_becomes_ids_and_masked_ids() -> None:
    tokenizer = SentencePiece()
    record = T.Tokenize(tokenizer, 12).map({"caption": "severe glaucoma of the left eye"})
    assert record["text"].dtype == np.int32 and record["text"].shape == (12,)
    assert record["text_mask"].sum() == (record["text"] != 0).sum() > 4
    masked = T.MaskTokens(tokenizer, 0.5).random_map(record, rng())
    assert masked["masked"].any() and not masked["masked"][~record["text_mask"]].any()
    assert not masked["masked"][0], "the start token is never predicted"
    kept = ~masked["masked"]
    assert (masked["masked_text"][kept] == record["text"][kept]).all()
    every = T.MaskTokens(
        tokenizer, 0.3, whole_words=False, mask_token_share=1.0, random_token_share=0.0
    )
    for seed in range(30):
        masked = every.random_map(record, rng(seed))
        assert masked["masked"].sum() == int(0.3 * (record["text_mask"].sum() - 2) + 0.5)
        assert (masked["masked_text"][masked["masked"]] == tokenizer.mask_id).all()
    with pytest.raises(InputError, match="sum to at most 1"):
        T.MaskTokens(tokenizer, random_token_share=0.3)
    with pytest.raises(InputError, match="one text, got list"):
        T.Tokenize(tokenizer, 12, source="labels").map({"labels": ["normal"]})


def test_groups_mark_equal_texts() -> None:
    assert T.Group().map({"category": "normal"})["group"] == text_group("Normal")
    assert T.Group("caption", "pair").map({"caption": "a"})["pair"].dtype == np.int32
    both = T.Group(("modality", "category"))
    pairs = (("cfp", "normal"), ("cfp", "Normal"), ("oct", "normal"), ("cfp", "glaucoma"))
    first, same, *others = (
        both.map({"modality": modality, "category": name})["group"] for modality, name in pairs
    )
    assert first == same and len({first, *others}) == 3
    with pytest.raises(InputError, match="has to be of texts"):
        T.Group("labels").map({"labels": ["normal"]})


def test_labels_are_indices_with_synonyms() -> None:
    label = T.Label((("normal", "no diabetic retinopathy"), "glaucoma"))
    assert label.map({"labels": ["No diabetic retinopathy"]})["label"] == 0
    assert label.map({"labels": ["other", "glaucoma"]})["label"] == 1
    modality = T.Label(("cfp", "ffa"), source="modality", target="modality")
    assert modality.map({"modality": "ffa"})["modality"] == np.int32(1)
    with pytest.raises(InputError, match="none of .'cataract'.*synonym"):
        label.map({"labels": ["cataract"]})
    many = T.MultiLabel(("normal", "glaucoma", "cataract"))
    result = many.map({"labels": ["cataract", "glaucoma", "other"]})["labels"]
    assert result.tolist() == [0, 1, 1] and result.dtype == np.float32


def test_labels_within_their_data_set() -> None:
    """'normal' of ODIR and of an OCT set are two classes, and neither is that of a third set."""
    classes = (("odir/normal", "rfmid/healthy"), "odir/mild", "oct/Normal", "oct/dme")
    label = T.Label(classes, within="dataset")
    assert label.map({"dataset": "odir", "labels": ["Normal"]})["label"] == 0
    assert label.map({"dataset": "RFMiD", "labels": ["healthy"]})["label"] == 0
    assert label.map({"dataset": "oct", "labels": ["NORMAL"]})["label"] == 2
    with pytest.raises(InputError, match="none of .'rfmid/normal'.*missing=True"):
        label.map({"dataset": "rfmid", "labels": ["normal"]})
    graded = T.Label(classes, ("grade", "labels"), within="dataset", missing=True)
    assert graded.map({"dataset": "odir", "labels": ["normal"], "grade": "mild"})["label"] == 1
    assert graded.map({"dataset": "odir", "labels": ["normal"], "grade": ""})["label"] == 0
    assert graded.map({"dataset": "odir", "labels": [], "grade": ""})["label"] == -1
    for transform in (T.Label, T.MultiLabel):
        with pytest.raises(InputError, match="named as 'dataset/label'.*got 'normal'"):
            transform(("odir/mild", "normal"), within="dataset")


def test_labels_that_nobody_looked_for_are_missing() -> None:
    many = T.MultiLabel(("odir/normal", ("odir/dr", "oct/dr"), "oct/dme"), within="dataset")
    found = many.map({"dataset": "oct", "labels": ["DME", "normal"]})["labels"]
    np.testing.assert_array_equal(found, [np.nan, 0, 1])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(many.map({"dataset": "odir", "labels": []})["labels"][:2], 0)
    assert np.isnan(many.map({"dataset": "third", "labels": ["dr"]})["labels"]).all()
    plain = T.MultiLabel(("normal", "dr"), missing=True)
    assert np.isnan(plain.map({"labels": []})["labels"]).all()
    np.testing.assert_array_equal(plain.map({"labels": ["other"]})["labels"], 0)


def test_a_quantity_is_a_number_of_a_record() -> None:
    """Of a table, which has texts, or of a field of numbers; without one it is no target."""
    quantity = T.Quantity("thickness")
    for value in (" 312.5", 312.5, np.float32(312.5)):
        target = quantity.map({"thickness": value})["target"]
        assert target == 312.5 and target.dtype == np.float32 and target.shape == ()
    for value in ("", "nan", float("inf")):
        with pytest.raises(InputError, match="no finite number: leave such records out"):
            quantity.map({"thickness": value})
    for value in ("thick", "3,5", None, ["1"]):
        with pytest.raises(InputError, match="which is no number"):
            quantity.map({"thickness": value})
    assert np.isnan(T.Quantity("thickness", missing=True).map({"thickness": ""})["target"])


def test_every_transform_is_frozen_documented_and_picklable() -> None:
    tokenizer = SentencePiece()
    needs = {"size": 16, "tokenizer": tokenizer, "length": 8, "classes": ("normal",), "slices": 2,
             "count": 2, "source": "x"}  # fmt: skip
    for name, cls in T.TRANSFORMS.items():
        required = [p.name for p in inspect.signature(cls).parameters.values()
                    if p.default is p.empty]  # fmt: skip
        built = cls(**{key: needs[key] for key in required})
        assert pickle.loads(pickle.dumps(built)) == built, name
        with pytest.raises(AttributeError):
            built.source = "x"
