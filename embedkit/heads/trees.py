"""Decision trees that were read from a file: whether every step leads to a node and asks for a feature there is.

scikit-learn's compiled code follows them without looking, so a damaged one would read other memory or never end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

_LEAF = -1  # scikit-learn's mark for no child


def check_trees(model: Any, n_features: int) -> None:  # noqa: ANN401 - a scikit-learn classifier
    """Raise `ValueError` for a tree, anywhere in a model, that does not hold together.

    Parameters
    ----------
    model : scikit-learn classifier
        Whose parts are scikit-learn's own.
    n_features : int
        Width of the features that it takes.
    """
    for part in _parts(model):
        kind = type(part).__name__
        if kind == "TreePredictor":  # of histogram gradient boosting
            _check_histogram_tree(part, n_features)
        elif kind == "Tree":
            inner = part.children_left != _LEAF
            if part.n_features > n_features:
                raise ValueError(f"a tree for {part.n_features} features, where there are {n_features}")
            _check(inner, part.children_left, part.children_right, part.feature, part.n_features)


def _parts(model: Any) -> Iterator[Any]:  # noqa: ANN401 - of any types
    """Yield all that a model is made of, each thing once."""
    waiting: list[Any] = [model]
    seen = {id(model)}
    while waiting:
        part = waiting.pop()
        yield part
        if isinstance(part, dict):
            inside = list(part.values())
        elif isinstance(part, np.ndarray):
            inside = list(part.flat) if part.dtype == np.object_ else []
        else:
            inside = list(part) if isinstance(part, list | tuple) else list(getattr(part, "__dict__", {}).values())
        fresh = [thing for thing in inside if id(thing) not in seen]
        seen.update(map(id, fresh))
        waiting += fresh


def _check_histogram_tree(tree: Any, n_features: int) -> None:  # noqa: ANN401 - a TreePredictor
    nodes = tree.nodes
    inner = nodes["is_leaf"] == 0
    _check(inner, nodes["left"], nodes["right"], nodes["feature_idx"], n_features)
    by_category = nodes["bitset_idx"][inner & (nodes["is_categorical"] != 0)]
    if (by_category >= len(tree.raw_left_cat_bitsets)).any():
        raise ValueError("a tree asks for categories that it does not have")


def _check(
    inner: npt.NDArray[np.bool_],
    left: npt.NDArray[Any],
    right: npt.NDArray[Any],
    feature: npt.NDArray[Any],
    n_features: int,
) -> None:
    """Check one tree; all arrays of shape (nodes,). A child stands behind its parent, so every way ends."""
    own = np.flatnonzero(inner)
    for child in (left[inner].astype(np.int64), right[inner].astype(np.int64)):
        if not ((own < child) & (child < len(inner))).all():
            raise ValueError("a tree has a node whose child is none behind it")
    asked = feature[inner]
    if not len(inner) or ((asked < 0) | (asked >= n_features)).any():
        raise ValueError(f"a tree has no node, or asks for another feature than 1 to {n_features}")
