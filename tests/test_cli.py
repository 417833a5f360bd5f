"""A mistake on the command line ends with one sentence and status 2, never with a traceback."""

from __future__ import annotations

import pytest
from runs import command_lines, python

CONFIG = "--config=configs/flair.py:smoke"
MISTAKES = {
    (CONFIG, "--config.sed=1"): "The config has no option 'sed'. It accepts: model, streams, ",
    (CONFIG, "--config.model.dmi=1"): "'dual' has no option 'dmi'. It accepts: towers, dim, ",
    (CONFIG, "--config.nothing.dim=1"): "The config has no option 'nothing'. It accepts: model, ",
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


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """{(module, arguments): (status, stdout, stderr)} of all mistakes."""
    folder = tmp_path_factory.mktemp("command_lines")
    # A mistake that is not noticed must not train in the user's own folder.
    lines = [(module, (f"--workdir={folder}/run", *arguments)) for module, arguments in CASES]
    return dict(zip(CASES, command_lines(lines, folder), strict=True))


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
