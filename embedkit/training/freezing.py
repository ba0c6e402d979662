"""How much of a model is frozen, as a user says it."""

from __future__ import annotations

from typing import Literal, TypeAlias

from embedkit.errors import UsageError

Freeze: TypeAlias = int | Literal["none", "embeddings", "head-only"]
"""The embeddings and so many blocks; or nothing, the embeddings alone (as 0 does), or all but the head."""

_WORDS: tuple[Literal["none", "embeddings", "head-only"], ...] = ("none", "embeddings", "head-only")
FREEZE_ALLOWED = "a number of blocks from 0 on, 'embeddings', 'head-only' or 'none'"


def parse_freeze(value: str | int) -> Freeze:
    """Return what a ``--freeze`` means.

    Parameters
    ----------
    value : str or int
        A number of blocks, also as text, or one of the words of `Freeze`.

    Raises
    ------
    UsageError
        It is none of these, or below 0.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str):
        for word in _WORDS:
            if value == word:
                return word
        if value.isascii() and value.isdecimal():
            return int(value)
    raise UsageError(f"freeze is {value!r}; it must be {FREEZE_ALLOWED}")
