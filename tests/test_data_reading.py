"""Files as users have them: each format gives the same rows, and each fault names its place."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedkit.data import Columns, Dataset, Split, open_dataset
from embedkit.errors import DataError, EmbedkitError, InputMissingError, UsageError

ROWS = [
    ("good, really", "pos"),
    ('she said "no"', "neg"),
    ("two\nlines", "pos"),
    ("", "neg"),
    ("naïve 🤷🏽‍♀️", "NA"),
]


def write_csv(path: Path, rows: list[tuple[str, str]], end: str = "\n", delimiter: str = ",") -> Path:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerow(["text", "label"])
    writer.writerows(rows)
    path.write_bytes(text.getvalue().replace("\n", end).encode())
    return path


def write_jsonl(path: Path, rows: list[dict[str, Any]], ascii_only: bool = True) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows), encoding="utf-8")
    return path


def write(path: Path, rows: list[tuple[str, str]]) -> Path:
    """Write texts with labels in the format that the extension asks for."""
    table = pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]})
    match path.suffix:
        case ".csv":
            return write_csv(path, rows)
        case ".tsv":
            return write_csv(path, rows, delimiter="\t")
        case ".jsonl" | ".ndjson" | ".json-lines" | ".json":
            return write_jsonl(path, [{"text": text, "label": label} for text, label in rows])
        case ".parquet":
            pq.write_table(table, path)
        case ".feather":
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table)
        case ".arrow":
            with pa.ipc.new_stream(path, table.schema) as writer:
                writer.write_table(table)
    return path


def only(data: Path | str, **options: object) -> Split:
    dataset = open_dataset(data, **options)  # type: ignore[arg-type]
    (name,) = dataset.sources
    return dataset.split(name)


def failure(error: type[EmbedkitError], data: Path | str, **options: object) -> str:
    """Open and read everything; return the error's message."""
    with pytest.raises(error) as caught:
        open_dataset(data, **options).check()  # type: ignore[arg-type]
    return str(caught.value)


def raw(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# -------------------------------------------------------------------------------------- formats are equal

FORMATS = [".csv", ".tsv", ".jsonl", ".ndjson", ".json-lines", ".json", ".parquet", ".feather", ".arrow"]


@pytest.mark.parametrize("extension", FORMATS)
def test_every_format_gives_the_same_rows(tmp_path: Path, extension: str) -> None:
    split = only(write(tmp_path / f"reviews{extension}", ROWS))
    assert split.inputs == [text for text, _ in ROWS]
    assert split.labels == [label for _, label in ROWS]
    assert split.rows.tolist() == [1, 2, 3, 4, 5]
    assert split.rows.dtype == np.int64
    assert split.columns == {"text": split.inputs, "label": split.labels}
    assert (split.name, split.kind) == ("reviews", "text")


texts = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=30)
labels = st.text("ab\0é ", min_size=1, max_size=3).filter(lambda label: bool(label.strip()))


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(texts, labels), min_size=1, max_size=12), chunk=st.integers(1, 13))
@pytest.mark.parametrize("extension", [".csv", ".tsv", ".jsonl", ".parquet", ".arrow"])
def test_any_text_survives_any_chunk_size(
    tmp_path_factory: pytest.TempPathFactory, extension: str, rows: list[tuple[str, str]], chunk: int
) -> None:
    path = write(tmp_path_factory.mktemp("law") / f"rows{extension}", rows)
    (source,) = open_dataset(path).sources.values()
    chunks = list(source.chunks(chunk))
    assert [pair for c in chunks for pair in zip(c.inputs, c.labels or [], strict=True)] == rows
    assert [row for c in chunks for row in c.rows.tolist()] == list(range(1, len(rows) + 1))
    assert all(len(c) <= chunk for c in chunks)
    assert [c.first_row for c in chunks] == [c.rows[0] for c in chunks]
    bare = list(source.chunks(chunk, columns=False))
    assert [c.inputs for c in bare] == [c.inputs for c in chunks]
    assert all(c.columns == {} for c in bare)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_make_no_difference(tmp_path: Path, end: str) -> None:
    assert only(write_csv(tmp_path / "a.csv", ROWS, end)).inputs == [text for text, _ in ROWS]
    content = end.join(["EU\tB-ORG", "rejects\tO", "", "Peter\tB-PER", ""])
    split = only(raw(tmp_path / "a.conll", content))
    assert (split.inputs, split.labels) == ([["EU", "rejects"], ["Peter"]], [["B-ORG", "O"], ["B-PER"]])


@pytest.mark.parametrize("word", ["NA", "null", "None", "nan", "NaN", "N/A", "true", "1e5", "001"])
def test_csv_words_stay_strings(tmp_path: Path, word: str) -> None:
    split = only(write_csv(tmp_path / "a.csv", [(word, word), ("x", "y")]))
    assert (split.inputs[0], (split.labels or [])[0]) == (word, word)


@pytest.mark.parametrize(
    "text", ["", " ", "a\0b", "\ufe0f", "\u200d", "\u0301", "\ufeff", "\xad", "\u200f", "\ufffd"]
)
@pytest.mark.parametrize("extension", [".csv", ".jsonl", ".parquet"])
def test_odd_texts_are_accepted_as_they_are(tmp_path: Path, text: str, extension: str) -> None:
    assert only(write(tmp_path / f"a{extension}", [(text, "a"), ("x", "b")])).inputs == [text, "x"]


@pytest.mark.parametrize("extension", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_text_of_a_megabyte(tmp_path: Path, extension: str) -> None:
    long = "ab " * 333_333
    assert only(write(tmp_path / f"a{extension}", [(long, "a"), ("x", "b")])).inputs == [long, "x"]


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", "\ufeff"),
        ("utf-8-sig", ""),
        ("utf-16", ""),
        ("utf-16-le", "\ufeff"),
        ("utf-16-le", ""),
        ("cp1252", ""),
    ],
)
def test_encodings_and_byte_order_marks(tmp_path: Path, encoding: str, mark: str) -> None:
    raw(tmp_path / "a.csv", (mark + "text,label\nnaïve,a\n").encode(encoding))
    raw(tmp_path / "a.jsonl", (mark + '{"text": "naïve", "label": "a"}\n').encode(encoding))
    raw(tmp_path / "a.conll", (mark + "naïve\ta\n").encode(encoding))
    for name in ("a.csv", "a.jsonl"):
        split = only(tmp_path / name, encoding=encoding)
        assert split.columns == {"text": ["naïve"], "label": ["a"]}
    assert only(tmp_path / "a.conll", encoding=encoding).inputs == [["naïve"]]


def test_streaming_yields_rows_before_it_reads_later_ones(tmp_path: Path) -> None:
    good = "".join(f"text {i},a\n" for i in range(5000))
    path = raw(tmp_path / "a.csv", "text,label\n" + good + "ragged\n")
    (source,) = open_dataset(path).sources.values()
    assert [len(c) for c in islice(source.chunks(100), 50)] == [100] * 50
    objects = "".join(json.dumps({"text": f"t{i}", "label": "a"}) + "\n" for i in range(5000))
    (source,) = open_dataset(raw(tmp_path / "a.jsonl", objects + "{\n")).sources.values()
    assert [len(c) for c in islice(source.chunks(100), 50)] == [100] * 50
    words = "".join(f"w{i} O\n\n" for i in range(5000))
    (source,) = open_dataset(raw(tmp_path / "a.conll", words + "w\n")).sources.values()
    assert [len(c) for c in islice(source.chunks(100), 50)] == [100] * 50


def test_a_chunk_ends_early_where_texts_are_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedkit.data.tables.BATCH_CHARACTERS", 1000)
    rows = [("x" * 400, "a")] * 10
    for name in ("a.csv", "a.jsonl"):
        (source,) = open_dataset(write(tmp_path / name, rows)).sources.values()
        assert [len(c) for c in source.chunks()] == [3, 3, 3, 1]


def test_importing_the_room_loads_numpy_alone() -> None:
    heavy = ("pyarrow", "datasets", "pandas", "sklearn")
    code = f"import sys, embedkit.data; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -------------------------------------------------------------------------------------------- csv faults


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("text,label\na,b\nc\n", ["row 2 (line 3) has 1 field", "the header has 2 ('text', 'label')"]),
        ("text,label\n\na,b\n\n\nc,d,e\n", ["row 2 (line 6) has 3 fields"]),
        ('text,label\n"a\nb",x\nc\n', ["row 2 (line 4) has 1 field"]),
        ('text,label\na,b\n"c,d\ne,f\n', ["row 2 (line 3)", "never closed"]),
        ('text,label\na,b\n"c" d,e\n', ["row 2 (line 3)", "follows a closing quote"]),
        ("text,text\na,b\n", ["line 1 (the header)", "'text' more than once"]),
        (",text,label\n0,a,b\n", ["line 1 (the header)", "column 1 of 3 has no name", "index=False"]),
        ("text,label,\na,b,\n", ["column 3 of 3 has no name"]),
        ("\ntext,label\na,b\n", ["line 1 (the header) is empty"]),
        ("text,label\n", ["no data rows, only a header"]),
        ("text,label", ["no data rows, only a header"]),
        ('"text,label\n', ["the header (line 1)", "never closed"]),
    ],
)
def test_csv_faults_name_the_line(tmp_path: Path, content: str, said: list[str]) -> None:
    message = failure(DataError, raw(tmp_path / "reviews.csv", content))
    for part in ["reviews.csv", *said]:
        assert part in message


def test_a_field_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_csv(tmp_path / "a.csv", [("short", "a"), ("x" * (17 << 20), "b")])
    message = failure(DataError, path)
    assert "row 2 (line 3)" in message
    assert "longer than 16 million characters" in message


def test_a_tsv_with_bare_quotes_is_pointed_out(tmp_path: Path) -> None:
    path = raw(tmp_path / "a.tsv", 'text\tlabel\n"he said\t0\nbye"\t1\nfine\t0\n')
    dataset = open_dataset(path)
    dataset.check()
    assert [note for note in dataset.notes if "row 1 is a quoted field over several lines" in note]


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    assert only(raw(tmp_path / "a.csv", "text,label\n\na,b\n\nc,d\n\n")).rows.tolist() == [1, 2]
    assert only(raw(tmp_path / "a.jsonl", '\n{"text": "a"}\n \n{"text": "b"}\n\n')).rows.tolist() == [1, 2]


# ------------------------------------------------------------------------------------------ JSON lines


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "row 2 (line 3) is not JSON"),
        ('{"text": "a"} {}', "row 2 (line 3) is not JSON: Extra data"),
        ('["a", "b"]', "row 2 (line 3) is a JSON array"),
        ('"a"', "row 2 (line 3) is a JSON string"),
        ("3", "row 2 (line 3) is a JSON number"),
        ("true", "row 2 (line 3) is a JSON boolean"),
        ("null", "row 2 (line 3) is a JSON null"),
        ('{"text": "a", "text": "b"}', "row 2 (line 3): the key 'text' stands there twice"),
        ('{"text": ' + "[" * 100_000 + "]" * 100_000 + "}", "row 2 (line 3) is nested too deeply"),
        ('{"text": ' + "9" * 5000 + "}", "row 2 (line 3): "),
    ],
)
def test_json_faults_name_the_row(tmp_path: Path, line: str, said: str) -> None:
    message = failure(DataError, raw(tmp_path / "a.jsonl", f'{{"text": "fine"}}\n\n{line}\n'))
    assert "a.jsonl" in message
    assert said in message


def test_a_json_array_is_no_json_lines(tmp_path: Path) -> None:
    for content in ('[{"text": "a"}]', '[\n {"text": "a"}\n]\n'):
        assert "one object a line" in failure(DataError, raw(tmp_path / "a.json", content))


def test_keys_that_some_rows_lack(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": "a", "label": "x"}, {"text": "b", "label": "y", "note": 3}]
    rows.append({"label": "x", "text": "c"})
    assert only(write_jsonl(tmp_path / "a.jsonl", rows)).columns["note"] == [None, 3, None]
    late: list[dict[str, Any]] = [{"text": "t", "label": "x"}] * 9000 + [{"text": "u", "label": "y", "note": 1}]
    assert only(write_jsonl(tmp_path / "b.jsonl", late)).columns["note"] == [None] * 9000 + [1]
    lacking: list[dict[str, Any]] = [{"text": "a", "label": "x"}, {"label": "y"}]
    assert "1 missing text: row 2" in failure(DataError, write_jsonl(tmp_path / "c.jsonl", lacking))


def test_lone_surrogates(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": "t", "label": "a"}] * 4
    path = write_jsonl(
        tmp_path / "a.jsonl", [*rows, {"text": "\ud800", "label": "b"}, {"text": "x\ude00y", "label": "b"}]
    )
    assert "row 5: lone surrogate U+D800 at char 0 of column 'text'" in failure(DataError, path)
    assert only(path, bad_unicode="replace").inputs[4:] == ["\ufffd", "x\ufffdy"]
    inner = write_jsonl(tmp_path / "b.jsonl", [{"tokens": ["a", "b\udfff"], "tags": ["O", "O"]}])
    assert "row 1: lone surrogate U+DFFF at char 1 of column 'tokens'" in failure(DataError, inner)
    assert only(inner, bad_unicode="replace").inputs == [["a", "b\ufffd"]]


def test_paired_surrogate_escapes_are_one_character(tmp_path: Path) -> None:
    path = raw(tmp_path / "a.jsonl", '{"text": "\\ud83d\\ude00", "label": "a"}\n')
    assert only(path).inputs == ["😀"]


# --------------------------------------------------------------------------------------------- encoding


@settings(max_examples=60, deadline=None)
@given(before=st.text(st.characters(codec="utf-8"), max_size=40), rest=st.binary(max_size=5))
def test_the_first_bad_byte_is_found(tmp_path_factory: pytest.TempPathFactory, before: str, rest: bytes) -> None:
    from embedkit.data.tables import bad_byte

    path = raw(tmp_path_factory.mktemp("bytes") / "x", before.encode() + b"\xff" + rest)
    assert bad_byte(path, "utf-8") == (len(before.encode()), before.count("\n") + 1, b"\xff")


@pytest.mark.parametrize("padding", [0, 65_533, 65_534, 65_535, 65_536])
def test_a_bad_byte_across_blocks(tmp_path: Path, padding: int) -> None:
    from embedkit.data.tables import bad_byte

    path = raw(tmp_path / "x", b"a" * padding + b"\xe2\x82x")  # a character that breaks off
    assert bad_byte(path, "utf-8") == (padding, 1, b"\xe2")
    path = raw(tmp_path / "y", b"a" * padding + b"\xe2\x82")
    assert bad_byte(path, "utf-8") == (padding, 1, b"\xe2")


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("a.csv", 'text,label\nplain,a\n\n"two\nlines",b\ncaf\xe9,c\n', "row 3 (line 6), byte 37 (0xe9)"),
        ("a.csv", "t\xe9xt,label\nplain,a\n", "the header (line 1), byte 1 (0xe9)"),
        ("a.jsonl", '{"text": "plain"}\n\n{"text": "caf\xe9"}\n', "row 2 (line 3), byte 32 (0xe9)"),
        ("a.conll", "a O\n\ncaf\xe9 O\n", "line 3, byte 8 (0xe9)"),
    ],
)
def test_latin_1_is_refused_with_its_place(tmp_path: Path, name: str, content: str, where: str) -> None:
    path = raw(tmp_path / name, content.encode("latin-1"))
    message = failure(DataError, path)
    assert f"{name}: {where} is not valid utf-8" in message
    assert "--encoding cp1252" in message
    assert "plain" not in message
    only(path, encoding="cp1252", columns=Columns(label="label", text=1) if "t\xe9xt" in content else None)


def test_latin_1_far_into_a_file(tmp_path: Path) -> None:
    lines = [b"text,label", *(b"plain %d,a" % i for i in range(20_000)), b"caf\xe9,b"]
    path = raw(tmp_path / "a.csv", b"\n".join(lines))
    assert "row 20001 (line 20002)" in failure(DataError, path)
    words = raw(tmp_path / "a.conll", b"word O\n\n" * 20_000 + b"caf\xe9 O\n")
    assert "row 20001 (line 40001)" in failure(DataError, words)


def test_utf_16_is_recognised(tmp_path: Path) -> None:
    content = "text,label\na,b\n"
    assert "--encoding utf-16" in failure(DataError, raw(tmp_path / "a.csv", content.encode("utf-16")))
    assert "--encoding utf-16-le" in failure(DataError, raw(tmp_path / "b.csv", content.encode("utf-16-le")))
    markless = raw(tmp_path / "c.csv", content.encode("utf-16-le"))
    assert "utf-16-le" in failure(DataError, markless, encoding="utf-16")


@pytest.mark.parametrize("encoding", ["klingon", "rot13", "base64"])
def test_unknown_encodings(tmp_path: Path, encoding: str) -> None:
    path = write_csv(tmp_path / "a.csv", ROWS)
    assert encoding in failure(UsageError, path, encoding=encoding)


# ------------------------------------------------------------------------------------- parquet and arrow


def test_damaged_binary_files(tmp_path: Path) -> None:
    for extension in (".parquet", ".arrow", ".feather"):
        whole = write(tmp_path / f"a{extension}", ROWS).read_bytes()
        for content in (whole[: len(whole) // 2], b"text,label\n", whole[1:]):
            path = raw(tmp_path / f"b{extension}", content)
            assert f"b{extension} cannot be read" in failure(DataError, path)


def test_an_arrow_stream_that_breaks_off_between_batches_is_pointed_out(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.arrow", ROWS).read_bytes()
    assert only(tmp_path / "a.arrow").inputs == [text for text, _ in ROWS]
    dataset = open_dataset(raw(tmp_path / "b.arrow", whole[:-8]))
    dataset.check()
    assert dataset.notes == [
        f"{tmp_path / 'b.arrow'} lacks the mark that ends an Arrow stream: rows at its end may be missing"
    ]


def test_bytes_and_invalid_utf_8_in_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [b"a", b"b"], "label": ["x", "y"]}), tmp_path / "a.parquet")
    message = failure(DataError, tmp_path / "a.parquet")
    assert "2 values of type bytes: rows 1, 2" in message
    broken = pa.StringArray.from_buffers(2, pa.py_buffer(np.array([0, 1, 2], "<i4")), pa.py_buffer(b"a\xff"))
    with pa.ipc.new_file(tmp_path / "b.arrow", pa.schema({"text": pa.string()})) as writer:
        writer.write_batch(pa.record_batch({"text": broken}))
    assert "row 2, column 'text' is not valid UTF-8" in failure(DataError, tmp_path / "b.arrow")


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()])
def test_all_string_types_of_arrow(tmp_path: Path, kind: pa.DataType) -> None:
    table = pa.table({"text": pa.array(["a", "b", "a"]).cast(kind), "label": ["x", "y", "x"]})
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    assert only(tmp_path / "a.arrow").inputs == ["a", "b", "a"]


def test_one_large_batch_comes_in_chunks(tmp_path: Path) -> None:
    rows = [(f"text {i}", "ab"[i % 2]) for i in range(1000)]
    for extension in (".parquet", ".arrow", ".feather"):
        (source,) = open_dataset(write(tmp_path / f"a{extension}", rows)).sources.values()
        assert [len(chunk) for chunk in source.chunks(300)] == [300, 300, 300, 100]


# ------------------------------------------------------------------------------------------------- CoNLL

CONLL = "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n\nPeter NNP B-NP B-PER\n"


@pytest.mark.parametrize(
    ("options", "tags"),
    [
        ({"task": "ner"}, [["B-ORG", "O"], ["B-PER"]]),
        ({"task": "pos"}, [["NNP", "VBZ"], ["NNP"]]),
        ({"task": "chunk"}, [["B-NP", "B-VP"], ["B-NP"]]),
        ({"columns": Columns(tags="3")}, [["B-NP", "B-VP"], ["B-NP"]]),
        ({"columns": Columns(tags=2)}, [["NNP", "VBZ"], ["NNP"]]),
        ({"columns": Columns(tags="-1"), "task": "tokens"}, [["B-ORG", "O"], ["B-PER"]]),
        ({"labels": "none"}, None),
    ],
)
@pytest.mark.parametrize("name", ["train.txt", "a.conll", "a.bio", "a.iob"])
def test_conll_columns(tmp_path: Path, options: dict[str, Any], tags: list[list[str]] | None, name: str) -> None:
    split = only(raw(tmp_path / name, CONLL), **options)
    assert split.kind == "tokens"
    assert split.inputs == [["EU", "rejects"], ["Peter"]]
    assert split.labels == tags
    assert split.columns["column_2"] == [["NNP", "VBZ"], ["NNP"]]


def test_conll_with_many_columns_asks(tmp_path: Path) -> None:
    for task in ("auto", "tokens"):
        message = failure(UsageError, raw(tmp_path / "train.txt", CONLL), task=task)
        assert "has 4 columns" in message
        for line in ("1: EU rejects", "2: NNP VBZ", "3: B-NP B-VP", "4: B-ORG O"):
            assert line in message
    five = raw(tmp_path / "five.conll", "a b c d e\n")
    assert "has 5 columns" in failure(UsageError, five, task="chunk")
    assert only(raw(tmp_path / "three.conll", "a DT B-NP\n"), task="chunk").labels == [["B-NP"]]
    assert only(raw(tmp_path / "two.conll", "a B-NP\n")).labels == [["B-NP"]]
    assert only(raw(tmp_path / "one.conll", "a\nb\n\nc\n")).labels is None


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"columns": Columns(tags="7")}, UsageError),
        ({"columns": Columns(tags=0)}, UsageError),
        ({"columns": Columns(tags="ner_tags")}, DataError),
        ({"columns": Columns(tags=1)}, UsageError),
        ({"columns": Columns(text="1")}, UsageError),
        ({"task": "sequence"}, UsageError),
    ],
)
def test_conll_columns_that_are_not_there(
    tmp_path: Path, options: dict[str, Any], error: type[EmbedkitError]
) -> None:
    assert "train.txt" in failure(error, raw(tmp_path / "train.txt", CONLL), **options)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a O\nb O\n\nc\n", "row 2 (line 4) has 1 column, the first line has 2"),
        ("a O\nb O x\n", "row 1 (line 2) has 3 columns"),
        ("a\tO\nb\t\n", "row 1 (line 2): column 2 is empty"),
        ("a O\n# mid sentence comment\n", "row 1 (line 2) has 4 columns"),
    ],
)
def test_conll_faults_name_the_line(tmp_path: Path, content: str, said: str) -> None:
    assert f"a.conll: {said}" in failure(DataError, raw(tmp_path / "a.conll", content))


def test_conll_comments_and_pound_signs(tmp_path: Path) -> None:
    content = "# one comment\n# # B-NP O\n3 CD I-NP O\n\n# sent_id = 5\n# text\nfine JJ B-ADJP O\n"
    split = only(raw(tmp_path / "a.conll", content), task="ner")
    assert split.inputs == [["#", "3"], ["fine"]]
    tabbed = "# sent_id = 1\n# text = New York\n1\tNew York\tB-LOC\n\n# sent_id = 2\n1\tx\tO\n"
    split = only(raw(tmp_path / "b.conll", tabbed), task="ner", columns=Columns(tokens=2))
    assert (split.inputs, split.labels) == ([["New York"], ["x"]], [["B-LOC"], ["O"]])


@pytest.mark.parametrize("space", ["\u00a0", "\u2028", "\x85", "\x0b", "\x1c", "\u3000"])
def test_only_spaces_tabs_and_line_ends_separate(tmp_path: Path, space: str) -> None:
    assert only(raw(tmp_path / "a.conll", f"a{space}b O\n{space} O\n")).inputs == [[f"a{space}b", space]]
    assert only(raw(tmp_path / "a.csv", f"text,label\na{space}b,x\n")).inputs == [f"a{space}b"]
    line = json.dumps({"text": f"a{space}b"}, ensure_ascii=False)
    if ord(space) >= 32:
        assert only(raw(tmp_path / "a.jsonl", line + "\n")).inputs == [f"a{space}b"]


@pytest.mark.parametrize(
    "content",
    [
        "It was the best of times,\nit was the worst of times,\nit was the age of wisdom\n",
        "I love this film\tpos\nIt is awful\tneg\nNot so bad\tpos\n",
        "oneword\nanother\n",
        "Peter Piper\nSue sells sea shells\nSee her go\nHello\n",
    ],
)
def test_plain_text_is_not_taken_for_conll(tmp_path: Path, content: str) -> None:
    message = failure(DataError, raw(tmp_path / "train.txt", content))
    assert "not in CoNLL columns" in message
    assert ".jsonl" in message


# ------------------------------------------------------------------------------------- files and folders


def test_a_folder_of_splits(tmp_path: Path) -> None:
    write(tmp_path / "test.jsonl", ROWS[:2])
    write(tmp_path / "dev.parquet", ROWS[2:3])
    write(tmp_path / "train.csv", ROWS)
    raw(tmp_path / "README.md", "x")
    raw(tmp_path / "notes.txt", "x")
    dataset = open_dataset(tmp_path)
    assert list(dataset.sources) == ["train", "validation", "test"]
    assert dataset.sources["validation"].name == str(tmp_path / "dev.parquet")
    assert not dataset.single
    assert {name: len(split) for name, split in dataset.splits().items()} == {
        "train": 5,
        "validation": 1,
        "test": 2,
    }
    assert {name: tally.rows for name, tally in dataset.check().items()} == {
        "train": 5,
        "validation": 1,
        "test": 2,
    }


@pytest.mark.parametrize("stem", ["validation", "valid", "val", "dev", "Dev"])
def test_names_of_the_validation_split(tmp_path: Path, stem: str) -> None:
    write(tmp_path / f"{stem}.csv", ROWS)
    assert list(open_dataset(tmp_path).sources) == ["validation"]


def test_files_named_for_splits_win(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "train.csv", ROWS)
    write(folder / "test.csv", ROWS)
    other = write(tmp_path / "other.jsonl", ROWS[:1])
    assert open_dataset(folder, test=other).sources["test"].name == str(other)
    alone = open_dataset(folder / "train.csv", test=other)
    assert (list(alone.sources), alone.single) == (["train", "test"], False)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert list(open_dataset(empty, train=other).sources) == ["train"]
    assert "give one of them" in failure(UsageError, folder / "train.csv", train=other)
    assert "is a folder" in failure(UsageError, folder, train=empty)


def test_folders_without_a_clear_split(tmp_path: Path) -> None:
    assert "it is empty" in failure(DataError, tmp_path)
    write(tmp_path / "reviews.csv", ROWS)
    assert "it holds 'reviews.csv'" in failure(DataError, tmp_path)
    write(tmp_path / "train.csv", ROWS)
    write(tmp_path / "train.jsonl", ROWS)
    assert "choose with --train FILE" in failure(UsageError, tmp_path)
    (tmp_path / "train.jsonl").unlink()
    write(tmp_path / "valid.csv", ROWS)
    write(tmp_path / "dev.csv", ROWS)
    assert "two files for validation: dev.csv and valid.csv" in failure(UsageError, tmp_path)


@pytest.mark.parametrize(
    "given_path", ["missing", "missing.csv", "./missing", "~/no-such-file.csv", "a/b/c", "x" * 5000, "a\0b"]
)
def test_what_is_absent_is_never_looked_up_elsewhere(
    given_path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    message = failure(InputMissingError, given_path)
    assert "no such file or folder" in message
    assert ("hf:" in message) == (given_path in {"missing", "x" * 5000, "a\0b"})


@pytest.mark.parametrize(
    "address",
    [
        "https://example.org/a.csv",
        "s3://b/a.csv",
        "hf://datasets/a/b",
        "zip://a::b.zip",
        "file:///etc/x",
        "gzip::a",
    ],
)
def test_addresses_are_refused(address: str) -> None:
    assert "hf:owner/name" in failure(UsageError, address)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.arrow", "a.txt"])
def test_empty_files_are_missing_input(tmp_path: Path, name: str) -> None:
    assert "is empty (0 bytes)" in failure(InputMissingError, raw(tmp_path / name, ""))


@pytest.mark.parametrize("name", ["a.xlsx", "a", "a.csv.gz", "a.pkl"])
def test_other_types_are_refused(tmp_path: Path, name: str) -> None:
    message = failure(DataError, raw(tmp_path / name, "x"))
    assert "supported: .csv .tsv .jsonl" in message


def test_files_of_blank_lines_have_no_rows(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.conll"):
        assert "no data rows" in failure(DataError, raw(tmp_path / name, "\n\n"))


@pytest.mark.parametrize("option", ["task", "missing_text", "bad_unicode", "labels"])
def test_options_have_fixed_values(tmp_path: Path, option: str) -> None:
    assert "'bogus' is unknown" in failure(UsageError, write(tmp_path / "a.csv", ROWS), **{option: "bogus"})


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    dataset: Dataset = open_dataset(write(tmp_path / "a.csv", ROWS))
    with pytest.raises(UsageError, match="no split 'test'; it has 'a'"):
        dataset.split("test")


def test_texts_stay_out_of_reprs(tmp_path: Path) -> None:
    dataset = open_dataset(write(tmp_path / "a.csv", [("secret", "hidden"), ("x", "y")]))
    (chunk,) = dataset.source("a").chunks()
    shown = repr((dataset, dataset.split("a"), chunk))
    assert "secret" not in shown
    assert "hidden" not in shown
