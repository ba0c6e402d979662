"""What a person reads after a run: a table, a picture, the wrong rows; and the figures as JSON.

Texts and labels come from anywhere, so they are made inert for the place they are written to: no terminal
escapes, no bidirectional controls, no spreadsheet formulas, no mathematics in pictures.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedkit.artifact import scrub, write_json
from embedkit.data.text import aligned, counted, name_of, printable
from embedkit.errors import DataError
from embedkit.evaluation.plots import calibration_figure, confusion_figure, labels_figure, save_png
from embedkit.runtime.decide import Thresholds

Input = str | Sequence[str]
Floats = npt.NDArray[np.float64]
Errors = Iterable[tuple[int, list[str], list[float | str]]]  # place, labels, numbers

LABEL_JOINT = " | "  # between the labels of a cell
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
    search: Mapping[str, Any] | None = None,
    few_shot: Mapping[str, Any] | None = None,
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
    search : mapping, optional
        What cross-validation found on train; left out where there was none.
    few_shot : mapping, optional
        What few-shot tuning was compared with, and its single runs; left out where there was none.

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
        **({} if search is None else {"search": search}),
        **({} if few_shot is None else {"few_shot": few_shot}),
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
    pictures: bool = True,
) -> None:
    """Write `report/` of one split: the table, the wrong rows and pictures.

    These are `classification_report.txt`; `errors.csv`; `confusion_matrix.png`, or `labels.png` where a row may
    have several labels; and `calibration.png` where `metrics` has ``calibration``.

    Parameters
    ----------
    folder : Path
        Exists; `report` is made in it.
    true, predicted : array-like of int, shape (n,), or of bool, shape (n, labels)
        Codes; or whether the row has each of several labels.
    probabilities : array-like of float, shape (n, C), optional
        Of the model's labels. They order the errors: by the confidence of the predicted class; with several labels
        rows with equally many wrong labels by how sure these were.
    names : sequence of str
        The label of each code or column; more than C where the rows have labels unseen in training.
    inputs : sequence of str, or of two or more str
        Texts, or pairs.
    rows : sequence of int, length n
        Row numbers in the source, counted from 1.
    source : str
        Where the rows come from, for headings.
    metrics : mapping
        Of `embedkit.metrics.classification` or `multilabel`, for the same rows. It may also have ``calibration``,
        figures of `embedkit.metrics.expected_calibration` under ``before`` and ``after``, or ``after`` alone; and
        ``thresholds``, of `embedkit.runtime.decide.Thresholds.to_json`.
    pictures : bool, default True
        Whether to draw; without, nothing but numpy is needed.

    Raises
    ------
    DataError
        If lengths differ.
    """
    pair = np.asarray(true), np.asarray(predicted)
    table = None if probabilities is None else np.asarray(probabilities, dtype=np.float64)
    lengths = {len(part) for part in (*pair, inputs, rows, *([] if table is None else [table]))}
    if len(lengths) > 1:
        raise DataError(f"a report needs as many labels as rows; lengths are {sorted(lengths)}")
    target = folder / "report"
    target.mkdir(exist_ok=True)
    text = classification_text(metrics, names, source)
    (target / "classification_report.txt").write_text(text, encoding="utf-8")
    if pair[0].ndim == 2:
        _write_errors(target / "errors.csv", ("missing", "extra"), _set_errors(*pair, table, names), inputs, rows)
    else:
        columns = ("true", "predicted", "confidence")
        _write_errors(target / "errors.csv", columns, _class_errors(*pair, table, names), inputs, rows)
    if pictures:
        _draw(target, metrics, names, source)


def _draw(target: Path, metrics: Mapping[str, Any], names: Sequence[str], source: str) -> None:
    """Write the pictures that `write_report` speaks of."""
    title = f"{source}: {counted(int(metrics['n']), 'row')}, "
    if "micro_f1" in metrics:
        title += f"micro F1 {metrics['micro_f1']:.3f}, macro F1 {metrics['macro_f1']:.3f}"
        save_png(labels_figure(metrics["per_class"], names, title=title), target / "labels.png")
    else:
        title += f"accuracy {metrics['accuracy']:.3f}"
        save_png(confusion_figure(metrics["confusion"], names, title=title), target / "confusion_matrix.png")
    if "calibration" in metrics:
        both = metrics["calibration"]
        figure = calibration_figure(both.get("before"), both["after"], title=source)
        save_png(figure, target / "calibration.png")


# --- the table -----------------------------------------------------------------------------------------


def classification_text(metrics: Mapping[str, Any], names: Sequence[str], source: str) -> str:
    """Return the figures as a table for people.

    Parameters
    ----------
    metrics : mapping
        As for `write_report`.
    names : sequence of str
        Labels, in the order of their codes.
    source : str
        Where the rows come from.

    Returns
    -------
    str
        Lines without control characters; labels are cut to 40 characters.
    """
    figures = [*_headline(metrics), *_calibration(metrics.get("calibration", {}))]
    if "thresholds" in metrics:
        figures.append(("decision", _decision(Thresholds.from_json(metrics["thresholds"]), names)))
    width = max(len(name) for name, _ in figures) + 1
    lines = [f"{printable(source)}: {counted(int(metrics['n']), 'row')}", ""]
    lines += [*(f"{name:<{width}} {text}" for name, text in figures), "", *_remarks(metrics), ""]
    return "\n".join([*lines, *aligned(list(_class_rows(metrics, names)), left=frozenset({1}))]) + "\n"


_FIGURES = {
    "accuracy": "accuracy",
    "subset_accuracy": "subset accuracy",
    "micro_precision": "micro precision",
    "micro_recall": "micro recall",
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "weighted_f1": "weighted F1",
    "mcc": "MCC",
    "hamming_loss": "Hamming loss",
}


def _headline(metrics: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield the figures over all rows, each with its interval if it has one."""
    for key, name in _FIGURES.items():
        if key not in metrics:
            continue
        text = f"{metrics[key]:.4f}"
        if f"{key}_ci95" in metrics:
            low, high = metrics[f"{key}_ci95"]
            text += f"  [{low:.4f}, {high:.4f}]  95 % interval, {metrics[f'{key}_ci95_method']}"
        yield name, text
    if "labels_per_row" in metrics:
        means = metrics["labels_per_row"]
        yield "labels a row", f"{means['true']:.2f} true, {means['predicted']:.2f} predicted"
    if "positive_label" in metrics:
        figures = ", ".join(f"{key} {metrics[key]:.4f}" for key in ("precision", "recall", "f1"))
        yield "positive", f"{name_of(metrics['positive_label'])}: {figures}"


def _calibration(both: Mapping[str, Mapping[str, Any]]) -> Iterable[tuple[str, str]]:
    """Yield the figures of probabilities, before and after they were calibrated."""
    if not both:
        return
    for key, name in (("ece", "ECE"), ("brier", "Brier score"), ("log_loss", "log loss")):
        yield name, ", ".join(f"{part[key]:.4f} {when} calibration" for when, part in both.items())
    shown = both["after"]
    yield "", f"ECE counts {shown['over']}, in {counted(int(shown['bins']), 'bin')} of equal width"


def _decision(thresholds: Thresholds, names: Sequence[str]) -> str:
    """Say what is compared with the thresholds."""
    tuned = f"tuned for {thresholds.metric}"
    if len(thresholds.values) > 1 or len(names) != 2:
        return f"a label is given where its {thresholds.on} is above its threshold, {tuned}"
    positive = name_of(names[thresholds.positive])
    return f"{positive} where its {thresholds.on} is above {thresholds.values[0]:.4f}, {tuned}"


def _remarks(metrics: Mapping[str, Any]) -> Iterable[str]:
    """Yield what the figures mean."""
    yield f"macro F1 is the mean over {metrics['macro_f1_over']}"
    if metrics.get("used_to_tune"):
        yield "what decides (calibration, thresholds) was learnt on these very rows, so the figures flatter it"
    if metrics.get("unseen_labels"):
        unseen = ", ".join(map(name_of, metrics["unseen_labels"]))
        counted_as = (
            "missed wherever a row has them" if "micro_f1" in metrics else "whose rows all count as errors"
        )
        yield f"labels that training never saw, {counted_as}: {unseen}"


def _class_rows(metrics: Mapping[str, Any], names: Sequence[str]) -> Iterable[list[str]]:
    """Yield a heading and a row for each label."""
    several = "micro_f1" in metrics
    cuts = metrics["thresholds"]["values"] if several and "thresholds" in metrics else ()
    yield [
        *("#", "label", "precision", "recall", "f1", "rows"),
        *(["predicted"] if several else []),
        *(["threshold"] if cuts else []),
    ]
    for place, name in enumerate(names):
        figures = metrics["per_class"][name]
        cells = [str(place + 1), printable(name, _LABEL_LIMIT)]
        cells += [f"{figures[key]:.4f}" for key in ("precision", "recall", "f1")]
        cells += [str(figures[key]) for key in (("support", "predicted") if several else ("support",))]
        if cuts:  # a label that training never saw has none
            cells.append(f"{cuts[place]:.4f}" if place < len(cuts) else "-")
        yield cells


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


def _class_errors(
    true: npt.NDArray[Any], predicted: npt.NDArray[Any], table: Floats | None, names: Sequence[str]
) -> Errors:
    """Yield the rows of a wrong class, the most confident first, else in order."""
    wrong = np.flatnonzero(true != predicted)
    sure = None if table is None else table[np.arange(len(table)), predicted]
    if sure is not None:
        wrong = wrong[np.argsort(-sure[wrong], kind="stable")]
    for i in wrong.tolist():
        yield i, [names[true[i]], names[predicted[i]]], ["" if sure is None else round(float(sure[i]), 6)]


def _set_errors(
    true: npt.NDArray[Any], predicted: npt.NDArray[Any], table: Floats | None, names: Sequence[str]
) -> Errors:
    """Yield the rows with missing or extra labels, the most of them first; of equally many the surest first."""
    differs = true != predicted
    weight = differs.sum(axis=1).astype(np.float64)
    if table is not None:
        trained = table.shape[1]
        distance = np.where(predicted[:, :trained], table, 1 - table)  # how sure each decision was
        # the sum of what may be wrong is below 1, so it only orders rows with equally many wrong labels
        weight += (distance * differs[:, :trained]).sum(axis=1) / (true.shape[1] + 1)
    wrong = np.flatnonzero(differs.any(axis=1))
    for i in wrong[np.argsort(-weight[wrong], kind="stable")].tolist():
        sides = (true[i] & ~predicted[i], predicted[i] & ~true[i])
        yield i, [LABEL_JOINT.join(names[k] for k in np.flatnonzero(side).tolist()) for side in sides], []


def _write_errors(
    path: Path,
    columns: Sequence[str],
    errors: Errors,
    inputs: Sequence[Input],
    rows: Sequence[int] | npt.NDArray[np.int64],
) -> None:
    """Write wrong rows in the order given: the row's number, its texts, its labels, numbers."""
    given = list(errors)
    width = max((len(_texts(inputs[i])) for i, _, _ in given), default=1)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["row", *(["text", "text_pair"] if width == 2 else ["text"]), *columns])
        for i, labels, numbers in given:
            writer.writerow([int(rows[i]), *map(spreadsheet_cell, [*_texts(inputs[i]), *labels]), *numbers])


def _texts(given: Input) -> list[str]:
    """Return the text cells of an input: one, two of a pair, or one of a list of words."""
    if isinstance(given, str):
        return [given]
    return list(given) if isinstance(given, tuple) else [" ".join(given)]
