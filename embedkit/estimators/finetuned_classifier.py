"""`FineTunedClassifier`: a transformer whose weights are moved, as one scikit-learn classifier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from embedkit.artifact import staged
from embedkit.data import LabelCodec, groups_of, holdout
from embedkit.encoders import EncoderSettings
from embedkit.errors import UsageError
from embedkit.estimators.frozen import Predictions
from embedkit.estimators.inputs import Form, Targets, as_inputs, indicator_form, kind_of
from embedkit.estimators.start import TokenizerSettings, base_said, open_start
from embedkit.estimators.text_classifier import (
    TextClassifier,
    as_labelled,
    check_learnable,
    mapping_in,
    plain,
    validation_share,
)
from embedkit.estimators.tuned import TunedClassifier, load_tuned, tuned_said
from embedkit.metrics.scores import check_metric
from embedkit.runtime.tokens import Text
from embedkit.training.settings import Precision, TuneSettings

# What is called alike here, in `TuneSettings` and in a manifest; a number of NumPy means Python's.
_TOLD = ("epochs", "batch_size", "learning_rate", "weight_decay", "warmup", "freeze", "label_smoothing",
         "precision", "accumulation")  # fmt: skip
_OF_EVALUATION = ("metric", "patience")


class FineTunedClassifier(TextClassifier):
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
        Labels as y has them.
    label_smoothing : float, default 0
    validation_fraction : float, optional
        Part of the rows that is held out, stratified and with equal texts together; the weights of the best
        evaluation on it are kept. Default: none, and the last weights are.
    metric : {"accuracy", "macro-f1", "mcc", "micro-f1", "subset-accuracy"}, optional
        By which the best is chosen. Default: accuracy; micro-F1 where a row has several labels, which has macro-F1
        and subset accuracy beside it.
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
        Labels, in y's dtype and in the order of `numpy.unique`, also those of an artifact that the command line
        wrote. Of an indicator the names or numbers of its columns, in their order.
    classifier_ : embedkit.estimators.tuned.TunedClassifier
        Model, tokenizer and labels, in memory: files that change after `fit` change no answer.
    history_ : list of dict
        A row for each evaluation; empty without `validation_fraction`.
    parts_ : tuple of embedkit.training.parts.PartCount
        What was trained and what was frozen.
    notes_ : list of str
        What is worth knowing of the fit. Like `history_` and `parts_` it is empty after `load`.

    Notes
    -----
    Where a row has several labels: scikit-learn's splitters and scorers know indicators, not lists of labels; for
    lists give them ``cv=KFold(...)``, and let `score` judge. An artifact of ``embedkit finetune`` answers with
    lists; one that `save` wrote after an indicator answers with an indicator.

    The same data, parameters and machine give the same weights, and chance of the process (Python's, NumPy's,
    torch's) goes on as if there had been no `fit`. Fits in several threads take turns.

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
            A parameter is not allowed; before a model is opened, unless it is the model that does not allow it.
        ModelError, InputMissingError, HubError
            The model cannot be opened, or transformers has no classifier of its family.
        TrainingError
            The loss is no number, or memory is full. What an earlier `fit` left stays.
        """
        from embedkit.training.sequence import Labelled, tune_sequence

        inputs, targets = as_labelled(X, y)
        codec = targets.codec()
        codes = targets.encode(codec)
        check_learnable(codec, codes)
        settings = self._settings(codec, codes)
        start = open_start(self.model, revision=self.revision, max_length=plain(self.max_length))
        learnt, held = self._held_out(inputs, codec, codes)
        tuned = tune_sequence(
            start.folder,
            start.tokenizer,
            codec.names,
            Labelled([inputs[row] for row in learnt], codes[learnt]),
            Labelled([inputs[row] for row in held], codes[held]) if len(held) else None,
            settings,
        )
        said = {**tuned_said(settings, tuned), **self._own_settings(targets)}
        about = {"base": base_said(start.folder), "seed": settings.seed, "settings": said}
        found = TunedClassifier(tuned.model, start.tokenizer, codec, kind_of(inputs), targets.several, about)
        found.device, found.threads = settings.device, settings.threads
        kept = TokenizerSettings.of(start.folder)
        self.parts_, self.history_, self.notes_ = tuned.parts, tuned.trained.history, tuned.notes
        return self._adopt(found, kept, targets.form, targets.dtype)

    def _settings(self, codec: LabelCodec, codes: NDArray[Any]) -> TuneSettings:
        """Return the parameters as training takes them, all checked that can be without a model."""
        from embedkit.training.loop import check_told
        from embedkit.training.losses import class_weights

        weights: Any = self._weights_by_name(codec)
        threads = plain(self.threads)
        EncoderSettings(
            self.model,
            revision=self.revision,
            max_length=plain(self.max_length),
            device=self.device,
            threads=threads,
        )
        if self.trainer_args is not None and not isinstance(self.trainer_args, Mapping):
            raise UsageError(f"trainer_args is a {type(self.trainer_args).__name__}; it must be a mapping")
        self._check_evaluation(several=codes.ndim == 2)
        settings = TuneSettings(
            **{name: plain(getattr(self, name)) for name in (*_TOLD, *_OF_EVALUATION)},
            class_weight=weights,
            eval_strategy="no" if self.validation_fraction is None else "epoch",
            seed=self._seed(),
            device=self.device,
            threads=threads,
            arguments=dict(self.trainer_args or {}),
        )
        class_weights(codes, weights, codec.names)
        check_told(settings)
        return settings

    def _check_evaluation(self, *, several: bool) -> None:
        """Refuse a share that is none, and what chooses where nothing is judged."""
        if validation_share(self.validation_fraction) is None:
            given = [name for name in _OF_EVALUATION if getattr(self, name) is not None]
            if given:
                raise UsageError(f"{' and '.join(given)}: nothing is judged without validation_fraction; give it")
            return
        check_metric(self.metric, multi_label=several)

    def _own_settings(self, targets: Targets) -> dict[str, Any]:
        """Return what a manifest says beside the training's settings, for `load`."""
        form = {"indicator": targets.dtype} if targets.form == "indicator" else {}
        return {"validation_fraction": plain(self.validation_fraction), **form}

    def _held_out(
        self, inputs: list[Text], codec: LabelCodec, codes: NDArray[Any]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows to learn from and those to judge by."""
        if self.validation_fraction is None:
            return np.arange(len(inputs)), np.arange(0)
        labels = codec.decode_sets(codes) if codes.ndim == 2 else codec.decode(codes)
        return holdout(labels, groups_of(inputs), self.validation_fraction, self._seed())

    def _adopt(
        self, found: TunedClassifier, tokenizer: TokenizerSettings, form: Form, dtype: str
    ) -> FineTunedClassifier:
        """Answer as `found`, in y's form."""
        self.classifier_, self._tokenizer = found, tokenizer
        self._learn_labels(found.codec, form, dtype)
        return self

    def _predictions(self, X: Any) -> Predictions:  # noqa: N803, ANN401
        check_is_fitted(self, "classifier_")
        return self.classifier_.predict(as_inputs(X))

    def _codes_of(self, X: Any) -> NDArray[Any]:  # noqa: N803, ANN401
        return self._predictions(X).codes

    def predict_proba(self, X: Any) -> NDArray[np.floating[Any]]:  # noqa: N803, ANN401
        """Return the probability of each class or label, shape (n, C), in the order of `classes_`."""
        found = self._predictions(X).probabilities
        assert found is not None
        return found[:, self._order]

    def decision_function(self, X: Any) -> NDArray[np.floating[Any]]:  # noqa: N803, ANN401
        """Return scores in log-odds: (n,) for two classes, above 0 means the second; else (n, C)."""
        check_is_fitted(self, "classifier_")
        return self._in_order(self.classifier_.scores(as_inputs(X))[0])

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write an artifact folder without pickle; `embedkit.load`, ``embedkit predict`` and transformers read it.

        Raises
        ------
        OutputExistsError
            The folder is there and may not be overwritten.
        """
        check_is_fitted(self, "classifier_")
        with staged(Path(folder), overwrite=overwrite) as stage, self._tokenizer.laid_out() as source:
            self.classifier_.save(stage, source)

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "auto", threads: int | None = None) -> FineTunedClassifier:
        """Open a folder that `save` or ``embedkit finetune`` wrote.

        Its parameters are those of the training, so that `fit` would begin again from the same model; to go on
        from the folder's weights, make an estimator with the folder as its `model`. Evaluation on rows of their
        own, which ``embedkit finetune`` has and a parameter cannot say, is left out.

        Parameters
        ----------
        folder : str or Path
        device, threads
            As for `FineTunedClassifier`.

        Raises
        ------
        InputMissingError, ArtifactError, UsageError
            See `embedkit.estimators.tuned.load_tuned`.
        """
        found = load_tuned(Path(folder), device=device, threads=threads)
        if not isinstance(found, TunedClassifier):
            raise UsageError(f"{folder} holds a tagger of words; open it with TokenClassifier.load")
        loaded = cls(**_params_of(found), device=device, threads=threads)
        loaded.history_, loaded.notes_, loaded.parts_ = [], [], ()
        told = mapping_in(found.about, "settings").get("indicator")
        form, dtype = indicator_form(told) if found.multi_label else ("one", "")
        return loaded._adopt(found, TokenizerSettings.of_path(Path(folder)), form, dtype)


def _params_of(found: TunedClassifier) -> dict[str, Any]:
    """Return the parameters that a manifest tells; `fit` checks them."""
    base, settings = mapping_in(found.about, "base"), mapping_in(found.about, "settings")
    judged = settings.get("validation_fraction") is not None
    names = [*_TOLD, "class_weight", *(("validation_fraction", *_OF_EVALUATION) if judged else ())]
    return {
        "model": base.get("name"),
        "revision": base.get("commit"),
        "max_length": found.tokenizer.max_length,
        "random_state": found.about.get("seed"),
        "trainer_args": settings.get("arguments") or None,
        **{name: settings[name] for name in names if name in settings},
    }
