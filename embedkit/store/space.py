"""One feature space: looking vectors up, writing them, merging small shards."""

from __future__ import annotations

import logging
import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedkit.errors import ModelError, StoreError
from embedkit.store.files import (
    FULL,
    check_folder,
    is_writable,
    make_folder,
    make_store,
    read_small,
    store_error,
    sync_folder,
    version_folder,
    write_bytes_durably,
)
from embedkit.store.identity import id_of_json
from embedkit.store.keys import KEY_BYTES, Keys, shared
from embedkit.store.shards import (
    DamagedShard,
    NewerShard,
    Rows,
    Shard,
    ShardName,
    StoreDtype,
    list_shards,
    write_shard,
)

DESCRIPTOR = "space.json"
DESCRIPTOR_LIMIT = 1 << 20  # bytes
FLOAT16_MAX = 65504.0
# Closing a writer merges where more shards than this are smaller than 8 MB: above that size, writing them
# again costs more than opening them. `gc` merges what is under 64 MB.
AUTO_MERGE_SHARDS = 64
AUTO_MERGE_BYTES = 8 << 20
MERGE_BYTES = 64 << 20
MERGED_BYTES = 128 << 20  # the largest shard that a merge writes
_RETRIES = 8

log = logging.getLogger("embedkit.store")


class Hits(NamedTuple):
    """What a lookup found; vectors of other rows are undefined, their tokens 0 and their flags False."""

    vectors: NDArray[np.float32]  # (n, d); d is 0 if nothing was found and no `out` was given
    found: NDArray[np.bool_]  # (n,)
    tokens: NDArray[np.uint32]  # (n,)
    truncated: NDArray[np.bool_]  # (n,)


class RefusedVectorError(ModelError):
    """A vector that must not be stored: not finite, too large for float16, or of the wrong width.

    Attributes
    ----------
    row : int or None
        Position in the arrays given to `Writer.put`, from 0; None where all rows are meant.
    """

    def __init__(self, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row


@dataclass(frozen=True)
class FlushRule:
    """When a writer's buffer goes to disk: at whichever limit is reached first."""

    rows: int
    bytes: int
    seconds: float


class Space:
    """The stored features of one feature space; `FeatureStore.space` makes it.

    Reading needs no lock and sees what other processes have committed by the time of each call. Threads may
    share a space; each needs its own writer.

    Attributes
    ----------
    id : str
        32 hexadecimal digits.
    """

    def __init__(self, root: Path, description: bytes, dtype: StoreDtype, rule: FlushRule) -> None:
        self.id = id_of_json(description)
        self.folder = version_folder(root) / self.id
        self.dtype: StoreDtype = dtype
        self.rule = rule
        self._root = root
        self._description = description
        self._shards: dict[str, Shard] = {}
        self._ignored: set[str] = set()  # damaged and not movable, or for later readers: said once
        self._touched = False

    @property
    def writable(self) -> bool:
        """Whether a writer may expect to succeed."""
        return is_writable(self.folder / "shards")

    @property
    def width(self) -> int:
        """Numbers in a vector; 0 while nothing is stored."""
        self.lookup(np.empty((0, KEY_BYTES), dtype=np.uint8))
        return next((shard.dim for shard in list(self._shards.values())), 0)

    def lookup(self, keys: NDArray[np.uint8], out: NDArray[np.float32] | None = None) -> Hits:
        """Return the stored vectors of some keys.

        Parameters
        ----------
        keys : ndarray of uint8, shape (n, 16)
            See `text_keys`; repeated keys are fine.
        out : ndarray of float32, shape (n, d), optional
            Filled and returned as ``vectors``; may be a memory map.

        Returns
        -------
        Hits

        Raises
        ------
        StoreError
            A folder of the store cannot be trusted or read, or the space holds vectors of two widths.

        Notes
        -----
        A damaged shard is moved to ``quarantine`` with one warning on the logger ``embedkit.store``, and its
        rows are misses.
        """
        columns = Keys.of(keys)
        order = columns.order()
        columns = columns.take(order)
        first = columns.firsts()
        wanted, at = columns.take(first), order[first]
        hits = self._read(wanted, at, len(keys), out)
        if not first.all():
            _repeat(hits, order, first)
        if hits.found.any():
            self._touch()
        return hits

    def _read(self, wanted: Keys, at: NDArray[np.intp], n: int, out: NDArray[np.float32] | None) -> Hits:
        """Read unique sorted keys to the rows `at`; start again when the folder changed underneath."""
        attempts = 0
        while True:
            try:
                shards = self.open_shards()
                found = _locate(shards, wanted)
                width = shards[0].dim if any(len(rows) for _, rows in found) else 0
                hits = _no_hits(n, width, out)
                for shard, (positions, rows) in zip(shards, found, strict=True):
                    _fill(hits, shard, rows, at[positions])
                return hits
            except DamagedShard as damage:
                self.set_aside(damage)
            except FileNotFoundError as error:  # a merge was faster
                attempts += 1
                if attempts > _RETRIES:
                    raise StoreError(
                        f"{self.folder} changes faster than it can be read; try again ({error.filename})"
                    ) from error

    def open_shards(self) -> list[Shard]:
        """List the folder and open what is new, lowest name first.

        Raises
        ------
        FileNotFoundError
            A merge replaced a shard between listing and opening.
        """
        current = {}
        for name in self.listing():
            shard = self._shards.get(name.file)
            try:
                shard = shard or self.open_shard(name)
            except DamagedShard as damage:
                self.set_aside(damage)
            if shard is not None:
                current[name.file] = self._shards[name.file] = shard
        self._shards = current
        opened = list(current.values())
        if any(shard.dim != opened[0].dim for shard in opened):
            widths = sorted({shard.dim for shard in opened})
            raise StoreError(
                f"{self.folder} holds vectors of widths {widths}: its description misses something; "
                "remove it with embedkit cache purge"
            )
        return opened

    def listing(self) -> list[ShardName]:
        """Return the names of the shards that count, lowest first."""
        if not all(map(check_folder, (self._root, self.folder.parent, self.folder))):
            return []
        return [name for name in list_shards(self.folder / "shards") if name.file not in self._ignored]

    def open_shard(self, name: ShardName) -> Shard | None:
        """Open a shard; None, said once, if it is for later readers.

        Raises
        ------
        DamagedShard
            It is not what was written; `set_aside` is the caller's.
        FileNotFoundError
            A merge replaced it.
        """
        try:
            return Shard(self.folder / "shards", name, self.id, self.dtype)
        except NewerShard:
            self._ignored.add(name.file)
            log.warning("ignored %s: it was written by a later embedkit", self.folder / "shards" / name.file)
            return None

    def set_aside(self, damage: DamagedShard) -> None:
        """Move a damaged shard to ``quarantine`` and say so once."""
        name = damage.name
        path = self.folder / "shards" / name.file
        self._ignored.add(name.file)
        try:
            make_folder(self.folder / "quarantine")
            path.replace(self.folder / "quarantine" / f"{name.file}.{damage.reason}")
            done = "moved to quarantine"
        except FileNotFoundError:
            return  # another process was faster, and says so
        except OSError as error:
            done = f"left in place ({error.strerror})"
        log.warning(
            "damaged shard %s (%s): %s; its %d rows count as not stored", path, damage.reason, done, name.rows
        )

    def _touch(self) -> None:
        """Note for `gc` that the space is in use."""
        if not self._touched:
            self._touched = True
            with suppress(OSError):
                os.utime(self.folder / DESCRIPTOR, follow_symlinks=False)

    def writer(self) -> Writer:
        """Return a writer, to be used in a ``with`` statement.

        Raises
        ------
        StoreError
            The store is read-only; ask `writable` to avoid it.
        """
        if not self.writable:
            raise StoreError(f"the store at {self._root} is read-only: nothing can be saved; name another place")
        return Writer(self)

    def commit(self, rows: Rows, shard_id: str | None = None) -> ShardName:
        """Write sorted rows as one shard, durably; OSError if that fails."""
        for attempt in range(3):
            try:
                self._make_folders()
                return write_shard(self.folder, self.id, rows, shard_id)
            except FileNotFoundError:  # somebody purged the space meanwhile
                if attempt == 2:
                    raise
        raise AssertionError

    def _make_folders(self) -> None:
        make_store(self._root)
        make_folder(self.folder)
        make_folder(self.folder / "shards")
        make_folder(self.folder / "parts")
        path = self.folder / DESCRIPTOR
        if read_small(path, DESCRIPTOR_LIMIT) != self._description:
            write_bytes_durably(path, self._description, self.folder / "parts")

    def mergeable(self, below: int = MERGE_BYTES) -> list[ShardName]:
        """Return the newest shards that are all smaller than `below` bytes."""
        run: list[ShardName] = []
        for name in reversed(self.listing()):
            if name.size >= below:
                break
            run.insert(0, name)
        return run

    def merge(self, below: int = MERGE_BYTES, more_than: int = 1) -> int:
        """Write the newest small shards anew as few, where they are more than `more_than`.

        The new shards take the id of the lowest old one, so they keep their place in the order that decides
        between two rows of one key: a reader gets the same bits before, during and after. They are on disk
        before the old ones go; a crash in between leaves duplicates, which cost space alone.

        Returns
        -------
        int
            How many shards were replaced; 0 if a concurrent merge won, or the disk has no room for both.

        Raises
        ------
        OSError
            Writing failed; nothing is lost.
        """
        run = self.mergeable(below)
        if len(run) <= more_than:
            return 0
        try:
            old = [shard for shard in self.open_shards() if shard.name in run]
            files = {shard.name.file for shard in old}  # without damaged ones and those for later readers
            if not old or sum(shard.name.size for shard in old) * 1.05 > shutil.disk_usage(self.folder).free:
                return 0
            new = self._write_merged(old)
        except FileNotFoundError:
            return 0
        except DamagedShard as damage:
            self.set_aside(damage)
            return 0
        for file in files - new:
            with suppress(FileNotFoundError):
                (self.folder / "shards" / file).unlink()
        sync_folder(self.folder / "shards")
        return len(files - new)

    def _write_merged(self, old: list[Shard]) -> set[str]:
        every = Keys(
            np.concatenate([shard.keys.hi for shard in old]), np.concatenate([shard.keys.lo for shard in old])
        )
        every = every.take(every.order())
        wanted = every.take(every.firsts())
        shard_bytes = sum(shard.name.size for shard in old) * len(wanted.hi) // len(every.hi)
        count = -(-shard_bytes // MERGED_BYTES)
        edges = [len(wanted.hi) * part // count for part in range(count + 1)]
        new = set()
        for start, stop in pairwise(edges):
            rows = _rows_of(old, wanted.take(slice(start, stop)))
            new.add(self.commit(rows, old[0].name.id).file)
        return new


class _Buffered(NamedTuple):
    keys: Keys
    vectors: NDArray[Any]
    tokens: NDArray[np.uint32]
    truncated: NDArray[np.bool_]


class Writer:
    """Buffers features and commits them as shards; use it in a ``with`` statement.

    Leaving the block flushes, also when an exception such as KeyboardInterrupt leaves it. A process that is
    killed loses at most what was put since the last flush.

    Attributes
    ----------
    saved : int
        Rows committed by this writer.
    """

    def __init__(self, space: Space) -> None:
        self.saved = 0
        self._space = space
        self._buffer: list[_Buffered] = []
        self._since = 0.0
        self._width = 0
        self._failed = False

    def put(
        self,
        keys: NDArray[np.uint8],
        vectors: NDArray[np.float32],
        tokens: NDArray[np.uint32],
        truncated: NDArray[np.bool_],
    ) -> NDArray[np.float32]:
        """Store rows; of rows with one key the first counts.

        Parameters
        ----------
        keys : ndarray of uint8, shape (n, 16)
        vectors : ndarray of float32, shape (n, d)
        tokens : ndarray of uint32, shape (n,)
        truncated : ndarray of bool, shape (n,)

        Returns
        -------
        ndarray of float32, shape (n, d)
            What a later lookup returns: `vectors` itself, or rounded where the store keeps float16.

        Raises
        ------
        RefusedVectorError
            A vector is not finite, beyond 65504 in a float16 store, or of another width than the space's.
            None of the rows is stored.
        StoreFullError, StoreError
            A flush failed.
        """
        n = len(keys)
        if not (vectors.ndim == 2 and len(vectors) == len(tokens) == len(truncated) == n):
            raise ValueError("keys, vectors, tokens and truncated must have one row each for a text")
        self._check_width(vectors.shape[1])
        self._check_values(vectors)
        stored = np.ascontiguousarray(vectors, dtype=self._space.dtype)
        row_bytes = max(1, stored.shape[1] * stored.itemsize)
        step = max(1, min(self._space.rule.rows, self._space.rule.bytes // row_bytes))
        for start in range(0, n, step):
            part = slice(start, start + step)
            # Copies: the caller may use its arrays again.
            self._add(
                _Buffered(Keys.of(keys[part]), stored[part].copy(), tokens[part].copy(), truncated[part].copy())
            )
        return stored.astype(np.float32, copy=False)

    def _check_width(self, width: int) -> None:
        self._width = self._width or self._space.width or width
        if width != self._width or width < 1:
            raise RefusedVectorError(f"vectors of {width} numbers for a space of {self._width}")

    def _check_values(self, vectors: NDArray[np.float32]) -> None:
        for start in range(0, len(vectors), 4096):
            part = vectors[start : start + 4096]
            finite = np.isfinite(part)
            if not finite.all():
                row = start + int(np.argmin(finite.all(axis=1)))
                raise RefusedVectorError(
                    f"the vector of row {row + 1} holds NaN or infinity and is not stored; where the encoder "
                    "runs in float16 this is an overflow: use precision float32 or bfloat16",
                    row,
                )
            if self._space.dtype == "float16" and np.abs(part).max(initial=0.0) > FLOAT16_MAX:
                row = start + int(np.argmax(np.abs(part).max(axis=1) > FLOAT16_MAX))
                raise RefusedVectorError(
                    f"the vector of row {row + 1} holds a number beyond {FLOAT16_MAX:.0f}, which a float16 "
                    "store cannot keep; use --store-dtype float32",
                    row,
                )

    def _add(self, rows: _Buffered) -> None:
        if not self._buffer:
            self._since = time.monotonic()
        self._buffer.append(rows)
        rule = self._space.rule
        if (
            sum(len(entry.vectors) for entry in self._buffer) >= rule.rows
            or sum(entry.vectors.nbytes for entry in self._buffer) >= rule.bytes
            or time.monotonic() - self._since >= rule.seconds
        ):
            self.flush()

    def flush(self) -> None:
        """Commit what is buffered.

        Raises
        ------
        StoreFullError
            No space is left: the message says what was saved. The buffer is kept, so that a later call
            can succeed.
        StoreError
            Writing failed for another reason.
        """
        if not self._buffer:
            return
        rows = _sorted(self._buffer)
        self._failed = True
        try:
            self._space.commit(rows)
        except OSError as error:
            raise self._explained(error, rows) from error
        self.saved += len(rows.tokens)
        self._failed = False
        self._buffer = []

    def _explained(self, error: OSError, rows: Rows) -> StoreError:
        advice = f"{self.saved} rows of this run are saved, {len(rows.tokens)} in memory are not"
        if error.errno in FULL:
            needed = -(-rows.vectors.nbytes // 1_000_000)
            advice += (
                f"; free at least {needed} MB there and run the same command again: it computes only the rest"
            )
        else:
            advice += "; make the folder writable or name another place"
        return store_error(error, f"cannot save features in {self._space.folder}", advice)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.flush()
            self._merge()
            return
        if self._failed:  # the error that leaves the block says what was saved
            return
        try:
            self.flush()
        except StoreError as second:
            log.warning("%s", second)  # the first error is the one to see

    def _merge(self) -> None:
        try:
            self._space.merge(AUTO_MERGE_BYTES, AUTO_MERGE_SHARDS)
        except (OSError, StoreError) as error:
            log.info("small shards were not merged: %s", error)


def _locate(shards: list[Shard], wanted: Keys) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Return for each shard which of the sorted unique keys it answers, and with which of its rows."""
    owner = np.full(len(wanted.hi), -1, dtype=np.int32)
    row = np.empty(len(wanted.hi), dtype=np.intp)
    for number in reversed(range(len(shards))):  # the lowest name is written last and wins
        keys = shards[number].keys
        start = int(np.searchsorted(wanted.hi, keys.hi[0], side="left"))
        stop = int(np.searchsorted(wanted.hi, keys.hi[-1], side="right"))
        positions, rows = shared(wanted.take(slice(start, stop)), keys)
        owner[start + positions] = number
        row[start + positions] = rows
    by_owner = np.argsort(owner, kind="stable")
    edges = np.searchsorted(owner[by_owner], np.arange(len(shards) + 1))
    groups = [by_owner[start:stop] for start, stop in pairwise(edges)]
    return [(positions, row[positions]) for positions in groups]


def _fill(hits: Hits, shard: Shard, rows: NDArray[np.intp], at: NDArray[np.intp]) -> None:
    if len(rows) == 0:
        return
    shard.gather(rows, hits.vectors, at)
    hits.tokens[at] = shard.tokens[rows]
    hits.truncated[at] = shard.truncated[rows]
    hits.found[at] = True


def _no_hits(n: int, width: int, out: NDArray[np.float32] | None) -> Hits:
    if out is None:
        out = np.zeros((n, width), dtype=np.float32)
    elif out.dtype != np.float32 or out.shape != (n, width or out.shape[-1]):
        raise ValueError(f"out must be float32 of shape {(n, width)}, got {out.dtype} {out.shape}")
    return Hits(out, np.zeros(n, dtype=bool), np.zeros(n, dtype=np.uint32), np.zeros(n, dtype=bool))


def _repeat(hits: Hits, order: NDArray[np.intp], first: NDArray[np.bool_]) -> None:
    """Copy what was found for the first of equal keys to the others."""
    source = order[first][np.cumsum(first) - 1]
    repeated = ~first & hits.found[source]
    for column in hits:
        column[order[repeated]] = column[source[repeated]]


def _rows_of(shards: list[Shard], wanted: Keys) -> Rows:
    """Read sorted unique keys, all of them stored, in the stored dtype."""
    n = len(wanted.hi)
    vectors = np.empty((n, shards[0].dim), dtype=shards[0].dtype)
    hits = Hits(vectors, np.zeros(n, dtype=bool), np.empty(n, dtype=np.uint32), np.empty(n, dtype=bool))
    for shard, (positions, rows) in zip(shards, _locate(shards, wanted), strict=True):
        _fill(hits, shard, rows, positions)
    return Rows(wanted, vectors, hits.tokens, hits.truncated)


def _sorted(buffer: list[_Buffered]) -> Rows:
    """Sort buffered rows by key; of rows with one key the first stays."""
    keys = Keys(*(np.concatenate([entry.keys[half] for entry in buffer]) for half in (0, 1)))
    order = keys.order()
    order = order[keys.take(order).firsts()]
    tokens = np.concatenate([entry.tokens for entry in buffer])[order]
    truncated = np.concatenate([entry.truncated for entry in buffer])[order]
    place = np.full(len(keys.hi), -1, dtype=np.intp)
    place[order] = np.arange(len(order))
    vectors = np.empty((len(order), buffer[0].vectors.shape[1]), dtype=buffer[0].vectors.dtype)
    start = 0
    for entry in buffer:  # each straight to its place: no second copy of the whole buffer
        places = place[start : start + len(entry.vectors)]
        kept = places >= 0
        vectors[places[kept]] = entry.vectors if kept.all() else entry.vectors[kept]
        start += len(places)
    return Rows(keys.take(order), vectors, tokens.astype(np.uint32), truncated.astype(bool))
