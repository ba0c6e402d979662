"""Tagging schemes: each is told from the others, and converting leaves every entity as it was."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedkit.data import Split, open_dataset
from embedkit.data.columns import Task
from embedkit.data.schemes import SCHEMES, Scheme, iob2_tags, with_iob2
from embedkit.errors import DataError
from embedkit.runtime.entities import Entity, entities_of

LETTERS = {"IOB2": "BI", "BIOES": "BIES", "BILOU": "BILU", "BMES": "BMES"}
MARKED: tuple[Scheme, ...] = ("IO", "IOB1", "IOB2", "BIOES", "BILOU", "BMES")
Tagged = Sequence[Sequence[str]]


def split_of(tags: Tagged | None, name: str = "train", words: Tagged | None = None) -> Split:
    """Return a split whose data rows begin at 101, so that rows and positions cannot be mixed up unseen."""
    inputs = [[f"w{i}" for i in range(len(row))] for row in (words or tags or [])]
    rows = np.arange(101, 101 + len(inputs), dtype=np.int64)
    labels = None if tags is None else [list(row) for row in tags]
    return Split(name, "tokens", inputs, labels, rows, f"{name}.conll")


def lines(*sentences: str) -> list[list[str]]:
    return [sentence.split() for sentence in sentences]


def converted(tags: Tagged, task: Task = "auto") -> tuple[list[list[str]], Scheme, list[str]]:
    found, scheme, notes = with_iob2({"train": split_of(tags)}, task)
    labels = found["train"].labels
    assert labels is not None
    return labels, scheme, notes  # type: ignore[return-value]


# ----------------------------------------------------------------------------------------- what is what


def written(entities: Sequence[Entity], words: int, scheme: str) -> list[str]:
    """Write entities, in their order, in a scheme; by the schemes' definitions, one word after the other."""
    tags, before = ["O"] * words, Entity("", -1, -1)
    single, last = {"BIOES": "SE", "BILOU": "UL", "BMES": "SE"}.get(scheme, "BI")
    middle = "M" if scheme == "BMES" else "I"
    for kind, start, end in entities:
        beside = before.end == start and before.kind == kind
        for word in range(start, end):
            if scheme == "plain":
                tags[word] = kind
                continue
            if scheme == "IO" or (scheme == "IOB1" and not (beside and word == start)):
                letter = "I"
            elif word == start:
                letter = single if end == start + 1 else "B"
            else:
                letter = last if word == end - 1 else middle
            tags[word] = f"{letter}-{kind}"
        before = Entity(kind, start, end)
    return tags


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[Entity], int]:
    """Draw the entities of a sentence; neighbours and equal types are frequent."""
    found, place = [], 0
    for _ in range(draw(st.integers(0, 5))):
        start = place + draw(st.integers(0, 1))
        place = start + draw(st.integers(1, 4))
        found.append(Entity(draw(st.sampled_from(("PER", "LOC", "a-b"))), start, place))
    return found, place + draw(st.integers(0, 2))


# One sentence with an entity of one word, of two and of three, neighbours of one type, and words outside.
TELLING = [Entity("PER", 0, 1), Entity("PER", 1, 4), Entity("LOC", 5, 7), Entity("LOC", 7, 8)]


@settings(deadline=None)
@given(st.sampled_from((*MARKED, "plain")), st.lists(layouts(), max_size=4))
def test_every_scheme_is_found_and_converted(scheme: Scheme, sentences: list[tuple[list[Entity], int]]) -> None:
    sentences = [*sentences, (TELLING, 9)]
    tags = [written(entities, words, scheme) for entities, words in sentences]
    labels, found, notes = converted(tags)
    assert found == scheme
    assert len(notes) == (scheme != "IOB2")
    for before, after, (entities, words) in zip(tags, labels, sentences, strict=True):
        assert entities_of(after) == entities_of(before)
        if scheme not in ("IO", "plain"):  # which cannot tell neighbours apart
            assert entities_of(before) == entities
            assert after == written(entities, words, "IOB2")


ANY_TAG = st.sampled_from(["O", *(f"{letter}-{kind}" for letter in "BIMESLU" for kind in ("PER", "LOC", "E-S"))])


@given(st.lists(ANY_TAG, max_size=12))
def test_a_sentence_keeps_its_entities(tags: list[str]) -> None:
    after = iob2_tags(tags)
    assert entities_of(after) == entities_of(tags)
    assert len(after) == len(tags)
    assert {tag[0] for tag in after} <= set("BIO")
    for before, tag in zip(["O", *after], after, strict=False):
        if tag.startswith("I-"):
            assert before in (tag, f"B{tag[1:]}")
    assert iob2_tags(after) == after


SENTENCES_OF_A_SCHEME = st.sampled_from(("IOB2", "BIOES", "BILOU", "BMES")).flatmap(
    lambda scheme: st.tuples(
        st.just(scheme),
        st.lists(
            st.lists(
                st.sampled_from(["O", *(f"{letter}-{kind}" for letter in LETTERS[scheme] for kind in "XY")]),
                max_size=8,
            ),
            max_size=6,
        ),
    )
)


@settings(deadline=None)
@given(SENTENCES_OF_A_SCHEME)
def test_however_broken_entities_stay(drawn: tuple[str, list[list[str]]]) -> None:
    """What is converted has the same entities, and needs no repair."""
    scheme, broken = drawn
    tags = [*[written(TELLING, 9, scheme)] * 20, *broken]  # so many that there is no doubt of the scheme
    labels, found, _ = converted(tags)
    assert found == scheme
    assert list(map(entities_of, labels)) == list(map(entities_of, tags))
    assert converted(labels) == (labels, "IOB2", [])


def test_schemes_are_the_words_of_the_type() -> None:
    assert set(SCHEMES) == {*MARKED, "plain", "none"}


@pytest.mark.parametrize(
    ("sentences", "task", "scheme"),
    [
        (["NN VB . NN"], "auto", "none"),
        (["NN VB . NN"], "tokens", "none"),
        (["NN VB . NN"], "pos", "none"),
        (["N O V"], "pos", "none"),  # the tag set of Gimpel et al. (2011): O is a pronoun
        (["B-NN I-NN"], "pos", "none"),
        (["PER PER O LOC"], "auto", "plain"),
        (["PER PER LOC"], "ner", "plain"),
        (["NP NP VP"], "chunk", "plain"),
        (["O O", "O"], "ner", "IOB2"),
        (["O O", "O"], "auto", "IOB2"),
        (["I-PER I-PER O I-LOC"], "auto", "IO"),
        (["I-PER B-PER O I-LOC"], "auto", "IOB1"),
        (["I-PER O", "I-LOC B-LOC I-LOC B-LOC"], "auto", "IOB1"),
        (["I-PER B-LOC"], "auto", "IOB2"),  # B- behind another type: IOB2, and I- is to be repaired
        (["I-PER B-PER", "B-PER"], "auto", "IOB2"),
        (["B-PER"], "auto", "IOB2"),
        (["S-PER O"], "ner", "BIOES"),
        (["U-PER O"], "ner", "BILOU"),
        (["B-PER L-PER"], "auto", "BILOU"),
        (["B-PER E-PER"], "auto", "BIOES"),
        (["B-PER M-PER E-PER"], "auto", "BMES"),
        (["B I O B"], "auto", "IOB2"),  # entities without a type
        (["I I O"], "auto", "IO"),
        ([""], "ner", "IOB2"),
    ],
)
def test_schemes_by_hand(sentences: list[str], task: Task, scheme: Scheme) -> None:
    tags = lines(*sentences)
    labels, found, _ = converted(tags, task)
    assert found == scheme
    if scheme == "none":
        assert labels == tags
    else:
        assert list(map(entities_of, labels)) == list(map(entities_of, tags))


def test_neighbours_of_plain_tags_are_one_entity() -> None:
    labels, _, notes = converted(lines("PER PER LOC O LOC"))
    assert labels == lines("B-PER I-PER B-LOC O B-LOC")
    (note,) = notes
    assert "no prefixes" in note
    assert "--task pos" in note
    assert "--task pos" not in converted(lines("PER PER O"), "ner")[2][0]


# ------------------------------------------------------------------------------------- splits, repairs, rows


def test_repairs_are_counted_by_split() -> None:
    splits = {
        "train": split_of(lines("B-PER I-PER O", "O I-PER I-PER", "B-LOC I-PER"), "train"),
        "validation": split_of(lines("B-PER O"), "validation"),
        "test": split_of(lines("O", "", "O O I-LOC"), "test"),
        "blind": split_of(None, "blind", lines("a b")),
    }
    found, scheme, notes = with_iob2(splits)
    assert scheme == "IOB2"
    assert notes == [
        "train.conll: tags that break IOB2: 2 of 8, first in row 102, word 2, tag 'I-PER'; "
        "entities are read as conlleval reads them",
        "test.conll: tags that break IOB2: 1 of 4, first in row 103, word 3, tag 'I-LOC'; "
        "entities are read as conlleval reads them",
    ]
    assert found["train"].labels == lines("B-PER I-PER O", "O B-PER I-PER", "B-LOC B-PER")
    assert found["test"].labels == lines("O", "", "O O B-LOC")
    assert found["blind"] is splits["blind"]
    assert list(found) == list(splits)
    for name, split in found.items():
        assert split.inputs == splits[name].inputs
        assert split.rows.tolist() == splits[name].rows.tolist()
    assert splits["train"].labels == lines("B-PER I-PER O", "O I-PER I-PER", "B-LOC I-PER"), "the given stay"


@pytest.mark.parametrize(
    ("scheme", "sentence", "repairs"),
    [
        ("BIOES", "E-X O", 1),  # ends what did not begin
        ("BIOES", "B-X O", 1),  # begins what does not end
        ("BIOES", "B-X I-X", 1),
        ("BIOES", "B-X I-X E-X", 0),
        ("BIOES", "I-X", 1),
        ("BIOES", "B-X E-Y", 2),
        ("BIOES", "S-X E-X", 1),
        ("BIOES", "B-X S-X", 1),
        ("BILOU", "B-X L-X U-X L-X", 1),
        ("BILOU", "U-X U-X B-X I-X I-X L-X", 0),
        ("BMES", "B-X M-X M-X E-X S-X B-X E-X", 0),
        ("BMES", "M-X E-X", 1),
        ("IOB2", "I-X I-X", 1),
        ("IOB2", "B-X I-Y I-Y", 1),
        ("IOB1", "B-X I-X", 1),
        ("IOB1", "I-X B-X I-Y B-X", 1),
        ("IO", "I-X I-Y I-X", 0),
    ],
)
def test_repairs_by_hand(scheme: str, sentence: str, repairs: int) -> None:
    train = split_of([written(TELLING, 9, scheme)] * 3)
    _, found, notes = with_iob2({"train": train, "test": split_of(lines("O", sentence, "O"), "test")})
    assert found == scheme
    said = [int(note.split(": ")[2].split(" of ")[0]) for note in notes if note.startswith("test.conll")]
    assert said == ([repairs] if repairs else [])


def test_a_rare_b_that_train_lacks_makes_it_iob1() -> None:
    """In IOB1 B- stands between neighbours of one type alone, which a small train may not have."""
    splits = {"train": split_of(lines("I-PER O")), "test": split_of(lines("I-PER B-PER"), "test")}
    found, scheme, notes = with_iob2(splits)
    assert (scheme, len(notes)) == ("IOB1", 1)
    assert found["test"].labels == lines("B-PER B-PER")


def test_without_train_the_first_labelled_split_tells() -> None:
    splits = {"blind": split_of(None, "blind", lines("a")), "test": split_of(lines("S-PER B-LOC E-LOC"), "test")}
    found, scheme, _ = with_iob2(splits, "ner")
    assert scheme == "BIOES"
    assert found["test"].labels == lines("B-PER B-LOC I-LOC")
    assert with_iob2({"blind": splits["blind"]}, "ner") == ({"blind": splits["blind"]}, "none", [])
    # a train without a word tells nothing
    assert with_iob2({"train": split_of(lines("")), "test": splits["test"]})[1] == "BIOES"
    # train goes before a split that stands before it
    splits = {"test": split_of(lines("B-X I-X"), "test"), "train": split_of(lines("B-X E-X S-X"))}
    assert with_iob2(splits)[1] == "BIOES"


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        ("B-PER I-PER O", "O PER", "test.conll: row 102, word 2, tag 'PER'"),
        ("B-PER I-PER O", "B-PER E-PER S-LOC", "test.conll: row 102, word 2, tag 'E-PER' (2 such words in all)"),
        (
            "B-PER I-PER O",
            "o",
            "tag 'o': not allowed in the scheme of these data, IOB2: O, or a type behind B- or I-",
        ),
        ("B-PER I-PER O", "b-PER", "'b-PER'"),
        ("B-PER I-PER O", "B-", "'B-'"),
        ("B-PER I-PER O", "B", "'B'"),
        ("B-PER I-PER 0 B-PER", "O", "train.conll: row 101, word 3, tag '0'"),
        ("S-PER B-PER E-PER", "U-PER", "BIOES: O, or a type behind B-, I-, E- or S-"),
        ("U-PER B-PER L-PER", "S-PER", "BILOU: O, or a type behind B-, I-, L- or U-"),
        ("B-PER M-PER E-PER", "B-PER I-PER", "BMES: O, or a type behind B-, M-, E- or S-"),
        ("I-PER O", "PER", "IO: O, or a type behind I-"),
        ("PER O", "B-PER", "which are O and types without prefixes, such as PER"),
        ("PER O", "I", "'I'"),
        ("NN B-NP", "NN", "pass --task pos if each tag is of one word"),
        ("B M E S O", "O", "'M'"),
        # one slip among many tags does not change what the others are in
        ("B-PER I-PER O B-PER I-PER O E-PER", "O", "row 101, word 7, tag 'E-PER'"),
        ("S-PER B-PER E-PER S-LOC U-LOC", "O", "row 101, word 5, tag 'U-LOC'"),
    ],
)
def test_a_tag_of_no_scheme_is_an_error_with_its_row(train: str, test: str, said: str) -> None:
    splits = {"train": split_of(lines(train)), "test": split_of(lines("O", test), "test")}
    with pytest.raises(DataError, match=re.escape(said)):
        with_iob2(splits)


@pytest.mark.parametrize(
    ("sentence", "proper"),
    [
        ("B_PER I_PER O", "'B-PER'"),
        ("b-PER i-PER O", "'B-PER'"),
        ("PER-B PER-I O", "'B-PER'"),
        ("PER_S O LOC_B LOC_E", "'S-PER'"),
    ],
)
def test_prefixes_written_otherwise_are_not_taken_for_types(sentence: str, proper: str) -> None:
    for task in ("auto", "ner"):
        with pytest.raises(DataError, match=f"train.conll: tags such as .* are not read.*{proper}"):
            converted(lines(sentence), task)  # type: ignore[arg-type]


@pytest.mark.parametrize("sentence", ["e-mail O", "S_Bahn O", "geo-loc facility-B O", "b-day PER O"])
def test_types_with_hyphens_are_types(sentence: str) -> None:
    (tags,) = lines(sentence)
    assert converted([tags])[0] == [[tag if tag == "O" else f"B-{tag}" for tag in tags]]


def test_a_hostile_tag_is_inert_and_cut() -> None:
    with pytest.raises(DataError) as caught:
        converted([["B-PER", "\x1b[31m" + "x" * 1000]])
    assert "\\x1b[31mxx" in str(caught.value)
    assert len(str(caught.value)) < 300


def test_files_in_every_scheme_read_alike(tmp_path: Path) -> None:
    """CoNLL columns, JSON lines with names, and integers with declared names come to the same tags."""
    labels = {}
    for scheme in ("IOB1", "IOB2", "BIOES", "BILOU"):
        tags = written(TELLING, 9, scheme)
        path = tmp_path / f"{scheme}.conll"
        path.write_text("".join(f"w{i} X {tag}\n" for i, tag in enumerate(tags)) + "\n", encoding="utf-8")
        row = {"tokens": [f"w{i}" for i in range(9)], "ner_tags": tags}
        (tmp_path / f"{scheme}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
        for data in (path, tmp_path / f"{scheme}.jsonl"):
            split = open_dataset(data, task="ner").split(scheme)
            found = with_iob2({"train": replace(split, name="train")}, "ner")
            assert found[1] == scheme
            labels[data] = found[0]["train"].labels
    assert all(found == [written(TELLING, 9, "IOB2")] for found in labels.values())
