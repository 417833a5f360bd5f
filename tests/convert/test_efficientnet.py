"""EfficientNets against EfficientNet-PyTorch, its Lite, and timm.

The stored fixtures are made anew by `python tests/convert/test_efficientnet.py`, with PyTorch, timm
and efficientnet_pytorch installed.
"""

from functools import partial

import jax
import numpy as np
import pytest
from convert import contrast, networks, parity
from flax import traverse_util

from data_pipelines.errors import InputError
from retina_jax.build import build
from retina_jax.convert import describe, files, formats, packages, registry, rules
from retina_jax.convert.efficientnet import EFFICIENTNET, EFFICIENTNET_TIMM, STATISTICS
from retina_jax.models import MODELS
from retina_jax.models.efficientnet import VARIANTS

CLASSES, WIDTH, DEPTH = 7, 0.1, 0.1
LABELS = np.arange(4)
SIZE = 52  # no multiple of 32: where padding differs, odd maps tell
FACTORS = {"width": WIDTH, "depth": DEPTH}


def small(variant: str):
    """A narrow and shallow network of EfficientNet-PyTorch, or of its Lite, without values."""
    parity.torch_or_skip()
    lite = variant.startswith("lite")
    name = "efficientnet_lite_pytorch" if lite else "efficientnet_pytorch"
    module = pytest.importorskip(name)
    theirs = f"efficientnet-{variant}"
    blocks, options = pytest.importorskip(f"{name}.utils").get_model_params(
        theirs, {"num_classes": CLASSES, "dropout_rate": 0.0, "drop_connect_rate": 0.0}
    )
    options = options._replace(width_coefficient=WIDTH, depth_coefficient=DEPTH, image_size=SIZE)
    model = module.EfficientNet(blocks, options)
    # The first block of a stage has a stride of [1], which is not 1, and so never adds its input.
    # At published widths the features change there anyway.
    for block in model._blocks:
        if block._block_args.stride == [1]:
            block._block_args = block._block_args._replace(stride=1)
    return model


def small_timm(name: str):
    """A narrow and shallow network of timm, without values."""
    parity.torch_or_skip()
    pytest.importorskip("timm")
    from timm.models import efficientnet

    make = "_gen_efficientnet_lite" if "lite" in name else "_gen_efficientnet"
    tf = {"pad_type": "same", "bn_eps": 1e-3} if name.startswith("tf_") else {}
    return getattr(efficientnet, make)(
        name, channel_multiplier=WIDTH, depth_multiplier=DEPTH, num_classes=CLASSES, **tf
    )


# Name -> source, what makes it, options, statistics.
CASES = {"b0": (EFFICIENTNET, small, {}, "imagenet"), "lite0": (EFFICIENTNET, small, {}, "lite"),
         "efficientnet_b0": (EFFICIENTNET_TIMM, small_timm, {"tf": False}, "imagenet"),
         "tf_efficientnet_b0": (EFFICIENTNET_TIMM, small_timm, {"tf": True}, "imagenet"),
         "efficientnet_lite0": (EFFICIENTNET_TIMM, small_timm, {"tf": False}, "imagenet"),
         "tf_efficientnet_lite0": (EFFICIENTNET_TIMM, small_timm, {"tf": True},
                                   "half")}  # fmt: skip


def original(name: str, seed: int = 0):
    """The model of a case, every parameter and statistic random; its own momentum stays."""
    _, make, _, statistics = CASES[name]
    model = make(name)
    torch = parity.torch_or_skip()
    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    momentum = norms[0].momentum
    networks.lively(model, as_torch(statistics), seed=seed)
    for norm in norms:
        norm.momentum = momentum
    return model


def batch():
    return {"image": contrast.photographs(SIZE)}


def as_torch(statistics: str):
    return contrast.normalized(batch()["image"], *STATISTICS[statistics])


def cross_entropy(out):
    return -jax.numpy.mean(jax.nn.log_softmax(out["logits"])[LABELS, LABELS])


@pytest.mark.parametrize("name", CASES)
def test_scores_statistics_and_gradients_are_the_originals(name):
    source, _, options, statistics = CASES[name]
    torch = parity.torch_or_skip()
    model, inputs = original(name), as_torch(statistics)
    state = networks.state_of(model)
    assert formats.find(EFFICIENTNET.name, rules.shapes_of(state)) is source
    converted = rules.convert(source, state, **options, **FACTORS)
    parity.same_tree(converted)
    evaluated, trained, updated = networks.run(converted, batch())
    for out, train in ((evaluated, False), (trained, True)):
        scores = model.train(train)(inputs)
        parity.close(out["logits"], scores.detach())
        parity.differ(out["logits"])
    torch.nn.functional.cross_entropy(scores, torch.tensor(LABELS)).backward()
    networks.same_statistics(source, converted, updated, model)
    loss = partial(networks.in_training, cross_entropy, batch=batch())
    parity.same_gradients(source, converted, loss, model)
    parity.round_trip(source, state, **options, **FACTORS)


@pytest.mark.parametrize("name", ["b0", "efficientnet_lite0"])
def test_exported_weights_load_into_the_original(name):
    source, _, options, statistics = CASES[name]
    torch = parity.torch_or_skip()
    model, fresh = original(name).eval(), original(name, seed=1).eval()
    converted = rules.convert(source, parity.tensors(model), **options, **FACTORS)
    back = rules.export(source, converted.spec, converted.variables)
    fresh.load_state_dict({key: torch.tensor(value) for key, value in back.items()})
    inputs = as_torch(statistics)
    assert torch.equal(fresh(inputs), model(inputs))


STORED = {"efficientnet": "b0", "efficientnet_timm": "efficientnet_lite0"}


def stored(fixture):
    """(source, state, arrays, options) of a fixture."""
    source, _, options, _ = CASES[STORED[fixture]]
    return source, *parity.stored(fixture), {**options, **FACTORS}


@pytest.mark.parametrize("fixture", STORED)
def test_stored_scores_are_given_again(fixture):
    source, state, arrays, options = stored(fixture)
    converted = rules.convert(source, state, **options)
    evaluated, trained, _ = networks.run(converted, {"image": arrays["image"]})
    for out, mode in ((evaluated, "evaluated"), (trained, "trained")):
        parity.close(out["logits"], arrays[mode])
        parity.differ(out["logits"])
    parity.round_trip(source, state, **options)


@pytest.mark.fast
@pytest.mark.parametrize("fixture", STORED)
def test_without_a_classifier(fixture):
    source, state, _, options = stored(fixture)
    bare = {k: v for k, v in state.items() if not k.startswith(("_fc.", "classifier."))}
    converted = rules.convert(source, bare, **options)
    assert converted.spec["classes"] is None
    assert set(converted.variables["params"]) == {"image"}
    parity.round_trip(source, bare, **options)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_told_by_its_names_and_shapes(variant):
    """Out and in again in both layouts, by names and shapes alone."""
    image = {"name": "efficientnet", "variant": variant}
    head = {"key": "image", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    spec = {"name": "tower", "tower": image, "classes": 9, **head}
    ours = rules.abstract(spec)
    zeros = {path: np.broadcast_to(np.float32(0), shape) for path, shape in ours.items()}
    variables = traverse_util.unflatten_dict(zeros, sep="/")
    for source, options in ((EFFICIENTNET, {}), (EFFICIENTNET_TIMM, {"tf": True})):
        theirs = rules.shapes_of(rules.export(source, spec, variables))
        assert sum("num_batches" not in name for name in theirs) == len(ours)
        assert formats.find(EFFICIENTNET.name, theirs) is source
        found = source.model(theirs, **options)
        assert found["tower"]["variant"] == variant and found["classes"] == 9
        lite = "half" if options else "lite"
        statistics = lite if variant.startswith("lite") else "imagenet"
        assert (found["mean"], found["std"]) == STATISTICS[statistics]


@pytest.mark.fast
def test_timm_needs_to_be_told_who_trained_it():
    source, state, _, options = stored("efficientnet_timm")
    with pytest.raises(InputError, match="tf=true for those named tf_efficientnet_"):
        rules.convert(source, state, **FACTORS)
    plain = rules.convert(source, state, **options).spec
    tower = {"name": "efficientnet", "variant": "lite0", **FACTORS, "momentum": 0.9}
    assert plain["tower"] == {**tower, "padding": "symmetric", "epsilon": 1e-5}
    tensorflow = rules.convert(source, state, **{**options, "tf": True}).spec
    assert tensorflow["tower"] == tower
    assert (plain["mean"], plain["std"]) == STATISTICS["imagenet"]
    assert (tensorflow["mean"], tensorflow["std"]) == STATISTICS["half"]
    other = rules.convert(source, state, **options, statistics="half").spec
    assert (other["mean"], other["std"]) == STATISTICS["half"]
    with pytest.raises(InputError, match="statistics is one of .'half', 'imagenet', 'lite'."):
        rules.convert(source, state, **options, statistics="own")


@pytest.mark.fast
def test_a_model_of_timm_does_not_fit_the_other_layout():
    source, state, _, options = stored("efficientnet_timm")
    converted = rules.convert(source, state, **options)
    with pytest.raises(InputError, match="choose that of 'efficientnet_timm' for this model"):
        rules.export(EFFICIENTNET, converted.spec, converted.variables)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("fixture", "change", "sentence"),
    [
        ("efficientnet", {"_blocks.1._se_reduce.bias": None}, "lacks 1 that are needed .*reduce"),
        ("efficientnet", {"extra.weight": (2,)}, r"1 of its tensors \(extra.weight\)"),
        ("efficientnet", {"_conv_head.weight": (128, 8, 1, 1)}, r"shape \(128, 8, 1, 1\) where"),
        ("efficientnet", {"_blocks.6._project_conv.weight": (40, 144, 1, 1)}, "7 blocks with"),
        ("efficientnet_timm", {"blocks.1.0.bn3.weight": None}, "lacks 1 that .*blocks.1.0.bn3"),
        ("efficientnet_timm", {"blocks.7.0.conv_dw.weight": (8, 1, 3, 3)}, "lacks 'blocks.7.0"),
    ],
)
def test_a_file_that_does_not_fit_is_one_sentence(fixture, change, sentence):
    source, state, _, options = stored(fixture)
    shapes = {k: v for k, v in {**rules.shapes_of(state), **change}.items() if v is not None}
    zeros = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    with pytest.raises(InputError, match=sentence) as error:
        rules.convert(source, zeros, **options)
    assert "\n" not in str(error.value)


@pytest.mark.fast
def test_a_file_of_another_network_is_one_sentence():
    state, _ = parity.stored("resnet18")
    with pytest.raises(InputError, match="not look like 'efficientnet'; it looks like 'torchvis"):
        formats.find("efficientnet", rules.shapes_of(state))
    _, state, _, _ = stored("efficientnet")
    with pytest.raises(InputError, match="7 blocks with .*; ours are b0, b1, b2, b3, b4."):
        rules.convert(EFFICIENTNET, state)


PICTURES = {  # size, short side
    ("efficientnet", "b1", None): (240, 272),
    ("efficientnet", "lite3", None): (280, 312),
    ("efficientnet_timm", "b3", False): (288, 329),
    ("efficientnet_timm", "b3", True): (300, 332),
    ("efficientnet_timm", "lite4", True): (380, 413),
    ("efficientnet_timm", "lite0", False): (224, 256),
}


@pytest.mark.fast
@pytest.mark.parametrize("case", PICTURES)
def test_pictures_are_cut_as_the_variant_reads_them(case):
    name, variant, tf = case
    source = formats.SOURCES[name]
    padding = {"padding": "symmetric"} if tf is False else {}
    mean, std = STATISTICS["half"]
    spec = {"name": "tower", "key": "image", "mean": mean, "std": std}
    spec["tower"] = {"name": "efficientnet", "variant": variant, **padding}
    found = source.preprocessing_of(spec)
    assert (found["size"], found["short_side"]) == PICTURES[case]
    assert (found["mean"], found["std"]) == (mean, std)
    converted = rules.Converted(name, spec, {}, found, {}, {})
    size, short_side = PICTURES[case]
    (decode,) = describe._decoding(converted)
    assert decode == {"name": "decode", "size": size, "fit": "crop", "short_side": short_side}


@pytest.mark.parametrize("name", ["efficientnet_", "tf_efficientnet_"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_pictures_are_those_of_timms_own_table(name, variant):
    parity.torch_or_skip()
    models = pytest.importorskip("timm.models")
    tf = name.startswith("tf_")
    tags = {"b0": "ra_in1k", "b1": "ft_in1k", "b2": "ra_in1k", "b3": "ra2_in1k", "b4": "ra2_in1k"}
    tag = "in1k" if tf else tags.get(variant, "ra_in1k" if variant == "lite0" else "")
    cfg = models.get_pretrained_cfg(f"{name}{variant}.{tag}".rstrip("."))
    padding = {} if tf else {"padding": "symmetric"}
    statistics = "half" if tf and variant.startswith("lite") else "imagenet"
    mean, std = STATISTICS[statistics]
    spec = {"tower": {"variant": variant, **padding}, "mean": mean, "std": std}
    found = EFFICIENTNET_TIMM.preprocessing_of(spec)
    assert (found["mean"], found["std"]) == (cfg.mean, cfg.std)
    assert found["size"] == cfg.input_size[-1]
    assert found["short_side"] == pytest.approx(found["size"] / cfg.crop_pct, abs=1)


def golden(size: int) -> np.ndarray:
    """The picture u8[1 size size 3] that the values below are for."""
    i, j, c = np.meshgrid(np.arange(size), np.arange(size), np.arange(3), indexing="ij")
    return ((7 * i + 13 * j + 101 * c + i * j // 64) % 256).astype(np.uint8)[None]


# Of EfficientNet-Lite0 by efficientnet_lite_pytorch: the first pooled features, their mean, how
# many are positive, the largest, and the largest scores.
GOLDEN = {224: ((0, 0, 0, 0, 0, 0, 0.123868, 1.492701), (0.152805, 384),
                {576: 5.94027, 113: 5.28502, 949: 4.4038, 761: 3.52304},
                {905: 7.6278, 807: 5.1296, 854: 4.8936, 892: 4.6752, 753: 4.2649}),
          160: ((0, 0, 0, 0, 0, 0, 0.030958, 1.049235), (0.175149, 330),
                {576: 5.91639, 113: 5.53033, 282: 4.71437, 949: 4.54436},
                {905: 7.6799, 807: 7.2653, 854: 5.6174, 687: 5.0330, 753: 4.7930}),
          128: ((0, 0, 0, 0, 0, 0, 0.933985, 1.439139), (0.310873, 428),
                {576: 5.69849, 282: 5.36586, 113: 5.25785, 761: 4.99219},
                {807: 11.3079, 905: 9.6479, 686: 9.0073, 687: 8.9659, 699: 8.3757})}  # fmt: skip


def published():
    """The installed file of Lite0."""
    try:
        return packages.find("efficientnet-lite0")
    except InputError as error:
        pytest.skip(str(error))


def test_published_weights_give_the_values_of_their_own_library():
    found = published()
    tensors = files.read_tensors(found.weights)
    source = formats.find(found.source, rules.shapes_of(tensors))
    converted = rules.convert(source, tensors)
    parity.round_trip(source, tensors)
    assert registry.facts(source.name, found.weights)["name"] == "efficientnet_lite0"
    assert registry.warning(source.name, found.weights) == ""
    model = build(MODELS, converted.spec)
    for size, (first, (mean, positive), largest, scores) in GOLDEN.items():
        apply = jax.jit(model.apply)
        out = apply(converted.variables, {"image": golden(size)})
        pooled, logits = (np.asarray(out[key])[0] for key in ("pooled", "logits"))
        np.testing.assert_allclose(pooled[:8], first, atol=1e-5)
        assert pooled.mean() == pytest.approx(mean, abs=2e-6) and (pooled > 0).sum() == positive
        for values, expected in ((pooled, largest), (logits, scores)):
            assert np.argsort(-values)[: len(expected)].tolist() == list(expected)
            np.testing.assert_allclose(values[list(expected)], [*expected.values()], atol=1e-4)


def make_fixtures() -> None:
    """Stores small networks with inputs and scores."""
    for fixture, name in STORED.items():
        model = original(name)
        state, found = networks.state_of(model), {}
        inputs = as_torch(CASES[name][3])
        for mode, train in (("evaluated", False), ("trained", True)):
            found[mode] = model.train(train)(inputs).detach().numpy()
        print(parity.store(fixture, state, **batch(), **found))


if __name__ == "__main__":
    make_fixtures()
