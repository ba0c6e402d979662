"""Logits of a trained model, for rows of any length."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embedkit.encoders.torch_encoder import open_pretrained, pack, resolve_device, takes_types, threads_set
from embedkit.errors import ModelError
from embedkit.runtime.tokens import Tokens
from embedkit.training.model import HEADS
from embedkit.training.rows import padded_inputs


class LogitsModel:
    """A model that answers.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Not changed.
    device : str
        As in `embedkit.encoders.EncoderSettings`.
    """

    def __init__(self, model: Any, device: str) -> None:  # noqa: ANN401 - a family's own
        self.device = resolve_device(device)
        self._model = copy.deepcopy(model).eval().requires_grad_(False).to(self.device)
        if self.device.type == "cpu":
            pack(self._model)

    def run(
        self, tokens: Tokens, batches: Sequence[NDArray[np.int64]], pad_id: int, threads: int | None = None
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Yield the windows of each batch, shape (B,), and their logits: (B, C), or (B, L, C) of tokens."""
        types = takes_types(self._model.config)
        for windows in batches:
            given = padded_inputs(tokens, windows, pad_id, types=types)
            with threads_set(threads), torch.inference_mode():
                inputs = {name: torch.from_numpy(array).to(self.device) for name, array in given.items()}
                logits = self._model(**inputs).logits
            yield windows, logits.float().cpu().numpy()


def open_trained(folder: Path, task: str, labels: int) -> Any:  # noqa: ANN401 - a family's own
    """Open a classifier of texts (``"sequence"``) or words (``"tokens"``) whose weights are whole.

    Raises
    ------
    ModelError
        Weights are missing, or it has another number of labels.
    """
    model, missing = open_pretrained(HEADS[task], folder, torch.float32)
    if missing or model.config.num_labels != labels:
        lacking = (
            f"the weights lack {', '.join(missing[:3])}" if missing else f"it has {model.config.num_labels} labels"
        )
        raise ModelError(f"{folder}: {lacking}")
    return model
