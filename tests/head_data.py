"""Small problems and quick heads, shared by the tests of heads."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from embedkit.heads import FittedHead, Head, HeadSpec, LinearHead, fit_head
from embedkit.heads.table import HEADS

SVC, FOREST = "sklearn:svm.SVC", "sklearn:ensemble.RandomForestClassifier"
NAMES = (*HEADS, SVC, FOREST)
WITHOUT_PROBABILITIES = ("ridge", "linear-svm", "centroid", SVC)
PLAIN = tuple(name for name in HEADS if name != "hist-gb")  # saved as arrays alone
QUICK: dict[str, dict[str, Any]] = {
    "mlp": {"hidden_layer_sizes": 8, "max_iter": 300, "learning_rate_init": 0.02},
    "hist-gb": {"max_iter": 5, "min_samples_leaf": 5},
    FOREST: {"n_estimators": 5},
}
TASKS = ("two", "three", "several")  # classes, or three labels a row

Problem = tuple[npt.NDArray[Any], npt.NDArray[np.int64]]


def problem(
    n_classes: int, *, rows: int = 90, width: int = 5, seed: int = 0, dtype: npt.DTypeLike = np.float32
) -> Problem:
    """Return raw features around one centre a class, and the classes in turn."""
    rng = np.random.default_rng(seed)
    codes = np.arange(rows) % n_classes
    centres = rng.normal(size=(n_classes, width)) * 2
    return (centres[codes] + rng.normal(size=(rows, width))).astype(dtype), codes


def unit(features: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def matrix(features: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return three labels that the first columns of the features tell, roughly: rows have 0 to 3 of them."""
    noise = np.random.default_rng(1).normal(size=(len(features), 3)) * 0.3 * features[:, :3].std()
    return np.asarray(features[:, :3] + noise > features[:, :3].mean(axis=0))


def task(kind: str, *, unit_norm: bool = False, dtype: npt.DTypeLike = np.float32) -> tuple[Any, Any, int]:
    """Return features, targets and the number of classes of one of `TASKS`."""
    features, codes = problem(2 if kind == "two" else 3, dtype=dtype)
    if unit_norm:
        features = unit(features)
    return features, (matrix(features) if kind == "several" else codes), (2 if kind == "two" else 3)


def spec_of(name: str, **settings: Any) -> HeadSpec:
    """Return a head's specification, quick to fit; `settings` as of `HeadSpec`."""
    return HeadSpec(name, **{"params": QUICK.get(name, {}), **settings})


@cache
def fitted(name: str, kind: str, unit_norm: bool = False) -> FittedHead:
    """Return a quick head fitted on a task."""
    return fit_head(spec_of(name), *task(kind, unit_norm=unit_norm))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Trees on so few rows wait for their threads longer than they compute; import this where heads are fitted.

    The pools that it limits came with scikit-learn, above.
    """
    with threadpool_limits(1):
        yield


def theirs(model: BaseEstimator, features: Any, targets: Any, *, scaled: bool, **fit: Any) -> BaseEstimator:
    """Return scikit-learn's own, fitted, behind a standardiser where embedkit has one."""
    if scaled:
        model = make_pipeline(StandardScaler(), clone(model))
        fit = {f"{model.steps[1][0]}__{name}": value for name, value in fit.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)  # of convergence, of labels without rows
        return (model if scaled else clone(model)).fit(features, targets, **fit)


def assert_predicts_as(head: Head, model: BaseEstimator, features: npt.NDArray[Any], tolerance: float) -> None:
    """Compare all that both answer, with positions for classes."""
    assert (head.predict(features) == np.searchsorted(model.classes_, model.predict(features))).all()
    if head.has_probabilities:
        assert head.predict_proba(features) == pytest.approx(model.predict_proba(features), abs=tolerance)
    if isinstance(head, LinearHead) and hasattr(model, "decision_function"):
        expected = model.decision_function(features)
        assert head.decision_function(features) == pytest.approx(expected, abs=tolerance, rel=tolerance)
