"""How many blocks are worth training: one fine-tuned model for each number of frozen ones, and the choice."""

from __future__ import annotations

import csv
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from embedkit.data import LabelCodec, Split
from embedkit.data.text import aligned
from embedkit.encoders.torch_encoder import quiet
from embedkit.errors import UsageError
from embedkit.estimators.start import Start
from embedkit.evaluation.finetuned import VALIDATION, TunedRun, finetune, judge_rest
from embedkit.evaluation.plots import freezing_figure, save_png
from embedkit.training.answers import open_trained
from embedkit.training.freezing import Freeze, parse_freeze
from embedkit.training.settings import TuneSettings
from embedkit.training.subtokens import Rule
from embedkit.training.tuning import Watch

_NAMES = {"f1": "entity F1", "macro_f1": "macro F1"}
_NORMAL_95 = 1.959964  # standard errors from the middle of a 95 % interval to its end


@dataclass(frozen=True)
class FreezePoint:
    """One model of a sweep.

    Attributes
    ----------
    freeze : Freeze
    blocks : int
        How many blocks were trained.
    trainable : int
        Parameters that were.
    seconds : float
        Wall time of the training, evaluations included.
    metric : str
        Which F1 this is: macro F1, or of entities where tags stand for spans.
    f1 : float
        Of the validation rows.
    interval : tuple of float
        95 %, by bootstrap.
    """

    freeze: Freeze
    blocks: int
    trainable: int
    seconds: float
    metric: str
    f1: float
    interval: tuple[float, float]

    @property
    def error(self) -> float:
        """The standard error of the F1, from its interval."""
        return (self.interval[1] - self.interval[0]) / (2 * _NORMAL_95)


def parse_sweep(text: str, blocks: int) -> list[Freeze]:
    """Read ``0,2,4,head-only``; ``all`` stands for every number of blocks, ``head-only`` and ``none``.

    Raises
    ------
    UsageError
        A part is none, or stands twice.
    """
    if text == "all":
        return ["none", *range(blocks + 1), "head-only"]
    parts = [parse_freeze(part.strip()) for part in text.split(",")]
    if len(set(parts)) < len(parts) or len(parts) < 2:
        raise UsageError(f"--sweep-freeze {text!r}: give at least two, each once, such as 0,2,4,head-only, or all")
    return parts


def sweep_freeze(
    choices: Sequence[Freeze],
    splits: Mapping[str, Split],
    start: Start,
    settings: TuneSettings,
    *,
    codec: LabelCodec,
    positive: str | None = None,
    task: str = "auto",
    subtokens: Rule = "first",
    trained_on: str | None = None,
    told: Callable[[FreezePoint], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[FreezePoint], FreezePoint, TunedRun]:
    """Fine-tune once for each choice, with the same seed and splits; judge the one that is chosen on test.

    Chosen is the model with the fewest trained parameters whose F1 on the validation rows lies within one standard
    error of the highest (Breiman et al., 1984): from there on more blocks stop to pay.

    Parameters
    ----------
    choices : sequence of Freeze
    splits, start, settings, codec, positive, task, subtokens, trained_on, progress
        As for `finetune`.
    told : callable, optional
        Given each point when it is there.

    Returns
    -------
    points : list of FreezePoint
        In the order of `choices`.
    chosen : FreezePoint
    run : TunedRun
        Of the chosen one.
    """
    points, runs = [], []
    with tempfile.TemporaryDirectory(prefix="embedkit-") as temporary:
        for number, choice in enumerate(choices):
            one, began = replace(settings, freeze=choice), time.perf_counter()
            run = finetune(
                splits,
                start,
                one,
                codec=codec,
                positive=positive,
                task=task,
                subtokens=subtokens,
                trained_on=trained_on,
                watch=Watch(progress=progress),
                final=False,
            )
            points.append(_point(choice, run, start.folder.layers, time.perf_counter() - began))
            _put_away(run, Path(temporary) / str(number))
            runs.append(run)
            if told is not None:
                told(points[-1])
        chosen = choose(points)
        run = runs[points.index(chosen)]
        task = "tokens" if run.classifier.kind == "tokens" else "sequence"
        run.classifier.model = open_trained(Path(temporary) / str(points.index(chosen)), task, len(codec))
    judge_rest(run, splits, positive)
    return points, chosen, run


def choose(points: Sequence[FreezePoint]) -> FreezePoint:
    """Return the point with the fewest trained parameters within one standard error of the highest F1."""
    best = max(points, key=lambda point: point.f1)
    good = [point for point in points if point.f1 >= best.f1 - best.error]
    return min(good, key=lambda point: (point.trainable, -point.f1))


def _point(choice: Freeze, run: TunedRun, blocks: int, seconds: float) -> FreezePoint:
    figures = run.judged[VALIDATION].metrics
    frozen = blocks if choice == "head-only" else choice if isinstance(choice, int) else 0
    name = "f1" if "per_type" in figures else "macro_f1"
    low, high = figures[f"{name}_ci95"]
    trainable = sum(part.trainable for part in run.tuned.parts)
    return FreezePoint(choice, blocks - frozen, trainable, seconds, _NAMES[name], figures[name], (low, high))


def _put_away(run: TunedRun, folder: Path) -> None:
    """Keep a model on disk: of many large ones only one is in memory."""
    with quiet():
        run.classifier.model.save_pretrained(folder)
    run.classifier.forget()
    run.tuned.trained.model = None


def sweep_json(points: Sequence[FreezePoint], chosen: FreezePoint) -> dict[str, Any]:
    """Return a sweep for ``metrics.json``."""
    rows = [{**vars(point), "interval": list(point.interval)} for point in points]
    return {"judged": VALIDATION, "metric": chosen.metric, "points": rows, "chosen": chosen.freeze}


def sweep_text(points: Sequence[FreezePoint], chosen: FreezePoint) -> str:
    """Return a sweep as a table; the chosen point is marked."""
    rows = [["freeze", "blocks trained", "parameters trained", "seconds", chosen.metric, "95 % interval", ""]]
    for point in points:
        low, high = point.interval
        mark = "<- chosen" if point == chosen else ""
        figures = [f"{point.seconds:.0f}", f"{point.f1:.4f}", f"[{low:.4f}, {high:.4f}]", mark]
        rows.append([str(point.freeze), str(point.blocks), f"{point.trainable:,}", *figures])
    return "\n".join(aligned(rows, left=frozenset({0, 6})))


def write_sweep(folder: Path, points: Sequence[FreezePoint], chosen: FreezePoint, title: str) -> None:
    """Write ``report/freeze.csv`` and ``report/freeze.png``."""
    target = folder / "report"
    target.mkdir(exist_ok=True)
    with (target / "freeze.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["freeze", "blocks", "trainable", "seconds", chosen.metric, "low", "high", "chosen"])
        for point in points:
            figures = [round(value, 6) for value in (point.f1, *point.interval)]
            row = [point.freeze, point.blocks, point.trainable, round(point.seconds, 2), *figures]
            writer.writerow([*row, int(point == chosen)])
    ordered = sorted(points, key=lambda point: point.trainable)
    names = [str(point.freeze) if isinstance(point.freeze, str) else f"{point.blocks}" for point in ordered]
    figure = freezing_figure(
        names,
        [point.f1 for point in ordered],
        [point.interval for point in ordered],
        ordered.index(chosen),
        metric=chosen.metric,
        title=title,
    )
    save_png(figure, target / "freeze.png")
