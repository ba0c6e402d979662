"""Intervals: the exact one of a proportion, and the bootstrap over rows of everything else."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from embedkit.errors import DataError, UsageError
from embedkit.metrics.counts import Counts, Floats

_CELLS_AT_ONCE = 4_000_000  # bounds the resampled counts in memory: 32 MB
_PATTERNS_AT_ONCE = 8192


def bootstrap_method(resamples: int, seed: int) -> str:
    """Return the name of the bootstrap as it stands beside its interval."""
    return f"percentile bootstrap, {resamples} resamples, seed {seed}"


def check_resamples(resamples: int) -> None:
    """Raise `UsageError` for no resamples."""
    if resamples < 1:
        raise UsageError(f"resamples must be at least 1, not {resamples}")


def percentiles(scores: Floats, level: float = 0.95) -> tuple[float, float]:
    """Return the bounds of the middle `level` of resampled scores."""
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap(
    patterns: npt.NDArray[np.integer[Any]],
    rows: Counts,
    score: Callable[[Floats], Floats],
    *,
    resamples: int,
    seed: int,
) -> Floats:
    """Score resampled rows by the sums of what each row counts for.

    Drawing n rows with replacement is drawing how often each distinct row comes from a multinomial, so a
    resample costs the number of distinct rows. The sums are of whole numbers and therefore exact.

    Parameters
    ----------
    patterns : numpy.ndarray of integers, shape (K, S)
        What each distinct row adds to S sums.
    rows : numpy.ndarray of int64, shape (K,)
        How many rows are like it; n in all.
    score : callable
        From sums (R, S) to scores (R,) or (R, M).
    resamples : int
        R, at least 1.
    seed : int
        Of numpy's default generator.

    Returns
    -------
    numpy.ndarray of float64, shape (resamples,) or (resamples, M)
        In the order drawn.
    """
    check_resamples(resamples)
    rng = np.random.default_rng(seed)
    n, share = int(rows.sum()), rows / rows.sum()
    step = max(1, _CELLS_AT_ONCE // len(rows))
    scores = []
    for start in range(0, resamples, step):
        drawn = rng.multinomial(n, share, size=min(step, resamples - start)).astype(np.float64)
        sums = np.zeros((len(drawn), patterns.shape[1]))
        for first in range(0, len(rows), _PATTERNS_AT_ONCE):  # the float64 copy is of some patterns alone
            part = slice(first, first + _PATTERNS_AT_ONCE)
            sums += drawn[:, part] @ patterns[part].astype(np.float64)
        scores.append(score(sums))
    return np.concatenate(scores)


ALIKE = "clopper-pearson, as all rows say the same"
"""How `difference_interval` is made where no resample differs from another."""


def difference_interval(drawn: Floats, n: int) -> tuple[tuple[float, float], bool]:
    """Return the 95 % interval of a difference from its resamples, and whether none of these differs from another.

    Where none does, such as for two classifiers with the same answers, their spread would be 0, though more rows
    may tell the two apart: the interval is then as wide as the share of rows that may say otherwise although none
    of `n` does (Clopper and Pearson, 1934).

    Parameters
    ----------
    drawn : ndarray of float64, shape (resamples,)
        Differences of two shares or F1, in -1 to 1.
    n : int
        Rows of the sample.
    """
    if len(drawn) < 2 or not np.allclose(drawn, drawn[0], rtol=0, atol=1e-12):
        return percentiles(drawn), False
    unseen, middle = clopper_pearson(0, n)[1], float(drawn[0])
    return (max(-1.0, middle - unseen), min(1.0, middle + unseen)), True


def clopper_pearson(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Bound a proportion exactly (Clopper and Pearson 1934): the coverage is never below `level`.

    Parameters
    ----------
    hits : int
        Successes, 0 to `n`.
    n : int
        Trials, at least 1.
    level : float
        Coverage.

    Returns
    -------
    tuple of float
        Lower and upper bound; 0 if there are no hits, 1 if there are only hits.

    Examples
    --------
    >>> [round(bound, 4) for bound in clopper_pearson(8, 10)]
    [0.4439, 0.9748]
    """
    if not 0 <= hits <= n or n < 1:
        raise DataError(f"{hits} hits in {n} trials")
    tail = (1 - level) / 2
    # P(X >= hits | p) = I_p(hits, n - hits + 1), and P(X <= hits | p) = 1 - I_p(hits + 1, n - hits)
    low = 0.0 if hits == 0 else _beta_quantile(hits, n - hits + 1, tail)
    high = 1.0 if hits == n else 1.0 - _beta_quantile(n - hits, hits + 1, tail)
    return low, high


def mean_interval(
    values: npt.ArrayLike, level: float = 0.95, *, shared: float = 0.0
) -> tuple[float, float, tuple[float, float] | None]:
    """Return the mean of few values, their standard deviation, and Student's interval of the mean.

    Parameters
    ----------
    values : array-like, shape (n,)
        At least one, of like and independent runs.
    level : float
        Coverage.
    shared : float, default 0
        Variance of what all values have in common, such as the judged rows, and that is known from many. It is
        added to that of the mean, whose degrees of freedom then are Satterthwaite's (1946).

    Returns
    -------
    mean, deviation : float
        The deviation is of a sample (n - 1); 0 for one value.
    interval : tuple of float or None
        None for one value.

    Examples
    --------
    >>> mean, deviation, interval = mean_interval([1.0, 2.0, 3.0])
    >>> mean, deviation, [round(bound, 3) for bound in interval]
    (2.0, 1.0, [-0.484, 4.484])
    """
    given = np.asarray(values, dtype=np.float64)
    if given.ndim != 1 or not len(given):
        raise DataError("there are no values to take the mean of")
    mean, freedom = float(given.mean()), len(given) - 1
    if not freedom:
        return mean, 0.0, None
    deviation = float(given.std(ddof=1))
    of_runs = deviation**2 / len(given)
    variance = of_runs + shared
    known = freedom * (variance / of_runs) ** 2 if of_runs > 0 else math.inf
    half = _student(known, level) * math.sqrt(variance)
    return mean, deviation, (mean - half, mean + half)


def _student(freedom: float, level: float) -> float:
    """Return the t that a share `level` of Student's distribution lies within."""
    if freedom > 1e6:  # there it is the normal one to six digits
        return NormalDist().inv_cdf((1 + level) / 2)
    # P(|T| > t) = I_x(freedom / 2, 1 / 2) at x = freedom / (freedom + t * t)
    x = _beta_quantile(freedom / 2, 0.5, 1 - level)
    return math.sqrt(freedom * (1 - x) / x)


def binomial_at_most(hits: int, n: int) -> float:
    """Return the probability of at most `hits` heads in `n` throws of a fair coin."""
    return 1.0 if hits >= n else _beta_cdf(0.5, n - hits, hits + 1)


def _beta_quantile(a: float, b: float, share: float) -> float:
    """Return the x at which the regularised incomplete beta function is `share`, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        if _beta_cdf(middle, a, b) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _beta_cdf(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b)."""
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on the other side alone
        return 1.0 - _beta_cdf(1.0 - x, b, a)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(front) / a * _beta_fraction(x, a, b)


def _beta_fraction(x: float, a: float, b: float) -> float:
    """Evaluate the continued fraction of I_x(a, b) (DLMF 8.17.22) by the modified Lentz method."""
    tiny = 1e-300
    c, d = 1.0, 1.0 / ((1.0 - (a + b) * x / (a + 1)) or tiny)
    result = d
    for m in range(1, 100_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for step in (even, odd):
            d = 1.0 / ((1.0 + step * d) or tiny)
            c = (1.0 + step / c) or tiny
            result *= c * d
        if abs(c * d - 1.0) < 1e-15:
            return result
    raise ArithmeticError(f"the incomplete beta function did not converge at x={x}, a={a}, b={b}")
