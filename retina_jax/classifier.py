"""A config that names a data set and a start -> the settings of a run that trains a classifier.

    {"data": "manifest/mine", "init": "package:efficientnet-lite0"}

Whatever is a setting (`settings.Settings`) can be given beside these, and takes the place of what
is made here. Classes, task and size of the pictures come from the data, the tower from the start.
Defaults are those of small data sets: the head begins as a linear probe (Kumar et al. 2022), rates
fall towards the input, BatchNorm keeps its statistics, and the best checkpoint in the figure of the
validation split is the model.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from data_pipelines.errors import InputError
from retina_jax import origins, presets
from retina_jax.build import call, options
from retina_jax.classifier_task import Recipe, Task
from retina_jax.convert.pixels import picture_towers
from retina_jax.settings import Settings

_logger = logging.getLogger(__name__)
# The figure that chooses on validation (higher is better), and those that are told beside it.
METRICS = {
    "single": ("auc", "balanced_accuracy", "accuracy"),
    "ordinal": ("quadratic_kappa", "auc", "balanced_accuracy", "accuracy"),
    "multi": ("auc",),
    "regression": ("r2", "mae"),
}
# Towers with BatchNorm.
_NORMALISED = ("clip_resnet", "efficientnet", "resnet")
_FEWEST_STEPS, _EPOCHS, _LARGEST = 300, 50, 512


def is_recipe(given: Mapping[str, Any]) -> bool:
    """Whether a config is one of these."""
    return "data" in given


def settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a config means, as plain data.

    Args:
      given: fields of `Recipe`, and of `Settings`.

    Raises:
      InputError: for a wrong option, data or a start that is not there, and data that no
        classifier can be trained or judged on.
    """
    own = options(Recipe)
    known = (*own, *options(Settings))
    if unknown := sorted(set(given) - set(known)):
        raise InputError(
            f"The config of a classifier has no option '{unknown[0]}'. It accepts: "
            f"{', '.join(known)}."
        )
    recipe = call(
        "The classifier", Recipe, **{**_usual(given), **{k: given[k] for k in given if k in own}}
    )
    data_dir = given.get("data_dir")
    task = Task.of(recipe, data_dir)
    start = None if recipe.init is None else origins.read(recipe.init)
    made = _Run(recipe, task, start, data_dir).settings()
    if given.get("evaluators") == {}:  # none are wanted, so nothing chooses a checkpoint
        made |= {"evaluators": {}, "at_end": (), "keep": {"last": 1}}
    return merged(made, {k: v for k, v in given.items() if k not in own})


def _usual(given: Mapping[str, Any]) -> dict[str, str]:
    """Names of the embedded data set that are not those of built ones."""
    embedded = str(given["data"]).startswith("synthetic_retina/")
    return {"labels": "diagnosis", "train": "public"} if embedded else {}


def merged(made: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`made` with what is given in its place, option by option.

    A duration, and an entry of a table under another name, are replaced as a whole.
    """
    found = dict(made)
    for key, value in given.items():
        old: Any = found.get(key)
        both = isinstance(value, Mapping) and isinstance(old, Mapping)
        another = both and (
            {"steps", "epochs", "examples", "percent"} & set(old)
            or value.get("name", old.get("name")) != old.get("name")
        )
        found[key] = merged(old, value) if both and not another else value
    return found


@dataclasses.dataclass(frozen=True)
class _Run:
    """The settings of a run, part by part."""

    recipe: Recipe
    task: Task
    start: origins.Start | None
    data_dir: str | None

    def settings(self) -> dict[str, Any]:
        """All that differs from the defaults."""
        recipe, task = self.recipe, self.task
        epochs = _EPOCHS * task.records / recipe.batch_size
        evaluators = self._evaluators()
        return {
            "model": self._model(),
            "streams": {"records": self._stream()},
            "objectives": {(objective := self._objective())["name"]: objective},
            "restore_from": self._restore_from(),
            "optimization": self._optimization(),
            "total": {"epochs": _EPOCHS} if epochs > _FEWEST_STEPS else {"steps": _FEWEST_STEPS},
            # What is evaluated is saved, so that nothing is saved that was not.
            "every": {"evaluate": {"percent": 5}, "checkpoint": {"percent": 5}},
            "keep": {"last": 1, "best": f"eval/validation/{self._chosen_by()}", "patience": 5},
            "evaluators": evaluators,
            "at_end": tuple(name for name in evaluators if name != "validation"),
        }

    def _chosen_by(self) -> str:
        """The figure of validation records that chooses the step."""
        task, metrics = self.task, METRICS[self.task.kind]
        if metrics[0] != "auc" or not task.unjudged:
            return metrics[0]
        chosen = "balanced_accuracy" if task.kind == "single" else None
        _logger.warning(
            "The area under the curve is not defined on the validation records (%s:%s), of which "
            "none, or every one, has %s: %s. Other splits, or fewer classes, would mend it.",
            self.recipe.data, self.recipe.validation, ", ".join(map(repr, task.unjudged)),
            "the step is chosen by the balanced accuracy of the other classes" if chosen
            else "no step is chosen by it, and training goes on to its end",
        )  # fmt: skip
        return chosen or metrics[0]

    def _tower(self) -> tuple[str, Mapping[str, Any]]:
        """The name of the image tower in the start, and its spec."""
        if self.start is None:
            return "image", self.recipe.tower or {}
        model = self.start.model
        for part in picture_towers(model) & {"image", model.get("key")}:
            return part, model["towers"][part] if "towers" in model else model["tower"]
        raise InputError(
            f"{self.start.told} has no tower that reads single pictures, so no classifier of them "
            "can start from it."
        )

    def _model(self) -> dict[str, Any]:
        model = {"name": "tower", "key": "image", "tower": self._tower()[1],
                 "classes": len(self.task.classes)}  # fmt: skip
        if self.start is None or self.start.pixels is None:
            return model
        return {**model, "mean": self.start.pixels.mean, "std": self.start.pixels.std}

    def _size(self) -> int:
        part, tower = self._tower()
        if self.recipe.size is not None:
            return self.recipe.size
        if self.start is not None and self.start.pixels is not None and tower["name"] == "vit":
            return self.start.pixels.size(part) or self.task.side
        return min(self.task.side, _LARGEST)

    def _read(self) -> presets.Transforms:
        """Pictures and labels, without anything random."""
        label: presets.Config = {"name": "quantity", "source": self.recipe.labels}
        if self.task.kind != "regression":
            name = "multi_label" if self.task.kind == "multi" else "label"
            label |= {"name": name, "classes": self.task.classes}
        return (*presets.photographs(self._size()), label)

    def _data(self, split: str, transforms: presets.Transforms, **more: Any) -> presets.Config:
        where: dict[str, Any] = {"where": self.task.where} if self.task.where else {}
        where |= {"ban": self.task.ban} if self.task.ban else {}
        return presets.data(
            self.recipe.data, split, self.recipe.batch_size, transforms, **where, **more
        )

    def _stream(self) -> presets.Config:
        recipe = self.recipe
        changes = recipe.augment
        if changes is None:
            changes = _augmentation(self.task.modality)
        more: dict[str, Any] = {"balance": recipe.labels} if recipe.imbalance == "sampler" else {}
        if recipe.mixup:
            more["mixup"] = recipe.mixup
        return self._data(recipe.train, (*self._read(), *map(dict, changes)), **more)

    def _objective(self) -> presets.Config:
        if self.task.kind == "regression":
            return {"name": "regression", "mean": self.task.mean, "scale": self.task.scale}
        made: presets.Config = {
            "name": "classification",
            "smoothing": self.recipe.smoothing,
            "focal": self.recipe.focal,
            **self.task.weighting(self.recipe),
        }
        if self.task.kind == "multi":
            made["kind"] = "sigmoid"
        if self.task.kind == "ordinal":
            made["ordered"] = (0,)
        return made

    def _restore_from(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.start is not None:
            part, _ = self._tower()
            others = {name for tree in self.start.variables.values() for name in tree} - {part}
            take = ("image",) if part == "image" else {"image": part}
            found["image"] = {"path": self.recipe.init, "take": take, "ignore": sorted(others),
                              "allow_other_pixels": True}  # fmt: skip
        if self.recipe.head == "probe":
            found["head"] = {"probe": "records", "take": ("head",)}
        return found

    def _optimization(self) -> presets.Config:
        if self.start is None:
            return {**presets.adamw(1e-3, 0.05, {"percent": 10}), "ema": 0.99}
        tower, recipe = self._tower()[1], self.recipe
        name, wide = tower["name"], (tower.get("width") or 768) >= 1024
        usual = 0.95 if name in _NORMALISED else 0.65 if wide else 0.75
        decay = {"layer_decay": usual if recipe.layer_decay is None else recipe.layer_decay}
        stored = name in _NORMALISED and tower.get("norm", "batch") == "batch"
        still = {"stored_statistics": True} if stored else {}
        rules = (
            (r"image/.*(bias|scale)", {**decay, **still, "decay": False}),
            (r"image/.*", decay),
            (r"head/bias", {"learning_rate": recipe.head_rate, "decay": False}),
            (r"head/.*", {"learning_rate": recipe.head_rate}),
        )
        return {**presets.adamw(5e-5, 0.05, {"percent": 10}), "rules": rules, "ema": 0.99}

    def _evaluators(self) -> presets.Config:
        """The head on both splits and, of the start, the probe and what it says by itself."""
        recipe, task = self.recipe, self.task
        read = {"classes": task.classes, "labels": task.key}
        if task.kind != "multi":
            read |= {"metrics": METRICS[task.kind]}
        decided = {"regression": {"unit": (task.mean, task.scale)}, "multi": {}}
        prior = decided.get(task.kind, {"prior": task.prior(recipe)})
        validation = self._data(recipe.validation, self._read())
        scored = {"test": self._data(recipe.test, self._read()), "validation": validation}
        of_test = {"data": scored["test"], "validation": validation}
        found: presets.Config = {
            "validation": {"name": "head", "data": validation, **read, **prior},
            "test": {"name": "head", **of_test, **read, **prior},
        }
        if self.start is None:
            return found
        beside = {"of": recipe.init, **read}
        if self._tower()[0] == "image":
            train = self._data(recipe.train, self._read())
            found["frozen_probe"] = {"name": "linear_probe", "train": train, **scored, **beside}
        about = self.start.described
        texts = "text" in self.start.model.get("towers", {})
        if task.kind == "regression":
            return found
        if about is not None and about.tokenizer and about.text_length and texts:
            usual = presets.PROMPTS.get(task.modality, "{}")
            prompts = {"template": about.template or usual, "length": about.text_length,
                       "knowledge": about.knowledge or None, "mode": about.mode,
                       "renormalize": about.renormalize}  # fmt: skip
            found["zero_shot"] = {"name": "zeroshot", **of_test, **prompts, **beside}
        return found


def _augmentation(modality: str) -> presets.Transforms:
    """Mirrors, turns, scales and light for few labelled pictures; nothing is cut off.

    Lesions of a few pixels are why there is no random crop, and colours keep their hue.

    Args:
      modality: photographs may be turned at will ('cfp', 'ffa'), B-scans ('oct') hardly.
    """
    degrees = 5.0 if modality == "oct" else 180.0
    return (
        {"name": "random_flip"},
        {"name": "random_affine", "probability": 1.0, "degrees": degrees, "scale": (0.85, 1.15)},
        {"name": "color_jitter", "probability": 0.8, "brightness": 0.2, "contrast": 0.2},
    )
