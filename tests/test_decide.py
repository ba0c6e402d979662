"""Probabilities and classes that follow from scores: stable, by hand, and with thresholds."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from embedkit.runtime.decide import Thresholds, decide, probabilities, sigmoid, softmax

INF = math.inf
scores = st.floats(-1e4, 1e4) | st.sampled_from([-INF, INF, 0.0, -0.0, 1e307, -1e307])
below_inf = st.floats(-1e4, 1e4) | st.sampled_from([-INF, 1e307, -1e307])
tables = st.tuples(st.integers(0, 5), st.integers(2, 5)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=below_inf)
)


@pytest.mark.parametrize(
    ("score", "expected"),
    [(0, 0.5), (-0.0, 0.5), (1e4, 1), (-1e4, 0), (INF, 1), (-INF, 0), (1e307, 1), (-1e307, 0)],
)
def test_the_sigmoid_is_known_at_its_ends(score: float, expected: float) -> None:
    assert sigmoid(np.array([score])).tolist() == [expected]
    single = sigmoid(np.clip(np.array([score]), -1e38, 1e38).astype(np.float32))
    assert (single.dtype, single.tolist()) == (np.float32, [expected])


@given(st.floats(-700, 700))
def test_the_sigmoid_is_exact_in_relative_terms_also_near_0(score: float) -> None:
    expected = 1 / (1 + math.exp(-score)) if score > -300 else math.exp(score)
    assert float(sigmoid(np.array(score))) == pytest.approx(expected, rel=1e-14)


@given(arrays(np.float64, st.integers(0, 6), elements=scores))
def test_sigmoids_rise_and_mirror(values: npt.NDArray[np.float64]) -> None:
    got = sigmoid(np.sort(values))
    assert ((got >= 0) & (got <= 1)).all()
    assert (np.diff(got) >= 0).all()
    assert sigmoid(values) + sigmoid(-values) == pytest.approx(np.ones(len(values)), abs=1e-15)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([0, 0], [0.5, 0.5]),
        ([1e4, 1e4, -1e4], [0.5, 0.5, 0]),
        ([-1e4, -1e4], [0.5, 0.5]),
        ([-INF, 3, -INF], [0, 1, 0]),
        ([-INF, 0, math.log(3)], [0, 0.25, 0.75]),
        ([1e307, -1e307], [1, 0]),
        ([math.log(1), math.log(2), math.log(5)], [0.125, 0.25, 0.625]),
    ],
)
def test_the_softmax_is_known_by_hand(row: list[float], expected: list[float]) -> None:
    assert softmax(np.array([row]))[0] == pytest.approx(expected, abs=1e-15)
    assert softmax(np.array(row)) == pytest.approx(expected, abs=1e-15)


@given(tables, st.floats(-100, 100))
def test_softmaxes_are_distributions_that_a_common_shift_leaves(
    table: npt.NDArray[np.float64], shift: float
) -> None:
    table[:, 0] = np.where(np.isfinite(table[:, 0]), table[:, 0], 0)  # one class at least is possible
    got = softmax(table)
    assert got.sum(axis=1) == pytest.approx(np.ones(len(table)), abs=1e-14)
    assert (got[np.isneginf(table)] == 0).all()
    assert (got[np.arange(len(table)), table.argmax(axis=1)] == got.max(axis=1)).all()
    small = np.clip(table, -1e3, 1e3)
    assert softmax(small + shift) == pytest.approx(softmax(small), abs=1e-12)


@given(arrays(np.float64, st.integers(0, 6), elements=scores))
def test_one_score_of_two_classes_gives_both_probabilities(values: npt.NDArray[np.float64]) -> None:
    got = probabilities(values, multi_label=False)
    assert got.shape == (len(values), 2)
    assert got.sum(axis=1) == pytest.approx(np.ones(len(values)), abs=1e-15)
    assert (got[:, 1] == sigmoid(values)).all()
    finite = values[np.abs(values) < 1e300]
    wide = softmax(np.column_stack([np.zeros_like(finite), finite]))
    assert probabilities(finite, multi_label=False) == pytest.approx(wide, abs=1e-15)


def test_labels_stand_for_themselves() -> None:
    table = np.array([[0.0, INF, -INF], [math.log(3), 0, 0]])
    assert probabilities(table, multi_label=True) == pytest.approx(np.array([[0.5, 1, 0], [0.75, 0.5, 0.5]]))
    assert probabilities(table[:, :1], multi_label=True).shape == (2, 1)


@pytest.mark.parametrize(
    ("values", "several", "expected"),
    [
        ([0.0, 1e-300, -1e-300, INF, -INF], False, [0, 1, 0, 1, 0]),
        ([[1.0, 2, 2], [3, 3, 3], [-INF, -INF, -5]], False, [1, 0, 2]),
        ([[0.0, 1e-300], [INF, -INF]], True, [[False, True], [True, False]]),
        (np.zeros(0), False, []),
        (np.zeros((0, 3)), False, []),
        (np.zeros((0, 3)), True, np.zeros((0, 3), bool)),
    ],
)
def test_classes_are_known_by_hand(values: Any, several: bool, expected: Any) -> None:
    got = decide(np.asarray(values, dtype=np.float64), multi_label=several)
    wanted = np.asarray(expected, dtype=bool if several else np.int64)
    assert got.dtype == wanted.dtype
    assert got.tolist() == wanted.tolist()


@pytest.mark.parametrize(
    ("cuts", "on", "positive", "values", "expected"),
    [
        ([0.3], "probability", 1, [[0.7, 0.3], [0.69, 0.31], [0.9, 0.1]], [0, 1, 0]),
        ([0.3], "probability", 0, [[0.7, 0.3], [0.3, 0.7], [0.31, 0.69]], [0, 1, 0]),
        ([0.5], "probability", 0, [[0.5, 0.5]], [1]),  # strictly above, so the other class has the tie
        ([-1.0], "score", 1, [-1.0, -0.9, -1.1, INF, -INF], [0, 1, 0, 1, 0]),
        ([-1.0], "score", 0, [1.0, 0.9, 1.1, INF, -INF], [1, 0, 1, 1, 0]),
        ([1.5], "probability", 1, [[0.0, 1.0]], [0]),  # beyond all
    ],
)
def test_a_threshold_decides_between_two_classes(
    cuts: list[float], on: str, positive: int, values: Any, expected: list[int]
) -> None:
    rule = Thresholds(tuple(cuts), on, "f1", positive)
    got = rule.decide(np.array(values), multi_label=False)
    assert got.dtype == np.int64
    assert got.tolist() == expected


def test_labels_have_their_own_thresholds() -> None:
    rule = Thresholds((0.2, 0.5, 0.9), "probability", "f1")
    table = np.array([[0.3, 0.3, 0.3], [0.2, 0.5, 0.9], [0.21, 0.51, 0.91]])
    got = rule.decide(table, multi_label=True)
    assert got.dtype == bool
    assert got.tolist() == [[True, False, False], [False] * 3, [True] * 3]
    assert rule.decide(table[:0], multi_label=True).shape == (0, 3)
    one = Thresholds((0.2,), "probability", "f1").decide(table[:, :1], multi_label=True)
    assert one.tolist() == [[True], [False], [True]]


@given(arrays(np.float64, st.integers(0, 6), elements=scores))
def test_the_usual_thresholds_decide_as_none(values: npt.NDArray[np.float64]) -> None:
    plain = decide(values, multi_label=False)
    assert (Thresholds((0.0,), "score", "f1").decide(values, multi_label=False) == plain).all()
    labels = np.column_stack([values, -values])
    got = Thresholds((0.0, 0.0), "score", "f1").decide(labels, multi_label=True)
    assert (got == decide(labels, multi_label=True)).all()
    safe = values[np.abs(values) > 1e-12]  # 1 / (1 + exp(-1e-20)) is a half
    shares = probabilities(safe, multi_label=False)
    got = Thresholds((0.5,), "probability", "f1").decide(shares, multi_label=False)
    assert (got == decide(safe, multi_label=False)).all()


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=4),
    st.sampled_from(["probability", "score"]),
    st.integers(0, 1),
)
def test_thresholds_survive_json(values: list[float], on: str, positive: int) -> None:
    rule = Thresholds(tuple(values), on, "f1", positive)
    assert Thresholds.from_json(json.loads(json.dumps(rule.to_json()))) == rule


GOOD = Thresholds((0.5,), "probability", "f1").to_json()


@pytest.mark.parametrize("name", GOOD)
def test_thresholds_with_anything_missing_are_refused(name: str) -> None:
    with pytest.raises(KeyError, match=name):
        Thresholds.from_json({other: value for other, value in GOOD.items() if other != name})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("values", value) for value in ([], "12", 0.5, None, ["0.5"], [True], [None], [[0.5]], {"0.5": 1})),
        *(("values", [value]) for value in (INF, -INF, math.nan)),
        *(("on", value) for value in ("logit", None, 1, [])),
        *(("positive", value) for value in (2, -1, 0.7, "1", True, None)),
        *(("metric", value) for value in (None, 3, ["f1"])),
    ],
)
def test_garbled_thresholds_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match="thresholds"):
        Thresholds.from_json({**GOOD, name: value})
