"""Intervals over rows and runs have the widths that theory gives them; Holm's correction is the step-down one."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from embedkit.errors import DataError, UsageError
from embedkit.metrics import paired_difference, repeated
from embedkit.metrics.repeated import SCORES, Repeated, holm, row_patterns
from embedkit.metrics.spans import entity_scores, sentence_patterns

Codes = npt.NDArray[np.int64]


def patterns(right: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """What rows count for that are right or wrong."""
    return row_patterns(np.ones(len(np.asarray(right)), np.int64), np.asarray(right, np.int64), 2, "accuracy")


def answers(rng: np.random.Generator, true: Codes, share: float, classes: int = 3) -> Codes:
    """Answers of which about a share is right."""
    return np.where(rng.random(len(true)) < share, true, (true + rng.integers(1, classes, len(true))) % classes)


@pytest.fixture
def true() -> Codes:
    return np.random.default_rng(1).integers(0, 3, 400)


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("right", [True, False])
def test_what_never_differs_has_the_exact_interval(right: bool, runs: int) -> None:
    """No resample of rows that are all right is ever wrong; 100 rows still leave 3.6 % open."""
    tables = {number: patterns([right] * 100) for number in range(runs)}
    low, high = Repeated.of({"a": tables}, SCORES["accuracy"]).interval("a")
    bound = 0.025 ** (1 / 100)
    assert (low, high) == (pytest.approx(bound), 1.0) if right else (0.0, pytest.approx(1 - bound))


class TestOneRun:
    def test_an_interval_has_the_width_of_the_normal_one(self) -> None:
        right = np.arange(2000) < 1600
        found = Repeated.of({"a": {0: patterns(right)}}, SCORES["accuracy"], resamples=4000)
        low, high = found.interval("a")
        half = 1.96 * math.sqrt(0.8 * 0.2 / 2000)
        assert found.mean("a") == 0.8
        assert (high - low) / 2 == pytest.approx(half, rel=0.05)
        assert (high + low) / 2 == pytest.approx(0.8, abs=0.002)

    @pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
    def test_a_difference_is_that_of_the_paired_bootstrap(self, true: Codes, metric: str) -> None:
        rng = np.random.default_rng(2)
        first, second = answers(rng, true, 0.8), answers(rng, true, 0.7)
        runs = {name: {7: row_patterns(true, given, 3, metric)} for name, given in (("a", first), ("b", second))}
        found = Repeated.of(runs, SCORES[metric], resamples=4000).paired("a", "b")
        wanted = paired_difference(true, first, second, 3, metric, resamples=4000, seed=3)
        assert found.difference == pytest.approx(wanted["difference"])
        assert (found.low, found.high) == pytest.approx(wanted["ci95"], abs=0.004)
        assert (found.runs, found.row_share) == (1, 1.0)

    def test_the_score_is_scikit_learns(self, true: Codes) -> None:
        given_codes = answers(np.random.default_rng(5), true, 0.6)
        found = Repeated.of({"a": {0: row_patterns(true, given_codes, 3, "macro_f1")}}, SCORES["macro_f1"])
        assert found.mean("a") == pytest.approx(f1_score(true, given_codes, average="macro"))

    def test_sets_of_labels_are_right_as_a_whole(self) -> None:
        wanted = np.array([[True, False], [True, True], [False, False], [True, False]])
        given_sets = np.array([[True, False], [True, False], [False, False], [True, True]])
        found = Repeated.of({"a": {0: row_patterns(wanted, given_sets, 2, "accuracy")}}, SCORES["accuracy"])
        assert found.mean("a") == 0.5

    def test_entities_are_counted_by_sentence(self) -> None:
        wanted = [["B-PER", "O"], ["B-LOC", "I-LOC", "O"], []]
        tagged: list[list[str | None]] = [["B-PER", None], ["B-LOC", "O", "B-PER"], []]
        sums = sentence_patterns(wanted, tagged, spans=True)
        found = Repeated.of({"a": {0: sums}}, SCORES["f1"])
        plain = [[tag or "O" for tag in some] for some in tagged]
        assert found.mean("a") == pytest.approx(entity_scores(wanted, plain)["f1"])

    def test_words_are_counted_by_sentence(self) -> None:
        sums = sentence_patterns([["N", "V"], ["N"]], [["N", "N"], [None]], spans=False)
        assert sums.tolist() == [[1, 2], [0, 1]]
        assert Repeated.of({"a": {0: sums}}, SCORES["accuracy"]).mean("a") == pytest.approx(1 / 3)

    def test_resamples_of_sentences_without_words_have_a_score(self) -> None:
        sums = sentence_patterns([["N"], []], [["N"], []], spans=False)
        assert Repeated.of({"a": {0: sums}}, SCORES["accuracy"]).interval("a") == (0.0, 1.0)


class TestSeveralRuns:
    def test_runs_vary_as_much_as_they_have_shown(self) -> None:
        """Rows that are all alike leave the runs alone: the variance of their mean is s² / S."""
        runs = {
            "a": {seed: patterns([seed % 2] * 50) for seed in range(4)},
            "b": {s: patterns([0] * 50) for s in range(4)},
        }
        found = Repeated.of(runs, SCORES["accuracy"], resamples=20000)
        paired = found.paired("a", "b")
        drawn = found._mean_of(found.drawn["a"], (0, 1, 2, 3))
        assert float(np.var(drawn)) == pytest.approx(np.var([0, 1, 0, 1], ddof=1) / 4, rel=0.05)
        assert (paired.difference, paired.row_share, paired.runs) == (0.5, 0.0, 4)

    def test_an_interval_of_few_runs_stays_within_the_scale(self) -> None:
        runs = {"a": {1: patterns([1] * 100), 2: patterns([1] * 80 + [0] * 20)}}
        found = Repeated.of(runs, SCORES["accuracy"])
        assert float(found._mean_of(found.drawn["a"], (1, 2)).max()) > 1
        assert found.interval("a")[1] == 1.0

    def test_runs_that_agree_add_nothing(self, true: Codes) -> None:
        rng = np.random.default_rng(4)
        first, second = answers(rng, true, 0.8), answers(rng, true, 0.7)
        one = {
            "a": {0: row_patterns(true, first, 3, "accuracy")},
            "b": {0: row_patterns(true, second, 3, "accuracy")},
        }
        three = {name: dict.fromkeys(range(3), table[0]) for name, table in one.items()}
        alone, thrice = (Repeated.of(runs, SCORES["accuracy"]).paired("a", "b") for runs in (one, three))
        assert thrice.row_share == 1.0
        assert (thrice.low, thrice.high) == pytest.approx((alone.low, alone.high))

    def test_runs_of_one_number_are_compared(self, true: Codes) -> None:
        rng = np.random.default_rng(6)
        runs = {
            "a": {seed: row_patterns(true, answers(rng, true, 0.8), 3, "accuracy") for seed in (1, 2, 3)},
            "b": {seed: row_patterns(true, answers(rng, true, 0.7), 3, "accuracy") for seed in (2, 3, 4)},
        }
        found = Repeated.of(runs, SCORES["accuracy"])
        paired = found.paired("a", "b")
        wanted = np.mean([found.observed["a"][seed] - found.observed["b"][seed] for seed in (2, 3)])
        assert paired.runs == 2
        assert paired.difference == pytest.approx(float(wanted))

    def test_none_in_common_cannot_be_compared(self) -> None:
        runs = {"a": {1: patterns([1, 0])}, "b": {2: patterns([1, 1])}}
        with pytest.raises(DataError, match="no run in common"):
            Repeated.of(runs, SCORES["accuracy"]).paired("a", "b")

    def test_what_is_hard_for_both_cancels(self) -> None:
        rng = np.random.default_rng(8)
        base = rng.random(500) < 0.7
        better = base | (rng.random(500) < 0.05)
        found = Repeated.of({"a": {0: patterns(better)}, "b": {0: patterns(base)}}, SCORES["accuracy"])
        paired, alone = found.paired("a", "b"), found.interval("a")
        assert paired.high - paired.low < 0.6 * (alone[1] - alone[0])

    def test_the_interval_covers_as_often_as_it_says(self) -> None:
        """Two methods that are equally good, over samples and rows anew: about 95 of 100 intervals hold 0."""
        rng = np.random.default_rng(9)
        covered = 0
        for _ in range(200):
            hard = rng.random(150)  # what a row asks of both
            runs = {
                name: {
                    seed: patterns(hard + 0.2 * rng.normal(size=150) < 0.7 + 0.03 * rng.normal())
                    for seed in range(6)
                }
                for name in ("a", "b")
            }
            paired = Repeated.of(runs, SCORES["accuracy"], resamples=400).paired("a", "b")
            covered += paired.low <= 0 <= paired.high
        assert 176 <= covered <= 199

    def test_equal_methods_differ_by_nothing(self, true: Codes) -> None:
        table = row_patterns(true, answers(np.random.default_rng(3), true, 0.7), 3, "macro_f1")
        paired = Repeated.of({"a": {0: table}, "b": {0: table}}, SCORES["macro_f1"]).paired("a", "b")
        assert (paired.difference, paired.p_value, paired.alike) == (0.0, 1.0, True)
        unseen = 1 - 0.025 ** (1 / len(true))  # the share that may differ although none of so many rows did
        assert (paired.low, paired.high) == pytest.approx((-unseen, unseen))

    def test_parts_in_memory_do_not_show(self, true: Codes, monkeypatch: pytest.MonkeyPatch) -> None:
        rng = np.random.default_rng(11)
        runs = {
            name: {seed: row_patterns(true, answers(rng, true, 0.7), 3, "macro_f1") for seed in range(2)}
            for name in ("a", "b", "c")
        }
        whole = Repeated.of(runs, SCORES["macro_f1"], resamples=100)
        monkeypatch.setattr(repeated, "_TOGETHER", 1)
        parted = Repeated.of(runs, SCORES["macro_f1"], resamples=100)
        for name, other in (("a", "b"), ("b", "c")):
            assert parted.paired(name, other) == whole.paired(name, other)


class TestRefused:
    def test_other_rows(self) -> None:
        with pytest.raises(DataError, match="same rows"):
            Repeated.of({"a": {0: patterns([1, 0])}, "b": {0: patterns([1])}}, SCORES["accuracy"])

    def test_no_resamples(self) -> None:
        with pytest.raises(UsageError, match="resamples"):
            Repeated.of({"a": {0: patterns([1, 0])}}, SCORES["accuracy"], resamples=0)

    def test_an_unknown_metric(self) -> None:
        with pytest.raises(UsageError, match="not by 'f1'"):
            row_patterns([0, 1], [0, 1], 2, "f1")


class TestHolm:
    def test_by_hand(self) -> None:
        assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])

    def test_none_and_one(self) -> None:
        assert holm([]) == []
        assert holm([0.2]) == [0.2]

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.sampled_from([0.01, 0.05, 0.2]))
    @settings(max_examples=200, deadline=None)
    def test_it_rejects_what_the_step_down_rejects(self, values: list[float], level: float) -> None:
        corrected = holm(values)
        rejected = set()
        for step, place in enumerate(sorted(range(len(values)), key=lambda place: values[place])):
            if (len(values) - step) * values[place] > level:
                break
            rejected.add(place)
        assert {place for place, value in enumerate(corrected) if value <= level} == rejected
        assert all(value <= other <= 1 for value, other in zip(values, corrected, strict=True))
