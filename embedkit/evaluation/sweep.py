"""Which view of the encoder and which head: chosen by cross-validation on train alone."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeVar, cast

from embedkit.data import Split, groups_of, stratified_folds
from embedkit.data.checks import small_classes
from embedkit.data.splits import Rare, has_label_sets
from embedkit.data.text import aligned
from embedkit.encoders import EncoderSettings, Extraction, FeatureExtractor
from embedkit.encoders.opened import Opened
from embedkit.encoders.settings import WORD_POOLINGS
from embedkit.errors import UsageError
from embedkit.estimators.frozen import head_settings
from embedkit.evaluation.plots import SweepPoint, save_png, sweep_figure
from embedkit.heads import HeadSpec, Trial, cross_validate
from embedkit.heads.base import Floats
from embedkit.heads.grid import Fold, Scorer
from embedkit.heads.table import HEADS
from embedkit.metrics.scores import check_metric
from embedkit.runtime.texts import chunks_of
from embedkit.runtime.tokens import Text
from embedkit.store import FeatureStore, open_store

FOLDS = 5
_SHOWN = 15  # candidates of the table that a person sees
_DIGITS = 12  # means that differ by the order of a sum alone are equal
_RULE = "the most usual of those within one standard error of the highest mean"
_DEALT = {"rows": "stratified, equal texts together", "sentences": "equal ones together"}
Opener = Callable[[EncoderSettings], FeatureExtractor]
E = TypeVar("E", bound=Opened)


@dataclass(frozen=True)
class Candidate:
    """A view of the encoder with a head, and how they did.

    Attributes
    ----------
    settings : EncoderSettings
        Of the view.
    layers, pooling : str
        The view in words: layers by their index in ``hidden_states``, joins with +.
    trial : Trial
    unusual : int
        How much of it is not as it is without being asked for: other layers than the last, another pooling than
        the model's, another head than the first that was named, each setting of the head.
    """

    settings: EncoderSettings
    layers: str
    pooling: str
    trial: Trial
    unusual: int

    @property
    def settled(self) -> dict[str, str]:
        """The head's parameters that were set, and its scaling, each as it is written."""
        spec = self.trial.spec
        scale = {} if spec.scale == "auto" else {"scale": spec.scale}
        return {name: _shown(value) for name, value in {**spec.params, **scale}.items()}

    @property
    def params(self) -> str:
        """The head's parameters that were set, in words."""
        return " ".join(f"{name}={value}" for name, value in self.settled.items())


def _key(metric: str) -> str:
    """Return a metric as files call it."""
    return metric.replace("-", "_")


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if value is None else str(value)


@dataclass(eq=False)
class Sweep:
    """What cross-validation found.

    Attributes
    ----------
    metric : str
        What the choice was made by.
    folds, seed : int
    rows : int
        Rows of train that took part.
    candidates : list of Candidate
        The chosen one, then the others, the best first; of equal ones the earlier one in the lists.
    seconds : float
        Wall time, without extracting features.
    extraction : Extraction
        Of the pass that filled all views.
    notes : list of str
    unit : {"rows", "sentences"}
        What the folds are of.
    """

    metric: str
    folds: int
    seed: int
    rows: int
    candidates: list[Candidate] = field(default_factory=list)
    seconds: float = 0.0
    extraction: Extraction = field(default_factory=Extraction)
    notes: list[str] = field(default_factory=list)
    unit: Literal["rows", "sentences"] = "rows"

    @property
    def chosen(self) -> Candidate:
        """The most usual of the candidates whose mean is within one standard error of the highest.

        The rule of Breiman, Friedman, Olshen and Stone (1984): of many candidates the highest mean is mostly luck,
        and what is unusual has to earn its place. Of equally usual ones the highest mean.
        """
        return self.candidates[0]

    @property
    def best(self) -> Candidate:
        """The candidate with the highest mean."""
        return max(self.candidates, key=lambda candidate: round(candidate.trial.mean(self.metric), _DIGITS))

    def choose(self) -> None:
        """Put the candidates in order."""
        means = {id(candidate): round(candidate.trial.mean(self.metric), _DIGITS) for candidate in self.candidates}
        self.candidates.sort(key=lambda candidate: -means[id(candidate)])  # stable
        best = self.candidates[0]
        least = means[id(best)] - best.trial.std(self.metric) / self.folds**0.5
        near = [candidate for candidate in self.candidates if means[id(candidate)] >= least]
        chosen = min(near, key=lambda candidate: candidate.unusual)  # the first of equal ones
        self.candidates.remove(chosen)
        self.candidates.insert(0, chosen)

    def summary(self) -> dict[str, Any]:
        """Return what `metrics.json` says."""
        best = self.chosen
        highest = self.best.trial
        described = head_settings(best.trial.spec)
        return {
            "metric": self.metric,
            "folds": self.folds,
            "seed": self.seed,
            "rows": self.rows,
            "candidates": len(self.candidates),
            "seconds": self.seconds,
            "computed": self.extraction.computed,
            "extract_seconds": self.extraction.seconds,
            "rule": _RULE,
            "highest": {"mean": highest.mean(self.metric), "std": highest.std(self.metric)},
            "chosen": {
                "layers": best.layers,
                "pooling": best.pooling,
                **{name: described[name] for name in ("clf", "params", "scale")},
                **{
                    _key(name): {"mean": best.trial.mean(name), "std": best.trial.std(name), "folds": list(values)}
                    for name, values in best.trial.scores.items()
                },
            },
        }


def views_of(
    settings: EncoderSettings, layers: Sequence[str], poolings: Sequence[str | None], opened: Opened
) -> list[EncoderSettings]:
    """Return the settings of each combination of layers and pooling.

    Parameters
    ----------
    settings : EncoderSettings
        All else.
    layers : sequence of str
        Each a layer such as ``-1``, a join such as ``-1+-2``, or ``all``: each layer on its own.
    poolings : sequence of str or None
        Each as `EncoderSettings.pooling` takes it. ``pooler`` is combined with the last layer alone.
    opened : Opened
        Of the same model; tells how many layers there are.
    """
    count = opened.folder.layers
    spelled = [
        part for given in layers for part in ([str(i) for i in range(count + 1)] if given == "all" else [given])
    ]
    found: dict[tuple[tuple[int, ...], str | None], EncoderSettings] = {}
    for pooling in poolings:
        for given in spelled:
            numbers = tuple(int(part) if _is_integer(part) else _refuse(given) for part in given.split("+"))
            last = numbers in ((-1,), (count,))
            if pooling is not None and "pooler" in pooling.split("+") and not last and len(spelled) > 1:
                continue
            view = replace(settings, layers=numbers, pooling=pooling)
            found.setdefault((tuple(number % (count + 1) for number in numbers), pooling), view)
    return list(found.values())


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _refuse(given: str) -> int:
    raise UsageError(f"layers {given!r}: give whole numbers such as -1, joins such as -1+-2, or all")


@contextmanager
def temporary_store(dtype: str) -> Iterator[FeatureStore]:
    """Give a store for the time of a sweep, which reads features once for each view."""
    with TemporaryDirectory(prefix="embedkit-") as folder:
        temporary = open_store(folder, dtype)
        assert temporary is not None
        yield temporary


def run_sweep(
    train: Split,
    targets: Any,  # noqa: ANN401 - int64 (N,) or bool (N, C)
    names: Sequence[str],
    views: Sequence[EncoderSettings],
    specs: Sequence[HeadSpec],
    opener: Opener,
    *,
    metric: str | None = None,
    folds: int = FOLDS,
    seed: int = 42,
    rare: Rare = "error",
    jobs: int | None = None,
    progress: Callable[[int], None] | None = None,
    judged: Callable[[int], None] | None = None,
) -> Sweep:
    """Judge every head on every view by the same stratified folds of train.

    One forward pass fills all views that the store lacks. Equal texts stay in one fold.

    Parameters
    ----------
    train : Split
        Labelled.
    targets : ndarray of int64 (N,), or of bool (N, C)
    names : sequence of str
        Labels.
    views : sequence of EncoderSettings
    specs : sequence of HeadSpec
    opener : callable
        Gives the extractor of a view; all of them share one store.
    metric : str, optional
        One of `embedkit.metrics.scores`. Default: accuracy; micro-f1 where rows have several labels.
    folds, seed : int
        Of the cross-validation.
    rare : {"error", "drop", "train-only"}
        What becomes of a class with one distinct text.
    jobs : int, optional
        Processes; default: as many as cores.
    progress, judged : callable, optional
        Told the number of texts that became ready, and of candidates that were judged.

    Raises
    ------
    DataError
        A class has one distinct text, or there are fewer texts than folds.
    UsageError
        There is no such metric, or a setting is not allowed.
    """
    several = has_label_sets(train.labels)
    sweep = Sweep(check_metric(metric, multi_label=several), folds, seed, len(train))
    parts = stratified_folds(train.labels, groups_of(train.inputs), folds, seed, rare=rare)
    small = None if several else small_classes(train.labels or [], folds)
    sweep.notes += [small] if small else []
    texts = cast("Sequence[Text]", train.inputs)
    extractors = [opener(view) for view in views]
    for extractor in unions(extractors, opener):
        extractor.progress = progress
        for part in chunks_of(texts):  # all views of all texts at once may be more than the memory holds
            sweep.extraction += extractor.transform(texts[part], rows=train.rows[part]).extraction
    features = (_vectors(extractor, texts) for extractor in extractors)
    compare(sweep, extractors, specs, features, targets, parts, names, jobs=jobs, judged=judged)
    return sweep


def compare(
    sweep: Sweep,
    extractors: Sequence[Opened],
    specs: Sequence[HeadSpec],
    features: Iterable[Floats],
    targets: Any,  # noqa: ANN401 - int64 (N,) or bool (N, C)
    folds: Sequence[Fold],
    names: Sequence[str],
    *,
    jobs: int | None = None,
    judged: Callable[[int], None] | None = None,
    scorer: Scorer | None = None,
) -> None:
    """Judge every head on the features of every extractor, and put the candidates into a sweep, in order.

    Parameters
    ----------
    sweep : Sweep
    extractors : sequence of Opened
        One for each view.
    specs, targets, folds, names, jobs, scorer
        As for `embedkit.heads.cross_validate`.
    features : iterable of ndarray of float, each of shape (N, D)
        Of each view.
    judged : callable, optional
        Told the number of candidates that were judged.
    """
    start = time.perf_counter()
    for extractor, trials in zip(
        extractors,
        cross_validate(specs, features, targets, folds, names, jobs=jobs, scorer=scorer),
        strict=True,
    ):
        layers, pooling = _words(extractor)
        view = _unusual_view(extractor)
        sweep.candidates += [
            Candidate(extractor.settings, layers, pooling, trial, view + _unusual_head(trial.spec, specs[0].clf))
            for trial in trials
        ]
        if judged is not None:
            judged(len(trials))
    sweep.choose()
    sweep.notes += [f"in a fold of the cross-validation: {note}" for note in sweep.chosen.trial.notes]
    sweep.seconds = time.perf_counter() - start


def _unusual_view(extractor: Opened) -> int:
    """Return in how many ways a view is not the model's usual one."""
    recipe = extractor.recipe
    usual = WORD_POOLINGS[0] if recipe.words else extractor.folder.pooling
    return int(recipe.layers != ("last",)) + int("+".join(recipe.poolings) != usual)


def _unusual_head(spec: HeadSpec, first: str) -> int:
    """Return in how many ways a head is not the first one with its usual settings."""
    known = HEADS[spec.clf].params if spec.clf in HEADS else {}
    changed = sum(name not in known or value != known[name].default for name, value in spec.params.items())
    return int(spec.clf != first) + int(spec.scale != "auto") + int(changed)


def _vectors(extractor: FeatureExtractor, texts: Sequence[Text]) -> Floats:
    return extractor.transform(texts).vectors


def unions(extractors: Sequence[E], opener: Callable[[EncoderSettings], E]) -> Iterator[E]:
    """Open what gives all views at once; a pooler has a pass of its own, as it has the last layer alone."""
    settings = extractors[0].settings  # but for the view, of all
    recipes = [extractor.recipe for extractor in extractors]
    for pooled in (False, True):
        group = [recipe for recipe in recipes if ("pooler" in recipe.poolings) == pooled]
        if group:
            layers = dict.fromkeys(-1 if layer == "last" else layer for recipe in group for layer in recipe.layers)
            poolings = dict.fromkeys(pooling for recipe in group for pooling in recipe.poolings)
            yield opener(replace(settings, layers=tuple(layers), pooling="+".join(poolings), layer_join="concat"))


def _words(extractor: Opened) -> tuple[str, str]:
    """Return layers, by index, and pooling of a view."""
    recipe, count = extractor.recipe, extractor.folder.layers
    layers = "+".join(str(count if layer == "last" else layer) for layer in recipe.layers)
    if len(recipe.layers) > 1 and recipe.layer_join == "mean":
        layers = f"mean({layers})"
    return layers, "+".join(recipe.poolings)


# --- what a person reads -------------------------------------------------------------------------------


def sweep_text(sweep: Sweep) -> str:
    """Return the best candidates as a table, with the spread over the folds."""
    others = [name for name in sweep.chosen.trial.scores if name != sweep.metric]
    head = ["layers", "pooling", "head", "settings", sweep.metric, "+-", *others, "seconds"]
    rows = [head]
    for candidate in sweep.candidates[:_SHOWN]:
        trial = candidate.trial
        figures = [f"{trial.mean(sweep.metric):.4f}", f"{trial.std(sweep.metric):.4f}"]
        figures += [f"{trial.mean(name):.4f}" for name in others]
        rows.append(
            [
                candidate.layers,
                candidate.pooling,
                trial.spec.clf,
                candidate.params,
                *figures,
                f"{trial.seconds:.1f}",
            ]
        )
    more = len(sweep.candidates) - _SHOWN
    lines = [
        f"{sweep.folds}-fold cross-validation on train ({sweep.rows:,} {sweep.unit}, {_DEALT[sweep.unit]}, "
        f"seed {sweep.seed}); mean, and standard deviation over the folds",
        "",
        *aligned(rows, left=frozenset({0, 1, 2, 3})),
    ]
    if more > 0:
        lines.append(f"and {more:,} more candidates")
    if len(sweep.candidates) > 1:
        lines += ["", _why(sweep)]
    return "\n".join(lines) + "\n"


def _why(sweep: Sweep) -> str:
    """Say why the first is taken."""
    if sweep.chosen is sweep.best:
        return "The first is taken. Being the best of many, it will do a little worse on new texts."
    highest = sweep.best.trial
    return (
        f"The first is taken: {_RULE} ({highest.mean(sweep.metric):.4f}, the second line). What is unusual has to "
        "earn its place."
    )


def write_sweep(folder: Path, sweep: Sweep) -> None:
    """Write `search.csv` and `search.png` to `report/` of an artifact.

    Parameters
    ----------
    folder : Path
        Exists.
    sweep : Sweep
    """
    target = folder / "report"
    target.mkdir(exist_ok=True)
    metrics = list(sweep.chosen.trial.scores)
    with (target / "search.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        figures = [f"{_key(metric)}_{what}" for metric in metrics for what in ("mean", "std")]
        folds = [f"{_key(sweep.metric)}_fold_{number}" for number in range(1, sweep.folds + 1)]
        writer.writerow(["rank", "layers", "pooling", "clf", "params", *figures, *folds, "seconds"])
        for rank, candidate in enumerate(sweep.candidates, start=1):
            trial = candidate.trial
            means = [round(f(metric), 6) for metric in metrics for f in (trial.mean, trial.std)]
            scores = [round(score, 6) for score in trial.scores[sweep.metric]]
            view = [candidate.layers, candidate.pooling, trial.spec.clf, candidate.params]
            writer.writerow([rank, *view, *means, *scores, round(trial.seconds, 3)])
    points = [_point(candidate, sweep.metric) for candidate in sweep.candidates]
    title = f"{sweep.folds}-fold cross-validation on {sweep.rows:,} {sweep.unit} of train"
    save_png(sweep_figure(points, title=title, metric=sweep.metric, winner=points[0]), target / "search.png")


def _point(candidate: Candidate, metric: str) -> SweepPoint:
    trial = candidate.trial
    return SweepPoint(
        layer=candidate.layers,
        pooling=candidate.pooling,
        clf=trial.spec.clf,
        params=candidate.settled,
        mean=trial.mean(metric),
        std=trial.std(metric),
    )
