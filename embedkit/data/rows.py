"""Rows as the rest of embedkit sees them: inputs and labels, checked, in a stream."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from embedkit.data.columns import Kind, Roles
from embedkit.data.tables import Batch, Table
from embedkit.data.text import counted, name_of, names_of, rows_said
from embedkit.errors import DataError

Inputs = list[str] | list[tuple[str, str]] | list[list[str]]
Labels = list[str] | list[int] | list[list[str]]
MissingText = Literal["error", "empty", "drop"]


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of one split.

    Attributes
    ----------
    inputs : list
        Texts; 2-tuples of texts for pairs; lists of words for tokens.
    labels : list or None
        Strings or integers; lists of strings for several labels a row and for tags; None without labels.
    columns : dict of str to list
        All columns as read; empty where they were not asked for.
    rows : ndarray of int64, shape (n,)
        Data rows of the file, counted from 1.
    """

    inputs: Inputs = field(repr=False)
    labels: Labels | None = field(repr=False)
    columns: dict[str, list[Any]] = field(repr=False)
    rows: NDArray[np.int64]

    @property
    def first_row(self) -> int:
        """Data row of the first one, counted from 1; 0 where there is none."""
        return int(self.rows[0]) if len(self.rows) else 0

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True, eq=False)
class Source:
    """One split as a stream; it can be read any number of times and holds one chunk at a time.

    Attributes
    ----------
    name : str
        Path or address as the user wrote it.
    kind : "text", "pair" or "tokens"
    roles : Roles
        Columns of the inputs and the labels; `roles.label` is None for an unlabelled split.
    declared : tuple of str or None
        Label names that the file declares, in its order.
    notes : list of str
        Shared with the data set; a full pass adds what it has seen.
    """

    name: str
    roles: Roles
    table: Table = field(repr=False)
    missing_text: MissingText = "error"
    label_separator: str | None = None
    notes: list[str] = field(default_factory=list, repr=False)

    @property
    def kind(self) -> Kind:
        """What a row is."""
        return self.roles.kind

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names in their order."""
        return self.table.names

    @property
    def declared(self) -> tuple[str, ...] | None:
        """Label names that the file declares."""
        return None if self.roles.label is None else self.table.declared.get(self.roles.label)

    def chunks(self, rows: int = 8192, *, columns: bool = True) -> Iterator[Rows]:
        """Yield the rows in file order.

        Parameters
        ----------
        rows : int, default 8192
            Rows in a chunk at most; fewer where texts are very long.
        columns : bool, default True
            Whether to carry the other columns along.

        Raises
        ------
        DataError
            A text or label is missing or of a wrong type; names the file and the rows. Missing ones are counted
            to the end of the file before it is raised.
        """
        needed = [*self.roles.inputs, *([] if self.roles.label is None else [self.roles.label])]
        labels = self._label_reader()
        dropped = 0
        batches = self.table.batches(rows, None if columns else needed)
        for batch in batches:
            numbers = np.arange(batch.first_row, batch.first_row + len(batch), dtype=np.int64)
            kept, inputs = self._inputs(batch, batches)
            if len(kept) < len(batch):
                dropped += len(batch) - len(kept)
                batch = Batch(batch.first_row, {n: [v[i] for i in kept] for n, v in batch.columns.items()})
                numbers = numbers[kept]
            read = labels.read(batch, inputs, numbers, batches) if labels is not None else None
            yield Rows(inputs, read, batch.columns if columns else {}, numbers)
        for note in self.table.notes:
            self._note(note)
        if dropped:
            self._note(f"{self.name}: {counted(dropped, 'row')} without a text dropped")
        if labels is not None:
            for note in labels.notes():
                self._note(note)

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def _label_reader(self) -> _TagReader | _LabelReader | None:
        if self.roles.label is None:
            return None
        if self.kind == "tokens":
            return _TagReader(self.name, self.roles.label, self.declared)
        return _LabelReader(self.name, self.roles.label, self.declared, self.label_separator)

    # -------------------------------------------------------------------------------------------- inputs

    def _inputs(self, batch: Batch, rest: Iterator[Batch]) -> tuple[Sequence[int], Inputs]:
        """Return the positions that stay, and their inputs."""
        values = [batch.columns[name] for name in self.roles.inputs]
        kept: Sequence[int] = range(len(batch))
        if gaps := sorted({i for column in values for i in _missing(column)}):
            if self.missing_text == "error":
                self._fail_missing([batch.first_row + i for i in gaps], rest)
            if self.missing_text == "drop":
                gone = set(gaps)
                kept = [i for i in kept if i not in gone]
                values = [[column[i] for i in kept] for column in values]
            else:
                empty: Any = [] if self.kind == "tokens" else ""
                values = [[empty if _is_missing(v) else v for v in column] for column in values]
        for name, column in zip(self.roles.inputs, values, strict=True):
            self._check_types(name, column, batch.first_row, kept)
        if self.kind == "pair":
            return kept, list(zip(*values, strict=True))
        return kept, values[0]

    def _fail_missing(self, rows: list[int], rest: Iterator[Batch]) -> NoReturn:
        for batch in rest:
            gaps = {i for name in self.roles.inputs for i in _missing(batch.columns[name])}
            rows += [batch.first_row + i for i in sorted(gaps)]
        noun = {"text": "text", "pair": "text of a pair", "tokens": "token list"}[self.kind]
        plural = {"text": "texts", "pair": "texts of pairs", "tokens": "token lists"}[self.kind]
        raise DataError(
            f"{self.name}: {counted(len(rows), f'missing {noun}', f'missing {plural}')}: {rows_said(rows)} "
            f"(column {names_of(self.roles.inputs)}); fill them, or pass --missing-text empty "
            "or --missing-text drop"
        )

    def _check_types(self, name: str, column: Sequence[Any], first: int, kept: Sequence[int]) -> None:
        wanted = list if self.kind == "tokens" else str
        if set(map(type, column)) <= {wanted}:
            if self.kind == "tokens":
                self._check_words(name, column, first, kept)
            return
        wrong = [i for i, value in enumerate(column) if type(value) is not wanted]
        types = sorted({type(column[i]).__name__ for i in wrong})
        what = "list of words" if self.kind == "tokens" else "string"
        hint = "; for lists of words pass --task tokens" if types == ["list"] else ""
        raise DataError(
            f"{self.name}: column {name_of(name)} must hold {what}s; {counted(len(wrong), 'value')} of type "
            f"{', '.join(types)}: {rows_said([first + kept[i] for i in wrong])}{hint}"
        )

    def _check_words(self, name: str, column: Sequence[list[Any]], first: int, kept: Sequence[int]) -> None:
        for position, words in enumerate(column):
            if not set(map(type, words)) <= {str}:
                number = next(n for n, word in enumerate(words, 1) if type(word) is not str)
                raise DataError(
                    f"{self.name}: row {first + kept[position]}: word {number} of column {name_of(name)} is not "
                    f"a string but {type(words[number - 1]).__name__}"
                )


def _is_missing(value: object) -> bool:
    return value is None or (type(value) is float and value != value)


def _missing(column: Sequence[Any]) -> list[int]:
    if not set(map(type, column)) & {type(None), float}:
        return []
    return [i for i, value in enumerate(column) if _is_missing(value)]


# -------------------------------------------------------------------------------------------------- labels

LabelKind = Literal["strings", "integers", "booleans", "lists"]


def label_kind(value: object) -> LabelKind | None:
    """Return what a label is; whole floats count as integers, None is anything else."""
    kinds: dict[type, LabelKind] = {str: "strings", int: "integers", bool: "booleans", list: "lists"}
    if type(value) is float and value.is_integer():
        return "integers"
    return kinds.get(type(value))


def is_unlabelled(value: object) -> bool:
    """Whether a value says that a row has no label: None, NaN, blank, or -1 as the hub's test splits have it."""
    return _is_missing(value) or value == -1 or (type(value) is str and value.strip() in {"", "-1"})


class _Reader:
    """One pass over a label column."""

    def __init__(self, name: str, column: str, declared: tuple[str, ...] | None) -> None:
        self._name, self._column, self._declared = name, column, declared

    def _fail_missing(self, rows: list[int]) -> NoReturn:
        why = " (or -1)" if self._declared else ""
        raise DataError(
            f"{self._name}: {counted(len(rows), 'missing label')}{why}: {rows_said(rows)} (column "
            f"{name_of(self._column)}); label these rows, or leave them out"
        )

    def _declared_name(self, value: object, row: int) -> str:
        assert self._declared is not None
        if type(value) is str and value in self._declared:
            return value
        if type(value) is not int or not 0 <= value < len(self._declared):
            raise DataError(
                f"{self._name}: row {row}: label {name_of(value)} is none of the {len(self._declared)} declared "
                f"ones ({names_of(self._declared)})"
            )
        return self._declared[value]


class _LabelReader(_Reader):
    """Labels of texts and pairs: strings, integers, or lists of strings; one kind in all rows."""

    def __init__(self, name: str, column: str, declared: tuple[str, ...] | None, separator: str | None) -> None:
        super().__init__(name, column, declared)
        self._separator = separator
        self._first: dict[LabelKind, tuple[int, Any]] = {}
        self._floats = False
        self._counts: Counter[Any] = Counter()

    def read(
        self, batch: Batch, inputs: Inputs, rows: NDArray[np.int64], rest: Iterator[Batch]
    ) -> list[str] | list[int] | list[list[str]]:
        """Return the labels of a batch as one type."""
        values = batch.columns[self._column]
        if gaps := [int(rows[i]) for i in self._missing(values)]:
            for later in rest:
                gaps += [later.first_row + i for i in self._missing(later.columns[self._column])]
            self._fail_missing(gaps)
        kind = self._kind(values, rows)
        if kind == "lists" or self._separator is not None:
            sets = [self._set(value, int(row)) for value, row in zip(values, rows, strict=True)]
            self._counts.update(label for labels in sets for label in labels)
            return sets
        labels = self._scalars(values, kind, rows)
        self._counts.update(labels)
        return labels

    def _missing(self, values: Sequence[Any]) -> list[int]:
        """Return where a label is missing; in a column of several labels, "" says that none applies."""
        gaps = _missing(values)
        if self._separator is None:
            blank = {v for v in {v for v in values if type(v) is str} if not v.strip()}
            if blank:
                gaps += [i for i, v in enumerate(values) if type(v) is str and v in blank]
        if self._declared is not None:
            gaps += [i for i, v in enumerate(values) if type(v) is int and v == -1]
        return sorted(gaps)

    def _kind(self, values: Sequence[Any], rows: NDArray[np.int64]) -> LabelKind | None:
        """Check that this batch is of one kind, the same as before, and return it."""
        types = set(map(type, values))
        if float in types:
            self._floats = True
        if types <= {str, int, bool, list}:  # the first of each type stands for the others
            positions = sorted(next(i for i, v in enumerate(values) if type(v) is wanted) for wanted in types)
        else:
            positions = list(range(len(values)))
        for i in positions:
            self._add_kind(values[i], int(rows[i]))
        return next(iter(self._first), None)

    def _add_kind(self, value: object, row: int) -> None:
        kind = label_kind(value)
        if kind is None:
            why = "is a number with a fraction" if type(value) is float else f"is of type {type(value).__name__}"
            raise DataError(
                f"{self._name}: row {row}: label {name_of(value)} (column {name_of(self._column)}) {why}; "
                "labels are strings or integers, or lists of strings"
            )
        self._first.setdefault(kind, (row, value))
        if len(self._first) > 1:
            (one, (row_a, a)), (two, (row_b, b)) = list(self._first.items())[:2]
            raise DataError(
                f"{self._name}: column {name_of(self._column)} mixes {one} and {two}: {name_of(a)} in row "
                f"{row_a:,}, {name_of(b)} in row {row_b}; write all labels in one way"
            )
        if kind == "lists" and self._separator is not None:
            raise DataError(f"{self._name}: row {row}: labels are lists already; leave --label-separator out")

    def _scalars(
        self, values: list[Any], kind: LabelKind | None, rows: NDArray[np.int64]
    ) -> list[str] | list[int]:
        if self._declared is not None:
            names = {}
            for value, row in zip(values, rows, strict=True):
                if value not in names:
                    names[value] = self._declared_name(value, int(row))
            return [names[value] for value in values]
        if kind == "booleans":
            return ["true" if value else "false" for value in values]
        if kind == "integers":
            return [int(value) for value in values]
        return values

    def _set(self, value: list[object] | str, row: int) -> list[str]:
        """Return the labels of one row, each once, in their order."""
        if self._separator is not None:
            parts: list[Any] = [part.strip() for part in str(value).split(self._separator)]
            return list(dict.fromkeys(part for part in parts if part))
        if self._declared is not None:
            return list(dict.fromkeys(self._declared_name(item, row) for item in value))
        if not {type(item) for item in value} <= {str, int}:
            raise DataError(f"{self._name}: row {row}: the labels of a row are strings, got {name_of(value)}")
        return list(dict.fromkeys(map(str, value)))

    def notes(self) -> list[str]:
        """Say what a full pass has seen."""
        said = []
        if self._floats:
            said.append(f"{self._name}: labels are whole floats (1.0), read as integers")
        if "booleans" in self._first:
            said.append(f"{self._name}: labels are booleans, read as 'true' and 'false'")
        return said + [f"{self._name}: {alike}" for alike in look_alikes(self._counts)]


def look_alikes(counts: Mapping[Any, int]) -> list[str]:
    """Say which labels differ only in what is hard to see: ``'pos' (10 rows) and 'pos ' (2 rows)``.

    Space around them, case, a trailing ``.0``, invisible characters, and how accents are written (NFKC).

    Parameters
    ----------
    counts : mapping
        Rows of each label.
    """
    groups: dict[str, list[Any]] = {}
    for label in counts:
        plain = _plain(str(label))
        groups.setdefault(plain[:-2] if plain.endswith(".0") else plain, []).append(label)
    return [
        "labels that look alike are kept apart: "
        + " and ".join(f"{name_of(label)} ({counted(counts[label], 'row')})" for label in group)
        for group in groups.values()
        if len(group) > 1
    ]


def _plain(label: str) -> str:
    seen = "".join(c for c in unicodedata.normalize("NFKC", label) if unicodedata.category(c) != "Cf")
    return seen.strip().casefold()


class _TagReader(_Reader):
    """Tags of words: one string a word."""

    def __init__(self, name: str, column: str, declared: tuple[str, ...] | None) -> None:
        super().__init__(name, column, declared)
        self._numbers = False

    def read(
        self, batch: Batch, inputs: Inputs, rows: NDArray[np.int64], rest: Iterator[Batch]
    ) -> list[list[str]]:
        """Return the tags of a batch, each row as long as its words."""
        values = batch.columns[self._column]
        if gaps := [int(rows[i]) for i in _missing(values) if inputs[i]]:
            for later in rest:
                gaps += [later.first_row + i for i in _missing(later.columns[self._column])]
            self._fail_missing(gaps)
        return [self._row(words, tags, row) for words, tags, row in zip(inputs, values, rows, strict=True)]

    def _row(self, words: Sequence[str], tags: object, row: np.int64) -> list[str]:
        tags = [] if tags is None else tags
        if not isinstance(tags, list):
            raise DataError(
                f"{self._name}: row {row}: column {name_of(self._column)} must hold a list of tags, one a word, "
                f"got {name_of(tags)}"
            )
        if len(words) != len(tags):
            raise DataError(
                f"{self._name}: row {row}: {counted(len(words), 'token')}, {counted(len(tags), 'tag')} (column "
                f"{name_of(self._column)}); every token needs one tag"
            )
        if self._declared is not None:
            return [self._declared_name(tag, int(row)) for tag in tags]
        types = set(map(type, tags))
        if not types <= {str, int} or "" in tags:
            number = next(n for n, tag in enumerate(tags, 1) if type(tag) not in {str, int} or tag == "")
            raise DataError(f"{self._name}: row {row}: tag {number} is missing or no string")
        if int in types:
            self._numbers = True
            return list(map(str, tags))
        return tags

    def notes(self) -> list[str]:
        """Say what a full pass has seen."""
        if not self._numbers:
            return []
        return [f"{self._name}: tags are integers without names, read as strings"]
