"""A tuned threshold is as good as any, and is the one that the decision rule was judged with."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, matthews_corrcoef

from embedkit.errors import DataError, UsageError
from embedkit.heads.thresholds import THRESHOLD_METRICS, tune_thresholds

Floats = npt.NDArray[np.float64]
LARGEST = float(np.finfo(np.float64).max)


def sk_mcc(true: Any, predicted: Any) -> float:
    both = len(set(true)) > 1 and len(set(predicted)) > 1  # else scikit-learn's is NaN or 0, by version
    return float(matthews_corrcoef(true, predicted)) if both else 0.0


SCIKIT: dict[str, Any] = {
    "f1": lambda t, p: f1_score(t, p, zero_division=0),
    "accuracy": accuracy_score,
    "balanced-accuracy": balanced_accuracy_score,
    "mcc": sk_mcc,
    "macro-f1": lambda t, p: f1_score(t, p, labels=[False, True], average="macro", zero_division=0),
}
# few distinct values, so that scores tie; neighbours, extremes and infinities, where arithmetic is at its end
SCORES = st.sampled_from(
    [0.0, 0.1, 0.25, 0.5, 0.5 + 2**-53, 0.7, 1.0, -3.0, 5e-324, LARGEST, -LARGEST, np.inf, -np.inf]
) | st.floats(allow_nan=False)
ROWS = st.lists(st.tuples(SCORES, st.booleans()), min_size=1, max_size=25)


@settings(max_examples=300, deadline=None)
@given(ROWS, st.sampled_from(THRESHOLD_METRICS), st.sampled_from([0.5, 0.0, -1.5]))
def test_no_threshold_is_better(rows: list[tuple[float, bool]], metric: str, default: float) -> None:
    scores, true = np.array([s for s, _ in rows]), np.array([t for _, t in rows])
    tuned = tune_thresholds(scores, true, metric, default=default)
    (threshold,), (before,), (after,) = tuned.thresholds, tuned.before, tuned.after
    assert np.isfinite(threshold)
    judge = SCIKIT[metric]
    if len(set(true.tolist())) == 1:
        assert threshold == default
        assert before == after
        assert len(tuned.notes) == 1
        return
    assert tuned.notes == []
    assert before == pytest.approx(judge(true, scores > default), abs=1e-12)
    assert after == pytest.approx(judge(true, scores > threshold), abs=1e-12)
    every = [-LARGEST, *scores[np.isfinite(scores)], LARGEST]  # > each score cuts the rows in every way there is
    cuts = {tuple(scores > cut) for cut in every}
    assert after == pytest.approx(max(judge(true, np.array(cut)) for cut in cuts), abs=1e-12)
    if after <= before + 1e-13:
        assert threshold == default


def test_thresholds_known_by_hand() -> None:
    scores = [0.1, 0.2, 0.3, 0.4, 0.9]
    true = np.array([False, False, True, True, True])
    assert tune_thresholds(scores, true, "f1").thresholds == pytest.approx([0.25])
    got = tune_thresholds(scores, true, "accuracy")
    assert (got.before.tolist(), got.after.tolist(), got.notes) == ([0.6], [1.0], [])


def test_a_cut_below_or_above_all_is_half_a_step_beyond() -> None:
    low = tune_thresholds([0.2, 0.3, 0.4], np.array([True, False, True]), "f1")
    assert low.thresholds == pytest.approx([0.15])
    high = tune_thresholds([0.6, 0.7, 0.9], np.array([True, False, False]), "accuracy")
    assert high.thresholds == pytest.approx([1.0])
    one = tune_thresholds([0.7, 0.7, 0.7], np.array([False, True, False]), "accuracy")
    assert one.thresholds == pytest.approx([1.2])


def test_the_nearest_of_equal_cuts_is_taken_and_the_lower_of_two() -> None:
    scores, true = [0.1, 0.2, 0.6, 0.9], np.array([True, False, True, False])
    assert tune_thresholds(scores, true, "accuracy", default=0.7).thresholds == pytest.approx([0.4])
    assert tune_thresholds(scores, true, "accuracy", default=0.8).thresholds == pytest.approx([1.05])
    assert tune_thresholds(scores, true, "accuracy", default=0.0).thresholds == [0.0]  # as good, so it stays
    two = tune_thresholds([0.0, 0.25, 0.75, 1.0], np.array([False, True, False, True]), "accuracy", default=0.5)
    assert two.thresholds == pytest.approx([0.125])


def test_each_label_has_its_own_threshold() -> None:
    rng = np.random.default_rng(0)
    scores, true = rng.random((60, 4)), rng.random((60, 4)) < 0.4
    true[:, 1], true[:, 3] = False, True
    for metric in ("f1", "accuracy", "balanced-accuracy", "mcc"):
        together = tune_thresholds(scores, true, metric, names=["a", "b", "c", "d"])
        for i in range(4):
            alone = tune_thresholds(scores[:, i], true[:, i], metric)
            assert [alone.thresholds[0], alone.before[0], alone.after[0]] == [
                part[i] for part in together[:3]
            ]  # fmt: skip
        assert together.thresholds[[1, 3]].tolist() == [0.5, 0.5]
        assert together.notes == [
            "the threshold stays 0.5 for 2 labels, as to tune one takes 1 row with the label and 1 row without: "
            "'b', 'd'"
        ]
    assert tune_thresholds(scores, true, "f1").notes[0].endswith("'2', '4'")
    assert tune_thresholds(scores[:, :0], true[:, :0], "f1").thresholds.shape == (0,)


def test_a_label_with_few_rows_keeps_the_default() -> None:
    # the row that has the label has the lowest score, so the best F1 would give the label to all rows
    scores, true = np.linspace(0.1, 0.4, 100), np.arange(100) < 1
    assert tune_thresholds(scores, true, "f1").thresholds[0] < 0.1
    for least in (2, 5):
        for wanted in (true, ~true, np.arange(100) < least - 1):
            kept = tune_thresholds(scores, wanted, "f1", least=least)
            assert (kept.thresholds.tolist(), kept.before.tolist()) == ([0.5], kept.after.tolist())
            assert kept.notes == [f"the threshold stays 0.5: to tune it takes {least} rows of each class"]
        enough = np.arange(100) < least
        exactly, default = (tune_thresholds(scores, enough, "f1", least=n) for n in (least, 1))
        assert (exactly.thresholds.tolist(), exactly.notes) == (default.thresholds.tolist(), [])
    several = tune_thresholds(np.stack([scores, scores], 1), np.stack([true, scores > 0.2], 1), "f1", least=5)
    assert several.thresholds[0] == 0.5 != several.thresholds[1]
    assert "5 rows with the label and 5 rows without: '1'" in several.notes[0]


def test_a_label_without_scores_keeps_the_default() -> None:
    scores = np.full((3, 1), -np.inf)
    tuned = tune_thresholds(scores, np.array([[True], [False], [False]]), "f1", default=0.0)
    assert (tuned.thresholds.tolist(), tuned.after.tolist()) == ([0.0], [0.0])


def test_float32_neighbours_are_parted_in_float64() -> None:
    low = np.float32(0.3)
    high = np.nextafter(low, np.float32(1))
    tuned = tune_thresholds(np.array([low, high]), np.array([False, True]), "accuracy")
    assert tuned.after == [1.0]
    assert float(low) < tuned.thresholds[0] < float(high)


def test_many_rows_do_not_overflow() -> None:
    n = 400_000  # the product of four margins passes 2**63
    scores = np.linspace(0, 1, n)
    tuned = tune_thresholds(scores, scores > 0.3, "mcc")
    assert tuned.after == pytest.approx([1.0])
    assert tuned.thresholds == pytest.approx([0.3], abs=1e-5)


@pytest.mark.parametrize(
    ("scores", "true", "message"),
    [
        ([], np.zeros(0, bool), "0 rows"),
        ([0.1], np.zeros(2, bool), r"not \(1,\) and \(2,\)"),
        ([[[0.1]]], np.zeros((1, 1, 1), bool), "one shape"),
        ([0.1, np.nan], np.array([True, False]), "row 2, label 1 is NaN"),
        ([0.1, 0.2], np.array([1, 0]), "true or false for each row, not int64"),
    ],
)
def test_what_cannot_be_tuned_is_refused(scores: Any, true: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        tune_thresholds(scores, true, "f1")


def test_wrong_settings_are_refused() -> None:
    rows = np.array([[0.1], [0.2]]), np.array([[True], [False]])
    with pytest.raises(UsageError, match="f1, accuracy, balanced-accuracy, mcc, macro-f1, not for 'auc'"):
        tune_thresholds(rows[0][:, 0], rows[1][:, 0], "auc")
    with pytest.raises(UsageError, match=r"several labels a row .* for f1, .* not for 'macro-f1'"):
        tune_thresholds(*rows, "macro-f1")
    with pytest.raises(UsageError, match="finite number, not nan"):
        tune_thresholds(*rows, "f1", default=float("nan"))
