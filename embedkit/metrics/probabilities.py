"""How far probabilities can be believed: calibration error, Brier score, log loss and the curve behind them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from embedkit.errors import DataError, UsageError
from embedkit.metrics.counts import Bools, Counts, Floats, check_sets

# Probabilities of 0 and 1 are held off them by float64's epsilon in the log loss, as scikit-learn does, so that
# a row that was thought impossible costs 36 and not infinity.
_EPSILON = float(np.finfo(np.float64).eps)


def expected_calibration(true: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = 10) -> dict[str, Any]:
    """Judge probabilities against what came true.

    With class codes, two classes included, each row counts once: its confidence is the probability of its most
    probable class (the lower code of two equal ones, thresholds aside) and it is right if that is its class, as
    Guo et al. (2017) define the expected calibration error. With several labels a row each pair of row and label
    counts: its confidence is the label's probability and it is right if the row has the label.

    Parameters
    ----------
    true : array-like, shape (n,) of int, or (n, L) of bool
        Class codes, or whether the row has each label. A code of C or more is a class without a probability: the
        row is wrong and its class had probability 0.
    probabilities : array-like of float, shape (n, C) or (n, L)
        From 0 to 1; a row of classes sums to 1 within 1e-3.
    bins : int, default 10
        Of equal width: (0, 1/bins], (1/bins, 2/bins], ...; 0 falls into the first.

    Returns
    -------
    dict
        Ready for JSON.

        - ``n`` (rows), ``over`` (what is counted, in words), ``bins``.
        - ``ece``: the mean, over what is counted, of the distance in its bin of mean confidence and share right.
        - ``brier``: for two classes the mean squared error of one of them, for more the sum over classes, 0 to 2
          (Brier 1950); for several labels the mean over pairs.
        - ``log_loss``, in nats a row or pair.
        - ``curve``: for each bin that is not empty ``confidence`` (mean), ``right`` (share), ``rows`` (or pairs).

    Raises
    ------
    DataError
        If there are no rows, shapes do not fit, or a value is no probability.
    UsageError
        For less than one bin.
    """
    if bins < 1:
        raise UsageError(f"bins must be at least 1, not {bins}")
    table, given = _checked(probabilities), np.asarray(true)
    if given.dtype == np.bool_:
        (wanted,) = check_sets({"true": given}, table.shape[1])
        _same_rows(wanted, table)
        confidence, right = table.ravel(), wanted.ravel()
        brier = float(((table - wanted) ** 2).mean())
        log_loss = float(-np.log(_held_off(np.where(wanted, table, 1 - table))).mean())
        over = "all pairs of row and label"
    else:
        codes = _checked_codes(given, table)
        predicted = table.argmax(axis=1)
        confidence, right = table[np.arange(len(table)), predicted], predicted == codes
        brier, log_loss = _brier(codes, table), float(-np.log(_held_off(_own(codes, table))).mean())
        over = "the most probable class of each row"
    curve = _curve(confidence, right, bins)
    gaps = sum(part["rows"] * abs(part["confidence"] - part["right"]) for part in curve)
    return {
        "n": len(table),
        "over": over,
        "bins": bins,
        "ece": float(gaps / len(right)),
        "brier": brier,
        "log_loss": log_loss,
        "curve": curve,
    }


def _curve(confidence: Floats, right: Bools, bins: int) -> list[dict[str, Any]]:
    """Return mean confidence, share right and rows of each bin that has any."""
    place = np.searchsorted(np.arange(1, bins) / bins, confidence, side="left")
    rows = np.bincount(place, minlength=bins)
    sums = [np.bincount(place, values, bins) for values in (confidence, right.astype(np.float64))]
    return [
        {"confidence": float(sums[0][i] / rows[i]), "right": float(sums[1][i] / rows[i]), "rows": int(rows[i])}
        for i in np.flatnonzero(rows).tolist()
    ]


def _own(codes: Counts, table: Floats) -> Floats:
    """Return the probability of each row's own class; 0 where the class has none."""
    known = codes < table.shape[1]
    return np.where(known, table[np.arange(len(codes)), np.where(known, codes, 0)], 0.0)


def _brier(codes: Counts, table: Floats) -> float:
    """Return the mean over rows of the squared error, summed over classes; halved for two."""
    # sum over c of (p_c - y_c)^2, where y is 1 for one class, known or not, and 0 for the others
    squared = (table**2).sum(axis=1) - 2 * _own(codes, table) + 1
    return float(squared.mean()) / (2 if table.shape[1] == 2 else 1)


def _held_off(probabilities: Floats) -> Floats:
    return np.clip(probabilities, _EPSILON, 1 - _EPSILON)


def _checked(probabilities: npt.ArrayLike) -> Floats:
    """Return probabilities (n, C) in float64."""
    table = np.asarray(probabilities, dtype=np.float64)
    if table.ndim != 2 or not table.size:
        raise DataError(f"probabilities must have rows and a column for each label, not shape {table.shape}")
    wrong = np.argwhere(~((table >= 0) & (table <= 1)))
    if len(wrong):
        row, column = wrong[0].tolist()
        raise DataError(f"row {row + 1}, column {column + 1}: {table[row, column]} is no probability")
    return table


def _checked_codes(codes: npt.NDArray[Any], table: Floats) -> Counts:
    """Return codes that fit probabilities of classes."""
    if codes.ndim != 1 or codes.dtype.kind not in "iu" or (codes < 0).any():
        raise DataError(f"true codes must be integers from 0 in one dimension, not {codes.dtype} of {codes.shape}")
    _same_rows(codes, table)
    total = table.sum(axis=1)
    wrong = np.flatnonzero(np.abs(total - 1) > 1e-3)
    if len(wrong):
        raise DataError(f"the probabilities of row {wrong[0] + 1} sum to {total[wrong[0]]:g}, not to 1")
    return codes.astype(np.int64)


def _same_rows(true: npt.NDArray[Any], table: Floats) -> None:
    if len(true) != len(table):
        raise DataError(f"{len(true)} true labels but {len(table)} rows of probabilities")
