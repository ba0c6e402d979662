"""An exported folder, or an ONNX folder of others, with the face of a trained one, on the base install alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedkit.data.labels import LabelCodec
from embedkit.data.text import lost, unread
from embedkit.errors import ArtifactError
from embedkit.estimators.tagging import OfTags, Reading, Tagged, tag_inputs
from embedkit.runtime.decide import Thresholds
from embedkit.runtime.loading import load
from embedkit.runtime.predictor import BATCH_TOKENS, Predictor
from embedkit.runtime.tagging import Aggregation, TokenAnswers, joined_answers
from embedkit.runtime.tokens import Text, Words

_ROWS = 2048  # between two reports of progress


class ExportedPredictions(NamedTuple):
    """Answers in input order, as `embedkit.estimators.frozen.Predictions` has them."""

    codes: NDArray[Any]
    probabilities: NDArray[np.floating[Any]] | None
    scores: NDArray[np.floating[Any]] | None
    extraction: Reading


@dataclass(eq=False)
class ExportedClassifier:
    """An opened folder of ``embedkit export-onnx``.

    Attributes
    ----------
    predictor : Predictor
    codec : LabelCodec
    load_seconds : float
        Wall time of opening it.
    """

    predictor: Predictor
    codec: LabelCodec
    load_seconds: float = 0.0
    texts_per_row: int = 1
    _progress: Callable[[int], None] | None = None

    @property
    def kind(self) -> str:
        """What an input is: ``"text"`` or ``"pair"``, or ``"any"`` of them where the folder does not say."""
        return self.predictor.description.input

    @property
    def multi_label(self) -> bool:
        """Whether a text has any number of labels."""
        return self.predictor.description.multi_label

    @property
    def thresholds(self) -> Thresholds | None:
        """What decides instead of the most probable class."""
        return self.predictor.description.thresholds

    @property
    def about(self) -> Mapping[str, Any]:
        """What the manifest says of the training."""
        return self.predictor.about

    def report_to(self, progress: Callable[[int], None]) -> None:
        """Tell `progress` the number of texts that became ready."""
        self._progress = progress

    def predict(self, inputs: Sequence[Text], *, rows: NDArray[np.int64] | None = None) -> ExportedPredictions:
        """Classify texts or pairs; `rows` are what messages call them."""
        start = time.perf_counter()
        numbers = np.arange(1, len(inputs) + 1) if rows is None else rows
        parts = []
        for first in range(0, max(1, len(inputs)), _ROWS):
            part = slice(first, first + _ROWS)
            parts.append(self.predictor.answer(inputs[part], rows=numbers[part]))
            if self._progress is not None:
                self._progress(len(inputs[part]))
        cost = Reading(len(inputs), load_seconds=self.load_seconds)
        cost.truncated = sum(int(answers.truncated.sum()) for answers in parts)
        cost.empty = sum(int(answers.empty.sum()) for answers in parts)
        cost.seconds = time.perf_counter() - start + self.load_seconds
        codes = np.concatenate([answers.codes for answers in parts])
        return ExportedPredictions(
            codes,
            _joined([answers.probabilities for answers in parts]),
            _joined([answers.scores for answers in parts]),
            cost,
        )

    def remarks(self, rows: int, truncated: int, empty: int) -> list[str]:
        """Say how many of some inputs lost tokens or held none."""
        description = self.predictor.description
        return lost(rows, truncated, empty, description.max_length, description.side)


@dataclass(eq=False)
class ExportedTagger(OfTags):
    """An opened folder whose graph answers for each word.

    Attributes
    ----------
    predictor : Predictor
    codec : LabelCodec
    load_seconds : float
        Wall time of opening it.
    """

    predictor: Predictor
    codec: LabelCodec
    load_seconds: float = 0.0
    _progress: Callable[[int], None] | None = None

    @property
    def about(self) -> Mapping[str, Any]:  # type: ignore[override]  # read alone
        """What the manifest says of the training."""
        return self.predictor.about

    @property
    def spans(self) -> bool:
        """Whether tags stand for spans of words."""
        return self.predictor.description.spans

    def report_to(self, progress: Callable[[int], None]) -> None:
        """Tell `progress` the number of sentences that became ready."""
        self._progress = progress

    def predict(
        self,
        inputs: Sequence[str | Words],
        *,
        rows: NDArray[np.int64] | None = None,
        aggregation: Aggregation | None = None,
    ) -> Tagged:
        """Tag texts, which are split into words, or lists of words.

        Parameters
        ----------
        inputs : sequence of str, or of list of str
        rows : ndarray of int64, shape (n,), optional
            What messages call them. Default: 1 to n.
        aggregation : {"first", "average", "max", "none", "logits"}, optional
            As `embedkit.runtime.tagging.Tagging` has it. Default: what the folder says.
        """

        def answer(sentences: list[Words], numbers: NDArray[np.int64] | None) -> TokenAnswers:
            parts = []
            for first in range(0, max(1, len(sentences)), _ROWS):
                part = slice(first, first + _ROWS)
                mine = None if numbers is None else numbers[part]
                parts.append(self.predictor.tag(sentences[part], rows=mine, aggregation=aggregation))
                if self._progress is not None:
                    self._progress(len(sentences[part]))
            return joined_answers(parts)

        tagged = tag_inputs(inputs, rows, answer, spans=self.spans)
        tagged.extraction.load_seconds = self.load_seconds
        tagged.extraction.seconds += self.load_seconds
        return tagged

    def remarks(self, rows: int, truncated: int, empty: int) -> list[str]:
        """Say how many words of some sentences hold nothing."""
        return unread(rows, empty)


def _joined(parts: Sequence[NDArray[np.floating[Any]] | None]) -> NDArray[np.floating[Any]] | None:
    there = [part for part in parts if part is not None]
    return np.concatenate(there) if there else None


def open_exported(
    folder: Path, *, precision: str = "float32", threads: int | None = None, batch_tokens: int | None = None
) -> ExportedClassifier | ExportedTagger:
    """Open a classifier of texts, pairs or words; parameters and errors are those of `embedkit.runtime.load`.

    Raises
    ------
    UsageError
        The folder holds an encoder.
    """
    start = time.perf_counter()
    predictor = load(folder, precision, threads, batch_tokens=batch_tokens or BATCH_TOKENS)
    if predictor.description.task == "tokens":
        return ExportedTagger(predictor, _codec(folder, predictor), time.perf_counter() - start)
    predictor.require("sequence")
    codec = _codec(folder, predictor)
    return ExportedClassifier(predictor, codec, time.perf_counter() - start)


def _codec(folder: Path, predictor: Predictor) -> LabelCodec:
    """Return the labels, if they have the dtype that they are said to have."""
    dtype = predictor.about.get("label_dtype")
    try:
        return LabelCodec.said(predictor.labels, str(dtype))
    except (TypeError, ValueError):  # numpy's words for it name no folder
        raise ArtifactError(
            f"{folder}: its labels are not of the dtype {dtype!r}; make the folder again"
        ) from None
