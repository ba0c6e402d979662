"""The figures that a choice is made by: quick, without intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from embedkit.errors import UsageError
from embedkit.metrics.counts import f1_counts, macro_f1, micro_f1, ratio
from embedkit.metrics.multiclass import confusion_matrix, matthews_correlation

OF_CLASSES = ("accuracy", "macro-f1", "mcc")
OF_LABELS = ("micro-f1", "macro-f1", "subset-accuracy")
OF_ENTITIES = ("f1", "precision", "recall", "accuracy")  # of `embedkit.metrics.entity_scores`


def check_metric(metric: str | None, *, multi_label: bool) -> str:
    """Return the metric to choose by; None stands for the first that there is.

    Raises
    ------
    UsageError
        There is no such metric; names those that there are.
    """
    allowed = OF_LABELS if multi_label else OF_CLASSES
    if metric is not None and metric not in allowed:
        where = "where rows have several labels" if multi_label else "where each row has one label"
        raise UsageError(f"there is no metric {metric!r} {where}; allowed: {', '.join(allowed)}")
    return metric or allowed[0]


def check_tag_metric(metric: str | None, *, spans: bool) -> str:
    """Return the metric of tags to choose by; None stands for the first that there is.

    Raises
    ------
    UsageError
        There is no such metric; names those that there are.
    """
    allowed = tag_metrics(spans=spans)
    if metric is not None and metric not in allowed:
        where = "where tags stand for spans" if spans else "where tags are of single words"
        raise UsageError(f"there is no metric {metric!r} {where}; allowed: {', '.join(allowed)}")
    return metric or allowed[0]


def tag_metrics(*, spans: bool) -> tuple[str, ...]:
    """Return what a choice of taggers can be made by: of entities where tags stand for `spans`, else of tags."""
    return OF_ENTITIES if spans else OF_CLASSES


def scores_of(true: npt.NDArray[Any], predicted: npt.NDArray[Any], n_classes: int) -> dict[str, float]:
    """Return every figure that a choice can be made by.

    Parameters
    ----------
    true, predicted : ndarray of int64 (n,), or of bool (n, C)
        Codes, or which labels each row has.
    n_classes : int

    Returns
    -------
    dict of str to float
        `OF_CLASSES` or `OF_LABELS`. F1 is over the classes or labels that occur, true or predicted; 0 where none
        does.
    """
    if true.ndim == 2:
        sums = f1_counts(true, predicted).sum(axis=0, dtype=np.int64)[None]
        return {
            "micro-f1": float(micro_f1(sums)[0]),
            "macro-f1": float(macro_f1(sums)[0]),
            "subset-accuracy": float((true == predicted).all(axis=1).mean()),
        }
    matrix = confusion_matrix(true, predicted, n_classes)
    sums = np.concatenate([2 * np.diag(matrix), matrix.sum(axis=0) + matrix.sum(axis=1)])[None]
    return {
        "accuracy": float(np.trace(matrix) / matrix.sum()),
        "macro-f1": float(macro_f1(sums)[0]),
        "mcc": matthews_correlation(matrix),
    }


def running_scores(true: npt.NDArray[Any], predicted: npt.NDArray[Any], n_classes: int) -> dict[str, float]:
    """Return what a training run shows of itself: `scores_of`, with macro precision and recall.

    Parameters
    ----------
    true, predicted, n_classes
        As for `scores_of`.

    Returns
    -------
    dict of str to float
        Precision and recall are the mean over the classes or labels that occur, true or predicted; 0 where there
        is nothing to divide by.
    """
    if true.ndim == 2:
        hits, given, had = (true & predicted).sum(0), predicted.sum(0), true.sum(0)
    else:
        matrix = confusion_matrix(true, predicted, n_classes)
        hits, given, had = np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1)
    occurring = max(1, int(((given + had) > 0).sum()))
    (first, score), *others = scores_of(true, predicted, n_classes).items()
    precision, recall = (float(ratio(hits, of).sum() / occurring) for of in (given, had))
    return {first: score, "precision": precision, "recall": recall, **dict(others)}
