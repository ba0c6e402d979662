"""The store as a whole: where it is, what is in it, and its care."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from embedkit.errors import StoreError, UsageError
from embedkit.store.engines import (
    EngineInfo,
    KeptEngine,
    engine_files,
    engine_info,
    engine_names,
    engines_folder,
    find_engine,
    keep_engine,
    verify_engine,
)
from embedkit.store.files import (
    check_folder,
    is_abandoned,
    is_part,
    is_writable,
    make_folder,
    make_store,
    read_small,
    store_error,
    version_folder,
    write_bytes_durably,
)
from embedkit.store.identity import MEMO, canonical_json, id_of_json
from embedkit.store.shards import DamagedShard, ShardName, StoreDtype, list_shards
from embedkit.store.space import DESCRIPTOR, DESCRIPTOR_LIMIT, FlushRule, Space

STORED_DTYPE = "stored_dtype"
_SPACE = re.compile(r"[0-9a-f]{32}")
_ROWS, _ROWS_LIMIT = "rows", 1 << 32


def open_store(store: str | Path | bool | None, dtype: str = "float32") -> FeatureStore | None:
    """Return the store that a user means.

    Parameters
    ----------
    store : str, Path, bool or None
        A folder; None or True for the usual one (`resolve_root`); False for none.
    dtype : {"float32", "float16"}
        How vectors are stored.
    """
    if store is False:
        return None
    root = resolve_root(None if store is True else store)
    return FeatureStore(root, dtype=dtype)  # type: ignore[arg-type]  # FeatureStore checks it


def resolve_root(explicit: str | Path | None) -> Path:
    """Return the store's folder: the one named, else ``$EMBEDKIT_STORE``, else the user's cache folder.

    The variable is read at each call.
    """
    if explicit is not None and not str(explicit):
        raise UsageError("the store's folder is an empty text; name one, or leave it out for the usual one")
    named = explicit if explicit is not None else os.environ.get("EMBEDKIT_STORE") or None
    if named is not None:
        try:
            return Path(named).expanduser()
        except RuntimeError as error:  # ~nobody
            raise UsageError(f"the store's folder {str(named)!r} has no meaning here: {error}") from None
    from platformdirs import user_cache_path

    return user_cache_path("embedkit", appauthor=False)


@dataclass(frozen=True)
class SpaceInfo:
    """A space as its folder's listing shows it; rows that two shards share count twice."""

    id: str
    descriptor: dict[str, Any] | None  # None where space.json is absent or damaged
    rows: int
    shards: int
    bytes: int
    last_used: float  # seconds since 1970
    quarantined: int


@dataclass(frozen=True)
class Damage:
    """A file that is not what was written."""

    path: str
    rows: int
    reason: str


@dataclass
class VerifyReport:
    """What `FeatureStore.verify` read, and what was wrong."""

    spaces: int = 0
    shards: int = 0
    rows: int = 0
    engines: int = 0
    bytes: int = 0
    damaged: list[Damage] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing was damaged."""
        return not self.damaged


@dataclass(frozen=True)
class Removal:
    """A file or a space that goes, and why."""

    path: str
    bytes: int
    why: str


@dataclass
class CareReport:
    """What `gc` or `purge` removed, or would remove."""

    deleted: bool
    removed: list[Removal] = field(default_factory=list)
    merged: int = 0  # small shards that were, or would be, replaced by few large ones

    @property
    def bytes(self) -> int:
        """Bytes removed, without what merging saves."""
        return sum(removal.bytes for removal in self.removed)


class FeatureStore:
    """Features on disk, one folder for each feature space.

    Parameters
    ----------
    root : Path
        The store's folder; made at the first write, mode 0700. See `resolve_root`.
    dtype : {"float32", "float16"}
        How vectors are stored. A float16 store is another space: its vectors are rounded (unit-norm vectors
        by at most 6e-5), half the size, and a miss returns the rounded vector too.
    flush_rows, flush_bytes, flush_seconds : int, int, float
        A writer commits its buffer at whichever is reached first.

    Raises
    ------
    StoreError
        The folder is a file, a symlink, owned by another user, or writable by everybody.
    """

    def __init__(
        self,
        root: Path,
        *,
        dtype: StoreDtype = "float32",
        flush_rows: int = 8192,
        flush_bytes: int = 64 << 20,
        flush_seconds: float = 15.0,
    ) -> None:
        if dtype not in ("float32", "float16"):
            raise UsageError(f"the store's dtype is float32 or float16, got {dtype!r}")
        if min(flush_rows, flush_bytes) < 1:
            raise UsageError("flush_rows and flush_bytes must be at least 1")
        self.root = Path(root).absolute()
        self.dtype: StoreDtype = dtype
        self._rule = FlushRule(flush_rows, flush_bytes, flush_seconds)
        self._folder = version_folder(self.root)
        self._is_there()

    def _is_there(self) -> bool:
        return check_folder(self.root) and check_folder(self._folder)

    @property
    def writable(self) -> bool:
        """Whether a writer may expect to succeed."""
        return is_writable(self._folder)

    def space(self, descriptor: Mapping[str, Any]) -> Space:
        """Return the space of a description; nothing is written before the first flush.

        Parameters
        ----------
        descriptor : mapping
            Everything that changes a vector, as for `space_id`; the stored dtype is added.
        """
        if STORED_DTYPE in descriptor:
            raise UsageError(f"{STORED_DTYPE!r} is the store's part of the description")
        return self._space(canonical_json({**descriptor, STORED_DTYPE: self.dtype}), self.dtype)

    def _space(self, description: bytes, dtype: StoreDtype) -> Space:
        return Space(self.root, description, dtype, self._rule)

    def keep_rows(self, data: bytes) -> str:
        """Keep the rows of a fit; return what they are called, 32 hexadecimal digits of their BLAKE2b.

        Raises
        ------
        StoreError
            The store cannot be written.
        """
        name = _rows_name(data)
        folder = self._folder / _ROWS
        try:
            make_store(self.root)
            make_folder(folder)
            if self.rows(name) is None:  # not there, or damaged
                write_bytes_durably(folder / name, data)
            os.utime(folder / name)  # `gc` goes by the last use
        except OSError as error:
            raise store_error(error, f"cannot write {folder}", "nothing else is lost") from error
        return name

    def rows(self, name: str) -> bytes | None:
        """Return rows that were kept; None if they are not there or not what they were."""
        if not _SPACE.fullmatch(name) or not self._is_there() or not check_folder(self._folder / _ROWS):
            return None
        data = read_small(self._folder / _ROWS / name, _ROWS_LIMIT)
        return data if data is not None and _rows_name(data) == name else None

    def keep_engine(self, name: str, graph: Path, about: Mapping[str, Any]) -> KeptEngine:
        """Keep a graph that an encoder was made into; see `embedkit.store.engines.keep_engine`."""
        return keep_engine(self.root, name, graph, about)

    def engine(self, name: str) -> KeptEngine | None:
        """Return a graph that was kept; None if it is not there, or damaged, which is logged."""
        return find_engine(self.root, name)

    def engines(self) -> list[EngineInfo]:
        """Return which graphs are kept."""
        return [engine_info(self.root, name) for name in engine_names(self.root)]

    def _ids(self, prefix: str | None) -> list[str]:
        """Return the ids of the spaces, or of the one that starts with `prefix`."""
        ids = []
        if self._is_there():
            named = [path.name for path in self._folder.iterdir() if _SPACE.fullmatch(path.name)]
            ids = sorted(name for name in named if check_folder(self._folder / name))
        if prefix is None:
            return ids
        found = [name for name in ids if name.startswith(prefix)]
        if len(found) != 1:
            raise UsageError(
                f"{len(found)} spaces start with {prefix!r}; the store has: {', '.join(ids) or 'none'}"
            )
        return found

    def _description(self, name: str) -> bytes | None:
        """Return a space's description if it is the one its folder is named after."""
        text = read_small(self._folder / name / DESCRIPTOR, DESCRIPTOR_LIMIT)
        return text if text is not None and id_of_json(text) == name else None

    def _known_space(self, name: str) -> Space | None:
        text = self._description(name)
        if text is None:
            return None
        dtype = json.loads(text).get(STORED_DTYPE)
        return self._space(text, dtype) if dtype in ("float32", "float16") else None

    def spaces(self) -> list[SpaceInfo]:
        """Return what is stored, by the names of the files alone."""
        return [self._info(name) for name in self._ids(None)]

    def _info(self, name: str) -> SpaceInfo:
        folder, text = self._folder / name, self._description(name)
        shards = list_shards(folder / "shards")
        return SpaceInfo(
            id=name,
            descriptor=None if text is None else json.loads(text),
            rows=sum(shard.rows for shard in shards),
            shards=len(shards),
            bytes=sum(map(_size, _files(folder))),
            last_used=max(_mtime(path) for path in (folder, folder / DESCRIPTOR, folder / "shards")),
            quarantined=sum(1 for _ in _quarantined(folder)),
        )

    def info(self) -> dict[str, Any]:
        """Return the store's place, size, spaces and graphs of encoders as JSON types."""
        spaces, engines = self.spaces(), self.engines()
        return {
            "root": str(self.root),
            "writable": self.writable,
            "rows": sum(space.rows for space in spaces),
            "bytes": sum(space.bytes for space in spaces) + sum(engine.bytes for engine in engines),
            "spaces": [asdict(space) for space in spaces],
            "engines": [asdict(engine) for engine in engines],
        }

    def verify(self) -> VerifyReport:
        """Read every byte that counts and check it; damaged shards are set aside as in a lookup.

        Damaged graphs of encoders are removed: they are made again when needed.

        Raises
        ------
        StoreError
            The store cannot be read.
        """
        report = VerifyReport()
        for name in self._ids(None):
            report.spaces += 1
            space = self._known_space(name)
            if space is None:
                rows = sum(shard.rows for shard in list_shards(self._folder / name / "shards"))
                report.damaged.append(Damage(str(self._folder / name / DESCRIPTOR), rows, "description"))
                continue
            for shard in space.listing():
                _verify_shard(space, shard, report)
        for name in engine_names(self.root):
            self._verify_engine(name, report)
        return report

    def _verify_engine(self, name: str, report: VerifyReport) -> None:
        size, wrong = verify_engine(self.root, name)
        report.engines += 1
        report.bytes += size
        if wrong is not None:
            folder = engines_folder(self.root) / name
            report.damaged.append(Damage(str(folder), 0, wrong))
            self._remove_engine(name, "damaged", CareReport(deleted=True))

    def gc(
        self,
        max_bytes: int | None = None,
        older_than: float | None = None,
        space: str | None = None,
        delete: bool = False,
    ) -> CareReport:
        """Remove what nobody needs, evict spaces on request, and merge small shards.

        Always: temporary files of dead processes (of other hosts: after 48 hours) and quarantined shards.
        Only files that this store names are touched, and no symlink is followed.

        Parameters
        ----------
        max_bytes : int, optional
            Evict whole spaces and graphs of encoders, the longest unused first, until the store is no larger.
        older_than : float, optional
            Evict spaces and graphs that were not used for so many seconds, and rows of fits that are as old.
        space : str, optional
            Look at this space alone: its id, or an unambiguous beginning of it. Rows of fits and graphs stay.
        delete : bool
            Default False: only report.

        Raises
        ------
        UsageError
            A limit is negative, or no single space has that name.
        StoreError
            A file cannot be removed.
        """
        if min(max_bytes or 0, older_than or 0) < 0:
            raise UsageError("max_bytes and older_than must not be negative")
        report = CareReport(delete)
        spaces, engines = [self._info(name) for name in self._ids(space)], [] if space else self.engines()
        evicted = self._evictions([*spaces, *engines], max_bytes, older_than)
        for name in (info.id for info in spaces):
            if name in evicted:
                self._remove_space(name, evicted[name], report)
            else:
                self._tidy(name, report)
        for name in (info.id for info in engines):
            if name in evicted:
                self._remove_engine(name, evicted[name], report)
            else:
                self._tidy_parts(engines_folder(self.root) / name, report)
        for folder in (self._folder, self._folder / _ROWS) if self._is_there() else ():
            for path in _children(folder):
                if is_part(path.name) and is_abandoned(path):
                    _remove(path, "left by a dead process", report)
                elif older_than is not None and space is None and _is_old_rows(path, older_than):
                    _remove(path, "unused", report)
        return report

    def _evictions(
        self, kept: Sequence[SpaceInfo | EngineInfo], max_bytes: int | None, older_than: float | None
    ) -> dict[str, str]:
        evicted: dict[str, str] = {}
        total = sum(space.bytes for space in kept)
        for space in sorted(kept, key=lambda space: space.last_used):
            if older_than is not None and time.time() - space.last_used > older_than:
                evicted[space.id] = "unused"
            elif max_bytes is not None and total > max_bytes:
                evicted[space.id] = "over the size limit"
            else:
                continue
            total -= space.bytes
        return evicted

    def _tidy_parts(self, folder: Path, report: CareReport) -> None:
        for path in _children(folder):
            if is_part(path.name) and is_abandoned(path):
                _remove(path, "left by a dead process", report)

    def _tidy(self, name: str, report: CareReport) -> None:
        self._tidy_parts(self._folder / name / "parts", report)
        for path in _quarantined(self._folder / name):
            _remove(path, "damaged", report)
        known = self._known_space(name)
        if known is None:
            return
        if not report.deleted:
            run = known.mergeable()
            report.merged += len(run) if len(run) > 1 else 0
            return
        try:
            report.merged += known.merge()
        except OSError as error:
            raise store_error(error, f"cannot merge shards in {known.folder}", "nothing is lost") from error

    def purge(self, space: str | None = None) -> CareReport:
        """Remove all features, or those of one space, at once.

        Parameters
        ----------
        space : str, optional
            A space's id, or an unambiguous beginning of it. Default: all, the memory of file digests, the
            rows of fits, and the graphs of encoders.
        """
        report = CareReport(deleted=True)
        for name in self._ids(space):
            self._remove_space(name, "purged", report)
        if space is None and self._is_there():
            for name in engine_names(self.root):
                self._remove_engine(name, "purged", report)
            for path in _children(self._folder):
                if path.name == MEMO or (is_part(path.name) and is_abandoned(path)):
                    _remove(path, "purged", report)
            for path in _children(self._folder / _ROWS):
                if _SPACE.fullmatch(path.name) or (is_part(path.name) and is_abandoned(path)):
                    _remove(path, "purged", report)
        return report

    def _remove_space(self, name: str, why: str, report: CareReport) -> None:
        folder = self._folder / name
        inner = (folder / "shards", folder / "parts", folder / "quarantine")
        _remove_folder(folder, _files(folder), inner, why, report)

    def _remove_engine(self, name: str, why: str, report: CareReport) -> None:
        folder = engines_folder(self.root) / name
        _remove_folder(folder, engine_files(folder), (), why, report)


def _remove_folder(
    folder: Path, files: Iterable[Path], inner: Sequence[Path], why: str, report: CareReport
) -> None:
    """Remove a folder's own files; what else lies there stays, and so does a live writer's part."""
    own = CareReport(report.deleted)
    for path in files:
        if not is_part(path.name) or is_abandoned(path):
            _remove(path, why, own)
    if report.deleted:
        for path in (*inner, folder):
            with suppress(OSError):
                path.rmdir()
    report.removed.append(Removal(str(folder), own.bytes, why))


def _verify_shard(space: Space, name: ShardName, report: VerifyReport) -> None:
    try:
        shard = space.open_shard(name)
        if shard is None:
            return
        shard.verify()
    except DamagedShard as damage:
        space.set_aside(damage)
        path = str(space.folder / "shards" / name.file)
        report.damaged.append(Damage(path, name.rows, damage.reason))
    except FileNotFoundError:
        return  # merged meanwhile; the new shard was just written
    report.shards += 1
    report.rows += name.rows
    report.bytes += name.size


def _is_old_rows(path: Path, seconds: float) -> bool:
    """Tell whether a file holds rows of a fit that were not used for so long."""
    return path.parent.name == _ROWS and bool(_SPACE.fullmatch(path.name)) and time.time() - _mtime(path) > seconds


def _rows_name(data: bytes) -> str:
    return blake2b(data, digest_size=16, person=b"embedkit/rows/1").hexdigest()


def _children(folder: Path) -> Iterator[Path]:
    """Yield the regular files in a folder that may be trusted."""
    if not check_folder(folder):
        return
    try:
        with os.scandir(folder) as entries:
            named = sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"cannot list {folder}: {error.strerror}") from error
    yield from (folder / name for name in named)


def _quarantined(folder: Path) -> Iterator[Path]:
    for path in _children(folder / "quarantine"):
        if ShardName.parse(path.stem) is not None:  # <old name>.<reason>
            yield path


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of a space that this store made."""
    yield from (folder / "shards" / shard.file for shard in list_shards(folder / "shards"))
    yield from _quarantined(folder)
    yield from (path for path in _children(folder / "parts") if is_part(path.name))
    yield from (path for path in _children(folder) if path.name == DESCRIPTOR)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:  # merged or removed meanwhile
        return 0


def _mtime(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def _remove(path: Path, why: str, report: CareReport) -> None:
    try:
        size = path.lstat().st_size
        if report.deleted:
            path.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"cannot remove {path}: {error.strerror}") from error
    report.removed.append(Removal(str(path), size, why))
