"""What a wheel has: all modules, the configs, and the data that they read."""

import importlib.util
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from runs import ROOT

from retina_jax import __main__
from retina_jax.__main__ import PROGRAMS

PACKAGES = ("retina_jax", "data_pipelines")


def files(folder: Path, *tops: str) -> set[str]:
    """Relative paths of the files below some folders of a folder."""
    found = (path for top in tops for path in (folder / top).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix() for path in found if path.suffix != ".pyc"}


def test_a_wheel_has_every_file_of_the_packages_and_the_configs(installed):
    configs = {f"retina_jax/{name}" for name in files(ROOT, "configs")}
    assert files(installed, *PACKAGES) == files(ROOT, *PACKAGES) | configs
    assert files(installed, "configs") == files(ROOT, "configs")  # for imports of older files
    assert {path.name for path in installed.iterdir()} == {*PACKAGES, "configs"}
    for kind in ("assets/bilingual.model", "prompts/cfp.json", "page.html", "registry.json"):
        assert any(name.endswith(kind) for name in files(installed, *PACKAGES)), kind


@pytest.mark.fast
def test_each_program_is_a_module_that_runs():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    assert scripts == {"retina-jax": "retina_jax.__main__:main"}
    for module, _ in PROGRAMS.values():
        found = importlib.util.find_spec(module)
        inner = [f"{module}.__main__"] if found.submodule_search_locations else [module]
        (path,) = (importlib.util.find_spec(name).origin for name in inner)
        assert 'if __name__ == "__main__":' in Path(path).read_text("utf-8"), module


@pytest.mark.fast
def test_a_program_begins_again_with_huge_pages_once(monkeypatch):
    begun = []
    monkeypatch.setattr(os, "execve", lambda *given: begun.append(given))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "retina_jax", "train", "--help"])
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    __main__._with_huge_pages()
    ((program, arguments, variables),) = begun
    assert program == sys.executable and arguments[1:] == ["-m", "retina_jax", "train", "--help"]
    assert variables["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    __main__._with_huge_pages()
    assert len(begun) == 1


def test_a_config_works_in_any_folder_and_needs_no_accelerator(installed, tmp_path):
    """The shipped ones by name, and a copy of one that was edited."""
    own = (installed / "retina_jax" / "configs" / "fundus_oct_cloob.py").read_text("utf-8")
    (tmp_path / "mine.py").write_text(own.replace("30.0", "20.0"), encoding="utf-8")
    code = (
        "import sys, retina_jax\n"
        "from retina_jax import config_files\n"
        "for name in config_files.names():\n"
        "    retina_jax.get_config(name)\n"
        "made = retina_jax.get_config('mine.py:smoke')\n"
        "assert made['objectives']['contrastive']['inv_tau'] == 20.0\n"
        "print(config_files.FOLDER, 'jax' in sys.modules, 'ml_collections' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(installed)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split() == [
        str(installed / "retina_jax" / "configs"), "False", "False"
    ], done.stderr  # fmt: skip
