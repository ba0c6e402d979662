"""Which method to take: the cheapest that is good enough, by a rule that says when the data cannot tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from embedkit.errors import DataError, UsageError

Cost: TypeAlias = Literal["serve", "train"]
MARGIN = 0.01
# Costs that differ by no more than this factor count as equal: graphs of one encoder, timed in ten minutes on a
# machine that others use too, have differed by 1.26.
SAME_COST = 1.3


@dataclass(frozen=True)
class Standing:
    """A method beside the best one, on the same rows.

    Attributes
    ----------
    method : str
    score : float
    difference, low, high : float
        Its score minus that of the best, and the 95 % interval; all 0 for the best itself.
    row_share : float
        Part of the difference's variance that more judged rows make smaller, 0 to 1.
    serve, train : float or None
        What it costs, in any unit; None where that is not known.
    alike : bool
        As of `embedkit.metrics.repeated.Paired`: no row has told the two apart.
    """

    method: str
    score: float
    difference: float
    low: float
    high: float
    row_share: float = 1.0
    serve: float | None = None
    train: float | None = None
    alike: bool = False


@dataclass(frozen=True)
class Choice:
    """What the rule says.

    Attributes
    ----------
    pick, best : str
    good : tuple of str
        Those whose interval lies above minus the margin, in the order given.
    undecided : dict of str to (int or None)
        Cheaper ones that are neither good nor ruled out: how many more judged rows would tell, if the difference
        stays as it is; None where rows alone cannot.
    """

    pick: str
    best: str
    good: tuple[str, ...]
    undecided: dict[str, int | None]


def best_of(scores: Mapping[str, float]) -> str:
    """Return the method with the highest score, of equal ones the first.

    Raises
    ------
    DataError
        There are none.
    """
    if not scores:
        raise DataError("no method has a score, so none can be advised")
    return max(scores, key=lambda method: scores[method])


def choose(standings: Sequence[Standing], *, rows: int, margin: float = MARGIN, cost: Cost = "serve") -> Choice:
    """Return the cheapest method whose 95 % interval of (method - best) lies above minus the margin.

    Parameters
    ----------
    standings : sequence of Standing
        At least one; the best has the highest score.
    rows : int
        That all were judged on.
    margin : float, default 0.01
        Loss against the best that is allowed.
    cost : {"serve", "train"}
        What cheap means. Costs within 30 % of the lowest are equal to it; among these the other cost decides
        in the same way, then the score. A cost that is not known is higher than all that are.

    Raises
    ------
    UsageError
        The margin is below 0, or there is no such cost.
    DataError
        There are no standings.
    """
    if not 0 <= margin < 1:
        raise UsageError(f"margin is {margin!r}; it must be a number from 0 to below 1")
    if cost not in ("serve", "train"):
        raise UsageError(f"cost is {cost!r}; allowed: serve, train")
    best = best_of({standing.method: standing.score for standing in standings})
    good = [standing for standing in standings if standing.method == best or standing.low > -margin]
    pick = cheapest(good, cost)
    open_ones = [standing for standing in standings if standing not in good and standing.high > -margin]
    undecided = {
        standing.method: rows_needed(standing, rows=rows, margin=margin)
        for standing in open_ones
        if cheapest([*good, standing], cost) == standing
    }
    return Choice(pick.method, best, tuple(standing.method for standing in good), undecided)


def cheapest(standings: Sequence[Standing], cost: Cost) -> Standing:
    """Return the cheapest as `choose` defines it."""
    left = list(standings)
    for name in (cost, "train" if cost == "serve" else "serve"):
        lowest = min(_known(getattr(standing, name)) for standing in left)
        left = [standing for standing in left if _known(getattr(standing, name)) <= SAME_COST * lowest]
    return max(left, key=lambda standing: standing.score)


def _known(cost: float | None) -> float:
    return math.inf if cost is None else cost


def rows_needed(standing: Standing, *, rows: int, margin: float = MARGIN) -> int | None:
    """Return how many more judged rows would decide about a method, if the difference stays as it is.

    The part of the interval's square that comes of rows falls with their number, that of the runs does not. Of
    methods that no row has told apart the share of rows that may still differ is as of `clopper_pearson`.

    Returns
    -------
    int or None
        0 where it is decided; None where rows alone cannot decide.
    """
    if standing.low > -margin or standing.high <= -margin:
        return 0
    above = standing.difference > -margin
    if standing.alike:
        return _unlike(abs(standing.difference + margin), rows)
    half = standing.difference - standing.low if above else standing.high - standing.difference
    wanted = (abs(standing.difference + margin) / half) ** 2 - (1 - standing.row_share)
    if wanted <= 0 or standing.row_share <= 0:
        return None
    bound = rows * standing.row_share / wanted
    # One more than the bound, where the end of the interval would lie on the margin itself.
    return max(1, math.floor(bound) + 1 - rows) if math.isfinite(bound) else None


def _unlike(apart: float, rows: int) -> int | None:
    """Return how many more rows that do not differ either would leave less than a share of them unseen."""
    if not 0 < apart < 1:
        return None
    return max(1, math.floor(math.log(0.025) / math.log1p(-apart)) + 1 - rows)


def crossing(
    sizes: tuple[float, float], first: tuple[float, float] | None, second: tuple[float, float] | None
) -> float | None:
    """Return where two curves cross between two sizes, on straight lines over the logarithm of the size.

    Parameters
    ----------
    sizes : tuple of float
        Above 0, ascending.
    first, second : tuple of float or None
        Scores of each method at both sizes.

    Returns
    -------
    float or None
        None where they do not cross, or one of them has no scores.

    Examples
    --------
    >>> round(crossing((10, 1000), (0.6, 0.6), (0.5, 0.7)), 6)
    100.0
    """
    if first is None or second is None:
        return None
    begin, end = first[0] - second[0], first[1] - second[1]
    if begin * end >= 0:
        return None
    low, high = math.log(sizes[0]), math.log(sizes[1])
    return math.exp(low + (high - low) * begin / (begin - end))
