"""From labels to figures: codes for every label, those that training never saw behind the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embedkit import metrics
from embedkit.data.labels import Label, LabelCodec


@dataclass(frozen=True, eq=False)
class Judgement:
    """Predictions of one split, judged.

    Attributes
    ----------
    names : tuple of str
        The label of each code: those of training, then those that only the judged rows have.
    true, predicted : numpy.ndarray of int64, shape (n,)
        Codes.
    metrics : dict
        Of `embedkit.metrics.classification`.
    """

    names: tuple[str, ...]
    true: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    metrics: dict[str, Any]

    @property
    def unseen_rows(self) -> int:
        """Number of rows whose true label training never saw."""
        trained = len(self.names) - len(self.metrics["unseen_labels"])
        return int((self.true >= trained).sum())


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
    codec = trained.extended(true_labels)
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
