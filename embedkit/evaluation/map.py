"""A map of texts: what is drawn, as a page that answers to the pointer and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedkit.data import LabelCodec, Split
from embedkit.data.splits import has_label_sets
from embedkit.data.text import counted, printable
from embedkit.encoders import FeatureExtractor
from embedkit.evaluation.judged import Answered, Classifier
from embedkit.evaluation.projection import Method, Projection, ProjectionSettings, project
from embedkit.evaluation.report import LABEL_JOINT
from embedkit.pages import Html, asset, document, library, tag

MOST_POINTS = 20_000  # that stay fluid
CUT = 300  # characters of a text that are shown
_STEPS = 65_535  # to which places are rounded: a 65th of a pixel on a screen of 1,000
_UNLABELLED = "no label"


@dataclass(frozen=True, eq=False)
class Mode:
    """What points can be coloured by.

    Attributes
    ----------
    key : {"label", "prediction", "error", "split"}
    title : str
    names : list of str
        Of the groups; inert on a page, not cut.
    codes : ndarray of int64, shape (n,)
        The group of each point; -1 where it has none.
    """

    key: str
    title: str
    names: list[str]
    codes: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TextMap:
    """Texts on a map.

    Attributes
    ----------
    title : str
    projection : Projection
        n points.
    rows : ndarray of int64, shape (n,)
        What the points are called: data rows.
    modes : list of Mode
        At least one.
    texts : list of tuple of str, or None
        The texts, one or two a point, not cut yet; None where the page is to show none.
    confidence : ndarray of float, shape (n,), or None
        Probabilities of what was predicted.
    about : list of str
        What a reader should know, a sentence each.
    """

    title: str
    projection: Projection
    rows: NDArray[np.int64]
    modes: list[Mode]
    texts: list[tuple[str, ...]] | None
    confidence: NDArray[np.floating[Any]] | None = None
    about: list[str] = field(default_factory=list)

    def data(self) -> dict[str, Any]:
        """Return what the page's script reads, as JSON values."""
        points = self.projection.points.astype(np.float64)
        span = max(float(np.ptp(points, axis=0).max()), np.finfo(np.float64).tiny)
        places = np.rint((points - points.min(axis=0)) / span * _STEPS).astype(np.int64)
        sure = None if self.confidence is None else np.round(self.confidence.astype(np.float64), 4).tolist()
        return {
            "x": places[:, 0].tolist(),
            "y": places[:, 1].tolist(),
            "rows": self.rows.tolist(),
            "texts": None if self.texts is None else [list(map(shortened, parts)) for parts in self.texts],
            "confidence": sure,
            "modes": [
                {
                    "key": mode.key,
                    "title": mode.title,
                    "names": [printable(name, None) for name in mode.names],
                    "codes": mode.codes.tolist(),
                    "none": _UNLABELLED,
                }
                for mode in self.modes
            ],
        }

    def section(self, points: str) -> Html:
        """Return the map as a part of a page that has `data` under the id `points`, and `map_scripts`."""
        search = [tag("label", ["Search ", tag("input", "", {"type": "search", "class": "map-search"})])]
        buttons = (("map-all", "all"), ("map-none", "none"), ("map-whole", "whole map"))
        side = [
            tag("div", [tag("button", text, {"type": "button", "class": name}) for name, text in buttons]),
            tag("ul", "", {"class": "map-legend"}),
        ]
        controls = [
            tag("label", ["Colour by ", tag("select", "", {"class": "map-colour"})]),
            *(search if self.texts is not None else []),
            tag("span", "", {"class": "map-count", "role": "status"}),
        ]
        stage = [
            tag("div", "", {"class": "map-chart", "role": "img", "aria-label": self.title}),
            tag("div", "", {"class": "map-card", "hidden": ""}),
        ]
        body = [tag("div", stage, {"class": "map-stage"}), tag("div", side, {"class": "map-side"})]
        parts = [
            tag("div", controls, {"class": "map-controls"}),
            tag("div", body, {"class": "map-body"}),
            tag("ul", "", {"class": "map-found", "hidden": ""}),
            tag("noscript", tag("p", "The map is drawn by a script of this page, and scripts are switched off.")),
        ]
        return tag("div", parts, {"class": "map", "data-points": points})

    def remarks(self) -> list[str]:
        """Return what a reader should know of the map, a sentence each."""
        kept, chance = self.projection.kept, self.projection.chance
        shown = (
            f"Texts are cut to {CUT} characters, and the search reads what is shown."
            if self.texts is not None
            else "The page holds no texts; rows are called by their numbers."
        )
        return [
            *self.about,
            f"{counted(len(self.rows), 'text')}, laid out by {self.projection.said}. Of the 10 nearest neighbours "
            f"of a text {kept:.0%} are among its 10 nearest on the map ({chance:.1%} by chance); distances "
            "between far groups, and their sizes, mean little.",
            shown,
        ]

    def page(self) -> str:
        """Return the map as a page of its own."""
        remarks = [tag("p", remark, {"class": "note"}) for remark in self.remarks()]
        usage = tag(
            "p",
            "Point at a dot, or tap it, to read its text; a click keeps it, Escape lets it go. The wheel or two "
            "fingers zoom; entries of the legend hide and show.",
            {"class": "note"},
        )
        body = [tag("h1", self.title), self.section("points"), usage, *remarks]
        return document(
            self.title, body, styles=[asset("page.css")], scripts=map_scripts(), data={"points": self.data()}
        )


def map_scripts() -> list[str]:
    """Return what a page with a map runs, in order."""
    return [library(), asset("charts.js"), asset("map.js")]


def shortened(text: str) -> str:
    r"""Return a text on one line, at most 300 characters of it, controls written out.

    Examples
    --------
    >>> shortened(" two\n  lines\x1b ")
    'two lines\\x1b'
    """
    return printable(" ".join(text.split(None, CUT)), CUT)


def sampled(splits: Sequence[Split], most: int, seed: int) -> tuple[list[Split], str]:
    """Return the rows that are drawn, all or so many by the seed, and what was left out, if anything was."""
    total = sum(map(len, splits))
    if total <= most:
        return list(splits), ""
    chosen = np.sort(np.random.default_rng(seed).permutation(total)[:most])
    starts = np.cumsum([0, *map(len, splits)])
    parts = [
        split.take(chosen[(chosen >= first) & (chosen < last)] - first)
        for split, first, last in zip(splits, starts[:-1], starts[1:], strict=True)
    ]
    return [part for part in parts if len(part)], (
        f"{most:,} of {counted(total, 'row')} are drawn, chosen at random by seed {seed}."
    )


def called(name: str) -> str:
    """Return what data are called on a page that others may see: without the folders that they lie in."""
    return name if name.startswith("hf:") else Path(name).absolute().name or name


def map_of(
    split: Split,
    extractor: FeatureExtractor,
    *,
    title: str,
    declared: Sequence[str] | None,
    seed: int,
    texts: bool = True,
) -> TextMap:
    """Return the map of a split as a report shows it: UMAP where it is installed, else principal components.

    Parameters
    ----------
    split : Split
        Texts or pairs; of more than 20,000 rows as many are drawn.
    extractor : FeatureExtractor
        Whose features are laid out, from the store where they are kept.
    title : str
    declared : sequence of str, optional
        Labels in the order that the data declare.
    seed : int
    texts : bool, default True
        As for `make_map`.

    Raises
    ------
    DataError
        Fewer than 5 of the texts are different.
    """
    method: Method = "umap" if find_spec("umap") is not None else "pca"
    parts, left_out = sampled([split], MOST_POINTS, seed)
    features = extractor.transform(parts[0].inputs, rows=parts[0].rows)  # type: ignore[arg-type]
    projection = project(features.vectors, ProjectionSettings(method, seed=seed))
    about = [features_said(extractor), *filter(None, [left_out])]
    return make_map(parts, projection, title=title, declared=declared, texts=texts, about=about)


def features_said(extractor: FeatureExtractor) -> str:
    """Say what gave the features; of a folder its own name alone, because others may see a page."""
    resolved = extractor.folder.resolved
    name = resolved.folder.name if resolved.kind == "folder" else resolved.name
    return f"Features as {name} gives them: pooling {'+'.join(extractor.recipe.poolings)}."


def make_map(
    splits: Sequence[Split],
    projection: Projection,
    *,
    title: str,
    declared: Sequence[str] | None = None,
    classifier: Classifier | None = None,
    answered: Answered | None = None,
    texts: bool = True,
    about: Sequence[str] = (),
) -> TextMap:
    """Return the map of some rows.

    Parameters
    ----------
    splits : sequence of Split
        Texts or pairs, n rows in all.
    projection : Projection
        Of their vectors, in the same order.
    title : str
    declared : sequence of str, optional
        Labels in the order that the data declare.
    classifier : Classifier, optional
        Whose predictions are drawn too.
    answered : Answered, optional
        These; given with `classifier`.
    texts : bool, default True
        Whether the page shows texts.
    about : sequence of str
        Sentences that stand below the map.
    """
    labels = [label for split in splits for label in (split.labels or [None] * len(split))]
    several = has_label_sets([label for label in labels if label is not None])
    codec = _codec(labels, declared, classifier)
    true = _said(labels, codec, several)
    guessed = None if classifier is None or answered is None else _predicted(classifier, answered)
    modes = [*_label_modes(true, guessed, codec, several), *_split_modes(splits)]
    sure = None if answered is None or answered.codes.ndim == 2 else answered.probabilities
    if not modes:
        modes = [Mode("label", "Label", [], np.full(len(labels), -1))]
    return TextMap(
        title,
        projection,
        np.concatenate([split.rows for split in splits]),
        modes,
        [_parts(given) for split in splits for given in split.inputs] if texts else None,
        None if sure is None or answered is None else sure[np.arange(len(sure)), answered.codes],
        list(about),
    )


def _codec(labels: Sequence[Any], declared: Sequence[str] | None, classifier: Classifier | None) -> LabelCodec:
    known = [label for label in labels if label is not None]
    if classifier is not None:
        return classifier.codec.extended(known)
    return LabelCodec.fit(known, declared) if known else LabelCodec(())


def _said(labels: Sequence[Any], codec: LabelCodec, several: bool) -> list[str | None]:
    """Return labels by name; those of a row with several are joined in the order of their codes."""
    if not several:
        return [None if label is None else str(label) for label in labels]
    place = {label: at for at, label in enumerate(codec.classes)}
    return [None if given is None else _set(sorted(given, key=place.__getitem__)) for given in labels]


def _predicted(classifier: Classifier, answered: Answered) -> list[str]:
    if classifier.multi_label:
        return list(map(_set, classifier.codec.decode_sets(answered.codes)))
    return list(map(str, classifier.codec.decode(answered.codes).tolist()))


def _set(labels: Sequence[Any]) -> str:
    return LABEL_JOINT.join(map(str, labels)) or "(none)"


def _label_modes(
    true: Sequence[str | None], guessed: Sequence[str] | None, codec: LabelCodec, several: bool
) -> list[Mode]:
    """Return labels, predictions and errors; labels and predictions share names, and with them colours."""
    occurring = dict.fromkeys([*(name for name in true if name is not None), *(guessed or [])])
    names = sorted(occurring) if several else [name for name in codec.names if name in occurring]
    place = {name: at for at, name in enumerate(names)}
    codes = np.array([-1 if name is None else place[name] for name in true])
    title = "Label set" if several else "Label"
    labelled = [Mode("label", title, names, codes)] if (codes >= 0).any() else []
    if guessed is None:
        return labelled
    found = np.array([place[name] for name in guessed])
    wrong = np.where(codes < 0, -1, (found != codes).astype(np.int64))
    errors = [Mode("error", "Error", ["right", "wrong"], wrong)] if labelled else []
    return [*labelled, Mode("prediction", "Prediction", names, found), *errors]


def _split_modes(splits: Sequence[Split]) -> list[Mode]:
    names = [split.name for split in splits]
    if len(names) < 2:
        return []
    return [Mode("split", "Split", names, np.repeat(np.arange(len(names)), [len(split) for split in splits]))]


def _parts(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)
