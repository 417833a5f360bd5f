"""Features of a folder take the place of a model: of the same records, and of the same model."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import softmax

from data_pipelines import pipelines
from data_pipelines.errors import InputError
from data_pipelines.transforms import TRANSFORMS
from retina_jax.build import build
from retina_jax.evals import EVALUATORS, stored

pytestmark = pytest.mark.fast

HASH = "ab" * 32


def embedded(folder, names, vectors, dtype=np.float32, **about):
    """A folder as `retina_jax.embed` writes it, in two parts."""
    folder.mkdir(exist_ok=True)
    told = {"schema": stored.SCHEMA, "model": "other", "model_hash": HASH, "layer": "pooled",
            "dim": vectors.shape[1], "normalised": False, "input": "image", **about}  # fmt: skip
    for number, rows in enumerate(np.array_split(np.arange(len(names)), 2)):
        none = np.isnan(vectors[rows]).any(axis=1)
        column = pa.FixedSizeListArray.from_arrays(
            pa.array(vectors[rows].astype(dtype).reshape(-1)), vectors.shape[1], mask=pa.array(none)
        )
        hashed = [hashlib.sha256(names[row]).hexdigest() for row in rows]
        table = pa.table({"image_sha256": hashed, "embedding": column})
        table = table.replace_schema_metadata({"retina_jax": json.dumps(told)})
        pq.write_table(table, folder / f"part-{number:05d}.parquet")
    return folder


@pytest.fixture
def described():
    """Records whose bytes are no pictures, so that whoever decodes one fails."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60)
    vectors = rng.normal(size=(60, 6)) + 2.0 * labels[:, None]
    rows = [{"id": f"r{i}", "patient": f"p{i}", "image": b"no picture %d" % i,
             "labels": ["ab"[label]]} for i, label in enumerate(labels)]  # fmt: skip
    return rows, vectors


def data_of(rows, tools):
    specs = ({"name": "decode", "size": 8},
             {"name": "label", "classes": ("a", "b"), "source": "labels"})  # fmt: skip
    source = tools.data(rows).source
    return pipelines.evaluate(source, tuple(build(TRANSFORMS, s) for s in specs), batch_size=8)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_probe_of_stored_features_decodes_nothing(described, dtype, encoder, tools, tmp_path):
    rows, vectors = described
    order = np.random.default_rng(1).permutation(60)  # of the folder, which is not the data set's
    folder = embedded(tmp_path / "f", [rows[i]["image"] for i in order], vectors[order], dtype)
    features = stored.read(folder, HASH, "other")
    reader = stored.StoredEncoder(encoder, features)
    train, test = data_of(rows[:40], tools), data_of(rows[40:], tools)
    np.testing.assert_allclose(features.of(test), vectors[40:], rtol=2e-3, atol=2e-3)
    spec = {"name": "linear_probe", "classes": ("a", "b"), "train": train, "test": test}
    probe = build(EVALUATORS, spec, encoder=reader)
    features.check(probe.needs())
    found = probe.run(tools.state()).predictions
    assert found.labels.tolist() == ["ab".index(rows[int(r[1:])]["labels"][0])
                                     for r in found.record]  # fmt: skip
    assert np.mean(found.scores.argmax(axis=1) == found.labels) > 0.9


def test_zero_shot_reads_embeddings_and_asks_the_texts(described, encoder, tools, words, tmp_path):
    rows, vectors = described
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    folder = embedded(tmp_path / "f", [r["image"] for r in rows], unit, layer="projected",
                      normalised=True)  # fmt: skip
    features = stored.read(folder, HASH, "other")
    spec = {"name": "zeroshot", "classes": ("a", "b"), "template": "{}", "length": 3,
            "data": data_of(rows, tools), "tokenizer": words}  # fmt: skip
    zeroshot = build(EVALUATORS, spec, encoder=stored.StoredEncoder(encoder, features))
    prompts = zeroshot.prototypes(tools.state())
    found = zeroshot.run(tools.state()).predictions
    wanted = dict(
        zip((r["id"] for r in rows), softmax(9.0 * unit @ prompts.T, axis=1), strict=True)
    )
    np.testing.assert_allclose(found.probabilities, [wanted[r] for r in found.record], atol=1e-5)


def test_other_features_are_refused(described, encoder, tools, tmp_path):
    rows, vectors = described
    names = [row["image"] for row in rows]
    folder = embedded(tmp_path / "f", names, vectors)
    with pytest.raises(InputError, match="of the model 'other' .abababababab., not of 'mine'"):
        stored.read(folder, "cd" * 32, "mine")
    with pytest.raises(InputError, match="without --normalise"):
        stored.read(embedded(tmp_path / "u", names, vectors, normalised=True), HASH, "other")
    with pytest.raises(InputError, match="holds no features"):
        stored.read(tmp_path, HASH, "other")
    vectors[3] = np.nan  # an ungradable picture
    features = stored.read(embedded(tmp_path / "g", names[:50], vectors[:50]), HASH, "other")
    with pytest.raises(InputError, match="11 of 60 records of .* have no features"):
        features.of(data_of(rows, tools))
    spec = {"name": "attentive", "classes": ("a", "b"), "train": data_of(rows, tools)}
    with pytest.raises(InputError, match="'pooled' of 'image', and the evaluator asks for none"):
        features.check(build(EVALUATORS, spec, encoder=encoder).needs())
