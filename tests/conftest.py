"""What all tests share: a processor, a data folder of their own, and the real data where it is."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

# Before JAX is imported anywhere. Tests compile a lot and run little, so they compile quickly.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
).strip()
# One compilation serves all tests and the processes they start.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _CACHE = tempfile.mkdtemp(prefix="compiled-")
    atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where embedded data sets are built during the tests; never the user's own folder."""
    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    os.environ["TFDS_DATA_DIR"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages as a wheel installs them."""
    folder = tmp_path_factory.mktemp("installed")
    base, library = folder / "build", folder / "library"
    base.mkdir()
    build = ("build", f"--build-base={base}", f"--build-lib={library}")
    subprocess.run(
        [sys.executable, "setup.py", "-q", "egg_info", f"--egg-base={base}", *build],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    return library


@pytest.fixture(scope="session")
def retina_data() -> Path:
    """The folder of real retinal images: RETINA_DATA, or shared/data beside the repository."""
    folder = Path(os.environ.get("RETINA_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "odir" / "manifest.csv").exists():
        pytest.skip(f"no real retinal data in {folder}; set RETINA_DATA to run this test")
    return folder
