"""Each row of the ledger names tests that exist."""

import ast
import re

import pytest
from runs import ROOT

LEDGER = ROOT / "docs" / "fidelity.md"
ROWS = [
    [cell.strip() for cell in line.strip("| \n").split(" | ")]
    for line in LEDGER.read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| fact")
]


def defined_in(path):
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def named_tests(cell):
    path = None
    for found in re.findall(r"(tests/[\w/]+\.py)?::(test_\w+)", cell):
        path = found[0] or path
        yield path, found[1]


def test_the_ledger_has_rows():
    assert len(ROWS) > 25


@pytest.mark.parametrize("row", ROWS, ids=[row[0][:60] for row in ROWS])
def test_a_row_has_a_fact_a_default_an_option_and_tests(row):
    assert len(row) == 4 and all(row)
    named = list(named_tests(row[3]))
    assert named or row[3] == "-"
    for path, name in named:
        assert name in defined_in(path), f"{path} has no {name}"
