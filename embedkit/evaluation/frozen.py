"""The frozen path from splits to a judged classifier, as `fit-head`, `demo` and the comparison run it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from embedkit.data import SPLITS, Dataset, LabelCodec, Split, check_splits, require_classes
from embedkit.data.text import name_of, names_of
from embedkit.encoders import Extraction, FeatureExtractor, Features, require_texts
from embedkit.errors import DataError, UsageError
from embedkit.estimators.frozen import FrozenClassifier, Predictions, exact_settings, head_settings
from embedkit.evaluation.judge import Judgement, judge
from embedkit.evaluation.report import write_metrics, write_report
from embedkit.heads import HeadSpec, fit_head
from embedkit.runtime.tokens import Text

TRAIN = "train"


@dataclass(frozen=True, eq=False)
class Judged:
    """A split with what a classifier made of it."""

    split: Split
    predictions: Predictions
    judgement: Judgement


@dataclass(eq=False)
class FrozenRun:
    """A trained classifier, judged.

    Attributes
    ----------
    classifier : FrozenClassifier
    judged : dict of str to Judged
        Every labelled split but train.
    extraction : Extraction
        Over all splits.
    seconds : dict of str to float
        Wall time of ``load``, ``extract``, ``tune`` (0: no weights moved), ``fit``, ``evaluate``, ``total``.
    notes : list of str
        What the user should be told.
    """

    classifier: FrozenClassifier
    judged: dict[str, Judged] = field(default_factory=dict)
    extraction: Extraction = field(default_factory=Extraction)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def truncated(self) -> float:
        """Share of the texts that lost tokens."""
        return self.extraction.truncated / max(1, self.extraction.rows)


def check_training(splits: Mapping[str, Split]) -> list[str]:
    """Check splits before any model is opened; return what is worth saying.

    Raises
    ------
    DataError
        There is no labelled train split of two classes, or rows have several labels.
    UsageError
        The data are lists of words.
    """
    train = splits.get(TRAIN)
    if train is None:
        raise DataError(f"there is no train split; there is {', '.join(splits) or 'nothing'}")
    require_texts(train.kind)
    if train.labels is None:
        raise DataError(f"{train.source}: training needs labels; name their column with --label-column")
    require_classes(train.labels, train.source)
    _require_one_label(train)
    return check_splits(splits)


def _require_one_label(split: Split) -> None:
    if any(isinstance(label, list) for label in split.labels or []):
        raise UsageError(f"{split.source} has several labels a row; this kind of classifier gives one")


def train_frozen(
    splits: Mapping[str, Split],
    extractor: FeatureExtractor,
    spec: HeadSpec,
    *,
    declared: Sequence[str] | None = None,
    positive: str | None = None,
    threads: int | None = None,
) -> FrozenRun:
    """Fit a head on ``train`` alone and judge it on each other labelled split, once.

    Parameters
    ----------
    splits : mapping of str to Split
        Checked by `check_training`.
    extractor : FeatureExtractor
    spec : HeadSpec
    declared : sequence of str, optional
        Labels in the order that the data declare.
    positive : str, optional
        The label, as printed, of the binary figures.
    threads : int, optional
        Of the head's linear algebra.
    """
    start = time.perf_counter()
    train = splits[TRAIN]
    codec = LabelCodec.fit(train.labels or [], declared)
    check_positive(positive, codec)
    features = {name: _features(extractor, split) for name, split in splits.items() if split.labels is not None}
    total = Extraction()
    for part in features.values():
        total += part.extraction
    fitted = fit_head(
        spec,
        features[TRAIN].vectors,
        codec.encode(train.labels or []),
        len(codec),
        names=codec.names,
        threads=threads,
    )
    classifier = FrozenClassifier(extractor, fitted.head, codec, train.kind, _about(spec, splits, fitted.scaled))
    run = FrozenRun(classifier, extraction=total, notes=[*extractor.remarks(total), *fitted.notes])
    before = time.perf_counter()
    for name, split in splits.items():
        if name != TRAIN and split.labels is not None and len(split):
            vectors = features[name].vectors
            codes, probabilities = fitted.head.predict(vectors), fitted.head.predict_proba(vectors)
            predictions = Predictions(codes, probabilities, features[name].extraction)
            run.judged[name] = judged(split, predictions, codec, positive=positive)
    run.seconds = {
        "load": total.load_seconds,
        "extract": total.seconds - total.load_seconds,
        "tune": 0.0,
        "fit": fitted.seconds,
        "evaluate": time.perf_counter() - before,
        "total": time.perf_counter() - start,
    }
    return run


def check_positive(positive: str | None, codec: LabelCodec, labels: Sequence[Any] | None = None) -> None:
    """Raise `UsageError` unless the positive label, as printed, is one of training or of the judged rows."""
    names = codec.names if positive is None else codec.extended(labels or []).names
    if positive is not None and positive not in names:
        raise UsageError(f"positive label {name_of(positive)} is none of {names_of(names)}")


def _features(extractor: FeatureExtractor, split: Split) -> Features:
    return extractor.transform(cast("Sequence[Text]", split.inputs), rows=split.rows)


def _about(spec: HeadSpec, splits: Mapping[str, Split], scaled: bool) -> dict[str, Any]:
    settings = {**head_settings(spec), "scaled": scaled}
    data = {name: {"rows": len(split), "fingerprint": split.fingerprint()} for name, split in splits.items()}
    return {"head_settings": settings, "data": data, "seed": spec.seed}


def judged(split: Split, predictions: Predictions, codec: LabelCodec, *, positive: str | None = None) -> Judged:
    """Judge predictions of a labelled split; labels that training never saw count as errors."""
    labels = cast("list[Any]", split.labels)
    names = codec.decode(predictions.codes).tolist()
    return Judged(split, predictions, judge(labels, names, codec.classes, positive=positive))


def write_run(folder: Path, run: FrozenRun, settings: Mapping[str, Any]) -> None:
    """Write metrics, report, head and manifest to a folder of `embedkit.artifact.staged`.

    Parameters
    ----------
    folder : Path
        Exists and is empty.
    run : FrozenRun
    settings : mapping
        What the run was told, beside the encoder's settings.
    """
    write_metrics(
        folder,
        splits={name: entry.judgement.metrics for name, entry in run.judged.items()},
        seconds=run.seconds,
        settings={**settings, "encoder": vars(exact_settings(run.classifier.extractor))},
        truncated=run.truncated,
    )
    shown = shown_split(run.judged)
    if shown is not None:
        write_judged(folder, shown)
    run.classifier.save(folder)


def shown_split(judged_splits: Mapping[str, Judged]) -> Judged | None:
    """Return the split that the report is about: test, else validation."""
    return judged_splits.get("test") or judged_splits.get("validation")


def write_judged(folder: Path, entry: Judged) -> None:
    """Write `report/` of one split."""
    write_report(
        folder,
        true=entry.judgement.true,
        predicted=entry.judgement.predicted,
        probabilities=entry.predictions.probabilities,
        names=entry.judgement.names,
        inputs=entry.split.inputs,
        rows=entry.split.rows,
        source=f"{entry.split.source} ({entry.split.name})",
        metrics=entry.judgement.metrics,
    )


def split_to_judge(dataset: Dataset, wanted: str | None, about: Mapping[str, Any]) -> Split:
    """Read the split of some data that a classifier is to be judged on.

    Of a single file these are the rows that training held out, if the classifier was trained on the rest of the
    same file; else all of its rows. The data set's notes say which.

    Parameters
    ----------
    dataset : Dataset
    wanted : str, optional
        A split by name. Default: test.
    about : mapping
        `FrozenClassifier.about`.

    Raises
    ------
    UsageError
        There is no such split, or its rows have several labels.
    DataError
        It has no labels.
    """
    if dataset.single and wanted in (None, *SPLITS):
        split = _of_file(dataset, wanted, about)
    else:
        split = dataset.split(wanted or "test", columns=False)
    if split.labels is None:
        raise DataError(f"{split.source}: the split {split.name} has no labels, so nothing can be judged on it")
    _require_one_label(split)
    if split.fingerprint() == _trained_on(about):
        dataset.notes.append(f"{split.source}: these are the rows that the classifier was trained on")
    return split


def _trained_on(about: Mapping[str, Any]) -> str | None:
    """Return the fingerprint of the rows that a classifier was trained on; None where it is not known."""
    fingerprint: str | None = about.get("data", {}).get(TRAIN, {}).get("fingerprint")
    return fingerprint


def _of_file(dataset: Dataset, wanted: str | None, about: Mapping[str, Any]) -> Split:
    parts = replace(dataset, notes=[])
    try:
        splits = parts.splits(seed=int(about.get("seed", 42)), columns=False)
    except DataError:  # too few rows to hold some out, so none were; or a row is wrong, and is said to be below
        if wanted is not None:
            raise
        splits = {}
    if wanted is None and (not splits or splits[TRAIN].fingerprint() != _trained_on(about)):
        (name,) = dataset.sources
        whole = dataset.split(name, columns=False)
        dataset.notes.append(f"{whole.source}: all {len(whole):,} rows are judged")
        return whole
    dataset.notes.extend(parts.notes)
    if (wanted or "test") not in splits:
        raise UsageError(f"{dataset.name} is one file; it has the splits train and test, not {wanted!r}")
    return splits[wanted or "test"]
