"""``embedkit evaluate``: judge a trained classifier on data."""

from __future__ import annotations

import argparse
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.cli import options
from embedkit.cli.output import emit, progress, say, show, tell_notes
from embedkit.errors import UsageError

if TYPE_CHECKING:
    from embedkit.data import Dataset, Task
    from embedkit.evaluation.judged import Entry

_KIND = "evaluation"


def add(subparsers: options.Subparsers) -> None:
    """Add the command."""
    parser = options.command(subparsers, "evaluate", run, "judge a trained classifier on labelled data")
    parser.add_argument("folder", metavar="DIR", help="a trained classifier")
    options.add_data(parser)
    parser.add_argument("--split", metavar="NAME", help="default: test; of a file, what training held out, or all")
    parser.add_argument("--positive-label", metavar="LABEL", help="whose precision, recall and F1 to print")
    parser.add_argument("--strict", action="store_true", help="an entity counts only if its tags are valid IOB2")
    options.add_artifact_encoder(parser)
    options.add_store(parser, dtype=False)
    options.add_output(parser, "folder for metrics.json and report/")


def run(args: argparse.Namespace) -> int:
    """Predict a labelled split and judge it."""
    from embedkit.artifact import check_replaceable, staged, write_manifest
    from embedkit.evaluation.report import write_metrics

    start = time.perf_counter()
    if args.output:
        check_replaceable(Path(args.output), args.overwrite)
    _read_as_trained(args)
    dataset = options.dataset_of(args, labels="required")
    classifier = options.answerer_of(args)
    entry, done, evaluating = (_words if classifier.kind == "tokens" else _texts)(args, dataset, classifier)
    split, metrics = entry.split, entry.metrics
    seconds = {
        "load": done.load_seconds,
        "extract": done.seconds - done.load_seconds,
        "evaluate": evaluating,
        "total": time.perf_counter() - start,
    }
    if args.output:
        with staged(Path(args.output), overwrite=args.overwrite) as stage:
            settings = {"classifier": args.folder, "data": args.data}
            share = done.truncated / max(1, done.rows)
            write_metrics(stage, splits={split.name: metrics}, seconds=seconds, settings=settings, truncated=share)
            entry.write(stage, pictures=_drawable(args))
            write_manifest(stage, {"kind": _KIND})  # by which --overwrite knows it for ours
    if args.json:
        emit({"splits": {split.name: metrics}, "seconds": {k: round(v, 4) for k, v in seconds.items()}})
    else:
        show(entry.text())
        if args.output:
            say(args, f"saved in {args.output}")
    return 0


def _read_as_trained(args: argparse.Namespace) -> None:
    """Take the column of tags that training took, unless the user names one."""
    from embedkit.runtime.manifest import tag_task_of

    if args.task == "auto" and args.tags_column is None:
        args.task = tag_task_of(Path(args.folder)) or "auto"


def _texts(args: argparse.Namespace, dataset: Dataset, classifier: Any) -> tuple[Entry, Any, float]:  # noqa: ANN401
    """Judge a classifier of texts or pairs: what came out, what answering has cost, and the seconds of judging."""
    from embedkit.evaluation.judged import check_positive, judged, split_to_judge
    from embedkit.runtime.texts import require_texts

    if args.strict:
        raise UsageError("--strict is for entities, and this classifier reads texts; leave it out")
    require_texts(dataset.kind)
    split = split_to_judge(dataset, args.split, classifier)
    check_positive(args.positive_label, classifier.codec, split.labels)
    tell_notes(args, dataset.notes)
    with progress(args, len(split) * classifier.texts_per_row, "extract") as told:
        classifier.report_to(told)
        predictions = classifier.predict(split.inputs, rows=split.rows)
    done = predictions.extraction
    tell_notes(args, classifier.remarks(done.rows, done.truncated, done.empty))
    before = time.perf_counter()
    entry = judged(split, predictions, classifier, positive=args.positive_label)
    return entry, done, time.perf_counter() - before


def _words(args: argparse.Namespace, dataset: Dataset, tagger: Any) -> tuple[Entry, Any, float]:  # noqa: ANN401
    """Judge a tagger, as `_texts` does a classifier."""
    from embedkit.data.schemes import with_iob2
    from embedkit.evaluation.judged import split_to_judge
    from embedkit.evaluation.tagged import tag_judged

    if args.positive_label is not None:
        raise UsageError("--positive-label is for labels of texts, and this is a tagger; leave it out")
    if dataset.kind != "tokens":
        raise UsageError(
            f"{args.folder} tags words, and {dataset.name} holds {dataset.kind}s; give lists of words"
        )
    if args.strict and not tagger.spans:
        raise UsageError("--strict is for entities, and these tags are of single words; leave it out")
    read = split_to_judge(dataset, args.split, tagger)
    task: Task = "pos" if not tagger.spans else "ner" if args.task == "auto" else args.task
    splits, _, notes = with_iob2({read.name: read}, task)
    tell_notes(args, [*dataset.notes, *notes])
    before = time.perf_counter()
    with progress(args, len(read), "tag", unit=" sentences") as told:
        tagger.report_to(told)
        entry = tag_judged(splits[read.name], tagger, strict=args.strict)
    took = time.perf_counter() - before
    done = entry.tagged.extraction
    tell_notes(args, tagger.remarks(done.rows, done.truncated, done.empty))
    return entry, done, max(0.0, took - (done.seconds - done.load_seconds))


def _drawable(args: argparse.Namespace) -> bool:
    """Whether there is what draws; the base install has it not, and says so."""
    there = find_spec("matplotlib") is not None
    if not there:
        say(args, "note: report/ has no pictures, which need matplotlib: pip install 'embedkit[train]'")
    return there
