"""A tuned encoder as a folder of its own, which sentence-transformers reads as we do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit.artifact import write_json
from embedkit.encoders import EncoderSettings
from embedkit.estimators.frozen import exact_settings
from embedkit.export.folder import sentence_transformers_files, write_tokenizer
from embedkit.runtime.tokens import PROBE_WORDS

if TYPE_CHECKING:
    from embedkit.training.contrast import TunedEncoder

_LENGTH = "sentence_bert_config.json"


def write_encoder(folder: Path, tuned: TunedEncoder) -> EncoderSettings:
    """Write weights, tokenizer, pooling and normalising; return the settings that give its features.

    The folder loads with ``SentenceTransformer(folder)``, whose vectors of texts are those of these settings.

    Parameters
    ----------
    folder : Path
        Exists; nothing in it is read.
    tuned : TunedEncoder

    Returns
    -------
    EncoderSettings
        Of the folder as it lies there.
    """
    from embedkit.encoders.torch_encoder import quiet, takes_types

    base, recipe = tuned.base, tuned.base.recipe
    with quiet():
        tuned.model.save_pretrained(folder)
    types = ["token_type_ids"] if takes_types(tuned.model.config) else []
    write_tokenizer(
        folder, base.folder, base.tokenizer, ["input_ids", *types, "attention_mask"], list(PROBE_WORDS)
    )
    beside: dict[str, Any] = sentence_transformers_files(recipe, base.folder.hidden)
    # the tokenizer that is written makes texts small itself
    beside[_LENGTH] = {"max_seq_length": recipe.max_length, "do_lower_case": False}
    for name, content in beside.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_json(folder / name, content)
    # what is open may be told more than what changes a vector: where it computes
    told = {name: getattr(base.settings, name) for name in ("engine", "device", "batch_tokens", "threads")}
    return replace(exact_settings(base), model=folder, revision=None, **told)
