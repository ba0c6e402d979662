"""The report says what the figures say, and nothing that it quotes runs anywhere."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from embedkit.errors import DataError, UsageError
from embedkit.evaluation import judge, write_metrics, write_report
from embedkit.evaluation.plots import LABEL_LIMIT, confusion_figure, drawn_labels, save_png
from embedkit.evaluation.report import classification_text, spreadsheet_cell

HOSTILE = ["<script>alert(1)</script>", "=1+1", "-5", "\x1b[31mred", "\u202eabc", "$x^$", "@SUM(A1)", "漢字 label"]
FORBIDDEN = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def report(
    folder: Path,
    true: list[str],
    predicted: list[str],
    labels: list[str],
    *,
    inputs: list[Any] | None = None,
    probabilities: npt.ArrayLike | None = None,
    source: str = "test.csv",
) -> Path:
    judged = judge(true, predicted, labels, resamples=5)
    write_report(
        folder,
        true=judged.true,
        predicted=judged.predicted,
        probabilities=probabilities,
        names=judged.names,
        inputs=inputs if inputs is not None else [f"text {i}" for i in range(len(true))],
        rows=np.arange(1, len(true) + 1),
        source=source,
        metrics=judged.metrics,
    )
    return folder / "report"


def cells(folder: Path) -> list[list[str]]:
    with (folder / "errors.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


# --- judging -------------------------------------------------------------------------------------------


def test_labels_become_figures() -> None:
    judged = judge(["neg", "pos", "pos"], ["neg", "neg", "pos"], ["pos", "neg"], positive="pos", resamples=5)
    assert judged.names == ("pos", "neg")  # the order of the model's codes
    assert judged.true.tolist() == [1, 0, 0]
    assert judged.predicted.tolist() == [1, 1, 0]
    assert judged.metrics["confusion"] == [[1, 1], [0, 1]]
    assert (judged.metrics["precision"], judged.metrics["recall"]) == (1.0, 0.5)
    assert judged.metrics["unseen_labels"] == []
    assert judged.unseen_rows == 0


def test_labels_unseen_in_training_stand_behind_the_others() -> None:
    judged = judge(["b", "x", "x", "a", "w"], ["b", "b", "a", "a", "a"], ["a", "b", "only in train"], resamples=5)
    assert judged.names == ("a", "b", "only in train", "w", "x")
    assert judged.metrics["unseen_labels"] == ["w", "x"]
    assert judged.metrics["accuracy"] == 2 / 5
    assert judged.unseen_rows == 3


def test_labels_of_other_types_are_printed_as_strings() -> None:
    judged = judge([3, 10, 2], [3, 3, 3], [3, 10], resamples=5)
    assert judged.names == ("3", "10", "2")


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(DataError, match="no class: 'c'"):
        judge(["a"], ["c"], ["a", "b"])
    with pytest.raises(DataError, match="0 rows"):
        judge([], [], ["a", "b"])
    with pytest.raises(UsageError, match="'yes' is none of the labels: a, b"):
        judge(["a"], ["a"], ["a", "b"], positive="yes")


# --- the table -----------------------------------------------------------------------------------------


def test_the_table_by_hand(tmp_path: Path) -> None:
    judged = judge(
        ["ham", "ham", "spam", "eggs"], ["ham", "spam", "spam", "spam"], ["ham", "spam"], positive="spam"
    )
    lines = classification_text(judged.metrics, judged.names, "test.csv").splitlines()
    low, high = judged.metrics["accuracy_ci95"]
    assert lines[0] == "test.csv: 4 rows"
    assert f"accuracy     0.5000  [{low:.4f}, {high:.4f}]  95 % interval, clopper-pearson" in lines
    assert any(line.endswith("percentile bootstrap, 1000 resamples, seed 42") for line in lines)
    assert "positive     'spam': precision 0.3333, recall 1.0000, f1 0.5000" in lines
    assert "macro F1 is the mean over the 3 labels that occur among these rows, true or predicted" in lines
    assert "labels that training never saw, whose rows all count as errors: 'eggs'" in lines
    assert lines[-4:] == [
        "#  label  precision  recall      f1  rows",
        "1  ham       1.0000  0.5000  0.6667     2",
        "2  spam      0.3333  1.0000  0.5000     1",
        "3  eggs      0.0000  0.0000  0.0000     1",
    ]


def test_the_table_stays_aligned_with_wide_and_long_labels() -> None:
    labels = ["漢字", "a", "very long " * 20]
    judged = judge(labels, labels, labels, resamples=2)
    *_, wide, narrow, long = classification_text(judged.metrics, judged.names, "x").splitlines()
    assert len(wide) + 2 == len(narrow) == len(long)
    assert "…" in long


# --- the wrong rows ------------------------------------------------------------------------------------


def test_the_most_confident_error_stands_first(tmp_path: Path) -> None:
    true, predicted = ["a", "b", "a", "b", "a"], ["a", "a", "b", "a", "b"]
    probabilities = [[0.9, 0.1], [0.6, 0.4], [0.01, 0.99], [0.6, 0.4], [0.3, 0.7]]
    folder = report(tmp_path, true, predicted, ["a", "b"], probabilities=probabilities)
    assert cells(folder) == [
        ["row", "text", "true", "predicted", "confidence"],
        ["3", "text 2", "a", "b", "0.99"],
        ["5", "text 4", "a", "b", "0.7"],
        ["2", "text 1", "b", "a", "0.6"],
        ["4", "text 3", "b", "a", "0.6"],
    ]


def test_without_probabilities_errors_stand_in_order(tmp_path: Path) -> None:
    folder = report(tmp_path, ["a", "b", "a"], ["b", "b", "b"], ["a", "b"])
    assert cells(folder)[1:] == [["1", "text 0", "a", "b", ""], ["3", "text 2", "a", "b", ""]]


def test_no_errors_leave_a_heading(tmp_path: Path) -> None:
    folder = report(tmp_path, ["a", "b"], ["a", "b"], ["a", "b"])
    assert cells(folder) == [["row", "text", "true", "predicted", "confidence"]]


def test_pairs_have_two_columns_and_unseen_labels_their_name(tmp_path: Path) -> None:
    folder = report(
        tmp_path,
        ["new", "b"],
        ["a", "b"],
        ["a", "b"],
        inputs=[("one", "=two"), ("x", "y")],
        probabilities=np.eye(2),
    )
    assert cells(folder) == [
        ["row", "text", "text_pair", "true", "predicted", "confidence"],
        ["1", "one", "'=two", "new", "a", "1.0"],
    ]


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("plain, \"quoted\" and 'so'", "plain, \"quoted\" and 'so'"),
        ("", ""),
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-5", "'-5"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\\t=1"),
        ("\r=1", "'\\r=1"),
        ("\n=1", "'\\n=1"),
        ("＝1", "'＝1"),
        ("a=b", "a=b"),
        ("two\nlines", "two\\nlines"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\u202eabc", "\\u202eabc"),
        ("nul \0", "nul \\x00"),
        ("lone \ud800", "lone \\ud800"),
        ("é 漢字 \U0001f600", "é 漢字 \U0001f600"),
    ],
)
def test_cells_are_inert(text: str, cell: str) -> None:
    assert spreadsheet_cell(text) == cell


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec=None, exclude_categories=[])))
def test_no_text_starts_a_formula_or_moves_the_terminal(text: str) -> None:
    cell = spreadsheet_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert not FORBIDDEN.search(cell + ".")
    assert len(cell.splitlines()) <= 1
    cell.encode("utf-8")


def test_hostile_texts_and_labels_are_inert_everywhere(tmp_path: Path) -> None:
    n = len(HOSTILE)
    predicted = HOSTILE[1:] + HOSTILE[:1]
    probabilities = np.full((n, n), 1 / n)
    folder = report(
        tmp_path, HOSTILE, predicted, HOSTILE, inputs=HOSTILE, probabilities=probabilities, source="\x1b[2J=x.csv"
    )
    assert sorted(path.name for path in folder.iterdir()) == [
        "classification_report.txt", "confusion_matrix.png", "errors.csv",
    ]  # fmt: skip
    rows = cells(folder)
    assert len(rows) == n + 1
    for row in rows[1:]:
        assert float(row[-1]) == 0.125
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row)
    for name in ("classification_report.txt", "errors.csv"):
        assert not FORBIDDEN.search((folder / name).read_text(encoding="utf-8"))


def test_lengths_that_differ_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lengths are \[1, 2\]"):
        report(tmp_path, ["a", "b"], ["a", "b"], ["a", "b"], inputs=["x"])
    with pytest.raises(DataError, match=r"lengths are \[2, 3\]"):
        report(tmp_path, ["a", "b"], ["a", "b"], ["a", "b"], probabilities=np.zeros((3, 2)))


# --- the picture ---------------------------------------------------------------------------------------


def confusion(n_classes: int) -> npt.NDArray[np.int64]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 99_999, (n_classes, n_classes)) + np.diag([10**6] * n_classes)


@pytest.mark.parametrize("n_classes", [1, 2, 12, 13, 25, 26, 60])
def test_no_two_texts_overlap_and_all_are_inside(n_classes: int) -> None:
    names = [f"label {i} with a name that is too long" for i in range(n_classes)]
    figure = confusion_figure(confusion(n_classes), names, title="/a/long/path" * 12)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    axes = figure.axes[0]
    page = figure.bbox
    title = figure.texts[0].get_window_extent(renderer)
    assert page.x0 <= title.x0
    assert title.x1 <= page.x1
    for texts in (axes.get_xticklabels(), axes.get_yticklabels(), axes.texts):
        boxes = np.array([text.get_window_extent(renderer).extents for text in texts])
        assert len(boxes) in (n_classes, n_classes**2)
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= [page.x1, page.y1]).all()
        low, high = boxes[:, None, :2], boxes[:, None, 2:]
        meet = ((low < boxes[None, :, 2:]) & (boxes[None, :, :2] < high)).all(axis=2)
        assert meet.sum() == len(boxes)  # each one only itself


def test_a_matrix_of_many_classes_keeps_its_size_and_few_labels() -> None:
    figure = confusion_figure(confusion(150), [f"intent {i}" for i in range(150)], title="x")
    assert len(figure.axes[0].texts) == 0
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()][:2] == ["intent 0", "intent 3"]
    assert max(figure.get_size_inches()) < 23


def test_the_picture_is_light_and_always_the_same(tmp_path: Path) -> None:
    matrix = np.array([[40, 10], [0, 0]])
    for name in ("a.png", "b.png"):
        save_png(confusion_figure(matrix, ["neg", "pos"], title="test"), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    assert (pixels[0, 0] == 255).all()
    assert pixels.mean() > 180
    assert pixels.std() > 20


def test_cells_show_counts_and_shares_of_the_row() -> None:
    figure = confusion_figure([[999, 1], [3, 1]], ["neg", "pos"], title="x")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["999\n100%", "1\n<1%", "3\n75%", "1\n25%"]


def test_labels_that_cannot_be_drawn_or_told_apart_are_given_by_number() -> None:
    names = ["plain", "漢字", "ok 漢字 ok", " ", "a" * 30 + "x", "a" * 30 + "y", "$x^$", "\u202e"]
    labels = drawn_labels(names)
    long = "a" * (LABEL_LIMIT - 4) + "…"
    assert labels == ["plain", "#2", "#3 ok ok", "#4", f"#5 {long}", f"#6 {long}", "$x^$", "\\u202e"]
    assert max(map(len, labels)) <= LABEL_LIMIT


def test_drawing_needs_no_window_and_no_global_state() -> None:
    code = (
        "import sys; from embedkit.evaluation.plots import confusion_figure, save_png\n"
        "assert 'matplotlib' not in sys.modules\n"
        "import io; save_png(confusion_figure([[1, 0], [0, 1]], ['a', 'b'], title='x'), io.BytesIO())\n"
        "assert 'matplotlib.figure' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


# --- metrics.json --------------------------------------------------------------------------------------


def test_metrics_are_written_as_the_design_says(tmp_path: Path) -> None:
    figures = judge(["a", "b"], ["a", "b"], ["a", "b"], resamples=5).metrics
    token = "hf_" + "x" * 30
    write_metrics(
        tmp_path,
        splits={"test": figures},
        seconds={"load": 0.1, "total": np.float64(2.5)},
        settings={"model": f"https://me:{token}@host/m"},
        truncated=0.25,
    )
    text = (tmp_path / "metrics.json").read_text()
    assert token not in text
    assert json.loads(text) == {
        "splits": {"test": figures},
        "seconds": {"load": 0.1, "total": 2.5},
        "history": [],
        "settings": {"model": "https://***@host/m"},
        "truncated": 0.25,
    }


def test_metrics_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"splits\.test\.accuracy is nan"):
        write_metrics(tmp_path, splits={"test": {"accuracy": float("nan")}}, seconds={}, settings={})
    history = [{"loss": 1.0}, {"loss": float("inf")}]
    with pytest.raises(ValueError, match=r"history\[1\]\.loss is inf"):
        write_metrics(tmp_path, splits={}, seconds={}, settings={}, history=history)
    assert list(tmp_path.iterdir()) == []
