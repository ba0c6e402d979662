"""``embedkit predict``: one JSON object a line, in input order, as a stream."""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from embedkit.cli import options
from embedkit.cli.output import emit
from embedkit.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from embedkit.estimators.frozen import FrozenClassifier

_LINES = 256  # of stdin: few, so that an answer is not long in coming


class _Chunk(NamedTuple):
    inputs: Sequence[Any]
    rows: NDArray[np.int64] | None
    columns: dict[str, list[Any]]


def add(subparsers: options.Subparsers) -> None:
    """Add the command."""
    parser = options.command(
        subparsers, "predict", run, "print the label of texts, one JSON object a line, in input order"
    )
    parser.add_argument("folder", metavar="DIR", help="a trained classifier")
    parser.add_argument(
        "texts", metavar="TEXT", nargs="*", help="texts; for pairs two each; - reads lines of stdin"
    )
    parser.add_argument(
        "--input", metavar="FILE", help="a data file whose columns are kept; - reads lines of stdin"
    )
    for role in ("text", "pair"):
        parser.add_argument(f"--{role}-column", metavar="NAME", help=f"column of the {role}")
    parser.add_argument("--encoding", default="utf-8", help="of --input (default utf-8)")
    parser.add_argument("--missing-text", default="error", choices=("error", "empty", "drop"))
    parser.add_argument("--bad-unicode", default="error", choices=("error", "replace"))
    options.add_artifact_encoder(parser)
    options.add_store(parser, dtype=False)


def run(args: argparse.Namespace) -> int:
    """Predict chunk by chunk."""
    if bool(args.texts) == bool(args.input):
        raise UsageError("give texts, or --input FILE, and not both; - reads lines of stdin")
    classifier = options.classifier_of(args)
    pairs = classifier.kind == "pair"
    if args.input == "-" or args.texts == ["-"]:
        chunks = _stdin(pairs)
    elif args.input:
        chunks = _file(args, pairs)
    else:
        chunks = iter([_Chunk(_pairs(args.texts) if pairs else args.texts, None, {})])
    for chunk in chunks:
        _answer(classifier, chunk)
        sys.stdout.flush()
    return 0


def _answer(classifier: FrozenClassifier, chunk: _Chunk) -> None:
    predictions = classifier.predict(chunk.inputs, rows=chunk.rows)
    names = classifier.codec.names
    for place, (code, scores) in enumerate(
        zip(predictions.codes.tolist(), predictions.probabilities.tolist(), strict=True)
    ):
        kept = {name: _plain(values[place]) for name, values in chunk.columns.items()}
        answer = {"label": names[code], "score": scores[code], "scores": dict(zip(names, scores, strict=True))}
        clash = {f"input_{name}": kept.pop(name) for name in list(kept) if name in answer}
        emit({**kept, **clash, **answer})


def _plain(value: object) -> Any:  # noqa: ANN401 - any JSON value
    """Return a column's value as JSON can hold it: NaN as null, dates and the like as text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value)


def _pairs(texts: Sequence[str]) -> list[tuple[str, str]]:
    if len(texts) % 2:
        raise UsageError(f"this classifier reads pairs of texts, and {len(texts)} texts are given; give two each")
    return list(zip(texts[::2], texts[1::2], strict=True))


def _stdin(pairs: bool) -> Iterator[_Chunk]:
    """Read one text a line; for pairs two, separated by a tab."""
    import numpy as np

    lines = (line.rstrip("\r\n") for line in sys.stdin)
    for number in itertools.count(0, _LINES):
        texts: list[Any] = list(itertools.islice(lines, _LINES))
        if not texts:
            return
        if pairs:
            texts = [tuple(text.split("\t")) for text in texts]
            wrong = [i for i, pair in enumerate(texts, start=number + 1) if len(pair) != 2]
            if wrong:
                raise UsageError(f"line {wrong[0]} of stdin is no pair: two texts are separated by one tab")
        yield _Chunk(texts, np.arange(number + 1, number + 1 + len(texts)), {})


def _file(args: argparse.Namespace, pairs: bool) -> Iterator[_Chunk]:
    from embedkit.data import Columns, open_dataset
    from embedkit.errors import DataError

    dataset = open_dataset(
        args.input,
        columns=Columns(text=args.text_column, pair=args.pair_column),
        encoding=args.encoding,
        missing_text=args.missing_text,
        bad_unicode=args.bad_unicode,
        labels="none",
    )
    if len(dataset.sources) > 1:
        raise UsageError(f"{args.input} is a folder of splits; give one file")
    (source,) = dataset.sources.values()
    if (dataset.kind == "pair") != pairs:
        wanted = "pairs of texts" if pairs else "texts"
        raise DataError(f"{args.input} holds {dataset.kind}s, but this classifier reads {wanted}; "
                        "name the columns with --text-column and --pair-column")  # fmt: skip
    for chunk in source.chunks():
        yield _Chunk(chunk.inputs, chunk.rows, chunk.columns)
