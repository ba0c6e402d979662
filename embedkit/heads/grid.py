"""Heads compared by cross-validation: the candidates that lists of settings stand for, and their scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import chain, islice, product
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from embedkit.errors import UsageError
from embedkit.heads.arrays import KnnHead
from embedkit.heads.base import Floats, Head
from embedkit.heads.fit import auto_scale, fit_head
from embedkit.heads.spec import HeadSpec, params_of
from embedkit.heads.table import HEADS
from embedkit.metrics.scores import scores_of

Fold = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
Scorer: TypeAlias = Callable[[Head, Floats, npt.NDArray[np.int64]], Mapping[str, float]]
"""Scores a head on features (n, D) of the rows at these positions; goes to other processes."""
# joblib keeps what it handed to its workers, in memory where /dev/shm is, until the call ends: so no call has all.
VIEWS_AT_ONCE = 4
_BYTES_AT_ONCE = 512 << 20  # vectors of all words of a corpus are large: then fewer, at least one


def specs_of(
    clfs: Sequence[str],
    values: Mapping[str, Sequence[Any]],
    *,
    scales: Sequence[str] = ("auto",),
    search: bool = False,
    template: HeadSpec | None = None,
) -> list[HeadSpec]:
    """Return a head for each combination of settings.

    Parameters
    ----------
    clfs : sequence of str
        Names of heads.
    values : mapping of str to sequence
        Values of parameters; one goes to the heads that have it.
    scales : sequence of str
        Each as `HeadSpec.scale`.
    search : bool, default False
        Whether parameters that `values` leaves out take the values of the head's usual grid.
    template : HeadSpec, optional
        Whose class weights and seed all have.

    Raises
    ------
    UsageError
        A head or value is not allowed, a name stands twice, or no head has a parameter.
    """
    like = template or HeadSpec()
    if len(set(clfs)) < len(clfs):
        raise UsageError(f"a head is named twice: {', '.join(clfs)}")
    found = []
    for clf in clfs:
        HeadSpec(clf)  # refuses an unknown name before its parameters are asked for
        grid = {name: tuple(dict.fromkeys(values[name])) for name in params_of(clf) if name in values}
        if search and clf in HEADS:
            grid = {**HEADS[clf].grid, **grid}
        for scale, *combination in product(scales, *grid.values()):
            params = dict(zip(grid, combination, strict=True))
            found.append(HeadSpec(clf, scale, like.class_weight, params, like.seed))
    unknown = sorted(name for name in values if not any(name in params_of(clf) for clf in clfs))
    if unknown:
        known = "; ".join(f"{clf}: {', '.join(params_of(clf)) or 'none'}" for clf in clfs)
        raise UsageError(f"no parameter {', '.join(unknown)}; {known}")
    return found


@dataclass(frozen=True)
class Trial:
    """What cross-validation found for one head.

    Attributes
    ----------
    spec : HeadSpec
    scores : dict of str to tuple of float
        Each metric of `embedkit.metrics.scores_of` in each fold.
    seconds : float
        Of all fits and predictions, added up over the folds.
    notes : tuple of str
        Of the fits, each once.
    """

    spec: HeadSpec
    scores: Mapping[str, tuple[float, ...]]
    seconds: float
    notes: tuple[str, ...]

    def mean(self, metric: str) -> float:
        """Return the mean over the folds."""
        return float(np.mean(self.scores[metric]))

    def std(self, metric: str) -> float:
        """Return the standard deviation over the folds (n - 1 in the denominator)."""
        return float(np.std(self.scores[metric], ddof=1))


@dataclass(frozen=True)
class _Part:
    """What one task found: a head on one fold."""

    scores: Mapping[str, float]
    seconds: float
    notes: list[str]


def cross_validate(
    specs: Sequence[HeadSpec],
    views: Iterable[Floats],
    targets: npt.NDArray[Any],
    folds: Sequence[Fold],
    names: Sequence[str],
    *,
    jobs: int | None = None,
    scorer: Scorer | None = None,
) -> Iterator[list[Trial]]:
    """Judge every head on every view of the same rows, by the same folds.

    Parameters
    ----------
    specs : sequence of HeadSpec
    views : iterable of ndarray, each of shape (N, D)
        Features; `VIEWS_AT_ONCE` are held at a time, fewer where they are large, besides the one that is next.
    targets : ndarray of int64 (N,), or of bool (N, C)
    folds : sequence of (train, test)
        Positions of rows.
    names : sequence of str
        Labels.
    jobs : int, optional
        Processes; default: as many as there are cores. One does it all in this process.
    scorer : callable, optional
        Default: `embedkit.metrics.scores.scores_of` what the head predicts.

    Yields
    ------
    list of Trial
        For each view, in the order of `specs`.
    """
    groups = [list(group) for group in _by_clf(specs)]
    waiting = iter(views)
    for first in waiting:
        room = max(1, min(VIEWS_AT_ONCE, _BYTES_AT_ONCE // max(1, first.nbytes)))
        some = chain([first], islice(waiting, room - 1))
        del first  # or it would be held until all of them are judged
        parts = _judged(groups, some, targets, folds, names, jobs, scorer)
        for part in parts:
            trials: list[Trial] = []
            for place, group in enumerate(groups):
                done = [] if place else [part]
                done += [next(parts) for _ in range(len(folds) - len(done))]
                trials += [_trial(spec, [fold[i] for fold in done]) for i, spec in enumerate(group)]
            yield trials


def _judged(
    groups: Sequence[Sequence[HeadSpec]],
    views: Iterable[Floats],
    targets: npt.NDArray[Any],
    folds: Sequence[Fold],
    names: Sequence[str],
    jobs: int | None,
    scorer: Scorer | None,
) -> Iterator[list[_Part]]:
    """Yield what `_judge` finds for each view, group and fold, the folds in turn first."""
    from joblib import Parallel, delayed

    tasks = (
        delayed(_judge)(settled, view, targets, fold, list(names), scorer, saved=not place)
        for view in views
        for settled in _settled(groups, view)
        for place, fold in enumerate(folds)
    )
    return iter(Parallel(n_jobs=jobs or -1, return_as="generator")(tasks))


def _settled(groups: Sequence[Sequence[HeadSpec]], view: Floats) -> list[list[HeadSpec]]:
    """Decide about scaling by all rows, as the fit on all of them will: folds of them may differ."""
    scale = auto_scale(view)
    return [[replace(spec, scale=scale) if spec.scale == "auto" else spec for spec in group] for group in groups]


def _by_clf(specs: Sequence[HeadSpec]) -> Iterator[list[HeadSpec]]:
    """Yield runs of specs of the same classifier: what one task fits."""
    run: list[HeadSpec] = []
    for spec in specs:
        if run and run[0].clf != spec.clf:
            yield run
            run = []
        run.append(spec)
    if run:
        yield run


def _trial(spec: HeadSpec, parts: Sequence[_Part]) -> Trial:
    scores = {metric: tuple(part.scores[metric] for part in parts) for metric in parts[0].scores}
    notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
    return Trial(spec, scores, sum(part.seconds for part in parts), notes)


def _judge(
    specs: Sequence[HeadSpec],
    view: Floats,
    targets: npt.NDArray[Any],
    fold: Fold,
    names: Sequence[str],
    scorer: Scorer | None,
    *,
    saved: bool,
) -> list[_Part]:
    """Fit each head on the train part of a fold and score it on the other; `saved`: refuse one without a form."""
    train, test = fold
    features, held = view[train], view[test]
    shared = _Neighbours(held)
    import_module("sklearn.preprocessing")  # its second is no head's
    parts: dict[int, _Part] = {}
    for place in sorted(range(len(specs)), key=lambda place: -_asked(specs[place])):
        start = time.perf_counter()
        fitted = fit_head(specs[place], features, targets[train], len(names), names=names, threads=1)
        if saved:
            fitted.head.state()
        if scorer is None:
            scores: Mapping[str, float] = scores_of(targets[test], shared.predict(fitted.head), len(names))
        else:
            scores = scorer(fitted.head, held, test)
        parts[place] = _Part(scores, time.perf_counter() - start, fitted.notes)
    return [parts[place] for place in range(len(specs))]


def _asked(spec: HeadSpec) -> int:
    """Return how many neighbours a head asks, 0 for other heads."""
    return int(spec.param("n_neighbors")) if spec.clf == KnnHead.kind else 0


class _Neighbours:
    """Held-out rows, whose distances to the training rows are computed once for all numbers of neighbours."""

    def __init__(self, held: Floats) -> None:
        self._held = held
        self._known: dict[bytes, tuple[npt.NDArray[np.int64], Floats]] = {}

    def predict(self, head: Head) -> npt.NDArray[Any]:
        """Return what a head says of the rows; one that asks more neighbours comes before one that asks fewer."""
        if not isinstance(head, KnnHead):
            return head.predict(self._held)
        scaled = head.mean.tobytes() + head.scale.tobytes()
        if scaled not in self._known:
            self._known[scaled] = head.neighbours(self._held)
        near, squared = self._known[scaled]
        return head.winners(head.votes(near[:, : head.k], squared[:, : head.k]))


def out_of_fold(
    spec: HeadSpec,
    features: Floats,
    targets: npt.NDArray[Any],
    folds: Sequence[Fold],
    names: Sequence[str],
    *,
    sample_weight: Floats | None = None,
    threads: int | None = None,
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return the scores of rows by heads that were not fitted on them, and the positions of these rows.

    Returns
    -------
    scores : ndarray of float64, shape (n,) or (n, C)
        Of `Head.decision_function`.
    rows : ndarray of int64, shape (n,)
        All rows that a fold tests, ascending.
    """
    parts = []
    for train, test in folds:
        weights = None if sample_weight is None else sample_weight[train]
        fitted = fit_head(
            spec, features[train], targets[train], len(names), names=names, sample_weight=weights, threads=threads
        )
        parts.append(fitted.head.decision_function(features[test]))
    rows = np.concatenate([test for _, test in folds])
    order = np.argsort(rows)
    return np.concatenate(parts)[order], rows[order]
