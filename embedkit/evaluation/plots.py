"""Pictures, drawn on matplotlib's Agg canvas through its objects: no window, no global state."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from embedkit.data.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FONT = "DejaVu Sans"  # comes with matplotlib, so a picture looks the same everywhere
LABEL_LIMIT = 24  # characters of a label in a picture
MOST_LABELLED = 60  # classes up to which each one has its label and its numbers


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
    lines = textwrap.wrap(drawn(title, 150), 50)  # centred on the page, where a narrow matrix has no room
    figure.suptitle("\n".join(lines), family=FONT, fontsize=11, color="black", parse_math=False)
    return figure


def save_png(figure: Figure, path: Path) -> None:
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
