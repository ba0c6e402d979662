"""``embedkit map``: texts in two dimensions, as a page and a picture."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from embedkit.cli import options
from embedkit.cli.output import emit, progress, say, show, table, tell_notes
from embedkit.errors import UsageError

if TYPE_CHECKING:
    from embedkit.data import Dataset, Split
    from embedkit.encoders import FeatureExtractor
    from embedkit.evaluation.judged import Answered
    from embedkit.evaluation.map import TextMap
    from embedkit.evaluation.projection import Projection
    from embedkit.runtime.tokens import Text

_ENDINGS = (".html", ".png")
# What a trained classifier has decided already.
_OF_ENCODER = ("revision", "pooling", "layers", "layer_join", "normalize", "max_length", "long", "side", "prompt",
               "pairs", "precision", "store_dtype")  # fmt: skip


def add(subparsers: options.Subparsers) -> None:
    """Add the command."""
    parser = options.command(subparsers, "map", run, "lay texts out in two dimensions, as a page and a picture")
    options.add_data(parser)
    group = parser.add_argument_group("map")
    group.add_argument("--artifact", metavar="DIR", help="a trained classifier: its features, predictions, errors")
    group.add_argument(
        "--split",
        metavar="NAMES",
        help="such as train,test (default: all; of a trained classifier test, or what its training held out)",
    )
    group.add_argument("--method", default="umap", choices=("umap", "pca", "tsne"), help="default umap")
    group.add_argument(
        "--neighbors", type=int, metavar="N", help="of umap (default 15); of tsne its perplexity (30)"
    )
    group.add_argument("--min-dist", type=float, default=0.1, metavar="X", help="of umap: default 0.1")
    group.add_argument(
        "--points", type=options.count_from(5), metavar="N", help="rows drawn at most, by the seed (default 20000)"
    )
    group.add_argument("--no-texts", action="store_true", help="write no text into the page, row numbers alone")
    options.add_seed(group)
    options.add_encoder(parser)
    options.add_store(parser)
    options.add_output(parser, "FILE.html, with FILE.png beside it; or FILE.png alone", required=True)


def run(args: argparse.Namespace) -> int:
    """Extract features, lay them out, and draw them."""
    from embedkit.artifact import check_file
    from embedkit.errors import require
    from embedkit.evaluation.map import MOST_POINTS, called, features_said, make_map, sampled
    from embedkit.evaluation.projection import ProjectionSettings, project
    from embedkit.runtime.texts import require_texts

    settings = ProjectionSettings(args.method, args.neighbors, args.min_dist, args.seed)
    settings.check_installed("embedkit map")
    require("matplotlib", extra="train", purpose="embedkit map")
    page, picture = _targets(Path(args.output))
    for path in filter(None, (page, picture)):
        check_file(path, overwrite=args.overwrite)
    dataset = options.dataset_of(args)
    require_texts(dataset.kind)
    extractor, classifier = _view(args)
    splits, left_out = sampled(_splits(args, dataset, classifier), args.points or MOST_POINTS, args.seed)
    tell_notes(args, [*dataset.notes, *filter(None, [left_out])])
    vectors, answered = _vectors(args, splits, extractor, classifier)
    say(args, f"laying {len(vectors):,} texts out by {args.method}")
    projection = project(vectors, settings)
    drawn = make_map(
        splits,
        projection,
        title=f"Map of {called(dataset.name)}",
        declared=dataset.declared,
        classifier=classifier,
        answered=answered,
        texts=not args.no_texts,
        about=[features_said(extractor), *filter(None, [left_out])],
    )
    _write(args, drawn, page, picture)
    _tell(args, projection, page, picture)
    return 0


def _write(args: argparse.Namespace, drawn: TextMap, page: Path | None, picture: Path) -> None:
    """Write both files, or none."""
    from embedkit.artifact import check_file, staged_file
    from embedkit.evaluation.map_figure import write_map

    def staged(path: Path) -> AbstractContextManager[IO[bytes]]:
        return staged_file(path, check=lambda: check_file(path, overwrite=args.overwrite))

    with nullcontext() if page is None else staged(page) as html, staged(picture) as png:
        write_map(drawn, html, png)


def _targets(output: Path) -> tuple[Path | None, Path]:
    """Return where the page and the picture go."""
    if output.suffix.lower() not in _ENDINGS:
        raise UsageError(f"{output}: a map is written as {' or '.join(_ENDINGS)}; choose one by the name's ending")
    absolute = output.absolute()
    return (None, absolute) if output.suffix.lower() == ".png" else (absolute, absolute.with_suffix(".png"))


def _view(args: argparse.Namespace) -> tuple[FeatureExtractor, Any]:
    """Return what gives features, and the classifier, if there is one."""
    from embedkit.errors import require

    require("pyarrow", extra="train", purpose="embedkit map")
    if args.artifact is None:
        return options.extractor_of(args, options.settings_of(args), keep_going=True), None
    given = [name for name in _OF_ENCODER if getattr(args, name) != args.parser.get_default(name)]
    if given:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        raise UsageError(f"{args.artifact} says how it reads texts; leave out {flags}")
    from embedkit.runtime.loading import answers_alone
    from embedkit.runtime.manifest import FINETUNED, kind_of, task_of

    folder = Path(args.artifact)
    if answers_alone(folder):
        raise UsageError(
            f"{folder} is an exported folder, which gives answers alone; name the one it was made from"
        )
    if task_of(folder) == "tokens":
        raise UsageError(f"{folder} tags words; a map is of texts")
    moved = None if args.model == args.parser.get_default("model") else args.model
    if kind_of(folder) != FINETUNED:
        classifier = options.trained_of(args, args.artifact, moved)
        return classifier.extractor, classifier
    if moved is not None:
        raise UsageError(f"{folder} is a fine-tuned classifier, which holds its encoder; leave out --model")
    from embedkit.estimators.tuned import load_tuned

    tuned = load_tuned(folder, device=args.device, batch_tokens=args.batch_tokens, threads=args.threads)
    return options.extractor_of(args, options.settings_of(args, model=folder), keep_going=True), tuned


def _splits(args: argparse.Namespace, dataset: Dataset, classifier: Any) -> list[Split]:  # noqa: ANN401
    from embedkit.evaluation.judged import split_to_judge

    if args.split is not None:
        names = [name.strip() for name in args.split.split(",")]
        return [dataset.split(name, columns=False) for name in dict.fromkeys(names)]
    labelled = all(source.roles.label is not None for source in dataset.sources.values())
    if classifier is not None and labelled and (dataset.single or "test" in dataset.sources):
        return [split_to_judge(dataset, None, classifier)]
    return [dataset.split(name, columns=False) for name in dataset.sources]


def _vectors(
    args: argparse.Namespace,
    splits: Sequence[Split],
    extractor: FeatureExtractor,
    classifier: Any,  # noqa: ANN401
) -> tuple[Any, Answered | None]:
    """Return features, (n, D), and what the classifier makes of the texts."""
    import numpy as np

    inputs: list[Text] = [given for split in splits for given in split.inputs]  # type: ignore[misc]
    rows = np.concatenate([split.rows for split in splits])
    kind = "pair" if inputs and isinstance(inputs[0], tuple) else "text"
    with progress(args, len(inputs) * extractor.texts_per_row(kind), "extract") as extractor.progress:
        features = extractor.transform(inputs, rows=rows)
    tell_notes(args, [*extractor.remarks(features.extraction), *extractor.engine_notes])
    if classifier is None:
        return features.vectors, None
    if hasattr(classifier, "answer"):
        return features.vectors, classifier.answer(features.vectors, features.extraction)
    return features.vectors, classifier.predict(inputs, rows=rows)


def _tell(args: argparse.Namespace, projection: Projection, page: Path | None, picture: Path) -> None:
    facts = {
        "points": len(projection.points),
        "method": args.method,
        "neighbors_kept": round(projection.kept, 4),
        "neighbors_by_chance": round(projection.chance, 4),
        "html": None if page is None else str(page),
        "png": str(picture),
    }
    if page is not None and not args.no_texts:
        say(args, "note: the page holds texts of the data: give it to those who may read them (or see --no-texts)")
    if args.json:
        emit(facts)
    else:
        rows = [(name, "-" if value is None else str(value)) for name, value in facts.items()]
        show(table(rows, left=frozenset({0, 1})))
