"""Checks before any model is loaded, hold-outs of a data set, and the facts of `embedkit inspect`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedkit.data import (
    Kind,
    Split,
    check_splits,
    class_counts,
    conflicts,
    describe,
    duplicates,
    leaks,
    open_dataset,
    printable,
    require_classes,
    small_classes,
    unseen_labels,
)
from embedkit.data.text import counted, names_of, rows_said
from embedkit.errors import DataError
from tests import test_cli
from tests.test_cli import CANARY, Cli

cli, model = test_cli.cli, test_cli.model  # the command line's own fixtures


def split_of(
    inputs: Sequence[Any], labels: Sequence[Any] | None, name: str = "train", kind: Kind = "text"
) -> Split:
    """Return a split whose data rows begin at 101, so that rows and positions cannot be mixed up unseen."""
    rows = np.arange(101, 101 + len(inputs), dtype=np.int64)
    return Split(name, kind, list(inputs), None if labels is None else list(labels), rows, f"{name}.csv")


def folder(path: Path, **splits: list[dict[str, Any]]) -> Path:
    for name, rows in splits.items():
        (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# ------------------------------------------------------------------------------------------- classes


@pytest.mark.parametrize(
    ("labels", "counts"),
    [
        (["b", "a", "b"], {"a": 1, "b": 2}),
        ([10, 9, 10], {9: 1, 10: 2}),
        (np.array(["10", "9"]), {"9": 1, "10": 1}),
        ([["x", "y"], [], ["x"]], {"x": 2, "y": 1}),
        (None, {}),
    ],
)
def test_class_counts(labels: Any, counts: dict[Any, int]) -> None:
    assert list(class_counts(labels).items()) == list(counts.items())


def test_one_class_is_not_enough() -> None:
    with pytest.raises(DataError, match=r"train.csv: only one class \('a', 20 rows\)"):
        require_classes(["a"] * 20, "train.csv")
    with pytest.raises(DataError, match=r"only one class \(3, 1 row\)"):
        require_classes({3: 1}, "x")
    nothings: tuple[Any, ...] = ([], None, {})
    for nothing in nothings:
        with pytest.raises(DataError, match="no labelled rows"):
            require_classes(nothing, "x")
    assert require_classes(["a", "b", "a"], "x") == {"a": 2, "b": 1}


def test_small_classes() -> None:
    labels = ["a"] * 5 + ["b"] * 2 + ["c"]
    assert small_classes(labels, 5) == "2 classes have fewer rows than the 5 folds: 'b' (2), 'c' (1)"
    assert small_classes(labels, 1) is None


def test_unseen_labels() -> None:
    assert unseen_labels(["a", "b"], ["c", "a", "c"]) == {"c": 2}
    assert unseen_labels([["a"]], [["b", "a"]]) == {"b": 1}
    assert unseen_labels(["a", "b"], ["a"]) == {}


# ---------------------------------------------------------------------------------------------- texts


@given(st.lists(st.text("ab", max_size=2), max_size=30))
def test_duplicates_are_what_a_set_leaves_out(texts: list[str]) -> None:
    repeated = duplicates(texts).tolist()
    assert [i for i, text in enumerate(texts) if text in texts[:i]] == repeated
    assert len(texts) - len(repeated) == len(set(texts))


@pytest.mark.parametrize("kind", ["text", "pair", "tokens"])
def test_leaks_are_rows_of_the_other_split(kind: Kind) -> None:
    shape: dict[str, Any] = {"text": str, "pair": lambda text: (text, "x"), "tokens": list}
    train = split_of([shape[kind](text) for text in ["a", "b", "b"]], None, kind=kind)
    test = split_of([shape[kind](text) for text in ["c", "b", "a", "b"]], None, "test", kind=kind)
    assert leaks(train, test).tolist() == [102, 103, 104]
    assert leaks(test, split_of([], None)).tolist() == []


def test_conflicts() -> None:
    found = conflicts(split_of(["a", "b", "a", "b", "a", "c"], ["x", "y", "x", "z", "y", "x"]))
    assert (found.texts, found.example) == (2, (102, 104))
    assert conflicts(split_of(["a", "a"], ["x", "x"])).texts == 0
    assert conflicts(split_of(["a", "a"], None)).texts == 0
    several = [["x", "y"], ["y", "x"]]
    assert conflicts(split_of(["a", "a"], several)).texts == 0
    assert conflicts(split_of([["a", "b"]] * 2, several, kind="tokens")).texts == 1


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), max_size=12))
def test_conflicts_are_what_a_table_of_labels_shows(rows: list[tuple[str, str]]) -> None:
    split = split_of([text for text, _ in rows], [label for _, label in rows])
    table: dict[str, set[str]] = {}
    for text, label in rows:
        table.setdefault(text, set()).add(label)
    found = conflicts(split)
    assert found.texts == sum(len(labels) > 1 for labels in table.values())
    if found.texts:
        (one, a), (two, b) = (rows[row - 101] for row in found.example)
        assert one == two
        assert a != b
        assert found.example[0] < found.example[1]
    else:
        assert found.example == ()


@given(st.lists(st.sampled_from("abcd"), max_size=8), st.lists(st.sampled_from("abcd"), max_size=8))
def test_leaks_are_the_texts_of_both(train: list[str], test: list[str]) -> None:
    found = leaks(split_of(train, None), split_of(test, None, "test"))
    assert found.tolist() == [101 + place for place, text in enumerate(test) if text in train]


def test_a_text_in_validation_and_test_is_a_leak_too() -> None:
    """Thresholds and calibration are tuned on validation."""
    splits = {
        "train": split_of(["a", "b"], ["x", "y"]),
        "validation": split_of(["c", "a"], ["x", "y"], "validation"),
        "test": split_of(["c", "d", "c", "b"], ["x", "y", "x", "y"], "test"),
    }
    assert check_splits(splits) == [
        "validation: 1 text of 2 also in train (row 102 of validation.csv); figures on them flatter the model",
        "test: 1 text of 4 also in train (row 104 of test.csv); figures on them flatter the model",
        "test: 2 texts of 4 also in validation (rows 101, 103 of test.csv); figures on them flatter the model",
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("pos", "pos "),
        ("pos", "\tPOS"),
        ("1", "1.0"),
        ("caf\u00e9", "cafe\u0301"),
        ("pos", "pos\u200b"),
        ("pos", "\ufeffpos"),
        ("pos", "pos\u00a0"),
        ("12", "\uff11\uff12"),
        ("STRASSE", "stra\u00dfe"),
    ],
)
def test_labels_that_only_look_different_are_said(one: str, other: str) -> None:
    train = split_of(["a", "b", "c"], [one, one, "z"])
    (note,) = check_splits({"train": train, "test": split_of(["d"], [other], "test")})[1:]
    assert note.startswith("test and train: labels that look alike are kept apart: ")
    assert "(2 rows) and " in note


@pytest.mark.parametrize(("one", "other"), [("1", "10"), ("a", "b"), ("1.0", "1.00"), ("\u00e9", "e"), ("", "0")])
def test_labels_that_are_different_are_not(one: str, other: str) -> None:
    train = split_of(["a", "b", "c"], [one, one, "z"])
    said = check_splits({"train": train, "test": split_of(["d"], [other], "test")})
    assert not [note for note in said if "look alike" in note]


def test_everything_worth_saying_about_splits() -> None:
    train = split_of(["a", "b", "b", "c"], ["x", "y", "x", "x"])
    test = split_of(["c", "d", "e"], ["x", "z", "x "], "test")
    assert check_splits({"train": train, "test": test}) == [
        "train.csv: 1 text has more than one label (e.g. rows 102, 103)",
        "test: labels 'x ', 'z' (2 rows) do not occur in train and count as errors",
        "test and train: labels that look alike are kept apart: 'x' (3 rows) and 'x ' (1 row)",
        "test: 1 text of 3 also in train (row 101 of test.csv); figures on them flatter the model",
    ]
    assert check_splits({"test": test}) == []


# ----------------------------------------------------------------------------- what fit-head says of labels

NAN = float("nan")
NO_MODEL = ("-m", "./nothing", "-o", "out")  # data are checked before a model is looked for, whose lack exits 66


def labelled(path: Path, labels: Sequence[Any]) -> Path:
    """Write a column of labels beside texts, no two of them equal."""
    table = {"text": [f"text {i}" for i in range(len(labels))], "label": list(labels)}
    if path.suffix == ".parquet":
        pq.write_table(pa.table(table), path)
    elif path.suffix == ".csv":
        lines = [f"{text},{label}" for text, label in zip(*table.values(), strict=True)]
        path.write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    else:
        rows = [{"text": text, "label": label} for text, label in zip(*table.values(), strict=True)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "labels", "said"),
    [
        (
            "d.jsonl",
            ["a", None, "b", NAN] * 5,
            "10 missing labels: rows 2, 4, 6, 8, 10 and 5 more (column 'label')",
        ),
        ("d.csv", ["a", "", "b", " "] * 5, "10 missing labels: rows 2, 4, 6, 8, 10 and 5 more"),
        ("d.parquet", [1.0, NAN, 2.0, None] * 5, "10 missing labels: rows 2, 4, 6, 8, 10 and 5 more"),
        ("d.parquet", ["a", "b", None] * 5, "5 missing labels: rows 3, 6, 9, 12, 15"),
        ("d.jsonl", [1, "1"] * 5, "mixes integers and strings: 1 in row 1, '1' in row 2; write all labels in one"),
        ("d.jsonl", ["1", 1.0] * 5, "mixes strings and integers: '1' in row 1, 1.0 in row 2"),
        ("d.jsonl", [0, True] * 5, "mixes integers and booleans: 0 in row 1, True in row 2"),
        ("d.jsonl", [1.0, 0.5] * 5, "row 2: label 0.5 (column 'label') is a number with a fraction"),
        ("d.parquet", [0.1, 0.9] * 5, "row 1: label 0.1 (column 'label') is a number with a fraction"),
    ],
)
def test_fit_head_refuses_labels(cli: Cli, tmp_path: Path, name: str, labels: list[Any], said: str) -> None:
    told = cli("fit-head", labelled(tmp_path / name, labels), *NO_MODEL, code=65)
    assert said in told.err
    assert name in told.err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("name", "labels", "note"),
    [
        ("d.csv", ["1.0", "1"] * 10, "labels that look alike are kept apart: '1.0' (10 rows) and '1' (10 rows)"),
        (
            "d.csv",
            ["pos", "neg", "pos ", "pos"] * 5,
            "look alike are kept apart: 'pos' (10 rows) and 'pos ' (5 rows)",
        ),
        ("d.jsonl", ["caf\u00e9", "cafe\u0301"] * 10, "labels that look alike are kept apart: "),
        ("d.jsonl", [1.0, 2] * 10, "labels are whole floats (1.0), read as integers"),
        ("d.parquet", [1.0, 2.0] * 10, "labels are whole floats (1.0), read as integers"),
        ("d.jsonl", [True, False] * 10, "labels are booleans, read as 'true' and 'false'"),
        ("d.csv", ["0.5", "1.0"] * 10, None),
        ("d.csv", ["NA", "null"] * 10, None),
        ("d.csv", ["nan", "None"] * 10, None),
        ("d.jsonl", [1, 0] * 10, None),
    ],
)
def test_fit_head_goes_on_with_labels_and_says_what_is_odd(
    cli: Cli, tmp_path: Path, name: str, labels: list[Any], note: str | None
) -> None:
    told = cli("fit-head", labelled(tmp_path / name, labels), *NO_MODEL, code=66)
    notes = [line for line in told.err.splitlines() if line.startswith("note: ") and "held out" not in line]
    assert len(notes) == (note is not None)
    assert note is None or note in notes[0]


def test_labels_of_two_splits_in_two_ways(cli: Cli, tmp_path: Path) -> None:
    train = labelled(tmp_path / "train.jsonl", [1, 2] * 5)
    whole = labelled(tmp_path / "test.parquet", [1.0, 2.0] * 5)
    told = cli("fit-head", train, "--test", whole, *NO_MODEL, code=66)
    assert "do not occur in train" not in told.err
    words = labelled(tmp_path / "test.csv", ["1", "2"] * 5)
    told = cli("fit-head", train, "--test", words, *NO_MODEL, code=65)
    assert f"labels are integers in {train} and strings in {words}; write them in one way" in told.err
    floats = labelled(tmp_path / "floats.csv", ["1.0", "2"] * 5)
    told = cli("fit-head", words, "--test", floats, *NO_MODEL, code=66)
    assert "labels '1.0' (5 rows) do not occur in train and count as errors" in told.err
    assert "look alike are kept apart: '1' (5 rows) and '1.0' (5 rows)" in told.err


@pytest.mark.parametrize("kind", ["text", "pair"])
def test_fit_head_says_what_stands_twice(cli: Cli, tmp_path: Path, kind: str) -> None:
    """Conflicts by count and two rows, leaks by count and rows, and nothing of the texts themselves."""

    def row(text: str, label: str) -> dict[str, str]:
        given = {"text": f"{text} {CANARY}", "label": label}
        return given | ({"text_pair": "the other"} if kind == "pair" else {})

    train = [row(f"t{i}", "xy"[i % 2]) for i in range(20)]
    train += [row("t3", "x"), row("t4", "x"), row("t5", "x"), row("t5", "y")]  # t3 and t5 with another label
    dev = [row("d0", "x"), row("d1", "y"), row("t0", "x")]
    test = [row("t1", "y"), row("d1", "y"), row("t2", "x"), row("new", "x"), row("t1", "x")]
    told = cli("fit-head", folder(tmp_path, train=train, dev=dev, test=test), *NO_MODEL, code=66)
    assert [line.removeprefix(f"note: {tmp_path}/") for line in told.err.splitlines()[:-1]] == [
        "train.jsonl: 2 texts have more than one label (e.g. rows 4, 21)",
        "test.jsonl: 1 text has more than one label (e.g. rows 1, 5)",
        f"note: validation: 1 text of 3 also in train (row 3 of {tmp_path}/dev.jsonl); figures on them flatter "
        "the model",
        f"note: test: 3 texts of 5 also in train (rows 1, 3, 5 of {tmp_path}/test.jsonl); figures on them flatter "
        "the model",
        f"note: test: 1 text of 5 also in validation (row 2 of {tmp_path}/test.jsonl); figures on them flatter "
        "the model",
    ]
    assert CANARY not in told.err


def test_one_file_with_repeated_texts_leaks_nothing(cli: Cli, tmp_path: Path) -> None:
    rows = [{"text": f"t{i % 20}", "label": "xy"[i % 2]} for i in range(100)]
    told = cli("fit-head", folder(tmp_path, d=rows) / "d.jsonl", *NO_MODEL, code=66)
    assert "20 of 100 rows (20%) held out as test, stratified by label, equal texts together" in told.err
    assert "also in" not in told.err
    assert "more than one label" not in told.err


# -------------------------------------------------------------------------------------------- hold-outs


def test_one_file_is_held_out_and_said_so(tmp_path: Path) -> None:
    texts = [f"text {i // 2}" for i in range(100)]  # every text twice
    rows = [{"text": text, "label": "ab"[i // 2 % 2], "id": i} for i, text in enumerate(texts)]
    folder(tmp_path, reviews=rows)
    dataset = open_dataset(tmp_path / "reviews.jsonl")
    assert dataset.single
    splits = dataset.splits(seed=7)
    assert list(splits) == ["train", "test"]
    assert {name: len(split) for name, split in splits.items()} == {"train": 80, "test": 20}
    assert len(leaks(splits["train"], splits["test"])) == 0
    assert class_counts(splits["test"].labels) == {"a": 10, "b": 10}
    for split in splits.values():
        assert split.columns["id"] == [row - 1 for row in split.rows]
        assert split.inputs == [texts[row - 1] for row in split.rows]
    assert dataset.notes == [
        f"{tmp_path / 'reviews.jsonl'}: 20 of 100 rows (20%) held out as test, stratified by label, equal texts "
        "together, seed 7"
    ]
    three = dataset.splits(seed=7, validation_share=0.1, columns=False)
    assert list(three) == ["train", "validation", "test"]
    assert [len(split) for split in three.values()] == [72, 8, 20]
    assert three["test"].inputs == splits["test"].inputs
    assert list(dataset.splits(test_share=0)) == ["train"]


def test_a_folder_gets_a_validation_split_but_never_a_test_split(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": i % 2} for i in range(50)]
    dataset = open_dataset(folder(tmp_path, train=rows))
    assert not dataset.single
    assert list(dataset.splits()) == ["train"]
    assert {n: len(s) for n, s in dataset.splits(validation_share=0.1).items()} == {"train": 45, "validation": 5}
    folder(tmp_path, dev=rows[:2])
    assert [len(split) for split in open_dataset(tmp_path).splits(validation_share=0.1).values()] == [50, 2]
    (tmp_path / "train.jsonl").unlink()
    assert list(open_dataset(tmp_path).splits(validation_share=0.1)) == ["validation"]


def test_tokens_are_held_out_without_strata(tmp_path: Path) -> None:
    rows = [{"tokens": [f"w{i}"], "tags": ["O"]} for i in range(50)]
    dataset = open_dataset(folder(tmp_path, a=rows) / "a.jsonl")
    assert [len(split) for split in dataset.splits().values()] == [40, 10]
    assert "stratified" not in dataset.notes[0]


def test_check_counts_without_keeping(tmp_path: Path) -> None:
    rows = [{"text": "t", "label": ["x", "y"]}, {"text": "u", "label": ["x"]}]
    tally = open_dataset(folder(tmp_path, train=rows)).check()["train"]
    assert (tally.rows, tally.labels) == (2, {"x": 2, "y": 1})


def test_take_and_fingerprint() -> None:
    split = split_of(["a", "b", "c"], ["x", "y", "x"])
    chosen = split.take([2, 0], "some")
    assert (chosen.name, chosen.inputs, chosen.labels, chosen.rows.tolist()) == (
        "some",
        ["c", "a"],
        ["x", "x"],
        [103, 101],
    )
    assert split.take([0, 1, 2]).fingerprint() == split.fingerprint()
    prints = {
        one.fingerprint()
        for one in (
            split,
            chosen,
            split_of(["a", "b", "c"], None),
            split_of(["ab", "", "c"], ["x", "y", "x"]),
            split_of(["a", "b", "c"], ["x", "x", "y"]),
            split_of([("a", "b")], ["x"]),
            split_of([["a", "b"]], ["x"]),
        )
    }
    assert len(prints) == 7


# ------------------------------------------------------------------------------------------------ facts


class Words:
    """A tokenizer that counts words and two special tokens."""

    max_length = 4

    def count(self, inputs: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.array([len(text.split()) + 2 for text in inputs], dtype=np.int64)


def test_facts_by_hand(tmp_path: Path) -> None:
    train = [("a b", "x"), ("a b", "y"), ("one two three four", "x"), ("", "x")]
    test = [("a b", "x"), ("new", "z")]
    folder(
        tmp_path,
        train=[{"text": text, "label": label, "id": 1} for text, label in train],
        test=[{"text": text, "label": label, "id": 1} for text, label in test],
    )
    facts = describe(open_dataset(tmp_path), tokenizer=Words(), examples=2)
    assert json.loads(json.dumps(facts)) == facts
    assert (facts["kind"], facts["inputs"], facts["label"]) == ("text", ["text"], "label")
    assert facts["columns"] == ["text", "label", "id"]
    first = facts["splits"]["train"]
    assert (first["rows"], first["labels"], first["duplicates"]) == (4, {"x": 3, "y": 1}, 1)
    assert first["conflicts"] == {"texts": 1, "example_rows": [1, 2]}
    assert first["characters"] == {"min": 0, "mean": 6.0, "median": 3, "p90": 18, "p99": 18, "max": 18}
    assert first["words"] == {"min": 0, "mean": 2.0, "median": 2, "p90": 4, "p99": 4, "max": 4}
    assert first["tokens"]["max"] == 6
    assert (first["tokens"]["truncated"], first["tokens"]["truncated_share"]) == (1, 0.25)
    assert facts["leaks"] == {"test": 1}
    assert facts["unseen_labels"] == {"test": {"z": 1}}
    assert len(facts["examples"]) == 2
    assert "tokens" not in describe(open_dataset(tmp_path))["splits"]["train"]


def test_examples_are_seeded_and_inert(tmp_path: Path) -> None:
    rows = [{"text": f"\x1b[31m{i} \u202e" + "x" * 300, "label": "a\x07"} for i in range(100)]
    dataset = open_dataset(folder(tmp_path, a=rows) / "a.jsonl")
    first, again, other = (describe(dataset, seed=seed)["examples"] for seed in (1, 1, 2))
    assert first == again != other
    for example in first:
        assert example["text"].startswith(f"\\x1b[31m{example['row'] - 1} \\u202exx")
        assert example["text"].endswith("x…")
        assert example["label"] == "a\\x07"


def test_facts_of_pairs_tokens_and_unlabelled_texts(tmp_path: Path) -> None:
    pairs = open_dataset(folder(tmp_path, p=[{"text": "a b", "text_pair": "c"}]) / "p.jsonl")
    facts = describe(pairs)
    assert facts["splits"]["p"]["labels"] is None
    assert facts["splits"]["p"]["words"]["max"] == 3
    assert facts["examples"] == [{"split": "p", "row": 1, "text": "a b", "pair": "c", "label": None}]
    tokens = open_dataset(folder(tmp_path, t=[{"tokens": ["EU", "x y"], "tags": ["B-ORG", "O"]}]) / "t.jsonl")
    facts = describe(tokens)
    assert facts["splits"]["t"]["labels"] == {"B-ORG": 1, "O": 1}
    assert (facts["splits"]["t"]["words"]["max"], facts["splits"]["t"]["characters"]["max"]) == (2, 5)
    assert facts["examples"][0]["label"] == "B-ORG O"
    sets = open_dataset(folder(tmp_path, m=[{"text": "a", "label": ["x", "y"]}]) / "m.jsonl")
    assert describe(sets)["examples"][0]["label"] == ["x", "y"]


# ------------------------------------------------------------------------------------------- tagged words

# Dean is in the tiny tokenizer's vocabulary character by character alone, a variation selector not at all.
DEAN = {"tokens": ["the", "Dean", "\ufe0f", "was", "Bo"], "ner_tags": ["O", "B-PER", "E-PER", "O", "S-LOC"]}
PLAIN = {"tokens": ["the", "film"], "ner_tags": ["O", "O"]}


def test_facts_of_tagged_words(tmp_path: Path) -> None:
    data = folder(tmp_path, train=[DEAN, PLAIN, {"tokens": [], "ner_tags": []}], test=[DEAN])
    facts = describe(open_dataset(data, task="ner"), task="ner")
    assert json.loads(json.dumps(facts)) == facts
    assert facts["scheme"] == "BIOES"
    assert facts["splits"]["train"]["entities"] == facts["splits"]["test"]["entities"] == {"LOC": 1, "PER": 1}
    assert facts["splits"]["train"]["labels"] == {"B-PER": 1, "E-PER": 1, "O": 4, "S-LOC": 1}, (
        "as the data have them"
    )
    assert facts["splits"]["train"]["words"]["max"] == 5
    assert any("BIOES" in note for note in facts["notes"])
    assert "labelling" not in facts


@pytest.mark.parametrize(
    ("tags", "task", "scheme", "entities"),
    [
        (["NN", "VB"], "auto", "none", None),
        (["NN", "VB"], "pos", "none", None),
        (["PER", "PER"], "ner", "plain", {"PER": 1}),
        (["PER", "O"], "auto", "plain", {"PER": 1}),
        (["I-PER", "B-PER"], "auto", "IOB1", {"PER": 2}),
        (["O", "O"], "auto", "IOB2", {}),
        (None, "auto", None, None),
    ],
)
def test_the_scheme_of_some_tags(
    tmp_path: Path, tags: list[str] | None, task: Any, scheme: str | None, entities: dict[str, int] | None
) -> None:
    row: dict[str, Any] = {"tokens": ["a", "b"]} | ({} if tags is None else {"tags": tags})
    facts = describe(open_dataset(folder(tmp_path, d=[row]) / "d.jsonl"), task=task)
    assert (facts["scheme"], facts["splits"]["d"]["entities"]) == (scheme, entities)


def test_inspect_shows_what_each_sub_token_learns(cli: Cli, model: Path, tmp_path: Path) -> None:
    data = folder(tmp_path, train=[PLAIN, PLAIN, DEAN], test=[DEAN])
    told = cli("inspect", data, "--task", "ner", "-m", model, "--json").json
    shown = told["labelling"]
    assert (shown["split"], shown["row"]) == ("train", 3), "the sentence with an entity of several sub-tokens"
    learnt = {
        word["word"]: list(zip(word["subtokens"], word["first"], word["all"], word["continue"], strict=True))
        for word in shown["words"]
    }
    assert learnt == {
        "the": [("the", "O", "O", "O")],
        "Dean": [
            ("d", "B-PER", "B-PER", "B-PER"),
            ("##e", None, "B-PER", "I-PER"),
            ("##a", None, "B-PER", "I-PER"),
            ("##n", None, "B-PER", "I-PER"),
        ],
        "\ufe0f": [],
        "was": [("was", "O", "O", "O")],
        "Bo": [("b", "B-LOC", "B-LOC", "B-LOC"), ("##o", None, "B-LOC", None)],  # no label I-LOC to go on with
    }
    counts = told["splits"]["train"]["tokens"]
    assert (counts["max"], counts["max_length"], counts["windowed"], counts["unknown_words"]) == (10, 64, 0, 1)
    assert "truncated" not in counts
    assert cli("inspect", data, "--task", "ner", "-m", model, "-n", "0", "--json").json["labelling"] is None


def test_inspect_of_tagged_words_as_people_read_it(cli: Cli, model: Path, tmp_path: Path) -> None:
    data = folder(tmp_path, train=[DEAN, PLAIN], test=[DEAN])
    lines = cli("inspect", data, "--task", "ner", "-m", model, "--max-length", "8").out.splitlines()
    assert lines[0].endswith("lists of words from tokens, labels from ner_tags; columns: tokens, ner_tags")
    assert lines[1] == "tags stand for entities, in the scheme BIOES"
    table = lines.index("entities  train  test")
    assert lines[table + 1 : table + 4] == [
        "LOC           1     1",
        "PER           1     1",
        "all           2     2",
    ]
    assert any(line.startswith("sub-tokens  train") for line in lines)
    sentences = f"have more than the 8 tokens that {model} takes, and are read in overlapping windows"
    assert f"train: 1 of 2 sentences (50.0%) {sentences}" in lines
    assert f"test: words that {model} has no token for: 1" in lines
    example = next(
        i for i, line in enumerate(lines) if line.split()[-4:] == ["sub-token", "first", "all", "continue"]
    )
    rows = [line.split() for line in lines[example + 1 : example + 5]]
    assert rows[:3] == [
        ["the", "the", "O", "O", "O"],
        ["Dean", "d", *["B-PER"] * 3],
        ["##e", "-", "B-PER", "I-PER"],
    ]
    assert any(line.split() == ["'\\ufe0f'", "(none)", "-", "-", "-"] for line in lines)
    assert lines[-1].startswith("note: tags are in the scheme BIOES")
    assert "each tag is of one word" in cli("inspect", data, "--task", "pos", "--tags-column", "ner_tags").out


def test_inspect_of_words_without_tags(cli: Cli, model: Path, tmp_path: Path) -> None:
    data = folder(tmp_path, d=[{"tokens": ["the", "film"]}]) / "d.jsonl"
    told = cli("inspect", data, "-m", model, "--json").json
    assert (told["scheme"], told["labelling"]) == (None, None)
    assert told["splits"]["d"]["tokens"]["max"] == 4
    assert "sub-token " not in cli("inspect", data, "-m", model).out


def test_inspect_names_the_row_of_a_tag_that_is_none(cli: Cli, tmp_path: Path) -> None:
    rows = [DEAN, {"tokens": ["a", "b"], "ner_tags": ["O", "PER"]}]
    told = cli("inspect", folder(tmp_path, train=rows), "--task", "ner", code=65)
    assert "train.jsonl: row 2, word 2, tag 'PER'" in told.err
    assert "BIOES: O, or a type behind B-, I-, E- or S-" in told.err


# ------------------------------------------------------------------------------------------------- text


@given(st.text(st.characters(), max_size=60), st.integers(1, 80))
def test_printable_is_one_inert_line(text: str, limit: int) -> None:
    import unicodedata

    shown = printable(text, limit)
    categories = {unicodedata.category(c) for c in shown if c not in "\u200c\u200d"}
    assert not categories & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    if text.isprintable() and len(text) <= limit:
        assert shown == text
    shown.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\r\n\tb", "a\\r\\n\\tb"),
        ("\x9b31m", "\\x9b31m"),
        ("\ud800", "\\ud800"),
        ("\u2028\ufeff", "\\u2028\\ufeff"),
        ("\U000e0041", "\\U000e0041"),
        ("👩‍👩‍👧 é", "👩‍👩‍👧 é"),
    ],
)
def test_printable_by_hand(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_words_of_messages() -> None:
    assert rows_said([3]) == "row 3"
    assert rows_said(list(range(1, 9))) == "rows 1, 2, 3, 4, 5 and 3 more"
    assert (counted(1, "text"), counted(1200, "text"), counted(2, "class", "classes")) == (
        "1 text",
        "1,200 texts",
        "2 classes",
    )
    assert names_of(["a\x1b", 3]) == "'a\\x1b', 3"
    assert names_of(range(20), 2) == "0, 1 and 18 more"
