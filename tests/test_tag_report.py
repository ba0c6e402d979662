"""The report of a tagger says what its figures say, and nothing that it quotes runs anywhere."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from embedkit.errors import DataError
from embedkit.evaluation.tag_report import tag_text, write_tag_report
from embedkit.metrics import tagging
from embedkit.runtime.entities import entities_of

FORBIDDEN = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
WORDS = [
    ["Dean", "Palmer", "hit", "for", "the", "Rangers"],
    ["EU", "rejects"],
    [],
    ["Leicestershire", "beat", "Somerset"],
]
TRUE = [
    ["B-PER", "I-PER", "O", "O", "O", "B-ORG"],
    ["B-ORG", "O"],
    [],
    ["B-ORG", "O", "B-ORG"],
]
PREDICTED = [
    ["B-PER", "B-PER", "O", "O", "O", "B-ORG"],  # one missed, two too many
    ["B-ORG", "O"],
    [],
    ["B-LOC", "O", "B-ORG"],  # one missed, one too many
]


def report(
    folder: Path, *, true: Any = TRUE, predicted: Any = PREDICTED, words: Any = WORDS, **named: Any
) -> Path:
    metrics = named.pop("metrics", None) or tagging(true, predicted, spans=True, resamples=5)
    write_tag_report(
        folder,
        true=true,
        predicted=predicted,
        sentences=words,
        rows=np.arange(11, 11 + len(words)),
        source="test.conll",
        metrics=metrics,
        **({"pictures": False} | named),
    )
    return folder / "report"


def cells(folder: Path) -> list[list[str]]:
    with (folder / "errors.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_a_report_by_hand(tmp_path: Path) -> None:
    written = report(tmp_path, pictures=True)
    assert sorted(path.name for path in written.iterdir()) == [
        "classification_report.txt", "confusion_matrix.png", "errors.csv",
    ]  # fmt: skip
    assert cells(written) == [
        ["row", "wrong entities", "text", "true", "predicted"],
        [
            "11",
            "3",
            "Dean Palmer hit for the Rangers",
            "Dean Palmer (PER, words 1-2) | Rangers (ORG, word 6)",
            "Dean (PER, word 1) | Palmer (PER, word 2) | Rangers (ORG, word 6)",
        ],
        [
            "14",
            "2",
            "Leicestershire beat Somerset",
            "Leicestershire (ORG, word 1) | Somerset (ORG, word 3)",
            "Leicestershire (LOC, word 1) | Somerset (ORG, word 3)",
        ],
    ]
    text = (written / "classification_report.txt").read_text("utf-8").splitlines()
    assert text[0] == "test.conll: 4 sentences, 11 words"
    assert text[2].startswith("entity F1  0.5455  [")
    assert text[2].endswith("]  95 % interval, percentile bootstrap, 5 resamples, seed 42, sentences drawn whole")
    assert text[3:5] == ["precision  0.5000", "recall     0.6000"]
    assert text[-4:] == [
        "#  type  precision  recall      f1  entities  predicted",
        "1  LOC      0.0000  0.0000  0.0000         0          1",
        "2  ORG      1.0000  0.7500  0.8571         4          3",
        "3  PER      0.0000  0.0000  0.0000         1          2",
    ]
    with Image.open(written / "confusion_matrix.png") as picture:
        assert min(picture.size) > 300


def test_single_tags_by_hand(tmp_path: Path) -> None:
    true = [["NNP", "VBD", "."], ["DT", "NN"]]
    predicted = [["NN", "VBD", None], ["DT", "NN"]]
    metrics = tagging(true, predicted, spans=False, resamples=5)
    words = [["Rangers", "won", "."], ["a", "win"]]
    written = report(tmp_path, true=true, predicted=predicted, words=words, metrics=metrics, pictures=True)
    assert cells(written) == [
        ["row", "wrong words", "text", "true", "predicted"],
        [
            "11",
            "2",
            "Rangers won .",
            "Rangers (NNP, word 1) | . (., word 3)",
            "Rangers (NN, word 1) | . ((no tag), word 3)",
        ],
    ]
    text = (written / "classification_report.txt").read_text("utf-8")
    assert "accuracy  0.6000  [" in text
    assert "macro F1  0.5333  [" in text
    assert "the mean over the 5 labels that occur" in text
    assert text.splitlines()[-5:] == [
        "1  .       0.0000  0.0000  0.0000      1          0",
        "2  DT      1.0000  1.0000  1.0000      1          1",
        "3  NN      0.5000  1.0000  0.6667      1          2",
        "4  NNP     0.0000  0.0000  0.0000      1          0",
        "5  VBD     1.0000  1.0000  1.0000      1          1",
    ]
    assert (written / "confusion_matrix.png").stat().st_size > 5000


def test_strict_errors_are_those_of_strict_figures(tmp_path: Path) -> None:
    true, predicted, words = [["B-X", "I-X"]], [["I-X", "I-X"]], [["a", "b"]]
    loose = report(tmp_path, true=true, predicted=predicted, words=words)
    assert len(cells(loose)) == 1
    assert (
        "an I- that continues nothing begins one (conlleval)" in (loose / "classification_report.txt").read_text()
    )
    metrics = tagging(true, predicted, spans=True, strict=True, resamples=5)
    strict = report(tmp_path, true=true, predicted=predicted, words=words, metrics=metrics)
    assert cells(strict)[1:] == [["11", "1", "a b", "a b (X, words 1-2)", ""]]
    assert "B- alone begins one (strict)" in (strict / "classification_report.txt").read_text("utf-8")


TAGS = st.sampled_from(["O", "O", "B-X", "I-X", "B-Y", "I-Y"])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.tuples(TAGS, TAGS), max_size=6), min_size=1, max_size=8).filter(any))
def test_wrong_sentences_are_all_there_the_worst_first(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[list[tuple[str, str]]]
) -> None:
    true, predicted = ([[pair[side] for pair in row] for row in pairs] for side in (0, 1))
    words = [[f"w{i}" for i in range(len(row))] for row in pairs]
    found = cells(report(tmp_path_factory.mktemp("r"), true=true, predicted=predicted, words=words))[1:]
    missed = [set(entities_of(one)) ^ set(entities_of(other)) for one, other in zip(true, predicted, strict=True)]
    assert sorted((int(row[0]), int(row[1])) for row in found) == [
        (11 + place, len(some)) for place, some in enumerate(missed) if some
    ]
    order = [(-int(row[1]), int(row[0])) for row in found]
    assert order == sorted(order)


def test_what_is_quoted_is_inert(tmp_path: Path) -> None:
    evil = ["=1+1", "\x1b[31mred", "\u202eabc", "a\nb", "@SUM(A1)"]
    true = [[f"B-{word}"] for word in evil]
    predicted = [["O"] for _ in evil]
    metrics = {**tagging(true, predicted, spans=True, resamples=5), "unseen_tags": [f"B-{evil[1]}"]}
    written = report(
        tmp_path, true=true, predicted=predicted, words=[[word] for word in evil], metrics=metrics, pictures=True
    )
    for row in cells(written)[1:]:
        assert not any(cell.startswith(("=", "@", "+", "-")) for cell in row)
        assert not any(FORBIDDEN.search(cell) for cell in row)
    text = (written / "classification_report.txt").read_text("utf-8")
    assert not FORBIDDEN.search(text)
    assert "\\x1b[31mred" in text
    source = tag_text(metrics, "\x1b[2J.conll").splitlines()[0]
    assert source.startswith("\\x1b[2J.conll: ")


def test_what_the_figures_rest_on_is_said() -> None:
    metrics = tagging([["B-X"]], [["O"]], spans=True, resamples=5)
    plain = tag_text(metrics, "s")
    assert "flatters" not in plain
    assert "never saw" not in plain
    said = tag_text({**metrics, "used_to_tune": True, "unseen_tags": ["B-X"]}, "s")
    assert "chosen by these very rows, so the figures flatter it" in said
    assert "tags that training never saw, whose words all count as errors: 'B-X'" in said


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"words": WORDS[:3]}, "as many tags as sentences; lengths are [3, 4]"),
        ({"words": [["Dean"], *WORDS[1:]]}, "sentence 1 of a report has 1 words, but not as many tags"),
    ],
)
def test_lengths_that_differ_are_refused(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    metrics = tagging(TRUE, PREDICTED, spans=True, resamples=5)
    with pytest.raises(DataError, match=re.escape(said)):
        report(tmp_path, metrics=metrics, **changed)


def test_a_picture_is_drawn_only_if_asked(tmp_path: Path) -> None:
    assert not (report(tmp_path) / "confusion_matrix.png").exists()
