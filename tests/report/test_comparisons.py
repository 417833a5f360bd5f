"""What a page of several runs may say: only what a paired test allows, on the same records."""

import re

import pytest
from evaluated_runs import evaluated, page_of, run, score

from data_pipelines.errors import InputError
from retina_jax.metrics import comparison
from retina_jax.report import records


def test_only_a_tested_difference_of_the_primary_metric_is_bold(tmp_path):
    first, far = evaluated(tmp_path / "a", 0.5), evaluated(tmp_path / "c", 2.5)
    near = evaluated(tmp_path / "b", 0.55, noise=0.5)
    text = page_of(first, near, far)
    # The value and the difference of one run; that of the other is not more than chance.
    bold = re.findall(r'<b class="apart">([^<]+)</b>', text)
    assert len(bold) == 2 and bold[1].startswith("+0.") and text.count("the reference") == 1
    assert "Holm over 2 models" in text and "Not bold does not mean equal" in text
    assert text.count(">p, Holm<") == 1  # the accuracy, which is not tested, has no difference
    parts = [
        text.index(words) for words in ('class="box"', ">p, Holm<", "The runs<", "All figures")
    ]
    assert parts == sorted(parts)


def test_differences_between_other_records_are_not_shown(tmp_path):
    first, same = evaluated(tmp_path / "a", 0.5), evaluated(tmp_path / "b", 0.6, noise=0.1)
    other = evaluated(tmp_path / "c", 2.5, seed=1, count=60)
    text = page_of(first, same, other)
    assert "scored on other records (n 120, n 60, shared 0)" in text
    assert "probe: auc of other records, not compared" in text
    rows = [row for row in text.split("<tr>") if ">c</span>" in row.replace("\n", "")]
    assert rows and all("+" not in row for row in rows)
    unknown = run(tmp_path / "d", scores=[score(), score("auc") | {"evaluator": "probe"}])
    assert "not known to be scored on the same records" in page_of(first, unknown)


def test_runs_without_a_common_record_are_refused(tmp_path):
    first, other = evaluated(tmp_path / "a", 0.5), evaluated(tmp_path / "b", 2.5, seed=1)
    with pytest.raises(InputError, match="no test record in common"):
        page_of(first, other)


def test_shared_records_are_compared_if_they_are_nearly_all(tmp_path):
    first, near = evaluated(tmp_path / "a", 0.5), evaluated(tmp_path / "b", 3, first=3)
    far = evaluated(tmp_path / "c", 3, first=20)
    assert "on the 117 records that both have" in page_of(first, near, common=0.95)
    with pytest.raises(InputError, match="share 100 of 120 records, less than 95%"):
        page_of(first, far, common=0.95)
    assert "on the 100 records that both have" in page_of(first, far, common=0.8)


def test_a_model_that_saw_the_test_set_or_few_patients_are_never_bold(tmp_path):
    first = evaluated(tmp_path / "a", 0.5)
    leaked = evaluated(tmp_path / "b", 2.5, overlaps={"probe": "3 pictures"})
    text = page_of(first, leaked)
    assert 'class="apart"' not in text and "scored on training data" in text
    # Its stage is called as that of the other, so that no option differs.
    assert ">probe.seed<" not in text and "What differs in the configs" not in text
    assert [stage.name for stage in records.load(leaked).stages] == [""]
    few = [evaluated(tmp_path / name, s, count=26) for name, s in (("c", 0), ("d", 9))]
    text = page_of(*few)
    assert 'class="apart"' not in text and "A comparison needs 30 patients" in text


def test_holm_makes_three_runs_harder_than_one(tmp_path, monkeypatch):
    found = [
        evaluated(tmp_path / name, s) for name, s in (("a", 0.5), ("b", 1), ("c", 2), ("d", 3))
    ]
    monkeypatch.setattr(comparison, "p_value", lambda differences: 0.04)
    assert page_of(*found[:2]).count('class="apart"') == 2
    assert page_of(*found).count('class="apart"') == 0
