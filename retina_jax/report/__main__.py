"""python -m retina_jax.report WORKDIR [WORKDIR ...] [--output page.html]"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from data_pipelines import places
from data_pipelines.errors import InputError
from retina_jax import report


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page and prints its path.

    Args:
      arguments: the command line without the program's name; None takes it from `sys.argv`.

    Returns:
      The exit status: 0, or 2 after one sentence about what is wrong with the input.
    """
    parser = argparse.ArgumentParser(prog="python -m retina_jax.report", description=report.__doc__)
    parser.add_argument("workdir", nargs="+", type=places.argument, help="work directory of a run")
    parser.add_argument(
        "--output", type=places.argument, help="default: report.html in the first WORKDIR"
    )
    options = parser.parse_args(arguments)
    try:
        print(report.write(options.workdir, options.output or options.workdir[0] / "report.html"))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
