"""The frames of DICOM objects: their streams, their order, and the distance between them."""

import dataclasses

import numpy as np
import pytest
from picture_files import encode
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit

from data_pipelines import clinical
from data_pipelines.errors import InputError

pytestmark = pytest.mark.fast

TOMOGRAM = "1.2.840.10008.5.1.4.1.1.77.1.5.4"
SHUFFLED = [3, 0, 4, 1, 2]


def volume_of(number: int = 5) -> np.ndarray:
    """A stack whose B-scan t, in space, is filled with 10 t."""
    return np.stack([np.full((6, 8), 10 * t, np.uint8) for t in range(number)])


def test_frames_are_ordered_by_position(dicom_file, groups):
    volume = volume_of()
    frames = [
        groups.frame(position=(0.5, 2, 0.12 * t), number=9 - i) for i, t in enumerate(SHUFFLED)
    ]
    path = dicom_file(volume[SHUFFLED], sop=TOMOGRAM, PerFrameFunctionalGroupsSequence=frames,
                      SharedFunctionalGroupsSequence=groups.shared(),
                      ImageLaterality="L")  # fmt: skip
    (one,) = clinical.read(path)
    assert np.array_equal(one.array, volume) and one.array.dtype == np.uint8
    assert (one.kind, one.modality, one.laterality) == ("volume", "oct", "OS")
    assert dataclasses.astuple(one.spacing) == pytest.approx((0.12, 0.004, 0.011), rel=1e-6)
    assert one.remarks == ()


def test_frames_are_ordered_by_place_on_the_localizer(dicom_file, groups):
    volume = volume_of()
    # Higher on the localizer is a smaller row; B-scans are slanted, as those of a tilted raster.
    frames = [groups.frame(place=(90 - 10 * t, 5 + t, 100 - 10 * t, 95 + t)) for t in SHUFFLED]
    path = dicom_file(volume[SHUFFLED], sop=TOMOGRAM, PerFrameFunctionalGroupsSequence=frames,
                      SharedFunctionalGroupsSequence=groups.shared())  # fmt: skip
    (one,) = clinical.read(path)
    assert np.array_equal(one.array, volume) and one.spacing.between is None


def test_frames_without_positions(dicom_file, groups):
    volume = volume_of()
    shared = groups.shared()
    numbered = [groups.frame(number=t + 1) for t in SHUFFLED]
    path = dicom_file(volume[SHUFFLED], sop=TOMOGRAM, SharedFunctionalGroupsSequence=shared,
                      PerFrameFunctionalGroupsSequence=numbered)  # fmt: skip
    assert np.array_equal(clinical.read(path)[0].array, volume)
    # Repeats at one place have no order in space.
    same = [groups.frame(position=(0, 0, 1), number=t + 1) for t in SHUFFLED]
    path = dicom_file(volume[SHUFFLED], sop=TOMOGRAM, SharedFunctionalGroupsSequence=shared,
                      PerFrameFunctionalGroupsSequence=same)  # fmt: skip
    (one,) = clinical.read(path)
    assert np.array_equal(one.array, volume) and one.spacing.between is None
    (one,) = clinical.read(dicom_file(volume[SHUFFLED], sop=TOMOGRAM))
    assert np.array_equal(one.array, volume[SHUFFLED]) and "stored order" in one.remarks[0]


def test_uneven_bscans_have_no_distance(dicom_file, groups):
    frames = [groups.frame(position=(0, 0, z)) for z in (0, 0.1, 0.2, 0.5, 0.6)]
    path = dicom_file(volume_of(), sop=TOMOGRAM, PerFrameFunctionalGroupsSequence=frames,
                      SharedFunctionalGroupsSequence=groups.shared())  # fmt: skip
    (one,) = clinical.read(path)
    assert one.spacing == clinical.Spacing(None, 0.004, 0.011)
    assert one.remarks == ("Its B-scans are not evenly spaced.",)


@pytest.mark.parametrize(
    ("places", "between"),
    [
        ([{"position": (0, 0, z)} for z in (0, 0.1, 0.2, 0.5, 0.6)], None),
        ([{"position": (0, 0, 0.2 * t)} for t in range(5)], 0.2),
        ([{"number": t} for t in (5, 3, 7, 4, 8)], None),
        ([{"number": t + 1} for t in range(5)], 0.1),
        ([{}] * 5, 0.1),
    ],
)
def test_a_stated_distance_counts_where_nothing_contradicts_it(dicom_file, groups, places, between):
    shared = groups.shared()
    shared[0].PixelMeasuresSequence[0].SpacingBetweenSlices = 0.1
    frames = [groups.frame(**at) for at in places]
    path = dicom_file(volume_of(), sop=TOMOGRAM, SharedFunctionalGroupsSequence=shared,
                      PerFrameFunctionalGroupsSequence=frames)  # fmt: skip
    (one,) = clinical.read(path)
    assert one.spacing.between == (between if between is None else pytest.approx(between))


def test_a_number_that_no_frame_has_is_said(dicom_file, groups):
    frames = [groups.frame(number=number) for number in (5, 3, 7, 4, 8)]
    path = dicom_file(volume_of(), sop=TOMOGRAM, PerFrameFunctionalGroupsSequence=frames,
                      SharedFunctionalGroupsSequence=groups.shared())  # fmt: skip
    (one,) = clinical.read(path)
    assert one.array[:, 0, 0].tolist() == [10, 30, 0, 20, 40]
    assert one.remarks == ("Of its 6 B-scans 1 are missing or damaged: 4.",)


@pytest.mark.parametrize("form", ["JPEG", "JPEG2000"])
def test_a_stream_whose_end_was_never_written_is_no_picture(dicom_file, form):
    syntax = JPEGBaseline8Bit if form == "JPEG" else JPEG2000Lossless
    colour = np.random.default_rng(0).integers(0, 255, (64, 80, 3), np.uint8)
    for array in (colour, colour[..., 0]):
        data = encode(array, form, **({"no_jp2": True} if "2" in form else {}))
        (one,) = clinical.read(dicom_file(array, encoded=encapsulate([data]), syntax=syntax))
        assert one.array.shape == array.shape
        for kept in (len(data) * 2 // 3, len(data) - 300):
            filled = encapsulate([data[:kept] + bytes(len(data) - kept)])
            with pytest.raises(InputError, match="cannot be decoded"):
                clinical.read(dicom_file(array, encoded=filled, syntax=syntax))
