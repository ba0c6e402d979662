"""Texts and pairs before they are tokens: what they are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedkit.errors import DataError
from embedkit.runtime.tokens import Text
from embedkit.store import text_keys

Keys: TypeAlias = NDArray[np.uint8]


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
