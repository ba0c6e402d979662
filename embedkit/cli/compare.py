"""``embedkit compare``: methods side by side on the same rows, and which one to take."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from embedkit.cli import options
from embedkit.cli.output import emit, say, show
from embedkit.errors import UsageError

if TYPE_CHECKING:
    from embedkit.evaluation.compare.result import Comparison

_INTERRUPTED = 130


def add(subparsers: options.Subparsers) -> None:
    """Add the command."""
    parser = options.command(subparsers, "compare", run, "compare methods on the same rows: which one to take")
    options.add_data(parser)
    group = parser.add_argument_group("comparison")
    group.add_argument(
        "--methods",
        metavar="LIST",
        help="of majority, tfidf, frozen, fewshot, setfit, finetune, separated by commas; options after colons: "
        "frozen:pooling=mean:clf=ridge, finetune:freeze=4, fewshot:upto=64 (rows a class)",
    )
    group.add_argument(
        "--shots", metavar="LIST", help="rows a class, and full; default 8,32,128,full (words: 100,1000,full)"
    )
    group.add_argument(
        "--seeds", type=options.count_from(1), default=3, metavar="N", help="samples of each size (default 3)"
    )
    group.add_argument(
        "--budget",
        metavar="TIME",
        help="such as 90s, 10m, 2h; what does not fit is named and left out (default: 10m without --methods, else "
        "no limit)",
    )
    group.add_argument(
        "--cost", default="serve", choices=("serve", "train"), help="what cheap means (default serve)"
    )
    group.add_argument(
        "--margin",
        type=float,
        default=0.01,
        metavar="X",
        help="what the advised method may lose against the best (default 0.01)",
    )
    group.add_argument("--metric", choices=("accuracy", "macro-f1", "f1"), help="what methods are compared by")
    group.add_argument("--no-serve", action="store_true", help="do not export methods to time them as served")
    group.add_argument("--no-texts", action="store_true", help="write no text into the report, row numbers alone")
    options.add_seed(group)
    options.add_encoder(parser)
    options.add_store(parser)
    options.add_output(parser, "folder of the results, where a comparison that was cut goes on", required=True)


def run(args: argparse.Namespace) -> int:
    """Compare, write the files, print the advice."""
    from embedkit.errors import require

    for module in ("pyarrow", "sklearn", "matplotlib"):
        require(module, extra="train", purpose="embedkit compare")
    from embedkit.evaluation.compare.api import compare_dataset

    _check(args)
    settings = options.settings_of(args)
    dataset = options.dataset_of(args)
    openers = (options.opener_of(args), options.word_opener_of(args))
    found = compare_dataset(
        dataset,
        args.output,
        methods=args.methods,
        shots=args.shots,
        seeds=args.seeds,
        seed=args.seed,
        budget=args.budget,
        metric=None if args.metric is None else args.metric.replace("-", "_"),
        margin=args.margin,
        cost=args.cost,
        served=not args.no_serve,
        encoder=settings,
        task=args.task,
        openers=openers,
        texts=not args.no_texts,
        overwrite=args.overwrite,
        say=lambda line: say(args, line),
        command=shlex.join(["embedkit", *args.given]),
    )
    _report(args, found)
    if found.interrupted:
        say(args, "interrupted; the same command goes on with it")
        return _INTERRUPTED
    return 1 if found.failed else 0


def _check(args: argparse.Namespace) -> None:
    if args.seed + args.seeds > 2**32:
        raise UsageError(f"--seed {args.seed} with --seeds {args.seeds} goes beyond {2**32 - 1}")


def _report(args: argparse.Namespace, found: Comparison) -> None:
    from embedkit.evaluation.compare.cells import RESULTS
    from embedkit.evaluation.compare.files import shown_text

    if args.json:
        emit(found.to_json())
        return
    show(shown_text(found))
    for cell in found.failed:
        say(args, f"failed: {cell.method}, {cell.size}, seed {cell.seed}: {cell.why}")
    say(args, f"saved in {args.output}: {', '.join(name for name in RESULTS if Path(args.output, name).exists())}")
    if found.details and not args.no_texts:
        say(args, "note: the report holds texts of the data: give it to those who may read them (see --no-texts)")
