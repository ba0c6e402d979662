"""Texts, pairs and words before they are tokens: what they are called."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedkit.errors import DataError
from embedkit.runtime.tokens import Text
from embedkit.store import text_keys

Keys: TypeAlias = NDArray[np.uint8]

_WORD = blake2b(digest_size=16, person=b"embedkit/word/1")


def keys_of(texts: Sequence[Text | list[str]], rows: NDArray[np.int64]) -> Keys:
    """Return the keys of texts, pairs or lists of words; where one has none, name its row."""
    try:
        return text_keys(texts)  # type: ignore[arg-type]  # all of one kind: transform has checked
    except DataError:
        for text, row in zip(texts, rows.tolist(), strict=True):
            try:
                text_keys([text])  # type: ignore[arg-type]
            except DataError as error:
                raise DataError(f"row {row}: {str(error).partition(': ')[2]}") from None
        raise


def word_keys(sentences: Keys, counts: NDArray[np.int64]) -> Keys:
    """Return the keys of the words of sentences: BLAKE2b-128 of the sentence's key and the word's place.

    Parameters
    ----------
    sentences : ndarray of uint8, shape (n, 16)
        Of `keys_of`.
    counts : ndarray of int64, shape (n,)
        Words of each.

    Returns
    -------
    ndarray of uint8, shape (sum of counts, 16)
        Two words of one spelling have two keys: what a model makes of a word depends on its sentence.
    """
    places = [place.to_bytes(8, "big") for place in range(int(counts.max(initial=0)))]
    digests = bytearray()
    for key, count in zip(sentences, counts.tolist(), strict=True):
        sentence = _WORD.copy()
        sentence.update(key.tobytes())
        for place in places[:count]:
            state = sentence.copy()
            state.update(place)
            digests += state.digest()
    return np.frombuffer(digests, dtype=np.uint8).reshape(-1, 16)
