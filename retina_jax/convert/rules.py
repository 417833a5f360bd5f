"""From the tensors of a published model to our variables and back, by rules over names."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from data_pipelines.errors import InputError
from retina_jax.build import build, call
from retina_jax.convert import completion
from retina_jax.convert.examples import example
from retina_jax.convert.tensor_transforms import KEEP, Change, Shape
from retina_jax.models import MODELS

Tensors = Mapping[str, np.ndarray]
Shapes = Mapping[str, Shape]
Spec = dict[str, Any]

_PLACE = re.compile(r"\{(\w+)\}")


@dataclasses.dataclass(frozen=True)
class Rule:
    """Which of their tensors is which of our arrays.

    Attributes:
      theirs: their name of the tensor. Any `{word}` in it stands for a number:
        'encoder.layer.{i}.attention.self.query.weight'.
      ours: path in our variables, 'params/text/layers/attention/query/kernel'. What `theirs`
        numbers and `ours` does not is stacked on a first axis, as `models.layer_stack.scan_layers`
        stores layers. Several paths where their one tensor is several of our arrays.
      change: how one becomes the other.
    """

    theirs: str
    ours: str | tuple[str, ...]
    change: Change = KEEP

    @property
    def paths(self) -> tuple[str, ...]:
        """`ours` as a tuple."""
        return (self.ours,) if isinstance(self.ours, str) else self.ours


@dataclasses.dataclass(frozen=True)
class WeightFormat:
    """A published model, or a family of them: how its files are recognised and read.

    Attributes:
      name: what `--source` is called with.
      description: one line for the list of sources.
      recognises: whether names and shapes, as `prepare` leaves them, are those of such a file.
      model: (names and shapes, **options) -> our model's spec for `build(MODELS, spec)`, every
        size taken from the shapes. What shapes cannot tell is an option.
      rules: the rules for that spec.
      ignored: regular expression over their whole names -> why these tensors may be left behind.
      copies: names of tensors that repeat another -> the other's name. They are left behind if they
        are equal, and written again by `export`.
      missing: regular expression over our whole paths -> (value, reason) of arrays that such files
        do not have: each is filled with the value.
      image_size: names and shapes -> pixels of the side of the pictures that the learned positions
        are for; None where there are no such positions.
      preprocessing: what the published model did to its inputs: size, fit, interpolation, mean,
        std and so on. `size` becomes what `image_size` finds.
      switches: options of `convert` that are true or false, and parts of `preprocessing`.
      prepare: renames tensors first, for families whose files differ in a prefix.
      computed: (spec, exported tensors) -> tensors beside them that are no parameters of ours but
        that the original code wants in a file.
      pictures: spec -> what of `preprocessing` is different for that model, in families whose
        members read pictures of different sizes or statistics.
      layouts: other sources of the same networks, which files given for this one may be of.
    """

    name: str
    description: str
    recognises: Callable[[Shapes], bool]
    model: Callable[..., Spec]
    rules: Callable[[Spec], tuple[Rule, ...]]
    ignored: Mapping[str, str] = dataclasses.field(default_factory=dict)
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    missing: Mapping[str, tuple[float, str]] = dataclasses.field(default_factory=dict)
    image_size: Callable[[Shapes], int | None] = lambda shapes: None
    preprocessing: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    switches: Mapping[str, bool] = dataclasses.field(default_factory=dict)
    prepare: Callable[[Mapping[str, Any]], dict[str, Any]] = dict
    computed: Callable[[Spec, Tensors], dict[str, np.ndarray]] = lambda spec, tensors: {}
    pictures: Callable[[Spec], Mapping[str, Any]] = lambda spec: {}
    layouts: tuple[WeightFormat, ...] = ()

    def preprocessing_of(self, spec: Spec) -> dict[str, Any]:
        """`preprocessing` of the model of that spec."""
        return {**self.preprocessing, **self.pictures(spec)}


@dataclasses.dataclass(frozen=True)
class Converted:
    """A published model as ours.

    Attributes:
      source: name of the WeightFormat.
      spec: the spec of the model, for `build(MODELS, spec)`.
      variables: collection -> tree of f32 arrays, exactly as that model initialises them.
      preprocessing: the same as in `WeightFormat`.
      ignored: each of their tensors that was left behind -> why.
      filled: each of our arrays that the file does not have -> what it is now, and why.
    """

    source: str
    spec: Spec
    variables: dict[str, Any]
    preprocessing: dict[str, Any]
    ignored: dict[str, str]
    filled: dict[str, str]


@dataclasses.dataclass(frozen=True)
class _Slot:
    """One tensor of theirs, and where its parts go: paths, and the place on their first axis."""

    theirs: str
    ours: tuple[str, ...]
    index: int | None
    change: Change

    def shapes(self, of: Shapes) -> tuple[Shape, ...]:
        """The shapes of the parts in our variables."""
        whole = (tuple(of[path]) for path in self.ours)
        return tuple(shape if self.index is None else shape[1:] for shape in whole)


def shapes_of(tensors: Mapping[str, Any]) -> dict[str, Shape]:
    """{name: shape} of anything that has shapes."""
    return {name: tuple(value.shape) for name, value in tensors.items()}


@dataclasses.dataclass(frozen=True)
class Fit:
    """How a file becomes a model, without its numbers.

    Attributes:
      spec: the spec of the model.
      image_size: pixels that its learned positions are for; None without them.
      ours: {path: shape} of its variables.
      slots: each of their tensors that is used -> where it goes.
      ignored: the same as in `Converted`.
      filled: path of each array that the file lacks -> its pattern in `WeightFormat.missing`.
    """

    spec: Spec
    image_size: int | None
    ours: dict[str, Shape]
    slots: dict[str, _Slot]
    ignored: dict[str, str]
    filled: dict[str, str]


def fit(source: WeightFormat, shapes: Shapes, **options: Any) -> Fit:
    """Whether a file is exactly what its model needs; arguments and errors as for `convert`.

    Args:
      source: whose file.
      shapes: names and shapes of its tensors, as `source.prepare` leaves them.
      **options: options of `convert`.
    """
    asked = options.pop("image_size", None)
    spec, size = _sized(source, shapes, options)
    if asked is not None and size is None:
        raise InputError(
            f"Models of '{source.name}' take pictures of any size or none at all, so there are no "
            "positions for image_size to resample; leave it out."
        )
    size = asked or size
    ours = abstract(spec, size)
    slots = {slot.theirs: slot for slot in _slots(source.rules(spec), ours)}
    filled = _filled(source, ours, slots.values())
    reasons = _reasons(source, set(shapes) - set(slots))
    _refuse(source.name, shapes, ours, slots, reasons, filled)
    return Fit(spec, size, ours, slots, reasons, filled)


def _sized(
    source: WeightFormat, shapes: Shapes, options: Mapping[str, Any]
) -> tuple[Spec, int | None]:
    """The spec of the model and the size of its pictures; a file that tells neither is refused."""
    try:
        model = functools.partial(source.model, shapes)
        spec = call(f"The source '{source.name}'", model, **options)
        return spec, source.image_size(shapes)
    except InputError:
        raise
    except KeyError as error:
        fault = f"it lacks {error}"
    except (ValueError, IndexError, TypeError) as error:
        fault = f"a tensor has another number of axes ({error})"
    raise InputError(
        f"The file does not fit the source '{source.name}': {fault}, and the size of the model "
        "cannot be told without."
    )


def convert(source: WeightFormat, tensors: Tensors, **options: Any) -> Converted:
    """Their tensors as variables of our model.

    Args:
      source: whose tensors they are.
      tensors: their names -> arrays, as `files.read_tensors` returns them.
      **options: `image_size`, pixels, resamples learned positions as the source itself does it;
        others are `switches` of the source, or arguments of its `model`.

    Raises:
      InputError: if a tensor has no use and no reason to be ignored, one is missing, or one has
        another shape than its model needs; the sentence names them.
    """
    tensors = source.prepare(tensors)
    _check_copies(source, tensors)
    switches = completion.switches(source.name, source.switches, options)
    found = fit(source, shapes_of(tensors), **options)
    values = {path: source.missing[pattern] for path, pattern in found.filled.items()}
    flat = {path: np.full(found.ours[path], value, np.float32)
            for path, (value, _) in values.items()}  # fmt: skip
    flat |= _arrays(found.slots.values(), tensors, found.ours)
    size = {"size": found.image_size} if found.image_size else {}
    return Converted(
        source=source.name,
        spec=found.spec,
        variables=traverse_util.unflatten_dict({path: flat[path] for path in found.ours}, sep="/"),
        preprocessing={**source.preprocessing_of(found.spec), **size, **switches},
        ignored=found.ignored,
        filled={path: f"{value:g}: {reason}" for path, (value, reason) in values.items()},
    )


def export(source: WeightFormat, spec: Spec, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Our variables in the source's own layout, complete for a strict load by its own code.

    Args:
      source: whose layout.
      spec: the spec of our model.
      variables: the variables of that model.

    Raises:
      InputError: if arrays of the model have no place in that layout.
    """
    flat = {key: np.asarray(value) for key, value in flatten(variables).items()}
    try:
        slots = list(_slots(source.rules(spec), shapes_of(flat)))
    except (KeyError, TypeError):  # a rule reads what specs of such models have
        slots = []
    if not slots:
        raise InputError(f"The layout of '{source.name}' is not for a model '{spec['name']}'.")
    filled = _filled(source, flat, slots)
    covered = {path for slot in slots for path in slot.ours}
    homeless = [path for path in flat if path not in covered and path not in filled]
    homeless += [p for p, key in filled.items() if np.any(flat[p] != source.missing[key][0])]
    if homeless:
        raise InputError(
            f"The layout of '{source.name}' has no place for {', '.join(sorted(homeless))} of this "
            "model; choose the layout of another source, or none."
        )
    found = {}
    for slot in slots:
        parts = [flat[path] if slot.index is None else flat[path][slot.index] for path in slot.ours]
        found[slot.theirs] = np.array(slot.change.to_theirs(*parts), order="C")
    copies = {name: other for name, other in source.copies.items() if other in found}
    found |= {name: found[other] for name, other in copies.items()}
    found |= completion.batch_counts(found) | source.computed(spec, found)
    if not source.recognises(source.prepare(shapes_of(found))):
        raise InputError(
            f"The layout of '{source.name}' needs more than this model '{spec['name']}' has."
        )
    return found


def flatten(variables: Mapping[str, Any]) -> dict[str, Any]:
    """{'params/text/...': array} of variables, collection -> tree."""
    return traverse_util.flatten_dict(dict(variables), sep="/")


def abstract(spec: Spec, image_size: int | None = None) -> dict[str, Shape]:
    """{path: shape} of the variables of a model; nothing is allocated.

    Args:
      spec: the spec of a model in MODELS.
      image_size: pixels; None for a model whose parameters do not depend on it.
    """
    model, batch = build(MODELS, spec), example(spec, image_size)
    return shapes_of(flatten(jax.eval_shape(lambda key: model.init(key, batch), jax.random.key(0))))


def _slots(rules: Iterable[Rule], ours: Shapes) -> Iterator[_Slot]:
    """The tensors of theirs that our variables need."""
    for rule in rules:
        inside = set(_PLACE.findall(rule.paths[0]))
        stacked = set(_PLACE.findall(rule.theirs)) - inside
        if len(stacked) > 1:
            raise ValueError(f"{rule.theirs} has more than one number to stack by.")
        pattern = re.compile(_pattern(rule.paths[0]))
        for path in ours:
            if not (match := pattern.fullmatch(path)):
                continue
            known = match.groupdict()
            paths = tuple(template.format(**known) for template in rule.paths)
            if not stacked:
                yield _Slot(rule.theirs.format(**known), paths, None, rule.change)
                continue
            (axis,) = stacked
            for index in range(ours[path][0]):
                name = rule.theirs.format(**known, **{axis: index})
                yield _Slot(name, paths, index, rule.change)


def _pattern(template: str) -> str:
    """'layer{j}_{i}/x' -> a regular expression with groups j and i."""
    parts = re.split(r"\{(\w+)\}", template)
    return "".join(
        f"(?P<{part}>[0-9]+)" if index % 2 else re.escape(part) for index, part in enumerate(parts)
    )


def _matching(patterns: Iterable[str], names: Iterable[str]) -> dict[str, str]:
    """{name: the first pattern that is the whole name}, for names that have one."""
    found = {}
    for name in sorted(names):
        for pattern in patterns:
            if re.fullmatch(pattern, name):
                found[name] = pattern
                break
    return found


def _reasons(source: WeightFormat, names: Iterable[str]) -> dict[str, str]:
    """{name of a tensor without a rule: why it is left behind}, of those that may be."""
    found = _matching(source.ignored, names)
    reasons = {name: source.ignored[pattern] for name, pattern in found.items()}
    again = set(names) & set(source.copies)
    return reasons | {name: f"the same as {source.copies[name]}" for name in again}


def _check_copies(source: WeightFormat, tensors: Tensors) -> None:
    for name, other in source.copies.items():
        if {name, other} <= set(tensors) and not np.array_equal(tensors[name], tensors[other]):
            raise InputError(
                f"'{name}' differs from '{other}', while models of '{source.name}' have one array "
                "for both; there is no such model here."
            )


def _filled(
    source: WeightFormat, ours: Mapping[str, Any], slots: Iterable[_Slot]
) -> dict[str, str]:
    """{path of ours that no rule gives: its pattern in source.missing}."""
    covered = {path for slot in slots for path in slot.ours}
    return _matching(source.missing, set(ours) - covered)


def _refuse(
    name: str,
    theirs: Shapes,
    ours: Shapes,
    slots: Mapping[str, _Slot],
    reasons: Mapping[str, str],
    filled: Mapping[str, str],
) -> None:
    """Raises InputError unless the file is exactly what the model needs."""
    covered = {path for slot in slots.values() for path in slot.ours}
    if without_rule := sorted(set(ours) - covered - set(filled)):
        raise ValueError(f"'{name}' has no rule for {without_rule}.")
    faults = []
    if unused := sorted(set(theirs) - set(slots) - set(reasons)):
        faults.append(f"has no use for {len(unused)} of its tensors ({', '.join(unused)})")
    if missing := sorted(set(slots) - set(theirs)):
        faults.append(f"lacks {len(missing)} that are needed ({', '.join(missing)})")
    for key, slot in slots.items():
        if key in theirs and not slot.change.resizes:
            parts = [np.broadcast_to(np.float32(0), shape) for shape in slot.shapes(ours)]
            needed = slot.change.to_theirs(*parts).shape
            if theirs[key] != needed:
                faults.append(f"has '{key}' of shape {theirs[key]} where {needed} is needed")
    if faults:
        raise InputError(f"The file does not fit the source '{name}': it {'; it '.join(faults)}.")


def _arrays(slots: Iterable[_Slot], tensors: Tensors, ours: Shapes) -> dict[str, np.ndarray]:
    """Our arrays, f32, out of theirs."""
    flat: dict[str, np.ndarray] = {}
    for slot in slots:
        values = slot.change.to_ours(tensors[slot.theirs], *slot.shapes(ours))
        values = (values,) if isinstance(values, np.ndarray) else values
        for path, value in zip(slot.ours, values, strict=True):
            if path not in flat:
                flat[path] = np.empty(ours[path], np.float32)
            flat[path][... if slot.index is None else slot.index] = value
    return flat
