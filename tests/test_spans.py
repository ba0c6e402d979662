"""Figures of tags are those of conlleval, seqeval and scikit-learn, with intervals over sentences."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import precision_recall_fscore_support as seqeval_scores
from seqeval.metrics.v1 import precision_recall_fscore_support as seqeval_strict_scores
from seqeval.scheme import IOB2
from sklearn.metrics import accuracy_score, f1_score
from sklearn.metrics import precision_recall_fscore_support as sklearn_scores

from embedkit.errors import DataError, UsageError
from embedkit.metrics import clopper_pearson, entity_scores, paired_difference, span_difference, tagging
from embedkit.metrics.spans import judged_entities

Sentences = list[list[str]]
Pair = tuple[Sentences, Sentences]
FIGURES = ("precision", "recall", "f1")


def pairs_of(tags: list[str], most: int = 8) -> st.SearchStrategy[Pair]:
    """Draw true and predicted tags, of which many are equal."""
    word = st.sampled_from(tags).flatmap(lambda tag: st.tuples(st.just(tag), st.sampled_from([tag, tag, *tags])))
    sentences = st.lists(st.lists(word, max_size=most), min_size=1, max_size=6).filter(any)
    return sentences.map(lambda some: tuple([[[pair[side] for pair in row] for row in some] for side in (0, 1)]))  # type: ignore[arg-type,return-value]


def prefixed(letters: str, kinds: tuple[str, ...] = ("LOC", "PER", "a-b")) -> list[str]:
    return ["O", *(f"{letter}-{kind}" for letter in letters for kind in kinds)]


def drawn(seed: int, share: float, sentences: int = 200) -> Pair:
    """Return tags in any order, `share` of them right; `random.random` gives the same everywhere."""
    rng, tags = random.Random(seed), prefixed("BI", ("LOC", "ORG", "PER"))

    def pick() -> str:
        return tags[int(rng.random() * len(tags))]

    true = [[pick() for _ in range(1 + int(rng.random() * 15))] for _ in range(sentences)]
    return true, [[tag if rng.random() < share else pick() for tag in row] for row in true]


# ------------------------------------------------------------------------------------------- conlleval

# What the Perl script conlleval (version 2004-01-26) printed for `drawn(seed, share)`, a line "w TRUE PREDICTED"
# for each word and an empty one after each sentence: tokens, phrases, found, correct; accuracy, precision, recall
# and FB1 in percent; and by type precision, recall, FB1, found.
CONLLEVAL: dict[tuple[int, float], tuple[tuple[int, ...], tuple[float, ...], dict[str, tuple[float, ...]]]] = {
    (1, 0.9): (
        (1555, 1168, 1175, 1058),
        (91.96, 90.04, 90.58, 90.31),
        {"LOC": (91.58, 90.16, 90.86, 380), "ORG": (90.46, 90.0, 90.23, 388), "PER": (88.21, 91.58, 89.86, 407)},
    ),
    (2, 0.6): (
        (1654, 1225, 1252, 739),
        (64.63, 59.03, 60.33, 59.67),
        {"LOC": (61.48, 62.5, 61.99, 431), "ORG": (57.45, 58.87, 58.15, 416), "PER": (58.02, 59.49, 58.75, 405)},
    ),
    (3, 0.0): (
        (1576, 1217, 1190, 235),
        (14.09, 19.75, 19.31, 19.53),
        {"LOC": (17.86, 17.63, 17.74, 392), "ORG": (19.49, 18.58, 19.02, 390), "PER": (21.81, 21.65, 21.73, 408)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("given", CONLLEVAL)
def test_figures_are_those_that_conlleval_printed(given: tuple[int, float]) -> None:
    counts, overall, types = CONLLEVAL[given]
    ours = tagging(*drawn(*given), spans=True, resamples=1)
    each = ours["per_type"]
    support, found = (sum(part[key] for part in each.values()) for key in ("support", "predicted"))
    correct = sum(part["recall"] * part["support"] for part in each.values())
    assert (ours["words"], support, found, round(correct)) == counts
    assert [round(100 * ours[key], 2) for key in ("accuracy", *FIGURES)] == list(overall)
    assert {
        kind: (*(round(100 * part[key], 2) for key in FIGURES), part["predicted"]) for kind, part in each.items()
    } == types
    assert ours["mode"] == "conlleval"


# --------------------------------------------------------------------------------------------- seqeval


def same_as_seqeval(
    true: Sentences, predicted: Sentences, ours: dict[str, Any], theirs: Any, **named: Any
) -> None:
    kinds = ours["per_type"]
    *each, support = theirs(true, predicted, average=None, zero_division=0, **named)
    assert [part["support"] for part in kinds.values()] == list(support)
    for key, values in zip(FIGURES, each, strict=True):
        assert [part[key] for part in kinds.values()] == pytest.approx(list(values), abs=1e-12)
    if kinds:  # seqeval divides by their number
        micro = theirs(true, predicted, average="micro", zero_division=0, **named)[:3]
        assert [ours[key] for key in FIGURES] == pytest.approx(micro, abs=1e-12)
    else:
        assert [ours[key] for key in FIGURES] == [0, 0, 0]


@settings(max_examples=150, deadline=None)
@given(pairs_of(prefixed("BI")) | pairs_of(prefixed("BIES")) | pairs_of(prefixed("I")))
def test_entities_are_those_of_seqeval(pair: Pair) -> None:
    same_as_seqeval(*pair, tagging(*pair, spans=True, resamples=1), seqeval_scores)


@settings(max_examples=150, deadline=None)
@given(pairs_of(prefixed("BI")))
def test_strict_entities_are_those_of_seqeval(pair: Pair) -> None:
    ours = tagging(*pair, spans=True, strict=True, resamples=1)
    same_as_seqeval(*pair, ours, seqeval_strict_scores, scheme=IOB2)
    assert ours["mode"] == "strict"


@settings(deadline=None)
@given(pairs_of(prefixed("BI")))
def test_running_figures_are_the_same(pair: Pair) -> None:
    ours = tagging(*pair, spans=True, resamples=1)
    assert entity_scores(*pair) == {key: ours[key] for key in (*FIGURES, "accuracy")}


@pytest.mark.parametrize(
    ("true", "predicted", "conlleval", "strict"),
    [
        ("B-PER I-PER O", "I-PER I-PER O", 1.0, 0.0),  # an I- begins one, to conlleval
        ("B-PER I-PER O", "B-PER O O", 0.0, 0.0),
        ("B-PER B-PER O", "B-PER I-PER O", 0.0, 0.0),
        ("B-PER O B-LOC", "B-PER O B-ORG", 0.5, 0.5),
        ("B-PER I-LOC O", "B-PER B-LOC O", 1.0, 2 / 3),
        ("O O O", "O O O", 0.0, 0.0),  # nothing to find, as with zero_division=0
        ("O O O", "B-PER O O", 0.0, 0.0),
        ("B I O", "B I O", 1.0, 1.0),
    ],
)
def test_entity_f1_by_hand(true: str, predicted: str, conlleval: float, strict: float) -> None:
    pair = [true.split()], [predicted.split()]
    assert tagging(*pair, spans=True, resamples=1)["f1"] == conlleval
    assert tagging(*pair, spans=True, strict=True, resamples=1)["f1"] == strict


def test_an_entity_ends_with_its_sentence() -> None:
    ours = tagging([["B-X"], ["I-X"]], [["B-X"], ["I-X"]], spans=True, resamples=1)
    assert ours["per_type"]["X"]["support"] == 2


def test_types_that_only_one_side_has_are_there() -> None:
    ours = tagging([["B-X", "O"]], [["O", "B-Y"]], spans=True, resamples=1)
    assert ours["per_type"] == {
        "X": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1, "predicted": 0},
        "Y": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0, "predicted": 1},
    }


# ----------------------------------------------------------------------------------- single tags, confusion


@settings(max_examples=150, deadline=None)
@given(pairs_of(["NN", "VB", "DT", "."]))
def test_single_tags_are_judged_as_scikit_learn_does(pair: Pair) -> None:
    ours = tagging(*pair, spans=False, resamples=2)
    true, predicted = ([tag for row in side for tag in row] for side in pair)
    names = sorted(set(true) | set(predicted))
    assert ours["tags"] == list(ours["per_tag"]) == names
    theirs = sklearn_scores(true, predicted, labels=names, zero_division=0)
    for place, figures in enumerate(ours["per_tag"].values()):
        assert [figures[key] for key in (*FIGURES, "support")] == pytest.approx([part[place] for part in theirs])
        assert figures["predicted"] == predicted.count(names[place])
    assert ours["accuracy"] == pytest.approx(accuracy_score(true, predicted))
    assert ours["macro_f1"] == pytest.approx(f1_score(true, predicted, average="macro", zero_division=0))
    cells = Counter(zip(true, predicted, strict=True))
    assert ours["confusion"] == [[cells[one, other] for other in names] for one in names]
    assert (ours["n"], ours["words"]) == (len(pair[0]), len(true))


@settings(deadline=None)
@given(pairs_of(prefixed("BI")), st.booleans(), st.integers(0, 1000))
def test_a_tag_that_is_none(pair: Pair, spans: bool, seed: int) -> None:
    """To entities it is O; among single tags an error, and no tag of its own."""
    true, predicted = pair
    rng = random.Random(seed)
    gone = [[None if rng.random() < 0.3 else tag for tag in row] for row in predicted]
    ours = tagging(true, gone, spans=spans, resamples=2)
    if spans:
        assert ours == tagging(
            true, [["O" if tag is None else tag for tag in row] for row in gone], spans=True, resamples=2
        )
        return
    unread = sum(tag is None for row in gone for tag in row)
    assert (None in ours["tags"]) == bool(unread)
    assert None not in ours["per_tag"]
    if unread:
        assert ours["tags"][-1] is None
        assert sum(row[-1] for row in ours["confusion"]) == unread
        assert sum(ours["confusion"][-1]) == 0
    # a label that is nowhere else would be as wrong, but would count as one more label
    other = tagging(true, [["?" if tag is None else tag for tag in row] for row in gone], spans=False, resamples=2)
    assert ours["accuracy"] == other["accuracy"]
    assert ours["per_tag"] == {name: part for name, part in other["per_tag"].items() if name != "?"}


def test_tags_of_a_type_stand_together() -> None:
    tags = ["I-B", "O", "B-B", "I-A-", "B-A-"]
    ours = tagging([tags], [tags], spans=True, resamples=1)
    assert ours["tags"] == ["O", "B-A-", "I-A-", "B-B", "I-B"]
    assert ours["confusion"] == np.eye(5, dtype=int).tolist()


@settings(deadline=None)
@given(pairs_of(prefixed("BI")), st.booleans())
def test_what_is_given_is_ready_for_json(pair: Pair, spans: bool) -> None:
    ours = tagging(*pair, spans=spans, resamples=3)
    assert json.loads(json.dumps(ours, allow_nan=False)) == ours
    assert sum(map(sum, ours["confusion"])) == ours["words"]


# ------------------------------------------------------------------------------------------- intervals


def by_hand(pair: Pair, score: Any, resamples: int) -> list[float]:
    """Resample sentences one by one, and score each resample anew."""
    rng, (true, predicted) = np.random.default_rng(0), pair
    scores = []
    for _ in range(resamples):
        places = rng.integers(0, len(true), len(true)).tolist()
        scores.append(score([true[i] for i in places], [predicted[i] for i in places]))
    return np.quantile(scores, [0.025, 0.975]).tolist()  # type: ignore[no-any-return]


def test_intervals_of_entities_are_of_sentences_drawn_with_replacement() -> None:
    pair = drawn(5, 0.7, sentences=40)
    ours = tagging(*pair, spans=True, resamples=4000)
    for key in ("f1", "accuracy"):
        theirs = by_hand(pair, lambda *both, key=key: entity_scores(*both)[key], 600)
        assert ours[f"{key}_ci95"] == pytest.approx(theirs, abs=0.015)
        assert ours[f"{key}_ci95"][0] < ours[key] < ours[f"{key}_ci95"][1]
        assert ours[f"{key}_ci95_method"] == (
            "percentile bootstrap, 4000 resamples, seed 42, sentences drawn whole"
        )


def test_intervals_of_single_tags_are_of_sentences_drawn_with_replacement() -> None:
    pair = drawn(6, 0.7, sentences=40)
    ours = tagging(*pair, spans=False, resamples=4000)

    def macro(true: Sentences, predicted: Sentences) -> float:
        flat = [[tag for row in side for tag in row] for side in (true, predicted)]
        return float(f1_score(*flat, average="macro", zero_division=0))

    assert ours["macro_f1_ci95"] == pytest.approx(by_hand(pair, macro, 300), abs=0.02)
    assert ours["macro_f1_ci95_method"] == ours["accuracy_ci95_method"]


def test_words_of_one_sentence_are_not_taken_for_independent() -> None:
    """Ten sentences, each right or wrong as a whole: as uncertain as ten words, not as a thousand."""
    true = [["NN"] * 100] * 10
    predicted = [["NN" if row < 5 else "VB"] * 100 for row in range(10)]
    low, high = tagging(true, predicted, spans=False)["accuracy_ci95"]
    assert high - low > 0.5
    alone = [[tag] for row in true for tag in row], [[tag] for row in predicted for tag in row]
    low, high = tagging(*alone, spans=False)["accuracy_ci95"]
    assert high - low < 0.07


@pytest.mark.parametrize("words", [127, 128, 300, 40_000])
@pytest.mark.parametrize("spans", [False, True])
def test_one_long_sentence_has_no_spread(words: int, spans: bool) -> None:
    """Counts of a sentence are kept in small integers."""
    true, predicted = [["B-X"] * words], [["B-X"] * (words - 1) + ["B-Y"]]
    ours = tagging(true, predicted, spans=spans, resamples=3)
    for key in ("accuracy", "f1" if spans else "macro_f1"):
        assert ours[f"{key}_ci95"] == [ours[key], ours[key]]
    assert ours["accuracy"] == (words - 1) / words


@settings(max_examples=50, deadline=None)
@given(pairs_of(prefixed("BI")), st.randoms(use_true_random=False))
def test_the_order_of_sentences_changes_nothing(pair: Pair, rng: random.Random) -> None:
    order = list(range(len(pair[0])))
    rng.shuffle(order)
    shuffled = [[side[i] for i in order] for side in pair]
    assert tagging(*pair, spans=True, resamples=20) == tagging(*shuffled, spans=True, resamples=20)


# ------------------------------------------------------------------------------------------ differences


@settings(max_examples=50, deadline=None)
@given(pairs_of(prefixed("BI")), st.booleans(), st.booleans())
def test_a_difference_is_of_the_two_figures(pair: Pair, spans: bool, strict: bool) -> None:
    true, first = pair
    second = [[*row[1:], "O"] if row else [] for row in first]
    strict = spans and strict
    found = span_difference(true, first, second, spans=spans, strict=strict, resamples=20)
    key = found["metric"]
    assert key == ("f1" if spans else "accuracy")
    for name, predicted in (("first", first), ("second", second)):
        assert found[name] == tagging(true, predicted, spans=spans, strict=strict, resamples=1)[key]
    assert found["difference"] == found["first"] - found["second"]
    assert json.loads(json.dumps(found)) == found
    same = span_difference(true, first, first, spans=spans, strict=strict, resamples=20)
    unseen = clopper_pearson(0, len(true))[1]
    assert (same["difference"], same["ci95"]) == (0, [-unseen, unseen])


def test_what_is_hard_for_both_cancels() -> None:
    """The second loses a few tags of the first: far fewer than both have wrong."""
    true, first = drawn(7, 0.6)
    rng = random.Random(1)
    second = [[tag if rng.random() < 0.97 else "O" for tag in row] for row in first]
    found = span_difference(true, first, second, spans=True)
    alone = tagging(true, first, spans=True)["f1_ci95"]
    low, high = found["ci95"]
    assert 0 < low < found["difference"] < high
    assert high - low < (alone[1] - alone[0]) / 2
    assert found["method"] == "paired percentile bootstrap, 2000 resamples, seed 42, sentences drawn whole"
    reverse = span_difference(true, second, first, spans=True)
    assert reverse["ci95"] == pytest.approx([-high, -low], abs=0.003)


def test_sentences_of_one_word_are_rows() -> None:
    """Where nothing is grouped, the difference of accuracies is that of labels."""
    rng = np.random.default_rng(0)
    true, first, second = (rng.integers(0, 3, 400) for _ in range(3))
    tags = [[[f"T{code}"] for code in codes] for codes in (true, first, second)]
    ours = span_difference(tags[0], tags[1], tags[2], spans=False)
    theirs = paired_difference(true, first, second, 3)
    for key in ("first", "second", "difference"):
        assert ours[key] == pytest.approx(theirs[key])
    assert ours["ci95"] == pytest.approx(theirs["ci95"], abs=0.01)


# ---------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("true", "predicted", "named", "said"),
    [
        ([], [], {}, "0 words"),
        ([[]], [[]], {}, "0 words"),
        ([["O"]], [], {}, "1 sentences with true tags but 0 with predicted ones"),
        ([["O"], ["O", "O"]], [["O"], ["O"]], {}, "sentence 2: 2 true tags but 1 predicted ones"),
        ([["PER", "O"]], [["O", "O"]], {}, "have a prefix, such as B-PER; not 'PER'"),
        ([["B-PER", "O"]], [["U-PER", "O"]], {"strict": True}, "IOB2 alone: O, B-X and I-X; not 'U-PER'"),
        ([["S-PER", "O"]], [["O", "O"]], {"strict": True}, "not 'S-PER'"),
        ([["\x1b[31m" + "x" * 99]], [["O"]], {}, "not '\\x1b[31mxx"),
    ],
)  # fmt: skip
def test_tags_that_cannot_be_judged(true: Any, predicted: Any, named: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=re.escape(said)) as caught:
        tagging(true, predicted, spans=True, **named)
    assert str(caught.value).isprintable()
    with pytest.raises(DataError, match=re.escape(said)):
        span_difference(true, predicted, predicted, spans=True, **named)


def test_arguments_that_fit_nothing() -> None:
    with pytest.raises(UsageError, match="strict is about entities"):
        tagging([["NN"]], [["NN"]], spans=False, strict=True)
    for judge in (tagging, lambda *pair, **named: span_difference(*pair, pair[1], **named)):
        with pytest.raises(UsageError, match="resamples must be at least 1"):
            judge([["O"]], [["O"]], spans=True, resamples=0)  # type: ignore[operator]


def test_types_without_prefix_may_be_predicted() -> None:
    """Models of others have such labels; they are read as `entities_of` reads them."""
    ours = tagging([["B-PER", "I-PER", "O"]], [["PER", "PER", "O"]], spans=True, resamples=1)
    assert ours["f1"] == 1
    assert ours["accuracy"] == pytest.approx(1 / 3)


def test_strict_entities_begin_with_b() -> None:
    tags = ["I-X", "I-X", "B-X", "I-X", "I-Y", "O", "I-Y"]
    assert [entity[1:] for entity in judged_entities(tags, strict=True)] == [(2, 4)]
    assert [entity[1:] for entity in judged_entities(tags)] == [(0, 2), (2, 4), (4, 5), (6, 7)]
