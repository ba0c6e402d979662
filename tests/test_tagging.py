"""Taggers: as many tags out as words in, each on its own word, whatever the tokenizer does and the length is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedkit.runtime.tokens import Tokenizer, WordTokens
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
