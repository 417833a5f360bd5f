"""What the page of a published table says beside our figures."""

import json
import re

from evaluated_runs import page_of, run

from retina_jax.reproduction import running, tables
from retina_jax.types import Results, Score


def test_each_published_figure_stands_beside_ours(tmp_path):
    table = tables.load("keepfit_v1_zero_shot")
    score = Score(0.9, low=0.8, high=0.935, count=400)
    results = {cell.experiment: Results({cell.metric: score}) for cell in table.cells}
    results["25_REFUGE"] = Results({})  # nothing of ours
    path = run(tmp_path / "out")
    written = json.loads((path / "results.json").read_text())
    made = running.rows(table, results, clean=False)
    older = {**made[0], "set": "older", "seen_test_set": False, "own_seen_test_set": True}
    written["reproduction"] = [*made, older, {"set": "odd"}, "text"]
    (path / "results.json").write_text(json.dumps(written))
    page = page_of(path)
    shown = page[page.index("Published figures beside ours, as published") :]
    rows = [
        re.findall(r'<span class="(?:text|value)">([^<]*)', row)
        for row in shown[: shown.index("</table>")].split("<tr>")
    ]
    assert ["08_ODIR200x3", "balanced accuracy", "KeepFIT+MM", "0.812", "0.900", "+0.088", "yes",
            "theirs yes, ours unknown"] in rows  # fmt: skip
    assert [row[-1] for row in rows if row[:1] == ["older"]] == ["theirs unknown, ours yes"]
    assert "odd" not in shown[: shown.index("</table>")]
    none = [row for row in rows if row[:3] == ["25_REFUGE", "auc", "FLAIR"]]
    assert [row[4:7] for row in none] == [["not defined", "not defined", "not defined"]]
