"""Compiles a config's training step for devices that are not here, and says what it needs.

    python -m retina_jax.aot --config=flair:full --topology=v5e:4x4    # needs `.[tpu]`
    python -m retina_jax.aot --config=flair:full --topology=h100:8     # needs `.[cuda13]`
    python -m retina_jax.aot --config=flair:full --topology=cpu:8
    python -m retina_jax.aot --config=flair                            # the devices here

Says before any accelerator is paid for whether a batch fits, how long a step takes at least, and,
where it does not fit, what makes it fit. Neither data nor vocabularies nor weights have to be here.
Each stage is compiled in a process of its own: a compiler that crashes stops no other stage.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import flags

from data_pipelines.errors import InputError
from data_pipelines.records import made_up
from data_pipelines.text import tokenizers
from retina_jax import classifier, cli, experiment, inputs
from retina_jax.build import build, call
from retina_jax.compiled import devices, flops, program, search
from retina_jax.convert import packages
from retina_jax.settings import Stages
from retina_jax.train import loop, sharding
from retina_jax.types import Device, Experiment

_CONFIG = cli.define_config("config", "The config to compile")
_TOPOLOGY = flags.DEFINE_string(
    "topology", None, "v5e:4x4, v5p:2x2x2, h100:8, cpu:8, ...; by default the devices here"
)
_MEMORY = flags.DEFINE_float(
    "memory", None, "GiB that a program may have on a device; by default what JAX takes of it"
)
_SEARCH = flags.DEFINE_bool("search", True, "Look for options that fit where the step does not")
_TOO_LARGE = ("RESOURCE_EXHAUSTED", "Ran out of memory", "Exceeded hbm")


class StepNeeds(NamedTuple):
    """What one training step needs of each device.

    Attributes:
      arguments, temporaries, outputs, donated: bytes; `peak` has to fit at once.
      flops: operations, as they are counted in its trace and divided over the devices.
      traffic: what it moves, by the compiled program.
    """

    arguments: int
    temporaries: int
    outputs: int
    donated: int
    flops: float
    traffic: program.Traffic

    @property
    def peak(self) -> int:
        """Bytes that the step needs at once: its outputs take the place of what is donated."""
        return self.arguments + self.temporaries + self.outputs - self.donated

    def seconds(self, chip: devices.Chip, half: bool) -> tuple[float, float]:
        """What arithmetic and moving take at least, in bfloat16 where `half`."""
        return (self.flops / (chip.flops if half else chip.single),
                self.traffic.memory / chip.bandwidth)  # fmt: skip


def without_data(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a stage that asks for nothing but the shapes of its training batches."""
    keep = {name: value for name, value in given.get("keep", {}).items() if name == "last"}
    emptied = {"evaluators": {}, "at_end": (), "restore_from": {}, "corpora": {}, "keep": keep}
    return {**given, **emptied, "text_lengths": ()}  # the longest texts need most


def stages_of(config: Any) -> dict[str, dict[str, Any]]:
    """The settings of the stages of a config by name; '' for the only one."""
    given = config.to_dict()
    if classifier.is_recipe(given):  # its classes are those of the data
        given = classifier.settings(given)
    if "stages" not in given:
        return {"": without_data(given)}
    several = call("A config of several stages", Stages, **given)
    order = several.stages if several.order is None else several.order
    return {name: without_data(several.of_stage(name)) for name in order}


def need(stage: Experiment) -> StepNeeds:
    """Compiles one training step.

    Raises:
      InputError: if it does not even compile in the memory of the device.
    """
    state = loop.abstract_state(stage)
    shapes = loop.on_device_shapes(stage.data.example())
    batch = sharding.laid_out(shapes, sharding.batch_sharding(stage.mesh))
    key = jax.eval_shape(lambda: jax.random.key(0))
    rng = sharding.laid_out(key, sharding.replicated(stage.mesh))
    traced = loop.jit_step(stage, state).trace(state, batch, rng)
    operations = flops.count(traced.jaxpr) / stage.mesh.size
    compiled = traced.lower().compile()
    memory, text = compiled.memory_analysis(), compiled.as_text()
    if memory is None or text is None:
        raise InputError(f"The compiler of {_TOPOLOGY.value or 'this device'} says no sizes.")
    return StepNeeds(
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        memory.output_size_in_bytes,
        memory.alias_size_in_bytes,
        operations,
        program.traffic(text),
    )


def lines(found: StepNeeds, chip: devices.Chip | None, half: bool, allowed: float) -> list[str]:
    """What is printed of a step.

    Args:
      found: what it needs.
      chip: the device, None for a processor.
      half: whether the model computes in bfloat16.
      allowed: bytes that a program may have; infinite where that is not known.
    """
    sizes = {"arguments": found.arguments, "temporaries": found.temporaries,
             "outputs": found.outputs, "donated": found.donated, "peak": found.peak}  # fmt: skip
    told = [f"  {name:20s} {size / 2**20:12,.1f} MiB" for name, size in sizes.items()]
    told.append(f"  {'operations':20s} {found.flops / 1e9:12,.3f} GFLOP")
    told.append(f"  {'memory traffic':20s} {found.traffic.memory / 1e9:12,.3f} GB at most")
    for kind, (number, size) in sorted(found.traffic.between.items()):
        told.append(f"  {kind:20s} {number:12,d} of {size / 2**20:,.1f} MiB")
    if chip is not None:
        arithmetic, moving = found.seconds(chip, half)
        told.append(f"  {'arithmetic':20s} {1e3 * arithmetic:12,.1f} ms at least")
        told.append(f"  {'moving':20s} {1e3 * moving:12,.1f} ms, if caches kept nothing")
    if allowed < float("inf"):
        fits = "fits" if found.peak <= allowed else "does not fit"
        told.append(f"  {fits}: {found.peak / 2**30:.3g} of {allowed / 2**30:.3g} GiB")
    return told


def _tokenizer(spec: Mapping[str, Any], model: Mapping[str, Any]) -> Any:
    """The tokenizer, or one that stands for it where its files are not here."""
    try:
        return build(tokenizers.TOKENIZERS, packages.tokenizer_spec(spec))
    except InputError:
        return made_up.tokenizer(spec, model)


def _texts(value: Any) -> Iterator[str]:
    """All texts in a part of a config."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)


def built(settings: Mapping[str, Any], hardware: Sequence[Device] | None) -> Experiment:
    """The stage on these devices, with records that are made up."""
    # Transforms name fields of their own data sets.
    opening = inputs.Opening(made_up.loader(set(_texts(settings["streams"]))), _tokenizer)
    return experiment.build_all(settings, Path(os.devnull), hardware, opening)[0]


def _tried(
    settings: Mapping[str, Any], hardware: Sequence[Device] | None
) -> tuple[StepNeeds | None, str]:
    """What the step of a stage needs; or None, and why it could not be compiled."""
    try:
        return need(built(settings, hardware)), ""
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        if not any(words in str(error) for words in _TOO_LARGE):
            raise InputError(f"The step does not compile: {reason}") from error
        return None, reason


def _fitting(
    name: str, settings: dict[str, Any], hardware: Sequence[Device], allowed: float, first: float
) -> None:
    """Prints the overrides with which a step fits, or that none was found."""
    chosen: search.Overrides = {}
    least = first
    for saving in search.savings(settings, len(hardware)):
        trial = search.changed(settings, {**chosen, **saving})
        words = ", ".join(f"{path}={value}" for path, value in saving.items())
        try:
            found, _ = _tried(trial, hardware)
        except InputError as error:
            print(f"  with {words}: {error}")
            continue
        peak = float("inf") if found is None else found.peak
        print(f"  with {words}: {peak / 2**30:.3g} GiB", flush=True)
        if peak < 0.98 * least or least == float("inf"):
            chosen, least = {**chosen, **saving}, peak
        if peak <= allowed:
            start = f"--config.stages.{name}." if name else "--config."
            pasted = " ".join(f"{start}{path}={value}" for path, value in chosen.items())
            print(f"  It fits with {pasted}")
            return
    print("  No option of this library makes it fit: a smaller batch, or larger devices.")


def _divides(settings: Mapping[str, Any], hardware: Sequence[Device], topology: str) -> str:
    """'' if all batches divide over the devices, else which slices they do."""
    rows = [stream["batch_size"] for stream in settings["streams"].values()]
    if all(size % len(hardware) == 0 for size in rows):
        return ""
    kind, _ = devices.parse(topology)
    found = devices.dividing(kind, rows) if kind in devices.CHIPS else []
    return (
        f"batches of {rows} rows do not divide over {len(hardware)} devices; they do over "
        f"{', '.join(found) or 'fewer of them'}."
    )


def _report(name: str, settings: dict[str, Any]) -> None:
    """Prints what a stage needs."""
    topology, hardware, chip = _TOPOLOGY.value, None, None
    if topology:
        devices.prepare(topology)
        hardware = devices.described(topology)
        chip = devices.CHIPS.get(devices.parse(topology)[0])
    allowed = chip.memory * chip.share if chip else float("inf")
    if _MEMORY.value is not None:
        allowed = _MEMORY.value * 2**30
    where = f"{name or 'step'} on {len(hardware or jax.devices())} devices"
    if topology and (why := _divides(settings, hardware or (), topology)):
        print(f"{where}: {why}")
        return
    found, reason = _tried(settings, hardware)
    print(f"{where}, each:")
    if found is None:
        print(f"  does not fit: {reason}")
    else:
        half = settings["model"].get("dtype") == "bfloat16"
        print("\n".join(lines(found, chip, half, allowed)), flush=True)
    peak = float("inf") if found is None else found.peak
    if peak > allowed and _SEARCH.value:
        _fitting(name, settings, hardware or jax.devices(), allowed, peak)


def _alone(name: str, settings: dict[str, Any]) -> None:
    """As `_report`, in a process that a compiler may end: the one that waits says so."""
    faulthandler.disable()
    for number in (signal.SIGINT, signal.SIGTERM):  # no handler of Python runs in a compiler
        signal.signal(number, signal.SIG_DFL)
    try:
        _report(name, settings)
    except InputError as error:
        sys.exit(str(error))


def main(_: list[str]) -> int:
    """Prints what every stage needs; 2 if that is not known of one."""
    if _TOPOLOGY.value:
        devices.parse(_TOPOLOGY.value)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    failed = False
    for name, settings in stages_of(_CONFIG.value).items():
        # No device is in use yet, so that it may be a copy of this one.
        process = multiprocessing.get_context("fork").Process(target=_alone, args=(name, settings))
        process.start()
        try:
            process.join()
        finally:
            process.terminate()
        status = process.exitcode or 0
        failed |= status != 0
        if status < 0:
            print(
                f"{name or 'step'}: the compiler for {_TOPOLOGY.value or 'the devices here'} ended "
                f"with {signal.Signals(-status).name}, so that nothing is known of this stage. "
                "Perhaps memory or processor time ran out; else another slice, or another version "
                "of JAX or of libtpu, may compile it.",
                file=sys.stderr,
            )
    return 2 if failed else 0


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    cli.run(main)
