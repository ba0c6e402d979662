"""Laws of pairs: which there are, how many, that they are balanced, and that they cost memory for texts alone."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedkit.errors import DataError, UsageError
from embedkit.training.pairs import PairCounts, PairPlan, PairSettings, Step, Strategy

STRATEGIES: tuple[Strategy, ...] = ("oversampling", "undersampling", "unique")
seeds = st.integers(0, 2**32 - 1)
codes = st.lists(st.integers(0, 4), min_size=2, max_size=60)
how = st.one_of(
    st.builds(PairSettings, strategy=st.sampled_from(STRATEGIES)),
    st.builds(PairSettings, iterations=st.integers(1, 4)),
)


def names(count: int) -> list[str]:
    return [f"text {place}" for place in range(count)]


def plan_of(
    targets: Any, told: PairSettings | None = None, *, texts: int = 32, seed: int = 0, inputs: Any = None
) -> PairPlan:
    targets = np.asarray(targets)
    return PairPlan(inputs or names(len(targets)), targets, told or PairSettings(), texts=texts, seed=seed)


def steps_of(plan: PairPlan, epoch: int = 0) -> list[Step]:
    return [plan.step(epoch, place) for place in range(plan.steps)]


def pairs_of(step: Step) -> list[tuple[int, int]]:
    return list(zip(step.rows[step.first].tolist(), step.rows[step.second].tolist(), strict=True))


def alike(targets: NDArray[Any], one: int, other: int) -> bool:
    if targets.ndim == 1:
        return bool(targets[one] == targets[other])
    return bool((targets[one] & targets[other]).any())


def counted(plan: PairPlan, epochs: int) -> PairCounts:
    steps = [step for epoch in range(epochs) for step in steps_of(plan, epoch)]
    positive = sum(int(step.positive.sum()) for step in steps)
    pairs, texts = sum(len(step.positive) for step in steps), sum(len(step.rows) for step in steps)
    return PairCounts(positive, pairs - positive, texts, len(steps))


# ------------------------------------------------------------------------------------------ known by hand


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        # two classes of 16: 2 * 120 pairs within, 16 * 16 between
        ("oversampling", PairCounts(256, 256, 32, 1)),
        ("undersampling", PairCounts(240, 240, 32, 1)),
        ("unique", PairCounts(240, 256, 32, 1)),
    ],
)
def test_pairs_of_32_texts(strategy: Strategy, expected: PairCounts) -> None:
    plan = plan_of([0, 1] * 16, PairSettings(strategy))
    assert plan.count(1) == counted(plan, 1) == expected


def test_iterations_of_32_texts_are_as_setfit_has_them() -> None:
    plan = plan_of([0, 1] * 16, PairSettings(iterations=20))
    assert plan.count(20) == PairCounts(640, 640, 20 * 32, 20)
    assert plan.count(20).pairs == 1280


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=5), seed=seeds)
def test_counts_by_formula_where_one_step_holds_all(sizes: list[int], seed: int) -> None:
    targets = np.repeat(np.arange(len(sizes)), sizes)
    if len(targets) < 2:
        return
    positive = sum(math.comb(size, 2) for size in sizes)
    negative = math.comb(len(targets), 2) - positive
    both = min(positive, negative) > 0
    expected = {
        "unique": (positive, negative),
        "undersampling": (min(positive, negative),) * 2,
        "oversampling": (max(positive, negative) if both else 0,) * 2,
    }
    for strategy in STRATEGIES:
        count = plan_of(targets, PairSettings(strategy), texts=60, seed=seed).count(3)
        assert (count.positive, count.negative) == tuple(3 * each for each in expected[strategy])
        assert (count.texts, count.steps) == (3 * len(targets), 3)
    paired = sum(size for size in sizes if size > 1) if len(sizes) > 1 else 0
    assert plan_of(targets, PairSettings(iterations=5), texts=60, seed=seed).count(5).pairs == 2 * 5 * paired


# --------------------------------------------------------------------------------------------------- laws


@settings(max_examples=150, deadline=None)
@given(targets=codes, told=how, texts=st.integers(2, 70), seed=seeds, epoch=st.integers(0, 3))
def test_every_pair_is_of_two_texts_and_says_whether_they_are_alike(
    targets: list[int], told: PairSettings, texts: int, seed: int, epoch: int
) -> None:
    given_ = np.array(targets)
    plan = plan_of(given_, told, texts=texts, seed=seed)
    for step in steps_of(plan, epoch):
        assert len(step.rows) <= texts
        for (one, other), positive in zip(pairs_of(step), step.positive.tolist(), strict=True):
            assert one != other
            assert positive == alike(given_, one, other)


@settings(max_examples=100, deadline=None)
@given(targets=codes, told=how, texts=st.integers(2, 70), seed=seeds)
def test_counts_are_what_is_drawn(targets: list[int], told: PairSettings, texts: int, seed: int) -> None:
    plan = plan_of(targets, told, texts=texts, seed=seed)
    assert plan.count(2) == counted(plan, 2)


@settings(max_examples=100, deadline=None)
@given(targets=codes, texts=st.integers(2, 70), seed=seeds)
def test_pairs_are_balanced_and_none_is_left_out(targets: list[int], texts: int, seed: int) -> None:
    for told in (PairSettings("oversampling"), PairSettings("undersampling"), PairSettings(iterations=2)):
        for step in steps_of(plan_of(targets, told, texts=texts, seed=seed)):
            assert 2 * step.positive.sum() == len(step.positive)
    plan = plan_of(targets, PairSettings("oversampling"), texts=texts, seed=seed)
    for step in steps_of(plan):
        times = Counter(frozenset(pair) for pair in pairs_of(step))
        if times:
            assert len(times) == math.comb(len(step.rows), 2)  # each pair at least once
            for kind in (True, False):
                often = {
                    times[frozenset(pair)]
                    for pair, positive in zip(pairs_of(step), step.positive.tolist(), strict=True)
                    if positive is kind
                }
                assert max(often) - min(often) <= 1  # and none more than once more than another
    for told in (PairSettings("undersampling"), PairSettings("unique")):
        for step in steps_of(plan_of(targets, told, texts=texts, seed=seed)):
            assert len(set(map(frozenset, pairs_of(step)))) == len(step.positive)  # none twice


@settings(max_examples=100, deadline=None)
@given(targets=codes, texts=st.integers(2, 70), seed=seeds, epoch=st.integers(0, 3))
def test_a_pass_deals_each_text_once_and_spreads_classes(
    targets: list[int], texts: int, seed: int, epoch: int
) -> None:
    plan = plan_of(targets, texts=texts, seed=seed)
    dealt = plan.deal(epoch)
    assert sorted(itertools.chain(*(rows.tolist() for rows in dealt))) == list(range(len(targets)))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
    share = np.bincount(targets, minlength=5) / len(dealt)
    for rows in dealt:
        assert (abs(np.bincount(np.array(targets)[rows], minlength=5) - share) <= 4).all()


@settings(max_examples=50, deadline=None)
@given(targets=codes, told=how, texts=st.integers(2, 40), seed=seeds)
def test_steps_depend_on_seed_and_pass_alone(
    targets: list[int], told: PairSettings, texts: int, seed: int
) -> None:
    first, second = (plan_of(targets, told, texts=texts, seed=seed) for _ in range(2))
    for epoch, place in reversed(list(itertools.product(range(2), range(first.steps)))):
        one = first.step(epoch, place)
        other = steps_of(second, epoch)[place]
        for name in ("rows", "first", "second", "positive"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_passes_and_seeds_differ() -> None:
    targets = np.arange(64) % 4
    dealt = {tuple(plan_of(targets, seed=seed).deal(epoch)[0].tolist()) for seed in (0, 1) for epoch in (0, 1)}
    assert len(dealt) == 4


def test_many_classes_have_positive_pairs_in_each_step() -> None:
    """77 classes of 4 in steps of 32: dealt row by row, a step would hold each class once."""
    plan = plan_of(np.arange(308) % 77)
    assert all(step.positive.any() for step in steps_of(plan))


# -------------------------------------------------------------------------------------------- several labels


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_rows_are_alike_that_share_a_label(data: st.DataObject) -> None:
    rows, labels = data.draw(st.integers(2, 30)), data.draw(st.integers(1, 4))
    bits = data.draw(st.lists(st.booleans(), min_size=rows * labels, max_size=rows * labels))
    targets, told = np.array(bits).reshape(rows, labels), data.draw(how)
    plan = plan_of(targets, told, texts=data.draw(st.integers(2, 40)))
    assert plan.count(2) == counted(plan, 2)
    assert plan.has_positive == any(alike(targets, *pair) for pair in itertools.combinations(range(rows), 2))
    for step in steps_of(plan):
        for (one, other), positive in zip(pairs_of(step), step.positive.tolist(), strict=True):
            assert one != other
            assert positive == alike(targets, one, other)


def test_rows_without_a_label_are_unlike_all() -> None:
    step = plan_of(np.array([[True], [True], [False], [False]]), PairSettings("unique")).step(0, 0)
    said = dict(zip(map(frozenset, pairs_of(step)), step.positive.tolist(), strict=True))
    assert said == {frozenset(pair): pair == (0, 1) for pair in itertools.combinations(range(4), 2)}


# --------------------------------------------------------------------------------------------- odd texts


@settings(max_examples=80, deadline=None)
@given(inputs=st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=40), told=how, seed=seeds)
def test_no_text_meets_its_duplicate(inputs: list[str], told: PairSettings, seed: int) -> None:
    targets = np.array([ord(text) % 2 for text in inputs])
    if len(set(inputs)) < 2:
        with pytest.raises(DataError, match="all texts are equal"):
            plan_of(targets, told, inputs=inputs)
        return
    plan = plan_of(targets, told, seed=seed, inputs=inputs)
    assert sorted(inputs[row] for row in plan.rows) == sorted(set(inputs))
    for step in steps_of(plan):
        assert all(inputs[one] != inputs[other] for one, other in pairs_of(step))


def test_texts_of_two_labels_are_in_no_pair() -> None:
    plan = plan_of([0, 0, 1, 0, 1, 1], inputs=["a", "b", "a", "c", "d", "e"])
    assert plan.rows.tolist() == [1, 3, 4, 5]
    assert plan.notes == ["1 text that has more than one label is in no pair"]
    with pytest.raises(DataError, match="more than one label"):
        plan_of([0, 1, 0], inputs=["a", "a", "b"])


def test_inputs_may_be_pairs_of_texts() -> None:
    plan = plan_of([0, 1, 0], inputs=[("a", "b"), ("b", "a"), ("a", "b")])
    assert plan.rows.tolist() == [0, 1]


def test_one_text_a_class_leaves_nothing_to_tune_by() -> None:
    plan = plan_of([0, 1, 2])
    assert not plan.has_positive
    assert plan.count(4).pairs == 0
    assert "no two texts have a label in common" in plan.notes[0]


def test_a_class_of_one_text_is_said() -> None:
    plan = plan_of([0, 0, 1])
    assert plan.has_positive
    assert plan.notes == ["1 class has one text, which is in negative pairs alone"]
    assert plan.count(1) == PairCounts(2, 2, 3, 1)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"strategy": "all"}, "allowed: oversampling, undersampling, unique"),
        ({"iterations": 0}, "whole number from 1 up"),
        ({"iterations": True}, "whole number from 1 up"),
        ({"iterations": 1.5}, "whole number from 1 up"),
    ],
)
def test_wrong_settings_are_refused(given_: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PairSettings(**given_)


# ----------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("told", [PairSettings(), PairSettings(iterations=20)])
def test_memory_follows_texts_and_not_pairs(told: PairSettings) -> None:
    """100,000 texts have 5,000,000,000 pairs; 500 MB are allowed, and ten times the texts cost ten times."""
    peaks = []
    for count in (10_000, 100_000):
        inputs, targets = names(count), np.arange(count) % 3
        tracemalloc.start()
        plan = plan_of(targets, told, inputs=inputs)
        plan.count(0.02)
        plan.step(0, plan.steps - 1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 100e6
    assert peaks[1] < 15 * peaks[0]
