"""A head with what decides beside it: probabilities that are calibrated, thresholds that are tuned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from embedkit.data.splits import stratified_folds
from embedkit.errors import UsageError
from embedkit.heads.base import Floats, Head, check_features
from embedkit.heads.calibration import Calibration, fit_calibration
from embedkit.heads.fit import FittedHead, check_targets, fit_head
from embedkit.heads.grid import out_of_fold
from embedkit.heads.linear import LinearHead
from embedkit.heads.spec import HeadSpec
from embedkit.heads.thresholds import THRESHOLD_METRICS, tune_thresholds
from embedkit.heads.wrapped import CalibratedHead
from embedkit.runtime.decide import Thresholds, probabilities

# A label with fewer rows is not in every fold, and the best cut on them says nothing of others.
LEAST_ROWS = 5


@dataclass(frozen=True)
class Decision:
    """What is learnt on rows that the head was not fitted on.

    Parameters
    ----------
    calibrate : bool
        Whether scores become calibrated probabilities.
    thresholds : str, optional
        Metric that thresholds are tuned for: one of `THRESHOLD_METRICS`. Default: no thresholds; the most
        probable class, or labels of probability above 0.5.
    positive : int, optional
        Code of the positive one of two classes; F1 needs it.
    folds : int
        Of the cross-validation over train that stands in for a validation split; fewer where there are fewer
        different texts.
    seed : int
        Of these folds.
    """

    calibrate: bool = False
    thresholds: str | None = None
    positive: int | None = None
    folds: int = 5
    seed: int = 42

    @property
    def needed(self) -> bool:
        """Whether anything is to be learnt."""
        return self.calibrate or self.thresholds is not None

    def check(self, n_classes: int, *, multi_label: bool) -> None:
        """Raise `UsageError` for thresholds that cannot be: before anything is fitted."""
        metric = self.thresholds
        if metric is None:
            return
        if metric not in THRESHOLD_METRICS:
            raise UsageError(f"thresholds are tuned for {', '.join(THRESHOLD_METRICS)}, not for {metric!r}")
        if not multi_label and n_classes > 2:
            raise UsageError(
                f"thresholds are for two classes or several labels a row; there are {n_classes} classes"
            )
        if metric == "f1" and not multi_label and self.positive is None:
            raise UsageError("thresholds for f1 need the positive label (--positive-label); or take macro-f1")
        if metric == "macro-f1" and multi_label:
            raise UsageError("macro-f1 is for two classes; f1 tunes the threshold of each label")


class Decided(NamedTuple):
    """A head with its thresholds.

    Attributes
    ----------
    fitted : FittedHead
        Calibrated, if that was asked for.
    before : Head
        The head before calibration.
    thresholds : Thresholds or None
    tuned_on : str or None
        ``"validation"`` or ``"train, out of fold"``; None if nothing was tuned.
    """

    fitted: FittedHead
    before: Head
    thresholds: Thresholds | None
    tuned_on: str | None


def fit_decided(
    spec: HeadSpec,
    decision: Decision,
    X: npt.ArrayLike,  # noqa: N803 - scikit-learn's name
    y: npt.ArrayLike,
    names: Sequence[str],
    *,
    groups: npt.ArrayLike,
    validation: tuple[Floats, npt.NDArray[Any]] | None = None,
    sample_weight: npt.ArrayLike | None = None,
    threads: int | None = None,
) -> Decided:
    """Fit a head on train, and calibration and thresholds on other rows.

    These are the validation rows where there are some, else train itself: each part is scored by a head that was
    fitted on the others, and the head that is kept is fitted on all.

    Parameters
    ----------
    spec, X, y, sample_weight, threads
        As in `fit_head`.
    decision : Decision
    names : sequence of str
        The label of each code.
    groups : array-like of int, shape (N,)
        Rows with equal values (equal texts) stay in one fold.
    validation : (features, targets), optional

    Raises
    ------
    DataError, UsageError
        As `fit_head`; the thresholds are not possible; or there are too few rows for the folds.
    """
    features = check_features(X)
    targets = check_targets(y, len(features), names)
    decision.check(len(names), multi_label=targets.ndim == 2)
    weights = None if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    fitted = fit_head(spec, features, targets, len(names), names=names, sample_weight=weights, threads=threads)
    if not decision.needed:
        return Decided(fitted, fitted.head, None, None)
    if validation is None:
        kept = np.arange(len(features)) if weights is None else np.flatnonzero(weights)
        part = features[kept], targets[kept], np.asarray(groups)[kept], None if weights is None else weights[kept]
        settled = replace(spec, scale="standard" if fitted.scaled else "none")  # no fold may differ from the whole
        scores, truth = _out_of_fold(settled, decision, *part, names, threads)
    else:
        scores, truth = fitted.head.decision_function(validation[0]), validation[1]
    head, notes = fitted.head, list(fitted.notes)
    if decision.calibrate:
        calibration, said = fit_calibration(scores, truth, multi_label=truth.ndim == 2, names=names)
        head, scores = _calibrated(head, calibration), calibration.apply(scores)
        notes += said
    thresholds = None
    if decision.thresholds is not None:
        thresholds, said = _tuned(decision, head, scores, truth, names)
        notes += said
    tuned_on = "validation" if validation is not None else "train, out of fold"
    return Decided(replace(fitted, head=head, notes=notes), fitted.head, thresholds, tuned_on)


def _out_of_fold(
    spec: HeadSpec,
    decision: Decision,
    features: Floats,
    targets: npt.NDArray[Any],
    groups: npt.NDArray[Any],
    weights: Floats | None,
    names: Sequence[str],
    threads: int | None,
) -> tuple[Floats, npt.NDArray[Any]]:
    """Return the scores of train rows by heads that were not fitted on them, and their targets."""
    labels = targets if targets.ndim == 1 else [np.flatnonzero(row).tolist() for row in targets]
    count = max(2, min(decision.folds, len(np.unique(groups))))
    folds = stratified_folds(labels, groups, count, decision.seed, rare="train-only")
    scores, rows = out_of_fold(spec, features, targets, folds, names, sample_weight=weights, threads=threads)
    return scores, targets[rows]


def _calibrated(head: Head, calibration: Calibration) -> Head:
    """Return a head with its scores moved; a linear one stays linear."""
    moved = calibration.scale, calibration.shift
    return head.affine(*moved) if isinstance(head, LinearHead) else CalibratedHead(head, *moved)


def _tuned(
    decision: Decision, head: Head, scores: Floats, truth: npt.NDArray[Any], names: Sequence[str]
) -> tuple[Thresholds, list[str]]:
    """Return thresholds on what the head will be asked for: probabilities, or scores where it has none."""
    several = truth.ndim == 2
    metric = decision.thresholds or ""
    on = "probability" if head.has_probabilities else "score"
    positive = 1 if decision.positive is None else decision.positive
    values = scores if on == "score" else probabilities(scores, multi_label=several)
    rule = Thresholds((0.0,), on, metric, positive)
    compared = rule.compared(values, multi_label=several)
    wanted = truth if several else truth == positive
    default = 0.5 if on == "probability" else 0.0
    tuned = tune_thresholds(compared, wanted, metric, default=default, least=LEAST_ROWS, names=names)
    return replace(rule, values=tuple(tuned.thresholds.tolist())), tuned.notes
