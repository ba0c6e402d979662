"""Heads predict as scikit-learn's do, with numpy alone, and say what is wrong with their input."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from embedkit.artifact import load_arrays, save_arrays
from embedkit.errors import ArtifactError, DataError, UsageError
from embedkit.heads import (
    ConstantHead,
    Head,
    HeadSpec,
    LinearHead,
    available,
    fit_head,
    head_from_estimator,
    head_from_state,
    parse_params,
)
from embedkit.heads.fit import ClassWeight

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


def assert_predicts_as(head: Head, model: BaseEstimator, features: npt.NDArray[Any], tolerance: float) -> None:
    assert head.predict_proba(features) == pytest.approx(model.predict_proba(features), abs=tolerance)
    assert (head.predict(features) == np.searchsorted(model.classes_, model.predict(features))).all()
    if hasattr(model, "decision_function"):
        expected = model.decision_function(features)
        assert head.decision_function(features) == pytest.approx(expected, abs=tolerance, rel=tolerance)


@pytest.mark.parametrize("n_classes", [2, 3, 6])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
@pytest.mark.parametrize("intercept", [True, False])
def test_a_fitted_regression_predicts_the_same_as_arrays(
    n_classes: int, dtype: npt.DTypeLike, tolerance: float, intercept: bool
) -> None:
    features, codes = problem(n_classes, dtype=dtype)
    model = LogisticRegression(fit_intercept=intercept).fit(features, codes)
    assert_predicts_as(head_from_estimator(model), model, features, tolerance)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize(("mean", "std"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_standardiser_is_folded_in(n_classes: int, mean: bool, std: bool) -> None:
    features, codes = problem(n_classes, dtype=np.float64)
    features = features * [1, 10, 100, 0.01, 0] + [0, 5, -300, 1, 7]  # one column is constant
    pipeline = make_pipeline(StandardScaler(with_mean=mean, with_std=std), LogisticRegression(max_iter=500))
    model = pipeline.fit(features, codes)
    assert_predicts_as(head_from_estimator(model), model, features, 1e-9)


@pytest.mark.parametrize("strategy", ["prior", "most_frequent"])
def test_a_dummy_predicts_the_same_as_arrays(strategy: str) -> None:
    features, codes = problem(3)
    codes = np.where(codes == 2, 1, codes)
    model = DummyClassifier(strategy=strategy).fit(features, codes)
    assert_predicts_as(head_from_estimator(model), model, features, 1e-15)
    fitted = fit_head(HeadSpec("dummy", params={"strategy": strategy}), features, codes, 2)
    assert_predicts_as(fitted.head, model, features, 1e-15)


def test_codes_are_positions_in_the_classes_of_the_estimator() -> None:
    features, codes = problem(3)
    model = LogisticRegression().fit(features, np.array(["x", "y", "z"])[codes])
    assert_predicts_as(head_from_estimator(model), model, features, 1e-5)


class Loud(LogisticRegression):
    """A subclass, which may predict otherwise."""


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (LinearSVC(), "cannot save LinearSVC as plain arrays; supported: LogisticRegression"),
        (Loud().fit([[0.0], [1.0]], [0, 1]), "cannot save Loud"),
        (DummyClassifier(strategy="uniform").fit([[0.0], [1.0]], [0, 1]), "cannot save DummyClassifier"),
        (DummyClassifier().fit([[0.0], [1.0]], [1, 1]), "two or more classes"),
        (LogisticRegression(), "LogisticRegression is not fitted; call its fit first"),
        (DummyClassifier(), "DummyClassifier is not fitted"),
        (make_pipeline(StandardScaler(), LogisticRegression()), "Pipeline is not fitted"),
        (make_pipeline("passthrough", LogisticRegression()).fit([[0.0], [1.0]], [0, 1]), "cannot save str"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_estimators_are_refused(estimator: BaseEstimator, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        head_from_estimator(estimator)


@pytest.mark.parametrize("n_classes", [2, 5])
@pytest.mark.parametrize("class_weight", [None, "balanced", {"1": 5.0}])
def test_fit_equals_plain_scikit_learn_on_unit_features(n_classes: int, class_weight: ClassWeight) -> None:
    features, codes = problem(n_classes)
    features, codes = unit(features)[:71], codes[:71]
    fitted = fit_head(HeadSpec(class_weight=class_weight), features, codes, n_classes)
    theirs = {1: 5.0} if isinstance(class_weight, dict) else class_weight
    if isinstance(theirs, dict):
        theirs = {code: theirs.get(code, 1.0) for code in range(n_classes)}
    with threadpool_limits(1):
        model = LogisticRegression(max_iter=1000, class_weight=theirs).fit(features, codes)
    assert not fitted.scaled
    assert fitted.iterations == model.n_iter_.max()
    assert_predicts_as(fitted.head, model, features, 1e-5)


@pytest.mark.parametrize(
    ("features", "scale", "scaled"),
    [
        ("unit", "auto", False),
        ("nearly unit", "auto", False),
        ("unit and zero rows", "auto", False),
        ("raw", "auto", True),
        ("raw", "none", False),
        ("raw", "standard", True),
        ("unit", "standard", True),
    ],
)
def test_raw_features_are_standardised_and_unit_ones_are_not(features: str, scale: str, scaled: bool) -> None:
    raw, codes = problem(2)
    values = raw if features == "raw" else unit(raw)
    if features == "nearly unit":
        values = values * 1.0009
    if features == "unit and zero rows":
        values[3] = 0
    assert fit_head(HeadSpec(scale=scale), values, codes, 2).scaled is scaled


def test_standardising_makes_the_fit_blind_to_the_scale_of_columns() -> None:
    features, codes = problem(3, dtype=np.float64)
    scale = [1e-3, 1, 10, 1e3, 1]
    plain = fit_head(HeadSpec(scale="standard"), features, codes, 3)
    stretched = fit_head(HeadSpec(scale="standard"), features * scale + 4, codes, 3)
    expected = plain.head.predict_proba(features)
    assert stretched.head.predict_proba(features * scale + 4) == pytest.approx(expected, abs=1e-6)


def test_a_fit_that_does_not_converge_is_said() -> None:
    features, codes = problem(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = fit_head(HeadSpec(scale="none", params={"max_iter": 2}), features, codes, 3)
    [note] = fitted.notes
    assert note == (
        "logreg did not converge: it stopped at max_iter=2 (n_iter 2); raise max_iter, "
        "or standardise the features (scale 'standard')"
    )
    assert fit_head(HeadSpec(), features, codes, 3).notes == []


def test_a_class_without_rows_is_never_predicted_and_said() -> None:
    features, codes = problem(3)
    for present, n_classes in ([0, 2], 3), ([1, 3, 4], 6):
        moved = np.array(present)[codes % len(present)]
        names = [f"name {code}" for code in range(n_classes)]
        fitted = fit_head(HeadSpec(scale="none"), features, moved, n_classes, names=names)
        probabilities = fitted.head.predict_proba(features)
        absent = sorted(set(range(n_classes)) - set(present))
        assert (probabilities[:, absent] == 0).all()
        assert set(fitted.head.predict(features)) <= set(present)
        model = LogisticRegression(max_iter=1000).fit(features.astype(np.float64), moved)
        assert probabilities[:, present] == pytest.approx(model.predict_proba(features), abs=1e-12)
        expected = ", ".join(names[code] for code in absent)
        assert fitted.notes == [f"never predicted, because no training row has them: {expected}"]


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 4), st.integers(0, 10**6), st.sampled_from([np.float16, np.float32, np.float64]))
def test_saved_and_loaded_heads_predict_bit_for_bit(n_classes: int, seed: int, dtype: npt.DTypeLike) -> None:
    features, codes = problem(n_classes, rows=40, seed=seed, dtype=dtype)
    for clf in available():
        head = fit_head(HeadSpec(clf), features, codes, n_classes).head
        described, arrays = head.state()
        copy = head_from_state(json.loads(json.dumps(described)), arrays)
        assert (copy.predict_proba(features) == head.predict_proba(features)).all()
        assert (copy.predict(features) == head.predict(features)).all()
        assert (copy.classes, copy.n_features, copy.kind) == (n_classes, 5, head.kind)


def test_a_head_survives_its_file(tmp_path: Path) -> None:
    features, codes = problem(3)
    head = fit_head(HeadSpec(), features, np.array([0, 1, 3])[codes], 4).head  # with an intercept of -inf
    described, arrays = head.state()
    save_arrays(tmp_path / "head.safetensors", arrays)
    copy = head_from_state(described, load_arrays(tmp_path / "head.safetensors"))
    assert (copy.predict_proba(features) == head.predict_proba(features)).all()


@pytest.mark.parametrize("clf", ["logreg", "dummy"])
def test_one_row_is_predicted_as_in_a_batch(clf: str) -> None:
    features, codes = problem(4)
    head = fit_head(HeadSpec(clf), features, codes, 4).head
    alone = np.concatenate([head.predict_proba(row[None]) for row in features])
    assert alone == pytest.approx(head.predict_proba(features), abs=1e-12)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("clf", ["logreg", "dummy"])
def test_no_rows_give_no_predictions_of_the_right_shape(clf: str, n_classes: int) -> None:
    features, codes = problem(n_classes)
    head = fit_head(HeadSpec(clf), features, codes, n_classes).head
    empty = features[:0]
    assert head.predict(empty).shape == (0,)
    assert head.predict_proba(empty).shape == (0, n_classes)
    assert head.decision_function(empty).shape == ((0,) if n_classes == 2 else (0, n_classes))


def test_rows_beyond_one_chunk_are_predicted_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    features, codes = problem(3)
    head = fit_head(HeadSpec(), features, codes, 3).head
    whole = head.predict_proba(features)
    monkeypatch.setattr("embedkit.heads.models.ROWS_AT_ONCE", 7)
    assert head.predict_proba(features) == pytest.approx(whole, abs=1e-12)
    features[50, 2] = np.inf
    with pytest.raises(DataError, match="row 51, column 3 is inf"):
        head.predict(features)


@pytest.mark.parametrize("clf", ["logreg", "dummy"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named_by_row_and_column(clf: str, value: float) -> None:
    features, codes = problem(2)
    head = fit_head(HeadSpec(clf), features, codes, 2).head
    features[6, 3] = value
    for action in (lambda: fit_head(HeadSpec(clf), features, codes, 2), lambda: head.predict_proba(features)):
        with pytest.raises(DataError, match=f"row 7, column 4 is {value}, not a finite number"):
            action()


@pytest.mark.parametrize("clf", ["logreg", "dummy"])
def test_a_wrong_width_names_both_numbers(clf: str) -> None:
    features, codes = problem(2)
    head = fit_head(HeadSpec(clf), features, codes, 2).head
    for method in (head.predict, head.predict_proba, head.decision_function):
        with pytest.raises(DataError, match="4 columns, but the head was fitted on 5"):
            method(features[:, :4])


def test_half_precision_is_fitted_as_single() -> None:
    features, codes = problem(2, dtype=np.float16)
    half = fit_head(HeadSpec(), features, codes, 2).head
    single = fit_head(HeadSpec(), features.astype(np.float32), codes, 2).head
    assert (half.predict_proba(features) == single.predict_proba(features.astype(np.float32))).all()


@pytest.mark.parametrize(
    ("features", "codes", "message"),
    [
        (np.zeros((0, 5)), [], "0 rows"),
        (np.zeros((20, 5)), [0] * 20, r"only one class \('ham', 20 rows\)"),
        (np.zeros((2, 5)), [0, 1, 1], r"2 rows of features, but class codes of shape \(3,\)"),
        (np.zeros((2, 5)), [0, 2], "code 2 of row 2 is not one of 2 classes"),
        (np.zeros((2, 5)), [-1, 0], "code -1 of row 1"),
        (np.zeros((2, 5)), [0.0, 1.0], "class codes must be integers, not float64"),
        (np.zeros(5), [0], r"two dimensions .* not shape \(5,\)"),
        (np.array([["a"], ["b"]]), [0, 1], "must be numbers"),
        (np.array([[None], [1.0]]), [0, 1], "must be numbers, not of dtype object"),
    ],
)
@pytest.mark.parametrize("clf", ["logreg", "dummy"])
def test_nothing_is_learnt_from_impossible_data(
    features: npt.ArrayLike, codes: npt.ArrayLike, message: str, clf: str
) -> None:
    with pytest.raises(DataError, match=message):
        fit_head(HeadSpec(clf), features, codes, 2, names=["ham", "spam"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clf": "logrek"}, "unknown head 'logrek'; available: logreg, dummy"),
        ({"scale": "minmax"}, "scale must be auto, none or standard, not 'minmax'"),
        ({"params": {"c": 1}}, "logreg has no parameter 'c'; allowed: C, fit_intercept, max_iter, tol"),
        ({"params": {"C": 0}}, "C must be a number above 0, not 0"),
        ({"params": {"C": True}}, "C must be a number above 0, not True"),
        ({"params": {"C": "big"}}, "C must be a number above 0, not 'big'"),
        ({"params": {"C": float("nan")}}, "C must be a number above 0"),
        ({"params": {"max_iter": 10.5}}, "max_iter must be an integer above 0"),
        ({"params": {"tol": float("inf")}}, "tol must be a number above 0"),
        ({"params": {"fit_intercept": 1}}, "fit_intercept must be true or false"),
        ({"clf": "dummy", "params": {"strategy": "x"}}, "strategy must be 'prior' or 'most_frequent'"),
        ({"clf": "dummy", "params": {"C": 1.0}}, "dummy has no parameter 'C'; allowed: strategy"),
        ({"clf": "dummy", "class_weight": "balanced"}, "dummy takes no class_weight"),
        ({"class_weight": "even"}, "class_weight must be None, 'balanced' or a mapping"),
        ({"class_weight": {"a": -1}}, "must be positive numbers; it is not for a"),
    ],
)
def test_a_wrong_specification_is_refused_before_any_work(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        HeadSpec(**arguments)


def test_a_class_weight_of_an_unknown_label_is_refused() -> None:
    features, codes = problem(2)
    with pytest.raises(UsageError, match="unknown labels: eggs; known: ham, spam"):
        fit_head(HeadSpec(class_weight={"eggs": 2}), features, codes, 2, names=["ham", "spam"])


def test_threads_are_respected_and_checked() -> None:
    features, codes = problem(2)
    with pytest.raises(UsageError, match="threads must be at least 1, not 0"):
        fit_head(HeadSpec(), features, codes, 2, threads=0)
    one, two = (fit_head(HeadSpec(), features, codes, 2, threads=n).head for n in (1, 2))
    assert one.predict_proba(features) == pytest.approx(two.predict_proba(features), abs=1e-5)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], {}),
        (["C=1"], {"C": 1}),
        (["C=1e-3", "max_iter=20"], {"C": 1e-3, "max_iter": 20}),
        (["a=true", "b=False", "c=none"], {"a": True, "b": False, "c": None}),
        ([" strategy = most_frequent "], {"strategy": "most_frequent"}),
        (["a=b=c", "d="], {"a": "b=c", "d": ""}),
    ],
)
def test_parameters_are_read_from_texts(texts: list[str], expected: dict[str, Any]) -> None:
    got = parse_params(texts)
    assert got == expected
    assert [type(value) for value in got.values()] == [type(value) for value in expected.values()]


@pytest.mark.parametrize(
    ("texts", "message"), [(["C"], "name=value"), (["=1"], "name=value"), (["C=1", "C=2"], "given twice")]
)
def test_texts_that_are_no_parameters_are_refused(texts: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_params(texts)


LINEAR = {"kind": "linear", "link": "softmax", "classes": 3, "n_features": 2}
COEF, INTERCEPT = np.zeros((3, 2)), np.zeros(3)


@pytest.mark.parametrize(
    ("described", "arrays", "message"),
    [
        ({}, {}, "unknown kind None"),
        ({"kind": "pickle"}, {}, "unknown kind 'pickle'; known: linear, constant"),
        (LINEAR, {"coef": COEF}, "lacks 'intercept'"),
        (LINEAR | {"link": "exp"}, {"coef": COEF, "intercept": INTERCEPT}, "link must be"),
        (LINEAR | {"link": "sigmoid"}, {"coef": COEF, "intercept": INTERCEPT}, "do not fit the link"),
        (LINEAR, {"coef": COEF, "intercept": np.zeros(2)}, "do not fit the link"),
        (LINEAR, {"coef": COEF[0], "intercept": INTERCEPT}, "do not fit the link"),
        (LINEAR, {"coef": COEF.astype(int), "intercept": INTERCEPT}, "must be float32 or float64"),
        (LINEAR, {"coef": COEF * np.nan, "intercept": INTERCEPT}, "must be finite"),
        (LINEAR, {"coef": COEF, "intercept": INTERCEPT + np.inf}, "must be finite"),
        (LINEAR | {"classes": 4}, {"coef": COEF, "intercept": INTERCEPT}, "4 classes and 2 features"),
        ({"kind": "constant", "n_features": 2}, {"prior": np.array([0.5, 0.6])}, "sum to 1"),
        ({"kind": "constant", "n_features": 2}, {"prior": np.array([1.0])}, "two or more"),
        ({"kind": "constant", "n_features": None}, {"prior": np.array([0.5, 0.5])}, "damaged"),
    ],
)
def test_a_damaged_head_is_refused(
    described: dict[str, Any], arrays: dict[str, npt.NDArray[Any]], message: str
) -> None:
    with pytest.raises(ArtifactError, match=message):
        head_from_state(described, arrays)


def test_heads_are_frozen() -> None:
    coef = np.ones((1, 2))
    head = LinearHead(coef, np.zeros(1), "sigmoid")
    coef[:] = 7  # the head keeps its own copy
    assert head.decision_function([[1.0, 1.0]]).tolist() == [2.0]
    with pytest.raises(ValueError, match="read-only"):
        head.coef[0, 0] = 5
    with pytest.raises(ValueError, match="read-only"):
        ConstantHead(np.array([0.5, 0.5]), 2).prior[0] = 1


@pytest.mark.parametrize("link", ["sigmoid", "softmax"])
def test_extreme_scores_do_not_overflow(link: str) -> None:
    coef = np.array([[1e6]]) if link == "sigmoid" else np.array([[0.0], [1e6]])
    head = LinearHead(coef, np.zeros(len(coef)), link)
    got = head.predict_proba(np.array([[1.0], [-1.0], [0.0]]))
    assert got.tolist() == [[0, 1], [1, 0], [0.5, 0.5]]
    assert head.predict([[1.0], [-1.0], [0.0]]).tolist() == [1, 0, 0]
    assert head.decision_function([[1.0], [-1.0]]).tolist() == [1e6, -1e6]


def test_predicting_does_not_import_scikit_learn() -> None:
    code = (
        "import sys, numpy as np; from embedkit.heads import head_from_state\n"
        "head = head_from_state({'kind': 'linear', 'link': 'sigmoid', 'classes': 2, 'n_features': 1},\n"
        "    {'coef': np.ones((1, 1)), 'intercept': np.zeros(1)})\n"
        "assert head.predict([[3.0]]).tolist() == [1]\n"
        "assert not {'sklearn', 'scipy', 'joblib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
