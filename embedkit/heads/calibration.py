"""Calibration: probabilities from any head's scores, affine in them, so that a linear head stays linear."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from embedkit.data.text import counted, names_of
from embedkit.errors import DataError
from embedkit.runtime.decide import probabilities, sigmoid

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int64]
_Loss = Callable[[Floats, Floats, Floats], tuple[float, Floats]]

# The least log odds that one standard deviation of the scores may count for. Scores that do not go with the
# labels, or against them, thus keep their order, and their probabilities are nearly the label's share of rows.
SMALLEST_SLOPE = 1e-3


@dataclass(frozen=True, eq=False)
class Calibration:
    """Scores times `scale` plus `shift` are log odds, or, for three or more classes, logits.

    Parameters
    ----------
    scale : array-like of float, shape (1,) or (L,)
        Positive. One for all classes, or one a label where a row may have several.
    shift : array-like of float, shape (1,), (C,) or (L,)
        One for two classes (of the score of code 1), one a class, or one a label.

    Raises
    ------
    ValueError
        If shapes do not fit or a value is not finite or a scale not positive.

    Notes
    -----
    Arrays are frozen copies in float64. A linear head takes them in: ``coef * scale[:, None]``,
    ``intercept * scale + shift``.
    """

    scale: Floats
    shift: Floats

    def __post_init__(self) -> None:
        for name in ("scale", "shift"):
            copy = np.array(getattr(self, name), dtype=np.float64)
            copy.flags.writeable = False
            object.__setattr__(self, name, copy)
        if self.scale.ndim != 1 or self.shift.ndim != 1 or len(self.scale) not in (1, len(self.shift)):
            raise ValueError(f"scale and shift of shapes {self.scale.shape} and {self.shift.shape} do not fit")
        if not (np.isfinite(self.scale) & (self.scale > 0)).all() or not np.isfinite(self.shift).all():
            raise ValueError("scale must be positive, and scale and shift finite")

    @property
    def link(self) -> str:
        """Return ``"softmax"`` over classes, or ``"sigmoid"`` for two classes and for several labels a row."""
        return "softmax" if len(self.shift) > len(self.scale) else "sigmoid"

    def apply(self, scores: npt.ArrayLike) -> Floats:
        """Return calibrated scores of the same shape; infinite ones stay as they are."""
        return np.asarray(scores, dtype=np.float64) * self.scale + self.shift

    def probabilities(self, scores: npt.ArrayLike) -> Floats:
        """Return probabilities (n, C); (n, 2) for two classes, whose scores are (n,)."""
        logits = self.apply(scores)
        table = probabilities(logits, multi_label=self.link == "sigmoid" and logits.ndim == 2)
        return np.asarray(table, dtype=np.float64)


class FittedCalibration(NamedTuple):
    """A calibration with what is worth saying about its fit; `notes` are mostly empty."""

    calibration: Calibration
    notes: list[str]


def fit_calibration(
    scores: npt.ArrayLike,
    true: npt.ArrayLike,
    *,
    multi_label: bool = False,
    names: Sequence[str] | None = None,
) -> FittedCalibration:
    """Fit a calibration by maximum likelihood to rows that the scores' head was not fitted on.

    Two classes: ``p = sigmoid(a s + b)`` (Platt 1999). Three or more: ``p = softmax(a s + b)`` with one `a` and a
    shift a class, of mean 0: bias-corrected temperature scaling (Alexandari, Kundaje and Shrikumar 2020). Several
    labels a row: Platt's for each label. `a` is positive, so the order of the rows never changes within two
    classes or a label; with three or more the most probable class may.

    Targets are smoothed as Platt's are: to the n rows of a class one row of each class C is added, so a row
    aims at (n + 1) / (n + C) for its class and 1 / (n + C) for each other. Parameters are thus finite also where
    the classes are separable, and what is minimised is the log loss against these targets.

    Parameters
    ----------
    scores : array-like of float, shape (n,), (n, C) or (n, L)
        Of `Head.decision_function`: of code 1 for two classes, else one a class or label.
    true : array-like, shape (n,) of int or (n, L) of bool
        Codes; or, with `multi_label`, whether the row has the label.
    multi_label : bool, default False
        Whether a row may have several labels.
    names : sequence of str, optional
        Labels for the notes; default: their numbers, from 1.

    Returns
    -------
    FittedCalibration
        The calibration, and notes on labels without rows.

    Raises
    ------
    DataError
        For no rows, shapes that do not fit, codes that are no class, a NaN, or ``inf`` among three or more.

    Notes
    -----
    A score of ``-inf`` (a class or label without training rows) stays: its probability is 0, its shift 0, and it
    takes no part. Nor does a row whose own class has that score, since no shift could help it.
    Where the scale cannot be learnt (all rows have the label or none, all are of one class, all scores are
    equal) it is 1 and only the shift is fitted. One of several classes that no row has is fitted to the added
    rows alone, and becomes improbable.
    """
    table, wanted = _checked(scores, true, multi_label)
    if multi_label:
        pairs = [_fit_sigmoid(table[:, i], wanted[:, i]) for i in range(table.shape[1])]
        scale, shift = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
        idle = np.flatnonzero(wanted.all(axis=0) | ~wanted.any(axis=0)).tolist()
    elif table.ndim == 1:
        scale, shift = (np.array([value]) for value in _fit_sigmoid(table, wanted == 1))
        idle = [code for code in (0, 1) if not (wanted == code).any()]
    else:
        scale, shift = _fit_softmax(table, wanted)
        idle = np.setdiff1d(np.arange(table.shape[1]), wanted).tolist()
    labels = [names[i] if names is not None else str(i + 1) for i in idle]
    return FittedCalibration(Calibration(scale, shift), _notes(labels, multi_label))


def _notes(labels: Sequence[str], multi_label: bool) -> list[str]:
    """Say which labels lack what a calibration learns from."""
    if not labels:
        return []
    lacking = "that no row to calibrate on has, or every one" if multi_label else "without a row to calibrate on"
    return [f"rough probabilities for {counted(len(labels), 'label')} {lacking}: {names_of(labels)}"]


def _checked(scores: npt.ArrayLike, true: npt.ArrayLike, multi_label: bool) -> tuple[Floats, npt.NDArray[Any]]:
    """Return scores and truth, or say why nothing can be fitted to them."""
    table, wanted = np.asarray(scores, dtype=np.float64), np.asarray(true)
    if not len(table):
        raise DataError("0 rows: there is nothing to calibrate on")
    fits = table.ndim == 2 if multi_label else table.ndim == 1 or (table.ndim == 2 and table.shape[1] > 1)
    if not fits or wanted.shape != (table.shape if multi_label else table.shape[:1]):
        raise DataError(f"scores of shape {table.shape} and labels of shape {wanted.shape} cannot be calibrated")
    if wanted.dtype.kind not in ("b" if multi_label else "iu"):
        kind = "true or false for each label" if multi_label else "integer codes"
        raise DataError(f"calibration needs {kind}, not {wanted.dtype}")
    n_classes = 2 if table.ndim == 1 else table.shape[1]
    if not multi_label and ((wanted < 0) | (wanted >= n_classes)).any():
        row = int(np.flatnonzero((wanted < 0) | (wanted >= n_classes))[0])
        raise DataError(f"code {wanted[row]} of row {row + 1} is not one of the {n_classes} classes")
    wrong = np.isnan(table) if multi_label or table.ndim == 1 else np.isnan(table) | (table == np.inf)
    if wrong.any():
        place = tuple(np.argwhere(wrong)[0])
        raise DataError(f"the score of row {place[0] + 1} is {table[place]}, which cannot be calibrated")
    return table, wanted


# --- two classes, or one label -------------------------------------------------------------------------


def _fit_sigmoid(scores: Floats, positive: Bools) -> tuple[float, float]:
    """Return Platt's scale and shift."""
    finite = np.isfinite(scores)
    known, hits = scores[finite], positive[finite]
    if not len(known):
        return 1.0, 0.0
    n_true, n_false = int(hits.sum()), int((~hits).sum())
    targets = np.where(hits, (n_true + 1) / (n_true + 2), 1 / (n_false + 2))
    centre, spread = float(known.mean()), float(known.std()) or 1.0
    learnable = n_true > 0 and n_false > 0 and float(np.ptp(known)) > 0
    slope, shift = _minimise(sigmoid_loss, (known - centre) / spread, targets, 1, None if learnable else spread)
    scale = slope / spread
    return scale, float(shift[0]) - scale * centre


def sigmoid_loss(params: Floats, scores: Floats, targets: Floats) -> tuple[float, Floats]:
    """Return the mean log loss of ``sigmoid(a s + b)``, and its gradient.

    Parameters
    ----------
    params : numpy.ndarray, shape (2,)
        a, b.
    scores, targets : numpy.ndarray, shape (n,)
        Finite scores; the probabilities to aim at.
    """
    logits = params[0] * scores + params[1]
    loss = np.maximum(logits, 0) + np.log1p(np.exp(-np.abs(logits))) - targets * logits
    slope = (sigmoid(logits) - targets) / len(scores)
    # not a matrix product: for one so small OpenBLAS waits for its threads longer than it computes
    return float(loss.mean()), np.array([(slope * scores).sum(), slope.sum()])


# --- three or more classes -----------------------------------------------------------------------------


def _fit_softmax(scores: Floats, codes: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    """Return the scale (1,) and the shifts (C,)."""
    rows = np.isfinite(scores[np.arange(len(scores)), codes])
    table, classes = scores[rows], codes[rows].astype(np.int64)
    finite = np.isfinite(table)
    live = finite.any(axis=0)
    if not live.any():
        return np.ones(1), np.zeros(scores.shape[1])
    # what a row's scores have in common does not matter; the rest is centred by class for the solver's sake
    table = np.where(finite, table, 0.0)
    table = np.where(finite, table - _mean(table, finite, 1)[:, None], 0.0)
    centre = _mean(table, finite, 0)
    table = np.where(finite, table - centre, -np.inf)
    spread = float(table[finite].std()) or 1.0
    learnable = len(np.unique(classes)) > 1 and float(np.ptp(table[finite])) > 0
    targets = _smoothed(classes, finite)
    slope, shift = _minimise(softmax_loss, table / spread, targets, len(live), None if learnable else spread)
    scale = slope / spread
    shift = np.where(live, shift - scale * centre, 0.0)
    return np.array([scale]), np.where(live, shift - shift[live].mean(), 0.0)


def _mean(table: Floats, finite: Bools, axis: int) -> Floats:
    """Return the mean of the finite values, which stand among zeros."""
    mean: Floats = table.sum(axis=axis) / np.maximum(finite.sum(axis=axis), 1)
    return mean


def _smoothed(codes: Codes, finite: Bools) -> Floats:
    """Return the targets (n, C), shared among the classes that a row has finite scores for."""
    n_classes = finite.shape[1]
    rows = np.bincount(codes, minlength=n_classes)[codes]
    targets = np.tile((1 / (rows + n_classes))[:, None], (1, n_classes))
    targets[np.arange(len(codes)), codes] *= rows + 1
    targets = np.where(finite, targets, 0.0)
    shared: Floats = targets / targets.sum(axis=1, keepdims=True)
    return shared


def softmax_loss(params: Floats, scores: Floats, targets: Floats) -> tuple[float, Floats]:
    """Return the mean log loss of ``softmax(a s + b)``, and its gradient.

    Parameters
    ----------
    params : numpy.ndarray, shape (1 + C,)
        a, then b.
    scores, targets : numpy.ndarray, shape (n, C)
        Scores, of which ``-inf`` takes no part; the probabilities to aim at, 0 there.
    """
    finite = np.isfinite(scores)
    logs = _log_softmax(params[0] * scores + params[1:])
    slope = (np.exp(logs) - targets) / len(scores)
    loss = -float((targets[finite] * logs[finite]).sum()) / len(scores)
    return loss, np.concatenate([[(slope[finite] * scores[finite]).sum()], slope.sum(axis=0)])


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    logs: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


# --- the solver ----------------------------------------------------------------------------------------


def _minimise(
    loss: _Loss, scores: Floats, targets: Floats, shifts: int, slope: float | None
) -> tuple[float, Floats]:
    """Return the slope on standardised scores, given or found, and the shifts.

    The log loss is convex in both, so L-BFGS-B finds the only minimum.
    """
    from scipy.optimize import minimize

    bounds = [(SMALLEST_SLOPE, None) if slope is None else (slope, slope), *[(None, None)] * shifts]
    start = np.concatenate([[1.0 if slope is None else slope], np.zeros(shifts)])
    found = minimize(
        loss,
        start,
        args=(scores, targets),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": 1000, "maxfun": 5000, "ftol": 1e-15, "gtol": 1e-8},
    ).x
    return float(found[0]), found[1:]
