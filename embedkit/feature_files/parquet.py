"""Features as Parquet, beside the columns of the input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from types import NoneType
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedkit.data.text import name_of, names_of, rows_said
from embedkit.errors import DataError
from embedkit.feature_files.base import ColumnChunk, FeatureFile, Plan

if TYPE_CHECKING:
    import pyarrow as pa

VECTORS = "hidden_state"
SPLIT = "split"

_KINDS: dict[type, str] = {
    str: "strings",
    bool: "booleans",
    int: "integers",
    float: "floats",
    bytes: "bytes",
    date: "dates",
    datetime: "times",
}


@dataclass(frozen=True)
class _Type:
    """Values of one kind, or lists of them nested `depth` times; kind "nothing" for nulls and empty lists."""

    depth: int
    kind: str

    def merged(self, other: _Type) -> _Type | None:
        """Return the type that holds the values of both, unchanged but for integers among floats."""
        for one, two in ((self, other), (other, self)):
            if one.kind == "nothing" and one.depth <= two.depth:
                return two
        if self.depth != other.depth:
            return None
        if {self.kind, other.kind} == {"integers", "floats"}:
            return _Type(self.depth, "floats")
        return self if self == other else None

    @property
    def arrow(self) -> pa.DataType:
        import pyarrow as pa

        found = {
            "nothing": pa.null(),
            "strings": pa.string(),
            "booleans": pa.bool_(),
            "integers": pa.int64(),
            "floats": pa.float64(),
            "bytes": pa.binary(),
            "dates": pa.date32(),
            "times": pa.timestamp("us"),
        }[self.kind]
        for _ in range(self.depth):
            found = pa.list_(found)
        return found

    def __str__(self) -> str:
        return "lists of " * self.depth + self.kind


def _type_of(values: Sequence[Any]) -> _Type | None:
    """Return the type of values, None if they have none in common.

    By Python's own types: pyarrow would take True among floats as 1.0, a text among lists as its letters, and
    drop the hours of a time among dates.
    """
    types = set(map(type, values)) - {NoneType}
    if types == {list}:
        inner = _type_of([item for value in values if value is not None for item in value])
        return None if inner is None else _Type(inner.depth + 1, inner.kind)
    if not types <= _KINDS.keys():
        return None
    if types == {datetime} and any(value is not None and value.tzinfo is not None for value in values):
        return None  # would be moved to UTC
    found: _Type | None = _Type(0, "nothing")
    for one in types:
        found = None if found is None else found.merged(_Type(0, _KINDS[one]))
    return found


def _as_array(values: Sequence[Any], wanted: _Type) -> pa.Array | None:
    """Return values of a fitting type as Arrow's; None where one does not fit exactly."""
    import pyarrow as pa

    try:
        return pa.array(values, wanted.arrow)
    except (pa.ArrowInvalid, OverflowError, UnicodeEncodeError):
        return None


@dataclass
class _Column:
    """What is known of a column from the rows so far."""

    type: _Type = _Type(0, "nothing")
    has_large: bool = False  # integers that are no floats, exactly

    def takes(self, values: Sequence[Any]) -> bool:
        """Learn from further values; False, and nothing learnt, if they do not fit to those before."""
        found = _type_of(values)
        merged = None if found is None else self.type.merged(found)
        if merged is None or _as_array(values, merged) is None or (self.has_large and merged.kind == "floats"):
            return False
        if merged.kind == "integers" and not self.has_large:
            self.has_large = _as_array(values, _Type(merged.depth, "floats")) is None
        self.type = merged
        return True


def _learn(chunks: Iterable[ColumnChunk]) -> dict[str, _Column]:
    """Read all rows; return the columns in the order in which they appear."""
    columns: dict[str, _Column] = {}
    for source, chunk, rows in chunks:
        for name, values in chunk.items():
            column = columns.setdefault(name, _Column())
            if not column.takes(values):
                raise _unfit(source, name, column, values, rows)
    return columns


def _unfit(source: str, name: str, known: _Column, values: Sequence[Any], rows: NDArray[np.int64]) -> DataError:
    wrong = [i for i, value in enumerate(values) if not known.takes([value])]
    found = _type_of([values[wrong[0]]])
    if found is None:
        what = f"values of the type {type(values[wrong[0]]).__name__} or mixed lists"
    else:
        what = (
            f"{found}" if known.type.merged(found) is None else "numbers or texts that Parquet cannot hold exactly"
        )
    before = "" if known.type.kind == "nothing" else f"; others are {known.type}"
    return DataError(
        f"{source}: {rows_said([int(rows[i]) for i in wrong])}: column {name_of(name)} holds {what}{before}. "
        f"A column of Parquet is of one kind: {', '.join(_KINDS.values())}, or lists of one of them. Change or "
        "remove the column, or write .npz or .safetensors, which keep no columns"
    )


class ParquetFile(FeatureFile):
    """One row group a chunk."""

    needs_columns = True

    def __init__(self, plan: Plan) -> None:
        import pyarrow as pa

        super().__init__(plan)
        if plan.columns is None:
            raise ValueError("Parquet keeps the columns of the input: give them as columns=, () for none")
        self._columns = _learn(plan.columns)
        fields = [pa.field(name, column.type.arrow) for name, column in self._columns.items()]
        if len(plan.rows) > 1:
            fields.insert(0, pa.field(SPLIT, pa.string(), nullable=False))
        fields.append(pa.field(VECTORS, pa.list_(pa.float32(), plan.width), nullable=False))
        self._schema = pa.schema(fields)
        twice = sorted({name for name in self._schema.names if self._schema.names.count(name) > 1})
        if twice:
            raise DataError(
                f"the data have a column {names_of(twice)} already, a name that the exported file needs itself; "
                "rename the column, or write .npz or .safetensors, which keep no columns"
            )

    def _start(self, file: IO[bytes]) -> None:
        import pyarrow.parquet as pq

        # Vectors hardly repeat: a dictionary of them costs time and memory.
        repeating = [SPLIT] if len(self._plan.rows) > 1 else []
        repeating += [name + ".list.element" * column.type.depth for name, column in self._columns.items()]
        self._writer = pq.ParquetWriter(file, self._schema, compression="zstd", use_dictionary=repeating)

    def _put(
        self,
        split: str,
        vectors: NDArray[np.float32],
        labels: Sequence[Any] | None,
        columns: Mapping[str, Sequence[Any]],
    ) -> None:
        import pyarrow as pa

        new = [name for name in columns if name not in self._columns]
        if new:
            raise self._changed(split, new[0])
        count = len(vectors)
        arrays = {
            name: self._array(split, name, columns[name])
            if name in columns
            else pa.nulls(count, column.type.arrow)
            for name, column in self._columns.items()
        }
        if len(self._plan.rows) > 1:
            arrays[SPLIT] = pa.repeat(split, count)
        flat = pa.array(vectors.reshape(-1))
        arrays[VECTORS] = pa.FixedSizeListArray.from_arrays(flat, self._plan.width)
        table = pa.table([arrays[name] for name in self._schema.names], schema=self._schema)
        self._writer.write_table(table, row_group_size=count)

    def _array(self, split: str, name: str, values: Sequence[Any]) -> pa.Array:
        known = self._columns[name].type
        found = _type_of(values)
        array = _as_array(values, known) if found is not None and known.merged(found) == known else None
        if array is None:
            raise self._changed(split, name)
        return array

    def _changed(self, split: str, name: str) -> DataError:
        first = self._plan.rows[split] - self._left + 1
        return DataError(
            f"{split}, from row {first:,} of those that are written on: column {name_of(name)} is not what it was "
            "when the columns were read; leave the data alone while they are exported, and run it again"
        )

    def _finish(self) -> None:
        self._writer.close()

    def _discard(self) -> None:
        with suppress(Exception):  # writes its footer, which may meet the error again
            self._writer.close()
