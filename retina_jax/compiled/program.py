"""What a compiled program moves: bytes through memory, and bytes between devices."""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Mapping, Sequence

COLLECTIVES = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute",
)  # fmt: skip
_BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1, "s16": 2, "u16": 2, "bf16": 2,
    "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8,
}  # fmt: skip
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_SHAPE = re.compile(r"\b(" + "|".join(_BYTES) + r")\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")
# They move nothing by themselves.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "after-all",
         "call", "conditional", "iota", "partition-id", "replica-id"}  # fmt: skip
_SLICES = ("dynamic-slice", "slice", "gather")
_UPDATE = "dynamic-update-slice"


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Of one device in one run of a program.

    Attributes:
      memory: bytes of all operands and results of its kernels, as if no cache kept any.
      between: kind of collective -> (how many, bytes of their results).
      kernels: kind of kernel and the place in the model that it is of -> its share of `memory`.
    """

    memory: float
    between: Mapping[str, tuple[int, float]]
    kernels: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class _Instruction:
    root: str | None
    name: str
    shape: str
    kind: str
    rest: str

    @functools.cached_property
    def operands(self) -> list[str]:
        return _NAME.findall(self.rest.split("), ")[0])


def traffic(text: str) -> Traffic:
    """What a program moves, loops counted as often as they run.

    Args:
      text: the optimised program, `compiled.as_text()`.
    """
    parts, entry = _computations(text)
    times: collections.Counter[str] = collections.Counter()
    _visit(parts, entry, 1, times)
    kernels: dict[str, float] = collections.defaultdict(float)
    between: dict[str, tuple[int, float]] = {}
    for part, runs in times.items():
        sizes = _sizes(parts[part])
        for line in parts[part]:
            if line.kind in _FREE or line.kind.endswith("-done"):
                continue
            place = re.search(r'op_name="([^"]*)"', line.rest)
            name = f"{line.kind} {place.group(1) if place else line.name}"
            kernels[name] += runs * _moved(line, sizes, parts)
            kind = line.kind.removesuffix("-start")
            if kind in COLLECTIVES:
                number, moved = between.get(kind, (0, 0.0))
                between[kind] = (number + runs, moved + runs * _result(line))
    return Traffic(sum(kernels.values()), between, kernels)


def _sizes(lines: Sequence[_Instruction]) -> dict[str, float]:
    return {line.name: _bytes(line.shape) for line in lines}


def _moved(
    line: _Instruction, sizes: Mapping[str, float], parts: Mapping[str, list[_Instruction]]
) -> float:  # fmt: skip
    """Bytes that a kernel reads and writes.

    A loop over layers takes a slice of what it saved, and puts one into it in its place: the rest
    of such an array is neither read nor written.
    """
    if line.kind in _SLICES:
        return 2 * sizes[line.name]
    if line.kind == _UPDATE:
        return 2 * sizes.get(line.operands[1], 0)
    called = re.search(r"calls=%?([\w.\-]+)", line.rest) if line.kind == "fusion" else None
    if called is None:
        return sizes[line.name] + sum(sizes.get(name, 0) for name in line.operands)
    inside = parts[called.group(1)]
    within = _sizes(inside)
    read = sum(_read(one.name, inside, within) for one in inside if one.kind == "parameter")
    return read + sum(_written(one, inside, within) for one in inside if one.root)


def _read(name: str, inside: Sequence[_Instruction], sizes: Mapping[str, float]) -> float:
    """Bytes that a fused kernel reads of one of its values."""
    read = 0.0
    for user in inside:
        if name not in user.operands:
            continue
        first = user.operands[0] == name and name not in user.operands[1:]
        if user.kind == "bitcast":
            read += _read(user.name, inside, sizes)
        elif first and user.kind in _SLICES:
            read += sizes[user.name]
        elif not (first and user.kind == _UPDATE):
            return sizes[name]
    return min(read, sizes[name])


def _written(
    line: _Instruction, inside: Sequence[_Instruction], sizes: Mapping[str, float]
) -> float:  # fmt: skip
    """Bytes that a fused kernel writes of a result."""
    if line.kind in ("tuple", "bitcast"):
        return sum(_written(one, inside, sizes) for one in inside if one.name in line.operands)
    if line.kind == _UPDATE:
        return sizes[line.operands[1]]
    return sizes[line.name]


def _computations(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    parts: dict[str, list[_Instruction]] = {}
    entry = name = ""
    for line in text.splitlines():
        if head := _HEAD.match(line):
            name = head.group(2)
            parts[name] = []
            entry = name if head.group(1) else entry
        elif name and (found := _LINE.match(line)):
            parts[name].append(_Instruction(*found.groups()))
    return parts, entry


def _visit(
    parts: Mapping[str, list[_Instruction]], name: str, runs: int, times: collections.Counter[str]
) -> None:
    """Counts how often each computation runs; those inside a fused kernel are one with it."""
    times[name] += runs
    for line in parts.get(name, []):
        if line.kind == "while":
            body = re.search(r"body=%?([\w.\-]+)", line.rest)
            if body:
                _visit(parts, body.group(1), runs * _trips(parts, line.rest), times)
        elif line.kind in ("call", "conditional", "async-start"):
            called = r"(?:to_apply|calls|branch_computations=\{)=?%?([\w.\-]+)"
            for other in re.findall(called, line.rest):
                _visit(parts, other, runs, times)


def _trips(parts: Mapping[str, list[_Instruction]], rest: str) -> int:
    """How often a loop runs: as the compiler notes it, else the number that it counts to."""
    if known := re.search(r'known_trip_count":\{"n":"(\d+)"', rest):
        return int(known.group(1))
    condition = re.search(r"condition=%?([\w.\-]+)", rest)
    lines = parts.get(condition.group(1), []) if condition else []
    numbers = [re.match(r"(\d+)\)", line.rest) for line in lines if line.kind == "constant"]
    found = [int(number.group(1)) for number in numbers if number]
    return max(found, default=1)


def _result(line: _Instruction) -> float:
    """Bytes of what a collective gives; one that is started gives its operands as well."""
    shapes = [_bytes(f"{kind}[{sides}]") for kind, sides in _SHAPE.findall(line.shape)]
    started = line.kind.endswith("-start") and line.kind != "all-reduce-start"
    return max(shapes, default=0.0) if started else sum(shapes)


def _bytes(shape: str) -> float:
    return sum(
        _BYTES[kind] * math.prod(int(side) for side in sides.split(",") if side)
        for kind, sides in _SHAPE.findall(shape)
    )
