"""Fine-tuning from splits to a judged classifier, as `finetune` and the comparison run it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from embedkit.data import LabelCodec, Split, groups_of, holdout
from embedkit.data.splits import has_label_sets
from embedkit.data.text import counted
from embedkit.encoders import Extraction, ModelFolder
from embedkit.errors import DataError
from embedkit.estimators.start import Start, base_said, depends_on
from embedkit.estimators.tagging import Reading, told_of_tags
from embedkit.estimators.tuned import TunedClassifier, tuned_said
from embedkit.estimators.tuned_tagger import TunedTagger
from embedkit.evaluation.judged import TRAIN, Entry, check_positive, judged, shown_split
from embedkit.evaluation.plots import learning_figure, save_png
from embedkit.evaluation.report import write_metrics
from embedkit.evaluation.tagged import tag_judged
from embedkit.runtime.tokens import Text
from embedkit.training.loop import Place
from embedkit.training.sequence import Labelled, tune_sequence
from embedkit.training.settings import TuneSettings
from embedkit.training.subtokens import Rule
from embedkit.training.tuning import Tuned, Watch
from embedkit.training.words import WordTags, tune_words

VALIDATION = "validation"
_SHARE = 0.1  # of train, where there is no validation split


@dataclass(eq=False)
class TunedRun:
    """A fine-tuned classifier, judged.

    Attributes
    ----------
    classifier : TunedClassifier or TunedTagger
    base : ModelFolder
        What training began from.
    tuned : Tuned
    judged : dict of str to Judged or TagJudged
        Every labelled split but train.
    seconds : dict of str to float
        Wall time of ``load``, ``tune``, ``evaluate``, ``total``.
    notes : list of str
        What the user should be told.
    """

    classifier: TunedClassifier | TunedTagger
    base: ModelFolder
    tuned: Tuned
    judged: dict[str, Entry] = field(default_factory=dict)
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
    labels = None if train.kind == "tokens" else train.labels
    kept, held = holdout(labels, groups_of(train.inputs), _SHARE, settings.seed)
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
    task: str = "auto",
    trained_on: str | None = None,
    subtokens: Rule = "first",
    place: Place | None = None,
    watch: Watch | None = None,
    final: bool = True,
) -> TunedRun:
    """Fine-tune on ``train`` alone and judge each other labelled split, once.

    Parameters
    ----------
    splits : mapping of str to Split
        Of `with_validation`; tags are those of `embedkit.data.schemes.with_iob2`.
    start : Start
    settings : TuneSettings
    codec : LabelCodec, optional
        Of all labels or tags of train. Default: learnt from them.
    positive : str, optional
        The label, as printed, of the binary figures.
    task : str, default "auto"
        What tags stand for, as `embedkit.runtime.entities.has_spans` takes it.
    trained_on : str, optional
        Fingerprint of the train split as it was read. Default: that of train.
    subtokens : {"first", "all", "continue"}, default "first"
        As for `embedkit.training.words.tune_words`; words alone have some.
    place, watch
        As for `embedkit.training.tuning.tune`.
    final : bool, default True
        False judges the validation split alone: the test split is for the model that is chosen.
    """
    began = time.perf_counter()
    train = splits[TRAIN]
    codec = codec or LabelCodec.fit(train.labels or [])
    check_positive(positive, codec)
    validation = splits.get(VALIDATION) if settings.eval_strategy != "no" else None
    tuned = _tuned(train, validation, start, codec, settings, task, subtokens, place, watch)
    judging = time.perf_counter()
    about = _about(splits, start, settings, tuned, trained_on)
    classifier: TunedClassifier | TunedTagger
    if train.kind == "tokens":
        about["settings"]["label_subtokens"] = subtokens
        about |= told_of_tags(task)
        classifier = TunedTagger(tuned.model, start.tokenizer, codec, about)
    else:
        several = has_label_sets(train.labels)
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
    done: Extraction | Reading
    if isinstance(run.classifier, TunedTagger):
        found = tag_judged(split, run.classifier)
        run.judged[split.name], done = found, found.tagged.extraction
    else:
        predictions = run.classifier.predict(cast("Sequence[Text]", split.inputs), rows=split.rows)
        run.judged[split.name] = judged(split, predictions, run.classifier, positive=positive)
        done = predictions.extraction
    said = run.classifier.remarks(done.rows, done.truncated, done.empty)
    run.notes += [f"{split.name}: {remark}" for remark in said]


def _tuned(
    train: Split,
    validation: Split | None,
    start: Start,
    codec: LabelCodec,
    settings: TuneSettings,
    task: str,
    subtokens: Rule,
    place: Place | None,
    watch: Watch | None,
) -> Tuned:
    folder, tokenizer, names = start.folder, start.tokenizer, codec.names
    if train.kind == "tokens":
        words = None if validation is None else _words(validation)
        return tune_words(
            folder,
            tokenizer,
            names,
            _words(train),
            words,
            settings,
            task=task,
            subtokens=subtokens,
            place=place,
            watch=watch,
        )
    held = None if validation is None else _labelled(validation, codec)
    return tune_sequence(
        folder, tokenizer, names, _labelled(train, codec), held, settings, place=place, watch=watch
    )


def _words(split: Split) -> WordTags:
    return WordTags(cast("list[list[str]]", split.inputs), cast("list[list[str]]", split.labels))


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
        "base": base_said(start.folder),
        "data": data,
        "seed": settings.seed,
        "settings": tuned_said(settings, tuned),
    }
    if tuned.trained.best_step is not None:
        about["tuned_on"] = VALIDATION
    return about


def run_of(
    splits: Mapping[str, Split], start: Start, settings: TuneSettings, subtokens: Rule = "first"
) -> dict[str, Any]:
    """Return all that a run's weights depend on, as `embedkit.training.checkpoints.prepare` compares it."""
    read = {name: splits[name].fingerprint() for name in (TRAIN, VALIDATION) if name in splits}
    return {**depends_on(start, settings, read, free=("cache_prefix",)), "label_subtokens": subtokens}


def write_tuned(
    folder: Path,
    run: TunedRun,
    settings: Mapping[str, Any],
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
    search : mapping, optional
        What was chosen from.
    """
    history = run.tuned.trained.history
    write_metrics(
        folder,
        splits={name: entry.metrics for name, entry in run.judged.items()},
        seconds=run.seconds,
        settings={**settings, **run.classifier.about["settings"]},
        history=history,
        truncated=run.tuned.truncated,
        search=search,
    )
    shown = shown_split(run.judged)
    if shown is not None:
        shown.write(folder)
    if history:
        (folder / "report").mkdir(exist_ok=True)
        title = f"{run.base.resolved.name}: learning curve"
        save_png(
            learning_figure(history, run.tuned.trained.best_step, title=title),
            folder / "report" / "learning_curve.png",
        )
    run.classifier.save(folder, run.base)
