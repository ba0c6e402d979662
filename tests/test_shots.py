"""Laws of few-shot samples: balanced, nested, each text once, from a seed alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedkit.data import Shots, Split, draw_shots, open_dataset
from embedkit.errors import DataError, UsageError

seeds = st.integers(0, 2**32)


def split_of(
    labels: Sequence[Any] | None, inputs: Sequence[Any] | None = None, rows: Sequence[int] | None = None
) -> Split:
    """Return a split; texts differ where none are given."""
    count = len(labels if labels is not None else inputs or [])
    texts = list(inputs) if inputs is not None else [f"text {place}" for place in range(count)]
    kind = "pair" if texts and isinstance(texts[0], tuple) else "text"
    numbers = np.array(range(1, count + 1) if rows is None else rows, dtype=np.int64)
    return Split("train", kind, texts, None if labels is None else list(labels), numbers, "train.csv")  # type: ignore[arg-type]


def rows_of(found: Shots) -> list[int]:
    return found.split.rows.tolist()


def test_the_sample_of_a_seed_never_changes() -> None:
    """Fixed by hand: a release that draws otherwise breaks comparisons with earlier figures."""
    assert rows_of(draw_shots(split_of(["a", "b"] * 10), 2, seed=42)) == [2, 11, 13, 18]
    sets = [["x"], ["x", "y"], ["y"], []] * 5
    assert rows_of(draw_shots(split_of(sets), 2, seed=42)) == [2, 4, 10, 13, 16, 18]


@settings(max_examples=100, deadline=None)
@given(labels=st.lists(st.sampled_from("abcd"), min_size=2, max_size=80), seed=seeds)
def test_classes_are_balanced_and_samples_nested(labels: list[str], seed: int) -> None:
    labels = ["a", "b", *labels]
    counts = Counter(labels)
    samples = [draw_shots(split_of(labels), shots, seed=seed) for shots in range(1, max(counts.values()) + 2)]
    for shots, found in enumerate(samples, 1):
        assert found.counts == {label: min(counts[label], shots) for label in sorted(counts)}
        assert Counter(found.split.labels) == found.counts  # type: ignore[arg-type]
        assert len(found.notes) == (min(counts.values()) < shots)
        assert rows_of(found) == sorted(rows_of(found))
    for smaller, larger in pairwise(samples):
        assert set(rows_of(smaller)) <= set(rows_of(larger))


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 12)), min_size=1, max_size=60),
    shots=st.integers(1, 8),
    seed=seeds,
)
def test_equal_texts_are_drawn_once_and_none_of_two_labels(
    rows: list[tuple[str, int]], shots: int, seed: int
) -> None:
    """Two classes always have a text of their own."""
    rows = [("a", 100), *rows, ("b", 101), ("b", 101)]
    known: dict[int, set[str]] = {}
    for label, text in rows:
        known.setdefault(text, set()).add(label)
    clear = Counter(next(iter(labels)) for labels in known.values() if len(labels) == 1)
    split = split_of([label for label, _ in rows], [str(text) for _, text in rows])
    if set(clear) != {label for label, _ in rows}:
        with pytest.raises(DataError, match="also stands with another label"):
            draw_shots(split, shots, seed=seed)
        return
    found = draw_shots(split, shots, seed=seed)
    assert len(set(found.split.inputs)) == len(found.split)  # type: ignore[arg-type]
    assert all(len(known[int(text)]) == 1 for text in found.split.inputs)  # type: ignore[arg-type]
    assert found.counts == {label: min(shots, clear[label]) for label in sorted(clear)}
    assert sum("more than one label" in note for note in found.notes) == any(len(k) > 1 for k in known.values())


@settings(max_examples=100, deadline=None)
@given(sets=st.lists(st.sets(st.sampled_from("xyz"), max_size=3).map(sorted), min_size=1, max_size=50), seed=seeds)
def test_of_several_labels_each_has_its_rows(sets: list[list[str]], seed: int) -> None:
    sets = [["x"], ["y"], *sets]
    counts = Counter(label for labels in sets for label in labels)
    samples = [draw_shots(split_of(sets), shots, seed=seed) for shots in range(1, len(sets) + 1)]
    for shots, found in enumerate(samples, 1):
        assert all(min(counts[label], shots) <= found.counts[label] <= counts[label] for label in counts)
        assert len(found.split) <= shots * (len(counts) + 1)
        bare = [labels for labels in found.split.labels or [] if not labels]
        assert len(bare) == min(shots, sets.count([]))
    for smaller, larger in pairwise(samples):
        assert set(rows_of(smaller)) <= set(rows_of(larger))
    assert rows_of(samples[-1]) == list(range(1, len(sets) + 1))


def test_the_order_of_a_row_s_labels_is_no_conflict() -> None:
    split = split_of([["x", "y"], ["y", "x"], ["y"], ["x"]], ["same", "same", "b", "c"])
    found = draw_shots(split, 9, seed=0)
    assert rows_of(found) == [1, 3, 4]
    assert not any("more than one label" in note for note in found.notes)


def test_pairs_differ_where_one_text_does() -> None:
    pairs = [("p", "q"), ("p", "q"), ("pq", ""), ("q", "p")]
    assert rows_of(draw_shots(split_of(["a", "a", "a", "b"], pairs), 5, seed=0)) == [1, 3, 4]


def test_what_was_drawn_is_told_in_rows_of_the_file() -> None:
    split = split_of(["b", "a", "b"], ["one", "two", "three"], rows=[4, 7, 9])
    found = draw_shots(split, np.int64(1), seed=np.int64(3))  # type: ignore[arg-type]
    told = found.to_json()
    assert told == {"shots": 1, "seed": 3, "split": "train", "rows": rows_of(found)}
    assert [type(value) for value in (told["shots"], told["seed"], told["rows"][0])] == [int, int, int]
    assert set(rows_of(found)) in ({7, 4}, {7, 9})
    assert found.counts == {"a": 1, "b": 1}


def test_the_order_of_numbers_that_are_strings() -> None:
    assert list(draw_shots(split_of(["10", "9"] * 3), 2, seed=0).counts) == ["9", "10"]


def test_seeds_differ() -> None:
    split = split_of(["a", "b"] * 100)
    assert rows_of(draw_shots(split, 32, seed=7)) != rows_of(draw_shots(split, 32, seed=8))


@pytest.mark.parametrize("shots", [0, -1, 1.5, True, "8", None])
def test_numbers_of_shots_that_are_none(shots: Any) -> None:
    with pytest.raises(UsageError, match=r"shots is .*; it must be a whole number from 1 up"):
        draw_shots(split_of(["a", "b"]), shots, seed=0)


@pytest.mark.parametrize("seed", [-1, 0.5, None])
def test_seeds_that_are_none(seed: Any) -> None:
    with pytest.raises(UsageError, match=r"seed is .*; it must be a whole number from 0 up"):
        draw_shots(split_of(["a", "b"]), 1, seed=seed)


CONFLICTING = split_of(["a", "b", "a", "b"], ["p", "p", "p", "q"], rows=[3, 5, 8, 9])

REFUSED: dict[str, tuple[Split, str]] = {
    "no labels": (split_of(None, ["x", "y"]), "no labelled rows; name the column of the labels with --label-col"),
    "no rows": (split_of([]), "no labelled rows"),
    "no label anywhere": (split_of([[], []]), "no labelled rows"),
    "one class": (split_of(["a", "a"]), r"only one class \('a', 2 rows\); training needs at least two"),
    "one label, which all have": (split_of([["a"], ["a"]]), "only one class"),
    "all texts equal": (
        split_of(["a", "b", "b"], ["same"] * 3),
        "every text of classes 'a', 'b' also",
    ),
    "a class of conflicts": (CONFLICTING, "train.csv: every text of class 'a' also stands with another label"),
    "words": (
        Split("train", "tokens", [["a"], ["b"]], [["O"], ["O"]], np.array([1, 2]), "t.conll"),
        "t.conll: .*these rows are lists of words",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_nothing_can_be_drawn_of(case: str) -> None:
    split, said = REFUSED[case]
    with pytest.raises(DataError, match=said):
        draw_shots(split, 2, seed=0)


def test_what_is_said() -> None:
    labels = ["a"] * 3 + ["b"] * 2 + ["c"] * 16
    assert draw_shots(split_of(labels), 16, seed=0).notes == [
        "train.csv: 16 texts of each class were asked for; 2 classes have fewer, and all of them are taken: "
        "'a' (3), 'b' (2)"
    ]
    assert draw_shots(split_of(labels), 2, seed=0).notes == []
    split = split_of(["a", "b", "a", "b", "b"], ["p", "p", "q", "r", "s"], rows=[3, 5, 8, 9, 11])
    assert draw_shots(split, 1, seed=0).notes == [
        "train.csv: 1 text has more than one label (e.g. rows 3, 5) and cannot be drawn"
    ]
    sets = [["x"], ["x"], []]
    assert draw_shots(split_of(sets), 2, seed=0).notes[0].endswith("all of them are taken: no label (1)")
    many = draw_shots(split_of([f"c{place:02}" for place in range(20)]), 2, seed=0).notes
    assert many[0].endswith("'c10' (1), 'c11' (1) and 8 more")


def test_a_file_that_a_part_was_held_out_of(tmp_path: Path) -> None:
    """Rows keep the numbers of the file, and none of the test rows is drawn."""
    path = tmp_path / "reviews.csv"
    path.write_text("text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(50)), encoding="utf-8")
    splits = open_dataset(path).splits(seed=1)
    found = draw_shots(splits["train"], 4, seed=1)
    assert not set(rows_of(found)) & set(splits["test"].rows.tolist())
    for row, text in zip(rows_of(found), found.split.inputs, strict=True):
        assert text == f"text {row - 1}"
