"""Flags that several commands share, each with one spelling and one meaning, and what they are made into."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from embedkit.cli.output import escaped

if TYPE_CHECKING:
    from embedkit.data import Dataset
    from embedkit.encoders import EncoderSettings, FeatureExtractor
    from embedkit.estimators.frozen import FrozenClassifier
    from embedkit.heads import HeadSpec
    from embedkit.runtime.tokens import Tokenizer

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
        self.exit(2, f"{self.prog}: error: {escaped(message)}; see {self.prog} --help\n")


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
    group.add_argument("--pooling", help="cls, mean, max, last, mean_sqrt_len, pooler, or joins such as cls+mean")
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
    group.add_argument("--engine", default="auto", choices=("auto", "torch"), help="what computes")
    add_compute(group)


def add_compute(group: Any) -> None:  # noqa: ANN401 - a parser or a group of one
    """Add what changes the speed and no answer."""
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    group.add_argument("--batch-tokens", type=int, metavar="N", help="most tokens of a batch")
    group.add_argument("--threads", type=int, metavar="N", help="of the forward pass")


def add_artifact_encoder(parser: argparse.ArgumentParser) -> None:
    """Add what may be said about the encoder of a trained classifier."""
    group = parser.add_argument_group("encoder")
    group.add_argument("-m", "--model", help="where the encoder is now, if it has moved")
    add_compute(group)


def add_store(parser: argparse.ArgumentParser, *, dtype: bool = True) -> None:
    """Add where features are kept."""
    group = parser.add_argument_group("store")
    place = group.add_mutually_exclusive_group()
    place.add_argument("--store", metavar="DIR", help="default: $EMBEDKIT_STORE, else the user's cache folder")
    place.add_argument("--no-store", action="store_true", help="keep no features")
    if dtype:
        group.add_argument("--store-dtype", default="float32", choices=("float32", "float16"))


def add_head(parser: argparse.ArgumentParser) -> None:
    """Add which head, and how it is fitted."""
    group = parser.add_argument_group("head")
    group.add_argument("--clf", default="logreg", help="logreg (default) or dummy")
    group.add_argument("--clf-param", action="append", default=[], metavar="NAME=VALUE", help="such as C=0.5")
    group.add_argument("--scale", default="auto", choices=("auto", "none", "standard"), help="of the features")
    group.add_argument("--class-weight", choices=("balanced",), help="weight rows by the rarity of their label")
    group.add_argument("--positive-label", metavar="LABEL", help="whose precision, recall and F1 to print")
    add_seed(group)


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
    from embedkit.data import Columns, open_dataset

    columns = Columns(
        text=args.text_column,
        pair=args.pair_column,
        label=args.label_column,
        tokens=args.tokens_column,
        tags=args.tags_column,
        label_separator=args.label_separator,
    )
    return open_dataset(
        args.data,
        columns=columns,
        task=args.task,
        encoding=args.encoding,
        train=args.train,
        validation=args.validation,
        test=args.test,
        missing_text=args.missing_text,
        bad_unicode=args.bad_unicode,
        labels=labels,  # type: ignore[arg-type]  # open_dataset checks it
    )


def settings_of(args: argparse.Namespace) -> EncoderSettings:
    """Return what the flags say about the encoder."""
    from embedkit.encoders import EncoderSettings
    from embedkit.errors import require

    require("pyarrow", extra="train", purpose=f"embedkit {args.command}")
    return EncoderSettings(
        model=args.model,
        revision=args.revision,
        pooling=args.pooling,
        layers=args.layers,
        layer_join=args.layer_join,
        normalize=args.normalize,
        max_length=args.max_length,
        long=args.long,
        side=args.side,
        prompt=args.prompt,
        pairs=args.pairs,
        precision=args.precision,
        engine=args.engine,
        device=args.device,
        batch_tokens=EncoderSettings.batch_tokens if args.batch_tokens is None else args.batch_tokens,
        threads=args.threads,
    )


def extractor_of(args: argparse.Namespace, settings: EncoderSettings, *, keep_going: bool) -> FeatureExtractor:
    """Open a model and the store that the flags name."""
    from embedkit.encoders import FeatureExtractor
    from embedkit.store import open_store

    store = open_store(_place_of(args), args.store_dtype)
    return FeatureExtractor(settings, store=store, dtype=args.store_dtype, keep_going=keep_going)


def _place_of(args: argparse.Namespace) -> str | bool | None:
    """Return where features are kept, as `embedkit.store.open_store` takes it."""
    place: str | None = args.store
    return False if args.no_store else place


def classifier_of(args: argparse.Namespace) -> FrozenClassifier:
    """Open the trained classifier that the flags name."""
    from embedkit.errors import require

    require("pyarrow", extra="train", purpose=f"embedkit {args.command}")
    from embedkit.estimators.frozen import load_frozen

    return load_frozen(
        Path(args.folder),
        model=args.model,
        store=_place_of(args),
        device=args.device,
        batch_tokens=args.batch_tokens,
        threads=args.threads,
    )


def tokenizer_of(args: argparse.Namespace) -> Tokenizer:
    """Open the tokenizer of a model."""
    from embedkit.errors import require

    require("pyarrow", extra="train", purpose=f"embedkit {args.command}")
    from embedkit.encoders import EncoderSettings, FeatureExtractor
    from embedkit.store import open_store

    settings = EncoderSettings(args.model, revision=args.revision, max_length=args.max_length)
    return FeatureExtractor(settings, store=open_store(_place_of(args))).tokenizer


def head_of(args: argparse.Namespace) -> HeadSpec:
    """Return the head that the flags describe."""
    from embedkit.heads import HeadSpec, parse_params

    return HeadSpec(args.clf, args.scale, args.class_weight, parse_params(args.clf_param), args.seed)
