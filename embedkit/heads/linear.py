"""Heads that are linear in the features, and the head that looks at none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from embedkit.heads.base import (
    ROWS_AT_ONCE,
    Arrays,
    Floats,
    ScoredHead,
    State,
    check_features,
    facts_of,
    frozen,
)

LINKS = ("sigmoid", "softmax", "none")


@dataclass(frozen=True, eq=False)
class LinearHead(ScoredHead):
    """Scores that are linear in the features, and a link to probabilities.

    Parameters
    ----------
    coef : numpy.ndarray of float32 or float64, shape (1, D) or (C, D)
        One row for two classes under ``"sigmoid"`` or ``"none"``, else a row for each class or label. A
        standardiser is folded in.
    intercept : numpy.ndarray, shape (1,) or (C,)
        ``-inf`` for a class that had no training rows: its probability is 0. ``inf`` for a label that all
        training rows had.
    link : {"sigmoid", "softmax", "none"}
        From scores to probabilities; none: there are no probabilities.
    multi_label : bool
        Whether each row of `coef` is a label that stands for itself.

    Raises
    ------
    ValueError
        If shapes, link or values do not fit together.
    """

    coef: Floats
    intercept: Floats
    link: str
    multi_label: bool = False
    kind: ClassVar[str] = "linear"

    def __post_init__(self) -> None:
        object.__setattr__(self, "coef", frozen(self.coef))
        object.__setattr__(self, "intercept", frozen(self.intercept))
        if self.link not in LINKS or (self.multi_label and self.link == "softmax"):
            raise ValueError(f"link must be one of {LINKS}, and not 'softmax' for several labels: {self.link!r}")
        if any(array.dtype not in (np.float32, np.float64) for array in (self.coef, self.intercept)):
            raise ValueError("coef and intercept must be float32 or float64")
        if self.coef.ndim != 2 or not self._rows_fit() or self.intercept.shape != (len(self.coef),):
            shapes = f"{self.coef.shape} and {self.intercept.shape}"
            raise ValueError(f"coef and intercept of shapes {shapes} do not fit the link {self.link!r}")
        self._check_values()

    def _rows_fit(self) -> bool:
        if self.multi_label:
            return len(self.coef) >= 1
        return (
            len(self.coef) == 1
            if self.link == "sigmoid"
            else len(self.coef) >= (2 if self.link == "softmax" else 1)
        )

    def _check_values(self) -> None:
        known = np.isfinite(self.intercept)
        extreme = self.multi_label or (known.any() and (self.intercept < np.inf).all())
        if not np.isfinite(self.coef).all() or np.isnan(self.intercept).any() or not extreme:
            raise ValueError("coef and intercept must be finite")

    @property
    def classes(self) -> int:
        """Number of classes or labels."""
        return 2 if len(self.coef) == 1 and not self.multi_label else len(self.coef)

    @property
    def n_features(self) -> int:
        """Width of the features."""
        return int(self.coef.shape[1])

    @property
    def has_probabilities(self) -> bool:
        """Whether there is a link."""
        return self.link != "none"

    def decision_function(self, X: npt.ArrayLike) -> Floats:  # noqa: N803
        """Return float64 scores, whatever the features' precision: (N,) for two classes, else (N, C)."""
        checked = check_features(X, n_features=self.n_features)
        weights = self.coef.T.astype(np.float64)
        scores = np.empty((len(checked), len(self.coef)), dtype=np.float64)
        for start in range(0, len(checked), ROWS_AT_ONCE):
            chunk = slice(start, start + ROWS_AT_ONCE)
            np.matmul(checked[chunk].astype(np.float64, copy=False), weights, out=scores[chunk])
        scores += self.intercept
        if self.multi_label or self.classes > 2:
            return scores
        return scores[:, 0] if len(self.coef) == 1 else scores[:, 1] - scores[:, 0]

    def affine(self, scale: Floats, shift: Floats) -> LinearHead:
        """Return the head whose scores are scale * s + shift, with probabilities.

        Parameters
        ----------
        scale, shift : numpy.ndarray of float64, shape (1,) or (C,)
            As `CalibratedHead` has them.
        """
        coef, intercept = self.coef.astype(np.float64), self.intercept.astype(np.float64)
        if self.multi_label or self.classes > 2:
            factor = np.broadcast_to(scale, len(coef))
            link = "sigmoid" if self.multi_label else "softmax"
            return LinearHead(coef * factor[:, None], intercept * factor + shift, link, self.multi_label)
        if len(coef) == 2:
            coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
        return LinearHead(coef * scale, intercept * scale + shift, "sigmoid")

    def state(self) -> State:
        """Return the description and the arrays ``coef`` and ``intercept``."""
        described = {**facts_of(self), "link": self.link}
        return State(described, {"coef": self.coef, "intercept": self.intercept})

    @classmethod
    def from_state(cls, described: Mapping[str, Any], arrays: Arrays) -> LinearHead:
        """Read back what `state` gave."""
        return cls(arrays["coef"], arrays["intercept"], described["link"], described["multi_label"])

    @classmethod
    def stacked(cls, heads: Sequence[LinearHead]) -> LinearHead:
        """Return one head for several labels out of one of two classes for each."""
        coef = np.concatenate([head.coef for head in heads])
        intercept = np.concatenate([head.intercept for head in heads])
        return cls(coef, intercept, heads[0].link, multi_label=True)


@dataclass(frozen=True, eq=False)
class ConstantHead(ScoredHead):
    """The same probabilities for every row: the floor that a real head must beat.

    Parameters
    ----------
    prior : numpy.ndarray of float64, shape (C,)
        Probabilities; they sum to 1 unless `multi_label`.
    n_features : int
        Width that the features must have, though they are not used.
    multi_label : bool
        Whether each probability is of a label that stands for itself.

    Raises
    ------
    ValueError
        If `prior` is not a distribution over two or more classes.
    """

    prior: Floats
    n_features: int
    multi_label: bool = False
    kind: ClassVar[str] = "constant"
    has_probabilities: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "prior", frozen(np.asarray(self.prior, dtype=np.float64)))
        if self.prior.ndim != 1 or len(self.prior) < (1 if self.multi_label else 2):
            raise ValueError(f"prior must hold two or more probabilities, not shape {self.prior.shape}")
        if not (self.prior >= 0).all() or not (self.prior <= 1).all():
            raise ValueError("prior must hold probabilities")
        if not self.multi_label and abs(self.prior.sum() - 1) > 1e-9:
            raise ValueError("prior must hold probabilities that sum to 1")

    @property
    def classes(self) -> int:
        """Number of classes or labels."""
        return len(self.prior)

    def predict_proba(self, X: npt.ArrayLike) -> Floats:  # noqa: N803
        """Return the prior in every row (N, C)."""
        rows = len(check_features(X, n_features=self.n_features))
        return np.tile(self.prior, (rows, 1))

    def decision_function(self, X: npt.ArrayLike) -> Floats:  # noqa: N803
        """Return log odds, (N,) for two classes and (N, C) for labels; else log probabilities (N, C)."""
        with np.errstate(divide="ignore"):
            logs = np.log(self.prior)
            if self.multi_label:
                logs = logs - np.log1p(-self.prior)
        scores = np.tile(logs, (len(check_features(X, n_features=self.n_features)), 1))
        return scores[:, 1] - scores[:, 0] if self.classes == 2 and not self.multi_label else scores

    def state(self) -> State:
        """Return the description and the array ``prior``."""
        described = facts_of(self)
        return State(described, {"prior": self.prior})

    @classmethod
    def from_state(cls, described: Mapping[str, Any], arrays: Arrays) -> ConstantHead:
        """Read back what `state` gave."""
        return cls(arrays["prior"], described["n_features"], described["multi_label"])
