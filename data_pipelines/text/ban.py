"""Leaving out records by words of a field: classes that a model must not see, missing texts."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data_pipelines.errors import InputError
from data_pipelines.text.texts import plain

# FLAIR's words; it leaves out a record if one of its categories contains one of them.
FLAIR_WORDS = (
    "myopia", "cataract", "macular hole", "retinitis pigmentosa", "myopic", "myope", "myop",
    "retinitis",
)  # fmt: skip


def _substring(word: str) -> Callable[[str], bool]:
    return lambda label: word in label


def _exact(word: str) -> Callable[[str], bool]:
    return lambda label: word == label


def _word(word: str) -> Callable[[str], bool]:
    pattern = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)")
    return lambda label: pattern.search(label) is not None


MODES: dict[str, Callable[[str], Callable[[str], bool]]] = {
    "substring": _substring, "exact": _exact, "word": _word,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Ban:
    """Which records to leave out; case and runs of blanks do not count.

    No mode understands negation: all but 'exact' also leave out "no cataract", which is every
    record of DRIONS-DB.

    Attributes:
        words: what must not be among the labels; '' stands for an empty text, 'exact' only.
        mode: 'substring' (FLAIR) finds a word anywhere, "retinitis" also in "chorioretinitis";
            'exact' (KeepFIT) wants the whole label, so "myopic degeneration" stays in; 'word'
            finds whole words, so "chorioretinitis" stays and "CMV retinitis" and "neuro-retinitis"
            do not. A script without blanks, such as Chinese, needs 'substring'.
        field: the field with a label or a list of labels.
    """

    words: Sequence[str] = FLAIR_WORDS
    mode: str = "word"
    field: str = "labels"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"ban: 'mode' is one of {', '.join(MODES)}, got '{self.mode}'.")
        # A text would be taken for its letters, and an empty word is in every label.
        exact = self.mode == "exact"
        if isinstance(self.words, str) or not (exact or all(map(plain, self.words))):
            raise InputError(
                f"ban: 'words' is a list of words, empty by mode 'exact' only, got {self.words!r}."
            )

    def finder(self) -> Callable[[str | Sequence[str]], bool]:
        """Returns the function that tells of the value of the field whether it is banned."""
        tests = [MODES[self.mode](plain(word)) for word in self.words]

        def banned(value: str | Sequence[str]) -> bool:
            labels = [plain(text) for text in ([value] if isinstance(value, str) else value)]
            return any(test(label) for label in labels for test in tests)

        return banned


def make(options: Mapping[str, Any]) -> Ban:
    """Returns the `Ban` of the options `words`, `mode`, `field`; raises `InputError` for others."""
    names = [field.name for field in dataclasses.fields(Ban)]
    unknown = [name for name in options if name not in names]
    if unknown:
        raise InputError(f"ban: there is no option '{unknown[0]}'; there are {', '.join(names)}.")
    return Ban(**options)
