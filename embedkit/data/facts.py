"""Facts about data, as `embedkit inspect` shows them: everything JSON, texts escaped and cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from embedkit.data.checks import class_counts, conflicts, duplicates, leaks, unseen_labels
from embedkit.data.columns import Task
from embedkit.data.dataset import Dataset, Split
from embedkit.data.schemes import Scheme, with_iob2
from embedkit.data.text import printable
from embedkit.runtime.entities import OUTSIDE, entities_of
from embedkit.runtime.tokens import Words, WordTokens

EXAMPLE_CHARACTERS = 200
_WORD_CHARACTERS = 40
_QUANTILES = {"median": 0.5, "p90": 0.9, "p99": 0.99}


class TokenCounter(Protocol):
    """What counts tokens; a model's tokenizer with its limit."""

    @property
    def max_length(self) -> int:
        """Tokens that the model takes, special ones included."""

    def count(self, inputs: Sequence[Any]) -> NDArray[np.int64]:
        """Return the tokens of each input without truncation, special ones included; shape (n,)."""

    def count_words(self, sentences: Sequence[Words]) -> NDArray[np.int64]:
        """Return the same of each list of words."""

    def encode_words(self, sentences: Sequence[Words]) -> WordTokens:
        """Tokenise lists of words."""

    def name(self, token: int) -> str:
        """Return how the vocabulary writes a token."""


Labelling: TypeAlias = Callable[[Sequence[str], WordTokens, Sequence[str]], Mapping[str, Sequence[str | None]]]
"""From the tags of a sentence, its tokens and all tags to what each token learns (None for nothing), by rule."""


def describe(
    dataset: Dataset,
    *,
    examples: int = 5,
    seed: int = 42,
    tokenizer: TokenCounter | None = None,
    task: Task = "auto",
    labelling: Labelling | None = None,
    parted: Mapping[str, Split] | None = None,
) -> dict[str, Any]:
    """Return facts about every split; reads one split at a time, and keeps train for comparison.

    Parameters
    ----------
    dataset : Dataset
        Of lists of words all splits are kept.
    examples : int, default 5
        Rows drawn at random from the first split.
    seed : int, default 42
    tokenizer : TokenCounter, optional
        Adds ``"tokens"`` to each split.
    task : Task, default "auto"
        What tags stand for, as `embedkit.data.schemes.with_iob2` takes it.
    labelling : callable, optional
        With `tokenizer`, adds ``"labelling"`` for lists of words with tags.
    parted : mapping of str to Split, optional
        Splits to describe instead of those that the data come in, such as one file's train and test.

    Returns
    -------
    dict
        ``name``, ``kind``, ``inputs`` and ``label`` (columns), ``columns`` (all), ``declared``,
        ``splits`` (by name: ``source``, ``rows``, ``labels`` with counts or None, ``characters``, ``words``,
        with a tokenizer ``tokens``; ``duplicates``: rows that repeat an earlier one; ``conflicts``: texts with
        more than one label), ``leaks`` (by split: rows whose text also stands in train), ``unseen_labels``
        (by split: counts), ``examples``, ``notes``. Lengths have ``min``, ``mean``, ``median``, ``p90``, ``p99``,
        ``max``; ``tokens`` also ``max_length``, ``truncated`` (rows) and ``truncated_share``.

        Of lists of words also ``scheme``, None without tags; ``entities`` of each split, by type, None where tags
        are of single words; and in ``tokens``, instead of ``truncated``, ``windowed`` and ``windowed_share`` (rows
        with more tokens than `max_length`, which are read in windows) and ``unknown_words``, which have no token.
        ``labelling`` is one of the examples, with an entity in several sub-tokens if one has any: ``split``,
        ``row``, ``words`` (``word``, ``subtokens``, and by rule a tag or None for each of these).

    Raises
    ------
    DataError
        A tag is of no scheme; see `embedkit.data.schemes.with_iob2`.
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
    tagged, scheme, said = _tagged(dataset, task, parted)
    reference: Split | None = None
    for name in parted or dataset.sources:
        split = tagged[name][0] if name in tagged else _split(dataset, name, parted)
        facts["splits"][name] = _split_facts(split, tokenizer)
        if name in tagged:
            facts["splits"][name]["entities"] = _entities(tagged[name][1], scheme)
        if reference is not None:
            facts["leaks"][name] = len(leaks(reference, split))
            if reference.labels is not None and split.labels is not None:
                facts["unseen_labels"][name] = _by_name(unseen_labels(reference.labels, split.labels))
        if not facts["examples"]:
            facts["examples"] = [_example(split, place) for place in _drawn(split, examples, seed)]
        if name == "train":
            reference = split
    if tagged:
        facts["scheme"] = scheme
        if tokenizer is not None and labelling is not None:
            (_, split), *_ = tagged.values()
            facts["labelling"] = _labelled(split, _drawn(split, examples, seed), tokenizer, labelling)
    facts["notes"] = [*dataset.notes, *said]
    return facts


def _split(dataset: Dataset, name: str, parted: Mapping[str, Split] | None) -> Split:
    return parted[name] if parted else dataset.split(name, columns=False)


def _tagged(
    dataset: Dataset, task: Task, parted: Mapping[str, Split] | None
) -> tuple[dict[str, tuple[Split, Split]], Scheme | None, list[str]]:
    """Read the splits of lists of words, each as it is and with IOB2 tags; with the scheme and its notes."""
    if dataset.kind != "tokens":
        return {}, None, []
    splits = {name: _split(dataset, name, parted) for name in parted or dataset.sources}
    converted, scheme, notes = with_iob2(splits, task)
    labelled = any(split.labels is not None for split in splits.values())
    return {name: (split, converted[name]) for name, split in splits.items()}, scheme if labelled else None, notes


def _entities(split: Split, scheme: Scheme | None) -> dict[str, int] | None:
    """Count the entities of each type."""
    if split.labels is None or scheme in (None, "none"):
        return None
    counts = Counter(entity.kind for tags in _tags(split) for entity in entities_of(tags))
    return {kind: counts[kind] for kind in sorted(counts)}


def _tags(split: Split) -> list[list[str]]:
    return cast("list[list[str]]", split.labels)


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
    parts: list[Any] = [split.inputs[i : i + rows] for i in range(0, len(split), rows)]
    count = tokenizer.count_words if split.kind == "tokens" else tokenizer.count
    lengths = np.concatenate([count(part) for part in parts]) if parts else np.array([], dtype=np.int64)
    beyond = int((lengths > tokenizer.max_length).sum())
    what = "windowed" if split.kind == "tokens" else "truncated"
    facts = {
        **_lengths(lengths.tolist()),
        "max_length": int(tokenizer.max_length),
        what: beyond,
        f"{what}_share": beyond / max(len(lengths), 1),
    }
    if split.kind == "tokens":
        known = sum(int(tokenizer.encode_words(part).known.sum()) for part in parts)
        facts["unknown_words"] = sum(map(len, split.inputs)) - known
    return facts


def _labelled(
    split: Split, places: Sequence[int], tokenizer: TokenCounter, labelling: Labelling
) -> dict[str, Any] | None:
    """Return one sentence with what each of its sub-tokens learns; None where no place has words with tags."""
    candidates = [place for place in places if split.inputs[place]]
    if split.labels is None or not candidates:
        return None
    tags = _tags(split)
    place = max(candidates, key=lambda place: _telling(_pieces(split.inputs[place], tokenizer), tags[place]))
    given = tokenizer.encode_words([split.inputs[place]])
    rules = labelling(tags[place], given, sorted(set(chain.from_iterable(tags))))
    words: list[dict[str, Any]] = [
        {"word": printable(word, _WORD_CHARACTERS), "subtokens": [], **{rule: [] for rule in rules}}
        for word in split.inputs[place]
    ]
    for token in np.flatnonzero(given.chosen).tolist():
        entry = words[given.words[token]]
        entry["subtokens"].append(printable(tokenizer.name(int(given.tokens.ids[token])), _WORD_CHARACTERS))
        for rule, learnt in rules.items():
            entry[rule].append(learnt[token])
    return {"split": split.name, "row": int(split.rows[place]), "words": words}


def _pieces(words: Any, tokenizer: TokenCounter) -> NDArray[np.int64]:  # noqa: ANN401 - an input of any split
    """Return how many sub-tokens each word has."""
    given = tokenizer.encode_words([words])
    return np.bincount(given.words[given.chosen], minlength=len(words))


def _telling(pieces: NDArray[np.int64], tags: Sequence[str]) -> tuple[bool, bool]:
    """Say whether a word of an entity, or any word, has several sub-tokens."""
    split = [tag for tag, count in zip(tags, pieces.tolist(), strict=True) if count > 1]
    return any(tag != OUTSIDE for tag in split), bool(split)


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


def _drawn(split: Split, count: int, seed: int) -> list[int]:
    """Draw places, in order."""
    rng = np.random.default_rng(seed)
    chosen: list[int] = np.sort(rng.choice(len(split), size=min(count, len(split)), replace=False)).tolist()
    return chosen


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
