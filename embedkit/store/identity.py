"""What a feature space is called: a digest of everything that changes a vector."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from embedkit.errors import InputMissingError
from embedkit.store.files import check_folder, make_store, read_small, version_folder, write_bytes_durably

MEMO = "memo.json"
_MEMO_LIMIT = 4 << 20  # bytes
_MEMO_ENTRIES = 2000
_RACY_NS = 2_000_000_000


def canonical_json(value: Mapping[str, Any]) -> bytes:
    """Return the one spelling of a description: sorted keys, no blanks, UTF-8.

    Raises
    ------
    TypeError
        A value is a float (whose text differs between writers) or another type than None, bool, int, str,
        list, tuple or mapping, or a mapping's key is not a string.
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _plain(value: object) -> object:
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if type(key) is not str:
                raise TypeError(f"a description's keys must be str, got {type(key).__name__}")
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    raise TypeError(
        f"a description holds None, bool, int, str, lists and mappings, got {type(value).__name__}; "
        "write a float as a string"
    )


def space_id(descriptor: Mapping[str, Any]) -> str:
    """Return the name of a feature space.

    Parameters
    ----------
    descriptor : mapping
        Everything that changes a vector, as JSON without floats.

    Returns
    -------
    str
        32 hexadecimal digits: the first 16 bytes of SHA-256 over `canonical_json`.
    """
    return id_of_json(canonical_json(descriptor))


def id_of_json(text: bytes) -> str:
    """Return the name of the space whose canonical description is `text`."""
    return hashlib.sha256(text).hexdigest()[:32]


class FileDigests:
    """SHA-256 of files, remembered between processes while a file is unchanged.

    A file counts as unchanged while its real path, size, mtime, ctime and inode are. An entry made less than
    two seconds after the file's last change is not trusted: a second change within the clock's grain would
    look the same (git's rule for its index).

    Parameters
    ----------
    root : Path or None
        The store's folder, whose ``v1/memo.json`` is the memory. None: nothing is remembered.
    """

    def __init__(self, root: Path | None) -> None:
        self._root = None if root is None else Path(root).absolute()

    def sha256(self, path: Path) -> str:
        """Return the SHA-256 of a file's content in 64 hexadecimal digits.

        Raises
        ------
        InputMissingError
            The file is absent or cannot be read.
        StoreError
            The store's folder is not one that may be trusted.
        """
        real = Path(os.path.realpath(path))
        try:
            state = _state(real)
            known = self._load().get(str(real))
            if known is not None and known[1:5] == state and _settled(state, known[5]):
                return str(known[0])
            digest, state, now = _digest_of(real)
        except OSError as error:
            raise InputMissingError(f"cannot read {path}: {error.strerror}") from error
        self._save(str(real), [digest, *state, now])
        return digest

    def _load(self) -> dict[str, list[Any]]:
        """Return the entries that are well formed; a broken memory is an empty one."""
        if self._root is None or not (check_folder(self._root) and check_folder(version_folder(self._root))):
            return {}
        memo = version_folder(self._root) / MEMO
        try:
            entries = json.loads(read_small(memo, _MEMO_LIMIT) or b"{}")["sha256"]
            return {path: entry for path, entry in entries.items() if _well_formed(entry)}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}

    def _save(self, real: str, entry: list[Any]) -> None:
        """Add an entry; the last writer wins, and a store that cannot be written just forgets."""
        if self._root is None:
            return
        entries = self._load()
        entries.pop(real, None)
        entries[real] = entry
        newest = dict(list(entries.items())[-_MEMO_ENTRIES:])
        with suppress(OSError):
            write_bytes_durably(make_store(self._root) / MEMO, json.dumps({"sha256": newest}).encode())


def _state(real: Path) -> list[int]:
    status = real.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _settled(state: list[int], hashed_at: int) -> bool:
    return hashed_at - max(state[1], state[2]) >= _RACY_NS


def _digest_of(real: Path) -> tuple[str, list[int], int]:
    """Return digest, state and the time of reading, of a file that did not change meanwhile."""
    while True:
        state, now = _state(real), time.time_ns()
        with real.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if _state(real) == state:
            return digest, state, now


def _well_formed(entry: object) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == 6
        and isinstance(entry[0], str)
        and len(entry[0]) == 64
        and all(type(number) is int for number in entry[1:])
    )
