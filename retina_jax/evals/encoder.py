"""The only code that runs a model over a data set."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from data_pipelines import pipelines
from data_pipelines.errors import InputError
from data_pipelines.pipelines import EvalData
from data_pipelines.text.texts import listed
from data_pipelines.text.tokenizers import Tokenizer
from retina_jax import distributed
from retina_jax.metrics import bootstrap, small_samples
from retina_jax.models.layers import l2_normalize
from retina_jax.train import sharding
from retina_jax.types import Array, Batch, Score, TrainState

# What a model needs to read another key of a batch: such masks go along where a batch has them.
COMPANIONS = {"eyes": "eye_mask", "images": "images_mask", "text": "text_mask"}

# What a test-time flip mirrors, and the methods whose answers it averages: not what writes or
# paints.
_MIRRORED = ("image", "eyes")
_AVERAGED = ("embed", "features", "classify", "__call__")
# Methods that answer for each of the batch keys that they are given.
_OF_KEYS = ("embed", "features", "tokens")
# Methods whose vectors are remembered for the next evaluator, and bytes of these at most.
_REMEMBERED, _MOST_BYTES = ("embed", "features"), 2**30


class Need(NamedTuple):
    """What an evaluator will ask a model for.

    Attributes:
      data: records; None for texts of `length` tokens.
      methods: names of methods of the model, batch -> {name: array[B ...]}.
      inputs: batch keys that the model sees; 'embed' and 'features' answer for each of them.
      keep: batch keys that are passed on.
      length: tokens of the texts.
      outputs: names that 'embed' and 'features' answer with; None for those of `inputs`.
    """

    data: EvalData | None
    methods: Sequence[str]
    inputs: Sequence[str] = ("text",)
    keep: Sequence[str] = ()
    length: int | None = None
    outputs: Sequence[str] | None = None


class Encoder:
    """Runs one method of a model over data, on all devices; shared by the evaluators of a run.

    `model`, `mesh`, `flip` and `padding` are what it was made of. As long as a state lives, vectors
    that were made of it are remembered, so that evaluators of the same data encode them once.

    A patient, the keys 'eyes' and 'eye_mask', can be given to a model of single photographs too:
    'embed' is then the mean of the unit embeddings of the eyes that are there, as a unit vector,
    and 'features' are those of the left and of the right eye, the other one's for a missing eye.

    With `flip` embeddings, features and logits of 'image' and 'eyes' are means over the picture and
    its mirror image; embeddings become unit vectors again. Only pixels are mirrored: the mirror
    image of a left eye looks like a right one, but stays in the slot and under the text of the
    left. A model that learned sides, by unmirrored training, may therefore score worse.

    Texts have the length that they are asked for; with padding='longest' that of the longest of
    those that are embedded together (`model_folder.Description.padding`).
    """

    def __init__(self, model: nn.Module, mesh: Mesh, flip: bool = False, padding: str = "length"):
        self.model = model
        self.mesh = mesh
        self.flip = flip
        self.padding = padding
        # A program of its own: evaluators keep other columns, and share those of the model.
        self._gathered = jax.jit(lambda rows: rows, out_shardings=sharding.replicated(mesh))
        self._compiled: dict[str, Callable] = {}
        self._made: dict[tuple, tuple[EvalData, dict[str, np.ndarray]]] = {}
        self._made_of: Callable[[], TrainState | None] = lambda: None

    def _function(self, method: str) -> Callable:
        if not hasattr(self.model, method):
            raise InputError(
                f"An evaluator asks for '{method}', which {type(self.model).__name__} has not: "
                "remove the evaluator from the config, or choose another model."
            )
        if method not in self._compiled:

            def run(params: Any, model_state: Any, batch: Batch) -> dict[str, Array]:
                variables = {"params": params, **model_state}

                def apply(part: Batch) -> Any:
                    return self.model.apply(variables, part, method=method)

                def see(batch: Batch) -> dict[str, Array]:
                    outputs = apply(batch)
                    if "eyes" in batch and "eyes" not in outputs:
                        outputs = {**outputs, "eyes": _eye_by_eye(apply, method, batch)}
                    return outputs

                flips = self.flip and method in _AVERAGED
                return _with_mirrored(see, method, batch) if flips else see(batch)

            self._compiled[method] = jax.jit(run, out_shardings=sharding.replicated(self.mesh))
        return self._compiled[method]

    def trace(self, state: TrainState, need: Need) -> None:
        """Traces what an evaluator will ask for, and runs nothing.

        Args:
          state: shapes of the parameters and of the model state.
          need: what is asked for; one batch of its data is read.

        Raises:
          InputError: for a method, a batch key or a tower that is not there.
        """
        if need.data is None:
            shape = (self.mesh.size // jax.process_count(), need.length)
            example = {"text": jax.ShapeDtypeStruct(shape, np.int32),
                       "text_mask": jax.ShapeDtypeStruct(shape, bool)}  # fmt: skip
        else:
            example = need.data.example()
        for key in (*need.inputs, *need.keep):
            if key not in example:
                has = sorted(key for key in example if not key.startswith("_"))
                raise InputError(f"it needs '{key}', but its data give {has}; add a transform.")
        seen = {key: example[key] for key in self._seen(need.inputs, example)}
        # As they will lie: only then the trace is that of the run.
        parts = (state.params, state.model_state, sharding.of_all_processes(seen))
        placed = sharding.laid_out(parts, sharding.replicated(self.mesh))
        for method in need.methods:
            made = sorted(jax.eval_shape(self._function(method), *placed))
            wanted = need.inputs if need.outputs is None else need.outputs
            missing = [key for key in wanted if key not in made]
            if missing and method in _OF_KEYS:
                there = f"gives {made}" if made else "has no tower for it"
                raise InputError(
                    f"it needs '{method}' of '{missing[0]}', but the model {there}; "
                    "name another key or add a tower."
                )

    def _seen(self, inputs: Sequence[str], batch: Batch) -> set[str]:
        """The keys that a model is given for `inputs`: those, and their masks where there are."""
        masks = (COMPANIONS[key] for key in inputs if key in COMPANIONS)
        return {*inputs, *(mask for mask in masks if mask in batch)}

    def encode_dataset(
        self,
        state: TrainState,
        data: EvalData,
        method: str,
        inputs: Sequence[str],
        keep: Sequence[str] = (),
    ) -> dict[str, np.ndarray]:
        """What `method` makes of every record.

        Args:
          state: parameters and model state.
          data: the records; padding rows are dropped again.
          method: the name of a method of the model, batch -> {name: array[B ...]}: 'embed',
            'features', 'generate' or 'reconstruct'.
          inputs: batch keys that the model sees; their `COMPANIONS` come with them.
          keep: batch keys that are passed on, e.g. 'label'; their names must differ from outputs.

        Returns:
          {name: array[N ...]} in the order of the data's records, on every process.
        """
        return self.encode_dataset_methods(state, data, (method,), inputs, keep)[method]

    def encode_dataset_methods(
        self,
        state: TrainState,
        data: EvalData,
        methods: Sequence[str],
        inputs: Sequence[str],
        keep: Sequence[str] = (),
    ) -> dict[str, dict[str, np.ndarray]]:
        """{method: what `encode_dataset` returns for it}, while the records are read once."""
        if self._made_of() is not state:
            made: dict[tuple, Any] = {}
            self._made, self._made_of = made, weakref.ref(state, lambda _: made.clear())
        keys = {name: (id(data), name, *inputs, "", *keep) for name in methods}
        found = {name: self._made[key][1] for name, key in keys.items() if key in self._made}
        if missing := [name for name in methods if name not in found]:
            found |= self._encoded(state, data, missing, inputs, keep)
        for name in set(missing) & set(_REMEMBERED):
            arrays = itertools.chain.from_iterable(one.values() for _, one in self._made.values())
            new = found[name].values()
            if sum(array.nbytes for array in (*arrays, *new)) <= _MOST_BYTES:
                for array in new:
                    array.setflags(write=False)  # others will see it
                self._made[keys[name]] = data, found[name]
        return {name: dict(found[name]) for name in methods}

    def _encoded(
        self, state: TrainState, data: EvalData, methods: Sequence[str], inputs: Sequence[str],
        keep: Sequence[str],
    ) -> dict[str, dict[str, np.ndarray]]:  # fmt: skip
        functions = {method: self._function(method) for method in methods}
        parts: dict[str, list[dict[str, np.ndarray]]] = {method: [] for method in methods}
        for batch in data.batches():
            # The rows of the other processes come back with ours, and so do their numbers.
            passed_on = {key: batch[key] for key in (*keep, "_mask")}
            passed_on["record"] = batch["_id"].astype(np.int32)
            given = {key: batch[key] for key in self._seen(inputs, batch)}
            given = sharding.put(given, self.mesh)
            back = self._gathered(sharding.put(passed_on, self.mesh))
            for method, function in functions.items():
                outputs = function(state.params, state.model_state, given)
                parts[method].append({k: np.asarray(v) for k, v in {**outputs, **back}.items()})
        return {method: _in_order(found) for method, found in parts.items()}

    def texts(
        self, state: TrainState, tokenizer: Tokenizer, texts: Sequence[str], length: int
    ) -> np.ndarray:
        """Unit embeddings f32[N D] of texts, cut to `length` tokens and padded by `padding`."""
        texts = listed(texts, "texts")
        if self.padding == "longest":
            length = max(int(tokenizer.encode(text, length)[1].sum()) for text in texts)
        devices = self.mesh.size
        padded = [*texts, *[""] * (math.ceil(len(texts) / devices) * devices - len(texts))]
        ids, mask = zip(*(tokenizer.encode(text, length) for text in padded), strict=True)
        rows = len(padded) // jax.process_count()
        mine = slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)
        batch = {"text": np.stack(ids)[mine], "text_mask": np.stack(mask)[mine]}
        return self.encode_batch(state, batch, "embed")["text"][: len(texts)]

    def encode_batch(self, state: TrainState, batch: Batch, method: str) -> dict[str, np.ndarray]:
        """What `method` makes of this process's rows of one host batch, see `encode_dataset`."""
        given = sharding.put(batch, self.mesh)
        outputs = self._function(method)(state.params, state.model_state, given)
        return {key: np.asarray(value) for key, value in outputs.items()}

    def scale(self, state: TrainState) -> float:
        """The inverse temperature of what 'embed' returns."""
        variables = {"params": state.params, **state.model_state}
        if not hasattr(self.model, "temperature"):
            raise InputError(
                f"{type(self.model).__name__} compares no embeddings, so it has no temperature."
            )
        found: Any = self.model.apply(variables, method="temperature")
        return float(np.asarray(found["scale"]))


def frozen_state(variables: Mapping[str, Any], mesh: Mesh) -> TrainState:
    """A state that is only looked at.

    Args:
      variables: collection -> tree of arrays; host arrays are those of every process.
      mesh: where these are laid out, each on every device.
    """
    everywhere = sharding.replicated(mesh)

    def placed(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array):
            return leaf
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, everywhere, lambda index: host[index])

    held = jax.tree.map(placed, dict(variables))
    step, skipped = jnp.zeros((), jnp.int32), jnp.zeros(2, jnp.int32)
    return TrainState(step, held.pop("params"), held, None, skipped)


def _in_order(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The real rows of batches in the order of the data's records."""
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    real = joined.pop("_mask")
    order = np.argsort(joined.pop("record")[real], kind="stable")
    return {key: value[real][order] for key, value in joined.items()}


def _eye_by_eye(apply: Callable[[Batch], dict[str, Array]], method: str, batch: Batch) -> Array:
    """What a model of single photographs makes of patients, f32[B F]; see `Encoder`."""
    eyes, valid = batch["eyes"], batch["eye_mask"][..., None]
    outputs = apply({"image": eyes.reshape(-1, *eyes.shape[2:])})
    if "image" not in outputs:
        raise InputError("The model has no tower for 'image' or 'eyes', so it sees no patients.")
    single = outputs["image"].reshape(len(eyes), 2, -1)
    if method == "embed":
        return l2_normalize(jnp.where(valid, single, 0).sum(axis=1))
    return jnp.where(valid, single, single[:, ::-1]).reshape(len(eyes), -1)


def _with_mirrored(
    see: Callable[[Batch], dict[str, Array]], method: str, batch: Batch
) -> dict[str, Array]:
    """The mean of what `see` makes of a batch and of its mirror image; see `Encoder`."""
    outputs = see(batch)
    mirrored = {key: batch[key][..., ::-1, :] for key in _MIRRORED if key in batch}
    if not mirrored:
        return outputs
    others = see({**batch, **mirrored})

    def mean(key: str) -> Array:
        if key in batch and key not in mirrored:  # of texts or volumes, to the bit
            return outputs[key]
        both = (outputs[key] + others[key]) / 2
        return l2_normalize(both) if method == "embed" else both

    return {key: mean(key) for key in outputs}


def bootstrap_groups(patients: Iterable[str]) -> np.ndarray:
    """Names of what is independent: the patient, or the row itself where that is unknown ('')."""
    return np.array([name or f"row {i}" for i, name in enumerate(patients)])


def with_interval(
    statistic: Callable[..., float],
    *arrays: np.ndarray,
    patients: Iterable[str],
    chance: float | None = None,
    proportion: bool = False,
) -> Score:
    """A Score of `statistic(*arrays)` with a 95 % interval by resampling patients.

    Args:
      statistic: function of arrays that share axis 0.
      *arrays: its arguments.
      patients: name of the patient of each row; '' where unknown, which makes the row its own.
      chance: expected value of a model that knows nothing.
      proportion: whether it is one of rows, which has the exact interval at 0 and 1.
    """
    patients = [str(name or "") for name in patients]
    groups = bootstrap_groups(patients)
    value = float(statistic(*arrays))
    # These figures count no events, so that few patients are told and nothing is withheld.
    tags = tuple(tag for tag in small_samples.tags((), groups) if tag == "too few")
    edge = ("proportion", [len(set(groups))]) if proportion else None
    ends = bootstrap.interval(statistic, *arrays, groups=groups, edge=edge)
    if ends.undefined > 0.1 * ends.resamples:
        tags = (*tags, "interval unstable")
    return Score(
        value,
        ends.low,
        ends.high,
        chance,
        len(arrays[0]),
        groups=len(set(groups)),
        method=f"{ends.method}-{'patient' if all(patients) else 'image'}",
        resamples=ends.resamples,
        undefined_resamples=ends.undefined,
        reason=ends.reason,
        tags=tags,
    )


def refuse_shared_patients(what: str, **parts: EvalData | None) -> None:
    """Raises InputError where a patient of a data set is in two of the parts that are not None."""
    given = [(name, data.source) for name, data in parts.items() if data is not None]
    for (name, first), (other, second) in itertools.combinations(given, 2):
        if first.name != second.name:  # two data sets may both have a patient '1'
            continue
        shared = (set(first.column("patient")) & set(second.column("patient"))) - {""}
        if shared:
            raise InputError(
                f"{what}'s {name} and {other} share {len(shared)} patients of {second.name}: "
                "use splits by patient."
            )


def part(data: EvalData, rows: np.ndarray) -> EvalData:
    """The records int[n] of evaluation data, in that order."""
    return pipelines.evaluate(
        data.source.subset(rows), data.transforms, batch_size=data.batch_size, **distributed.share()
    )


def spaced(count: int, wanted: int) -> list[int]:
    """At most `wanted` evenly spaced numbers of `count` records, for a gallery."""
    return [int(i) for i in np.linspace(0, count - 1, min(wanted, count))]
