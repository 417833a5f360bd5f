"""Which rule a parameter falls under, and what an update then does to it, in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from data_pipelines.errors import InputError
from retina_jax.train import optimizer

pytestmark = pytest.mark.fast

rng = np.random.default_rng(0)


def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)


PARAMS = {"image": {"kernel": normal(3, 4), "bias": normal(4)},
          "text": {"kernel": normal(2, 2), "norm": {"scale": normal(2)}},
          "logit_scale": normal()}  # fmt: skip
GRADS = [jax.tree.map(lambda p: normal(*np.shape(p)), PARAMS) for _ in range(4)]


def run(tx, grads=GRADS):
    """Parameters after each gradient, and the last state."""
    params, state, trajectory = PARAMS, tx.init(PARAMS), []
    for gradient in grads:
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        trajectory.append(params)
    return trajectory, state


def constant(value):
    return lambda count: jnp.full_like(count, value, jnp.float32)


def named(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {optimizer.parameter_name(path): np.asarray(leaf) for path, leaf in leaves}


def test_names_of_parameters():
    assert sorted(named(PARAMS)) == ["image/bias", "image/kernel", "logit_scale", "text/kernel",
                                     "text/norm/scale"]  # fmt: skip


def test_the_first_rule_that_matches_the_whole_name_counts():
    rules = [(".*bias", {}), ("image/.*", {}), ("text", {}), (".*", {})]
    labels = {k: str(v) for k, v in named(optimizer.assign(PARAMS, rules[:2] + rules[3:])).items()}
    assert labels == {"image/bias": "0", "image/kernel": "1", "logit_scale": "2",
                      "text/kernel": "2", "text/norm/scale": "2"}  # fmt: skip
    with pytest.raises(InputError, match="'text' comes to no parameter"):
        optimizer.assign(PARAMS, rules)  # 'text' is the beginning of a name, not one


def test_every_parameter_needs_a_rule_and_every_rule_a_parameter():
    with pytest.raises(InputError, match=r"No optimizer rule covers .*'logit_scale'; add \('\.\*'"):
        optimizer.assign(PARAMS, [("(image|text)/.*", {})])
    with pytest.raises(InputError, match="'visoin/.*' comes to no parameter; remove it"):
        optimizer.assign(PARAMS, [("visoin/.*", {"frozen": True}), (".*", {})])
    with pytest.raises(InputError, match="'image/.*' comes to no parameter"):
        optimizer.assign(PARAMS, [(".*", {}), ("image/.*", {})])  # behind one that takes all
    tx = optimizer.make({"name": "sgd"}, constant(1.0), rules=[("image/.*", {})])
    with pytest.raises(InputError, match="covers the parameter"):
        tx.init(PARAMS)


def test_options_are_checked_when_the_optimizer_is_made():
    with pytest.raises(InputError, match=r"rule 'x' has no option 'freeze'. .*'frozen'\?"):
        optimizer.make({"name": "adamw"}, constant(1.0), rules=[("x", {"freeze": True})])
    with pytest.raises(InputError, match=r"'adamw' has no option 'decay'.*weight_decay"):
        optimizer.make({"name": "adamw", "decay": 0.1}, constant(1.0))
    with pytest.raises(InputError, match=r"no 'adam' here.*Did you mean 'adamw'\?"):
        optimizer.make({"name": "adam"}, constant(1.0))
    with pytest.raises(InputError, match="'learning_rate' is no option"):
        optimizer.make({"name": "adamw", "learning_rate": 1.0}, constant(1.0))


def adamw(p, gradients, rates, b1, b2, eps, decay):
    """Loshchilov & Hutter 2019, algorithm 2, as PyTorch scales it: the decay by lr, not by lr^2."""
    p, m, v = np.float64(p), 0.0, 0.0
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        g = np.float64(g)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        p = p * (1 - rate * decay)
        p = p - rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    return p


@pytest.mark.parametrize("steps", [1, 4])
def test_adamw_is_the_published_algorithm(steps):
    rates = [0.1, 0.05, 0.2, 0.01]
    spec = {"name": "adamw", "b1": 0.8, "b2": 0.98, "eps": 1e-3, "weight_decay": 0.3}
    tx = optimizer.make(spec, lambda count: jnp.asarray(rates)[count])
    trajectory, _ = run(tx, grads=GRADS[:steps])
    got, gradients = named(trajectory[-1]), [named(g) for g in GRADS]
    for name, p in named(PARAMS).items():
        expected = adamw(
            p, [g[name] for g in gradients[:steps]], rates[:steps], 0.8, 0.98, 1e-3, 0.3
        )
        np.testing.assert_allclose(got[name], expected, rtol=2e-5, atol=1e-6)


def test_adamw_has_the_published_defaults():
    made = optimizer.make({"name": "adamw"}, constant(0.1))
    explicit = optimizer.make(
        {"name": "adamw", "b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.0}, constant(0.1)
    )
    for a, b in zip(named(run(made)[0]).values(), named(run(explicit)[0]).values(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_sgd_adds_the_decay_to_the_gradient_before_the_momentum():
    tx = optimizer.make({"name": "sgd", "momentum": 0.9, "weight_decay": 0.1}, constant(0.5))
    got = run(tx)[0][-1]["image"]["kernel"]
    p, velocity = np.float64(PARAMS["image"]["kernel"]), 0.0
    for gradient in GRADS:
        velocity = 0.9 * velocity + gradient["image"]["kernel"] + 0.1 * p
        p = p - 0.5 * velocity
    np.testing.assert_allclose(got, p, rtol=1e-5, atol=1e-6)


def test_frozen_parameters_keep_their_bits_and_have_no_moments():
    tx = optimizer.make({"name": "adamw", "weight_decay": 0.5}, constant(0.1), clip=1.0,
                        rules=[("image/.*", {"frozen": True}), (".*", {})])  # fmt: skip
    trajectory, state = run(tx)
    for params in trajectory:
        for name, leaf in params["image"].items():
            assert leaf.tobytes() == PARAMS["image"][name].tobytes()
    assert not np.allclose(trajectory[-1]["text"]["kernel"], PARAMS["text"]["kernel"])
    shapes = sorted(leaf.shape for leaf in jax.tree.leaves(state) if leaf.dtype == np.float32)
    trained = [np.shape(p) for name, p in named(PARAMS).items() if not name.startswith("image")]
    assert shapes == sorted(trained * 2)  # two moments each, and none else


def test_parameters_without_decay_do_not_shrink():
    zero = jax.tree.map(np.zeros_like, PARAMS)
    tx = optimizer.make({"name": "adamw", "weight_decay": 0.5}, constant(0.1),
                        rules=[(".*(bias|scale)", {"decay": False}), (".*", {})])  # fmt: skip
    got, before = named(run(tx, grads=[zero])[0][-1]), named(PARAMS)
    for name in ("image/bias", "logit_scale", "text/norm/scale"):
        np.testing.assert_array_equal(got[name], before[name])
    for name in ("image/kernel", "text/kernel"):
        np.testing.assert_allclose(got[name], before[name] * (1 - 0.1 * 0.5), rtol=1e-6)


def test_amsgrad_clips_values_then_decays_and_keeps_the_largest_moment():
    options = {"weight_decay": 0.1, "clip_value": 0.5, "b1": 0.9, "b2": 0.99}
    tx = optimizer.make({"name": "amsgrad", **options}, constant(0.01))
    grads = [jax.tree.map(lambda p, s=s: s * p, PARAMS) for s in (4.0, 0.01, -0.5)]
    found = named(run(tx, grads=grads)[0][-1])
    for name, x in named(PARAMS).items():
        first = second = largest = np.zeros_like(x)
        start = x
        for step, factor in enumerate((4.0, 0.01, -0.5), start=1):
            gradient = np.clip(factor * start, -0.5, 0.5) + 0.1 * x
            first = 0.9 * first + 0.1 * gradient
            second = 0.99 * second + 0.01 * gradient**2
            largest = np.maximum(largest, second / (1 - 0.99**step))
            x = x - 0.01 * first / (1 - 0.9**step) / (np.sqrt(largest) + 1e-8)
        np.testing.assert_allclose(found[name], x, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw", "amsgrad"])
def test_the_factor_of_a_rule_multiplies_the_scheduled_rate(name):
    def schedule(count):
        return 0.1 / (count + 1.0)

    spec = {"name": name, "weight_decay": 0.1}
    ruled = optimizer.make(spec, schedule, rules=[("text/.*", {"learning_rate": 0.25}), (".*", {})])
    plain = optimizer.make(spec, schedule)
    quarter = optimizer.make(spec, lambda count: 0.25 * schedule(count))
    got = named(run(ruled)[0][-1])
    slow, full = named(run(quarter)[0][-1]), named(run(plain)[0][-1])
    for leaf in got:
        expected = slow if leaf.startswith("text/") else full
        np.testing.assert_allclose(got[leaf], expected[leaf], rtol=1e-6)
    assert not np.allclose(slow["text/kernel"], full["text/kernel"])


@pytest.mark.parametrize("clip", [0.5, 1e6])
def test_the_norm_that_is_clipped_is_that_of_all_groups_together(clip):
    tx = optimizer.make({"name": "sgd", "momentum": 0.0}, constant(1.0), clip=clip,
                        rules=[("text/.*", {"learning_rate": 0.1}), ("image/.*", {"decay": False}),
                               (".*", {})])  # fmt: skip
    got, before, gradient = named(run(tx, grads=GRADS[:1])[0][0]), named(PARAMS), named(GRADS[0])
    norm = np.sqrt(sum(np.sum(np.float64(g) ** 2) for g in gradient.values()))
    assert 0.5 < norm < 1e6
    for name, p in before.items():
        factor = (0.1 if name.startswith("text/") else 1.0) * min(1.0, clip / norm)
        np.testing.assert_allclose(got[name], p - factor * gradient[name], rtol=1e-5, atol=1e-6)


def test_the_gradient_of_frozen_parameters_does_not_count_in_the_norm():
    rules = [("image/.*", {"frozen": True}), (".*", {})]
    tx = optimizer.make({"name": "sgd", "momentum": 0.0}, constant(1.0), clip=0.5, rules=rules)
    first = {**GRADS[0], "image": jax.tree.map(lambda g: 1e6 * g, GRADS[0]["image"])}
    got = named(run(tx, grads=[first])[0][0])
    trained = [g for name, g in named(GRADS[0]).items() if not name.startswith("image/")]
    norm = np.sqrt(sum(np.sum(np.float64(g) ** 2) for g in trained))
    step = named(PARAMS)["text/kernel"] - got["text/kernel"]
    np.testing.assert_allclose(
        step, GRADS[0]["text"]["kernel"] * min(1.0, 0.5 / norm), rtol=1e-4, atol=1e-6
    )


def test_without_clip_the_gradient_is_taken_whole():
    tx = optimizer.make({"name": "sgd", "momentum": 0.0}, constant(1.0))
    large = jax.tree.map(lambda p: np.full_like(p, 1e3), PARAMS)
    got = run(tx, grads=[large])[0][0]
    np.testing.assert_allclose(got["logit_scale"], PARAMS["logit_scale"] - 1e3, rtol=1e-6)
