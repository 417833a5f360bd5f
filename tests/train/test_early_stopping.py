"""When training ends before its total, and why what is kept is kept."""

import json

import pytest

from retina_jax.settings import Keep
from retina_jax.train import early_stopping

pytestmark = pytest.mark.fast

KEEP = Keep(best="eval/validation/auc", patience=2)


@pytest.mark.parametrize(("values", "over", "reason"), [
    ([0.5], False, "is the best in"),
    ([0.5, 0.6, 0.6], False, "is the best in"),
    ([0.5, 0.4, 0.6], False, "is the best in"),
    ([0.6, 0.5, 0.6], True, "is the best in"),
    ([None, 0.5, None], False, "is the best in"),
    ([None, 0.5, None, None], True, "is the best in"),
    # Undefined in every evaluation, as for a class that no validation record is of.
    ([None] * 9, False, "is the last: eval/validation/auc is not defined"),
    ([], False, "is the last"),
])  # fmt: skip
def test_what_is_not_defined_ends_no_training(tmp_path, values, over, reason):
    rows = [{"step": step, KEEP.best: value} for step, value in enumerate(values)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = early_stopping.history(tmp_path, KEEP, len(values))
    assert len(found) == len(values) and early_stopping.over(KEEP, found) == over
    assert not early_stopping.over(Keep(best=KEEP.best), found)
    assert early_stopping.reason(tmp_path, KEEP, len(values)).startswith(reason)
