"""Fitted heads as plain frozen arrays: they predict with numpy alone and are saved without pickle.

A head is what a classical classifier leaves behind once it is fitted. scikit-learn is needed to fit one,
not to use it, so a saved classifier answers without importing scikit-learn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from embedkit.errors import ArtifactError, DataError

Floats = npt.NDArray[np.floating[Any]]
Codes = npt.NDArray[np.int64]
State = tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]

ROWS_AT_ONCE = 16_384  # bounds the float64 copy of the features that a prediction makes


class Head(Protocol):
    """What every fitted head answers.

    Features are (N, D) floats; D must be `n_features`. N may be 0. Every method raises `DataError` for
    another shape, another width, or a value that is not finite.
    """

    @property
    def kind(self) -> str:
        """Name of the saved form, such as ``"linear"``."""

    @property
    def classes(self) -> int:
        """Number of classes C; codes are 0 to C - 1."""

    @property
    def n_features(self) -> int:
        """Width D of the features."""

    def decision_function(self, X: npt.ArrayLike) -> Floats:  # noqa: N803 - scikit-learn's name
        """Return float64 scores: (N,) for two classes, above 0 means code 1; else (N, C)."""

    def predict_proba(self, X: npt.ArrayLike) -> Floats:  # noqa: N803
        """Return float64 probabilities (N, C); each row sums to 1."""

    def predict(self, X: npt.ArrayLike) -> Codes:  # noqa: N803
        """Return the int64 code (N,) of the most probable class; the lower code of two equal ones."""

    def state(self) -> State:
        """Return a JSON-able description and the named arrays; `head_from_state` reads both back."""


def check_features(features: npt.ArrayLike, *, n_features: int | None = None) -> Floats:
    """Return features as float32 or float64 in two dimensions, or say where they are wrong.

    Parameters
    ----------
    features : array-like, shape (N, D)
        Booleans, integers or floats. float16 becomes float32, integers float64.
    n_features : int, optional
        The width that D must have.

    Returns
    -------
    numpy.ndarray of float32 or float64, shape (N, D)
        The input itself where it already fits.

    Raises
    ------
    DataError
        For another shape, width or dtype, or a NaN or infinite value, named by row and column from 1.
    """
    array = np.asarray(features)
    if array.ndim != 2:
        raise DataError(f"features must have two dimensions (rows, width), not shape {array.shape}")
    if array.dtype.kind not in "biuf":
        raise DataError(f"features must be numbers, not of dtype {array.dtype}")
    if n_features is not None and array.shape[1] != n_features:
        raise DataError(f"features have {array.shape[1]} columns, but the head was fitted on {n_features}")
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    elif array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    _check_finite(array)
    return array


def _check_finite(features: Floats) -> None:
    """Raise for the first value that is NaN or infinite, without a mask of the whole array."""
    for start in range(0, len(features), ROWS_AT_ONCE):
        finite = np.isfinite(features[start : start + ROWS_AT_ONCE])
        if not finite.all():
            row, column = np.argwhere(~finite)[0] + (start, 0)
            raise DataError(
                f"features: row {row + 1}, column {column + 1} is {features[row, column]}, "
                "not a finite number; extract this row again in float32"
            )


def _frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a contiguous copy that cannot be written to."""
    copy = np.array(array, order="C")
    copy.flags.writeable = False
    return copy


@dataclass(frozen=True, eq=False)
class LinearHead:
    """Scores that are linear in the features, and a link to probabilities.

    Parameters
    ----------
    coef : numpy.ndarray of float32 or float64, shape (1, D) or (C, D)
        One row for two classes under the ``"sigmoid"`` link, else a row for each class. A standardiser
        is folded in.
    intercept : numpy.ndarray, shape (1,) or (C,)
        ``-inf`` for a class that had no training rows: its probability is 0.
    link : {"sigmoid", "softmax"}
        From scores to probabilities.

    Raises
    ------
    ValueError
        If shapes, link or values do not fit together.
    """

    coef: Floats
    intercept: Floats
    link: str
    kind: ClassVar[str] = "linear"

    def __post_init__(self) -> None:
        object.__setattr__(self, "coef", _frozen(self.coef))
        object.__setattr__(self, "intercept", _frozen(self.intercept))
        if self.link not in ("sigmoid", "softmax"):
            raise ValueError(f"link must be 'sigmoid' or 'softmax', not {self.link!r}")
        if any(array.dtype not in (np.float32, np.float64) for array in (self.coef, self.intercept)):
            raise ValueError("coef and intercept must be float32 or float64")
        rows_fit = len(self.coef) == 1 if self.link == "sigmoid" else len(self.coef) >= 2
        if self.coef.ndim != 2 or not rows_fit or self.intercept.shape != (len(self.coef),):
            shapes = f"{self.coef.shape} and {self.intercept.shape}"
            raise ValueError(f"coef and intercept of shapes {shapes} do not fit the link {self.link!r}")
        known = self.intercept[np.isfinite(self.intercept)]
        if not np.isfinite(self.coef).all() or not len(known) or not (self.intercept < np.inf).all():
            raise ValueError("coef and intercept must be finite")

    @property
    def classes(self) -> int:
        """Number of classes."""
        return 2 if self.link == "sigmoid" else len(self.coef)

    @property
    def n_features(self) -> int:
        """Width of the features."""
        return int(self.coef.shape[1])

    def _scores(self, features: npt.ArrayLike) -> Floats:
        """Return the (N, rows of coef) scores in float64, whatever the features' precision."""
        checked = check_features(features, n_features=self.n_features)
        weights = self.coef.T.astype(np.float64)
        scores = np.empty((len(checked), len(self.coef)), dtype=np.float64)
        for start in range(0, len(checked), ROWS_AT_ONCE):
            chunk = slice(start, start + ROWS_AT_ONCE)
            np.matmul(checked[chunk].astype(np.float64, copy=False), weights, out=scores[chunk])
        return scores + self.intercept

    def decision_function(self, X: npt.ArrayLike) -> Floats:  # noqa: N803
        """Return the scores: (N,) for two classes under the sigmoid link or the softmax, else (N, C)."""
        scores = self._scores(X)
        if self.link == "sigmoid":
            return scores[:, 0]
        return scores[:, 1] - scores[:, 0] if self.classes == 2 else scores

    def predict_proba(self, X: npt.ArrayLike) -> Floats:  # noqa: N803
        """Return the probabilities (N, C)."""
        scores = self._scores(X)
        if self.link == "sigmoid":
            # sigmoid(s) = softmax(0, s): one formula that overflows for no score
            scores = np.column_stack([np.zeros(len(scores)), scores[:, 0]])
        scores -= scores.max(axis=1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=1, keepdims=True)
        return scores

    def predict(self, X: npt.ArrayLike) -> Codes:  # noqa: N803
        """Return the most probable codes (N,)."""
        scores = self._scores(X)
        if self.link == "sigmoid":
            return np.asarray(scores[:, 0] > 0, dtype=np.int64)
        return np.asarray(scores.argmax(axis=1), dtype=np.int64)

    def state(self) -> State:
        """Return the description and the arrays ``coef`` and ``intercept``."""
        described = {
            "kind": self.kind,
            "link": self.link,
            "classes": self.classes,
            "n_features": self.n_features,
        }
        return described, {"coef": self.coef, "intercept": self.intercept}

    @classmethod
    def from_state(cls, described: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> LinearHead:
        """Read back what `state` gave."""
        return cls(coef=arrays["coef"], intercept=arrays["intercept"], link=described["link"])


@dataclass(frozen=True, eq=False)
class ConstantHead:
    """The same probabilities for every row: the floor that a real head must beat.

    Parameters
    ----------
    prior : numpy.ndarray of float64, shape (C,)
        Probabilities that sum to 1.
    n_features : int
        Width that the features must have, though they are not used.

    Raises
    ------
    ValueError
        If `prior` is not a distribution over two or more classes.
    """

    prior: Floats
    n_features: int
    kind: ClassVar[str] = "constant"

    def __post_init__(self) -> None:
        object.__setattr__(self, "prior", _frozen(np.asarray(self.prior, dtype=np.float64)))
        if self.prior.ndim != 1 or len(self.prior) < 2:
            raise ValueError(f"prior must hold two or more probabilities, not shape {self.prior.shape}")
        if not (self.prior >= 0).all() or abs(self.prior.sum() - 1) > 1e-9:
            raise ValueError("prior must hold probabilities that sum to 1")

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.prior)

    def decision_function(self, X: npt.ArrayLike) -> Floats:  # noqa: N803
        """Return log odds (N,) for two classes, else log probabilities (N, C)."""
        with np.errstate(divide="ignore"):
            logs = np.log(self.predict_proba(X))
        return logs[:, 1] - logs[:, 0] if self.classes == 2 else logs

    def predict_proba(self, X: npt.ArrayLike) -> Floats:  # noqa: N803
        """Return the prior in every row (N, C)."""
        rows = len(check_features(X, n_features=self.n_features))
        return np.tile(self.prior, (rows, 1))

    def predict(self, X: npt.ArrayLike) -> Codes:  # noqa: N803
        """Return the most frequent code (N,)."""
        rows = len(check_features(X, n_features=self.n_features))
        return np.full(rows, self.prior.argmax(), dtype=np.int64)

    def state(self) -> State:
        """Return the description and the array ``prior``."""
        described = {"kind": self.kind, "classes": self.classes, "n_features": self.n_features}
        return described, {"prior": self.prior}

    @classmethod
    def from_state(cls, described: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> ConstantHead:
        """Read back what `state` gave."""
        return cls(prior=arrays["prior"], n_features=int(described["n_features"]))


_KINDS: dict[str, type[LinearHead | ConstantHead]] = {"linear": LinearHead, "constant": ConstantHead}


def head_from_state(described: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Head:
    """Rebuild a head from what its `state` gave.

    Parameters
    ----------
    described : mapping
        The JSON-able part; ``kind`` picks the class from a fixed table.
    arrays : mapping of str to numpy.ndarray
        The named arrays.

    Returns
    -------
    Head
        Predicting as the head that was saved, bit for bit.

    Raises
    ------
    ArtifactError
        If the kind is unknown, or the parts are missing or do not fit together.
    """
    kind = described.get("kind")
    if kind not in _KINDS:
        raise ArtifactError(f"the head is of the unknown kind {kind!r}; known: {', '.join(_KINDS)}")
    try:
        head = _KINDS[kind].from_state(described, arrays)
    except KeyError as error:
        raise ArtifactError(f"the {kind} head lacks {error}") from None
    except (ValueError, TypeError) as error:
        raise ArtifactError(f"the {kind} head is damaged: {error}") from None
    if (head.classes, head.n_features) != (described.get("classes"), described.get("n_features")):
        raise ArtifactError(
            f"the {kind} head is described with {described.get('classes')} classes and "
            f"{described.get('n_features')} features, but its arrays hold {head.classes} and {head.n_features}"
        )
    return head
