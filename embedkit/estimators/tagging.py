"""What all taggers share, whatever reads the words: what they answer, and how texts become words."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from embedkit.data.labels import LabelCodec
from embedkit.runtime.decide import Label
from embedkit.runtime.entities import TAG_TASKS, FoundEntity, has_spans, locate_entities
from embedkit.runtime.manifest import TAG_TASK
from embedkit.runtime.tagging import Aggregation, TokenAnswers
from embedkit.runtime.texts import check_texts, check_unicode, checked_sentences
from embedkit.runtime.tokens import Words
from embedkit.runtime.words import Span, split_words, words_of

Answering: TypeAlias = Callable[[list[Words], NDArray[np.int64] | None], TokenAnswers]
"""Tags sentences of words; gets what messages call them too."""


@dataclass
class Reading:
    """What answering has cost, under the names that `embedkit.encoders.Extraction` has."""

    rows: int = 0
    truncated: int = 0
    empty: int = 0
    seconds: float = 0.0
    load_seconds: float = 0.0


class Tagged(NamedTuple):
    """Answers for the words of sentences, in input order.

    Attributes
    ----------
    words : list of list of str
        As they were given, or as a text was split; the pieces of words where each answers for itself.
    tags, scores : list of list
        As `embedkit.runtime.TokenAnswers` has them.
    entities : list of list of dict, or None
        As `embedkit.runtime.Predictor.entities` has them; of words that were given, in their text with a blank
        between two. None where tags stand for single words.
    extraction : Reading
        `empty` counts words of which the tokenizer makes nothing; nothing is truncated.
    """

    words: list[list[str]]
    tags: list[list[Label | None]]
    scores: list[list[float | None]]
    entities: list[list[FoundEntity]] | None
    extraction: Reading


class Tagger(Protocol):
    """What answers for words: fine-tuned, on frozen vectors, or exported."""

    @property
    def kind(self) -> str:
        """What it reads: ``"tokens"``, lists of words (and texts, which it splits)."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The tags, in the order of their codes."""

    @property
    def spans(self) -> bool:
        """Whether tags stand for spans of words."""

    @property
    def about(self) -> Mapping[str, Any]:
        """What the manifest says of the training."""

    def predict(
        self,
        inputs: Sequence[str | Words],
        *,
        rows: NDArray[np.int64] | None = None,
        aggregation: Aggregation = ...,
    ) -> Tagged:
        """Tag texts, which are split into words, or lists of words; `rows` are what messages call them."""

    def remarks(self, rows: int, truncated: int, empty: int) -> list[str]:
        """Say how many words of some sentences hold nothing."""


class OfTags:
    """What is the same of every tagger; a base of theirs."""

    codec: LabelCodec
    about: Mapping[str, Any]
    kind: ClassVar[str] = "tokens"
    multi_label: ClassVar[bool] = False
    thresholds: ClassVar[None] = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The tags, in the order of their codes."""
        return self.codec.names

    @property
    def spans(self) -> bool:
        """Whether tags stand for spans of words."""
        return has_spans(self.labels, self.about.get(TAG_TASK, "auto"))


def told_of_tags(task: str) -> dict[str, str]:
    """Return what a manifest says of the task that training was told; nothing where that says nothing of tags."""
    return {TAG_TASK: task} if task in TAG_TASKS else {}


def tag_inputs(
    inputs: Sequence[str | Words], rows: NDArray[np.int64] | None, answer: Answering, *, spans: bool
) -> Tagged:
    """Tag texts, which are split into words by `embedkit.runtime.words.split_words`, or lists of words.

    Parameters
    ----------
    inputs : sequence of str, or of list of str
        All of one kind.
    rows : ndarray of int64, shape (n,), optional
        What messages call them. Default: 1 to n.
    answer : callable
        Tags sentences of words.
    spans : bool
        Whether tags stand for spans of words, which make entities.

    Raises
    ------
    DataError
        An input is of another kind than the first, or has no UTF-8.
    """
    start = time.perf_counter()
    texts, places, sentences = _read(inputs, rows)
    found = answer(sentences, rows)
    if found.pieces is not None:
        places = found.located(places)
    words = [list(some) for some in sentences] if found.pieces is None else words_of(texts, places)
    entities = None
    if spans:
        every = zip(texts, places, found.tags, found.scores, strict=True)
        entities = [locate_entities(*each) for each in every]
    cost = Reading(len(sentences), empty=int(found.empty.sum()), seconds=time.perf_counter() - start)
    return Tagged(words, found.tags, found.scores, entities, cost)


def _read(
    inputs: Sequence[str | Words], rows: NDArray[np.int64] | None
) -> tuple[list[str], Sequence[Sequence[Span]], list[Words]]:
    """Return texts, where their words are, and the words; of words that were given, a text with blanks between."""
    if len(inputs) and isinstance(inputs[0], str):
        texts = list(cast("Sequence[str]", inputs))
        check_texts(texts, rows)
        check_unicode(texts, rows)
        spans = [split_words(text) for text in texts]
        return texts, spans, cast("list[Words]", words_of(texts, spans))
    sentences = checked_sentences(inputs, rows)
    return [" ".join(words) for words in sentences], [_spans_of(words) for words in sentences], sentences


def _spans_of(words: Sequence[str]) -> list[Span]:
    """Return where words are in their text with a blank between two."""
    ends = accumulate(len(word) + 1 for word in words)
    return [(end - 1 - len(word), end - 1) for word, end in zip(words, ends, strict=True)]
