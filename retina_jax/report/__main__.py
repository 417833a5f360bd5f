"""python -m retina_jax.report WORKDIR [WORKDIR ...] [--output page.html] [--recompute]"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data_pipelines import stores
from data_pipelines.errors import InputError
from retina_jax import report
from retina_jax.report import trackers
from retina_jax.scoring import records


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page and prints its path.

    Args:
      arguments: the command line without the program's name; None takes it from `sys.argv`.

    Returns:
      The exit status: 0; 1 where figures do not follow from the records; or 2 after one sentence
      about what is wrong with the input.
    """
    options = _parser().parse_args(arguments)
    try:
        runs = [stores.near(run, "WORKDIR", skip=("checkpoints",)) for run in options.workdir]
        if options.recompute:
            return _recompute(runs)
        if options.subgroup:
            print("\n\n".join(report.subgroups(run, options.subgroup) for run in runs))
            return 0
        _write(runs, options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m retina_jax.report", description=report.__doc__)
    parser.add_argument("workdir", nargs="+", help="work directory of a run")
    parser.add_argument(
        "--output",
        help="default: report.html in WORKDIR; of several runs, comparison.html here",
    )  # fmt: skip
    parser.add_argument(
        "--common", type=float, nargs="?", const=0.95, metavar="SHARE",
        help="compare runs of other test sets on the records that both have, if these are at least "
        "this share of the smaller set (0.95 unless it is given)",
    )  # fmt: skip
    parser.add_argument(
        "--decision", default="",
        help="what a probability of two classes decides, 'refer' for instance: draws the curve of "
        "its net benefit",
    )  # fmt: skip
    parser.add_argument(
        "--model", metavar="FOLDER",
        help="the folder of the model that the run was converted to: its card and what it adds to "
        "the checklist stand on the page",
    )  # fmt: skip
    parser.add_argument(
        "--subgroup", action="append", metavar="FIELD",
        help="write no page, but print the primary metric in the subgroups of this field; again "
        "for another field",
    )  # fmt: skip
    parser.add_argument(
        "--recompute", action="store_true",
        help="write no page, but compute all figures from the records and compare results.json",
    )  # fmt: skip
    for tracker, of in (("mlflow", "experiment"), ("wandb", "project")):
        parser.add_argument(
            f"--{tracker}", nargs="?", const="retina_jax", metavar=of.upper(),
            help=f"also log the scores, results.json and the page as a new run of {tracker}, in "
            f"this {of} ('retina_jax' unless it is given)",
        )  # fmt: skip
    return parser


def _write(runs: Sequence[Path], options: argparse.Namespace) -> None:
    """Writes the page, prints where it is, and hands it to the trackers that are asked for."""
    asked = {name: getattr(options, name) for name in trackers.TRACKERS if getattr(options, name)}
    for name in asked:
        if len(runs) > 1:
            raise InputError(f"--{name} logs one run; name one WORKDIR.")
        trackers.imported(name)
    model = stores.near(options.model, "--model") if options.model else None
    alone = f"{options.workdir[0].rstrip('/')}/report.html" if len(runs) == 1 else None
    output = options.output or alone or "comparison.html"
    if stores.is_address(output) and not output.endswith(".html"):
        raise InputError(f"--output is {output}; a page is named NAME.html.")
    with stores.delivered(output, "--output", replace=True) as page:
        report.write(runs, page, common=options.common, decision=options.decision, model=model)
        for name, project in asked.items():
            trackers.log(name, project, runs[0], page)
    print(output if stores.is_address(output) else page)


def _recompute(folders: Sequence[Path]) -> int:
    """0 where the figures of all folders follow from their records; else 1, after a list."""
    found = [f"{folder}: {what}" for folder in folders for what in records.differences(folder)]
    print("\n".join(["These do not follow from the records:", *found]) if found else (
        "All figures follow from the records, bit by bit."))  # fmt: skip
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
