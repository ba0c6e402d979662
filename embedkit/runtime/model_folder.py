"""What the small files of a model folder say, whoever wrote it and whatever its weights are kept in.

One place for frozen encoders, whose weights torch opens, and for ONNX folders that others made: the transformers
configuration, the tokenizer's settings, the modules of sentence-transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedkit.errors import ModelError
from embedkit.runtime.tokens import Side

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
# Names that configurations of several families use for one thing.
_HIDDEN = ("hidden_size", "dim", "n_embd", "d_model")
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
LFS = b"version https://git-lfs"
# Architectures of transformers by what they end with, and the task of `embedkit.runtime.description`.
_HEADS = {"ForSequenceClassification": "sequence", "ForTokenClassification": "tokens"}
_PROBLEM_TYPES = (None, "single_label_classification", "multi_label_classification", "regression")


@dataclass(frozen=True)
class ModelFacts:
    """What a folder says about its model.

    Attributes
    ----------
    path : Path
        The folder that holds config, tokenizer and weights (a sentence-transformers module).
    config : dict
        Of ``config.json``.
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

    path: Path
    config: dict[str, Any]
    pooling: str
    pooling_error: str | None
    normalize: bool
    max_length: int
    positions: int | None
    hidden: int
    pad_id: int
    lowercase: bool
    side: Side
    prompts: Mapping[str, str]
    prompt_pooled: bool


def read_facts(folder: Path, modules: list[tuple[str, str]] | None = None) -> ModelFacts:
    """Read the small files of a model folder.

    Parameters
    ----------
    folder : Path
    modules : list of (str, str), optional
        Of `read_modules`, where they have been read.

    Raises
    ------
    ModelError
        A file is damaged, a git-lfs pointer, or of a kind that is not supported.
    """
    modules = read_modules(folder) if modules is None else modules
    path = folder / modules[0][1] if modules else folder
    config = _read_config(path)
    sentence = _sentence_settings(path)
    tokenizer = read_json(path / "tokenizer_config.json")
    pooling, pooling_error, prompt_pooled = _pooling(folder, modules, config)
    positions = _positions(config)
    return ModelFacts(
        path=path,
        config=config,
        pooling=pooling,
        pooling_error=pooling_error,
        normalize=any(kind == "Normalize" for kind, _ in modules),
        max_length=_max_length(sentence, tokenizer, positions),
        positions=positions,
        hidden=whole_number(config, _HIDDEN, path),
        pad_id=_pad_id(path, config, tokenizer),
        lowercase=bool(sentence.get("do_lower_case")),
        side="left" if tokenizer.get("truncation_side") == "left" else "right",
        prompts=_prompts(read_json(folder / "config_sentence_transformers.json")),
        prompt_pooled=prompt_pooled,
    )


# ------------------------------------------------------------------------------------------------- files


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; an absent file is an empty one."""
    if not path.exists():
        return {}
    value = _parse(path)
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object; restore the file")
    return value


def _parse(path: Path) -> Any:  # noqa: ANN401 - any JSON value
    data = path.read_bytes()
    refuse_pointer(path, data)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON ({error}); restore the file") from None


def refuse_pointer(path: Path, head: bytes) -> None:
    """Raise `ModelError` for a file that git-lfs has not fetched; `head` is its start."""
    if head.startswith(LFS):
        raise ModelError(f"{path} is a git-lfs pointer, not the file itself; run git lfs pull in the folder")


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path / CONFIG)
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise ModelError(f"{path / CONFIG} names no model_type")
    if config.get("is_encoder_decoder"):
        raise ModelError(
            f"{path} is an encoder-decoder ({kind}); supported are encoders (BERT and its kin) and decoders"
        )
    return config


# -------------------------------------------------------------------------- sentence-transformers modules


def read_modules(folder: Path) -> list[tuple[str, str]]:
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
    return next((found for found in map(read_json, files) if found), {})


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
    config = read_json(path)
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


def whole_number(config: Mapping[str, Any], names: tuple[str, ...], path: Path) -> int:
    """Return a number that configurations of several families have under different names."""
    for name in names:
        if isinstance(config.get(name), int):
            return int(config[name])
    raise ModelError(f"{path / CONFIG} has none of {', '.join(names)}: not a text encoder that is supported")


def _positions(config: Mapping[str, Any]) -> int | None:
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
    special = read_json(path / "special_tokens_map.json")
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
    added = read_json(path / TOKENIZER).get("added_tokens", [])
    return {
        entry["content"]: int(entry["id"]) for entry in added if isinstance(entry, dict) and "content" in entry
    }


# ---------------------------------------------------------------------------------------------- what it is for


def task_of(config: Mapping[str, Any]) -> str | None:
    """Return ``"sequence"`` or ``"tokens"`` for a classifier of transformers, None for any other architecture."""
    classes = config.get("architectures")
    for name in classes if isinstance(classes, list) else []:
        for ending, task in _HEADS.items():
            if str(name).endswith(ending):
                return task
    return None


def labels_of(config: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Return the names of a classifier's labels, in the order of its logits.

    Without ``id2label`` they are LABEL_0, LABEL_1, ..., two unless ``num_labels`` says how many: what transformers
    leaves out of the file because it is its default.

    Raises
    ------
    ModelError
        ``id2label`` does not count from 0, or names one label twice.
    """
    names = config.get("id2label")
    if names is None:
        count = config.get("num_labels", 2)
        names = {str(code): f"LABEL_{code}" for code in range(count if type(count) is int and count > 0 else 2)}
    if not isinstance(names, dict) or set(names) != {str(code) for code in range(len(names))} or not names:
        raise ModelError(f"{path / CONFIG}: id2label does not name a label for each number from 0 up")
    labels = tuple(str(names[str(code)]) for code in range(len(names)))
    if len(set(labels)) < len(labels):
        raise ModelError(f"{path / CONFIG}: id2label names one label twice")
    return labels


def is_multi_label(config: Mapping[str, Any], labels: tuple[str, ...], path: Path) -> bool:
    """Say whether a text has any number of the labels.

    Raises
    ------
    ModelError
        The model gives a number and no label (``problem_type`` regression, or a single label).
    """
    problem = config.get("problem_type")
    if problem not in _PROBLEM_TYPES:
        raise ModelError(f"{path / CONFIG}: problem_type is {problem!r}, which is none that transformers knows")
    several = problem == "multi_label_classification"
    if problem == "regression" or (len(labels) < 2 and not several):
        raise ModelError(
            f"{path / CONFIG}: {'problem_type regression' if problem == 'regression' else 'a single label'} means "
            "that the model gives a number (a score, a similarity), and no label could be told from it"
        )
    return several
