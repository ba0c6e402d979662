"""Saying rows, names and texts in messages and tables: short, and inert on a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

# Joiners shape scripts and emoji, and move nothing around; every other format character is escaped.
_KEPT_FORMAT = frozenset("\u200c\u200d")
_ESCAPED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_SHORT_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _escaped(character: str) -> str:
    if character in _KEPT_FORMAT or unicodedata.category(character) not in _ESCAPED_CATEGORIES:
        return character
    code = ord(character)
    short = _SHORT_ESCAPES.get(character)
    return short or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}")


def printable(text: str, limit: int | None = 200) -> str:
    r"""Return `text` on one line, cut, with control, bidi and invisible characters escaped.

    Parameters
    ----------
    text : str
        Any text, also with lone surrogates.
    limit : int or None, default 200
        Characters of `text` that are kept at most; a longer text ends in an ellipsis.

    Examples
    --------
    >>> printable("a\x1b[31m red\nline")
    'a\\x1b[31m red\\nline'
    >>> printable("abcdef", limit=4)
    'abc…'
    """
    if limit is not None and len(text) > limit:
        text = text[: max(limit - 1, 0)] + "…"
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_escaped, text))


def name_of(value: object) -> str:
    """Return a column name or label as it stands in messages: quoted, escaped and cut to 60 characters."""
    return f"'{printable(value, 60)}'" if isinstance(value, str) else printable(repr(value), 60)


def names_of(values: Iterable[object], limit: int = 12) -> str:
    """Return several names, joined by commas, the first `limit` of them."""
    said = [name_of(value) for value in values]
    more = f" and {len(said) - limit:,} more" if len(said) > limit else ""
    return ", ".join(said[:limit]) + more


def rows_said(rows: Sequence[int], limit: int = 5) -> str:
    """Return ``"row 4"`` or ``"rows 4, 9, 12 and 7 more"``.

    Examples
    --------
    >>> rows_said([4, 9, 12])
    'rows 4, 9, 12'
    """
    more = f" and {len(rows) - limit:,} more" if len(rows) > limit else ""
    return ("row " if len(rows) == 1 else "rows ") + ", ".join(map(str, rows[:limit])) + more


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Return ``"1 text"`` or ``"1,200 texts"``."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def lost(rows: int, truncated: int, empty: int, max_length: int, side: str, advice: str = "") -> list[str]:
    """Say how many of some inputs lost tokens, and what helps, and how many held none."""
    said, inputs = [], counted(rows, "input")
    if truncated:
        end = "start" if side == "left" else "end"
        said.append(f"{truncated:,} of {inputs} have more than {max_length} tokens and lost their {end}{advice}")
    if empty:
        said.append(f"{empty:,} of {inputs} hold nothing that the tokenizer knows")
    return said


def unread(rows: int, empty: int) -> list[str]:
    """Say how many words of some sentences held none."""
    if not empty:
        return []
    return [f"{counted(empty, 'word')} of {counted(rows, 'input')} hold nothing that the tokenizer knows"]


def aligned(rows: Sequence[Sequence[str]], *, left: frozenset[int] = frozenset({0})) -> list[str]:
    """Return rows as lines whose columns stand below each other.

    Parameters
    ----------
    rows : sequence of sequence of str
        Cells that a terminal shows as they are.
    left : frozenset of int
        Columns that stand to the left; the others stand to the right.

    Examples
    --------
    >>> aligned([["a", "1"], ["bcd", "22"]])
    ['a     1', 'bcd  22']
    """
    widths = [max(map(shown_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        blanks = [" " * (width - shown_width(cell)) for cell, width in zip(row, widths, strict=True)]
        cells = zip(row, blanks, strict=True)
        parts = [cell + blank if place in left else blank + cell for place, (cell, blank) in enumerate(cells)]
        lines.append("  ".join(parts).rstrip())
    return lines


def shown_width(text: str) -> int:
    """Return the columns that a text takes on a terminal."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )
