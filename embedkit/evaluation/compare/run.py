"""The comparison at work: every method at every size with every seed, cell by cell."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from embedkit.artifact import installed, staged
from embedkit.data import LabelCodec, Split
from embedkit.data.splits import has_label_sets
from embedkit.data.text import counted
from embedkit.encoders import EncoderSettings, FeatureExtractor, WordExtractor
from embedkit.errors import EmbedkitError, MissingExtraError
from embedkit.evaluation.compare.advice import METRICS, advise
from embedkit.evaluation.compare.budget import Estimates, Work, time_said
from embedkit.evaluation.compare.cells import Kept, Shelf, Truth, answers_of, cell_name, detail_of
from embedkit.evaluation.compare.methods import answers_by, recipe_of, why_not
from embedkit.evaluation.compare.plan import Plan
from embedkit.evaluation.compare.result import Cell, Comparison, Detail, Method, Served, Size, SizeAdvice
from embedkit.evaluation.compare.runners import Memory, Ran, Sample, Workshop
from embedkit.evaluation.compare.samples import beyond, draw, largest, size_of
from embedkit.evaluation.compare.serving import CHOICE_ROWS, serve, serve_plain
from embedkit.evaluation.compare.tally import differences_of, points_of, repeated_of
from embedkit.evaluation.judge import extended_codec
from embedkit.evaluation.judged import TRAIN
from embedkit.export.speed import processor

_VERSIONS = ("embedkit", "numpy", "scikit-learn", "tokenizers", "torch", "transformers", "onnxruntime",
             "sentence-transformers", "setfit")  # fmt: skip
_PLAIN = {"majority": "constant", "tfidf": "scikit-learn"}


@dataclass(frozen=True)
class _Task:
    """A cell that is to be there."""

    method: Method
    shots: int | None
    size: str
    seed: int


@dataclass(eq=False)
class Run:
    """A comparison at work.

    Attributes
    ----------
    plan : Plan
    shelf : Shelf
    workshop : Workshop
    say : callable
        Given a line on each cell.
    """

    plan: Plan
    shelf: Shelf
    workshop: Workshop
    say: Callable[[str], None]
    cells: dict[_Task, Cell] = field(default_factory=dict)
    kept: dict[_Task, Kept] = field(default_factory=dict)
    served: dict[str, list[Served]] = field(default_factory=dict)
    interrupted: bool = False
    _samples: dict[tuple[int | None, int], Split] = field(default_factory=dict)
    _notes: dict[tuple[int | None, int], list[str]] = field(default_factory=dict)
    _names: dict[_Task, str] = field(default_factory=dict)
    _unsaved: dict[_Task, str] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)
    _unfit: dict[tuple[str, str], dict[int, float]] = field(default_factory=dict)
    _begun: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.codec = LabelCodec.fit(self.plan.train.labels or [], self.plan.declared)
        self.judged = self.plan.judged
        self._fingerprints = (self.plan.train.fingerprint(), self.judged.fingerprint())
        self._truth = self._read_truth()  # labels that cannot be judged are said before anything is run
        self._estimates = Estimates(lambda method: self.workshop.seconds_a_text(method, self.plan.train))

    # --------------------------------------------------------------------------------------------- the cells

    def all(self) -> None:
        """Run what is not finished; an interrupt is noted, and what is finished stays.

        Raises
        ------
        KeyboardInterrupt
            Before it was known what is finished: what an earlier call has written is left as it is.
        """
        self._settle()
        try:
            for task in self._ordered():
                self._one(task)
            self._say_what_did_not_fit()
            self._serve_all()
        except KeyboardInterrupt:
            self.interrupted = True
            for method in self.plan.methods:
                done = self._largest(method)
                if done is not None:
                    self.served[method.name] = self._known(done) or []
        for task in self._tasks():
            if task not in self.cells:
                self.cells[task] = Cell(task.method.name, task.size, task.seed, "missing", "not run yet")

    def _tasks(self) -> list[_Task]:
        return [
            _Task(method, shots, _name(shots), seed)
            for method in self.plan.methods
            for shots in self.plan.shots
            for seed in self.plan.seeds
        ]

    def _settle(self) -> None:
        """Leave out what is not run, fail what cannot be, and take what is finished."""
        for task in self._tasks():
            self._settle_one(task)
        said: dict[tuple[str, str, str], dict[str, None]] = {}
        for task, cell in self.cells.items():
            if cell.status != "done":
                said.setdefault((cell.method, cell.status, cell.why), {})[task.size] = None
        for (method, status, why), sizes in said.items():
            self.say(f"{method}, {', '.join(sizes)}: {status}: {why}")
        if self.kept:
            self.say(f"{len(self.kept)} of {counted(len(self._tasks()), 'cell')} were finished before")

    def _settle_one(self, task: _Task) -> None:
        per_class = largest(self.plan.train) if task.shots is None else task.shots
        why = beyond(self.plan.train, task.shots) or why_not(task.method, self.judged.kind, per_class)
        if why:
            self._leave(task, "skipped", why)
            return
        try:
            name = self._name_of(task)
        except Exception as error:  # of a sample, of an encoder, of a package that is missing
            self._leave(task, "skipped" if isinstance(error, MissingExtraError) else "failed", error_said(error))
            return
        kept = self.shelf.find(name, task.method.name)
        if kept is not None:
            self.cells[task], self.kept[task] = kept.cell, kept
            self._learn(task, kept)

    def _ordered(self) -> list[_Task]:
        """Return the cells that are to be run: each seed's from the quick ones to the slow ones.

        Where a budget may end before they do that is by their estimates, so that a slow cell of few rows does not
        take the time of a quick one of all rows.
        """
        left = [task for task in self._tasks() if task not in self.cells]
        places = {seed: place for place, seed in enumerate(self.plan.seeds)}
        order = {"majority": 0, "tfidf": 1, "frozen": 2, "fewshot": 3, "finetune": 4, "setfit": 5}
        return sorted(
            left,
            key=lambda task: (
                places[task.seed],
                self._estimate(task) or 0.0,
                len(self._sample(task)),
                order[task.method.kind],
            ),
        )

    def _one(self, task: _Task) -> None:
        estimate = self._estimate(task)
        if estimate is not None and self.plan.budget is not None:
            left = self._left() - self._reserved()
            if estimate > left:
                self._leave(task, "skipped", _too_long(estimate, left))
                self._unfit.setdefault((task.method.name, task.size), {})[task.seed] = estimate
                return
        begun, sample = time.perf_counter(), self._sample_of(task)
        try:
            self.workshop.ready(task.method, self.plan.train)
            memory = Memory.begin()
            ran = self.workshop.run(task.method, sample)
            peak = max((mb for mb in (memory.added_mb(), ran.encoding_mb) if mb is not None), default=None)
            kept = self._kept(task, ran, peak, time.perf_counter() - begun)
        except MissingExtraError as error:
            self._end(task, "skipped", str(error))
            return
        except (EmbedkitError, MemoryError) as error:
            self._end(task, "failed", str(error) or type(error).__name__)
            return
        except Exception as error:
            # Its message may quote a text.
            kind = type(error).__name__
            self._end(
                task, "failed", f"internal error ({kind}); fit-head, fewshot or finetune with --debug say more"
            )
            return
        self.cells[task], self.kept[task] = kept.cell, kept
        self.shelf.keep(self._names[task], kept)
        try:
            self._keep_model(task, ran)
        except Exception as error:  # the cell is done all the same; how it is served will not be known
            self._unsaved[task] = error_said(error)
        self._learn(task, kept)
        self.workshop.tidy()
        self.say(f"{_called(task)}: {self._figure(kept.cell)}, {time_said(kept.seconds)}")
        for note in kept.cell.notes:
            if note not in self._told:
                self._told.add(note)
                self.say(f"note: {note}")

    def _say_what_did_not_fit(self) -> None:
        """Name what the budget had no time for, a line for each method and size."""
        for (method, size), seeds in self._unfit.items():
            numbers = ", ".join(map(str, seeds))
            said = f"estimated {time_said(max(seeds.values()))}{' each' * (len(seeds) > 1)}"
            self.say(f"{method}, {size}, seed{'s' * (len(seeds) > 1)} {numbers}: skipped for the budget: {said}")

    def _kept(self, task: _Task, ran: Ran, peak: float | None, seconds: float) -> Kept:
        figures = ran.entry.metrics
        names = ("accuracy", "macro_f1", "f1", "subset_accuracy", "micro_f1", "precision", "recall")
        scores = {name: figures[name] for one in names for name in (one, f"{one}_ci95", f"{one}_ci95_method")
                  if name in figures}  # fmt: skip
        if "subset_accuracy" in scores:  # a row is right as a whole
            for end in ("", "_ci95", "_ci95_method"):
                if f"subset_accuracy{end}" in scores:
                    scores[f"accuracy{end}"] = scores.pop(f"subset_accuracy{end}")
        cell = Cell(
            task.method.name,
            task.size,
            task.seed,
            "done",
            rows=len(self._sample(task)),
            scores=scores,
            train_seconds=ran.train_seconds,
            peak_mb=peak,
            computed=ran.computed,
            notes=[*self._notes[task.shots, task.seed], *ran.notes],
        )
        served = []
        if ran.answer is not None:  # of every seed: another call may begin with another one
            told = (task.method.name, task.size, task.seed)
            how, threads = _PLAIN[task.method.kind], self.workshop.usual.threads
            served = serve_plain(ran.answer, self.judged, told, how, ran.size, threads=threads)
        detail = detail_of(ran.entry, task.method.name, task.size, task.seed)
        return Kept(cell, detail, answers_of(ran.entry), served, seconds, self._conditions())

    def _sample(self, task: _Task) -> Split:
        key = (task.shots, task.seed)
        if key not in self._samples:
            self._samples[key], self._notes[key] = draw(self.plan.train, *key)
        return self._samples[key]

    def _sample_of(self, task: _Task) -> Sample:
        rows = self._sample(task)
        codec = LabelCodec.fit(rows.labels or []) if rows.kind == "tokens" else self.codec
        shots = largest(self.plan.train) if task.shots is None else task.shots
        return Sample(self.plan.train, rows, shots, task.seed, self.judged, codec, self.plan.task)

    def _name_of(self, task: _Task) -> str:
        if task not in self._names:
            depends = {
                "on": self.workshop.depends_on(task.method, self.judged.kind),
                "data": [*self._fingerprints, self._sample(task).fingerprint()],
                "labels": list(self.codec.names),
                "task": self.plan.task,
            }
            self._names[task] = cell_name(answers_by(task.method), task.size, task.seed, depends)
        return self._names[task]

    def _end(self, task: _Task, status: Any, why: str) -> None:  # noqa: ANN401 - a Status
        self._leave(task, status, why)
        self.say(f"{_called(task)}: {status}: {why}")

    def _leave(self, task: _Task, status: Any, why: str) -> None:  # noqa: ANN401 - a Status
        self.cells[task] = Cell(task.method.name, task.size, task.seed, status, why)

    def _estimate(self, task: _Task) -> float | None:
        if self.plan.budget is None:
            return None
        try:
            frozen = task.method.kind == "frozen"
            texts = self.workshop.to_encode(task.method, self._sample(task), self.judged) if frozen else 0
            return self._estimates.of(task.method, self._work(task, texts))
        except Exception:  # the cell will say what is wrong
            return None

    def _work(self, task: _Task, texts: int) -> Work:
        return Work(len(self._sample(task)), len(self.judged), self._blocks(task), texts)

    def _left(self) -> float:
        """Return the seconds of the budget that are left."""
        return (self.plan.budget or 0.0) - (time.monotonic() - self._begun)

    def _reserved(self) -> float:
        """Return what of the budget is put aside to measure how methods are served: at most a third of it."""
        if not self.plan.served:
            return 0.0
        waiting = filter(self._to_serve, self.plan.methods)
        return min((self.plan.budget or 0.0) / 3, sum(map(self._serving, waiting)))

    def _to_serve(self, method: Method) -> bool:
        """Whether the model of a method's largest size is still to come, or to be measured."""
        every = [task for task in self._tasks() if task.method == method]
        done = self._largest(method)
        return any(task not in self.cells for task in every) or (done is not None and self._known(done) is None)

    def _serving(self, method: Method) -> float:
        try:
            return self._estimates.serving(method, self._choice_rows(), len(self.judged))
        except Exception:  # its cells say what is wrong
            return 0.0

    def _choice_rows(self) -> int:
        """Return how many rows int8 is chosen on."""
        choice = self._choice()
        return min(len(self.plan.train) // 10 if choice is None else len(choice), CHOICE_ROWS)

    def _choice(self) -> Split | None:
        """Return the split that int8 is chosen on; where there is none, that is a tenth of train."""
        return self.plan.splits.get("validation") if self.judged.name != "validation" else None

    def _learn(self, task: _Task, kept: Kept) -> None:
        if self.plan.budget is not None:
            self._estimates.learn(task.method, self._work(task, kept.cell.computed or 0), kept.seconds)

    def _blocks(self, task: _Task) -> int:
        if task.method.kind != "finetune":
            return 1
        return self.workshop.start(task.method, self.judged.kind).folder.layers

    def _figure(self, cell: Cell) -> str:
        name = self.plan.by
        return f"{METRICS[name]} {cell.scores[name]:.3f}"

    # ---------------------------------------------------------------------------------------------- serving

    def _keep_model(self, task: _Task, ran: Ran) -> None:
        """Keep the model of a method's largest size, until it is measured how it is served."""
        if ran.save is None or not self.plan.served or task != self._largest(task.method):
            return
        target = self._model(task)
        with staged(target, overwrite=True) as stage:
            ran.save(stage)
        for old in self.shelf.models.iterdir():
            other = [name for done, name in self._names.items() if done.method == task.method and name == old.name]
            if other and old != target:
                shutil.rmtree(old, ignore_errors=True)

    def _largest(self, method: Method) -> _Task | None:
        """Return the largest finished cell of a method, of such the one with the first seed."""
        done = [task for task in self._tasks() if task.method == method and task in self.kept]
        sizes = {shots: place for place, shots in enumerate(self.plan.shots)}
        return max(done, key=lambda task: sizes[task.shots], default=None)

    def _serve_all(self) -> None:
        for method in self.plan.methods:
            task = self._largest(method)
            if task is not None:
                self.served[method.name] = self._serve(task)

    def _known(self, task: _Task) -> list[Served] | None:
        """Return what was measured before of how a method is served."""
        if task.method.kind in _PLAIN:
            return self.kept[task].served
        found = self.shelf.find_served(self._names[task])
        return None if found is None else [replace(entry, method=task.method.name) for entry in found]

    def _serve(self, task: _Task) -> list[Served]:
        known = self._known(task)
        if known is not None:
            return known
        if not self.plan.served:
            return [_unserved(task, "not asked for (--no-serve)")]
        try:
            why = self._why_unserved(task)
            found = [_unserved(task, why)] if why else self._timed(task)
        except Exception as error:  # a cell stands on its own; the next call tries again
            found = [_unserved(task, error_said(error))]
        self.say(f"{_called(task)}: {_served_said(found)}")
        return found

    def _why_unserved(self, task: _Task) -> str:
        if task in self._unsaved:
            return f"its model could not be kept: {self._unsaved[task]}"
        if self.plan.budget is None:
            return ""
        again = 0.0 if self._model(task).exists() else self.kept[task].seconds
        estimate, left = self._serving(task.method) + again, self._left()
        return "" if estimate <= left else _too_long(estimate, left)

    def _model(self, task: _Task) -> Path:
        return self.shelf.models / self._names[task]

    def _timed(self, task: _Task) -> list[Served]:
        """Measure how a model is served; where it is gone (of a call that did not ask for it) train once more."""
        name, folder = self._names[task], self._model(task)
        if not folder.exists():
            self._keep_model(task, self.workshop.run(task.method, self._sample_of(task)))
            self.workshop.tidy()
        splits = {TRAIN: self.plan.train, "test": self.judged}
        if (choice := self._choice()) is not None:
            splits["validation"] = choice
        told = (task.method.name, task.size, task.seed)
        begun = time.perf_counter()
        found = serve(folder, splits, *told, threads=self.workshop.usual.threads)
        if self.plan.budget is not None:
            spent = time.perf_counter() - begun
            self._estimates.learn_serving(task.method, self._choice_rows(), len(self.judged), spent)
        self.shelf.keep_served(name, found, self._conditions())
        shutil.rmtree(folder, ignore_errors=True)
        return found

    # ------------------------------------------------------------------------------------------ what follows

    def comparison(self, data: Mapping[str, Any], made: Mapping[str, Any]) -> Comparison:
        """Return what was found so far."""
        plan = self.plan
        tasks = self._tasks()
        sizes = self._sizes()
        kept = [self.kept[task] for task in tasks if task in self.kept]
        repeated = repeated_of(kept, self._truth, plan.by, resamples=plan.resamples)
        points = [] if repeated is None else points_of(kept, repeated, "f1" if plan.spans else "macro_f1")
        means = {(point.method, point.size): point.score for point in points}
        served = [
            _placed(entry, means.get((entry.method, entry.size)), plan.by)
            for found in self.served.values()
            for entry in found
        ]
        cells = [self.cells[task] for task in tasks]
        advice = None
        if repeated is not None:
            told: dict[str, Any] = {"metric": plan.by, "rows": len(self.judged), "margin": plan.margin}
            tokens = plan.train.kind == "tokens"
            advice = advise(points, repeated, sizes, served, cells, **told, cost=plan.cost, tokens=tokens)
            text = [*advice.text, *self._mixed(), *self._recipe(advice.sizes[-1])]
            advice = replace(advice, text=text)
        digests = {"train": self._fingerprints[0], "judged": self._fingerprints[1]}
        return Comparison(
            task=plan.train.kind,
            metric=plan.by,
            judged=self.judged.name,
            judged_rows=len(self.judged),
            labels=list(self._truth.names) or list(self.codec.names),
            seeds=list(plan.seeds),
            sizes=sizes,
            methods=list(plan.methods),
            cells=cells,
            points=points,
            differences=[] if repeated is None else differences_of(repeated, sizes),
            served=served,
            details=self._details(),
            advice=advice,
            data=dict(data),
            made={
                **made,
                **self._conditions(),
                "digests": {**digests, "model": self.workshop.weights()},
                "model": str(plan.usual.model),
                "budget_seconds": plan.budget,
            },
            interrupted=self.interrupted,
        )

    def _conditions(self) -> dict[str, Any]:
        """Return what times depend on, and scores may."""
        return {
            "versions": installed(_VERSIONS),
            "machine": processor(),
            "threads": self.plan.usual.threads,
            "device": self.plan.usual.device,
            "python": sys.version.split()[0],
        }

    def _mixed(self) -> list[str]:
        """Say what differs between the conditions of finished cells, or from those that the report tells."""
        timed = [self.shelf.find_timed(self._names[task]) for task in self.kept]
        every = [*(kept.made for kept in self.kept.values()), *(found[1] for found in timed if found is not None)]
        now = self._conditions()
        seen = [now, *(made for made in every if made)]
        apart = [name for name in now if len({json.dumps(made.get(name), sort_keys=True) for made in seen}) > 1]
        if not apart:
            return []
        return [
            f"Not all runs were made alike, and as this report says ({', '.join(apart)} differ), so compare their "
            "times with care."
        ]

    def _recipe(self, told: SizeAdvice) -> list[str]:
        """Say how the model that is advised at the largest size is made, where there is a way."""
        advised = (told.pick, told.size)
        task = next(
            task for task in self._tasks() if task in self.kept and (task.method.name, task.size) == advised
        )
        shots = largest(self.plan.train) if task.shots is None else task.shots
        if task.shots is not None and task.method.kind not in ("fewshot", "setfit"):
            return []  # no command draws so many rows
        sizes = {"rows": len(self._sample(task)), "shots": shots, "blocks": self._blocks(task), "seed": task.seed}
        sets = has_label_sets(self.plan.train.labels)
        recipe = recipe_of(task.method, str(self.plan.usual.model), kind=self.judged.kind, sets=sets, **sizes)
        where = " (and the options of DATA and of the encoder that were given here)"
        return [f"To have it: {recipe}{where * recipe.startswith('embedkit')}."] if recipe else []

    def _sizes(self) -> list[Size]:
        found = []
        for shots in self.plan.shots:
            try:
                key = (shots, self.plan.seeds[0])
                sample = self._samples[key] if key in self._samples else draw(self.plan.train, *key)[0]
            except EmbedkitError:
                continue
            found.append(size_of(self.plan.train, sample, shots))
        return found

    def _read_truth(self) -> Truth:
        labels: Sequence[Any] = self.judged.labels or []
        if self.judged.kind == "tokens":
            return Truth(labels, (), spans=self.plan.spans)
        codec = extended_codec(self.codec, labels)
        several = has_label_sets(self.plan.train.labels)
        return Truth(labels, codec.names, codec.encode_sets(labels) if several else codec.encode(labels))

    def _details(self) -> list[Detail]:
        largest_ones = [self._largest(method) for method in self.plan.methods]
        return [self.kept[task].detail for task in largest_ones if task is not None]


def run_comparison(
    plan: Plan,
    folder: Path,
    data: Mapping[str, Any],
    made: Mapping[str, Any],
    *,
    opener: Callable[[EncoderSettings], FeatureExtractor],
    word_opener: Callable[[EncoderSettings], WordExtractor],
    overwrite: bool = False,
    say: Callable[[str], None] | None = None,
) -> Comparison:
    """Run what is not finished yet of a comparison, and return what was found.

    An interrupt (Ctrl-C) ends the run, not the result: what is finished is in it, and stays for the next call.

    Parameters
    ----------
    plan : Plan
    folder : Path
        Where finished cells are kept. A comparison on the same data that is there is gone on with.
    data, made : mapping
        For the fields of `Comparison`.
    opener, word_opener : callable
        Open encoders, with the store that they keep features in.
    overwrite : bool, default False
        Begin anew.
    say : callable, optional
        Given a line on each cell.

    Raises
    ------
    KeyboardInterrupt
        An interrupt came before it was known what is finished.
    OutputExistsError
        The folder holds something else.
    UsageError
        It holds a comparison on other data, or the plan cannot be.
    DataError
        There is nothing to judge on.
    """
    known = {"train": plan.train.fingerprint(), "judged": plan.judged.fingerprint()}
    shelf = Shelf.open(folder, known, overwrite=overwrite)
    with tempfile.TemporaryDirectory(prefix="embedkit-") as scratch:
        workshop = Workshop(plan.usual, opener, word_opener, Path(scratch))
        run = Run(plan, shelf, workshop, say or (lambda line: None))
        run.all()
        return run.comparison(data, made)


def _name(shots: int | None) -> str:
    return "full" if shots is None else str(shots)


def _called(task: _Task) -> str:
    return f"{task.method.name}, {task.size}, seed {task.seed}"


def _served_said(found: Sequence[Served]) -> str:
    return "; ".join(
        f"{entry.how} {entry.latency_ms:.1f} ms" if entry.latency_ms is not None else f"{entry.how}: {entry.why}"
        for entry in found
    )


def _placed(entry: Served, score: float | None, metric: str) -> Served:
    """Return it with its score: the mean of its size, and what int8 changes of it in the same metric."""
    if score is None or entry.latency_ms is None or entry.metric not in (None, metric):
        return entry
    return replace(entry, score=score + (entry.score_change or 0.0))


def _unserved(task: _Task, why: str) -> Served:
    return Served(task.method.name, task.size, task.seed, "onnx float32", why=why)


def _too_long(estimate: float, left: float) -> str:
    return f"estimated {time_said(estimate)}, and {time_said(max(left, 0))} of the budget are left"


def error_said(error: Exception) -> str:
    """Say what went wrong; of what is no error of ours its kind alone, because its message may quote a text."""
    return str(error) if isinstance(error, EmbedkitError) else f"internal error ({type(error).__name__})"
