"""Fine-tuning a model with a head, whatever its task: opening, freezing, keeping states, training."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from embedkit.encoders import ModelFolder
from embedkit.encoders.torch_encoder import takes_types
from embedkit.errors import DataError, ModelError, StoreError
from embedkit.runtime.tokens import Tokenizer
from embedkit.training.loop import Judge, Place, Task, Told, Trained, autocast, compute_of, train
from embedkit.training.losses import Loss
from embedkit.training.model import open_for_training
from embedkit.training.parts import Frozen, PartCount, freeze_parts
from embedkit.training.prefix import States, keep_states, prefix_bytes
from embedkit.training.rows import Readable
from embedkit.training.settings import TuneSettings, usual_rate

_SPARE = 2  # the disk must hold the states this many times


class Padded(Readable, Protocol):
    """Rows whose tokens are padded as `embedkit.training.rows.padded_inputs` does."""

    @property
    def pad_id(self) -> int:
        """What stands after a row's end."""

    @property
    def types(self) -> bool:
        """Whether the model tells token types apart."""


@dataclass(frozen=True, eq=False)
class Material:
    """What a model learns from, and how it is judged.

    Attributes
    ----------
    rows : Padded
    judged : Padded, optional
    loss : Loss
    judge : Judge
    truncated : float
        Share of the training inputs that lost tokens.
    notes : list of str
    reduce : callable, optional
    groups : int, default 1
        As `embedkit.training.loop.Task` has them.
    """

    rows: Padded
    judged: Padded | None
    loss: Loss
    judge: Judge
    truncated: float = 0.0
    notes: list[str] = field(default_factory=list)
    reduce: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    groups: int = 1


@dataclass(frozen=True)
class Watch:
    """Who is told of a training.

    Attributes
    ----------
    told : callable, optional
        Given each row of the history.
    begin : callable, optional
        Given the parts and one line on how training goes, before it does.
    progress : callable, optional
        Told of each finished step.
    """

    told: Told | None = None
    begin: Callable[[tuple[PartCount, ...], str], None] | None = None
    progress: Callable[[int], None] | None = None


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


def tune(
    folder: ModelFolder,
    tokenizer: Tokenizer,
    task: Literal["sequence", "tokens"],
    names: Sequence[str],
    read: Callable[[bool], Material],
    settings: TuneSettings,
    *,
    multi_label: bool = False,
    place: Place | None = None,
    watch: Watch | None = None,
) -> Tuned:
    """Fine-tune a model.

    Parameters
    ----------
    folder : ModelFolder
        The pre-trained encoder.
    tokenizer : Tokenizer
    task : {"sequence", "tokens"}
    names : sequence of str
        Labels, in the order of their codes.
    read : callable
        Given whether the model tells token types apart, returns what it learns from.
    settings : TuneSettings
    multi_label : bool, default False
    place : Place, optional
        Where checkpoints are kept.
    watch : Watch, optional

    Raises
    ------
    UsageError, ModelError, TrainingError
        Of `open_for_training`, `freeze_parts` and `train`.
    DataError
        No row has a token.
    """
    watch = watch or Watch()
    model, kept, fresh = open_for_training(folder, task, names, multi_label=multi_label, seed=settings.seed)
    frozen = freeze_parts(model, settings.freeze, name=folder.resolved.name, fresh=fresh)
    material = read(takes_types(model.config))
    if not material.rows.tokens.content.any():
        raise DataError("no training text holds anything that the tokenizer knows; there is nothing to learn from")
    rate = settings.learning_rate or usual_rate(task, folder.hidden)
    notes = [f"{folder.resolved.name} has a head for these labels, which training goes on from"] if kept else []
    notes += material.notes
    if watch.begin is not None:
        watch.begin(frozen.counts, _line(settings, rate))
    learnt = Task(
        material.loss,
        material.judge,
        folder.resolved.name,
        tokenizer.max_length,
        material.reduce,
        groups=material.groups,
    )
    trained = train(
        model,
        learnt,
        material.rows,
        material.judged,
        frozen,
        settings,
        rate,
        place=place,
        states=_Keeper(model, folder.hidden, material, settings, notes).keep,
        told=watch.told,
        progress=watch.progress,
    )
    return Tuned(trained, frozen.counts, rate, material.truncated, [*notes, *trained.notes])


def _line(settings: TuneSettings, rate: float) -> str:
    """Say what decides and was not said by the user."""
    _, precision = compute_of(settings)
    epochs = f"{settings.epochs:g} {'epoch' if settings.epochs == 1 else 'epochs'}"
    return f"learning rate {rate:g}, {epochs}, batches of {settings.batch_size}, {precision}, seed {settings.seed}"


# ----------------------------------------------------------------------------------------- frozen blocks


class _Keeper:
    """Keeps the states that frozen blocks give, where that pays."""

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - a family's own
        hidden: int,
        material: Material,
        settings: TuneSettings,
        notes: list[str],
    ) -> None:
        self._model, self._hidden, self._rows, self._judged = model, hidden, material.rows, material.judged
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

    def _states(self, frozen: Frozen, rows: Padded, name: str, folder: Path) -> States:
        device, precision = compute_of(self._settings)
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
