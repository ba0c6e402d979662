"""Frozen vectors of words to a judged tagger, as `fit-head` runs it on words with tags."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from embedkit.data import LabelCodec, Split, groups_of, stratified_folds
from embedkit.encoders import EncoderSettings, Extraction, WordExtractor, WordFeatures
from embedkit.estimators.frozen import head_settings
from embedkit.estimators.frozen_tagger import FrozenTagger, answers_of, check_tag_heads, learnable
from embedkit.estimators.tagging import Tagged, tag_inputs, told_of_tags
from embedkit.evaluation.judged import TRAIN
from embedkit.evaluation.sweep import FOLDS, Sweep, compare, unions
from embedkit.evaluation.tagged import TagJudged, tag_judged
from embedkit.heads import Head, HeadSpec, fit_head
from embedkit.heads.base import Floats
from embedkit.heads.grid import Fold
from embedkit.metrics.scores import check_tag_metric, scores_of, tag_metrics
from embedkit.metrics.spans import entity_scores
from embedkit.runtime.entities import has_spans
from embedkit.runtime.tagging import Aggregation
from embedkit.runtime.texts import chunks_of
from embedkit.runtime.tokens import Words

WordOpener = Callable[[EncoderSettings], WordExtractor]


@dataclass(eq=False)
class TaggerRun:
    """A trained tagger, judged.

    Attributes
    ----------
    classifier : FrozenTagger
    judged : dict of str to TagJudged
        Every labelled split but train.
    extraction : Extraction
        Over all splits; its rows are sentences.
    seconds : dict of str to float
        Wall time of ``load``, ``extract``, ``tune`` (0: no weights moved), ``fit``, ``evaluate``, ``total``.
    notes : list of str
        What the user should be told.
    sweep : Sweep, optional
        The cross-validation that came before.
    """

    classifier: FrozenTagger
    judged: dict[str, TagJudged] = field(default_factory=dict)
    extraction: Extraction = field(default_factory=Extraction)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    sweep: Sweep | None = None
    truncated: ClassVar[float] = 0.0  # long sentences are read in windows


def check_tagger_plan(
    codec: LabelCodec, specs: Sequence[HeadSpec], metric: str | None = None, task: str = "auto"
) -> str:
    """Refuse heads and metrics that cannot be, before anything is encoded; return the metric to choose by.

    Raises
    ------
    UsageError
        A head gives no probabilities, which tags of a sentence are decided by; a class weight names an unknown
        tag; or there is no such metric.
    """
    check_tag_heads(specs, codec)
    return check_tag_metric(metric, spans=has_spans(codec.names, task))


def train_frozen_tagger(
    splits: Mapping[str, Split],
    extractor: WordExtractor,
    spec: HeadSpec,
    *,
    codec: LabelCodec | None = None,
    task: str = "auto",
    trained_on: str | None = None,
    threads: int | None = None,
) -> TaggerRun:
    """Fit a head on the words of ``train`` alone and judge it on each other labelled split, once.

    Words of which the tokenizer makes nothing have no part in the fit.

    Parameters
    ----------
    splits : mapping of str to Split
        Of `embedkit.data.schemes.with_iob2`.
    extractor : WordExtractor
    spec : HeadSpec
    codec : LabelCodec, optional
        Of all tags of train. Default: learnt from them.
    task : str, default "auto"
        What tags stand for, as `embedkit.runtime.entities.has_spans` takes it.
    trained_on : str, optional
        Fingerprint of the train split as it was read. Default: that of train.
    threads : int, optional
        Of the head's linear algebra.

    Raises
    ------
    DataError
        Train has words of one tag alone.
    UsageError
        As of `check_tagger_plan`.
    """
    start = time.perf_counter()
    train = splits[TRAIN]
    codec = codec or LabelCodec.fit(train.labels or [])
    check_tagger_plan(codec, [spec])
    features = _features(extractor, train)
    total = features.extraction
    fitting = time.perf_counter()
    vectors, codes = learnable(features, cast("list[list[str]]", train.labels or []), codec)
    del features
    fitted = fit_head(spec, vectors, codes, len(codec), names=codec.names, threads=threads)
    fitted.head.state()  # one that has no form without pickle is refused before it is judged
    del vectors
    fit_seconds = time.perf_counter() - fitting
    about = {**_about(spec, splits, trained_on, scaled=fitted.scaled), **told_of_tags(task)}
    run = TaggerRun(FrozenTagger(extractor, fitted.head, codec, about))
    evaluate_seconds = 0.0
    for name, split in splits.items():
        if name != TRAIN and split.labels is not None and len(split):
            found = _features(extractor, split)
            total += found.extraction
            before = time.perf_counter()
            run.judged[name] = tag_judged(split, _Known(extractor, fitted.head, codec, about, found))
            evaluate_seconds += time.perf_counter() - before
    run.extraction = total
    run.notes = [*extractor.remarks(total), *fitted.notes]
    run.seconds = {
        "load": total.load_seconds,
        "extract": total.seconds - total.load_seconds,
        "tune": 0.0,
        "fit": fit_seconds,
        "evaluate": evaluate_seconds,
        "total": time.perf_counter() - start,
    }
    return run


@dataclass(frozen=True, eq=False)
class _Known(FrozenTagger):
    """A tagger of one split, of which the vectors are known."""

    features: WordFeatures

    def predict(
        self,
        inputs: Sequence[str | Words],
        *,
        rows: NDArray[np.int64] | None = None,
        aggregation: Aggregation = "first",
    ) -> Tagged:
        return tag_inputs(inputs, rows, lambda *_: self.answer(self.features), spans=self.spans)


def _features(extractor: WordExtractor, split: Split) -> WordFeatures:
    return extractor.transform(_sentences(split), rows=split.rows)


def _sentences(split: Split) -> list[list[str]]:
    return cast("list[list[str]]", split.inputs)


def _flat(split: Split) -> list[str]:
    """Return the tags of all words, one sentence after another."""
    return list(chain.from_iterable(cast("list[list[str]]", split.labels or [])))


def _about(spec: HeadSpec, splits: Mapping[str, Split], trained_on: str | None, *, scaled: bool) -> dict[str, Any]:
    data = {name: {"rows": len(split), "fingerprint": split.fingerprint()} for name, split in splits.items()}
    if trained_on is not None:
        data[TRAIN]["fingerprint"] = trained_on
    return {"head_settings": {**head_settings(spec), "scaled": scaled}, "data": data, "seed": spec.seed}


# --- the choice by cross-validation --------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _WordScorer:
    """Scores a head on the words of some sentences, decoded as the tagger will.

    Attributes
    ----------
    codes : ndarray of int64, shape (W,)
        Of the words' true tags.
    read : ndarray of bool, shape (W,)
        False for words of which the tokenizer makes nothing.
    sentence : ndarray of int64, shape (W,)
        Of each word.
    names : tuple of str
    spans : bool
        Whether they stand for spans of words.
    """

    codes: NDArray[np.int64]
    read: NDArray[np.bool_]
    sentence: NDArray[np.int64]
    names: tuple[str, ...]
    spans: bool

    def __call__(self, head: Head, vectors: Floats, rows: NDArray[np.int64]) -> Mapping[str, float]:
        begins = np.flatnonzero(np.append(True, np.diff(self.sentence[rows]) != 0))
        counts = np.diff(np.append(begins, len(rows)))
        answers = answers_of(head, vectors, self.read[rows], counts, self.names, spans=self.spans)
        true = self.codes[rows]
        if self.spans:
            tags = np.array(self.names, object)[true]
            scores = entity_scores(
                [part.tolist() for part in np.split(tags, begins[1:])],
                cast("list[list[str | None]]", answers.tags),
            )
        else:
            place: dict[Any, int] = {name: code for code, name in enumerate(self.names)}
            unread = len(self.names)  # equals no tag
            given = np.array([place.get(tag, unread) for tag in chain.from_iterable(answers.tags)], np.int64)
            scores = scores_of(true, given, unread + 1)
        return {metric: scores[metric] for metric in tag_metrics(spans=self.spans)}


def sweep_words(
    train: Split,
    codec: LabelCodec,
    views: Sequence[EncoderSettings],
    specs: Sequence[HeadSpec],
    opener: WordOpener,
    *,
    task: str = "auto",
    metric: str | None = None,
    folds: int = FOLDS,
    seed: int = 42,
    jobs: int | None = None,
    progress: Callable[[int], None] | None = None,
    judged: Callable[[int], None] | None = None,
) -> Sweep:
    """Judge every head on every view of the words by the same folds of train's sentences.

    One forward pass fills all views that the store lacks. Equal sentences stay in one fold.

    Parameters
    ----------
    train : Split
        Lists of words with tags.
    codec : LabelCodec
        Of the tags.
    views, specs, folds, seed, jobs, progress, judged
        As for `embedkit.evaluation.sweep.run_sweep`.
    opener : callable
        Gives the extractor of a view; all of them share one store.
    task : str, default "auto"
        What tags stand for, as `embedkit.runtime.entities.has_spans` takes it.
    metric : str, optional
        One of `embedkit.metrics.scores.tag_metrics`. Default: F1 of entities; accuracy where each tag is of one
        word.

    Raises
    ------
    DataError
        There are fewer distinct sentences than folds.
    UsageError
        As of `check_tagger_plan`.
    """
    sweep = Sweep(check_tagger_plan(codec, specs, metric, task), folds, seed, len(train), unit="sentences")
    sentences, codes = _sentences(train), codec.encode(_flat(train))
    parts = stratified_folds(None, groups_of(sentences), folds, seed)
    extractors = [opener(view) for view in views]
    read = np.empty(0, bool)
    for extractor in unions(extractors, opener):
        extractor.progress = progress
        known = [np.empty(0, bool)]
        for part in chunks_of(sentences):  # all views at once may be more than the memory holds
            found = extractor.transform(sentences[part], rows=train.rows[part])
            sweep.extraction += found.extraction
            known.append(~found.empty)
        read = np.concatenate(known)
    counts = np.fromiter(map(len, sentences), np.int64, len(sentences))
    sentence = np.repeat(np.arange(len(sentences)), counts)
    scorer = _WordScorer(codes, read, sentence, codec.names, has_spans(codec.names, task))
    compare(
        sweep,
        extractors,
        specs,
        (extractor.transform(sentences).vectors for extractor in extractors),
        codes,
        [_fold_of_words(part, sentence, read) for part in parts],
        codec.names,
        jobs=jobs,
        judged=judged,
        scorer=scorer,
    )
    return sweep


def _fold_of_words(part: Fold, sentence: NDArray[np.int64], read: NDArray[np.bool_]) -> Fold:
    """Return which words are learnt and which are judged; what was not read is not learnt."""
    train, test = part
    return np.flatnonzero(np.isin(sentence, train) & read), np.flatnonzero(np.isin(sentence, test))
