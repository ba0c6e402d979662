"""Imports point to lower floors only, and heavy libraries stay in their rooms."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "embedkit"

# room -> (floor, third parties it may import anywhere, also inside functions)
ROOMS: dict[str, tuple[int, frozenset[str]]] = {
    "errors": (-1, frozenset()),  # the ground: every room stands on it
    "runtime": (0, frozenset({"numpy", "tokenizers", "onnxruntime"})),
    "metrics": (1, frozenset({"numpy"})),
    "data": (1, frozenset({"numpy", "pyarrow", "datasets", "huggingface_hub"})),
    "store": (1, frozenset({"numpy", "pyarrow", "xxhash", "platformdirs"})),
    "artifact": (1, frozenset({"numpy", "safetensors"})),
    "hub": (1, frozenset({"huggingface_hub", "safetensors"})),
    "sharing": (2, frozenset()),
    "pages": (2, frozenset()),
    "encoders": (2, frozenset({"numpy", "tqdm"})),
    "encoders/torch_encoder": (2, frozenset({"numpy", "torch", "transformers", "safetensors"})),
    "feature_files": (2, frozenset({"numpy", "pyarrow"})),
    "heads": (2, frozenset({"numpy", "scipy", "sklearn", "skops", "joblib", "threadpoolctl"})),
    "export": (3, frozenset({"numpy", "torch", "transformers", "onnx", "onnxscript", "onnxruntime", "skl2onnx"})),
    "training": (
        3,
        frozenset({"numpy", "torch", "transformers", "accelerate", "safetensors", "sentence_transformers"}),
    ),
    "training/reference": (
        3,
        frozenset({"numpy", "transformers", "datasets", "setfit", "sklearn"}),
    ),
    "estimators": (4, frozenset({"numpy", "sklearn"})),
    "evaluation": (5, frozenset({"numpy", "sklearn", "matplotlib", "umap", "psutil"})),
    "cli": (6, frozenset({"numpy", "tqdm"})),
    "": (7, frozenset()),  # embedkit/__init__.py and __main__.py
}
STANDARD = __import__("sys").stdlib_module_names


def room_of(module: str) -> str:
    """Return the room of ``embedkit.<room>[.<file>]``."""
    inner = "/".join(module.split(".")[1:3])
    if inner in ROOMS:
        return inner
    return inner.split("/")[0]


def imports_of(path: Path) -> set[str]:
    """Return every absolute module name imported in a file, at any depth."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def violations(path: Path, imports: set[str]) -> list[str]:
    """Say which imports of a file break the table."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    name = ".".join(("embedkit", *(p for p in parts if p not in {"__init__", "__main__"})))
    room = room_of(name)
    floor, allowed = ROOMS[room]
    wrong = []
    for imported in sorted(imports):
        top = imported.split(".")[0]
        if top == "embedkit":
            other = room_of(imported)
            if other not in ROOMS:  # a public name: `from embedkit import __version__`
                other = ""
            same_room = other.split("/")[0] == room.split("/")[0]
            if not same_room and ROOMS[other][0] >= floor and imported != "embedkit.__version__":
                wrong.append(f"{name} (floor {floor}) imports {imported} (floor {ROOMS[other][0]})")
        elif top not in STANDARD and top not in allowed:
            wrong.append(f"{name} imports {top}, which room {room or 'embedkit'!r} may not")
    return wrong


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    assert violations(path, imports_of(path)) == []


def test_every_room_is_on_a_floor() -> None:
    rooms = {room_of(".".join(("embedkit", *p.relative_to(PACKAGE).with_suffix("").parts))) for p in FILES}
    assert rooms - {"__init__", "__main__"} <= set(ROOMS)


@pytest.mark.parametrize(
    ("file", "imported"),
    [
        ("store/x.py", "embedkit.encoders.features"),
        ("store/x.py", "embedkit.data.read"),
        ("data/x.py", "torch"),
        ("encoders/features.py", "torch"),
        ("runtime/x.py", "embedkit.store"),
        ("cli/x.py", "sklearn.metrics"),
    ],
)
def test_the_check_can_fail(file: str, imported: str) -> None:
    assert violations(PACKAGE / file, {imported})
