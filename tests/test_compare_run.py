"""A comparison's cells: the same rows for all methods, kept whatever fails, gone on with; and what is written."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pytest

from embedkit.data import Split
from embedkit.encoders import EncoderSettings, FeatureExtractor, WordExtractor
from embedkit.errors import DataError, MissingExtraError, UsageError
from embedkit.evaluation.compare.files import cells_csv, markdown_table, report_text, shown_text
from embedkit.evaluation.compare.methods import parse_methods
from embedkit.evaluation.compare.plan import Plan
from embedkit.evaluation.compare.result import Comparison, Method, read_comparison
from embedkit.evaluation.compare.run import run_comparison
from embedkit.evaluation.compare.runners import Memory, Sample, Workshop
from embedkit.store import FeatureStore
from tests import comparisons, test_cli
from tests.comparisons import compared, figures, text_split
from tests.test_cli import CANARY
from tests.test_frozen_tagger import entities, split

model, plan, quick = test_cli.model, comparisons.plan, comparisons.quick
pytestmark = pytest.mark.usefixtures("one_torch_thread", "little_garbage")


class Whole(NamedTuple):
    """A comparison that ran to its end, its folder, and the rows that its methods got."""

    found: Comparison
    folder: Path
    samples: Mapping[tuple[int, int], set[str]]


@pytest.fixture(scope="module")
def whole(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder, seen, run = tmp_path_factory.mktemp("whole") / "out", dict[tuple[int, int], set[str]](), Workshop.run

    def watched(self: Workshop, method: Method, sample: Sample) -> Any:
        key = (len(sample.rows), sample.seed)
        seen.setdefault(key, set()).add(sample.rows.fingerprint() + sample.judged.fingerprint())
        return run(self, method, sample)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Workshop, "run", watched)
        return Whole(compared(plan, folder), folder, seen)


class TestRun:
    def test_every_method_has_the_same_rows(self, whole: Whole) -> None:
        assert {cell.status for cell in whole.found.cells} == {"done"}
        assert set(whole.samples) == {(rows, seed) for rows in (4, 12, 40) for seed in (5, 6)}
        assert all(len(splits) == 1 for splits in whole.samples.values())

    def test_figures_are_those_of_the_answers(self, whole: Whole) -> None:
        found = whole.found
        assert [size.rows for size in found.sizes] == [4, 12, 40]
        for point in found.points:
            cells = [cell for cell in found.cells if (cell.method, cell.size) == (point.method, point.size)]
            assert point.seeds == len(cells) == 2
            assert point.score == pytest.approx(np.mean([cell.scores["accuracy"] for cell in cells]))
            assert point.low <= point.score <= point.high
        majority = [point for point in found.points if point.method == "majority"]
        assert all(point.score == 0.5 for point in majority)
        assert {(entry.first, entry.second) for entry in found.differences if entry.size == "full"} == {
            ("majority", "tfidf"),
            ("majority", "frozen"),
            ("tfidf", "frozen"),
        }

    def test_detail_is_of_the_largest_size_and_first_seed(self, whole: Whole) -> None:
        details = whole.found.details
        assert [detail.method for detail in details] == ["majority", "tfidf", "frozen"]
        assert {(detail.size, detail.seed) for detail in details} == {("full", 5)}
        majority = details[0]
        assert (majority.wrong, len(majority.errors)) == (10, 10)
        assert majority.confusion == [[10, 0], [10, 0]]
        assert {(error.true, error.predicted, error.confidence) for error in majority.errors} == {
            ("pos", "neg", 0.5)
        }

    def test_where_the_first_seed_failed_the_next_one_stands_for_the_method(
        self, quick: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = Workshop.run

        def failing(self: Workshop, method: Method, sample: Sample) -> Any:
            if method.kind == "tfidf" and sample.seed == quick.seeds[0]:
                raise DataError("not this one")
            return run(self, method, sample)

        monkeypatch.setattr(Workshop, "run", failing)
        found = compared(replace(quick, seeds=[quick.seeds[0], 77]), tmp_path / "out")
        assert {(detail.method, detail.seed) for detail in found.details} == {
            ("majority", quick.seeds[0]),
            ("tfidf", 77),
        }

    def test_no_text_of_the_user_is_in_it(self, whole: Whole) -> None:
        assert CANARY not in json.dumps(whole.found.to_json())
        for path in whole.folder.rglob("*.json"):
            assert CANARY not in path.read_text(encoding="utf-8")

    def test_what_is_finished_is_not_run_again(
        self, plan: Plan, whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copytree(whole.folder, tmp_path / "out")
        ran: list[str] = []
        run = Workshop.run
        monkeypatch.setattr(Workshop, "run", lambda self, m, s: (ran.append(m.name), run(self, m, s))[1])
        assert figures(compared(plan, tmp_path / "out")) == figures(whole.found)
        assert ran == []
        more = replace(plan, methods=[*plan.methods, *parse_methods("tfidf:C=1")])
        found = compared(more, tmp_path / "out")
        assert ran == ["tfidf:C=1"] * 6
        assert len(found.cells) == 24

    def test_costs_of_serving_are_there_whichever_seed_is_the_first(self, quick: Plan, tmp_path: Path) -> None:
        compared(quick, tmp_path / "out")
        found = compared(replace(quick, seeds=[6, 7]), tmp_path / "out")
        assert {(e.method, e.seed, e.latency_ms is not None) for e in found.served} == {
            ("majority", 6, True),
            ("tfidf", 6, True),
        }

    def test_there_are_resamples_for_all_pairs(self, quick: Plan, tmp_path: Path) -> None:
        """Of few resamples no p-value is small enough to be left of many comparisons."""
        found = compared(replace(quick, shots=[None], resamples=1), tmp_path / "out")
        (pair,) = found.differences
        assert pair.p_holm == pytest.approx(2 / 101)

    def test_differences_are_the_same_way_round_however_cells_were_run(self, quick: Plan, tmp_path: Path) -> None:
        """Cells are run from the quick to the slow, and found again in the order that was asked for."""
        told = replace(quick, methods=parse_methods("tfidf,majority"), shots=[2])
        first, again = (compared(told, tmp_path / "out") for _ in range(2))
        assert [(pair.first, pair.second) for pair in first.differences] == [("tfidf", "majority")]
        assert figures(again) == figures(first)

    def test_an_interrupt_leaves_what_is_finished_and_the_next_call_goes_on(
        self, quick: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = compared(quick, tmp_path / "whole")
        run, count = Workshop.run, 0

        def cut(self: Workshop, method: Method, sample: Sample) -> Any:
            nonlocal count
            count += 1
            if count == 8:
                raise KeyboardInterrupt
            return run(self, method, sample)

        monkeypatch.setattr(Workshop, "run", cut)
        part = compared(quick, tmp_path / "cut")
        assert part.interrupted
        states = [cell.status for cell in part.cells]
        assert (states.count("done"), states.count("missing")) == (7, 5)
        assert part.points
        rest = compared(quick, tmp_path / "cut")
        assert count == 8 + 5
        assert not rest.interrupted
        assert figures(rest) == figures(whole)

    def test_a_cell_that_fails_is_recorded_and_the_rest_goes_on(
        self, quick: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = Workshop.run

        def failing(self: Workshop, method: Method, sample: Sample) -> Any:
            if method.kind == "tfidf" and sample.seed == 5:
                raise DataError("row 3 is odd") if len(sample.rows) == 4 else RuntimeError(CANARY)
            return run(self, method, sample)

        monkeypatch.setattr(Workshop, "run", failing)
        found = compared(quick, tmp_path / "out")
        assert [(cell.method, cell.size, cell.why.partition(";")[0]) for cell in found.failed] == [
            ("tfidf", "2", "row 3 is odd"),
            ("tfidf", "6", "internal error (RuntimeError)"),
            ("tfidf", "full", "internal error (RuntimeError)"),
        ]
        assert sum(cell.status == "done" for cell in found.cells) == 9
        assert {point.seeds for point in found.points if point.method == "tfidf"} == {1}

    def test_a_method_whose_extra_is_missing_is_named(
        self, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def missing(self: Workshop, method: Method, sample: Sample) -> Any:
            raise MissingExtraError("setfit is missing; install it with: pip install 'embedkit[setfit]'")

        monkeypatch.setattr(Workshop, "_few_shot", missing)
        told = replace(plan, methods=parse_methods("setfit,majority"), shots=[2])
        found = compared(told, tmp_path / "out")
        assert {(cell.method, cell.status) for cell in found.cells} == {
            ("setfit", "skipped"),
            ("majority", "done"),
        }
        assert "pip install 'embedkit[setfit]'" in report_text(found).replace("\\", "")
        assert not found.failed

    def test_what_does_not_fit_the_budget_is_named_with_its_estimate(
        self, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Workshop, "seconds_a_text", lambda self, method, train: 100.0)
        found = compared(replace(plan, budget=60.0), tmp_path / "out")
        states = {(cell.method, cell.status) for cell in found.cells}
        assert states == {("majority", "done"), ("tfidf", "done"), ("frozen", "skipped")}
        why = next(cell.why for cell in found.cells if (cell.method, cell.size) == ("frozen", "full"))
        assert why.startswith("estimated 1.7 h, and ")
        assert found.advice is not None
        assert any("frozen at full (estimated" in line for line in found.advice.text)

    def test_with_a_budget_the_quick_cells_of_a_seed_come_first(
        self, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A slow method on few rows does not take the time of a quick one on all of them."""
        ran, run = list[tuple[int, str, int]](), Workshop.run
        monkeypatch.setattr(Workshop, "seconds_a_text", lambda self, method, train: 0.5)
        monkeypatch.setattr(
            Workshop, "run", lambda self, m, s: (ran.append((s.seed, m.kind, len(s.rows))), run(self, m, s))[1]
        )
        compared(replace(plan, budget=1e6, methods=parse_methods("frozen,tfidf")), tmp_path / "out")
        assert ran == [
            (seed, kind, size) for seed in (5, 6) for kind in ("tfidf", "frozen") for size in (4, 12, 40)
        ]

    def test_what_does_not_fit_is_said_once_for_all_seeds(
        self, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Workshop, "seconds_a_text", lambda self, method, train: 100.0)
        said = list[str]()
        told = replace(plan, budget=60.0, shots=[2, None], methods=parse_methods("frozen"))
        compared(told, tmp_path / "out", say=said.append)
        assert said == [
            "frozen, 2, seeds 5, 6: skipped for the budget: estimated 40 min each",
            "frozen, full, seeds 5, 6: skipped for the budget: estimated 1.7 h each",
        ]

    def test_what_the_store_has_takes_no_time_of_the_budget(
        self, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of `embedkit extract`, of another head on the same features, of an earlier comparison."""
        monkeypatch.setattr(Workshop, "seconds_a_text", lambda self, method, train: 100.0)
        store = FeatureStore(tmp_path / "store")

        def opener(settings: EncoderSettings) -> FeatureExtractor:
            return FeatureExtractor(settings, store=store)

        told = replace(plan, budget=60.0, methods=parse_methods("frozen,frozen:clf=ridge"))
        nothing = run_comparison(told, tmp_path / "a", {}, {}, opener=opener, word_opener=WordExtractor)
        assert {cell.status for cell in nothing.cells} == {"skipped"}
        for part in plan.splits.values():
            opener(plan.usual).transform(cast("Any", part.inputs))
        found = run_comparison(told, tmp_path / "a", {}, {}, opener=opener, word_opener=WordExtractor)
        assert {cell.status for cell in found.cells} == {"done"}

    def test_a_method_that_is_run_up_to_another_size_keeps_its_cells(self, quick: Plan, tmp_path: Path) -> None:
        first = compared(replace(quick, methods=parse_methods("tfidf:upto=6")), tmp_path / "out")
        said = list[str]()
        told = replace(quick, methods=parse_methods("tfidf:upto=full"))
        found = compared(told, tmp_path / "out", say=said.append)
        assert [cell.status for cell in first.cells] == ["done"] * 4 + ["skipped"] * 2
        assert {(cell.method, cell.status) for cell in found.cells} == {("tfidf:upto=full", "done")}
        assert "4 of 6 cells were finished before" in said
        assert {detail.method for detail in found.details} == {"tfidf:upto=full"}

    def test_the_most_frequent_label_is_that_of_train(self, quick: Plan, tmp_path: Path) -> None:
        """A sample has as many rows of each label, and says nothing of how frequent they are."""
        labels = ["rare", *["usual"] * 9] * 4
        parts = [Split(name, "text", [f"{name} {i}" for i in range(40)], labels, np.arange(1, 41), f"{name}.csv")
                 for name in ("train", "test")]  # fmt: skip
        told = replace(quick, splits={part.name: part for part in parts}, methods=parse_methods("majority"))
        assert {point.score for point in compared(replace(told, shots=[2, None]), tmp_path / "out").points} == {
            0.9
        }

    @pytest.mark.parametrize("every", [1, 2, 20])
    def test_one_label_or_none(self, quick: Plan, tmp_path: Path, every: int) -> None:
        """Of one column scikit-learn makes two, no and yes."""
        spam = [place % every == 0 for place in range(40)]
        texts = [f"{'buy cheap pills' if one else 'see you at noon'} number{i}" for i, one in enumerate(spam)]
        labels = [["spam"] if one else [] for one in spam]
        parts = [Split(name, "text", [f"{name} {text}" for text in texts], labels, np.arange(1, 41), f"{name}.csv")
                 for name in ("train", "test")]  # fmt: skip
        told = replace(quick, splits={part.name: part for part in parts}, methods=parse_methods("tfidf"))
        found = compared(replace(told, shots=[None], seeds=[1]), tmp_path / "out")
        assert [cell.status for cell in found.cells] == ["done"]
        assert found.cells[0].scores["accuracy"] == 1.0

    def test_what_is_left_out_and_what_is_there_is_said_once(self, quick: Plan, tmp_path: Path) -> None:
        told = replace(quick, shots=[2, 400, 500], seeds=[1, 2], methods=parse_methods("majority,tfidf:from=9"))
        first, again = list[str](), list[str]()
        compared(told, tmp_path / "out", say=first.append)
        compared(told, tmp_path / "out", say=again.append)
        assert first[:3] == again[:3]
        assert first[3].startswith("majority, 2, seed 1: accuracy 0.500, ")
        beyond = "skipped: train.csv has at most 20 rows of a class; full takes all"
        assert again == [
            f"majority, 400, 500: {beyond}",
            "tfidf:from=9, 2: skipped: asked for from 9 rows a class on",
            f"tfidf:from=9, 400, 500: {beyond}",
            "2 of 12 cells were finished before",
        ]

    def test_runs_that_were_not_made_alike_are_said_to_be(
        self, quick: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told = replace(quick, shots=[2], seeds=[1], methods=parse_methods("majority"))
        first = compared(told, tmp_path / "out")
        monkeypatch.setattr("embedkit.evaluation.compare.run.processor", lambda: "another")
        found = compared(replace(told, methods=parse_methods("majority,tfidf")), tmp_path / "out")
        assert first.advice is not None
        assert found.advice is not None
        said = "Not all runs were made alike, and as this report says (machine differ), so"
        assert not any(line.startswith(said) for line in first.advice.text)
        assert any(line.startswith(said) for line in found.advice.text)

    def test_a_report_on_cells_of_another_machine_says_so(
        self, quick: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Though they are all alike: what the report says of the machine is true of none of them."""
        told = replace(quick, shots=[2], seeds=[1])
        compared(told, tmp_path / "out")
        monkeypatch.setattr("embedkit.evaluation.compare.run.processor", lambda: "another")
        found = compared(told, tmp_path / "out")
        assert found.advice is not None
        assert any("(machine differ)" in line for line in found.advice.text)

    def test_the_advice_says_how_to_have_it(self, quick: Plan, tmp_path: Path) -> None:
        found = compared(replace(quick, methods=parse_methods("tfidf")), tmp_path / "out")
        assert found.advice is not None
        assert found.advice.text[-1].startswith("To have it: make_pipeline(TfidfVectorizer(")

    def test_sizes_beyond_the_data_are_left_out(self, plan: Plan, tmp_path: Path) -> None:
        found = compared(replace(plan, shots=[2, 500], methods=parse_methods("majority")), tmp_path / "out")
        assert [(cell.size, cell.status) for cell in found.cells] == [("2", "done")] * 2 + [("500", "skipped")] * 2
        assert "at most 20 rows of a class" in found.cells[-1].why

    def test_a_class_with_fewer_rows_gives_all_and_it_is_said(self, plan: Plan, tmp_path: Path) -> None:
        train = plan.train.take([*range(0, 40, 2), 1, 3])
        told = replace(plan, splits={**plan.splits, "train": train}, shots=[6], methods=parse_methods("tfidf"))
        found = compared(told, tmp_path / "out")
        assert {cell.rows for cell in found.cells} == {8}
        assert any("fewer" in note for note in found.cells[0].notes)

    def test_texts_without_words_are_said_to_be(self, plan: Plan, tmp_path: Path) -> None:
        train = replace(plan.train, inputs=["a b", "c d"] * 20)
        told = replace(plan, splits={**plan.splits, "train": train}, shots=[None], seeds=[1])
        found = compared(replace(told, methods=parse_methods("tfidf,tfidf:analyzer=char")), tmp_path / "out")
        assert [cell.status for cell in found.cells] == ["failed", "done"]
        assert found.cells[0].why.endswith("see tfidf:analyzer=char")

    def test_few_shot_tuning_says_what_it_left_of_all_rows(self, plan: Plan, tmp_path: Path) -> None:
        train = plan.train.take([*range(8), 0, 1])
        methods = parse_methods("tfidf,fewshot:epochs=1")
        told = replace(plan, methods=methods, splits={**plan.splits, "train": train}, shots=[None], seeds=[5])
        plainly, tuned = compared(told, tmp_path / "out").cells
        assert (plainly.rows, plainly.notes) == (10, [])
        assert any(note.startswith("learnt from 8 of these rows") for note in tuned.notes)

    def test_nothing_to_judge_on_is_refused(self, plan: Plan, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no labelled test or validation split"):
            compared(replace(plan, splits={"train": plan.train}), tmp_path / "out")

    def test_validation_is_judged_where_there_is_no_test(self, plan: Plan, tmp_path: Path) -> None:
        splits = {"train": plan.train, "validation": text_split("validation", 10, 300)}
        found = compared(replace(plan, splits=splits, shots=[2], seeds=[1]), tmp_path / "out")
        assert (found.judged, found.judged_rows) == ("validation", 10)

    def test_pairs(self, plan: Plan, tmp_path: Path) -> None:
        def pairs(name: str, count: int, start: int) -> Split:
            whole = text_split(name, count, start)
            inputs = [("the film", str(given)) for given in whole.inputs]
            return Split(name, "pair", inputs, whole.labels, whole.rows, whole.source)

        splits = {"train": pairs("train", 30, 0), "test": pairs("test", 10, 500)}
        found = compared(replace(plan, splits=splits, shots=[4, None], seeds=[1]), tmp_path / "out")
        assert {cell.status for cell in found.cells} == {"done"}
        assert next(p.score for p in found.points if (p.method, p.size) == ("tfidf", "full")) == 1.0

    def test_labels_keep_the_order_that_the_data_declare(self, plan: Plan, tmp_path: Path) -> None:
        """Few-shot tuning sees the sample alone, whose labels it would sort."""
        methods = parse_methods("majority,tfidf,frozen,fewshot:epochs=1")
        told = replace(plan, methods=methods, declared=("pos", "odd", "neg"), shots=[2], seeds=[5])
        found = compared(told, tmp_path / "out")
        assert [(cell.method, cell.why) for cell in found.cells] == [(method.name, "") for method in methods]
        assert found.labels == ["pos", "neg"]
        assert {tuple(detail.labels) for detail in found.details} == {("pos", "neg")}
        for point in found.points:
            (cell,) = (cell for cell in found.cells if cell.method == point.method)
            assert point.score == pytest.approx(cell.scores["accuracy"])

    def test_several_labels_a_row(self, plan: Plan, tmp_path: Path) -> None:
        def sets(name: str, count: int, start: int) -> Split:
            whole = text_split(name, count, start)
            labels = [[["pos"], ["neg"], ["pos", "odd"], []][place % 4] for place in range(count)]
            return Split(name, "text", whole.inputs, labels, whole.rows, whole.source)

        splits = {"train": sets("train", 40, 0), "test": sets("test", 12, 500)}
        found = compared(replace(plan, splits=splits, shots=[3, None], seeds=[1]), tmp_path / "out")
        assert {cell.status for cell in found.cells} == {"done"}
        assert found.metric == "macro_f1"
        for point in found.points:
            (cell,) = (cell for cell in found.cells if (cell.method, cell.size) == (point.method, point.size))
            assert point.score == pytest.approx(cell.scores["macro_f1"])

    def test_words_with_tags(self, plan: Plan, model: Path, tmp_path: Path) -> None:
        splits = {"train": split(entities(60, 1)), "test": split(entities(20, 2), "test")}
        methods = parse_methods("majority,tfidf,frozen:layers=0")
        told = replace(plan, splits=splits, methods=methods, shots=[10, None], seeds=[1, 2])
        found = compared(told, tmp_path / "out")
        states = {(cell.method, cell.status) for cell in found.cells}
        assert states == {("majority", "done"), ("tfidf", "skipped"), ("frozen:layers=0", "done")}
        assert found.metric == "f1"
        assert [size.rows for size in found.sizes] == [10, 60]
        best = next(p for p in found.points if (p.method, p.size) == ("frozen:layers=0", "full"))
        assert best.score == pytest.approx(best.f1)
        assert best.score > 0.5
        assert "sentences" in shown_text(found)

    def test_a_cost_that_is_none(self, plan: Plan) -> None:
        """Before hours of cells, not after them."""
        with pytest.raises(UsageError, match="cost is 'latency'; allowed: serve, train"):
            replace(plan, cost="latency")  # type: ignore[arg-type]

    def test_a_metric_that_the_data_have_not(self, plan: Plan) -> None:
        with pytest.raises(UsageError, match="compared by accuracy, macro_f1, not by 'f1'"):
            replace(plan, metric="f1")

    def test_what_earlier_cells_left_in_memory_is_not_in_the_table(
        self, quick: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A later cell can only look larger than it is: the table tells the least over the seeds."""
        grown = iter(range(100, 10_000, 100))
        monkeypatch.setattr(Memory, "added_mb", lambda memory: float(next(grown)))
        found = compared(replace(quick, shots=[2], seeds=[1, 2, 3]), tmp_path / "out")
        for point in found.points:
            peaks = [cell.peak_mb for cell in found.cells if cell.method == point.method]
            assert len(set(peaks)) == 3
            assert point.peak_mb == min(peak for peak in peaks if peak is not None)

    def test_libraries_are_no_memory_of_the_encoder(
        self, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With a budget an encoder is probed before its first cell."""
        seen, begin = list[str](), Memory.begin
        monkeypatch.setattr("embedkit.evaluation.compare.runners._import", seen.append)
        monkeypatch.setattr(Memory, "begin", lambda: (seen.append("begin"), begin())[1])
        Workshop(plan.usual, FeatureExtractor, WordExtractor, tmp_path).probe(plan.methods[2], plan.train)
        assert seen == ["frozen", "begin"]

    def test_a_peak_of_memory_that_cannot_be_measured_is_not_told(
        self, quick: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where the mark cannot be reset it is that of all that the process ever did."""
        monkeypatch.setattr(Memory, "begin", lambda: Memory(None))
        found = compared(replace(quick, shots=[2]), tmp_path / "out")
        assert {cell.peak_mb for cell in found.cells} == {point.peak_mb for point in found.points} == {None}


class TestFiles:
    def test_json_comes_back(self, whole: Whole, tmp_path: Path) -> None:
        found = whole.found
        path = tmp_path / "compare.json"
        path.write_text(json.dumps(found.to_json()))
        assert read_comparison(path) == found
        with pytest.raises(DataError, match="format 99"):
            Comparison.from_json({**found.to_json(), "format": 99})

    def test_a_cell_starts_no_formula(self, whole: Whole) -> None:
        found = whole.found
        cell = replace(found.cells[0], status="failed", why="=cmd()", scores={})
        (line,) = csv.DictReader(cells_csv(replace(found, cells=[cell])).splitlines())
        assert line["why"] == "'=cmd()"

    def test_markdown_is_inert(self) -> None:
        assert markdown_table([["a|b"], ["<script>*x*"]]) == "| a\\|b |\n|---|\n| \\<script\\>\\*x\\* |"
