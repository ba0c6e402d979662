"""How a comparison's methods are served: exported, timed, once a method, and told where that fails."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from embedkit.encoders import FeatureExtractor, WordExtractor
from embedkit.errors import MissingExtraError
from embedkit.evaluation.compare.cells import Shelf
from embedkit.evaluation.compare.methods import parse_methods
from embedkit.evaluation.compare.plan import Plan
from embedkit.evaluation.compare.result import Served
from embedkit.evaluation.compare.run import Run
from embedkit.evaluation.compare.runners import Workshop
from tests import comparisons, test_cli
from tests.comparisons import check_served, compared, figures
from tests.test_cli import CANARY

model, plan = test_cli.model, comparisons.plan
SERVE = "embedkit.evaluation.compare.run.serve"
pytestmark = pytest.mark.usefixtures("one_torch_thread", "little_garbage")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fewshot:epochs=1", "finetune:epochs=1"])
def test_each_kind_of_model_is_exported(plan: Plan, method: str, tmp_path: Path) -> None:
    check_served(replace(plan, methods=parse_methods(method)), tmp_path / "out")


class TestMeasuredOnce:
    """What is measured once a method; the export itself is left out."""

    @pytest.fixture
    def one(self, plan: Plan) -> Plan:
        return replace(plan, methods=parse_methods("frozen"), shots=[2, None], seeds=[5], served=True)

    @pytest.fixture
    def timed(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Let serving take no time; return the sizes that were served."""
        sizes: list[str] = []

        def serve(folder: Path, splits: Any, method: str, size: str, seed: int, *, threads: int | None) -> Any:
            assert (folder / "embedkit.json").is_file()
            sizes.append(size)
            return [Served(method, size, seed, "onnx float32", 2.0)]

        monkeypatch.setattr(SERVE, serve)
        return sizes

    @pytest.fixture
    def ran(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Return the rows of each cell that is run."""
        counts: list[int] = []
        run = Workshop.run
        monkeypatch.setattr(Workshop, "run", lambda self, m, s: (counts.append(len(s.rows)), run(self, m, s))[1])
        return counts

    def test_times_that_were_taken_elsewhere_are_said_to_be(
        self, one: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timed: list[str]
    ) -> None:
        compared(replace(one, served=False), tmp_path / "out")
        monkeypatch.setattr("embedkit.evaluation.compare.run.processor", lambda: "another")
        found = compared(one, tmp_path / "out")
        assert timed == ["full"]
        assert found.advice is not None
        assert any(
            line.startswith("Not all runs were made alike, and as this report says (machine differ)")
            for line in found.advice.text
        )

    @pytest.mark.parametrize(
        ("error", "why"),
        [
            (MissingExtraError("onnx is missing"), "onnx is missing"),
            (RuntimeError(CANARY), "internal error (RuntimeError)"),
        ],
    )
    def test_a_failure_is_told_and_the_next_call_tries_again(
        self, one: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ran: list[int], timed: list[str],
        error: Exception, why: str,
    ) -> None:  # fmt: skip
        def failing(*_: Any, **__: Any) -> Any:
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(SERVE, failing)
            found = compared(one, tmp_path / "out")
        assert [(entry.size, entry.latency_ms, entry.why) for entry in found.served] == [("full", None, why)]
        assert not found.failed
        again = compared(one, tmp_path / "out")
        assert [entry.latency_ms for entry in again.served] == [2.0]
        assert (ran, timed) == ([4, 40], ["full"])

    def test_a_cell_is_kept_also_where_its_model_cannot_be(
        self, one: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timed: list[str]
    ) -> None:
        def full(folder: Path) -> None:
            raise OSError(28, "No space left on device")

        run = Workshop.run
        with monkeypatch.context() as patched:
            patched.setattr(Workshop, "run", lambda self, m, s: replace(run(self, m, s), save=full))
            found = compared(one, tmp_path / "out")
        assert {cell.status for cell in found.cells} == {"done"}
        assert [entry.why for entry in found.served] == ["its model could not be kept: internal error (OSError)"]
        again = compared(one, tmp_path / "out")
        assert figures(again) == figures(found)
        assert timed == ["full"]

    def test_a_model_that_is_gone_is_trained_once_more_if_the_budget_has_room(
        self, one: Plan, tmp_path: Path, ran: list[int], timed: list[str]
    ) -> None:
        compared(replace(one, served=False), tmp_path / "out")
        (cell,) = (tmp_path / "out" / "cells").glob("frozen-full-*.json")
        cell.write_text(json.dumps({**json.loads(cell.read_text()), "seconds": 5000.0}))
        (short,) = compared(replace(one, budget=60.0), tmp_path / "out").served
        assert short.why.startswith("estimated 84 min, and ")
        assert (ran, timed) == ([4, 40], [])
        (entry,) = compared(one, tmp_path / "out").served
        assert (entry.latency_ms, ran, timed) == (2.0, [4, 40, 40], ["full"])

    def test_no_time_is_put_aside_for_what_was_measured(
        self, one: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timed: list[str]
    ) -> None:
        monkeypatch.setattr(Workshop, "seconds_a_text", lambda self, method, train: 0.0)
        (tmp_path / "scratch").mkdir()
        workshop = Workshop(one.usual, FeatureExtractor, WordExtractor, tmp_path / "scratch")
        run = Run(replace(one, budget=60.0), Shelf.open(tmp_path / "out", {}), workshop, lambda line: None)
        assert run._reserved() == 20.0
        run.all()
        assert timed == ["full"]
        assert run._reserved() == 0.0
