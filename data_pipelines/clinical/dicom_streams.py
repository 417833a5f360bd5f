"""What the compressed streams of a DICOM object say of themselves: their size and their colours."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import simplejpeg

from data_pipelines.images import decoding

_SIZES = b"\xff\x4f\xff\x51"  # start of a JPEG 2000 codestream, followed by its sizes
_CODING = b"\xff\x52"
# Starts of a frame: C0 to CF but for tables (C4, C8, CC), and F7 of JPEG-LS; C0 to C2 are the
# cosine transform, the only one before which colours are turned into YCbCr.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_COSINE = (0xC0, 0xC1, 0xC2)
_JPEG_YBR, _WAVELET_RGB = ("YBR_FULL", "YBR_FULL_422"), ("YBR_RCT", "YBR_ICT", "RGB")


def compressed(dataset: Any) -> list[bytes]:
    """Returns the compressed stream of each frame; [] where pixels are stored or run-length coded.

    Run lengths are decoded into the size of the header, and know no colours.
    """
    from pydicom import encaps

    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated or "RLE" in syntax.name:
        return []
    frames = int(dataset.get("NumberOfFrames") or 1)
    return list(encaps.generate_frames(dataset.PixelData, number_of_frames=frames))


def size(data: bytes) -> tuple[int, int] | None:
    """Returns (height, width) of a JPEG, JPEG-LS or JPEG 2000 stream from its header, or None."""
    start = data[:200].find(_SIZES)
    if start >= 0:
        if start + 24 > len(data):
            return None
        right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
        return bottom - top, right - left
    for marker, content in decoding.segments(data) if data[:2] == b"\xff\xd8" else ():
        if marker in _FRAMES and len(content) >= 5:
            return struct.unpack_from(">2H", content, 1)
    return None


def conform_colours(dataset: Any, streams: Sequence[bytes]) -> tuple[str, ...]:
    """Makes PhotometricInterpretation say what the streams say, where that is another thing.

    Returns:
        A remark where it has been changed.
    """
    stated = str(dataset.PhotometricInterpretation)
    if dataset.SamplesPerPixel != 3 or not streams:
        return ()
    found = {_colours(stream) for stream in streams}
    kinds = found.pop() if len(found) == 1 else None
    if kinds is None or stated in kinds:
        return ()
    dataset.PhotometricInterpretation = kinds[0]
    return (f"Its header calls its colours {stated}, its pictures say {kinds[0]}: that is taken.",)


def decode_jpeg(dataset: Any, stream: bytes) -> np.ndarray | None:
    """Decodes a JPEG of 8 bits, grey or of colours that it names; None: pydicom has to.

    libjpeg-turbo takes the colours from the stream, and says where it has to make up a part. Of
    pydicom's decoders one turns YCbCr into RGB where Adobe's marker is there, and the other does
    not, and it turns both.

    Returns:
        uint8 [H W 3], or [H W] of grey.

    Raises:
        ValueError: damaged, or without an end.
    """
    # The last mark of JPEG, JPEG-LS and JPEG 2000, which coded pixels never contain.
    if b"\xff\xd9" not in stream[-4096:]:
        raise ValueError("a stream is cut off")
    if stream[:2] != b"\xff\xd8" or dataset.BitsAllocated != 8:
        return None
    if dataset.SamplesPerPixel == 1:
        frame = next((marker for marker, _ in decoding.segments(stream) if marker in _FRAMES), 0)
        return simplejpeg.decode_jpeg(stream, "GRAY")[..., 0] if frame in _COSINE else None
    return simplejpeg.decode_jpeg(stream, "RGB") if _colours(stream) else None


def _colours(data: bytes) -> tuple[str, ...] | None:
    """Returns what the header may call the colours of a stream, the right name first; None: any.

    JPEG by the rules of libjpeg (jdapimin.c, default_decompress_parms): JFIF is YCbCr, the marker
    of Adobe says it, then the names of the components; one that is sampled more coarsely than
    another can be no primary colour. JPEG 2000 by its coding style (ISO/IEC 15444-1, A.6.1):
    where its own transform was applied, decoders undo it.
    """
    start = data[:200].find(_SIZES)
    if start >= 0:
        at = data.find(_CODING, start, start + 4096)
        # Marker 2, length 2, style 1, progression 1, layers 2; then the transform, and 5 later the
        # wavelet: 1 is reversible.
        if at < 0 or at + 14 > len(data) or not data[at + 8]:
            return None
        return _WAVELET_RGB if data[at + 13] == 1 else ("YBR_ICT", "YBR_RCT", "RGB")
    adobe: int | None = None
    for marker, content in decoding.segments(data):
        if marker == 0xE0 and content.startswith(b"JFIF\0"):
            return _JPEG_YBR
        if marker == 0xEE and content.startswith(b"Adobe") and len(content) >= 12:
            adobe = content[11]
        if marker in _FRAMES:
            return _components(content, adobe) if marker in _COSINE else None
    return None


def _components(frame: bytes, adobe: int | None) -> tuple[str, ...] | None:
    if len(frame) < 15 or frame[5] != 3:
        return None
    names, sampling = frame[6:15:3], set(frame[7:15:3])
    if adobe is not None:
        return ("RGB",) if adobe == 0 else _JPEG_YBR
    if len(sampling) > 1 or names == b"\1\2\3":
        return _JPEG_YBR
    return ("RGB",) if names.upper() == b"RGB" else None
