"""The files beside a graph: what other tools read, and the card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embedkit.artifact import write_json
from embedkit.data.text import counted, printable
from embedkit.encoders import FeatureExtractor
from embedkit.export.parity import Parity
from embedkit.export.speed import Latency
from embedkit.runtime.description import Description
from embedkit.runtime.model_folder import TOKENIZER
from embedkit.runtime.tokens import Text, Tokenizer

GRAPH = "onnx/model.onnx"
GENERIC = "PreTrainedTokenizerFast"  # the class that takes all from tokenizer.json; transformers 4 and 5 know it
_OWN_CLASSES = (None, "TokenizersBackend", "PreTrainedTokenizer")  # unknown to transformers 4, or abstract
_SPECIAL = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token", "bos_token", "eos_token")
# What classes of transformers change in a tokenizer.json that they read; without them they take their defaults.
_BEHAVIOUR = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space", "trim_offsets",
              "do_basic_tokenize", "clean_up_tokenization_spaces")  # fmt: skip
# What a config.json says about its writer or about weights that are not in the folder.
_LEFT_OUT = ("_name_or_path", "_commit_hash", "auto_map", "quantization_config", "dtype", "torch_dtype")


def write_config(folder: Path, extractor: FeatureExtractor, description: Description) -> None:
    """Write ``config.json``: the encoder's own, with the names of the labels."""
    from transformers.models.auto import modeling_auto

    source = extractor.folder.config
    sequence = description.task == "sequence"
    names = modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES if sequence else None
    names = names or modeling_auto.MODEL_MAPPING_NAMES
    architecture = names.get(source["model_type"])
    config = {key: value for key, value in source.items() if key not in _LEFT_OUT}
    config |= {"torch_dtype": "float32"}
    if isinstance(architecture, str):
        config["architectures"] = [architecture]
    if sequence:
        config |= {
            "id2label": {str(code): name for code, name in enumerate(description.names)},
            "label2id": {name: code for code, name in enumerate(description.names)},
            "num_labels": len(description.names),
            "problem_type": description.to_json()["problem_type"],
        }
    write_json(folder / "config.json", config)


def write_tokenizer(
    folder: Path, extractor: FeatureExtractor, inputs: Sequence[str], texts: Sequence[Text]
) -> None:
    """Write the tokenizer's files; with the source's class, if transformers then splits `texts` as we do."""
    tokenizer = extractor.tokenizer
    (folder / TOKENIZER).write_text(tokenizer.to_json(), encoding="utf-8")
    source = _json(extractor.folder.path / "tokenizer_config.json")
    special = _special_tokens(extractor, source)
    write_json(folder / "special_tokens_map.json", special)
    kept = {key: source[key] for key in _BEHAVIOUR if key in source}
    settings = {
        **kept,
        **special,
        "tokenizer_class": GENERIC,
        "model_max_length": tokenizer.max_length,
        "model_input_names": list(inputs),
        "padding_side": "right",
        "truncation_side": tokenizer.side,
    }
    own = source.get("tokenizer_class")
    if own not in _OWN_CLASSES and "auto_map" not in source:
        write_json(folder / "tokenizer_config.json", {**settings, "tokenizer_class": own})
        if splits_alike(folder, tokenizer, texts):
            return
    plain = {key: value for key, value in settings.items() if key not in _BEHAVIOUR}
    write_json(folder / "tokenizer_config.json", {**plain, "clean_up_tokenization_spaces": False})


def _special_tokens(extractor: FeatureExtractor, source: Mapping[str, Any]) -> dict[str, str]:
    """Return the special tokens by what they are for; there is always one to pad with."""
    also = _json(extractor.folder.path / "special_tokens_map.json")
    found = {}
    for name in _SPECIAL:
        token = source.get(name) or also.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            found[name] = token
    return {**found, "pad_token": extractor.tokenizer.name(extractor.recipe.pad_id)}


def splits_alike(folder: Path, tokenizer: Tokenizer, texts: Sequence[Text]) -> bool:
    """Say whether transformers reads the same token ids with the tokenizer in a folder."""
    from transformers import AutoTokenizer

    try:
        theirs = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        for text in texts:
            parts = [text] if isinstance(text, str) else list(text)
            parts[0] = tokenizer.prompt + parts[0]
            given = theirs(*parts, truncation=True, max_length=tokenizer.max_length)["input_ids"]
            if list(given) != tokenizer.encode([text]).ids.tolist():
                return False
    except Exception:  # transformers and its classes raise many kinds; the generic class is the answer to all
        return False
    return True


def _json(path: Path) -> dict[str, Any]:
    """Read a file of the source folder, which `read_folder` has checked; an absent one is empty."""
    found: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    return found


def card(
    description: Description,
    source: str,
    metrics: Mapping[str, Any] | None,
    parity: Parity,
    latency: Latency,
    size: int,
) -> str:
    """Return ``README.md``: what the folder is, how good, how large, how to use it.

    Parameters
    ----------
    description : Description
    source : str
        The encoder's name.
    metrics : mapping, optional
        ``metrics.json`` of the classifier.
    parity : Parity
    latency : Latency
    size : int
        Bytes of the graph.
    """
    sequence = description.task == "sequence"
    kind = "text-classification" if sequence else "feature-extraction"
    count = len(description.labels)
    gives = f"and a classifier of {count} labels" if sequence else f"{description.width} numbers a text"
    lines = [
        "---",
        "library_name: onnxruntime",
        f"pipeline_tag: {kind}",
        "tags: [embedkit, onnx]",
        "---",
        f"# A {'text classifier' if sequence else 'text encoder'} in ONNX",
        "",
        f"One graph: the encoder {_code(source)}, {gives}.",
        "",
        *_labels(description),
        *_figures(metrics),
        f"- Size: {size / 1e6:.1f} MB, float32.",
        f"- One text of {latency.tokens} tokens: {latency.median:.1f} ms (median; p99 {latency.p99:.1f}) with "
        f"{counted(latency.threads, 'thread')} of {_code(latency.machine)}.",
        f"- Largest difference to torch on {parity.texts} texts of {parity.shortest} to {parity.longest} tokens: "
        f"{parity.difference:.1g}" + (", all labels equal." if sequence else "."),
        *_reading(description),
        "",
        "```python",
        "import embedkit.runtime",
        "",
        'model = embedkit.runtime.load("this/folder")',
        f"model.{'predict' if sequence else 'encode'}({'[(...)]' if description.input == 'pair' else '[...]'})",
        "```",
        "",
    ]
    return "\n".join(lines)


def _code(text: str) -> str:
    """Return text that Markdown leaves alone, on one line."""
    return f"`{printable(text, 100).replace('`', chr(39))}`"


def _labels(description: Description) -> list[str]:
    if not description.labels:
        return []
    shown = ", ".join(map(_code, description.names[:20]))
    more = len(description.names) - 20
    several = " A text may have any number of them." if description.multi_label else ""
    return [f"- Labels: {shown}{f' and {more} more' if more > 0 else ''}.{several}"]


def _figures(metrics: Mapping[str, Any] | None) -> list[str]:
    """Return a line for each split that was judged."""
    lines = []
    for name, split in (metrics or {}).get("splits", {}).items():
        known = [(word, split.get(word.replace(" ", "_"))) for word in ("accuracy", "subset accuracy", "macro f1")]
        said = [f"{word} {value:.3f}" for word, value in known if isinstance(value, float)]
        interval = split.get("accuracy_ci95")
        if said and isinstance(interval, list) and said[0].startswith("accuracy"):
            said[0] += f" (95 % interval {interval[0]:.3f} to {interval[1]:.3f})"
        if said:
            lines.append(f"- {_code(str(name))}, {split.get('n')} rows: {', '.join(said)}.")
    return lines


def _reading(description: Description) -> list[str]:
    """Return what is done to a text, and what tools that read the graph alone do not do."""
    long = "are read in windows" if description.long == "mean" else "lose what is beyond"
    lines = [f"- Texts of more than {description.max_length} tokens {long}."]
    apart = []
    if description.prompt:
        apart.append(f"put {_code(description.prompt)} before every text")
    if description.thresholds is not None:
        apart.append("apply the thresholds in `embedkit.json`")
    if description.long == "mean":
        apart.append("read long texts in windows")
    if apart:
        lines.append(f"- Other tools than embedkit.runtime do not {', nor '.join(apart)}.")
    return lines
