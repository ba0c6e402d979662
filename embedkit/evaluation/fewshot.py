"""Few-shot tuning from splits to a judged classifier, as `fewshot` and the comparison run it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray

from embedkit.data import LabelCodec, Split
from embedkit.data.shots import Shots, draw_shots
from embedkit.encoders import EncoderSettings, FeatureExtractor
from embedkit.errors import DataError, UsageError
from embedkit.estimators.frozen import FrozenClassifier
from embedkit.estimators.start import base_said
from embedkit.estimators.tuned_encoder import write_encoder
from embedkit.evaluation.frozen import FrozenRun, judge_frozen, targets_of, train_frozen, write_run
from embedkit.evaluation.judged import TRAIN, TUNING, Judged, fingerprints_of, shown_split
from embedkit.heads import Decision, Head, HeadSpec
from embedkit.metrics import mean_interval, paired_difference
from embedkit.runtime.tokens import Text
from embedkit.training.contrast import (
    ContrastSettings,
    TunedEncoder,
    check_contrast,
    check_tunable,
    tune_encoder,
)
from embedkit.training.loop import Place
from embedkit.training.pairs import PairCounts
from embedkit.training.reference import SetFitSettings, check_setfit, tune_setfit
from embedkit.training.sequence import Labelled

Tuner: TypeAlias = Literal["embedkit", "setfit", "none"]
TUNERS: tuple[Tuner, ...] = get_args(Tuner)
Opener: TypeAlias = Callable[[EncoderSettings], FeatureExtractor]
_OWN_HEAD = "setfit"  # what head_settings say of a head that setfit has fitted


@dataclass(frozen=True)
class Plan:
    """What a few-shot run is told.

    Attributes
    ----------
    shots : int
        Rows of each class.
    spec : HeadSpec, optional
        The head; None, for the tuner setfit alone, is setfit's own.
    seed : int
        Of the sample and of tuning.
    tuner : {"embedkit", "setfit", "none"}
        None is the frozen encoder with the head on the same sample.
    contrast : ContrastSettings
        For embedkit; its seed is left aside for `seed`.
    setfit : SetFitSettings
        For setfit, likewise.
    decision : Decision
        Calibration and thresholds.
    declared : sequence of str, optional
        The labels in their order, where the data say it.
    positive : str, optional
        The label, as printed, of the binary figures.
    threads : int, optional
        Of the head's linear algebra.

    Raises
    ------
    UsageError
        There is no head to fit.
    """

    shots: int
    spec: HeadSpec | None
    seed: int
    tuner: Tuner = "embedkit"
    contrast: ContrastSettings = field(default_factory=ContrastSettings)
    setfit: SetFitSettings = field(default_factory=SetFitSettings)
    decision: Decision = field(default_factory=Decision)
    declared: Sequence[str] | None = None
    positive: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.tuner not in TUNERS:
            raise UsageError(f"tuner is {self.tuner!r}; allowed: {', '.join(TUNERS)}")
        if self.spec is None and self.tuner != "setfit":
            raise UsageError("a head is needed; only setfit has its own")

    @property
    def tuning(self) -> ContrastSettings:
        """How embedkit tunes."""
        return replace(self.contrast, training=replace(self.contrast.training, seed=self.seed))

    def with_seed(self, seed: int) -> Plan:
        """Return the same for another sample."""
        return replace(self, seed=seed)

    def said(self) -> dict[str, Any]:
        """Return how is tuned, as JSON."""
        if self.tuner == "none":
            return {"tuner": "none"}
        if self.tuner == "setfit":
            return {"tuner": "setfit", "settings": asdict(replace(self.setfit, seed=self.seed))}
        return {"tuner": "embedkit", "settings": self.contrast.to_json()}


@dataclass(eq=False)
class FewShotRun:
    """A classifier that learnt from few rows, judged, with the frozen encoder beside it.

    Attributes
    ----------
    run : FrozenRun
        The head on the tuned encoder; its ``tune`` seconds are those of tuning.
    frozen : FrozenRun or None
        The same head on the encoder as it was; None where nothing was tuned.
    sample : Shots
    counts : PairCounts
        What tuning has seen.
    notes : list of str
        What the user should be told.
    """

    run: FrozenRun
    frozen: FrozenRun | None
    sample: Shots
    counts: PairCounts = field(default_factory=PairCounts)
    notes: list[str] = field(default_factory=list)

    @property
    def comparison(self) -> dict[str, Any] | None:
        """The paired difference between tuned and frozen on the split of the report; None where there is none."""
        ours, theirs = shown_split(self.run.judged), shown_split(self.frozen.judged if self.frozen else {})
        if not isinstance(ours, Judged) or not isinstance(theirs, Judged):
            return None
        one, other = ours.judgement, theirs.judgement
        metric = "subset_accuracy" if one.multi_label else "accuracy"
        compared = paired_difference(one.true, one.predicted, other.predicted, len(one.names), metric)
        return {"split": ours.split.name, **compared}

    def right(self, frozen: bool = False) -> NDArray[np.bool_] | None:
        """Return which rows of the report's split are answered right, (n,); by the frozen encoder on demand."""
        run = self.frozen if frozen else self.run
        entry = shown_split(run.judged) if run is not None else None
        if not isinstance(entry, Judged):
            return None
        true, predicted = entry.judgement.true, entry.judgement.predicted
        right: NDArray[np.bool_] = np.equal(true, predicted).reshape(len(true), -1).all(axis=1)
        return right


@dataclass(frozen=True)
class Verdict:
    """Whether tuning helps, as far as the judged rows show.

    Attributes
    ----------
    helps : bool or None
        Whether the interval of the difference lies above 0; None where nothing was judged.
    text : str
    """

    helps: bool | None
    text: str


# ---------------------------------------------------------------------------------------------------- run


def check_tuner(plan: Plan, train: Split) -> None:
    """Refuse, before a model is opened or adapted, what the tuner cannot do.

    Parameters
    ----------
    plan : Plan
    train : Split

    Raises
    ------
    UsageError, MissingExtraError
        Of `check_contrast` or `check_setfit`.
    """
    if plan.tuner == "embedkit":
        check_contrast(plan.tuning)
    elif plan.tuner == "setfit":
        check_setfit(cast("Sequence[Text]", train.inputs))


def few_shot(
    splits: Mapping[str, Split],
    base: FeatureExtractor,
    plan: Plan,
    folder: Path,
    opener: Opener,
    *,
    more: Split | None = None,
    began: Mapping[str, Any] | None = None,
    place: Place | None = None,
    say: Callable[[str], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> FewShotRun:
    """Draw a sample of train, tune, fit a head and judge it; the same with the frozen encoder.

    Parameters
    ----------
    splits : mapping of str to Split
        Checked by `embedkit.evaluation.frozen.check_training`. Nothing of train but the sample is used.
    base : FeatureExtractor
        The encoder to tune.
    plan : Plan
    folder : Path
        Where the tuned encoder is written; exists and is empty.
    opener : callable
        Opens the tuned encoder.
    more : Split, optional
        Rows that the heads are fitted on instead of the sample.
    began : mapping, optional
        What the manifest says of the encoder that all began from. Default: that of `base`.
    place : Place, optional
        Where checkpoints of tuning are kept.
    say : callable, optional
        Given lines on the sample, and on the pairs before they are learnt from.
    progress : callable, optional
        Told of each finished step of tuning.

    Raises
    ------
    UsageError, DataError, ModelError, TrainingError, MissingExtraError
        Of `draw_shots`, `train_frozen`, and `tune_encoder` or `tune_setfit`; or `more` is of another kind.
    """
    say = say or (lambda line: None)
    check_tuner(plan, splits[TRAIN])  # and not when the frozen encoder has read all
    if plan.tuner != "none":
        check_tunable(base)
    sample = draw_shots(splits[TRAIN], plan.shots, seed=plan.seed)
    for note in sample.notes:
        say(f"note: {note}")
    learnt, read = more or sample.split, [splits[TRAIN].fingerprint()]
    if more is not None:
        _check_kind(splits[TRAIN].kind, more)
        read.append(more.fingerprint())
    head_splits = {**splits, TRAIN: learnt}

    def fit(extractor: FeatureExtractor) -> FrozenRun:
        return train_frozen(
            head_splits,
            extractor,
            plan.spec or HeadSpec(seed=plan.seed),
            decision=plan.decision,
            codec=LabelCodec.fit(learnt.labels or [], plan.declared),
            positive=plan.positive,
            trained_on=read,
            threads=plan.threads,
        )

    frozen = fit(base)
    if plan.tuner == "none":
        _say_more(frozen, {"few_shot": {**plan.said(), **sample.to_json()}})
        return FewShotRun(frozen, None, sample, notes=list(frozen.notes))
    codec = LabelCodec.fit(sample.split.labels or [], plan.declared)
    data = Labelled(cast("Sequence[Text]", sample.split.inputs), targets_of(sample.split, codec))
    begun = time.perf_counter()
    tuned, head = _tuned(base, data, plan, place, say, progress)
    extractor = opener(write_encoder(folder, tuned))
    tuning = time.perf_counter() - begun
    if head is None:
        run = fit(extractor)
    else:
        about = {**frozen.classifier.about, "head_settings": {"clf": _OWN_HEAD}, "rows": None}
        classifier = FrozenClassifier(extractor, head, codec, sample.split.kind, about)
        run = judge_frozen(head_splits, classifier, positive=plan.positive)
    run.seconds |= {"tune": tuned.seconds, "total": run.seconds["total"] + tuning}
    said = {**plan.said(), **sample.to_json(), "counts": asdict(tuned.counts)}
    said |= {"precision": tuned.precision, "learning_rate": tuned.rate}
    _say_more(run, {"base": began or base_said(base.folder), "few_shot": said})
    return FewShotRun(run, frozen, sample, tuned.counts, [*tuned.notes, *run.notes])


def _tuned(
    base: FeatureExtractor,
    data: Labelled,
    plan: Plan,
    place: Place | None,
    say: Callable[[str], None],
    progress: Callable[[int], None] | None,
) -> tuple[TunedEncoder, Head | None]:
    """Return the tuned encoder, and the head where the tuner's own is wanted."""
    if plan.tuner == "embedkit":
        return tune_encoder(base, data, plan.tuning, place=place, say=say, progress=progress), None
    found = tune_setfit(base, data, replace(plan.setfit, seed=plan.seed), say=say)
    return found.encoder, found.head if plan.spec is None else None


def _say_more(run: FrozenRun, said: Mapping[str, Any]) -> None:
    """Let the manifest say more of the training."""
    run.classifier = replace(run.classifier, about={**run.classifier.about, **said})


# --------------------------------------------------------------------------------------------- the verdict


def verdict(run: FewShotRun) -> Verdict:
    """Say whether tuning helps on the rows that were judged."""
    compared = run.comparison
    if compared is None:
        return Verdict(None, "nothing was judged, so it is not known whether tuning helps")
    low, high = compared["ci95"]
    figures = f"{compared['metric'].replace('_', ' ')} {compared['first']:.3f} beside {compared['second']:.3f}"
    said = f"{figures} on {compared['split']} (difference {_interval(compared['difference'], (low, high))})"
    return _verdict(said, low, high)


def _verdict(said: str, low: float, high: float) -> Verdict:
    if low > 0:
        return Verdict(True, f"tuning helps: {said}")
    how = "makes it worse" if high < 0 else "is not shown to help"
    return Verdict(False, f"tuning {how}: {said}; take the frozen encoder, which --tuner none gives")


def _interval(difference: float, interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{difference:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}"


@dataclass(eq=False)
class Repeated:
    """The same over several samples.

    Attributes
    ----------
    runs : list of dict
        Of each sample: ``seed``, ``accuracy``, ``frozen`` (its accuracy) and ``difference``, where there are some,
        and ``tune``, the seconds of tuning.
    scores : dict of str to list of ndarray of float64, shape (n,)
        Of the same three figures, what each judged row counts for in each sample.
    """

    runs: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[str, list[NDArray[np.float64]]] = field(default_factory=dict)

    def add(self, run: FewShotRun) -> dict[str, Any]:
        """Keep what is compared of a run; return its figures."""
        known = {"accuracy": run.right(), "frozen": run.right(frozen=True)}
        scores = {name: right.astype(np.float64) for name, right in known.items() if right is not None}
        if len(scores) == len(known):
            scores["difference"] = scores["accuracy"] - scores["frozen"]
        for name, each in scores.items():
            self.scores.setdefault(name, []).append(each)
        entry: dict[str, Any] = {"seed": run.sample.seed, "rows": run.sample.split.rows.tolist()}
        entry |= {**dict.fromkeys(known), **{name: float(each.mean()) for name, each in scores.items()}}
        self.runs.append({**entry, "tune": run.run.seconds["tune"]})
        return self.runs[-1]

    def summary(self) -> dict[str, Any]:
        """Return mean, standard deviation over samples and interval over samples and judged rows, as JSON."""
        found: dict[str, Any] = {}
        for name, each in self.scores.items():
            of_rows = np.mean(each, axis=0)
            shared = float(of_rows.var(ddof=1)) / len(of_rows) if len(of_rows) > 1 else 0.0
            mean, deviation, interval = mean_interval([scores.mean() for scores in each], shared=shared)
            found[name] = {"mean": mean, "sd": deviation, "ci95": None if interval is None else list(interval)}
        return {"samples": len(self.runs), **found, "runs": self.runs}

    def verdict(self) -> Verdict:
        """Say whether tuning helps over all samples."""
        summary = self.summary()
        difference = summary.get("difference")
        if difference is None or difference["ci95"] is None:
            return Verdict(None, "nothing was compared, so it is not known whether tuning helps")
        low, high = difference["ci95"]
        figures = f"accuracy {summary['accuracy']['mean']:.3f} beside {summary['frozen']['mean']:.3f}"
        said = f"{figures} in the mean of {len(self.runs)} samples"
        return _verdict(f"{said} (difference {_interval(difference['mean'], (low, high))})", low, high)


# ------------------------------------------------------------------------------------------ the head again


def refit(
    splits: Mapping[str, Split], earlier: FrozenClassifier, plan: Plan, extractor: FeatureExtractor
) -> FrozenRun:
    """Fit and judge only the head again, on all rows of train; the tuned encoder stays as it is.

    Parameters
    ----------
    splits : mapping of str to Split
        Checked by `embedkit.evaluation.frozen.check_training`.
    earlier : FrozenClassifier
        Of a few-shot run.
    plan : Plan
        The head and how it is fitted.
    extractor : FeatureExtractor
        On the encoder that `copy_encoder` has copied.

    Raises
    ------
    DataError
        Inputs are of another kind than those that the encoder was tuned on.
    """
    train = splits[TRAIN]
    _check_kind(earlier.kind, train)
    before, read = fingerprints_of(earlier.about), train.fingerprint()
    run = train_frozen(
        splits,
        extractor,
        plan.spec or HeadSpec(seed=plan.seed),
        decision=plan.decision,
        codec=LabelCodec.fit(train.labels or [], plan.declared),
        positive=plan.positive,
        trained_on=[*before, read],
        threads=plan.threads,
    )
    if read not in before and run.judged:
        run.notes.append(
            "the encoder was tuned on rows of other data; where they are among those judged, figures flatter it"
        )
    _say_more(run, {name: earlier.about[name] for name in TUNING if name in earlier.about})
    return run


def _check_kind(kind: str, rows: Split) -> None:
    """Refuse to fit a head on inputs of another kind than the encoder is tuned on."""
    if rows.kind != kind:
        raise DataError(
            f"the encoder is tuned on {kind}s, and {rows.source} holds {rows.kind}s; name rows of the same kind"
        )


def write_few_shot(
    folder: Path, run: FewShotRun, settings: Mapping[str, Any], repeated: Repeated | None = None
) -> None:
    """Write figures, report, head and manifest beside the tuned encoder; call it last.

    Parameters
    ----------
    folder : Path
        Of `embedkit.artifact.staged`, which `few_shot` has written the encoder to.
    run : FewShotRun
    settings : mapping
        What the run was told, beside the encoder's settings.
    repeated : Repeated, optional
        Where there were several samples, of which `run` is the first.
    """
    beside: dict[str, Any] = {"comparison": run.comparison, "counts": asdict(run.counts)}
    if run.frozen is not None:
        judged = run.frozen.judged.items()
        beside["frozen"] = {"splits": {name: entry.metrics for name, entry in judged}}
    if repeated is not None:
        beside["samples"] = repeated.summary()
    write_run(folder, run.run, settings, beside)
