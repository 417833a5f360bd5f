"""What a row is of: pictures, eyes or patients, and which of them a model cannot be asked about."""

import csv
import dataclasses

import folders
import numpy as np
import pyarrow as pa
import pytest
from prediction import asked
from prediction.asked import Redness, described, job

import retina_jax
from data_pipelines.clinical.scan import Scan
from data_pipelines.errors import InputError
from retina_jax.decision import Decision, OperatingPoint
from retina_jax.prediction import levels, prevalence, pseudonyms, requests
from retina_jax.prediction.answers import Answers
from retina_jax.prediction.rows import Row, Watch


def test_eyes_are_the_mean_of_their_pictures_and_patients_the_worse_eye(model, photographs):
    table = photographs.parent / "visits.csv"
    table.write_text("path,patient,side,site\n"
                     "pictures/0,p1,right,A\npictures/5,p2,OS,B\npictures/1,p1,R,A\n"
                     "pictures/2,p1,left,A\npictures/black.png,p1,left,A\n"
                     "pictures/broken.jpg,p3,left,\n")  # fmt: skip
    image = asked.rows(model, [table], kept=["in_site"])
    assert image["pictures/0"]["in_site"] == "A" and image["pictures/1"]["eye"] == "OD"
    p = {i: image[f"pictures/{i}"]["p_cup"] for i in (0, 1, 2, 5)}
    cup = OperatingPoint((p[0] + p[1]) / 2, ("cup",))
    model.description = dataclasses.replace(
        model.description, decision=Decision(operating_points={"cup": cup})
    )
    eye = asked.rows(model, [table], level="eye", operating_point="cup")
    assert {k: (row["images"], row["quality"], row["error"] is None) for k, row in eye.items()} == {
        "p1/OD": (2, "ok", True), "p1/OS": (1, "ok", True), "p2/OS": (1, "ok", True),
        "pictures/broken.jpg": (None, None, False),
    }  # fmt: skip
    assert eye["p1/OD"]["p_cup"] == pytest.approx((p[0] + p[1]) / 2, rel=1e-6)
    assert len(eye["p1/OD"]["image_sha256"].split(",")) == 2
    patient = asked.rows(model, [table], level="patient", operating_point="cup")
    assert patient["p1"]["p_cup"] == pytest.approx(max((p[0] + p[1]) / 2, p[2]), rel=1e-6)
    assert patient["p1"]["images"] == 3 and patient["p1"]["eye"] is None
    assert patient["p2"]["p_cup"] == pytest.approx(p[5], rel=1e-6)
    mean = asked.rows(model, [table], level="patient", merge="mean")
    assert mean["p1"]["p_cup"] == pytest.approx(((p[0] + p[1]) / 2 + p[2]) / 2, rel=1e-6)
    for level in ("eye", "patient"):
        with pytest.raises(InputError, match=f"--level={level} needs the patient"):
            job(model, [photographs], level=level)


def test_an_eye_without_an_answer_leaves_the_patient_none(model, photographs):
    """Else a patient would be called by the better half of what was taken."""
    table = photographs.parent / "halves.csv"
    table.write_text("path,patient,side\n"
                     "pictures/0,p1,OD\npictures/broken.jpg,p1,OS\n"
                     "pictures/1,p2,OD\npictures/black.png,p2,OS\n"
                     "pictures/2,p3,\npictures/3,p3,\n")  # fmt: skip
    alone = {name: row["p_cup"] for name, row in asked.rows(model, [table]).items()}
    p1, p2, p3 = asked.rows(model, [table], level="patient").values()
    assert p1["p_cup"] is None and p1["predicted"] is None and p1["error"]
    assert (p2["p_cup"], p2["error"], p2["quality"]) == (None, None, "ungradable")
    assert p2["quality_reasons"]
    # Two eyes, although nothing says which: the greater, not the mean.
    of_unknown = max(alone["pictures/2"], alone["pictures/3"])
    assert p3["p_cup"] == pytest.approx(of_unknown, rel=1e-6)
    allowed = asked.rows(model, [table], level="patient", missing_eye="allowed")
    for name, picture in (("p1", "pictures/0"), ("p2", "pictures/1")):
        assert allowed[name]["p_cup"] == pytest.approx(alone[picture], rel=1e-6)


def test_of_an_eye_the_answered_pictures_count(model):
    """The mean over (.2, .6, .7) with a picture of no answer among them."""
    request = requests.predicting(model, requests.Options(level="eye"))
    p = np.array([[0.2, 0.8, 0], [np.nan] * 3, [0.6, 0.4, 0], [0.7, 0.3, 0]], np.float32)
    parts = [Row(str(i), facts={**Row("").facts, "eye": "OD"}, unit=4) for i in range(4)]
    empty = np.full(4, np.nan, np.float32)
    answers = Answers(parts, p, empty, np.zeros(4, bool), p, empty)
    merged = levels.merged(request, [answers])
    np.testing.assert_allclose(merged.probabilities, [[0.5, 0.5, 0]], atol=1e-6)
    assert merged.rows[0].images == 3


@pytest.mark.parametrize(("changes", "options", "message"), [
    ({"classes": ("a",)}, {}, "scores 3 classes and has 1 names"),
    ({"modality": "oct"}, {"modality": "cfp"}, "is a model of 'oct', not of 'cfp'"),
    ({}, {"task": "zero_shot"}, "has no tower that embeds|reads no texts"),
    ({}, {"task": "head", "classes": ["a"]}, "The classes of a head are its own"),
    ({}, {"classes": ["a"]}, r"The classes of a head are its own \(normal, a,b .*leave --classes"),
    ({}, {"template": "an eye with {}"}, "The classes of a head are its own"),
    ({"decision": Decision("regression")}, {"classes": ["a"]}, "of a number has no classes"),
    ({}, {"threshold": "0.5"}, "--threshold is CLASS=NUMBER of one of normal"),
    ({}, {"threshold": "cup=high"}, "no CLASS=NUMBER"),
    ({}, {"threshold": "cup=7"}, "a threshold in 0..1"),
    ({}, {"operating_point": "x", "threshold": "cup=1"}, "not both"),
    ({}, {"level": "visit"}, "--level is one of image, eye, patient"),
    ({}, {"input": "oct"}, "name one by --input=KEY"),
    ({"transforms": ()}, {}, "reads texts and no pictures"),
])  # fmt: skip
def test_what_cannot_be_asked_is_one_sentence(photographs, tmp_path, changes, options, message):
    class Silent(Redness):
        def texts(self, texts):
            raise InputError("it has no tower that embeds them.")

    with pytest.raises(InputError, match=message):
        job(Silent(described(tmp_path, **changes)), [photographs], **options)


def test_pictures_of_another_modality_are_refused(model, photographs, tmp_path):
    table = photographs.parent / "modalities.csv"
    table.write_text("image,modality\npictures/0.png,FA\n")
    with pytest.raises(InputError, match="of the modality ffa: the model does not say .*=ffa"):
        job(model, [table])
    job(model, [table], modality="ffa")
    with pytest.raises(InputError, match="of the modality ffa: the model is for 'cfp'"):
        job(Redness(described(tmp_path, modality="cfp")), [table])
    table.write_text("image,modality\npictures/0.png,FA\npictures/1.png,fundus\n")
    found = asked.rows(model, [table])
    assert "of the modality 'ffa'" in found["pictures/0.png"]["error"]
    assert found["pictures/1.png"]["p_cup"] is not None


def test_both_eyes_of_a_patient_are_one_row(tmp_path, photographs):
    model = {**folders.dual(), "name": "tripartite"}
    folders.write(tmp_path, model=model, transforms=({"name": "eyes", "size": folders.SIZE},))
    loaded = retina_jax.load(tmp_path / "model")
    table = photographs.parent / "eyes.csv"
    who = [("p1", "OS"), ("p2", "OD"), ("p1", "OD"), ("p3", "OD"), ("p3", "OD")]
    lines = [f"pictures/{i}.png,{patient},{eye}" for i, (patient, eye) in enumerate(who)]
    table.write_text("\n".join(["image,patient,eye", *lines]))
    rows = asked.rows(loaded, [table])
    both = loaded.zero_shot((photographs / "0.png", photographs / "2.png"))
    assert rows["p1"]["p_glaucoma"] == pytest.approx(both["glaucoma"], abs=1e-6)
    assert rows["p1"]["images"] == 2 and rows["p1"]["eye"] is None
    assert "--missing_eye=allowed" in rows["p2"]["error"]
    assert "two pictures of OD" in rows["p3"]["error"]
    allowed = asked.rows(loaded, [table], missing_eye="allowed")["p2"]
    alone = loaded.zero_shot((None, photographs / "1.png"))
    assert allowed["p_glaucoma"] == pytest.approx(alone["glaucoma"], abs=1e-6)
    assert allowed["images"] == 1


def test_probabilities_for_another_population(model):
    """The value of the specification, 3.2; what is not named shares the rest as in training."""
    shift = prevalence.Prevalence((0.6, 0.3, 0.1), (1 / 3,) * 3, False)
    found = shift.of(np.array([[0.5, 0.3, 0.2]]))
    np.testing.assert_allclose(found, [[0.731707, 0.219512, 0.048780]], atol=5e-7)
    names, prior = model.classes, (0.5, 0.3, 0.2)
    decision = Decision(rule="balanced", prior=prior)
    model.description = dataclasses.replace(model.description, decision=decision)
    request = requests.predicting(model, requests.Options(prevalence=(f"{names[0]}=.9",)))
    assert request.prevalence.shares == pytest.approx((0.9, 0.06, 0.04))
    logits = np.random.default_rng(0).normal(size=(40, 3))
    p = decision.probabilities(logits)
    there = request.prevalence.of(p)
    np.testing.assert_allclose(there.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(there[:, 1] / there[:, 0], p[:, 1] / p[:, 0] / 9, rtol=1e-4)
    # A balanced decision divides by the shares again, so that it calls the same.
    np.testing.assert_array_equal(request.scorer.decision.decide(there), decision.decide(p))
    lines = "\n".join(requests.notices(request))
    assert f"prevalence: {names[0]} 0.9" in lines


def test_labels_change_their_prevalence_one_by_one():
    shift = prevalence.Prevalence((0.5, 0.2), (0.1, 0.2), True)
    first, second = shift.of(np.array([[0.1, 0.7]]))[0]
    assert first == pytest.approx(0.5) and second == pytest.approx(0.7)


@pytest.mark.parametrize(("given", "decision", "sentence"), [
    (("{0}=.9",), Decision(), "does not state these"),
    (("rare=.9",), Decision(prior=(0.5, 0.3, 0.2)), "a share between 0 and 1 of one of"),
    (("{0}=1.5",), Decision(prior=(0.5, 0.3, 0.2)), "a share between 0 and 1"),
    (("{0}=.5", "{1}=.3", "{2}=.3"), Decision(prior=(0.5, 0.3, 0.2)), "add up to 1.1"),
    (("{0}=.7", "{1}=.3"), Decision(prior=(0.5, 0.3, 0.2)), "of some to less"),
    (("{0}=.7",), Decision("regression", prior=(0.5, 0.3, 0.2)), "does not state these"),
])  # fmt: skip
def test_shares_that_are_none_are_refused(model, given, decision, sentence):
    model.description = dataclasses.replace(model.description, decision=decision)
    given = tuple(text.format(*model.classes) for text in given)
    with pytest.raises(InputError, match=sentence):
        requests.predicting(model, requests.Options(prevalence=given))


def test_a_threshold_of_the_training_shares_is_not_used_at_others(model):
    point = OperatingPoint(0.4, (model.classes[0],))
    decision = Decision(prior=(0.5, 0.3, 0.2), operating_points={"refer": point})
    model.description = dataclasses.replace(model.description, decision=decision)
    asked_for = requests.Options(prevalence=(f"{model.classes[0]}=.9",), operating_point="refer")
    with pytest.raises(InputError, match="'refer' was chosen at the shares of training"):
        requests.predicting(model, asked_for)


@pytest.mark.parametrize(("options", "sentence"), [
    ({"threshold": "cup=.5"}, "--threshold is of classes"),
    ({"operating_point": "refer"}, "--operating_point is of classes"),
    ({"level": "patient"}, "the mean of both eyes: add --merge=mean"),
])  # fmt: skip
def test_a_number_has_no_thresholds(model, options, sentence):
    decision = Decision("regression")
    model.description = dataclasses.replace(model.description, decision=decision)
    with pytest.raises(InputError, match=sentence):
        requests.predicting(model, requests.Options(**options))
    lines = "\n".join(requests.notices(requests.predicting(model, requests.Options())))
    assert "a number by head: " in lines and "threshold" not in lines


def test_names_give_way_to_keyed_hashes_and_a_retry_gives_the_same(model, photographs, tmp_path):
    made, entries, _ = job(model, [photographs])
    names, key = pseudonyms.place(tmp_path / "out"), b"k" * 32
    plain = {row["record"]: row for t in made.tables(entries, Watch()) for row in t.to_pylist()}
    hidden = pseudonyms.hidden(made, key, names)
    rows = [row for t in hidden.tables(entries, Watch()) for row in t.to_pylist()]
    with names.open(newline="") as file:
        told = {row["hash"]: row["name"] for row in csv.DictReader(file)}
    assert names.name == "out-names.csv" and not {r["record"] for r in rows} & set(plain)
    assert {told[row["record"]] for row in rows} == set(plain)
    for row in rows:
        before = plain[told[row["record"]]]
        assert {k: v for k, v in row.items() if k != "record"} == {
            k: v for k, v in before.items() if k != "record"}  # fmt: skip
    again = [row for t in hidden.tables(entries, Watch()) for row in t.to_pylist()]
    assert again == rows and len(names.read_text().splitlines()) == len(told) + 1
    assert hidden.schema == made.schema
    assert pseudonyms.mark(key) == pseudonyms.mark(key) != pseudonyms.mark(b"l" * 32)
    for refused in (lambda: pseudonyms.hidden(made, None, names), lambda: pseudonyms.mark(None)):
        with pytest.raises(InputError, match="needs a secret"):
            refused()


@pytest.mark.parametrize(("modality", "expected"), [("oct", 0.5), (None, 0.7)])
def test_b_scans_of_a_volume_of_an_unknown_eye_are_one_eye(model, modality, expected):
    """So the patient has their mean, and of photographs in one file the greatest."""
    request = requests.predicting(model, requests.Options(level="patient", modality=modality))
    p = np.array([[0.2, 0.8, 0], [0.6, 0.4, 0], [0.7, 0.3, 0]], np.float32)
    parts = [Row(f"v.npy#{i}", sha256="ab", unit=4) for i in range(3)]
    empty = np.full(3, np.nan, np.float32)
    merged = levels.merged(request, [Answers(parts, p, empty, np.zeros(3, bool), p, empty)])
    assert merged.probabilities[0, 0] == pytest.approx(expected, abs=1e-6)


def test_what_is_wrong_names_no_file_where_names_are_hidden(model, tmp_path):
    """Of an array, and of a file in a folder of B-scans."""
    scans = tmp_path / "scans" / "Smith_Jane"
    scans.mkdir(parents=True)
    (scans / "Smith_1.png").write_bytes(b"no picture")
    (scans / "Smith_2.png").symlink_to(tmp_path / "outside" / "Smith_2.png")
    (tmp_path / "scans" / "Smith_Joe.npy").write_bytes(b"no array")
    table = tmp_path / "scans" / "list.csv"
    table.write_text("path\nSmith_Jane\nSmith_Joe.npy\n")
    made, entries, _ = job(model, [table], modality="oct")
    hidden = pseudonyms.hidden(made, b"k" * 32, pseudonyms.place(tmp_path / "out"))
    rows = [row for t in hidden.tables(entries, Watch()) for row in t.to_pylist()]
    assert len(rows) == 2 and all(row["error"] for row in rows)
    told = str([row["error"] for row in rows])
    assert "Smith" not in str(rows) and "'file 2 of 2' is a link" in told, told


def test_only_a_photograph_of_no_stated_modality_is_the_models(model, tmp_path, monkeypatch):
    """A localizer is a picture too, and no photograph of the fundus."""
    path = tmp_path / "a.e2e"
    path.write_bytes(b"CMDb" + bytes(64))
    grey = np.full((64, 64), 90, np.uint8)
    for kind, found in (("scanning_laser", False), ("en_face", False), ("photograph", True)):
        scans = [Scan(kind, grey)]
        monkeypatch.setattr("data_pipelines.clinical.formats.read_anonymous", lambda *_, s=scans: s)
        (row,) = asked.rows(model, [path], quality="off").values()
        assert (row["error"] is None) == found, row["error"]


def test_names_that_look_like_people_are_told_of():
    table = pa.table({"record": ["Smith, Jane.png", "a_1961-03-02.png", "b/02.03.1961.jpg",
                                 "IDRiD_001.jpg", "20_left.jpeg"]})  # fmt: skip
    assert pseudonyms.reminder(table).startswith("3 names of files")
    assert pseudonyms.reminder(table.slice(3)) == ""
