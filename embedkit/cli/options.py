"""Flags that several commands share, each with one spelling and one meaning, and what they are made into."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from embedkit.cli.output import inert, say
from embedkit.errors import UsageError

if TYPE_CHECKING:
    from embedkit.data import Columns, Dataset, Split
    from embedkit.encoders import EncoderSettings, EngineMaker, FeatureExtractor, WordExtractor
    from embedkit.encoders.engines import EngineSource, Making
    from embedkit.estimators.exported import ExportedClassifier
    from embedkit.estimators.frozen import FrozenClassifier
    from embedkit.estimators.frozen_tagger import FrozenTagger
    from embedkit.estimators.tagging import Tagger
    from embedkit.estimators.tuned import TunedClassifier
    from embedkit.estimators.tuned_tagger import TunedTagger
    from embedkit.heads import Decision, HeadSpec
    from embedkit.runtime.tokens import Text, Tokenizer
    from embedkit.store import FeatureStore
    from embedkit.training.settings import TuneSettings

Subparsers = Any  # argparse has no public name for it
Command = Callable[[argparse.Namespace], int]
DEFAULT_MODEL = "minilm"
_SEEDS = 2**32  # as many as NumPy's legacy generator takes, on which scikit-learn stands


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without listing every flag.

    With `intermixed`, flags may also stand before a last argument that is a list, as in ``DIR --store S TEXT``.
    """

    intermixed = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # noqa: ANN401 - as argparse has it
        """Parse, once by the intermixed way if it is asked for."""
        if not self.intermixed:
            return super().parse_known_args(args, namespace)
        self.intermixed = False  # which calls this method again
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self.intermixed = True

    def error(self, message: str) -> NoReturn:
        """Exit with code 2."""
        self.exit(2, f"{self.prog}: error: {inert(message)}; see {self.prog} --help\n")


def command(subparsers: Subparsers, name: str, run: Command, what: str) -> Parser:
    """Add a command with the flags that all have."""
    parser: Parser = subparsers.add_parser(
        name, help=what, description=what[0].upper() + what[1:] + ".", allow_abbrev=False
    )
    parser.set_defaults(run=run, parser=parser)
    general = parser.add_argument_group("general")
    general.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    general.add_argument("--quiet", action="store_true", help="say nothing but results, warnings and errors")
    general.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add DATA and the flags about reading it."""
    parser.add_argument("data", metavar="DATA", help="a folder of split files, one file, or hf:name[/config]")
    group = parser.add_argument_group("data")
    for split in ("train", "validation", "test"):
        group.add_argument(f"--{split}", metavar="FILE", help=f"file of the {split} split")
    for role in ("text", "pair", "label", "tokens", "tags"):
        group.add_argument(f"--{role}-column", metavar="NAME", help=f"column of the {role}")
    group.add_argument("--label-separator", metavar="S", help='several labels a row, such as ";"')
    group.add_argument("--task", default="auto", choices=("auto", "sequence", "tokens", "ner", "pos", "chunk"))
    group.add_argument("--encoding", default="utf-8", help="of text files (default utf-8)")
    group.add_argument(
        "--missing-text", default="error", choices=("error", "empty", "drop"), help="rows without a text"
    )
    group.add_argument("--bad-unicode", default="error", choices=("error", "replace"), help="lone surrogates")


def add_encoder(parser: argparse.ArgumentParser) -> None:
    """Add the model and what to take from it."""
    group = parser.add_argument_group("encoder")
    group.add_argument(
        "-m", "--model", default=DEFAULT_MODEL, help="minilm (default), a folder, or a hub id owner/name"
    )
    group.add_argument("--revision", help="branch, tag or commit of a hub id")
    group.add_argument(
        "--pooling",
        help="cls, mean, max, last, mean_sqrt_len, pooler, or joins such as cls+mean; of words first or mean",
    )
    group.add_argument("--layers", default="-1", help="-1 (last, default), several such as -1,-2, or all")
    group.add_argument("--layer-join", default="concat", choices=("concat", "mean"), help="of several layers")
    group.add_argument("--normalize", default=None, action=argparse.BooleanOptionalAction, help="to length 1")
    group.add_argument("--max-length", type=int, metavar="N", help="most tokens of a text")
    group.add_argument("--long", default="truncate", choices=("truncate", "mean"), help="texts beyond that")
    group.add_argument("--side", choices=("right", "left"), help="the end that truncation cuts off")
    group.add_argument("--prompt", help="name of one of the model's prompts, or a text to put before every text")
    group.add_argument("--pairs", default="cross", choices=("cross", "bi"), help="pairs together, or apart")
    group.add_argument(
        "--precision", default="auto", choices=("auto", "float32", "bfloat16", "float16"), help="auto: float32"
    )
    add_engine(group)
    add_compute(group)


def add_engine(group: Any) -> None:  # noqa: ANN401 - a parser or a group of one
    """Add what computes features."""
    group.add_argument(
        "--engine",
        default="auto",
        choices=("auto", "torch", "onnx"),
        help="what computes; onnx makes a graph once, which later runs start faster with; auto takes what pays",
    )


def add_compute(group: Any) -> None:  # noqa: ANN401 - a parser or a group of one
    """Add what changes the speed and no answer."""
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    group.add_argument("--batch-tokens", type=int, metavar="N", help="most tokens of a batch")
    group.add_argument("--threads", type=int, metavar="N", help="of the forward pass and of a fit")


def add_artifact_encoder(parser: argparse.ArgumentParser) -> None:
    """Add what may be said about the encoder of a trained classifier."""
    group = parser.add_argument_group("encoder")
    group.add_argument("-m", "--model", help="where the encoder is now, if it has moved")
    group.add_argument(
        "--precision",
        choices=("float32", "int8"),
        help="which graph of an exported folder answers (default float32)",
    )
    add_engine(group)
    add_compute(group)


def add_store(parser: argparse.ArgumentParser, *, dtype: bool = True) -> None:
    """Add where features are kept."""
    group = parser.add_argument_group("store")
    place = group.add_mutually_exclusive_group()
    place.add_argument("--store", metavar="DIR", help="default: $EMBEDKIT_STORE, else the user's cache folder")
    place.add_argument("--no-store", action="store_true", help="keep no features")
    if dtype:
        group.add_argument("--store-dtype", default="float32", choices=("float32", "float16"))


def add_head(parser: argparse.ArgumentParser, *, lists: bool = True) -> None:
    """Add which head, and how it is fitted; `lists` to choose from, and an earlier fit to add rows to."""
    group = parser.add_argument_group("head (lists, separated by commas, are chosen from)" if lists else "head")
    group.add_argument(
        "--clf",
        default="logreg",
        help="logreg (default), ridge, linear-svm, knn, centroid, lda, naive-bayes, mlp, hist-gb, dummy, or "
        "sklearn:package.Class",
    )
    group.add_argument("--clf-param", action="append", default=[], metavar="NAME=VALUE", help="such as C=0.1,1,10")
    group.add_argument("--scale", default="auto", help="auto (default), none or standard, of the features")
    group.add_argument(
        "--class-weight",
        metavar="WEIGHT",
        help="balanced: rows weigh by the rarity of their label; or JSON such as '{\"spam\": 5}'",
    )
    group.add_argument("--positive-label", metavar="LABEL", help="whose precision, recall and F1 to print")
    group.add_argument(
        "--thresholds",
        metavar="METRIC",
        help="tune what decides for f1, accuracy, balanced-accuracy, macro-f1 or mcc; or none (default: f1 for "
        "each label where rows have several, else none)",
    )
    group.add_argument("--calibrate", action="store_true", help="make probabilities that can be believed")
    if lists:
        group.add_argument(
            "--update", metavar="DIR", help="add the rows of DATA to those of an earlier fit, with its settings"
        )
    add_seed(group)


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Add how to choose where there is a choice."""
    group = parser.add_argument_group("choice")
    group.add_argument("--search", action="store_true", help="also try the usual values of each head's settings")
    group.add_argument(
        "--cv", type=count_from(2), metavar="K", help="folds of the cross-validation on train (default 5)"
    )
    group.add_argument(
        "--metric",
        help="to choose by: accuracy (default), macro-f1, mcc; for labels micro-f1, macro-f1, subset-accuracy; "
        "for entities f1, precision, recall, accuracy",
    )
    group.add_argument(
        "--rare",
        default="error",
        choices=("error", "drop", "train-only"),
        help="classes with one distinct text, which cannot be cross-validated",
    )
    group.add_argument("--jobs", type=count_from(1), metavar="N", help="processes (default: one a core)")


def count_from(least: int) -> Callable[[str], int]:
    """Return what reads a whole number that is not too small."""

    def count(text: str) -> int:
        if not text.isdecimal() or len(text) > 9 or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} up")
        return int(text)

    return count


def add_base(group: Any) -> None:  # noqa: ANN401 - a parser or a group of one
    """Add the pre-trained model to begin from."""
    group.add_argument(
        "-m", "--model", default=DEFAULT_MODEL, help="minilm (default), a folder, or a hub id owner/name"
    )
    group.add_argument("--revision", help="branch, tag or commit of a hub id")


def add_trainer(group: argparse._ArgumentGroup, what: str) -> None:
    """Add what the Trainer is told beside its settings; `what` has the precision."""
    group.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        help=f"{what}; auto: bfloat16 where the hardware has it",
    )
    group.add_argument(
        "--trainer-arg",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="anything else of transformers.TrainingArguments, such as lr_scheduler_type=cosine",
    )


def add_training(parser: argparse.ArgumentParser) -> None:
    """Add how weights are moved."""
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=float, default=3.0, metavar="N", help="passes over train (default 3)")
    group.add_argument("--batch-size", type=int, default=16, metavar="N", help="rows of a step (default 16)")
    group.add_argument(
        "--learning-rate", type=float, metavar="X", help="default: by the task and the model's width, printed"
    )
    group.add_argument("--weight-decay", type=float, default=0.01, metavar="X", help="default 0.01")
    group.add_argument(
        "--warmup", type=float, default=0.1, metavar="X", help="share of the steps, or their number (default 0.1)"
    )
    group.add_argument(
        "--eval-strategy", default="epoch", choices=("epoch", "steps", "no"), help="when to judge and keep"
    )
    group.add_argument("--eval-steps", type=count_from(1), metavar="N", help="steps between two evaluations")
    group.add_argument("--save-steps", type=count_from(1), metavar="N", help="keep a checkpoint every N steps too")
    group.add_argument(
        "--metric", help="by which the best evaluation is chosen (default: accuracy, micro-f1, or f1 of entities)"
    )
    group.add_argument(
        "--patience", type=count_from(1), metavar="N", help="stop after N evaluations without a better one"
    )
    group.add_argument(
        "--accumulation", type=count_from(1), default=1, metavar="N", help="batches that make a step (default 1)"
    )
    group.add_argument(
        "--gradient-checkpointing", action="store_true", help="less memory, more time: states are computed twice"
    )
    add_trainer(group, "of matrix products")
    add_seed(group)
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    group.add_argument("--threads", type=count_from(1), metavar="N", help="of a step on the CPU")


def tune_settings_of(args: argparse.Namespace) -> TuneSettings:
    """Return what the flags of `add_training` say."""
    from embedkit.errors import require
    from embedkit.training.settings import TuneSettings, parse_arguments

    for module in ("pyarrow", "torch", "transformers", "accelerate"):
        require(module, extra="train", purpose=f"embedkit {args.command}")
    weight = getattr(args, "class_weight", None)
    same = ("epochs", "batch_size", "learning_rate", "weight_decay", "warmup", "eval_strategy", "eval_steps",
            "save_steps", "metric", "patience", "accumulation", "precision", "seed", "device",
            "threads")  # fmt: skip
    given = {name: getattr(args, name) for name in same}
    given |= {name: getattr(args, name) for name in ("freeze", "cache_prefix", "label_smoothing") if name in args}
    if weight is not None:
        given["class_weight"] = weight if weight == "balanced" else _weights(weight)
    if args.eval_steps is not None and args.eval_strategy == args.parser.get_default("eval_strategy"):
        given["eval_strategy"] = "steps"
    return TuneSettings(
        **given,
        checkpointing=args.gradient_checkpointing,
        arguments=parse_arguments(args.trainer_arg),
    )


def add_seed(group: Any) -> None:  # noqa: ANN401 - a parser or a group of one
    """Add the seed."""
    group.add_argument("--seed", type=_seed, default=42, help="of samples, splits and heads (default 42)")


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= _SEEDS:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to {_SEEDS - 1}")
    return int(text)


def add_output(parser: argparse.ArgumentParser, what: str, *, required: bool = False) -> None:
    """Add where results go."""
    parser.add_argument("-o", "--output", metavar="PATH", required=required, help=what)
    parser.add_argument("--overwrite", action="store_true", help="replace an output that is there")


# ------------------------------------------------------------------------------------------------ results


def dataset_of(args: argparse.Namespace, *, labels: str = "optional") -> Dataset:
    """Open the data that the flags name."""
    from embedkit.data import open_dataset

    return open_dataset(
        args.data,
        columns=columns_of(args),
        task=args.task,
        encoding=args.encoding,
        train=args.train,
        validation=args.validation,
        test=args.test,
        missing_text=args.missing_text,
        bad_unicode=args.bad_unicode,
        labels=labels,  # type: ignore[arg-type]  # open_dataset checks it
    )


def columns_of(args: argparse.Namespace) -> Columns:
    """Return the columns that the flags name."""
    from embedkit.data import Columns

    return Columns(
        text=args.text_column,
        pair=args.pair_column,
        label=args.label_column,
        tokens=args.tokens_column,
        tags=args.tags_column,
        label_separator=args.label_separator,
    )


def settings_of(args: argparse.Namespace, **instead: Any) -> EncoderSettings:  # noqa: ANN401 - as they are
    """Return what the flags say about the encoder; `instead` stands for flags that are read otherwise."""
    from embedkit.encoders import EncoderSettings
    from embedkit.errors import require

    require("pyarrow", extra="train", purpose=f"embedkit {args.command}")
    given = {field.name: getattr(args, field.name) for field in fields(EncoderSettings)}
    if given["batch_tokens"] is None:
        given["batch_tokens"] = EncoderSettings.batch_tokens
    return EncoderSettings(**{**given, **instead})


def views_asked(args: argparse.Namespace) -> tuple[list[str], list[str | None]]:
    """Return the layers and the poolings to choose from, each as `embedkit.evaluation.sweep.views_of` has it."""
    poolings = [None] if args.pooling is None else _listed(args.pooling, "--pooling")
    return _listed(args.layers, "--layers"), poolings


def _listed(text: str, flag: str) -> list[Any]:
    """Return the parts of a list; refuse an empty or repeated one."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts) or len(set(parts)) < len(parts):
        raise UsageError(f"{flag} {text!r}: give names separated by commas, each once")
    return parts


def opener_of(
    args: argparse.Namespace, store: FeatureStore | None = None, *, keep_going: bool = True
) -> Callable[[EncoderSettings], FeatureExtractor]:
    """Return what opens a model with the store that the flags name, or with another one."""
    from embedkit.encoders import FeatureExtractor
    from embedkit.store import open_store

    kept, dtype = store or open_store(place_of(args), args.store_dtype), args.store_dtype
    engines = _maker_of(args)
    return lambda settings: FeatureExtractor(
        settings, store=kept, dtype=dtype, keep_going=keep_going, engines=engines
    )


def word_opener_of(
    args: argparse.Namespace, store: FeatureStore | None = None
) -> Callable[[EncoderSettings], WordExtractor]:
    """Return what `opener_of` does, for vectors of words."""
    from embedkit.encoders import WordExtractor
    from embedkit.store import open_store

    kept, dtype, engines = store or open_store(place_of(args), args.store_dtype), args.store_dtype, _maker_of(args)
    return lambda settings: WordExtractor(settings, store=kept, dtype=dtype, engines=engines)


def _maker_of(args: argparse.Namespace) -> EngineMaker:
    """Return what makes graphs of encoders, and says so before it does."""

    def make(source: EngineSource, texts: Sequence[Text], path: Path) -> Making:
        from embedkit.export.engine import make_engine

        say(args, f"making an ONNX graph of {source.folder.resolved.name} and comparing it with torch")
        return make_engine(source, texts, path)

    return make


def extractor_of(args: argparse.Namespace, settings: EncoderSettings, *, keep_going: bool) -> FeatureExtractor:
    """Open a model and the store that the flags name."""
    return opener_of(args, keep_going=keep_going)(settings)


def place_of(args: argparse.Namespace) -> str | bool | None:
    """Return where features are kept, as `embedkit.store.open_store` takes it."""
    place: str | None = args.store
    return False if args.no_store else place


def answerer_of(args: argparse.Namespace) -> FrozenClassifier | ExportedClassifier | TunedClassifier | Tagger:
    """Open the classifier or the tagger, trained or exported, that the flags name."""
    from embedkit.estimators.exported import open_exported
    from embedkit.runtime.loading import answers_alone
    from embedkit.runtime.manifest import CLASSIFIER, FINETUNED, kind_of, read_manifest

    folder = Path(args.folder)
    if answers_alone(folder):
        _refuse_useless(args)
        precision = args.precision or "float32"
        return open_exported(folder, precision=precision, threads=args.threads, batch_tokens=args.batch_tokens)
    if args.precision is not None:
        raise UsageError(
            f"--precision chooses a graph of an exported folder, and {folder} is none; make one with "
            "embedkit export-onnx --int8, or leave it out"
        )
    kind = kind_of(folder)
    if kind == FINETUNED:
        return tuned_of(args)
    if kind != CLASSIFIER:  # said before a package is asked for that would not help
        read_manifest(folder, kind=CLASSIFIER)
    return frozen_of(args)


def _refuse_useless(args: argparse.Namespace) -> None:
    """Refuse what an exported folder has in itself or does without."""
    _refuse_given(
        args.folder,
        "is an exported folder, which holds its encoder and runs on the CPU",
        {
            "--model": args.model,
            "--store": args.store,
            "--engine": args.engine == "torch",
            "--device": args.device not in ("auto", "cpu"),
        },
    )


def _refuse_given(folder: str, why: str, flags: Mapping[str, object]) -> None:
    given = [flag for flag, value in flags.items() if value]
    if given:
        raise UsageError(f"{folder} {why}; leave out {', '.join(given)}")


def tuned_of(args: argparse.Namespace) -> TunedClassifier | TunedTagger:
    """Open a fine-tuned classifier or tagger as the flags say."""
    from embedkit.errors import require

    _refuse_given(
        args.folder,
        "is a fine-tuned classifier, which holds its encoder and keeps no features",
        {"--model": args.model, "--store": args.store, "--engine": args.engine != "auto"},
    )
    for module in ("torch", "transformers"):
        require(module, extra="train", purpose=f"embedkit {args.command} with a folder that is not exported")
    from embedkit.estimators.tuned import load_tuned

    return load_tuned(Path(args.folder), device=args.device, batch_tokens=args.batch_tokens, threads=args.threads)


def trained_of(args: argparse.Namespace, folder: str, model: str | None) -> FrozenClassifier:
    """Open a trained classifier as the flags say; `model` is where its encoder is now, if it has moved."""
    from embedkit.errors import require

    require("pyarrow", extra="train", purpose=f"embedkit {args.command}")
    from embedkit.estimators.frozen import load_frozen

    return load_frozen(
        Path(folder),
        model=model,
        store=place_of(args),
        device=args.device,
        engine=args.engine,
        engines=_maker_of(args),
        batch_tokens=args.batch_tokens,
        threads=args.threads,
    )


def frozen_of(args: argparse.Namespace) -> FrozenClassifier | FrozenTagger:
    """Open a classifier or a tagger on frozen features as the flags say."""
    from embedkit.errors import require

    require("pyarrow", extra="train", purpose=f"embedkit {args.command}")
    from embedkit.estimators.frozen import Here
    from embedkit.estimators.frozen_tagger import open_frozen

    place, maker = place_of(args), _maker_of(args)
    here = Here(args.model, place, args.device, args.engine, args.batch_tokens, args.threads, None, maker)
    return open_frozen(Path(args.folder), here)


def tokenizer_of(args: argparse.Namespace, *, words: bool) -> Tokenizer:
    """Open the tokenizer of a model, as it reads texts or words."""
    from embedkit.errors import require

    require("pyarrow", extra="train", purpose=f"embedkit {args.command}")
    from embedkit.encoders import EncoderSettings, FeatureExtractor, WordExtractor
    from embedkit.store import open_store

    settings = EncoderSettings(args.model, revision=args.revision, max_length=args.max_length)
    extractor = WordExtractor if words else FeatureExtractor
    return extractor(settings, store=open_store(place_of(args))).tokenizer


def heads_of(args: argparse.Namespace) -> list[HeadSpec]:
    """Return the heads to choose from; mostly one."""
    from embedkit.heads import HeadSpec, parse_grid, specs_of

    clfs, scales = _listed(args.clf, "--clf"), _listed(args.scale, "--scale")
    weight = args.class_weight
    if weight is not None and weight != "balanced":
        weight = _weights(weight)
    template = HeadSpec(clfs[0], class_weight=weight, seed=args.seed)
    search = getattr(args, "search", False)
    return specs_of(clfs, parse_grid(args.clf_param), scales=scales, search=search, template=template)


def _weights(text: str) -> dict[str, Any]:
    """Read class weights written as JSON."""
    import json

    try:
        weights = json.loads(text)
    except (ValueError, RecursionError):
        weights = None
    if not isinstance(weights, dict):
        raise UsageError(f"--class-weight is balanced, or a JSON object such as '{{\"spam\": 5}}', not {text!r}")
    return weights


def decision_of(args: argparse.Namespace, splits: Mapping[str, Split]) -> Decision:
    """Return what is to be calibrated and tuned."""
    from embedkit.data.splits import has_label_sets
    from embedkit.heads import Decision

    metric = args.thresholds
    if metric is None:
        metric = "f1" if has_label_sets(splits["train"].labels) else "none"
    return Decision(args.calibrate, None if metric == "none" else metric, seed=args.seed)


# what an earlier fit has said already
_OF_FIT = (
    *("revision", "pooling", "layers", "layer_join", "normalize", "max_length", "long", "side", "prompt", "pairs"),
    *(
        "precision",
        "store_dtype",
        "clf",
        "clf_param",
        "scale",
        "class_weight",
        "thresholds",
        "calibrate",
    ),
    *("search", "cv", "metric", "rare", "jobs", "seed"),
)


def given_beside_update(args: argparse.Namespace) -> list[str]:
    """Return the flags that were given although an earlier fit decides about them."""
    changed = [name for name in _OF_FIT if getattr(args, name) != args.parser.get_default(name)]
    return ["--" + name.replace("_", "-") for name in changed]
