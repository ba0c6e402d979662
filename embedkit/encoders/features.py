"""Features of texts: from the store where it has them, from the encoder where it has not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedkit.data.text import lost
from embedkit.encoders.engines import Encoder
from embedkit.encoders.folder import ModelFolder
from embedkit.encoders.opened import Extraction, Filling, Opened, Saver
from embedkit.encoders.recipe import Floats, Recipe, make_recipe, pair_features
from embedkit.encoders.settings import EncoderSettings
from embedkit.encoders.texts import Keys, keys_of
from embedkit.errors import DataError
from embedkit.runtime.batching import plan
from embedkit.runtime.texts import check_texts
from embedkit.runtime.tokens import Text, Tokens
from embedkit.runtime.windows import WindowMerger


@dataclass(frozen=True)
class Features:
    """Vectors in input order, and what they cost.

    Attributes
    ----------
    vectors : ndarray of float32, shape (n, D)
    extraction : Extraction
    """

    vectors: Floats
    extraction: Extraction


class FeatureExtractor(Opened):
    """Turns texts or pairs into vectors, each distinct text at most once.

    Opening reads the folder's small files and digests its weights (remembered in the store); the model itself,
    and with it torch, is loaded when a text is not in the store. Parameters, attributes and errors are those of
    `Opened`.
    """

    @staticmethod
    def _exact(settings: EncoderSettings, folder: ModelFolder) -> Recipe:
        return make_recipe(settings, folder)

    def transform(self, inputs: Sequence[Text], *, rows: NDArray[np.int64] | None = None) -> Features:
        """Return the features of some inputs.

        Parameters
        ----------
        inputs : sequence of str, or of (str, str)
            Texts or pairs, n of them.
        rows : ndarray of int64, shape (n,), optional
            What messages call the inputs. Default: 1 to n.

        Returns
        -------
        Features

        Raises
        ------
        DataError
            An input is not a text (a pair), or has no UTF-8.
        ModelError
            The encoder gave a vector that is not finite, or nothing but zeros, for a text.
        StoreError
            The store cannot be read; or it cannot be written, and `keep_going` is False.
        """
        start = time.perf_counter()
        n = len(inputs)
        numbers = np.arange(1, n + 1) if rows is None else rows
        if set(map(type, inputs)) != {str}:
            check_texts(inputs, numbers)
        if self._apart(inputs):
            run = self._distinct(_sides(inputs), np.tile(numbers, 2))
            vectors = pair_features(run.vectors[:n], run.vectors[n:])
            done = run.extraction
            done.truncated = int((run.truncated[:n] | run.truncated[n:]).sum())
            done.empty = int((run.empty[:n] | run.empty[n:]).sum())
        else:
            run = self._distinct(inputs, numbers)
            vectors, done = run.vectors, run.extraction
            done.truncated, done.empty = int(run.truncated.sum()), int(run.empty.sum())
        done.rows = n
        done.seconds = time.perf_counter() - start
        return Features(vectors, done)

    def missing(self, inputs: Sequence[Text]) -> int:
        """Return how many distinct texts or pairs the store lacks, so that `transform` would have them read.

        Raises
        ------
        DataError
            A text has no UTF-8.
        StoreError
            The store cannot be read.
        """
        texts = _sides(inputs) if self._apart(inputs) else inputs
        return _Job.of_distinct(self, texts, np.arange(1, len(texts) + 1))[0].lacking()

    def _apart(self, inputs: Sequence[Text]) -> bool:
        """Whether the sides of pairs are read one by one."""
        return self.recipe.pairs == "bi" and len(inputs) > 0 and isinstance(inputs[0], tuple)

    def keys(self, inputs: Sequence[Text], rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return what inputs are called in the store, (n, parts, 16); pairs that are read apart have 2 parts."""
        if self._apart(inputs):
            parts = [keys_of(list(part), rows) for part in zip(*inputs, strict=True)]
        else:
            parts = [keys_of(inputs, rows)]
        return np.stack(parts, axis=1)

    def recall(self, keys: NDArray[np.uint8]) -> Floats:
        """Return the features of inputs that the store has, in the order of `keys`.

        Parameters
        ----------
        keys : ndarray of uint8, shape (n, parts, 16)
            Of `keys`.

        Returns
        -------
        ndarray of float32, shape (n, D)
            As `transform` gave them.

        Raises
        ------
        DataError
            The store lacks some.
        """
        parts = [self._recall(np.ascontiguousarray(keys[:, part])) for part in range(keys.shape[1])]
        return parts[0] if len(parts) == 1 else pair_features(*parts)

    def _recall(self, keys: Keys) -> Floats:
        found = [space.lookup(keys) for space in self.spaces or []]
        known = np.logical_and.reduce([hits.found for hits in found]) if found else np.zeros(len(keys), bool)
        if not known.all():
            raise DataError(
                f"the store lacks the features of {int((~known).sum()):,} of {len(known):,} earlier rows; run "
                "embedkit extract on their data with the same encoder settings, or train on all rows together"
            )
        return self.recipe.compose([hits.vectors for hits in found])

    def _distinct(self, texts: Sequence[Text], rows: NDArray[np.int64]) -> _Run:
        """Look distinct texts up, compute what is missing, and lay them out in input order."""
        job, keys, which = _Job.of_distinct(self, texts, rows)
        job.fill()
        vectors = self.recipe.compose(job.vectors) if len(texts) else np.empty((0, self.width()), np.float32)
        repeated = len(keys) < len(texts)  # else `which` is 0, 1, 2, ... and nothing needs to be moved
        return _Run(
            vectors[which] if repeated else vectors,
            job.truncated[which],
            (job.content == 0)[which],
            job.cost(keys),
        )

    def texts_per_row(self, kind: str) -> int:
        """Texts that the encoder reads for one input: what `progress` counts."""
        return 2 if kind == "pair" and self.recipe.pairs == "bi" else 1

    def remarks(self, done: Extraction) -> list[str]:
        """Say what was lost on the way: texts cut off, texts without a token."""
        advice = "; see max_length and long='mean' (--max-length, --long mean)"
        return lost(done.rows, done.truncated, done.empty, self.recipe.max_length, self.recipe.side, advice)


def _sides(pairs: Sequence[Text]) -> list[Text]:
    """Return all first sides of pairs, then all second ones."""
    return [part for parts in zip(*pairs, strict=True) for part in parts]


@dataclass(frozen=True)
class _Run:
    vectors: Floats
    truncated: NDArray[np.bool_]
    empty: NDArray[np.bool_]
    extraction: Extraction


class _Job(Filling[Tokens]):
    """Distinct texts on their way to vectors; each is a row of its own."""

    def __init__(
        self,
        extractor: FeatureExtractor,
        texts: list[Text],
        keys: Keys,
        rows: NDArray[np.int64],
        repeats: NDArray[np.int64],
    ) -> None:
        super().__init__(extractor, texts, keys, rows, repeats)
        self._texts = texts

    def _whole(self, found: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.asarray(found.all(axis=0))

    def _sample(self, places: NDArray[np.int64]) -> list[Text]:
        return [self._texts[i] for i in places.tolist()]

    def _tokenise(self, places: NDArray[np.int64]) -> Tokens:
        return self._extractor.tokenizer.encode(
            self._sample(places), windows=self._extractor.recipe.long == "mean"
        )

    def _read(
        self,
        encoder: Encoder,
        places: NDArray[np.int64],
        laid: Tokens,
        found: NDArray[np.bool_],
        savers: list[Saver],
    ) -> None:
        extractor = self._extractor
        self.content[places] = laid.content
        self.truncated[places] = laid.truncated
        self.computed_tokens += int(laid.row_lengths.sum())
        batches = plan(laid.lengths, extractor.settings.batch_tokens)
        merger = WindowMerger(laid)
        for batch, vectors in encoder.run(
            laid, batches, extractor.recipe.pad_id, extractor.recipe.views, extractor.settings.threads
        ):
            done, ready = merger.add(batch, vectors)
            if len(done):
                self._keep(places[done], ready, found, savers)
                self._advance(places[done])
