"""CoNLL columns: one word a line with its tags beside it, a blank line after each sentence."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from embedkit.data.tables import BATCH_CHARACTERS, Batch, bad_byte, decoding_error, open_text
from embedkit.data.text import counted
from embedkit.errors import DataError

_LINES_LOOKED_AT = 1000
_BLANK = " \t\r\n"
_DOCUMENT = "-DOCSTART-"
_TAG = re.compile(r"[BILMESU][-_].+|[^a-z]+")  # B-per, NNP, O, -X-


def _fields(line: str, tabbed: bool) -> list[str]:
    """Split a line at single tabs, or at runs of spaces; no other space separates."""
    if tabbed:
        return line.rstrip("\n").split("\t")
    return [field for field in line.rstrip("\n").split(" ") if field]


def _is_comment(line: str, tabbed: bool, width: int) -> bool:
    """Tell ``# sent_id = 3`` from a sentence that begins with the word ``#`` (a pound sign in the WSJ)."""
    if not line.startswith("#"):
        return False
    fields = _fields(line, tabbed)
    return len(fields) != width or (not tabbed and len(fields) > 2 and fields[2] == "=")


def _lines_with_words(path: Path, name: str, encoding: str) -> list[str]:
    """Return lines from the file's beginning that hold words, no comments unless there is nothing else."""
    try:
        with open_text(path, encoding, newline=None) as file:
            lines = list(islice(file, _LINES_LOOKED_AT))
    except UnicodeError:
        line = bad_byte(path, encoding)[1]
        raise decoding_error(name, path, encoding, f"line {line}") from None
    words = [line for line in lines if line.strip(_BLANK) and not line.startswith(_DOCUMENT)]
    return [line for line in words if not line.startswith("#")] or words


def looks_like_conll(path: Path, name: str, encoding: str) -> bool:
    """Tell a CoNLL file from plain text.

    Nine lines in ten have one width above one, fields hold no spaces, and some column holds tags: nine values in
    ten are ``B-...`` and the like, or without lower-case letters.
    """
    lines = _lines_with_words(path, name, encoding)
    if not lines:
        return False
    tabbed = "\t" in lines[0]
    rows = [_fields(line, tabbed) for line in lines]
    width, count = Counter(map(len, rows)).most_common(1)[0]
    spaced = sum(" " in field for row in rows for field in row)
    if width < 2 or count < 0.9 * len(rows) or spaced > 0.1 * len(rows):
        return False
    columns = list(zip(*(row for row in rows if len(row) == width), strict=True))[1:]
    return any(sum(bool(_TAG.fullmatch(tag)) for tag in column) >= 0.9 * count for column in columns)


class ConllTable:
    """A CoNLL file: a row is a sentence, its columns are lists of equal length.

    The columns are called ``tokens``, ``column_2``, ``column_3`` and so on. Tabs separate where the first line
    has one, else spaces. ``-DOCSTART-`` lines and comments before a sentence are skipped.
    """

    positional = True

    def __init__(self, path: Path, name: str, encoding: str) -> None:
        self.name = name
        self.declared: Mapping[str, tuple[str, ...]] = {}
        self.notes: list[str] = []
        self._path, self._encoding = path, encoding
        lines = _lines_with_words(path, name, encoding)
        self._tabbed = bool(lines) and "\t" in lines[0]
        self._width = len(_fields(lines[0], self._tabbed)) if lines else 1
        self.names = ("tokens", *(f"column_{number}" for number in range(2, self._width + 1)))

    def batches(self, rows: int, only: Sequence[str] | None = None) -> Iterator[Batch]:
        """Yield batches; see `Table.batches`."""
        first, characters, block = 1, 0, list[tuple[tuple[str, ...], ...]]()
        for sentence, size in self._sentences():
            block.append(sentence)
            characters += size
            if len(block) == rows or characters > BATCH_CHARACTERS:
                yield self._batch(first, block)
                first, characters, block = first + len(block), 0, []
        if block:
            yield self._batch(first, block)

    def _batch(self, first: int, block: list[tuple[tuple[str, ...], ...]]) -> Batch:
        columns = zip(self.names, zip(*block, strict=True), strict=True)
        return Batch(first, {name: [list(values) for values in column] for name, column in columns})

    def _sentences(self) -> Iterator[tuple[tuple[tuple[str, ...], ...], int]]:
        """Yield each sentence as its columns, with the number of its characters."""
        words: list[list[str]] = []
        number, size, line_number = 1, 0, 0
        with open_text(self._path, self._encoding, newline=None) as file:
            try:
                for line_number, line in enumerate(file, 1):
                    outside = not line.strip(_BLANK) or line.startswith(_DOCUMENT)
                    if outside or (not words and _is_comment(line, self._tabbed, self._width)):
                        if words:
                            yield tuple(zip(*words, strict=True)), size
                            number, size, words = number + 1, 0, []
                        continue
                    words.append(self._word(line, number, line_number))
                    size += len(line)
            except UnicodeError:
                line_number = bad_byte(self._path, self._encoding)[1]
                where = f"row {self._row_at(line_number)} (line {line_number})"
                raise decoding_error(self.name, self._path, self._encoding, where) from None
        if words:
            yield tuple(zip(*words, strict=True)), size

    def _row_at(self, line_number: int) -> int:
        """Return the sentence that a line belongs to."""
        row, inside = 0, False
        with open_text(self._path, self._encoding, newline=None, errors="replace") as file:
            for line in islice(file, line_number):
                outside = not line.strip(_BLANK) or line.startswith(_DOCUMENT)
                if inside or not _is_comment(line, self._tabbed, self._width):
                    row += not outside and not inside
                    inside = not outside
        return row

    def _word(self, line: str, row: int, line_number: int) -> list[str]:
        fields = _fields(line, self._tabbed)
        where = f"{self.name}: row {row} (line {line_number})"
        if len(fields) != self._width:
            raise DataError(
                f"{where} has {counted(len(fields), 'column')}, the first line has {self._width}; every word "
                f"needs all columns, separated by {'tabs' if self._tabbed else 'spaces'}, and a blank line ends a "
                "sentence"
            )
        if "" in fields:
            raise DataError(f"{where}: column {fields.index('') + 1} is empty")
        return fields
