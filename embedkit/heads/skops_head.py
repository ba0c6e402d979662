"""Heads that stay scikit-learn objects, saved by skops: without pickle, and of known types alone."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from embedkit.errors import ArtifactError, UsageError, require
from embedkit.heads.arrays import certain, scores_of
from embedkit.heads.base import Arrays, Floats, State, check_features, facts_of, require_probabilities
from embedkit.heads.threads import answer_limit
from embedkit.heads.trees import check_trees
from embedkit.runtime.decide import decide

FILE = "head.skops"
# What skops does not trust by itself and scikit-learn's classifiers are made of. None of them runs code that a
# file brings along; never read from the file.
TRUSTED = (
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.multiclass._ConstantPredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
)


@dataclass(frozen=True, eq=False)
class SkopsHead:
    """A fitted scikit-learn classifier.

    Parameters
    ----------
    model : scikit-learn classifier
        Fitted on codes, or on a matrix of 0 and 1 for several labels a row.
    classes : int
        C; codes that `model` never saw have probability 0.
    n_features : int
    multi_label : bool

    Raises
    ------
    UsageError
        The model gives neither probabilities nor a score for each class.
    ValueError
        What `model` knows does not fit `classes` and `n_features`.
    """

    model: Any
    classes: int
    n_features: int
    multi_label: bool = False
    kind: ClassVar[str] = "skops"

    def __post_init__(self) -> None:
        known = np.asarray(self.model.classes_)
        fit = known.shape == (self.classes,) or not self.multi_label
        if known.ndim != 1 or known.dtype.kind not in "iu" or not fit or not self._in_range(known):
            raise ValueError(f"a {self._name} that knows other classes than {self.classes} codes")
        if getattr(self.model, "n_features_in_", self.n_features) != self.n_features:
            raise ValueError(
                f"a {self._name} fitted on {self.model.n_features_in_} features, not {self.n_features}"
            )
        if self.has_probabilities:
            return
        last = _last(self.model)
        if not hasattr(last, "decision_function") and _of_labels(self.model) is None:
            raise UsageError(f"{self._name} gives neither probabilities nor scores")
        if getattr(last, "decision_function_shape", None) == "ovo":
            raise UsageError(f"{self._name} scores pairs of classes; set decision_function_shape to ovr")

    def _in_range(self, known: npt.NDArray[Any]) -> bool:
        return bool(known.size) and bool(known.min() >= 0) and bool(known.max() < self.classes)

    @property
    def _name(self) -> str:
        return type(_last(self.model)).__name__

    @property
    def has_probabilities(self) -> bool:
        """Whether the model gives them."""
        learnt = [label for label in _of_labels(self.model) or [self.model] if _constant(label) is None]
        return hasattr(learnt[0], "predict_proba")

    def predict_proba(self, X: npt.ArrayLike) -> Floats:  # noqa: N803
        """Return the probabilities (N, C)."""
        require_probabilities(self.has_probabilities)
        features = check_features(X, n_features=self.n_features)
        if not len(features):
            return np.empty((0, self.classes))
        return self._spread(self._asked("predict_proba", features), 0.0)

    def decision_function(self, X: npt.ArrayLike) -> Floats:  # noqa: N803
        """Return the model's probabilities as log odds, or its scores where it has none."""
        features = check_features(X, n_features=self.n_features)
        if not len(features):
            return np.empty((0,) if self.classes == 2 and not self.multi_label else (0, self.classes))
        if self.has_probabilities:
            scores = scores_of(self.predict_proba(features), multi_label=self.multi_label)
            return scores if scores.ndim == 1 else certain(scores, self._shares())
        scores = self._asked("decision_function", features)
        if scores.ndim == 1 and self.classes > 2:
            scores = np.column_stack([-scores, scores])
        return scores if scores.ndim == 1 else self._spread(scores, -np.inf)

    def _asked(self, method: str, features: Floats) -> Floats:
        """Return what the model answers, or for several labels each label's classifier.

        scikit-learn asks the first of these for what all can do, and that may be a constant.
        """
        labels = _of_labels(self.model)
        with answer_limit(features.size):
            if labels is None:
                return np.asarray(getattr(self.model, method)(features), dtype=np.float64)
            for _, step in getattr(self.model, "steps", [])[:-1]:
                features = step.transform(features)
            return np.column_stack([_column(label, method, features) for label in labels])

    def _shares(self) -> Floats:
        """Return 0 for what the model never saw, 1 for labels that it always saw, 0.5 for others (C,)."""
        shares = np.zeros(self.classes)
        shares[self.model.classes_] = 0.5
        for code, label in enumerate(_of_labels(self.model) or []):
            constant = _constant(label)
            shares[code] = 0.5 if constant is None else constant
        return shares

    def _spread(self, values: Floats, absent: float) -> Floats:
        """Put the columns of the classes that the model saw among all."""
        if self.multi_label or values.shape[1] == self.classes:
            return values
        wide = np.full((len(values), self.classes), absent)
        wide[:, self.model.classes_] = values
        return wide

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[Any]:  # noqa: N803
        """Return what the model answers: codes (N,), or bool (N, C)."""
        features = check_features(X, n_features=self.n_features)
        if self.multi_label:
            return decide(self.decision_function(features), multi_label=True)
        if not len(features):
            return np.zeros(0, np.int64)
        with answer_limit(features.size):
            return np.asarray(self.model.predict(features), dtype=np.int64)

    def state(self) -> State:
        """Return the description and the bytes of the file.

        Raises
        ------
        UsageError
            The model is made of types that are not trusted.
        """
        import sklearn

        described = {
            **facts_of(self),
            "class": f"{type(self.model).__module__}.{type(self.model).__name__}",
            "scikit-learn": sklearn.__version__,
        }
        return State(described, {FILE: np.frombuffer(dumped(self.model), dtype=np.uint8)})

    @classmethod
    def from_state(cls, described: Mapping[str, Any], arrays: Arrays) -> SkopsHead:
        """Read back what `state` gave.

        Raises
        ------
        ArtifactError
            The file holds types that are not trusted, or is no skops file.
        """
        require("skops", extra="train", purpose="this head, which is saved by skops,")
        _warn_of_version(str(described.get("scikit-learn")))
        model = _loaded(bytes(arrays[FILE]))
        check_trees(model, described["n_features"])
        return cls(model, described["classes"], described["n_features"], described["multi_label"])


def _last(model: Any) -> Any:  # noqa: ANN401 - scikit-learn's
    """Return the classifier itself of what may be a pipeline."""
    return model.steps[-1][1] if hasattr(model, "steps") else model


def _of_labels(model: Any) -> list[Any] | None:  # noqa: ANN401 - scikit-learn's
    """Return the classifiers of several labels a row, one each; None where there is one for all."""
    from sklearn.multiclass import OneVsRestClassifier

    last = _last(model)
    several = type(last) is OneVsRestClassifier and last.multilabel_
    return list(last.estimators_) if several else None


def _constant(label: Any) -> float | None:  # noqa: ANN401 - scikit-learn's
    """Return 0 or 1 for the classifier of a label that no or every training row had, else None."""
    return float(label.y_[0]) if type(label).__name__ == "_ConstantPredictor" else None


def _column(label: Any, method: str, features: Floats) -> Floats:  # noqa: ANN401 - scikit-learn's
    """Return the probability or score that each row has a label."""
    constant = _constant(label)
    if constant is not None:
        value = constant if method == "predict_proba" else (np.inf if constant else -np.inf)
        return np.full(len(features), value)
    values = np.asarray(getattr(label, method)(features), dtype=np.float64)
    return values[:, 1] if values.ndim == 2 else values


def dumped(model: object) -> bytes:
    """Return a fitted model as a skops file; raise `UsageError` where it could not be read back safely."""
    require("skops", extra="train", purpose=f"saving a {type(model).__name__} without pickle")
    from skops.io import dumps, get_untrusted_types  # type: ignore[import-untyped]

    try:
        data: bytes = dumps(model)
        strange = sorted(set(get_untrusted_types(data=data)) - set(TRUSTED))
    except Exception as error:  # skops raises whatever a type that it does not know gives
        raise UsageError(f"a {type(model).__name__} has no form without pickle: {type(error).__name__}") from None
    if strange:
        raise UsageError(
            f"a {type(model).__name__} has no safe form without pickle: it is made of {', '.join(strange)}, which "
            "embedkit does not trust; take another head"
        )
    return data


def _loaded(data: bytes) -> Any:  # noqa: ANN401 - a scikit-learn classifier
    from sklearn.base import BaseEstimator, is_classifier
    from sklearn.exceptions import InconsistentVersionWarning
    from skops.io import get_untrusted_types, loads

    try:
        strange = sorted(set(get_untrusted_types(data=data)) - set(TRUSTED))
    except Exception as error:  # a damaged zip, a schema that is none
        raise ArtifactError(f"{FILE} is damaged or no skops file: {type(error).__name__}") from None
    if strange:
        raise ArtifactError(
            f"{FILE} holds types that embedkit does not trust, so it is not opened: {', '.join(strange)}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InconsistentVersionWarning)  # `_warn_of_version` says it once
            model = loads(data, trusted=list(TRUSTED))
    except Exception as error:  # a file that says one thing and holds another
        raise ArtifactError(f"{FILE} cannot be read: {type(error).__name__}") from None
    if not (isinstance(model, BaseEstimator) and is_classifier(model)):
        raise ArtifactError(f"{FILE} holds a {type(model).__name__}, which is no classifier")
    return model


def _warn_of_version(written: str) -> None:
    """Say that another scikit-learn wrote the file; its answers may differ."""
    import logging

    import sklearn

    if written != sklearn.__version__:
        logging.getLogger("embedkit.heads").warning(
            "the head was saved with scikit-learn %s and is used with %s; its answers may differ: judge it again",
            written,
            sklearn.__version__,
        )
