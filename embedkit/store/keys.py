"""Keys of texts, and the arithmetic of sorted key lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedkit.errors import DataError

KEY_BYTES = 16
# BLAKE2b's personalisation keeps the three kinds apart: the text "x" is not the word list ["x"].
_TEXT = blake2b(digest_size=KEY_BYTES, person=b"embedkit/text/1")
_PAIR = blake2b(digest_size=KEY_BYTES, person=b"embedkit/pair/1")
_WORDS = blake2b(digest_size=KEY_BYTES, person=b"embedkit/words/1")


def text_keys(inputs: Sequence[str] | Sequence[tuple[str, str]] | Sequence[list[str]]) -> NDArray[np.uint8]:
    """Return the key of each input: BLAKE2b-128 of its exact UTF-8 bytes.

    Nothing is stripped, lowercased or normalised. Pairs (tuples) and word lists (lists) are hashed as a
    count and length-prefixed parts, each kind under its own personalisation, so that no two different
    inputs share a byte sequence.

    Parameters
    ----------
    inputs : sequence of str, of 2-tuples of str, or of lists of str
        The texts.

    Returns
    -------
    ndarray of uint8, shape (n, 16)

    Raises
    ------
    DataError
        An input is of another type, or holds a lone surrogate (which has no UTF-8).
    """
    try:
        if set(map(type, inputs)) <= {str}:
            digests = [_digest_text(item) for item in inputs]  # type: ignore[arg-type]
        else:
            digests = [_digest(item) for item in inputs]
    except (UnicodeEncodeError, TypeError):
        raise _bad_input(inputs) from None
    return np.frombuffer(bytearray().join(digests), dtype=np.uint8).reshape(-1, KEY_BYTES)


def _digest_text(text: str) -> bytes:
    state = _TEXT.copy()  # copying a prepared state is a third faster than the constructor
    state.update(text.encode())
    return state.digest()


def _digest(item: object) -> bytes:
    if isinstance(item, str):
        return _digest_text(item)
    if isinstance(item, tuple) and len(item) == 2:
        return _digest_parts(_PAIR.copy(), item)
    if isinstance(item, list):
        return _digest_parts(_WORDS.copy(), item)
    raise TypeError


def _digest_parts(state: blake2b, parts: Sequence[object]) -> bytes:
    state.update(len(parts).to_bytes(4, "little"))
    for part in parts:
        if not isinstance(part, str):
            raise TypeError
        encoded = part.encode()
        state.update(len(encoded).to_bytes(4, "little") + encoded)
    return state.digest()


def _bad_input(inputs: Iterable[object]) -> DataError:
    """Find the first input that cannot be hashed and describe it, without quoting it."""
    for row, item in enumerate(inputs, start=1):
        for part in item if isinstance(item, tuple | list) else (item,):
            try:
                _digest(part if isinstance(part, str) else None)
            except UnicodeEncodeError as error:
                return DataError(
                    f"row {row}: lone surrogate U+{ord(error.object[error.start]):04X} at char {error.start}, "
                    "which has no UTF-8; remove it or replace it by U+FFFD"
                )
            except TypeError:
                return DataError(f"row {row}: {type(part).__name__} where a text (str) is needed")
        if not isinstance(item, str | list) and not (isinstance(item, tuple) and len(item) == 2):
            return DataError(
                f"row {row}: {type(item).__name__} where a str, a pair (2-tuple) or a list of words is needed"
            )
    raise AssertionError("called without a bad input")


class Keys(NamedTuple):
    """A list of keys as two columns: big-endian halves in native uint64, so that they sort as the bytes do."""

    hi: NDArray[np.uint64]
    lo: NDArray[np.uint64]

    @classmethod
    def of(cls, keys: NDArray[np.uint8]) -> Keys:
        """Split keys of shape (n, 16)."""
        if keys.dtype != np.uint8 or keys.ndim != 2 or keys.shape[1] != KEY_BYTES:
            raise ValueError(f"keys must be uint8 of shape (n, {KEY_BYTES}), got {keys.dtype} {keys.shape}")
        halves = np.ascontiguousarray(keys).view(">u8")
        return cls(halves[:, 0].astype(np.uint64), halves[:, 1].astype(np.uint64))

    def to_bytes(self) -> NDArray[np.uint8]:
        """Undo `of`."""
        return np.stack([self.hi, self.lo], axis=1).astype(">u8").view(np.uint8)

    def take(self, index: slice | NDArray[np.intp] | NDArray[np.bool_]) -> Keys:
        """Select keys by position, mask or slice."""
        return Keys(self.hi[index], self.lo[index])

    def order(self) -> NDArray[np.intp]:
        """Return the stable order that sorts the keys."""
        order = np.argsort(self.hi, kind="stable")
        hi = self.hi[order]
        # Halves of a cryptographic hash tie only where keys are equal or somebody worked for it.
        return np.lexsort((self.lo, self.hi)) if np.any(hi[1:] == hi[:-1]) else order

    def firsts(self) -> NDArray[np.bool_]:
        """Mark the first of each run of equal keys, in a sorted list."""
        first = np.ones(len(self.hi), dtype=bool)
        first[1:] = (self.hi[1:] != self.hi[:-1]) | (self.lo[1:] != self.lo[:-1])
        return first


def distinct(keys: NDArray[np.uint8]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Give distinct keys numbers, in the order of their first appearance.

    Parameters
    ----------
    keys : ndarray of uint8, shape (n, 16)

    Returns
    -------
    first : ndarray of intp, shape (u,)
        Where each distinct key first stands; ascending.
    which : ndarray of intp, shape (n,)
        The number of each key, so that ``keys[first][which]`` are the keys.
    """
    columns = Keys.of(keys)
    order = columns.order()
    starts = columns.take(order).firsts()
    first = order[starts]  # the order is stable, so the first of a run stands first
    appearance = np.argsort(first)
    rank = np.empty_like(appearance)
    rank[appearance] = np.arange(len(first))
    which = np.empty(len(keys), dtype=np.intp)
    which[order] = rank[np.cumsum(starts) - 1]
    return first[appearance], which


def shared(a: Keys, b: Keys) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the positions in `a` and in `b` of the keys they share; both sorted, each without duplicates."""
    if len(a.hi) > len(b.hi):
        in_b, in_a = shared(b, a)
        return in_a, in_b
    if len(a.hi) == 0:
        return np.empty(0, dtype=np.intp), np.empty(0, dtype=np.intp)
    at = np.searchsorted(b.hi, a.hi)
    while True:
        same = b.hi.take(at, mode="clip") == a.hi
        low = b.lo.take(at, mode="clip")
        later = same & (low < a.lo) & (at < len(b.hi))
        if not later.any():
            break
        at[later] += 1
    found = np.flatnonzero(same & (low == a.lo) & (at < len(b.hi)))
    return found, at[found]
