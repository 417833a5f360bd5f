"""A mistake on the command line ends with one sentence and status 2, never with a traceback."""

from __future__ import annotations

import json

import pytest
from runs import python

CONFIG = "--config=configs/flair.py:smoke"
MISTAKES = {
    (CONFIG, "--config.sed=1"): 'the config has no key \'sed\'. Did you mean "seed"',
    (CONFIG, "--config.model.dmi=1"): "the config has no key 'dmi'",
    (CONFIG, "--config.nothing.dim=1"): "the config has no key 'nothing'",
    (CONFIG, "--config.model.dim=wide"): "--config.model.dim=wide: invalid literal for int",
    (CONFIG, "--workdri=x"): "Unknown command line flag 'workdri'. Did you mean: workdir",
    (CONFIG, "smoke"): "'smoke' is no option; the variant of a config is written --config=FILE:V",
    ("--config=configs/flair.py:smok",): "There is no variant 'smok'; choose from demo, smoke",
    ("--config=configs/nowhere.py",): "No such file or directory: 'configs/nowhere.py'",
    ("--config=configs/nowhere.py", "--config.seed=1"): "directory: 'configs/nowhere.py'",
    (): "--config must have a value",
}

CASES = [("retina_jax.main", arguments) for arguments in MISTAKES]
CASES += [("retina_jax.evaluate", arguments) for arguments in list(MISTAKES)[::6]]

# Python and JAX start once; each command line runs in a copy of that process, before any device.
_DRIVER = """
import json, os, runpy, sys, traceback
import retina_jax.experiment, retina_jax.report, retina_jax.train.loop
for number, (module, arguments) in enumerate(json.load(sys.stdin)):
    child = os.fork()
    if not child:
        for stream, descriptor in (("out", 1), ("err", 2)):
            path = f"{sys.argv[1]}/{number}.{stream}"
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
        sys.argv = [module, *arguments]
        status = 0
        try:
            runpy.run_module(module, run_name="__main__")
        except SystemExit as end:
            status = end.code or 0
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with open(f"{sys.argv[1]}/{number}.status", "w") as file:
        file.write(str(status))
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """{(module, arguments): (status, stdout, stderr)} of all mistakes."""
    folder = tmp_path_factory.mktemp("command_lines")
    # A mistake that is not noticed must not train in the user's own folder.
    lines = [(module, (f"--workdir={folder}/run", *arguments)) for module, arguments in CASES]
    done = python("-c", _DRIVER, str(folder), input=json.dumps(lines))
    assert done.returncode == 0, done.stderr

    def read(number: int) -> tuple[int, str, str]:
        status, out, err = (
            (folder / f"{number}.{what}").read_text(encoding="utf-8")
            for what in ("status", "out", "err")
        )
        return int(status), out, err

    return {case: read(number) for number, case in enumerate(CASES)}


@pytest.mark.parametrize(("module", "arguments"), CASES)
def test_a_mistake_is_one_sentence(outcomes, module, arguments):
    status, out, err = outcomes[module, arguments]
    assert (status, out) == (2, ""), err
    assert MISTAKES[arguments] in err
    assert err.count("\n") == 1 and "Traceback" not in err


def test_the_default_folder_names_the_config_and_its_variant():
    """workdir/<config>[-<variant>]: two variants of a config never share a folder."""
    code = (
        "from absl import flags; from ml_collections import config_flags\n"
        "from retina_jax import cli\n"
        "config_flags.DEFINE_config_file('config')\n"
        "for given in ('flair.py:smoke', 'keepfit.py'):\n"
        "    flags.FLAGS(['program', f'--config=configs/{given}'])\n"
        "    print(cli.default_workdir('config').as_posix())\n"
    )
    done = python("-c", code)
    assert done.stdout.split() == ["workdir/flair-smoke", "workdir/keepfit"], done.stderr
