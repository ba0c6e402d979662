"""Texts, pairs and lists of words before they are tokens: what is refused, and how they are cut into runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count

import numpy as np
from numpy.typing import NDArray

from embedkit.errors import DataError, UsageError
from embedkit.runtime.tokens import Text, Words

# What is tokenised and sorted by length at once.
CHUNK_ROWS = 8192
_CHUNK_CHARACTERS = 16 << 20


def check_texts(inputs: Sequence[object], rows: Iterable[int] | None = None) -> None:
    """Raise `DataError` unless inputs are all texts, or all pairs of texts.

    Parameters
    ----------
    inputs : sequence
    rows : iterable of int, optional
        What the message calls the inputs. Default: 1 to n.
    """
    pairs = bool(len(inputs)) and isinstance(inputs[0], tuple)
    for row, item in zip(count(1) if rows is None else rows, inputs, strict=False):
        good = (
            isinstance(item, tuple) and len(item) == 2 and all(isinstance(part, str) for part in item)
            if pairs
            else isinstance(item, str)
        )
        if not good:
            wanted = "a pair of texts" if pairs else "a text"
            raise DataError(f"row {row} is of type {type(item).__name__}, not {wanted}")


def check_words(inputs: Sequence[object], rows: Iterable[int] | None = None) -> None:
    """Raise `DataError` unless inputs are lists (or tuples) of words; `rows` are as for `check_texts`."""
    for row, item in zip(count(1) if rows is None else rows, inputs, strict=False):
        if not isinstance(item, list | tuple):
            hint = "; entities() takes texts" if isinstance(item, str) else ""
            raise DataError(f"row {row} is of type {type(item).__name__}, not a list of words{hint}")
        wrong = next((place for place, word in enumerate(item, 1) if not isinstance(word, str)), None)
        if wrong is not None:
            raise DataError(f"row {row}: word {wrong} is of type {type(item[wrong - 1]).__name__}, not a text")


def checked_sentences(sentences: Sequence[Words], rows: Sequence[int] | NDArray[np.int64] | None) -> list[Words]:
    """Return sentences as a list; raise `DataError` for one that is no list of words, or has no UTF-8.

    `rows` are as for `check_texts`.
    """
    if isinstance(sentences, str):
        raise UsageError("give a list of lists of words, not a text; entities() takes texts")
    listed = list(sentences)
    check_words(listed, rows)
    check_unicode(listed, rows)
    return listed


def require_texts(kind: str) -> None:
    """Raise `UsageError` for data that hold lists of words."""
    if kind == "tokens":
        raise UsageError(
            "these data are lists of words with a tag each; this command reads texts or pairs of texts"
        )


def check_unicode(inputs: Sequence[Text | Words], rows: Iterable[int] | None = None) -> None:
    """Raise `DataError` for a text, or a list of words, that has no UTF-8, named by its row."""
    for row, item in zip(count(1) if rows is None else rows, inputs, strict=False):
        try:
            "".join(item).encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"row {row}: lone surrogate U+{ord(error.object[error.start]):04X} at char {error.start}, which "
                "has no UTF-8; remove it or replace it by U+FFFD"
            ) from None


def chunks_of(texts: Sequence[Text | Words]) -> Iterator[slice]:
    """Cut texts into runs that are tokenised together: by rows, and by characters where texts are long."""
    start = characters = 0
    for i, text in enumerate(texts):
        size = len(text) if isinstance(text, str) else sum(map(len, text))
        if i > start and (i - start >= CHUNK_ROWS or characters + size > _CHUNK_CHARACTERS):
            yield slice(start, i)
            start, characters = i, 0
        characters += size
    if texts:
        yield slice(start, len(texts))
