"""Cells that are finished, kept one file each, so that a comparison that was cut goes on where it was."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from embedkit import __version__
from embedkit.artifact import staged_file
from embedkit.errors import ArtifactError, OutputExistsError, UsageError
from embedkit.evaluation.compare.result import Cell, Detail, Served, WrongRow
from embedkit.evaluation.judged import Entry, Judged
from embedkit.evaluation.tagged import TagJudged
from embedkit.metrics.counts import Bools
from embedkit.metrics.repeated import Patterns, row_patterns
from embedkit.metrics.spans import Tag, sentence_patterns

FOLDER, ABOUT, MODELS = "cells", "comparison.json", "models"
RESULTS = ("compare.json", "compare.csv", "compare.md", "scores.png", "costs.png", "report.html")
_ERRORS = 20  # of the most confident ones
_JOINT = " | "
_FORMAT = 1


@dataclass(eq=False)
class Kept:
    """A finished cell, with what it answered.

    Attributes
    ----------
    cell : Cell
    detail : Detail
    answers : dict
        Of `answers_of`.
    served : list of Served
        Of methods without an artifact.
    seconds : float
        Wall time of the cell, judging included.
    made : dict
        What its times depend on: machine, threads, versions.
    """

    cell: Cell
    detail: Detail
    answers: dict[str, Any]
    served: list[Served] = field(default_factory=list)
    seconds: float = 0.0
    made: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Shelf:
    """The folder of a comparison: finished cells, and models that are still to be served.

    Attributes
    ----------
    folder : Path
        Of the results; ``cells`` lies in it.
    """

    folder: Path

    @classmethod
    def open(cls, folder: Path, data: Mapping[str, Any], *, overwrite: bool = False) -> Shelf:
        """Open a folder for a comparison on some data, or go on with the one that is there.

        Parameters
        ----------
        folder : Path
        data : mapping
            By which the data are known: another comparison's are refused.
        overwrite : bool, default False
            Begin anew where a comparison is there.

        Raises
        ------
        OutputExistsError
            Something else is there.
        UsageError
            A comparison on other data is there.
        """
        shelf = cls(folder)
        about = shelf.cells / ABOUT
        known = {"format": _FORMAT, "kind": "comparison", "data": dict(data)}
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise OutputExistsError(f"{folder} exists and is no folder; choose another output")
        if folder.exists() and any(folder.iterdir()) and not about.is_file():
            raise OutputExistsError(f"{folder} exists and holds no comparison; choose another output")
        if about.is_file():
            if overwrite:
                shelf.clear()
            elif _known(about) != known:
                raise UsageError(
                    f"{folder} holds a comparison on other data (another --seed parts one file otherwise), or by "
                    "another embedkit, or is damaged; choose another output, or give --overwrite to begin anew"
                )
        shelf.cells.mkdir(parents=True, exist_ok=True)
        _write(about, known)
        return shelf

    @property
    def cells(self) -> Path:
        """Where cells lie."""
        return self.folder / FOLDER

    @property
    def models(self) -> Path:
        """Where models wait until it is measured how they are served."""
        return self.cells / MODELS

    def clear(self) -> None:
        """Remove what a comparison wrote, and nothing else."""
        shutil.rmtree(self.cells)
        for name in RESULTS:
            (self.folder / name).unlink(missing_ok=True)

    def find(self, name: str, method: str) -> Kept | None:
        """Return a finished cell as that of a method; None where there is none, or its file is damaged."""
        path = self.cells / f"{name}.json"
        try:
            given = _read(path)
            called = {"method": method}  # it may be asked for up to another size now
            cell, detail = Cell(**given["cell"] | called), given["detail"] | called
            errors = [WrongRow(**entry) for entry in detail.pop("errors")]
            served = [Served(**entry | called) for entry in given["served"]]
            told = (given["answers"], served, given["seconds"], given.get("made", {}))
            return Kept(cell, Detail(**detail, errors=errors), *told)
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def keep(self, name: str, kept: Kept) -> None:
        """Write a finished cell, whole or not at all."""
        _write(
            self.cells / f"{name}.json",
            {
                "cell": asdict(kept.cell),
                "detail": asdict(kept.detail),
                "answers": kept.answers,
                "served": [asdict(entry) for entry in kept.served],
                "seconds": kept.seconds,
                "made": kept.made,
            },
        )

    def find_served(self, name: str) -> list[Served] | None:
        """Return how a model is served, where it was measured."""
        found = self.find_timed(name)
        return None if found is None else found[0]

    def find_timed(self, name: str) -> tuple[list[Served], dict[str, Any]] | None:
        """Return how a model is served, and what its times depend on."""
        try:
            given = _read(self.cells / f"{name}.served.json")
            return [Served(**entry) for entry in given["served"]], dict(given.get("made", {}))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def keep_served(self, name: str, served: Sequence[Served], made: Mapping[str, Any]) -> None:
        """Write how a model is served, and what its times depend on."""
        told = {"served": [asdict(entry) for entry in served], "made": dict(made)}
        _write(self.cells / f"{name}.served.json", told)


def cell_name(method: str, size: str, seed: int, depends_on: Mapping[str, Any]) -> str:
    """Return the name of a cell: in words, and a digest of all that its answers depend on."""
    whole = {"embedkit": __version__, "format": _FORMAT, "method": method, "seed": seed, **depends_on}
    digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode("ascii")).hexdigest()
    words = re.sub(r"[^A-Za-z0-9=.-]+", "_", method)[:40]
    return f"{words}-{size}-s{seed}-{digest[:16]}"


def _known(about: Path) -> dict[str, Any] | None:
    """Return what a comparison says of itself; None where it is damaged."""
    try:
        return _read(about)
    except (OSError, ValueError):
        return None


def _read(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_bytes())
    if not isinstance(found, dict):
        raise ArtifactError(f"{path} holds no JSON object")
    return found


def _write(path: Path, value: Mapping[str, Any]) -> None:
    text = json.dumps(value, sort_keys=True, indent=1, allow_nan=False, default=_plain)
    with staged_file(path.absolute(), check=lambda: None) as file:
        file.write(text.encode("ascii") + b"\n")


def _plain(value: object) -> Any:  # noqa: ANN401 - a number
    """Return a numpy scalar as Python's own."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no JSON value")


# ---------------------------------------------------------------------------------------------- the answers


def answers_of(entry: Entry) -> dict[str, Any]:
    """Return what was answered, as codes: ``labels``, and ``codes`` one a row, joined by blanks.

    Of several labels a row its codes are joined by commas, ``-`` stands for none; of sentences the codes of the
    words are joined by commas, ``-1`` stands for no answer.
    """
    if isinstance(entry, TagJudged):
        tags = cast("list[list[Tag]]", entry.tagged.tags)
        labels = sorted({tag for tag in chain.from_iterable(tags) if tag is not None})
        code: dict[Tag, str] = {None: "-1", **{tag: str(place) for place, tag in enumerate(labels)}}
        return {"labels": labels, "codes": " ".join(",".join(code[tag] for tag in some) or "-" for some in tags)}
    judgement = cast("Judged", entry).judgement
    predicted = judgement.predicted
    if predicted.ndim == 1:
        codes = " ".join(map(str, predicted.tolist()))
    else:
        codes = " ".join(",".join(map(str, np.flatnonzero(row).tolist())) or "-" for row in predicted)
    return {"labels": list(judgement.names), "codes": codes}


@dataclass(frozen=True, eq=False)
class Truth:
    """The labels that every answer is judged by.

    Attributes
    ----------
    labels : list
        One a row, or several, or the tags of a sentence.
    names : tuple of str
        The label of each code of answers; of tags none.
    true : ndarray, optional
        Codes, or which labels each row has; of tags None.
    spans : bool
        Whether tags stand for entities.
    """

    labels: Sequence[Any]
    names: tuple[str, ...]
    true: Any = None
    spans: bool = False

    def patterns(self, answers: Mapping[str, Any], metric: str) -> Patterns:
        """Return what each judged row counts for, for `embedkit.metrics.repeated.Repeated`.

        Raises
        ------
        ArtifactError
            The answers are of other rows or labels.
        """
        rows = str(answers["codes"]).split(" ")
        if len(rows) != len(self.labels) or (
            self.true is not None and list(answers["labels"]) != list(self.names)
        ):
            raise ArtifactError("a cell holds answers for other rows or labels; begin anew with --overwrite")
        if self.true is None:
            named: dict[str, Tag] = {"-1": None}
            named |= {str(place): tag for place, tag in enumerate(answers["labels"])}
            given = [[named[code] for code in row.split(",")] if row != "-" else [] for row in rows]
            return sentence_patterns(self.labels, given, spans=self.spans)
        if self.true.ndim == 1:
            predicted: Any = np.array([int(code) for code in rows], np.int64)
        else:
            predicted = np.zeros(self.true.shape, np.bool_)
            for place, row in enumerate(rows):
                predicted[place, [int(code) for code in row.split(",") if code != "-"]] = True
        return row_patterns(self.true, predicted, len(self.names), metric)


# ---------------------------------------------------------------------------------------------- label by label


def detail_of(entry: Entry, method: str, size: str, seed: int) -> Detail:
    """Return the figures of each label, the confusion matrix and the most confident errors."""
    figures = entry.metrics
    each: dict[str, Any] = next(
        (figures[name] for name in ("per_class", "per_type", "per_tag") if name in figures), {}
    )
    if isinstance(entry, TagJudged):
        labels = ["(none)" if tag is None else str(tag) for tag in figures["tags"]]
        confusion, errors = figures["confusion"], _tag_errors(entry)
    else:
        judged = cast("Judged", entry)
        labels, confusion = list(judged.judgement.names), figures.get("confusion", [])
        errors = _errors(judged)
    shown = sorted(errors, key=lambda error: (-(error.confidence or 0.0), error.row))[:_ERRORS]
    return Detail(method, size, seed, dict(each), labels, confusion, shown, len(errors))


def _errors(entry: Judged) -> list[WrongRow]:
    judgement, probabilities = entry.judgement, entry.predictions.probabilities
    apart = judgement.true != judgement.predicted
    places = np.flatnonzero(apart.any(axis=1) if apart.ndim == 2 else apart)
    found = []
    for place in places.tolist():
        true, given = judgement.true[place], judgement.predicted[place]
        sure: float | None = None
        if probabilities is not None and judgement.multi_label:
            sure = _surest(probabilities[place], given, apart[place])
        elif probabilities is not None:
            sure = round(float(probabilities[place][given]), 6)
        wanted, said = (_names(judgement.names, codes) for codes in (true, given))
        found.append(WrongRow(int(entry.split.rows[place]), wanted, said, sure))
    return found


def _surest(shares: NDArray[np.floating[Any]], given: Bools, wrong: Bools) -> float | None:
    """Return how sure the surest wrong label was, given or left out; None where training saw none of them."""
    trained = len(shares)
    sure = np.where(given[:trained], shares, 1 - shares)[wrong[:trained]]
    return round(float(sure.max()), 6) if len(sure) else None


def _names(names: Sequence[str], codes: Any) -> str:  # noqa: ANN401 - a code, or which labels there are
    if np.ndim(codes):
        return _JOINT.join(names[code] for code in np.flatnonzero(codes).tolist())
    return names[int(codes)]


def _tag_errors(entry: TagJudged) -> list[WrongRow]:
    found = []
    true = cast("list[list[str]]", entry.split.labels)
    for place, (wanted, given) in enumerate(zip(true, entry.tagged.tags, strict=True)):
        wrong = [word for word, (one, other) in enumerate(zip(wanted, given, strict=True)) if one != other]
        if wrong:
            scores = [entry.tagged.scores[place][word] or 0.0 for word in wrong]
            tags = " ".join("(none)" if tag is None else str(tag) for tag in given)
            found.append(
                WrongRow(int(entry.split.rows[place]), " ".join(wanted), tags, round(float(np.mean(scores)), 6))
            )
    return found
