"""``embedkit adapt``: go on training an encoder on texts without labels, by guessing masked words."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.cli import options
from embedkit.cli.finetune import checkpoints, evaluations, staged_once
from embedkit.cli.output import emit, progress, say, show, table, tell_notes
from embedkit.errors import DataError, UsageError

if TYPE_CHECKING:
    from embedkit.data import Split
    from embedkit.evaluation.adapted import AdaptedRun


def add(subparsers: options.Subparsers) -> None:
    """Add the command."""
    parser = options.command(
        subparsers, "adapt", run, "go on training an encoder on texts of a domain, by guessing masked words"
    )
    options.add_data(parser)
    group = parser.add_argument_group("model")
    options.add_base(group)
    group.add_argument("--max-length", type=int, metavar="N", help="most tokens of a row")
    options.add_training(parser)
    group = parser.add_argument_group("masked words")
    group.add_argument(
        "--mask", default="token", choices=("token", "whole-word"), help="what is hidden together (default token)"
    )
    group.add_argument(
        "--mask-share", type=float, default=0.15, metavar="X", help="share of the tokens (default 0.15)"
    )
    group.add_argument(
        "--pack", action="store_true", help="join the texts and cut them into full rows of --max-length"
    )
    group.add_argument(
        "--head-epochs",
        type=float,
        default=1.0,
        metavar="N",
        help="passes in which a head that the model lacks is trained alone first (default 1)",
    )
    options.add_output(parser, "folder of the adapted encoder", required=True)
    parser.add_argument("--resume", action="store_true", help="go on with a run that was interrupted")
    parser.epilog = "DATA may also be plain text (.txt), one text a line; labels and the test split are not read."


def run(args: argparse.Namespace) -> int:
    """Read, train, save."""
    from embedkit.artifact import check_replaceable
    from embedkit.estimators.start import open_start
    from embedkit.evaluation.adapted import masked_data, run_of, with_held_out, write_adapted
    from embedkit.evaluation.finetuned import is_main
    from embedkit.training.masking import MaskSettings
    from embedkit.training.mlm import HeadSettings

    settings = options.tune_settings_of(args)
    if args.metric is not None:
        raise UsageError("--metric is for classifiers; adapt takes the evaluation with the lowest validation loss")
    masks, head = MaskSettings(args.mask, args.mask_share, args.pack), HeadSettings(args.head_epochs)
    check_replaceable(Path(args.output), args.overwrite)
    read, notes = texts(args)
    splits, said = with_held_out(read, args.seed)
    tell_notes(args, [*notes, *said])
    start = open_start(args.model, revision=args.revision, max_length=args.max_length)
    data = masked_data(splits, start, masks, args.seed)
    tell_notes(args, data.notes)
    depends = run_of(splits, start, settings, masks, head)
    with staged_once(args) as stage, checkpoints(args, depends) as place:
        adapted = _train(args, (splits, data, start, settings, masks, head), place)
        tell_notes(args, adapted.notes)
        if stage is not None:
            tell_notes(args, write_adapted(stage, adapted, {"data": args.data, "model": args.model}))
    if is_main():
        _report(args, adapted)
    return 0


def texts(args: argparse.Namespace) -> tuple[Mapping[str, Split], list[str]]:
    """Read the texts of train and validation, and say what is worth saying."""
    from embedkit.data.lines import plain_files, read_lines
    from embedkit.evaluation.adapted import texts_of

    files = plain_files(args.data, train=args.train, validation=args.validation, encoding=args.encoding)
    if files:
        named = [role for role in ("text", "pair", "label", "tokens", "tags") if getattr(args, f"{role}_column")]
        if named:
            raise UsageError(
                f"--{named[0]}-column names a column, and {files['train']} is plain text without columns"
            )
        return {name: read_lines(file, name, encoding=args.encoding) for name, file in files.items()}, []
    dataset = options.dataset_of(args, labels="none")
    if dataset.single:
        try:  # with labels, other commands hold a part of it out as test, by the labels
            labelled = options.dataset_of(args)
            return texts_of(labelled, args.seed), labelled.notes
        except (DataError, UsageError) as error:
            said = f"{args.data}: its labels cannot be read, so no rows are left out as test ({error})"
            return texts_of(dataset, args.seed), [*dataset.notes, said]
    return texts_of(dataset, args.seed), dataset.notes


def _train(args: argparse.Namespace, given: tuple[Any, ...], place: Any) -> AdaptedRun:  # noqa: ANN401
    """Train with a bar, and a line for each phase and evaluation."""
    from embedkit.evaluation.adapted import adapt
    from embedkit.evaluation.finetuned import is_main

    data, settings = given[1], given[3]
    with progress(args, settings.steps(len(data.rows)), "train", unit=" steps") as stepped:
        return adapt(
            *given,
            place=place,
            told=evaluations(args),
            say=lambda line: say(args, line) if is_main() else None,
            progress=stepped,
        )


def _report(args: argparse.Namespace, run: AdaptedRun) -> None:
    """Print what came out."""
    if args.json:
        emit(
            {
                "output": args.output,
                "mlm": run.figures,
                "fresh_head": run.adapted.fresh_head,
                "history": run.adapted.trained.history,
                "settings": run.about["settings"],
                "truncated": run.truncated,
                "notes": run.notes,
                "seconds": {name: round(value, 4) for name, value in run.seconds.items()},
            }
        )
        return
    rows = [("validation", "loss", "perplexity")]
    rows += [(name, f"{row['loss']:.4f}", f"{row['perplexity']:.2f}") for name, row in run.figures.items()]
    show(table(rows))
    output = shlex.quote(args.output)
    say(args, f"saved in {args.output}; try: embedkit fit-head DATA -m {output}")
