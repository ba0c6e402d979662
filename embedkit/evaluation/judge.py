"""From labels to figures: codes for every label, those that training never saw behind the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embedkit import metrics
from embedkit.data.labels import LabelCodec
from embedkit.data.text import name_of
from embedkit.errors import DataError
from embedkit.runtime.decide import Label


@dataclass(frozen=True, eq=False)
class Judgement:
    """Predictions of one split, judged.

    Attributes
    ----------
    names : tuple of str
        The label of each code or column: those of training, then those that only the judged rows have.
    true, predicted : numpy.ndarray
        Codes, int64 of shape (n,); or, where a row may have several labels, whether it has each, bool of shape
        (n, labels).
    metrics : dict
        Of `embedkit.metrics.classification` or `embedkit.metrics.multilabel`.
    """

    names: tuple[str, ...]
    true: npt.NDArray[Any]
    predicted: npt.NDArray[Any]
    metrics: dict[str, Any]

    @property
    def multi_label(self) -> bool:
        """Whether a row may have several labels."""
        return self.true.ndim == 2

    @property
    def unseen_rows(self) -> int:
        """Number of rows with a true label that training never saw."""
        trained = len(self.names) - len(self.metrics["unseen_labels"])
        unseen = self.true[:, trained:].any(axis=1) if self.multi_label else self.true >= trained
        return int(unseen.sum())


def extended_codec(trained: LabelCodec, labels: Iterable[Any], where: str = "the data") -> LabelCodec:
    """Return a codec with the labels that training never saw behind those that it saw.

    Raises
    ------
    DataError
        They are strings and training had numbers, or the like: no label would ever be the same.
    """
    codec = trained.extended(labels)
    kinds = list(dict.fromkeys(map(_kind, codec.classes)))
    if len(kinds) > 1:
        raise DataError(
            f"labels are {kinds[0]} in training and {kinds[1]} in {where} ({name_of(codec.classes[-1])}); write "
            "them in one way"
        )
    return codec


def _kind(label: Label) -> str:
    return "strings" if isinstance(label, str) else "booleans" if isinstance(label, bool) else "numbers"


def judge(
    true_labels: Sequence[Label],
    predicted_labels: Sequence[Label],
    train_labels: Sequence[Label],
    *,
    positive: str | None = None,
    resamples: int = 1000,
    seed: int = 42,
) -> Judgement:
    """Judge predicted labels against true ones.

    Parameters
    ----------
    true_labels : sequence of label, length n
        May hold labels that training never saw: their rows count as errors.
    predicted_labels : sequence of label, length n
        All of `train_labels`.
    train_labels : sequence of label
        The classes of the model in the order of its codes.
    positive : str, optional
        The label, as printed, whose precision, recall and F1 are given at the top level.
    resamples, seed : int
        Of the bootstrap of the macro F1 interval.

    Returns
    -------
    Judgement
        Codes, names and figures.

    Raises
    ------
    DataError
        If there are no rows, lengths differ, or a predicted label is no class of the model.
    UsageError
        If `positive` is no label.
    """
    trained = LabelCodec(tuple(train_labels))
    codec = extended_codec(trained, true_labels)
    true, predicted = codec.encode(true_labels), trained.encode(predicted_labels)
    figures = metrics.classification(
        true,
        predicted,
        codec.names,
        positive=positive,
        trained=len(trained),
        resamples=resamples,
        seed=seed,
    )
    return Judgement(codec.names, true, predicted, figures)


def judge_sets(
    true_sets: Sequence[Sequence[Label]],
    predicted_sets: Sequence[Sequence[Label]],
    train_labels: Sequence[Label],
    *,
    resamples: int = 1000,
    seed: int = 42,
) -> Judgement:
    """Judge predictions of several labels a row, or none, against true ones.

    Parameters
    ----------
    true_sets : sequence of sequence of label, length n
        May hold labels that training never saw: each becomes a column behind the others, and each of its rows
        a miss.
    predicted_sets : sequence of sequence of label, length n
        All of `train_labels`.
    train_labels : sequence of label
        The labels of the model in the order of its columns.
    resamples, seed : int
        Of the bootstrap of the F1 intervals.

    Returns
    -------
    Judgement
        Boolean matrices, names and figures.

    Raises
    ------
    DataError
        If there are no rows, lengths differ, or a predicted label is none of the model's.
    """
    trained = LabelCodec(tuple(train_labels))
    codec = extended_codec(trained, true_sets)
    true, predicted = codec.encode_sets(true_sets), trained.encode_sets(predicted_sets)
    unseen = np.zeros((len(predicted), len(codec) - len(trained)), dtype=np.bool_)
    predicted = np.hstack([predicted, unseen])
    figures = metrics.multilabel(
        true, predicted, codec.names, trained=len(trained), resamples=resamples, seed=seed
    )
    return Judgement(codec.names, true, predicted, figures)
