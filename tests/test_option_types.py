"""An option of a wrong type is one sentence with its name, its value and what it is to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from data_pipelines.errors import InputError
from data_pipelines.transforms import TRANSFORMS
from retina_jax.build import build, check_options
from retina_jax.classifier import settings


def _takes(
    side: int | tuple[int, int] = 1, rate: float | None = None, fast: bool = False,
    near: tuple[float, ...] = (), label: str = "", of: Sequence[str] = (),
    more: Mapping[str, Any] | None = None, unknown: np.ndarray | None = None,
) -> None:  # fmt: skip
    del side, rate, fast, near, label, of, more, unknown


@pytest.mark.parametrize(("option", "value", "told"), [
    ("side", "abc", "'side' is a whole number or a list of 2 whole numbers, got 'abc'."),
    ("side", (1, 2, 3), "'side' is a whole number or a list of 2 whole numbers, got (1, 2, 3)."),
    ("side", 2.5, "'side' is a whole number or a list of 2 whole numbers, got 2.5."),
    ("rate", "fast", "'rate' is a number or None, got 'fast'."),
    ("fast", "false", "'fast' is True or False, got 'false'."),
    ("near", [1, "b"], "'near' is a list of numbers, got [1, 'b']."),
    ("label", 3, "'label' is a text, got 3."),
    ("of", [1], "'of' is a list of texts, got [1]."),
    ("more", 1, "'more' is a group of options or None, got 1."),
])  # fmt: skip
def test_a_wrong_type_is_one_sentence(option: str, value: Any, told: str) -> None:
    with pytest.raises(InputError) as caught:
        check_options("The place", _takes, {option: value})
    assert str(caught.value) == f"The place: {told}"


def test_what_fits_and_what_is_not_known_passes() -> None:
    check_options("", _takes, {"side": [2, 3], "rate": 1, "fast": True, "near": [1, 0.5],
                               "label": "a", "of": ["a"], "more": {"b": 1}})  # fmt: skip
    check_options("", _takes, {"side": np.int64(2), "rate": np.float32(1), "unknown": "anything"})


def test_options_of_transforms_and_of_a_classifier_are_checked() -> None:
    with pytest.raises(InputError, match="'decode': 'size' is a whole number, got 'abc'"):
        build(TRANSFORMS, {"name": "decode", "size": "abc"})
    with pytest.raises(InputError, match="The classifier: 'size' is .*, got 'abc'"):
        settings({"data": "synthetic_retina/fundus", "size": "abc"})
