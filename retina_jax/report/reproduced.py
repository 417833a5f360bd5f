"""Tables of a bench of models and of a published table that was made again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from retina_jax.report.records import StageRecord
from retina_jax.report.tables import Cell, PageTable, number, signed, words

Row = Mapping[str, Any]
# What a row has; others were written by something else and are left out.
_OF_BENCH = {"evaluation", "reference", "metric", "value"}
_OF_TABLE = {"set", "metric", "of", "model", "published", "ours", "low", "high", "difference",
             "within", "protocol"}  # fmt: skip


def tables(stage: StageRecord) -> list[PageTable]:
    """What a stage has of either, in this order."""
    compared = [row for row in stage.beside["comparisons"] if _OF_BENCH <= row.keys()]
    published = [row for row in stage.beside["reproduction"] if _OF_TABLE <= row.keys()]
    made = [_bench(compared)] if compared else []
    for protocol in dict.fromkeys(str(row.get("protocol")) for row in published):
        made.append(_published(protocol, [row for row in published if row["protocol"] == protocol]))
    return made


_SAW = (("theirs", "seen_test_set"), ("ours", "own_seen_test_set"))


def _known(saw: Any) -> str:
    """Older rows have True, and False for what is not known."""
    return "yes" if saw in (True, "yes") else "unknown"


def _bench(rows: Sequence[Row]) -> PageTable:
    """Differences to the first model of each task."""
    heads = ("evaluation", "beside", "primary metric", "value", "difference", "p, Holm")
    made = []
    for row in rows:
        tested = "p_holm" in row
        difference = signed(row["difference"]) if tested else "not tested"
        ends = (
            f"({signed(row['low'])} to {signed(row['high'])})"
            if tested
            else str(row.get("not_tested", ""))
        )
        made.append((
            Cell(words(str(row["evaluation"]))), Cell(words(str(row["reference"]))),
            Cell(words(str(row["metric"]))), Cell(number(row["value"])), Cell(difference, ends),
            Cell(number(row.get("p_holm"), "not tested")),
        ))  # fmt: skip
    caption = "Beside the first model, on the same patients, with 95 % intervals"
    return PageTable(caption, heads, tuple(made), texts=3)


def _published(protocol: str, rows: Sequence[Row]) -> PageTable:
    """Each published figure beside ours."""
    heads = ("set", "figure", "published model", "published", "ours", "difference",
             "published within the interval", "saw test pictures")  # fmt: skip
    made = []
    for row in rows:
        ends = f"({number(row['low'])}–{number(row['high'])})" if row["low"] is not None else ""
        saw = ", ".join(f"{whose} {_known(row.get(name))}" for whose, name in _SAW)
        change = row["difference"]
        within = {None: "not defined", True: "yes", False: "no"}[row["within"]]
        made.append((
            Cell(str(row["set"])), Cell(f"{words(str(row['metric']))} {row['of']}".strip()),
            Cell(str(row["model"])), Cell(number(row["published"])),
            Cell(number(row["ours"]), ends),
            Cell("not defined" if change is None else signed(change)), Cell(within), Cell(saw),
        ))  # fmt: skip
    caption = f"Published figures beside ours, {protocol}"
    return PageTable(caption, heads, tuple(made), texts=3)
