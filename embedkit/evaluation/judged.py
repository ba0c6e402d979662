"""Answers of a classifier judged on labelled rows, and which rows those are; no encoder is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from embedkit.data import SPLITS, Dataset, LabelCodec, Split
from embedkit.data.splits import has_label_sets
from embedkit.data.text import name_of, names_of
from embedkit.errors import DataError, UsageError
from embedkit.evaluation.judge import Judgement, judge, judge_sets
from embedkit.evaluation.report import classification_text, write_report
from embedkit.metrics import expected_calibration
from embedkit.runtime.decide import Thresholds

TRAIN = "train"
TUNING = ("base", "few_shot")  # what a manifest says of how its encoder was tuned


class Answered(Protocol):
    """Answers in input order, as `embedkit.estimators.frozen.Predictions` has them."""

    @property
    def codes(self) -> NDArray[Any]:
        """Classes, or which labels each row has."""

    @property
    def probabilities(self) -> NDArray[np.floating[Any]] | None:
        """One a class or label, where there are some."""


class Classifier(Protocol):
    """What judging asks of a classifier, trained or exported."""

    @property
    def codec(self) -> LabelCodec:
        """Its labels."""

    @property
    def multi_label(self) -> bool:
        """Whether a text has any number of them."""

    @property
    def thresholds(self) -> Thresholds | None:
        """What decides instead of the most probable class."""

    @property
    def about(self) -> Mapping[str, Any]:
        """What its manifest says of the training."""


class Entry(Protocol):
    """A split that was judged, whatever the task."""

    @property
    def split(self) -> Split:
        """Its rows."""

    @property
    def metrics(self) -> dict[str, Any]:
        """Its figures, ready for JSON."""

    def text(self) -> str:
        """Return its figures as a table."""

    def write(self, folder: Path, *, pictures: bool = True) -> None:
        """Write `report/`; `pictures` need matplotlib."""


@dataclass(frozen=True, eq=False)
class Judged:
    """A split with what a classifier made of it."""

    split: Split
    predictions: Answered
    judgement: Judgement

    @property
    def metrics(self) -> dict[str, Any]:
        """Its figures, ready for JSON."""
        return self.judgement.metrics

    @property
    def source(self) -> str:
        """Where its rows are from, as printed."""
        return f"{self.split.source} ({self.split.name})"

    def text(self) -> str:
        """Return its figures as a table."""
        return classification_text(self.metrics, self.judgement.names, self.source)

    def write(self, folder: Path, *, pictures: bool = True) -> None:
        """Write `report/`; `pictures` need matplotlib."""
        write_report(
            folder,
            true=self.judgement.true,
            predicted=self.judgement.predicted,
            probabilities=self.predictions.probabilities,
            names=self.judgement.names,
            inputs=self.split.inputs,
            rows=self.split.rows,
            source=self.source,
            metrics=self.metrics,
            pictures=pictures,
        )


def judged(split: Split, predictions: Answered, classifier: Classifier, *, positive: str | None = None) -> Judged:
    """Judge predictions of a labelled split; labels that training never saw count as errors."""
    labels, codec = cast("list[Any]", split.labels), classifier.codec
    if classifier.multi_label:
        judgement = judge_sets(labels, codec.decode_sets(predictions.codes), codec.classes)
    else:
        names = codec.decode(predictions.codes).tolist()
        judgement = judge(labels, names, codec.classes, positive=positive)
    if classifier.thresholds is not None:
        judgement.metrics["thresholds"] = classifier.thresholds.to_json()
    if classifier.about.get("head_settings", {}).get("calibrate") and predictions.probabilities is not None:
        judgement.metrics["calibration"] = {"after": believed(judgement, predictions.probabilities)}
    if tuned_on(classifier.about) == split.fingerprint():
        judgement.metrics["used_to_tune"] = True
    return Judged(split, predictions, judgement)


def believed(judgement: Judgement, probabilities: NDArray[Any]) -> dict[str, Any]:
    """Say how far probabilities of the labels that were trained could be believed."""
    true = judgement.true
    return expected_calibration(true[:, : probabilities.shape[1]] if true.ndim == 2 else true, probabilities)


def check_positive(positive: str | None, codec: LabelCodec, labels: Sequence[Any] | None = None) -> None:
    """Raise `UsageError` unless the positive label, as printed, is one of training or of the judged rows."""
    names = codec.names if positive is None else codec.extended(labels or []).names
    if positive is not None and positive not in names:
        raise UsageError(f"positive label {name_of(positive)} is none of {names_of(names)}")


def shown_split(judged_splits: Mapping[str, Entry]) -> Entry | None:
    """Return the split that the report is about: test, else validation."""
    return judged_splits.get("test") or judged_splits.get("validation")


def split_to_judge(dataset: Dataset, wanted: str | None, classifier: Classifier) -> Split:
    """Read the split of some data that a classifier is to be judged on.

    Of a single file these are the rows that training held out, if the classifier was trained on the rest of the
    same file; else all of its rows. The data set's notes say which.

    Parameters
    ----------
    dataset : Dataset
    wanted : str, optional
        A split by name. Default: test.
    classifier : Classifier

    Raises
    ------
    UsageError
        There is no such split.
    DataError
        It has no labels, or several a row where the classifier gives one, or the other way round.
    """
    about = classifier.about
    if dataset.single and wanted in (None, *SPLITS):
        split = _of_file(dataset, wanted, about)
    else:
        split = dataset.split(wanted or "test", columns=False)
    if split.labels is None:
        raise DataError(f"{split.source}: the split {split.name} has no labels, so nothing can be judged on it")
    if split.kind != "tokens" and len(split) and has_label_sets(split.labels) != classifier.multi_label:
        kinds = ("one label a row", "several labels a row")
        raise DataError(
            f"{split.source} has {kinds[not classifier.multi_label]}, but this classifier gives "
            f"{kinds[classifier.multi_label]}"
        )
    if split.fingerprint() in fingerprints_of(about):
        dataset.notes.append(f"{split.source}: these are the rows that the classifier was trained on")
    return split


def tuned_on(about: Mapping[str, Any]) -> str | None:
    """Return the fingerprint of the validation rows that calibration, thresholds or a best step are from."""
    if (about.get("tuned_on") or about.get("head_settings", {}).get("tuned_on")) != "validation":
        return None
    fingerprint: str | None = about.get("data", {}).get("validation", {}).get("fingerprint")
    return fingerprint


def fingerprints_of(about: Mapping[str, Any]) -> list[str]:
    """Return the fingerprints of the train splits that a classifier was trained on, those that are known."""
    train = about.get("data", {}).get(TRAIN, {})
    earlier = train.get("earlier_fingerprints")
    known = [*(earlier if isinstance(earlier, list) else []), train.get("fingerprint")]
    return [fingerprint for fingerprint in known if isinstance(fingerprint, str)]


def _of_file(dataset: Dataset, wanted: str | None, about: Mapping[str, Any]) -> Split:
    parts = replace(dataset, notes=[])
    try:
        splits = parts.splits(seed=int(about.get("seed", 42)), columns=False)
    except DataError:  # too few rows to hold some out, so none were; or a row is wrong, and is said to be below
        if wanted is not None:
            raise
        splits = {}
    if wanted is None and (not splits or splits[TRAIN].fingerprint() not in fingerprints_of(about)):
        (name,) = dataset.sources
        whole = dataset.split(name, columns=False)
        dataset.notes.append(f"{whole.source}: all {len(whole):,} rows are judged")
        return whole
    dataset.notes.extend(parts.notes)
    if (wanted or "test") not in splits:
        raise UsageError(f"{dataset.name} is one file; it has the splits train and test, not {wanted!r}")
    return splits[wanted or "test"]
