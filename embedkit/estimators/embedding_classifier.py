"""`EmbeddingClassifier`: frozen features and a classical head as one scikit-learn classifier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils.validation import check_is_fitted

from embedkit.artifact import staged
from embedkit.data import LabelCodec, class_counts, require_classes
from embedkit.encoders import FeatureExtractor
from embedkit.errors import DataError, UsageError
from embedkit.estimators.frozen import FrozenClassifier, exact_settings, load_frozen
from embedkit.estimators.inputs import as_inputs
from embedkit.estimators.text_encoder import TextEncoder
from embedkit.heads import Head, HeadSpec, fit_head, head_from_estimator


class EmbeddingClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Frozen transformer features with a classical head.

    Parameters
    ----------
    encoder : str or TextEncoder, default "minilm"
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
        Of a head by name.

    Attributes
    ----------
    classes_ : ndarray, shape (C,)
        Labels, in y's dtype.
    encoder_ : TextEncoder
    head_ : Head or scikit-learn classifier
        Fitted on codes from 0 to C - 1.
    notes_ : list of str
        What is worth knowing of the fit, such as a solver that did not converge.

    Examples
    --------
    >>> classifier = EmbeddingClassifier("minilm", head_params={"C": 0.5})
    >>> classifier.fit(["good", "great", "bad", "poor"], [1, 1, 0, 0]).predict(["fine"])  # doctest: +SKIP
    array([1])
    """

    def __init__(
        self,
        encoder: str | TextEncoder = "minilm",
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

    def fit(self, X: Any, y: Any) -> EmbeddingClassifier:  # noqa: N803, ANN401
        """Encode texts (what the store lacks) and fit the head.

        Parameters
        ----------
        X : list, array or Series of str, or of pairs; n of them
            Texts.
        y : list, array or Series of labels, length n
            Strings or integers.

        Returns
        -------
        EmbeddingClassifier
            Itself.

        Raises
        ------
        DataError
            Lengths differ, a row is no text, or there is only one class. All before anything is encoded.
        UsageError
            A parameter is not allowed.
        """
        inputs, labels = as_inputs(X), y
        if len(inputs) != len(labels):
            raise DataError(f"X has {len(inputs):,} rows, y has {len(labels):,}; they must be equally many")
        codec = LabelCodec.fit(labels)
        codes = codec.encode(labels)
        require_classes(class_counts(codec.decode(codes)), "y")
        spec = self._spec()
        encoder = TextEncoder(self.encoder) if isinstance(self.encoder, str) else clone(self.encoder)
        features = encoder.fit_transform(inputs)
        features = features.to_numpy() if hasattr(features, "to_numpy") else features
        if spec is None:
            self.head_, self.notes_ = clone(self.head).fit(features, codes), []
        else:
            fitted = fit_head(spec, features, codes, len(codec), names=codec.names)
            self.head_, self.notes_ = fitted.head, fitted.notes
        self.encoder_ = encoder
        self.classes_ = codec.decode(np.arange(len(codec)))
        self._codec = codec
        self._kind = "pair" if isinstance(inputs[0], tuple) else "text"
        self._about: dict[str, Any] = {"head_settings": self._head_settings(), "seed": self.random_state}
        return self

    def _spec(self) -> HeadSpec | None:
        """Return the head to fit; None for one of the user's own."""
        if not isinstance(self.head, str):
            if not hasattr(self.head, "fit"):
                raise UsageError(f"head is {self.head!r}; give a name or a scikit-learn classifier")
            return None
        params = dict(self.head_params or {})
        weights = self.class_weight
        if isinstance(weights, Mapping):
            weights = {str(label): weight for label, weight in weights.items()}
        return HeadSpec(self.head, self.scale, weights, params, self.random_state)

    def _head_settings(self) -> dict[str, Any]:
        if not isinstance(self.head, str):
            return {"clf": f"{type(self.head).__module__}.{type(self.head).__name__}"}
        return {"clf": self.head, "scale": self.scale, "params": dict(self.head_params or {})}

    def _features(self, X: Any) -> NDArray[np.float32]:  # noqa: N803, ANN401
        check_is_fitted(self, "head_")
        features = self.encoder_.transform(X)
        return features.to_numpy() if hasattr(features, "to_numpy") else features

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803, ANN401
        """Return the most probable label of each text, shape (n,), in y's dtype."""
        features = self._features(X)
        codes = self.head_.predict(features) if len(features) else np.empty(0, np.int64)
        return self._codec.decode(codes)

    def predict_proba(self, X: Any) -> NDArray[np.float64]:  # noqa: N803, ANN401
        """Return the probability of each class, shape (n, C), in the order of `classes_`."""
        features = self._features(X)
        if not len(features):
            return np.empty((0, len(self.classes_)))
        return np.asarray(self.head_.predict_proba(features))

    def decision_function(self, X: Any) -> NDArray[np.float64]:  # noqa: N803, ANN401
        """Return scores: (n,) for two classes, above 0 means the second; else (n, C)."""
        features = self._features(X)
        if not len(features):
            return np.empty((0,) if len(self.classes_) == 2 else (0, len(self.classes_)))
        return np.asarray(self.head_.decision_function(features))

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write an artifact folder without pickle; `embedkit.load` and ``embedkit predict`` read it.

        Raises
        ------
        OutputExistsError
            The folder is there and may not be overwritten.
        UsageError
            The head is one that has no form without pickle.
        """
        check_is_fitted(self, "head_")
        own = not isinstance(self.head, str) and isinstance(self.head_, BaseEstimator)
        head: Head = head_from_estimator(self.head_) if own else self.head_
        extractor = self.encoder_._open()
        with staged(Path(folder), overwrite=overwrite) as stage:
            FrozenClassifier(extractor, head, self._codec, self._kind, self._about).save(stage)

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
        return cls._of(frozen, store, device, threads)

    @classmethod
    def _of(
        cls, frozen: FrozenClassifier, store: str | Path | bool | None, device: str, threads: int | None
    ) -> EmbeddingClassifier:
        extractor: FeatureExtractor = frozen.extractor
        settings = vars(exact_settings(extractor)) | {"device": device, "threads": threads}
        encoder = TextEncoder(**settings, store=store, store_dtype=extractor.dtype)
        example: Any = [("", "")] if frozen.kind == "pair" else [""]
        loaded = cls(encoder, str(frozen.about.get("head_settings", {}).get("clf", "logreg")))
        loaded.encoder_ = clone(encoder).fit(example)
        loaded.head_, loaded.notes_ = frozen.head, []
        loaded.classes_ = frozen.codec.decode(np.arange(len(frozen.codec)))
        loaded._codec, loaded._kind, loaded._about = frozen.codec, frozen.kind, dict(frozen.about)
        return loaded

    def __sklearn_tags__(self) -> Any:  # noqa: ANN401 - scikit-learn's Tags
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags
