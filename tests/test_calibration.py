"""Calibration finds what made the data, keeps the order of rows, and never makes the fitted loss worse."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import approx_fprime
from scipy.special import expit, log_softmax, softmax
from sklearn.linear_model import LogisticRegression

from embedkit.errors import DataError
from embedkit.heads.calibration import Calibration, fit_calibration, sigmoid_loss, softmax_loss

Floats = npt.NDArray[np.float64]


def draw(probabilities: Floats, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return a code a row, drawn from that row's probabilities."""
    codes: npt.NDArray[np.int64] = (probabilities.cumsum(axis=1) < rng.random((len(probabilities), 1))).sum(axis=1)
    return codes


# --- the losses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_gradients_are_those_of_the_losses(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, targets = rng.normal(size=20) * 3, rng.random(20)
    params = rng.normal(size=2)
    numeric = approx_fprime(params, lambda p: sigmoid_loss(p, scores, targets)[0], 1e-7)
    assert sigmoid_loss(params, scores, targets)[1] == pytest.approx(numeric, abs=1e-5)
    table, aims = rng.normal(size=(20, 4)), rng.dirichlet(np.ones(4), 20)
    table[3, 1], aims[3, 1] = -np.inf, 0
    aims /= aims.sum(axis=1, keepdims=True)
    params = np.append(rng.random() + 0.1, rng.normal(size=4))  # a is positive
    numeric = approx_fprime(params, lambda p: softmax_loss(p, table, aims)[0], 1e-7)
    assert softmax_loss(params, table, aims)[1] == pytest.approx(numeric, abs=1e-5)


def test_losses_known_by_hand() -> None:
    hard = np.array([1.0, 0.0])
    scores = np.array([2.0, -1.0])
    assert sigmoid_loss(np.array([1.0, 0.0]), scores, hard)[0] == pytest.approx(
        -(np.log(expit(2)) + np.log(1 - expit(-1))) / 2
    )
    table = np.array([[1.0, 0.0, -np.inf], [0.5, 2.0, 1.0]])
    aims = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    by_hand = -(np.log(expit(1)) + log_softmax([0.5, 2, 1])[2]) / 2
    assert softmax_loss(np.array([1.0, 0, 0, 0]), table, aims)[0] == pytest.approx(by_hand)


# --- what is found -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "shift"), [(2.5, -1.0), (0.3, 0.4), (1.0, 0.0), (40.0, 3.0)])
def test_platts_parameters_are_recovered(scale: float, shift: float) -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(size=40_000) / scale
    codes = (rng.random(len(scores)) < expit(scale * scores + shift)).astype(int)
    found = fit_calibration(scores, codes).calibration
    assert found.scale.shape == found.shift.shape == (1,)
    assert found.scale[0] == pytest.approx(scale, rel=0.05)
    assert found.shift[0] == pytest.approx(shift, abs=0.05)


def test_temperature_and_biases_are_recovered() -> None:
    rng = np.random.default_rng(2)
    scores = rng.normal(size=(60_000, 4)) * 2
    shift = np.array([0.8, -0.5, 0.2, -0.5])
    codes = draw(softmax(0.4 * scores + shift, axis=1), rng)
    found = fit_calibration(scores + 7 * rng.normal(size=(len(scores), 1)), codes).calibration  # common to a row
    assert found.scale == pytest.approx([0.4], rel=0.03)
    assert found.shift == pytest.approx(shift, abs=0.05)
    assert found.shift.sum() == pytest.approx(0, abs=1e-12)


def test_each_label_is_calibrated_alone() -> None:
    rng = np.random.default_rng(3)
    scale, shift = np.array([0.5, 2.0, 5.0]), np.array([1.0, 0.0, -2.0])
    scores = rng.normal(size=(30_000, 3))
    true = rng.random(scores.shape) < expit(scores * scale + shift)
    found = fit_calibration(scores, true, multi_label=True).calibration
    assert found.scale == pytest.approx(scale, rel=0.06)
    assert found.shift == pytest.approx(shift, abs=0.1)
    for i in range(3):
        alone = fit_calibration(scores[:, i], true[:, i].astype(int)).calibration
        assert (alone.scale[0], alone.shift[0]) == (found.scale[i], found.shift[i])


def test_two_classes_equal_an_unpenalised_logistic_regression() -> None:
    rng = np.random.default_rng(4)
    scores = rng.normal(size=20_000) * 3 + 1
    codes = (rng.random(len(scores)) < expit(0.7 * scores - 0.6)).astype(int)
    model = LogisticRegression(C=np.inf, tol=1e-8).fit(scores[:, None], codes)
    found = fit_calibration(scores, codes).calibration
    # the two rows that smoothing adds to 20,000 are all that differs
    assert found.scale == pytest.approx(model.coef_[0], rel=1e-3)
    assert found.shift == pytest.approx(model.intercept_, rel=2e-3)
    assert found.probabilities(scores) == pytest.approx(model.predict_proba(scores[:, None]), abs=5e-4)


# --- laws ----------------------------------------------------------------------------------------------


def targets_of(codes: npt.NDArray[np.int64], n_classes: int) -> Floats:
    """Return Platt's targets, by counting."""
    rows = [int((codes == code).sum()) for code in codes]
    return np.array(
        [
            [(n + 1 if k == code else 1) / (n + n_classes) for k in range(n_classes)]
            for n, code in zip(rows, codes, strict=True)
        ]
    )


FLOATS = st.floats(-50, 50).map(lambda x: round(x, 3))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_the_loss_never_grows_and_cannot_fall_further(data: st.DataObject) -> None:
    n, n_classes = data.draw(st.integers(2, 25)), data.draw(st.integers(2, 4))
    codes = data.draw(arrays(np.int64, n, elements=st.integers(0, n_classes - 1)))
    shape = (n,) if n_classes == 2 else (n, n_classes)
    scores = data.draw(arrays(np.float64, shape, elements=FLOATS))
    found = fit_calibration(scores, codes).calibration
    targets = targets_of(codes, n_classes)

    def loss(scale: Floats, shift: Floats) -> float:
        logits = scores * scale + shift
        table = np.column_stack([np.zeros(n), logits]) if n_classes == 2 else logits
        return float(-(targets * log_softmax(table, axis=1)).sum() / n)

    assert np.isfinite(found.scale).all()
    reached = loss(found.scale, found.shift)
    assert reached <= loss(np.ones(1), np.zeros(len(found.shift))) + 1e-9
    for step in (-0.01, 0.01):
        for place in range(len(found.shift)):
            moved = found.shift.copy()
            moved[place] += step
            assert loss(found.scale, moved) >= reached - 1e-9
        if found.scale[0] != 1:  # 1 where it cannot be learnt
            spread = max(1.0, float(np.abs(scores).max()))
            if step > 0 or found.scale[0] * float(np.std(scores)) > 0.1:  # below, the scale is at its bound
                assert loss(found.scale + step * found.scale / spread, found.shift) >= reached - 1e-9


@settings(max_examples=100, deadline=None)
@given(arrays(np.float64, 12, elements=FLOATS), arrays(np.int64, 12, elements=st.integers(0, 1)))
def test_the_order_of_rows_is_kept(scores: Floats, codes: npt.NDArray[np.int64]) -> None:
    found = fit_calibration(scores, codes).calibration
    order = np.argsort(scores)
    ranked = found.apply(scores)[order]
    assert (np.diff(ranked)[np.diff(scores[order]) > 0] > 0).all()
    probabilities = found.probabilities(scores)
    assert probabilities.shape == (12, 2)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(12))
    assert (np.diff(probabilities[order, 1]) >= 0).all()


def test_separable_rows_reach_platts_targets() -> None:
    found = fit_calibration([-1.0, -1.0, -1.0, 1.0, 1.0], [0, 0, 0, 1, 1]).calibration
    assert found.probabilities([-1.0, 1.0])[:, 1] == pytest.approx([1 / 5, 3 / 4], abs=1e-6)
    three = fit_calibration(np.eye(3).repeat([4, 2, 2], axis=0), [0] * 4 + [1] * 2 + [2] * 2).calibration
    assert 0 < three.scale[0] < 5


def test_scores_that_point_the_wrong_way_give_the_share_of_rows() -> None:
    scores = np.linspace(-1, 1, 100)
    found = fit_calibration(scores, (scores < 0).astype(int)).calibration
    assert found.probabilities(scores)[:, 1] == pytest.approx(np.full(100, 0.5), abs=0.01)
    assert (np.diff(found.apply(scores)) > 0).all()


# --- what is missing -----------------------------------------------------------------------------------


def test_labels_that_all_or_no_rows_have_keep_their_scale_and_are_said() -> None:
    rng = np.random.default_rng(5)
    scores = rng.normal(size=(50, 3))
    true = np.column_stack([scores[:, 0] > rng.normal(size=50), np.zeros(50, bool), np.ones(50, bool)])
    found, notes = fit_calibration(scores, true, multi_label=True, names=["a", "b", "c"])
    assert found.scale[1:].tolist() == [1.0, 1.0]
    assert found.probabilities(scores).mean(axis=0)[1:] == pytest.approx([1 / 52, 51 / 52], rel=1e-4)
    assert notes == [
        "rough probabilities for 2 labels that no row to calibrate on has, or every one: 'b', 'c'"
    ]  # fmt: skip


def test_a_class_without_scores_stays_impossible() -> None:
    rng = np.random.default_rng(6)
    scores = rng.normal(size=(400, 3))
    codes = draw(softmax(3 * scores, axis=1), rng)
    with_dead = np.column_stack([scores[:, :1], np.full(400, -np.inf), scores[:, 1:]])
    mapped = np.array([0, 2, 3])[codes]
    mapped[:2] = 1  # rows of the class that has no scores cannot be helped, and do no harm
    found, notes = fit_calibration(with_dead, mapped)
    same = fit_calibration(scores[2:], codes[2:]).calibration
    # there is one class more, and so one row more of each in the smoothing
    assert found.scale == pytest.approx(same.scale, rel=0.02)
    assert found.shift[[0, 2, 3]] == pytest.approx(same.shift, abs=0.02)
    assert found.shift[1] == 0
    assert found.shift.sum() == pytest.approx(0, abs=1e-12)
    probabilities = found.probabilities(with_dead)
    assert (probabilities[:, 1] == 0).all()
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(400))
    assert notes == []


def test_a_class_that_no_row_has_becomes_improbable() -> None:
    rng = np.random.default_rng(7)
    scores = rng.normal(size=(200, 3))
    found, notes = fit_calibration(scores, draw(softmax(scores[:, :2], axis=1), rng), names=["a", "b", "c"])
    assert found.probabilities(scores)[:, 2].mean() == pytest.approx(1 / 100, rel=0.3)
    assert notes == ["rough probabilities for 1 label without a row to calibrate on: 'c'"]
    assert fit_calibration(scores[:, 0], np.ones(200, int)).notes[0].endswith("'1'")


@pytest.mark.parametrize("value", [-np.inf, np.inf])
def test_infinite_scores_stay_certain(value: float) -> None:
    rng = np.random.default_rng(8)
    scores = rng.normal(size=300)
    codes = (rng.random(300) < expit(2 * scores)).astype(int)
    plain = fit_calibration(scores, codes).calibration
    found = fit_calibration(np.append(scores, value), np.append(codes, 1)).calibration
    assert (found.scale, found.shift) == (plain.scale, plain.shift)
    assert found.probabilities([value])[0].tolist() == ([1.0, 0.0] if value < 0 else [0.0, 1.0])
    alone = fit_calibration([value, value], [0, 1]).calibration
    assert (alone.scale.tolist(), alone.shift.tolist()) == ([1.0], [0.0])
    none = fit_calibration(np.full((2, 3), -np.inf), [0, 1]).calibration
    assert (none.scale.tolist(), none.shift.tolist()) == ([1.0], [0.0, 0.0, 0.0])


def test_a_row_may_lack_some_classes() -> None:
    rng = np.random.default_rng(9)
    scores = rng.normal(size=(3000, 3))
    scores[::3, 2] = -np.inf  # as a k-nearest-neighbours head has it, by row
    codes = draw(softmax(2 * scores, axis=1), rng)
    found = fit_calibration(scores, codes).calibration
    assert found.scale == pytest.approx([2], rel=0.1)
    assert found.shift == pytest.approx(np.zeros(3), abs=0.15)


def test_equal_scores_learn_the_share_of_rows() -> None:
    found = fit_calibration(np.full(8, 3.0), [1, 0, 0, 0, 0, 0, 0, 0]).calibration
    assert found.scale.tolist() == [1.0]
    assert found.probabilities([3.0])[0, 1] == pytest.approx((2 / 3 + 7 / 9) / 8, abs=1e-6)
    three = fit_calibration(np.zeros((6, 3)), [0, 0, 0, 0, 1, 2]).calibration
    assert three.scale.tolist() == [1.0]
    assert three.probabilities([[0.0, 0, 0]])[0].argmax() == 0


# --- the object ----------------------------------------------------------------------------------------


def test_a_linear_head_takes_a_calibration_in() -> None:
    rng = np.random.default_rng(10)
    features, coef, intercept = rng.normal(size=(9, 4)), rng.normal(size=(3, 4)), rng.normal(size=3)
    for scale in ([2.0], [2.0, 0.5, 1.0]):
        given = Calibration(np.array(scale), np.array([0.1, -0.3, 0.2]))
        folded = features @ (coef * given.scale[:, None]).T + intercept * given.scale + given.shift
        assert given.apply(features @ coef.T + intercept) == pytest.approx(folded)
        assert given.link == ("softmax" if len(scale) == 1 else "sigmoid")


def test_probabilities_keep_their_precision_near_zero() -> None:
    assert Calibration(np.ones(1), np.zeros(1)).probabilities([-700.0])[0, 1] == pytest.approx(np.exp(-700))


def test_arrays_are_frozen_copies() -> None:
    scale = np.ones(1)
    given = Calibration(scale, np.zeros(2))
    scale[0] = 5
    assert given.scale.tolist() == [1.0]
    with pytest.raises(ValueError, match="read-only"):
        given.shift[0] = 1


@pytest.mark.parametrize(
    ("scale", "shift", "message"),
    [
        ([1.0, 1.0], [0.0, 0.0, 0.0], "do not fit"),
        ([[1.0]], [0.0], "do not fit"),
        ([0.0], [0.0], "positive"),
        ([np.nan], [0.0], "positive"),
        ([1.0], [np.inf], "finite"),
    ],
)
def test_damaged_parameters_are_refused(scale: Any, shift: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Calibration(scale, shift)


@pytest.mark.parametrize(
    ("scores", "true", "multi_label", "message"),
    [
        ([], [], False, "0 rows"),
        ([0.1, 0.2], [0], False, r"shape \(2,\) and labels of shape \(1,\)"),
        ([[0.1], [0.2]], [0, 0], False, r"shape \(2, 1\)"),
        ([0.1], [True], True, r"shape \(1,\)"),
        ([0.1], [True], False, "integer codes, not bool"),
        ([[0.1]], [[1]], True, "true or false for each label, not int64"),
        ([0.1, 0.2], [0, 2], False, "code 2 of row 2 is not one of the 2 classes"),
        ([[0.1, 0.2, 0.3]], [-1], False, "code -1 of row 1 is not one of the 3 classes"),
        ([0.1, np.nan], [0, 1], False, "score of row 2 is nan"),
        ([[0.1, np.inf, 0.0]], [0], False, "score of row 1 is inf"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(scores: Any, true: Any, multi_label: bool, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit_calibration(np.asarray(scores), np.asarray(true), multi_label=multi_label)
