"""`FineTunedClassifier`: scikit-learn's checks, searches, workers; labels of all forms; what is kept and saved."""
# ruff: noqa: N803 - X is scikit-learn's name

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from joblib.externals import loky
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import get_scorer, roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

import embedkit
from embedkit import FineTunedClassifier
from embedkit.cli import main
from embedkit.encoders.folder import ModelFolder
from embedkit.errors import (
    ArtifactError,
    DataError,
    InputMissingError,
    ModelError,
    OutputExistsError,
    TrainingError,
    UsageError,
)
from embedkit.training.model import Opened
from tests.number_face import (
    FURTHER,
    WIDTH,
    NumberFace,
    complaints,
    digits_of,
    make_number_model,
    read_numbers,
    spell,
)
from tests.tiny_models import make_encoder

Floats = NDArray[np.floating[Any]]
pytestmark = pytest.mark.usefixtures("one_torch_thread", "little_garbage")

GOOD, BAD = ("good", "great", "brilliant", "moving"), ("bad", "dull", "boring", "awful")
TEXTS = [f"the {noun} was {word}" for noun in ("film", "plot", "music", "story") for word in (*GOOD, *BAD)]
RIGHT = np.array([text.split()[-1] in GOOD for text in TEXTS])
LABELS = np.where(RIGHT, "pos", "neg").tolist()
NEW = ["a great film", "an awful and dull script", ""]
FOLDS = StratifiedKFold(2, shuffle=True, random_state=0)
# Enough for the tiny model to learn its texts by heart.
QUICK: dict[str, Any] = {"epochs": 15, "batch_size": 8, "learning_rate": 3e-3, "precision": "float32"}
QUICK["threads"] = 1


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_encoder(tmp_path_factory.mktemp("models") / "m", "bert", layers=1))


def tuner(model: str, **how: Any) -> FineTunedClassifier:
    return FineTunedClassifier(model, **{**QUICK, **how})


@pytest.fixture(scope="module")
def fitted(model: str) -> FineTunedClassifier:
    return tuner(model).fit(TEXTS, LABELS)


# ------------------------------------------------------------------------ scikit-learn's checks: a face of numbers


class NumberModel(PreTrainedModel):
    """A linear layer on the numbers that texts spell; each row by itself, so that none moves another."""

    config_class = PreTrainedConfig
    base_model_prefix = "reader"

    def __init__(self, folder: ModelFolder, labels: int) -> None:
        super().__init__(PreTrainedConfig(num_labels=labels))
        self.digits = digits_of(folder.path)
        self.reader = torch.nn.Identity()
        self.head = torch.nn.ParameterDict({"weight": torch.zeros(WIDTH, labels)})
        self.post_init()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor | None = None
    ) -> SequenceClassifierOutput:
        rows = [read_numbers(ids, self.digits) for ids in input_ids.numpy()]
        products = torch.from_numpy(np.stack(rows))[:, :, None] * self.head["weight"].double()
        return SequenceClassifierOutput(logits=products.sum(1).float())


def open_numbers(
    folder: ModelFolder, task: str, names: Sequence[str], *, multi_label: bool = False, seed: int
) -> Opened:
    return Opened(NumberModel(folder, len(names)).train(), False, frozenset())


class NumberTuner(NumberFace, FineTunedClassifier):
    """`FineTunedClassifier` of numbers."""

    def fit(self, X: Any, y: Any) -> NumberTuner:
        super().fit(spell(self, X, reset=True), y)
        return self


@pytest.fixture
def numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("embedkit.training.tuning.open_for_training", open_numbers)
    return make_number_model(tmp_path / "numbers")


# What fails, and why; at most eight.
EXPECTED: dict[str, str] = {}
EASY: dict[str, Any] = {"epochs": 10, "batch_size": 32, "learning_rate": 0.1, "precision": "float32", "threads": 1}


@pytest.mark.filterwarnings("ignore:X .* feature names:UserWarning")  # where a check mixes frames and arrays
def test_scikit_learn_s_checks(numbers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    estimator = NumberTuner(numbers, **EASY)
    results = check_estimator(estimator, expected_failed_checks=EXPECTED, on_fail=None, on_skip=None)
    assert complaints(results, EXPECTED) == []
    for check in FURTHER:
        check(type(estimator).__name__, estimator)
    assert len({r["check_name"] for r in results if r["status"] == "passed"}) + len(FURTHER) >= 50


# ------------------------------------------------------------------------------- parameters, searches, workers


def test_parameters_are_told_as_they_are_taken() -> None:
    how = {"epochs": 1, "freeze": 2, "class_weight": {"a": 2}, "trainer_args": {"lr_scheduler_type": "cosine"}}
    classifier = FineTunedClassifier(Path("m"), **how)
    params = classifier.get_params()
    assert params == classifier.get_params(deep=False)
    for name, value in how.items():
        assert params[name] is value
    again = FineTunedClassifier().set_params(**params)
    assert again.get_params() == params
    assert clone(classifier).get_params() == params
    assert repr(FineTunedClassifier(epochs=1)) == "FineTunedClassifier(epochs=1)"
    with pytest.raises(ValueError, match="Invalid parameter 'C'"):
        classifier.set_params(C=1)


def test_a_grid_a_pipeline_and_folds(model: str) -> None:
    """The grid has NumPy's numbers, as `numpy.arange` gives them."""
    pipeline = make_pipeline(FunctionTransformer(lambda texts: [text.lower() for text in texts]), tuner(model))
    grid = {
        "finetunedclassifier__epochs": np.array([1, 15]),
        "finetunedclassifier__batch_size": np.arange(8, 9),
        "finetunedclassifier__freeze": np.arange(1),
    }
    search = GridSearchCV(pipeline, grid, cv=FOLDS, error_score="raise").fit(TEXTS, LABELS)
    by_hand = cross_val_score(tuner(model, freeze=0), TEXTS, LABELS, cv=FOLDS, error_score="raise")
    assert search.cv_results_["mean_test_score"][1] == pytest.approx(by_hand.mean())
    best = search.best_estimator_[-1]
    assert best.classifier_.about["settings"]["epochs"] == search.best_params_["finetunedclassifier__epochs"]
    assert search.predict(NEW).tolist() == best.predict(NEW).tolist()
    assert best.parts_[0].trainable == 0
    assert [type(best.get_params()[name]) for name in ("epochs", "batch_size", "freeze")] == [np.int64] * 3


@pytest.mark.parametrize("backend", ["multiprocessing", "threading"])
def test_workers_answer_as_one_process_does(model: str, backend: str) -> None:
    """Processes that are forked; threads, which share chance, so that fits take turns."""
    classifier, how = tuner(model, epochs=2), {"cv": FOLDS, "method": "predict_proba"}
    with joblib.parallel_config(backend=backend):
        found = cross_val_predict(classifier, TEXTS, LABELS, n_jobs=2, **how)
    np.testing.assert_allclose(found, cross_val_predict(classifier, TEXTS, LABELS, **how), atol=1e-6)


def test_a_new_process_fits_and_answers_as_this_one_does(model: str, fitted: FineTunedClassifier) -> None:
    """One of joblib's own; one alone, because it imports all that fitting needs."""
    loky.get_reusable_executor().shutdown(wait=True)
    with loky.get_reusable_executor(max_workers=1) as worker:
        there = worker.submit(tuner(model).fit, TEXTS, LABELS)
        answer = worker.submit(fitted.predict_proba, TEXTS)
        np.testing.assert_allclose(there.result(120).predict_proba(TEXTS), fitted.predict_proba(TEXTS), atol=1e-6)
        np.testing.assert_allclose(answer.result(120), fitted.predict_proba(TEXTS), atol=1e-6)


# ------------------------------------------------------------------------------------------------ chance


def chance() -> list[Any]:
    of_numpy = str(np.random.get_state())  # noqa: NPY002
    return [random.getstate(), of_numpy, torch.get_rng_state().tolist(), dict(os.environ)]


def test_a_seed_gives_the_same_answers_and_chance_goes_on_undisturbed(
    model: str, fitted: FineTunedClassifier, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Dropout is on. Nothing is printed."""
    random.seed(7), np.random.seed(7), torch.manual_seed(7)  # noqa: NPY002
    capfd.readouterr()
    before, threads = chance(), torch.get_num_threads()
    again = tuner(model, threads=threads + 1).set_params(threads=1).fit(TEXTS, LABELS)
    again.predict(NEW)
    again.save(tmp_path / "a")
    embedkit.load(tmp_path / "a").predict(NEW)
    assert chance() == before
    assert capfd.readouterr() == ("", "")
    assert torch.get_num_threads() == threads
    assert again.predict_proba(TEXTS).tobytes() == fitted.predict_proba(TEXTS).tobytes()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    assert tuner(model).fit(TEXTS, LABELS).predict_proba(TEXTS).tobytes() == fitted.predict_proba(TEXTS).tobytes()
    other = tuner(model, random_state=1).fit(TEXTS, LABELS)
    assert np.abs(other.predict_proba(TEXTS) - fitted.predict_proba(TEXTS)).max() > 1e-4


def test_precisions_take_turns_in_one_process(model: str) -> None:
    """accelerate keeps its state for the length of a process."""
    how = {"epochs": 1}
    first = tuner(model, **how).fit(TEXTS, LABELS).predict_proba(NEW)
    try:
        half = tuner(model, precision="bfloat16", **how).fit(TEXTS, LABELS).predict_proba(NEW)
    except UsageError:
        pytest.skip("this machine would emulate bfloat16")
    assert 0 < np.abs(half - first).max() < 0.2
    assert tuner(model, **how).fit(TEXTS, LABELS).predict_proba(NEW).tobytes() == first.tobytes()


# ------------------------------------------------------------------------------------------------ X and y

YS: dict[str, tuple[Any, list[Any], str]] = {
    "strings": (LABELS, ["neg", "pos"], "<U3"),
    "objects": (np.array(LABELS, object), ["neg", "pos"], "object"),
    "Series": (pd.Series(LABELS, index=range(50, 82), dtype=object), ["neg", "pos"], "object"),
    "integers": (RIGHT * 7 - 3, [-3, 4], "int64"),
    "int8": (RIGHT.astype(np.int8), [0, 1], "int8"),
    "booleans": (RIGHT.tolist(), [False, True], "bool"),
    "bools": (RIGHT, [False, True], "bool"),
    "floats": (RIGHT.astype(float), [0.0, 1.0], "float64"),
    "numbers as strings": (np.where(RIGHT, "9", "10"), ["10", "9"], "<U2"),
}


@pytest.mark.parametrize("case", YS)
def test_labels_come_back_as_they_were(model: str, case: str, tmp_path: Path) -> None:
    y, classes, dtype = YS[case]
    classifier = tuner(model).fit(TEXTS, y)
    found = classifier.predict(TEXTS)
    assert classifier.classes_.tolist() == classes
    assert classifier.classes_.dtype == np.dtype(dtype)
    assert (found.dtype, found.shape) == (np.dtype(dtype), (32,))
    right = (found == np.array(y)).mean()
    assert right >= 0.9
    assert classifier.score(TEXTS, y) == right
    shares = classifier.predict_proba(TEXTS)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert found.tolist() == classifier.classes_[shares.argmax(axis=1)].tolist()
    scores = classifier.decision_function(TEXTS)
    np.testing.assert_allclose(1 / (1 + np.exp(-scores)), shares[:, 1], atol=1e-12)
    area = roc_auc_score(np.array(y) == classes[1], shares[:, 1])
    assert get_scorer("roc_auc")(classifier, TEXTS, y) == pytest.approx(area)
    classifier.save(tmp_path / "a")
    loaded = embedkit.load(tmp_path / "a", threads=1)
    assert loaded.classes_.tolist() == classes
    assert loaded.predict(TEXTS).dtype == found.dtype
    assert loaded.predict(TEXTS).tolist() == found.tolist()
    assert loaded.predict_proba(TEXTS).tobytes() == shares.tobytes()


def test_three_labels(model: str) -> None:
    y = [text.split()[1] if "music" not in text else "film" for text in TEXTS]
    classifier = tuner(model).fit(TEXTS, y)
    assert classifier.score(TEXTS, y) >= 0.9
    scores, shares = classifier.decision_function(TEXTS), classifier.predict_proba(TEXTS)
    assert scores.shape == shares.shape == (32, 3)
    np.testing.assert_allclose(np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True), shares, atol=1e-12)


HAS = np.array([[word in text for word in ("film", "good", "music")] for text in TEXTS])
NAMES = ["film", "good", "music"]
LISTS = [[name for name, has in zip(NAMES, row, strict=True) if has] for row in HAS.tolist()]
SEVERAL: dict[str, tuple[Any, list[Any]]] = {
    "lists": (LISTS, NAMES),
    "sets": ([set(labels) for labels in LISTS], NAMES),
    "bool": (HAS, [0, 1, 2]),
    "int8": (HAS.astype(np.int8), [0, 1, 2]),
    "DataFrame": (pd.DataFrame(HAS[:, ::-1].astype(float), columns=NAMES[::-1]), NAMES[::-1]),
    "two columns": (HAS[:, :2].astype(int), [0, 1]),
}


@pytest.mark.parametrize("case", SEVERAL)
def test_several_labels(model: str, case: str, tmp_path: Path) -> None:
    y, classes = SEVERAL[case]
    classifier = tuner(model, epochs=20).fit(TEXTS, y)
    assert classifier.classes_.tolist() == classes
    shares, found = classifier.predict_proba(TEXTS), classifier.predict(TEXTS)
    assert shares.shape == classifier.decision_function(TEXTS).shape == (32, len(classes))
    np.testing.assert_allclose(1 / (1 + np.exp(-classifier.decision_function(TEXTS))), shares, atol=1e-12)
    if isinstance(y, list):
        assert found == [[name for name, yes in zip(NAMES, row, strict=True) if yes] for row in shares > 0.5]
        assert classifier.predict([]) == []
        right = np.mean([set(a) == set(b) for a, b in zip(found, y, strict=True)])
    else:
        np.testing.assert_array_equal(found, shares > 0.5)
        assert found.dtype == np.asarray(y).dtype
        assert (classifier.predict([]).shape, classifier.predict([]).dtype) == ((0, len(classes)), found.dtype)
        right = (found == np.asarray(y)).all(axis=1).mean()
    assert classifier.score(TEXTS, y) == right >= 0.8
    classifier.save(tmp_path / "a")
    loaded = embedkit.load(tmp_path / "a", threads=1)
    assert loaded.classes_.tolist() == classes
    assert type(loaded.predict(TEXTS)) is type(found)
    np.testing.assert_array_equal(loaded.predict_proba(TEXTS), shares)
    assert np.asarray(loaded.predict(NEW), object).tolist() == np.asarray(classifier.predict(NEW), object).tolist()


def test_what_several_labels_are_scored_by(model: str) -> None:
    classifier = tuner(model, epochs=1).fit(TEXTS, pd.DataFrame(HAS, columns=NAMES))
    with pytest.raises(DataError, match="y holds one label a row, but several were learnt"):
        classifier.score(TEXTS, LABELS)
    with pytest.raises(DataError, match="X has 32 rows, y has 31"):
        classifier.score(TEXTS, HAS[:-1])
    assert classifier.score(TEXTS, [[*labels, "new"] for labels in LISTS]) == 0


def test_pairs(model: str, tmp_path: Path) -> None:
    pairs = [(text, f"it is {'good' if i % 2 else 'bad'}") for i, text in enumerate(TEXTS)]
    y = np.arange(32) % 2 == 1
    classifier = tuner(model).fit(pairs, y)
    assert classifier.score(pairs, y) >= 0.9
    frame = pd.DataFrame(pairs, columns=["sentence1", "sentence2"])
    assert classifier.predict_proba(frame).tobytes() == classifier.predict_proba(pairs).tobytes()
    with pytest.raises(DataError, match="trained on pairs; the input is of the other kind"):
        classifier.predict(TEXTS)
    classifier.save(tmp_path / "a")
    assert embedkit.load(tmp_path / "a").predict(pairs).tolist() == classifier.predict(pairs).tolist()
    assert json.loads((tmp_path / "a/tokenizer_config.json").read_text())["tokenizer_class"] == "BertTokenizer"


@pytest.mark.parametrize("container", [tuple, np.array, pd.Series, lambda x: np.array(x, object)[:, None]])
def test_containers_of_texts(fitted: FineTunedClassifier, container: Callable[[Any], Any]) -> None:
    assert fitted.predict_proba(container(TEXTS)).tobytes() == fitted.predict_proba(TEXTS).tobytes()


@pytest.mark.parametrize("method", ["predict", "predict_proba", "decision_function"])
def test_no_rows(fitted: FineTunedClassifier, model: str, method: str) -> None:
    found, some = (getattr(fitted, method)(texts) for texts in ([], TEXTS))
    assert (found.shape, found.dtype) == ((0, *some.shape[1:]), some.dtype)
    with pytest.raises(NotFittedError):
        getattr(tuner(model), method)(TEXTS)
    with pytest.raises(DataError, match="trained on texts; the input is of the other kind"):
        getattr(fitted, method)([("a", "b")])


def test_class_weights_are_by_label(model: str) -> None:
    """Texts that cannot be told apart: the weight alone decides. 3.0 and 3 are one label."""
    texts = ["the film"] * 16
    for labels in ([3, 5], [True, False], ["b", "a"], [1.0, 2.0]):
        y = np.array(labels * 8)
        for heavy, light in (labels, labels[::-1]):
            equal = heavy if isinstance(heavy, str) else float(heavy)
            weights = {equal: 9, y.dtype.type(light): np.float32(1)}
            found = tuner(model, class_weight=weights, epochs=4).fit(texts, y).predict_proba(texts)
            assert (found[:, np.unique(y).tolist().index(heavy)] > 0.7).all()


# ------------------------------------------------------------------------------------------------ what is held out


def test_the_best_of_the_rows_that_are_held_out_is_kept(model: str) -> None:
    """The rate lets the last be worse than the best."""
    how = {"validation_fraction": 0.25, "learning_rate": 2e-2, "epochs": 8, "metric": "macro-f1"}
    classifier = tuner(model, **how).fit(TEXTS, LABELS)
    history = classifier.history_
    assert [row["epoch"] for row in history] == list(range(1, 9))
    learnt, held = classifier._held_out(TEXTS, classifier._codec, classifier._codec.encode(LABELS))
    assert (len(learnt), len(held)) == (24, 8)
    best = max(history, key=lambda row: row["macro_f1"])
    assert best["macro_f1"] > min(row["macro_f1"] for row in history)
    said = classifier.classifier_.about["settings"]
    assert (said["best_step"], said["steps"]) == (best["step"], history[-1]["step"])
    texts, labels = ([values[row] for row in held] for values in (TEXTS, LABELS))
    assert classifier.score(texts, labels) == pytest.approx(best["accuracy"])
    shares = classifier.predict_proba(texts)
    own = shares[np.arange(8), [classifier.classes_.tolist().index(label) for label in labels]]
    assert -np.log(own).mean() == pytest.approx(best["eval_loss"], rel=1e-3)
    patient = tuner(model, **how, patience=1).fit(TEXTS, LABELS)
    assert len(patient.history_) < 8
    assert patient.history_ == history[: len(patient.history_)]


def test_without_rows_held_out_all_are_learnt_from(fitted: FineTunedClassifier) -> None:
    assert fitted.history_ == []
    said = fitted.classifier_.about["settings"]
    assert (said["steps"], said["best_step"], said["validation_fraction"]) == (60, None, None)
    assert [part.name for part in fitted.parts_] == ["embeddings", "block 1", "pooler", "head"]


def test_what_is_worth_knowing_is_noted(model: str, fitted: FineTunedClassifier) -> None:
    assert fitted.notes_ == []
    said = tuner(model, epochs=1, max_length=4).fit(TEXTS, LABELS).notes_
    assert ["every training text has more than 4 tokens" in note for note in said] == [True]


# ------------------------------------------------------------------------------------------------ what is refused


def _opened(*_: object, **__: object) -> None:
    pytest.fail("a model was opened")


@pytest.fixture
def unopened(model: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("embedkit.estimators.finetuned_classifier.open_start", _opened)
    return model


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "model": ({"model": 3}, "model is 3"),
    "no epochs": ({"epochs": 0}, "epochs is 0; it must be above 0"),
    "epochs below": ({"epochs": np.float64(-1)}, "epochs is -1.0; it must be above 0"),
    "epochs as text": ({"epochs": "3"}, "epochs is '3'"),
    "batch_size": ({"batch_size": np.int64(0)}, "batch_size is 0"),
    "learning_rate": ({"learning_rate": 0}, "learning_rate is 0; it must be above 0"),
    "freeze": ({"freeze": "most"}, "freeze is 'most'"),
    "freeze below": ({"freeze": np.int64(-1)}, "freeze is -1"),
    "max_length": ({"max_length": 0}, "max_length is 0"),
    "revision": ({"revision": 3}, "revision is 3"),
    "precision": ({"precision": "int8"}, "precision is 'int8'"),
    "float16": ({"precision": "float16", "device": "cpu"}, "float16 needs a CUDA GPU"),
    "device": ({"device": "gpu"}, "device 'gpu' is unknown"),
    "no such device": ({"device": "cuda:77"}, "cuda:77"),
    "threads": ({"threads": 0}, "threads is 0"),
    "random_state": ({"random_state": None}, "random_state is None; it must be an integer"),
    "a negative seed": ({"random_state": -1}, "seed is -1"),
    "an unknown label": ({"class_weight": {"pos": 2, "good": 1}}, "unknown labels: good; known: neg, pos"),
    "a weight of 0": ({"class_weight": {"pos": 0}}, "class_weight"),
    "a weight that is none": ({"class_weight": {"pos": "heavy"}}, "class_weight"),
    "class_weight": ({"class_weight": "even"}, "class_weight is 'even'"),
    "label_smoothing": ({"label_smoothing": 1}, "label_smoothing is 1"),
    "patience alone": ({"patience": 2}, "patience: nothing is judged without validation_fraction"),
    "metric alone": ({"metric": "mcc"}, "metric: nothing is judged without validation_fraction"),
    "patience": ({"patience": 0, "validation_fraction": 0.5}, "patience is 0"),
    "metric": ({"metric": "auc", "validation_fraction": 0.5}, "there is no metric 'auc'"),
    "all held out": ({"validation_fraction": 1}, "validation_fraction is 1; it must be above 0 and below 1"),
    "none held out": ({"validation_fraction": 0.0}, "validation_fraction is 0.0"),
    "validation_fraction": ({"validation_fraction": True}, "validation_fraction is True"),
    "trainer_args": ({"trainer_args": ["a=1"]}, "trainer_args is a list; it must be a mapping"),
    "an argument of ours": ({"trainer_args": {"seed": 1}}, "seed is not taken"),
    "an unknown argument": ({"trainer_args": {"sed": 1}}, "has no such argument"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_parameter_is_refused_before_a_model_is_opened(unopened: str, case: str) -> None:
    wrong, said = WRONG[case]
    classifier = FineTunedClassifier(**{"model": unopened, **wrong})
    with pytest.raises(UsageError, match=said) as caught:
        classifier.fit(TEXTS, LABELS)
    assert isinstance(caught.value, ValueError)
    assert not [name for name in vars(classifier) if name.endswith("_")]


ROWS: dict[str, tuple[Any, Any, str]] = {
    "lengths": (TEXTS, LABELS[1:], "X has 32 rows, y has 31"),
    "one class": (TEXTS, ["a"] * 32, "only one class"),
    "no rows": ([], [], "no labelled rows"),
    "a number": ([*TEXTS[:-1], 3], LABELS, "row 32 of X is of type int"),
    "no label": (TEXTS, [*LABELS[:-1], None], "row 32 of y has no label"),
    "no y": (TEXTS, None, "the target y is None"),
    "texts and pairs": ([*TEXTS[:-1], ("a", "b")], LABELS, "row 32 of X is of type tuple"),
    "labels that are alike": (TEXTS, [["a", "b"]] * 32, "label"),
}


@pytest.mark.parametrize("case", ROWS)
def test_rows_are_refused_before_a_model_is_opened(unopened: str, case: str) -> None:
    texts, y, said = ROWS[case]
    with pytest.raises(DataError, match=said):
        tuner(unopened).fit(texts, y)


def test_what_only_a_model_can_refuse(model: str, tmp_path: Path) -> None:
    for wrong, said in (
        ({"freeze": 2}, "freeze 2 is more than the 1 blocks"),
        ({"max_length": 1000}, "max_length"),
        ({"trainer_args": {"lr_scheduler_type": "spiral"}}, "spiral"),
    ):
        with pytest.raises(UsageError, match=said):
            tuner(model, **wrong).fit(TEXTS, LABELS)
    with pytest.raises(InputMissingError):
        tuner(str(tmp_path / "absent")).fit(TEXTS, LABELS)
    with pytest.raises(ModelError):
        tuner(tmp_path).fit(TEXTS, LABELS)
    with pytest.raises(InputMissingError):  # a path is never the name of a packaged model
        tuner(Path("minilm")).fit(TEXTS, LABELS)
    with pytest.raises(DataError, match="nothing to learn from"):
        tuner(model).fit([""] * 4, [0, 1, 0, 1])


@pytest.mark.parametrize("late", [False, True], ids=["a loss that is no number", "the last step"])
def test_a_fit_that_fails_leaves_no_half(model: str, late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    new, old = tuner(model), tuner(model, epochs=1).fit(TEXTS, LABELS)
    before, shares = dict(vars(old)), old.predict_proba(TEXTS)
    with monkeypatch.context() as patched:
        if late:
            patched.setattr("embedkit.estimators.finetuned_classifier.TokenizerSettings.of", lambda *_: 1 / 0)
        else:
            patched.setattr(
                "embedkit.training.sequence.cross_entropy",
                lambda *_: lambda logits, targets, count: logits.sum() * float("nan"),
            )
        for classifier in (new, old):
            with pytest.raises((TrainingError, ZeroDivisionError)):
                classifier.set_params(epochs=2).fit(TEXTS, RIGHT)
    assert not [name for name in vars(new) if name.endswith("_")]
    assert {**vars(old), "epochs": 1} == before
    assert old.predict(TEXTS).dtype == np.dtype("<U3")
    assert old.predict_proba(TEXTS).tobytes() == shares.tobytes()
    assert new.fit(TEXTS, LABELS).predict(NEW).shape == (3,)  # the next one works


# ------------------------------------------------------------------------------------------------ kept and saved


@pytest.fixture
def copied(model: str, tmp_path: Path) -> Path:
    """A model of its own, which a test may break."""
    return Path(shutil.copytree(model, tmp_path / "own"))


def _replace(folder: Path) -> None:
    shutil.rmtree(folder)
    make_encoder(folder, "roberta", layers=2, seed=3)


@pytest.mark.parametrize("change", [shutil.rmtree, _replace], ids=["gone", "another"])
def test_files_that_change_after_fit_change_nothing(
    copied: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    classifier = tuner(str(copied), epochs=1).fit(TEXTS, LABELS)
    classifier.save(tmp_path / "before")
    change(copied)
    clear = pickle.loads(pickle.dumps(classifier))
    shares = classifier.predict_proba(TEXTS)
    for each in (classifier, clear):
        assert each.predict_proba(TEXTS).tobytes() == shares.tobytes()
        each.save(tmp_path / "after", overwrite=True)
        assert files(tmp_path / "after") == files(tmp_path / "before")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_saved_again_as_it_is(fitted: FineTunedClassifier, tmp_path: Path) -> None:
    """Loaded and saved, twice; transformers reads the last as it reads the first, and so do we."""
    fitted.save(tmp_path / "0")
    with pytest.raises(OutputExistsError):
        fitted.save(tmp_path / "0")
    shares = fitted.predict_proba(TEXTS)
    for number in (1, 2):
        loaded = FineTunedClassifier.load(tmp_path / str(number - 1), threads=1)
        loaded.save(tmp_path / str(number))
        shutil.rmtree(tmp_path / str(number - 1))
        assert loaded.predict_proba(TEXTS).tobytes() == shares.tobytes()
        loaded.save(tmp_path / "again", overwrite=True)  # also after its own folder has gone
        assert files(tmp_path / "again") == files(tmp_path / str(number))
    fitted.save(tmp_path / "0")
    assert files(tmp_path / "2") == files(tmp_path / "0")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "2")
    assert (type(theirs).__name__, theirs.model_max_length) == ("BertTokenizer", 64)


def test_a_pickle_holds_no_text_of_the_user(fitted: FineTunedClassifier) -> None:
    fitted.predict(TEXTS)
    data = pickle.dumps(fitted)
    assert not [text for text in TEXTS if text.encode() in data]
    again = pickle.loads(data)
    assert again.get_params() == fitted.get_params()
    assert again.predict_proba(TEXTS).tobytes() == fitted.predict_proba(TEXTS).tobytes()
    assert (again.history_, again.notes_, again.parts_) == (fitted.history_, fitted.notes_, fitted.parts_)


def test_a_loaded_one_can_be_fitted_again(model: str, tmp_path: Path) -> None:
    """Its parameters are those of the training: `fit` begins again from the same model."""
    how: dict[str, Any] = {"freeze": 0, "class_weight": {"pos": 2}, "warmup": 0.2, "random_state": 5, "epochs": 2}
    how |= {"validation_fraction": 0.25, "metric": "macro-f1", "patience": 3, "max_length": 32, "accumulation": 2}
    how |= {"trainer_args": {"lr_scheduler_type": "cosine"}, "weight_decay": 0.1, "label_smoothing": 0.1}
    classifier = tuner(model, **how).fit(TEXTS, LABELS)
    classifier.save(tmp_path / "a")
    loaded = embedkit.load(tmp_path / "a", threads=1)
    assert loaded.get_params() == classifier.get_params()
    assert (loaded.history_, loaded.notes_, loaded.parts_) == ([], [], ())
    again = clone(loaded).fit(TEXTS, LABELS)
    assert again.predict_proba(TEXTS).tobytes() == classifier.predict_proba(TEXTS).tobytes()
    onwards = FineTunedClassifier(tmp_path / "a", **QUICK).fit(TEXTS, LABELS)
    assert "has a head for these labels, which training goes on from" in onwards.notes_[0]


@pytest.mark.parametrize("what", ["base", "settings", "seed"])
@pytest.mark.parametrize("value", [None, 3, "x", [1]])
def test_a_manifest_that_tells_nonsense_of_the_training_still_answers(
    fitted: FineTunedClassifier, tmp_path: Path, what: str, value: object
) -> None:
    fitted.save(tmp_path / "a")
    manifest = json.loads((tmp_path / "a/embedkit.json").read_text())
    (tmp_path / "a/embedkit.json").write_text(json.dumps({**manifest, what: value}))
    loaded = embedkit.load(tmp_path / "a")
    assert loaded.predict(NEW).tolist() == fitted.predict(NEW).tolist()
    repr(loaded)
    if what == "base":
        with pytest.raises(UsageError, match="model is None"):
            loaded.fit(TEXTS, LABELS)


def test_a_load_that_cannot_be(fitted: FineTunedClassifier, tmp_path: Path) -> None:
    fitted.save(tmp_path / "a")
    for how in ({"device": "gpu"}, {"threads": 0}):
        with pytest.raises(UsageError, match=next(iter(how))):
            embedkit.load(tmp_path / "a", **how)
    (tmp_path / "a/tokenizer_config.json").write_text("{}")
    with pytest.raises(ArtifactError):
        embedkit.load(tmp_path / "a")
    with pytest.raises(InputMissingError):
        FineTunedClassifier.load(tmp_path / "b")


# --------------------------------------------------------------------------------------------- of the command


@pytest.mark.parametrize(
    ("labels", "dtype"),
    [(LABELS, "<U3"), (RIGHT * 7 + 3, "<U2"), ((RIGHT * 7 + 3).tolist(), "int64"), (LISTS, None)],
    ids=["words", "numbers in CSV", "numbers in JSON", "lists"],
)
def test_a_folder_of_the_command(
    model: str, tmp_path: Path, labels: Any, dtype: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """The manifest's dtype; classes stand as scikit-learn has them; several labels come back as lists."""
    if dtype == "int64":
        written = labels
        rows = [json.dumps({"text": text, "label": label}) for text, label in zip(TEXTS, labels, strict=True)]
    else:
        written = [";".join(label) if dtype is None else str(label) for label in labels]
        rows = ["text,label", *(f'{text},"{label}"' for text, label in zip(TEXTS, written, strict=True))]
    (tmp_path / f"train.{'jsonl' if dtype == 'int64' else 'csv'}").write_text("\n".join(rows) + "\n")
    flags = ["--epochs", "15", "--learning-rate", "3e-3", "--batch-size", "8", "--precision", "float32"]
    flags += ["--eval-strategy", "no"]
    flags += ["--threads", "1", "--quiet", *(["--label-separator", ";"] if dtype is None else [])]
    assert main(["finetune", str(tmp_path), "-m", model, "-o", str(tmp_path / "a"), *flags]) == 0
    capsys.readouterr()
    classifier = embedkit.load(tmp_path / "a", threads=1)
    found = classifier.predict(TEXTS)
    kept = json.loads((tmp_path / "a/embedkit.json").read_text())["label_dtype"]
    assert kept == ("int64" if dtype == "int64" else "str")
    if dtype is None:
        assert isinstance(found, list)
        assert classifier.classes_.tolist() == NAMES
        assert classifier.score(TEXTS, LISTS) == classifier.score(TEXTS, pd.DataFrame(HAS, columns=NAMES)) > 0.8
    else:
        assert (found.dtype, found.shape) == (np.dtype(dtype), (32,))
        assert classifier.classes_.tolist() == np.unique(written).tolist()
        assert classifier.score(TEXTS, written) > 0.8
        order = classifier.classes_[classifier.predict_proba(TEXTS).argmax(axis=1)]
        assert order.tolist() == found.tolist()
    assert main(["predict", str(tmp_path / "a"), "--quiet", *TEXTS[:4]]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    if dtype is None:
        assert [row["labels"] for row in told] == found[:4]
    else:
        assert [row["label"] for row in told] == [str(label) for label in found[:4]]
    params = classifier.get_params()
    assert (params["model"], params["epochs"], params["validation_fraction"]) == (model, 15, None)
    assert clone(classifier).set_params(epochs=1).fit(TEXTS, LABELS).predict(NEW).shape == (3,)
