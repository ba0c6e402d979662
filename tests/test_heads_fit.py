"""Heads predict as scikit-learn's classifiers of the same settings do, weights of rows included."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC, LinearSVC
from sklearn.utils.class_weight import compute_sample_weight

from embedkit.errors import DataError, UsageError
from embedkit.heads import HeadSpec, KnnHead, fit_head
from embedkit.heads.spec import ClassWeight, takes_weights
from tests.head_data import (
    FOREST,
    NAMES,
    assert_predicts_as,
    fitted,
    matrix,
    one_thread,
    problem,
    spec_of,
    task,
    theirs,
    unit,
)
from tests.head_data import SVC as SVC_NAME

__all__ = ["one_thread"]  # a fixture
SEED = 42
MODELS: dict[str, BaseEstimator] = {
    "logreg": LogisticRegression(max_iter=1000, random_state=SEED),
    "ridge": RidgeClassifier(),
    "linear-svm": LinearSVC(max_iter=100_000, tol=1e-8, dual=False),
    "knn": KNeighborsClassifier(),
    "centroid": NearestCentroid(),
    "lda": LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
    "naive-bayes": GaussianNB(),
    "mlp": MLPClassifier((8,), max_iter=300, learning_rate_init=0.02, random_state=SEED),
    "hist-gb": HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=5, random_state=SEED),
    "dummy": DummyClassifier(),
    SVC_NAME: SVC(random_state=SEED),
    FOREST: RandomForestClassifier(5, random_state=SEED),
}
# how far from scikit-learn scores may be: where the solver is another one, as far as both stop from the optimum
SOLVED = defaultdict(lambda: 2e-5, {"linear-svm": 1e-3})
LINEAR = ("logreg", "ridge", "linear-svm", "lda")
every_head = pytest.mark.parametrize("name", NAMES)
both_norms = pytest.mark.parametrize("unit_norm", [True, False], ids=["unit", "raw"])


# --- the same predictions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NAMES if name != "centroid"])
@pytest.mark.parametrize("kind", ["two", "three"])
@both_norms
def test_classes_are_predicted_as_by_scikit_learn(name: str, kind: str, unit_norm: bool) -> None:
    features, codes, _ = task(kind, unit_norm=unit_norm)
    model = theirs(MODELS[name], features, codes, scaled=not unit_norm)
    asked = np.concatenate([features, 0.7 * features[::-1] + 0.1])
    assert_predicts_as(fitted(name, kind, unit_norm).head, model, asked, SOLVED[name])


@pytest.mark.parametrize("kind", ["two", "three"])
@both_norms
def test_the_nearest_centroid_is_predicted(kind: str, unit_norm: bool) -> None:
    """Its scores are not compared: scikit-learn's are of another model, of classes with one variance a column."""
    features, codes, _ = task(kind, unit_norm=unit_norm)
    model = theirs(MODELS["centroid"], features, codes, scaled=not unit_norm)
    head = fitted("centroid", kind, unit_norm).head
    assert (head.predict(features) == model.predict(features)).all()
    seen = features if unit_norm else model[0].transform(features)
    last = model if unit_norm else model[-1]
    squared = ((seen[:, None] - last.centroids_) ** 2).sum(axis=2)
    scores = head.decision_function(features)
    wide = np.column_stack([-scores, np.zeros_like(scores)]) if kind == "two" else scores
    gaps = squared[:, :1] - squared  # the difference of squared distances, exactly
    assert wide - wide[:, :1] == pytest.approx(gaps, abs=1e-4)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("dummy", "centroid")])
@both_norms
def test_several_labels_are_predicted_as_by_scikit_learn(name: str, unit_norm: bool) -> None:
    features, targets, _ = task("several", unit_norm=unit_norm)
    native = name in ("knn", "mlp")
    model = MODELS[name] if native else OneVsRestClassifier(MODELS[name])
    model = theirs(model, features, targets.astype(int), scaled=not unit_norm)
    head = fitted(name, "several", unit_norm).head
    assert (head.predict(features) == model.predict(features)).all()
    if head.has_probabilities:
        expected = model.predict_proba(features)
        if name == "knn":
            expected = np.column_stack([shares[:, 1] for shares in expected])
        assert head.predict_proba(features) == pytest.approx(expected, abs=2e-5)
    if name in LINEAR:
        expected = model.decision_function(features)
        assert head.decision_function(features) == pytest.approx(expected, abs=SOLVED[name])


@both_norms
def test_labels_have_their_own_centroids(unit_norm: bool) -> None:
    features, targets, _ = task("several", unit_norm=unit_norm)
    got = fitted("centroid", "several", unit_norm).head.predict(features)
    for label in range(3):
        model = theirs(MODELS["centroid"], features, targets[:, label], scaled=not unit_norm)
        assert (got[:, label] == model.predict(features)).all()


@pytest.mark.parametrize("strategy", ["prior", "most_frequent"])
def test_a_dummy_knows_the_shares_alone(strategy: str) -> None:
    features, codes = problem(3)
    codes = np.where(codes == 2, 1, codes)
    model = DummyClassifier(strategy=strategy).fit(features, codes)
    spec = HeadSpec("dummy", params={"strategy": strategy})
    assert_predicts_as(fit_head(spec, features, codes, 2).head, model, features, 1e-15)
    several = fit_head(spec, features, np.column_stack([codes == 1, codes == 0]), 2).head
    expected = [2 / 3, 1 / 3] if strategy == "prior" else [1, 0]
    assert several.predict_proba(features[:1])[0] == pytest.approx(expected, abs=1e-15)
    assert several.predict(features[:1]).tolist() == [[True, False]]


@pytest.mark.parametrize(
    ("name", "params", "model"),
    [
        ("logreg", {"C": 0.01, "fit_intercept": False}, LogisticRegression(C=0.01, fit_intercept=False)),
        ("logreg", {"C": np.inf, "tol": 1e-8}, LogisticRegression(C=np.inf, max_iter=1000, tol=1e-8)),
        ("ridge", {"alpha": 50}, RidgeClassifier(alpha=50)),
        ("ridge", {"fit_intercept": False}, RidgeClassifier(fit_intercept=False)),
        ("linear-svm", {"C": 0.01, "tol": 1e-6}, LinearSVC(C=0.01, tol=1e-8, dual=False)),
        ("linear-svm", {"fit_intercept": False, "tol": 1e-9}, LinearSVC(fit_intercept=False, tol=1e-8)),
        ("knn", {"n_neighbors": 1}, KNeighborsClassifier(1)),
        ("knn", {"n_neighbors": 4}, KNeighborsClassifier(4)),
        ("knn", {"n_neighbors": 90}, KNeighborsClassifier(90)),
        ("knn", {"n_neighbors": 7, "weights": "distance"}, KNeighborsClassifier(7, weights="distance")),
        ("lda", {"shrinkage": 0.3}, LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3)),
        ("lda", {"shrinkage": None}, LinearDiscriminantAnalysis(solver="lsqr")),
        ("naive-bayes", {"var_smoothing": 0.1}, GaussianNB(var_smoothing=0.1)),
        (
            "mlp",
            {"hidden_layer_sizes": "8x4", "alpha": 0.1, "early_stopping": True, "max_iter": 30},
            MLPClassifier((8, 4), alpha=0.1, early_stopping=True, max_iter=30, random_state=SEED),
        ),
        (
            "hist-gb",
            {"learning_rate": 0.3, "max_iter": 3, "max_leaf_nodes": 4, "l2_regularization": 1.0},
            HistGradientBoostingClassifier(
                learning_rate=0.3, max_iter=3, max_leaf_nodes=4, l2_regularization=1.0, random_state=SEED
            ),
        ),
        (SVC_NAME, {"kernel": "poly", "degree": 2}, SVC(kernel="poly", degree=2, random_state=SEED)),
        (FOREST, {"n_estimators": 3, "random_state": 7}, RandomForestClassifier(3, random_state=7)),
    ],
)
def test_parameters_reach_the_classifier(name: str, params: dict[str, Any], model: BaseEstimator) -> None:
    features, codes, _ = task("three", dtype=np.float64)
    head = fit_head(HeadSpec(name, params=params), features, codes, 3).head
    assert_predicts_as(head, theirs(model, features, codes, scaled=True), features, 1e-6)


def test_the_seed_reaches_what_draws_random_numbers() -> None:
    features, codes, _ = task("three")
    for name in ("mlp", FOREST):
        one, other, same = (
            fit_head(spec_of(name, seed=seed), features, codes, 3).head.predict_proba(features)
            for seed in (1, 2, 1)
        )
        assert (one == same).all()
        assert (one != other).any()


def test_a_network_stops_early_where_there_are_rows_enough() -> None:
    features, codes = problem(2, rows=1000, width=3)
    spec = HeadSpec("mlp", params={"hidden_layer_sizes": 4, "max_iter": 60})
    early = MLPClassifier((4,), max_iter=60, early_stopping=True, random_state=SEED)
    plain = clone(early).set_params(early_stopping=False)
    for rows, model in (1000, early), (999, plain):
        head = fit_head(spec, features[:rows], codes[:rows], 2).head
        assert_predicts_as(head, theirs(model, features[:rows], codes[:rows], scaled=True), features, 1e-4)
    few = (np.arange(1000) < 9).astype(int)  # one class has too few rows to hold a tenth out
    assert_predicts_as(
        fit_head(spec, features, few, 2).head, theirs(plain, features, few, scaled=True), features, 1e-4
    )


# --- neighbours: copies and ties ----------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize("width", [3, 20])  # scikit-learn takes a tree, or compares all
@pytest.mark.parametrize("scale", ["none", "standard"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_copies_of_rows_vote_as_in_scikit_learn(
    weights: str, width: int, scale: str, dtype: npt.DTypeLike
) -> None:
    """Each row is there twice under two classes, and an even number of neighbours parts no pair."""
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(40, width)).astype(dtype)
    features, codes = np.repeat(rows, 2, axis=0), np.arange(80) % 2 + np.arange(80) // 40
    spec = HeadSpec("knn", scale=scale, params={"n_neighbors": 6, "weights": weights})
    head = fit_head(spec, features, codes, 3).head
    model = KNeighborsClassifier(6, weights=weights)
    model = theirs(model, features.astype(np.float64), codes, scaled=scale == "standard")
    asked = np.concatenate([features, rng.normal(size=(30, width)).astype(dtype)])
    expected = model.predict_proba(asked.astype(np.float64))
    assert head.predict_proba(asked) == pytest.approx(expected, abs=1e-6)
    if weights == "distance":  # at distance 0 no other votes: a half for each copy's class
        assert (np.sort(head.predict_proba(features), axis=1) == [0, 0.5, 0.5]).all()


def knn(points: list[list[float]], codes: list[int], k: int, weights: str = "uniform") -> KnnHead:
    targets = np.asarray(codes)[:, None] == np.arange(max(codes) + 1)
    width = len(points[0])
    return KnnHead(np.array(points), targets, np.zeros(width), np.ones(width), k, weights)


def test_of_rows_at_one_distance_the_first_are_nearer() -> None:
    points = [[1.0, 0], [-1, 0], [0, 1], [0, -1], [3, 3]]
    assert knn(points, [0, 1, 2, 2, 1], 2).predict_proba([[0.0, 0]]).tolist() == [[0.5, 0.5, 0]]
    assert knn(points[::-1], [1, 2, 2, 1, 0], 2).predict_proba([[0.0, 0]]).tolist() == [[0, 0, 1]]
    assert knn(points, [0, 1, 2, 2, 1], 2).predict([[0.0, 0]]).tolist() == [0]  # of equal votes the lower code


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_copies_are_at_distance_0_also_far_from_the_origin(rows: int) -> None:
    """|a|^2 - 2ab + |b|^2 would make something of nothing, and another thing for each place in a batch."""
    rng = np.random.default_rng(0)
    row = rng.normal(size=37) * 1e3 + 1e4
    points = np.concatenate([np.tile(row, (50, 1)), rng.normal(size=(50, 37))])
    head = KnnHead(points, np.arange(100)[:, None] % 2 == [0, 1], np.zeros(37), np.ones(37), 3, "distance")
    asked = np.concatenate([np.tile(row, (rows, 1)), rng.normal(size=(5, 37))])
    assert head.predict_proba(asked)[:rows].tolist() == [[2 / 3, 1 / 3]] * rows  # of rows 0, 1 and 2


def test_weights_by_distance_are_those_known_by_hand() -> None:
    head = knn([[0.0], [3.0], [10.0]], [0, 1, 1], 2, "distance")
    assert head.predict_proba([[1.0], [0.0], [2.5]]).tolist() == pytest.approx(
        np.array([[2 / 3, 1 / 3], [1, 0], [1 / 6, 5 / 6]])
    )
    assert head.decision_function([[1.0]]) == pytest.approx([np.log(1 / 2)])


def test_fewer_rows_than_neighbours_are_all_asked_and_said() -> None:
    features, codes, _ = task("two")
    spec = HeadSpec("knn", params={"n_neighbors": 200})
    got = fit_head(spec, features, codes, 2)
    assert got.notes == ["n_neighbors is 90 instead of 200: there are 90 rows"]
    assert (got.head.predict_proba(features) == 0.5).all()
    assert fit_head(HeadSpec("knn"), features[:4], codes[:4], 2).notes == []  # nobody asked for 5


def test_a_class_without_variance_has_some() -> None:
    """Without smoothing scikit-learn divides by 0 and answers NaN."""
    features = np.array([[0.0, 1], [0, 2], [5, 3], [5, 4]])
    spec = HeadSpec("naive-bayes", scale="none", params={"var_smoothing": 0})
    head = fit_head(spec, features, [0, 0, 1, 1], 2).head
    assert head.predict(np.concatenate([features, [[1e6, 0], [-1e6, 0]]])).tolist() == [0, 0, 1, 1, 1, 0]


# --- notes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "scale", "scaled"),
    [
        ("unit", "auto", False),
        ("nearly unit", "auto", False),
        ("unit and zero rows", "auto", False),
        ("raw", "auto", True),
        ("raw", "none", False),
        ("raw", "standard", True),
        ("unit", "standard", True),
    ],
)
def test_raw_features_are_standardised_and_unit_ones_are_not(features: str, scale: str, scaled: bool) -> None:
    raw, codes = problem(2)
    values = raw if features == "raw" else unit(raw)
    if features == "nearly unit":
        values = values * 1.0009
    if features == "unit and zero rows":
        values[3] = 0
    assert fit_head(HeadSpec(scale=scale), values, codes, 2).scaled is scaled


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("hist-gb", FOREST, "dummy")])
@pytest.mark.parametrize("kind", ["three", "several"])
def test_standardising_makes_a_head_blind_to_the_scale_of_columns(name: str, kind: str) -> None:
    features, targets, _ = task(kind, dtype=np.float64)
    stretched = features * [1e-3, 1, 8, 1e3, 1] + 4
    plain, other = (
        fit_head(spec_of(name, scale="standard"), rows, targets, 3).head.predict(rows)
        for rows in (features, stretched)
    )
    assert (plain == other).mean() > 0.98


def test_a_constant_column_is_no_harm() -> None:
    features, codes, _ = task("three")
    features[:, 2] = 7
    for name in NAMES:
        head = fit_head(spec_of(name), features, codes, 3).head
        assert np.isfinite(head.decision_function(features + 1)).all()


@pytest.mark.parametrize(
    ("spec", "note"),
    [
        (
            HeadSpec(scale="none", params={"max_iter": 2}),
            "logreg did not converge: it stopped at max_iter=2 (n_iter 2); raise max_iter, "
            "or standardise the features (scale 'standard')",
        ),
        (
            HeadSpec(params={"max_iter": 2}),
            "logreg did not converge: it stopped at max_iter=2 (n_iter 2); raise max_iter",
        ),
        (
            HeadSpec("linear-svm", params={"max_iter": 1, "tol": 1e-9}),
            "linear-svm did not converge in max_iter=1; lower C or raise max_iter",
        ),
        (HeadSpec("mlp", params={"max_iter": 3}), "mlp did not converge in max_iter=3; raise max_iter"),
    ],
)
def test_a_fit_that_does_not_converge_is_said(spec: HeadSpec, note: str) -> None:
    features, codes, _ = task("three")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit_head(spec, features, codes, 3).notes == [note]
        named = fit_head(spec, features, matrix(features), 3, names=["a", "b", "c"]).notes
    assert named == ([note] if spec.clf == "mlp" else [f"{label}: {note}" for label in "abc"])
    assert fitted("logreg", "three").notes == []


@pytest.mark.parametrize("threads", [1, 2])
def test_a_first_fit_already_keeps_to_its_threads(threads: int) -> None:
    """Pools that scikit-learn brings along would be missed by a limit that is set before it is imported."""
    code = (
        "import numpy as np, embedkit.heads.fit as fit; from threadpoolctl import threadpool_info\n"
        "inner = fit._fit\n"
        "def spy(problem):\n"
        "    import sklearn.ensemble, sklearn.svm\n"
        f"    assert {{i['num_threads'] for i in threadpool_info()}} == {{{threads}}}, threadpool_info()\n"
        "    assert {i['user_api'] for i in threadpool_info()} == {'blas', 'openmp'}\n"
        "    return inner(problem)\n"
        "fit._fit = spy\n"
        f"fit.fit_head(fit.HeadSpec(), np.eye(4), [0, 1, 0, 1], 2, threads={threads})"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- weights ----------------------------------------------------------------------------------------------------

WEIGHTED = [name for name in NAMES if takes_weights(name)]
EXACT: dict[str, dict[str, Any]] = {  # solved so far that the solver's own slack is not seen
    "logreg": {"tol": 1e-10},
    "ridge": {},
    "linear-svm": {"tol": 1e-8, "max_iter": 100_000},
    "centroid": {},
    "naive-bayes": {},
    "dummy": {},
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("kind", ["two", "three", "several"])
@pytest.mark.parametrize("scale", ["none", "standard"])
def test_whole_weights_count_as_copies(name: str, kind: str, scale: str) -> None:
    features, targets, classes = task(kind, dtype=np.float64)
    weights = np.random.default_rng(5).integers(0, 4, size=len(features))
    spec = HeadSpec(name, scale=scale, params=EXACT[name])
    copies = fit_head(spec, np.repeat(features, weights, axis=0), np.repeat(targets, weights, axis=0), classes)
    weighted = fit_head(spec, features, targets, classes, sample_weight=weights)
    plain = fit_head(spec, features, targets, classes)
    scores = copies.head.decision_function(features)
    assert weighted.head.decision_function(features) == pytest.approx(scores, abs=1e-4, rel=1e-4)
    assert plain.head.decision_function(features) != pytest.approx(scores, abs=1e-4, rel=1e-4)


@pytest.mark.parametrize("name", [name for name in WEIGHTED if name not in ("mlp", "hist-gb", SVC_NAME, FOREST)])
@pytest.mark.parametrize("kind", ["two", "three", "several"])
def test_a_row_of_weight_0_is_not_there(name: str, kind: str) -> None:
    features, targets, classes = task(kind)
    weights = (np.arange(len(features)) % 4 > 0).astype(float)
    zeroed = fit_head(spec_of(name), features, targets, classes, sample_weight=weights).head
    removed = fit_head(
        spec_of(name), features[weights > 0], targets[weights > 0], classes, sample_weight=weights[weights > 0]
    ).head
    assert (zeroed.decision_function(features) == removed.decision_function(features)).all()


@pytest.mark.parametrize("name", ["mlp", "hist-gb", SVC_NAME, FOREST])
def test_a_row_of_weight_0_is_not_there_for_other_heads(name: str) -> None:
    features, codes, _ = task("three")
    codes = np.where(np.arange(90) < 30, (codes + 1) % 3, codes)  # rows that mislead
    weights = (np.arange(90) >= 30).astype(float)
    head = fit_head(spec_of(name), features, codes, 3, sample_weight=weights).head
    clean = fit_head(spec_of(name), features[30:], codes[30:], 3, sample_weight=weights[30:]).head
    assert (head.decision_function(features) == clean.decision_function(features)).all()


@pytest.mark.parametrize("name", [name for name in WEIGHTED if name not in ("centroid", "dummy")])
def test_weights_of_rows_draw_the_boundary(name: str) -> None:
    rng = np.random.default_rng(0)
    codes = np.arange(200) % 2
    features = rng.normal(size=(200, 3)) + 0.8 * codes[:, None]
    counts = [
        int(fit_head(spec_of(name), features, codes, 2, sample_weight=weights).head.predict(features).sum())
        for weights in (np.where(codes == 1, 1, 8), np.ones(200), np.where(codes == 1, 8, 1))
    ]
    assert counts[0] < counts[1] < counts[2]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WEIGHTED])
def test_heads_that_take_no_weights_say_so(name: str) -> None:
    features, codes, _ = task("two")
    assert name in ("knn", "lda")
    with pytest.raises(UsageError, match=f"{name} takes no sample_weight"):
        fit_head(spec_of(name), features, codes, 2, sample_weight=np.ones(90))


@pytest.mark.parametrize("name", ["mlp", "hist-gb", SVC_NAME, FOREST])
@pytest.mark.parametrize("given", ["sample_weight", "class_weight"])
def test_heads_that_take_no_weights_for_several_labels_say_so(name: str, given: str) -> None:
    features, targets, _ = task("several")
    weights = np.ones(90) if given == "sample_weight" else None
    spec = spec_of(name, class_weight="balanced" if given == "class_weight" else None)
    with pytest.raises(UsageError, match="no weights where rows have several labels; take logreg, ridge or"):
        fit_head(spec, features, targets, 3, sample_weight=weights)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(89), r"90 rows, but sample_weight of shape \(89,\)"),
        (np.ones((90, 1)), "sample_weight of shape"),
        (np.full(90, -1.0), "finite numbers from 0 up"),
        (np.full(90, np.nan), "finite numbers from 0 up"),
        (np.full(90, np.inf), "finite numbers from 0 up"),
        (np.zeros(90), "0 rows: there is nothing to fit"),
        (np.arange(90) % 2, r"only one class \('b', 45 rows\)"),
    ],
)
def test_weights_that_are_none_are_refused(weights: npt.NDArray[Any], message: str) -> None:
    features, codes, _ = task("two")
    with pytest.raises(DataError, match=message):
        fit_head(HeadSpec(), features, codes, 2, names=["a", "b"], sample_weight=weights)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("logreg", lambda **given: LogisticRegression(max_iter=1000, random_state=SEED, **given)),
        ("ridge", lambda **given: RidgeClassifier(**given)),
        ("linear-svm", lambda **given: LinearSVC(max_iter=10_000, random_state=SEED, **given)),
        ("hist-gb", lambda **given: clone(MODELS["hist-gb"]).set_params(**given)),
        (SVC_NAME, lambda **given: SVC(random_state=SEED, **given)),
    ],
)
@pytest.mark.parametrize("class_weight", ["balanced", {"b": 5.0}, {"a": 2, "b": 0.25}])
@pytest.mark.parametrize("kind", ["two", "three"])
@both_norms
def test_class_weights_are_those_of_scikit_learn(
    name: str, make: Callable[..., BaseEstimator], class_weight: ClassWeight, kind: str, unit_norm: bool
) -> None:
    features, codes, classes = task(kind, unit_norm=unit_norm)
    features, codes = features[:61], codes[:61] % classes
    codes[:20] = 0
    spec = spec_of(name, class_weight=class_weight)
    head = fit_head(spec, features, codes, classes, names=list("abc"[:classes])).head
    given: Any = class_weight
    if isinstance(class_weight, dict):
        given = {code: class_weight.get("abc"[code], 1.0) for code in range(classes)}
    fit = {}
    if name == "linear-svm" and classes > 2:
        # LinearSVC's own weighs a class against a rest of weight 1; here all rows keep theirs, as in other heads
        fit, given = {"sample_weight": compute_sample_weight(given, codes)}, None
    model = theirs(make(class_weight=given), features, codes, scaled=not unit_norm, **fit)
    assert_predicts_as(head, model, features, 1e-3 if name == "linear-svm" else 2e-5)


@pytest.mark.parametrize("class_weight", ["balanced", {"b": 5.0}])
@both_norms
def test_labels_are_weighted_one_by_one(class_weight: ClassWeight, unit_norm: bool) -> None:
    features, targets, _ = task("several", unit_norm=unit_norm)
    targets[10:, 1] = False
    head = fit_head(HeadSpec(class_weight=class_weight), features, targets, 3, names=list("abc")).head
    for label, name in enumerate("abc"):
        given = class_weight
        if isinstance(class_weight, dict):
            given = {0: 1.0, 1: class_weight.get(name, 1.0)}  # type: ignore[dict-item]
        model = clone(MODELS["logreg"]).set_params(class_weight=given)
        model = theirs(model, features, targets[:, label], scaled=not unit_norm)
        assert head.decision_function(features)[:, label] == pytest.approx(
            model.decision_function(features), abs=1e-3
        )


@both_norms
def test_class_weights_and_weights_of_rows_are_multiplied(unit_norm: bool) -> None:
    features, codes, _ = task("two", unit_norm=unit_norm)
    weights = np.random.default_rng(0).uniform(0.5, 2, size=90)
    spec = HeadSpec(class_weight={"1": 3}, scale="none")
    head = fit_head(spec, features, codes, 2, sample_weight=weights).head
    model = LogisticRegression(max_iter=1000, class_weight={0: 1, 1: 3}, random_state=SEED)
    model.fit(features.astype(np.float64), codes, weights)
    assert head.decision_function(features) == pytest.approx(model.decision_function(features), abs=1e-3)
    balanced = fit_head(HeadSpec("dummy"), features, codes, 2, sample_weight=np.where(codes, 3.0, 1.0)).head
    assert balanced.predict_proba(features[:1]).tolist() == [[0.25, 0.75]]


def test_a_class_weight_of_an_unknown_label_is_refused() -> None:
    features, codes = problem(2)
    with pytest.raises(UsageError, match="unknown labels: eggs; known: ham, spam"):
        fit_head(HeadSpec(class_weight={"eggs": 2}), features, codes, 2, names=["ham", "spam"])


# --- what scikit-learn refuses is said in words --------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("mlp", {"early_stopping": True}, "mlp cannot be fitted: The validation set is too small"),
        (SVC_NAME, {"C": -1}, r"svm.SVC cannot be fitted: The 'C' parameter of SVC must be a float"),
        (SVC_NAME, {"kernel": "x"}, "The 'kernel' parameter of SVC must be"),
        (SVC_NAME, {"kernel": "precomputed"}, "cannot be fitted: Precomputed matrix must be a square matrix"),
        (SVC_NAME, {"decision_function_shape": "ovo"}, "set decision_function_shape to ovr"),
        ("sklearn:svm.NuSVC", {"nu": 0.999}, "cannot be fitted: specified nu is infeasible"),
        ("sklearn:naive_bayes.MultinomialNB", {}, "cannot be fitted: Negative values in data"),
        ("sklearn:neighbors.KNeighborsClassifier", {"n_neighbors": 50}, "Expected n_neighbors <= n_samples_fit"),
    ],
)
def test_parameters_that_cannot_be_are_no_traceback(name: str, params: dict[str, Any], message: str) -> None:
    features, codes, _ = task("three")
    codes[3:8] = 0
    with pytest.raises(UsageError, match=message) as caught:
        fit_head(HeadSpec(name, params=params), features[:8], codes[:8], 3)
    assert "\n" not in str(caught.value)
