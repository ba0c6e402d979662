"""From scores to answers: probabilities by a link, classes by the largest score or by thresholds; numpy only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating[Any]]


def sigmoid(scores: Floats) -> Floats:
    """Return 1 / (1 + exp(-s)) of each score; no score overflows."""
    small = np.exp(-np.abs(scores))
    return np.asarray(np.where(scores >= 0, 1, small) / (1 + small))


def softmax(scores: Floats) -> Floats:
    """Return exp(s) / sum(exp(s)) along the last axis; -inf gives 0."""
    shifted = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def probabilities(scores: Floats, *, multi_label: bool) -> Floats:
    """Return the probabilities that scores in log-odds stand for.

    Parameters
    ----------
    scores : ndarray of float, shape (n,) or (n, C)
        As `Head.decision_function` gives them: (n,) for two classes.
    multi_label : bool
        Whether each column stands for itself.

    Returns
    -------
    ndarray of float, shape (n, C)
        Rows sum to 1, unless `multi_label`.
    """
    if multi_label:
        return sigmoid(scores)
    if scores.ndim == 1:
        return softmax(np.column_stack([np.zeros_like(scores), scores]))  # sigmoid(s) = softmax(0, s)
    return softmax(scores)


def decide(values: Floats, *, multi_label: bool, thresholds: ArrayLike) -> NDArray[Any]:
    """Return the classes that probabilities or scores stand for.

    Parameters
    ----------
    values : ndarray of float, shape (n,) or (n, C)
        (n, C) for several labels a row, or for more than two classes; (n,) of the second of two classes.
    multi_label : bool
        Whether a row has any number of labels.
    thresholds : array-like of float, shape (), (1,) or (C,)
        A value strictly above means yes. Not used for more than two classes.

    Returns
    -------
    ndarray
        bool (n, C) for several labels a row, else int64 (n,); the lower code of two equal ones.
    """
    if multi_label:
        return np.asarray(values > np.asarray(thresholds))
    if values.ndim == 1:
        return np.asarray(values > np.asarray(thresholds).item(), dtype=np.int64)
    return np.asarray(values.argmax(axis=1), dtype=np.int64)
