"""What a comparison is told: methods, sizes, seeds, data, and how it is chosen from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from embedkit.data import LabelCodec, Split
from embedkit.data.splits import has_label_sets
from embedkit.encoders import EncoderSettings
from embedkit.errors import DataError, UsageError
from embedkit.evaluation.compare.result import Method
from embedkit.evaluation.judged import TRAIN
from embedkit.metrics.choice import MARGIN, Cost
from embedkit.runtime.entities import has_spans


@dataclass(frozen=True, eq=False)
class Plan:
    """What is compared, on what, and how it is chosen from.

    Attributes
    ----------
    methods : sequence of Method
    shots : sequence of (int or None)
        Sizes: rows a class (of words with tags sentences), None for all of train; ascending.
    seeds : sequence of int
    splits : mapping of str to Split
        ``train``, and ``test`` or ``validation``; tags are those of `embedkit.data.schemes.with_iob2`.
    usual : EncoderSettings
        The encoder of methods that name no other.
    declared : sequence of str, optional
        Labels in the order that the data declare.
    task : str, default "auto"
        What tags stand for, as `embedkit.runtime.entities.has_spans` takes it.
    metric : {"accuracy", "macro_f1", "f1"}, optional
        What methods are compared by. Default: F1 of entities; macro F1 where rows have several labels; else
        accuracy.
    budget : float, optional
        Seconds for all cells that are not finished yet; what does not fit is left out. Default: no limit.
    margin : float, default 0.01
        Loss against the best that is allowed.
    cost : {"serve", "train"}
    served : bool, default True
        Whether it is measured how methods are served.
    resamples : int, default 2000
        At least; 100 for each pair of methods at a size where that is more.
    """

    methods: Sequence[Method]
    shots: Sequence[int | None]
    seeds: Sequence[int]
    splits: Mapping[str, Split]
    usual: EncoderSettings
    declared: Sequence[str] | None = None
    task: str = "auto"
    metric: str | None = None
    budget: float | None = None
    margin: float = MARGIN
    cost: Cost = "serve"
    served: bool = True
    resamples: int = 2000

    def __post_init__(self) -> None:
        if not self.methods or not self.shots or not self.seeds:
            raise UsageError("a comparison needs a method, a size and a seed at least")
        if not 0 <= self.margin < 1:
            raise UsageError(f"margin is {self.margin!r}; it must be a number from 0 to below 1")
        if self.cost not in get_args(Cost):
            raise UsageError(f"cost is {self.cost!r}; allowed: {', '.join(get_args(Cost))}")
        allowed = self.allowed
        if self.metric is not None and self.metric not in allowed:
            raise UsageError(f"these data are compared by {', '.join(allowed)}, not by {self.metric!r}")

    @property
    def train(self) -> Split:
        """What samples are drawn from."""
        return self.splits[TRAIN]

    @property
    def judged(self) -> Split:
        """The split that all methods are judged on: test, else validation."""
        for name in ("test", "validation"):
            split = self.splits.get(name)
            if split is not None and split.labels is not None and len(split):
                return split
        raise DataError(f"{self.train.source}: there is no labelled test or validation split to judge methods on")

    @property
    def spans(self) -> bool:
        """Whether labels are tags of entities."""
        return self.train.kind == "tokens" and has_spans(LabelCodec.fit(self.train.labels or []).names, self.task)

    @property
    def allowed(self) -> tuple[str, ...]:
        """Metrics that there are, the usual one first."""
        if self.train.kind == "tokens":
            return ("f1",) if self.spans else ("accuracy",)
        return ("macro_f1", "accuracy") if has_label_sets(self.train.labels) else ("accuracy", "macro_f1")

    @property
    def by(self) -> str:
        """The metric that methods are compared by."""
        return self.metric or self.allowed[0]
