"""How tags stand for entities: the scheme found, every tag checked, and all converted to IOB2.

``O`` is outside in all of them. ``IOB2`` begins each entity with ``B-`` and goes on with ``I-``; ``IOB1`` has
``B-`` only where an entity follows another of its type, ``IO`` never. ``BIOES``, ``BILOU`` and ``BMES`` also mark
the last word of an entity, and the one of a single word. ``plain`` is the type alone. ``none`` are tags of single
words, such as parts of speech.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray

from embedkit.data.columns import Task
from embedkit.data.dataset import Split
from embedkit.data.labels import LabelCodec
from embedkit.data.text import counted, name_of
from embedkit.errors import DataError
from embedkit.runtime.entities import OUTSIDE, entities_of, has_spans, parse_tag

Scheme: TypeAlias = Literal["none", "plain", "IO", "IOB1", "IOB2", "BIOES", "BILOU", "BMES"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
_Bools: TypeAlias = NDArray[np.bool_]
_Codes: TypeAlias = NDArray[np.int64]

_LETTERS = {"IO": "I", "IOB1": "IB", "IOB2": "BI", "BIOES": "BIES", "BILOU": "BILU", "BMES": "BMES"}
_TOLD_APART: tuple[Scheme, ...] = ("IOB2", "BIOES", "BILOU", "BMES")  # IO and IOB1 are told from IOB2 afterwards
_PREFIXED = re.compile(r"([BIMELSU])-.+|([BI])", re.DOTALL)  # B and I alone: entities without a type
# What is written elsewhere, and would pass for types: B_PER, b-PER; PER-B.
_WRITTEN_OTHERWISE = (
    re.compile(r"(?P<letter>[BIMELSU])[-_](?P<kind>.+)", re.DOTALL | re.IGNORECASE),
    re.compile(r"(?P<kind>.+)[-_](?P<letter>[BIMELSU])", re.DOTALL | re.IGNORECASE),
)


def with_iob2(splits: Mapping[str, Split], task: Task = "auto") -> tuple[dict[str, Split], Scheme, list[str]]:
    """Find how tags stand for entities, check every tag, and convert all to IOB2.

    The scheme is found on train, or on the first split with tags where there is no train: among those with
    prefixes the one that the fewest words break. Entities are read as `embedkit.runtime.entities.entities_of`
    (and conlleval) reads them, and stay as they are.

    Parameters
    ----------
    splits : mapping of str to Split
        Of lists of words. Those without tags stay as they are.
    task : Task, default "auto"
        ``"pos"``: each tag is of one word. ``"ner"``, ``"chunk"``: tags stand for entities, also without prefixes.
        Else they do where one of them is ``O`` or begins with ``B-`` or ``I-``.

    Returns
    -------
    splits : dict of str to Split
        As given, with tags in IOB2; untouched where the scheme is ``"none"``.
    scheme : str
        One of `SCHEMES`: what the tags were in.
    notes : list of str
        What was converted, once; and by split how many tags stand where their scheme does not allow them.

    Raises
    ------
    DataError
        A tag is not of the scheme (names file, row, word, tag, and what is allowed), or prefixes are written in a
        way that is not read, such as ``B_PER`` and ``PER-B``.
    """
    tags = {name: _Tags.of(split) for name, split in splits.items() if split.labels is not None}
    if task == "pos" or not tags:
        return dict(splits), "none", []
    first = [*(tags[name] for name in ("train",) if name in tags), *tags.values()]
    reference = next((some for some in first if some.names), first[0])
    scheme = _scheme_of(reference, task)
    if scheme == "none":
        return dict(splits), scheme, []
    if scheme == "IO" and any("B" in some.letters() for some in tags.values()):
        scheme = "IOB1"  # whose B- is so rare that train may have none
    converted, notes = dict(splits), _conversion(scheme, task)
    for name, some in tags.items():
        some.check(scheme, typed=reference.typed)
        misplaced = some.misplaced(scheme)
        converted[name] = some.converted(scheme, misplaced)
        notes += some.repairs(scheme, misplaced)
    return converted, scheme, notes


def tag_codec(declared: Sequence[str] | None, train: Split, scheme: Scheme) -> LabelCodec:
    """Return the tags of train in their order: as declared, if these are still the tags after `with_iob2`.

    Parameters
    ----------
    declared : sequence of str, optional
        What the data set declares, in order.
    train : Split
        Of `with_iob2`.
    scheme : str
        What its tags were in.
    """
    sentences = cast("list[list[str]]", train.labels or [])
    kept = (
        declared is not None
        and scheme in ("none", "IOB2")
        and set(chain.from_iterable(sentences)) <= set(declared)
    )
    return LabelCodec.fit(sentences, declared if kept else None)


def iob2_tags(tags: Sequence[object]) -> list[str]:
    """Return a sentence's tags in IOB2, with the same entities.

    Parameters
    ----------
    tags : sequence of str or None
        In any scheme with prefixes, or types alone; None counts as ``O``.

    Examples
    --------
    >>> iob2_tags(["U-PER", "O", "I-LOC", "L-LOC", None])
    ['B-PER', 'O', 'B-LOC', 'I-LOC', 'O']
    """
    written = [OUTSIDE] * len(tags)
    for kind, start, end in entities_of(tags):
        behind = f"-{kind}" if kind else ""
        written[start:end] = [f"B{behind}", *([f"I{behind}"] * (end - start - 1))]
    return written


@dataclass(frozen=True, eq=False)
class _Tags:
    """The tags of a split.

    `names` are those that occur, `codes` (W,) the place of each word's tag among them, `sizes` (N,) the words of
    each sentence.
    """

    split: Split
    names: list[str]
    codes: _Codes
    sizes: _Codes

    @classmethod
    def of(cls, split: Split) -> _Tags:
        sentences = cast("list[list[str]]", split.labels)
        flat = list(chain.from_iterable(sentences))
        code = {name: place for place, name in enumerate(dict.fromkeys(flat))}
        codes = np.fromiter(map(code.__getitem__, flat), np.int64, len(flat))
        return cls(split, list(code), codes, np.fromiter(map(len, sentences), np.int64, len(sentences)))

    def letters(self) -> set[str]:
        """Return the prefixes that occur."""
        found = (_PREFIXED.fullmatch(name) for name in self.names)
        return {match[1] or match[2] for match in found if match}

    @property
    def typed(self) -> bool:
        """Whether tags have types: not where they are B and I alone."""
        found = [match for match in map(_PREFIXED.fullmatch, self.names) if match]
        return not found or any(match[1] for match in found)

    def unknown(self, scheme: Scheme, *, typed: bool) -> _Bools:
        """Tell the words whose tag is not of the scheme, wherever it stands; shape (W,)."""
        wrong = [not _is_of(name, scheme, typed=typed) for name in self.names]
        return np.asarray(np.array(wrong, np.bool_)[self.codes])

    def misplaced(self, scheme: Scheme) -> _Bools:
        """Tell the words whose tag the scheme does not allow behind, or before, the tag beside it; shape (W,)."""
        parsed = [parse_tag(name) for name in self.names]
        kinds = {kind: place for place, (_, kind) in enumerate(parsed)}
        kind = np.array([kinds[kind] for _, kind in parsed], np.int64)[self.codes]
        begins, inside, ends = (
            np.array([says == letter for says, _ in parsed], np.bool_)[self.codes] for letter in "BIE"
        )
        joined = np.zeros(len(self.codes), np.bool_)  # to the word before, which an entity can go on from
        joined[1:] = (kind[1:] == kind[:-1]) & (begins | inside)[:-1]
        joined[(np.cumsum(self.sizes) - self.sizes)[self.sizes > 0]] = False
        if scheme == "IOB1":
            return begins & ~joined
        if scheme == "IOB2":
            return inside & ~joined
        if scheme in ("IO", "plain"):
            return np.zeros(len(self.codes), np.bool_)
        goes_on = np.append((joined & (inside | ends))[1:], False)[: len(joined)]
        return np.asarray(((inside | ends) & ~joined) | ((begins | inside) & ~goes_on))

    def check(self, scheme: Scheme, *, typed: bool) -> None:
        """Refuse a tag that is not of the scheme."""
        wrong = np.flatnonzero(self.unknown(scheme, typed=typed))
        if not len(wrong):
            return
        more = f" ({counted(len(wrong), 'such word')} in all)" if len(wrong) > 1 else ""
        raise DataError(
            f"{self.split.source}: {self._place(wrong[0])}{more}: not allowed in the scheme of these data, "
            f"{_shown(scheme)}; correct it, or pass --task pos if each tag is of one word"
        )

    def repairs(self, scheme: Scheme, misplaced: _Bools) -> list[str]:
        """Say how many tags stand where the scheme does not allow them."""
        count = int(misplaced.sum())
        if not count:
            return []
        return [
            f"{self.split.source}: tags that break {scheme}: {count:,} of {len(self.codes):,}, first in "
            f"{self._place(np.flatnonzero(misplaced)[0])}; entities are read as conlleval reads them"
        ]

    def converted(self, scheme: Scheme, misplaced: _Bools) -> Split:
        """Return the split with IOB2 tags; sentences that have them already are not copied."""
        sentences = cast("list[list[str]]", self.split.labels)
        changed = misplaced if scheme == "IOB2" else np.array(self.names, object)[self.codes] != OUTSIDE
        before = np.concatenate([[0], np.cumsum(changed)])
        ends = np.cumsum(self.sizes)
        labels = list(sentences)
        for place in np.flatnonzero(before[ends] > before[ends - self.sizes]).tolist():
            labels[place] = iob2_tags(sentences[place])
        return replace(self.split, labels=labels)

    def _place(self, word: np.int64) -> str:
        """Say where a word is, and its tag."""
        ends = np.cumsum(self.sizes)
        sentence = int(np.searchsorted(ends, word, side="right"))
        number = int(word - ends[sentence] + self.sizes[sentence]) + 1
        return f"row {self.split.rows[sentence]}, word {number}, tag {name_of(self.names[self.codes[word]])}"


def _is_of(name: str, scheme: Scheme, *, typed: bool) -> bool:
    """Whether a tag is of a scheme, with a type or, where tags have none, without."""
    if name == OUTSIDE:
        return True
    if scheme == "plain":
        return parse_tag(name) == ("I", name)
    match = _PREFIXED.fullmatch(name)
    return match is not None and (match[1] or match[2]) in _LETTERS[scheme] and typed == bool(match[1])


def _scheme_of(tags: _Tags, task: Task) -> Scheme:
    """Find the scheme of some tags."""
    if not has_spans(tags.names, task):
        return "none"
    letters = tags.letters()
    if not letters and set(tags.names) <= {OUTSIDE}:
        return "IOB2"  # no entity at all
    if not letters:
        _refuse_other_ways(tags)
        return "plain"
    broken = {one: tags.unknown(one, typed=tags.typed) | tags.misplaced(one) for one in _TOLD_APART}
    scheme = min(_TOLD_APART, key=lambda one: int(broken[one].sum()))
    if scheme != "IOB2":
        return scheme
    if "B" not in letters:
        return "IO"
    return "IOB2" if tags.misplaced("IOB1").any() else "IOB1"


def _refuse_other_ways(tags: _Tags) -> None:
    """Refuse tags that have prefixes, or suffixes, in a way that is not read: two of them of one type tell."""
    names = [name for name in tags.names if name != OUTSIDE]
    for pattern in _WRITTEN_OTHERWISE:
        found = [match for match in map(pattern.fullmatch, names) if match]
        letters = defaultdict[str, set[str]](set)
        for match in found:
            letters[match["kind"]].add(match["letter"].upper())
        if len(found) == len(names) and any(len(some) > 1 for some in letters.values()):
            proper = name_of(f"{found[0]['letter'].upper()}-{found[0]['kind']}")
            raise DataError(
                f"{tags.split.source}: tags such as {name_of(names[0])} are not read: write the prefix first, as "
                f"a capital with a hyphen behind it ({proper}), or pass --task pos if each tag is of one word"
            )


def _conversion(scheme: Scheme, task: Task) -> list[str]:
    """Say what the tags are converted from."""
    if scheme == "IOB2":
        return []
    if scheme == "plain":
        otherwise = "" if task in ("ner", "chunk") else "; --task pos takes each by itself"
        return [f"tags have no prefixes: neighbours with one tag are read as one entity{otherwise}"]
    apart = " (which cannot tell neighbours of one type apart)" if scheme == "IO" else ""
    return [f"tags are in the scheme {scheme}{apart} and are read as IOB2"]


def _shown(scheme: Scheme) -> str:
    """Say what a scheme allows."""
    if scheme == "plain":
        return "which are O and types without prefixes, such as PER"
    *some, last = (f"{letter}-" for letter in _LETTERS[scheme])
    return f"{scheme}: O, or a type behind {' or '.join(filter(None, [', '.join(some), last]))}"
