"""What an exported folder says of itself: the task, the labels, how texts become tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedkit.runtime.decide import Label, Thresholds, decide, probabilities
from embedkit.runtime.entities import has_spans
from embedkit.runtime.manifest import TAG_TASK, checked_tag_task
from embedkit.runtime.tagging import AGGREGATIONS, DECODINGS, Aggregation, Decoding
from embedkit.runtime.tokens import Side
from embedkit.runtime.words import RULE

Floats: TypeAlias = NDArray[np.floating[Any]]
TASKS = ("sequence", "tokens", "encoder")
LONG = ("truncate", "mean", "windows")
PROBLEMS = ("single_label_classification", "multi_label_classification")
INPUTS = ("text", "pair", "tokens")
ANY_INPUT = "any"
_WORDS = {"split": RULE, "aggregation": "first", "decoding": "argmax"}  # which mean nothing for texts
_OUTPUTS = {"sequence": "logits", "tokens": "logits", "encoder": "sentence_embedding"}


@dataclass(frozen=True)
class Description:
    """What ``embedkit.json`` says of an exported folder, or the files of a folder that others made.

    Attributes
    ----------
    task : {"sequence", "tokens", "encoder"}
        What the graph gives: logits of a text, of each of its tokens, or vectors.
    input : {"text", "pair", "tokens", "any"}
        What a row is: a text, a pair of texts, a list of words; ``"any"`` where a folder of others does not say
        whether it reads texts or pairs.
    graphs : mapping of str to str
        Files by precision.
    labels : tuple
        In the order of their codes; none for an encoder.
    multi_label : bool
    has_probabilities : bool
        Whether logits are log-odds, or margins.
    thresholds : Thresholds, optional
    max_length, side, prompt, lowercase, pad_id
        As `embedkit.runtime.tokens.Tokenizer` takes them.
    long : {"truncate", "mean", "windows"}
        What becomes of longer texts; sentences of words are always read in overlapping windows.
    normalize : bool
        Whether vectors are scaled to length 1.
    bias : tuple of float
        What logits are at a vector of zeros; needed for windows of normalised vectors, else empty.
    width : int
        Numbers of a vector; 0 for as many as the graph gives.
    output : str, optional
        The graph's output that is read. Default: ``logits``, or an encoder's ``sentence_embedding``.
    poolings : tuple of str
        Where that output holds the states of tokens (folders that others made): what vectors are made of them
        and joined. Else empty.
    aggregation, decoding : str
        For words, as `embedkit.runtime.tagging.Tagging` takes them.
    tag_task : {"auto", "ner", "chunk", "pos"}
        For words, what training was told of its tags; ``"auto"`` where nothing is known.
    """

    task: str
    input: str
    graphs: Mapping[str, str]
    labels: tuple[Label, ...]
    multi_label: bool
    has_probabilities: bool
    thresholds: Thresholds | None
    max_length: int
    side: Side
    prompt: str
    lowercase: bool
    pad_id: int
    long: str
    normalize: bool
    bias: tuple[float, ...]
    width: int
    output: str = ""
    poolings: tuple[str, ...] = ()
    aggregation: Aggregation = "first"
    decoding: Decoding = "argmax"
    tag_task: str = "auto"

    def __post_init__(self) -> None:
        if not self.output:
            object.__setattr__(self, "output", _OUTPUTS[self.task])

    @property
    def names(self) -> tuple[str, ...]:
        """The labels as they are printed."""
        return tuple(map(str, self.labels))

    @property
    def spans(self) -> bool:
        """Whether its tags stand for spans of words."""
        return self.task == "tokens" and has_spans(self.labels, self.tag_task)

    @property
    def columns(self) -> int:
        """Numbers that the graph gives for a text or a token; 0 where that is not said."""
        return self.width // max(1, len(self.poolings)) if self.task == "encoder" else len(self.labels)

    @property
    def merges(self) -> bool:
        """Whether windows are put together before they are normalised, from the output ``pooled``."""
        return self.long == "mean" and self.normalize

    def scores(self, logits: Floats) -> Floats:
        """Return logits of texts, (n, C), as heads give scores: in float64, for two classes (n,)."""
        wide = logits.astype(np.float64)
        return wide[:, 1] - wide[:, 0] if len(self.labels) == 2 and not self.multi_label else wide

    def decide(self, scores: Floats) -> tuple[Floats | None, NDArray[Any]]:
        """Return the probabilities of scores, where there are some, and the classes: as `Answers` has them."""
        known = probabilities(scores, multi_label=self.multi_label) if self.has_probabilities else None
        if self.thresholds is None:
            return known, decide(scores, multi_label=self.multi_label)
        return known, self.thresholds.decide(scores if known is None else known, multi_label=self.multi_label)

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads back."""
        words = {"split": RULE, "aggregation": self.aggregation, "decoding": self.decoding}
        return {
            "task": self.task,
            "input": self.input,
            "graphs": dict(self.graphs),
            "labels": list(self.labels),
            "problem_type": PROBLEMS[self.multi_label],
            "has_probabilities": self.has_probabilities,
            "thresholds": None if self.thresholds is None else self.thresholds.to_json(),
            "tokens": {
                "max_length": self.max_length,
                "side": self.side,
                "prompt": self.prompt,
                "lowercase": self.lowercase,
                "pad_id": self.pad_id,
            },
            "long": self.long,
            "normalize": self.normalize,
            "bias": list(self.bias),
            "width": self.width,
            **({"words": words} if self.task == "tokens" else {}),
            **({} if self.tag_task == "auto" else {TAG_TASK: self.tag_task}),
        }

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> Description:
        """Read back what `to_json` gave; `ValueError`, `TypeError` or `KeyError` where it is something else."""
        tokens, thresholds = described["tokens"], described["thresholds"]
        words = _of_type(described["words"], dict) if described["task"] == "tokens" else _WORDS
        found = cls(
            task=_one_of(described["task"], TASKS),
            input=_one_of(described["input"], INPUTS),
            graphs={str(name): _of_type(file, str) for name, file in described["graphs"].items()},
            labels=tuple(_of_type(described["labels"], list)),
            multi_label=_one_of(described["problem_type"], PROBLEMS) == PROBLEMS[1],
            has_probabilities=_of_type(described["has_probabilities"], bool),
            thresholds=None if thresholds is None else Thresholds.from_json(thresholds),
            max_length=_of_type(tokens["max_length"], int),
            side=_one_of(tokens["side"], ("right", "left")),
            prompt=_of_type(tokens["prompt"], str),
            lowercase=_of_type(tokens["lowercase"], bool),
            pad_id=_of_type(tokens["pad_id"], int),
            long=_one_of(described["long"], LONG),
            normalize=_of_type(described["normalize"], bool),
            bias=tuple(float(value) for value in _of_type(described["bias"], list)),
            width=_of_type(described["width"], int),
            aggregation=_one_of(words["aggregation"], AGGREGATIONS),
            decoding=_one_of(words["decoding"], DECODINGS),
            tag_task=checked_tag_task(described),
        )
        _one_of(words["split"], (RULE,))
        found.check()
        return found

    def check(self) -> None:
        """Raise `ValueError` or `TypeError` unless the parts fit each other."""
        if not all(isinstance(label, str | int | float) for label in self.labels):
            raise TypeError("labels are not strings or numbers")
        if len(set(self.names)) < len(self.labels) or (self.task == "encoder") == bool(self.labels):
            raise ValueError(f"{len(self.labels)} labels of the task {self.task}, some of them equal")
        if (self.task == "tokens") != (self.input == "tokens"):
            raise ValueError(f"the task {self.task} does not read {self.input}")
        if self.task == "tokens" and (self.multi_label or self.thresholds):
            raise ValueError("several labels and thresholds are not for words")
        if (self.task == "tokens") != (self.long == "windows"):
            raise ValueError(f"the task {self.task} does not read long inputs as {self.long}")
        if self.task == "tokens" and not all(isinstance(label, str) for label in self.labels):
            raise TypeError("tags are not strings")
        if self.aggregation == "none":
            raise ValueError("its sub-tokens answer for themselves, and not for words")
        if self.thresholds is not None:
            wanted = len(self.labels) if self.multi_label else 1
            if len(self.thresholds.values) != wanted or (not self.multi_label and len(self.labels) != 2):
                raise ValueError(f"{len(self.thresholds.values)} thresholds do not fit its labels")
            if (self.thresholds.on == "probability") != self.has_probabilities:
                raise ValueError("its thresholds are on what the graph does not give")
        if self.bias and len(self.bias) != len(self.labels):
            raise ValueError(f"{len(self.bias)} biases for {len(self.labels)} labels")


def _of_type(value: Any, kind: type) -> Any:  # noqa: ANN401 - of that type
    if type(value) is not kind:
        raise TypeError(f"a value is of type {type(value).__name__}, not {kind.__name__}")
    return value


def _one_of(value: Any, allowed: Sequence[Any]) -> Any:  # noqa: ANN401 - one of those
    if value not in allowed:
        raise ValueError(f"{value!r} is none of {', '.join(map(repr, allowed))}")
    return value
