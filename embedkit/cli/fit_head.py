"""``embedkit fit-head``: frozen features and a classical head, chosen from lists where lists are given."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.cli import options
from embedkit.cli.output import emit, progress, say, show, tell_notes
from embedkit.errors import UsageError

if TYPE_CHECKING:
    from embedkit.data import LabelCodec, Split
    from embedkit.encoders import EncoderSettings, FeatureExtractor
    from embedkit.evaluation.frozen import FrozenRun
    from embedkit.evaluation.sweep import Sweep
    from embedkit.heads import HeadSpec


def add(subparsers: options.Subparsers) -> None:
    """Add the command."""
    parser = options.command(subparsers, "fit-head", run, "train a classical head on frozen features")
    options.add_data(parser)
    options.add_head(parser)
    options.add_choice(parser)
    options.add_encoder(parser)
    options.add_store(parser)
    options.add_output(parser, "folder of the trained classifier", required=True)


def run(args: argparse.Namespace) -> int:
    """Choose, train, judge, save."""
    from embedkit.artifact import staged
    from embedkit.encoders import require_texts
    from embedkit.evaluation.frozen import check_training, write_run

    update = _update_of(args) if args.update else None
    specs, settings = options.heads_of(args), options.settings_of(args, layers=-1, pooling=None)
    with staged(Path(args.output), overwrite=args.overwrite) as stage:
        dataset = options.dataset_of(args)
        require_texts(dataset.kind)
        splits = dataset.splits(seed=args.seed, columns=False)
        tell_notes(args, [*dataset.notes, *check_training(splits)])
        if update is not None:
            trained = update(splits)
        else:
            trained = _choose_and_train(args, splits, specs, settings, dataset.declared)
        tell_notes(args, trained.notes)
        write_run(stage, trained, {"data": args.data, "model": settings.model, "seed": args.seed})
    report(args, trained, args.output)
    return 0


# --- a fit from nothing --------------------------------------------------------------------------------


def _choose_and_train(
    args: argparse.Namespace,
    splits: Mapping[str, Split],
    specs: Sequence[HeadSpec],
    settings: EncoderSettings,
    declared: Sequence[str] | None,
) -> FrozenRun:
    """Cross-validate where there is a choice or it is asked for, then train the winner."""
    from embedkit.data import LabelCodec
    from embedkit.evaluation.frozen import check_plan
    from embedkit.evaluation.sweep import temporary_store, views_of

    train_split = _without_rare(args, splits["train"])
    splits = {**splits, "train": train_split}
    codec = LabelCodec.fit(train_split.labels or [], declared)
    decision = check_plan(train_split, codec, specs, options.decision_of(args, splits), args.positive_label)
    with ExitStack() as stack:
        opener = options.opener_of(args)
        views = views_of(settings, *options.views_asked(args), opener(settings))
        choice = len(views) * len(specs) > 1
        if (choice or args.cv) and args.no_store:
            opener = options.opener_of(args, store=stack.enter_context(temporary_store(args.store_dtype)))
        sweep = None
        if choice or args.cv:
            sweep = _sweep(args, train_split, codec, views, specs, opener)
            tell_notes(args, sweep.notes)
            settings, spec = sweep.chosen.settings, sweep.chosen.trial.spec
        else:
            (settings,), (spec,) = views, specs
        trained = train(args, splits, opener(settings), spec, codec=codec, decision=decision)
        trained.sweep = sweep
    return trained


def _without_rare(args: argparse.Namespace, split: Split) -> Split:
    """Leave out classes with one distinct text, if that is asked for; say how many rows go."""
    if args.rare != "drop":
        return split
    from embedkit.data.checks import rare_rows

    rare = set(rare_rows(split).tolist())
    if not rare:
        return split
    say(args, f"note: {len(rare):,} rows of classes with one distinct text are left out (--rare drop)")
    return split.take([place for place in range(len(split)) if place not in rare])


def _sweep(
    args: argparse.Namespace,
    split: Split,
    codec: LabelCodec,
    views: Sequence[EncoderSettings],
    specs: Sequence[HeadSpec],
    opener: Any,  # noqa: ANN401 - embedkit.evaluation.sweep.Opener, which is not imported for --help
) -> Sweep:
    """Cross-validate with two progress bars."""
    from embedkit.evaluation.frozen import targets_of
    from embedkit.evaluation.sweep import FOLDS, run_sweep

    rows = len(split) * opener(views[0]).texts_per_row(split.kind)
    with (
        progress(args, rows, "extract") as ready,
        progress(args, len(views) * len(specs), "judge", unit=" candidates") as judged,
    ):
        return run_sweep(
            split,
            targets_of(split, codec),
            codec.names,
            views,
            specs,
            opener,
            metric=args.metric,
            folds=args.cv or FOLDS,
            seed=args.seed,
            rare=args.rare,
            jobs=args.jobs,
            progress=ready,
            judged=judged,
        )


def train(
    args: argparse.Namespace,
    splits: Mapping[str, Split],
    extractor: FeatureExtractor,
    spec: HeadSpec,
    **how: Any,  # noqa: ANN401 - of train_frozen, which refuses others
) -> FrozenRun:
    """Train with a progress bar."""
    from embedkit.evaluation.frozen import train_frozen

    rows = sum(len(split) for split in splits.values() if split.labels is not None)
    positive = getattr(args, "positive_label", None)
    with progress(args, rows * extractor.texts_per_row(splits["train"].kind), "extract") as extractor.progress:
        return train_frozen(splits, extractor, spec, **{"positive": positive, **how}, threads=args.threads)


# --- rows added to an earlier fit ----------------------------------------------------------------------


def _update_of(args: argparse.Namespace) -> Any:  # noqa: ANN401 - splits to FrozenRun
    """Return what adds rows to an earlier fit, whose folder is opened now: nothing is read for nothing."""
    from embedkit.evaluation.update import Update

    given = options.given_beside_update(args)
    if given:
        raise UsageError(
            f"--update takes the encoder and the head from {args.update}; leave out {', '.join(given)}"
        )
    model = None if args.model == options.DEFAULT_MODEL else args.model
    update = Update.open(
        Path(args.update),
        model=model,
        store=options.place_of(args),
        device=args.device,
        batch_tokens=args.batch_tokens,
        threads=args.threads,
    )

    def run_update(splits: Mapping[str, Split]) -> FrozenRun:
        splits, notes = update.new_rows(splits)
        tell_notes(args, notes)
        how = update.how(splits, args.positive_label)
        return train(args, splits, update.classifier.extractor, update.spec, **how)

    return run_update


# --- what came out -------------------------------------------------------------------------------------


def report(args: argparse.Namespace, trained: FrozenRun, output: str) -> None:
    """Print what came out."""
    from embedkit.evaluation.frozen import shown_split
    from embedkit.evaluation.report import classification_text
    from embedkit.evaluation.sweep import sweep_text

    if args.json:
        emit(facts(trained, output))
        return
    if trained.sweep is not None:
        show(sweep_text(trained.sweep))
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
        "search": None if trained.sweep is None else trained.sweep.summary(),
        "head": dict(classifier.about["head_settings"]),
        "thresholds": None if classifier.thresholds is None else classifier.thresholds.to_json(),
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
