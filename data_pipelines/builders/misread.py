"""Restores tables whose Chinese was read as GBK although it was UTF-8, and saved again.

A Chinese character is three bytes of UTF-8, and GBK takes two at a time. Where the last byte of a
text stood alone, it took the ASCII character after it along, and both became one '?'. Between two
captions that character is the comma, so the English one ended up in the cell of the Chinese one.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from data_pipelines.builders.entries import Skipped
from data_pipelines.builders.table import Table

_CHINESE = re.compile(r"[\u3400-\u9fff]")
# Chinese, what became of a byte and the comma, and English of two words or more.
_TOGETHER = re.compile(r"(.*[^\x00-\x7f])\?([A-Za-z][^?]* .*)", re.DOTALL)
# The same where the English was in quotes; its own commas then cut it into cells.
_QUOTED = re.compile(r"(.*[^\x00-\x7f])\?\"(.*)", re.DOTALL)
_WORDS = re.compile(r"[A-Za-z]{2,} [A-Za-z]{2,}")


@dataclasses.dataclass(frozen=True)
class Captions:
    """What the cells of a row say.

    Attributes:
        chinese, english: the captions; Chinese that lost bytes is ''.
        cells: how many cells they were written into.
        moved: English was taken out of the cell of the Chinese.
    """

    chinese: str
    english: str
    cells: int = 2
    moved: bool = False


def repaired(found: Table) -> tuple[Table, list[Skipped], tuple[str, ...]]:
    """Restores both captions of a table that has the columns of both languages.

    Args:
        found: the table, with the blanks around its cells. One that was read rightly is returned
            as it is.

    Returns:
        (the table without the rows that cannot be restored, those rows, remarks).
    """
    if not {"caption", "caption_zh", "image"} <= set(found.columns):
        return found, [], ()
    image, chinese, english = (
        found.header.index(found.columns[field]) for field in ("image", "caption_zh", "caption")
    )
    width = len(found.header)
    texts = (cells[chinese] for _, cells in found.rows if len(cells) >= width)
    if english != chinese + 1 or not any(map(is_misread, texts)):
        return found, [], ()
    rows, skipped, made = [], [], []
    for number, cells in found.rows:
        if len(cells) < width:
            rows.append((number, cells))
            continue
        both = captions(cells[chinese:])
        if both is None:
            reason = "captions damaged beyond repair"
            skipped.append(Skipped(number, cells[image].strip(), reason))
            continue
        made.append(both)
        rest = ("",) * (both.cells - 2) + cells[chinese + both.cells :]
        rows.append((number, (*cells[:chinese], both.chinese, both.english, *rest)))
    remark = (
        f"the Chinese of {found.path.name} was read in a wrong encoding: it is restored where no "
        f"byte is lost ({sum(bool(both.chinese) for both in made)} rows); "
        f"{sum(both.moved for both in made)} English captions were in its cells"
    )
    return dataclasses.replace(found, rows=tuple(rows)), skipped, (remark,)


def captions(cells: Sequence[str]) -> Captions | None:
    """Returns both captions out of the cells from the Chinese one on, or None if it is unclear.

    Args:
        cells: at least two cells, with the blanks around them.
    """
    chinese, english, number = cells[0], cells[1].strip(), 2
    quoted = _QUOTED.fullmatch(chinese)
    together = quoted or (None if english else _TOGETHER.fullmatch(chinese))
    if together:
        chinese, english = together.groups()
    if quoted:
        pieces = [english, *cells[1:]]
        ends = [i for i, piece in enumerate(pieces) if piece.rstrip().endswith('"')]
        if not ends:
            return None
        english = ",".join(pieces[: ends[0] + 1]).rstrip()[:-1]
        number = max(ends[0] + 1, 2)
    found = Captions(restored(chinese), restored(english), number, bool(together))
    lost = bool(english) and not found.english
    # Where English has lost bytes too, its first half may have been taken for Chinese.
    cut = together and _WORDS.search(chinese)
    nothing = chinese.strip() and not (found.chinese or found.english)
    return None if lost or cut or nothing or _CHINESE.search(found.english) else found


def is_misread(text: str) -> bool:
    """Tells whether a text is Chinese of four characters or more that was read in that way.

    Chinese that was read rightly is no UTF-8 when it is written as GBK, but for rare, short texts.
    """
    return not text.isascii() and len(_CHINESE.findall(restored(text))) >= 4


def restored(text: str) -> str:
    """Returns what was read as GBK as it was meant, or '' where bytes of it are lost."""
    if text.isascii():
        return text.strip()
    try:
        # Windows reads the byte 0x80, which GBK leaves open, as the euro sign.
        data = b"".join(b"\x80" if c == "€" else c.encode("gb18030") for c in text)
        return data.decode("utf-8").strip()
    except UnicodeError:
        return ""
