"""Who may import whom. The picture of it is in docs/architecture.md."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A unit is a module or package directly below retina_jax; '' is retina_jax/__init__.py itself.
# A unit may import units of lower layers, and itself.
LAYERS = {"main": 9, "evaluate": 9, "aot": 9, "convert.__main__": 9, "predict": 9, "embed": 9,
          "reproduce": 10, "reproduction": 9,
          "saliency.__main__": 9, "saliency": 8, "experiment": 8, "loading": 8, "exporting": 8,
          "classifier": 7, "prediction": 7, "classifier_task": 1,
          "couplings": 6, "cli": 6, "compiled": 5, "trained": 6, "evals": 6, "report": 6,
          "origins": 6, "train": 5, "adapters": 5, "convert": 5, "objectives": 4, "losses": 3,
          "metrics": 3, "scoring": 4, "models": 3, "inputs": 4, "types": 2, "settings": 1,
          "evaluation_presets": 1, "renamed": 1, "starts": 1, "record": 2, "distributed": 1,
          "decision": 1, "out_of_distribution": 2,
          "build": 0, "presets": 0, "config_files": 0, "": 0}  # fmt: skip
# Down the layers, yet forbidden: objectives see outputs by name.
FORBIDDEN = {("objectives", "models")}
# Up the layers, yet allowed: only when an attribute of the package is asked for.
LAZY = {("", "loading"), ("", "config_files")}
ACCELERATED = {"jax", "jaxlib", "flax", "optax", "orbax", "retina_jax", "clu"}
READS_CONFIGS = {"main", "evaluate", "aot", "cli", "experiment"}


def modules(package: str) -> Iterator[tuple[str, ast.Module]]:
    """Dotted name and syntax tree of every module of a package of this repository."""
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield name, ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(name: str, tree: ast.Module, is_package: bool = False) -> set[str]:
    """What a module imports anywhere, in functions too: dotted names, `from a import b` as a.b."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = name.split(".")[: None if is_package else -1]
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def unit(dotted: str) -> str:
    """The unit of a module (or of a name in one) of retina_jax."""
    inner = dotted.split(".")[1:]
    if ".".join(inner[:2]) in LAYERS:
        return ".".join(inner[:2])
    if inner and inner[0].startswith("__"):  # retina_jax.__version__
        return ""
    return inner[0] if inner else ""


def violations(name: str, tree: ast.Module, is_package: bool = False) -> list[str]:
    """Sentences about the imports of a module of retina_jax that do not go down."""
    own, found = unit(name), []
    if own not in LAYERS:
        return [f"{name}: '{own}' has no layer; give it one in {Path(__file__).name}"]
    for target in sorted(imported(name, tree, is_package)):
        top = target.split(".")[0]
        if top == "configs":
            found.append(f"{name} imports {target}: configs are data, imported by nobody")
        if top == "ml_collections" and own not in READS_CONFIGS:
            found.append(f"{name} imports {target}: only experiment reads configs")
        if own == "metrics" and top in ("jax", "flax"):
            found.append(f"{name} imports {target}: metrics are numpy")
        if top != "retina_jax" or unit(target) == own or (own, unit(target)) in LAZY:
            continue
        if unit(target) not in LAYERS:
            found.append(f"{name} imports {target}: '{unit(target)}' has no layer")
        elif LAYERS[unit(target)] >= LAYERS[own] or (own, unit(target)) in FORBIDDEN:
            found.append(f"{name} ({LAYERS[own]}) imports {target} ({LAYERS[unit(target)]})")
    return found


@pytest.mark.fast
def test_imports_of_retina_jax_go_down():
    found = [
        sentence
        for name, tree in modules("retina_jax")
        for sentence in violations(name, tree, (ROOT / name.replace(".", "/")).is_dir())
    ]
    assert not found, "\n".join(found)


@pytest.mark.fast
def test_the_picture_of_it_is_this_one():
    told = {}
    for line in (ROOT / "docs/architecture.md").read_text(encoding="utf-8").splitlines():
        if row := re.match(r"\| (\d+) \| ([^|]+) \|", line):
            told |= dict.fromkeys(re.findall(r"`([^`]+)`", row[2]), int(row[1]))
    assert told == {unit: layer for unit, layer in LAYERS.items() if unit}


@pytest.mark.fast
def test_data_pipelines_knows_no_accelerator():
    found = [
        f"{name} imports {target}"
        for name, tree in modules("data_pipelines")
        for target in imported(name, tree, (ROOT / name.replace(".", "/")).is_dir())
        if target.split(".")[0] in ACCELERATED | {"configs"}
    ]
    assert not found, "\n".join(found)


def test_configs_are_data():
    """So that a config works wherever it is copied to, and presets are as light as it is."""
    presets = {f"retina_jax.{name}" for name in ("presets", "evaluation_presets", "starts")}
    standard = {"__future__", "collections", "dataclasses", "fnmatch", "importlib", "typing"}
    read = [*modules("configs"), *(m for m in modules("retina_jax") if m[0] in presets)]
    found = [
        f"{name} imports {target}"
        for name, tree in read
        for target in imported(name, tree)
        if target not in presets | {"retina_jax"} and target.split(".")[0] not in standard
    ]
    assert not found, "\n".join(found)


def test_every_package_is_packaged():
    """Without an __init__.py a folder works in a checkout and is missing once installed."""
    folders = {
        path.parent
        for package in ("retina_jax", "data_pipelines")
        for path in (ROOT / package).rglob("*.py")
    }
    assert [str(f) for f in sorted(folders) if not (f / "__init__.py").is_file()] == []


@pytest.mark.parametrize(("name", "source"),
                         [("retina_jax.train.loop", "from retina_jax import evals"),
                          ("retina_jax.train.loop",
                           "def f():\n    import retina_jax.evals.encoder"),
                          ("retina_jax.models.dual", "from retina_jax.losses import contrastive"),
                          ("retina_jax.models.dual", "from ..losses import contrastive"),
                          ("retina_jax.objectives.terms", "from retina_jax.models import MODELS"),
                          ("retina_jax.evals.encoder", "from retina_jax.report import write"),
                          ("retina_jax.evals.encoder", "import ml_collections"),
                          ("retina_jax.metrics.auc", "import jax.numpy as jnp"),
                          ("retina_jax.main", "from configs import flair"),
                          ("retina_jax.main", "from retina_jax import stray"),
                          ("retina_jax.stray", "")])  # fmt: skip
def test_the_check_sees(name, source):
    assert violations(name, ast.parse(source))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("retina_jax.train.loop", "from retina_jax.train import step\nfrom . import meter"),
        ("retina_jax.evals.finetune", "from retina_jax.train.step import compose"),
        ("retina_jax.report.page", "import retina_jax\nfrom retina_jax import __version__"),
        ("retina_jax.convert.__main__", "from retina_jax.experiment import build_all"),
        ("retina_jax.losses.contrastive", "import jax\nfrom retina_jax.types import Array"),
    ],
)
def test_the_check_lets_pass(name, source):
    assert violations(name, ast.parse(source)) == []


# TensorBoard's writer imports PyTorch where it is installed, so both are hidden, not looked for.
_HIDE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "tensorflow"):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, Hidden())
"""


def _in_a_fresh_process(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _HIDE + code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# Programs define flags of the same names, so they cannot be imported together.
_REPORT = """
bridge = sys.modules.get("jax._src.xla_bridge")
print(bool(bridge and bridge.backends_are_initialized()))
"""


@pytest.mark.fast
def test_importing_everything_touches_no_device_and_needs_no_other_framework():
    code = (
        "import importlib, pkgutil, retina_jax, data_pipelines\n"
        "programs = ('.main', '.evaluate', '.aot', '.predict', '.embed', '__main__')\n"
        "for package in (retina_jax, data_pipelines):\n"
        "    for found in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        if not found.name.endswith(programs):\n"
        "            importlib.import_module(found.name)\n" + _REPORT
    )
    assert _in_a_fresh_process(code) == "False"


# Each defines flags of its own, so that one process imports one.
@pytest.mark.parametrize("program", ["main", "aot", "predict", "reproduce"])
def test_importing_a_program_touches_no_device(program):
    assert _in_a_fresh_process(f"import retina_jax.{program}\n{_REPORT}") == "False"


def test_importing_data_pipelines_loads_no_jax():
    code = (
        "import sys, data_pipelines.errors, data_pipelines.text.knowledge\n"
        "print('jax' in sys.modules)"
    )
    assert _in_a_fresh_process(code) == "False"
