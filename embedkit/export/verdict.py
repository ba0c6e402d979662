"""Whether an int8 graph may stand beside the float32 one: chosen on some rows, judged on others, once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from embedkit.data.text import aligned, counted
from embedkit.errors import ExportError
from embedkit.export.quantize import Setting, quantize, settings, vnni
from embedkit.export.speed import Latency, latencies
from embedkit.metrics import paired_difference
from embedkit.metrics.spans import span_difference

MAX_DROP = 0.01
FEW = 500  # rows below which a verdict says what it cannot tell
_CHUNK = 256  # rows between which the graphs take turns
FLOAT, INT8 = "float32", "int8"
_VNNI = {
    True: "this CPU has VNNI, or its like: sums of 8-bit products do not saturate",
    False: "this CPU lacks VNNI: sums of 8-bit products may saturate, and less speed is gained",
    None: "this system does not tell whether its CPU has VNNI",
}


class Outcome(NamedTuple):
    """What a graph made of n rows.

    Attributes
    ----------
    predicted : ndarray of int64, shape (n,), or of bool, shape (n, C), or of object, shape (W,)
        As `Rows.true`; the tag of a word that was not read may be None.
    values : ndarray of float, shape (n, ...)
        Probabilities; scores or vectors where there are none.
    """

    predicted: NDArray[Any]
    values: NDArray[np.floating[Any]]


class Answer(Protocol):
    """Opened graph with what is made of its numbers."""

    def __call__(self, inputs: Sequence[Any], /) -> Outcome:
        """Answer rows."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Labelled rows.

    Attributes
    ----------
    inputs : sequence
        As the graph's predictor takes them.
    true : ndarray of int64, shape (n,), or of bool, shape (n, C), or of object, shape (W,)
        Codes; which labels each row has; or the tags of all words, one sentence after another.
    classes : int
        Number of labels C; those that training never saw come last.
    source : str
        Where the rows come from, for people.
    words : ndarray of int64, shape (n,), optional
        For sentences, the words of each.
    spans : bool, default False
        Whether their tags stand for entities, by which they are judged then.
    """

    inputs: Sequence[Any]
    true: NDArray[Any]
    classes: int
    source: str
    words: NDArray[np.int64] | None = None
    spans: bool = False

    @property
    def metric(self) -> str:
        """What they are judged by."""
        if self.words is not None:
            return "entity_f1" if self.spans else "accuracy"
        return "micro_f1" if self.true.ndim == 2 else "accuracy"


@dataclass(frozen=True, eq=False)
class Trial:
    """What int8 shall be judged by.

    Attributes
    ----------
    choice : Rows
        Settings are chosen on these.
    test : Rows
        The chosen one is judged on these, once.
    max_drop : float, optional
        Largest loss of the metric that is accepted. Default: `MAX_DROP`, a hundredth.
    fit : Rows, optional
        For an encoder: what a logistic regression on its float32 vectors is fitted on, which then judges both.
    """

    choice: Rows
    test: Rows
    max_drop: float | None = None
    fit: Rows | None = None

    @property
    def limit(self) -> float:
        """The largest loss that is accepted."""
        return MAX_DROP if self.max_drop is None else self.max_drop


@dataclass(frozen=True)
class Tried:
    """A setting and what it scored on the rows of choice."""

    setting: Setting
    score: float
    drop: float

    def to_json(self) -> dict[str, Any]:
        """Return the figures."""
        return {**vars(self.setting), "score": self.score, "drop": self.drop}


@dataclass(frozen=True)
class Verdict:
    """What was found; without a chosen setting, the test rows were not looked at.

    Attributes
    ----------
    metric : str
        ``"accuracy"``; ``"micro_f1"`` where rows have several labels, ``"entity_f1"`` where tags are of entities.
    max_drop : float
    choice, test : str
        Where the rows come from.
    rows : int
        Of the test.
    tried : list of Tried
        In order; the last one was chosen, if one was.
    vnni : bool or None
        Whether this CPU multiplies 8-bit integers without saturating.
    chosen : Setting, optional
    comparison : mapping
        `paired_difference` of int8 and float32 on the test rows, or `span_difference` on sentences.
    labels_equal : float
        Share of the test rows, or of their words, with the same answer.
    largest_change : float
        Of a probability (a score or a number of a vector, where there are none).
    sizes : mapping of str to int
        Bytes, by precision; so the next two.
    latency : mapping of str to Latency
    throughput : mapping of str to float
        Test rows a second.
    """

    metric: str
    max_drop: float
    choice: str
    test: str
    rows: int
    tried: list[Tried]
    vnni: bool | None
    chosen: Setting | None = None
    comparison: Mapping[str, Any] = field(default_factory=dict)
    labels_equal: float = 0.0
    largest_change: float = 0.0
    sizes: Mapping[str, int] = field(default_factory=dict)
    latency: Mapping[str, Latency] = field(default_factory=dict)
    throughput: Mapping[str, float] = field(default_factory=dict)

    @property
    def published(self) -> bool:
        """Whether the int8 graph loses no more than is allowed."""
        return self.chosen is not None and holds(-self.comparison["difference"], self.max_drop)

    def to_json(self) -> dict[str, Any]:
        """Return the figures."""
        found: dict[str, Any] = {
            "published": self.published,
            "metric": self.metric,
            "max_drop": self.max_drop,
            "choice": self.choice,
            "test": self.test,
            "rows": self.rows,
            "tried": [tried.to_json() for tried in self.tried],
            "vnni": self.vnni,
        }
        if self.chosen is None:
            return found
        return {
            **found,
            "chosen": vars(self.chosen),
            "comparison": dict(self.comparison),
            "labels_equal": self.labels_equal,
            "largest_change": self.largest_change,
            "bytes": dict(self.sizes),
            "latency": {name: latency.to_json() for name, latency in self.latency.items()},
            "throughput": dict(self.throughput),
        }


def holds(drop: float, limit: float) -> bool:
    """Say whether a loss is within a limit; differences of shares are not exact in binary.

    Examples
    --------
    >>> holds(1 - 0.99, 0.01), holds(0.0101, 0.01)
    (True, False)
    """
    return drop <= limit + 1e-9


def decide_int8(
    trial: Trial,
    graph: Path,
    target: Path,
    open_graph: Callable[[Path], Answer],
    one: tuple[Any, int],
    threads: int | None,
) -> Verdict:
    """Quantise a graph by the first setting that holds on the rows of choice, and judge it on the test rows.

    Parameters
    ----------
    trial : Trial
    graph : Path
        In float32.
    target : Path
        Where the int8 graph is left, if it passes; else there is nothing.
    open_graph : callable
        Opens a graph for answering.
    one : tuple of (input, int)
        What latency is measured on, and its tokens.
    threads : int, optional
        Those that `open_graph` uses, for the record.

    Raises
    ------
    ExportError
        There are no rows to choose or to judge on, or the graph holds nothing that could be in 8 bits.
    """
    for rows in (trial.choice, trial.test):
        if not len(rows.inputs):
            raise ExportError(f"{rows.source} has no rows to judge int8 on; give others with --eval-data")
    full = open_graph(graph)
    tried, answer = _choose(trial, graph, target, open_graph, full)
    start = Verdict(
        metric=trial.test.metric,
        max_drop=trial.limit,
        choice=trial.choice.source,
        test=trial.test.source,
        rows=len(trial.test.inputs),
        tried=tried,
        vnni=vnni(),
    )
    if answer is None:
        return start
    verdict = _judge(start, trial.test, {FLOAT: full, INT8: answer}, {FLOAT: graph, INT8: target}, one, threads)
    if not verdict.published:
        target.unlink()
    return verdict


def _choose(
    trial: Trial, graph: Path, target: Path, open_graph: Callable[[Path], Answer], full: Answer
) -> tuple[list[Tried], Answer | None]:
    """Try settings until one holds; return those tried and the opened graph of the last, if it holds."""
    rows = trial.choice
    before = full(rows.inputs).predicted
    tried = []
    for setting in settings(saturates=vnni() is False):
        quantize(graph, target, setting)
        answer = open_graph(target)
        found = _compared(rows, answer(rows.inputs).predicted, before)
        tried.append(Tried(setting, found["first"], -found["difference"]))
        if holds(tried[-1].drop, trial.limit):
            return tried, answer
    target.unlink()
    return tried, None


def _compared(rows: Rows, small: NDArray[Any], full: NDArray[Any]) -> dict[str, Any]:
    if rows.words is not None:
        listed = (_sentences(tags, rows.words) for tags in (rows.true, small, full))
        return span_difference(*listed, spans=rows.spans)
    one, other = (_widened(predicted, rows.classes) for predicted in (small, full))
    return paired_difference(rows.true, one, other, rows.classes, rows.metric)


def _sentences(tags: NDArray[Any], words: NDArray[np.int64]) -> list[list[str]]:
    return [some.tolist() for some in np.split(tags, np.cumsum(words)[:-1])]


def _widened(predicted: NDArray[Any], classes: int) -> NDArray[Any]:
    """Return predictions with a column for each label, those included that training never saw."""
    return np.pad(predicted, ((0, 0), (0, classes - predicted.shape[1]))) if predicted.ndim == 2 else predicted


def _judge(
    start: Verdict,
    rows: Rows,
    answers: Mapping[str, Answer],
    graphs: Mapping[str, Path],
    one: tuple[Any, int],
    threads: int | None,
) -> Verdict:
    """Answer the test rows with both graphs by turns, once, timing them."""
    outcomes, seconds = _by_turns(rows.inputs, answers)
    full, small = outcomes[FLOAT], outcomes[INT8]
    same = full.predicted == small.predicted
    text, tokens = one
    return replace(
        start,
        chosen=start.tried[-1].setting,
        comparison=_compared(rows, small.predicted, full.predicted),
        labels_equal=float((same.all(axis=1) if same.ndim == 2 else same).mean()),
        largest_change=float(np.abs(full.values - small.values).max()),
        sizes={name: path.stat().st_size for name, path in graphs.items()},
        latency=latencies({name: _once(answer, text) for name, answer in answers.items()}, tokens, threads),
        throughput={name: len(rows.inputs) / spent for name, spent in seconds.items()},
    )


def _once(answer: Answer, text: Any) -> Callable[[], object]:  # noqa: ANN401 - a row
    return lambda: answer([text])


def _by_turns(inputs: Sequence[Any], answers: Mapping[str, Answer]) -> tuple[dict[str, Outcome], dict[str, float]]:
    """Return what each graph makes of all rows, and the seconds that it takes."""
    parts: dict[str, list[Outcome]] = {name: [] for name in answers}
    seconds = dict.fromkeys(answers, 0.0)
    for start in range(0, len(inputs), _CHUNK):
        for name, answer in answers.items():
            before = time.perf_counter()
            parts[name].append(answer(inputs[start : start + _CHUNK]))
            seconds[name] += time.perf_counter() - before
    joined = {name: Outcome(*map(np.concatenate, zip(*some, strict=True))) for name, some in parts.items()}
    return joined, seconds


# ---------------------------------------------------------------------------------------------- for people


def verdict_text(verdict: Verdict) -> str:
    """Return the verdict as a table, float32 beside int8."""
    lines = [
        f"int8: chosen on {verdict.choice}; {_VNNI[verdict.vnni]}",
        *(f"  {_tried_text(tried, verdict)}" for tried in verdict.tried),
    ]
    if verdict.chosen is None:
        return "\n".join([*lines, "int8 is not published: no setting holds; the test rows were not looked at"])
    return "\n".join([*lines, f"judged once on {verdict.test}:", *_table(verdict), *_end(verdict)])


def _tried_text(tried: Tried, verdict: Verdict) -> str:
    lost = "holds" if holds(tried.drop, verdict.max_drop) else f"loses more than {verdict.max_drop:g}"
    return f"{tried.setting.words}: {verdict.metric} {tried.score:.4f} ({-tried.drop:+.4f}), {lost}"


def _table(verdict: Verdict) -> list[str]:
    both = (FLOAT, INT8)
    compared, latency = verdict.comparison, verdict.latency
    low, high = compared["ci95"]
    tokens = latency[FLOAT].tokens
    rows = [
        ["", *both, ""],
        [
            verdict.metric,
            f"{compared['second']:.4f}",
            f"{compared['first']:.4f}",
            f"difference {compared['difference']:+.4f} [{low:+.4f}, {high:+.4f}] (95 %, {compared['method']})",
        ],
        ["same answer", "", f"{verdict.labels_equal:.1%}", f"largest change {verdict.largest_change:.3f}"],
        ["size, MB", *(f"{verdict.sizes[name] / 1e6:.1f}" for name in both), ""],
        [
            f"one of {tokens} tokens, ms",
            *(f"{latency[name].median:.1f}" for name in both),
            f"median of 100; p99 {latency[FLOAT].p99:.1f} and {latency[INT8].p99:.1f}",
        ],
        ["rows a second", *(f"{verdict.throughput[name]:,.0f}" for name in both), ""],
    ]
    threads = counted(latency[FLOAT].threads, "thread")
    return [line.rstrip() for line in aligned(rows, left=frozenset({0, 3}))] + [
        f"{threads} of {latency[FLOAT].machine}"
    ]


def _end(verdict: Verdict) -> list[str]:
    low, high = verdict.comparison["ci95"]
    few = [
        f"{counted(verdict.rows, 'row')} are few: the difference is only known to lie between {low:+.4f} and "
        f"{high:+.4f}; {FEW} rows or more tell more"
    ] * (verdict.rows < FEW)
    if verdict.published:
        return [*few, "int8 is published beside float32; an answer in int8 depends a little on its neighbours"]
    return [*few, f"int8 is not published: it loses more than {verdict.max_drop:g} (--max-drop)"]
