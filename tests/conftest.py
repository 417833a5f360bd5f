"""What all tests share: a processor, a data folder of their own, and the real data where it is."""

import functools
import importlib.metadata
import json
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

# Before JAX is imported anywhere. Tests compile a lot and run little, so they compile quickly.
_QUICKLY = ["--xla_backend_optimization_level=0"]
_JAX = importlib.metadata.version("jaxlib")
if _JAX.startswith("0.10."):  # XLA ends a process that has an option it does not know
    _QUICKLY.append("--xla_cpu_use_fusion_emitters=false")  # half the time
    _QUICKLY.append("--xla_cpu_parallel_codegen_split_count=1")  # a quarter less again
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Set, it keeps `retina-jax` from beginning again: programs of tests are forks of one process.
os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_QUICKLY]).strip()
_CACHES = Path(__file__).parent / ".cache"
if sys.dont_write_bytecode:  # every program would compile all that it imports, for 9 seconds
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(_CACHES / "bytecode")
# One compilation serves all tests, the processes they start, and the next time they run.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_CACHES / f"jax-{_JAX}")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import quick_tracing  # noqa: E402, F401
import runs  # noqa: E402

ROOT = runs.ROOT
# The longest modules, in order: the short ones then fill both workers to the end.
_LONG = (
    "test_keepfit_training", "test_configs", "test_microbatch", "test_sharding", "test_retclip",
    "test_configs_captioner", "test_multiprocess", "test_notebooks", "test_resume", "test_coca_mim",
    "test_configs_keepfit", "test_layers", "test_benchmarks", "test_bad_input", "test_wheel",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Starts with the longest modules."""
    both = [item.nodeid for item in items
            if item.get_closest_marker("slow") and item.get_closest_marker("fast")]  # fmt: skip
    if both:
        raise pytest.UsageError(f"A fast test is never slow: {both}.")
    rank = {name: place for place, name in enumerate(_LONG)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


def pytest_configure(config: pytest.Config) -> None:
    """Forgets programs that no test has needed for two weeks."""
    if not hasattr(config, "workerinput"):
        old = time.time() - 14 * 24 * 3600
        for entry in _CACHES.rglob("*"):
            if entry.is_file() and entry.stat().st_atime < old:
                entry.unlink()


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this session that all its workers have."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session", autouse=True)
def data_folder(shared_folder: Path) -> Path:
    """Where embedded data sets are built during the tests; never the user's own folder."""
    folder = shared_folder / "tensorflow_datasets"
    folder.mkdir(exist_ok=True)
    os.environ["TFDS_DATA_DIR"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def smoke_run(shared_folder: Path) -> Callable[[str], runs.SmokeRun]:
    """Function of a config's name: its `:smoke` run, trained once for all tests."""
    return functools.cache(lambda name: runs.smoke_run(name, shared_folder))


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages as a wheel installs them."""
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "configs", "retina_jax", "data_pipelines"):
        (source / name).symlink_to(ROOT / name)
    # Of the project's own table an older setuptools knows too little; it says nothing of files.
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    lines = [f'"{name}" = {json.dumps(globs)}' for name, globs in tools["package-data"].items()]
    table = "\n".join(
        ['[project]\nname = "x"\nversion = "0"', "[tool.setuptools.package-data]", *lines]
    )
    (source / "pyproject.toml").write_text(table, encoding="utf-8")
    library = source / "library"
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build", f"--build-lib={library}"],
        cwd=source, check=True, capture_output=True,
    )  # fmt: skip
    return library


@pytest.fixture(scope="session")
def retina_data() -> Path:
    """The folder of real retinal images: RETINA_DATA, or shared/data beside the repository."""
    folder = Path(os.environ.get("RETINA_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "odir" / "manifest.csv").exists():
        pytest.skip(f"no real retinal data in {folder}; set RETINA_DATA to run this test")
    return folder
