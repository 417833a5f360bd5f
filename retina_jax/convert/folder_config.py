"""What the `config.json` of a model's folder says, for readers that need none of its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data_pipelines.errors import InputError
from retina_jax import renamed

FORMAT, VERSION = "retina_jax model", 1
CONFIG, QUALITY = "config.json", "quality.json"


def read(src: Path) -> dict[str, Any]:
    """What `config.json` of a folder says, as it is; InputError as `model_folder.read_folder`."""
    path = src / CONFIG
    if (src / "checkpoints").is_dir():
        raise InputError(
            f"{src} is a run and no folder of a model: make one of it by retina-jax convert "
            f"--source=run --src={src} --dst=DIR."
        )
    if not path.is_file():
        raise InputError(
            f"{src} is no folder of a model: it has no {CONFIG}. Make one by python -m "
            "retina_jax.convert --source=NAME --src=FILE --dst=DIR."
        )
    try:
        about = renamed.todays(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); get it again.") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise InputError(
            f"{path} was not written by this library; convert the weights beside it by python -m "
            "retina_jax.convert --source=NAME --src=FILE --dst=DIR."
        )
    if about.get("version") != VERSION:
        raise InputError(
            f"{path} has version {about.get('version')} of its format, this library reads "
            f"{VERSION}: install a newer one."
        )
    return about
