"""Pictures, drawn on matplotlib's Agg canvas through its objects: no window, no global state."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from embedkit.data.text import counted, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FONT = "DejaVu Sans"  # comes with matplotlib, so a picture looks the same everywhere
LABEL_LIMIT = 24  # characters of a label in a picture
MOST_LABELLED = 60  # classes up to which each one has its label and its numbers
MOST_LINES = 8  # of a sweep that are told apart by colour
MOST_CANDIDATES = 30  # of a sweep without layers to go over

# Okabe and Ito's colours, which colour-blind readers tell apart too, without the yellow that white swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C564B")
_STYLES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D", "v")
_PALE, _GREY = "#A6CEE3", "#8A8A8A"


def confusion_figure(confusion: npt.ArrayLike, names: Sequence[str], *, title: str) -> Figure:
    """Draw a confusion matrix: colour is the share of the row, numbers are counts.

    Up to 25 classes the share stands below each count, up to 60 counts alone; with more classes colour is
    all there is, and only some labels are written.

    Parameters
    ----------
    confusion : array-like of int, shape (C, C)
        Rows are true classes, columns predicted ones.
    names : sequence of str
        Labels; cut to 24 characters. One that the font cannot draw is given by its number, counted from 1
        as in the classification report.
    title : str
        Above the picture.

    Returns
    -------
    matplotlib.figure.Figure
        To be saved.
    """
    from matplotlib.figure import Figure

    counts = np.asarray(confusion)
    n_classes = len(counts)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    side = _cell_inches(n_classes) * n_classes
    figure = Figure(figsize=(max(side + 3.2, 5.6), max(side + 2.2, 3.6)), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    bar = figure.colorbar(
        image, ax=axes, format=lambda share, _: f"{share:.0%}", shrink=0.8, aspect=max(20, 4 * side)
    )
    bar.set_label("share of the true label's rows", family=FONT, color="black")
    bar.ax.tick_params(labelfontfamily=FONT, colors="black")
    _write_cells(axes, counts, shares)
    _write_labels(axes, drawn_labels(names))
    _write_title(figure, title)
    return figure


def labels_figure(per_class: Mapping[str, Mapping[str, Any]], names: Sequence[str], *, title: str) -> Figure:
    """Draw F1, precision and recall of each label, the best F1 on top.

    Above 60 labels those with the most rows are shown.

    Parameters
    ----------
    per_class : mapping of str to mapping
        ``f1``, ``precision``, ``recall`` and ``support`` of each label.
    names : sequence of str
        Labels, in the order of their codes.
    title : str
        Above the picture.

    Returns
    -------
    matplotlib.figure.Figure
        To be saved.
    """
    from matplotlib.figure import Figure

    labels = drawn_labels(names)
    figures = {key: np.array([per_class[name][key] for name in names]) for key in ("f1", "precision", "recall")}
    rows = np.array([per_class[name]["support"] for name in names])
    shown = np.sort(np.argsort(-rows, kind="stable")[:MOST_LABELLED])
    shown = shown[np.argsort(-figures["f1"][shown], kind="stable")]
    places = np.arange(len(shown))
    figure = Figure(figsize=(8, 1.5 + 0.27 * max(len(shown), 3)), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    f1, precision, recall = (figures[key][shown] for key in ("f1", "precision", "recall"))
    bars = axes.barh(places, f1, height=0.66, color=_PALE, label="F1")
    axes.hlines(places, np.minimum(precision, recall), np.maximum(precision, recall), color=_GREY, linewidth=0.8)
    dots = [
        axes.plot(
            values, places, marker, color=colour, markerfacecolor=fill, markersize=5, label=name, clip_on=False
        )[0]
        for name, values, marker, colour, fill in (
            ("precision", precision, "o", COLOURS[0], COLOURS[0]),
            ("recall", recall, "D", COLOURS[1], "white"),
        )
    ]
    axes.set_xlim(0, 1)
    _write_rows(axes, [labels[i] for i in shown], [f"{rows[i]:,}" for i in shown])
    axes.legend(
        handles=[bars, *dots],
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=3,
        frameon=False,
        prop={"family": FONT, "size": 9},
    )
    _tidy(axes, grid="x")
    left_out = len(names) - len(shown)
    more = f"the {len(shown)} of {len(names):,} labels with the most rows" if left_out else ""
    _write_title(figure, title, more, width=70)
    return figure


def _write_rows(axes: Axes, labels: Sequence[str], rows: Sequence[str]) -> None:
    """Write labels to the left and their numbers of rows to the right, from the top."""
    places = range(len(labels))
    size = 9.0 if len(labels) <= 25 else 8.0
    axes.set_yticks(places, labels, fontsize=size, family=FONT, parse_math=False)
    beside = axes.twinx()
    for side in (axes, beside):
        side.set_ylim(max(len(labels), 3) - 0.4, -0.6)
    beside.set_yticks(places, rows, fontsize=size, family=FONT)
    axes.set_title("rows", loc="right", family=FONT, fontsize=9, color="black")
    _tidy(beside)


def calibration_figure(before: Mapping[str, Any] | None, after: Mapping[str, Any], *, title: str) -> Figure:
    """Draw reliability: how often what was said with some confidence is right, and how often it was said.

    Parameters
    ----------
    before, after : mapping
        Of `embedkit.metrics.expected_calibration`; None where there is nothing to compare with.
    title : str
        Above the picture.

    Returns
    -------
    matplotlib.figure.Figure
        To be saved.
    """
    from matplotlib.figure import Figure

    parts = [("calibrated", after, COLOURS[0], "o-")]
    if before is not None:
        parts.insert(0, ("before", before, _GREY, "s--"))
    bins = int(after["bins"])
    figure = Figure(figsize=(5.6, 6.4), layout="constrained", facecolor="white")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
    above.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":", label="perfectly calibrated")
    for place, (name, part, colour, style) in enumerate(parts):
        sure, right, rows = (
            np.array([bin_[key] for bin_ in part["curve"]]) for key in ("confidence", "right", "rows")
        )
        above.plot(
            sure, right, style, color=colour, markersize=5, label=f"{name}: ECE {part['ece']:.3f}", clip_on=False
        )
        width = 0.8 / bins / len(parts)
        middle = (np.ceil(sure * bins - 1e-9).clip(1, bins) - 0.5) / bins
        below.bar(middle + (place - (len(parts) - 1) / 2) * width, rows, width, color=colour)
    bins_shown = [bin_ for _, part, _, _ in parts for bin_ in part["curve"]]
    lowest = min(np.floor(bin_["confidence"] * bins) / bins for bin_ in bins_shown)
    above.set_xlim(min(lowest, 1 - 1 / bins), 1)
    above.set_ylim(min(lowest, *(np.floor(bin_["right"] * 10) / 10 for bin_ in bins_shown)), 1)
    several = "pairs" in after["over"]
    counts = [bin_["rows"] for bin_ in bins_shown]
    if max(counts) > 100 * min(counts):
        below.set_yscale("log")
    what = "pairs of row and label" if several else "rows"
    above.set_ylabel("share of pairs that have the label" if several else "share right", family=FONT)
    below.set_ylabel(what, family=FONT)
    below.set_xlabel("probability of the label" if several else "probability of the predicted class", family=FONT)
    above.legend(loc="upper left", frameon=False, prop={"family": FONT, "size": 9})
    _tidy(above, grid="both")
    _tidy(below)
    _write_title(figure, title)
    return figure


@dataclass(frozen=True)
class SweepPoint:
    """One candidate of a sweep, cross-validated.

    Attributes
    ----------
    layer, pooling, clf : str
        What was taken from the encoder, and the head.
    mean, std : float
        Of the score over the folds.
    params : mapping
        Of the head, those that the sweep went over.
    """

    layer: str
    pooling: str
    clf: str
    mean: float
    std: float
    params: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the candidate as it is written in a picture, without its layer."""
        settings = ", ".join(
            f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in self.params.items()
        )
        return " · ".join(filter(None, [self.pooling, self.clf, settings]))


def sweep_figure(
    points: Sequence[SweepPoint], *, title: str = "", metric: str = "accuracy", winner: SweepPoint | None = None
) -> Figure:
    """Draw a sweep: the score over layers, or, where there is one layer, of the best 30 candidates.

    Over layers there is a line for each pooling and head, at each layer with its best settings; the best 8 have
    colours, the others are grey. Below the title stands what was chosen.

    Parameters
    ----------
    points : sequence of SweepPoint
        At least one.
    title : str, optional
        Above the picture.
    metric : str
        The score, as it is called on the axis.
    winner : SweepPoint, optional
        To be marked; default: the highest mean, the first of equals.

    Returns
    -------
    matplotlib.figure.Figure
        To be saved.
    """
    best = winner or max(points, key=lambda point: point.mean)
    axis = f"{metric}: mean of the folds ± 1 standard deviation"
    if len({point.layer for point in points}) > 1:
        figure = _over_layers(points, best, axis)
    else:
        figure = _candidates(points, best, axis)
    chosen = f"layer {best.layer} · {best}: {best.mean:.4f} ± {best.std:.4f}"
    lines = [title, f"{counted(len(points), 'candidate')}; chosen: {chosen}"]
    _write_title(figure, *filter(None, lines), width=90)
    return figure


def learning_figure(history: Sequence[Mapping[str, Any]], best: int | None, *, title: str) -> Figure:
    """Draw how training went: losses above, figures of the validation rows below, over steps.

    Parameters
    ----------
    history : sequence of mapping
        Rows with ``step``, ``loss``, ``eval_loss`` and figures between -1 and 1.
    best : int, optional
        The step whose weights were kept.
    title : str

    Returns
    -------
    matplotlib.figure.Figure
        To be saved.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), layout="constrained", facecolor="white")
    losses, figures = figure.subplots(2, 1, sharex=True)
    steps = [row["step"] for row in history]
    names = [name for name in history[0] if name not in ("step", "epoch", "loss", "eval_loss")]
    lines = [(losses, "loss", "training"), (losses, "eval_loss", "validation")]
    lines += [(figures, name, name.replace("_", " ")) for name in names]
    for number, (axes, name, label) in enumerate(lines):
        values = [row[name] for row in history]
        style = {"color": COLOURS[number % len(COLOURS)], "marker": _MARKERS[number % len(_MARKERS)]}
        axes.plot(steps, values, label=label, markersize=4, **style)
    for axes, what in ((losses, "loss"), (figures, "validation")):
        if best is not None:
            axes.axvline(best, color=_GREY, linestyle=":", linewidth=1)
        axes.set_ylabel(what, family=FONT)
        axes.legend(prop={"family": FONT, "size": 8}, frameon=False)
        _tidy(axes, grid="both")
    figures.set_xlabel("step" if best is None else f"step (dotted: {best}, whose weights were kept)", family=FONT)
    _write_title(figure, title, width=70)
    return figure


def freezing_figure(
    names: Sequence[str],
    scores: Sequence[float],
    intervals: Sequence[tuple[float, float]],
    chosen: int,
    *,
    metric: str,
    title: str,
) -> Figure:
    """Draw F1 over how much of a model is trained, with intervals; the chosen point has a star.

    Parameters
    ----------
    names : sequence of str
        Blocks that are trained, or a word; from few trained parameters to many.
    scores : sequence of float
    intervals : sequence of (float, float)
    chosen : int
        Its place.
    metric : str
        Which F1.
    title : str

    Returns
    -------
    matplotlib.figure.Figure
        To be saved.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    means, ends = np.array(scores), np.array(intervals)
    spread = np.abs(ends.T - means)
    axes.errorbar(range(len(names)), means, yerr=spread, fmt="o-", color=COLOURS[0], ecolor=_PALE, elinewidth=2)
    _mark_winner(axes, chosen, float(means[chosen]))
    axes.set_xticks(range(len(names)), [drawn(name, 20) for name in names], fontsize=9, family=FONT)
    axes.set_xlabel("blocks that are trained (★: more stop to pay)", family=FONT)
    axes.set_ylabel(f"{metric}, validation, 95 % interval", family=FONT)
    _tidy(axes, grid="y")
    _write_title(figure, title, width=70)
    return figure


def _over_layers(points: Sequence[SweepPoint], winner: SweepPoint, axis: str) -> Figure:
    """Draw a line over layers for each pooling and head."""
    from matplotlib.figure import Figure

    layers = _ordered_layers(point.layer for point in points)
    lines: dict[tuple[str, str], dict[str, SweepPoint]] = {}
    for point in sorted(points, key=lambda point: -point.mean):  # so that the best settings come first
        lines.setdefault((point.pooling, point.clf), {}).setdefault(point.layer, point)
    figure = Figure(figsize=(9.5, 5), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    coloured = dict(list(lines.items())[:MOST_LINES])
    styles, alpha = _line_styles(coloured), 0.5 / (3 + len(coloured))
    for number, (key, line) in enumerate(lines.items()):
        places = [i for i, layer in enumerate(layers) if layer in line]
        means, spread = (np.array([getattr(line[layers[i]], of) for i in places]) for of in ("mean", "std"))
        if key in coloured:
            label = drawn(" · ".join(key), 40)
            axes.plot(places, means, label=label, linewidth=1.6, markersize=4, zorder=3, **styles[key])
            axes.fill_between(
                places, means - spread, means + spread, color=styles[key]["color"], alpha=alpha, lw=0
            )
        else:
            label = f"{len(lines) - len(coloured)} more" if number == len(coloured) else ""
            axes.plot(places, means, color="#CFCFCF", linewidth=0.8, label=label or "_", zorder=1)
    _mark_winner(axes, layers.index(winner.layer), winner.mean)
    _write_layers(axes, layers)
    axes.set_ylabel(axis, family=FONT)
    legend = axes.legend(
        loc="upper left", bbox_to_anchor=(1, 1.02), frameon=False, prop={"family": FONT, "size": 9}
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    _tidy(axes, grid="y")
    return figure


def _ordered_layers(layers: Iterable[str]) -> list[str]:
    """Return the distinct layers: numbers, then those counted from the end, then others as they come."""

    def place(layer: str) -> tuple[int, int]:
        digits = layer.removeprefix("-").isdecimal()
        return (int(layer.startswith("-")), int(layer)) if digits else (2, 0)

    return sorted(dict.fromkeys(layers), key=place)


def _line_styles(keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return a colour for each head, and a stroke and marker for each pooling."""
    chosen = list(keys)
    poolings, heads = (list(dict.fromkeys(key[side] for key in chosen)) for side in (0, 1))
    return {
        (pooling, head): {
            "color": COLOURS[heads.index(head)],
            "linestyle": _STYLES[poolings.index(pooling) % len(_STYLES)],
            "marker": _MARKERS[poolings.index(pooling) % len(_MARKERS)],
        }
        for pooling, head in chosen
    }


def _write_layers(axes: Axes, layers: Sequence[str]) -> None:
    """Write the layers below, at most 40 of them, and upright where they fit."""
    names = [drawn(layer, LABEL_LIMIT) for layer in layers]
    ticks = range(0, len(names), -(-len(names) // 40))
    upright = sum(len(names[tick]) + 2 for tick in ticks) <= 90
    shown = [names[tick] for tick in ticks]
    axes.set_xticks(ticks, shown, rotation=0 if upright else 90, fontsize=9, family=FONT, parse_math=False)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_xlabel("layer", family=FONT)


def _candidates(points: Sequence[SweepPoint], winner: SweepPoint, axis: str) -> Figure:
    """Draw the best candidates of one layer as dots with their spread."""
    from matplotlib.figure import Figure

    shown = sorted(points, key=lambda point: -point.mean)[:MOST_CANDIDATES]
    if winner not in shown:
        shown[-1] = winner
    figure = Figure(figsize=(9, 1.4 + 0.27 * max(len(shown), 3)), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    means, spread = np.array([point.mean for point in shown]), np.array([point.std for point in shown])
    axes.errorbar(
        means, range(len(shown)), xerr=spread, fmt="o", color=COLOURS[0], ecolor=_PALE, elinewidth=2, markersize=5
    )
    _mark_winner(axes, winner.mean, shown.index(winner))
    labels = [drawn(str(point), 60) for point in shown]
    axes.set_yticks(range(len(shown)), labels, fontsize=9, family=FONT, parse_math=False)
    axes.set_ylim(max(len(shown), 3) - 0.4, -0.6)
    shown_of = f"; the best {len(shown)} of {len(points):,}" if len(points) > len(shown) else ""
    axes.set_xlabel(f"{axis}{shown_of}; ★ chosen", family=FONT, parse_math=False)
    _tidy(axes, grid="x")
    return figure


def _mark_winner(axes: Axes, x: float, y: float) -> None:
    axes.plot(
        [x], [y], "*", color="#FFD21F", markeredgecolor="black", markeredgewidth=0.8, markersize=15, zorder=5,
        label="chosen", linestyle="none",
    )  # fmt: skip


def _tidy(axes: Axes, grid: Literal["x", "y", "both", ""] = "") -> None:
    """Take away the frame but for its left and lower lines; draw light lines behind."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors="black", length=2, labelfontfamily=FONT)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis=grid, color="#E3E3E3", linewidth=0.7)


def _write_title(figure: Figure, *paragraphs: str, width: int = 50) -> None:
    """Write a title in lines of some width, centred on the page, where narrow axes have no room."""
    lines = [line for text in paragraphs for line in textwrap.wrap(drawn(text, 150), width)]
    figure.suptitle("\n".join(lines), family=FONT, fontsize=11, color="black", parse_math=False)


def save_png(figure: Figure, path: Path | IO[bytes]) -> None:
    """Write a figure as PNG on a white ground, the same bytes for the same figure."""
    figure.savefig(path, format="png", dpi=150, facecolor="white", metadata={"Software": None})


def _cell_inches(n_classes: int) -> float:
    """Return the side of a cell, so that its numbers fit and the picture stays below 20 inches."""
    if n_classes <= 12:
        return 0.62
    if n_classes <= 25:
        return 0.48
    return 0.31 if n_classes <= MOST_LABELLED else 18.6 / n_classes


def _write_cells(axes: Axes, counts: npt.NDArray[np.int64], shares: npt.NDArray[np.float64]) -> None:
    """Write counts, and shares where there is room; zeros stay empty in a large matrix."""
    n_classes = len(counts)
    if n_classes > MOST_LABELLED:
        return
    with_share, size = n_classes <= 25, 9.0 if n_classes <= 12 else 7.0 if n_classes <= 25 else 5.5
    for row, column in np.ndindex(counts.shape):
        count, share = int(counts[row, column]), float(shares[row, column])
        if not count and n_classes > 12:
            continue
        shown = f"{count:,}" if n_classes <= 12 and count < 10**6 else _short(count)
        text = f"{shown}\n{_percent(share)}" if with_share else shown
        colour = "white" if share > 0.55 else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour, family=FONT)


def _percent(share: float) -> str:
    """Return a share in whole percent; what is there is never said to be nothing."""
    return "<1%" if 0 < share < 0.005 else f"{share:.0%}"


def _short(count: int) -> str:
    """Return a count in at most five characters."""
    for unit, suffix in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= max(unit, 10**4):
            shown = count / unit
            return f"{shown:.1f}{suffix}" if shown < 100 else f"{shown:.0f}{suffix}"
    return str(count)


def _write_labels(axes: Axes, labels: Sequence[str]) -> None:
    """Write the labels of both axes, every one or as many as there is room for."""
    step = -(-len(labels) // MOST_LABELLED)
    ticks = list(range(0, len(labels), step))
    size = 9.0 if len(labels) <= 25 else 7.0
    shown = [labels[tick] for tick in ticks]
    upright = len(labels) <= 12 and max(map(len, labels)) <= 6
    axes.set_xticks(ticks, shown, rotation=0 if upright else 90, fontsize=size, family=FONT, parse_math=False)
    axes.set_yticks(ticks, shown, fontsize=size, family=FONT, parse_math=False)
    axes.tick_params(colors="black", length=2)
    axes.set_xlabel("predicted", family=FONT, color="black")
    axes.set_ylabel("true", family=FONT, color="black")


def drawn_labels(names: Sequence[str]) -> list[str]:
    """Return short labels that the font can draw, no two alike: by number where the name does not do."""
    labels = [drawn(name, LABEL_LIMIT) for name in names]
    seen = Counter(labels)
    return [
        label if seen[label] == 1 and label.strip() and "\ufffd" not in label else _numbered(number, label)
        for number, label in enumerate(labels, start=1)
    ]


def _numbered(number: int, label: str) -> str:
    """Return a label with its number before it, without what cannot be drawn."""
    rest = " ".join(label.replace("\ufffd", " ").split())
    text = f"#{number} {rest}".strip()
    return text if len(text) <= LABEL_LIMIT else text[: LABEL_LIMIT - 1] + "…"


def drawn(text: str, limit: int) -> str:
    """Return a text on one line, cut, with U+FFFD for every character that the font lacks."""
    known = _characters_of_font()
    return "".join(c if ord(c) in known else "\ufffd" for c in printable(text, limit))


@lru_cache(maxsize=1)
def _characters_of_font() -> frozenset[int]:
    """Return the code points that the font can draw."""
    from matplotlib.font_manager import FontProperties, findfont
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(findfont(FontProperties(family=FONT))).get_charmap())
