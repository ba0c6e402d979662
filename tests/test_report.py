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
from embedkit.evaluation import judge, judge_sets, write_metrics, write_report
from embedkit.evaluation.judge import Judgement
from embedkit.evaluation.plots import (
    LABEL_LIMIT,
    MOST_CANDIDATES,
    MOST_LABELLED,
    MOST_LINES,
    SweepPoint,
    calibration_figure,
    confusion_figure,
    drawn_labels,
    labels_figure,
    save_png,
    sweep_figure,
)
from embedkit.evaluation.report import classification_text, spreadsheet_cell
from embedkit.metrics import expected_calibration
from embedkit.runtime.decide import Thresholds

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


def report_sets(
    folder: Path,
    judged: Judgement,
    *,
    inputs: list[Any] | None = None,
    probabilities: npt.ArrayLike | None = None,
    calibration: dict[str, Any] | None = None,
) -> Path:
    n = len(judged.true)
    write_report(
        folder,
        true=judged.true,
        predicted=judged.predicted,
        probabilities=probabilities,
        names=judged.names,
        inputs=inputs if inputs is not None else [f"text {i}" for i in range(n)],
        rows=np.arange(1, n + 1),
        source="test.jsonl",
        metrics=judged.metrics | ({} if calibration is None else {"calibration": calibration}),
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


def test_sets_of_labels_become_figures() -> None:
    judged = judge_sets([["b", "a"], [], ["a"]], [["a"], ["b"], ["a"]], ["b", "a"], resamples=5)
    assert judged.names == ("b", "a")
    assert judged.multi_label
    assert judged.true.tolist() == [[True, True], [False, False], [False, True]]
    assert judged.predicted.tolist() == [[False, True], [True, False], [False, True]]
    assert judged.metrics["subset_accuracy"] == 1 / 3
    assert (judged.metrics["unseen_labels"], judged.unseen_rows) == ([], 0)


def test_labels_of_sets_that_training_never_saw_are_missed() -> None:
    judged = judge_sets([["a", "new"], ["newer", "new"], ["b"]], [["a"], [], ["b"]], ["a", "b"], resamples=5)
    assert judged.names == ("a", "b", "new", "newer")
    assert judged.predicted[:, 2:].sum() == 0
    assert judged.metrics["unseen_labels"] == ["new", "newer"]
    assert judged.metrics["per_class"]["new"]["recall"] == 0
    assert judged.metrics["micro_recall"] == 2 / 5
    assert judged.metrics["subset_accuracy"] == 1 / 3
    assert judged.unseen_rows == 2


def test_sets_that_cannot_be_judged_are_refused() -> None:
    with pytest.raises(DataError, match="no class: 'c'"):
        judge_sets([["a"]], [["c"]], ["a", "b"])
    with pytest.raises(DataError, match="0 rows"):
        judge_sets([], [], ["a", "b"])
    with pytest.raises(DataError, match="2 true labels but 1 predicted ones"):
        judge_sets([["a"], []], [["a"]], ["a", "b"])


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


SETS = judge_sets(
    [["ham", "spam"], ["ham"], ["eggs"], []], [["ham"], ["ham", "spam"], [], []], ["ham", "spam"], resamples=50
)


def test_the_table_of_several_labels_by_hand() -> None:
    lines = classification_text(SETS.metrics, SETS.names, "test.jsonl").splitlines()
    low, high = SETS.metrics["subset_accuracy_ci95"]
    assert lines[0] == "test.jsonl: 4 rows"
    assert f"subset accuracy  0.2500  [{low:.4f}, {high:.4f}]  95 % interval, clopper-pearson" in lines
    assert "micro precision  0.6667" in lines
    assert "micro recall     0.5000" in lines
    for name in ("micro F1         0.5714  [", "macro F1         0.3333  ["):
        (line,) = [line for line in lines if line.startswith(name)]
        assert line.endswith("percentile bootstrap, 50 resamples, seed 42")
    assert "Hamming loss     0.2500" in lines
    assert "labels a row     1.00 true, 0.75 predicted" in lines
    assert "labels that training never saw, missed wherever a row has them: 'eggs'" in lines
    assert lines[-4:] == [
        "#  label  precision  recall      f1  rows  predicted",
        "1  ham       1.0000  1.0000  1.0000     2          2",
        "2  spam      0.0000  0.0000  0.0000     1          1",
        "3  eggs      0.0000  0.0000  0.0000     1          0",
    ]


def test_thresholds_stand_beside_their_labels() -> None:
    cuts = Thresholds((0.25, -0.125), "score", "f1")
    lines = classification_text(SETS.metrics | {"thresholds": cuts.to_json()}, SETS.names, "x").splitlines()
    assert "decision         a label is given where its score is above its threshold, tuned for f1" in lines
    assert lines[-4:] == [
        "#  label  precision  recall      f1  rows  predicted  threshold",
        "1  ham       1.0000  1.0000  1.0000     2          2     0.2500",
        "2  spam      0.0000  0.0000  0.0000     1          1    -0.1250",
        "3  eggs      0.0000  0.0000  0.0000     1          0          -",
    ]


@pytest.mark.parametrize(("positive", "name"), [(0, "'ham'"), (1, "'spam'")])
def test_the_threshold_of_two_classes_is_said_once(positive: int, name: str) -> None:
    judged = judge(["ham", "spam"], ["ham", "ham"], ["ham", "spam"], resamples=5)
    cuts = Thresholds((0.125,), "probability", "mcc", positive)
    lines = classification_text(judged.metrics | {"thresholds": cuts.to_json()}, judged.names, "x").splitlines()
    assert f"decision     {name} where its probability is above 0.1250, tuned for mcc" in lines
    assert lines[-3].split() == ["#", "label", "precision", "recall", "f1", "rows"]


def test_calibration_is_said_before_and_after(tmp_path: Path) -> None:
    judged = judge(["a", "b", "b"], ["a", "b", "b"], ["a", "b"], resamples=5)
    both = {
        "before": expected_calibration(judged.true, [[0.6, 0.4], [0.4, 0.6], [0.4, 0.6]]),
        "after": expected_calibration(judged.true, [[0.9, 0.1], [0.1, 0.9], [0.1, 0.9]]),
    }
    lines = classification_text(judged.metrics | {"calibration": both}, judged.names, "x").splitlines()
    assert "ECE          0.4000 before calibration, 0.1000 after calibration" in lines
    assert "Brier score  0.1600 before calibration, 0.0100 after calibration" in lines
    assert "log loss     0.5108 before calibration, 0.1054 after calibration" in lines
    assert "             ECE counts the most probable class of each row, in 10 bins of equal width" in lines
    alone = classification_text(judged.metrics | {"calibration": {"after": both["after"]}}, judged.names, "x")
    assert "ECE          0.1000 after calibration\n" in alone


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


def test_the_row_with_most_wrong_labels_stands_first(tmp_path: Path) -> None:
    judged = judge_sets(
        [["a"], ["a", "b"], ["b"], ["c", "new"], [], ["a"]],
        [["a"], ["b"], ["a", "b"], ["a"], ["c"], ["a"]],
        ["a", "b", "c"],
        resamples=5,
    )
    sure = np.full((6, 3), 0.5)
    sure[1, 0], sure[2, 0], sure[4, 2] = 0.4, 0.9, 0.75  # the missing one with 0.6, the extra ones as they are
    assert cells(report_sets(tmp_path, judged, probabilities=sure)) == [
        ["row", "text", "missing", "extra"],
        ["4", "text 3", "c | new", "a"],
        ["3", "text 2", "", "a"],
        ["5", "text 4", "", "c"],
        ["2", "text 1", "a", ""],
    ]
    without = cells(report_sets(tmp_path, judged, inputs=[("=x", "y")] * 6))
    assert [row[0] for row in without] == ["row", "4", "2", "3", "5"]
    assert without[:2] == [
        ["row", "text", "text_pair", "missing", "extra"],
        ["4", "'=x", "y", "c | new", "a"],
    ]  # fmt: skip


def test_several_labels_that_are_sure_and_wrong_never_pass_one_more_wrong_label(tmp_path: Path) -> None:
    labels = [f"l{i}" for i in range(9)]
    judged = judge_sets([[], labels], [labels[:8], []], labels, resamples=2)
    sure = np.vstack([np.ones(9), np.ones(9)])
    assert [row[0] for row in cells(report_sets(tmp_path, judged, probabilities=sure))[1:]] == ["2", "1"]


def test_the_report_of_several_labels_has_its_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sets = [[name for name in HOSTILE if rng.random() < 0.3] for _ in range(40)]
    judged = judge_sets(sets, sets[1:] + sets[:1], HOSTILE, resamples=5)
    probabilities = rng.random((40, len(HOSTILE)))
    figures = expected_calibration(judged.true, probabilities)
    folder = report_sets(
        tmp_path,
        judged,
        inputs=(HOSTILE * 5)[:40],
        probabilities=probabilities,
        calibration={"before": figures, "after": figures},
    )
    assert sorted(path.name for path in folder.iterdir()) == [
        "calibration.png", "classification_report.txt", "errors.csv", "labels.png",
    ]  # fmt: skip
    for row in cells(folder)[1:]:
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row)
    for name in ("classification_report.txt", "errors.csv"):
        assert not FORBIDDEN.search((folder / name).read_text(encoding="utf-8"))


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


def boxes_of(texts: Any, renderer: Any) -> npt.NDArray[np.float64]:
    shown = [text for text in texts if text.get_text() and text.get_visible()]
    return np.array([text.get_window_extent(renderer).extents for text in shown])


def check_layout(figure: Any) -> None:
    """Check that everything written lies on the page, and no label of an axis, legend or title on another."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    groups = [[figure.texts[0] if figure.texts else figure._suptitle]]
    for axes in figure.axes:
        legend = axes.get_legend()
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            groups.append([tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high])
            groups.append([tick.label2 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high])
        groups.append(legend.get_texts() if legend else [])
        groups += [[axes.xaxis.label], [axes.yaxis.label], [axes.title, axes._right_title]]
    boxes = [boxes_of(group, renderer) for group in groups]
    written = np.vstack([box for box in boxes if len(box)])
    page = figure.bbox
    assert (written[:, :2] >= -1).all()
    assert (written[:, 2:] <= [page.x1 + 1, page.y1 + 1]).all()
    for group in boxes:
        if len(group):
            meet = ((group[:, None, :2] < group[None, :, 2:]) & (group[None, :, :2] < group[:, None, 2:])).all(
                axis=2
            )
            assert meet.sum() == len(group)
    title = boxes[0][0]
    for other in np.vstack([box for box in boxes[1:] if len(box)]):
        assert not ((title[:2] < other[2:]) & (other[:2] < title[2:])).all()


LONG = "/a/long/path" * 12


def per_class(n_labels: int) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(0)
    return {
        f"label {i} with a name that is too long": {
            "f1": rng.random(), "precision": rng.random(), "recall": rng.random(), "support": int(i * 1000),
        }
        for i in range(n_labels)
    }  # fmt: skip


@pytest.mark.parametrize("n_labels", [1, 2, 3, 60, 200])
def test_labels_are_drawn_from_the_best_down(n_labels: int) -> None:
    figures = per_class(n_labels)
    figure: Any = labels_figure(figures, list(figures), title=LONG)
    check_layout(figure)
    axes, beside = figure.axes
    shown = min(n_labels, MOST_LABELLED)
    widths = [bar.get_width() for bar in axes.patches]
    kept = list(figures.values())[-shown:]  # those with the most rows
    assert widths == sorted((part["f1"] for part in kept), reverse=True)
    assert len(axes.get_yticklabels()) == len(beside.get_yticklabels()) == shown
    order = sorted(kept, key=lambda part: -part["f1"])
    assert [text.get_text() for text in beside.get_yticklabels()] == [f"{part['support']:,}" for part in order]
    for line, key in zip(axes.lines, ("precision", "recall"), strict=True):
        assert list(line.get_xdata()) == [part[key] for part in order]
    said = f"the 60 of {n_labels} labels with the most rows" in figure.get_suptitle().replace("\n", " ")
    assert said == (n_labels > MOST_LABELLED)


def points(layers: list[str], poolings: list[str], heads: list[str]) -> list[SweepPoint]:
    rng = np.random.default_rng(0)
    return [
        SweepPoint(
            layer, pooling, head, rng.uniform(0.5, 0.9), rng.uniform(0, 0.03), {"C": c, "long_name": "x" * 9}
        )
        for layer in layers
        for pooling in poolings
        for head in heads
        for c in (0.1, 1.0)
    ]


HEADS = ["logreg", "ridge", "sklearn:sklearn.ensemble.ExtraTreesClassifier", "$x^$", "knn"]


@pytest.mark.parametrize("layers", [7, 25, 60])
@pytest.mark.parametrize(("poolings", "heads"), [(["mean"], ["logreg"]), (["cls", "mean", "max"], HEADS)])
def test_a_sweep_over_layers_is_a_line_for_each_pooling_and_head(
    layers: int, poolings: list[str], heads: list[str]
) -> None:
    given = points([str(i) for i in range(layers)], poolings, heads)
    figure: Any = sweep_figure(given, title=LONG, metric="macro F1")
    check_layout(figure)
    (axes,) = figure.axes
    best = max(given, key=lambda point: point.mean)
    pairs = len(poolings) * len(heads)
    *lines, star = axes.lines
    assert len(lines) == pairs
    assert list(star.get_xdata()) == [int(best.layer)]
    assert list(star.get_ydata()) == [best.mean]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert len(legend) == min(pairs, MOST_LINES) + (pairs > MOST_LINES) + 1
    assert (f"{pairs - MOST_LINES} more" in legend) == (pairs > MOST_LINES)
    assert len(axes.collections) == min(pairs, MOST_LINES)  # the bands
    # the first line is the winner's, with the best settings of each layer
    own = [point for point in given if (point.pooling, point.clf) == (best.pooling, best.clf)]
    tops = [max(point.mean for point in own if point.layer == str(i)) for i in range(layers)]
    assert list(lines[0].get_ydata()) == tops
    assert f"chosen: layer {best.layer} · {best.pooling}" in figure.get_suptitle().replace("\n", " ")


def test_layers_stand_in_their_order_and_may_be_missing_from_a_line() -> None:
    given = [
        SweepPoint(layer, pooling, "knn", 0.5 + i / 100, 0.01)
        for i, (layer, pooling) in enumerate(
            [
                ("10", "cls"),
                ("last", "cls"),
                ("-1", "mean"),
                ("2", "cls"),
                ("-2", "cls"),
                ("9+10", "cls"),
                ("2", "mean"),
            ]
        )
    ]
    axes: Any = sweep_figure(given).axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["2", "10", "-2", "-1", "last", "9+10"]
    assert {tuple(line.get_xdata()) for line in axes.lines} == {(0, 3), (0, 1, 2, 4, 5), (0,)}


@pytest.mark.parametrize("heads", [1, 5, 40])
def test_candidates_of_one_layer_are_dots_from_the_best_down(heads: int) -> None:
    given = points(["-1"], ["mean"], [f"head {i}" for i in range(heads)])
    figure: Any = sweep_figure(given, title=LONG)
    check_layout(figure)
    (axes,) = figure.axes
    shown = min(len(given), MOST_CANDIDATES)
    means = sorted((point.mean for point in given), reverse=True)[:shown]
    assert list(axes.lines[0].get_xdata()) == means
    assert list(axes.lines[-1].get_xdata()) == means[:1]
    assert len(axes.get_yticklabels()) == shown
    assert (f"the best {shown} of {len(given)}" in axes.get_xlabel()) == (len(given) > shown)


def test_a_winner_that_is_not_the_highest_is_marked_and_always_shown() -> None:
    given = points(["-1"], ["mean"], [f"head {i}" for i in range(40)])
    worst = min(given, key=lambda point: point.mean)
    figure: Any = sweep_figure(given, winner=worst)
    (axes,) = figure.axes
    assert list(axes.lines[-1].get_xdata()) == [worst.mean]
    assert axes.get_yticklabels()[-1].get_text() == str(worst)
    assert str(worst) in figure.get_suptitle()


def test_a_candidate_is_written_with_its_settings() -> None:
    assert str(SweepPoint("3", "mean", "logreg", 0.9, 0.0, {"C": 0.1 + 0.2, "penalty": "l2"})) == (
        "mean · logreg · C=0.3, penalty=l2"
    )
    assert str(SweepPoint("3", "mean", "centroid", 0.9, 0.0)) == "mean · centroid"


@pytest.mark.parametrize("n_classes", [2, 6])
@pytest.mark.parametrize("several", [False, True])
def test_reliability_shows_shares_and_rows(n_classes: int, several: bool) -> None:
    rng = np.random.default_rng(0)
    if several:
        table = rng.beta(0.3, 3, (3000, n_classes))
        true: npt.NDArray[Any] = rng.random(table.shape) < table
        before = expected_calibration(true, table**0.5)
    else:
        table = rng.dirichlet(np.ones(n_classes), 3000)
        true = (table.cumsum(axis=1) < rng.random((3000, 1))).sum(axis=1)
        before = expected_calibration(true, table**2 / (table**2).sum(axis=1, keepdims=True))
    after = expected_calibration(true, table)
    figure: Any = calibration_figure(before, after, title=LONG)
    check_layout(figure)
    above, below = figure.axes
    for line, part in zip(above.lines[1:], (before, after), strict=True):
        assert list(line.get_xdata()) == [bin_["confidence"] for bin_ in part["curve"]]
        assert list(line.get_ydata()) == [bin_["right"] for bin_ in part["curve"]]
        assert f"{part['ece']:.3f}" in line.get_label()
    bars = [bar.get_height() for bar in below.patches]
    assert bars == [bin_["rows"] for part in (before, after) for bin_ in part["curve"]]
    for bar, bin_ in zip(below.patches, (bin_ for part in (before, after) for bin_ in part["curve"]), strict=True):
        assert int(bar.get_x() * 10 + 1e-9) == int(bin_["confidence"] * 10)  # the bar stands in its bin
    assert ("pairs" in below.get_ylabel()) == several
    assert len(calibration_figure(None, after, title="x").axes[0].lines) == 2


def test_certain_rows_can_be_drawn() -> None:
    sure = expected_calibration([0, 0, 1], [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    figure = calibration_figure(None, sure, title="x")
    check_layout(figure)
    assert figure.axes[0].get_xlim() == (0.9, 1.0)


@pytest.mark.parametrize("kind", ["labels", "sweep", "calibration"])
def test_every_picture_is_the_same_each_time(tmp_path: Path, kind: str) -> None:
    curve = expected_calibration([0, 1], [[0.75, 0.25], [0.25, 0.75]])
    for name in ("a.png", "b.png"):
        figure = {
            "labels": lambda: labels_figure(per_class(3), list(per_class(3)), title="x"),
            "sweep": lambda: sweep_figure(points(["1", "2"], ["cls"], ["knn"])),
            "calibration": lambda: calibration_figure(curve, curve, title="x"),
        }[kind]()
        save_png(figure, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    assert (pixels[0, 0] == 255).all()
    assert pixels.std() > 10


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
