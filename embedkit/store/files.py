"""Folders that may be trusted, and files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from embedkit.errors import StoreError, StoreFullError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
PART_MAX_AGE = 48 * 3600.0  # seconds; for parts of other hosts, whose processes cannot be asked
# Not every system has all of these; none of them matters for correctness there.
_GUARDS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
READ = os.O_RDONLY | _GUARDS
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | _GUARDS
_PART = re.compile(r"(?P<host>[\w.]+)-(?P<pid>\d+)-(?P<start>\d+)-[0-9a-f]{32}\.part")


def check_folder(path: Path) -> bool:
    """Tell whether a folder is there, and refuse one that somebody else could have prepared.

    Raises
    ------
    StoreError
        The path is a symlink, no folder, owned by another user, writable by everybody, or unreadable.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoreError(f"{path} cannot be opened: {error.strerror}; name another place for the store") from error
    if stat.S_ISLNK(status.st_mode):
        raise StoreError(f"{path} is a symlink; a store follows none: name the real folder, or remove the link")
    if not stat.S_ISDIR(status.st_mode):
        raise StoreError(f"{path} is a file where a folder of the store is needed; name another place")
    if hasattr(os, "geteuid"):
        _check_owner(path, status)
    return True


def _check_owner(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise StoreError(
            f"{path} belongs to user {status.st_uid}, not to you ({os.geteuid()}); "
            "a store is used by its owner alone: name another place"
        )
    if status.st_mode & stat.S_IWOTH:
        raise StoreError(f"{path} is writable by everybody; run chmod o-w on it, or name another place")


def make_folder(path: Path) -> bool:
    """Make a folder of mode 0700 and check it; tell whether it is new."""
    if check_folder(path):
        return False
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        check_folder(path)
        return False
    sync_folder(path.parent)
    return True


def version_folder(root: Path) -> Path:
    """Return the folder of a store that holds everything of this layout."""
    return root / "v1"


def make_store(root: Path) -> Path:
    """Make a store's folders; backup programs and git are told to leave it alone."""
    root.parent.mkdir(parents=True, exist_ok=True)
    make_folder(root)
    folder = version_folder(root)
    if make_folder(folder):
        write_bytes_durably(folder / "CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55\n")
        write_bytes_durably(folder / ".gitignore", b"*\n")
    return folder


def is_writable(path: Path) -> bool:
    """Tell whether a folder, or the first one above it that exists, can be added to."""
    nearest = next(folder for folder in (path, *path.parents) if folder.exists())
    effective = os.access in os.supports_effective_ids
    return os.access(nearest, os.W_OK | os.X_OK, effective_ids=effective)


def sync_folder(path: Path) -> None:
    """Make renames and unlinks in a folder survive a power cut, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write every byte; `os.write` may stop short."""
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def write_durably(parts: Path, fill: Callable[[int], Path]) -> None:
    """Write a file under a temporary name and rename it when it is whole and on disk.

    Parameters
    ----------
    parts : Path
        Folder of the temporary name, on the same file system as the target.
    fill : callable
        Writes to the descriptor it is given and returns the target path. A target that exists is replaced.
    """
    path = parts / part_name()
    descriptor = os.open(path, _CREATE, 0o600)
    try:
        try:
            target = fill(descriptor)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        path.replace(target)
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise
    sync_folder(target.parent)


def write_bytes_durably(target: Path, data: bytes, parts: Path | None = None) -> None:
    """Write or replace a small file as `write_durably` does."""

    def fill(descriptor: int) -> Path:
        write_all(descriptor, data)
        return target

    write_durably(parts or target.parent, fill)


def read_small(path: Path, limit: int) -> bytes | None:
    """Return a regular file's bytes; None if it is absent, a link, unreadable or longer than `limit`."""
    try:
        descriptor = os.open(path, READ)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        try:
            data = file.read(limit + 1)
        except OSError:
            return None
    return data if len(data) <= limit else None


def part_name() -> str:
    """Return a temporary name that says which process made it."""
    return f"{_host()}-{os.getpid()}-{_process_start(os.getpid())}-{uuid.uuid4().hex}.part"


def is_part(name: str) -> bool:
    """Tell whether a file name is one of `part_name`."""
    return _PART.fullmatch(name) is not None


def is_abandoned(path: Path) -> bool:
    """Tell whether a temporary file's process is dead on this host, or the file older than 48 hours."""
    named = _PART.fullmatch(path.name)
    if named is None:
        return False
    with suppress(OSError):
        if time.time() - path.lstat().st_mtime > PART_MAX_AGE:
            return True
    if named["host"] != _host() or os.name == "nt":
        return False
    return not _is_alive(int(named["pid"]), int(named["start"]))


def _is_alive(pid: int, start: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    now = _process_start(pid)
    return start == 0 or now in (0, start)  # another start time: the number was given out again


def _process_start(pid: int) -> int:
    """Return a process's start time in clock ticks since boot; 0 where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    return int(fields.rpartition(b")")[2].split()[19])  # field 22 of proc(5); the name may hold spaces


def _host() -> str:
    return re.sub(r"[^\w.]", "_", socket.gethostname(), flags=re.ASCII) or "localhost"


def store_error(error: OSError, doing: str, advice: str) -> StoreError:
    """Turn an error of the system into ours: `StoreFullError` where no space is left."""
    kind = StoreFullError if error.errno in FULL else StoreError
    return kind(f"{doing}: {error.strerror or error}; {advice}")
