"""Fine-tuning from splits to a judged classifier, as `finetune` and the comparison run it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from embedkit.data import LabelCodec, Split, groups_of, holdout
from embedkit.data.splits import has_label_sets
from embedkit.data.text import counted
from embedkit.encoders import ModelFolder
from embedkit.errors import DataError, UsageError
from embedkit.estimators.start import Start, base_said, settings_said
from embedkit.estimators.tuned import TunedClassifier
from embedkit.evaluation.judged import TRAIN, Judged, check_positive, judged, shown_split, write_judged
from embedkit.evaluation.plots import learning_figure, save_png
from embedkit.evaluation.report import write_metrics
from embedkit.runtime.tokens import Text
from embedkit.training.loop import Place, Told
from embedkit.training.parts import PartCount
from embedkit.training.sequence import Labelled, Tuned, tune_sequence
from embedkit.training.settings import TuneSettings

VALIDATION = "validation"
_SHARE = 0.1  # of train, where there is no validation split
_ALIKE = 64  # inputs on which transformers' tokenizer is compared with ours


@dataclass(eq=False)
class TunedRun:
    """A fine-tuned classifier, judged.

    Attributes
    ----------
    classifier : TunedClassifier
    base : ModelFolder
        What training began from.
    tuned : Tuned
    judged : dict of str to Judged
        Every labelled split but train.
    seconds : dict of str to float
        Wall time of ``load``, ``tune``, ``evaluate``, ``total``.
    notes : list of str
        What the user should be told.
    """

    classifier: TunedClassifier
    base: ModelFolder
    tuned: Tuned
    judged: dict[str, Judged] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def with_validation(splits: Mapping[str, Split], settings: TuneSettings) -> tuple[dict[str, Split], list[str]]:
    """Return splits with rows to judge training by: a tenth of train where there is no labelled validation split.

    Nothing is held out where training is not judged (``eval_strategy`` "no").

    Raises
    ------
    DataError
        Train is too small, or the validation split has no labels.
    """
    found = dict(splits)
    there = found.get(VALIDATION)
    if there is not None and there.labels is None:
        raise DataError(
            f"{there.source}: the validation split has no labels, so training cannot be judged on it; label it, "
            "or leave it out"
        )
    if settings.eval_strategy == "no" or (there is not None and len(there)):
        return found, []
    train = found[TRAIN]
    kept, held = holdout(train.labels, groups_of(train.inputs), _SHARE, settings.seed)
    found[TRAIN], found[VALIDATION] = train.take(kept), train.take(held, VALIDATION)
    said = f"{train.source}: {counted(len(held), 'row')} of train are held out to judge training by"
    return found, [f"{said} (--eval-strategy no trains on all)"]


def finetune(
    splits: Mapping[str, Split],
    start: Start,
    settings: TuneSettings,
    *,
    codec: LabelCodec | None = None,
    positive: str | None = None,
    trained_on: str | None = None,
    place: Place | None = None,
    told: Told | None = None,
    begin: Callable[[tuple[PartCount, ...], str], None] | None = None,
    progress: Callable[[int], None] | None = None,
    final: bool = True,
) -> TunedRun:
    """Fine-tune on ``train`` alone and judge each other labelled split, once.

    Parameters
    ----------
    splits : mapping of str to Split
        Of `with_validation`.
    start : Start
    settings : TuneSettings
    codec : LabelCodec, optional
        Of all labels of train. Default: learnt from them.
    positive : str, optional
        The label, as printed, of the binary figures.
    trained_on : str, optional
        Fingerprint of the train split as it was read. Default: that of train.
    place, told, begin, progress
        As for `embedkit.training.sequence.tune_sequence`.
    final : bool, default True
        False judges the validation split alone: the test split is for the model that is chosen.
    """
    began = time.perf_counter()
    train = splits[TRAIN]
    codec = codec or LabelCodec.fit(train.labels or [])
    check_positive(positive, codec)
    several = has_label_sets(train.labels)
    validation = splits.get(VALIDATION) if settings.eval_strategy != "no" else None
    held = None if validation is None else _labelled(validation, codec)
    tuned = tune_sequence(
        start.folder,
        start.tokenizer,
        codec.names,
        _labelled(train, codec),
        held,
        settings,
        place=place,
        told=told,
        begin=begin,
        progress=progress,
    )
    judging = time.perf_counter()
    about = _about(splits, start, settings, tuned, trained_on)
    classifier = TunedClassifier(tuned.model, start.tokenizer, codec, train.kind, several, about)
    classifier.device, classifier.threads = settings.device, settings.threads
    run = TunedRun(classifier, start.folder, tuned, notes=list(tuned.notes))
    if is_main() and VALIDATION in splits:
        _judge(run, splits[VALIDATION], positive)
    if final:
        judge_rest(run, splits, positive)
    done = time.perf_counter()
    run.seconds = {
        "load": judging - began - tuned.trained.seconds,
        "extract": 0.0,
        "tune": tuned.trained.seconds,
        "fit": 0.0,
        "evaluate": done - judging,
        "total": done - began,
    }
    return run


def judge_rest(run: TunedRun, splits: Mapping[str, Split], positive: str | None) -> None:
    """Judge the labelled splits that were neither trained on nor chosen by, once."""
    for name in splits if is_main() else ():
        if name not in (TRAIN, VALIDATION):
            _judge(run, splits[name], positive)


def is_main() -> bool:
    """Whether this is the process that judges and writes, of those that ``accelerate launch`` starts."""
    return os.environ.get("RANK", "0") == "0"


def _judge(run: TunedRun, split: Split, positive: str | None) -> None:
    if split.labels is None or not len(split):
        return
    predictions = run.classifier.predict(cast("Sequence[Text]", split.inputs), rows=split.rows)
    done = predictions.extraction
    said = run.classifier.remarks(done.rows, done.truncated, done.empty)
    run.notes += [f"{split.name}: {remark}" for remark in said]
    run.judged[split.name] = judged(split, predictions, run.classifier, positive=positive)


def _labelled(split: Split, codec: LabelCodec) -> Labelled:
    labels: Any = split.labels or []
    known = "error" if split.name == TRAIN else "mark"
    if has_label_sets(labels):
        return Labelled(cast("Sequence[Text]", split.inputs), codec.encode_sets(labels, unknown=known))  # type: ignore[arg-type]
    return Labelled(cast("Sequence[Text]", split.inputs), codec.encode(labels, unknown=known))  # type: ignore[arg-type]


def _about(
    splits: Mapping[str, Split], start: Start, settings: TuneSettings, tuned: Tuned, trained_on: str | None
) -> dict[str, Any]:
    """Return what the manifest says of the training."""
    data = {name: {"rows": len(split), "fingerprint": split.fingerprint()} for name, split in splits.items()}
    data[TRAIN]["fingerprint"] = trained_on or data[TRAIN]["fingerprint"]
    about: dict[str, Any] = {
        "base": base_said(start),
        "data": data,
        "seed": settings.seed,
        "settings": settings_said(settings, tuned),
    }
    if tuned.trained.best_step is not None:
        about["tuned_on"] = VALIDATION
    return about


def run_of(splits: Mapping[str, Split], start: Start, settings: TuneSettings) -> dict[str, Any]:
    """Return all that a run's weights depend on, as `embedkit.training.checkpoints.prepare` compares it."""
    free = ("device", "threads", "cache_prefix")
    said = {name: value for name, value in asdict(settings).items() if name not in free}
    read = [name for name in (TRAIN, VALIDATION) if name in splits]
    return {
        **said,
        "data": {name: splits[name].fingerprint() for name in read},
        "model": start.digests(),
        "max_length": start.tokenizer.max_length,
        "side": start.tokenizer.side,
    }


def write_tuned(
    folder: Path,
    run: TunedRun,
    settings: Mapping[str, Any],
    inputs: Sequence[Text],
    search: Mapping[str, Any] | None = None,
) -> None:
    """Write model, figures, report and manifest to a folder of `embedkit.artifact.staged`.

    Parameters
    ----------
    folder : Path
        Exists and is empty.
    run : TunedRun
    settings : mapping
        What the run was told, beside its training settings.
    inputs : sequence of str or of (str, str)
        Of train.
    search : mapping, optional
        What was chosen from.
    """
    history = run.tuned.trained.history
    write_metrics(
        folder,
        splits={name: entry.judgement.metrics for name, entry in run.judged.items()},
        seconds=run.seconds,
        settings={**settings, **run.classifier.about["settings"]},
        history=history,
        truncated=run.tuned.truncated,
        search=search,
    )
    shown = shown_split(run.judged)
    if shown is not None:
        write_judged(folder, shown)
    if history:
        (folder / "report").mkdir(exist_ok=True)
        title = f"{run.base.resolved.name}: learning curve"
        save_png(
            learning_figure(history, run.tuned.trained.best_step, title=title),
            folder / "report" / "learning_curve.png",
        )
    run.classifier.save(folder, run.base, inputs[:_ALIKE])


def check_metric_needs(settings: TuneSettings) -> None:
    """Raise `UsageError` for what chooses where nothing is judged."""
    if settings.eval_strategy == "no" and settings.metric is not None:
        raise UsageError("--metric chooses the best evaluation, and --eval-strategy no asks for none")
