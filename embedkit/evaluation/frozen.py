"""The frozen path from splits to a judged classifier, as `fit-head`, `demo` and the comparison run it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from embedkit.data import LabelCodec, Split, check_splits, require_classes
from embedkit.data.splits import groups_of, has_label_sets
from embedkit.encoders import Extraction, FeatureExtractor, Features
from embedkit.errors import DataError
from embedkit.estimators.frozen import FrozenClassifier, head_settings, settings_in
from embedkit.estimators.rows import Rows
from embedkit.evaluation.frozen_tagger import TaggerRun
from embedkit.evaluation.judged import TRAIN, Judged, believed, check_positive, judged, shown_split
from embedkit.evaluation.report import write_metrics
from embedkit.evaluation.sweep import Sweep, write_sweep
from embedkit.heads import Decided, Decision, HeadSpec, check_class_names, fit_decided
from embedkit.runtime.tokens import Text


@dataclass(eq=False)
class FrozenRun:
    """A trained classifier, judged.

    Attributes
    ----------
    classifier : FrozenClassifier
    judged : dict of str to Judged
        Every labelled split but train.
    extraction : Extraction
        Over all splits.
    seconds : dict of str to float
        Wall time of ``load``, ``extract``, ``tune`` (0: no weights moved), ``fit``, ``evaluate``, ``total``.
    notes : list of str
        What the user should be told.
    sweep : Sweep, optional
        The cross-validation that came before.
    """

    classifier: FrozenClassifier
    judged: dict[str, Judged] = field(default_factory=dict)
    extraction: Extraction = field(default_factory=Extraction)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    sweep: Sweep | None = None

    @property
    def truncated(self) -> float:
        """Share of the texts that lost tokens."""
        return self.extraction.truncated / max(1, self.extraction.rows)


def check_training(splits: Mapping[str, Split], *, adding: bool = False) -> list[str]:
    """Check splits before any model is opened; return what is worth saying.

    Parameters
    ----------
    splits : mapping of str to Split
    adding : bool, default False
        Whether train is added to the rows of an earlier fit; then rows of one class will do.

    Raises
    ------
    DataError
        There is no labelled train split of two classes, or only some splits have several labels a row.
    """
    train = splits.get(TRAIN)
    if train is None:
        raise DataError(f"there is no train split; there is {', '.join(splits) or 'nothing'}")
    if train.labels is None:
        column = "--tags-column" if train.kind == "tokens" else "--label-column"
        raise DataError(f"{train.source}: training needs labels; name their column with {column}")
    several = train.kind != "tokens" and has_label_sets(train.labels)
    if not adding and not (several and any(train.labels) and not all(train.labels)):
        require_classes(train.labels, train.source)  # one label will do where some rows have it and some have none
    for split in splits.values():
        if train.kind == "tokens" or split.labels is None or not len(split):
            continue
        if has_label_sets(split.labels) != several:
            kinds = ("one label a row", "several labels a row")
            raise DataError(
                f"{train.source} has {kinds[several]}, {split.source} {kinds[not several]}; write both in one way"
            )
    return check_splits(splits)


def train_frozen(
    splits: Mapping[str, Split],
    extractor: FeatureExtractor,
    spec: HeadSpec,
    *,
    decision: Decision | None = None,
    codec: LabelCodec | None = None,
    positive: str | None = None,
    earlier: Rows | None = None,
    trained_on: Sequence[str] = (),
    threads: int | None = None,
) -> FrozenRun:
    """Fit a head on ``train`` alone and judge it on each other labelled split, once.

    Parameters
    ----------
    splits : mapping of str to Split
        Checked by `check_training`.
    extractor : FeatureExtractor
    spec : HeadSpec
    decision : Decision, optional
        Calibration and thresholds; learnt on ``validation`` where there is one, else on train out of fold.
    codec : LabelCodec, optional
        Of all labels of train. Default: learnt from them.
    positive : str, optional
        The label, as printed, of the binary figures.
    earlier : Rows, optional
        Rows of an earlier fit, which train is added to.
    trained_on : sequence of str, optional
        Fingerprints of the train splits as they were read, those of earlier fits first: by these `split_to_judge`
        knows them. Default: that of train, from which no row was left out.
    threads : int, optional
        Of the head's linear algebra.
    """
    start = time.perf_counter()
    train = splits[TRAIN]
    codec = codec or LabelCodec.fit(train.labels or [])
    decision = check_plan(train, codec, [spec], decision or Decision(), positive)
    features = {name: _features(extractor, split) for name, split in splits.items() if split.labels is not None}
    total = Extraction()
    for part in features.values():
        total += part.extraction
    rows = Rows.of(extractor, train, targets_of(train, codec))
    vectors, groups = features[TRAIN].vectors, groups_of(train.inputs)
    if earlier is not None:
        rows = earlier.joined(rows)
        vectors = np.concatenate([extractor.recall(earlier.keys), vectors])
        groups = groups_of(key.tobytes() for key in rows.keys)
    validation = _validation(splits, features, codec) if decision.needed else None
    how: dict[str, Any] = {"groups": groups, "validation": validation, "threads": threads}
    fitting = time.perf_counter()
    decided = fit_decided(spec, decision, vectors, rows.targets, codec.names, **how)
    decided.fitted.head.state()  # one that has no form without pickle is refused before it is judged
    judging = time.perf_counter()
    about = _about(spec, decision, decided, splits)
    about["data"][TRAIN] |= _origin(earlier, trained_on)
    classifier = FrozenClassifier(extractor, decided.fitted.head, codec, train.kind, about, decided.thresholds)
    run = FrozenRun(classifier, extraction=total, notes=[*extractor.remarks(total), *decided.fitted.notes])
    about["rows"] = rows.keep(extractor)
    for name in features:
        if name != TRAIN and len(splits[name]):
            run.judged[name] = _judged_with(decided, splits[name], features[name], classifier, positive)
    if decided.tuned_on in run.judged:
        run.notes.append(
            f"{decided.tuned_on}: what decides was tuned on these rows, so figures on them flatter it"
        )
    run.seconds = {
        "load": total.load_seconds,
        "extract": total.seconds - total.load_seconds,
        "tune": 0.0,
        "fit": judging - fitting,
        "evaluate": time.perf_counter() - judging,
        "total": time.perf_counter() - start,
    }
    return run


def judge_frozen(
    splits: Mapping[str, Split], classifier: FrozenClassifier, *, positive: str | None = None
) -> FrozenRun:
    """Judge a classifier whose head was fitted elsewhere on each labelled split but train, once.

    Parameters
    ----------
    splits : mapping of str to Split
    classifier : FrozenClassifier
    positive : str, optional
        The label, as printed, of the binary figures.
    """
    start, total = time.perf_counter(), Extraction()
    check_positive(positive, classifier.codec)
    run = FrozenRun(classifier, extraction=total)
    for name, split in splits.items():
        if name == TRAIN or split.labels is None or not len(split):
            continue
        features = _features(classifier.extractor, split)
        total += features.extraction
        answers = classifier.answer(features.vectors, features.extraction)
        run.judged[name] = judged(split, answers, classifier, positive=positive)
    run.notes += classifier.extractor.remarks(total)
    done = time.perf_counter() - start
    loading, extracting = total.load_seconds, total.seconds - total.load_seconds
    run.seconds = {"load": loading, "extract": extracting, "tune": 0.0, "fit": 0.0}
    run.seconds |= {"evaluate": done - total.seconds, "total": done}
    return run


def _judged_with(
    decided: Decided, split: Split, features: Features, classifier: FrozenClassifier, positive: str | None
) -> Judged:
    """Judge a split, and say what calibration changed."""
    predictions = classifier.answer(features.vectors, features.extraction)
    entry = judged(split, predictions, classifier, positive=positive)
    figures, before = entry.judgement.metrics, decided.before
    if "calibration" in figures and before.has_probabilities:
        probabilities = before.predict_proba(features.vectors)
        figures["calibration"] = {"before": believed(entry.judgement, probabilities), **figures["calibration"]}
    return entry


def check_plan(
    train: Split, codec: LabelCodec, specs: Sequence[HeadSpec], decision: Decision, positive: str | None
) -> Decision:
    """Refuse labels and thresholds that cannot be, before anything is encoded; return the decision whole."""
    check_positive(positive, codec)
    for spec in specs:
        check_class_names(spec.class_weight, codec.names)
    decision = replace(decision, positive=None if positive is None else codec.names.index(positive))
    decision.check(len(codec), multi_label=has_label_sets(train.labels))
    return decision


def targets_of(split: Split, codec: LabelCodec) -> NDArray[Any]:
    """Return the codes of a labelled split, int64 (n,), or which labels each row has, bool (n, C)."""
    labels: Sequence[Any] = split.labels or []
    return codec.encode_sets(labels) if has_label_sets(labels) else codec.encode(labels)


def _validation(
    splits: Mapping[str, Split], features: Mapping[str, Features], codec: LabelCodec
) -> tuple[NDArray[np.float32], NDArray[Any]] | None:
    """Return features and targets of the validation rows whose labels training knows; None without any."""
    split = splits.get("validation")
    if split is None or split.labels is None or not len(split):
        return None
    if has_label_sets(split.labels):
        sets = cast("list[list[Any]]", split.labels)
        return features["validation"].vectors, codec.encode_sets(sets, unknown="mark")
    codes = codec.encode(split.labels, unknown="mark")
    known = codes >= 0
    return (features["validation"].vectors[known], codes[known]) if known.any() else None


def _features(extractor: FeatureExtractor, split: Split) -> Features:
    return extractor.transform(cast("Sequence[Text]", split.inputs), rows=split.rows)


def _about(spec: HeadSpec, decision: Decision, decided: Decided, splits: Mapping[str, Split]) -> dict[str, Any]:
    settings = {
        **head_settings(spec),
        "scaled": decided.fitted.scaled,
        "calibrate": decision.calibrate,
        "thresholds": decision.thresholds,
        "tuned_on": decided.tuned_on,
    }
    data = {name: {"rows": len(split), "fingerprint": split.fingerprint()} for name, split in splits.items()}
    return {"head_settings": settings, "data": data, "seed": spec.seed}


def _origin(earlier: Rows | None, trained_on: Sequence[str]) -> dict[str, Any]:
    """Return what a manifest says of where rows of train come from."""
    origin: dict[str, Any] = {} if earlier is None else {"earlier_rows": len(earlier)}
    if trained_on:
        *before, origin["fingerprint"] = trained_on
        origin |= {"earlier_fingerprints": before} if before else {}
    return origin


def write_run(
    folder: Path,
    run: FrozenRun | TaggerRun,
    settings: Mapping[str, Any],
    few_shot: Mapping[str, Any] | None = None,
) -> None:
    """Write metrics, report, head and manifest to a folder of `embedkit.artifact.staged`.

    Parameters
    ----------
    folder : Path
        Exists and is empty.
    run : FrozenRun or TaggerRun
    settings : mapping
        What the run was told, beside the encoder's settings.
    few_shot : mapping, optional
        As for `embedkit.evaluation.report.write_metrics`.
    """
    write_metrics(
        folder,
        splits={name: entry.metrics for name, entry in run.judged.items()},
        search=None if run.sweep is None else run.sweep.summary(),
        seconds=run.seconds,
        settings={**settings, "encoder": vars(settings_in(folder, run.classifier.extractor))},
        truncated=run.truncated,
        few_shot=few_shot,
    )
    shown = shown_split(run.judged)
    if shown is not None:
        shown.write(folder)
    if run.sweep is not None:
        write_sweep(folder, run.sweep)
    run.classifier.save(folder)
