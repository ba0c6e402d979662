"""What head to fit is checked when it is said; parameters are read from texts."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import is_classifier
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.svm import LinearSVC
from sklearn.utils.discovery import all_estimators

from embedkit.errors import UsageError
from embedkit.heads import HeadSpec, available, parse_grid, parse_params
from embedkit.heads.spec import check_class_names, params_of, row_weights, sklearn_class, takes_weights
from embedkit.heads.table import HEADS, is_count, is_number, layer_sizes

INF, NAN = float("inf"), float("nan")
DEFAULTS = [(clf, name) for clf, kind in HEADS.items() for name in kind.params]
THEIRS: dict[str, Any] = {
    "logreg": LogisticRegression,
    "ridge": RidgeClassifier,
    "linear-svm": LinearSVC,
    "knn": KNeighborsClassifier,
    "centroid": object,
    "lda": LinearDiscriminantAnalysis,
    "naive-bayes": GaussianNB,
    "mlp": MLPClassifier,
    "hist-gb": HistGradientBoostingClassifier,
    "dummy": DummyClassifier,
}
OTHER_DEFAULTS = {  # chosen for vectors of texts; the rest are scikit-learn's
    ("logreg", "max_iter"),
    ("linear-svm", "max_iter"),
    ("linear-svm", "tol"),
    ("lda", "shrinkage"),
    ("mlp", "hidden_layer_sizes"),
    ("mlp", "early_stopping"),
}


# --- the table ------------------------------------------------------------------------------------------------


def test_every_head_is_listed_with_what_it_is() -> None:
    assert list(available()) == [*HEADS, "sklearn:package.Class"]
    assert all(len(said) > 10 for said in available().values())
    assert set(HEADS) == set(THEIRS)


@pytest.mark.parametrize(("clf", "name"), DEFAULTS)
def test_parameters_have_the_names_and_defaults_of_scikit_learn(clf: str, name: str) -> None:
    theirs = inspect.signature(THEIRS[clf]).parameters
    assert name in theirs
    assert (HEADS[clf].params[name].default == theirs[name].default) is ((clf, name) not in OTHER_DEFAULTS)


@pytest.mark.parametrize(("clf", "name"), DEFAULTS)
def test_defaults_and_what_a_search_tries_are_allowed(clf: str, name: str) -> None:
    param, tried = HEADS[clf].params[name], HEADS[clf].grid.get(name, ())
    for value in (param.default, *tried):
        assert HeadSpec(clf, params={name: value}).param(name) == value
    assert HeadSpec(clf).param(name) == param.default
    assert len(set(tried)) == len(tried)


@pytest.mark.parametrize("clf", HEADS)
def test_a_search_tries_parameters_that_there_are(clf: str) -> None:
    assert set(HEADS[clf].grid) <= set(HEADS[clf].params)
    assert params_of(clf) == list(HEADS[clf].params)


@pytest.mark.parametrize(("clf", "name"), DEFAULTS)
@pytest.mark.parametrize("value", [[1], {}, "junk", "", NAN, -1, 10**400, -INF, object(), np.array(["a", "b"])])
def test_junk_is_refused_with_what_is_allowed(clf: str, name: str, value: object) -> None:
    allowed = HEADS[clf].params[name].allowed
    with pytest.raises(UsageError) as caught:
        HeadSpec(clf, params={name: value})
    assert str(caught.value).startswith(f"{clf}: {name} must be {allowed}, not ")
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("value", "number", "count"),
    [
        (1, True, True),
        (1.5, True, False),
        (1.0, True, False),
        (0, True, False),
        (-3, True, False),
        (True, False, False),
        (np.True_, False, False),
        (np.int64(7), True, True),
        (np.uint8(7), True, True),
        (np.float32(7), True, False),
        (2**31 - 1, True, True),
        (2**31, True, False),
        (10**400, False, False),
        (INF, True, False),
        (NAN, False, False),
        (np.float64("nan"), False, False),
        ("1", False, False),
        (None, False, False),
        (1j, False, False),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_numbers_are_told_from_what_is_none(value: object, number: bool, count: bool) -> None:
    assert is_number(value) is number
    assert is_count(value) is count


@pytest.mark.parametrize(
    ("value", "sizes"),
    [
        (128, (128,)),
        (np.int64(64), (64,)),
        ("128", (128,)),
        ("256x64", (256, 64)),
        ("4x4x4", (4, 4, 4)),
        ("999999", (999999,)),
        *((value, None) for value in (0, -1, True, 1.5, None, (8, 4), "", "x", "8x", "x8", "8x0", "8X4", "8 x 4")),
        *((value, None) for value in ("-8", "+8", "8.0", "²", "1000000", "9" * 5000, "8x" * 9)),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_layers_are_written_with_an_x(value: object, sizes: tuple[int, ...] | None) -> None:
    assert layer_sizes(value) == sizes


# --- specifications -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clf": "logrek"}, "unknown head 'logrek'; available: logreg, ridge, .*, dummy, sklearn:package.Class"),
        ({"clf": "LogReg"}, "unknown head"),
        ({"clf": ""}, "unknown head ''"),
        ({"clf": None}, "unknown head None"),
        ({"clf": "svm.SVC"}, "unknown head 'svm.SVC'"),
        ({"scale": "minmax"}, "scale must be auto, none or standard, not 'minmax'"),
        ({"scale": None}, "scale must be auto, none or standard, not None"),
        ({"scale": True}, "scale must be"),
        *(
            ({"seed": seed}, "seed must be an integer from 0 to 4294967295")
            for seed in (-1, 2**32, 1.0, "1", None)
        ),
        ({"seed": True}, "seed must be an integer from 0 to 4294967295, not True"),
        ({"params": {"c": 1}}, "logreg has no parameter 'c'; allowed: C, fit_intercept, max_iter, tol"),
        ({"params": {"alpha": 1}}, "logreg has no parameter 'alpha'"),
        ({"params": {"penalty": "l1"}}, "logreg has no parameter 'penalty'"),
        ({"clf": "centroid", "params": {"metric": 1}}, "centroid has no parameter 'metric'; allowed: none"),
        ({"params": {"C": 0}}, "C must be a number above 0, not 0"),
        ({"params": {"C": True}}, "C must be a number above 0, not True"),
        ({"params": {"C": "big"}}, "C must be a number above 0, not 'big'"),
        ({"params": {"max_iter": 10.5}}, "max_iter must be an integer above 0"),
        ({"params": {"max_iter": 2**31}}, "max_iter must be an integer above 0"),
        ({"params": {"tol": INF}}, "tol must be a finite number above 0"),
        ({"params": {"fit_intercept": 1}}, "fit_intercept must be true or false"),
        ({"clf": "ridge", "params": {"alpha": INF}}, "ridge: alpha must be a finite number above 0, not inf"),
        ({"clf": "ridge", "params": {"alpha": 0}}, "alpha must be a finite number above 0"),
        ({"clf": "linear-svm", "params": {"C": INF}}, "linear-svm: C must be a finite number above 0"),
        ({"clf": "knn", "params": {"n_neighbors": 0}}, "knn: n_neighbors must be an integer above 0, not 0"),
        ({"clf": "knn", "params": {"n_neighbors": 5.0}}, "n_neighbors must be an integer above 0, not 5.0"),
        ({"clf": "knn", "params": {"weights": None}}, "weights must be 'uniform' or 'distance', not None"),
        ({"clf": "lda", "params": {"shrinkage": 1.01}}, "shrinkage must be 'auto' .* or a number from 0 to 1"),
        ({"clf": "lda", "params": {"shrinkage": False}}, "shrinkage must be"),
        ({"clf": "naive-bayes", "params": {"var_smoothing": INF}}, "var_smoothing must be a number from 0 up"),
        ({"clf": "mlp", "params": {"hidden_layer_sizes": "8x"}}, "hidden_layer_sizes must be a size such as 128"),
        ({"clf": "mlp", "params": {"hidden_layer_sizes": (8,)}}, "hidden_layer_sizes must be a size such as 128"),
        ({"clf": "mlp", "params": {"early_stopping": "yes"}}, "early_stopping must be true, false, or none"),
        ({"clf": "hist-gb", "params": {"max_leaf_nodes": 1}}, "max_leaf_nodes must be an integer above 1"),
        ({"clf": "dummy", "params": {"strategy": "x"}}, "strategy must be 'prior' or 'most_frequent'"),
        ({"clf": "dummy", "params": {"C": 1.0}}, "dummy has no parameter 'C'; allowed: strategy"),
        *(
            ({"clf": clf, "class_weight": "balanced"}, f"{clf} takes no class_weight")
            for clf in ("dummy", "centroid", "knn", "lda", "sklearn:neighbors.KNeighborsClassifier")
        ),
        ({"class_weight": "even"}, "class_weight must be None, 'balanced' or a mapping"),
        ({"class_weight": 2}, "class_weight must be None, 'balanced' or a mapping, not 2"),
        *(
            ({"class_weight": {"a": weight, "b": 1}}, "must be positive numbers; it is not for a$")
            for weight in (-1, 0, NAN, INF, "2", None, True, 10**400)
        ),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else "",
)
def test_a_wrong_specification_is_refused_before_any_work(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        HeadSpec(**arguments)


def test_numbers_of_numpy_are_taken() -> None:
    """A search over numpy.arange or numpy.logspace hands them in."""
    assert HeadSpec("knn", params={"n_neighbors": np.arange(3)[2]}).param("n_neighbors") == 2
    assert HeadSpec(params={"C": np.logspace(-1, 1, 3)[0], "max_iter": np.int32(5)}).param("C") == 0.1
    assert HeadSpec(params={"C": np.float32(2)}, seed=np.int64(3)).param("C") == 2  # type: ignore[arg-type]
    assert HeadSpec(class_weight={"a": np.float64(2)}).class_weight == {"a": 2}


def test_wide_penalties_are_taken() -> None:
    assert HeadSpec(params={"C": INF}).param("C") == INF  # no penalty at all
    assert HeadSpec("lda", params={"shrinkage": None}).param("shrinkage") is None
    assert HeadSpec("mlp", params={"early_stopping": False}).param("early_stopping") is False


# --- classes of scikit-learn ----------------------------------------------------------------------------------


def test_every_public_classifier_of_scikit_learn_can_be_named() -> None:
    for name, kind in all_estimators(type_filter="classifier"):
        module = kind.__module__.split(".")[1]
        assert sklearn_class(f"sklearn:{module}.{name}") is kind
        assert sklearn_class(f"sklearn:sklearn.{module}.{name}") is kind


@pytest.mark.parametrize(
    "path",
    [
        *(
            "",
            "svm",
            "svm.",
            ".SVC",
            "..x",
            "svm..SVC",
            "svm.SVC.fit",
            "svm.SVC()",
            "svm SVC",
            "svm/SVC",
            "svm.svc",
        ),
        *("os.system", "subprocess.Popen", "builtins.eval", "sklearn.os.system", "__builtins__.eval"),
        *("svm.SVR", "svm.np", "preprocessing.StandardScaler", "cluster.KMeans", "datasets.load_iris"),
        *("base.ClassifierMixin", "base.BaseEstimator", "base.is_classifier", "svm.l1_min_c"),
        *("utils._testing.MinimalClassifier", "svm._classes.SVC", "svm._classes", "ensemble._forest.BaseForest"),
        *("utils._mocking.CheckingClassifier", "tests.test_base.MyEstimator", "conftest.pytest"),
        *("nothing.Here", "svm.SVC\n", "svm.ＳＶＣ", "sklearn.sklearn.svm.SVC", "model_selection.GridSearch"),
    ],
)
@pytest.mark.parametrize("params", [{}, {"C": 1}])
def test_what_is_no_classifier_of_scikit_learn_is_refused(path: str, params: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"names no classifier of scikit-learn; an example is sklearn:svm\.SVC"):
        HeadSpec(f"sklearn:{path}", params=params)


def test_no_module_outside_scikit_learn_is_imported_for_a_name() -> None:
    code = (
        "import sys\n"
        "from embedkit.heads import HeadSpec\n"
        "from embedkit.errors import UsageError\n"
        "for path in 'antigravity.x', 'this.x', 'sklearn.this.x', '.this.x', 'tests.test_base.X':\n"
        "    try:\n"
        "        HeadSpec('sklearn:' + path)\n"
        "    except UsageError:\n"
        "        continue\n"
        "    raise SystemExit(path)\n"
        "assert not {'this', 'antigravity', 'sklearn.tests.test_base'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("clf", "params", "message"),
    [
        ("sklearn:svm.SVC", {"c": 1}, "sklearn:svm.SVC has no parameter 'c'; allowed: C, kernel, degree, "),
        ("sklearn:svm.SVC", {"random": 1}, "has no parameter 'random'"),
        ("sklearn:svm.SVC", {"self": 1}, "has no parameter 'self'"),
        ("sklearn:multiclass.OneVsRestClassifier", {}, r"missing 1 required positional argument: 'estimator'"),
        ("sklearn:ensemble.VotingClassifier", {}, "missing 1 required positional argument: 'estimators'"),
    ],
)
def test_parameters_of_scikit_learn_are_checked_by_name(clf: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        HeadSpec(clf, params=params)


@pytest.mark.parametrize(
    ("clf", "weighted"),
    [
        ("sklearn:svm.SVC", True),
        ("sklearn:neighbors.KNeighborsClassifier", False),
        ("sklearn:ensemble.RandomForestClassifier", True),
        ("logreg", True),
        ("knn", False),
        ("lda", False),
    ],
)
def test_heads_say_whether_rows_may_weigh_differently(clf: str, weighted: bool) -> None:
    assert takes_weights(clf) is weighted
    if clf.startswith("sklearn:"):
        assert is_classifier(sklearn_class(clf)())


# --- class weights ----------------------------------------------------------------------------------------------


def test_labels_of_class_weights_are_compared_as_strings() -> None:
    check_class_names({1: 2.0, "0": 1.0}, ["0", "1"])  # type: ignore[dict-item]
    check_class_names("balanced", ["a"])
    check_class_names(None, [])
    with pytest.raises(UsageError, match="class_weight names unknown labels: 7, b; known: 0, 1"):
        check_class_names({7: 1.0, "1": 1.0, "b": 2.0}, ["0", "1"])  # type: ignore[dict-item]


def test_rows_weigh_what_their_class_weighs() -> None:
    codes, labels = np.array([0, 0, 0, 1, 2]), ["a", "b", "c", "d"]
    assert row_weights(None, codes, labels, None) is None
    own = np.array([1.0, 2, 3, 4, 5])
    assert row_weights(None, codes, labels, own) is own
    mapped = row_weights({"a": 2, "c": 0.5}, codes, labels, own)
    assert mapped is not None
    assert mapped.tolist() == [2, 4, 6, 4, 2.5]
    balanced = row_weights("balanced", codes, labels, None)
    assert balanced is not None
    assert balanced == pytest.approx([5 / 9] * 3 + [5 / 3] * 2)


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=20),
    st.lists(st.floats(0.01, 100), min_size=20, max_size=20),
)
def test_balanced_classes_weigh_the_same_and_all_as_before(codes: list[int], rows: list[float]) -> None:
    weights = np.array(rows[: len(codes)])
    got = row_weights("balanced", np.array(codes), list("abcd"), weights)
    assert got is not None
    totals = np.bincount(codes, weights=got)
    assert totals[totals > 0] == pytest.approx(np.full(len(set(codes)), weights.sum() / len(set(codes))))


# --- parameters from texts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], {}),
        (["C=1"], {"C": 1}),
        (["C=1e-3", "max_iter=20"], {"C": 1e-3, "max_iter": 20}),
        (["a=true", "b=False", "c=none", "d=NULL"], {"a": True, "b": False, "c": None, "d": None}),
        ([" strategy = most_frequent "], {"strategy": "most_frequent"}),
        (["a=b=c", "d="], {"a": "b=c", "d": ""}),
        (["a=1,2"], {"a": "1,2"}),
        (["a=inf", "b=-inf", "c=+7", "d=-7", "e=.5"], {"a": INF, "b": -INF, "c": 7, "d": -7, "e": 0.5}),
        (["size=256x64", "code=0x10", "version=1.2.3"], {"size": "256x64", "code": "0x10", "version": "1.2.3"}),
    ],
)
def test_parameters_are_read_from_texts(texts: list[str], expected: dict[str, Any]) -> None:
    got = parse_params(texts)
    assert got == expected
    assert [type(value) for value in got.values()] == [type(value) for value in expected.values()]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], {}),
        (["C=1"], {"C": (1,)}),
        (["C=0.1, 1,10", "weights=distance"], {"C": (0.1, 1, 10), "weights": ("distance",)}),
        (["shrinkage=auto,none,0.5"], {"shrinkage": ("auto", None, 0.5)}),
        (["fit_intercept=true,false"], {"fit_intercept": (True, False)}),
        (["C=1,,2", "d="], {"C": (1, "", 2), "d": ("",)}),
    ],
)
def test_lists_of_parameters_are_read_from_texts(texts: list[str], expected: dict[str, tuple[Any, ...]]) -> None:
    got = parse_grid(texts)
    assert got == expected
    assert [list(map(type, part)) for part in got.values()] == [list(map(type, p)) for p in expected.values()]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["C"], "a parameter is written name=value, not 'C'"),
        (["=1"], "name=value, not '=1'"),
        ([""], "name=value"),
        ([" = "], "name=value"),
        (["C=1", "C=2"], "the parameter 'C' is given twice"),
        (["C=1", " C =1"], "the parameter 'C' is given twice"),
    ],
)
def test_texts_that_are_no_parameters_are_refused(texts: list[str], message: str) -> None:
    for parse in (parse_params, parse_grid):
        with pytest.raises(UsageError, match=message):
            parse(texts)  # type: ignore[operator]


def test_a_number_of_thousands_of_digits_is_refused_as_any_other() -> None:
    for digits in ("9" * 400, "9" * 5000):
        with pytest.raises(UsageError, match="n_neighbors must be an integer above 0"):
            HeadSpec("knn", params=parse_params([f"n_neighbors={digits}"]))


@given(st.one_of(st.integers(-(10**12), 10**12), st.floats(allow_nan=False), st.booleans(), st.none()))
def test_what_is_printed_is_read_back(value: float | bool | None) -> None:
    got = parse_params([f"name={value}"])["name"]
    assert got == value
    assert type(got) is type(value)
