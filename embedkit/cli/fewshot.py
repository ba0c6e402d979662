"""``embedkit fewshot``: tune an encoder on few labelled texts by pairs of them, and fit a head on its features."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.cli import options
from embedkit.cli.finetune import checkpoints
from embedkit.cli.fit_head import facts
from embedkit.cli.output import emit, progress, say, show, table, tell_judged, tell_notes
from embedkit.errors import EmbedkitError, UsageError

if TYPE_CHECKING:
    from embedkit.data import Split
    from embedkit.encoders import EncoderSettings, FeatureExtractor
    from embedkit.evaluation.fewshot import FewShotRun, Opener, Plan, Repeated
    from embedkit.heads import HeadSpec
    from embedkit.training.contrast import ContrastSettings
    from embedkit.training.loop import Place

# what an encoder cannot be told otherwise where it is tuned
_FIXED = {"layers": "-1", "layer_join": "concat", "long": "truncate"}


def add(subparsers: options.Subparsers) -> None:
    """Add the command."""
    parser = options.command(
        subparsers, "fewshot", run, "tune an encoder on few labelled texts, and fit a head on its features"
    )
    options.add_data(parser)
    group = parser.add_argument_group("few-shot")
    group.add_argument("--shots", type=int, default=16, metavar="N", help="rows of each class (default 16)")
    group.add_argument(
        "--tuner",
        default="embedkit",
        choices=("embedkit", "setfit", "none"),
        help="embedkit (default); setfit, the library, as it is; none: the frozen encoder on the same rows",
    )
    group.add_argument(
        "--seeds", type=options.count_from(1), metavar="N", help="repeat over N samples (SEED, SEED+1, ...)"
    )
    group.add_argument(
        "--refit-head",
        metavar="DATA",
        help="fit the head on train of these data; DATA may then be a folder of fewshot, which is not tuned again",
    )
    group.add_argument("--adapt-on", metavar="DATA", help="first adapt the encoder on these texts, as adapt does")
    _add_tuning(parser)
    options.add_head(parser, lists=False)
    _add_encoder(parser)
    options.add_store(parser)
    options.add_output(parser, "folder of the trained classifier", required=True)
    parser.add_argument("--resume", action="store_true", help="go on with a run that was interrupted")
    parser.set_defaults(clf=None, **_FIXED)


def _add_tuning(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("tuning")
    group.add_argument(
        "--strategy",
        choices=("oversampling", "undersampling", "unique"),
        help="how positive and negative pairs of a step are balanced (default oversampling)",
    )
    group.add_argument(
        "--pair-iterations",
        type=options.count_from(1),
        metavar="R",
        help="instead, R passes in which each text gets a positive and a negative partner (setfit: default 20)",
    )
    group.add_argument("--loss", choices=("cosine", "supcon"), help="default cosine")
    group.add_argument("--temperature", type=float, metavar="X", help="of supcon (default 0.1)")
    group.add_argument("--epochs", type=float, metavar="N", help="passes over the texts (default: printed)")
    group.add_argument(
        "--batch-size", type=int, metavar="N", help="texts of a step (default 32; setfit: pairs, 16)"
    )
    group.add_argument("--learning-rate", type=float, metavar="X", help="default: printed")
    group.add_argument("--weight-decay", type=float, default=0.01, metavar="X", help="default 0.01")
    group.add_argument(
        "--warmup", type=float, default=0.1, metavar="X", help="share of the steps, or their number (default 0.1)"
    )
    group.add_argument(
        "--save-steps", type=options.count_from(1), metavar="N", help="keep a checkpoint every N steps"
    )
    options.add_trainer(group, "of matrix products while tuning")


def _add_encoder(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("encoder")
    options.add_base(group)
    group.add_argument(
        "--pooling", help="cls, mean, max, last or mean_sqrt_len (default: the folder's, else mean)"
    )
    group.add_argument("--normalize", default=None, action=argparse.BooleanOptionalAction, help="to length 1")
    group.add_argument("--max-length", type=int, metavar="N", help="most tokens of a text")
    group.add_argument("--side", choices=("right", "left"), help="the end that truncation cuts off")
    group.add_argument("--prompt", help="name of one of the model's prompts, or a text to put before every text")
    group.add_argument("--pairs", default="cross", choices=("cross", "bi"), help="pairs together, or apart")
    options.add_engine(group)
    options.add_compute(group)


def run(args: argparse.Namespace) -> int:
    """Draw, tune, fit, judge, save; or fit the head of an earlier run again."""
    from embedkit.artifact import check_replaceable
    from embedkit.errors import require

    for module in ("pyarrow", "torch", "transformers", "accelerate", "sentence_transformers"):
        require(module, extra="train", purpose="embedkit fewshot")
    from embedkit.runtime.manifest import holds_tuned

    check_replaceable(Path(args.output), args.overwrite)
    again = holds_tuned(Path(args.data))
    _check(args, again)
    (_refit if again else _tune)(args)
    return 0


# what only this tuner is told
_OURS = ("loss", "temperature", "save_steps", "resume", "precision", "trainer_arg", "weight_decay", "warmup")
_TUNING = ("strategy", "pair_iterations", "epochs", "batch_size", "learning_rate", *_OURS)
_HEAD = ("clf_param", "scale", "class_weight", "thresholds", "calibrate")
# what names files of DATA, and its columns too
_FILES = ("train", "validation", "test")
_OF_DATA = (*_FILES, "text_column", "pair_column", "label_column", "tokens_column", "tags_column",
            "label_separator")  # fmt: skip
_BEFORE = ("shots", "tuner", "seeds", "adapt_on", "model", "revision", "pooling", "normalize", "max_length",
           "side", "prompt", "pairs")  # fmt: skip


def _check(args: argparse.Namespace, again: bool) -> None:
    """Refuse flags that would say nothing."""
    if again:
        if args.refit_head is None:
            raise UsageError(
                f"{args.data} is a folder of fewshot; name the rows for its head with --refit-head DATA"
            )
        _refuse(
            args,
            (*_BEFORE, *_TUNING, *_FILES),
            f"{args.data} holds a tuned encoder, and only the head is fitted again",
        )
    elif args.tuner == "setfit":
        _refuse(args, _OURS, "setfit is run as it is")
    elif args.tuner == "none":
        why = (
            "nothing is tuned (to adapt an encoder and fit a head on it, run embedkit adapt and embedkit fit-head)"
        )
        _refuse(args, (*_TUNING, "adapt_on"), why if args.adapt_on else "nothing is tuned")
    if args.seeds is not None and (args.resume or args.save_steps):
        raise UsageError("checkpoints are of one run; leave out --seeds, or --save-steps and --resume")


def _refuse(args: argparse.Namespace, names: tuple[str, ...], why: str) -> None:
    given = [name for name in names if getattr(args, name) != args.parser.get_default(name)]
    if given:
        raise UsageError(f"{why}; leave out {', '.join('--' + name.replace('_', '-') for name in given)}")


# ------------------------------------------------------------------------------------------------- a run


def _tune(args: argparse.Namespace) -> None:
    """Tune on one sample or several; what came of the first is kept."""
    from embedkit.artifact import staged
    from embedkit.evaluation.fewshot import Repeated, check_tuner, write_few_shot
    from embedkit.evaluation.frozen import check_training

    plan, settings = _plan(args), options.settings_of(args, layers=-1, precision="auto")
    splits, declared = _read(args, args.data)
    check_tuner(plan, splits["train"])
    more = None if args.refit_head is None else _read(args, args.refit_head)[0]["train"]
    if more is not None:
        tell_notes(args, check_training({**splits, "train": more}))
    plan = replace(plan, declared=declared, decision=options.decision_of(args, splits))
    with ExitStack() as stack:
        stage = stack.enter_context(staged(Path(args.output), overwrite=args.overwrite))
        base, began = _base(args, settings, stack)
        how: dict[str, Any] = {"splits": splits, "base": base, "more": more, "began": began}
        place = stack.enter_context(_checkpoints(args, plan, splits, base))
        found = _one(args, plan, stage, options.opener_of(args), place, **how)
        repeated, ended = None, None
        if args.seeds is not None:
            repeated = Repeated()
            _tell(args, repeated.add(found))
            ended = _others(args, plan, how, repeated)
        told = {"data": args.data, "task": args.task, "model": args.model, "seed": args.seed}
        write_few_shot(stage, found, told, repeated)
    _report(args, found, repeated)
    if ended is not None:
        raise ended


def _others(
    args: argparse.Namespace, plan: Plan, how: Mapping[str, Any], repeated: Repeated
) -> EmbedkitError | KeyboardInterrupt | None:
    """Run the samples after the first; return what ended them early, so that the earlier ones are not lost."""
    try:
        for seed in range(plan.seed + 1, plan.seed + args.seeds):
            _tell(args, repeated.add(_again(args, plan.with_seed(seed), how)))
    except (EmbedkitError, KeyboardInterrupt) as error:
        say(args, f"note: ended in sample {len(repeated.runs) + 1} of {args.seeds}; those before it are kept")
        return error
    return None


def _one(
    args: argparse.Namespace,
    plan: Plan,
    folder: Path,
    opener: Opener,
    place: Place | None,
    *,
    splits: Mapping[str, Split],
    base: FeatureExtractor,
    more: Split | None,
    began: Mapping[str, Any] | None,
) -> FewShotRun:
    """Run one sample with bars; say what is known before, and what is worth saying after."""
    from embedkit.evaluation.fewshot import few_shot

    kind = splits["train"].kind
    rows = sum(len(split) for name, split in splits.items() if split.labels is not None and name != "train")
    encoders = 1 if plan.tuner == "none" else 2
    with (
        progress(args, encoders * rows * base.texts_per_row(kind), "extract") as ready,
        progress(args, 0, "tune", unit=" steps") as stepped,
    ):
        base.progress = ready

        def opened(settings: EncoderSettings) -> FeatureExtractor:
            extractor = opener(settings)
            extractor.progress = ready
            return extractor

        how: dict[str, Any] = {"more": more, "began": began, "place": place, "progress": stepped}
        run = few_shot(splits, base, plan, folder, opened, say=lambda line: say(args, line), **how)
    tell_notes(args, [*run.notes, *run.run.classifier.extractor.engine_notes])
    return run


def _again(args: argparse.Namespace, plan: Plan, how: Mapping[str, Any]) -> FewShotRun:
    """Run another sample, of which nothing stays but its figures."""
    opener = options.opener_of(argparse.Namespace(**{**vars(args), "store": None, "no_store": True}))
    with tempfile.TemporaryDirectory(prefix="embedkit-") as folder:
        return _one(args, plan, Path(folder), opener, None, **how)


def _tell(args: argparse.Namespace, entry: Mapping[str, Any]) -> None:
    """Say the figures of a sample."""
    known = [(name, entry.get(name)) for name in ("accuracy", "frozen", "difference")]
    figures = ", ".join(f"{name} {value:.3f}" for name, value in known if value is not None)
    say(args, f"sample of seed {entry['seed']}: {figures or 'nothing judged'}, tuned in {entry['tune']:.1f} s")


def _read(args: argparse.Namespace, data: str) -> tuple[dict[str, Split], Sequence[str] | None]:
    """Read labelled texts; say what is worth saying."""
    from embedkit.evaluation.frozen import check_training

    named = argparse.Namespace(**vars(args))
    named.data = data
    if data != args.data:  # these name files of DATA
        named.train = named.validation = named.test = None
    dataset = options.dataset_of(named)
    if dataset.kind == "tokens":
        raise UsageError(f"{data} holds words with tags; few-shot tuning is for texts and pairs")
    splits = dataset.splits(seed=args.seed, columns=False)
    tell_notes(args, [*dataset.notes, *check_training(splits)])
    return splits, dataset.declared


def _base(
    args: argparse.Namespace, settings: EncoderSettings, stack: ExitStack
) -> tuple[FeatureExtractor, dict[str, Any] | None]:
    """Open the encoder to tune, adapted first where that is asked for; and say what that began from."""
    from embedkit.training.contrast import with_pooling

    settings, notes = with_pooling(settings)
    tell_notes(args, notes)
    began = None
    if args.adapt_on is not None:
        adapted, began = _adapted(args, stack)
        settings = replace(settings, model=adapted, revision=None)
    return options.opener_of(args)(settings), began


def _adapted(args: argparse.Namespace, stack: ExitStack) -> tuple[Path, dict[str, Any]]:
    """Adapt the encoder with the usual settings of ``embedkit adapt``; its folder goes with the stack."""
    from embedkit.cli.adapt import texts
    from embedkit.evaluation.adapted import adapt_encoder
    from embedkit.training.settings import TuneSettings

    named = argparse.Namespace(**{**vars(args), "data": args.adapt_on, **dict.fromkeys(_OF_DATA)})
    read, notes = texts(named)
    tell_notes(args, notes)
    settings = TuneSettings(seed=args.seed, device=args.device, threads=args.threads)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="embedkit-")))
    run = adapt_encoder(
        read, args.model, folder, settings, revision=args.revision, say=lambda line: say(args, line)
    )
    before, after = (run.figures[when]["perplexity"] for when in ("before", "after"))
    say(args, f"adapted on {args.adapt_on}: perplexity {before:.2f} before, {after:.2f} after")
    return folder, {**run.about["base"], "adapted_on": run.about["data"], "mlm": run.figures}


def _plan(args: argparse.Namespace) -> Plan:
    """Return what the flags say of samples, tuning and head."""
    from embedkit.evaluation.fewshot import Plan

    spec = _spec(args)
    how: dict[str, Any] = {"positive": args.positive_label, "threads": args.threads}
    if args.tuner == "setfit":
        from embedkit.training.reference import SetFitSettings

        epochs = args.epochs
        if epochs is not None and epochs.is_integer():  # of other tuners they may be a part of a pass
            epochs = int(epochs)
        same = {"epochs": epochs, "batch_size": args.batch_size, "learning_rate": args.learning_rate}
        given = {name: value for name, value in same.items() if value is not None}
        if args.strategy is not None and args.pair_iterations is not None:
            raise UsageError("--pair-iterations is instead of --strategy; leave one of them out")
        if args.strategy is not None or args.pair_iterations is not None:
            given["iterations"] = args.pair_iterations
        if args.strategy is not None:
            given["strategy"] = args.strategy
        how["setfit"] = SetFitSettings(**given, threads=args.threads)
    elif args.tuner == "embedkit":
        how["contrast"] = _contrast(args)
    return Plan(args.shots, spec, args.seed, args.tuner, **how)


def _contrast(args: argparse.Namespace) -> ContrastSettings:
    """Return what the flags say of tuning."""
    from embedkit.training.contrast import ContrastSettings, usual_training
    from embedkit.training.pairs import PairSettings
    from embedkit.training.settings import parse_arguments

    names = (
        "epochs",
        "batch_size",
        "learning_rate",
        "weight_decay",
        "warmup",
        "save_steps",
        "precision",
        "threads",
    )
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    arguments = parse_arguments(args.trainer_arg)
    told = replace(usual_training(), **given, device=args.device, arguments=arguments)
    if args.pair_iterations is not None and (args.strategy is not None or args.epochs is not None):
        raise UsageError(
            "--pair-iterations R is R passes with pairs of its own; leave out --strategy and --epochs"
        )
    if args.temperature is not None and args.loss != "supcon":
        raise UsageError("--temperature is of --loss supcon; leave it out")
    pairs = PairSettings(args.strategy or PairSettings.strategy, args.pair_iterations)
    instead = {} if args.temperature is None else {"temperature": args.temperature}
    return ContrastSettings(pairs, args.loss or ContrastSettings.loss, training=told, **instead)


def _spec(args: argparse.Namespace) -> HeadSpec | None:
    """Return the head; None for setfit's own."""
    own = args.clf is None and args.tuner == "setfit" and args.refit_head is None
    given = [name for name in _HEAD if getattr(args, name) != args.parser.get_default(name)]
    if own and not given:
        return None
    (spec, *others) = options.heads_of(argparse.Namespace(**{**vars(args), "clf": args.clf or "logreg"}))
    if others:
        raise UsageError("fewshot fits one head; name one, with one value of each setting")
    return spec


@contextmanager
def _checkpoints(
    args: argparse.Namespace, plan: Plan, splits: Mapping[str, Split], base: FeatureExtractor
) -> Iterator[Place | None]:
    """Keep checkpoints beside the output where they are asked for."""
    if args.save_steps is None and not args.resume:
        yield None
        return
    train = splits["train"]
    told = {"shots": plan.shots, "seed": plan.seed, "train": train.fingerprint(), "precision": args.precision}
    with checkpoints(args, {**plan.said(), **told, "encoder": base.space(train.kind)}) as place:
        yield place


# --------------------------------------------------------------------------------------- the head again


def _refit(args: argparse.Namespace) -> None:
    """Fit the head of an earlier run again, on train of other data."""
    from embedkit.artifact import staged
    from embedkit.estimators.frozen import copy_encoder
    from embedkit.evaluation.fewshot import refit
    from embedkit.evaluation.frozen import write_run

    earlier = options.trained_of(args, args.data, None)
    splits, declared = _read(args, args.refit_head)
    plan = replace(_plan(args), declared=declared, decision=options.decision_of(args, splits))
    with staged(Path(args.output), overwrite=args.overwrite) as stage:
        copy_encoder(Path(args.data), stage)
        settings = replace(earlier.extractor.settings, model=stage)
        extractor = options.opener_of(args)(settings)
        rows = sum(len(split) for split in splits.values() if split.labels is not None)
        with progress(args, rows * extractor.texts_per_row(earlier.kind), "extract") as extractor.progress:
            run = refit(splits, earlier, plan, extractor)
        tell_notes(args, [*run.notes, *extractor.engine_notes])
        told = {"data": args.refit_head, "encoder_of": args.data, "task": args.task, "seed": args.seed}
        write_run(stage, run, told)
    if args.json:
        emit(facts(run, args.output))
    else:
        tell_judged(args, run.judged, run.classifier.kind, args.output)


# ------------------------------------------------------------------------------------- what came out


def _report(args: argparse.Namespace, found: FewShotRun, repeated: Repeated | None) -> None:
    """Print what came out, and whether tuning helps."""
    from embedkit.evaluation.fewshot import verdict

    said = verdict(found) if repeated is None or args.seeds == 1 else repeated.verdict()
    if args.json:
        emit(
            {
                **facts(found.run, args.output),
                "sample": found.sample.to_json(),
                "counts": asdict(found.counts),
                "comparison": found.comparison,
                "samples": None if repeated is None else repeated.summary(),
                "tuning_helps": said.helps,
                "notes": [*found.sample.notes, *found.notes],
            }
        )
        return
    if repeated is not None:
        show(_samples_text(repeated))
    tell_judged(args, found.run.judged, found.run.classifier.kind, args.output)
    if found.frozen is not None:
        say(args, said.text)


def _samples_text(repeated: Repeated) -> str:
    """Return the single runs, their mean and their spread as a table."""
    names = ("accuracy", "frozen", "difference")
    summary = repeated.summary()
    shown = [name for name in names if name in summary]
    rows = [("seed", *shown)]
    rows += [(str(run["seed"]), *(f"{run[name]:.4f}" for name in shown)) for run in repeated.runs]
    for what, key in (("mean", "mean"), ("standard deviation", "sd")):
        rows.append((what, *(f"{summary[name][key]:.4f}" for name in shown)))
    return table(rows)
