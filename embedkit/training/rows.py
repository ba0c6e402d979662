"""Training rows as tokens and targets, and the order in which they are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedkit.runtime.batching import pad
from embedkit.runtime.tokens import Tokens

IGNORED = -100  # a target that no loss counts, as torch and transformers have it
_POOL = 50  # batches among which rows are sorted by length


JUDGED = -1  # the epoch in which rows are judged: what chance adds to them is then always the same


class Readable(Protocol):
    """Rows that a training run reads in batches."""

    @property
    def tokens(self) -> Tokens:
        """Their tokens, one window a row."""

    def __len__(self) -> int: ...

    def inputs(self, rows: NDArray[np.int64], epoch: int) -> dict[str, NDArray[Any]]:
        """Return what the model is given of some rows in an epoch (or `JUDGED`), and ``labels``."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Inputs with targets.

    Attributes
    ----------
    tokens : Tokens
        One window a row.
    targets : ndarray of int64, shape (n,), or of float32, shape (n, L)
        Codes, `IGNORED` where training knows no such label; or 1 for each label that a row has.
    pad_id : int
    types : bool
        Whether the model tells token types apart.
    """

    tokens: Tokens
    targets: NDArray[Any]
    pad_id: int
    types: bool

    def __len__(self) -> int:
        return len(self.targets)

    def inputs(self, rows: NDArray[np.int64], epoch: int) -> dict[str, NDArray[Any]]:
        """Return ids, mask and labels, padded to the longest of the rows."""
        return {**padded_inputs(self.tokens, rows, self.pad_id, types=self.types), "labels": self.targets[rows]}


def padded_inputs(
    tokens: Tokens, rows: NDArray[np.int64], pad_id: int, *, types: bool
) -> dict[str, NDArray[np.int64]]:
    """Return ``input_ids``, ``attention_mask`` and, where there are some, ``token_type_ids``, each (B, L)."""
    batch = pad(tokens, rows, pad_id)
    given = {"input_ids": batch.input_ids, "attention_mask": batch.mask()}
    return {**given, "token_type_ids": batch.type_ids} if types and batch.type_ids is not None else given


def training_order(
    lengths: NDArray[np.int64], batch_size: int, *, seed: int, epoch: int, like_lengths: bool = True
) -> NDArray[np.int64]:
    """Return the order in which an epoch reads rows, cut into batches by whoever reads.

    Rows are shuffled; then those of every 50 batches are sorted by length, so that a batch holds like lengths and
    little padding; then batches are shuffled, so that short and long ones take turns. It depends on the seed and
    the epoch alone, so that an interrupted run goes on with the same batches.

    Parameters
    ----------
    lengths : ndarray of int64, shape (n,)
        Tokens of each row.
    batch_size : int
        Rows that are padded together.
    seed, epoch : int
    like_lengths : bool, default True
        False leaves rows where chance put them.

    Returns
    -------
    ndarray of int64, shape (n,)
        A permutation. The rows that fill no batch come last.
    """
    chance = np.random.default_rng([seed, epoch])
    order = chance.permutation(len(lengths))
    if not like_lengths:
        return order
    whole, span = len(order) - len(order) % batch_size, batch_size * _POOL
    pools = [order[start : min(whole, start + span)] for start in range(0, whole, span)]
    ordered = [pool[np.argsort(lengths[pool], kind="stable")].reshape(-1, batch_size) for pool in pools]
    if not ordered:
        return order
    batches = np.concatenate(ordered)
    return np.concatenate([batches[chance.permutation(len(batches))].ravel(), order[whole:]])


def reading_order(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the order in which rows are judged: the longest first, so that lack of memory shows at once."""
    return np.argsort(-lengths, kind="stable")
