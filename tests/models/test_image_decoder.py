"""Patches, their positions, and the decoder that fills in the hidden ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.errors import InputError
from retina_jax.models.image_decoder import (
    ImageDecoder,
    comparison,
    patch_moments,
    patch_positions,
    patchify,
    unpatchify,
)

rng = np.random.default_rng(0)
GRID, WIDTH, VALUES = (2, 3), 8, 12
TINY = dict(width=WIDTH, depth=1, heads=2, mlp_dim=16)


def test_patches_are_row_major_with_values_by_row_column_and_channel():
    image = rng.normal(size=(2, 4, 6, 3)).astype(np.float32)
    patches = patchify(image, 2)
    assert patches.shape == (2, 6, 12)
    for row in range(2):
        for column in range(3):
            cut = image[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            np.testing.assert_array_equal(patches[:, 3 * row + column], cut.reshape(2, -1))
    np.testing.assert_array_equal(unpatchify(patches, GRID), image)


def test_positions_are_those_of_the_released_code():
    """Its loops written out: half for the column, half for the row, sines before cosines."""
    table = np.asarray(patch_positions(GRID, WIDTH))
    for row in range(2):
        for column in range(3):
            expected = []
            for place in (column, row):
                angles = [place / 10_000 ** (i / (WIDTH / 4)) for i in range(WIDTH // 4)]
                expected += [*np.sin(angles), *np.cos(angles)]
            np.testing.assert_allclose(table[3 * row + column], expected, atol=1e-6)
    with pytest.raises(InputError, match="a multiple of 4, not 6"):
        patch_positions(GRID, 6)


def test_parameters_are_those_of_the_published_decoder():
    # Of MAE's 512 x 8 decoder: 25,220,096 in its blocks and last norm, the mask token, the pixels.
    args = jnp.zeros((1, 50, 512)), jnp.zeros((1, 49), int), (14, 14), 768
    shapes = jax.eval_shape(
        lambda t, v: ImageDecoder().init(jax.random.key(0), t, v, *args[2:]), *args[:2]
    )
    sizes = {k: sum(x.size for x in jax.tree.leaves(v)) for k, v in shapes["params"].items()}
    block = 4 * (512 * 512 + 512) + 512 * 2048 + 2048 + 2048 * 512 + 512 + 4 * 512
    assert sizes == {"mask_token": 512, "blocks": 8 * block + 1024, "pixels": 512 * 768 + 768}


class Fixed(ImageDecoder):
    """With the arguments that are no arrays."""

    def __call__(self, tokens, visible):
        """As `ImageDecoder`, for one grid."""
        return super().__call__(tokens, visible, GRID, VALUES)


def decoded(run, variables, tokens, visible):
    return run(Fixed(**TINY).apply, variables, tokens, visible)


def test_visible_tokens_go_to_their_places(random_variables, run):
    """In whichever order they come, with or without a class token before them."""
    tokens = rng.normal(size=(2, 5, WIDTH)).astype(np.float32)
    visible = np.array([[4, 0, 3, 5], [1, 2, 5, 0]])
    variables = random_variables(Fixed(**TINY), tokens, visible)
    out = decoded(run, variables, tokens, visible)
    assert out.shape == (2, 6, VALUES) and out.dtype == jnp.float32
    order = np.array([2, 0, 3, 1])
    shuffled = np.concatenate([tokens[:, :1], tokens[:, 1:][:, order]], axis=1)
    np.testing.assert_allclose(decoded(run, variables, shuffled, visible[:, order]), out, atol=1e-5)
    # The same with the hidden places filled by hand and nothing left out.
    token = variables["params"]["mask_token"]
    full = np.broadcast_to(token, (2, 6, WIDTH)).copy()
    for row in range(2):
        full[row, visible[row]] = tokens[row, 1:]
    full = np.concatenate([tokens[:, :1], full], axis=1)
    by_hand = run(lambda v, t: Fixed(**TINY).apply(v, t, None), variables, full)
    np.testing.assert_allclose(by_hand, out, atol=1e-5)
    other = np.concatenate([-tokens[:, :1], tokens[:, 1:]], axis=1)
    assert abs(decoded(run, variables, other, visible) - out).max() > 1e-2


def test_moments_are_those_of_the_released_code():
    patches = rng.normal(2.0, 3.0, size=(2, 6, 12)).astype(np.float32)
    mean, deviation = patch_moments(patches)
    np.testing.assert_allclose(mean[..., 0], patches.mean(-1), rtol=1e-5)
    expected = np.sqrt(patches.var(-1, ddof=1) + 1e-6)
    np.testing.assert_allclose(deviation[..., 0], expected, rtol=1e-5)


def test_comparison_counts_hidden_pixels_only():
    given = np.zeros((1, 2, 2, 3), np.float32)
    given[0, 0, 0] = (1.0, 0.5, 0.0)  # visible
    given[0, 1, 1] = 0.25  # hidden
    hidden = np.zeros((1, 2, 2, 3), bool)
    hidden[0, 1] = True
    made = comparison(given, np.full_like(given, 0.5), hidden)
    assert float(made["error"][0]) == pytest.approx((3 * 0.25 + 3 * 0.0625) / 6)
    mean = np.array([0.5, 0.25, 0.0])  # of the two visible pixels
    expected = (np.square(mean).sum() + np.square(mean - 0.25).sum()) / 6
    assert float(made["error_of_mean"][0]) == pytest.approx(expected)
    assert made["visible"][0].tolist() == [[[255, 128, 0], [0, 0, 0]],
                                           [[128, 128, 128], [128, 128, 128]]]  # fmt: skip
    assert made["given"].dtype == np.uint8 and made["reconstructed"].max() == 128
