"""``embedkit fit-head``: frozen features and a classical head, chosen from lists where lists are given."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.cli import options
from embedkit.cli.output import emit, progress, say, show, tell_judged, tell_notes
from embedkit.errors import UsageError

if TYPE_CHECKING:
    from embedkit.data import Dataset, LabelCodec, Split
    from embedkit.encoders import EncoderSettings, FeatureExtractor, WordExtractor
    from embedkit.evaluation.frozen import FrozenRun
    from embedkit.evaluation.frozen_tagger import TaggerRun
    from embedkit.evaluation.sweep import Sweep
    from embedkit.evaluation.update import Update
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
    from embedkit.estimators.frozen import check_encoder_stays
    from embedkit.evaluation.frozen import check_training, write_run

    update = _update_of(args) if args.update else None
    seed = args.seed if update is None else update.spec.seed  # by which also `evaluate` parts a file
    specs, settings = options.heads_of(args), options.settings_of(args, layers=-1, pooling=None)
    check_encoder_stays(Path(args.output), Path(args.model))
    with staged(Path(args.output), overwrite=args.overwrite) as stage:
        dataset = options.dataset_of(args)
        if dataset.kind == "tokens":
            tagged = _run_words(args, dataset, specs, settings, stage)
            report(args, tagged, args.output)
            return 0
        read = dataset.splits(seed=seed, columns=False)
        splits = _without_rare(args, read)
        tell_notes(args, [*dataset.notes, *check_training(splits, adding=update is not None)])
        if update is not None:
            trained = _add_rows(args, update, splits)
        else:
            fingerprint = read["train"].fingerprint()
            trained = _choose_and_train(args, splits, specs, settings, dataset.declared, fingerprint)
        tell_notes(args, [*trained.notes, *trained.classifier.extractor.engine_notes])
        model = str(trained.classifier.extractor.settings.model)
        write_run(stage, trained, {"data": args.data, "task": args.task, "model": model, "seed": seed})
    report(args, trained, args.output)
    return 0


# --- a fit from nothing --------------------------------------------------------------------------------


def _choose_and_train(
    args: argparse.Namespace,
    splits: Mapping[str, Split],
    specs: Sequence[HeadSpec],
    settings: EncoderSettings,
    declared: Sequence[str] | None,
    fingerprint: str,
) -> FrozenRun:
    """Cross-validate where there is a choice or it is asked for, then train the winner."""
    from embedkit.data import LabelCodec
    from embedkit.data.splits import has_label_sets
    from embedkit.evaluation.frozen import check_plan
    from embedkit.evaluation.sweep import temporary_store, views_of
    from embedkit.metrics.scores import check_metric

    split = splits["train"]
    codec = LabelCodec.fit(split.labels or [], declared)
    decision = check_plan(split, codec, specs, options.decision_of(args, splits), args.positive_label)
    check_metric(args.metric, multi_label=has_label_sets(split.labels))
    with ExitStack() as stack:
        opener = options.opener_of(args)
        usual = opener(settings)
        views = views_of(settings, *options.views_asked(args), usual)
        choice = args.cv is not None or len(views) * len(specs) > 1
        if choice and args.no_store:
            opener = options.opener_of(args, store=stack.enter_context(temporary_store(args.store_dtype)))
        sweep = None
        if choice:
            texts = len(split) * usual.texts_per_row(split.kind)
            sweep = _sweep(args, split, codec, views, specs, opener, texts)
            tell_notes(args, sweep.notes)
            extractor, spec = opener(sweep.chosen.settings), sweep.chosen.trial.spec
        else:
            (view,), (spec,) = views, specs
            extractor = usual if view == settings else opener(view)
            _say_no_choice(args)
        how = {"codec": codec, "decision": decision, "trained_on": [fingerprint]}
        trained = train(args, splits, extractor, spec, **how)
        trained.sweep = sweep
    return trained


def _say_no_choice(args: argparse.Namespace) -> None:
    if args.metric is not None or args.jobs is not None:
        say(args, "note: there is one candidate and nothing to choose; --cv K cross-validates it")


def _without_rare(args: argparse.Namespace, splits: Mapping[str, Split]) -> Mapping[str, Split]:
    """Leave classes with one distinct text out of train, if that is asked for; say how many rows go."""
    if args.rare != "drop" or "train" not in splits:
        return splits
    from embedkit.data.checks import rare_rows
    from embedkit.data.text import counted

    split = splits["train"]
    rare = set(rare_rows(split).tolist())
    if not rare:
        return splits
    say(args, f"note: {counted(len(rare), 'row')} of classes with one distinct text left out (--rare drop)")
    return {**splits, "train": split.take([place for place in range(len(split)) if place not in rare])}


def _sweep(
    args: argparse.Namespace,
    split: Split,
    codec: LabelCodec,
    views: Sequence[EncoderSettings],
    specs: Sequence[HeadSpec],
    opener: Any,  # noqa: ANN401 - embedkit.evaluation.sweep.Opener, which is not imported for --help
    texts: int,
) -> Sweep:
    """Cross-validate with two progress bars, the first over `texts`."""
    from embedkit.evaluation.frozen import targets_of
    from embedkit.evaluation.sweep import FOLDS, run_sweep

    with (
        progress(args, texts, "extract") as ready,
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


# --- words with tags ------------------------------------------------------------------------------------


def _run_words(
    args: argparse.Namespace,
    dataset: Dataset,
    specs: Sequence[HeadSpec],
    settings: EncoderSettings,
    stage: Path,
) -> TaggerRun:
    """Choose, train, judge and save a tagger."""
    from embedkit.data.schemes import tag_codec, with_iob2
    from embedkit.evaluation.frozen import check_training, write_run
    from embedkit.evaluation.frozen_tagger import check_tagger_plan, train_frozen_tagger

    _refuse_of_texts(args)
    read = dataset.splits(seed=args.seed, columns=False)
    splits, scheme, repairs = with_iob2(read, args.task)
    tell_notes(args, [*dataset.notes, *repairs, *check_training(splits)])
    codec = tag_codec(dataset.declared, splits["train"], scheme)
    check_tagger_plan(codec, specs, args.metric, args.task)
    with ExitStack() as stack:
        extractor, spec, sweep = _choose_words(args, splits["train"], codec, specs, settings, stack)
        sentences = sum(len(split) for split in splits.values() if split.labels is not None)
        with progress(args, sentences, "extract", unit=" sentences") as extractor.progress:
            trained = train_frozen_tagger(
                splits,
                extractor,
                spec,
                codec=codec,
                task=args.task,
                trained_on=read["train"].fingerprint(),
                threads=args.threads,
            )
        trained.sweep = sweep
    tell_notes(args, [*trained.notes, *extractor.engine_notes])
    told = {"data": args.data, "task": args.task, "model": extractor.settings.model, "seed": args.seed}
    write_run(stage, trained, told)
    return trained


def _refuse_of_texts(args: argparse.Namespace) -> None:
    """Refuse flags that say something of labels of texts."""
    given = {
        "--label-separator": args.label_separator,
        "--positive-label": args.positive_label,
        "--thresholds": args.thresholds not in (None, "none"),
        "--calibrate": args.calibrate,
        "--update": args.update,
        "--rare": args.rare != args.parser.get_default("rare"),
    }
    flags = [flag for flag, value in given.items() if value]
    if flags:
        raise UsageError(
            f"{args.data} holds words with tags, and {', '.join(flags)} {'is' if len(flags) == 1 else 'are'} for "
            "labels of texts; leave it out"
        )


def _choose_words(
    args: argparse.Namespace,
    train: Split,
    codec: LabelCodec,
    specs: Sequence[HeadSpec],
    settings: EncoderSettings,
    stack: ExitStack,
) -> tuple[WordExtractor, HeadSpec, Sweep | None]:
    """Cross-validate where there is a choice or it is asked for; return what won."""
    from embedkit.evaluation.frozen_tagger import sweep_words
    from embedkit.evaluation.sweep import FOLDS, temporary_store, views_of

    opener = options.word_opener_of(args)
    usual = opener(settings)
    views = views_of(settings, *options.views_asked(args), usual)
    if args.cv is None and len(views) * len(specs) == 1:
        _say_no_choice(args)
        return usual if views[0] == settings else opener(views[0]), specs[0], None
    if args.no_store:
        opener = options.word_opener_of(args, store=stack.enter_context(temporary_store(args.store_dtype)))
    with (
        progress(args, len(train), "extract", unit=" sentences") as ready,
        progress(args, len(views) * len(specs), "judge", unit=" candidates") as judged,
    ):
        sweep = sweep_words(
            train,
            codec,
            views,
            specs,
            opener,
            task=args.task,
            metric=args.metric,
            folds=args.cv or FOLDS,
            seed=args.seed,
            jobs=args.jobs,
            progress=ready,
            judged=judged,
        )
    tell_notes(args, sweep.notes)
    return opener(sweep.chosen.settings), sweep.chosen.trial.spec, sweep


# --- rows added to an earlier fit ----------------------------------------------------------------------


def _update_of(args: argparse.Namespace) -> Update:
    """Open an earlier fit, before any data are read."""
    from embedkit.evaluation.update import Update

    given = options.given_beside_update(args)
    if given:
        raise UsageError(
            f"--update takes the encoder and the head from {args.update}; leave out {', '.join(given)}"
        )
    model = None if args.model == options.DEFAULT_MODEL else args.model
    return Update.of(Path(args.update), options.trained_of(args, args.update, model))


def _add_rows(args: argparse.Namespace, update: Update, splits: Mapping[str, Split]) -> FrozenRun:
    """Train on the rows of an earlier fit and those that are new."""
    new, notes = update.new_rows(splits)
    tell_notes(args, notes)
    how = update.how(splits["train"], args.positive_label)
    run = train(args, new, update.classifier.extractor, update.spec, **how)
    run.classifier = replace(run.classifier, about={**run.classifier.about, **update.of_encoder})
    return run


# --- what came out -------------------------------------------------------------------------------------


def report(args: argparse.Namespace, trained: FrozenRun | TaggerRun, output: str) -> None:
    """Print what came out."""
    from embedkit.evaluation.sweep import sweep_text

    if args.json:
        emit(facts(trained, output))
        return
    if trained.sweep is not None:
        show(sweep_text(trained.sweep))
    tell_judged(args, trained.judged, trained.classifier.kind, output)


def facts(trained: FrozenRun | TaggerRun, output: str) -> dict[str, Any]:
    """Return what came out, for programs."""
    done = trained.extraction
    classifier = trained.classifier
    return {
        "output": output,
        "splits": {name: entry.metrics for name, entry in trained.judged.items()},
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
