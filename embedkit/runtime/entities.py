"""Tags of words to entities, as the evaluation of CoNLL-2000 and 2003 (conlleval) has them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple, TypedDict

OUTSIDE = "O"
TAG_TASKS = ("ner", "chunk", "pos")  # what training may be told of its tags
# Prefixes of BIO (IOB1, IOB2), BIOES, BILOU and BMES; what each of them means to conlleval.
_PREFIXES = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S"}


class Entity(NamedTuple):
    """Words that belong together.

    Attributes
    ----------
    kind : str
    start, end : int
        First word and the one after the last.
    """

    kind: str
    start: int
    end: int


class FoundEntity(TypedDict):
    """An entity in a text: ``text[start:end]`` is `word`; `score` is the mean of its words' probabilities."""

    entity_group: str
    score: float
    word: str
    start: int
    end: int


def has_spans(labels: Iterable[object], task: str = "auto") -> bool:
    """Say whether tags stand for spans of words, or each of them for one word.

    Parameters
    ----------
    labels : iterable of str
    task : str, default "auto"
        What training was told: ``"ner"`` and ``"chunk"`` are spans, ``"pos"`` single words. Anything else
        leaves it to a guess, as for folders of others, which say nothing: spans where a label is ``O`` or begins
        with ``B-`` or ``I-``; so also kinds without prefixes beside ``O``, and parts of speech with a tag ``O``.
    """
    if task in TAG_TASKS:
        return task != "pos"
    return any(str(label) == OUTSIDE or str(label).startswith(("B-", "I-")) for label in labels)


@lru_cache(maxsize=4096)  # a tagger has few tags and many words
def parse_tag(tag: Hashable) -> tuple[str, str]:
    """Return what a tag says, ``B``, ``I``, ``E``, ``S`` or ``O``, and the kind of entity.

    A tag without prefix (schemes with kinds alone) continues what has the same kind, as ``I-`` does.

    Examples
    --------
    >>> [parse_tag(tag) for tag in ("B-PER", "U-PER", "PER", "O", "I")]
    [('B', 'PER'), ('S', 'PER'), ('I', 'PER'), ('O', ''), ('I', '')]
    """
    if tag is None or tag == OUTSIDE:
        return OUTSIDE, ""
    name = str(tag)
    prefix, dash, kind = name.partition("-")
    if dash and prefix in _PREFIXES:
        return _PREFIXES[prefix], kind
    return (name, "") if name in ("B", "I") else ("I", name)


def entities_of(tags: Sequence[Hashable]) -> list[Entity]:
    """Return the entities of a sentence's tags.

    An entity goes on from a word with ``B`` or ``I`` to one with ``I`` or ``E`` of the same kind; any other tag
    but ``O`` begins one. So does ``I-`` after ``O`` or after another kind (IOB1, and what is no scheme at all).

    Parameters
    ----------
    tags : sequence of str or None
        None counts as ``O``.

    Examples
    --------
    >>> entities_of(["B-PER", "I-PER", "O", "I-LOC", "B-LOC"])
    [Entity(kind='PER', start=0, end=2), Entity(kind='LOC', start=3, end=4), Entity(kind='LOC', start=4, end=5)]
    """
    found: list[Entity] = []
    before, of = OUTSIDE, ""
    for place, tag in enumerate(tags):
        says, kind = parse_tag(tag)
        if says != OUTSIDE:
            if before in ("B", "I") and says in ("I", "E") and kind == of:
                found[-1] = found[-1]._replace(end=place + 1)
            else:
                found.append(Entity(kind, place, place + 1))
        before, of = says, kind
    return found


def locate_entities(
    text: str, spans: Sequence[tuple[int, int]], tags: Sequence[Hashable], scores: Sequence[float | None]
) -> list[FoundEntity]:
    """Return the entities of a text's words.

    Parameters
    ----------
    text : str
    spans : sequence of (int, int)
        Where its words are.
    tags, scores : sequence
        Of each word, as `embedkit.runtime.tagging.TokenAnswers` has them.
    """
    found: list[FoundEntity] = []
    for kind, first, last in entities_of(tags):
        start, end = spans[first][0], spans[last - 1][1]
        known = [score for score in scores[first:last] if score is not None]
        mean = sum(known) / len(known) if known else 0.0
        found.append({"entity_group": kind, "score": mean, "word": text[start:end], "start": start, "end": end})
    return found
