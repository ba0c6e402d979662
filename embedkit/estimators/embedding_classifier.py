"""`EmbeddingClassifier`: frozen features and a classical head as one scikit-learn classifier."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from embedkit.artifact import staged
from embedkit.data import LabelCodec, class_counts, require_classes
from embedkit.errors import DataError, UsageError
from embedkit.estimators.explain import Explanation, explain_text
from embedkit.estimators.frozen import FrozenClassifier, exact_settings, head_settings, load_frozen
from embedkit.estimators.inputs import as_inputs, as_labels
from embedkit.estimators.text_encoder import TextEncoder
from embedkit.heads import Head, HeadSpec, fit_head, head_from_estimator


def _head_has(method: str) -> Callable[[EmbeddingClassifier], bool]:
    """Return a check whether the head answers a method: scorers choose by what is there."""

    def check(classifier: EmbeddingClassifier) -> bool:
        head = getattr(classifier, "head_", classifier.head)
        return isinstance(head, str) or hasattr(head, method)

    return check


class EmbeddingClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Frozen transformer features with a classical head.

    Parameters
    ----------
    encoder : str, Path or TextEncoder, default "minilm"
        A model, or an encoder with more to say.
    head : str or scikit-learn classifier, default "logreg"
        A name of `embedkit.heads.available`, or an unfitted classifier that is cloned.
    scale : {"auto", "none", "standard"}, default "auto"
        Whether features are standardised for a head by name; auto: unless they have norm 1.
    class_weight : None, "balanced" or mapping of label to weight
        For a head by name.
    head_params : mapping, optional
        Parameters of a head by name, such as ``{"C": 0.5}``.
    random_state : int, default 42
        Of a head by name; kept in the artifact.

    Attributes
    ----------
    classes_ : ndarray, shape (C,)
        Labels, in y's dtype and in the order of `numpy.unique`, which scikit-learn's scorers take for granted
        (so "10" comes before "9"; an artifact that the command line wrote is put in this order too).
    encoder_ : TextEncoder
    head_ : Head or scikit-learn classifier
        Fitted on codes from 0 to C - 1.
    notes_ : list of str
        What is worth knowing of the fit: texts that were cut off, a solver that did not converge (which is
        also warned of as scikit-learn's ConvergenceWarning).

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
    ) -> None:
        self.encoder = encoder
        self.head = head
        self.scale = scale
        self.class_weight = class_weight
        self.head_params = head_params
        self.random_state = random_state

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters; `deep` adds those of the encoder and of the head, also where they are names.

        ``head__C`` of a head by name is the entry ``C`` of `head_params`.
        """
        params: dict[str, Any] = super().get_params(deep=deep)
        if deep and isinstance(self.encoder, str | Path):
            params |= {f"encoder__{name}": value for name, value in TextEncoder(self.encoder).get_params().items()}
        if deep and isinstance(self.head, str) and isinstance(self.head_params, Mapping):
            params |= {f"head__{name}": value for name, value in self.head_params.items()}
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

    def fit(self, X: Any, y: Any) -> EmbeddingClassifier:  # noqa: N803, ANN401
        """Encode texts (what the store lacks) and fit the head.

        Parameters
        ----------
        X : list, array or Series of str, or of pairs; n of them
            Texts.
        y : list, array or Series of labels, length n
            Strings, integers, booleans or whole floats; one a row.

        Returns
        -------
        EmbeddingClassifier
            Itself.

        Raises
        ------
        DataError
            Lengths differ, a row is no text or has no label or several, or there is only one class. All before
            anything is encoded.
        UsageError
            A parameter is not allowed. Before anything is encoded.
        """
        inputs, labels = as_inputs(X), as_labels(y)
        if len(inputs) != len(labels):
            raise DataError(f"X has {len(inputs):,} rows, y has {len(labels):,}; they must be equally many")
        codec = LabelCodec.fit(labels)
        codec = replace(codec, classes=tuple(sorted(codec.classes)))  # as numpy.unique has them
        codes = codec.encode(labels)
        require_classes(class_counts(codec.decode(codes)), "y")
        spec = self._spec(codec)
        encoder = self._new_encoder()
        features = _array(encoder.fit_transform(inputs))
        notes = encoder._open().remarks(encoder.extraction_)
        if spec is None:
            self.head_ = clone(self.head).fit(features, codes)
        else:
            fitted = fit_head(spec, features, codes, len(codec), names=codec.names)
            for note in fitted.notes:
                warnings.warn(note, ConvergenceWarning, stacklevel=2)
            self.head_, notes = fitted.head, [*notes, *fitted.notes]
        about = {"head_settings": self._head_settings(spec), "seed": int(self.random_state)}
        return self._adopt(encoder, codec, notes, about)

    def _new_encoder(self) -> TextEncoder:
        if isinstance(self.encoder, str | Path):
            return TextEncoder(self.encoder)
        if not isinstance(self.encoder, TextEncoder):
            raise UsageError(f"encoder is {self.encoder!r}; give a model's name, its folder, or a TextEncoder")
        encoder: TextEncoder = clone(self.encoder)
        return encoder

    def _adopt(
        self, encoder: TextEncoder, codec: LabelCodec, notes: list[str], about: Mapping[str, Any]
    ) -> EmbeddingClassifier:
        """Be fitted with this encoder and `head_`."""
        self.encoder_ = encoder
        self.notes_ = notes
        self.classes_, self._order = np.unique(codec.decode(np.arange(len(codec))), return_index=True)
        self._codec = codec
        self._about = dict(about)
        return self

    def _spec(self, codec: LabelCodec) -> HeadSpec | None:
        """Return the head to fit; None for one of the user's own."""
        if isinstance(self.random_state, bool) or not isinstance(self.random_state, int | np.integer):
            raise UsageError(f"random_state is {self.random_state!r}; it must be an integer: the artifact says it")
        if not isinstance(self.head, str):
            self._check_own_head()
            return None
        params = {name: _plain(value) for name, value in dict(self.head_params or {}).items()}
        weights = self.class_weight
        if isinstance(weights, Mapping):
            weights = {_name(codec, label): _plain(weight) for label, weight in weights.items()}
            unknown = sorted(set(weights) - set(codec.names))
            if unknown:
                raise UsageError(
                    f"class_weight names unknown labels: {', '.join(unknown)}; known: {', '.join(codec.names)}"
                )
        return HeadSpec(self.head, self.scale, weights, params, int(self.random_state))

    def _check_own_head(self) -> None:
        estimator = hasattr(self.head, "__sklearn_tags__") and not isinstance(self.head, type)
        if not (estimator and is_classifier(self.head)):
            raise UsageError(f"head is {self.head!r}; give a name or an unfitted scikit-learn classifier")
        given = {"scale": self.scale != "auto", "class_weight": self.class_weight, "head_params": self.head_params}
        ignored = [name for name, value in given.items() if value]
        if ignored:
            raise UsageError(
                f"{', '.join(ignored)} is for a head by name; give it to the {type(self.head).__name__} itself"
            )

    def _head_settings(self, spec: HeadSpec | None) -> dict[str, Any]:
        if spec is None:
            return {"clf": f"{type(self.head).__module__}.{type(self.head).__name__}"}
        return head_settings(spec)

    def _features(self, X: Any) -> NDArray[np.float32]:  # noqa: N803, ANN401
        check_is_fitted(self, "head_")
        return _array(self.encoder_.transform(X))

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803, ANN401
        """Return the most probable label of each text, shape (n,), in y's dtype."""
        features = self._features(X)
        codes = self.head_.predict(features) if len(features) else np.empty(0, np.int64)
        return self._codec.decode(codes)

    @available_if(_head_has("predict_proba"))  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> NDArray[np.float64]:  # noqa: N803, ANN401
        """Return the probability of each class, shape (n, C), in the order of `classes_`."""
        features = self._features(X)
        if not len(features):
            return np.empty((0, len(self.classes_)))
        return np.asarray(self.head_.predict_proba(features))[:, self._order]

    @available_if(_head_has("decision_function"))  # type: ignore[untyped-decorator]
    def decision_function(self, X: Any) -> NDArray[np.float64]:  # noqa: N803, ANN401
        """Return scores: (n,) for two classes, above 0 means the second; else (n, C)."""
        features = self._features(X)
        if not len(features):
            return np.empty((0,) if len(self.classes_) == 2 else (0, len(self.classes_)))
        scores = np.asarray(self.head_.decision_function(features))
        if scores.ndim == 1:
            return scores if self._order[0] == 0 else -scores
        return scores[:, self._order] if scores.shape[1] == len(self._order) else scores

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
        own = not isinstance(self.head, str) and isinstance(self.head_, BaseEstimator)
        head: Head = head_from_estimator(self.head_) if own else self.head_
        extractor = self.encoder_._open_as_fitted()
        with staged(Path(folder), overwrite=overwrite) as stage:
            FrozenClassifier(extractor, head, self._codec, self.encoder_._kind, self._about).save(stage)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        model: str | None = None,
        store: str | Path | bool | None = None,
        device: str = "auto",
        threads: int | None = None,
    ) -> EmbeddingClassifier:
        """Open a folder that `save` or ``embedkit fit-head`` wrote.

        Parameters
        ----------
        folder : str or Path
            The artifact.
        model : str, optional
            Where the encoder is now, if it has moved.
        store, device, threads
            As for `TextEncoder`.

        Raises
        ------
        InputMissingError, ArtifactError, SpaceMismatchError
            See `embedkit.estimators.frozen.load_frozen`.
        """
        frozen = load_frozen(Path(folder), model=model, store=store, device=device, threads=threads)
        settings = vars(exact_settings(frozen.extractor)) | {"device": device, "threads": threads}
        encoder = TextEncoder(**settings, store=store, store_dtype=frozen.extractor.dtype)
        head = frozen.about.get("head_settings", {})
        loaded = cls(
            encoder,
            str(head.get("clf", "logreg")),
            scale=head.get("scale", "auto"),
            class_weight=head.get("class_weight"),
            head_params=head.get("params") or None,
            random_state=frozen.about.get("seed", 42),
        )
        loaded.head_ = frozen.head
        fitted: TextEncoder = clone(encoder)
        return loaded._adopt(fitted._adopt(frozen.extractor, frozen.kind), frozen.codec, [], frozen.about)

    def __sklearn_tags__(self) -> Any:  # noqa: ANN401 - scikit-learn's Tags
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags


def _of(prefix: str, params: dict[str, Any]) -> dict[str, Any]:
    """Take the parameters with a prefix out of a dictionary; return them without it."""
    names = [name for name in params if name.startswith(prefix)]
    return {name.removeprefix(prefix): params.pop(name) for name in names}


def _array(features: Any) -> NDArray[np.float32]:  # noqa: ANN401 - whatever scikit-learn's set_output makes of them
    """Return features as an array, also where scikit-learn is told to make frames."""
    array: NDArray[np.float32] = features.to_numpy() if hasattr(features, "to_numpy") else features
    return array


def _plain(value: Any) -> Any:  # noqa: ANN401 - any value
    """Return NumPy's numbers as Python's, which is what a grid of parameters means by them."""
    return value.item() if isinstance(value, np.generic) else value


def _name(codec: LabelCodec, label: Any) -> str:  # noqa: ANN401 - any label
    """Return how a label is printed, also one that only equals it, such as 1 for 1.0."""
    return codec.names[codec.classes.index(label)] if label in codec.classes else str(label)
