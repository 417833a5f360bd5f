"""The smallest embedded data set, built once for all tests of the pipelines."""

import pathlib

import numpy as np
import pytest
import simplejpeg

from data_pipelines.records import sources


@pytest.fixture(scope="session")
def data_dir(data_folder: pathlib.Path) -> pathlib.Path:
    """A data folder that holds 'synthetic_retina/smoke'."""
    sources.load("synthetic_retina/smoke", "test", data_folder)
    return data_folder


@pytest.fixture(scope="session")
def expert(data_dir: pathlib.Path) -> sources.Source:
    """32 synthetic eyes with captions."""
    return sources.load("synthetic_retina/smoke", "expert", data_dir)


@pytest.fixture
def picture() -> np.ndarray:
    """A smooth uint8 [60 80 3] picture whose left half is brighter."""
    y, x = np.mgrid[:60, :80]
    return np.stack([255 - 2 * x, 2 * y + 40, 2 * x], axis=-1).astype(np.uint8)


@pytest.fixture
def jpeg(picture: np.ndarray) -> bytes:
    """The picture as JPEG."""
    return simplejpeg.encode_jpeg(np.ascontiguousarray(picture), 95)
