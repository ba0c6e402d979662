"""Pictures of a comparison: scores over labels with bands, and scores over what a method costs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from embedkit.evaluation.compare.advice import METRICS
from embedkit.evaluation.compare.result import Comparison, Point, Size
from embedkit.evaluation.plots import COLOURS, FONT, drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_LABEL = 60


def scores_figure(found: Comparison) -> Figure:
    """Draw the score of each method over the labels a class that it learnt from, with 95 % bands."""
    figure, axes = _drawing()
    places = {size.name: size.per_class for size in found.sizes}
    for number, method in enumerate(found.methods):
        points = sorted(
            (point for point in found.points if point.method == method.name), key=lambda p: places[p.size]
        )
        if not points:
            continue
        style = _style(number)
        x, y = [places[point.size] for point in points], [point.score for point in points]
        axes.plot(x, y, markersize=5, linewidth=1.6, label=drawn(method.label, _LABEL), **style)
        low, high = [point.low for point in points], [point.high for point in points]
        axes.fill_between(x, low, high, color=style["color"], alpha=0.13, linewidth=0)
        if len(points) == 1:
            axes.vlines(x, low, high, color=style["color"], linewidth=1.2)
    axes.set_xscale("log")
    there = {point.size for point in found.points}
    ticks = {size.per_class: _tick(size) for size in found.sizes if size.name in there}
    axes.set_xticks(list(ticks), list(ticks.values()), family=FONT)
    axes.minorticks_off()
    axes.set_xlabel(found.unit, family=FONT)
    _finish(figure, axes, found)
    return figure


def _tick(size: Size) -> str:
    """Return what stands below a size: its place, and its name where that says something else."""
    place = f"{size.per_class:,.0f}"
    return place if size.shots is None or size.per_class == size.shots else f"{size.name} ({place})"


def costs_figure(found: Comparison) -> Figure:
    """Draw each method's score at its largest size over its costs: to answer one text, and to train."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 4.4), layout="constrained", facecolor="white")
    serve, train = figure.subplots(1, 2, sharey=True)
    costs: dict[Axes, list[float]] = {serve: [], train: []}
    latency = {entry.method: entry.latency_ms for entry in found.served if not entry.how.endswith("int8")}
    for number, method in enumerate(found.methods):
        point = _largest(found, method.name)
        if point is None:
            continue
        error = [[point.score - point.low], [point.high - point.score]]
        for axes, cost in ((serve, latency.get(method.name)), (train, point.train_seconds)):
            if cost is not None and cost > 0:
                costs[axes].append(cost)
                label = drawn(f"{method.label} ({point.size})", _LABEL)
                axes.errorbar([cost], [point.score], yerr=error, label=label, markersize=6, **_style(number))
    serve.set_xlabel("ms for one text, as served (float32)", family=FONT)
    train.set_xlabel("seconds to train", family=FONT)
    for axes, there in costs.items():
        _tidy(axes)
        if there:
            _decades(axes, min(there), max(there))
    serve.set_ylabel(f"{METRICS[found.metric]}, 95 % interval", family=FONT)
    handles, labels = train.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False,
                  prop={"family": FONT, "size": 8})  # fmt: skip
    return figure


def _decades(axes: Axes, low: float, high: float) -> None:
    """Give an axis of costs whole decades, so that costs that are nearly equal do not look far apart."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    last = max(last, first + 1)
    axes.set_xscale("log")
    axes.set_xlim(10.0**first / 1.1, 10.0**last * 1.1)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if last - first <= 2 else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda cost, _: f"{cost:,g}"))
    axes.minorticks_off()


def _largest(found: Comparison, method: str) -> Point | None:
    order = {size.name: place for place, size in enumerate(found.sizes)}
    points = [point for point in found.points if point.method == method]
    return max(points, key=lambda point: order[point.size], default=None)


def _drawing() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 5.2), layout="constrained", facecolor="white")
    return figure, figure.add_subplot()


def _style(number: int) -> dict[str, Any]:
    turn, place = divmod(number, len(COLOURS))  # from the ninth method on a colour comes with another marker
    return {"color": COLOURS[place], "marker": _MARKERS[(place + turn) % len(_MARKERS)]}


def _finish(figure: Figure, axes: Axes, found: Comparison) -> None:
    axes.set_ylabel(f"{METRICS[found.metric]} on {found.judged_rows:,} {found.judged} rows", family=FONT)
    _tidy(axes)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False,
                  prop={"family": FONT, "size": 8})  # fmt: skip


def _tidy(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors="black", length=2, labelfontfamily=FONT)
    axes.set_axisbelow(True)
    axes.grid(color="#E3E3E3", linewidth=0.7)
