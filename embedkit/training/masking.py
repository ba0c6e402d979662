"""Masked rows: which tokens are hidden from the model, and what stands in their place (Devlin et al., 2019).

Masks depend on the seed, the epoch and the row alone, so that an interrupted run goes on with the same ones, and
rows that are judged (epoch `JUDGED`) always have the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedkit.errors import UsageError
from embedkit.runtime.texts import chunks_of
from embedkit.runtime.tokens import Tokenizer, Tokens
from embedkit.training.rows import IGNORED, padded_inputs

Mask: TypeAlias = Literal["token", "whole-word"]
_MASKS = ("token", "whole-word")
_HIDDEN, _REPLACED = 0.8, 0.9  # 80 % become the mask token, 10 % a random one, 10 % stay


@dataclass(frozen=True)
class MaskSettings:
    """How texts are made into masked rows.

    Attributes
    ----------
    mask : {"token", "whole-word"}, default "token"
        What is hidden together: a token, or all tokens of a word as the pre-tokenizer cuts words out.
    share : float, default 0.15
        Expected share of the tokens that are hidden, above 0 and below 1.
    pack : bool, default False
        Join all texts and cut them into windows of the greatest length, instead of one text a row.

    Raises
    ------
    UsageError
        A value is not allowed.
    """

    mask: Mask = "token"
    share: float = 0.15
    pack: bool = False

    def __post_init__(self) -> None:
        if self.mask not in _MASKS:
            raise UsageError(f"mask is {self.mask!r}; allowed: {', '.join(_MASKS)}")
        share: object = self.share
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
            raise UsageError(f"mask_share is {share!r}; it must lie between 0 and 1, such as 0.15")


@dataclass(frozen=True, eq=False)
class MaskTokens:
    """What masking must know of a vocabulary.

    Attributes
    ----------
    mask_id : int
        Of the mask token.
    join_id : int
        Of the token that stands between texts that are packed.
    special : ndarray of int64
        Special tokens, which are never hidden.
    plain : ndarray of int64
        All others, of which random ones are taken.
    """

    mask_id: int
    join_id: int
    special: NDArray[np.int64]
    plain: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class MaskedRows:
    """Rows of which some tokens are hidden, others in each epoch.

    Attributes
    ----------
    tokens : Tokens
        One window a row, nothing hidden.
    units : ndarray of int64, shape (T,)
        What is hidden together, numbered within each row; -1 for what never is.
    vocabulary : MaskTokens
    share : float
        Probability of each unit to be hidden, so that the same share of tokens is expected.
    seed : int
    pad_id : int
    """

    tokens: Tokens
    units: NDArray[np.int64]
    vocabulary: MaskTokens
    share: float
    seed: int
    pad_id: int

    def __len__(self) -> int:
        return len(self.tokens.lengths)

    def inputs(self, rows: NDArray[np.int64], epoch: int) -> dict[str, NDArray[Any]]:
        """Return ids with masks, attention mask, and the hidden tokens as labels, each (B, L)."""
        given = padded_inputs(self.tokens, rows, self.pad_id, types=False)
        ids = given["input_ids"]
        labels = np.full_like(ids, IGNORED)
        for place, row in enumerate(rows.tolist()):
            hidden, instead = self._drawn(row, epoch)
            labels[place, hidden] = ids[place, hidden]
            shown = np.flatnonzero(instead != IGNORED)
            ids[place, hidden[shown]] = instead[shown]
        return {**given, "labels": labels}

    def _drawn(self, row: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Draw the places of a row that are hidden, and what stands there; `IGNORED` where nothing else does."""
        units = self.units[self.tokens.offsets[row] : self.tokens.offsets[row + 1]]
        chance = np.random.default_rng([self.seed, epoch + 1, row])
        count = int(units.max(initial=-1)) + 1
        chosen, how = chance.random(count) < self.share, chance.random(count)
        random = chance.choice(self.vocabulary.plain, size=len(units))
        hidden = np.flatnonzero((units >= 0) & chosen[units]) if count else np.array([], np.int64)
        kind = how[units[hidden]]
        instead = np.where(kind < _REPLACED, random[hidden], IGNORED)
        return hidden, np.where(kind < _HIDDEN, self.vocabulary.mask_id, instead)

    def counted(self, epoch: int) -> int:
        """Return how many tokens are hidden in an epoch."""
        return sum(len(self._drawn(row, epoch)[0]) for row in range(len(self)))


def masked_rows(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    vocabulary: MaskTokens,
    settings: MaskSettings,
    *,
    seed: int,
) -> tuple[MaskedRows, float]:
    """Tokenise texts for masking; those without a token that could be hidden make no row.

    Parameters
    ----------
    tokenizer : Tokenizer
    texts : sequence of str
    vocabulary : MaskTokens
    settings : MaskSettings
    seed : int

    Returns
    -------
    rows : MaskedRows
    truncated : float
        Share of the texts that lost tokens; 0 where they are packed.
    """
    tokens, words = _numbered(tokenizer, texts, windows=settings.pack)
    if settings.pack:
        tokens, words = _packed(tokens, words, tokenizer.max_length, vocabulary.join_id)
    never = (words < 0) | np.isin(tokens.ids, vocabulary.special)
    if settings.mask == "token":
        words = np.arange(len(words)) - np.repeat(tokens.offsets[:-1], tokens.lengths)
    units = np.where(never, -1, words)
    truncated = float(tokens.truncated.mean()) if len(tokens.truncated) else 0.0
    kept, units = _maskable(tokens, units)
    return MaskedRows(kept, units, vocabulary, settings.share, seed, tokenizer.pad_id), truncated


def _numbered(tokenizer: Tokenizer, texts: Sequence[str], *, windows: bool) -> tuple[Tokens, NDArray[np.int64]]:
    """Return the tokens of all texts and their words, in runs: the backend's take much memory."""
    runs = list(chunks_of(texts))
    found = [tokenizer.number_words(texts[run], windows=windows) for run in runs]
    tokens = [each.tokens for each in found]
    lengths = _joined([each.lengths for each in tokens])
    laid = Tokens(
        _joined([each.ids for each in tokens]).astype(np.int32),
        None,
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        _joined([run.start + each.rows for run, each in zip(runs, tokens, strict=True)]),
        _joined([each.truncated for each in tokens]).astype(bool),
        _joined([each.content for each in tokens]),
    )
    return laid, _joined([each.words for each in found])


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    """Concatenate parts, of which there may be none."""
    return np.concatenate([np.array([], np.int64), *parts]).astype(np.int64)


def _maskable(tokens: Tokens, units: NDArray[np.int64]) -> tuple[Tokens, NDArray[np.int64]]:
    """Return the windows that have a token to hide."""
    of = np.repeat(np.arange(len(tokens.lengths)), tokens.lengths)
    keep = np.bincount(of[units >= 0], minlength=len(tokens.lengths)) > 0
    there = keep[of]
    lengths = tokens.lengths[keep]
    kept = Tokens(
        tokens.ids[there],
        None,
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.arange(len(lengths)),
        np.zeros(len(lengths), bool),
        lengths,
    )
    return kept, units[there]


def _packed(
    tokens: Tokens, words: NDArray[np.int64], max_length: int, join_id: int
) -> tuple[Tokens, NDArray[np.int64]]:
    """Join the contents of all windows, a token between texts, and cut them anew: all but the last are full.

    A word that ends up in two windows is two words. Windows get the special tokens that every text has.
    """
    before, after = _around(tokens, words)
    ids, marks = _stream(tokens, words, join_id)
    room = max_length - len(before) - len(after)
    starts = np.arange(0, len(ids), room)
    each = np.minimum(room, len(ids) - starts)
    parts = [
        np.concatenate([before, ids[start : start + size], after])
        for start, size in zip(starts.tolist(), each.tolist(), strict=True)
    ]
    edges = (np.full(len(before), -1), np.full(len(after), -1))
    numbered = [
        np.concatenate([edges[0], _from_zero(marks[start : start + size]), edges[1]])
        for start, size in zip(starts.tolist(), each.tolist(), strict=True)
    ]
    lengths = np.array([len(part) for part in parts], np.int64)
    laid = Tokens(
        _joined(parts).astype(np.int32),
        None,
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.arange(len(parts)),
        np.zeros(len(parts), bool),
        each,
    )
    return laid, _joined(numbered)


def _around(tokens: Tokens, words: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the special tokens that stand before and after a text."""
    offsets = tokens.offsets
    for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        inside = np.flatnonzero(words[start:end] >= 0)
        if len(inside):
            return tokens.ids[start : start + inside[0]], tokens.ids[start + inside[-1] + 1 : end]
    nothing = np.array([], np.int32)
    return nothing, nothing


def _stream(tokens: Tokens, words: NDArray[np.int64], join_id: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the contents of all texts with `join_id` between them, and numbers that change with every word."""
    there = words >= 0
    of = np.repeat(tokens.rows, tokens.lengths)[there]
    ids, words = tokens.ids[there], words[there]
    ends = np.flatnonzero(np.diff(of)) + 1
    changed = np.append(True, (np.diff(words) != 0) | (np.diff(of) != 0))[: len(ids)]
    return np.insert(ids, ends, join_id).astype(np.int32), np.insert(np.cumsum(changed), ends, -1)


def _from_zero(marks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the words of a window numbered from 0 up; -1 stays."""
    known = marks[marks >= 0]
    return np.where(marks >= 0, marks - known.min(), -1) if len(known) else marks
