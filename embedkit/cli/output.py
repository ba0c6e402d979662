"""What a command says: results on stdout, everything else on stderr."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

JSON_LINE = {"ensure_ascii": False, "allow_nan": False}


def escaped(text: str) -> str:
    """Return text that cannot steer a terminal: control, bidi and invisible characters are escaped."""
    return "".join(c if c == "\n" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(args: argparse.Namespace, text: str = "") -> None:
    """Tell the user something on stderr, unless told to be quiet."""
    if not args.quiet:
        print(escaped(text), file=sys.stderr)


def warn(text: str) -> None:
    """Tell the user something on stderr that must not be missed."""
    print(f"warning: {escaped(text)}", file=sys.stderr)


def show(text: str) -> None:
    """Print a result for people on stdout."""
    print(escaped(text))


def emit(value: Mapping[str, Any]) -> None:
    """Print a result for programs: one JSON object on one line of stdout."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False))


def listen() -> None:
    """Print what the rooms log, from warnings up, on stderr."""
    log = logging.getLogger("embedkit")
    if not any(isinstance(handler, _ToStderr) for handler in log.handlers):
        log.addHandler(_ToStderr(logging.WARNING))
        log.propagate = False


class _ToStderr(logging.Handler):
    """Looks sys.stderr up at each message, which tests and notebooks replace."""

    def emit(self, record: logging.LogRecord) -> None:
        warn(record.getMessage())


def tell_notes(args: argparse.Namespace, notes: Iterable[str], told: set[str] | None = None) -> None:
    """Say what is worth knowing about data or a fit, each note once."""
    told = set() if told is None else told
    for note in notes:
        if note not in told:
            told.add(note)
            say(args, f"note: {note}")


def table(rows: Sequence[Sequence[object]], *, left: frozenset[int] = frozenset({0})) -> str:
    """Return aligned lines; columns in `left` stand to the left, the others to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        parts = []
        for place, (cell, width) in enumerate(zip(row, widths, strict=True)):
            blank = " " * (width - _width(cell))
            parts.append(cell + blank if place in left else blank + cell)
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in text)


@contextmanager
def progress(args: argparse.Namespace, total: int, what: str) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal; elsewhere, and when quiet, nothing."""
    if args.quiet or not sys.stderr.isatty():
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=what, unit=" texts", file=sys.stderr, mininterval=0.2) as bar:
        yield lambda count: (bar.update(count), None)[1]
