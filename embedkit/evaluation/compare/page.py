"""A comparison as one page: the advice, then all that it stands on. Every figure is read from ``compare.json``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from embedkit.artifact import scrub
from embedkit.data.text import counted, printable
from embedkit.evaluation.compare.advice import METRICS, what_would_tell
from embedkit.evaluation.compare.result import Comparison, Detail
from embedkit.evaluation.map import TextMap, map_scripts, shortened
from embedkit.pages import Content, Html, asset, document, library, quoted, table, tag
from embedkit.runtime.tokens import Text

Key: TypeAlias = str | int
MOST_MATRIX = 25  # labels of a confusion matrix that is shown whole
_MOST_PAIRS = 20  # of confused labels that are listed where there are more
_SHADES = 10
_MAP, _CHARTS = "map-points", "chart-data"  # ids of data
_STATUS = {"failed": "failed", "skipped": "skipped", "missing": "not run yet"}


def figure_text(value: float, form: str) -> str:
    """Return a figure as it stands on the page.

    Examples
    --------
    >>> [figure_text(0.12345, form) for form in ("score", "change", "time", "share")]
    ['0.123', '+0.123', '0.12', '12.3%']
    >>> figure_text(12345, "count"), figure_text(1234.5, "time")
    ('12,345', '1,234')
    """
    if form == "time":
        size = abs(value)
        return f"{value:{',.0f' if size >= 100 else '.1f' if size >= 10 else '.2f' if size >= 0.1 else '.2g'}}"
    return {"score": f"{value:.3f}", "change": f"{value:+.3f}", "share": f"{value:.1%}", "p": f"{value:.4f}"}.get(
        form, f"{value:,.10g}"
    )


def means_of(found: Comparison) -> str:
    """Say what scores are means of, and what their intervals hold."""
    if len(found.seeds) == 1:
        return "Of one seed, with 95 % intervals over rows alone: how samples differ is not in them."
    return f"Means over {len(found.seeds)} seeds, with 95 % intervals over rows and seeds."


def other_metric(found: Comparison) -> tuple[str, str]:
    """Return the other metric that every run has: its name, and the field of `Point` with its means."""
    return ("accuracy", "accuracy") if found.metric != "accuracy" else ("macro_f1", "f1")


def served_on(found: Comparison) -> str:
    """Say what methods were timed on."""
    said = "As they would be served, measured once a method at its largest size"
    lengths = sorted({entry.characters for entry in found.served if entry.characters is not None})
    if not lengths:
        return f"{said}."
    many = " or ".join(f"{length:,}" for length in lengths)
    return f"{said}; one text is the judged one of median length, {many} characters."


def report_page(
    comparison: Comparison,
    *,
    texts: Mapping[int, Text | Sequence[str]] | None = None,
    drawn: TextMap | None = None,
) -> str:
    """Return ``report.html``.

    Parameters
    ----------
    comparison : Comparison
        Whole, or as far as it went.
    texts : mapping of int to texts, optional
        By data row of the judged split, those of `Detail.errors` at least; without it rows are called by number.
    drawn : TextMap, optional
        Of the judged rows; without it the page says that there is none.

    Returns
    -------
    str
        HTML that loads nothing; see `embedkit.pages.document`.
    """
    return _Report(comparison, texts, drawn).page()


class _Report:
    """Makes the sections; figures are taken from the JSON form by their path, which the page keeps beside each."""

    def __init__(
        self,
        comparison: Comparison,
        texts: Mapping[int, Text | Sequence[str]] | None,
        drawn: TextMap | None,
    ) -> None:
        self._json: dict[str, Any] = json.loads(json.dumps(scrub(comparison.to_json())))
        self._given, self._texts, self._drawn = Comparison.from_json(self._json), texts, drawn
        self._label = {method.name: method.label for method in self._given.methods}
        self._metric = METRICS.get(comparison.metric, comparison.metric)
        self._points = {(point.method, point.size): at for at, point in enumerate(self._given.points)}
        self._unit = comparison.unit

    def page(self) -> str:
        given = self._given
        title = f"Which method to take: {given.data.get('name', 'a comparison')}"
        sections = (self._advice, self._scores, self._curves, self._costs, self._differences, self._gaps,
                    self._classes, self._map, self._errors, self._data, self._made)  # fmt: skip
        held: dict[str, object] = {_CHARTS: self._charts()}
        if self._drawn is not None:
            held[_MAP] = self._drawn.data()
        scripts = [library(), asset("charts.js"), asset("report.js")] if self._drawn is None else [
            *map_scripts(), asset("report.js")]  # fmt: skip
        body = [tag("h1", title), self._about(), *(tag("section", list(section())) for section in sections)]
        return document(title, body, styles=[asset("page.css")], scripts=scripts, data=held)

    # --- figures ---------------------------------------------------------------------------------------

    def _figure(self, form: str, *path: Key) -> Html:
        """Return a figure of the JSON with its path; a dash where there is none."""
        value: Any = self._json
        for key in path:
            value = value[key]
        if value is None:
            return Html("–")
        return tag("span", figure_text(value, form), {"data-from": json.dumps(path), "data-form": form})

    def _interval(self, form: str, at: Sequence[Key]) -> Html:
        low, high = (self._figure(form, *at, name) for name in ("low", "high"))
        return tag("span", ["[", low, ", ", high, "]"], {"class": "interval"})

    def _said(self, method: str) -> Html:
        return quoted(self._label.get(method, method))

    # --- sections --------------------------------------------------------------------------------------

    def _about(self) -> Html:
        given = self._given
        seeds = counted(len(given.seeds), "seed")
        parts: list[Content] = [
            "Judged by ", self._metric, " on ", self._figure("count", "judged_rows"), " rows of ",
            quoted(given.judged), f", {seeds}.",
        ]  # fmt: skip
        cut = " It was cut before all runs were done; the same command goes on with it."
        return tag("p", [*parts, *([tag("strong", cut)] if given.interrupted else [])])

    def _advice(self) -> Iterator[Html]:
        yield tag("h2", "What to take")
        advice = self._given.advice
        if advice is None:
            yield tag("p", "Nothing can be advised: no run is done. What happened to each stands below.")
            return
        yield from (tag("p", text, {"class": "advice"}) for text in advice.text)
        rows: list[list[Content]] = []
        for size in advice.sizes:
            doubts = [
                f"{self._label.get(name, name)}: {what_would_tell(more, self._given.judged_rows)}"
                for name, more in size.undecided.items()
            ]
            good = ", ".join(self._label.get(name, name) for name in size.good)
            rows.append([quoted(size.size), self._said(size.pick), self._said(size.best), quoted(good),
                         quoted("; ".join(doubts) or "none")])  # fmt: skip
        heads = [self._unit, "take", "highest score", "good enough", "cheaper, but the data cannot tell"]
        yield table(heads, rows, left=frozenset(range(5)))
        yield tag("p", ["The rule: ", advice.rule], {"class": "note"})

    def _scores(self) -> Iterator[Html]:
        yield tag("h2", f"Scores: {self._metric}")
        heads: list[Content] = ["method"]
        for size in self._given.sizes:
            heads.append([size.name, f" ({size.rows:,} rows)"])
        rows: list[list[Content]] = [
            [self._said(method.name), *(self._score(method.name, size.name) for size in self._given.sizes)]
            for method in self._given.methods
        ]
        other = METRICS[other_metric(self._given)[0]]
        caption = f"{means_of(self._given)} Below them means of {other}; each run has its intervals below."
        yield table(heads, rows, caption=caption, kind="scores")
        yield tag("details", [tag("summary", "Every run"), self._runs()])

    def _score(self, method: str, size: str) -> Html:
        """Return a score with its interval, or why there is none."""
        at = self._points.get((method, size))
        if at is None:
            return tag("td", self._why(method, size), {"class": "words why"})
        seeds = self._given.points[at].seeds
        fewer = "" if seeds == len(self._given.seeds) else f" ({counted(seeds, 'seed')})"
        name, field = other_metric(self._given)
        return tag("td", [self._figure("score", "points", at, "score"), " ",
                          self._interval("score", ["points", at]), fewer,
                          tag("div", [f"{METRICS[name]} ", self._figure("score", "points", at, field)],
                              {"class": "interval"})])  # fmt: skip

    def _why(self, method: str, size: str) -> str:
        cells = [cell for cell in self._given.cells if (cell.method, cell.size) == (method, size)]
        said = dict.fromkeys(_reason(cell.status, cell.why) for cell in cells)
        return "; ".join(said) or "not asked for"

    def _runs(self) -> Html:
        rows: list[list[Content]] = []
        for at, cell in enumerate(self._given.cells):
            scores = [name for name in ("accuracy", "macro_f1", "f1") if name in cell.scores]
            said: list[Content] = []
            for name in scores:
                said += [METRICS[name], " ", self._figure("score", "cells", at, "scores", name), " "]
                if f"{name}_ci95" in cell.scores:
                    ends = (self._figure("score", "cells", at, "scores", f"{name}_ci95", end) for end in (0, 1))
                    said += ["[", next(ends), ", ", next(ends), "] "]
            rows.append([
                self._said(cell.method), quoted(cell.size), str(cell.seed),
                self._figure("count", "cells", at, "rows"),
                tag("td", said if scores else quoted(_reason(cell.status, cell.why)), {"class": "words"}),
                self._figure("time", "cells", at, "train_seconds"), self._figure("time", "cells", at, "peak_mb"),
                self._figure("count", "cells", at, "computed"), quoted("; ".join(cell.notes)),
            ])  # fmt: skip
        heads = ["method", self._unit, "seed", "rows learnt from", "scores, or why there are none",
                 "seconds to train", "peak memory, MB", "texts encoded", "notes"]  # fmt: skip
        return table(heads, rows, left=frozenset({0, 1, 4, 8}))

    def _curves(self) -> Iterator[Html]:
        yield tag("h2", "Score over labels")
        if not self._points:
            yield tag("p", "No run is done, so there is nothing to draw.")
            return
        yield _chart("curves", f"{self._metric} over {self._unit}, with 95 % intervals, a line for each method")
        said = "The same figures as in the table above; upright lines are 95 % intervals."
        yield tag("p", said, {"class": "note"})

    def _costs(self) -> Iterator[Html]:
        yield tag("h2", "Cost against quality")
        if self._points:
            yield tag("h3", "Seconds to train")
            yield _chart("train-costs", f"{self._metric} over seconds to train, a line for each method")
        if any(entry.latency_ms is not None for entry in self._given.served):
            yield tag("h3", "Milliseconds to answer one text")
            yield _chart("serve-costs", f"{self._metric} over milliseconds to answer one text")
        if not self._given.served:
            yield tag("p", "What methods cost when they are used was not measured.")
            return
        rows: list[list[Content]] = [
            [self._said(entry.method), quoted(entry.size), quoted(entry.how),
             *(self._figure("time", "served", at, name) for name in ("latency_ms", "per_second", "megabytes")),
             self._figure("score", "served", at, "score"),
             [self._figure("change", "served", at, "score_change"), " ", METRICS.get(entry.metric or "", "")],
             quoted(entry.why)]
            for at, entry in enumerate(self._given.served)
        ]  # fmt: skip
        heads = ["method", self._unit, "as", "ms for one text", "texts a second", "MB on disk", self._metric,
                 "change by int8", "why not"]  # fmt: skip
        yield table(heads, rows, caption=served_on(self._given), left=frozenset({0, 1, 2, 8}))

    def _differences(self) -> Iterator[Html]:
        yield tag("h2", "Differences between methods")
        if not self._given.differences:
            yield tag("p", "No two methods are done at one size, so there is nothing to compare.")
            return
        rows: list[list[Content]] = [
            [quoted(pair.size), self._said(pair.first), self._said(pair.second),
             self._figure("change", "differences", at, "difference"),
             self._interval("change", ["differences", at]), self._figure("p", "differences", at, "p_value"),
             self._figure("p", "differences", at, "p_holm"), self._figure("count", "differences", at, "seeds")]
            for at, pair in enumerate(self._given.differences)
        ]  # fmt: skip
        heads = [self._unit, "first", "second", f"{self._metric}: first minus second", "95 % interval", "p",
                 "p, Holm", "seeds"]  # fmt: skip
        caption = (
            "Paired bootstrap over rows and seeds; p by Holm (1979) is corrected for all pairs of its size, the "
            "interval is of its pair alone."
        )
        shown = table(heads, rows, caption=caption, left=frozenset({0, 1, 2}))
        yield tag("details", [tag("summary", counted(len(rows), "pair")), shown])

    def _gaps(self) -> Iterator[Html]:
        rows = [
            [self._said(method), quoted(size), ", ".join(map(str, seeds)), quoted(_reason(status, why))]
            for (method, size, status, why), seeds in self._given.gaps.items()
        ]
        if not rows:
            return
        yield tag("h2", "What has no figures")
        yield table(["method", self._unit, "seeds", "why"], rows, left=frozenset({0, 1, 2, 3}))

    def _classes(self) -> Iterator[Html]:
        yield tag("h2", "Label by label")
        if not self._given.details:
            yield tag("p", "No run is done, so there is nothing to show.")
        for at, detail in enumerate(self._given.details):
            inside = [self._per_class(at, detail), *self._confusion(at, detail)]
            summary = [self._said(detail.method), " at ", quoted(detail.size), f", seed {detail.seed}"]
            yield tag("details", [tag("summary", summary), *inside], {"open": ""} if not at else None)

    def _per_class(self, at: int, detail: Detail) -> Html:
        there = {name for figures in detail.per_class.values() for name in figures}
        every = ("precision", "recall", "f1", "support", "predicted")
        names = [name for name in every if name in there]
        rows: list[list[Content]] = []
        for label, figures in detail.per_class.items():
            cells: list[Content] = [
                self._figure("score" if name in every[:3] else "count", "details", at, "per_class", label, name)
                if name in figures
                else "–"
                for name in names
            ]
            rows.append([quoted(label), *cells])
        spans = self._given.task == "tokens" and self._given.metric == "f1"
        what = "entities" if spans else "words" if self._given.task == "tokens" else "rows"
        heads = {"f1": "F1", "support": what}
        return table(["label", *(heads.get(name, name) for name in names)], rows)

    def _confusion(self, at: int, detail: Detail) -> Iterator[Html]:
        if not detail.confusion:
            yield tag("p", "There is no confusion matrix: rows have several labels, or tags.", {"class": "note"})
        elif len(detail.labels) > MOST_MATRIX:
            yield self._confused(at, detail)
        else:
            yield self._matrix(at, detail)

    def _matrix(self, at: int, detail: Detail) -> Html:
        rows: list[list[Content]] = []
        for true, counts in enumerate(detail.confusion):
            total = max(1, sum(counts))
            cells: list[Content] = [
                tag("td", self._figure("count", "details", at, "confusion", true, guess),
                    {"class": f"shade-{round(_SHADES * count / total)}"})
                for guess, count in enumerate(counts)
            ]  # fmt: skip
            rows.append([quoted(detail.labels[true]), *cells])
        caption = "Rows are true labels, columns predicted ones; the darker, the larger the share of its row."
        return table(["true \\ predicted", *map(quoted, detail.labels)], rows, caption=caption, kind="matrix")

    def _confused(self, at: int, detail: Detail) -> Html:
        pairs = [
            (count, true, guess)
            for true, counts in enumerate(detail.confusion)
            for guess, count in enumerate(counts)
            if count and true != guess
        ]
        pairs.sort(key=lambda pair: -pair[0])
        rows: list[list[Content]] = [
            [quoted(detail.labels[true]), quoted(detail.labels[guess]),
             self._figure("count", "details", at, "confusion", true, guess)]
            for _, true, guess in pairs[:_MOST_PAIRS]
        ]  # fmt: skip
        caption = (
            f"{len(detail.labels):,} labels are too many for a matrix on a page, which compare.json has: the "
            f"{len(rows)} most usual of {counted(len(pairs), 'confusion')}."
        )
        return table(["true", "predicted", "rows"], rows, caption=caption, left=frozenset({0, 1}))

    def _map(self) -> Iterator[Html]:
        yield tag("h2", "The map")
        if self._drawn is None:
            how = " `embedkit map` draws one." if self._given.task != "tokens" else " Maps are of texts."
            yield tag("p", f"There is no map: none was made with this comparison.{how}")
            return
        yield self._drawn.section(_MAP)
        yield from (tag("p", remark, {"class": "note"}) for remark in self._drawn.remarks())

    def _errors(self) -> Iterator[Html]:
        yield tag("h2", "The most confident errors")
        if not self._given.details:
            yield tag("p", "No run is done, so there are none.")
        for at, detail in enumerate(self._given.details):
            rows: list[list[Content]] = [
                [f"{error.row:,}", tag("td", self._text(error.row), {"class": "words"}), quoted(error.true),
                 quoted(error.predicted), self._figure("score", "details", at, "errors", place, "confidence")]
                for place, error in enumerate(detail.errors)
            ]  # fmt: skip
            wrong = self._figure("count", "details", at, "wrong")
            where = [self._said(detail.method), " at ", quoted(detail.size), ": "]
            summary: list[Content] = [*where, wrong, f" wrong rows, {len(rows)} shown"]
            shown = table(["row", "text", "true", "predicted", "confidence"], rows, left=frozenset({1, 2, 3}))
            yield tag("details", [tag("summary", summary), shown if rows else tag("p", "None is wrong.")])

    def _text(self, row: int) -> Content:
        given = None if self._texts is None else self._texts.get(row)
        if given is None:
            return "(texts are left out)"
        words = " ".join(given) if isinstance(given, list) else given
        parts = [words] if isinstance(words, str) else words
        return [tag("p", shortened(part), {"dir": "auto"}) for part in parts]

    def _data(self) -> Iterator[Html]:
        yield tag("h2", "The data")
        splits = self._json["data"].get("splits", {})
        rows: list[list[Content]] = []
        for name, facts in splits.items():
            at: tuple[Key, ...] = ("data", "splits", name)
            leaks = self._json["data"].get("leaks", {})
            rows.append([
                quoted(name), self._figure("count", *at, "rows"),
                str(len(facts["labels"])) if facts.get("labels") else "–",
                self._figure("count", *at, "words", "median"), self._figure("count", *at, "words", "max"),
                self._figure("count", *at, "duplicates"), self._figure("count", *at, "conflicts", "texts"),
                self._figure("count", "data", "leaks", name) if name in leaks else "–",
            ])  # fmt: skip
        heads = ["split", "rows", "labels", "words, median", "words, most", "repeated rows",
                 "texts with several labels", "rows also in train"]  # fmt: skip
        yield table(heads, rows)
        for name, facts in splits.items():
            if facts.get("labels"):
                counts: list[list[Content]] = [
                    [quoted(label), self._figure("count", "data", "splits", name, "labels", label)]
                    for label in facts["labels"]
                ]
                yield tag(
                    "details", [tag("summary", ["Labels of ", quoted(name)]), table(["label", "rows"], counts)]
                )
        yield from (tag("p", quoted(note), {"class": "note"}) for note in self._given.data.get("notes", []))

    def _made(self) -> Iterator[Html]:
        yield tag("h2", "How to make it again")
        made = dict(self._given.made)
        command = made.pop("command", None)
        if command:
            yield tag("pre", quoted(command))
        rows: list[list[Content]] = [["seeds", quoted(", ".join(map(str, self._given.seeds)))]]
        rows += [[quoted(name), quoted(value)] for name, value in _flat(made)]
        yield table(["what", "value"], rows, left=frozenset({0, 1}))

    # --- what the charts read --------------------------------------------------------------------------

    def _charts(self) -> dict[str, Any]:
        """Return curves and costs, by method."""
        given = self._given
        sizes = {size.name: size for size in given.sizes}
        lines = []
        for method in given.methods:
            points = [given.points[self._points[method.name, size]] for size in sizes
                      if (method.name, size) in self._points]  # fmt: skip
            lines.append({
                "name": printable(method.label),
                "points": [
                    {"size": point.size, "labels": sizes[point.size].per_class, "score": point.score,
                     "low": point.low, "high": point.high, "seconds": point.train_seconds}
                    for point in points
                ],
            })  # fmt: skip
        served = [
            {"name": printable(self._label.get(entry.method, entry.method)), "how": entry.how,
             "size": entry.size, "milliseconds": entry.latency_ms, "score": entry.score}
            for entry in given.served
            if entry.latency_ms is not None and entry.score is not None
        ]  # fmt: skip
        return {"metric": self._metric, "labels": self._unit, "lines": lines, "served": served}


def _reason(status: str, why: str) -> str:
    return f"{_STATUS.get(status, status)}: {why}" if why else _STATUS.get(status, "")


def _chart(name: str, said: str) -> Html:
    return tag("div", "", {"class": "chart", "id": name, "role": "img", "aria-label": said})


def _flat(made: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Yield what nested values hold, by names joined with blanks."""
    for name, value in made.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name} ")
        else:
            told = "not given" if value is None else value
            yield f"{above}{name}", ", ".join(map(str, told)) if isinstance(told, list) else str(told)
