"""A comparison as files: everything for programs, a row a cell for spreadsheets, and what a person reads."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import IO

from embedkit.artifact import scrub, staged_file
from embedkit.data.text import aligned, printable
from embedkit.evaluation.compare.advice import METRICS
from embedkit.evaluation.compare.budget import time_said
from embedkit.evaluation.compare.figures import costs_figure, scores_figure
from embedkit.evaluation.compare.page import figure_text, means_of, other_metric, report_page, served_on
from embedkit.evaluation.compare.result import Cell, Comparison, Difference, Point, Served
from embedkit.evaluation.map import TextMap
from embedkit.evaluation.plots import save_png
from embedkit.runtime.tokens import Text

_FIGURES = ("accuracy", "macro_f1", "f1")
# What starts a formula in a spreadsheet, and what ends a cell of a Markdown table or begins markup there.
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
_MARKUP = str.maketrans({character: f"\\{character}" for character in "\\|<>*_`[]#"})


def write_files(
    folder: Path, found: Comparison, *, texts: Mapping[int, Text | Sequence[str]] | None = None
) -> None:
    """Write ``compare.json``, ``.csv``, ``.md``, ``scores.png``, ``costs.png`` and ``report.html``, each whole.

    Pictures of an earlier call are removed where there is nothing to draw. The page has no map.

    Parameters
    ----------
    folder : Path
        Exists.
    found : Comparison
    texts : mapping of int to texts, optional
        As for `embedkit.evaluation.compare.page.report_page`.
    """
    json_text = json.dumps(scrub(found.to_json()), sort_keys=True, indent=1, allow_nan=False)
    parts = {"compare.json": json_text + "\n", "compare.csv": cells_csv(found), "compare.md": report_text(found)}
    for name, text in parts.items():
        with _new(folder / name) as file:
            file.write(text.encode("utf-8"))
    for name, draw in (("scores.png", scores_figure), ("costs.png", costs_figure)):
        if found.points:
            with _new(folder / name) as file:
                save_png(draw(found), file)
        else:
            (folder / name).unlink(missing_ok=True)
    write_page(folder, found, texts=texts)


def write_page(
    folder: Path,
    found: Comparison,
    *,
    texts: Mapping[int, Text | Sequence[str]] | None = None,
    drawn: TextMap | None = None,
) -> None:
    """Write ``report.html`` alone; as `write_files`, with a map where there is one."""
    with _new(folder / "report.html") as file:
        file.write(report_page(found, texts=texts, drawn=drawn).encode("utf-8"))


def _new(path: Path) -> AbstractContextManager[IO[bytes]]:
    return staged_file(path.absolute(), check=lambda: None)


def cells_csv(found: Comparison) -> str:
    """Return a row for each cell."""
    names = [name for name in _FIGURES if any(name in cell.scores for cell in found.cells)]
    heads = [head for name in names for head in (name, f"{name}_low", f"{name}_high")]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["method", "size", "seed", "status", "rows", *heads, "train_seconds", "peak_mb", "why"])
    for cell in found.cells:
        figures = [value for name in names for value in _figure(cell, name)]
        costs = ["" if value is None else round(value, 3) for value in (cell.train_seconds, cell.peak_mb)]
        rows = "" if cell.rows is None else cell.rows
        line = [_inert(cell.method), cell.size, cell.seed, cell.status, rows, *figures, *costs, _inert(cell.why)]
        writer.writerow(line)
    return table.getvalue()


def _figure(cell: Cell, name: str) -> list[float | str]:
    if name not in cell.scores:
        return ["", "", ""]
    low, high = cell.scores.get(f"{name}_ci95", ("", ""))
    return [value if isinstance(value, str) else round(value, 6) for value in (cell.scores[name], low, high)]


def _inert(text: str) -> str:
    return printable(f"'{text}" if text.startswith(_FORMULA) else text, 500)


# ------------------------------------------------------------------------------------------------- Markdown


def report_text(found: Comparison) -> str:
    """Return the comparison for people, as Markdown."""
    sections = (_advice, _scores, _other_scores, _costs, _served, _differences, _missing, _notes, _made)
    return "\n\n".join(["# Comparison", *(part for section in sections for part in section(found))]) + "\n"


def _advice(found: Comparison) -> list[str]:
    said = ["This comparison was interrupted; the same command goes on with it."] if found.interrupted else []
    if found.advice is None:
        return [*said, "No cell is finished, so there is no advice."]
    return [*said, *map(_marked, found.advice.text), _marked(found.advice.rule)]


def _scores(found: Comparison) -> list[str]:
    unit = "sentences" if found.task == "tokens" else "rows a class"
    head = f"## {METRICS[found.metric]} on {found.judged_rows:,} {found.judged} rows, by {unit}"
    return [head, means_of(found), _by_size(found, partial(_score, found))]


def _by_size(found: Comparison, shown: Callable[[Point | None, str, str], str]) -> str:
    """Return a table of methods by sizes; `shown` is given a point, if there is one, its method and its size."""
    points = {(point.method, point.size): point for point in found.points}
    rows = [
        [
            method.name,
            *(shown(points.get((method.name, size.name)), method.name, size.name) for size in found.sizes),
        ]
        for method in found.methods
    ]
    return markdown_table([["method", *(size.name for size in found.sizes)], *rows])


def _other_scores(found: Comparison) -> list[str]:
    if not found.points:
        return []
    name, field = other_metric(found)
    title = f"## {METRICS[name]}\n\nMeans; the interval of each run stands in compare.csv."
    return [title, _by_size(found, lambda point, *_: "" if point is None else f"{getattr(point, field):.3f}")]


def _score(found: Comparison, point: Point | None, method: str, size: str) -> str:
    if point is not None:
        few = "" if point.seeds == len(found.seeds) else f" ({point.seeds} of {len(found.seeds)} seeds)"
        return f"{point.score:.3f} [{point.low:.3f}, {point.high:.3f}]{few}"
    states = {cell.status for cell in found.cells if (cell.method, cell.size) == (method, size)}
    return " and ".join(sorted(states)) or "not asked for"


def _costs(found: Comparison) -> list[str]:
    if not found.points:
        return []
    title = (
        "## Seconds to train, and peak memory\n\nFeatures, tuning and fit, as if nothing was kept; opening a "
        "model and judging are not counted. Memory is what a run added to Python and its libraries at its height: "
        "the least over the seeds, because what earlier runs left in the allocator only adds."
    )
    return [title, _by_size(found, lambda point, *_: _cost(point))]


def _cost(point: Point | None) -> str:
    if point is None:
        return ""
    seconds = f"{figure_text(point.train_seconds, 'time')} s"
    if point.peak_mb is None:
        return seconds
    return f"{seconds}, {point.peak_mb:,.0f} MB" if point.peak_mb >= 1 else f"{seconds}, below 1 MB"


def _served(found: Comparison) -> list[str]:
    if not found.served:
        return []
    head = ["method", "learnt from", "as", "ms for one text", "texts a second", "MB", "change by int8"]
    rows = [[entry.method, entry.size, entry.how, *_serving(entry)] for entry in found.served]
    return [f"## Served\n\n{served_on(found)}", markdown_table([head, *rows])]


def _serving(entry: Served) -> list[str]:
    if entry.latency_ms is None:
        return [entry.why or "not measured", "", "", _change(entry)]
    speed = "" if entry.per_second is None else f"{entry.per_second:,.0f}"
    size = "" if entry.megabytes is None else figure_text(entry.megabytes, "time")
    return [figure_text(entry.latency_ms, "time"), speed, size, _change(entry)]


def _change(entry: Served) -> str:
    return "" if entry.score_change is None else f"{entry.score_change:+.4f} {METRICS[entry.metric or 'accuracy']}"


def _differences(found: Comparison) -> list[str]:
    if not found.differences:
        return []
    head = ["size", "first", "second", "first - second", "95 % interval", "p (Holm)"]
    rows = [_difference(entry) for entry in found.differences]
    title = (
        "## Between methods\n\nPaired bootstrap over rows and seeds; p is corrected for all pairs of a size. "
        "Intervals are of each pair alone."
    )
    return [title, markdown_table([head, *rows])]


def _difference(entry: Difference) -> list[str]:
    interval = f"[{entry.low:+.3f}, {entry.high:+.3f}]"
    return [entry.size, entry.first, entry.second, f"{entry.difference:+.3f}", interval, f"{entry.p_holm:.3g}"]


def _missing(found: Comparison) -> list[str]:
    rows = [
        [method, size, ", ".join(map(str, seeds)), status, why]
        for (method, size, status, why), seeds in found.gaps.items()
    ]
    if not rows:
        return []
    return ["## Without figures", markdown_table([["method", "size", "seeds", "state", "why"], *rows])]


def _notes(found: Comparison) -> list[str]:
    """Say what was noted of the data, and of runs."""
    where: dict[str, dict[str, None]] = {}
    for cell in found.cells:
        for note in cell.notes:
            where.setdefault(note, {})[f"{cell.method} at {cell.size}"] = None
    said = [_marked(str(note)) for note in found.data.get("notes", [])]
    said += [f"{_marked(', '.join(cells))}: {_marked(note)}" for note, cells in where.items()]
    return ["## Notes", "\n".join(f"- {line}" for line in said)] if said else []


def _made(found: Comparison) -> list[str]:
    made = found.made
    lines = [
        f"- command: `{printable(str(made.get('command', '')), None).replace('`', ' ')}`",
        f"- seeds: {', '.join(map(str, found.seeds))}; model: {_marked(str(made.get('model', '')))}",
        f"- machine: {_marked(str(made.get('machine', '')))}, threads: {made.get('threads') or 'one a core'}",
        "- versions: " + ", ".join(f"{name} {version}" for name, version in _mapping(made, "versions").items()),
        "- digests: " + ", ".join(f"{name} {_digest(value)}" for name, value in _mapping(made, "digests").items()),
    ]
    return ["## Made by", "\n".join(lines)]


def _mapping(made: Mapping[str, object], name: str) -> Mapping[str, object]:
    found = made.get(name)
    return found if isinstance(found, Mapping) else {}


def _digest(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _marked(text: str) -> str:
    """Return text without a meaning of its own in Markdown."""
    return printable(text, None).translate(_MARKUP)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows, the first of them heads, as a table."""
    lines = ["| " + " | ".join(_marked(cell) for cell in row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------- on a terminal


def shown_text(found: Comparison) -> str:
    """Return the advice and the table of scores for a terminal."""
    said = list(found.advice.text) if found.advice is not None else ["no cell is finished, so there is no advice"]
    if not found.points:
        return "\n".join(said)
    points = {(point.method, point.size): point for point in found.points}
    rows = [["", *(size.name for size in found.sizes), "train", "one text"]]
    latency = {entry.method: entry.latency_ms for entry in found.served if not entry.how.endswith("int8")}
    for method in found.methods:
        here = [points.get((method.name, size.name)) for size in found.sizes]
        cells = [
            f"{point.score:.3f} ±{(point.high - point.low) / 2:.3f}" if point is not None else "-"
            for point in here
        ]
        last = next((point for point in reversed(here) if point is not None), None)
        ms = latency.get(method.name)
        costs = [
            "-" if last is None else time_said(last.train_seconds) if last.train_seconds >= 1 else "<1 s",
            "-" if ms is None else f"{figure_text(ms, 'time')} ms",
        ]
        rows.append([printable(method.name, 60), *cells, *costs])
    head = f"{METRICS[found.metric]} on {found.judged_rows:,} {found.judged} rows, by {found.unit}"
    return "\n".join([*said, "", head, *aligned(rows)])
