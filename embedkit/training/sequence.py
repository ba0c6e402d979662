"""Fine-tuning a classifier of texts or pairs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedkit.encoders import ModelFolder
from embedkit.encoders.torch_encoder import resolve_device, takes_types
from embedkit.errors import DataError, ModelError, StoreError
from embedkit.metrics.scores import check_metric, running_scores
from embedkit.runtime.decide import decide
from embedkit.runtime.tokens import Text, Tokenizer
from embedkit.training.loop import CHOICE, Judge, Place, Task, Told, Trained, autocast, train, training_precision
from embedkit.training.losses import binary_cross_entropy, class_weights, cross_entropy
from embedkit.training.model import open_for_training
from embedkit.training.parts import Frozen, PartCount, freeze_parts
from embedkit.training.prefix import States, keep_states, prefix_bytes
from embedkit.training.rows import IGNORED, Rows
from embedkit.training.settings import TuneSettings, usual_rate

_SPARE = 2  # the disk must hold the states this many times


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


@dataclass(eq=False)
class Tuned:
    """A fine-tuned model.

    Attributes
    ----------
    trained : Trained
    parts : tuple of PartCount
        What was trained and what was frozen.
    rate : float
        Highest learning rate.
    truncated : float
        Share of the training inputs that lost tokens.
    notes : list of str
    """

    trained: Trained
    parts: tuple[PartCount, ...]
    rate: float
    truncated: float
    notes: list[str] = field(default_factory=list)

    @property
    def model(self) -> Any:  # noqa: ANN401 - a family's own
        """The model, in float32 on the CPU."""
        return self.trained.model


def tune_sequence(
    folder: ModelFolder,
    tokenizer: Tokenizer,
    names: Sequence[str],
    data: Labelled,
    validation: Labelled | None,
    settings: TuneSettings,
    *,
    place: Place | None = None,
    told: Told | None = None,
    begin: Callable[[tuple[PartCount, ...], str], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Tuned:
    """Fine-tune a model on texts or pairs.

    Parameters
    ----------
    folder : ModelFolder
        The pre-trained encoder.
    tokenizer : Tokenizer
    names : sequence of str
        Labels, in the order of their codes.
    data : Labelled
    validation : Labelled, optional
    settings : TuneSettings
    place : Place, optional
        Where checkpoints are kept.
    told : callable, optional
        Given each row of the history.
    begin : callable, optional
        Given the parts and one line on how training goes, before it does.
    progress : callable, optional
        Told of each finished step.

    Raises
    ------
    UsageError, ModelError, TrainingError, DataError
        Of `open_for_training`, `freeze_parts` and `train`; or no row has a token.
    """
    several = data.targets.ndim == 2
    metric = check_metric(settings.metric, multi_label=several)
    model, kept, fresh = open_for_training(folder, "sequence", names, multi_label=several, seed=settings.seed)
    frozen = freeze_parts(model, settings.freeze, name=folder.resolved.name, fresh=fresh)
    types = takes_types(model.config)
    rows = _rows(tokenizer, data, types)
    if not rows.tokens.content.any():
        raise DataError("no training text holds anything that the tokenizer knows; there is nothing to learn from")
    judged = None if validation is None or not len(validation.inputs) else _rows(tokenizer, validation, types)
    weights = class_weights(rows.targets, settings.class_weight, names)
    loss = binary_cross_entropy(weights) if several else cross_entropy(weights, settings.label_smoothing)
    task = Task(loss, _judge(len(names), metric, several), folder.resolved.name, tokenizer.max_length)
    rate = settings.learning_rate or usual_rate("sequence", folder.hidden)
    notes = [f"{folder.resolved.name} has a head for these labels, which training goes on from"] if kept else []
    truncated = float(rows.tokens.truncated.mean())
    if truncated == 1:
        notes.append(
            f"every training text has more than {tokenizer.max_length} tokens and lost some; --max-length raises "
            "that, up to what the model has positions for"
        )
    if begin is not None:
        begin(frozen.counts, _line(settings, rate, _precision(settings)))
    keeper = _Keeper(model, folder.hidden, rows, judged, settings, notes)
    trained = train(
        model,
        task,
        rows,
        judged,
        frozen,
        settings,
        rate,
        place=place,
        states=keeper.keep,
        told=told,
        progress=progress,
    )
    return Tuned(trained, frozen.counts, rate, truncated, [*notes, *trained.notes])


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


def _precision(settings: TuneSettings) -> str:
    return training_precision(settings.precision, resolve_device(settings.device))


def _line(settings: TuneSettings, rate: float, precision: str) -> str:
    """Say what decides and was not said by the user."""
    epochs = f"{settings.epochs:g} {'epoch' if settings.epochs == 1 else 'epochs'}"
    return f"learning rate {rate:g}, {epochs}, batches of {settings.batch_size}, {precision}, seed {settings.seed}"


# ----------------------------------------------------------------------------------------- frozen blocks


class _Keeper:
    """Keeps the states that frozen blocks give, where that pays."""

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - a family's own
        hidden: int,
        rows: Rows,
        judged: Rows | None,
        settings: TuneSettings,
        notes: list[str],
    ) -> None:
        self._model, self._hidden, self._rows, self._judged = model, hidden, rows, judged
        self._settings, self._notes = settings, notes

    def keep(self, frozen: Frozen, folder: Path) -> tuple[States | None, States | None]:
        """Return the states of the training and of the validation rows, computed once; None: not kept."""
        if not frozen.blocks or self._settings.cache_prefix == "off":
            return None, None
        if self._settings.cache_prefix == "on":
            return self._both(frozen, folder)
        try:
            return self._both(frozen, folder) if self._pays(folder) else (None, None)
        except (ModelError, StoreError) as error:
            self._notes.append(f"the output of frozen blocks is not kept: {error}")
            return None, None

    def _both(self, frozen: Frozen, folder: Path) -> tuple[States | None, States | None]:
        kept = [None if rows is None else self._states(frozen, rows, name, folder)
                for name, rows in (("train", self._rows), ("validation", self._judged))]  # fmt: skip
        return kept[0], kept[1]

    def _pays(self, folder: Path) -> bool:
        """Whether states are read more often than they are computed, and the disk has room; says so where not."""
        if self._settings.epochs <= 1:
            return False
        needed = sum(
            prefix_bytes(rows.tokens, self._hidden) for rows in (self._rows, self._judged) if rows is not None
        )
        free = shutil.disk_usage(folder).free
        if needed * _SPARE > free:
            self._notes.append(
                f"the output of frozen blocks is not kept: it takes {needed / 1e9:.1f} GB, and "
                f"{free / 1e9:.1f} GB of the disk are free"
            )
            return False
        return True

    def _states(self, frozen: Frozen, rows: Rows, name: str, folder: Path) -> States:
        device = resolve_device(self._settings.device)
        precision = training_precision(self._settings.precision, device)
        place = folder / f"states-{name}-{os.environ.get('LOCAL_RANK', '0')}.npy"
        return keep_states(
            self._model.to(device),
            frozen,
            rows.tokens,
            place,
            pad_id=rows.pad_id,
            types=rows.types,
            autocast=lambda: autocast(device, precision),
            device=device,
        )
