"""What finished cells come to: means with intervals, and the differences between methods."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from embedkit.evaluation.compare.cells import Kept, Truth
from embedkit.evaluation.compare.result import Cell, Difference, Point, Size
from embedkit.metrics.repeated import SCORES, Repeated, holm

# The least p-value is 2 / (resamples + 1), which Holm multiplies by the pairs: so it stays below 0.02.
_RESAMPLES_A_PAIR = 100


def repeated_of(
    kept: Sequence[Kept], truth: Truth, metric: str, *, resamples: int
) -> Repeated[tuple[str, str]] | None:
    """Return the runs of all methods at all sizes, to be resampled alike; None where no cell is finished.

    Parameters
    ----------
    kept : sequence of Kept
        In the order of methods, sizes and seeds, whenever they were run: the order tells ties apart.
    truth : Truth
    metric : str
    resamples : int
        At least; 100 for each pair of methods at a size where that is more.
    """
    runs = dict[tuple[str, str], dict[int, Any]]()
    for one in kept:
        cell = one.cell
        runs.setdefault((cell.method, cell.size), {})[cell.seed] = truth.patterns(one.answers, metric)
    if not runs:
        return None
    most = max(Counter(size for _, size in runs).values())
    least = _RESAMPLES_A_PAIR * most * (most - 1) // 2
    return Repeated.of(runs, SCORES[metric], resamples=max(resamples, least))


def points_of(kept: Sequence[Kept], repeated: Repeated[tuple[str, str]], f1: str) -> list[Point]:
    """Return the means of each method at each size, by `f1` the one F1 that cells have."""
    cells = dict[tuple[str, str], list[Cell]]()
    for one in kept:
        cells.setdefault((one.cell.method, one.cell.size), []).append(one.cell)
    return [_point(key, some, repeated, f1) for key, some in cells.items()]


def _point(key: tuple[str, str], cells: Sequence[Cell], repeated: Repeated[tuple[str, str]], f1: str) -> Point:
    accuracy, other = (sum(cell.scores[name] for cell in cells) / len(cells) for name in ("accuracy", f1))
    seconds = sum(cell.train_seconds or 0.0 for cell in cells) / len(cells)
    # What the allocator kept of earlier cells only adds to the memory of a later one.
    peak = min((cell.peak_mb for cell in cells if cell.peak_mb is not None), default=None)
    method, size = key
    low, high = repeated.interval(key)
    return Point(method, size, len(cells), repeated.mean(key), low, high, accuracy, other, seconds, peak)


def differences_of(repeated: Repeated[tuple[str, str]], sizes: Sequence[Size]) -> list[Difference]:
    """Return what methods differ by at each size, on the seeds that both have; p-values are Holm's."""
    found = []
    for size in sizes:
        here = [method for method, name in repeated.observed if name == size.name]
        pairs = [
            (first, second)
            for place, first in enumerate(here)
            for second in here[place + 1 :]
            if set(repeated.observed[first, size.name]) & set(repeated.observed[second, size.name])
        ]
        paired = [repeated.paired((first, size.name), (second, size.name)) for first, second in pairs]
        for (first, second), pair, corrected in zip(pairs, paired, holm([p.p_value for p in paired]), strict=True):
            figures = (pair.difference, pair.low, pair.high, pair.p_value, corrected)
            found.append(Difference(size.name, first, second, pair.runs, *figures))
    return found
