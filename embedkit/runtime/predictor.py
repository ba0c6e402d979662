"""Answers of an exported folder: numpy, tokenizers and onnxruntime, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedkit.errors import ArtifactError, DataError, UsageError
from embedkit.runtime.batching import pad, plan
from embedkit.runtime.decide import Label
from embedkit.runtime.description import ANY_INPUT, Description, Floats
from embedkit.runtime.entities import FoundEntity, locate_entities
from embedkit.runtime.pooling import pool
from embedkit.runtime.session import Session
from embedkit.runtime.tagging import Aggregation, Tagging, TokenAnswers
from embedkit.runtime.texts import check_texts, check_unicode, checked_sentences, chunks_of
from embedkit.runtime.tokens import Text, Tokenizer, Tokens, Words
from embedkit.runtime.windows import WindowMerger
from embedkit.runtime.words import split_words, words_of

BATCH_TOKENS = 1024  # most tokens of a batch: what the caches of a CPU core bear
Batching: TypeAlias = Callable[[NDArray[np.int64], int], list[NDArray[np.int64]]]
_HOLDS = {"sequence": "a classifier", "tokens": "a token classifier", "encoder": "an encoder"}
_GIVES = {"sequence": "labels of texts", "tokens": "tags of words", "encoder": "vectors"}


class Answers(NamedTuple):
    """Answers in input order.

    Attributes
    ----------
    codes : ndarray of int64, shape (n,), or of bool, shape (n, C)
        Classes; or which labels each row has.
    probabilities : ndarray of float64, shape (n, C), or None
        None where the classifier has none.
    scores : ndarray of float64, shape (n,) or (n, C), or None
        Where there are no probabilities: above 0 means yes, or the greatest wins.
    truncated, empty : ndarray of bool, shape (n,)
        Inputs that lost tokens, and inputs that hold nothing that the tokenizer knows.
    """

    codes: NDArray[Any]
    probabilities: Floats | None
    scores: Floats | None
    truncated: NDArray[np.bool_]
    empty: NDArray[np.bool_]


class Predictor:
    """An exported classifier or encoder, opened; safe to use from several threads.

    Parameters
    ----------
    description : Description
    tokenizer : Path
        ``tokenizer.json``.
    session : Session
        The graph, opened by `embedkit.runtime.session.open_session`.
    batch_tokens : int, default 1024
        Most tokens of a batch, padding included.
    batching : callable, optional
        Cuts windows into batches; default `embedkit.runtime.batching.plan`.
    about : mapping, optional
        The folder's manifest.

    Raises
    ------
    ArtifactError
        The graph does not give what is described.
    """

    def __init__(
        self,
        description: Description,
        tokenizer: Path,
        session: Session,
        *,
        batch_tokens: int = BATCH_TOKENS,
        batching: Batching = plan,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.description = description
        self.about: Mapping[str, Any] = about or {}
        self.batch_tokens = batch_tokens
        self._batching = batching
        self._tokenizer = Tokenizer.from_file(
            tokenizer,
            max_length=description.max_length,
            pad_id=description.pad_id,
            side=description.side,
            prompt=description.prompt,
            lowercase=description.lowercase,
        )
        self._bias = np.array(description.bias, dtype=np.float32)
        self._session = session
        self._outputs = [description.output, *["pooled"] * description.merges]
        self._width = self._checked_columns() * max(1, len(description.poolings))

    def _checked_columns(self) -> int:
        """Return how many numbers the graph gives for a text or token; refuse another than is described."""
        outputs = self._session.outputs
        if not set(self._outputs) <= set(outputs):
            raise ArtifactError(
                f"{self._session.path}: a graph that gives {', '.join(outputs)} is not what "
                f"{', '.join(self._outputs)} can be had of; make the folder again"
            )
        shape = outputs[self._outputs[0]]
        if not shape or not isinstance(shape[-1], int):
            tokens = self._tokenizer.encode([""])
            ((_, (found, *_)),) = self._outputs_of(tokens)
            shape = list(found.shape)
        columns, states = self.description.columns, self.description.task == "tokens" or self.description.poolings
        if len(shape) != (3 if states else 2) or (columns and shape[-1] != columns):
            raise ArtifactError(
                f"{self._session.path}: {self._outputs[0]} is of shape {shape}, but {columns or 'some'} numbers a "
                f"{'token' if states else 'text'} are described; make the folder again"
            )
        return int(shape[-1])

    @property
    def labels(self) -> tuple[Label, ...]:
        """The labels, in the order of their codes and of the columns of probabilities."""
        return self.description.labels

    def require(self, task: str) -> None:
        """Raise `UsageError` unless the folder is for a task: ``"sequence"``, ``"tokens"`` or ``"encoder"``."""
        have = self.description.task
        if have != task:
            raise UsageError(f"this folder holds {_HOLDS[have]}, which gives no {_GIVES[task]}")

    # ------------------------------------------------------------------------------------------- texts

    def predict(self, texts: Sequence[Text]) -> list[Any]:
        """Return the label of each text; a list of labels where it may have several.

        Parameters
        ----------
        texts : sequence of str, or of (str, str)
            As the classifier was trained on.

        Raises
        ------
        DataError
            An input is not what the classifier reads.
        UsageError
            The folder holds no classifier of texts.
        """
        codes = self.answer(texts).codes
        if self.description.multi_label:
            return [[self.labels[place] for place in np.flatnonzero(row)] for row in codes]
        return [self.labels[code] for code in codes.tolist()]

    def predict_proba(self, texts: Sequence[Text]) -> NDArray[np.float64]:
        """Return probabilities, float64 (n, C); rows sum to 1, unless texts have several labels.

        Raises
        ------
        UsageError
            The classifier has scores and no probabilities, or the folder holds no classifier of texts.
        """
        found = self.answer(texts).probabilities
        if found is None:
            raise UsageError("this classifier gives scores and no probabilities; train it with --calibrate")
        return np.asarray(found, dtype=np.float64)

    def decision_function(self, texts: Sequence[Text]) -> Floats:
        """Return scores, float64 (n,) for two classes, above 0 meaning the second; else (n, C)."""
        return self.description.scores(self.logits(texts))

    def logits(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Return what the graph gives, float32 (n, C)."""
        self.require("sequence")
        return self._run(texts, None).values

    def encode(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Return vectors, float32 (n, D).

        Raises
        ------
        UsageError
            The folder holds a classifier.
        """
        self.require("encoder")
        return self._run(texts, None).values

    def answer(self, texts: Sequence[Text], *, rows: NDArray[np.int64] | None = None) -> Answers:
        """Classify; `rows` are what messages call the texts (default: 1 to n)."""
        self.require("sequence")
        run = self._run(texts, rows)
        scores = self.description.scores(run.values)
        known, codes = self.description.decide(scores)
        return Answers(codes, known, scores if known is None else None, run.truncated, run.empty)

    # ------------------------------------------------------------------------------------------- words

    def predict_tokens(self, sentences: Sequence[Words]) -> list[list[Label | None]]:
        """Return a tag for each word.

        Parameters
        ----------
        sentences : sequence of list of str
            Sentences as words; `embedkit.runtime.words.split_words` makes them of texts.

        Returns
        -------
        list of list
            As `TokenAnswers.tags` has them, one for each word.

        Raises
        ------
        DataError
            An input is no list of words.
        UsageError
            The folder holds no token classifier.
        """
        return self.tag(sentences).tags

    def tag(
        self,
        sentences: Sequence[Words],
        *,
        rows: NDArray[np.int64] | None = None,
        aggregation: Aggregation | None = None,
    ) -> TokenAnswers:
        """Tag words, and say how sure.

        Parameters
        ----------
        sentences : sequence of list of str
        rows : ndarray of int64, optional
            As for `answer`.
        aggregation : {"first", "average", "max", "none", "logits"}, optional
            As for `embedkit.runtime.tagging.Tagging`. Default: what the folder says.

        Raises
        ------
        DataError
            An input is no list of words.
        UsageError
            The folder holds no token classifier, or there is no such aggregation.
        """
        self.require("tokens")
        return self._tagging(aggregation).answer(sentences, self._token_logits, rows=rows)

    def _tagging(self, aggregation: Aggregation | None = None) -> Tagging:
        how = self.description
        return Tagging(
            self._tokenizer,
            self.labels,
            aggregation=aggregation or how.aggregation,
            decoding=how.decoding,
            spans=how.spans,
        )

    def entities(self, texts: Sequence[str], *, aggregation: Aggregation | None = None) -> list[list[FoundEntity]]:
        """Find the entities of texts, which are split into words by `embedkit.runtime.words.split_words`.

        Parameters
        ----------
        texts : sequence of str
        aggregation : {"first", "average", "max", "none", "logits"}, optional
            As for `tag`.

        Returns
        -------
        list of list of dict
            ``entity_group``, ``score`` (the mean of its words' probabilities), ``word``, ``start`` and ``end``:
            ``text[start:end]`` is ``word``.

        Raises
        ------
        UsageError
            The tags stand for single words (parts of speech), not for spans.
        """
        self.require("tokens")
        if not self.description.spans:
            raise UsageError("these tags are of single words and make no entities; use predict_tokens")
        if isinstance(texts, str):
            raise UsageError("give a list of texts, not one text")
        check_texts(texts)
        check_unicode(texts)
        if len(texts) and not isinstance(texts[0], str):
            raise DataError("entities are found in texts; the input holds pairs")
        spans = [split_words(text) for text in texts]
        found = self.tag(words_of(texts, spans), aggregation=aggregation)
        every = zip(texts, found.located(spans), found.tags, found.scores, strict=True)
        return [locate_entities(*each) for each in every]

    def word_logits(self, sentences: Sequence[Words]) -> list[NDArray[np.float64]]:
        """Return the logits of each word that has a token: (words, C) for each sentence.

        Raises
        ------
        UsageError
            The folder holds no token classifier, or one whose words have no logits of their own.
        """
        self.require("tokens")
        return self._tagging().word_logits(checked_sentences(sentences, None), self._token_logits)

    def token_logits(self, sentences: Sequence[Words]) -> list[NDArray[np.float32]]:
        """Return what the graph gives for each token of each sentence, special tokens too: (tokens, C) each.

        The windows of a sentence that is too long stand one after another.
        """
        self.require("tokens")
        tokens = self._tokenizer.encode_words(checked_sentences(sentences, None)).tokens
        found = np.empty((len(tokens.ids), len(self.labels)), np.float32)
        for windows, logits in self._token_logits(tokens):
            places = tokens.offsets[windows][:, None] + np.arange(logits.shape[1])
            there = places < tokens.offsets[windows + 1][:, None]
            found[places[there]] = logits[there]
        return np.split(found, np.cumsum(tokens.row_lengths)[:-1])

    def _token_logits(self, tokens: Tokens) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Yield windows and the logits of their tokens, (B, L, C)."""
        return ((windows, logits) for windows, (logits, *_) in self._outputs_of(tokens))

    # ----------------------------------------------------------------------------------------- computing

    def _run(self, texts: Sequence[Text], rows: NDArray[np.int64] | None) -> _Run:
        self._check(texts, rows)
        texts = list(texts)  # arrays and series are taken apart once
        values = np.empty((len(texts), self._width), np.float32)
        truncated, empty = np.zeros(len(texts), bool), np.zeros(len(texts), bool)
        for part in chunks_of(texts):
            tokens = self._tokenizer.encode(texts[part], windows=self.description.long == "mean")
            truncated[part], empty[part] = tokens.truncated, self._tokenizer.without_tokens(tokens)
            merger = WindowMerger(tokens)
            for windows, outputs in self._outputs_of(tokens):
                done, ready = merger.add(windows, self._carried(outputs, tokens.lengths[windows])[None])
                values[part.start + done] = self._settled(ready[0])
        return _Run(values, truncated, empty)

    def _check(self, texts: Sequence[Text], rows: NDArray[np.int64] | None) -> None:
        if isinstance(texts, str):
            raise UsageError("give a list of texts, not one text")
        numbers = None if rows is None else rows.tolist()
        check_texts(texts, numbers)
        check_unicode(texts, numbers)
        wanted = self.description.input
        if wanted != ANY_INPUT and len(texts) and isinstance(texts[0], tuple) != (wanted == "pair"):
            raise DataError(f"this folder reads {wanted}s; the input is of the other kind")

    def _outputs_of(self, tokens: Tokens) -> Iterator[tuple[NDArray[np.int64], list[NDArray[np.float32]]]]:
        """Yield the windows of each batch and the graph's outputs for them."""
        for windows in self._batching(tokens.lengths, self.batch_tokens):
            batch = pad(tokens, windows, self.description.pad_id)
            types = np.zeros_like(batch.input_ids) if batch.type_ids is None else batch.type_ids
            given = {"input_ids": batch.input_ids, "attention_mask": batch.mask(), "token_type_ids": types}
            yield windows, self._session.answer(self._outputs, given)

    def _carried(self, outputs: list[NDArray[np.float32]], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return what windows are averaged in, shape (B, ...).

        Vectors are averaged before they are normalised. Logits of a normalised vector v / |v| are
        W v / |v| + b, so that (logits - b) |v| is W v, which is linear and can be averaged beside v.
        """
        if self.description.poolings:
            states = outputs[0].astype(np.float32, copy=False)
            mask = np.arange(states.shape[1]) < lengths[:, None]
            return np.hstack([pool(states, lengths, mask, how) for how in self.description.poolings])
        if not self.description.merges:
            return outputs[0]
        own, pooled = outputs
        if self.description.task == "encoder":
            return pooled
        norms = np.linalg.norm(pooled, axis=1, keepdims=True)
        return np.hstack([(own - self._bias) * norms, pooled])

    def _settled(self, merged: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return vectors or logits from what `_carried` gave, averaged."""
        encoder = self.description.task == "encoder"
        if not (self.description.normalize if encoder else self.description.merges):
            return merged
        start = 0 if encoder else len(self.labels)
        norms = np.linalg.norm(merged[:, start:], axis=1, keepdims=True)
        norms = np.where(norms > 0, norms, 1)
        if encoder:
            return np.asarray(merged / norms, dtype=np.float32)
        return np.asarray(merged[:, :start] / norms + self._bias, dtype=np.float32)


class _Run(NamedTuple):
    values: NDArray[np.float32]
    truncated: NDArray[np.bool_]
    empty: NDArray[np.bool_]
