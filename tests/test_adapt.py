"""Continued pre-training: perplexity, heads, the folder, resuming, the two commands."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from embedkit.cli.main import main
from embedkit.encoders import EncoderSettings, FeatureExtractor
from embedkit.errors import ModelError, UsageError
from embedkit.estimators.start import open_start
from embedkit.runtime.manifest import ENCODER, read_manifest
from embedkit.runtime.model_folder import read_facts
from embedkit.sharing import shareable
from embedkit.training.fill import MaskFiller
from embedkit.training.losses import cross_entropy
from embedkit.training.masking import MaskedRows, MaskSettings, masked_rows
from embedkit.training.mlm import HeadSettings, adapt_model, mask_tokens, masked_only, measure, open_masked
from embedkit.training.rows import IGNORED
from embedkit.training.settings import TuneSettings
from tests.tiny_models import FAMILIES, make_decoder, make_encoder, make_sentence_transformer, without_dropout

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
    return masked_rows(start.tokenizer, texts, vocabulary, MaskSettings(share=share), seed=seed)[0]


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
    unknown = open_start(str(make_encoder(tmp_path / "u", "bert", layers=1)))
    config = json.loads((tmp_path / "u" / "config.json").read_text())
    (tmp_path / "u" / "config.json").write_text(json.dumps({**config, "model_type": "no-such"}))
    with pytest.raises(ModelError, match="cannot open this configuration"):
        open_masked(unknown.folder, 0)
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


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_head(tmp_path_factory.mktemp("base") / "m")


@pytest.fixture(scope="module")
def headless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("headless") / "m", "bert", layers=2)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, headless: Path) -> tuple[Path, Path]:
    """Adapt once, as `_LONG` says; return the data and the output."""
    root = tmp_path_factory.mktemp("undisturbed")
    data = write_texts(root)
    assert main(command("adapt", data, "-m", headless, "-o", root / "out", *_LONG)) == 0
    return data, root / "out"


_LONG = ("--epochs", "3", "--batch-size", "4", "--save-steps", "5", "--head-epochs", "2")


def facts_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_labels_pairs_and_test_are_not_learnt_from(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    rows = [f"{text},the film was good,{number % 2}" for number, text in enumerate(TEXTS)]
    (data / "train.csv").write_text("\n".join(["text1,text2,label", *rows]) + "\n", encoding="utf-8")
    (data / "validation.csv").write_text("\n".join(["text1,text2,label", *rows[:8]]) + "\n", encoding="utf-8")
    (data / "test.csv").write_text("text1,text2,label\na,b,c\n", encoding="utf-8")
    columns = ("--text-column", "text1", "--pair-column", "text2")
    given = command("adapt", data, "-m", base, "-o", tmp_path / "out", "--epochs", 1, "--json", *columns)
    assert main(given) == 0
    facts = facts_of(capsys)
    manifest = read_manifest(tmp_path / "out", kind=ENCODER)
    assert {name: entry["texts"] for name, entry in manifest["data"].items()} == {"train": 120, "validation": 16}
    assert facts["fresh_head"] is False
    assert facts["mlm"] == manifest["mlm"]
    assert facts["settings"]["learning_rate"] == 1e-4


@pytest.mark.parametrize(
    ("header", "cell", "kept"),
    [("text,label", ",{}", 43), ("text", "", 54)],  # 60 less 20 % and a tenth; without labels there is no test
)
def test_one_file_is_split_as_other_commands_split_it(tmp_path: Path, header: str, cell: str, kept: int) -> None:
    from embedkit.data import open_dataset
    from embedkit.evaluation.adapted import texts_of, with_held_out

    rows = [f"{TEXTS[n % 10]} {n}{cell.format('good' if n % 2 else 'bad')}" for n in range(60)]
    (tmp_path / "all.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    dataset = open_dataset(tmp_path / "all.csv")
    splits, _ = with_held_out(texts_of(dataset, 7), 7)
    assert len(splits["train"]) == kept
    assert all(split.labels is None for split in splits.values())
    if cell:
        test = set(open_dataset(tmp_path / "all.csv").splits(seed=7)["test"].inputs)
        assert not test & {text for split in splits.values() for text in split.inputs}
    held = with_held_out(texts_of(open_dataset(tmp_path / "all.csv"), 7), 7)[0]["validation"]
    assert held.inputs == splits["validation"].inputs


def test_lists_of_words_become_texts_and_broken_labels_do_not_matter(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sentences = ["\n".join(f"{word} O" for word in text.split()) for text in TEXTS]
    (tmp_path / "words.conll").write_text("\n\n".join(sentences) + "\n", encoding="utf-8")
    gaps = [f"{text},{'x' if number % 3 else ''}" for number, text in enumerate(TEXTS)]
    (tmp_path / "gaps.csv").write_text("\n".join(["text,label", *gaps]) + "\n", encoding="utf-8")
    for name, said in (("words.conll", False), ("gaps.csv", True)):
        out = tmp_path / f"{name}.out"
        told = command("adapt", tmp_path / name, "-m", base, "-o", out, "--epochs", 0.2, "--json")
        assert main([part for part in told if part != "--quiet"]) == 0
        found = capsys.readouterr()
        assert json.loads(found.out)["output"] == str(out)
        assert ("its labels cannot be read, so no rows are left out as test" in found.err) == said


def test_plain_text_beside_its_validation_packed_and_whole_words(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.txt").write_bytes("\ufeff".encode() + "\r\n".join(TEXTS).encode())
    (data / "dev.txt").write_text("\n\n".join(TEXTS[:6]), encoding="utf-8")
    (data / "test.txt").write_bytes(b"\xff\xfe broken, and not read")
    how = ("--pack", "--mask", "whole-word", "--max-length", "32", "--mask-share", "0.25", "--eval-strategy", "no")
    assert main(command("adapt", data, "-m", base, "-o", tmp_path / "out", "--epochs", 1, "--json", *how)) == 0
    facts = facts_of(capsys)
    assert facts["history"] == []
    assert facts["mlm"]["after"]["perplexity"] > 1
    tokens = sum(len(open_start(str(base)).tokenizer.encode([text]).ids) - 1 for text in TEXTS) - 1
    rows = -(-tokens // 30)
    assert facts["settings"]["steps"] == -(-rows // 16)
    assert read_manifest(tmp_path / "out")["data"]["validation"]["texts"] == 6
    assert read_facts(tmp_path / "out").max_length == read_facts(base).max_length


_WRONG = [
    (("--metric", "accuracy"), 2, "--metric"),
    (("--mask-share", "0"), 2, "mask_share"),
    (("--mask-share", "1"), 2, "mask_share"),
    (("--head-epochs", "0"), 2, "head_epochs"),
    (("--epochs", "0"), 2, "epochs"),
    (("--max-length", "1000"), 2, "positions"),
    (("--encoding", "ascii"), 65, "line 2"),
]


@pytest.mark.parametrize(("flags", "code", "said"), _WRONG)
def test_flags_that_cannot_be_are_refused(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], code: int, said: str
) -> None:
    data = tmp_path / "texts.txt"
    data.write_text("the film\na caf\u00e9\n" + "\n".join(TEXTS), encoding="utf-8")
    assert main(command("adapt", data, "-m", base, "-o", tmp_path / "out", *flags)) == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.checkpoints").exists()


_BAD_DATA = [
    ("", 66, "empty"),
    ("\n \n", 65, "no line with a text"),
    ("the film\n", 65, "one distinct text"),
    ("the film\nthe film\n", 65, "one distinct text"),
    ("\u200b\n\u200c\n\u200d\n\u2060\n\ufe0f\n\u200b\u200c\n", 65, "nothing can be hidden"),
]


@pytest.mark.parametrize(("text", "code", "said"), _BAD_DATA)
def test_data_that_cannot_be_learnt_from_are_refused(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str], text: str, code: int, said: str
) -> None:
    (tmp_path / "texts.txt").write_text(text, encoding="utf-8")
    assert main(command("adapt", tmp_path / "texts.txt", "-m", base, "-o", tmp_path / "out")) == code
    assert said in capsys.readouterr().err


def test_models_and_files_that_do_not_fit_are_refused(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write_texts(tmp_path), tmp_path / "out"
    decoder = make_decoder(tmp_path / "gpt2")
    assert main(command("adapt", data, "-m", decoder, "-o", out)) == 65
    assert "mask" in capsys.readouterr().err
    (tmp_path / "v.csv").write_text("text\nthe film\n", encoding="utf-8")
    assert main(command("adapt", data, "-m", base, "-o", out, "--validation", tmp_path / "v.csv")) == 2
    assert "both" in capsys.readouterr().err
    assert main(command("adapt", data, "-m", base, "-o", out, "--train", data)) == 2
    assert main(command("adapt", data, "-m", base, "-o", data)) == 2
    (tmp_path / "one.txt").write_text("good", encoding="utf-8")
    share = ("--mask-share", "0.000001", "--validation", tmp_path / "one.txt")
    assert main(command("adapt", data, "-m", base, "-o", out, *share)) == 65
    assert "raise --mask-share" in capsys.readouterr().err


def test_columns_of_plain_text_are_refused(tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = command("adapt", write_texts(tmp_path), "-m", base, "-o", tmp_path / "out", "--text-column", "text")
    assert main(given) == 2
    assert "--text-column" in capsys.readouterr().err


def test_the_encoder_of_a_sub_folder_and_an_older_tokenizer(tmp_path: Path) -> None:
    """What sentence-transformers 1 wrote: the encoder in a folder, a vocabulary, no tokenizer.json."""
    source = make_sentence_transformer(tmp_path / "source", "bert", pooling="max", max_seq_length=20)
    inner = tmp_path / "base" / "0_Transformer"
    inner.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "tokenizer_config.json", "sentence_bert_config.json"):
        shutil.copyfile(source / name, inner / name)
    known = json.loads((source / "tokenizer.json").read_text())["model"]["vocab"]
    (inner / "vocab.txt").write_text("\n".join(sorted(known, key=known.__getitem__)) + "\n", encoding="utf-8")
    modules = json.loads((source / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (tmp_path / "base" / "modules.json").write_text(json.dumps(modules))
    shutil.copytree(source / "1_Pooling", tmp_path / "base" / "1_Pooling")
    data, out = write_texts(tmp_path), tmp_path / "out"
    assert main(command("adapt", data, "-m", tmp_path / "base", "-o", out, "--epochs", 0.2)) == 0
    facts = read_facts(out)
    assert (facts.pooling, facts.normalize, facts.max_length) == ("max", True, 20)
    theirs = AutoTokenizer.from_pretrained(out)("the film was unwatchable")["input_ids"]
    assert theirs == AutoTokenizer.from_pretrained(source)("the film was unwatchable")["input_ids"]
    assert open_start(str(out)).tokenizer.encode(["the film was unwatchable"]).ids.tolist() == theirs


def test_pickled_modules_are_not_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_sentence_transformer(tmp_path / "base", "bert", dense=True)
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(b"pickle")
    data, out = write_texts(tmp_path), tmp_path / "out"
    given = [
        part for part in command("adapt", data, "-m", folder, "-o", out, "--epochs", 0.2) if part != "--quiet"
    ]
    assert main(given) == 0
    assert "pickled" in capsys.readouterr().err
    assert not list(out.rglob("*.bin"))
    assert not (out / "modules.json").exists()


def test_the_result_is_a_model_for_the_other_commands(
    tmp_path: Path, undisturbed: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{text} {number},{'good' if 'good' in text else 'dull'}" for number, text in enumerate(TEXTS)]
    (tmp_path / "data.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    out = str(undisturbed[1])
    quiet = ("--quiet", "--device", "cpu", "--threads", "1")
    assert main(["fit-head", str(tmp_path / "data.csv"), "-m", out, "-o", str(tmp_path / "h"), *quiet]) == 0
    given = command("finetune", tmp_path / "data.csv", "-m", out, "-o", tmp_path / "t", "--epochs", 0.2)
    assert main(given) == 0
    assert main(["predict", str(tmp_path / "t"), "the film was good"]) == 0
    assert (
        main(
            ["adapt", str(tmp_path / "data.csv"), "-m", out, "-o", str(tmp_path / "a"), "--epochs", "0.2", *quiet]
        )
        == 0
    )
    manifest = read_manifest(tmp_path / "a", kind=ENCODER)
    assert manifest["settings"]["head"] is None  # the head came with the folder
    assert manifest["base"]["weights"] == [read_manifest(Path(out))["files"]["model.safetensors"]]


def test_what_others_may_see_of_it(undisturbed: tuple[Path, Path]) -> None:
    folder = undisturbed[1]
    found = shareable(folder)
    assert {"model.safetensors", "tokenizer.json", "README.md"} <= set(found.files)
    card = found.files["README.md"]
    assert isinstance(card, bytes)
    assert b"pipeline_tag: fill-mask" in card
    assert b"Perplexity on texts held out: " in card
    modes = {(folder / name).stat().st_mode for name in ("model.safetensors", "embedkit.json")}
    assert len(modes) == 1


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_parts_of_a_step_and_recomputed_states_learn_the_same(tmp_path: Path, family: str) -> None:
    folder = without_dropout(with_head(tmp_path / "m", family))
    rows = rows_for(folder)
    found = []
    for more in ({"batch_size": 8}, {"batch_size": 4, "accumulation": 2, "checkpointing": True}):
        settings = TuneSettings(**{**vars(QUICK), "like_lengths": False, **more})
        found.append(run_of(folder, rows, settings))
    one, other = found  # not the weights: AdamW moves those without a gradient, as of key biases, by its noise
    assert one.trained.steps == other.trained.steps == 8
    assert one.after["loss"] == pytest.approx(other.after["loss"], rel=1e-4)
    assert one.after["loss"] < 0.99 * one.before["loss"]


# --- going on --------------------------------------------------------------------------------------------


def test_a_killed_run_is_gone_on_with(
    tmp_path: Path, headless: Path, undisturbed: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """kill -9, then --resume: the weights are bit-equal to those of an undisturbed run."""
    data, whole = undisturbed
    out, beside = tmp_path / "out", tmp_path / "out.checkpoints"
    given = command("adapt", data, "-m", headless, "-o", out, *_LONG)
    process = subprocess.Popen(
        [sys.executable, "-m", "embedkit", *given], env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    until = time.monotonic() + 120
    while not list(beside.glob("checkpoint-[0-9]*/embedkit.json")) and time.monotonic() < until:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    left = sorted(beside.glob("checkpoint-*/embedkit.json"))
    assert len(left) > 1
    for manifest in left:  # what an interrupted run leaves can be opened
        _, info = AutoModelForMaskedLM.from_pretrained(manifest.parent, output_loading_info=True)
        assert not info["missing_keys"]
        theirs = AutoTokenizer.from_pretrained(manifest.parent)
        assert theirs("the film")["input_ids"] == AutoTokenizer.from_pretrained(headless)("the film")["input_ids"]
    assert main(given) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*given, "--resume", "--seed", "1"]) == 2
    assert "seed was 42" in capsys.readouterr().err
    assert main([*given, "--resume"]) == 0
    assert not beside.exists()
    assert_same_weights(out, whole)
    mine, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (out, whole))
    assert mine["mlm"] == theirs["mlm"]
    assert mine["history"] == theirs["history"]


@pytest.mark.parametrize("left", ["nothing", "torn", "whole"])
def test_a_head_is_trained_again_unless_it_was_kept_whole(
    tmp_path: Path, headless: Path, undisturbed: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    """Either way the run ends in the same weights."""
    from embedkit.training import mlm

    data, whole = undisturbed
    out, start = tmp_path / "out", tmp_path / "out.checkpoints" / "checkpoint-start"
    given = command("adapt", data, "-m", headless, "-o", out, *_LONG)
    first, alone = mlm.train, 0

    def counting(*positional: Any, **named: Any) -> Any:
        nonlocal alone
        alone += named.get("place") is None
        return first(*positional, **named)

    def stopping(*positional: Any, **named: Any) -> Any:
        if named.get("place") is None and left != "nothing":
            return first(*positional, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(mlm, "train", stopping)
    assert main(given) == 130
    assert (start / "embedkit.json").exists() is (left != "nothing")
    if left == "torn":
        data_of = bytearray((start / "model.safetensors").read_bytes())
        data_of[-1] ^= 1
        (start / "model.safetensors").write_bytes(data_of)
    monkeypatch.setattr(mlm, "train", counting)
    assert main([*given, "--resume"]) == 0
    assert alone == (left != "whole")
    assert_same_weights(out, whole)


def assert_same_weights(one: Path, other: Path) -> None:
    mine, theirs = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert set(mine) == set(theirs)
    for name, tensor in mine.items():
        assert torch.equal(tensor, theirs[name]), name


# --- filling ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2"])
def test_words_for_a_mask_are_those_of_transformers(tmp_path: Path, family: str) -> None:
    folder = with_head(tmp_path / "m", family)
    start = open_start(str(folder))
    filler = MaskFiller(start.folder, start.tokenizer, "cpu")
    theirs, model = AutoTokenizer.from_pretrained(folder), AutoModelForMaskedLM.from_pretrained(folder).eval()
    text = f"the {theirs.mask_token} was {theirs.mask_token}"
    given = theirs(text, return_tensors="pt")
    with torch.no_grad():
        chances = model(**given).logits[0].softmax(-1)[given["input_ids"][0] == theirs.mask_token_id]
    found = filler.fill("the [MASK] was <mask>", 3)
    assert len(found) == 2
    for guesses, expected in zip(found, chances, strict=True):
        best = expected.topk(3)
        assert [guess.probability for guess in guesses] == pytest.approx(best.values.tolist(), rel=1e-4)
        assert [guess.word for guess in guesses] == [theirs.decode([i]).strip() for i in best.indices.tolist()]
    with pytest.raises(UsageError, match="no "):
        filler.fill("the film", 3)
    with pytest.raises(UsageError, match="shorten"):
        filler.fill("the film " * 100 + "[MASK]", 3)


def test_two_models_stand_beside_each_other(
    tmp_path: Path, base: Path, headless: Path, undisturbed: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(undisturbed[1])
    text = "the [MASK] was very [MASK]"
    assert main(["fill-mask", out, text, "--beside", str(base), "--top", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines if line.startswith("mask")] == [["mask", "1"], ["mask", "2"]]
    assert out in lines[0]
    assert str(base) in lines[0]
    assert len(lines) == 9
    assert main(["fill-mask", out, text, "--beside", str(base), "--top", "2", "--json"]) == 0
    facts = facts_of(capsys)
    assert [len(mask["model"]) for mask in facts["masks"]] == [2, 2]
    assert {tuple(guess) for mask in facts["masks"] for guess in mask["beside"]} == {("word", "probability")}
    for wrong, said, code in (
        (["fill-mask", str(headless), text], "no head", 65),
        (["fill-mask", out, text, "--beside", str(headless)], "no head", 65),
        (["fill-mask", out, "the film"], "[MASK]", 2),
        (["fill-mask", out, text, "--top", "0"], "--top", 2),
    ):
        assert main(wrong) == code
        assert said in capsys.readouterr().err
