"""`FineTunedClassifier`: a transformer whose weights are moved, as one scikit-learn classifier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from embedkit.artifact import staged
from embedkit.data import LabelCodec, class_counts, groups_of, holdout, require_classes
from embedkit.errors import DataError, UsageError
from embedkit.estimators.inputs import Form, as_inputs, as_targets, as_weights, kind_of
from embedkit.estimators.start import Start, base_said, open_start, settings_said
from embedkit.estimators.tuned import TunedClassifier, load_tuned
from embedkit.heads.fit import check_targets
from embedkit.runtime.tokens import Text
from embedkit.training.settings import Precision, TuneSettings

_SAMPLE = 64  # inputs on which transformers' tokenizer is compared with ours, kept for `save`


class FineTunedClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A pre-trained transformer with a new head, fine-tuned on texts or pairs, all of it or the upper blocks.

    Parameters
    ----------
    model : str or Path, default "minilm"
        What to begin from: ``"minilm"``, a folder, or a hub id.
    epochs : float, default 3
    batch_size : int, default 16
    learning_rate : float, optional
        Default: 2e-5 from a hidden size of 768 up, else 5e-5.
    weight_decay : float, default 0.01
    warmup : float, default 0.1
        Share of the steps, or from 1 up their number.
    freeze : int or {"none", "embeddings", "head-only"}, default "none"
        The embeddings and so many blocks stay as they are.
    max_length : int, optional
        Most tokens of a text. Default: the model's.
    class_weight : None, "balanced" or mapping of label to weight
    label_smoothing : float, default 0
    validation_fraction : float, optional
        Part of the rows that is held out, stratified and with equal texts together; the weights of the best
        evaluation on it are kept. Default: none, and the last weights are.
    metric : str, optional
        By which the best is chosen; see `embedkit.metrics.scores`.
    patience : int, optional
        Stop after so many epochs without a better one.
    precision : {"auto", "float32", "bfloat16", "float16"}, default "auto"
    accumulation : int, default 1
        Batches that make a step.
    random_state : int, default 42
        Of the head, dropout, the order of rows and what is held out.
    device : str, default "auto"
    threads : int, optional
    trainer_args : mapping, optional
        Anything else that `transformers.TrainingArguments` takes.
    revision : str, optional
        Of a hub id.

    Attributes
    ----------
    classes_ : ndarray, shape (C,)
        Labels, in y's dtype and in the order of `numpy.unique`. Of an indicator the names or numbers of its
        columns, in their order.
    history_ : list of dict
        A row for each evaluation.
    parts_ : tuple of embedkit.training.parts.PartCount
        What was trained and what was frozen.
    notes_ : list of str

    Examples
    --------
    >>> classifier = FineTunedClassifier("minilm", epochs=1, freeze=4)
    >>> classifier.fit(["good", "great", "bad", "poor"], [1, 1, 0, 0]).predict(["fine"])  # doctest: +SKIP
    array([1])
    """

    def __init__(
        self,
        model: str | Path = "minilm",
        *,
        epochs: float = 3.0,
        batch_size: int = 16,
        learning_rate: float | None = None,
        weight_decay: float = 0.01,
        warmup: float = 0.1,
        freeze: int | str = "none",
        max_length: int | None = None,
        class_weight: Mapping[Any, float] | str | None = None,
        label_smoothing: float = 0.0,
        validation_fraction: float | None = None,
        metric: str | None = None,
        patience: int | None = None,
        precision: Precision = "auto",
        accumulation: int = 1,
        random_state: int = 42,
        device: str = "auto",
        threads: int | None = None,
        trainer_args: Mapping[str, Any] | None = None,
        revision: str | None = None,
    ) -> None:
        self.model = model
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup = warmup
        self.freeze = freeze
        self.max_length = max_length
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing
        self.validation_fraction = validation_fraction
        self.metric = metric
        self.patience = patience
        self.precision = precision
        self.accumulation = accumulation
        self.random_state = random_state
        self.device = device
        self.threads = threads
        self.trainer_args = trainer_args
        self.revision = revision

    def fit(self, X: Any, y: Any) -> FineTunedClassifier:  # noqa: N803, ANN401
        """Fine-tune on texts or pairs.

        Parameters
        ----------
        X : list, array or Series of str, or of pairs; n of them
        y : list, array or Series of n labels, or of n lists of labels; or array or DataFrame, shape (n, L)
            As for `EmbeddingClassifier.fit`.

        Returns
        -------
        FineTunedClassifier
            Itself.

        Raises
        ------
        DataError
            Lengths differ, a row is no text or has no label, or there is only one class. All before a model is
            opened.
        UsageError
            A parameter is not allowed.
        TrainingError
            The loss is no number, or memory is full.
        """
        from embedkit.training.sequence import Labelled, tune_sequence

        inputs, targets = as_inputs(X), as_targets(y)
        if len(inputs) != len(targets.values):
            raise DataError(
                f"X has {len(inputs):,} rows, y has {len(targets.values):,}; they must be equally many"
            )
        codec = targets.codec()
        codes = targets.encode(codec)
        _check_learnable(codec, codes)
        settings = self._settings(codec)
        start = open_start(str(self.model), revision=self.revision, max_length=self.max_length)
        learnt, held = self._held_out(inputs, codec, codes)
        tuned = tune_sequence(
            start.folder,
            start.tokenizer,
            codec.names,
            Labelled([inputs[row] for row in learnt], codes[learnt]),
            Labelled([inputs[row] for row in held], codes[held]) if len(held) else None,
            settings,
        )
        about = {"base": base_said(start), "seed": settings.seed, "settings": settings_said(settings, tuned)}
        kind = kind_of(inputs)
        found = TunedClassifier(tuned.model, start.tokenizer, codec, kind, targets.several, about)
        self.parts_, self.history_, self.notes_ = tuned.parts, tuned.trained.history, tuned.notes
        self._start, self._sample = start, inputs[:_SAMPLE]
        return self._adopt(found, targets.form, targets.dtype)

    def _settings(self, codec: LabelCodec) -> TuneSettings:
        """Return the parameters as training takes them, checked."""
        weights = self.class_weight
        if isinstance(weights, Mapping):
            weights = {_name(codec, label): float(weight) for label, weight in weights.items()}
        seed = self.random_state
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
            raise UsageError(f"random_state is {seed!r}; it must be an integer: the artifact says it")
        return TuneSettings(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            freeze=self.freeze,  # type: ignore[arg-type]  # TuneSettings reads it
            class_weight=weights,  # type: ignore[arg-type]  # and checks it
            label_smoothing=self.label_smoothing,
            eval_strategy="no" if self.validation_fraction is None else "epoch",
            metric=self.metric,
            patience=self.patience,
            precision=self.precision,
            accumulation=self.accumulation,
            seed=int(seed),
            device=self.device,
            threads=self.threads,
            arguments=dict(self.trainer_args or {}),
        )

    def _held_out(
        self, inputs: list[Text], codec: LabelCodec, codes: NDArray[Any]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows to learn from and those to judge by."""
        if self.validation_fraction is None:
            return np.arange(len(inputs)), np.arange(0)
        labels = codec.decode_sets(codes) if codes.ndim == 2 else codec.decode(codes)
        return holdout(labels, groups_of(inputs), self.validation_fraction, int(self.random_state))

    def _adopt(self, found: TunedClassifier, form: Form, dtype: str) -> FineTunedClassifier:
        """Answer as `found`, in y's form."""
        found.device, found.threads = self.device, self.threads
        self.classes_ = found.codec.decode(np.arange(len(found.codec)))
        self._order = np.arange(len(found.codec))
        if form == "one":
            self.classes_, self._order = np.unique(self.classes_, return_index=True)
        self.classifier_, self._form, self._dtype = found, form, dtype
        return self

    def _answers(self, X: Any) -> tuple[NDArray[Any], NDArray[np.floating[Any]]]:  # noqa: N803, ANN401
        check_is_fitted(self, "classifier_")
        found = self.classifier_.predict(as_inputs(X))
        assert found.probabilities is not None
        return found.codes, found.probabilities

    def predict(self, X: Any) -> Any:  # noqa: N803, ANN401 - in y's form
        """Return the labels of each text, in the form and dtype of y.

        Returns
        -------
        ndarray, shape (n,), or list of lists, or ndarray, shape (n, L)
        """
        codes, _ = self._answers(X)
        codec = self.classifier_.codec
        if self._form == "one":
            return codec.decode(codes)
        return codec.decode_sets(codes) if self._form == "sets" else codes.astype(self._dtype)

    def predict_proba(self, X: Any) -> NDArray[np.floating[Any]]:  # noqa: N803, ANN401
        """Return the probability of each class or label, shape (n, C), in the order of `classes_`."""
        return self._answers(X)[1][:, self._order]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:  # noqa: N803, ANN401
        """Return the share of rows whose label, or all of whose labels, are predicted right."""
        check_is_fitted(self, "classifier_")
        if self._form == "one":
            return float(super().score(X, y, sample_weight))
        targets, (codes, _) = as_targets(y), self._answers(X)
        if len(codes) != len(targets.values):
            raise DataError(f"X has {len(codes):,} rows, y has {len(targets.values):,}; they must be equally many")
        right = targets.equal(self.classifier_.codec, codes)
        return float(np.average(right, weights=as_weights(sample_weight, len(codes))))

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write an artifact folder without pickle; `embedkit.load`, ``embedkit predict`` and transformers read it.

        Raises
        ------
        OutputExistsError
            The folder is there and may not be overwritten.
        """
        check_is_fitted(self, "classifier_")
        with staged(Path(folder), overwrite=overwrite) as stage:
            self.classifier_.save(stage, self._start.folder, self._sample)

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "auto", threads: int | None = None) -> FineTunedClassifier:
        """Open a folder that `save` or ``embedkit finetune`` wrote.

        Raises
        ------
        InputMissingError, ArtifactError
            See `embedkit.estimators.tuned.load_tuned`.
        """
        found = load_tuned(Path(folder), device=device, threads=threads)
        loaded = cls(Path(folder), random_state=int(found.about.get("seed", 42)), device=device, threads=threads)
        loaded.history_, loaded.notes_, loaded.parts_ = [], [], ()
        loaded._start, loaded._sample = Start.of_folder(Path(folder), found.tokenizer), []
        form: Literal["sets", "one"] = "sets" if found.multi_label else "one"
        return loaded._adopt(found, form, "")

    def __sklearn_tags__(self) -> Any:  # noqa: ANN401 - scikit-learn's Tags
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.classifier_tags.multi_label = True
        return tags


def _check_learnable(codec: LabelCodec, codes: NDArray[Any]) -> None:
    """Raise `DataError` unless rows differ in their labels."""
    if codes.ndim == 1:
        require_classes(class_counts(codec.decode(codes)), "y")
    else:
        check_targets(codes, len(codes), codec.names)


def _name(codec: LabelCodec, label: Any) -> str:  # noqa: ANN401 - any label
    """Return how a label is printed, also one that only equals it, such as 1 for 1.0."""
    return codec.names[codec.classes.index(label)] if label in codec.classes else str(label)
