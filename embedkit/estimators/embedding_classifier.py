"""`EmbeddingClassifier`: frozen features and a classical head as one scikit-learn classifier."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from embedkit.artifact import staged
from embedkit.data import LabelCodec, groups_of
from embedkit.encoders.settings import Engine
from embedkit.errors import UsageError
from embedkit.estimators.explain import Explanation, explain_text
from embedkit.estimators.frozen import (
    FrozenClassifier,
    check_encoder_stays,
    exact_settings,
    head_params,
    head_settings,
    load_frozen,
)
from embedkit.estimators.inputs import Form, Targets, as_weights, indicator_form
from embedkit.estimators.own_head import OwnHead, check_own_head, fit_own_head
from embedkit.estimators.text_classifier import TextClassifier, as_labelled, check_learnable, plain
from embedkit.estimators.text_encoder import TextEncoder
from embedkit.heads import Decision, Head, HeadSpec, fit_decided, head_from_estimator
from embedkit.heads.spec import gives_probabilities, takes_weights
from embedkit.heads.table import HEADS
from embedkit.runtime.decide import Thresholds
from embedkit.runtime.tokens import Text

# What heads of one's own know nothing of, and what each is where it was not given.
_OF_NAMED_HEADS = {
    "scale": "auto",
    "class_weight": None,
    "head_params": None,
    "calibrate": False,
    "thresholds": None,
    "positive_label": None,
}


def _answers(method: str) -> Callable[[EmbeddingClassifier], bool]:
    """Return a check whether the head answers a method: scorers choose by what is there."""

    def check(classifier: EmbeddingClassifier) -> bool:
        head = getattr(classifier, "head_", classifier.head)
        if isinstance(head, BaseEstimator) or not (isinstance(head, str) or hasattr(head, "has_probabilities")):
            return hasattr(head, method)
        if method != "predict_proba" or classifier.calibrate is True:
            return True
        return gives_probabilities(head) if isinstance(head, str) else bool(head.has_probabilities)

    return check


class EmbeddingClassifier(TextClassifier):
    """Frozen transformer features with a classical head.

    Parameters
    ----------
    encoder : str, Path or TextEncoder, default "minilm"
        A model, or an encoder with more to say.
    head : str or scikit-learn classifier, default "logreg"
        A name of `embedkit.heads.available`, or an unfitted classifier that is cloned.
    scale : {"auto", "none", "standard"}, default "auto"
        Whether features are standardised for a head by name; auto: unless they have norm 1 and differ in where
        they point.
    class_weight : None, "balanced" or mapping of label to weight
        For a head by name.
    head_params : mapping, optional
        Parameters of a head by name, such as ``{"C": 0.5}``.
    random_state : int, default 42
        Of a head by name; kept in the artifact.
    calibrate : bool, default False
        Whether the scores of a head by name become calibrated probabilities, learnt out of fold.
    thresholds : {"f1", "accuracy", "balanced-accuracy", "macro-f1", "mcc"}, optional
        For two classes, or several labels a row, of a head by name: the metric for which cuts are tuned, out of
        fold, that decide instead of the most probable class. Probabilities stay what they are.
    positive_label : label, optional
        Of two classes the one that the threshold is for; "f1" needs it.

    Attributes
    ----------
    classes_ : ndarray, shape (C,)
        Labels, in y's dtype and in the order of `numpy.unique`, which scikit-learn's scorers take for granted
        (so "10" comes before "9"; an artifact that the command line wrote is put in this order too). Of an
        indicator the names or numbers of its columns, in their order.
    encoder_ : TextEncoder
    head_ : Head or scikit-learn classifier
        Fitted on codes from 0 to C - 1.
    notes_ : list of str
        What is worth knowing of the fit: texts that were cut off, a solver that did not converge (which is
        also warned of as scikit-learn's ConvergenceWarning).

    Notes
    -----
    Where a row has several labels: scikit-learn's splitters and scorers know indicators, not lists of labels; for
    lists give them ``cv=KFold(...)``, and let `score` judge. Its log loss is for one label a row.

    Examples
    --------
    >>> classifier = EmbeddingClassifier("minilm", head_params={"C": 0.5})
    >>> classifier.fit(["good", "great", "bad", "poor"], [1, 1, 0, 0]).predict(["fine"])  # doctest: +SKIP
    array([1])
    """

    def __init__(
        self,
        encoder: str | Path | TextEncoder = "minilm",
        head: Any = "logreg",  # noqa: ANN401 - a name or any classifier
        *,
        scale: str = "auto",
        class_weight: Mapping[Any, float] | str | None = None,
        head_params: Mapping[str, Any] | None = None,
        random_state: int = 42,
        calibrate: bool = False,
        thresholds: str | None = None,
        positive_label: Any = None,  # noqa: ANN401 - a label
    ) -> None:
        self.encoder = encoder
        self.head = head
        self.scale = scale
        self.class_weight = class_weight
        self.head_params = head_params
        self.random_state = random_state
        self.calibrate = calibrate
        self.thresholds = thresholds
        self.positive_label = positive_label

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters; `deep` adds those of the encoder and of the head, also where they are names.

        ``head__C`` of a head by name is the entry ``C`` of `head_params`, else the default.
        """
        params: dict[str, Any] = super().get_params(deep=deep)
        if deep and isinstance(self.encoder, str | Path):
            params |= {f"encoder__{name}": value for name, value in TextEncoder(self.encoder).get_params().items()}
        if deep and isinstance(self.head, str):
            table = HEADS[self.head].params if self.head in HEADS else {}
            given = self.head_params if isinstance(self.head_params, Mapping) else {}
            params |= {f"head__{name}": param.default for name, param in table.items()}
            params |= {f"head__{name}": value for name, value in given.items()}
        return params

    def set_params(self, **params: Any) -> EmbeddingClassifier:  # noqa: ANN401 - as scikit-learn has it
        """Set parameters, those of the encoder as ``encoder__...`` and of the head as ``head__...``.

        An encoder by name becomes a `TextEncoder`. ``head__C`` of a head by name is the entry ``C`` of
        `head_params`, which is not changed but replaced.

        Raises
        ------
        ValueError
            There is no such parameter.
        """
        super().set_params(**{name: value for name, value in params.items() if "__" not in name})
        nested = {name: value for name, value in params.items() if "__" in name}
        if isinstance(self.encoder, str | Path):
            given = _of("encoder__", nested)
            self.encoder = TextEncoder(self.encoder).set_params(**given) if given else self.encoder
        if isinstance(self.head, str):
            given = _of("head__", nested)
            self.head_params = {**(self.head_params or {}), **given} if given else self.head_params
        super().set_params(**nested)
        return self

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> EmbeddingClassifier:  # noqa: N803, ANN401
        """Encode texts (what the store lacks) and fit the head.

        Parameters
        ----------
        X : list, array or Series of str, or of pairs; n of them
            Texts.
        y : list, array or Series of n labels, or of n lists of labels; or array or DataFrame, shape (n, L)
            Strings, integers, booleans or whole floats. Lists hold any number of labels, also none; of an array
            or DataFrame each column is a label that rows have (1) or have not (0).
        sample_weight : array-like of float, shape (n,), optional
            Weight of each row, from 0 up.

        Returns
        -------
        EmbeddingClassifier
            Itself.

        Raises
        ------
        DataError
            Lengths differ, a row is no text or has no label, a weight is none, or there is only one class. All
            before anything is encoded.
        UsageError
            A parameter is not allowed. Before anything is encoded.
        """
        inputs, targets = as_labelled(X, y)
        weights = as_weights(sample_weight, len(inputs))
        codec = targets.codec()
        codes = targets.encode(codec)
        weighing = slice(None) if weights is None else np.flatnonzero(weights)
        check_learnable(codec, codes[weighing])
        spec = self._spec(codec, weighted=weights is not None)
        decision = self._decision(codec, several=targets.several)
        encoder = self._encoder_for(inputs, codes, weights)
        features = _array(encoder.fit_transform(inputs))
        notes, thresholds = encoder._open().remarks(encoder.extraction_), None
        if spec is None:
            self.head_ = fit_own_head(self.head, features, codes, weights)
        else:
            decided = fit_decided(
                spec,
                decision,
                features[weighing],
                codes[weighing],
                codec.names,
                groups=groups_of(inputs)[weighing],
                sample_weight=None if weights is None else weights[weighing],
            )
            self.head_, thresholds = decided.fitted.head, decided.thresholds
            notes += _said(decided.fitted.notes)
        about = {"head_settings": self._head_settings(spec, targets), "seed": int(self.random_state)}
        return self._adopt(encoder, codec, notes, about, thresholds, targets.form, targets.dtype)

    def _encoder_for(
        self, inputs: list[Text], codes: NDArray[Any], weights: NDArray[np.float64] | None
    ) -> TextEncoder:
        """Return what makes features; here it is the same whatever is learnt."""
        return self._new_encoder()

    def _new_encoder(self) -> TextEncoder:
        if isinstance(self.encoder, str | Path):
            return TextEncoder(self.encoder)
        if not isinstance(self.encoder, TextEncoder):
            raise UsageError(f"encoder is {self.encoder!r}; give a model's name, its folder, or a TextEncoder")
        encoder: TextEncoder = clone(self.encoder)
        return encoder

    def _adopt(
        self,
        encoder: TextEncoder,
        codec: LabelCodec,
        notes: list[str],
        about: Mapping[str, Any],
        thresholds: Thresholds | None = None,
        form: Form = "one",
        dtype: str = "",
    ) -> EmbeddingClassifier:
        """Be fitted with this encoder and `head_`, and answer in y's form."""
        self.encoder_ = encoder
        self.notes_ = notes
        self._thresholds, self._about = thresholds, dict(about)
        self._learn_labels(codec, form, dtype)
        return self

    def _spec(self, codec: LabelCodec, *, weighted: bool) -> HeadSpec | None:
        """Return the head to fit; None for one of the user's own."""
        seed = self._seed()
        if not isinstance(self.head, str):
            check_own_head(self.head, weighted=weighted)
            self._check_nothing_is_ignored()
            return None
        params = {name: plain(value) for name, value in dict(self.head_params or {}).items()}
        spec = HeadSpec(self.head, self.scale, self._weights_by_name(codec), params, seed)
        if weighted and not takes_weights(self.head):
            raise UsageError(f"sample_weight was given, but {self.head} takes none; take a head that does")
        return spec

    def _check_nothing_is_ignored(self) -> None:
        """Refuse what is for heads by name."""
        given = {name: getattr(self, name) for name in _OF_NAMED_HEADS}
        ignored = [name for name, value in given.items() if value and value != _OF_NAMED_HEADS[name]]
        if ignored:
            raise UsageError(
                f"{', '.join(ignored)} is for a head by name; give it to the {type(self.head).__name__} itself"
            )

    def _decision(self, codec: LabelCodec, *, several: bool) -> Decision:
        """Return what is learnt out of fold, checked."""
        if not isinstance(self.calibrate, bool | np.bool_):
            raise UsageError(f"calibrate is {self.calibrate!r}; it must be True or False")
        positive = None
        if self.positive_label is not None:
            if several or len(codec) != 2 or self.positive_label not in codec.classes:
                raise UsageError(
                    f"positive_label is {self.positive_label!r}; it must be one of two classes: "
                    f"{', '.join(codec.names)}"
                )
            positive = codec.classes.index(self.positive_label)
        decision = Decision(bool(self.calibrate), self.thresholds, positive, seed=int(self.random_state))
        decision.check(len(codec), multi_label=several)
        return decision

    def _head_settings(self, spec: HeadSpec | None, targets: Targets) -> dict[str, Any]:
        form = {"indicator": targets.dtype} if targets.form == "indicator" else {}
        if spec is None:
            return {"clf": f"{type(self.head).__module__}.{type(self.head).__name__}", **form}
        learnt = {"calibrate": bool(self.calibrate), "thresholds": self.thresholds}
        return {**head_settings(spec), **learnt, **form}

    def _features(self, X: Any) -> NDArray[np.float32]:  # noqa: N803, ANN401
        check_is_fitted(self, "head_")
        return _array(self.encoder_.transform(X))

    def _head(self) -> Head | OwnHead:
        """Return the fitted head, answering in codes."""
        return OwnHead(self.head_, self._form != "one") if isinstance(self.head_, BaseEstimator) else self.head_

    def _codes(self, features: NDArray[np.float32]) -> NDArray[Any]:
        """Return codes (n,), or bool (n, L)."""
        if not len(features):
            return np.empty(0, np.int64) if self._form == "one" else np.empty((0, len(self.classes_)), bool)
        head = self._head()
        if self._thresholds is None:
            return head.predict(features)
        by = head.predict_proba if self._thresholds.on == "probability" else head.decision_function
        return self._thresholds.decide(by(features), multi_label=self._form != "one")

    def _codes_of(self, X: Any) -> NDArray[Any]:  # noqa: N803, ANN401
        return self._codes(self._features(X))

    @available_if(_answers("predict_proba"))  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> NDArray[np.floating[Any]]:  # noqa: N803, ANN401
        """Return the probability of each class or label, shape (n, C), in the order of `classes_`."""
        features = self._features(X)
        if not len(features):
            return np.empty((0, len(self.classes_)))
        return self._head().predict_proba(features)[:, self._order]

    @available_if(_answers("decision_function"))  # type: ignore[untyped-decorator]
    def decision_function(self, X: Any) -> NDArray[np.floating[Any]]:  # noqa: N803, ANN401
        """Return scores: (n,) for two classes, above 0 means the second; else (n, C)."""
        features = self._features(X)
        if not len(features):
            two = self._form == "one" and len(self.classes_) == 2
            return np.empty((0,) if two else (0, len(self.classes_)))
        return self._in_order(self._head().decision_function(features))

    def explain(self, text: Any) -> Explanation:  # noqa: ANN401 - checked
        """Take the scores of one text, or of one pair, apart into what each word adds to them.

        Works where a score is a sum over tokens: a linear head on mean pooling. Exact by linearity, up to
        normalisation, whose length is held at its value; see `embedkit.estimators.explain.Explanation`.

        Parameters
        ----------
        text : str or (str, str)

        Returns
        -------
        Explanation
            Its ``top()``, ``to_list()`` and ``to_html()`` show it; a notebook does so by itself.

        Raises
        ------
        UsageError
            The head is not linear, pooling is not mean, or pairs are read apart; says why and what to do.
        DataError
            This is not one text (one pair).
        """
        check_is_fitted(self, "head_")
        extractor = self.encoder_._open_as_fitted()
        return explain_text(extractor, self.head_, self.classes_, text, self.predict, order=self._order)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write an artifact folder without pickle; `embedkit.load` and ``embedkit predict`` read it.

        Raises
        ------
        OutputExistsError
            The folder is there and may not be overwritten.
        UsageError
            The head is one that has no form without pickle.
        SpaceMismatchError
            The encoder's files or parameters changed since `fit`.
        """
        check_is_fitted(self, "head_")
        head, extractor = self._saved_head(), self.encoder_._open_as_fitted()
        check_encoder_stays(Path(folder), extractor.folder.resolved.folder)
        with staged(Path(folder), overwrite=overwrite) as stage:
            FrozenClassifier(
                extractor, head, self._codec, self.encoder_._kind, self._about, self._thresholds
            ).save(stage)

    def _saved_head(self) -> Head:
        """Return the head in a form without pickle; `UsageError` where it has none."""
        if isinstance(self.head, str) or not isinstance(self.head_, BaseEstimator):
            head: Head = self.head_
            return head
        return head_from_estimator(self.head_, multi_label=self._form != "one")

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        model: str | None = None,
        store: str | Path | bool | None = None,
        device: str = "auto",
        engine: Engine = "auto",
        threads: int | None = None,
    ) -> EmbeddingClassifier:
        """Open a folder that `save` or ``embedkit fit-head`` wrote.

        Parameters
        ----------
        folder : str or Path
            The artifact.
        model : str, optional
            Where the encoder is now, if it has moved.
        store, device, engine, threads
            As for `TextEncoder`.

        Raises
        ------
        InputMissingError, ArtifactError, SpaceMismatchError
            See `embedkit.estimators.frozen.load_frozen`.
        """
        frozen = load_frozen(Path(folder), model=model, store=store, device=device, engine=engine, threads=threads)
        settings = vars(exact_settings(frozen.extractor)) | {
            "device": device,
            "engine": engine,
            "threads": threads,
        }
        encoder = TextEncoder(**settings, store=store, store_dtype=frozen.extractor.dtype)
        head = frozen.about.get("head_settings", {})
        loaded = cls(
            encoder,
            str(head.get("clf", "logreg")),
            scale=head.get("scale", "auto"),
            class_weight=head.get("class_weight"),
            head_params=head_params(head) or None,
            random_state=frozen.about.get("seed", 42),
            calibrate=head.get("calibrate", False),
            thresholds=head.get("thresholds"),
            positive_label=_positive_of(frozen),
        )
        loaded.head_ = frozen.head
        fitted: TextEncoder = clone(encoder)
        fitted._adopt(frozen.extractor, frozen.kind)
        form, dtype = indicator_form(head.get("indicator")) if frozen.multi_label else ("one", "")
        return loaded._adopt(fitted, frozen.codec, [], frozen.about, frozen.thresholds, form, dtype)

    def __sklearn_tags__(self) -> Any:  # noqa: ANN401 - scikit-learn's Tags
        tags = super().__sklearn_tags__()
        own = None if isinstance(self.head, str) else getattr(get_tags(self.head), "classifier_tags", None)
        tags.classifier_tags.multi_label = isinstance(self.head, str) or bool(own and own.multi_label)
        return tags


def _positive_of(frozen: FrozenClassifier) -> Any:  # noqa: ANN401 - a label
    """Return the label that a threshold of two classes is for, None where there is none."""
    if frozen.thresholds is None or frozen.multi_label:
        return None
    return frozen.codec.classes[frozen.thresholds.positive]


def _said(notes: list[str]) -> list[str]:
    """Warn of what scikit-learn warns of, in its category; return all notes."""
    for note in notes:
        if "converge" in note:
            warnings.warn(note, ConvergenceWarning, stacklevel=3)
    return notes


def _of(prefix: str, params: dict[str, Any]) -> dict[str, Any]:
    """Take the parameters with a prefix out of a dictionary; return them without it."""
    names = [name for name in params if name.startswith(prefix)]
    return {name.removeprefix(prefix): params.pop(name) for name in names}


def _array(features: Any) -> NDArray[np.float32]:  # noqa: ANN401 - whatever scikit-learn's set_output makes of them
    """Return features as an array, also where scikit-learn is told to make frames."""
    array: NDArray[np.float32] = features.to_numpy() if hasattr(features, "to_numpy") else features
    return array
