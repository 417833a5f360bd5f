"""The files of a run: lines that survive an interruption, results that can be read again."""

import base64
import contextlib
import io
import json
import resource
import struct
import threading

import numpy as np
import pytest
from evaluated_runs import Rows
from PIL import Image
from runs import python
from tensorboardX.proto import event_pb2

from retina_jax.train.writer import Writer, write_results
from retina_jax.types import Card, Results, Score

pytestmark = pytest.mark.fast


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


def lines(folder):
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def write(folder, steps, start=0):
    with contextlib.closing(Writer(folder, start)) as writer:
        for step in steps:
            writer.write(step, {"train/loss": step / 2})


def events(folder):
    """Events of all TensorBoard files: records of u64 length, u32 checksum, data, u32 checksum."""
    found = []
    for path in sorted((folder / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(event_pb2.Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def test_a_line_and_a_point_for_each_write(tmp_path):
    write(tmp_path, (1, 2, 3))
    assert [(line["step"], line["train/loss"]) for line in lines(tmp_path)] == [
        (1, 0.5), (2, 1.0), (3, 1.5)
    ]  # fmt: skip
    assert all(line["time"] > 1.6e9 for line in lines(tmp_path))
    points = [(e.step, v.tag, v.simple_value) for e in events(tmp_path) for v in e.summary.value]
    assert points == [(1, "train/loss", 0.5), (2, "train/loss", 1.0), (3, "train/loss", 1.5)]


def test_lines_can_be_read_while_the_run_goes_on(tmp_path):
    with contextlib.closing(Writer(tmp_path)) as writer:
        writer.write(1, {"a": np.float32(2)})
        assert lines(tmp_path)[0]["a"] == 2.0


def test_resuming_drops_what_will_be_written_again(tmp_path):
    write(tmp_path, (1, 2, 3, 4, 5))
    write(tmp_path, (4, 5, 6), start=3)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5, 6]
    restarts = [e for e in events(tmp_path) if e.session_log.status == e.session_log.START]
    assert 4 in {e.step for e in restarts}  # TensorBoard forgets the points from there on


def test_starting_again_from_nothing_drops_all(tmp_path):
    write(tmp_path, (1, 2))
    write(tmp_path, (1,), start=0)
    assert [line["step"] for line in lines(tmp_path)] == [1]


@pytest.mark.parametrize("half", ['{"step": 3, "train/lo', "{", '{"step"', "[3, 4]", "3", "null"])
def test_a_half_written_last_line_is_dropped(tmp_path, half):
    write(tmp_path, (1, 2))
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(half)
    write(tmp_path, (3,), start=2)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_a_last_line_that_lacks_only_its_end_is_kept(tmp_path):
    write(tmp_path, (1, 2))
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text(encoding="utf-8").rstrip("\n"), encoding="utf-8")
    write(tmp_path, (3,), start=2)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_numbers_that_are_not_finite_become_null(tmp_path):
    with contextlib.closing(Writer(tmp_path)) as writer:
        writer.write(1, {"a": float("nan"), "b": np.float32("inf"), "c": -np.inf, "d": 1})
    (line,) = lines(tmp_path)
    assert [line[key] for key in "abcd"] == [None, None, None, 1.0]


def test_an_inactive_writer_writes_nothing(tmp_path):
    with contextlib.closing(Writer(tmp_path, active=False)) as writer:
        writer.write(1, {"a": 1.0})
    assert list(tmp_path.iterdir()) == []


def picture(uri):
    kind, _, data = uri.partition(";base64,")
    assert kind == "data:image/jpeg"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_results_can_be_read_again(tmp_path):
    wide = np.zeros((300, 600, 3), np.uint8)
    wide[:, :300, 0] = 255
    scan = np.full((64, 64, 1), 128, np.uint8)
    gallery = ((Card(wide, "眼底"),
                (Card(None, "glaucoma", score=np.float32(0.123456), correct=np.bool_(True)),
                 Card(scan, "", 0.0, False))),)  # fmt: skip
    results = {
        "probe": Results({"auc": Score(np.float64(0.75), 0.5, 0.9, 0.5, 40)}),
        "retrieval": Results({"rank": Score(float("nan"), chance=float("inf"))}, gallery),
    }
    rows = write_results(tmp_path, "stage", 12, results)
    read = json.loads((tmp_path / "results.json").read_text("utf-8"), parse_constant=refuse)
    assert read["name"] == "stage" and read["step"] == 12 and read["scores"] == rows
    nothing = {**dict.fromkeys(rows[0]), "tags": []}
    assert rows[0] == {
        **nothing, "evaluator": "probe", "metric": "auc", "value": 0.75, "low": 0.5, "high": 0.9,
        "chance": 0.5, "count": 40,
    }  # fmt: skip
    assert rows[1] == {**nothing, "evaluator": "retrieval", "metric": "rank"}
    (shown,) = read["gallery"]
    assert shown["evaluator"] == "retrieval" and shown["query"]["text"] == "眼底"
    assert set(shown["query"]) == {"image", "text"}  # a query is neither scored nor right
    first, second = shown["answers"]
    assert first == {"image": None, "text": "glaucoma", "score": 0.1235, "correct": True}
    assert (second["score"], second["correct"]) == (0.0, False)
    thumbnail = picture(shown["query"]["image"])
    assert thumbnail.size == (256, 128)
    np.testing.assert_allclose(np.asarray(thumbnail)[64, [40, 216]], [[255, 0, 0], [0] * 3], atol=9)
    np.testing.assert_allclose(np.asarray(picture(second["image"])), 128, atol=2)
    assert list(tmp_path.iterdir()) == [tmp_path / "results.json"]  # nothing half-written is left


def test_a_full_disk_that_ends_tensorboards_thread_stops_no_run(tmp_path, monkeypatch):
    """Its queue has ten places, and nobody empties it then."""
    monkeypatch.setattr(threading, "excepthook", lambda failed: None)

    def refuse():
        raise OSError(28, "No space left on device")

    writer = Writer(tmp_path)
    events = writer._summary.file_writer.event_writer
    monkeypatch.setattr(events._ev_writer, "flush", refuse)
    writer.write(1, {"a": 1.0})
    events._worker.join(10)
    for step in range(2, 40):
        writer.write(step, {"a": 1.0})
    writer.close()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 39


_FULL_DISK = """
import contextlib, resource
from retina_jax import cli
from retina_jax.train.writer import Writer
def main(arguments):
    with contextlib.closing(Writer(arguments[1])) as writer:
        writer.write(1, {"a": 1.0})
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))  # no file may grow
        writer.write(2, {"a": 1.0})
cli.run(main, inputs=True)
"""


def test_a_full_disk_is_no_traceback_as_the_program_ends(tmp_path):
    done = python("-c", _FULL_DISK, str(tmp_path))
    assert done.returncode == 2 and "File too large" in done.stderr
    assert "Traceback" not in done.stderr, done.stderr


def test_a_full_disk_leaves_whole_lines(tmp_path):
    writer = Writer(tmp_path)
    writer.write(1, {"a": 1.0})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / "metrics.jsonl").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))  # there is room for half a line
    try:
        with pytest.raises(OSError, match="File too large"):
            writer.write(2, {"a": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    writer.close()
    assert (tmp_path / "metrics.jsonl").stat().st_size == size
    assert [line["step"] for line in lines(tmp_path)] == [1]


def test_results_replace_older_ones(tmp_path):
    for step in (1, 2):
        write_results(tmp_path, "", step, {"a": Results({"b": Score(0.1)})})
    assert json.loads((tmp_path / "results.json").read_text("utf-8"))["step"] == 2


def test_the_verdict_on_maps_stays_while_the_weights_do(tmp_path):
    def written(weights):
        about = {"model": {"weights_hash": weights}}
        results = {"probe": Results({"auc": Score(0.7)}, tested=Rows([{"id": "1", "patient": ""}]))}
        write_results(tmp_path, "", 1, results, provenance=about)
        return json.loads((tmp_path / "results.json").read_text("utf-8"))

    found = written("a")
    found["evaluations"]["probe"]["saliency_control"] = {"passes": True}
    (tmp_path / "results.json").write_text(json.dumps(found), "utf-8")
    assert written("a")["evaluations"]["probe"]["saliency_control"] == {"passes": True}
    assert "saliency_control" not in written("b")["evaluations"]["probe"]
    assert "saliency_control" not in written(None)["evaluations"]["probe"]
    for other in ("[1]", '{"provenance": null}', "["):  # nothing of ours to keep
        (tmp_path / "results.json").write_text(other, "utf-8")
        assert written("b")["step"] == 1
