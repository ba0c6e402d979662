"""The rule that advises a method, on tables whose answer is known."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedkit.errors import DataError, UsageError
from embedkit.metrics.choice import SAME_COST, Choice, Cost, Standing, cheapest, choose, crossing, rows_needed


def standing(
    method: str,
    score: float,
    interval: tuple[float, float] | None = None,
    *,
    serve: float | None = 1.0,
    train: float | None = 1.0,
    row_share: float = 1.0,
    best: float = 0.9,
) -> Standing:
    low, high = interval or (0.0, 0.0)
    return Standing(method, score, score - best if interval else 0.0, low, high, row_share, serve, train)


BEST = standing("tuned", 0.9, serve=5.0, train=300.0)


@pytest.mark.parametrize(("rows", "margin"), [(20, 0.01), (300, 0.01), (5, 0.2)])
def test_rows_that_tell_two_equal_methods_apart(rows: int, margin: float) -> None:
    def unseen(count: int) -> float:
        return 1 - 0.025 ** (1 / count)

    told = Standing("words", 0.9, 0.0, -unseen(rows), unseen(rows), alike=True)
    more = rows_needed(told, rows=rows, margin=margin)
    assert more is not None
    assert unseen(rows + more) < margin <= unseen(rows + more - 1)
    assert rows_needed(told, rows=rows, margin=0.0) is None


class TestChoose:
    def test_the_cheapest_that_is_good_enough(self) -> None:
        table = [
            standing("words", 0.80, (-0.12, -0.08), serve=0.1),
            standing("frozen", 0.895, (-0.009, -0.001), serve=4.0, train=3.0),
            BEST,
        ]
        assert choose(table, rows=1000) == Choice("frozen", "tuned", ("frozen", "tuned"), {})

    def test_the_end_of_the_interval_counts_not_the_score(self) -> None:
        """A point estimate within the margin is no proof."""
        table = [standing("frozen", 0.895, (-0.011, 0.001), serve=4.0), BEST]
        found = choose(table, rows=1000)
        assert (found.pick, found.good) == ("tuned", ("tuned",))
        assert set(found.undecided) == {"frozen"}

    def test_one_that_is_ruled_out_is_not_undecided(self) -> None:
        table = [standing("words", 0.88, (-0.03, -0.0101), serve=0.1), BEST]
        assert choose(table, rows=1000).undecided == {}

    def test_a_dearer_one_that_is_open_is_of_no_interest(self) -> None:
        table = [BEST, standing("dear", 0.895, (-0.02, 0.01), serve=50.0)]
        assert choose(table, rows=1000) == Choice("tuned", "tuned", ("tuned",), {})

    def test_a_wider_margin_takes_what_is_cheaper(self) -> None:
        table = [standing("words", 0.88, (-0.03, -0.01), serve=0.1), BEST]
        assert choose(table, rows=1000, margin=0.01).pick == "tuned"
        assert choose(table, rows=1000, margin=0.031).pick == "words"

    @pytest.mark.parametrize(("cost", "pick"), [("serve", "small"), ("train", "quick")])
    def test_the_cost_decides(self, cost: Cost, pick: str) -> None:
        table = [
            standing("small", 0.9, (-0.005, 0.005), serve=1.0, train=100.0),
            standing("quick", 0.9, (-0.005, 0.005), serve=4.0, train=1.0),
            BEST,
        ]
        assert choose(table, rows=1000, cost=cost).pick == pick

    def test_costs_that_no_measurement_tells_apart_are_equal(self) -> None:
        """Two methods with one encoder are served alike: then the quicker to train is cheaper."""
        table = [
            standing("tuned", 0.9, serve=4.00, train=300.0),
            standing("frozen", 0.899, (-0.004, 0.002), serve=4.30, train=2.0),
        ]
        assert choose(table, rows=1000).pick == "frozen"

    def test_where_all_costs_are_equal_the_score_decides(self) -> None:
        table = [standing("a", 0.895, (-0.008, 0.001)), standing("b", 0.9), standing("c", 0.899, (-0.004, 0.002))]
        assert choose(table, rows=1000).pick == "b"

    def test_an_unknown_cost_is_the_highest(self) -> None:
        table = [standing("tuned", 0.9, serve=5.0), standing("x", 0.9, (-0.005, 0.005), serve=None, train=0.1)]
        assert choose(table, rows=1000).pick == "tuned"
        unknown = [standing("tuned", 0.9, serve=None, train=9.0), standing("x", 0.9, (-0.005, 0.005), serve=None)]
        assert choose(unknown, rows=1000).pick == "x"

    def test_one_method_is_advised(self) -> None:
        assert choose([BEST], rows=10) == Choice("tuned", "tuned", ("tuned",), {})

    def test_none_is_refused(self) -> None:
        with pytest.raises(DataError, match="no method"):
            choose([], rows=10)

    @pytest.mark.parametrize("margin", [-0.01, 1.0, float("nan")])
    def test_a_margin_that_is_none_is_refused(self, margin: float) -> None:
        with pytest.raises(UsageError, match="margin"):
            choose([BEST], rows=10, margin=margin)

    def test_a_cost_that_is_none_is_refused(self) -> None:
        with pytest.raises(UsageError, match="allowed: serve, train"):
            choose([BEST], rows=10, cost="money")  # type: ignore[arg-type]

    @given(
        st.lists(
            st.tuples(st.floats(-0.1, 0), st.floats(0.0001, 0.05), st.floats(0.1, 10), st.floats(0.1, 10)),
            min_size=1,
            max_size=6,
        ),
        st.floats(0, 0.05),
    )
    @settings(max_examples=200, deadline=None)
    def test_what_is_picked_is_good_and_none_that_is_good_is_cheaper(
        self, drawn: list[tuple[float, float, float, float]], margin: float
    ) -> None:
        table = [standing("best", 0.9, serve=5.0)] + [
            Standing(f"m{place}", 0.9 + d, d, d - half, d + half, 1.0, serve, train)
            for place, (d, half, serve, train) in enumerate(drawn)
            if d < 0
        ]
        found = choose(table, rows=100, margin=margin)
        by_name = {entry.method: entry for entry in table}
        assert found.pick in found.good
        assert all(name == "best" or by_name[name].low > -margin for name in found.good)
        lowest = min(by_name[name].serve or math.inf for name in found.good)
        assert (by_name[found.pick].serve or math.inf) <= SAME_COST * lowest
        assert not set(found.undecided) & set(found.good)
        assert all(more is None or more > 0 for more in found.undecided.values())


class TestCheapest:
    def test_closeness_is_to_the_lowest_not_from_one_to_the_next(self) -> None:
        chain = [standing(name, 0.5, serve=cost, train=train) for name, cost, train in
                 (("a", 1.00, 3.0), ("b", 1.20, 2.0), ("c", 1.40, 1.0))]  # fmt: skip
        assert cheapest(chain, "serve").method == "b"


class TestRowsNeeded:
    def test_four_times_the_rows_halve_the_interval(self) -> None:
        """±0.02 around -0.001 at 1,000 rows: -margin is 0.009 away, so (20 / 9)² times the rows are needed."""
        found = rows_needed(Standing("x", 0.0, -0.001, -0.021, 0.019), rows=1000)
        assert found == pytest.approx(1000 * (20 / 9) ** 2 - 1000, abs=1)

    def test_with_so_many_rows_the_interval_just_excludes_the_margin(self) -> None:
        more = rows_needed(Standing("x", 0.0, -0.001, -0.021, 0.019), rows=1000)
        assert more is not None
        half = 0.02 * math.sqrt(1000 / (1000 + more))
        assert -0.001 - half > -0.01 > -0.001 - 0.02 * math.sqrt(1000 / (1000 + more - 2))

    def test_below_the_margin_it_is_the_other_end(self) -> None:
        found = rows_needed(Standing("x", 0.0, -0.02, -0.04, 0.0), rows=100)
        assert found == pytest.approx(100 * (0.02 / 0.01) ** 2 - 100, abs=1)

    def test_rows_alone_cannot_where_runs_differ_too_much(self) -> None:
        assert rows_needed(Standing("x", 0.0, -0.001, -0.021, 0.019, row_share=0.1), rows=1000) is None
        assert rows_needed(Standing("x", 0.0, -0.001, -0.021, 0.019, row_share=0.0), rows=1000) is None

    def test_runs_that_differ_cost_rows(self) -> None:
        alone = rows_needed(Standing("x", 0.0, -0.001, -0.012, 0.01), rows=1000)
        shared = rows_needed(Standing("x", 0.0, -0.001, -0.012, 0.01, row_share=0.5), rows=1000)
        assert alone is not None
        assert shared is not None
        assert shared > alone

    def test_on_the_margin_itself_nothing_tells(self) -> None:
        assert rows_needed(Standing("x", 0.0, -0.01, -0.03, 0.01), rows=1000) is None

    def test_more_rows_than_can_be_counted_are_none(self) -> None:
        assert rows_needed(Standing("x", 0.0, -2.8e-191, -0.03, 1.0), rows=1000, margin=2.2e-163) is None

    @pytest.mark.parametrize("interval", [(-0.009, 0.0), (-0.05, -0.02)])
    def test_what_is_decided_needs_none(self, interval: tuple[float, float]) -> None:
        assert rows_needed(Standing("x", 0.0, sum(interval) / 2, *interval), rows=1000) == 0


class TestCrossing:
    def test_on_a_logarithm(self) -> None:
        assert crossing((10, 1000), (0.6, 0.6), (0.5, 0.7)) == pytest.approx(100)

    def test_nearer_to_where_they_are_closer(self) -> None:
        assert crossing((8, 128), (0.70, 0.70), (0.69, 0.73)) == pytest.approx(8 * 16**0.25)

    @pytest.mark.parametrize(
        ("first", "second"),
        [((0.6, 0.7), (0.5, 0.6)), ((0.6, 0.6), (0.6, 0.7)), (None, (0.5, 0.6)), ((0.5, 0.6), None)],
    )
    def test_none_where_they_do_not(
        self, first: tuple[float, float] | None, second: tuple[float, float] | None
    ) -> None:
        assert crossing((8, 128), first, second) is None
