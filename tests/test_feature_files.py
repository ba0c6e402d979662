"""An exported file gives back what was put in, bit for bit, or is not there."""

from __future__ import annotations

import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file

from embedkit.data import LabelCodec, open_dataset
from embedkit.errors import DataError, OutputExistsError, UsageError
from embedkit.feature_files import ColumnChunk, check_target, feature_file

FORMATS = [".parquet", ".npz", ".safetensors"]
ARRAYS = [".npz", ".safetensors"]
Floats = NDArray[np.float32]
Columns = Mapping[str, Sequence[Any]]

all_formats = pytest.mark.parametrize("ending", FORMATS)
array_formats = pytest.mark.parametrize("ending", ARRAYS)


def numbers(rows: int, width: int = 3) -> Floats:
    return np.arange(rows * width, dtype=np.float32).reshape(rows, width) / 7


def rows_of(columns: Columns) -> NDArray[np.int64]:
    return np.arange(1, 1 + max(map(len, columns.values()), default=0))


def pieces(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def export(
    path: Path,
    vectors: Mapping[str, Floats],
    labels: Mapping[str, Sequence[Any]] | None = None,
    columns: Mapping[str, Columns] | None = None,
    *,
    size: int = 1000,
    overwrite: bool = False,
) -> Path:
    """Write everything in chunks of `size` rows."""
    labels, columns = labels or {}, columns or {}
    with feature_file(
        path,
        rows={split: len(x) for split, x in vectors.items()},
        width=next(iter(vectors.values())).shape[1],
        codec=LabelCodec.fit([label for split in labels.values() for label in split]) if labels else None,
        labelled=list(labels),
        columns=[(f"{split}.csv", chunk, rows_of(chunk)) for split, chunk in columns.items()],
        overwrite=overwrite,
    ) as file:
        for split, x in vectors.items():
            for piece in pieces(len(x), size):
                chunk = {name: values[piece] for name, values in columns.get(split, {}).items()}
                file.write(split, x[piece], labels[split][piece] if split in labels else None, chunk)
    return path


def table_of(columns: Columns, **others: Columns) -> pa.Table:
    """Return what Parquet holds of the columns of one or several splits, without the vectors."""
    splits = {"train": columns, **others}
    with tempfile.TemporaryDirectory() as folder:
        vectors = {split: numbers(len(rows_of(chunk))) for split, chunk in splits.items()}
        return pq.read_table(export(Path(folder) / "f.parquet", vectors, columns=splits)).drop_columns(
            ["hidden_state"]
        )


def load_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], list[str] | None]:
    """Return the arrays and the label names as other programs read them."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        names = arrays.pop("label_names", None)
        return arrays, None if names is None else names.tolist()
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    return load_file(path), None if not metadata else json.loads(metadata["label_names"])


def same_bits(one: NDArray[Any], two: NDArray[Any]) -> bool:
    return one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes()


def promise(path: Path, **changes: Any) -> Any:
    """Promise five rows with labels in train and two without in test, of width 3."""
    arguments: dict[str, Any] = {
        "rows": {"train": 5, "test": 2},
        "width": 3,
        "codec": LabelCodec.fit(["a", "b"]),
        "labelled": ["train"],
        "columns": [("train.csv", {"text": ["t"]}, np.array([1]))],
    }
    return feature_file(path, **{**arguments, **changes})


Write = tuple[str, Floats, Any, Columns]
KEPT: list[Write] = [
    ("train", numbers(5), list("abbaa"), {"text": list("vwxyz")}),
    ("test", numbers(2), None, {"text": list("uv")}),
]


def play(path: Path, writes: Sequence[Write], then: Callable[[], object] = bool, **changes: Any) -> None:
    """Promise, write, and do something before the block ends."""
    with promise(path, **changes) as file:
        for write in writes:
            file.write(*write)
        then()


# --- what a file holds ---------------------------------------------------------------------------------


def test_parquet_by_hand(tmp_path: Path) -> None:
    train = {"text": ["a\0b", "😀 e\u0301", "x" * 100_000], "n": [1, None, 3], "tags": [["u", "v"], [], None]}
    test = {"text": ["late"], "extra": [True]}
    x = {"train": numbers(3), "test": numbers(1)}
    table = pq.read_table(export(tmp_path / "f.parquet", x, columns={"train": train, "test": test}, size=2))
    assert table.schema.equals(
        pa.schema(
            [
                pa.field("split", pa.string(), nullable=False),
                ("text", pa.string()),
                ("n", pa.int64()),
                ("tags", pa.list_(pa.string())),
                ("extra", pa.bool_()),
                pa.field("hidden_state", pa.list_(pa.float32(), 3), nullable=False),
            ]
        )
    )
    assert table.drop_columns(["hidden_state"]).to_pydict() == {
        "split": ["train", "train", "train", "test"],
        "text": [*train["text"], "late"],
        "n": [1, None, 3, None],
        "tags": [["u", "v"], [], None, None],
        "extra": [None, None, None, True],
    }
    assert table["hidden_state"].to_pylist() == [*numbers(3).tolist(), *numbers(1).tolist()]
    file = pq.ParquetFile(tmp_path / "f.parquet").metadata
    assert [file.row_group(i).num_rows for i in range(file.num_row_groups)] == [2, 1, 1]
    found = {c.path_in_schema: c for c in map(file.row_group(0).column, range(file.num_columns))}
    assert {c.compression for c in found.values()} == {"ZSTD"}
    plain = [name for name, c in found.items() if "RLE_DICTIONARY" not in c.encodings]
    assert plain == ["extra", "hidden_state.list.element"]  # Parquet has no dictionaries of booleans


def test_one_split_has_no_split_column(tmp_path: Path) -> None:
    path = export(tmp_path / "f.parquet", {"train": numbers(2)}, columns={"train": {"split": ["a", "b"]}})
    assert pq.read_table(path).column_names == ["split", "hidden_state"]
    path = export(tmp_path / "g.parquet", {"train": numbers(2)})
    assert pq.read_table(path).column_names == ["hidden_state"]


@array_formats
def test_arrays_by_hand(ending: str, tmp_path: Path) -> None:
    x = {"train": numbers(3), "empty": numbers(0), "test": numbers(2)}
    labels = {"train": ["pos", "neg", "pos"], "empty": []}
    arrays, names = load_arrays(export(tmp_path / f"f{ending}", x, labels, size=2))
    assert names == ["neg", "pos"]
    assert list(arrays) == ["X_train", "X_empty", "X_test", "y_train", "y_empty"] or ending == ".safetensors"
    assert arrays.keys() == {"X_train", "X_empty", "X_test", "y_train", "y_empty"}
    assert all(same_bits(arrays[f"X_{split}"], x[split]) for split in x)
    assert same_bits(arrays["y_train"], np.array([1, 0, 1], dtype=np.int64))
    assert same_bits(arrays["y_empty"], np.array([], dtype=np.int64))


def test_members_of_an_npz_may_pass_four_gigabytes(tmp_path: Path) -> None:
    data = export(tmp_path / "f.npz", {"train": numbers(1)}).read_bytes()
    name, extra = struct.unpack("<HH", data[26:30])  # lengths of the first local header
    assert data[:4] == b"PK\x03\x04"
    assert struct.unpack("<H", data[30 + name : 32 + name]) == (1,)  # the Zip64 extra field
    assert extra >= 20


@array_formats
def test_several_labels_a_row(ending: str, tmp_path: Path) -> None:
    labels = {"train": [["a"], [], ["c", "a"]], "test": [["b"]]}
    path = export(tmp_path / f"f{ending}", {"train": numbers(3), "test": numbers(1)}, labels, size=2)
    arrays, names = load_arrays(path)
    assert names == ["a", "b", "c"]
    assert same_bits(arrays["y_train"], np.array([[1, 0, 0], [0, 0, 0], [1, 0, 1]], dtype=np.bool_))
    assert same_bits(arrays["y_test"], np.array([[0, 1, 0]], dtype=np.bool_))


@array_formats
def test_without_labels_there_are_none(ending: str, tmp_path: Path) -> None:
    arrays, names = load_arrays(export(tmp_path / f"f{ending}", {"train": numbers(2)}))
    assert arrays.keys() == {"X_train"}
    assert names is None


def test_the_safetensors_header_is_padded_to_eight_bytes(tmp_path: Path) -> None:
    for names in (["a", "b"], ["a", "bb"], ["a", "bbb"]):
        data = export(tmp_path / f"{names[1]}.safetensors", {"train": numbers(2)}, {"train": names}).read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        assert length % 8 == 0
        assert data[8 : 8 + length].rstrip(b" ").endswith(b"}")
        assert len(data) == 8 + length + 2 * 3 * 4 + 2 * 8


def test_a_label_that_ends_in_nul(tmp_path: Path) -> None:
    labels = {"train": ["a", "a\0"]}
    path = export(tmp_path / "f.safetensors", {"train": numbers(2)}, labels)
    assert load_arrays(path)[1] == ["a", "a\0"]
    with pytest.raises(DataError, match=r"'a\\x00' ends in NUL.*safetensors"):
        export(tmp_path / "f.npz", {"train": numbers(2)}, labels)


@array_formats
def test_names_of_splits_are_made_safe(ending: str, tmp_path: Path) -> None:
    splits = ["../a\\b\0c", ".hidden", "plain.v2", "wörter"]
    arrays, _ = load_arrays(export(tmp_path / f"f{ending}", {split: numbers(1) for split in splits}))
    assert sorted(arrays) == ["X____a_b_c", "X__hidden", "X_plain.v2", "X_wörter"]
    with pytest.raises(ValueError, match="not distinct"):
        export(tmp_path / f"g{ending}", {"a/b": numbers(1), "a_b": numbers(1)})


@all_formats
def test_layouts_do_not_matter(ending: str, tmp_path: Path) -> None:
    rows = np.asfortranarray(numbers(6, 4))[::2]
    path = export(tmp_path / f"f{ending}", {"train": rows})
    if ending == ".parquet":
        assert pq.read_table(path)["hidden_state"].to_pylist() == rows.tolist()
    else:
        assert same_bits(load_arrays(path)[0]["X_train"], np.ascontiguousarray(rows))


@all_formats
def test_equal_features_are_equal_files(ending: str, tmp_path: Path) -> None:
    columns, labels = {"train": {"text": ["a", "b"]}}, {"train": [3, 1]}
    one, two = (
        export(tmp_path / f"{name}{ending}", {"train": numbers(2)}, labels, columns).read_bytes() for name in "ab"
    )
    assert one == two


# --- laws ----------------------------------------------------------------------------------------------

vector_lists = st.tuples(st.integers(1, 5), st.lists(st.integers(0, 7), min_size=1, max_size=3)).flatmap(
    lambda given: st.tuples(
        *(hnp.arrays(np.float32, (rows, given[0]), elements=st.floats(width=32)) for rows in given[1])
    )
)


@pytest.mark.parametrize("several", [False, True])
@given(data=st.data(), vectors=vector_lists, size=st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_arrays_come_back(
    several: bool,
    data: st.DataObject,
    vectors: tuple[Floats, ...],
    size: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    x = {f"s{i}": values for i, values in enumerate(vectors)}
    label = st.one_of(st.text(max_size=3)).filter(lambda text: not text.endswith("\0"))
    one = st.lists(label, unique=True, max_size=11) if several else label
    labelled = data.draw(st.sets(st.sampled_from(sorted(x)), min_size=1))
    labels: dict[str, list[Any]] = {
        split: data.draw(st.lists(one, min_size=len(x[split]), max_size=len(x[split])))
        for split in sorted(labelled)
    }
    for ending in ARRAYS:
        path = export(tmp_path_factory.mktemp("x") / f"f{ending}", x, labels, size=size)
        arrays, names = load_arrays(path)
        assert names is not None
        assert arrays.keys() == {f"X_{split}" for split in x} | {f"y_{split}" for split in labels}
        assert all(same_bits(arrays[f"X_{split}"], x[split]) for split in x)
        for split, expected in labels.items():
            y = arrays[f"y_{split}"]
            assert len(y) == len(expected)
            if several and y.ndim == 2:
                assert [{names[i] for i in np.flatnonzero(row)} for row in y] == list(map(set, expected))
            else:
                assert [names[code] for code in y] == expected


KIND = st.sampled_from(
    [
        st.text(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False),
        st.booleans(),
        st.binary(max_size=5),
        st.dates(),
        st.datetimes().map(lambda time: time.replace(fold=0)),
        st.lists(st.text(max_size=5) | st.none(), max_size=3),
        st.lists(st.lists(st.integers(-9, 9), max_size=2), max_size=3),
    ]
)


@given(
    data=st.data(),
    counts=st.lists(st.integers(0, 7), min_size=1, max_size=3),
    kinds=st.dictionaries(
        st.text(min_size=1).filter(lambda n: n not in {"split", "hidden_state"}), KIND, max_size=4
    ),
    size=st.integers(1, 8),
)
@settings(max_examples=100, deadline=None)
def test_columns_come_back(
    data: st.DataObject,
    counts: list[int],
    kinds: dict[str, st.SearchStrategy[Any]],
    size: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    splits: dict[str, Columns] = {}
    for i, count in enumerate(counts):
        names = [name for name in kinds if data.draw(st.booleans())]
        splits[f"s{i}"] = {
            name: data.draw(st.lists(kinds[name] | st.none(), min_size=count, max_size=count)) for name in names
        }
    x = {f"s{i}": numbers(count) for i, count in enumerate(counts)}
    table = pq.read_table(export(tmp_path_factory.mktemp("x") / "f.parquet", x, columns=splits, size=size))
    for name in {name for columns in splits.values() for name in columns}:
        expected = [v for split in x for v in splits[split].get(name, [None] * len(x[split]))]
        assert repr(table[name].to_pylist()) == repr(
            expected
        )  # repr: -0.0, True and 1, 1 and 1.0 are not the same
    vectors = [row for split in x for row in x[split].tolist()]
    assert table["hidden_state"].to_pylist() == vectors


# --- column types --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([None, None], pa.null()),
        ([[], None], pa.list_(pa.null())),
        ([None, "a"], pa.string()),
        ([1, 2.5], pa.float64()),
        ([2**53, 0.5], pa.float64()),
        ([[1], [], [None, 0.5]], pa.list_(pa.float64())),
        ([[], [["a"]]], pa.list_(pa.list_(pa.string()))),
        ([-(2**63), 2**63 - 1], pa.int64()),
        ([True, None], pa.bool_()),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_the_type_is_of_all_rows(values: list[Any], kind: pa.DataType, late: bool) -> None:
    others = {"test": {"c": values[1:]}} if late else {}
    table = table_of({"c": values[:1] if late else values}, **others)
    assert table.schema.field("c").type == kind
    assert table["c"].to_pylist() == values


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["a", 1], "row 2: column 'c' holds integers; others are strings"),
        ([1, "a", "b"], "rows 2, 3: column 'c' holds strings; others are integers"),
        ([1.5, True], "row 2: column 'c' holds booleans; others are floats"),
        ([True, 1], "row 2: column 'c' holds integers; others are booleans"),
        ([["ab"], "ab"], "row 2: column 'c' holds strings; others are lists of strings"),
        (["ab", []], "row 2: column 'c' holds lists of nothing; others are strings"),
        ([["a"], [1]], "row 2: column 'c' holds lists of integers; others are lists of strings"),
        ([["a", 1]], "row 1: column 'c' holds values of the type list or mixed lists"),
        (["a", b"a"], "row 2: column 'c' holds bytes; others are strings"),
        ([date(2020, 1, 1), datetime(2020, 1, 1, 3)], "row 2: column 'c' holds times; others are dates"),
        ([None, datetime(2020, 1, 1, tzinfo=UTC)], "row 2: column 'c' holds values of the type datetime"),
        ([None, {"a": 1}], "row 2: column 'c' holds values of the type dict"),
        ([np.float32(1)], "row 1: column 'c' holds values of the type float32"),
        ([0, 2**63], "row 2: column 'c' holds numbers or texts that Parquet cannot hold exactly"),
        ([0.5, 2**53 + 1], "row 2: column 'c' holds numbers or texts that Parquet cannot hold exactly"),
        ([2**53 + 1, 0.5], "row 2: column 'c' holds "),
        ([2**53 + 1, 1, 0.5], "row 3: column 'c' holds "),
        ([1, [0.5]], "row 2: column 'c' holds lists of floats; others are integers"),
        (["a", "\ud800"], "row 2: column 'c' holds numbers or texts that Parquet cannot hold exactly"),
    ],
)
def test_values_that_do_not_fit_together_are_refused(values: list[Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        export(tmp_path / "f.parquet", {"train": numbers(len(values))}, columns={"train": {"c": values}})
    assert str(caught.value).startswith(f"train.csv: {said}")
    assert str(caught.value).endswith(".npz or .safetensors, which keep no columns")
    if len(values) > 1:  # the same, when the rows come in chunks
        chunks = [("f.csv", {"c": [value]}, np.array([i])) for i, value in enumerate(values, 1)]
        wrong = int(said.split()[1].rstrip(":,"))
        with (
            pytest.raises(DataError, match=f"^f.csv: row {wrong}: column 'c'"),
            feature_file(
                tmp_path / "f.parquet", rows={"train": 0}, width=1, codec=None, labelled=[], columns=chunks
            ),
        ):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "splits"), [("hidden_state", 1), ("hidden_state", 2), ("split", 2)])
def test_a_column_with_a_name_of_ours_is_refused(name: str, splits: int, tmp_path: Path) -> None:
    x = {f"s{i}": numbers(1) for i in range(splits)}
    with pytest.raises(DataError, match=f"column '{name}' already.*rename"):
        export(tmp_path / "f.parquet", x, columns={"s0": {name: ["a"]}})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("columns", [{"c": [1.0]}, {"c": ["1"]}, {"d": [1]}, {"c": [2**63]}])
def test_columns_that_changed_meanwhile_are_refused(columns: Columns, tmp_path: Path) -> None:
    seen = [("train.csv", {"c": [1, 2]}, np.array([1, 2]))]
    writes: list[Write] = [("train", numbers(1), None, {"c": [1]}), ("train", numbers(1), None, columns)]
    with pytest.raises(DataError, match=r"^train, from row 2 of those that are written on: column '[cd]' is not"):
        play(tmp_path / "f.parquet", writes, rows={"train": 2}, labelled=[], columns=seen)
    assert list(tmp_path.iterdir()) == []


def test_parquet_asks_for_the_columns_and_the_others_never_read_them(tmp_path: Path) -> None:
    def broken() -> Iterator[ColumnChunk]:
        raise AssertionError
        yield

    for ending in ARRAYS:
        with feature_file(
            tmp_path / f"f{ending}", rows={"train": 1}, width=3, codec=None, labelled=[], columns=broken()
        ) as file:
            assert not file.needs_columns
            file.write("train", numbers(1), None, {})
    with (
        pytest.raises(ValueError, match="columns="),
        feature_file(tmp_path / "f.parquet", rows={"train": 1}, width=3, codec=None, labelled=[]),
    ):
        pass


def test_a_key_that_first_appears_late_in_json_lines(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [{"text": f"t{i}", "label": "a"} for i in range(3000)]
    lines[2500]["late"] = ["x"]
    lines[10]["text"] = None
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "d" / "test.csv").write_text("text,label\nNA,b\n")
    data = open_dataset(tmp_path / "d", missing_text="drop")
    tallies = data.check()

    def write(path: Path) -> None:
        with feature_file(
            path,
            rows={name: tally.rows for name, tally in tallies.items()},
            width=1,
            codec=None,
            labelled=[],
            columns=((s.name, c.columns, c.rows) for s in data.sources.values() for c in s.chunks(100)),
        ) as file:
            assert file.needs_columns
            for name, source in data.sources.items():
                for chunk in source.chunks(100):
                    file.write(name, numbers(len(chunk), 1), chunk.labels, chunk.columns)

    write(tmp_path / "f.parquet")
    table = pq.read_table(tmp_path / "f.parquet")
    kept = [line for line in lines if line["text"] is not None]
    assert table["late"].to_pylist() == [line.get("late") for line in kept] + [None]
    assert table["text"].to_pylist() == [line["text"] for line in kept] + ["NA"]
    lines[2600]["late"] = 5
    (tmp_path / "d" / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(
        DataError, match=r"train.jsonl: row 2601: column 'late' holds integers; others are lists of s"
    ):
        write(tmp_path / "g.parquet")


# --- promises ------------------------------------------------------------------------------------------


WRONG: dict[str, tuple[str, list[Write]]] = {
    "nothing": ("'train' has 0 rows, promised 5", []),
    "fewer": ("'train' has 4 rows, promised 5", [("train", numbers(4), list("abab"), {})]),
    "a split missing": ("'test' has 0 rows, promised 2", [("train", numbers(5), list("ababa"), {})]),
    "a split too early": (
        "'train' has 4 rows", [("train", numbers(4), list("abab"), {}), ("test", numbers(2), None, {})]
    ),
    "more": ("more than the promised 5", [("train", numbers(6), list("ababab"), {})]),
    "more later": ("more than the promised 5", [("train", numbers(5), list("ababa"), {})] * 2),
    "going back": (
        "'train' is none of",
        [("train", numbers(5), list("ababa"), {}), ("test", numbers(1), None, {}), ("train", numbers(0), [], {})],
    ),
    "another split": ("'dev' is none of", [("dev", numbers(1), None, {})]),
    "another width": (r"promised float32 \(rows, 3\)", [("train", numbers(1, 4), ["a"], {})]),
    "another dtype": ("vectors of float64", [("train", numbers(1).astype(np.float64), ["a"], {})]),  # type: ignore[list-item]
    "flat": ("promised float32", [("train", numbers(1)[0], ["a"], {})]),
    "no labels": ("no labels for rows of 'train'", [("train", numbers(1), None, {})]),
    "too few labels": (r"2 vectors of 'train', but \[1\] labels", [("train", numbers(2), ["a"], {})]),
}  # fmt: skip


@all_formats
@pytest.mark.parametrize("case", WRONG)
def test_a_broken_promise_leaves_nothing(case: str, ending: str, tmp_path: Path) -> None:
    said, writes = WRONG[case]
    with pytest.raises(ValueError, match=said):
        play(tmp_path / "new" / f"f{ending}", writes)
    assert list(tmp_path.iterdir()) == []


@array_formats
@pytest.mark.parametrize(
    ("labels", "said"),
    [(["a", "c"], "'train': 1 row with labels.*'c'"), ([["a"], "a"], "some rows have one label")],
)
def test_labels_that_the_codec_lacks(ending: str, labels: list[Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        play(tmp_path / f"f{ending}", [("train", numbers(2), labels, {})])
    assert list(tmp_path.iterdir()) == []


@array_formats
def test_one_label_and_several_in_later_chunks(ending: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="some rows have one label"):
        play(tmp_path / f"f{ending}", [("train", numbers(1), ["a"], {}), ("train", numbers(1), [["a"]], {})])


def test_columns_of_another_length(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"1 vectors of 'train', but \[1, 2\] labels or values"):
        play(tmp_path / "f.parquet", [("train", numbers(1), ["a"], {"text": ["t", "u"]})])


@all_formats
@pytest.mark.parametrize("changes", [{"width": 0}, {"rows": {"train": -1}}, {"labelled": ["dev"]}])
def test_a_promise_that_makes_no_sense(ending: str, changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be counts|none of"):
        play(tmp_path / f"f{ending}", [], **changes)
    assert list(tmp_path.iterdir()) == []


@all_formats
def test_chunks_without_rows_and_data_without_rows(ending: str, tmp_path: Path) -> None:
    empty: list[Write] = [("train", numbers(0), [], {}), ("test", numbers(0), None, {})]
    play(tmp_path / f"f{ending}", [empty[0], *KEPT, empty[1]])
    assert (tmp_path / f"f{ending}").stat().st_size > 0
    play(tmp_path / f"e{ending}", [], rows={"train": 0, "test": 0})
    if ending == ".parquet":
        assert pq.read_table(tmp_path / "e.parquet").column_names == ["split", "text", "hidden_state"]
    else:
        arrays, names = load_arrays(tmp_path / f"e{ending}")
        assert {name: array.shape for name, array in arrays.items()} == {
            "X_train": (0, 3), "X_test": (0, 3), "y_train": (0,)
        }  # fmt: skip
        assert names == ["a", "b"]


# --- whole or not at all -------------------------------------------------------------------------------


@all_formats
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize(
    "writes", [[], [("train", numbers(2), list("ab"), {})], KEPT], ids=["none", "some", "all"]
)
def test_an_exception_leaves_what_was_there(
    ending: str, error: type[BaseException], writes: list[Write], tmp_path: Path
) -> None:
    def fail() -> None:
        raise error

    path = tmp_path / f"f{ending}"
    path.write_text("old")
    with pytest.raises(error):
        play(path, writes, fail, overwrite=True)
    with pytest.raises(error):
        play(tmp_path / "a" / "b" / f"f{ending}", writes, fail)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "old"


@all_formats
def test_while_it_is_written_only_a_hidden_file_is_there(ending: str, tmp_path: Path) -> None:
    seen: list[str] = []
    play(tmp_path / f"f{ending}", KEPT, lambda: seen.extend(path.name for path in tmp_path.iterdir()))
    assert len(seen) == 1
    assert seen[0].startswith(".")
    assert [path.name for path in tmp_path.iterdir()] == [f"f{ending}"]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Make writes beyond `size` bytes of a file fail, as a full disk does (EFBIG for ENOSPC)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@all_formats
@pytest.mark.parametrize("room", ["none", "half", "all but one byte"])
def test_a_full_disk_passes_through_and_leaves_nothing(ending: str, room: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = {"train": rng.random((4000, 16), dtype=np.float32)}
    labels = {"train": ["a", "b"] * 2000}
    path = tmp_path / f"f{ending}"
    whole = len(export(path, x, labels, {"train": {"t": labels["train"]}}, size=500).read_bytes())
    path.unlink()
    size = {"none": 1, "half": whole // 2, "all but one byte": whole - 1}[room]
    with largest_file(size), pytest.raises(OSError, match="File too large"):
        export(path, x, labels, {"train": {"t": labels["train"]}}, size=500)
    assert list(tmp_path.iterdir()) == []


@all_formats
def test_an_error_is_not_covered_by_a_disk_that_is_full_too(ending: str, tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("the first")

    with largest_file(1), pytest.raises(RuntimeError, match="the first"):
        play(tmp_path / f"f{ending}", [("train", numbers(1), ["a"], {})], fail)
    assert list(tmp_path.iterdir()) == []


@all_formats
def test_a_failing_fsync_or_rename_leaves_nothing(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "made up")

    for target, name in ((os, "fsync"), (Path, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, fail)
            with pytest.raises(OSError, match="made up"):
                play(tmp_path / "n" / f"f{ending}", KEPT)
        assert list(tmp_path.iterdir()) == []


@all_formats
def test_a_file_is_replaced_only_when_told(ending: str, tmp_path: Path) -> None:
    path = export(tmp_path / f"f{ending}", {"train": numbers(1)})
    first = path.read_bytes()
    with pytest.raises(OutputExistsError, match="--overwrite"):
        export(path, {"train": numbers(2)})
    assert path.read_bytes() == first
    export(path, {"train": numbers(2)}, overwrite=True)
    assert path.read_bytes() != first
    assert list(tmp_path.iterdir()) == [path]


@all_formats
def test_a_file_that_appears_meanwhile_is_kept(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"f{ending}"
    with pytest.raises(OutputExistsError):
        play(path, KEPT, lambda: path.write_text("theirs"))
    assert path.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_the_mode_is_that_of_the_umask(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        path = export(tmp_path / "f.npz", {"train": numbers(1)})
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


# --- the target ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["f.parquet", "f.NPZ", "new/deep/f.safetensors", "a.b.npz"])
def test_a_target_that_is_fine(name: str, tmp_path: Path) -> None:
    check_target(tmp_path / name, overwrite=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["f", "f.csv", ".npz", "f.npz.gz", "f.npz."])
def test_other_endings_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.parquet, \.npz, \.safetensors"):
        check_target(tmp_path / name, overwrite=True)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("file/f.npz", "file is no folder"),
        ("file/deeper/f.npz", "file is no folder"),
        ("dangling/f.npz", "dangling is no folder"),
        ("n" * 300 + ".npz", "name too long"),
        ("a\0b.npz", "null"),
    ],
)
def test_a_place_that_cannot_be_written(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(UsageError, match=f"(?i){said}.*; choose another output"):
        check_target(tmp_path / name, overwrite=True)


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UsageError, match="may not be added to"):
        check_target(tmp_path / "f.npz", overwrite=False)


def test_folders_links_and_devices_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "real.npz").write_text("")
    (tmp_path / "link.npz").symlink_to("real.npz")
    (tmp_path / "dangling.npz").symlink_to("nowhere.npz")
    os.mkfifo(tmp_path / "pipe.npz")
    for name in ("folder", "link", "dangling", "pipe"):
        for overwrite in (False, True):
            with pytest.raises(OutputExistsError, match="no plain file"):
                check_target(tmp_path / f"{name}.npz", overwrite=overwrite)
    with pytest.raises(OutputExistsError, match="--overwrite"):
        check_target(tmp_path / "real.npz", overwrite=False)
    check_target(tmp_path / "real.npz", overwrite=True)


# --- streaming -----------------------------------------------------------------------------------------

STREAM = """
import resource, sys
from pathlib import Path
import numpy as np
from embedkit.data import LabelCodec
from embedkit.feature_files import feature_file

def write(path, rows):
    chunk = np.random.default_rng(0).random((5000, 256), dtype=np.float32)
    texts = [f"a text, not the same in each row: {i}" for i in range(5000)]
    columns = {"text": texts, "label": [i % 7 for i in range(5000)]}
    seen = (("d", columns, np.arange(5000)) for _ in range(0, rows, 5000))
    codec = LabelCodec.fit(range(7))
    with feature_file(path, rows={"train": rows}, width=256, codec=codec, labelled=["train"], columns=seen) as f:
        for start in range(0, rows, 5000):
            f.write("train", chunk, columns["label"], columns)

path = Path(sys.argv[1])
write(path.with_stem("small"), 10000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write(path, 200000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@all_formats
def test_memory_does_not_grow_with_the_rows(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"f{ending}"
    done = subprocess.run(
        [sys.executable, "-c", STREAM, str(path)], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    assert path.stat().st_size > 150e6
    assert int(done.stdout) < 100 * 1024  # kilobytes
    if ending == ".parquet":
        assert pq.ParquetFile(path).metadata.num_rows == 200_000
    else:
        arrays, names = load_arrays(path)
        assert arrays["X_train"].shape == (200_000, 256)
        assert names == [str(i) for i in range(7)]
        assert np.array_equal(arrays["y_train"][-5000:], np.arange(5000) % 7)
