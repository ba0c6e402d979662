"""Whether a graph answers as what it was made of: real texts of all lengths, alone and in mixed batches."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from embedkit.errors import ExportError, UsageError
from embedkit.export.dense import CERTAIN
from embedkit.runtime.tokens import Text, Tokenizer, Tokens, Words
from embedkit.runtime.words import split_words

Input: TypeAlias = Text | list[str]
"""What a graph is compared on: a text, a pair, or a sentence as words."""

Values: TypeAlias = NDArray[np.floating[Any]] | list[NDArray[np.floating[Any]]]
TEXTS = 64
TOLERANCE = 1e-4  # of the largest value that is compared, at least of 1
_POOL = 4096  # texts that are looked at
_MIXED = 8  # texts of a mixed batch,
_MIXED_TOKENS = 8192  # unless padded to its longest it holds more than these: attention's memory is their product


@dataclass(frozen=True)
class Parity:
    """How far a graph's answers are from those of its source.

    Attributes
    ----------
    texts : int
        Compared, each alone and in a batch of texts of other lengths.
    shortest, longest : int
        Tokens.
    difference : float
        The largest, of logits or of numbers of a vector.
    allowed : float
        Largest that is.
    labels_equal : float
        Share of the answers that have the same label; 1 for encoders.
    """

    texts: int
    shortest: int
    longest: int
    difference: float
    allowed: float
    labels_equal: float

    @property
    def holds(self) -> bool:
        """Whether the graph may be published."""
        return self.difference <= self.allowed and self.labels_equal == 1  # False also where it is NaN

    def to_json(self) -> dict[str, Any]:
        """Return the figures."""
        return asdict(self)


def encoded(tokenizer: Tokenizer, inputs: Sequence[Input]) -> Tokens:
    """Tokenise texts, pairs or lists of words as the graph is given them; a long list of words is many windows."""
    if inputs and isinstance(inputs[0], list):
        return tokenizer.encode_words(cast("Sequence[Words]", inputs)).tokens
    return tokenizer.encode(cast("Sequence[Text]", inputs))


def split_into_words(inputs: Sequence[Input]) -> list[Input]:
    """Return lists of words; texts are split by `embedkit.runtime.words.split_words`, pairs are refused."""
    if inputs and isinstance(inputs[0], tuple):
        raise UsageError("the model answers for each word, and the data are pairs of texts")
    split: list[Input] = []
    for item in inputs:
        split.append([item[a:b] for a, b in split_words(item)] if isinstance(item, str) else list(item))
    return split


def longest_windows(tokens: Tokens) -> NDArray[np.int64]:
    """Return the tokens of each input's longest window, shape (n,)."""
    return np.maximum.reduceat(tokens.lengths, np.searchsorted(tokens.rows, np.arange(len(tokens.truncated))))


def _count(tokenizer: Tokenizer, inputs: Sequence[Input]) -> NDArray[np.int64]:
    if inputs and isinstance(inputs[0], list):
        return tokenizer.count_words(inputs)
    return tokenizer.count(cast("Sequence[Text]", inputs))


def parity_inputs(inputs: Sequence[Input], tokenizer: Tokenizer, count: int = TEXTS) -> list[Input]:
    """Choose inputs of lengths from the shortest to the maximum.

    Parameters
    ----------
    inputs : sequence of str, of (str, str), or of list of str
        Real texts, pairs or lists of words; the first 4,096 distinct ones are looked at.
    tokenizer : Tokenizer
        Counts their tokens.
    count : int, default 64

    Returns
    -------
    list
        `count` of them where there are as many, at even steps of their length; and made of them the shortest
        (one word) and the longest (several put together until the maximum length cuts them).

    Raises
    ------
    ExportError
        There is no text.
    """
    pool = list({_key(item): item for item in inputs[:_POOL]}.values())
    if not any(item if isinstance(item, str) else any(item) for item in pool):
        raise ExportError("there is no text to compare the graph on; give some with --parity-data")
    order = np.argsort(_count(tokenizer, pool), kind="stable")
    places = np.unique(np.linspace(0, len(order) - 1, max(1, count - 2)).astype(int))
    chosen = [pool[i] for i in order[places].tolist()]
    return [_shortest(chosen[0]), *chosen, _longest(chosen, tokenizer)]


def _key(item: Input) -> Hashable:
    return (list, *item) if isinstance(item, list) else item


def _shortest(item: Input) -> Input:
    if isinstance(item, list):
        return item[:1]
    if isinstance(item, str):
        return next(iter(item.split()), "")
    return next(iter(item[0].split()), ""), next(iter(item[1].split()), "")


def _longest(inputs: Sequence[Input], tokenizer: Tokenizer) -> Input:
    """Put inputs together until they are longer than the model reads; of pairs the first texts."""
    last = joined = inputs[-1]
    words = [word for item in inputs for word in ([item] if isinstance(item, str) else item)]
    for times in range(1, tokenizer.max_length + 1):
        if isinstance(last, list):
            joined = words * times
        else:
            text = " ".join(words * times)
            joined = text if isinstance(last, str) else (text, last[1])
        if int(_count(tokenizer, [joined])[0]) > tokenizer.max_length:
            break
    return joined


def compare(
    inputs: Sequence[Input],
    lengths: NDArray[np.int64],
    expected: Values,
    answer: Callable[[Sequence[Any]], Values],
    decide: Callable[[NDArray[np.floating[Any]]], NDArray[Any]] | None = None,
) -> Parity:
    """Compare answers with those of the source.

    Parameters
    ----------
    inputs : sequence of str, of (str, str), or of list of str, length n
    lengths : ndarray of int64, shape (n,)
        Their tokens.
    expected : ndarray of float, shape (n,) or (n, C), or list of ndarray of float, shape (tokens, C)
        The source's scores or vectors, of each input or of each of its tokens.
    answer : callable
        Gives the same of any of the inputs, all in one batch.
    decide : callable, optional
        From scores, shape (m,) or (m, C), to labels.

    Raises
    ------
    ExportError
        They differ; the message says by how much.
    """
    n = len(inputs)
    groups = [np.array([i]) for i in range(n)] + mixed_batches(lengths)
    given = _joined([answer([inputs[i] for i in group.tolist()]) for group in groups])
    wanted = _joined([_taken(expected, group) for group in groups])
    largest, difference = _difference(given, wanted)
    equal = np.ones(len(wanted), bool) if decide is None else _equal(decide(given), decide(wanted))
    found = Parity(
        texts=n,
        shortest=int(lengths.min()),
        longest=int(lengths.max()),
        difference=difference,
        allowed=TOLERANCE * max(1.0, largest),
        labels_equal=float(equal.mean()),
    )
    if not found.holds:
        raise ExportError(
            f"the graph does not answer as its source: the largest difference is {found.difference:.2g} where "
            f"{found.allowed:.2g} is allowed, and {(~equal).sum():,} of {len(equal):,} answers have another label "
            f"({n} texts of {found.shortest} to {found.longest} tokens, alone and in mixed batches); nothing was "
            "written"
        )
    return found


def _taken(values: Values, places: NDArray[np.int64]) -> Values:
    return values[places] if isinstance(values, np.ndarray) else [values[i] for i in places.tolist()]


def _joined(parts: Sequence[Values]) -> NDArray[np.floating[Any]]:
    """Return the rows of all parts, whether they are arrays or lists of arrays."""
    return np.concatenate([row for part in parts for row in ([part] if isinstance(part, np.ndarray) else part)])


def mixed_batches(lengths: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Put texts of any lengths together, by chance; long ones with fewer others."""
    groups: list[list[int]] = [[]]
    longest = 0
    for i in np.random.default_rng(42).permutation(len(lengths)).tolist():
        longest = max(longest, int(lengths[i]))
        full = len(groups[-1]) == _MIXED or longest * (len(groups[-1]) + 1) > _MIXED_TOKENS
        if groups[-1] and full:
            groups.append([])
            longest = int(lengths[i])
        groups[-1].append(i)
    return [np.array(group) for group in groups]


def _difference(given: NDArray[Any], wanted: NDArray[Any]) -> tuple[float, float]:
    """Return the largest value that is compared, and the largest difference; certain answers must stay certain."""
    certain = np.isinf(wanted)
    if not certain.any():
        return float(np.abs(wanted).max()), float(np.abs(given - wanted).max())
    kept = (given * np.sign(wanted))[certain] >= CERTAIN / 2
    rest = ~certain
    largest = float(np.abs(wanted[rest]).max()) if rest.any() else 0.0
    difference = float(np.abs(given - wanted)[rest].max()) if rest.any() else 0.0
    return largest, difference if kept.all() else np.inf


def _equal(given: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.bool_]:
    same = given == wanted
    return np.asarray(same.all(axis=1) if same.ndim == 2 else same)
