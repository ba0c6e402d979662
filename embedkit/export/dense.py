"""A head as layers that a graph can hold, or why it has none."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedkit.errors import ExportError
from embedkit.heads import CalibratedHead, Head, LinearHead, MlpHead

# What stands for an infinite logit: far beyond where float32 probabilities are exactly 0 and 1, and a number
# that every runtime carries.
CERTAIN = 1e4
_REASONS = {
    "knn": "it compares each text with the training rows, which the folder would have to hold",
    "gaussian": "its scores are not linear in the features",
    "constant": "it gives every text the same answer",
    "skops": "it is an object of scikit-learn",
    "per-label": "it is made of a head for each label, and not all of them are linear",
}


class Dense(NamedTuple):
    """Layers that end in logits, one a class (for two classes 0 and the score) or label.

    Attributes
    ----------
    layers : list of (weights, bias)
        float64 arrays of shapes (in, out) and (out,), all finite.
    activation : {"identity", "relu", "tanh"}
        Between the layers.
    """

    layers: list[tuple[NDArray[np.float64], NDArray[np.float64]]]
    activation: str

    @property
    def bias(self) -> list[float]:
        """What the logits are where the last layer's input is 0."""
        return [float(value) for value in self.layers[-1][1]]


def dense_of(head: Head) -> Dense:
    """Return the layers of a head.

    Raises
    ------
    ExportError
        The head has no such form; the message names it and says why.
    """
    layers, activation = _layers(head)
    weights, bias = layers[-1]
    if not head.multi_label and head.classes == 2:
        weights, bias = _of_two(weights, bias)
    layers[-1] = (weights, np.clip(bias, -CERTAIN, CERTAIN))
    return Dense(layers, activation)


def _layers(head: Head) -> tuple[list[tuple[NDArray[Any], NDArray[Any]]], str]:
    if isinstance(head, LinearHead):
        return [(_double(head.coef.T), _double(head.intercept))], "identity"
    if isinstance(head, MlpHead):
        return [(_double(weights), _double(bias)) for weights, bias in head.layers], head.activation
    if isinstance(head, CalibratedHead):
        layers, activation = _layers(head.base)
        weights, bias = layers[-1]
        if weights.shape[1] == 2 and not head.multi_label:
            weights, bias = weights[:, 1:] - weights[:, :1], bias[1:] - bias[:1]
        layers[-1] = (weights * head.scale, bias * head.scale + head.shift)
        return layers, activation
    reason = _REASONS.get(head.kind, "it has no form that a graph can hold")
    raise ExportError(
        f"a {head.kind} head cannot be exported: {reason}; train with --clf logreg, ridge, linear-svm, lda, "
        "centroid or mlp"
    )


def _of_two(weights: NDArray[Any], bias: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return columns (0, s): softmax gives the probabilities, and what shows one column a class works."""
    if weights.shape[1] == 2:
        weights, bias = weights[:, 1:] - weights[:, :1], bias[1:] - bias[:1]
    return np.hstack([np.zeros_like(weights), weights]), np.concatenate([[0.0], bias])


def _double(array: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(array, dtype=np.float64)
