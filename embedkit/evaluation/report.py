"""What a person reads after a run: a table, a picture, the wrong rows; and the figures as JSON.

Texts and labels come from anywhere, so they are made inert for the place they are written to: no terminal
escapes, no bidirectional controls, no spreadsheet formulas, no mathematics in pictures.
"""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedkit.artifact import scrub, write_json
from embedkit.data.text import counted, name_of, printable
from embedkit.errors import DataError
from embedkit.evaluation.plots import confusion_figure, save_png

Input = str | Sequence[str]
Codes = npt.NDArray[np.int64]

_LABEL_LIMIT = 40  # characters of a label in the table
# What starts a formula in a spreadsheet (CWE-1236), the full-width forms included.
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")


def write_metrics(
    folder: Path,
    *,
    splits: Mapping[str, Any],
    seconds: Mapping[str, float],
    settings: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]] = (),
    truncated: float = 0.0,
) -> None:
    """Write `metrics.json`.

    Parameters
    ----------
    folder : Path
        Exists.
    splits : mapping of str to dict
        Figures of every split that was judged.
    seconds : mapping of str to float
        Wall time of each step.
    settings : mapping
        What the run was told, as JSON values; tokens and URL user information are masked.
    history : sequence of mapping
        Training steps; empty where no weights were trained.
    truncated : float
        Share of the texts that lost tokens to the maximum length, 0 to 1.

    Raises
    ------
    ValueError
        If a number is NaN or infinite; the message names its place.
    """
    content = {
        "splits": splits,
        "seconds": seconds,
        "history": list(history),
        "settings": settings,
        "truncated": truncated,
    }
    write_json(folder / "metrics.json", scrub(content))


def write_report(
    folder: Path,
    *,
    true: npt.ArrayLike,
    predicted: npt.ArrayLike,
    probabilities: npt.ArrayLike | None,
    names: Sequence[str],
    inputs: Sequence[Input],
    rows: Sequence[int] | npt.NDArray[np.int64],
    source: str,
    metrics: Mapping[str, Any],
) -> None:
    """Write `report/` with the table, the confusion matrix and the wrong rows of one split.

    Parameters
    ----------
    folder : Path
        Exists; `report` is made in it.
    true, predicted : array-like of int, shape (n,)
        Codes.
    probabilities : array-like of float, shape (n, C), optional
        Of the model's classes; the confidence of a row is that of its predicted class.
    names : sequence of str
        The label of each code; more than C where the rows have labels unseen in training.
    inputs : sequence of str, or of two or more str
        Texts, or pairs.
    rows : sequence of int, length n
        Row numbers in the source, counted from 1.
    source : str
        Where the rows come from, for headings.
    metrics : mapping
        Of `embedkit.metrics.classification`, for the same rows.

    Raises
    ------
    DataError
        If lengths differ.
    """
    codes = np.asarray(true, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    lengths = {len(codes[0]), len(codes[1]), len(inputs), len(rows)}
    confidence = None
    if probabilities is not None:
        table = np.asarray(probabilities)
        lengths.add(len(table))
    if len(lengths) > 1:
        raise DataError(f"a report needs as many labels as rows; lengths are {sorted(lengths)}")
    if probabilities is not None:
        confidence = table[np.arange(len(table)), codes[1]].astype(np.float64)
    target = folder / "report"
    target.mkdir(exist_ok=True)
    text = classification_text(metrics, names, source)
    (target / "classification_report.txt").write_text(text, encoding="utf-8")
    title = f"{source}: {counted(int(metrics['n']), 'row')}, accuracy {metrics['accuracy']:.3f}"
    save_png(confusion_figure(metrics["confusion"], names, title=title), target / "confusion_matrix.png")
    _write_errors(target / "errors.csv", codes, confidence, names, inputs, rows)


# --- the table -----------------------------------------------------------------------------------------


def classification_text(metrics: Mapping[str, Any], names: Sequence[str], source: str) -> str:
    """Return the figures as a table for people.

    Parameters
    ----------
    metrics : mapping
        Of `embedkit.metrics.classification`.
    names : sequence of str
        Labels, in the order of their codes.
    source : str
        Where the rows come from.

    Returns
    -------
    str
        Lines without control characters; labels are cut to 40 characters.
    """
    lines = [f"{printable(source)}: {counted(int(metrics['n']), 'row')}", ""]
    lines += [*_headline(metrics), "", *_remarks(metrics), ""]
    return "\n".join([*lines, *_table(_class_rows(metrics, names))]) + "\n"


def _headline(metrics: Mapping[str, Any]) -> Iterable[str]:
    """Yield the figures over all rows, each with its interval if it has one."""
    for key, name in (
        ("accuracy", "accuracy"),
        ("macro_f1", "macro F1"),
        ("weighted_f1", "weighted F1"),
        ("mcc", "MCC"),
    ):
        if key not in metrics:
            continue
        line = f"{name:<12} {metrics[key]:.4f}"
        if f"{key}_ci95" in metrics:
            low, high = metrics[f"{key}_ci95"]
            line += f"  [{low:.4f}, {high:.4f}]  95 % interval, {metrics[f'{key}_ci95_method']}"
        yield line
    if "positive_label" in metrics:
        figures = ", ".join(f"{key} {metrics[key]:.4f}" for key in ("precision", "recall", "f1"))
        yield f"{'positive':<12} {name_of(metrics['positive_label'])}: {figures}"


def _remarks(metrics: Mapping[str, Any]) -> Iterable[str]:
    """Yield what the figures mean."""
    yield f"macro F1 is the mean over {metrics['macro_f1_over']}"
    if metrics.get("unseen_labels"):
        unseen = ", ".join(map(name_of, metrics["unseen_labels"]))
        yield f"labels that training never saw, whose rows all count as errors: {unseen}"


def _class_rows(metrics: Mapping[str, Any], names: Sequence[str]) -> Iterable[list[str]]:
    """Yield a heading and a row for each class."""
    yield ["#", "label", "precision", "recall", "f1", "rows"]
    for number, name in enumerate(names, start=1):
        figures = metrics["per_class"][name]
        ratios = [f"{figures[key]:.4f}" for key in ("precision", "recall", "f1")]
        yield [str(number), printable(name, _LABEL_LIMIT), *ratios, str(figures["support"])]


def _table(rows: Iterable[list[str]]) -> Iterable[str]:
    """Yield aligned lines: the second column to the left, the others to the right."""
    cells = list(rows)
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        padded = [(" " * (width - _width(cell)), cell) for cell, width in zip(row, widths, strict=True)]
        parts = [cell + pad if place == 1 else pad + cell for place, (pad, cell) in enumerate(padded)]
        yield "  ".join(parts)


def _width(text: str) -> int:
    """Return the columns that a text takes on a terminal."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


# --- the wrong rows ------------------------------------------------------------------------------------


def spreadsheet_cell(text: str) -> str:
    r"""Return a text as a CSV cell that a spreadsheet shows and does not run.

    Control and bidirectional characters are escaped; ``'`` stands before what would start a formula.
    Numbers are not texts and need none of this.

    Examples
    --------
    >>> spreadsheet_cell("=1+1"), spreadsheet_cell("\x1b[31mred")
    ("'=1+1", '\\x1b[31mred')
    """
    return ("'" if text.startswith(_FORMULA) else "") + printable(text, limit=None)


def _write_errors(
    path: Path,
    codes: tuple[Codes, Codes],
    confidence: npt.NDArray[np.float64] | None,
    names: Sequence[str],
    inputs: Sequence[Input],
    rows: Sequence[int] | npt.NDArray[np.int64],
) -> None:
    """Write the rows that were predicted wrongly, the most confident first, else in order."""
    true, predicted = codes
    wrong = np.flatnonzero(true != predicted)
    if confidence is not None:
        wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        places: list[int] = wrong.tolist()
        columns = max((len(_texts(inputs[i])) for i in places), default=1)
        text_columns = ["text", "text_pair"] if columns == 2 else ["text"]
        writer.writerow(["row", *text_columns, "true", "predicted", "confidence"])
        for i in places:
            sure = "" if confidence is None else round(float(confidence[i]), 6)
            labels = [names[true[i]], names[predicted[i]]]
            writer.writerow([int(rows[i]), *map(spreadsheet_cell, [*_texts(inputs[i]), *labels]), sure])


def _texts(given: Input) -> list[str]:
    """Return the text cells of an input: one, two of a pair, or one of a list of words."""
    if isinstance(given, str):
        return [given]
    return list(given) if isinstance(given, tuple) else [" ".join(given)]
