"""Pictures to rows: what a model says, what it is not asked about, and what is refused."""

import csv
import dataclasses
import json
import os
import signal

import folders
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from prediction import asked
from prediction.asked import CLASSES, CLASSIFIER, Redness, described, job, run
from runs import program

import retina_jax
from data_pipelines.errors import InputError
from retina_jax import out_of_distribution as ood
from retina_jax.decision import Calibration, Decision, OperatingPoint
from retina_jax.prediction import output, scoring
from retina_jax.prediction.answers import slugs
from retina_jax.prediction.rows import Watch
from retina_jax.train import environment
from retina_jax.train.preemption import Preempted

COLUMNS = ("p_normal", "p_a_b_c", "p_cup")


def test_a_row_has_every_probability_and_what_is_black_or_broken_none(model, photographs):
    found = asked.rows(model, [photographs], scores=True)
    assert list(found) == [*(f"{i}.png" for i in range(7)), "black.png", "broken.jpg"]
    for i in range(7):
        row = found[f"{i}.png"]
        scores = np.array([row[f"score_{name}"] for name in ("normal", "a_b_c", "cup")])
        weights = np.exp(scores - scores.max())
        np.testing.assert_allclose([row[c] for c in COLUMNS], weights / weights.sum(), atol=1e-6)
        assert row["predicted"] == "normal" and row["p_predicted"] == row["p_normal"]
        assert (row["quality"], row["error"], row["images"]) == ("ok", None, 1)
        assert row["call"] is None and row["patient"] is None and row["decision"] == "plain"
    black, broken = found["black.png"], found["broken.jpg"]
    assert (black["quality"], black["quality_reasons"]) == ("ungradable", "blank")
    assert [black[c] for c in (*COLUMNS, "predicted")] == [None] * 4 and len(black["image_sha256"])
    assert "not a readable picture" in broken["error"]
    assert {k for k, v in broken.items() if v is not None} == {
        "record", "error", "model", "model_hash"
    }  # fmt: skip
    # Nothing in it is nothing in it, whatever is asked.
    forced = asked.rows(model, [photographs / "black.png"], force=True)
    assert forced["black.png"]["p_cup"] is None


def test_batches_have_one_size_and_the_model_is_asked_once_for_each(model, photographs):
    shapes = set()

    class Watched(Redness):
        def outputs(self, batch, method):
            shapes.add(batch["image"].shape)
            return super().outputs(batch, method)

    watched = Watched(model.description)
    asked.rows(watched, [photographs], batch_size=3)
    assert watched.asked == 3 and shapes == {(3, folders.SIZE, folders.SIZE, 3)}


def test_what_ungradable_and_forced_mean(model, tmp_path):
    dim = np.clip(asked.photograph() * 0.1, 0, 255).astype(np.uint8)
    Image.fromarray(dim).save(tmp_path / "dim.png")
    Image.fromarray(asked.photograph(side=256)).save(tmp_path / "small.png")
    sources = [tmp_path / "dim.png", tmp_path / "small.png"]

    def told(**options):
        found = asked.rows(model, sources, **options).values()
        return [(row["quality"], row["p_cup"] is not None) for row in found]

    assert told() == [("ungradable", False), ("check", True)]
    assert told(quality="skip") == [("ungradable", False), ("check", False)]
    assert told(quality="off") == [(None, True), (None, True)]
    assert told(force=True) == [("ungradable", True), ("check", True)]


def test_unlike_training_pictures_there_is_no_answer(model, photographs, tmp_path):
    Image.fromarray(asked.photograph(60)).save(tmp_path / "green.png")
    sources = [photographs / "3.png", tmp_path / "green.png"]
    known = np.array([[asked.photograph(150 + i).mean(), 60, 33] for i in range(9)])
    known[:, 0] = [asked.photograph(150 + i)[..., 0].mean() for i in range(9)]
    likely = dataclasses.replace(ood.nearest(known, known, k=3), threshold=0.01)
    model.description = described(tmp_path, familiar=likely)
    usual, odd = asked.rows(model, sources).values()
    assert (usual["ood"], odd["ood"]) == (False, True) and odd["ood_score"] > usual["ood_score"]
    assert usual["p_cup"] is not None and odd["p_cup"] is None and odd["predicted"] is None
    forced = asked.rows(model, sources, force=True)
    assert all(row["p_cup"] is not None for row in forced.values())
    off = asked.rows(model, sources, ood="off").values()
    assert [(row["ood"], row["p_cup"] is None) for row in off] == [(None, False)] * 2


def test_an_operating_point_calls_and_a_calibration_is_said(model, photographs, tmp_path):
    refer = OperatingPoint(0.5, (CLASSES[1], "cup"), "youden", "5e7", 3, 4)
    decision = Decision(
        rule="balanced", prior=(0.98, 0.01, 0.01), operating_points={"refer": refer},
        calibration=Calibration("temperature", 2.0),
    )  # fmt: skip
    model.description = described(tmp_path, decision=decision)
    rows = asked.rows(model, [photographs], operating_point="refer")
    for i in range(7):
        row = rows[f"{i}.png"]
        score = row["p_a_b_c"] + row["p_cup"]
        assert row["call"] == ("positive" if score >= 0.5 else "negative")
        assert (row["threshold"], row["operating_point"]) == (0.5, "refer")
        assert (row["predicted"], row["decision"]) == (CLASSES[1], "balanced")
        assert row["calibration"] == "transferred"
    assert {row["call"] for row in rows.values()} == {"positive", "negative", None}
    own = asked.rows(model, [photographs / "0.png"], threshold='a,b "c"=0.9')["0.png"]
    assert (own["call"], own["operating_point"]) == ("negative", "given")
    with pytest.raises(InputError, match="no operating point 'screen': it stores refer"):
        job(model, [photographs], operating_point="screen")


def test_a_class_of_any_name_has_a_column_and_survives_the_table(model, photographs, tmp_path):
    assert slugs(["A b", "a-b", "ä/β", "**", "predicted"]) == [
        "a_b", "a_b_2", "ä_β", "class", "predicted_2"
    ]  # fmt: skip
    formula = tmp_path / "=1+1.png"
    Image.fromarray(asked.photograph()).save(formula)
    (tmp_path / "list.txt").write_text("=1+1.png\n")
    model.description = described(tmp_path, decision=Decision("multi", thresholds=(1, 0.1, 0.1)))
    made, entries, _ = job(model, [photographs, tmp_path / "list.txt"])
    run(made, entries, tmp_path / "out")
    with (tmp_path / "out" / "predictions.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert table[0]["predicted"] == 'a,b "c"|cup' and table[-1]["record"].startswith("'=")
    stored = pa.concat_tables(map(pq.read_table, sorted((tmp_path / "out").glob("part-*"))))
    for text, value in zip(table, stored["p_cup"].to_pylist(), strict=True):
        assert text["p_cup"] == ("" if value is None else f"{value:.6g}")
    about = json.loads(stored.schema.metadata[b"retina_jax"])
    assert about["columns"]["p_a_b_c"] == CLASSES[1] and about["use"] == "research use only"
    assert about == json.loads((tmp_path / "out" / "predictions.json").read_text())
    with (tmp_path / "out" / "errors.csv").open(newline="", encoding="utf-8") as file:
        (error,) = csv.DictReader(file)
    assert (error["record"], error["stage"]) == ("pictures/broken.jpg", "read")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["rows"], summary["failed"], summary["answered"]) == (10, 1, 8)
    assert summary["quality"] == {"ok": 8, "check": 0, "ungradable": 1}
    said = [row["predicted"] for row in table]
    assert summary["predicted"] == {name: sum(name in one for one in said) for name in CLASSES}
    lines = output.told(summary).splitlines()
    mean = summary["mean"]["p_cup"]
    assert f"{summary['predicted']['cup']:9}  {mean:.3f}  cup" in lines
    assert len(lines) == 5 + len(CLASSES)


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(model, photographs, tmp_path):
    made, entries, _ = job(model, [photographs], batch_size=2)
    straight = run(made, entries, tmp_path / "straight")
    assert list(straight) == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]

    def dies(at, how):
        calls = iter(range(99))

        def tables(some, watch):
            number = next(calls)
            for table in made.tables(some, watch):
                if number == at:
                    how()
                yield table

        return dataclasses.replace(made, tables=tables)

    def raises():
        raise KeyboardInterrupt

    out = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        run(dies(1, raises), entries, out)
    written = (out / "part-00000.parquet").stat()
    assert not (out / "part-00001.parquet").exists()
    with pytest.raises(Preempted, match="the same command goes on"):
        run(dies(1, lambda: os.kill(os.getpid(), signal.SIGTERM)), entries, out)
    # Its list of pictures is the one it began with.
    assert run(made, entries.slice(0, 1), out) == straight
    assert (out / "part-00000.parquet").stat().st_mtime_ns == written.st_mtime_ns
    assert not list(out.glob("*.partial"))
    same = (tmp_path / "straight" / "predictions.csv").read_bytes()
    assert (out / "predictions.csv").read_bytes() == same
    # What was looked at before is not among the first pictures again, of which few may be refused.
    watch = Watch()
    output.run(made, out, entries, watch, 3, quiet=True)
    assert watch.rows == len(pq.read_table(list(out.glob("part-*.parquet"))))


def test_the_folder_of_another_run_is_refused(tmp_path):
    out = tmp_path / "out"
    assert output.claim(out, {"classes": ["a"], "batch_size": 3}, False) is None
    # Nothing was answered, because it was refused: the corrected request may have the folder.
    assert output.claim(out, {"classes": ["a"], "batch_size": 4}, False) is None
    (out / "part-00000.parquet").write_bytes(b"")
    with pytest.raises(InputError, match=r'another run: classes is \["b"\] instead of \["a"\]'):
        output.claim(out, {"classes": ["b"], "batch_size": 4}, False)
    environment.append_start(out, 0)  # as the command does
    assert output.claim(out, {"classes": ["b"]}, True) is None
    assert [path.name for path in out.iterdir()] == ["run.json"]
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.txt").write_text("")
    with pytest.raises(InputError, match="no folder of predictions"):
        output.claim(tmp_path / "theirs", {}, True)


def test_shards_are_the_whole_run_divided(model, photographs):
    made, entries, _ = job(model, [photographs])
    whole = asked.rows(model, [photographs])
    parts = [output.sharded(entries, f"{i}/2") for i in (1, 2)]
    assert 0 < len(parts[0]) < len(entries)
    found = [row for part in parts for t in made.tables(part, Watch()) for row in t.to_pylist()]
    assert sorted(map(str, found)) == sorted(map(str, whole.values()))
    with pytest.raises(InputError, match="i from 1 to n"):
        output.sharded(entries, "0/2")
    together = entries.set_column(entries.schema.get_field_index("unit"), "unit",
                                  pa.array(np.arange(9) // 3))  # fmt: skip
    assert output.bounds(together, 2) == [(0, 3), (3, 6), (6, 9)]
    shares = [set(output.sharded(together, f"{i}/2")["unit"].to_pylist()) for i in (1, 2)]
    assert not shares[0] & shares[1] and shares[0] | shares[1] == {0, 1, 2}


def test_numbers_of_a_regression_stay_as_they_are(model, photographs, tmp_path):
    model.description = described(tmp_path, decision=Decision("regression"))
    row = asked.rows(model, [photographs / "0.png"], scores=True)["0.png"]
    assert row["value_cup"] == row["score_cup"] and row["value_normal"] > 1
    assert row["predicted"] is None and row["p_predicted"] is None and "p_cup" not in row


def test_one_broken_file_of_a_thousand_is_one_error(model, tmp_path):
    Image.fromarray(asked.photograph(side=16)).save(tmp_path / "0.png")
    data = (tmp_path / "0.png").read_bytes()
    for i in range(1, 1000):
        (tmp_path / f"{i}.png").write_bytes(data if i != 500 else data[:60])
    made, entries, _ = job(model, [tmp_path / "*.png"], quality="off", batch_size=64)
    run(made, entries, tmp_path / "out", each=400)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["rows"], summary["failed"], summary["answered"]) == (1000, 1, 999)


def test_most_pictures_unlike_the_models_stop_the_run():
    watch = Watch()
    fine, not_fine = [False] * 100, [True] * 100
    watch.see(fine[:90] + not_fine, [False] * 189 + [True])
    with pytest.raises(InputError, match="200 pictures 100 are ungradable and 10 others unlike"):
        watch.see(fine[:10], not_fine[:10])
    watch = Watch()
    watch.see(not_fine + fine, not_fine + fine)
    watch.see(not_fine, fine)
    Watch(force=True).see(not_fine * 3, not_fine * 3)


def test_a_score_that_is_no_number_is_an_error(model, photographs):
    class Broken(Redness):
        def outputs(self, batch, method):
            found = super().outputs(batch, method)
            found["logits"][1] = np.nan
            return found

    rows = asked.rows(Broken(model.description), [photographs], batch_size=16)
    assert rows["1.png"]["error"] == "The model gives no number for it (NaN)."
    assert rows["1.png"]["p_cup"] is None and rows["0.png"]["p_cup"] is not None


def test_a_model_of_texts_is_asked_by_sentences_that_are_embedded_once(tmp_path, photographs):
    folders.write(tmp_path)
    loaded = retina_jax.load(tmp_path / "model")
    texts = []

    class Counted(type(loaded)):
        def texts(self, given):
            texts.append(list(given))
            return super().texts(given)

    counted = Counted(*(getattr(loaded, field.name) for field in dataclasses.fields(loaded)))
    tables = list(counted.predict([photographs], ["normal", "cup"], batch_size=2))
    assert texts == [["a photograph of normal", "a photograph of cup"]]
    found = {row["record"]: row for table in tables for row in table.to_pylist()}
    for i in (0, 6):
        single = loaded.zero_shot(photographs / f"{i}.png", ["normal", "cup"])
        row = found[f"{i}.png"]
        got = [row["p_normal"], row["p_cup"]]
        np.testing.assert_allclose(got, list(single.values()), atol=1e-6)
    assert found["black.png"]["p_cup"] is None
    with pytest.raises(InputError, match="'classes' has 'a' twice"):
        scoring.by_texts(loaded, ["a", "a"])


@pytest.fixture(scope="module")
def headless(tmp_path_factory):
    folder = tmp_path_factory.mktemp("headless")
    tower = {"name": "tower", "key": "image", "tower": folders.VIT}
    folders.write(folder, model=tower, tokenizer=None, text_length=None, template=None, classes=())
    return folder / "model"


def test_the_program_refuses_a_model_that_names_no_disease(headless, photographs, tmp_path):
    done = program("retina_jax.predict", f"--model={headless}", str(photographs),
                   f"--out={tmp_path}/out")  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "") and "names no disease" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_program_writes_rows_and_says_how_many_failed(photographs, tmp_path):
    folders.write(tmp_path, **CLASSIFIER)
    line = ("retina_jax.predict", f"--model={tmp_path}/model", f"--source={photographs}",
            f"--out={tmp_path}/out")  # fmt: skip
    done = program(*line, "--max_failures=0.2", "--part_rows=4")
    assert done.returncode == 0, done.stderr
    for said in ("research use only, not a medical device", "9 entries", "9 rows, 1 failed",
                 "not chosen for any purpose", "7 ok, 0 check, 1 ungradable"):  # fmt: skip
        assert said in done.stdout
    loaded = retina_jax.load(tmp_path / "model")
    stored = pq.read_table(tmp_path / "out" / "part-00001.parquet").to_pylist()
    single = loaded.classify(photographs / f"{stored[0]['record']}")
    np.testing.assert_allclose([stored[0][c] for c in COLUMNS], list(single.values()), atol=1e-6)
    assert stored[0]["model_hash"] == loaded.model_hash[:12]
    again = program(*line, "--max_failures=0.1", "--part_rows=4", "--quiet")
    assert again.returncode == 3 and again.stdout.splitlines()[0].endswith("predictions.csv")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_rows(model, tmp_path):
    """50,000 rows in parts of 5,000, after the first of which nothing is to grow by 100 MB."""
    import resource

    Image.fromarray(asked.photograph(side=16)).save(tmp_path / "0.png")
    for i in range(1, 50_000):
        os.link(tmp_path / "0.png", tmp_path / f"{i}.png")
    made, entries, _ = job(model, [tmp_path], quality="off", batch_size=64)
    sizes = []

    def tables(some, watch):
        sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        yield from made.tables(some, watch)

    run(dataclasses.replace(made, tables=tables), entries, tmp_path / "out", each=5_000)
    assert len(sizes) == 10 and sizes[-1] - sizes[1] < 100_000
