"""The reference that few-shot tuning is measured against: the library setfit, run as it is."""

from __future__ import annotations

import contextlib
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedkit.data.text import counted
from embedkit.encoders import FeatureExtractor
from embedkit.errors import DataError, TrainingError, UsageError, require
from embedkit.heads import Head, head_from_estimator
from embedkit.runtime.tokens import Text
from embedkit.training.contrast import TunedEncoder, check_tunable, open_sentence_model
from embedkit.training.loop import Place, is_memory, surroundings
from embedkit.training.pairs import STRATEGIES, PairCounts, Strategy
from embedkit.training.sequence import Labelled
from embedkit.training.settings import TuneSettings

EXTRA = "setfit"
_SEVERAL = "one-vs-rest"


@dataclass(frozen=True)
class SetFitSettings:
    """What setfit is told; the defaults are its usual settings.

    Attributes
    ----------
    iterations : int or None, default 20
        R: 2 x R pairs a text, R of them positive. None: as many as `strategy` makes.
    strategy : {"oversampling", "undersampling", "unique"}
        How positive and negative pairs are balanced where `iterations` is None.
    epochs : int, default 1
    batch_size : int, default 16
        Pairs of a step.
    learning_rate : float, default 2e-5
    seed : int, default 42
    threads : int, optional
        Of the forward and backward pass on a CPU.

    Raises
    ------
    UsageError
        A value is not allowed.
    """

    iterations: int | None = 20
    strategy: Strategy = "oversampling"
    epochs: int = 1
    batch_size: int = 16
    learning_rate: float = 2e-5
    seed: int = 42
    threads: int | None = None

    def __post_init__(self) -> None:
        given: dict[str, object] = {"epochs": self.epochs, "batch_size": self.batch_size}
        given |= {} if self.iterations is None else {"pair_iterations": self.iterations}
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"{name} is {value!r}; setfit takes a whole number from 1 up")
        if self.strategy not in STRATEGIES:
            raise UsageError(f"strategy is {self.strategy!r}; allowed: {', '.join(STRATEGIES)}")
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"learning_rate is {self.learning_rate!r}; it must be above 0")


@dataclass(frozen=True, eq=False)
class SetFitTuned:
    """What setfit has learnt.

    Attributes
    ----------
    encoder : TunedEncoder
        Its counts are those of setfit, which encodes both texts of each pair; its seconds are of tuning and of the
        fit of the head.
    head : Head
        setfit's own logistic regression, on the encoder's vectors.
    """

    encoder: TunedEncoder
    head: Head = field(repr=False)


def tune_setfit(
    base: FeatureExtractor, data: Labelled, settings: SetFitSettings, *, say: Callable[[str], None] | None = None
) -> SetFitTuned:
    """Tune an encoder and fit a head with setfit: its ``Trainer`` and its logistic regression.

    Parameters
    ----------
    base : FeatureExtractor
        The encoder and what is taken from it, as for `embedkit.training.contrast.tune_encoder`.
    data : Labelled
        Few texts, with codes from 0 up, all of which occur; or with sets of labels.
    settings : SetFitSettings
    say : callable, optional
        Given a line on pairs and texts before training.

    Raises
    ------
    MissingExtraError
        setfit is not installed.
    UsageError
        Inputs are pairs, which setfit does not know, or what is taken from the encoder cannot be tuned.
    ModelError
        The model cannot be opened.
    TrainingError
        Memory is full, or the weights are no numbers any more.
    DataError
        There are no pairs of one kind, where `settings` want both.
    """
    check_setfit(data.inputs)
    check_tunable(base)
    _check_pairs(data.targets, settings)
    counts = count_setfit_pairs(data.targets, settings)
    if say is not None:
        pairs, texts, steps = counted(counts.pairs, "pair"), counted(counts.texts, "text"), counts.steps
        say(f"setfit: {pairs} in {counted(steps, 'step')} encode {texts}, two a pair (seed {settings.seed})")
    # it says that it trains, but the transformer in it does not: what is opened from files has no dropout
    body = open_sentence_model(base).train()
    several = data.targets.ndim == 2
    with _contained(body, settings) as place, _convergence() as notes, _failing(body, settings):
        model = _model(body, several=several)
        trainer = _trainer(model, _as_read(base, data.inputs), data.targets, settings, place)
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
    body.to("cpu").eval().requires_grad_(False)
    head = head_from_estimator(model.model_head, multi_label=several)
    tuned = TunedEncoder(body.transformers_model, base, counts, "float32", settings.learning_rate, seconds, notes)
    return SetFitTuned(tuned, head)


def check_setfit(inputs: Sequence[Text]) -> None:
    """Refuse, before a model is opened, what setfit cannot do.

    Raises
    ------
    MissingExtraError
        It is not installed.
    UsageError
        Inputs are pairs.
    """
    require("setfit", extra=EXTRA, purpose="the tuner setfit")
    if len(inputs) and isinstance(inputs[0], tuple):
        raise UsageError("setfit knows no pairs of texts; leave out --tuner setfit")


def count_setfit_pairs(targets: NDArray[Any], settings: SetFitSettings) -> PairCounts:
    """Return what setfit will see, before anything is drawn; by strategy it pairs a text with itself too.

    Parameters
    ----------
    targets : ndarray of int64, shape (n,), or of bool, shape (n, L)
        Codes of the texts, or which labels each has.
    settings : SetFitSettings
    """
    if settings.iterations is not None:
        positive = negative = settings.iterations * len(targets)
    else:
        positive, negative = _all_pairs(targets)
    if settings.iterations is None and settings.strategy != "unique":
        positive = negative = (max if settings.strategy == "oversampling" else min)(positive, negative)
    pairs, epochs = positive + negative, settings.epochs
    steps = -(-pairs // settings.batch_size)
    return PairCounts(epochs * positive, epochs * negative, 2 * epochs * pairs, epochs * steps)


def _check_pairs(targets: NDArray[Any], settings: SetFitSettings) -> None:
    """Refuse texts of which setfit would repeat pairs that are not there."""
    for count, what in zip(_all_pairs(targets), ("with a label in common", "without"), strict=True):
        if not count and (settings.iterations is not None or settings.strategy != "unique"):
            raise DataError(
                f"setfit balances pairs with a label in common and pairs without, and there is no pair {what}; "
                "give texts of other labels, or --strategy unique"
            )


def _all_pairs(targets: NDArray[Any]) -> tuple[int, int]:
    """Return how many pairs have a label in common and how many none; a text with itself is a pair too."""
    rows = len(targets)
    together = targets[:, None] == targets if targets.ndim == 1 else (targets.astype(int) @ targets.T) > 0
    positive = int(np.triu(together).sum())
    return positive, rows * (rows + 1) // 2 - positive


def _as_read(base: FeatureExtractor, texts: Sequence[Text]) -> list[str]:
    """Return texts as the recipe has them before its tokenizer."""
    read = [f"{base.recipe.prompt}{text}" for text in texts]
    return [text.lower() for text in read] if base.recipe.lowercase else read


def _model(body: Any, *, several: bool) -> Any:  # noqa: ANN401 - of sentence-transformers; of setfit
    """Return setfit's model; ``SetFitModel.from_pretrained`` would unpickle a head that it finds in a folder."""
    from setfit import SetFitModel
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    if several:
        return SetFitModel(body, OneVsRestClassifier(LogisticRegression()), multi_target_strategy=_SEVERAL)
    return SetFitModel(body, LogisticRegression())


def _trainer(
    model: Any,  # noqa: ANN401 - a SetFitModel
    texts: list[str],
    targets: NDArray[Any],
    settings: SetFitSettings,
    place: Path,
) -> Any:  # noqa: ANN401 - setfit's Trainer
    from datasets import Dataset
    from setfit import Trainer, TrainingArguments
    from transformers import PrinterCallback

    rows = Dataset.from_dict({"text": texts, "label": targets.astype(np.int64).tolist()})
    arguments = TrainingArguments(
        output_dir=str(place),
        batch_size=settings.batch_size,
        num_epochs=settings.epochs,
        num_iterations=settings.iterations,
        sampling_strategy=settings.strategy,
        body_learning_rate=settings.learning_rate,
        seed=settings.seed,
        show_progress_bar=False,
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
    )
    trainer = Trainer(model, arguments, train_dataset=rows)
    trainer.remove_callback(PrinterCallback)
    return trainer


@contextlib.contextmanager
def _contained(body: Any, settings: SetFitSettings) -> Iterator[Path]:  # noqa: ANN401 - of sentence-transformers
    """Give setfit a folder of its own, and take back what it does to the process; threads take turns."""
    told = TuneSettings(seed=settings.seed, threads=settings.threads)
    with surroundings(body, Place(), told) as place, _imported():
        yield place


@contextlib.contextmanager
def _failing(body: Any, settings: SetFitSettings) -> Iterator[None]:  # noqa: ANN401 - of sentence-transformers
    """Say what can be done where memory is full or the weights are no numbers; other errors stay as they are."""
    try:
        yield
    except Exception as error:  # torch and scikit-learn raise many kinds
        if is_memory(error):
            raise TrainingError(
                f"out of memory in setfit at steps of {counted(settings.batch_size, 'pair')} of texts of up to "
                f"{body.max_seq_length} tokens; lower --batch-size or --max-length"
            ) from error
        if not all(bool(weight.isfinite().all()) for weight in body.parameters()):
            raise TrainingError(
                "the weights that setfit tuned are no numbers any more; lower --learning-rate"
            ) from error
        raise


@contextlib.contextmanager
def _imported() -> Iterator[None]:
    """Import setfit, which changes the filters of warnings and logs what it does; keep both as they were."""
    with warnings.catch_warnings():
        import datasets
        import setfit

    logger = logging.getLogger(setfit.__name__)
    level, bars = logger.level, datasets.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def _convergence() -> Iterator[list[str]]:
    """Collect what scikit-learn says of convergence; what libraries say of themselves goes."""
    from sklearn.exceptions import ConvergenceWarning

    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield notes
    said = {str(one.message).splitlines()[0] for one in caught if issubclass(one.category, ConvergenceWarning)}
    notes += [f"setfit's head: {line}" for line in sorted(said)]
