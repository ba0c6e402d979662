"""The advice in words: which method to take with how many labels, and what the data cannot tell."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from embedkit.data.text import counted
from embedkit.evaluation.compare.result import Advice, Cell, Crossing, Point, Served, Size, SizeAdvice
from embedkit.metrics.choice import SAME_COST, Choice, Cost, Standing, best_of, cheapest, choose, crossing
from embedkit.metrics.repeated import Repeated

METRICS = {"accuracy": "accuracy", "macro_f1": "macro F1", "micro_f1": "micro F1", "f1": "entity F1"}
_COSTS = {"serve": "time to answer one text", "train": "time to train"}
_CHEAP = {"serve": "the cheapest to serve", "train": "the cheapest to train"}


def advise(
    points: Sequence[Point],
    repeated: Repeated[tuple[str, str]],
    sizes: Sequence[Size],
    served: Sequence[Served],
    cells: Sequence[Cell],
    *,
    metric: str,
    rows: int,
    margin: float,
    cost: Cost,
    tokens: bool,
) -> Advice:
    """Apply the rule of `embedkit.metrics.choice.choose` at each size, and say what came out.

    Parameters
    ----------
    points : sequence of Point
        At least one.
    repeated : Repeated
        By method and size.
    sizes : sequence of Size
        From few labels to many.
    served : sequence of Served
        Latencies; those of float32 count, because int8 may not hold.
    cells : sequence of Cell
        Those without figures at the largest size are named.
    metric : str
    rows : int
        That were judged.
    margin : float
    cost : {"serve", "train"}
    tokens : bool
        Whether a size counts sentences, not labels of a class.
    """
    latency = {entry.method: entry.latency_ms for entry in served if not entry.how.endswith("int8")}
    found: list[tuple[Size, Choice, dict[str, Point]]] = []
    for size in sizes:
        here = {point.method: point for point in points if point.size == size.name}
        if here:
            standings = _standings(here, repeated, latency, cost)
            names = {standing.method for standing in standings}
            compared = {method: point for method, point in here.items() if method in names}
            found.append((size, choose(standings, rows=rows, margin=margin, cost=cost), compared))
    unit = _unit(tokens)
    by_size = [
        SizeAdvice(
            size.name,
            choice.pick,
            choice.best,
            [method for method in here if method in choice.good],
            choice.undecided,
            _size_text(size, choice, here, metric, margin, cost, tokens),
        )
        for size, choice, here in found
    ]
    crossings = _crossings(found)
    text = [
        by_size[-1].text,
        *_ranges(found, crossings, unit),
        *_doubts(found[-1], rows),
        *_fewer(found),
        *_lacking(found, cells),
        *_unknown(found, sizes),
        *(_unpriced(found[-1], latency) if cost == "serve" else []),
    ]
    return Advice(cost, margin, _rule(metric, margin, cost), by_size, crossings, text)


def _standings(
    here: Mapping[str, Point],
    repeated: Repeated[tuple[str, str]],
    latency: Mapping[str, float | None],
    cost: Cost,
) -> list[Standing]:
    scores = _comparable(here, repeated)
    highest = scores[best_of(scores)]
    tied = [
        Standing(method, highest, 0.0, 0.0, 0.0, serve=latency.get(method), train=here[method].train_seconds)
        for method, score in scores.items()
        if math.isclose(score, highest, rel_tol=0, abs_tol=1e-12)
    ]
    standings = [cheapest(tied, cost)]  # of methods that score the same nobody needs the dearer one
    best = standings[0].method
    for method, score in scores.items():
        if method == best:
            continue
        if not _shared(method, best, here, repeated):
            continue  # of other seeds alone, so that nothing can be said beside the best
        pair = repeated.paired((method, here[method].size), (best, here[best].size))
        told = (pair.difference, pair.low, pair.high, pair.row_share)
        costs = (latency.get(method), here[method].train_seconds)
        standings.append(Standing(method, min(score, highest), *told, *costs, pair.alike))
    return standings


def _comparable(here: Mapping[str, Point], repeated: Repeated[tuple[str, str]]) -> dict[str, float]:
    """Return scores as on the same seeds: those of the method that ran on most, and what others differ from it.

    A method that was cut after an easy sample would else look better than one that ran on the hard ones too.
    """
    first = max(here.values(), key=lambda point: (point.seeds, point.score))
    scores = {}
    for method, point in here.items():
        if method == first.method:
            scores[method] = point.score
        elif _shared(method, first.method, here, repeated):
            pair = repeated.paired((method, point.size), (first.method, first.size))
            scores[method] = first.score + pair.difference
    return scores


def _shared(method: str, other: str, here: Mapping[str, Point], repeated: Repeated[tuple[str, str]]) -> set[int]:
    """Return the seeds that two methods have in common."""
    seeds = (set(repeated.observed[name, here[name].size]) for name in (method, other))
    return set.intersection(*seeds)


def _rule(metric: str, margin: float, cost: Cost) -> str:
    return (
        f"Taken is the cheapest method ({_COSTS[cost]}) whose 95 % interval of the difference to the best in "
        f"{METRICS[metric]} lies above -{_points(margin)}. Costs within {100 * (SAME_COST - 1):.0f} % are "
        "equal; then the other cost decides, then the score."
    )


def _size_text(
    size: Size,
    choice: Choice,
    here: Mapping[str, Point],
    metric: str,
    margin: float,
    cost: Cost,
    tokens: bool,
) -> str:
    unit, pick = _unit(tokens), here[choice.pick]
    begin = f"With all {size.rows:,} rows" if size.shots is None else f"With {unit(size.per_class)}"
    if not tokens and size.shots is not None and rounded(size.shots) > rounded(size.per_class):
        begin += f" in the mean (at most {size.shots:,})"
    figures = f"{METRICS[metric]} {pick.score:.3f} [{pick.low:.3f}, {pick.high:.3f}]"
    if choice.pick == "majority" and len(here) > 1:
        return (
            f"{begin} no method is better by more than {_points(margin)} than giving every row the most frequent "
            f"label ({figures})."
        )
    if choice.pick == choice.best:
        why = "the best" if len(here) > 1 else "the only one"
        others = [method for method in choice.good if method != choice.pick]
        if others:
            why += f", and {_CHEAP[cost]} of those that lose at most {_points(margin)} against it"
        return f"{begin} take {choice.pick}: {figures}, {why}."
    best = here[choice.best]
    alike = pick.seeds == best.seeds  # else their means are of other samples
    against = f"{choice.best}, {best.score:.3f}" if alike else f"{choice.best}, on the seeds that both have"
    return (
        f"{begin} take {choice.pick}: {figures}, {_CHEAP[cost]} of those that lose at most {_points(margin)} "
        f"against the best ({against})."
    )


def _points(margin: float) -> str:
    return "1 point" if 100 * margin == 1 else f"{100 * margin:g} points"


def _unit(tokens: bool) -> Callable[[float], str]:
    def said(size: float) -> str:
        count = _count(size)
        return counted(count, "sentence") if tokens else f"{counted(count, 'label')} a class"

    return said


def _count(size: float) -> int:
    return int(size) if float(size).is_integer() else rounded(size)


def rounded(number: float) -> int:
    """Round to two digits that count, from 20 up.

    Examples
    --------
    >>> rounded(8), rounded(61.7), rounded(4265)
    (8, 62, 4300)
    """
    step = 10 ** max(0, len(str(int(number))) - 2)
    return int(round(number / step) * step)


def _crossings(found: Sequence[tuple[Size, Choice, dict[str, Point]]]) -> list[Crossing]:
    crossings = []
    for (size, choice, here), (next_size, next_choice, there) in pairwise(found):
        if choice.pick == next_choice.pick:
            continue
        ends = (size.per_class, next_size.per_class)
        first, second = (
            (here[name].score, there[name].score) if name in here and name in there else None
            for name in (choice.pick, next_choice.pick)
        )
        seeds = {
            where[name].seeds
            for where in (here, there)
            for name in (choice.pick, next_choice.pick)
            if name in where
        }
        at = crossing(ends, first, second) if ends[0] < ends[1] and len(seeds) == 1 else None
        crossings.append(Crossing(choice.pick, next_choice.pick, at, *ends))
    return crossings


def _ranges(
    found: Sequence[tuple[Size, Choice, dict[str, Point]]],
    crossings: Sequence[Crossing],
    unit: Callable[[float], str],
) -> list[str]:
    """Say over which sizes each method is advised, where that changes."""
    if len(found) < 2:
        return []
    if not crossings:
        return [f"That holds at every size from {unit(found[0][0].per_class)} on: take {found[0][1].pick}."]
    first, last = crossings[0], crossings[-1]
    edge = f"Up to {unit(first.low)}" if first.at is None else f"With fewer than about {unit(first.at)}"
    said = [f"{edge} take {first.before}"]
    said += [f"{_between(begin, end)} {begin.after}" for begin, end in pairwise(crossings)]
    said += [f"{_begin(last)} on {last.after}"]
    cross = ": there their curves cross" if any(change.at is not None for change in crossings) else ""
    return [f"{', '.join(said)}{cross}."]


def _between(begin: Crossing, end: Crossing) -> str:
    if begin.at is None and end.at is None and begin.high == end.low:
        return f"at {_count(end.low):,}"
    until = f"{_count(end.low):,}" if end.at is None else f"about {_count(end.at):,}"
    return f"{_begin(begin)} to {until}"


def _begin(change: Crossing) -> str:
    """Say where the method after a change begins; the size of a crossing was said by the one before."""
    return f"from {_count(change.high):,}" if change.at is None else "from there"


def _fewer(found: Sequence[tuple[Size, Choice, dict[str, Point]]]) -> list[str]:
    """Name the methods whose figures are of fewer seeds than others'."""
    sizes: dict[tuple[str, str], list[str]] = {}
    for size, _, here in found:
        most = max(point.seeds for point in here.values())
        for point in here.values():
            if point.seeds < most:
                sizes.setdefault((point.method, f"{point.seeds} of {most}"), []).append(size.name)
    methods: dict[tuple[str, str], list[str]] = {}
    for (method, seeds), at in sizes.items():
        methods.setdefault((", ".join(at), seeds), []).append(method)
    fewer = [f"{', '.join(some)} at {at} ({seeds})" for (at, seeds), some in methods.items()]
    return [f"Run with fewer seeds than others, and compared on these: {'; '.join(fewer)}."] if fewer else []


def _lacking(found: Sequence[tuple[Size, Choice, dict[str, Point]]], cells: Sequence[Cell]) -> list[str]:
    """Name the methods that the advice says nothing of at some sizes."""
    sizes: dict[tuple[str, str], list[str]] = {}
    for size, _, here in found:
        left_out: dict[str, str] = {}
        for cell in cells:
            if cell.size != size.name or cell.method in here:
                continue
            if cell.status == "done":
                left_out[cell.method] = "no seed in common with the others"
            else:
                left_out.setdefault(cell.method, cell.why)
        for lacking in left_out.items():
            sizes.setdefault(lacking, []).append(size.name)
    said = [f"{method} at {', '.join(at)} ({why})" for (method, why), at in sizes.items()]
    return [f"Not in the advice: {'; '.join(said)}."] if said else []


def _unknown(found: Sequence[tuple[Size, Choice, dict[str, Point]]], sizes: Sequence[Size]) -> list[str]:
    """Name the sizes at which no method has figures."""
    there = {size.name for size, _, _ in found}
    lacking = [
        f"all {size.rows:,} rows" if size.shots is None else size.name for size in sizes if size.name not in there
    ]
    return (
        [f"Of {', '.join(lacking)} there are no figures, so the advice does not reach there."] if lacking else []
    )


def _unpriced(last: tuple[Size, Choice, dict[str, Point]], latency: Mapping[str, float | None]) -> list[str]:
    """Say of which methods it is not known how cheap they are to serve."""
    _, choice, here = last
    if all(latency.get(method) is None for method in here):
        return ["No latency was measured, so what is cheap was decided by the time to train."]
    unknown = [method for method in choice.good if latency.get(method) is None]
    if not unknown or len(choice.good) < 2:
        return []
    return [f"No latency was measured of {', '.join(unknown)}: what has none counts as the dearest to serve."]


def _doubts(last: tuple[Size, Choice, dict[str, Point]], rows: int) -> list[str]:
    """Say what the judged rows cannot tell."""
    return [
        f"Whether {method}, which is cheaper, would do cannot be told from {counted(rows, 'judged row')}: "
        f"{what_would_tell(more, rows)}."
        for method, more in last[1].undecided.items()
    ]


def what_would_tell(more: int | None, rows: int) -> str:
    """Say what would decide about a method, as `embedkit.metrics.choice.rows_needed` has it.

    Examples
    --------
    >>> what_would_tell(6712, 1066)
    'about 6,700 more rows would, if the difference stays as it is'
    >>> what_would_tell(None, 1066)
    'its runs differ too much, so more seeds would have to tell (--seeds)'
    """
    if more is None:
        return "its runs differ too much, so more seeds would have to tell (--seeds)"
    if more > 1000 * rows:
        return "it lies on the margin, and no number of rows that can be had would tell"
    return f"about {counted(rounded(more), 'more row')} would, if the difference stays as it is"
