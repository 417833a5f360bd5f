"""Files of pictures: turned once, every kind of grey and colour, and whatever is broken."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import encode
from PIL import Image, ImageOps

from data_pipelines.errors import InputError
from data_pipelines.images import decoding, functional, greys, volumes

pytestmark = pytest.mark.fast

# No symmetry: every turn shows.
CORNERS = np.zeros((40, 64, 3), np.uint8)
CORNERS[:10, :, 0], CORNERS[:, :8, 1] = 255, 200
RAMP = np.linspace(0, 1, 64)[None] * np.ones((4, 1))


def png16(array: np.ndarray) -> bytes:
    """A PNG of 16 bits and 2 to 4 channels, which PIL reads and does not write."""
    height, width, channels = array.shape
    kind = {2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )


def tiff(array: np.ndarray, photometric: int, order: str = "<", deflated: bool = False) -> bytes:
    """A TIFF of one strip and of any values, first byte order '<' or '>'."""
    height, width, channels = (*array.shape, 1)[:3]
    pixels = array.astype(array.dtype.newbyteorder(order)).tobytes()
    pixels = zlib.compress(pixels) if deflated else pixels
    bits, kind = array.dtype.itemsize * 8, 3 if array.dtype.kind == "f" else 1
    values = {256: width, 257: height, 258: bits, 259: 8 if deflated else 1, 262: photometric,
              273: 0, 277: channels, 278: height, 279: len(pixels), 339: kind}  # fmt: skip
    several = struct.pack(f"{order}{channels}H", *[bits] * channels) if channels > 1 else b""
    end = 8 + 2 + 12 * len(values) + 4
    values[273] = end + len(several)
    entries = b""
    for tag, value in values.items():
        entry = (tag, 3, channels, end) if tag == 258 and several else (tag, 4, 1, value)
        entries += struct.pack(order + "HHII", *entry)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(values))
    return head + entries + bytes(4) + several + pixels


@pytest.mark.parametrize(
    ("form", "options"),
    [("JPEG", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}),
     ("TIFF", {"compression": "tiff_lzw"})],
)  # fmt: skip
def test_pictures_are_turned_once(form: str, options: dict) -> None:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encode(CORNERS, form, exif=exif, **options)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
        found = [functional.decode_image(data)]
        if form == "JPEG":  # what was edited has kilobytes of XMP before its EXIF
            xmp = b"http://ns.adobe.com/xap/1.0/\0".ljust(60_000)
            segment = b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp
            found.append(functional.decode_image(data[:2] + segment + data[2:]))
        if form == "TIFF":
            found += decoding.pages(data)
        for image in found:
            assert image.shape == expected.shape, orientation
            assert np.abs(image.astype(int) - expected).max() < 20, orientation


@pytest.mark.parametrize(
    ("values", "top"),
    [(RAMP.astype(np.float32), 255), ((255 * RAMP).astype(np.float32), 255),
     ((65535 * RAMP).astype(np.uint16), 255), ((4095 * RAMP).astype(np.uint16), 255),
     ((255 * RAMP).astype(np.uint16), 255), ((4095 * RAMP).astype(np.int32), 255),
     # Dark ones stay dark within the bits that they use.
     ((2100 * RAMP).astype(np.uint16), 131), ((100 * RAMP).astype(np.uint16), 100),
     ((0.5 * RAMP).astype(np.float32), 128), ((4000 * RAMP - 2000).astype(np.float32), 255)],
)  # fmt: skip
def test_no_grey_becomes_black(values: np.ndarray, top: int) -> None:
    image = functional.decode_image(encode(values, "TIFF"))
    assert image.shape == (4, 64, 3) and image[0, 0].tolist() == [0, 0, 0]
    assert image.max() == top and (np.diff(image[0, :, 0].astype(int)) >= 0).all()


def test_colours_of_12_bits_in_16_are_not_black() -> None:
    rng = np.random.default_rng(0)
    for top, shift in ((4095, 4), (65535, 8)):
        values = rng.integers(0, top, (7, 9, 4)).astype(np.uint16)
        values[0, 0] = top
        colours = values[..., :3]
        files = [png16(values), png16(colours)]
        files += [tiff(colours, 2, order, flat) for order in "<>" for flat in (False, True)]
        for data in files:
            assert np.array_equal(functional.decode_image(data), colours >> shift)
    with pytest.raises(InputError, match="fewer than 16 bits, beside transparency"):
        functional.decode_image(png16(np.full((4, 5, 2), 4000, np.uint16)))


def test_white_may_be_zero() -> None:
    for values in (255 * RAMP, 4095 * RAMP, 65535 * RAMP):
        stored = values.astype(np.uint8 if values.max() < 256 else np.uint16)
        right, inverted = (functional.decode_image(tiff(stored, kind)) for kind in (1, 0))
        assert np.array_equal(inverted, 255 - right) and right[0, [0, -1], 0].tolist() == [0, 255]
    inverted = functional.decode_image(tiff(RAMP.astype(np.float32), 0))
    assert inverted[0, [0, -1], 0].tolist() == [255, 0]


def test_other_kinds_of_pixels_stay_right() -> None:
    colour = Image.new("RGB", (12, 9), (200, 60, 30))
    clear = colour.convert("RGBA")
    clear.putalpha(90)
    palette = colour.quantize(4)
    palette.info["transparency"] = 0
    grey, two = Image.new("LA", (12, 9), (77, 10)), Image.new("1", (12, 9), 1)
    red = (200, 60, 30)
    for image, form, expected in (
        (colour.convert("CMYK"), "JPEG", red), (colour.convert("CMYK"), "TIFF", red),
        (clear, "PNG", red), (clear, "TIFF", red), (palette, "PNG", red), (palette, "GIF", red),
        (grey, "PNG", (77, 77, 77)), (two, "TIFF", (255, 255, 255)),
    ):  # fmt: skip
        decoded = functional.decode_image(encode(image, form))
        assert decoded.shape == (9, 12, 3)
        assert np.abs(decoded.astype(int) - expected).max() <= 4, (image.mode, form)


def test_one_range_for_all_bscans_of_a_volume() -> None:
    dark, bright = (np.full((4, 5), value, np.uint16) for value in (100, 4000))
    scans = [encode(scan, "PNG") for scan in (dark, bright)]
    assert [int(scan[0, 0, 0]) for scan in volumes.decode(scans)] == [100 >> 4, 4000 >> 4]
    # Alone it uses 8 bits.
    assert int(volumes.decode(scans[:1])[0][0, 0, 0]) == 100


def test_ranges() -> None:
    assert greys.used(np.array([0.0, 1.0]), np.array([3000.0])) == (0.0, 4095.0)
    assert greys.used(np.array([np.nan, np.inf, 0.5])) == greys.UNIT
    assert greys.common([(0, 255), (0, 4095), greys.UNIT]) == (0, 4095)
    assert greys.common([greys.UNIT]) == greys.UNIT and greys.common([]) is None
    assert greys.eight_bits(np.array([-1.0, 0, 2, 5]), (0.0, 4.0)).tolist() == [0, 0, 128, 255]
    assert greys.eight_bits(np.array([0, 255, 4095, 9000]), (0, 4095)).tolist() == [0, 15, 255, 255]


def test_what_a_file_leaves_black_is_no_picture() -> None:
    whole = tiff(CORNERS, 2)
    assert np.array_equal(functional.decode_image(whole), CORNERS)
    taller = whole.replace(struct.pack("<HHII", 257, 4, 1, 40), struct.pack("<HHII", 257, 4, 1, 80))
    gif = bytearray(encode(CORNERS, "GIF"))
    assert functional.decode_image(bytes(gif)).shape == CORNERS.shape
    gif[6:10] = struct.pack("<2H", 64, 80)  # of the screen, not of the page on it
    for broken in (taller, bytes(gif)):
        with pytest.raises(InputError, match="80 x 64 pixels and stores 2,560"):
            functional.decode_image(broken)
    # Black pixels of one bit are the most that a byte can hold.
    black = Image.new("1", (3_000, 3_000))
    assert functional.decode_image(encode(black, "PNG")).shape == (3_000, 3_000, 3)


def test_claims_are_checked_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Image.fromarray(CORNERS)
    data = encode(page, "TIFF", save_all=True, append_images=[page] * 3)
    assert len(decoding.pages(data)) == 4
    monkeypatch.setattr(decoding, "MAX_VOXELS", 3 * 40 * 64)
    with pytest.raises(InputError, match="4 first pages"):
        decoding.pages(data)
    monkeypatch.undo()
    # A few bytes cannot hold many pixels, however few they are for a picture.
    ink = bytearray(encode(Image.fromarray(CORNERS).convert("CMYK"), "JPEG"))
    at = ink.index(b"\xff\xc0") + 5
    ink[at : at + 4] = struct.pack(">2H", 13_000, 15_000)
    screen = bytearray(encode(page, "GIF", save_all=True, append_images=[page] * 3))
    screen[6:10] = struct.pack("<2H", 9_000, 9_000)
    for broken, decode in ((ink, functional.decode_image), (screen, decoding.pages)):
        with pytest.raises(InputError, match=r"pixels in [0-9,]+ bytes"):
            decode(bytes(broken))
    monkeypatch.setattr(decoding, "MAX_PIXELS", 1000)
    with pytest.raises(InputError, match="40 x 64"):
        decoding.pages(data)


SMALL = Image.fromarray(CORNERS[::4, ::4])
DEEP = Image.fromarray((4095 * RAMP).astype(np.uint16))
FILES = [encode(SMALL, form) for form in ("PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG")]
FILES += [
    encode(DEEP, "PNG"), encode(DEEP, "TIFF"), encode(DEEP, "TIFF", compression="tiff_lzw"),
    encode(SMALL, "TIFF", save_all=True, append_images=[SMALL] * 2), png16(np.full((3, 4, 3), 9)),
]  # fmt: skip


@settings(max_examples=250, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_whatever_a_header_says_there_are_pixels_or_a_sentence(data: st.DataObject) -> None:
    file = bytearray(data.draw(st.sampled_from(FILES)))
    # The list of a TIFF's tags lies behind its pixels.
    start = struct.unpack_from("<I", file, 4)[0] if file[:2] == b"II" and len(file) > 900 else 0
    for _ in range(data.draw(st.integers(1, 3))):
        place = start + data.draw(st.integers(0, min(len(file) - start, 200) - 1))
        file[place : place + 4] = data.draw(st.binary(max_size=6))
    for decode in (functional.decode_image, decoding.pages, decoding.size):
        try:
            assert len(decode(bytes(file)))
        except InputError as error:
            assert str(error).isprintable() and len(str(error)) < 400


def test_floats_that_interpolation_left_a_hair_above_one_are_not_black():
    values = np.linspace(0, 1.00001, 64, dtype=np.float32).reshape(8, 8)
    assert greys.used(values) == greys.UNIT
    assert greys.eight_bits(values, greys.used(values)).max() == 255
    assert greys.used(values * 2) == (0.0, 255.0)


def grain(mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)
    return Image.fromarray(values).convert(mode)


@pytest.mark.parametrize(
    ("mode", "options"),
    [("RGB", {}), ("RGB", {"progressive": True}), ("RGB", {"optimize": True}), ("L", {}),
     ("CMYK", {})],
)  # fmt: skip
def test_a_jpeg_of_which_a_part_is_lost_is_no_picture(mode: str, options: dict) -> None:
    data = encode(grain(mode), "JPEG", **options)
    half, end = len(data) // 2, data[-2:]
    assert end == b"\xff\xd9"
    # A copy that was interrupted, and one into room that had been made before.
    lost = [data[:half], data[:half] + end, data[:half] + bytes(len(data) - half), data[:-2],
            data[:half] + bytes(len(data) - half - 2) + end,
            data[:half] + bytes(1000) + data[half + 1000 :]]  # fmt: skip
    for cut in lost:
        for read in (decoding.pixels, functional.decode_image):
            with pytest.raises(InputError, match="truncated, damaged"):
                read(cut)
        with pytest.raises(InputError, match="truncated, damaged"):
            decoding.pixels(cut, (32, 32))
    # What follows or pads a whole picture takes nothing from it.
    whole = decoding.pixels(data)
    for longer in (data + bytes(999), data + b"notes of the camera", data[:-2] + b"\1\2\3" + end):
        assert np.array_equal(decoding.pixels(longer), whole)


@pytest.mark.parametrize(
    ("form", "options"),
    [("PNG", {}), ("GIF", {}), ("WEBP", {"quality": 90}), ("WEBP", {"lossless": True}),
     ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "tiff_adobe_deflate"}),
     ("TIFF", {"compression": "jpeg"})],
)  # fmt: skip
def test_other_pictures_whose_end_is_zeros_are_none(form: str, options: dict) -> None:
    data = encode(grain(), form, **options)
    for share in (0.3, 0.6, 0.9):
        kept = int(len(data) * share)
        for cut in (data[:kept], data[:kept] + bytes(len(data) - kept)):
            with pytest.raises(InputError):
                decoding.pixels(cut)
    if options.get("compression") == "jpeg":  # its list of tags lies behind the pixels
        with pytest.raises(InputError, match="zero bytes"):
            decoding.pixels(data[:2000] + bytes(500) + data[2500:])
    flat = encode(np.zeros((300, 400, 3), np.uint8), form, **options)
    assert not decoding.pixels(flat).any()
