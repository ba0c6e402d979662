"""What holds for every head: its answers fit together, and it says what is wrong with its input."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from embedkit.errors import DataError, UsageError
from embedkit.heads import ConstantHead, Head, LinearHead, check_features, fit_head
from embedkit.runtime.decide import probabilities
from tests.head_data import (
    NAMES,
    SVC,
    TASKS,
    WITHOUT_PROBABILITIES,
    fitted,
    one_thread,
    problem,
    spec_of,
    task,
    unit,
)

__all__ = ["one_thread"]  # a fixture
every_head = pytest.mark.parametrize("name", NAMES)
every_task = pytest.mark.parametrize("kind", TASKS)
both_norms = pytest.mark.parametrize("unit_norm", [True, False], ids=["unit", "raw"])


# --- the answers of one head fit together -----------------------------------------------------------------


@every_head
@every_task
@both_norms
def test_shapes_and_dtypes_are_those_of_the_protocol(name: str, kind: str, unit_norm: bool) -> None:
    features, targets, classes = task(kind, unit_norm=unit_norm)
    got = fitted(name, kind, unit_norm)
    head, rows = got.head, len(features)
    assert (head.classes, head.n_features, head.multi_label) == (classes, 5, kind == "several")
    assert got.scaled is not unit_norm
    scores, codes = head.decision_function(features), head.predict(features)
    assert scores.dtype == np.float64
    assert scores.shape == ((rows,) if kind == "two" else (rows, classes))
    assert not np.isnan(scores).any()
    assert (codes.shape, codes.dtype) == (targets.shape, bool if kind == "several" else np.int64)
    assert head.has_probabilities is (name not in WITHOUT_PROBABILITIES)


@every_head
@every_task
@both_norms
def test_classes_follow_from_scores_and_scores_from_probabilities(name: str, kind: str, unit_norm: bool) -> None:
    features = task(kind, unit_norm=unit_norm)[0]
    head = fitted(name, kind, unit_norm).head
    scores, codes = head.decision_function(features), head.predict(features)
    if kind == "three":
        assert (codes == scores.argmax(axis=1)).all()
    else:
        assert (codes == (scores > 0)).all()
    if head.has_probabilities:
        shares = head.predict_proba(features)
        assert shares == pytest.approx(probabilities(scores, multi_label=kind == "several"), abs=1e-10)
        assert ((shares >= 0) & (shares <= 1)).all()
        if kind != "several":
            assert shares.sum(axis=1) == pytest.approx(np.ones(len(features)), abs=1e-12)
            assert (codes == shares.argmax(axis=1)).all()


@every_head
@every_task
def test_heads_learn(name: str, kind: str) -> None:
    """Or the other laws would hold for heads that answer anything."""
    features, targets, _ = task(kind)
    right = (fitted(name, kind).head.predict(features) == targets).mean()
    assert right > (0.3 if name == "dummy" else 0.85)


@every_head
@every_task
@both_norms
def test_a_row_is_predicted_alone_as_in_a_batch(name: str, kind: str, unit_norm: bool) -> None:
    features = task(kind, unit_norm=unit_norm)[0][:12]
    head = fitted(name, kind, unit_norm).head
    alone = np.concatenate([head.decision_function(row[None]) for row in features])
    assert alone == pytest.approx(head.decision_function(features), abs=1e-10)


@every_head
@every_task
def test_no_rows_give_answers_of_the_right_shape(name: str, kind: str) -> None:
    features, targets, classes = task(kind)
    head, empty = fitted(name, kind).head, features[:0]
    assert head.predict(empty).shape == targets[:0].shape
    assert head.predict(empty).dtype == (bool if kind == "several" else np.int64)
    assert head.decision_function(empty).shape == ((0,) if kind == "two" else (0, classes))
    if head.has_probabilities:
        assert head.predict_proba(empty).shape == (0, classes)


@every_head
@every_task
def test_a_fit_is_repeatable_and_leaves_its_input_alone(name: str, kind: str) -> None:
    features, targets, classes = task(kind)
    before = features.copy()
    for array in (features, targets):
        array.flags.writeable = False
    head = fit_head(spec_of(name), features, targets, classes).head
    assert (head.decision_function(features) == fitted(name, kind).head.decision_function(before)).all()
    assert (features == before).all()


@every_head
@pytest.mark.parametrize(
    "form",
    [
        np.asfortranarray,
        lambda array: np.repeat(array, 2, axis=1)[:, ::2],
        lambda array: array.astype(">f4"),
        lambda array: array.tolist(),
        lambda array: array.astype(np.float64),
    ],
    ids=["Fortran", "strided", "big-endian", "lists", "float64"],
)
def test_the_form_of_the_features_does_not_matter(name: str, form: Callable[[Any], Any]) -> None:
    features = task("three")[0]
    head = fitted(name, "three").head
    expected = head.decision_function(features)  # an SVC is asked in the precision of the features
    assert head.decision_function(form(features)) == pytest.approx(expected, abs=1e-6 if name == SVC else 1e-10)


@every_head
def test_half_precision_is_fitted_as_single(name: str) -> None:
    features, codes = problem(3, dtype=np.float16)
    half = fit_head(spec_of(name), features, codes, 3).head
    single = fit_head(spec_of(name), features.astype(np.float32), codes, 3).head
    expected = single.decision_function(features.astype(np.float32))
    assert (half.decision_function(features) == expected).all()


@every_head
def test_integers_and_booleans_are_numbers(name: str) -> None:
    numbers = np.random.default_rng(0).integers(0, 5, size=(60, 4))
    codes = (numbers[:, 0] > 2).astype(np.uint8)
    head = fit_head(spec_of(name), numbers, codes, 2).head
    assert (head.predict(numbers) == head.predict(numbers.astype(np.float64))).all()
    truths = fit_head(spec_of(name), numbers > 2, codes, 2).head
    assert len(truths.predict(numbers > 2)) == 60


@pytest.mark.parametrize("name", WITHOUT_PROBABILITIES)
@every_task
def test_a_head_without_probabilities_says_what_to_do(name: str, kind: str) -> None:
    head = fitted(name, kind).head
    assert not head.has_probabilities
    with pytest.raises(UsageError, match=re.escape("no probabilities (ridge, linear-svm and centroid give none)")):
        head.predict_proba(task(kind)[0])
    with pytest.raises(UsageError, match=r"calibrate it \(--calibrate"):
        head.predict_proba(task(kind)[0][:0])


# --- what no training row, or every one, had --------------------------------------------------------------


@every_head
@pytest.mark.parametrize(("present", "n_classes"), [([0, 2], 3), ([1, 3, 4], 6)])
@both_norms
def test_a_class_without_rows_is_never_predicted(
    name: str, present: list[int], n_classes: int, unit_norm: bool
) -> None:
    features, codes = problem(3)
    features = unit(features) if unit_norm else features
    moved = np.array(present)[codes % len(present)]
    labels = [f"name {code}" for code in range(n_classes)]
    got = fit_head(spec_of(name), features, moved, n_classes, names=labels)
    absent = sorted(set(range(n_classes)) - set(present))
    assert set(got.head.predict(features)) <= set(present)
    assert (got.head.decision_function(features)[:, absent] == -np.inf).all()
    if got.head.has_probabilities:
        shares = got.head.predict_proba(features)
        assert (shares[:, absent] == 0).all()
        assert shares.sum(axis=1) == pytest.approx(np.ones(len(features)), abs=1e-12)
    # the classes that there are, are told apart as by a head that knows no others
    alone = fit_head(spec_of(name), features, np.searchsorted(present, moved), len(present)).head
    assert (np.array(present)[alone.predict(features)] == got.head.predict(features)).all()
    expected = ", ".join(labels[code] for code in absent)
    assert f"never predicted, because no training row has them: {expected}" in got.notes


@every_head
@both_norms
@pytest.mark.parametrize("first", [False, True], ids=["last", "first"])
def test_labels_of_no_row_and_of_every_row_are_certain(name: str, unit_norm: bool, first: bool) -> None:
    features, targets, _ = task("several", unit_norm=unit_norm)
    never, always = np.zeros((len(features), 1), bool), np.ones((len(features), 1), bool)
    columns = [never, always, targets] if first else [targets, always, never]
    head = fit_head(spec_of(name), features, np.hstack(columns), 5)
    no, yes = (0, 1) if first else (4, 3)
    scores, rows = head.head.decision_function(features), head.head.predict(features)
    assert (scores[:, no] == -np.inf).all()
    assert (scores[:, yes] == np.inf).all()
    assert not rows[:, no].any()
    assert rows[:, yes].all()
    if head.head.has_probabilities:
        shares = head.head.predict_proba(features)
        assert (shares[:, no] == 0).all()
        assert (shares[:, yes] == 1).all()
    assert head.notes[-2:] == [
        f"never predicted, because no training row has them: {no}",
        f"always predicted, because all training rows have them: {yes}",
    ]
    others = slice(2, None) if first else slice(0, 3)
    alone = fitted(name, "several", unit_norm).head.predict(features)
    assert (rows[:, others] == alone).mean() > (0.9 if name == "mlp" else 0.999)


@every_head
@both_norms
def test_one_label_is_learnt_as_two_classes(name: str, unit_norm: bool) -> None:
    features, codes, _ = task("two", unit_norm=unit_norm)
    several = fit_head(spec_of(name), features, codes[:, None] == 1, 1).head
    two = fitted(name, "two", unit_norm).head
    assert several.multi_label
    assert several.predict(features).shape == several.decision_function(features).shape == (len(features), 1)
    scores = two.decision_function(features)
    assert several.decision_function(features)[:, 0] == pytest.approx(scores, abs=1e-6)
    if several.has_probabilities:
        assert several.predict_proba(features)[:, 0] == pytest.approx(two.predict_proba(features)[:, 1], abs=1e-6)


# --- impossible input ---------------------------------------------------------------------------------------


@every_head
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named_by_row_and_column(name: str, value: float) -> None:
    features, codes, _ = task("two")
    features[6, 3] = value
    head = fitted(name, "two").head
    actions: list[Callable[[], object]] = [
        lambda: fit_head(spec_of(name), features, codes, 2),
        lambda: head.predict(features),
        lambda: head.decision_function(features),
    ]
    if head.has_probabilities:
        actions.append(lambda: head.predict_proba(features))
    for action in actions:
        with pytest.raises(DataError, match=f"row 7, column 4 is {value}, not a finite number"):
            action()


@every_head
@every_task
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((3, 4)), "4 columns, but the head was fitted on 5"),
        (np.zeros((0, 6)), "6 columns, but the head was fitted on 5"),
        (np.zeros(5), r"two dimensions .* not shape \(5,\)"),
        (np.zeros((1, 5, 1)), "two dimensions"),
        (np.zeros((3, 0)), "0 columns"),
        ([["a"] * 5], "must be numbers, not of dtype <U1"),
        (np.zeros((2, 5), complex), "must be numbers, not of dtype complex128"),
        ([[None] * 5], "must be numbers, not of dtype object"),
    ],
)
def test_features_of_another_form_are_refused(name: str, kind: str, wrong: npt.ArrayLike, message: str) -> None:
    head = fitted(name, kind).head
    methods: list[Callable[[Any], object]] = [head.predict, head.decision_function]
    for method in methods + ([head.predict_proba] if head.has_probabilities else []):
        with pytest.raises(DataError, match=message):
            method(wrong)


@every_head
@pytest.mark.parametrize(
    ("features", "targets", "message"),
    [
        (np.zeros((0, 5)), [], "0 rows"),
        (np.zeros((0, 5)), np.zeros((0, 2), bool), "0 rows"),
        (np.zeros((20, 0)), [0, 1] * 10, "0 columns"),
        (np.zeros((20, 5)), [0] * 20, r"only one class \('ham', 20 rows\)"),
        (np.zeros((2, 5)), [0, 1, 1], r"2 rows of features, but class codes of shape \(3,\)"),
        (np.zeros((2, 5)), [0, 2], "code 2 of row 2 is not one of 2 classes"),
        (np.zeros((2, 5)), [-1, 0], "code -1 of row 1"),
        (np.zeros((2, 5)), [0.0, 1.0], "class codes must be integers, not float64"),
        (np.zeros((2, 5)), [True, False], "class codes must be integers, not bool"),
        (np.zeros((2, 5)), ["a", "b"], "class codes must be integers"),
        (np.zeros(5), [0], r"two dimensions .* not shape \(5,\)"),
        (np.array([["a"], ["b"]]), [0, 1], "must be numbers"),
        (np.array([[None], [1.0]]), [0, 1], "must be numbers, not of dtype object"),
        (np.zeros((2, 5)), np.eye(3, dtype=bool), r"2 rows of features and 2 labels, but a matrix of shape"),
        (np.zeros((2, 5)), np.eye(2, 3, dtype=bool), r"and 2 labels, but a matrix of shape \(2, 3\)"),
        (np.zeros((2, 5)), np.eye(2, dtype=int), r"class codes of shape \(2, 2\)"),
        (np.zeros((3, 5)), np.array([[True, False]] * 3), "all 3 rows have the same labels"),
    ],
)
def test_nothing_is_learnt_from_impossible_data(
    name: str, features: npt.ArrayLike, targets: npt.ArrayLike, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        fit_head(spec_of(name), features, targets, 2, names=["ham", "spam"])


@every_head
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("scale", ["none", "standard"])
def test_one_row_a_class_is_learnt_or_refused_in_words(name: str, n_classes: int, scale: str) -> None:
    features = np.random.default_rng(0).normal(size=(n_classes, 4)) * 3
    codes = np.arange(n_classes)
    if name == "lda":
        with pytest.raises(UsageError, match="lda cannot be fitted: The number of samples must be more than"):
            fit_head(spec_of(name, scale=scale), features, codes, n_classes)
        return
    head = fit_head(spec_of(name, scale=scale), features, codes, n_classes).head
    assert head.predict(features).shape == (n_classes,)
    assert not np.isnan(head.decision_function(features)).any()


@every_head
@every_task
def test_features_that_say_nothing_give_finite_answers(name: str, kind: str) -> None:
    features, targets, classes = task(kind)
    head = fit_head(spec_of(name), np.zeros_like(features), targets, classes).head
    for asked in (np.zeros_like(features), features):
        assert np.isfinite(head.decision_function(asked)).all()


@every_head
def test_threads_are_respected_and_checked(name: str) -> None:
    features, codes, _ = task("three")
    with pytest.raises(UsageError, match="threads must be at least 1, not 0"):
        fit_head(spec_of(name), features, codes, 3, threads=0)
    two = fit_head(spec_of(name), features, codes, 3, threads=2).head
    agree = two.predict(features) == fitted(name, "three").head.predict(features)
    assert agree.mean() > 0.95


# --- the features' check, and heads made by hand -------------------------------------------------------------


def test_features_that_fit_are_not_copied() -> None:
    for dtype in (np.float32, np.float64):
        features = np.ones((3, 2), dtype)
        assert check_features(features) is features
    assert check_features(np.ones((3, 2), np.float16)).dtype == np.float32
    assert check_features(np.ones((3, 2), np.int8)).dtype == np.float64


def test_rows_beyond_one_chunk_are_predicted_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    features = task("three")[0]
    heads: list[Head] = [fitted(name, "three").head for name in ("logreg", "knn")]
    whole = [head.predict_proba(features) for head in heads]
    monkeypatch.setattr("embedkit.heads.linear.ROWS_AT_ONCE", 7)
    monkeypatch.setattr("embedkit.heads.base.ROWS_AT_ONCE", 7)
    monkeypatch.setattr("embedkit.heads.arrays._DISTANCES", 700)
    for head, expected in zip(heads, whole, strict=True):
        assert head.predict_proba(features) == pytest.approx(expected, abs=1e-12)
    features[50, 2] = np.inf
    with pytest.raises(DataError, match="row 51, column 3 is inf"):
        heads[0].predict(features)


def test_heads_are_frozen() -> None:
    coef = np.ones((1, 2))
    head = LinearHead(coef, np.zeros(1), "sigmoid")
    coef[:] = 7  # the head keeps its own copy
    assert head.decision_function([[1.0, 1.0]]).tolist() == [2.0]
    with pytest.raises(ValueError, match="read-only"):
        head.coef[0, 0] = 5
    with pytest.raises(ValueError, match="read-only"):
        ConstantHead(np.array([0.5, 0.5]), 2).prior[0] = 1


@pytest.mark.parametrize("link", ["sigmoid", "softmax", "none"])
def test_extreme_scores_do_not_overflow(link: str) -> None:
    coef = np.array([[0.0], [1e6]]) if link == "softmax" else np.array([[1e6]])
    head = LinearHead(coef, np.zeros(len(coef)), link)
    rows = np.array([[1.0], [-1.0], [0.0]])
    assert head.decision_function(rows).tolist() == [1e6, -1e6, 0]
    assert head.predict(rows).tolist() == [1, 0, 0]
    if link != "none":
        assert head.predict_proba(rows).tolist() == [[0, 1], [1, 0], [0.5, 0.5]]


def test_equal_scores_give_the_lower_code() -> None:
    two = LinearHead(np.zeros((1, 1)), np.zeros(1), "none")
    three = LinearHead(np.zeros((3, 1)), np.array([0.0, 1.0, 1.0]), "softmax")
    labels = LinearHead(np.zeros((2, 1)), np.array([0.0, 1e-9]), "sigmoid", multi_label=True)
    constant = ConstantHead(np.array([0.4, 0.4, 0.2]), 1)
    half = ConstantHead(np.array([0.5, 0.50001]), 1, multi_label=True)
    assert two.predict([[1.0]]).tolist() == [0]
    assert three.predict([[1.0]]).tolist() == [1]
    assert labels.predict([[1.0]]).tolist() == [[False, True]]
    assert constant.predict([[1.0]]).tolist() == [0]
    assert half.predict([[1.0]]).tolist() == [[False, True]]


@pytest.mark.parametrize(
    ("coef", "scores"),
    [
        (np.array([[2.0], [5.0]]), [3.0, -3.0]),  # two rows for two classes: the difference decides
        (np.array([[3.0]]), [3.0, -3.0]),
    ],
)
def test_two_classes_have_one_score(coef: npt.NDArray[np.float64], scores: list[float]) -> None:
    for link in ("softmax", "none") if len(coef) == 2 else ("sigmoid", "none"):
        head = LinearHead(coef, np.zeros(len(coef)), link)
        assert head.classes == 2
        assert head.decision_function([[1.0], [-1.0]]).tolist() == scores
        assert head.predict([[1.0], [-1.0]]).tolist() == [1, 0]


@pytest.mark.parametrize("kind", ["two", "three", "several"])
@pytest.mark.parametrize("name", ["logreg", "ridge"])
def test_a_linear_head_takes_an_affine_map_of_its_scores_in(name: str, kind: str) -> None:
    features = task(kind)[0]
    head = fitted(name, kind).head
    assert isinstance(head, LinearHead)
    scale = np.array([2.0]) if kind != "several" else np.array([2.0, 0.5, 1.0])
    shift = np.array([-1.0]) if kind == "two" else np.array([-1.0, 3.0, 0.0])
    moved = head.affine(scale, shift)
    expected = head.decision_function(features) * scale + shift
    assert moved.decision_function(features) == pytest.approx(expected, abs=1e-10)
    assert moved.has_probabilities
    assert (moved.classes, moved.multi_label) == (head.classes, head.multi_label)
