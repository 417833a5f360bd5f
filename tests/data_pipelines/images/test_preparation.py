"""Fields of view, prepared pictures, and hashes that say which pictures are the same."""

import dataclasses
import io
import json

import numpy as np
import pytest
from picture_files import encode
from PIL import Image, ImageOps

from data_pipelines.errors import InputError
from data_pipelines.images import functional, likeness, preparation
from data_pipelines.images.preparation import Box, Preparation

pytestmark = pytest.mark.fast


def disc(height, width, centre, radius, inside=140.0, border=3.0):
    """A textured disc on a dark border: uint8 [H W 3]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    lit = np.hypot(y - centre[0], x - centre[1]) < radius
    image = np.where(lit, inside, border) + rng.normal(0, 2, (height, width))
    return np.repeat(np.clip(image, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def close(box, top, left, bottom, right, tolerance):
    found = np.array([box.top, box.left, box.top + box.height, box.left + box.width])
    return np.abs(found - [top, left, bottom, right]).max() <= tolerance


# ----------------------------------------------------------------------------- field of view


@pytest.mark.parametrize("inside", [20, 60, 250])
@pytest.mark.parametrize("scale", [1, 7])
def test_the_box_of_a_disc_to_a_256th_of_the_long_side(inside, scale):
    image = disc(200 * scale, 300 * scale, (100 * scale, 140 * scale), 80 * scale, inside)
    box = preparation.field_of_view(image)
    assert close(box, 20 * scale, 60 * scale, 180 * scale, 220 * scale, 300 * scale / 256 + 2)


def test_a_field_that_touches_the_edges_keeps_them():
    image = disc(200, 300, (100, 150), 120)
    box = preparation.field_of_view(image)
    assert (box.top, box.height) == (0, 200)
    assert close(box, 0, 30, 200, 270, 4)


def test_a_field_that_is_bright_on_one_side_is_kept_whole():
    """A threshold between its bright and its dim half, such as Li's, would cut it."""
    shading = np.linspace(15, 230, 300)[None, :]
    box = preparation.field_of_view(disc(300, 300, (150, 150), 140, shading))
    assert close(box, 10, 10, 290, 290, 6)


def test_a_glowing_border_is_no_field():
    """Light scattered in the camera, in many pictures of IDRiD: up to 30 beside the field."""
    y, x = np.mgrid[:300, :400]
    glow = np.clip(32 - 0.3 * np.abs(np.hypot(y - 150, x - 200) - 120), 3, None)
    box = preparation.field_of_view(disc(300, 400, (150, 200), 120, border=glow))
    assert close(box, 30, 80, 270, 320, 5)


@pytest.mark.parametrize("inside", [25, 140])
def test_a_label_in_the_border_is_no_field(inside):
    """Its edges are steeper than those of a dim field, but short."""
    image = disc(300, 400, (150, 200), 120, inside)
    image[4:14, 4:40] = 255
    assert close(preparation.field_of_view(image), 30, 80, 270, 320, 5)


def vessels():
    """An angiogram without a border: a bright tree on grey."""
    y, x = np.mgrid[:256, :256]
    tree = sum((np.abs(y - 128 - 60 * np.sin(x / 25 + k)) < 3) for k in range(4)) > 0
    return np.where(tree, 220, 60).astype(np.uint8)[..., None].repeat(3, 2)


@pytest.mark.parametrize("image",
                         [np.zeros((90, 120, 3), np.uint8), np.full((90, 120, 3), 255, np.uint8),
                          np.full((1, 1, 3), 7, np.uint8),
                          np.random.default_rng(0).integers(90, 130, (90, 120, 3)).astype(np.uint8),
                          disc(300, 300, (150, 150), 400), vessels(),
                          disc(300, 300, (150, 150), 30, inside=250)],
                         ids=["black", "white", "one pixel", "noise", "no border", "vessels",
                              "reflection"])  # fmt: skip
def test_the_whole_picture_where_there_is_no_border(image):
    assert preparation.field_of_view(image) == Box(0, 0, *image.shape[:2])


def pictures(folder, name, step):
    for path in sorted((folder / name / "images").iterdir())[::step]:
        yield path.name, functional.decode_image(path.read_bytes())


@pytest.mark.parametrize(("name", "lit"), [("odir", 40), ("ffa", 25), ("chase_db1", 40)])
def test_nothing_lit_is_cut_from_real_photographs(retina_data, name, lit):
    for file, image in pictures(retina_data, name, {"odir": 20}.get(name, 1)):
        box = preparation.field_of_view(image)
        bright = image[..., 0] > lit
        for axis, start, length in ((1, box.top, box.height), (0, box.left, box.width)):
            places = np.flatnonzero(bright.mean(axis) > 0.05)
            room = 0.02 * image.shape[1 - axis]
            assert start <= places[0] + room and start + length >= places[-1] - room, file


def test_the_dark_border_of_idrid_goes(retina_data):
    """All its pictures are of one camera, whose field is 0.80 of the width."""
    widths = [
        preparation.field_of_view(image).width / image.shape[1]
        for _, image in pictures(retina_data, "idrid", 3)
    ]
    assert 0.79 < min(widths) and max(widths) < 0.90 and np.median(widths) < 0.81


# ---------------------------------------------------------------------------- photographs


def test_a_photograph_is_cropped_padded_in_the_middle_and_resized_once():
    image = disc(600, 900, (300, 450), 360)  # the field is 720 wide and cut to 600
    made = preparation.photograph(encode(image), Preparation(size=120, format="png"))
    stored = functional.decode_image(made.data)
    assert stored.shape == (120, 120, 3) and made.size_before == (600, 900)
    assert close(made.box, 0, 90, 600, 810, 5)
    height = round(600 * 120 / made.box.width)
    top = (120 - height) // 2
    assert not stored[:top].any() and not stored[top + height :].any()
    expected = functional.resize(np.ascontiguousarray(made.box.cut(image)), height, 120)
    np.testing.assert_array_equal(stored[top : top + height], expected)


@pytest.mark.parametrize("format", ["jpeg", "png"])
def test_the_same_bytes_every_time(format):
    data = encode(disc(300, 400, (150, 200), 120), "JPEG")
    wanted = Preparation(size=96, format=format)
    assert preparation.photograph(data, wanted) == preparation.photograph(data, wanted)


def test_jpeg_keeps_colours_at_full_resolution_and_its_quality():
    image = disc(64, 64, (32, 32), 60)
    image[..., 2] = 0
    sizes = {}
    for quality in (50, 95):
        data = preparation.photograph(encode(image), Preparation(64, quality=quality)).data
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.format == "JPEG"
            assert {layer[1:3] for layer in picture.layer} == {(1, 1)}, "4:4:4"
        sizes[quality] = len(data)
    assert sizes[50] < sizes[95]


def test_small_pictures_are_not_enlarged():
    image = disc(60, 80, (30, 40), 100)
    made = preparation.photograph(encode(image), Preparation(size=512, format="png"))
    stored = functional.decode_image(made.data)
    assert stored.shape == (80, 80, 3)
    np.testing.assert_array_equal(stored[10:70], image)


def test_a_scan_keeps_its_proportions_and_its_borders():
    scan = disc(200, 300, (100, 140), 80)
    wanted = Preparation(size=150, crop="none", pad="none", format="png")
    made = preparation.photograph(encode(scan), wanted)
    assert made.box == Box(0, 0, 200, 300)
    assert functional.decode_image(made.data).shape == (100, 150, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_the_camera_is_applied_and_its_notes_are_not_copied(orientation):
    image = np.random.default_rng(1).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "maker of the camera"
    data = encode(image, "JPEG", exif=exif, quality=95)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_allclose(functional.decode_image(data), expected, atol=2)
    made = preparation.photograph(data, Preparation(64, crop="none", pad="none"))
    assert made.size_before == expected.shape[:2]
    assert b"maker" not in made.data
    assert not Image.open(io.BytesIO(made.data)).getexif()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("failure", [None, SyntaxError("not a TIFF file"), KeyError(0x0112)])
def test_broken_notes_of_a_camera_cost_nothing(failure, monkeypatch):
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff" + bytes(range(64))
    data = encode(np.full((20, 30, 3), 90, np.uint8), "JPEG", exif=exif)

    def fail(picture):
        raise failure

    if failure:  # as some versions of PIL do
        monkeypatch.setattr(Image.Image, "getexif", fail)
    assert functional.decode_image(data).shape == (20, 30, 3)


@pytest.mark.parametrize(("options", "sentence"),
                         [({"crop": "tight"},
                           "crop of a preparation is one of field_of_view, none, not 'tight'"),
                          ({"pad": "left"}, "pad of .* square, none, not 'left'"),
                          ({"format": "bmp"}, "format of .* jpeg, png, not 'bmp'"),
                          ({"size": 0}, "a size of 1 pixel or more .* got 0 and 95"),
                          ({"quality": 101}, "got 512 and 101"),
                          ({"version": 2},
                           "prepares by version 1 of its rules, not 2")])  # fmt: skip
def test_wrong_options_are_refused(options, sentence):
    with pytest.raises(InputError, match=sentence):
        Preparation(**options)


def test_what_is_no_picture_is_refused():
    with pytest.raises(InputError, match="not a readable picture"):
        preparation.photograph(b"\xff\xd8 no more", Preparation())


# --------------------------------------------------------------------------------- hashes


def bits(one, other):
    return int(likeness.nearest([one], [other])[1][0])


def copies(image):
    """The same picture as other data sets have it."""
    height, width = image.shape[:2]
    prepared = preparation.photograph(encode(image), Preparation(160)).data
    return {"re-encoded": functional.decode_image(encode(image, "JPEG", quality=60)),
            "half": functional.resize(image, height // 2, width // 2),
            "twice": functional.resize(image, 2 * height, 2 * width),
            "square": functional.resize(image, 150, 150),
            "prepared": functional.decode_image(prepared),
            "darker": (image * 0.8).astype(np.uint8)}  # fmt: skip


@pytest.mark.parametrize(("name", "step"), [("odir", 120), ("idrid", 20), ("ffa", 8)])
def test_copies_are_near_and_other_eyes_and_mirror_images_are_not(retina_data, name, step):
    images = dict(pictures(retina_data, name, step))
    hashes = {file: preparation.perceptual(image) for file, image in images.items()}
    assert len(likeness.twins(list(hashes.values()))) == 0
    # Like throws of a coin: what all eyes have in common, the disc and its edge, is not in there.
    codes = [int(text, 16) for text in hashes.values()]
    differing = [(one ^ other).bit_count() for one in codes for other in codes if one != other]
    assert np.median(differing) > 0.45 * 426
    for file, image in images.items():
        distances = {
            what: bits(preparation.perceptual(copy), hashes[file])
            for what, copy in copies(image).items()
        }
        assert max(distances.values()) <= likeness.NEAR, (file, distances)
        mirrored = preparation.perceptual(image[:, ::-1])
        assert likeness.nearest([mirrored], list(hashes.values()))[1].min() > likeness.NEAR, file


def test_scans_are_hashed_whole(retina_data):
    images = [image for _, image in pictures(retina_data, "kermany_oct", 30)]
    hashes = [preparation.perceptual(image, "none") for image in images]
    assert len(likeness.twins(hashes)) == 0
    for image, own in zip(images, hashes, strict=True):
        padded = preparation.photograph(encode(image), Preparation(400, crop="none")).data
        for copy in (
            functional.decode_image(encode(image, "JPEG", quality=60)),
            functional.resize(image, 200, 220),
            functional.decode_image(padded),
        ):
            assert bits(preparation.perceptual(copy, "none"), own) <= likeness.NEAR


def test_a_picture_without_detail_has_no_perceptual_hash():
    assert preparation.perceptual(np.full((80, 80, 3), 90, np.uint8)) == ""
    for crop in preparation.CROPS:
        assert preparation.perceptual(np.zeros((80, 80, 3), np.uint8), crop) == ""
    assert len(preparation.perceptual(vessels())) == 108


def test_the_digest_is_of_the_bytes():
    assert preparation.digest(b"a") == "27c35e6e9373877f29e562464e46497e"
    assert preparation.digest(b"a") != preparation.digest(b"a\n")


# ----------------------------------------------------------------------------- parameters


def test_parameters_travel_with_a_data_set(tmp_path):
    folder = tmp_path / "manifest" / "mine" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    assert preparation.of_dataset("manifest/mine", tmp_path) is None
    assert preparation.of_dataset("manifest/other", tmp_path) is None
    made = preparation.parameters(Preparation(size=384))
    (folder / preparation.FILE).write_text(json.dumps(made))
    read = preparation.of_dataset("manifest/mine", tmp_path)
    assert read == made and set(read["libraries"]) >= {"pillow", "simplejpeg"}
    assert Preparation(**{k: v for k, v in read.items() if k != "libraries"}).size == 384


def test_differences_are_told_by_option():
    small = preparation.parameters(Preparation(size=256))
    large = preparation.parameters(Preparation(size=512, pad="none"))
    assert preparation.difference(large, small) == (
        "size 512 instead of 256, pad none instead of square"
    )
    assert preparation.difference(small, dict(small)) == ""
    assert preparation.difference(None, small) == "not prepared instead of prepared"
    assert preparation.difference(small, None) == "prepared instead of not prepared"
    assert preparation.difference(None, None) == ""


def test_evaluated_pictures_are_compared_with_all_that_were_trained_on():
    small, large = (preparation.parameters(Preparation(size=n)) for n in (256, 512))
    other_libraries = {**small, "libraries": {"pillow": "1.0"}}
    assert preparation.unlike({"a/x": other_libraries}, {"a/y": large, "a/z": small}) == ""
    assert preparation.unlike({"a/x": None}, {"a/y": None}) == ""
    assert preparation.unlike({"a/x": small, "a/w": None}, {"a/y": large}) == (
        "a/x: size 256 instead of 512; a/w: not prepared instead of prepared"
    )
    assert preparation.unlike({"a/x": small}, {}) == "", "nothing is known of the training"


def test_a_prepared_picture_is_a_value():
    assert dataclasses.asdict(Box(1, 2, 3, 4)) == {"top": 1, "left": 2, "height": 3, "width": 4}
