"""Texts and pairs before they are tokens: what is refused, what they are called, how they are cut into runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedkit.errors import DataError, UsageError
from embedkit.runtime.tokens import Text
from embedkit.store import text_keys

Keys: TypeAlias = NDArray[np.uint8]
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


def require_texts(kind: str) -> None:
    """Raise `UsageError` for data that hold lists of words."""
    if kind == "tokens":
        raise UsageError(
            "these data are lists of words with a tag each; this command reads texts or pairs of texts"
        )


def keys_of(texts: Sequence[Text], rows: NDArray[np.int64]) -> Keys:
    """Return the keys of texts; where one has none, name its row."""
    try:
        return text_keys(texts)  # type: ignore[arg-type]  # all of one kind: transform has checked
    except DataError:
        for text, row in zip(texts, rows.tolist(), strict=True):
            try:
                text_keys([text])  # type: ignore[arg-type]
            except DataError as error:
                raise DataError(f"row {row}: {str(error).partition(': ')[2]}") from None
        raise


def chunks_of(texts: Sequence[Text]) -> Iterator[slice]:
    """Cut texts into runs that are tokenised together: by rows, and by characters where texts are long."""
    start = characters = 0
    for i, text in enumerate(texts):
        size = len(text) if isinstance(text, str) else len(text[0]) + len(text[1])
        if i > start and (i - start >= CHUNK_ROWS or characters + size > _CHUNK_CHARACTERS):
            yield slice(start, i)
            start, characters = i, 0
        characters += size
    if texts:
        yield slice(start, len(texts))
