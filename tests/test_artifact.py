"""An artifact folder is whole or absent, refuses what was changed, and never unpickles."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save

from embedkit.artifact import (
    load_arrays,
    save_arrays,
    scrub,
    staged,
    write_json,
    write_manifest,
)
from embedkit.errors import ArtifactError, InputMissingError, OutputExistsError
from embedkit.runtime.manifest import FORMAT_VERSION, MANIFEST, read_manifest


def make(folder: Path, *, overwrite: bool = False, text: str = "one", **manifest: Any) -> Path:
    with staged(folder, overwrite=overwrite) as stage:
        (stage / "tokenizer.json").write_text(text)
        (stage / "report").mkdir()
        (stage / "report" / "errors.csv").write_text("row\n")
        save_arrays(stage / "head.safetensors", {"coef": np.ones((1, 2))})
        write_manifest(stage, {"labels": ["a", "b"], "versions": {"embedkit": "0.1.0"}, **manifest})
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- staging -------------------------------------------------------------------------------------------


def test_a_folder_appears_whole_with_its_parents(tmp_path: Path) -> None:
    folder = make(tmp_path / "out" / "rt")
    assert names(folder) == [MANIFEST, "head.safetensors", "report", "tokenizer.json"]
    assert names(tmp_path / "out") == ["rt"]
    mask = os.umask(0o022)
    os.umask(mask)
    assert folder.stat().st_mode & 0o777 == 0o777 & ~mask


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with staged(tmp_path / "new" / "out") as stage:
            (stage / "sub").mkdir()
            (stage / "sub" / "file").write_text("x")
            assert not (tmp_path / "new" / "out").exists()
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == []


def test_an_exception_leaves_parents_that_others_use(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="boom"), staged(tmp_path / "new" / "out"):  # noqa: PT012
        (tmp_path / "new" / "other").write_text("x")
        raise ValueError("boom")
    assert names(tmp_path / "new") == ["other"]


def plant_file(path: Path) -> None:
    path.write_text("x")


def plant_link(path: Path) -> None:
    path.with_name("elsewhere").mkdir()
    path.symlink_to(path.with_name("elsewhere"))


def plant_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def plant_artifact(path: Path) -> None:
    make(path)


@pytest.mark.parametrize("plant", [plant_file, plant_link, plant_dangling_link, plant_artifact, Path.mkdir])
def test_an_existing_output_is_refused_before_any_work(tmp_path: Path, plant: Callable[[Path], None]) -> None:
    plant(tmp_path / "out")
    before = names(tmp_path)
    with pytest.raises(OutputExistsError, match=r"out exists; .* --overwrite"), staged(tmp_path / "out"):
        pytest.fail("the body must not run")
    assert names(tmp_path) == before


def plant_notes(path: Path) -> None:
    path.mkdir()
    (path / "notes.txt").write_text("x")


def plant_artifact_with_notes(path: Path) -> None:
    (make(path) / "report" / "notes.txt").write_text("x")


def plant_foreign_manifest(path: Path) -> None:
    path.mkdir()
    (path / MANIFEST).write_text('{"format": "other", "files": {"embedkit.json": ""}}')


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (plant_file, "is not a folder that embedkit wrote"),
        (plant_link, "is not a folder that embedkit wrote"),
        (plant_dangling_link, "is not a folder that embedkit wrote"),
        (plant_notes, "holds what embedkit did not write there: notes.txt;"),
        (plant_artifact_with_notes, "did not write there: report/notes.txt;"),
        (plant_foreign_manifest, f"did not write there: {MANIFEST};"),
    ],
)
def test_overwrite_spares_what_is_not_ours(tmp_path: Path, plant: Callable[[Path], None], message: str) -> None:
    plant(tmp_path / "out")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputExistsError, match=message), staged(tmp_path / "out", overwrite=True):
        pytest.fail("the body must not run")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("inner", [".", "report"])
def test_the_current_folder_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inner: str) -> None:
    monkeypatch.chdir(make(tmp_path / "out") / inner)
    with (
        pytest.raises(OutputExistsError, match="holds the current folder"),
        staged(tmp_path / "out", overwrite=True),
    ):
        pytest.fail("the body must not run")


@pytest.mark.parametrize("plant", [plant_artifact, Path.mkdir])
def test_overwrite_replaces_what_is_ours_or_empty(tmp_path: Path, plant: Callable[[Path], None]) -> None:
    plant(tmp_path / "out")
    make(tmp_path / "out", overwrite=True, text="two")
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "two"
    assert names(tmp_path) == ["out"]


def test_a_damaged_artifact_can_be_overwritten(tmp_path: Path) -> None:
    folder = make(tmp_path / "out")
    (folder / "tokenizer.json").unlink()
    make(folder, overwrite=True, text="two")
    assert read_manifest(folder)["labels"] == ["a", "b"]


def test_the_old_folder_survives_a_failing_body(tmp_path: Path) -> None:
    make(tmp_path / "out")
    with pytest.raises(ValueError, match="boom"), staged(tmp_path / "out", overwrite=True):
        raise ValueError("boom")
    assert names(tmp_path) == ["out"]
    read_manifest(tmp_path / "out")


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_the_old_folder_comes_back_when_the_new_one_cannot_be_placed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    make(tmp_path / "out", text="old")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name.endswith(".part"):
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(error):
        make(tmp_path / "out", overwrite=True, text="new")
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "old"


def test_an_output_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    with pytest.raises(OutputExistsError), staged(tmp_path / "out"):
        make(tmp_path / "out", text="theirs")
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "theirs"
    assert names(tmp_path) == ["out"]


def test_files_without_write_permission_are_accepted(tmp_path: Path) -> None:
    with staged(tmp_path / "out") as stage:
        (stage / "tokenizer.json").write_text("x")
        (stage / "tokenizer.json").chmod(0o444)
        write_manifest(stage, {})
    read_manifest(tmp_path / "out")


def test_a_parent_that_is_a_file_is_an_io_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="file"), staged(tmp_path / "file" / "out"):
        pytest.fail("the body must not run")
    assert names(tmp_path) == ["file"]


# --- the manifest --------------------------------------------------------------------------------------


def test_the_manifest_states_format_kind_and_digests(tmp_path: Path) -> None:
    folder = make(tmp_path / "out", seed=np.int64(42))
    manifest = read_manifest(folder, kind="classifier")
    assert manifest == json.loads((folder / MANIFEST).read_text())
    assert manifest["format"] == "embedkit-artifact"
    assert manifest["format_version"] == FORMAT_VERSION
    assert manifest["seed"] == 42
    assert sorted(manifest["files"]) == ["head.safetensors", "report/errors.csv", "tokenizer.json"]
    # SHA-256 of "one"
    expected = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    assert manifest["files"]["tokenizer.json"] == expected


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = make(tmp_path / "a", x=1, y=2), make(tmp_path / "b", y=2, x=1)
    for path in first.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (second / path.relative_to(first)).read_bytes()


LABELS = ["plain", "é 漢字", "\x1b[31m", "\u202e", "\ud800", "hf_" + "a" * 25, "https://a:b@c/"]


def test_any_label_comes_back_as_it_was_and_inert_on_a_terminal(tmp_path: Path) -> None:
    folder = make(tmp_path / "out", labels=LABELS)
    assert read_manifest(folder)["labels"] == LABELS
    assert (folder / MANIFEST).read_bytes().replace(b"\n", b"").isascii()
    assert b"\x1b" not in (folder / MANIFEST).read_bytes()


@pytest.mark.parametrize("damage", [b"", b"two", b"one\n", b"One"])
def test_a_changed_file_is_named(tmp_path: Path, damage: bytes) -> None:
    folder = make(tmp_path / "out")
    (folder / "tokenizer.json").write_bytes(damage)
    with pytest.raises(ArtifactError, match=r"tokenizer\.json is not the file that was written"):
        read_manifest(folder)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    folder = make(tmp_path / "out")
    (folder / "report" / "errors.csv").unlink()
    with pytest.raises(ArtifactError, match=r"errors\.csv is missing"):
        read_manifest(folder)


def test_a_listed_folder_is_no_file(tmp_path: Path) -> None:
    folder = make(tmp_path / "out")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").mkdir()
    with pytest.raises(ArtifactError, match="is not a plain file"):
        read_manifest(folder)


def test_links_are_refused_when_read_and_when_written(tmp_path: Path) -> None:
    folder = make(tmp_path / "out")
    (folder / "report").rename(tmp_path / "report")
    (folder / "report").symlink_to(tmp_path / "report")
    with pytest.raises(ArtifactError, match="report is a link"):
        read_manifest(folder)
    with pytest.raises(ArtifactError, match="is a link"), staged(tmp_path / "other") as stage:  # noqa: PT012
        (stage / "report").symlink_to(tmp_path / "report")
        write_manifest(stage, {})
    (folder / MANIFEST).rename(tmp_path / "m")
    (folder / MANIFEST).symlink_to(tmp_path / "m")
    with pytest.raises(ArtifactError, match=r"embedkit\.json is a link"):
        read_manifest(folder)


def edit(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text()) | changes
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "name",
    ["../secret", "a/../../secret", "/etc/hostname", "a\\b", "C:x", "a//b", "./tokenizer.json", "", ".", "x\0"],
)
def test_paths_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("x")
    folder = make(tmp_path / "out")
    edit(folder, files={name: "0" * 64})
    with pytest.raises(ArtifactError, match="is no path inside the folder"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_reader": 99, "format_version": 99}, "has format version 99, this embedkit reads up to 1; use"),
        ({"min_reader": 99, "versions": {"embedkit": "7.1"}}, r"use embedkit 7\.1 or newer$"),
        ({"min_reader": 99, "versions": None}, "use embedkit of a newer version$"),
        ({"min_reader": None}, "states no format version"),
        ({"min_reader": True}, "states no format version"),
        ({"format": "other"}, "was not written by embedkit"),
        ({"files": None}, "does not list its files"),
        ({"files": {"tokenizer.json": 3}}, "does not list its files"),
        ({"kind": "encoder"}, "of the kind 'encoder', but 'classifier' is needed"),
    ],
)
def test_a_foreign_or_newer_manifest_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = make(tmp_path / "out")
    edit(folder, **changes)
    with pytest.raises(ArtifactError, match=message):
        read_manifest(folder, kind="classifier")


def test_a_newer_format_that_old_readers_know_is_read(tmp_path: Path) -> None:
    folder = make(tmp_path / "out")
    edit(folder, format_version=99)
    assert read_manifest(folder)["format_version"] == 99


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"a":' * 100_000], ids=lambda c: repr(c[:8])
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = make(tmp_path / "out")
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"embedkit\.json (is damaged|was not written by embedkit)"):
        read_manifest(folder)


def test_a_missing_folder_is_missing_input(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match="does not exist") as caught:
        read_manifest(tmp_path / "out")
    assert caught.value.exit_code == 66
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match="is a file, not a folder"):
        read_manifest(tmp_path / "file")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "it is empty"),
        (["config.json", "model.safetensors"], "looks like a transformers model; give it with --model"),
        (["config.json", "modules.json"], "looks like a sentence-transformers model"),
        (["config.json", "modules.json", "model_head.pkl"], "looks like a SetFit folder, whose pickled head"),
        (["config.json", "model.onnx"], "looks like an ONNX model folder"),
        (["clf.joblib"], "holds a pickle, which embedkit does not open"),
        (["a", "b", "c", "d"], r"it holds a, b, c, \.\.\."),
    ],
)
def test_a_folder_of_another_kind_is_named(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        (tmp_path / name).write_text("x")
    with pytest.raises(ArtifactError, match=message):
        read_manifest(tmp_path)


def test_our_own_fields_are_not_taken_from_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="files is filled in here"):
        write_manifest(tmp_path, {"files": {}})
    assert names(tmp_path) == []


# --- secrets -------------------------------------------------------------------------------------------

SECRET = "hf_" + "Ab1" * 10


def test_no_token_reaches_a_manifest(tmp_path: Path) -> None:
    folder = make(
        tmp_path / "out",
        encoder={"source": f"https://user:{SECRET}@huggingface.co/x", "notes": [f"token={SECRET}", 3, None]},
        command=("push", "https://me:pass@word@host:8080/a?b=c@d"),
    )
    text = (folder / MANIFEST).read_text()
    assert SECRET not in text
    assert "pass" not in text
    manifest = read_manifest(folder)
    assert manifest["encoder"] == {"source": "https://***@huggingface.co/x", "notes": ["token=hf_***", 3, None]}
    assert manifest["command"] == ["push", "https://***@host:8080/a?b=c@d"]


@pytest.mark.parametrize(
    "text",
    [
        "hf_short",
        "hf:rotten_tomatoes/default",
        "hf://datasets/me/x@main/a.csv",
        "me@host",
        "http://host/a@b",
        "//a@b",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert scrub(text) == text


# --- JSON and arrays -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": {"b": [1.0, float("nan")]}}, r"a\.b\[1\] is nan"),
        ({"a": float("inf")}, "a is inf"),
        ({"a": np.float32("nan")}, "a is nan"),
    ],
)
def test_numbers_that_json_cannot_hold_are_named(tmp_path: Path, value: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_json(tmp_path / "x.json", value)
    assert names(tmp_path) == []


def test_json_takes_numpy_scalars_and_nothing_stranger(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": np.int64(3), "b": np.float32(0.5), "c": np.bool_(True)})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 3, "b": 0.5, "c": True}
    with pytest.raises(TypeError, match="Path is no JSON value"):
        write_json(tmp_path / "y.json", {"a": Path()})


DTYPES = [np.bool_, np.int8, np.int64, np.uint16, np.float16, np.float32, np.float64]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0))
    ),
    st.sampled_from(["as it is", "transposed", "reversed", "big-endian"]),
)
def test_arrays_come_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, array: npt.NDArray[Any], layout: str
) -> None:
    if layout == "transposed":
        array = array.T
    elif layout == "reversed" and array.ndim:
        array = array[::-1]
    elif layout == "big-endian":
        array = array.astype(array.dtype.newbyteorder(">"))
    path = tmp_path_factory.mktemp("arrays") / "x.safetensors"
    save_arrays(path, {"x": array, "y": np.zeros(0)})
    loaded = load_arrays(path)
    assert set(loaded) == {"x", "y"}
    assert loaded["x"].dtype == array.dtype.newbyteorder("=")
    assert loaded["x"].shape == array.shape
    np.testing.assert_array_equal(loaded["x"], array)


@pytest.mark.parametrize("values", [["a"], [None], [1j], [np.longdouble(1)]])
def test_arrays_without_a_safe_form_are_refused(tmp_path: Path, values: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"'x' is of dtype .*, which cannot be saved"):
        save_arrays(tmp_path / "x.safetensors", {"x": np.array(values)})
    assert names(tmp_path) == []


@pytest.mark.parametrize("keep", [0, 4, 8, 20, -1])
def test_truncated_arrays_are_refused(tmp_path: Path, keep: int) -> None:
    data = save({"x": np.arange(5.0)})
    (tmp_path / "x").write_bytes(data[:keep])
    with pytest.raises(ArtifactError, match="is damaged or no safetensors file"):
        load_arrays(tmp_path / "x")


def test_arrays_that_numpy_lacks_and_missing_ones_are_refused(tmp_path: Path) -> None:
    header = b'{"x":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with pytest.raises(ArtifactError, match="is damaged or no safetensors file"):
        load_arrays(tmp_path / "x")
    with pytest.raises(ArtifactError, match="is missing"):
        load_arrays(tmp_path / "y")


# --- no pickle -----------------------------------------------------------------------------------------


class Canary:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return Path.touch, (self.path,)


def test_no_planted_pickle_runs(tmp_path: Path) -> None:
    sung = tmp_path / "sung"
    canary = pickle.dumps(Canary(sung))
    folder = make(tmp_path / "out")
    for name in ("model_head.pkl", "head.joblib", "head.pkl", "training_args.bin"):
        (folder / name).write_bytes(canary)
    np.save(folder / "head.npy", np.array([Canary(sung)], dtype=object), allow_pickle=True)
    read_manifest(folder)  # unlisted files are not opened
    assert load_arrays(folder / "head.safetensors")["coef"].tolist() == [[1, 1]]
    for name in ("head.pkl", "head.npy"):
        with pytest.raises(ArtifactError, match="no safetensors file"):
            load_arrays(folder / name)
    (folder / "head.safetensors").write_bytes(canary)
    with pytest.raises(ArtifactError, match=r"head\.safetensors is not the file"):
        read_manifest(folder)
    assert not sung.exists()
    pickle.loads(canary)
    assert sung.exists()  # the canary can sing
