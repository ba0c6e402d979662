"""What estimators take for X and y, in any of the containers that people have texts, pairs and labels in."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import DataConversionWarning

from embedkit.data.columns import PAIR_NAMES
from embedkit.data.labels import LabelCodec
from embedkit.data.text import names_of
from embedkit.errors import DataError
from embedkit.runtime.tokens import Text

_ALLOWED = "a list, array or Series of texts, a list of 2-tuples of texts, or two columns of texts"
_ONE_LABEL = "a list, array or Series with one label a row"
_SEVERAL = "a list of labels a row, or an array with a column of 0 and 1 for each label"
_COLLECTIONS = (list, tuple, Set, np.ndarray)
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


Form: TypeAlias = Literal["one", "sets", "indicator"]
_INDICATOR = re.compile("bool|u?int(8|16|32|64)|float(16|32|64)")


def indicator_form(dtype: object) -> tuple[Form, str]:
    """Return the form of answers with several labels, and their dtype, from the one that an artifact may tell."""
    known = isinstance(dtype, str) and _INDICATOR.fullmatch(dtype) is not None
    return ("indicator", str(dtype)) if known else ("sets", "")


@dataclass(frozen=True)
class Targets:
    """y, as it was understood.

    Attributes
    ----------
    form : {"one", "sets", "indicator"}
        A label a row; any number of labels a row, listed; or a column for each label, of 0 and 1.
    values : container
        n labels, in y's own container; n lists of labels; or bool, shape (n, L).
    columns : tuple
        What the columns of an indicator stand for.
    dtype : str
        Of an indicator, and so of the answers.
    """

    form: Form
    values: Any
    columns: tuple[Any, ...] = ()
    dtype: str = ""

    @property
    def several(self) -> bool:
        """Whether a row has any number of labels."""
        return self.form != "one"

    def codec(self) -> LabelCodec:
        """Return the labels: those of an indicator in their order, others in that of `numpy.unique`."""
        if self.form == "indicator":
            return LabelCodec(self.columns, "int64" if isinstance(self.columns[0], int) else "str")
        codec = LabelCodec.fit(self.values)
        return replace(codec, classes=tuple(sorted(codec.classes)))

    def encode(self, codec: LabelCodec) -> NDArray[Any]:
        """Return int64 codes (n,), or bool (n, L)."""
        if self.form == "one":
            return codec.encode(self.values)
        return codec.encode_sets(self.values) if self.form == "sets" else np.asarray(self.values)

    def equal(self, codec: LabelCodec, codes: NDArray[Any]) -> NDArray[np.bool_]:
        """Say of each row whether it has exactly the labels of a bool matrix (n, L); an unknown one has not.

        Raises
        ------
        DataError
            These are other columns than those of `codec`, or one label a row.
        """
        if self.form == "one":
            raise DataError(f"y holds one label a row, but several were learnt; give {_SEVERAL}")
        if self.form == "indicator":
            numbered = self.columns == tuple(range(len(self.columns))) and len(self.columns) == len(codec)
            if self.columns != codec.classes and not numbered:
                raise DataError(
                    f"y has the columns {names_of(self.columns)}, but learnt were {names_of(codec.classes)}, "
                    "in this order"
                )
            return np.asarray((self.values == codes).all(axis=1))
        known = codec.encode_sets(self.values, unknown="mark")
        strange = [not set(labels) <= set(codec.classes) for labels in self.values]
        return np.asarray((known == codes).all(axis=1) & ~np.array(strange, dtype=bool))


def as_targets(y: Any) -> Targets:  # noqa: ANN401 - any container
    """Return y, checked.

    Parameters
    ----------
    y : list, tuple, ndarray, pandas Series or DataFrame
        n labels (also as one column, with scikit-learn's warning), n collections of labels, or 0 and 1 in two or
        more columns, one a label; those of a DataFrame are the labels. A list of lists of 0 and 1 counts as such
        columns where a row repeats a number, which labels of a row never do.

    Raises
    ------
    DataError
        y is something else, or a label is missing; names the row, counted from 1.
    """
    if y is None:  # in scikit-learn's words, which its checks look for
        raise DataError(f"a classifier requires y to be passed, but the target y is None; give {_ONE_LABEL}")
    values = _rows(y)
    if values is None:
        raise DataError(f"y is a {type(y).__name__}; give {_ONE_LABEL}, or {_SEVERAL}")
    if hasattr(values, "toarray"):
        raise DataError("y is sparse; give y.toarray()")
    shape: tuple[int, ...] = values.shape if hasattr(values, "shape") else (len(values),)
    if len(shape) == 2 and shape[1] > 1:
        return _indicator(values)
    column = len(shape) == 2 and shape[1] == 1
    if not column and len(shape) != 1:
        raise DataError(f"y has the shape {tuple(shape)}; give {_ONE_LABEL}, or {_SEVERAL}")
    values = np.asarray(values).ravel() if column else values
    if any(isinstance(label, _COLLECTIONS) for label in values):
        return _sets(values)
    for row, label in enumerate(values, start=1):
        _check_label(label, row)
    if column:
        warnings.warn(_COLUMN.format(shape), DataConversionWarning, stacklevel=4)  # who called fit
    return Targets("one", values)


def _check_label(label: object, row: int) -> None:
    """Refuse what no classifier could learn, in words that say what it is."""
    if _missing(label):
        raise DataError(f"row {row} of y has no label ({label}); leave such rows out or label them")
    if isinstance(label, float | np.floating) and not float(label).is_integer():
        raise DataError(f"row {row} of y is {label}, so y is continuous; a classifier learns labels: {_LABELS}")
    if isinstance(label, (*_COLLECTIONS, Mapping)):
        raise DataError(f"row {row} of y holds a {type(label).__name__}; give {_ONE_LABEL}, or {_SEVERAL}")


def _indicator(values: Any) -> Targets:  # noqa: ANN401 - an array or frame of two dimensions
    """Read columns of 0 and 1."""
    array = values.to_numpy() if hasattr(values, "to_numpy") else np.asarray(values)
    right = np.isin(array, (0, 1)) if array.dtype.kind in "biuf" else np.vectorize(_is_zero_or_one)(array)
    if not right.all():
        row, column = np.argwhere(~right)[0].tolist()
        raise DataError(
            f"y has the shape {array.shape}, so a column stands for a label and holds 0 or 1, but row {row + 1}, "
            f"column {column + 1} does not; give {_ONE_LABEL}, or {_SEVERAL}"
        )
    dtype = "bool" if array.dtype.kind == "O" else str(array.dtype)
    return Targets("indicator", array.astype(bool), _columns(values, array.shape[1]), dtype)


def _columns(values: Any, width: int) -> tuple[Any, ...]:  # noqa: ANN401 - an array or frame
    """Return what columns stand for: names, or numbers from 0."""
    names = list(getattr(values, "columns", range(width)))
    names = [name.item() if isinstance(name, np.generic) else name for name in names]
    kinds = {type(name) for name in names}
    if len(kinds) > 1 or not kinds <= {str, int} or len(set(names)) < len(names):
        raise DataError(
            f"y has the columns {names_of(names)}; as labels they must differ, and all be strings or all integers"
        )
    return tuple(names)


def _sets(values: Any) -> Targets:  # noqa: ANN401 - rows, of which one is a collection
    """Read a collection of labels a row, or columns that are written as such."""
    rows = [_listed(labels, row) for row, labels in enumerate(values, start=1)]
    written = not any(isinstance(labels, Set) for labels in values) and len(set(map(len, rows))) == 1
    if written and len(rows[0]) > 1 and all(_is_zero_or_one(label) for labels in rows for label in labels):
        if any(len(set(labels)) < len(labels) for labels in rows):
            return _indicator(np.array(rows))
        raise DataError(
            "each row of y is 0 and 1, which may be labels or columns; give columns as a NumPy array, or labels "
            "as strings"
        )
    for row, labels in enumerate(rows, start=1):
        for label in labels:
            _check_label(label, row)
    return Targets("sets", rows)


def _listed(labels: object, row: int) -> list[Any]:
    if not isinstance(labels, _COLLECTIONS):
        raise DataError(
            f"row {row} of y is of type {type(labels).__name__}, but others are collections of labels; give "
            f"{_ONE_LABEL}, or {_SEVERAL}"
        )
    return labels.tolist() if isinstance(labels, np.ndarray) else list(labels)


def _is_zero_or_one(value: object) -> bool:
    return isinstance(value, int | float | np.bool_ | np.number) and bool(value in (0, 1))


def as_weights(sample_weight: Any, rows: int) -> NDArray[np.float64] | None:  # noqa: ANN401 - any container
    """Return the weights of rows, shape (n,), float64; None for None.

    Raises
    ------
    DataError
        There are more or fewer than `rows`, or one is below 0, infinite or missing (named by its row, counted
        from 1), or all are 0.
    """
    if sample_weight is None:
        return None
    try:
        weights = np.asarray(sample_weight, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(
            f"sample_weight is of type {type(sample_weight).__name__}; give {rows:,} numbers"
        ) from None
    if weights.shape != (rows,):
        raise DataError(f"X has {rows:,} rows, but sample_weight the shape {weights.shape}; give a number a row")
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        raise DataError(
            f"row {wrong[0] + 1} of sample_weight is {weights[wrong[0]]:g}; weights are finite and not below 0"
        )
    if rows and not weights.any():
        raise DataError("every sample_weight is zero, so there is nothing to learn from")
    return weights


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
