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
from embedkit.hub import resolve_model
from embedkit.metrics import mean_interval
from embedkit.training.contrast import ContrastSettings
from embedkit.training.pairs import EPOCHS

SEED = 1042  # samples of bench_fewshot.py begin at 42
PARTS = ("rotten_tomatoes", "emotion")
RATES, PASSES = (3e-5, 1e-4, 2e-4, 4e-4), (5, 10, 20)


def run_part(args: argparse.Namespace, name: str) -> None:
    """Try every setting on every sample that the file lacks."""
    model, settings = resolve_model(args.model).folder, list(product(args.rates, args.passes))
    hidden = json.loads((model / "config.json").read_text(encoding="utf-8"))["hidden_size"]
    train = open_dataset(str(args.data / name)).splits(columns=False)["train"]
    assert train.labels is not None
    drawn, judged = holdout(train.labels, groups_of(train.inputs), 0.5, SEED)
    pool, rows = train.take(drawn, "train"), train.take(judged[:1000], "train")
    true, done = np.asarray(rows.labels), {_key(row) for row in read(args.rows)}
    for number, rate, passes in tqdm(
        [(number, *how) for number in range(args.samples) for how in settings], desc=name
    ):
        row: dict[str, Any] = {
            "model": model_name(model),
            "hidden": hidden,
            "data": name,
            "sample": SEED + number,
            "rate": rate,
            "passes": passes,
        }
        if _key(row) in done:
            continue
        sample = draw_shots(pool, args.shots, seed=SEED + number).split
        encoder = TextEncoder(model, max_length=256, store=False)
        classifier = FewShotClassifier(encoder, learning_rate=rate, epochs=passes, random_state=SEED + number)
        start = time.perf_counter()
        classifier.fit(sample.inputs, sample.labels)
        row["seconds"] = time.perf_counter() - start
        row["accuracy"] = float((classifier.predict(rows.inputs) == true).mean())
        row |= {"texts": len(sample), "judged": len(rows)}
        with args.rows.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")


def read(file: Path) -> list[dict[str, Any]]:
    """Return what was found before."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["model"], row["data"], row["sample"], row["rate"], row["passes"]


def model_name(model: Path) -> str:
    """Return what a model's folder calls it."""
    return "all-MiniLM-L6-v2" if "minilm" in str(model).lower() else model.name


def table(rows: Sequence[dict[str, Any]], shots: int, command: str) -> str:
    """Return the results as Markdown."""
    lines = [
        "# The defaults of few-shot tuning, chosen",
        "",
        f"`{command}`, {time.strftime('%Y-%m-%d')}; {shots} shots, judged on 1,000 other rows of train; no "
        "validation and no test row was read. Accuracy in points, mean over samples (in brackets their number); "
        "in the last column the mean difference to the default that was taken, paired by data set and sample, "
        "with its 95 % interval (Student's t; for the number of settings it is not corrected).",
    ]
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        parts = [name for name in PARTS if any(row["data"] == name for row in mine)]
        lines += ["", f"## {model}", "", f"| learning rate | passes | {' | '.join(parts)} | against the default |"]
        lines += [f"|---|---|{'---|' * len(parts)}---|"]
        usual = _found(mine, ContrastSettings().rate(mine[0]["hidden"]), EPOCHS)
        for rate, passes in sorted({(row["rate"], row["passes"]) for row in mine}):
            found = _found(mine, rate, passes)
            each = [[value for (data, _), value in found.items() if data == name] for name in parts]
            shown = " | ".join(f"{100 * statistics.mean(values):.1f} ({len(values)})" for values in each)
            lines.append(f"| {rate:g} | {passes:g} | {shown} | {_against(found, usual)} |")
    return "\n".join([*lines, ""])


def _found(rows: Sequence[dict[str, Any]], rate: float, passes: int) -> dict[tuple[str, int], float]:
    """Return the accuracy of a setting by data set and sample."""
    wanted = [row for row in rows if (row["rate"], row["passes"]) == (rate, passes)]
    return {(row["data"], row["sample"]): row["accuracy"] for row in wanted}


def _against(found: dict[tuple[str, int], float], usual: dict[tuple[str, int], float]) -> str:
    if found == usual:
        return "taken"
    mean, _, interval = mean_interval([100 * (found[key] - usual[key]) for key in usual if key in found])
    return f"{mean:+.2f}" if interval is None else f"{mean:+.2f} [{interval[0]:+.2f}, {interval[1]:+.2f}]"


def _numbers(told: str) -> tuple[float, ...]:
    return tuple(float(part) for part in told.split(","))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="minilm", help="a folder; default: the packaged all-MiniLM-L6-v2")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--rates", type=_numbers, default=RATES, help="learning rates, joined by commas")
    parser.add_argument("--passes", type=_numbers, default=PASSES, help="joined by commas")
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument(
        "--rows", type=Path, required=True, help="a file of JSON lines that results are appended to"
    )
    parser.add_argument("--output", type=Path, help="a file for the table; without it nothing but rows is written")
    args = parser.parse_args()
    for name in args.parts.split(","):
        run_part(args, name)
    if args.output is not None:
        command = f"python {Path(sys.argv[0]).as_posix()} --data DIR"
        args.output.write_text(table(read(args.rows), args.shots, command), encoding="utf-8")


if __name__ == "__main__":
    main()
