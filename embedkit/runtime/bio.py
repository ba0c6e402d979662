"""The best tags of sentences that are valid IOB2: ``I-X`` only after ``B-X`` or ``I-X``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedkit.runtime.entities import OUTSIDE

Codes: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]

_BEYOND = 1e30  # stands for infinity: sums of it over a sentence are numbers still


def bio_valid(
    scores: NDArray[np.floating[Any]], lengths: NDArray[np.integer[Any]], labels: Sequence[str]
) -> Codes:
    """Return the codes of the tags whose sum of scores is the highest of all that are valid IOB2.

    A path through the words of each sentence (Viterbi, 1967) under the constraints of He et al. (2017, "Deep
    Semantic Role Labeling: What Works and What's Next", section 2.3): ``I-X`` stands only after ``B-X`` or
    ``I-X``. Any other tag stands anywhere.

    Parameters
    ----------
    scores : ndarray of float, shape (W, C)
        Log-probabilities or logits of each word's tags; what is the same for all tags of a word changes nothing.
        A row with NaN is a word that was not read: its tag is ``O``, and no span goes on over it.
    lengths : ndarray of int, shape (N,)
        Words of each sentence; their sum is W.
    labels : sequence of str
        C distinct tags, in the order of codes; ``B`` and ``I`` alone are of one type without a name.

    Returns
    -------
    ndarray of int64, shape (W,)
        Of a sentence whose words' highest tags are valid together, these (the lower code of two equal ones).

    Raises
    ------
    ValueError
        Shapes do not fit, no tag may begin a sentence, or a word was not read and there is no tag ``O``.

    Examples
    --------
    >>> labels = ["O", "B-X", "I-X"]
    >>> bio_valid(np.array([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]]), np.array([2]), labels).tolist()
    [1, 2]
    """
    if scores.shape != (int(lengths.sum()), len(labels)):
        raise ValueError(f"scores of shape {scores.shape} for {int(lengths.sum())} words and {len(labels)} labels")
    begin, inside, never = _spans(labels)
    if len(inside) + len(never) == len(labels):
        raise ValueError("no tag may begin a sentence: every label begins with I-")
    unread = np.isnan(scores).any(axis=1)
    if unread.any() and OUTSIDE not in labels:
        raise ValueError(f"{int(unread.sum())} words were not read, and there is no tag {OUTSIDE} for them")
    numbers = np.clip(scores, -_BEYOND, _BEYOND, dtype=np.float64)
    numbers[:, never] = -np.inf
    if unread.any():
        numbers[unread] = np.where(np.array(labels) == OUTSIDE, 0, -_BEYOND)
    codes: Codes = numbers.argmax(axis=1)
    # Where each B-X is better than its I-X, going on is never better than beginning: both sides stand alone.
    starts = unread | (numbers[:, begin] > numbers[:, inside]).all(axis=1)
    starts[1:] |= unread[:-1]
    starts[(np.cumsum(lengths) - lengths)[lengths > 0]] = True
    first = np.flatnonzero(starts)
    sizes = np.diff(np.append(first, len(codes)))
    wrong = _wrong(codes, starts, begin, inside)
    if wrong.any():
        broken = np.unique(np.searchsorted(first, np.flatnonzero(wrong), side="right") - 1)
        _repair(codes, numbers, first[broken], sizes[broken], begin, inside)
    return codes


def _spans(labels: Sequence[str]) -> tuple[Codes, Codes, Codes]:
    """Return the codes of ``B-X`` and ``I-X`` of each X that has both, and of ``I-X`` that nothing begins."""
    code = {label: number for number, label in enumerate(labels)}
    goes_on = [label for label in labels if label == "I" or label.startswith("I-")]
    pairs = [(code[f"B{label[1:]}"], code[label]) for label in goes_on if f"B{label[1:]}" in code]
    never = [code[label] for label in goes_on if f"B{label[1:]}" not in code]
    both = np.array(pairs, np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1], np.array(never, np.int64)


def _wrong(codes: Codes, starts: NDArray[np.bool_], begin: Codes, inside: Codes) -> NDArray[np.bool_]:
    """Whether each word continues what does not stand before it; shape (W,)."""
    span = np.full(max(codes.max(initial=0), begin.max(initial=0), inside.max(initial=0)) + 1, -1)
    span[inside] = np.arange(len(inside))
    continued = np.where(np.isin(codes, inside), span[codes], -1)
    span[begin] = np.arange(len(begin))
    before = np.append(-1, span[codes])[: len(codes)]
    return np.asarray((continued >= 0) & (starts | (before != continued)))


def _repair(codes: Codes, scores: Floats, first: Codes, sizes: Codes, begin: Codes, inside: Codes) -> None:
    """Put the best valid path into each run of words that begins at `first`; all runs advance word by word."""
    order = np.argsort(-sizes, kind="stable")
    first, sizes = first[order], sizes[order]
    running = [int((sizes > step).sum()) for step in range(int(sizes[0]))]  # the longest come first
    best = scores[first]
    best[:, inside] = -np.inf
    back = []  # for each step, the tag before each tag
    for step, n in enumerate(running[1:], start=1):
        before = best[:n]
        came = np.repeat(before.argmax(axis=1)[:, None], scores.shape[1], axis=1)
        came[:, inside] = np.where(before[:, inside] > before[:, begin], inside, begin)
        back.append(came)
        best[:n] = np.take_along_axis(before, came, axis=1) + scores[first[:n] + step]
    chosen = best.argmax(axis=1)
    for step in range(len(running) - 1, -1, -1):
        n = running[step]
        codes[first[:n] + step] = chosen[:n]
        if step:
            chosen[:n] = back[step - 1][np.arange(n), chosen[:n]]
