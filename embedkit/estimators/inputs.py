"""What estimators take for X: texts or pairs, in any of the containers that people have them in."""

from __future__ import annotations

from typing import Any

import numpy as np

from embedkit.errors import DataError
from embedkit.runtime.tokens import Text

_ALLOWED = "a list, array or Series of texts, a list of 2-tuples of texts, or two columns of texts"


def as_inputs(X: Any) -> list[Text]:  # noqa: N803, ANN401 - scikit-learn's name; any container
    """Return texts or pairs as a list.

    Parameters
    ----------
    X : list, tuple, ndarray, pandas Series or DataFrame
        n texts: one dimension or one column. n pairs: 2-tuples, or two columns.

    Returns
    -------
    list of str, or list of (str, str)

    Raises
    ------
    DataError
        X is something else, or an element is not a text; names the row, counted from 1.
    """
    if isinstance(X, str | bytes) or not hasattr(X, "__len__"):
        raise DataError(f"X is a {type(X).__name__}; give {_ALLOWED}")
    values = X.to_numpy() if hasattr(X, "to_numpy") else X
    if isinstance(values, np.ndarray):
        return _of_array(values)
    rows = list(values)
    pairs = bool(rows) and isinstance(rows[0], tuple)
    return [_pair(item, row) if pairs else _text(item, row) for row, item in enumerate(rows, start=1)]


def _of_array(values: np.ndarray[Any, Any]) -> list[Text]:
    if values.ndim == 2 and values.shape[1] == 2:
        return [_pair(tuple(item), row) for row, item in enumerate(values.tolist(), start=1)]
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise DataError(f"X has the shape {values.shape}; give {_ALLOWED}")
    return as_inputs(values.tolist())


def _text(item: object, row: int) -> str:
    if isinstance(item, str):
        return str(item)  # also NumPy's strings
    raise DataError(f"row {row} of X is of type {type(item).__name__}, not a text; X is {_ALLOWED}")


def _pair(item: object, row: int) -> tuple[str, str]:
    if isinstance(item, tuple) and len(item) == 2:
        return _text(item[0], row), _text(item[1], row)
    raise DataError(f"row {row} of X is of type {type(item).__name__}, not a pair of texts; X is {_ALLOWED}")
