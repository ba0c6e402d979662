"""`FewShotClassifier`: an encoder tuned on few texts and a classical head as one scikit-learn classifier."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_is_fitted

from embedkit.artifact import staged
from embedkit.data import Split, draw_shots
from embedkit.encoders import FeatureExtractor
from embedkit.encoders.settings import Engine
from embedkit.errors import UsageError
from embedkit.estimators.embedding_classifier import EmbeddingClassifier
from embedkit.estimators.frozen import FrozenClassifier, copy_encoder
from embedkit.estimators.inputs import as_weights, kind_of
from embedkit.estimators.start import base_said
from embedkit.estimators.text_classifier import as_labelled, check_learnable, mapping_in, plain
from embedkit.estimators.text_encoder import TextEncoder
from embedkit.estimators.tuned_encoder import write_encoder
from embedkit.runtime.tokens import Text

if TYPE_CHECKING:
    from embedkit.training.contrast import ContrastSettings, TunedEncoder
    from embedkit.training.pairs import PairCounts

OURS = "embedkit"  # the tuner, in a manifest
# What is called alike here and in a manifest.
_OF_TRAINING = ("epochs", "batch_size", "learning_rate", "weight_decay", "warmup")
_TOLD = ("strategy", "pair_iterations", "loss", "temperature", *_OF_TRAINING)


class FewShotClassifier(EmbeddingClassifier):
    """A sentence encoder tuned on few texts by pairs of them, with a classical head on its features.

    Texts of a class are drawn together and others apart, as SetFit does (Tunstall et al., 2022), but each step
    encodes each of its texts once; then the head is fitted on what the tuned encoder makes of the same texts.

    Parameters
    ----------
    encoder : str, Path or TextEncoder, default "minilm"
        A model to begin from, or an encoder with more to say. The features of a tuned encoder are kept in a store
        only where the `TextEncoder` names one: each fit makes an encoder of its own.
    head : str or scikit-learn classifier, default "logreg"
        As for `EmbeddingClassifier`, as are the parameters of the head below.
    shots : int, optional
        So many texts of each class are drawn by `random_state`, each text once, and all others are left alone; a
        class that has fewer gives all of them. Default: all texts are learnt from.
    strategy : {"oversampling", "undersampling", "unique"}, default "oversampling"
        How positive and negative pairs are balanced.
    pair_iterations : int, optional
        R, instead of `strategy` and `epochs`: 2 x R pairs a text, R of them positive.
    loss : {"cosine", "supcon"}, default "cosine"
        SetFit's, or supervised contrastive (Khosla et al., 2020).
    temperature : float, optional
        Of supcon. Default: `embedkit.training.contrast.TEMPERATURE`.
    epochs : float, optional
        Passes over the texts. Default: `embedkit.training.pairs.EPOCHS`.
    batch_size : int, optional
        Texts of a step. Default: `embedkit.training.contrast.TEXTS`.
    learning_rate : float, optional
        Default: 2e-4, of encoders with states of more than 384 numbers in proportion less.
    weight_decay, warmup : float, optional
        As for `FineTunedClassifier`, and with its defaults.
    precision : {"auto", "float32", "bfloat16", "float16"}, default "auto"
        Of matrix products while weights are moved; features are computed in float32.
    trainer_args : mapping, optional
        Anything else that `transformers.TrainingArguments` takes.
    scale, class_weight, head_params, calibrate, thresholds, positive_label
        As for `EmbeddingClassifier`.
    random_state : int, default 42
        Of the draw, of the pairs and their order, and of the head; kept in the artifact.

    Attributes
    ----------
    classes_, head_
        As of `EmbeddingClassifier`.
    encoder_ : TextEncoder
        The tuned encoder, in a folder of its own that lives as long as it; a pickle carries its weights.
    rows_ : ndarray of int64
        Positions in X that were learnt from.
    counts_ : embedkit.training.pairs.PairCounts
        Pairs, and texts that were encoded.
    notes_ : list of str
        What is worth knowing of the fit. After `load` it is empty, and `rows_` and `counts_` are not there.

    Notes
    -----
    The same data, parameters and machine give the same answers, and chance of the process goes on as if there had
    been no `fit`.

    Examples
    --------
    >>> classifier = FewShotClassifier("minilm", shots=8)
    >>> classifier.fit(["good", "great", "bad", "poor"], [1, 1, 0, 0]).predict(["fine"])  # doctest: +SKIP
    array([1])
    """

    rows_: NDArray[np.int64]

    def __init__(
        self,
        encoder: str | Path | TextEncoder = "minilm",
        head: Any = "logreg",  # noqa: ANN401 - a name or any classifier
        *,
        shots: int | None = None,
        strategy: str = "oversampling",
        pair_iterations: int | None = None,
        loss: str = "cosine",
        temperature: float | None = None,
        epochs: float | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        warmup: float | None = None,
        precision: str = "auto",
        trainer_args: Mapping[str, Any] | None = None,
        scale: str = "auto",
        class_weight: Mapping[Any, float] | str | None = None,
        head_params: Mapping[str, Any] | None = None,
        random_state: int = 42,
        calibrate: bool = False,
        thresholds: str | None = None,
        positive_label: Any = None,  # noqa: ANN401 - a label
    ) -> None:
        super().__init__(
            encoder,
            head,
            scale=scale,
            class_weight=class_weight,
            head_params=head_params,
            random_state=random_state,
            calibrate=calibrate,
            thresholds=thresholds,
            positive_label=positive_label,
        )
        self.shots = shots
        self.strategy = strategy
        self.pair_iterations = pair_iterations
        self.loss = loss
        self.temperature = temperature
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup = warmup
        self.precision = precision
        self.trainer_args = trainer_args

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> FewShotClassifier:  # noqa: N803, ANN401
        """Tune the encoder on texts or pairs, and fit the head.

        Parameters
        ----------
        X, y
            As for `EmbeddingClassifier.fit`.
        sample_weight : array-like of float, shape (n,), optional
            Weight of each row in the head's fit, from 0 up; what weighs nothing is not tuned on either.

        Returns
        -------
        FewShotClassifier
            Itself.

        Raises
        ------
        DataError
            As of `EmbeddingClassifier.fit`; or all texts are equal, or with `shots` every text of a class also
            stands with another label.
        UsageError
            A parameter is not allowed.
        ModelError, InputMissingError, HubError
            The model cannot be opened.
        TrainingError
            The loss is no number, or memory is full.
        """
        notes: list[str] = []
        rows: NDArray[np.int64] | None = None
        if self.shots is not None:
            inputs, rows, notes = self._drawn(X, y, sample_weight)
            X = [inputs[row] for row in rows]  # noqa: N806
            y, sample_weight = (None if of is None else _safe_indexing(of, rows) for of in (y, sample_weight))
        super().fit(X, y, sample_weight)
        assert isinstance(self.encoder_, _TunedEncoder)  # of `_encoder_for`
        tuning = self.encoder_.tuning
        self.rows_ = tuning.rows if rows is None else rows[tuning.rows]
        self.counts_ = tuning.counts
        self.notes_ = [*notes, *tuning.notes, *self.notes_]
        self._about |= {"base": tuning.base, "few_shot": self._few_shot_said(tuning)}
        return self

    def _drawn(
        self,
        X: Any,  # noqa: N803, ANN401
        y: Any,  # noqa: ANN401
        sample_weight: Any,  # noqa: ANN401
    ) -> tuple[list[Text], NDArray[np.int64], list[str]]:
        """Return all inputs, the rows of `shots` among those that weigh something, and what is worth saying."""
        inputs, targets = as_labelled(X, y)
        weights = as_weights(sample_weight, len(inputs))
        codec = targets.codec()
        codes = targets.encode(codec)
        rows = _weighing(len(inputs), weights)
        check_learnable(codec, codes[rows])
        labels: Any = codec.decode_sets(codes) if targets.several else codec.decode(codes).tolist()
        split = Split("X", kind_of(inputs), inputs, labels, np.arange(1, len(inputs) + 1), "X")  # type: ignore[arg-type]
        found = draw_shots(split.take(rows), plain(self.shots), seed=self._seed())
        return inputs, found.split.rows - 1, found.notes

    def _few_shot_said(self, tuning: _Tuning) -> dict[str, Any]:
        """Return what a manifest says of the tuning, as ``embedkit fewshot`` does."""
        return {
            "tuner": OURS,
            "settings": self._contrast_settings().to_json(),
            "shots": plain(self.shots),
            "seed": self._seed(),
            "split": "X",
            "rows": (self.rows_ + 1).tolist(),
            "counts": asdict(tuning.counts),
            "precision": tuning.precision,
            "learning_rate": tuning.rate,
        }

    def _encoder_for(
        self, inputs: list[Text], codes: NDArray[Any], weights: NDArray[np.float64] | None
    ) -> TextEncoder:
        """Tune the encoder; return the one that gives its features."""
        from embedkit.training.contrast import check_contrast, tune_encoder, with_pooling
        from embedkit.training.sequence import Labelled

        told, given = self._contrast_settings(), self._new_encoder()
        wanted, rows = given._wanted().settings, _weighing(len(inputs), weights)
        told = replace(told, training=replace(told.training, device=wanted.device, threads=wanted.threads))
        check_contrast(told)
        settings, notes = with_pooling(wanted)
        data = Labelled([inputs[row] for row in rows], codes[rows])
        tuned = tune_encoder(FeatureExtractor(settings), data, told)
        return _TunedEncoder.of(tuned, given, rows, notes)

    def _contrast_settings(self) -> ContrastSettings:
        """Return the parameters as tuning takes them, checked."""
        from embedkit.training.contrast import ContrastSettings, usual_training
        from embedkit.training.pairs import PairSettings

        if self.trainer_args is not None and not isinstance(self.trainer_args, Mapping):
            raise UsageError(f"trainer_args is a {type(self.trainer_args).__name__}; it must be a mapping")
        if self.pair_iterations is not None and self.epochs is not None:
            raise UsageError("pair_iterations is instead of epochs; leave one of them out")
        if self.temperature is not None and self.loss != "supcon":
            raise UsageError("temperature is of the loss supcon; leave it out")
        given = {name: plain(value) for name in _OF_TRAINING if (value := getattr(self, name)) is not None}
        training = replace(
            usual_training(),
            **given,
            precision=self.precision,  # type: ignore[arg-type]  # checked there
            seed=self._seed(),
            arguments=dict(self.trainer_args or {}),
        )
        pairs = PairSettings(self.strategy, plain(self.pair_iterations))  # type: ignore[arg-type]
        instead = {} if self.temperature is None else {"temperature": plain(self.temperature)}
        return ContrastSettings(pairs, self.loss, training=training, **instead)  # type: ignore[arg-type]

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write an artifact folder without pickle: the encoder as sentence-transformers reads it, and the head.

        `embedkit.load` and ``embedkit predict`` read it, and ``SentenceTransformer(folder)`` its encoder.

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
        head, source = self._saved_head(), self.encoder_._open_as_fitted()
        with staged(Path(folder), overwrite=overwrite) as stage:
            copy_encoder(source.folder.resolved.folder, stage)
            extractor = FeatureExtractor(replace(source.settings, model=stage), dtype=source.dtype)
            FrozenClassifier(
                extractor, head, self._codec, self.encoder_._kind, self._about, self._thresholds
            ).save(stage)

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
    ) -> FewShotClassifier:
        """Open a folder that `save` or ``embedkit fewshot`` wrote.

        Its parameters are those of the tuning, so that `fit` would begin again from the same model; where
        ``--adapt-on`` adapted that first, from the one before.

        Parameters
        ----------
        folder, model, store, device, engine, threads
            As for `EmbeddingClassifier.load`.

        Raises
        ------
        InputMissingError, ArtifactError, SpaceMismatchError
            See `embedkit.estimators.frozen.load_frozen`.
        UsageError
            It was not tuned by embedkit.
        """
        loaded = super().load(folder, model=model, store=store, device=device, engine=engine, threads=threads)
        few_shot, base = mapping_in(loaded._about, "few_shot"), mapping_in(loaded._about, "base")
        if few_shot.get("tuner") != OURS:
            raise UsageError(f"{folder} was not tuned by embedkit; open it with EmbeddingClassifier.load")
        encoder = clone(loaded.encoder).set_params(model=base.get("name"), revision=base.get("commit"))
        told = mapping_in(few_shot, "settings")
        params = {name: told[name] for name in _TOLD if told.get(name) is not None}
        if "pair_iterations" in params:
            params.pop("epochs", None)  # it stands for them
        arguments = told.get("arguments") or None
        loaded.set_params(encoder=encoder, shots=few_shot.get("shots"), trainer_args=arguments, **params)
        return loaded


def _weighing(rows: int, weights: NDArray[np.float64] | None) -> NDArray[np.int64]:
    """Return the rows that weigh something."""
    return np.arange(rows) if weights is None else np.flatnonzero(weights)


class _OwnFolder:
    """A folder that lives as long as this object, and whose files travel with its pickle."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="embedkit-"))
        weakref.finalize(self, _remove, self.path, os.getpid())

    def __getstate__(self) -> dict[str, bytes]:
        files = (path for path in self.path.rglob("*") if path.is_file())
        return {path.relative_to(self.path).as_posix(): path.read_bytes() for path in files}

    def __setstate__(self, files: Mapping[str, bytes]) -> None:
        _OwnFolder.__init__(self)
        for name, data in files.items():
            path = self.path / name
            if not path.resolve().is_relative_to(self.path.resolve()):
                raise ValueError(f"{name} lies outside the folder")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def _remove(path: Path, process: int) -> None:
    """Remove a folder, unless this is a forked process, whose parent still has it."""
    if os.getpid() == process:
        shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True, eq=False)
class _Tuning:
    """What is known of a tuning: what it learnt from, and what it has seen and said."""

    rows: NDArray[np.int64]
    counts: PairCounts
    precision: str
    rate: float
    base: dict[str, Any]
    notes: list[str]


class _TunedEncoder(TextEncoder):
    """A `TextEncoder` of a folder of its own, which lives as long as it and travels with its pickle."""

    tuning: _Tuning
    _own: _OwnFolder

    @classmethod
    def of(
        cls, tuned: TunedEncoder, given: TextEncoder, rows: NDArray[np.int64], notes: list[str]
    ) -> _TunedEncoder:
        """Write a tuned encoder down; `given` says where its features are kept."""
        own = _OwnFolder()
        settings = write_encoder(own.path, tuned)
        store = False if given.store is None else given.store
        encoder = cls(**vars(settings), store=store, store_dtype=given.store_dtype)
        base = base_said(tuned.base.folder)
        encoder._own = own
        encoder.tuning = _Tuning(rows, tuned.counts, tuned.precision, tuned.rate, base, [*notes, *tuned.notes])
        return encoder

    def __sklearn_clone__(self) -> _TunedEncoder:
        """Return an unfitted one of the same folder, which lives as long as either."""
        cloned: _TunedEncoder = super().__sklearn_clone__()
        cloned._own = self._own
        return cloned

    def __getstate__(self) -> dict[str, Any]:
        """Name the folder by what travels, as its path will be another; not where `set_params` named a model."""
        state = super().__getstate__()
        return {**state, "model": self._own if Path(self.model) == self._own.path else self.model}

    def __setstate__(self, state: dict[str, Any]) -> None:
        model = state["model"]
        super().__setstate__({**state, "model": model.path if isinstance(model, _OwnFolder) else model})
        if hasattr(self, "settings_"):
            self.settings_ = replace(self.settings_, model=self._own.path)
