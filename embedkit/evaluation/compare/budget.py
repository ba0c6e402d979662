"""What a cell will take, before it is run: so that what does not fit a budget can be named with its estimate."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from embedkit.errors import UsageError
from embedkit.evaluation.compare.methods import numbers_of, tuning_of
from embedkit.evaluation.compare.result import Method
from embedkit.training.pairs import EPOCHS

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_BACKWARD = 2.0  # passes that a training step costs beyond its forward one
_SETFIT_TEXTS = 80  # times that setfit encodes each text: 20 positive and 20 negative pairs of it, two texts each
# Seconds beside the passes: opening models, fits, judging.
_BESIDE = {"majority": 0.1, "tfidf": 0.5, "frozen": 1.0, "fewshot": 4.0, "setfit": 6.0, "finetune": 4.0}
_A_ROW = {"tfidf": 5e-4, "frozen": 1e-3}
_SERVING = 25.0  # seconds of an export, its parity check and 500 timed answers
_CHOICE_PASSES, _JUDGED_PASSES = 3, 2  # over the rows that int8 is chosen on, and those that it is judged on


def parse_budget(text: str) -> float:
    """Return the seconds of ``90s``, ``10m`` or ``2h``.

    Raises
    ------
    UsageError
        It is none of these, or 0.

    Examples
    --------
    >>> parse_budget("10m"), parse_budget("1.5h")
    (600.0, 5400.0)
    """
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)([smh])", text.strip())
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if seconds <= 0:
        raise UsageError(f"--budget {text!r}: give a time such as 90s, 10m or 2h")
    return seconds


def time_said(seconds: float) -> str:
    """Return a time in words: ``"45 s"``, ``"3 min"``, ``"1.5 h"``."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@dataclass(frozen=True)
class Work:
    """What a cell does.

    Attributes
    ----------
    rows, judged : int
        That it learns from, and that it answers.
    blocks : int
        Of the model that is fine-tuned.
    texts : int
        That a frozen encoder has to read: those of both that the store lacks.
    """

    rows: int
    judged: int
    blocks: int = 1
    texts: int = 0


@dataclass(eq=False)
class Estimates:
    """Estimates the time of cells, from the speed of the encoder and from cells that are done.

    Attributes
    ----------
    speed : callable
        Gives the seconds that the encoder of a method takes for a text.
    """

    speed: Callable[[Method], float]
    _done: dict[str, list[tuple[Work, float]]] = field(default_factory=dict)
    _served: list[float] = field(default_factory=list)

    def of(self, method: Method, work: Work) -> float:
        """Return the seconds of a cell.

        Until cells of the method are done this is the work in forward passes, at the speed of the encoder; then it
        is this times how much longer those took, all together, than is estimated for them.
        """
        done = self._done.get(method.name, [])
        planned = sum(self._plain(method, finished) for finished, _ in done)
        return self._plain(method, work) * (sum(seconds for _, seconds in done) / planned if done else 1.0)

    def learn(self, method: Method, work: Work, seconds: float) -> None:
        """Take into account what a cell took."""
        self._done.setdefault(method.name, []).append((work, seconds))

    def serving(self, method: Method, choice: int, judged: int) -> float:
        """Return the seconds that it takes to measure how a method is served.

        `choice` and `judged` are the rows that int8 is chosen and judged on. What other methods took corrects it.
        """
        if method.kind in ("majority", "tfidf"):
            return 0.0
        return self._plain_serving(method, choice, judged) * statistics.median(self._served or [1.0])

    def learn_serving(self, method: Method, choice: int, judged: int, seconds: float) -> None:
        """Take into account how long a method took."""
        self._served.append(seconds / self._plain_serving(method, choice, judged))

    def _plain_serving(self, method: Method, choice: int, judged: int) -> float:
        return _SERVING + (_CHOICE_PASSES * choice + _JUDGED_PASSES * judged) * self.speed(method)

    def _plain(self, method: Method, work: Work) -> float:
        beside = _BESIDE[method.kind] + _A_ROW.get(method.kind, 0.0) * (work.rows + work.judged)
        if method.kind in ("majority", "tfidf"):
            return beside
        return beside + self.speed(method) * _passes(method, work)


def _passes(method: Method, work: Work) -> float:
    """Return how many times a text goes through the encoder."""
    told: dict[str, float] = numbers_of(method, "epochs", "iterations", "pair-iterations")
    rows, judged, blocks = work.rows, work.judged, work.blocks
    if method.kind == "frozen":
        return work.texts
    if method.kind == "fewshot":
        epochs = told.get("pair_iterations", told.get("epochs", EPOCHS))
        return rows * (epochs * (1 + _BACKWARD) + 2) + 2 * judged
    if method.kind == "setfit":
        times = _SETFIT_TEXTS * told.get("iterations", 20) / 20 * told.get("epochs", 1)
        return rows * (times * (1 + _BACKWARD) + 2) + 2 * judged
    settings = tuning_of(method, rows, seed=0, blocks=blocks)
    frozen = settings.freeze if isinstance(settings.freeze, int) else blocks * (settings.freeze == "head-only")
    learning = 1 - min(frozen, blocks) / max(1, blocks)
    return rows * settings.epochs * (1 + _BACKWARD) * max(learning, 0.1) + judged
