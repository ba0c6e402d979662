"""What a method costs when it is used: exported as it would be served, and timed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from embedkit.data import Split
from embedkit.errors import EmbedkitError, MissingExtraError
from embedkit.estimators.frozen import load_frozen
from embedkit.estimators.frozen_tagger import FrozenTagger, load_frozen_tagger
from embedkit.estimators.tuned import TunedClassifier, load_tuned
from embedkit.estimators.tuned_tagger import TunedTagger
from embedkit.evaluation.compare.result import Served
from embedkit.evaluation.trial import splits_trial
from embedkit.export import Exported, Trained, Tuned, export_classifier, export_task_model
from embedkit.export.speed import latencies
from embedkit.export.verdict import FLOAT, INT8, Trial, Verdict
from embedkit.runtime.loading import load
from embedkit.runtime.manifest import FINETUNED, TAG_TASK, kind_of, task_of

_ROWS = 512  # judged rows that throughput is measured on
_METRICS = {"entity_f1": "f1"}  # what a comparison calls a verdict's metric
CHOICE_ROWS = 4000
"""That int8 is chosen on, at most."""
_GRAPHS = {FLOAT: "model.onnx", INT8: "model_quantized.onnx"}


def serve(
    folder: Path, splits: Mapping[str, Split], method: str, size: str, seed: int, *, threads: int | None = None
) -> list[Served]:
    """Export a model in float32 and int8, and time it; what cannot be exported says why.

    Parameters
    ----------
    folder : Path
        An artifact of ``embedkit fit-head``, ``finetune`` or ``fewshot``.
    splits : mapping of str to Split
        ``train``, on which (or on ``validation``) int8 is chosen, and ``test``, on which it is judged.
    method, size, seed
        What it is called.
    threads : int, optional

    Raises
    ------
    MissingExtraError
        What exports is not installed.
    """
    told = (method, size, seed)
    with tempfile.TemporaryDirectory(prefix="embedkit-") as temporary:
        target = Path(temporary) / "served"
        try:
            exported, why = _exported(folder, splits, target, threads)
        except MissingExtraError:  # that can be mended
            raise
        except EmbedkitError as error:
            return [Served(*told, f"onnx {precision}", why=str(error)) for precision in (FLOAT, INT8)]
        weight, spent, one = _megabytes(target), exported.int8, usual_row(splits["test"])
        published = spent is not None and spent.published
        latency = _latencies(target, [FLOAT, INT8] if published else [FLOAT], splits["test"], one, threads)
        if spent is not None and spent.chosen is not None:  # measured by turns with int8
            speed = spent.throughput[FLOAT]
        else:
            speed = _throughput(target, splits["test"], threads)
        length = characters_of(one)
        found = [Served(*told, "onnx float32", latency[FLOAT], speed, weight[FLOAT], characters=length)]
        return [*found, _small(told, spent, latency.get(INT8), weight[INT8], why, length)]


def serve_plain(
    answer: Callable[[Sequence[Any]], object],
    judged: Split,
    told: tuple[str, str, int],
    how: str,
    size: int,
    *,
    threads: int | None = None,
) -> list[Served]:
    """Time what answers without a graph, on `usual_row` and on many."""
    inputs, one = cast("Sequence[Any]", judged.inputs), usual_row(judged)
    latency = latencies({how: lambda: answer([one])}, 0, threads)[how].median
    some = list(inputs[:_ROWS])
    start = time.perf_counter()
    answer(some)
    speed = len(some) / max(time.perf_counter() - start, 1e-9)
    return [Served(*told, how, latency, speed, size / 1e6, characters=characters_of(one))]


def usual_row(judged: Split) -> Any:  # noqa: ANN401 - a text, a pair, or words
    """Return the judged row of median length in characters: the one text that every method is timed on."""
    return sorted(cast("Sequence[Any]", judged.inputs), key=characters_of)[len(judged) // 2]


def characters_of(given: str | Sequence[str]) -> int:
    """Return the characters of a text, of both sides of a pair, or of words."""
    return len(given) if isinstance(given, str) else sum(map(len, given))


def _exported(
    folder: Path, splits: Mapping[str, Split], target: Path, threads: int | None
) -> tuple[Exported, str]:
    """Export with int8, or where that cannot be in float32 alone; also say why."""
    found: Any
    if kind_of(folder) == FINETUNED:
        found = load_tuned(folder, device="cpu", threads=threads)
    else:
        opened = load_frozen_tagger if task_of(folder) == "tokens" else load_frozen
        found = opened(folder, store=False, device="cpu", threads=threads)
    inputs = cast("Any", list(splits["train"].inputs[:2000]))
    try:
        trial = splits_trial(splits, found.codec, most=CHOICE_ROWS, tag_task=found.about.get(TAG_TASK, "auto"))
        return _export(folder, found, inputs, target, trial, threads), ""
    except MissingExtraError:
        raise
    except EmbedkitError as error:
        return _export(folder, found, inputs, target, None, threads), str(error)


def _export(
    folder: Path,
    found: Any,  # noqa: ANN401 - a classifier
    inputs: Any,  # noqa: ANN401
    target: Path,
    trial: Trial | None,
    threads: int | None,
) -> Exported:
    how: dict[str, Any] = {"trial": trial, "threads": threads}
    if isinstance(found, TunedClassifier | TunedTagger):
        from embedkit.encoders import read_folder
        from embedkit.hub import Resolved

        tuned = Tuned(found.codec.classes, found.codec.dtype, found.kind, found.about)
        task = "tokens" if found.kind == "tokens" else "sequence"
        model = read_folder(Resolved(folder, str(folder), "folder"))
        return export_task_model(
            model, task, target, inputs, max_length=found.tokenizer.max_length, tuned=tuned, **how
        )
    thresholds = None if isinstance(found, FrozenTagger) else found.thresholds
    trained = Trained(found.extractor, found.head, found.codec, found.kind, thresholds, found.about)
    return export_classifier(trained, target, inputs, **how)


def _latencies(
    folder: Path,
    precisions: Sequence[str],
    judged: Split,
    one: Any,  # noqa: ANN401
    threads: int | None,
) -> dict[str, float]:
    """Return the median milliseconds from one row to its answer, by precision, measured by turns."""
    calls = {name: partial(_answer_of(folder, judged, threads, name), [one]) for name in precisions}
    return {name: found.median for name, found in latencies(calls, 0, threads).items()}


def _throughput(folder: Path, judged: Split, threads: int | None) -> float:
    """Return how many judged rows a second the exported folder answers."""
    inputs, answer = list(judged.inputs[:_ROWS]), _answer_of(folder, judged, threads)
    answer(cast("Any", inputs[:8]))
    start = time.perf_counter()
    answer(cast("Any", inputs))
    return len(inputs) / max(time.perf_counter() - start, 1e-9)


def _answer_of(
    folder: Path, judged: Split, threads: int | None, precision: str = FLOAT
) -> Callable[[Any], object]:
    """Open an exported folder; return what answers rows of a kind."""
    predictor = load(folder, precision, threads=threads)
    return predictor.tag if judged.kind == "tokens" else predictor.answer


def _megabytes(folder: Path) -> dict[str, float]:
    """Return what a folder weighs with either graph alone."""
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    graphs = {
        name: sum(size for path, size in sizes.items() if path.name == file) for name, file in _GRAPHS.items()
    }
    rest = sum(sizes.values()) - sum(graphs.values())
    return {name: (rest + size) / 1e6 for name, size in graphs.items()}


def _small(
    told: tuple[str, str, int],
    verdict: Verdict | None,
    latency: float | None,
    weight: float,
    why: str,
    characters: int,
) -> Served:
    how = "onnx int8"
    if verdict is None:
        return Served(*told, how, why=why)
    if verdict.chosen is None:
        lost = min((tried.drop for tried in verdict.tried), default=float(np.nan))
        return Served(*told, how, why=f"int8 loses {100 * lost:.1f} points or more on the rows it is chosen on")
    change, metric = float(verdict.comparison["difference"]), _METRICS.get(verdict.metric, verdict.metric)
    if not verdict.published:
        why = f"int8 loses {-100 * change:.1f} points, too many"
        return Served(*told, how, score_change=change, metric=metric, why=why)
    return Served(*told, how, latency, verdict.throughput[INT8], weight, change, metric, characters=characters)
