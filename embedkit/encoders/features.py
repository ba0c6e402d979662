"""Features of texts: from the store where it has them, from the encoder where it has not."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedkit.data.text import lost
from embedkit.encoders.engines import Encoder, EngineMaker, Engines, EngineSource
from embedkit.encoders.folder import ModelFolder, read_folder
from embedkit.encoders.recipe import Floats, Recipe, make_recipe, pair_features, view_descriptors
from embedkit.encoders.settings import EncoderSettings
from embedkit.encoders.texts import Keys, keys_of
from embedkit.encoders.tokenizer_file import tokenizer_file
from embedkit.errors import DataError, ModelError, StoreError
from embedkit.hub import resolve_model
from embedkit.runtime.batching import plan
from embedkit.runtime.texts import check_texts, chunks_of
from embedkit.runtime.tokens import Text, Tokenizer, Tokens
from embedkit.runtime.windows import WindowMerger
from embedkit.store import (
    FLOAT16_MAX,
    STORED_DTYPE,
    FeatureStore,
    FileDigests,
    Space,
    Writer,
    distinct,
    space_id,
)

StoreDtype: TypeAlias = Literal["float32", "float16"]

log = logging.getLogger("embedkit.encoders")


@dataclass
class Extraction:
    """What extracting has done; sums up with ``+=`` over the chunks of a stream.

    Attributes
    ----------
    rows : int
        Inputs.
    hits, computed : int
        Distinct texts that the store had, and that the encoder was given.
    truncated : int
        Inputs that lost tokens to the maximum length.
    empty : int
        Inputs of which nothing but special tokens reached the encoder.
    tokens : int
        Tokens of the computed texts.
    seconds, load_seconds, encode_seconds, store_seconds : float
        Wall time of all, of opening the model, of tokenising with the forward passes, and of the store.
    """

    rows: int = 0
    hits: int = 0
    computed: int = 0
    truncated: int = 0
    empty: int = 0
    tokens: int = 0
    seconds: float = 0.0
    load_seconds: float = 0.0
    encode_seconds: float = 0.0
    store_seconds: float = 0.0
    _keys: list[Keys] = field(default_factory=list, repr=False)

    def __iadd__(self, other: Extraction) -> Extraction:
        for name in (f.name for f in fields(self) if f.name != "_keys"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self._keys.extend(other._keys)
        return self

    @property
    def unique(self) -> int:
        """Distinct texts (for pairs read together, distinct pairs) over all chunks."""
        if not self._keys:
            return 0
        keys = np.concatenate(self._keys)
        self._keys = [keys[distinct(keys)[0]]]
        return len(self._keys[0])


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


class FeatureExtractor:
    """Turns texts or pairs into vectors, each distinct text at most once.

    Opening reads the folder's small files and digests its weights (remembered in the store); the model itself,
    and with it torch, is loaded when a text is not in the store.

    Parameters
    ----------
    settings : EncoderSettings
        The model and what to take from it.
    store : FeatureStore, optional
        Where features are kept. Default: nowhere.
    dtype : {"float32", "float16"}
        How vectors are rounded where there is no store, so that a head trained on a float16 store sees the
        same.
    keep_going : bool
        Whether a store that cannot be written is a warning (a fit needs features, not a store) or an error.
    progress : callable, optional
        Told the number of texts that became ready, hits included.
    encoder : Encoder, optional
        Computes instead of the folder's own weights (tests).
    engines : EngineMaker, optional
        Makes a graph of the encoder, for engine "onnx", and for "auto" where that pays:
        `embedkit.export.engine.make_engine`. Default: torch computes.

    Attributes
    ----------
    store : FeatureStore or None
    spaces : list of Space or None
        The store's space of each view; None without a store.
    keeping : bool
        Whether new features are kept; False once the store has failed.

    Raises
    ------
    InputMissingError, ModelError, UsageError
        The model is not there, not whole, or lacks what is asked for.
    """

    def __init__(
        self,
        settings: EncoderSettings,
        *,
        store: FeatureStore | None = None,
        dtype: StoreDtype = "float32",
        keep_going: bool = True,
        progress: Callable[[int], None] | None = None,
        encoder: Encoder | None = None,
        engines: EngineMaker | None = None,
    ) -> None:
        self.settings = settings
        self.folder: ModelFolder = read_folder(resolve_model(settings.model, revision=settings.revision))
        self.recipe: Recipe = make_recipe(settings, self.folder)
        self.dtype: StoreDtype = store.dtype if store is not None else dtype
        self.progress = progress
        self.keep_going = keep_going
        self._encoder = encoder
        self._lock = threading.Lock()
        self.store = store
        self.keeping = store is not None  # until the store fails
        self._digests = digests = FileDigests(None if store is None else store.root)
        with ExitStack() as temporary:
            path = tokenizer_file(self.folder, store, digests, temporary)
            self.tokenizer: Tokenizer = self.recipe.tokenizer(path)
            self._descriptors = view_descriptors(self.recipe, self.folder, self.tokenizer, path, digests, "torch")
        self.spaces = None if store is None else [store.space(described) for described in self._descriptors]
        described = self._descriptors[0]
        self._engines = Engines(
            EngineSource(
                self.folder,
                list(described["weights"]),
                str(described["config"]),
                self.recipe,
                self.tokenizer,
                settings,
                store,
                digests,
            ),
            engines,
        )

    # ------------------------------------------------------------------------------------------ identity

    def space(self, kind: str = "text") -> str:
        """Return the id of the feature space of texts or pairs, 32 hexadecimal digits."""
        views = [space_id({**described, STORED_DTYPE: self.dtype}) for described in self._descriptors]
        return self.recipe.space(views, kind)

    @property
    def weights(self) -> list[str]:
        """SHA-256 of each weight file."""
        return list(self._descriptors[0]["weights"])

    # ---------------------------------------------------------------------------------------- extracting

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
        if n and isinstance(inputs[0], tuple) and self.recipe.pairs == "bi":
            texts = [part for parts in zip(*inputs, strict=True) for part in parts]  # all firsts, all seconds
            run = self._distinct(texts, np.tile(numbers, 2))
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

    def keys(self, inputs: Sequence[Text], rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return what inputs are called in the store, (n, parts, 16); pairs that are read apart have 2 parts."""
        if self.recipe.pairs == "bi" and len(inputs) and isinstance(inputs[0], tuple):
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
        keys = keys_of(texts, rows)
        first, which = distinct(keys)
        job = _Job(self, [texts[i] for i in first.tolist()], keys[first], rows[first], np.bincount(which))
        job.fill()
        vectors = self.recipe.compose(job.vectors) if len(texts) else np.empty((0, self._width()), np.float32)
        repeated = len(first) < len(texts)  # else `which` is 0, 1, 2, ... and nothing needs to be moved
        return _Run(
            vectors[which] if repeated else vectors,
            job.truncated[which],
            (job.content == 0)[which],
            Extraction(
                hits=len(first) - job.computed,
                computed=job.computed,
                tokens=job.computed_tokens,
                load_seconds=job.load_seconds,
                encode_seconds=job.encode_seconds,
                store_seconds=job.store_seconds,
                _keys=[keys[first]],
            ),
        )

    def token_states(self, tokens: Tokens) -> Iterator[tuple[NDArray[np.int64], Floats]]:
        """Yield the hidden states that the pooled layers are made of, batch by batch; nothing is stored.

        Parameters
        ----------
        tokens : Tokens
            T tokens over all windows.

        Yields
        ------
        places : ndarray of int64, shape (t,)
            Which tokens these are; all batches together are a permutation of ``range(T)``.
        states : ndarray of float32, shape (V, t, H)
            Of each of the recipe's layers.
        """
        lengths = tokens.lengths
        batches = plan(lengths, self.settings.batch_tokens)
        layers, threads = self.recipe.layers, self.settings.threads
        for windows, states in self.encoder().token_states(tokens, batches, self.recipe.pad_id, layers, threads):
            columns = np.arange(states.shape[2])
            there = columns < lengths[windows, None]  # (B, L)
            yield (tokens.offsets[windows, None] + columns)[there], states[:, there]

    def _width(self) -> int:
        """Width of a vector of a text, as far as the configuration tells."""
        per_layer = self.folder.hidden * len(self.recipe.poolings)
        return per_layer if self.recipe.layer_join == "mean" else per_layer * len(self.recipe.layers)

    def width(self, kind: str = "text") -> int:
        """Numbers in a vector of a text or pair."""
        return self._width() * (4 if kind == "pair" and self.recipe.pairs == "bi" else 1)

    def texts_per_row(self, kind: str) -> int:
        """Texts that the encoder reads for one input: what `progress` counts."""
        return 2 if kind == "pair" and self.recipe.pairs == "bi" else 1

    def remarks(self, done: Extraction) -> list[str]:
        """Say what was lost on the way: texts cut off, texts without a token."""
        advice = "; see max_length and long='mean' (--max-length, --long mean)"
        return lost(done.rows, done.truncated, done.empty, self.recipe.max_length, self.recipe.side, advice)

    def go_without(self, reason: str) -> None:
        """Keep no more features; said once, on the logger ``embedkit.encoders``."""
        with self._lock:
            already, self.keeping = not self.keeping, False
        if not already:
            log.warning("%s; going on without keeping new features", reason)

    @property
    def engine(self) -> Literal["torch", "onnx"] | None:
        """What computes features; None before the first text that is not in the store."""
        return self._engines.name

    @property
    def engine_notes(self) -> list[str]:
        """Say which engine was taken and why; nothing where there was nothing to choose."""
        return [] if self._engines.note is None else [self._engines.note]

    def encoder(self, texts: Sequence[Text] = (), worked: float = 0.0) -> Encoder:
        """Open the encoder at its first use.

        Parameters
        ----------
        texts : sequence of str, or of (str, str)
            What it is to compute; by these an engine is chosen.
        worked : float
            Seconds that it has computed since the last call.
        """
        with self._lock:
            if self._encoder is None:
                self._encoder = self._engines.open(texts)
            elif worked:
                self._encoder = self._engines.again(self._encoder, texts, worked)
            return self._encoder


@dataclass(frozen=True)
class _Run:
    vectors: Floats
    truncated: NDArray[np.bool_]
    empty: NDArray[np.bool_]
    extraction: Extraction


class _Job:
    """Distinct texts on their way to vectors.

    Attributes
    ----------
    vectors : list of ndarray of float32, each of shape (n, H)
        One for each view.
    content, truncated : ndarray, shape (n,)
        Tokens without the special ones, and whether some were cut off.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        texts: list[Text],
        keys: Keys,
        rows: NDArray[np.int64],
        repeats: NDArray[np.int64],
    ) -> None:
        self._extractor = extractor
        self._texts = texts
        self._keys = keys
        self._rows = rows
        self._repeats = repeats
        self.vectors: list[Floats] = []
        self.content = np.zeros(len(texts), dtype=np.uint32)
        self.truncated = np.zeros(len(texts), dtype=bool)
        self.computed = self.computed_tokens = 0
        self.load_seconds = self.encode_seconds = self.store_seconds = 0.0

    def fill(self) -> None:
        """Look up, then compute what is missing."""
        found = self._look_up()
        missing = np.flatnonzero(~found.all(axis=0))
        self._advance(np.flatnonzero(found.all(axis=0)))
        self.computed = len(missing)
        if not len(missing):
            return
        start = time.perf_counter()
        encoder = self._extractor.encoder([self._texts[i] for i in missing.tolist()])
        self.load_seconds = time.perf_counter() - start
        with ExitStack() as stack:
            savers = [stack.enter_context(saver) for saver in self._savers(found)]
            start, stored = time.perf_counter(), self.store_seconds
            self._compute(encoder, missing, found, savers)
            self.encode_seconds = time.perf_counter() - start - (self.store_seconds - stored)
            start = time.perf_counter()
        self.store_seconds += time.perf_counter() - start

    def _look_up(self) -> NDArray[np.bool_]:
        """Fill in what the store has; return what was found, shape (V, n)."""
        views = self._extractor.recipe.views
        found = np.zeros((len(views), len(self._texts)), dtype=bool)
        self.vectors = [np.empty((0, 0), np.float32)] * len(views)
        start = time.perf_counter()
        for number, space in enumerate(self._extractor.spaces or []):
            hits = space.lookup(self._keys)
            found[number] = hits.found
            self.vectors[number] = hits.vectors
            self.content[hits.found] = hits.tokens[hits.found]
            self.truncated[hits.found] = hits.truncated[hits.found]
        self.store_seconds += time.perf_counter() - start
        return found

    def _savers(self, found: NDArray[np.bool_]) -> list[_Saver]:
        spaces = self._extractor.spaces
        if spaces is None:
            return [_Saver(None, self._extractor) for _ in found]
        read_only = [space for space in spaces if not space.writable]
        if read_only:
            self._extractor.go_without(f"the store at {read_only[0].folder.parent.parent} is read-only")
        keeping = self._extractor.keeping
        return [
            _Saver(space if keeping and not row.all() else None, self._extractor)
            for row, space in zip(found, spaces, strict=True)
        ]

    def _compute(
        self, encoder: Encoder, missing: NDArray[np.int64], found: NDArray[np.bool_], savers: list[_Saver]
    ) -> None:
        extractor = self._extractor
        chunks = list(chunks_of([self._texts[i] for i in missing.tolist()]))
        tasks = [partial(self._tokenise, missing[part]) for part in chunks]
        tokenised = _ahead(tasks) if encoder.overlaps else (task() for task in tasks)
        for part, tokens in zip(chunks, tokenised, strict=True):
            places = missing[part]
            self.content[places] = tokens.content
            self.truncated[places] = tokens.truncated
            self.computed_tokens += int(tokens.row_lengths.sum())
            batches = plan(tokens.lengths, extractor.settings.batch_tokens)
            merger = WindowMerger(tokens)
            start = time.perf_counter()
            for batch, vectors in encoder.run(
                tokens, batches, extractor.recipe.pad_id, extractor.recipe.views, extractor.settings.threads
            ):
                done, ready = merger.add(batch, vectors)
                if len(done):
                    self._keep(places[done], ready, found, savers)
                    self._advance(places[done])
            rest = [self._texts[i] for i in missing[part.stop :].tolist()]
            encoder = extractor.encoder(rest, worked=time.perf_counter() - start)

    def _tokenise(self, places: NDArray[np.int64]) -> Tokens:
        texts = [self._texts[i] for i in places.tolist()]
        return self._extractor.tokenizer.encode(texts, windows=self._extractor.recipe.long == "mean")

    def _keep(
        self, places: NDArray[np.int64], vectors: Floats, found: NDArray[np.bool_], savers: list[_Saver]
    ) -> None:
        """Check vectors, store them, and put what the store made of them into the result."""
        self._check(places, vectors)
        start = time.perf_counter()
        for number, saver in enumerate(savers):
            if self.vectors[number].shape[1] == 0:
                self.vectors[number] = np.empty((len(self._texts), vectors.shape[2]), np.float32)
            self._check_width(places, vectors.shape[2], self.vectors[number].shape[1])
            new = ~found[number, places]
            if new.any():
                at = places[new]
                self.vectors[number][at] = saver.put(
                    self._keys[at], vectors[number][new], self.content[at], self.truncated[at]
                )
        self.store_seconds += time.perf_counter() - start

    def _check(self, places: NDArray[np.int64], vectors: Floats) -> None:
        """Refuse what no encoder that works would give, before any of it is stored."""
        peak = np.abs(vectors).max(axis=2)  # (V, B); NaN stays NaN
        bad = ~np.isfinite(peak).all(axis=0)
        if bad.any():
            raise ModelError(
                f"row {self._rows[places[bad][0]]}: the encoder gave a vector that is not finite; where it runs "
                "in float16 this is an overflow: use precision float32 or bfloat16"
            )
        zeros = (peak == 0).any(axis=0) & (self.content[places] > 0)  # padding may well be zeros
        if zeros.any():
            row = self._rows[places[zeros][0]]
            raise ModelError(f"row {row}: the encoder gave nothing but zeros; its weights are damaged")
        if self._extractor.dtype == "float16" and (peak > FLOAT16_MAX).any():
            row = self._rows[places[(peak > FLOAT16_MAX).any(axis=0)][0]]
            raise ModelError(
                f"row {row}: a number beyond {FLOAT16_MAX:.0f} does not fit float16; use --store-dtype float32"
            )

    def _check_width(self, places: NDArray[np.int64], width: int, expected: int) -> None:
        if width != expected:
            raise ModelError(
                f"row {self._rows[places[0]]}: the encoder gave {width} numbers where other texts have {expected}"
            )

    def _advance(self, places: NDArray[np.int64]) -> None:
        if self._extractor.progress is not None and len(places):
            self._extractor.progress(int(self._repeats[places].sum()))


class _Saver:
    """Writes one view, or only rounds where nothing is kept; a store that fails may be left."""

    def __init__(self, space: Space | None, extractor: FeatureExtractor) -> None:
        self._writer: Writer | None = None if space is None else space.writer()
        self._extractor = extractor

    def __enter__(self) -> _Saver:
        return self

    def put(self, keys: Keys, vectors: Floats, tokens: NDArray[np.uint32], truncated: NDArray[np.bool_]) -> Floats:
        """Return the vectors as a later hit will."""
        if self._writer is not None:
            try:
                return self._writer.put(keys, vectors, tokens, truncated)
            except StoreError as error:
                self._give_up(error)
        return vectors.astype(self._extractor.dtype).astype(np.float32)

    def _give_up(self, error: StoreError) -> None:
        if not self._extractor.keep_going:
            raise error
        self._writer = None
        self._extractor.go_without(str(error))

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:  # noqa: ANN401 - as the protocol has it
        if self._writer is None:
            return
        try:
            self._writer.__exit__(kind, error, trace)
        except StoreError as failed:
            self._give_up(failed)


def _ahead(tasks: Iterable[Callable[[], Tokens]]) -> Iterator[Tokens]:
    """Run one task ahead of the one whose result is in use."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting = None
        for task in tasks:
            following = pool.submit(task)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()
