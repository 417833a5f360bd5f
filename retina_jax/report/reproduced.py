"""Tables of a bench of models and of a published table that was made again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from retina_jax.report.records import StageRecord
from retina_jax.report.tables import Cell, PageTable, number, signed, words

Row = Mapping[str, Any]


def tables(stage: StageRecord) -> list[PageTable]:
    """What a stage has of either, in this order."""
    compared, published = stage.beside["comparisons"], stage.beside["reproduction"]
    made = [_bench(compared)] if compared else []
    for protocol in dict.fromkeys(str(row.get("protocol")) for row in published):
        made.append(_published(protocol, [row for row in published if row["protocol"] == protocol]))
    return made


def _bench(rows: Sequence[Row]) -> PageTable:
    """Differences to the first model of each task."""
    heads = ("evaluation", "beside", "primary metric", "value", "difference", "p, Holm")
    made = []
    for row in rows:
        tested = "p_holm" in row
        difference = signed(row["difference"]) if tested else "not tested"
        ends = f"({signed(row['low'])} to {signed(row['high'])})" if tested else row["not_tested"]
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
        saw = f"theirs {row['seen_test_set']}, ours {row['own_seen_test_set']}"
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
