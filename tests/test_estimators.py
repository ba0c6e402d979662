"""The scikit-learn face: works wherever scikit-learn does, encodes nothing twice, refuses what would go wrong."""

from __future__ import annotations

import copy
import hashlib
import json
import multiprocessing
import os
import pickle
import pickletools
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import joblib
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joblib.externals import loky
from numpy.typing import NDArray
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone, is_classifier
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedKFold,
    cross_val_predict,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils import estimator_checks, get_tags

import embedkit
from embedkit import EmbeddingClassifier, TextEncoder
from embedkit.artifact import staged, write_manifest
from embedkit.cli.main import main
from embedkit.data import LabelCodec
from embedkit.encoders import EncoderSettings, FeatureExtractor, torch_encoder
from embedkit.errors import (
    ArtifactError,
    DataError,
    InputMissingError,
    ModelError,
    OutputExistsError,
    SpaceMismatchError,
    UsageError,
)
from embedkit.estimators.frozen import FrozenClassifier, load_frozen
from embedkit.estimators.inputs import as_inputs
from embedkit.heads import HeadSpec, fit_head
from embedkit.hub import Resolved, resolve_model
from embedkit.runtime.manifest import ENCODER
from tests.tiny_models import make_encoder, make_sentence_transformer

Floats = NDArray[np.floating[Any]]
ROOT = Path(__file__).resolve().parent.parent

GOOD, BAD = ("good", "great", "brilliant", "moving"), ("bad", "dull", "boring", "awful")
TEXTS = [f"the {noun} was {word}" for noun in ("film", "plot", "music") for word in (*GOOD, *BAD)]
LABELS = ["pos" if text.split()[-1] in GOOD else "neg" for text in TEXTS]
NEW = ["a great film", "an awful and dull script", "the actor was fine", ""]
PAIRS = [(text, other) for text, other in zip(TEXTS, reversed(TEXTS), strict=True)]
FOLDS = StratifiedKFold(3, shuffle=True, random_state=0)


# ----------------------------------------------------------------------------------------------- what is there


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of models of equal width: two unit-norm ones that differ in weights alone, and a raw one.

    ModernBERT's tiny vectors point many ways, as those of real models do; BERT's, one way, are standardised.
    """
    root = tmp_path_factory.mktemp("models")
    made = {
        "unit": make_sentence_transformer(root / "unit", "modernbert"),
        "other": make_sentence_transformer(root / "other", "modernbert", seed=1),
        "raw": make_encoder(root / "raw", "bert"),
    }
    return {name: str(folder) for name, folder in made.items()}


@pytest.fixture
def model(models: dict[str, str]) -> str:
    return models["unit"]


pytestmark = pytest.mark.usefixtures("one_torch_thread", "store")


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each run of the encoder was given, in this process."""
    seen: list[int] = []
    run = torch_encoder.TorchEncoder.run

    def counted(self: Any, tokens: Any, batches: Any, *args: Any) -> Iterator[Any]:
        seen.append(sum(map(len, batches)))
        return run(self, tokens, batches, *args)

    monkeypatch.setattr(torch_encoder.TorchEncoder, "run", counted)
    return seen


def python(code: str, *arguments: object) -> str:
    """Run code in another process; return what it prints."""
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


_seen: dict[str, Floats] = {}


def features(model: str, inputs: Sequence[Any] = TEXTS, **how: object) -> Floats:
    """Take vectors past the estimators, without a store."""
    key = repr((model, inputs, how))
    if key not in _seen:
        _seen[key] = FeatureExtractor(EncoderSettings(model, **how)).transform(inputs).vectors  # type: ignore[arg-type]
    return _seen[key]


def fitted(model: str | TextEncoder, y: object = None, **how: object) -> EmbeddingClassifier:
    return EmbeddingClassifier(model, **how).fit(TEXTS, LABELS if y is None else y)


def same_predictions(one: EmbeddingClassifier, other: EmbeddingClassifier, inputs: Sequence[Any] = NEW) -> None:
    assert one.predict_proba(inputs).tobytes() == other.predict_proba(inputs).tobytes()
    assert one.decision_function(inputs).tobytes() == other.decision_function(inputs).tobytes()
    assert one.predict(inputs).tolist() == other.predict(inputs).tolist()
    assert one.classes_.tolist() == other.classes_.tolist()
    assert one.classes_.dtype == other.classes_.dtype


# ------------------------------------------------------------------------------------- arguments, scikit-learn

ARGUMENTS = {
    "model": "somewhere/else",
    "pooling": "cls+mean",
    "layers": [-1, -2],
    "layer_join": "mean",
    "normalize": True,
    "max_length": 12,
    "long": "mean",
    "side": "left",
    "prompt": "query: ",
    "pairs": "bi",
    "precision": "bfloat16",
    "engine": "torch",
    "device": "cpu",
    "batch_tokens": 512,
    "threads": 1,
    "revision": "main",
    "store": Path("elsewhere"),
    "store_dtype": "float16",
}
CLASSIFIER_ARGUMENTS = {
    "encoder": TextEncoder("x", pooling="cls"),
    "head": LogisticRegression(C=3),
    "scale": "none",
    "class_weight": {"pos": 2.0},
    "head_params": {"C": 0.5},
    "random_state": 7,
    "calibrate": True,
    "thresholds": "macro-f1",
    "positive_label": "pos",
}


def test_every_argument_is_in_the_tables() -> None:
    assert set(ARGUMENTS) == set(TextEncoder().get_params())
    assert set(CLASSIFIER_ARGUMENTS) == set(EmbeddingClassifier().get_params(deep=False))


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        *((TextEncoder, name, value) for name, value in ARGUMENTS.items()),
        *((EmbeddingClassifier, name, value) for name, value in CLASSIFIER_ARGUMENTS.items()),
    ],
)
def test_an_argument_is_stored_as_given_and_cloned(kind: object, name: str, value: object) -> None:
    made = kind(**{name: value})
    assert made.get_params()[name] is value
    assert kind().set_params(**{name: value}).get_params()[name] is value
    assert repr(clone(made).get_params()) == repr(made.get_params())
    assert f"{name}=" in repr(made)
    assert f"{name}=" not in repr(kind())
    assert made._repr_html_()


@pytest.mark.parametrize("kind", [TextEncoder, EmbeddingClassifier])
def test_init_takes_anything_and_stores_nothing_else(kind: object) -> None:
    given = {name: object() for name in kind().get_params(deep=False)}
    assert vars(kind(**given)) == given


CHECKS = [
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_estimator_repr",
    "check_estimator_cloneable",
    "check_valid_tag_types",
    "check_estimator_tags_renamed",
    "check_mixin_order",
]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("estimator", [TextEncoder(), EmbeddingClassifier()], ids=["TextEncoder", "Classifier"])
def test_scikit_learn_s_own_checks(check: str, estimator: object) -> None:
    getattr(estimator_checks, check)(type(estimator).__name__, estimator)


def test_tags() -> None:
    encoder, classifier = get_tags(TextEncoder()), get_tags(EmbeddingClassifier())
    for tags in (encoder, classifier):
        assert (tags.input_tags.string, tags.input_tags.two_d_array, tags.input_tags.sparse) == (
            True,
            False,
            False,
        )
    assert encoder.transformer_tags is not None
    assert encoder.transformer_tags.preserves_dtype == []  # float32, whatever comes in
    assert is_classifier(EmbeddingClassifier())
    assert classifier.target_tags.required


def test_scikit_learn_s_own_check_of_an_unfitted_classifier() -> None:
    estimator_checks.check_estimators_unfitted("EmbeddingClassifier", EmbeddingClassifier())


# Of every value that is refused, when it is used: at fit, not in __init__.
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pooling": "median"}, "pooling 'median'"),
        ({"layers": [9]}, "layer 9 does not exist"),
        ({"layers": "some"}, "layers is 'some'"),
        ({"layer_join": "sum"}, "layer_join is 'sum'"),
        ({"long": "cut"}, "long is 'cut'"),
        ({"side": "middle"}, "side is 'middle'"),
        ({"pairs": "both"}, "pairs is 'both'"),
        ({"precision": "int8"}, "precision is 'int8'"),
        ({"engine": "jax"}, "engine is 'jax'"),
        ({"max_length": 65}, "max_length 65 is more than"),
        ({"max_length": 0}, "max_length is 0"),
        ({"batch_tokens": -1}, "batch_tokens is -1"),
        ({"threads": True}, "threads is True"),
        ({"store_dtype": "int8"}, "store_dtype is 'int8'; allowed: float32, float16"),
        ({"store_dtype": "int8", "store": False}, "store_dtype is 'int8'; allowed: float32, float16"),
    ],
)
def test_a_value_is_refused_at_fit(model: str, given: dict[str, Any], said: str) -> None:
    encoder = TextEncoder(model, **given)
    with pytest.raises(UsageError, match=said):
        encoder.fit(TEXTS)
    assert not hasattr(encoder, "space_")


# ------------------------------------------------------------------------------------------------- the vectors


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"pooling": "cls+max", "layers": (-1, 1), "normalize": False},
        {"layers": "all", "layer_join": "mean"},
        {"prompt": "film: ", "max_length": 6, "side": "left"},
        {"max_length": 5, "long": "mean"},
    ],
    ids=str,
)
def test_the_vectors_are_the_encoder_s(model: str, how: dict[str, Any]) -> None:
    encoder = TextEncoder(model, **how)
    vectors = encoder.fit_transform(TEXTS)
    np.testing.assert_array_equal(vectors, features(model, **how))
    np.testing.assert_array_equal(encoder.transform(TEXTS), vectors)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), len(encoder.get_feature_names_out()))


def test_a_row_alone_is_the_row_in_a_batch(model: str) -> None:
    encoder = TextEncoder(model, store=False).fit(TEXTS)
    together = encoder.transform(TEXTS)
    for i in range(0, len(TEXTS), 5):
        np.testing.assert_allclose(encoder.transform(TEXTS[i : i + 1]), together[i : i + 1], rtol=0, atol=1e-5)


def test_the_packaged_model() -> None:
    encoder = TextEncoder()
    vectors = encoder.fit_transform(["a moving film", "a moving picture", "shares fell sharply"])
    assert vectors.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert near > 0.5 > 0.2 > far
    assert encoder.extraction_.computed == 3


def test_fit_neither_encodes_nor_loads_torch(store: Path) -> None:
    code = """
import sys
from embedkit import TextEncoder
encoder = TextEncoder("minilm").fit(["a film"])
width = len(encoder.get_feature_names_out())
print(width, encoder.space_, "torch" in sys.modules, hasattr(encoder, "extraction_"))
"""
    width, space, torch, transformed = python(code).split()
    assert (width, torch, transformed) == ("384", "False", "False")
    assert space == TextEncoder("minilm").fit([]).space_
    assert not list(store.rglob("*.arrow"))


# ----------------------------------------------------------------------------------------------- X: containers

CONTAINERS: dict[str, Callable[[list[str]], Any]] = {
    "list": list,
    "tuple": tuple,
    "object array": lambda t: np.array(t, dtype=object),
    "<U array": np.array,
    "StringDType array": lambda t: np.array(t, dtype=np.dtypes.StringDType()),
    "column": lambda t: np.array(t, dtype=object)[:, None],
    "list of np.str_": lambda t: list(np.array(t)),
    "Series": pd.Series,
    "object Series": lambda t: pd.Series(t, dtype=object),
    "category Series": lambda t: pd.Series(t, dtype="category"),
    "shuffled Series": lambda t: pd.Series(t[::-1]).iloc[::-1],
    "DataFrame": lambda t: pd.DataFrame({"text": t}),
    "Index": pd.Index,
}
PAIR_CONTAINERS: dict[str, Callable[[list[tuple[str, str]]], Any]] = {
    "list": list,
    "tuple": tuple,
    "object array": lambda p: np.array(p, dtype=object),
    "<U array": np.array,
    "DataFrame": lambda p: pd.DataFrame(p, columns=["text", "text_pair"]),
    "Series": pd.Series,
    "object DataFrame": lambda p: pd.DataFrame(p, dtype=object),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_texts_in_any_container(model: str, container: str) -> None:
    texts = [*TEXTS, "", "café 😀", TEXTS[0]]
    assert as_inputs(CONTAINERS[container](texts)) == texts
    vectors = TextEncoder(model).fit_transform(CONTAINERS[container](texts))
    np.testing.assert_array_equal(vectors, features(model, texts))


@pytest.mark.parametrize("container", PAIR_CONTAINERS)
def test_pairs_in_any_container(model: str, container: str) -> None:
    assert as_inputs(PAIR_CONTAINERS[container](PAIRS)) == PAIRS
    vectors = TextEncoder(model).fit_transform(PAIR_CONTAINERS[container](PAIRS))
    np.testing.assert_array_equal(vectors, features(model, PAIRS))


BAD_INPUTS: dict[str, tuple[Any, str]] = {
    "None": (["a", None], "row 2 of X is of type NoneType"),
    "NaN": (["a", "b", float("nan")], "row 3 of X is of type float"),
    "NaN in an array": (np.array(["a", np.nan], dtype=object), "row 2 of X is of type float"),
    "int": ([1, "a"], "row 1 of X is of type int"),
    "ints": (np.arange(3), "row 1 of X is of type int"),
    "bytes": (["a", b"b"], "row 2 of X is of type bytes"),
    "array of bytes": (np.array([b"a"]), "row 1 of X is of type bytes"),
    "NA": (pd.Series(["a", pd.NA], dtype=object), "row 2 of X is of type NAType"),
    "missing": (pd.Series(["a", None, "b"]), "row 2 of X is of type float"),
    "missing string": (pd.Series(["a", pd.NA], dtype="string"), "row 2 of X is of type NAType"),
    "a text alone": ("a film", "X is a str"),
    "bytes alone": (b"a film", "X is a bytes"),
    "nothing": (None, "X is a NoneType"),
    "an iterator": (iter(["a"]), "X is a list_iterator"),
    "a mapping": ({"text": ["a"]}, "X is a dict"),
    "a set": ({"a", "b"}, "X is a set"),
    "a scalar array": (np.array("a"), r"X has the shape \(\)"),
    "three columns": (pd.DataFrame([["a", "b", "c"]]), r"X has the shape \(1, 3\)"),
    "three dimensions": (np.array([[["a"]]]), r"X has the shape \(1, 1, 1\)"),
    "lists of words": ([["a", "film"], ["b"]], "row 1 of X is of type list"),
    "a triple": ([("a", "b"), ("a", "b", "c")], "row 2 of X is of type tuple"),
    "a text among pairs": ([("a", "b"), "ab"], "row 2 of X is of type str, not a pair"),
    "a pair among texts": (["ab", ("a", "b")], "row 2 of X is of type tuple, not a text"),
    "None in a pair": ([("a", "b"), ("a", None)], "row 2 of X is of type NoneType"),
    "NaN in a column": (
        pd.DataFrame({"text": ["x", "y"], "text_pair": ["z", None]}),
        "row 2 of X is of type float",
    ),
    "a lone surrogate": (["a", "\ud800"], "row 2"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_is_named_by_its_row(model: str, case: str, encoded: list[int]) -> None:
    given, said = BAD_INPUTS[case]
    encoder = TextEncoder(model)
    with pytest.raises(DataError, match=said):
        encoder.fit_transform(given)
    with pytest.raises(DataError, match=said):
        encoder.fit(TEXTS).transform(given)
    with pytest.raises(DataError, match=said):
        fitted(model).predict(given)
    assert encoded == [len(TEXTS)]  # the classifier's own


@pytest.mark.parametrize(
    "empty", [[], (), np.array([]), pd.Series([], dtype=object), pd.DataFrame({"premise": [], "hypothesis": []})]
)
def test_no_rows_give_no_vectors(model: str, empty: object, encoded: list[int]) -> None:
    for seen, width in ((TEXTS, 32), (PAIRS, 128)):
        encoder = TextEncoder(model, pairs="bi").fit(seen)
        vectors = encoder.transform(empty)
        assert (vectors.shape, vectors.dtype) == ((0, width), np.float32)
        assert encoder.extraction_.rows == encoder.extraction_.unique == 0
    assert TextEncoder(model).fit_transform(empty).shape == (0, 32)
    assert not encoded


def test_texts_for_pairs_and_pairs_for_texts_are_refused(model: str, encoded: list[int]) -> None:
    with pytest.raises(DataError, match="X holds pairs, but this encoder was fitted on texts"):
        TextEncoder(model).fit(TEXTS).transform(PAIRS)
    with pytest.raises(DataError, match="X holds texts, but this encoder was fitted on pairs"):
        TextEncoder(model).fit(PAIRS).transform(TEXTS)
    assert not encoded


def test_not_fitted() -> None:
    with pytest.raises(NotFittedError):
        TextEncoder().transform(TEXTS)
    with pytest.raises(NotFittedError):
        TextEncoder().get_feature_names_out()
    for method in ("predict", "predict_proba", "decision_function"):
        with pytest.raises(NotFittedError):
            getattr(EmbeddingClassifier(), method)(TEXTS)
    with pytest.raises(NotFittedError):
        EmbeddingClassifier().save("somewhere")


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.sampled_from(TEXTS) | st.text(max_size=8), max_size=12))
def test_a_row_s_vector_follows_from_its_text_alone(model: str, texts: list[str]) -> None:
    encoder = TextEncoder(model).fit([])
    try:
        vectors = encoder.transform(texts)
    except DataError:
        assert any("\ud800" <= character <= "\udfff" for text in texts for character in text)
        return
    for vector, text in zip(vectors, texts, strict=True):
        np.testing.assert_array_equal(vector, encoder.transform([text])[0])  # from the store: bit for bit
    assert encoder.extraction_.computed == 0


# ------------------------------------------------------------------------------- in scikit-learn's own company


def logreg() -> LogisticRegression:
    return LogisticRegression(max_iter=1000)


def test_in_a_pipeline(model: str) -> None:
    expected = logreg().fit(features(model), LABELS).predict_proba(features(model, NEW))
    pipeline = make_pipeline(TextEncoder(model), logreg()).fit(TEXTS, LABELS)
    np.testing.assert_array_equal(pipeline.predict_proba(NEW), expected)
    np.testing.assert_array_equal(clone(pipeline).fit(TEXTS, LABELS).predict_proba(NEW), expected)
    pipeline.set_params(textencoder__pooling="max")
    with pytest.raises(SpaceMismatchError, match="call fit again"):
        pipeline.predict(NEW)


def test_a_pipeline_s_memory_keeps_the_encoder(model: str, tmp_path: Path, encoded: list[int]) -> None:
    memory = joblib.Memory(tmp_path / "memory", verbose=0)
    for _ in range(2):
        Pipeline([("encode", TextEncoder(model)), ("head", logreg())], memory=memory).fit(TEXTS, LABELS).predict(
            TEXTS
        )
    assert encoded == [len(TEXTS)]


def test_in_a_feature_union(model: str, encoded: list[int]) -> None:
    views = [("cls", TextEncoder(model, pooling="cls")), ("max", TextEncoder(model, pooling="max"))]
    union = FeatureUnion([*views, ("words", TfidfVectorizer())]).fit(TEXTS)
    vectors = union.transform(TEXTS)
    np.testing.assert_array_equal(vectors[:, :32].toarray(), features(model, pooling="cls"))
    np.testing.assert_array_equal(vectors[:, 32:64].toarray(), features(model, pooling="max"))
    np.testing.assert_array_equal(FeatureUnion(views).fit_transform(TEXTS), vectors[:, :64].toarray())
    assert encoded[:2] == [len(TEXTS)] * 2


FRAME = pd.DataFrame({"number": np.arange(len(TEXTS)) * 1.0, "text": TEXTS, "text_pair": TEXTS[::-1]})


@pytest.mark.parametrize("columns", ["text", ["text"]])
@pytest.mark.parametrize("output", ["default", "pandas"])
def test_in_a_column_transformer(model: str, columns: object, output: str) -> None:
    """Frames are joined by their index, so a shuffled one tells whether rows stay together."""
    frame = FRAME.sample(frac=1, random_state=0)
    both = ColumnTransformer([("text", TextEncoder(model), columns), ("rest", StandardScaler(), ["number"])])
    made = both.set_output(transform=output).fit_transform(frame)
    assert isinstance(made, pd.DataFrame) == (output == "pandas")
    vectors = made.to_numpy() if isinstance(made, pd.DataFrame) else made
    np.testing.assert_allclose(vectors[:, :32], features(model)[frame.index], atol=1e-6)
    np.testing.assert_allclose(vectors[:, 32], StandardScaler().fit_transform(frame[["number"]])[:, 0])
    assert both.get_feature_names_out()[[0, 32]].tolist() == ["text__textencoder0", "rest__number"]


def test_pairs_in_a_column_transformer(model: str) -> None:
    both = ColumnTransformer([("pair", TextEncoder(model), ["text", "text_pair"])])
    np.testing.assert_array_equal(both.fit_transform(FRAME), features(model, PAIRS))


def test_frames_as_output(model: str) -> None:
    encoder = TextEncoder(model, pooling="cls+mean").set_output(transform="pandas").fit(TEXTS)
    names = [f"textencoder{i}" for i in range(64)]
    assert encoder.get_feature_names_out().tolist() == names
    index = pd.Index(range(100, 100 + len(TEXTS)))[::-1]
    for container in (pd.Series(TEXTS, index=index), pd.DataFrame({"text": TEXTS}, index=index)):
        made = clone(encoder).fit_transform(container)
        assert list(made.columns) == names
        assert made.index.tolist() == index.tolist()
        np.testing.assert_array_equal(made.to_numpy(), features(model, pooling="cls+mean"))
    assert encoder.transform([]).shape == (0, 64)
    assert set(made.dtypes) == {np.dtype(np.float32)}


def test_a_classifier_does_not_mind_frames_as_output(model: str) -> None:
    expected = fitted(model).predict_proba(NEW)
    with config_context(transform_output="pandas"):
        np.testing.assert_array_equal(fitted(model).predict_proba(NEW), expected)
    framed = TextEncoder(model).set_output(transform="pandas")
    np.testing.assert_array_equal(fitted(framed).predict_proba(NEW), expected)
    np.testing.assert_array_equal(fitted(framed, head=logreg()).predict_proba(NEW).shape, expected.shape)


def test_a_grid_search_encodes_every_text_once_a_view(model: str, encoded: list[int]) -> None:
    grid = {"encode__pooling": ["cls", "mean", "cls+mean"], "encode__layers": [-1, (1, 2)], "head__C": [0.1, 10]}
    pipeline = Pipeline([("encode", TextEncoder(model)), ("head", logreg())])
    search = GridSearchCV(pipeline, grid, cv=FOLDS).fit(TEXTS, LABELS)
    # cls and mean of the layers 1, 2 and -1 (which is 3); cls+mean joins what is there
    assert sum(encoded) == 2 * len(TEXTS) + 2 * len(TEXTS)
    encoded.clear()
    again = GridSearchCV(clone(pipeline), grid, cv=FOLDS).fit(TEXTS, LABELS)
    assert not encoded
    assert again.best_params_ == search.best_params_
    np.testing.assert_array_equal(again.cv_results_["mean_test_score"], search.cv_results_["mean_test_score"])
    best = search.best_params_
    vectors = features(model, pooling=best["encode__pooling"], layers=best["encode__layers"])
    expected = cross_val_score(LogisticRegression(max_iter=1000, C=best["head__C"]), vectors, LABELS, cv=FOLDS)
    assert search.best_score_ == pytest.approx(expected.mean())


def judged(pipeline: Pipeline, **how: object) -> tuple[list[float], list[int], list[int]]:
    """Cross-validate; return the scores, and hits and computed texts of each fold's test."""
    done = cross_validate(pipeline, TEXTS, LABELS, cv=FOLDS, return_estimator=True, error_score="raise", **how)
    last = [estimator[0].extraction_ for estimator in done["estimator"]]
    return done["test_score"].tolist(), [e.hits for e in last], [e.computed for e in last]


@pytest.fixture
def new_workers() -> Iterator[None]:
    """Loky's workers outlive a call; one that loads torch later than its first task is taken for a leak."""
    loky.get_reusable_executor().shutdown(wait=True)
    yield
    loky.get_reusable_executor().shutdown(wait=True)


@pytest.mark.usefixtures("new_workers")
@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_cross_validation_in_parallel(model: str, backend: str, encoded: list[int]) -> None:
    pipeline = make_pipeline(TextEncoder(model, threads=1), logreg())
    pipeline.fit(TEXTS, LABELS)
    alone = judged(pipeline, n_jobs=1)
    with joblib.parallel_config(backend=backend):
        together = judged(pipeline, n_jobs=2)
    assert together == alone
    assert together[1:] == ([8, 8, 8], [0, 0, 0])
    assert sum(encoded) == len(TEXTS)
    expected = cross_val_score(logreg(), features(model), LABELS, cv=FOLDS)
    assert alone[0] == expected.tolist()


@pytest.mark.usefixtures("new_workers")
@pytest.mark.filterwarnings("ignore:A worker stopped while some jobs:UserWarning")
def test_cross_validation_in_parallel_from_nothing(model: str) -> None:
    """Workers encode at once into one store; what they cannot share yet is encoded twice, never wrong."""
    pipeline = make_pipeline(TextEncoder(model, threads=1), logreg())
    scores = cross_val_score(pipeline, TEXTS, LABELS, cv=FOLDS, n_jobs=2, error_score="raise")
    assert scores.tolist() == cross_val_score(logreg(), features(model), LABELS, cv=FOLDS).tolist()
    assert judged(pipeline)[1:] == ([8, 8, 8], [0, 0, 0])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_forked_and_a_spawned_process(model: str, method: str) -> None:
    pipeline = make_pipeline(TextEncoder(model), logreg()).fit(TEXTS, LABELS)
    expected = judged(pipeline)
    with multiprocessing.get_context(method).Pool(1) as pool:
        how = {"cv": FOLDS, "return_estimator": True, "error_score": "raise"}
        done = pool.apply(cross_validate, (pipeline, TEXTS, LABELS), how)
        predicted = pool.apply(pipeline.predict_proba, (TEXTS,))
    assert done["test_score"].tolist() == expected[0]
    assert [estimator[0].extraction_.computed for estimator in done["estimator"]] == [0, 0, 0]
    np.testing.assert_array_equal(predicted, pipeline.predict_proba(TEXTS))


def test_two_threads_share_an_encoder(model: str, encoded: list[int]) -> None:
    encoder = TextEncoder(model).fit(TEXTS)
    answers: list[Floats] = []
    threads = [threading.Thread(target=lambda: answers.append(encoder.transform(TEXTS))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answers) == 4
    for answer in answers:
        np.testing.assert_allclose(answer, features(model), rtol=0, atol=1e-5)
    encoded.clear()
    encoder.transform(TEXTS)
    assert not encoded


# --------------------------------------------------------------------------------------------- what is carried


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps], ids=["pickle", "cloudpickle"])
def test_a_pickle_carries_no_weights_and_works(
    model: str, dumps: Callable[[object], bytes], encoded: list[int]
) -> None:
    encoder = TextEncoder(model)
    vectors = encoder.fit_transform(TEXTS)
    assert encoder._kept  # there is something to leave behind
    data = dumps(encoder)
    assert len(data) < 4_000
    named = {str(argument) for code, argument, _ in pickletools.genops(data) if "GLOBAL" in code.name or argument}
    assert not [name for name in named if name.startswith("torch") or "embedkit.encoders.features.Feat" in name]
    again = pickle.loads(data)
    encoded.clear()
    np.testing.assert_array_equal(again.transform(TEXTS), vectors)
    assert not encoded
    assert again.extraction_.unique == again.extraction_.hits == len(TEXTS)
    assert np.abs(again.transform(["a new film"]) - features(model, ["a new film"])).max() < 1e-5


def test_a_pickled_classifier_works_in_a_process_without_torch(model: str, tmp_path: Path) -> None:
    classifier = fitted(model)
    expected = classifier.predict_proba(TEXTS)
    (tmp_path / "c.pkl").write_bytes(pickle.dumps(classifier))
    assert (tmp_path / "c.pkl").stat().st_size < 8_000
    code = """
import pickle, sys
classifier = pickle.load(open(sys.argv[1], "rb"))
got = classifier.predict_proba(sys.argv[2:])
print(got.tobytes().hex(), classifier.encoder_.extraction_.computed, "torch" in sys.modules)
"""
    assert python(code, tmp_path / "c.pkl", *TEXTS).split() == [expected.tobytes().hex(), "0", "False"]


def test_copies_and_clones_share_the_store(model: str, encoded: list[int]) -> None:
    encoder = TextEncoder(model)
    vectors = encoder.fit_transform(TEXTS)
    for other in (copy.copy(encoder), copy.deepcopy(encoder), clone(encoder).fit(TEXTS)):
        np.testing.assert_array_equal(other.transform(TEXTS), vectors)
        assert other.extraction_.computed == 0
    assert not hasattr(clone(encoder), "space_")
    assert encoded == [len(TEXTS)]


# ---------------------------------------------------------------------------------------------- store, changes


def shards(folder: Path) -> int:
    return len(list(folder.rglob("*.arrow")))


def test_the_store_is_read_at_each_call(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: list[int]
) -> None:
    encoder = TextEncoder(model).fit(TEXTS)
    vectors = []
    for name in ("one", "two", "one"):
        monkeypatch.setenv("EMBEDKIT_STORE", str(tmp_path / name))
        vectors.append(encoder.transform(TEXTS))
    assert len(encoded) == 2
    assert shards(tmp_path / "one") == shards(tmp_path / "two") == 1
    encoder.set_params(store=tmp_path / "two").transform(TEXTS)
    assert encoder.set_params(store=str(tmp_path / "one")).transform(TEXTS).tobytes() == vectors[0].tobytes()
    assert len(encoded) == 2


@pytest.mark.parametrize("file", ["model.safetensors", "1_Pooling/config.json"])
def test_a_single_file_that_was_replaced_is_noticed(models: dict[str, str], tmp_path: Path, file: str) -> None:
    folder = Path(shutil.copytree(models["unit"], tmp_path / "m"))
    encoder = TextEncoder(folder).fit(TEXTS)
    before = encoder.transform(TEXTS)
    if file == "model.safetensors":
        shutil.copy(Path(models["other"]) / file, folder / file)
    else:
        modes = json.loads((folder / file).read_text())
        modes |= {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
        (folder / file).write_text(json.dumps(modes))
    with pytest.raises(SpaceMismatchError, match="call fit again"):
        encoder.transform(TEXTS)
    assert np.abs(encoder.fit_transform(TEXTS) - before).max() > 0.01


def test_the_model_is_looked_up_at_fit_and_not_again(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A branch of the hub may move between two fits; a prediction does not ask for it."""
    asked: list[str] = []

    def counted(name: str, **how: object) -> Resolved:
        asked.append(name)
        return resolve_model(name, **how)

    monkeypatch.setattr("embedkit.encoders.opened.resolve_model", counted)
    encoder = TextEncoder(model)
    for fits in (1, 2):
        encoder.fit(TEXTS).transform(TEXTS)
        encoder.transform(NEW)
        assert asked == [model] * fits
    classifier = fitted(model)
    classifier.predict(NEW)
    assert asked == [model] * 3


def test_without_a_store_nothing_is_written(model: str, store: Path, encoded: list[int]) -> None:
    encoder = TextEncoder(model, store=False)
    encoder.fit_transform(TEXTS)
    encoder.transform(TEXTS)
    assert encoded == [len(TEXTS)] * 2
    assert not store.exists()
    assert encoder.extraction_.computed == len(TEXTS)


@pytest.mark.parametrize("rounded", [True, False])
def test_float16_is_the_same_with_and_without_a_store(model: str, rounded: bool) -> None:
    dtype = "float16" if rounded else "float32"
    kept = TextEncoder(model, store_dtype=dtype, normalize=False).fit_transform(TEXTS)
    bare = TextEncoder(model, store_dtype=dtype, normalize=False, store=False).fit_transform(TEXTS)
    np.testing.assert_array_equal(kept, bare)
    assert np.array_equal(kept, kept.astype(np.float16)) == rounded


CHANGES = {
    "pooling": "max",
    "layers": 1,
    "normalize": False,
    "max_length": 7,
    "long": "mean",
    "side": "left",
    "prompt": "film: ",
    "precision": "bfloat16",
    "store_dtype": "float16",
}


@pytest.mark.parametrize("name", [*CHANGES, "model"])
def test_a_change_after_fit_asks_for_another_fit(
    models: dict[str, str], model: str, name: str, encoded: list[int]
) -> None:
    encoder = TextEncoder(model).fit(TEXTS)
    before = encoder.space_
    encoder.set_params(**{name: CHANGES.get(name, models["other"])})
    for inputs in (TEXTS, []):
        with pytest.raises(SpaceMismatchError, match=f"feature space {before[:12]}, .*call fit again"):
            encoder.transform(inputs)
    encoder.fit(TEXTS)
    assert encoder.space_ != before
    assert not encoded
    if name != "precision":  # which this CPU may lack
        assert len(encoder.transform(TEXTS)) == len(TEXTS)


@pytest.mark.parametrize(
    "harmless", [{"batch_tokens": 16}, {"threads": 1}, {"device": "cpu"}, {"store": False}, {"engine": "torch"}]
)
def test_a_change_that_changes_no_vector_is_taken(model: str, harmless: dict[str, Any]) -> None:
    encoder = TextEncoder(model).fit(TEXTS)
    vectors = encoder.set_params(**harmless).transform(TEXTS)
    np.testing.assert_allclose(vectors, features(model), rtol=0, atol=1e-5)


def test_a_model_that_was_replaced_is_noticed(models: dict[str, str], tmp_path: Path, encoded: list[int]) -> None:
    """As when a notebook trains again into the same folder."""
    folder = shutil.copytree(models["unit"], tmp_path / "m")
    encoder = TextEncoder(str(folder))
    pipeline = make_pipeline(encoder, logreg()).fit(TEXTS, LABELS)
    classifier = fitted(str(folder))
    shutil.rmtree(folder)
    shutil.copytree(models["other"], folder)
    for predict in (pipeline.predict, classifier.predict, pickle.loads(pickle.dumps(pipeline)).predict):
        with pytest.raises(SpaceMismatchError, match="call fit again"):
            predict(NEW)
    with pytest.raises(SpaceMismatchError, match="call fit again"):
        classifier.save(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    np.testing.assert_array_equal(encoder.fit_transform(TEXTS), features(models["other"]))
    shutil.rmtree(folder)
    with pytest.raises(InputMissingError, match="no model folder"):
        encoder.transform(TEXTS)


# ----------------------------------------------------------------------------------------- EmbeddingClassifier

CODES = [int(label == "pos") for label in LABELS]
TARGETS: dict[str, tuple[Any, list[Any], str]] = {
    "list of str": (LABELS, ["neg", "pos"], "U"),
    "list of int": (CODES, [0, 1], "i"),
    "list of bool": ([bool(c) for c in CODES], [False, True], "b"),
    "list of NumPy ints": ([np.int16(c) for c in CODES], [0, 1], "i"),
    "<U array": (np.array(LABELS), ["neg", "pos"], "U"),
    "object array": (np.array(LABELS, dtype=object), ["neg", "pos"], "O"),
    "int8 array": (np.array(CODES, dtype=np.int8), [0, 1], "i"),
    "uint64 array": (np.array(CODES, dtype=np.uint64), [0, 1], "u"),
    "bool array": (np.array(CODES, dtype=bool), [False, True], "b"),
    "float array": (np.array(CODES, dtype=np.float64), [0.0, 1.0], "f"),
    "Series of str": (pd.Series(LABELS), ["neg", "pos"], "U"),
    "Series of int": (pd.Series(CODES), [0, 1], "i"),
    "Series of Int64": (pd.Series(CODES, dtype="Int64"), [0, 1], "i"),
    "Series of category": (pd.Series(LABELS, dtype="category"), ["neg", "pos"], "U"),
    "odd index": (pd.Series(LABELS, index=range(100, 100 + len(LABELS))), ["neg", "pos"], "U"),
    "negative": ([c - 1 for c in CODES], [-1, 0], "i"),
    "tuple": (tuple(LABELS), ["neg", "pos"], "U"),
}


@pytest.mark.parametrize("case", TARGETS)
def test_labels_of_any_kind_come_back_as_they_are(model: str, case: str, tmp_path: Path) -> None:
    y, classes, kind = TARGETS[case]
    classifier = fitted(model, y)
    assert classifier.classes_.tolist() == classes
    assert classifier.classes_.dtype.kind == kind
    if isinstance(y, np.ndarray) and kind != "U":
        assert classifier.classes_.dtype == y.dtype
    expected = [classes[code] for code in logreg().fit(features(model), CODES).predict(features(model))]
    got = classifier.predict(TEXTS)
    assert got.tolist() == expected
    assert got.dtype == classifier.classes_.dtype
    assert classifier.score(TEXTS, y) == np.mean([e == classes[c] for e, c in zip(expected, CODES, strict=True)])
    classifier.save(tmp_path / "a")
    same_predictions(classifier, embedkit.load(tmp_path / "a"))


THREE = [("b", "c", "a")[i % 3] for i in range(len(TEXTS))]


@pytest.mark.parametrize("name", ["unit", "raw"])
@pytest.mark.parametrize("y", [LABELS, THREE], ids=["two", "three"])
@pytest.mark.parametrize("strength", [0.1, 5.0])
def test_it_is_logistic_regression_on_the_encoder_s_features(
    models: dict[str, str], name: str, y: list[str], strength: float
) -> None:
    """Unit-norm features as they are, raw ones standardised."""
    encoder = TextEncoder(models[name]).fit(TEXTS)
    head = LogisticRegression(C=strength, max_iter=1000)
    peer = make_pipeline(StandardScaler(), head) if name == "raw" else head
    peer.fit(encoder.transform(TEXTS), y)
    classifier = fitted(models[name], y, head_params={"C": strength})
    vectors = encoder.transform(NEW)
    assert classifier.predict(NEW).tolist() == peer.predict(vectors).tolist()
    np.testing.assert_allclose(classifier.predict_proba(NEW), peer.predict_proba(vectors), atol=1e-5)
    np.testing.assert_allclose(classifier.decision_function(NEW), peer.decision_function(vectors), atol=1e-4)
    assert classifier.score(TEXTS, y) == peer.score(encoder.transform(TEXTS), y)
    assert classifier.notes_ == []


@pytest.mark.parametrize("y", [LABELS, THREE], ids=["two", "three"])
def test_the_answers_agree_with_each_other(model: str, y: list[str]) -> None:
    classifier = fitted(model, y)
    proba, scores = classifier.predict_proba(TEXTS), classifier.decision_function(TEXTS)
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    assert classifier.predict(TEXTS).tolist() == classifier.classes_[proba.argmax(axis=1)].tolist()
    chosen = (scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)
    assert classifier.predict(TEXTS).tolist() == classifier.classes_[chosen].tolist()
    assert classifier.score(TEXTS, y) == (classifier.predict(TEXTS) == y).mean()


@pytest.mark.parametrize("y", [LABELS, THREE], ids=["two", "three"])
def test_no_rows_give_no_answers(model: str, y: list[str]) -> None:
    for head in ("logreg", logreg()):
        classifier = fitted(model, y, head=head)
        assert classifier.predict([]).shape == (0,)
        assert classifier.predict([]).dtype == classifier.classes_.dtype
        assert classifier.predict_proba([]).shape == (0, len(classifier.classes_))
        assert classifier.decision_function([]).shape == classifier.decision_function(NEW)[:0].shape


BAD_TARGETS: dict[str, tuple[Any, str]] = {
    "too few": (LABELS[:-1], "X has 24 rows, y has 23"),
    "none": ([], "X has 24 rows, y has 0"),
    "one class": (["pos"] * len(TEXTS), "only one class"),
    "one class, as numbers": (np.ones(len(TEXTS), dtype=int), "only one class"),
    "nothing": (None, "requires y to be passed"),
    "a text": ("posneg", "y is a str"),
    "a mapping": (dict.fromkeys(TEXTS, 1), "y is a dict"),
    "a list in between": (["pos", ("neg", "pos")] * 12, "row 1 of y is of type str, but others are collections"),
    "a list in a list": ([["pos", ["neg"]]] * 24, "row 1 of y holds a list"),
    "a mapping in between": (["pos", {"pos": 1}] * 12, "row 2 of y holds a dict"),
    "two columns": (pd.DataFrame({"a": LABELS, "b": LABELS}), "holds 0 or 1, but row 1, column 1 does not"),
    "an indicator with a 2": (np.eye(24, 3) + np.eye(24, 3), "holds 0 or 1, but row 1, column 1 does not"),
    "an indicator with NaN": (np.where(np.eye(24, 3), np.nan, 0), "holds 0 or 1, but row 1, column 1 does not"),
    "an indicator of strings": (np.eye(24, 3).astype(str), "holds 0 or 1, but row 1, column 1 does not"),
    "three dimensions": (np.zeros((24, 2, 2)), r"y has the shape \(24, 2, 2\)"),
    "no columns": (np.zeros((24, 0)), r"y has the shape \(24, 0\)"),
    "a sparse matrix": (sparse.csr_array(np.eye(24, 3)), r"y is sparse; give y.toarray\(\)"),
    "equal rows": (np.ones((24, 3), dtype=int), "all 24 rows have the same labels"),
    "equal lists": ([["pos", "neg"]] * 24, "all 24 rows have the same labels"),
    "empty lists": ([[]] * 24, "all 24 rows have the same labels"),
    "labels or columns": ([[0, 1], [1, 0]] * 12, "each row of y is 0 and 1, which may be labels or columns"),
    "None in a list": ([["pos"], ["neg", None]] * 12, "row 2 of y has no label"),
    "fractions in a list": ([["pos"], [0.5]] * 12, "row 2 of y is 0.5, so y is continuous"),
    "too few lists": ([["pos"], ["neg"]], "X has 24 rows, y has 2"),
    "mixed names of columns": (pd.DataFrame(np.eye(24, 2), columns=["a", 1]), "all be strings or all integers"),
    "a name twice": (pd.DataFrame(np.eye(24, 2), columns=["a", "a"]), "they must differ"),
    "missing in an indicator": (pd.DataFrame({"a": CODES, "b": [None] * 24}), "row 1, column 2 does not"),
    "None": ([*LABELS[:-1], None], "row 24 of y has no label"),
    "NaN": (pd.Series([*CODES[:-1], None]), "row 24 of y has no label"),
    "NaN of an array": (np.array([np.nan, *CODES[1:]]), "row 1 of y has no label"),
    "NA": (pd.Series([*CODES[:-1], pd.NA], dtype="Int64"), "row 24 of y has no label"),
    "missing in a DataFrame": (pd.DataFrame({"a": [*LABELS[:-1], None]}), "row 24 of y has no label"),
    "fractions": (np.linspace(0, 1, len(TEXTS)), "row 2 of y is 0.04.*, so y is continuous"),
    "strings and numbers": (["pos", 1] * 12, "mix strings and numbers"),
    "bytes": ([b"pos", b"neg"] * 12, "got bytes"),
}


@pytest.mark.parametrize("case", BAD_TARGETS)
def test_bad_labels_are_refused_before_anything_is_encoded(model: str, case: str, encoded: list[int]) -> None:
    y, said = BAD_TARGETS[case]
    classifier = EmbeddingClassifier(model)
    with pytest.raises(DataError, match=said):
        classifier.fit(TEXTS, y)
    with pytest.raises(NotFittedError):
        classifier.predict(TEXTS)
    assert not encoded


def test_no_rows_cannot_be_fitted(model: str) -> None:
    with pytest.raises(DataError, match="no labelled rows"):
        EmbeddingClassifier(model).fit([], [])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"head": "svm"}, "unknown head 'svm'; available: logreg, ridge, "),
        ({"head": LogisticRegression}, "give a name or an unfitted scikit-learn classifier"),
        ({"head": Ridge()}, "give a name or an unfitted scikit-learn classifier"),
        ({"head": StandardScaler()}, "give a name or an unfitted scikit-learn classifier"),
        ({"head": None}, "give a name or an unfitted scikit-learn classifier"),
        ({"scale": "minmax"}, "scale must be auto, none or standard"),
        ({"class_weight": "even"}, "class_weight must be None, 'balanced' or a mapping"),
        ({"class_weight": {"pos": 2, "other": 1}}, "class_weight names unknown labels: other; known: neg, pos"),
        ({"class_weight": {"pos": -1}}, "class_weight must be positive numbers"),
        ({"head_params": {"alpha": 1}}, "logreg has no parameter 'alpha'; allowed: C, "),
        ({"head_params": {"C": -1}}, "logreg: C must be a number above 0"),
        ({"head": "dummy", "head_params": {"C": 1}}, "dummy has no parameter 'C'"),
        ({"head": "dummy", "class_weight": "balanced"}, "dummy takes no class_weight"),
        (
            {"head": logreg(), "head_params": {"C": 1}},
            "head_params is for a head by name; give it to the Logistic",
        ),
        ({"head": logreg(), "class_weight": "balanced", "scale": "none"}, "scale, class_weight is for a head by"),
        ({"head": logreg(), "calibrate": True, "thresholds": "f1"}, "calibrate, thresholds is for a head by"),
        ({"calibrate": 1}, "calibrate is 1; it must be True or False"),
        ({"thresholds": "recall"}, "thresholds are tuned for f1, accuracy"),
        ({"thresholds": "f1"}, "thresholds for f1 need the positive label"),
        ({"positive_label": "other"}, "positive_label is 'other'; it must be one of two classes: neg, pos"),
        ({"random_state": None}, "random_state is None; it must be an integer"),
        ({"random_state": 1.5}, "random_state is 1.5"),
        ({"encoder": None}, "encoder is None"),
        ({"encoder": TfidfVectorizer()}, "give a model's name, its folder, or a TextEncoder"),
        ({"encoder": TextEncoder}, "give a model's name, its folder, or a TextEncoder"),
    ],
)
def test_a_parameter_is_refused_before_anything_is_encoded(
    model: str, given: dict[str, Any], said: str, encoded: list[int]
) -> None:
    classifier = EmbeddingClassifier(**{"encoder": model, **given})
    with pytest.raises(UsageError, match=said):
        classifier.fit(TEXTS, LABELS)
    assert not encoded


@pytest.mark.parametrize("make", [str, Path, TextEncoder, lambda m: TextEncoder(Path(m))])
def test_the_encoder_as_a_name_a_path_or_an_encoder(
    model: str, make: Callable[[str], Any], tmp_path: Path
) -> None:
    classifier = fitted(make(model))
    expected = fitted(model)
    same_predictions(classifier, expected)
    classifier.save(tmp_path / "a")
    same_predictions(embedkit.load(tmp_path / "a"), expected)


def test_the_given_encoder_and_head_are_left_alone(model: str) -> None:
    encoder, head = TextEncoder(model), logreg()
    classifier = fitted(encoder, head=head)
    assert not hasattr(encoder, "space_")
    assert not hasattr(head, "coef_")
    encoder.set_params(pooling="max")  # of the parameter, not of what was fitted
    classifier.predict(NEW)


# ------------------------------------------------------------------------------------------------------- heads


@pytest.mark.parametrize(
    "head",
    [
        logreg(),
        make_pipeline(StandardScaler(), logreg()),
        DummyClassifier(),
        DummyClassifier(strategy="most_frequent"),
    ],
    ids=str,
)
@pytest.mark.parametrize("y", [LABELS, THREE], ids=["two", "three"])
def test_a_head_of_one_s_own_that_can_be_saved(model: str, head: object, y: list[str], tmp_path: Path) -> None:
    classifier = fitted(model, y, head=head)
    peer = clone(head).fit(features(model), y)
    assert classifier.predict(NEW).tolist() == peer.predict(features(model, NEW)).tolist()
    np.testing.assert_allclose(classifier.predict_proba(NEW), peer.predict_proba(features(model, NEW)), atol=1e-6)
    classifier.save(tmp_path / "a")
    loaded = embedkit.load(tmp_path / "a")
    assert loaded.predict(NEW).tolist() == classifier.predict(NEW).tolist()
    np.testing.assert_allclose(loaded.predict_proba(NEW), classifier.predict_proba(NEW), atol=1e-6)
    with pytest.raises(UsageError, match="unknown head 'sklearn"):  # what it was is known, not how it was set
        clone(loaded).fit(TEXTS, y)


@pytest.mark.parametrize(
    "head", [RandomForestClassifier(random_state=0), SVC(), GridSearchCV(logreg(), {"C": [1, 2]})]
)
def test_a_head_that_has_no_plain_form(model: str, head: object, tmp_path: Path) -> None:
    classifier = fitted(model, THREE, head=head)
    peer = clone(head).fit(features(model), THREE)
    assert classifier.predict(TEXTS).tolist() == peer.predict(features(model)).tolist()
    assert classifier.score(TEXTS, THREE) == peer.score(features(model), THREE)
    for method in ("predict_proba", "decision_function"):  # what scorers look for
        assert (
            hasattr(classifier, method) == hasattr(EmbeddingClassifier(head=head), method) == hasattr(peer, method)
        )
        if hasattr(peer, method):
            np.testing.assert_allclose(
                getattr(classifier, method)(TEXTS), getattr(peer, method)(features(model)), atol=1e-6
            )
    if isinstance(head, GridSearchCV):
        with pytest.raises(UsageError, match="a GridSearchCV has no safe form without pickle"):
            classifier.save(tmp_path / "a")
        assert not list(tmp_path.glob("a*"))
        return
    classifier.save(tmp_path / "a")
    loaded = embedkit.load(tmp_path / "a")
    assert loaded.predict(TEXTS).tolist() == classifier.predict(TEXTS).tolist()
    assert hasattr(loaded, "predict_proba") == hasattr(classifier, "predict_proba")


def test_the_dummy_is_the_share_of_each_class(model: str, tmp_path: Path) -> None:
    y = ["a"] * 18 + ["b"] * 6
    classifier = fitted(model, y, head="dummy")
    assert classifier.predict_proba(NEW).tolist() == [[0.75, 0.25]] * len(NEW)
    assert classifier.predict(NEW).tolist() == ["a"] * len(NEW)
    classifier.save(tmp_path / "a")
    same_predictions(embedkit.load(tmp_path / "a"), classifier)


@pytest.mark.parametrize(
    ("y", "weights"),
    [
        (LABELS, {"pos": 8, "neg": 0.5}),
        (LABELS, {"pos": np.float32(8)}),
        (CODES, {1: 8, 0: 0.5}),
        (np.array(CODES, dtype=float), {1: 8}),
        ([bool(c) for c in CODES], {True: 8}),
        (LABELS, "balanced"),
    ],
)
def test_class_weights_go_by_label(model: str, y: object, weights: object, tmp_path: Path) -> None:
    classifier = fitted(model, y, class_weight=weights)
    peer = LogisticRegression(class_weight=weights, max_iter=1000).fit(features(model), y)
    np.testing.assert_allclose(classifier.predict_proba(NEW), peer.predict_proba(features(model, NEW)), atol=1e-5)
    if weights != "balanced":
        assert np.abs(classifier.predict_proba(NEW) - fitted(model, y).predict_proba(NEW)).max() > 0.1
    classifier.save(tmp_path / "a")
    same_predictions(clone(embedkit.load(tmp_path / "a")).fit(TEXTS, y), classifier)


def test_numpy_numbers_of_a_grid_are_numbers(model: str) -> None:
    given = {"C": np.float32(0.5), "max_iter": np.int64(500), "fit_intercept": np.bool_(True)}
    plain = {"C": 0.5, "max_iter": 500, "fit_intercept": True}
    same_predictions(fitted(model, head_params=given), fitted(model, head_params=plain))


def test_a_solver_that_did_not_converge_is_said(models: dict[str, str]) -> None:
    with pytest.warns(ConvergenceWarning, match="did not converge: it stopped at max_iter=1") as warned:
        classifier = fitted(models["raw"], head_params={"max_iter": 1})
    assert classifier.notes_ == [str(warned[0].message)]
    assert Path(warned[0].filename).name == Path(__file__).name


def test_texts_that_were_cut_off_are_noted(model: str) -> None:
    classifier = fitted(TextEncoder(model, max_length=5))
    assert len(classifier.notes_) == 1
    assert classifier.notes_[0].startswith("24 of 24 inputs have more than 5 tokens")


# -------------------------------------------------------------------------------------- scikit-learn's scorers


@pytest.mark.parametrize("names", [("10", "9"), ("9", "10", "100"), ("b", "a")])
@pytest.mark.parametrize("head", ["logreg", "dummy", logreg()], ids=["logreg", "dummy", "own"])
def test_columns_stand_as_scorers_take_them(
    model: str, names: tuple[str, ...], head: object, tmp_path: Path
) -> None:
    """Scorers sort labels by themselves: strings of digits as strings."""
    y = [names[i % len(names)] for i in range(len(TEXTS))]
    classifier = fitted(model, y, head=head)
    assert classifier.classes_.tolist() == sorted(names)
    classifier.save(tmp_path / "a")
    loaded = embedkit.load(tmp_path / "a")
    same_predictions(loaded, classifier) if isinstance(head, str) else None
    peer = logreg() if head != "dummy" else DummyClassifier()
    expected = peer.fit(features(model), y).predict_proba(features(model))
    for each in (classifier, loaded):
        np.testing.assert_allclose(each.predict_proba(TEXTS), expected, atol=1e-5)
    if head == "logreg":
        found = cross_validate(
            EmbeddingClassifier(model), TEXTS, y, cv=FOLDS, scoring=["neg_log_loss", "roc_auc_ovr", "accuracy"]
        )
        wanted = cross_validate(
            logreg(), features(model), y, cv=FOLDS, scoring=["neg_log_loss", "roc_auc_ovr", "accuracy"]
        )
        for name in ("test_neg_log_loss", "test_roc_auc_ovr", "test_accuracy"):
            np.testing.assert_allclose(found[name], wanted[name], atol=1e-4)


@pytest.mark.parametrize("names", [("9", "10"), ("9", "10", "100"), ("z", "a"), ("b", "c", "a")])
def test_an_artifact_in_another_order_is_put_in_scikit_learn_s(
    model: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    """As the command line writes them: in the data's declared order, or sorted as numbers."""
    y = [names[i % len(names)] for i in range(len(TEXTS))]
    codec, extractor = LabelCodec(names), FeatureExtractor(EncoderSettings(model))
    head = fit_head(HeadSpec(), features(model), codec.encode(y), len(names)).head
    with staged(tmp_path / "a") as stage:
        FrozenClassifier(extractor, head, codec, "text", {}).save(stage)
    loaded, expected = embedkit.load(tmp_path / "a"), fitted(model, y)
    assert loaded.classes_.tolist() == sorted(names)
    assert loaded.predict(TEXTS).tolist() == expected.predict(TEXTS).tolist()
    np.testing.assert_allclose(loaded.predict_proba(TEXTS), expected.predict_proba(TEXTS), atol=1e-4)
    np.testing.assert_allclose(loaded.decision_function(TEXTS), expected.decision_function(TEXTS), atol=1e-3)
    assert log_loss(y, loaded.predict_proba(TEXTS)) == pytest.approx(
        log_loss(y, expected.predict_proba(TEXTS)), 1e-3
    )
    if len(names) == 2:
        truth = [label == sorted(names)[1] for label in y]
        expected_area = roc_auc_score(truth, expected.decision_function(TEXTS))
        assert roc_auc_score(truth, loaded.predict_proba(TEXTS)[:, 1]) == pytest.approx(expected_area)
    loaded.save(tmp_path / "again")
    same_predictions(embedkit.load(tmp_path / "again"), loaded)


def test_a_grid_search_over_the_encoder_and_the_head(model: str, encoded: list[int]) -> None:
    grid = {"encoder__pooling": ["cls", "mean"], "head_params": [{"C": C} for C in np.logspace(-2, 2, 3)]}
    search = GridSearchCV(EmbeddingClassifier(TextEncoder(model)), grid, cv=FOLDS).fit(TEXTS, LABELS)
    assert sum(encoded) == 2 * len(TEXTS)
    for params, score in zip(search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True):
        vectors = features(model, pooling=params["encoder__pooling"])
        head = LogisticRegression(C=params["head_params"]["C"], max_iter=1000)
        assert score == pytest.approx(cross_val_score(head, vectors, LABELS, cv=FOLDS).mean())
    assert search.predict(NEW).tolist() == search.best_estimator_.predict(NEW).tolist()


def test_cross_validated_predictions(model: str) -> None:
    for method in ("predict", "predict_proba", "decision_function"):
        found = cross_val_predict(EmbeddingClassifier(model), TEXTS, THREE, cv=FOLDS, method=method)
        wanted = cross_val_predict(logreg(), features(model), THREE, cv=FOLDS, method=method)
        if method == "predict":
            assert found.tolist() == wanted.tolist()
        else:
            np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_a_clone_fits_to_the_same(model: str) -> None:
    classifier = fitted(TextEncoder(model, pooling="max"), class_weight="balanced", head_params={"C": 2})
    same_predictions(clone(classifier).fit(TEXTS, LABELS), classifier)


@pytest.mark.parametrize("pairs", ["cross", "bi"])
def test_pairs(model: str, pairs: str, tmp_path: Path) -> None:
    encoder = TextEncoder(model, pairs=pairs)
    classifier = EmbeddingClassifier(encoder, scale="standard").fit(PAIRS, LABELS)
    vectors = features(model, PAIRS, pairs=pairs)
    assert vectors.shape[1] == (32 if pairs == "cross" else 128)
    peer = make_pipeline(StandardScaler(), logreg()).fit(vectors, LABELS)
    np.testing.assert_allclose(classifier.predict_proba(PAIRS), peer.predict_proba(vectors), atol=1e-5)
    classifier.save(tmp_path / "a")
    loaded = embedkit.load(tmp_path / "a")
    same_predictions(loaded, classifier, PAIRS)
    same_predictions(loaded, classifier, pd.DataFrame(PAIRS))
    for each in (classifier, loaded):
        with pytest.raises(DataError, match="X holds texts, but this encoder was fitted on pairs"):
            each.predict(TEXTS)
        assert each.predict([]).shape == (0,)
    nothing = load_frozen(tmp_path / "a").predict([])
    assert (nothing.codes.shape, nothing.probabilities.shape, nothing.extraction.rows) == ((0,), (0, 2), 0)


def test_pairs_for_a_classifier_of_texts_are_refused(model: str, tmp_path: Path, encoded: list[int]) -> None:
    classifier = fitted(model)
    classifier.save(tmp_path / "a")
    encoded.clear()
    for each in (classifier, embedkit.load(tmp_path / "a")):
        with pytest.raises(DataError, match="X holds pairs, but this encoder was fitted on texts"):
            each.predict(PAIRS)
    with pytest.raises(DataError, match="was trained on texts"):
        load_frozen(tmp_path / "a").predict(PAIRS)
    assert not encoded


# ------------------------------------------------------------------------------------------------ the artifact


@pytest.fixture
def artifact(model: str, tmp_path: Path) -> Path:
    fitted(model).save(tmp_path / "a")
    return tmp_path / "a"


@pytest.mark.parametrize("y", [LABELS, CODES, THREE], ids=["str", "int", "three"])
@pytest.mark.parametrize(
    "how",
    [{}, {"scale": "standard"}, {"head": "dummy"}, {"class_weight": "balanced", "head_params": {"C": 9}}],
    ids=str,
)
def test_saved_and_loaded_it_answers_bit_for_bit(
    models: dict[str, str], y: object, how: object, tmp_path: Path
) -> None:
    encoder = TextEncoder(models["raw"], pooling="cls+mean", layers=(1, -1), max_length=9, long="mean")
    classifier = fitted(encoder, y, random_state=3, **how)
    classifier.save(tmp_path / "a")
    loaded = embedkit.load(tmp_path / "a")
    same_predictions(loaded, classifier)
    loaded.save(tmp_path / "b")
    assert (tmp_path / "b/embedkit.json").read_bytes() == (tmp_path / "a/embedkit.json").read_bytes()
    # Its parameters say how it was made: the same again, or a search around it.
    same_predictions(clone(loaded).fit(TEXTS, y), classifier)
    given, said = classifier.get_params(deep=False), loaded.get_params(deep=False)
    assert {**said, "encoder": None} == {**given, "encoder": None}
    assert load_frozen(tmp_path / "a").predict(NEW).probabilities.tobytes() == _coded(classifier).tobytes()


def _coded(classifier: EmbeddingClassifier) -> Floats:
    return np.asarray(classifier.head_.predict_proba(classifier.encoder_.transform(NEW)))


def test_an_artifact_is_two_files_without_pickle(artifact: Path, model: str) -> None:
    assert sorted(path.name for path in artifact.iterdir()) == ["embedkit.json", "head.safetensors"]
    manifest = json.loads((artifact / "embedkit.json").read_text())
    encoder = TextEncoder(model).fit(TEXTS)
    assert manifest["encoder"]["space"] == encoder.space_
    assert manifest["encoder"]["settings"]["max_length"] == 64  # a default that was filled in
    assert (manifest["labels"], manifest["label_dtype"], manifest["input"]) == (["neg", "pos"], "str", "text")
    assert manifest["versions"]["scikit-learn"]


def test_the_encoder_that_a_head_reads_is_not_overwritten(tmp_path: Path, model: str) -> None:
    """One that embedkit wrote, which --overwrite would take for an earlier output."""
    adapted = tmp_path / "adapted"
    shutil.copytree(model, adapted)
    write_manifest(adapted, {"kind": ENCODER})
    before = sorted((path, path.read_bytes()) for path in adapted.rglob("*") if path.is_file())
    classifier = fitted(str(adapted), LABELS)
    for place in (adapted, tmp_path / "here" / ".." / "adapted"):
        with pytest.raises(OutputExistsError, match="holds the encoder that the head reads"):
            classifier.save(place, overwrite=True)
    table = tmp_path / "data.csv"
    pd.DataFrame({"text": TEXTS, "label": LABELS}).to_csv(table, index=False)
    told = ["fit-head", str(table), "-m", str(adapted), "-o", str(adapted), "--overwrite", "--no-store"]
    assert main(told) == 2
    assert sorted((path, path.read_bytes()) for path in adapted.rglob("*") if path.is_file()) == before


def test_save_refuses_what_is_there(artifact: Path, model: str) -> None:
    other = fitted(model, THREE)
    with pytest.raises(OutputExistsError, match="--overwrite"):
        other.save(artifact)
    other.save(str(artifact), overwrite=True)
    same_predictions(embedkit.load(str(artifact)), other)


def test_load_reads_no_weights_and_no_torch_where_all_is_cached(model: str, artifact: Path) -> None:
    """And neither does a pickle that was planted in the folder run."""
    expected = embedkit.load(artifact).predict_proba(TEXTS)
    code = """
import sys
import embedkit
loaded = embedkit.load(sys.argv[1])
got = loaded.predict_proba(sys.argv[2:])
again = embedkit.load(sys.argv[1], store=False)
print(got.tobytes().hex(), "torch" in sys.modules, again.encoder_.store)
"""
    assert python(code, artifact, *TEXTS).split() == [expected.tobytes().hex(), "False", "False"]


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


PICKLES = ("head.pkl", "model.joblib", "head.safetensors.pkl", "classifier.pickle", "head.skops", "labels.npy")


def test_a_pickle_in_the_folder_never_runs(artifact: Path, tmp_path: Path) -> None:
    canary = tmp_path / "sang"
    data = pickle.dumps(Canary(canary))
    for name in PICKLES:
        (artifact / name).write_bytes(data)
    loaded = embedkit.load(artifact)
    loaded.predict(NEW)
    with pytest.raises(OutputExistsError, match="did not write there: classifier"):
        loaded.save(artifact, overwrite=True)
    (artifact / "head.safetensors").write_bytes(data)
    with pytest.raises(ArtifactError, match="not the file that was written"):
        embedkit.load(artifact)
    rewrite(artifact, lambda manifest: manifest["files"].update({"head.safetensors": digest(data)}))
    with pytest.raises(ArtifactError, match="damaged or no safetensors file"):
        embedkit.load(artifact)
    assert not canary.exists()
    pickle.loads(data)
    assert canary.exists()  # it can sing


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / "embedkit.json").read_text())
    change(manifest)
    (folder / "embedkit.json").write_text(json.dumps(manifest))


GARBAGE = (None, "garbage", "", -1, 3, 0.5, True, [], {}, ["x"], [[1], {}], {"x": 1}, [None, None])


def places(value: object, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, inner in value.items():
        yield (*before, name)
        if isinstance(inner, dict):
            yield from places(inner, (*before, name))


def put(manifest: dict[str, Any], place: tuple[str, ...], value: object) -> None:
    for name in place[:-1]:
        manifest = manifest[name]
    if value is KeyError:
        del manifest[place[-1]]
    else:
        manifest[place[-1]] = value


# What only says how things came to be, or who wrote them: reading goes on without.
OPTIONAL = {("encoder", name) for name in ("commit", "name", "repository", "weights", "width")} | {
    ("head_settings",),
    ("seed",),
    ("versions",),
    ("data",),
    ("format_version",),
    ("problem_type",),
}


def test_a_manifest_with_anything_missing_or_garbled_is_refused(model: str, artifact: Path) -> None:
    classifier = embedkit.load(artifact)
    classifier._about["data"] = {"train": {"rows": 24, "fingerprint": "0"}}
    classifier.save(artifact, overwrite=True)
    whole = (artifact / "embedkit.json").read_text()
    expected = classifier.predict_proba(NEW).tobytes(), classifier.predict(NEW).tolist()
    tried = 0
    for place in places(json.loads(whole)):
        for value in (KeyError, *GARBAGE):
            manifest = json.loads(whole)
            put(manifest, place, value)
            (artifact / "embedkit.json").write_text(json.dumps(manifest))
            refused = False
            try:
                loaded = embedkit.load(artifact)
            except (ArtifactError, InputMissingError, ModelError):
                refused = True
            tried += 1
            harmless = place in OPTIONAL or place[0] in ("head_settings", "versions", "data", "files")
            if value is KeyError and not harmless:
                assert refused, f"{place} removed"
            if not refused:  # then nothing that matters was hurt
                answers = loaded.predict_proba(NEW).tobytes(), loaded.predict(NEW).tolist()
                assert answers == expected, f"{place} = {value!r}"
    assert tried > 40 * len(GARBAGE)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("labels",), KeyError, "its manifest lacks 'labels'"),
        (("labels",), "ab", "labels is of type str, not list"),
        (("labels",), ["neg", "neg"], "labels are not distinct"),
        (("labels",), ["neg", None], "labels are not distinct strings or numbers"),
        (("labels",), ["a", "b", "c"], "2 classes in the head, 3 labels in the manifest"),
        (("label_dtype",), "int64", "its manifest is damaged"),
        (("label_dtype",), "garbage", "its manifest is damaged"),
        (("label_dtype",), "U1", "labels are not of the dtype U1"),
        (("input",), "tokens", "input is 'tokens'; this embedkit knows 'text', 'pair'"),
        (("input",), "pair", "trained on the feature space"),
        (("task",), "speech", "task is 'speech'; this embedkit knows 'sequence', 'tokens'"),
        (("task",), "tokens", "input is 'text'; this embedkit knows 'tokens'"),
        (("thresholds",), [0.5, 0.5], "its manifest is damaged"),
        (
            ("thresholds",),
            {"values": [0.5, 0.5], "on": "probability", "metric": "f1", "positive": 1},
            "do not fit",
        ),
        (("problem_type",), "multi_label_classification", "differ on whether a text has several labels"),
        (("encoder",), None, "encoder is of type NoneType, not dict"),
        (("encoder", "space"), None, "space is of type NoneType"),
        (("encoder", "space"), "0" * 32, "trained on the feature space 000000000000, but .* gives"),
        (("encoder", "stored_dtype"), "int8", "stored_dtype is 'int8'"),
        (("encoder", "stored_dtype"), "float16", "its settings or tokenizer differ"),
        (("encoder", "settings", "pooling"), 3, "pooling is of type int"),
        (("encoder", "settings", "pooling"), "max", "its settings or tokenizer differ"),
        (("encoder", "settings", "layers"), [99], "the encoder cannot do what the manifest says: layer 99"),
        (("encoder", "settings", "new"), 1, "unexpected keyword argument 'new'"),
        (("head",), [], "head is of type list"),
        (("head", "kind"), ["linear"], "kind is of type list"),
        (("head", "kind"), "forest", "unknown kind 'forest'"),
        (("head", "classes"), 3, "described with 3 classes"),
        (("files",), {}, "head.safetensors is not among its files"),
        (("kind",), "ner", "of the kind 'ner', but 'classifier' is needed"),
        (("min_reader",), 2, "has format version 1, this embedkit reads up to 1; use embedkit 0.1.0 or newer"),
        (("seed",), "x", "seed is of type str"),
        (("seed",), True, "seed is of type bool"),
        (("data",), {"train": None}, "train is of type NoneType"),
    ],
)
def test_what_is_wrong_with_a_manifest_is_said(
    artifact: Path, place: tuple[str, ...], value: object, said: str
) -> None:
    rewrite(artifact, lambda manifest: put(manifest, place, value))
    with pytest.raises(ArtifactError, match=said) as caught:
        embedkit.load(artifact)
    assert str(artifact) in str(caught.value) or "head" in place


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "empty", "a link"])
def test_a_damaged_head_is_refused(artifact: Path, tmp_path: Path, damage: str) -> None:
    head = artifact / "head.safetensors"
    data = head.read_bytes()
    if damage in ("gone", "a link"):
        head.rename(tmp_path / "elsewhere")
    else:
        flipped = data[:-1] + bytes([data[-1] ^ 1])
        head.write_bytes({"cut": data[:-8], "flipped": flipped, "empty": b""}[damage])
    if damage == "a link":
        head.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=r"head\.safetensors"):
        embedkit.load(artifact)


def test_a_head_of_another_artifact_is_refused(model: str, artifact: Path, tmp_path: Path) -> None:
    """Also if somebody made the digests fit."""
    fitted(TextEncoder(model, pooling="cls+mean"), THREE).save(tmp_path / "b")
    data = (tmp_path / "b/head.safetensors").read_bytes()
    (artifact / "head.safetensors").write_bytes(data)
    rewrite(artifact, lambda manifest: manifest["files"].update({"head.safetensors": digest(data)}))
    with pytest.raises(ArtifactError, match="do not fit the link"):
        embedkit.load(artifact)
    entry = {"kind": "linear", "link": "softmax", "classes": 3, "n_features": 64, "multi_label": False}
    rewrite(artifact, lambda manifest: manifest.update(head=entry, labels=["a", "b", "c"]))
    with pytest.raises(ArtifactError, match="the head takes 64 numbers, its encoder gives 32"):
        embedkit.load(artifact)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format": "other"}']
)
def test_a_manifest_that_is_none_is_refused(artifact: Path, content: bytes) -> None:
    (artifact / "embedkit.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"embedkit\.json"):
        embedkit.load(artifact)


def test_another_encoder_of_equal_width_is_refused(models: dict[str, str], artifact: Path) -> None:
    mine, other = TextEncoder(models["unit"]).fit([]).space_, TextEncoder(models["other"]).fit([]).space_
    with pytest.raises(SpaceMismatchError) as caught:
        embedkit.load(artifact, model=models["other"])
    said = str(caught.value)
    assert f"trained on the feature space {mine[:12]}" in said
    assert f"gives {other[:12]} (its weights differ)" in said
    assert str(artifact) in said
    assert caught.value.exit_code == 65


def test_an_encoder_that_moved(models: dict[str, str], tmp_path: Path) -> None:
    there, now = tmp_path / "there", tmp_path / "now"
    shutil.copytree(models["unit"], there)
    classifier = fitted(str(there))
    expected = classifier.predict_proba(NEW)
    classifier.save(tmp_path / "a")
    there.rename(now)
    with pytest.raises(
        InputMissingError, match=r"no model folder at .*a needs this encoder.*--model \(in Python mod"
    ):
        embedkit.load(tmp_path / "a")
    loaded = embedkit.load(tmp_path / "a", model=str(now))
    np.testing.assert_array_equal(loaded.predict_proba(NEW), expected)
    loaded.save(tmp_path / "a", overwrite=True)  # it knows the new place from here on
    np.testing.assert_array_equal(embedkit.load(tmp_path / "a").predict_proba(NEW), expected)
    with pytest.raises(InputMissingError, match="no model folder at") as caught:
        embedkit.load(tmp_path / "a", model=str(there))
    assert "--model" not in str(caught.value)


def test_a_hub_model_s_artifact_takes_a_folder(models: dict[str, str], artifact: Path) -> None:
    expected = embedkit.load(artifact).predict_proba(NEW)
    pinned = {"model": "owner/name", "revision": "0" * 40}
    rewrite(artifact, lambda manifest: manifest["encoder"]["settings"].update(pinned))
    with pytest.raises(InputMissingError, match="name its folder with --model"):
        embedkit.load(artifact)
    np.testing.assert_array_equal(embedkit.load(artifact, model=models["unit"]).predict_proba(NEW), expected)
    with pytest.raises(UsageError, match="not given by its URL"):  # the user's own, so not the folder's fault
        embedkit.load(artifact, model="https://huggingface.co/owner/name")


def test_how_to_compute_is_said_at_load(artifact: Path) -> None:
    loaded = embedkit.load(artifact, device="cpu", threads=1)
    assert (loaded.encoder_.device, loaded.encoder_.threads) == ("cpu", 1)
    assert (loaded.encoder.device, loaded.encoder.threads) == ("cpu", 1)
    assert embedkit.load(artifact).encoder_.device == "auto"
    for asked, expected in ((16, 16), (None, 2048)):
        assert load_frozen(artifact, batch_tokens=asked).extractor.settings.batch_tokens == expected
    with pytest.raises(UsageError, match="threads is 0"):
        embedkit.load(artifact, threads=0)


def test_a_relative_model_is_found_from_elsewhere(
    models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(models["unit"], tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    classifier = fitted("./m")
    classifier.save("a")
    monkeypatch.chdir("/")
    same_predictions(embedkit.load(tmp_path / "a"), classifier, TEXTS)


def test_a_float16_store_s_classifier_answers_the_same_without_one(model: str, tmp_path: Path) -> None:
    classifier = fitted(TextEncoder(model, store_dtype="float16"))
    classifier.save(tmp_path / "a")
    for store in (None, False, tmp_path / "new", tmp_path / "new"):
        loaded = embedkit.load(tmp_path / "a", store=store)
        same_predictions(loaded, classifier, TEXTS)
        assert loaded.encoder_.store_dtype == "float16"
    assert not np.array_equal(fitted(model).predict_proba(TEXTS), classifier.predict_proba(TEXTS))


def test_load_opens_the_store_that_is_named(artifact: Path, tmp_path: Path, encoded: list[int]) -> None:
    embedkit.load(artifact, store=tmp_path / "named").predict(TEXTS)
    embedkit.load(artifact, store=tmp_path / "named", threads=1, device="cpu").predict(TEXTS)
    assert encoded == [len(TEXTS)]
    assert shards(tmp_path / "named") == 1
    embedkit.load(artifact, store=False).predict(TEXTS)
    assert encoded == [len(TEXTS)] * 2


def test_the_packaged_model_s_artifact(tmp_path: Path) -> None:
    classifier = EmbeddingClassifier().fit(["a moving film", "good fun", "dull", "a boring mess"], [1, 1, 0, 0])
    assert classifier.predict(["a great picture", "tedious"]).tolist() == [1, 0]
    classifier.save(tmp_path / "a")
    settings = json.loads((tmp_path / "a/embedkit.json").read_text())["encoder"]["settings"]
    assert settings["model"] == "minilm"  # a package has another place on every machine
    same_predictions(embedkit.load(tmp_path / "a"), classifier)


# ------------------------------------------------------------------------------------------------ public names


def test_the_public_names() -> None:
    names = ["EmbeddingClassifier", "FewShotClassifier", "FineTunedClassifier", "TextEncoder", "TokenClassifier",
             "__version__", "compare", "load"]  # fmt: skip
    assert dir(embedkit) == names
    assert sorted(embedkit.__all__) == dir(embedkit)
    from embedkit.estimators import embedding_classifier, finetuned_classifier, text_encoder, token_classifier

    assert embedkit.FineTunedClassifier is finetuned_classifier.FineTunedClassifier
    assert embedkit.TextEncoder is text_encoder.TextEncoder
    assert embedkit.TokenClassifier is token_classifier.TokenClassifier
    assert embedkit.EmbeddingClassifier is embedding_classifier.EmbeddingClassifier
    assert not hasattr(embedkit, "Encoder")
    with pytest.raises(AttributeError, match="module 'embedkit' has no attribute 'Encoder'"):
        _ = embedkit.Encoder


def test_importing_embedkit_costs_nothing() -> None:
    code = """
import sys
before = set(sys.modules)
import embedkit
new = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
embedkit.TextEncoder, embedkit.EmbeddingClassifier, embedkit.FineTunedClassifier, embedkit.load
print(sorted(new), "torch" in sys.modules, "transformers" in sys.modules)
"""
    assert python(code) == "['embedkit'] False False"


@pytest.mark.parametrize("blocked", ["sklearn", "pyarrow", "xxhash"])
def test_a_missing_package_is_named_with_its_extra(blocked: str) -> None:
    code = """
import sys
sys.modules[sys.argv[1]] = None
import embedkit
names = ("TextEncoder", "EmbeddingClassifier", "FineTunedClassifier")
for ask in (*names, "load"):
    try:
        getattr(embedkit, ask) if ask in names else embedkit.load("x")
    except embedkit.errors.MissingExtraError as error:
        print(error)
"""
    said = python(code, blocked).splitlines()
    names = ("TextEncoder", "EmbeddingClassifier", "FineTunedClassifier", "load")
    assert [line.partition(" needs ")[0] for line in said] == [f"embedkit.{name}" for name in names]
    assert all(f"the package {blocked!r}" in line and "pip install 'embedkit[train]'" in line for line in said)


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda p: p / "absent", InputMissingError, "does not exist"),
        (lambda p: (p / "empty").mkdir() or p / "empty", ArtifactError, r"holds no embedkit\.json: it is empty"),
        (lambda p: (p / "file").write_text("x") and p / "file", ArtifactError, "is a file, not a folder"),
        (lambda p: make_encoder(p / "model", "bert"), ArtifactError, "looks like a transformers model"),
    ],
)
def test_load_says_what_a_folder_is_not(
    tmp_path: Path, make: Callable[[Path], Path], error: type[Exception], said: str
) -> None:
    folder = make(tmp_path)
    for path in (folder, str(folder)):
        with pytest.raises(error, match=said):
            embedkit.load(path)
