"""Graphs that encoders were made into once, kept beside the features: a folder each, with what is known of it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedkit.store.files import (
    check_folder,
    is_part,
    make_folder,
    make_store,
    read_small,
    store_error,
    version_folder,
    write_all,
    write_bytes_durably,
    write_durably,
)
from embedkit.store.identity import FileDigests

ENGINES = "engines"
GRAPH, ABOUT = "model.onnx", "engine.json"
_ABOUT_LIMIT = 1 << 20  # bytes
_BLOCK = 1 << 20  # bytes that are copied at once
_NAME = re.compile(r"[0-9a-f]{32}")
log = logging.getLogger("embedkit.store")


@dataclass(frozen=True)
class EngineInfo:
    """A kept graph as its folder's listing shows it."""

    id: str
    bytes: int
    last_used: float  # seconds since 1970
    about: dict[str, Any] | None  # None where engine.json is absent or damaged


@dataclass(frozen=True)
class KeptEngine:
    """A graph that is what was written, and what was written about it."""

    path: Path
    about: dict[str, Any]


def engines_folder(root: Path) -> Path:
    """Return the folder of a store's graphs."""
    return version_folder(root) / ENGINES


def engine_names(root: Path) -> list[str]:
    """Return what the graphs of a store are called."""
    folder = engines_folder(root)
    if not (check_folder(root) and check_folder(version_folder(root)) and check_folder(folder)):
        return []
    named = (path.name for path in folder.iterdir() if _NAME.fullmatch(path.name))
    return sorted(name for name in named if check_folder(folder / name))


def engine_files(folder: Path) -> Iterator[Path]:
    """Yield the files of a graph's folder that a store made."""
    for path in sorted(folder.iterdir()):
        if path.name in (GRAPH, ABOUT) or is_part(path.name):
            yield path


def find_engine(root: Path, name: str) -> KeptEngine | None:
    """Return a graph that was kept; None if it is not there, or not what it was, which is logged.

    Raises
    ------
    StoreError
        The folder is not one that may be trusted.
    """
    if name not in engine_names(root):
        return None
    folder = engines_folder(root) / name
    text = read_small(folder / ABOUT, _ABOUT_LIMIT)
    if text is None:
        return None  # the graph is being written, or the writer was stopped
    about = _read(text)
    if about is None or _digest(root, folder / GRAPH) != about["sha256"]:
        log.warning("the graph kept in %s is damaged and is not used", folder)
        return None
    with suppress(OSError):
        os.utime(folder / ABOUT)  # `gc` goes by the last use; a store that is read-only forgets it
    return KeptEngine(folder / GRAPH, about)


def keep_engine(root: Path, name: str, graph: Path, about: Mapping[str, Any]) -> KeptEngine:
    """Copy a graph into a store, whole or not at all, in place of one that is there.

    Raises
    ------
    StoreError
        The store cannot be written.
    """
    folder = engines_folder(root) / name
    try:
        make_store(root)
        make_folder(folder.parent)
        make_folder(folder)
        kept = {**about, "sha256": _copy(graph, folder / GRAPH)}
        # Last: it says that all is there.
        write_bytes_durably(folder / ABOUT, json.dumps(kept, sort_keys=True).encode())
    except OSError as error:
        raise store_error(error, f"cannot write {folder}", "nothing else is lost") from error
    return KeptEngine(folder / GRAPH, kept)


def verify_engine(root: Path, name: str) -> tuple[int, str | None]:
    """Read every byte of a graph; return how many there are, and what is wrong."""
    folder = engines_folder(root) / name
    text = read_small(folder / ABOUT, _ABOUT_LIMIT)
    if text is None:
        return 0, None  # being written, or its writer was stopped: nothing is answered from it
    about = _read(text)
    if about is None:
        return 0, "description"
    try:
        with (folder / GRAPH).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
    except OSError:
        return 0, "missing"
    return size, None if digest == about["sha256"] else "checksum"


def engine_info(root: Path, name: str) -> EngineInfo:
    """Return what a graph's folder shows."""
    folder = engines_folder(root) / name
    sizes, used = [0], [0.0]
    for path in engine_files(folder):
        with suppress(OSError):  # removed meanwhile
            sizes.append(path.lstat().st_size)
            used.append(path.lstat().st_mtime)
    text = read_small(folder / ABOUT, _ABOUT_LIMIT)
    return EngineInfo(name, sum(sizes), max(used), None if text is None else _read(text))


def _read(text: bytes) -> dict[str, Any] | None:
    try:
        about = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return about if isinstance(about, dict) and isinstance(about.get("sha256"), str) else None


def _digest(root: Path, path: Path) -> str | None:
    if path.is_symlink() or not path.is_file():
        return None
    return FileDigests(root).sha256(path)


def _copy(source: Path, target: Path) -> str:
    """Copy a file; return its SHA-256."""
    digest = hashlib.sha256()

    def fill(descriptor: int) -> Path:
        with source.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                write_all(descriptor, block)
        return target

    write_durably(target.parent, fill)
    return digest.hexdigest()
