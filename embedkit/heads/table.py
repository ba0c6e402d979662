"""The classical heads by name: what each is, what it may be told, what a search tries; nothing is imported."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any


@dataclass(frozen=True)
class Param:
    """One parameter: its default, and what it accepts in code and in words."""

    default: Any
    accepts: Callable[[Any], bool]
    allowed: str


@dataclass(frozen=True)
class Kind:
    """A row of the table of heads.

    Attributes
    ----------
    description : str
    params : mapping of str to Param
        By scikit-learn's names.
    grid : mapping of str to tuple
        What a search tries, besides the values that are given.
    weighted : bool
        Whether rows may weigh differently.
    probabilities : bool
        Whether it gives them without being calibrated.
    """

    description: str
    params: Mapping[str, Param] = field(default_factory=dict)
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    weighted: bool = True
    probabilities: bool = True


def is_number(value: object) -> bool:
    """Say whether a value is a number, of numpy too; NaN, truth values and what no float holds aside."""
    try:
        return not isinstance(value, bool) and isinstance(value, Real) and not math.isnan(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


def is_count(value: object) -> bool:
    """Say whether a value is an integer above 0 that solvers in C can count to."""
    return not isinstance(value, bool) and isinstance(value, Integral) and 0 < int(value) < 2**31


def layer_sizes(value: object) -> tuple[int, ...] | None:
    """Return hidden layers written as 128 or "256x64", below a million units each; None for anything else."""
    parts = str(value).split("x") if is_count(value) or isinstance(value, str) else []
    sizes = tuple(int(part) for part in parts if part.isdecimal() and len(part) <= 6)
    return sizes if sizes and len(sizes) == len(parts) and all(sizes) else None


def _from_zero(default: float) -> Param:
    return Param(default, lambda v: is_number(v) and 0 <= v < math.inf, "a number from 0 up")


def _count(default: int) -> Param:
    return Param(default, is_count, "an integer above 0")


def _one_of(*values: str) -> Param:
    return Param(values[0], lambda v: isinstance(v, str) and v in values, " or ".join(map(repr, values)))


def _finite(default: float) -> Param:
    return Param(default, lambda v: is_number(v) and 0 < v < math.inf, "a finite number above 0")


_INVERSE_PENALTY = Param(1.0, lambda v: is_number(v) and v > 0, "a number above 0")  # inf: no penalty
_INTERCEPT = Param(True, lambda v: isinstance(v, bool), "true or false")
_SHRINKAGE = Param(
    "auto",
    lambda v: v is None or (v == "auto" if isinstance(v, str) else is_number(v) and 0 <= v <= 1),
    "'auto' (Ledoit-Wolf), none, or a number from 0 to 1",
)

HEADS: dict[str, Kind] = {
    "logreg": Kind(
        "logistic regression (L2, L-BFGS)",
        {"C": _INVERSE_PENALTY, "fit_intercept": _INTERCEPT, "max_iter": _count(1000), "tol": _finite(1e-4)},
        {"C": (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)},
    ),
    "ridge": Kind(
        "least squares on the labels with an L2 penalty; no probabilities",
        {"alpha": _finite(1.0), "fit_intercept": _INTERCEPT},
        {"alpha": (0.1, 1.0, 10.0, 100.0, 1000.0)},
        probabilities=False,
    ),
    "linear-svm": Kind(
        "linear support vectors, one class against the rest; no probabilities",
        {"C": _finite(1.0), "fit_intercept": _INTERCEPT, "max_iter": _count(10_000), "tol": _finite(1e-6)},
        {"C": (0.001, 0.01, 0.1, 1.0)},
        probabilities=False,
    ),
    "knn": Kind(
        "votes of the nearest training texts, which the saved head holds as vectors",
        {"n_neighbors": _count(5), "weights": _one_of("uniform", "distance")},
        {"n_neighbors": (1, 5, 15, 50), "weights": ("uniform", "distance")},
        weighted=False,
    ),
    "centroid": Kind("the class with the nearest mean; no probabilities", probabilities=False),
    "lda": Kind(
        "linear discriminant analysis with shrinkage",
        {"shrinkage": _SHRINKAGE},
        {"shrinkage": ("auto", 0.01, 0.1, 0.5)},
        weighted=False,
    ),
    "naive-bayes": Kind(
        "Gaussian naive Bayes",
        {"var_smoothing": _from_zero(1e-9)},
        {"var_smoothing": (1e-9, 1e-3, 1e-1)},
    ),
    "mlp": Kind(
        "a network with hidden layers (Adam)",
        {
            "hidden_layer_sizes": Param(
                128, lambda v: layer_sizes(v) is not None, "a size such as 128, or 256x64"
            ),
            "alpha": _from_zero(1e-4),
            "learning_rate_init": _finite(1e-3),
            "max_iter": _count(200),
            "early_stopping": Param(
                None, lambda v: v is None or isinstance(v, bool), "true, false, or none (from 1,000 rows on)"
            ),
        },
        {"alpha": (1e-4, 1e-2, 1.0)},
    ),
    "hist-gb": Kind(
        "gradient-boosted trees on histograms",
        {
            "learning_rate": _finite(0.1),
            "max_iter": _count(100),
            "max_leaf_nodes": Param(31, lambda v: is_count(v) and v > 1, "an integer above 1"),
            "min_samples_leaf": _count(20),
            "l2_regularization": _from_zero(0.0),
        },
        {"learning_rate": (0.05, 0.1, 0.2)},
    ),
    "dummy": Kind(
        "always the most frequent label, whatever the text: the floor to beat",
        {"strategy": _one_of("prior", "most_frequent")},
    ),
}
SKLEARN = "sklearn:"


def available() -> dict[str, str]:
    """Return the name of each head with a short description."""
    named = {name: kind.description for name, kind in HEADS.items()}
    return {**named, f"{SKLEARN}package.Class": "any classifier of scikit-learn, such as sklearn:svm.SVC"}
