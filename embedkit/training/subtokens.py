"""Which sub-tokens of a word learn its tag."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from embedkit.training.rows import IGNORED

Rule: TypeAlias = Literal["first", "all", "continue"]
"""Which sub-tokens of a word learn its tag: the first; all; or all, those that follow with B- turned into I-."""
RULES: tuple[Rule, ...] = get_args(Rule)


def subtoken_targets(
    codes: NDArray[np.int64],
    words: NDArray[np.int64],
    first: NDArray[np.bool_],
    chosen: NDArray[np.bool_],
    rule: Rule,
    continuing: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return what each token learns.

    Parameters
    ----------
    codes : ndarray of int64, shape (W,)
        Of the tag of each word; negative where there is none to learn.
    words : ndarray of int64, shape (T,)
        The word of each token, -1 for special tokens.
    first, chosen : ndarray of bool, shape (T,)
        As `embedkit.runtime.tokens.WordTokens` has them.
    rule : {"first", "all", "continue"}
    continuing : ndarray of int64, shape (C,)
        Of `continuing_codes`.

    Returns
    -------
    ndarray of int64, shape (T,)
        Codes, or `IGNORED`.
    """
    learns = first if rule == "first" else chosen
    targets = np.full(len(words), IGNORED, np.int64)
    targets[learns] = codes[words[learns]]
    if rule == "continue":
        later = learns & ~first & (targets >= 0)
        targets[later] = continuing[targets[later]]
    targets[targets < 0] = IGNORED
    return targets


def continuing_codes(names: Sequence[str]) -> NDArray[np.int64]:
    """Return the code of the tag with which each tag goes on: ``I-X`` for ``B-X`` and ``I-X``, else itself.

    `IGNORED` for a ``B-X`` whose ``I-X`` is no label.
    """
    places = {name: code for code, name in enumerate(names)}
    goes_on = [f"I-{name[2:]}" if name.startswith("B-") else name for name in names]
    return np.array([places.get(name, IGNORED) for name in goes_on], np.int64)
