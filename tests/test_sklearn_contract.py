"""scikit-learn's own checks, searches, scorers and workers, on our estimators."""
# ruff: noqa: N803 - X is scikit-learn's name

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from joblib.externals import loky
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.base import BaseEstimator, clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import DataConversionWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedKFold,
    cross_val_predict,
    cross_val_score,
    validation_curve,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data
from torch.utils.data import DataLoader

from embedkit import EmbeddingClassifier, TextEncoder
from embedkit.encoders import EncoderSettings, FeatureExtractor, View, torch_encoder
from embedkit.encoders.folder import ModelFolder
from embedkit.errors import DataError, UsageError
from embedkit.runtime.tokens import Tokens
from embedkit.store import files
from tests.tiny_models import make_encoder, make_sentence_transformer

Floats = NDArray[np.floating[Any]]

GOOD, BAD = ("good", "great", "brilliant", "moving"), ("bad", "dull", "boring", "awful")
TEXTS = [f"the {noun} was {word}" for noun in ("film", "plot", "music") for word in (*GOOD, *BAD)]
LABELS = ["pos" if text.split()[-1] in GOOD else "neg" for text in TEXTS]
NEW = ["a great film", "an awful and dull script", ""]
FOLDS = StratifiedKFold(3, shuffle=True, random_state=0)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On batches this small a second thread waits longer than it computes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMBEDKIT_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_sentence_transformer(tmp_path_factory.mktemp("models") / "m"))


def features(model: str, inputs: Sequence[Any] = TEXTS, **how: object) -> Floats:
    """Take vectors past the estimators, without a store."""
    return FeatureExtractor(EncoderSettings(model, **how)).transform(inputs).vectors  # type: ignore[arg-type]


def logreg(**how: object) -> LogisticRegression:
    return LogisticRegression(max_iter=1000, **how)


# ------------------------------------------------------------------------ scikit-learn's checks: a face of numbers

WIDTH = 32


class Reader:
    """Reads back the numbers that a text spells, and adds a 1: an encoder gives zeros to no text."""

    overlaps = False

    def __init__(self, folder: ModelFolder) -> None:
        vocabulary = json.loads((folder.path / "tokenizer.json").read_text())["model"]["vocab"]
        self.digits = {vocabulary[digit]: digit for digit in "0123456789abcdef"}

    def run(
        self,
        tokens: Tokens,
        batches: Sequence[NDArray[np.int64]],
        pad_id: int,
        views: Sequence[View],
        threads: int | None = None,
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        for windows in batches:
            read = [self.vector(tokens.ids[tokens.offsets[w] : tokens.offsets[w + 1]]) for w in windows]
            yield windows, np.stack([np.stack(read)] * len(views))

    def vector(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        spelt = "".join(self.digits.get(token, "") for token in ids.tolist())
        numbers = np.frombuffer(bytes.fromhex(spelt), np.float64)
        return np.concatenate([numbers, np.zeros(WIDTH - 1 - len(numbers)), [1]]).astype(np.float32)


def spell(estimator: BaseEstimator, X: Any, *, reset: bool) -> list[str] | pd.Series:
    """Return rows of numbers as texts, after what every estimator of numbers asks of them."""
    if not reset:
        check_is_fitted(estimator)
    numbers = validate_data(estimator, X, reset=reset, dtype=np.float64)
    texts = [" ".join(row.tobytes().hex()) for row in numbers]
    return pd.Series(texts, index=X.index) if isinstance(X, pd.DataFrame) else texts


class Numeric:
    """Says that rows of numbers are taken."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.two_d_array, tags.input_tags.string = True, False
        return tags


class NumberEncoder(Numeric, TextEncoder):
    """`TextEncoder` of numbers; labels, parameters and answers pass as they are."""

    def fit(self, X: Any, y: Any = None) -> NumberEncoder:
        super().fit(spell(self, X, reset=True), y)
        return self

    def transform(self, X: Any) -> Floats:
        return super().transform(spell(self, X, reset=False))


def has(method: str) -> Callable[[NumberClassifier], bool]:
    return lambda classifier: hasattr(super(NumberClassifier, classifier), method)


class NumberClassifier(Numeric, EmbeddingClassifier):
    """`EmbeddingClassifier` of numbers; labels, parameters and answers pass as they are."""

    def fit(self, X: Any, y: Any) -> NumberClassifier:
        super().fit(spell(self, X, reset=True), y)
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        return super().predict(spell(self, X, reset=False))

    @available_if(has("predict_proba"))
    def predict_proba(self, X: Any) -> Floats:
        return super().predict_proba(spell(self, X, reset=False))

    @available_if(has("decision_function"))
    def decision_function(self, X: Any) -> Floats:
        return super().decision_function(spell(self, X, reset=False))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that takes 31 numbers: 16 digits, so 16 tokens each."""
    return str(make_encoder(tmp_path_factory.mktemp("numbers") / "m", "bert", layers=1, positions=512))


@pytest.fixture
def numbers(wide: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(torch_encoder, "open_encoder", lambda folder, *_: Reader(folder))
    return wide


def test_the_face_hands_on_what_it_is_given(numbers: str) -> None:
    rows = np.random.default_rng(0).normal(size=(9, 5)) * 10.0 ** np.arange(-4, 5)[:, None]
    vectors = NumberEncoder(numbers).fit_transform(rows)
    np.testing.assert_array_equal(vectors[:, :5], rows.astype(np.float32))
    assert not vectors[:, 5:-1].any()


# What fails, and why; at most eight each. Nothing does.
EXPECTED: dict[str, dict[str, str]] = {"encoder": {}, "classifier": {}}
# scikit-learn runs these on its own estimators alone: they ask for more than it asks of others.
FURTHER = [
    estimator_checks.check_dataframe_column_names_consistency,
    estimator_checks.check_inplace_ensure_writeable,
]
OF_TRANSFORMERS = [
    estimator_checks.check_get_feature_names_out_error,
    estimator_checks.check_transformer_get_feature_names_out,
    estimator_checks.check_transformer_get_feature_names_out_pandas,
    estimator_checks.check_set_output_transform,
    estimator_checks.check_set_output_transform_pandas,
    estimator_checks.check_global_output_transform_pandas,
]


def complaints(results: Sequence[Mapping[str, Any]], listed: Mapping[str, str]) -> list[str]:
    """Say what is wrong with the checks' results: a failure that is not listed, a list that is not true."""
    states = {name: [r["status"] for r in results if r["check_name"] == name] for name in listed}
    wrong = [f"{r['check_name']}: {r['exception']!r}" for r in results if r["status"] in ("failed", "skipped")]
    wrong += [f"{name} is listed, but does not fail" for name, states in states.items() if "xfail" not in states]
    wrong += [f"{name} has no reason" for name, reason in listed.items() if not reason.endswith(".")]
    wrong += ["more than eight are listed"] if len(listed) > 8 else []
    return wrong


@pytest.mark.filterwarnings("ignore:X .* feature names:UserWarning")  # where a check mixes frames and arrays
@pytest.mark.parametrize("kind", EXPECTED)
@pytest.mark.parametrize("kept", [True, False], ids=["store", "no store"])
def test_scikit_learn_s_checks(numbers: str, kind: str, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    encoder = NumberEncoder if kind == "encoder" else TextEncoder
    estimator = encoder(numbers, store=None if kept else False)
    if kind == "classifier":
        estimator = NumberClassifier(estimator)
    results = check_estimator(estimator, expected_failed_checks=EXPECTED[kind], on_fail=None, on_skip=None)
    assert complaints(results, EXPECTED[kind]) == []
    further = [*FURTHER, *(OF_TRANSFORMERS if kind == "encoder" else [])]
    for check in further:
        check(type(estimator).__name__, estimator)
    assert len({r["check_name"] for r in results if r["status"] == "passed"}) + len(further) >= 50


@pytest.mark.parametrize(
    ("states", "listed", "said"),
    [
        ([("check_a", "passed"), ("check_b", "xfail")], {"check_b": "So it is."}, []),
        ([("check_a", "failed")], {}, ["check_a: None"]),
        ([("check_a", "skipped")], {}, ["check_a: None"]),
        ([("check_a", "passed")], {"check_a": "So it is."}, ["check_a is listed, but does not fail"]),
        ([], {"check_a": "So it is."}, ["check_a is listed, but does not fail"]),
        ([("check_a", "xfail")], {"check_a": ""}, ["check_a has no reason"]),
        (
            [(f"check_{i}", "xfail") for i in range(9)],
            {f"check_{i}": "So it is." for i in range(9)},
            ["more than eight are listed"],
        ),
    ],
)
def test_the_list_of_failures_has_to_be_true(
    states: list[tuple[str, str]], listed: dict[str, str], said: list[str]
) -> None:
    results = [{"check_name": name, "status": state, "exception": None} for name, state in states]
    assert complaints(results, listed) == said


class Broken(NumberClassifier):
    """Answers with codes for labels, and changes itself when it answers."""

    def predict(self, X: Any) -> NDArray[Any]:
        self.answered_ = True
        return np.zeros(len(super().predict(X)), np.int64)


def test_the_checks_see_through_the_face(numbers: str) -> None:
    results = check_estimator(Broken(TextEncoder(numbers)), on_fail=None, on_skip=None)
    failed = {r["check_name"] for r in results if r["status"] == "failed"}
    assert {"check_classifiers_train", "check_classifiers_classes", "check_dict_unchanged"} <= failed


# ------------------------------------------------------------------------------------------- parameters by name

SOME = [
    EmbeddingClassifier(),
    EmbeddingClassifier("m", head_params={"C": 0.5, "tol": 1e-3}),
    EmbeddingClassifier(Path("m"), "dummy"),
    EmbeddingClassifier(TextEncoder("m", pooling="cls"), logreg()),
]


@pytest.mark.parametrize("classifier", SOME, ids=repr)
def test_parameters_are_told_as_they_are_taken(classifier: EmbeddingClassifier) -> None:
    """What `get_params` says can be given back, and says the same again."""
    shallow, deep = classifier.get_params(deep=False), classifier.get_params()
    assert shallow.items() <= deep.items()
    assert {name for name in deep if "__" not in name} == set(shallow)
    again = EmbeddingClassifier().set_params(**deep)
    assert again.get_params(deep=False).keys() == shallow.keys()
    assert {name: repr(value) for name, value in again.get_params().items() if name != "encoder"} == {
        name: repr(value) for name, value in deep.items() if name != "encoder"
    }
    copied = clone(again)
    assert repr(copied) == repr(again)
    assert copied.get_params().keys() == again.get_params().keys()
    for name, value in shallow.items():  # nothing that was given was changed
        assert getattr(classifier, name) is value


def test_a_parameter_of_a_head_by_name() -> None:
    given = {"tol": 1e-3}
    classifier = EmbeddingClassifier(head_params=given)
    assert classifier.set_params(head__C=2, head__tol=0.1) is classifier
    assert classifier.head_params == {"C": 2, "tol": 0.1}
    assert given == {"tol": 1e-3}
    assert classifier.get_params()["head__C"] == 2
    assert repr(classifier) == "EmbeddingClassifier(head_params={'C': 2, 'tol': 0.1})"
    classifier.set_params(head_params={"C": 3}, head__tol=1)  # in any order: the whole first
    assert classifier.head_params == {"C": 3, "tol": 1}
    assert EmbeddingClassifier().set_params(head__C=1, head_params=None).head_params == {"C": 1}


def test_a_parameter_of_a_head_of_one_s_own() -> None:
    classifier = EmbeddingClassifier(head=logreg()).set_params(head__C=2)
    assert (classifier.head.C, classifier.head_params) == (2, None)
    assert classifier.set_params(head=logreg(), head__C=3).head.C == 3
    pipeline = EmbeddingClassifier(head=make_pipeline(StandardScaler(), logreg()))
    assert pipeline.set_params(head__logisticregression__C=4).head[-1].C == 4
    classifier.set_params(head="logreg", head__C=5)  # a name from here on
    assert (classifier.head, classifier.head_params) == ("logreg", {"C": 5})


@pytest.mark.parametrize("name", ["minilm", Path("somewhere")])
def test_a_parameter_of_an_encoder_by_name(name: str | Path) -> None:
    classifier = EmbeddingClassifier(name)
    assert classifier.get_params()["encoder__pooling"] is None
    assert classifier.get_params()["encoder__model"] is name
    assert classifier.encoder is name  # asking changes nothing
    classifier.set_params(encoder__pooling="cls", encoder__layers=[1])
    assert (classifier.encoder.model, classifier.encoder.pooling, classifier.encoder.layers) == (name, "cls", [1])
    classifier.set_params(encoder="other", encoder__side="left")
    assert (classifier.encoder.model, classifier.encoder.pooling, classifier.encoder.side) == (
        "other",
        None,
        "left",
    )


@pytest.mark.parametrize("encoder", ["minilm", TextEncoder()])
@pytest.mark.parametrize("wrong", ["encoder__C", "nonsense", "nonsense__C", "encoder__pooling__x"])
def test_a_parameter_that_is_none(encoder: object, wrong: str) -> None:
    classifier = EmbeddingClassifier(encoder)
    with pytest.raises((ValueError, AttributeError)):
        classifier.set_params(**{wrong: 1})
    assert classifier.encoder is encoder


def test_a_parameter_that_the_head_lacks(model: str) -> None:
    with pytest.raises(UsageError, match="logreg has no parameter 'alpha'; allowed: C, "):
        EmbeddingClassifier(model).set_params(head__alpha=1).fit(TEXTS, LABELS)
    with pytest.raises(ValueError, match="Invalid parameter 'alpha' for estimator LogisticRegression"):
        EmbeddingClassifier(model, logreg()).set_params(head__alpha=1)


@pytest.mark.parametrize("by_name", [True, False], ids=["by name", "own"])
def test_a_grid_over_the_encoder_and_the_head(model: str, by_name: bool) -> None:
    classifier = EmbeddingClassifier(model) if by_name else EmbeddingClassifier(TextEncoder(model), logreg())
    grid = {"encoder__layers": [-1, 1, (1, 2)], "head__C": [0.1, 10]}
    search = GridSearchCV(classifier, grid, cv=FOLDS).fit(TEXTS, LABELS)
    results = search.cv_results_
    assert len(results["params"]) == 6
    for params, score in zip(results["params"], results["mean_test_score"], strict=True):
        vectors = features(model, layers=params["encoder__layers"])
        expected = cross_val_score(logreg(C=params["head__C"]), vectors, LABELS, cv=FOLDS)
        assert score == pytest.approx(expected.mean())
    best = search.best_estimator_
    assert {name: best.get_params()[name] for name in grid} == search.best_params_
    assert (classifier.encoder, classifier.head_params) == (model, None) or not by_name
    assert search.predict(NEW).tolist() == best.predict(NEW).tolist()


def test_a_grid_over_heads_with_parameters_of_their_own(model: str) -> None:
    grids = [{"head": ["dummy"]}, {"head": ["logreg"], "head__C": [10]}, {"head": [logreg()], "head__C": [10]}]
    search = GridSearchCV(EmbeddingClassifier(model), grids, cv=FOLDS, error_score="raise").fit(TEXTS, LABELS)
    scores = search.cv_results_["mean_test_score"]
    assert scores[0] == 0.5
    assert scores[1] == scores[2] > 0.5


def test_a_validation_curve(model: str) -> None:
    strengths = [0.01, 100]
    found = validation_curve(
        EmbeddingClassifier(model), TEXTS, LABELS, param_name="head__C", param_range=strengths, cv=FOLDS
    )
    wanted = validation_curve(logreg(), features(model), LABELS, param_name="C", param_range=strengths, cv=FOLDS)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


# ------------------------------------------------------------------------------------------------ X and y


FRAME = pd.DataFrame({"text": TEXTS, "label": LABELS, "text_pair": TEXTS[::-1]})


@pytest.mark.parametrize(
    "names", [["text", "label"], ["text_pair", "text"], ["label", "text"], ["text", "other"], ["a", "b"]]
)
def test_two_columns_that_are_no_pair_are_refused(model: str, names: list[str]) -> None:
    """A label that is read as a text would answer for itself."""
    frame = FRAME.rename(columns={"text_pair": "other"})
    frame = pd.DataFrame({name: frame.get(name, frame["text"]) for name in names})
    said = f"X has the columns '{names[0]}' and '{names[1]}', which do not look like a pair"
    for each in (frame, frame.astype("category")):
        with pytest.raises(DataError, match=said):
            TextEncoder(model).fit(each)
        with pytest.raises(DataError, match=said):
            EmbeddingClassifier(model).fit(each, LABELS)
        with pytest.raises(DataError, match=said):
            EmbeddingClassifier(model).fit(TEXTS, LABELS).predict(each)
    with pytest.raises(DataError, match=said):
        ColumnTransformer([("text", TextEncoder(model), names)]).fit(frame)
    assert TextEncoder(model).fit(frame.to_numpy())._kind == "pair"  # as the message says
    assert TextEncoder(model).fit(frame[names[0]])._kind == "text"


@pytest.mark.parametrize(
    "names", [("text", "text_pair"), ("Sentence1", "sentence2"), ("question", "sentence"), (0, 1), (0, "label")]
)
def test_two_columns_that_are_a_pair(model: str, names: tuple[Any, Any]) -> None:
    frame = pd.DataFrame(dict(zip(names, (TEXTS, TEXTS[::-1]), strict=True)))
    expected = features(model, list(zip(TEXTS, TEXTS[::-1], strict=True)))
    np.testing.assert_array_equal(TextEncoder(model).fit_transform(frame), expected)


class Arrayed:
    """Knows how to become an array, and nothing else."""

    def __init__(self, values: Sequence[Any]) -> None:
        self.values = values

    def __array__(self, dtype: object = None, copy: object = None) -> NDArray[Any]:
        return np.array(self.values, dtype=dtype)


def test_what_can_become_an_array(model: str) -> None:
    classifier = EmbeddingClassifier(model).fit(Arrayed(TEXTS), Arrayed(LABELS))
    assert classifier.predict(Arrayed(NEW)).tolist() == (
        EmbeddingClassifier(model).fit(TEXTS, LABELS).predict(NEW).tolist()
    )
    with pytest.raises(DataError, match=r"X has the shape \(\)"):
        classifier.predict(Arrayed("a film"))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"y has the shape \(\)"):
        EmbeddingClassifier(model).fit(TEXTS, Arrayed("pos"))  # type: ignore[arg-type]


@pytest.mark.parametrize("y", [np.array(LABELS)[:, None], pd.DataFrame({"label": LABELS})])
def test_a_column_of_labels_is_taken_and_warned_of(model: str, y: Any) -> None:
    said = r"A column-vector y was passed when a 1d array was expected: \(24, 1\) is read as 24 labels"
    with pytest.warns(DataConversionWarning, match=said) as caught:
        classifier = EmbeddingClassifier(model).fit(TEXTS, y)
    assert [Path(warning.filename).name for warning in caught] == [Path(__file__).name]
    assert classifier.classes_.tolist() == ["neg", "pos"]


# ------------------------------------------------------------------------------------------ frames as output


def test_frames_through_a_pipeline(model: str) -> None:
    texts = pd.Series(TEXTS, index=range(100, 124))
    pipeline = make_pipeline(TextEncoder(model), StandardScaler()).set_output(transform="pandas")
    made = pipeline.fit_transform(texts)
    assert made.index.tolist() == texts.index.tolist()
    assert made.columns.tolist() == pipeline.get_feature_names_out().tolist()
    assert made.columns.tolist() == [f"textencoder{i}" for i in range(32)]
    np.testing.assert_allclose(made, StandardScaler().fit_transform(features(model)), atol=1e-6)
    with config_context(transform_output="pandas"):
        classifier = make_pipeline(TextEncoder(model), logreg()).fit(texts, LABELS)
    assert classifier[-1].feature_names_in_.tolist() == made.columns.tolist()


# --------------------------------------------------------------------------------- threads, forks and spawns


def fitted(model: str, **how: object) -> EmbeddingClassifier:
    return EmbeddingClassifier(TextEncoder(model, threads=1, **how)).fit(TEXTS, LABELS)


def at_once(*tasks: Callable[[], object]) -> list[object]:
    """Run tasks in threads that start together; return what they return."""
    barrier, answers = threading.Barrier(len(tasks)), [None] * len(tasks)

    def run(place: int) -> None:
        barrier.wait(30)
        answers[place] = tasks[place]()  # type: ignore[call-overload]

    threads = [threading.Thread(target=run, args=(place,), daemon=True) for place in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return answers


@pytest.mark.parametrize("kept", [True, False], ids=["store", "no store"])
def test_two_threads_fit_and_predict_at_once(model: str, store: Path, kept: bool) -> None:
    """Each an estimator of its own, then both the same."""
    expected = logreg().fit(features(model), LABELS).predict_proba(features(model, NEW))
    how = {} if kept else {"store": False}

    def fit_and_predict() -> Floats:
        return fitted(model, **how).predict_proba(NEW)

    for found in at_once(fit_and_predict, fit_and_predict):
        np.testing.assert_allclose(found, expected, atol=1e-4)
    shared = EmbeddingClassifier(TextEncoder(model, threads=1, **how))
    at_once(lambda: shared.fit(TEXTS, LABELS), lambda: shared.fit(TEXTS, LABELS))
    for found in at_once(*[lambda: shared.predict_proba(NEW)] * 3):
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert not list(store.rglob("*.part"))


@pytest.fixture
def new_workers() -> Iterator[None]:
    """Loky's workers outlive a call; one that loads torch later than its first task is taken for a leak."""
    loky.get_reusable_executor().shutdown(wait=True)
    yield
    loky.get_reusable_executor().shutdown(wait=True)


@pytest.mark.usefixtures("new_workers")
@pytest.mark.filterwarnings("ignore:A worker stopped while some jobs:UserWarning")
@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
def test_predictions_by_workers(model: str, store: Path, backend: str) -> None:
    """Loky starts new processes, multiprocessing forks; all begin with nothing in the store."""
    classifier = EmbeddingClassifier(TextEncoder(model, threads=1))
    with joblib.parallel_config(backend=backend):
        found = cross_val_predict(classifier, TEXTS, LABELS, cv=FOLDS, method="predict_proba", n_jobs=2)
    wanted = cross_val_predict(logreg(), features(model), LABELS, cv=FOLDS, method="predict_proba")
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert not list(store.rglob("*.part"))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_data_loader_encodes_in_its_workers(model: str, method: str) -> None:
    encoder = TextEncoder(model).fit(TEXTS)
    encoder.transform(TEXTS[:2])  # the model is open before the workers are made
    loader = DataLoader(
        TEXTS,  # type: ignore[arg-type]
        batch_size=8,
        collate_fn=encoder.transform,
        num_workers=2 if method == "fork" else 1,
        multiprocessing_context=method,
        timeout=60,
    )
    np.testing.assert_allclose(np.concatenate(list(loader)), features(model), rtol=0, atol=1e-5)


def answer(encoder: TextEncoder, texts: list[str], answers: Any) -> None:
    answers.put(encoder.transform(texts))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_process_that_was_forked_while_a_thread_opened_the_model(model: str) -> None:
    """What another thread held at the fork is never given back in the child."""
    encoder = TextEncoder(model).fit(TEXTS)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=answer, args=(encoder, TEXTS, answers))
    with encoder._kept.extractor._lock:
        child.start()
    try:
        vectors = answers.get(timeout=30)
    finally:
        child.terminate()
        child.join(30)
    np.testing.assert_allclose(vectors, features(model), rtol=0, atol=1e-5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_names_of_parts_are_never_given_twice(
    model: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name_of, log = files.part_name, tmp_path / "names"

    def noted() -> str:
        name = name_of()
        with log.open("a") as out:
            out.write(f"{name}\n")
        return name

    monkeypatch.setattr(files, "part_name", noted)
    encoder = TextEncoder(model).fit(TEXTS)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    children = [
        context.Process(target=answer, args=(encoder, [f"{text} {i}" for text in TEXTS], answers))
        for i in range(2)
    ]
    for child in children:
        child.start()
    found = at_once(*[lambda i=i: encoder.transform([f"{text} {i}" for text in TEXTS]) for i in range(2)])
    told = [answers.get(timeout=60) for _ in children]
    for child in children:
        child.join(30)
    names = log.read_text().split()
    assert len(names) == len(set(names)) >= 4
    assert not list(store.rglob("*.part"))
    for i in range(2):
        expected = features(model, [f"{text} {i}" for text in TEXTS])
        np.testing.assert_allclose(found[i], expected, rtol=0, atol=1e-5)
        assert any(np.allclose(answer, expected, rtol=0, atol=1e-5) for answer in told)


def test_a_copy_s_account_is_its_own(model: str) -> None:
    """`extraction_` is of the estimator that was asked, and a pickle carries it."""
    encoder = TextEncoder(model).fit(TEXTS)
    with pytest.raises(AttributeError, match="extraction_ is there after transform"):
        _ = encoder.extraction_
    with pytest.raises(AttributeError, match="extraction_"):
        _ = TextEncoder(model).extraction_
    encoder.transform(TEXTS)
    other = pickle.loads(pickle.dumps(encoder))
    assert other.extraction_.rows == 24
    other.transform(NEW)
    assert (encoder.extraction_.rows, other.extraction_.rows) == (24, 3)
