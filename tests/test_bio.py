"""The best valid path through IOB2 tags."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from embedkit.runtime.bio import bio_valid

LABELS = ("O", "B-X", "I-X", "B-Y", "I-Y")
SETS = (
    LABELS,
    ("I-Y", "B-Y", "O", "I-X", "B-X"),
    ("B-X", "I-X"),
    ("O", "B", "I"),
    ("O", "B-X", "I-X", "B-Y", "NN"),
    ("O", "I-X", "B-Y", "I-Y"),  # nothing begins an X
)
NUMBERS = st.one_of(st.integers(-3, 3).map(float), st.floats(-5, 5), st.sampled_from([-np.inf, np.inf, 1e4]))


def valid(tags: tuple[str, ...]) -> bool:
    pairs = zip(("O", *tags), tags, strict=False)
    return all(tag[0] != "I" or before in (tag, "B" + tag[1:]) for before, tag in pairs)


@st.composite
def sentences(
    draw: st.DrawFn, numbers: st.SearchStrategy[float] = NUMBERS
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    labels = draw(st.sampled_from(SETS))
    lengths = np.array(draw(st.lists(st.integers(0, 4), max_size=4)), np.int64)
    scores = draw(arrays(np.float64, (int(lengths.sum()), len(labels)), elements=numbers))
    if "O" in labels and len(scores):
        scores[draw(st.lists(st.integers(0, len(scores) - 1), max_size=3))] = np.nan
    return scores, lengths, labels


def parts(scores: np.ndarray, lengths: np.ndarray, codes: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    ends = np.cumsum(lengths)[:-1]
    return list(zip(np.split(scores, ends), np.split(codes, ends), strict=True)) if len(lengths) else []


@given(sentences())
def test_every_path_is_valid_and_every_word_has_a_tag(
    given_: tuple[np.ndarray, np.ndarray, tuple[str, ...]],
) -> None:
    scores, lengths, labels = given_
    codes = bio_valid(scores, lengths, labels)
    assert codes.shape == (len(scores),)
    for part, chosen in parts(scores, lengths, codes):
        tags = tuple(labels[code] for code in chosen)
        assert valid(tags)
        assert all(tag == "O" for tag, row in zip(tags, part, strict=True) if np.isnan(row).any())


@given(sentences(st.floats(-5, 5)))
def test_no_valid_path_is_better(given_: tuple[np.ndarray, np.ndarray, tuple[str, ...]]) -> None:
    scores, lengths, labels = given_
    for part, chosen in parts(scores, lengths, bio_valid(scores, lengths, labels)):
        read = ~np.isnan(part).any(axis=1)
        paths = np.array(
            [
                path
                for path in product(range(len(labels)), repeat=len(part))
                if valid(tuple(labels[code] for code in path))
                and all(labels[code] == "O" for code, known in zip(path, read, strict=True) if not known)
            ],
            dtype=np.int64,
        )
        known = np.where(read[:, None], part, 0)
        sums = known[np.arange(len(part)), paths].sum(axis=1)
        assert known[np.arange(len(part)), chosen].sum() == pytest.approx(sums.max(), abs=1e-9)


@given(sentences())
def test_what_is_valid_already_stays(given_: tuple[np.ndarray, np.ndarray, tuple[str, ...]]) -> None:
    scores, lengths, labels = given_
    for part, chosen in parts(scores, lengths, bio_valid(scores, lengths, labels)):
        if not np.isnan(part).any():
            highest = part.argmax(axis=1)
            if valid(tuple(labels[code] for code in highest)):
                assert chosen.tolist() == highest.tolist()


@given(sentences(st.floats(-5, 5)), st.floats(-9, 9))
def test_sentences_are_apart_and_constants_of_words_change_nothing(
    given_: tuple[np.ndarray, np.ndarray, tuple[str, ...]], constant: float
) -> None:
    scores, lengths, labels = given_
    codes = bio_valid(scores.astype(np.float32), lengths, labels)
    for part, chosen in parts(scores.astype(np.float32), lengths, codes):
        assert bio_valid(part, np.array([len(part)]), labels).tolist() == chosen.tolist()
    shifted = scores + constant * np.arange(len(scores))[:, None]
    again = bio_valid(shifted, lengths, labels)
    for (part, chosen), (_, other) in zip(
        parts(scores, lengths, bio_valid(scores, lengths, labels)), parts(scores, lengths, again), strict=True
    ):
        known = np.where(np.isnan(part), 0, part)  # equal sums may have two paths
        assert known[np.arange(len(part)), chosen].sum() == pytest.approx(
            known[np.arange(len(part)), other].sum(), abs=1e-9
        )


@pytest.mark.parametrize(
    ("rows", "tags"),
    [
        ([[6, 3, 1, 0, 0], [1, 2, 7, 0, 0]], ["B-X", "I-X"]),  # the second pulls the first
        ([[9, 1, 0, 0, 0], [3, 2, 4, 0, 0]], ["O", "O"]),  # or gives way
        ([[0, 9, 0, 0, 0], [0, 0, 2, 1, 3]], ["B-X", "I-X"]),  # another kind does not go on
        ([[0, 9, 0, 0, 0], [np.nan] * 5, [1, 2, 9, 0, 0]], ["B-X", "O", "B-X"]),  # nor over what was not read
        ([], []),
    ],
)  # fmt: skip
def test_known_by_hand(rows: list[list[float]], tags: list[str]) -> None:
    scores = np.array(rows, np.float64).reshape(-1, 5)
    assert [LABELS[code] for code in bio_valid(scores, np.array([len(rows)]), LABELS)] == tags


def test_the_next_sentence_does_not_go_on() -> None:
    scores = np.array([[0, 9, 0, 0, 0], [1, 2, 9, 0, 0]], np.float32)
    assert bio_valid(scores, np.array([1, 1]), LABELS).tolist() == [1, 1]
    assert bio_valid(scores, np.array([0, 2, 0]), LABELS).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("scores", "lengths", "labels", "said"),
    [
        (np.zeros((2, 3)), [3], ("O", "B-X", "I-X"), "2"),
        (np.zeros((2, 3)), [2], ("O", "B-X"), "3"),
        (np.zeros((1, 2)), [1], ("I-X", "I-Y"), "begin"),
        (np.full((1, 2), np.nan), [1], ("B-X", "I-X"), "not read"),
    ],
)
def test_what_does_not_fit_is_refused(
    scores: np.ndarray, lengths: list[int], labels: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        bio_valid(scores, np.array(lengths), labels)
