"""The command: what a user types, reads and finds afterwards of a comparison."""

from __future__ import annotations

import csv
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

import embedkit
from embedkit.errors import DataError
from embedkit.evaluation.compare.api import _map
from embedkit.evaluation.compare.cells import RESULTS
from embedkit.evaluation.compare.result import read_comparison
from embedkit.evaluation.compare.runners import Workshop
from tests import test_cli
from tests.test_cli import CANARY, Cli, rows, write_csv, write_jsonl
from tests.test_frozen_tagger import entities
from tests.test_pages import assert_closed

cli, model, processes = test_cli.cli, test_cli.model, test_cli.processes
pytestmark = pytest.mark.usefixtures("one_torch_thread", "little_garbage")


_WAITS = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from embedkit.cli import main
from embedkit.evaluation.compare.run import Run
from embedkit.evaluation.compare.runners import Workshop

run, settle = Workshop.run, Run._settle_one

def wait(at):
    if at == "{at}":
        os.write(2, b"waiting\\n")
        time.sleep(60)

Workshop.run = lambda self, method, sample: (wait(method.kind), run(self, method, sample))[1]
Run._settle_one = lambda self, task: (wait("settling"), settle(self, task))[1]
sys.exit(main())
"""


@pytest.fixture(autouse=True)
def no_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the map out, which takes longer than all the rest, where it is not what is tested."""
    monkeypatch.setattr("embedkit.evaluation.compare.api._map", lambda *_, **__: None)


class TestCommand:
    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        write_csv(tmp_path / "data" / "train.csv", rows(40))
        write_csv(tmp_path / "data" / "test.csv", rows(16, 500))
        return tmp_path / "data"

    @pytest.mark.slow
    def test_it_writes_all_files_and_serves(self, cli: Cli, data: Path, model: Path) -> None:
        told = cli("compare", data, "-m", model, "--methods", "majority,tfidf,frozen", "--shots", "4,full",
                   "--seeds", "2", "--threads", "1", "-o", "out")  # fmt: skip
        there = {path.name for path in Path("out").iterdir()}
        assert there == {
            "cells",
            "compare.json",
            "compare.csv",
            "compare.md",
            "scores.png",
            "costs.png",
            "report.html",
        }
        assert not list(Path("out/cells/models").iterdir())
        found = read_comparison(Path("out/compare.json"))
        how = {(entry.method, entry.how): entry for entry in found.served}
        assert set(how) == {("majority", "constant"), ("tfidf", "scikit-learn"), ("frozen", "onnx float32"),
                            ("frozen", "onnx int8")}  # fmt: skip
        served = how["frozen", "onnx float32"]
        assert served.latency_ms is not None
        assert served.megabytes is not None
        assert served.size == "full"
        assert found.made["command"].startswith("embedkit compare ")
        assert found.data["splits"]["train"]["rows"] == 40
        assert "take " in told.out
        assert CANARY not in told.err
        assert CANARY not in Path("out/compare.md").read_text()
        with Path("out/compare.csv").open() as file:
            assert len(list(csv.DictReader(file))) == 12
        again = cli("compare", data, "-m", model, "--methods", "frozen", "--shots", "4,full", "--seeds", "2",
                    "--threads", "1", "-o", "out", "--json")  # fmt: skip
        assert again.json["served"] == [
            entry for entry in found.to_json()["served"] if entry["method"] == "frozen"
        ]

    def test_fine_tuning_and_few_shots(self, cli: Cli, data: Path, model: Path) -> None:
        methods = "fewshot:epochs=1,finetune:epochs=1:freeze=half"
        cli("compare", data, "-m", model, "--methods", methods, "--shots", "4", "--seeds", "1", "--no-serve",
            "--threads", "1", "-o", "out")  # fmt: skip
        found = read_comparison(Path("out/compare.json"))
        assert [(cell.status, cell.rows) for cell in found.cells] == [("done", 8), ("done", 8)]
        assert all((cell.train_seconds or 0) > 0 for cell in found.cells)
        assert "no latency was measured" in " ".join(found.advice.text if found.advice else []).lower()

    def test_a_failed_cell_is_exit_code_1(
        self, cli: Cli, data: Path, model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def failing(*_: Any) -> Any:
            raise DataError("the rows are odd")

        monkeypatch.setattr(Workshop, "_tfidf", failing)
        told = cli("compare", data, "-m", model, "--methods", "majority,tfidf", "--shots", "2", "--seeds", "1",
                   "-o", "out", code=1)  # fmt: skip
        assert "failed: tfidf, 2, seed 42: the rows are odd" in told.err
        assert "the rows are odd" in Path("out/compare.md").read_text()

    def test_an_interrupt_is_exit_code_130_and_reports(
        self, cli: Cli, data: Path, model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def cut(*_: Any) -> Any:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(Workshop, "_tfidf", cut)
            told = cli("compare", data, "-m", model, "--methods", "majority,tfidf", "--shots", "2", "--seeds", "2",
                       "-o", "out", code=130)  # fmt: skip
        assert "take " in told.out or "no method" in told.out
        assert read_comparison(Path("out/compare.json")).interrupted
        cli(
            "compare",
            data,
            "-m",
            model,
            "--methods",
            "majority,tfidf",
            "--shots",
            "2",
            "--seeds",
            "2",
            "-o",
            "out",
        )
        assert not read_comparison(Path("out/compare.json")).interrupted

    def test_ctrl_c_leaves_what_is_finished_and_takes_nothing_away(
        self, cli: Cli, data: Path, model: Path, processes: list[subprocess.Popen[bytes]]
    ) -> None:
        out = Path("out").absolute()
        told = ["compare", data, "-m", model, "--methods", "majority,tfidf", "--shots", "2", "--seeds", "2"]
        told += ["--threads", "1", "-o", out]

        def cut(at: str) -> None:
            process = test_cli.start(*told, code=_WAITS.format(at=at))
            processes.append(process)
            while (line := process.stderr.readline()) != b"waiting\n":
                assert line, "it ended before it was cut"
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
            assert process.returncode == 130, said

        cut("tfidf")
        found = read_comparison(out / "compare.json")
        assert found.interrupted
        assert [cell.status for cell in found.cells] == ["done", "missing", "missing", "missing"]
        before = {name: (out / name).read_bytes() for name in RESULTS if (out / name).exists()}
        assert "report.html" in before
        cut("settling")  # before it knows what is finished
        assert {name: (out / name).read_bytes() for name in before} == before
        cli(*told)
        assert {cell.status for cell in read_comparison(out / "compare.json").cells} == {"done"}

    @pytest.mark.parametrize("flags", [[], ["--no-texts"]])
    def test_texts_are_in_the_report_alone_and_only_where_they_may(
        self, cli: Cli, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]
    ) -> None:
        monkeypatch.setattr("embedkit.evaluation.compare.api._map", _map)
        monkeypatch.setattr("embedkit.evaluation.map.find_spec", lambda name: None)  # UMAP takes long
        table = [{**row, "text": f"{row['text']} {CANARY} {place}"} for place, row in enumerate(rows(30))]
        data = write_csv(tmp_path / "one.csv", table)
        told = cli("compare", data, "-m", model, "--methods", "majority,frozen", "--shots", "full", "--seeds", "1",
                   "--no-serve", "--threads", "1", "-o", "out", *flags)  # fmt: skip
        assert (CANARY in Path("out/report.html").read_text("utf-8")) == (not flags)
        assert ("holds texts" in told.err) == (not flags)
        assert not any(CANARY in Path("out", name).read_text("utf-8") for name in ("compare.json", "compare.md"))
        assert str(tmp_path) not in read_comparison(Path("out/compare.json")).data["name"]

    def test_a_single_file_is_described_as_it_was_parted(self, cli: Cli, tmp_path: Path, model: Path) -> None:
        data = write_csv(tmp_path / "one.csv", rows(40))
        cli("compare", data, "-m", model, "--methods", "majority", "--shots", "full", "--seeds", "1", "-o", "out")
        found = read_comparison(Path("out/compare.json"))
        sizes = {name: facts["rows"] for name, facts in found.data["splits"].items()}
        assert sizes == {"train": 40 - found.judged_rows, "test": found.judged_rows}
        assert found.data["leaks"] == {"test": 0}

    @pytest.mark.parametrize(
        ("error", "said", "code"),
        [
            (DataError("too few texts"), "the report has no map: too few texts", 0),
            (RuntimeError(CANARY), "the report has no map: internal error (RuntimeError)", 0),
            (KeyboardInterrupt(), "interrupted", 130),
        ],
    )
    def test_a_map_that_fails_or_is_cut_costs_nothing_else(
        self, cli: Cli, data: Path, model: Path, monkeypatch: pytest.MonkeyPatch,
        error: BaseException, said: str, code: int,
    ) -> None:  # fmt: skip
        def failing(*_: Any, **__: Any) -> Any:
            raise error

        monkeypatch.setattr("embedkit.evaluation.compare.api._map", _map)
        monkeypatch.setattr("embedkit.evaluation.compare.api.map_of", failing)
        told = cli("compare", data, "-m", model, "--methods", "frozen", "--shots", "2", "--seeds", "1",
                   "--no-serve", "--threads", "1", "-o", "out", code=code)  # fmt: skip
        assert said in told.err
        assert CANARY not in told.err
        assert {path.name for path in Path("out").iterdir()} == {"cells", *RESULTS}

    def test_the_map_is_of_the_encoder_that_was_run(
        self, cli: Cli, data: Path, model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("embedkit.evaluation.compare.api._map", _map)
        monkeypatch.setattr("embedkit.evaluation.map.find_spec", lambda name: None)  # UMAP takes long
        methods = f"majority,frozen:model={model}:pooling=cls"
        cli("compare", data, "-m", "nowhere/at-all", "--methods", methods, "--shots", "2", "--seeds", "1",
            "--no-serve", "--threads", "1", "-o", "out")  # fmt: skip
        page = assert_closed(Path("out/report.html").read_text(encoding="utf-8"))
        assert len(page.data()["map-points"]["x"]) == 16
        assert any("pooling cls" in text for text in page.inside("p"))

    @pytest.mark.parametrize(
        ("flags", "said"),
        [
            (["--methods", "forest"], "no method 'forest'"),
            (["--methods", ""], "no method ''"),
            (["--shots", "many"], "--shots 'many'"),
            (["--budget", "soon"], "--budget 'soon'"),
            (["--margin", "2"], "margin is 2.0"),
            (["--metric", "f1"], "not by 'f1'"),
        ],
    )
    def test_wrong_flags(self, cli: Cli, data: Path, model: Path, flags: list[str], said: str) -> None:
        told = cli("compare", data, "-m", model, "-o", "out", *flags, code=2)
        assert said in told.err
        assert not Path("out").exists()

    def test_in_python(self, data: Path, model: Path, tmp_path: Path) -> None:
        lines: list[str] = []
        found = embedkit.compare(
            data,
            methods=["majority", "tfidf"],
            shots="2",
            seeds=1,
            encoder=str(model),
            store=False,
            say=lines.append,
        )
        assert {cell.status for cell in found.cells} == {"done"}
        told = f"methods=['majority', 'tfidf'], shots='2', seeds=1, encoder={str(model)!r}"
        assert found.made["command"] == f"embedkit.compare({str(data)!r}, {told})"
        assert any(line.startswith("tfidf, 2, seed 42: accuracy") for line in lines)

    def test_words_with_tags(self, cli: Cli, model: Path, tmp_path: Path) -> None:
        for name, count, seed in (("train", 40, 1), ("test", 12, 2)):
            table = [{"tokens": words, "tags": tags} for words, tags in entities(count, seed)]
            write_jsonl(tmp_path / "words" / f"{name}.jsonl", table)
        methods = "majority,frozen:layers=0"
        cli("compare", tmp_path / "words", "-m", model, "--methods", methods, "--shots", "10,full", "--seeds", "1",
            "--no-serve", "--threads", "1", "-o", "out")  # fmt: skip
        found = read_comparison(Path("out/compare.json"))
        assert (found.task, found.metric) == ("tokens", "f1")
        assert list(found.details[0].per_class) == ["ORG", "PER"]
        page = assert_closed(Path("out/report.html").read_text(encoding="utf-8"))
        heads = page.inside("th")
        assert "sentences" in heads
        assert "entities" in heads
        assert not any("labels a class" in text for text in [*heads, *page.inside("p"), *page.inside("caption")])
        assert "Of one seed, with 95 % intervals over rows alone" in Path("out/compare.md").read_text("utf-8")
