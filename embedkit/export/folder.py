"""The files beside a graph: what other tools read, and the card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embedkit.artifact import write_json
from embedkit.data.text import counted
from embedkit.encoders import Recipe
from embedkit.export.parity import Input, Parity, encoded
from embedkit.export.speed import Latency
from embedkit.export.verdict import INT8, Verdict
from embedkit.runtime.description import Description
from embedkit.runtime.manifest import MANIFEST, MARK
from embedkit.runtime.model_folder import TOKENIZER, ModelFacts, read_json
from embedkit.runtime.tokens import Tokenizer
from embedkit.sharing import code, figure_lines, label_line

GRAPH = "onnx/model.onnx"
SMALL = "onnx/model_quantized.onnx"
TOKENIZER_SETTINGS = _SETTINGS, _SPECIAL_MAP = "tokenizer_config.json", "special_tokens_map.json"
GENERIC = "PreTrainedTokenizerFast"  # the class that takes all from tokenizer.json; transformers 4 and 5 know it
_OWN_CLASSES = (None, "TokenizersBackend", "PreTrainedTokenizer")  # unknown to transformers 4, or abstract
_SPECIAL = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token", "bos_token", "eos_token")
# What classes of transformers change in a tokenizer.json that they read; without them they take their defaults.
_BEHAVIOUR = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space", "trim_offsets",
              "do_basic_tokenize", "clean_up_tokenization_spaces")  # fmt: skip
# What a config.json says about its writer or about weights that are not in the folder.
_LEFT_OUT = ("_name_or_path", "_commit_hash", "auto_map", "quantization_config", "dtype", "torch_dtype")


# What sentence-transformers calls our poolings.
_MODES = {
    "cls": "cls_token",
    "mean": "mean_tokens",
    "max": "max_tokens",
    "mean_sqrt_len": "mean_sqrt_len_tokens",
    "last": "lasttoken",
}


def write_config(folder: Path, source: Mapping[str, Any], description: Description) -> None:
    """Write ``config.json``: the source's own, with the names of the labels."""
    from transformers.models.auto import modeling_auto

    names = {
        "sequence": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        "tokens": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
        "encoder": modeling_auto.MODEL_MAPPING_NAMES,
    }[description.task]
    architecture = names.get(source["model_type"])
    config = {key: value for key, value in source.items() if key not in _LEFT_OUT}
    config |= {"torch_dtype": "float32", MARK: MANIFEST}
    if isinstance(architecture, str):
        config["architectures"] = [architecture]
    if description.labels:
        config |= {
            "id2label": {str(code): name for code, name in enumerate(description.names)},
            "label2id": {name: code for code, name in enumerate(description.names)},
            "num_labels": len(description.names),
            "problem_type": description.to_json()["problem_type"] if description.task == "sequence" else None,
        }
    write_json(folder / "config.json", config)


def sentence_transformers_files(recipe: Recipe, width: int) -> dict[str, Any]:
    """Return what sentence-transformers reads beside an encoder, by file name; nothing where it cannot follow.

    Without these files it takes the mean of the last states and leaves its length as it is.

    Parameters
    ----------
    recipe : Recipe
    width : int
        Numbers of a state.
    """
    if recipe.layers != ("last",) or len(recipe.poolings) != 1 or recipe.poolings[0] not in _MODES:
        return {}
    kinds = ["Transformer", "Pooling", *["Normalize"] * recipe.normalize]
    modules = [
        {
            "idx": place,
            "name": str(place),
            "path": f"{place}_{kind}" if place else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for place, kind in enumerate(kinds)
    ]
    modes = {f"pooling_mode_{name}": how == recipe.poolings[0] for how, name in _MODES.items()}
    prompt = {"prompts": {"default": recipe.prompt}, "default_prompt_name": "default"}
    return {
        "modules.json": modules,
        "1_Pooling/config.json": {"word_embedding_dimension": width, **modes},
        **({"config_sentence_transformers.json": prompt} if recipe.prompt else {}),
    }


def write_tokenizer(
    folder: Path, source: ModelFacts, tokenizer: Tokenizer, names: Sequence[str], inputs: Sequence[Input]
) -> None:
    """Write the tokenizer's files; with the source's class, if transformers then splits `inputs` as we do.

    Parameters
    ----------
    folder : Path
        Written to.
    source : ModelFacts
        Whose settings are kept.
    tokenizer : Tokenizer
    names : sequence of str
        What the graph takes.
    inputs : sequence of str, of (str, str), or of list of str
    """
    (folder / TOKENIZER).write_text(tokenizer.to_json(), encoding="utf-8")
    found = read_json(source.path / _SETTINGS)
    special = _special_tokens(source.path, found, tokenizer)
    write_json(folder / _SPECIAL_MAP, special)
    kept = {key: found[key] for key in _BEHAVIOUR if key in found}
    space = {"add_prefix_space": True} if tokenizer.prefixes_space else {}
    settings = {
        **kept,
        **space,
        **special,
        "tokenizer_class": GENERIC,
        "model_max_length": tokenizer.max_length,
        "model_input_names": list(names),
        "padding_side": "right",
        "truncation_side": tokenizer.side,
    }
    own = found.get("tokenizer_class")
    if own not in _OWN_CLASSES and "auto_map" not in found:
        write_json(folder / _SETTINGS, {**settings, "tokenizer_class": own})
        theirs = transformers_tokenizer(folder)
        if theirs is not None and splits_alike(theirs, tokenizer, inputs):
            return
    plain = {key: value for key, value in settings.items() if key not in _BEHAVIOUR}
    write_json(folder / _SETTINGS, {**plain, **space, "clean_up_tokenization_spaces": False})


def _special_tokens(source: Path, settings: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, str]:
    """Return the special tokens by what they are for; there is always one to pad with."""
    also = read_json(source / _SPECIAL_MAP)
    found = {}
    for name in _SPECIAL:
        token = settings.get(name) or also.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            found[name] = token
    return {**found, "pad_token": tokenizer.name(tokenizer.pad_id)}


def transformers_tokenizer(folder: Path) -> Any | None:  # noqa: ANN401 - one of its many classes
    """Return the tokenizer that transformers makes of a folder, None where it cannot."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception:  # it and its classes raise many kinds
        return None


def splits_alike(theirs: Any, tokenizer: Tokenizer, inputs: Sequence[Input]) -> bool:  # noqa: ANN401
    """Say whether a tokenizer of transformers gives the token ids that ours does."""
    how = {"truncation": True, "max_length": tokenizer.max_length}
    for item in inputs:
        try:
            if isinstance(item, list):
                given = theirs(item, is_split_into_words=True, **how)
            else:
                first, *second = [item] if isinstance(item, str) else item
                given = theirs(tokenizer.prompt + first, *second, **how)
        except Exception:  # as above
            return False
        tokens = encoded(tokenizer, [item])
        window = -1 if tokenizer.side == "left" else 0  # of a list of words, what transformers leaves of it
        start, end = tokens.offsets[[window - 1, window] if window else [0, 1]]
        if list(given["input_ids"]) != tokens.ids[start:end].tolist():
            return False
    return True


# Of each task: the hub's name, what the card calls it, and what answers.
_KINDS = {
    "sequence": ("text-classification", "text classifier", "predict"),
    "tokens": ("token-classification", "token classifier", "entities"),
    "encoder": ("feature-extraction", "text encoder", "encode"),
}


def card(
    description: Description,
    source: str,
    metrics: Mapping[str, Any] | None,
    parity: Parity,
    latency: Latency,
    size: int,
    int8: Verdict | None = None,
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
    int8 : Verdict, optional
        Where one was asked for.
    """
    kind, what, call = _KINDS[description.task]
    if description.task == "tokens" and not description.spans:
        call = "predict_tokens"
    count = counted(len(description.labels), "label")
    gives = f"and a classifier of {count}" if description.labels else f"{description.width} numbers a text"
    lines = [
        "---",
        "library_name: onnxruntime",
        f"pipeline_tag: {kind}",
        "tags: [embedkit, onnx]",
        "---",
        f"# A {what} in ONNX",
        "",
        f"One graph: the encoder {code(source)}, {gives}.",
        "",
        *([label_line(description.names, several=description.multi_label)] if description.labels else []),
        *figure_lines(metrics or {}),
        f"- Size: {size / 1e6:.1f} MB, float32.",
        f"- One text of {latency.tokens} tokens: {latency.median:.1f} ms (median; p99 {latency.p99:.1f}) with "
        f"{counted(latency.threads, 'thread')} of {code(latency.machine)}.",
        f"- Largest difference to torch on {parity.texts} texts of {parity.shortest} to {parity.longest} tokens: "
        f"{parity.difference:.1g}" + (", all labels equal." if description.labels else "."),
        *_small(int8),
        *_reading(description),
        "",
        "```python",
        "import embedkit.runtime",
        "",
        'model = embedkit.runtime.load("this/folder")',
        f"model.{call}({'[(...)]' if description.input == 'pair' else '[...]'})",
        "```",
        "",
    ]
    return "\n".join(lines)


def _small(verdict: Verdict | None) -> list[str]:
    """Return how the int8 graph compares, or that it does not hold."""
    if verdict is None:
        return []
    if not verdict.published:
        return [f"- An int8 graph lost more than {verdict.max_drop:g} of {verdict.metric}, so there is none."]
    compared, latency = verdict.comparison, verdict.latency[INT8]
    low, high = compared["ci95"]
    name = verdict.metric.replace("_", " ")
    return [
        f"- int8 (`{SMALL}`): {verdict.sizes[INT8] / 1e6:.1f} MB; one text {latency.median:.1f} ms (p99 "
        f"{latency.p99:.1f}); {name} {compared['first']:.3f} beside {compared['second']:.3f} in float32 ("
        f"difference {compared['difference']:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}) on "
        f"{verdict.rows:,} rows; {verdict.labels_equal:.1%} of the answers are the same."
    ]


def _reading(description: Description) -> list[str]:
    """Return what is done to a text, and what tools that read the graph alone do not do."""
    long = {"mean": "are read in windows", "windows": "are read in overlapping windows"}
    become = long.get(description.long, "lose what is beyond")
    lines = [f"- Texts of more than {description.max_length} tokens {become}."]
    apart = []
    if description.prompt:
        apart.append(f"put {code(description.prompt)} before every text")
    if description.thresholds is not None:
        apart.append("apply the thresholds in `embedkit.json`")
    if description.long in long:
        apart.append("read long texts in windows")
    if description.decoding == "bio":
        apart.append("keep to valid IOB2 tags")
    if apart:
        lines.append(f"- Other tools than embedkit.runtime do not {', nor '.join(apart)}.")
    return lines
