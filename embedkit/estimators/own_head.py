"""A head of one's own: any scikit-learn classifier, fitted on codes, that answers as a `Head` does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone, is_classifier
from sklearn.utils.validation import has_fit_parameter

from embedkit.errors import UsageError


def check_own_head(head: Any, *, weighted: bool) -> None:  # noqa: ANN401 - whatever was given
    """Raise `UsageError` unless this is an unfitted classifier that takes weights where there are some."""
    if isinstance(head, type) or not hasattr(head, "__sklearn_tags__") or not is_classifier(head):
        raise UsageError(f"head is {head!r}; give a name or an unfitted scikit-learn classifier")
    if weighted and not has_fit_parameter(head, "sample_weight"):
        raise UsageError(
            f"sample_weight was given, but fit of {type(head).__name__} takes none; take a head that does"
        )


def fit_own_head(
    head: Any,  # noqa: ANN401 - a classifier
    features: NDArray[np.float32],
    codes: NDArray[Any],
    weights: NDArray[np.float64] | None,
) -> Any:  # noqa: ANN401 - of the same class
    """Return a fitted clone.

    Parameters
    ----------
    head : scikit-learn classifier
    features : ndarray of float32, shape (n, D)
    codes : ndarray of int64 (n,), or of bool (n, L)
    weights : ndarray of float64, shape (n,), optional

    Raises
    ------
    UsageError
        It does not learn several labels a row.
    """
    how = {} if weights is None else {"sample_weight": weights}
    if codes.ndim == 1:
        return clone(head).fit(features, codes, **how)
    try:
        return clone(head).fit(features, codes.astype(np.int64), **how)
    except ValueError as error:
        name = type(head).__name__
        raise UsageError(
            f"{name} did not learn several labels a row ({error}); OneVsRestClassifier({name}()) makes one for "
            "each label"
        ) from error


@dataclass(frozen=True)
class OwnHead:
    """Answers of a fitted classifier, in codes.

    Parameters
    ----------
    model : scikit-learn classifier
        As `fit_own_head` returns it.
    several : bool
        Whether rows have any number of labels.
    """

    model: Any
    several: bool

    def predict(self, X: NDArray[Any]) -> NDArray[Any]:  # noqa: N803
        """Return codes (n,), or bool (n, L)."""
        answers = self.model.predict(X)
        return np.asarray(answers).astype(bool) if self.several else np.asarray(answers)

    def predict_proba(self, X: NDArray[Any]) -> NDArray[Any]:  # noqa: N803
        """Return probabilities (n, C), or of each label (n, L)."""
        given = self.model.predict_proba(X)
        if not isinstance(given, list):
            return np.asarray(given)
        return np.column_stack(  # forests, trees and neighbours: for each label its two classes
            [_of_one(shares, classes) for shares, classes in zip(given, self.model.classes_, strict=True)]
        )

    def decision_function(self, X: NDArray[Any]) -> NDArray[Any]:  # noqa: N803
        """Return scores (n,) or (n, C)."""
        return np.asarray(self.model.decision_function(X))


def _of_one(shares: NDArray[Any], classes: NDArray[Any]) -> NDArray[Any]:
    """Return the probability of 1; the training rows may all have had one class."""
    place = np.flatnonzero(np.asarray(classes) == 1)
    return np.asarray(shares)[:, place[0]] if len(place) else np.zeros(len(shares))
