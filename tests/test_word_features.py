"""Vectors of words through the store: every word in its place, whatever the tokenizer makes of it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from embedkit.encoders import EncoderSettings, FeatureExtractor, WordExtractor
from embedkit.encoders.texts import keys_of, word_keys
from embedkit.errors import DataError, ModelError, UsageError
from embedkit.export.engine import make_engine
from embedkit.runtime.tokens import Tokens
from embedkit.store import FeatureStore
from tests.extract_worker import FakeEncoder
from tests.tiny_models import WORDS, make_encoder

Floats = NDArray[np.float32]
pytestmark = pytest.mark.usefixtures("one_torch_thread")

SENTENCES = [
    ["the", "film", "was", "unbelievably", "good", "."],
    [],
    ["The", "\ufe0f", "bank", "", "of", "antidisestablishmentarianism"],
    ["the", "film", "was", "unbelievably", "good", "."],
    ["\ufe0f"],
    ["price"],
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("model") / "m", "bert")


def extractor(folder: Path, store: Path | None = None, **how: object) -> WordExtractor:
    kept = None if store is None else FeatureStore(store)
    return WordExtractor(EncoderSettings(folder, **how), store=kept)  # type: ignore[arg-type]


class Silent(FakeEncoder):
    """Must not be asked."""

    def token_states(self, *_: object) -> Any:
        raise AssertionError("the encoder was asked")


# --- what a vector is ----------------------------------------------------------------------------------


def plain(folder: Path, words: Sequence[str], layer: int, pooling: str) -> Floats:
    """Return the vectors of a sentence's words by transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    given = tokenizer([list(words)], is_split_into_words=True, return_tensors="pt")
    with torch.inference_mode():
        output = model(**given, output_hidden_states=True)
    states = output.last_hidden_state[0] if layer == -1 else output.hidden_states[layer][0]
    places = given.word_ids(0)
    found = np.zeros((len(words), states.shape[1]), np.float32)
    for number in range(len(words)):
        own = states[[place for place, word in enumerate(places) if word == number]].numpy()
        if len(own):
            found[number] = own[0] if pooling == "first" else own.mean(axis=0)
    return found


@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "deberta-v2"])
def test_a_word_is_the_plain_forward_pass(tmp_path: Path, family: str, pooling: str) -> None:
    folder = make_encoder(tmp_path / "m", family)
    for layer in (-1, 1):
        done = extractor(folder, pooling=pooling, layers=layer).transform(SENTENCES)
        expected = [plain(folder, words, layer, pooling) for words in SENTENCES if words]
        np.testing.assert_allclose(done.vectors, np.concatenate(expected), atol=2e-5)


def test_layers_and_poolings_are_joined(model: Path, tmp_path: Path) -> None:
    parts = {
        (layer, pooling): extractor(model, pooling=pooling, layers=layer).transform(SENTENCES).vectors
        for layer in (-1, 1)
        for pooling in ("first", "mean")
    }
    joined = extractor(model, tmp_path, pooling="first+mean", layers=(-1, 1)).transform(SENTENCES).vectors
    np.testing.assert_array_equal(
        joined, np.hstack([parts[-1, "first"], parts[-1, "mean"], parts[1, "first"], parts[1, "mean"]])
    )
    mean = extractor(model, layers=(-1, 1), layer_join="mean")
    np.testing.assert_allclose(
        mean.transform(SENTENCES).vectors, (parts[-1, "first"] + parts[1, "first"]) / 2, atol=1e-6
    )
    assert mean.width() == 32
    # what a mean of views costs is one pass: the views of the join serve each of them
    one = extractor(model, tmp_path, pooling="mean", layers=1)
    assert one.transform(SENTENCES).extraction.computed == 0


def test_words_of_a_long_sentence_are_those_of_the_windows_where_they_count(model: Path) -> None:
    words = [WORDS[i % len(WORDS)] for i in range(70)]
    words[30] = "antidisestablishmentarianism"
    opened = extractor(model, max_length=20, pooling="mean")
    done = opened.transform([words, ["price"]])
    laid = opened.tokenizer.encode_words([words])
    assert len(laid.tokens.lengths) > 3
    net = AutoModel.from_pretrained(model).eval()
    seen = np.zeros(len(words), int)
    for window, start in enumerate(laid.tokens.offsets[:-1].tolist()):
        part = slice(start, int(laid.tokens.offsets[window + 1]))
        with torch.inference_mode():
            states = net(torch.from_numpy(laid.tokens.ids[part].astype(np.int64))[None]).last_hidden_state[0]
        for word in np.unique(laid.words[part][laid.chosen[part]]).tolist():
            own = states[np.flatnonzero((laid.words[part] == word) & laid.chosen[part])].numpy().mean(axis=0)
            np.testing.assert_allclose(done.vectors[word], own, atol=2e-5)
            seen[word] += 1
    assert (seen == 1).all()
    assert (np.abs(done.vectors).max(axis=1) > 0).all()


def test_a_graph_gives_what_torch_gives(model: Path, tmp_path: Path) -> None:
    how: dict[str, Any] = {"pooling": "mean", "layers": (-1, 1)}
    made = WordExtractor(
        EncoderSettings(model, engine="onnx", **how), store=FeatureStore(tmp_path), engines=make_engine
    )
    expected = extractor(model, **how)
    found = made.transform(SENTENCES)
    assert (made.engine, made.space()) == ("onnx", expected.space())
    np.testing.assert_allclose(found.vectors, expected.transform(SENTENCES).vectors, atol=1e-4)


# --- order, places and the store -----------------------------------------------------------------------

words_of = st.one_of(st.sampled_from(["the", "Bank", "", "\ufe0f", "unbelievably", " "]), st.text(max_size=6))
sentences_of = st.lists(
    st.lists(words_of.filter(lambda word: not any(0xD800 <= ord(c) < 0xE000 for c in word)), max_size=30),
    max_size=8,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=sentences_of, sentences=sentences_of, batch_tokens=st.integers(1, 300))
def test_every_word_has_a_row_in_its_place(
    model: Path, before: list[list[str]], sentences: list[list[str]], batch_tokens: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        extractor(model, Path(folder), max_length=12).transform(before)
        told: list[int] = []
        opened = extractor(model, Path(folder), max_length=12, batch_tokens=batch_tokens)
        opened.progress = told.append
        missing = opened.missing(sentences)
        done = opened.transform(sentences)
        assert np.diff(done.offsets).tolist() == list(map(len, sentences))
        assert done.vectors.shape == (sum(map(len, sentences)), 32)
        assert done.vectors.dtype == np.float32
        assert sum(told) == len(sentences)
        distinct, known = {tuple(words) for words in sentences}, {tuple(words) for words in before}
        assert done.extraction.unique == len(distinct)
        assert missing == done.extraction.computed == len({words for words in distinct - known if words})
        assert done.extraction.empty == done.empty.sum()
        assert (np.abs(done.vectors).max(axis=1, initial=0) == 0).tolist() == done.empty.tolist()
        for number, words in enumerate(sentences):
            part = slice(*done.offsets[number : number + 2])
            alone = extractor(model, max_length=12).transform([words])
            np.testing.assert_allclose(done.vectors[part], alone.vectors, atol=2e-5)
            assert done.empty[part].tolist() == alone.empty.tolist()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_hit_is_bit_for_bit_the_miss(model: Path, tmp_path: Path, dtype: str) -> None:
    store = FeatureStore(tmp_path, dtype=dtype)  # type: ignore[arg-type]
    how = EncoderSettings(model, pooling="mean")
    miss = WordExtractor(how, store=store).transform(SENTENCES)
    hit = WordExtractor(how, store=store, encoder=Silent()).transform(SENTENCES)
    np.testing.assert_array_equal(miss.vectors, hit.vectors)
    np.testing.assert_array_equal(miss.empty, hit.empty)
    assert (miss.extraction.computed, hit.extraction.computed, hit.extraction.hits) == (4, 0, 5)
    assert hit.extraction.empty == 3
    without = WordExtractor(how, dtype=dtype).transform(SENTENCES)  # type: ignore[arg-type]
    np.testing.assert_array_equal(without.vectors, miss.vectors)


def test_a_sentence_of_which_a_word_is_missing_is_computed_as_a_whole(model: Path, tmp_path: Path) -> None:
    expected = extractor(model).transform(SENTENCES).vectors
    opened = extractor(model, tmp_path)
    keys = word_keys(keys_of(SENTENCES[:1], np.array([1])), np.array([6]))
    assert opened.spaces is not None
    with opened.spaces[0].writer() as writer:
        writer.put(keys[2:3], np.full((1, 32), 7, np.float32), np.array([1], np.uint32), np.array([False]))
    done = opened.transform(SENTENCES)
    assert done.extraction.computed == 4
    assert (done.vectors[2] == 7).all()  # what the store has stays
    others = np.delete(np.arange(len(expected)), [2, 14])  # the sentence stands twice
    np.testing.assert_allclose(done.vectors[others], expected[others], atol=1e-6)
    again = WordExtractor(EncoderSettings(model), store=FeatureStore(tmp_path), encoder=Silent())
    np.testing.assert_array_equal(again.transform(SENTENCES).vectors, done.vectors)


def test_sentences_that_read_alike_have_keys_of_their_own() -> None:
    sentences = [["ab", "c"], ["a", "bc"], ["abc", ""], ["ab c", ""], ["", "abc"]]
    keys = word_keys(keys_of(sentences, np.arange(5)), np.full(5, 2))
    assert len({key.tobytes() for key in keys}) == 10
    assert word_keys(keys_of([], np.arange(0)), np.arange(0)).shape == (0, 16)


# --- spaces --------------------------------------------------------------------------------------------


def test_whatever_changes_a_vector_makes_another_space(model: Path, tmp_path: Path) -> None:
    changes: list[dict[str, object]] = [
        {},
        {"pooling": "mean"},
        {"layers": 1},
        {"layers": (1, -1)},
        {"layers": (1, -1), "layer_join": "mean"},
        {"max_length": 30},
        {"precision": "bfloat16"},
    ]
    ids = [extractor(model, **change).space() for change in changes]
    other = make_encoder(tmp_path / "other", "bert", seed=1)
    ids.append(extractor(other).space())
    ids.append(WordExtractor(EncoderSettings(model), dtype="float16").space())
    texts = FeatureExtractor(EncoderSettings(model, pooling="mean"))
    assert len({*ids, texts.space(), texts.space("pair")}) == len(ids) + 2
    assert not set(texts.view_ids) & {name for change in changes for name in extractor(model, **change).view_ids}
    assert extractor(model, pooling="first", layers=-1, prompt="", normalize=False).space() == ids[0]


@pytest.mark.parametrize("drift", ["ids", "rule"])
def test_a_tokenizer_that_reads_words_otherwise_makes_another_space(
    model: Path, monkeypatch: pytest.MonkeyPatch, drift: str
) -> None:
    before = extractor(model).space()
    if drift == "rule":
        monkeypatch.setattr("embedkit.encoders.recipe.WINDOWS", "another rule")
    else:
        from embedkit.runtime.tokens import Tokenizer

        encode = Tokenizer.encode_words

        def drifted(self: Tokenizer, sentences: Sequence[Sequence[str]]) -> object:
            return encode(self, [[word.replace("don", "Don") for word in words] + ["x"] for words in sentences])

        monkeypatch.setattr(Tokenizer, "encode_words", drifted)
    assert extractor(model).space() != before


# --- what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"normalize": True}, "normalize is of texts"),
        ({"prompt": "query: "}, "prompt is of texts"),
        ({"long": "mean"}, "long is of texts"),
        ({"side": "left"}, "side is of texts"),
        ({"pairs": "bi"}, "pairs is of texts"),
        ({"pooling": "cls"}, "pooling 'cls': 'cls' is unknown; allowed: first, mean"),
        ({"pooling": "first+cls"}, "'cls' is unknown"),
        ({"layers": 9}, "layer 9 does not exist"),
        ({"max_length": 2}, "leaves no room"),
    ],
)
def test_what_is_of_texts_is_refused(model: Path, how: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        extractor(model, **how)


def test_texts_have_no_first_token_of_a_word(model: Path) -> None:
    with pytest.raises(UsageError, match="'first' is unknown; allowed: cls, mean"):
        FeatureExtractor(EncoderSettings(model, pooling="first"))


@pytest.mark.parametrize(
    ("sentences", "said"),
    [
        ([["a"], "the bank"], "row 8 is of type str, not a list of words"),
        ([["a"], ["b", 3]], "row 8: word 2 is of type int"),
        ([["a"], ["b", "\ud800"]], "row 8: .*U\\+D800"),
    ],
)
def test_what_is_no_sentence_is_named_by_its_row(model: Path, sentences: list[list[str]], said: str) -> None:
    with pytest.raises(DataError, match=said):
        extractor(model).transform(sentences, rows=np.array([7, 8]))


class Poisoned(FakeEncoder):
    """Gives states that are no numbers for a sentence of one token."""

    def token_states(self, tokens: Tokens, batches: Any, pad_id: int, layers: Any, threads: Any = None) -> Any:
        for windows in batches:
            length = int(tokens.lengths[windows].max())
            states = np.ones((len(layers), len(windows), length, self.width), np.float32)
            states[:, (tokens.lengths[windows] == 3) & (tokens.rows[windows] > 2)] = np.nan
            yield windows, states


def test_a_vector_that_is_no_number_is_named_by_its_row(model: Path, tmp_path: Path) -> None:
    opened = WordExtractor(EncoderSettings(model), store=FeatureStore(tmp_path), encoder=Poisoned())
    with pytest.raises(ModelError, match="row 6: the encoder gave a vector that is not finite"):
        opened.transform(SENTENCES)


def test_what_no_word_is_left_of_is_said(model: Path) -> None:
    opened = extractor(model)
    assert opened.remarks(opened.transform(SENTENCES).extraction) == [
        "3 words of 6 inputs hold nothing that the tokenizer knows"
    ]
    assert opened.remarks(opened.transform([["the"]]).extraction) == []
