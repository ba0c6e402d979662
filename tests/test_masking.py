"""Which tokens are hidden: shares, what never is, whole words, chance by seed, epoch and row alone."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedkit.errors import UsageError
from embedkit.estimators.start import Start, open_start
from embedkit.runtime.tokens import Tokens
from embedkit.training.masking import MaskedRows, MaskSettings, MaskTokens, masked_rows
from embedkit.training.mlm import mask_tokens
from embedkit.training.rows import IGNORED, JUDGED
from tests.tiny_models import FAMILIES, WORDS, make_encoder

VOCABULARY = MaskTokens(mask_id=4, join_id=3, special=np.arange(5), plain=np.arange(5, 1000))
TEXTS = ["the film was unwatchable, boring!", "a brilliant plot", "players won the match by two goals", "zxqj?"]


def rows_of(units: list[list[int]], *, share: float = 0.15, seed: int = 0) -> MaskedRows:
    """Make rows whose ids count up from 100, units as given."""
    lengths = [len(row) for row in units]
    ids = np.concatenate([100 + np.arange(size) for size in lengths]).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    count = len(units)
    tokens = Tokens(ids, None, offsets, np.arange(count), np.zeros(count, bool), np.array(lengths))
    return MaskedRows(tokens, np.concatenate(units).astype(np.int64), VOCABULARY, share, seed, 0)


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Start]:
    root = tmp_path_factory.mktemp("families")
    return {name: open_start(str(make_encoder(root / name, name, layers=1))) for name in FAMILIES}


# --- chance ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.15, 0.5])
@pytest.mark.parametrize("size", [1, 3])
def test_the_share_of_hidden_tokens_is_the_one_asked_for_and_they_are_treated_80_10_10(
    share: float, size: int
) -> None:
    rows = rows_of([[-1, *np.repeat(np.arange(60), size), -1]] * 300, share=share)
    given = rows.inputs(np.arange(300), 0)
    ids, labels = given["input_ids"], given["labels"]
    hidden = labels != IGNORED
    n = 300 * 60  # independent draws
    assert abs(hidden[:, 1:-1].mean() - share) < 4 * math.sqrt(share * (1 - share) / n)
    original = np.broadcast_to(100 + np.arange(ids.shape[1]), ids.shape)
    parts = [
        (ids == VOCABULARY.mask_id)[hidden].mean(),
        ((ids != VOCABULARY.mask_id) & (ids != original))[hidden].mean(),
        (ids == original)[hidden].mean(),
    ]
    bound = 4 * math.sqrt(0.25 / (n * share))
    assert np.allclose(parts, [0.8, 0.1, 0.1], atol=bound)
    assert (ids == original)[~hidden].all()
    assert (labels == original)[hidden].all()


@given(st.integers(0, 2**32 - 1), st.integers(0, 50), st.integers(1, 40), st.floats(0.01, 0.99))
@settings(max_examples=40, deadline=None)
def test_laws_of_masks(seed: int, epoch: int, words: int, share: float) -> None:
    chance = np.random.default_rng(seed)
    units = [[-1, *np.repeat(np.arange(words), chance.integers(1, 4, words)), -1] for _ in range(4)]
    rows = rows_of(units, share=share, seed=seed)
    one = rows.inputs(np.arange(4), epoch)
    again = rows.inputs(np.array([2, 0]), epoch)  # other rows beside it, another order, another padding
    for place, row in enumerate((2, 0)):
        size = len(units[row])
        for name in ("input_ids", "labels"):
            assert (again[name][place, :size] == one[name][row, :size]).all()
    for row, given_units in enumerate(units):
        labels, ids = one["labels"][row, : len(given_units)], one["input_ids"][row, : len(given_units)]
        of = np.array(given_units)
        assert (labels[of < 0] == IGNORED).all()
        assert (ids[labels != IGNORED] > 3).all()  # never a special token but the mask
        for word in range(words):
            inside = of == word
            hidden = labels[inside] != IGNORED
            assert hidden.all() or not hidden.any()
            masked = ids[inside] == VOCABULARY.mask_id
            assert masked.all() or not masked.any()
        assert (one["labels"][row, len(given_units) :] == IGNORED).all()


def test_masks_change_with_epoch_row_and_seed_and_not_with_anything_else() -> None:
    units = [list(range(50))] * 2
    rows = rows_of(units)

    def hidden(rows: MaskedRows, epoch: int, row: int) -> list[int]:
        return np.flatnonzero(rows.inputs(np.array([row]), epoch)["labels"][0] != IGNORED).tolist()

    base = hidden(rows, 0, 0)
    assert hidden(rows, 0, 0) == base == hidden(rows_of(units), 0, 0)
    others = [
        hidden(rows, 1, 0),
        hidden(rows, JUDGED, 0),
        hidden(rows, 0, 1),
        hidden(rows_of(units, seed=1), 0, 0),
    ]
    assert base not in others
    assert rows.counted(0) == len(base) + len(hidden(rows, 0, 1))


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan"), True])
def test_a_share_outside_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="mask_share"):
        MaskSettings(share=share)


def test_an_unknown_mask_is_refused() -> None:
    with pytest.raises(UsageError, match="whole-word"):
        MaskSettings(mask="phrase")  # type: ignore[arg-type]


# --- vocabularies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("mask", ["token", "whole-word"])
def test_special_tokens_are_never_hidden_nor_put_anywhere(
    starts: dict[str, Start], family: str, pack: bool, mask: str
) -> None:
    start = starts[family]
    name, vocabulary = mask_tokens(start.folder, start.tokenizer)
    assert start.tokenizer.name(vocabulary.mask_id) == name
    texts = [*TEXTS, f"a film {name} that was good"] * 20
    told = MaskSettings(mask, 0.5, pack)  # type: ignore[arg-type]
    rows, _ = masked_rows(start.tokenizer, texts, vocabulary, told, seed=1)
    given = rows.inputs(np.arange(len(rows)), 0)
    ids, labels = given["input_ids"], given["labels"]
    plain = rows.inputs(np.arange(len(rows)), 0)
    hidden = labels != IGNORED
    assert hidden.any()
    assert not np.isin(labels[hidden], vocabulary.special).any()
    assert not np.isin(ids[hidden], np.setdiff1d(vocabulary.special, [vocabulary.mask_id])).any()
    assert (plain["input_ids"] == ids).all()
    assert ids.max() < start.folder.config["vocab_size"]


# What the tokenizer itself takes for a word, for texts whose words are not all in the vocabulary.
_APART = ["the", "film", "was", "unwatchable", ",", "boring", "!"]
_BY_BLANKS = ["the", "film", "was", "unwatchable,", "boring!"]
_WORDS_OF = {
    **dict.fromkeys(("bert", "distilbert", "electra", "mpnet", "roberta", "modernbert"), _APART),
    **dict.fromkeys(("xlm-roberta", "deberta-v2", "albert"), _BY_BLANKS),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_words_are_those_of_the_pre_tokenizer(starts: dict[str, Start], family: str) -> None:
    tokenizer = starts[family].tokenizer
    found = tokenizer.number_words([TEXTS[0], ""])
    ids, words = found.tokens.ids, found.words
    assert (ids == tokenizer.encode([TEXTS[0], ""]).ids).all()
    assert words.max() + 1 == len(_WORDS_OF[family]) == found.known[0]
    assert found.known[1] == 0
    for place, word in enumerate(_WORDS_OF[family]):
        pieces = [tokenizer.name(token) for token in ids[words == place].tolist()]
        joined = "".join(piece.removeprefix("##").lstrip("Ġ▁") for piece in pieces)
        assert joined == word
    assert found.first.sum() == len(_WORDS_OF[family])


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2"])
def test_words_of_a_second_text_are_counted_on(starts: dict[str, Start], family: str) -> None:
    tokenizer = starts[family].tokenizer
    pairs = [("a good film", "the bad plot"), ("", "boring"), ("boring zxq", "")]
    found = tokenizer.number_words(pairs)
    assert (found.tokens.ids == tokenizer.encode(pairs).ids).all()
    assert found.known.tolist() == [6, 1, 2]
    for row, known in enumerate(found.known.tolist()):
        inside = found.words[found.tokens.offsets[row] : found.tokens.offsets[row + 1]]
        seen = inside[inside >= 0]
        assert (np.diff(seen) >= 0).all()
        assert sorted(set(seen.tolist())) == list(range(known))


def test_words_of_a_tokenizer_that_does_not_cut_begin_at_its_marks(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, normalizers, processors

    from embedkit.runtime.tokens import Tokenizer

    pieces = [("<s>", 0.0), ("<unk>", 0.0), *((f"▁{word}", -3.0) for word in WORDS), *((c, -8.0) for c in "▁zxq")]
    backend = Backend(models.Unigram(pieces, unk_id=1, byte_fallback=False))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    found = Tokenizer(backend, max_length=32, pad_id=0).number_words(["the film zxq"])
    assert found.words.tolist() == [-1, 0, 1, 2, 2, 2, 2]


def test_whole_words_of_wordpiece_are_hidden_whole(starts: dict[str, Start]) -> None:
    start = starts["bert"]
    _, vocabulary = mask_tokens(start.folder, start.tokenizer)
    told = MaskSettings("whole-word", 0.5)
    rows, truncated = masked_rows(start.tokenizer, ["unwatchable zxqj film"] * 40, vocabulary, told, seed=0)
    labels = rows.inputs(np.arange(40), 0)["labels"]
    pieces = [start.tokenizer.name(token) for token in rows.tokens.ids[: rows.tokens.lengths[0]].tolist()]
    starts_at = [place for place, piece in enumerate(pieces) if not piece.startswith(("##", "["))]
    assert len(starts_at) == 3
    assert truncated == 0
    for row in labels:
        for begin, end in zip(starts_at, [*starts_at[1:], len(pieces) - 1], strict=True):
            hidden = row[begin:end] != IGNORED
            assert hidden.all() or not hidden.any()


# --- packing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_windows_hold_all_tokens_in_order_and_are_full(starts: dict[str, Start], family: str) -> None:
    start = starts[family]
    _, vocabulary = mask_tokens(start.folder, start.tokenizer)
    long = " ".join(np.random.default_rng(0).choice(WORDS, 200))
    texts = [*TEXTS, "", long, *TEXTS]
    told = MaskSettings("whole-word", 0.15, pack=True)
    rows, truncated = masked_rows(start.tokenizer, texts, vocabulary, told, seed=0)
    assert truncated == 0
    lengths = rows.tokens.lengths
    assert (lengths[:-1] == start.tokenizer.max_length).all()
    assert lengths[-1] <= start.tokenizer.max_length
    plain = [start.tokenizer.encode([text], windows=True) for text in texts]
    special = int(plain[4].lengths[0])  # of the empty text
    content = []
    for text, tokens in zip(texts, plain, strict=True):
        if text:
            words = start.tokenizer.number_words([text], windows=True).words
            content += [*tokens.ids[words >= 0].tolist(), vocabulary.join_id]
    before = (
        start.tokenizer.encode(["film"]).ids.tolist().index(start.tokenizer.number_words(["film"]).tokens.ids[1])
    )
    inside = [
        rows.tokens.ids[begin + before : end - (special - before)].tolist()
        for begin, end in zip(rows.tokens.offsets[:-1], rows.tokens.offsets[1:], strict=True)
    ]
    assert [token for window in inside for token in window] == content[:-1]


def test_rows_without_a_word_are_left_out(starts: dict[str, Start]) -> None:
    start = starts["bert"]
    _, vocabulary = mask_tokens(start.folder, start.tokenizer)
    rows, truncated = masked_rows(
        start.tokenizer,
        ["", "a film", "[SEP] [MASK]", " ".join(WORDS)],
        vocabulary,
        MaskSettings(),
        seed=0,
    )
    assert len(rows) == 2
    assert truncated == 0.25


@pytest.mark.parametrize("pack", [False, True])
def test_texts_that_are_read_in_runs_give_the_same_rows(
    starts: dict[str, Start], monkeypatch: pytest.MonkeyPatch, pack: bool
) -> None:
    start = starts["bert"]
    _, vocabulary = mask_tokens(start.folder, start.tokenizer)
    texts = [*TEXTS, "", " ".join(WORDS), *TEXTS]
    found = []
    for rows_of_a_run in (1000, 3):
        monkeypatch.setattr("embedkit.runtime.texts.CHUNK_ROWS", rows_of_a_run)
        found.append(
            masked_rows(start.tokenizer, texts, vocabulary, MaskSettings("whole-word", pack=pack), seed=0)
        )
    (one, cut), (other, also) = found
    assert cut == also == (0 if pack else 0.1)
    for name in ("ids", "offsets", "rows"):
        assert (getattr(one.tokens, name) == getattr(other.tokens, name)).all()
    assert (one.units == other.units).all()
