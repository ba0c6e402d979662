"""Which inputs go through a model together, and how they are padded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedkit.errors import UsageError
from embedkit.runtime.tokens import Tokens

# What starting one more batch is taken to cost, in tokens of padding.
_BATCH_COST = 64


@dataclass(frozen=True)
class Batch:
    """Padded model inputs.

    Attributes
    ----------
    windows : ndarray of int64, shape (B,)
        Which windows of the `Tokens` these are.
    input_ids : ndarray of int64, shape (B, L)
        Padded on the right.
    lengths : ndarray of int64, shape (B,)
        Tokens of each window.
    type_ids : ndarray of int64, shape (B, L), or None
        Token types; None where all are 0.
    """

    windows: NDArray[np.int64]
    input_ids: NDArray[np.int64]
    lengths: NDArray[np.int64]
    type_ids: NDArray[np.int64] | None

    @property
    def padded(self) -> bool:
        """Whether any window is shorter than the longest."""
        return bool((self.lengths != self.lengths[0]).any())

    def mask(self) -> NDArray[np.int64]:
        """1 where there is a token, 0 where there is padding; shape (B, L)."""
        return (np.arange(self.input_ids.shape[1]) < self.lengths[:, None]).astype(np.int64)


def plan(lengths: NDArray[np.int64], batch_tokens: int) -> list[NDArray[np.int64]]:
    """Cut windows into batches, longest first, by tokens and not by rows.

    A batch takes the next shorter window until it would exceed the cap, or until its padding has cost as much
    as a new batch would (the ski-rental rule, which never pays more than twice the optimum). Where many windows
    share a length, batches therefore hold one length and need no mask.

    Parameters
    ----------
    lengths : ndarray of int64, shape (W,)
        Tokens of each window.
    batch_tokens : int
        Most tokens of a batch, padding included; one window longer than that goes alone.

    Returns
    -------
    list of ndarray of int64
        Window indices of each batch; together a permutation of ``range(W)``.
    """
    if batch_tokens < 1:
        raise UsageError(f"batch_tokens is {batch_tokens}; it must be at least 1")
    order = np.argsort(-lengths, kind="stable")
    batches: list[NDArray[np.int64]] = []
    start, padding = 0, 0
    for i, length in enumerate(lengths[order].tolist()):
        longest = int(lengths[order[start]])
        padding += longest - length
        if i > start and ((i - start + 1) * longest > batch_tokens or padding > _BATCH_COST):
            batches.append(order[start:i])
            start, padding = i, 0
    if len(order):
        batches.append(order[start:])
    return batches


def pad(tokens: Tokens, windows: NDArray[np.int64], pad_id: int) -> Batch:
    """Lay windows out as rectangles, padded on the right with `pad_id`."""
    starts = tokens.offsets[windows]
    lengths = tokens.offsets[windows + 1] - starts
    columns = np.arange(int(lengths.max()))
    there = columns < lengths[:, None]  # (B, L)
    where = np.where(there, starts[:, None] + columns, 0)
    ids = np.where(there, tokens.ids[where], pad_id).astype(np.int64)
    types = None if tokens.type_ids is None else np.where(there, tokens.type_ids[where], 0).astype(np.int64)
    return Batch(windows, ids, lengths, types)
