"""Cheap checks of labels and texts that run before any model is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedkit.data.dataset import Split
from embedkit.data.labels import sorted_labels
from embedkit.data.rows import look_alikes
from embedkit.data.splits import groups_of, has_label_sets
from embedkit.data.text import counted, name_of, names_of, rows_said
from embedkit.errors import DataError


def class_counts(labels: Iterable[Any] | None) -> dict[Any, int]:
    """Count the rows of each class, classes in their order; a row counts for each of its labels or tags."""
    if labels is None:
        return {}
    counts: Counter[Any] = Counter()
    for label in labels.tolist() if isinstance(labels, np.ndarray) else labels:
        counts.update(label if isinstance(label, (list, tuple)) else (label,))
    return {label: counts[label] for label in sorted_labels(counts)}


def require_classes(labels: Iterable[Any] | Mapping[Any, int] | None, where: str) -> dict[Any, int]:
    """Raise `DataError` unless there are rows of two classes; return the counts.

    Parameters
    ----------
    labels : iterable or mapping
        Labels, or rows by label.
    where : str
        File or split, for the message.
    """
    counts = dict(labels) if isinstance(labels, Mapping) else class_counts(labels)
    if not counts:
        raise DataError(f"{where}: no labelled rows; training needs rows of at least two classes")
    if len(counts) == 1:
        ((label, rows),) = counts.items()
        raise DataError(
            f"{where}: only one class ({name_of(label)}, {counted(rows, 'row')}); training needs at least two"
        )
    return counts


def unseen_labels(train: Iterable[Any] | None, other: Iterable[Any] | None) -> dict[Any, int]:
    """Count the rows of `other` whose label does not occur in `train`, by label."""
    known = class_counts(train)
    return {label: rows for label, rows in class_counts(other).items() if label not in known}


def _key(value: Hashable | list[str]) -> Hashable:
    return tuple(value) if isinstance(value, list) else value


def duplicates(inputs: Iterable[Any]) -> NDArray[np.int64]:
    """Return the positions (from 0) of inputs that equal an earlier one."""
    groups = groups_of(inputs)
    repeated = np.ones(len(groups), dtype=np.bool_)
    repeated[np.unique(groups, return_index=True)[1]] = False
    return np.flatnonzero(repeated)


def leaks(train: Split, other: Split) -> NDArray[np.int64]:
    """Return the data rows (from 1) of `other` whose input also stands in `train`."""
    known = {_key(value) for value in train.inputs}
    return other.rows[[i for i, value in enumerate(other.inputs) if _key(value) in known]]


@dataclass(frozen=True)
class Conflicts:
    """Equal inputs with different labels.

    Attributes
    ----------
    texts : int
        Distinct inputs with more than one label.
    example : tuple of int
        Two data rows (from 1) that disagree; empty without a conflict.
    """

    texts: int
    example: tuple[int, ...]


def conflicts(split: Split) -> Conflicts:
    """Find equal inputs with different labels within a split."""
    if split.labels is None:
        return Conflicts(0, ())
    first: dict[Hashable, tuple[int, Any]] = {}
    found: dict[Hashable, tuple[int, int]] = {}
    several = split.kind != "tokens"  # the order of a row's labels says nothing, that of tags does
    for value, given, row in zip(split.inputs, split.labels, split.rows.tolist(), strict=True):
        key, label = _key(value), sorted(given) if several and isinstance(given, list) else given
        earlier_row, earlier = first.setdefault(key, (row, label))
        if earlier != label and key not in found:
            found[key] = (earlier_row, row)
    return Conflicts(len(found), next(iter(found.values()), ()))


def small_classes(labels: Sequence[Any], k: int) -> str | None:
    """Say which classes have fewer rows than there are folds; None if none has."""
    few = {label: rows for label, rows in class_counts(labels).items() if rows < k}
    if not few:
        return None
    said = ", ".join(f"{name_of(label)} ({rows})" for label, rows in list(few.items())[:12])
    return f"{counted(len(few), 'class has', 'classes have')} fewer rows than the {k} folds: {said}"


def rare_rows(split: Split) -> NDArray[np.int64]:
    """Return the positions (from 0) of rows whose class has one distinct input; none where rows have sets."""
    if split.labels is None or has_label_sets(split.labels):
        return np.array([], dtype=np.int64)
    inputs: dict[Any, set[Hashable]] = {}
    for value, label in zip(split.inputs, split.labels, strict=True):
        inputs.setdefault(label, set()).add(_key(value))
    return np.array([i for i, label in enumerate(split.labels) if len(inputs[label]) == 1], dtype=np.int64)


def check_splits(splits: Mapping[str, Split]) -> list[str]:
    """Return what is worth saying about splits before anything is fitted on ``train``.

    Duplicates with conflicting labels, labels that only another split has, texts that stand in train and
    in another split or in validation and test, labels that look alike across splits.

    Parameters
    ----------
    splits : mapping of str to Split
        Without ``"train"`` only conflicts are looked for.
    """
    said = []
    for split in splits.values():
        found = conflicts(split)
        if found.texts:
            has = "has" if found.texts == 1 else "have"
            said.append(
                f"{split.source}: {counted(found.texts, 'text')} {has} more than one label "
                f"(e.g. {rows_said(found.example)})"
            )
    train = splits.get("train")
    for name, split in splits.items():
        if train is not None and name != "train":
            said += _against(train, split)
    if "validation" in splits and "test" in splits:
        said += _leak(splits["validation"], splits["test"])
    return said


def _against(train: Split, split: Split) -> list[str]:
    said = []
    if train.labels is not None and split.labels is not None:
        unseen = unseen_labels(train.labels, split.labels)
        if unseen:
            noun = "tag" if train.kind == "tokens" else "row"
            said.append(
                f"{split.name}: labels {names_of(unseen)} ({counted(sum(unseen.values()), noun)}) do not occur in "
                "train and count as errors"
            )
            known = class_counts(train.labels)
            alike = set(look_alikes({**known, **unseen})) - set(look_alikes(known))
            said += [f"{split.name} and train: {note}" for note in sorted(alike)]
    return said + _leak(train, split)


def _leak(seen: Split, split: Split) -> list[str]:
    """Say how many rows of a split also stand in one that a model is fitted or tuned on."""
    rows = leaks(seen, split)
    if not len(rows):
        return []
    return [
        f"{split.name}: {counted(len(rows), 'text')} of {len(split):,} also in {seen.name} "
        f"({rows_said(rows.tolist())} of {split.source}); figures on them flatter the model"
    ]
