"""Features written to one file for other programs, as a stream: Parquet, NumPy's npz or safetensors.

The file appears whole or not at all, and holds no pickle. Only labels are kept until the end.
"""

from __future__ import annotations

import io
import json
import os
import re
import secrets
import struct
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date, datetime
from itertools import accumulate
from pathlib import Path
from types import NoneType
from typing import IO, TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedkit.data.labels import LabelCodec
from embedkit.data.text import name_of, names_of, rows_said
from embedkit.errors import DataError, OutputExistsError, UsageError, require

if TYPE_CHECKING:
    import pyarrow as pa

VECTORS = "hidden_state"
SPLIT = "split"

ColumnChunk: TypeAlias = tuple[str, Mapping[str, Sequence[Any]], NDArray[np.int64]]
"""A source's name for messages, some of its rows by column, and their data rows, counted from 1."""


# --- the target ----------------------------------------------------------------------------------------


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse a path that `feature_file` could not write to; changes nothing.

    Parameters
    ----------
    path : Path
        Ends in ``.parquet``, ``.npz`` or ``.safetensors``.
    overwrite : bool
        Whether a file that is there may be replaced. Folders, links and devices never are.

    Raises
    ------
    UsageError
        The ending is another one, or no file can be made there.
    OutputExistsError
        Something is there that may not be replaced.
    MissingExtraError
        Writing Parquet needs pyarrow, and it is not installed.
    """
    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise UsageError(
            f"{path}: features are written as {', '.join(_FORMATS)}, by the ending of the name; choose one of them"
        )
    if path.suffix.lower() == ".parquet":
        require("pyarrow", extra="train", purpose=f"writing {path}")
    _check_replaceable(path, overwrite)
    _check_parent(path)


def _check_replaceable(path: Path, overwrite: bool) -> None:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:  # a name too long, a NUL in it, a folder that may not be entered
        said = getattr(error, "strerror", None) or error
        raise UsageError(f"{name_of(str(path))} cannot be written: {said}; choose another output") from None
    if path.is_symlink() or not path.is_file():
        raise OutputExistsError(f"{path} exists and is no plain file; choose another output")
    if not overwrite:
        raise OutputExistsError(f"{path} exists; choose another output or give --overwrite")


def _check_parent(path: Path) -> None:
    nearest = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not nearest.is_dir():
        raise UsageError(f"{path} cannot be written: {nearest} is no folder; choose another output")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UsageError(f"{path} cannot be written: {nearest} may not be added to; choose another output")


@contextmanager
def _written_whole(target: Path, overwrite: bool) -> Iterator[IO[bytes]]:
    """Give a file beside the target that takes its place when the block ends, or is gone."""
    made: list[Path] = []
    part = target.parent / f".embedkit-{secrets.token_hex(8)}.part"
    try:
        for folder in reversed([folder for folder in target.parents if not folder.exists()]):
            folder.mkdir(exist_ok=True)
            made.append(folder)
        with _open_new(part) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _check_replaceable(target, overwrite)
        part.replace(target)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()
        raise
    _sync_folder(target.parent)


@contextmanager
def _open_new(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file; an error of the block is not covered by one that closing meets (a full disk)."""
    file = path.open("xb")
    try:
        yield file
    except BaseException:
        with suppress(OSError):
            file.close()
        raise
    file.close()


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- what is promised and kept -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """What a file will hold, known before its first byte."""

    rows: Mapping[str, int]
    width: int
    codec: LabelCodec | None
    labelled: Collection[str]
    columns: Iterable[ColumnChunk] | None

    def __post_init__(self) -> None:
        if self.width < 1 or min(self.rows.values(), default=0) < 0:
            raise ValueError(f"width {self.width} and rows {dict(self.rows)} must be counts")
        strange = [split for split in self.labelled if split not in self.rows]
        if strange:
            raise ValueError(f"labelled splits {strange} are none of {list(self.rows)}")

    def has_labels(self, split: str) -> bool:
        return self.codec is not None and split in self.labelled


class FeatureFile(ABC):
    """A file that is being written; made by `feature_file`.

    Attributes
    ----------
    needs_columns : bool
        Whether the columns of the input are kept beside the vectors.
    """

    needs_columns: ClassVar[bool] = False

    def __init__(self, plan: _Plan) -> None:
        self._plan = plan
        self._ahead = list(plan.rows)
        self._split: str | None = None
        self._left = 0

    def write(
        self,
        split: str,
        vectors: NDArray[np.float32],
        labels: Sequence[Any] | None,
        columns: Mapping[str, Sequence[Any]],
    ) -> None:
        """Add rows in order, split after split; some thousand at a time are best.

        Parameters
        ----------
        split : str
            The split that is being written, or the next one once all rows of this one were given.
        vectors : ndarray of float32, shape (n, width)
        labels : sequence or None
            n labels, or n lists of labels, of a split with labels; of others they are not looked at.
        columns : mapping of str to sequence
            n values each, as read; a column that is absent is null in these rows. Not looked at unless
            `needs_columns`.

        Raises
        ------
        ValueError
            This is not what was promised: another split, more rows, other shapes, labels that the codec lacks.
        DataError
            The columns are not those that were read before (the data changed meanwhile).
        OSError
            The file system refuses.
        """
        if vectors.dtype != np.float32 or vectors.ndim != 2 or vectors.shape[1] != self._plan.width:
            raise ValueError(
                f"vectors of {vectors.dtype} {vectors.shape}, promised float32 (rows, {self._plan.width})"
            )
        lengths = {len(values) for values in columns.values()} if self.needs_columns else set()
        if self._plan.has_labels(split):
            if labels is None:
                raise ValueError(f"no labels for rows of {split!r}, which was said to have labels")
            lengths.add(len(labels))
        if lengths - {len(vectors)}:
            raise ValueError(f"{len(vectors)} vectors of {split!r}, but {sorted(lengths)} labels or values")
        self._turn_to(split)
        if len(vectors) > self._left:
            raise ValueError(f"{split!r} has more than the promised {self._plan.rows[split]} rows")
        if len(vectors):
            self._put(split, vectors, labels, columns)
        self._left -= len(vectors)

    def _turn_to(self, split: str | None) -> None:
        """Go on to a split, or behind the last one; all before it must be whole."""
        if split is not None and split not in [self._split, *self._ahead]:
            raise ValueError(f"{split!r} is none of the promised splits {list(self._plan.rows)}, or is behind us")
        while self._split != split or (split is None and self._ahead):
            if self._left:
                given = self._plan.rows[self._split or ""] - self._left
                raise ValueError(f"{self._split!r} has {given} rows, promised {given + self._left}")
            self._split = self._ahead.pop(0) if self._ahead else None
            if self._split is not None:
                self._left = self._plan.rows[self._split]
                self._begin(self._split)

    @abstractmethod
    def _start(self, file: IO[bytes]) -> None:
        """Take the new file that is to be written."""

    def _begin(self, split: str) -> None:  # noqa: B027 - most formats have nothing to do
        """Take note that a split begins; called once for each, in order."""

    @abstractmethod
    def _put(
        self,
        split: str,
        vectors: NDArray[np.float32],
        labels: Sequence[Any] | None,
        columns: Mapping[str, Sequence[Any]],
    ) -> None:
        """Write at least one row, checked."""

    @abstractmethod
    def _finish(self) -> None:
        """Write what ends the file, behind the last row."""

    def _discard(self) -> None:  # noqa: B027 - only some libraries write at their own end
        """Let go of the file without an error."""


@contextmanager
def feature_file(
    path: Path,
    *,
    rows: Mapping[str, int],
    width: int,
    codec: LabelCodec | None,
    labelled: Collection[str],
    columns: Iterable[ColumnChunk] | None = None,
    overwrite: bool = False,
) -> Iterator[FeatureFile]:
    """Open a file of features for writing; it is there, whole, when the block has ended without an error.

    - ``.parquet``: the columns of the input and ``hidden_state`` (a list of `width` float32); in front of them
      ``split``, a string, where there are several splits. One row group for each `FeatureFile.write`. A
      column that a split or a JSON line lacks is null there. Integers stand as floats where a column has both
      and none changes by that.
    - ``.npz``: ``X_<split>``, float32 of shape (rows, width); for each split with labels ``y_<split>``, int64
      codes of shape (rows,), or booleans of shape (rows, classes) where a row has several labels; and
      ``label_names``, the class of each code. Not compressed, no pickle.
    - ``.safetensors``: the same arrays; ``label_names`` is a JSON list in the metadata.

    In names of arrays, ``/``, a backslash, NUL and dots in front of a split's name are ``_``. The file has the
    mode that the umask gives.

    Parameters
    ----------
    path : Path
        As `check_target` wants it. Missing parents are made.
    rows : mapping of str to int
        Splits and their rows, in the order in which they will be written.
    width : int
        Numbers in a vector.
    codec : LabelCodec or None
        Knows the labels of all splits; None writes no labels (Parquet has them in its columns).
    labelled : collection of str
        Splits that have labels.
    columns : iterable of (str, mapping, ndarray), optional
        All rows of all splits, without vectors: source, values by column, data rows. Parquet must know every
        column and its type before the first row, so this is read to its end before the block runs; the other
        formats do not touch it.
    overwrite : bool, default False
        Replace a file; it stays until the new one is whole.

    Yields
    ------
    FeatureFile

    Raises
    ------
    UsageError, OutputExistsError, MissingExtraError
        Before the block runs, as `check_target`.
    DataError
        Before the block runs: a column holds values of several kinds or of one that is not written, or has a
        name that the file needs itself.
    ValueError
        What was written is not what was promised. As after every other exception, Ctrl-C included, nothing is
        left and a file that was there stays.
    OSError
        The file system refuses; the disk is full.
    """
    check_target(path, overwrite=overwrite)
    plan = _Plan(rows, width, codec, labelled, columns)
    file = _FORMATS[path.suffix.lower()](plan)
    with _written_whole(path.absolute(), overwrite) as raw:
        file._start(raw)
        try:
            yield file
            file._turn_to(None)
            file._finish()
        except BaseException:
            file._discard()
            raise


# --- arrays: npz and safetensors -----------------------------------------------------------------------


class _Codes:
    """The labels of all splits as codes: 8 bytes a row, or one bit a row and class."""

    def __init__(self, plan: _Plan, classes: LabelCodec) -> None:
        self._codec = classes
        self._chunks: dict[str, list[NDArray[Any]]] = {split: [] for split in plan.rows if plan.has_labels(split)}
        self.several: bool | None = None

    def add(self, split: str, labels: Sequence[Any]) -> None:
        forms = {isinstance(label, (list, tuple, set, frozenset)) for label in labels} | {self.several} - {None}
        if len(forms) > 1:
            raise ValueError("some rows have one label, others a list of labels")
        self.several = any(forms)
        try:
            if self.several:
                self._chunks[split].append(np.packbits(self._codec.encode_sets(labels), axis=1))
            else:
                self._chunks[split].append(self._codec.encode(labels))
        except DataError as error:
            raise ValueError(f"the codec does not fit the labels of {split!r}: {error}") from error

    def arrays(self, split: str) -> Iterator[NDArray[Any]]:
        """Yield the codes as they are written."""
        for chunk in self._chunks[split]:
            if self.several:
                yield np.unpackbits(chunk, axis=1, count=len(self._codec)).astype(np.bool_)
            else:
                yield chunk.astype("<i8", copy=False)


def _array_names(splits: Iterable[str]) -> dict[str, str]:
    """Return what a split is called in names of arrays."""
    names: dict[str, str] = {}
    for split in splits:
        dots = len(split) - len(split.lstrip("."))
        name = "_" * dots + re.sub(r"[/\\\0\ud800-\udfff]", "_", split[dots:])
        if name in names.values():
            raise ValueError(f"the splits {list(splits)} are not distinct as names of arrays")
        names[split] = name
    return names


class _ArrayFile(FeatureFile):
    """Vectors in the order they come, labels behind them."""

    def __init__(self, plan: _Plan) -> None:
        super().__init__(plan)
        self._names = _array_names(plan.rows)
        self._codes = None if plan.codec is None else _Codes(plan, plan.codec)

    def _shapes(self, several: bool) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return dtype and shape of the arrays, in the order of the file."""
        rows, codec = self._plan.rows, self._plan.codec
        shapes: dict[str, tuple[str, tuple[int, ...]]] = {
            f"X_{self._names[split]}": ("<f4", (count, self._plan.width)) for split, count in rows.items()
        }
        for split, count in rows.items():
            if codec is not None and self._plan.has_labels(split):
                shapes[f"y_{self._names[split]}"] = ("|b1", (count, len(codec))) if several else ("<i8", (count,))
        return shapes

    def _begin(self, split: str) -> None:
        self._open(f"X_{self._names[split]}")

    def _put(
        self,
        split: str,
        vectors: NDArray[np.float32],
        labels: Sequence[Any] | None,
        columns: Mapping[str, Sequence[Any]],
    ) -> None:
        if self._codes is not None and labels is not None and self._plan.has_labels(split):
            self._codes.add(split, labels)
        self._append(vectors.astype("<f4", copy=False))

    def _finish(self) -> None:
        for split in self._plan.rows:
            if self._codes is not None and self._plan.has_labels(split):
                self._open(f"y_{self._names[split]}")
                for chunk in self._codes.arrays(split):
                    self._append(chunk)

    @property
    def _several(self) -> bool:
        return self._codes is not None and bool(self._codes.several)

    @abstractmethod
    def _open(self, name: str) -> None:
        """Begin the next array."""

    @abstractmethod
    def _append(self, array: NDArray[Any]) -> None:
        """Write rows of the array that was begun."""


def _raw(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


class _NpzFile(_ArrayFile):
    """One stored zip member an array, each streamed behind its npy header."""

    def __init__(self, plan: _Plan) -> None:
        super().__init__(plan)
        for name in plan.codec.names if plan.codec is not None else ():
            if name.endswith("\0"):
                raise DataError(f"label {name_of(name)} ends in NUL, which .npz drops; write .safetensors")

    def _start(self, file: IO[bytes]) -> None:
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)
        self._member: IO[bytes] = io.BytesIO()  # closed when the first one is opened

    def _open(self, name: str) -> None:
        dtype, shape = self._shapes(self._several)[name]
        member = self._next_member(name)
        header = {"descr": dtype, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(member, header)

    def _next_member(self, name: str) -> IO[bytes]:
        self._member.close()
        # ZipInfo's own date, so that equal features are equal files
        self._member = self._zip.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)
        return self._member

    def _append(self, array: NDArray[Any]) -> None:
        self._member.write(_raw(array))

    def _finish(self) -> None:
        super()._finish()
        if self._plan.codec is not None:
            names = np.array(self._plan.codec.names, dtype=np.str_)
            np.lib.format.write_array(self._next_member("label_names"), names, allow_pickle=False)
        self._member.close()
        self._zip.close()

    def _discard(self) -> None:
        # Both would write at their end, or complain when they are collected.
        for part in (self._member, self._zip):
            with suppress(OSError):
                part.close()


class _SafetensorsFile(_ArrayFile):
    """The header of the safetensors format, then the arrays one after another.

    Format: https://github.com/huggingface/safetensors#format
    """

    _DTYPES: ClassVar[dict[str, str]] = {"<f4": "F32", "<i8": "I64", "|b1": "BOOL"}

    def _start(self, file: IO[bytes]) -> None:
        # Whether rows have several labels shows with the first of them: there is room for either header.
        self._file, self._room = file, max(len(self._header(several)) for several in (False, True))
        file.write(bytes(8 + self._room))

    def _header(self, several: bool) -> bytes:
        header: dict[str, Any] = {}
        if self._plan.codec is not None:
            header["__metadata__"] = {"label_names": json.dumps(self._plan.codec.names)}
        shapes = self._shapes(several)
        sizes = (int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize for dtype, shape in shapes.values())
        offsets = list(accumulate(sizes, initial=0))
        for (name, (dtype, shape)), *place in zip(shapes.items(), offsets, offsets[1:], strict=False):
            header[name] = {"dtype": self._DTYPES[dtype], "shape": shape, "data_offsets": place}
        text = json.dumps(header, separators=(",", ":")).encode("ascii")
        return text.ljust(-(-len(text) // 8) * 8)

    def _open(self, name: str) -> None:
        pass

    def _append(self, array: NDArray[Any]) -> None:
        self._file.write(_raw(array))

    def _finish(self) -> None:
        super()._finish()
        self._file.seek(0)
        self._file.write(struct.pack("<Q", self._room) + self._header(self._several).ljust(self._room))


# --- Parquet -------------------------------------------------------------------------------------------

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


class _ParquetFile(FeatureFile):
    """One row group a chunk."""

    needs_columns = True

    def __init__(self, plan: _Plan) -> None:
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


_FORMATS: dict[str, type[FeatureFile]] = {
    ".parquet": _ParquetFile,
    ".npz": _NpzFile,
    ".safetensors": _SafetensorsFile,
}
