"""An exported folder, or an ONNX folder of others, with the face of a trained one, on the base install alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from embedkit.data.labels import LabelCodec
from embedkit.data.text import counted, lost
from embedkit.errors import ArtifactError, UsageError
from embedkit.runtime.decide import Thresholds
from embedkit.runtime.description import Label
from embedkit.runtime.entities import FoundEntity, has_spans, locate_entities
from embedkit.runtime.loading import load
from embedkit.runtime.predictor import BATCH_TOKENS, Predictor
from embedkit.runtime.texts import check_texts
from embedkit.runtime.tokens import Text, Words
from embedkit.runtime.words import Span, split_words

_ROWS = 2048  # between two reports of progress


@dataclass
class Reading:
    """What answering has cost, under the names that `embedkit.encoders.Extraction` has."""

    rows: int = 0
    truncated: int = 0
    empty: int = 0
    seconds: float = 0.0
    load_seconds: float = 0.0


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


class Tagged(NamedTuple):
    """Answers for the words of sentences, in input order.

    Attributes
    ----------
    words : list of list of str
        As they were given, or as a text was split.
    tags, scores : list of list
        As `embedkit.runtime.TokenAnswers` has them.
    entities : list of list of dict, or None
        As `embedkit.runtime.Predictor.entities` has them; of words that were given, in their text with a blank
        between two. None where tags stand for single words.
    extraction : Reading
        `truncated` and `empty` count words.
    """

    words: list[list[str]]
    tags: list[list[Label | None]]
    scores: list[list[float | None]]
    entities: list[list[FoundEntity]] | None
    extraction: Reading


@dataclass(eq=False)
class ExportedTagger:
    """An opened folder whose graph answers for each word.

    Attributes
    ----------
    predictor : Predictor
    load_seconds : float
        Wall time of opening it.
    """

    predictor: Predictor
    load_seconds: float = 0.0
    kind: str = "tokens"

    def predict(self, inputs: Sequence[str | Words], *, rows: NDArray[np.int64] | None = None) -> Tagged:
        """Tag texts, which are split into words, or lists of words; `rows` are what messages call them."""
        start = time.perf_counter()
        if inputs and isinstance(inputs[0], str):
            texts = cast("Sequence[str]", inputs)
            check_texts(texts, None if rows is None else rows.tolist())
            spans = [split_words(text) for text in texts]
            sentences = [[text[a:b] for a, b in some] for text, some in zip(texts, spans, strict=True)]
        else:
            sentences = [list(words) for words in inputs]
            texts = [" ".join(words) for words in sentences]
            spans = [_spans_of(words) for words in sentences]
        found = self.predictor.tag(sentences, rows=rows)
        entities = None
        if has_spans(self.predictor.labels):
            each = zip(texts, spans, found.tags, found.scores, strict=True)
            entities = [locate_entities(*one) for one in each]
        cost = Reading(len(inputs), int(found.truncated.sum()), int(found.empty.sum()))
        cost.seconds, cost.load_seconds = time.perf_counter() - start, self.load_seconds
        return Tagged(sentences, found.tags, found.scores, entities, cost)

    def remarks(self, rows: int, truncated: int, empty: int) -> list[str]:
        """Say how many words of some inputs were not read."""
        said, limit = [], self.predictor.description.max_length
        if truncated:
            said.append(
                f"{counted(truncated, 'word')} of {counted(rows, 'input')} lie beyond the {limit} tokens that the "
                "model reads, and have no score"
            )
        if empty:
            said.append(
                f"{counted(empty, 'word')} of {counted(rows, 'input')} hold nothing that the tokenizer knows"
            )
        return said


def _spans_of(words: Sequence[str]) -> list[Span]:
    """Return where words are in their text with a blank between two."""
    ends = accumulate(len(word) + 1 for word in words)
    return [(end - 1 - len(word), end - 1) for word, end in zip(words, ends, strict=True)]


def _joined(parts: Sequence[NDArray[np.floating[Any]] | None]) -> NDArray[np.floating[Any]] | None:
    there = [part for part in parts if part is not None]
    return np.concatenate(there) if there else None


def load_exported(
    folder: Path, *, precision: str = "float32", threads: int | None = None, batch_tokens: int | None = None
) -> ExportedClassifier:
    """Open a classifier of texts or pairs; parameters and errors are those of `embedkit.runtime.load`.

    Raises
    ------
    UsageError
        The folder holds a token classifier or an encoder.
    """
    found = open_exported(folder, precision=precision, threads=threads, batch_tokens=batch_tokens)
    if isinstance(found, ExportedTagger):
        raise UsageError(
            f"{folder} is a token classifier: embedkit predict answers with it, and nothing else does so far"
        )
    return found


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
        return ExportedTagger(predictor, time.perf_counter() - start)
    predictor.require("sequence")
    codec = _codec(folder, predictor)
    return ExportedClassifier(predictor, codec, time.perf_counter() - start)


def _codec(folder: Path, predictor: Predictor) -> LabelCodec:
    """Return the labels, if they have the dtype that they are said to have."""
    dtype = predictor.about.get("label_dtype")
    try:
        return LabelCodec.said(predictor.labels, str(dtype))
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{folder}: {error}; make the folder again") from None
