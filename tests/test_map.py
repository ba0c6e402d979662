"""Maps of texts: what is laid out, what is coloured, what the page and the picture show of it."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from embedkit.cli import main
from embedkit.data import LabelCodec, Split
from embedkit.data.text import printable
from embedkit.errors import DataError, MissingExtraError, UsageError
from embedkit.evaluation.map import CUT, TextMap, make_map, sampled, shortened
from embedkit.evaluation.map_figure import MOST_PANELS, map_figure
from embedkit.evaluation.projection import Method, Projection, ProjectionSettings, neighbours_kept, project
from tests.test_pages import HOSTILE, Parsed, assert_closed
from tests.tiny_models import make_sentence_transformer

CANARY = "canary7f3a"


def vectors(n: int, width: int = 8, seed: int = 0) -> np.ndarray[Any, Any]:
    """Two groups far apart."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, width)) + 6 * (np.arange(n) % 2)[:, None]).astype(np.float32)


def split(name: str, inputs: Sequence[Any], labels: Sequence[Any] | None) -> Split:
    kind: Any = "pair" if inputs and isinstance(inputs[0], tuple) else "text"
    given = None if labels is None else list(labels)
    return Split(name, kind, list(inputs), given, np.arange(1, len(inputs) + 1), f"{name}.csv")


def laid(n: int) -> Projection:
    return Projection(np.stack([np.arange(n), np.arange(n) ** 2], axis=1).astype(np.float32), "a rule", 0.5, 0.1)


@dataclass
class Known:
    """A classifier of which only the labels are asked."""

    codec: LabelCodec
    multi_label: bool = False
    thresholds: None = None
    about: dict[str, Any] | None = None


@dataclass
class Given:
    """Answers that are given."""

    codes: np.ndarray[Any, Any]
    probabilities: np.ndarray[Any, Any] | None = None


def modes_of(drawn: TextMap) -> dict[str, list[str | None]]:
    """Return the group of each point by name, by mode."""
    return {
        mode["key"]: [None if code < 0 else mode["names"][code] for code in mode["codes"]]
        for mode in drawn.data()["modes"]
    }


# ------------------------------------------------------------------------------------------------ laying out


# numba compiles UMAP anew in each process
METHODS = ["pca", "tsne", pytest.param("umap", marks=pytest.mark.slow)]


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_decides_and_equal_vectors_lie_together(method: Method) -> None:
    given = np.concatenate([vectors(40), vectors(40)[:10]])
    first, again = (project(given, ProjectionSettings(method, seed=3)) for _ in range(2))
    assert first.points.shape == (50, 2)
    assert np.isfinite(first.points).all()
    np.testing.assert_array_equal(first.points, again.points)
    np.testing.assert_array_equal(first.points[40:], first.points[:10])
    groups = [first.points[:40][np.arange(40) % 2 == side] for side in (0, 1)]
    apart = np.linalg.norm(groups[0].mean(axis=0) - groups[1].mean(axis=0))
    assert apart > max(np.linalg.norm(group - group.mean(axis=0), axis=1).mean() for group in groups)
    assert first.kept > first.chance == 10 / 39


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [5, 6])
def test_few_vectors_are_laid_out_too(method: Method, n: int) -> None:
    assert np.isfinite(project(vectors(n), ProjectionSettings(method)).points).all()


def test_principal_components_are_scikit_learn_s_and_say_their_share() -> None:
    from sklearn.decomposition import PCA

    given = vectors(30)
    pca = PCA(n_components=2).fit(given)
    found = project(given, ProjectionSettings("pca"))
    np.testing.assert_allclose(np.abs(found.points), np.abs(pca.transform(given)), atol=1e-3)
    assert f"{pca.explained_variance_ratio_[0]:.1%}" in found.said


def test_fewer_than_five_different_texts_are_refused() -> None:
    with pytest.raises(DataError, match="at least 5 different texts, and these data have 4"):
        project(np.repeat(vectors(4), 3, axis=0), ProjectionSettings("pca"))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"method": "lda"}, "allowed: umap, pca, tsne"),
        ({"neighbors": 1}, "at least 2"),
        ({"method": "pca", "neighbors": 5}, "leave them out"),
        ({"min_dist": 1.5}, "0 to 1"),
        ({"min_dist": float("nan")}, "0 to 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ProjectionSettings(**wrong)


def test_without_umap_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "umap" else real(name))
    with pytest.raises(MissingExtraError, match=r"pip install 'embedkit\[umap\]'"):
        ProjectionSettings().check_installed("embedkit map")
    ProjectionSettings("pca").check_installed("embedkit map")


def test_a_map_of_vectors_on_a_circle_keeps_all_neighbours() -> None:
    turn = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1).astype(np.float32)
    assert neighbours_kept(circle, circle, seed=0) == 1
    mixed = circle[np.random.default_rng(0).permutation(200)]
    assert neighbours_kept(circle, mixed, seed=0) < 0.15


# ------------------------------------------------------------------------------------------------ which rows


@given(sizes=st.lists(st.integers(0, 20), min_size=1, max_size=3), most=st.integers(1, 40), seed=st.integers(0, 9))
@settings(max_examples=50)
def test_samples_are_rows_in_order(sizes: list[int], most: int, seed: int) -> None:
    given_ = [split(f"s{i}", [f"{i}-{k}" for k in range(size)], None) for i, size in enumerate(sizes)]
    found, note = sampled(given_, most, seed)
    whole = [text for part in given_ for text in part.inputs]
    chosen = [text for part in found for text in part.inputs]
    assert len(chosen) == min(most, len(whole))
    assert [text for text in whole if text in set(chosen)] == chosen
    assert bool(note) == (len(whole) > most)
    assert all((np.diff(part.rows) > 0).all() for part in found)
    assert [part.inputs for part in sampled(given_, most, seed)[0]] == [part.inputs for part in found]


# ------------------------------------------------------------------------------------------------ what is coloured


def test_labels_predictions_errors_and_splits() -> None:
    parts = [split("train", ["a", "b"], ["x", "new"]), split("test", ["c", "d"], None)]
    classifier = Known(LabelCodec(("y", "x")))
    answered = Given(np.array([1, 0, 0, 1]), np.array([[0.1, 0.9], [0.7, 0.3], [0.6, 0.4], [0.2, 0.8]]))
    drawn = make_map(parts, laid(4), title="t", classifier=classifier, answered=answered)  # type: ignore[arg-type]
    assert modes_of(drawn) == {
        "label": ["x", "new", None, None],
        "prediction": ["x", "y", "y", "x"],
        "error": ["right", "wrong", None, None],
        "split": ["train", "train", "test", "test"],
    }
    data = drawn.data()
    assert data["modes"][0]["names"] == data["modes"][1]["names"] == ["y", "x", "new"]  # one colour a label
    assert data["confidence"] == [0.9, 0.7, 0.6, 0.8]
    assert data["rows"] == [1, 2, 1, 2]
    assert data["texts"] == [["a"], ["b"], ["c"], ["d"]]


def test_confidence_is_of_the_label_that_was_predicted() -> None:
    """With thresholds that is not always the most probable one."""
    answered = Given(np.array([1, 0]), np.array([[0.7, 0.3], [0.7, 0.3]]))
    classifier = Known(LabelCodec(("y", "x")))
    given_ = [split("test", ["a", "b"], None)]
    drawn = make_map(given_, laid(2), title="t", classifier=classifier, answered=answered)  # type: ignore[arg-type]
    assert drawn.data()["confidence"] == [0.3, 0.7]


def test_sets_of_labels_are_groups() -> None:
    parts = [split("test", ["a", "b", "c"], [["q", "p"], [], ["p"]])]
    classifier = Known(LabelCodec(("p", "q")), multi_label=True)
    answered = Given(np.array([[True, True], [True, False], [True, False]]), np.full((3, 2), 0.5))
    drawn = make_map(parts, laid(3), title="t", classifier=classifier, answered=answered)  # type: ignore[arg-type]
    assert modes_of(drawn) == {
        "label": ["p | q", "(none)", "p"],
        "prediction": ["p | q", "p", "p"],
        "error": ["right", "wrong", "right"],
    }
    assert drawn.data()["confidence"] is None


@pytest.mark.parametrize(
    ("labels", "declared", "names"),
    [([10, 9, 9], None, ["9", "10"]), (["b", "a", "b"], ("b", "a", "c"), ["b", "a"]), (None, None, [])],
)
def test_labels_stand_in_the_order_of_their_codes(
    labels: list[Any] | None, declared: tuple[str, ...] | None, names: list[str]
) -> None:
    drawn = make_map([split("s", ["a", "b", "c"], labels)], laid(3), title="t", declared=declared)
    (mode,) = drawn.data()["modes"]
    assert mode["names"] == names
    assert [None if code < 0 else names[code] for code in mode["codes"]] == [
        None if labels is None else str(label) for label in labels or [0] * 3
    ]


def test_places_keep_their_shape() -> None:
    data = make_map([split("s", ["a", "b", "c"], None)], laid(3), title="t").data()
    assert data["x"] == [0, 16384, 32768]  # 0, 1, 2 of 4
    assert data["y"] == [0, 16384, 65535]


# ------------------------------------------------------------------------------------------------ the page


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_texts_and_labels_stay_texts(hostile: str) -> None:
    benign = Parsed(make_map([split("s", ["a", "b"], ["x", "y"])], laid(2), title="t").page())
    drawn = make_map(
        [split("s", [hostile, f"a {hostile}"], [hostile, "y"])], laid(2), title=hostile, about=[hostile]
    )
    page = drawn.page()
    page.encode()
    parsed = assert_closed(page)
    assert [name for name in parsed.tags if name != "p"] == [name for name in benign.tags if name != "p"]
    assert parsed.inside("h1") == [printable(hostile, None)]
    found = parsed.data()["points"]
    assert found["texts"] == [[shortened(hostile)], [shortened(f"a {hostile}")]]
    assert printable(hostile, None) in found["modes"][0]["names"]


def test_texts_are_cut_and_pairs_keep_both() -> None:
    drawn = make_map([split("s", [("a\n b", "x" * 2 * CUT)], None)], laid(1), title="t")
    ((first, second),) = drawn.data()["texts"]
    assert first == "a b"
    assert shortened("a" + " " * 9 * CUT + "b") == "a b"
    assert shortened("a " * 9 * CUT) == "a " * (CUT // 2 - 1) + "a…"
    assert second == "x" * (CUT - 1) + "…"
    assert f"cut to {CUT} characters" in drawn.page()


def test_a_page_without_texts_has_none() -> None:
    page = make_map(
        [split("s", [f"{CANARY} {i}" for i in range(3)], list("aba"))], laid(3), title="t", texts=False
    ).page()
    assert CANARY not in page
    assert "holds no texts" in page
    assert "map-search" not in [e.attributes.get("class") for e in assert_closed(page).elements]


def test_the_page_says_how_it_was_made() -> None:
    page = make_map([split("s", ["a", "b"], None)], laid(2), title="t", about=["Features as m gives them."]).page()
    notes = " ".join(assert_closed(page).inside("p"))
    assert "2 texts, laid out by a rule" in notes
    assert "50% are among its 10 nearest on the map (10.0% by chance)" in notes
    assert "Features as m gives them." in notes


# ------------------------------------------------------------------------------------------------ the picture


@pytest.mark.parametrize(("classes", "panels"), [(1, 2), (3, 4), (MOST_PANELS + 7, MOST_PANELS + 1)])
def test_a_panel_for_all_and_for_each_of_the_largest(classes: int, panels: int) -> None:
    labels = [f"c{k}" for k in range(classes) for _ in range(k + 1)]
    drawn = make_map([split("s", ["t"] * len(labels), labels)], laid(len(labels)), title="$x^$ \x1b[31m")
    figure = map_figure(drawn)
    FigureCanvasAgg(figure).draw()
    titles = [axes.get_title() for axes in figure.axes if axes.axison]
    assert titles[0] == f"all: {len(labels)}"
    assert titles[1:] == [f"c{k}: {k + 1}" for k in reversed(range(classes))][: panels - 1]
    counts = [np.asarray(axes.images[1].get_array().filled(0)) ** 2 for axes in figure.axes if axes.axison]
    assert [round(count.sum()) for count in counts] == [len(labels), *range(classes, classes - panels + 1, -1)]
    said = figure.get_suptitle()
    assert ("7 smaller groups not drawn" in said) == (classes > MOST_PANELS)


def test_unlabelled_texts_have_one_panel() -> None:
    figure = map_figure(make_map([split("s", ["a", "b"], None)], laid(2), title="t"))
    assert [axes.get_title() for axes in figure.axes] == ["all: 2"]


# ------------------------------------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sentence_transformer(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, count in (("train", 40), ("test", 20)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows(
                [f"the film {i} was {'good' if i % 2 else 'bad'} {CANARY}{name}", "pos" if i % 2 else "neg"]
                for i in range(count)
            )
    return folder


def run(*arguments: object) -> int:
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.fixture(scope="module")
def artifact(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "head"
    assert run("fit-head", data, "-m", model, "-o", out, "--quiet", "--threads", 1) == 0
    return out


def points_of(page: Path) -> dict[str, Any]:
    found = assert_closed(page.read_text(encoding="utf-8")).data()["points"]
    assert isinstance(found, dict)
    return found


def test_the_command_writes_a_page_and_a_picture(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "map.html"
    assert run("map", data, "-m", model, "-o", out, "--method", "pca", "--json") == 0
    said = capsys.readouterr()
    facts = json.loads(said.out)
    assert (facts["points"], facts["html"], facts["png"]) == (60, str(out), str(out.with_suffix(".png")))
    assert CANARY not in said.err
    assert "the page holds texts" in said.err
    assert sorted(path.name for path in out.parent.iterdir()) == ["map.html", "map.png"]
    found = points_of(out)
    assert [mode["key"] for mode in found["modes"]] == ["label", "split"]
    assert f"<title>Map of {data.name}</title>" in out.read_text(encoding="utf-8")
    assert str(data.parent) not in out.read_text(encoding="utf-8")
    assert found["texts"][40] == [f"the film 0 was bad {CANARY}test"]
    with Image.open(out.with_suffix(".png")) as picture:
        assert picture.size[0] > 500
    before = out.read_bytes(), out.with_suffix(".png").read_bytes()
    assert run("map", data, "-m", model, "-o", out, "--method", "pca") == 2
    assert run("map", data, "-m", model, "-o", out, "--method", "pca", "--overwrite", "--quiet") == 0
    assert (out.read_bytes(), out.with_suffix(".png").read_bytes()) == before


def test_a_classifier_s_map_has_its_answers_on_what_evaluate_judges(
    artifact: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "map.html"
    assert run("map", data, "--artifact", artifact, "-o", out, "--method", "pca", "--quiet") == 0
    assert run("evaluate", artifact, data, "--json", "--quiet") == 0
    judged = json.loads(capsys.readouterr().out.splitlines()[-1])["splits"]["test"]
    found = {mode["key"]: mode for mode in points_of(out)["modes"]}
    assert set(found) == {"label", "prediction", "error"}
    assert len(found["error"]["codes"]) == judged["n"] == 20
    assert 1 - np.mean(found["error"]["codes"]) == pytest.approx(judged["accuracy"])


def test_a_fine_tuned_classifier_shows_its_own_view(model: Path, data: Path, tmp_path: Path) -> None:
    tuned, out = tmp_path / "ft", tmp_path / "map.html"
    flags = ("--epochs", 1, "--precision", "float32", "--threads", 1, "--device", "cpu", "--quiet")
    assert run("finetune", data, "-m", model, "-o", tuned, *flags) == 0
    assert run("map", data, "--artifact", tuned, "-o", out, "--method", "pca", "--quiet") == 0
    assert {mode["key"] for mode in points_of(out)["modes"]} == {"label", "prediction", "error"}


def test_a_picture_alone(model: Path, data: Path, tmp_path: Path) -> None:
    flags = ("--method", "pca", "--points", 30, "--split", "train", "--quiet")
    assert run("map", data, "-m", model, "-o", tmp_path / "m.png", *flags) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["m.png"]


def test_a_sample_is_said(model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--method", "pca", "--points", 30, "--no-texts")
    assert run("map", data, "-m", model, "-o", tmp_path / "m.html", *flags) == 0
    note = "30 of 60 rows are drawn, chosen at random by seed 42."
    assert note in capsys.readouterr().err
    page = (tmp_path / "m.html").read_text()
    assert note in page
    assert CANARY not in page


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("-o", "m.pdf"), ".html or .png"),
        (("-o", "m.html", "--method", "pca", "--neighbors", "5"), "leave them out"),
        (("-o", "m.html", "--split", "dev"), "no split 'dev'"),
        (("-o", "m.html", "--artifact", "ART", "--pooling", "cls"), "leave out --pooling"),
    ],
)
def test_what_cannot_be_is_said_and_leaves_nothing(
    flags: tuple[str, ...], said: str, artifact: Path, model: Path, data: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    given_ = [str(artifact) if flag == "ART" else flag for flag in flags]
    assert run("map", data, *([] if "--artifact" in flags else ["-m", model]), *given_) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
