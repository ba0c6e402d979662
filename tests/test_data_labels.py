"""Labels to codes and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedkit.data import LabelCodec, sorted_labels
from embedkit.errors import DataError


@pytest.mark.parametrize(
    ("labels", "ordered"),
    [
        (["pos", "neg", "pos"], ["neg", "pos"]),
        ([10, 9, -1], [-1, 9, 10]),
        (["10", "9", "-1"], ["-1", "9", "10"]),
        (["10", "9", "x"], ["10", "9", "x"]),
        (["1", "01", "+1"], ["+1", "01", "1"]),
        (["1.0", "10", "9"], ["1.0", "10", "9"]),
        (["٣", "2"], ["2", "٣"]),
        (["1\n", "02"], ["02", "1\n"]),
        ([2.0, 1.0], [1.0, 2.0]),
        ([True, False], [False, True]),
        ([], []),
    ],
)
def test_order_of_classes(labels: list[Any], ordered: list[Any]) -> None:
    assert sorted_labels(labels) == ordered
    assert list(LabelCodec.fit(labels).classes) == ordered
    assert LabelCodec.fit(labels).names == tuple(map(str, ordered))


def test_declared_order_without_the_names_that_never_occur() -> None:
    codec = LabelCodec.fit(["good", "bad", "good"], declared=("good", "so-so", "bad"))
    assert codec.classes == ("good", "bad")
    assert codec.encode(["bad", "good"]).tolist() == [1, 0]
    with pytest.raises(DataError, match="'worse' are none of the declared 'good', 'bad'"):
        LabelCodec.fit(["worse"], declared=("good", "bad"))


@pytest.mark.parametrize(
    "labels", [["a", 1], [1, "a"], [True, 1], [1, True, 0], [0.5], [float("nan")], [None], [b"a"], [{"a"}, None]]
)
def test_labels_that_are_none(labels: list[Any]) -> None:
    with pytest.raises(DataError):
        LabelCodec.fit(labels)


@given(
    st.one_of(
        st.lists(st.text(max_size=3), min_size=1),
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1),
        st.lists(st.booleans(), min_size=1),
    )
)
def test_decode_undoes_encode(labels: list[Any]) -> None:
    codec = LabelCodec.fit(labels)
    codes = codec.encode(labels)
    assert codes.dtype == np.int64
    assert set(codes.tolist()) == set(range(len(codec)))
    assert codec.decode(codes).tolist() == labels
    assert [codec.classes[code] for code in codes] == labels
    assert LabelCodec(codec.classes, codec.dtype) == codec


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([3, 1], dtype=np.int8), "int8"),
        (np.array([1.0, 2.0], dtype=np.float32), "float32"),
        (np.array([True, False]), "bool"),
        (np.array(["b", "a"]), "<U1"),
        (np.array(["b", "a"], dtype=object), "object"),
        (pd.Series([2, 1], dtype="int32"), "int32"),
        (pd.Series(["b", "a"]), "<U1"),
        ([2, 1], "int64"),
        (("b", "a"), "<U1"),
    ],
)
def test_the_dtype_of_labels_is_kept(values: Any, dtype: str) -> None:
    codec = LabelCodec.fit(values)
    decoded = codec.decode(codec.encode(values))
    assert decoded.dtype == np.dtype(dtype)
    assert decoded.tolist() == list(values)
    assert all(type(label) in {str, int, float, bool} for label in codec.classes)


def test_a_label_that_ends_in_nul_survives() -> None:
    codec = LabelCodec.fit(["a\0", "a"])
    assert codec.decode([1, 0]).tolist() == ["a\0", "a"]


def test_unknown_labels() -> None:
    codec = LabelCodec.fit(["b", "c"])
    values = ["c", "z", "a", "b", "z"]
    with pytest.raises(DataError, match=r"3 rows with labels that are no class: 'z', 'a' \(rows 2, 3, 5\)"):
        codec.encode(values)
    assert codec.encode(values, unknown="mark").tolist() == [1, -1, -1, 0, -1]
    assert codec.extended(values).classes == ("b", "c", "a", "z")
    assert codec.encode(values, unknown="extend").tolist() == [1, 3, 2, 0, 3]
    assert codec.classes == ("b", "c")


def test_several_labels_a_row() -> None:
    rows = [["b", "a"], [], ["c", "c"]]
    codec = LabelCodec.fit(rows)
    matrix = codec.encode_sets(rows)
    assert matrix.dtype == np.bool_
    assert matrix.tolist() == [[True, True, False], [False] * 3, [False, False, True]]
    assert codec.decode_sets(matrix) == [["a", "b"], [], ["c"]]
    with pytest.raises(DataError, match=r"'x' \(row 2\)"):
        codec.encode_sets([["a"], ["x", "b"]])
    assert codec.encode_sets([["a"], ["x", "b"]], unknown="mark").tolist() == [
        [True, False, False],
        [False, True, False],
    ]
