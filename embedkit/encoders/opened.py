"""What features of texts and of words share: an opened model, and rows on their way through encoder and store."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Generic, Literal, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from embedkit.encoders.engines import Encoder, EngineMaker, Engines, EngineSource
from embedkit.encoders.folder import ModelFolder, read_folder
from embedkit.encoders.recipe import Floats, Recipe, view_descriptors
from embedkit.encoders.settings import EncoderSettings
from embedkit.encoders.texts import Keys, keys_of
from embedkit.encoders.tokenizer_file import tokenizer_file
from embedkit.errors import ModelError, StoreError
from embedkit.hub import resolve_model
from embedkit.runtime.batching import plan
from embedkit.runtime.texts import chunks_of
from embedkit.runtime.tokens import Text, Tokenizer, Tokens, Words
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
Laid = TypeVar("Laid")  # inputs as tokens

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


class Opened:
    """A model's folder, opened without its weights, and the spaces of its views in a store.

    The model itself, and with it torch, is loaded when something is not in the store.

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
        Told the number of texts, or sentences, that became ready, hits included.
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
        self.recipe: Recipe = self._exact(settings, self.folder)
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
                replace(self.recipe, poolings=("mean",)) if self.recipe.words else self.recipe,
                self.tokenizer,
                settings,
                store,
                digests,
            ),
            engines,
        )

    @staticmethod
    def _exact(settings: EncoderSettings, folder: ModelFolder) -> Recipe:
        """Fill in what the settings leave to the folder."""
        raise NotImplementedError

    @property
    def view_ids(self) -> list[str]:
        """Ids of the spaces of the recipe's views, whether or not there is a store."""
        return [space_id({**described, STORED_DTYPE: self.dtype}) for described in self._descriptors]

    @property
    def weights(self) -> list[str]:
        """SHA-256 of each weight file."""
        return list(self._descriptors[0]["weights"])

    def space(self, kind: str = "text") -> str:
        """Return the id of the feature space of texts, pairs or words (``"tokens"``), 32 hexadecimal digits."""
        return self.recipe.space(self.view_ids, kind)

    def width(self, kind: str = "text") -> int:
        """Numbers in a vector of a text, pair or word, as far as the configuration tells."""
        recipe = self.recipe
        layers = 1 if recipe.layer_join == "mean" else len(recipe.layers)
        parts = 4 if kind == "pair" and recipe.pairs == "bi" else 1
        return self.folder.hidden * len(recipe.poolings) * layers * parts

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


class Filling(Generic[Laid]):
    """Rows of the store on their way to vectors; what is read at once (a text, a sentence) is an item.

    Parameters
    ----------
    extractor : Opened
    items : sequence of str, of (str, str), or of list of str
        m of them.
    keys : ndarray of uint8, shape (n, 16)
        Of all rows.
    rows : ndarray of int64, shape (n,)
        What messages call them.
    repeats : ndarray of int64, shape (m,)
        How many inputs each item stands for.

    Attributes
    ----------
    vectors : list of ndarray of float32, each of shape (n, H)
        One for each view.
    content, truncated : ndarray, shape (n,)
        Tokens without the special ones, and whether some were cut off.
    computed : int
        Items that the encoder was given.
    """

    def __init__(
        self,
        extractor: Opened,
        items: Sequence[Text | Words],
        keys: Keys,
        rows: NDArray[np.int64],
        repeats: NDArray[np.int64],
    ) -> None:
        self._extractor = extractor
        self._items = items
        self._keys = keys
        self._rows = rows
        self._repeats = repeats
        self.vectors: list[Floats] = []
        self.content = np.zeros(len(keys), dtype=np.uint32)
        self.truncated = np.zeros(len(keys), dtype=bool)
        self.computed = self.computed_tokens = 0
        self.load_seconds = self.encode_seconds = self.store_seconds = 0.0

    @classmethod
    def of_distinct(
        cls, extractor: Opened, items: Sequence[Text | list[str]], rows: NDArray[np.int64]
    ) -> tuple[Self, Keys, NDArray[np.int64]]:
        """Return the distinct items on their way, their keys, and which of them each item is."""
        keys = keys_of(items, rows)
        first, which = distinct(keys)
        some = [items[i] for i in first.tolist()]
        return cls(extractor, some, keys[first], rows[first], np.bincount(which)), keys[first], which

    # --- what texts and words do each in their way ---

    def _whole(self, found: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Say of which items all rows are there, shape (m,)."""
        raise NotImplementedError

    def _sample(self, places: NDArray[np.int64]) -> list[Text]:
        """Return items as texts, by which an engine is chosen."""
        raise NotImplementedError

    def _tokenise(self, places: NDArray[np.int64]) -> Laid:
        """Return some items as tokens."""
        raise NotImplementedError

    def _read(
        self,
        encoder: Encoder,
        places: NDArray[np.int64],
        laid: Laid,
        found: NDArray[np.bool_],
        savers: list[Saver],
    ) -> None:
        """Give the tokens of some items to the encoder, and every row that is ready to `_keep`."""
        raise NotImplementedError

    # --- what they share ---

    def fill(self) -> None:
        """Look up, then compute what is missing."""
        found = self._look_up()
        whole = self._whole(found)
        missing = np.flatnonzero(~whole)
        self._advance(np.flatnonzero(whole))
        self.computed = len(missing)
        if not len(missing):
            return
        start = time.perf_counter()
        encoder = self._extractor.encoder(self._sample(missing))
        self.load_seconds = time.perf_counter() - start
        with ExitStack() as stack:
            savers = [stack.enter_context(saver) for saver in self._savers(found)]
            start, stored = time.perf_counter(), self.store_seconds
            self._compute(encoder, missing, found, savers)
            self.encode_seconds = time.perf_counter() - start - (self.store_seconds - stored)
            start = time.perf_counter()
        self.store_seconds += time.perf_counter() - start

    def lacking(self) -> int:
        """Return how many items `fill` would have the encoder read."""
        return int((~self._whole(self._look_up())).sum())

    def cost(self, keys: Keys) -> Extraction:
        """Say what was done; `keys` are those of the items."""
        return Extraction(
            hits=len(self._items) - self.computed,
            computed=self.computed,
            tokens=self.computed_tokens,
            load_seconds=self.load_seconds,
            encode_seconds=self.encode_seconds,
            store_seconds=self.store_seconds,
            _keys=[keys],
        )

    def _look_up(self) -> NDArray[np.bool_]:
        """Fill in what the store has; return what was found, shape (V, n)."""
        views = self._extractor.recipe.views
        found = np.zeros((len(views), len(self._keys)), dtype=bool)
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

    def _savers(self, found: NDArray[np.bool_]) -> list[Saver]:
        spaces = self._extractor.spaces
        if spaces is None:
            return [Saver(None, self._extractor) for _ in found]
        read_only = [space for space in spaces if not space.writable]
        if read_only:
            self._extractor.go_without(f"the store at {read_only[0].folder.parent.parent} is read-only")
        keeping = self._extractor.keeping
        return [
            Saver(space if keeping and not row.all() else None, self._extractor)
            for row, space in zip(found, spaces, strict=True)
        ]

    def _compute(
        self, encoder: Encoder, missing: NDArray[np.int64], found: NDArray[np.bool_], savers: list[Saver]
    ) -> None:
        chunks = list(chunks_of([self._items[i] for i in missing.tolist()]))
        tasks = [partial(self._tokenise, missing[part]) for part in chunks]
        tokenised = _ahead(tasks) if encoder.overlaps else (task() for task in tasks)
        for part, laid in zip(chunks, tokenised, strict=True):
            start = time.perf_counter()
            self._read(encoder, missing[part], laid, found, savers)
            rest = self._sample(missing[part.stop :])
            encoder = self._extractor.encoder(rest, worked=time.perf_counter() - start)

    def _keep(
        self, places: NDArray[np.int64], vectors: Floats, found: NDArray[np.bool_], savers: list[Saver]
    ) -> None:
        """Check vectors, store them, and put what the store made of them into the result."""
        self._check(places, vectors)
        start = time.perf_counter()
        for number, saver in enumerate(savers):
            if self.vectors[number].shape[1] == 0:
                self.vectors[number] = np.empty((len(self._keys), vectors.shape[2]), np.float32)
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


class Saver:
    """Writes one view, or only rounds where nothing is kept; a store that fails may be left."""

    def __init__(self, space: Space | None, extractor: Opened) -> None:
        self._writer: Writer | None = None if space is None else space.writer()
        self._extractor = extractor

    def __enter__(self) -> Saver:
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


def _ahead(tasks: Iterable[Callable[[], Laid]]) -> Iterator[Laid]:
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
