"""What goes wrong where an exported folder is served: damaged folders, other processes, readers that leave."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedkit import runtime
from embedkit.cli import main
from embedkit.errors import ArtifactError, EmbedkitError
from embedkit.runtime.manifest import MANIFEST, digest_of
from tests.tiny_models import WORDS

LISTED = (
    *("README.md", "config.json", "onnx/model.onnx", "special_tokens_map.json"),
    *("tokenizer.json", "tokenizer_config.json"),
)
ROOT = Path(__file__).parent.parent


@pytest.fixture
def copy(served: Path, tmp_path: Path) -> Path:
    return shutil.copytree(served, tmp_path / "copy")


@pytest.fixture
def unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that opens a graph or a tokenizer."""
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: pytest.fail("a graph was opened"))
    monkeypatch.setattr("tokenizers.Tokenizer.from_file", lambda *_: pytest.fail("a tokenizer was opened"))
    monkeypatch.setattr("tokenizers.Tokenizer.from_str", lambda *_: pytest.fail("a tokenizer was opened"))


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest in place."""
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def rewrite(folder: Path, name: str, content: bytes) -> None:
    """Change a file and its digest, as somebody would who means harm."""
    (folder / name).write_bytes(content)
    edit(folder, lambda manifest: manifest["files"].update({name: digest_of(folder, name)}))


# --- damaged folders -----------------------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def link(path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


def dangle(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere")


def become_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def test_every_file_is_listed(served: Path) -> None:
    assert sorted(json.loads((served / MANIFEST).read_text())["files"]) == sorted(LISTED)


@pytest.mark.parametrize(
    "damage", [flip, cut, grow, Path.unlink, link, dangle, become_pipe], ids=lambda d: d.__name__
)
@pytest.mark.parametrize("name", LISTED)
@pytest.mark.usefixtures("unopened")
def test_damage_of_any_file_is_found_before_one_is_opened(
    name: str, damage: Callable[[Path], None], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(copy / name)
    with pytest.raises(ArtifactError, match=Path(name).name):
        runtime.load(copy)
    assert main(["predict", str(copy), "a text"]) == 65
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"embedkit: error: {copy / name} ")
    assert err.count("\n") == 1


def list_outside(manifest: dict[str, Any], place: str) -> None:
    digest = manifest["files"].pop("onnx/model.onnx")
    manifest["files"][place] = digest
    manifest["graphs"]["float32"] = place


@pytest.mark.parametrize(
    "place",
    ["../graph.onnx", "onnx/../../graph.onnx", "/graph.onnx", "./onnx/model.onnx", "onnx//model.onnx", "onnx"],
)
@pytest.mark.usefixtures("unopened")
def test_a_graph_listed_outside_of_the_folder_is_not_read(place: str, copy: Path) -> None:
    shutil.copy(copy / "onnx" / "model.onnx", copy.parent / "graph.onnx")
    edit(copy, lambda manifest: list_outside(manifest, place))
    with pytest.raises(ArtifactError, match=r"no path inside the folder|not a plain file"):
        runtime.load(copy)


@pytest.mark.usefixtures("unopened")
def test_a_folder_that_lost_its_manifest_is_not_taken_for_one_of_others(copy: Path) -> None:
    (copy / "embedkit.json").unlink()
    with pytest.raises(ArtifactError, match=r"has lost its embedkit\.json"):
        runtime.load(copy)


@pytest.mark.usefixtures("unopened")
def test_what_is_not_listed_is_not_opened(copy: Path) -> None:
    edit(copy, lambda manifest: manifest["files"].pop("tokenizer.json"))
    with pytest.raises(ArtifactError, match=r"tokenizer\.json"):
        runtime.load(copy)


def test_beside_what_is_listed_anything_may_stand(copy: Path) -> None:
    (copy / "notes.txt").symlink_to("/nowhere")
    (copy / "model.pkl").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    assert runtime.load(copy).predict(["good"])


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"version": "1.0"}', b"\xff" * 50])
def test_what_is_no_tokenizer_is_refused_with_any_digest(content: bytes, copy: Path) -> None:
    rewrite(copy, "tokenizer.json", content)
    with pytest.raises(EmbedkitError, match=r"tokenizer\.json") as caught:
        runtime.load(copy)
    assert caught.value.exit_code == 65


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, -1])
def test_a_truncated_graph_is_refused_with_any_digest(kept: float, copy: Path) -> None:
    data = (copy / "onnx" / "model.onnx").read_bytes()
    rewrite(copy, "onnx/model.onnx", data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(ArtifactError, match=r"model\.onnx"):
        runtime.load(copy)


@pytest.mark.usefixtures("unopened")
def test_a_newer_format_names_the_version_that_reads_it(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(copy, lambda manifest: manifest.update(min_reader=9, format_version=9, versions={"embedkit": "7.1"}))
    assert main(["predict", str(copy), "a text"]) == 65
    assert capsys.readouterr().err.endswith(
        "embedkit.json has format version 9, this embedkit reads up to 1; use embedkit 7.1 or newer\n"
    )


@pytest.mark.parametrize("name", [MANIFEST, "tokenizer.json", "onnx/model.onnx", "README.md", "."])
@pytest.mark.parametrize("place", ["onnxruntime.InferenceSession", "tokenizers.Tokenizer.from_file"])
def test_a_folder_that_is_replaced_while_it_is_opened_is_refused(
    place: str, name: str, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its digests were checked, but what is opened may no longer be what they vouch for."""
    shutil.copytree(copy, tmp_path / "other")
    module, _, function = place.partition(".")
    opened = attrgetter(function)(import_module(module))

    def replace(*arguments: Any, **named: Any) -> Any:
        (copy / name).rename(tmp_path / "gone")
        (tmp_path / "other" / name).rename(copy / name)
        return opened(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(place, replace)
        with pytest.raises(ArtifactError, match="was replaced or changed while it was opened; open it again"):
            runtime.load(copy)
    assert runtime.load(copy).predict(["good"])


def test_a_linked_folder_is_served(served: Path, tmp_path: Path) -> None:
    """Only links inside it are refused: releases are often put in place by a link to their folder."""
    (tmp_path / "current").symlink_to(served)
    assert runtime.load(tmp_path / "current").predict(["good"]) == runtime.load(served).predict(["good"])


@pytest.fixture
def open_folder(served: Path) -> Iterator[Path]:
    """Return a copy that other users can reach, which pytest's own folders are not."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        yield shutil.copytree(served, Path(place) / "folder")


@contextmanager
def one_for_whom_rights_count() -> Iterator[None]:
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if was_root:
            os.seteuid(0)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
@pytest.mark.parametrize("name", [MANIFEST, "onnx/model.onnx", "tokenizer.json", "onnx", "."])
def test_what_may_not_be_read_is_an_io_error(
    name: str, open_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime.load(open_folder)  # what is imported late is imported now
    (open_folder / name).chmod(0)
    with one_for_whom_rights_count():
        code = main(["predict", str(open_folder), "a text"])
    (open_folder / name).chmod(0o700)
    out, err = capsys.readouterr()
    assert (code, out) == (74, "")
    assert err.startswith(f"embedkit: error: {open_folder}")
    assert err.endswith(": Permission denied\n")


# --- threads and processes -----------------------------------------------------------------------------


def texts_of(seed: int, count: int = 60) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["", *(" ".join(rng.choice(WORDS, size=size)) for size in rng.integers(1, 30, count))]


def test_threads_that_share_a_model_get_their_own_answers(served: Path) -> None:
    """Each asks for other texts of mixed lengths, in small batches, so that the threads alternate."""
    model = runtime.load(served, threads=2, batch_tokens=64)
    parts = [texts_of(seed, 20 + seed) for seed in range(16)]
    alone = [model.decision_function(part) for part in parts]
    assert len({scores.tobytes() for scores in alone}) == len(parts)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            for found, expected in zip(pool.map(model.decision_function, parts), alone, strict=True):
                np.testing.assert_array_equal(found, expected)


_FORK = """
import os, sys, signal
import numpy as np
from embedkit import runtime
model = runtime.load(sys.argv[1], threads=2, batch_tokens=64)
texts = ["good film " * (i % 9) for i in range(200)]
before = model.decision_function(texts)  # whatever threads there are have been started
child = os.fork()
if not child:
    signal.alarm(60)  # a deadlock ends
    same = np.array_equal(model.decision_function(texts), before)
    os._exit(0 if same else 1)
_, status = os.waitpid(child, 0)
assert np.array_equal(model.decision_function(texts), before)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_model_answers_after_a_fork(served: Path) -> None:
    """As under servers that load once and then fork."""
    ran = subprocess.run([sys.executable, "-c", _FORK, str(served)], cwd=ROOT, capture_output=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, b""), ran.stderr


# --- a command and its reader --------------------------------------------------------------------------

_MAIN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell turns off for what runs in its background
from embedkit.cli import main
sys.exit(main())
"""


def start(*arguments: object, stdout: Any = subprocess.PIPE, buffered: bool = True) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.Popen(
        [sys.executable, *([] if buffered else ["-u"]), "-c", _MAIN, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=environment,
    )


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file that takes seconds to answer."""
    path = tmp_path_factory.mktemp("many") / "many.jsonl"
    path.write_text("".join(json.dumps({"text": f"good film {i}"}) + "\n" for i in range(100_000)))
    return path


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_whole_lines(number: signal.Signals, buffered: bool, served: Path, many: Path) -> None:
    with start("predict", served, "--input", many, buffered=buffered) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [process.stdout.readline() for _ in range(100)]
        process.send_signal(number)
        lines += process.stdout.readlines()
        said = process.stderr.read()
    assert [json.loads(line)["text"] for line in lines] == [f"good film {i}" for i in range(len(lines))]
    assert all(line.endswith(b"\n") for line in lines)
    assert 100 <= len(lines) < 100_000
    assert (process.returncode, said) == (130, b"embedkit: error: interrupted\n")


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("lines", [0, 1, 9000])
def test_a_reader_that_leaves_is_no_error(lines: int, buffered: bool, served: Path, many: Path) -> None:
    with start("predict", served, "--input", many, buffered=buffered) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        found = [json.loads(process.stdout.readline()) for _ in range(lines)]
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141
    assert [answer["text"] for answer in found] == [f"good film {i}" for i in range(lines)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("source", ["text", "file"])
def test_a_full_disk_is_said_once(source: str, buffered: bool, served: Path, many: Path) -> None:
    given = ["good film"] if source == "text" else ["--input", many]
    with Path("/dev/full").open("wb") as full, start(
        "predict", served, *given, stdout=full, buffered=buffered
    ) as process:  # fmt: skip
        said = process.communicate(timeout=60)[1]
    assert said.startswith(b"embedkit: error: ")
    assert said.endswith(b"No space left on device\n")
    assert said.count(b"\n") == 1
    assert process.returncode == 74


# --- the base install ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of packages that holds what the base install needs, and nothing else."""
    folder = tmp_path_factory.mktemp("packages")
    for name in ("numpy", "onnxruntime", "tokenizers", "embedkit"):
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        place = Path(spec.origin).parent
        for found in (place, place.with_name(f"{name}.libs")):
            if found.exists():
                (folder / found.name).symlink_to(found)
    return folder


Bare = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def command(bare: Path, tmp_path: Path) -> Bare:
    code = f"import sys; sys.path.append({str(bare)!r}); from embedkit.cli import main; sys.exit(main())"

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-I", "-S", "-c", code, *map(str, arguments)]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


@pytest.fixture
def rows(tmp_path: Path) -> dict[str, Path]:
    """Return the same rows as files of several formats."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [f"{word} film {i}" for i, word in enumerate(("good", "bad") * 20)]
    labels = ["good", "bad"] * 20
    files = {suffix: tmp_path / f"rows.{suffix}" for suffix in ("csv", "tsv", "jsonl", "parquet", "arrow")}
    for suffix, mark in (("csv", ","), ("tsv", "\t")):
        lines = ["text", "label"], *zip(texts, labels, strict=True)
        files[suffix].write_text("".join(mark.join(line) + "\n" for line in lines))
    files["jsonl"].write_text(
        "".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in zip(texts, labels, strict=True))
    )
    table = pa.table({"text": texts, "label": labels})
    pq.write_table(table, files["parquet"])
    with pa.ipc.new_file(files["arrow"], table.schema) as writer:
        writer.write_table(table)
    return files


def test_the_base_install_answers_and_judges(command: Bare, served: Path, rows: dict[str, Path]) -> None:
    judged, answered = [], []
    for suffix in ("csv", "tsv", "jsonl"):
        told = command("predict", served, "--input", rows[suffix])
        assert (told.returncode, told.stderr) == (0, "")
        answered.append([json.loads(line) for line in told.stdout.splitlines()])
        told = command("evaluate", served, rows[suffix], "--json")
        assert told.returncode == 0, told.stderr
        judged.append(json.loads(told.stdout)["splits"]["rows"])
    assert answered[0] == answered[1] == answered[2]
    assert judged[0] == judged[1] == judged[2]
    labels = runtime.load(served).predict([answer["text"] for answer in answered[0]])
    assert [answer["label"] for answer in answered[0]] == labels
    assert judged[0]["accuracy"] == np.mean([answer["label"] == answer["input_label"] for answer in answered[0]])


def test_the_base_install_keeps_figures_without_pictures(
    command: Bare, served: Path, rows: dict[str, Path], tmp_path: Path
) -> None:
    told = command("evaluate", served, rows["csv"], "-o", "judged")
    assert told.returncode == 0, told.stderr
    assert "report/ has no pictures, which need matplotlib: pip install 'embedkit[train]'" in told.stderr
    judged = tmp_path / "judged"
    reports = ["classification_report.txt", "errors.csv"]
    assert sorted(path.name for path in (judged / "report").iterdir()) == reports
    assert main(["evaluate", str(served), str(rows["csv"]), "-o", str(tmp_path / "full"), "--quiet"]) == 0
    full = tmp_path / "full"
    for name in reports:
        assert (judged / "report" / name).read_text().splitlines()[1:] == (
            (full / "report" / name).read_text().splitlines()[1:]
        )
    assert (full / "report" / "confusion_matrix.png").exists()
    figures = [json.loads((folder / "metrics.json").read_text())["splits"] for folder in (judged, full)]
    assert figures[0] == figures[1]


def test_figures_are_replaced_by_new_ones(
    command: Bare, served: Path, rows: dict[str, Path], tmp_path: Path
) -> None:
    line = ("evaluate", served, rows["csv"], "-o", "judged")
    assert command(*line).returncode == 0
    assert command(*line).returncode == 2
    assert command(*line, "--overwrite").returncode == 0
    assert "of the kind 'evaluation'" in command("predict", "judged", "a text").stderr
    (tmp_path / "judged" / "notes.txt").write_text("mine")
    told = command(*line, "--overwrite")
    assert (told.returncode, "notes.txt" in told.stderr) == (2, True)


@pytest.mark.parametrize(
    "arguments",
    [
        "inspect rows.csv -m minilm", "extract rows.csv", "fit-head rows.csv -o out", "evaluate trained rows.csv",
        "predict trained text", "export-onnx trained -o out", "export-onnx minilm -o out --parity-data rows.csv",
        "cache info", "cache verify", "cache gc", "cache purge", "predict FOLDER --input rows.parquet",
        "predict FOLDER --input rows.arrow", "evaluate FOLDER rows.parquet", "evaluate FOLDER hf:a/b",
    ],
)  # fmt: skip
def test_the_base_install_names_the_extra_that_it_lacks(
    arguments: str, command: Bare, served: Path, rows: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(served, tmp_path / "trained")
    edit(tmp_path / "trained", lambda manifest: manifest.update(kind="classifier"))
    told = command(*arguments.replace("FOLDER", str(served)).split())
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.count("\n") == 1
    assert told.stderr.endswith("which is not installed; install it with: pip install 'embedkit[train]'\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (lambda folder: shutil.rmtree(folder), 66, "does not exist"),
        (lambda folder: shutil.rmtree(folder / "onnx"), 65, "model.onnx is missing"),
        (lambda folder: (folder / MANIFEST).write_text("{"), 65, "is damaged"),
        (
            lambda folder: edit(folder, lambda manifest: manifest.update(min_reader=9)),
            65,
            "this embedkit reads up to",
        ),
        (lambda folder: edit(folder, lambda manifest: manifest.update(kind="other")), 65, "of the kind 'other'"),
        (lambda folder: flip(folder / "onnx" / "model.onnx"), 65, "is not the file that was written"),
    ],
    ids=["gone", "cut", "damaged", "newer", "other", "changed"],
)
def test_the_base_install_says_what_is_wrong_with_a_folder(
    change: Callable[[Path], object], code: int, said: str, command: Bare, copy: Path
) -> None:
    """Where no package is the remedy, none is asked for."""
    change(copy)
    told = command("predict", copy, "a text")
    assert (told.returncode, told.stdout) == (code, "")
    assert said in told.stderr
    assert "pip install" not in told.stderr
