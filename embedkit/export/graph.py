"""A model and what becomes of its output traced into one ONNX graph."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: TID253 - the one file of this room that imports it
from numpy.typing import NDArray
from transformers import (  # noqa: TID253 - nor they
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from embedkit.encoders import ModelFolder, Recipe
from embedkit.encoders.engines import OPSET
from embedkit.encoders.torch_encoder import load_model, open_pretrained, states_of, takes_types, threads_set
from embedkit.errors import ExportError, ModelError
from embedkit.export.dense import Dense
from embedkit.runtime.pooling import pool
from embedkit.runtime.tokens import Tokens

LARGEST = 2 << 30  # bytes of one protobuf file
_NOISY = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
_ACTIVATIONS = {"identity": torch.nn.Identity, "relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}


class Traced(torch.nn.Module):
    """What is traced: a model of transformers, and what becomes of its output.

    Attributes
    ----------
    inputs, outputs : list of str
        Names, in the order of `forward`.
    """

    outputs: list[str]

    def __init__(self, model: Any, *, types: bool) -> None:  # noqa: ANN401 - a family's own
        super().__init__()
        self.model = model
        self.inputs = ["input_ids", "attention_mask", *["token_type_ids"] * types]

    def _read(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None, **how: bool) -> Any:  # noqa: ANN401
        given = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in self.inputs:
            assert types is not None
            given["token_type_ids"] = types
        return self.model(**given, **how, return_dict=True)


class Graph(Traced):
    """What is traced of a frozen encoder: token ids and mask to logits, or to states and a vector.

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
        super().__init__(model, types=takes_types(model.config))
        self._recipe = recipe
        self._link = link
        self._pooled = pooled
        self.head = None if dense is None else _sequential(dense)
        own = ["last_hidden_state", "sentence_embedding"] if dense is None else ["logits"]
        self.outputs = [*own, *["probabilities"] * (link is not None), *["pooled"] * pooled]

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Return the tensors that `outputs` names; inputs are int64, shape (B, L)."""
        deeper = any(layer != "last" for layer in self._recipe.layers)
        output = self._read(input_ids, attention_mask, token_type_ids, output_hidden_states=deeper)
        pooled = self._pool(output, attention_mask)
        vector = _normalised(pooled) if self._recipe.normalize else pooled
        if self.head is None:
            given = [output.last_hidden_state.float(), vector]
        else:
            logits = self.head(vector)
            given = _linked(logits, self._link)
        return (*given, pooled) if self._pooled else tuple(given)

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


class TaskGraph(Traced):
    """What is traced of a classifier that transformers trained: token ids and mask to its own logits.

    Parameters
    ----------
    model : torch.nn.Module
        Of `open_task_model`.
    link : {"softmax", "sigmoid"}, optional
        From logits to the output `probabilities`; None for a token classifier.
    types : bool
        Whether it is given token types.
    """

    def __init__(self, model: Any, link: str | None, *, types: bool) -> None:  # noqa: ANN401 - a family's own
        super().__init__(model, types=types)
        self._link = link
        self.outputs = ["logits", *["probabilities"] * (link is not None)]

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Return the tensors that `outputs` names; inputs are int64, shape (B, L)."""
        return tuple(_linked(self._read(input_ids, attention_mask, token_type_ids).logits.float(), self._link))


class WordGraph(Traced):
    """What is traced of a tagger on a frozen encoder: token ids and mask to the head's logits of each token.

    Parameters
    ----------
    model : torch.nn.Module
        Of `load_model`, in float32.
    recipe : Recipe
        Of words, whose layers are joined; one pooling.
    dense : Dense
        The head.
    """

    def __init__(self, model: Any, recipe: Recipe, dense: Dense) -> None:  # noqa: ANN401 - a family's own
        super().__init__(model, types=takes_types(model.config))
        self._recipe = recipe
        self.head = _sequential(dense)
        self.outputs = ["logits"]

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Return logits, (B, L, C); inputs are int64, shape (B, L)."""
        deeper = any(layer != "last" for layer in self._recipe.layers)
        output = self._read(input_ids, attention_mask, token_type_ids, output_hidden_states=deeper)
        layers = [states_of(output, layer) for layer in self._recipe.layers]
        joined = torch.stack(layers).mean(0) if self._recipe.layer_join == "mean" else torch.cat(layers, dim=-1)
        return (self.head(joined),)


def _linked(logits: torch.Tensor, link: str | None) -> list[torch.Tensor]:
    """Return logits, and behind them the probabilities, where they stand for some."""
    if link is None:
        return [logits]
    return [logits, torch.sigmoid(logits) if link == "sigmoid" else torch.softmax(logits, dim=-1)]


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


def open_word_graph(folder: ModelFolder, recipe: Recipe, dense: Dense) -> WordGraph:
    """Open an encoder's weights for tracing with a head on each token; `ModelError` as of `open_graph`."""
    return WordGraph(load_model(folder, torch.float32)[0], recipe, dense).eval()


def open_task_model(folder: ModelFolder, task: str) -> Any:  # noqa: ANN401 - a family's own
    """Open a classifier of transformers, frozen, in float32.

    Parameters
    ----------
    folder : ModelFolder
    task : {"sequence", "tokens"}

    Raises
    ------
    ModelError
        transformers cannot open the folder, or its weights lack a part of the model: mostly a head that was never
        trained.
    """
    auto = {"sequence": AutoModelForSequenceClassification, "tokens": AutoModelForTokenClassification}[task]
    model, missing = open_pretrained(auto, folder.path, torch.float32)
    if missing:
        raise ModelError(
            f"{folder.path}: the weights lack {len(missing)} tensors of a classifier ({', '.join(missing[:3])}): "
            "the head was never trained; fine-tune it first, or export the encoder alone with --task encoder"
        )
    return model


def torch_logits(
    model: Any,  # noqa: ANN401 - a family's own
    tokens: Tokens,
    *,
    types: bool,
    threads: int | None = None,
) -> list[NDArray[np.float32]]:
    """Return the logits of each input, alone and without padding: (C,), or (tokens, C) of a token classifier.

    Parameters
    ----------
    model : torch.nn.Module
        Of `open_task_model`.
    tokens : Tokens
    types : bool
        Whether the model is given token types.
    threads : int, optional
        Of the forward passes.
    """
    with threads_set(threads), torch.no_grad():  # not inference_mode: what is kept of a pass must be traceable
        return [_logits(model, tokens, place, types) for place in pairwise(tokens.offsets.tolist())]


def _logits(model: Any, tokens: Tokens, place: tuple[int, int], types: bool) -> NDArray[np.float32]:  # noqa: ANN401
    start, end = place
    ids = torch.from_numpy(tokens.ids[start:end].astype(np.int64))[None]
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if types:
        own = np.zeros_like(tokens.ids) if tokens.type_ids is None else tokens.type_ids
        given["token_type_ids"] = torch.from_numpy(own[start:end].astype(np.int64))[None]
    logits: torch.Tensor = model(**given, return_dict=True).logits[0]
    return logits.float().numpy()


def write_graph(graph: Traced, path: Path, examples: Sequence[NDArray[np.int32]], pad_id: int) -> int:
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
        # torch's fused attention becomes a graph that looks for rows without any token, of which there are none:
        # 1.1 times as slow in float32 on long texts, 1.2 times in int8
        graph.model.set_attn_implementation("eager")
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


def _example(graph: Traced, examples: Sequence[NDArray[np.int32]], pad_id: int) -> tuple[torch.Tensor, ...]:
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
