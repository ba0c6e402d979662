"""Decision thresholds: the cut of a score that is best for a metric, found among all cuts; numpy only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from embedkit.data.text import counted, names_of
from embedkit.errors import DataError, UsageError
from embedkit.metrics.counts import Bools, Floats, ratio

_TIE = 1e-12  # metrics closer than this are equal: square roots and sums round differently


class Tuned(NamedTuple):
    """Thresholds, and what they changed on the rows that they were tuned on.

    Attributes
    ----------
    thresholds : numpy.ndarray of float64, shape (L,)
        One a label; (1,) for two classes. Finite. One beyond all scores may leave [0, 1].
    before, after : numpy.ndarray of float64, shape (L,)
        The metric at the default and at the threshold. `after` is optimistic: it was maximised on these rows.
    notes : list of str
        Labels that kept the default, and why; mostly empty.
    """

    thresholds: Floats
    before: Floats
    after: Floats
    notes: list[str]


class _Cuts(NamedTuple):
    """Rows right and wrong at each cut, as float64 so that products do not overflow."""

    tp: Floats
    fp: Floats
    fn: Floats
    tn: Floats


def tune_thresholds(
    scores: npt.ArrayLike,
    true: npt.ArrayLike,
    metric: str,
    *,
    default: float = 0.5,
    least: int = 1,
    names: Sequence[str] | None = None,
) -> Tuned:
    """Find for each label the threshold that is best for a metric.

    A row is positive where its score is strictly above the threshold, compared in float64. Every way to cut the
    rows is tried: halfway between adjacent distinct scores, below all, above all (half a step beyond), and
    `default` itself, which stays unless another cut is better. Of equally good cuts the one nearest to `default`
    is taken, the lower one of two. O(n log n) for each label.

    Parameters
    ----------
    scores : array-like of float, shape (n,) or (n, L)
        Of the positive class of two; or of each label, where a row may have several. A row of ``-inf`` is never
        positive, one of ``inf`` always: thresholds are finite.
    true : array-like of bool, same shape
        Whether the row is positive.
    metric : {"f1", "accuracy", "balanced-accuracy", "mcc", "macro-f1"}
        ``"f1"`` is that of the positive class or of each label, ``"macro-f1"`` the mean of both classes' F1 and
        for two classes only. A ratio without cases is 0.
    default : float, default 0.5
        What a label keeps that has too few positive or negative rows. 0.5 suits probabilities, 0 margins.
    least : int, default 1
        Positive rows, and negative ones, that a label needs. The best cut for few positive rows whose scores are
        low may be one that gives nearly every row the label.
    names : sequence of str, optional
        Labels for the notes; default: their numbers, from 1.

    Returns
    -------
    Tuned
        Thresholds, the metric before and after, notes.

    Raises
    ------
    UsageError
        For an unknown metric, ``"macro-f1"`` with several labels a row, or a default that is not finite.
    DataError
        For no rows, shapes that differ, `true` that is not boolean, or a score that is NaN.
    """
    table, wanted = _checked(scores, true)
    several = np.ndim(scores) == 2
    _check_metric(metric, several)
    if not np.isfinite(default):
        raise UsageError(f"the default threshold must be a finite number, not {default}")
    positives = wanted.sum(axis=0)
    few = np.minimum(positives, len(wanted) - positives) < max(1, least)
    columns = range(table.shape[1])
    figures = np.array([_tune(table[:, i], wanted[:, i], metric, default, tuned=not few[i]) for i in columns])
    thresholds, before, after = figures.reshape(-1, 3).T
    labels = [str(i + 1) for i in columns] if names is None else names
    notes = _notes([labels[i] for i in np.flatnonzero(few).tolist()], default, max(1, least), several)
    return Tuned(thresholds, before, after, notes)


def _check_metric(metric: str, several: bool) -> None:
    """Refuse a metric that is unknown, or that only two classes have."""
    allowed = [name for name in _METRICS if not (several and name == "macro-f1")]
    if metric not in allowed:
        where = "with several labels a row a threshold" if several else "a threshold"
        raise UsageError(f"{where} is tuned for {', '.join(allowed)}, not for {metric!r}")


def _checked(scores: npt.ArrayLike, true: npt.ArrayLike) -> tuple[Floats, Bools]:
    """Return scores and truth as (n, L) columns."""
    table, wanted = np.asarray(scores, dtype=np.float64), np.asarray(true)
    if table.ndim not in (1, 2) or table.shape != wanted.shape:
        raise DataError(f"thresholds need scores and truth of one shape, not {table.shape} and {wanted.shape}")
    if not len(table):
        raise DataError("0 rows: there is nothing to tune a threshold on")
    if wanted.dtype != np.bool_:
        raise DataError(f"thresholds need true or false for each row, not {wanted.dtype}")
    table, wanted = table.reshape(len(table), -1), wanted.reshape(len(table), -1)
    missing = np.argwhere(np.isnan(table))
    if len(missing):
        raise DataError(f"the score of row {missing[0, 0] + 1}, label {missing[0, 1] + 1} is NaN")
    return table, wanted


def _tune(scores: Floats, true: Bools, metric: str, default: float, *, tuned: bool) -> tuple[float, float, float]:
    """Return the threshold of one label, the default unless `tuned`, and the metric at the default and at it."""
    order = np.argsort(scores)
    ranked, hits = scores[order], np.concatenate([[0], np.cumsum(true[order])])
    # every cut is judged by the rule that decides later, so rounding of a cut cannot make its figure wrong
    cuts = _candidates(ranked, default) if tuned else np.array([default])
    below = np.searchsorted(ranked, cuts, side="right")
    fn = hits[below]
    tp = hits[-1] - fn
    counts = _Cuts(*(part.astype(np.float64) for part in (tp, len(true) - below - tp, fn, below - fn)))
    figures = _METRICS[metric](counts)
    best = np.flatnonzero(figures >= figures.max() - _TIE)
    chosen = best[np.abs(cuts[best] - default).argmin()]
    return float(cuts[chosen]), float(figures[np.searchsorted(cuts, default)]), float(figures[chosen])


def _candidates(ranked: Floats, default: float) -> Floats:
    """Return one cut for every way to part the finite scores, and the default, in order."""
    values = np.unique(ranked[np.isfinite(ranked)])
    if not len(values):
        return np.array([default])
    low, high = values[:-1], values[1:]
    middle = low / 2 + high / 2  # halves first: the sum of two large scores overflows
    middle = np.where((low <= middle) & (middle < high), middle, low)  # no number lies between neighbours
    first, last = (high[0] / 2 - low[0] / 2, high[-1] / 2 - low[-1] / 2) if len(low) else (0.5, 0.5)
    limit = np.finfo(np.float64).max
    with np.errstate(over="ignore"):  # clipped below
        # where the step is too small to count, the next number is below all; the last one is above all itself
        beyond = [min(values[0] - first, np.nextafter(values[0], -np.inf)), values[-1] + last]
    return np.unique(np.clip([*beyond, *middle, default], -limit, limit))


def _notes(few: Sequence[str], default: float, least: int, several: bool) -> list[str]:
    """Say which labels kept the default."""
    if not few:
        return []
    rows = counted(least, "row")
    if not several:
        return [f"the threshold stays {default:g}: to tune it takes {rows} of each class"]
    return [
        f"the threshold stays {default:g} for {counted(len(few), 'label')}, as to tune one takes {rows} with the "
        f"label and {rows} without: {names_of(few)}"
    ]


# --- the metrics, at many cuts at once -----------------------------------------------------------------


def _accuracy(c: _Cuts) -> Floats:
    return (c.tp + c.tn) / (c.tp + c.fp + c.fn + c.tn)


def _balanced_accuracy(c: _Cuts) -> Floats:
    """Return the mean recall of the classes that have rows."""
    positive, negative = c.tp + c.fn, c.tn + c.fp
    present = (positive > 0).astype(np.float64) + (negative > 0)
    return (ratio(c.tp, positive) + ratio(c.tn, negative)) / present


def _f1(c: _Cuts) -> Floats:
    return ratio(2 * c.tp, 2 * c.tp + c.fp + c.fn)


def _macro_f1(c: _Cuts) -> Floats:
    return (_f1(c) + ratio(2 * c.tn, 2 * c.tn + c.fp + c.fn)) / 2


def _mcc(c: _Cuts) -> Floats:
    sides = [c.tp + c.fp, c.tp + c.fn, c.tn + c.fp, c.tn + c.fn]
    return ratio(c.tp * c.tn - c.fp * c.fn, np.prod(np.sqrt(sides), axis=0))


_METRICS: dict[str, Callable[[_Cuts], Floats]] = {
    "f1": _f1,
    "accuracy": _accuracy,
    "balanced-accuracy": _balanced_accuracy,
    "mcc": _mcc,
    "macro-f1": _macro_f1,
}
THRESHOLD_METRICS = tuple(_METRICS)
