"""``embedkit fit-head``: frozen features and a classical head."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.cli import options
from embedkit.cli.output import emit, progress, say, show, tell_notes

if TYPE_CHECKING:
    from embedkit.data import Split
    from embedkit.encoders import FeatureExtractor
    from embedkit.evaluation.frozen import FrozenRun
    from embedkit.heads import HeadSpec


def add(subparsers: options.Subparsers) -> None:
    """Add the command."""
    parser = options.command(subparsers, "fit-head", run, "train a classical head on frozen features")
    options.add_data(parser)
    options.add_head(parser)
    options.add_encoder(parser)
    options.add_store(parser)
    options.add_output(parser, "folder of the trained classifier", required=True)


def run(args: argparse.Namespace) -> int:
    """Train, judge, save."""
    from embedkit.artifact import staged
    from embedkit.encoders import require_texts
    from embedkit.evaluation.frozen import check_training, write_run

    spec, settings = options.head_of(args), options.settings_of(args)
    with staged(Path(args.output), overwrite=args.overwrite) as stage:
        dataset = options.dataset_of(args)
        require_texts(dataset.kind)
        splits = dataset.splits(seed=args.seed, columns=False)
        tell_notes(args, [*dataset.notes, *check_training(splits)])
        extractor = options.extractor_of(args, settings, keep_going=True)
        trained = train(args, splits, extractor, spec, declared=dataset.declared)
        tell_notes(args, trained.notes)
        write_run(stage, trained, {"data": args.data, "model": settings.model, "seed": args.seed})
    report(args, trained, args.output)
    return 0


def train(
    args: argparse.Namespace,
    splits: Mapping[str, Split],
    extractor: FeatureExtractor,
    spec: HeadSpec,
    *,
    declared: Sequence[str] | None = None,
) -> FrozenRun:
    """Train with a progress bar."""
    from embedkit.evaluation.frozen import train_frozen

    rows = sum(len(split) for split in splits.values() if split.labels is not None)
    with progress(args, rows * extractor.texts_per_row(splits["train"].kind), "extract") as extractor.progress:
        return train_frozen(
            splits,
            extractor,
            spec,
            declared=declared,
            positive=getattr(args, "positive_label", None),
            threads=args.threads,
        )


def report(args: argparse.Namespace, trained: FrozenRun, output: str) -> None:
    """Print what came out."""
    from embedkit.evaluation.frozen import shown_split
    from embedkit.evaluation.report import classification_text

    if args.json:
        emit(facts(trained, output))
        return
    entry = shown_split(trained.judged)
    if entry is None:
        say(args, "there is no labelled split to judge it on")
    else:
        source = f"{entry.split.source} ({entry.split.name})"
        show(classification_text(entry.judgement.metrics, entry.judgement.names, source))
    texts = '"a text" "its partner"' if trained.classifier.kind == "pair" else '"some text"'
    say(args, f"saved in {output}; try: embedkit predict {shlex.quote(output)} {texts}")


def facts(trained: FrozenRun, output: str) -> dict[str, Any]:
    """Return what came out, for programs."""
    done = trained.extraction
    classifier = trained.classifier
    return {
        "output": output,
        "splits": {name: entry.judgement.metrics for name, entry in trained.judged.items()},
        "labels": list(classifier.codec.classes),
        "dim": classifier.extractor.width(classifier.kind),
        "space": classifier.extractor.space(classifier.kind),
        "rows": done.rows,
        "unique": done.unique,
        "hits": done.hits,
        "computed": done.computed,
        "truncated": done.truncated,
        "notes": trained.notes,
        "seconds": {name: round(value, 4) for name, value in trained.seconds.items()},
    }
