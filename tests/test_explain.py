"""Explanations: the words' terms are those of a plain forward pass, add up to the score, and are inert as HTML."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoModel, AutoTokenizer

import embedkit
from embedkit import EmbeddingClassifier, TextEncoder
from embedkit.data import LabelCodec
from embedkit.encoders import EncoderSettings, FeatureExtractor
from embedkit.encoders.features import Features
from embedkit.errors import DataError, ModelError, UsageError
from embedkit.estimators.explain import Explanation, WordContribution, explain_text
from embedkit.heads import ConstantHead, LinearHead
from embedkit.runtime.batching import plan
from embedkit.runtime.tokens import Text
from embedkit.store import FeatureStore
from tests.tiny_models import FAMILIES, WORDS, make_decoder, make_encoder, make_sentence_transformer

Folders = Callable[..., Path]
Doubles = NDArray[np.float64]
CLASSES = ("neg", "neutral", "pos")
ALL = (*FAMILIES, "gpt2")


pytestmark = pytest.mark.usefixtures("one_torch_thread", "store")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Make each family's tiny model once."""

    @cache
    def made(family: str) -> Path:
        path = tmp_path_factory.mktemp("model") / family
        return make_decoder(path) if family == "gpt2" else make_encoder(path, family)

    return made


@cache
def extractor(folder: Path, **how: Any) -> FeatureExtractor:
    return FeatureExtractor(EncoderSettings(str(folder), **{"pooling": "mean", **how}))


def head_for(extractor: FeatureExtractor, rows: int = 3, link: str = "softmax", **how: Any) -> LinearHead:
    rng = np.random.default_rng(7)
    return LinearHead(rng.normal(size=(rows, extractor.width())), rng.normal(size=rows), link, **how)


def explained(
    extractor: FeatureExtractor, text: Text, head: LinearHead | None = None, classes: Sequence[Any] = CLASSES
) -> Explanation:
    """Explain with a head drawn at random, and check what holds for every explanation."""
    head = head or head_for(extractor)

    def predict(texts: list[Text]) -> list[Any]:
        codes = head.predict(extractor.transform(texts).vectors)
        several = [[classes[c] for c in np.flatnonzero(row)] for row in codes] if head.multi_label else []
        return several or [classes[code] for code in codes]

    explanation = explain_text(extractor, head, classes, text, predict)
    assert_adds_up(explanation)
    assert_covers(explanation)
    return explanation


def terms_of(explanation: Explanation) -> Doubles:
    return np.array([word.contributions for word in explanation.words]).reshape(-1, len(explanation.classes))


def assert_adds_up(explanation: Explanation, tolerance: float = 1e-4) -> None:
    terms, rounding = terms_of(explanation), np.array(explanation.rounding)
    total = terms.sum(0) + explanation.intercept
    np.testing.assert_allclose(total + rounding, explanation.scores, rtol=0, atol=1e-9)
    assert (np.abs(rounding) <= tolerance * np.maximum(np.abs(terms).sum(0), 1e-3)).all()


def assert_covers(explanation: Explanation) -> None:
    """Every visible character is in one word, and words stand in the order of the text."""
    texts = (explanation.text,) if isinstance(explanation.text, str) else explanation.text
    for number, text in enumerate(texts, start=1):
        words = [word for word in explanation.words if word.part == number and word.kind != "prompt"]
        end = 0
        for word in words:
            assert word.start is not None
            assert word.end is not None
            assert text[end : word.start].strip() == ""
            assert word.word == text[word.start : word.end]
            assert (word.kind == "space") == (word.word.strip() == "")
            end = word.end
        assert text[end:].strip() == ""
    for word in explanation.words:
        assert word.read or not any(word.contributions)


def words_of(explanation: Explanation, kind: str = "word") -> list[str]:
    return [word.word for word in explanation.words if word.kind == kind]


def the(explanation: Explanation, word: str) -> WordContribution:
    (found,) = [entry for entry in explanation.words if entry.word == word]
    return found


# ------------------------------------------------------------------------------------- where tokens come from

ODD = [
    "[SEP] [CLS] </s>",
    "café",
    "cafe\u0301",
    "日本語",
    "😀😀",
    "a\u200bb",
    "\x1b[31m",
    "İx",
    "\ufb01ne",
    "don't",
    "½",
]
pieces = st.one_of(
    st.sampled_from([*WORDS[:60], *ODD, ",", ".", "'", "-", "  ", "\n\n", "\t"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
)
texts = st.lists(st.tuples(pieces, st.sampled_from(["", " ", " "])), max_size=14).map(
    lambda parts: "".join(a + b for a, b in parts)
)
inputs = st.one_of(texts, st.tuples(texts, texts))


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("windows", [False, True])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=inputs, prompt=st.sampled_from(["", "query: ", "a"]))
def test_located_tokens_are_those_that_the_model_reads(
    folder: Folders, family: str, side: Any, windows: bool, text: Text, prompt: str
) -> None:
    tokenizer = extractor(folder(family), max_length=9, side=side, prompt=prompt).tokenizer
    if windows and isinstance(text, tuple):
        with pytest.raises(UsageError, match="not defined for pairs"):
            tokenizer.locate(text, windows=True)
        return
    located, plain = tokenizer.locate(text, windows=windows), tokenizer.encode([text], windows=windows)
    assert located.tokens.ids.tolist() == plain.ids.tolist()
    assert located.tokens.offsets.tolist() == plain.offsets.tolist()
    assert located.tokens.truncated.tolist() == plain.truncated.tolist()
    assert (plain.type_ids is None) == (located.tokens.type_ids is None)
    assert plain.type_ids is None or plain.type_ids.tolist() == located.tokens.type_ids.tolist()  # type: ignore[union-attr]
    read = located.sources[located.sources >= 0]
    assert len(set(read.tolist())) == len(read)
    assert (np.diff(located.parts) >= 0).all()
    assert (len(read) < len(located.spans)) == plain.truncated[0]
    sizes = [len(prompt) + len(text)] if isinstance(text, str) else [len(prompt) + len(text[0]), len(text[1])]
    for part, (start, end) in zip(located.parts.tolist(), located.spans.tolist(), strict=True):
        assert 0 <= start <= end <= sizes[part]


def test_a_token_has_the_name_that_the_vocabulary_gives_it(folder: Folders) -> None:
    tokenizer = extractor(folder("bert")).tokenizer
    ids = tokenizer.encode(["film"]).ids.tolist()
    assert [tokenizer.name(i) for i in [*ids, 99_999]] == ["[CLS]", "film", "[SEP]", "<99999>"]


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "gpt2"])
def test_states_of_tokens_are_what_is_pooled(folder: Folders, family: str) -> None:
    """Several windows of several lengths, so that batches are padded."""
    opened = extractor(folder(family), layers=(1, -1), max_length=12, batch_tokens=40)
    tokens = opened.tokenizer.encode(["the film was a great drama " * 5, "boring", "", "good plot"], windows=True)
    assert any(len(set(tokens.lengths[b].tolist())) > 1 for b in plan(tokens.lengths, 40))
    states = np.full((2, len(tokens.ids), 32), np.nan, np.float32)
    for places, batch in opened.token_states(tokens):
        assert np.isnan(states[:, places]).all()  # each once
        states[:, places] = batch
    means = [states[:, a:b].mean(1) for a, b in zip(tokens.offsets, tokens.offsets[1:], strict=False)]
    pooled = np.empty((2, len(means), 32), np.float32)
    encoder = opened.encoder()
    for windows, vectors in encoder.run(
        tokens, plan(tokens.lengths, 40), opened.recipe.pad_id, opened.recipe.views
    ):
        pooled[:, windows] = vectors
    np.testing.assert_allclose(np.stack(means, 1), pooled, rtol=0, atol=1e-5 * np.abs(pooled).max())


# ---------------------------------------------------------------------------- equal to a plain forward pass

TEXT = "The film's plot,  a great café 日本 scene!"
TEXT_WORDS = ["The", "film's", "plot", ",", "a", "great", "café", "日本", "scene", "!"]
LAYERS: list[dict[str, Any]] = [
    {},
    {"layers": 0},
    {"layers": (-1, 1)},
    {"layers": (1, -1, 0), "layer_join": "mean"},
]


def plain_terms(
    folder: Path, text: str, coef: Doubles, layers: Sequence[int], *, join: str, normalize: bool
) -> Any:
    """Return each token's first character (-1 for special ones) and terms, as transformers and numpy have them."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    given = tokenizer([text], return_tensors="pt", return_offsets_mapping=True, return_special_tokens_mask=True)
    spans, special = given.pop("offset_mapping")[0].tolist(), given.pop("special_tokens_mask")[0].tolist()
    with torch.no_grad():
        output = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()(**given, output_hidden_states=True)
    states = [output.hidden_states[layer][0].numpy().astype(np.float64) for layer in layers]  # each (T, H)
    joined = np.concatenate(states, 1) if join == "concat" else np.mean(states, 0)  # (T, D)
    norm = np.linalg.norm(joined.mean(0)) if normalize else 1.0
    where = []
    for (start, end), is_special in zip(spans, special, strict=True):
        last = end if not text[start:end].strip() else end - 1  # white space counts for what follows
        where.append(-1 if is_special else last)
    return where, joined @ coef.T / (len(spans) * norm), norm


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("how", LAYERS, ids=str)
@pytest.mark.parametrize("family", ALL)
def test_terms_are_those_of_a_plain_forward_pass(
    folder: Folders, family: str, how: dict[str, Any], normalize: bool
) -> None:
    opened = extractor(folder(family), normalize=normalize, **how)
    head = head_for(opened)
    explanation = explained(opened, TEXT)
    layers = how.get("layers", -1)
    where, terms, norm = plain_terms(
        folder(family),
        TEXT,
        head.coef,
        layers if isinstance(layers, tuple) else [layers],
        join=how.get("layer_join", "concat"),
        normalize=normalize,
    )
    close = {"rtol": 0, "atol": 1e-5 * np.abs(terms).max()}
    found = words_of(explanation)
    assert found == (TEXT_WORDS if family in ("xlm-roberta", "deberta-v2", "albert") else ONE_BY_ONE)
    for word in (w for w in explanation.words if w.kind == "word"):
        mine = [t for t, place in zip(terms, where, strict=True) if word.start <= place < word.end]  # type: ignore[operator]
        assert word.read == len(mine) > 0
        np.testing.assert_allclose(word.contributions, np.sum(mine, 0), **close)
    special = [t for t, place in zip(terms, where, strict=True) if place < 0]
    assert [w.kind for w in explanation.words].count("special") == len(special)
    ours = [w.contributions for w in explanation.words if w.kind == "special"]
    if special:
        np.testing.assert_allclose(ours, special, **close)
    assert explanation.norm_held == (pytest.approx(norm, rel=1e-5) if normalize else None)
    np.testing.assert_allclose(explanation.intercept, head.intercept)
    np.testing.assert_allclose(explanation.scores, head.decision_function(opened.transform([TEXT]).vectors)[0])


# Where each letter of a script without spaces has a token of its own, it is a word of its own.
ONE_BY_ONE = [*TEXT_WORDS[:7], "日", "本", *TEXT_WORDS[8:]]


# ------------------------------------------------------------------------------------------------ the sum law


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2", "gpt2"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=inputs, data=st.data())
def test_words_add_up_to_the_score_and_hold_every_token(
    folder: Folders, family: str, text: Text, data: st.DataObject
) -> None:
    how = {
        "normalize": data.draw(st.booleans()),
        "layers": data.draw(st.sampled_from([-1, (1, -1)])),
        "layer_join": data.draw(st.sampled_from(["concat", "mean"])),
        "max_length": data.draw(st.sampled_from([7, 20, 64])),
        "side": data.draw(st.sampled_from(["right", "left"])),
        "prompt": data.draw(st.sampled_from(["", "film review: ", "x"])),
        "long": "truncate" if isinstance(text, tuple) else data.draw(st.sampled_from(["truncate", "mean"])),
    }
    opened = extractor(folder(family), **how)
    explanation = explained(opened, text)
    tokens = opened.tokenizer.encode([text], windows=how["long"] == "mean")
    assert sum(word.read for word in explanation.words) == len(tokens.ids)
    lost = opened.tokenizer.count([text])[0] - len(tokens.ids) if how["long"] == "truncate" else 0
    assert sum(word.cut for word in explanation.words) == lost
    assert (words_of(explanation, "prompt") == [how["prompt"]]) == bool(how["prompt"])
    again = explanation.to_list()
    assert json.loads(json.dumps(again)) == again
    assert Outline(explanation.to_html()).shown  # any text makes a page that can be read


# ------------------------------------------------------------------ words, prompts, cuts, windows, pairs


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("don't e-mail_me", ["don't", "e", "-", "mail_me"]),
        ("cafe\u0301 हिन्दी", ["cafe\u0301", "हिन्दी"]),
        ("'quoted' it\u2019s", ["'", "quoted", "'", "it\u2019s"]),
        ("日本", ["日", "本"]),
        ("ไทย", ["ไทย"]),  # one [UNK]
        ("50% ... :-)", ["50", "%", ".", ".", ".", ":", "-", ")"]),
        ("\u202eab\u200d", ["\u202e", "ab\u200d"]),
        ("", []),
        (" \n\t", []),
    ],
)
def test_what_a_word_is(folder: Folders, text: str, words: list[str]) -> None:
    assert words_of(explained(extractor(folder("bert")), text)) == words


def test_a_token_of_several_words_makes_one_of_them(folder: Folders) -> None:
    """[SEP] is three words by its characters, and one token."""
    assert words_of(explained(extractor(folder("bert")), "good [SEP] bad")) == ["good", "[SEP]", "bad"]
    assert words_of(explained(extractor(folder("roberta")), "a[SEP]")) == ["a", "[", "SEP", "]"]
    assert words_of(explained(extractor(folder("roberta")), "ไทย日")) == ["ไ", "ท", "ย", "日"]


@pytest.mark.parametrize(
    ("family", "spaces"), [("bert", []), ("roberta", ["   "]), ("modernbert", ["   "]), ("deberta-v2", [])]
)
def test_white_space_with_tokens_of_its_own_is_shown(folder: Folders, family: str, spaces: list[str]) -> None:
    """In ``a   b`` the last space belongs to b, the others to nothing."""
    explanation = explained(extractor(folder(family)), "a   b")
    assert words_of(explanation, "space") == spaces
    assert words_of(explanation) == ["a", "b"]


def test_a_word_that_has_no_token_is_there_with_nothing(folder: Folders) -> None:
    explanation = explained(extractor(folder("bert")), "good \u200b film")
    word = the(explanation, "\u200b")
    assert (word.read, word.cut, word.contributions) == (0, 0, (0.0, 0.0, 0.0))
    assert explanation.remarks == ("1 word without a token: the tokenizer knows nothing of it",)
    assert explained(extractor(folder("bert")), "good film").remarks == ()


def test_the_prompt_is_one_entry_and_no_word(folder: Folders) -> None:
    plain, prompted = (extractor(folder("bert"), prompt=p) for p in ("", "film review: "))
    explanation = explained(prompted, "good plot")
    assert words_of(explanation) == ["good", "plot"]
    assert words_of(explanation, "prompt") == ["film review: "]
    prompt = the(explanation, "film review: ")
    assert (prompt.part, prompt.start, prompt.end, prompt.cut) == (1, None, None, 0)
    assert prompt.read == prompted.tokenizer.count(["x"])[0] - plain.tokenizer.count(["x"])[0]
    assert [w.kind for w in explanation.words] == ["special", "prompt", "word", "word", "special"]
    assert any(prompt.contributions)


def test_a_token_of_prompt_and_text_is_the_texts(folder: Folders) -> None:
    explanation = explained(extractor(folder("bert"), prompt="fi"), "lm")
    assert words_of(explanation) == ["lm"]
    assert (the(explanation, "lm").read, the(explanation, "fi").read) == (1, 0)


@pytest.mark.parametrize(
    ("side", "cut", "partly", "read"),
    [("right", ["great", "drama"], "xqz", ["a", "film"]), ("left", ["a", "film"], "xqz", ["great", "drama"])],
)
def test_what_was_cut_off_is_said(
    folder: Folders, side: str, cut: list[str], partly: str, read: list[str]
) -> None:
    """Three tokens of xqz: with room for four, two words are whole and two of its tokens are left."""
    opened = extractor(folder("bert"), max_length=6, side=side)
    explanation = explained(opened, "a film xqz great drama")
    for word in explanation.words:
        wanted = {**dict.fromkeys(cut, (0, 1)), partly: (2, 1), **dict.fromkeys(read, (1, 0))}
        assert (word.read, word.cut) == wanted.get(word.word, (1, 0))
    assert explanation.remarks == (
        "2 words beyond the maximum length and not read",
        "1 word read in part: the rest is beyond the maximum length",
    )
    assert {word for word, _ in explanation.top()} == {partly, *read}
    page = explanation.to_html()
    assert page.count('class="unread" title="beyond the maximum length: not read"') == 2 * 3  # three classes
    assert page.count("read in part: 2 of 3 tokens") == 3


def test_a_prompt_that_was_cut_is_said(folder: Folders) -> None:
    explanation = explained(extractor(folder("bert"), max_length=5, side="left", prompt="film review: "), "a plot")
    assert the(explanation, "film review: ").cut
    assert explanation.remarks == ("the prompt was cut: text and prompt are longer than the maximum length",)


def test_windows_are_the_mean_over_all_tokens(folder: Folders) -> None:
    """The vector of a long text is its windows' mean by tokens, so every token weighs the same."""
    opened = extractor(folder("bert"), max_length=8, long="mean", normalize=True)
    text = "the film was a great drama, moving and funny and never dull"
    explanation = explained(opened, text)
    assert words_of(explanation, "special") == ["[CLS]", "[SEP]"] * 3
    assert all((word.read, word.cut) == (1, 0) for word in explanation.words)
    head, windows = head_for(opened), opened.tokenizer.encode([text], windows=True)
    raw = extractor(folder("bert"), max_length=8, normalize=False)
    parts = ["the film was a great drama", ", moving and funny and never", "dull"]
    sums = [raw.transform([part]).vectors[0] * n for part, n in zip(parts, windows.lengths, strict=True)]
    mean = np.sum(sums, 0) / windows.lengths.sum()
    assert explanation.norm_held == pytest.approx(np.linalg.norm(mean), rel=1e-5)
    np.testing.assert_allclose(
        explanation.scores, head.coef @ (mean / np.linalg.norm(mean)) + head.intercept, atol=1e-5
    )


def test_pairs_that_are_read_together(folder: Folders) -> None:
    explanation = explained(extractor(folder("bert"), normalize=True), ("good film", "film was dull"))
    assert [(w.word, w.part, w.start) for w in explanation.words] == [
        ("[CLS]", None, None),
        ("good", 1, 0),
        ("film", 1, 5),
        ("[SEP]", None, None),
        ("film", 2, 0),
        ("was", 2, 5),
        ("dull", 2, 9),
        ("[SEP]", None, None),
    ]
    one, other = (word.contributions for word in explanation.words if word.word == "film")
    assert one != other
    assert Outline(explanation.to_html()).texts[:2] == ["[CLS]good film[SEP]", "film was dull[SEP]"]


# ------------------------------------------------------------------------------------------------- classes


@pytest.mark.parametrize(("rows", "link"), [(1, "sigmoid"), (2, "softmax"), (1, "none"), (2, "none")])
def test_two_classes_have_one_score(folder: Folders, rows: int, link: str) -> None:
    opened = extractor(folder("bert"))
    head = head_for(opened, rows, link)
    explanation = explained(opened, "good film", head, ("neg", "pos"))
    score = head.decision_function(opened.transform(["good film"]).vectors)[0]
    assert explanation.scores == (-score, score)
    assert explanation.negated
    terms = terms_of(explanation)
    np.testing.assert_array_equal(terms[:, 0], -terms[:, 1])
    assert explanation.top() == explanation.top("pos") == [(w, -c) for w, c in explanation.top("neg")]
    assert explanation.label == ("pos" if score > 0 else "neg")
    assert "<details>" not in explanation.to_html()
    for label, other in (("pos", "neg"), ("neg", "pos")):
        legend = f"above 0 speaks for <bdi>{label}</bdi>, below 0 for <bdi>{other}</bdi>"
        assert legend in explanation.to_html(label)
    assert explanation.to_html("pos") == explanation.to_html()


def test_the_default_is_the_prediction(folder: Folders) -> None:
    opened = extractor(folder("bert"))
    for text in ("good film", "the market", "a dull plot"):
        explanation = explained(opened, text)
        assert explanation.label == CLASSES[int(np.argmax(explanation.scores))]
        assert explanation.to_list() == explanation.to_list(explanation.label)
        outline = Outline(explanation.to_html())
        assert [h.split(":")[0] for h in outline.headings] == [
            f"Score of {CLASSES[c]}" for c in np.argsort(explanation.scores)[::-1]
        ]
        assert len(Outline(explanation.to_html("neg")).headings) == 1
    page = explanation.to_list("neg")
    assert [w["contribution"] for w in page] == [w.contributions[0] for w in explanation.words]


def test_labels_that_stand_for_themselves(folder: Folders) -> None:
    """Two labels a row: each has its own score, and there may be no prediction at all."""
    opened = extractor(folder("bert"))
    some = head_for(opened, 2, "sigmoid", multi_label=True)
    for shift in (-100.0, 100.0):
        head = LinearHead(some.coef, some.intercept + shift, "sigmoid", multi_label=True)
        explanation = explained(opened, "good film", head, ("war", "love"))
        assert explanation.label == (() if shift < 0 else ("war", "love"))
        assert not explanation.negated
        np.testing.assert_array_equal(
            explanation.scores, head.decision_function(opened.transform(["good film"]).vectors)[0]
        )
        assert explanation.to_list() == explanation.to_list(("war", "love")[int(np.argmax(explanation.scores))])
        assert ("no label" in explanation.to_html()) == (shift < 0)
        assert len(Outline(explanation.to_html()).headings) == 2


def test_labels_come_as_a_row_of_an_array_or_by_name(folder: Folders) -> None:
    opened = extractor(folder("bert"))
    head = head_for(opened, 3, "none", multi_label=True)
    for row in (np.array([True, False, True]), np.array([1, 0, 1]), ["neg", "pos"], np.array([1, 0, 1], object)):
        explanation = explain_text(opened, head, np.array(CLASSES), "good film", lambda _, row=row: [row])
        assert explanation.label == ("neg", "pos")


@pytest.mark.parametrize("several", [False, True])
def test_a_threshold_that_decided_is_said(folder: Folders, several: bool) -> None:
    opened = extractor(folder("bert"))
    head = head_for(opened, 2 if several else 1, "sigmoid", multi_label=several)
    score = np.ravel(head.decision_function(opened.transform(["good film"]).vectors))
    for turned in (False, True):
        has = (score > 0) != turned
        row: Any = has if several else ("ab"[int(has[0])])
        explanation = explain_text(opened, head, ["a", "b"], "good film", lambda _, row=row: [row])
        assert ("tuned threshold" in " ".join(explanation.remarks)) == turned
        assert ("A tuned threshold" in explanation.to_html()) == turned


def test_a_class_without_training_rows(folder: Folders) -> None:
    opened = extractor(folder("bert"))
    head = head_for(opened)
    explanation = explain_text(
        opened,
        LinearHead(head.coef, [-np.inf, *head.intercept[1:]] * np.ones(3), "softmax"),
        CLASSES,
        "good film",
        lambda _: ["pos"],
    )
    assert (explanation.scores[0], explanation.intercept[0], explanation.rounding[0]) == (-math.inf, -math.inf, 0)
    assert np.isfinite(terms_of(explanation)).all()
    assert "Score of <bdi>neg</bdi>: -inf" in explanation.to_html("neg")


def test_classes_in_another_order_than_the_head_s(folder: Folders) -> None:
    opened = extractor(folder("bert"))
    head, order = head_for(opened), [2, 0, 1]
    as_is = explained(opened, "good film", head)
    turned = explain_text(
        opened, head, [CLASSES[c] for c in order], "good film", lambda _: [CLASSES[0]], order=order
    )
    assert turned.scores == tuple(as_is.scores[c] for c in order)
    assert turned.top("neg") == as_is.top("neg")
    assert_adds_up(turned)


def test_a_label_that_is_none_is_named(folder: Folders) -> None:
    explanation = explained(extractor(folder("bert")), "good film")
    for method in (explanation.top, explanation.to_list, explanation.to_html):
        with pytest.raises(UsageError, match="label 'bad' is none of the classes: 'neg', 'neutral', 'pos'"):
            method("bad")


def test_top_is_by_size(folder: Folders) -> None:
    explanation = explained(extractor(folder("bert")), "a good film and a dull plot, or not")
    ranked = explanation.top("pos", 4)
    words = [(w.word, w.contributions[2]) for w in explanation.words if w.kind == "word"]
    assert len(words) == 10
    assert ranked == sorted(words, key=lambda item: abs(item[1]), reverse=True)[:4]
    assert len(explanation.top("pos")) == 10
    assert repr(explanation) == f"Explanation(label={explanation.label!r}, 10 words)"


# ---------------------------------------------------------------------------------------------------- HTML


class Outline(HTMLParser):
    """What a browser makes of a page: tags, attributes, and what is shown."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.shown = ""
        self.texts: list[str] = []
        self.headings: list[str] = []
        self._inside: list[str] = []
        self._into: list[str] | None = None
        self.feed(page)
        self.close()
        assert not self._inside, f"left open: {self._inside}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self._inside.append(tag)
        if (tag, dict(attrs).get("class")) == ("p", "text"):
            self._start(self.texts)
        elif tag in ("h2", "summary"):
            self._start(self.headings)

    def handle_endtag(self, tag: str) -> None:
        assert self._inside.pop() == tag
        if tag in ("p", "h2", "summary"):
            self._into = None

    def handle_data(self, data: str) -> None:
        if self._inside and self._inside[-1] not in ("style", "title"):
            self.shown += data
        if self._into is not None:
            self._into[-1] += data

    def _start(self, into: list[str]) -> None:
        into.append("")
        self._into = into


TAGS = {
    *("html", "head", "meta", "title", "body", "div", "style", "p", "h2", "bdi", "span", "details", "summary"),
    *("table", "tr", "th", "td"),
}
VALUES = {
    "lang": "en",
    "charset": "utf-8",
    "http-equiv": "Content-Security-Policy",
    "name": "viewport",
    "content": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    "|width=device-width, initial-scale=1",
    "class": "embedkit-explanation|note|text|unread|away|other|away other",
    "dir": "auto",
    "style": r"background:rgb\(\d+,\d+,\d+\)",
    "title": r"[-+\d.e]+(, read in part: \d+ of \d+ tokens)?|no token of the tokenizer"
    "|beyond the maximum length: not read",
}
HOSTILE = [
    "<img src=x onerror=1>",
    "</script><script>alert(1)</script>",
    '" onload="alert(1)',
    "' style='x",
    "</style></p></div>",
    "<!-- ",
    "]]> &lt;b&gt; &#60;",
    "\x1b[31mred\x07",
    "\u202egnp.exe\u2066\u200f",
    "{at} %s {0}",
    "javascript:alert(1)",
    "a\x00b",
]


def assert_inert(page: str) -> Outline:
    """Nothing but our own tags, attributes and values; no control character; nothing that could be loaded."""
    outline = Outline(page)
    assert set(outline.tags) <= TAGS
    for name, value in outline.attributes:
        assert re.fullmatch(VALUES[name], value or ""), (name, value)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200e\u200f]", page)
    assert "url(" not in page
    assert "@import" not in page
    return outline


def visible(text: str) -> str:
    """Return what is to be seen of a text: controls written out."""
    return re.sub(
        r"[\x00-\x1f\x7f\u200f\u202e\u2066]",
        lambda found: {"\0": r"\x00"}.get(found[0], f"\\x{ord(found[0]):02x}" if ord(found[0]) < 256 else
        f"\\u{ord(found[0]):04x}"),
        text,
    )  # fmt: skip


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2"])
@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_texts_and_labels_stay_texts(folder: Folders, family: str, hostile: str) -> None:
    opened = extractor(folder(family), max_length=64)
    labels = (hostile, f"{hostile}x", "pos")
    text = f"good {hostile} film"
    explanation = explained(opened, text, classes=labels)
    outline = assert_inert(explanation.to_html())
    benign = explained(opened, text).to_html()
    assert outline.tags == Outline(benign).tags
    assert [name for name, _ in outline.attributes] == [name for name, _ in Outline(benign).attributes]
    shown = [re.sub(r"^(\[CLS\]|<s>)|(\[SEP\]|</s>)$", "", line) for line in outline.texts]
    assert shown == [visible(text)] * 3
    assert sum(visible(hostile) in heading for heading in outline.headings) == 2
    assert explanation.label in labels
    assert visible(str(explanation.label)) in outline.shown.partition("Score")[0]


def test_hostile_prompts_and_pairs(folder: Folders) -> None:
    opened = extractor(folder("bert"), prompt="<b onclick=1>")
    outline = assert_inert(explained(opened, ("<i>", '"><u>')).to_html())
    assert outline.texts[:2] == ["[CLS]<b onclick=1><i>[SEP]", '"><u>[SEP]']


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    label=st.text(max_size=12).filter(lambda label: label not in ("b", "c")),
)
def test_any_text_and_label_stay_texts(folder: Folders, text: str, label: str) -> None:
    """Labels may hold lone surrogates, texts may not; both can be written as UTF-8."""
    page = explained(extractor(folder("roberta")), text, classes=(label, "b", "c")).to_html()
    assert_inert(page)
    page.encode()


def test_a_notebook_gets_a_part_of_a_page(folder: Folders) -> None:
    explanation = explained(extractor(folder("bert")), "good film")
    part = explanation._repr_html_()
    assert part in explanation.to_html()
    assert part.startswith('<div class="embedkit-explanation">')
    assert not {"html", "head", "body", "meta"} & set(Outline(part).tags)


def test_the_page_may_load_and_run_nothing(folder: Folders) -> None:
    page = explained(extractor(folder("bert")), "good film").to_html()
    head = page.partition("<body>")[0]
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in head
    assert page.startswith("<!doctype html>\n")


def test_colours_tell_sign_and_size(folder: Folders) -> None:
    explanation = explained(extractor(folder("bert"), layers=0), "a good film and a dull plot, or not")
    page = explanation.to_html("pos").partition('<p class="text"')[2]
    found = re.findall(r'<span([^>]*?) style="background:rgb\((\d+),(\d+),(\d+)\)" title="([^"]+)"', page)
    read = [word.contributions[2] for word in explanation.words]
    assert [title for *_, title in found] == [f"{term:+.4g}" for term in read]
    shades: dict[bool, list[tuple[float, int]]] = {True: [], False: []}
    for (classes, *colour, _), term, word in zip(found, read, explanation.words, strict=True):
        red, green, blue = map(int, colour)
        assert ("away" in classes) == (term < 0)
        assert (blue >= green >= red) if term > 0 else (red >= green >= blue)
        if word.kind == "word":
            shades[term > 0].append((abs(term), 255 * 3 - red - green - blue))
    for of_sign in shades.values():
        assert len(of_sign) > 2
        assert [shade for _, shade in sorted(of_sign)] == sorted(shade for _, shade in of_sign)
        assert max(of_sign)[1] > 30
    strongest = max(map(max, shades.values()))
    full = (122, 163, 205) if strongest in shades[True] else (240, 160, 103)
    assert strongest[1] == 255 * 3 - sum(full)


def test_the_table_adds_up(folder: Folders) -> None:
    explanation = explained(extractor(folder("roberta"), prompt="a film: "), "good   plot")
    shown = Outline(explanation.to_html("pos")).shown
    sums = {kind: sum(w.contributions[2] for w in explanation.words if w.kind == kind) for kind in
            ("word", "space", "prompt", "special")}  # fmt: skip
    names = {"word": "words", "space": "white space", "prompt": "prompt", "special": "special tokens"}
    for kind, total in sums.items():
        assert f"{names[kind]}{total:+.4g}" in shown
    assert f"the head's intercept{explanation.intercept[2]:+.4g}" in shown
    assert f"score{explanation.scores[2]:+.4g}" in shown


def test_many_classes_and_long_texts_make_no_endless_page(folder: Folders) -> None:
    opened = extractor(folder("bert"))
    head = head_for(opened, 30)
    names = [f"c{i}" for i in range(30)]
    page = explained(opened, "good film", head, names).to_html()
    assert len(Outline(page).headings) == 1 + 10
    assert "19 more classes are left out here." in page
    long = explained(opened, "film " * 9000, head, names).to_html()
    assert len(Outline(long).headings) == 1 + 2
    assert "27 more classes" in long
    assert "more classes" not in explained(opened, "good film", head, names).to_html("c3")


# ------------------------------------------------------------------------------------------------- refusals


def never(_: list[Text]) -> list[Any]:
    raise AssertionError("refused too late")


@pytest.mark.parametrize(
    ("pooling", "reason"),
    [
        ("cls", "pooling mean; this classifier has cls. cls: the first token's state stands for the whole text"),
        ("last", "has last. last: the last token's state"),
        ("max", "has max. max: each number of the vector is the largest"),
        ("mean_sqrt_len", "mean_sqrt_len: the sum is divided by the root of its length"),
        ("pooler", "pooler: the pooler puts a layer and a tanh"),
        ("cls+mean", r"has cls\+mean. cls: the first"),
        ("mean+max", r"has mean\+max. max: each"),
    ],
)
def test_other_poolings_are_refused_with_the_reason(folder: Folders, pooling: str, reason: str) -> None:
    opened = extractor(folder("bert"), pooling=pooling)
    with pytest.raises(UsageError, match=f"{reason}.*fit with pooling 'mean'"):
        explain_text(opened, head_for(opened), CLASSES, "good", never)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda d: ConstantHead(np.ones(3) / 3, d), "'constant'"),
        (lambda _: SimpleNamespace(kind="a", base=SimpleNamespace(kind="knn")), "'a' around 'knn'"),
        (lambda d: RandomForestClassifier(2).fit(np.eye(3, d), [0, 1, 2]), "'RandomForestClassifier'|'skops'"),
        (lambda _: object(), "'object'"),
    ],
)  # fmt: skip
def test_other_heads_are_refused_by_name(folder: Folders, make: Callable[[int], Any], name: str) -> None:
    opened = extractor(folder("bert"))
    with pytest.raises(UsageError, match=f"({name}) is not, so its score is no sum.*fit with logreg"):
        explain_text(opened, make(opened.width()), CLASSES, "good", never)


def test_pairs_that_are_read_apart_are_refused(folder: Folders) -> None:
    opened = extractor(folder("bert"), pairs="bi")
    with pytest.raises(UsageError, match=r"\|u - v\| and u \* v are no sums over tokens; fit with pairs 'cross'"):
        explain_text(opened, head_for(opened), CLASSES, ("good", "bad"), never)
    explained(opened, "good film")  # a text is no pair


@pytest.mark.parametrize("text", [["good"], None, 3, ("a",), ("a", "b", "c"), ("a", 1), b"good"], ids=repr)
def test_what_is_no_text_is_refused(folder: Folders, text: Any) -> None:
    with pytest.raises(DataError, match=f"one text, or one pair.*this is a {type(text).__name__}"):
        explain_text(extractor(folder("bert")), head_for(extractor(folder("bert"))), CLASSES, text, never)


@pytest.mark.parametrize("normalize", [False, True])
def test_terms_that_do_not_add_up_are_refused(
    folder: Folders, monkeypatch: pytest.MonkeyPatch, normalize: bool
) -> None:
    """As where a store holds another model's features."""
    opened = FeatureExtractor(EncoderSettings(str(folder("bert")), pooling="mean", normalize=normalize))
    transform = opened.transform

    def off(inputs: Sequence[Text]) -> Features:
        done = transform(inputs)
        return Features(done.vectors * np.float32(1.01), done.extraction)

    explained(opened, "good film")
    monkeypatch.setattr(opened, "transform", off)
    with pytest.raises(ModelError, match=r"terms and the score are .* apart.*store=False"):
        explain_text(opened, head_for(opened), CLASSES, "good film", lambda _: ["pos"])


# ------------------------------------------------------------------------------------------ rounded features


@pytest.mark.parametrize("keep", [False, True])
def test_float16_features_leave_some_rounding(folder: Folders, tmp_path: Path, keep: bool) -> None:
    opened = FeatureExtractor(
        EncoderSettings(str(folder("bert")), pooling="mean"),
        store=FeatureStore(tmp_path, dtype="float16") if keep else None,
        dtype="float16",
    )
    for _ in range(2):  # computed, then found in the store
        explanation = explain_text(opened, head_for(opened), CLASSES, "good film", lambda _: ["pos"])
        assert_adds_up(explanation, 5e-3)
        assert any(abs(r) > 1e-6 for r in explanation.rounding)


def test_bfloat16(folder: Folders) -> None:
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU has no bfloat16")
    opened = extractor(folder("bert"), precision="bfloat16", device="cpu")
    explanation = explain_text(opened, head_for(opened), CLASSES, "good film", lambda _: ["pos"])
    assert_adds_up(explanation, 5e-2)


# ------------------------------------------------------------------------------------------- the classifier

GOOD, BAD = ("good", "great", "brilliant", "moving"), ("bad", "dull", "boring", "awful")
TEXTS = [f"the {noun} was {word}" for noun in ("film", "plot", "music") for word in (*GOOD, *BAD)]
LABELS = ["pos" if text.split()[-1] in GOOD else "neg" for text in TEXTS]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_sentence_transformer(tmp_path_factory.mktemp("model") / "m"))


def assert_same(one: Explanation, other: Explanation) -> None:
    assert [w.word for w in one.words] == [w.word for w in other.words]
    np.testing.assert_allclose(terms_of(one), terms_of(other), rtol=0, atol=1e-6)
    assert (one.classes, one.label, one.norm_held) == (other.classes, other.label, pytest.approx(other.norm_held))


def test_a_loaded_classifier_explains_as_the_fitted_one(model: str, tmp_path: Path) -> None:
    fitted = EmbeddingClassifier(model).fit(TEXTS, LABELS)
    fitted.save(tmp_path / "out")
    loaded = embedkit.load(tmp_path / "out", store=False)
    for text in (TEXTS[0], "a boring film"):
        explanation = fitted.explain(text)
        assert_adds_up(explanation)
        assert_same(explanation, loaded.explain(text))
        assert explanation.label == fitted.predict([text])[0]
        assert explanation.scores[1] == pytest.approx(fitted.decision_function([text])[0])
        assert explanation.classes == ("neg", "pos")
        assert explanation.norm_held is not None


@pytest.mark.parametrize("labels", [[0, 1], [True, False], [2.0, 1.0], ["a", "b"]], ids=str)
def test_labels_of_any_kind(model: str, labels: list[Any]) -> None:
    y = [labels[label == "pos"] for label in LABELS]
    explanation = EmbeddingClassifier(model).fit(TEXTS, np.array(y)).explain("a good film")
    assert explanation.classes == tuple(sorted(labels))
    assert {type(label) for label in (*explanation.classes, explanation.label)} == {type(labels[0])}
    json.dumps(explanation.to_list(labels[0]))


def test_classes_that_the_artifact_orders_otherwise(model: str, tmp_path: Path) -> None:
    """The command line keeps 9 before 10; the estimator has "10" before "9"."""
    fitted = EmbeddingClassifier(model).fit(TEXTS, ["9" if label == "pos" else "10" for label in LABELS])
    plain = fitted.explain("a good film")
    assert plain.classes == ("10", "9")
    turned = EmbeddingClassifier(model).fit(TEXTS, ["9" if label == "pos" else "10" for label in LABELS])
    head = turned.head_
    turned.head_ = LinearHead(-head.coef, -head.intercept, head.link)
    turned._adopt(turned.encoder_, LabelCodec(("9", "10")), [], {})
    assert_same(plain, turned.explain("a good film"))
    assert turned.explain("a good film").scores[1] == pytest.approx(turned.decision_function(["a good film"])[0])


@pytest.mark.parametrize(
    "head", [LogisticRegression(), make_pipeline(StandardScaler(), LogisticRegression())], ids=["plain", "scaled"]
)
def test_a_head_of_the_users_own(model: str, head: Any) -> None:
    fitted = EmbeddingClassifier(model, head).fit(TEXTS, LABELS)
    explanation = fitted.explain("a good film")
    assert explanation.scores[1] == pytest.approx(fitted.decision_function(["a good film"])[0])
    forest = EmbeddingClassifier(model, RandomForestClassifier(2, random_state=0)).fit(TEXTS, LABELS)
    with pytest.raises(UsageError, match="explain needs a head that is linear"):
        forest.explain("a good film")


def test_a_classifier_of_pairs(model: str) -> None:
    pairs = [(text, "it was fun") for text in TEXTS]
    fitted = EmbeddingClassifier(TextEncoder(model)).fit(pairs, LABELS)
    assert {word.part for word in fitted.explain(pairs[0]).words} == {1, 2, None}
    with pytest.raises(DataError, match="fitted on pairs"):
        fitted.explain("a good film")
    with pytest.raises(DataError, match="fitted on texts"):
        EmbeddingClassifier(model).fit(TEXTS, LABELS).explain(pairs[0])


def test_a_wonderful_word_pushes_towards_pos() -> None:
    """The packaged model, a fit of twelve reviews, and a word that none of them has."""
    good = ["a great and moving film", "brilliant acting", "I loved every minute", "beautifully made"]
    bad = ["a dull and boring film", "terrible acting", "I hated every minute", "badly made"]
    classifier = EmbeddingClassifier("minilm", head_params={"C": 10.0})
    classifier.fit([*good, *bad, "what a delight", "what a mess"], ["pos"] * 4 + ["neg"] * 4 + ["pos", "neg"])
    explanation = classifier.explain("Overall a wonderful story, if a little long.")
    assert_adds_up(explanation)
    assert explanation.label == "pos"
    top = dict(explanation.top("pos", 3))
    assert top["wonderful"] == max(value for _, value in explanation.top("pos", 99)) > 0
    awful = classifier.explain("Overall a horrible story, if a little long.")
    assert dict(awful.top("pos", 3))["horrible"] < 0
    assert awful.label == "neg"
    page = assert_inert(explanation.to_html())
    assert "Overall a wonderful story, if a little long." in page.texts[0]
