"""``embedkit inspect``: what is in the data."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from embedkit.cli import options
from embedkit.cli.output import emit, show, table

if TYPE_CHECKING:
    from embedkit.runtime.tokens import WordTokens

_LENGTHS = ("min", "mean", "median", "p90", "p99", "max")
_LABELS = 20
_WORDS = 40
_SCHEMES = {
    "none": "each tag is of one word",
    "plain": "tags stand for entities, neighbours with one tag for one of them",
}


def add(subparsers: options.Subparsers) -> None:
    """Add the command."""
    parser = options.command(
        subparsers,
        "inspect",
        run,
        "show what is in the data: columns, labels, entities, lengths, duplicates, leaks, examples",
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
    tokenizer = options.tokenizer_of(args, words=dataset.kind == "tokens") if args.model else None
    labelling = _labels_of_subtokens if tokenizer is not None and dataset.kind == "tokens" else None
    facts = describe(
        dataset,
        examples=args.examples,
        seed=args.seed,
        tokenizer=tokenizer,
        task=args.task,
        labelling=labelling,
    )
    if args.json:
        emit(facts)
    else:
        show("\n\n".join(_sections(facts, args.model)))
    return 0


def _labels_of_subtokens(
    tags: Sequence[str], given: WordTokens, names: Sequence[str]
) -> dict[str, list[str | None]]:
    """Return what each token of a sentence learns under each rule of fine-tuning."""
    import numpy as np

    from embedkit.training.subtokens import RULES, continuing_codes, subtoken_targets

    codes, continuing = np.array([names.index(tag) for tag in tags]), continuing_codes(names)
    found = {
        rule: subtoken_targets(codes, given.words, given.first, given.chosen, rule, continuing) for rule in RULES
    }
    return {rule: [None if code < 0 else names[code] for code in learnt] for rule, learnt in found.items()}


def _sections(facts: dict[str, Any], model: str | None) -> list[str]:
    columns = ", ".join(facts["columns"])
    kind = {"tokens": "lists of word"}.get(facts["kind"], facts["kind"])
    head = [f"{facts['name']}: {kind}s from {' and '.join(facts['inputs'])}, "
            f"labels from {facts['label'] or '(none)'}; columns: {columns}"]  # fmt: skip
    if facts.get("scheme"):
        head.append(_SCHEMES.get(facts["scheme"], f"tags stand for entities, in the scheme {facts['scheme']}"))
    sections = ["\n".join(head), _splits(facts), _label_counts(facts), _entities(facts), _lengths(facts, model)]
    if facts["examples"]:
        sections.append(_examples(facts["examples"]))
    if facts.get("labelling"):
        sections.append(_labelling(facts["labelling"]))
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


def _entities(facts: dict[str, Any]) -> str:
    """Return how many entities of each type the splits have."""
    known = {name: split["entities"] for name, split in facts["splits"].items() if split.get("entities")}
    if not known:
        return ""
    kinds = sorted({kind for counts in known.values() for kind in counts})
    rows: list[list[object]] = [["entities", *known]]
    rows += [
        [kind[:40] or "(no type)", *(f"{counts.get(kind, 0):,}" for counts in known.values())]
        for kind in kinds[:_LABELS]
    ]
    rows.append(["all", *(f"{sum(counts.values()):,}" for counts in known.values())])
    more = len(kinds) - _LABELS
    return table(rows) + (f"\n... and {more:,} more types" if more > 0 else "")


def _lengths(facts: dict[str, Any], model: str | None) -> str:
    rows: list[list[object]] = [["lengths in", "split", *_LENGTHS]]
    units = {"tokens": "sub-tokens"} if facts["kind"] == "tokens" else {}
    for unit in ("characters", "words", "tokens"):
        for name, split in facts["splits"].items():
            if unit in split:
                rows.append([units.get(unit, unit), name, *(f"{split[unit][key]:,}" for key in _LENGTHS)])
    lines = [table(rows, left=frozenset({0, 1}))]
    for name, split in facts["splits"].items():
        if "tokens" in split:
            lines += [f"{name}: {said}" for said in _beyond(split["tokens"], split["rows"], model)]
    return "\n".join(lines)


def _beyond(tokens: dict[str, Any], rows: int, model: str | None) -> list[str]:
    """Say how many inputs have more tokens than a model takes, and how many words none."""
    takes = f"have more than the {tokens['max_length']} tokens that {model} takes"
    if "truncated" in tokens:
        return [f"{tokens['truncated']:,} of {rows:,} texts ({tokens['truncated_share']:.1%}) {takes}"]
    share = f"{tokens['windowed']:,} of {rows:,} sentences ({tokens['windowed_share']:.1%})"
    said = [f"{share} {takes}, and are read in overlapping windows"]
    if tokens["unknown_words"]:
        said.append(f"words that {model} has no token for: {tokens['unknown_words']:,}")
    return said


def _labelling(shown: dict[str, Any]) -> str:
    """Return a sentence, a line for each sub-token, with what it learns under each rule."""
    words = shown["words"]
    rules = [key for key in words[0] if key not in ("word", "subtokens")]
    rows: list[list[object]] = [[f"{shown['split']}, row {shown['row']}", "sub-token", *rules]]
    for word in words[:_WORDS]:
        rows += [
            ["" if place else word["word"], piece, *(word[rule][place] or "-" for rule in rules)]
            for place, piece in enumerate(word["subtokens"])
        ] or [[ascii(word["word"]), "(none)", *("-" for _ in rules)]]
    more = len(words) - _WORDS
    return table(rows, left=frozenset(range(len(rows[0])))) + (
        f"\n... and {more:,} more words" if more > 0 else ""
    )


def _examples(examples: list[dict[str, Any]]) -> str:
    rows: list[list[object]] = [["split", "row", "label", "text"]]
    for example in examples:
        text = example["text"] + (f" | {example['pair']}" if "pair" in example else "")
        rows.append([example["split"], example["row"], _label(example["label"]), text])
    return table(rows, left=frozenset({0, 2, 3}))


def _label(label: object) -> object:
    return "-" if label is None else ", ".join(label) if isinstance(label, list) else label
