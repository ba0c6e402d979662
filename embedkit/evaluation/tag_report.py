"""What a person reads after a tagger was judged: figures of each type or tag, a picture, the worst sentences.

What is quoted is made inert as in `embedkit.evaluation.report`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedkit.data.text import aligned, counted, name_of, printable
from embedkit.errors import DataError
from embedkit.evaluation.plots import confusion_figure, save_png
from embedkit.evaluation.report import LABEL_JOINT, spreadsheet_cell
from embedkit.metrics.spans import STRICT, Tag, judged_entities

_NAME_LIMIT = 40  # characters of a type or tag in the table
_UNREAD = "(no tag)"  # of a word that was not read


def write_tag_report(
    folder: Path,
    *,
    true: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[Tag]],
    sentences: Sequence[Sequence[str]],
    rows: Sequence[int] | NDArray[np.int64],
    source: str,
    metrics: Mapping[str, Any],
    pictures: bool = True,
) -> None:
    """Write `report/` of one split: the table, the wrong sentences and the confusion matrix of tags.

    These are `classification_report.txt`, `errors.csv` (those with the most wrong entities, or words, first) and
    `confusion_matrix.png`.

    Parameters
    ----------
    folder : Path
        Exists; `report` is made in it.
    true, predicted : sequence of N sequences of str
        Tags as `embedkit.metrics.tagging` takes them.
    sentences : sequence of N sequences of str
        Their words.
    rows : sequence of int, length N
        Row numbers in the source, counted from 1.
    source : str
        Where the rows come from, for headings.
    metrics : mapping
        Of `embedkit.metrics.tagging` for the same sentences; as for `tag_text`.
    pictures : bool, default True
        Whether to draw; without, nothing but numpy is needed.

    Raises
    ------
    DataError
        Lengths differ.
    """
    sizes = {len(part) for part in (true, predicted, sentences, rows)}
    if len(sizes) > 1:
        raise DataError(f"a report needs as many tags as sentences; lengths are {sorted(sizes)}")
    target = folder / "report"
    target.mkdir(exist_ok=True)
    (target / "classification_report.txt").write_text(tag_text(metrics, source), encoding="utf-8")
    wrong = _errors(true, predicted, sentences, metrics.get("mode"))
    unit = "entities" if "mode" in metrics else "words"
    with (target / "errors.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["row", f"wrong {unit}", "text", "true", "predicted"])
        for place, count, sides in wrong:
            cells = [" ".join(sentences[place]), *map(LABEL_JOINT.join, sides)]
            writer.writerow([int(rows[place]), count, *map(spreadsheet_cell, cells)])
    if pictures:
        names = [_UNREAD if tag is None else tag for tag in metrics["tags"]]
        shown = [f"{name} {metrics[key]:.3f}" for key, name in _headline(metrics) if f"{key}_ci95" in metrics]
        title = f"{source}: {_size(metrics)}, {', '.join(shown)}"
        save_png(confusion_figure(metrics["confusion"], names, title=title), target / "confusion_matrix.png")


def tag_text(metrics: Mapping[str, Any], source: str) -> str:
    """Return the figures of a tagger as a table for people.

    Parameters
    ----------
    metrics : mapping
        Of `embedkit.metrics.tagging`. It may also have ``unseen_tags``, those that training never saw, and
        ``used_to_tune``.
    source : str
        Where the rows come from.

    Returns
    -------
    str
        Lines without control characters; names are cut to 40 characters.
    """
    figures = [(name, _figure(metrics, key)) for key, name in _headline(metrics)]
    width = max(len(name) for name, _ in figures) + 1
    lines = [f"{printable(source)}: {_size(metrics)}", ""]
    lines += [*(f"{name:<{width}} {text}" for name, text in figures), "", *_remarks(metrics), ""]
    return "\n".join([*lines, *aligned(list(_table(metrics)), left=frozenset({1}))]) + "\n"


def _size(metrics: Mapping[str, Any]) -> str:
    return f"{counted(int(metrics['n']), 'sentence')}, {counted(int(metrics['words']), 'word')}"


def _headline(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the figures over all, the most telling first, with their names."""
    if "mode" not in metrics:
        return [("accuracy", "accuracy"), ("macro_f1", "macro F1")]
    return [("f1", "entity F1"), ("precision", "precision"), ("recall", "recall"), ("accuracy", "accuracy")]


def _figure(metrics: Mapping[str, Any], key: str) -> str:
    """Return a figure with its interval if it has one."""
    text = f"{metrics[key]:.4f}"
    if f"{key}_ci95" not in metrics:
        return text
    low, high = metrics[f"{key}_ci95"]
    return f"{text}  [{low:.4f}, {high:.4f}]  95 % interval, {metrics[f'{key}_ci95_method']}"


def _remarks(metrics: Mapping[str, Any]) -> Iterable[str]:
    """Yield what the figures mean."""
    if "mode" in metrics:
        begins = "B- alone begins one" if metrics["mode"] == STRICT else "an I- that continues nothing begins one"
        yield f"an entity is right if its type, first and last word are; {begins} ({metrics['mode']})"
        yield "accuracy is over words"
    else:
        yield f"accuracy is over words; macro F1 is the mean over {metrics['macro_f1_over']}"
    if metrics.get("used_to_tune"):
        yield "what was kept of the training was chosen by these very rows, so the figures flatter it"
    if metrics.get("unseen_tags"):
        unseen = ", ".join(map(name_of, metrics["unseen_tags"]))
        yield f"tags that training never saw, whose words all count as errors: {unseen}"


def _table(metrics: Mapping[str, Any]) -> Iterable[list[str]]:
    """Yield a heading and a row for each type or tag."""
    spans = "mode" in metrics
    yield [
        "#",
        "type" if spans else "tag",
        "precision",
        "recall",
        "f1",
        "entities" if spans else "words",
        "predicted",
    ]
    for number, (name, figures) in enumerate(metrics["per_type" if spans else "per_tag"].items(), 1):
        shares = [f"{figures[key]:.4f}" for key in ("precision", "recall", "f1")]
        counts = [f"{figures[key]}" for key in ("support", "predicted")]
        yield [str(number), printable(name, _NAME_LIMIT), *shares, *counts]


# --- the wrong sentences -------------------------------------------------------------------------------


def _errors(
    true: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[Tag]],
    sentences: Sequence[Sequence[str]],
    mode: str | None,
) -> list[tuple[int, int, list[list[str]]]]:
    """Return place, how much is wrong, and what was true and predicted of each wrong sentence, the worst first."""
    found = []
    for place, (words, wanted, given) in enumerate(zip(sentences, true, predicted, strict=True)):
        if not len(words) == len(wanted) == len(given):
            raise DataError(f"sentence {place + 1} of a report has {len(words)} words, but not as many tags")
        if mode is None:
            wrong, said = _wrong_words(words, wanted, given)
        else:
            wrong, said = _wrong_entities(words, wanted, given, strict=mode == STRICT)
        if wrong:
            found.append((place, wrong, said))
    return sorted(found, key=lambda error: -error[1])


def _wrong_entities(
    words: Sequence[str], true: Sequence[Tag], predicted: Sequence[Tag], *, strict: bool
) -> tuple[int, list[list[str]]]:
    """Count the entities that are missed or too many; say all of both sides."""
    both = [judged_entities(tags, strict=strict) for tags in (true, predicted)]
    said = [[_said(words, kind, start, end) for kind, start, end in side] for side in both]
    return len(set(both[0]) ^ set(both[1])), said


def _wrong_words(
    words: Sequence[str], true: Sequence[Tag], predicted: Sequence[Tag]
) -> tuple[int, list[list[str]]]:
    """Count the words with a wrong tag; say these alone."""
    wrong = [i for i, (wanted, given) in enumerate(zip(true, predicted, strict=True)) if wanted != given]
    said = [
        [_said(words, _UNREAD if side[i] is None else str(side[i]), i, i + 1) for i in wrong]
        for side in (true, predicted)
    ]
    return len(wrong), said


def _said(words: Sequence[str], name: str, start: int, end: int) -> str:
    """Return words with what they are and where they stand: ``Dean Palmer (PER, words 1-2)``."""
    where = f"word {end}" if end == start + 1 else f"words {start + 1}-{end}"
    return f"{' '.join(words[start:end])} ({', '.join(filter(None, [name, where]))})"
