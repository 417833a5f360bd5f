"""Inputs that went wrong once, each run as its own script runs it, where the cases are at hand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from runs import ROOT

from data_pipelines.errors import InputError
from retina_jax.convert import files

CASES = Path(os.environ.get("RETINA_CASES", ROOT.parent / "shared" / "cases"))
# Scripts that only tell what happens: what their output has to say, and what it may not.
TOLD = {
    # It ends with numpy's False, which Python takes for a message and not for 0.
    "03_float_and_12_bit_pictures": (
        r"(?s)int32 TIFF, 12 bits +greatest value after decoding: 255.*tif12\S* volume: greatest "
        "value 255",
        r"greatest value(?: after decoding:)? 1?\d?\d\b",
    ),
    # It imports modules by names of an earlier time, so that only what builds say is read.
    "06_labels_not_understood": ("12 of 24 records have no label", "prompts:"),
    "206_checkpoint_bitflip_silent": (
        r"(?s)convert rc 2; warnings: [1-9].*main goes on from it: rc 0; warnings: 1",
        "warnings: 0",
    ),
    # Its script wants NaN converted with a warning; they are refused unless that is asked for
    # (--allow_nonfinite), so it ends with 1 where five files are converted and that one is not.
    "17_prefixed_and_sharded_safetensors": (
        r"^(\S+: tower of \S+ is now in out\.\n){5}nan\.safetensors: nan\.safetensors has NaN",
        "Traceback",
    ),
    "201_pth_oob_read": ("exit 2", "leak: shape"),
    "202_stale_results": ("rerun rc 0", "BUG"),
    # It says BUG where results differ from those of a fresh folder, also where, as here, the run
    # is refused and so has not made them.
    "203_stage_stale": ("first run rc 0\nfirst stage prolonged: rc 2", "complete at"),
    "204_leak_unrefused": (
        r"(?s)evaluated on test: rc 2.*public\+test: rc 0.*\(a\) evaluate: rc 2.*on test: rc 2",
        "Traceback",
    ),
    "205_one_bad_picture_aborts_build": ("exit 0", r"exit [1-9]|[1-9] traceback"),
    "207_evaluate_labels_fallback": ("", r"True \| step written: 2|[1-9] tracebacks"),
    "208_two_seeds_one_workdir": ("rc 2", "rc 1"),
}
# Scripts that end with 0 where the outcome is right.
JUDGED = sorted({path.parent.name for path in CASES.glob("[01][0-9]_*/run.sh")} - set(TOLD))
# The config that the script of 204 makes out of a text of configs/flair.py which is there no more.
LEAKY = """cat > $W/leaky.py <<'P'
from configs import flair
def get_config(variant):
    config = flair.get_config(variant)
    config["streams"]["public"]["split"], config["evaluators"] = "public+test", {}
    return config
P
"""
WEIGHTS = sorted(str(path) for path in CASES.glob("30[1-4]_*/input.pth"))


def ran(name: str, folder: Path) -> subprocess.CompletedProcess:
    """The script of a case, in this checkout and with this Python."""
    python = Path(sys.executable).parent
    env = {**os.environ, "P": str(ROOT), "PY": sys.executable, "PYTHONPATH": str(ROOT),
           "PATH": f"{python}:{os.environ['PATH']}", "TMPDIR": str(folder)}  # fmt: skip
    script = CASES / name / "run.sh"
    if name.startswith("204"):
        made = re.sub(r"(?s)python - \$W <<'P'\n.*?\nP\n", lambda _: LEAKY, script.read_text())
        assert LEAKY in made
        script = folder / "run.sh"
        script.write_text(made)
    return subprocess.run(["bash", str(script)], cwd=ROOT, env=env, text=True,
                          capture_output=True, timeout=1200, check=False)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", JUDGED)
def test_the_script_finds_the_outcome_right(name, tmp_path):
    done = ran(name, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TOLD if (CASES / name / "run.sh").is_file()])
def test_what_the_script_tells_is_right(name, tmp_path):
    done, (wanted, unwanted) = ran(name, tmp_path), TOLD[name]
    assert re.search(wanted, done.stdout) and not re.search(unwanted, done.stdout), done.stdout


@pytest.mark.parametrize("path", WEIGHTS, ids=lambda path: Path(path).parent.name)
def test_damaged_weights_are_refused_at_once_in_one_line(path):
    with pytest.raises(InputError) as error:
        files.read_tensors(Path(path))
    assert "\n" not in str(error.value)
