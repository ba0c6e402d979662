"""Attacks, one section a threat, through every door that they could come through.

What a test beside the code already proves is not repeated here: the table in ``docs/security.md`` names each test.
"""

from __future__ import annotations

import ast
import csv
import functools
import hashlib
import io
import json
import logging
import operator
import os
import pickle
import re
import shutil
import socket
import stat
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import huggingface_hub
import joblib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sklearn
import skops.io
import torch
from huggingface_hub import constants
from safetensors import safe_open
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

import embedkit
from embedkit import EmbeddingClassifier, TextEncoder
from embedkit.cli import main
from embedkit.data import open_dataset
from embedkit.encoders import EncoderSettings, FeatureExtractor
from embedkit.errors import DataError, EmbedkitError, ModelError
from embedkit.estimators.frozen import load_frozen
from embedkit.hub import resolve_model
from embedkit.store import FeatureStore
from tests import test_cli
from tests.test_cli import CANARY, Cli, Told, Trained, rows, text, write_csv, write_jsonl
from tests.tiny_models import make_encoder

ROOT = Path(__file__).resolve().parent.parent
cli, model, trained = test_cli.cli, test_cli.model, test_cli.trained  # the command line's own fixtures

Model = Path
BOMB = b"[" * 100_000


# -------------------------------------------------------------------------------------------------- the fixtures


class Canary:
    """Reading this back with pickle makes a folder."""

    def __init__(self, cage: Path) -> None:
        self.cage = cage

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.cage),)


@pytest.fixture
def cage(tmp_path: Path) -> Iterator[Path]:
    """Where a canary sings: nothing may be there when a test ends."""
    place = tmp_path / "sang"
    yield place
    assert not place.exists(), "something that was planted ran"


def _joblib(bird: Canary) -> bytes:
    file = io.BytesIO()
    joblib.dump(bird, file)
    return file.getvalue()


def _npy(bird: Canary) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([bird], dtype=object), allow_pickle=True)
    return file.getvalue()


def _npz(bird: Canary) -> bytes:
    file = io.BytesIO()
    np.savez(file, X_train=np.array([bird], dtype=object))
    return file.getvalue()


def _torch(bird: Canary) -> bytes:
    file = io.BytesIO()
    torch.save(bird, file)
    return file.getvalue()


FORMS: dict[str, Callable[[Canary], bytes]] = {
    "pickle": pickle.dumps,
    "joblib": _joblib,
    "npy": _npy,
    "npz": _npz,
    "torch": _torch,
}
OPENERS: dict[str, Callable[[io.BytesIO], object]] = {
    "pickle": pickle.load,
    "joblib": joblib.load,
    "npy": lambda file: np.load(file, allow_pickle=True),
    "npz": lambda file: np.load(file, allow_pickle=True)["X_train"],
    "torch": lambda file: torch.load(file, weights_only=False),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_canary_can_sing(form: str, tmp_path: Path) -> None:
    """Without this none of the tests below could fail."""
    OPENERS[form](io.BytesIO(FORMS[form](Canary(tmp_path / "sang"))))
    assert (tmp_path / "sang").is_dir()


def plant(folder: Path, names: tuple[str, ...], cage: Path) -> None:
    """Put a canary under each name, in the form that its reader would expect."""
    forms = {".joblib": "joblib", ".npy": "npy", ".npz": "npz", ".pkl": "pickle", ".pickle": "pickle"}
    for name in names:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(FORMS[forms.get(place.suffix, "torch")](Canary(cage)))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def edit(path: Path, **changes: object) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


@pytest.fixture
def own_model(model: Model, tmp_path: Path) -> Model:
    """Return a copy of the model that may be harmed."""
    return Path(shutil.copytree(model, tmp_path / "model"))


@pytest.fixture
def artifact(trained: Trained, tmp_path: Path) -> Path:
    """Return a copy of the classifier that may be harmed."""
    return Path(shutil.copytree(trained.folder, tmp_path / "classifier"))


class Doors(NamedTuple):
    """Every way in which a model or an artifact that somebody sent is opened."""

    cli: Cli
    data: Path
    folder: Path

    def of_model(self, model: Path | str) -> dict[str, Callable[[], object]]:
        """Return what opens an encoder, by name; each raises, or returns what the command said."""
        new: dict[str, Any] = {"store": False, "model": str(model)}
        return {
            "inspect": lambda: self.cli("inspect", self.data, "-m", model, code=None),
            "extract": lambda: self.cli("extract", self.data, "-m", model, code=None),
            "fit-head": lambda: self.cli("fit-head", self.data, "-m", model, "-o", "out", code=None),
            "evaluate": lambda: self.cli("evaluate", self.folder, self.data, "-m", model, code=None),
            "predict": lambda: self.cli("predict", self.folder, "-m", model, "a film", code=None),
            "TextEncoder": lambda: TextEncoder(str(model)).fit_transform(["a film"]),
            "EmbeddingClassifier": lambda: EmbeddingClassifier(TextEncoder(str(model))).fit(
                ["a film", "b"] * 2, [0, 1] * 2
            ),
            "embedkit.load": lambda: embedkit.load(self.folder, **new).predict(["a film"]),
            "EmbeddingClassifier.load": lambda: EmbeddingClassifier.load(self.folder, **new).predict(["a film"]),
            "load_frozen": lambda: load_frozen(self.folder, model=str(model), store=False).predict(["a film"]),
        }

    def of_artifact(self, folder: Path) -> dict[str, Callable[[], object]]:
        """Return what opens an artifact, by name."""
        return {
            "evaluate": lambda: self.cli("evaluate", folder, self.data, code=None),
            "predict": lambda: self.cli("predict", folder, "a film", code=None),
            "fit-head --update": lambda: self.cli(
                "fit-head", self.data, "--update", folder, "-o", "new", "--overwrite", code=None
            ),
            "embedkit.load": lambda: embedkit.load(folder).predict(["a film"]),
            "EmbeddingClassifier.load": lambda: EmbeddingClassifier.load(folder).predict(["a film"]),
            "load_frozen": lambda: load_frozen(folder).predict(["a film"]),
        }


@pytest.fixture
def doors(cli: Cli, trained: Trained, tmp_path: Path) -> Doors:
    return Doors(cli, write_csv(tmp_path / "reviews.csv", rows(10)), trained.folder)


def told(door: Callable[[], object]) -> tuple[int, str]:
    """Go through a door; return the exit code, also of what Python raises, and what was said."""
    try:
        answer = door()
    except EmbedkitError as error:
        return error.exit_code, str(error)
    return (answer.code, answer.err) if isinstance(answer, Told) else (0, "")


# --------------------------------------------------------------------------- pickles: in data, models, artifacts

DATA_NAMES = (
    "d.pkl", "d.pickle", "d.joblib", "d.npy", "d.npz", "d.bin", "d.pt", "d.csv", "d.tsv", "d.jsonl", "d.json",
    "d.parquet", "d.arrow", "d.feather", "d.conll", "d.txt",
)  # fmt: skip


@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_a_pickle_given_as_data_is_never_opened(doors: Doors, tmp_path: Path, cage: Path, form: str) -> None:
    for name in DATA_NAMES:
        data = tmp_path / name
        data.write_bytes(FORMS[form](Canary(cage)))
        commands = [["inspect", data], ["predict", doors.folder, "--input", data]]
        if name in ("d.pkl", "d.npz", "d.parquet"):
            commands += [["extract", data], ["fit-head", data, "-o", "out"], ["evaluate", doors.folder, data]]
        for arguments in commands:
            assert doors.cli(*arguments, code=65).out == ""
        with pytest.raises(DataError):
            open_dataset(data)


def test_pickles_beside_the_splits_are_left_alone(cli: Cli, tmp_path: Path, cage: Path) -> None:
    write_csv(tmp_path / "data/train.csv", rows(6))
    plant(tmp_path / "data", ("train.pkl", "test.pkl", "valid.joblib", "dataset_dict.pkl", "cache.npz"), cage)
    assert list(cli("inspect", tmp_path / "data", "--json").json["splits"]) == ["train"]


@pytest.mark.parametrize("extension", ["parquet", "arrow"])
def test_a_column_type_that_would_unpickle_is_plain(cli: Cli, tmp_path: Path, cage: Path, extension: str) -> None:
    """CVE-2023-47248: Arrow's metadata may name a type whose description is a pickle."""
    metadata = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Canary(cage)),
    }
    schema = pa.schema([pa.field("text", pa.string(), metadata=metadata), pa.field("label", pa.string())])
    table = pa.table({"text": ["a", "b"], "label": ["x", "y"]}).cast(schema)
    data = tmp_path / f"d.{extension}"
    if extension == "parquet":
        pq.write_table(table, data)
    else:
        with pa.ipc.new_file(data, schema) as writer:
            writer.write_table(table)
    assert cli("inspect", data, "--json").json["splits"]["d"]["labels"] == {"x": 1, "y": 1}


MODEL_NAMES = (
    "pytorch_model.bin", "model.pt", "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth",
    "scaler.pt", "model_head.pkl", "head.joblib", "tokenizer.pkl", "vocab.pkl", "config.pkl", "adapter_model.bin",
    "1_Pooling/pytorch_model.bin", "2_Normalize/pytorch_model.bin", "2_Dense/pytorch_model.bin",
    "embeddings.npz", "embeddings.npy", "model.safetensors.bin", "consolidated.00.pth",
)  # fmt: skip


@pytest.mark.parametrize("tokenizer", ["as it is", "made by transformers"])
def test_pickles_in_a_model_folder_never_run(
    doors: Doors, own_model: Model, tmp_path: Path, cage: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: str
) -> None:
    """SetFit leaves its head there, a Trainer its arguments, older sentence-transformers their weights."""
    if tokenizer == "made by transformers":
        words = json.loads((own_model / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
        (own_model / "tokenizer.json").unlink()
        (own_model / "vocab.txt").write_text("\n".join(sorted(words, key=words.__getitem__)) + "\n", "utf-8")
    expected = FeatureExtractor(EncoderSettings(str(own_model))).transform(["a good film"]).vectors
    plant(own_model, MODEL_NAMES, cage)
    (own_model / "config_setfit.json").write_text("{}", "utf-8")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load was called"))
    again = FeatureExtractor(EncoderSettings(str(own_model))).transform(["a good film"]).vectors
    np.testing.assert_array_equal(again, expected)
    for name, door in doors.of_model(own_model).items():
        assert told(door)[0] in (0, 65), name  # 65: the tokenizer that transformers makes is another one


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "modules.json"])
def test_a_pickle_in_place_of_a_model_s_file_is_refused(
    doors: Doors, own_model: Model, cage: Path, form: str, name: str
) -> None:
    (own_model / name).write_bytes(FORMS[form](Canary(cage)))
    with pytest.raises(ModelError, match=re.escape(name)):
        FeatureExtractor(EncoderSettings(str(own_model)))
    code, said = told(doors.of_model(own_model)["predict"])
    assert (code, name in said) == (65, True)


ARTIFACT_NAMES = (
    "head.pkl", "head.joblib", "head.pickle", "head.npz", "head.npy", "model.joblib", "model_head.pkl", "head.bin",
    "pytorch_model.bin", "training_args.bin", "classifier.pkl", "labels.npy", "report/figures.pkl",
)  # fmt: skip


def test_pickles_in_an_artifact_never_run(doors: Doors, artifact: Path, cage: Path) -> None:
    expected = doors.cli("predict", artifact, "a film").out
    plant(artifact, ARTIFACT_NAMES, cage)
    for name, door in doors.of_artifact(artifact).items():
        code, said = told(door)
        assert code == 0 or "the store does not have the rows" in said, (name, said)
    assert doors.cli("predict", artifact, "a film").out == expected


@pytest.mark.parametrize("kind", ["pickle", "joblib", "sklearn", "skops", "npz", "torch"])
def test_a_manifest_that_asks_for_a_pickle_is_refused(doors: Doors, artifact: Path, cage: Path, kind: str) -> None:
    """Also where every digest is right."""
    plant(artifact, ("head.pkl", "head.joblib", "head.npz", "head.bin", "head.skops"), cage)
    manifest = json.loads((artifact / "embedkit.json").read_text("utf-8"))
    planted = [path.name for path in artifact.iterdir() if path.name.startswith("head.")]
    manifest["files"] |= {name: digest((artifact / name).read_bytes()) for name in planted}
    manifest["head"] |= {"kind": kind, "file": "head.pkl", "path": "head.pkl", "module": "os", "trusted": True}
    manifest["head_file"] = manifest["weights"] = "head.pkl"
    (artifact / "embedkit.json").write_text(json.dumps(manifest), "utf-8")
    for name, door in doors.of_artifact(artifact).items():
        code, said = told(door)
        assert code == 65, name
        assert "head" in said


@pytest.mark.parametrize("form", FORMS)
def test_a_pickle_in_place_of_the_head_is_refused_with_any_digest(
    doors: Doors, artifact: Path, cage: Path, form: str
) -> None:
    data = FORMS[form](Canary(cage))
    (artifact / "head.safetensors").write_bytes(data)
    code, said = told(doors.of_artifact(artifact)["load_frozen"])
    assert (code, "is not the file that was written" in said) == (65, True)
    files = json.loads((artifact / "embedkit.json").read_text("utf-8"))["files"]
    edit(artifact / "embedkit.json", files=files | {"head.safetensors": digest(data)})
    for name, door in doors.of_artifact(artifact).items():
        code, said = told(door)
        assert (code, "head.safetensors is damaged or no safetensors file" in said) == (65, True), name


class SkopsCanary(LogisticRegression):  # type: ignore[misc]
    """Reading this back with skops makes a folder."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        os.mkdir(state["cage"])  # noqa: PTH102 - as the other canary does


def _caged(cage: Path) -> SkopsCanary:
    bird = SkopsCanary()
    bird.cage = str(cage)
    return bird


def zipped(data: bytes, change: Callable[[str, bytes], bytes]) -> bytes:
    """Return a zip file with every member changed."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return file.getvalue()


def schema(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """Return a skops file whose description was changed."""

    def changed(name: str, content: bytes) -> bytes:
        if name != "schema.json":
            return content
        described = json.loads(content)
        change(described)
        return json.dumps(described).encode()

    return zipped(data, changed)


def first_step(step: object) -> bytes:
    """Return a skops file of a pipeline that is a classifier and begins with a step of somebody's own."""
    fitted = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    return bytes(skops.io.dumps(Pipeline([("a", step), ("b", fitted)])))


def _posing(described: dict[str, Any], **claims: str) -> None:
    described |= claims


CRAFTED: dict[str, Callable[[bytes, Path], bytes]] = {
    "a class of its own": lambda good, cage: skops.io.dumps(_caged(cage)),
    "a class of its own inside": lambda good, cage: first_step(_caged(cage)),
    "a function": lambda good, cage: first_step(FunctionTransformer(os.mkdir)),
    "a partial": lambda good, cage: first_step(FunctionTransformer(functools.partial(os.mkdir, str(cage)))),
    "a method": lambda good, cage: first_step(FunctionTransformer(_caged(cage).__setstate__)),
    "an operator": lambda good, cage: first_step(FunctionTransformer(operator.methodcaller("mkdir"))),
    "a reader of files": lambda good, cage: first_step(FunctionTransformer(np.load)),
    "a class by another's name": lambda good, cage: schema(
        skops.io.dumps(_caged(cage)), lambda s: _posing(s, __class__="LogisticRegression")
    ),
    "a function by a class's name": lambda good, cage: schema(
        good, lambda s: _posing(s, __class__="mkdir", __module__="posix", __loader__="FunctionNode")
    ),
    "a loader that is none": lambda good, cage: schema(good, lambda s: _posing(s, __loader__="JoblibNode")),
    "a module that speaks when it is imported": lambda good, cage: schema(
        good, lambda s: _posing(s, __class__="x", __module__="this")
    ),
    "another protocol": lambda good, cage: schema(skops.io.dumps(_caged(cage)), lambda s: s.update(protocol=-1)),
    "types that it trusts itself": lambda good, cage: schema(
        skops.io.dumps(_caged(cage)), lambda s: s.update(trusted=True, trusted_types=["tests.test_security"])
    ),
    "pickles for arrays": lambda good, cage: zipped(
        good, lambda name, data: _npy(Canary(cage)) if name.endswith(".npy") else data
    ),
    "a nested description": lambda good, cage: zipped(
        good, lambda name, data: BOMB if name == "schema.json" else data
    ),
    "no description": lambda good, cage: zipped(good, lambda name, data: b"{}" if name == "schema.json" else data),
    "half a file": lambda good, cage: good[: len(good) // 2],
    "no classifier": lambda good, cage: skops.io.dumps(LinearRegression()),
    **{form: (lambda good, cage, form=form: FORMS[form](Canary(cage))) for form in FORMS},
}


@pytest.fixture(scope="session")
def hist_gb(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a classifier whose head is kept by skops."""
    folder = tmp_path_factory.mktemp("skops") / "classifier"
    model = json.loads((trained.folder / "embedkit.json").read_text("utf-8"))["encoder"]["settings"]["model"]
    arguments = ["-m", model, "-o", folder, "--store", trained.store, "--clf", "hist-gb", "--quiet"]
    assert main(["fit-head", str(trained.data), *map(str, arguments)]) == 0
    assert (folder / "head.skops").is_file()
    return folder


def test_the_canary_of_skops_can_sing(tmp_path: Path) -> None:
    data = skops.io.dumps(_caged(tmp_path / "sang"))
    skops.io.loads(data, trusted=skops.io.get_untrusted_types(data=data))
    assert (tmp_path / "sang").is_dir()


@pytest.mark.parametrize("kind", CRAFTED)
def test_a_crafted_skops_file_is_refused_with_any_digest(
    doors: Doors, hist_gb: Path, tmp_path: Path, cage: Path, kind: str
) -> None:
    folder = Path(shutil.copytree(hist_gb, tmp_path / "crafted"))
    good = (folder / "head.skops").read_bytes()
    data = CRAFTED[kind](good, cage)
    (folder / "head.skops").write_bytes(data)
    code, said = told(doors.of_artifact(folder)["load_frozen"])
    assert (code, "head.skops is not the file that was written" in said) == (65, True)
    files = json.loads((folder / "embedkit.json").read_text("utf-8"))["files"]
    edit(folder / "embedkit.json", files=files | {"head.skops": digest(data)})
    every = doors.of_artifact(folder)
    for name in every if kind == "a class of its own" else ("predict", "embedkit.load"):
        code, said = told(every[name])
        assert (code, "head.skops" in said) == (65, True), (name, said)
    assert "this" not in sys.modules


@pytest.mark.filterwarnings("default")
def test_what_a_skops_file_says_of_its_version_cannot_steer_the_terminal(
    doors: Doors, hist_gb: Path, tmp_path: Path
) -> None:
    """scikit-learn quotes it in a warning."""
    folder = Path(shutil.copytree(hist_gb, tmp_path / "crafted"))
    version = json.dumps(sklearn.__version__)[1:-1].encode()
    content = json.dumps("1.0\x1b[31m\u202e")[1:-1].replace("\\", "\\\\").encode()
    data = zipped(
        (folder / "head.skops").read_bytes(),
        lambda name, data: data.replace(version, content) if name == "schema.json" else data,
    )
    (folder / "head.skops").write_bytes(data)
    manifest = json.loads((folder / "embedkit.json").read_text("utf-8"))
    manifest["head"]["scikit-learn"] = "1.0\x1b[31m"
    edit(folder / "embedkit.json", head=manifest["head"], files=manifest["files"] | {"head.skops": digest(data)})
    told = doors.cli("predict", folder, "a film")
    assert "1.0\\x1b[31m" in told.err
    assert not RAW.search(told.out + told.err)


def test_pickles_in_the_store_never_run(cli: Cli, model: Model, tmp_path: Path, cage: Path) -> None:
    """Neither beside the shards nor under a shard's name, with the size and the place that the name says."""
    data = write_csv(tmp_path / "reviews.csv", rows(6))
    cli("extract", data, "-m", model, "-o", "before.npz")
    (space,) = FeatureStore(tmp_path / "store").spaces()
    folder = tmp_path / "store/v1" / space.id
    plant(folder, ("shards/x.pkl", "shards/x.npy", "parts/x.joblib", "space.pkl"), cage)
    plant(tmp_path / "store", ("tokenizers/x.pkl", "v1/memo.pkl"), cage)
    (shard,) = folder.glob("shards/*.arrow")
    when, count, _, _ = shard.stem.split("-")
    data_of_shard = pickle.dumps(Canary(cage))
    import xxhash

    shard.unlink()
    named = f"{when}-{count}-{len(data_of_shard)}-{xxhash.xxh3_128_hexdigest(data_of_shard)}.arrow"
    (folder / "shards" / named).write_bytes(data_of_shard)
    told = cli("extract", data, "-m", model, "-o", "after.npz", "--json")
    assert told.json["computed"] == 6
    assert "damaged shard" in told.err
    assert Path("before.npz").read_bytes() == Path("after.npz").read_bytes()
    for arguments in (["info"], ["verify"], ["gc", "--older-than", "0s", "--delete"], ["purge", "--yes"]):
        cli("cache", *arguments, "--json")


# ------------------------------------------------------------------- torch.load, and weights that are no weights


@pytest.mark.parametrize("door", ["inspect", "extract", "fit-head", "predict", "embedkit.load", "TextEncoder"])
def test_pickled_weights_are_refused_without_opening_them(
    doors: Doors, own_model: Model, cage: Path, monkeypatch: pytest.MonkeyPatch, door: str
) -> None:
    (own_model / "model.safetensors").unlink()
    plant(own_model, ("pytorch_model.bin",), cage)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load was called"))
    code, said = told(doors.of_model(own_model)[door])
    assert code == 65
    assert "pickled weights are not loaded" in said


def test_an_index_cannot_name_a_file_that_torch_would_open(
    own_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers opens what does not end in .safetensors with torch.load, whatever use_safetensors says."""
    (own_model / "model.safetensors").rename(own_model / "weights.bin")
    with safe_open(own_model / "weights.bin", "np") as file:
        listed = dict.fromkeys(file.keys(), "weights.bin")
    index = {"metadata": {}, "weight_map": listed}
    (own_model / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    asked: list[object] = []
    monkeypatch.setattr(torch, "load", lambda *given, **_: asked.append(given))
    with pytest.raises(ModelError):
        FeatureExtractor(EncoderSettings(str(own_model))).transform(["a film"])
    assert asked == []


def test_a_configuration_cannot_name_other_weights(tmp_path: Path) -> None:
    """transformers would load them, while the feature space is named for model.safetensors."""
    folder, other = make_encoder(tmp_path / "m", "bert"), make_encoder(tmp_path / "other", "bert", seed=5)
    shutil.copyfile(other / "model.safetensors", folder / "other.safetensors")
    edit(folder / "config.json", transformers_weights="other.safetensors")
    with pytest.raises(ModelError, match="transformers_weights"):
        FeatureExtractor(EncoderSettings(str(folder))).transform(["a film"])


def test_an_adapter_in_the_folder_is_refused(own_model: Model) -> None:
    """Where the package peft is installed, transformers would load it on top, and no digest would tell."""
    (own_model / "adapter_config.json").write_text('{"base_model_name_or_path": "a/b", "peft_type": "LORA"}')
    with pytest.raises(ModelError, match=r"adapter_config\.json"):
        FeatureExtractor(EncoderSettings(str(own_model)))


# -------------------------------------------------------------------------------------- code that a model brings

SINGING = "import os\nos.mkdir({!r})\n\n\nclass Canary:\n    pass\n\n\nPooling = Transformer = Model = Canary\n"


@pytest.fixture
def trapped(own_model: Model, cage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """Return a model whose every file that can name code names some, importable from the path too."""
    (tmp_path / "site").mkdir()
    for folder in (own_model, tmp_path / "site"):
        for name in ("canary_code", "modeling_canary", "configuration_canary", "tokenization_canary"):
            (folder / f"{name}.py").write_text(SINGING.format(str(cage)), "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    classes = {"AutoConfig": "configuration_canary.Canary", "AutoModel": "modeling_canary.Canary"}
    edit(own_model / "config.json", auto_map=classes, custom_pipelines={"x": {"impl": "canary_code.Canary"}})
    listed = {"AutoTokenizer": ["tokenization_canary.Canary", "tokenization_canary.Canary"]}
    edit(own_model / "tokenizer_config.json", auto_map=listed)
    return own_model


MODULES = {
    "a module that is a file in the folder": lambda m: m[1].update(type="canary_code.Pooling"),
    "a first module that is a file in the folder": lambda m: m[0].update(type="canary_code.Transformer"),
    "a module behind the last": lambda m: m.append(
        {"idx": 9, "name": "9", "path": "", "type": "canary_code.Canary"}
    ),
    "a module of the hub": lambda m: m[1].update(type="evil/repo--canary_code.Pooling"),
    "no custom module": lambda m: None,
}


@pytest.mark.parametrize("harm", MODULES)
def test_code_in_a_model_folder_never_runs(doors: Doors, trapped: Model, cage: Path, harm: str) -> None:
    modules = json.loads((trapped / "modules.json").read_text("utf-8"))
    MODULES[harm](modules)  # type: ignore[no-untyped-call]
    (trapped / "modules.json").write_text(json.dumps(modules), "utf-8")
    for name, door in doors.of_model(trapped).items():
        code, said = told(door)
        assert code in (0, 2, 65), (name, said)
        if name in ("extract", "fit-head", "TextEncoder"):  # the others name a pooling, or only count tokens
            assert (code == 0) == (harm == "no custom module"), (name, said)
    assert "canary_code" not in sys.modules


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_an_unknown_family_never_runs(doors: Doors, trapped: Model, cage: Path, file: str) -> None:
    """Here transformers knows no class of its own, and would ask whether to trust the folder's."""
    if file == "config.json":
        edit(trapped / file, model_type="canary", architectures=["Canary"])
    else:
        edit(trapped / file, tokenizer_class="Canary")
        (trapped / "tokenizer.json").unlink()
        (trapped / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nfilm\n", "utf-8")
    for name, door in doors.of_model(trapped).items():
        assert told(door)[0] in ((65,) if name != "inspect" else (0, 65)), name


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize("kernel", ["evil/kernel", "kernels-community/flash-attn2"])
def test_a_configuration_cannot_ask_for_a_kernel_of_the_hub(own_model: Model, key: str, kernel: str) -> None:
    """Where the package kernels is installed, transformers would download it and run it."""
    edit(own_model / "config.json", **{key: kernel})
    with pytest.raises(ModelError, match=key):
        FeatureExtractor(EncoderSettings(str(own_model)))


def test_settings_in_a_manifest_import_nothing(doors: Doors, artifact: Path, trapped: Model) -> None:
    """The name of a head's class is a word about the past, not a place to import from."""
    for clf in ("sklearn:canary_code.Canary", "canary_code.Canary", "sklearn:..canary_code.Canary"):
        edit(artifact / "embedkit.json", head_settings={"clf": clf, "scale": "auto", "params": {}})
        for door in doors.of_artifact(artifact).values():
            assert told(door)[0] in (0, 65)
        doors.cli("fit-head", doors.data, "--clf", clf, "-o", "o", code=2)
    assert "canary_code" not in sys.modules


# --------------------------------------------------------------------------------------- the package's own calls

FILES = sorted((ROOT / "embedkit").rglob("*.py"))
# Modules that run what they read, or run programs.
BANNED_MODULES = frozenset(
    {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve", "subprocess", "pty", "runpy",
     "code", "codeop", "yaml", "tarfile", "ctypes", "jinja2"}
)  # fmt: skip
BANNED_CALLS = frozenset(
    {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "joblib.load", "joblib.dump", "torch.load",
     "torch.hub.load", "torch.jit.load", "numpy.load", "numpy.loads", "numpy.fromfile", "pandas.read_pickle",
     "pandas.read_csv", "shutil.unpack_archive", "importlib.machinery.SourceFileLoader",
     "importlib.util.spec_from_file_location"}
)  # fmt: skip
TAKES_TRUST = frozenset({"from_pretrained", "from_config", "pipeline", "SentenceTransformer", "CrossEncoder"})


def _names(tree: ast.AST) -> dict[str, str]:
    """Return what names of a file stand for: ``np`` for ``numpy``, ``load`` for ``joblib.load``."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {
                a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0] for a in node.names
            }
        elif isinstance(node, ast.ImportFrom):
            found |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return found


def _dotted(node: ast.expr, names: dict[str, str]) -> str:
    """Return the full name of what is called; "" for what is no name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, names)}.{node.attr}"
    return ""


def _is_false(call: ast.Call, keyword: str) -> bool:
    given = [k.value for k in call.keywords if k.arg == keyword]
    return len(given) == 1 and isinstance(given[0], ast.Constant) and given[0].value is False


def unsafe(source: str) -> list[str]:
    """Return the calls and imports of a file that could run what somebody else wrote."""
    tree = ast.parse(source)
    names = _names(tree)
    found = [name for name in names.values() if name.split(".")[0] in BANNED_MODULES]
    found += [name for name in names.values() if name in BANNED_CALLS]
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = _dotted(call.func, names)
        keywords = {k.arg: k.value for k in call.keywords}
        if name in BANNED_CALLS or re.match(r"os\.(exec|spawn|posix_spawn)", name):
            found.append(name)
        if name.rpartition(".")[2] in TAKES_TRUST and not _is_false(call, "trust_remote_code"):
            found.append(f"{name} without trust_remote_code=False")
        if "trust_remote_code" in keywords and not _is_false(call, "trust_remote_code"):
            found.append(f"{name} with trust_remote_code")
        if "allow_pickle" in keywords and not _is_false(call, "allow_pickle"):
            found.append(f"{name} with allow_pickle")
        if name.startswith("transformers.AutoModel") and not {"use_safetensors", "local_files_only"} <= set(
            keywords
        ):
            found.append(f"{name} that may open other weights, or download")
        if re.match(r"skops\.(io\.)?loads?$", name) and not _is_constant(keywords.get("trusted"), tree):
            found.append(f"{name} whose trusted types are no constant of the file")
    return sorted(set(found))


def _is_constant(node: ast.expr | None, tree: ast.Module) -> bool:
    """Whether an expression is a module's tuple of strings, or a list of it."""
    if isinstance(node, ast.Call) and _dotted(node.func, {}) == "list" and len(node.args) == 1:
        node = node.args[0]
    tuples = {
        target.id
        for statement in tree.body
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Tuple)
        for target in statement.targets
        if isinstance(target, ast.Name) and all(isinstance(item, ast.Constant) for item in statement.value.elts)
    }
    return isinstance(node, ast.Name) and node.id in tuples


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_call_of_the_package_runs_what_others_wrote(path: Path) -> None:
    assert unsafe(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from cloudpickle import loads",
        "from joblib import load",
        "import joblib\njoblib.load('x')",
        "import numpy as np\nnp.load('x')",
        "import numpy as np\nnp.save(f, a, allow_pickle=True)",
        "import numpy as np\nnp.lib.format.read_array(f, allow_pickle=x)",
        "import torch\ntorch.load('x', weights_only=True)",
        "from torch import load as t\nt('x')",
        "eval('1')",
        "exec(x)",
        "__import__(x)",
        "import os\nos.system(x)",
        "import os\nos.execv(x)",
        "import subprocess",
        "import yaml\nyaml.load(x)",
        "from transformers import AutoModel as A\nA.from_pretrained(x)",
        "A.from_config(x, trust_remote_code=flag)",
        "A.from_pretrained(x, trust_remote_code=None)",
        "from transformers import AutoModel\nAutoModel.from_pretrained(x, trust_remote_code=False)",
        "f(trust_remote_code=True)",
        "from skops.io import loads\nloads(data, trusted=get_untrusted_types(data=data))",
        "from skops.io import loads\nloads(data)",
        "import skops.io as s\nTRUSTED = tuple(x)\ns.load(f, trusted=TRUSTED)",
    ],
)
def test_the_look_at_the_calls_can_fail(source: str) -> None:
    assert unsafe(source)


def test_the_look_at_the_calls_lets_through_what_is_safe() -> None:
    assert not unsafe(
        "from transformers import AutoModel\nfrom skops.io import loads\nfrom joblib import Parallel\n"
        "TRUSTED = ('a.b', 'c')\nmodel.eval()\nloads(data, trusted=list(TRUSTED))\n"
        "AutoModel.from_pretrained(x, trust_remote_code=False, use_safetensors=True, local_files_only=True)\n"
    )


# ----------------------------------------------------------------------- names and paths that become no download


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """Return the hosts that somebody tried to reach, although there is no offline mode that would stop it."""
    hosts: list[str] = []

    def getaddrinfo(host: object, *_: object, **__: object) -> None:
        hosts.append(str(host))
        raise socket.gaierror(socket.EAI_FAIL, "blocked")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    huggingface_hub.close_session()
    yield hosts
    huggingface_hub.close_session()


PATHS = [
    "./missing",
    "../missing",
    "/missing/x",
    "~/missing",
    "~nobody-here/x",
    "C:\\missing",
    "a\\b",
    "a/b/c",
    "x/",
]


@pytest.mark.parametrize("name", [*PATHS, "..", ".", "~"])
def test_a_path_never_becomes_a_download(
    doors: Doors, artifact: Path, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    absent = name in PATHS
    for door, enter in doors.of_model(name).items():
        code, said = told(enter)
        assert code == (66 if absent else 65), (door, said)
    for command in (["inspect", name], ["extract", name], ["fit-head", name, "-o", "o"]):
        assert doors.cli(*command, code=None).code == (66 if absent else 65)
    for command in (
        ["predict", doors.folder, "--input", name],
        ["predict", name, "x"],
        ["evaluate", name, doors.data],
    ):
        assert doors.cli(*command, code=None).code in ((66,) if absent else (2, 65, 66))
    settings = json.loads((artifact / "embedkit.json").read_text("utf-8"))["encoder"]
    settings["settings"]["model"] = name
    edit(artifact / "embedkit.json", encoder=settings)
    for door, enter in doors.of_artifact(artifact).items():
        assert told(enter)[0] == (66 if absent else 65), door
    assert asked == []


@pytest.mark.parametrize(
    "address",
    ["hf:../x", "hf:./x", "hf:/etc/x", "hf:~/x", "hf:C:\\x", "hf:a\\b", "hf:a/../b", "hf:a..b/c", "hf:a b/c",
     "hf:http://x/y", "hf:s3://x/y", "hf:x::y"],
)  # fmt: skip
def test_an_address_of_a_data_set_is_no_path(cli: Cli, asked: list[str], tmp_path: Path, address: str) -> None:
    """`datasets` would take some of these for places on this disk."""
    write_csv(tmp_path / "x/train.csv", rows(4))
    assert "is not a data set's address" in cli("inspect", address, code=2).err
    assert asked == []


@pytest.mark.parametrize("name", ["pandas", "csv", "json", "text", "parquet", "webdataset", "pandas/x"])
def test_a_format_is_no_data_set_of_the_hub(
    cli: Cli, asked: list[str], cage: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """`datasets` would read what lies in the current folder, and in older releases unpickle it."""

    def load(name: str, config: str | None, *, revision: str | None) -> None:
        if name == "pandas/x":  # as owner and name it may be one
            raise datasets.exceptions.DatasetNotFoundError(name)
        pytest.fail(f"{name} was loaded")

    monkeypatch.setattr(datasets, "load_dataset", load)
    plant(Path.cwd(), ("train.pkl", "test.pkl"), cage)
    write_csv(Path("train.csv"), rows(4))
    assert "is a format, no data set of the hub" in cli("inspect", f"hf:{name}", code=2).err
    assert asked == []


def test_the_tripwire_trips(asked: list[str]) -> None:
    with pytest.raises(EmbedkitError, match="cannot be reached"):
        resolve_model("owner/name")
    assert asked


# ------------------------------------------------------------------------------- labels that would be file names

LABELS = [
    "../../x", "/etc/x", "a/b", "..", ".", "~", "CON", "nul\0x", "C:\\x", "$HOME", "`id`", "-rf", "x" * 3000,
    "embedkit.json", "head.safetensors", "{0.__class__}", "%s%n", "=1+1",
]  # fmt: skip


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


REPORT = {
    "metrics.json",
    *(f"report/{n}" for n in ("classification_report.txt", "confusion_matrix.png", "errors.csv")),
}


def test_labels_shape_no_file_name(cli: Cli, model: Model, tmp_path: Path) -> None:
    table = [{"text": f"{text(i)} {label}", "label": label} for i in range(5) for label in LABELS]
    data = write_jsonl(tmp_path / "d.jsonl", table)
    cli("fit-head", data, "-m", model, "-o", "out")
    cli("evaluate", "out", data, "-o", "judged")
    for name in ("f.parquet", "f.npz", "f.safetensors"):
        cli("extract", data, "-m", model, "-o", name)
    answers = [set(answer["scores"]) for answer in cli("predict", "out", "a", "b").lines]
    assert answers == [set(LABELS)] * 2
    ours = {"embedkit.json", "head.safetensors", *REPORT}
    outside = {path for path in tree(tmp_path) if not path.startswith("store/")}
    assert outside == {
        "d.jsonl",
        *(f"work/out/{name}" for name in ours),
        *(f"work/judged/{name}" for name in ("embedkit.json", *REPORT)),
        *(f"work/f.{name}" for name in ("parquet", "npz", "safetensors")),
    }
    with zipfile.ZipFile("f.npz") as file:
        assert set(file.namelist()) == {"X_d.npy", "y_d.npy", "label_names.npy"}
    with safe_open("f.safetensors", "np") as file:
        assert set(file.keys()) == {"X_d", "y_d"}
    with np.load("f.npz", allow_pickle=False) as arrays:
        assert set(arrays["label_names"]) == set(LABELS)


@pytest.mark.parametrize("stem", ["..", "a\\b", "-x", "con", " ", "\u202ex"])
def test_a_file_s_name_shapes_no_member_of_an_archive(cli: Cli, model: Model, stem: str) -> None:
    data = write_csv(Path(f"{stem}.csv"), rows(4))
    cli("extract", f"./{data}", "-m", model, "-o", "out.npz")
    with zipfile.ZipFile("out.npz") as file:
        for member in file.namelist():
            assert re.fullmatch(r"(X|y)_[^/\\.]+\.npy|label_names\.npy", member)


# --------------------------------------------------------------------------------------------- data that explode


SETTINGS = (
    "config.json", "modules.json", "tokenizer.json", "tokenizer_config.json", "sentence_bert_config.json",
    "config_sentence_transformers.json", "1_Pooling/config.json", "special_tokens_map.json",
)  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(
    "bomb", [BOMB, b'{"a":' * 50_000, b"9" * 10_000, b'{"a": NaN', b"\xff\xfe", b"null", b"3"]
)
def test_a_model_s_settings_that_are_none_are_refused(own_model: Model, name: str, bomb: bytes) -> None:
    (own_model / name).write_bytes(bomb)
    with pytest.raises(ModelError):
        FeatureExtractor(EncoderSettings(str(own_model)))


def test_a_nested_list_of_modules_of_the_hub_is_refused(tmp_path: Path) -> None:
    from embedkit.hub import _module_folders

    (tmp_path / "modules.json").write_bytes(BOMB)
    with pytest.raises(ModelError, match=r"modules\.json of the hub model a/b is damaged"):
        _module_folders(tmp_path / "modules.json", "a/b")


@pytest.mark.parametrize(
    "metadata",
    [
        BOMB,
        b"{",
        b"null",
        b'{"info": {"features": [1]}}',
        *(
            json.dumps({"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}}).encode()
            for names in ([1, 2], [["x"], ["y"]], {"x": 1}, "xy", 5, [], [None], True)
        ),
    ],
)
def test_label_names_of_a_file_s_metadata_that_are_none_are_left_alone(
    cli: Cli, tmp_path: Path, metadata: bytes
) -> None:
    table = pa.table({"text": ["a", "b"], "label": ["x", "y"]}).replace_schema_metadata({b"huggingface": metadata})
    pq.write_table(table, tmp_path / "d.parquet")
    assert cli("inspect", tmp_path / "d.parquet", "--json").json["splits"]["d"]["labels"] == {"x": 1, "y": 1}


@pytest.mark.parametrize("other", ["8", "pos"])
def test_labels_of_thousands_of_digits_are_labels(cli: Cli, model: Model, tmp_path: Path, other: str) -> None:
    """Python refuses to read numbers of more than 4,300 digits."""
    table = [{"text": text(i), "label": ("9" * 5000, other)[i % 2]} for i in range(20)]
    cli("fit-head", write_csv(tmp_path / "d.csv", table), "-m", model, "-o", "out")
    (answer,) = cli("predict", "out", "a").lines
    assert set(answer["scores"]) == {"9" * 5000, other}


def test_a_field_of_a_megabyte_goes_the_whole_way(cli: Cli, model: Model, tmp_path: Path) -> None:
    table = [
        {**row, "text": row["text"] + " good" * 200_000 if row["id"] == 3 else row["text"]} for row in rows(10)
    ]
    told = cli("fit-head", write_csv(tmp_path / "d.csv", table), "-m", model, "-o", "out")
    assert "1 of 10 inputs have more than 64 tokens" in told.err
    assert len(told.err) < 1000


# ------------------------------------------------------------------------------ terminals, logs and spreadsheets

ESCAPES = {"ESC": "\x1b[31m", "CR": "\r", "CSI": "\x9b2J", "bidi": "\u202e", "BEL": "\x07", "LS": "\u2028"}
RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")


@pytest.mark.parametrize("flags", [[], ["--debug"]], ids=" ".join)
@pytest.mark.parametrize("name", ESCAPES)
def test_names_cannot_steer_the_terminal_also_in_tracebacks(
    doors: Doors, model: Model, trained: Trained, name: str, flags: list[str]
) -> None:
    """Files, folders, models, artifacts, stores, splits, columns and labels that are absent or damaged."""
    evil = f"{ESCAPES[name]}x"
    shutil.copytree(trained.folder, evil)
    damaged = Path(shutil.copytree(model, f"{evil}model"))
    (damaged / "config.json").write_bytes(BOMB)
    data = write_jsonl(Path(f"{evil}.jsonl"), [{"text": "a", evil: [evil], "label": evil}] * 3)
    Path(f"{evil}/head.safetensors").write_bytes(b"")
    store = Path(f"{evil}store")
    store.write_text("a file")
    for arguments, code in {
        ("inspect", f"{evil}.csv"): 66,
        ("inspect", data, "--label-column", f"{evil}y"): 65,
        ("inspect", data, "--task", evil): 2,
        ("inspect", data, f"--{evil}"): 2,
        ("inspect", data, "-m", damaged): 65,
        ("fit-head", data, "-o", "o"): 65,
        ("fit-head", data, "-m", f"./{evil}m", "-o", "o"): 65,
        ("fit-head", doors.data, "-o", evil): 2,
        ("fit-head", doors.data, "-o", "o", "-m", model, "--positive-label", evil): 2,
        ("fit-head", doors.data, "-o", "o", "-m", model, "--prompt", evil, "--clf-param", evil): 2,
        ("extract", doors.data, "-m", f"./{evil}m"): 66,
        ("extract", doors.data, "-m", damaged): 65,
        ("extract", doors.data, "-m", model, "--store", store): 74,
        ("predict", f"./{evil}", "x"): 65,
        ("predict", f"./{evil}y", "x"): 66,
        ("evaluate", f"./{evil}", doors.data): 65,
        ("evaluate", doors.folder, doors.data, "--split", evil): 2,
        ("cache", "info", "--store", store): 74,
        ("cache", "gc", "--space", evil, "--max-size", evil): 2,
    }.items():
        told = doors.cli(*arguments, *flags, code=code)
        assert not RAW.search(told.out + told.err), arguments
        assert told.err.splitlines()[-1].startswith("embedkit")


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """Return what every logger says at every level, also those of other libraries."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    loggers = [logging.getLogger(), logging.getLogger("embedkit")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    yield stream
    for logger, level in zip(loggers, levels, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)


def test_no_text_is_logged_at_any_level(
    cli: Cli, model: Model, tmp_path: Path, logged: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_csv(tmp_path / "d.csv", [*rows(20), {**rows(1)[0], "label": "pos"}])
    logging.getLogger("embedkit.test").debug("it listens")
    said = ""
    for arguments in (
        ["extract", data, "-m", model, "-o", "f.parquet"],
        ["fit-head", data, "-m", model, "-o", "out", "--max-length", "5"],
        ["evaluate", "out", data, "-o", "judged"],
        ["predict", "out", "--input", data],
        ["predict", "out", text(3)],
        ["cache", "verify"],
    ):
        told = cli(*arguments)
        said += told.err
    EmbeddingClassifier(TextEncoder(str(model))).fit([text(i) for i in range(8)], [0, 1] * 4).predict([text(9)])
    assert "it listens" in logged.getvalue()
    assert CANARY not in logged.getvalue()
    assert CANARY not in said
    monkeypatch.setattr("embedkit.encoders.FeatureExtractor.encoder", lambda self, *_, **__: test_cli.Broken())
    failed = cli("predict", "out", text(99), "--debug", "--no-store", code=65)  # its traceback too
    assert "row 1: the encoder gave a vector that is not finite" in failed.err
    assert CANARY not in failed.err + logged.getvalue()


def test_spreadsheets_get_no_formula_on_any_route(cli: Cli, model: Model, tmp_path: Path) -> None:
    """Of the CSV files the list of wrong rows alone holds what others wrote; JSON lines keep texts as they are."""
    formula = '=HYPERLINK("http://x","y")'
    table = [{"text": f"{formula} {text(i)}", "label": ("=1+1", "@a", "+b", "-5")[i // 2 % 4]} for i in range(40)]
    data = write_csv(tmp_path / "d.csv", table)
    cli("fit-head", data, "-m", model, "-o", "out", "--clf", "dummy")
    cli("evaluate", "out", data, "-o", "judged")
    for path in (Path("out/report/errors.csv"), Path("judged/report/errors.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            head, *lines = csv.reader(file)
        assert lines
        cells = [cell for line in lines for cell in line]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
        assert {line[head.index("true")] for line in lines} <= {"'=1+1", "'@a", "'+b", "'-5"}
    assert not list(Path.cwd().rglob("*.html"))
    (answer,) = cli("predict", "out", formula).lines
    assert "=1+1" in answer["scores"]


# -------------------------------------------------------------------------------------------------------- tokens

SECRET = "hf_" + "Ab1" * 10
ADDRESS = f"https://me:pass-{'w' * 12}@hub.example/m"
PASSWORD = f"pass-{'w' * 12}"


def secrets_in(folder: Path) -> list[str]:
    """Return the files below a folder that hold a secret."""
    wanted = (SECRET.encode(), PASSWORD.encode())
    return [
        str(path) for path in folder.rglob("*") if path.is_file() and any(w in path.read_bytes() for w in wanted)
    ]


def test_tokens_of_the_environment_are_written_nowhere(
    cli: Cli, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: io.StringIO
) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("HF_ENDPOINT", ADDRESS)
    monkeypatch.setenv("HTTPS_PROXY", ADDRESS)
    data = write_csv(tmp_path / "d.csv", rows(20))
    said = ""
    for arguments, code in (
        (["fit-head", data, "-m", model, "-o", "out", "--json"], 0),
        (["evaluate", "out", data, "-o", "judged", "--json"], 0),
        (["extract", data, "-m", model, "-o", "f.parquet"], 0),
        (["predict", "out", "a film"], 0),
        (["extract", data, "-m", "owner/not-cached", "--debug"], 66),
        (["inspect", "hf:owner/not-cached", "--debug"], 66),
        (["predict", "out", "x", "-m", "owner/not-cached", "--debug"], 66),
    ):
        told = cli(*arguments, code=code)
        said += told.out + told.err
    assert "Traceback" in said
    assert tree(Path("out")) == {"embedkit.json", "head.safetensors", *REPORT}
    assert secrets_in(tmp_path) == []
    assert not [secret for secret in (SECRET, PASSWORD) if secret in said + logged.getvalue()]


@pytest.mark.parametrize("flags", [[], ["--debug"]], ids=" ".join)
def test_secrets_in_arguments_and_crashes_are_masked(
    doors: Doors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    for arguments in (
        ["extract", doors.data, "-m", SECRET],
        ["extract", doors.data, "-m", ADDRESS],
        ["extract", doors.data, "-m", f"./{SECRET}"],
        ["inspect", f"{ADDRESS}/d.csv"],
        ["inspect", f"hf:{SECRET}"],
        ["inspect", SECRET],
        ["inspect", doors.data, "--token", SECRET],
        ["predict", SECRET, "x"],
        ["predict", doors.folder, "--input", ADDRESS],
        ["fit-head", doors.data, "-o", "o", "--clf", SECRET],
        ["cache", "info", "--store", tmp_path / "d" / SECRET],
    ):
        told = doors.cli(*arguments, *flags, code=None)
        assert not [secret for secret in (SECRET, PASSWORD) if secret in told.err], arguments

    def broken(*_: object, **__: object) -> None:
        try:
            raise OSError(f"401 for {ADDRESS}?token={SECRET}")
        except OSError as error:
            raise RuntimeError(f"token {SECRET}\x1b[31m") from error

    monkeypatch.setattr("embedkit.data.open_dataset", broken)
    told = doors.cli("inspect", doors.data, *flags, code=70)
    assert ("Traceback" in told.err) == bool(flags)
    assert not [secret for secret in (SECRET, PASSWORD, "\x1b") if secret in told.err]
    assert secrets_in(tmp_path) == []


# ---------------------------------------------------------------------------------- the store, through the doors


@pytest.mark.parametrize("planted", ["root", "v1", "space", "shards", "shard", "parts", "tokenizers", "rows"])
def test_links_planted_in_the_store_leave_their_targets_alone(
    cli: Cli, model: Model, trained: Trained, tmp_path: Path, planted: str
) -> None:
    """No command writes to, removes from or sets aside what a link leads to."""
    data, more = trained.data, write_csv(tmp_path / "e.csv", rows(20, 50))
    theirs = Path(shutil.copytree(trained.store, tmp_path / "theirs"))
    (space,) = (path for path in (theirs / "v1").iterdir() if len(path.name) == 32)
    (theirs / "tokenizers").mkdir(exist_ok=True)
    shard = min(space.glob("shards/*.arrow"))
    places = {"root": theirs, "v1": theirs / "v1", "space": space, "shards": space / "shards", "shard": shard}
    places |= {"parts": space / "parts", "tokenizers": theirs / "tokenizers", "rows": theirs / "v1/rows"}
    relative = places[planted].relative_to(theirs)
    root = tmp_path / "store"
    if planted == "root":
        root.symlink_to(theirs)
    else:
        if planted in ("parts", "shard", "rows"):  # an otherwise healthy store of ours
            cli("extract", more, "-m", model)
            shutil.rmtree(root / relative, ignore_errors=True)
        (root / relative).parent.mkdir(parents=True, exist_ok=True)
        (root / relative).symlink_to(theirs / relative)
    before = {p: (p.lstat().st_mtime_ns, p.lstat().st_mode, p.lstat().st_size) for p in theirs.rglob("*")}
    for arguments in (
        ["extract", data, "-m", model],
        ["extract", more, "-m", model],
        *[["fit-head", more, "--update", trained.folder, "-o", "new"]] * (planted == "rows"),
        ["cache", "info"],
        ["cache", "verify"],
        ["cache", "gc", "--older-than", "0s", "--delete"],
        ["cache", "purge", "--yes"],
    ):
        told = cli(*arguments, code=None)
        assert told.code in (0, 65, 74), told
        if planted in ("root", "v1", "space", "shards", "shard") and arguments[0] != "fit-head":
            assert (told.code, "is a symlink" in told.err) == (74, True), arguments
    assert {p: (p.lstat().st_mtime_ns, p.lstat().st_mode, p.lstat().st_size) for p in theirs.rglob("*")} == before


def test_the_store_that_a_command_makes_is_for_its_owner_alone(cli: Cli, model: Model, tmp_path: Path) -> None:
    """Vectors and the keys of the rows of a fit; and a purge leaves none of them."""
    mask = os.umask(0)
    try:
        cli("fit-head", write_csv(tmp_path / "d.csv", rows(20)), "-m", model, "-o", "out")
    finally:
        os.umask(mask)
    for path in (tmp_path / "store", *(tmp_path / "store").rglob("*")):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    cli("cache", "purge", "--yes")
    assert {Path(name).name for name in tree(tmp_path / "store")} <= {"CACHEDIR.TAG", ".gitignore", "memo.json"}


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "..", "x", "0" * 32, "0" * 31 + "/", 5, None])
def test_the_rows_that_a_manifest_names_are_found_in_the_store_alone(
    doors: Doors, artifact: Path, tmp_path: Path, name: object
) -> None:
    (tmp_path / "secret").write_bytes(b"keys")
    edit(artifact / "embedkit.json", rows=name)
    code, said = told(doors.of_artifact(artifact)["fit-head --update"])
    assert (code, "keys" in said) == (65, False)
    assert re.search("the store does not have the rows|rows is of type", said)


# ---------------------------------------------------------------------------------- special tokens and templates


def ids(folder: Path, *texts: str, **settings: Any) -> list[list[int]]:
    tokenizer = FeatureExtractor(EncoderSettings(str(folder), **settings)).tokenizer
    tokens = tokenizer.encode(list(texts))
    return [part.tolist() for part in np.split(tokens.ids, tokens.offsets[1:-1])]


def test_a_special_token_in_a_text_is_the_special_token(model: Model) -> None:
    """As in transformers and sentence-transformers, and said so in docs/architecture.md."""
    plain, marked, alone = ids(model, "good film", "good [SEP] film", "[MASK]")
    separator = plain[-1]
    assert marked == [*plain[:2], separator, plain[2], separator]
    assert len(alone) == 3
    assert '"[SEP]" in a text becomes the special token' in (ROOT / "docs/architecture.md").read_text("utf-8")


@pytest.mark.parametrize(
    "prompt", ["{x.__class__}", "{0}", "{}", "{text}", "%(text)s %s", "${HOME}", "{{ 7*7 }}", "{", "\\u0041"]
)
def test_a_prompt_is_no_template(own_model: Model, prompt: str) -> None:
    """Neither one that the user gives nor one that the model's folder names."""
    (whole,) = ids(own_model, f"{prompt}a film")
    assert ids(own_model, "a film", prompt=prompt) == [whole]
    stored = {"prompts": {"evil": prompt}, "default_prompt_name": "evil"}
    (own_model / "config_sentence_transformers.json").write_text(json.dumps(stored), "utf-8")
    assert ids(own_model, "a film") == ids(own_model, "a film", prompt="evil") == [whole]


# -------------------------------------------------------------------------------------------- what the page says


def cited() -> list[tuple[str, str]]:
    """Return the tests that docs/security.md names."""
    page = (ROOT / "docs/security.md").read_text("utf-8")
    return re.findall(r"`(test_\w+)::(test_\w+)`", page)


def test_every_test_that_the_security_page_names_exists() -> None:
    assert len(cited()) > 40
    files = {file for file, _ in cited()}
    there = {
        (file, node.name)
        for file in files
        for node in ast.walk(ast.parse((ROOT / f"tests/{file}.py").read_text("utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    assert [name for name in cited() if name not in there] == []


def test_the_security_page_names_every_test_of_this_file() -> None:
    here = {name for name in globals() if name.startswith("test_") and callable(globals()[name])}
    assert sorted(here - {name for file, name in cited() if file == "test_security"}) == []
