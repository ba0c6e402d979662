"""From scores to answers: probabilities by a link, classes by the largest score or by thresholds; numpy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Label: TypeAlias = str | int | float | bool


def sigmoid(scores: Floats) -> Floats:
    """Return 1 / (1 + exp(-s)) of each score; no score overflows."""
    small = np.exp(-np.abs(scores))
    return np.asarray(np.where(scores >= 0, 1, small) / (1 + small))


def softmax(scores: Floats) -> Floats:
    """Return exp(s) / sum(exp(s)) along the last axis; -inf gives 0."""
    shifted = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def probabilities(scores: Floats, *, multi_label: bool) -> Floats:
    """Return the probabilities that scores in log-odds stand for.

    Parameters
    ----------
    scores : ndarray of float, shape (n,) or (n, C)
        As `Head.decision_function` gives them: (n,) for two classes.
    multi_label : bool
        Whether each column stands for itself.

    Returns
    -------
    ndarray of float, shape (n, C)
        Rows sum to 1, unless `multi_label`.
    """
    if multi_label:
        return sigmoid(scores)
    if scores.ndim == 1:
        return np.column_stack([sigmoid(-scores), sigmoid(scores)])  # unlike softmax(0, s) also at inf
    return softmax(scores)


def decide(scores: Floats, *, multi_label: bool) -> NDArray[Any]:
    """Return the classes that scores stand for where no thresholds are set.

    Parameters
    ----------
    scores : ndarray of float, shape (n,) or (n, C)
        As `Head.decision_function` gives them.
    multi_label : bool
        Whether a row has any number of labels.

    Returns
    -------
    ndarray
        bool (n, C) for several labels a row: scores above 0. Else int64 (n,): the highest score, the lower code
        of two equal ones.
    """
    if multi_label:
        return np.asarray(scores > 0)
    if scores.ndim == 1:
        return np.asarray(scores > 0, dtype=np.int64)
    return np.asarray(scores.argmax(axis=1), dtype=np.int64)


@dataclass(frozen=True)
class Thresholds:
    """Cuts that decide instead of the most probable class.

    Attributes
    ----------
    values : tuple of float
        One for two classes, one for each label of several. Strictly above means yes.
    on : {"probability", "score"}
        What is compared: scores where a head has no probabilities.
    metric : str
        What they were tuned for.
    positive : int
        The code, of two classes, whose probability or score is compared.
    """

    values: tuple[float, ...]
    on: str
    metric: str
    positive: int = 1

    def __post_init__(self) -> None:
        if self.on not in ("probability", "score") or self.positive not in (0, 1):
            raise ValueError(f"thresholds on {self.on!r} of the class {self.positive!r}")
        if not self.values or not np.isfinite(np.asarray(self.values, dtype=np.float64)).all():
            raise ValueError("thresholds must be finite numbers")

    def compared(self, values: Floats, *, multi_label: bool) -> Floats:
        """Return what is compared: (n, C) for labels; for two classes (n,), that of the positive one."""
        if multi_label:
            return values
        if values.ndim == 2:
            return np.asarray(values[:, self.positive])
        return values if self.positive else -values

    def decide(self, values: Floats, *, multi_label: bool) -> NDArray[Any]:
        """Return bool (n, C) for several labels a row, else int64 codes (n,).

        Parameters
        ----------
        values : ndarray of float
            Probabilities (n, C); or scores, which are (n,) for two classes.
        """
        above = self.compared(values, multi_label=multi_label) > np.asarray(self.values)
        if multi_label:
            return np.asarray(above)
        return np.where(above, self.positive, 1 - self.positive).astype(np.int64)

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads back."""
        return {"values": list(self.values), "on": self.on, "metric": self.metric, "positive": self.positive}

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> Thresholds:
        """Read back what `to_json` gave; `ValueError`, `TypeError` or `KeyError` where it is something else."""
        values, metric, positive = described["values"], described["metric"], described["positive"]
        numbers = isinstance(values, list) and all(type(value) in (int, float) for value in values)
        if not numbers or not isinstance(metric, str) or type(positive) is not int:
            raise ValueError(f"thresholds {values!r} for {metric!r} of the class {positive!r}")
        return cls(tuple(map(float, values)), described["on"], metric, positive)
