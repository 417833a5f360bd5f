"""Converts a folder of clinical files to pictures and a manifest, without identifiers.

    head -c 32 /dev/urandom > key
    python -m data_pipelines.clinical --source=DIR --output=DIR --key_file=key
    python -m data_pipelines.build --dataset=manifest --name=NAME --source=DIR

docs/clinical_files.md tells what is read and what comes out.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import sys
from collections.abc import Sequence

import tqdm

from data_pipelines import places
from data_pipelines.clinical import export
from data_pipelines.errors import InputError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--source", required=True, type=places.argument, help="folder of the files")
    parser.add_argument("--output", required=True, type=places.argument, help="folder to make")
    parser.add_argument(
        "--key_file",
        type=places.argument,
        help="secret bytes for the hashes of patients; without it they are unknown",
    )
    parser.add_argument(
        "--override",
        type=places.argument,
        help="CSV with the columns file and eye, believed more than the files",
    )
    parser.add_argument(
        "--allow_burned_in",
        action="store_true",
        help="convert pictures that say they show patient data, too",
    )
    return parser


def _report(summary: export.Summary, output: pathlib.Path, keyed: bool) -> str:
    skipped = sum(summary.skipped.values())
    listed = f", listed in {output / export.SKIPPED}" if skipped else ""
    lines = [
        f"{summary.files:8d} files found",
        f"{summary.converted:8d} converted to {summary.rows} rows of {output / export.MANIFEST}",
        f"{skipped:8d} skipped{listed}",
    ]
    lines += [f"{number:12d} {reason}" for reason, number in sorted(summary.skipped.items())]
    if summary.without_eye:
        lines.append(f"note: {summary.without_eye} rows name no eye; --override can")
    if summary.remarked:
        lines.append(
            f"note: {summary.remarked} rows have remarks, such as what of a file cannot be read"
        )
    if not keyed:
        lines.append("note: without --key_file no patient is known, and splits are by picture")
    lines.append(f"note: {summary.names} names the files behind the hashes: do not pass it on")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status, 2 for what the user can correct and where
    no file at all could be converted."""
    options = _parser().parse_args(arguments)
    bar = functools.partial(tqdm.tqdm, desc="converting", unit=" files", leave=False)
    try:
        key = options.key_file.read_bytes() if options.key_file else None
        summary = export.export(
            options.source, options.output, key, options.override, options.allow_burned_in, bar
        )
        print(_report(summary, options.output, key is not None))
    except (InputError, OSError) as error:
        print(f"clinical: {error}", file=sys.stderr)
        return 2
    return 0 if summary.converted else 2


if __name__ == "__main__":
    sys.exit(main())
