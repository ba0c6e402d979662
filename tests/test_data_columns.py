"""Columns are found by the usual names, named by the user, or asked for; rows of wrong types are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedkit.data import Columns, Split, open_dataset
from embedkit.errors import DataError, EmbedkitError, UsageError


def csv_with(path: Path, names: str, rows: int = 2) -> Path:
    cells = names.count(",") + 1
    lines = [",".join(f"v{row}{cell}" for cell in range(cells)) for row in range(rows)]
    path.write_text("\n".join([names, *lines]) + "\n", encoding="utf-8")
    return path


def jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def labelled(path: Path, *labels: object) -> Path:
    return jsonl(path, *({"text": f"t{i}", "label": label} for i, label in enumerate(labels)))


def read(data: Path, **options: object) -> Split:
    dataset = open_dataset(data, **options)  # type: ignore[arg-type]
    return dataset.split(next(iter(dataset.sources)))


def notes(data: Path, **options: object) -> list[str]:
    dataset = open_dataset(data, **options)  # type: ignore[arg-type]
    dataset.check()
    dataset.check()
    return dataset.notes


def failure(error: type[EmbedkitError], data: Path, **options: object) -> str:
    with pytest.raises(error) as caught:
        open_dataset(data, **options).check()  # type: ignore[arg-type]
    return str(caught.value)


# ------------------------------------------------------------------------------------------ usual names


@pytest.mark.parametrize(
    ("names", "kind", "inputs", "label"),
    [
        ("text,label", "text", ("text",), "label"),
        ("id,Review,Sentiment", "text", ("Review",), "Sentiment"),
        ("content,target,source", "text", ("content",), "target"),
        ("sentence,class", "text", ("sentence",), "class"),
        ("document,category", "text", ("document",), "category"),
        ("text", "text", ("text",), None),
        ("sentence2,label,sentence1", "pair", ("sentence1", "sentence2"), "label"),
        ("premise,hypothesis,label", "pair", ("premise", "hypothesis"), "label"),
        ("question1,question2,target", "pair", ("question1", "question2"), "target"),
        ("text_pair,text", "pair", ("text", "text_pair"), None),
        ("sentence,question,label", "pair", ("question", "sentence"), "label"),
        ("sentence1,text,label", "text", ("text",), "label"),
        ("premise,text", "text", ("text",), None),
    ],
)
def test_usual_names(tmp_path: Path, names: str, kind: str, inputs: tuple[str, ...], label: str | None) -> None:
    (source,) = open_dataset(csv_with(tmp_path / "a.csv", names)).sources.values()
    assert (source.kind, source.roles.inputs, source.roles.label) == (kind, inputs, label)


@pytest.mark.parametrize(
    ("columns", "kind", "inputs", "label"),
    [
        (Columns(text="premise"), "text", ("premise",), "label"),
        (Columns(text="hypothesis", pair="premise"), "pair", ("hypothesis", "premise"), "label"),
        (Columns(pair="hypothesis"), "pair", ("premise", "hypothesis"), "label"),
        (Columns(text="id", label="premise"), "text", ("id",), "premise"),
        (Columns(text=2, label=-1), "text", ("premise",), "label"),
    ],
)
def test_named_columns(tmp_path: Path, columns: Columns, kind: str, inputs: tuple[str, ...], label: str) -> None:
    path = csv_with(tmp_path / "a.csv", "id,premise,hypothesis,label")
    (source,) = open_dataset(path, columns=columns).sources.values()
    assert (source.kind, source.roles.inputs, source.roles.label) == (kind, inputs, label)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("text,sentence,label", "--text-column text or --text-column sentence"),
        ("text,Text,label", "--text-column text or --text-column Text"),
        ("sentence1,sentence2,premise,hypothesis", "--text-column sentence1 or --text-column premise"),
        ("sentence1,sentence2,text", "--text-column sentence1 or --text-column text"),
        ("text,label,category", "--label-column label or --label-column category"),
    ],
)
def test_ambiguous_columns_are_asked_for(tmp_path: Path, names: str, said: str) -> None:
    assert said in failure(UsageError, csv_with(tmp_path / "a.csv", names))


def test_naming_one_column_settles_it(tmp_path: Path) -> None:
    path = csv_with(tmp_path / "a.csv", "text,sentence,label,category")
    split = read(path, columns=Columns(text="sentence", label="category"))
    assert (split.inputs, split.labels) == (["v01", "v11"], ["v03", "v13"])
    assert read(path, columns=Columns(text="text"), labels="none").labels is None


@pytest.mark.parametrize(
    ("names", "options", "said"),
    [
        (
            "text,lable,b",
            {"labels": "required"},
            "no column 'label' in {}; columns: text, lable, b; did you mean 'lable'?",
        ),
        ("txt,label", {}, "no column 'text' in {}; columns: txt, label; did you mean 'txt'?"),
        ("a,b,c", {}, "no column 'text' in {}; columns: a, b, c; name it with --text-column"),
        ("text,b", {"labels": "required"}, "no column 'label' in {}; columns: text, b; name it"),
        ("text,b", {"columns": Columns(label="stars")}, "no column 'stars' in {}; columns: text, b"),
        ("text, label", {"labels": "required"}, "did you mean ' label'?"),
        ("text;label", {}, "separated by something else than commas"),
    ],
)
def test_missing_columns(tmp_path: Path, names: str, options: dict[str, object], said: str) -> None:
    path = csv_with(tmp_path / "train.csv", names)
    assert said.format(path) in failure(DataError, path, **options)


def test_same_column_twice(tmp_path: Path) -> None:
    path = csv_with(tmp_path / "a.csv", "text,label")
    assert "cannot both be" in failure(UsageError, path, columns=Columns(text="text", pair="text"))
    assert "cannot both be" in failure(UsageError, path, columns=Columns(label="text"))
    assert "columns 1 to 2" in failure(UsageError, path, columns=Columns(text=3))
    assert "give one kind" in failure(UsageError, path, columns=Columns(text="text", tags="label"))


# -------------------------------------------------------------------------------------------- other splits


def test_later_splits_have_the_columns_of_the_first(tmp_path: Path) -> None:
    csv_with(tmp_path / "train.csv", "text,label")
    csv_with(tmp_path / "test.csv", "text,lable")
    assert "no column 'label' in" in failure(DataError, tmp_path, labels="required")
    assert "did you mean 'lable'" in failure(DataError, tmp_path, columns=Columns(label="label"))
    dataset = open_dataset(tmp_path)
    assert dataset.split("test").labels is None
    assert dataset.notes == [f"{tmp_path / 'test.csv'} has no column 'label': this split is unlabelled"]
    csv_with(tmp_path / "test.csv", "sentence,label")
    assert "no column 'text' in" in failure(DataError, tmp_path)


def test_splits_of_different_kinds(tmp_path: Path) -> None:
    csv_with(tmp_path / "train.csv", "text,label")
    (tmp_path / "test.conll").write_text("a O\n", encoding="utf-8")
    assert "holds tokens rows" in failure(DataError, tmp_path)
    (tmp_path / "train.csv").unlink()
    jsonl(tmp_path / "train.jsonl", {"tokens": ["a"], "ner_tags": ["O"]})
    assert {n: s.labels for n, s in open_dataset(tmp_path).splits().items()} == {"train": [["O"]], "test": [["O"]]}


@pytest.mark.parametrize("values", [[-1, -1], [None, None], ["-1", "-1"], ["", None]])
def test_a_test_split_without_labels_is_unlabelled(tmp_path: Path, values: list[object]) -> None:
    labelled(tmp_path / "train.jsonl", "a", "b")
    labelled(tmp_path / "test.jsonl", *values)
    dataset = open_dataset(tmp_path, labels="required")
    assert dataset.split("test").labels is None
    assert dataset.notes == [
        f"{tmp_path / 'test.jsonl'}: all labels are missing or -1: the test split is unlabelled"
    ]
    assert dataset.check()["test"].labels is None


def test_a_single_label_makes_a_test_split_labelled(tmp_path: Path) -> None:
    labelled(tmp_path / "train.jsonl", 0, 1)
    labelled(tmp_path / "test.jsonl", *[-1] * 3000, 1)
    assert len(open_dataset(tmp_path).split("test").labels or []) == 3001
    labelled(tmp_path / "validation.jsonl", -1, -1)  # the rule is for test alone
    assert open_dataset(tmp_path).split("validation").labels == [-1, -1]


def test_label_kinds_across_splits(tmp_path: Path) -> None:
    labelled(tmp_path / "train.jsonl", 0, 1)
    csv_with(tmp_path / "test.csv", "text,label")
    message = failure(DataError, tmp_path)
    assert "integers in" in message
    assert "strings in" in message


# --------------------------------------------------------------------------------------------- texts


def test_missing_texts_are_counted_to_the_end(tmp_path: Path) -> None:
    texts: list[object] = [f"t{i}" for i in range(1, 20_001)]
    for row in (4, 9, 20_000):
        texts[row - 1] = None
    path = jsonl(tmp_path / "a.jsonl", *({"text": text, "label": "a"} for text in texts))
    assert "a.jsonl: 3 missing texts: rows 4, 9, 20000 (column 'text')" in failure(DataError, path)
    dropped = read(path, missing_text="drop")
    assert len(dropped) == 19_997
    assert dropped.rows[2:5].tolist() == [3, 5, 6]
    assert dropped.columns["text"] == dropped.inputs
    assert notes(path, missing_text="drop") == [f"{path}: 3 rows without a text dropped"]
    filled = read(path, missing_text="empty")
    assert (len(filled), filled.inputs[3], filled.columns["text"][3]) == (20_000, "", None)


def test_nan_is_a_missing_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": NaN}\n{"text": null}\n', encoding="utf-8")
    assert "2 missing texts: rows 2, 3" in failure(DataError, path)
    pq.write_table(pa.table({"text": pa.array([None, "a"])}), tmp_path / "b.parquet")
    assert "1 missing text: row 1" in failure(DataError, tmp_path / "b.parquet")


def test_a_whole_chunk_may_be_dropped(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": None, "label": "a"}] * 10 + [{"text": "x", "label": "b"}]
    (source,) = open_dataset(jsonl(tmp_path / "a.jsonl", *rows), missing_text="drop").sources.values()
    chunks = list(source.chunks(5))
    assert [len(c) for c in chunks] == [0, 0, 1]
    assert [c.first_row for c in chunks] == [0, 0, 11]
    assert open_dataset(tmp_path / "a.jsonl", missing_text="drop").split("a").rows.tolist() == [11]


@pytest.mark.parametrize(
    ("value", "kind"), [(3, "int"), (2.5, "float"), (True, "bool"), (["a"], "list"), ({"a": 1}, "dict")]
)
@pytest.mark.parametrize("missing_text", ["error", "empty", "drop"])
def test_other_types_are_no_texts(tmp_path: Path, value: object, kind: str, missing_text: str) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"text": "a"}, {"text": value}, {"text": value})
    message = failure(DataError, path, missing_text=missing_text)
    assert f"2 values of type {kind}: rows 2, 3" in message
    assert ("--task tokens" in message) == (kind == "list")


def test_pairs_need_both_texts(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"text": "a", "text_pair": "b"}, {"text": "a", "text_pair": None})
    assert "1 missing text of a pair: row 2 (column 'text', 'text_pair')" in failure(DataError, path)
    assert read(path, missing_text="drop").inputs == [("a", "b")]
    assert read(path, missing_text="empty").inputs == [("a", "b"), ("a", "")]


# --------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("given", "read_as"),
    [
        (["b", "a"], ["b", "a"]),
        ([1, 0], [1, 0]),
        ([-1, 1], [-1, 1]),
        ([1.0, 2], [1, 2]),
        ([True, False], ["true", "false"]),
        ([["x", "y", "x"], []], [["x", "y"], []]),
        ([[1, 2], [3]], [["1", "2"], ["3"]]),
    ],
)
def test_labels_as_they_are_read(tmp_path: Path, given: list[Any], read_as: list[Any]) -> None:
    found = read(labelled(tmp_path / "a.jsonl", *given)).labels
    assert found == read_as
    assert [type(label) for label in found or []] == [type(label) for label in read_as]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["a", None, float("nan"), "b", ""], "3 missing labels: rows 2, 3, 5"),
        (["a", "  "], "1 missing label: row 2"),
        ([1, "1"], "mixes integers and strings: 1 in row 1, '1' in row 2"),
        (["1", "2", 1], "mixes strings and integers: '1' in row 1, 1 in row 3"),
        ([0, True], "mixes integers and booleans: 0 in row 1, True in row 2"),
        (["a", ["a"]], "mixes strings and lists"),
        ([1.0, 0.5], "row 2: label 0.5 (column 'label') is a number with a fraction"),
        ([{"a": 1}], "row 1: label {'a': 1} (column 'label') is of type dict"),
        ([["a", 1.5]], "row 1: the labels of a row are strings"),
    ],
)
def test_labels_that_are_refused(tmp_path: Path, given: list[Any], said: str) -> None:
    message = failure(DataError, labelled(tmp_path / "a.jsonl", *given))
    assert "a.jsonl" in message
    assert said in message


def test_mixed_labels_far_apart(tmp_path: Path) -> None:
    path = labelled(tmp_path / "a.jsonl", *["a"] * 9000, 1)
    assert "'a' in row 1, 1 in row 9001" in failure(DataError, path)
    path = labelled(tmp_path / "b.jsonl", "a", *["b"] * 9000, None, "c", None)
    assert "2 missing labels: rows 9002, 9004" in failure(DataError, path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["pos", "pos ", "neg"], "labels that look alike are kept apart: 'pos' (1 row) and 'pos ' (1 row)"),
        (["1.0", "1", "1"], "labels that look alike are kept apart: '1.0' (1 row) and '1' (2 rows)"),
        ([1.0, 2.0], "labels are whole floats (1.0), read as integers"),
        ([True, False], "labels are booleans, read as 'true' and 'false'"),
    ],
)
def test_labels_that_are_worth_a_note(tmp_path: Path, given: list[Any], said: str) -> None:
    path = labelled(tmp_path / "a.jsonl", *given)
    assert notes(path) == [f"{path}: {said}"]


def test_no_note_without_reason(tmp_path: Path) -> None:
    assert notes(labelled(tmp_path / "a.jsonl", "a", "b", "10", "1")) == []


def test_label_separator(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,x; y\nb,\nc,x;;x\n", encoding="utf-8")
    assert read(path, columns=Columns(label_separator=";")).labels == [["x", "y"], [], ["x"]]
    lists = labelled(tmp_path / "b.jsonl", ["x"], ["y"])
    assert "--label-separator" in failure(DataError, lists, columns=Columns(label_separator=";"))
    assert "must not be empty" in failure(UsageError, path, columns=Columns(label_separator=""))


def test_declared_names_in_parquet(tmp_path: Path) -> None:
    features = {"label": {"names": ["worse", "better"], "_type": "ClassLabel"}, "text": {"dtype": "string"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"text": ["a", "b"], "label": [1, 0]}).replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "train.parquet")
    pq.write_table(table.set_column(1, "label", [[0, -1]]), tmp_path / "test.parquet")
    dataset = open_dataset(tmp_path)
    assert dataset.declared == ("worse", "better")
    assert dataset.split("train").labels == ["better", "worse"]
    with pytest.raises(DataError, match=r"1 missing label \(or -1\): row 2"):
        dataset.split("test")
    pq.write_table(table.set_column(1, "label", [[0, 2]]), tmp_path / "test.parquet")
    with pytest.raises(DataError, match="row 2: label 2 is none of the 2 declared ones"):
        open_dataset(tmp_path).split("test")
    for broken in ("{", "[]", '{"info": 3}', '{"info": {"features": {"label": 3}}}'):
        pq.write_table(table.replace_schema_metadata({"huggingface": broken}), tmp_path / "train.parquet")
        assert open_dataset(tmp_path / "train.parquet").split("train").labels == [1, 0]


# --------------------------------------------------------------------------------------------- tokens

ROW: dict[str, Any] = {"tokens": ["EU", "said"], "ner_tags": ["B-ORG", "O"], "pos_tags": ["NNP", "VBD"]}


@pytest.mark.parametrize(
    ("row", "options", "tags"),
    [
        (ROW, {"task": "ner"}, ["B-ORG", "O"]),
        (ROW, {"task": "pos"}, ["NNP", "VBD"]),
        (ROW, {"columns": Columns(tags="pos_tags")}, ["NNP", "VBD"]),
        (ROW, {"labels": "none"}, None),
        ({"words": ["a", "b"], "tags": [1, 2]}, {}, ["1", "2"]),
        ({"tokens": ["a", "b"], "labels": ["O", "O"], "text": "a b"}, {}, ["O", "O"]),
        ({"tokens": ["a", "b"]}, {}, None),
        ({"w": ["a", "b"], "t": ["x", "y"]}, {"columns": Columns(tokens="w", tags="t")}, ["x", "y"]),
        ({"tokens": ["a", "b"], "tags": ["x", "y"], "chunk_tags": ["z", "z"]}, {"task": "chunk"}, ["z", "z"]),
    ],
)
def test_token_columns(
    tmp_path: Path, row: dict[str, Any], options: dict[str, object], tags: list[str] | None
) -> None:
    split = read(jsonl(tmp_path / "a.jsonl", row), **options)
    assert split.kind == "tokens"
    assert split.inputs == [row.get("tokens") or row.get("words") or row.get("w")]
    assert split.labels == (None if tags is None else [tags])


@pytest.mark.parametrize(
    ("row", "options", "error", "said"),
    [
        (ROW, {}, UsageError, "--tags-column ner_tags or --tags-column pos_tags\n  ner_tags: B-ORG O"),
        (ROW, {"task": "chunk", "labels": "required"}, DataError, "no column 'chunk_tags'"),
        (ROW, {"task": "sequence"}, DataError, "no column 'text'"),
        ({"text": "a"}, {"task": "ner"}, DataError, "no column 'tokens'"),
        ({"tokens": "a b", "tags": "O O"}, {"task": "ner"}, DataError, "no lists of words"),
        ({"tokens": ["a"], "tags": ["O", "O"]}, {}, DataError, "row 1: 1 token, 2 tags"),
        ({"tokens": ["a", None], "tags": ["O", "O"]}, {}, DataError, "row 1: word 2 of column 'tokens' is not"),
        ({"tokens": ["a", "b"], "tags": ["O", None]}, {}, DataError, "row 1: tag 2 is missing"),
        ({"tokens": ["a", "b"], "tags": ["", "O"]}, {}, DataError, "row 1: tag 1 is missing"),
    ],
)
def test_token_columns_that_are_refused(
    tmp_path: Path, row: dict[str, Any], options: dict[str, object], error: type[EmbedkitError], said: str
) -> None:
    assert said in failure(error, jsonl(tmp_path / "a.jsonl", row), **options)


def test_missing_token_lists_and_tags(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [ROW, {"tokens": None}, {"tokens": [], "ner_tags": []}, {"tokens": ["a b"]}]
    path = jsonl(tmp_path / "a.jsonl", *rows)
    assert "1 missing token list: row 2" in failure(DataError, path, task="ner")
    assert "1 missing label: row 4" in failure(DataError, path, task="ner", missing_text="drop")
    split = read(path, labels="none", missing_text="empty", task="ner")
    assert split.inputs == [["EU", "said"], [], [], ["a b"]]
    assert "2 tokens, 0 tags" in failure(
        DataError, jsonl(tmp_path / "b.jsonl", {**ROW, "ner_tags": []}, ROW), task="ner"
    )


def test_texts_beside_tokens_stay_a_sequence_task(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"text": "a b", "tokens": ["a", "b"], "label": "x"})
    assert read(path).kind == "text"
