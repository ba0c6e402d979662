"""``embedkit inspect``: what is in the data."""

from __future__ import annotations

import argparse
from typing import Any

from embedkit.cli import options
from embedkit.cli.output import emit, show, table

_LENGTHS = ("min", "mean", "median", "p90", "p99", "max")
_LABELS = 20


def add(subparsers: options.Subparsers) -> None:
    """Add the command."""
    parser = options.command(
        subparsers,
        "inspect",
        run,
        "show what is in the data: columns, labels, lengths, duplicates, leaks, examples",
    )
    options.add_data(parser)
    parser.add_argument("-n", "--examples", type=int, default=5, metavar="N", help="rows to show (default 5)")
    parser.add_argument("-m", "--model", help="count tokens as this model does: minilm, a folder or a hub id")
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")
    parser.add_argument("--max-length", type=int, metavar="N", help="most tokens of a text")
    options.add_store(parser, dtype=False)
    options.add_seed(parser)


def run(args: argparse.Namespace) -> int:
    """Describe the data."""
    from embedkit.data import describe
    from embedkit.errors import UsageError

    if args.examples < 0:
        raise UsageError(f"--examples {args.examples} is negative")
    dataset = options.dataset_of(args)
    if args.model and dataset.kind == "tokens":
        raise UsageError("the tokens of lists of words are not counted yet; leave --model out")
    tokenizer = options.tokenizer_of(args) if args.model else None
    facts = describe(dataset, examples=args.examples, seed=args.seed, tokenizer=tokenizer)
    if args.json:
        emit(facts)
    else:
        show("\n\n".join(_sections(facts, args.model)))
    return 0


def _sections(facts: dict[str, Any], model: str | None) -> list[str]:
    columns = ", ".join(facts["columns"])
    head = [f"{facts['name']}: {facts['kind']}s from {' and '.join(facts['inputs'])}, "
            f"labels from {facts['label'] or '(none)'}; columns: {columns}"]  # fmt: skip
    sections = ["\n".join(head), _splits(facts), _label_counts(facts), _lengths(facts, model)]
    if facts["examples"]:
        sections.append(_examples(facts["examples"]))
    if facts["notes"]:
        sections.append("\n".join(f"note: {note}" for note in facts["notes"]))
    return [section for section in sections if section]


def _splits(facts: dict[str, Any]) -> str:
    rows: list[list[object]] = [["split", "rows", "labels", "repeated", "conflicting texts", "also in train"]]
    for name, split in facts["splits"].items():
        labels = "-" if split["labels"] is None else len(split["labels"])
        leak = facts["leaks"].get(name, "-")
        rows.append([name, f"{split['rows']:,}", labels, split["duplicates"], split["conflicts"]["texts"], leak])
    return table(rows)


def _label_counts(facts: dict[str, Any]) -> str:
    labelled = {name: split["labels"] for name, split in facts["splits"].items() if split["labels"]}
    labels = list(dict.fromkeys(label for counts in labelled.values() for label in counts))
    if not labels:
        return ""
    rows: list[list[object]] = [["label", *labelled]]
    rows += [
        [label[:40], *(f"{counts.get(label, 0):,}" for counts in labelled.values())] for label in labels[:_LABELS]
    ]
    more = len(labels) - _LABELS
    return table(rows) + (f"\n... and {more:,} more labels" if more > 0 else "")


def _lengths(facts: dict[str, Any], model: str | None) -> str:
    rows: list[list[object]] = [["lengths in", "split", *_LENGTHS]]
    for unit in ("characters", "words", "tokens"):
        for name, split in facts["splits"].items():
            if unit in split:
                rows.append([unit, name, *(f"{split[unit][key]:,}" for key in _LENGTHS)])
    text = table(rows, left=frozenset({0, 1}))
    for name, split in facts["splits"].items():
        if "tokens" in split:
            cut = split["tokens"]
            text += (f"\n{name}: {cut['truncated']:,} of {split['rows']:,} texts ({cut['truncated_share']:.1%}) "
                     f"have more than the {cut['max_length']} tokens that {model} takes")  # fmt: skip
    return text


def _examples(examples: list[dict[str, Any]]) -> str:
    rows: list[list[object]] = [["split", "row", "label", "text"]]
    for example in examples:
        text = example["text"] + (f" | {example['pair']}" if "pair" in example else "")
        rows.append([example["split"], example["row"], _label(example["label"]), text])
    return table(rows, left=frozenset({0, 2, 3}))


def _label(label: object) -> object:
    return "-" if label is None else ", ".join(label) if isinstance(label, list) else label
