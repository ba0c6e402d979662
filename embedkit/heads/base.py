"""What every fitted head answers, and the check of the features that it is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from embedkit.errors import DataError, UsageError
from embedkit.runtime.decide import decide, probabilities

Floats = npt.NDArray[np.floating[Any]]
Codes = npt.NDArray[np.int64]
Arrays = Mapping[str, npt.NDArray[Any]]

ROWS_AT_ONCE = 16_384  # bounds the float64 copy of the features that a prediction makes


class State(NamedTuple):
    """A head taken apart: what JSON holds and what arrays hold.

    An array whose name ends in ``.skops`` holds the bytes of a file of that name.
    """

    described: dict[str, Any]
    arrays: dict[str, npt.NDArray[Any]]


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
        """Number of classes (labels) C; codes are 0 to C - 1."""

    @property
    def n_features(self) -> int:
        """Width D of the features."""

    @property
    def multi_label(self) -> bool:
        """Whether a row has any number of labels."""

    @property
    def has_probabilities(self) -> bool:
        """Whether `predict_proba` answers."""

    def decision_function(self, X: npt.ArrayLike) -> Floats:  # noqa: N803 - scikit-learn's name
        """Return float64 scores: (N,) for two classes, above 0 means code 1; else (N, C).

        Where the head has probabilities, `embedkit.runtime.decide.probabilities` of these scores are they.
        """

    def predict_proba(self, X: npt.ArrayLike) -> Floats:  # noqa: N803
        """Return float64 probabilities (N, C); each row sums to 1, unless rows have several labels.

        Raises
        ------
        UsageError
            The head has scores and no probabilities.
        """

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[Any]:  # noqa: N803
        """Return int64 codes (N,), the lower of two equal ones; bool (N, C) where rows have several labels."""

    def state(self) -> State:
        """Return a JSON-able description and the named arrays; `head_from_state` reads both back."""


class ScoredHead:
    """What follows from scores: probabilities by sigmoid or softmax where they are log-odds, and classes."""

    def predict_proba(self: Head, X: npt.ArrayLike) -> Floats:  # noqa: N803
        """Return the probabilities (N, C)."""
        require_probabilities(self.has_probabilities)
        return probabilities(self.decision_function(X), multi_label=self.multi_label)

    def predict(self: Head, X: npt.ArrayLike) -> npt.NDArray[Any]:  # noqa: N803
        """Return the codes (N,) of the highest score, or bool (N, C): scores above 0."""
        return decide(self.decision_function(X), multi_label=self.multi_label)


def facts_of(head: Head) -> dict[str, Any]:
    """Return what JSON says of a head of any kind."""
    return {
        "kind": head.kind,
        "classes": head.classes,
        "n_features": head.n_features,
        "multi_label": head.multi_label,
    }


def require_probabilities(there: bool) -> None:
    """Raise `UsageError` where a head has none."""
    if not there:
        raise UsageError(
            "this head gives scores and no probabilities (ridge, linear-svm and centroid give none); calibrate it "
            "(--calibrate, in Python calibrate=True), take another head, or use decision_function"
        )


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
    if not array.shape[1]:
        raise DataError("features have 0 columns; a head needs one or more")
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


def frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a contiguous copy that cannot be written to."""
    copy = np.array(array, order="C")
    copy.flags.writeable = False
    return copy
