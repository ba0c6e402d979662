"""``embedkit push``: what of a folder goes to the hub, and what never does."""

from __future__ import annotations

import importlib
import json
import logging
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import create_autospec

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    RepoUrl,
    constants,
    errors,
)
from hypothesis import given
from hypothesis import strategies as st

import embedkit
from embedkit.artifact import save_arrays, staged, write_json, write_manifest
from embedkit.cli import main
from embedkit.errors import (
    ArtifactError,
    EmbedkitError,
    HubError,
    InputMissingError,
    MissingExtraError,
    UsageError,
)
from embedkit.hub import Uploaded, upload
from embedkit.runtime.manifest import MANIFEST, read_manifest
from embedkit.sharing import CARD, shareable
from tests.tiny_models import make_sentence_transformer

httpx: Any = importlib.import_module(errors.HfHubHTTPError.__mro__[1].__module__.split(".")[0])  # httpx or httpx2

TOKEN = "hf_" + "x" * 30
COMMIT = "c" * 40
DATA = "/home/alice/acme layoffs/train.csv"
MODEL = "/home/alice/models/own"
TEXT = "elvira fans could hardly ask for more"
METRICS = {
    "splits": {"test": {"n": 40, "accuracy": 0.775, "macro_f1": 0.76, "per_class": {"/r/films": {}}}},
    "settings": {"data": DATA, "model": MODEL, "encoder": {"model": MODEL, "prompt": "/query "}},
}


def make(folder: Path, *, metrics: Any = METRICS, card: str | None = None, **manifest: Any) -> Path:
    """Write a classifier's folder as `fit-head` does, with an encoder of the user's own."""
    content: dict[str, Any] = {
        "task": "sequence",
        "problem_type": "single_label_classification",
        "input": "text",
        "labels": ["/r/films", "b`ad"],
        "encoder": {"name": "models/own", "repository": None, "settings": {"model": MODEL, "prompt": "/query "}},
        "head": {"kind": "linear"},
        "head_settings": {"clf": "logreg"},
    }
    with staged(folder) as stage:
        save_arrays(stage / "head.safetensors", {"coef": np.ones((1, 2))})
        write_json(stage / "metrics.json", metrics)
        (stage / "report").mkdir()
        (stage / "report/errors.csv").write_text(f"row,text\n2,{TEXT}\n")
        (stage / "report/confusion_matrix.png").write_bytes(b"a picture titled with a path")
        if card is not None:
            (stage / CARD).write_text(card, encoding="utf-8")
        write_manifest(stage, content | manifest)
    return folder


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return make(tmp_path / "artifact")


def content(files: Mapping[str, Path | bytes], name: str) -> bytes:
    found = files[name]
    return found if isinstance(found, bytes) else found.read_bytes()


def written(files: Mapping[str, Path | bytes], folder: Path) -> Path:
    """Write what is uploaded where somebody else has it."""
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content(files, name))
    return folder


def snapshot(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ------------------------------------------------------------------------------------------ what is shared


def test_only_what_is_listed_and_the_card_goes_up(artifact: Path) -> None:
    (artifact / "secrets.env").write_text("PASSWORD=1")
    (artifact / "report/notes.txt").write_text("mine")
    (artifact / ".git").mkdir()
    (artifact / ".git/config").write_text("mine")
    before = snapshot(artifact)
    found = shareable(artifact)
    assert set(found.files) == {MANIFEST, CARD, "head.safetensors", "metrics.json"}
    assert "3 files that embedkit did not write stay here" in found.notes
    assert snapshot(artifact) == before


def test_what_is_uploaded_is_a_whole_folder_again(artifact: Path, tmp_path: Path) -> None:
    copy = written(shareable(artifact).files, tmp_path / "copy")
    manifest = read_manifest(copy, kind="classifier")
    assert set(manifest["files"]) == {"head.safetensors", "metrics.json"}
    assert manifest["labels"] == ["/r/films", "b`ad"]
    (copy / CARD).write_text("edited on the hub")
    read_manifest(copy)


def test_reports_stay_here_unless_they_are_asked_for(artifact: Path, tmp_path: Path) -> None:
    kept, sent = shareable(artifact), shareable(artifact, with_report=True)
    assert not any(name.startswith("report") for name in kept.files)
    assert any("--with-report takes it along" in note for note in kept.notes)
    assert not any(TEXT.encode() in content(kept.files, name) for name in kept.files)
    assert TEXT.encode() in content(sent.files, "report/errors.csv")
    assert any("report/ goes along, with texts" in note for note in sent.notes)
    read_manifest(written(sent.files, tmp_path / "copy"))


def test_paths_of_this_machine_are_cut(artifact: Path) -> None:
    found = shareable(artifact)
    for name in found.files:
        assert b"alice" not in content(found.files, name), name
        assert b"layoffs" not in content(found.files, name), name
    manifest = json.loads(content(found.files, MANIFEST))
    metrics = json.loads(content(found.files, "metrics.json"))
    assert manifest["encoder"]["settings"]["model"] == "./own"  # a path, which is never looked up on the hub
    assert manifest["encoder"]["name"] == "./own"
    assert metrics["settings"]["data"] == "./train.csv"
    # the user's words are no paths, whatever they look like
    assert manifest["encoder"]["settings"]["prompt"] == metrics["settings"]["encoder"]["prompt"] == "/query "
    assert list(metrics["splits"]["test"]["per_class"]) == ["/r/films"]
    assert "paths of this machine were cut to their last part in what is uploaded" in found.notes
    assert (
        "the encoder is a folder of yours, which is not part of the classifier; others need it too" in found.notes
    )


def test_an_exported_folder_goes_up_with_all_its_files(tmp_path: Path) -> None:
    encoder = {"name": "minilm", "repository": "sentence-transformers/all-MiniLM-L6-v2"}
    folder = make(tmp_path / "a", kind="onnx", graphs={"float32": "head.safetensors"}, card="# A", encoder=encoder)
    found = shareable(folder)
    assert set(found.files) == {MANIFEST, CARD, "head.safetensors", "metrics.json"}
    assert content(found.files, CARD) == b"# A"
    read_manifest(written(found.files, tmp_path / "copy"), kind="onnx")
    assert not any("others need it too" in note for note in found.notes)


def test_the_verdict_on_int8_names_its_data_without_their_place(tmp_path: Path) -> None:
    verdict = {
        "choice": "/home/alice/acme/train.csv (validation, 33 rows)",
        "test": "acme/test.csv (test, 9 rows)",
    }
    folder = make(tmp_path / "a", kind="onnx", card="# A", int8=verdict)
    found = json.loads(content(shareable(folder).files, MANIFEST))["int8"]
    assert found == {"choice": "./train.csv (validation, 33 rows)", "test": "./test.csv (test, 9 rows)"}


def test_the_verdict_names_its_data_where_they_are_looked_for() -> None:
    from dataclasses import fields

    from embedkit.export.verdict import Verdict

    assert {"choice", "test"} <= {field.name for field in fields(Verdict)}


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/home/alice/x.csv", "./x.csv"),
        ("clients/acme/x.csv", "./x.csv"),
        ("~/x.csv", "./x.csv"),
        ("../x", "./x"),
        ("C:\\Users\\alice\\x.csv", "./x.csv"),
        ("\\\\server\\alice\\x.csv", "./x.csv"),
        ("/home/alice/x/", "./x"),
        ("rotten_tomatoes", "rotten_tomatoes"),
        ("x.csv", "x.csv"),
        ("./x.csv", "./x.csv"),
        ("hf:owner/name", "hf:owner/name"),
        ("/", "/"),
    ],
)
def test_the_data_s_name(path: str, seen: str, tmp_path: Path) -> None:
    make(tmp_path / "a", metrics={"splits": {}, "settings": {"data": path}})
    files = shareable(tmp_path / "a").files
    assert json.loads(content(files, "metrics.json"))["settings"]["data"] == seen


def test_a_folder_without_paths_is_uploaded_as_it_is(tmp_path: Path) -> None:
    encoder = {"name": "minilm", "repository": "sentence-transformers/all-MiniLM-L6-v2"}
    card = "---\nlicense: mit\n---\n# Mine, and/or yours\n"
    folder = make(tmp_path / "a", metrics={"splits": {}}, card=card, encoder=encoder)
    found = shareable(folder, with_report=True)
    assert content(found.files, CARD) == card.encode()
    assert found.files["metrics.json"] == folder / "metrics.json"
    given, sent = (json.loads(text) for text in ((folder / MANIFEST).read_bytes(), content(found.files, MANIFEST)))
    del given["files"][CARD]
    assert sent == given


def test_a_card_of_the_folder_names_no_path_of_this_machine(tmp_path: Path) -> None:
    card = f"# Mine\nThe encoder `{MODEL}`, on {DATA}; see {MODEL}-2 and b{MODEL}.\n"
    files = shareable(make(tmp_path / "a", card=card)).files
    expected = f"# Mine\nThe encoder `./own`, on ./train.csv; see {MODEL}-2 and b{MODEL}.\n"
    assert content(files, CARD).decode() == expected


def test_a_missing_card_is_made_of_what_is_known(artifact: Path) -> None:
    found = shareable(artifact)
    card = content(found.files, CARD).decode()
    assert card.startswith(
        "---\nlibrary_name: embedkit\npipeline_tag: text-classification\ntags: [embedkit]\n---\n"
    )
    assert "A head of the kind `logreg` on frozen features of the encoder `./own`" in card
    assert "- Labels: `/r/films`, `b'ad`.\n" in card
    assert "- `test`, 40 rows: accuracy 0.775, macro f1 0.760.\n" in card
    assert f"the folder has no {CARD}; a short one was made for the upload" in found.notes
    assert not (artifact / CARD).exists()


def test_a_card_names_the_base_model_of_the_hub_and_many_labels_shortly(tmp_path: Path) -> None:
    encoder = {"name": "minilm", "repository": "sentence-transformers/all-MiniLM-L6-v2"}
    labels = [f"l{i}" for i in range(23)]
    folder = make(tmp_path / "a", encoder=encoder, labels=labels, problem_type="multi_label_classification")
    card = content(shareable(folder).files, CARD).decode()
    assert 'base_model: "sentence-transformers/all-MiniLM-L6-v2"\n' in card
    assert "`l19` and 3 more. A text may have any number of them." in card


@pytest.mark.parametrize(
    ("head", "named"),
    [
        ({"kind": "knn"}, "knn"),
        ({"kind": "calibrated", "base": {"kind": "knn"}}, "knn"),
        ({"kind": "per-label", "heads": [{"kind": "constant"}, {"kind": "knn"}]}, "knn"),
        ({"kind": "skops", "class": "sklearn.svm._classes.SVC"}, "SVC"),
        ({"kind": "skops", "class": "sklearn.ensemble._bagging.BaggingClassifier"}, "BaggingClassifier"),
        ({"kind": "skops", "class": "sklearn.ensemble._forester.X"}, "X"),
        ({"kind": "skops"}, "None"),
    ],
)
def test_heads_that_hold_vectors_of_texts_are_refused(head: dict[str, Any], named: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "a", head=head)
    with pytest.raises(UsageError, match="--with-vectors") as caught:
        shareable(folder)
    assert f"({named})" in str(caught.value)
    assert "head.safetensors" in shareable(folder, with_vectors=True).files


@pytest.mark.parametrize(
    "head",
    [
        *({"kind": kind} for kind in ("linear", "constant", "gaussian", "mlp")),
        {"kind": "skops", "class": "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.X"},
        {"kind": "skops", "class": "sklearn.tree._classes.DecisionTreeClassifier"},
    ],
)
def test_other_heads_are_shared(head: dict[str, Any], tmp_path: Path) -> None:
    assert "head.safetensors" in shareable(make(tmp_path / "a", head=head)).files


def test_the_description_of_a_real_knn_head_is_seen(tmp_path: Path) -> None:
    """The names that are looked for are those that heads write."""
    from embedkit.heads import HeadSpec, fit_head

    rng = np.random.default_rng(0)
    for clf in ("knn", "sklearn:sklearn.svm.SVC"):
        head = fit_head(HeadSpec(clf), rng.normal(size=(30, 3)), np.arange(30) % 2, 2).head
        folder = make(tmp_path / clf.replace(":", "-"), head=head.state()[0])
        with pytest.raises(UsageError, match="--with-vectors"):
            shareable(folder)


@pytest.mark.parametrize("place", ["card", "metrics"])
def test_files_with_an_access_token_are_refused(place: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"card": f"# {TOKEN}"} if place == "card" else {"metrics": {"label": TOKEN}}
    with pytest.raises(UsageError, match="looks like an access token") as caught:
        shareable(make(tmp_path / "a", **given))
    assert TOKEN not in str(caught.value)


def test_damage_is_found_before_anything_is_shared(artifact: Path) -> None:
    (artifact / "head.safetensors").write_bytes(b"other")
    with pytest.raises(ArtifactError, match="SHA-256 differs"):
        shareable(artifact)


@pytest.mark.parametrize("kind", ["features", "", None])
def test_other_kinds_of_folders_are_refused(kind: str | None, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="of the kind"):
        shareable(make(tmp_path / "a", kind=kind))


@pytest.mark.parametrize("broken", [b"[]", b"{", b"[" * 100_000])
def test_figures_that_are_none_are_refused(broken: bytes, artifact: Path) -> None:
    (artifact / "metrics.json").write_bytes(broken)
    with pytest.raises(ArtifactError, match=r"SHA-256 differs"):
        shareable(artifact)
    relist(artifact, "metrics.json")
    with pytest.raises(ArtifactError, match=r"metrics.json is no JSON object"):
        shareable(artifact)


def relist(folder: Path, name: str) -> None:
    """Make the manifest agree with a file that was changed."""
    import hashlib

    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", ["head.safetensors", CARD, MANIFEST, "report"])
def test_links_are_refused(name: str, artifact: Path, tmp_path: Path) -> None:
    """Also where the link leads to the very bytes that are listed."""
    (tmp_path / "outside").mkdir()
    if (artifact / name).exists():
        (artifact / name).rename(tmp_path / "outside" / name)
    else:
        (tmp_path / "outside" / name).write_text("a secret")
    (artifact / name).symlink_to(tmp_path / "outside" / name)
    with pytest.raises(ArtifactError, match="is a link"):
        shareable(artifact)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "report/../../secret", "a\\..\\b"])
def test_a_manifest_that_leads_out_of_its_folder_is_refused(name: str, artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a secret")
    manifest = json.loads((artifact / MANIFEST).read_bytes())
    manifest["files"][name] = "0" * 64
    (artifact / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="no path inside the folder"):
        shareable(artifact)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError):
        shareable(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match=MANIFEST):
        shareable(tmp_path)


# --------------------------------------------------------------------------------------------- the upload


@dataclass
class Hub:
    """A hub in memory behind `HfApi`, whose every method is an autospecced fake."""

    there: dict[str, bytes] = field(default_factory=dict)
    private: bool = False
    faults: dict[str, Exception] = field(default_factory=dict)
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    commits: list[dict[str, Any]] = field(default_factory=list)

    def stand_behind(self, api: Any) -> None:
        """Answer for the fakes that an upload calls; the others would give a mock that nothing can use."""
        for name in ("create_repo", "model_info", "create_branch", "list_repo_files", "hf_hub_download"):
            getattr(api, name).side_effect = self._method(name)
        api.create_commit.side_effect = self._method("create_commit")

    def _method(self, name: str) -> Callable[..., Any]:
        def call(repo_id: str, *args: Any, **given: Any) -> Any:
            self.calls.append((name, {"repo_id": repo_id, **given}))
            if name in self.faults:
                raise self.faults[name]
            return getattr(self, f"_{name}")(repo_id, *args, **given)

        return call

    def _create_repo(self, repo_id: str, *, private: bool | None, **_: Any) -> RepoUrl:
        if not self.there:
            self.private = bool(private)
        return RepoUrl(f"https://huggingface.co/{repo_id if '/' in repo_id else f'me/{repo_id}'}")

    def _model_info(self, repo_id: str) -> Any:
        return type("Info", (), {"private": self.private})

    def _create_branch(self, repo_id: str, *, branch: str, **_: Any) -> None:
        return None

    def _list_repo_files(self, repo_id: str, **_: Any) -> list[str]:
        return [".gitattributes", *self.there]

    def _hf_hub_download(self, repo_id: str, filename: str, *, local_dir: str, **_: Any) -> str:
        path = Path(local_dir, filename)
        path.write_bytes(self.there[filename])
        return str(path)

    def _create_commit(self, repo_id: str, operations: Any, *, commit_message: str, **given: Any) -> CommitInfo:
        operations = list(operations)
        for operation in operations:
            if isinstance(operation, CommitOperationDelete):
                del self.there[operation.path_in_repo]
                continue
            assert isinstance(operation, CommitOperationAdd)
            with operation.as_file() as file:
                self.there[operation.path_in_repo] = file.read()
        self.commits.append({"message": commit_message, "operations": operations, **given})
        url = f"https://huggingface.co/{repo_id}/commit/{COMMIT}"
        return CommitInfo(commit_url=url, commit_message=commit_message, commit_description="", oid=COMMIT)


@pytest.fixture(scope="module")
def faked() -> Any:
    """The class, autospecced with all its methods, which takes a second."""
    return create_autospec(HfApi)


@pytest.fixture
def hub(faked: Any, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub, reachable and with somebody logged in."""
    made = Hub()
    made.stand_behind(faked.return_value)
    monkeypatch.setattr(huggingface_hub, "HfApi", faked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return made


def test_one_commit_to_a_new_repository(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"1")
    done = upload({"a": b"0", "b/c": tmp_path / "f"}, "me/m")
    assert done == Uploaded("me/m", "https://huggingface.co/me/m", COMMIT, private=False)
    assert hub.there == {"a": b"0", "b/c": b"1"}
    assert [name for name, _ in hub.calls] == ["create_repo", "model_info", "list_repo_files", "create_commit"]
    assert hub.calls[0][1]["exist_ok"] is True
    assert hub.calls[0][1]["private"] is None  # what the owner's settings say
    assert len(hub.commits) == 1


@pytest.mark.parametrize(("given", "full"), [("m", "me/m"), ("hf:me/m", "me/m"), ("org/m", "org/m")])
def test_names_of_repositories(given: str, full: str, hub: Hub) -> None:
    assert upload({"a": b""}, given).repository == full
    assert hub.calls[-1][1]["repo_id"] == full


def test_a_private_repository(hub: Hub) -> None:
    assert upload({"a": b""}, "me/m", private=True).private
    assert hub.calls[0][1]["private"] is True


def test_a_public_repository_is_never_taken_for_a_private_one(hub: Hub) -> None:
    hub.there["old"] = b""
    with pytest.raises(UsageError, match="is public"):
        upload({"a": b""}, "me/m", private=True)
    assert hub.commits == []
    assert not any(name == "create_branch" for name, _ in hub.calls)


def test_a_branch_is_made_and_used(hub: Hub) -> None:
    upload({"a": b""}, "me/m", revision="v2", message="The second")
    assert ("create_branch", "v2") in [(name, given.get("branch")) for name, given in hub.calls]
    assert {
        given.get("revision") for name, given in hub.calls if name in ("list_repo_files", "create_commit")
    } == {"v2"}
    assert hub.commits[0]["message"] == "The second"


def test_what_an_earlier_upload_left_is_removed_and_the_rest_stays(hub: Hub) -> None:
    hub.there = {
        "a": b"",
        "onnx/old.onnx": b"",
        "mine.md": b"",
        MANIFEST: b'{"files": {"a": "", "onnx/old.onnx": ""}}',
    }
    done = upload({"a": b"1", MANIFEST: b"{}"}, "me/m")
    assert done.removed == ("onnx/old.onnx",)
    assert done.kept == ("mine.md",)
    assert done.replaced == ("a", MANIFEST)
    assert set(hub.there) == {"a", "mine.md", MANIFEST}
    assert len(hub.commits) == 1


@pytest.mark.parametrize("manifest", [b"", b"[]", b"{}", b'{"files": 3}', b'{"files": null}', b"[" * 100_000])
def test_a_manifest_of_somebody_else_removes_nothing(manifest: bytes, hub: Hub) -> None:
    hub.there = {"a": b"", MANIFEST: manifest}
    assert upload({"b": b""}, "me/m").removed == ()
    assert set(hub.there) == {"a", "b", MANIFEST}


def answer(code: int, kind: type[errors.HfHubHTTPError] = errors.HfHubHTTPError) -> errors.HfHubHTTPError:
    """Return what huggingface_hub raises, with words and an address that hold the token."""
    address = f"https://user:{TOKEN}@huggingface.co/api/models/me/m?token={TOKEN}"
    response = httpx.Response(code, request=httpx.Request("POST", address), headers={"authorization": TOKEN})
    return kind(f"{code} for {address} with Bearer {TOKEN}", response=response, server_message=TOKEN)


FAILURES: list[tuple[Exception, type[EmbedkitError], str]] = [
    (errors.LocalTokenNotFoundError(TOKEN), UsageError, "hf auth login"),
    (errors.OfflineModeIsEnabled(TOKEN), UsageError, "unset HF_HUB_OFFLINE"),
    (errors.HFValidationError(TOKEN), UsageError, "write owner/name"),
    (
        ValueError(f"Invalid metadata in README.md.\n- {TOKEN}"),
        UsageError,
        "the metadata at the head of README.md",
    ),
    (answer(401), HubError, "log in again with `hf auth login`"),
    (answer(401, errors.RepositoryNotFoundError), HubError, "log in again with `hf auth login`"),
    (answer(403), HubError, "belongs to somebody else"),
    (answer(404, errors.RepositoryNotFoundError), HubError, "no such owner or repository"),
    (answer(409), HubError, "somebody else is changing it"),
    (answer(412), HubError, "meanwhile"),
    (answer(413), HubError, "no files of that size"),
    (answer(429), HubError, "try again later"),
    (answer(500), HubError, r"HTTP 500"),
    (answer(400, errors.BadRequestError), HubError, r"HTTP 400"),
    (httpx.ConnectError(f"no route, {TOKEN}"), HubError, "cannot be reached"),
    (httpx.ReadTimeout(TOKEN), HubError, "cannot be reached"),
    (ConnectionResetError(104, TOKEN), HubError, "cannot be reached"),
    (TimeoutError(TOKEN), HubError, "cannot be reached"),
    (RuntimeError(f"xet: {TOKEN}"), HubError, "cannot be reached"),
    (OSError(28, f"No space left for {TOKEN}"), HubError, "on this machine"),
    (PermissionError(13, "Permission denied", f"/x/{TOKEN}"), HubError, "on this machine"),
    (KeyError(TOKEN), HubError, "KeyError"),
    (TypeError(f"{TOKEN} at https://x:{TOKEN}@y/z"), HubError, "TypeError"),
]


@pytest.mark.parametrize("method", ["create_repo", "create_commit"])
@pytest.mark.parametrize(("error", "kind", "says"), FAILURES, ids=lambda value: type(value).__name__)
def test_failures_are_said_in_our_words_without_the_token(
    error: Exception, kind: type[EmbedkitError], says: str, method: str, hub: Hub, artifact: Path,
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, tmp_path: Path,
) -> None:  # fmt: skip
    hub.faults[method] = error
    caplog.set_level(logging.DEBUG)
    with pytest.raises(kind, match=says) as caught:
        upload({"a": b""}, "me/m")
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert "\n" not in str(caught.value)
    said = ["".join(traceback.format_exception(caught.value)), repr(caught.value)]
    for flags in ([], ["--debug"], ["--json"]):
        assert main(["push", str(artifact), "me/m", *flags]) == kind.exit_code
        said += [*capsys.readouterr()]
    said += [caplog.text, *(record.getMessage() for record in caplog.records)]
    assert not any(TOKEN in text for text in said)
    assert not any(TOKEN.encode() in data for data in snapshot(tmp_path).values())


def test_a_token_of_another_form_is_masked_too(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "eyJhbGciOi.odd-form")
    hub.faults["create_repo"] = TypeError("Bearer eyJhbGciOi.odd-form was refused")
    with pytest.raises(HubError) as caught:
        upload({"a": b""}, "me/m")
    assert "odd-form" not in str(caught.value)
    assert "was refused" in str(caught.value)


@given(st.text(max_size=400))
def test_no_message_of_the_hub_carries_an_address_or_a_token(words: str) -> None:
    from embedkit.hub import _upload_failure

    error = TypeError(f"{words} {TOKEN} https://user:{TOKEN}@host/x?y={TOKEN} {words}")
    said = str(_upload_failure("me/m", error))
    assert TOKEN not in said
    assert "://" not in said
    assert len(said) < 400


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("a/b/c", {}, "no name for a repository"),
        ("", {}, "no name for a repository"),
        ("me/a--b", {}, "no name for a repository"),
        ("./out", {}, "no name for a repository"),
        ("https://huggingface.co/me/m", {}, "no name for a repository"),
        (TOKEN, {}, "looks like an access token"),
        (f"me/{TOKEN}", {}, "looks like an access token"),
        ("me/m", {"message": f"with {TOKEN}"}, "looks like an access token"),
        ("me/m", {"revision": TOKEN}, "looks like an access token"),
        ("me/m", {"message": " "}, "the commit needs a message"),
        ("me/m", {"revision": "a b"}, "is not a revision"),
        ("me/m", {"revision": "refs/pr/1"}, "is no branch"),
        ("me/m", {"revision": "a" * 40}, "is no branch"),
    ],
)
def test_what_cannot_be_uploaded_to_is_refused_at_once(
    name: str, given: dict[str, str], says: str, hub: Hub
) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        upload({"a": b""}, name, **given)  # type: ignore[arg-type]
    assert TOKEN not in str(caught.value)
    assert hub.calls == []


def test_nobody_logged_in(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UsageError, match="`hf auth login`"):
        upload({"a": b""}, "me/m")
    assert hub.calls == []


def test_offline_mode(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="unset HF_HUB_OFFLINE"):
        upload({"a": b""}, "me/m")
    assert hub.calls == []


def test_without_the_library(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="embedkit\\[train\\]"):
        upload({"a": b""}, "me/m")


def test_a_login_that_fails_is_said_without_its_words(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise ValueError(f"the exchange of {TOKEN} failed")

    monkeypatch.setattr(huggingface_hub, "get_token", refuse)
    with pytest.raises(HubError, match="the exchange of hf_\\*\\*\\* failed"):
        upload({"a": b""}, "me/m")


# -------------------------------------------------------------------------------------------- the command


class Told(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def push(capsys: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    def run(*arguments: object) -> Told:
        capsys.readouterr()
        try:
            code = main(["push", *map(str, arguments)])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Told(code, *capsys.readouterr())

    return run


def test_the_command_says_where_it_is_and_what_stayed_here(
    push: Callable[..., Told], hub: Hub, artifact: Path
) -> None:
    (artifact / "secrets.env").write_text("x")
    told = push(artifact, "me/m", "--message", "First")
    assert told.code == 0
    assert told.out == f"4 files in https://huggingface.co/me/m (public), commit {COMMIT}\n"
    assert "note: 1 file that embedkit did not write stays here" in told.err
    assert "--with-report" in told.err
    assert set(hub.there) == {MANIFEST, CARD, "head.safetensors", "metrics.json"}
    assert hub.commits[0]["message"] == "First"


def test_the_command_as_json(push: Callable[..., Told], hub: Hub, artifact: Path) -> None:
    told = push(artifact, "m", "--private", "--revision", "v1", "--with-report", "--json")
    facts = json.loads(told.out)
    assert facts == {
        "repository": "me/m", "url": "https://huggingface.co/me/m", "commit": COMMIT, "private": True,
        "files": sorted(hub.there), "replaced": [], "removed": [], "kept": [],
    }  # fmt: skip
    assert "report/errors.csv" in facts["files"]


def test_a_second_push_without_the_report_takes_it_down(
    push: Callable[..., Told], hub: Hub, artifact: Path
) -> None:
    push(artifact, "me/m", "--with-report")
    hub.there["notes.md"] = b""
    told = push(artifact, "me/m")
    assert "removed there, because this upload has them no more: report/" in told.err
    assert "earlier commits of the repository still hold them" in told.err
    assert f"the {CARD} there was replaced" in told.err
    assert "1 other file of the repository: left unchanged" in told.err
    assert not any(name.startswith("report") for name in hub.there)


def test_nothing_is_asked_of_the_hub_for_a_damaged_folder(
    push: Callable[..., Told], hub: Hub, artifact: Path
) -> None:
    (artifact / "head.safetensors").write_bytes(b"other")
    told = push(artifact, "me/m")
    assert told.code == 65
    assert hub.calls == []


def test_there_is_no_flag_for_a_token(push: Callable[..., Told], hub: Hub, artifact: Path) -> None:
    told = push(artifact, "me/m", "--token", TOKEN)
    assert told.code == 2
    assert TOKEN not in told.out + told.err
    assert hub.calls == []


def test_what_others_download_answers_as_what_was_pushed(
    push: Callable[..., Told], hub: Hub, tmp_path: Path, store: Path
) -> None:
    """The whole way: fitted, uploaded, downloaded, opened beside a copy of the encoder."""
    make_sentence_transformer(tmp_path / "model")
    rows = ["text,label", *(f"{word} {'film ' * i},{word}" for i in range(20) for word in ("good", "bad"))]
    (tmp_path / "own.csv").write_text("\n".join(rows) + "\n")
    paths = [str(tmp_path / name) for name in ("own.csv", "model", "out")]
    assert main(["fit-head", paths[0], "-m", paths[1], "-o", paths[2], "--quiet"]) == 0
    assert push(paths[2], "me/m").code == 0
    assert not any(str(tmp_path).encode() in data for data in hub.there.values())
    copy = written(hub.there, tmp_path / "copy")
    with pytest.raises(InputMissingError, match="name its folder with --model"):
        embedkit.load(copy)
    texts = ["a good film", "bad", ""]
    given, found = (embedkit.load(folder, model=paths[1]).predict_proba(texts) for folder in (paths[2], copy))
    np.testing.assert_array_equal(given, found)
