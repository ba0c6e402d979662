"""From arguments to a command, and from what went wrong to one line and an exit code."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from embedkit import __version__
from embedkit.cli import (
    adapt,
    cache,
    compare,
    demo,
    evaluate,
    export_onnx,
    extract,
    fewshot,
    fill_mask,
    finetune,
    fit_head,
    inspect,
    predict,
    push,
)
from embedkit.cli import map as map_command
from embedkit.cli.options import Parser
from embedkit.cli.output import inert, listening
from embedkit.errors import EmbedkitError, require

_COMMANDS = (
    *(inspect, extract, fit_head, fewshot, finetune, adapt, fill_mask, evaluate, predict),
    *(compare, map_command, export_onnx, push, cache, demo),
)
_INTERNAL, _IO, _INTERRUPTED, _PIPE = 70, 74, 130, 141
_LAYERS = re.compile(r"-\d+([,+](-?\d+|all))+")
_EPILOG = """\
DATA is a folder with split files (train; validation, valid, val or dev; test), one file (20 % is then held out
as test), or hf:name[/config]. Formats: csv, tsv, jsonl, parquet, arrow, CoNLL columns.

exit codes: 0 done; 1 done, but a gate was missed; 2 usage; 65 bad data, model or artifact; 66 input missing;
70 internal error; 74 input/output; 130 interrupted
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; imports nothing heavy."""
    parser = Parser(
        prog="embedkit",
        description="Good text classifiers that run fast on a CPU.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"embedkit {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : sequence of str, optional
        Default: those of the process.

    Returns
    -------
    int
        The exit code.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    args, unknown = build_parser().parse_known_args(_joined(given))
    args.given = given
    if unknown:  # said here, by the command whose help lists what there is
        args.parser.error(inert(f"unrecognized arguments: {' '.join(unknown)}"))
    # Set before the hub's library is imported: it draws bars of its own.
    if args.quiet or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with listening(), _terminable():
        return _run(args)


def _joined(arguments: Sequence[str]) -> list[str]:
    """Write ``--layers -1,-2`` with an equals sign: argparse takes the value for a flag."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--layers" and _LAYERS.fullmatch(argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _run(args: argparse.Namespace) -> int:
    try:
        code = _answered(args)
        sys.stdout.flush()
        return code
    except EmbedkitError as error:
        return _failed(args, str(error), error.exit_code)
    except KeyboardInterrupt:
        return _failed(args, "interrupted", _INTERRUPTED)
    except BrokenPipeError:  # who read the output has gone
        _writable()
        return _PIPE
    except OSError as error:
        place = "" if _writable() else "standard output: "
        place = f"{error.filename}: " if error.filename else place
        return _failed(args, f"{place}{error.strerror or error}", _IO)
    except Exception as error:
        # Its message may quote a text; the traceback is for those who ask.
        what = f"internal error ({type(error).__name__}); run it again with --debug and report what it shows"
        return _failed(args, what, _INTERNAL)


def _answered(args: argparse.Namespace) -> int:
    """Run the command; for a package that is not installed, name the extra that has it."""
    try:
        code: int = args.run(args)
    except ModuleNotFoundError as error:
        package = (error.name or "embedkit").partition(".")[0]
        if package not in sys.stdlib_module_names:
            require(package, extra="train", purpose=f"embedkit {args.command}")
        raise
    return code


def _writable() -> bool:
    """Whether stdout takes what is left of the output; where not, Python must not complain of it while it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _failed(args: argparse.Namespace, message: str, code: int) -> int:
    if args.debug:
        print(inert(traceback.format_exc(), keep="\n"), end="", file=sys.stderr)
    # The list of a file's columns is the one message of several lines.
    print(f"embedkit: error: {inert(message, keep=chr(10))}", file=sys.stderr)
    return code


@contextmanager
def _terminable() -> Iterator[None]:
    """Take SIGTERM for Ctrl-C."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
