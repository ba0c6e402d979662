"""The difference of two classifiers on the same rows, with its interval."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from embedkit.errors import UsageError
from embedkit.metrics.counts import (
    Bools,
    Counts,
    Floats,
    check_codes,
    check_sets,
    distinct_rows,
    f1_counts,
    macro_f1,
    micro_f1,
)
from embedkit.metrics.intervals import ALIKE, binomial_at_most, bootstrap, bootstrap_method, difference_interval

Patterns = npt.NDArray[np.uint8]


def _right(true: Bools, predicted: Bools) -> Patterns:
    """Return whether each row is right as a whole, and 1 for the row: shape (n, 2)."""
    right = (true == predicted).all(axis=1)
    return np.column_stack([right, np.ones_like(right)]).astype(np.uint8)


def _share(sums: Floats) -> Floats:
    shares: Floats = sums[:, 0] / sums[:, 1]
    return shares


# metric -> what a row adds to sums, and the score of such sums
_SCORES: dict[str, tuple[Callable[[Bools, Bools], Patterns], Callable[[Floats], Floats]]] = {
    "accuracy": (_right, _share),
    "subset_accuracy": (_right, _share),
    "macro_f1": (f1_counts, macro_f1),
    "micro_f1": (f1_counts, micro_f1),
}
_OF_CODES, _OF_SETS = ("accuracy", "macro_f1"), ("micro_f1", "macro_f1", "subset_accuracy")


def paired_difference(
    true: npt.ArrayLike,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    n_classes: int,
    metric: str = "accuracy",
    *,
    resamples: int = 2000,
    seed: int = 42,
) -> dict[str, Any]:
    """Compare two classifiers on the same rows.

    Rows are resampled together with both predictions, so what makes a row hard for both cancels: the interval is
    narrower than that of two separate figures, and it is the one to look at when asking which is better.

    Parameters
    ----------
    true, first, second : array-like, shape (n,) of int, or (n, C) of bool
        Class codes, or for several labels a row whether the row has each.
    n_classes : int
        Number of classes or labels C.
    metric : {"accuracy", "macro_f1"} for codes, {"micro_f1", "macro_f1", "subset_accuracy"} for several labels
        As `classification` and `multilabel` define them.
    resamples : int, default 2000
        Of the bootstrap.
    seed : int
        Of the bootstrap.

    Returns
    -------
    dict
        Ready for JSON: ``metric``, ``first`` and ``second`` (the scores), ``difference`` (first minus second:
        above 0 the first is better), ``ci95`` and ``method``. For accuracies also ``p_value`` and
        ``p_value_method``: the exact test of McNemar (1947) on the rows that only one of them has right.

    Raises
    ------
    DataError
        If there are no rows, or shapes, dtypes or codes are wrong.
    UsageError
        For a metric that there is not, or no resamples.
    """
    several = np.asarray(true).dtype == np.bool_
    allowed = _OF_SETS if several else _OF_CODES
    if metric not in allowed:
        kind = "several labels a row are" if several else "class codes are"
        raise UsageError(f"{kind} compared by {', '.join(allowed)}, not by {metric!r}")
    (wanted, one, other), rows = _distinct({"true": true, "first": first, "second": second}, n_classes, several)
    count, score = _SCORES[metric]
    patterns = np.hstack([count(wanted, one), count(wanted, other)])

    def both(sums: Floats) -> Floats:
        half = sums.shape[1] // 2
        return np.column_stack([score(sums[:, :half]), score(sums[:, half:])])

    scores = both((rows.astype(np.float64) @ patterns)[None])[0]
    drawn = bootstrap(patterns, rows, both, resamples=resamples, seed=seed)
    interval, alike = difference_interval(drawn[:, 0] - drawn[:, 1], int(rows.sum()))
    how = ALIKE if alike else f"paired {bootstrap_method(resamples, seed)}"
    result: dict[str, Any] = {
        "metric": metric,
        "first": float(scores[0]),
        "second": float(scores[1]),
        "difference": float(scores[0] - scores[1]),
        "ci95": list(interval),
        "method": how,
    }
    if metric.endswith("accuracy"):
        right = [(wanted == table).all(axis=1) for table in (one, other)]
        only = [int(rows[right[i] & ~right[1 - i]].sum()) for i in (0, 1)]
        result |= {"p_value": mcnemar(*only), "p_value_method": "exact McNemar test, two-sided"}
    return result


def _distinct(given: dict[str, npt.ArrayLike], n_classes: int, several: bool) -> tuple[list[Bools], Counts]:
    """Return the distinct rows as boolean matrices (K, C), codes as one label each, and how often each occurs."""
    if several:
        tables = check_sets(given, n_classes)
        places, rows = distinct_rows(*tables)
        return [table[places] for table in tables], rows
    distinct, rows = np.unique(np.stack(check_codes(given, n_classes)), axis=1, return_counts=True)
    one_hot = np.eye(n_classes, dtype=np.bool_)
    return [one_hot[codes] for codes in distinct], rows


def mcnemar(first: int, second: int) -> float:
    """Return the exact two-sided p-value of McNemar's test.

    Parameters
    ----------
    first, second : int
        Rows that only the first, and only the second classifier has right.

    Examples
    --------
    >>> round(mcnemar(1, 9), 6), mcnemar(0, 0)
    (0.021484, 1.0)
    """
    return min(1.0, 2 * binomial_at_most(min(first, second), first + second))
