"""Pure functions of reports: their sentences, in English and Chinese, and what belongs together."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from data_pipelines.errors import InputError

# A full stop after these, or after a single letter, does not end a sentence.
_ABBREVIATIONS = "|".join(("e\\.g", "i\\.e", "vs", "cf", "approx", "ca", "dr", "mr", "mrs", "fig"))
_NO_END = re.compile(rf"(?:^|[\s(])(?:{_ABBREVIATIONS}|[a-z])\.$", re.IGNORECASE)
# Ends of sentences: Chinese ones anywhere, Western ones before a blank, so not inside "0.5".
_END = re.compile(r"[。！？]+[”’」』）]*\s*|[.!?]+[\"')\]]*(?:\s+|$)|\n+\s*|[;；]\s*")
_HALF = (";", "；")
# Words that say which eye a sentence is about.
_SIDE = re.compile(
    r"\b(?:right|left|both|bilateral(?:ly)?|OD|OS|OU|RE|LE)\b|[右左双]", re.IGNORECASE
)
# How people and programs write that there is nothing, capitals aside.
NOTHING = frozenset(
    ("", "nan", "none", "na", "n/a", "#n/a", "<na>", "nat", "null", "-", "--", "[nan]", "[none]")
)
# Words for an eye, in English, Latin, German, French, Spanish, Italian and Chinese; letters of
# abbreviations are joined, 'O.D.' is 'od'.
_RIGHT = "od r re rt right dexter dextra ra rechts rechtes droit derecho destro 右 右眼"
_LEFT = (
    "os l le lt left sinister sinistra la li links linkes og gauche oi izquierdo sinistro 左 左眼"
)
_EYES = {**dict.fromkeys(_RIGHT.split(), "OD"), **dict.fromkeys(_LEFT.split(), "OS")}
_NO_SIDE = frozenset(("eye", "oculus", "side", "auge", "oeil", "œil", "ojo", "occhio"))
_CHINESE = re.compile(r"[\u3000-\u303f\u3400-\u9fff\uff00-\uffef]")


def sentences(text: str) -> list[str]:
    """Splits a text after 。！？, after . ! ? before a blank, and at line ends; blanks are trimmed.

    A full stop ends no sentence in numbers ("0.5"), after a single letter, and after a few
    abbreviations ("e.g."). A semicolon ends one only where the next part names a side, as in
    "left eye: drusen; right eye: normal".
    """
    found, start = [], 0
    for end in _END.finditer(text):
        part = text[start : end.end()].rstrip()
        following = _END.split(text[end.end() :], maxsplit=1)[0]
        joined = part.endswith(_HALF) and not names_side(following)
        if not joined and not _NO_END.search(part):
            found.append(part.strip())
            start = end.end()
    found.append(text[start:].strip())
    return [sentence for sentence in found if sentence]


def names_side(text: str) -> bool:
    """Whether a text says which eye it is about, in English or Chinese."""
    return bool(_SIDE.search(text))


def named_eye(text: str) -> str | None:
    """Returns 'OD' (right), 'OS' (left), or '' where a text says nothing; None: no one eye.

    One vocabulary of tables, names and device files: "R", "right_eye", "O.D.", "Oculus dexter".
    """
    if not given(text):
        return ""
    words = re.findall(r"[^\W_]+", text.casefold())
    whole = _EYES.get("".join(words).removesuffix("eye"))
    sides = {_EYES.get(word) for word in words if word not in _NO_SIDE}
    return whole or (sides.pop() if len(sides) == 1 else None)


def passages(text: str) -> list[str]:
    """Splits a text into parts that can change places without changing what is said of which eye.

    In "Right eye: normal. Clear media. Left eye: glaucoma. C/D 0.8." the second sentence is about
    the right eye only because of its place. So a sentence that names a side takes those after it
    along, up to the next one that does. Sentences before the first of them stand alone, and have
    to stay before it.
    """
    found: list[list[str]] = []
    for sentence in sentences(text):
        if found and names_side(found[-1][0]) and not names_side(sentence):
            found[-1].append(sentence)
        else:
            found.append([sentence])
    return [join(part) for part in found]


def join(parts: Sequence[str]) -> str:
    """Joins sentences, with a blank except after Chinese ones.

    Each but the last one ends with a stop, its own or a full stop; semicolons at ends are dropped.
    """
    result = ""
    for i, part in enumerate(parts):
        chinese, part = bool(_CHINESE.search(part)), part.rstrip("".join(_HALF))
        if i + 1 < len(parts):
            part += "" if _END.search(part[-1]) else "。" if chinese else "."
            part += "" if chinese else " "
        result += part
    return result


def given(text: str) -> str:
    """Returns what a cell says, or '' where it says "nothing" in one of the usual ways.

    A name, of a folder, a column or a class, may be such a word: `trimmed` leaves it.
    """
    text = trimmed(text)
    return "" if text.casefold() in NOTHING else text


def trimmed(text: str) -> str:
    """Returns a text without the blanks around it, letters with accents as one character (NFC), as
    names of files and tables of other systems need not have them."""
    return unicodedata.normalize("NFC", text.strip())


def encodable(text: str) -> str:
    """Returns a text that UTF-8 can hold: JSON, say, may spell half of a character pair."""
    return text.encode("utf-8", "replace").decode("utf-8").strip()


def shown(text: str) -> str:
    """Returns a text of a file as part of a sentence: short, and without line ends and the like."""
    plain = "".join(c if c.isprintable() else "?" for c in text[:300])
    return plain if len(text) <= 300 else f"{plain} ..."


def listed(texts: Iterable[str], what: str) -> list[str]:
    """Returns several texts as a list; a text alone is not taken for its letters.

    Args:
        texts: the texts.
        what: what they are called, for the sentence.

    Raises:
        InputError: a text instead of several, or an item that is no text.
    """
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise InputError(f"'{what}' is a list of texts, got {texts!r}; write ['...', '...'].")
    found = list(texts)
    for item in found:
        if not isinstance(item, str):
            raise InputError(f"'{what}' is a list of texts, and {item!r} is none.")
    return found


def distinct(names: Iterable[str], what: str) -> list[str]:
    """Returns names as `listed` does, each of them once; case and runs of blanks do not count.

    Raises:
        InputError: as `listed`, for no name, an empty one, or one that comes again.
    """
    found = listed(names, what)
    if not found:
        raise InputError(f"'{what}' names nothing: name one at least.")
    first: dict[str, str] = {}
    for name in found:
        if not plain(name):
            raise InputError(f"'{what}' has an empty name among {found}.")
        if plain(name) in first:
            raise InputError(f"'{what}' has '{name}' twice (as '{first[plain(name)]}').")
        first[plain(name)] = name
    return found


def plain(text: str) -> str:
    """Returns a text by which names are compared: case, runs of blanks, and how accents are
    encoded do not count."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def comparable(value: Any) -> set[Any]:
    """Returns a value, or the items of several, with texts as they are compared."""
    items = value if isinstance(value, (list, tuple, set, frozenset)) else [value]
    return {plain(item) if isinstance(item, str) else item for item in items}


def text_group(text: str) -> np.int32:
    """A stable id in [0, 2**31) of a class name or caption; case and outer blanks do not count."""
    name = unicodedata.normalize("NFC", text.strip().lower())
    digest = hashlib.blake2b(name.encode(), digest_size=4).digest()
    return np.int32(int.from_bytes(digest, "little") & 0x7FFFFFFF)
