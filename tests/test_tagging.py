"""Taggers: as many tags out as words in, each on its own word, whatever the tokenizer does and the length is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby, pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedkit.errors import DataError, ModelError, UsageError
from embedkit.estimators.tagging import Tagged, tag_inputs
from embedkit.runtime.batching import pad
from embedkit.runtime.description import Description
from embedkit.runtime.entities import entities_of
from embedkit.runtime.tagging import Tagging, TokenAnswers
from embedkit.runtime.tokens import Tokenizer, Tokens, WordTokens
from embedkit.runtime.words import split_words
from tests.tiny_classifiers import TAGS
from tests.tiny_models import FAMILIES, WORDS, make_encoder

# Words of all kinds: of several tokens, of none, with blanks, marks and joiners in them.
_ODD = [
    "",
    "\ufe0f",
    "\u00ad",
    "18th",
    "don't",
    "New York",
    "a\nb",
    "😀",
    "👩\u200d👧",
    "東京",
    "[SEP]",
    "zxq" * 9,
    " ",
]
words_lists = st.lists(
    st.lists(st.one_of(st.sampled_from(WORDS), st.sampled_from(_ODD), st.text(max_size=6)), max_size=30),
    max_size=4,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    return {family: make_encoder(root / family, family, layers=1, positions=32) for family in FAMILIES}


def opened(folder: Path, max_length: int) -> Tokenizer:
    return Tokenizer.from_file(folder / "tokenizer.json", max_length=max_length, pad_id=0)


def least(folder: Path) -> int:
    """Return the smallest maximum that leaves room beside the special tokens of a pair."""
    return next(n for n in range(1, 9) if _opens(folder, n))


def _opens(folder: Path, max_length: int) -> bool:
    try:
        opened(folder, max_length)
    except Exception:
        return False
    return True


# --- windows of words ------------------------------------------------------------------------------------


def content(found: WordTokens, window: int) -> list[tuple[int, int, bool, bool]]:
    """Return id, word, first and chosen of a window's tokens, without the special ones."""
    place = slice(*found.tokens.offsets[window : window + 2].tolist())
    rows = zip(found.tokens.ids[place], found.words[place], found.first[place], found.chosen[place], strict=True)
    return [(int(i), int(w), bool(f), bool(c)) for i, w, f, c in rows if w >= 0]


def windows_by_hand(size: int, room: int) -> list[tuple[int, int]]:
    if size <= room:
        return [(0, size)]
    found = [(0, room)]
    while found[-1][1] < size:
        end = min(size, found[-1][1] + room - room // 4)
        found.append((end - room, end))
    return found


def home_by_hand(place: int, windows: Sequence[tuple[int, int]], size: int) -> int:
    def margin(window: tuple[int, int]) -> float:
        start, end = window
        if not start <= place < end:
            return -1
        before = np.inf if start == 0 else place - start
        return float(min(before, np.inf if end == size else end - 1 - place))

    return max(range(len(windows)), key=lambda window: margin(windows[window]))  # the first of equals


@pytest.mark.parametrize("family", FAMILIES)
@given(sentences=words_lists, more=st.integers(0, 14))
def test_each_word_counts_in_the_window_where_it_is_most_central(
    family: str, folders: dict[str, Path], sentences: list[list[str]], more: int
) -> None:
    whole = opened(folders[family], 10_000).encode_words(sentences)
    short = opened(folders[family], least(folders[family]) + more)
    found = short.encode_words(sentences)
    special = int(short.count_words([["good"]])[0] - short.encode_words([["good"]]).tokens.content[0])
    assert found.known.tolist() == whole.known.tolist()
    assert not found.tokens.truncated.any()
    assert sorted(set(found.tokens.rows.tolist())) == list(range(len(sentences)))
    assert (found.tokens.lengths <= short.max_length).all()
    for row in range(len(sentences)):
        tokens = content(whole, row)
        mine = np.flatnonzero(found.tokens.rows == row).tolist()
        cut = windows_by_hand(len(tokens), short.max_length - special)
        assert [[one[:2] for one in content(found, window)] for window in mine] == [
            [one[:2] for one in tokens[start:end]] for start, end in cut
        ]
        homes = {}
        for place, (_, word, first, _) in enumerate(tokens):
            if first:
                homes[word] = home_by_hand(place, cut, len(tokens))
        places = [
            (start + i, n, one)
            for n, (start, _) in enumerate(cut)
            for i, one in enumerate(content(found, mine[n]))
        ]
        for place, window, (_, word, first, chosen) in places:
            assert chosen == (homes[word] == window)
            assert first == (chosen and tokens[place][2])
        assert sorted(one[1] for *_, one in places if one[2]) == sorted(homes)


@pytest.mark.parametrize("family", ["bert", "roberta", "albert"])
def test_a_list_that_fits_is_one_window(family: str, folders: dict[str, Path]) -> None:
    sentences = [["good", "", "film"], [], [""], ["unwatchable"] * 3]
    size = int(opened(folders[family], 500).count_words(sentences).max())
    fits, short = (opened(folders[family], n).encode_words(sentences) for n in (size, size - 1))
    assert fits.tokens.ids.tolist() == opened(folders[family], 500).encode_words(sentences).tokens.ids.tolist()
    assert fits.tokens.rows.tolist() == [0, 1, 2, 3]
    assert (fits.chosen == (fits.words >= 0)).all()
    assert short.tokens.rows.tolist() == [0, 1, 2, 3, 3]


def test_windows_known_by_hand(folders: dict[str, Path]) -> None:
    found = opened(folders["bert"], 10).encode_words([["film"] * 20])  # eight have room, two are shared
    inside = [[word for _, word, _, _ in content(found, window)] for window in range(3)]
    assert inside == [[*range(8)], [*range(6, 14)], [*range(12, 20)]]
    counted = [[word for _, word, first, _ in content(found, window) if first] for window in range(3)]
    assert counted == [[*range(7)], [*range(7, 13)], [*range(13, 20)]]


def test_a_word_longer_than_a_window_counts_once_with_what_stands_around_its_first_token(
    folders: dict[str, Path],
) -> None:
    found = opened(folders["bert"], 8).encode_words([["good", "z" * 25, "film"]])
    assert found.first.sum() == 3
    assert found.words[found.first].tolist() == [0, 1, 2]
    long = found.chosen & (found.words == 1)
    assert 1 <= long.sum() < (found.words == 1).sum()
    windows = np.repeat(np.arange(len(found.tokens.lengths)), found.tokens.lengths)
    assert len(set(windows[long].tolist())) == 1


def test_no_lists_and_lists_without_words(folders: dict[str, Path]) -> None:
    tokenizer = opened(folders["bert"], 8)
    none = tokenizer.encode_words([])
    assert (len(none.tokens.ids), none.known.tolist(), none.tokens.offsets.tolist()) == (0, [], [0])
    empty = tokenizer.encode_words([[], ["", "\ufe0f"]])
    assert empty.tokens.rows.tolist() == [0, 1]
    assert empty.words.tolist() == [-1] * 4
    assert not empty.chosen.any()
    assert empty.known.tolist() == [0, 0]


def test_a_long_list_is_cut_in_one_go(folders: dict[str, Path]) -> None:
    """A test that takes minutes where windows are found one by one among all tokens."""
    found = opened(folders["bert"], 16).encode_words([["film"] * 100_000, ["good"]])
    assert found.known.tolist() == [100_000, 1]
    assert (found.words[found.first] == [*range(100_000), 0]).all()


# --- pieces of words -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@given(sentences=words_lists, more=st.integers(0, 14))
def test_each_piece_counts_once_and_lies_in_its_word(
    family: str, folders: dict[str, Path], sentences: list[list[str]], more: int
) -> None:
    tokenizer = opened(folders[family], least(folders[family]) + more)
    found, whole = tokenizer.encode_pieces(sentences), opened(folders[family], 10_000).encode_words(sentences)
    assert (found.given.chosen == found.given.first).all()
    assert found.given.known.tolist() == whole.tokens.content.tolist()
    assert found.given.tokens.ids[found.given.first].shape == found.words.shape
    rows = np.repeat(np.arange(len(sentences)), found.given.known)
    assert found.words.tolist() == whole.words[whole.chosen].tolist()
    for (row, word), pieces in groupby(zip(rows, found.words, found.spans, strict=True), key=lambda one: one[:2]):
        before = 0
        for _, _, (start, end) in pieces:
            assert 0 <= start <= end <= len(sentences[row][word])
            assert start >= before
            before = start


# --- from logits to tags -----------------------------------------------------------------------------------

POS = ("NN", "VB", "DT")
AGGREGATED = ("first", "average", "max")
labels_of_both_worlds = pytest.mark.parametrize("labels", [TAGS, POS], ids=["spans", "single"])


def logits_of(ids: np.ndarray[Any, Any], labels: int) -> np.ndarray[Any, Any]:
    """Return logits (..., L, C) that depend on a token and on its place in the window, without ties."""
    place = np.arange(ids.shape[-1])[:, None]
    code = np.arange(labels)
    return np.asarray(4 * np.sin(ids[..., None] * (code + 1.7) + place * (code + 0.3) * 0.9), np.float32)


def run_of(labels: Sequence[str], *, seed: int = 0) -> Any:
    """Return a model: windows in batches of any order and size, padding that is no number."""

    def run(tokens: Tokens) -> Any:
        order = np.random.default_rng(seed).permutation(len(tokens.lengths))
        for windows in np.array_split(order, max(1, len(order) // 3)):
            if not len(windows):
                continue
            batch = pad(tokens, windows, 0)
            logits = logits_of(batch.input_ids, len(labels))
            yield windows, np.where(batch.mask()[:, :, None] == 1, logits, np.nan)

    return run


def softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    shifted = np.exp(logits.astype(np.float64) - logits.max())
    return np.asarray(shifted / shifted.sum())


def by_hand(tokenizer: Tokenizer, words: list[str], labels: Sequence[str], aggregation: str) -> list[Any]:
    """Return the probabilities of each word's tags, None for one without tokens, one word at a time."""
    found: list[Any] = [None] * len(words)
    given = tokenizer.encode_words([words])
    for word in range(len(words)):
        known = []
        for start, end in pairwise(given.tokens.offsets.tolist()):
            logits = logits_of(given.tokens.ids[start:end], len(labels))
            mine = given.chosen[start:end] & (given.words[start:end] == word)
            known += [softmax(logits[place]) for place in np.flatnonzero(mine).tolist()]
        if known:
            surest = max(known, key=lambda one: float(one.max()))
            mean = softmax(np.mean(np.log(known), axis=0))
            means = {"average": sum(known) / len(known), "logits": mean}
            found[word] = {"first": known[0], "max": surest, **means}[aggregation]
    return found


@labels_of_both_worlds
@pytest.mark.parametrize("aggregation", [*AGGREGATED, "logits"])
@given(sentences=words_lists, more=st.integers(2, 20), seed=st.integers(0, 3))
def test_each_word_has_its_own_tag(
    labels: tuple[str, ...],
    aggregation: Any,
    folders: dict[str, Path],
    sentences: list[list[str]],
    more: int,
    seed: int,
) -> None:
    tokenizer = opened(folders["bert"], 4 + more)
    found = Tagging(tokenizer, labels, aggregation=aggregation).answer(sentences, run_of(labels, seed=seed))
    assert found.pieces is None
    assert [len(tags) for tags in found.tags] == [len(words) for words in sentences]
    for words, tags, scores, empty in zip(sentences, found.tags, found.scores, found.empty, strict=True):
        known = by_hand(tokenizer, words, labels, aggregation)
        assert empty == sum(one is None for one in known)
        for tag, score, one in zip(tags, scores, known, strict=True):
            if one is None:
                assert (tag, score) == ("O" if labels is TAGS else None, None)
            else:
                assert tag == labels[int(one.argmax())]
                assert score == pytest.approx(one.max())


def best_by_hand(known: list[Any], labels: Sequence[str]) -> float:
    """Return the highest product of probabilities of all valid IOB2 taggings, in logarithms."""

    def valid(tags: Sequence[str]) -> bool:
        before = "O"
        for tag in tags:
            if tag[0] == "I" and before not in (f"B{tag[1:]}", tag):
                return False
            before = tag
        return True

    read = [one for one in known if one is not None]
    paths = (path for path in product(range(len(labels)), repeat=len(read)))
    best = -np.inf
    for path in paths:
        tags = iter(path)
        whole = ["O" if one is None else labels[next(tags)] for one in known]
        if valid(whole):
            best = max(best, sum(np.log(one[code]) for one, code in zip(read, path, strict=True)))
    return float(best)


@given(words=st.lists(st.sampled_from([*WORDS[:6], "", "zxq"]), max_size=4))
def test_valid_tags_are_the_likeliest_of_all_that_are(folders: dict[str, Path], words: list[str]) -> None:
    tokenizer = opened(folders["bert"], 12)
    found = Tagging(tokenizer, TAGS, decoding="bio").answer([words, *[["good"]] * 3], run_of(TAGS))
    tags, scores = found.tags[0], found.scores[0]
    known = by_hand(tokenizer, words, TAGS, "first")
    total = 0.0
    before = "O"
    for tag, score, one in zip(tags, scores, known, strict=True):
        assert tag is not None
        assert str(tag)[0] != "I" or before in (f"B{str(tag)[1:]}", tag)
        assert (score is None) == (one is None)
        if one is not None:
            assert score == pytest.approx(one[TAGS.index(str(tag))])
            total += np.log(one[TAGS.index(str(tag))])
        before = str(tag)
    assert total == pytest.approx(best_by_hand(known, TAGS))


@pytest.mark.parametrize("labels", [("O", "B-A", "I-A"), ("I-A", "B-A")])
def test_no_span_goes_on_over_a_word_that_was_not_read(labels: Sequence[str], folders: dict[str, Path]) -> None:
    """I-A is the likeliest everywhere, and may follow nothing; also where there is no O to stand between."""

    def run(tokens: Tokens) -> Any:
        logits = np.float32([{"O": 0, "B-A": 5, "I-A": 9}[label] for label in labels])
        yield np.array([0]), np.broadcast_to(logits, (1, int(tokens.lengths[0]), len(labels)))

    tagging = Tagging(opened(folders["bert"], 20), labels, decoding="bio")
    found = tagging.answer([["good", "good", "\ufe0f", "good", "good"]], run)
    assert found.tags == [["B-A", "I-A", "O", "B-A", "I-A"]]


@labels_of_both_worlds
@given(sentences=words_lists, more=st.integers(2, 20))
def test_each_piece_answers_for_itself(
    labels: tuple[str, ...], folders: dict[str, Path], sentences: list[list[str]], more: int
) -> None:
    tokenizer = opened(folders["bert"], 4 + more)
    found = Tagging(tokenizer, labels, aggregation="none").answer(sentences, run_of(labels))
    whole = tokenizer.encode_pieces(sentences)
    assert found.pieces is not None
    assert [len(tags) for tags in found.tags] == whole.given.known.tolist() == [len(some) for some in found.pieces]
    assert found.empty.tolist() == Tagging(tokenizer, labels).answer(sentences, run_of(labels)).empty.tolist()
    own = []
    for window, (start, end) in enumerate(pairwise(whole.given.tokens.offsets.tolist())):
        best = logits_of(whole.given.tokens.ids[start:end], len(labels)).argmax(axis=1).tolist()
        pieces = zip(whole.given.words[start:end].tolist(), best, whole.given.first[start:end], strict=True)
        own += [
            (int(whole.given.tokens.rows[window]), piece, labels[code]) for piece, code, first in pieces if first
        ]
    assert [tag for some in found.tags for tag in some] == [tag for _, _, tag in sorted(own)]
    assert not any(score is None for some in found.scores for score in some)


@pytest.mark.parametrize("aggregation", [*AGGREGATED, "none"])
def test_a_word_of_one_token_is_tagged_alike_by_all(aggregation: Any, folders: dict[str, Path]) -> None:
    tokenizer, sentences = opened(folders["bert"], 12), [["good", "film"] * 9, ["bad"]]
    plain = Tagging(tokenizer, TAGS).answer(sentences, run_of(TAGS))
    found = Tagging(tokenizer, TAGS, aggregation=aggregation).answer(sentences, run_of(TAGS))
    assert (found.tags, found.scores) == (plain.tags, plain.scores)


def test_nothing_is_tagged_as_nothing(folders: dict[str, Path]) -> None:
    for aggregation in (*AGGREGATED, "none"):
        for decoding in ("argmax", "bio"):
            tagging = Tagging(opened(folders["bert"], 12), TAGS, aggregation=aggregation, decoding=decoding)
            assert tagging.answer([], run_of(TAGS)).tags == []
            found = tagging.answer([[], ["", ""], []], run_of(TAGS))
            assert found.tags == ([[], ["O", "O"], []] if aggregation != "none" else [[], [], []])
            assert found.empty.tolist() == [0, 2, 0]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"aggregation": "mean"}, "no aggregation 'mean'; allowed: first, average, max, none, logits"),
        ({"decoding": "crf"}, "no decoding 'crf'; allowed: argmax, bio"),
    ],
)
def test_unknown_ways_are_refused(how: dict[str, Any], said: str, folders: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=said):
        Tagging(opened(folders["bert"], 12), TAGS, **how)


def tagged(
    tagging: Tagging, inputs: Any, rows: Any = None, *, run: Any = None, labels: Sequence[str] = TAGS
) -> Tagged:
    def answer(sentences: Any, numbers: Any) -> TokenAnswers:
        return tagging.answer(sentences, run or run_of(labels), rows=numbers)

    return tag_inputs(inputs, rows, answer, spans="O" in labels)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("aggregation", [*AGGREGATED, "none", "logits"])
def test_logits_that_are_no_numbers_are_said(aggregation: Any, wrong: float, folders: dict[str, Path]) -> None:
    def run(tokens: Tokens) -> Any:
        logits = np.zeros((1, int(tokens.lengths[0]), len(TAGS)), np.float32)
        logits[0, 2, 1] = wrong
        yield np.array([0]), logits

    tagging = Tagging(opened(folders["bert"], 20), TAGS, aggregation=aggregation)
    with pytest.raises(ModelError, match="no numbers for 1 of 3 tokens"):
        tagging.answer([["good", "film", "bad"]], run)


# --- texts and their words -----------------------------------------------------------------------------------

_TEXTS = [
    "Dean Palmer hit his 30th homer for the Rangers.",
    "“Bob’s” caf\u00e9, cafe\u0301 & na\u0131ve",
    "\u200f\u05d9\u05d0\u05d9\u05e8 \u05dc\u05e4\u05d9\u05d3",
    "東京都 に住む and 中文字符",
    "👩\u200d👩\u200d👧 \U0001f1e9\U0001f1ea 👍\U0001f3fd 1\ufe0f\u20e3 ❤\ufe0f",
    "see http://ex.org/a_b?c=d#e or me@ex.org",
    "the 18th of May, 3.14 %",
    "a\u00a0b\u200bc\u00add\tnul\x00nul\r\nline",
    "",
    "   ",
    "\ufe0f",
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("aggregation", [*AGGREGATED, "none"])
def test_offsets_give_back_the_word(family: str, aggregation: Any, folders: dict[str, Path]) -> None:
    @given(st.lists(st.one_of(st.text(max_size=30), st.sampled_from(_TEXTS)), max_size=3))
    @settings(max_examples=25)
    def holds(texts: list[str]) -> None:
        tagging = Tagging(opened(folders[family], 14), TAGS, aggregation=aggregation)
        found = tag_inputs(
            texts, None, lambda some, rows: tagging.answer(some, run_of(TAGS), rows=rows), spans=True
        )
        check(texts, found, aggregation)

    holds()


def check(texts: Sequence[str], found: Tagged, aggregation: str) -> None:
    assert found.entities is not None
    assert len(found.words) == len(found.tags) == len(found.scores) == len(found.entities) == len(texts)
    for text, words, tags, scores, entities in zip(texts, *found[:4], strict=True):
        assert len(words) == len(tags) == len(scores)
        if aggregation != "none":
            assert words == [text[start:end] for start, end in split_words(text)]
        else:
            assert all(word in text for word in words)
        inside = [entity.kind for entity in entities_of(tags)]
        assert [entity["entity_group"] for entity in entities] == inside
        for entity in entities:
            assert text[entity["start"] : entity["end"]] == entity["word"]
            assert 0 < entity["score"] <= 1


def test_a_table_of_words_and_their_places(folders: dict[str, Path]) -> None:
    """A tagger that calls every word a person of its own: each entity is one word, and stands where it should."""

    def run(tokens: Tokens) -> Any:
        for window, length in enumerate(tokens.lengths.tolist()):
            yield np.array([window]), np.broadcast_to(np.float32([0, 9, 0, 0, 0]), (1, length, 5))

    for family in ("bert", "roberta", "xlm-roberta"):
        tagging = Tagging(opened(folders[family], 20), TAGS)
        answered: dict[str, list[str]] = {}
        for text in _TEXTS:
            found = tag_inputs(
                [text], None, lambda some, rows, t=tagging: t.answer(some, run, rows=rows), spans=True
            )
            assert found.entities is not None
            read = [word for word, score in zip(found.words[0], found.scores[0], strict=True) if score is not None]
            assert [entity["word"] for entity in found.entities[0]] == read
            assert [text[entity["start"] : entity["end"]] for entity in found.entities[0]] == read
            answered[text] = read
        assert answered[_TEXTS[0]] == [
            "Dean",
            "Palmer",
            "hit",
            "his",
            "30th",
            "homer",
            "for",
            "the",
            "Rangers",
            ".",
        ]
        assert answered[_TEXTS[6]] == ["the", "18th", "of", "May", ",", "3", ".", "14", "%"]


def test_words_that_are_given_have_their_places_in_a_text_with_blanks(folders: dict[str, Path]) -> None:
    sentences = [["New York", "", "is", "big"], [], ["a"]]
    for aggregation in (*AGGREGATED, "none"):
        tagging = Tagging(opened(folders["bert"], 20), TAGS, aggregation=aggregation)
        found = tagged(tagging, sentences)
        check([" ".join(words) for words in sentences], found, "none")
        if aggregation != "none":
            assert found.words == sentences
        assert (found.extraction.rows, found.extraction.empty, found.extraction.truncated) == (3, 1, 0)


def test_single_tags_make_no_entities(folders: dict[str, Path]) -> None:
    tagging = Tagging(opened(folders["bert"], 20), POS)
    assert tagged(tagging, ["good film"], labels=POS).entities is None


@pytest.mark.parametrize(
    ("inputs", "rows", "said"),
    [
        (["a text", ["a"]], None, "row 2 is of type list, not a text"),
        ([["a"], "b"], [7, 9], "row 9 is of type str, not a list of words"),
        (["fine", "\ud800"], [7, 9], "row 9: lone surrogate"),
        ([["fine"], ["\ud800"]], None, "row 2: lone surrogate"),
        ([["a", None]], None, "row 1: word 2 is of type NoneType"),
    ],
)
def test_inputs_of_other_kinds_are_named_by_row(
    inputs: Any, rows: list[int] | None, said: str, folders: dict[str, Path]
) -> None:
    tagging = Tagging(opened(folders["bert"], 20), TAGS)
    numbers = None if rows is None else np.array(rows)
    with pytest.raises(DataError, match=said):
        tagged(tagging, inputs, numbers)


# --- what a folder says --------------------------------------------------------------------------------------

DESCRIBED = Description(
    task="tokens", input="tokens", graphs={"float32": "onnx/model.onnx"}, labels=TAGS, multi_label=False,
    has_probabilities=True, thresholds=None, max_length=32, side="right", prompt="", lowercase=False, pad_id=0,
    long="windows", normalize=False, bias=(), width=32, aggregation="logits", decoding="bio",
)  # fmt: skip


def test_a_description_is_read_back() -> None:
    assert Description.from_json(json.loads(json.dumps(DESCRIBED.to_json()))) == DESCRIBED
    assert DESCRIBED.to_json()["words"] == {"split": "unicode", "aggregation": "logits", "decoding": "bio"}


@pytest.mark.parametrize(
    "changed",
    [
        {"words": None},
        {"words": {}},
        {"words": {"split": "blanks", "aggregation": "first", "decoding": "bio"}},
        {"words": {"split": "unicode", "aggregation": "sum", "decoding": "bio"}},
        {"words": {"split": "unicode", "aggregation": "none", "decoding": "bio"}},
        {"words": {"split": "unicode", "aggregation": ["first"], "decoding": "bio"}},
        {"words": {"split": "unicode", "aggregation": "first", "decoding": "crf"}},
        {"long": "truncate"},
        {"long": "mean"},
        {"task": "sequence", "input": "text"},
        {"input": "text"},
        {"labels": [1, 2]},
        {"labels": ["O", "O"]},
        {"problem_type": "multi_label_classification"},
    ],
)
def test_a_description_that_is_none_of_a_tagger_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Description.from_json({**DESCRIBED.to_json(), **changed})
