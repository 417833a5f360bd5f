"""What the page shows of an evaluation: its order, its figures, and what it must not show."""

import base64
import io
import json
import re
import resource
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from evaluated_runs import Rows, evaluated, page_of, written
from PIL import Image
from sklearn.metrics import precision_recall_curve

from data_pipelines.errors import InputError
from retina_jax import report
from retina_jax.report import from_records, headline, records
from retina_jax.scoring import predictions
from retina_jax.scoring import records as files

HEADINGS = ("Skip to the results", "on manifest/clinic, test", "Operating point",
            "Confusion matrix", "Each class", "Curves", "Calibration", "Decision curve",
            "Subgroups", "Errors to look at", "<h3>Records", "All figures",
            "Provenance", "For a publication", "Checklist of reporting")  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two classes with a threshold, and with sex and age of the patients."""
    path = tmp_path_factory.mktemp("runs") / "clinic"
    return evaluated(path, 1.2, count=240, validation=120, eyes=2, people=True)


@pytest.fixture(scope="module")
def text(run):
    """Its page."""
    return page_of(run, decision="refer")


@pytest.fixture(scope="module")
def entry(run):
    """What its results say beside the figures."""
    return json.loads((run / "results.json").read_text())["evaluations"]["probe"]


def test_sections_are_in_the_order_in_which_they_are_read(text):
    places = [text.index(heading) for heading in HEADINGS]
    assert places == sorted(places)
    assert [level for level in re.findall(r"<h(\d)", text)][0] == "1"
    assert text.count("<h1") == 1 and "script" not in text and len(text) < 2_000_000


def test_the_verdict_is_one_sentence_with_the_primary_metric(run, text):
    (row,) = (row for row in report.scores(run) if row["metric"] == "auc")
    said = f"{row['value']:.3f}</b> ({row['low']:.3f}–{row['high']:.3f}); chance 0.500."
    assert said in text and "120 patients / 240 images." in text
    assert "<b>clinic</b>, probe on manifest/clinic, test: auc" in " ".join(text.split())
    terminal = report.summary(run).splitlines()
    assert terminal[0] == "clinic" and "  120 patients / 240 images" in terminal[3]


def test_curves_have_the_figures_of_the_results_and_mark_the_operating_point(run, text, entry):
    (point,) = entry["operating_points"]
    area = entry["per_class"][1]["auroc"]["value"]
    says = (
        f"refer, area {area:.3f}; at the operating point sensitivity "
        f"{point['sensitivity']['value']:.3f}, specificity {point['specificity']['value']:.3f}"
    )
    assert f'aria-label="ROC: sensitivity against 1 − specificity. {says}"' in text
    assert text.count('class="ring') == 2  # on both curves
    found = files.read(run / "records" / "probe.parquet").of("")
    precision, recall, _ = precision_recall_curve(found.labels == 1, found.probabilities[:, 1])
    table = text[text.index("Precision where at least this share is found</caption>") :]
    shown = re.findall(r'<span class="value">([\d.]+)', table[: table.index("</table>")])
    assert shown == [f"{precision[recall >= at][-1]:.3f}" for at in (0.5, 0.8, 0.9, 0.95)]
    paths = re.findall(r' d="([^"]+)"', text)
    assert max(path.count("L") for path in paths) <= 240


def test_a_rate_that_is_not_defined_says_why(run, tmp_path):
    path = shutil.copytree(run, tmp_path / "run")
    results = json.loads((path / "results.json").read_text())
    results["evaluations"]["probe"]["per_class"][0] |= {"ppv": None, "npv": None}
    (path / "results.json").write_text(json.dumps(results))
    text = page_of(path)
    for why in ("never predicted", "always predicted"):
        assert re.search(rf"not defined\s*<small>{why}</small>", text)


@pytest.mark.parametrize(("classes", "why"), [
    ((120, 120), "no finite fit: probabilities are all equal or separate the classes"),
    ((240, 0), "all records are of one class"),
])  # fmt: skip
def test_a_figure_of_calibration_that_is_not_defined_says_why(run, tmp_path, classes, why):
    path = shutil.copytree(run, tmp_path / "run")
    results = json.loads((path / "results.json").read_text())
    entry = results["evaluations"]["probe"]
    for one, count in zip(entry["per_class"], classes, strict=True):
        one["n"] = count
    entry["calibration"] |= {"slope": None, "ece": None}
    entry["calibration"]["after"] |= {"slope": None, "ece": 0.25, "ece_null": 0.125}
    (path / "results.json").write_text(json.dumps(results))
    text = page_of(path)
    table = text[text.index("Calibration of the probabilities</caption>") :]
    found = re.findall(r'data-head="slope"><span class="value">not defined<small>([^<]+)', table)
    assert found == [why, why]
    assert "not defined<small>no probability of a known class</small>" in table
    assert "0.250<small>0.125 if perfect</small>" in table


def test_counts_of_the_confusion_matrix_are_those_at_the_threshold(text, entry):
    table = text[text.index('<table class="matrix"') :]
    shown = [int(n) for n in re.findall(r'class="value">(\d+)<', table[: table.index("</table>")])]
    assert shown == [n for row in entry["operating_points"][0]["confusion"] for n in row]


def test_the_surest_errors_come_first_and_no_name_leaves_the_file(run, text, entry):
    found = files.read(run / "records" / "probe.parquet").of("")
    p, threshold = found.probabilities[:, 1], entry["operating_points"][0]["value"]
    missed = np.flatnonzero((found.labels == 1) & (p < threshold))
    surest = found.images[missed[p[missed].argmin()]][:10]
    caption = text.index(f"The surest of {len(missed)} missed")
    assert re.findall(r">([0-9a-f]{10})<", text[caption:])[0] == surest
    assert "SECRET" not in text and "test17" not in text  # a patient, a record
    assert "Records drawn at random" in text


def test_errors_come_with_their_pictures_and_nothing_that_names_them(run, text):
    shown = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)" alt="([^"]+)">', text)
    names = {alt.split(",")[0] for _, alt in shown}
    assert names == {path.stem for path in (run / "records" / "pictures").iterdir()}
    assert 12 < len(shown) <= 60
    state = r"(missed: refer|false alarm: refer|\w+ → \w+)"
    assert all(re.fullmatch(rf"[0-9a-f]{{10}}, [✓✗] 0\.\d{{3}}: {state}", alt)
               for _, alt in shown)  # fmt: skip
    for data, _ in shown:
        stored = base64.b64decode(data)
        image = Image.open(io.BytesIO(stored))
        assert max(image.size) <= 256 and not image.getexif() and b"SECRET" not in stored


def test_a_page_has_sixty_pictures_and_says_how_many_examples_it_leaves_out(run, tmp_path):
    path = shutil.copytree(run, tmp_path / "run")
    results = json.loads((path / "results.json").read_text())
    card = {"image": from_records.inline(b"jpeg"), "text": "a report"}
    example = {"evaluator": "retrieval", "query": card, "answers": [card] * 4}
    (path / "results.json").write_text(json.dumps(results | {"gallery": [example] * 12}))
    text = page_of(path)
    retrieved = text.count(f'<img src="{card["image"]}"')
    assert 55 < text.count("<img ") <= 60 and retrieved % 5 == 0
    assert f"{12 - retrieved // 5} more examples are in results.json" in text


def test_a_small_subgroup_gives_no_number_away(text, entry):
    hidden = [name for made in entry["subgroups"].values() for name, group in made["groups"].items()
              if group.get("suppressed")]  # fmt: skip
    assert hidden
    part = text[text.index("By age band") : text.index("Errors to look at")]
    for name in hidden:
        row = part[part.index(f">{name.replace('<', '&lt;').replace('>', '&gt;')}<") :]
        assert "not shown" in row.split("</tr>")[0].replace("&lt;", "<")
        assert not re.search(r"\d\.\d{3}", row.split("</tr>")[0])


def test_predictive_values_follow_from_the_stated_prevalence(text, entry):
    rates = (entry["operating_points"][0][name]["value"] for name in ("sensitivity", "specificity"))
    found, spared = next(rates), next(rates)
    ppv = 0.05 * found / (0.05 * found + 0.95 * (1 - spared))
    npv = 0.95 * spared / (0.95 * spared + 0.05 * (1 - found))
    assert f">{ppv:.3f} / {npv:.3f}<" in text


def test_many_classes_are_shown_as_the_most_frequent_and_others(tmp_path):
    names = tuple(f"class {k}" for k in range(14))
    path = evaluated(tmp_path / "run", 2.0, task="ordinal", count=90, classes=names)
    text = page_of(path)
    table = text[text.index('<table class="matrix many"') :]
    table = table[: table.index("</table>")]
    counts = [int(n) for n in re.findall(r'class="value">(\d+)<', table)]
    assert len(counts) == 13**2 and sum(counts) == 90 and "other" in table
    assert text.count("<li>class ") == 12 and "the farthest off first" in text
    assert "specificity, the 6 most frequent of 14 classes<" in text


def test_records_that_are_not_there_are_said_and_others_are_refused(run, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(run, path)
    file = path / "records" / "probe.parquet"
    table = pq.read_table(file)
    pq.write_table(table.slice(1), file)  # a record less
    with pytest.raises(InputError, match="not of the records that results.json"):
        page_of(path)
    other = {"healthy": "refer", "refer": "healthy"}  # of a model that has the classes exchanged
    names = [
        "_".join((*name.split("_")[:-1], other[name.split("_")[-1]]))
        if name.startswith(("score_", "p_")) else name for name in table.column_names
    ]  # fmt: skip
    exchanged = table.rename_columns(names).replace_schema_metadata(table.schema.metadata)
    pq.write_table(exchanged, file)
    with pytest.raises(InputError, match="has another auc than results.json"):
        page_of(path)
    later = table.schema.metadata | {b"schema": b"retina_jax.records/9"}
    pq.write_table(table.replace_schema_metadata(later), file)
    for asked in (lambda: page_of(path), lambda: files.differences(path)):
        with pytest.raises(InputError, match="records/9: use the version of this library that wro"):
            asked()
    file.unlink()
    with pytest.raises(InputError, match="There are no records in .*probe.parquet: evaluate again"):
        files.differences(path)
    text = page_of(path)
    assert "The file of its records is not here" in text and "Errors to look at" not in text
    assert "Each class" in text  # what results.json has
    beside = page_of(run, path)
    assert "no records beside one of the two, so nothing is tested" in beside


def test_repeats_that_are_rounded_are_of_their_results(tmp_path):
    """The mean of rounded figures is rounded once more, as in published few-shot tables."""
    about = {"classes": ["a", "b"], "metrics": ["balanced_accuracy"], "task": "binary",
             "primary": "balanced_accuracy", "decimals": 3}  # fmt: skip
    rows = Rows({"id": f"{i}", "patient": f"{i}"} for i in range(37))
    for seed in range(6):
        rng = np.random.default_rng(seed)
        labels = np.arange(37) % 2
        parts = [
            predictions.of_records(rows, labels, rng.normal(size=(37, 2)), about,
                                   setting="one", repeat=repeat) for repeat in range(5)
        ]  # fmt: skip
        path = written(tmp_path / f"{seed}", predictions.joined(parts))
        assert "Each class" in page_of(path)


def test_cuts_between_grades_say_why_they_have_no_threshold(tmp_path):
    path = evaluated(tmp_path / "grades", task="ordinal", validation=60)
    text = page_of(path)
    assert "At the threshold" in text and ">at least moderate<" in text
    assert "on validation records</small>" in text and "not chosen for any" not in text
    alone = evaluated(tmp_path / "alone", task="ordinal")
    text = page_of(alone)
    assert "at least severe" in text and ".5 is not chosen for any purpose" in text


def test_scores_of_several_fits_have_no_common_curve(run):
    part = files.read(run / "records" / "probe.parquet").of("")
    assert len(from_records.ranking(part, ())) == 2
    folds = np.arange(len(part.fold)) % 2
    assert from_records.ranking(part.where(folds == 0), ()) != []
    object.__setattr__(part, "fold", folds)
    assert from_records.ranking(part, ()) == []


def test_a_full_disk_names_the_place_and_leaves_the_page(run, text, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("as it was")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(text) // 2, limits[1]))
    try:
        with pytest.raises(InputError, match=f"Cannot write in {tmp_path}: File too large; free"):
            report.write([run], page)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert page.read_text() == "as it was"


def test_what_to_be_wary_of_stands_beside_the_figure(run, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(run, path)
    results = json.loads((path / "results.json").read_text())
    entry = results["evaluations"]["probe"]
    entry |= {
        "classes_predicted": 1,
        "argmax_ties": 9,
        "calibration": {"ece": 0.1, "method": "none"},
    }
    entry["data"] |= {"groups_known": False, "licence": "CC BY-NC 4.0", "split": "validation"}
    entry["size"]["patients"] = None
    results |= {"overlaps": {"probe": "2 of 9"}}
    (path / "results.json").write_text(json.dumps(results))
    (path / "config.json").write_text(
        json.dumps({"streams": {"a": {"dataset": "manifest/clinic"}}})
    )
    (verdict,) = headline.verdicts(records.load(path))
    assert set(verdict.flags) == {
        "few events", "scored on training data", "chosen on these records", "one class predicted",
        "ties of the highest scores", "not calibrated here", "patients unknown", "non-commercial",
    } - ({"few events"} - set(verdict.row.score.tags))  # fmt: skip
    assert verdict.source.startswith("internal")
    assert verdict.size == "240 images, each counted as a patient"
    page = page_of(path)
    assert '<th scope="col">records</th>' in page and '<th scope="col">patients</th>' not in page


@pytest.mark.parametrize(
    ("size", "data", "level", "said"),
    [
        ({"patients": 40, "eyes": 70, "images": 1150}, {"records": 1150}, "image",
         "40 patients / 70 eyes / 1,150 images"),
        ({"patients": 40, "eyes": 70, "images": 700}, {"records": 80}, "image",
         "40 patients / 70 eyes / 80 records / 700 images"),  # volumes
        ({"patients": 40, "eyes": 79, "images": 79}, {"records": 40}, "patient",
         "40 patients / 79 eyes / 79 images"),
        ({"patients": 40, "eyes": None, "images": None}, {"records": 60}, "image",
         "40 patients / 60 records"),
        (None, {"records": 60, "groups": 40}, "image", "40 patients / 60 records"),
        (None, {"records": 40, "groups": 40}, "patient", "40 patients"),
        (None, {"records": 60, "groups": 60, "groups_known": False}, "image",
         "60 records, each counted as a patient"),
        ({"patients": None, "eyes": None, "images": 500},
         {"records": 60, "groups": 60, "groups_known": False}, "image",
         "60 records / 500 images, each record counted as a patient"),
    ],
)  # fmt: skip
def test_n_is_of_patients_eyes_and_images_as_far_as_they_are_known(
    run, tmp_path, size, data, level, said
):
    path = shutil.copytree(run, tmp_path / "run")
    results = json.loads((path / "results.json").read_text())
    entry = {"data": {"groups_known": True, **data}, "level": level}
    results["evaluations"]["probe"] = entry | ({"size": size} if size else {})  # or of older files
    (path / "results.json").write_text(json.dumps(results))
    (verdict,) = headline.verdicts(records.load(path))
    assert verdict.size == said
    assert verdict.numbers == said.replace(", each record counted as a patient", "").replace(
        ", each counted as a patient", "")  # fmt: skip


def _themes():
    """Names and colours, [3] in 0..1, of light and of dark."""
    style = (Path(report.__file__).parent / "page.css").read_text("utf-8")
    light, dark = style.split("@media screen and (prefers-color-scheme: dark)")
    for part in (light, dark[: dark.index("}")]):
        yield {name: np.array([int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)])
               for name, code in re.findall(r"--([\w-]+): #([0-9a-f]{6})", part)}  # fmt: skip


def _contrast(one, other):
    """Of two colours, as WCAG 2.2 has it."""
    bright = [
        np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)
        for c in (one, other)
    ]
    return (max(bright) + 0.05) / (min(bright) + 0.05)


def test_text_and_lines_stand_out_from_the_paper():
    for theme in _themes():
        for name in (
            "ink",
            "muted",
            "accent",
            "right",
            "wrong",
            *(f"series-{i}" for i in range(6)),
        ):
            for ground in ("paper", "raised") if "series" not in name else ("paper",):
                assert _contrast(theme[name], theme[ground]) >= 4.5, (name, ground)
        assert _contrast(theme["ink"], theme["note"]) >= 4.5
        shaded = 0.38 * theme["accent"] + 0.62 * theme["paper"]  # the darkest of a matrix
        assert _contrast(theme["ink"], shaded) >= 4.5
