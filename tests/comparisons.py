"""A small comparison of texts, for the tests of comparisons."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedkit.data import Split
from embedkit.encoders import EncoderSettings, FeatureExtractor, WordExtractor
from embedkit.evaluation.compare.methods import parse_methods
from embedkit.evaluation.compare.plan import Plan
from embedkit.evaluation.compare.result import Comparison
from embedkit.evaluation.compare.run import run_comparison
from tests.test_cli import rows


def text_split(name: str, count: int, start: int = 0) -> Split:
    table = rows(count, start)
    texts, labels = [row["text"] for row in table], [row["label"] for row in table]
    return Split(name, "text", texts, labels, np.arange(1, count + 1), f"{name}.csv")


@pytest.fixture(scope="module")
def plan(model: Path) -> Plan:
    """Return a small comparison of texts, without what takes long."""
    return Plan(
        methods=parse_methods("majority,tfidf,frozen"),
        shots=[2, 6, None],
        seeds=[5, 6],
        splits={"train": text_split("train", 40), "test": text_split("test", 20, 500)},
        usual=EncoderSettings(model, threads=1),
        served=False,
        resamples=200,
    )


@pytest.fixture
def quick(plan: Plan) -> Plan:
    """Return the same without an encoder."""
    return replace(plan, methods=parse_methods("majority,tfidf"))


def compared(plan: Plan, folder: Path, **told: Any) -> Comparison:
    return run_comparison(plan, folder, {}, {}, opener=FeatureExtractor, word_opener=WordExtractor, **told)


def figures(found: Comparison) -> list[Any]:
    """All that does not depend on the clock or on what else is in memory."""
    cells = [(cell.method, cell.size, cell.seed, cell.status, cell.rows, cell.scores) for cell in found.cells]
    scores = [(p.method, p.size, p.seeds, p.score, p.low, p.high) for p in found.points]
    return [cells, scores, found.differences, found.details]


def check_served(plan: Plan, folder: Path) -> None:
    """Run a method and serve it as `export-onnx` would: float32 has figures, int8 some or a reason."""
    found = compared(replace(plan, shots=[8], seeds=[5], served=True), folder)
    assert [(cell.status, cell.why) for cell in found.cells] == [("done", "")]
    full, small = found.served
    assert (full.how, full.why, small.how) == ("onnx float32", "", "onnx int8")
    for entry in (full, small):
        told = (entry.latency_ms, entry.per_second, entry.megabytes)
        assert bool(entry.why) != all(value is not None and value > 0 for value in told), entry
    assert (small.score_change is None) == (small.metric is None)
    (point,) = found.points
    assert full.score == point.score
    if small.latency_ms is not None and small.metric == found.metric:
        assert small.score == pytest.approx(point.score + (small.score_change or 0.0))
    assert not list((folder / "cells" / "models").iterdir())
