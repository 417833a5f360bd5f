"""ResNets of torchvision against torchvision itself.

The stored fixtures are made anew by `python tests/convert/test_torchvision.py`, with PyTorch
installed.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert import contrast, networks, parity
from flax import traverse_util

from data_pipelines.errors import InputError
from retina_jax.convert import formats, rules
from retina_jax.convert.torchvision import R3D, RESNET
from retina_jax.models.dual import Dual
from retina_jax.train import restore

CLASSES, FACTOR = 7, 32
STATISTICS = (RESNET.preprocessing["mean"], RESNET.preprocessing["std"])
LABELS = np.arange(4)
SIZE = 52  # no multiple of 32: where padding differs, odd maps tell


def architecture(name: str, **options):
    """A model of torchvision without any values."""
    torch = parity.torch_or_skip()
    torchvision = pytest.importorskip("torchvision")

    video = hasattr(torchvision.models.video, name)
    family = torchvision.models.video if video else torchvision.models
    with torch.device("meta"):
        return getattr(family, name)(**options)


def full_size(name: str):
    """Names and shapes of its tensors."""
    return rules.shapes_of(architecture(name).state_dict())


def original(name: str, seed: int = 0):
    """The same with fewer features and classes, every parameter and statistic random."""
    model = networks.narrow(architecture(name, num_classes=CLASSES), FACTOR)
    batch = volumes() if name == "r3d_18" else pictures()
    return networks.lively(model, as_torch(batch), seed=seed)


def pictures():
    images = contrast.photographs(SIZE)
    return {"image": images}


def volumes():
    """At mean 0 and deviation 1, which our tower brings any to: here it changes nothing."""
    volume = np.random.default_rng(0).normal(size=(4, 5, 14, 18, 3)).cumsum(axis=3)
    axes = (1, 2, 3, 4)
    volume = (volume - volume.mean(axes, keepdims=True)) / volume.std(axes, keepdims=True)
    return {"oct": volume.astype(np.float32)}


def as_torch(batch):
    if "image" in batch:
        return contrast.normalized(batch["image"], *STATISTICS)
    return parity.torch_or_skip().tensor(np.moveaxis(batch["oct"], -1, 1).copy())


CASES = {"resnet18": (RESNET, pictures), "resnet50": (RESNET, pictures), "r3d_18": (R3D, volumes)}


def outputs(model, inputs):
    """What the original's classifier is given, and what it makes of it."""
    given = []
    hook = model.fc.register_forward_hook(lambda module, args, out: given.append(args[0]))
    logits = model(inputs)
    hook.remove()
    return given[0].detach(), logits


def cross_entropy(out):
    return -jnp.mean(jax.nn.log_softmax(out["logits"])[LABELS, LABELS])


@pytest.mark.parametrize("name", CASES)
def test_outputs_statistics_and_gradients_are_the_originals(name):
    torch = parity.torch_or_skip()
    source, inputs = CASES[name]
    model, batch = original(name), inputs()
    state = networks.state_of(model)
    assert formats.find(source.name, rules.shapes_of(state)) is source
    converted = rules.convert(source, state)
    parity.same_tree(converted)
    evaluated, trained, updated = networks.run(converted, batch)
    for out, train in ((evaluated, False), (trained, True)):
        pooled, logits = outputs(model.train(train), as_torch(batch))
        parity.close(out["pooled"], pooled)
        parity.close(out["logits"], logits.detach())
        parity.differ(out["pooled"])
    torch.nn.functional.cross_entropy(logits, torch.tensor(LABELS)).backward()
    networks.same_statistics(source, converted, updated, model)
    loss = partial(networks.in_training, cross_entropy, batch=batch)
    parity.same_gradients(source, converted, loss, model)
    parity.round_trip(source, state)


@pytest.mark.parametrize("name", ["resnet18", "r3d_18"])
def test_exported_weights_load_into_the_original(name):
    torch = parity.torch_or_skip()
    source, inputs = CASES[name]
    model, fresh = original(name).eval(), original(name, seed=1).eval()
    converted = rules.convert(source, parity.tensors(model))
    back = rules.export(source, converted.spec, converted.variables)
    fresh.load_state_dict({key: torch.tensor(value) for key, value in back.items()})
    x = as_torch(inputs())
    assert torch.equal(fresh(x), model(x))


@pytest.mark.parametrize("name", ["resnet34", "resnet101"])
def test_depths(name):
    state = networks.state_of(original(name))
    converted = rules.convert(RESNET, state)
    assert converted.spec["tower"] == {"name": "resnet", "depth": int(name[6:]), "width": 2}
    parity.same_tree(converted)
    parity.round_trip(RESNET, state)


@pytest.mark.parametrize("name", ["resnet18", "r3d_18"])
def test_without_a_classifier_and_with_wrapped_names(name):
    source, _ = CASES[name]
    state = networks.state_of(original(name))
    bare = {key: value for key, value in state.items() if not key.startswith("fc.")}
    converted = rules.convert(source, bare)
    assert converted.spec["classes"] is None
    assert set(converted.variables["params"]) == {converted.spec["key"]}
    full = rules.convert(source, state)
    assert full.variables["params"].pop("head")["kernel"].shape == (16, CLASSES)
    jax.tree.map(np.testing.assert_array_equal, converted.variables, full.variables)
    assert set(rules.export(source, converted.spec, converted.variables)) == {
        key for key in bare if "num_batches" not in key
    }


# Trainable parameters by torchvision's own documentation.
FULL = {"resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032,
        "resnet101": 44_549_160, "r3d_18": 33_371_472}  # fmt: skip


@pytest.mark.parametrize("name", FULL)
def test_names_and_shapes_of_the_full_size(name):
    source = R3D if name == "r3d_18" else RESNET
    theirs = full_size(name)
    spec = source.model(theirs)
    ours = rules.abstract(spec)
    parameters = {path: shape for path, shape in ours.items() if path.startswith("params/")}
    assert sum(int(np.prod(shape)) for shape in parameters.values()) == FULL[name]
    zeros = {path: np.broadcast_to(np.float32(0), shape) for path, shape in ours.items()}
    back = rules.export(source, spec, traverse_util.unflatten_dict(zeros, sep="/"))
    expected = {key: shape for key, shape in theirs.items() if "num_batches" not in key}
    assert rules.shapes_of(back) == expected


@pytest.mark.parametrize(("name", "sentence"),
                         [("resnet152", r"has \(3, 8, 36, 3\) bottlenecks"),
                          ("wide_resnet50_2", "of width 128 with 128 inputs behind 64 features"),
                          ("resnext50_32x4d",
                           "of width 128 with 4 inputs behind 64 features")])  # fmt: skip
def test_networks_that_ours_cannot_be(name, sentence):
    theirs = full_size(name)
    with pytest.raises(InputError, match=sentence):
        formats.find(RESNET.name, theirs).model(theirs)


@pytest.mark.parametrize(("name", "sentence"),
                         [("r2plus1d_18",
                           "does not look like 'torchvision_r3d'; nor like any other"),
                          ("mc3_18",
                           r"a stem of \(3, 7, 7\) and kernels of \(1, 3, 3\)")])  # fmt: skip
def test_other_networks_of_volumes(name, sentence):
    theirs = full_size(name)
    with pytest.raises(InputError, match=sentence):
        formats.find(R3D.name, theirs).model(theirs)


def test_foreign_missing_and_misshapen_tensors():
    state, _ = parity.stored("resnet18")
    wrong = {**state, "bn9.weight": state["bn1.weight"]}
    del wrong["layer2.0.downsample.1.running_var"]
    with pytest.raises(InputError) as error:
        rules.convert(RESNET, wrong)
    assert "1 of its tensors (bn9.weight)" in str(error.value)
    assert "lacks 1 that are needed (layer2.0.downsample.1.running_var)" in str(error.value)
    square = {**state, "fc.weight": state["fc.weight"][:, :3]}
    with pytest.raises(InputError, match=r"'fc.weight' of shape \(7, 3\) where \(7, 16\)"):
        rules.convert(RESNET, square)


def test_weights_for_colour_start_a_tower_of_grey_volumes():
    """Of pairs of photographs and volumes; grey is repeated, so that nothing has to be averaged."""
    state, arrays = parity.stored("r3d_18")
    converted = rules.convert(R3D, state)
    tower = converted.spec["tower"]
    pairs = Dual(towers={"image": {"name": "resnet", "depth": 18, "width": 2}, "oct": tower}, dim=3)
    grey = arrays["oct"][..., :1]
    batch = {"image": np.zeros((4, 32, 32, 3), np.uint8), "oct": grey}
    shapes = jax.eval_shape(pairs.init, jax.random.key(0), batch)
    fresh = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    started = restore.subtrees(fresh, converted.variables, take=("oct",), ignore=("head",))
    ours = pairs.apply(started, {"oct": grey}, method="features")["oct"]
    colour = {"oct": np.repeat(grey, 3, axis=-1)}
    parity.close(ours, parity.apply(converted, colour)["pooled"], 1e-6)
    parity.differ(ours)


def test_a_stem_of_grey_is_that_of_repeated_grey():
    """Summed over the colours, for towers of one channel; exported as it is."""
    state, arrays = parity.stored("r3d_18")
    summed = rules.convert(R3D, state, grey=True)
    assert summed.variables["params"]["oct"]["conv1"]["kernel"].shape == (3, 7, 7, 1, 2)
    grey = {"oct": arrays["oct"][..., :1]}
    found, expected = (parity.apply(rules.convert(R3D, state, **options), grey)["pooled"]
                       for options in ({"grey": True}, {}))  # fmt: skip
    parity.close(found, expected, 1e-6)
    parity.differ(found)
    back = rules.export(R3D, summed.spec, summed.variables)
    assert back["stem.0.weight"].shape == (2, 1, 3, 7, 7)
    again = rules.convert(R3D, back, grey=True)
    jax.tree.map(np.testing.assert_array_equal, again.variables, summed.variables)


@pytest.mark.parametrize("name", ["resnet18", "r3d_18"])
def test_stored_outputs_are_given_again(name):
    source = CASES[name][0]
    state, arrays = parity.stored(name)
    key = "image" if source is RESNET else "oct"
    converted = rules.convert(source, state)
    evaluated, trained, _ = networks.run(converted, {key: arrays[key]})
    for out, mode in ((evaluated, "evaluated"), (trained, "trained")):
        parity.close(out["logits"], arrays[mode])
        parity.differ(out["logits"])
    parity.round_trip(source, state)


def main() -> None:
    """Stores narrow models with inputs and outputs."""
    for name in ("resnet18", "r3d_18"):
        model, batch = original(name), CASES[name][1]()
        state, found = networks.state_of(model), {}
        for mode, train in (("evaluated", False), ("trained", True)):
            found[mode] = outputs(model.train(train), as_torch(batch))[1].detach().numpy()
        print(parity.store(name, state, **batch, **found))


if __name__ == "__main__":
    main()
