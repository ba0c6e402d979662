"""Exports without tracing: torch answers where onnxruntime would.

Tracing costs seconds and is tried for every family; what stands around a graph (heads, windows, prompts, parity,
the folder) is tried here with the module that would have been traced.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from embedkit.runtime.session import Session


class _Handle:
    def __init__(self, graph: Any) -> None:
        self._graph = graph

    def run(self, names: list[str], fed: dict[str, NDArray[np.int64]]) -> list[NDArray[Any]]:
        with torch.no_grad():
            given = self._graph(*(torch.from_numpy(fed[name]) for name in self._graph.inputs))
        found = dict(zip(self._graph.outputs, given, strict=True))
        return [found[name].numpy() for name in names]


def leave_untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let exports write the number of a module in place of a graph, and sessions open the module."""
    graphs: list[Any] = []

    def write(graph: Any, path: Path, examples: object, pad_id: int) -> int:
        path.write_text(str(len(graphs)), encoding="ascii")
        graphs.append(graph)
        return path.stat().st_size

    def opened(path: Path, threads: int | None = None, *, external: object = ()) -> Session:
        graph = graphs[int(path.read_text(encoding="ascii"))]
        handle, inputs = _Handle(graph), dict.fromkeys(graph.inputs, np.int64)
        tried = handle.run(graph.outputs, {name: np.ones((1, 2), np.int64) for name in inputs})
        outputs = {
            name: ["batch", *["length"] * (value.ndim - 2), value.shape[-1]]
            for name, value in zip(graph.outputs, tried, strict=True)
        }
        return Session(path, handle, dict(inputs), outputs)

    monkeypatch.setattr("embedkit.export.graph.write_graph", write)
    monkeypatch.setattr("embedkit.export.publish.open_session", opened)
    monkeypatch.setattr("embedkit.runtime.loading.open_session", opened)
