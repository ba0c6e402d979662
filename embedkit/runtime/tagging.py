"""From the logits of tokens to a tag for each word: one decoder for every tagger, whatever gives the logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar, cast, get_args

import numpy as np
from numpy.typing import NDArray

from embedkit.errors import ModelError, UsageError
from embedkit.runtime.bio import bio_valid
from embedkit.runtime.decide import Label, softmax
from embedkit.runtime.entities import OUTSIDE, has_spans
from embedkit.runtime.texts import checked_sentences, chunks_of
from embedkit.runtime.tokens import PieceTokens, Tokenizer, Tokens, Words, WordTokens
from embedkit.runtime.words import Span

T = TypeVar("T")
Floats: TypeAlias = NDArray[np.floating[Any]]
Aggregation: TypeAlias = Literal["first", "average", "max", "none", "logits"]
Decoding: TypeAlias = Literal["argmax", "bio"]
AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)
_BY_PROBABILITY = ("average", "max")  # other ways take logits, and what they make of them stands for a word
DECODINGS: tuple[Decoding, ...] = get_args(Decoding)
Piece: TypeAlias = tuple[int, int, int]
"""The place of a word in its sentence, and a piece of it: first character and the one after the last."""

Run: TypeAlias = Callable[[Tokens], Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]]
"""A model: yields windows (B,) and the logits of their tokens (B, L, C), padded on the right; each window once."""


class TokenAnswers(NamedTuple):
    """Answers for the words of n sentences, in input order.

    Attributes
    ----------
    tags : list of list
        One for each word; for each piece where `pieces` are given. A word of which the tokenizer makes nothing has
        ``"O"`` where tags stand for spans, else None.
    scores : list of list of float or None
        The tag's probability; None for a word of which the tokenizer makes nothing.
    empty : ndarray of int64, shape (n,)
        Such words of each sentence.
    pieces : list of list of (int, int, int), or None
        For the aggregation ``"none"``, what each tag is of: the place of the word, and the piece of it as first
        character and the one after the last.
    """

    tags: list[list[Label | None]]
    scores: list[list[float | None]]
    empty: NDArray[np.int64]
    pieces: list[list[Piece]] | None = None

    def located(self, words: Sequence[Sequence[Span]]) -> Sequence[Sequence[Span]]:
        """Return where in its text each tag's word or piece is.

        Parameters
        ----------
        words : sequence of sequence of (int, int)
            Where the words of each sentence are.
        """
        if self.pieces is None:
            return words
        every = zip(words, self.pieces, strict=True)
        return [[(spans[n][0] + start, spans[n][0] + end) for n, start, end in some] for spans, some in every]


class Tagging:
    """What makes tags of a model's logits.

    Parameters
    ----------
    tokenizer : Tokenizer
        Splits words; sentences longer than it allows are read in overlapping windows.
    labels : sequence of str
        C tags, in the order of the logits.
    aggregation : {"first", "average", "max", "none", "logits"}, default "first"
        Which tokens of a word answer for it: the first one, as in training with one label a word; all of them by
        the mean of their probabilities; the one with the highest probability of any tag. Or each token answers for
        itself. These names are those of transformers' token-classification pipeline. ``"logits"``: all of them by
        the mean of their logits, which are those of the mean of their vectors where a linear head made them.
    decoding : {"argmax", "bio"}, default "argmax"
        The most probable tag of each word, or the most probable tags of a sentence that are valid IOB2
        (`embedkit.runtime.bio.bio_valid`). A token that answers for itself has its most probable tag.
    spans : bool, optional
        Whether tags stand for spans of words. Default: as `has_spans` guesses by the labels.

    Raises
    ------
    UsageError
        There is no such aggregation or decoding.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        labels: Sequence[Label],
        *,
        aggregation: Aggregation = "first",
        decoding: Decoding = "argmax",
        spans: bool | None = None,
    ) -> None:
        check_aggregation(aggregation)
        if decoding not in DECODINGS:
            raise UsageError(f"there is no decoding {decoding!r}; allowed: {', '.join(DECODINGS)}")
        self._tokenizer = tokenizer
        self.labels = tuple(labels)
        self.aggregation = aggregation
        self.decoding = decoding
        self.spans = has_spans(labels) if spans is None else spans

    def answer(
        self, sentences: Sequence[Words], run: Run, *, rows: NDArray[np.int64] | None = None
    ) -> TokenAnswers:
        """Tag words.

        Parameters
        ----------
        sentences : sequence of list of str
        run : callable
            The model; see `Run`.
        rows : ndarray of int64, optional
            What messages call the sentences. Default: 1 to n.

        Raises
        ------
        DataError
            An input is no list of words, or has no UTF-8.
        ModelError
            The model gives what is no number.
        """
        listed = checked_sentences(sentences, rows)
        parts = list(chunks_of(listed)) or [slice(0)]
        return joined_answers([self._answered(listed[part], run) for part in parts])

    def _answered(self, sentences: list[Words], run: Run) -> TokenAnswers:
        counts = np.fromiter(map(len, sentences), np.int64, len(sentences))
        if self.aggregation != "none":
            given = self._tokenizer.encode_words(sentences)
            return self._decided(*self._probabilities(given, counts, run), counts, self.decoding)
        split = self._tokenizer.encode_pieces(sentences)
        sizes = split.given.known
        found = self._decided(*self._probabilities(split.given, sizes, run), sizes, "argmax")
        listed = cast("list[Piece]", list(map(tuple, np.column_stack([split.words, split.spans]).tolist())))
        return found._replace(empty=counts - _words_read(split), pieces=_cut(listed, sizes))

    def _decided(
        self, known: Floats, read: NDArray[np.bool_], counts: NDArray[np.int64], decoding: Decoding
    ) -> TokenAnswers:
        return word_answers(known, read, counts, self.labels, decoding, spans=self.spans)

    def word_logits(self, sentences: Sequence[Words], run: Run) -> list[NDArray[np.float64]]:
        """Return the logits of the words that have a token, (words, C) for each sentence.

        Raises
        ------
        UsageError
            Words are aggregated otherwise than by their first token or by logits.
        """
        if self.aggregation not in ("first", "logits"):
            raise UsageError(f"aggregation {self.aggregation!r} makes no logits of words; use first or logits")
        counts = np.fromiter(map(len, sentences), np.int64, len(sentences))
        values, read = self._values(self._tokenizer.encode_words(sentences), counts, run)
        known = np.bincount(np.repeat(np.arange(len(counts)), counts)[read], minlength=len(counts))
        return np.split(values[read], np.cumsum(known)[:-1])

    def _probabilities(
        self, given: WordTokens, counts: NDArray[np.int64], run: Run
    ) -> tuple[Floats, NDArray[np.bool_]]:
        """Return the probabilities of all words one after another, and which of them were read."""
        values, read = self._values(given, counts, run)
        return (values if self.aggregation in _BY_PROBABILITY else softmax(values)), read

    def _values(
        self, given: WordTokens, counts: NDArray[np.int64], run: Run
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the aggregated probabilities or logits of all words, and which words were read."""
        tokens = given.tokens
        word_of = (np.cumsum(counts) - counts)[np.repeat(tokens.rows, tokens.lengths)] + given.words
        wanted = given.first if self.aggregation in ("first", "none") else given.chosen
        found = np.zeros((int(counts.sum()), len(self.labels)))
        read = np.zeros(len(found), bool)
        for windows, logits in run(tokens):
            places = tokens.offsets[windows][:, None] + np.arange(logits.shape[1])
            there = places < tokens.offsets[windows + 1][:, None]
            there[there] = wanted[places[there]]
            begins = given.first[places[there]]
            words = word_of[places[there]][begins]
            values = _checked(logits[there].astype(np.float64))
            if self.aggregation in _BY_PROBABILITY:
                values = softmax(values)
            found[words] = _aggregated(values, begins, self.aggregation)
            read[words] = True
        return found, read


def decoding_for(*, spans: bool) -> Decoding:
    """Return how a tagger that embedkit trained decides: on valid tags, where tags stand for spans of words."""
    return "bio" if spans else "argmax"


def joined_answers(parts: Sequence[TokenAnswers]) -> TokenAnswers:
    """Put the answers for one or more runs of sentences together."""
    pieces = [part.pieces for part in parts if part.pieces is not None]
    return TokenAnswers(
        list(chain.from_iterable(part.tags for part in parts)),
        list(chain.from_iterable(part.scores for part in parts)),
        np.concatenate([part.empty for part in parts]),
        list(chain.from_iterable(pieces)) if pieces else None,
    )


def check_aggregation(aggregation: str) -> None:
    """Raise `UsageError` unless there is such an aggregation."""
    if aggregation not in AGGREGATIONS:
        raise UsageError(f"there is no aggregation {aggregation!r}; allowed: {', '.join(AGGREGATIONS)}")


def word_answers(
    probabilities: Floats,
    read: NDArray[np.bool_],
    counts: NDArray[np.int64],
    labels: Sequence[Label],
    decoding: Decoding = "argmax",
    *,
    spans: bool,
) -> TokenAnswers:
    """Decide on the tags of words.

    Parameters
    ----------
    probabilities : ndarray of float, shape (W, C)
        Of the words of all sentences, one after another.
    read : ndarray of bool, shape (W,)
        False for words of which the tokenizer makes nothing; their probabilities are not looked at.
    counts : ndarray of int64, shape (n,)
        Words of each sentence.
    labels, decoding, spans
        As for `Tagging`.
    """
    codes = np.full(len(read), -1, np.int64)  # of what was not read, and the last place of `names`
    known = probabilities[read]
    codes[read] = _valid(known, read, counts, labels) if decoding == "bio" else known.argmax(axis=1)
    names = np.array([*labels, OUTSIDE if spans else None], dtype=object)
    scores: list[float | None] = probabilities[np.arange(len(read)), codes].tolist()
    for place in np.flatnonzero(~read).tolist():
        scores[place] = None
    unread = np.bincount(np.repeat(np.arange(len(counts)), counts)[~read], minlength=len(counts))
    return TokenAnswers(_cut(names[codes].tolist(), counts), _cut(scores, counts), unread)


def _valid(
    known: Floats, read: NDArray[np.bool_], counts: NDArray[np.int64], labels: Sequence[Label]
) -> NDArray[np.int64]:
    """Return the valid tags of the words that were read; no span goes on over one that was not."""
    if not len(known):
        return np.empty(0, np.int64)
    row_of, place = np.repeat(np.arange(len(counts)), counts)[read], np.flatnonzero(read)
    begins = np.flatnonzero(np.append(True, (np.diff(row_of) != 0) | (np.diff(place) != 1)))
    logs = np.log(np.maximum(known, np.finfo(known.dtype).tiny))
    return bio_valid(logs, np.diff(np.append(begins, len(known))), list(map(str, labels)))


def _checked(logits: Floats) -> Floats:
    """Return the logits of tokens, (tokens, C), if all of them are numbers."""
    wrong = int((~np.isfinite(logits).all(axis=1)).sum())
    if wrong:
        raise ModelError(f"the model gives logits that are no numbers for {wrong:,} of {len(logits):,} tokens")
    return logits


def _aggregated(known: Floats, begins: NDArray[np.bool_], aggregation: Aggregation) -> Floats:
    """Return the values of words, (words, C), from those of their tokens; `begins` marks each first one."""
    first = np.flatnonzero(begins)
    if len(first) == len(known):
        return known
    if aggregation in ("average", "logits"):
        sums = np.add.reduceat(known, first, axis=0)
        return np.asarray(sums / np.diff(np.append(first, len(known)))[:, None])
    sure = known.max(axis=1)
    word_of = np.cumsum(begins) - 1
    surest = np.flatnonzero(sure == np.maximum.reduceat(sure, first)[word_of])[::-1]
    place = np.empty(len(first), np.int64)
    place[word_of[surest]] = surest  # of tokens as sure, the first is written last
    return known[place]


def _words_read(split: PieceTokens) -> NDArray[np.int64]:
    """Return how many words of each sentence have a piece, shape (n,)."""
    rows = np.repeat(np.arange(len(split.given.known)), split.given.known)
    begins = np.append(True, (np.diff(rows) != 0) | (np.diff(split.words) != 0))[: len(rows)]
    return np.bincount(rows[begins], minlength=len(split.given.known))


def _cut(listed: list[T], counts: NDArray[np.int64]) -> list[list[T]]:
    """Cut what stands one after another into lists of these sizes."""
    ends = np.cumsum(counts).tolist()
    return [listed[start:end] for start, end in zip([0, *ends], ends, strict=False)]
