"""Pairs of texts that contrastive tuning learns from, drawn from their labels.

A pass deals all texts into steps, classes spread evenly, and takes pairs among the texts of a step: each of these
texts is then encoded once, however many pairs it is in. Where one step holds all texts, these are the pairs of
SetFit (Tunstall et al., 2022) and its strategies; where it does not, passes deal anew, so that other texts meet.
Nothing is kept but one number a text, and the pairs of the step at hand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from embedkit.data.splits import groups_of
from embedkit.data.text import counted
from embedkit.errors import DataError, UsageError
from embedkit.runtime.tokens import Text

Strategy: TypeAlias = Literal["oversampling", "undersampling", "unique"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
LossName: TypeAlias = Literal["cosine", "supcon"]  # as of `embedkit.training.contrast.ContrastSettings`
LOSSES: tuple[LossName, ...] = get_args(LossName)
EPOCHS = 10.0  # passes over the texts where nothing else is said
_Places: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class PairSettings:
    """Which pairs of a step's texts are learnt from.

    Attributes
    ----------
    strategy : {"oversampling", "undersampling", "unique"}
        Of a step with P positive pairs (a label in common) and N negative ones (none): all, those of which there
        are fewer repeated, 2 max(P, N); as many as there are of both, 2 min(P, N); or each once, P + N.
        Oversampling and undersampling take none of a step in which one kind is missing.
    iterations : int, optional
        R: instead of a strategy, R passes in each of which each text gets a positive and a negative partner, so
        that n texts give 2 R n pairs; a text that has no partner of one kind in its step gets neither.

    Raises
    ------
    UsageError
        A value is not allowed.
    """

    strategy: Strategy = "oversampling"
    iterations: int | None = None

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise UsageError(f"strategy is {self.strategy!r}; allowed: {', '.join(STRATEGIES)}")
        given: object = self.iterations
        if given is not None and (isinstance(given, bool) or not isinstance(given, int) or given < 1):
            raise UsageError(f"pair_iterations is {given!r}; it must be a whole number from 1 up")


@dataclass(frozen=True)
class PairCounts:
    """How much a training will see, known before anything is drawn.

    Attributes
    ----------
    positive, negative : int
        Pairs with a label in common, and with none.
    texts : int
        Texts that are encoded, each as often as it is in a step.
    steps : int
    """

    positive: int = 0
    negative: int = 0
    texts: int = 0
    steps: int = 0

    @property
    def pairs(self) -> int:
        """All pairs."""
        return self.positive + self.negative

    def __add__(self, other: PairCounts) -> PairCounts:
        return PairCounts(
            self.positive + other.positive,
            self.negative + other.negative,
            self.texts + other.texts,
            self.steps + other.steps,
        )


@dataclass(frozen=True, eq=False)
class Step:
    """The texts of a step and the pairs among them.

    Attributes
    ----------
    rows : ndarray of int64, shape (B,)
        Positions in the inputs; no two of them hold equal inputs.
    first, second : ndarray of int64, shape (P,)
        Positions in `rows`; never equal.
    positive : ndarray of bool, shape (P,)
        Whether the two have a label in common.
    """

    rows: _Places
    first: _Places
    second: _Places
    positive: NDArray[np.bool_]


class PairPlan:
    """All pairs of a training, by seed and pass alone.

    Equal inputs count once. Those that have more than one label (or set of labels) are in no pair, because a text
    would be pulled towards two classes at once.

    Parameters
    ----------
    inputs : sequence of str or of (str, str)
        n of them.
    targets : ndarray of int64, shape (n,), or of bool, shape (n, L)
        Codes; or which labels each row has.
    settings : PairSettings
    texts : int
        Most texts of a step, from 2 up.
    seed : int

    Attributes
    ----------
    rows : ndarray of int64, shape (m,)
        Positions of the inputs that can be in a pair.
    steps : int
        Of one pass.
    notes : list of str
        What is worth saying.

    Raises
    ------
    DataError
        There are not two texts that could be a pair.
    """

    def __init__(
        self, inputs: Sequence[Text], targets: NDArray[Any], settings: PairSettings, *, texts: int, seed: int
    ) -> None:
        self.notes: list[str] = []
        self.rows = self._usable(inputs, targets)
        self._targets, self._settings, self._seed = targets, settings, seed
        self._strata = _strata(targets[self.rows])
        self.steps = -(-len(self.rows) // texts)
        self._dealt: tuple[int, list[_Places]] | None = None
        self._say_alone()

    def _usable(self, inputs: Sequence[Text], targets: NDArray[Any]) -> _Places:
        groups, strata = groups_of(inputs), _strata(targets)
        _, first = np.unique(groups, return_index=True)
        differing = np.unique(groups[strata != strata[first[groups]]]) if len(groups) else groups
        usable = np.sort(np.delete(first, differing)).astype(np.int64)
        if len(differing):
            said = counted(len(differing), "text that has", "texts that have")
            self.notes.append(f"{said} more than one label {'is' if len(differing) == 1 else 'are'} in no pair")
        if len(first) < 2:
            raise DataError("all texts are equal, so there are no pairs to learn from; give texts that differ")
        if len(usable) < 2:
            raise DataError(
                "all texts but one have more than one label, so there are no pairs to learn from; correct them"
            )
        return usable

    def _say_alone(self) -> None:
        """Say which texts can have no positive partner."""
        if not self.has_positive:
            self.notes.append(
                "no two texts have a label in common, so there is no positive pair and nothing to tune by; give "
                "two texts or more of a class"
            )
        elif self._targets.ndim == 1:
            alone = int((np.bincount(self._strata) == 1).sum())
            if alone:
                of = counted(alone, "class has one text, which is", "classes have one text each, which are")
                self.notes.append(f"{of} in negative pairs alone")

    @property
    def has_positive(self) -> bool:
        """Whether any two texts have a label in common."""
        if self._targets.ndim == 1:
            return bool((np.bincount(self._strata) > 1).any())
        return bool((self._targets[self.rows].sum(axis=0) > 1).any())

    # ------------------------------------------------------------------------------------------- dealing

    def deal(self, epoch: int) -> list[_Places]:
        """Return the texts of each step of a pass: positions in the inputs, classes spread evenly.

        Texts of a class stay together by twos, so that a step has positive pairs also where there are more classes
        than it has texts.
        """
        if self._dealt is None or self._dealt[0] != epoch:
            self._dealt = epoch, self._deal(epoch)
        return self._dealt[1]

    def _deal(self, epoch: int) -> list[_Places]:
        chance = np.random.default_rng([self._seed, epoch])
        order = chance.permutation(len(self.rows))
        order = order[np.argsort(self._strata[order], kind="stable")]
        strata = self._strata[order]
        sizes = np.bincount(strata)
        within = np.arange(len(order)) - (np.cumsum(sizes) - sizes)[strata]
        shift = chance.random(len(sizes))
        along = (within // 2 + shift[strata]) / np.ceil(sizes / 2)[strata]
        dealt = self.rows[order[np.lexsort((within, strata, along))]]
        return np.array_split(dealt, self.steps)

    def _alike(self, rows: _Places) -> NDArray[np.bool_]:
        """Return which rows have a label in common, (B, B)."""
        targets = self._targets[rows]
        if targets.ndim == 1:
            return np.asarray(targets[:, None] == targets)
        given = targets.astype(np.float32)
        return np.asarray(given @ given.T > 0)

    # ------------------------------------------------------------------------------------------ counting

    def count(self, epochs: float) -> PairCounts:
        """Return what so many passes will see; a part of a pass is so many of its steps, rounded up."""
        total = PairCounts()
        wanted = math.ceil(self.steps * epochs)
        for epoch in range(-(-wanted // self.steps)):
            for rows in self.deal(epoch)[: wanted - total.steps]:
                total += self._count(rows)
        return total

    def _count(self, rows: _Places) -> PairCounts:
        alike, size = self._alike(rows), len(rows)
        if self._settings.iterations is not None:
            paired = len(_with_partners(alike))
            return PairCounts(paired, paired, size, 1)
        positive = int(np.triu(alike, 1).sum())
        negative = size * (size - 1) // 2 - positive
        if self._settings.strategy == "unique":
            return PairCounts(positive, negative, size, 1)
        of_each = min(positive, negative)
        if self._settings.strategy == "oversampling" and of_each:
            of_each = max(positive, negative)
        return PairCounts(of_each, of_each, size, 1)

    # ------------------------------------------------------------------------------------------- drawing

    def step(self, epoch: int, place: int) -> Step:
        """Draw the pairs of a step of a pass."""
        rows = self.deal(epoch)[place]
        chance, alike = np.random.default_rng([self._seed, epoch, place]), self._alike(rows)
        if self._settings.iterations is not None:
            return _partners(rows, alike, chance)
        first, second = np.triu_indices(len(rows), 1)
        positive = alike[first, second]
        chosen = _chosen(positive, self._settings.strategy, chance)
        return Step(rows, first[chosen], second[chosen], positive[chosen])


def _strata(targets: NDArray[Any]) -> _Places:
    """Return a number for each row, equal where labels are: 0 up to one less than there are different ones."""
    if not len(targets):
        return np.empty(0, np.int64)
    packed = targets if targets.ndim == 1 else np.packbits(targets, axis=1)
    return np.unique(packed, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _chosen(positive: NDArray[np.bool_], strategy: Strategy, chance: np.random.Generator) -> _Places:
    """Return which of all pairs a strategy takes, some of them more than once."""
    if strategy == "unique":
        return np.arange(len(positive))
    kinds = [np.flatnonzero(positive), np.flatnonzero(~positive)]
    least, most = sorted(map(len, kinds))
    wanted = least if strategy == "undersampling" or not least else most
    return np.concatenate([_exactly(kind, wanted, chance) for kind in kinds])


def _exactly(places: _Places, wanted: int, chance: np.random.Generator) -> _Places:
    """Return so many places: each as often as any other, or once more."""
    if not wanted:
        return places[:0]
    whole, rest = divmod(wanted, len(places))
    return np.concatenate([np.tile(places, whole), chance.permutation(places)[:rest]])


def _with_partners(alike: NDArray[np.bool_]) -> _Places:
    """Return the rows that have a positive and a negative partner among the others."""
    common = alike.sum(axis=1) - alike.diagonal()
    return np.flatnonzero((common > 0) & (common < len(alike) - 1))


def _partners(rows: _Places, alike: NDArray[np.bool_], chance: np.random.Generator) -> Step:
    """Draw a positive and a negative partner of each row that has both."""
    paired = _with_partners(alike)
    others = ~np.eye(len(rows), dtype=np.bool_)
    partners = []
    for allowed in (alike & others, ~alike & others):
        # of the numbers drawn for those that are allowed the largest wins, so that each is as likely
        drawn = np.where(allowed[paired], chance.random((len(paired), len(rows))), -1.0)
        partners.append(drawn.argmax(axis=1) if len(paired) else paired)
    positive = np.repeat([True, False], len(paired))
    return Step(rows, np.tile(paired, 2), np.concatenate(partners), positive)
