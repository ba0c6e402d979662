"""Small classifiers of transformers, made in code: the encoders of `tests.tiny_models` with a head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification

from tests.tiny_models import make_encoder

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
_HEADS: dict[str, Any] = {
    "sequence": AutoModelForSequenceClassification,
    "tokens": AutoModelForTokenClassification,
}


def make_classifier(
    folder: Path,
    family: str,
    task: str = "sequence",
    *,
    labels: Sequence[str] = ("bad", "fine", "good"),
    layers: int = 2,
    positions: int = 48,
    seed: int = 0,
    **config: Any,
) -> Path:
    """Write a classifier as transformers saves it, its head drawn by chance as the rest is.

    Parameters
    ----------
    folder : Path
        Made where it is missing.
    family : str
        One of `tests.tiny_models.FAMILIES`.
    task : {"sequence", "tokens"}
    labels : sequence of str
    layers, positions, seed : int
        As for `make_encoder`.
    config
        More for ``config.json``, such as ``problem_type``.
    """
    make_encoder(folder, family, layers=layers, positions=positions, seed=seed)
    (folder / "model.safetensors").unlink()
    names = dict(enumerate(labels))
    ids = {name: code for code, name in names.items()}
    found = AutoConfig.from_pretrained(folder, id2label=names, label2id=ids, **config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _HEADS[task].from_config(found).eval().save_pretrained(folder)
    return folder
