"""Files with mutated bytes: each is read, or refused in one sentence; benchmarks/README.md.

python benchmarks/fuzz.py --tries=100000 --output=benchmarks/results/fuzz.jsonl
python benchmarks/fuzz.py --kinds=weights --seeds=FOLDER --keep=FOUND
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import ctypes
import dataclasses
import functools
import io
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path += [str(Path(__file__).resolve().parents[1] / name) for name in ("", "tests")]

from benchmarks import measuring  # noqa: E402
from data_pipelines import clinical  # noqa: E402
from data_pipelines.builders import pictures  # noqa: E402
from data_pipelines.builders.entries import Ref  # noqa: E402
from data_pipelines.errors import InputError  # noqa: E402
from data_pipelines.images.preparation import Preparation  # noqa: E402

OUTCOMES = ("read", "refused", "tracebacks", "crashes", "hangs")
SECONDS, MEMORY = 30.0, 6 << 30  # of one file before it counts as a hang, and that it may take
_NUMBERS = (0, 1, 255, 0x7FFF, 0xFFFF, 10**6, 2**24, 10**9, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        write: writes whole files into a folder, from which the others are made.
        read: reads one, as a user's would be.
    """

    write: Callable[[Path], None]
    read: Callable[[Path], object]


def _values() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)


def _write_pictures(folder: Path) -> None:
    colour = Image.fromarray(_values())
    deep = Image.fromarray(_values()[..., 0].astype(np.uint16) * 16)
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix in ("png", "jpg", "tif", "webp"):
        colour.save(folder / f"colour.{suffix}", exif=exif)
    for suffix in ("gif", "bmp", "ppm"):
        colour.save(folder / f"colour.{suffix}")
    colour.convert("CMYK").save(folder / "ink.jpg")
    colour.save(folder / "packed.tif", compression="tiff_lzw")
    deep.save(folder / "deep.png")
    deep.save(folder / "deep.tif")


def _read_picture(path: Path) -> None:
    options = pictures.PictureOptions(preparation=Preparation(size=16))
    for modality in ("cfp", "oct"):
        pictures.READERS["one"]((Ref(path.name),), path.parent, options, modality)


def _write_volumes(folder: Path) -> None:
    stack = _values().transpose(2, 0, 1)
    pages = [Image.fromarray(page) for page in stack]
    np.save(folder / "bytes.npy", stack)
    np.save(folder / "floats.npy", stack / np.float32(255))
    for suffix in ("tif", "gif"):
        pages[0].save(folder / f"pages.{suffix}", save_all=True, append_images=pages[1:])


def _read_volume(path: Path) -> None:
    options = pictures.PictureOptions(slices=2)
    pictures.READERS["volume"]((Ref(path.name),), path.parent, options, "cfp")


def _write_devices(folder: Path) -> None:
    import device_files  # pyright: ignore[reportMissingImports] (of the tests)
    from pydicom.uid import JPEG2000Lossless

    stack = np.ascontiguousarray(_values().transpose(2, 0, 1))
    tomogram = "1.2.840.10008.5.1.4.1.1.77.1.5.4"
    device_files.write_dicom(folder / "photograph.dcm", _values(), ImageLaterality="R")
    device_files.write_dicom(folder / "stack.dcm", stack, tomogram, compress=JPEG2000Lossless)
    device_files.write_dicom(folder / "deep.dcm", stack.astype(np.uint16) * 16, tomogram)
    device_files.write_vol(folder / "raster.vol", stack / np.float32(255), stack[0])
    device_files.write_e2e(folder / "series.e2e", device_files.e2e_parts())
    parts = device_files.facts()
    device_files.write_topcon(
        folder / "packed.fda", {**parts, "@IMG_JPEG": device_files.stack(stack)}
    )
    plain = device_files.raw(stack.astype(np.uint16))
    device_files.write_topcon(folder / "plain.fds", {**parts, "@IMG_SCAN_03": plain})


def _write_weights(folder: Path) -> None:
    from convert import pickles  # pyright: ignore[reportMissingImports] (of the tests)

    from retina_jax.convert import files

    arrays = {"0": _values()[..., 0].astype(np.float32), "1": np.arange(6, dtype=np.int64)}
    named = {"a.weight": arrays["0"], "b.steps": arrays["1"]}
    files.write_safetensors(folder / "plain.safetensors", named)
    tensors = {key: pickles.tensor(key, array) for key, array in arrays.items()}
    value = {"state_dict": dict(zip(named, tensors.values(), strict=True)), "epoch": 3}
    for write in (pickles.zipped, pickles.streamed, pickles.tarred):
        write(folder / f"{write.__name__}.pth", value, arrays)


def _read_weights(path: Path) -> None:
    from retina_jax.convert import files

    # Arrays may be views of the file: what cannot be read shows where it is.
    for array in files.read_tensors(path).values():
        array.sum()


KINDS = {
    "pictures": Kind(_write_pictures, _read_picture),
    "volumes": Kind(_write_volumes, _read_volume),
    "devices": Kind(_write_devices, functools.partial(clinical.read, key=bytes(32))),
    "weights": Kind(_write_weights, _read_weights),
}


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Returns a file with a few of its bytes changed, moved, repeated or cut off.

    Of a zip archive, one member is changed in half of the cases, with its checksum.
    """
    if data[:4] == b"PK\x03\x04" and draw.random() < 0.5:
        with zipfile.ZipFile(io.BytesIO(data)) as before:
            members = {name: before.read(name) for name in before.namelist()}
        chosen = draw.choice(sorted(members))
        members[chosen] = mutated(members[chosen], draw)
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as after:
            for name, content in members.items():
                after.writestr(name, content)
        return stream.getvalue()
    result = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4, 12))):
        if not result:
            break
        # Headers matter more than pixels do.
        at = draw.randrange(len(result) if draw.random() < 0.6 else min(len(result), 256))
        width, order = draw.choice((1, 2, 4, 8)), draw.choice(("little", "big"))
        number = (draw.choice(_NUMBERS) % 256**width).to_bytes(width, order)
        start, length = draw.randrange(len(result)), draw.choice((1, 4, 16, 64))
        action = draw.randrange(6)
        if action == 0:
            result[at] ^= 1 << draw.randrange(8)
        elif action == 1:
            result[at : at + width] = number
        elif action == 2:
            result[at : at + width] = draw.randbytes(width)
        elif action == 3:
            del result[at : None if draw.random() < 0.3 else at + length]
        else:
            insert = action == 4
            result[at : at if insert else at + length] = result[start : start + length]
    return bytes(result)


def _case(files: Sequence[Path], seed: int, number: int) -> tuple[str, bytes]:
    """Returns the suffix and the bytes of a mutated file, the same for the same numbers."""
    draw = random.Random(f"{seed}/{number}")
    file = draw.choice(files)
    return file.suffix, mutated(file.read_bytes(), draw)


def _outcome(read: Callable[[Path], object], path: Path) -> tuple[str, str]:
    """Reads a file; returns what came of it, and a line on the exception that should not be."""
    try:
        read(path)
    except InputError as error:
        if str(error).isprintable():
            return "refused", ""
        return "tracebacks", "a sentence of several lines"
    except Exception as error:  # noqa: BLE001 (these are what is looked for)
        at = traceback.extract_tb(error.__traceback__)[-1]
        return "tracebacks", f"{type(error).__name__} in {Path(at.filename).name}, {at.name}"
    return "read", ""


def _peak() -> int:
    """Returns the most memory in bytes since `_forget`."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) * 1024


def _forget() -> int:
    """Starts to measure memory again, from what is held now, in bytes."""
    ctypes.CDLL(None).malloc_trim(0)  # else what is free in the heap is taken again unseen
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _work(kind: str, files: Sequence[Path], numbers: range, seed: int, sender: Any) -> None:
    """Tries the mutated files of these numbers and sends what came of each, as long as it lives."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries in C complain of what they read
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    # Memory that is given back shows in the peak of the next file; of itself glibc keeps up to
    # 32 MiB of it (M_MMAP_THRESHOLD is -3).
    ctypes.CDLL(None).mallopt(-3, 1 << 16)
    for file in files:  # what has to be imported is no memory of a file
        KINDS[kind].read(file)
    sender.send(None)
    with tempfile.TemporaryDirectory() as folder:
        for number in numbers:
            suffix, data = _case(files, seed, number)
            path = Path(folder).resolve() / f"case{suffix}"
            path.write_bytes(data)
            before = _forget()
            outcome, line = _outcome(KINDS[kind].read, path)
            sender.send((outcome, line, _peak() - before, len(data)))


def fuzz(kind: str, files: Sequence[Path], tries: int, seed: int, keep: Path | None) -> dict:
    """Reads mutated files of a kind, in a process of their own, and returns a line of figures.

    Args:
        kind: one of `KINDS`.
        files: whole files of that kind.
        tries: how many mutated files to read.
        seed: the same mutations for the same seed.
        keep: a folder for those that are neither read nor refused; None keeps none.
    """
    counts = collections.Counter(dict.fromkeys(OUTCOMES, 0))
    found: collections.Counter[str] = collections.Counter()
    memory, times, number, start = 0, 0.0, 0, time.perf_counter()
    context = multiprocessing.get_context("fork")
    while number < tries:
        receiver, sender = context.Pipe(duplex=False)
        numbers = range(number, tries)
        process = context.Process(target=_work, args=(kind, files, numbers, seed, sender))
        process.start()
        sender.close()
        with contextlib.suppress(EOFError):
            receiver.recv()
        while number < tries:
            outcome, line, grown, size = "hangs", "", 0, 1
            with contextlib.suppress(EOFError):
                if receiver.poll(SECONDS):
                    outcome = "crashes"
                    outcome, line, grown, size = receiver.recv()
            counts[outcome] += 1
            found.update([line] if line else [])
            memory, times = max(memory, grown), max(times, grown / max(size, _MIB))
            if keep and outcome not in ("read", "refused"):
                suffix, data = _case(files, seed, number)
                (keep / f"{kind}_{outcome}_{number}{suffix}").write_bytes(data)
            number += 1
            if outcome in ("hangs", "crashes"):
                break
        process.kill()
        process.join()
    return {
        "figure": f"fuzz/{kind}",
        "tried": tries,
        **counts,
        "memory_mib": round(memory / _MIB, 1),
        "memory_times_file": round(times, 1),
        "seconds": round(time.perf_counter() - start, 1),
        "found": dict(found.most_common(20)),
    }


def _lines(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    yield measuring.environment(("pillow", "simplejpeg", "pydicom", "eyepy"), seed=options.seed)
    total = collections.Counter(dict.fromkeys(("tried", *OUTCOMES), 0))
    for kind in options.kinds:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder).resolve()
            KINDS[kind].write(root)
            files = sorted(root.iterdir())
            if options.seeds:
                suffixes = {file.suffix for file in files}
                own = sorted(Path(options.seeds).rglob("*"))
                files += [file for file in own if file.suffix in suffixes]
            keep = Path(options.keep) if options.keep else None
            if keep:
                keep.mkdir(parents=True, exist_ok=True)
            line = fuzz(kind, files, options.tries // len(options.kinds), options.seed, keep)
        total.update({name: line[name] for name in total})
        yield line
    yield {"figure": "fuzz/all", **total}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit status is 1 where a file was neither read nor refused."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tries", type=int, default=100_000, help="mutated files (%(default)s)")
    parser.add_argument(
        "--kinds", type=lambda text: text.split(","), default=list(KINDS), help="(%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", help="folder of whole files of your own, beside the drawn ones")
    parser.add_argument("--keep", help="folder for the files that were neither read nor refused")
    parser.add_argument("--output", help="file for the lines")
    lines = measuring.tell(_lines(options := parser.parse_args(arguments)), options.output)
    return int(any(lines[-1][name] for name in ("tracebacks", "crashes", "hangs")))


if __name__ == "__main__":
    sys.exit(main())
