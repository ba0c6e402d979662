"""``embedkit fill-mask``: the words that a model guesses for a masked place, beside those of another."""

from __future__ import annotations

import argparse
from itertools import chain, zip_longest
from typing import TYPE_CHECKING

from embedkit.cli import options
from embedkit.cli.output import emit, show, table
from embedkit.errors import UsageError, require

if TYPE_CHECKING:
    from embedkit.training.fill import Guess

_MOST = 1000


def add(subparsers: options.Subparsers) -> None:
    """Add the command."""
    parser = options.command(
        subparsers, "fill-mask", run, "print the likeliest words for a masked place, beside those of another model"
    )
    parser.add_argument("folder", metavar="DIR", help="an adapted encoder, or another with such a head")
    parser.add_argument("text", metavar="TEXT", help='such as "What a [MASK] film!"; <mask> is the same')
    parser.add_argument("--beside", metavar="BASE", help="another model, such as the one that was adapted")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="words of each place (default 5)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")


def run(args: argparse.Namespace) -> int:
    """Guess and print."""
    for module in ("pyarrow", "torch", "transformers"):
        require(module, extra="train", purpose="embedkit fill-mask")
    from embedkit.estimators.start import open_start
    from embedkit.training.fill import MaskFiller

    if not 1 <= args.top <= _MOST:
        raise UsageError(f"--top is {args.top}; it must be a whole number from 1 to {_MOST}")
    names = [args.folder, *([] if args.beside is None else [args.beside])]
    starts = [open_start(name) for name in names]
    fillers = [MaskFiller(start.folder, start.tokenizer, args.device) for start in starts]
    found = [filler.fill(args.text, args.top) for filler in fillers]
    if args.json:
        emit(_facts(args, found))
    else:
        places = range(len(found[0]))
        show("\n\n".join(_table(names, [guesses[place] for guesses in found], place) for place in places))
    return 0


def _table(names: list[str], found: list[list[Guess]], place: int) -> str:
    """Return the words of one masked place, those of each model side by side."""
    heading = [f"mask {place + 1}", *(cell for name in names for cell in (name, "p"))]
    rows: list[list[str]] = [heading]
    for rank, guesses in enumerate(zip_longest(*found), 1):  # a vocabulary may be smaller than what is asked for
        cells = [("", "") if guess is None else (guess.word, f"{guess.probability:.4f}") for guess in guesses]
        rows.append([str(rank), *chain.from_iterable(cells)])
    return table(rows, left=frozenset({0, *range(1, len(heading), 2)}))


def _facts(args: argparse.Namespace, found: list[list[list[Guess]]]) -> dict[str, object]:
    """Return what came out, for programs."""
    sides = ("model", "beside")[: len(found)]
    masks = [
        {side: [guess._asdict() for guess in guesses[place]] for side, guesses in zip(sides, found, strict=True)}
        for place in range(len(found[0]))
    ]
    return {"model": args.folder, "beside": args.beside, "text": args.text, "masks": masks}
