"""Hold-outs and folds: stratified, equal texts kept together, from an explicit seed.

All functions return positions counted from 0 as int64 arrays in ascending order. The same arguments give the
same result on every machine.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedkit.data.labels import sorted_labels
from embedkit.data.text import counted, names_of
from embedkit.errors import DataError, UsageError

Positions = NDArray[np.int64]
Rare = Literal["error", "drop", "train-only"]


def groups_of(inputs: Iterable[Any]) -> Positions:
    """Give equal inputs one number.

    Parameters
    ----------
    inputs : iterable
        Texts, pairs of texts or lists of words.

    Returns
    -------
    ndarray of int64, shape (n,)
        0 for the first input and all that equal it, 1 for the next new one, and so on.
    """
    seen: dict[Hashable, int] = {}
    keys = (tuple(value) if isinstance(value, list) else value for value in inputs)
    return np.array([seen.setdefault(key, len(seen)) for key in keys], dtype=np.int64)


def strata_of(labels: Sequence[Any] | NDArray[Any] | None, count: int) -> tuple[Positions, list[Any]]:
    """Return each row's class number and the classes; a row of several labels has the class of their set."""
    if labels is None:
        return np.zeros(count, dtype=np.int64), [None]
    values = labels.tolist() if isinstance(labels, np.ndarray) else list(labels)
    if len(values) != count:
        raise ValueError(f"{len(values)} labels for {count} rows")
    if has_label_sets(values):
        values = [" ".join(map(repr, sorted(map(str, value)))) for value in values]
    classes: list[Any] = sorted_labels(values)
    place = {label: number for number, label in enumerate(classes)}
    return np.array([place[value] for value in values], dtype=np.int64), classes


def has_label_sets(labels: Sequence[Any] | NDArray[Any] | None) -> bool:
    """Say whether rows have several labels."""
    return labels is not None and any(isinstance(label, (list, tuple, set, frozenset)) for label in labels)


class _Groups:
    """Groups of rows that stay together; a group's class is that of its first row.

    Where rows have several labels, sets of labels that fewer than `least` groups have are one class: there are as
    many sets as rows may be, and none of them has to be both learnt and tested.
    """

    def __init__(self, labels: Sequence[Any] | NDArray[Any] | None, groups: ArrayLike, least: int) -> None:
        values = np.asarray(groups)
        _, first, self.of_row, self.sizes = np.unique(
            values, return_index=True, return_inverse=True, return_counts=True
        )
        self.row_strata, self.classes = strata_of(labels, len(values))
        self.label_sets = has_label_sets(labels)
        if self.label_sets:
            few = np.bincount(self.row_strata[first], minlength=len(self.classes)) < least
            self.row_strata = np.where(few[self.row_strata], len(few), self.row_strata)
            self.classes = [*self.classes, "other sets of labels"]
        self.strata = self.row_strata[first]

    def shuffled(self, stratum: int, rng: np.random.Generator) -> Positions:
        return rng.permutation(np.flatnonzero(self.strata == stratum))

    def rows(self, chosen: Positions) -> NDArray[np.bool_]:
        return np.isin(self.of_row, chosen)


def holdout(
    labels: Sequence[Any] | NDArray[Any] | None, groups: ArrayLike, share: float, seed: int
) -> tuple[Positions, Positions]:
    """Split rows in two, stratified by label; a group is never on both sides.

    Parameters
    ----------
    labels : sequence, ndarray or None
        One label, or one list of labels, a row; None for no strata.
    groups : array_like, shape (n,)
        Rows with equal values stay together: `groups_of` the texts.
    share : float
        Part of the rows to hold out, above 0 and below 1. Each class gives its part, rounded so that the
        total is right (largest remainder), and keeps at least one row. A group counts for the class of its first
        row; one that is larger than what its class may still give stays in train.
    seed : int

    Returns
    -------
    train, held : ndarray of int64

    Raises
    ------
    DataError
        No group can be spared.
    """
    if not 0 < share < 1:
        raise UsageError(f"the share to hold out must lie between 0 and 1, got {share}")
    rng = np.random.default_rng(seed)
    parts = _Groups(labels, groups, int(np.ceil(1 / share)))
    wanted = _quotas(np.bincount(parts.row_strata, minlength=len(parts.classes)), share)
    held: list[int] = []
    for stratum, quota in enumerate(wanted.tolist()):
        room = quota
        for group in parts.shuffled(stratum, rng).tolist():
            if parts.sizes[group] <= room:
                held.append(group)
                room -= int(parts.sizes[group])
    if not held:
        raise DataError(
            f"{counted(len(parts.of_row), 'row')} with {counted(len(parts.classes), 'class', 'classes')} are too "
            f"few to hold {share:.0%} out; give a file of its own (--test, --validation)"
        )
    mask = parts.rows(np.array(held, dtype=np.int64))
    return np.flatnonzero(~mask), np.flatnonzero(mask)


def _quotas(counts: Positions, share: float) -> Positions:
    """Round ``share * counts`` so that the sum is right: largest remainders first, then larger classes."""
    exact = counts * share
    floor = np.floor(exact + 1e-9).astype(np.int64)
    missing = round(float(exact.sum())) - int(floor.sum())
    order = np.lexsort((-counts, -(exact - floor)))
    floor[order[: max(missing, 0)]] += 1
    return np.asarray(np.minimum(floor, np.maximum(counts - 1, 0)))


def stratified_folds(
    labels: Sequence[Any] | NDArray[Any] | None, groups: ArrayLike, k: int, seed: int, *, rare: Rare = "error"
) -> list[tuple[Positions, Positions]]:
    """Return `k` (train, test) pairs; every row is tested once, a group is never on both sides.

    Parameters
    ----------
    labels, groups, seed
        As in `holdout`.
    k : int
        Folds, at least 2.
    rare : {"error", "drop", "train-only"}, default "error"
        What becomes of a class with a single group, which cannot be both learnt and tested: an error that names
        it, rows in no fold at all, or rows in every train part.

    Raises
    ------
    DataError
        A class is rare, or there are fewer groups than folds.
    """
    if k < 2:
        raise UsageError(f"cross-validation needs at least 2 folds, got {k}")
    rng = np.random.default_rng(seed)
    parts = _Groups(labels, groups, k)
    members = np.bincount(parts.strata, minlength=len(parts.classes))
    single = labels is not None and not parts.label_sets
    alone = np.flatnonzero(members == 1) if single else np.array([], dtype=np.int64)
    if len(alone) and rare == "error":
        raise DataError(
            f"{counted(len(alone), 'class', 'classes')} with one distinct text, which cannot be both learnt and "
            f"tested: {names_of([parts.classes[i] for i in alone])}; add texts, or pass --rare drop or --rare "
            "train-only"
        )
    fold_of_group = _deal(parts, k, rng, set(alone.tolist()))
    if len(set(fold_of_group[fold_of_group >= 0].tolist())) < k:
        count = counted(int((fold_of_group >= 0).sum()), "distinct text")
        raise DataError(f"{count}, too few for {k} folds; add texts, or take fewer folds (--cv)")
    fold = fold_of_group[parts.of_row]
    learnt = fold >= 0 if rare == "drop" else np.ones(len(fold), dtype=np.bool_)
    return [(np.flatnonzero((fold != i) & learnt), np.flatnonzero(fold == i)) for i in range(k)]


def _deal(parts: _Groups, k: int, rng: np.random.Generator, alone: set[int]) -> Positions:
    """Deal each class's groups, largest first, to the fold with the fewest of its rows; -1 for rare classes."""
    fold = np.full(len(parts.sizes), -1, dtype=np.int64)
    totals = np.zeros(k, dtype=np.int64)
    for stratum in range(len(parts.classes)):
        order = parts.shuffled(stratum, rng)
        if stratum in alone:
            continue
        own = np.zeros(k, dtype=np.int64)
        for group in order[np.argsort(-parts.sizes[order], kind="stable")].tolist():
            chosen = min(range(k), key=lambda i: (own[i], totals[i]))
            fold[group] = chosen
            own[chosen] += parts.sizes[group]
            totals[chosen] += parts.sizes[group]
    return fold
