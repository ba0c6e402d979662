"""Which view and which head: every candidate once, judged by the same folds of train, and test seen by one."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import make_scorer, matthews_corrcoef
from sklearn.model_selection import cross_validate
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from embedkit.cli import main
from embedkit.data import groups_of, stratified_folds
from embedkit.encoders import EncoderSettings, FeatureExtractor
from embedkit.encoders.torch_encoder import TorchEncoder
from embedkit.errors import UsageError
from embedkit.evaluation import sweep as sweep_module
from embedkit.evaluation.sweep import Sweep, sweep_text, views_of
from embedkit.heads import HeadSpec, Trial
from embedkit.heads.arrays import KnnHead
from embedkit.heads.linear import LinearHead
from embedkit.heads.table import HEADS
from embedkit.store import FeatureStore, Space
from tests import test_cli
from tests.test_cli import Cli, names, write_jsonl
from tests.tiny_models import WORDS

cli, model = test_cli.cli, test_cli.model
KINDS = (
    ("bad", "worst", "boring", "dull", "terrible"),
    ("good", "great", "best", "brilliant", "beautiful"),
    ("bank", "market", "price", "profit", "shares"),
)
Rows = list[dict[str, Any]]


def labelled(count: int, seed: int = 0, classes: Sequence[Any] = ("neg", "pos")) -> Rows:
    """Return rows whose label shows in a word; no two are alike."""
    rng = random.Random(seed)
    table: Rows = []
    for i in range(count):
        kind = i % len(classes)
        words = [*rng.choices(WORDS, k=5), rng.choice(KINDS[kind]), f"{seed} {i}"]
        table.append({"text": " ".join(words), "label": classes[kind]})
    return table


def tagged(count: int, seed: int = 0) -> Rows:
    """Return rows of 0, 1 and 3 of three labels."""
    rng = random.Random(seed)
    table: Rows = []
    for i in range(count):
        places = ([], [i % 3], [0, 1, 2], [(i + 1) % 3])[i % 4]
        words = [*rng.choices(WORDS, k=3), *(word for place in places for word in rng.sample(KINDS[place], 2))]
        labels = [("bad", "good", "money")[place] for place in places]
        table.append({"text": " ".join([*words, f"{seed} {i}"]), "labels": labels})
    return table


def folder_of(path: Path, **splits: Rows) -> Path:
    for name, table in splits.items():
        write_jsonl(path / f"{name}.jsonl", table)
    return path


def told_by(arguments: Sequence[object]) -> dict[str, Any]:
    """Run a command outside of a test; return the JSON that it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        assert main([*map(str, arguments), "--json"]) == 0, err.getvalue()
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def count_passes(patch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the number of texts of each forward pass over some."""
    counted: list[int] = []
    run = TorchEncoder.run

    def spy(self: TorchEncoder, tokens: Any, batches: Any, *rest: Any, **named: Any) -> Any:
        counted.append(sum(map(len, batches)))
        return run(self, tokens, batches, *rest, **named)

    patch.setattr(TorchEncoder, "run", spy)
    return counted


class Ears:
    """Hears which rows each head is asked about."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.heard: list[tuple[object, NDArray[Any]]] = []
        self._listen(patch, LinearHead, "decision_function")
        self._listen(patch, KnnHead, "neighbours")

    def _listen(self, patch: pytest.MonkeyPatch, kind: type, method: str) -> None:
        asked = getattr(kind, method)

        def spy(head: Any, X: Any, *rest: Any) -> Any:  # noqa: N803
            self.heard.append((head, np.asarray(X)))
            return asked(head, X, *rest)

        patch.setattr(kind, method, spy)

    def asked_about(self, vectors: NDArray[Any]) -> list[object]:
        """Return the heads that were asked about any of these rows."""
        known = {row.tobytes() for row in vectors}
        return [head for head, X in self.heard if any(row.tobytes() in known for row in X.astype(vectors.dtype))]


# ----------------------------------------------------------------------------------------- the whole command

ALL = ["--layers", "all", "--pooling", "cls,mean", "--clf", "logreg,linear-svm,knn", "--search", "--jobs", "1"]


class Swept(NamedTuple):
    """One run of the whole command: its data, and what the encoder and the heads were given."""

    folder: Path
    data: Path
    store: Path
    told: dict[str, Any]
    passes: list[int]
    ears: Ears

    @property
    def table(self) -> list[dict[str, str]]:
        return table_of(str(self.folder))

    @property
    def search(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "metrics.json").read_text("utf-8"))["search"]
        return found

    def vectors(self, model: Path, layer: str, pooling: str, split: str) -> NDArray[Any]:
        rows = [json.loads(line) for line in (self.data / f"{split}.jsonl").read_text("utf-8").splitlines()]
        settings = EncoderSettings(str(model), layers=layer, pooling=pooling)
        extractor = FeatureExtractor(settings, store=FeatureStore(self.store))
        return extractor.transform([row["text"] for row in rows]).vectors


@pytest.fixture(scope="module")
def swept(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    root = tmp_path_factory.mktemp("swept")
    data = folder_of(root / "data", train=labelled(40), test=labelled(20, 1))
    with pytest.MonkeyPatch.context() as patch:
        counted, ears = count_passes(patch), Ears(patch)
        told = told_by(["fit-head", data, "-m", model, *ALL, "-o", root / "out", "--store", root / "store"])
    return Swept(root / "out", data, root / "store", told, counted, ears)


def test_every_candidate_stands_in_the_table_once(swept: Swept) -> None:
    settings = {
        clf: [
            " ".join(
                f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in set_
            )
            for set_ in ([*zip(grid, values, strict=True)] for values in itertools.product(*grid.values()))
        ]
        for clf, grid in ((clf, HEADS[clf].grid) for clf in ("logreg", "linear-svm", "knn"))
    }
    expected = [
        (str(layer), pooling, clf, params)
        for layer in range(4)
        for pooling in ("cls", "mean")
        for clf, known in settings.items()
        for params in known
    ]
    found = [(row["layers"], row["pooling"], row["clf"], row["params"]) for row in swept.table]
    assert sorted(found) == sorted(expected)
    assert len(found) == len(set(found)) == swept.search["candidates"] == 144
    assert [row["rank"] for row in swept.table] == [str(i + 1) for i in range(144)]


def test_one_forward_pass_fills_all_views_and_the_second_run_has_none(
    cli: Cli, swept: Swept, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sum(swept.passes) == 60  # each text of train and test once, for 8 views
    assert (swept.search["computed"], swept.told["computed"], swept.told["hits"]) == (40, 20, 40)
    counted = count_passes(monkeypatch)
    told = cli("fit-head", swept.data, "-m", model, *ALL, "-o", "out", "--store", swept.store)
    assert counted == []
    metrics = json.loads(Path("out/metrics.json").read_text("utf-8"))
    again = metrics["search"]
    same = {name: value for name, value in again.items() if "seconds" not in name and name != "computed"}
    assert {name: swept.search[name] for name in same} == same
    assert again["computed"] == 0
    assert metrics["splits"] == swept.told["splits"]
    check_what_people_read(told.out, again["chosen"])


def check_what_people_read(out: str, chosen: dict[str, Any]) -> None:
    lines = out.splitlines()
    assert lines[0].startswith(
        "5-fold cross-validation on train (40 rows, stratified, equal texts together, seed 42)"
    )
    assert lines[2].split()[:6] == ["layers", "pooling", "head", "settings", "accuracy", "+-"]
    assert lines[3].split()[:3] == [chosen["layers"], chosen["pooling"], chosen["clf"]]
    assert f"{chosen['accuracy']['mean']:.4f}" in lines[3]
    assert f"{chosen['accuracy']['std']:.4f}" in lines[3]
    assert "and 129 more candidates" in out
    assert "The first is taken" in out
    assert out.count("test.jsonl (test): 20 rows") == 1


def test_the_table_is_what_the_figures_say(swept: Swept) -> None:
    table, search = swept.table, swept.search
    assert search == swept.told["search"]
    assert (search["metric"], search["folds"], search["seed"], search["rows"]) == ("accuracy", 5, 42, 40)
    for row in table:
        folds = [float(row[f"accuracy_fold_{i}"]) for i in range(1, 6)]
        assert float(row["accuracy_mean"]) == pytest.approx(np.mean(folds), abs=1e-5)
        assert float(row["accuracy_std"]) == pytest.approx(np.std(folds, ddof=1), abs=1e-5)
    means = [float(row["accuracy_mean"]) for row in table]
    assert means[1:] == sorted(means[1:], reverse=True)
    highest = search["highest"]
    assert highest["mean"] == pytest.approx(max(means), abs=1e-6)
    assert means[0] >= highest["mean"] - highest["std"] / 5**0.5 - 1e-6
    first, chosen = table[0], search["chosen"]
    for name in ("layers", "pooling", "clf"):
        assert first[name] == chosen[name]
    assert dict(part.split("=") for part in first["params"].split()) == {
        name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in chosen["params"].items()
    }
    for metric in ("accuracy", "macro_f1", "mcc"):
        assert float(first[f"{metric}_mean"]) == pytest.approx(chosen[metric]["mean"], abs=1e-6)
        assert float(first[f"{metric}_std"]) == pytest.approx(chosen[metric]["std"], abs=1e-6)
        assert len(chosen[metric]["folds"]) == 5
    assert (swept.folder / "report/search.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_winner_is_what_is_saved(swept: Swept) -> None:
    manifest = json.loads((swept.folder / "embedkit.json").read_text("utf-8"))
    chosen, settings = swept.search["chosen"], manifest["encoder"]["settings"]
    assert {name: manifest["head_settings"][name] for name in ("clf", "params", "scale")} == {
        name: chosen[name] for name in ("clf", "params", "scale")
    }
    layer = int(chosen["layers"])
    assert settings["layers"] == [-1 if layer == 3 else layer]
    assert settings["pooling"] == chosen["pooling"]
    assert swept.told["head"]["clf"] == chosen["clf"]


def test_the_winner_alone_meets_the_test_split_and_once(swept: Swept, model: Path) -> None:
    views = [view for view in itertools.product("0123", ("cls", "mean")) if view != ("0", "cls")]  # is one vector
    test = {view: swept.vectors(model, *view, "test") for view in views}
    (chosen,) = {id(head): head for vectors in test.values() for head in swept.ears.asked_about(vectors)}.values()
    heard = [X for head, X in swept.ears.heard if head is chosen and len(X) == 20]
    winner = test[swept.search["chosen"]["layers"], swept.search["chosen"]["pooling"]]
    assert heard
    assert all(np.array_equal(X, winner) for X in heard)
    train = swept.vectors(model, "3", "mean", "train")
    assert len({id(head) for head in swept.ears.asked_about(train)}) > 50  # the ears do hear


# ----------------------------------------------------------------------------- against scikit-learn, by its folds

CLASSIFIERS = {
    "logreg": lambda C: LogisticRegression(C=C, max_iter=1000),  # noqa: N803
    "linear-svm": lambda C: LinearSVC(C=C, tol=1e-8, max_iter=100_000),  # noqa: N803
    "knn": lambda n_neighbors: KNeighborsClassifier(n_neighbors),
}


class Bench:
    """Scores of scikit-learn on features that are extracted anew."""

    def __init__(self, model: Path, store: Path, rows: Rows) -> None:
        self._model, self._store = model, FeatureStore(store)
        self._texts = [row["text"] for row in rows]
        labels = [row.get("label", row.get("labels")) for row in rows]
        self._folds = stratified_folds(labels, groups_of(self._texts), 4, 42)
        self._known: dict[tuple[str, str], NDArray[Any]] = {}

    def __call__(self, row: dict[str, str], classifier: Any, y: Any, scoring: Any) -> Any:
        view = row["layers"], row["pooling"]
        if view not in self._known:
            settings = EncoderSettings(str(self._model), layers=view[0], pooling=view[1])
            self._known[view] = FeatureExtractor(settings, store=self._store).transform(self._texts).vectors
        with threadpool_limits(1):  # for products so small OpenBLAS waits for its threads longer than it computes
            return cross_validate(classifier, self._known[view], y, cv=self._folds, scoring=scoring)


OF_CLASSES = {"accuracy": "accuracy", "macro_f1": "f1_macro", "mcc": make_scorer(matthews_corrcoef)}
OF_LABELS = {"micro_f1": "f1_micro", "subset_accuracy": "accuracy"}


def table_of(folder: str) -> list[dict[str, str]]:
    with Path(folder, "report/search.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("classes", [("neg", "pos"), ("a", "b", "c")])
def test_scores_are_those_of_scikit_learn_by_the_same_folds(
    cli: Cli, model: Path, tmp_path: Path, classes: Sequence[str]
) -> None:
    rows = labelled(48, 3, classes)
    rows += [{**row} for row in rows[:6]]  # equal texts stay together
    data = folder_of(tmp_path / "data", train=rows)
    flags = ["--layers", "1,-1", "--pooling", "mean", "--scale", "none,standard", "--cv", "4", "--jobs", "1"]
    heads = ["--clf", "logreg,linear-svm,knn", "--clf-param", "C=0.1,1", "--clf-param", "n_neighbors=1,5"]
    cli("fit-head", data, "-m", model, *flags, *heads, "-o", "out")
    table, bench = table_of("out"), Bench(model, tmp_path / "store", rows)
    assert len(table) == 2 * 2 * 6
    y = np.array([classes.index(row["label"]) for row in rows])
    for row in table:
        params = dict(part.split("=") for part in row["params"].split())
        scale = params.pop("scale")
        classifier = CLASSIFIERS[row["clf"]](*(float(v) if name == "C" else int(v) for name, v in params.items()))
        whole = classifier if scale == "none" else make_pipeline(StandardScaler(), classifier)
        expected = bench(row, whole, y, OF_CLASSES)
        folds = [float(row[f"accuracy_fold_{i}"]) for i in range(1, 5)]
        np.testing.assert_allclose(folds, expected["test_accuracy"], atol=1e-6, err_msg=str(row))
        for metric in ("macro_f1", "mcc"):
            mean = expected[f"test_{metric}"].mean()
            assert float(row[f"{metric}_mean"]) == pytest.approx(mean, abs=1e-6), row


def test_several_labels_are_scored_as_scikit_learn_does(cli: Cli, model: Path, tmp_path: Path) -> None:
    rows = tagged(48)
    data = folder_of(tmp_path / "data", train=rows)
    flags = ["--clf", "logreg,knn", "--clf-param", "C=10", "--scale", "standard", "--cv", "4", "--jobs", "1"]
    cli("fit-head", data, "-m", model, *flags, "--layers", "1,-1", "--pooling", "mean", "-o", "out")
    table, bench = table_of("out"), Bench(model, tmp_path / "store", rows)
    assert {row["layers"] for row in table} == {"1", "3"}
    y = np.array([[name in row["labels"] for name in ("bad", "good", "money")] for row in rows])
    for row in table:
        one = CLASSIFIERS["logreg"](10) if row["clf"] == "logreg" else CLASSIFIERS["knn"](5)
        whole = make_pipeline(StandardScaler(), OneVsRestClassifier(one) if row["clf"] == "logreg" else one)
        expected = bench(row, whole, y.astype(int), OF_LABELS)
        for metric in ("micro_f1", "subset_accuracy"):
            mean = expected[f"test_{metric}"].mean()
            assert float(row[f"{metric}_mean"]) == pytest.approx(mean, abs=1e-6), row
    assert "accuracy_mean" not in table[0]


# -------------------------------------------------------------------------------------------- how it is chosen


@pytest.mark.parametrize("order", ["most_frequent,prior", "prior,most_frequent"])
def test_the_usual_wins_a_tie(cli: Cli, model: Path, tmp_path: Path, order: str) -> None:
    data = write_jsonl(tmp_path / "d.jsonl", labelled(30))
    flags = ["--clf", "dummy", "--clf-param", f"strategy={order}", "--jobs", "1", "--json"]
    told = cli("fit-head", data, "-m", model, *flags, "-o", "out").json
    assert told["search"]["chosen"]["params"] == {"strategy": "prior"}


def trial(mean: float, spread: float = 0.0, **params: Any) -> Trial:
    """Return a logistic regression with five folds of this mean and standard deviation."""
    steps = np.array([-1, -1, 0, 1, 1]) * spread
    scores = tuple((mean + steps).tolist())
    return Trial(HeadSpec(params=params), {"accuracy": scores}, 0.0, ())


@pytest.mark.parametrize(
    ("trials", "chosen"),
    [
        pytest.param([(trial(0.8, C=2.0), 1), (trial(0.8, C=3.0), 1)], 0, id="of equal ones the earlier"),
        pytest.param([(trial(0.8, C=2.0), 1), (trial(0.81, C=3.0), 1)], 1, id="of equally usual ones the better"),
        pytest.param(
            [(trial(0.8, 0.1), 0), (trial(0.82, 0.05, C=2.0), 1)], 0, id="within the best's standard error"
        ),
        pytest.param([(trial(0.79, 0.1), 0), (trial(0.82, 0.05, C=2.0), 1)], 1, id="beyond it"),
        pytest.param(
            [(trial(0.82, 0.05, C=2.0), 3), (trial(0.81, C=3.0), 2), (trial(0.8, C=4.0), 2), (trial(0.5), 0)],
            1,
            id="the most usual that is near, not the most usual",
        ),
    ],
)
def test_what_is_unusual_has_to_earn_its_place(trials: list[tuple[Trial, int]], chosen: int) -> None:
    """Five folds of standard deviation 0.05 have a standard error of 0.0224."""
    settings = EncoderSettings("minilm")
    given = [sweep_module.Candidate(settings, "6", "mean", one, unusual) for one, unusual in trials]
    sweep = sweep_module.Sweep("accuracy", 5, 42, 100, candidates=list(given))
    sweep.choose()
    assert sweep.chosen is given[chosen]
    assert sweep.best.trial.mean("accuracy") == max(one.mean("accuracy") for one, _ in trials)
    others = [candidate.trial.mean("accuracy") for candidate in sweep.candidates[1:]]
    assert others == sorted(others, reverse=True)


def judged_by(scores: dict[str, Sequence[float]]) -> Any:
    """Return what stands for `cross_validate`: heads named by their C have these scores."""

    def stand_in(specs: Sequence[HeadSpec], views: Any, targets: Any, folds: Any, *rest: Any, **how: Any) -> Any:
        for _ in views:
            yield [
                Trial(
                    spec,
                    dict.fromkeys(("accuracy", "macro-f1", "mcc"), tuple(scores[f"{spec.params['C']:g}"])),
                    0.0,
                    (),
                )
                for spec in specs
            ]

    return stand_in


def test_means_that_differ_by_the_order_of_a_sum_alone_are_equal(
    cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folds = (0.1, 0.7, 0.35, 0.6, 0.9)
    low, high = sorted(itertools.permutations(folds), key=np.mean)[:: len([*itertools.permutations(folds)]) - 1]
    assert np.mean(low) < np.mean(high)
    monkeypatch.setattr(sweep_module, "cross_validate", judged_by({"1": low, "2": high, "3": [0.2] * 5}))
    data = write_jsonl(tmp_path / "d.jsonl", labelled(30))
    told = cli("fit-head", data, "-m", model, "--clf-param", "C=3,1,2", "-o", "out", "--json").json
    assert told["search"]["chosen"]["params"] == {"C": 1}


@pytest.mark.parametrize("metric", ["accuracy", "macro-f1", "mcc"])
def test_the_metric_that_is_named_decides(
    cli: Cli, model: Path, tmp_path: Path, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = {"accuracy": 1.0, "macro-f1": 2.0, "mcc": 3.0}

    def stand_in(specs: Sequence[HeadSpec], views: Any, *rest: Any, **how: Any) -> Any:
        for _ in views:
            yield [
                Trial(
                    spec, {name: ((0.7 + (spec.params["C"] == c) / 10),) * 2 for name, c in best.items()}, 0.0, ()
                )
                for spec in specs
            ]

    monkeypatch.setattr(sweep_module, "cross_validate", stand_in)
    data = write_jsonl(tmp_path / "d.jsonl", labelled(30))
    flags = ["--clf-param", "C=1,2,3", "--metric", metric, "--cv", "2"]
    told = cli("fit-head", data, "-m", model, *flags, "-o", "out", "--json").json
    assert told["search"]["chosen"]["params"] == {"C": best[metric]}
    assert told["search"]["metric"] == metric


def test_equal_values_are_one_candidate(cli: Cli, model: Path, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "d.jsonl", labelled(30))
    flags = ["--clf-param", "C=1,1.0,0.1", "--layers", "-1,3,all", "--pooling", "mean", "--jobs", "1", "--json"]
    assert cli("fit-head", data, "-m", model, *flags, "-o", "out").json["search"]["candidates"] == 2 * 4


def test_one_candidate_is_judged_where_that_is_asked_for(cli: Cli, model: Path, tmp_path: Path) -> None:
    data = folder_of(tmp_path / "data", train=labelled(30))
    told = cli("fit-head", data, "-m", model, "--cv", "3", "--jobs", "1", "-o", "out")
    chosen = json.loads(Path("out/metrics.json").read_text("utf-8"))["search"]["chosen"]
    folds = chosen["accuracy"]["folds"]
    assert len(folds) == 3
    (line,) = [line for line in told.out.splitlines() if line.startswith("3 ")]
    assert line.split()[:5] == ["3", "mean", "logreg", f"{np.mean(folds):.4f}", f"{np.std(folds, ddof=1):.4f}"]
    assert "3-fold cross-validation" in told.out
    assert "The first is taken" not in told.out
    assert {"report/search.csv", "report/search.png"} < names(Path("out"))
    assert cli("fit-head", data, "-m", model, "-o", "plain", "--json").json["search"] is None
    assert "report/search.csv" not in names(Path("plain"))


def test_processes_find_the_same(cli: Cli, model: Path, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "d.jsonl", labelled(40))
    flags = ["--clf", "logreg,knn,mlp", "--clf-param", "hidden_layer_sizes=4", "--layers", "0,-1", "--cv", "2"]
    found = [
        cli("fit-head", data, "-m", model, *flags, "--jobs", jobs, "-o", f"out{jobs}", "--json", "--quiet").json
        for jobs in (1, 2)
    ]
    tables = [Path(f"out{jobs}/report/search.csv").read_text("utf-8").splitlines() for jobs in (1, 2)]
    one, two = ([line.rsplit(",", 1)[0] for line in table] for table in tables)  # without the seconds
    assert one == two
    assert found[0]["splits"] == found[1]["splits"]


def test_without_a_store_nothing_is_left_behind(
    cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    counted = count_passes(monkeypatch)
    data = folder_of(tmp_path / "data", train=labelled(30), test=labelled(10, 1))
    flags = ["--layers", "all", "--clf", "logreg,knn", "--jobs", "1", "--no-store", "--json"]
    told = cli("fit-head", data, "-m", model, *flags, "-o", "out").json
    assert (sum(counted), told["search"]["candidates"]) == (40, 8)
    assert names(tmp_path / "temporary") == set()
    assert not (tmp_path / "store").exists()
    kept = cli("fit-head", data, "-m", model, *flags[:-2], "-o", "kept", "--json").json
    assert kept["splits"] == told["splits"]


def test_a_store_that_cannot_be_written_is_said_once(
    cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = folder_of(tmp_path / "data", train=labelled(20), test=labelled(8, 1))
    cli("extract", write_jsonl(tmp_path / "other.jsonl", labelled(4, 9)), "-m", model)
    flags = ["--layers", "all", "--clf", "logreg,knn", "--cv", "2", "--jobs", "1", "--json"]
    with monkeypatch.context() as patch:
        patch.setattr(Space, "writable", property(lambda space: False))
        told = cli("fit-head", data, "-m", model, *flags, "-o", "out")
    assert told.err.count("is read-only; going on without keeping new features") == 1
    kept = cli("fit-head", data, "-m", model, *flags, "-o", "kept", "--store", tmp_path / "writable").json
    assert told.json["splits"] == kept["splits"]
    assert told.json["search"]["chosen"] == kept["search"]["chosen"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--clf", "sklearn:svm.SVC", "--clf-param", "C=1,10"], [{"C": 1}, {"C": 10}]),
        (["--clf-param", "C=1e-9,inf"], [{"C": 1e-9}, {"C": "inf"}]),
    ],
)
def test_parameters_are_written_as_json_has_them(
    cli: Cli, model: Path, tmp_path: Path, flags: list[str], expected: list[dict[str, Any]]
) -> None:
    data = folder_of(tmp_path / "data", train=labelled(24))
    told = cli("fit-head", data, "-m", model, *flags, "--cv", "2", "--jobs", "1", "-o", "out", "--json").json
    assert told["search"]["candidates"] == 2
    assert told["search"]["chosen"]["params"] in expected
    assert told["head"]["params"] == told["search"]["chosen"]["params"]


def test_pairs_that_are_read_apart_are_encoded_once(
    cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"premise": row["text"], "hypothesis": f"the {KINDS[i % 2][0]} film", "label": i % 2}
        for i, row in enumerate(labelled(20))
    ]
    counted = count_passes(monkeypatch)
    data = folder_of(tmp_path / "data", train=rows)
    flags = ["--pairs", "bi", "--layers", "0,-1", "--clf", "logreg,knn", "--jobs", "1", "--cv", "2"]
    told = cli("fit-head", data, "-m", model, *flags, "-o", "out", "--json").json
    assert sum(counted) == 22
    assert (told["dim"], told["search"]["candidates"]) == (128, 4)


def test_equal_texts_are_never_on_both_sides(
    cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    judge = sweep_module.cross_validate

    def spy(specs: Any, views: Any, targets: Any, folds: Any, *rest: Any, **how: Any) -> Any:
        seen.extend(folds)
        return judge(specs, views, targets, folds, *rest, **how)

    monkeypatch.setattr(sweep_module, "cross_validate", spy)
    rows = labelled(20) * 3
    cli("fit-head", folder_of(tmp_path / "data", train=rows), "-m", model, "--cv", "4", "--jobs", "1", "-o", "out")
    texts = np.array([row["text"] for row in rows])
    assert len(seen) == 4
    for train, test in seen:
        assert not set(texts[train]) & set(texts[test])
        assert len(train) + len(test) == 60


# ------------------------------------------------------------------------------------------------ rare classes


def test_a_class_of_one_text_is_named_left_out_or_only_learnt(cli: Cli, model: Path, tmp_path: Path) -> None:
    odd = {"text": "an odd one", "label": "odd"}
    data = folder_of(
        tmp_path / "data", train=[*labelled(30), odd, odd], test=[*labelled(8, 1), {"text": "odd", "label": "odd"}]
    )
    command = ["fit-head", data, "-m", model, "--cv", "3", "--jobs", "1", "--json"]
    told = cli(*command, "-o", "out", code=65)
    assert "1 class with one distinct text" in told.err
    assert "'odd'" in told.err
    assert "--rare drop" in told.err
    assert not Path("out").exists()

    told = cli(*command, "-o", "dropped", "--rare", "drop")
    assert "2 rows of classes with one distinct text left out" in told.err
    assert "labels 'odd' (1 row) do not occur in train and count as errors" in told.err
    assert told.json["labels"] == ["neg", "pos"]
    assert told.json["search"]["rows"] == 30

    told = cli(*command, "-o", "learnt", "--rare", "train-only")
    assert "fewer rows than the 3 folds: 'odd' (2)" in told.err
    assert told.json["labels"] == ["neg", "odd", "pos"]
    assert told.json["search"]["rows"] == 32


def test_a_file_whose_rare_rows_were_dropped_is_known_again(cli: Cli, model: Path, tmp_path: Path) -> None:
    odd = {"text": "an odd one", "label": "odd"}
    data = write_jsonl(tmp_path / "d.jsonl", [*labelled(30), odd, odd])
    fitted = cli("fit-head", data, "-m", model, "--rare", "drop", "-o", "out", "--json").json
    assert fitted["labels"] == ["neg", "pos"]
    told = cli("evaluate", "out", data, "--json")
    assert told.json["splits"] == fitted["splits"]
    assert "held out as test" in told.err


@pytest.mark.parametrize(
    ("rows", "flags", "said"),
    [
        (labelled(4), ["--cv", "5"], "too few for 5 folds"),
        (labelled(4) * 5, ["--cv", "5"], "too few for 5 folds"),
        (labelled(4), ["--clf", "logreg,knn"], "too few for 5 folds"),
        ([*labelled(9)[::2], {"text": "b", "label": "b"}], ["--rare", "drop"], "only one class ('neg', 5 rows)"),
    ],
)
def test_folds_that_cannot_be(
    cli: Cli, model: Path, tmp_path: Path, rows: Rows, flags: list[str], said: str
) -> None:
    data = folder_of(tmp_path / "data", train=rows)
    assert said in cli("fit-head", data, "-m", model, *flags, "--jobs", "1", "-o", "out", code=65).err
    assert not Path("out").exists()


# ------------------------------------------------------------------------------------------ views, and the table


@pytest.mark.parametrize(
    ("layers", "poolings", "expected"),
    [
        (["-1"], [None], [((-1,), None)]),
        (["all"], ["mean"], [((i,), "mean") for i in range(4)]),
        (["all", "-1"], ["mean"], [((i,), "mean") for i in range(4)]),
        (["-1", "3"], ["cls"], [((-1,), "cls")]),
        (["-1", "-1+-2", "2+3"], ["cls"], [((-1,), "cls"), ((-1, -2), "cls"), ((2, 3), "cls")]),
        (["0", "2"], ["cls", "mean"], [((i,), p) for p in ("cls", "mean") for i in (0, 2)]),
        (["0", "-1"], ["pooler", "mean"], [((-1,), "pooler"), ((0,), "mean"), ((-1,), "mean")]),
        (["all"], ["cls+pooler"], [((3,), "cls+pooler")]),
    ],
)
def test_views_are_the_combinations_each_once(
    layers: list[str], poolings: list[str | None], expected: list[Any]
) -> None:
    opened: Any = SimpleNamespace(folder=SimpleNamespace(layers=3))
    found = views_of(EncoderSettings("m", max_length=9), layers, poolings, opened)
    assert [(view.layers, view.pooling) for view in found] == expected
    assert {view.max_length for view in found} == {9}


@pytest.mark.parametrize("layers", ["top", "1+", "+", "-", "1.5", "--1", "all+1", "²"])
def test_layers_that_are_none(layers: str) -> None:
    opened: Any = SimpleNamespace(folder=SimpleNamespace(layers=3))
    with pytest.raises(UsageError, match="layers"):
        views_of(EncoderSettings("m"), [layers], [None], opened)


def test_a_pooler_takes_part_with_the_last_layer(
    cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = folder_of(tmp_path / "data", train=labelled(20))
    flags = ["--layers", "0,-1", "--pooling", "pooler,mean", "--cv", "2", "--jobs", "1"]
    cli("fit-head", data, "-m", model, *flags, "-o", "out")
    counted = count_passes(monkeypatch)
    cli("fit-head", data, "-m", model, *flags, "-o", "out", "--overwrite")
    assert counted == []
    assert {(row["layers"], row["pooling"]) for row in table_of("out")} == {
        ("3", "pooler"),
        ("0", "mean"),
        ("3", "mean"),
    }


def test_joins_are_called_by_their_parts(cli: Cli, model: Path, tmp_path: Path) -> None:
    data = folder_of(tmp_path / "data", train=labelled(20))
    flags = ["--layers", "-1+-2,0+-1", "--pooling", "cls+mean", "--cv", "2", "--jobs", "1", "--json"]
    for join, shown, dim in (("concat", {"3+2", "0+3"}, 128), ("mean", {"mean(3+2)", "mean(0+3)"}, 64)):
        told = cli("fit-head", data, "-m", model, *flags, "--layer-join", join, "-o", join).json
        assert {(row["layers"], row["pooling"]) for row in table_of(join)} == {(x, "cls+mean") for x in shown}
        assert told["dim"] == dim


def test_a_note_of_a_fold_is_told_from_one_of_the_fit(cli: Cli, model: Path, tmp_path: Path) -> None:
    data = folder_of(tmp_path / "data", train=labelled(20))
    flags = ["--clf", "knn", "--clf-param", "n_neighbors=15", "--cv", "4", "--jobs", "1"]
    told = cli("fit-head", data, "-m", model, *flags, "-o", "out")
    assert "n_neighbors is" not in told.err
    flags[3] = "n_neighbors=16"
    told = cli("fit-head", data, "-m", model, *flags, "-o", "out", "--overwrite")
    assert told.err.count("n_neighbors is 15 instead of 16") == 1
    assert "in a fold of the cross-validation: n_neighbors is 15" in told.err


@pytest.mark.parametrize("count", [1, 2, 15, 16, 40])
def test_the_table_shows_the_best(count: int) -> None:
    settings = EncoderSettings("m")
    sweep = Sweep("accuracy", 2, 7, 1234)
    for i in range(count):
        scores = {"accuracy": (1 - i / 100, 1 - i / 100), "mcc": (0.0, 0.5)}
        sweep.candidates.append(
            sweep_module.Candidate(
                settings, "3", "mean", Trial(HeadSpec(params={"C": i + 0.5}), scores, 1.0, ()), 1
            )
        )
    text = sweep_text(sweep)
    assert text.count("C=") == min(count, 15)
    assert (f"and {count - 15} more candidates" in text) == (count > 15)
    assert ("Being the best of many" in text) == (count > 1)
    assert "2-fold cross-validation on train (1,234 rows" in text
    assert "seed 7" in text
