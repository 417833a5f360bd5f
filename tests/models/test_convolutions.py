"""Convolutions as sums and products against XLA's own, and which of them a platform gets."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from retina_jax.models import convolutions
from retina_jax.models.convolutions import DepthwiseConv, PointwiseConv

rng = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def with_gradients(convolve, x, kernel):
    """(output, gradients of a sum that weighs every number of it differently)."""

    def weighed(x, kernel):
        out = convolve(x, kernel)
        return (out * jnp.sin(jnp.arange(out.size)).reshape(out.shape)).sum(), out

    (_, out), gradients = jax.value_and_grad(weighed, (0, 1), has_aux=True)(x, kernel)
    return out, *gradients


def same(ours, own, x, kernel, run):
    """Asserts that two functions have the same output and gradients."""
    one = run(partial(with_gradients, ours), x, kernel)
    other = run(partial(with_gradients, own), x, kernel)
    for a, b in zip(one, other, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype and np.abs(b).max() > 0
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize(
    ("size", "stride", "shape", "padding"),
    [
        (3, 1, (7, 6), ((1, 1), (1, 1))),
        (3, 2, (7, 6), ((1, 1), (0, 1))),
        (5, 1, (5, 8), ((2, 2), (2, 2))),
        (5, 2, (9, 8), ((2, 2), (1, 2))),
        (5, 2, (8, 9), ((2, 2), (2, 2))),  # the last row is out of reach
    ],
)
def test_a_sum_over_places_is_xlas_depthwise_convolution(run, size, stride, shape, padding):
    x, kernel = normal(3, *shape, 4), normal(size, size, 1, 4)
    own = partial(convolutions.xla_convolution, strides=(stride,) * 2, padding=padding, groups=4)
    same(partial(convolutions.depthwise, stride=stride, padding=padding), own, x, kernel, run)


@pytest.mark.parametrize(("shape", "strides"), [((5, 6), (1, 1)), ((5, 6), (2, 2)),
                                                ((3, 4, 5), (1, 2, 2))])  # fmt: skip
def test_a_product_of_matrices_is_xlas_convolution_of_size_one(run, shape, strides):
    x, kernel = normal(2, *shape, 3), normal(*(1,) * len(shape), 3, 4)
    padding = ((0, 0),) * len(shape)
    own = partial(convolutions.xla_convolution, strides=strides, padding=padding)
    same(partial(convolutions.pointwise, strides=strides), own, x, kernel, run)


CASES = {"depthwise": (partial(convolutions.depthwise, stride=2, padding=((1, 1), (1, 1))),
                       normal(2, 6, 6, 4), normal(3, 3, 1, 4)),
         "pointwise": (partial(convolutions.pointwise, strides=(2, 2)), normal(2, 6, 6, 4),
                       normal(1, 1, 4, 5))}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_only_accelerators_get_xlas_own_in_both_passes(name, platform):
    convolve, x, kernel = CASES[name]
    traced = jax.jit(partial(with_gradients, convolve)).trace(x, kernel)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    # Forward, and the gradients of both arguments.
    assert text.count("stablehlo.convolution") == (0 if platform == "cpu" else 3)
    if platform == jax.default_backend():  # nothing is left to be decided when it runs
        assert "conditional" not in traced.lower().compile().as_text()


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_keeps_the_input_once(name):
    convolve, x, kernel = CASES[name]
    _, pull = jax.vjp(convolve, x, kernel)
    kept = [leaf.shape for leaf in jax.tree.leaves(pull)]
    assert sorted(kept) == sorted([x.shape, kernel.shape])


def test_sums_in_sixteen_bits_are_rounded_once(run):
    """Each of 25 roundings would lose what a place adds."""
    x = jnp.ones((1, 9, 9, 2), jnp.bfloat16)
    kernel = jnp.full((5, 5, 1, 2), 1 + 2**-7, jnp.bfloat16)
    out = run(partial(convolutions.depthwise, stride=1, padding=((0, 0),) * 2), x, kernel)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out, np.full(out.shape, 25 * (1 + 2**-7), jnp.bfloat16))


@pytest.mark.parametrize(("ours", "flax"),
                         [(PointwiseConv(5, (2, 2)), nn.Conv(5, (1, 1), strides=2, use_bias=False)),
                          (PointwiseConv(5, use_bias=True), nn.Conv(5, (1, 1))),
                          (DepthwiseConv(3, 2, ((1, 1), (1, 1))),
                           nn.Conv(4, (3, 3), strides=2, padding=1, feature_group_count=4,
                                   use_bias=False))])  # fmt: skip
def test_parameters_are_those_of_flax(random_variables, run, ours, flax):
    x = normal(2, 6, 6, 4)
    variables = random_variables(ours, x)
    shapes = jax.eval_shape(flax.init, jax.random.key(0), x)
    assert jax.tree.structure(variables) == jax.tree.structure(shapes)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: a.shape == b.shape, variables, shapes)))
    one, other = run(ours.apply, variables, x), run(flax.apply, variables, x)
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_first_values_keep_the_size_of_what_passes(run):
    """A channel of a depthwise convolution sees k k numbers, however many channels there are."""
    x = normal(4, 16, 16, 512)
    model = DepthwiseConv(5, 1, ((0, 0), (0, 0)))
    out = run(lambda key: model.init_with_output(key, x)[0], jax.random.key(0))
    assert np.asarray(out).std() == pytest.approx(2**0.5, rel=0.1)
