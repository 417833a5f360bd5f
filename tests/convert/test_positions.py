"""Resampled positions against PyTorch's own.

The stored fixture is made anew by `python tests/convert/test_positions.py`, with PyTorch installed.
"""

import numpy as np
import pytest
from convert import parity

from data_pipelines.errors import InputError
from retina_jax.convert import positions

WAYS = {"antialiased": {"antialias": True, "align_corners": False},
        "corners_aligned": {"align_corners": True},
        "centres_aligned": {"align_corners": False}}  # fmt: skip
SIDES = [(7, 14), (14, 7), (14, 24), (24, 14), (14, 16), (16, 13), (3, 32), (2, 1), (1, 3)]


def grid(side: int) -> np.ndarray:
    return np.random.default_rng(side).normal(size=(1 + side**2, 5)).astype(np.float32)


def torchs(way: str, old: int, new: int) -> np.ndarray:
    """f32[1 + new^2, 5] of `grid(old)` by PyTorch."""
    torch = parity.torch_or_skip()
    given = torch.tensor(grid(old))
    patches = given[1:].reshape(1, old, old, 5).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(patches, (new, new), mode="bicubic", **WAYS[way])
    return torch.cat([given[:1], resized.permute(0, 2, 3, 1).reshape(-1, 5)]).numpy()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("old", "new"), SIDES)
def test_resampling_is_pytorchs(way, old, new):
    ours = positions.resample(grid(old), 1 + new**2, 1, getattr(positions, way))
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, torchs(way, old, new), atol=2e-5)


def test_stored_grids_are_given_again():
    _, arrays = parity.stored("positions")
    assert len(arrays) == 6
    for name, expected in arrays.items():
        way, old, new = name.split(" ")
        weights = getattr(positions, way)
        ours = positions.resample(grid(int(old)), 1 + int(new) ** 2, 1, weights)
        np.testing.assert_allclose(ours, expected, atol=2e-5)


def test_the_three_ways_differ():
    ways = [positions.resample(grid(4), 50, 1, getattr(positions, way)) for way in WAYS]
    parity.differ(ways, least=0.05)


def test_the_same_number_is_not_touched():
    change = positions.resampling(positions.antialiased, first=1, axes=1)
    given = grid(4)[None]
    ours = change.to_ours(given, (17, 5))
    np.testing.assert_array_equal(ours, given[0])
    np.testing.assert_array_equal(change.to_theirs(ours), given)


def test_what_is_no_square_is_refused():
    for count, wanted in ((12, 17), (17, 13), (1, 17)):
        with pytest.raises(InputError, match="no square grid"):
            positions.resample(np.zeros((count, 5)), wanted, 1, positions.antialiased)
    change = positions.resampling(positions.antialiased)
    with pytest.raises(InputError, match=r"shape \(17, 6\), but the model has them of shape"):
        change.to_ours(np.zeros((17, 6), np.float32), (17, 5))


def make_fixture() -> None:
    """Stores what PyTorch makes of small grids."""
    cases = [(way, *sides) for way in WAYS for sides in ((3, 7), (7, 4))]
    arrays = {f"{way} {old} {new}": torchs(way, old, new) for way, old, new in cases}
    print(parity.store("positions", {}, **arrays))


if __name__ == "__main__":
    make_fixture()
