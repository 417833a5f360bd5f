"""Rules by themselves: stacking, numbers in names, inverse changes, and what is refused."""

import numpy as np
import pytest
from convert import parity

from data_pipelines.errors import InputError
from retina_jax.convert import files, formats, rules, tensor_transforms
from retina_jax.convert.rules import Rule, WeightFormat

pytestmark = pytest.mark.fast

rng = np.random.default_rng(0)
TOWER = {"name": "bert", "vocab_size": 11, "width": 8, "depth": 3, "heads": 2, "mlp_dim": 12,
         "max_length": 6}  # fmt: skip
SPEC = {"name": "tower", "key": "text", "tower": TOWER}


@pytest.mark.parametrize(("change", "theirs", "ours"),
                         [(tensor_transforms.KEEP, (5,), [(5,)]),
                          (tensor_transforms.LINEAR, (6, 4), [(4, 6)]),
                          (tensor_transforms.CONV, (8, 3, 5, 7), [(5, 7, 3, 8)]),
                          (tensor_transforms.CONV, (8, 3, 2, 5, 7), [(2, 5, 7, 3, 8)]),
                          (tensor_transforms.HEADS_IN, (6, 5), [(5, 2, 3)]),
                          (tensor_transforms.HEADS_IN_BIAS, (6,), [(2, 3)]),
                          (tensor_transforms.HEADS_OUT, (5, 6), [(2, 3, 5)]),
                          (tensor_transforms.leading(2), (1, 1, 4), [(4,)]),
                          (tensor_transforms.split(3, tensor_transforms.HEADS_IN), (18, 5),
                           [(5, 2, 3)] * 3),
                          (tensor_transforms.split(3, tensor_transforms.HEADS_IN_BIAS), (18,),
                           [(2, 3)] * 3)])  # fmt: skip
def test_changes_are_inverse_and_give_our_shapes(change, theirs, ours):
    array = rng.normal(size=theirs).astype(np.float32)
    found = change.to_ours(array, *ours)
    parts = (found,) if isinstance(found, np.ndarray) else found
    assert [part.shape for part in parts] == ours
    np.testing.assert_array_equal(change.to_theirs(*parts), array)


def test_changes_are_those_of_the_arithmetic():
    """x W^T of theirs is the contraction of ours, head by head."""
    x, weight = rng.normal(size=(4, 5)), rng.normal(size=(6, 5))
    np.testing.assert_allclose(x @ tensor_transforms.LINEAR.to_ours(weight, (5, 6)), x @ weight.T)
    heads = tensor_transforms.HEADS_IN.to_ours(weight, (5, 2, 3))
    np.testing.assert_allclose(np.einsum("bw,whd->bhd", x, heads).reshape(4, 6), x @ weight.T)
    mixed, out = rng.normal(size=(4, 2, 3)), rng.normal(size=(5, 6))
    ours = tensor_transforms.HEADS_OUT.to_ours(out, (2, 3, 5))
    np.testing.assert_allclose(
        np.einsum("bhd,hdw->bw", mixed, ours), mixed.reshape(4, 6) @ out.T, atol=1e-12
    )


def toy(**options) -> WeightFormat:
    """A BERT that numbers its layers and keeps each name as ours, '/' being '.'."""
    ours = rules.abstract(SPEC)
    made = [Rule(path.replace("/layers/", "/layers/{i}/").replace("/", "."), path) for path in ours]
    given = {"name": "toy", "description": "", "recognises": lambda shapes: True,
             "model": lambda shapes: SPEC, "rules": lambda spec: tuple(made),
             **options}  # fmt: skip
    return WeightFormat(**given)


def toy_tensors() -> dict[str, np.ndarray]:
    """Tensors of `toy`, all different."""
    found = {}
    for path, shape in rules.abstract(SPEC).items():
        name = path.replace("/", ".")
        if "/layers/" in path:
            for i in range(shape[0]):
                found[name.replace(".layers.", f".layers.{i}.")] = rng.normal(size=shape[1:])
        else:
            found[name] = rng.normal(size=shape)
    return {name: value.astype(np.float32) for name, value in found.items()}


def test_numbered_layers_are_stacked_in_their_order():
    tensors = toy_tensors()
    found = rules.convert(toy(), tensors)
    parity.same_tree(found)
    kernels = found.variables["params"]["text"]["layers"]["mlp"]["in"]["kernel"]
    for i in range(3):
        np.testing.assert_array_equal(kernels[i], tensors[f"params.text.layers.{i}.mlp.in.kernel"])
    parity.round_trip(toy(), tensors)


def test_other_types_become_float32():
    tensors = {name: value.astype(np.float64) for name, value in toy_tensors().items()}
    found = rules.flatten(rules.convert(toy(), tensors).variables)
    assert {value.dtype for value in found.values()} == {np.dtype(np.float32)}


def test_a_layer_that_is_missing_and_one_too_many_are_named():
    tensors = toy_tensors()
    lost = "params.text.layers.1.mlp.in.kernel"
    tensors["params.text.layers.3.mlp.in.kernel"] = tensors.pop(lost)
    with pytest.raises(InputError) as refusal:
        rules.convert(toy(), tensors)
    assert "no use for 1 of its tensors (params.text.layers.3.mlp.in.kernel)" in str(refusal.value)
    assert f"lacks 1 that are needed ({lost})" in str(refusal.value)


def test_all_unused_and_all_missing_names_are_listed():
    tensors = toy_tensors()
    lost = [name for name in tensors if ".layers.0." in name]
    excess = {f"extra.{i}": np.zeros(1, np.float32) for i in range(30)}
    with pytest.raises(InputError) as refusal:
        rules.convert(toy(), {k: v for k, v in tensors.items() if k not in lost} | excess)
    assert all(name in str(refusal.value) for name in (*lost, *excess))


def test_a_shape_names_the_key_and_both_shapes():
    tensors = toy_tensors()
    name = "params.text.layers.2.mlp.in.bias"
    tensors[name] = np.zeros((3, 4), np.float32)
    with pytest.raises(InputError, match=rf"has '{name}' of shape \(3, 4\) where \(12,\) is nee"):
        rules.convert(toy(), tensors)


def test_names_are_ignored_and_filled_only_by_their_whole_pattern_and_with_a_reason():
    tensors = toy_tensors()
    types = "params.text.type_embedding.embedding"
    del tensors[types]
    tensors["old.position_ids"] = np.arange(3)
    rule = {"rules": lambda spec: tuple(r for r in toy().rules(spec) if r.theirs != types)}
    reasons = {"ignored": {r"(.*\.)?position_ids": "counts"},
               "missing": {r"params/text/type_embedding/.*": (0.0, "one type only")}}  # fmt: skip
    found = rules.convert(toy(**rule, **reasons), tensors)
    assert found.ignored == {"old.position_ids": "counts"}
    assert found.filled == {"params/text/type_embedding/embedding": "0: one type only"}
    assert not found.variables["params"]["text"]["type_embedding"]["embedding"].any()
    with pytest.raises(InputError, match=r"no use for 1 of its tensors \(old.position_ids_too\)"):
        rules.convert(toy(**rule, **reasons), {**tensors, "old.position_ids_too": np.zeros(1)})
    # What was filled and then trained has no place in their layout.
    back = rules.export(toy(**rule, **reasons), found.spec, found.variables)
    assert types not in back and "old.position_ids" not in back
    found.variables["params"]["text"]["type_embedding"]["embedding"][0, 0] = 1
    with pytest.raises(InputError, match="no place for params/text/type_embedding/embedding"):
        rules.export(toy(**rule, **reasons), found.spec, found.variables)


def test_an_array_without_a_rule_is_a_mistake_of_the_source():
    partial = toy(rules=lambda spec: toy().rules(spec)[1:])
    with pytest.raises(ValueError, match="'toy' has no rule for"):
        rules.convert(partial, toy_tensors())


def test_the_layout_of_another_kind_of_model_is_refused():
    found = rules.convert(toy(), toy_tensors())
    for name in ("flair", "retfound", "captioner"):
        with pytest.raises(InputError, match=f"The layout of '{name}' "):
            rules.export(formats.SOURCES[name], found.spec, found.variables)


# They have the same names and differ in an activation, or in how pictures are prepared, which no
# tensor tells.
SAME_NAMES = [["clip", "open_clip"], ["retfound", "timm"]]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"embeddings.position_embeddings.weight": None}, "it lacks 'embeddings.position_embeddin"),
        ({"encoder.layer.0.intermediate.dense.weight": None}, "it lacks 'encoder.layer.0.intermed"),
        ({"embeddings.word_embeddings.weight": (3,)}, "a tensor has another number of axes"),
    ],
)
def test_a_file_that_does_not_tell_the_size_of_the_model(change, sentence):
    shapes = rules.shapes_of(parity.stored("bert")[0])
    shapes = {k.removeprefix("bert."): v for k, v in shapes.items() if not k.startswith("cls.")}
    shapes = {k: v for k, v in (shapes | change).items() if v is not None}
    with pytest.raises(InputError, match=f"does not fit the source 'bert': {sentence}"):
        rules.fit(formats.SOURCES["bert"], shapes)


def test_fixtures_are_recognised_by_their_own_source_alone():
    """No file of one source passes for another's, whatever is asked for."""
    for path in sorted(parity.FIXTURES.glob("*.npz")):
        state, _ = parity.stored(path.stem)
        if not state:
            continue
        found = formats.looks_like(rules.shapes_of(state))
        assert len(found) == 1 or found in SAME_NAMES, (path.stem, found)


def test_half_precision_files_are_the_same_model(tmp_path):
    tensors = {name: value.astype(np.float16) for name, value in toy_tensors().items()}
    files.write_safetensors(tmp_path / "half", tensors)
    found = rules.convert(toy(), files.read_tensors(tmp_path / "half"))
    table = found.variables["params"]["text"]["word_embedding"]["embedding"]
    np.testing.assert_array_equal(
        table, tensors["params.text.word_embedding.embedding"].astype(np.float32)
    )
