"""A model as a folder that can be handed on: weights, what they are, and how to feed them.

    model.safetensors   our variables, 'params/image/conv1/kernel' and so on
    config.json         everything of `Description`, and the hash of the weights
    vocab.txt           the file of the tokenizer, if there is one, or tokenizer.model, merges.txt
    quality.json        limits of the figures of its training pictures, if they are known
    familiar.npz        what its training pictures are like, if that was fitted
    README.md           the model card; of a run recipe.json and checklist.md lie beside it

All of it is data: reading a folder runs none of its contents.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from data_pipelines import places, stores
from data_pipelines.errors import InputError
from data_pipelines.images import single
from data_pipelines.images.preparation import Preparation
from data_pipelines.text import tokenizers
from data_pipelines.text.words import ANGIOGRAPHY
from retina_jax import out_of_distribution
from retina_jax.build import build, call, options_of
from retina_jax.convert import card, files, folder_config, registry, rules
from retina_jax.convert.folder_config import CONFIG, FORMAT, QUALITY, VERSION
from retina_jax.decision import Decision, from_json

WEIGHTS, CARD, FAMILIAR = "model.safetensors", "README.md", "familiar.npz"
# Option of a tokenizer that names its file -> the name of that file in a folder.
TOKENIZER_FILES = {"path": "tokenizer.model", "vocab": "vocab.txt", "merges": "merges.txt"}
# The files behind tokenizers that are built without one.
_SHIPPED = {"sentencepiece": tokenizers.BILINGUAL, "word_level": ANGIOGRAPHY}


@dataclasses.dataclass(frozen=True)
class Description:
    """What `config.json` says about a model.

    Attributes:
      title: what the model is called.
      model: its spec in MODELS.
      image_size: pixels of the side that its learned positions are for; None if it has none.
      transforms: specs of `single.USED` that make its input of pictures; () for texts only.
      preparation: options of `preparation.Preparation` for photographs before that, or None.
      tokenizer: spec in TOKENIZERS, whose file lies in the folder; None for none.
      text_length: most tokens of a text, or None.
      padding: 'length' pads every text to `text_length`; 'longest' pads those that are embedded
        together, the prompts of a class or single texts of classes, to the longest of them, on
        which FLAIR's mean depends.
      classes: names, in the order of the labels; () for none.
      template: sentence of a class in zero-shot, with {} for its name, or None.
      knowledge: class -> descriptions that are prompts too; see `evals.zeroshot.ZeroShot`.
      mode, renormalize: the options of that name of the zero-shot evaluation.
      licence: the licence of the weights; None if none is given.
      terms: what else to know about that and the weights, or None.
      citation: the publication, or None.
      source: where the weights are from: 'file' and 'sha256', or 'run' and 'step', and the like.
      ignored: tensors of the original that were left behind -> why.
      filled: our arrays that the original does not have -> what they are now.
      modality: the modality of the pictures it was trained on, 'cfp', 'ffa' or 'oct' for instance;
        None where that is not known.
      decision: how a classifier decides; None for softmax, the most likely class, no threshold.
      quality: limits of figures of its training pictures, figure -> (least, greatest), as
        `data_pipelines.quality.limits` makes them; they lie in a file of their own. None for none.
      familiar: what its training pictures are like, in a file of its own; None for nothing fitted.
      test_time_flip: whether it answers with the mean over a picture and its mirror image.
      evaluated: rows of `results.json` about it, 'evaluator', 'metric', 'value', 'low', 'high' and
        so on; () for none.
    """

    title: str
    model: Mapping[str, Any]
    image_size: int | None = None
    transforms: Sequence[Mapping[str, Any]] = ()
    preparation: Mapping[str, Any] | None = None
    tokenizer: Mapping[str, Any] | None = None
    text_length: int | None = None
    padding: str = "length"
    classes: Sequence[str] = ()
    template: str | None = None
    knowledge: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    mode: str = "replace"
    renormalize: bool = False
    licence: str | None = None
    terms: str | None = None
    citation: str | None = None
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ignored: Mapping[str, str] = dataclasses.field(default_factory=dict)
    filled: Mapping[str, str] = dataclasses.field(default_factory=dict)
    modality: str | None = None
    decision: Decision | None = None
    quality: Mapping[str, Sequence[float]] | None = None
    familiar: out_of_distribution.Familiar | None = None
    test_time_flip: bool = False
    evaluated: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        if self.decision is not None:
            self.decision.check(self.classes)

    def preprocessing(self) -> single.Preprocessing | None:
        """What makes the model's input of pictures; None for a model of texts."""
        if not self.transforms:
            return None
        made = tuple(build(single.USED, spec) for spec in self.transforms)
        given = self.preparation
        prepared = call("The preparation", Preparation, **given) if given else None
        return single.Preprocessing(made, prepared)


def file_option(spec: Mapping[str, Any]) -> str:
    """Which option of a tokenizer's spec names its file."""
    (option,) = set(options_of(tokenizers.TOKENIZERS, spec)) & set(TOKENIZER_FILES)
    return option


def tokenizer_file(spec: Mapping[str, Any]) -> tuple[str, Path]:
    """Which option of a tokenizer's spec names its file, and that file.

    Raises:
      InputError: if it does not exist.
    """
    option = file_option(spec)
    path = spec.get(option) or _SHIPPED.get(spec["name"])
    if path is None or not Path(path).is_file():
        raise InputError(
            f"The tokenizer '{spec['name']}' needs its file, and there is no "
            f"{path or TOKENIZER_FILES[option]} here: run this where it lies, or name it by "
            "--tokenizer=FILE."
        )
    return option, Path(path)


def write_folder(
    dst: Path | str,
    description: Description,
    variables: Mapping[str, Any],
    beside: Mapping[str, bytes] | None = None,
) -> dict[str, Any]:
    """Writes a model as a folder, all of it or nothing.

    Args:
      dst: a folder that does not exist yet, or is empty.
      description: the description of the model; its tokenizer names a file of this machine.
      variables: collection -> tree of arrays, exactly those of the model.
      beside: name of a file -> what is in it, for readers; the library reads none of them.

    Returns:
      What `config.json` holds.

    Raises:
      InputError: if the folder is not empty or cannot be written, the tokenizer's file is missing,
        or the variables are not those of the model; nothing is left then.
    """
    dst = places.local(dst, "The folder of the model").absolute()
    if dst.exists() and (not dst.is_dir() or any(dst.iterdir())):
        raise InputError(f"{dst} exists and is not empty; choose another --dst.")
    flat = {name: np.asarray(value) for name, value in rules.flatten(variables).items()}
    _refuse_others(f"The variables of '{description.title}'", rules.shapes_of(flat), description)
    with _whole(dst) as scratch:
        description = _with_tokenizer(description, scratch)
        files.write_safetensors(scratch / WEIGHTS, flat, {"format": FORMAT})
        weights = {
            "file": WEIGHTS,
            "sha256": registry.sha256(scratch / WEIGHTS),
            "parameters": sum(v.size for k, v in flat.items() if k.startswith("params/")),
        }
        about = {"format": FORMAT, "version": VERSION, **_plain(description),
                 "weights": weights}  # fmt: skip
        for name, data in {**(beside or {}), **gates(description)}.items():
            (scratch / name).write_bytes(data)
        text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
        (scratch / CONFIG).write_text(text, encoding="utf-8")
        (scratch / CARD).write_text(
            card.text({**about, "quality": description.quality}, dst.name), encoding="utf-8"
        )
    return about


def _plain(description: Description) -> dict[str, Any]:
    """What `config.json` says of a description: all but what lies in files of its own."""
    plain = dataclasses.asdict(dataclasses.replace(description, quality=None, familiar=None))
    return {key: value for key, value in plain.items() if key not in ("quality", "familiar")}


def gates(description: Description) -> dict[str, bytes]:
    """The files {name: bytes} of what a model says of its training pictures; {} for nothing."""
    found = {}
    if description.quality is not None:
        text = json.dumps(dict(description.quality), indent=2, sort_keys=True) + "\n"
        found[QUALITY] = text.encode()
    if description.familiar is not None:
        found[FAMILIAR] = out_of_distribution.to_bytes(description.familiar)
    return found


def _with_gates(description: Description, folder: Path) -> Description:
    """With the limits and statistics that lie in the folder."""
    limits, path = None, folder / QUALITY
    if path.is_file():
        try:
            limits = {
                str(name): (float(low), float(high))
                for name, (low, high) in json.loads(path.read_text(encoding="utf-8")).items()
            }
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is damaged ({error}); get it again.") from None
    path = folder / FAMILIAR
    familiar = out_of_distribution.read(path) if path.is_file() else None
    return dataclasses.replace(description, quality=limits, familiar=familiar)


def read_folder(src: Path | str) -> tuple[Description, dict[str, Any]]:
    """The description and the variables of a folder that `write_folder` wrote.

    Returns:
      The description, its tokenizer naming a file of this machine, and the variables, collection
      -> tree of read-only arrays.

    Raises:
      InputError: if a file is missing, damaged or of a later version, or the weights are not those
        that `config.json` describes: of another hash, or of other names or shapes than the model.
    """
    src = stores.near(src, "The folder of the model")
    about = folder_config.read(src)
    weights = about.pop("weights", None)
    known = {"format", "version"}
    described = {k: _tuples(v) for k, v in about.items() if k not in known}
    decided = from_json(described.pop("decision", None))
    description = call(f"{src / CONFIG}", Description, **described, decision=decided)
    path = src / WEIGHTS
    if not path.is_file():
        raise InputError(f"{src} has no {WEIGHTS}; it was copied in part, so get it again.")
    if not isinstance(weights, dict) or registry.sha256(path) != weights.get("sha256"):
        raise InputError(
            f"{path} is not the file that {CONFIG} describes (its SHA-256 is another): it was "
            "copied in part, damaged or exchanged."
        )
    flat, _ = files.read_safetensors(path)
    _refuse_others(f"{path}", rules.shapes_of(flat), description)
    variables = traverse_util.unflatten_dict(flat, sep="/")
    return _with_gates(_with_local_tokenizer(description, src), src), variables


def _refuse_others(what: str, have: rules.Shapes, description: Description) -> None:
    """Raises InputError unless names and shapes are exactly those of the described model."""
    want = rules.abstract(dict(description.model), description.image_size)
    faults = []
    for names, fault in (
        (sorted(set(have) - set(want)), "unknown to the model"),
        (sorted(set(want) - set(have)), "missing"),
    ):
        if names:
            faults.append(f"{len(names)} {fault} ({', '.join(names)})")
    for name in sorted(set(have) & set(want)):
        if tuple(have[name]) != tuple(want[name]):
            faults.append(f"{name} has shape {tuple(have[name])} instead of {tuple(want[name])}")
    if faults:
        raise InputError(
            f"{what} do not fit the model '{description.model.get('name')}': {'; '.join(faults)}."
        )


def _with_tokenizer(description: Description, folder: Path) -> Description:
    """Copies the tokenizer's file into the folder and names it as it is called there."""
    if description.tokenizer is None:
        return description
    option, path = tokenizer_file(description.tokenizer)
    shutil.copyfile(path, folder / TOKENIZER_FILES[option])
    spec = {**description.tokenizer, option: TOKENIZER_FILES[option]}
    return dataclasses.replace(description, tokenizer=spec)


def _with_local_tokenizer(description: Description, folder: Path) -> Description:
    """Names the tokenizer's file in the folder; any other place is refused."""
    spec = dict(description.tokenizer or {})
    for option in set(spec) & set(TOKENIZER_FILES):
        if spec[option] != TOKENIZER_FILES[option]:
            raise InputError(
                f"{folder / CONFIG} names '{spec[option]}' as the file of its tokenizer, which is "
                f"{TOKENIZER_FILES[option]} in every such folder."
            )
        spec[option] = str(folder / spec[option])
    return dataclasses.replace(description, tokenizer=spec or None)


def _tuples(value: Any) -> Any:
    """Lists as tuples, which the options of models are."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return value


@contextlib.contextmanager
def _whole(dst: Path) -> Iterator[Path]:
    """A scratch folder beside `dst` that becomes it at the end, and vanishes after an error."""
    try:
        dst.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{dst.name}-", dir=dst.parent))
    except OSError as error:
        raise InputError(f"Cannot write {dst}: {error.strerror}.") from None
    try:
        yield scratch
        scratch.chmod(0o755)  # mkdtemp makes it for its owner only
        os.replace(scratch, dst)
    except OSError as error:
        raise InputError(f"Cannot write {dst}: {error.strerror or error}.") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
