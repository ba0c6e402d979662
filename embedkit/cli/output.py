"""What a command says: results on stdout, everything else on stderr."""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedkit.evaluation.judged import Entry


def escaped(text: str, keep: str = "") -> str:
    """Return text that cannot steer a terminal: control, bidi and invisible characters are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def inert(text: str, keep: str = "") -> str:
    """Return text for stderr, which others keep as a log: `escaped`, and without tokens and passwords of URLs."""
    from embedkit.artifact import scrub

    return escaped(scrub(text), keep)


def say(args: argparse.Namespace, text: str = "") -> None:
    """Tell the user something on stderr, unless told to be quiet."""
    if not args.quiet:
        print(inert(text, keep="\n"), file=sys.stderr)


def warn(text: str) -> None:
    """Tell the user something on stderr that must not be missed."""
    print(f"warning: {inert(text)}", file=sys.stderr)


def show(text: str) -> None:
    """Print a result for people on stdout."""
    encoding = sys.stdout.encoding or "utf-8"
    print(escaped(text, keep="\n").encode(encoding, "backslashreplace").decode(encoding))


def emit(value: Mapping[str, Any]) -> None:
    """Print a result for programs: one JSON object on one line of stdout.

    What could steer a terminal or ends a line for some readers (U+2028) is escaped; where stdout is not Unicode,
    all that is not ASCII.
    """
    unicode = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    line = json.dumps(value, ensure_ascii=not unicode, allow_nan=False)
    if not line.isprintable():
        line = "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)
    print(f"{line}\n", end="")  # written in one call, so that an interrupt leaves whole lines


@contextmanager
def listening() -> Iterator[None]:
    """Print what the rooms log, from warnings up, and what libraries warn of, on stderr."""
    log, handler = logging.getLogger("embedkit"), _ToStderr(logging.WARNING)
    propagated, log.propagate = log.propagate, False
    showed, warnings.showwarning = warnings.showwarning, _show_warning
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = propagated
        warnings.showwarning = showed


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """Say a library's warning in one line: it may quote a file that somebody else wrote."""
    warn(f"{category.__name__}: {' '.join(str(message).split())}")


class _ToStderr(logging.Handler):
    """Says each message once; looks sys.stderr up each time, which tests and notebooks replace."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self._said:
            self._said.add(message)
            warn(message)


def tell_notes(args: argparse.Namespace, notes: Iterable[str]) -> None:
    """Say what is worth knowing about data or a fit, each note once."""
    for note in dict.fromkeys(notes):
        say(args, f"note: {note}")


def tell_judged(args: argparse.Namespace, judged: Mapping[str, Entry], kind: str, output: str) -> None:
    """Print the report of a trained classifier's test split, else validation, and how to use it."""
    from embedkit.evaluation.judged import shown_split

    entry = shown_split(judged)
    if entry is None:
        say(args, "there is no labelled split to judge it on")
    else:
        show(entry.text())
    texts = '"a text" "its partner"' if kind == "pair" else '"some text"'
    say(args, f"saved in {output}; try: embedkit predict {shlex.quote(output)} {texts}")


def table(rows: Sequence[Sequence[object]], *, left: frozenset[int] = frozenset({0})) -> str:
    """Return aligned lines; columns in `left` stand to the left, the others to the right."""
    from embedkit.data.text import aligned

    return "\n".join(aligned([[escaped(str(cell)) for cell in row] for row in rows], left=left))


@contextmanager
def progress(
    args: argparse.Namespace, total: int, what: str, *, unit: str = " texts"
) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal; elsewhere, and when quiet, nothing."""
    if args.quiet or not sys.stderr.isatty():
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=what, unit=unit, file=sys.stderr, mininterval=0.2) as bar:
        yield lambda count: (bar.update(count), None)[1]
