"""The hidden states of an encoder traced into one graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: TID253 - torch stands in files of its own in this room
from numpy.typing import NDArray

from embedkit.encoders import ModelFolder
from embedkit.encoders.onnx_encoder import LAST, POOLER, state_name
from embedkit.encoders.torch_encoder import load_model, states_of, takes_types
from embedkit.export.graph import Traced, write_graph


class LayersGraph(Traced):
    """What is traced: token ids and mask to the hidden states of every layer, and the pooler's output.

    Parameters
    ----------
    model : torch.nn.Module
        Of `load_model`, in float32.
    layers : int
        Blocks of the model.
    pooler : bool
        Whether it has a trained pooler.
    """

    def __init__(self, model: Any, layers: int, *, pooler: bool) -> None:  # noqa: ANN401 - a family's own
        super().__init__(model, types=takes_types(model.config))
        self._layers = layers
        self._pooler = pooler
        self.outputs = [*map(state_name, range(layers)), LAST, *[POOLER] * pooler]

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Return the tensors that `outputs` names; inputs are int64, shape (B, L)."""
        output = self._read(input_ids, attention_mask, token_type_ids, output_hidden_states=True)
        states = [states_of(output, layer) for layer in range(self._layers)]
        pooled = [output.pooler_output.float()] if self._pooler else []
        return (*states, states_of(output, "last"), *pooled)


def write_layers(folder: ModelFolder, path: Path, examples: Sequence[NDArray[np.int32]], pad_id: int) -> list[str]:
    """Trace an encoder and write it as one file; return the names of its outputs.

    Parameters are those of `embedkit.export.graph.write_graph`.

    Raises
    ------
    ExportError
        torch cannot trace this model, or the file would be larger than 2 GB.
    ModelError
        transformers cannot open the folder.
    """
    model, has_pooler = load_model(folder, torch.float32)
    graph = LayersGraph(model, folder.layers, pooler=has_pooler).eval()
    write_graph(graph, path, examples, pad_id)
    return graph.outputs
