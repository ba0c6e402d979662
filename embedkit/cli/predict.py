"""``embedkit predict``: one JSON object a line, in input order, as a stream."""

from __future__ import annotations

import argparse
import codecs
import io
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

from embedkit.cli import options
from embedkit.cli.output import emit, tell_notes
from embedkit.errors import DataError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from embedkit.data import Dataset
    from embedkit.encoders import Extraction
    from embedkit.estimators.exported import ExportedClassifier, ExportedPredictions
    from embedkit.estimators.frozen import FrozenClassifier, Predictions
    from embedkit.estimators.tagging import Reading, Tagged, Tagger
    from embedkit.estimators.tuned import TunedClassifier

    Classifier: TypeAlias = FrozenClassifier | ExportedClassifier | TunedClassifier

_BYTES = 1 << 16  # of stdin at once; fewer where fewer are there, so that no answer waits for the next text


# What data may hold for a model that reads texts, pairs, lists of words, or says nothing about it.
_READS = {"text": ("text",), "pair": ("pair",), "tokens": ("text", "tokens"), "any": ("text", "pair")}
_KINDS = {"text": "texts", "pair": "pairs of texts", "tokens": "lists of words"}


class _Chunk(NamedTuple):
    inputs: Sequence[Any]
    rows: NDArray[np.int64] | None
    columns: dict[str, list[Any]]


def add(subparsers: options.Subparsers) -> None:
    """Add the command."""
    parser = options.command(
        subparsers, "predict", run, "print the labels of texts or words, one JSON object a line, in input order"
    )
    parser.intermixed = True
    parser.add_argument("folder", metavar="DIR", help="a trained classifier, or an ONNX folder")
    parser.add_argument(
        "texts", metavar="TEXT", nargs="*", help="texts; for pairs two each; - reads lines of stdin"
    )
    parser.add_argument(
        "--input", metavar="FILE", help="a data file whose columns are kept; - reads lines of stdin"
    )
    for role in ("text", "pair", "tokens"):
        parser.add_argument(f"--{role}-column", metavar="NAME", help=f"column of the {role}")
    group = parser.add_argument_group("taggers")
    group.add_argument(
        "--pretokenized",
        action="store_true",
        help="texts are words already, with one blank between two (default: words are split by their characters' "
        "kinds, as the folder states)",
    )
    group.add_argument(
        "--aggregation",
        metavar="first|average|max|none",
        help="which sub-tokens answer for a word: the first, all by their mean probability, the surest; or none: "
        "each answers for itself (default: what the folder states)",
    )
    parser.add_argument("--encoding", default="utf-8", help="of --input or stdin (default utf-8)")
    parser.add_argument("--missing-text", default="error", choices=("error", "empty", "drop"))
    parser.add_argument("--bad-unicode", default="error", choices=("error", "replace"))
    options.add_artifact_encoder(parser)
    options.add_store(parser, dtype=False)


def run(args: argparse.Namespace) -> int:
    """Predict chunk by chunk."""
    if bool(args.texts) == bool(args.input):
        raise UsageError("give texts, or --input FILE, and not both; - reads lines of stdin")
    model = options.answerer_of(args)
    _check_words(args, model.kind)
    pairs = model.kind == "pair"
    notes: list[str] = []
    if args.input == "-" or args.texts == ["-"]:
        chunks = _stdin(args, pairs)
    elif args.input:
        chunks = _file(args, _READS[model.kind], notes)
    else:
        chunks = iter([_Chunk(_pairs(args.texts) if pairs else args.texts, None, {})])
    rows = truncated = empty = 0
    for chunk in chunks:
        done = _answer(args, model, chunk)
        rows, truncated, empty = rows + done.rows, truncated + done.truncated, empty + done.empty
        sys.stdout.flush()
    tell_notes(args, [*notes, *model.remarks(rows, truncated, empty)])
    return 0


def _check_words(args: argparse.Namespace, kind: str) -> None:
    from embedkit.runtime.tagging import check_aggregation

    if args.aggregation is not None:
        check_aggregation(args.aggregation)
    flags = {"--pretokenized": args.pretokenized, "--aggregation": args.aggregation is not None}
    given = [flag for flag, value in flags.items() if value]
    if given and kind != "tokens":
        raise UsageError(f"{given[0]} is about words, and {args.folder} answers for texts; leave it out")


def _answer(args: argparse.Namespace, model: Classifier | Tagger, chunk: _Chunk) -> Extraction | Reading:
    done: Extraction | Reading
    if model.kind == "tokens":
        tagger = cast("Tagger", model)
        inputs = list(map(_words, chunk.inputs)) if args.pretokenized else chunk.inputs
        how = {} if args.aggregation is None else {"aggregation": args.aggregation}
        tagged = tagger.predict(inputs, rows=chunk.rows, **how)
        found, done = tagged_answers(tagged), tagged.extraction
    else:
        classifier = cast("Classifier", model)
        predictions = classifier.predict(chunk.inputs, rows=chunk.rows)
        found, done = answers(classifier, predictions), predictions.extraction
    for place, answer in enumerate(found):
        kept = {name: _plain(values[place]) for name, values in chunk.columns.items()}
        emit({**_renamed(kept, answer), **answer})
    return done


def _words(text: str) -> list[str]:
    """Return words with one blank between two: so offsets hold, and an empty word stands between two blanks."""
    return text.split(" ") if text else []


def tagged_answers(tagged: Tagged) -> Iterator[dict[str, Any]]:
    """Yield words, tags, their probabilities, and the entities where tags make some, for each input."""
    for place, words in enumerate(tagged.words):
        answer = {"tokens": words, "tags": tagged.tags[place], "scores": tagged.scores[place]}
        yield answer if tagged.entities is None else {**answer, "entities": tagged.entities[place]}


def answers(classifier: Classifier, predictions: Predictions | ExportedPredictions) -> Iterator[dict[str, Any]]:
    """Yield the answer for each input.

    ``score`` and ``scores`` are probabilities; a head without them gives ``margins`` instead: above 0 means yes,
    and the greatest wins.
    """
    import numpy as np

    names, several = classifier.codec.names, classifier.multi_label
    values = predictions.probabilities
    if values is None:
        assert predictions.scores is not None
        values = np.nan_to_num(
            predictions.scores
        )  # a label that all training rows had, or none: JSON has no infinity
        if values.ndim == 1:
            values = np.column_stack([-values, values])
    what = "margins" if predictions.probabilities is None else "scores"
    for code, row in zip(predictions.codes, values.tolist(), strict=True):
        by_name = dict(zip(names, row, strict=True))
        if several:
            yield {"labels": [name for name, has in zip(names, code.tolist(), strict=True) if has], what: by_name}
        elif what == "margins":
            yield {"label": names[int(code)], what: by_name}
        else:
            yield {"label": names[int(code)], "score": row[int(code)], what: by_name}


def _renamed(kept: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    """Put ``input_`` before columns that are named like a field of the answer, until the name is free."""
    renamed = {}
    for name, value in kept.items():
        free = name
        while free in answer or (free != name and free in kept):
            free = f"input_{free}"
        renamed[free] = value
    return renamed


def _plain(value: object) -> Any:  # noqa: ANN401 - any JSON value
    """Return a column's value as JSON can hold it: NaN as null, dates and the like as text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return str(value)


def _pairs(texts: Sequence[str]) -> list[tuple[str, str]]:
    if len(texts) % 2:
        raise UsageError(f"this classifier reads pairs of texts, and {len(texts)} texts are given; give two each")
    return list(zip(texts[::2], texts[1::2], strict=True))


def _stdin(args: argparse.Namespace, pairs: bool) -> Iterator[_Chunk]:
    """Read one text a line; for pairs two, separated by a tab."""
    import numpy as np

    first = 1
    for lines in _lines(args):
        rows = np.arange(first, first + len(lines))
        yield _Chunk([_pair(line, first + i) for i, line in enumerate(lines)] if pairs else lines, rows, {})
        first += len(lines)


def _lines(args: argparse.Namespace) -> Iterator[list[str]]:
    """Yield the lines of stdin as they come, those that are there at once together."""
    from embedkit.data.tables import checked_encoding

    encoding = checked_encoding(args.encoding)
    decoder = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)(
        "replace" if args.bad_unicode == "replace" else "strict"
    )
    stream: io.BufferedReader = sys.stdin.buffer  # type: ignore[assignment]  # what it is where stdin is a file
    count, rest, data = 0, "", b"more"
    while data:
        data = stream.read1(_BYTES)
        try:
            *lines, rest = (rest + decoder.decode(data, final=not data)).split("\n")
        except UnicodeDecodeError as error:
            row = count + 1 + str(error.object[: error.start], encoding, "replace").count("\n")
            raise DataError(
                f"line {row} of stdin is not {encoding}; say --encoding, or --bad-unicode replace"
            ) from None
        if not data and rest:
            lines.append(rest)
        count += len(lines)
        if lines:
            yield [line.removesuffix("\r") for line in lines]


def _pair(line: str, row: int) -> tuple[str, str]:
    first, tab, second = line.partition("\t")
    if not tab or "\t" in second:
        raise UsageError(f"line {row} of stdin is no pair: two texts are separated by one tab")
    return first, second


def _file(args: argparse.Namespace, kinds: Sequence[str], notes: list[str]) -> Iterator[_Chunk]:
    """Read a file chunk by chunk; `notes` are complete at its end."""
    if _has_no_rows(args):
        return
    dataset = _dataset(args)
    if len(dataset.sources) > 1:
        raise UsageError(f"{args.input} has several splits; give one file")
    (source,) = dataset.sources.values()
    if args.pretokenized and dataset.kind == "tokens":
        raise UsageError(f"{args.input} holds lists of words, which need no --pretokenized; leave it out")
    if dataset.kind not in kinds:
        wanted = " or ".join(_KINDS[kind] for kind in kinds)
        raise DataError(f"{args.input} holds {_KINDS[dataset.kind]}, but this classifier reads {wanted}; "
                        "name the columns with --text-column, --pair-column or --tokens-column")  # fmt: skip
    words = source.roles.inputs if dataset.kind == "tokens" else ()  # the answer has them
    for chunk in source.chunks():
        yield _Chunk(chunk.inputs, chunk.rows, {n: v for n, v in chunk.columns.items() if n not in words})
    notes.extend(dataset.notes)


def _has_no_rows(args: argparse.Namespace) -> bool:
    """Whether there is a file with a header alone, for which there is nothing to answer."""
    from embedkit.data.dataset import local_path, open_table
    from embedkit.data.tables import checked_encoding

    path = local_path(args.input)
    if not path.is_file():
        return False
    table = open_table(path, encoding=checked_encoding(args.encoding), bad_unicode=args.bad_unicode)
    return next(table.batches(1), None) is None


def _dataset(args: argparse.Namespace) -> Dataset:
    from embedkit.data import Columns, open_dataset

    return open_dataset(
        args.input,
        columns=Columns(text=args.text_column, pair=args.pair_column, tokens=args.tokens_column),
        encoding=args.encoding,
        missing_text=args.missing_text,
        bad_unicode=args.bad_unicode,
        labels="none",
    )
