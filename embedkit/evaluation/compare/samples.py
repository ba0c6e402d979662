"""What each method learns from: the same rows for all of them, smaller samples inside larger ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from embedkit.data import Split, class_counts, groups_of
from embedkit.data.shots import draw_shots
from embedkit.data.text import counted
from embedkit.errors import UsageError
from embedkit.evaluation.compare.result import Size

FULL = "full"
USUAL = {False: (8, 32, 128), True: (100, 1000)}
"""Sizes where none are named, below all of train: rows a class; of words with tags sentences."""


def parse_shots(text: str) -> list[int | None]:
    """Read ``8,32,full``: ascending, each once; None stands for all of train.

    Raises
    ------
    UsageError
        A part is no whole number from 1 up and not ``full``, or stands twice.

    Examples
    --------
    >>> parse_shots("32,full,8")
    [8, 32, None]
    """
    parts = [part.strip() for part in text.split(",")]
    wrong = [part for part in parts if part != FULL and not (part.isdecimal() and 0 < int(part) < 10**9)]
    if wrong or len(set(parts)) < len(parts):
        raise UsageError(f"--shots {text!r}: give rows a class and full, each once, such as 8,32,128,full")
    numbers = sorted(int(part) for part in parts if part != FULL)
    return [*numbers, None] if FULL in parts else [*numbers]


def usual_shots(train: Split) -> list[int | None]:
    """Return the usual sizes that are smaller than train, and all of it."""
    most = largest(train)
    return [*(shots for shots in USUAL[train.kind == "tokens"] if shots < most), None]


def largest(train: Split) -> int:
    """Return the rows of the largest class; of words with tags the sentences."""
    return len(train) if train.kind == "tokens" else max(class_counts(train.labels or []).values())


def draw(train: Split, shots: int | None, seed: int) -> tuple[Split, list[str]]:
    """Return the rows of a sample, and what is worth saying of it.

    Texts and pairs are drawn a class each by `embedkit.data.shots.draw_shots`; of words with tags distinct
    sentences in all, because one holds several tags.

    Raises
    ------
    UsageError, DataError
        As of `embedkit.data.shots.draw_shots`.
    """
    if shots is None:
        return train, []
    if train.kind != "tokens":
        drawn = draw_shots(train, shots, seed=seed)
        return drawn.split, list(drawn.notes)
    _, first = np.unique(groups_of(train.inputs), return_index=True)
    chosen = np.random.default_rng(seed).permutation(np.sort(first))[:shots]
    few = f"{len(first):,} of the {counted(len(train), 'sentence')} of train are different: all are taken"
    return train.take(np.sort(chosen)), [few] * (len(chosen) < shots)


def size_of(train: Split, sample: Split, shots: int | None) -> Size:
    """Describe a size by its sample."""
    name = FULL if shots is None else str(shots)
    if train.kind == "tokens":
        return Size(name, shots, len(sample), float(len(sample)))
    classes, rows = (class_counts(cast("Sequence[Any]", some.labels or [])) for some in (train, sample))
    return Size(name, shots, len(sample), sum(rows.values()) / max(1, len(classes)))


def beyond(train: Split, shots: int | None) -> str:
    """Say why a size is no sample: no class has that many rows; empty where it is one."""
    most = largest(train)
    if shots is None or shots <= most:
        return ""
    what = counted(most, "sentence") if train.kind == "tokens" else f"{counted(most, 'row')} of a class"
    return f"{train.source} has at most {what}; full takes all"
