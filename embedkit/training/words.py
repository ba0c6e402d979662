"""Fine-tuning a tagger: a model that answers for each word of a sentence."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embedkit.encoders import ModelFolder
from embedkit.errors import UsageError
from embedkit.metrics.scores import running_scores
from embedkit.metrics.spans import entity_scores
from embedkit.runtime.batching import pad
from embedkit.runtime.entities import OUTSIDE, has_spans
from embedkit.runtime.tokens import Tokenizer, Tokens, Words, WordTokens
from embedkit.training.loop import CHOICE, Judge, Place
from embedkit.training.losses import class_weights, cross_entropy, losses_of_each
from embedkit.training.rows import IGNORED, padded_inputs, reading_order
from embedkit.training.settings import TuneSettings
from embedkit.training.subtokens import RULES, Rule, continuing_codes, subtoken_targets
from embedkit.training.tuning import Material, Tuned, Watch, tune

METRICS = {True: ("f1", "accuracy"), False: ("accuracy", "macro-f1")}  # whether tags stand for spans


@dataclass(frozen=True, eq=False)
class WordTags:
    """Sentences with their tags.

    Attributes
    ----------
    sentences : sequence of list of str
    tags : sequence of list of str
        One for each word.
    """

    sentences: Sequence[Words]
    tags: Sequence[Sequence[str]]

    def codes(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Return the codes of the tags of all words, one sentence after another; -1 for those not in `names`."""
        places = {name: code for code, name in enumerate(names)}
        return np.array([places.get(tag, -1) for tags in self.tags for tag in tags], np.int64)


@dataclass(frozen=True, eq=False)
class WordRows:
    """Sentences in windows, with a target for each token that learns.

    Attributes
    ----------
    tokens : Tokens
        A row is a window; T tokens.
    targets : ndarray of int64, shape (T,)
        Codes, or `IGNORED`.
    pad_id : int
    types : bool
        Whether the model tells token types apart.
    """

    tokens: Tokens
    targets: NDArray[np.int64]
    pad_id: int
    types: bool

    def __len__(self) -> int:
        return len(self.tokens.lengths)

    def inputs(self, rows: NDArray[np.int64], epoch: int) -> dict[str, NDArray[Any]]:
        """Return ids, mask and labels, padded to the longest of the rows."""
        targets = replace(self.tokens, ids=self.targets.astype(np.int32), type_ids=None)
        labels = pad(targets, rows, IGNORED).input_ids
        return {**padded_inputs(self.tokens, rows, self.pad_id, types=self.types), "labels": labels}


def check_tag_metric(metric: str | None, *, spans: bool) -> str:
    """Return the metric to choose by; None stands for the first that there is.

    Raises
    ------
    UsageError
        There is no such metric.
    """
    allowed = METRICS[spans]
    if metric is not None and metric not in allowed:
        where = "where tags stand for spans" if spans else "where tags are of single words"
        raise UsageError(f"there is no metric {metric!r} {where}; allowed: {', '.join(allowed)}")
    return metric or allowed[0]


def tune_words(
    folder: ModelFolder,
    tokenizer: Tokenizer,
    names: Sequence[str],
    data: WordTags,
    validation: WordTags | None,
    settings: TuneSettings,
    *,
    subtokens: Rule = "first",
    place: Place | None = None,
    watch: Watch | None = None,
) -> Tuned:
    """Fine-tune a model on words with tags.

    Sentences that are too long are read in overlapping windows, in training as in answering, and each word is
    learnt in the one window in which it will be judged.

    Parameters
    ----------
    folder, tokenizer, names, settings, place, watch
        As for `embedkit.training.tuning.tune`; tags that stand for spans are IOB2.
    data : WordTags
    validation : WordTags, optional
        Judged by first sub-tokens, whatever `subtokens` is, as the model will answer.
    subtokens : {"first", "all", "continue"}, default "first"

    Raises
    ------
    UsageError, ModelError, TrainingError, DataError
        Of `embedkit.training.tuning.tune`.
    """
    if subtokens not in RULES:
        raise UsageError(f"label_subtokens is {subtokens!r}; allowed: {', '.join(RULES)}")
    spans = has_spans(names)
    metric = check_tag_metric(settings.metric, spans=spans)

    def read(types: bool) -> Material:
        rows, _ = _rows(tokenizer, data, names, types, subtokens)
        weights = class_weights(rows.targets, settings.class_weight, names)
        loss = cross_entropy(weights, settings.label_smoothing, a_step=_targets_a_step(rows, settings))
        if validation is None or not len(validation.sentences):
            return Material(rows, None, loss, _unjudged)
        judged, given = _rows(tokenizer, validation, names, types, "first")
        each = losses_of_each(weights, settings.label_smoothing)

        def reduce(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            losses = each(logits, labels).view_as(labels)
            return torch.stack([logits.argmax(-1).to(losses.dtype), losses], dim=-1)

        return Material(rows, judged, loss, _judge(given, validation, names, metric, spans=spans), reduce=reduce)

    return tune(folder, tokenizer, "tokens", names, read, settings, place=place, watch=watch)


def _targets_a_step(rows: WordRows, settings: TuneSettings) -> float:
    """Return how many words a step learns from in the mean, over all processes."""
    at_once = settings.batch_size * settings.accumulation * int(os.environ.get("WORLD_SIZE", "1"))
    return max(1.0, float((rows.targets != IGNORED).sum()) * min(1.0, at_once / max(1, len(rows))))


def _rows(
    tokenizer: Tokenizer, data: WordTags, names: Sequence[str], types: bool, rule: Rule
) -> tuple[WordRows, WordTokens]:
    given = tokenizer.encode_words(data.sentences)
    words = words_of(given, data.sentences)
    targets = subtoken_targets(data.codes(names), words, given.first, given.chosen, rule, continuing_codes(names))
    return WordRows(given.tokens, targets, tokenizer.pad_id, types), given


def words_of(given: WordTokens, sentences: Sequence[Words]) -> NDArray[np.int64]:
    """Return the word of each token, counted through all sentences, shape (T,); -1 for special tokens."""
    counts = np.fromiter(map(len, sentences), np.int64, len(sentences))
    rows = np.repeat(given.tokens.rows, given.tokens.lengths)
    return np.where(given.words < 0, -1, (np.cumsum(counts) - counts)[rows] + given.words)


def _judge(given: WordTokens, data: WordTags, names: Sequence[str], metric: str, *, spans: bool) -> Judge:
    """Return what judges the codes and losses of tokens, (W, L, 2), in the order in which windows are read."""
    ends = np.cumsum(np.fromiter(map(len, data.sentences), np.int64, len(data.sentences)))[:-1]
    words, order, codes = words_of(given, data.sentences), reading_order(given.tokens.lengths), data.codes(names)
    tags = np.array([*names, OUTSIDE], object)  # the last for what was not read

    def figures_of(answers: NDArray[np.int64]) -> dict[str, float]:
        if spans:
            return entity_scores(data.tags, [part.tolist() for part in np.split(tags[answers], ends)])
        unknown, unread = len(names), len(names) + 1  # neither equals the other, nor a tag
        known, given = np.where(codes < 0, unknown, codes), np.where(answers < 0, unread, answers)
        return running_scores(known, given, len(names) + 2)

    def judge(found: NDArray[Any], targets: NDArray[Any]) -> dict[str, float]:
        there = np.arange(found.shape[1]) < given.tokens.lengths[order][:, None]
        flat = np.empty((len(words), 2), found.dtype)
        starts = given.tokens.offsets[order][:, None] + np.arange(found.shape[1])
        flat[starts[there]] = found[there]
        answers = np.full(len(codes), -1, np.int64)
        answers[words[given.first]] = flat[given.first, 0].astype(np.int64)
        counted = given.first & (codes[words] >= 0)
        nll = float(flat[counted, 1].mean(dtype=np.float64)) if counted.any() else 0.0
        figures = figures_of(answers)
        shown = {name.replace("-", "_"): value for name, value in figures.items() if name != "mcc"}
        return {**shown, "nll": nll, CHOICE: figures[metric]}

    return judge


def _unjudged(found: NDArray[Any], targets: NDArray[Any]) -> dict[str, float]:
    raise AssertionError("nothing is judged")
