"""Which rows an int8 graph is chosen and judged on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from embedkit.data import Dataset, LabelCodec, Split, groups_of, holdout
from embedkit.data.labels import sorted_labels
from embedkit.data.schemes import with_iob2
from embedkit.data.splits import has_label_sets
from embedkit.data.text import counted, names_of
from embedkit.errors import DataError, UsageError
from embedkit.evaluation.judged import TRAIN, Classifier, split_to_judge
from embedkit.export.verdict import Rows, Trial
from embedkit.runtime.decide import Thresholds
from embedkit.runtime.entities import OUTSIDE, has_spans, parse_tag
from embedkit.runtime.manifest import TAG_TASK
from embedkit.runtime.model_folder import is_multi_label, labels_of

_SHARE = 0.1  # of train, where there is no validation split
_VALIDATION = "validation"
_HOLDS = {
    (True, False): "lists of words with tags",
    (False, False): "texts with one label each",
    (False, True): "texts with any number of labels",
}
_FIT = 2000  # rows that an encoder's judge is fitted on


class Judgeable(Classifier, Protocol):
    """What a trial asks of a classifier or tagger."""

    @property
    def kind(self) -> str:
        """What it reads: ``"text"``, ``"pair"`` or ``"tokens"``."""


def classifier_trial(
    dataset: Dataset,
    classifier: Judgeable,
    training: Callable[[], Dataset] | None,
    *,
    max_drop: float | None = None,
) -> Trial:
    """Return the rows for a classifier or tagger: its test rows, and others to choose on.

    Parameters
    ----------
    dataset : Dataset
        Labelled. Its test split is judged (`split_to_judge`).
    classifier : Judgeable
    training : callable, optional
        Opens the data that the classifier was trained on, which are asked for rows to choose on if `dataset` has
        neither a validation nor a train split.
    max_drop : float, optional
        Default: `embedkit.export.verdict.MAX_DROP`.

    Raises
    ------
    UsageError
        There are no rows to choose on, or no test split.
    DataError
        Rows are not what the classifier reads.
    """
    _check_kind(dataset, classifier.kind == "tokens")
    test = split_to_judge(dataset, None, classifier)
    seed = int(classifier.about.get("seed", 42))
    choice = _choice(dataset, test, seed)
    if choice is None and training is not None:
        choice = _choice(training(), test, seed)
    if choice is None:
        raise UsageError(
            f"{dataset.name} has no validation and no train split to choose the settings of int8 on; give a "
            "folder with splits to --eval-data"
        )
    codec, told = classifier.codec, classifier.about.get(TAG_TASK, "auto")
    return Trial(_rows(choice, codec, told), _rows(test, codec, told), max_drop)


def task_trial(
    dataset: Dataset,
    config: Mapping[str, Any],
    folder: Path,
    task: str,
    *,
    max_drop: float | None = None,
    tag_task: str = "auto",
) -> Trial:
    """Return the rows for a classifier that transformers trained, whose labels its ``config.json`` names.

    Parameters
    ----------
    dataset : Dataset
    config : mapping
        ``config.json``.
    folder : Path
        What messages call it.
    task : {"sequence", "tokens"}
    max_drop : float, optional
        Default: `embedkit.export.verdict.MAX_DROP`.
    tag_task : str, default "auto"
        What tags stand for, as `embedkit.runtime.entities.has_spans` takes it.

    Raises
    ------
    UsageError, DataError
        As for `classifier_trial` and `held_out_trial`; or the rows are of another kind.
    """
    labels = labels_of(config, folder)
    codec = LabelCodec(labels, "str")
    several = task == "sequence" and is_multi_label(config, labels, folder)
    if task == "sequence" and not dataset.single:
        return classifier_trial(dataset, _Foreign(codec, several), None, max_drop=max_drop)
    _check_kind(dataset, task == "tokens")
    trial = held_out_trial(dataset, codec, max_drop=max_drop, tag_task=tag_task)
    sets = trial.test.true.ndim == 2
    if sets != several:
        raise DataError(
            f"{trial.test.source} holds {_HOLDS[False, sets]}, but the classifier answers for "
            f"{_HOLDS[False, several]}"
        )
    return trial


def _check_kind(dataset: Dataset, tokens: bool) -> None:
    if (dataset.kind == "tokens") != tokens:
        raise DataError(
            f"{dataset.name} holds {_HOLDS[not tokens, False]}, but the classifier answers for "
            f"{_HOLDS[tokens, False]}"
        )


@dataclass(frozen=True)
class _Foreign:
    """What is known of a classifier that others trained."""

    codec: LabelCodec
    multi_label: bool
    kind: str = "text"
    thresholds: Thresholds | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


def held_out_trial(
    dataset: Dataset, codec: LabelCodec, *, max_drop: float | None = None, seed: int = 42, tag_task: str = "auto"
) -> Trial:
    """Return the rows of test, and of validation or a tenth of train; of a single file a fifth is the test.

    `tag_task` is as for `task_trial`.

    Raises
    ------
    UsageError
        There is no test split, or none to choose on.
    """
    splits = dataset.splits(validation_share=_SHARE, seed=seed, columns=False)
    test, choice = splits.get("test"), splits.get(_VALIDATION)
    if test is None or choice is None:
        raise UsageError(
            f"{dataset.name} needs a test split, and a validation or a train split beside it, to judge int8 on"
        )
    return Trial(_rows(choice, codec, tag_task), _rows(test, codec, tag_task), max_drop)


def splits_trial(
    splits: Mapping[str, Split],
    codec: LabelCodec,
    *,
    most: int | None = None,
    seed: int = 42,
    tag_task: str = "auto",
) -> Trial:
    """Return the rows of splits that are in memory: of test, and of validation or a tenth of train.

    `most` is how many are chosen on at most (default: all of these), `tag_task` is as for `task_trial`.
    """
    train, choice = splits[TRAIN], splits.get(_VALIDATION)
    if choice is None:
        labels = None if train.kind == "tokens" else train.labels
        choice = train.take(holdout(labels, groups_of(train.inputs), _SHARE, seed)[1], _VALIDATION)
    if most is not None and len(choice) > most:
        choice = choice.take(np.sort(np.random.default_rng(seed).permutation(len(choice))[:most]))
    return Trial(_rows(choice, codec, tag_task), _rows(splits["test"], codec, tag_task))


def encoder_trial(dataset: Dataset, *, max_drop: float | None = None, seed: int = 42) -> Trial:
    """Return the rows for an encoder: to fit a logistic regression on, to choose on, to judge on.

    Raises
    ------
    UsageError
        There is no train or no test split.
    DataError
        The rows are no labelled texts, or have several labels.
    """
    splits = dataset.splits(validation_share=_SHARE, seed=seed, columns=False)
    for name in (TRAIN, _VALIDATION, "test"):
        split = splits.get(name)
        if split is None or not len(split):
            raise UsageError(f"{dataset.name} has no {name} split; int8 of an encoder is judged by a classifier "
                             "on its vectors, which needs a folder with splits or one file")  # fmt: skip
        if split.kind != "text" or split.labels is None or has_label_sets(split.labels):
            raise DataError(f"{split.source}: int8 of an encoder is judged on texts with one label each")
    train = splits[TRAIN]
    chosen = np.sort(np.random.default_rng(seed).permutation(len(train))[:_FIT])
    codec = LabelCodec.fit(train.labels or [])
    fit, choice, test = (
        _rows(split, codec) for split in (train.take(chosen), splits[_VALIDATION], splits["test"])
    )
    return Trial(choice, test, max_drop, fit)


def _choice(dataset: Dataset, test: Split, seed: int) -> Split | None:
    """Return the validation split, or else a tenth of train; None if there is neither, or all is judged."""
    if dataset.single and test.name not in ("test", _VALIDATION):
        return None
    quiet = replace(dataset, notes=[])
    return quiet.splits(validation_share=_SHARE, seed=seed, columns=False).get(_VALIDATION)


def _rows(split: Split, codec: LabelCodec, tag_task: str = "auto") -> Rows:
    """Return the rows of a labelled split, if training knew any of its labels."""
    labels: Sequence[Any] = split.labels or []
    source = f"{split.source} ({split.name}, {counted(len(split), 'row')})"
    if split.kind == "tokens":
        return _tag_rows(split, codec, tag_task, source)
    several = has_label_sets(labels)
    every = [label for some in labels for label in some] if several else labels
    _check_known(every, codec.classes, source)
    wide = codec.extended(every)
    return Rows(split.inputs, wide.encode_sets(labels) if several else wide.encode(every), len(wide), source)


def _tag_rows(split: Split, codec: LabelCodec, tag_task: str, source: str) -> Rows:
    """Return sentences with their tags, in IOB2 where the tagger's stand for entities."""
    spans = has_spans(codec.names, tag_task)
    converted, _, _ = with_iob2({split.name: split}, "ner" if spans else "pos")
    tags = list(chain.from_iterable(cast("list[list[str]]", converted[split.name].labels)))
    if spans:
        _check_known(_kinds(tags), _kinds(codec.names), source)
    else:
        _check_known(tags, codec.classes, source)
    words = np.array([len(some) for some in split.inputs], np.int64)
    return Rows(split.inputs, np.array(tags, dtype=object), len(codec), source, words, spans)


def _kinds(tags: Sequence[str]) -> list[str]:
    """Return the types of entities that tags stand for."""
    return sorted({parse_tag(tag)[1] for tag in set(tags) if tag != OUTSIDE})


def _check_known(labels: Sequence[Any], known: Sequence[Any], source: str) -> None:
    if labels and not set(labels) & set(known):
        raise DataError(
            f"{source}: its labels are {names_of(sorted_labels(set(labels)))}, and the classifier gives "
            f"{names_of(known)}, so nothing can be judged on it"
        )
