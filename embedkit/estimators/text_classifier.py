"""What the classifiers with scikit-learn's face share: how they read y, and how they answer in its form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from embedkit.data import LabelCodec, class_counts, require_classes
from embedkit.errors import DataError, UsageError
from embedkit.estimators.inputs import Form, Targets, as_inputs, as_targets, as_weights
from embedkit.heads.fit import check_targets
from embedkit.runtime.tokens import Text


class TextClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier of texts or pairs that answers in y's form; `_codes_of` and `fit` are its own.

    Attributes
    ----------
    classes_ : ndarray, shape (C,)
        Labels, in y's dtype and in the order of `numpy.unique`, which scikit-learn's scorers take for granted (so
        "10" comes before "9"; an artifact that the command line wrote is put in this order too). Of an indicator
        the names or numbers of its columns, in their order.
    """

    classes_: NDArray[Any]
    random_state: int
    class_weight: Mapping[Any, float] | str | None

    def _codes_of(self, X: Any) -> NDArray[Any]:  # noqa: N803, ANN401
        """Return the codes of texts, shape (n,), or bool, shape (n, L); `NotFittedError` before `fit`."""
        raise NotImplementedError

    def _learn_labels(self, codec: LabelCodec, form: Form, dtype: str) -> None:
        """Be fitted on labels, and answer in the form that y had; `dtype` is that of an indicator."""
        self.classes_ = codec.decode(np.arange(len(codec)))
        self._order = np.arange(len(codec))  # of the columns of answers, in codes
        if form == "one":
            self.classes_, self._order = np.unique(self.classes_, return_index=True)
        self._codec, self._form, self._dtype = codec, form, dtype

    def predict(self, X: Any) -> Any:  # noqa: N803, ANN401 - in y's form
        """Return the labels of each text, in the form and dtype of y.

        Returns
        -------
        ndarray, shape (n,), or list of lists, or ndarray, shape (n, L)
            The most probable label, or the one that the threshold decides for; or a list of labels a text; or 0
            and 1 for each column of y.
        """
        codes = self._codes_of(X)
        if self._form == "one":
            return self._codec.decode(codes)
        return self._codec.decode_sets(codes) if self._form == "sets" else codes.astype(self._dtype)

    def _in_order(self, scores: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Return scores of codes in the order of `classes_`; (n,) above 0 then means the second."""
        if scores.ndim == 1:
            return scores if self._order[0] == 0 else -scores
        return scores[:, self._order] if scores.shape[1] == len(self._order) else scores

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:  # noqa: N803, ANN401
        """Return the share of rows whose label, or all of whose labels, are predicted right.

        Parameters
        ----------
        X, y
            As for `fit`; y in any form that says the same. A label that was not learnt counts as wrong.
        sample_weight : array-like of float, shape (n,), optional
            Weight of each row, from 0 up.
        """
        check_is_fitted(self, "classes_")
        if self._form == "one":
            return float(super().score(X, y, sample_weight))
        targets, codes = as_targets(y), self._codes_of(X)
        _check_as_many(len(codes), targets)
        right = targets.equal(self._codec, codes)
        return float(np.average(right, weights=as_weights(sample_weight, len(codes))))

    def _seed(self) -> int:
        """Return `random_state`, checked."""
        seed = self.random_state
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
            raise UsageError(f"random_state is {seed!r}; it must be an integer: the artifact says it")
        return int(seed)

    def _weights_by_name(self, codec: LabelCodec) -> Mapping[str, float] | str | None:
        """Return `class_weight` with labels as they are printed, also those that only equal one (1 for 1.0).

        Raises
        ------
        UsageError
            A label is unknown.
        """
        weights = self.class_weight
        if not isinstance(weights, Mapping):
            return weights
        named = {_name(codec, label): plain(weight) for label, weight in weights.items()}
        unknown = sorted(set(named) - set(codec.names))
        if unknown:
            raise UsageError(
                f"class_weight names unknown labels: {', '.join(unknown)}; known: {', '.join(codec.names)}"
            )
        return named

    def __sklearn_tags__(self) -> Any:  # noqa: ANN401 - scikit-learn's Tags
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.classifier_tags.multi_label = True
        return tags


def as_labelled(X: Any, y: Any) -> tuple[list[Text], Targets]:  # noqa: N803, ANN401 - any containers
    """Return X and y as they were understood, equally many; see `as_inputs` and `as_targets`."""
    inputs, targets = as_inputs(X), as_targets(y)
    _check_as_many(len(inputs), targets)
    return inputs, targets


def _check_as_many(rows: int, targets: Targets) -> None:
    if rows != len(targets.values):
        raise DataError(f"X has {rows:,} rows, y has {len(targets.values):,}; they must be equally many")


def check_learnable(codec: LabelCodec, codes: NDArray[Any]) -> None:
    """Raise `DataError` unless rows differ in their labels."""
    if codes.ndim == 1:
        require_classes(class_counts(codec.decode(codes)), "y")
    else:
        check_targets(codes, len(codes), codec.names)


def plain(value: Any) -> Any:  # noqa: ANN401 - any value
    """Return NumPy's numbers as Python's, which is what a grid of parameters means by them."""
    return value.item() if isinstance(value, np.generic) else value


def validation_share(given: Any) -> float | None:  # noqa: ANN401 - any value
    """Return the part of the rows that is held out, None for none; `UsageError` for what is no part."""
    share = plain(given)
    if share is None:
        return None
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        raise UsageError(f"validation_fraction is {share!r}; it must be above 0 and below 1, or None")
    return share


def mapping_in(about: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return what a manifest says under a name, where that is a mapping; else an empty one."""
    value = about.get(name)
    return value if isinstance(value, Mapping) else {}


def _name(codec: LabelCodec, label: Any) -> str:  # noqa: ANN401 - any label
    return codec.names[codec.classes.index(label)] if label in codec.classes else str(label)
