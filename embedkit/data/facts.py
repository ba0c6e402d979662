"""Facts about data, as `embedkit inspect` shows them: everything JSON, texts escaped and cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedkit.data.checks import class_counts, conflicts, duplicates, leaks, unseen_labels
from embedkit.data.dataset import Dataset, Split
from embedkit.data.text import printable

EXAMPLE_CHARACTERS = 200
_QUANTILES = {"median": 0.5, "p90": 0.9, "p99": 0.99}


class TokenCounter(Protocol):
    """What counts tokens; a model's tokenizer with its limit."""

    @property
    def max_length(self) -> int:
        """Tokens that the model takes, special ones included."""

    def count(self, inputs: Sequence[Any]) -> NDArray[np.int64]:
        """Return the tokens of each input without truncation, special ones included; shape (n,)."""


def describe(
    dataset: Dataset, *, examples: int = 5, seed: int = 42, tokenizer: TokenCounter | None = None
) -> dict[str, Any]:
    """Return facts about every split; reads one split at a time, and keeps train for comparison.

    Parameters
    ----------
    dataset : Dataset
    examples : int, default 5
        Rows drawn at random from the first split.
    seed : int, default 42
    tokenizer : TokenCounter, optional
        Adds ``"tokens"`` to each split.

    Returns
    -------
    dict
        ``name``, ``kind``, ``inputs`` and ``label`` (columns), ``columns`` (all), ``declared``,
        ``splits`` (by name: ``source``, ``rows``, ``labels`` with counts or None, ``characters``, ``words``,
        with a tokenizer ``tokens``; ``duplicates``: rows that repeat an earlier one; ``conflicts``: texts with
        more than one label), ``leaks`` (by split: rows whose text also stands in train), ``unseen_labels``
        (by split: counts), ``examples``, ``notes``. Lengths have ``min``, ``mean``, ``median``, ``p90``, ``p99``,
        ``max``; ``tokens`` also ``max_length``, ``truncated`` (rows) and ``truncated_share``.
    """
    first = next(iter(dataset.sources.values()))
    facts: dict[str, Any] = {
        "name": dataset.name,
        "kind": dataset.kind,
        "inputs": list(first.roles.inputs),
        "label": first.roles.label,
        "columns": list(first.columns),
        "declared": None if dataset.declared is None else list(dataset.declared),
        "splits": {},
        "leaks": {},
        "unseen_labels": {},
        "examples": [],
    }
    reference: Split | None = None
    for name in dataset.sources:
        split = dataset.split(name, columns=False)
        facts["splits"][name] = _split_facts(split, tokenizer)
        if reference is not None:
            facts["leaks"][name] = len(leaks(reference, split))
            if reference.labels is not None and split.labels is not None:
                facts["unseen_labels"][name] = _by_name(unseen_labels(reference.labels, split.labels))
        if not facts["examples"]:
            facts["examples"] = _examples(split, examples, seed)
        if name == "train":
            reference = split
    facts["notes"] = list(dataset.notes)
    return facts


def _split_facts(split: Split, tokenizer: TokenCounter | None) -> dict[str, Any]:
    found = conflicts(split)
    facts: dict[str, Any] = {
        "source": split.source,
        "rows": len(split),
        "labels": None if split.labels is None else _by_name(class_counts(split.labels)),
        "characters": _lengths(_characters(value) for value in split.inputs),
        "words": _lengths(_words(value) for value in split.inputs),
        "duplicates": len(duplicates(split.inputs)),
        "conflicts": {"texts": found.texts, "example_rows": list(found.example)},
    }
    if tokenizer is not None:
        facts["tokens"] = _token_facts(split, tokenizer)
    return facts


def _token_facts(split: Split, tokenizer: TokenCounter, rows: int = 4096) -> dict[str, Any]:
    counts = [tokenizer.count(split.inputs[i : i + rows]) for i in range(0, len(split), rows)]
    lengths = np.concatenate(counts) if counts else np.array([], dtype=np.int64)
    cut = int((lengths > tokenizer.max_length).sum())
    return {
        **_lengths(lengths.tolist()),
        "max_length": int(tokenizer.max_length),
        "truncated": cut,
        "truncated_share": cut / max(len(lengths), 1),
    }


def _by_name(counts: Mapping[Any, int]) -> dict[str, int]:
    return {str(label): rows for label, rows in counts.items()}


def _characters(value: str | Sequence[str]) -> int:
    return len(value) if isinstance(value, str) else sum(map(len, value))


def _words(value: str | Sequence[str]) -> int:
    if isinstance(value, list):
        return len(value)
    return len(value.split()) if isinstance(value, str) else sum(len(text.split()) for text in value)


def _lengths(values: Iterable[int]) -> dict[str, float]:
    """Return the spread of lengths; quantiles are lengths that occur."""
    lengths = np.fromiter(values, np.int64)
    if not len(lengths):
        return dict.fromkeys(("min", "mean", *_QUANTILES, "max"), 0)
    quantiles = np.quantile(lengths, list(_QUANTILES.values()), method="inverted_cdf")
    return {
        "min": int(lengths.min()),
        "mean": round(float(lengths.mean()), 2),
        **{name: int(value) for name, value in zip(_QUANTILES, quantiles, strict=True)},
        "max": int(lengths.max()),
    }


def _examples(split: Split, count: int, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(len(split), size=min(count, len(split)), replace=False)).tolist()
    return [_example(split, place) for place in chosen]


def _example(split: Split, place: int) -> dict[str, Any]:
    value = split.inputs[place]
    texts = [value] if isinstance(value, str) else [" ".join(value)] if isinstance(value, list) else list(value)
    label: Any = None if split.labels is None else split.labels[place]
    if isinstance(label, list):
        label = (
            printable(" ".join(label), EXAMPLE_CHARACTERS) if split.kind == "tokens" else [*map(printable, label)]
        )
    elif isinstance(label, str):
        label = printable(label)
    return {
        "split": split.name,
        "row": int(split.rows[place]),
        "text": printable(texts[0], EXAMPLE_CHARACTERS),
        **({"pair": printable(texts[1], EXAMPLE_CHARACTERS)} if len(texts) > 1 else {}),
        "label": label,
    }
