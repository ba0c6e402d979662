"""Fit a classical head on features with scikit-learn, and keep what it learnt as plain arrays."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedkit.errors import DataError, UsageError
from embedkit.heads.arrays import GaussianHead, KnnHead, MlpHead, certain
from embedkit.heads.base import Codes, Floats, Head, check_features
from embedkit.heads.hinge import squared_hinge
from embedkit.heads.linear import ConstantHead, LinearHead
from embedkit.heads.skops_head import SkopsHead
from embedkit.heads.spec import HeadSpec, check_class_names, row_weights, sklearn_model, takes_weights
from embedkit.heads.table import HEADS, layer_sizes
from embedkit.heads.threads import fit_limit
from embedkit.heads.wrapped import PerLabelHead

if TYPE_CHECKING:
    from sklearn.base import ClassifierMixin
    from sklearn.preprocessing import StandardScaler

UNIT_NORM_TOLERANCE = 1e-3
# Rows of norm 1 whose mean is almost as long point almost the same way: a penalty on the coefficients then hides
# what tells them apart. Mean-pooled vectors lie far above this spread, [CLS] of lower layers far below.
LEAST_SPREAD = 0.1
Matrix = npt.NDArray[np.bool_]


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
        Of the solver; 0 where there is none; for several labels a row the most of any label.
    scaled : bool
        Whether the features were standardised; the head carries that inside.
    """

    head: Head
    notes: list[str]
    seconds: float
    iterations: int
    scaled: bool


def fit_head(
    spec: HeadSpec,
    X: npt.ArrayLike,  # noqa: N803 - scikit-learn's name
    y: npt.ArrayLike,
    n_classes: int,
    *,
    names: Sequence[str] | None = None,
    sample_weight: npt.ArrayLike | None = None,
    threads: int | None = None,
) -> FittedHead:
    """Fit a head.

    Parameters
    ----------
    spec : HeadSpec
        Which one.
    X : array-like of float, shape (N, D)
        Features. float16 is fitted as float32.
    y : array-like of int, shape (N,), or of bool, shape (N, C)
        Class codes from 0 to `n_classes` - 1; or which labels each row has, any number of them.
    n_classes : int
        Number of classes or labels C. One without rows is never predicted, and a note says so.
    names : sequence of str, optional
        The label of each code, for messages and `HeadSpec.class_weight`. Default: the codes as strings.
    sample_weight : array-like of float, shape (N,), optional
        Weight of each row, from 0 up; a row of weight 0 is as if it were not there.
    threads : int, optional
        Threads of the linear algebra and of the trees. Default: one, and for trees on many features all cores
        (`embedkit.heads.threads`).

    Returns
    -------
    FittedHead
        The head and notes on its fit.

    Raises
    ------
    DataError
        For no rows, a single class, lengths that differ, codes out of range, weights below 0, or features that
        are not finite.
    UsageError
        If `HeadSpec.class_weight` names an unknown label, the head takes no weights, or `threads` is below 1.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1, not {threads}")
    labels = [str(code) for code in range(n_classes)] if names is None else list(names)
    check_class_names(spec.class_weight, labels)
    features = check_features(X)
    targets = check_targets(y, len(features), labels)
    weights = _check_weights(spec, sample_weight, len(features))
    if weights is not None and not weights.all():
        keep = weights > 0
        features, targets, weights = (
            features[keep],
            check_targets(targets[keep], int(keep.sum()), labels),
            weights[keep],
        )
    start = time.perf_counter()
    import_module("sklearn.preprocessing")  # or the limit misses the thread pools that come with it
    with fit_limit(features.size, threads):
        problem = _Problem.of(spec, features, targets, labels, weights)
        fit = _fit(problem)
    fit.notes.extend(_notes_on_labels(targets, labels))
    return FittedHead(fit.head, fit.notes, time.perf_counter() - start, fit.iterations, problem.scaler is not None)


def _notes_on_labels(targets: Codes | Matrix, labels: Sequence[str]) -> list[str]:
    """Say which labels cannot be learnt."""
    if targets.ndim == 1:
        counts = np.bincount(targets, minlength=len(labels))
        always = []
    else:
        counts = targets.sum(axis=0)
        always = [label for label, rows in zip(labels, counts.tolist(), strict=True) if rows == len(targets)]
    absent = [label for label, rows in zip(labels, counts.tolist(), strict=True) if not rows]
    notes = [f"never predicted, because no training row has them: {', '.join(absent)}"] if absent else []
    return notes + (
        [f"always predicted, because all training rows have them: {', '.join(always)}"] if always else []
    )


def check_targets(y: npt.ArrayLike, rows: int, labels: Sequence[str]) -> Codes | Matrix:
    """Return class codes or the matrix of labels, or say why nothing can be learnt from them."""
    targets = np.asarray(y)
    if rows == 0:
        raise DataError("0 rows: there is nothing to fit")
    if targets.ndim == 2 and targets.dtype == np.bool_:
        return _check_matrix(targets, rows, labels)
    if targets.shape != (rows,):
        raise DataError(f"{rows} rows of features, but class codes of shape {targets.shape}")
    if targets.dtype.kind not in "iu":
        raise DataError(f"class codes must be integers, not {targets.dtype}")
    wrong = np.flatnonzero((targets < 0) | (targets >= len(labels)))
    if len(wrong):
        raise DataError(f"code {targets[wrong[0]]} of row {wrong[0] + 1} is not one of {len(labels)} classes")
    if (targets == targets[0]).all():
        raise DataError(f"only one class ({labels[targets[0]]!r}, {rows} rows); a classifier needs two or more")
    return targets.astype(np.int64)


def _check_matrix(targets: Matrix, rows: int, labels: Sequence[str]) -> Matrix:
    if targets.shape != (rows, len(labels)):
        raise DataError(f"{rows} rows of features and {len(labels)} labels, but a matrix of shape {targets.shape}")
    if (targets == targets[:1]).all():
        raise DataError(f"all {rows} rows have the same labels; a classifier needs rows that differ")
    return targets


def _check_weights(spec: HeadSpec, sample_weight: npt.ArrayLike | None, rows: int) -> Floats | None:
    """Return the weights of rows, or say what is wrong with them."""
    if sample_weight is None:
        return None
    if not takes_weights(spec.clf):
        raise UsageError(f"{spec.clf} takes no sample_weight")
    weights = np.asarray(sample_weight, dtype=np.float64)
    if weights.shape != (rows,):
        raise DataError(f"{rows} rows, but sample_weight of shape {weights.shape}")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise DataError("sample_weight must be finite numbers from 0 up")
    return weights


# --- one classifier for all labels, or one for each -----------------------------------------------------


@dataclass(frozen=True)
class _Problem:
    """What a fit function gets.

    Attributes
    ----------
    raw : ndarray, shape (N, D)
        The features as they came.
    features : ndarray, shape (N, D)
        Standardised, where there is a `scaler`.
    targets : ndarray of int64 (N,), or of bool (N, C)
    weights : ndarray of float64, shape (N,), or None
        Class weights included, unless rows have several labels.
    unit : bool
        Whether the features have norm 1.
    """

    spec: HeadSpec
    raw: Floats
    features: Floats
    targets: npt.NDArray[Any]
    labels: Sequence[str]
    weights: Floats | None
    scaler: StandardScaler | None
    unit: bool

    @classmethod
    def of(
        cls,
        spec: HeadSpec,
        features: Floats,
        targets: npt.NDArray[Any],
        labels: Sequence[str],
        weights: Floats | None,
    ) -> _Problem:
        from sklearn.preprocessing import StandardScaler

        raw, unit = features, _unit_norm(features)
        scaler = None
        if spec.scale == "standard" or (spec.scale == "auto" and auto_scale(features) == "standard"):
            scaler = StandardScaler().fit(features, sample_weight=weights)
            features = scaler.transform(features)
        if targets.ndim == 1:
            weights = row_weights(spec.class_weight, targets, labels, weights)
        return cls(spec, raw, features, targets, labels, weights, scaler, unit)

    def of_label(self, code: int) -> _Problem:
        """Return the problem whether rows have one label."""
        spec, weight = self.spec, self.spec.class_weight
        if weight is not None and not isinstance(weight, str):
            given = {str(label): value for label, value in weight.items()}
            spec = replace(spec, class_weight={"1": given.get(self.labels[code], 1.0)})
        codes = self.targets[:, code].astype(np.int64)
        weights = row_weights(spec.class_weight, codes, ("0", "1"), self.weights)
        return replace(self, spec=spec, targets=codes, labels=("0", "1"), weights=weights)

    @property
    def classes(self) -> int:
        return len(self.labels)

    @property
    def mean(self) -> Floats:
        return np.zeros(self.features.shape[1]) if self.scaler is None else self.scaler.mean_

    @property
    def deviation(self) -> Floats:
        return np.ones(self.features.shape[1]) if self.scaler is None else self.scaler.scale_


@dataclass(frozen=True)
class _Fit:
    """What a fit function returns."""

    head: Head
    notes: list[str] = field(default_factory=list)
    iterations: int = 0


def auto_scale(features: Floats) -> str:
    """Return what `HeadSpec.scale` ``"auto"`` means for these rows: ``"none"`` or ``"standard"``."""
    return "none" if _unit_norm(features) and _spread_of(features) >= LEAST_SPREAD else "standard"


def _unit_norm(features: Floats) -> bool:
    """Say whether every row has norm 1; a zero row stays zero when it is normalised, so it counts too."""
    norms = np.sqrt(np.einsum("ij,ij->i", features, features))
    return bool(((np.abs(norms - 1) <= UNIT_NORM_TOLERANCE) | (norms == 0)).all())


def _spread_of(features: Floats) -> float:
    """Return the mean squared distance of unit rows to their mean, 1 - |mean|^2."""
    mean = features.mean(axis=0, dtype=np.float64)
    return float(1 - mean @ mean)


def _fit(problem: _Problem) -> _Fit:
    clf = problem.spec.clf
    function = _FITS.get(clf, _fit_sklearn)
    whole = clf in _OF_LABELS or clf not in _FITS
    if problem.targets.ndim == 1 or (whole and problem.classes > 1):  # scikit-learn has no matrix of one label
        return function(problem)
    fits = [_fit_label(function, problem, code) for code in range(problem.classes)]
    heads = [fit.head for fit in fits]
    notes = [f"{label}: {note}" for label, fit in zip(problem.labels, fits, strict=True) for note in fit.notes]
    iterations = max(fit.iterations for fit in fits)
    linear = [head for head in heads if isinstance(head, LinearHead)]
    if not linear:
        return _Fit(PerLabelHead(heads), notes, iterations)
    link = linear[0].link
    return _Fit(LinearHead.stacked([_as_linear(head, link) for head in heads]), notes, iterations)


def _fit_label(function: Callable[[_Problem], _Fit], problem: _Problem, code: int) -> _Fit:
    """Fit a head of two classes, or a constant where all rows are of one."""
    share = float(problem.targets[:, code].mean())
    if share in (0.0, 1.0):
        return _Fit(ConstantHead(np.array([1 - share, share]), problem.features.shape[1]))
    return function(problem.of_label(code))


def _as_linear(head: Head, link: str) -> LinearHead:
    if isinstance(head, LinearHead):
        return head
    assert isinstance(head, ConstantHead)
    shift = np.array([np.inf if head.prior[1] else -np.inf])
    return LinearHead(np.zeros((1, head.n_features)), shift, link, multi_label=True)


# --- the classifiers -----------------------------------------------------------------------------------


def _warnings_of(action: Callable[[], object], category: type[Warning]) -> list[str]:
    """Run an action; return the texts of its warnings of one category, pass the others on."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    for warning in caught:
        if not issubclass(warning.category, category):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return [str(warning.message) for warning in caught if issubclass(warning.category, category)]


def _fit_model(problem: _Problem, model: Any, *, weighted: bool = True) -> list[str]:  # noqa: ANN401
    """Fit a scikit-learn model on a problem; return what it says about convergence.

    Raises
    ------
    UsageError
        scikit-learn refuses the parameters, or these rows.
    """
    from sklearn.exceptions import ConvergenceWarning

    weights = {"sample_weight": problem.weights} if weighted and problem.weights is not None else {}
    targets = problem.targets.astype(np.int64)
    try:
        return _warnings_of(lambda: model.fit(problem.features, targets, **weights), ConvergenceWarning)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{problem.spec.clf} cannot be fitted: {_line(error)}") from error


def _line(error: Exception) -> str:
    """Return the first line of what scikit-learn says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _fit_logreg(problem: _Problem) -> _Fit:
    """Fit scikit-learn's L2-regularised logistic regression by L-BFGS."""
    from sklearn.linear_model import LogisticRegression

    if not problem.unit and problem.scaler is None:
        # float32 gradients are too coarse for columns of very different size; elsewhere they give the
        # same accuracy in half the time and without a copy
        problem = replace(problem, features=problem.features.astype(np.float64, copy=False))
    names = ("C", "tol", "max_iter", "fit_intercept")
    model = LogisticRegression(**_given(problem, names), random_state=problem.spec.seed)
    said = _fit_model(problem, model)
    iterations = int(np.max(model.n_iter_))
    notes = [_convergence_note(said[0], iterations, model.max_iter, problem.scaler is not None)] if said else []
    coef, intercept = fold(model, problem.scaler)
    return _Fit(spread(coef, intercept, model.classes_, problem.classes, "softmax"), notes, iterations)


def _given(problem: _Problem, names: Sequence[str]) -> dict[str, Any]:
    return {name: problem.spec.param(name) for name in names}


def _convergence_note(said: str, iterations: int, max_iter: int, scaled: bool) -> str:
    """Say that the solver stopped too early, and what to do."""
    if iterations >= max_iter:
        what, remedy = f"it stopped at max_iter={max_iter} (n_iter {iterations})", "raise max_iter"
    else:
        what, remedy = f"it gave up after n_iter {iterations} ({said.splitlines()[0]})", "lower C"
    also = "" if scaled else ", or standardise the features (scale 'standard')"
    return f"logreg did not converge: {what}; {remedy}{also}"


def _fit_ridge(problem: _Problem) -> _Fit:
    """Fit scikit-learn's ridge regression on labels of -1 and 1.

    In float64: features of lower layers are so nearly collinear that a small penalty leaves nothing of float32.
    """
    from sklearn.linear_model import RidgeClassifier

    problem = replace(problem, features=problem.features.astype(np.float64, copy=False))
    model = RidgeClassifier(**_given(problem, ("alpha", "fit_intercept")))
    notes = _fit_model(problem, model)
    coef, intercept = fold(model, problem.scaler)
    return _Fit(spread(coef, intercept, model.classes_, problem.classes, "none"), notes)


def _fit_linear_svm(problem: _Problem) -> _Fit:
    """Fit linear support vectors with the squared hinge loss, one class against the rest."""
    spec, names = problem.spec, ("C", "tol", "max_iter", "fit_intercept")
    present = np.unique(problem.targets)
    against = present[1:] if len(present) == 2 else present
    fits = [
        squared_hinge(problem.features, problem.targets == code, problem.weights, **_given(problem, names))
        for code in against
    ]
    coef, intercept = np.stack([fit.coef for fit in fits]), np.array([fit.intercept for fit in fits])
    coef, intercept = unscaled(coef, intercept, problem.scaler)
    slow = any(not fit.converged for fit in fits)
    notes = (
        [f"linear-svm did not converge in max_iter={spec.param('max_iter')}; lower C or raise max_iter"]
        if slow
        else []
    )
    iterations = max(fit.iterations for fit in fits)
    return _Fit(spread(coef, intercept, present, problem.classes, "none"), notes, iterations)


def _fit_lda(problem: _Problem) -> _Fit:
    """Fit linear discriminant analysis with a shrunk covariance, by least squares."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=problem.spec.param("shrinkage"))
    notes = _fit_model(problem, model, weighted=False)
    coef, intercept = fold(model, problem.scaler)
    return _Fit(spread(coef, intercept, model.classes_, problem.classes, "softmax"), notes)


def _fit_centroid(problem: _Problem) -> _Fit:
    """Take each class's mean c; |x - c|^2 is least where 2 x c - |c|^2 is greatest, which is linear in x."""
    present = np.unique(problem.targets)
    features = problem.features.astype(np.float64, copy=False)
    rows = [problem.targets == code for code in present]
    weights = problem.weights
    means = np.stack(
        [np.average(features[row], axis=0, weights=None if weights is None else weights[row]) for row in rows]
    )
    coef, intercept = 2 * means, -np.einsum("ij,ij->i", means, means)
    if len(present) == 2:
        coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
    coef = coef / problem.deviation
    return _Fit(spread(coef, intercept - coef @ problem.mean, present, problem.classes, "none"))


def fold(model: Any, scaler: StandardScaler | None) -> tuple[Floats, Floats]:  # noqa: ANN401 - a linear model
    """Return coefficients and intercepts on the raw features: w (x - m) / s + b = (w / s) x + b - w m / s."""
    coef, intercept = (
        np.atleast_2d(model.coef_),
        np.broadcast_to(model.intercept_, len(np.atleast_2d(model.coef_))),
    )
    return unscaled(coef, intercept, scaler)


def unscaled(coef: Floats, intercept: Floats, scaler: StandardScaler | None) -> tuple[Floats, Floats]:
    """Return coefficients and intercepts on the raw features."""
    if scaler is None:
        return coef, intercept.astype(coef.dtype)
    coef, intercept = coef.astype(np.float64), intercept.astype(np.float64)
    if scaler.scale_ is not None:
        coef = coef / scaler.scale_
    if scaler.with_mean:
        intercept = intercept - coef @ scaler.mean_
    return coef, intercept


def spread(coef: Floats, intercept: Floats, present: Codes, n_classes: int, link: str) -> LinearHead:
    """Return a head over all classes from one fitted on those that had rows; `link` is none or softmax."""
    if len(present) == n_classes:
        return LinearHead(coef, intercept, "sigmoid" if n_classes == 2 and link == "softmax" else link)
    if len(present) == 2:  # sigmoid(s) = softmax(0, s); of margins -s and s
        other = -1 if link == "none" else 0
        coef, intercept = np.concatenate([other * coef, coef]), np.concatenate([other * intercept, intercept])
    wide = np.zeros((n_classes, coef.shape[1]), dtype=coef.dtype)
    wide[present] = coef
    shifts = np.full(n_classes, -np.inf, dtype=intercept.dtype)
    shifts[present] = intercept
    return LinearHead(wide, shifts, link)


def _indicators(problem: _Problem) -> Matrix:
    """Return which classes or labels each row has, (N, C)."""
    if problem.targets.ndim == 2:
        return problem.targets
    return np.asarray(problem.targets[:, None] == np.arange(problem.classes))


def _fit_knn(problem: _Problem) -> _Fit:
    """Keep the training rows."""
    rows, asked = len(problem.features), problem.spec.param("n_neighbors")
    k = min(asked, rows)
    few = k < asked and "n_neighbors" in problem.spec.params
    notes = [f"n_neighbors is {k} instead of {asked}: there are {rows} rows"] if few else []
    several = problem.targets.ndim == 2
    weights = problem.spec.param("weights")
    parts = (problem.raw, _indicators(problem), problem.mean, problem.deviation)
    return _Fit(KnnHead(*parts, k, weights, several), notes)


def _fit_naive_bayes(problem: _Problem) -> _Fit:
    """Fit scikit-learn's Gaussian naive Bayes."""
    from sklearn.naive_bayes import GaussianNB

    model = GaussianNB(var_smoothing=problem.spec.param("var_smoothing"))
    notes = _fit_model(replace(problem, features=problem.features.astype(np.float64, copy=False)), model)
    shape = (problem.classes, problem.features.shape[1])
    mean, variance, prior = np.zeros(shape), np.ones(shape), np.full(problem.classes, -np.inf)
    mean[model.classes_] = model.theta_ * problem.deviation + problem.mean
    # no variance is 0, nor so small that dividing by it could overflow
    variance[model.classes_] = np.maximum(model.var_ * problem.deviation**2, np.finfo(float).tiny ** 0.5)
    prior[model.classes_] = np.log(model.class_prior_)
    return _Fit(GaussianHead(mean, variance, prior), notes)


def _refuse_weights(problem: _Problem) -> None:
    if problem.weights is not None or problem.spec.class_weight is not None:
        raise UsageError(
            f"{problem.spec.clf} takes no weights where rows have several labels; take logreg, ridge or linear-svm"
        )


def _fit_mlp(problem: _Problem) -> _Fit:
    """Fit scikit-learn's network by Adam; from 1,000 rows on it stops early on a tenth of them."""
    from sklearn.neural_network import MLPClassifier

    spec, several = problem.spec, problem.targets.ndim == 2
    if several:
        _refuse_weights(problem)
    early = spec.param("early_stopping")
    if early is None:
        early = len(problem.features) >= 1000 and int(_indicators(problem).sum(axis=0).min()) >= 10
    model = MLPClassifier(
        hidden_layer_sizes=layer_sizes(spec.param("hidden_layer_sizes")),
        early_stopping=early,
        random_state=spec.seed,
        **_given(problem, ("alpha", "learning_rate_init", "max_iter")),
    )
    said = _fit_model(problem, model)
    notes = [f"mlp did not converge in max_iter={model.max_iter}; raise max_iter"] if said else []
    return _Fit(MlpHead(_layers(problem, model), "relu", several), notes, int(model.n_iter_))


def _layers(problem: _Problem, model: Any) -> list[tuple[Floats, Floats]]:  # noqa: ANN401 - an MLPClassifier
    """Return the layers, the scaler folded into the first, the last made certain of what cannot be learnt."""
    layers = list(zip(model.coefs_, model.intercepts_, strict=True))
    weights, bias = layers[0]
    if problem.scaler is not None:
        weights = weights.astype(np.float64) / problem.deviation[:, None]
        layers[0] = weights, bias - problem.mean @ weights
    if problem.targets.ndim == 1 and len(model.classes_) < problem.classes:
        last, bias = layers[-1]
        wide = spread(last.T, bias, model.classes_, problem.classes, "softmax")
        layers[-1] = wide.coef.T, wide.intercept
    if problem.targets.ndim == 2:
        last, bias = layers[-1]
        layers[-1] = last, certain(bias, problem.targets.mean(axis=0)).astype(bias.dtype)
    return layers


def _fit_hist_gb(problem: _Problem) -> _Fit:
    """Fit scikit-learn's histogram gradient boosting."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(random_state=problem.spec.seed, **dict(problem.spec.params))
    return _fit_object(problem, model)


def _fit_sklearn(problem: _Problem) -> _Fit:
    """Fit the class of scikit-learn that is named."""
    params = problem.spec.params
    model = sklearn_model(problem.spec.clf, params)
    if "random_state" in model.get_params() and "random_state" not in params:
        model.set_params(random_state=problem.spec.seed)
    fit = _fit_object(problem, model)
    try:  # some say only when they are asked that, for one, there are fewer rows than neighbours
        fit.head.decision_function(problem.raw[:1])
    except (TypeError, ValueError) as error:
        raise UsageError(f"{problem.spec.clf}: {_line(error)}") from error
    return fit


def _fit_object(problem: _Problem, model: ClassifierMixin) -> _Fit:
    """Fit a model that stays an object: behind the scaler, and for several labels once for each."""
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline

    several = problem.targets.ndim == 2
    if several:
        _refuse_weights(problem)
        model = OneVsRestClassifier(model)
    with warnings.catch_warnings():  # of labels that no row or every row has; `fit_head` says it in its own words
        warnings.filterwarnings("ignore", "Label (not )?.* is present in all training examples", UserWarning)
        notes = [f"{problem.spec.clf}: {said.splitlines()[0]}" for said in _fit_model(problem, model)]
    if problem.scaler is not None:
        model = make_pipeline(problem.scaler, model)
    return _Fit(SkopsHead(model, problem.classes, problem.features.shape[1], several), notes)


def _fit_dummy(problem: _Problem) -> _Fit:
    """Take the classes' shares of the rows, or all of it for the most frequent."""
    shares = np.average(_indicators(problem), axis=0, weights=problem.weights)
    several = problem.targets.ndim == 2
    if problem.spec.param("strategy") == "most_frequent":
        shares = (shares > 0.5).astype(float) if several else np.eye(problem.classes)[shares.argmax()]
    elif not several:
        shares = shares / shares.sum()
    return _Fit(ConstantHead(shares, problem.features.shape[1], several))


_FITS: dict[str, Callable[[_Problem], _Fit]] = {
    "logreg": _fit_logreg,
    "ridge": _fit_ridge,
    "linear-svm": _fit_linear_svm,
    "knn": _fit_knn,
    "centroid": _fit_centroid,
    "lda": _fit_lda,
    "naive-bayes": _fit_naive_bayes,
    "mlp": _fit_mlp,
    "hist-gb": _fit_hist_gb,
    "dummy": _fit_dummy,
}
_OF_LABELS = frozenset({"knn", "mlp", "hist-gb", "dummy"})  # learn several labels a row by themselves
assert _FITS.keys() == HEADS.keys()
