"""Heads that scikit-learn fitted elsewhere, taken over."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from embedkit.errors import UsageError
from embedkit.heads.base import Head
from embedkit.heads.fit import fold, spread
from embedkit.heads.linear import ConstantHead, LinearHead
from embedkit.heads.skops_head import SkopsHead, dumped

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator
    from sklearn.dummy import DummyClassifier


def head_from_estimator(estimator: BaseEstimator, *, multi_label: bool = False) -> Head:
    """Return a fitted scikit-learn classifier as a head that can be saved without pickle.

    Parameters
    ----------
    estimator : scikit-learn classifier
        Fitted on codes from 0 to C - 1, or on a matrix of 0 and 1. Logistic regression, ridge, linear support
        vectors and linear discriminant analysis, also behind a StandardScaler, a dummy, and a OneVsRestClassifier
        of logistic regressions for several labels become plain arrays; a subclass of them, which may predict
        otherwise, and others stay what they are, if skops can save them.
    multi_label : bool
        Whether rows have any number of labels.

    Returns
    -------
    Head
        Its codes are positions in the estimator's ``classes_``.

    Raises
    ------
    UsageError
        If the estimator is no classifier, is not fitted, knows fewer than two classes or others than codes, gives
        neither probabilities nor scores, or has no form without pickle.
    """
    from sklearn.base import BaseEstimator, is_classifier
    from sklearn.exceptions import NotFittedError
    from sklearn.pipeline import Pipeline
    from sklearn.utils.validation import check_is_fitted

    if not (isinstance(estimator, BaseEstimator) and is_classifier(estimator)):
        raise UsageError(f"a {type(estimator).__name__} is no classifier")
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        raise UsageError(f"the {type(estimator).__name__} is not fitted; call its fit first") from None
    parts = [step for _, step in estimator.steps] if type(estimator) is Pipeline else [estimator]
    head = _labels_as_arrays(parts) if multi_label else _as_arrays(parts)
    if head is not None:
        return head
    classes = _count_classes(estimator, multi_label)
    asked = [*parts, *getattr(parts[-1], "estimators_", ())]  # a first label that no row had does not know
    widths = [part.n_features_in_ for part in asked if hasattr(part, "n_features_in_")]
    if not widths:
        raise UsageError(
            f"the {type(estimator).__name__} does not say how many features it takes (n_features_in_)"
        )
    dumped(estimator)
    return SkopsHead(estimator, classes, int(widths[0]), multi_label)


def _count_classes(estimator: BaseEstimator, multi_label: bool) -> int:
    """Return the number of classes or labels, or say what the estimator should have been fitted on."""
    name, known = type(estimator).__name__, estimator.classes_
    if isinstance(known, list):
        raise UsageError(f"the {name} knows several labels a row by its own; wrap it in OneVsRestClassifier")
    if len(known) < (1 if multi_label else 2):
        raise UsageError(f"the {name} must know two or more classes")
    if not np.array_equal(known, np.arange(len(known))):
        raise UsageError(f"the {name} must be fitted on codes from 0 to {len(known) - 1}, not on other labels")
    return len(known)


def _as_arrays(parts: list[BaseEstimator]) -> Head | None:
    """Return a head of plain arrays where one is known."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression, RidgeClassifier
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    links = {
        LogisticRegression: "softmax",
        LinearDiscriminantAnalysis: "softmax",
        RidgeClassifier: "none",
        LinearSVC: "none",
    }
    kinds = [type(part) for part in parts]
    if kinds == [DummyClassifier] and parts[0].strategy in ("prior", "most_frequent"):
        return _constant_of(parts[0])
    if kinds[-1] not in links or kinds[:-1] not in ([], [StandardScaler]) or len(parts[-1].classes_) < 2:
        return None
    coef, intercept = fold(parts[-1], parts[0] if len(parts) == 2 else None)
    classes = np.arange(len(parts[-1].classes_))
    return spread(coef, intercept, classes, len(classes), links[kinds[-1]])


def _labels_as_arrays(parts: list[BaseEstimator]) -> Head | None:
    """Return a linear head of several labels where each has a logistic regression, or one answer for all rows."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    if [type(part) for part in parts] != [OneVsRestClassifier]:
        return None
    fits = parts[0].estimators_
    linear = [fit for fit in fits if type(fit) is LogisticRegression]
    if not linear or any(type(fit) is not LogisticRegression and not hasattr(fit, "y_") for fit in fits):
        return None
    nothing = np.zeros_like(linear[0].coef_)
    coef = np.concatenate([getattr(fit, "coef_", nothing) for fit in fits])
    intercept = np.array([_intercept_of(fit) for fit in fits], dtype=linear[0].intercept_.dtype)
    return LinearHead(coef, intercept, "sigmoid", multi_label=True)


def _intercept_of(fit: BaseEstimator) -> float:
    """Return the intercept of a logistic regression; an infinite one of the constant, which has `y_` instead."""
    if hasattr(fit, "coef_"):
        return float(np.broadcast_to(fit.intercept_, 1)[0])
    return math.inf if fit.y_[0] else -math.inf


def _constant_of(dummy: DummyClassifier) -> ConstantHead:
    """Return a fitted DummyClassifier as a head."""
    if dummy.n_outputs_ != 1 or len(dummy.classes_) < 2:
        raise UsageError("the DummyClassifier must know one output and two or more classes")
    prior = np.asarray(dummy.class_prior_, dtype=np.float64)
    if dummy.strategy == "most_frequent":
        prior = np.eye(len(prior))[prior.argmax()]
    return ConstantHead(prior, int(dummy.n_features_in_))
