"""Few-shot samples: some labelled rows of each class, by a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from embedkit.data.checks import class_counts, require_classes
from embedkit.data.dataset import Split
from embedkit.data.labels import sorted_labels
from embedkit.data.splits import Positions, groups_of, has_label_sets
from embedkit.data.text import counted, name_of, names_of, rows_said
from embedkit.errors import DataError, UsageError

_SHOWN = 12  # classes that a message names


@dataclass(frozen=True, eq=False)
class Shots:
    """A few-shot sample of a split.

    Attributes
    ----------
    shots : int
        Rows of each class that were asked for.
    seed : int
    split : Split
        The rows that were drawn, in the order of the file; ``split.rows`` are their data rows, from 1.
    counts : dict
        Rows that were drawn, by label, in the order of the labels; where rows have several labels a row counts
        for each of its labels.
    notes : list of str
        What is worth saying of the draw.
    """

    shots: int
    seed: int
    split: Split
    counts: dict[Any, int]
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return which rows were drawn, of what, and how; no texts."""
        return {
            "shots": self.shots,
            "seed": self.seed,
            "split": self.split.name,
            "rows": self.split.rows.tolist(),
        }


class _NoLabel:
    """What rows without any label have, where others have several: they are drawn like those of a label."""

    def __repr__(self) -> str:
        return "no label"


_NO_LABEL: Final = _NoLabel()


def draw_shots(split: Split, shots: int, *, seed: int) -> Shots:
    """Draw labelled rows of each class.

    Equal texts count once: the first of them can be drawn. Texts that have more than one label cannot be drawn at
    all, because no label of theirs can be trusted; how many they are is said. A class that has fewer texts than
    `shots` gives all of them, which is said too. Where rows have several labels, so many rows are drawn of each
    label, and of those without any; a row that is drawn for two labels stands in the sample once, so that a label
    may have more rows than `shots`.

    Each class is drawn from by a generator of its own, seeded with the seed and the place of the class in their
    order, so that for one seed a smaller sample lies inside every larger one, and the same rows come out on every
    machine.

    Parameters
    ----------
    split : Split
        Labelled texts or pairs.
    shots : int
        Rows of each class, at least 1.
    seed : int
        From 0 up.

    Returns
    -------
    Shots

    Raises
    ------
    UsageError
        `shots` is below 1, or `seed` below 0.
    DataError
        There are no labels, or rows are lists of words; there is one class only; or a class has no text whose
        label can be trusted.
    """
    _check(split, shots, seed)
    labels: Sequence[Any] = split.labels or []
    places = _places_by_label(labels)
    if len(places) < 2:
        require_classes(class_counts(labels), split.source)
    usable, notes = _usable(split)
    texts = {label: found[usable[found]] for label, found in places.items()}
    if lacking := [label for label, found in texts.items() if not len(found)]:
        said = f"{'class' if len(lacking) == 1 else 'classes'} {names_of(lacking)}"
        raise DataError(
            f"{split.source}: every text of {said} also stands with another label, so none can be drawn; correct "
            "the labels"
        )
    if few := {label: len(found) for label, found in texts.items() if len(found) < shots}:
        notes.append(_few_said(split, few, shots))
    drawn = [
        np.random.default_rng([seed, place]).permutation(found)[:shots]
        for place, found in enumerate(texts.values())
    ]
    sample = split.take(np.unique(np.concatenate(drawn)))
    return Shots(int(shots), int(seed), sample, class_counts(sample.labels), notes)


def _check(split: Split, shots: int, seed: int) -> None:
    """Refuse what no sample can be drawn of."""
    for name, value, least in (("shots", shots, 1), ("seed", seed, 0)):
        given: object = value
        if isinstance(given, bool) or not isinstance(given, int | np.integer) or given < least:
            raise UsageError(f"{name} is {value!r}; it must be a whole number from {least} up")
    if split.kind == "tokens":
        raise DataError(
            f"{split.source}: few-shot samples are drawn of texts or pairs, and these rows are lists of words"
        )
    if split.labels is None or not len(split):
        raise DataError(f"{split.source}: no labelled rows; name the column of the labels with --label-column")


def _places_by_label(labels: Sequence[Any]) -> dict[Any, Positions]:
    """Return the positions of each label's rows, labels in their order, rows without any last."""
    places: dict[Any, list[int]] = {}
    several = has_label_sets(labels)
    for place, given in enumerate(labels):
        for label in (dict.fromkeys(given) or [_NO_LABEL]) if several else [given]:
            places.setdefault(label, []).append(place)
    bare = places.pop(_NO_LABEL, None)
    ordered: dict[Any, list[int]] = {label: places[label] for label in sorted_labels(places)}
    if bare is not None:
        ordered[_NO_LABEL] = bare
    return {label: np.array(found, dtype=np.int64) for label, found in ordered.items()}


def _usable(split: Split) -> tuple[np.ndarray[Any, np.dtype[np.bool_]], list[str]]:
    """Return which rows can be drawn: the first of equal texts, where all of them have the same label."""
    groups = groups_of(split.inputs)
    labels: Sequence[Any] = split.labels or []
    keys = [frozenset(label) for label in labels] if has_label_sets(labels) else labels
    _, first = np.unique(groups, return_index=True)
    differs = np.array([key != keys[first[group]] for key, group in zip(keys, groups, strict=True)], np.bool_)
    conflicting = np.unique(groups[differs])
    usable = np.zeros(len(split), dtype=np.bool_)
    usable[first] = True
    usable[first[conflicting]] = False
    if not len(conflicting):
        return usable, []
    other = int(np.flatnonzero(differs)[0])
    example = rows_said([int(split.rows[first[groups[other]]]), int(split.rows[other])])
    has = "has" if len(conflicting) == 1 else "have"
    said = f"{counted(len(conflicting), 'text')} {has} more than one label (e.g. {example}) and cannot be drawn"
    return usable, [f"{split.source}: {said}"]


def _few_said(split: Split, few: dict[Any, int], shots: int) -> str:
    asked = f"{counted(shots, 'text')} of each class {'was' if shots == 1 else 'were'} asked for"
    has = counted(len(few), "class has", "classes have")
    said = ", ".join(f"{name_of(label)} ({count})" for label, count in list(few.items())[:_SHOWN])
    more = f" and {len(few) - _SHOWN:,} more" if len(few) > _SHOWN else ""
    return f"{split.source}: {asked}; {has} fewer, and all of them are taken: {said}{more}"
