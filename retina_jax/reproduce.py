"""Published tables again, and many models on one data set.

    python -m retina_jax.reproduce --list
    python -m retina_jax.reproduce keepfit_v1_zero_shot --data=DIR --model=flair --out=OUT
    python -m retina_jax.reproduce bench --data=DIR --out=OUT \\
        --models=flair,retfound,package:efficientnet-lite0

DIR of a table holds its CSV files, from the repositories of FLAIR or MM-Retinal, and the pictures
by the paths in them, or a corpus as its authors hand it on; of `bench` it is a folder of classes or
of a manifest.csv, or the address of a data set. docs/reproduce.md has more.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from absl import flags

from data_pipelines import places
from data_pipelines.errors import InputError
from retina_jax import cli, report
from retina_jax.reproduction import running, tables
from retina_jax.train.writer import write_results

_LIST = flags.DEFINE_bool("list", False, "Print what there is")
_DATA = flags.DEFINE_string("data", None, "Folder of the data, or the address of a data set")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where built data sets lie")
_MODEL = flags.DEFINE_string("model", None, "Folder of a converted model, for a table")
_MODELS = cli.define_list("models", None, "Folders of models, runs or package:NAME, for bench")
_ROWS = cli.define_list("rows", None, "Sets of a table that are run; all by default")
_KNOWLEDGE = flags.DEFINE_string(
    "knowledge", "", "Descriptions of classes of photographs, e.g. FLAIR's dictionary.py"
)
_OUT = flags.DEFINE_string("out", None, "Where results go")
_CLEAN = flags.DEFINE_bool("clean", False, "By patient, each picture once, too")


def _asked(flag: Any) -> Any:
    if not flag.value:
        raise InputError(f"Give --{flag.name}.")
    return flag.value


def _out() -> Path:
    out = places.local(str(_asked(_OUT)), "--out")
    if (out / "config.json").exists():
        raise InputError(f"{out} is the directory of a run: choose another --out.")
    return out


def _write(
    out: Path, name: str, results: Any, about: dict[str, Any], more: dict[str, Any]
) -> None:  # fmt: skip
    path = out / "results.json"
    with places.written(out):
        out.mkdir(parents=True, exist_ok=True)
        write_results(out, name, 0, results, of=about)
        written = json.loads(path.read_text(encoding="utf-8"))
        for row in more.get("comparisons", ()):
            row["test_hash"] = written["evaluations"][row["evaluation"]]["data"]["test_hash"]
        places.write_whole(path, json.dumps({**written, **more}, indent=1))


def bench() -> None:
    """Every model probed and asked by zero-shot on one data set, with paired tests."""
    models, data, out = list(_asked(_MODELS)), str(_asked(_DATA)), _out()
    address = running.address(data, _DATA_DIR.value)
    evaluators = running.bench(models, address, _DATA_DIR.value)
    results = running.run(evaluators, _DATA_DIR.value)
    compared = running.compared(results)
    _write(out, "bench", results, {"models": models, "data": address},
           {"comparisons": [row for row in compared if "reference" in row]})  # fmt: skip
    print(f"{report.summary(out)}\n\nPrimary metrics beside the first model's:")
    for row in compared:
        line = f"{row['evaluation']:32s} {row['metric']:18s} {row['value']:.3f}"
        if "p" in row:
            ends = f"{row['low']:+.3f} to {row['high']:+.3f}"
            line += f"  {row['difference']:+.3f} ({ends}) p {row['p_holm']:.3f}"
        elif "not_tested" in row:
            line += f"  {row['not_tested']}"
        print(line)
    print("Differences are to the first of each task, on the same patients, with 95 % intervals; p "
          "is Holm's.")  # fmt: skip
    print(f"Results: {out / 'results.json'}")


def table(name: str) -> None:
    """One published table for one model."""
    chosen = tables.load(name)
    if _ROWS.value:
        chosen = tables.of_sets(chosen, list(_ROWS.value))
    model, root = str(_asked(_MODEL)), places.local(str(_asked(_DATA)), "--data")
    own, out = running.release(model, chosen.hashed), _out()
    print(f"{chosen.about}\nSource: {chosen.source}")
    for defect in chosen.defects:
        print(f"Known: {defect}")
    how = (model, root, _DATA_DIR.value, _CLEAN.value)
    results, blocks = running.reproduced(chosen, *how, own=own, described=_KNOWLEDGE.value)
    about = {"table": name, "model": model, "release": own or None,
             "knowledge": _KNOWLEDGE.value or None}  # fmt: skip
    found = [{"table": name, **row} for block in blocks for row in block]
    _write(out, name, results, about, {"reproduction": found})
    for block in blocks:
        print(f"\n{block[0]['protocol'].capitalize()}:\n{running.lines(block)}")
    print(f"Results: {out / 'results.json'}")


def main(arguments: list[str]) -> None:
    """Runs what is asked for."""
    if _LIST.value or len(arguments) != 2:
        for name in tables.names():
            print(f"{name:24s} {tables.load(name).about}")
        print(f"{'bench':24s} many models on a data set of yours")
        if not _LIST.value:
            raise InputError("Name one of these tables, or bench.")
        return
    if arguments[1] == "bench":
        bench()
    else:
        table(arguments[1])


if __name__ == "__main__":
    cli.run(main, inputs=True)
