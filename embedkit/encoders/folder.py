"""A model folder read without torch: what it is, what it says about pooling and lengths, whether it is whole."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedkit.errors import ModelError
from embedkit.hub import Resolved
from embedkit.runtime.model_folder import (
    CONFIG,
    LFS,
    TOKENIZER,
    ModelFacts,
    read_facts,
    read_json,
    read_modules,
    refuse_pointer,
    whole_number,
)

WEIGHTS = "model.safetensors"
_INDEX = f"{WEIGHTS}.index.json"
# From any of these, transformers can build a tokenizer.json.
_VOCABULARIES = (
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "spm.model",
    "tokenizer.model",
)
_LAYERS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")
# What transformers would follow to weights or code that no digest of ours covers.
_LEADING_AWAY = ("transformers_weights", "attn_implementation", "_attn_implementation", "experts_implementation",
                 "_experts_implementation")  # fmt: skip
_OWN_ATTENTION = (None, "eager", "sdpa")
_HEADER_LIMIT = 100 << 20  # bytes, as the safetensors library allows


@dataclass(frozen=True)
class ModelFolder(ModelFacts):
    """What a folder says about its model, and its weights.

    Attributes
    ----------
    resolved : Resolved
        The folder and its name.
    weights : tuple of Path
        Safetensors files, sorted by name, each whole.
    tokenizer : Path or None
        ``tokenizer.json``; None where transformers must make one.
    layers : int
        Number of blocks.
    """

    resolved: Resolved
    weights: tuple[Path, ...]
    tokenizer: Path | None
    layers: int


def read_folder(resolved: Resolved) -> ModelFolder:
    """Read a model folder and check that it is whole, without opening the weights themselves.

    Raises
    ------
    ModelError
        A file is missing, damaged, a git-lfs pointer or of a kind that is not supported.
    """
    modules = read_modules(resolved.folder)
    path = resolved.folder / modules[0][1] if modules else resolved.folder
    _check_parts(path)
    facts = read_facts(resolved.folder, modules)
    _check_config(facts.path, facts.config)
    return ModelFolder(
        **vars(facts),
        resolved=resolved,
        weights=_weights(path),
        tokenizer=path / TOKENIZER if (path / TOKENIZER).exists() else None,
        layers=whole_number(facts.config, _LAYERS, path),
    )


# ------------------------------------------------------------------------------------------------- files


def _check_config(path: Path, config: Mapping[str, Any]) -> None:
    away = [key for key in _LEADING_AWAY if config.get(key) not in _OWN_ATTENTION]
    if away:
        raise ModelError(f"{path / CONFIG}: {away[0]} leads to weights or code elsewhere; remove it")


def _check_parts(path: Path) -> None:
    """Name all that is missing at once."""
    there = {p.name for p in path.iterdir()} if path.is_dir() else set()
    missing = [] if CONFIG in there else [CONFIG]
    if not there & {WEIGHTS, _INDEX}:
        pickled = sorted(name for name in there if re.fullmatch(r"pytorch_model.*\.bin", name))
        hint = f" (there is {pickled[0]}, but pickled weights are not loaded; convert it)" if pickled else ""
        missing.append(f"weights ({WEIGHTS}){hint}")
    if not there & {TOKENIZER, *_VOCABULARIES}:
        missing.append(f"a tokenizer ({TOKENIZER})")
    if "adapter_config.json" in there:
        raise ModelError(f"{path} holds an adapter (adapter_config.json), which is not applied; merge it first")
    if missing:
        holds = ", ".join(sorted(there)[:5]) or "nothing"
        raise ModelError(f"{path} is no whole model folder; missing: {', '.join(missing)} (it holds: {holds})")
    for name in sorted(there & {*_VOCABULARIES}):
        with (path / name).open("rb") as stream:
            refuse_pointer(path / name, stream.read(len(LFS)))


def _weights(path: Path) -> tuple[Path, ...]:
    if (path / WEIGHTS).exists():
        files = [path / WEIGHTS]
    else:
        listed = read_json(path / _INDEX).get("weight_map")
        names = list(listed.values()) if isinstance(listed, dict) else []
        if not names or not all(isinstance(name, str) and _is_weights(name) for name in names):
            raise ModelError(f"{path / _INDEX} lists no plain names of .safetensors files; restore the file")
        files = sorted(path / name for name in set(names))
    for file in files:
        _check_weights(file)
    return tuple(files)


def _is_weights(name: str) -> bool:
    """Whether an index's entry stays in its folder and is one that transformers does not give to torch.load."""
    return Path(name).name == name and name.endswith(".safetensors")


def _check_weights(file: Path) -> None:
    """Compare a safetensors file's size with what its header says."""
    if not file.exists():
        raise ModelError(f"{file} is missing, though the index lists it; download it again")
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(8)
        refuse_pointer(file, head + stream.read(len(LFS)))
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= min(_HEADER_LIMIT, size - 8):
            raise ModelError(f"{file} is damaged or cut off ({size:,} bytes); download it again")
        stream.seek(8)
        header = stream.read(length)
    try:
        tensors = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
        end = max(int(entry["data_offsets"][1]) for entry in tensors)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise ModelError(f"{file} is damaged: its header is not safetensors; download it again") from None
    if size != 8 + length + end:
        raise ModelError(
            f"{file} has {size:,} bytes where its header says {8 + length + end:,}: cut off or damaged; "
            "download it again"
        )
