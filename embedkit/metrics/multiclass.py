"""One label a row: everything is computed from the confusion matrix.

So the cost after one pass over the rows depends on the number of classes alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from embedkit.errors import UsageError
from embedkit.metrics.counts import (
    Counts,
    Floats,
    check_codes,
    check_names,
    f1_counts,
    labels_averaged,
    macro_f1,
    ratio,
)
from embedkit.metrics.intervals import bootstrap, bootstrap_method, clopper_pearson, percentiles


def classification(
    true: npt.ArrayLike,
    predicted: npt.ArrayLike,
    names: Sequence[str],
    *,
    positive: str | None = None,
    trained: int | None = None,
    resamples: int = 1000,
    seed: int = 42,
) -> dict[str, Any]:
    """Judge single-label predictions.

    Parameters
    ----------
    true, predicted : array-like of int, shape (n,)
        Class codes, indices into `names`.
    names : sequence of str
        The label of each code; no two alike.
    positive : str, optional
        The label whose precision, recall and F1 stand at the top level. Without it they are only given
        per class: which class of two is the positive one is not for us to guess.
    trained : int, optional
        Codes from here up are labels that training never saw. Their rows count as errors. Default: all
        of `names` were trained.
    resamples : int
        Bootstrap resamples of the macro F1 interval.
    seed : int
        Of the bootstrap.

    Returns
    -------
    dict
        Ready for JSON: ``n``, ``accuracy``, ``accuracy_ci95`` with its method, ``macro_f1``,
        ``macro_f1_ci95`` with its method, ``macro_f1_over``, ``weighted_f1``, ``per_class``,
        ``confusion`` (rows true, columns predicted), ``unseen_labels`` where `trained` is given, ``mcc``
        for two classes, and ``positive_label``, ``precision``, ``recall``, ``f1`` where `positive` is.
        A ratio without cases is 0.0, as with scikit-learn's ``zero_division=0``.

    Raises
    ------
    DataError
        If there are no rows, lengths differ, or a code is no index into `names`.
    UsageError
        If `positive` is none of `names`, or `names` has a label twice.
    """
    check_names(names)
    if positive is not None and positive not in names:
        raise UsageError(f"the positive label {positive!r} is none of the labels: {', '.join(names)}")
    matrix = confusion_matrix(true, predicted, len(names))
    n, hits = int(matrix.sum()), int(np.trace(matrix))
    precision, recall, f1 = _per_class(matrix)
    support = matrix.sum(axis=1)
    occurring = (support + matrix.sum(axis=0)) > 0
    result: dict[str, Any] = {
        "n": n,
        "accuracy": hits / n,
        "accuracy_ci95": list(clopper_pearson(hits, n)),
        "accuracy_ci95_method": "clopper-pearson",
        "macro_f1": float(f1[occurring].mean()),
        "macro_f1_ci95": list(macro_f1_interval(matrix, resamples=resamples, seed=seed)),
        "macro_f1_ci95_method": bootstrap_method(resamples, seed),
        "macro_f1_over": labels_averaged(int(occurring.sum())),
        "weighted_f1": float((f1 * support).sum() / n),
        "per_class": {
            name: {
                "precision": float(precision[code]),
                "recall": float(recall[code]),
                "f1": float(f1[code]),
                "support": int(support[code]),
            }
            for code, name in enumerate(names)
        },
        "confusion": matrix.tolist(),
    }
    if trained is not None:
        result["unseen_labels"] = [names[code] for code in range(trained, len(names)) if support[code]]
    if len(names) == 2:
        result["mcc"] = matthews_correlation(matrix)
    if positive is not None:
        chosen = result["per_class"][positive]
        result |= {"positive_label": positive} | {key: chosen[key] for key in ("precision", "recall", "f1")}
    return result


def confusion_matrix(true: npt.ArrayLike, predicted: npt.ArrayLike, n_classes: int) -> Counts:
    """Count the pairs of true and predicted codes.

    Parameters
    ----------
    true, predicted : array-like of int, shape (n,)
        Codes from 0 to `n_classes` - 1.
    n_classes : int
        Number of classes C.

    Returns
    -------
    numpy.ndarray of int64, shape (C, C)
        Rows are true classes, columns predicted ones.

    Raises
    ------
    DataError
        If there are no rows, lengths differ, or a code is out of range.
    """
    codes = check_codes({"true": true, "predicted": predicted}, n_classes)
    flat = codes[0] * n_classes + codes[1]
    return np.bincount(flat, minlength=n_classes * n_classes).reshape(n_classes, n_classes)


def _per_class(matrix: Counts) -> tuple[Floats, Floats, Floats]:
    """Return precision, recall and F1 of each class."""
    hits, true, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    return ratio(hits, predicted), ratio(hits, true), ratio(2 * hits, true + predicted)


def matthews_correlation(matrix: Counts) -> float:
    """Return Matthews' correlation of true and predicted classes, any number of them; 0 if undefined.

    The multi-class form of Gorodkin (2004), as in scikit-learn.
    """
    n, hits = float(matrix.sum()), float(np.trace(matrix))
    true, predicted = (matrix.sum(axis=axis).astype(np.float64) for axis in (1, 0))
    spread = (n * n - predicted @ predicted) * (n * n - true @ true)
    return float((hits * n - true @ predicted) / math.sqrt(spread)) if spread > 0 else 0.0


def macro_f1_interval(
    matrix: Counts, *, resamples: int = 1000, seed: int = 42, level: float = 0.95
) -> tuple[float, float]:
    """Bound macro F1 by the percentile bootstrap over rows, which are the cells of the confusion matrix.

    A class that a resample misses altogether is left out of its mean.

    Parameters
    ----------
    matrix : numpy.ndarray of int64, shape (C, C)
        Of `confusion_matrix`.
    resamples : int
        Number of resamples, at least 1.
    seed : int
        Of numpy's default generator.
    level : float
        Coverage aimed at.

    Returns
    -------
    tuple of float
        Lower and upper bound.
    """
    of_true, of_predicted = np.nonzero(matrix)
    one_hot = np.eye(len(matrix), dtype=np.bool_)
    patterns = f1_counts(one_hot[of_true], one_hot[of_predicted])
    scores = bootstrap(patterns, matrix[of_true, of_predicted], macro_f1, resamples=resamples, seed=seed)
    return percentiles(scores, level)
