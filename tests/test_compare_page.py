"""The report of a comparison: every figure is that of ``compare.json``, and an empty cell says why."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from embedkit.data import Split
from embedkit.data.text import printable
from embedkit.evaluation.compare.figures import costs_figure, scores_figure
from embedkit.evaluation.compare.files import report_text
from embedkit.evaluation.compare.page import MOST_MATRIX, figure_text, report_page
from embedkit.evaluation.compare.result import (
    Advice,
    Cell,
    Comparison,
    Crossing,
    Detail,
    Difference,
    Method,
    Point,
    Served,
    Size,
    SizeAdvice,
    WrongRow,
)
from embedkit.evaluation.map import TextMap, make_map, shortened
from embedkit.evaluation.projection import Projection
from tests.test_pages import HOSTILE, Parsed, assert_closed

CANARY = "canary7f3a"
FORMS = {
    "score": lambda value: f"{value:.3f}",
    "change": lambda value: f"{value:+.3f}",
    "share": lambda value: f"{value:.1%}",
    "p": lambda value: f"{value:.4f}",
    "count": lambda value: f"{value:,}",
    "time": lambda value: next(
        f"{value:{form}}"
        for least, form in ((100, ",.0f"), (10, ".1f"), (0.1, ".2f"), (0, ".2g"))
        if value >= least
    ),
}


def cell(method: str, size: str, seed: int, accuracy: float, seconds: float) -> Cell:
    scores = {
        "accuracy": accuracy,
        "accuracy_ci95": [accuracy - 0.02, accuracy + 0.02],
        "macro_f1": accuracy - 0.003,
    }
    return Cell(method, size, seed, "done", "", 1234, scores, seconds, 512.25, 77, ["a note"])


def made(labels: tuple[str, ...] = ("bad", "good")) -> Comparison:
    """Two methods at two sizes with two seeds, of which one cell failed and a pair was skipped."""
    cells = [
        cell("tfidf", "8", 1, 0.6123, 0.123),
        cell("tfidf", "8", 2, 0.6345, 0.125),
        cell("tfidf", "full", 1, 0.7456, 12.34),
        Cell("tfidf", "full", 2, "failed", "DataError: 3 rows"),
        cell("frozen", "8", 1, 0.7012, 4567.8),
        cell("frozen", "8", 2, 0.7112, 4567.8),
        Cell("frozen", "full", 1, "skipped", "about 40 min, and 3 min are left"),
        Cell("frozen", "full", 2, "missing"),
    ]
    points = [
        Point("tfidf", "8", 2, 0.6234, 0.5987, 0.6501, 0.6234, 0.6204, 0.124, 512.25),
        Point("tfidf", "full", 1, 0.7456, 0.7256, 0.7656, 0.7456, 0.7426, 12.34, None),
        Point("frozen", "8", 2, 0.7062, 0.6811, 0.7301, 0.7062, 0.7032, 4567.8, 999.5),
    ]
    n = len(labels)
    confusion = [[100 * (row == column) + row + 2 * column for column in range(n)] for row in range(n)]
    per_class = {
        label: {
            "precision": 0.9 - place / 100,
            "recall": 0.81,
            "f1": 0.85,
            "support": 1066 + place,
            "predicted": 9,
        }
        for place, label in enumerate(labels)
    }
    errors = [WrongRow(7, labels[0], labels[1], 0.9876), WrongRow(2345, labels[1], labels[0], None)]
    lengths = {"min": 1, "mean": 20.5, "median": 19, "p90": 33, "p99": 51, "max": 1061}
    facts = {"source": "x", "rows": 8530, "labels": {label: 4000 + at for at, label in enumerate(labels)},
             "characters": lengths, "words": lengths, "duplicates": 13,
             "conflicts": {"texts": 2, "example_rows": [1, 5]}}  # fmt: skip
    return Comparison(
        task="text",
        metric="accuracy",
        judged="test",
        judged_rows=1066,
        labels=list(labels),
        seeds=[1, 2],
        sizes=[Size("8", 8, 16, 8.0), Size("full", None, 8530, 4265.0)],
        methods=[Method("tfidf", "tfidf", {}, "TF-IDF + logreg"), Method("frozen", "frozen", {}, "frozen MiniLM")],
        cells=cells,
        points=points,
        differences=[Difference("8", "tfidf", "frozen", 2, -0.0828, -0.1101, -0.0522, 0.0005, 0.001)],
        served=[
            Served("tfidf", "full", 1, "scikit-learn", 0.456, 2345.6, 1.25, score=0.7456),
            Served("frozen", "8", 1, "onnx float32", 4.56, 301.2, 91.7, score=0.7062),
            Served("frozen", "8", 1, "onnx int8", 2.01, 567.8, 23.5, -0.0047, "accuracy", 0.7015),
            Served("frozen", "8", 2, "onnx int8", why="it does not hold"),
        ],
        details=[Detail("tfidf", "full", 1, per_class, list(labels), confusion, errors, 271)],
        advice=Advice(
            "serve", 0.01, "the cheapest within a point",
            [SizeAdvice("8", "frozen", "frozen", ["frozen"], {"tfidf": 4321}, "take frozen"),
             SizeAdvice("full", "tfidf", "tfidf", ["tfidf"], {"frozen": None}, "take tfidf")],
            [Crossing("frozen", "tfidf", 60.0, 8.0, 4265.0)],
            ["With all labels take TF-IDF.", "With fewer than about 60 take frozen."],
        ),
        data={"name": "reviews", "splits": {"train": facts, "test": facts}, "leaks": {"test": 17},
              "notes": ["a note"]},
        made={"command": "embedkit compare reviews -o out", "versions": {"numpy": "2.4.6"},
              "digests": {"train": "ab12"}, "threads": 2},
    )  # fmt: skip


def drawn() -> TextMap:
    labels = ["bad", "good", "bad"]
    split = Split("test", "text", [f"{CANARY} {i}" for i in range(3)], labels, np.array([1, 2, 3]), "t.csv")
    points = np.array([[0, 0], [1, 2], [3, 4]], np.float32)
    return make_map([split], Projection(points, "a rule", 0.5, 0.1), title="Map of reviews")


def value_at(given: Any, path: list[str | int]) -> Any:
    for key in path:
        given = given[key]
    return given


def figures(page: str, given: dict[str, Any]) -> dict[tuple[str | int, ...], str]:
    """Return every figure of a page by its path in the JSON; fails where the two differ."""
    found = {}
    for element in assert_closed(page).elements:
        if "data-from" not in element.attributes:
            continue
        path = json.loads(str(element.attributes["data-from"]))
        expected = FORMS[str(element.attributes["data-form"])](value_at(given, path))
        assert element.text == expected, path
        found[tuple(path)] = element.text
    return found


def numbers(given: Any, path: tuple[str | int, ...] = ()) -> dict[tuple[str | int, ...], float]:
    """Return every number below a value by its path."""
    if isinstance(given, dict | list):
        pairs = given.items() if isinstance(given, dict) else enumerate(given)
        return {key: value for name, inner in pairs for key, value in numbers(inner, (*path, name)).items()}
    return {path: given} if isinstance(given, int | float) and not isinstance(given, bool) else {}


def test_every_figure_is_that_of_the_json_and_none_is_missing() -> None:
    given = json.loads(json.dumps(made().to_json()))
    found = figures(report_page(made(), drawn=drawn()), given)
    for part, names in {
        "points": {"score", "low", "high"},
        "served": {"latency_ms", "per_second", "megabytes", "score_change"},
        "differences": {"difference", "low", "high", "p_value", "p_holm", "seeds"},
        "cells": {"rows", "accuracy", "macro_f1", "train_seconds", "peak_mb", "computed"},
        "details": {"precision", "recall", "f1", "support", "predicted", "confidence", "wrong"},
    }.items():
        wanted = {path for path in numbers(given[part], (part,)) if path[-1] in names}
        assert wanted, part
        assert wanted <= set(found), part
    matrix = numbers(given["details"][0]["confusion"], ("details", 0, "confusion"))
    assert set(matrix) <= set(found)
    for name in ("rows", "duplicates"):
        assert ("data", "splits", "train", name) in found
    assert found["data", "leaks", "test"] == "17"
    assert found["judged_rows",] == "1,066"


def test_charts_draw_the_figures_of_the_json() -> None:
    given = made()
    found = assert_closed(report_page(given)).data()["chart-data"]
    drawn_points = {
        (line["name"], point["size"]): (point["score"], point["low"], point["high"], point["seconds"])
        for line in found["lines"]
        for point in line["points"]
    }
    label = {method.name: method.label for method in given.methods}
    assert drawn_points == {
        (label[point.method], point.size): (point.score, point.low, point.high, point.train_seconds)
        for point in given.points
    }
    assert [point["labels"] for point in found["lines"][0]["points"]] == [8.0, 4265.0]
    served = [(entry["name"], entry["how"], entry["milliseconds"], entry["score"]) for entry in found["served"]]
    assert served == [
        ("TF-IDF + logreg", "scikit-learn", 0.456, 0.7456),
        ("frozen MiniLM", "onnx float32", 4.56, 0.7062),
        ("frozen MiniLM", "onnx int8", 2.01, 0.7015),
    ]


def test_pictures_draw_the_figures_of_the_json() -> None:
    given = made()
    (axes,) = scores_figure(given).axes
    lines = {line.get_label(): [values.tolist() for values in line.get_data()] for line in axes.lines}
    assert lines == {
        "TF-IDF + logreg": [[8.0, 4265.0], [0.6234, 0.7456]],
        "frozen MiniLM": [[8.0], [0.7062]],
    }
    found = [
        {entry.get_label(): [values.tolist() for values in entry[0].get_data()] for entry in axes.containers}
        for axes in costs_figure(given).axes
    ]
    assert found == [
        {"TF-IDF + logreg (full)": [[cost], [0.7456]], "frozen MiniLM (8)": [[other], [0.7062]]}
        for cost, other in ((0.456, 4.56), (12.34, 4567.8))
    ]


@pytest.mark.parametrize(
    ("costs", "limits", "ticks"),
    [
        ((2.96, 3.05), (1, 10), ["1", "2", "5", "10"]),  # nearly equal: not at the two ends of the picture
        ((0.456, 4567.8), (0.1, 10_000), ["0.1", "1", "10", "100", "1,000", "10,000"]),
        ((10.0, 10.0), (10, 100), ["10", "20", "50", "100"]),
    ],
)
def test_costs_stand_on_whole_decades(
    costs: tuple[float, float], limits: tuple[float, float], ticks: list[str]
) -> None:
    given = made()
    served = [replace(given.served[0], method=point.method, how="onnx float32", latency_ms=cost)
              for point, cost in zip(given.points[-2:], costs, strict=True)]  # fmt: skip
    assert len({entry.method for entry in served}) == 2
    axes = costs_figure(replace(given, served=served)).axes[0]
    low, high = axes.get_xlim()
    assert (low, high) == pytest.approx((limits[0] / 1.1, limits[1] * 1.1))
    places = [place for place in axes.get_xticks() if low <= place <= high]
    assert axes.xaxis.get_major_formatter().format_ticks(places) == ticks


def test_sizes_of_small_classes_stand_where_they_are_and_are_called_as_asked() -> None:
    sizes = [Size("8", 8, 40, 8.0), Size("128", 128, 168, 33.6), Size("full", None, 240, 48.0)]
    points = [replace(made().points[0], size=size.name) for size in sizes]
    (axes,) = scores_figure(replace(made(), sizes=sizes, points=points)).axes
    assert axes.get_xticks().tolist() == [8.0, 33.6, 48.0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["8", "128 (34)", "48"]


def test_methods_look_different_in_a_picture() -> None:
    given = made()
    many = [Method(f"m{place}", "tfidf", {}, f"method {place}") for place in range(12)]
    points = [replace(given.points[0], method=method.name) for method in many]
    (axes,) = scores_figure(replace(given, methods=many, points=points)).axes
    assert len({(line.get_color(), line.get_marker()) for line in axes.lines}) == 12


def test_a_change_by_int8_is_of_its_own_metric() -> None:
    """Rows with several labels are compared by macro F1, and int8 is judged by micro F1."""
    given = made()
    served = [replace(entry, metric="micro_f1", score=None) if entry.metric else entry for entry in given.served]
    parsed = assert_closed(report_page(replace(given, metric="macro_f1", served=served)))
    assert [entry["how"] for entry in parsed.data()["chart-data"]["served"]] == ["scikit-learn", "onnx float32"]
    assert [e.text for e in parsed.elements if e.name == "td" and "micro F1" in e.text] == [" micro F1"]
    assert "-0.0047 micro F1" in report_text(replace(given, served=served))


def test_an_empty_cell_says_why() -> None:
    parsed = Parsed(report_page(made()))
    (why,) = (element.text for element in parsed.elements if element.attributes.get("class") == "words why")
    assert why == "skipped: about 40 min, and 3 min are left; not run yet"
    assert "failed: DataError: 3 rows" in parsed.inside("bdi")
    assert "it does not hold" in parsed.inside("bdi")
    asked = replace(made(), cells=[], points=made().points[:1])
    whys = [e.text for e in Parsed(report_page(asked)).elements if e.attributes.get("class") == "words why"]
    assert whys == ["not asked for"] * 3


def test_the_advice_comes_first_and_the_parts_follow_in_order() -> None:
    parsed = Parsed(report_page(made(), drawn=drawn()))
    assert parsed.inside("h2") == [
        "What to take", "Scores: accuracy", "Score over labels", "Cost against quality",
        "Differences between methods", "What has no figures", "Label by label", "The map",
        "The most confident errors", "The data", "How to make it again",
    ]  # fmt: skip
    advice = [element.text for element in parsed.elements if element.attributes.get("class") == "advice"]
    assert advice == ["With all labels take TF-IDF.", "With fewer than about 60 take frozen."]
    assert "TF-IDF + logreg: about 4,300 more rows would, if the difference stays as it is" in parsed.inside("bdi")
    assert "frozen MiniLM: its runs differ too much, so more seeds would have to tell (--seeds)" in parsed.inside(
        "bdi"
    )
    assert parsed.inside("pre") == [""]
    assert "embedkit compare reviews -o out" in parsed.inside("bdi")
    assert {"versions numpy", "2.4.6", "digests train", "ab12", "threads", "1, 2"} <= set(parsed.inside("bdi"))
    unlimited = Parsed(report_page(replace(made(), made={"budget_seconds": None}))).inside("bdi")
    assert "not given" in unlimited
    assert "None" not in unlimited


def test_a_comparison_without_any_result_says_so_in_every_part() -> None:
    empty = replace(made(), points=[], differences=[], served=[], details=[], advice=None, interrupted=True,
                    cells=[Cell("tfidf", "8", 1, "missing")])  # fmt: skip
    parsed = assert_closed(report_page(empty))
    said = " ".join(parsed.inside("p"))
    assert "Nothing can be advised" in said
    assert "nothing to draw" in said
    assert "There is no map" in said
    assert "the same command goes on with it" in " ".join(parsed.inside("strong"))
    assert [element for element in parsed.elements if element.attributes.get("class") == "chart"] == []


def test_errors_show_their_texts_or_none() -> None:
    texts: dict[int, Any] = {7: f"a {CANARY}\n text", 2345: ("first", "second")}
    with_texts = Parsed(report_page(made(), texts=texts))
    assert {f"a {CANARY} text", "first", "second"} <= set(with_texts.inside("p"))
    without = report_page(made())
    assert CANARY not in without
    assert without.count("(texts are left out)") == 2
    words: dict[int, Any] = {7: ["a", CANARY]}
    assert f"a {CANARY}" in Parsed(report_page(made(), texts=words)).inside("p")


def test_many_labels_are_listed_by_their_confusions() -> None:
    labels = tuple(f"label {i}" for i in range(MOST_MATRIX + 1))
    page = report_page(made(labels))
    assert "matrix" not in [element.attributes.get("class") for element in Parsed(page).elements]
    found = figures(page, json.loads(json.dumps(made(labels).to_json())))
    shown = {path for path in found if path[2:3] == ("confusion",)}
    assert len(shown) == 20
    assert ("details", 0, "confusion", 24, 25) in shown
    assert "26 labels are too many" in page


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_comes_from_data_stays_text(hostile: str) -> None:
    benign = Parsed(report_page(made(), texts={7: "x", 2345: "y"}, drawn=drawn())).tags
    given = made((hostile, "good"))
    given = replace(
        given,
        methods=[Method("tfidf", "tfidf", {}, hostile), given.methods[1]],
        data={**given.data, "name": hostile, "notes": [hostile]},
        made={**given.made, "command": hostile},
        cells=[*given.cells[:-1], Cell("frozen", "full", 2, "failed", hostile)],
    )
    page = report_page(given, texts={7: hostile, 2345: "y"}, drawn=drawn())
    page.encode()
    parsed = assert_closed(page)
    assert parsed.tags == benign
    assert printable(hostile, None) in parsed.inside("bdi")
    assert shortened(hostile) in parsed.inside("p")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [0, 0.5, 9.994, 99.94, 12345])
def test_figures_are_written_in_one_way(form: str, value: float) -> None:
    assert figure_text(value, form) == FORMS[form](value)
