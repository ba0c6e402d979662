"""``embedkit export-onnx``: a classifier, of ours or of transformers, or an encoder, as a folder without torch."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from embedkit.cli import options
from embedkit.cli.output import emit, say, show
from embedkit.errors import DataError, EmbedkitError, InputMissingError, UsageError

if TYPE_CHECKING:
    from embedkit.data import Dataset, Task
    from embedkit.encoders import ModelFolder
    from embedkit.evaluation.trial import Judgeable
    from embedkit.export import Exported, Trial
    from embedkit.export.parity import Input

_ROWS = 4096  # texts that the parity check chooses from
_KINDS = {"text": "texts", "pair": "pairs", "tokens": "lists of words"}
_READS = {"text": ("text",), "pair": ("pair",), "tokens": ("text", "tokens")}  # a tagger splits texts into words


def add(subparsers: options.Subparsers) -> None:
    """Add the command."""
    parser = options.command(
        subparsers, "export-onnx", run, "write a trained classifier or an encoder as an ONNX folder"
    )
    parser.add_argument(
        "folder",
        metavar="DIR|MODEL",
        help="a trained classifier; or a model of transformers, classifier or encoder: minilm, a folder, a hub id",
    )
    parser.add_argument(
        "--task",
        default="auto",
        choices=("auto", "sequence", "tokens", "ner", "pos", "chunk", "encoder"),
        help="what a model of transformers is exported as (default auto: by the architecture in its config.json); "
        "ner, pos or chunk also say which column of a CoNLL file has the tags",
    )
    group = parser.add_argument_group("parity")
    group.add_argument(
        "--parity-data", metavar="DATA", help="whose texts the graph is compared on (default: the training data)"
    )
    group.add_argument("--threads", type=int, metavar="N", help="of the comparison")
    group = parser.add_argument_group("int8")
    group.add_argument(
        "--int8", action="store_true", help="also an int8 graph, published if it holds on labelled rows"
    )
    group.add_argument(
        "--eval-data",
        metavar="DATA",
        help="those rows: its test split judges, its validation split (or a tenth of train) chooses the settings "
        "(default: the training data)",
    )
    group.add_argument(
        "--max-drop",
        type=float,
        metavar="X",
        help="largest loss of accuracy, or of F1 of entities, that is allowed (default 0.01)",
    )
    group = parser.add_argument_group("columns of these data")
    for role in ("text", "pair", "label", "tokens", "tags"):
        group.add_argument(f"--{role}-column", metavar="NAME", help=f"column of the {role}")
    group.add_argument("--label-separator", metavar="S", help='several labels a row, such as ";"')
    parser.add_argument("-m", "--model", help="where the encoder of the classifier is now, if it has moved")
    encoder = parser.add_argument_group("of a model (a trained classifier has its own)")
    encoder.add_argument("--pooling", help="cls, mean, max, last, mean_sqrt_len, pooler, or joins (cls+mean)")
    encoder.add_argument("--normalize", default=None, action=argparse.BooleanOptionalAction, help="to length 1")
    encoder.add_argument("--max-length", type=int, metavar="N", help="most tokens of a text")
    options.add_output(parser, "folder to write", required=True)


def run(args: argparse.Namespace) -> int:
    """Export, compare, publish."""
    from embedkit.artifact import check_replaceable
    from embedkit.runtime.manifest import ENCODER, EXPORTED, FINETUNED, kind_of

    check_replaceable(Path(args.output), args.overwrite)
    _check_int8(args)
    kind = kind_of(Path(args.folder))
    if kind == EXPORTED:
        raise UsageError(f"{args.folder} is an exported folder already")
    makers = {None: _model, ENCODER: _model, FINETUNED: _finetuned}
    exported = makers.get(kind, _classifier)(args)  # which says what any other kind is
    if args.json:
        emit(facts(exported, args.output))
    else:
        report(exported)
        say(args, f"saved in {args.output}; try: embedkit predict {shlex.quote(args.output)} ...")
    return 0 if exported.int8 is None or exported.int8.published else 1


def _check_int8(args: argparse.Namespace) -> None:
    if not args.int8 and (args.eval_data is not None or args.max_drop is not None):
        raise UsageError("--eval-data and --max-drop are about int8; give --int8 too")
    if args.max_drop is not None and not 0 <= args.max_drop < 1:
        raise UsageError(f"--max-drop {args.max_drop:g} is no loss to allow; allowed: from 0 to below 1")


def _classifier(args: argparse.Namespace) -> Exported:
    from embedkit.estimators.frozen import load_frozen
    from embedkit.estimators.frozen_tagger import load_frozen_tagger
    from embedkit.export import Trained, export_classifier
    from embedkit.runtime.manifest import task_of

    _refuse(args, "pooling", "normalize", "max_length", why="is a trained classifier, which is settled")
    _require(args)
    folder = Path(args.folder)
    load = load_frozen_tagger if task_of(folder) == "tokens" else load_frozen
    found = load(folder, model=args.model, store=False, device="cpu", threads=args.threads)
    _check_task(args, found.kind)
    metrics = _metrics(folder)
    inputs = _inputs(args, _READS[found.kind], _training_data(args, metrics))
    trained = Trained(found.extractor, found.head, found.codec, found.kind, found.thresholds, found.about, metrics)
    return export_classifier(
        trained,
        Path(args.output),
        inputs,
        trial=_trial(args, found, metrics) if args.int8 else None,
        overwrite=args.overwrite,
        threads=args.threads,
    )


def _check_task(args: argparse.Namespace, kind: str) -> None:
    """Refuse a task for what was trained here, but for how the tags of data are read."""
    from embedkit.runtime.entities import TAG_TASKS

    if not (kind == "tokens" and args.task in TAG_TASKS):
        _refuse(args, "task", why="is a trained classifier, which is settled")


def _finetuned(args: argparse.Namespace) -> Exported:
    from embedkit.encoders import read_folder
    from embedkit.estimators.tuned import load_tuned
    from embedkit.export import Tuned, export_task_model
    from embedkit.hub import Resolved

    _refuse(args, "pooling", "normalize", "max_length", "model", why="is fine-tuned, which is settled")
    _require(args)
    path = Path(args.folder)
    found = load_tuned(path, device="cpu", threads=args.threads)
    _check_task(args, found.kind)
    metrics = _metrics(path)
    base = found.about.get("base") or {}
    resolved = Resolved(path, str(base.get("name", path)), "folder", base.get("repository"))
    return export_task_model(
        read_folder(resolved),
        "tokens" if found.kind == "tokens" else "sequence",
        Path(args.output),
        _inputs(args, _READS[found.kind], _training_data(args, metrics)),
        max_length=found.tokenizer.max_length,
        tuned=Tuned(found.codec.classes, found.codec.dtype, found.kind, found.about, metrics),
        trial=_trial(args, found, metrics) if args.int8 else None,
        overwrite=args.overwrite,
        threads=args.threads,
    )


def _trial(args: argparse.Namespace, found: Judgeable, metrics: dict[str, Any] | None) -> Trial:
    """Return the rows on which a trained classifier or tagger is judged."""
    from embedkit.evaluation.trial import classifier_trial
    from embedkit.runtime.manifest import TAG_TASK

    before = (metrics or {}).get("settings", {}).get("data")
    known = isinstance(before, str)
    data = before if known and args.eval_data is None else _eval_data(args)
    task = _tag_task(args)
    if task == "auto":
        task = cast("Task", found.about.get(TAG_TASK, "auto"))
    training = (lambda: _labelled(args, before, task)) if known else None
    return classifier_trial(_labelled(args, data, task), found, training, max_drop=args.max_drop)


def _tag_task(args: argparse.Namespace) -> Task:
    """Return what the user says of tags."""
    from embedkit.runtime.entities import TAG_TASKS

    return cast("Task", args.task) if args.task in TAG_TASKS else "auto"


def _model(args: argparse.Namespace) -> Exported:
    """Export a model of transformers, as the task that its configuration or the user names."""
    _require(args)
    from embedkit.encoders import read_folder
    from embedkit.export import export_task_model, task_of_folder
    from embedkit.hub import resolve_model

    if args.model:
        raise UsageError("--model is where the encoder of a classifier is; name a model in place of DIR")
    folder = read_folder(resolve_model(args.folder))
    tag_task = _tag_task(args)
    task = "tokens" if tag_task != "auto" else task_of_folder(folder) if args.task == "auto" else args.task
    if task == "encoder":
        return _encoder(args)
    _refuse(args, "pooling", "normalize", why="is exported as a classifier, which has no pooling to choose")
    kinds = _READS["tokens"] if task == "tokens" else ("text", "pair")
    return export_task_model(
        folder,
        task,
        Path(args.output),
        _inputs(args, kinds, _parity_data(args)),
        max_length=args.max_length,
        tag_task=tag_task,
        trial=_task_trial(args, task, folder) if args.int8 else None,
        overwrite=args.overwrite,
        threads=args.threads,
    )


def _task_trial(args: argparse.Namespace, task: str, folder: ModelFolder) -> Trial:
    """Return the rows on which a classifier of transformers is judged."""
    from embedkit.evaluation.trial import task_trial

    tag_task = _tag_task(args)
    data = _labelled(args, _eval_data(args), tag_task)
    return task_trial(data, folder.config, folder.path, task, max_drop=args.max_drop, tag_task=tag_task)


def _labelled(args: argparse.Namespace, data: str, task: Task = "auto") -> Dataset:
    """Open the labelled data that int8 is judged on."""
    from embedkit.data import open_dataset

    columns = options.columns_of(args)
    return open_dataset(data, columns=columns, task=task, labels="required", missing_text="drop")


def _eval_data(args: argparse.Namespace) -> str:
    if args.eval_data is None:
        raise UsageError(f"it is not known what {args.folder} was trained on; give labelled rows with --eval-data")
    given: str = args.eval_data
    return given


def _encoder(args: argparse.Namespace) -> Exported:
    from embedkit.encoders import EncoderSettings, FeatureExtractor
    from embedkit.export import export_encoder

    settings = EncoderSettings(
        args.folder,
        pooling=args.pooling,
        normalize=args.normalize,
        max_length=args.max_length,
        device="cpu",
        threads=args.threads,
    )
    extractor = FeatureExtractor(settings)
    texts: Any = _inputs(args, ("text",), _parity_data(args))
    trial = None
    if args.int8:
        from embedkit.evaluation.trial import encoder_trial

        trial = encoder_trial(_labelled(args, _eval_data(args)), max_drop=args.max_drop)
    return export_encoder(
        extractor, Path(args.output), texts, trial=trial, overwrite=args.overwrite, threads=args.threads
    )


def _require(args: argparse.Namespace) -> None:
    from embedkit.errors import require

    for module in ("pyarrow", "torch", "onnx", "onnxscript"):
        require(module, extra="train", purpose=f"embedkit {args.command}")


def _refuse(args: argparse.Namespace, *names: str, why: str) -> None:
    given = [name for name in names if getattr(args, name) != args.parser.get_default(name)]
    if given:
        raise UsageError(f"{args.folder} {why}; leave out --{given[0].replace('_', '-')}")


def _parity_data(args: argparse.Namespace) -> str:
    if args.parity_data is None:
        raise UsageError(
            f"it is not known what {args.folder} was trained on; give texts to compare the graph on with "
            "--parity-data FILE"
        )
    given: str = args.parity_data
    return given


def _metrics(folder: Path) -> dict[str, Any] | None:
    """Read the classifier's figures, if it has some; its manifest has vouched for the file."""
    path = folder / "metrics.json"
    if not path.exists():
        return None
    found = json.loads(path.read_bytes())
    return found if isinstance(found, dict) else None


def _training_data(args: argparse.Namespace, metrics: dict[str, Any] | None) -> str:
    """Return the data whose texts the graph is compared on."""
    data = args.parity_data or (metrics or {}).get("settings", {}).get("data")
    return data if isinstance(data, str) else _parity_data(args)


def _inputs(args: argparse.Namespace, kinds: Sequence[str], data: str) -> Sequence[Input]:
    """Read the first inputs of some data, of its train split where there is one."""
    from embedkit.data import Columns, open_dataset

    try:
        columns = Columns(text=args.text_column, pair=args.pair_column, tokens=args.tokens_column)
        dataset = open_dataset(data, columns=columns, labels="none", missing_text="drop")
        if dataset.kind not in kinds:
            read = " or ".join(_KINDS[kind] for kind in kinds)
            raise DataError(f"{data} holds {_KINDS[dataset.kind]}, but {args.folder} reads {read}")
        source = dataset.sources.get("train") or next(iter(dataset.sources.values()))
        inputs: list[Any] = list(islice((text for chunk in source.chunks() for text in chunk.inputs), _ROWS))
        return inputs
    except EmbedkitError as error:
        if args.parity_data is not None:
            raise
        kind = InputMissingError if isinstance(error, InputMissingError) else UsageError
        raise kind(
            f"the data that {args.folder} was trained on cannot be read here ({error}); give texts to compare the "
            "graph on with --parity-data FILE"
        ) from error


def facts(exported: Exported, output: str) -> dict[str, Any]:
    """Return what was written, for programs."""
    judged = {} if exported.int8 is None else {"int8": exported.int8.to_json()}
    return {
        "output": output,
        "bytes": exported.size,
        "parity": exported.parity.to_json(),
        "latency": exported.latency.to_json(),
        **judged,
    }


def report(exported: Exported) -> None:
    """Say what was written, how exact, how fast, and what became of int8."""
    from embedkit.data.text import counted
    from embedkit.export import verdict_text

    parity, latency = exported.parity, exported.latency
    show(
        f"{exported.size / 1e6:.1f} MB in float32; largest difference to torch {parity.difference:.1g} (allowed "
        f"{parity.allowed:.1g}), labels equal, on {parity.texts} texts of {parity.shortest} to {parity.longest} "
        "tokens, alone and in mixed batches"
    )
    show(
        f"one text of {latency.tokens} tokens: {latency.median:.1f} ms (median; p99 {latency.p99:.1f}), "
        f"{counted(latency.threads, 'thread')}"
    )
    if exported.int8 is not None:
        show(verdict_text(exported.int8))
