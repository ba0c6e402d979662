"""What a training run is told, checked before anything is opened; nothing here imports torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from embedkit.errors import UsageError
from embedkit.training.freezing import Freeze, parse_freeze

When: TypeAlias = Literal["epoch", "steps", "no"]
Cache: TypeAlias = Literal["auto", "on", "off"]
Precision: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
_WHEN, _CACHE, _PRECISIONS = ("epoch", "steps", "no"), ("auto", "on", "off"), (
    "auto",
    "float32",
    "bfloat16",
    "float16",
)  # fmt: skip
_WIDE = 768  # from this hidden size on the lower learning rate is usual
USUAL_RATE = {"sequence": 5e-5, "tokens": 1e-4, "mlm": 1e-4}
WIDE_RATE = 2e-5


@dataclass(frozen=True)
class TuneSettings:
    """How weights are moved.

    Attributes
    ----------
    epochs : float, default 3
        Passes over the training rows.
    batch_size : int, default 16
        Rows of a step on each device.
    learning_rate : float, optional
        Highest of the schedule, which falls linearly. Default: `usual_rate`.
    weight_decay : float, default 0.01
        Of AdamW; biases and norms have none.
    warmup : float, default 0.1
        Share of the steps during which the rate rises; from 1 up their number.
    eval_strategy : {"epoch", "steps", "no"}
        When the validation rows are judged, and a checkpoint is kept.
    eval_steps : int, optional
        For ``"steps"``: how many between two evaluations.
    save_steps : int, optional
        Keep checkpoints every so many steps too.
    metric : str, optional
        By which the best checkpoint is chosen; None for the first of `embedkit.metrics.scores`.
    patience : int, optional
        Stop after so many evaluations without a better one.
    accumulation : int, default 1
        Batches whose gradients make one step.
    checkpointing : bool
        Compute hidden states again in the backward pass instead of keeping them: less memory, more time.
    precision : {"auto", "float32", "bfloat16", "float16"}
        Of matrix products; weights are float32. Auto: bfloat16 where the hardware has it.
    class_weight : None, "balanced" or mapping of label to weight
    label_smoothing : float, default 0
    freeze : int or {"none", "embeddings", "head-only"}
        As `embedkit.training.freezing.parse_freeze` has it.
    cache_prefix : {"auto", "on", "off"}
        Whether the output of frozen blocks is computed once and kept on disk.
    like_lengths : bool, default True
        Whether batches are made of texts of like lengths.
    seed : int, default 42
        Of the head, dropout and the order of rows.
    device : str, default "auto"
    threads : int, optional
        Of the forward and backward pass on a CPU.
    arguments : mapping of str to value
        Anything else that `transformers.TrainingArguments` takes.

    Raises
    ------
    UsageError
        A value is not allowed.
    """

    epochs: float = 3.0
    batch_size: int = 16
    learning_rate: float | None = None
    weight_decay: float = 0.01
    warmup: float = 0.1
    eval_strategy: When = "epoch"
    eval_steps: int | None = None
    save_steps: int | None = None
    metric: str | None = None
    patience: int | None = None
    accumulation: int = 1
    checkpointing: bool = False
    precision: Precision = "auto"
    class_weight: Mapping[str, float] | Literal["balanced"] | None = None
    label_smoothing: float = 0.0
    freeze: Freeze = "none"
    cache_prefix: Cache = "auto"
    like_lengths: bool = True
    seed: int = 42
    device: str = "auto"
    threads: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "freeze", parse_freeze(self.freeze))
        _above_zero("epochs", self.epochs)
        if self.learning_rate is not None:
            _above_zero("learning_rate", self.learning_rate)
        for name in ("batch_size", "accumulation"):
            _count(name, getattr(self, name))
        for name in ("eval_steps", "save_steps", "patience", "threads"):
            if getattr(self, name) is not None:
                _count(name, getattr(self, name))
        for name in ("weight_decay", "warmup"):
            _number(name, getattr(self, name), 0, math.inf)
        _number("label_smoothing", self.label_smoothing, 0, 0.999)
        _one_of("eval_strategy", self.eval_strategy, _WHEN)
        _one_of("cache_prefix", self.cache_prefix, _CACHE)
        _one_of("precision", self.precision, _PRECISIONS)
        if (self.eval_strategy == "steps") != (self.eval_steps is not None):
            raise UsageError("eval_steps and eval_strategy 'steps' belong together; give both or neither")
        if self.eval_strategy == "no":
            for name, what in (("patience", "counts"), ("metric", "chooses among")):
                if getattr(self, name) is not None:
                    raise UsageError(
                        f"{name} {what} evaluations, and eval_strategy is 'no'; give 'epoch' or 'steps'"
                    )
        seed: object = self.seed
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise UsageError(f"seed is {self.seed!r}; it must be a whole number from 0 to {2**32 - 1}")

    def steps(self, rows: int) -> int:
        """Return the steps of a training on so many rows."""
        return int(-(-rows // (self.batch_size * self.accumulation)) * self.epochs)


def usual_rate(task: str, hidden: int) -> float:
    """Return the learning rate of a task (``"sequence"``, ``"tokens"``, ``"mlm"``) for a hidden size."""
    return WIDE_RATE if hidden >= _WIDE and task != "mlm" else USUAL_RATE[task]


def parse_arguments(given: Sequence[str]) -> dict[str, Any]:
    """Read ``name=value`` pairs; a value is JSON where it can be, else a string.

    Raises
    ------
    UsageError
        A pair has no name, or a name stands twice.
    """
    found: dict[str, Any] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip() or name.strip() in found:
            raise UsageError(
                f"--trainer-arg {pair!r}: give name=value, such as lr_scheduler_type=cosine, each once"
            )
        try:
            found[name.strip()] = json.loads(value)
        except (ValueError, RecursionError):
            found[name.strip()] = value
    return found


def _above_zero(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UsageError(f"{name} is {value!r}; it must be above 0")


def _number(name: str, value: object, least: float, most: float) -> None:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not least <= value <= most
        or value != value
    ):
        limit = "" if most == math.inf else f" to {most:g}"
        raise UsageError(f"{name} is {value!r}; it must be a number from {least:g}{limit or ' up'}")


def _count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{name} is {value!r}; it must be a whole number from 1 up")


def _one_of(name: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise UsageError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")
