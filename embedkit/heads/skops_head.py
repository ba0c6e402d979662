"""Heads that stay scikit-learn objects, saved by skops: without pickle, and of known types alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from embedkit.errors import ArtifactError, UsageError, require
from embedkit.heads.arrays import scores_of
from embedkit.heads.base import Arrays, Floats, State, check_features, require_probabilities

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
    """

    model: Any
    classes: int
    n_features: int
    multi_label: bool = False
    kind: ClassVar[str] = "skops"

    def __post_init__(self) -> None:
        if not (self.has_probabilities or hasattr(self.model, "decision_function")):
            raise UsageError(f"{type(self.model).__name__} gives neither probabilities nor scores")

    @property
    def has_probabilities(self) -> bool:
        """Whether the model gives them."""
        return hasattr(self.model, "predict_proba")

    def predict_proba(self, X: npt.ArrayLike) -> Floats:  # noqa: N803
        """Return the probabilities (N, C)."""
        require_probabilities(self.has_probabilities)
        features = check_features(X, n_features=self.n_features)
        if not len(features):
            return np.empty((0, self.classes))
        return self._spread(np.asarray(self.model.predict_proba(features), dtype=np.float64), 0.0)

    def decision_function(self, X: npt.ArrayLike) -> Floats:  # noqa: N803
        """Return the model's probabilities as log odds, or its scores where it has none."""
        features = check_features(X, n_features=self.n_features)
        if not len(features):
            return np.empty((0,) if self.classes == 2 and not self.multi_label else (0, self.classes))
        if self.has_probabilities:
            return scores_of(self.predict_proba(features), multi_label=self.multi_label)
        scores = np.asarray(self.model.decision_function(features), dtype=np.float64)
        if scores.ndim == 1 and self.classes > 2:
            scores = np.column_stack([-scores, scores])
        return scores if scores.ndim == 1 else self._spread(scores, -np.inf)

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
        if not len(features):
            return np.zeros((0, self.classes), bool) if self.multi_label else np.zeros(0, np.int64)
        return np.asarray(self.model.predict(features)).astype(bool if self.multi_label else np.int64)

    def state(self) -> State:
        """Return the description and the bytes of the file.

        Raises
        ------
        UsageError
            The model is made of types that are not trusted.
        """
        import sklearn

        described = {
            "kind": self.kind,
            "class": f"{type(self.model).__module__}.{type(self.model).__name__}",
            "classes": self.classes,
            "n_features": self.n_features,
            "multi_label": self.multi_label,
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
        return cls(model, described["classes"], described["n_features"], described["multi_label"])


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
        model = loads(data, trusted=list(TRUSTED))
    except Exception as error:  # a file that says one thing and holds another
        raise ArtifactError(f"{FILE} cannot be read: {type(error).__name__}") from None
    from sklearn.base import is_classifier

    if not is_classifier(model):
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
