"""Fine-tuning a classifier of texts or pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedkit.encoders import ModelFolder
from embedkit.metrics.scores import check_metric, running_scores
from embedkit.runtime.decide import decide
from embedkit.runtime.tokens import Text, Tokenizer
from embedkit.training.loop import CHOICE, Judge, Place
from embedkit.training.losses import binary_cross_entropy, class_weights, cross_entropy
from embedkit.training.rows import IGNORED, Rows
from embedkit.training.settings import TuneSettings
from embedkit.training.tuning import Material, Tuned, Watch, tune


@dataclass(frozen=True, eq=False)
class Labelled:
    """Inputs with their labels.

    Attributes
    ----------
    inputs : sequence of str or of (str, str)
    targets : ndarray of int64, shape (n,), or of bool, shape (n, L)
        Codes, -1 for labels that training does not know; or which labels each row has.
    """

    inputs: Sequence[Text]
    targets: NDArray[Any]


def tune_sequence(
    folder: ModelFolder,
    tokenizer: Tokenizer,
    names: Sequence[str],
    data: Labelled,
    validation: Labelled | None,
    settings: TuneSettings,
    *,
    place: Place | None = None,
    watch: Watch | None = None,
) -> Tuned:
    """Fine-tune a model on texts or pairs.

    Parameters
    ----------
    folder, tokenizer, names, settings, place, watch
        As for `embedkit.training.tuning.tune`.
    data : Labelled
    validation : Labelled, optional

    Raises
    ------
    UsageError, ModelError, TrainingError, DataError
        Of `embedkit.training.tuning.tune`.
    """
    several = data.targets.ndim == 2
    metric = check_metric(settings.metric, multi_label=several)

    def read(types: bool) -> Material:
        rows = _rows(tokenizer, data, types)
        judged = _rows(tokenizer, validation, types) if validation is not None and validation.inputs else None
        weights = class_weights(rows.targets, settings.class_weight, names)
        loss = binary_cross_entropy(weights) if several else cross_entropy(weights, settings.label_smoothing)
        truncated = float(rows.tokens.truncated.mean()) if len(rows) else 0.0
        judge = _judge(len(names), metric, several)
        return Material(rows, judged, loss, judge, truncated, _remarks(truncated, tokenizer.max_length))

    return tune(
        folder, tokenizer, "sequence", names, read, settings, multi_label=several, place=place, watch=watch
    )


def _remarks(truncated: float, max_length: int) -> list[str]:
    if truncated < 1:
        return []
    return [
        f"every training text has more than {max_length} tokens and lost some; --max-length raises that, up to "
        "what the model has positions for"
    ]


def _rows(tokenizer: Tokenizer, data: Labelled, types: bool) -> Rows:
    tokens = tokenizer.encode(data.inputs)
    if data.targets.ndim == 2:
        return Rows(tokens, data.targets.astype(np.float32), tokenizer.pad_id, types)
    return Rows(tokens, np.where(data.targets < 0, IGNORED, data.targets), tokenizer.pad_id, types)


def _judge(labels: int, metric: str, several: bool) -> Judge:
    """Return what judges logits; rows whose label training does not know count as errors."""

    def judge(logits: NDArray[Any], targets: NDArray[Any]) -> dict[str, float]:
        if several:
            figures = running_scores(targets > 0, decide(logits, multi_label=True), labels)
        else:
            known = np.where(targets == IGNORED, labels, targets)
            figures = running_scores(known, logits.argmax(axis=1), labels + 1)
        shown = {name: value for name, value in figures.items() if name != "mcc" or labels == 2 or metric == "mcc"}
        return {**{name.replace("-", "_"): value for name, value in shown.items()}, CHOICE: figures[metric]}

    return judge
