"""Heads that are plain arrays and not linear: neighbours, Gaussian classes, a small network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from embedkit.heads.base import Arrays, Floats, ScoredHead, State, check_features, facts_of, frozen

SMALLEST = 1e-12  # a probability below it has the score of this one, so that scores stay finite
_DISTANCES = 1 << 22  # squared distances at once: 32 MiB


def scores_of(probabilities: Floats, *, multi_label: bool) -> Floats:
    """Return probabilities (N, C) as scores: log odds (N,) for two classes and (N, C) for labels, else logs."""
    clipped = np.clip(np.asarray(probabilities, dtype=np.float64), SMALLEST, 1.0)
    if multi_label:
        return np.asarray(np.log(clipped) - np.log(np.clip(1.0 - probabilities, SMALLEST, 1.0)))
    logs: Floats = np.log(clipped)
    return logs[:, 1] - logs[:, 0] if logs.shape[1] == 2 else logs


def certain(scores: Floats, shares: Floats) -> Floats:
    """Return scores (N, C) with -inf for what no training row had (share 0), inf for a label that all had (1)."""
    return np.where(shares == 0, -np.inf, np.where(shares == 1, np.inf, scores))


@dataclass(frozen=True, eq=False)
class KnnHead(ScoredHead):
    """Votes of the nearest training rows, as scikit-learn's KNeighborsClassifier counts them.

    Of rows at the same distance the earlier ones are nearer.

    Parameters
    ----------
    points : numpy.ndarray of float32 or float64, shape (M, D)
        Training features as they came.
    targets : numpy.ndarray of bool, shape (M, C)
        The class or the labels of each.
    mean, scale : numpy.ndarray of float64, shape (D,)
        Points and features are compared as (x - mean) / scale.
    k : int
        Neighbours asked, 1 to M.
    weights : {"uniform", "distance"}
        A vote counts one, or one over the Euclidean distance; at distance 0 only such votes count.
    multi_label : bool
    """

    points: Floats
    targets: npt.NDArray[np.bool_]
    mean: Floats
    scale: Floats
    k: int
    weights: str = "uniform"
    multi_label: bool = False
    kind: ClassVar[str] = "knn"
    has_probabilities: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("points", "targets", "mean", "scale"):
            object.__setattr__(self, name, frozen(getattr(self, name)))
        rows, width = self.points.shape
        if self.targets.shape[:1] != (rows,) or self.targets.dtype != np.bool_ or self.targets.ndim != 2:
            raise ValueError(f"targets of shape {self.targets.shape} do not fit {rows} points")
        if not self.multi_label and (self.classes < 2 or (self.targets.sum(axis=1) != 1).any()):
            raise ValueError("each point must have one of two or more classes")
        if self.mean.shape != (width,) or self.scale.shape != (width,) or not (self.scale > 0).all():
            raise ValueError("mean and scale do not fit the points")
        if not all(np.isfinite(array).all() for array in (self.points, self.mean, self.scale)):
            raise ValueError("points, mean and scale must be finite")
        if not 1 <= self.k <= rows or self.weights not in ("uniform", "distance"):
            raise ValueError(f"k must be 1 to {rows}, weights uniform or distance: {self.k}, {self.weights}")

    @property
    def classes(self) -> int:
        """Number of classes or labels."""
        return int(self.targets.shape[1])

    @property
    def n_features(self) -> int:
        """Width of the features."""
        return int(self.points.shape[1])

    def predict_proba(self, X: npt.ArrayLike) -> Floats:  # noqa: N803
        """Return the shares of the votes (N, C)."""
        return self.votes(*self.neighbours(X))

    def neighbours(self, X: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], Floats]:  # noqa: N803
        """Return the k nearest points of each row, the nearest first, and their squared distances: (N, k) each."""
        checked = check_features(X, n_features=self.n_features)
        near, squared = np.empty((len(checked), self.k), np.int64), np.empty((len(checked), self.k))
        step = max(1, _DISTANCES // max(self.points.shape))
        for start in range(0, len(checked), step):
            rows = slice(start, start + step)
            near[rows], squared[rows] = _nearest(self._standardised(checked[rows]), *self._compared, self.k)
        return near, squared

    @cached_property
    def _compared(self) -> tuple[Floats, Floats]:
        """Return the points in the form in which they are compared, and their squared lengths."""
        points = self._standardised(self.points)
        return points, np.einsum("ij,ij->i", points, points)

    def _standardised(self, features: Floats) -> Floats:
        """Return float64 features; the same steps for points and for rows, so that equal ones stay equal."""
        return np.asarray((features.astype(np.float64, copy=False) - self.mean) / self.scale)

    def votes(self, near: npt.NDArray[np.int64], squared: Floats) -> Floats:
        """Return the shares (N, C) of the votes of points, given as `neighbours` gives them."""
        chosen = self.targets[near]  # (rows, k, C)
        if self.weights == "uniform":
            return np.asarray(chosen.mean(axis=1))
        distances = np.sqrt(squared)
        same = distances == 0
        with np.errstate(divide="ignore"):
            weights = np.where(same.any(axis=1, keepdims=True), same, 1.0 / distances)
        return np.asarray(np.einsum("rk,rkc->rc", weights, chosen) / weights.sum(axis=1, keepdims=True))

    def decision_function(self, X: npt.ArrayLike) -> Floats:  # noqa: N803
        """Return log odds (N,) for two classes, (N, C) for labels; else log shares (N, C)."""
        scores = scores_of(self.predict_proba(X), multi_label=self.multi_label)
        return scores if scores.ndim == 1 else certain(scores, self.targets.mean(axis=0))

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[Any]:  # noqa: N803
        """Return the codes with most votes (N,), or the labels of more than half of them (N, C)."""
        return self.winners(self.predict_proba(X))

    def winners(self, shares: Floats) -> npt.NDArray[Any]:
        """Return what `predict` answers to shares of votes."""
        if self.multi_label:
            return np.asarray(shares > 0.5)
        return np.asarray(shares.argmax(axis=1), dtype=np.int64)

    def state(self) -> State:
        """Return the description and the arrays ``points``, ``targets``, ``mean``, ``scale``."""
        described = {**facts_of(self), "k": self.k, "weights": self.weights}
        names = ("points", "targets", "mean", "scale")
        return State(described, {name: getattr(self, name) for name in names})

    @classmethod
    def from_state(cls, described: Mapping[str, Any], arrays: Arrays) -> KnnHead:
        """Read back what `state` gave."""
        return cls(
            *(arrays["points"], arrays["targets"], arrays["mean"], arrays["scale"]),
            *(described["k"], described["weights"], described["multi_label"]),
        )


def _nearest(asked: Floats, points: Floats, lengths: Floats, k: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return the k nearest points of each row in their order, of equal ones the first, and the squared distances.

    |a|^2 - 2 a p + |p|^2 is fast and finds the candidates. Its rounding would part equal distances by chance and
    make something of none, so the distances that count are taken from the differences.
    """
    own = np.einsum("ij,ij->i", asked, asked)
    rough = lengths - 2 * (asked @ points.T) + own[:, None]
    near = np.argpartition(rough, k - 1, axis=1)[:, :k]
    rounding = 4 * (asked.shape[1] + 4) * np.finfo(np.float64).eps * (lengths.max() + own)
    furthest = np.take_along_axis(rough, near, axis=1).max(axis=1) + rounding
    for row in np.flatnonzero((rough <= furthest[:, None]).sum(axis=1) > k):
        candidates = np.flatnonzero(rough[row] <= furthest[row])
        order = np.argsort(_squared(asked[row], points[candidates]), kind="stable")
        near[row] = candidates[order[:k]]
    near.sort(axis=1)
    squared = np.column_stack([_squared(asked, points[near[:, place]]) for place in range(k)])
    order = np.argsort(squared, axis=1, kind="stable")
    return np.take_along_axis(near, order, axis=1), np.take_along_axis(squared, order, axis=1)


def _squared(rows: Floats, others: Floats) -> Floats:
    """Return the squared distance of each pair of rows."""
    differences = rows - others
    return np.asarray(np.einsum("ij,ij->i", differences, differences))


@dataclass(frozen=True, eq=False)
class GaussianHead(ScoredHead):
    """Independent normal features within each class (Gaussian naive Bayes).

    Parameters
    ----------
    mean, variance : numpy.ndarray of float64, shape (C, D)
        Of each class; a standardiser is folded in.
    log_prior : numpy.ndarray of float64, shape (C,)
        ``-inf`` for a class that had no training rows.
    """

    mean: Floats
    variance: Floats
    log_prior: Floats
    kind: ClassVar[str] = "gaussian"
    multi_label: ClassVar[bool] = False
    has_probabilities: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("mean", "variance", "log_prior"):
            object.__setattr__(self, name, frozen(np.asarray(getattr(self, name), dtype=np.float64)))
        if self.mean.ndim != 2 or self.variance.shape != self.mean.shape or len(self.mean) < 2:
            raise ValueError(f"mean and variance of shapes {self.mean.shape} and {self.variance.shape} do not fit")
        known = np.isfinite(self.log_prior)
        if (
            self.log_prior.shape != (len(self.mean),)
            or not known.any()
            or (self.log_prior[~known] != -np.inf).any()
        ):
            raise ValueError("log_prior does not fit the classes")
        if not np.isfinite(self.mean).all() or not (np.isfinite(self.variance) & (self.variance > 0)).all():
            raise ValueError("means must be finite and variances positive and finite")

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.mean)

    @property
    def n_features(self) -> int:
        """Width of the features."""
        return int(self.mean.shape[1])

    def decision_function(self, X: npt.ArrayLike) -> Floats:  # noqa: N803
        """Return log odds (N,) for two classes, else joint log likelihoods (N, C)."""
        checked = check_features(X, n_features=self.n_features).astype(np.float64, copy=False)
        joint = np.empty((len(checked), self.classes))
        for code, (mean, variance) in enumerate(zip(self.mean, self.variance, strict=True)):
            constant = self.log_prior[code] - 0.5 * np.log(2.0 * np.pi * variance).sum()
            joint[:, code] = constant - 0.5 * ((checked - mean) ** 2 / variance).sum(axis=1)
        return joint[:, 1] - joint[:, 0] if self.classes == 2 else joint

    def state(self) -> State:
        """Return the description and the arrays ``mean``, ``variance``, ``log_prior``."""
        described = facts_of(self)
        return State(described, {name: getattr(self, name) for name in ("mean", "variance", "log_prior")})

    @classmethod
    def from_state(cls, described: Mapping[str, Any], arrays: Arrays) -> GaussianHead:
        """Read back what `state` gave."""
        return cls(arrays["mean"], arrays["variance"], arrays["log_prior"])


ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {
    "identity": lambda values: values,
    "relu": lambda values: np.maximum(values, 0),
    "tanh": np.tanh,
}


@dataclass(frozen=True, eq=False)
class MlpHead(ScoredHead):
    """A feed-forward network; its last layer gives log odds.

    Parameters
    ----------
    layers : sequence of (weights, bias)
        Arrays of shapes (in, out) and (out,). The last `out` is 1 for two classes, else C. A standardiser is
        folded into the first. The last bias is ``-inf`` for what no training row had, ``inf`` for a label that
        all had.
    activation : {"relu", "tanh", "identity"}
        Between the layers.
    multi_label : bool
    """

    layers: Sequence[tuple[Floats, Floats]]
    activation: str = "relu"
    multi_label: bool = False
    kind: ClassVar[str] = "mlp"
    has_probabilities: ClassVar[bool] = True

    def __post_init__(self) -> None:
        layers = tuple((frozen(weights), frozen(bias)) for weights, bias in self.layers)
        object.__setattr__(self, "layers", layers)
        if self.activation not in ACTIVATIONS or not layers:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {self.activation!r}")
        for place, (weights, bias) in enumerate(layers):
            before = layers[place - 1][0].shape[1] if place else weights.shape[0]
            if weights.ndim != 2 or weights.shape[0] != before or bias.shape != (weights.shape[1],):
                raise ValueError(f"layer {place}: shapes {weights.shape} and {bias.shape} do not fit")
            last = place == len(layers) - 1
            if not np.isfinite(weights).all() or not (np.isfinite(bias).all() or (last and self._certain(bias))):
                raise ValueError(f"layer {place}: not finite")

    def _certain(self, bias: Floats) -> bool:
        """Say whether a last bias that is not finite makes sense."""
        several = self.multi_label or (np.isfinite(bias).any() and (bias < np.inf).all())
        return bool(several and not np.isnan(bias).any())

    @property
    def classes(self) -> int:
        """Number of classes or labels."""
        out = int(self.layers[-1][0].shape[1])
        return 2 if out == 1 and not self.multi_label else out

    @property
    def n_features(self) -> int:
        """Width of the features."""
        return int(self.layers[0][0].shape[0])

    def decision_function(self, X: npt.ArrayLike) -> Floats:  # noqa: N803
        """Return log odds: (N,) for two classes, else (N, C)."""
        values: Floats = check_features(X, n_features=self.n_features).astype(np.float64, copy=False)
        for place, (weights, bias) in enumerate(self.layers):
            values = values @ weights.astype(np.float64) + bias
            if place < len(self.layers) - 1:
                values = ACTIVATIONS[self.activation](values)
        if self.multi_label or self.classes > 2:
            return values
        return values[:, 0] if values.shape[1] == 1 else values[:, 1] - values[:, 0]

    def state(self) -> State:
        """Return the description and the arrays ``weights_0``, ``bias_0``, ``weights_1``, ..."""
        described = {**facts_of(self), "layers": len(self.layers), "activation": self.activation}
        arrays: dict[str, Floats] = {}
        for place, (weights, bias) in enumerate(self.layers):
            arrays |= {f"weights_{place}": weights, f"bias_{place}": bias}
        return State(described, arrays)

    @classmethod
    def from_state(cls, described: Mapping[str, Any], arrays: Arrays) -> MlpHead:
        """Read back what `state` gave."""
        places = range(described["layers"])
        layers = [(arrays[f"weights_{place}"], arrays[f"bias_{place}"]) for place in places]
        return cls(layers, described["activation"], described["multi_label"])
