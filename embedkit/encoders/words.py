"""Vectors of the words of sentences: from the store where it has them, from the encoder where it has not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from embedkit.data.text import unread
from embedkit.encoders.engines import Encoder
from embedkit.encoders.folder import ModelFolder
from embedkit.encoders.opened import Extraction, Filling, Opened, Saver
from embedkit.encoders.recipe import Floats, Recipe, make_word_recipe
from embedkit.encoders.settings import EncoderSettings
from embedkit.encoders.texts import Keys, word_keys
from embedkit.runtime.texts import check_words
from embedkit.runtime.tokens import Text, Words, WordTokens


@dataclass(frozen=True)
class WordFeatures:
    """Vectors of the words of N sentences, one sentence after another, and what they cost.

    Attributes
    ----------
    vectors : ndarray of float32, shape (W, D)
        Zeros for a word of which the tokenizer makes nothing.
    offsets : ndarray of int64, shape (N + 1,)
        Sentence n has the rows ``offsets[n]`` to ``offsets[n + 1]``.
    empty : ndarray of bool, shape (W,)
        Words of which the tokenizer makes nothing.
    extraction : Extraction
        Its `rows`, `hits` and `computed` count sentences, its `empty` words.
    """

    vectors: Floats
    offsets: NDArray[np.int64]
    empty: NDArray[np.bool_]
    extraction: Extraction


class WordExtractor(Opened):
    """Turns the words of sentences into vectors, each distinct sentence at most once.

    A word's vector is the hidden state of its first token (pooling ``first``) or the mean of all its tokens
    (``mean``), of the layers that the settings name. Sentences longer than the most tokens are read in overlapping
    windows, and each word is taken from the one where it is most central (`Tokenizer.encode_words`). The model
    reads the words alone, without a prompt, and vectors are not normalised.

    In the store each word of a sentence is a row, in spaces of their own. A sentence of which a word is missing is
    computed anew as a whole.

    Parameters, attributes and errors are those of `Opened`. The settings' pooling is ``first`` (default), ``mean``
    or ``first+mean``; what they say of texts alone is refused.
    """

    @staticmethod
    def _exact(settings: EncoderSettings, folder: ModelFolder) -> Recipe:
        return make_word_recipe(settings, folder)

    def transform(self, sentences: Sequence[Words], *, rows: NDArray[np.int64] | None = None) -> WordFeatures:
        """Return the vectors of the words of some sentences.

        Parameters
        ----------
        sentences : sequence of list of str
            N of them; one may have no word.
        rows : ndarray of int64, shape (N,), optional
            What messages call the sentences. Default: 1 to N.

        Returns
        -------
        WordFeatures

        Raises
        ------
        DataError
            A sentence is no list of words, or has no UTF-8.
        ModelError
            The encoder gave a vector that is not finite, or nothing but zeros, for a word.
        StoreError
            The store cannot be read; or it cannot be written, and `keep_going` is False.
        """
        start = time.perf_counter()
        numbers = np.arange(1, len(sentences) + 1) if rows is None else rows
        check_words(sentences, numbers.tolist())
        job, keys, which = _Job.of_distinct(self, [list(words) for words in sentences], numbers)
        job.fill()
        vectors = self.recipe.compose(job.vectors) if len(job.content) else np.empty((0, self.width()), np.float32)
        empty = job.content == 0
        counts = np.diff(job.offsets)[which]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        if len(keys) < len(sentences):  # else sentences stand in their order
            places = np.repeat(job.offsets[which] - offsets[:-1], counts) + np.arange(offsets[-1])
            vectors, empty = vectors[places], empty[places]
        done = job.cost(keys)
        done.rows, done.empty = len(sentences), int(empty.sum())
        done.seconds = time.perf_counter() - start
        return WordFeatures(vectors, offsets, empty, done)

    def missing(self, sentences: Sequence[Words]) -> int:
        """Return how many distinct sentences the store lacks a word of, so that `transform` would have them read.

        Raises
        ------
        DataError
            A sentence has no UTF-8.
        StoreError
            The store cannot be read.
        """
        rows = np.arange(1, len(sentences) + 1)
        return _Job.of_distinct(self, [list(words) for words in sentences], rows)[0].lacking()

    def remarks(self, done: Extraction) -> list[str]:
        """Say how many words the tokenizer makes nothing of."""
        return unread(done.rows, done.empty)


class _Job(Filling[WordTokens]):
    """Words of distinct sentences on their way to vectors.

    Attributes
    ----------
    offsets : ndarray of int64, shape (n + 1,)
        Where the words of each sentence are.
    """

    def __init__(
        self,
        extractor: WordExtractor,
        sentences: list[list[str]],
        keys: Keys,
        rows: NDArray[np.int64],
        repeats: NDArray[np.int64],
    ) -> None:
        counts = np.fromiter(map(len, sentences), np.int64, len(sentences))
        super().__init__(extractor, sentences, word_keys(keys, counts), np.repeat(rows, counts), repeats)
        self._sentences = sentences
        self._counts = counts
        self.offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def _whole(self, found: NDArray[np.bool_]) -> NDArray[np.bool_]:
        lacking = np.concatenate([[0], np.cumsum(~found.all(axis=0))])
        return np.asarray(lacking[self.offsets[1:]] == lacking[self.offsets[:-1]])

    def _sample(self, places: NDArray[np.int64]) -> list[Text]:
        return [" ".join(self._sentences[i]) for i in places.tolist()]

    def _tokenise(self, places: NDArray[np.int64]) -> WordTokens:
        return self._extractor.tokenizer.encode_words([self._sentences[i] for i in places.tolist()])

    def _read(
        self,
        encoder: Encoder,
        places: NDArray[np.int64],
        laid: WordTokens,
        found: NDArray[np.bool_],
        savers: list[Saver],
    ) -> None:
        tokens = laid.tokens
        self.computed_tokens += int(tokens.lengths.sum())
        word_of = self.offsets[places][np.repeat(tokens.rows, tokens.lengths)] + laid.words
        self._count(word_of[laid.chosen])
        self._keep_empty(places, found, savers)
        left = laid.known.copy()  # words of each sentence that are not ready
        self._advance(places[left == 0])
        sentence_of = np.repeat(tokens.rows, tokens.lengths)
        for at, states in self._extractor.token_states(tokens):
            wanted = laid.chosen[at]
            at, states = at[wanted], states[:, wanted]
            if not len(at):
                continue
            begins = np.flatnonzero(laid.first[at])  # a word's tokens stand side by side
            words = word_of[at[begins]]
            self._keep(words, self._pooled(states, begins), found, savers)
            left -= np.bincount(sentence_of[at[begins]], minlength=len(left))
            touched = np.unique(sentence_of[at[begins]])
            self._advance(places[touched[left[touched] == 0]])

    def _count(self, words: NDArray[np.int64]) -> None:
        """Note how many tokens words have, given the word of each token."""
        if len(words):
            start, sizes = int(words.min()), np.bincount(words - words.min())
            self.content[start : start + len(sizes)][sizes > 0] = sizes[sizes > 0]

    def _keep_empty(self, places: NDArray[np.int64], found: NDArray[np.bool_], savers: list[Saver]) -> None:
        """Keep zeros for the words without a token, of sentences whose tokens were counted."""
        sizes = self._counts[places]
        words = np.repeat(self.offsets[places] - (np.cumsum(sizes) - sizes), sizes) + np.arange(int(sizes.sum()))
        nothing = words[self.content[words] == 0]
        if len(nothing):
            zeros = np.zeros((len(self.vectors), len(nothing), self._extractor.folder.hidden), np.float32)
            self._keep(nothing, zeros, found, savers)

    def _pooled(self, states: Floats, begins: NDArray[np.int64]) -> Floats:
        """Return the views of words, (V, n, H), from the states of their tokens, (layers, t, H)."""
        sizes = np.diff(np.append(begins, states.shape[1])).astype(np.float32)
        views = []
        for layer in states:
            for pooling in self._extractor.recipe.poolings:
                if pooling == "first" or len(begins) == len(layer):
                    views.append(layer[begins])
                else:
                    views.append(np.add.reduceat(layer, begins, axis=0) / sizes[:, None])
        return cast("Floats", np.stack(views))
