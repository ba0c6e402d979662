"""Fine-tuning a tagger: a model that answers for each word of a sentence."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from embedkit.encoders import ModelFolder
from embedkit.errors import UsageError
from embedkit.metrics.scores import check_tag_metric, running_scores
from embedkit.metrics.spans import entity_scores
from embedkit.runtime.batching import pad
from embedkit.runtime.decide import softmax
from embedkit.runtime.entities import has_spans
from embedkit.runtime.tagging import decoding_for, word_answers
from embedkit.runtime.tokens import Tokenizer, Tokens, Words, WordTokens
from embedkit.training.loop import CHOICE, Judge, Place
from embedkit.training.losses import class_weights, cross_entropy, losses_of_each
from embedkit.training.rows import IGNORED, padded_inputs, reading_order
from embedkit.training.settings import TuneSettings
from embedkit.training.subtokens import RULES, Rule, continuing_codes, subtoken_targets
from embedkit.training.tuning import Material, Tuned, Watch, tune

# Of one length, a batch of short sentences teaches a few words of one kind (scores, headlines), and one of long
# sentences hundreds. Halves of two lengths gave a higher F1 on CoNLL-2003.
_GROUPS = 2


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


def tune_words(
    folder: ModelFolder,
    tokenizer: Tokenizer,
    names: Sequence[str],
    data: WordTags,
    validation: WordTags | None,
    settings: TuneSettings,
    *,
    task: str = "auto",
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
        Judged by first sub-tokens, whatever `subtokens` is, and decoded as the model will answer.
    task : str, default "auto"
        What tags stand for, as `embedkit.runtime.entities.has_spans` takes it.
    subtokens : {"first", "all", "continue"}, default "first"

    Raises
    ------
    UsageError, ModelError, TrainingError, DataError
        Of `embedkit.training.tuning.tune`.
    """
    if subtokens not in RULES:
        raise UsageError(f"label_subtokens is {subtokens!r}; allowed: {', '.join(RULES)}")
    spans = has_spans(names, task)
    metric = check_tag_metric(settings.metric, spans=spans)

    def read(types: bool) -> Material:
        rows, _ = _rows(tokenizer, data, names, types, subtokens)
        weights = class_weights(rows.targets, settings.class_weight, names)
        loss = cross_entropy(weights, settings.label_smoothing, a_step=_targets_a_step(rows, settings))
        if validation is None or not len(validation.sentences):
            return Material(rows, None, loss, _unjudged, groups=_GROUPS)
        judged, given = _rows(tokenizer, validation, names, types, "first")
        each = losses_of_each(weights, settings.label_smoothing)

        def reduce(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            losses = each(logits, labels).view_as(labels)[..., None]
            answers = logits if spans else logits.argmax(-1, keepdim=True)
            return torch.cat([answers.to(losses.dtype), losses], dim=-1)

        judge = _judge(given, validation, names, metric, spans=spans)
        return Material(rows, judged, loss, judge, reduce=reduce, groups=_GROUPS)

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
    """Return what judges tokens, in the order in which windows are read.

    It gets the logits of each token where tags stand for spans, else its code; and then its loss: (W, L, C + 1) or
    (W, L, 2).
    """
    counts = np.fromiter(map(len, data.sentences), np.int64, len(data.sentences))
    words, order, codes = words_of(given, data.sentences), reading_order(given.tokens.lengths), data.codes(names)
    read = np.zeros(len(codes), bool)
    read[words[given.first]] = True

    def figures_of(answers: NDArray[Any]) -> dict[str, float]:
        if spans:
            known = softmax(answers.astype(np.float64))
            found = word_answers(known, read, counts, names, decoding_for(spans=True), spans=True)
            return entity_scores(data.tags, cast("list[list[str]]", found.tags))
        unknown, unread = len(names), len(names) + 1  # neither equals the other, nor a tag
        true = np.where(codes < 0, unknown, codes)
        return running_scores(true, np.where(read, answers[:, 0].astype(np.int64), unread), len(names) + 2)

    def judge(found: NDArray[Any], targets: NDArray[Any]) -> dict[str, float]:
        there = np.arange(found.shape[1]) < given.tokens.lengths[order][:, None]
        flat = np.empty((len(words), found.shape[2]), found.dtype)
        starts = given.tokens.offsets[order][:, None] + np.arange(found.shape[1])
        flat[starts[there]] = found[there]
        answers = np.zeros((len(codes), found.shape[2] - 1), found.dtype)
        answers[words[given.first]] = flat[given.first, :-1]
        counted = given.first & (codes[words] >= 0)
        nll = float(flat[counted, -1].mean(dtype=np.float64)) if counted.any() else 0.0
        figures = figures_of(answers)
        shown = {name.replace("-", "_"): value for name, value in figures.items() if name != "mcc"}
        return {**shown, "nll": nll, CHOICE: figures[metric]}

    return judge


def _unjudged(found: NDArray[Any], targets: NDArray[Any]) -> dict[str, float]:
    raise AssertionError("nothing is judged")
