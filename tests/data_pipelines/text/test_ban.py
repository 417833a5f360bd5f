"""Records that are left out by words of their labels."""

import pytest

from data_pipelines.errors import InputError
from data_pipelines.text import ban

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(("label", "substring", "exact", "word"),
                         [("myopia", True, True, True),
                          ("  Retinitis   Pigmentosa ", True, True, True),
                          ("myopic degeneration", True, False, True),
                          ("cmv retinitis", True, False, True),
                          ("neuro-retinitis", True, False, True),
                          ("chorioretinitis", True, False, False),
                          ("no cataract", True, False, True), ("hypermyopia", True, False, False),
                          ("macular hole, stage 2", True, False, True),
                          ("macular edema", False, False, False),
                          ("", False, False, False)])  # fmt: skip
def test_modes(label: str, substring: bool, exact: bool, word: bool) -> None:
    expected = {"substring": substring, "exact": exact, "word": word}
    found = {mode: ban.Ban(mode=mode).finder() for mode in ban.MODES}
    assert {mode: banned(label) for mode, banned in found.items()} == expected
    assert {mode: banned(["normal", label]) for mode, banned in found.items()} == expected
    assert not any(banned([]) for banned in found.values())


def test_words_are_taken_as_they_are() -> None:
    banned = ban.Ban(("a.c", "grade 3+"), "word").finder()
    assert banned("a.c") and banned("dr grade 3+ left") and not banned("abc")
    assert ban.Ban(("近视",), "substring").finder()("高度近视")
    assert not ban.Ban(("近视",), "word").finder()("高度近视")


def test_an_empty_text_is_found_by_exact_only() -> None:
    banned = ban.Ban(("",), "exact", "caption").finder()
    assert banned("") and banned(" \n ") and not banned("A leak.") and not banned(["a"])
    for mode in ("substring", "word"):
        with pytest.raises(InputError, match="empty by mode 'exact' only"):
            ban.Ban(("",), mode)


@pytest.mark.parametrize(("options", "words"),
                         [({"mode": "regex"},
                           "'mode' is one of substring, exact, word, got 'regex'"),
                          ({"words": "myopia"}, "'words' is a list"),
                          ({"words": ["myopia", " "]}, "'words' is a list of words, empty by"),
                          ({"word": ["myopia"]},
                           "no option 'word'; there are words, mode, field")])  # fmt: skip
def test_mistakes(options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        ban.make(options)
