"""A mistake on the command line ends with one sentence and status 2, never with a traceback."""

import asyncio
import re
import sys
import types

import pytest
from absl import flags
from runs import program

from retina_jax import cli

CONFIG = "--config=configs/flair.py:smoke"
MISTAKES = {
    (CONFIG, "--config.sed=1"): "The config has no option 'sed'. It accepts: model, streams, ",
    (CONFIG, "--config.model.dmi=1"): "'dual' has no option 'dmi'. It accepts: towers, dim, ",
    (CONFIG, "--config.nothing.dim=1"): "The config has no option 'nothing'. It accepts: model, ",
    (CONFIG, "--config.model.dim=wide"): "--config.model.dim=wide: invalid literal for int",
    (CONFIG, "--workdri=x"): "Unknown command line flag 'workdri'. Did you mean: workdir",
    (CONFIG, "smoke"): "'smoke' is no option; the variant of a config is written --config=FILE:V",
    ("--config=configs/flair.py:smok",): "There is no variant 'smok'; choose from full, scratch, d",
    ("--config=configs/nowhere.py",): "No such file or directory: 'configs/nowhere.py'",
    ("--config=configs/nowhere.py", "--config.seed=1"): "directory: 'configs/nowhere.py'",
    ("--config=flare:smoke",): "no config 'flare' among classifier, contrastive_generative, ",
    (): "--config must have a value",
}

CASES = [("retina_jax.main", arguments) for arguments in MISTAKES]
CASES += [("retina_jax.evaluate", arguments) for arguments in list(MISTAKES)[::6]]
# The same by the command `retina-jax`.
COMMANDS = [("retina_jax", ("train", "--config=flare:smoke")), ("retina_jax", ("tain",)),
            ("retina_jax", ("--help",))]  # fmt: skip


@pytest.mark.parametrize(("module", "arguments"), CASES)
def test_a_mistake_is_one_sentence(module, arguments, tmp_path):
    # A mistake that is not noticed must not train in the user's own folder.
    done = program(module, f"--workdir={tmp_path}/run", *arguments)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert MISTAKES[arguments] in done.stderr
    # Besides what a start tells, with its time.
    told = [line for line in done.stderr.splitlines() if not re.match(r"\d\d:\d\d:\d\d ", line)]
    assert len(told) == 1 and "Traceback" not in done.stderr


def test_the_command_runs_the_programs_it_names():
    outcomes = (program(module, *arguments) for module, arguments in COMMANDS)
    train, misspelt, help_text = ((run.returncode, run.stdout, run.stderr) for run in outcomes)
    same = program("retina_jax.main", "--config=flare:smoke")
    assert train == (same.returncode, same.stdout, same.stderr)
    assert misspelt[:2] == (2, "") and "no program 'tain'; it has train, evaluate" in misspelt[2]
    assert help_text[0] == 0 and "  train " in help_text[1] and "  prepare " in help_text[1]


def test_only_an_event_loop_that_was_ended_is_silent(capsys):
    """On a full disk each array of a checkpoint would be a traceback, before the sentence."""
    loop = asyncio.new_event_loop()
    loop.close()
    with pytest.raises(RuntimeError) as closed:
        loop.call_soon_threadsafe(print)
    trace = closed.value.__traceback__
    assert trace is not None
    # Threads in C++ have no frames of ours.
    cli._in_a_library(RuntimeError, closed.value, trace.tb_next)
    assert capsys.readouterr().err == ""
    cli._in_a_library(RuntimeError, closed.value, trace)
    assert "Event loop is closed" in capsys.readouterr().err


def test_only_reads_that_were_given_up_are_silent(monkeypatch):
    """Of a damaged checkpoint each array would be a traceback, on a full disk each write."""

    async def read():
        pass

    told, coroutine = [], read()
    coroutine.close()
    monkeypatch.setattr(sys, "__unraisablehook__", told.append)
    loop = asyncio.new_event_loop()
    loop.close()
    with pytest.raises(RuntimeError, match="closed") as closed:  # as threads in C++ call it
        loop.call_soon_threadsafe(print)
    inside = closed.value.__traceback__.tb_next  # without the frame of this test
    given_up, ended, other = (
        types.SimpleNamespace(object=what, exc_traceback=trace)
        for what, trace in ((coroutine, None), (None, inside), (print, closed.value.__traceback__))
    )
    for ignored in (given_up, ended, other):
        cli._given_up(ignored)
    assert told == [other]


def test_the_default_folder_names_the_config_and_its_variant():
    """workdir/<config>[-<variant>]: two variants of a config never share a folder."""
    code = (
        "from absl import flags\n"
        "from retina_jax import cli\n"
        "cli.define_config('config', '')\n"
        "for given in ('configs/flair.py:smoke', 'flair:smoke', 'configs/keepfit.py'):\n"
        "    flags.FLAGS(['program', f'--config={given}'])\n"
        "    print(cli.default_workdir('config').as_posix())\n"
    )
    done = program("-c", code)
    assert done.stdout.split() == [
        "workdir/flair-smoke", "workdir/flair-smoke", "workdir/keepfit"
    ], done.stderr  # fmt: skip


@pytest.mark.parametrize(("module", "options"), [
    ("retina_jax.predict", ("--classes", "--column", "--model", "--out", "--overwrite")),
    ("retina_jax.main", ("--config", "--workdir")),
])  # fmt: skip
def test_help_has_the_options_that_programs_share(module, options):
    told = program(module, "--help").stdout
    assert [name for name in options if not re.search(rf"^  {name}:|^  --\[no\]{name[2:]}:",
                                                      told, re.MULTILINE)] == []  # fmt: skip


@pytest.mark.parametrize("given", [["--keep=Alter,Diagnose"], ["--keep=Alter", "--keep=Diagnose"]])
def test_words_come_in_one_option_or_in_several(given):
    known = flags.FlagValues()
    cli.define_list("keep", [], "Columns", known)
    assert known(["predict", *given]) == ["predict"]
    assert known["keep"].value == ["Alter", "Diagnose"]
