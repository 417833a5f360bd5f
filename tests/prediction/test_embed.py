"""Features with ids: of any precision, as parts, .npz or .npy, and what has none."""

import json

import folders
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prediction.asked import CLASSIFIER, Redness, described, run
from runs import program

import retina_jax
from data_pipelines.cases import listing
from data_pipelines.errors import InputError
from retina_jax.prediction import arrays, requests, running
from retina_jax.prediction.rows import Watch


class Means(Redness):
    """A model whose features are the means of the channels."""

    features = None

    def outputs(self, batch, method):
        return {"image": super().outputs(batch, method)["pooled"]}


def embedded(model, source, dtype="float32", normalise=False, layer="pooled"):
    request = requests.embedding(model, requests.Options(batch_size=4), layer)
    made = running.embedding_job(request, layer, dtype, normalise)
    entries = requests.arranged(listing.listed([str(source)]).entries, request)
    return made, entries


def table(made, entries):
    return pa.concat_tables(list(made.tables(entries, Watch())))


def test_half_precision_changes_no_cosine_by_a_thousandth(tmp_path, photographs):
    class Wide(Redness):
        def outputs(self, batch, method):
            means = batch["image"].astype(np.float32).mean(axis=(1, 2))
            weights = np.random.default_rng(0).normal(size=(3, 512)).astype(np.float32)
            return {"image": np.tanh(means @ weights / 100)}

        embed = features = None

    wide = Wide(described(tmp_path), model=Wide)
    found = {}
    for dtype in ("float16", "float32"):
        for normalise in (False, True):
            rows = table(*embedded(wide, photographs, dtype, normalise))
            assert rows["embedding"].type == pa.list_(pa.type_for_alias(dtype), 512)
            kept = rows["embedding"].drop_null().combine_chunks().flatten()
            found[dtype, normalise] = kept.to_numpy().astype(np.float64).reshape(-1, 512)
    single = found["float32", False]
    assert single.shape == (7, 512) and rows["embedding"].null_count == 2
    unit = single / np.linalg.norm(single, axis=1, keepdims=True)
    np.testing.assert_allclose(found["float32", True], unit, atol=1e-6)
    for normalise in (False, True):
        half = found["float16", normalise]
        half = half / np.linalg.norm(half, axis=1, keepdims=True)
        assert np.abs(half @ half.T - unit @ unit.T).max() < 1e-3
    about = json.loads(rows.schema.metadata[b"retina_jax"])
    assert (about["layer"], about["dim"], about["normalised"]) == ("pooled", 512, True)


def test_a_layer_that_a_model_has_not_is_refused(tmp_path, photographs):
    folders.write(tmp_path, **CLASSIFIER)
    loaded = retina_jax.load(tmp_path / "model")
    with pytest.raises(InputError, match="has no projected features"):
        embedded(loaded, photographs, layer="projected")
    made, entries = embedded(loaded, photographs)
    assert run(made, entries, tmp_path / "out") == run(made, entries, tmp_path / "again")
    stored = pq.read_table(tmp_path / "out" / "part-00000.parquet")
    assert stored.column_names[:3] == ["record", "image_sha256", "patient"]
    expected = loaded.features(photographs / "0.png")["image"][0]
    np.testing.assert_allclose(stored["embedding"][0].as_py(), expected, rtol=1e-4, atol=1e-5)


def test_arrays_have_their_ids(tmp_path, photographs):
    made, entries = embedded(Means(described(tmp_path), model=Means), photographs, "float16")
    out = tmp_path / "out"
    run(made, entries, out)
    parts = sorted(out.glob("part-*"))
    (packed,) = arrays.write(made, out, parts, "npz")
    found = np.load(packed)
    assert found["embedding"].shape == (7, 3) and found["embedding"].dtype == np.float16
    assert found["record"].tolist() == [f"{i}.png" for i in range(7)]
    array, ids = arrays.write(made, out, parts, "npy")
    np.testing.assert_array_equal(np.load(array), found["embedding"])
    assert ids.read_text().splitlines() == found["record"].tolist()


def test_the_program_writes_parts(tmp_path, photographs):
    folders.write(tmp_path, **CLASSIFIER)
    done = program("retina_jax.embed", str(photographs), f"--model={tmp_path}/model", "--quiet",
                   "--max_failures=0.2", f"--out={tmp_path}/out", "--normalise")  # fmt: skip
    assert done.returncode == 0, done.stderr
    stored = pq.read_table(tmp_path / "out" / "part-00000.parquet")["embedding"].drop_null()
    unit = np.stack(stored.to_pylist())
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-3)
