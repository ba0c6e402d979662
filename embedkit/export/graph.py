"""Encoder, pooling, normalising and head traced into one ONNX graph."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: TID253 - the one file of this room that imports it
from numpy.typing import NDArray

from embedkit.encoders import ModelFolder, Recipe
from embedkit.encoders.torch_encoder import load_model, states_of, takes_types
from embedkit.errors import ExportError
from embedkit.export.dense import Dense
from embedkit.runtime.pooling import pool

OPSET = 20
LARGEST = 2 << 30  # bytes of one protobuf file
_NOISY = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
_ACTIVATIONS = {"identity": torch.nn.Identity, "relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}


class Graph(torch.nn.Module):
    """What is traced: token ids and mask to logits, or to states and a vector.

    Parameters
    ----------
    model : torch.nn.Module
        Of `load_model`, in float32.
    recipe : Recipe
        What becomes of its hidden states.
    dense : Dense, optional
        The head; without it the graph is an encoder's.
    link : {"softmax", "sigmoid"}, optional
        From logits to the output `probabilities`; None for scores that are none.
    pooled : bool
        Also give the vector before it is normalised, from which windows of a long text are put together.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - a family's own
        recipe: Recipe,
        dense: Dense | None,
        link: str | None,
        *,
        pooled: bool,
    ) -> None:
        super().__init__()
        self.model = model
        self._recipe = recipe
        self._link = link
        self._pooled = pooled
        self.head = None if dense is None else _sequential(dense)
        self.inputs = ["input_ids", "attention_mask", *["token_type_ids"] * takes_types(model.config)]
        own = ["last_hidden_state", "sentence_embedding"] if dense is None else ["logits"]
        self.outputs = [*own, *["probabilities"] * (link is not None), *["pooled"] * pooled]

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Return the tensors that `outputs` names; inputs are int64, shape (B, L)."""
        output = self._read(input_ids, attention_mask, token_type_ids)
        pooled = self._pool(output, attention_mask)
        vector = _normalised(pooled) if self._recipe.normalize else pooled
        if self.head is None:
            given = [output.last_hidden_state.float(), vector]
        else:
            logits = self.head(vector)
            given = [logits]
            if self._link is not None:
                given.append(torch.sigmoid(logits) if self._link == "sigmoid" else torch.softmax(logits, dim=1))
        return (*given, pooled) if self._pooled else tuple(given)

    def _read(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None) -> Any:  # noqa: ANN401 - a family's own
        given = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in self.inputs:
            assert types is not None
            given["token_type_ids"] = types
        deeper = any(layer != "last" for layer in self._recipe.layers)
        return self.model(**given, output_hidden_states=deeper, return_dict=True)

    def _pool(self, output: Any, mask: torch.Tensor) -> torch.Tensor:  # noqa: ANN401 - a family's own
        """Return the joined layers, shape (B, D): what `Recipe.compose` does before it normalises."""
        lengths = mask.sum(1)
        layers = []
        for layer in self._recipe.layers:
            states = states_of(output, layer)
            parts = [
                output.pooler_output.float() if how == "pooler" else pool(states, lengths, mask, how)
                for how in self._recipe.poolings
            ]
            layers.append(torch.cat(parts, dim=1))
        if self._recipe.layer_join == "mean":
            return torch.stack(layers).mean(0)
        return torch.cat(layers, dim=1)


def _normalised(vectors: torch.Tensor) -> torch.Tensor:
    norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / torch.where(norms > 0, norms, torch.ones_like(norms))


def _sequential(dense: Dense) -> torch.nn.Sequential:
    modules: list[torch.nn.Module] = []
    for weights, bias in dense.layers:
        linear = torch.nn.Linear(*weights.shape)
        linear.weight.data = torch.from_numpy(weights.T.astype(np.float32))
        linear.bias.data = torch.from_numpy(bias.astype(np.float32))
        modules += [linear, _ACTIVATIONS[dense.activation]()]
    return torch.nn.Sequential(*modules[:-1]).requires_grad_(False)


def open_graph(
    folder: ModelFolder,
    recipe: Recipe,
    dense: Dense | None = None,
    link: str | None = None,
    *,
    pooled: bool = False,
) -> Graph:
    """Open an encoder's weights for tracing.

    Raises
    ------
    ExportError
        The recipe asks for a pooler that the model does not have.
    ModelError
        transformers cannot open the folder.
    """
    model, has_pooler = load_model(folder, torch.float32)
    if "pooler" in recipe.poolings and not has_pooler:
        raise ExportError(f"{folder.resolved.name} has no trained pooler; choose pooling cls or mean")
    return Graph(model, recipe, dense, link, pooled=pooled).eval()


def write_graph(graph: Graph, path: Path, examples: Sequence[NDArray[np.int32]], pad_id: int) -> int:
    """Trace a graph and write it as one file.

    Parameters
    ----------
    graph : Graph
    path : Path
        Written anew.
    examples : sequence of ndarray of int32
        Token ids of two or more texts of different lengths, which lead through the model once.
    pad_id : int
        What the shorter ones are filled with.

    Returns
    -------
    int
        Bytes of the file.

    Raises
    ------
    ExportError
        torch cannot trace this model, or the file would be larger than 2 GB.
    """
    size = sum(parameter.numel() * parameter.element_size() for parameter in graph.parameters())
    if size >= LARGEST:
        raise ExportError(f"the model's weights are {size / 1e9:.1f} GB; one ONNX file holds less than 2.1")
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                graph,
                _example(graph, examples, pad_id),
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                input_names=graph.inputs,
                output_names=graph.outputs,
                dynamic_shapes={name: {0: batch, 1: length} for name in graph.inputs},
                verbose=False,
            )
            assert program is not None
            written = _plain(program.model_proto)
    except Exception as error:  # torch raises many kinds
        reason = " ".join(str(error).split())[:300]
        raise ExportError(f"this model cannot be traced into an ONNX graph: {reason}") from error
    path.write_bytes(written)
    return len(written)


def _example(graph: Graph, examples: Sequence[NDArray[np.int32]], pad_id: int) -> tuple[torch.Tensor, ...]:
    longest = max(map(len, examples))
    ids = torch.full((len(examples), longest), pad_id, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, example in enumerate(examples):
        ids[row, : len(example)] = torch.from_numpy(example.astype(np.int64))
        mask[row, : len(example)] = 1
    return (ids, mask, torch.zeros_like(ids))[: len(graph.inputs)]


def _plain(proto: Any) -> bytes:  # noqa: ANN401 - onnx.ModelProto, which is not imported for its name alone
    """Return the file without what tracing left behind: source lines of this machine, shapes of inner values."""
    for inner in (proto.graph, *proto.functions):
        inner.ClearField("metadata_props")
        inner.ClearField("value_info")
        for part in (*inner.node, *getattr(inner, "initializer", ()), *getattr(inner, "input", ())):
            if hasattr(part, "ClearField"):
                part.ClearField("metadata_props")
                part.ClearField("doc_string")
    proto.ClearField("metadata_props")
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks to itself; parity decides whether the graph is right."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
