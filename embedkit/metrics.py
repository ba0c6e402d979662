"""Classification figures from codes, with intervals that name their method; numpy only.

Everything is computed from the confusion matrix, so the cost after one pass over the rows depends on
the number of classes alone. The tests hold every figure equal to scikit-learn's and the exact interval
equal to scipy's beta quantiles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from embedkit.errors import DataError, UsageError

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


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
    _check_names(names, positive)
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
        "macro_f1_ci95_method": f"percentile bootstrap, {resamples} resamples, seed {seed}",
        "macro_f1_over": f"the {int(occurring.sum())} labels that occur among these rows, true or predicted",
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


def _check_names(names: Sequence[str], positive: str | None) -> None:
    """Refuse doubled names and a positive label that is none of them."""
    if len(set(names)) != len(names):
        doubled = sorted({name for name in names if list(names).count(name) > 1})
        raise UsageError(f"label names must differ; given more than once: {doubled}")
    if positive is not None and positive not in names:
        raise UsageError(f"the positive label {positive!r} is none of the labels: {', '.join(names)}")


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
    pair = [_codes(values, what, n_classes) for values, what in ((true, "true"), (predicted, "predicted"))]
    if len(pair[0]) != len(pair[1]):
        raise DataError(f"{len(pair[0])} true labels but {len(pair[1])} predicted ones")
    if len(pair[0]) == 0:
        raise DataError("0 rows: there is nothing to judge")
    flat = pair[0] * n_classes + pair[1]
    return np.bincount(flat, minlength=n_classes * n_classes).reshape(n_classes, n_classes)


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


def _ratio(part: Floats | Counts, whole: Floats | Counts) -> Floats:
    """Divide, with 0 where there is nothing to divide by."""
    return np.divide(part, whole, out=np.zeros(len(part), dtype=np.float64), where=whole > 0)


def _per_class(matrix: Counts) -> tuple[Floats, Floats, Floats]:
    """Return precision, recall and F1 of each class."""
    hits, true, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    return _ratio(hits, predicted), _ratio(hits, true), _ratio(2 * hits, true + predicted)


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
    """Bound macro F1 by the percentile bootstrap over rows.

    Drawing n rows with replacement is drawing the counts of the confusion matrix from a multinomial, so a
    resample costs the number of non-zero cells, not of rows. A class that a resample misses altogether is
    left out of its mean.

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
    if resamples < 1:
        raise UsageError(f"resamples must be at least 1, not {resamples}")
    n_classes = len(matrix)
    of_true, of_predicted = np.nonzero(matrix)
    counts, right = matrix[of_true, of_predicted], of_true == of_predicted
    share, n = counts / counts.sum(), int(counts.sum())
    rng = np.random.default_rng(seed)
    scores = np.empty(resamples)
    for i in range(resamples):
        drawn = rng.multinomial(n, share)
        marginals = np.bincount(of_true, drawn, n_classes) + np.bincount(of_predicted, drawn, n_classes)
        hits = np.bincount(of_true[right], drawn[right], n_classes)
        scores[i] = _ratio(2 * hits, marginals)[marginals > 0].mean()
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def clopper_pearson(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Bound a proportion exactly (Clopper and Pearson 1934): the coverage is never below `level`.

    Parameters
    ----------
    hits : int
        Successes, 0 to `n`.
    n : int
        Trials, at least 1.
    level : float
        Coverage.

    Returns
    -------
    tuple of float
        Lower and upper bound; 0 if there are no hits, 1 if there are only hits.

    Examples
    --------
    >>> [round(bound, 4) for bound in clopper_pearson(8, 10)]
    [0.4439, 0.9748]
    """
    if not 0 <= hits <= n or n < 1:
        raise DataError(f"{hits} hits in {n} trials")
    tail = (1 - level) / 2
    # P(X >= hits | p) = I_p(hits, n - hits + 1), and P(X <= hits | p) = 1 - I_p(hits + 1, n - hits)
    low = 0.0 if hits == 0 else _beta_quantile(hits, n - hits + 1, tail)
    high = 1.0 if hits == n else 1.0 - _beta_quantile(n - hits, hits + 1, tail)
    return low, high


def _beta_quantile(a: float, b: float, share: float) -> float:
    """Return the x at which the regularised incomplete beta function is `share`, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        if _beta_cdf(middle, a, b) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _beta_cdf(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b)."""
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on the other side alone
        return 1.0 - _beta_cdf(1.0 - x, b, a)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(front) / a * _beta_fraction(x, a, b)


def _beta_fraction(x: float, a: float, b: float) -> float:
    """Evaluate the continued fraction of I_x(a, b) (DLMF 8.17.22) by the modified Lentz method."""
    tiny = 1e-300
    c, d = 1.0, 1.0 / ((1.0 - (a + b) * x / (a + 1)) or tiny)
    result = d
    for m in range(1, 100_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for step in (even, odd):
            d = 1.0 / ((1.0 + step * d) or tiny)
            c = (1.0 + step / c) or tiny
            result *= c * d
        if abs(c * d - 1.0) < 1e-15:
            return result
    raise ArithmeticError(f"the incomplete beta function did not converge at x={x}, a={a}, b={b}")
