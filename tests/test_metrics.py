"""The figures equal scikit-learn's, the exact interval scipy's, and the bootstrap is one of rows."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta
from sklearn.metrics import confusion_matrix as sk_confusion
from sklearn.metrics import f1_score, matthews_corrcoef, precision_recall_fscore_support

from embedkit.errors import DataError, UsageError
from embedkit.metrics import (
    classification,
    clopper_pearson,
    confusion_matrix,
    macro_f1_interval,
    matthews_correlation,
)


@st.composite
def tables(draw: st.DrawFn) -> tuple[int, list[int], list[int]]:
    n_classes = draw(st.integers(2, 5))
    codes = st.integers(0, n_classes - 1)
    rows = draw(st.lists(st.tuples(codes, codes), min_size=1, max_size=60))
    return n_classes, [t for t, _ in rows], [p for _, p in rows]


@settings(max_examples=150, deadline=None)
@given(tables())
def test_figures_equal_those_of_scikit_learn(table: tuple[int, list[int], list[int]]) -> None:
    n_classes, true, predicted = table
    names = [f"label {code}" for code in range(n_classes)]
    ours = classification(true, predicted, names, resamples=2)
    every = range(n_classes)
    theirs = precision_recall_fscore_support(true, predicted, labels=every, zero_division=0)
    for code, name in enumerate(names):
        row = ours["per_class"][name]
        got = [row[key] for key in ("precision", "recall", "f1", "support")]
        assert got == pytest.approx([column[code] for column in theirs], abs=1e-12)
    assert ours["confusion"] == sk_confusion(true, predicted, labels=every).tolist()
    assert ours["accuracy"] == pytest.approx(np.mean(np.equal(true, predicted)), abs=1e-12)
    for average in ("macro", "weighted"):
        expected = f1_score(true, predicted, average=average, zero_division=0)
        assert ours[f"{average}_f1"] == pytest.approx(expected, abs=1e-12)
    # scikit-learn's coefficient is NaN or 0 where it is undefined, by version and by case
    if len(set(true)) > 1 and len(set(predicted)) > 1:
        matrix = confusion_matrix(true, predicted, n_classes)
        assert matthews_correlation(matrix) == pytest.approx(matthews_corrcoef(true, predicted), abs=1e-12)
    assert json.loads(json.dumps(ours, allow_nan=False)) == ours


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_the_exact_interval_is_the_beta_quantile(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 3000))
    hits = data.draw(st.integers(0, n))
    level = data.draw(st.sampled_from([0.5, 0.9, 0.95, 0.999]))
    check_interval(hits, n, level)


@pytest.mark.parametrize("hits", [0, 1, 3, 250_000, 500_000, 765_000, 999_999, 1_000_000])
def test_the_exact_interval_holds_at_a_million_rows(hits: int) -> None:
    check_interval(hits, 1_000_000, 0.95)


def check_interval(hits: int, n: int, level: float) -> None:
    low, high = clopper_pearson(hits, n, level)
    tail = (1 - level) / 2
    assert low == pytest.approx(beta.ppf(tail, hits, n - hits + 1) if hits else 0, rel=1e-9, abs=1e-15)
    assert high == pytest.approx(beta.ppf(1 - tail, hits + 1, n - hits) if hits < n else 1, rel=1e-9)
    assert low <= hits / n <= high


@pytest.mark.parametrize(("hits", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_an_impossible_count_is_refused(hits: int, n: int) -> None:
    with pytest.raises(DataError, match=f"{hits} hits in {n} trials"):
        clopper_pearson(hits, n)


def test_figures_known_by_hand() -> None:
    got = classification([0, 0, 0, 1, 1], [0, 0, 1, 1, 0], ["ham", "spam"], positive="spam")
    assert got["n"] == 5
    assert got["accuracy"] == 0.6
    assert got["confusion"] == [[2, 1], [1, 1]]
    assert got["per_class"]["ham"] == {"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "support": 3}
    assert (got["positive_label"], got["precision"], got["recall"], got["f1"]) == ("spam", 0.5, 0.5, 0.5)
    assert got["macro_f1"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert got["mcc"] == pytest.approx((2 * 1 - 1 * 1) / math.sqrt(3 * 3 * 2 * 2))
    assert got["accuracy_ci95_method"] == "clopper-pearson"
    assert got["macro_f1_ci95_method"] == "percentile bootstrap, 1000 resamples, seed 42"


def test_without_a_positive_label_no_binary_f1_is_given() -> None:
    got = classification([0, 1], [0, 1], ["ham", "spam"])
    assert not {"f1", "precision", "recall", "positive_label", "unseen_labels"} & set(got)


def test_mcc_is_for_two_classes_only() -> None:
    assert "mcc" not in classification([0, 1], [0, 1], ["a", "b", "c"], resamples=2)


def test_labels_unseen_in_training_are_errors_and_listed() -> None:
    got = classification([0, 1, 2, 2], [0, 1, 0, 1], ["a", "b", "new", "newer"], trained=2, resamples=2)
    assert got["unseen_labels"] == ["new"]
    assert got["accuracy"] == 0.5
    assert got["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert got["macro_f1_over"].startswith("the 3 labels that occur")


def test_a_label_of_training_alone_does_not_lower_the_macro_mean() -> None:
    got = classification([0, 1], [0, 1], ["a", "b", "rare"], trained=3, resamples=2)
    assert got["macro_f1"] == 1.0
    assert got["unseen_labels"] == []
    assert got["per_class"]["rare"]["support"] == 0


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_bootstrap_is_seeded_and_takes_its_own_generator(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = confusion_matrix(rng.integers(0, 3, 200), rng.integers(0, 3, 200), 3)
    first = macro_f1_interval(matrix, resamples=50, seed=seed)
    np.random.seed(1)  # noqa: NPY002 - the global state must not matter
    assert macro_f1_interval(matrix, resamples=50, seed=seed) == first
    assert macro_f1_interval(matrix, resamples=50, seed=seed + 1) != first


def test_the_bootstrap_of_the_matrix_is_the_bootstrap_of_rows() -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, 300)
    predicted = np.where(rng.random(300) < 0.7, true, rng.integers(0, 3, 300))
    low, high = macro_f1_interval(confusion_matrix(true, predicted, 3), resamples=3000)
    rows = [rng.integers(0, 300, 300) for _ in range(1000)]
    scores = [f1_score(true[r], predicted[r], average="macro") for r in rows]
    assert [low, high] == pytest.approx(np.quantile(scores, [0.025, 0.975]), abs=0.01)


def test_a_perfect_classifier_has_a_point_for_its_bootstrap() -> None:
    assert macro_f1_interval(np.diag([5, 1, 3])) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("true", "predicted", "message"),
    [
        ([], [], "0 rows"),
        ([0, 1], [0], "2 true labels but 1 predicted"),
        ([0, 2], [0, 0], "true code 2 of row 2 is not one of the 2 classes"),
        ([0, 0], [-1, 0], "predicted code -1 of row 1"),
        ([0.5], [0], "integers in one dimension, not float64"),
        ([[0]], [[0]], r"shape \(1, 1\)"),
        (["a"], ["a"], "integers in one dimension"),
    ],
)
def test_what_cannot_be_judged_is_refused(true: list[Any], predicted: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        classification(true, predicted, ["a", "b"])


def test_wrong_names_are_refused() -> None:
    with pytest.raises(UsageError, match=r"more than once: \['a'\]"):
        classification([0], [0], ["a", "a", "b"])
    with pytest.raises(UsageError, match="'c' is none of the labels: a, b"):
        classification([0], [0], ["a", "b"], positive="c")
    with pytest.raises(UsageError, match="resamples must be at least 1"):
        classification([0], [0], ["a", "b"], resamples=0)


def test_unsigned_codes_do_not_become_floats() -> None:
    assert confusion_matrix(np.array([1], np.uint64), np.array([0], np.uint64), 2).tolist() == [[0, 0], [1, 0]]
