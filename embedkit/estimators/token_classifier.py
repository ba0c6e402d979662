"""`TokenClassifier`: a tagger of words, fine-tuned or on frozen word vectors, with scikit-learn's face."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from embedkit.artifact import staged
from embedkit.data import LabelCodec, Split, groups_of, holdout, require_classes
from embedkit.data.schemes import with_iob2
from embedkit.encoders import EncoderSettings
from embedkit.errors import DataError, UsageError
from embedkit.estimators.frozen import check_encoder_stays
from embedkit.estimators.frozen_tagger import FrozenTagger, check_tag_heads, learnable, load_frozen_tagger
from embedkit.estimators.start import TokenizerSettings, base_said, open_start
from embedkit.estimators.tagging import told_of_tags
from embedkit.estimators.text_classifier import mapping_in, plain, validation_share
from embedkit.estimators.tuned import load_tuned, tuned_said
from embedkit.estimators.tuned_tagger import TunedTagger
from embedkit.metrics.spans import entity_scores
from embedkit.runtime.entities import TAG_TASKS, FoundEntity
from embedkit.runtime.manifest import FINETUNED, TAG_TASK, kind_of
from embedkit.runtime.texts import check_words
from embedkit.runtime.tokens import Words
from embedkit.training.settings import Precision, TuneSettings

_OF_MODE = {
    "finetune": ("epochs", "batch_size", "learning_rate", "weight_decay", "warmup", "freeze", "label_subtokens",
                 "label_smoothing", "validation_fraction", "metric", "patience", "precision", "accumulation",
                 "trainer_args"),
    "frozen": ("head", "head_params", "pooling", "layers", "store"),
}  # fmt: skip
_TOLD = ("epochs", "batch_size", "learning_rate", "weight_decay", "warmup", "freeze", "label_smoothing",
         "precision", "accumulation", "metric", "patience", "class_weight")  # fmt: skip


class TokenClassifier(BaseEstimator):  # type: ignore[misc]
    """A tagger: for each word of a sentence a tag, such as an entity's (``B-PER``) or a part of speech.

    Parameters
    ----------
    model : str or Path, default "minilm"
        What to begin from: ``"minilm"``, a folder, or a hub id.
    mode : {"finetune", "frozen"}, default "finetune"
        Whether the model's weights are moved, or a classical head learns on the vectors that it gives to words:
        less good and much cheaper, seconds once vectors are in the store. What the other mode alone has is
        refused.
    task : {"auto", "ner", "chunk", "pos"}, default "auto"
        Whether tags stand for spans of words (``"ner"``, ``"chunk"``) or each for one word (``"pos"``). By default
        they stand for spans where one of them is ``O`` or begins with ``B-`` or ``I-``.
    head : str, default "logreg"
        Of mode ``"frozen"``: a name of `embedkit.heads.available` that gives probabilities.
    head_params : mapping, optional
        Its parameters, such as ``{"C": 0.5}``.
    pooling : {"first", "mean", "first+mean"}, default "first"
        Of mode ``"frozen"``: which sub-tokens make a word's vector.
    layers : int or sequence of int, default -1
        Of mode ``"frozen"``, as `TextEncoder` has it.
    store : str, Path, False or None, default None
        Of mode ``"frozen"``: folder of the feature store; None for the usual one, False for none.
    epochs : float, default 3
    batch_size : int, default 16
    learning_rate : float, optional
        Default: 2e-5 from a hidden size of 768 up, else 1e-4.
    weight_decay : float, default 0.01
    warmup : float, default 0.1
        Share of the steps, or from 1 up their number.
    freeze : int or {"none", "embeddings", "head-only"}, default "none"
        The embeddings and so many blocks stay as they are.
    max_length : int, optional
        Most tokens that are read at once. Default: the model's. Longer sentences are read in overlapping windows.
    label_subtokens : {"first", "all", "continue"}, default "first"
        Which sub-tokens of a word learn its tag: the first; all; or all, those that follow with ``B-`` turned into
        ``I-``.
    class_weight : None, "balanced" or mapping of tag to weight
    label_smoothing : float, default 0
    validation_fraction : float, optional
        Part of the sentences that is held out, equal ones together; the weights of the best evaluation on it are
        kept. Default: none, and the last weights are.
    metric : str, optional
        By which the best is chosen: ``"f1"`` of entities, their ``"precision"`` or ``"recall"``, or
        ``"accuracy"`` where tags stand for spans; else ``"accuracy"``, ``"macro-f1"`` or ``"mcc"``. Default: the
        first.
    patience : int, optional
        Stop after so many epochs without a better one.
    precision : {"auto", "float32", "bfloat16", "float16"}, default "auto"
    accumulation : int, default 1
        Batches that make a step.
    random_state : int, default 42
    device : str, default "auto"
    threads : int, optional
    trainer_args : mapping, optional
        Anything else that `transformers.TrainingArguments` takes.
    revision : str, optional
        Of a hub id.

    Attributes
    ----------
    classes_ : ndarray of str, shape (C,)
        Tags; IOB2 where they stand for spans, whatever scheme y has.
    scheme_ : str
        Of y, as `embedkit.data.schemes` calls it; ``"none"`` where tags are of single words.
    tagger_ : TunedTagger or FrozenTagger
    history_ : list of dict
        A row for each evaluation; empty without `validation_fraction`.
    notes_ : list of str
        What is worth knowing of the fit.

    Examples
    --------
    >>> tagger = TokenClassifier("minilm", epochs=1)
    >>> X, y = [["Ann", "is", "in", "Bern"]], [["B-PER", "O", "O", "B-LOC"]]
    >>> tagger.fit(X, y).predict([["Bob", "left"]])  # doctest: +SKIP
    [['B-PER', 'O']]
    """

    history_: list[dict[str, Any]]
    notes_: list[str]

    def __init__(
        self,
        model: str | Path = "minilm",
        *,
        mode: Literal["finetune", "frozen"] = "finetune",
        task: Literal["auto", "ner", "chunk", "pos"] = "auto",
        head: str = "logreg",
        head_params: Mapping[str, Any] | None = None,
        pooling: str = "first",
        layers: int | str | Sequence[int] = -1,
        store: str | Path | bool | None = None,
        epochs: float = 3.0,
        batch_size: int = 16,
        learning_rate: float | None = None,
        weight_decay: float = 0.01,
        warmup: float = 0.1,
        freeze: int | str = "none",
        max_length: int | None = None,
        label_subtokens: Literal["first", "all", "continue"] = "first",
        class_weight: Mapping[str, float] | str | None = None,
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
        self.mode = mode
        self.task = task
        self.head = head
        self.head_params = head_params
        self.pooling = pooling
        self.layers = layers
        self.store = store
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup = warmup
        self.freeze = freeze
        self.max_length = max_length
        self.label_subtokens = label_subtokens
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

    def fit(self, X: Any, y: Any) -> TokenClassifier:  # noqa: N803, ANN401
        """Learn from sentences.

        Parameters
        ----------
        X : list, array or Series of lists of words; n of them
        y : list, array or Series of lists of tags, as many as words
            Of any scheme that `embedkit.data.schemes` knows.

        Returns
        -------
        TokenClassifier
            Itself.

        Raises
        ------
        DataError
            Lengths differ, a row is no list of words or tags, a tag is not of its scheme, or there is only one.
        UsageError
            A parameter is not allowed.
        ModelError, InputMissingError, HubError, TrainingError
            As for `FineTunedClassifier.fit`.
        """
        self._check_mode()
        train = _as_split(X, y)
        require_classes(train.labels, "y")
        converted, scheme, notes = with_iob2({"train": train}, self.task)
        sentences = cast("list[list[str]]", converted["train"].inputs)
        tags = cast("list[list[str]]", converted["train"].labels)
        fit = self._fit_frozen if self.mode == "frozen" else self._fit_tuned
        fit(sentences, tags, LabelCodec.fit(tags))
        self.scheme_, self.notes_ = scheme, [*notes, *self.notes_]
        return self

    def _check_mode(self) -> None:
        """Refuse an unknown mode or task, and what the other mode alone has."""
        if self.task not in ("auto", *TAG_TASKS):
            raise UsageError(f"task is {self.task!r}; allowed: auto, {', '.join(TAG_TASKS)}")
        if self.mode not in _OF_MODE:
            raise UsageError(f"mode is {self.mode!r}; allowed: {', '.join(_OF_MODE)}")
        usual = inspect.signature(type(self)).parameters
        (other,) = (mode for mode in _OF_MODE if mode != self.mode)
        given = [name for name in _OF_MODE[other] if getattr(self, name) != usual[name].default]
        if given:
            raise UsageError(f"{', '.join(given)}: of mode {other!r} alone; leave it out of mode {self.mode!r}")

    def _fit_frozen(self, sentences: list[list[str]], tags: list[list[str]], codec: LabelCodec) -> None:
        from embedkit.encoders import WordExtractor
        from embedkit.estimators.frozen import head_settings
        from embedkit.export.engine import make_engine
        from embedkit.heads import HeadSpec, fit_head
        from embedkit.store import open_store

        weights: Any = self.class_weight
        params = {name: plain(value) for name, value in dict(self.head_params or {}).items()}
        spec = HeadSpec(self.head, "auto", weights, params, plain(self.random_state))
        check_tag_heads([spec], codec)
        settings = EncoderSettings(
            self.model, revision=self.revision, pooling=self.pooling, layers=self.layers,
            max_length=plain(self.max_length), device=self.device, threads=plain(self.threads),
        )  # fmt: skip
        extractor = WordExtractor(settings, store=open_store(self.store), engines=make_engine)
        features = extractor.transform(sentences)
        vectors, codes = learnable(features, tags, codec)
        fitted = fit_head(spec, vectors, codes, len(codec), names=codec.names)
        said = {**head_settings(spec), "scaled": fitted.scaled}
        about = {"head_settings": said, "seed": spec.seed, **told_of_tags(self.task)}
        self.history_, self.notes_ = [], [*extractor.remarks(features.extraction), *fitted.notes]
        self._adopt(FrozenTagger(extractor, fitted.head, codec, about), None)

    def _fit_tuned(self, sentences: list[list[str]], tags: list[list[str]], codec: LabelCodec) -> None:
        from embedkit.training.words import WordTags, tune_words

        settings = self._settings()
        length = plain(self.max_length)
        start = open_start(self.model, revision=self.revision, max_length=length, words=True)
        learnt, held = self._held_out(sentences)

        def part(rows: NDArray[np.int64]) -> WordTags:
            return WordTags([sentences[row] for row in rows], [tags[row] for row in rows])

        tuned = tune_words(
            start.folder,
            start.tokenizer,
            codec.names,
            part(learnt),
            part(held) if len(held) else None,
            settings,
            task=self.task,
            subtokens=self.label_subtokens,
        )
        said = {"label_subtokens": self.label_subtokens, "validation_fraction": plain(self.validation_fraction)}
        about = {
            "base": base_said(start.folder),
            "seed": settings.seed,
            "settings": {**tuned_said(settings, tuned), **said},
            **told_of_tags(self.task),
        }
        found = TunedTagger(tuned.model, start.tokenizer, codec, about)
        found.device, found.threads = settings.device, settings.threads
        self.history_, self.notes_ = tuned.trained.history, tuned.notes
        self._adopt(found, TokenizerSettings.of(start.folder))

    def _settings(self) -> TuneSettings:
        """Return the parameters as training takes them, all checked that can be without a model."""
        from embedkit.training.loop import check_told

        EncoderSettings(
            self.model, revision=self.revision, max_length=plain(self.max_length), device=self.device,
            threads=plain(self.threads),
        )  # fmt: skip
        share = validation_share(self.validation_fraction)
        settings = TuneSettings(
            **{name: plain(getattr(self, name)) for name in _TOLD},
            eval_strategy="no" if share is None else "epoch",
            seed=plain(self.random_state),
            device=self.device,
            threads=plain(self.threads),
            arguments=dict(self.trainer_args or {}),
        )
        check_told(settings)
        return settings

    def _held_out(self, sentences: Sequence[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the sentences to learn from and those to judge by."""
        if self.validation_fraction is None:
            return np.arange(len(sentences)), np.arange(0)
        return holdout(None, groups_of(sentences), self.validation_fraction, plain(self.random_state))

    def _adopt(self, found: TunedTagger | FrozenTagger, tokenizer: TokenizerSettings | None) -> TokenClassifier:
        self.tagger_, self._tokenizer = found, tokenizer
        self.classes_ = np.array(found.labels)
        return self

    def predict(self, X: Any) -> list[list[str | None]]:  # noqa: N803, ANN401
        """Return a tag for each word of each sentence.

        A word of which the tokenizer makes nothing has ``"O"`` where tags stand for spans, else None.
        """
        check_is_fitted(self, "tagger_")
        tags: list[list[Any]] = self.tagger_.predict(_sentences(X)).tags
        return tags

    def entities(self, texts: Sequence[str]) -> list[list[FoundEntity]]:
        """Find the entities of texts, which are split into words by `embedkit.runtime.words.split_words`.

        Returns
        -------
        list of list of dict
            ``entity_group``, ``score``, ``word``, ``start`` and ``end``; ``text[start:end]`` is ``word``.

        Raises
        ------
        UsageError
            Tags are of single words.
        """
        check_is_fitted(self, "tagger_")
        found = self.tagger_.predict(list(texts)).entities
        if found is None:
            raise UsageError("these tags are of single words and make no entities; use predict")
        return found

    def score(self, X: Any, y: Any) -> float:  # noqa: N803, ANN401
        """Return the F1 of entities as conlleval counts them, or where tags are of single words their accuracy."""
        check_is_fitted(self, "tagger_")
        split = with_iob2({"y": _as_split(X, y)}, "ner" if self.tagger_.spans else "pos")[0]["y"]
        true, predicted = cast("list[list[str]]", split.labels), self.predict(X)
        if self.tagger_.spans:
            return entity_scores(true, predicted)["f1"]
        right = [a == b for a, b in zip(chain(*true), chain(*predicted), strict=True)]
        return float(np.mean(right)) if right else 0.0

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write an artifact folder without pickle; `embedkit.load`, ``embedkit predict`` and transformers read it.

        Raises
        ------
        OutputExistsError
            The folder is there and may not be overwritten.
        """
        check_is_fitted(self, "tagger_")
        if isinstance(self.tagger_, FrozenTagger):
            check_encoder_stays(Path(folder), self.tagger_.extractor.folder.resolved.folder)
        with staged(Path(folder), overwrite=overwrite) as stage:
            if isinstance(self.tagger_, FrozenTagger):
                self.tagger_.save(stage)
                return
            assert self._tokenizer is not None
            with self._tokenizer.laid_out() as source:
                self.tagger_.save(stage, source)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        model: str | None = None,
        store: str | Path | bool | None = None,
        device: str = "auto",
        threads: int | None = None,
    ) -> TokenClassifier:
        """Open a folder that `save`, ``embedkit finetune`` or ``embedkit fit-head`` wrote.

        Its parameters are those of the training, so that `fit` would begin again from the same model.

        Parameters
        ----------
        folder : str or Path
        model : str, optional
            Where the frozen encoder is now, if it has moved.
        store, device, threads
            As for `TokenClassifier`.

        Raises
        ------
        InputMissingError, ArtifactError, SpaceMismatchError, UsageError
            See `embedkit.estimators.tuned.load_tuned` and `embedkit.estimators.frozen.load_frozen`.
        """
        if kind_of(Path(folder)) == FINETUNED:
            return cls._of_tuned(Path(folder), device, threads)
        found = load_frozen_tagger(Path(folder), model=model, store=store, device=device, threads=threads)
        settings, head = found.extractor.settings, mapping_in(found.about, "head_settings")
        loaded = cls(
            str(settings.model),
            mode="frozen",
            task=found.about.get(TAG_TASK, "auto"),
            head=head.get("clf", "logreg"),
            head_params=head.get("params") or None,
            class_weight=head.get("class_weight"),
            pooling=settings.pooling or "first",
            layers=settings.layers,
            max_length=settings.max_length,
            random_state=found.about.get("seed", 42),
            revision=settings.revision,
            store=store,
            device=device,
            threads=threads,
        )
        return loaded._loaded(found, None)

    @classmethod
    def _of_tuned(cls, folder: Path, device: str, threads: int | None) -> TokenClassifier:
        found = load_tuned(folder, device=device, threads=threads)
        if not isinstance(found, TunedTagger):
            raise UsageError(f"{folder} holds a classifier of texts; open it with FineTunedClassifier.load")
        base, told = mapping_in(found.about, "base"), mapping_in(found.about, "settings")
        names = [name for name in (*_TOLD, "label_subtokens", "validation_fraction") if name in told]
        loaded = cls(
            base.get("name", "minilm"),
            task=found.about.get(TAG_TASK, "auto"),
            **{name: told[name] for name in names},
            revision=base.get("commit"),
            max_length=found.tokenizer.max_length,
            random_state=found.about.get("seed", 42),
            trainer_args=told.get("arguments") or None,
            device=device,
            threads=threads,
        )
        return loaded._loaded(found, TokenizerSettings.of_path(folder))

    def _loaded(self, found: TunedTagger | FrozenTagger, tokenizer: TokenizerSettings | None) -> TokenClassifier:
        self.history_, self.notes_ = [], []
        self.scheme_ = "IOB2" if found.spans else "none"
        return self._adopt(found, tokenizer)


def _sentences(X: Any) -> list[Words]:  # noqa: N803, ANN401
    """Return lists of words; `DataError` for anything else."""
    if isinstance(X, str):
        raise DataError("X is a text; give a list of lists of words")
    listed = [list(row) if isinstance(row, list | tuple | np.ndarray) else row for row in X]
    check_words(listed)
    return listed


def _as_split(X: Any, y: Any) -> Split:  # noqa: N803, ANN401
    sentences = _sentences(X)
    tags = [[str(tag) for tag in row] if isinstance(row, list | tuple | np.ndarray) else row for row in y]
    if len(tags) != len(sentences):
        raise DataError(f"X has {len(sentences):,} rows, y has {len(tags):,}; they must be equally many")
    for row, (words, given) in enumerate(zip(sentences, tags, strict=True), 1):
        if not isinstance(given, list):
            raise DataError(f"row {row}: y is a {type(given).__name__}; give a list of tags, one a word")
        if len(words) != len(given):
            raise DataError(f"row {row}: {len(words)} words, {len(given)} tags; every word needs one tag")
    return Split("train", "tokens", sentences, tags, np.arange(1, len(tags) + 1), "y")  # type: ignore[arg-type]
