"""Fit a classical head on features: one table of what there is, one function that fits."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedkit.errors import DataError, UsageError
from embedkit.heads.models import Codes, ConstantHead, Floats, Head, LinearHead, check_features

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

ClassWeight = Mapping[str, float] | str | None

UNIT_NORM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class HeadSpec:
    """Which head to fit, and how; checked when it is made, so before any text is encoded.

    Parameters
    ----------
    clf : str
        A name of `available`.
    scale : {"auto", "none", "standard"}
        Whether features are standardised first. ``"auto"``: unless every row has norm 1.
    class_weight : None, "balanced" or mapping of label to weight
        Weight of a row by its label; a label that the mapping leaves out weighs 1.
    params : mapping
        Further parameters of the classifier, as `available` and the errors name them.
    seed : int
        Of classifiers that draw random numbers.

    Raises
    ------
    UsageError
        For an unknown name or parameter, or a value that is not allowed; the message lists what is.
    """

    clf: str = "logreg"
    scale: str = "auto"
    class_weight: ClassWeight = None
    params: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 42

    def __post_init__(self) -> None:
        if self.clf not in _TABLE:
            raise UsageError(f"unknown head {self.clf!r}; available: {', '.join(_TABLE)}")
        if self.scale not in ("auto", "none", "standard"):
            raise UsageError(f"scale must be auto, none or standard, not {self.scale!r}")
        _check_params(self.clf, self.params)
        _check_class_weight(self.clf, self.class_weight)


@dataclass(frozen=True)
class FittedHead:
    """A head with what is worth saying about its fit.

    Parameters
    ----------
    head : Head
        Predicts.
    notes : list of str
        What the user should be told, such as a fit that did not converge; mostly empty.
    seconds : float
        Wall time of the fit; the first one in a process includes the import of scikit-learn.
    iterations : int
        Of the solver; 0 where there is none.
    scaled : bool
        Whether the features were standardised; the head carries that inside.
    """

    head: Head
    notes: list[str]
    seconds: float
    iterations: int
    scaled: bool


def available() -> dict[str, str]:
    """Return the name of each head with a short description."""
    return {name: kind.description for name, kind in _TABLE.items()}


def fit_head(
    spec: HeadSpec,
    X: npt.ArrayLike,  # noqa: N803 - scikit-learn's name
    y: npt.ArrayLike,
    n_classes: int,
    *,
    names: Sequence[str] | None = None,
    threads: int | None = None,
) -> FittedHead:
    """Fit a head.

    Parameters
    ----------
    spec : HeadSpec
        Which one.
    X : array-like of float, shape (N, D)
        Features. float16 is fitted as float32.
    y : array-like of int, shape (N,)
        Class codes from 0 to `n_classes` - 1.
    n_classes : int
        Number of classes C. One without rows is never predicted, and a note says so.
    names : sequence of str, optional
        The label of each code, for messages and `HeadSpec.class_weight`. Default: the codes as strings.
    threads : int, optional
        Threads of the linear algebra. Default 1: the products of a fit are so small that OpenBLAS waits
        for its threads longer than it computes (two threads took 0.3 to 0.6 s where one took 0.05 s, at
        8,530 rows of 384).

    Returns
    -------
    FittedHead
        The head and notes on its fit.

    Raises
    ------
    DataError
        For no rows, a single class, lengths that differ, codes out of range, or features that are not
        finite.
    UsageError
        If `HeadSpec.class_weight` names an unknown label, or `threads` is below 1.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1, not {threads}")
    labels = [str(code) for code in range(n_classes)] if names is None else list(names)
    features = check_features(X)
    codes = _check_codes(y, len(features), labels)
    weights = _weights_by_code(spec.class_weight, labels)
    start = time.perf_counter()
    limits = {"blas": 1} if threads is None else {"blas": threads, "openmp": threads}
    with threadpool_limits(limits=limits):
        fit = _TABLE[spec.clf].fit(_Problem(spec, features, codes, n_classes, weights))
    counts = np.bincount(codes, minlength=n_classes)
    absent = [label for label, rows in zip(labels, counts, strict=True) if not rows]
    if absent:
        fit.notes.append(f"never predicted, because no training row has them: {', '.join(absent)}")
    return FittedHead(fit.head, fit.notes, time.perf_counter() - start, fit.iterations, fit.scaled)


def _check_codes(y: npt.ArrayLike, rows: int, labels: Sequence[str]) -> Codes:
    """Return class codes, or say why nothing can be learnt from them."""
    codes = np.asarray(y)
    if rows == 0:
        raise DataError("0 rows: there is nothing to fit")
    if codes.shape != (rows,):
        raise DataError(f"{rows} rows of features, but class codes of shape {codes.shape}")
    if codes.dtype.kind not in "iu":
        raise DataError(f"class codes must be integers, not {codes.dtype}")
    wrong = np.flatnonzero((codes < 0) | (codes >= len(labels)))
    if len(wrong):
        raise DataError(f"code {codes[wrong[0]]} of row {wrong[0] + 1} is not one of {len(labels)} classes")
    if (codes == codes[0]).all():
        raise DataError(f"only one class ({labels[codes[0]]!r}, {rows} rows); a classifier needs two or more")
    return codes.astype(np.int64)


# --- what a classifier may be told ---------------------------------------------------------------------


@dataclass(frozen=True)
class _Param:
    """One parameter: its default, and what it accepts in code and in words."""

    default: Any
    accepts: Callable[[Any], bool]
    allowed: str


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _check_params(clf: str, params: Mapping[str, Any]) -> None:
    """Refuse a parameter that the classifier does not have, or a value that it does not take."""
    known = _TABLE[clf].params
    for name, value in params.items():
        if name not in known:
            raise UsageError(f"{clf} has no parameter {name!r}; allowed: {', '.join(known)}")
        if not known[name].accepts(value):
            raise UsageError(f"{clf}: {name} must be {known[name].allowed}, not {value!r}")


def _check_class_weight(clf: str, class_weight: ClassWeight) -> None:
    """Refuse what is no class weight, and any for a head that would ignore it."""
    if class_weight is None:
        return
    if not _TABLE[clf].weighted:
        raise UsageError(f"{clf} takes no class_weight")
    if isinstance(class_weight, Mapping):
        wrong = [label for label, weight in class_weight.items() if not (_number(weight) and weight > 0)]
        if wrong:
            raise UsageError(f"class_weight must be positive numbers; it is not for {', '.join(map(str, wrong))}")
    elif class_weight != "balanced":
        raise UsageError(f"class_weight must be None, 'balanced' or a mapping, not {class_weight!r}")


def _weights_by_code(class_weight: ClassWeight, labels: Sequence[str]) -> dict[int, float] | str | None:
    """Return the class weights keyed by code."""
    if class_weight is None or isinstance(class_weight, str):
        return class_weight
    unknown = [str(label) for label in class_weight if str(label) not in labels]
    if unknown:
        raise UsageError(f"class_weight names unknown labels: {', '.join(unknown)}; known: {', '.join(labels)}")
    return {labels.index(str(label)): float(weight) for label, weight in class_weight.items()}


def parse_params(texts: Sequence[str]) -> dict[str, Any]:
    """Read parameters written as ``name=value``.

    Parameters
    ----------
    texts : sequence of str
        A value is an integer, a float, ``true``, ``false``, ``none``, or else a string.

    Returns
    -------
    dict
        Values by name, for `HeadSpec`.

    Raises
    ------
    UsageError
        If there is no name or no ``=``, or a name stands twice.

    Examples
    --------
    >>> parse_params(["C=0.5", "max_iter=2000", "fit_intercept=false"])
    {'C': 0.5, 'max_iter': 2000, 'fit_intercept': False}
    """
    params: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not name or not equals:
            raise UsageError(f"a parameter is written name=value, not {text!r}")
        if name in params:
            raise UsageError(f"the parameter {name!r} is given twice")
        params[name] = _literal(value.strip())
    return params


def _literal(text: str) -> bool | int | float | str | None:
    """Return the number, truth value, None or string that a text spells."""
    words: dict[str, bool | None] = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    for convert in (int, float):
        with suppress(ValueError):
            return convert(text)
    return text


# --- the classifiers -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Problem:
    """What a fit function gets: checked features and codes, weights by code."""

    spec: HeadSpec
    features: Floats
    codes: Codes
    n_classes: int
    weights: dict[int, float] | str | None

    def param(self, name: str) -> Any:  # noqa: ANN401 - the table says what each one is
        """Return a parameter's value or its default."""
        return self.spec.params.get(name, _TABLE[self.spec.clf].params[name].default)


@dataclass(frozen=True)
class _Fit:
    """What a fit function returns."""

    head: Head
    notes: list[str] = field(default_factory=list)
    iterations: int = 0
    scaled: bool = False


def _fit_logreg(problem: _Problem) -> _Fit:
    """Fit scikit-learn's L2-regularised logistic regression by L-BFGS."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    unit = _unit_norm(problem.features)
    scaled = problem.spec.scale == "standard" or (problem.spec.scale == "auto" and not unit)
    scaler = StandardScaler().fit(problem.features) if scaled else None
    features = problem.features if scaler is None else scaler.transform(problem.features)
    if not (unit or scaled):
        # float32 gradients are too coarse for columns of very different size; elsewhere they give the
        # same accuracy in half the time and without a copy
        features = features.astype(np.float64, copy=False)
    weights = problem.weights
    if isinstance(weights, dict):  # scikit-learn refuses a weight for a class that has no rows
        weights = {code: weight for code, weight in weights.items() if (problem.codes == code).any()}
    model = LogisticRegression(
        C=problem.param("C"),
        tol=problem.param("tol"),
        max_iter=problem.param("max_iter"),
        fit_intercept=problem.param("fit_intercept"),
        class_weight=weights,
        random_state=problem.spec.seed,
    )
    said = _warnings_of(lambda: model.fit(features, problem.codes), ConvergenceWarning)
    iterations = int(np.max(model.n_iter_))
    notes = [_convergence_note(said[0], iterations, model.max_iter, scaled)] if said else []
    coef, intercept = _fold(model, scaler)
    return _Fit(_spread(coef, intercept, model.classes_, problem.n_classes), notes, iterations, scaled)


def _unit_norm(features: Floats) -> bool:
    """Say whether every row has norm 1; a zero row stays zero when it is normalised, so it counts too."""
    norms = np.sqrt(np.einsum("ij,ij->i", features, features))
    return bool(((np.abs(norms - 1) <= UNIT_NORM_TOLERANCE) | (norms == 0)).all())


def _warnings_of(action: Callable[[], object], category: type[Warning]) -> list[str]:
    """Run an action; return the texts of its warnings of one category, pass the others on."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    for warning in caught:
        if not issubclass(warning.category, category):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return [str(warning.message) for warning in caught if issubclass(warning.category, category)]


def _convergence_note(said: str, iterations: int, max_iter: int, scaled: bool) -> str:
    """Say that the solver stopped too early, and what to do."""
    if iterations >= max_iter:
        what, remedy = f"it stopped at max_iter={max_iter} (n_iter {iterations})", "raise max_iter"
    else:
        what, remedy = f"it gave up after n_iter {iterations} ({said.splitlines()[0]})", "lower C"
    also = "" if scaled else ", or standardise the features (scale 'standard')"
    return f"logreg did not converge: {what}; {remedy}{also}"


def _fold(model: LogisticRegression, scaler: StandardScaler | None) -> tuple[Floats, Floats]:
    """Return coefficients and intercepts on the raw features: w (x - m) / s + b = (w / s) x + b - w m / s."""
    coef, intercept = np.atleast_2d(model.coef_), np.broadcast_to(model.intercept_, len(model.coef_))
    if scaler is None:
        return coef, intercept.astype(coef.dtype)
    coef, intercept = coef.astype(np.float64), intercept.astype(np.float64)
    if scaler.scale_ is not None:
        coef = coef / scaler.scale_
    if scaler.with_mean:
        intercept = intercept - coef @ scaler.mean_
    return coef, intercept


def _spread(coef: Floats, intercept: Floats, present: Codes, n_classes: int) -> LinearHead:
    """Return a head over all classes from one fitted on those that had rows."""
    if len(present) == n_classes:
        return LinearHead(coef, intercept, "sigmoid" if n_classes == 2 else "softmax")
    if len(present) == 2:  # sigmoid(s) = softmax(0, s)
        coef = np.concatenate([np.zeros_like(coef), coef])
        intercept = np.concatenate([np.zeros_like(intercept), intercept])
    wide = np.zeros((n_classes, coef.shape[1]), dtype=coef.dtype)
    wide[present] = coef
    shifts = np.full(n_classes, -np.inf, dtype=intercept.dtype)
    shifts[present] = intercept
    return LinearHead(wide, shifts, "softmax")


def _fit_dummy(problem: _Problem) -> _Fit:
    """Take the classes' shares of the rows, or all of it for the most frequent."""
    counts = np.bincount(problem.codes, minlength=problem.n_classes)
    prior = counts / counts.sum()
    if problem.param("strategy") == "most_frequent":
        prior = np.eye(problem.n_classes)[counts.argmax()]
    return _Fit(ConstantHead(prior, problem.features.shape[1]))


@dataclass(frozen=True)
class _Kind:
    """A row of the table of heads."""

    description: str
    params: Mapping[str, _Param]
    fit: Callable[[_Problem], _Fit]
    weighted: bool


_TABLE: dict[str, _Kind] = {
    "logreg": _Kind(
        "logistic regression (L2, L-BFGS)",
        {
            "C": _Param(1.0, lambda v: _number(v) and v > 0, "a number above 0"),
            "fit_intercept": _Param(True, lambda v: isinstance(v, bool), "true or false"),
            "max_iter": _Param(
                1000, lambda v: isinstance(v, int) and not isinstance(v, bool) and v > 0, "an integer above 0"
            ),
            "tol": _Param(1e-4, lambda v: _number(v) and 0 < v < math.inf, "a number above 0"),
        },
        _fit_logreg,
        weighted=True,
    ),
    "dummy": _Kind(
        "always the most frequent label, whatever the text: the floor to beat",
        {
            "strategy": _Param("prior", lambda v: v in ("prior", "most_frequent"), "'prior' or 'most_frequent'"),
        },
        _fit_dummy,
        weighted=False,
    ),
}


# --- heads that scikit-learn fitted elsewhere ----------------------------------------------------------


def head_from_estimator(estimator: BaseEstimator) -> Head:
    """Return a fitted scikit-learn classifier as plain arrays.

    Parameters
    ----------
    estimator : sklearn estimator
        A fitted ``LogisticRegression``, ``DummyClassifier`` (strategy ``prior`` or ``most_frequent``),
        or a ``Pipeline`` of a ``StandardScaler`` and a ``LogisticRegression``. Subclasses may predict
        otherwise and are refused.

    Returns
    -------
    Head
        Its codes are positions in the estimator's ``classes_``.

    Raises
    ------
    UsageError
        If the estimator is another one, is not fitted, or knows fewer than two classes.
    """
    from sklearn.dummy import DummyClassifier
    from sklearn.exceptions import NotFittedError
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.utils.validation import check_is_fitted

    parts = [step for _, step in estimator.steps] if type(estimator) is Pipeline else [estimator]
    kinds = [type(part) for part in parts]
    try:
        for part, kind in zip(parts, kinds, strict=True):
            if kind in (StandardScaler, LogisticRegression, DummyClassifier):
                check_is_fitted(part)
    except NotFittedError:
        raise UsageError(f"the {type(estimator).__name__} is not fitted; call its fit first") from None
    if kinds in ([LogisticRegression], [StandardScaler, LogisticRegression]):
        coef, intercept = _fold(parts[-1], parts[0] if len(parts) == 2 else None)
        return _spread(coef, intercept, np.arange(len(parts[-1].classes_)), len(parts[-1].classes_))
    if kinds == [DummyClassifier] and parts[0].strategy in ("prior", "most_frequent"):
        return _constant_of(parts[0])
    raise UsageError(
        f"cannot save {' + '.join(kind.__name__ for kind in kinds)} as plain arrays; supported: "
        "LogisticRegression, a Pipeline of StandardScaler and LogisticRegression, "
        "DummyClassifier (prior, most_frequent)"
    )


def _constant_of(dummy: DummyClassifier) -> ConstantHead:
    """Return a fitted DummyClassifier as a head."""
    if dummy.n_outputs_ != 1 or len(dummy.classes_) < 2:
        raise UsageError("the DummyClassifier must know one output and two or more classes")
    prior = np.asarray(dummy.class_prior_, dtype=np.float64)
    if dummy.strategy == "most_frequent":
        prior = np.eye(len(prior))[prior.argmax()]
    return ConstantHead(prior, int(dummy.n_features_in_))
