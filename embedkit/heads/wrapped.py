"""Heads made of heads: one with its scores calibrated, and one for each label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from embedkit.errors import UsageError
from embedkit.heads.base import Arrays, Floats, Head, ScoredHead, State, facts_of
from embedkit.heads.calibration import Calibration
from embedkit.heads.skops_head import FILE


def prefixed(prefix: str, arrays: Arrays) -> dict[str, npt.NDArray[Any]]:
    """Return arrays under names that start with a prefix; a file keeps its name."""
    return {name if name == FILE else f"{prefix}.{name}": array for name, array in arrays.items()}


def unprefixed(prefix: str, arrays: Arrays) -> dict[str, npt.NDArray[Any]]:
    """Return what `prefixed` was given."""
    start = f"{prefix}."
    return {
        name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start) or name == FILE
    }


@dataclass(frozen=True, eq=False)
class CalibratedHead(ScoredHead):
    """A head whose scores are moved to scale * s + shift, which makes log odds of them.

    Parameters
    ----------
    base : Head
    scale : numpy.ndarray of float64, shape (1,) or (C,)
        Above 0; (C,) for several labels a row.
    shift : numpy.ndarray of float64, shape (1,) or (C,)
        (1,) for two classes.
    """

    base: Head
    scale: Floats
    shift: Floats
    kind: ClassVar[str] = "calibrated"
    has_probabilities: ClassVar[bool] = True

    def __post_init__(self) -> None:
        calibration = Calibration(*(np.asarray(part, dtype=np.float64) for part in (self.scale, self.shift)))
        object.__setattr__(self, "scale", calibration.scale)
        object.__setattr__(self, "shift", calibration.shift)
        wide = (self.classes,)
        shift = wide if self.multi_label or self.classes > 2 else (1,)
        if self.scale.shape != (wide if self.multi_label else (1,)) or self.shift.shape != shift:
            raise ValueError(f"scale and shift of shapes {self.scale.shape} and {self.shift.shape} do not fit")

    @property
    def classes(self) -> int:
        """Number of classes or labels."""
        return self.base.classes

    @property
    def n_features(self) -> int:
        """Width of the features."""
        return self.base.n_features

    @property
    def multi_label(self) -> bool:
        """Whether a row has any number of labels."""
        return self.base.multi_label

    def decision_function(self, X: npt.ArrayLike) -> Floats:  # noqa: N803
        """Return the calibrated log odds: (N,) for two classes, else (N, C)."""
        return self.base.decision_function(X) * self.scale + self.shift

    def state(self) -> State:
        """Return the base's parts with ``scale`` and ``shift``."""
        base = self.base.state()
        described = {**facts_of(self), "base": base.described}
        return State(described, {"scale": self.scale, "shift": self.shift, **prefixed("base", base.arrays)})

    @classmethod
    def of(cls, base: Head, arrays: Arrays) -> CalibratedHead:
        """Read back what `state` gave, around a base that is read already."""
        return cls(base, arrays["scale"], arrays["shift"])


@dataclass(frozen=True, eq=False)
class PerLabelHead(ScoredHead):
    """One head of two classes for each label, for rows that have any number of them.

    Parameters
    ----------
    heads : sequence of Head
        Of two classes each, code 1 meaning that a row has the label.
    """

    heads: Sequence[Head]
    kind: ClassVar[str] = "per-label"
    multi_label: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "heads", tuple(self.heads))
        if not self.heads or any(head.classes != 2 or head.multi_label for head in self.heads):
            raise ValueError("a head for each label must have two classes")
        if len({head.n_features for head in self.heads}) != 1:
            raise ValueError("the heads take features of different widths")

    @property
    def classes(self) -> int:
        """Number of labels."""
        return len(self.heads)

    @property
    def n_features(self) -> int:
        """Width of the features."""
        return self.heads[0].n_features

    @property
    def has_probabilities(self) -> bool:
        """Whether all heads give them."""
        return all(head.has_probabilities for head in self.heads)

    def decision_function(self, X: npt.ArrayLike) -> Floats:  # noqa: N803
        """Return scores (N, C), above 0 for a row that has the label."""
        return np.column_stack([head.decision_function(X) for head in self.heads])

    def predict_proba(self, X: npt.ArrayLike) -> Floats:  # noqa: N803
        """Return the probability of each label (N, C)."""
        return np.column_stack([head.predict_proba(X)[:, 1] for head in self.heads])

    def state(self) -> State:
        """Return the parts of all heads, by number; `UsageError` for two that need a file each."""
        states = [head.state() for head in self.heads]
        if sum(FILE in state.arrays for state in states) > 1:
            raise UsageError(
                "only one head that stays a scikit-learn object can be saved with others; take one for all"
            )
        described = {**facts_of(self), "heads": [state.described for state in states]}
        arrays: dict[str, npt.NDArray[Any]] = {}
        for place, state in enumerate(states):
            arrays |= prefixed(str(place), state.arrays)
        return State(described, arrays)


def nested(described: Mapping[str, Any], arrays: Arrays) -> list[tuple[Mapping[str, Any], dict[str, Any]]]:
    """Return the parts of the heads that a wrapped one is made of."""
    if described["kind"] == CalibratedHead.kind:
        return [(described["base"], unprefixed("base", arrays))]
    return [(part, unprefixed(str(place), arrays)) for place, part in enumerate(described["heads"])]
