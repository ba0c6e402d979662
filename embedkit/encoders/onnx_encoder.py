"""A frozen encoder as an ONNX graph, run without torch."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from embedkit.encoders.recipe import Floats, View
from embedkit.errors import UsageError
from embedkit.runtime.batching import Batch, pad
from embedkit.runtime.pooling import pool
from embedkit.runtime.predictor import BATCH_TOKENS
from embedkit.runtime.session import Session, open_session
from embedkit.runtime.tokens import Tokens

LAST, POOLER = "last_hidden_state", "pooler_output"

# Sessions that a forked process inherited. Their threads are not there, and closing a session waits for them.
_inherited: list[Session] = []


def state_name(layer: int | Literal["last"]) -> str:
    """Return what the graph calls the hidden states of a layer."""
    return LAST if layer == "last" else f"hidden_states.{layer}"


class OnnxEncoder:
    """An opened graph that turns token batches into pooled hidden states, with the methods of `TorchEncoder`.

    Parameters
    ----------
    graph : Path
        One output for each layer (`state_name`), and ``pooler_output`` where the model has a trained pooler. It is
        opened anew where another number of threads is asked for, and in a forked process.
    name : str
        What messages call the model.

    Raises
    ------
    ArtifactError
        onnxruntime cannot open the graph; raised at the first batch.
    """

    overlaps = False

    def __init__(self, graph: Path, name: str) -> None:
        self._graph = graph
        self._name = name
        self._lock = threading.Lock()
        self._session: tuple[int, int | None, Session] | None = None  # process, threads

    def run(
        self,
        tokens: Tokens,
        batches: Sequence[NDArray[np.int64]],
        pad_id: int,
        views: Sequence[View],
        threads: int | None = None,
    ) -> Iterator[tuple[NDArray[np.int64], Floats]]:
        """Encode batches; only the layers that `views` name leave the graph.

        Parameters
        ----------
        tokens : Tokens
            All windows.
        batches : sequence of ndarray of int64
            Windows of each batch. Those with more tokens than the runtime's batches have are cut.
        pad_id : int
        views : sequence of View
            V pooled layers.
        threads : int, optional
            Threads of a pass. Default: one a core.

        Yields
        ------
        windows : ndarray of int64, shape (B,)
        vectors : ndarray of float32, shape (V, B, H)
        """
        session = self._open(threads)
        names = list(dict.fromkeys(_output(view) for view in views))
        if POOLER in names and POOLER not in session.outputs:
            raise UsageError(f"{self._name} has no trained pooler; choose pooling cls or mean")
        for windows in _cut(tokens, batches):
            batch = pad(tokens, windows, pad_id)
            mask = batch.mask()
            found = dict(zip(names, self._states(session, batch, mask, names), strict=True))
            padding = mask if batch.padded else None
            yield windows, np.stack([_pooled(found[_output(view)], batch, padding, view) for view in views])

    def token_states(
        self,
        tokens: Tokens,
        batches: Sequence[NDArray[np.int64]],
        pad_id: int,
        layers: Sequence[int | Literal["last"]],
        threads: int | None = None,
    ) -> Iterator[tuple[NDArray[np.int64], Floats]]:
        """Encode batches as `run` does, and keep the state of every token, shape (V, B, L, H)."""
        session = self._open(threads)
        for windows in _cut(tokens, batches):
            batch = pad(tokens, windows, pad_id)
            yield windows, np.stack(self._states(session, batch, batch.mask(), list(map(state_name, layers))))

    def _states(self, session: Session, batch: Batch, mask: NDArray[np.int64], names: list[str]) -> list[Floats]:
        types = np.zeros_like(batch.input_ids) if batch.type_ids is None else batch.type_ids
        given = {"input_ids": batch.input_ids, "attention_mask": mask, "token_type_ids": types}
        return session.answer(names, given)

    def _open(self, threads: int | None) -> Session:
        """Return a session of this process with so many threads."""
        with self._lock:
            if self._session is None or self._session[:2] != (os.getpid(), threads):
                if self._session is not None and self._session[0] != os.getpid():
                    _inherited.append(self._session[2])
                self._session = os.getpid(), threads, open_session(self._graph, threads)
            return self._session[2]


def _cut(tokens: Tokens, batches: Sequence[NDArray[np.int64]]) -> Iterator[NDArray[np.int64]]:
    """Cut batches that are larger than what onnxruntime is fast on; they were made for torch, which likes more."""
    for windows in batches:
        rows = max(1, BATCH_TOKENS // int(tokens.lengths[windows].max()))
        for start in range(0, len(windows), rows):
            yield windows[start : start + rows]


def _output(view: View) -> str:
    return POOLER if view.pooling == "pooler" else state_name(view.layer)


def _pooled(states: Floats, batch: Batch, mask: NDArray[np.int64] | None, view: View) -> Floats:
    pooled: Floats = states if view.pooling == "pooler" else pool(states, batch.lengths, mask, view.pooling)
    return pooled
