"""Which learning rate and how many passes few-shot tuning should begin with, judged on train rows alone.

    python scripts/choose_fewshot.py --data DIR --rows choose.jsonl --output docs/results/fewshot_defaults.md

DIR holds ``rotten_tomatoes`` and ``emotion``, each with train as CSV. Half of each train split (stratified, equal
texts together) is what samples are drawn from, the first 1,000 rows of the other half are what they are judged on:
no validation and no test row is read. Every setting sees the same samples. Results are appended to ``--rows``;
what stands there is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
from tqdm import tqdm

from embedkit import FewShotClassifier, TextEncoder
from embedkit.data import draw_shots, groups_of, holdout, open_dataset
from embedkit.metrics import mean_interval

SEED = 1042  # samples of bench_fewshot.py begin at 42
PARTS = ("rotten_tomatoes", "emotion")
RATES, PASSES = (3e-5, 1e-4, 2e-4), (10, 20)
USUAL = (1e-4, 20)


def run_part(data: Path, name: str, shots: int, samples: int, file: Path) -> None:
    """Try every setting on every sample that the file lacks."""
    train = open_dataset(str(data / name)).splits(columns=False)["train"]
    assert train.labels is not None
    drawn, judged = holdout(train.labels, groups_of(train.inputs), 0.5, SEED)
    pool, rows = train.take(drawn, "train"), train.take(judged[:1000], "train")
    true, done = np.asarray(rows.labels), {_key(row) for row in read(file)}
    for number, rate, passes in tqdm(list(product(range(samples), RATES, PASSES)), desc=name):
        row: dict[str, Any] = {"data": name, "sample": SEED + number, "rate": rate, "passes": passes}
        if _key(row) in done:
            continue
        sample = draw_shots(pool, shots, seed=SEED + number).split
        encoder = TextEncoder("minilm", max_length=256, store=False)
        classifier = FewShotClassifier(encoder, learning_rate=rate, epochs=passes, random_state=SEED + number)
        start = time.perf_counter()
        classifier.fit(sample.inputs, sample.labels)
        row["seconds"] = time.perf_counter() - start
        row["accuracy"] = float((classifier.predict(rows.inputs) == true).mean())
        row |= {"texts": len(sample), "judged": len(rows)}
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")


def read(file: Path) -> list[dict[str, Any]]:
    """Return what was found before."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["data"], row["sample"], row["rate"], row["passes"]


def table(rows: Sequence[dict[str, Any]], shots: int, command: str) -> str:
    """Return the results as Markdown."""
    samples = len({row["sample"] for row in rows})
    lines = [
        "# The defaults of few-shot tuning, chosen",
        "",
        f"`{command}`, {time.strftime('%Y-%m-%d')}; all-MiniLM-L6-v2, {shots} shots, {samples} samples of each "
        "data set, judged on 1,000 other rows of train; no validation and no test row was read. Accuracy in "
        f"points, mean over samples; in the last column the mean difference to {USUAL[1]} passes at "
        f"{USUAL[0]:g}, paired by data set and sample, with its 95 % interval (Student's t).",
        "",
        f"| learning rate | passes | {' | '.join(PARTS)} | both | against the default |",
        "|---|---|---|---|---|---|",
    ]
    usual = _found(rows, *USUAL)
    for rate, passes in product(RATES, PASSES):
        found = _found(rows, rate, passes)
        each = [[value for (data, _), value in found.items() if data == name] for name in PARTS]
        means = [100 * statistics.mean(values) for values in each]
        shown = " | ".join(f"{mean:.1f}" for mean in [*means, statistics.mean(means)])
        lines.append(f"| {rate:g} | {passes} | {shown} | {_against(found, usual)} |")
    return "\n".join([*lines, ""])


def _found(rows: Sequence[dict[str, Any]], rate: float, passes: int) -> dict[tuple[str, int], float]:
    """Return the accuracy of a setting by data set and sample."""
    wanted = [row for row in rows if (row["rate"], row["passes"]) == (rate, passes)]
    return {(row["data"], row["sample"]): row["accuracy"] for row in wanted}


def _against(found: dict[tuple[str, int], float], usual: dict[tuple[str, int], float]) -> str:
    if found == usual:
        return "-"
    mean, _, interval = mean_interval([100 * (found[key] - usual[key]) for key in usual])
    return f"{mean:+.2f}" if interval is None else f"{mean:+.2f} [{interval[0]:+.2f}, {interval[1]:+.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument(
        "--rows", type=Path, required=True, help="a file of JSON lines that results are appended to"
    )
    parser.add_argument("--output", type=Path, help="a file for the table; without it nothing but rows is written")
    args = parser.parse_args()
    for name in args.parts.split(","):
        run_part(args.data, name, args.shots, args.samples, args.rows)
    if args.output is not None:
        command = f"python {Path(sys.argv[0]).as_posix()} --data DIR"
        args.output.write_text(table(read(args.rows), args.shots, command), encoding="utf-8")


if __name__ == "__main__":
    main()
