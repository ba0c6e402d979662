"""The figures equal scikit-learn's, the exact interval scipy's, and the bootstrap is one of rows."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import beta, binomtest
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    f1_score,
    hamming_loss,
    log_loss,
    matthews_corrcoef,
    precision_recall_fscore_support,
)
from sklearn.metrics import confusion_matrix as sk_confusion

from embedkit.errors import DataError, UsageError
from embedkit.metrics import (
    classification,
    clopper_pearson,
    confusion_matrix,
    expected_calibration,
    macro_f1_interval,
    matthews_correlation,
    multilabel,
    paired_difference,
)
from embedkit.metrics.differences import mcnemar

Bools = npt.NDArray[np.bool_]


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


# --- several labels a row ------------------------------------------------------------------------------


@st.composite
def sets(draw: st.DrawFn) -> tuple[Bools, Bools]:
    shape = draw(st.tuples(st.integers(1, 30), st.integers(2, 5)))  # one column is binary to scikit-learn
    true, predicted = (draw(arrays(np.bool_, shape)) for _ in range(2))
    return true, predicted


def label_names(count: int) -> list[str]:
    return [f"label {i}" for i in range(count)]


@settings(max_examples=150, deadline=None)
@given(sets())
def test_figures_of_several_labels_equal_those_of_scikit_learn(tables: tuple[Bools, Bools]) -> None:
    true, predicted = tables
    names = label_names(true.shape[1])
    ours = multilabel(true, predicted, names, resamples=2)
    assert ours["n"] == len(true)
    assert ours["subset_accuracy"] == pytest.approx(accuracy_score(true, predicted), abs=1e-12)
    assert ours["hamming_loss"] == pytest.approx(hamming_loss(true, predicted), abs=1e-12)
    theirs = precision_recall_fscore_support(true, predicted, average=None, zero_division=0)
    for i, name in enumerate(names):
        row = ours["per_class"][name]
        got = [row[key] for key in ("precision", "recall", "f1", "support")]
        assert got == pytest.approx([column[i] for column in theirs], abs=1e-12)
        assert row["predicted"] == predicted[:, i].sum()
    micro = precision_recall_fscore_support(true, predicted, average="micro", zero_division=0)[:3]
    assert [ours[f"micro_{key}"] for key in ("precision", "recall", "f1")] == pytest.approx(micro, abs=1e-12)
    weighted = f1_score(true, predicted, average="weighted", zero_division=0)
    assert ours["weighted_f1"] == pytest.approx(weighted, abs=1e-12)
    # a label that never occurs is in scikit-learn's mean, with 0, and not in ours
    occurring = np.flatnonzero((true | predicted).any(axis=0))
    macro = f1_score(true, predicted, average="macro", labels=occurring, zero_division=0) if len(occurring) else 0
    assert ours["macro_f1"] == pytest.approx(macro, abs=1e-12)
    assert ours["macro_f1_over"].startswith(f"the {len(occurring)} labels")
    assert json.loads(json.dumps(ours, allow_nan=False)) == ours


def test_several_labels_by_hand() -> None:
    true = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 1, 1]], bool)
    predicted = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0], [0, 1, 0]], bool)
    got = multilabel(true, predicted, ["a", "b", "new"], trained=2)
    assert got["subset_accuracy"] == 0.25
    assert got["subset_accuracy_ci95"] == list(clopper_pearson(1, 4))
    assert got["subset_accuracy_ci95_method"] == "clopper-pearson"
    assert got["hamming_loss"] == 3 / 12
    assert (got["micro_precision"], got["micro_recall"], got["micro_f1"]) == (3 / 4, 3 / 5, 6 / 9)
    assert got["per_class"]["b"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2, "predicted": 2}
    assert got["macro_f1"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert got["weighted_f1"] == pytest.approx((2 * 1 + 2 * 0.5 + 0) / 5)
    assert got["labels_per_row"] == {"true": 1.25, "predicted": 1.0}
    assert got["unseen_labels"] == ["new"]
    assert got["micro_f1_ci95"] == [6 / 9, 6 / 9]  # two thirds of each row that has labels
    low, high = got["macro_f1_ci95"]
    assert low < got["macro_f1"] < high
    for key in ("micro_f1", "macro_f1"):
        assert got[f"{key}_ci95_method"] == "percentile bootstrap, 1000 resamples, seed 42"
    assert "unseen_labels" not in multilabel(true, predicted, ["a", "b", "new"], resamples=2)


def test_rows_without_any_label_have_figures() -> None:
    nothing = np.zeros((3, 2), bool)
    got = multilabel(nothing, nothing, ["a", "b"], resamples=3)
    assert (got["subset_accuracy"], got["hamming_loss"]) == (1.0, 0.0)
    assert (got["micro_f1"], got["macro_f1"], got["weighted_f1"], got["macro_f1_ci95"]) == (0, 0, 0, [0, 0])


def test_the_bootstrap_over_distinct_rows_is_the_bootstrap_of_rows() -> None:
    rng = np.random.default_rng(0)
    true = rng.random((250, 3)) < [0.5, 0.2, 0.1]
    predicted = true ^ (rng.random(true.shape) < 0.2)
    got = multilabel(true, predicted, ["a", "b", "c"], resamples=3000)
    rows = [rng.integers(0, 250, 250) for _ in range(800)]
    for key in ("micro", "macro"):
        scores = [f1_score(true[r], predicted[r], average=key, zero_division=0) for r in rows]
        assert got[f"{key}_f1_ci95"] == pytest.approx(np.quantile(scores, [0.025, 0.975]), abs=0.012)
    again = multilabel(true, predicted, ["a", "b", "c"], resamples=3000)
    assert again == got
    assert multilabel(true, predicted, ["a", "b", "c"], seed=1)["micro_f1_ci95"] != got["micro_f1_ci95"]


def test_the_bootstrap_is_the_same_in_any_number_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    true, predicted = rng.random((400, 6)) < 0.4, rng.random((400, 6)) < 0.4
    whole = multilabel(true, predicted, label_names(6), resamples=40)
    monkeypatch.setattr("embedkit.metrics.intervals._CELLS_AT_ONCE", 1000)
    monkeypatch.setattr("embedkit.metrics.intervals._PATTERNS_AT_ONCE", 7)
    assert multilabel(true, predicted, label_names(6), resamples=40) == whole


def test_the_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    true, predicted = rng.random((100, 9)) < 0.3, rng.random((100, 9)) < 0.3
    order = rng.permutation(100)
    names = label_names(9)
    assert multilabel(true, predicted, names) == multilabel(true[order], predicted[order], names)


@pytest.mark.parametrize(
    ("true", "predicted", "message"),
    [
        (np.zeros((0, 2), bool), np.zeros((0, 2), bool), "0 rows"),
        (np.zeros((2, 2), bool), np.zeros((1, 2), bool), "2 true labels but 1 predicted ones"),
        (
            np.zeros((2, 2), int),
            np.zeros((2, 2), bool),
            "true labels must be booleans in two dimensions, not int64",
        ),
        (np.zeros((2, 2), bool), np.zeros(2, bool), r"predicted labels must be .* of shape \(2,\)"),
        (np.zeros((2, 3), bool), np.zeros((2, 3), bool), "true labels have 3 columns for 2 labels"),
    ],
)
def test_sets_that_cannot_be_judged_are_refused(true: Any, predicted: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        multilabel(true, predicted, ["a", "b"])


def test_wrong_settings_for_several_labels_are_refused() -> None:
    rows = np.ones((2, 2), bool)
    with pytest.raises(UsageError, match=r"more than once: \['a'\]"):
        multilabel(rows, rows, ["a", "a"])
    with pytest.raises(UsageError, match="resamples must be at least 1"):
        multilabel(rows, rows, ["a", "b"], resamples=0)


# --- probabilities -------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_scores_of_probabilities_equal_those_of_scikit_learn(data: st.DataObject) -> None:
    n, n_classes = data.draw(st.integers(1, 30)), data.draw(st.integers(2, 4))
    codes = data.draw(arrays(np.int64, n, elements=st.integers(0, n_classes - 1)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    table = rng.dirichlet(np.full(n_classes, 0.3), n)
    table[rng.random(n) < 0.2] = np.eye(n_classes)[0]  # certain rows, right or wrong
    got = expected_calibration(codes, table)
    labels = list(range(n_classes))
    assert got["log_loss"] == pytest.approx(log_loss(codes, table, labels=labels), rel=1e-9)
    if n_classes == 2:
        assert got["brier"] == pytest.approx(brier_score_loss(codes, table[:, 1], labels=labels), abs=1e-12)
    else:
        theirs = brier_score_loss(codes, table, labels=labels, scale_by_half=False)
        assert got["brier"] == pytest.approx(theirs, abs=1e-12)
    assert json.loads(json.dumps(got, allow_nan=False)) == got


def test_calibration_by_hand() -> None:
    table = [[0.95, 0.05], [0.95, 0.05], [0.62, 0.38], [0.34, 0.66], [0.5, 0.5]]
    got = expected_calibration([0, 1, 0, 1, 1], table)
    assert got["n"] == 5
    assert got["curve"] == [
        {"confidence": 0.5, "right": 0.0, "rows": 1},
        {"confidence": pytest.approx(0.64), "right": 1.0, "rows": 2},
        {"confidence": 0.95, "right": 0.5, "rows": 2},
    ]
    assert got["ece"] == pytest.approx((0.5 + 2 * 0.36 + 2 * 0.45) / 5)
    assert got["over"] == "the most probable class of each row"
    one = expected_calibration([0, 1, 0, 1, 1], table, bins=1)
    assert one["ece"] == pytest.approx(abs((0.95 * 2 + 0.62 + 0.66 + 0.5) / 5 - 3 / 5))


def test_calibration_of_several_labels_by_hand() -> None:
    true = np.array([[True, False], [False, False]])
    got = expected_calibration(true, [[0.8, 0.0], [0.75, 0.1]])
    # 0 and 0.1 lie in the first bin, which is closed above
    assert got["curve"] == [
        {"confidence": pytest.approx(0.05), "right": 0.0, "rows": 2},
        {"confidence": pytest.approx(0.775), "right": 0.5, "rows": 2},
    ]
    assert got["ece"] == pytest.approx((0.05 + 0.275) / 2)
    assert got["brier"] == pytest.approx((0.04 + 0 + 0.75**2 + 0.01) / 4)
    assert got["log_loss"] == pytest.approx(-(np.log(0.8) + np.log(0.25) + np.log(0.9)) / 4)
    assert (got["n"], got["over"]) == (2, "all pairs of row and label")


@pytest.mark.parametrize(("bins", "edge"), [(10, 3), (10, 7), (15, 11), (3, 1)])
def test_an_edge_belongs_to_the_bin_below(bins: int, edge: int) -> None:
    values = [edge / bins, np.nextafter(edge / bins, 1)]
    got = expected_calibration(np.array([[True, True]]), [values], bins=bins)
    assert [part["rows"] for part in got["curve"]] == [1, 1]


def test_true_probabilities_are_calibrated() -> None:
    rng = np.random.default_rng(0)
    table = rng.dirichlet(np.ones(3), 20_000)
    codes = (table.cumsum(axis=1) < rng.random((len(table), 1))).sum(axis=1)
    assert expected_calibration(codes, table)["ece"] < 0.01
    sharper = table**3 / (table**3).sum(axis=1, keepdims=True)
    assert expected_calibration(codes, sharper)["ece"] > 0.15


def test_a_class_without_probability_counts_as_wrong() -> None:
    known, unknown = (expected_calibration([code], [[0.75, 0.25]]) for code in (1, 2))
    assert unknown["curve"] == known["curve"] == [{"confidence": 0.75, "right": 0.0, "rows": 1}]
    assert unknown["log_loss"] == pytest.approx(-math.log(np.finfo(float).eps))
    assert unknown["brier"] == pytest.approx((0.75**2 + 0.25**2 + 1) / 2)


@pytest.mark.parametrize(
    ("true", "table", "message"),
    [
        ([0], [[0.5, 0.6]], "row 1 sum to 1.1, not to 1"),
        ([0, 0], [[0.5, 0.5]], "2 true labels but 1 rows"),
        ([0], [[1.5, -0.5]], "row 1, column 1: 1.5 is no probability"),
        ([0], [[0.5, np.nan]], "column 2: nan is no probability"),
        ([], np.zeros((0, 2)), r"not shape \(0, 2\)"),
        ([0], [0.5], r"not shape \(1,\)"),
        ([0.0], [[0.5, 0.5]], "integers from 0 in one dimension, not float64"),
        ([-1], [[0.5, 0.5]], "integers from 0"),
        (np.zeros((1, 3), bool), [[0.5, 0.5]], "3 columns for 2 labels"),
        (np.zeros((2, 2), bool), [[0.5, 0.5]], "2 true labels but 1 rows"),
    ],
)
def test_probabilities_that_cannot_be_judged_are_refused(true: Any, table: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        expected_calibration(true, table)


def test_no_bins_are_refused() -> None:
    with pytest.raises(UsageError, match="bins must be at least 1, not 0"):
        expected_calibration([0], [[1.0, 0.0]], bins=0)


# --- two classifiers on the same rows ------------------------------------------------------------------


def noisy(codes: npt.NDArray[np.int64], share: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    return np.where(rng.random(len(codes)) < share, rng.integers(0, 3, len(codes)), codes)


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_a_difference_is_that_of_paired_rows(metric: str) -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, 300)
    second = noisy(true, 0.4, rng)
    first = np.where(rng.random(300) < 0.3, true, second)
    got = paired_difference(true, first, second, 3, metric, resamples=4000)

    def score(rows: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64]) -> float:
        if metric == "accuracy":
            return float((true[rows] == predicted[rows]).mean())
        return float(f1_score(true[rows], predicted[rows], average="macro"))

    every = np.arange(300)
    assert (got["first"], got["second"]) == pytest.approx((score(every, first), score(every, second)))
    assert got["difference"] == pytest.approx(got["first"] - got["second"])
    rows = [rng.integers(0, 300, 300) for _ in range(800)]
    drawn = [score(r, first) - score(r, second) for r in rows]
    assert got["ci95"] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.012)
    assert got["method"] == "paired percentile bootstrap, 4000 resamples, seed 42"
    assert ("p_value" in got) == (metric == "accuracy")
    other = paired_difference(true, second, first, 3, metric, resamples=4000)
    assert other["difference"] == -got["difference"]
    assert json.loads(json.dumps(got, allow_nan=False)) == got


@settings(max_examples=40, deadline=None)
@given(sets(), st.integers(0, 99))
def test_a_difference_of_several_labels_is_that_of_their_figures(tables: tuple[Bools, Bools], seed: int) -> None:
    true, first = tables
    second = np.random.default_rng(seed).random(true.shape) < 0.5
    names = label_names(true.shape[1])
    figures = [multilabel(true, table, names, resamples=1) for table in (first, second)]
    for metric in ("micro_f1", "macro_f1", "subset_accuracy"):
        got = paired_difference(true, first, second, len(names), metric, resamples=5)
        assert (got["first"], got["second"]) == pytest.approx(tuple(part[metric] for part in figures))


def test_equal_classifiers_do_not_differ() -> None:
    rng = np.random.default_rng(3)
    true = rng.integers(0, 3, 50)
    same = noisy(true, 0.5, rng)
    got = paired_difference(true, same, same, 3, "macro_f1")
    unseen = clopper_pearson(0, 50)[1]  # of 50 rows none differs: more might
    assert (got["difference"], got["ci95"]) == (0.0, [-unseen, unseen])
    assert got["method"] == "clopper-pearson, as all rows say the same"
    assert paired_difference(true, same, same, 3)["p_value"] == 1.0


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 400), st.integers(0, 400))
def test_the_test_of_mcnemar_is_an_exact_binomial_one(first: int, second: int) -> None:
    expected = binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)


def test_many_classes_need_no_room_for_every_joint_cell() -> None:
    codes = np.arange(500)
    got = paired_difference(codes, codes, codes[::-1], 500, "macro_f1", resamples=3)
    assert (got["first"], got["second"]) == (1.0, 0.0)


def test_what_cannot_be_compared_is_refused() -> None:
    codes, rows = np.array([0, 1]), np.ones((2, 2), bool)
    with pytest.raises(UsageError, match="class codes are compared by accuracy, macro_f1, not by 'micro_f1'"):
        paired_difference(codes, codes, codes, 2, "micro_f1")
    with pytest.raises(UsageError, match=r"labels a row are compared by micro_f1, .* not by 'accuracy'"):
        paired_difference(rows, rows, rows, 2)
    with pytest.raises(DataError, match="2 true labels but 1 second ones"):
        paired_difference(codes, codes, codes[:1], 2)
    with pytest.raises(DataError, match="first code 1 of row 2 is not one of the 1 classes"):
        paired_difference([0, 0], codes, codes, 1)
    with pytest.raises(DataError, match="booleans in two dimensions, not int64"):
        paired_difference(rows, codes, codes, 2, "micro_f1")
    with pytest.raises(UsageError, match="resamples must be at least 1"):
        paired_difference(codes, codes, codes, 2, resamples=0)
