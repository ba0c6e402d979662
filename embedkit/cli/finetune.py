"""``embedkit finetune``: move an encoder's weights, all of them or those of the upper blocks."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.cli import options
from embedkit.cli.output import emit, progress, say, show, table, tell_judged, tell_notes

if TYPE_CHECKING:
    from embedkit.data import Dataset, LabelCodec, Split
    from embedkit.estimators.start import Start
    from embedkit.evaluation.finetuned import TunedRun
    from embedkit.training.parts import PartCount
    from embedkit.training.settings import TuneSettings


def add(subparsers: options.Subparsers) -> None:
    """Add the command."""
    parser = options.command(
        subparsers,
        "finetune",
        run,
        "fine-tune a classifier of texts, pairs or words, all of it or the upper blocks",
    )
    options.add_data(parser)
    group = parser.add_argument_group("model")
    options.add_base(group)
    group.add_argument("--max-length", type=int, metavar="N", help="most tokens of a text")
    group.add_argument("--side", choices=("right", "left"), help="the end that truncation cuts off")
    options.add_training(parser)
    group = parser.add_argument_group("classifier")
    group.add_argument(
        "--freeze",
        default="none",
        metavar="N",
        help="freeze the embeddings and the first N blocks; or none (default), embeddings, head-only",
    )
    group.add_argument(
        "--sweep-freeze",
        metavar="LIST",
        help="one model for each of 0,2,4,head-only or the like, or of all; the smallest good one is kept",
    )
    group.add_argument(
        "--cache-prefix",
        default="auto",
        choices=("auto", "on", "off"),
        help="compute the output of frozen blocks once and keep it on disk (auto: where that pays)",
    )
    group.add_argument("--class-weight", metavar="WEIGHT", help="balanced, or JSON such as '{\"spam\": 5}'")
    group.add_argument("--label-smoothing", type=float, default=0.0, metavar="X", help="from 0 (default) up")
    group.add_argument("--positive-label", metavar="LABEL", help="whose precision, recall and F1 to print")
    group.add_argument(
        "--label-subtokens",
        choices=("first", "all", "continue"),
        help="which sub-tokens of a word learn its tag: the first (default), all, or all with B- turned into I-",
    )
    options.add_output(parser, "folder of the trained classifier", required=True)
    parser.add_argument("--resume", action="store_true", help="go on with a run that was interrupted")


def run(args: argparse.Namespace) -> int:
    """Train, judge, save."""
    from embedkit.artifact import check_replaceable
    from embedkit.estimators.start import open_start
    from embedkit.evaluation.finetuned import is_main, run_of, with_validation, write_tuned
    from embedkit.evaluation.frozen import check_training

    args.quiet = args.quiet or not is_main()
    settings = options.tune_settings_of(args)
    check_replaceable(Path(args.output), args.overwrite)
    dataset = options.dataset_of(args)
    _check_kind(args, dataset.kind)
    read = dataset.splits(seed=args.seed, columns=False)
    converted, codec, repairs = _targets(args, dataset, read)
    said = [*dataset.notes, *repairs, *check_training(converted)]
    splits, notes = with_validation(converted, settings)
    tell_notes(args, [*said, *notes])
    start = open_start(
        args.model,
        revision=args.revision,
        max_length=args.max_length,
        side=args.side,
        words=dataset.kind == "tokens",
    )
    if args.sweep_freeze is not None:
        return _sweep(args, splits, start, settings, codec, read["train"].fingerprint())
    with staged_once(args) as stage, checkpoints(args, run_of(splits, start, settings, _rule(args))) as place:
        trained = _train(args, splits, start, settings, codec, read["train"].fingerprint(), place)
        tell_notes(args, trained.notes)
        if stage is not None:
            told = {"data": args.data, "task": args.task, "model": args.model}
            write_tuned(stage, trained, told)
    if is_main():
        report(args, trained, args.output)
    return 0


def _check_kind(args: argparse.Namespace, kind: str) -> None:
    """Refuse flags that say something of texts alone, or of words alone."""
    from embedkit.errors import UsageError

    if kind == "tokens" and args.positive_label is not None:
        raise UsageError(
            "--positive-label is for labels of texts, and these data are words with tags; leave it out"
        )
    if kind != "tokens" and args.label_subtokens is not None:
        raise UsageError(f"--label-subtokens is for words with tags, and these data are {kind}s; leave it out")


def _rule(args: argparse.Namespace) -> Any:  # noqa: ANN401 - embedkit.training.words.Rule
    return args.label_subtokens or "first"


def _targets(
    args: argparse.Namespace, dataset: Dataset, read: Mapping[str, Split]
) -> tuple[Mapping[str, Split], LabelCodec, list[str]]:
    """Return the splits, tags in IOB2 where they stand for spans; the labels or tags; and what was converted."""
    from embedkit.data import LabelCodec
    from embedkit.data.schemes import tag_codec, with_iob2

    if dataset.kind != "tokens":
        return read, LabelCodec.fit(read["train"].labels or [], dataset.declared), []
    converted, scheme, notes = with_iob2(read, args.task)
    return converted, tag_codec(dataset.declared, converted["train"], scheme), notes


def _sweep(
    args: argparse.Namespace,
    splits: Mapping[str, Split],
    start: Start,
    settings: TuneSettings,
    codec: LabelCodec,
    trained_on: str,
) -> int:
    """Train a model for each choice, keep the smallest good one."""
    from embedkit.artifact import staged
    from embedkit.evaluation.finetuned import write_tuned
    from embedkit.evaluation.freezing import parse_sweep, sweep_freeze, sweep_json, sweep_text, write_sweep

    _check_sweep(args, settings)
    choices = parse_sweep(args.sweep_freeze, start.folder.layers)
    steps = settings.steps(len(splits["train"])) * len(choices)
    with staged(Path(args.output), overwrite=args.overwrite) as stage:
        with progress(args, steps, "train", unit=" steps") as stepped:
            points, chosen, trained = sweep_freeze(
                choices,
                splits,
                start,
                settings,
                codec=codec,
                positive=args.positive_label,
                task=args.task,
                subtokens=_rule(args),
                trained_on=trained_on,
                told=lambda point: say(
                    args, f"freeze {point.freeze}: {point.metric} {point.f1:.4f}, {point.seconds:.0f} s"
                ),
                progress=stepped,
            )
        tell_notes(args, trained.notes)
        write_sweep(stage, points, chosen, f"{args.model}: F1 over trained blocks")
        told, found = {"data": args.data, "task": args.task, "model": args.model}, sweep_json(points, chosen)
        write_tuned(stage, trained, told, found)
    if not args.json:
        show(sweep_text(points, chosen))
    report(args, trained, args.output, found)
    return 0


def _check_sweep(args: argparse.Namespace, settings: TuneSettings) -> None:
    from embedkit.errors import UsageError

    if args.freeze != args.parser.get_default("freeze") or args.resume:
        raise UsageError("--sweep-freeze says itself what is frozen, and cannot be resumed; leave out the other")
    if settings.eval_strategy == "no":
        raise UsageError("--sweep-freeze chooses by the validation rows; leave out --eval-strategy no")


def staged_once(args: argparse.Namespace) -> Any:  # noqa: ANN401 - a context with a folder or None
    """Build the output in the process that writes; the others of ``accelerate launch`` have none."""
    from embedkit.artifact import staged
    from embedkit.evaluation.finetuned import is_main

    return staged(Path(args.output), overwrite=args.overwrite) if is_main() else nullcontext()


@contextmanager
def checkpoints(args: argparse.Namespace, run: Mapping[str, Any]) -> Iterator[Any]:
    """Keep a run's checkpoints beside its output until the block has ended well; say where they are where not."""
    from embedkit.evaluation.finetuned import is_main
    from embedkit.training.checkpoints import checkpoints_beside, prepare
    from embedkit.training.loop import Place

    folder = checkpoints_beside(Path(args.output))
    if is_main():
        tell_notes(args, prepare(folder, run, resume=args.resume, overwrite=args.overwrite))
    try:
        yield Place(folder, args.resume)
    except BaseException:
        if is_main() and any(folder.glob("checkpoint-*/embedkit.json")):
            say(args, f"checkpoints are kept in {folder}; the same command with --resume goes on from the newest")
        elif is_main():
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if is_main():
        shutil.rmtree(folder, ignore_errors=True)


def _train(
    args: argparse.Namespace,
    splits: Mapping[str, Split],
    start: Start,
    settings: TuneSettings,
    codec: LabelCodec,
    trained_on: str,
    place: Any,  # noqa: ANN401 - embedkit.training.loop.Place, which imports torch
) -> TunedRun:
    """Train with a bar, the parts, and a line for each evaluation."""
    from embedkit.evaluation.finetuned import finetune
    from embedkit.training.tuning import Watch

    with progress(args, settings.steps(len(splits["train"])), "train", unit=" steps") as stepped:
        return finetune(
            splits,
            start,
            settings,
            codec=codec,
            positive=args.positive_label,
            task=args.task,
            subtokens=_rule(args),
            trained_on=trained_on,
            place=place,
            watch=Watch(evaluations(args), lambda parts, line: _begin(args, parts, line), stepped),
        )


def _begin(args: argparse.Namespace, parts: Sequence[PartCount], line: str) -> None:
    from embedkit.evaluation.finetuned import is_main

    if is_main():
        say(args, parts_text(parts))
        say(args, line)


def parts_text(parts: Sequence[PartCount]) -> str:
    """Return the table of what is trained and what is frozen, in parameters."""
    rows = [("part", "trainable", "frozen")]
    rows += [(part.name, f"{part.trainable:,}", f"{part.frozen:,}") for part in parts]
    sums = (sum(part.trainable for part in parts), sum(part.frozen for part in parts))
    return table([*rows, ("all", f"{sums[0]:,}", f"{sums[1]:,}")])


def evaluations(args: argparse.Namespace) -> Callable[[Mapping[str, Any]], None]:
    """Return what prints a row of the history as it comes, below names that stand once."""
    seen: list[str] = []

    def told(row: Mapping[str, Any]) -> None:
        if not seen:
            seen.extend(row)
            say(args, "  ".join(f"{_short(name):>9}" for name in seen))
        say(args, "  ".join(f"{_figure(row[name]):>9}" for name in seen))

    return told


def _short(name: str) -> str:
    return {"eval_loss": "val loss", "macro_f1": "macro F1", "micro_f1": "micro F1", "perplexity": "perplex."}.get(
        name, name.replace("_", " ")
    )[:9]


def _figure(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def report(
    args: argparse.Namespace, trained: TunedRun, output: str, search: Mapping[str, Any] | None = None
) -> None:
    """Print what came out."""
    if args.json:
        emit({**facts(trained, output), **({} if search is None else {"search": search})})
        return
    tell_judged(args, trained.judged, trained.classifier.kind, output)


def facts(trained: TunedRun, output: str) -> dict[str, Any]:
    """Return what came out, for programs."""
    return {
        "output": output,
        "splits": {name: entry.metrics for name, entry in trained.judged.items()},
        "history": trained.tuned.trained.history,
        "parts": [vars(part) for part in trained.tuned.parts],
        "settings": dict(trained.classifier.about["settings"]),
        "labels": list(trained.classifier.codec.classes),
        "truncated": trained.tuned.truncated,
        "notes": trained.notes,
        "seconds": {name: round(value, 4) for name, value in trained.seconds.items()},
    }
