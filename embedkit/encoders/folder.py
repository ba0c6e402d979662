"""A model folder read without torch: what it is, what it says about pooling and lengths, whether it is whole."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedkit.encoders.settings import Side
from embedkit.errors import ModelError
from embedkit.hub import Resolved

WEIGHTS = "model.safetensors"
_INDEX = f"{WEIGHTS}.index.json"
TOKENIZER = "tokenizer.json"
# From any of these, transformers can build a tokenizer.json.
_VOCABULARIES = (
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "spm.model",
    "tokenizer.model",
)
# Names that configurations of several families use for one thing.
_HIDDEN = ("hidden_size", "dim", "n_embd", "d_model")
_LAYERS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")
_POSITIONS = ("max_position_embeddings", "n_positions")
# Families whose positions start behind the padding index.
_OFFSET_POSITIONS = frozenset({"camembert", "data2vec-text", "ibert", "longformer", "luke", "mpnet", "roberta",
                               "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"})  # fmt: skip
_DECODERS = frozenset({"bloom", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neo", "gpt_neox", "gptj",
                       "llama", "mistral", "olmo", "olmo2", "opt", "phi", "phi3", "qwen2", "qwen3",
                       "smollm3"})  # fmt: skip
_NO_LIMIT = 100_000  # tokenizers without a limit say 1e30
_POOLING_NAMES = {"lasttoken": "last", "mean_sqrt_len_tokens": "mean_sqrt_len"}
_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "last",
}
_SENTENCE_KINDS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
# What transformers would follow to weights or code that no digest of ours covers.
_LEADING_AWAY = ("transformers_weights", "attn_implementation", "_attn_implementation", "experts_implementation",
                 "_experts_implementation")  # fmt: skip
_OWN_ATTENTION = (None, "eager", "sdpa")
_LFS = b"version https://git-lfs"
_HEADER_LIMIT = 100 << 20  # bytes, as the safetensors library allows


@dataclass(frozen=True)
class ModelFolder:
    """What a folder says about its model.

    Attributes
    ----------
    resolved : Resolved
        The folder and its name.
    config : dict
        Of ``config.json``.
    weights : tuple of Path
        Safetensors files, sorted by name, each whole.
    tokenizer : Path or None
        ``tokenizer.json``; None where transformers must make one.
    pooling : str
        Default pooling.
    pooling_error : str or None
        Why the folder's own way from tokens to a vector cannot be followed; pooling must then be chosen.
    normalize : bool
        Whether the folder's last step scales vectors to length 1.
    max_length : int
        Default for the most tokens of a text.
    positions : int or None
        Most tokens that the model has positions for; None for no limit.
    layers : int
        Number of blocks.
    hidden : int
        Width of a hidden state.
    pad_id : int
        Id that padding is filled with.
    lowercase : bool
        Whether texts are lower-cased before the tokenizer.
    side : {"right", "left"}
        The end that truncation cuts off.
    prompts : dict of str to str
        By name; the default prompt also stands under ``""``.
    prompt_pooled : bool
        Whether pooling includes the prompt's tokens.
    """

    resolved: Resolved
    config: dict[str, Any]
    weights: tuple[Path, ...]
    tokenizer: Path | None
    pooling: str
    pooling_error: str | None
    normalize: bool
    max_length: int
    positions: int | None
    layers: int
    hidden: int
    pad_id: int
    lowercase: bool
    side: Side
    prompts: Mapping[str, str]
    prompt_pooled: bool

    @property
    def path(self) -> Path:
        """The folder that holds config, weights and tokenizer (a sentence-transformers module)."""
        return self.weights[0].parent


def read_folder(resolved: Resolved) -> ModelFolder:
    """Read a model folder and check that it is whole, without opening the weights themselves.

    Raises
    ------
    ModelError
        A file is missing, damaged, a git-lfs pointer or of a kind that is not supported.
    """
    modules = _modules(resolved.folder)
    path = resolved.folder / modules[0][1] if modules else resolved.folder
    _check_parts(path)
    config = _read_config(path)
    sentence = _sentence_settings(path)
    tokenizer = _json(path / "tokenizer_config.json")
    prompts = _json(resolved.folder / "config_sentence_transformers.json")
    pooling, pooling_error, prompt_pooled = _pooling(resolved.folder, modules, config)
    positions = _positions(config, path)
    return ModelFolder(
        resolved=resolved,
        config=config,
        weights=_weights(path),
        tokenizer=path / TOKENIZER if (path / TOKENIZER).exists() else None,
        pooling=pooling,
        pooling_error=pooling_error,
        normalize=any(kind == "Normalize" for kind, _ in modules),
        max_length=_max_length(sentence, tokenizer, positions),
        positions=positions,
        layers=_whole_number(config, _LAYERS, path),
        hidden=_whole_number(config, _HIDDEN, path),
        pad_id=_pad_id(path, config, tokenizer),
        lowercase=bool(sentence.get("do_lower_case")),
        side="left" if tokenizer.get("truncation_side") == "left" else "right",
        prompts=_prompts(prompts),
        prompt_pooled=prompt_pooled,
    )


# ------------------------------------------------------------------------------------------------- files


def _json(path: Path) -> dict[str, Any]:
    """Read a JSON object; an absent file is an empty one."""
    if not path.exists():
        return {}
    value = _parse(path)
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object; restore the file")
    return value


def _parse(path: Path) -> Any:  # noqa: ANN401 - any JSON value
    data = path.read_bytes()
    _refuse_pointer(path, data)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON ({error}); restore the file") from None


def _refuse_pointer(path: Path, head: bytes) -> None:
    if head.startswith(_LFS):
        raise ModelError(f"{path} is a git-lfs pointer, not the file itself; run git lfs pull in the folder")


def _read_config(path: Path) -> dict[str, Any]:
    config = _json(path / "config.json")
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise ModelError(f"{path / 'config.json'} names no model_type")
    if config.get("is_encoder_decoder"):
        raise ModelError(
            f"{path} is an encoder-decoder ({kind}); supported are encoders (BERT and its kin) and decoders"
        )
    away = [key for key in _LEADING_AWAY if config.get(key) not in _OWN_ATTENTION]
    if away:
        raise ModelError(f"{path / 'config.json'}: {away[0]} leads to weights or code elsewhere; remove it")
    return config


def _check_parts(path: Path) -> None:
    """Name all that is missing at once."""
    there = {p.name for p in path.iterdir()} if path.is_dir() else set()
    missing = [] if "config.json" in there else ["config.json"]
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
            _refuse_pointer(path / name, stream.read(len(_LFS)))


def _weights(path: Path) -> tuple[Path, ...]:
    if (path / WEIGHTS).exists():
        files = [path / WEIGHTS]
    else:
        listed = _json(path / _INDEX).get("weight_map")
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
        _refuse_pointer(file, head + stream.read(len(_LFS)))
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


# -------------------------------------------------------------------------- sentence-transformers modules


def _modules(folder: Path) -> list[tuple[str, str]]:
    """Return (class name, sub-folder) of each module in order; none for a plain transformers folder."""
    path = folder / "modules.json"
    if not path.exists():
        return []
    listed = _parse(path)
    try:
        modules = [(_module_kind(str(entry["type"])), str(entry["path"])) for entry in listed]
    except (TypeError, KeyError):
        raise ModelError(f"{path} does not list modules with type and path; restore the file") from None
    if not modules or modules[0][0] != "Transformer":
        first = modules[0][0] if modules else "nothing"
        raise ModelError(f"{path}: the first module is {first}; only text models that start with Transformer work")
    for kind, inner in modules:
        parts = Path(inner).parts
        if ".." in parts or Path(inner).is_absolute():
            raise ModelError(f"{path}: the module {kind} lies outside the folder ({inner})")
    return modules


def _module_kind(name: str) -> str:
    """Return the class name of a module of sentence-transformers; anybody else's keeps its full name."""
    return name.rpartition(".")[2] if name.startswith("sentence_transformers.") else name


def _sentence_settings(path: Path) -> dict[str, Any]:
    """Return the Transformer module's settings, under the first of the names that old releases gave the file."""
    files = (path / f"sentence_{kind}_config.json" for kind in _SENTENCE_KINDS)
    return next((found for found in map(_json, files) if found), {})


def _pooling(
    folder: Path, modules: list[tuple[str, str]], config: Mapping[str, Any]
) -> tuple[str, str | None, bool]:
    """Return the default pooling, why it must not be used, and whether prompts are pooled."""
    if not modules:
        return ("last" if _is_decoder(config) else "cls"), None, True
    others = [kind for kind, _ in modules[1:] if kind not in ("Pooling", "Normalize")]
    if others:
        reason = f"its module {others[0]} is not supported; choose a pooling to use the transformer without it"
        return "mean", reason, True
    for kind, inner in modules[1:]:
        if kind == "Pooling":
            return _pooling_module(folder / inner / "config.json")
    return "mean", None, True  # sentence-transformers' own default


def _is_decoder(config: Mapping[str, Any]) -> bool:
    """Say whether only a text's last token has read all of it."""
    classes = config.get("architectures")
    causal = isinstance(classes, list) and any(str(name).endswith("ForCausalLM") for name in classes)
    return causal or config["model_type"] in _DECODERS


def _pooling_module(path: Path) -> tuple[str, str | None, bool]:
    config = _json(path)
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [name for flag, name in _POOLING_FLAGS.items() if config.get(flag)]
    names = [_POOLING_NAMES.get(mode, mode) for mode in ([modes] if isinstance(modes, str) else modes or ["mean"])]
    reason = None
    if "weightedmean" in names:
        reason = "its pooling weightedmean is not supported; choose another pooling"
    return "+".join(map(str, names)), reason, bool(config.get("include_prompt", True))


def _prompts(config: Mapping[str, Any]) -> dict[str, str]:
    found = config.get("prompts")
    prompts = {str(k): str(v or "") for k, v in found.items() if k} if isinstance(found, dict) else {}
    default = config.get("default_prompt_name")
    if isinstance(default, str) and default in prompts:
        prompts[""] = prompts[default]
    return prompts


# ------------------------------------------------------------------------------------------------ numbers


def _whole_number(config: Mapping[str, Any], names: tuple[str, ...], path: Path) -> int:
    for name in names:
        if isinstance(config.get(name), int):
            return int(config[name])
    raise ModelError(
        f"{path / 'config.json'} has none of {', '.join(names)}: not a text encoder that is supported"
    )


def _positions(config: Mapping[str, Any], path: Path) -> int | None:
    limits = [config[name] for name in _POSITIONS if isinstance(config.get(name), int)]
    if not limits or limits[0] <= 0:
        return None
    if config["model_type"] in _OFFSET_POSITIONS:
        pad = config.get("pad_token_id")
        return int(limits[0]) - (int(pad) if isinstance(pad, int) else 1) - 1
    return int(limits[0])


def _max_length(sentence: Mapping[str, Any], tokenizer: Mapping[str, Any], positions: int | None) -> int:
    """Return sentence_bert_config.json's limit, else the tokenizer's, never above the positions."""
    limits = [sentence.get("max_seq_length"), tokenizer.get("model_max_length"), positions, 512]
    chosen = next(int(limit) for limit in limits if isinstance(limit, int | float) and 0 < limit < _NO_LIMIT)
    return chosen if positions is None else min(chosen, positions)


def _pad_id(path: Path, config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> int:
    """Return the id of the padding token, else of the end of a text."""
    special = _json(path / "special_tokens_map.json")
    ids = _token_ids(path)
    for kind in ("pad_token", "eos_token"):
        token: Any = tokenizer.get(kind) or special.get(kind)
        token = token.get("content") if isinstance(token, dict) else token
        if token in ids:
            return ids[token]
        if isinstance(config.get(f"{kind}_id"), int):
            return int(config[f"{kind}_id"])
    raise ModelError(f"{path} names no padding token and no end-of-text token; add pad_token_id to config.json")


def _token_ids(path: Path) -> dict[str, int]:
    """Return the ids of the added tokens, which all special tokens are."""
    added = _json(path / TOKENIZER).get("added_tokens", [])
    return {
        entry["content"]: int(entry["id"]) for entry in added if isinstance(entry, dict) and "content" in entry
    }
