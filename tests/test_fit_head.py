"""Heads beyond one label a row: several labels, thresholds, calibration, rows added later, saved objects."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import f1_score, hamming_loss, precision_score, recall_score

import embedkit
from embedkit import EmbeddingClassifier, TextEncoder
from embedkit.artifact import load_arrays, staged
from embedkit.encoders import EncoderSettings, FeatureExtractor
from embedkit.estimators.frozen import load_frozen
from embedkit.store import FeatureStore, text_keys
from tests import test_cli
from tests.test_cli import Cli, Told, names, write_csv, write_jsonl
from tests.test_sweep import Rows, folder_of, labelled, tagged, told_by

cli, model = test_cli.cli, test_cli.model
LABELS = ("bad", "good", "money")
QUICK = {"hist-gb": ["--clf-param", "max_iter=4", "--clf-param", "min_samples_leaf=5"]}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the drawing out, which takes most of a run on few rows; tests/test_report.py looks at pictures."""
    monkeypatch.setattr("embedkit.evaluation.report.save_png", lambda figure, path: path.write_bytes(b""))


def manifest_of(folder: Path | str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(folder, "embedkit.json").read_text("utf-8"))
    return found


def metrics_of(folder: Path | str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(folder, "metrics.json").read_text("utf-8"))
    return found


def edited(folder: Path, target: Path, **changes: Any) -> Path:
    """Return a copy of an artifact whose manifest says something else."""
    shutil.copytree(folder, target)
    (target / "embedkit.json").write_text(json.dumps({**manifest_of(target), **changes}), "utf-8")
    return target


def texts_of(rows: Rows) -> list[str]:
    return [row["text"] for row in rows]


def matrix_of(rows: Sequence[dict[str, Any]], labels: Sequence[str] = LABELS) -> Any:
    return np.array([[label in row["labels"] for label in labels] for row in rows])


def scores_of(answers: Sequence[dict[str, Any]], field: str = "scores", labels: Sequence[str] = LABELS) -> Any:
    return np.array([[answer[field][label] for label in labels] for answer in answers])


# --------------------------------------------------------------------------------------- several labels a row


class Tagger(NamedTuple):
    """A classifier of three labels, fitted by the command, with its data and store."""

    folder: Path
    data: Path
    store: Path
    test: Rows
    told: dict[str, Any]

    def cli(self, cli: Cli, command: str, *arguments: object, code: int = 0) -> Told:
        return cli(command, *arguments, "--store", self.store, code=code)

    def answers(self, cli: Cli, folder: Path | None = None) -> list[dict[str, Any]]:
        return self.cli(cli, "predict", folder or self.folder, *texts_of(self.test)).lines


@pytest.fixture(scope="module")
def tagger(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Tagger:
    root = tmp_path_factory.mktemp("tagger")
    test = tagged(24, 1)
    data = folder_of(root / "data", train=tagged(60), test=test)
    command = ["fit-head", data, "-m", model, "--scale", "standard", "-o", root / "out", "--store", root / "store"]
    return Tagger(root / "out", data, root / "store", test, told_by(command))


def test_a_tagger_says_what_it_is(tagger: Tagger) -> None:
    manifest = manifest_of(tagger.folder)
    assert manifest["problem_type"] == "multi_label_classification"
    assert manifest["labels"] == list(LABELS)
    assert manifest["thresholds"]["on"] == "probability"
    assert manifest["thresholds"]["metric"] == "f1"
    assert len(manifest["thresholds"]["values"]) == 3
    assert manifest["head_settings"]["tuned_on"] == "train, out of fold"
    assert tagger.told["thresholds"] == manifest["thresholds"]
    assert {len(row["labels"]) for row in tagger.test} == {0, 1, 3}


def test_a_label_is_given_where_its_score_is_above_its_threshold(cli: Cli, tagger: Tagger) -> None:
    thresholds = manifest_of(tagger.folder)["thresholds"]["values"]
    assert any(value != 0.5 for value in thresholds)
    answers = tagger.answers(cli)
    assert all(list(answer) == ["labels", "scores"] for answer in answers)
    given, scores = matrix_of(answers), scores_of(answers)
    np.testing.assert_array_equal(given, scores > np.array(thresholds))
    assert not np.array_equal(given, scores > 0.5)  # the thresholds do decide

    loaded = embedkit.load(tagger.folder, store=tagger.store)
    assert [list(labels) for labels in loaded.predict(texts_of(tagger.test))] == [a["labels"] for a in answers]
    np.testing.assert_allclose(loaded.predict_proba(texts_of(tagger.test)), scores, atol=1e-9)


def test_figures_are_those_of_scikit_learn(cli: Cli, tagger: Tagger) -> None:
    judged = tagger.cli(cli, "evaluate", tagger.folder, tagger.data, "--json").json["splits"]["test"]
    assert judged == metrics_of(tagger.folder)["splits"]["test"] == tagger.told["splits"]["test"]
    true, given = matrix_of(tagger.test), matrix_of(tagger.answers(cli))
    for average in ("micro", "macro", "weighted"):
        assert judged[f"{average}_f1"] == pytest.approx(f1_score(true, given, average=average, zero_division=0))
    assert judged["micro_precision"] == pytest.approx(precision_score(true, given, average="micro"))
    assert judged["micro_recall"] == pytest.approx(recall_score(true, given, average="micro"))
    assert judged["subset_accuracy"] == pytest.approx((true == given).all(axis=1).mean())
    assert judged["hamming_loss"] == pytest.approx(hamming_loss(true, given))
    for place, label in enumerate(LABELS):
        assert judged["per_class"][label]["f1"] == pytest.approx(f1_score(true[:, place], given[:, place]))
        assert judged["per_class"][label]["support"] == true[:, place].sum()


@pytest.mark.parametrize("values", [[-1.0, -1.0, -1.0], [2.0, 2.0, 2.0], [2.0, -1.0, 0.3]])
def test_other_thresholds_give_other_labels_and_the_same_scores(
    cli: Cli, tagger: Tagger, tmp_path: Path, values: list[float]
) -> None:
    thresholds = {**manifest_of(tagger.folder)["thresholds"], "values": values}
    folder = edited(tagger.folder, tmp_path / "edited", thresholds=thresholds)
    before, after = tagger.answers(cli), tagger.answers(cli, folder)
    np.testing.assert_array_equal(scores_of(before), scores_of(after))
    np.testing.assert_array_equal(matrix_of(after), scores_of(after) > np.array(values))
    judged = tagger.cli(cli, "evaluate", folder, tagger.data, "--json").json["splits"]["test"]
    true, given = matrix_of(tagger.test), matrix_of(after)
    assert judged["micro_f1"] == pytest.approx(f1_score(true, given, average="micro", zero_division=0))
    assert judged["labels_per_row"]["predicted"] == pytest.approx(given.sum(axis=1).mean())
    loaded = embedkit.load(folder, store=tagger.store)
    assert [list(labels) for labels in loaded.predict(texts_of(tagger.test))] == [row["labels"] for row in after]
    again = load_frozen(folder, store=tagger.store)
    with staged(tmp_path / "again") as stage:
        replace(again, thresholds=replace(again.thresholds, values=(-1.0,) * 3)).save(stage)  # type: ignore[type-var]
    assert {tuple(row["labels"]) for row in tagger.answers(cli, tmp_path / "again")} == {LABELS}


@pytest.mark.parametrize("count", [0, 2, 4])
def test_thresholds_that_do_not_fit_the_labels_are_refused(
    cli: Cli, tagger: Tagger, tmp_path: Path, count: int
) -> None:
    thresholds = {**manifest_of(tagger.folder)["thresholds"], "values": [0.5] * count}
    folder = edited(tagger.folder, tmp_path / "edited", thresholds=thresholds)
    tagger.cli(cli, "predict", folder, "a film", code=65)


def test_labels_in_one_cell_are_those_of_a_list(cli: Cli, tagger: Tagger, model: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        lines = (tagger.data / f"{split}.jsonl").read_text("utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        write_csv(tmp_path / f"data/{split}.csv", [{**row, "labels": " ; ".join(row["labels"])} for row in rows])
    flags = ["--label-separator", ";", "--scale", "standard", "--json"]
    told = tagger.cli(cli, "fit-head", tmp_path / "data", "-m", model, *flags, "-o", "out")
    assert told.json["splits"] == tagger.told["splits"]
    assert told.json["computed"] == 0
    judged = tagger.cli(cli, "evaluate", "out", tmp_path / "data", "--label-separator", ";", "--json").json
    assert judged["splits"] == told.json["splits"]
    assert tagger.answers(cli, Path("out")) == tagger.answers(cli)
    assert "missing label" in tagger.cli(cli, "evaluate", "out", tmp_path / "data", code=65).err


def test_splits_are_written_in_one_way(cli: Cli, tagger: Tagger, model: Path, tmp_path: Path) -> None:
    data = folder_of(tmp_path / "data", train=tagged(20), test=[{"text": "a film", "labels": "bad"}])
    told = tagger.cli(cli, "fit-head", data, "-m", model, "-o", "out", code=65)
    assert "train.jsonl" in told.err
    assert "test.jsonl" in told.err
    one = folder_of(tmp_path / "one", test=[{"text": "a film", "label": "bad"}])
    said = tagger.cli(cli, "evaluate", tagger.folder, one, code=65).err
    assert "has one label a row, but this classifier gives several labels a row" in said


def test_labels_that_training_never_saw_are_misses(cli: Cli, tagger: Tagger, model: Path, tmp_path: Path) -> None:
    test = [*tagger.test[:6], {"text": "a new thing", "labels": ["new", "good"]}, {"text": "none", "labels": []}]
    data = folder_of(tmp_path / "data", train=tagged(60), test=test)
    told = tagger.cli(cli, "fit-head", data, "-m", model, "--calibrate", "-o", "out", "--json")
    judged = told.json["splits"]["test"]
    assert judged["unseen_labels"] == ["new"]
    assert judged["per_class"]["new"] == {"precision": 0, "recall": 0, "f1": 0, "support": 1, "predicted": 0}
    assert "labels 'new' (1 row) do not occur in train" in told.err
    assert set(judged["calibration"]) == {"before", "after"}
    again = tagger.cli(cli, "evaluate", "out", data, "--json").json["splits"]["test"]
    assert {**again, "calibration": judged["calibration"]} == judged


def test_rows_without_a_label_are_rows(cli: Cli, tagger: Tagger, model: Path, tmp_path: Path) -> None:
    empty = [{"text": f"nothing {i}", "labels": []} for i in range(4)]
    data = folder_of(
        tmp_path / "data", train=[*tagged(40), *empty], validation=[*tagged(20, 2), *empty], test=empty
    )
    told = tagger.cli(cli, "fit-head", data, "-m", model, "-o", "out", "--json").json
    assert told["head"]["tuned_on"] == "validation"
    assert told["splits"]["test"]["labels_per_row"]["true"] == 0
    only = folder_of(tmp_path / "only", train=empty)
    assert "no labelled rows" in tagger.cli(cli, "fit-head", only, "-m", model, "-o", "no", code=65).err


def test_without_thresholds_a_label_needs_a_half(cli: Cli, tagger: Tagger, model: Path) -> None:
    flags = ["--scale", "standard", "--thresholds", "none", "-o", "out", "--json"]
    told = tagger.cli(cli, "fit-head", tagger.data, "-m", model, *flags).json
    assert told["thresholds"] is manifest_of("out")["thresholds"] is None
    assert told["head"]["tuned_on"] is None
    answers = tagger.answers(cli, Path("out"))
    np.testing.assert_array_equal(matrix_of(answers), scores_of(answers) > 0.5)
    np.testing.assert_array_equal(scores_of(answers), scores_of(tagger.answers(cli)))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--thresholds", "macro-f1"], "macro-f1 is for two classes"),
        (["--thresholds", "nonsense"], "not for 'nonsense'"),
        (["--metric", "accuracy"], "allowed: micro-f1, macro-f1, subset-accuracy"),
        (["--class-weight", '{"Good": 2}'], "unknown labels: Good; known: bad, good, money"),
    ],
)
def test_what_several_labels_do_not_have_is_refused_before_anything_is_encoded(
    cli: Cli, tagger: Tagger, model: Path, tmp_path: Path, flags: list[str], said: str
) -> None:
    for more in ([], ["--clf", "logreg,linear-svm", "--jobs", "1"]):
        assert said in cli("fit-head", tagger.data, "-m", model, "-o", "out", *flags, *more, code=2).err
    assert not list((tmp_path / "store").glob("v1/*/shards"))


@pytest.mark.parametrize("clf", ["linear-svm", "ridge", "sklearn:svm.SVC"])
def test_a_head_without_probabilities_prints_margins(cli: Cli, tagger: Tagger, model: Path, clf: str) -> None:
    fit = ["fit-head", tagger.data, "-m", model, "--clf", clf, "-o", "out", "--overwrite"]
    tagger.cli(cli, *fit)
    thresholds = manifest_of("out")["thresholds"]
    assert thresholds["on"] == "score"
    answers = tagger.answers(cli, Path("out"))
    assert all(list(answer) == ["labels", "margins"] for answer in answers)
    margins = scores_of(answers, "margins")
    np.testing.assert_array_equal(matrix_of(answers), margins > np.array(thresholds["values"]))
    assert (margins < 0).any()
    loaded = embedkit.load("out", store=tagger.store)
    np.testing.assert_allclose(loaded.decision_function(texts_of(tagger.test)), margins, atol=1e-9)
    assert [list(labels) for labels in loaded.predict(texts_of(tagger.test))] == [a["labels"] for a in answers]

    tagger.cli(cli, *fit, "--calibrate")
    assert manifest_of("out")["thresholds"]["on"] == "probability"
    answers = tagger.answers(cli, Path("out"))
    scores = scores_of(answers)
    assert ((scores > 0) & (scores < 1)).all()
    np.testing.assert_array_equal(
        matrix_of(answers), scores > np.array(manifest_of("out")["thresholds"]["values"])
    )


@pytest.mark.parametrize("clf", ["logreg", "linear-svm", "knn"])
def test_a_label_of_all_rows_and_one_label_alone(cli: Cli, model: Path, tmp_path: Path, clf: str) -> None:
    every = [{"text": row["text"], "labels": ["every", *row["labels"]]} for row in tagged(40)]
    told = cli("fit-head", folder_of(tmp_path / "every", train=every), "-m", model, "--clf", clf, "-o", "every")
    assert "always predicted" in told.err
    (answer,) = cli("predict", "every", "good film").lines
    assert "every" in answer["labels"]
    assert answer.get("scores", answer.get("margins"))["every"] >= 1  # a margin without end, as JSON has it

    one = [{"text": row["text"], "labels": [x for x in row["labels"] if x == "good"]} for row in tagged(40)]
    cli("fit-head", folder_of(tmp_path / "one", train=one, test=one[:8]), "-m", model, "--clf", clf, "-o", "one")
    (answer,) = cli("predict", "one", "good film").lines
    assert set(answer.get("scores", answer.get("margins"))) == {"good"}
    assert cli("evaluate", "one", tmp_path / "one", "--json").json["splits"]["test"]["n"] == 8


# ---------------------------------------------------------------------------------- two classes: thresholds


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reviews")
    return folder_of(root, train=labelled(50), validation=labelled(20, 2), test=labelled(24, 1))


@pytest.mark.parametrize("positive", ["neg", "pos"])
@pytest.mark.parametrize(("metric", "clf"), [("f1", "logreg"), ("mcc", "linear-svm"), ("macro-f1", "knn")])
def test_thresholds_of_two_classes(
    cli: Cli, model: Path, reviews: Path, positive: str, metric: str, clf: str
) -> None:
    flags = ["--thresholds", metric, "--positive-label", positive, "--clf", clf, "-o", "out", "--json"]
    told = cli("fit-head", reviews, "-m", model, *flags).json
    found = told["thresholds"]
    assert (found["metric"], found["positive"]) == (metric, ("neg", "pos").index(positive))
    (threshold,) = found["values"]
    field = "margins" if clf == "linear-svm" else "scores"
    rows = labelled(24, 1)
    answers = cli("predict", "out", *texts_of(rows)).lines
    other = {"neg": "pos", "pos": "neg"}[positive]
    for answer in answers:
        assert answer["label"] == (positive if answer[field][positive] > threshold else other)
        if field == "scores":
            assert answer["score"] == answer["scores"][answer["label"]]
        else:
            assert answer["margins"]["neg"] == -answer["margins"]["pos"]
    right = np.mean([answer["label"] == row["label"] for answer, row in zip(answers, rows, strict=True)])
    assert told["splits"]["test"]["accuracy"] == pytest.approx(right)
    assert cli("evaluate", "out", reviews, "--json").json["splits"]["test"]["accuracy"] == pytest.approx(right)
    assert list(embedkit.load("out").predict(texts_of(rows))) == [answer["label"] for answer in answers]

    flipped = {**found, "values": [1e9]}
    none = cli("predict", edited(Path("out"), Path("none"), thresholds=flipped), *texts_of(rows)).lines
    assert {answer["label"] for answer in none} == {other}
    assert [answer[field] for answer in none] == [answer[field] for answer in answers]


def test_f1_of_two_classes_needs_the_positive_one_before_anything_is_encoded(
    cli: Cli, model: Path, reviews: Path, tmp_path: Path
) -> None:
    for more in ([], ["--clf", "logreg,knn", "--jobs", "1"]):
        told = cli("fit-head", reviews, "-m", model, "--thresholds", "f1", *more, "-o", "out", code=2)
        assert "--positive-label" in told.err
    three = folder_of(tmp_path / "three", train=labelled(30, classes="abc"))
    told = cli("fit-head", three, "-m", model, "--thresholds", "accuracy", "-o", "out", code=2)
    assert "there are 3 classes" in told.err
    assert not list((tmp_path / "store").glob("v1/*/shards"))


def test_thresholds_and_calibration_are_learnt_on_validation(
    cli: Cli, model: Path, reviews: Path, tmp_path: Path
) -> None:
    flags = ["-m", model, "--thresholds", "accuracy", "--calibrate", "--json"]
    told = cli("fit-head", reviews, *flags, "-o", "out").json
    assert told["head"]["tuned_on"] == manifest_of("out")["head_settings"]["tuned_on"] == "validation"
    swapped = [
        {**row, "label": {"neg": "pos", "pos": "neg"}[row["label"]] if i % 2 else "pos"}
        for i, row in enumerate(labelled(20, 2))
    ]
    other = folder_of(tmp_path / "other", train=labelled(50), validation=swapped, test=labelled(24, 1))
    again = cli("fit-head", other, *flags, "-o", "other").json
    assert again["thresholds"] != told["thresholds"]
    (tmp_path / "other/validation.jsonl").unlink()
    alone = cli("fit-head", other, *flags, "-o", "alone").json
    assert alone["head"]["tuned_on"] == "train, out of fold"
    assert cli("fit-head", other, "-m", model, "-o", "plain", "--json").json["head"]["tuned_on"] is None


# ------------------------------------------------------------------------------------------------- calibration


@pytest.mark.parametrize("clf", ["logreg", "linear-svm", "knn", "hist-gb"])
def test_calibrated_probabilities_are_kept(cli: Cli, model: Path, reviews: Path, clf: str) -> None:
    flags = ["-m", model, "--clf", clf, *QUICK.get(clf, []), "--json"]
    plain = cli("fit-head", reviews, *flags, "-o", "plain").json
    told = cli("fit-head", reviews, *flags, "--calibrate", "-o", "out").json
    texts = texts_of(labelled(24, 1))
    answers = cli("predict", "out", *texts).lines
    scores = scores_of(answers, labels=("neg", "pos"))
    np.testing.assert_allclose(scores.sum(axis=1), 1)
    loaded = embedkit.load("out")
    np.testing.assert_allclose(loaded.predict_proba(texts), scores, atol=1e-9)
    if clf != "linear-svm":
        uncalibrated = scores_of(cli("predict", "plain", *texts).lines, labels=("neg", "pos"))
        assert np.abs(uncalibrated - scores).max() > 1e-3

    figures = told["splits"]["test"]["calibration"]
    assert set(figures) == ({"after"} if clf == "linear-svm" else {"before", "after"})
    assert figures["after"]["n"] == 24
    assert 0 <= figures["after"]["ece"] <= 1
    true = np.array([row["label"] == "pos" for row in labelled(24, 1)])
    assert figures["after"]["brier"] == pytest.approx(np.mean((scores[:, 1] - true) ** 2))
    assert metrics_of("out")["splits"] == told["splits"]
    assert "calibration" not in plain["splits"]["test"]
    assert "calibration" not in metrics_of("plain")["splits"]["test"]


def test_calibration_of_three_classes_with_a_label_that_training_never_saw(
    cli: Cli, model: Path, tmp_path: Path
) -> None:
    test = [*labelled(12, 1, "abc"), {"text": "a new one", "label": "new"}]
    data = folder_of(tmp_path / "data", train=labelled(45, 0, "abc"), validation=test[-1:], test=test)
    told = cli("fit-head", data, "-m", model, "--calibrate", "-o", "out", "--json").json
    assert told["head"]["tuned_on"] == "train, out of fold"  # no validation row has a label to learn from
    assert told["splits"]["test"]["unseen_labels"] == ["new"]
    assert told["splits"]["test"]["calibration"]["after"]["n"] == 13


def test_calibration_is_told(cli: Cli, model: Path, reviews: Path) -> None:
    out = cli("fit-head", reviews, "-m", model, "--calibrate", "-o", "out").out
    figures = metrics_of("out")["splits"]["test"]["calibration"]
    before, after = figures["before"]["ece"], figures["after"]["ece"]
    assert f"{before:.4f} before calibration, {after:.4f} after calibration" in out
    assert "report/calibration.png" in names(Path("out"))


# ----------------------------------------------------------------------------------------- rows added later

Fit = Callable[..., dict[str, Any]]


@pytest.fixture
def fit(cli: Cli, model: Path, tmp_path: Path) -> Fit:
    """Return a function that fits on rows, in a folder of data of their own, and gives the JSON."""
    count = 0

    def run(train: Rows, *flags: object, test: Rows | None = None, out: str = "out", code: int = 0) -> Any:
        nonlocal count
        count += 1
        splits = {"train": train} if test is None else {"train": train, "test": test}
        data = folder_of(tmp_path / f"data{count}", **splits)
        update = "--update" in flags
        told = cli("fit-head", data, *[] if update else ["-m", model], *flags, "-o", out, "--json", code=code)
        return {**told.json, "err": told.err} if not code else told.err

    return run


def same_heads(one: str, other: str) -> None:
    """Fail unless two artifacts answer alike."""
    first, second = manifest_of(one), manifest_of(other)
    assert first["labels"] == second["labels"]
    assert first["encoder"]["space"] == second["encoder"]["space"]
    arrays, others = (load_arrays(Path(folder, "head.safetensors")) for folder in (one, other))
    assert set(arrays) == set(others)
    for name, array in arrays.items():
        np.testing.assert_allclose(array, others[name], atol=1e-6, err_msg=name)
    if first["thresholds"] is not None:
        np.testing.assert_allclose(first["thresholds"]["values"], second["thresholds"]["values"], atol=1e-6)


def pairs_of(rows: Rows) -> Rows:
    return [
        {"premise": row["text"], "hypothesis": f"the {('bad', 'good')[i % 2]} film", "label": row["label"]}
        for i, row in enumerate(rows)
    ]


UPDATES: dict[str, tuple[list[str], Callable[[int, int], Rows]]] = {
    "logreg": (["--clf-param", "C=3"], labelled),
    "three classes": ([], lambda count, seed: labelled(count, seed, "abc")),
    "integers": ([], lambda count, seed: labelled(count, seed, (2, 10))),
    "knn": (["--clf", "knn", "--clf-param", "n_neighbors=3", "--scale", "standard"], labelled),
    "weights": (["--class-weight", '{"pos": 3}'], labelled),
    "balanced": (["--class-weight", "balanced", "--clf", "linear-svm", "--clf-param", "tol=1e-9"], labelled),
    "no penalty": (["--clf-param", "C=inf", "--clf-param", "tol=1e-9", "--clf-param", "max_iter=5"], labelled),
    "views": (["--layers", "1+-1", "--pooling", "cls+mean", "--store-dtype", "float16"], labelled),
    "sets": ([], tagged),
    "sets, calibrated": (["--calibrate", "--clf", "linear-svm", "--clf-param", "tol=1e-9"], tagged),
    "thresholds": (["--thresholds", "f1", "--positive-label", "neg", "--seed", "5"], labelled),
    "cross": (["--pairs", "cross"], lambda count, seed: pairs_of(labelled(count, seed))),
    "bi": (["--pairs", "bi"], lambda count, seed: pairs_of(labelled(count, seed))),
}


@pytest.mark.parametrize("case", UPDATES)
def test_an_update_is_a_fit_on_all_rows(fit: Fit, case: str) -> None:
    flags, make = UPDATES[case]
    first, second, test = make(24, 0), make(12, 5), make(6, 6)
    fit(first, *flags, out="first")
    told = fit(second, "--update", "first", test=test, out="updated")
    assert told["computed"] == 18
    assert told["hits"] == (
        4 if case == "bi" else 0
    )  # two second texts that both new splits share with the old rows
    assert "12 rows are added to the 24 of first" in told["err"]
    whole = fit([*first, *second], *flags, test=test, out="whole")
    assert whole["computed"] == 0
    same_heads("updated", "whole")
    assert told["splits"]["test"] == whole["splits"]["test"]
    assert manifest_of("updated")["head_settings"] == manifest_of("whole")["head_settings"]
    assert manifest_of("updated")["data"]["train"]["earlier_rows"] == 24


def test_rows_that_are_there_are_not_added_twice(fit: Fit) -> None:
    first, second = labelled(24), labelled(12, 5)
    changed = {"text": first[0]["text"], "label": "pos"}  # was neg
    fit(first, out="first")
    told = fit(
        [*first[:5], *second, changed], "--update", "first", test=[*first[:3], *labelled(6, 6)], out="updated"
    )
    assert "13 rows are added to the 24 of first" in told["err"]
    assert "5 rows of train were there already, with this label" in told["err"]
    assert "test: 3 texts of 9 also in the earlier fit's train" in told["err"]
    assert told["computed"] == 12 + 6
    fit([*first, *second, changed], out="whole")
    same_heads("updated", "whole")


def test_labels_may_be_new(fit: Fit, cli: Cli) -> None:
    first, second = labelled(24), [*labelled(9, 5, ("neg", "pos", "new"))]
    fit(first, out="first")
    told = fit(second, "--update", "first", out="updated")
    assert told["labels"] == ["neg", "pos", "new"]  # behind those that were known, so that codes stay
    fit([*first, *second], out="whole")
    ours, theirs = (cli("predict", folder, *texts_of(second)).lines for folder in ("updated", "whole"))
    for one, other in zip(ours, theirs, strict=True):
        assert one["label"] == other["label"]
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-4)

    tags = [{"text": f"news {i}", "labels": ["bad", "late"] if i % 2 else []} for i in range(14)]
    fit(tagged(40), out="tags")
    told = fit(tags, "--update", "tags", out="more")
    assert told["labels"] == [*LABELS, "late"]
    assert len(told["thresholds"]["values"]) == 4


def test_rows_of_one_class_may_be_added(fit: Fit) -> None:
    first, second = labelled(24), labelled(12, 5)[::2]
    fit(first, out="first")
    fit(second, "--update", "first", out="updated")
    fit([*first, *second], out="whole")
    same_heads("updated", "whole")
    none = [{"text": f"news {i}", "labels": []} for i in range(3)]
    fit(tagged(40), out="tags")
    assert "3 rows are added" in fit(none, "--update", "tags", out="more")["err"]


def test_an_update_may_replace_its_origin_and_be_updated(fit: Fit) -> None:
    parts = [labelled(12, seed) for seed in range(3)]
    fit(parts[0])
    assert "exists" in fit(parts[1], "--update", "out", code=2)
    told = fit(parts[1], "--update", "out", "--overwrite")
    assert told["computed"] == 12
    told = fit(parts[2], "--update", "out", "--overwrite")
    assert "12 rows are added to the 24 of out" in told["err"]
    fit([row for part in parts for row in part], out="whole")
    same_heads("out", "whole")
    assert "all 12 rows of train were in the earlier fit already" in fit(
        parts[1], "--update", "out", "--overwrite", code=65
    )
    same_heads("out", "whole")  # still there


@pytest.mark.parametrize("dropped", [0, 3])
def test_files_of_an_update_are_known_again(cli: Cli, model: Path, tmp_path: Path, dropped: int) -> None:
    """Of each file exactly the rows that were held out are judged, none that was learnt."""
    first, second = labelled(40), [*labelled(40)[:dropped], *labelled(30, 5)]
    one, two = write_jsonl(tmp_path / "one.jsonl", first), write_jsonl(tmp_path / "two.jsonl", second)
    cli("fit-head", one, "-m", model, "--seed", "7", "-o", "first", "--quiet", "--json")
    fitted = cli("fit-head", two, "--update", "first", "-o", "out", "--json")
    assert "seed 7" in fitted.err
    settings = metrics_of("out")["settings"]
    assert (settings["seed"], settings["model"]) == (7, str(model))
    told = cli("evaluate", "out", two, "--json")
    assert told.json["splits"] == fitted.json["splits"]
    assert "held out as test" in told.err
    told = cli("evaluate", "out", one, "--json")
    assert told.json["splits"]["test"]["n"] == 8
    told = cli("evaluate", "out", one, "--split", "train", "--json")
    assert "the rows that the classifier was trained on" in told.err


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--clf", "knn"], "--clf"),
        (["--pooling", "cls", "--layers", "0"], "--pooling, --layers"),
        (["--calibrate", "--thresholds", "mcc"], "--thresholds, --calibrate"),
        (["--search", "--cv", "3", "--metric", "mcc", "--rare", "drop"], "--search, --cv, --metric, --rare"),
        (["--seed", "3"], "--seed"),
        (["--store-dtype", "float16"], "--store-dtype"),
        (["--no-normalize", "--pairs", "bi"], "--normalize, --pairs"),
        (["--class-weight", "balanced", "--scale", "none", "--clf-param", "C=2"], "--clf-param, --scale"),
    ],
)
def test_what_an_earlier_fit_has_decided_cannot_be_said_again(fit: Fit, flags: list[str], named: str) -> None:
    fit(labelled(20), out="first")
    said = fit(labelled(8, 5), "--update", "first", *flags, code=2)
    assert f"leave out {named}" in said
    assert not Path("out").exists()


def lose_rows(store: Path) -> None:
    shutil.rmtree(store / "v1/rows")


def damage_rows(store: Path) -> None:
    for path in (store / "v1/rows").iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"\0")


def purge(store: Path) -> None:
    FeatureStore(store).purge()


def lose_features(store: Path) -> None:
    for space in FeatureStore(store).spaces():
        FeatureStore(store).purge(space.id)


@pytest.mark.parametrize(
    ("loss", "flags", "said"),
    [
        (lose_rows, [], "the store does not have the rows that it was trained on"),
        (damage_rows, [], "the store does not have the rows that it was trained on"),
        (purge, [], "the store does not have the rows that it was trained on"),
        (lambda store: None, ["--no-store"], "the store does not have the rows that it was trained on"),
        (lambda store: None, ["--store", "another"], "the store does not have the rows that it was trained on"),
        (lose_features, [], "the store lacks the features of 20 of 20 earlier rows; run embedkit extract"),
    ],
)
def test_rows_that_are_lost(
    fit: Fit, tmp_path: Path, loss: Callable[[Path], None], flags: list[str], said: str
) -> None:
    fit(labelled(20), out="first")
    loss(tmp_path / "store")
    told = fit(labelled(8, 5), "--update", "first", *flags, code=65)
    assert said in told
    assert "train on all rows together" in told
    assert not Path("out").exists()


def test_rows_that_were_damaged_are_kept_anew(fit: Fit, tmp_path: Path) -> None:
    fit(labelled(20), out="first")
    damage_rows(tmp_path / "store")
    fit(labelled(20), out="again")
    fit(labelled(8, 5), "--update", "again", out="out")


def test_features_that_are_computed_again_are_enough(fit: Fit, cli: Cli, model: Path, tmp_path: Path) -> None:
    fit(labelled(20), out="first")
    lose_features(tmp_path / "store")
    cli("extract", write_jsonl(tmp_path / "d.jsonl", labelled(20)), "-m", model)
    fit(labelled(8, 5), "--update", "first")
    fit([*labelled(20), *labelled(8, 5)], out="whole")
    same_heads("out", "whole")


@pytest.mark.parametrize("flags", [["--no-store"], ["--no-store", "--clf", "knn,dummy", "--jobs", "1"]])
def test_a_fit_without_a_store_cannot_be_updated(fit: Fit, flags: list[str]) -> None:
    fit(labelled(20), *flags, out="first")
    assert "--no-store" in fit(labelled(8, 5), "--update", "first", code=65)


def test_a_head_of_one_s_own_is_fitted_where_it_came_from(fit: Fit, model: Path, tmp_path: Path) -> None:
    rows = labelled(20)
    encoder, labels = TextEncoder(str(model)), [row["label"] for row in rows]
    forest = RandomForestClassifier(3, random_state=0)
    EmbeddingClassifier(encoder, forest).fit(texts_of(rows), labels).save("own")
    assert "was fitted in Python" in fit(labelled(8, 5), "--update", "own", code=65)
    EmbeddingClassifier(encoder, "logreg").fit(texts_of(rows), labels).save("named")
    assert "a fit in Python" in fit(labelled(8, 5), "--update", "named", code=65)


@pytest.mark.parametrize(
    ("rows", "code", "said"),
    [
        (pairs_of(labelled(8)), 65, "first was trained on texts"),
        (tagged(8), 65, "differ on whether a row has several labels"),
        (labelled(8, classes=(0, 1)), 65, "labels are strings in training and numbers in"),
        ([{"text": "a"}, {"text": "b"}], 65, "training needs labels"),
    ],
)
def test_rows_of_another_kind_are_not_added(fit: Fit, rows: Rows, code: int, said: str) -> None:
    fit(labelled(20), out="first")
    assert said in fit(rows, "--update", "first", code=code)
    assert not Path("out").exists()


def test_what_is_no_earlier_fit(fit: Fit, cli: Cli, model: Path) -> None:
    assert "nowhere does not exist" in fit(labelled(8), "--update", "nowhere", code=66)
    assert "holds no embedkit.json" in fit(labelled(8), "--update", model, code=65)


def test_an_encoder_that_has_moved_is_named(fit: Fit, cli: Cli, model: Path, tmp_path: Path) -> None:
    here = shutil.copytree(model, tmp_path / "here")
    fit(labelled(20), "-m", here, out="first")
    here.rename(tmp_path / "there")
    assert "--model" in fit(labelled(8, 5), "--update", "first", code=66)
    told = fit(labelled(8, 5), "--update", "first", "-m", tmp_path / "there")
    assert told["computed"] == 8


# ----------------------------------------------------------------------------- heads that stay objects; no texts


@pytest.mark.parametrize("clf", ["hist-gb", "sklearn:tree.DecisionTreeClassifier"])
@pytest.mark.parametrize("rows", [labelled, tagged])
def test_heads_that_stay_objects_go_the_whole_way(
    cli: Cli, fit: Fit, clf: str, rows: Callable[[int, int], Rows], tmp_path: Path
) -> None:
    test = rows(12, 1)
    told = fit(rows(48, 0), "--clf", clf, *QUICK.get(clf, []), test=test)
    manifest = manifest_of("out")
    several = "labels" in test[0]
    assert {name for name in manifest["files"] if name.endswith(".skops")} == {"head.skops"}
    assert cli("evaluate", "out", tmp_path / "data1", "--json").json["splits"] == told["splits"]
    answers = cli("predict", "out", *texts_of(test)).lines
    assert {frozenset(answer) for answer in answers} == {
        frozenset({"labels", "scores"} if several else {"label", "score", "scores"})
    }
    loaded = embedkit.load("out")
    probabilities = loaded.predict_proba(texts_of(test))
    labels = tuple(manifest["labels"])
    np.testing.assert_allclose(scores_of(answers, labels=labels), probabilities, atol=1e-9)
    Path("out/head.skops").unlink()
    assert "head.skops" in cli("predict", "out", "a film", code=65).err


@pytest.mark.parametrize(
    "flags", [[], ["--clf", "knn,logreg", "--jobs", "1", "--cv", "2"], ["--clf", "hist-gb", *QUICK["hist-gb"]]]
)
def test_an_artifact_holds_no_text_and_no_key_of_one(
    fit: Fit, model: Path, tmp_path: Path, flags: list[str]
) -> None:
    train, test = labelled(24), labelled(8, 1)
    fit(train, *flags, test=test)
    fit(labelled(6, 5), "--update", "out", out="updated")
    texts = [*texts_of(train), *texts_of(test), *texts_of(labelled(6, 5))]
    extractor = FeatureExtractor(EncoderSettings(str(model)))
    keys = {bytes(key) for key in text_keys(texts)} | {
        key.tobytes() for key in extractor.keys(texts, np.arange(1, len(texts) + 1)).reshape(len(texts), -1)
    }
    secrets = [*(text.encode() for text in texts), *keys, *(key.hex().encode() for key in keys)]
    for folder in ("out", "updated"):
        for path in Path(folder).rglob("*"):
            if path.is_file() and path.name != "errors.csv":
                content = path.read_bytes()
                assert not [secret for secret in secrets if secret in content], path
    kept = b"".join(path.read_bytes() for path in (tmp_path / "store/v1/rows").iterdir())
    assert sum(key in kept for key in keys) >= 24  # the store has them


def test_errors_are_listed_for_several_labels(tagger: Tagger) -> None:
    with (tagger.folder / "report/errors.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    wrong = 1 - tagger.told["splits"]["test"]["subset_accuracy"]
    assert len(rows) == round(wrong * len(tagger.test))
