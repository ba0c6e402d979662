"""Words of byte-level tokenizers begin with the blank that stands before them in texts, in all that reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer, pipeline

from embedkit import TokenClassifier, runtime
from embedkit.cli import main
from embedkit.encoders import EncoderSettings, WordExtractor
from embedkit.encoders.recipe import view_descriptors
from embedkit.estimators.start import open_start
from embedkit.estimators.tuned import load_tuned
from embedkit.export.folder import write_tokenizer
from embedkit.runtime.tokens import Tokenizer
from embedkit.store import FileDigests
from tests.tiny_models import FAMILIES, make_decoder, make_encoder

pytestmark = pytest.mark.usefixtures("one_torch_thread", "little_garbage")

WORDS = ["the", "coach18", "don't", "", "naïve", "日本", "\ufe0f", "good", " good", "<mask>", "x<s>y"]
PLAIN = ["the", "coach18", "don't", "naïve", "market", "was", "VERY", "good!"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    made = {family: make_encoder(root / family, family, layers=1) for family in FAMILIES}
    made["gpt2"] = make_decoder(root / "gpt2")
    told = made["spaced"] = make_encoder(root / "spaced", "roberta", layers=1)
    AutoTokenizer.from_pretrained(told, add_prefix_space=True).save_pretrained(told)
    for name in ("pre_tokenizer", "post_processor"):
        assert json.loads((told / "tokenizer.json").read_text())[name]["add_prefix_space"] is True
    return made


def opened(folder: Path, *, spaced: bool = True) -> Tokenizer:
    return Tokenizer.from_file(folder / "tokenizer.json", max_length=200, pad_id=0, spaced=spaced)


def ids_of(tokenizer: Tokenizer, words: list[str]) -> list[int]:
    found: list[int] = tokenizer.encode_words([words]).tokens.ids.tolist()
    return found


# --------------------------------------------------------------------------------------- what words become


@pytest.mark.parametrize("name", ["roberta", "spaced", "gpt2", "xlm-roberta", "deberta-v2", "albert"])
def test_words_are_those_of_transformers_with_a_prefix_space(name: str, folders: dict[str, Path]) -> None:
    theirs = AutoTokenizer.from_pretrained(folders[name], add_prefix_space=True)
    assert ids_of(opened(folders[name]), WORDS) == theirs(WORDS, is_split_into_words=True)["input_ids"]


@pytest.mark.parametrize("name", [*FAMILIES, "spaced", "gpt2"])
def test_words_are_read_as_in_their_text(name: str, folders: dict[str, Path]) -> None:
    tokenizer = opened(folders[name], spaced=False)
    text = tokenizer.encode([" " + " ".join(PLAIN)]).ids.tolist()
    assert ids_of(opened(folders[name]), PLAIN) == text


@pytest.mark.parametrize("name", ["bert", "distilbert", "mpnet", "electra", "xlm-roberta", "albert", "spaced"])
def test_nothing_is_changed_where_words_are_read_so_already(name: str, folders: dict[str, Path]) -> None:
    assert opened(folders[name]).to_json() == opened(folders[name], spaced=False).to_json()


@pytest.mark.parametrize("name", ["roberta", "modernbert", "gpt2"])
def test_the_flag_is_in_the_file_that_is_written(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = opened(folders[name])
    assert tokenizer.prefixes_space
    assert not opened(folders[name], spaced=False).prefixes_space
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    again = opened(tmp_path, spaced=False)
    assert again.prefixes_space
    assert ids_of(again, WORDS) == ids_of(tokenizer, WORDS)


def backend_of(kind: str, folder: Path) -> Backend:
    """Return tokenizers whose byte-level step is behind another one, and SentencePiece ones that add no blank."""
    backend: Backend = Backend.from_file(str(folder / "tokenizer.json"))
    if kind == "split":
        cut = pre_tokenizers.Split(Regex(r"'t| ?\w+| ?[^\s\w]+|\s+"), "isolated")
        step = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([cut, step])
        backend.post_processor = processors.ByteLevel(trim_offsets=True)
        return backend
    pieces = [(f"{mark}{text}", -9.0) for text in "abcdefghijklmnopqrstuvwxyz'18!" for mark in ("", "▁")]
    whole = [(f"{mark}{word}", -3.0) for word in ("the", "good", "don") for mark in ("", "▁")]
    backend = Backend(models.Unigram([("<unk>", 0.0), ("▁", -9.5), *pieces, *whole], unk_id=0))
    if kind == "replace":  # as Gemma's
        backend.normalizer = normalizers.Replace(" ", "▁")
        backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind)
    return backend


@pytest.mark.parametrize("kind", ["split", "replace", "never", "first", "always"])
def test_other_ways_to_write_a_blank_are_followed(kind: str, folders: dict[str, Path]) -> None:
    words = ["the", "coach18", "don't", "good!"]
    plain = backend_of(kind, folders["roberta"]).encode(" ".join(["x", *words]), add_special_tokens=False)
    behind = [token for token, (start, end) in zip(plain.ids, plain.offsets, strict=True) if end > 1 and start > 0]
    tokenizer = Tokenizer(backend_of(kind, folders["roberta"]), max_length=50, pad_id=0, spaced=True)
    assert ids_of(tokenizer, words) == behind
    assert len(ids_of(tokenizer, [""])) == 1  # which stands for nothing at all


@pytest.mark.parametrize("name", ["roberta", "spaced", "modernbert", "gpt2", "split", "xlm-roberta"])
def test_pieces_stand_at_their_characters(name: str, folders: dict[str, Path]) -> None:
    if name == "split":
        tokenizer = Tokenizer(backend_of("split", folders["roberta"]), max_length=50, pad_id=0, spaced=True)
    else:
        tokenizer = opened(folders[name])
    found = tokenizer.encode_pieces([["the", "coach18", "don't"]])
    for place, word in enumerate(("the", "coach18", "don't")):
        spans = found.spans[found.words == place].tolist()
        assert "".join(word[start:end] for start, end in spans) == word
        assert (spans[0][0], spans[-1][1]) == (0, len(word))


@given(words=st.lists(st.text(max_size=8), max_size=8))
def test_each_piece_is_of_its_word(words: list[str], folders: dict[str, Path]) -> None:
    tokenizer = opened(folders["roberta"])
    found = tokenizer.encode_pieces([words])
    assert (np.diff(found.words) >= 0).all()
    for place, (start, end) in zip(found.words.tolist(), found.spans.tolist(), strict=True):
        assert 0 <= start <= end <= len(words[place])


def test_a_tokenizer_that_has_no_file_of_its_own_is_made_with_blanks(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    model = make_encoder(tmp_path / "slow", "roberta", layers=1)
    state = json.loads((model / "tokenizer.json").read_text())["model"]
    (model / "vocab.json").write_text(json.dumps(state["vocab"]), encoding="utf-8")
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in state["merges"])])
    (model / "merges.txt").write_text(merges, encoding="utf-8")
    (model / "tokenizer.json").unlink()
    assert ids_of(open_start(model, words=True).tokenizer, WORDS) == ids_of(opened(folders["roberta"]), WORDS)


def test_texts_are_read_as_ever(folders: dict[str, Path]) -> None:
    text = "don't coach18"
    assert (
        open_start(folders["roberta"]).tokenizer.encode([text]).ids.tolist()
        == opened(folders["roberta"], spaced=False).encode([text]).ids.tolist()
    )


def test_vectors_of_words_without_the_blank_are_of_another_space(folders: dict[str, Path]) -> None:
    folder = folders["roberta"]
    extractor = WordExtractor(EncoderSettings(folder, threads=1))
    assert extractor.tokenizer.prefixes_space
    spaces = []
    for spaced in (True, False):
        tokenizer, path = opened(folder, spaced=spaced), folder / "tokenizer.json"
        spaces.append(
            view_descriptors(extractor.recipe, extractor.folder, tokenizer, path, FileDigests(None), "torch")[0]
        )
    changed = {name for name, value in spaces[0].items() if spaces[1][name] != value}
    assert "word_probe" in changed


# ------------------------------------------------------------------------------------------- end to end


def conll(path: Path, count: int, seed: int) -> None:
    chance = np.random.default_rng(seed)
    lines = []
    for _ in range(count):
        for word in chance.choice(["the", "film", "coach", "market", "good"], chance.integers(2, 7)):
            lines.append(f"{word} {({'coach': 'B-PER', 'market': 'B-LOC'}).get(str(word), 'O')}")
        lines.append("")
    path.write_text("\n".join(lines), encoding="utf-8")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(("train", "validation", "test")):
        conll(folder / f"{name}.conll", 60, seed)
    return folder


TEXT = "the coach was good and market film"
SPLIT = [TEXT.split(), ["don't", "market", "", "18th"], []]


def trained_on(model: Path, data: Path, out: Path) -> Path:
    how = ["--epochs", "3", "--learning-rate", "0.005", "--precision", "float32", "--device", "cpu", "--quiet"]
    told = ["finetune", str(data), "--task", "ner", "-m", str(model), "-o", str(out), *how, "--threads", "1"]
    assert main(told) == 0
    return out


def places(entities: Any) -> list[tuple[str, int, int]]:
    return [(e["entity_group"], e["start"], e["end"]) for e in entities]


def read_alike(folder: Path, tokenizer: Tokenizer) -> None:
    assert json.loads((folder / "tokenizer_config.json").read_text())["add_prefix_space"] is True
    theirs = AutoTokenizer.from_pretrained(folder)
    for words in SPLIT:
        assert theirs(words, is_split_into_words=True)["input_ids"] == ids_of(tokenizer, words)


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words:UserWarning")  # of any byte-level one
@pytest.mark.parametrize("name", ["roberta", "spaced", "modernbert"])
def test_a_fine_tuned_tagger_reads_words_as_transformers_does(
    name: str, folders: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    folder = trained_on(folders[name], data, tmp_path / "ner")
    tagger = load_tuned(folder, device="cpu", threads=1)
    read_alike(folder, tagger.tokenizer)
    assert ids_of(tagger.tokenizer, WORDS) == ids_of(opened(folders[name]), WORDS)
    found: Any = tagger.predict([TEXT])
    theirs = pipeline("token-classification", str(folder), aggregation_strategy="first", device="cpu")
    said = [(e["entity_group"], TEXT[e["start"] : e["end"]].strip(), e["end"]) for e in theirs(TEXT)]
    assert [(e["entity_group"], e["word"], e["end"]) for e in found.entities[0]] == said  # some count the blank in
    assert said


def test_its_graph_does_too(folders: dict[str, Path], data: Path, tmp_path: Path) -> None:
    folder = trained_on(folders["roberta"], data, tmp_path / "ner")
    assert main(["export-onnx", str(folder), "-o", str(tmp_path / "onnx"), "--threads", "1", "--quiet"]) == 0
    tagger: Any = load_tuned(folder, device="cpu", threads=1)
    read_alike(tmp_path / "onnx", tagger.tokenizer)
    served = runtime.load(tmp_path / "onnx", threads=1)
    assert served.predict_tokens(SPLIT) == tagger.predict(SPLIT).tags
    assert places(served.entities([TEXT])[0]) == places(tagger.predict([TEXT]).entities[0])


def test_frozen_vectors_of_words_too(folders: dict[str, Path], tmp_path: Path, store: Path) -> None:
    X = [TEXT.split(), ["a", "market", "film"], ["coach"]]  # noqa: N806
    y = [["B-LOC" if w == "market" else "B-PER" if w == "coach" else "O" for w in words] for words in X]
    how = {"head_params": {"C": 100.0}, "device": "cpu", "threads": 1}
    tagger = TokenClassifier(folders["roberta"], mode="frozen", **how).fit(X, y)
    extractor = tagger.tagger_.extractor
    assert ids_of(extractor.tokenizer, WORDS) == ids_of(opened(folders["roberta"]), WORDS)
    write_tokenizer(tmp_path, extractor.folder, extractor.tokenizer, ["input_ids", "attention_mask"], X)
    read_alike(tmp_path, extractor.tokenizer)
