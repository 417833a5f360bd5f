"""Pictures as the bytes of their files."""

import io
from typing import Any

import numpy as np
from PIL import Image


def encode(picture: np.ndarray | Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """A file of that form, saved with the options of PIL."""
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()
