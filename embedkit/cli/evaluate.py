"""``embedkit evaluate``: judge a trained classifier on data."""

from __future__ import annotations

import argparse
import time
from importlib.util import find_spec
from pathlib import Path

from embedkit.cli import options
from embedkit.cli.output import emit, progress, say, show, tell_notes

_KIND = "evaluation"


def add(subparsers: options.Subparsers) -> None:
    """Add the command."""
    parser = options.command(subparsers, "evaluate", run, "judge a trained classifier on labelled data")
    parser.add_argument("folder", metavar="DIR", help="a trained classifier")
    options.add_data(parser)
    parser.add_argument("--split", metavar="NAME", help="default: test; of a file, what training held out, or all")
    parser.add_argument("--positive-label", metavar="LABEL", help="whose precision, recall and F1 to print")
    options.add_artifact_encoder(parser)
    options.add_store(parser, dtype=False)
    options.add_output(parser, "folder for metrics.json and report/")


def run(args: argparse.Namespace) -> int:
    """Predict a labelled split and judge it."""
    from embedkit.artifact import check_replaceable, staged, write_manifest
    from embedkit.evaluation.judged import check_positive, judged, split_to_judge, write_judged
    from embedkit.evaluation.report import classification_text, write_metrics
    from embedkit.runtime.texts import require_texts

    start = time.perf_counter()
    if args.output:
        check_replaceable(Path(args.output), args.overwrite)
    dataset = options.dataset_of(args, labels="required")
    require_texts(dataset.kind)
    classifier = options.classifier_of(args)
    split = split_to_judge(dataset, args.split, classifier)
    check_positive(args.positive_label, classifier.codec, split.labels)
    tell_notes(args, dataset.notes)
    with progress(args, len(split) * classifier.texts_per_row, "extract") as told:
        classifier.report_to(told)
        predictions = classifier.predict(split.inputs, rows=split.rows)  # type: ignore[arg-type]
    done = predictions.extraction
    tell_notes(args, classifier.remarks(done.rows, done.truncated, done.empty))
    before = time.perf_counter()
    entry = judged(split, predictions, classifier, positive=args.positive_label)
    metrics = entry.judgement.metrics
    seconds = {
        "load": done.load_seconds,
        "extract": done.seconds - done.load_seconds,
        "evaluate": time.perf_counter() - before,
        "total": time.perf_counter() - start,
    }
    if args.output:
        with staged(Path(args.output), overwrite=args.overwrite) as stage:
            settings = {"classifier": args.folder, "data": args.data}
            share = done.truncated / max(1, done.rows)
            write_metrics(stage, splits={split.name: metrics}, seconds=seconds, settings=settings, truncated=share)
            write_judged(stage, entry, pictures=_drawable(args))
            write_manifest(stage, {"kind": _KIND})  # by which --overwrite knows it for ours
    if args.json:
        emit({"splits": {split.name: metrics}, "seconds": {k: round(v, 4) for k, v in seconds.items()}})
    else:
        show(classification_text(metrics, entry.judgement.names, f"{split.source} ({split.name})"))
        if args.output:
            say(args, f"saved in {args.output}")
    return 0


def _drawable(args: argparse.Namespace) -> bool:
    """Whether there is what draws; the base install has it not, and says so."""
    there = find_spec("matplotlib") is not None
    if not there:
        say(args, "note: report/ has no pictures, which need matplotlib: pip install 'embedkit[train]'")
    return there
