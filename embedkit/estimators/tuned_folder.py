"""The folder of a fine-tuned model of any task: one of transformers, with our manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from embedkit.artifact import installed, write_manifest
from embedkit.data.labels import LabelCodec
from embedkit.encoders import ModelFolder
from embedkit.export.folder import write_tokenizer
from embedkit.export.parity import Input
from embedkit.runtime.description import PROBLEMS
from embedkit.runtime.manifest import FINETUNED
from embedkit.runtime.tokens import PROBE_WORDS, Tokenizer

BATCH_TOKENS = 4096  # most tokens of a batch, where a folder that was opened answers
# On which transformers' tokenizer is compared with ours, by what an input is.
_ALIKE: dict[str, list[Input]] = {
    "text": [*PROBE_WORDS],
    "pair": [*PROBE_WORDS, ("hello world", "Hello, World!")],
    "tokens": [*PROBE_WORDS, *([word] for word in PROBE_WORDS)],
}
_VERSIONS = ("embedkit", "numpy", "tokenizers", "torch", "transformers", "accelerate")


class Tunable(Protocol):
    """What is written of a fine-tuned model of any task."""

    model: Any
    tokenizer: Tokenizer
    codec: LabelCodec
    about: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """What an input is."""

    @property
    def multi_label(self) -> bool:
        """Whether an input has any number of labels."""


def save_tuned(folder: Path, base: ModelFolder, found: Tunable, task: str) -> None:
    """Write weights, tokenizer and manifest; parameters are those of `TunedClassifier.save`."""
    from embedkit.encoders.torch_encoder import quiet, takes_types

    with quiet():
        found.model.save_pretrained(folder)
    types = ["token_type_ids"] if takes_types(found.model.config) else []
    tokenizer = found.tokenizer
    write_tokenizer(folder, base, tokenizer, ["input_ids", *types, "attention_mask"], _ALIKE[found.kind])
    manifest = {
        "kind": FINETUNED,
        "task": task,
        "problem_type": PROBLEMS[found.multi_label],
        "input": found.kind,
        "labels": list(found.codec.classes),
        "label_dtype": found.codec.dtype,
        "tokens": {"max_length": tokenizer.max_length, "side": tokenizer.side, "pad_id": tokenizer.pad_id},
        "versions": installed(_VERSIONS),
        **found.about,
    }
    write_manifest(folder, manifest)
