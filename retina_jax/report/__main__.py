"""python -m retina_jax.report WORKDIR [WORKDIR ...] [--output page.html] [--recompute]

Or, in the place of a page, [--common [--common_share 0.95]] or [--subgroup FIELD].
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data_pipelines import places
from data_pipelines.errors import InputError
from retina_jax import report
from retina_jax.report import common
from retina_jax.scoring import records


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page and prints its path.

    Args:
      arguments: the command line without the program's name; None takes it from `sys.argv`.

    Returns:
      The exit status: 0; 1 where figures do not follow from the records; or 2 after one sentence
      about what is wrong with the input.
    """
    parser = argparse.ArgumentParser(prog="python -m retina_jax.report", description=report.__doc__)
    parser.add_argument("workdir", nargs="+", type=places.argument, help="work directory of a run")
    parser.add_argument(
        "--output", type=places.argument, help="default: report.html in the first WORKDIR"
    )
    parser.add_argument(
        "--recompute", action="store_true",
        help="write no page, but compute all figures from the records and compare results.json",
    )  # fmt: skip
    parser.add_argument(
        "--common", action="store_true",
        help="write no page, but compare the runs with the first one on the records that both have",
    )  # fmt: skip
    parser.add_argument(
        "--common_share", type=float, default=0.95,
        help="the least share of the smaller set that has to be common (default 0.95)",
    )  # fmt: skip
    parser.add_argument(
        "--subgroup", action="append", default=[], metavar="FIELD",
        help="write no page, but print the primary metric by this field of the records",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        if options.recompute:
            return _recompute(options.workdir)
        if options.common:
            print("\n".join(common.lines(options.workdir, options.common_share)))
            return 0
        if options.subgroup:
            print("\n\n".join(report.subgroups(run, options.subgroup) for run in options.workdir))
            return 0
        print(report.write(options.workdir, options.output or options.workdir[0] / "report.html"))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _recompute(folders: Sequence[Path]) -> int:
    """0 where the figures of all folders follow from their records; else 1, after a list."""
    found = [f"{folder}: {what}" for folder in folders for what in records.differences(folder)]
    print("\n".join(["These do not follow from the records:", *found]) if found else (
        "All figures follow from the records, bit by bit."))  # fmt: skip
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
