"""Labels to codes and back; the one place that orders classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedkit.data.text import counted, name_of, names_of, rows_said
from embedkit.errors import DataError
from embedkit.runtime.decide import Label

_INTEGER = re.compile(r"[+-]?[0-9]{1,4000}\Z")  # Python refuses to convert more than 4,300 digits


def sorted_labels(labels: Iterable[Label]) -> list[Label]:
    """Return the distinct labels in order: as numbers if all are integers, also integers written as strings.

    Raises
    ------
    DataError
        Strings and numbers are mixed.

    Examples
    --------
    >>> sorted_labels(["10", "9", "9"]), sorted_labels(["b", "a", "10"])
    (['9', '10'], ['10', 'a', 'b'])
    """
    given = list(labels)
    distinct = list(dict.fromkeys(given))
    if len({isinstance(label, bool) for label in given}) > 1:
        raise DataError(f"labels mix booleans and others: {names_of(distinct)}; write all in one way")
    strings = [label for label in distinct if isinstance(label, str)]
    if strings and len(strings) < len(distinct):
        other = next(label for label in distinct if not isinstance(label, str))
        raise DataError(
            f"labels mix strings and numbers: {name_of(strings[0])} and {name_of(other)}; write all in one way"
        )
    if strings and all(map(_INTEGER.match, strings)):
        return sorted(distinct, key=lambda label: (int(label), str(label)))
    return sorted(distinct)


def _scalar(label: object) -> Label:
    """Return a label as a Python value; refuse what is no label."""
    value: object = label.item() if isinstance(label, np.generic) else label
    if isinstance(value, float) and not value.is_integer():
        raise DataError(f"label {value!r} is a number with a fraction or missing; labels are strings or integers")
    if not isinstance(value, (str, int, float)):
        raise DataError(f"a label is a string or an integer, got {type(value).__name__}")
    return value


def _scalars(values: Iterable[Any]) -> list[Label]:
    return [_scalar(value) for value in (values.tolist() if isinstance(values, np.ndarray) else values)]


def _flat(values: Iterable[Any]) -> list[Label]:
    """Return all labels of all rows, whether a row has one or several."""
    flat: list[Label] = []
    for value in values.tolist() if isinstance(values, np.ndarray) else values:
        if isinstance(value, (list, tuple, set, frozenset)):
            flat.extend(map(_scalar, sorted(value) if isinstance(value, (set, frozenset)) else value))
        else:
            flat.append(_scalar(value))
    return flat


@dataclass(frozen=True)
class LabelCodec:
    """Classes in their order; a label's code is its place in it.

    Attributes
    ----------
    classes : tuple
        The labels as they were given: strings, integers, booleans or whole floats.
    dtype : str
        NumPy dtype of what `decode` returns; ``"str"`` for strings.

    Examples
    --------
    >>> codec = LabelCodec.fit(["pos", "neg", "pos"])
    >>> codec.names, codec.encode(["pos", "neg"])
    (('neg', 'pos'), array([1, 0]))
    """

    classes: tuple[Label, ...]
    dtype: str = "str"

    @property
    def names(self) -> tuple[str, ...]:
        """The classes as they are printed."""
        return tuple(map(str, self.classes))

    def __len__(self) -> int:
        return len(self.classes)

    @classmethod
    def fit(cls, values: Iterable[Any], declared: Sequence[str] | None = None) -> LabelCodec:
        """Learn the classes that occur.

        Parameters
        ----------
        values : iterable
            A label a row, or a list of labels a row. A NumPy array keeps its dtype.
        declared : sequence of str, optional
            Names in the order that the data declare; without it classes are sorted (`sorted_labels`).
            A declared name that never occurs gets no class.

        Raises
        ------
        DataError
            Strings and numbers are mixed, a label is missing or has a fraction, or is none of the declared.
        """
        labels = _flat(values)
        ordered = sorted_labels(labels)
        if declared is not None:
            unknown = [label for label in ordered if label not in set(declared)]
            if unknown:
                raise DataError(f"labels {names_of(unknown)} are none of the declared {names_of(declared)}")
            present = set(ordered)
            ordered = [label for label in declared if label in present]
        return cls(tuple(ordered), _dtype_of(values, ordered))

    @classmethod
    def said(cls, labels: Sequence[Any], dtype: str) -> LabelCodec:
        """Return the codec that a file tells of.

        Raises
        ------
        ValueError, TypeError
            Labels are not distinct strings or numbers, or are not of the dtype.
        """
        if not all(isinstance(label, str | int | float) for label in labels) or len(set(labels)) < len(labels):
            raise ValueError("its labels are not distinct strings or numbers")
        codec = cls(tuple(labels), dtype)
        if codec.decode(np.arange(len(codec))).tolist() != list(labels):
            raise ValueError(f"its labels are not of the dtype {dtype}")
        return codec

    def extended(self, values: Iterable[Any]) -> LabelCodec:
        """Return a codec with the labels of `values` that this one lacks, in order, behind its own."""
        known = set(self.classes)
        unseen = sorted_labels(label for label in _flat(values) if label not in known)
        return LabelCodec((*self.classes, *unseen), self.dtype)

    def encode(
        self, values: Iterable[Any], *, unknown: Literal["error", "extend", "mark"] = "error"
    ) -> NDArray[np.int64]:
        """Return the codes of one label a row.

        Parameters
        ----------
        values : iterable
            One label a row, of the kind that was fitted.
        unknown : {"error", "extend", "mark"}, default "error"
            What becomes of a label without class: `DataError` with the rows (counted from 1), the code it has
            in ``extended(values)``, or -1.

        Returns
        -------
        ndarray of int64, shape (n,)
        """
        labels = _scalars(values)
        codec = self.extended(labels) if unknown == "extend" else self
        code = {label: place for place, label in enumerate(codec.classes)}
        codes = np.fromiter((code.get(label, -1) for label in labels), np.int64, len(labels))
        if unknown == "error":
            self._refuse([i for i, c in enumerate(codes.tolist()) if c < 0], labels)
        return codes

    def encode_sets(
        self, values: Iterable[Sequence[Any]], *, unknown: Literal["error", "mark"] = "error"
    ) -> NDArray[np.bool_]:
        """Return a row of booleans for each row's labels, shape (n, classes); ``"mark"`` drops unknown ones."""
        rows = [[_scalar(label) for label in labels] for labels in values]
        code = {label: place for place, label in enumerate(self.classes)}
        if unknown == "error":
            wrong = [(i, label) for i, labels in enumerate(rows) for label in labels if label not in code]
            self._refuse([i for i, _ in wrong], dict(reversed(wrong)))
        matrix = np.zeros((len(rows), len(self.classes)), dtype=np.bool_)
        for i, labels in enumerate(rows):
            matrix[i, [code[label] for label in labels if label in code]] = True
        return matrix

    def _refuse(self, wrong: Sequence[int], labels: Sequence[Label] | dict[int, Label]) -> None:
        if wrong:
            places = list(dict.fromkeys(wrong))
            unknown = dict.fromkeys(labels[i] for i in places)
            raise DataError(
                f"{counted(len(places), 'row')} with labels that are no class: {names_of(unknown)} "
                f"({rows_said([i + 1 for i in places])}); classes: {names_of(self.classes)}"
            )

    def decode(self, codes: ArrayLike) -> NDArray[Any]:
        """Return the labels of integer codes, in the dtype of the labels that were fitted; same shape."""
        dtype = self.dtype if self.dtype != "str" else None
        if any(isinstance(label, str) and label.endswith("\0") for label in self.classes):
            dtype = "object"  # NumPy's fixed-width strings drop NULs at the end
        classes: NDArray[Any] = np.asarray(self.classes, dtype=dtype)
        return np.asarray(classes[np.asarray(codes)])

    def decode_sets(self, matrix: ArrayLike) -> list[list[Label]]:
        """Return each row's labels of a boolean matrix of shape (n, classes), in the order of the classes."""
        return [[self.classes[place] for place in np.flatnonzero(row)] for row in np.asarray(matrix)]


def _dtype_of(values: Iterable[Any], classes: Sequence[Label]) -> str:
    dtype = getattr(values, "dtype", None)  # of an array or a pandas Series
    if isinstance(dtype, np.dtype) and dtype.kind in "iufbO":
        return str(dtype)
    if any(isinstance(label, str) for label in classes):
        return "str"
    return str(np.asarray(classes).dtype) if classes else "str"
