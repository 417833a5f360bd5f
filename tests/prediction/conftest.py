"""Photographs, and a model that is asked about them."""

import pytest
from prediction import asked


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return asked.write(tmp_path_factory.mktemp("photographs") / "pictures")


@pytest.fixture
def model(tmp_path):
    return asked.Redness(asked.described(tmp_path))
