"""Which reader a clinical file needs, told by its first bytes, and the one call that uses it."""

from __future__ import annotations

import dataclasses
import pathlib

from data_pipelines.clinical import dicom, heidelberg, heidelberg_xml, topcon
from data_pipelines.clinical.scan import Pseudonym, Scan, digest, pseudonym
from data_pipelines.errors import InputError

SUFFIXES = (".dcm", ".vol", ".e2e", ".xml", ".fda", ".fds")


def recognise(path: pathlib.Path) -> str | None:
    """Returns 'dicom', 'vol', 'e2e', 'xml' or 'topcon' by the first bytes of a file, or None."""
    with open(path, "rb") as file:
        head = file.read(2048)
    if head[128:132] == b"DICM":
        return "dicom"
    if head.startswith(b"HSF-OCT"):
        return "vol"
    if head.startswith(b"CMDb"):
        return "e2e"
    if head.startswith(b"FOCT"):
        return "topcon"
    return "xml" if b"<HEDX" in head else None


def read(
    path: str | pathlib.Path, key: bytes | None = None, burned_in: bool = False
) -> tuple[Scan, ...]:
    """Reads one clinical file.

    Args:
        path: DICOM, Heidelberg .vol, .e2e or .xml (its pictures beside it), Topcon .fda or .fds.
        key: secret bytes for the hash of the patient's id; without it `patient` is None.
        burned_in: read DICOM pictures that say they show patient data, too.

    Returns:
        The scans of the file: a volume first, then what was photographed with it.

    Raises:
        InputError: not such a file, damaged, too large, or the extra is not installed.
    """
    path = pathlib.Path(path)
    anonymous = pseudonym(key)
    try:
        return read_anonymous(path, anonymous, burned_in)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error.__cause__


def read_anonymous(path: pathlib.Path, anonymous: Pseudonym, burned_in: bool) -> tuple[Scan, ...]:
    """Like `read`, with the hash function, and errors that do not name the file."""
    try:
        kind = recognise(path)
        if kind is None:
            raise InputError(_unknown(path))
        if kind == "dicom":
            scans = dicom.read_dicom(path, anonymous, burned_in)
        else:
            scans = READERS[kind](path, anonymous)
        source = digest(path)
    except OSError as error:
        raise InputError(f"It cannot be opened ({error.strerror}).") from error
    return tuple(dataclasses.replace(scan, source=source) for scan in scans)


READERS = {
    "vol": heidelberg.read_vol,
    "e2e": heidelberg.read_e2e,
    "xml": heidelberg_xml.read_xml,
    "topcon": topcon.read_topcon,
}


def _unknown(path: pathlib.Path) -> str:
    suffix = path.suffix.lower()
    if suffix == ".img":
        return (
            "A Zeiss .img file states neither size nor eye: ask the vendor for the "
            "unobfuscated research export."
        )
    if suffix in SUFFIXES:
        return f"It is named {suffix} but does not begin like one: it is damaged or another file."
    return "It is no clinical file (DICOM, .vol, .e2e, Heidelberg .xml, .fda, .fds)."
