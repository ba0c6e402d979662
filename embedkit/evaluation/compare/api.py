"""``embedkit.compare``: the comparison from data to files, as the command runs it too."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from inspect import signature
from pathlib import Path
from typing import Any

from embedkit.artifact import scrub
from embedkit.data import Columns, Dataset, Split, Task, describe, open_dataset
from embedkit.data.schemes import with_iob2
from embedkit.encoders import EncoderSettings, FeatureExtractor, WordExtractor
from embedkit.evaluation.compare.budget import parse_budget
from embedkit.evaluation.compare.files import write_files, write_page
from embedkit.evaluation.compare.methods import default_methods, encoder_of, parse_methods
from embedkit.evaluation.compare.plan import Plan
from embedkit.evaluation.compare.result import Comparison
from embedkit.evaluation.compare.run import error_said, run_comparison
from embedkit.evaluation.compare.samples import parse_shots, usual_shots
from embedkit.evaluation.frozen import check_training
from embedkit.evaluation.map import TextMap, called, map_of
from embedkit.metrics.choice import MARGIN, Cost
from embedkit.store import open_store

SEEDS = 3
BUDGET = "10m"
"""For the methods that are taken where none are named; those that are named have no limit."""


def compare(
    data: str | Path | Dataset,
    output: str | Path | None = None,
    *,
    methods: str | Sequence[str] | None = None,
    shots: str | None = None,
    seeds: int = SEEDS,
    seed: int = 42,
    budget: str | None = None,
    metric: str | None = None,
    margin: float = MARGIN,
    cost: Cost = "serve",
    served: bool = True,
    encoder: EncoderSettings | str = "minilm",
    columns: Columns | None = None,
    task: Task = "auto",
    store: str | Path | bool | None = None,
    texts: bool = True,
    overwrite: bool = False,
    say: Callable[[str], None] | None = None,
) -> Comparison:
    """Compare methods on the same rows: how good each is, how sure that is, what it costs, at how many labels.

    Finished cells are kept in the output, so that the same call goes on with a comparison that was cut, and one
    with more methods, sizes or seeds runs only those.

    Parameters
    ----------
    data : str, Path or Dataset
        As DATA of the command line.
    output : str or Path, optional
        Folder of the results. Default: nothing is written or kept.
    methods : str or sequence of str, optional
        Such as ``"tfidf,frozen:clf=ridge,finetune:freeze=4"``; see `embedkit.evaluation.compare.methods`. Default:
        what usually is worth a look, as far as the budget goes.
    shots : str, optional
        Rows a class (of words with tags sentences), such as ``"8,32,full"``. Default: 8, 32, 128 and full; of
        words 100, 1,000 and full; as far as there are so many.
    seeds : int, default 3
        How many samples of each size: seed, seed + 1 and so on.
    seed : int, default 42
    budget : str, optional
        Time for what is not finished, such as ``"10m"``; what does not fit is left out, and named. Default: 10
        minutes where no methods are named, else no limit.
    metric : {"accuracy", "macro_f1", "f1"}, optional
        What methods are compared by. Default: accuracy; macro F1 where rows have several labels, F1 of entities
        where words have tags.
    margin : float, default 0.01
        What the advised method may lose against the best.
    cost : {"serve", "train"}, default "serve"
        What cheap means: the time to answer one text, or to train.
    served : bool, default True
        Whether each method is exported and timed as it would be served.
    encoder : EncoderSettings or str, default "minilm"
        Of methods that name no other.
    columns, task
        As for `embedkit.data.open_dataset`.
    store : str, Path, bool or None
        Where features are kept, as for `embedkit.TextEncoder`.
    texts : bool, default True
        Whether the report shows texts: of the most confident errors, and on the map.
    overwrite : bool, default False
        Begin anew where a comparison is there.
    say : callable, optional
        Given a line on each cell as it is finished.

    Returns
    -------
    Comparison

    Raises
    ------
    KeyboardInterrupt
        It was interrupted; what is finished is kept and, with an output, written, unless it was not known yet.
    UsageError, DataError, OutputExistsError, InputMissingError
        As of `run_comparison`, and of reading the data.
    """
    told = say or (lambda line: None)
    found = compare_dataset(
        data if isinstance(data, Dataset) else open_dataset(data, columns=columns or Columns(), task=task),
        output,
        methods=methods,
        shots=shots,
        seeds=seeds,
        seed=seed,
        budget=budget,
        metric=metric,
        margin=margin,
        cost=cost,
        served=served,
        encoder=encoder if isinstance(encoder, EncoderSettings) else EncoderSettings(encoder),
        task=task,
        openers=_openers(store),
        texts=texts,
        overwrite=overwrite,
        say=told,
        command=_call(data, locals()),
    )
    if found.interrupted:
        raise KeyboardInterrupt
    return found


def _call(data: str | Path | Dataset, given: Mapping[str, Any]) -> str:
    """Return the call that makes a comparison again, from the arguments that are not as usual."""
    usual = {
        name: parameter.default
        for name, parameter in signature(compare).parameters.items()
        if name not in ("data", "output", "store", "overwrite", "say")
    }
    told = [f"{name}={given[name]!r}" for name, value in usual.items() if given[name] != value]
    return f"embedkit.compare({', '.join([repr(data.name if isinstance(data, Dataset) else str(data)), *told])})"


def _openers(
    store: str | Path | bool | None,
) -> tuple[Callable[..., FeatureExtractor], Callable[..., WordExtractor]]:
    kept = open_store(store)
    return (
        lambda settings: FeatureExtractor(settings, store=kept, keep_going=True),
        lambda settings: WordExtractor(settings, store=kept),
    )


def compare_dataset(
    dataset: Dataset,
    output: str | Path | None,
    *,
    methods: str | Sequence[str] | None,
    shots: str | None,
    seeds: int,
    seed: int,
    budget: str | None,
    metric: str | None,
    margin: float,
    cost: Cost,
    served: bool,
    encoder: EncoderSettings,
    task: Task,
    openers: tuple[Callable[..., FeatureExtractor], Callable[..., WordExtractor]],
    texts: bool,
    overwrite: bool,
    say: Callable[[str], None],
    command: str,
) -> Comparison:
    """Do what `compare` does, and return also what an interrupt has left unfinished."""
    read, splits, notes = _splits(dataset, seed, task)
    for note in dict.fromkeys(notes):
        say(f"note: {note}")
    named = methods if isinstance(methods, str | None) else ",".join(methods)
    limit = budget if budget is not None else BUDGET if named is None else None
    plan = Plan(
        methods=parse_methods(default_methods(dataset.kind) if named is None else named),
        shots=usual_shots(splits["train"]) if shots is None else parse_shots(shots),
        seeds=list(range(seed, seed + seeds)),
        splits=splits,
        usual=encoder,
        task=task,
        declared=None if dataset.kind == "tokens" else dataset.declared,
        metric=metric,
        budget=None if limit is None else parse_budget(limit),
        margin=margin,
        cost=cost,
        served=served,
    )
    facts = _facts(dataset, read, task, notes)
    with ExitStack() as stack:
        folder = Path(output) if output is not None else Path(stack.enter_context(_temporary()))
        found = run_comparison(
            plan,
            folder,
            facts,
            scrub({"command": command}),
            opener=openers[0],
            word_opener=openers[1],
            overwrite=overwrite,
            say=say,
        )
        if output is not None:
            shown = _texts(plan, found) if texts else {}
            write_files(folder, found, texts=shown)  # the map may take long, fail, or be cut
            drawn = None if found.interrupted else _map(plan, found, openers[0], dataset, say, texts=texts)
            if drawn is not None:
                write_page(folder, found, texts=shown, drawn=drawn)
    return found


def _texts(plan: Plan, found: Comparison) -> dict[int, Any]:
    """Return the judged texts that the page shows, by their rows."""
    wanted = {error.row for detail in found.details for error in detail.errors}
    rows = zip(plan.judged.rows.tolist(), plan.judged.inputs, strict=True)
    return {row: given for row, given in rows if row in wanted}


def _map(
    plan: Plan,
    found: Comparison,
    opener: Callable[..., FeatureExtractor],
    dataset: Dataset,
    say: Callable[[str], None],
    *,
    texts: bool,
) -> TextMap | None:
    """Return the map of the judged rows by the first frozen encoder that has read them, if there is one."""
    judged, done = plan.judged, {point.method for point in found.points}
    frozen = [method for method in plan.methods if method.kind == "frozen" and method.name in done]
    if judged.kind == "tokens" or not frozen:
        return None
    title = f"The {judged.name} rows of {called(dataset.name)}"
    try:
        extractor = opener(encoder_of(frozen[0], plan.usual))
        return map_of(judged, extractor, title=title, declared=plan.declared, seed=plan.seeds[0], texts=texts)
    except Exception as error:  # such as too few different texts; all else is written
        say(f"note: the report has no map: {error_said(error)}")
        return None


def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="embedkit-")


def _splits(dataset: Dataset, seed: int, task: Task) -> tuple[Mapping[str, Split], Mapping[str, Split], list[str]]:
    """Read the splits, as they are and with tags in IOB2; return also what is worth saying of them."""
    read: Mapping[str, Split] = dataset.splits(seed=seed, columns=False)
    converted, repairs = read, list[str]()
    if dataset.kind == "tokens":
        converted, _, repairs = with_iob2(read, task)
    return read, converted, [*dataset.notes, *repairs, *check_training(converted)]


def _facts(dataset: Dataset, read: Mapping[str, Split], task: Task, notes: Sequence[str]) -> dict[str, Any]:
    """Return facts about the data as they are parted, without any of their texts, in what they are called."""
    facts = describe(dataset, examples=0, task=task, parted=read)
    facts["name"] = called(dataset.name)
    facts.pop("examples", None)
    return {**facts, "notes": list(dict.fromkeys([*notes, *facts["notes"]]))}
