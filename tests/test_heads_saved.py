"""Saved heads answer as those that were saved, bit for bit; damaged and hostile ones are refused."""

from __future__ import annotations

import json
import logging
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import sklearn
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from embedkit.artifact import load_arrays, save_arrays
from embedkit.errors import ArtifactError, MissingExtraError, UsageError
from embedkit.heads import (
    CalibratedHead,
    Head,
    HeadSpec,
    LinearHead,
    PerLabelHead,
    SkopsHead,
    fit_head,
    head_from_state,
)
from embedkit.heads.skops_head import FILE, TRUSTED
from tests.head_data import NAMES, PLAIN, TASKS, fitted, one_thread, problem, spec_of, task

__all__ = ["one_thread"]  # a fixture
Described = dict[str, Any]
Arrays = dict[str, npt.NDArray[Any]]


def again(head: Head, folder: Path) -> Head:
    """Write a head as an artifact does, JSON and safetensors and the file of skops, and read it back."""
    described, arrays = head.state()
    (folder / "head.json").write_text(json.dumps(described, allow_nan=False))
    save_arrays(folder / "head.safetensors", {name: array for name, array in arrays.items() if name != FILE})
    read = load_arrays(folder / "head.safetensors")
    if FILE in arrays:
        (folder / FILE).write_bytes(arrays[FILE].tobytes())
        read[FILE] = np.frombuffer((folder / FILE).read_bytes(), np.uint8)
    return head_from_state(json.loads((folder / "head.json").read_text()), read)


def assert_same(head: Head, other: Head, features: npt.NDArray[Any]) -> None:
    """Compare all answers bit for bit."""
    for name in ("kind", "classes", "n_features", "multi_label", "has_probabilities"):
        assert getattr(head, name) == getattr(other, name)
    assert (head.decision_function(features) == other.decision_function(features)).all()
    assert (head.predict(features) == other.predict(features)).all()
    if head.has_probabilities:
        assert (head.predict_proba(features) == other.predict_proba(features)).all()
    described, arrays = head.state()
    copy = other.state()
    assert copy.described == described
    assert {name: array.dtype for name, array in copy.arrays.items()} == {n: a.dtype for n, a in arrays.items()}


def wrapped(name: str, kind: str) -> Head:
    """Return a head with its scores calibrated, whatever to."""
    base = fitted(name, kind).head
    wide = base.classes
    scale = np.linspace(0.5, 2, wide) if kind == "several" else np.array([0.7])
    shift = np.array([0.3]) if kind == "two" else np.linspace(-1, 1, wide)
    return CalibratedHead(base, scale, shift)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("unit_norm", [True, False], ids=["unit", "raw"])
def test_a_head_survives_its_files(name: str, kind: str, unit_norm: bool, tmp_path: Path) -> None:
    head, features = fitted(name, kind, unit_norm).head, task(kind, unit_norm=unit_norm)[0]
    assert_same(head, again(head, tmp_path), features)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", TASKS)
def test_a_calibrated_head_survives_its_files(name: str, kind: str, tmp_path: Path) -> None:
    head, features = wrapped(name, kind), task(kind)[0]
    assert_same(head, again(head, tmp_path), features)
    expected = fitted(name, kind).head.decision_function(features)
    assert isinstance(head, CalibratedHead)
    assert head.decision_function(features) == pytest.approx(expected * head.scale + head.shift, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_certain_answers_survive_the_files(name: str, tmp_path: Path) -> None:
    features, targets, _ = task("several")
    targets[:, 1], codes = True, np.array([0, 3, 4])[problem(3)[1]]
    for answers, wide in (targets, 3), (codes, 5):
        head = fit_head(spec_of(name), features, answers, wide).head
        assert_same(head, again(head, tmp_path), features)
        scale, shift = np.ones(wide if answers is targets else 1), np.linspace(-1, 1, wide)
        calibrated = CalibratedHead(head, scale, shift)
        assert_same(calibrated, again(calibrated, tmp_path), features)
        if answers is targets:
            assert (calibrated.predict_proba(features)[:, 1] == 1).all()
        else:
            assert (calibrated.predict_proba(features)[:, [1, 2]] == 0).all()
            assert not set(calibrated.predict(features)) & {1, 2}


def test_a_calibrated_head_that_knows_the_answer_still_gives_it() -> None:
    """Scores of inf in two classes: softmax(0, inf) is NaN."""
    features, codes, _ = task("two")
    codes[:50] = 1
    base = fit_head(HeadSpec("dummy", params={"strategy": "most_frequent"}), features, codes, 2).head
    head = CalibratedHead(base, np.array([2.0]), np.array([-3.0]))
    assert head.predict_proba(features[:2]).tolist() == [[0, 1], [0, 1]]


def test_a_head_for_each_label_survives_its_files(tmp_path: Path) -> None:
    """Of different kinds, more than ten, one of them an object and one wrapped itself."""
    features = task("two")[0]
    names = ("logreg", "knn", "naive-bayes", "mlp", "dummy", "hist-gb")
    heads = [fitted(name, "two").head for name in (*names, *names[:-1])]
    head = PerLabelHead([*heads, wrapped("knn", "two")])
    assert_same(head, again(head, tmp_path), features)
    assert head.decision_function(features).shape == (len(features), 12)
    assert (head.decision_function(features)[:, 1] == heads[1].decision_function(features)).all()
    assert (head.predict_proba(features)[:, 3] == heads[3].predict_proba(features)[:, 1]).all()
    calibrated = CalibratedHead(head, np.ones(12), np.zeros(12))
    assert_same(calibrated, again(calibrated, tmp_path), features)


def test_a_head_for_each_label_needs_heads_of_two_classes() -> None:
    two, three = fitted("logreg", "two").head, fitted("logreg", "three").head
    narrow = LinearHead(np.ones((1, 2)), np.zeros(1), "sigmoid")
    for heads in [], [two, three], [two, fitted("logreg", "several").head]:
        with pytest.raises(ValueError, match="must have two classes"):
            PerLabelHead(heads)
    with pytest.raises(ValueError, match="different widths"):
        PerLabelHead([two, narrow])
    ridge = fitted("ridge", "two").head
    assert not PerLabelHead([two, ridge]).has_probabilities
    with pytest.raises(UsageError, match="no probabilities"):
        PerLabelHead([two, ridge]).predict_proba(task("two")[0])


def test_two_objects_do_not_overwrite_each_other() -> None:
    forest = fitted("hist-gb", "two").head
    with pytest.raises(UsageError, match="one head that stays a scikit-learn object"):
        PerLabelHead([forest, forest]).state()


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(PLAIN),
    st.integers(2, 4),
    st.integers(0, 10**6),
    st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_any_plain_head_is_read_back_bit_for_bit(
    name: str, n_classes: int, seed: int, dtype: npt.DTypeLike
) -> None:
    features, codes = problem(n_classes, rows=40, seed=seed, dtype=dtype)
    spec = spec_of(name, params={"max_iter": 20, "hidden_layer_sizes": "3x2"} if name == "mlp" else {})
    head = fit_head(spec, features, codes, n_classes).head
    described, arrays = head.state()
    assert_same(head, head_from_state(json.loads(json.dumps(described)), arrays), features)


# --- damaged states -----------------------------------------------------------------------------------------

NESTED = ("calibrated", "per-label")


def state_of(name: str) -> tuple[Described, Arrays]:
    """Return the state of a head of three classes, or of a wrapped one."""
    if name == "calibrated":
        head = wrapped("knn", "three")
    elif name == "per-label":
        head = PerLabelHead([fitted(part, "two").head for part in ("mlp", "naive-bayes")])
    else:
        head = fitted(name, "three").head
    described, arrays = head.state()
    copied: Described = json.loads(json.dumps(described))
    return copied, dict(arrays)


WRONG_VALUES = [None, "x", -1, 0, 10**9, 1.5, True, [], {}, [1], float("nan"), "10"]
FREE = {"class", "scikit-learn"}  # said for people, and for the warning of another version


def places(described: Mapping[str, Any]) -> Iterator[tuple[str | int, ...]]:
    """Yield the place of every value in a description, those of nested heads too."""
    for name, value in described.items():
        yield (name,)
        parts = [value] if isinstance(value, dict) else value if isinstance(value, list) else []
        for number, part in enumerate(parts):
            start = (name,) if isinstance(value, dict) else (name, number)
            yield from ((*start, *place) for place in places(part))


def at(described: Any, place: tuple[str | int, ...]) -> Any:
    for step in place:
        described = described[step]
    return described


@pytest.mark.parametrize("name", [*NAMES, *NESTED])
def test_a_description_with_anything_missing_or_garbled_is_refused(name: str) -> None:
    described, arrays = state_of(name)
    for place in list(places(described)):
        if place[-1] in FREE:
            continue
        part = at(described, place[:-1])
        value = part.pop(place[-1])
        with pytest.raises(ArtifactError):
            head_from_state(described, arrays)
        for wrong in WRONG_VALUES:
            if wrong is True and isinstance(value, bool):  # three classes without a link could be three labels
                continue
            if wrong == 10**9 and (described["kind"], *place) in (
                ("skops", "classes"),
                ("constant", "n_features"),
            ):
                continue  # for labels and the encoder to tell, when the artifact is opened
            part[place[-1]] = wrong
            with pytest.raises(ArtifactError):
                head_from_state(described, arrays)
        part[place[-1]] = value
    head_from_state(described, arrays)  # and untouched it is read


def damages(array: npt.NDArray[Any]) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Yield an array damaged in each way that no head may take."""
    yield "shorter", array[:-1]
    yield "longer", np.concatenate([array, array[-1:]])
    yield "empty", array[:0]
    yield "one dimension more", array[None]
    yield "flat" if array.ndim > 1 else "a number", array.reshape(-1) if array.ndim > 1 else array[0]
    yield "whole numbers", np.round(np.nan_to_num(array.astype(float))).astype(np.int64)
    yield "complex", array.astype(complex)
    yield "objects", array.astype(object)
    if array.dtype == bool:
        yield "floats", array.astype(np.float64)
        return
    yield "truth values", array > 0
    for value in (np.nan, np.inf):
        copy = array.astype(np.float64)
        copy.reshape(-1)[-1] = value
        yield str(value), copy


@pytest.mark.parametrize("name", [*PLAIN, *NESTED])
def test_arrays_that_are_missing_or_damaged_are_refused(name: str) -> None:
    described, arrays = state_of(name)
    for array_name, array in arrays.items():
        without = {other: kept for other, kept in arrays.items() if other != array_name}
        with pytest.raises(ArtifactError, match="lacks"):
            head_from_state(described, without)
        for damage, wrong in damages(array):
            try:
                head_from_state(described, without | {array_name: wrong})
            except ArtifactError:
                continue
            pytest.fail(f"{array_name}, {damage}: not refused")


LINEAR = {"kind": "linear", "link": "softmax", "classes": 3, "n_features": 2, "multi_label": False}
CONSTANT = {"kind": "constant", "classes": 2, "n_features": 2, "multi_label": False}
KNN = {"kind": "knn", "classes": 2, "n_features": 2, "multi_label": False, "k": 1, "weights": "uniform"}
GAUSSIAN = {"kind": "gaussian", "classes": 2, "n_features": 2, "multi_label": False}
MLP = {"kind": "mlp", "classes": 3, "n_features": 2, "multi_label": False, "layers": 2, "activation": "relu"}
COEF, INTERCEPT, TWO = np.zeros((3, 2)), np.zeros(3), np.zeros((2, 2))
COEFS = {"coef": COEF, "intercept": INTERCEPT}
NEAR = {"points": TWO, "targets": np.eye(2, dtype=bool), "mean": np.zeros(2), "scale": np.ones(2)}
NORMAL = {"mean": TWO, "variance": TWO + 1, "log_prior": np.zeros(2)}
NETWORK = {"weights_0": TWO, "bias_0": np.zeros(2), "weights_1": np.zeros((2, 3)), "bias_1": np.zeros(3)}
INF = np.inf


@pytest.mark.parametrize(
    ("described", "arrays", "message"),
    [
        ({}, {}, "unknown kind None"),
        ({"kind": "pickle"}, {}, "unknown kind 'pickle'; known: linear, constant"),
        ({"kind": ["linear"]}, {}, "unknown kind"),
        (LINEAR, {"coef": COEF}, "the linear head lacks 'intercept'"),
        (LINEAR | {"link": "exp"}, COEFS, "link must be"),
        (LINEAR | {"link": "softmax", "multi_label": True}, COEFS, "not 'softmax' for several labels"),
        (LINEAR | {"link": "sigmoid"}, COEFS, "do not fit the link"),
        (LINEAR | {"classes": 2}, {"coef": COEF[:1], "intercept": INTERCEPT[:1]}, "do not fit the link"),
        (LINEAR, {"coef": COEF.astype(int), "intercept": INTERCEPT}, "coef must not be of dtype int64"),
        (LINEAR, {"coef": COEF > 0, "intercept": INTERCEPT}, "coef must not be of dtype bool"),
        (LINEAR, {"coef": COEF.astype(np.float16), "intercept": INTERCEPT}, "must be float32 or float64"),
        (LINEAR, {"coef": COEF, "intercept": np.array([0, 0, INF])}, "must be finite"),
        (LINEAR, {"coef": COEF, "intercept": INTERCEPT - INF}, "must be finite"),
        (LINEAR | {"classes": 4}, COEFS, "4 classes and 2 features, but its arrays hold 3 and 2"),
        (LINEAR | {"multi_label": 1}, COEFS, "multi_label must be true or false, not 1"),
        (CONSTANT, {"prior": np.array([0.5, 0.6])}, "sum to 1"),
        (CONSTANT, {"prior": np.array([1.5, -0.5])}, "must hold probabilities"),
        (CONSTANT | {"classes": 1}, {"prior": np.array([1.0])}, "two or more"),
        (CONSTANT | {"n_features": None}, {"prior": np.array([0.5, 0.5])}, "n_features must be an integer above"),
        (CONSTANT | {"n_features": -2}, {"prior": np.array([0.5, 0.5])}, "above 0, not -2"),
        (KNN | {"k": 3}, NEAR, "k must be 1 to 2"),
        (KNN | {"k": True}, NEAR, "k must be an integer above 0, not True"),
        (KNN | {"weights": "squared"}, NEAR, "weights uniform or distance"),
        (KNN, NEAR | {"scale": np.array([1.0, 0])}, "mean and scale do not fit"),
        (KNN, NEAR | {"scale": np.array([1.0, INF])}, "must be finite"),
        (KNN, NEAR | {"targets": np.ones((2, 2), bool)}, "each point must have one of two or more classes"),
        (KNN, NEAR | {"targets": np.zeros((2, 2), bool)}, "each point must have one"),
        (KNN | {"classes": 1}, NEAR | {"targets": np.ones((2, 1), bool)}, "two or more classes"),
        (GAUSSIAN, NORMAL | {"variance": TWO}, "variances positive"),
        (GAUSSIAN, NORMAL | {"variance": TWO + INF}, "variances positive and finite"),
        (GAUSSIAN, NORMAL | {"log_prior": np.array([-INF, -INF])}, "log_prior does not fit"),
        (GAUSSIAN | {"multi_label": True}, NORMAL, "described with multi_label True, and is not"),
        (MLP | {"layers": 10**9}, NETWORK, "lacks 'weights_2'"),
        (MLP | {"activation": "exp"}, NETWORK, "activation must be one of"),
        (MLP, NETWORK | {"bias_0": np.array([0, -INF])}, "layer 0: not finite"),
        (MLP, NETWORK | {"bias_1": np.array([0, 0, INF])}, "layer 1: not finite"),
        (MLP, NETWORK | {"bias_1": np.full(3, -INF)}, "layer 1: not finite"),
        ({**LINEAR, "kind": "calibrated"}, {}, "the calibrated head lacks 'base'"),
        ({**LINEAR, "kind": "calibrated", "base": "knn"}, {}, "the calibrated head is damaged"),
        ({**LINEAR, "kind": "calibrated", "base": {"kind": "pickle"}}, {}, "unknown kind 'pickle'"),
        ({**LINEAR, "kind": "per-label", "heads": []}, {}, "a head for each label must have two classes"),
        ({**LINEAR, "kind": "per-label", "heads": 10**9}, {}, "the per-label head is damaged"),
        ({**LINEAR, "kind": "skops"}, {}, "the skops head lacks 'head.skops'"),
    ],
)
def test_what_is_wrong_with_a_head_is_said(described: Described, arrays: Arrays, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        head_from_state(described, arrays)


def test_heads_without_end_are_refused() -> None:
    described: Described = dict(LINEAR)
    for _ in range(5000):
        described = {**LINEAR, "kind": "calibrated", "base": described}
    with pytest.raises(ArtifactError, match="the calibrated head is damaged"):
        head_from_state(described, dict(COEFS))


def test_scales_that_turn_the_order_of_scores_are_refused() -> None:
    base = fitted("logreg", "three").head
    for scale, shift in ([-1.0], [0.0] * 3), ([0.0], [0.0] * 3), ([np.inf], [0.0] * 3), ([1.0], [np.inf, 0, 0]):
        with pytest.raises(ValueError, match="scale must be positive, and scale and shift finite"):
            CalibratedHead(base, np.array(scale), np.array(shift))
    for scale, shift in ([1.0] * 3, [0.0] * 3), ([1.0], [0.0]), ([[1.0]], [0.0] * 3):
        with pytest.raises(ValueError, match="do not fit"):
            CalibratedHead(base, np.array(scale), np.array(shift))


# --- files of skops -----------------------------------------------------------------------------------------

SMALL = (np.array([[0.0, 1], [1, 0], [2, 1], [3, 5]]), np.array([0, 0, 1, 1]))


def described_as(classes: int = 2, n_features: int = 2, **more: Any) -> Described:
    described = {"kind": "skops", "class": "x", "classes": classes, "n_features": n_features}
    return {**described, "multi_label": False, "scikit-learn": sklearn.__version__, **more}


def read(data: bytes, **described: Any) -> Head:
    return head_from_state(described_as(**described), {FILE: np.frombuffer(data, np.uint8)})


class Loud(GaussianNB):
    """A subclass, which may predict otherwise."""


def local_step(array: Any) -> Any:
    """Stand for code that a file would name."""
    return array


class Canary(ClassifierMixin, BaseEstimator):
    """A classifier of a type of its own; tells when it is made."""

    made: list[str] = []  # noqa: RUF012

    def __init__(self) -> None:
        self.made.append("made")
        self.classes_ = np.array([0, 1])

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.made.append("state")

    def predict(self, X: Any) -> Any:  # noqa: N803
        return np.zeros(len(X), int)

    def predict_proba(self, X: Any) -> Any:  # noqa: N803
        return np.full((len(X), 2), 0.5)


FITTED = ("local_step", "Loud", "sklearn.gaussian_process.kernels.RBF", "sklearn.neighbors._ball_tree.BallTree")


@pytest.mark.parametrize(
    ("model", "strange"),
    [
        (Canary(), "Canary"),
        (make_pipeline(FunctionTransformer(local_step), GaussianNB()), "local_step"),
        (make_pipeline(FunctionTransformer(os.fspath, validate=False), "passthrough"), "posix.fspath"),
        (GaussianProcessClassifier(), "sklearn.gaussian_process.kernels.RBF"),
        (KNeighborsClassifier(1, algorithm="ball_tree"), "sklearn.neighbors._ball_tree.BallTree"),
        (BaggingClassifier(Loud(), n_estimators=2), "Loud"),
        ({"model": Canary()}, "Canary"),
    ],
    ids=["class", "function", "library function", "kernel", "tree", "nested", "in a dictionary"],
)
def test_a_file_of_other_types_is_not_opened(model: Any, strange: str) -> None:
    data = skops.io.dumps(model.fit(*SMALL) if strange in FITTED else model)
    Canary.made.clear()
    with pytest.raises(
        ArtifactError, match=f"types that embedkit does not trust, so it is not opened: .*{strange}"
    ):
        read(data)
    assert Canary.made == []


def test_the_canary_sings_when_its_file_is_trusted() -> None:
    """Or its silence would say nothing."""
    data, out = skops.io.dumps(Canary()), BytesIO()
    np.save(out, np.array([Canary()], dtype=object), allow_pickle=True)
    Canary.made.clear()
    skops.io.loads(data, trusted=skops.io.get_untrusted_types(data=data))
    assert Canary.made == ["state"]
    np.load(BytesIO(out.getvalue()), allow_pickle=True)
    assert Canary.made == ["state", "state"]


def test_an_object_of_other_types_is_not_written() -> None:
    model = KNeighborsClassifier(1, algorithm="kd_tree").fit(*SMALL)
    with pytest.raises(UsageError, match=r"made of .*sklearn.neighbors._kd_tree.KDTree.*take another head"):
        SkopsHead(model, 2, 2).state()
    with pytest.raises(UsageError, match=r"a Canary has no safe form without pickle: it is made of .*Canary"):
        SkopsHead(Canary(), 2, 2).state()


def members(data: bytes, change: Callable[[str, bytes], bytes | None]) -> bytes:
    """Return a zip with its members changed, or left out for None."""
    out = BytesIO()
    with zipfile.ZipFile(BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            changed = change(name, old.read(name))
            if changed is not None:
                new.writestr(name, changed)
    return out.getvalue()


GOOD = skops.io.dumps(GaussianNB().fit(*SMALL))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK",
        bytes(200),
        GOOD[: len(GOOD) // 2],
        GOOD[:-1],
        GOOD[10:],
        members(GOOD, lambda name, data: None if name == "schema.json" else data),
        members(GOOD, lambda name, data: None if name.endswith(".npy") else data),
        members(GOOD, lambda name, data: b"{}" if name == "schema.json" else data),
        members(GOOD, lambda name, data: b"[" * 100_000 if name == "schema.json" else data),
        members(GOOD, lambda name, data: data[:-9] if name.endswith(".npy") else data),
        members(GOOD, lambda name, data: data.replace(b"GaussianNB", b"GaussianXX")),
    ],
    ids=[
        *("empty", "two bytes", "zeros", "half", "one byte short", "beginning gone", "no schema", "no arrays"),
        *("empty schema", "deep schema", "short arrays", "no such class"),
    ],
)
def test_a_damaged_file_is_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"head.skops (is damaged|cannot be read|holds types)"):
        read(data)


def test_a_file_cannot_hold_a_pickle() -> None:
    """A member of the zip that numpy could only read by unpickling stays unread."""
    out = BytesIO()
    np.save(out, np.array([Canary()], dtype=object), allow_pickle=True)
    Canary.made.clear()
    data = members(GOOD, lambda name, data: out.getvalue() if name.endswith(".npy") else data)
    with pytest.raises(ArtifactError, match=r"head\.skops cannot be read"):
        read(data)
    assert Canary.made == []


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (StandardScaler().fit(SMALL[0]), "head.skops holds a StandardScaler, which is no classifier"),
        (LinearRegression().fit(*SMALL), "holds a LinearRegression, which is no classifier"),
        ([1, 2], "holds a list, which is no classifier"),
        ({"predict": 1}, "holds a dict, which is no classifier"),
        (GaussianNB, "no classifier|does not trust"),
        (GaussianNB(), "the skops head is damaged"),  # never fitted
    ],
    ids=["scaler", "regression", "list", "dict", "class", "unfitted"],
)
def test_a_file_of_something_else_is_refused(model: Any, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        read(skops.io.dumps(model))


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({"n_features": 3}, "a GaussianNB fitted on 2 features, not 3"),
        ({"classes": 1}, "knows other classes than 1 codes"),
        ({"multi_label": True, "classes": 3}, "knows other classes than 3 codes"),
    ],
)
def test_a_model_that_is_described_as_another_is_refused(described: Described, message: str) -> None:
    assert read(GOOD).classes == 2
    assert read(GOOD, classes=4).predict_proba(SMALL[0]).shape == (4, 4)
    with pytest.raises(ArtifactError, match=message):
        read(GOOD, **described)


@pytest.mark.parametrize(
    "codes", [list("aabb"), [0.5, 0.5, 1.5, 1.5], [-1, -1, 1, 1], [True, True, False, False]], ids=str
)
def test_a_model_of_something_other_than_codes_is_refused(codes: list[Any]) -> None:
    with pytest.raises((ArtifactError, ValueError), match=r"other classes than 2 codes|Unknown label type"):
        read(skops.io.dumps(GaussianNB().fit(SMALL[0], codes)))


def test_another_version_of_scikit_learn_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "embedkit"):
        assert read(GOOD).predict(SMALL[0]).tolist() == [0, 0, 1, 1]
        assert caplog.messages == []
        read(GOOD, **{"scikit-learn": "1.2.3"})
    assert caplog.messages == [
        f"the head was saved with scikit-learn 1.2.3 and is used with {sklearn.__version__}; "
        "its answers may differ: judge it again"
    ]


def test_the_file_of_another_version_is_warned_of_once(recwarn: pytest.WarningsRecorder) -> None:
    older = members(GOOD, lambda name, data: data.replace(sklearn.__version__.encode(), b"1.2.3"))
    with pytest.warns(InconsistentVersionWarning):
        skops.io.loads(older)
    recwarn.clear()
    assert read(older).predict(SMALL[0]).tolist() == [0, 0, 1, 1]
    assert not recwarn.list  # scikit-learn's own warning; ours is a line of the log


def forest(change: Callable[[npt.NDArray[Any]], None]) -> BaseEstimator:
    """Return a forest in whose last tree the nodes were changed."""
    model = RandomForestClassifier(2, random_state=0).fit(*problem(2))
    tree = model.estimators_[-1].tree_
    state = tree.__getstate__()
    state["nodes"] = state["nodes"].copy()
    change(state["nodes"])
    tree.__setstate__(state)
    return model


def boosted(change: Callable[[npt.NDArray[Any]], None]) -> BaseEstimator:
    """Return boosted trees in whose last one the nodes were changed."""
    model = HistGradientBoostingClassifier(max_iter=2, min_samples_leaf=5).fit(*problem(2))
    change(model._predictors[-1][0].nodes)
    return model


def put(place: int, field: str, value: int) -> Callable[[npt.NDArray[Any]], None]:
    def change(nodes: npt.NDArray[Any]) -> None:
        assert nodes[place][field] != value
        nodes[field][place] = value

    return change


CHILD, FEATURE = "a node whose child is none behind it", "asks for another feature than 1 to 5"


@pytest.mark.parametrize(
    ("damaged", "change", "message"),
    [
        (forest, put(0, "left_child", 10**6), CHILD),
        (forest, put(0, "right_child", 10**6), CHILD),
        (forest, put(0, "right_child", -1), CHILD),
        (forest, put(1, "left_child", 0), CHILD),  # it would never end
        (forest, put(0, "feature", 5), FEATURE),
        (forest, put(0, "feature", -1), FEATURE),
        (boosted, put(0, "left", 10**6), CHILD),
        (boosted, put(0, "right", 0), CHILD),
        (boosted, put(-1, "is_leaf", 0), CHILD),
        (boosted, put(0, "feature_idx", 5), FEATURE),
        (boosted, put(0, "feature_idx", -1), FEATURE),
        (boosted, put(0, "is_categorical", 1), "categories that it does not have"),
    ],
)
@pytest.mark.parametrize("scaled", [False, True])
def test_a_tree_that_leads_nowhere_is_refused(
    damaged: Callable[[Any], BaseEstimator], change: Any, message: str, scaled: bool
) -> None:
    """Compiled code follows trees without looking."""
    for model, good in ((damaged(lambda nodes: None), True), (damaged(change), False)):
        whole = Pipeline([("scaler", StandardScaler().fit(problem(2)[0])), ("trees", model)]) if scaled else model
        data = skops.io.dumps(whole)
        if good:
            assert read(data, n_features=5).predict_proba(problem(2)[0]).shape == (90, 2)
        else:
            with pytest.raises(ArtifactError, match=message):
                read(data, n_features=5)


def test_a_tree_of_more_features_than_its_head_is_refused() -> None:
    model = DecisionTreeClassifier().fit(*problem(2))
    model.tree_ = DecisionTreeClassifier().fit(*problem(2, width=7)).tree_
    with pytest.raises(ArtifactError, match="a tree for 7 features, where there are 5"):
        read(skops.io.dumps(model), n_features=5)


def test_a_missing_package_is_not_a_damaged_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"this head.*needs the package 'skops'.*embedkit\[train\]"):
        read(GOOD)
    with pytest.raises(MissingExtraError, match="saving a GaussianNB without pickle needs the package 'skops'"):
        SkopsHead(GaussianNB().fit(*SMALL), 2, 2).state()


CLASSIFIERS: list[BaseEstimator] = [
    AdaBoostClassifier(n_estimators=2),
    BaggingClassifier(n_estimators=2),
    CalibratedClassifierCV(cv=2),
    CalibratedClassifierCV(cv=2, method="isotonic"),
    DecisionTreeClassifier(),
    ExtraTreesClassifier(2),
    GradientBoostingClassifier(n_estimators=2),
    HistGradientBoostingClassifier(max_iter=2),
    KNeighborsClassifier(algorithm="brute"),
    LogisticRegression(),
    MLPClassifier((2,), max_iter=500),
    MLPClassifier((2,), max_iter=500, solver="sgd", learning_rate_init=0.1),
    OneVsRestClassifier(LogisticRegression()),
    RandomForestClassifier(2),
    SGDClassifier(loss="log_loss"),
    SVC(),
    make_pipeline(StandardScaler(), SVC()),
]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_no_more_is_trusted_than_classifiers_are_made_of() -> None:
    features, codes, _ = task("three")
    several = np.column_stack([codes == 1, np.zeros(len(codes), bool), codes == 2]).astype(int)
    used = set()
    for model in CLASSIFIERS:
        head = SkopsHead(model.fit(features, codes), 3, 5)
        data = head.state().arrays[FILE].tobytes()
        used |= set(skops.io.get_untrusted_types(data=data))
        assert (read(data, classes=3, n_features=5).predict(features) == model.predict(features)).all()
    with pytest.warns(UserWarning, match="present in all training examples"):
        labels = OneVsRestClassifier(LogisticRegression()).fit(features, several)
    used |= set(skops.io.get_untrusted_types(data=skops.io.dumps(labels)))
    assert sorted(used) == sorted(TRUSTED)
    assert list(TRUSTED) == sorted(TRUSTED)
    assert all(name.startswith("sklearn.") for name in TRUSTED)
