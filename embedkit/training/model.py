"""A pre-trained encoder with a head for the labels of some data."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification, set_seed

from embedkit.encoders import ModelFolder
from embedkit.encoders.torch_encoder import open_pretrained, quiet
from embedkit.errors import ModelError
from embedkit.runtime.description import PROBLEMS
from embedkit.runtime.model_folder import labels_of, task_of

HEADS = {"sequence": AutoModelForSequenceClassification, "tokens": AutoModelForTokenClassification}
"""The class of transformers that opens a model with a head, by task."""


class Opened(NamedTuple):
    """A model to train.

    Attributes
    ----------
    model : transformers.PreTrainedModel
        In training mode, everything trainable.
    kept : bool
        Whether the head is the folder's own.
    fresh : frozenset of str
        Parameters that the folder's weights lack.
    """

    model: Any
    kept: bool
    fresh: frozenset[str]


def open_for_training(
    folder: ModelFolder, task: str, names: Sequence[str], *, multi_label: bool = False, seed: int
) -> Opened:
    """Open a model in float32 with a head for some labels.

    The head is the folder's own where that was trained for the same task and the same labels in this order; else
    it is drawn by chance, by the seed.

    Parameters
    ----------
    folder : ModelFolder
    task : {"sequence", "tokens"}
    names : sequence of str
        Labels as they are printed, in the order of their codes.
    multi_label : bool, default False
    seed : int

    Returns
    -------
    Opened

    Raises
    ------
    ModelError
        transformers has no such head for this family, cannot open the folder, or its weights are not whole.
    """
    config = _config(folder, names, multi_label)
    _require_head(folder, config, task)
    with seeded(seed):
        model, missing = open_pretrained(HEADS[task], folder.path, torch.float32, config=config)
        base = f"{model.base_model_prefix}."
        lost = [name for name in missing if name.startswith(base) and not _is_pooler(name)]
        if lost:
            raise ModelError(
                f"{folder.path}: the weights lack {len(lost)} tensors of the encoder ({', '.join(lost[:3])}); "
                "the files do not belong together"
            )
        kept = task_of(folder.config) == task and labels_of(folder.config, folder.path) == tuple(names)
        if not kept:
            _draw_last(model, len(names))
    return Opened(model.train().requires_grad_(True), kept, frozenset(missing))


def _config(folder: ModelFolder, names: Sequence[str], multi_label: bool) -> Any:  # noqa: ANN401 - a family's own
    changes = {
        "id2label": dict(enumerate(names)),
        "label2id": {name: code for code, name in enumerate(names)},
        "problem_type": PROBLEMS[multi_label],
    }
    return opened_with(AutoConfig, folder, "configuration", changes)


def opened_with(auto: Any, folder: ModelFolder, what: str, changes: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401
    """Open what stands beside the weights by a class of transformers; `ModelError` where it cannot be."""
    with quiet():
        try:
            return auto.from_pretrained(
                folder.path, trust_remote_code=False, local_files_only=True, **(changes or {})
            )
        except Exception as error:  # it and its classes raise many kinds
            reason = " ".join(str(error).split())[:300]
            raise ModelError(f"{folder.path}: transformers cannot open this {what}: {reason}") from error


def _require_head(folder: ModelFolder, config: Any, task: str) -> None:  # noqa: ANN401
    if type(config) not in HEADS[task]._model_mapping:
        raise ModelError(
            f"{folder.resolved.name} is of the family {config.model_type!r}, for which transformers has no head "
            f"for the task {task}; choose another model, or fit a head on its frozen features (embedkit fit-head)"
        )


def _is_pooler(name: str) -> bool:
    """Whether a tensor is of a pooler: many encoders ship without one, which is then trained like the head."""
    return ".pooler." in f".{name}"


def _draw_last(model: Any, labels: int) -> None:  # noqa: ANN401 - a family's own
    """Draw the layers that end in as many numbers as there are labels: they may have come from other labels."""
    base = model.base_model
    inner = set(base.modules()) if base is not model else set()
    spread = float(getattr(model.config, "initializer_range", 0.02))
    for module in model.modules():
        if module not in inner and isinstance(module, torch.nn.Linear) and module.out_features == labels:
            torch.nn.init.normal_(module.weight, 0.0, spread)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)


_alone = threading.RLock()


def _after_fork() -> None:
    """Forget what another thread held at the fork: it is never given back in the child."""
    global _alone
    _alone = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let chance start from a seed, in Python, NumPy and torch; how it stood before comes back afterwards.

    Chance is the whole process's, so threads take turns.
    """
    with _alone:
        yield from _seeded(seed)


def _seeded(seed: int) -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - what libraries draw from
    with torch.random.fork_rng():
        set_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
