"""Small transformers model folders with real tokenizers, made in code: nothing is downloaded.

Weights are drawn with ``initializer_range`` 0.3, fifteen times the usual: at the usual one a tiny model answers
nearly the same to every text, and tests of masks and positions could not fail.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AlbertConfig,
    AlbertTokenizer,
    AutoModel,
    BertConfig,
    BertTokenizer,
    DebertaV2Config,
    DebertaV2Tokenizer,
    DistilBertConfig,
    DistilBertTokenizer,
    ElectraConfig,
    GPT2Config,
    GPT2Tokenizer,
    ModernBertConfig,
    MPNetConfig,
    MPNetTokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaTokenizer,
    T5Config,
    XLMRobertaConfig,
    XLMRobertaTokenizer,
)

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

FAMILIES: tuple[str, ...] = (
    "bert",
    "distilbert",
    "roberta",
    "xlm-roberta",
    "mpnet",
    "electra",
    "deberta-v2",
    "modernbert",
    "albert",
)

# What film reviews and news are made of; each stands once.
_TEXT = """
    the a an and or but not no of to in on at for from with by as is was are were be been it its this that these
    film movie story plot actor acting scene director script cast music drama comedy thriller audience love
    good bad great best worst funny dull boring brilliant beautiful terrible awful fine fresh moving never always
    very too so more most than much his her their they he she you i we who what when one two three first last new
    old year years time people man woman life world day government minister market company shares bank price
    profit sales economy election party law police court game team player match season goal club coach cup
    technology computer software phone internet users online said says will would could has have had do does did
    make made take like just only about into over after before out up down all some any other well"""
WORDS: tuple[str, ...] = tuple(_TEXT.split())
_CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'\"-()&%$#@/"
_RANGE = 0.3
# Positions that are never used: RoBERTa and its kin count from the padding id + 1.
_LOST_POSITIONS = {"roberta": 2, "xlm-roberta": 2, "mpnet": 2}


def make_encoder(
    folder: Path,
    family: str,
    *,
    hidden: int = 32,
    layers: int = 3,
    heads: int = 4,
    positions: int = 64,
    seed: int = 0,
    lowercase: bool = True,
    half: bool = False,
) -> Path:
    """Write an encoder: ``config.json``, ``model.safetensors``, ``tokenizer.json`` and what stands beside them.

    Parameters
    ----------
    folder : Path
        Made where it is missing.
    family : str
        One of `FAMILIES`.
    hidden, layers, heads : int
        Size; `hidden` divides by `heads`.
    positions : int
        Most tokens of a text, special tokens included; the tokenizer's ``model_max_length`` too.
    seed : int
        Of the weights.
    lowercase : bool
        What the tokenizer of the WordPiece families and of ALBERT does by itself.
    half : bool
        Store the weights as float16.

    Returns
    -------
    Path
        `folder`.
    """
    tokenizer = _tokenizer(family, positions, lowercase)
    config = _config(family, tokenizer, hidden, layers, heads, positions)
    return _save(folder, config, tokenizer, seed, half=half)


def make_decoder(folder: Path, *, pad: bool = True, positions: int = 64, seed: int = 0) -> Path:
    """Write a GPT-2 of two layers, hidden size 32; its tokenizer adds no special tokens and pads only if `pad`."""
    vocabulary, merges = _byte_level(["<|endoftext|>", "<|pad|>"] if pad else ["<|endoftext|>"])
    tokenizer = GPT2Tokenizer(vocabulary, merges, pad_token="<|pad|>" if pad else None, model_max_length=positions)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=positions,
        n_embd=32,
        n_layer=2,
        n_head=4,
        initializer_range=_RANGE,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=tokenizer.pad_token_id,
    )
    return _save(folder, config, tokenizer, seed)


def without_dropout(folder: Path) -> Path:
    """Take dropout out of a model: parts of a step draw other numbers than the whole."""
    config = json.loads((folder / "config.json").read_text())
    config |= {name: 0.0 for name in config if "dropout" in name and isinstance(config[name], float)}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def make_encoder_decoder(folder: Path, *, seed: int = 0) -> Path:
    """Write a T5 of one layer each, with a tokenizer: a kind that is refused."""
    special = ("<pad>", "</s>", "<unk>")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_unigram(special),
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=64,
    )
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=1, num_decoder_layers=1, num_heads=4
    )
    return _save(folder, config, tokenizer, seed)


def _save(
    folder: Path, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, seed: int, *, half: bool = False
) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModel.from_config(config).eval()
    (model.half() if half else model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _write(folder / "special_tokens_map.json", tokenizer.special_tokens_map)
    return folder


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


# Configurations


def _config(
    family: str, tokenizer: PreTrainedTokenizerBase, hidden: int, layers: int, heads: int, positions: int
) -> PreTrainedConfig:
    """Return the family's configuration; where it has embeddings of another width, they are half as wide."""
    common: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 2 * hidden,
        "max_position_embeddings": positions + _LOST_POSITIONS.get(family, 0),
        "initializer_range": _RANGE,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
    }
    if family == "distilbert":
        return DistilBertConfig(
            vocab_size=len(tokenizer),
            dim=hidden,
            n_layers=layers,
            n_heads=heads,
            hidden_dim=2 * hidden,
            max_position_embeddings=positions,
            initializer_range=_RANGE,
            pad_token_id=tokenizer.pad_token_id,
        )
    if family in ("roberta", "xlm-roberta"):
        kind = RobertaConfig if family == "roberta" else XLMRobertaConfig
        return kind(**common, type_vocab_size=1)
    if family == "deberta-v2":  # as version 3 is: relative positions alone
        return DebertaV2Config(
            **common,
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            position_buckets=16,
            share_att_key=True,
            position_biased_input=False,
            norm_rel_ebd="layer_norm",
            max_relative_positions=-1,
            type_vocab_size=0,
        )
    if family == "modernbert":  # local layers see 8 tokens to each side
        special = {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
        return ModernBertConfig(**common, **special, local_attention=16)
    if family in ("electra", "albert"):
        kind = ElectraConfig if family == "electra" else AlbertConfig
        return kind(**common, embedding_size=hidden // 2)
    return {"bert": BertConfig, "mpnet": MPNetConfig}[family](**common)


# Tokenizers


def _tokenizer(family: str, positions: int, lowercase: bool) -> PreTrainedTokenizerBase:
    """Build the family's own tokenizer over `WORDS`; special ids as in the family's first release."""
    if family in ("bert", "electra", "distilbert"):
        vocabulary = _word_pieces("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
        word_piece = DistilBertTokenizer if family == "distilbert" else BertTokenizer
        return word_piece(vocabulary, do_lower_case=lowercase, model_max_length=positions)
    if family == "mpnet":
        vocabulary = _word_pieces("<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>")
        return MPNetTokenizer(vocabulary, do_lower_case=lowercase, model_max_length=positions)
    if family == "roberta":
        vocabulary, merges = _byte_level(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
        return RobertaTokenizer(vocabulary, merges, model_max_length=positions)
    if family == "modernbert":
        return _modernbert_tokenizer(positions)
    if family == "xlm-roberta":
        pieces = _pieces("<s>", "<pad>", "</s>", "<unk>", "<mask>")
        return XLMRobertaTokenizer(pieces, model_max_length=positions)
    if family == "deberta-v2":
        pieces = _pieces("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")
        return DebertaV2Tokenizer(pieces, model_max_length=positions)
    if family == "albert":
        pieces = _pieces("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")
        return AlbertTokenizer(pieces, do_lower_case=lowercase, model_max_length=positions)
    raise ValueError(f"family {family!r} is none of {FAMILIES}")


def _word_pieces(*special: str) -> dict[str, int]:
    """Whole words, single characters and a few endings: 301 entries and the special tokens."""
    endings = ("##s", "##ed", "##ing", "##ly", "##er")
    inner = [f"##{c}" for c in _CHARACTERS if c.isalnum()]
    entries = dict.fromkeys((*special, *_CHARACTERS, *WORDS, *inner, *endings))
    return {entry: index for index, entry in enumerate(entries)}


def _pieces(*special: str) -> list[tuple[str, float]]:
    """SentencePiece pieces with log probabilities: a whole word is always likelier than its characters."""
    whole = [(f"▁{word}", -3.0 - 0.01 * i) for i, word in enumerate(dict.fromkeys(WORDS))]
    single = [(c, -8.0 - 0.01 * i) for i, c in enumerate(dict.fromkeys(f"▁{_CHARACTERS}"))]
    return [*((token, 0.0) for token in special), *whole, *single]


def _unigram(special: tuple[str, ...]) -> Tokenizer:
    """T5's: no start, one end."""
    backend = Tokenizer(models.Unigram(_pieces(*special), unk_id=special.index("<unk>"), byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", special.index("</s>"))]
    )
    return backend


def _byte_level(special: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges learnt from `WORDS`: the special tokens, 256 bytes and 120 merges."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + len(alphabet) + 120,
        special_tokens=[AddedToken(token, special=True) for token in special],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator(WORDS, trainer)
    model = json.loads(backend.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]


def _modernbert_tokenizer(positions: int) -> PreTrainedTokenizerBase:
    """ModernBERT has no tokenizer class of its own: what it does stands in ``tokenizer.json`` alone."""
    special = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    vocabulary, merges = _byte_level([*special.values(), "[MASK]"])
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **special,
        mask_token="[MASK]",
        model_max_length=positions,
        model_input_names=["input_ids", "attention_mask"],
    )


# sentence-transformers

_OLD_TYPES = "sentence_transformers.models.{}"
_NEW_TYPES = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}
_POOLING_FLAGS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


def make_sentence_transformer(
    folder: Path,
    family: str = "bert",
    *,
    pooling: str = "mean",
    normalize: bool = True,
    new_style: bool = False,
    max_seq_length: int | None = None,
    prompts: dict[str, str] | None = None,
    default_prompt: str | None = None,
    dense: bool = False,
    do_lower_case: bool = False,
    normalize_folder_absent: bool = False,
    include_prompt: bool = True,
    positions: int = 64,
    seed: int = 0,
) -> Path:
    """Write `make_encoder`'s folder as a sentence-transformers model.

    Parameters
    ----------
    folder : Path
        Made where it is missing.
    family : str
        One of `FAMILIES`.
    pooling : str
        A pooling mode as sentence-transformers calls it, or several joined by ``+``.
    normalize : bool
        End with a Normalize module.
    new_style : bool
        The layout that sentence-transformers 6.2 writes, else that of 2 to 5.
    max_seq_length : int, optional
        Stands in ``sentence_bert_config.json``; in the new style it is the tokenizer's ``model_max_length``.
    prompts : dict, optional
        By name.
    default_prompt : str, optional
        One of their names.
    dense : bool
        A Dense module between pooling and Normalize, to half the width, with tanh.
    do_lower_case : bool
        The tokenizer keeps case and ``sentence_bert_config.json`` asks for lower case; in the new style the
        tokenizer does it, as sentence-transformers 6 writes that into ``tokenizer.json``.
    normalize_folder_absent : bool
        Leave out the Normalize module's folder, as git does when it is empty.
    include_prompt : bool
        Whether the prompt's tokens are pooled.
    positions, seed : int
        As for `make_encoder`.

    Returns
    -------
    Path
        `folder`.
    """
    make_encoder(folder, family, positions=positions, seed=seed, lowercase=new_style or not do_lower_case)
    _write_transformer_settings(folder, new_style, max_seq_length, do_lower_case)
    kinds = ["Transformer", "Pooling", *["Dense"] * dense, *["Normalize"] * normalize]
    paths = ["", *(f"{i}_{kind}" for i, kind in enumerate(kinds[1:], start=1))]
    types = [_NEW_TYPES[kind] if new_style else _OLD_TYPES.format(kind) for kind in kinds]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": kind}
        for i, (path, kind) in enumerate(zip(paths, types, strict=True))
    ]
    _write(folder / "modules.json", modules)
    _write_pooling(folder / "1_Pooling", pooling, new_style, include_prompt)
    if dense:
        _write_dense(folder / "2_Dense", new_style, seed)
    if normalize and not normalize_folder_absent:
        (folder / paths[-1]).mkdir(exist_ok=True)
        if new_style:
            _write(folder / paths[-1] / "config.json", _sentence_names(new_style))
    _write_prompts(folder, new_style, prompts, default_prompt)
    return folder


def _write_transformer_settings(
    folder: Path, new_style: bool, max_seq_length: int | None, do_lower_case: bool
) -> None:
    path = folder / "sentence_bert_config.json"
    if not new_style:
        _write(path, {"max_seq_length": max_seq_length, "do_lower_case": do_lower_case})
        return
    text = {"method": "forward", "method_output_name": "last_hidden_state"}
    _write(
        path,
        {
            "transformer_task": "feature-extraction",
            "modality_config": {"text": text},
            "module_output_name": "token_embeddings",
        },
    )
    if max_seq_length is not None:
        tokenizer = folder / "tokenizer_config.json"
        settings = json.loads(tokenizer.read_text(encoding="utf-8"))
        _write(tokenizer, settings | {"model_max_length": max_seq_length})


def _write_pooling(folder: Path, pooling: str, new_style: bool, include_prompt: bool) -> None:
    modes = pooling.split("+")
    width = json.loads((folder.parent / "config.json").read_text(encoding="utf-8"))
    hidden = width.get("hidden_size", width.get("dim"))
    if new_style:
        content: dict[str, object] = {"embedding_dimension": hidden}
        content["pooling_mode"] = modes[0] if len(modes) == 1 else modes
    else:
        content = {"word_embedding_dimension": hidden}
        content |= {flag: mode in modes for mode, flag in _POOLING_FLAGS.items()}
    _write(folder / "config.json", content | {"include_prompt": include_prompt})


def _write_dense(folder: Path, new_style: bool, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        linear = torch.nn.Linear(32, 16)
    _write(
        folder / "config.json",
        {
            "in_features": 32,
            "out_features": 16,
            "bias": True,
            "activation_function": "torch.nn.modules.activation.Tanh",
        }
        | _sentence_names(new_style),
    )
    weights = {f"linear.{name}": value.detach() for name, value in linear.named_parameters()}
    save_file(weights, folder / "model.safetensors")


def _sentence_names(new_style: bool) -> dict[str, str]:
    names = ("module_input_name", "module_output_name")
    return dict.fromkeys(names, "sentence_embedding") if new_style else {}


def _write_prompts(
    folder: Path, new_style: bool, prompts: dict[str, str] | None, default_prompt: str | None
) -> None:
    versions = {"sentence_transformers": "2.0.0", "transformers": "4.6.1", "pytorch": "1.8.1"}
    content: dict[str, object] = {"__version__": versions}
    if new_style:
        versions |= {"sentence_transformers": "6.2.0", "transformers": "5.23.0", "pytorch": "2.13.0"}
        prompts = {"query": "", "document": ""} | (prompts or {})
        content |= {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"}
    if prompts is not None:
        content |= {"prompts": prompts, "default_prompt_name": default_prompt}
    _write(folder / "config_sentence_transformers.json", content)
