"""A map as files: its page, and a picture with a panel of all texts and one for each of the largest groups."""

from __future__ import annotations

import textwrap
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedkit.data.text import counted
from embedkit.evaluation.map import TextMap
from embedkit.evaluation.plots import FONT, drawn, drawn_labels, save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 23  # beside the one of all
_COLUMNS = 4
_INCHES = 2.9
_CELLS = 60  # across a panel
_PALE = "#E4E7EB"


def write_map(shown: TextMap, page: IO[bytes] | None, picture: IO[bytes]) -> None:
    """Write a map as a picture, and as a page where one is wanted."""
    if page is not None:
        page.write(shown.page().encode())
    save_png(map_figure(shown), picture)


def map_figure(shown: TextMap) -> Figure:
    """Draw how densely texts lie: all of them, then each group over the outline of all.

    A panel has a colour scale of its own, up to the most texts in a cell, so that small groups are seen too. Above
    23 groups the largest are drawn.

    Parameters
    ----------
    shown : TextMap
        Its first mode says the groups.

    Returns
    -------
    matplotlib.figure.Figure
        To be saved.
    """
    from matplotlib.figure import Figure

    mode, points = shown.modes[0], shown.projection.points
    sizes = np.bincount(mode.codes[mode.codes >= 0], minlength=len(mode.names))
    largest = [code for code in np.argsort(-sizes, kind="stable").tolist() if sizes[code]][:MOST_PANELS]
    panels = 1 + len(largest)
    columns = min(_COLUMNS, panels)
    rows = -(-panels // columns)
    figure = Figure(
        figsize=(max(_INCHES * columns, 5.6), _INCHES * rows + 0.9), layout="constrained", facecolor="white"
    )
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    edges = _edges(points)
    whole = _counts(points, edges)
    _panel(axes[0], whole, whole, edges, f"all: {len(points):,}")
    labels = drawn_labels(mode.names)
    for place, code in zip(axes[1:], largest, strict=False):
        part = _counts(points[mode.codes == code], edges)
        _panel(place, part, whole, edges, f"{labels[code]}: {sizes[code]:,}")
    for place in axes[panels:]:
        place.set_axis_off()
    _write_title(figure, shown, len(np.flatnonzero(sizes)) - len(largest))
    return figure


def _edges(points: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the borders of square cells over all points."""
    low, high = points.min(axis=0).astype(np.float64), points.max(axis=0).astype(np.float64)
    middle, half = (low + high) / 2, max(float((high - low).max()), float(np.finfo(np.float32).tiny)) * 0.53
    return tuple(np.linspace(at - half, at + half, _CELLS + 1) for at in middle)  # type: ignore[return-value]


def _counts(
    points: NDArray[np.floating[Any]], edges: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> NDArray[np.float64]:
    counts: NDArray[np.float64] = np.histogram2d(points[:, 0], points[:, 1], bins=edges)[0].T
    return counts


def _panel(
    axes: Axes,
    counts: NDArray[np.float64],
    whole: NDArray[np.float64],
    edges: tuple[NDArray[np.float64], NDArray[np.float64]],
    title: str,
) -> None:
    """Draw counts by their square root, under which single texts are still seen beside dense cells."""
    from matplotlib.colors import ListedColormap

    extent = (edges[0][0], edges[0][-1], edges[1][0], edges[1][-1])
    outline = np.ma.masked_equal(whole, 0) * 0
    axes.imshow(outline, origin="lower", extent=extent, cmap=ListedColormap([_PALE]), interpolation="nearest")
    strength = np.ma.masked_equal(np.sqrt(counts), 0)
    axes.imshow(
        strength, origin="lower", extent=extent, cmap="viridis_r", vmin=0, vmax=np.sqrt(counts.max()),
        interpolation="nearest",
    )  # fmt: skip
    axes.set_title(title, family=FONT, fontsize=9, color="black", parse_math=False)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_color("#B9C0CA")


def _write_title(figure: Figure, shown: TextMap, left_out: int) -> None:
    more = f"; {counted(left_out, 'smaller group')} not drawn" if left_out else ""
    lines = textwrap.wrap(drawn(shown.title, 150), 80)
    about = f"{shown.projection.said}{more}; darker: more texts, each panel by its own scale"
    lines += textwrap.wrap(drawn(about, 250), 110)
    figure.suptitle("\n".join(lines), family=FONT, fontsize=10, color="black", parse_math=False)
