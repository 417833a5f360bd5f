"""What a clinical file holds, once its identifiers are taken off."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import hmac
import math
import pathlib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from data_pipelines.errors import InputError
from data_pipelines.images.decoding import MAX_PIXELS, MAX_VOXELS

SHORTEST_KEY = 16
# What a value of a Heidelberg file means above this: nothing was measured there.
_EMPTY = 1.99
# Where a layer curve of such a file has no row.
_NO_LAYER = 3.0e38

Pseudonym = Callable[[str | None], str | None]


@dataclasses.dataclass(frozen=True)
class Spacing:
    """Millimetres from one sample to the next; None where the file does not state it.

    Attributes:
        between: the distance from one B-scan to the next.
        down: the distance from one row to the next (axial in a B-scan).
        across: the distance from one column to the next (transversal in a B-scan).
    """

    between: float | None = None
    down: float | None = None
    across: float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Scan:
    """One photograph or one volume. What the file does not state is None, never guessed.

    Attributes:
        kind: 'photograph', 'volume' (stack of B-scans), 'scanning_laser' (localizer of a volume)
            or 'en_face' (map computed from a volume).
        array: uint8 [H W 3] or [H W]. Of a volume [T H W], row 0 on the side of the vitreous as
            stored, uint8, uint16 over the full range 0..65535, or float32 in 0..1 with NaN where
            nothing was measured (see `grey`).
        laterality: 'OD' (right), 'OS' (left) or None.
        spacing: the distances between pixels in mm.
        scan_pattern: how the B-scans lie, in the words of the file.
        device: manufacturer and model, without serial number.
        date: day of acquisition, 'YYYY-MM-DD'.
        patient: keyed hash of the patient's id, the same for all files of one id and key.
        modality: 'cfp', 'ffa', 'icga', 'redfree', 'ir', 'oct', 'octa' (flow) or None.
        layers: {name: float32 [T W]}, row of a boundary, counted from the top; NaN where none.
        source: hash of the file.
        series: number of the acquisition within the file; scans that share it are of one eye.
        remarks: what the user should know about this scan, in sentences without identifiers.
    """

    kind: str
    array: np.ndarray
    laterality: str | None = None
    spacing: Spacing = Spacing()
    scan_pattern: str | None = None
    device: str | None = None
    date: str | None = None
    patient: str | None = None
    modality: str | None = None
    layers: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    source: str = ""
    series: int = 0
    remarks: tuple[str, ...] = ()


def pseudonym(key: bytes | None) -> Pseudonym:
    """Returns the function that turns a patient's id into 32 hexadecimal digits.

    It is HMAC-SHA256 (RFC 2104) of the id without outer blanks, shortened to 128 bits. Without
    the key nobody can test which id a hash belongs to, however few ids there are. Without a key,
    or of a missing id, it is None.

    Raises:
        InputError: the key has fewer than `SHORTEST_KEY` bytes.
    """
    if key is not None and len(key) < SHORTEST_KEY:
        raise InputError(
            f"The key has {len(key)} bytes, fewer than {SHORTEST_KEY}: make one of random bytes, "
            "for instance by 'head -c 32 /dev/urandom > key'."
        )

    def of(identifier: str | None) -> str | None:
        plain = (identifier or "").strip("\0 \t\r\n")
        if key is None or not plain:
            return None
        return hmac.new(key, plain.encode(), hashlib.sha256).hexdigest()[:32]

    return of


def digest(path: pathlib.Path) -> str:
    """Returns 16 hexadecimal digits that stand for the bytes of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def grey(intensity: np.ndarray) -> np.ndarray:
    """Returns float32 in 0..1, the fourth root of the linear intensities of a Heidelberg device.

    Its OCT values span six decades, so that a linear picture of them is black. Nothing is lost:
    the fourth power gives them back. NaN where the device marks that nothing was measured.
    """
    values = intensity.astype(np.float64)
    with np.errstate(invalid="ignore"):
        root = np.sqrt(np.sqrt(np.clip(values, 0, 1)))
        return np.where(values > _EMPTY, np.nan, root).astype(np.float32)


def linear(flow: np.ndarray) -> np.ndarray:
    """Returns float32 in 0..1, the flow of an angiography; NaN outside, where none was measured."""
    values = flow.astype(np.float32)
    return np.where((values >= 0) & (values <= 1), values, np.float32(np.nan))


def is_angiography(path: pathlib.Path) -> bool:
    """Whether Heidelberg's export of a scan calls it one of angiography: 'NAME_Angio.vol'."""
    return re.search(r"(^|[-_ ])angio$", path.stem.lower()) is not None


def layer_rows(
    curves: Iterable[tuple[int, str, np.ndarray]], number: int, width: int
) -> dict[str, np.ndarray]:
    """Returns {name: float32 [number width]} of the layer curves of a Heidelberg file.

    Args:
        curves: (place of the B-scan, name, rows of the boundary); one of another length than
            `width` belongs to no B-scan here and is left out.
        number: the number of B-scans.
        width: the width of a B-scan in pixels.
    """
    found: dict[str, np.ndarray] = {}
    for place, name, curve in curves:
        if curve.shape == (width,):
            rows = found.setdefault(name, np.full((number, width), np.nan, np.float32))
            rows[place] = np.where(curve >= _NO_LAYER, np.nan, curve)
    return found


def millimetres(value: object) -> float | None:
    """Returns a positive finite length as float, anything else as None."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) and number > 0 else None


def day(text: str | None) -> str | None:
    """Returns 'YYYY-MM-DD' of a date that begins with it, or with YYYYMMDD; None if it is none.

    Days before 1950 are those of an empty field: no device is that old.
    """
    digits = (text or "").strip().replace("-", "")[:8]
    try:
        date = datetime.datetime.strptime(digits, "%Y%m%d").date()
    except ValueError:
        return None
    return date.isoformat() if date.year >= 1950 else None


def words(*texts: object) -> str | None:
    """Joins what the file calls a device or pattern; control characters and long tails go."""
    joined = " ".join(str(text) for text in texts if text)
    plain = " ".join("".join(c if c.isprintable() else " " for c in joined).split())[:64]
    return plain or None


def refuse_huge(what: str, *sizes: int) -> None:
    """Raises `InputError` if a volume or picture claims more than `MAX_VOXELS`, or nothing."""
    text = " x ".join(str(size) for size in sizes)
    if any(size < 1 for size in sizes):
        raise InputError(f"It claims a {what} of {text}: it is damaged or holds no picture.")
    limit = MAX_VOXELS if what == "volume" else MAX_PIXELS
    # Python's integers do not overflow; numpy's product would.
    if math.prod(map(int, sizes)) > limit:
        raise InputError(
            f"It claims a {what} of {text}, more than the {limit:,} values allowed: it is damaged, "
            "or has to be exported in parts."
        )


@contextlib.contextmanager
def part(what: str, lost: list[str]) -> Iterator[None]:
    """Notes in `lost` that a part of a file cannot be read, and why, so that the others are.

    The sentence holds no more of an exception than that of `parsing`.
    """
    try:
        yield
    except ImportError:
        raise
    except InputError as error:
        lost.append(f"{what} cannot be read: {error}")
    except Exception as error:  # noqa: BLE001 (as `parsing`)
        lost.append(f"{what} cannot be read ({type(error).__name__}): it is truncated or damaged.")


def lacking(read: Iterable[int], total: int, what: str = "B-scans") -> tuple[str, ...]:
    """Returns a remark on those of the numbers 0 to `total` - 1 that are not read, if any."""
    gone = sorted(set(range(total)).difference(read))
    if not gone:
        return ()
    names = ", ".join(str(i + 1) for i in gone[:10]) + (", ..." if len(gone) > 10 else "")
    return (f"Of its {total} {what} {len(gone)} are missing or damaged: {names}.",)


def told(scans: Sequence[Scan], lost: Sequence[str], none: str) -> list[Scan]:
    """Returns the scans of a file with a remark on each part of it that is lost.

    Raises:
        InputError: there is no scan at all; the sentence is the first loss, or `none`.
    """
    if not scans:
        raise InputError(lost[0] if lost else none)
    return [dataclasses.replace(s, remarks=(*s.remarks, *lost)) for s in scans]


@contextlib.contextmanager
def parsing(what: str) -> Iterator[None]:
    """Turns whatever a library raises over a damaged file into one `InputError` sentence.

    The sentence names the kind of the exception only, since its text may quote the file, and with
    it the patient; warnings are silenced for the same reason.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except ImportError as error:
        raise InputError(
            f"Reading {what} needs the package '{error.name}': pip install 'retina_jax[clinical]'."
        ) from error
    except Exception as error:
        # Without its cause, whose text a notebook would show.
        raise InputError(
            f"It cannot be read as {what} ({type(error).__name__}): it is truncated, damaged or "
            "of another kind."
        ) from None
