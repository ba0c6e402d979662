"""Words, their tags and entities: the rule that splits texts, the scheme of conlleval, the runtime's answers."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedkit.errors import DataError, ModelError, UsageError
from embedkit.runtime import Predictor
from embedkit.runtime.description import Description
from embedkit.runtime.entities import Entity, entities_of, has_spans, locate_entities
from embedkit.runtime.model_folder import is_multi_label, labels_of, task_of
from embedkit.runtime.session import Session
from embedkit.runtime.texts import chunks_of
from embedkit.runtime.tokens import Tokenizer
from embedkit.runtime.words import split_words
from tests.tiny_classifiers import TAGS
from tests.tiny_models import FAMILIES, make_encoder

# --- texts to words ------------------------------------------------------------------------------------


def words_of(text: str) -> list[str]:
    return [text[start:end] for start, end in split_words(text)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \t\n\u00a0\u2028\u200b", []),
        ("The 18th of May", ["The", "18th", "of", "May"]),
        ("don't stop", ["don", "'", "t", "stop"]),
        ("3.14, 50%", ["3", ".", "14", ",", "50", "%"]),
        ("“Bob’s”", ["“", "Bob", "’", "s", "”"]),
        ("http://ex.org/a_b?c", ["http", ":", "/", "/", "ex", ".", "org", "/", "a", "_", "b", "?", "c"]),
        ("me@ex.org #tag", ["me", "@", "ex", ".", "org", "#", "tag"]),
        ("cafe\u0301 naïve", ["cafe\u0301", "naïve"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("東京都 に住む", ["東", "京", "都", "に", "住", "む"]),
        ("한국어 Привет", ["한국어", "Привет"]),
        ("so😀good 👍🏽!", ["so", "😀", "good", "👍🏽", "!"]),
        ("👩\u200d👩\u200d👧 🇩🇪🇫🇷", ["👩\u200d👩\u200d👧", "🇩🇪", "🇫🇷"]),
        ("❤\ufe0f 1\ufe0f\u20e3", ["❤\ufe0f", "1\ufe0f\u20e3"]),
        ("soft\u00adhyphen zero\u200bwidth می\u200cخواهم", ["soft\u00adhyphen", "zero", "width", "می\u200cخواهم"]),
        ("\ufe0f a", ["\ufe0f", "a"]),
        ("(\u200da", ["(\u200d", "a"]),
        ("nul\x00nul", ["nul", "nul"]),
    ],
)  # fmt: skip
def test_words_by_the_stated_rule(text: str, words: list[str]) -> None:
    assert words_of(text) == words


@given(st.text(max_size=40))
def test_all_but_white_space_is_in_one_word(text: str) -> None:
    spans = split_words(text)
    assert all(start < end for start, end in spans)
    assert all(before <= after for (_, before), (after, _) in pairwise(spans))
    inside = {place for start, end in spans for place in range(start, end)}
    for place, character in enumerate(text):
        blank = character.isspace() or unicodedata.category(character) == "Cc" or character == "\u200b"
        assert blank is (place not in inside)


@given(st.text(max_size=20), st.text(max_size=20))
def test_white_space_parts_words_wherever_it_stands(a: str, b: str) -> None:
    assert words_of(f"{a} {b}") == words_of(a) + words_of(b)


# --- tags to entities ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "entities"),
    [
        ("", []),
        ("O O", []),
        ("B-A I-A O B-A", [("A", 0, 2), ("A", 3, 4)]),
        ("I-A I-A B-A I-A", [("A", 0, 2), ("A", 2, 4)]),  # IOB1
        ("O I-A I-B", [("A", 1, 2), ("B", 2, 3)]),  # stray I-
        ("B-A I-B", [("A", 0, 1), ("B", 1, 2)]),
        ("B-A E-A S-A B-A I-A E-A", [("A", 0, 2), ("A", 2, 3), ("A", 3, 6)]),  # BIOES
        ("B-A L-A U-A U-A", [("A", 0, 2), ("A", 2, 3), ("A", 3, 4)]),  # BILOU
        ("E-A E-A I-A", [("A", 0, 1), ("A", 1, 2), ("A", 2, 3)]),
        ("B-A M-A E-A", [("A", 0, 3)]),
        ("A A B O B", [("A", 0, 2), ("", 2, 3), ("", 4, 5)]),
        ("PER PER LOC", [("PER", 0, 2), ("LOC", 2, 3)]),
        ("B I O I", [("", 0, 2), ("", 3, 4)]),
        ("B-A-B I-A-B", [("A-B", 0, 2)]),
    ],
)
def test_entities_known_by_hand(tags: str, entities: list[tuple[str, int, int]]) -> None:
    assert entities_of(tags.split()) == [Entity(*entity) for entity in entities]


def conlleval(tags: Sequence[str]) -> list[Entity]:
    """Return the entities by conlleval's two questions, each rule as its script has it."""
    found: list[list[Any]] = []
    before, of = "O", ""
    for place, tag in enumerate([*tags, "O"]):
        now, _, kind = tag.partition("-")
        ends = {("B", "B"), ("B", "O"), ("B", "S"), ("I", "B"), ("I", "O"), ("I", "S")}
        starts = {("O", "E"), ("O", "I"), ("E", "E"), ("E", "I"), ("S", "E"), ("S", "I")}
        if (before, now) in ends or before in ("E", "S") or (before != "O" and of != kind):
            found[-1][2] = place
        if now in ("B", "S") or (before, now) in starts or (now != "O" and of != kind):
            found.append([kind, place, None])
        before, of = now, kind
    return [Entity(*entity) for entity in found]


@given(st.lists(st.sampled_from(["O", *(f"{p}-{k}" for p in "BIES" for k in ("A", "B"))])))
def test_entities_are_those_of_conlleval(tags: list[str]) -> None:
    assert entities_of(tags) == conlleval(tags)


@pytest.mark.parametrize(
    ("labels", "spans"),
    [(TAGS, True), (("PER", "O"), True), (("I-A", "B-A"), True), (("NN", "VB", "."), False), ((), False)],
)
def test_schemes_of_spans_are_told_by_their_labels(labels: Sequence[str], spans: bool) -> None:
    assert has_spans(labels) is spans


def test_an_entity_has_its_words_mean_score_and_its_place() -> None:
    text = "by  Ann Lee."
    found = locate_entities(text, split_words(text), ["O", "B-PER", "I-PER", "O"], [0.9, 0.5, 1.0, 0.8])
    assert found == [{"entity_group": "PER", "score": 0.75, "word": "Ann Lee", "start": 4, "end": 11}]


# --- words to tokens -----------------------------------------------------------------------------------

SENTENCES = [
    ["good", "\ufe0f", "don't", "", "18th", "New York", "a"],
    [],
    ["film"] * 30,
    ["", ""],
    ["[SEP]", "movie"],
    ["x" * 200, "good"],
    ["good", "<mask>", " <mask>", "[MASK] ", "a<s>b", "good", " good", "good "],
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    return {family: make_encoder(root / family, family, layers=1, positions=32) for family in FAMILIES}


def tokenizer_of(folder: Path, max_length: int = 20, **more: Any) -> Tokenizer:
    return Tokenizer.from_file(folder / "tokenizer.json", max_length=max_length, pad_id=0, **more)


@pytest.mark.parametrize("family", FAMILIES)
def test_words_become_the_tokens_that_transformers_makes_of_them(family: str, folders: dict[str, Path]) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folders[family], local_files_only=True)
    given = tokenizer_of(folders[family], 500).encode_words(SENTENCES)
    offsets = given.tokens.offsets
    for row, words in enumerate(SENTENCES):
        place = slice(offsets[row], offsets[row + 1])
        wanted = theirs(words, is_split_into_words=True)
        assert given.tokens.ids[place].tolist() == wanted["input_ids"]
        assert given.words[place].tolist() == [-1 if word is None else word for word in wanted.word_ids()]
        assert given.known[row] == len({word for word in wanted.word_ids() if word is not None})
    firsts = [w != before and w >= 0 for w, before in zip(given.words, [-1, *given.words[:-1]], strict=True)]
    assert given.first.tolist() == firsts
    assert (given.chosen == (given.words >= 0)).all()
    assert tokenizer_of(folders[family]).count_words(SENTENCES).tolist() == [
        len(theirs(words, is_split_into_words=True)["input_ids"]) for words in SENTENCES
    ]


def test_runs_of_sentences_are_bounded_by_characters() -> None:
    sentences = [["x" * (9 << 20)]] * 3
    assert [part.stop - part.start for part in chunks_of(sentences)] == [1, 1, 1]


# --- the predictor -------------------------------------------------------------------------------------


class Spelling:
    """A graph whose logits spell each token's id: label id % 5, with the logit log(10)."""

    def __init__(self, labels: int) -> None:
        self.labels = labels
        self.lengths: list[int] = []

    def run(self, names: list[str], fed: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        ids, mask = fed["input_ids"], fed["attention_mask"]
        self.lengths.append(ids.shape[1])
        logits = np.where(np.arange(self.labels) == (ids % self.labels)[:, :, None], np.log(10), 0.0)
        return [np.where(mask[:, :, None] == 1, logits, np.nan).astype(np.float32)]


def predictor(folder: Path, labels: Sequence[str] = TAGS, **more: Any) -> Predictor:
    described: dict[str, Any] = {
        "task": "tokens", "input": "tokens", "graphs": {}, "labels": tuple(labels), "multi_label": False,
        "has_probabilities": True, "thresholds": None, "max_length": 12, "side": "right", "prompt": "",
        "lowercase": False, "pad_id": 0, "long": "windows", "normalize": False, "bias": (), "width": 32,
    }  # fmt: skip
    shape = {"logits": ["batch", "length", len(labels)]}
    inputs = {"input_ids": np.int64, "attention_mask": np.int64}
    session = Session(Path("model.onnx"), Spelling(len(labels)), dict(inputs), shape)
    return Predictor(Description(**described | more), folder / "tokenizer.json", session, batch_tokens=40)


def test_a_word_has_the_tag_of_its_first_token(folders: dict[str, Path]) -> None:
    model = predictor(folders["bert"])
    ids = tokenizer_of(folders["bert"], 500)
    sentences = [["good", "q8q8", "film"], [], ["a"], ["bad", "", "\ufe0f", "dull"]]
    found = model.tag(sentences)
    for words, tags, scores in zip(sentences, found.tags, found.scores, strict=True):
        assert len(tags) == len(scores) == len(words)
        for word, tag, score in zip(words, tags, scores, strict=True):
            if word in ("", "\ufe0f"):
                assert (tag, score) == ("O", None)
            else:
                assert tag == TAGS[int(ids.encode_words([[word]]).tokens.ids[1]) % 5]
                assert score == pytest.approx(10 / 14)
    assert found.empty.tolist() == [0, 0, 0, 2]
    assert model.predict_tokens(sentences) == found.tags


def test_tags_of_single_words_have_none_where_nothing_was_read(folders: dict[str, Path]) -> None:
    model = predictor(folders["bert"], ("NN", "VB", "DT"))
    assert model.predict_tokens([["", "good"]])[0][0] is None
    with pytest.raises(UsageError, match="make no entities; use predict_tokens"):
        model.entities(["good"])


@given(st.lists(st.text(max_size=30), max_size=4))
def test_entities_stand_in_their_text(folders: dict[str, Path], texts: list[str]) -> None:
    model = predictor(folders["bert"])
    found = model.entities(texts)
    assert len(found) == len(texts)
    for text, entities in zip(texts, found, strict=True):
        end = 0
        for entity in entities:
            assert text[entity["start"] : entity["end"]] == entity["word"]
            assert entity["start"] >= end
            assert entity["entity_group"] in ("PER", "LOC")
            assert 0 < entity["score"] <= 1
            end = entity["end"]


def test_answers_do_not_depend_on_the_batch(folders: dict[str, Path]) -> None:
    rng = np.random.default_rng(0)
    sentences = [[["good", "film", "by"][i] for i in rng.integers(0, 3, n)] for n in rng.integers(0, 15, 60)]
    model = predictor(folders["bert"])
    together = model.tag(sentences)
    for row, words in enumerate(sentences):
        alone = model.tag([words])
        assert alone.tags[0] == together.tags[row]
        assert alone.empty[0] == together.empty[row]
    assert model._session.handle.lengths[0] == 12


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (lambda m: m.tag("a text"), UsageError, "a list of lists of words"),
        (lambda m: m.tag([["a"], "b"]), DataError, "row 2 is of type str, not a list of words; entities"),
        (lambda m: m.tag([["a"], ["b", 3]]), DataError, "row 2: word 2 is of type int"),
        (lambda m: m.tag([["a", "\ud800"]], rows=np.array([7])), DataError, "row 7: lone surrogate"),
        (lambda m: m.entities("a text"), UsageError, "a list of texts"),
        (lambda m: m.entities([("a", "b")]), DataError, "the input holds pairs"),
        (lambda m: m.entities(["a", "\ud800"]), DataError, "row 2: lone surrogate"),
        (lambda m: m.predict(["a"]), UsageError, "holds a token classifier, which gives no labels of texts"),
        (lambda m: m.encode(["a"]), UsageError, "which gives no vectors"),
    ],
)
def test_what_is_asked_wrongly_is_said(call: Any, kind: type[Exception], said: str, folders: Any) -> None:
    with pytest.raises(kind, match=said):
        call(predictor(folders["bert"]))


def test_tuples_of_words_are_sentences(folders: dict[str, Path]) -> None:
    model = predictor(folders["bert"])
    assert model.predict_tokens([("good", "film")]) == model.predict_tokens([["good", "film"]])


# --- what a configuration says -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "labels"),
    [
        ({}, ("LABEL_0", "LABEL_1")),
        ({"num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({"id2label": {"1": "b", "0": "a"}}, ("a", "b")),
        ({"id2label": {"0": 5}}, ("5",)),
    ],
)
def test_labels_are_those_of_transformers(config: dict[str, Any], labels: tuple[str, ...]) -> None:
    assert labels_of(config, Path("m")) == labels


@pytest.mark.parametrize("names", [{}, {"1": "a"}, ["a", "b"], {"0": "a", "1": "a"}, "ab"])
def test_labels_that_cannot_be_are_refused(names: object) -> None:
    with pytest.raises(ModelError, match="id2label"):
        labels_of({"id2label": names}, Path("m"))


@pytest.mark.parametrize(
    ("config", "labels", "said"),
    [
        (
            {"problem_type": "regression"},
            ("a", "b"),
            "problem_type regression means that",
        ),
        ({}, ("a",), "a single label means that"),
        ({"problem_type": "other"}, ("a", "b"), "none that transformers knows"),
    ],
)
def test_models_that_give_a_number_are_refused(config: Any, labels: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        is_multi_label(config, labels, Path("m"))


def test_the_task_is_told_by_the_architecture() -> None:
    assert task_of({"architectures": ["BertForTokenClassification"]}) == "tokens"
    assert task_of({"architectures": ["DebertaV2ForSequenceClassification"]}) == "sequence"
    assert task_of({"architectures": ["BertModel"]}) is None
    assert task_of({"architectures": None}) is None
    assert is_multi_label({"problem_type": "multi_label_classification"}, ("a",), Path("m"))
