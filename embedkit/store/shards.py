"""Shards: immutable, key-sorted, checksummed Arrow IPC files.

A shard is one record batch with the columns ``key`` (16 bytes), ``tokens`` (uint32), ``flags`` (uint8, bit 0:
truncated) and ``vector`` (fixed-size list of float32 or float16), uncompressed, without nulls. Arrow IPC has no
checksum of its own, so a shard carries three layers:

- the schema's metadata holds XXH3-64 of each block of 256 vectors and XXH3-128 of the other columns;
- the file's name holds XXH3-128 of the frame: every byte outside the record batch's body, metadata included;
- the file's name holds the number of rows and of bytes.

The frame and the small columns are checked when a shard is opened, a block of vectors when it is first read.
The bytes are read with plain reads, never mapped: a file cut short is an error, not a signal.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from embedkit.errors import StoreError
from embedkit.store.files import READ, check_folder, write_all, write_durably
from embedkit.store.keys import KEY_BYTES, Keys

FORMAT = 1
MIN_READER = 1  # written: the oldest reader that understands the file
READER = 1  # this reader
BLOCK_ROWS = 256
# Fewer wanted rows than this in a block are cheaper to read one by one.
_SPARSE_ROWS = 24
_MAGIC = b"ARROW1"
_NAME = re.compile(r"(?P<id>[0-9a-f]{32})-(?P<rows>\d{1,15})-(?P<size>\d{1,15})-(?P<digest>[0-9a-f]{32})\.arrow")

StoreDtype = Literal["float32", "float16"]


@dataclass(frozen=True)
class ShardName:
    """A shard's file name and what it says."""

    file: str
    id: str  # time-ordered; of two rows with one key, the one in the shard with the lowest name counts
    rows: int
    size: int  # bytes
    digest: str  # of the frame

    @classmethod
    def parse(cls, file: str) -> ShardName | None:
        """Read a file name; None if it is not a shard's."""
        named = _NAME.fullmatch(file)
        if named is None:
            return None
        return cls(file, named["id"], int(named["rows"]), int(named["size"]), named["digest"])


class DamagedShard(Exception):  # noqa: N818 - an event to act on; nobody outside the room sees it
    """A shard's bytes are not those that were written."""

    def __init__(self, name: ShardName, reason: str) -> None:
        super().__init__(reason)
        self.name = name
        self.reason = reason


class NewerShard(Exception):  # noqa: N818
    """A shard was written by a later version, for readers later than this one."""


class Rows(NamedTuple):
    """Rows of features, in key order."""

    keys: Keys
    vectors: NDArray[np.floating[Any]]  # (n, d), C-contiguous, in the stored dtype
    tokens: NDArray[np.uint32]
    truncated: NDArray[np.bool_]


class _Layout(NamedTuple):
    """Where the columns lie in the body of the record batch, in bytes."""

    tokens: int
    flags: int
    vectors: int
    end: int

    @classmethod
    def of(cls, rows: int, row_bytes: int) -> _Layout:
        tokens = _padded(rows * KEY_BYTES)
        flags = tokens + _padded(rows * 4)
        vectors = flags + _padded(rows)
        return cls(tokens, flags, vectors, vectors + _padded(rows * row_bytes))


class _Frame(NamedTuple):
    """What is around the body of the only record batch in an Arrow file."""

    schema: bytes  # the encapsulated schema message
    body: int  # offset
    body_bytes: int
    digest: str


def list_shards(folder: Path) -> list[ShardName]:
    """Return the shards in a folder, lowest name first; whatever else lies there is left alone.

    The folder is listed until two listings agree: one that runs beside a merge can miss both the new shard
    and the old ones.
    """
    names = _scan(folder)
    while (again := _scan(folder)) != names:
        names = again
    return names


def _scan(folder: Path) -> list[ShardName]:
    if not check_folder(folder):
        return []
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = ShardName.parse(entry.name)
                if name is None:
                    continue
                if entry.is_symlink():
                    raise StoreError(f"{entry.path} is a symlink; a store follows none: remove it")
                if entry.is_file(follow_symlinks=False):
                    found.append(name)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"cannot list {folder}: {error.strerror}") from error
    return sorted(found, key=lambda name: name.file)


def new_id() -> str:
    """Return 32 hexadecimal digits that sort by time: nanoseconds, then 64 random bits."""
    return f"{time.time_ns():016x}{secrets.token_hex(8)}"


def write_shard(folder: Path, space: str, rows: Rows, shard_id: str | None = None) -> ShardName:
    """Write rows as one shard of a space's folder and return its name.

    Parameters
    ----------
    folder : Path
        The space's folder, with ``shards`` and ``parts`` in it.
    space : str
        The space's id.
    rows : Rows
        Sorted by key, no key twice, at least one row of at least one number.
    shard_id : str, optional
        Default: `new_id`, taken when the bytes are complete, so that shards sort in the order they appear.

    Raises
    ------
    OSError
        Writing failed; nothing is left behind.
    """
    batch = _record_batch(space, rows)
    n, dim = rows.vectors.shape
    written: list[ShardName] = []

    def fill(descriptor: int) -> Path:
        sink = _Sink(descriptor)
        with pa.ipc.new_file(pa.PythonFile(sink, mode="w"), batch.schema) as writer:
            writer.write_batch(batch)
        with FileIO(descriptor, "r", closefd=False) as file:
            frame = _read_frame(file, sink.size)
        if frame.body_bytes != _Layout.of(n, dim * rows.vectors.itemsize).end:
            raise StoreError(f"pyarrow {pa.__version__} lays out record batches in another way; use 18 to 26")
        name = f"{shard_id or new_id()}-{n}-{sink.size}-{frame.digest}.arrow"
        parsed = ShardName.parse(name)
        assert parsed is not None
        written.append(parsed)
        return folder / "shards" / name

    write_durably(folder / "parts", fill)
    return written[0]


def _record_batch(space: str, rows: Rows) -> pa.RecordBatch:
    n, dim = rows.vectors.shape
    keys, flags = rows.keys.to_bytes(), rows.truncated.astype(np.uint8)
    values = pa.array(rows.vectors.reshape(-1))
    vector_type = pa.list_(pa.field("item", values.type, nullable=False), dim)
    blocks = range(0, n, BLOCK_ROWS)
    metadata = {
        "format": str(FORMAT),
        "min_reader": str(MIN_READER),
        "space": space,
        "block_rows": str(BLOCK_ROWS),
        "index_xxh3_128": _index_digest(keys, rows.tokens, flags),
        "block_xxh3_64": "".join(
            xxhash.xxh3_64_hexdigest(rows.vectors[start : start + BLOCK_ROWS].data) for start in blocks
        ),
    }
    columns = [
        (pa.binary(KEY_BYTES), pa.Array.from_buffers(pa.binary(KEY_BYTES), n, [None, pa.py_buffer(keys)])),
        (pa.uint32(), pa.array(rows.tokens)),
        (pa.uint8(), pa.array(flags)),
        (vector_type, pa.FixedSizeListArray.from_arrays(values, type=vector_type)),
    ]
    names = ("key", "tokens", "flags", "vector")
    fields = [pa.field(name, kind, nullable=False) for name, (kind, _) in zip(names, columns, strict=True)]
    return pa.record_batch([column for _, column in columns], schema=pa.schema(fields, metadata=metadata))


class _Sink:
    """The face of a descriptor that pyarrow writes to; complete even where the system writes short."""

    closed = False

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = 0

    def write(self, data: bytes | pa.Buffer) -> int:
        """Write all of a buffer."""
        view = memoryview(data).cast("B")
        write_all(self._descriptor, view)
        self.size += len(view)
        return len(view)

    def flush(self) -> None:
        """Do nothing: writes are not buffered."""

    def close(self) -> None:
        """Do nothing: the descriptor is the caller's."""


class Shard:
    """An opened shard: keys, token counts and flags in memory (21 bytes a row), vectors on disk.

    Raises
    ------
    DamagedShard
        The bytes are not those that were written.
    NewerShard
        The file needs a later reader.
    FileNotFoundError
        A merge has replaced the file.
    """

    def __init__(self, folder: Path, name: ShardName, space: str, dtype: StoreDtype) -> None:
        self.name = name
        self._path = folder / name.file
        with self._open() as file:
            frame = _framed(file, name)
            try:
                self._read_schema(frame, space, np.dtype(dtype))
            except (KeyError, ValueError, AttributeError, pa.ArrowException):
                raise DamagedShard(name, "schema") from None
            self._read_index(file, frame)

    def _read_schema(self, frame: _Frame, space: str, dtype: np.dtype[Any]) -> None:
        schema = pa.ipc.read_schema(pa.py_buffer(frame.schema))
        metadata = {key.decode(): value.decode() for key, value in schema.metadata.items()}
        if int(metadata["min_reader"]) > READER:
            raise NewerShard
        vector = schema.field("vector").type
        self.dim, self.dtype = int(vector.list_size), dtype
        self._layout = _Layout.of(self.name.rows, self.dim * dtype.itemsize)
        self._vectors_at = frame.body + self._layout.vectors
        self._index_digest = metadata["index_xxh3_128"]
        self._sums = np.frombuffer(bytes.fromhex(metadata["block_xxh3_64"]), dtype=">u8")
        self._verified = np.zeros(len(self._sums), dtype=bool)
        if metadata["space"] != space or vector.value_type != pa.from_numpy_dtype(dtype):
            raise DamagedShard(self.name, "foreign")
        if frame.body_bytes != self._layout.end or len(self._sums) != -(-self.name.rows // BLOCK_ROWS):
            raise DamagedShard(self.name, "layout")

    def _open(self) -> FileIO:
        try:
            return FileIO(os.open(self._path, READ), "r")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(f"cannot open {self._path}: {error.strerror}") from error

    def _read_index(self, file: FileIO, frame: _Frame) -> None:
        n, layout = self.name.rows, self._layout
        index = np.empty(layout.vectors, dtype=np.uint8)
        self._read(file, frame.body, index)
        keys = index[: n * KEY_BYTES].reshape(n, KEY_BYTES)
        tokens = index[layout.tokens : layout.tokens + 4 * n].view(np.uint32)
        flags = index[layout.flags : layout.flags + n]
        if _index_digest(keys, tokens, flags) != self._index_digest:
            raise DamagedShard(self.name, "index")
        self.keys, self.tokens, self.truncated = Keys.of(keys), tokens.copy(), (flags & 1).astype(bool)

    def gather(self, rows: NDArray[np.intp], out: NDArray[Any], at: NDArray[np.intp]) -> None:
        """Copy vectors to ``out[at]``.

        Parameters
        ----------
        rows : ndarray of int, ascending
            Which vectors.
        out : ndarray, shape (n, d)
            Of any floating dtype that holds the stored one.
        at : ndarray of int
            Where each goes.
        """
        blocks = rows // BLOCK_ROWS
        edges = np.flatnonzero(np.diff(blocks)) + 1
        scratch = np.empty((min(BLOCK_ROWS, self.name.rows), self.dim), dtype=self.dtype)
        with self._open() as file:
            for first, last in zip([0, *edges.tolist()], [*edges.tolist(), len(rows)], strict=True):
                block, wanted, places = int(blocks[first]), rows[first:last], at[first:last]
                if self._verified[block] and len(wanted) < _SPARSE_ROWS:
                    self._gather_few(file, wanted, out, places, scratch[:1])
                    continue
                vectors = self._read_block(file, block, scratch)
                out[places] = vectors if len(wanted) == len(vectors) else vectors[wanted - block * BLOCK_ROWS]

    def verify(self) -> None:
        """Check every block."""
        scratch = np.empty((min(BLOCK_ROWS, self.name.rows), self.dim), dtype=self.dtype)
        with self._open() as file:
            for block in range(len(self._sums)):
                self._read_block(file, block, scratch)

    def _gather_few(
        self,
        file: FileIO,
        rows: NDArray[np.intp],
        out: NDArray[Any],
        at: NDArray[np.intp],
        scratch: NDArray[Any],
    ) -> None:
        for row, place in zip(rows.tolist(), at.tolist(), strict=True):
            self._read(file, self._vectors_at + row * scratch.nbytes, scratch)
            out[place] = scratch[0]

    def _read_block(self, file: FileIO, block: int, scratch: NDArray[Any]) -> NDArray[Any]:
        start = block * BLOCK_ROWS
        vectors = scratch[: min(BLOCK_ROWS, self.name.rows - start)]
        self._read(file, self._vectors_at + start * self.dim * self.dtype.itemsize, vectors)
        if xxhash.xxh3_64_intdigest(vectors.data) != self._sums[block]:
            raise DamagedShard(self.name, "vectors")
        self._verified[block] = True
        return vectors

    def _read(self, file: FileIO, at: int, into: NDArray[Any]) -> None:
        try:
            complete = _read_into(file, at, into)
        except OSError:
            raise DamagedShard(self.name, "unreadable") from None
        if not complete:
            raise DamagedShard(self.name, "size")


def _read_into(file: FileIO, at: int, into: NDArray[Any]) -> bool:
    """Fill an array from an offset; False if the file ends before."""
    file.seek(at)
    view = into.data.cast("B")
    while view:
        count = file.readinto(view)
        if not count:
            return False
        view = view[count:]
    return True


def _framed(file: FileIO, name: ShardName) -> _Frame:
    """Check size and frame against the name."""
    try:
        if os.fstat(file.fileno()).st_size != name.size:
            raise DamagedShard(name, "size")
        frame = _read_frame(file, name.size)
    except (OSError, ValueError):
        raise DamagedShard(name, "frame") from None
    if frame.digest != name.digest:
        raise DamagedShard(name, "frame")
    return frame


def _read_frame(file: FileIO, size: int) -> _Frame:
    """Read everything outside the body; ValueError if that is not an Arrow file of one batch.

    The file format: magic and padding (8 bytes), schema message, record batch message, body, end mark
    (8 bytes), footer, its length (4 bytes), magic. A message starts with a mark and its length (4 bytes each).
    """
    head = _slice(file, 0, 16, size)
    schema_bytes = 8 + int.from_bytes(head[12:16], "little")
    batch = 8 + schema_bytes
    schema = _slice(file, 8, schema_bytes, size)
    prefix = _slice(file, batch, 8, size)
    message = _slice(file, batch + 8, int.from_bytes(prefix[4:], "little"), size)
    footer_bytes = int.from_bytes(_slice(file, size - 10, 10, size)[:4], "little")
    footer = _slice(file, size - 10 - footer_bytes, footer_bytes + 10, size)
    if head[:6] != _MAGIC or footer[-6:] != _MAGIC:
        raise ValueError("no Arrow file")
    body = batch + 8 + len(message)
    digest = xxhash.xxh3_128_hexdigest(head[:8] + schema + prefix + message + footer)
    return _Frame(schema, body, size - len(footer) - 8 - body, digest)


def _slice(file: FileIO, at: int, count: int, size: int) -> bytes:
    if at < 0 or at + count > size:
        raise ValueError("out of bounds")
    file.seek(at)
    data = file.read(count)
    if data is None or len(data) < count:
        raise ValueError("file ends early")
    return data


def _index_digest(keys: NDArray[np.uint8], tokens: NDArray[np.uint32], flags: NDArray[np.uint8]) -> str:
    state = xxhash.xxh3_128()
    for column in (keys, tokens, flags):
        state.update(column.data)
    return state.hexdigest()


def _padded(count: int) -> int:
    return -(-count // 8) * 8
