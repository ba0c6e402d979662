"""Tags of words judged: entities as conlleval counts them, or each tag by itself.

Words of one sentence are not independent, so every interval is by the bootstrap over sentences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedkit.errors import DataError, UsageError
from embedkit.metrics.counts import Bools, Counts, Floats, labels_averaged, macro_f1, micro_f1, ratio
from embedkit.metrics.intervals import (
    ALIKE,
    bootstrap,
    bootstrap_method,
    check_resamples,
    difference_interval,
    percentiles,
)
from embedkit.metrics.multiclass import confusion_matrix
from embedkit.runtime.entities import OUTSIDE, Entity, entities_of, parse_tag

Tag: TypeAlias = str | None
"""The tag of a word; None of one that was not read."""

CONLLEVAL, STRICT = "conlleval", "strict"
_IOB2 = ("O", "B", "I", "B-", "I-")  # how its tags begin


def tagging(
    true: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[Tag]],
    *,
    spans: bool,
    strict: bool = False,
    resamples: int = 1000,
    seed: int = 42,
) -> dict[str, Any]:
    """Judge the tags of words.

    Parameters
    ----------
    true, predicted : sequence of N sequences of str
        The tags of each sentence; as many predicted as true ones. A predicted tag may be None: with `spans` it
        counts as ``O``, else as an error.
    spans : bool
        Whether tags stand for entities (``O``, ``B-X``, ``I-X``), or each word for itself.
    strict : bool, default False
        An entity begins with ``B-`` alone, as in seqeval's ``mode="strict"`` with its scheme IOB2, where conlleval
        (Tjong Kim Sang and Buchholz, 2000) also begins one with an ``I-`` that continues nothing.
    resamples : int, default 1000
        Of the bootstrap.
    seed : int, default 42

    Returns
    -------
    dict
        Ready for JSON. A ratio without cases is 0.0.

        - ``n`` (sentences), ``words``; ``accuracy``, the share of words with the right tag, ``accuracy_ci95`` and
          ``accuracy_ci95_method``.
        - With `spans`, over all entities: ``precision``, ``recall``, ``f1``, ``f1_ci95``, ``f1_ci95_method``;
          ``per_type``: by type ``precision``, ``recall``, ``f1``, ``support`` (entities), ``predicted``; ``mode``:
          ``"conlleval"`` or ``"strict"``. An entity is right if its type, first and last word are.
        - Else ``macro_f1``, ``macro_f1_ci95``, ``macro_f1_ci95_method``, ``macro_f1_over``; ``per_tag``: by tag
          the same five.
        - ``tags`` and ``confusion`` (words; rows true, columns predicted, both in the order of ``tags``). The last
          of ``tags`` is None where single tags were predicted as None.

    Raises
    ------
    DataError
        There are no words, a sentence has not as many predicted tags as true ones, a true tag of a span has no
        prefix, or, with `strict`, a tag is not of IOB2.
    UsageError
        `strict` without `spans`, or no resamples.
    """
    check_resamples(resamples)
    words = _Words.read(true, predicted, spans=spans, strict=strict)
    method = f"{bootstrap_method(resamples, seed)}, sentences drawn whole"
    found = _entities(words, strict=strict) if spans else _singles(words)
    patterns = np.hstack([words.right.astype(found.sums.dtype), found.sums])
    drawn = _drawn(patterns, found.score, resamples, seed)
    name = "f1" if spans else "macro_f1"
    return {
        "n": len(words.lengths),
        "words": len(words.true),
        "accuracy": float(_share(words.right.sum(axis=0)[None])[0]),
        "accuracy_ci95": list(percentiles(drawn[:, 0])),
        "accuracy_ci95_method": method,
        **(found.overall() if spans else found.macro()),
        f"{name}_ci95": list(percentiles(drawn[:, 1])),
        f"{name}_ci95_method": method,
        "per_type" if spans else "per_tag": found.each(),
        **({"mode": STRICT if strict else CONLLEVAL} if spans else {}),
        "tags": list(words.tags),
        "confusion": confusion_matrix(words.true, words.predicted, len(words.tags)).tolist(),
    }


def entity_scores(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[Tag]]) -> dict[str, float]:
    """Return precision, recall and F1 over all entities as conlleval has them, and the accuracy over words.

    The quick figures of a run; parameters and errors are those of `tagging` with ``spans=True``.

    Examples
    --------
    >>> entity_scores([["B-PER", "I-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "O", "O"]])
    {'precision': 1.0, 'recall': 0.5, 'f1': 0.6666666666666666, 'accuracy': 0.75}
    """
    words = _Words.read(true, predicted, spans=True, strict=False)
    accuracy = float((words.true == words.predicted).mean())
    return {**_entities(words, strict=False).overall(), "accuracy": accuracy}


def span_difference(
    true: Sequence[Sequence[str]],
    first: Sequence[Sequence[Tag]],
    second: Sequence[Sequence[Tag]],
    *,
    spans: bool,
    strict: bool = False,
    resamples: int = 2000,
    seed: int = 42,
) -> dict[str, Any]:
    """Compare two taggers on the same sentences.

    Sentences are resampled together with both predictions, so what makes one hard for both cancels.

    Parameters
    ----------
    true, first, second : sequence of N sequences of str
        As for `tagging`.
    spans, strict, seed
        As for `tagging`.
    resamples : int, default 2000

    Returns
    -------
    dict
        Ready for JSON: ``metric`` (``"f1"`` over entities, or ``"accuracy"`` over words), ``first`` and ``second``
        (the scores), ``difference`` (first minus second: above 0 the first is better), ``ci95`` and ``method``.

    Raises
    ------
    DataError, UsageError
        As `tagging`.
    """
    check_resamples(resamples)
    sums = [sentence_patterns(true, predicted, spans=spans, strict=strict) for predicted in (first, second)]
    score = micro_f1 if spans else _share

    def both(drawn: Floats) -> Floats:
        return np.column_stack([score(drawn[:, :2]), score(drawn[:, 2:])])

    patterns = np.hstack(sums)
    scores = both(patterns.sum(axis=0, dtype=np.float64)[None])[0]
    distinct, rows = np.unique(patterns, axis=0, return_counts=True)
    drawn = bootstrap(distinct, rows, both, resamples=resamples, seed=seed)
    interval, alike = difference_interval(drawn[:, 0] - drawn[:, 1], int(rows.sum()))
    how = ALIKE if alike else f"paired {bootstrap_method(resamples, seed)}, sentences drawn whole"
    return {
        "metric": "f1" if spans else "accuracy",
        "first": float(scores[0]),
        "second": float(scores[1]),
        "difference": float(scores[0] - scores[1]),
        "ci95": list(interval),
        "method": how,
    }


def sentence_patterns(
    true: Sequence[Sequence[str]], predicted: Sequence[Sequence[Tag]], *, spans: bool, strict: bool = False
) -> NDArray[np.integer[Any]]:
    """Return what each sentence adds to F1 over entities, or to the accuracy over words.

    Parameters and errors are those of `tagging`.

    Returns
    -------
    ndarray of integers, shape (N, 2)
        Twice its right entities, and how many it has, true and predicted; or its right words, and all of them.
    """
    words = _Words.read(true, predicted, spans=spans, strict=strict)
    return _entities(words, strict=strict).sums if spans else words.right


def judged_entities(tags: Sequence[Tag], *, strict: bool = False) -> list[Entity]:
    """Return the entities of a sentence as `tagging` counts them; with `strict` those alone that ``B-`` begins."""
    found = entities_of(tags)
    return [entity for entity in found if parse_tag(tags[entity.start])[0] == "B"] if strict else found


@dataclass(frozen=True, eq=False)
class _Words:
    """All words of all sentences, tags as codes.

    `tags` are those that occur, in order; `true` and `predicted` (W,) are their places; `lengths` (N,) words of
    each sentence; `sentences` the tags of each as they were given, true and predicted.
    """

    tags: tuple[Tag, ...]
    true: Counts
    predicted: Counts
    lengths: Counts
    sentences: list[tuple[Sequence[Tag], Sequence[Tag]]]

    @classmethod
    def read(
        cls, true: Sequence[Sequence[str]], predicted: Sequence[Sequence[Tag]], *, spans: bool, strict: bool
    ) -> _Words:
        """Check what is given."""
        if strict and not spans:
            raise UsageError("strict is about entities, and these tags are of single words; leave it out")
        sentences = _paired(true, predicted)
        if spans:
            sentences = [(wanted, _without_none(given)) for wanted, given in sentences]
        flat = [list(chain.from_iterable(pair[side] for pair in sentences)) for side in (0, 1)]
        if not flat[0]:
            raise DataError("0 words: there is nothing to judge")
        if spans:
            _check_prefixes(set(flat[0]), set(flat[1]), strict=strict)
        tags = sorted(set(flat[0]) | set(flat[1]), key=_order if spans else _name)
        code = {tag: place for place, tag in enumerate(tags)}
        codes = [np.fromiter(map(code.__getitem__, side), np.int64, len(side)) for side in flat]
        lengths = np.fromiter((len(wanted) for wanted, _ in sentences), np.int64, len(sentences))
        return cls(tuple(tags), codes[0], codes[1], lengths, sentences)

    @property
    def right(self) -> Counts:
        """Words with the right tag in each sentence, and all of them; shape (N, 2)."""
        return np.column_stack([self.by_sentence(self.true == self.predicted), self.lengths])

    def by_sentence(self, chosen: Bools) -> Counts:
        """Count the chosen words (W,) of each sentence (N,)."""
        before = np.concatenate([[0], np.cumsum(chosen)])
        ends = np.cumsum(self.lengths)
        return np.asarray(before[ends] - before[ends - self.lengths], np.int64)


@dataclass(frozen=True, eq=False)
class _Counted:
    """What F1 is made of.

    `names` are the types of entities, or the tags; `hits`, `support` and `chosen` (L,) how many are right, true
    and predicted; `sums` (N, S) what each sentence adds, and `score` makes F1 of such sums.
    """

    names: list[str]
    hits: Counts
    support: Counts
    chosen: Counts
    sums: NDArray[np.integer[Any]]
    score: Callable[[Floats], Floats]

    def overall(self) -> dict[str, float]:
        """Return precision, recall and F1 over all."""
        hits, support, chosen = (float(part.sum()) for part in (self.hits, self.support, self.chosen))
        return _figures(hits, support, chosen)

    def macro(self) -> dict[str, Any]:
        """Return the mean of F1 over what occurs."""
        score = float(self.score(self.sums.sum(axis=0)[None])[0])
        return {"macro_f1": score, "macro_f1_over": labels_averaged(len(self.names))}

    def each(self) -> dict[str, dict[str, Any]]:
        """Return the figures of each type or tag."""
        parts = (part.tolist() for part in (self.hits, self.support, self.chosen))
        return {
            name: {**_figures(hits, support, chosen), "support": support, "predicted": chosen}
            for name, hits, support, chosen in zip(self.names, *parts, strict=True)
        }


def _entities(words: _Words, *, strict: bool) -> _Counted:
    """Count entities; a sentence adds twice its hits, and how many it has, true and predicted."""
    sums = np.zeros((len(words.sentences), 2), np.int64)
    counters: tuple[Counter[str], ...] = (Counter(), Counter(), Counter())
    for place, pair in enumerate(words.sentences):
        wanted, given = (set(judged_entities(tags, strict=strict)) for tags in pair)
        hits = wanted & given
        sums[place] = 2 * len(hits), len(wanted) + len(given)
        for counter, some in zip(counters, (hits, wanted, given), strict=True):
            counter.update(entity.kind for entity in some)
    kinds = sorted({*counters[1], *counters[2]})
    hits_of, support, chosen = (np.array([counter[kind] for kind in kinds], np.int64) for counter in counters)
    return _Counted(kinds, hits_of, support, chosen, sums, micro_f1)


def _singles(words: _Words) -> _Counted:
    """Count single tags; a sentence adds for each tag twice its hits, and how many it has, true and predicted."""
    names = [tag for tag in words.tags if tag is not None]  # None comes last, so that places stay
    width, rows = len(names), np.repeat(np.arange(len(words.lengths)), words.lengths)
    right, there = words.true == words.predicted, words.predicted < width
    # There may be thousands of tags: the smallest integers that hold the counts of a sentence.
    sums = np.zeros((len(words.lengths), 2 * width), np.min_scalar_type(2 * int(words.lengths.max())))
    np.add.at(sums, (rows[right], words.true[right]), 2)
    np.add.at(sums, (rows, width + words.true), 1)
    np.add.at(sums, (rows[there], width + words.predicted[there]), 1)
    hits, support, chosen = (
        np.bincount(codes, minlength=width) for codes in (words.true[right], words.true, words.predicted[there])
    )
    return _Counted(names, hits, support, chosen, sums, macro_f1)


def _figures(hits: float, support: float, chosen: float) -> dict[str, float]:
    parts = np.array([hits, hits, 2 * hits]), np.array([chosen, support, support + chosen])
    return dict(zip(("precision", "recall", "f1"), ratio(*parts).tolist(), strict=True))


def _share(sums: Floats | Counts) -> Floats:
    return ratio(sums[:, 0], sums[:, 1])


def _drawn(
    patterns: NDArray[np.integer[Any]], score: Callable[[Floats], Floats], resamples: int, seed: int
) -> Floats:
    """Return accuracy and F1 of resampled sentences, (resamples, 2)."""
    distinct, rows = np.unique(patterns, axis=0, return_counts=True)

    def both(sums: Floats) -> Floats:
        return np.column_stack([_share(sums[:, :2]), score(sums[:, 2:])])

    return bootstrap(distinct, rows, both, resamples=resamples, seed=seed)


def _paired(
    true: Sequence[Sequence[str]], predicted: Sequence[Sequence[Tag]]
) -> list[tuple[Sequence[Tag], Sequence[Tag]]]:
    """Return the true and predicted tags of each sentence; as many of one as of the other."""
    if len(true) != len(predicted):
        raise DataError(f"{len(true)} sentences with true tags but {len(predicted)} with predicted ones")
    for number, (wanted, given) in enumerate(zip(true, predicted, strict=True), 1):
        if len(wanted) != len(given):
            raise DataError(
                f"sentence {number}: {len(wanted)} true tags but {len(given)} predicted ones; each word needs one"
            )
    return list(zip(true, predicted, strict=True))


def _without_none(tags: Sequence[Tag]) -> Sequence[Tag]:
    return [OUTSIDE if tag is None else tag for tag in tags] if None in tags else tags


def _check_prefixes(true: Iterable[Tag], predicted: Iterable[Tag], *, strict: bool) -> None:
    """Refuse true tags that stand for no entity, and with `strict` all that are not IOB2."""
    wrong = sorted({tag for tag in true if parse_tag(tag) == ("I", tag)}, key=_name)
    if wrong:
        raise DataError(f"true tags of entities are O or have a prefix, such as B-PER; not {_shown(wrong)}")
    if strict:
        wrong = sorted({tag for tag in (*true, *predicted) if (tag or "")[:2] not in _IOB2}, key=_name)
        if wrong:
            raise DataError(f"strict figures are of IOB2 alone: O, B-X and I-X; not {_shown(wrong)}")


def _shown(tags: Sequence[Tag], limit: int = 5) -> str:
    more = f" and {len(tags) - limit} more" if len(tags) > limit else ""
    return ", ".join(ascii(tag)[:60] for tag in tags[:limit]) + more


def _order(tag: Tag) -> tuple[bool, str, str]:
    """O comes first, then B-X and I-X of each type."""
    says, kind = parse_tag(tag)
    return says != OUTSIDE, kind, tag or ""


def _name(tag: Tag) -> tuple[bool, str]:
    """None comes last."""
    return tag is None, tag or ""
