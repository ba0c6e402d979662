"""What a comparison has found, as it stands in ``compare.json``: plain values, no texts of the user."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from embedkit.errors import DataError

FORMAT = 1
Status: TypeAlias = Literal["done", "failed", "skipped", "missing"]
"""A cell that was finished; that ended in an error; that was left out, for the time or because it does not apply;
or that an interrupt left."""
T = TypeVar("T")


@dataclass(frozen=True)
class Size:
    """How much is learnt from.

    Attributes
    ----------
    name : str
        As it was asked for: ``"8"``, ``"full"``.
    shots : int or None
        Rows a class, of words sentences in all; None for all of train.
    rows : int
        Rows of the first seed's sample.
    per_class : float
        Rows a class in the mean, over which curves are drawn; fewer than `shots` where a class has fewer. Of words
        sentences in all.
    """

    name: str
    shots: int | None
    rows: int
    per_class: float


@dataclass(frozen=True)
class Method:
    """What is compared.

    Attributes
    ----------
    name : str
        As it was asked for, such as ``"frozen:clf=ridge"``: what cells call it.
    kind : str
        ``majority``, ``tfidf``, ``frozen``, ``fewshot``, ``setfit`` or ``finetune``.
    options : dict of str to str
    label : str
        In words, for tables and pictures.
    """

    name: str
    kind: str
    options: dict[str, str] = field(hash=False)
    label: str


@dataclass(frozen=True)
class Cell:
    """One method at one size with one seed.

    Attributes
    ----------
    method, size : str
        Names.
    seed : int
        Of the sample and of the method.
    status : {"done", "failed", "skipped", "missing"}
    why : str
        Why there are no figures; empty where there are some.
    rows : int or None
        That were learnt from.
    scores : dict
        ``accuracy``, ``macro_f1`` or, of entities, ``f1``, each also with ``_ci95`` (a pair) and ``_ci95_method``,
        over the judged rows alone.
    train_seconds : float or None
        From texts to a classifier: tuning, fit, and the encoding of the sample at a speed that was measured once,
        whether or not the store had its features (`computed`). Opening a model and judging are not in it.
    peak_mb : float or None
        What the cell added to the resident memory of the process at its height, in MB (1e6 bytes): encoder and
        features included, Python and its libraries not. None where it is not measured.
    computed : int or None
        Texts that were encoded for it; 0 where all features came from the store.
    notes : list of str
    """

    method: str
    size: str
    seed: int
    status: Status
    why: str = ""
    rows: int | None = None
    scores: dict[str, Any] = field(default_factory=dict)
    train_seconds: float | None = None
    peak_mb: float | None = None
    computed: int | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Point:
    """A method at a size, over its seeds.

    Attributes
    ----------
    method, size : str
    seeds : int
        Cells that are done.
    score, low, high : float
        The mean of the metric, and its 95 % interval over rows and seeds.
    accuracy : float
    f1 : float
        Macro F1; of entities their F1.
    train_seconds : float
        Mean.
    peak_mb : float or None
        The least of its cells.
    """

    method: str
    size: str
    seeds: int
    score: float
    low: float
    high: float
    accuracy: float
    f1: float
    train_seconds: float
    peak_mb: float | None


@dataclass(frozen=True)
class Difference:
    """Two methods at a size: first minus second, in the metric.

    Attributes
    ----------
    size, first, second : str
    seeds : int
        That both have.
    difference, low, high : float
        With its 95 % interval, of this pair alone.
    p_value, p_holm : float
        Two-sided, of the bootstrap; and corrected for all pairs of the size (Holm, 1979).
    """

    size: str
    first: str
    second: str
    seeds: int
    difference: float
    low: float
    high: float
    p_value: float
    p_holm: float


@dataclass(frozen=True)
class Served:
    """What a method costs when it is used; measured once, at its largest size.

    Attributes
    ----------
    method, size : str
    seed : int
    how : str
        ``"onnx float32"``, ``"onnx int8"``, ``"scikit-learn"`` or ``"constant"``.
    latency_ms : float or None
        Median wall time from one text to its answer: the judged one of median length, for all methods the same.
    per_second : float or None
        Texts answered a second, given many at once.
    megabytes : float or None
        On disk: of the exported folder with this graph; of TF-IDF its n-grams as JSON and its arrays.
    score_change : float or None
        Of int8: what its verdict's metric lost (below 0) or gained on the judged rows.
    metric : {"accuracy", "micro_f1", "f1"} or None
        Of `score_change`; where rows have several labels micro F1, whatever methods are compared by.
    score : float or None
        The mean score of its size; of int8 with `score_change`, where that is in the same metric.
    why : str
        Why there are no figures.
    characters : int or None
        Of the one text.
    """

    method: str
    size: str
    seed: int
    how: str
    latency_ms: float | None = None
    per_second: float | None = None
    megabytes: float | None = None
    score_change: float | None = None
    metric: str | None = None
    score: float | None = None
    why: str = ""
    characters: int | None = None


@dataclass(frozen=True)
class WrongRow:
    """A judged row that a method has wrong.

    Attributes
    ----------
    row : int
        Data row of the judged split, from 1.
    true, predicted : str
        Labels; of words the tags of the sentence, joined by blanks.
    confidence : float or None
        Probability of what was predicted; where rows have several labels, how sure the surest wrong one was, given
        or left out; of words the mean over the wrong ones.
    """

    row: int
    true: str
    predicted: str
    confidence: float | None


@dataclass(frozen=True)
class Detail:
    """A method at its largest size, first seed, label by label.

    Attributes
    ----------
    method, size : str
    seed : int
    per_class : dict of str to dict
        By label (of entities by type): ``precision``, ``recall``, ``f1``, ``support``, ``predicted``.
    labels : list of str
        Of the confusion matrix.
    confusion : list of list of int
        Rows are true labels, columns predicted ones. Empty where rows have several labels.
    errors : list of WrongRow
        The most confident ones first, 20 at most.
    wrong : int
        How many rows are wrong.
    """

    method: str
    size: str
    seed: int
    per_class: dict[str, dict[str, Any]]
    labels: list[str]
    confusion: list[list[int]]
    errors: list[WrongRow]
    wrong: int


@dataclass(frozen=True)
class SizeAdvice:
    """Which method to take at a size.

    Attributes
    ----------
    size : str
    pick, best : str
        The cheapest that is good enough, and the one with the highest score on the seeds in common.
    good : list of str
        All that are good enough.
    undecided : dict of str to (int or None)
        Cheaper ones that the data can neither take nor rule out: by method how many more rows to judge on would
        tell; None where more rows alone would not, but more seeds.
    text : str
    """

    size: str
    pick: str
    best: str
    good: list[str]
    undecided: dict[str, int | None]
    text: str


@dataclass(frozen=True)
class Crossing:
    """Where the curves of two advised methods cross.

    Attributes
    ----------
    before, after : str
        Methods: advised below, and above.
    at : float or None
        Labels a class where their mean scores are equal, on a straight line over the logarithm between the two
        sizes; None where the curves do not cross there.
    low, high : float
        The sizes between which the advice changes, in labels a class.
    """

    before: str
    after: str
    at: float | None
    low: float
    high: float


@dataclass(frozen=True)
class Advice:
    """Which method to take.

    Attributes
    ----------
    cost : {"serve", "train"}
        What cheap means.
    margin : float
        Loss against the best that is allowed.
    rule : str
        How it was decided.
    sizes : list of SizeAdvice
        From few labels to many.
    crossings : list of Crossing
    text : list of str
        The answer, a sentence or two each; the first is about all the labels there are.
    """

    cost: str
    margin: float
    rule: str
    sizes: list[SizeAdvice]
    crossings: list[Crossing]
    text: list[str]


@dataclass(frozen=True)
class Comparison:
    """A comparison, whole or as far as it went.

    Attributes
    ----------
    task : {"text", "pair", "tokens"}
    metric : {"accuracy", "macro_f1", "f1"}
        What methods are compared by.
    judged : str
        The split that all are judged on.
    judged_rows : int
    labels : list of str
    seeds : list of int
    sizes : list of Size
        From few to many.
    methods : list of Method
    cells : list of Cell
        Every one that was asked for.
    points : list of Point
    differences : list of Difference
    served : list of Served
    details : list of Detail
    advice : Advice or None
        None where no cell is done.
    data : dict
        Of `embedkit.data.describe`, without examples: ``splits`` (rows, labels, lengths, duplicates, conflicts),
        ``leaks``, ``notes``.
    made : dict
        How to make it again: ``command``, ``versions``, ``digests`` (of train, of the judged rows, of the model),
        ``model``, ``machine``, ``threads``.
    interrupted : bool
        Whether it was cut, so that more cells are to come.
    format : int
    """

    task: str
    metric: str
    judged: str
    judged_rows: int
    labels: list[str]
    seeds: list[int]
    sizes: list[Size]
    methods: list[Method]
    cells: list[Cell]
    points: list[Point]
    differences: list[Difference]
    served: list[Served]
    details: list[Detail]
    advice: Advice | None
    data: dict[str, Any]
    made: dict[str, Any]
    interrupted: bool = False
    format: int = FORMAT

    @property
    def unit(self) -> str:
        """What sizes count."""
        return "sentences" if self.task == "tokens" else "labels a class"

    @property
    def gaps(self) -> dict[tuple[str, str, Status, str], list[int]]:
        """Seeds of cells without figures, by method, size, status and why."""
        seeds: dict[tuple[str, str, Status, str], list[int]] = {}
        for cell in self.cells:
            if cell.status != "done":
                seeds.setdefault((cell.method, cell.size, cell.status, cell.why), []).append(cell.seed)
        return seeds

    @property
    def failed(self) -> list[Cell]:
        """Cells that ended in an error."""
        return [cell for cell in self.cells if cell.status == "failed"]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Comparison:
        """Read what `to_json` wrote; `DataError` for anything else."""
        if given.get("format") != FORMAT:
            raise DataError(f"a comparison of format {given.get('format')!r}; this embedkit reads {FORMAT}")
        lists = {"sizes": Size, "methods": Method, "cells": Cell, "points": Point, "differences": Difference,
                 "served": Served}  # fmt: skip
        values = dict(given)
        for name, kind in lists.items():
            values[name] = [_read(kind, entry) for entry in given[name]]
        values["details"] = [_detail(entry) for entry in given["details"]]
        values["advice"] = None if given["advice"] is None else _advice(given["advice"])
        return _read(cls, values)


def read_comparison(path: Path) -> Comparison:
    """Read a ``compare.json``."""
    return Comparison.from_json(json.loads(path.read_bytes()))


def _read(kind: type[T], given: Mapping[str, Any]) -> T:
    known = {part.name for part in fields(kind)}  # type: ignore[arg-type]
    if set(given) - known:
        raise DataError(f"unknown entries of a comparison: {', '.join(sorted(set(given) - known))}")
    try:
        return kind(**given)
    except TypeError as error:
        raise DataError(f"a comparison lacks entries: {error}") from error


def _detail(given: Mapping[str, Any]) -> Detail:
    return _read(Detail, {**given, "errors": [_read(WrongRow, entry) for entry in given["errors"]]})


def _advice(given: Mapping[str, Any]) -> Advice:
    sizes = [_read(SizeAdvice, entry) for entry in given["sizes"]]
    return _read(Advice, {**given, "sizes": sizes, "crossings": [_read(Crossing, c) for c in given["crossings"]]})
