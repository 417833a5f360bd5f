"""The report page is made from whatever files a run has left, and is safe to open."""

import html.parser
import json
import re

import pytest
from evaluated_runs import line, page_of, run, score

from data_pipelines.errors import InputError
from retina_jax import report
from retina_jax.report import __main__ as command
from retina_jax.report import charts, headline, records
from retina_jax.types import Score

PIXEL = "data:image/png;base64,iVBORw0KGgo="
HOSTILE = '<script>alert("x")</script><img src=http://example.org/x onerror=y>'
VOID = {"meta", "img", "br", "line", "rect", "circle", "path", "use"}


class Checker(html.parser.HTMLParser):
    """Collects the tags and attribute values, and sees that tags are closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.values, self.ids = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.values += [value or "" for _, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def test_page_shows_scores_curves_and_config(tmp_path):
    rows = [line(step, **{"train/examples_per_second": 100.0}) for step in (10, 20, 30)]
    text = page_of(run(tmp_path / "r", rows, [score()], config={"model": {"name": "dual"}}))
    expected = ("a run", "dual", "0.700", "(0.600–0.800)", "600", "20 s", "Research use only")
    for words in expected:
        assert words in text
    assert text.count('class="plot"') == 2 and text.count('class="bar"') == 1
    assert "&#34;name&#34;: &#34;dual&#34;" in text


def test_page_is_wellformed_self_contained_and_repeatable(tmp_path):
    card = {"image": PIXEL, "text": "t"}
    example = {"evaluator": "retrieval", "query": card, "answers": [card | {"correct": True}]}
    path = run(tmp_path / "r", [line(1), line(2)], [score()], [example])
    text = page_of(path)
    parsed = Checker(text)
    assert "script" not in parsed.tags and "link" not in parsed.tags
    loaded = [v for v in parsed.values if re.match(r"(https?:|//|file:)", v)]
    assert [v for v in loaded if not v.startswith("http://www.w3.org/")] == []
    assert "url(" not in re.sub(r"url\(#", "", text)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert "default-src 'none'" in text
    assert page_of(path) == text


def test_other_peoples_text_is_escaped_everywhere(tmp_path):
    card = {"image": None, "text": HOSTILE, "score": 0.5, "correct": False}
    path = run(tmp_path / "r", [line(1, **{f"train/{HOSTILE}$x$": 1.0})],
               [score(HOSTILE, evaluator=HOSTILE)],
               [{"evaluator": HOSTILE, "query": card, "answers": [card]}],
               config={HOSTILE: HOSTILE, "model": {"name": HOSTILE}}, name=HOSTILE)  # fmt: skip
    parsed = Checker(page_of(path, run(tmp_path / "other", config={HOSTILE: 1})))
    assert "script" not in parsed.tags and "img" not in parsed.tags


@pytest.mark.parametrize(
    "image", ["http://example.org/x.png", 'data:image/png;base64,AA" onload="x', "/etc/passwd", 7]
)
def test_only_inline_pictures_are_shown_and_others_are_counted(tmp_path, image):
    example = {"query": {"image": image, "text": "q"}, "answers": []}
    text = page_of(run(tmp_path / "r", gallery=[example]))
    assert "img" not in Checker(text).tags and "1 images are not embedded" in text


def test_right_and_wrong_answers_differ_in_more_than_colour(tmp_path):
    answers = [{"text": "a", "correct": True}, {"text": "b", "correct": False}, {"text": "c"}]
    text = page_of(run(tmp_path / "r", gallery=[{"query": {"text": "q"}, "answers": answers}]))
    assert "✓ right" in text and "✗ wrong" in text and "border-style: dashed" in text
    assert text.count('class="verdict"></span>') == 1


def test_headline_names_models_and_terms_once(tmp_path):
    spec = {"a": {"name": "contrastive"}, "b": {"name": "contrastive"}, "c": {"name": "reference"}}
    config = {"model": {"name": "keepfit", "towers": {"name": "x"}}, "objectives": spec}
    text = page_of(run(tmp_path / "r", [line(1)], config=config))
    assert "keepfit trained with contrastive, reference<" in text


def test_stages_follow_one_another_in_time(tmp_path):
    run(tmp_path / "zeta", [line(10)], [score()], name="zeta")
    run(tmp_path / "alpha", [line(10) | {"time": 2e9}], [score()], name="alpha")
    (tmp_path / "checkpoints").mkdir()
    found = records.load(tmp_path)
    assert [stage.name for stage in found.stages] == ["zeta", "alpha"]
    assert found.name == tmp_path.name
    text = page_of(tmp_path)
    assert text.index("Stage 1: zeta") < text.index("Stage 2: alpha")
    assert [entry["stage"] for entry in report.scores(tmp_path)] == ["zeta", "alpha"]
    # What the run was made for comes first.
    assert [verdict.stage.name for verdict in headline.verdicts(found)] == ["alpha", "zeta"]


def test_figures_stand_in_the_order_of_the_numbers_in_their_names(tmp_path):
    figures = {f"eval/retrieval/recall_at_{k}": 0.5 for k in (10, 5, 1)}
    rows = [line(step, **figures, **{f"train/loss_{step}": 1.0}) for step in (1, 10, 2)]
    text = page_of(run(tmp_path / "r", rows))
    for name in ("recall at ", "loss "):
        found = re.findall(rf'<span(?: class="text")?>[a-z /]*{name}(\d+)</span>', text)
        assert found and found == sorted(found, key=int)


def test_a_half_written_line_is_left_out_and_counted(tmp_path):
    path = run(tmp_path / "r", [line(1), line(2)], tail='{"step": 3, "tra')
    assert len(records.load(path).stages[0].rows) == 2
    assert "1 unreadable line was left out" in page_of(path)


@pytest.mark.parametrize("tail", ["[1, 2]\n", '{"time": 3}\n', "7\n", '{"step": NaN}\n', "\x00\n"])
def test_a_strange_line_is_left_out_and_counted(tmp_path, tail):
    text = page_of(run(tmp_path / "r", [line(1)], tail=tail))
    assert "1 unreadable line was left out" in text


def test_an_evaluation_line_joins_the_training_line_of_its_step(tmp_path):
    rows = [line(1), {"step": 1, "time": 1e9 + 5, "eval/zeroshot/accuracy": 0.5}, line(2)]
    stage = records.load(run(tmp_path / "r", rows)).stages[0]
    assert [row["step"] for row in stage.rows] == [1, 2]
    assert stage.series("train/loss") == ([1, 2], [5.0, 2.5])
    assert stage.series("eval/zeroshot/accuracy") == ([1], [0.5])


def test_values_that_are_not_finite_are_counted(tmp_path):
    path = run(tmp_path / "r", [line(1), line(2) | {"train/loss": None}, line(3, x=float("inf"))])
    assert records.load(path).stages[0].series("train/loss")[0] == [1, 3]
    assert "2 logged values are not finite" in page_of(path)


def test_skipped_steps_are_announced(tmp_path):
    none = page_of(run(tmp_path / "a", [line(1, **{"train/skipped_steps": 0})]))
    some = page_of(run(tmp_path / "b", [line(1, **{"train/skipped_steps": 3})]))
    assert "were skipped" not in none and "3 steps were skipped" in some


def test_wall_time_leaves_out_pauses_but_not_evaluations(tmp_path):
    times = [0, 1, 2, 3, 1003, 1004]
    rows = [line(i + 1) | {"time": 1e9 + t} for i, t in enumerate(times)]
    stage = records.load(run(tmp_path / "a", rows)).stages[0]
    assert stage.seconds == 4 and any("interrupted 1 time" in n for n in stage.notices)
    rows[4]["eval/zeroshot/accuracy"] = 0.5
    assert records.load(run(tmp_path / "b", rows)).stages[0].seconds == 1004


@pytest.mark.parametrize("missing", ["config.json", "metrics.jsonl", "results.json"])
def test_a_missing_file_is_a_notice(tmp_path, missing):
    path = run(tmp_path / "r", [line(1)], [score()])
    (path / missing).unlink()
    assert f"{missing} is not there yet" in page_of(path)


@pytest.mark.parametrize("content", ["{", "[]", "null", '"x"'])
def test_a_broken_results_file_is_a_notice(tmp_path, content):
    path = run(tmp_path / "r", [line(1)])
    (path / "results.json").write_text(content)
    text = page_of(path)
    assert "results.json is not" in text and "No results yet" in text


def test_broken_scores_and_examples_are_counted(tmp_path):
    bad = [score(value="x"), {"metric": "m"}, 3, score(count=float("inf"))]
    text = page_of(run(tmp_path / "r", scores=[score(), *bad], gallery=[3, {"query": {}}]))
    assert "4 of the scores" in text and "2 gallery examples" in text and "0.700" in text


def test_no_run_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no work directory"):
        report.write([tmp_path / "absent"], tmp_path / "x.html")
    with pytest.raises(InputError, match="holds no config.json"):
        report.write([tmp_path], tmp_path / "x.html")
    about = {"format": "retina_jax model", "weights": {}}
    (tmp_path / "config.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="is the folder of a model and holds no results: name the"):
        report.write([tmp_path], tmp_path / "x.html")


def test_a_model_in_the_folder_of_its_run_is_no_stage(tmp_path):
    path = run(tmp_path / "r", [line(1)])
    (path / "model").mkdir()
    (path / "model/config.json").write_text(json.dumps({"format": "retina_jax model"}))
    assert "model/metrics.jsonl" not in page_of(path)


def test_a_page_that_cannot_be_written_is_a_sentence(tmp_path, capsys):
    path = run(tmp_path / "r", [line(1)])
    assert command.main([str(path), "--output=/proc/z.html"]) == 2
    assert "error: Cannot write in /proc: No such file or directory; name another folder." in (
        capsys.readouterr().err
    )


def test_comparison_lists_the_settings_that_differ(tmp_path):
    first = run(tmp_path / "a", [line(1)], [score()], config={"seed": 0, "same": 1}, name="first")
    far = score(value=0.95, low=0.9, high=0.99)
    second = run(tmp_path / "b", [line(1)], [far], config={"seed": 1, "same": 1}, name="second")
    text = page_of(first, second)
    assert text.count('class="bar"') == 2
    rows = text[text.index("<h3>What differs") : text.index("config.json</summary>")]
    assert ">seed</span>" in rows and ">same</span>" not in rows


def test_runs_of_one_name_are_told_apart(tmp_path):
    text = page_of(run(tmp_path / "a", [line(1)]), run(tmp_path / "b", [line(1)]))
    assert f"a run ({tmp_path / 'a'})" in text


def test_undefined_and_chance_like_values_are_named(tmp_path):
    scores = [score("b", value=0.25, low=0.1, high=0.3),
              score("a", value=None, low=None, high=None)]  # fmt: skip
    text = page_of(run(tmp_path / "r", scores=scores))
    assert "not defined" in text and text.count("chance lies within the interval") == 1


def test_command_line(tmp_path, capsys, monkeypatch):
    path = run(tmp_path / "r", [line(1)])
    assert command.main([str(path)]) == 0
    assert capsys.readouterr().out.strip() == str(path / "report.html")
    other = run(tmp_path / "other", [line(1)])
    monkeypatch.chdir(tmp_path)
    assert command.main([str(path), str(other)]) == 0
    assert (tmp_path / "comparison.html").is_file() and not (other / "report.html").exists()
    assert command.main([str(tmp_path / "absent")]) == 2
    assert "no work directory" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["report.html", "results.json"])
def test_no_page_takes_the_place_of_what_a_run_has_written(tmp_path, name):
    first, second = (run(tmp_path / n, [line(1)]) for n in "ab")
    before = (second / "results.json").read_bytes()
    for runs, output in (([first, second], first / name), ([first], second / name)):
        with pytest.raises(InputError, match="take the place of"):
            report.write(runs, output)
    with pytest.raises(InputError, match="take the place of"):
        report.write([first], tmp_path)
    assert not (first / "report.html").exists()
    assert (second / "results.json").read_bytes() == before
    report.write([first], first / "report.html")
    report.write([first, second], first / "beside.html")
    (second / "records").mkdir()
    (second / "records" / "probe.parquet").write_bytes(b"records")
    of_one = report.write([first], tmp_path / "of_one.html")
    page = of_one.read_bytes()
    for runs, output in (([second], second / "records" / "probe.parquet"),
                         ([first, second], of_one)):  # fmt: skip
        with pytest.raises(InputError, match="take the place of"):
            report.write(runs, output)
    assert (second / "records" / "probe.parquet").read_bytes() == b"records"
    assert of_one.read_bytes() == page
    report.write([first, second], tmp_path / "beside.html")
    report.write([second, first], tmp_path / "beside.html")  # a comparison may be made again
    report.write([second], of_one)


def test_terminal_begins_with_primary_metrics_and_has_25_lines_at_most(tmp_path):
    captions = [score(f"bleu_{i}", 0.1) | {"evaluator": "captions"} for i in range(28)]
    scores = [*captions, score("cider_d", 0.5) | {"evaluator": "captions"}, score("auc"),
              score("accuracy"), score("kappa", None), score("x_recall_at_1", 0.2) | {
                  "evaluator": "retrieval"}]  # fmt: skip
    path = run(tmp_path / "r", scores=scores)
    results = json.loads((path / "results.json").read_text())
    results["evaluations"] = {"zeroshot": {"primary": "accuracy", "task": "binary"}}
    (path / "results.json").write_text(json.dumps(results))
    lines = report.summary(path).splitlines()
    assert [line.split()[1] for line in lines[3:6]] == ["accuracy", "x_recall_at_1", "cider_d"]
    assert lines[0] == "a run"
    assert lines[3].split() == ["zeroshot", "accuracy", "0.700", "0.600", "..", "0.800", "0.200",
                                "600", "records"]  # fmt: skip
    assert lines[6] == "" and lines[7].split()[1] == "auc" and lines[8].split()[2] == "-"
    assert len(lines) == 25 and lines[-1].startswith("(13 more figures")
    assert report.summary(run(tmp_path / "none", [line(1)])) == "There are no results."


def test_a_deviation_stands_where_there_is_no_interval(tmp_path):
    drawn = score(value=0.25, low=None, high=None, deviation=0.0312)
    path = run(tmp_path / "r", scores=[drawn])
    row = report.summary(path).splitlines()[3].split()
    assert row[2:6] == ["0.250", "±", "0.031", "0.200"]
    assert "<small>± 0.031</small>" in page_of(path)
    (read,) = records.scores(path)
    assert read["deviation"] == 0.0312 and read["low"] is None


def test_terminal_names_stages_where_there_are_several(tmp_path):
    run(tmp_path / "text", [line(1)], [score()])
    assert "text/" not in report.summary(tmp_path)
    run(tmp_path / "knowledge", [line(2)], [score()])
    found = report.summary(tmp_path)
    assert "text/zeroshot" in found and "knowledge/zeroshot" in found


def test_score_bar_places_chance_interval_and_value():
    svg = charts.score_bar(Score(0.5, 0.25, 0.75, 0.0, 10), (0.0, 1.0))
    centre = float(re.search(r"translate\(([\d.]+) 8\)", svg)[1])
    start, width = (float(re.search(rf'rect.* {k}="([\d.]+)"', svg)[1]) for k in ("x", "width"))
    chance = float(re.search(r'class="chance" d="M([\d.]+) 2', svg)[1])
    assert centre == 75.0 and start + width / 2 == centre and chance == 4.0


@pytest.mark.parametrize(("numbers", "expected"),
                         [([Score(0.5, 0.4, 0.6, 0.2)], (0.0, 1.0)),
                          ([Score(-0.1, -0.2, 0.1, 0.0)], (-1.0, 1.0)),
                          ([Score(6.0, 5.0, 8.0, 300.0)], (0.0, 300.0)),
                          ([Score(6.0)], None)])  # fmt: skip
def test_domain(numbers, expected):
    assert charts.domain(numbers) == expected


def test_long_curves_stay_small_and_keep_their_extremes():
    values = [float(i % 7) / 7 for i in range(20_000)]
    values[10_000] = 9.0
    svg = charts.curves([(0, list(range(20_000)), values)])
    assert len(svg) < 10_000 and svg.count("path") == 2
    tops = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", svg)]
    assert min(tops) < 20  # the band still reaches the spike


def test_a_curve_has_some_of_its_points_in_a_table(tmp_path):
    def numbers(*runs):
        text = page_of(*runs)
        table = text[text.index("<summary>Numbers</summary>") :]
        return re.findall(r"<span[^>]*>\s*([^<]+?)<", table[: table.index("</table>")])

    path = run(tmp_path / "run", [line(step) for step in range(1, 101)])
    found = numbers(path)
    assert len(found) == 20 and found[:2] == ["1", "5"] and found[-2:] == ["100", "0.05"]
    other = run(tmp_path / "other", [line(7, **{"train/once": 2.5})], name="another")
    assert numbers(path, other)[-3:] == ["another", "7", "0.7143"]
    text = page_of(other)  # one value makes no panel
    assert 'class="plot"' not in text and "Logged once</caption>" in text
    assert re.findall(r'<span class="value">([\d.]+)', text)[:2] == ["0.7143", "2.5"]


def test_curves_take_their_colours_from_the_page_and_hold_no_names():
    svg = charts.curves([(0, [1, 2], [1.0, 2.0]), (7, [1], [3.0])], chance=0.5)
    assert 'class="line s0"' in svg and 'class="line s1" stroke-dasharray' in svg
    assert "#" not in svg and "id=" not in svg and 'class="chance"' in svg


@pytest.mark.parametrize(
    ("ends", "expected"),
    [((0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1]), ((-3e-5, 1e-5), [-3e-5, -2e-5, -1e-5, 0, 1e-5]),
     ((0, 20_000), [0, 5000, 10_000, 15_000, 20_000]), ((7, 7.5), [7, 7.1, 7.2, 7.3, 7.4, 7.5])],
)  # fmt: skip
def test_ticks_are_round_and_few(ends, expected):
    assert charts._ticks(*ends, 5) == pytest.approx(expected)
    assert charts._ticks(0, 3, 4, whole=True) == [0, 1, 2, 3]


def test_an_evaluation_is_no_stage_and_can_be_compared_with_its_run(tmp_path):
    run(tmp_path / "knowledge", [line(10)], [score()], name="knowledge")
    (tmp_path / "evaluation").mkdir()
    results = {"name": "untrained", "step": 0, "scores": [score(value=0.3)], "gallery": [],
               "evaluations": {"zeroshot": {"data": {"test_hash": "1"}}}}  # fmt: skip
    (tmp_path / "evaluation" / "results.json").write_text(json.dumps(results))
    results["scores"] = [score()]
    (tmp_path / "knowledge" / "results.json").write_text(json.dumps(results))
    assert [stage.name for stage in records.load(tmp_path).stages] == ["knowledge"]
    alone = page_of(tmp_path / "evaluation")
    assert "not there yet" not in alone and "config.json</summary>" not in alone
    assert "Stage" not in alone and "−0.400" in page_of(tmp_path, tmp_path / "evaluation")


def test_a_score_on_training_data_is_announced(tmp_path):
    path = run(tmp_path / "run", scores=[score()])
    results = json.loads((path / "results.json").read_text())
    results["overlaps"] = {"probe": "2 of the 9 records of odir/default:test are in <b>"}
    (path / "results.json").write_text(json.dumps(results))
    text = page_of(path)
    assert "'probe' was scored on training data" in html.unescape(text)
    assert "records of odir/default:test are in &lt;b&gt;" in text
    results["overlaps"] = ["odd"]
    (path / "results.json").write_text(json.dumps(results))
    assert "scored on training data" not in page_of(path)
