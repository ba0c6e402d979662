"""Reading ``embedkit.json``: what a folder is, and whether its files are the ones that were written."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from embedkit.errors import ArtifactError, InputMissingError
from embedkit.runtime.entities import TAG_TASKS

MANIFEST = "embedkit.json"
MARK = "embedkit_manifest"  # in config.json: that there is a manifest beside it
FORMAT = "embedkit-artifact"
FORMAT_VERSION = 1
CLASSIFIER = "classifier"  # kinds of folders: a head on a frozen encoder,
FINETUNED = "finetuned"  # a model whose weights were moved,
ENCODER = "encoder"  # an encoder alone,
EXPORTED = "onnx"  # and what answers without torch
TAG_TASK = "tag_task"  # under which a manifest says what training was told of its tags
OWN = "."  # an encoder's name where it lies in the classifier's own folder


def read_manifest(folder: Path, *, kind: str | None = None) -> dict[str, Any]:
    """Read `embedkit.json` and check every file that it lists.

    Files that it does not list are left alone and never opened.

    Parameters
    ----------
    folder : Path
        An artifact folder.
    kind : str, optional
        The kind that it must be. Default: any.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    InputMissingError
        If there is no such folder.
    ArtifactError
        If it is no embedkit folder, of a newer format or another kind, or a listed file is missing,
        changed, a link, or outside of the folder.
    """
    folder = Path(folder)
    if not folder.exists():
        raise InputMissingError(f"{folder} does not exist")
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is a file, not a folder that embedkit wrote")
    if not os.path.lexists(folder / MANIFEST):
        raise ArtifactError(f"{folder} holds no {MANIFEST}: {_what_it_is(folder)}")
    manifest = parse_manifest(folder)
    if kind is not None and manifest.get("kind") != kind:
        raise ArtifactError(f"{folder} is of the kind {manifest.get('kind')!r}, but {kind!r} is needed")
    for name, expected in manifest["files"].items():
        if digest_of(folder, name) != expected:
            raise ArtifactError(
                f"{folder / name} is not the file that was written (SHA-256 differs from {MANIFEST}); "
                "restore it or make the folder again"
            )
    return manifest


def kind_of(folder: Path) -> str | None:
    """Return the kind that a folder says it is, unchecked; None for what embedkit did not write."""
    return _said(folder, "kind")


def task_of(folder: Path) -> str | None:
    """Return the task that a folder says it is for, unchecked; None where it says none."""
    return _said(folder, "task")


def tag_task_of(folder: Path) -> str | None:
    """Return what a folder says that training was told of its tags, unchecked; None where it says nothing."""
    said = _said(folder, TAG_TASK)
    return said if said in TAG_TASKS else None


def checked_tag_task(manifest: Mapping[str, Any]) -> str:
    """Return what a manifest says that training was told of its tags, ``"auto"`` where it says nothing.

    Raises
    ------
    ValueError
        It says what is no such task.
    """
    said = manifest.get(TAG_TASK, "auto")
    if said not in ("auto", *TAG_TASKS):
        raise ValueError(f"{TAG_TASK} is {said!r}; allowed: {', '.join(TAG_TASKS)}")
    return str(said)


def tuner_of(folder: Path) -> str | None:
    """Return what a folder says has tuned its encoder on few texts, unchecked; None where it says nothing."""
    return _said(folder, "few_shot", "tuner")


def holds_tuned(folder: Path) -> bool:
    """Whether a folder says that an encoder tuned on few texts lies in it, unchecked."""
    return tuner_of(folder) is not None and _said(folder, "encoder", "name") == OWN


def _said(folder: Path, *names: str) -> str | None:
    try:
        said: object = parse_manifest(folder)
    except (ArtifactError, OSError):
        return None
    for name in names:
        said = said.get(name) if isinstance(said, dict) else None
    return said if isinstance(said, str) else None


def parse_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest without looking at the other files."""
    path = _plain_file(folder, MANIFEST)
    try:
        manifest = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: {str(error) or 'not JSON'}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ArtifactError(f"{path} was not written by embedkit: its format is not {FORMAT!r}")
    version, reader = manifest.get("format_version"), manifest.get("min_reader")
    if type(version) is not int or type(reader) is not int:
        raise ArtifactError(f"{path} is damaged: it states no format version")
    if reader > FORMAT_VERSION:
        versions = manifest.get("versions")
        writer = versions.get("embedkit") if isinstance(versions, dict) else None
        raise ArtifactError(
            f"{path} has format version {version}, this embedkit reads up to {FORMAT_VERSION}; "
            f"use embedkit {writer or 'of a newer version'}{' or newer' if writer else ''}"
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
        raise ArtifactError(f"{path} is damaged: it does not list its files")
    return manifest


def _plain_file(folder: Path, name: str) -> Path:
    """Return the path of a file in a folder; refuse names that lead out of it, links and devices."""
    parts = PurePosixPath(name).parts
    if (
        not parts
        or PurePosixPath(*parts).as_posix() != name
        or {"..", "/"} & set(parts)
        or re.search(r"[\\:\0]", name)
    ):
        raise ArtifactError(f"{folder / MANIFEST} lists {name!r}, which is no path inside the folder")
    path = folder
    for part in parts:
        path = path / part
        if path.is_symlink():
            raise ArtifactError(f"{path} is a link; an embedkit folder holds plain files only")
    if not path.exists():
        raise ArtifactError(f"{path} is missing; restore it or make the folder again")
    if not path.is_file():
        raise ArtifactError(f"{path} is not a plain file")
    return path


def digest_of(folder: Path, name: str) -> str:
    """Return the SHA-256 of a file in a folder."""
    with _plain_file(folder, name).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamps_of(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return what changes of the manifest and each listed file when it is written again or replaced.

    Nothing is raised: of a folder that `read_manifest` refuses there are none.
    """
    try:
        names = (MANIFEST, *parse_manifest(folder)["files"])
        stats = {name: _plain_file(folder, name).stat() for name in names}
    except (ArtifactError, OSError):
        return {}
    return {name: (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def _what_it_is(folder: Path) -> str:
    """Say what a folder that is not ours seems to be."""
    names = sorted(path.name for path in folder.iterdir())
    have = set(names)
    if not names:
        return "it is empty"
    if "model_head.pkl" in have:
        return "it looks like a SetFit folder, whose pickled head embedkit does not open"
    if "onnx" in have or any(name.endswith(".onnx") for name in names):
        return "it looks like an ONNX model folder that somebody else made"
    if "modules.json" in have:
        return "it looks like a sentence-transformers model; give it with --model"
    if "config.json" in have:
        return "it looks like a transformers model; give it with --model"
    if any(name.endswith((".pkl", ".pickle", ".joblib")) for name in names):
        return "it holds a pickle, which embedkit does not open"
    return f"it holds {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
