"""Classifiers that scikit-learn fitted elsewhere are taken over, as arrays where that can be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from embedkit.errors import UsageError
from embedkit.heads import LinearHead, SkopsHead, head_from_estimator
from tests.head_data import assert_predicts_as, one_thread, problem, task, theirs

__all__ = ["one_thread"]  # a fixture


@pytest.mark.parametrize("n_classes", [2, 3, 6])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 2e-5)])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda intercept: LogisticRegression(fit_intercept=intercept, max_iter=500),
        lambda intercept: RidgeClassifier(fit_intercept=intercept),
        lambda intercept: LinearSVC(fit_intercept=intercept),
        lambda intercept: LinearDiscriminantAnalysis(solver="svd" if intercept else "eigen"),
    ],
    ids=["logistic", "ridge", "svm", "lda"],
)
def test_a_linear_classifier_predicts_the_same_as_arrays(
    make: Callable[[bool], BaseEstimator], n_classes: int, dtype: npt.DTypeLike, tolerance: float, intercept: bool
) -> None:
    features, codes = problem(n_classes, dtype=dtype)
    model = make(intercept).fit(features, codes)
    head = head_from_estimator(model)
    assert isinstance(head, LinearHead)
    assert_predicts_as(head, model, features, tolerance)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize(("mean", "std"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_standardiser_is_folded_in(n_classes: int, mean: bool, std: bool) -> None:
    features, codes = problem(n_classes, dtype=np.float64)
    features = features * [1, 10, 100, 0.01, 0] + [0, 5, -300, 1, 7]  # one column is constant
    pipeline = make_pipeline(StandardScaler(with_mean=mean, with_std=std), LogisticRegression(max_iter=500))
    model = pipeline.fit(features, codes)
    head = head_from_estimator(model)
    assert isinstance(head, LinearHead)
    assert_predicts_as(head, model, features, 1e-9)


@pytest.mark.parametrize("strategy", ["prior", "most_frequent", "stratified"])
def test_a_dummy_predicts_the_same_taken_over(strategy: str) -> None:
    features, codes = problem(3)
    codes = np.where(codes == 2, 1, codes)
    model = DummyClassifier(strategy=strategy, random_state=0).fit(features, codes)
    head = head_from_estimator(model)
    assert head.kind == ("skops" if strategy == "stratified" else "constant")
    assert_predicts_as(head, model, features, 1e-15)


def test_codes_are_positions_in_the_classes_of_a_linear_classifier() -> None:
    features, codes = problem(3)
    model = LogisticRegression().fit(features, np.array(["x", "y", "z"])[codes])
    assert_predicts_as(head_from_estimator(model), model, features, 1e-5)


@pytest.mark.parametrize(
    "model",
    [
        RandomForestClassifier(3, random_state=0),
        SVC(),
        make_pipeline(StandardScaler(), SVC()),
        make_pipeline("passthrough", LogisticRegression()),
        HistGradientBoostingClassifier(max_iter=2),
        GaussianNB(),
        MLPClassifier((3,), max_iter=500, learning_rate_init=0.05),
        OneVsRestClassifier(LogisticRegression()),
    ],
    ids=lambda model: type(model).__name__,
)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_other_classifiers_stay_what_they_are(model: BaseEstimator, n_classes: int) -> None:
    features, codes = problem(n_classes)
    model = clone(model).fit(features, codes)
    head = head_from_estimator(model)
    assert isinstance(head, SkopsHead)
    assert_predicts_as(head, model, features, 1e-12)


class Loud(LogisticRegression):
    """A subclass, which may predict otherwise."""


SMALL = (np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1]))


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (Loud().fit(*SMALL), "a Loud has no safe form without pickle: it is made of .*Loud, which embedkit does"),
        (DummyClassifier().fit(SMALL[0], [1] * 4), "two or more classes"),
        (LogisticRegression(), "LogisticRegression is not fitted; call its fit first"),
        (DummyClassifier(), "DummyClassifier is not fitted"),
        (make_pipeline(StandardScaler(), LogisticRegression()), "Pipeline is not fitted"),
        (LinearRegression().fit(*SMALL), "a LinearRegression is no classifier"),
        (StandardScaler().fit(SMALL[0]), "a StandardScaler is no classifier"),
        (GaussianNB().fit(SMALL[0], list("aabb")), "GaussianNB must be fitted on codes from 0 to 1, not on other"),
        (GaussianNB().fit(SMALL[0], [0, 0, 2, 2]), "must be fitted on codes from 0 to 1"),
        (GaussianNB().fit(SMALL[0], [1, 1, 2, 2]), "codes from 0 to 1"),
        (SVC(decision_function_shape="ovo").fit(*SMALL), "scores pairs of classes"),
        (KNeighborsClassifier(1, algorithm="kd_tree").fit(*SMALL), "it is made of sklearn.metrics._dist_metrics"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseEstimator) else "",
)
def test_what_cannot_be_taken_over_is_refused(estimator: BaseEstimator, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        head_from_estimator(estimator)


@pytest.mark.parametrize(
    "model",
    [
        OneVsRestClassifier(LogisticRegression()),
        OneVsRestClassifier(SVC()),
        make_pipeline(StandardScaler(), OneVsRestClassifier(RandomForestClassifier(3, random_state=0))),
        MLPClassifier((4,), max_iter=500, learning_rate_init=0.05, random_state=0),
        RidgeClassifier(),
    ],
    ids=["logistic", "svc", "forest", "mlp", "ridge"],
)
def test_classifiers_of_several_labels_are_taken_over(model: BaseEstimator) -> None:
    features, targets, _ = task("several")
    features = features.astype(np.float64)  # in which arrays compute, whatever they are given
    model = clone(model).fit(features, targets.astype(int))
    head = head_from_estimator(model, multi_label=True)
    assert (head.classes, head.multi_label) == (3, True)
    assert (head.predict(features) == model.predict(features)).all()
    if head.has_probabilities:
        assert head.predict_proba(features) == pytest.approx(model.predict_proba(features), abs=1e-12)


@pytest.mark.parametrize("intercept", [True, False])
def test_logistic_regressions_of_several_labels_become_arrays(intercept: bool) -> None:
    """Also where no row has a label, or all rows have it; not where one of the classifiers is a subclass."""
    features, targets, _ = task("several")
    features = features.astype(np.float64)
    targets = np.column_stack([targets, np.zeros(len(targets), bool), np.ones(len(targets), bool)])
    model = OneVsRestClassifier(LogisticRegression(fit_intercept=intercept))
    with pytest.warns(UserWarning, match="present in all training examples"):
        model.fit(features, targets.astype(int))
    head = head_from_estimator(model, multi_label=True)
    assert isinstance(head, LinearHead)
    assert head.multi_label
    assert (head.predict(features) == model.predict(features)).all()
    assert head.predict_proba(features) == pytest.approx(model.predict_proba(features), abs=1e-12)
    model.estimators_[0] = Loud().fit(features, targets[:, 0])
    with pytest.raises(UsageError, match="OneVsRestClassifier has no safe form without pickle"):
        head_from_estimator(model, multi_label=True)


def test_a_first_label_without_rows_is_taken_over() -> None:
    """scikit-learn asks the first label's classifier what all can do; here that one is a constant."""
    features, targets, _ = task("several")
    targets[:, 0] = False
    for model in SVC(), RandomForestClassifier(3, random_state=0):
        several = theirs(OneVsRestClassifier(model), features, targets.astype(int), scaled=False)
        head = head_from_estimator(several, multi_label=True)
        assert head.has_probabilities is not isinstance(model, SVC)
        expected = [theirs(model, features, targets[:, label], scaled=False) for label in (1, 2)]
        assert (head.predict(features)[:, 1:] == np.column_stack([m.predict(features) for m in expected])).all()
        assert not head.predict(features)[:, 0].any()


def test_a_classifier_that_does_not_know_its_width_is_refused() -> None:
    model = GaussianNB().fit(*SMALL)
    del model.n_features_in_
    with pytest.raises(UsageError, match="GaussianNB does not say how many features it takes"):
        head_from_estimator(model)


def test_a_classifier_with_an_answer_for_each_label_is_refused() -> None:
    features, targets, _ = task("several")
    model = RandomForestClassifier(3).fit(features, targets.astype(int))
    with pytest.raises(UsageError, match="wrap it in OneVsRestClassifier"):
        head_from_estimator(model, multi_label=True)
