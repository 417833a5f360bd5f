"""Where the tests of builders put what they build from."""

import pathlib

import pytest


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """The folder of a corpus, which is not made yet."""
    return tmp_path / "source"
