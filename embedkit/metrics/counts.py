"""What every figure starts from: checked rows, what they count for, and a division that has an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from embedkit.errors import DataError, UsageError

Bools = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def ratio(part: Floats | Counts, whole: Floats | Counts) -> Floats:
    """Divide, with 0 where there is nothing to divide by."""
    return np.divide(part, whole, out=np.zeros(np.shape(part), dtype=np.float64), where=whole > 0)


def f1_counts(true: Bools, predicted: Bools) -> npt.NDArray[np.uint8]:
    """Return what each row adds to F1, shape (n, 2 L): twice its hits of each label, and how often it has each."""
    return np.hstack([2 * (true & predicted).astype(np.uint8), true.astype(np.uint8) + predicted])


def macro_f1(sums: Floats | Counts) -> Floats:
    """Return macro F1 (R,) from sums (R, 2 L) of `f1_counts`: the mean over labels that occur; 0 if none does."""
    hits, occurrences = np.split(np.asarray(sums, dtype=np.float64), 2, axis=1)
    occurring = (occurrences > 0).sum(axis=1)
    return ratio(ratio(hits, occurrences).sum(axis=1), occurring)


def micro_f1(sums: Floats | Counts) -> Floats:
    """Return micro F1 (R,) from sums (R, 2 L) of `f1_counts`: over all labels of all rows; 0 if there are none."""
    hits, occurrences = np.split(np.asarray(sums, dtype=np.float64), 2, axis=1)
    return ratio(hits.sum(axis=1), occurrences.sum(axis=1))


def distinct_rows(*tables: Bools) -> tuple[Counts, Counts]:
    """Return the places of the distinct rows of tables (n, ...) side by side, and how often each occurs."""
    packed = np.ascontiguousarray(np.packbits(np.hstack(tables), axis=1))
    whole = packed.view(np.dtype((np.void, packed.shape[1])))[:, 0]
    _, places, rows = np.unique(whole, return_index=True, return_counts=True)
    return places, rows


def labels_averaged(count: int) -> str:
    """Say which labels a macro mean is over."""
    return f"the {count} labels that occur among these rows, true or predicted"


def check_names(names: Sequence[str]) -> None:
    """Raise `UsageError` for a label that stands twice."""
    if len(set(names)) != len(names):
        doubled = sorted({name for name in names if list(names).count(name) > 1})
        raise UsageError(f"label names must differ; given more than once: {doubled}")


def check_codes(given: Mapping[str, npt.ArrayLike], n_classes: int) -> list[Counts]:
    """Return columns of class codes as integers; `DataError` for none, other lengths or a code out of range."""
    columns = [_codes(values, what, n_classes) for what, values in given.items()]
    check_lengths(dict(zip(given, columns, strict=True)))
    return columns


def check_lengths(columns: Mapping[str, npt.NDArray[Any]]) -> None:
    """Raise `DataError` unless all have as many rows as the first, and that at least one."""
    (what, first), *others = columns.items()
    for name, column in others:
        if len(column) != len(first):
            raise DataError(f"{len(first)} {what} labels but {len(column)} {name} ones")
    if not len(first):
        raise DataError("0 rows: there is nothing to judge")


def check_sets(given: Mapping[str, npt.ArrayLike], n_labels: int | None = None) -> list[Bools]:
    """Return boolean matrices (n, L); `DataError` for another dtype, shape or number of labels, or no rows."""
    tables: list[Bools] = [np.asarray(values) for values in given.values()]
    for what, table in zip(given, tables, strict=True):
        if table.ndim != 2 or table.dtype != np.bool_ or not table.shape[1]:
            raise DataError(
                f"{what} labels must be booleans in two dimensions, not {table.dtype} of shape {table.shape}"
            )
        width = tables[0].shape[1] if n_labels is None else n_labels
        if table.shape[1] != width:
            raise DataError(f"{what} labels have {table.shape[1]} columns for {width} labels")
    check_lengths(dict(zip(given, tables, strict=True)))
    return tables


def _codes(values: npt.ArrayLike, what: str, n_classes: int) -> Counts:
    """Return class codes as an integer vector, all of them in range."""
    codes = np.asarray(values)
    if codes.size == 0:
        return np.zeros(0, dtype=np.int64)
    if codes.ndim != 1 or codes.dtype.kind not in "iu":
        raise DataError(
            f"{what} codes must be integers in one dimension, not {codes.dtype} of shape {codes.shape}"
        )
    wrong = np.flatnonzero((codes < 0) | (codes >= n_classes))
    if len(wrong):
        raise DataError(
            f"{what} code {codes[wrong[0]]} of row {wrong[0] + 1} is not one of the {n_classes} classes"
        )
    return codes.astype(np.int64)
