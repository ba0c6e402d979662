"""Files as streams of column batches, one class a format: csv and tsv, JSON lines; decoding for all text files.

A table knows nothing of texts and labels. It opens its file anew at each pass, holds one batch at a time,
and names the file, the data row and the line of whatever it cannot read.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol, TextIO

from embedkit.data.text import counted, name_of, names_of
from embedkit.errors import DataError, UsageError

FIELD_LIMIT = 16 << 20
"""Characters in one csv field at most."""

BATCH_CHARACTERS = 32 << 20
"""A batch ends early once it holds so many characters, so that long texts do not fill the memory."""

_KEYS_FROM_ROWS = 1000


@dataclass(frozen=True)
class Batch:
    """Some rows of a table, by column.

    Attributes
    ----------
    first_row : int
        Data row of the first one, counted from 1.
    columns : dict of str to list
        Values as read; all lists have the same length.
    """

    first_row: int
    columns: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))


class Table(Protocol):
    """A file or a split of a hub data set that can be read several times."""

    @property
    def name(self) -> str:
        """Path or address as the user wrote it, for messages."""

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in their order; JSON lines may bring further ones in later batches."""

    @property
    def declared(self) -> Mapping[str, tuple[str, ...]]:
        """Label names that the file itself declares, by column (a ClassLabel of `datasets`)."""

    @property
    def positional(self) -> bool:
        """Whether columns have numbers instead of names (CoNLL)."""

    @property
    def notes(self) -> list[str]:
        """What was seen and is worth saying."""

    def batches(self, rows: int, only: Sequence[str] | None = None) -> Iterator[Batch]:
        """Yield batches of at most `rows` rows in file order, of all columns or at least those in `only`."""


# ---------------------------------------------------------------------------------------------- decoding


def checked_encoding(encoding: str) -> str:
    """Return the codec to open files with; raise `UsageError` where there is no such text encoding."""
    try:
        io.TextIOWrapper(io.BytesIO(), encoding=encoding).close()
    except LookupError:
        raise UsageError(
            f"--encoding {name_of(encoding)} is not a text encoding of Python; examples: utf-8, cp1252, utf-16"
        ) from None
    codec = codecs.lookup(encoding).name
    return "utf-8" if codec == "utf-8-sig" else codec


@contextmanager
def open_text(path: Path, encoding: str, *, newline: str | None, errors: str = "strict") -> Iterator[TextIO]:
    """Open a text file behind its byte order mark, if it has one."""
    codec = "utf-8-sig" if encoding == "utf-8" else encoding
    with path.open(encoding=codec, newline=newline, errors=errors) as file:
        if encoding in {"utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"} and file.read(1) != "\ufeff":
            file.seek(0)
        yield file


def bad_byte(path: Path, encoding: str) -> tuple[int, int, bytes]:
    """Return the offset, the line (from 1) and the bytes that do not decode; they must exist."""
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    offset, line = 0, 1
    with path.open("rb") as file:
        while True:
            block = file.read(1 << 16)
            pending = len(decoder.getstate()[0])
            try:
                line += decoder.decode(block, final=not block).count("\n")
            except UnicodeDecodeError as error:
                before = bytes(error.object[: error.start]).decode(error.encoding, "replace")
                wrong = bytes(error.object[error.start : error.start + 1])
                return offset - pending + error.start, line + before.count("\n"), wrong
            except UnicodeError as error:  # UTF-16 without its mark
                raise DataError(f"{path}: {error}; name its encoding exactly, as --encoding utf-16-le") from None
            assert block, "decodes after all: the file changed while it was read"
            offset += len(block)


def decoding_error(name: str, path: Path, encoding: str, row: str) -> DataError:
    """Say where `path` stops being text; `row` is ``"row 5 (line 6)"`` or the like."""
    offset, _, wrong = bad_byte(path, encoding)
    with path.open("rb") as file:
        start = file.read(4)
    if start[:2] in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE}:
        hint = "it begins as UTF-16 does: try --encoding utf-16"
    else:
        hint = "name its encoding, for example --encoding cp1252"
    return DataError(f"{name}: {row}, byte {offset:,} (0x{wrong.hex()}) is not valid {encoding}; {hint}")


# ------------------------------------------------------------------------------------------- csv and tsv


class _CsvReader(Protocol):
    """What ``csv.reader`` returns."""

    line_num: int

    def __iter__(self) -> Iterator[list[str]]: ...
    def __next__(self) -> list[str]: ...


class DelimitedTable:
    r"""A csv or tsv file with a header line, by the csv module in strict mode.

    Every value stays a string: no "NA" turns into a missing one. Line ends, also inside quotes, are ``\n``.
    Blank lines between rows are skipped and not counted.
    """

    positional = False

    def __init__(self, path: Path, name: str, encoding: str, delimiter: str) -> None:
        self.name = name
        self.declared: Mapping[str, tuple[str, ...]] = {}
        self.notes: list[str] = []
        self._path, self._encoding, self._delimiter = path, encoding, delimiter
        csv.field_size_limit(max(csv.field_size_limit(), FIELD_LIMIT))
        with self._reading() as (_, header):
            self.names = tuple(header)
        self._check_header()

    @contextmanager
    def _reading(self, errors: str = "strict") -> Iterator[tuple[_CsvReader, list[str]]]:
        """Give the csv reader behind the header, and the header."""
        with open_text(self._path, self._encoding, newline=None, errors=errors) as file:
            reader = csv.reader(file, delimiter=self._delimiter, strict=True)
            try:
                header = next(reader, [])
            except UnicodeError:
                raise self._decoding_error() from None
            except csv.Error as error:
                self._fail("the header (line 1)", error)
            yield reader, header

    def _check_header(self) -> None:
        where = f"{self.name}: line 1 (the header)"
        if not self.names or self.names == ("",):
            raise DataError(f"{where} is empty; it must name the columns, for example: text,label")
        if any("\0" in name for name in self.names):
            raise DataError(f"{where} holds NUL characters: is it UTF-16? Try --encoding utf-16-le")
        empty = [number for number, name in enumerate(self.names, 1) if not name.strip()]
        if empty:
            raise DataError(
                f"{where}: column {empty[0]} of {len(self.names)} has no name; "
                "name it, or leave it out (pandas: to_csv(..., index=False))"
            )
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise DataError(f"{where} names {names_of(twice)} more than once; every column needs its own name")

    def batches(self, rows: int, only: Sequence[str] | None = None) -> Iterator[Batch]:
        """Yield batches; see `Table.batches`."""
        with self._reading() as (reader, _):
            first = 1
            while block := self._block(reader, rows, first):
                columns = dict(zip(self.names, map(list, zip(*block, strict=True)), strict=True))
                yield Batch(first, columns)
                first += len(block)

    def _block(self, reader: _CsvReader, rows: int, first: int) -> list[list[str]]:
        """Read up to `rows` rows, each of the header's width."""
        block: list[list[str]] = []
        width, characters, line = len(self.names), 0, reader.line_num
        try:
            for row in reader:
                if len(row) != width:
                    if not row:  # a blank line
                        line = reader.line_num
                        continue
                    self._fail_ragged(f"row {first + len(block)} (line {line + 1})", row)
                if reader.line_num - line > 1:
                    self._watch_quotes(first + len(block), row)
                line = reader.line_num
                block.append(row)
                characters += sum(map(len, row))
                if len(block) == rows or characters > BATCH_CHARACTERS:
                    break
        except UnicodeError:
            raise self._decoding_error() from None
        except csv.Error as error:
            self._fail(f"row {first + len(block)} (line {line + 1})", error)
        return block

    def _watch_quotes(self, row: int, values: list[str]) -> None:
        """Say where a tsv's bare quotes may have swallowed line ends: the width alone does not show it."""
        if self._delimiter == "\t" and any("\t" in value and "\n" in value for value in values):
            note = (
                f"{self.name}: row {row} is a quoted field over several lines with tabs in it; if quotes are "
                "plain characters in this file, double them ('\"\"') or convert it to JSON lines"
            )
            if not self.notes:
                self.notes.append(note)

    def _fail_ragged(self, where: str, row: list[str]) -> NoReturn:
        raise DataError(
            f"{self.name}: {where} has {counted(len(row), 'field')}, the header has {len(self.names)} "
            f"({names_of(self.names)}); put quotes around a text that holds "
            f"{'tabs' if self._delimiter == chr(9) else 'commas'} or line ends"
        )

    def _fail(self, where: str, error: csv.Error) -> NoReturn:
        said = str(error)
        if "unexpected end of data" in said or "field limit" in said:
            why = 'a quote (") is opened and never closed'
            if "field limit" in said:
                why = f"a field is longer than {FIELD_LIMIT >> 20} million characters, or {why}"
        elif "expected after" in said:
            why = 'text follows a closing quote; write a quote inside a quoted field as ""'
        else:
            why = said
        raise DataError(f"{self.name}: {where}: {why}") from None

    def _decoding_error(self) -> DataError:
        line = bad_byte(self._path, self._encoding)[1]
        return decoding_error(self.name, self._path, self._encoding, self._row_at(line))

    def _row_at(self, line: int) -> str:
        """Name the row that a line belongs to: a row may span lines."""
        with self._reading(errors="replace") as (reader, _):
            if line <= reader.line_num:
                return "the header (line 1)"
            row = 0
            try:
                for fields in reader:
                    row += bool(fields)
                    if reader.line_num >= line:
                        break
            except csv.Error:
                row += 1
        return f"row {row} (line {line})"


# --------------------------------------------------------------------------------------------- JSON lines

# A lone surrogate can only come from an escape: raw ones are not valid in any encoding we read.
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {name_of(next(k for k in keys if keys.count(k) > 1))} stands there twice")
    return found


class JsonLinesTable:
    """One JSON object a line; a key that a row lacks is None there. Blank lines are skipped, not counted."""

    positional = False

    def __init__(self, path: Path, name: str, encoding: str, bad_unicode: Literal["error", "replace"]) -> None:
        self.name = name
        self.declared: Mapping[str, tuple[str, ...]] = {}
        self.notes: list[str] = []
        self._path, self._encoding, self._bad_unicode = path, encoding, bad_unicode
        self._decode = json.JSONDecoder(object_pairs_hook=_unique).decode
        keys: dict[str, None] = {}
        for row in islice(self._objects(), _KEYS_FROM_ROWS):
            keys.update(dict.fromkeys(row))
        self.names = tuple(keys)

    def batches(self, rows: int, only: Sequence[str] | None = None) -> Iterator[Batch]:
        """Yield batches; see `Table.batches`. A key that first appears late joins from its batch on."""
        names, first = dict.fromkeys(self.names), 1
        block: list[dict[str, Any]] = []
        for row in self._objects(sizes := [0]):
            block.append(row)
            if len(block) == rows or sizes[0] > BATCH_CHARACTERS:
                yield self._batch(first, block, names, only)
                first, block, sizes[0] = first + len(block), [], 0
        if block:
            yield self._batch(first, block, names, only)

    @staticmethod
    def _batch(
        first: int, block: list[dict[str, Any]], names: dict[str, None], only: Sequence[str] | None
    ) -> Batch:
        for row in block:
            if not row.keys() <= names.keys():
                names.update(dict.fromkeys(row))
        return Batch(first, {name: [row.get(name) for row in block] for name in (only or names)})

    def _objects(self, sizes: list[int] | None = None) -> Iterator[dict[str, Any]]:
        number = 0
        with open_text(self._path, self._encoding, newline="\n") as file:
            for line_number, line in enumerate(self._lines(file), 1):
                if line.isspace():
                    continue
                number += 1
                if sizes is not None:
                    sizes[0] += len(line)
                yield self._object(line, f"row {number} (line {line_number})", number)

    def _lines(self, file: Iterable[str]) -> Iterator[str]:
        try:
            yield from file
        except UnicodeError:
            line = bad_byte(self._path, self._encoding)[1]
            where = f"row {self._row_at(line)} (line {line})"
            raise decoding_error(self.name, self._path, self._encoding, where) from None

    def _row_at(self, line: int) -> int:
        with open_text(self._path, self._encoding, newline="\n", errors="replace") as file:
            return sum(not text.isspace() for text in islice(file, line))

    def _object(self, line: str, where: str, row: int) -> dict[str, Any]:
        try:
            found = self._decode(line)
        except RecursionError:
            raise DataError(f"{self.name}: {where} is nested too deeply to be a row") from None
        except json.JSONDecodeError as error:
            if row == 1 and line.lstrip().startswith("["):
                self._fail_array(where)
            raise DataError(
                f"{self.name}: {where} is not JSON: {error.msg} at character {error.colno:,}; "
                'each line holds one object, for example {"text": "...", "label": "..."}'
            ) from None
        except ValueError as error:  # a key twice; an integer of thousands of digits
            raise DataError(f"{self.name}: {where}: {error}") from None
        if type(found) is list:
            self._fail_array(where)
        if type(found) is not dict:
            raise DataError(
                f"{self.name}: {where} is a JSON {_json_type(found)}, not an object; "
                'each line holds one object, for example {"text": "...", "label": "..."}'
            )
        if _SURROGATE_ESCAPE.search(line):
            found = {str(self._sound(k, row, k)): self._sound(v, row, k) for k, v in found.items()}
        return found

    def _fail_array(self, where: str) -> NoReturn:
        raise DataError(
            f"{self.name}: {where} is a JSON array, not an object; write one object a line (pandas: "
            "to_json(..., orient='records', lines=True))"
        )

    def _sound(self, value: object, row: int, column: str) -> object:
        """Return `value` without lone surrogates, or raise with the row and place of the first."""
        if isinstance(value, str):
            if lone := _SURROGATE.search(value):
                if self._bad_unicode == "error":
                    raise DataError(
                        f"{self.name}: row {row}: lone surrogate U+{ord(lone.group()):04X} at char "
                        f"{lone.start()} of column {name_of(column)}; mend it, or pass --bad-unicode replace"
                    )
                return _SURROGATE.sub("\ufffd", value)
            return value
        if isinstance(value, list):
            return [self._sound(item, row, column) for item in value]
        if isinstance(value, dict):
            return {self._sound(k, row, column): self._sound(v, row, column) for k, v in value.items()}
        return value


def _json_type(value: object) -> str:
    names = {str: "string", int: "number", float: "number", bool: "boolean"}
    return names.get(type(value), "null")
