"""What a command and an import load: help costs nothing, cached runs load no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from embedkit.cli import main
from embedkit.heads import CalibratedHead
from tests.head_data import PLAIN, fitted
from tests.tiny_models import make_sentence_transformer

HEAVY = frozenset(
    {
        "accelerate", "datasets", "huggingface_hub", "joblib", "matplotlib", "numpy", "onnxruntime", "pandas",
        "platformdirs", "pyarrow", "safetensors", "scipy", "sentence_transformers", "skops", "sklearn",
        "threadpoolctl", "tokenizers", "torch", "tqdm", "transformers", "xxhash",
    }
)  # fmt: skip
RUNTIME = frozenset({"numpy", "tokenizers", "onnxruntime"})
# What a run on cached features may need: the digests, the store and the tokenizer.
CACHED = RUNTIME | {"pyarrow", "xxhash", "platformdirs", "safetensors", "huggingface_hub", "pandas"}
_TELL = f"""
finally:
  import json, sys
  found = {{name.partition(".")[0] for name in sys.modules}}
  print(json.dumps(sorted(found & set({sorted(HEAVY)}))), file=sys.stderr)
"""


def loaded(code: str, **environment: str) -> set[str]:
    """Run code in a process of its own; return the libraries that it loaded."""
    done = subprocess.run(
        [sys.executable, "-c", f"try:\n  {code}{_TELL}"],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


def command(*arguments: str) -> str:
    return f"from embedkit.cli import main; assert main({list(arguments)}) == 0"


@pytest.mark.parametrize(
    "name",
    ["", "inspect", "extract", "fit-head", "evaluate", "predict", "export-onnx", "cache", "cache gc", "demo"],
)
def test_help_loads_nothing(name: str) -> None:
    assert loaded(command(*name.split(), "--help").replace("assert ", "")) == set()


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import embedkit", frozenset[str]()),
        ("import embedkit; dir(embedkit); embedkit.__version__", frozenset[str]()),
        ("import embedkit.errors, embedkit.cli.main", frozenset[str]()),
        (
            "import embedkit.runtime, pkgutil, importlib; "
            "[importlib.import_module('embedkit.runtime.' + m.name) for m in "
            "pkgutil.iter_modules(embedkit.runtime.__path__)]",
            RUNTIME,
        ),
        ("import embedkit.artifact, embedkit.metrics", frozenset({"numpy"})),
        ("import embedkit.hub", frozenset({"numpy"})),
        ("import embedkit.heads; embedkit.heads.HeadSpec('mlp', params={'alpha': 1.0})", frozenset({"numpy"})),
        ("import embedkit.encoders, embedkit.estimators.frozen", CACHED - {"huggingface_hub", "onnxruntime"}),
    ],
)
def test_importing(code: str, allowed: frozenset[str]) -> None:
    assert loaded(code) <= allowed


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("calibrated", [False, True])
def test_heads_of_arrays_answer_with_numpy_alone(tmp_path: Path, several: bool, calibrated: bool) -> None:
    """Every head but the trees: fitted here, loaded and asked in a process of its own."""
    saved = {}
    for name in PLAIN:
        head = fitted(name, "several" if several else "three").head
        if calibrated:
            head = CalibratedHead(head, np.ones(3 if several else 1), np.zeros(3))
        described, arrays = head.state()
        np.savez(tmp_path / f"{name}.npz", **arrays)
        saved[name] = described
    (tmp_path / "heads.json").write_text(json.dumps(saved))
    code = f"""
  import json, pathlib, numpy as np
  from embedkit.heads import head_from_state
  folder = pathlib.Path({str(tmp_path)!r})
  for name, described in json.loads((folder / "heads.json").read_text()).items():
      head = head_from_state(described, dict(np.load(folder / f"{{name}}.npz")))
      rows = np.ones((3, 5), np.float32)
      head.predict(rows), head.decision_function(rows), head.has_probabilities and head.predict_proba(rows)
"""
    assert loaded(code.strip()) == {"numpy"}


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with data.csv, a trained classifier, and a store that has all features of the data."""
    folder = tmp_path_factory.mktemp("cached")
    make_sentence_transformer(folder / "model")
    lines = [f"the film {i} was {'good' if i % 2 else 'bad'},{'pos' if i % 2 else 'neg'}" for i in range(24)]
    (folder / "data.csv").write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    data, store = str(folder / "data.csv"), ["--store", str(folder / "store")]
    assert main(["extract", data, "-m", str(folder / "model"), *store]) == 0
    assert main(["fit-head", data, "-m", str(folder / "model"), "-o", str(folder / "trained"), *store]) == 0
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ("extract", "{0}/data.csv", "-m", "{0}/model", "--json"),
        ("predict", "{0}/trained", "the film 3 was good"),
        ("predict", "{0}/trained", "--input", "{0}/data.csv"),
        ("evaluate", "{0}/trained", "{0}/data.csv", "--json"),
        ("inspect", "{0}/data.csv", "-m", "{0}/model"),
    ],
    ids=lambda arguments: " ".join(arguments[:1] + arguments[2:3]),
)
def test_a_cached_run_loads_neither_torch_nor_scikit_learn(cached: Path, arguments: tuple[str, ...]) -> None:
    code = command(*(argument.format(cached) for argument in arguments))
    assert loaded(code, EMBEDKIT_STORE=str(cached / "store")) <= CACHED - {"pandas"}


def test_a_cached_fit_loads_no_torch(cached: Path) -> None:
    code = command(
        "fit-head", str(cached / "data.csv"), "-m", str(cached / "model"), "-o", str(cached / "again"), "--quiet"
    )
    found = loaded(code, EMBEDKIT_STORE=str(cached / "store"))
    assert "sklearn" in found
    assert not found & {"torch", "transformers", "sentence_transformers", "datasets"}  # scikit-learn loads pandas


def test_load_needs_scikit_learn_and_no_torch(cached: Path) -> None:
    code = (
        f"import embedkit; classifier = embedkit.load({str(cached / 'trained')!r}); "
        "assert classifier.predict(['the film 3 was good']).tolist()[0] in ('pos', 'neg')"
    )
    found = loaded(code, EMBEDKIT_STORE=str(cached / "store"))
    assert "sklearn" in found
    assert not found & {"torch", "transformers", "sentence_transformers", "datasets"}


def test_a_run_that_computes_does_load_torch(cached: Path, tmp_path: Path) -> None:
    """The counterpart: without it the checks above could not fail."""
    found = loaded(
        command("predict", str(cached / "trained"), "the film 3 was good"), EMBEDKIT_STORE=str(tmp_path / "store")
    )
    assert {"torch", "transformers"} <= found
