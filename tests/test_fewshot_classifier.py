"""`FewShotClassifier`: scikit-learn's checks, searches, workers; what it draws, tunes, keeps and saves."""
# ruff: noqa: N803 - X is scikit-learn's name

from __future__ import annotations

import copy
import gc
import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from joblib.externals import loky
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator

import embedkit
from embedkit import EmbeddingClassifier, FewShotClassifier, TextEncoder
from embedkit.cli import main
from embedkit.encoders import EncoderSettings, FeatureExtractor, torch_encoder
from embedkit.encoders.torch_encoder import load_model
from embedkit.errors import DataError, InputMissingError, ModelError, OutputExistsError, TrainingError, UsageError
from embedkit.estimators.frozen import exact_settings
from embedkit.training.contrast import ContrastSettings, TunedEncoder
from embedkit.training.pairs import PairCounts
from embedkit.training.sequence import Labelled
from tests.number_face import FURTHER, NumberFace, Reader, complaints, make_number_model, spell
from tests.tiny_models import make_encoder, make_sentence_transformer

pytestmark = pytest.mark.usefixtures("one_torch_thread", "little_garbage", "store")

GOOD, BAD = ("good", "great", "brilliant", "moving"), ("bad", "dull", "boring", "awful")
TEXTS = [f"the {noun} was {word}" for noun in ("film", "plot", "music") for word in (*GOOD, *BAD)]
RIGHT = np.array([text.split()[-1] in GOOD for text in TEXTS])
LABELS = np.where(RIGHT, "pos", "neg").tolist()
NEW = ["a great film", "an awful and dull script", ""]
FOLDS = StratifiedKFold(2, shuffle=True, random_state=0)
QUICK: dict[str, Any] = {"epochs": 4, "learning_rate": 2e-3, "precision": "float32"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_sentence_transformer(tmp_path_factory.mktemp("models") / "m", "bert"))


def tuner(model: str, **how: Any) -> FewShotClassifier:
    return FewShotClassifier(TextEncoder(model, threads=1), **{**QUICK, **how})


@pytest.fixture(scope="module")
def fitted(model: str) -> FewShotClassifier:
    return tuner(model).fit(TEXTS, LABELS)


# ------------------------------------------------------------------------ scikit-learn's checks: a face of numbers


class NumberTuner(NumberFace, FewShotClassifier):
    """`FewShotClassifier` of numbers."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> NumberTuner:
        super().fit(spell(self, X, reset=True), y, sample_weight)
        return self


def untuned(base: FeatureExtractor, data: Labelled, settings: ContrastSettings) -> TunedEncoder:
    """Stand for tuning: what reads numbers has no weights to move."""
    encoder, _ = load_model(base.folder, torch.float32)
    return TunedEncoder(encoder, base, PairCounts(), "float32", settings.rate(base.folder.hidden), 0.0)


def as_it_was(folder: Path, tuned: TunedEncoder) -> EncoderSettings:
    """Stand for writing what was not tuned."""
    shutil.copytree(tuned.base.folder.path, folder, dirs_exist_ok=True)
    return replace(exact_settings(tuned.base), model=folder)


@pytest.fixture
def numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(torch_encoder, "open_encoder", lambda folder, *_: Reader(folder))
    monkeypatch.setattr("embedkit.training.contrast.tune_encoder", untuned)
    monkeypatch.setattr("embedkit.estimators.fewshot_classifier.write_encoder", as_it_was)
    return make_number_model(tmp_path / "numbers")


# What fails, and why; at most eight.
EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": (
        "The check asks for a relative 1e-7, but L-BFGS stops at a gradient of 1e-4 and standardised features are "
        "float32, as with EmbeddingClassifier."
    ),
}


@pytest.mark.filterwarnings("ignore:X .* feature names:UserWarning")  # where a check mixes frames and arrays
def test_scikit_learn_s_checks(numbers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    estimator = NumberTuner(TextEncoder(numbers, pooling="mean"))
    results = check_estimator(estimator, expected_failed_checks=EXPECTED, on_fail=None, on_skip=None)
    assert complaints(results, EXPECTED) == []
    for check in FURTHER:
        check(type(estimator).__name__, estimator)
    assert len({r["check_name"] for r in results if r["status"] == "passed"}) + len(FURTHER) >= 50


# ------------------------------------------------------------------------------- parameters, searches, workers


def test_parameters_are_told_as_they_are_taken() -> None:
    how = {"shots": 8, "loss": "supcon", "pair_iterations": 3, "trainer_args": {"lr_scheduler_type": "cosine"}}
    classifier = FewShotClassifier(Path("m"), "ridge", **how)
    params = classifier.get_params()
    for name, value in how.items():
        assert params[name] is value
    assert (params["encoder__pooling"], params["head__alpha"]) == (None, 1.0)
    again = FewShotClassifier().set_params(**classifier.get_params(deep=False))
    assert again.get_params() == params
    assert clone(classifier).get_params() == params
    assert repr(FewShotClassifier(shots=8)) == "FewShotClassifier(shots=8)"
    classifier.set_params(head__alpha=2, encoder__pooling="cls")
    assert (classifier.head_params, classifier.encoder.pooling) == ({"alpha": 2}, "cls")
    with pytest.raises(ValueError, match="Invalid parameter 'C'"):
        classifier.set_params(C=1)


def test_a_grid_a_pipeline_and_folds(model: str) -> None:
    """The grid has NumPy's numbers, as `numpy.arange` gives them."""
    pipeline = make_pipeline(FunctionTransformer(lambda texts: [text.lower() for text in texts]), tuner(model))
    grid = {
        "fewshotclassifier__epochs": np.array([1, 4]),
        "fewshotclassifier__batch_size": np.arange(8, 9),
        "fewshotclassifier__shots": np.arange(3, 4),
        "fewshotclassifier__head__C": [2.0],
    }
    search = GridSearchCV(pipeline, grid, cv=FOLDS, error_score="raise").fit(TEXTS, LABELS)
    best = search.best_estimator_[-1]
    assert len(best.rows_) == 6
    assert best._about["few_shot"]["settings"]["epochs"] == search.best_params_["fewshotclassifier__epochs"]
    assert search.predict(NEW).tolist() == best.predict(NEW).tolist()
    assert [type(best.get_params()[name]) for name in ("epochs", "batch_size", "shots")] == [np.int64] * 3


@pytest.mark.parametrize("backend", ["multiprocessing", "threading"])
def test_workers_answer_as_one_process_does(model: str, backend: str) -> None:
    """Processes that are forked; threads, which share chance, so that fits take turns."""
    classifier, how = tuner(model, epochs=2), {"cv": FOLDS, "method": "predict_proba"}
    with joblib.parallel_config(backend=backend):
        found = cross_val_predict(classifier, TEXTS, LABELS, n_jobs=2, **how)
    np.testing.assert_allclose(found, cross_val_predict(classifier, TEXTS, LABELS, **how), atol=1e-5)


def test_a_new_process_fits_and_answers_as_this_one_does(model: str, fitted: FewShotClassifier) -> None:
    """One of joblib's own, whose tuned encoder outlives it."""
    loky.get_reusable_executor().shutdown(wait=True)
    with loky.get_reusable_executor(max_workers=1) as worker:
        there = worker.submit(tuner(model).fit, TEXTS, LABELS).result(120)
        answer = worker.submit(fitted.predict_proba, TEXTS).result(120)
    np.testing.assert_allclose(answer, fitted.predict_proba(TEXTS), atol=1e-6)
    np.testing.assert_allclose(there.predict_proba(TEXTS), fitted.predict_proba(TEXTS), atol=1e-6)


# ------------------------------------------------------------------------------------------------ what is tuned


def test_tuning_moves_texts_of_a_class_together(model: str, fitted: FewShotClassifier) -> None:
    def margin(vectors: NDArray[np.float32]) -> float:
        cosines, alike = vectors @ vectors.T, RIGHT[:, None] == RIGHT
        return float(cosines[alike].mean() - cosines[~alike].mean())

    before = FeatureExtractor(EncoderSettings(model)).transform(TEXTS).vectors
    after = fitted.encoder_.transform(TEXTS)
    assert after.shape == before.shape
    assert margin(after) > margin(before) + 0.1
    assert fitted.score(TEXTS, LABELS) >= 0.95
    assert fitted.counts_.pairs > 0
    assert fitted.notes_ == []
    assert fitted.rows_.tolist() == list(range(24))


def test_the_head_is_fitted_as_on_any_encoder(model: str, fitted: FewShotClassifier, tmp_path: Path) -> None:
    """`EmbeddingClassifier` on the folder of the tuned encoder answers the same."""
    fitted.save(tmp_path / "a")
    beside = EmbeddingClassifier(TextEncoder(tmp_path / "a", store=False)).fit(TEXTS, LABELS)
    np.testing.assert_allclose(beside.predict_proba(NEW), fitted.predict_proba(NEW), atol=1e-6)
    for how in ({"head": "ridge"}, {"head": LogisticRegression(C=3)}, {"thresholds": "accuracy"}):
        other = tuner(model, **how).fit(TEXTS, LABELS)
        assert other.score(TEXTS, LABELS) >= 0.9
        assert hasattr(other, "predict_proba") == (how.get("head") != "ridge")


def chance() -> list[Any]:
    of_numpy = str(np.random.get_state())  # noqa: NPY002
    return [random.getstate(), of_numpy, torch.get_rng_state().tolist(), dict(os.environ)]


def test_a_seed_gives_the_same_answers_and_chance_goes_on_undisturbed(
    model: str, fitted: FewShotClassifier, capfd: pytest.CaptureFixture[str]
) -> None:
    random.seed(7), np.random.seed(7), torch.manual_seed(7)  # noqa: NPY002
    capfd.readouterr()
    before, threads = chance(), torch.get_num_threads()
    again = tuner(model).fit(TEXTS, LABELS)
    again.predict(NEW)
    assert chance() == before
    assert torch.get_num_threads() == threads
    assert capfd.readouterr() == ("", "")
    assert again.predict_proba(TEXTS).tobytes() == fitted.predict_proba(TEXTS).tobytes()
    other = tuner(model, random_state=1, batch_size=8).fit(TEXTS, LABELS)
    assert np.abs(other.predict_proba(TEXTS) - fitted.predict_proba(TEXTS)).max() > 1e-4


def test_settings_of_tuning_arrive(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[ContrastSettings] = []

    def kept(base: FeatureExtractor, data: Labelled, settings: ContrastSettings) -> TunedEncoder:
        told.append(settings)
        return untuned(base, data, settings)

    monkeypatch.setattr("embedkit.training.contrast.tune_encoder", kept)
    how = {"strategy": "unique", "loss": "supcon", "epochs": 3, "batch_size": 9, "learning_rate": 1e-3}
    how |= {"random_state": 5, "precision": "float32", "trainer_args": {"lr_scheduler_type": "cosine"}}
    how |= {"temperature": 0.2, "weight_decay": 0.1, "warmup": np.int64(3)}
    FewShotClassifier(TextEncoder(model, threads=1, device="cpu"), **how).fit(TEXTS, LABELS)
    FewShotClassifier(model, pair_iterations=4).fit(TEXTS, LABELS)
    first, training = told[0], told[0].training
    assert (first.pairs.strategy, first.loss, first.epochs, training.learning_rate) == (
        "unique",
        "supcon",
        3,
        1e-3,
    )
    assert (training.batch_size, training.seed, training.precision, training.threads) == (9, 5, "float32", 1)
    assert (training.device, training.arguments) == ("cpu", {"lr_scheduler_type": "cosine"})
    assert (first.temperature, training.weight_decay, training.warmup) == (0.2, 0.1, 3)
    usual = ContrastSettings()
    assert (told[1].pairs.iterations, told[1].training.learning_rate) == (4, None)
    assert told[1].training.batch_size == usual.training.batch_size


def test_a_model_that_is_no_sentence_encoder_is_pooled_by_the_mean(tmp_path: Path) -> None:
    plain = str(make_encoder(tmp_path / "plain", "bert", layers=1))
    classifier = tuner(plain).fit(TEXTS, LABELS)
    assert ["is no sentence encoder" in note for note in classifier.notes_] == [True]
    assert classifier.encoder_.settings_.pooling == "mean"
    assert tuner(plain).set_params(encoder__pooling="cls").fit(TEXTS, LABELS).notes_ == []


# ------------------------------------------------------------------------------------------------ shots, weights


def test_shots_are_drawn(model: str) -> None:
    """By the seed; each text once; all others are left alone."""
    texts, labels = [*TEXTS, *TEXTS], [*LABELS, *LABELS]
    classifier = tuner(model, shots=4).fit(texts, labels)
    assert len(classifier.rows_) == 8
    assert classifier.rows_.max() < 24
    assert sorted(labels[row] for row in classifier.rows_) == ["neg"] * 4 + ["pos"] * 4
    assert classifier.rows_.tolist() == tuner(model, shots=4).fit(texts, pd.Series(labels)).rows_.tolist()
    assert classifier.rows_.tolist() != tuner(model, shots=4, random_state=1).fit(texts, labels).rows_.tolist()
    taken = [texts[row] for row in classifier.rows_], [labels[row] for row in classifier.rows_]
    alone = tuner(model).fit(*taken)
    assert alone.predict_proba(NEW).tobytes() == classifier.predict_proba(NEW).tobytes()
    many = tuner(model, shots=20).fit(TEXTS, LABELS)
    assert many.notes_ == [
        "X: 20 texts of each class were asked for; 2 classes have fewer, and all of them are taken: "
        "'neg' (12), 'pos' (12)"
    ]


def test_what_weighs_nothing_is_not_tuned_on(model: str) -> None:
    weights = np.arange(24) % 3 > 0
    classifier = tuner(model).fit(TEXTS, LABELS, sample_weight=weights)
    rows = np.flatnonzero(weights)
    alone = tuner(model).fit([TEXTS[row] for row in rows], [LABELS[row] for row in rows])
    np.testing.assert_allclose(alone.predict_proba(NEW), classifier.predict_proba(NEW), atol=1e-5)
    drawn = tuner(model, shots=3).fit(TEXTS, LABELS, sample_weight=weights)
    assert set(drawn.rows_) <= set(rows)


# ------------------------------------------------------------------------------------------------ X and y


def test_pairs(model: str, tmp_path: Path) -> None:
    pairs = [(text, f"it is {'good' if i % 2 else 'bad'}") for i, text in enumerate(TEXTS)]
    y = np.arange(24) % 2 == 1
    for how in ("cross", "bi"):
        classifier = tuner(model, epochs=10).set_params(encoder__pairs=how).fit(pairs, y)
        assert classifier.score(pairs, y) >= 0.9
        classifier.save(tmp_path / how)
        loaded = embedkit.load(tmp_path / how)
        np.testing.assert_allclose(loaded.predict_proba(pairs), classifier.predict_proba(pairs), atol=1e-6)
        with pytest.raises(DataError, match="pair"):
            classifier.predict(TEXTS)


HAS = np.array([[word in text for word in ("film", "good", "music")] for text in TEXTS])
NAMES = ["film", "good", "music"]
LISTS = [[name for name, has in zip(NAMES, row, strict=True) if has] for row in HAS.tolist()]


@pytest.mark.parametrize("shots", [None, 3])
@pytest.mark.parametrize("y", [LISTS, HAS, pd.DataFrame(HAS, columns=NAMES)], ids=["lists", "bool", "DataFrame"])
def test_several_labels(model: str, y: Any, shots: int | None, tmp_path: Path) -> None:
    classifier = tuner(model, shots=shots).fit(TEXTS, y)
    shares = classifier.predict_proba(TEXTS)
    assert shares.shape == (24, 3)
    assert classifier.classes_.tolist() == ([0, 1, 2] if y is HAS else NAMES)
    assert isinstance(classifier.predict(TEXTS), list if y is LISTS else np.ndarray)
    if shots is not None:
        assert (HAS[classifier.rows_].sum(axis=0) >= shots).all()
        assert (~HAS[classifier.rows_].any(axis=1)).sum() == shots
    classifier.save(tmp_path / "a")
    np.testing.assert_allclose(embedkit.load(tmp_path / "a").predict_proba(TEXTS), shares, atol=1e-6)


@pytest.mark.parametrize(
    "y",
    [
        RIGHT * 7 - 3,
        RIGHT.tolist(),
        RIGHT.astype(float),
        np.where(RIGHT, "9", "10"),
        pd.Series(LABELS, dtype=object),
    ],
    ids=["integers", "booleans", "floats", "numbers as strings", "Series"],
)
def test_labels_come_back_as_they_were(model: str, y: Any, tmp_path: Path) -> None:
    classifier = tuner(model, shots=10).fit(TEXTS, y)
    found = classifier.predict(TEXTS)
    assert classifier.classes_.tolist() == np.unique(np.asarray(y)).tolist()
    assert classifier.score(TEXTS, y) == (found == np.asarray(y)).mean() >= 0.9
    classifier.save(tmp_path / "a")
    loaded = embedkit.load(tmp_path / "a")
    assert loaded.predict(TEXTS).tolist() == found.tolist()
    assert loaded.predict(TEXTS).dtype == found.dtype


def test_no_rows(fitted: FewShotClassifier, model: str) -> None:
    assert fitted.predict([]).shape == (0,)
    assert fitted.predict_proba([]).shape == (0, 2)
    with pytest.raises(NotFittedError):
        tuner(model).predict(TEXTS)


# ------------------------------------------------------------------------------------------------ what is refused


def _opened(*_: object, **__: object) -> None:
    pytest.fail("a model was opened")


@pytest.fixture
def unopened(model: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("embedkit.training.contrast.with_pooling", "embedkit.training.contrast.tune_encoder"):
        monkeypatch.setattr(name, _opened)
    monkeypatch.setattr("embedkit.encoders.opened.read_folder", _opened)
    return model


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "encoder": ({"encoder": 3}, "encoder is 3"),
    "head": ({"head": "forest"}, "unknown head 'forest'"),
    "a parameter of the head": ({"head_params": {"alpha": 1}}, "logreg has no parameter 'alpha'"),
    "shots": ({"shots": 0}, "shots is 0; it must be a whole number from 1 up"),
    "shots as text": ({"shots": "8"}, "shots is '8'"),
    "strategy": ({"strategy": "all"}, "strategy is 'all'"),
    "pair_iterations": ({"pair_iterations": np.int64(0)}, "pair_iterations is 0"),
    "epochs beside pair_iterations": ({"pair_iterations": 2, "epochs": 2}, "instead of epochs"),
    "temperature": ({"loss": "supcon", "temperature": 0.0}, "temperature is 0.0; it must be above 0"),
    "temperature of another loss": ({"temperature": 0.2}, "temperature is of the loss supcon"),
    "warmup": ({"warmup": -1}, "warmup is -1"),
    "loss": ({"loss": "triplet"}, "loss is 'triplet'"),
    "epochs": ({"epochs": 0}, "epochs is 0; it must be above 0"),
    "batch_size": ({"batch_size": 1}, "batch_size is 1; a step needs two texts"),
    "learning_rate": ({"learning_rate": -1.0}, "learning_rate is -1.0"),
    "precision": ({"precision": "int8"}, "precision is 'int8'"),
    "random_state": ({"random_state": None}, "random_state is None"),
    "trainer_args": ({"trainer_args": ["a=1"]}, "trainer_args is a list; it must be a mapping"),
    "an argument of ours": ({"trainer_args": {"max_steps": 3}}, "max_steps is not taken; use --epochs"),
    "class_weight": ({"class_weight": {"good": 1}}, "class_weight names unknown labels: good"),
    "thresholds": ({"thresholds": "auc"}, "auc"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_parameter_is_refused_before_a_model_is_opened(unopened: str, case: str) -> None:
    wrong, said = WRONG[case]
    classifier = FewShotClassifier(**{"encoder": unopened, **wrong})
    with pytest.raises(UsageError, match=said):
        classifier.fit(TEXTS, LABELS)
    assert not [name for name in vars(classifier) if name.endswith("_")]


ROWS: dict[str, tuple[Any, Any, str]] = {
    "lengths": (TEXTS, LABELS[1:], "X has 24 rows, y has 23"),
    "one class": (TEXTS, ["a"] * 24, "only one class"),
    "no rows": ([], [], "no labelled rows"),
    "a number": ([*TEXTS[:-1], 3], LABELS, "row 24 of X is of type int"),
}


@pytest.mark.parametrize("shots", [None, 2])
@pytest.mark.parametrize("case", ROWS)
def test_rows_are_refused_before_a_model_is_opened(unopened: str, case: str, shots: int | None) -> None:
    texts, y, said = ROWS[case]
    with pytest.raises(DataError, match=said):
        tuner(unopened, shots=shots).fit(texts, y)


def test_what_cannot_be_learnt_from(model: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="all texts are equal"):
        tuner(model).fit(["the film"] * 8, [0, 1] * 4)
    with pytest.raises(DataError, match="X: every text of classes 0, 1 also stands with another label"):
        tuner(model, shots=2).fit(["the film"] * 8, [0, 1] * 4)
    with pytest.raises(DataError, match="nothing to learn from"):
        tuner(model).fit(["", " "], [0, 1])
    with pytest.raises(UsageError, match="--layers"):
        tuner(model).set_params(encoder__layers=0).fit(TEXTS, LABELS)
    with pytest.raises(InputMissingError):
        tuner(str(tmp_path / "absent")).fit(TEXTS, LABELS)
    with pytest.raises(ModelError):
        tuner(str(tmp_path)).fit(TEXTS, LABELS)


def test_one_text_a_class_leaves_the_encoder_as_it_is(model: str) -> None:
    classifier = tuner(model, shots=1).fit(TEXTS, LABELS)
    assert ["no positive pair" in note for note in classifier.notes_] == [True]
    before = FeatureExtractor(EncoderSettings(model)).transform(TEXTS).vectors
    np.testing.assert_allclose(classifier.encoder_.transform(TEXTS), before, atol=1e-5)


def test_a_fit_that_fails_leaves_what_was_there(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = tuner(model, epochs=1).fit(TEXTS, LABELS)
    shares = classifier.predict_proba(TEXTS)

    def failing(*_: object, **__: object) -> None:
        raise TrainingError("the loss is no number")

    for name in (
        "embedkit.training.contrast.tune_encoder",
        "embedkit.estimators.embedding_classifier.fit_decided",
    ):
        with monkeypatch.context() as patched:
            patched.setattr(name, failing)
            with pytest.raises(TrainingError):
                classifier.fit(TEXTS, RIGHT)
        assert classifier.predict_proba(TEXTS).tobytes() == shares.tobytes()
        assert classifier.predict(TEXTS).dtype == np.dtype("<U3")


# ------------------------------------------------------------------------------------------------ kept and saved


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_of_the_tuned_encoder_lives_as_long_as_it(model: str) -> None:
    classifier = tuner(model, epochs=1).fit(TEXTS, LABELS)
    first = Path(classifier.encoder_.model)
    copied = copy.deepcopy(classifier)
    second = Path(copied.encoder_.model)
    assert first != second
    assert files(first) == files(second)
    classifier.fit(TEXTS, RIGHT)
    third = Path(classifier.encoder_.model)
    gc.collect()
    assert [folder.exists() for folder in (first, second, third)] == [False, True, True]
    assert copied.predict(NEW).tolist() == clone(classifier).fit(TEXTS, LABELS).predict(NEW).tolist()
    del classifier, copied
    gc.collect()
    assert [folder.exists() for folder in (second, third)] == [False, False]


def test_a_forked_process_leaves_the_folder_alone(fitted: FewShotClassifier) -> None:
    with joblib.parallel_config(backend="multiprocessing"):
        joblib.Parallel(2)(joblib.delayed(fitted.predict)(TEXTS) for _ in range(2))
    assert Path(fitted.encoder_.model).exists()


def test_a_pickle_holds_weights_and_no_text_of_the_user(fitted: FewShotClassifier) -> None:
    shares = fitted.predict_proba(TEXTS)
    data = pickle.dumps(fitted)
    assert not [text for text in TEXTS if text.encode() in data]
    again = pickle.loads(data)
    assert Path(again.encoder_.model) != Path(fitted.encoder_.model)
    assert again.encoder_.settings_.model == again.encoder_.model
    assert again.predict_proba(TEXTS).tobytes() == shares.tobytes()
    assert again.rows_.tolist() == fitted.rows_.tolist()


def test_a_clone_of_the_tuned_encoder_keeps_and_carries_its_folder(model: str) -> None:
    """As where a search tries other heads on it."""
    encoder = tuner(model, epochs=1).fit(TEXTS, LABELS).encoder_
    vectors = encoder.transform(TEXTS)
    cloned = clone(encoder)
    del encoder
    gc.collect()
    assert cloned.fit_transform(TEXTS).tobytes() == vectors.tobytes()
    sent = pickle.loads(pickle.dumps(clone(cloned)))
    assert sent.model != cloned.model
    assert sent.fit_transform(TEXTS).tobytes() == vectors.tobytes()
    other = pickle.loads(pickle.dumps(clone(cloned).set_params(model=model)))
    assert other.model == model
    grid = GridSearchCV(EmbeddingClassifier(cloned), {"head": ["logreg", "ridge"]}, cv=FOLDS).fit(TEXTS, LABELS)
    assert pickle.loads(pickle.dumps(grid.best_estimator_)).predict(NEW).tolist() == grid.predict(NEW).tolist()


def test_no_store_is_filled_unless_one_is_named(model: str, store: Path, tmp_path: Path) -> None:
    tuner(model, epochs=1).fit(TEXTS, LABELS).predict(NEW)
    assert not store.exists()
    named = tuner(model, epochs=1).set_params(encoder__store=tmp_path / "named").fit(TEXTS, LABELS)
    named.predict(TEXTS)
    assert named.encoder_.extraction_.hits == 24


def test_the_artifact_is_a_folder_of_sentence_transformers(fitted: FewShotClassifier, tmp_path: Path) -> None:
    """Also where it has been moved."""
    fitted.save(tmp_path / "a")
    with pytest.raises(OutputExistsError):
        fitted.save(tmp_path / "a")
    fitted.save(tmp_path / "a", overwrite=True)
    moved = Path(shutil.move(tmp_path / "a", tmp_path / "b"))
    theirs = SentenceTransformer(str(moved), device="cpu", local_files_only=True, trust_remote_code=False)
    vectors = theirs.encode(TEXTS, show_progress_bar=False)
    np.testing.assert_allclose(vectors, fitted.encoder_.transform(TEXTS), atol=1e-5)
    loaded = embedkit.load(moved, threads=1)
    assert isinstance(loaded, FewShotClassifier)
    np.testing.assert_allclose(loaded.predict_proba(NEW), fitted.predict_proba(NEW), atol=1e-6)
    manifest = json.loads((moved / "embedkit.json").read_text())
    assert manifest["few_shot"]["rows"] == list(range(1, 25))
    assert (manifest["encoder"]["name"], manifest["few_shot"]["tuner"]) == (".", "embedkit")
    assert not any(text in path.read_text(errors="ignore") for text in TEXTS for path in moved.rglob("*.json"))


def test_a_folder_is_saved_again_as_it_is(fitted: FewShotClassifier, tmp_path: Path) -> None:
    fitted.save(tmp_path / "0")
    for number in (1, 2):
        embedkit.load(tmp_path / str(number - 1)).save(tmp_path / str(number))
        shutil.rmtree(tmp_path / str(number - 1))
    fitted.save(tmp_path / "0")
    assert files(tmp_path / "2") == files(tmp_path / "0")


def test_a_head_on_a_tuned_encoder_takes_it_along(fitted: FewShotClassifier, tmp_path: Path) -> None:
    """Also over the folder that the encoder lies in, which would be lost."""
    fitted.save(tmp_path / "a")
    other = EmbeddingClassifier(TextEncoder(tmp_path / "a", store=False), "ridge").fit(TEXTS, LABELS)
    other.save(tmp_path / "b")
    answers = other.predict(NEW).tolist()
    EmbeddingClassifier.load(tmp_path / "a").save(tmp_path / "a", overwrite=True)
    assert embedkit.load(tmp_path / "a").predict(NEW).tolist() == fitted.predict(NEW).tolist()
    shutil.rmtree(tmp_path / "a")
    assert embedkit.load(tmp_path / "b").predict(NEW).tolist() == answers
    assert json.loads((tmp_path / "b/embedkit.json").read_text())["encoder"]["name"] == "."


def test_a_loaded_one_can_be_fitted_again(model: str, tmp_path: Path) -> None:
    """Its parameters are those of the tuning: `fit` begins again from the same model."""
    how: dict[str, Any] = {"shots": 6, "strategy": "unique", "loss": "supcon", "class_weight": {"pos": 2.0}}
    how |= {"random_state": 5, "batch_size": 8, "head_params": {"C": 0.5}}
    how |= {"temperature": 0.2, "weight_decay": 0.1, "warmup": 0.2}
    how |= {"trainer_args": {"lr_scheduler_type": "cosine"}}
    classifier = tuner(model, **how).fit(TEXTS, LABELS)
    classifier.save(tmp_path / "a")
    loaded = embedkit.load(tmp_path / "a", threads=1)
    given, found = classifier.get_params(deep=False), loaded.get_params(deep=False)
    for name in given:
        if name not in ("encoder", "precision"):
            assert found[name] == given[name], name
    assert loaded.encoder.model == model
    assert (loaded.notes_, hasattr(loaded, "rows_")) == ([], False)
    again = clone(loaded).set_params(precision="float32").fit(TEXTS, LABELS)
    np.testing.assert_allclose(again.predict_proba(NEW), classifier.predict_proba(NEW), atol=1e-6)
    onwards = FewShotClassifier(tmp_path / "a", **QUICK).fit(TEXTS, LABELS)
    assert onwards.score(TEXTS, LABELS) >= 0.9


def _without(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda manifest: {key: value for key, value in manifest.items() if key != name}


def test_what_others_tuned_is_opened_with_the_other_class(fitted: FewShotClassifier, tmp_path: Path) -> None:
    fitted.save(tmp_path / "a")
    manifest = json.loads((tmp_path / "a/embedkit.json").read_text())
    theirs = {**manifest, "few_shot": {**manifest["few_shot"], "tuner": "setfit"}}
    (tmp_path / "a/embedkit.json").write_text(json.dumps(theirs))
    assert type(embedkit.load(tmp_path / "a")) is EmbeddingClassifier
    with pytest.raises(UsageError, match="was not tuned by embedkit; open it with EmbeddingCl"):
        FewShotClassifier.load(tmp_path / "a")
    for name in ("few_shot", "base"):
        (tmp_path / "a/embedkit.json").write_text(json.dumps(_without(name)(manifest)))
        loaded = embedkit.load(tmp_path / "a")
        assert isinstance(loaded, FewShotClassifier) == (name == "base")
        assert loaded.predict(NEW).tolist() == fitted.predict(NEW).tolist()


def test_a_folder_answers_on_the_command_line(
    fitted: FewShotClassifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted.save(tmp_path / "a")
    assert main(["predict", str(tmp_path / "a"), "--quiet", "--no-store", *TEXTS]) == 0
    told = [json.loads(line)["label"] for line in capsys.readouterr().out.splitlines()]
    assert told == fitted.predict(TEXTS).tolist()
