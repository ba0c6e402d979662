"""Whether a graph answers as what it was made of: real texts of all lengths, alone and in mixed batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedkit.errors import ExportError
from embedkit.export.dense import CERTAIN
from embedkit.runtime.tokens import Text, Tokenizer

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


def parity_texts(texts: Sequence[Text], tokenizer: Tokenizer, count: int = TEXTS) -> list[Text]:
    """Choose texts of lengths from the shortest to the maximum.

    Parameters
    ----------
    texts : sequence of str, or of (str, str)
        Real ones; the first 4,096 distinct ones are looked at.
    tokenizer : Tokenizer
        Counts their tokens.
    count : int, default 64

    Returns
    -------
    list
        `count` of them where there are as many, at even steps of their length; and made of them the shortest
        text (one word) and the longest (several put together until the maximum length cuts them).

    Raises
    ------
    ExportError
        There is no text.
    """
    pool = list(dict.fromkeys(texts[:_POOL]))
    if not any(text if isinstance(text, str) else any(text) for text in pool):
        raise ExportError("there is no text to compare the graph on; give some with --parity-data")
    order = np.argsort(tokenizer.count(pool), kind="stable")
    places = np.unique(np.linspace(0, len(order) - 1, max(1, count - 2)).astype(int))
    chosen = [pool[i] for i in order[places].tolist()]
    return [_shortest(chosen[0]), *chosen, _longest(chosen, tokenizer)]


def _shortest(text: Text) -> Text:
    if isinstance(text, str):
        return next(iter(text.split()), "")
    return next(iter(text[0].split()), ""), next(iter(text[1].split()), "")


def _longest(texts: Sequence[Text], tokenizer: Tokenizer) -> Text:
    """Put texts together until they are longer than the model reads; the first of a pair, where it reads pairs."""
    every = " ".join(text if isinstance(text, str) else " ".join(text) for text in texts)
    last, joined = texts[-1], texts[-1]
    for times in range(1, tokenizer.max_length + 1):
        reached = " ".join([every] * times)
        joined = reached if isinstance(last, str) else (reached, last[1])
        if int(tokenizer.count([joined])[0]) > tokenizer.max_length:
            break
    return joined


def compare(
    texts: Sequence[Text],
    lengths: NDArray[np.int64],
    expected: NDArray[np.floating[Any]],
    answer: Callable[[Sequence[Text]], NDArray[np.floating[Any]]],
    decide: Callable[[NDArray[np.floating[Any]]], NDArray[Any]] | None = None,
) -> Parity:
    """Compare answers with those of the source.

    Parameters
    ----------
    texts : sequence of str, or of (str, str), length n
    lengths : ndarray of int64, shape (n,)
        Their tokens.
    expected : ndarray of float, shape (n,) or (n, C)
        The source's scores or vectors.
    answer : callable
        Gives the same of any of the texts, all in one batch.
    decide : callable, optional
        From scores to labels.

    Raises
    ------
    ExportError
        They differ; the message says by how much.
    """
    n = len(texts)
    groups = [np.array([i]) for i in range(n)] + mixed_batches(lengths)
    order = np.concatenate(groups)
    given = np.concatenate([answer([texts[i] for i in group.tolist()]) for group in groups])
    wanted = expected[order]
    largest, difference = _difference(given, wanted)
    equal = np.ones(len(order), bool) if decide is None else _equal(decide(given), decide(wanted))
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
