"""What estimators take for X and y, in any of the containers that people have texts, pairs and labels in."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence, Set
from typing import Any, Literal

import numpy as np
from sklearn.exceptions import DataConversionWarning

from embedkit.data.columns import PAIR_NAMES
from embedkit.errors import DataError
from embedkit.runtime.tokens import Text

_ALLOWED = "a list, array or Series of texts, a list of 2-tuples of texts, or two columns of texts"
_ONE_LABEL = "a list, array or Series with one label a row"
_LABELS = "strings, integers, booleans or whole numbers"
# The first words are scikit-learn's, which its checks look for.
_COLUMN = (
    "A column-vector y was passed when a 1d array was expected: {0} is read as {0[0]} labels; y.ravel() is one"
)


def as_inputs(X: Any) -> list[Text]:  # noqa: N803, ANN401 - scikit-learn's name; any container
    """Return texts or pairs as a list.

    Parameters
    ----------
    X : list, tuple, ndarray, pandas Series or DataFrame
        n texts: one dimension or one column. n pairs: 2-tuples, or two columns; those of a DataFrame without
        names, or with a usual pair of names such as ``sentence1`` and ``sentence2``, since two columns are
        often a text and its label.

    Returns
    -------
    list of str, or list of (str, str)

    Raises
    ------
    DataError
        X is something else, or an element is not a text; names the row, counted from 1. Two columns have names
        that are not those of a pair.
    """
    values = _rows(X)
    if values is None:
        raise DataError(f"X is a {type(X).__name__}; give {_ALLOWED}")
    _check_names(values)
    values = values.to_numpy() if hasattr(values, "to_numpy") else values
    if isinstance(values, np.ndarray):
        return _of_array(values)
    rows = list(values)
    pairs = bool(rows) and isinstance(rows[0], tuple)
    return [_pair(item, row) if pairs else _text(item, row) for row, item in enumerate(rows, start=1)]


def kind_of(inputs: Sequence[Text]) -> Literal["text", "pair"]:
    """Say what the inputs of `as_inputs` are; none at all count as texts."""
    return "pair" if len(inputs) and isinstance(inputs[0], tuple) else "text"


def as_labels(y: Any) -> Any:  # noqa: ANN401 - any container
    """Return y where it holds one label a row, flat; its dtype is kept.

    Parameters
    ----------
    y : list, tuple, ndarray, pandas Series, or DataFrame of one column
        n labels.

    Raises
    ------
    DataError
        y is something else, a label is missing, or rows have several labels; names the row, counted from 1.
    """
    if y is None:  # in scikit-learn's words, which its checks look for
        raise DataError(f"a classifier requires y to be passed, but the target y is None; give {_ONE_LABEL}")
    values = _rows(y)
    if values is None:
        raise DataError(f"y is a {type(y).__name__}; give {_ONE_LABEL}")
    shape: tuple[int, ...] = values.shape if hasattr(values, "shape") else (len(values),)
    column = len(shape) == 2 and shape[1] == 1
    if column:
        values = np.asarray(values).ravel()
    elif len(shape) != 1:
        raise DataError(
            f"y has the shape {tuple(shape)}; several labels a row are not learnt here: give {_ONE_LABEL}"
        )
    for row, label in enumerate(values, start=1):
        if isinstance(label, list | tuple | Set | Mapping | np.ndarray):
            raise DataError(f"row {row} of y is a {type(label).__name__}; give {_ONE_LABEL}")
        if _missing(label):
            raise DataError(f"row {row} of y has no label ({label}); leave such rows out or label them")
        if isinstance(label, float | np.floating) and not float(label).is_integer():
            raise DataError(
                f"row {row} of y is {label}, so y is continuous; a classifier learns labels: {_LABELS}"
            )
    if column:
        warnings.warn(_COLUMN.format(shape), DataConversionWarning, stacklevel=3)
    return values


def _rows(values: Any) -> Any:  # noqa: ANN401 - any container
    """Return what has rows in an order: no text, mapping, set or iterator, for which it returns None."""
    if isinstance(values, str | bytes | bytearray | Mapping | Set):
        return None
    if hasattr(values, "__len__"):
        return values
    return np.asarray(values) if hasattr(values, "__array__") else None


def _check_names(X: Any) -> None:  # noqa: N803, ANN401
    """Refuse two columns that are named, but not as a pair of texts is: mostly a text and its label."""
    names = list(getattr(X, "columns", ()))
    named = len(names) == 2 and all(isinstance(name, str) for name in names)
    if named and tuple(name.lower() for name in names) not in PAIR_NAMES:
        usual = "; ".join(" and ".join(pair) for pair in PAIR_NAMES)
        raise DataError(
            f"X has the columns {names[0]!r} and {names[1]!r}, which do not look like a pair of texts ({usual}); "
            f"give one column, X[{names[0]!r}], or, if it is a pair, X[[{names[0]!r}, {names[1]!r}]].to_numpy() "
            "or a list of 2-tuples"
        )


def _missing(label: object) -> bool:
    """Say whether a label is None, NaN or pandas' NA."""
    return label is None or type(label).__name__ == "NAType" or (isinstance(label, float) and math.isnan(label))


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
