"""Continued pre-training: perplexity, heads, the folder, resuming, the two commands."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from embedkit.cli.main import main
from embedkit.encoders import EncoderSettings, FeatureExtractor
from embedkit.errors import ModelError
from embedkit.estimators.start import open_start
from embedkit.runtime.manifest import ENCODER, read_manifest
from embedkit.runtime.model_folder import read_facts
from embedkit.training.fill import MaskFiller
from embedkit.training.losses import cross_entropy
from embedkit.training.masking import MaskedRows, MaskSettings, masked_rows
from embedkit.training.mlm import HeadSettings, adapt_model, mask_tokens, masked_only, measure, open_masked
from embedkit.training.rows import IGNORED
from embedkit.training.settings import TuneSettings
from tests.tiny_models import FAMILIES, make_decoder, make_encoder, make_sentence_transformer

pytestmark = pytest.mark.usefixtures("one_torch_thread")

SIDES = ("the film was good and the actor was very good", "a dull plot and a boring script with bad music")
TEXTS = [f"{side} {word}" for word in ("story", "people", "director", "audience", "comedy") for side in SIDES] * 6


def with_head(folder: Path, family: str = "bert", **more: Any) -> Path:
    """Make an encoder that ships with an MLM head."""
    make_encoder(folder, family, **{"layers": 2, **more})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForMaskedLM.from_pretrained(folder).save_pretrained(folder)
    return folder


def rows_for(folder: Path, texts: list[str] = TEXTS, *, seed: int = 0, share: float = 0.3) -> MaskedRows:
    start = open_start(str(folder))
    _, vocabulary = mask_tokens(start.folder, start.tokenizer)
    return masked_rows(start.tokenizer, texts, vocabulary, MaskSettings(share=share), seed=seed, types=False)[0]


def run_of(folder: Path, rows: MaskedRows, settings: TuneSettings, **more: Any) -> Any:
    return adapt_model(open_start(str(folder)).folder, rows, rows, settings, HeadSettings(), max_length=64, **more)


QUICK = TuneSettings(epochs=1, batch_size=16, learning_rate=1e-3, device="cpu", precision="float32", threads=1)


# --- figures ---------------------------------------------------------------------------------------------


def test_the_perplexity_of_a_model_that_knows_nothing_is_the_size_of_its_vocabulary(tmp_path: Path) -> None:
    folder = with_head(tmp_path / "m")
    model = open_masked(open_start(str(folder)).folder, 0).model
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    figures = measure(model, rows_for(folder), QUICK)
    assert figures["perplexity"] == pytest.approx(model.config.vocab_size, rel=1e-4)
    assert figures["loss"] == pytest.approx(math.log(model.config.vocab_size), rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_at_masked_places_alone_gives_the_same_loss_and_gradients(tmp_path: Path, family: str) -> None:
    folder = with_head(tmp_path / "m", family)
    rows = rows_for(folder)
    inputs = {name: torch.from_numpy(array) for name, array in rows.inputs(np.arange(8), 0).items()}
    found = []
    for whole in (True, False):
        model = open_masked(open_start(str(folder)).folder, 0).model.eval().requires_grad_(True)
        given = dict(inputs)
        if whole:
            logits, labels = model(**{n: v for n, v in given.items() if n != "labels"}).logits, given["labels"]
        else:
            with masked_only(model, given):
                logits = model(**{n: v for n, v in given.items() if n != "labels"}).logits
            labels = given["labels"]
            assert logits.shape[:2] == labels.shape == (1, int((inputs["labels"] != IGNORED).sum()))
        loss = cross_entropy(None, 0.0)(logits, labels, None)
        loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append((loss.item(), gradients))
        assert not model.base_model._forward_hooks
    (first, whole_gradients), (second, gradients) = found
    assert first == pytest.approx(second, rel=1e-5)
    assert set(whole_gradients) == set(gradients)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, whole_gradients[name], rtol=1e-3, atol=1e-5)


def test_perplexity_falls_and_each_evaluation_counts_all_masked_tokens(tmp_path: Path) -> None:
    folder = with_head(tmp_path / "m")
    rows = rows_for(folder)
    told: list[Any] = []
    adapted = run_of(folder, rows, TuneSettings(**{**vars(QUICK), "epochs": 4}), told=told.append)
    assert not adapted.fresh_head
    assert adapted.after["perplexity"] < 0.7 * adapted.before["perplexity"]
    assert told == adapted.trained.history
    assert len(told) == 4
    for row in told:
        assert row["perplexity"] == pytest.approx(math.exp(row["eval_loss"]), rel=1e-6)
    best = min(told, key=lambda row: row["eval_loss"])
    assert adapted.trained.best_step == best["step"]
    assert adapted.after["loss"] == pytest.approx(best["eval_loss"], rel=1e-4)


# --- heads -----------------------------------------------------------------------------------------------


def test_a_head_that_is_trained_alone_leaves_the_encoder_as_it_was(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "m", "bert", layers=2)
    rows, said = rows_for(folder), []
    from embedkit.training.loop import Place

    place = Place(tmp_path / "out.checkpoints")
    adapted = run_of(folder, rows, QUICK, place=place, say=said.append)
    assert adapted.fresh_head
    assert "no head" in said[0]
    start = tmp_path / "out.checkpoints" / "checkpoint-start"
    began = AutoModelForMaskedLM.from_pretrained(start)
    original = AutoModel.from_pretrained(folder)
    for name, tensor in began.base_model.state_dict().items():
        assert torch.equal(tensor, original.state_dict()[name]), name
    drawn = open_masked(open_start(str(folder)).folder, QUICK.seed).model
    head = "cls.predictions.transform.dense.weight"
    assert not torch.equal(began.state_dict()[head], drawn.state_dict()[head])
    assert adapted.before["loss"] < measure(drawn, rows, QUICK)["loss"]
    assert began.get_output_embeddings().weight is began.get_input_embeddings().weight


def test_a_drawn_head_depends_on_the_seed_alone(tmp_path: Path) -> None:
    folder = open_start(str(make_encoder(tmp_path / "m", "bert", layers=1))).folder
    one, two, other = (open_masked(folder, seed).model.state_dict() for seed in (1, 1, 2))
    head = "cls.predictions.transform.dense.weight"
    assert torch.equal(one[head], two[head])
    assert not torch.equal(one[head], other[head])


def test_what_has_no_head_is_refused(tmp_path: Path) -> None:
    decoder = open_start(str(make_decoder(tmp_path / "d")))
    with pytest.raises(ModelError, match="gpt2"):
        open_masked(decoder.folder, 0)
    bare = open_start(str(make_encoder(tmp_path / "e", "bert", layers=1)))
    with pytest.raises(ModelError, match=r"lack cls\.predictions"):
        MaskFiller(bare.folder, bare.tokenizer, "cpu")


# --- the command -----------------------------------------------------------------------------------------


def write_texts(folder: Path, texts: list[str] = TEXTS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "texts.txt").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    return folder / "texts.txt"


def command(*arguments: object) -> list[str]:
    return [*map(str, arguments), "--device", "cpu", "--precision", "float32", "--threads", "1", "--quiet"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_adapted_and_opens_everywhere(tmp_path: Path, family: str) -> None:
    from sentence_transformers import SentenceTransformer

    base = make_sentence_transformer(tmp_path / "base", family, pooling="mean", max_seq_length=20)
    data, out = write_texts(tmp_path), tmp_path / "out"
    assert main(command("adapt", data, "-m", base, "-o", out, "--epochs", 1, "--max-length", 16, "--seed", 3)) == 0
    assert not (tmp_path / "out.checkpoints").exists()
    manifest = read_manifest(out, kind=ENCODER)
    figures = json.loads((out / "metrics.json").read_text())
    assert manifest["mlm"] == figures["mlm"]
    assert figures["splits"] == {}
    assert len(figures["history"]) == 1
    assert (out / "report" / "learning_curve.png").stat().st_size > 1000
    facts, before = read_facts(out), read_facts(base)
    for name in ("pooling", "normalize", "max_length", "pad_id", "lowercase", "side", "prompts"):
        assert getattr(facts, name) == getattr(before, name), name
    model, info = AutoModel.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    _, info = AutoModelForMaskedLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    theirs, text = AutoTokenizer.from_pretrained(out), "the film was unwatchable"
    assert theirs(text) == AutoTokenizer.from_pretrained(base)(text)
    original = AutoModel.from_pretrained(base).state_dict()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, original[name])}
    assert moved
    assert not any("pooler" in name for name in moved)
    extractor = FeatureExtractor(EncoderSettings(out, threads=1), store=None)
    vectors = SentenceTransformer(str(out), device="cpu").encode([text])
    np.testing.assert_allclose(extractor.transform([text]).vectors, vectors, atol=1e-5)
