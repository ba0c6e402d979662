"""Methods that were run several times and judged on the same rows: intervals over rows and runs, and of pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from embedkit.errors import DataError, UsageError
from embedkit.metrics.counts import Bools, Floats, check_codes, check_sets, f1_counts, macro_f1, micro_f1, ratio
from embedkit.metrics.intervals import (
    bootstrap,
    check_resamples,
    clopper_pearson,
    difference_interval,
    percentiles,
)

K = TypeVar("K", bound=Hashable)
Patterns = npt.NDArray[np.integer[Any]]
Score = Callable[[Floats], Floats]
"""From sums (R, S) of what rows count for to scores (R,), each from 0 to 1."""
_TOGETHER = 2**25  # cells of runs' patterns side by side: 256 MB where they are summed up, in float64


def share(sums: Floats) -> Floats:
    """Return the share of right rows, (R,), from sums (R, 2) of `row_patterns`; 0 of sentences without words."""
    return ratio(sums[:, 0], sums[:, 1])


SCORES: Mapping[str, Score] = {"accuracy": share, "macro_f1": macro_f1, "f1": micro_f1}


def row_patterns(true: npt.ArrayLike, predicted: npt.ArrayLike, n_classes: int, metric: str) -> Patterns:
    """Return what each row counts for in a metric.

    Parameters
    ----------
    true, predicted : array-like, shape (n,) of int, or (n, C) of bool
        Class codes, or for several labels a row whether the row has each; then a row is right as a whole.
    n_classes : int
    metric : {"accuracy", "macro_f1"}

    Returns
    -------
    ndarray of uint8, shape (n, 2) or (n, 2 C)
        For `SCORES` of the metric.

    Raises
    ------
    DataError
        There are no rows, or shapes, dtypes or codes are wrong.
    UsageError
        There is no such metric.
    """
    if metric not in ("accuracy", "macro_f1"):
        raise UsageError(f"rows are judged by accuracy or macro_f1, not by {metric!r}")
    given = {"true": true, "predicted": predicted}
    if np.asarray(true).dtype == np.bool_:
        wanted, found = check_sets(given, n_classes)
    else:
        wanted, found = (np.eye(n_classes, dtype=np.bool_)[codes] for codes in check_codes(given, n_classes))
    if metric == "macro_f1":
        return f1_counts(wanted, found)
    right: Bools = (wanted == found).all(axis=1)
    return np.column_stack([right, np.ones_like(right)]).astype(np.uint8)


@dataclass(frozen=True)
class Paired:
    """The difference of two methods: first minus second.

    Attributes
    ----------
    difference, low, high : float
        Of the mean scores of the runs that both have, with its 95 % interval.
    p_value : float
        Two-sided: twice the share of resamples on the other side of 0, both counts raised by one.
    runs : int
        That both have.
    row_share : float
        Part of the difference's variance that comes of the choice of rows, 0 to 1; the rest is of the runs.
    alike : bool
        Whether no row and no run tells the two apart otherwise than any other, so that no resample differs.
    """

    difference: float
    low: float
    high: float
    p_value: float
    runs: int
    row_share: float
    alike: bool = False


@dataclass(frozen=True, eq=False)
class Repeated(Generic[K]):
    """Scores of methods in resampled rows, one for each run.

    Rows and runs are both resampled (Owen, 2007, for such crossed samples). All methods share the rows of a
    resample, and its runs where these have the same number, so what makes a row or a sample hard for all of them
    cancels in a difference. Drawing S runs with replacement shows only (S - 1) / S of how runs vary, so their
    weights are stretched by the root of S / (S - 1) (Rao and Wu, 1988). One run says nothing of others: then rows
    alone vary. Two or three say little, and an interval cannot be wider than what they have shown.

    Attributes
    ----------
    observed : dict of K to dict of int to float
        The score of each run.
    drawn : dict of K to dict of int to ndarray of float64, shape (resamples,)
        Its scores in resampled rows.
    rows : int
        That all runs were judged on.
    seed : int
        Of the resampled runs.
    """

    observed: Mapping[K, Mapping[int, float]]
    drawn: Mapping[K, Mapping[int, Floats]]
    rows: int
    seed: int
    _weights: dict[tuple[int, ...], Floats] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        runs: Mapping[K, Mapping[int, Patterns]],
        score: Score,
        *,
        resamples: int = 2000,
        seed: int = 42,
    ) -> Repeated[K]:
        """Resample the rows of all runs at once.

        Parameters
        ----------
        runs : mapping of method to mapping of run to ndarray of integers, shape (n, S)
            What each judged row counts for in a run of a method: the same n rows, in the same order. Runs of
            methods belong together where they have the same number (a seed).
        score : callable
            From sums (R, S) to scores (R,), such as one of `SCORES`.
        resamples : int, default 2000
        seed : int, default 42

        Raises
        ------
        DataError
            There are no rows, or runs have different rows.
        UsageError
            There are no resamples.
        """
        check_resamples(resamples)
        every = [(key, number, table) for key, found in runs.items() for number, table in found.items()]
        sizes = {len(table) for *_, table in every}
        if len(sizes) != 1 or 0 in sizes:
            raise DataError(f"runs are compared on the same rows, at least one; given are {sorted(sizes)} rows")
        (rows,) = sizes
        observed: dict[K, dict[int, float]] = {key: {} for key in runs}
        drawn: dict[K, dict[int, Floats]] = {key: {} for key in runs}
        for key, number, table in every:
            observed[key][number] = float(score(table.sum(axis=0, dtype=np.float64)[None])[0])
        # All parts begin with the same seed, and so draw the same rows.
        for part in _parts(every, rows):
            columns = _bootstrap([table for *_, table in part], score, resamples, seed)
            for (key, number, _), column in zip(part, columns.T, strict=True):
                drawn[key][number] = column
        return cls(observed, drawn, rows, seed)

    def mean(self, method: K) -> float:
        """Return the mean score of a method's runs."""
        return float(np.mean(list(self.observed[method].values())))

    def interval(self, method: K) -> tuple[float, float]:
        """Return the 95 % interval of `mean`, within 0 to 1, which stretched weights may leave.

        Where all rows are right in all runs, or none in any, no resample differs; then it is the exact one of so
        many rows (Clopper and Pearson, 1934).
        """
        means = self._mean_of(self.drawn[method], tuple(sorted(self.observed[method])))
        if (mean := self.mean(method)) in (0.0, 1.0) and np.allclose(means, mean):
            return clopper_pearson(round(mean * self.rows), self.rows)
        return percentiles(np.clip(means, 0.0, 1.0))

    def paired(self, first: K, second: K) -> Paired:
        """Compare two methods by the runs that both have.

        The interval is that of `embedkit.metrics.intervals.difference_interval`.

        Raises
        ------
        DataError
            They have no run in common.
        """
        numbers = tuple(sorted(set(self.observed[first]) & set(self.observed[second])))
        if not numbers:
            raise DataError(f"{first} and {second} have no run in common, so they cannot be compared")
        apart = np.array([self.observed[first][n] - self.observed[second][n] for n in numbers])
        drawn = {n: self.drawn[first][n] - self.drawn[second][n] for n in numbers}
        both = self._mean_of(drawn, numbers)
        (low, high), alike = difference_interval(both, self.rows)
        beyond = 1 + min(int((both <= 0).sum()), int((both >= 0).sum()))
        of_rows = float(np.var(np.mean([drawn[n] for n in numbers], axis=0)))
        of_runs = float(np.var(apart, ddof=1)) / len(numbers) if len(numbers) > 1 else 0.0
        total = of_rows + of_runs
        return Paired(
            float(apart.mean()),
            low,
            high,
            min(1.0, 2 * beyond / (len(both) + 1)),
            len(numbers),
            of_rows / total if total > 0 else 1.0,
            alike,
        )

    def _mean_of(self, drawn: Mapping[int, Floats], numbers: tuple[int, ...]) -> Floats:
        columns = np.column_stack([drawn[number] for number in numbers])
        means: Floats = (columns * self._runs(numbers, len(columns))).sum(axis=1)
        return means

    def _runs(self, numbers: tuple[int, ...], resamples: int) -> Floats:
        """Return the weights of resampled runs, (resamples, S); the same whenever the same runs are asked for."""
        if numbers not in self._weights:
            count = len(numbers)
            rng = np.random.default_rng([self.seed, *numbers])
            times = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
            stretched = math.sqrt(count / (count - 1)) if count > 1 else 1.0
            self._weights[numbers] = 1 / count + stretched * (times / count - 1 / count)
        return self._weights[numbers]


def _parts(every: Sequence[tuple[K, int, Patterns]], rows: int) -> list[list[tuple[K, int, Patterns]]]:
    """Part the runs so that the tables of each part lie side by side in memory."""
    parts: list[list[tuple[K, int, Patterns]]] = [[]]
    width = 0
    for entry in every:
        width += entry[2].shape[1]
        if parts[-1] and width * rows > _TOGETHER:
            parts.append([])
            width = entry[2].shape[1]
        parts[-1].append(entry)
    return parts


def _bootstrap(tables: Sequence[Patterns], score: Score, resamples: int, seed: int) -> Floats:
    """Return the scores of tables (n, S each) in the same resampled rows, (resamples, tables)."""
    ends = np.cumsum([table.shape[1] for table in tables])

    def each(sums: Floats) -> Floats:
        return np.column_stack([score(part) for part in np.split(sums, ends[:-1], axis=1)])

    joined = np.hstack(tables)
    return bootstrap(joined, np.ones(len(joined), np.int64), each, resamples=resamples, seed=seed)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm, 1979): the chance of any false finding stays at the level.

    Parameters
    ----------
    p_values : sequence of float
        Of one family of tests.

    Returns
    -------
    list of float
        In the same order, at most 1.

    Examples
    --------
    >>> [round(value, 2) for value in holm([0.01, 0.04, 0.03, 0.005])]
    [0.03, 0.06, 0.06, 0.02]
    """
    order = np.argsort(p_values, kind="stable")
    corrected, highest = [0.0] * len(p_values), 0.0
    for place, number in enumerate(order.tolist()):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[number]))
        corrected[number] = highest
    return corrected
