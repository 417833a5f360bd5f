"""Where the configs of this library lie, and how a config is read by its name."""

from __future__ import annotations

import types
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from data_pipelines.errors import InputError

_INSTALLED = Path(__file__).parent / "configs"
# In a checkout they lie beside the package.
FOLDER = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[1] / "configs"


def names() -> tuple[str, ...]:
    """The names of this library's configs."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__"))


def find(config: str) -> str:
    """A config with the path of its file, 'DIR/flair.py:smoke' for 'flair:smoke'.

    Args:
      config: one of `names`, or a path that ends in .py; with :VARIANT or without.

    Raises:
      InputError: for another name.
    """
    file, colon, variant = config.partition(":")
    if file.endswith(".py"):
        return config
    if file not in names():
        raise InputError(
            f"There is no config '{file}' among {', '.join(names())}; a file of yours ends in .py."
        )
    return f"{FOLDER / file}.py{colon}{variant}"


def get_config(config: str) -> dict[str, Any]:
    """What `--config=` reads: the settings that differ from the defaults, as plain data.

    Args:
      config: as for `find`, for example 'flair:smoke'.

    Raises:
      InputError: for an unknown name.
      ValueError: for an unknown variant.
    """
    file, _, variant = find(config).partition(":")
    loader = SourceFileLoader(f"config_{Path(file).stem}", file)
    module = types.ModuleType(loader.name)
    module.__file__ = file
    loader.exec_module(module)
    return module.get_config(*([variant] if variant else []))
