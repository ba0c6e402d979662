"""``embedkit extract``: fill the store, and export features."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.cli import options
from embedkit.cli.output import emit, progress, say, show, table, tell_notes

if TYPE_CHECKING:
    from embedkit.data import Dataset, Tally
    from embedkit.encoders import Extraction, FeatureExtractor
    from embedkit.feature_files import ColumnChunk


def add(subparsers: options.Subparsers) -> None:
    """Add the command."""
    parser = options.command(subparsers, "extract", run, "compute the features of texts and keep them")
    options.add_data(parser)
    options.add_encoder(parser)
    options.add_store(parser)
    options.add_output(parser, "also export to a .parquet, .npz or .safetensors file")


def run(args: argparse.Namespace) -> int:
    """Stream every split through the encoder."""
    from embedkit.encoders import require_texts

    settings = options.settings_of(args)
    if args.output:
        from embedkit.feature_files import check_target

        check_target(Path(args.output), overwrite=args.overwrite)
    dataset = options.dataset_of(args)
    require_texts(dataset.kind)
    tallies = dataset.check()
    tell_notes(args, dataset.notes)
    extractor = options.extractor_of(args, settings, keep_going=False)
    say(args, f"{settings.model}: pooling {'+'.join(extractor.recipe.poolings)}, "
        f"at most {extractor.recipe.max_length} tokens a text")  # fmt: skip
    try:
        total = _stream(args, dataset, tallies, extractor)
    except KeyboardInterrupt:
        if extractor.keeping:
            say(args, "what was computed is saved; run the same command again for the rest")
        raise
    facts = _facts(total, extractor, dataset.kind)
    tell_notes(args, [*extractor.remarks(total), *extractor.engine_notes])
    if args.output:
        say(args, f"saved in {args.output}")
    if args.json:
        emit(facts)
    else:
        show(table([(name, _shown(value)) for name, value in facts.items()], left=frozenset({0, 1})))
    return 0


def _stream(
    args: argparse.Namespace, dataset: Dataset, tallies: dict[str, Tally], extractor: FeatureExtractor
) -> Extraction:
    from embedkit.encoders import Extraction
    from embedkit.errors import StoreError

    total = Extraction()
    rows = sum(tally.rows for tally in tallies.values())
    with progress(args, rows * extractor.texts_per_row(dataset.kind), "extract") as extractor.progress, _file(
        args, dataset, tallies, extractor
    ) as file:  # fmt: skip
        for name in dataset.sources:
            for chunk in dataset.source(name).chunks(columns=file is not None and file.needs_columns):
                try:
                    features = extractor.transform(chunk.inputs, rows=chunk.rows)  # type: ignore[arg-type]
                except StoreError as error:
                    raise type(error)(f"{error} ({total.computed:,} texts before them are saved)") from error
                total += features.extraction
                if file is not None:
                    file.write(name, features.vectors, chunk.labels, chunk.columns)
    return total


def _file(
    args: argparse.Namespace, dataset: Dataset, tallies: dict[str, Tally], extractor: FeatureExtractor
) -> Any:  # noqa: ANN401 - a context manager of a FeatureFile or None
    if not args.output:
        return nullcontext()
    from embedkit.data import LabelCodec
    from embedkit.feature_files import feature_file

    labelled = [name for name, tally in tallies.items() if tally.labels is not None]
    every = [label for name in labelled for label in (tallies[name].labels or {})]
    codec = LabelCodec.fit(every, dataset.declared) if every else None
    return feature_file(
        Path(args.output),
        rows={name: tally.rows for name, tally in tallies.items()},
        width=extractor.width(dataset.kind),
        codec=codec,
        labelled=labelled,
        columns=_columns(dataset),
        overwrite=args.overwrite,
    )


def _columns(dataset: Dataset) -> Iterator[ColumnChunk]:
    for source in dataset.sources.values():
        for chunk in source.chunks():
            yield source.name, chunk.columns, chunk.rows


def _facts(total: Extraction, extractor: FeatureExtractor, kind: str) -> dict[str, Any]:
    return {
        "rows": total.rows,
        "unique": total.unique,
        # A text that comes again in a later part of the stream is no hit of this count.
        "hits": max(0, total.unique - total.computed),
        "computed": total.computed,
        "truncated": total.truncated,
        "empty": total.empty,
        "dim": extractor.width(kind),
        "space": extractor.space(kind),
        "engine": extractor.engine,
        "store_spaces": [space.id for space in extractor.spaces or ()],
        "seconds": round(total.seconds, 3),
        "load_seconds": round(total.load_seconds, 3),
        "encode_seconds": round(total.encode_seconds, 3),
        "store_seconds": round(total.store_seconds, 3),
        "texts_per_second": round(total.rows / total.seconds, 1) if total.seconds else None,
        "tokens_per_second": round(total.tokens / total.encode_seconds, 1) if total.computed else None,
    }


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return f"{value:,}" if isinstance(value, int | float) else "-" if value is None else str(value)
