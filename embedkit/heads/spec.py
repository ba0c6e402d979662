"""What head to fit, checked before any text is encoded."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from math import inf
from numbers import Integral
from typing import Any

import numpy as np

from embedkit.errors import UsageError
from embedkit.heads.base import Codes, Floats
from embedkit.heads.table import HEADS, SKLEARN, available, is_number

ClassWeight = Mapping[str, float] | str | None
_UNMOVED = ("dummy", "centroid")  # by weights of classes, or only in their shares


@dataclass(frozen=True)
class HeadSpec:
    """Which head to fit, and how; checked when it is made, so before any text is encoded.

    Parameters
    ----------
    clf : str
        A name of `available`, or ``sklearn:package.Class``.
    scale : {"auto", "none", "standard"}
        Whether features are standardised first. ``"auto"``: unless every row has norm 1 and they point in
        different directions (`embedkit.heads.fit.LEAST_SPREAD`).
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
        if self.clf not in HEADS and not str(self.clf).startswith(SKLEARN):
            raise UsageError(f"unknown head {self.clf!r}; available: {', '.join(available())}")
        if self.scale not in ("auto", "none", "standard"):
            raise UsageError(f"scale must be auto, none or standard, not {self.scale!r}")
        if not _is_seed(self.seed):
            raise UsageError(f"seed must be an integer from 0 to 4294967295, not {self.seed!r}")
        for name, value in self.params.items():
            self._check_param(name, value)
        if self.clf not in HEADS:
            sklearn_model(self.clf, self.params)
        _check_class_weight(self.clf, self.class_weight)

    def _check_param(self, name: str, value: object) -> None:
        """Refuse a parameter that the classifier does not have, or a value that it does not take."""
        known = params_of(self.clf)
        if name not in known:
            raise UsageError(f"{self.clf} has no parameter {name!r}; allowed: {', '.join(known) or 'none'}")
        if self.clf in HEADS and not HEADS[self.clf].params[name].accepts(value):
            allowed = HEADS[self.clf].params[name].allowed
            raise UsageError(f"{self.clf}: {name} must be {allowed}, not {value!r}")

    def param(self, name: str) -> Any:  # noqa: ANN401 - the table says what each one is
        """Return a parameter's value or its default."""
        return self.params.get(name, HEADS[self.clf].params[name].default)


def _is_seed(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, Integral) and 0 <= int(value) < 2**32


def params_of(clf: str) -> list[str]:
    """Return the names of the parameters of a head."""
    if clf in HEADS:
        return list(HEADS[clf].params)
    return list(inspect.signature(sklearn_class(clf)).parameters)


def takes_weights(clf: str) -> bool:
    """Say whether a head lets rows weigh differently."""
    if clf in HEADS:
        return HEADS[clf].weighted
    return "sample_weight" in inspect.signature(sklearn_class(clf).fit).parameters


def gives_probabilities(clf: str) -> bool:
    """Say whether a head, fitted, will have probabilities; a name that is none is taken to."""
    if clf in HEADS:
        return HEADS[clf].probabilities
    with suppress(UsageError):
        return hasattr(sklearn_class(clf), "predict_proba")
    return True


def sklearn_class(clf: str) -> Any:  # noqa: ANN401 - a class of scikit-learn
    """Return the class that ``sklearn:package.Class`` names.

    Raises
    ------
    UsageError
        There is no such class, it is no classifier, or it is not of scikit-learn.
    """
    from sklearn.base import BaseEstimator, ClassifierMixin

    module, _, name = clf.removeprefix(SKLEARN).removeprefix("sklearn.").partition(".")
    found = None
    if all(part.isidentifier() and not part.startswith("_") for part in (module, name)):
        with suppress(ImportError):
            found = getattr(import_module(f"sklearn.{module}"), name, None)
    known = inspect.isclass(found) and issubclass(found, BaseEstimator) and issubclass(found, ClassifierMixin)
    if found is None or not known or not found.__module__.startswith("sklearn."):
        raise UsageError(f"{clf!r} names no classifier of scikit-learn; an example is sklearn:svm.SVC")
    return found


def sklearn_model(clf: str, params: Mapping[str, Any]) -> Any:  # noqa: ANN401 - a classifier of scikit-learn
    """Return an unfitted object of the class that is named; `UsageError` where it needs more than `params`."""
    try:
        return sklearn_class(clf)(**params)
    except TypeError as error:
        raise UsageError(f"{clf}: {error}") from None


def _check_class_weight(clf: str, class_weight: ClassWeight) -> None:
    """Refuse what is no class weight, and any for a head that would ignore it."""
    if class_weight is None:
        return
    if clf in _UNMOVED or not takes_weights(clf):
        others = ", ".join(name for name, kind in HEADS.items() if kind.weighted and name not in _UNMOVED)
        raise UsageError(f"{clf} takes no class_weight; leave it out, or take {others}")
    if isinstance(class_weight, Mapping):
        wrong = [label for label, weight in class_weight.items() if not (is_number(weight) and 0 < weight < inf)]
        if wrong:
            raise UsageError(f"class_weight must be positive numbers; it is not for {', '.join(map(str, wrong))}")
    elif class_weight != "balanced":
        raise UsageError(f"class_weight must be None, 'balanced' or a mapping, not {class_weight!r}")


def check_class_names(class_weight: ClassWeight, labels: Sequence[str]) -> None:
    """Refuse a class weight for a label that there is not."""
    if isinstance(class_weight, Mapping):
        unknown = [str(label) for label in class_weight if str(label) not in labels]
        if unknown:
            known = ", ".join(labels)
            raise UsageError(f"class_weight names unknown labels: {', '.join(unknown)}; known: {known}")


def row_weights(
    class_weight: ClassWeight, codes: Codes, labels: Sequence[str], sample_weight: Floats | None
) -> Floats | None:
    """Return the weight of each row; None where all weigh the same.

    ``"balanced"`` gives each class that has rows the same total, and all rows together the total that they had
    (scikit-learn's rule).
    """
    if class_weight is None:
        return sample_weight
    rows = np.ones(len(codes)) if sample_weight is None else sample_weight
    if isinstance(class_weight, Mapping):
        given = {str(label): weight for label, weight in class_weight.items()}
        return np.asarray(rows * np.array([given.get(label, 1.0) for label in labels])[codes])
    totals = np.bincount(codes, weights=rows, minlength=len(labels))
    present = int((totals > 0).sum())
    factors = np.divide(totals.sum(), present * totals, out=np.zeros(len(labels)), where=totals > 0)
    return np.asarray(rows * factors[codes])


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
    return {name: values[0] for name, values in parse_grid(texts, several=False).items()}


def parse_grid(texts: Sequence[str], *, several: bool = True) -> dict[str, tuple[Any, ...]]:
    """Read parameters written as ``name=value`` or, where several are taken, ``name=value,value``.

    Examples
    --------
    >>> parse_grid(["C=0.1,1", "weights=distance"])
    {'C': (0.1, 1), 'weights': ('distance',)}
    """
    params: dict[str, tuple[Any, ...]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not name or not equals:
            raise UsageError(f"a parameter is written name=value, not {text!r}")
        if name in params:
            raise UsageError(f"the parameter {name!r} is given twice")
        params[name] = tuple(_literal(part.strip()) for part in (value.split(",") if several else [value]))
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
