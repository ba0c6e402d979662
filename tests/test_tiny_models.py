"""The tiny models stand in for real ones: their tokenizers are transformers', their outputs tell texts apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModel, AutoTokenizer

from tests.tiny_models import (
    FAMILIES,
    WORDS,
    make_decoder,
    make_encoder,
    make_encoder_decoder,
    make_sentence_transformer,
)

TEXTS = [
    "The film was a great drama, moving and funny!",
    "",
    "  two  spaces\tand\nlines ",
    "café 日本 😀 [SEP] </s>",
    "bank profits",
]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokenizer_file_is_the_family_s_tokenizer(tmp_path: Path, family: str) -> None:
    folder = make_encoder(tmp_path / "m", family)
    backend, auto = Tokenizer.from_file(str(folder / "tokenizer.json")), AutoTokenizer.from_pretrained(folder)
    assert [e.ids for e in backend.encode_batch(TEXTS)] == auto(TEXTS)["input_ids"]
    assert backend.encode("a film", "a plot").ids == auto("a film", "a plot")["input_ids"]
    assert auto.model_max_length == 64
    assert 200 <= len(auto) <= 400
    assert auto.unk_token_id not in auto(" ".join(WORDS))["input_ids"]


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_differ_between_texts_orders_and_neighbours(tmp_path: Path, family: str) -> None:
    folder = make_encoder(tmp_path / "m", family)
    auto, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    texts = ["a great film", "a dull film", "great a film", "a great plot"]
    with torch.no_grad():
        cls = [model(**auto(t, return_tensors="pt")).last_hidden_state[0, 0] for t in texts]
        longest = model(**auto("a " * 70, truncation=True, max_length=64, return_tensors="pt"))
    assert longest.last_hidden_state.shape == (1, 64, 32)
    for other in cls[1:]:
        assert (cls[0] - other).abs().max() > 0.01


@pytest.mark.parametrize("family", ["bert", "roberta", "albert"])
def test_folders_are_functions_of_their_arguments(tmp_path: Path, family: str) -> None:
    first, again = make_encoder(tmp_path / "1", family), make_encoder(tmp_path / "2", family)
    other = make_encoder(tmp_path / "3", family, seed=1)
    assert files(first) == files(again)
    assert {name for name, data in files(first).items() if files(other)[name] != data} == {"model.safetensors"}


@pytest.mark.parametrize("pad", [True, False])
def test_a_decoder_pads_only_if_asked(tmp_path: Path, pad: bool) -> None:
    auto = AutoTokenizer.from_pretrained(make_decoder(tmp_path / "m", pad=pad))
    assert auto.pad_token_id == (1 if pad else None)
    assert auto.eos_token_id == 0
    assert auto("a film")["input_ids"][-1] != 0


def test_an_encoder_decoder_is_one(tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(make_encoder_decoder(tmp_path / "m"))
    assert model.config.is_encoder_decoder


@pytest.mark.parametrize("new_style", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "cls+max"])
def test_sentence_transformers_opens_both_layouts(tmp_path: Path, new_style: bool, pooling: str) -> None:
    from sentence_transformers import SentenceTransformer

    folder = make_sentence_transformer(
        tmp_path / "m",
        new_style=new_style,
        pooling=pooling,
        dense=pooling == "mean",
        max_seq_length=12,
        prompts={"query": "a "},
        do_lower_case=True,
        normalize_folder_absent=not new_style,
    )
    model = SentenceTransformer(str(folder), device="cpu")
    lower, upper = model.encode(["a great film", "A GREAT FILM"])
    np.testing.assert_allclose(lower, upper, atol=1e-6)
    assert lower.shape == (16 if pooling == "mean" else 64,)
    assert np.linalg.norm(lower) == pytest.approx(1, abs=1e-6)
    assert model.max_seq_length == 12
    assert model.prompts["query"] == "a "
    assert not np.allclose(lower, model.encode("a great film", prompt_name="query"), atol=1e-2)
