"""The folder that a command leaves behind: whole or not there, checked file by file, without pickle.

A folder is built in a hidden sibling and renamed into place. Its `embedkit.json` says what it is and holds
the SHA-256 of every other file. Arrays are safetensors. Nothing here, and nothing that reads such a folder,
unpickles anything.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from embedkit.errors import ArtifactError, OutputExistsError, UsageError
from embedkit.runtime.manifest import CLASSIFIER, FORMAT, FORMAT_VERSION, MANIFEST, digest_of, parse_manifest

Arrays = Mapping[str, npt.NDArray[Any]]

_OURS = ("format", "format_version", "min_reader", "files")  # what `write_manifest` fills in itself
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{20,}")
_USERINFO = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,30}://)[^/?#\s@]*(?:@[^/?#\s@]*)*@")


# --- building a folder ---------------------------------------------------------------------------------


@contextlib.contextmanager
def staged(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Build a folder beside its place and move it there whole.

    Parameters
    ----------
    target : Path
        Where the folder shall be. Missing parents are made.
    overwrite : bool
        Replace what is there, which must be an empty folder or an embedkit folder without other files.
        It is kept until the new one stands in its place.

    Yields
    ------
    Path
        An empty hidden folder on the same file system. Leaving the block by an exception, also by
        Ctrl-C, removes it and changes nothing else.

    Raises
    ------
    OutputExistsError
        Before the block runs, if `target` exists and may not be replaced.
    OSError
        If the file system refuses.
    """
    target = Path(os.path.abspath(target))  # noqa: PTH100 - resolve() would follow a link at the target
    check_replaceable(target, overwrite)
    made: list[Path] = []
    stage = _hidden_sibling(target, "part")
    try:
        _make_parents(target.parent, made)
        stage.mkdir()
        yield stage
        _sync_tree(stage)
        check_replaceable(target, overwrite)
        _move_into_place(stage, target)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        _remove_empty(made)
        raise


@contextlib.contextmanager
def staged_file(target: Path, *, check: Callable[[], None]) -> Iterator[IO[bytes]]:
    """Write one file beside its place and move it there whole.

    Parameters
    ----------
    target : Path
        Absolute; replaced if it is there. Missing parents are made.
    check : callable
        Raises if `target` may not be replaced; asked again when the file is complete.

    Yields
    ------
    file
        Open for writing bytes. Leaving the block by an exception, also by Ctrl-C, removes it.

    Raises
    ------
    OSError
        If the file system refuses.
    """
    made: list[Path] = []
    part = _hidden_sibling(target, "part")
    try:
        _make_parents(target.parent, made)
        with _open_new(part) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        check()
        part.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        _remove_empty(made)
        raise
    _sync(target.parent)


@contextlib.contextmanager
def _open_new(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file; an error of the block is not covered by one that closing meets (a full disk)."""
    file = path.open("xb")
    try:
        yield file
    except BaseException:
        with contextlib.suppress(OSError):
            file.close()
        raise
    file.close()


def check_replaceable(target: Path, overwrite: bool) -> None:
    """Raise unless `target` is free, or may be overwritten without losing what is not ours."""
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise OutputExistsError(f"{target} exists; choose another output or give --overwrite")
    refused = f"{target} exists and is not overwritten, because it"
    if target.is_symlink() or not target.is_dir():
        raise OutputExistsError(f"{refused} is not a folder that embedkit wrote; choose another output")
    if Path.cwd().is_relative_to(target.resolve()):
        raise OutputExistsError(f"{refused} holds the current folder; go elsewhere or choose another output")
    foreign = list(itertools.islice(_foreign_files(target), 4))
    if foreign:
        shown = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        raise OutputExistsError(
            f"{refused} holds what embedkit did not write there: {shown}; choose another output"
        )


def check_file(path: Path, *, overwrite: bool) -> None:
    """Refuse a path that no file could be written to; changes nothing.

    Parameters
    ----------
    path : Path
    overwrite : bool
        Whether a file that is there may be replaced. Folders, links and devices never are.

    Raises
    ------
    UsageError
        No file can be made there.
    OutputExistsError
        Something is there that may not be replaced.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        _check_parent(path)
        return
    except (OSError, ValueError) as error:  # a name too long, a NUL in it, a folder that may not be entered
        said = getattr(error, "strerror", None) or error
        raise UsageError(f"{str(path)[:60]!r} cannot be written: {said}; choose another output") from None
    if path.is_symlink() or not path.is_file():
        raise OutputExistsError(f"{path} exists and is no plain file; choose another output")
    if not overwrite:
        raise OutputExistsError(f"{path} exists; choose another output or give --overwrite")
    _check_parent(path)


def _check_parent(path: Path) -> None:
    nearest = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not nearest.is_dir():
        raise UsageError(f"{path} cannot be written: {nearest} is no folder; choose another output")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UsageError(f"{path} cannot be written: {nearest} may not be added to; choose another output")


def _foreign_files(folder: Path) -> Iterator[str]:
    """Yield the entries of a folder that its manifest does not account for."""
    try:
        listed = {MANIFEST, *parse_manifest(folder)["files"]}
    except (ArtifactError, OSError):
        listed = set()
    names = (path.relative_to(folder).as_posix() for path in _walk(folder))
    return (name for name in names if name not in listed)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield everything below a folder that is not itself a folder, and links to folders."""
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry)
        else:
            yield entry


def _make_parents(parent: Path, made: list[Path]) -> None:
    """Make a folder and those above it; note the new ones in `made`, the uppermost first."""
    for path in reversed([path for path in (parent, *parent.parents) if not path.exists()]):
        path.mkdir(exist_ok=True)
        made.append(path)


def _remove_empty(made: list[Path]) -> None:
    """Remove the folders of `_make_parents` that nobody else has used meanwhile."""
    for parent in reversed(made):
        with contextlib.suppress(OSError):
            parent.rmdir()


def _hidden_sibling(target: Path, suffix: str) -> Path:
    """Return an unused name beside `target`."""
    return target.parent / f".embedkit-{secrets.token_hex(8)}.{suffix}"


def _move_into_place(stage: Path, target: Path) -> None:
    """Rename `stage` to `target`; what was there goes when the new one stands, or comes back."""
    if not os.path.lexists(target):
        stage.rename(target)
        _sync(target.parent)
        return
    old = _hidden_sibling(target, "old")
    target.rename(old)
    try:
        stage.rename(target)
    except BaseException:
        old.rename(target)
        raise
    _sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    """Push a folder and everything in it to the disk."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink() and (path.is_file() or path.is_dir()):
            _sync(path)


def _sync(path: Path) -> None:
    """Push a file or the names in a folder to the disk, where the system can without writing."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- JSON ----------------------------------------------------------------------------------------------


def scrub(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return a JSON value without secrets: hub tokens and the user information of URLs are masked.

    Parameters
    ----------
    value : JSON value
        Strings, and everything nested; the keys of objects stay.

    Examples
    --------
    >>> scrub(["https://me:secret@host/x", "hf_" + "a" * 30])
    ['https://***@host/x', 'hf_***']
    """
    if isinstance(value, str):
        return _USERINFO.sub(r"\1***@", _TOKEN.sub("hf_***", value))
    if isinstance(value, Mapping):
        return {key: scrub(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [scrub(inner) for inner in value]
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object: sorted keys, ASCII escapes, no NaN, on the disk when this returns.

    Parameters
    ----------
    path : Path
        Written anew.
    value : mapping
        JSON values; numpy scalars are taken as the numbers they are.

    Raises
    ------
    ValueError
        If a number is NaN or infinite; the message names its place.
    """
    wrong = _not_finite(value)
    if wrong is not None:
        raise ValueError(f"{path.name}: {wrong[0]} is {wrong[1]}, which JSON cannot hold")
    text = json.dumps(value, sort_keys=True, indent=1, allow_nan=False, default=_plain)
    _write_bytes(path, text.encode("ascii") + b"\n")


def _plain(value: object) -> bool | int | float | str:
    """Return a numpy scalar as Python's own."""
    if isinstance(value, np.generic):
        plain: bool | int | float | str = value.item()
        return plain
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _not_finite(value: object, place: str = "") -> tuple[str, object] | None:
    """Return the place and value of the first number that is not finite."""
    if isinstance(value, float | np.floating):
        return None if math.isfinite(value) else (place or "the value", value)
    if isinstance(value, Mapping):
        inner = [(f"{place}.{key}" if place else str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        inner = [(f"{place}[{index}]", item) for index, item in enumerate(value)]
    else:
        return None
    return next((wrong for key, item in inner if (wrong := _not_finite(item, key))), None)


def _write_bytes(path: Path, data: bytes) -> None:
    """Write a file and push it to the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


# --- the manifest --------------------------------------------------------------------------------------


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write `embedkit.json` with the digest of every other file in the folder; call it last.

    Parameters
    ----------
    folder : Path
        Of `staged`, with all other files in it.
    manifest : mapping
        What the folder holds; ``kind`` defaults to ``"classifier"``. Tokens and URL user information are
        masked everywhere but in ``labels``, which must stay what they are.

    Raises
    ------
    ValueError
        If `manifest` fills in what is ours to fill (format, versions, files), or holds NaN.
    ArtifactError
        If the folder holds a link or something else that is no plain file.
    """
    taken = [key for key in _OURS if key in manifest]
    if taken:
        raise ValueError(f"the manifest's {', '.join(taken)} is filled in here")
    content = {"kind": CLASSIFIER, **scrub(manifest)}
    if "labels" in manifest:
        content["labels"] = manifest["labels"]
    files = {}
    for path in _walk(folder):
        name = path.relative_to(folder).as_posix()
        if name != MANIFEST:
            files[name] = digest_of(folder, name)
    ours = {"format": FORMAT, "format_version": FORMAT_VERSION, "min_reader": 1, "files": files}
    write_json(folder / MANIFEST, content | ours)
    mode = (folder / MANIFEST).stat().st_mode  # as the umask says; safetensors' own writer allows the owner alone
    for name in files:
        (folder / name).chmod(mode)


def installed(names: Sequence[str]) -> dict[str, str]:
    """Return the versions of packages, those that are installed, without importing them."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


# --- arrays --------------------------------------------------------------------------------------------


def save_arrays(path: Path, arrays: Arrays) -> None:
    """Write named arrays as safetensors; on the disk when this returns.

    Parameters
    ----------
    path : Path
        Written anew.
    arrays : mapping of str to numpy.ndarray
        Booleans, integers and floats of any layout and byte order.

    Raises
    ------
    ValueError
        If an array holds anything else, such as objects.
    """
    _write_bytes(path, packed(arrays))


def packed(arrays: Arrays) -> bytes:
    """Return what `save_arrays` writes."""
    from safetensors.numpy import save

    ready = {}
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
            raise ValueError(f"the array {name!r} is of dtype {array.dtype}, which cannot be saved")
        # safetensors writes the buffer as it lies: in C order and little-endian, or it would be wrong
        ready[name] = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(array.shape)
    return save(ready)


def load_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read what `save_arrays` wrote.

    Parameters
    ----------
    path : Path
        A safetensors file.

    Returns
    -------
    dict of str to numpy.ndarray
        By name.

    Raises
    ------
    ArtifactError
        If the file is missing or damaged, or has a dtype that numpy lacks.
    """
    try:
        return unpacked(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing; restore it or make the folder again") from None


def unpacked(data: bytes, name: str) -> dict[str, npt.NDArray[Any]]:
    """Read what `packed` gave; `name` is what errors call it."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{name} is damaged or no safetensors file: {error}") from None
