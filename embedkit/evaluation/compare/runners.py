"""One method on one sample: trained, judged on the same rows as all others, ready to be kept or to answer."""

from __future__ import annotations

import gc
import json
import shutil
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from embedkit.data import LabelCodec, Split
from embedkit.data.splits import has_label_sets
from embedkit.encoders import EncoderSettings, Extraction, FeatureExtractor, WordExtractor
from embedkit.errors import DataError, require
from embedkit.estimators.frozen import Predictions
from embedkit.estimators.start import Start, open_start
from embedkit.estimators.tagging import OfTags, Reading, Tagged, told_of_tags
from embedkit.evaluation.compare.methods import (
    TFIDF_STEPS,
    CountedWords,
    encoder_of,
    model_of,
    numbers_of,
    spec_of,
    tuning_of,
    words_of,
)
from embedkit.evaluation.compare.result import Method
from embedkit.evaluation.frozen import FrozenRun, targets_of, train_frozen
from embedkit.evaluation.frozen_tagger import TaggerRun, train_frozen_tagger
from embedkit.evaluation.judged import TRAIN, Entry, judged
from embedkit.evaluation.tagged import tag_judged
from embedkit.runtime.tagging import Aggregation
from embedkit.runtime.tokens import Words

if TYPE_CHECKING:
    from embedkit.evaluation.fewshot import Plan as FewShotPlan

_PROBED = 64  # texts on which the speed of an encoder is measured
# What each kind of method computes with: imported before its time and its memory are measured.
_BASE = ("sklearn.feature_extraction.text", "sklearn.linear_model", "sklearn.multiclass")
_TRAINED = (*_BASE, "torch", "transformers", "accelerate")
_MODULES: Mapping[str, tuple[str, ...]] = {
    "majority": _BASE,
    "tfidf": _BASE,
    "frozen": (*_BASE, "torch", "transformers", "embedkit.encoders.torch_encoder"),
    "fewshot": (*_TRAINED, "embedkit.encoders.torch_encoder", "embedkit.training.contrast"),
    "setfit": (*_TRAINED, "embedkit.encoders.torch_encoder", "embedkit.training.contrast", "setfit"),
    "finetune": (*_TRAINED, "embedkit.training.loop", "embedkit.training.sequence", "embedkit.training.words"),
}


@dataclass(frozen=True, eq=False)
class Ran:
    """A method that was trained on a sample and judged.

    Attributes
    ----------
    entry : Judged or TagJudged
    train_seconds : float
        As `embedkit.evaluation.compare.result.Cell` has it.
    computed : int or None
        Texts that were encoded anew.
    encoding_mb : float or None
        Memory that the encoding of its texts takes, whether or not they were encoded anew.
    notes : list of str
    save : callable, optional
        Writes the artifact into a folder of `embedkit.artifact.staged`.
    answer : callable, optional
        Of methods without an artifact: answers inputs as when serving.
    size : int
        Of these: bytes of what is kept.
    """

    entry: Entry
    train_seconds: float
    computed: int | None = None
    encoding_mb: float | None = None
    notes: list[str] = field(default_factory=list)
    save: Callable[[Path], None] | None = None
    answer: Callable[[Sequence[Any]], object] | None = None
    size: int = 0


@dataclass(frozen=True, eq=False)
class Sample:
    """What is learnt from and judged on.

    Attributes
    ----------
    train : Split
        All of it, of which few-shot tuning draws the same rows as `rows`.
    rows : Split
        The sample.
    shots : int
        Rows a class; of all of train those of its largest class.
    seed : int
    judged : Split
    codec : LabelCodec
        Of the labels of train; of tags those of the sample.
    task : str
        What tags stand for.
    """

    train: Split
    rows: Split
    shots: int
    seed: int
    judged: Split
    codec: LabelCodec
    task: str = "auto"

    @property
    def splits(self) -> dict[str, Split]:
        """The two splits, by name."""
        return {TRAIN: self.rows, self.judged.name: self.judged}


@dataclass(eq=False)
class Workshop:
    """What all methods share: the usual encoder, and what opens encoders.

    Attributes
    ----------
    usual : EncoderSettings
    opener : callable
        Opens an encoder of texts; all of them share one store.
    word_opener : callable
        Of words.
    scratch : Path
        A folder for what is not kept.
    """

    usual: EncoderSettings
    opener: Callable[[EncoderSettings], FeatureExtractor]
    word_opener: Callable[[EncoderSettings], WordExtractor]
    scratch: Path
    _opened: dict[EncoderSettings, FeatureExtractor | WordExtractor] = field(default_factory=dict)
    _starts: dict[tuple[str, bool], Start] = field(default_factory=dict)
    _digests: set[str] = field(default_factory=set)
    _probes: dict[EncoderSettings, Probe] = field(default_factory=dict)

    def extractor(self, method: Method, kind: str) -> FeatureExtractor | WordExtractor:
        """Return the encoder of a method, opened once."""
        settings = encoder_of(method, self.usual) if method.kind == "frozen" else self._plain(method)
        if settings not in self._opened:
            opener = self.word_opener if kind == "tokens" else self.opener
            self._opened[settings] = opener(settings)
            self._digests.update(self._opened[settings].weights)
        return self._opened[settings]

    def _plain(self, method: Method) -> EncoderSettings:
        return encoder_of(Method(method.name, method.kind, _only(method, "model"), ""), self.usual)

    def start(self, method: Method, kind: str) -> Start:
        """Return what fine-tuning begins from, opened once."""
        model, words = model_of(method, cast("str", self.usual.model)), kind == "tokens"
        if (str(model), words) not in self._starts:
            revision = None if "model" in method.options else self.usual.revision
            told: dict[str, Any] = {"max_length": self.usual.max_length, "side": self.usual.side, "words": words}
            self._starts[str(model), words] = open_start(model, revision=revision, **told)
        return self._starts[str(model), words]

    def depends_on(self, method: Method, kind: str) -> Any:  # noqa: ANN401 - JSON values
        """Return what a method's answers depend on beside its options and rows, for the names of cells."""
        if method.kind == "majority":
            return "labels of train"
        if method.kind == "tfidf":
            return None
        if method.kind == "finetune":
            return self.start(method, kind).identity()
        return self.extractor(method, kind).space(kind)

    def weights(self) -> list[str]:
        """Return the digests of the weights of all encoders that were opened."""
        return sorted(self._digests.union(*(start.digests() for start in self._starts.values())))

    def tidy(self) -> None:
        """Remove what cells have left behind."""
        for left in self.scratch.iterdir():
            shutil.rmtree(left, ignore_errors=True)

    def to_encode(self, method: Method, *splits: Split) -> int:
        """Return how many texts of splits a frozen encoder would have to read: those that the store lacks."""
        inputs: list[Any] = [given for split in splits for given in split.inputs]
        return self.extractor(method, splits[0].kind).missing(inputs)

    def seconds_a_text(self, method: Method, train: Split) -> float:
        """Return how long the encoder of a method takes for a row of train."""
        return self.probe(method, train).seconds

    def probe(self, method: Method, train: Split) -> Probe:
        """Return what the encoder of a method takes for a row of train, measured once on a few of them."""
        extractor = self.extractor(method, train.kind)
        if extractor.settings not in self._probes:
            _import("frozen")  # their memory is not the encoder's
            places = np.random.default_rng(0).permutation(len(train))[:_PROBED]
            inputs = cast("Any", train.take(np.sort(places)).inputs)
            memory = Memory.begin()
            bare = type(extractor)(extractor.settings)
            bare.transform(inputs[:8])  # opens the model
            before = time.perf_counter()
            bare.transform(inputs)
            self._probes[extractor.settings] = Probe(
                (time.perf_counter() - before) / len(inputs), memory.added_mb()
            )
        return self._probes[extractor.settings]

    def ready(self, method: Method, train: Split) -> None:
        """Do what is no part of a cell: import what the method uses, close earlier encoders, probe its own."""
        _import(method.kind)
        self._opened.clear()
        if method.kind in ("frozen", "fewshot"):
            self.probe(method, train)

    def run(self, method: Method, sample: Sample) -> Ran:
        """Train and judge a method.

        Raises
        ------
        EmbedkitError
            Whatever the method has to say.
        """
        runners: Mapping[str, Callable[[Method, Sample], Ran]] = {
            "majority": self._majority,
            "tfidf": self._tfidf,
            "frozen": self._frozen,
            "fewshot": self._few_shot,
            "setfit": self._few_shot,
            "finetune": self._finetune,
        }
        return runners[method.kind](method, sample)

    # ------------------------------------------------------------------------------------------ baselines

    def _majority(self, method: Method, sample: Sample) -> Ran:
        begun = time.perf_counter()
        if sample.rows.kind == "tokens":
            tags = Counter(chain.from_iterable(cast("list[list[str]]", sample.train.labels)))
            tagger = _OneTag(sample.codec, sample.task, max(sample.codec.names, key=lambda tag: tags[tag]))
            seconds = time.perf_counter() - begun
            return Ran(tag_judged(sample.judged, tagger), seconds, answer=tagger.predict)
        targets = targets_of(sample.train, sample.codec)  # in a sample labels are equally frequent
        codes, counts = np.unique(targets, axis=0, return_counts=True)
        usual = codes[int(counts.argmax())]
        seconds = time.perf_counter() - begun
        shares = None if targets.ndim == 2 else counts / counts.sum()

        def answer(inputs: Sequence[Any]) -> Predictions:
            repeated = np.repeat(usual[None], len(inputs), axis=0)
            table = None
            if shares is not None:
                table = np.zeros((len(inputs), len(sample.codec)))
                table[:, codes] = shares
            return Predictions(repeated, table, None, Extraction())

        return self._plainly(sample, answer, seconds, 0, [])

    def _tfidf(self, method: Method, sample: Sample) -> Ran:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.multiclass import OneVsRestClassifier

        told = words_of(method)
        begun = time.perf_counter()
        counter = _counter(told, pairs=sample.rows.kind == "pair")
        try:
            rows = counter.fit_transform(sample.rows.inputs)
        except ValueError as error:
            if "empty vocabulary" not in str(error):
                raise
            raise DataError(
                f"{sample.rows.source}: no text holds what TF-IDF counts ({told.analyzer} n-grams of "
                f"{told.ngrams[0]} to {told.ngrams[1]}; a word has two letters or more); see tfidf:analyzer=char"
            ) from None
        targets = targets_of(sample.rows, sample.codec)
        several = targets.ndim == 2
        if several:  # and one that no row has: of a single label scikit-learn would make two, yes and no
            targets = np.column_stack([targets, np.zeros(len(targets), targets.dtype)])
        model: Any = LogisticRegression(C=told.c, max_iter=TFIDF_STEPS, random_state=sample.seed)
        model = OneVsRestClassifier(model) if several else model
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(rows, targets.astype(np.int64))
        seconds = time.perf_counter() - begun
        unfinished = any(issubclass(one.category, ConvergenceWarning) for one in caught)
        notes = [f"logistic regression did not converge in {TFIDF_STEPS:,} steps"] if unfinished else []

        def answer(inputs: Sequence[Any]) -> Predictions:
            found = np.asarray(model.predict_proba(counter.transform(inputs)))
            if several:
                return Predictions(found[:, :-1] > 0.5, found[:, :-1], None, Extraction())
            wide = np.zeros((len(inputs), len(sample.codec)))
            wide[:, model.classes_] = found
            return Predictions(wide.argmax(axis=1), wide, None, Extraction())

        return self._plainly(sample, answer, seconds, _bytes_of(counter, model), notes)

    def _plainly(
        self,
        sample: Sample,
        answer: Callable[[Sequence[Any]], Predictions],
        seconds: float,
        size: int,
        notes: list[str],
    ) -> Ran:
        classifier = _Plain(sample.codec, has_label_sets(sample.rows.labels))
        entry = judged(sample.judged, answer(cast("Sequence[Any]", sample.judged.inputs)), classifier)
        return Ran(entry, seconds, notes=notes, answer=answer, size=size)

    # ------------------------------------------------------------------------------------ frozen encoders

    def _frozen(self, method: Method, sample: Sample) -> Ran:
        extractor, spec = self.extractor(method, sample.rows.kind), spec_of(method, sample.seed)
        run: FrozenRun | TaggerRun
        told: dict[str, Any] = {"codec": sample.codec, "threads": self.usual.threads}
        if isinstance(extractor, WordExtractor):
            run = train_frozen_tagger(sample.splits, extractor, spec, task=sample.task, **told)
        else:
            run = train_frozen(sample.splits, extractor, spec, **told)
        entry, probe = run.judged[sample.judged.name], self.probe(method, sample.train)
        seconds, computed = run.seconds["fit"] + probe.seconds * len(sample.rows), run.extraction.computed
        return Ran(entry, seconds, computed, probe.mb, list(run.notes), run.classifier.save)

    # ------------------------------------------------------------------------------------------- few shots

    def _few_shot(self, method: Method, sample: Sample) -> Ran:
        for module in ("torch", "transformers", "accelerate", "sentence_transformers"):
            require(module, extra="train", purpose="few-shot tuning")
        if method.kind == "setfit":
            require("setfit", extra="setfit", purpose="the method setfit")
        from embedkit.evaluation.fewshot import few_shot

        base = cast("FeatureExtractor", self.extractor(method, sample.rows.kind))
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        splits = {TRAIN: sample.train, sample.judged.name: sample.judged}
        plan = self._few_shot_plan(method, sample)
        found = few_shot(splits, base, plan, folder, FeatureExtractor)  # no store: nobody asks for these again
        run = found.run

        def save(target: Path) -> None:
            run.classifier.save(folder)
            for part in folder.iterdir():
                shutil.move(part, target / part.name)

        seconds = run.seconds["tune"]  # of setfit with its head
        if method.kind == "fewshot":
            seconds += run.seconds["fit"] + self.seconds_a_text(method, sample.train) * len(sample.rows)
        entry, notes, drawn = run.judged[sample.judged.name], list(found.notes), len(found.sample.split)
        if drawn < len(sample.rows):  # of all of train, which other methods take as it is
            notes.append(
                f"learnt from {drawn:,} of these rows: equal texts count once, those of several labels not"
            )
        return Ran(entry, seconds, run.extraction.computed, None, notes, save)

    def _few_shot_plan(self, method: Method, sample: Sample) -> FewShotPlan:
        from embedkit.evaluation.fewshot import Plan
        from embedkit.training.contrast import ContrastSettings, usual_training
        from embedkit.training.pairs import PairSettings
        from embedkit.training.reference import SetFitSettings

        options, threads = method.options, self.usual.threads
        plan: dict[str, Any] = {"shots": sample.shots, "seed": sample.seed, "threads": threads}
        # Answers are codes in this order; what sees the sample alone would sort its labels.
        plan["declared"] = sample.codec.classes
        told = numbers_of(method, "iterations", "epochs", "batch-size", "learning-rate")
        if method.kind == "setfit":
            return Plan(**plan, spec=None, tuner="setfit", setfit=SetFitSettings(**told, threads=threads))
        training = replace(usual_training(), **told, device=self.usual.device, threads=threads)
        pairs: dict[str, Any] = {name: options[name] for name in ("strategy",) if name in options}
        pairs["iterations"] = numbers_of(method, "pair-iterations").get("pair_iterations")
        loss: dict[str, Any] = {name: options[name] for name in ("loss",) if name in options}
        contrast = ContrastSettings(PairSettings(**pairs), **loss, training=training)
        return Plan(**plan, spec=spec_of(method, sample.seed), contrast=contrast)

    # ----------------------------------------------------------------------------------------- fine-tuning

    def _finetune(self, method: Method, sample: Sample) -> Ran:
        for module in ("torch", "transformers", "accelerate"):
            require(module, extra="train", purpose="fine-tuning")
        from embedkit.evaluation.finetuned import finetune

        start = self.start(method, sample.rows.kind)
        told: dict[str, Any] = {"device": self.usual.device, "threads": self.usual.threads}
        settings = tuning_of(method, len(sample.rows), seed=sample.seed, blocks=start.folder.layers, **told)
        run = finetune(sample.splits, start, settings, codec=sample.codec, task=sample.task)

        def save(folder: Path) -> None:
            cast("Any", run.classifier).save(folder, run.base)

        return Ran(run.judged[sample.judged.name], run.seconds["tune"], None, None, list(run.notes), save)


def _import(kind: str) -> None:
    """Import what a kind of method computes with."""
    for name in _MODULES[kind]:
        with suppress(ImportError):  # the method will say what is missing
            import_module(name)


@dataclass(frozen=True)
class _Plain:
    """What judging asks of a classifier that is no artifact."""

    codec: LabelCodec
    multi_label: bool
    thresholds: None = None

    @cached_property
    def about(self) -> dict[str, Any]:
        return {}


class _OneTag(OfTags):
    """Gives all words one tag."""

    def __init__(self, codec: LabelCodec, task: str, tag: str) -> None:
        self.codec, self._tag = codec, tag
        self.about = told_of_tags(task)

    def predict(
        self,
        inputs: Sequence[str | Words],
        *,
        rows: NDArray[np.int64] | None = None,
        aggregation: Aggregation = "first",
    ) -> Tagged:
        """Tag lists of words."""
        words = [list(given) for given in inputs]
        tags: list[list[Any]] = [[self._tag] * len(some) for some in words]
        scores: list[list[float | None]] = [[1.0] * len(some) for some in words]
        return Tagged(words, tags, scores, None, Reading(len(words)))

    def remarks(self, rows: int, truncated: int, empty: int) -> list[str]:
        """Say nothing."""
        return []


def _only(method: Method, *names: str) -> dict[str, str]:
    return {name: value for name, value in method.options.items() if name in names}


def _counter(told: CountedWords, *, pairs: bool) -> Any:  # noqa: ANN401 - of scikit-learn
    """Return what makes TF-IDF of texts; of pairs each side has columns of its own."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.preprocessing import FunctionTransformer

    sides = [
        TfidfVectorizer(ngram_range=told.ngrams, analyzer=told.analyzer, sublinear_tf=True)
        for _ in range(1 + pairs)
    ]
    if not pairs:
        return sides[0]
    picks = [FunctionTransformer(_side, kw_args={"place": place}, feature_names_out=None) for place in (0, 1)]
    return make_union(*(make_pipeline(pick, side) for pick, side in zip(picks, sides, strict=True)))


def _bytes_of(counter: Any, model: Any) -> int:  # noqa: ANN401 - of scikit-learn
    """Return what TF-IDF and its head take on disk: n-grams as JSON, frequencies and coefficients as they are."""
    counters = [counter] if hasattr(counter, "vocabulary_") else [side[-1] for _, side in counter.transformer_list]
    grams = (json.dumps(sorted(some.vocabulary_), ensure_ascii=False) for some in counters)
    heads = getattr(model, "estimators_", [model])
    arrays = [some.idf_ for some in counters]
    arrays += [getattr(head, name) for head in heads for name in ("coef_", "intercept_") if hasattr(head, name)]
    sizes = [*(len(text.encode("utf-8", "surrogatepass")) for text in grams), *(int(a.nbytes) for a in arrays)]
    return sum(sizes)


def _side(pairs: Sequence[tuple[str, str]], place: int) -> list[str]:
    return [pair[place] for pair in pairs]


# ------------------------------------------------------------------------------------------- peak memory


@dataclass(frozen=True)
class Probe:
    """What an encoder takes.

    Attributes
    ----------
    seconds : float
        For one text.
    mb : float or None
        As of `Memory.added_mb`, the weights included.
    """

    seconds: float
    mb: float | None


@dataclass(frozen=True)
class Memory:
    """What a stretch of work adds to the resident memory of the process.

    Attributes
    ----------
    before : float or None
        Resident memory in MB (1e6 bytes) when it began; None where the system does not tell (Linux does).
    """

    before: float | None

    @classmethod
    def begin(cls) -> Memory:
        """Give back what nothing uses any more, and begin to measure anew."""
        import psutil

        gc.collect()
        with suppress(AttributeError):  # of the C libraries that can
            psutil.heap_trim()
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except OSError:
            return cls(None)
        return cls(_resident("VmRSS"))

    def added_mb(self) -> float | None:
        """Return by how much the largest resident memory since then lies above that of then, in MB."""
        highest = _resident("VmHWM")
        return None if self.before is None or highest is None else max(0.0, highest - self.before)


def _resident(name: str) -> float | None:
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024 / 1e6
    return None
