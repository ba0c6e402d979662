"""What training makes small: cross-entropy for one label a row, binary cross-entropy for several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from embedkit.errors import UsageError
from embedkit.training.rows import IGNORED

Loss: TypeAlias = Callable[[torch.Tensor, torch.Tensor, "torch.Tensor | int | None"], torch.Tensor]
"""From logits, targets and how many targets the step counts (None: those that are given) to a scalar."""


def class_weights(
    targets: NDArray[Any], weight: Mapping[str, float] | Literal["balanced"] | None, names: Sequence[str]
) -> NDArray[np.float32] | None:
    """Return the weight of each label, shape (C,); None where all weigh the same.

    ``"balanced"`` is n / (C * n_c) for one label a row, as in scikit-learn: the rows of each class weigh the same
    together, and rows weigh 1 in the mean. For several labels a row it is the number of rows without a label over
    those with it, which weighs the rows that have it.

    Raises
    ------
    UsageError
        A mapping names an unknown label, or a weight is not above 0.
    """
    if weight is None:
        return None
    if isinstance(weight, Mapping):
        return _given(weight, names)
    if weight != "balanced":
        raise UsageError(f"class_weight is {weight!r}; allowed: balanced, or a weight for each label")
    if targets.ndim == 2:
        positive = targets.sum(0)
        return np.asarray(((len(targets) - positive) / np.maximum(positive, 1)).clip(min=1e-3), np.float32)
    known = targets[targets != IGNORED]
    counts = np.bincount(known.ravel(), minlength=len(names))
    return np.asarray(known.size / (len(names) * np.maximum(counts, 1)), np.float32)


def _given(weight: Mapping[str, float], names: Sequence[str]) -> NDArray[np.float32]:
    unknown = sorted(set(weight) - set(names))
    if unknown:
        raise UsageError(f"class_weight names unknown labels: {', '.join(unknown)}; known: {', '.join(names)}")
    wrong = [name for name, value in weight.items() if not _is_weight(value)]
    if wrong:
        raise UsageError(f"class_weight of {wrong[0]} is {weight[wrong[0]]!r}; it must be above 0")
    return np.array([weight.get(name, 1.0) for name in names], np.float32)


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < np.inf


def cross_entropy(weights: NDArray[np.float32] | None, smoothing: float, *, a_step: float | None = None) -> Loss:
    """Return the loss of one label a target: the mean over targets, each times the weight of its label.

    Parameters
    ----------
    weights : ndarray of float32, shape (C,), optional
    smoothing : float
    a_step : float, optional
        How many targets a training step has in the mean. By these is divided, whatever a step has: where rows of
        like lengths share a batch, words of short sentences would else weigh many times those of long ones.
    """
    each = losses_of_each(weights, smoothing)

    def loss(logits: torch.Tensor, targets: torch.Tensor, count: torch.Tensor | int | None) -> torch.Tensor:
        total = each(logits, targets).sum()
        if a_step is not None and count is not None:
            return total / a_step
        return total / _counted(count, (targets != IGNORED).sum())

    return loss


def losses_of_each(
    weights: NDArray[np.float32] | None, smoothing: float
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return what gives the loss of each target, flat, times the weight of its label; 0 for `IGNORED`."""
    kept = None if weights is None else torch.from_numpy(weights)

    def losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        flat, known = logits.float().flatten(0, -2), targets.flatten()
        each = functional.cross_entropy(
            flat, known, ignore_index=IGNORED, reduction="none", label_smoothing=smoothing
        )
        return each if kept is None else each * kept.to(each.device)[known.clamp(min=0)]

    return losses


def binary_cross_entropy(weights: NDArray[np.float32] | None) -> Loss:
    """Return the loss of several labels a row: the mean over rows and labels; `weights` are of positive ones."""
    kept = None if weights is None else torch.from_numpy(weights)

    def loss(logits: torch.Tensor, targets: torch.Tensor, count: torch.Tensor | int | None) -> torch.Tensor:
        weight = None if kept is None else kept.to(logits.device)
        total = functional.binary_cross_entropy_with_logits(
            logits.float(), targets, pos_weight=weight, reduction="sum"
        )
        return total / _counted(count, torch.tensor(targets.numel()))

    return loss


def _counted(count: torch.Tensor | int | None, given: torch.Tensor) -> torch.Tensor | int:
    return given.clamp(min=1) if count is None else count
