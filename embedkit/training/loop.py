"""The training loop: the Trainer of transformers, with our batches, losses, figures and checkpoints.

Checkpoints, resuming, several GPUs under ``accelerate launch`` and schedules are the Trainer's own. Ours are:
batches of like lengths whose order depends on seed and epoch alone, frozen parts without dropout, hidden states
that are not computed twice, and a run that stops where the loss is no number.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch.utils.data import Dataset, Sampler
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalPrediction

from embedkit.encoders.torch_encoder import check_precision, quiet, resolve_device, threads_set
from embedkit.errors import ArtifactError, EmbedkitError, TrainingError, UsageError
from embedkit.training.checkpoints import history_of, newest_whole, seal
from embedkit.training.losses import Loss
from embedkit.training.model import seeded
from embedkit.training.parts import Frozen
from embedkit.training.prefix import States, from_block
from embedkit.training.rows import JUDGED, Readable, reading_order, training_order
from embedkit.training.settings import TuneSettings

Judge: TypeAlias = Callable[[NDArray[Any], NDArray[Any]], dict[str, float]]
"""From logits and targets of all validation rows to figures. ``choice`` is what the best is chosen by; ``nll``
stands for the validation loss where that is not a mean over rows."""
Told: TypeAlias = Callable[[Mapping[str, Any]], None]
CHOICE = "choice"
_NEVER = 10**9  # steps
_KEPT = 3  # checkpoints beside the best: one may be torn, and one is being written
# What is ours to say to the Trainer, and the flag that says it.
_OURS = {
    "output_dir": "--output",
    "num_train_epochs": "--epochs",
    "per_device_train_batch_size": "--batch-size",
    "learning_rate": "--learning-rate",
    "weight_decay": "--weight-decay",
    "warmup_steps": "--warmup",
    "eval_strategy": "--eval-strategy",
    "eval_steps": "--eval-steps",
    "save_steps": "--save-steps",
    "gradient_accumulation_steps": "--accumulation",
    "gradient_checkpointing": "--gradient-checkpointing",
    "activation_checkpointing": "--gradient-checkpointing",
    "label_smoothing_factor": "--label-smoothing",
    "bf16": "--precision",
    "fp16": "--precision",
    "seed": "--seed",
    "data_seed": "--seed",
    "use_cpu": "--device",
    "resume_from_checkpoint": "--resume",
    "metric_for_best_model": "--metric",
    **dict.fromkeys(
        ("greater_is_better", "load_best_model_at_end", "save_strategy", "save_total_limit", "save_only_model",
         "remove_unused_columns", "label_names", "logging_strategy", "disable_tqdm", "train_sampling_strategy",
         "batch_eval_metrics", "eval_do_concat_batches", "prediction_loss_only", "ignore_data_skip",
         "push_to_hub"),
        "",
    ),
}  # fmt: skip


@dataclass(eq=False)
class Trained:
    """A model whose weights were moved.

    Attributes
    ----------
    model : transformers.PreTrainedModel
        With the best weights where there were evaluations, else the last; frozen, on the CPU, in float32.
    history : list of dict
        A row for each evaluation.
    steps : int
        How many were taken, those before an interruption too.
    best_step : int, optional
        The one whose weights were taken, where there was a choice.
    precision : str
        Of matrix products.
    seconds : float
        Wall time of this process's part.
    notes : list of str
    """

    model: Any
    history: list[dict[str, Any]]
    steps: int
    best_step: int | None
    precision: str
    seconds: float
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Place:
    """Where a run keeps its checkpoints.

    Attributes
    ----------
    folder : Path, optional
        None: nothing is kept, and the last weights are taken.
    resume : bool
        Whether to go on from the newest whole checkpoint.
    """

    folder: Path | None = None
    resume: bool = False


@dataclass(frozen=True)
class Task:
    """What is learnt.

    Attributes
    ----------
    loss : Loss
    judge : Judge
    what : str
        What messages call the model.
    max_length : int
        Named where memory is full.
    reduce : callable, optional
        From logits and labels of a batch to what `judge` gets of them, (B, ...): where all logits are too many.
    around : callable, optional
        From the model and its inputs to a context in which it is called.
    beside : object, optional
        Its ``save_pretrained`` writes into each checkpoint what belongs to the model: a tokenizer.
    groups : int, default 1
        How many groups of like lengths make a batch, drawn and computed each by itself; a batch size that they do
        not divide is one group. For rows that teach the more the longer they are: a batch of like lengths would
        hold much or little.
    """

    loss: Loss
    judge: Judge
    what: str
    max_length: int
    reduce: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    around: Callable[[Any, dict[str, Any]], contextlib.AbstractContextManager[Any]] | None = None
    beside: Any = None
    groups: int = 1

    def at_once(self, settings: TuneSettings) -> int:
        """Return how many rows are computed at a time."""
        return settings.batch_size // (1 if settings.batch_size % self.groups else self.groups)


def train(
    model: Any,  # noqa: ANN401 - a family's own
    task: Task,
    rows: Readable,
    validation: Readable | None,
    frozen: Frozen,
    settings: TuneSettings,
    rate: float,
    *,
    place: Place | None = None,
    states: Callable[[Frozen, Path], Sequence[States | None]] | None = None,
    told: Told | None = None,
    progress: Callable[[int], None] | None = None,
) -> Trained:
    """Move a model's weights.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        With a head; its weights are changed in place.
    task : Task
    rows : Readable
    validation : Readable, optional
        Judged as `settings` say; without them nothing is.
    frozen : Frozen
        What of the model stays as it is.
    settings : TuneSettings
    rate : float
        The learning rate.
    place : Place, optional
    states : callable, optional
        Gives the kept states of frozen blocks, of `rows` and of `validation`, in a folder.
    told : callable, optional
        Given each row of the history.
    progress : callable, optional
        Told of each finished step.

    Raises
    ------
    TrainingError
        The loss is no number, or memory is full. Checkpoints that were kept stay.
    UsageError
        A setting is not what the Trainer takes, or the device or precision is not there.
    """
    place = place or Place()
    start = time.perf_counter()
    if settings.checkpointing and not model.supports_gradient_checkpointing:
        raise UsageError(
            f"transformers cannot compute the states of a {model.config.model_type} twice; leave out "
            "--gradient-checkpointing, and lower --batch-size with --accumulation instead"
        )
    check_told(settings)
    with surroundings(model, place, settings) as folder, frozen.still():
        kept = states(frozen, folder) if states is not None else (None, None)
        arguments = arguments_of(
            settings, rate, folder, judged=validation is not None, kept=place, size=task.at_once(settings)
        )
        judged = None if validation is None else _Reading(validation, kept[1])
        trainer = _Trainer(model, arguments, task, frozen, _Reading(rows, kept[0]), judged, settings)
        trainer.watch(told, progress)
        checkpoint, notes = None, list[str]()
        if place.resume:
            checkpoint, notes = newest_whole(folder)
        trainer.run(checkpoint)
        best = trainer.take_best()
        trainer.accelerator.wait_for_everyone()  # the caller may remove the checkpoints
        trainer.unwrap()
    model.to("cpu").eval().requires_grad_(False)
    seconds = time.perf_counter() - start
    _, precision = compute_of(settings)
    return Trained(model, trainer.history.rows, trainer.state.global_step, best, precision, seconds, notes)


def check_told(settings: TuneSettings, otherwise: Mapping[str, str] | None = None) -> None:
    """Check, before a model is opened, what settings ask of the machine and of the Trainer.

    Parameters
    ----------
    settings : TuneSettings
    otherwise : mapping of str to str, optional
        Arguments of the Trainer that a kind of training does not take either, or that it has no flag for, each
        with the flag that says it, or "".

    Raises
    ------
    UsageError
        The device or the precision is not there, or the Trainer takes no such argument.
    """
    compute_of(settings)
    known = {name for name in TrainingArguments.__dataclass_fields__ if not name.startswith("_")}
    ours = {**_OURS, **(otherwise or {})}
    for name in settings.arguments:
        if name in ours:
            hint = f"; use {ours[name]}" if ours[name] else ", which embedkit decides itself"
            raise UsageError(f"--trainer-arg {name} is not taken{hint}")
        if name not in known:
            raise UsageError(f"--trainer-arg {name}: transformers.TrainingArguments has no such argument")


def compute_of(settings: TuneSettings) -> tuple[torch.device, str]:
    """Return the device of a training and the precision of its matrix products.

    The precision ``"auto"`` is bfloat16 where the hardware has it, else float32.

    Raises
    ------
    UsageError
        The device is not there, or would only emulate the precision; or it is float16 on a CPU.
    """
    device = _device_of(settings.device)
    return device, _precision(settings.precision, device)


def _precision(precision: str, device: torch.device) -> str:
    if precision != "auto":
        if precision == "float16" and device.type != "cuda":
            raise UsageError("training in float16 needs a CUDA GPU; use bfloat16 or float32")
        check_precision(precision, device)
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device)[0] >= 8 else "float32"
    has = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return "bfloat16" if has.get("avx512_bf16") or has.get("amx_bf16") else "float32"


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Return a context that computes as the Trainer does in a precision."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bfloat16" else torch.float16)


def _device_of(device: str) -> torch.device:
    found = resolve_device(device)
    if found.type == "cuda" and found.index:
        raise UsageError(
            f"training runs on the first GPU that is visible, not on {device}; choose one with "
            f"CUDA_VISIBLE_DEVICES={found.index} and --device cuda"
        )
    return found


@contextlib.contextmanager
def surroundings(model: Any, place: Place, settings: TuneSettings) -> Iterator[Path]:  # noqa: ANN401 - torch's
    """Set what training changes in a process, and take it back afterwards; yield the folder of the checkpoints."""
    with contextlib.ExitStack() as stack:
        folder = place.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="embedkit-")))
        stack.enter_context(seeded(settings.seed))
        stack.enter_context(_environment_kept())
        stack.enter_context(quiet())
        stack.enter_context(threads_set(settings.threads))
        stack.enter_context(_walked_once(model))
        yield folder


@contextlib.contextmanager
def _walked_once(model: Any) -> Iterator[None]:  # noqa: ANN401 - a family's own
    """Let ``model.train()`` return at once where the model trains already: the Trainer calls it at every step."""

    def train(mode: bool = True) -> Any:  # noqa: ANN401
        return model if model.training is mode else type(model).train(model, mode)

    vars(model)["train"] = train
    try:
        yield
    finally:
        del vars(model)["train"]


@contextlib.contextmanager
def _environment_kept() -> Iterator[None]:
    """Take back what TrainingArguments tells accelerate through the environment."""
    before = {name: value for name, value in os.environ.items() if name.startswith("ACCELERATE_")}
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
            del os.environ[name]
        os.environ.update(before)


def arguments_of(
    settings: TuneSettings,
    rate: float,
    folder: Path,
    *,
    judged: bool,
    kept: Place,
    kind: type[TrainingArguments] = TrainingArguments,
    size: int | None = None,
) -> TrainingArguments:
    """Return what the Trainer is told.

    `judged` says whether there are validation rows; `size` is how many rows are computed at a time, by default a
    whole batch.
    """
    size = size or settings.batch_size
    known = TrainingArguments.__dataclass_fields__
    evaluates = settings.eval_strategy if judged else "no"
    periodic = settings.save_steps if kept.folder is not None else None
    device, precision = compute_of(settings)
    ours: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": size,
        "per_device_eval_batch_size": 2 * settings.batch_size,
        "learning_rate": rate,
        "weight_decay": settings.weight_decay,
        "warmup_steps": settings.warmup,
        "eval_strategy": evaluates,
        "eval_steps": settings.eval_steps if evaluates == "steps" else None,
        "save_strategy": "no" if evaluates == "no" and periodic is None else "steps",
        "save_steps": periodic or _NEVER,
        "save_total_limit": _KEPT,
        "metric_for_best_model": CHOICE if evaluates != "no" else None,
        "greater_is_better": True if evaluates != "no" else None,
        "gradient_accumulation_steps": settings.accumulation * (settings.batch_size // size),
        "bf16": precision == "bfloat16",
        "fp16": precision == "float16",
        "seed": settings.seed,
        "data_seed": settings.seed,
        "use_cpu": device.type == "cpu",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_strategy": "no",
        "logging_nan_inf_filter": False,
        "remove_unused_columns": False,
        "dataloader_pin_memory": device.type == "cuda",
        "label_names": ["labels"],
    }
    if settings.checkpointing:
        name = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
        ours |= {name: True, f"{name}_kwargs": {"use_reentrant": False}}
    try:
        return kind(**{**ours, **settings.arguments})
    except (TypeError, ValueError, ImportError) as error:
        raise UsageError(f"transformers.TrainingArguments: {' '.join(str(error).split())[:300]}") from error


# ------------------------------------------------------------------------------------------------ batches


class _Reading(Dataset[tuple[Any, int]]):
    """Rows by number, which `_collate` makes into a batch."""

    def __init__(self, rows: Readable, states: States | None) -> None:
        self.rows, self.states = rows, states
        self.epoch = JUDGED

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        return self, row


def _collate(items: Sequence[tuple[_Reading, int]]) -> dict[str, torch.Tensor]:
    reading = items[0][0]
    numbers = np.array([row for _, row in items], np.int64)
    given = reading.rows.inputs(numbers, reading.epoch)
    inputs = {name: torch.from_numpy(array) for name, array in given.items()}
    if reading.states is not None:
        inputs["states"] = reading.states.batch(numbers)
    return inputs


class _Order(Sampler[int]):
    """Rows in the order of `training_order`, anew in each epoch."""

    def __init__(self, lengths: NDArray[np.int64], size: int, settings: TuneSettings) -> None:
        self.epoch = 0
        self._lengths, self._size, self._settings = lengths, size, settings

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        told = self._settings
        order = training_order(
            self._lengths, self._size, seed=told.seed, epoch=self.epoch, like_lengths=told.like_lengths
        )
        return iter(order.tolist())


class _Longest(Sampler[int]):
    """Rows in the order of `reading_order`."""

    def __init__(self, lengths: NDArray[np.int64]) -> None:
        self._order = reading_order(lengths).tolist()

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[int]:
        return iter(self._order)


# ------------------------------------------------------------------------------------------------ the loop


class Guarded(Trainer):  # type: ignore[misc]  # transformers has no types for mypy
    """A Trainer whose checkpoints count once they are whole, and that stops where the loss is no number."""

    history: History
    relief = (
        "--batch-size (--accumulation keeps what a step learns from), or --max-length, or give "
        "--gradient-checkpointing"
    )

    def prepare(self, model: Any, settings: TuneSettings, max_length: int) -> None:  # noqa: ANN401
        """Set up before the Trainer's own ``__init__``: it calls back already."""
        self._settings, self._max_length = settings, max_length
        self._learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.history = History(self)

    def settle(self) -> None:
        """Set up after the Trainer's own ``__init__``."""
        if self.args.n_gpu > 1:  # torch's DataParallel; several GPUs are for accelerate launch
            self.args._n_gpu = 1
        self.remove_callback(PrinterCallback)

    def watch(self, told: Told | None, progress: Callable[[int], None] | None) -> None:
        """Report to these from now on."""
        self.history.told, self.history.progress = told, progress

    def run(self, checkpoint: Path | None) -> None:
        """Train to the end, or raise `TrainingError`."""
        if checkpoint is not None:
            self.history.rows, sums = history_of(checkpoint)
            self.history.restore(sums)
        try:
            self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        except Exception as error:  # torch and transformers raise many kinds
            ours = self._translated(error, checkpoint)
            if ours is None:
                raise
            raise ours from error

    def unwrap(self) -> None:
        """Take away what accelerate has put around the model's forward: it would go on to compute in bfloat16."""
        self.accelerator.unwrap_model(self.model_wrapped, keep_fp32_wrapper=False)

    def at_epoch(self, epoch: int) -> None:
        """Do what an epoch begins with."""
        raise NotImplementedError

    def _translated(self, error: Exception, checkpoint: Path | None) -> EmbedkitError | None:
        """Return our error for one that says what a user can do, None for any other."""
        if type(error).__name__ == "UnpicklingError":  # by name: nothing here imports what could read one
            return ArtifactError(
                f"{checkpoint} holds what torch does not read without running code; no training run wrote it; "
                "begin anew with --overwrite"
            )
        if is_memory(error):
            return TrainingError(
                f"out of memory at a batch size of {self._settings.batch_size} and up to "
                f"{self._max_length} tokens a row; lower {self.relief}"
            )
        return None

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:  # noqa: ANN401 - the Trainer's own
        """Take part of a step; stop where the loss is no number."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}; {self._saved()}; lower "
                "--learning-rate, raise --warmup, or take --precision float32"
            )
        self.history.add(loss)
        return loss

    def _clip_grad_norm(self, model: Any) -> Any:  # noqa: ANN401 - as the Trainer has it
        """Clip gradients as the Trainer does; on a CPU those that are short enough are not written anew."""
        if self.args.device.type != "cpu" or self.accelerator.num_processes > 1:
            return super()._clip_grad_norm(model)
        learning = [parameter for parameter in self._learning if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in learning])
        if norm > self.args.max_grad_norm:
            torch.nn.utils.clip_grads_with_norm_(learning, self.args.max_grad_norm, norm)
        return norm

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: nobody asks, and to count them the Trainer walks through all parameters at every step."""
        return 0

    def _saved(self) -> str:
        whole = sorted(
            Path(self.args.output_dir).glob("checkpoint-*/embedkit.json"), key=lambda p: p.stat().st_mtime
        )
        return f"the last good checkpoint is {whole[-1].parent}" if whole else "no checkpoint was kept before"


class _Trainer(Guarded):
    def __init__(
        self,
        model: Any,  # noqa: ANN401
        arguments: TrainingArguments,
        task: Task,
        frozen: Frozen,
        reading: _Reading,
        judged: _Reading | None,
        settings: TuneSettings,
    ) -> None:
        self._task, self._frozen = task, frozen
        self._order = _Order(reading.rows.tokens.lengths, task.at_once(settings), settings)
        self.prepare(model, settings, task.max_length)
        super().__init__(
            model,
            arguments,
            data_collator=_collate,
            processing_class=task.beside,
            train_dataset=reading,
            eval_dataset=judged,
            compute_loss_func=lambda outputs, labels, num_items_in_batch=None: task.loss(
                outputs["logits"], labels, num_items_in_batch
            ),
            compute_metrics=self._judged,
            preprocess_logits_for_metrics=task.reduce,
            callbacks=[self.history],
        )
        self.settle()
        if settings.patience is not None:
            self.add_callback(EarlyStoppingCallback(settings.patience))

    def take_best(self) -> int | None:
        """Put the weights of the best evaluation into the model; return its step, None without a choice."""
        best = self.state.best_global_step
        if not best or self.state.best_model_checkpoint is None:
            return None
        if best != self.state.global_step:
            put_weights(self.model, Path(self.state.best_model_checkpoint))
        return int(best)

    def _get_train_sampler(self, train_dataset: Any = None) -> _Order:  # noqa: ANN401 - as the Trainer has it
        return self._order

    def _get_eval_sampler(self, eval_dataset: Any) -> _Longest:  # noqa: ANN401
        return _Longest(eval_dataset.rows.tokens.lengths)

    def at_epoch(self, epoch: int) -> None:
        """Shuffle for this epoch."""
        self._order.epoch = self.train_dataset.epoch = epoch

    def compute_loss(
        self,
        model: Any,  # noqa: ANN401
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:  # noqa: ANN401 - with the outputs or without
        """Return the loss, from the states of the frozen blocks where they are kept."""
        states = inputs.pop("states", None)
        inner = self.accelerator.unwrap_model(model)
        with contextlib.ExitStack() as stack:
            if states is not None:
                stack.enter_context(from_block(inner, self._frozen, states))
            if self._task.around is not None:
                stack.enter_context(self._task.around(inner, inputs))
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _judged(self, prediction: EvalPrediction) -> dict[str, float]:
        return self._task.judge(np.asarray(prediction.predictions), np.asarray(prediction.label_ids))


def put_weights(model: Any, checkpoint: Path) -> None:  # noqa: ANN401 - a family's own
    """Put the weights of a checkpoint into a model; raise `TrainingError` where some are lacking."""
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(checkpoint.glob("*.safetensors")):
        weights |= load_file(file)
    lacking = model.load_state_dict(weights, strict=False).missing_keys
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    if set(lacking) - tied:
        raise TrainingError(f"{checkpoint} lacks {sorted(set(lacking) - tied)[:3]}")


def is_memory(error: BaseException) -> bool:
    """Whether an error says that memory is full, of a GPU or (a RuntimeError of torch) of the machine."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


class History(TrainerCallback):  # type: ignore[misc]
    """Keeps a row for each evaluation, and makes checkpoints count."""

    def __init__(self, trainer: Guarded) -> None:
        self.rows: list[dict[str, Any]] = []
        self.told: Told | None = None
        self.progress: Callable[[int], None] | None = None
        self._trainer = trainer
        self._sum: torch.Tensor | float = 0.0
        self._steps = 0

    def add(self, loss: torch.Tensor) -> None:
        """Count the loss of a part of a step."""
        self._sum = self._sum + loss.double()

    def restore(self, sums: Mapping[str, Any]) -> None:
        """Go on with the sums of a checkpoint."""
        self._sum, self._steps = float(sums["loss"]), int(sums["steps"])

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Tell the sampler which epoch this is; on going on within one ``state.epoch`` is a fraction above it."""
        self._trainer.at_epoch(int(state.epoch or 0))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Count a step."""
        self._steps += 1
        if args.save_steps == _NEVER:  # evaluations keep one each; the Trainer also wants one at the end
            control.should_save = False
        if self.progress is not None and state.is_world_process_zero:
            self.progress(1)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Keep a row; ask for a checkpoint, which may become the best."""
        figures = {
            name.removeprefix("eval_"): value for name, value in metrics.items() if name.startswith("eval_")
        }
        loss = self._summed() / max(1, self._steps)
        row = {"step": state.global_step, "epoch": round(float(state.epoch), 4), "loss": loss}
        of_batches = figures.pop("loss")
        row |= {"eval_loss": figures.pop("nll", of_batches)}  # a mean over tokens is not one over batches
        row |= {name: value for name, value in figures.items() if name not in _OF_TRAINER}
        self._sum, self._steps = 0.0, 0
        if not all(math.isfinite(value) for value in row.values()):
            raise TrainingError(
                f"the validation loss is {row['eval_loss']} at step {state.global_step}; "
                f"{self._trainer._saved()}; lower --learning-rate, or take --precision float32"
            )
        self.rows.append(row)
        control.should_save = True
        if self.told is not None and state.is_world_process_zero:
            self.told(row)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Make the checkpoint count, unless its weights are no numbers: the loss would tell a step too late."""
        summed = self._summed()
        if not all(bool(torch.isfinite(weight).all()) for weight in self._trainer.model.parameters()):
            raise TrainingError(
                f"weights are no numbers any more after step {state.global_step}; {self._trainer._saved()}; lower "
                "--learning-rate, raise --warmup, or take --precision float32"
            )
        self._trainer.accelerator.wait_for_everyone()  # each process keeps its random state in the checkpoint
        if state.is_world_process_zero:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            seal(checkpoint, self.rows, {"loss": summed, "steps": self._steps})

    def _summed(self) -> float:
        """Return the sum of the losses of all processes' parts of each step."""
        if not isinstance(self._sum, torch.Tensor):
            return self._sum
        return float(self._trainer.accelerator.gather(self._sum.reshape(1)).mean())


_OF_TRAINER = frozenset({CHOICE, "runtime", "samples_per_second", "steps_per_second", "model_preparation_time"})
