"""Frozen encoders: equal to a plain forward pass, whatever the batch; folders refused by name of the fault."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer

from embedkit.encoders import EncoderSettings, FeatureExtractor, read_folder, torch_encoder
from embedkit.encoders.settings import parse_layers, parse_pooling
from embedkit.encoders.torch_encoder import TorchEncoder, check_precision, resolve_device
from embedkit.errors import ModelError, UsageError
from embedkit.hub import resolve_model
from embedkit.runtime.tokens import Text
from embedkit.store import FeatureStore
from tests.tiny_models import (
    FAMILIES,
    make_decoder,
    make_encoder,
    make_encoder_decoder,
    make_sentence_transformer,
)

WORKER = Path(__file__).with_name("extract_worker.py")
Floats = NDArray[np.float32]
Folders = Callable[..., Path]
Features = NDArray[np.float32]

POOLINGS = ("cls", "mean", "max", "last", "mean_sqrt_len")
LAYERS = (0, 1, -1)
HAVE_POOLER = {"bert", "roberta", "xlm-roberta", "mpnet", "albert"}
MAX_LENGTH = 40
TEXTS = [
    "the film was a great drama, moving and funny",
    "boring",
    "",
    "market shares " * 30,
    "The Coach said: 'never'!",
    "café 日本 😀 [SEP] </s>",
    "bank profits were good",
    "a " * 17,
    "dull film",
    "great film",
]
PAIRS = [
    ("the film was great", "a dull plot"),
    ("", ""),
    ("boring", "the market and the bank " * 20),
    ("people said that " * 20, "the government would not " * 20),
    ("a", "b"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Make each tiny model once; whoever changes one copies it first."""

    @cache
    def made(make: Callable[..., Path], *args: object, **how: object) -> Path:
        return make(tmp_path_factory.mktemp("model") / "m", *args, **how)

    return made


@pytest.fixture
def copied(folders: Folders, tmp_path: Path) -> Path:
    """A BERT that a test may harm."""
    return Path(shutil.copytree(folders(make_encoder, "bert"), tmp_path / "model"))


def extractor(folder: Path, store: FeatureStore | None = None, **settings: Any) -> FeatureExtractor:
    return FeatureExtractor(EncoderSettings(str(folder), **settings), store=store)


def features(folder: Path, inputs: Sequence[Text], **settings: Any) -> Floats:
    return extractor(folder, **settings).transform(inputs).vectors


def assert_close(actual: Floats, expected: Floats, tolerance: float = 1e-5) -> None:
    """Compare relative to the largest value."""
    assert actual.shape == expected.shape
    assert actual.dtype == np.float32
    peak = np.abs(expected).max()
    assert peak > 0.01
    assert np.abs(actual - expected).max() <= tolerance * peak


# ------------------------------------------------------------------------------- equal to plain transformers


def pooled(states: Floats, how: str) -> Floats:
    """Pool the hidden states of one text, (L, H), which has no padding."""
    return {
        "cls": lambda: states[0],
        "last": lambda: states[-1],
        "max": lambda: states.max(0),
        "mean": lambda: states.mean(0),
        "mean_sqrt_len": lambda: states.sum(0) / np.sqrt(np.float32(len(states))),
    }[how]()


def plain(
    folder: Path,
    inputs: Sequence[Text],
    *,
    layers: Sequence[int] = LAYERS,
    poolings: Sequence[str] = POOLINGS,
    max_length: int = MAX_LENGTH,
) -> dict[tuple[int, str], Floats]:
    """Run transformers on one text at a time and pool with numpy."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    views: dict[tuple[int, str], list[Floats]] = {(n, how): [] for n in layers for how in poolings}
    for item in inputs:
        parts = (item,) if isinstance(item, str) else item
        lists = ([part] for part in parts)  # of an empty second text that is no list, transformers makes none
        given = tokenizer(
            *lists,
            truncation=True,
            max_length=max_length,
            return_tensors="pt",
            # ALBERT has types and its template gives them, but transformers 5 no longer asks for them.
            return_token_type_ids=getattr(model.config, "type_vocab_size", 0) > 1,
        )
        with torch.no_grad():
            output = model(**given, output_hidden_states=True)
        for layer, how in views:
            states = output.last_hidden_state if layer == -1 else output.hidden_states[layer]
            views[layer, how].append(pooled(states[0].numpy(), how))
    return {view: np.stack(vectors) for view, vectors in views.items()}


def ours(folder: Path, inputs: Sequence[Text], **settings: Any) -> dict[tuple[int, str], Floats]:
    """Take every view in one go."""
    vectors = features(
        folder, inputs, pooling="+".join(POOLINGS), layers=LAYERS, max_length=MAX_LENGTH, normalize=False, **settings
    )
    views = [(layer, how) for layer in LAYERS for how in POOLINGS]
    parts = np.split(vectors, len(views), axis=1)
    return dict(zip(views, parts, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_pooling_and_layer_is_the_plain_forward_pass(folders: Folders, family: str) -> None:
    folder = folders(make_encoder, family)
    mine, expected = ours(folder, TEXTS), plain(folder, TEXTS)
    for view, vectors in expected.items():
        assert_close(mine[view], vectors)


@pytest.mark.parametrize("family", FAMILIES)
def test_pairs_read_together_are_the_plain_forward_pass(folders: Folders, family: str) -> None:
    folder = folders(make_encoder, family)
    mine, expected = ours(folder, PAIRS), plain(folder, PAIRS)
    for view, vectors in expected.items():
        assert_close(mine[view], vectors)


def test_token_types_tell_the_two_texts_of_a_pair_apart(folders: Folders) -> None:
    """Without them, a test of pairs on families that have none could not fail."""
    folder = folders(make_encoder, "bert")
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    given = tokenizer(*PAIRS[0], return_tensors="pt")
    del given["token_type_ids"]
    with torch.no_grad():
        untyped = model(**given).last_hidden_state[:, 0].numpy()
    assert np.abs(features(folder, PAIRS[:1], pooling="cls") - untyped).max() > 0.01


@pytest.mark.parametrize("family", [*FAMILIES, "gpt2"])
def test_a_vector_does_not_depend_on_its_neighbours(folders: Folders, family: str) -> None:
    folder = folders(make_decoder) if family == "gpt2" else folders(make_encoder, family)
    expected = ours(folder, TEXTS)
    order = np.random.default_rng(0).permutation(len(TEXTS))
    for batch_tokens in (16, 64, 4096):
        shuffled = ours(folder, [TEXTS[i] for i in order], batch_tokens=batch_tokens)
        for view, vectors in expected.items():
            assert_close(shuffled[view], vectors[order])
    alone = ours(folder, TEXTS[3:4])
    for view, vectors in expected.items():
        assert_close(alone[view], vectors[3:4])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_pooler_is_the_model_s_own_or_refused(folders: Folders, family: str) -> None:
    folder = folders(make_encoder, family)
    if family not in HAVE_POOLER:
        with pytest.raises(UsageError, match="no trained pooler; choose pooling cls or mean"):
            features(folder, TEXTS, pooling="pooler")
        return
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = [model(**tokenizer(t, return_tensors="pt")).pooler_output[0].numpy() for t in TEXTS[:2]]
    joined = features(folder, TEXTS[:2], pooling="pooler+cls")
    assert_close(joined[:, :32], np.stack(expected))
    assert_close(joined[:, 32:], features(folder, TEXTS[:2], pooling="cls"))


@pytest.mark.parametrize("family", ["bert", "roberta", "albert"])
def test_a_pooler_that_was_never_trained_is_refused(folders: Folders, tmp_path: Path, family: str) -> None:
    source = folders(make_encoder, family)
    folder = Path(shutil.copytree(source, tmp_path / "masked"))
    AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(source)).save_pretrained(folder)
    with pytest.raises(UsageError, match="no trained pooler"):
        features(folder, TEXTS, pooling="pooler")
    mine, expected = ours(folder, TEXTS[:3]), plain(folder, TEXTS[:3])
    for view, vectors in expected.items():
        assert_close(mine[view], vectors)


def test_the_pooler_is_of_the_last_layer_alone(folders: Folders) -> None:
    with pytest.raises(UsageError, match="last layer only; leave layers at -1"):
        features(folders(make_encoder, "bert"), TEXTS, pooling="cls+pooler", layers=(1, -1))


# ------------------------------------------------------------------------------------------- fast linear


def packed(encoder: TorchEncoder) -> int:
    return sum(type(module) is torch_encoder._PackedLinear for module in encoder._model.modules())


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_layer_is_packed(folders: Folders, family: str) -> None:
    opened = extractor(folders(make_encoder, family)).encoder()
    assert isinstance(opened, TorchEncoder)
    assert packed(opened) >= 6
    assert not any(type(module) is torch.nn.Linear for module in opened._model.modules())


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
@pytest.mark.parametrize("activation", ["gelu", "gelu_python", "gelu_new", "gelu_pytorch_tanh", "relu", "silu"])
def test_only_the_exact_gelu_is_fused(
    copied: Path, activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"hidden_act": activation}))
    opened = extractor(copied).encoder()
    assert isinstance(opened, TorchEncoder)
    fused = sum(type(module) is torch.nn.Identity for module in opened._model.modules())
    assert fused == (3 if activation in ("gelu", "gelu_python") else 0)
    mine, expected = ours(copied, TEXTS), plain(copied, TEXTS)
    for view, vectors in expected.items():
        assert_close(mine[view], vectors)
    monkeypatch.setattr(torch_encoder, "_pack", lambda model: None)
    monkeypatch.setattr(torch_encoder, "_open", {})
    unpacked = ours(copied, TEXTS)
    for view, vectors in unpacked.items():
        assert_close(mine[view], vectors)


# ----------------------------------------------------------------------------------------------- decoders


@pytest.mark.parametrize("pad", [True, False])
def test_a_decoder_pools_its_last_token(folders: Folders, pad: bool) -> None:
    folder = folders(make_decoder, pad=pad)
    opened = extractor(folder, max_length=MAX_LENGTH)
    assert opened.recipe.poolings == ("last",)
    assert opened.recipe.pad_id == (1 if pad else 0)
    assert not opened.recipe.normalize
    texts = [text for text in TEXTS if text]
    expected = plain(folder, texts, layers=[-1], poolings=["last"])[-1, "last"]
    assert_close(opened.transform(texts).vectors, expected)


def test_a_decoder_s_empty_text_is_counted_and_finite(folders: Folders) -> None:
    done = extractor(folders(make_decoder)).transform(["", "a", "film"])
    assert np.isfinite(done.vectors).all()
    assert done.extraction.empty == 1


def test_an_encoder_decoder_is_refused(folders: Folders, no_torch: None) -> None:
    with pytest.raises(ModelError, match=r"is an encoder-decoder \(t5\); supported are encoders"):
        extractor(folders(make_encoder_decoder))


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail whoever would open the torch file."""
    monkeypatch.setitem(sys.modules, "embedkit.encoders.torch_encoder", None)
