"""What is learnt beside a head, and how heads are compared: against plain loops, on rows no head was fitted on."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from joblib.externals.loky import get_reusable_executor
from threadpoolctl import threadpool_info

from embedkit.data.splits import stratified_folds
from embedkit.errors import DataError, UsageError
from embedkit.heads import (
    CalibratedHead,
    Decided,
    Decision,
    HeadSpec,
    LinearHead,
    cross_validate,
    fit_decided,
    fit_head,
    specs_of,
)
from embedkit.heads import decision as decision_module
from embedkit.heads import grid as grid_module
from embedkit.heads.calibration import fit_calibration
from embedkit.heads.fit import auto_scale
from embedkit.heads.grid import out_of_fold
from embedkit.heads.table import HEADS
from embedkit.heads.thresholds import THRESHOLD_METRICS, tune_thresholds
from embedkit.metrics.scores import scores_of
from embedkit.runtime.decide import probabilities
from tests.head_data import TASKS, one_thread, problem, spec_of, task, unit

__all__ = ["one_thread"]  # a fixture
NAMES = ("a", "b", "c")
Rows = npt.NDArray[Any]


def decide(
    spec: HeadSpec, decision: Decision, features: Rows, targets: Rows, groups: Rows | None = None, **how: Any
) -> Decided:
    """Fit with every row a group of its own, unless groups are given."""
    several = targets.shape[1:]
    names = NAMES[: several[0] if several else int(targets.max()) + 1]
    groups = np.arange(len(targets)) if groups is None else groups
    return fit_decided(spec, decision, features, targets, names, groups=groups, **how)


def folds_of(targets: Rows, groups: Rows | None = None, *, k: int = 5, seed: int = 42) -> list[Any]:
    """Return the folds that `fit_decided` takes."""
    labels = targets if targets.ndim == 1 else [np.flatnonzero(row).tolist() for row in targets]
    groups = np.arange(len(targets)) if groups is None else groups
    return stratified_folds(labels, groups, k, seed, rare="train-only")


def held_out(
    spec: HeadSpec, features: Rows, targets: Rows, classes: int, folds: Sequence[Any], weights: Rows | None = None
) -> Rows:
    """Return the score of each row by a head that was fitted on the other folds, in a plain loop."""
    several = targets.ndim == 2
    scores = np.full((len(targets), classes) if several or classes > 2 else len(targets), np.nan)
    for train, test in folds:
        part = None if weights is None else weights[train]
        fit = fit_head(spec, features[train], targets[train], classes, sample_weight=part, threads=1)
        scores[test] = fit.head.decision_function(features[test])
    return scores


# --- calibration and thresholds ----------------------------------------------------------------------------

HEADS_TRIED = ("logreg", "ridge", "linear-svm", "knn", "naive-bayes", "hist-gb", "sklearn:svm.SVC")


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("name", HEADS_TRIED)
def test_a_calibrated_head_moves_the_scores_of_the_head_fitted_on_all_rows(name: str, kind: str) -> None:
    features, targets, classes = task(kind)
    spec = spec_of(name)
    decided = decide(spec, Decision(calibrate=True), features, targets, threads=1)
    alone = fit_head(spec, features, targets, classes, threads=1).head
    assert np.array_equal(decided.before.decision_function(features), alone.decision_function(features))
    scores = held_out(spec, features, targets, classes, folds_of(targets))
    calibration = fit_calibration(scores, targets, multi_label=kind == "several").calibration
    moved = calibration.apply(alone.decision_function(features))
    assert decided.fitted.head.decision_function(features) == pytest.approx(moved, rel=1e-9, abs=1e-9)
    expected = probabilities(moved, multi_label=kind == "several")
    assert decided.fitted.head.predict_proba(features) == pytest.approx(expected, abs=1e-9)
    assert type(decided.fitted.head) is (LinearHead if isinstance(alone, LinearHead) else CalibratedHead)
    assert (decided.tuned_on, decided.thresholds) == ("train, out of fold", None)


@pytest.mark.parametrize(
    ("metric", "kind"),
    [(metric, kind) for metric in THRESHOLD_METRICS for kind in ("two", "several")][:-1],  # a label has one F1
)
@pytest.mark.parametrize("calibrate", [False, True])
@pytest.mark.parametrize("name", ["logreg", "ridge", "knn"])
def test_thresholds_are_those_of_scores_out_of_fold(metric: str, name: str, calibrate: bool, kind: str) -> None:
    features, targets, classes = task(kind)
    several, spec = kind == "several", spec_of(name)
    scores = held_out(spec, features, targets, classes, folds_of(targets))
    if calibrate:
        scores = fit_calibration(scores, targets, multi_label=several).calibration.apply(scores)
    on_scores = name == "ridge" and not calibrate
    values = scores if on_scores else probabilities(scores, multi_label=several)
    for positive in (None,) if several else (0, 1):
        decision = Decision(calibrate, metric, positive)
        thresholds = decide(spec, decision, features, targets, threads=1).thresholds
        assert thresholds is not None
        if several:
            compared, wanted = values, targets
        elif on_scores:
            compared, wanted = (values if positive else -values), targets == positive
        else:
            compared, wanted = values[:, positive], targets == positive
        by_hand = tune_thresholds(compared, wanted, metric, default=0.0 if on_scores else 0.5, least=5)
        assert thresholds.values == pytest.approx(by_hand.thresholds.tolist(), rel=1e-9, abs=1e-9)
        assert (thresholds.on, thresholds.metric) == ("score" if on_scores else "probability", metric)
        assert thresholds.positive == (1 if several else positive)


@pytest.mark.parametrize("kind", ["two", "several"])
def test_the_validation_split_decides_where_there_is_one(kind: str) -> None:
    features, targets, classes = task(kind)
    train, held = slice(0, 60), slice(60, 90)
    decision = Decision(calibrate=True, thresholds="accuracy")
    decided = decide(
        spec_of("logreg"), decision, features[train], targets[train], validation=(features[held], targets[held])
    )
    alone = fit_head(spec_of("logreg"), features[train], targets[train], classes).head
    scores = alone.decision_function(features[held])
    several = kind == "several"
    calibration = fit_calibration(scores, targets[held], multi_label=several).calibration
    moved = calibration.apply(alone.decision_function(features))
    assert decided.fitted.head.decision_function(features) == pytest.approx(moved, rel=1e-9)
    shares = probabilities(calibration.apply(scores), multi_label=several)
    compared, wanted = (shares, targets[held]) if several else (shares[:, 1], targets[held] == 1)
    assert decided.thresholds is not None
    by_hand = tune_thresholds(compared, wanted, "accuracy", least=5).thresholds
    assert decided.thresholds.values == pytest.approx(by_hand.tolist(), rel=1e-9)
    assert decided.tuned_on == "validation"


def test_nothing_is_learnt_that_was_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_module, "out_of_fold", None)  # would be called in vain
    features, codes = problem(3)
    decided = decide(HeadSpec(), Decision(), features, codes)
    assert decided.fitted.head is decided.before
    assert (decided.thresholds, decided.tuned_on) == (None, None)
    assert [Decision(**what).needed for what in ({}, {"calibrate": True}, {"thresholds": "f1"})] == [
        False, True, True,
    ]  # fmt: skip


def test_equal_texts_are_never_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    features, codes = problem(2)
    groups = np.arange(90) // 4
    seen = []
    plain = decision_module.out_of_fold

    def watched(spec: HeadSpec, features: Rows, targets: Rows, folds: Any, *more: Any, **how: Any) -> Any:
        seen.extend(folds)
        return plain(spec, features, targets, folds, *more, **how)

    monkeypatch.setattr(decision_module, "out_of_fold", watched)
    decide(HeadSpec(), Decision(calibrate=True, seed=7), features, codes, groups)
    assert len(seen) == 5
    for (train, test), (others, part) in zip(seen, folds_of(codes, groups, seed=7), strict=True):
        assert not set(groups[train]) & set(groups[test])
        assert np.array_equal(train, others)
        assert np.array_equal(test, part)


def test_few_different_texts_make_few_folds() -> None:
    features, codes = problem(2, rows=12)
    groups = np.array([0, 1, 0, 1, 2, 3, 2, 3, 2, 3, 2, 3])  # two texts a class
    decided = decide(HeadSpec(), Decision(calibrate=True), features, codes, groups)
    scores = held_out(HeadSpec(), features, codes, 2, folds_of(codes, groups, k=4))
    moved = fit_calibration(scores, codes).calibration.apply(decided.before.decision_function(features))
    assert decided.fitted.head.decision_function(features) == pytest.approx(moved, rel=1e-9)
    with pytest.raises(DataError, match="0 distinct texts, too few for 2 folds; add texts"):
        decide(HeadSpec(), Decision(calibrate=True), features, codes, np.zeros(12, int))


def test_weights_reach_the_heads_of_the_folds() -> None:
    features, codes = problem(2)
    weights = np.where(codes == 1, 20.0, 0.5)
    decided = decide(HeadSpec(), Decision(calibrate=True), features, codes, sample_weight=weights)
    scores = held_out(HeadSpec(), features, codes, 2, folds_of(codes), weights)
    moved = fit_calibration(scores, codes).calibration.apply(decided.before.decision_function(features))
    assert decided.fitted.head.decision_function(features) == pytest.approx(moved, rel=1e-9)
    plain = decide(HeadSpec(), Decision(calibrate=True), features, codes)
    assert plain.fitted.head.decision_function(features) != pytest.approx(moved, rel=1e-2)


@pytest.mark.parametrize("kind", ["two", "several"])
def test_a_row_of_weight_0_is_as_if_it_were_not_there(kind: str) -> None:
    features, targets, _ = task(kind)
    weights = np.ones(90)
    weights[::7] = 0
    decision, kept = Decision(calibrate=True, thresholds="accuracy"), weights > 0
    groups = np.arange(90)
    there = decide(HeadSpec(), decision, features, targets, sample_weight=weights)
    gone = decide(HeadSpec(), decision, features[kept], targets[kept], groups[kept], sample_weight=weights[kept])
    both = [decided.fitted.head.decision_function(features) for decided in (there, gone)]
    assert both[0] == pytest.approx(both[1], rel=1e-9)
    assert there.thresholds == gone.thresholds


def test_a_label_of_one_row_is_not_given_to_every_row() -> None:
    features, _ = problem(3, rows=200)
    labels = np.column_stack([features[:, 0] > 0, features[:, 1] > 0, np.arange(200) == 7])
    for calibrate in (False, True):
        decided = decide(HeadSpec(), Decision(calibrate, "f1"), features, labels)
        assert decided.thresholds is not None
        assert decided.thresholds.values[2] == 0.5
        assert decided.thresholds.values[0] != 0.5
        given = decided.thresholds.decide(decided.fitted.head.predict_proba(features), multi_label=True)
        assert given[:, 2].sum() <= 1
        assert any(note.startswith("the threshold stays 0.5 for 1 label") for note in decided.fitted.notes)


@pytest.mark.parametrize(
    ("decision", "classes", "several", "message"),
    [
        (Decision(thresholds="auc"), 2, False, r"tuned for f1, accuracy, .*not for 'auc'"),
        (Decision(thresholds="accuracy"), 3, False, "two classes or several labels a row; there are 3 classes"),
        (Decision(thresholds="f1"), 2, False, r"need the positive label \(--positive-label\)"),
        (Decision(thresholds="macro-f1"), 3, True, "f1 tunes the threshold of each label"),
        (Decision(thresholds="f1", positive=0), 2, False, None),
        (Decision(thresholds="f1"), 3, True, None),
        (Decision(thresholds="macro-f1"), 2, False, None),
        (Decision(calibrate=True), 9, False, None),
    ],
)
def test_thresholds_that_cannot_be_are_refused_before_a_fit(
    decision: Decision, classes: int, several: bool, message: str | None
) -> None:
    if message is None:
        decision.check(classes, multi_label=several)
        return
    with pytest.raises(UsageError, match=message):
        decision.check(classes, multi_label=several)
    targets = np.eye(3, dtype=bool)[np.arange(90) % 3] if several else np.arange(90) % classes
    with pytest.raises(UsageError, match=message):
        decide(HeadSpec(), decision, problem(2)[0], targets)


# --- whether features are standardised ----------------------------------------------------------------------


def on_the_edge() -> tuple[Rows, Rows]:
    """Return rows of norm 1 but for the last."""
    features, codes = problem(2, rows=40)
    features = unit(features)
    features[-1] *= 3
    return features, codes


def test_all_rows_decide_about_scaling() -> None:
    features, codes = on_the_edge()
    folds = folds_of(codes)
    alone = [auto_scale(features[train]) for train, _ in folds]
    assert sorted(set(alone)) == ["none", "standard"]  # the folds themselves would differ
    decided = decide(HeadSpec(), Decision(calibrate=True), features, codes)
    assert decided.fitted.scaled
    scores = held_out(HeadSpec(scale="standard"), features, codes, 2, folds)
    moved = fit_calibration(scores, codes).calibration.apply(decided.before.decision_function(features))
    assert decided.fitted.head.decision_function(features) == pytest.approx(moved, rel=1e-9)
    (trials,) = cross_validate([HeadSpec(), HeadSpec(scale="standard")], [features], codes, folds, NAMES, jobs=1)
    assert trials[0].scores == trials[1].scores
    assert [trial.spec.scale for trial in trials] == ["auto", "standard"]  # what was asked for is what is saved


# --- the candidates -----------------------------------------------------------------------------------------


def test_every_combination_is_a_candidate_in_order() -> None:
    found = specs_of(["logreg", "knn"], {"C": [1, 10], "weights": ["uniform"]}, scales=("none", "standard"))
    assert [(spec.clf, spec.scale, dict(spec.params)) for spec in found] == [
        ("logreg", "none", {"C": 1}),
        ("logreg", "none", {"C": 10}),
        ("logreg", "standard", {"C": 1}),
        ("logreg", "standard", {"C": 10}),
        ("knn", "none", {"weights": "uniform"}),
        ("knn", "standard", {"weights": "uniform"}),
    ]


@pytest.mark.parametrize("clf", sorted(HEADS))
def test_a_search_tries_the_usual_values_that_were_not_given(clf: str) -> None:
    count = int(np.prod([len(values) for values in HEADS[clf].grid.values()]))
    found = specs_of([clf], {}, search=True)
    assert len({str(spec) for spec in found}) == len(found) == max(1, count)
    for name in HEADS[clf].grid:
        value = HEADS[clf].grid[name][-1]
        fixed = specs_of([clf], {name: [value]}, search=True)
        assert {spec.params[name] for spec in fixed} == {value}
        assert len(fixed) * len(HEADS[clf].grid[name]) == count


def test_class_weights_and_seed_are_those_of_the_template() -> None:
    template = HeadSpec(class_weight="balanced", seed=3)
    found = specs_of(["logreg", "ridge"], {}, template=template)
    assert [(spec.class_weight, spec.seed) for spec in found] == [("balanced", 3)] * 2


@pytest.mark.parametrize(
    ("clfs", "values", "message"),
    [
        (["logreg", "logreg"], {}, "a head is named twice: logreg, logreg"),
        (["logreg"], {"k": [1]}, "no parameter k; logreg: C, "),
        (["centroid", "ridge"], {"C": [1], "k": [1]}, "no parameter C, k; centroid: none; ridge: alpha, "),
        (["logreg", "none"], {"k": [1]}, "unknown head 'none'; available: logreg"),
        (["logreg"], {"C": [1, -1]}, "C must be a number above 0, not -1"),
    ],
)
def test_candidates_that_cannot_be_are_refused(clfs: list[str], values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        specs_of(clfs, values)


# --- cross-validation ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TASKS)
def test_cross_validation_is_a_plain_loop(kind: str) -> None:
    features, targets, classes = task(kind)
    views = [features, unit(features), features[:, ::-1].copy()]
    specs = [
        *specs_of(["logreg", "knn"], {"C": [0.1, 10], "n_neighbors": [3, 15]}, scales=("auto", "none")),
        *(spec_of(name) for name in ("ridge", "hist-gb")),
        *specs_of(
            ["knn"], {"weights": ["distance", "uniform"]}
        ),  # default numbers of neighbours, and after others
    ]
    folds = folds_of(targets, k=3)
    runs = [list(cross_validate(specs, views, targets, folds, NAMES[:classes], jobs=jobs)) for jobs in (1, 2)]
    for view, trials, again in zip(views, *runs, strict=True):
        assert [trial.spec for trial in trials] == specs
        assert [trial.scores for trial in trials] == [trial.scores for trial in again]
        for spec, trial in zip(specs, trials, strict=True):
            expected = []
            for train, test in folds:
                head = fit_head(spec, view[train], targets[train], classes, threads=1).head
                expected.append(scores_of(targets[test], head.predict(view[test]), classes))
            assert trial.scores == {name: tuple(part[name] for part in expected) for name in expected[0]}
            name, values = next(iter(trial.scores.items()))
            assert trial.mean(name) == pytest.approx(np.mean(values))
            assert trial.std(name) == pytest.approx(np.std(values, ddof=1))


@pytest.mark.parametrize(("limit", "value", "allowed"), [("VIEWS_AT_ONCE", 2, 4), ("_BYTES_AT_ONCE", 1, 3)])
def test_few_views_are_held_at_a_time(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: int, allowed: int
) -> None:
    """As many as are allowed, or one where they are large; the one that is next, and the one just judged."""
    monkeypatch.setattr(grid_module, limit, value)
    features, codes = problem(2)
    held: set[int] = set()
    most = []

    def views() -> Iterator[Rows]:
        for number in range(9):
            view = features + np.float32(number)
            held.add(number)
            weakref.finalize(view, held.discard, number)
            most.append(len(held))
            yield view

    trials = list(cross_validate([HeadSpec("centroid")], views(), codes, folds_of(codes, k=2), NAMES[:2], jobs=1))
    assert len(trials) == 9
    assert max(most) <= allowed


def test_no_view_is_left_behind_in_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBLIB_TEMP_FOLDER", str(tmp_path))
    monkeypatch.setattr(grid_module, "VIEWS_AT_ONCE", 2)
    get_reusable_executor().shutdown(wait=True)  # the workers of other tests know another folder
    most = []
    codes = np.arange(2000) % 2

    def views() -> Iterator[Rows]:
        for number in range(6):  # joblib hands more than a megabyte to its workers as a file
            yield np.random.default_rng(number).normal(size=(2000, 200)).astype(np.float32)

    for _ in cross_validate([HeadSpec("centroid")], views(), codes, folds_of(codes, k=2), NAMES[:2], jobs=2):
        most.append(sum(path.is_file() for path in tmp_path.rglob("*")))
    assert len(most) == 6
    assert 0 < max(most) <= 2
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    get_reusable_executor().shutdown(wait=True)


def test_a_parameter_of_scikit_learn_is_no_number_of_neighbours() -> None:
    features, codes = problem(2)
    folds, name = folds_of(codes), "sklearn:neighbors.KNeighborsClassifier"
    specs = specs_of([name], {"n_neighbors": [5, "many"], "algorithm": ["brute"]})
    with pytest.raises(UsageError, match="n_neighbors"):
        list(cross_validate(specs, [features], codes, folds, NAMES[:2], jobs=1))
    (trials,) = cross_validate(
        specs_of([name], {"n_neighbors": [1, 5], "algorithm": ["brute"]}),
        [features],
        codes,
        folds,
        NAMES[:2],
        jobs=1,
    )
    (ours,) = cross_validate(
        specs_of(["knn"], {"n_neighbors": [1, 5]}), [features], codes, folds, NAMES[:2], jobs=1
    )
    assert [trial.scores for trial in trials] == [trial.scores for trial in ours]


def test_a_candidate_that_cannot_be_saved_is_refused_in_the_first_fold() -> None:
    features, codes = problem(2)
    specs = [HeadSpec("sklearn:gaussian_process.GaussianProcessClassifier")]
    with pytest.raises(UsageError, match="has no safe form without pickle"):
        next(cross_validate(specs, iter([features]), codes, folds_of(codes), NAMES[:2], jobs=1))


def test_notes_of_the_folds_are_said_once() -> None:
    features, codes = problem(3)
    (trials,) = cross_validate(
        [HeadSpec(params={"max_iter": 1}), HeadSpec()], [features], codes, folds_of(codes), NAMES, jobs=1
    )
    assert len(trials[0].notes) == 1
    assert "did not converge" in trials[0].notes[0]
    assert trials[1].notes == ()


@pytest.mark.parametrize("kind", TASKS)
def test_scores_out_of_fold_are_those_of_a_plain_loop(kind: str) -> None:
    features, targets, classes = task(kind)
    folds = folds_of(targets)
    scores, rows = out_of_fold(HeadSpec(), features, targets, folds, NAMES[:classes], threads=1)
    assert rows.tolist() == list(range(90))
    assert np.array_equal(scores, held_out(HeadSpec(), features, targets, classes, folds))
    some, rows = out_of_fold(HeadSpec(), features, targets, folds[2:0:-1], NAMES[:classes], threads=1)
    assert rows.tolist() == sorted([*folds[1][1], *folds[2][1]])
    assert np.array_equal(some, scores[rows])


# --- threads ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("many", [False, True])
def test_trees_on_few_rows_take_one_thread(many: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier

    features, codes = problem(2)
    monkeypatch.setattr("embedkit.heads.threads.MANY", features.size if many else features.size + 1)

    asked: list[set[int]] = []

    def watch(method: str) -> None:
        plain = getattr(HistGradientBoostingClassifier, method)

        def watched(self: Any, *given: Any, **how: Any) -> Any:
            pools = [pool for pool in threadpool_info() if pool["user_api"] == "openmp"]
            asked.append({pool["num_threads"] for pool in pools if "scikit_learn" in pool["filepath"]})
            return plain(self, *given, **how)

        monkeypatch.setattr(HistGradientBoostingClassifier, method, watched)

    for method in ("fit", "predict", "predict_proba"):
        watch(method)
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=3, user_api="openmp"):
        head = fit_head(spec_of("hist-gb"), features, codes, 2).head
        head.predict(features)
        head.predict_proba(features)
        fit_head(replace(spec_of("hist-gb"), seed=1), features, codes, 2, threads=2)
    assert asked == [{3 if many else 1}] * 3 + [{2}]
