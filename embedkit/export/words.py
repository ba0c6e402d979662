"""A tagger on frozen vectors of words as the source of a graph, which gives logits of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from embedkit.encoders import ModelFolder, WordExtractor
from embedkit.errors import ExportError
from embedkit.export.dense import Dense, dense_of
from embedkit.export.folder import GRAPH
from embedkit.export.frozen import Trained, trained_said
from embedkit.export.parity import Input, parity_inputs, split_into_words
from embedkit.export.source import Answer
from embedkit.runtime.description import Description
from embedkit.runtime.entities import has_spans
from embedkit.runtime.manifest import TAG_TASK
from embedkit.runtime.predictor import Predictor
from embedkit.runtime.tagging import Aggregation, decoding_for
from embedkit.runtime.tokens import Tokenizer, Words

if TYPE_CHECKING:
    from embedkit.export.graph import WordGraph

# How the logits of a word's tokens become those of its vector: a linear head of a mean is the mean of the head's.
_AGGREGATIONS: dict[tuple[str, ...], Aggregation] = {("first",): "first", ("mean",): "logits"}


class FrozenWordSource:
    """A head that answers for vectors of words; see `embedkit.export.source.Source`.

    Parameters
    ----------
    trained : Trained
        Its extractor is a `WordExtractor`.
    inputs : sequence of str or of list of str
        Texts are split by `embedkit.runtime.words.split_words`.

    Raises
    ------
    ExportError
        The head or the encoder's settings have no form as a graph.
    UsageError
        The inputs are pairs.
    """

    def __init__(self, trained: Trained, inputs: Sequence[Input]) -> None:
        self._trained = trained
        self._extractor = cast("WordExtractor", trained.extractor)
        self._dense = dense_of(trained.head)
        _check(self._extractor, self._dense)
        self.description = _described(self._extractor, trained)
        self.inputs = parity_inputs(split_into_words(inputs), self._extractor.tokenizer)
        self.beside: Mapping[str, Any] = {}

    @property
    def folder(self) -> ModelFolder:
        """The encoder's folder."""
        return self._extractor.folder

    @property
    def tokenizer(self) -> Tokenizer:
        """The extractor's."""
        return self._extractor.tokenizer

    @property
    def metrics(self) -> Mapping[str, Any] | None:
        """Of the tagger."""
        return self._trained.metrics

    @property
    def about(self) -> Mapping[str, Any]:
        """The encoder, and what is known of the training."""
        return trained_said(self._extractor, "tokens", self._trained)

    def graph(self) -> WordGraph:
        """Return encoder and head."""
        from embedkit.export.graph import open_word_graph

        return open_word_graph(self.folder, self._extractor.recipe, self._dense)

    def expected(self, threads: int | None) -> list[NDArray[np.floating[Any]]]:
        """Return the head's logits of each word that has a vector, computed in float32 on the CPU."""
        settings = replace(self._extractor.settings, engine="torch", device="cpu", threads=threads)
        found = WordExtractor(settings).transform(cast("list[Words]", self.inputs))
        scores = self._trained.head.decision_function(found.vectors)
        logits = np.column_stack([np.zeros_like(scores), scores]) if scores.ndim == 1 else scores
        read = np.split(~found.empty, found.offsets[1:-1])
        return [some[mine] for some, mine in zip(np.split(logits, found.offsets[1:-1]), read, strict=True)]

    def answer_of(self, predictor: Predictor) -> Answer:
        """Return what gives the same from a graph."""
        return lambda inputs: list(predictor.word_logits(inputs))

    def decide(self, values: NDArray[np.floating[Any]]) -> NDArray[Any]:
        """Return the codes of logits."""
        return np.asarray(values.argmax(axis=1))


def _check(extractor: WordExtractor, dense: Dense) -> None:
    """Refuse what one float32 graph of tokens cannot compute, before anything heavy is opened."""
    recipe = extractor.recipe
    if recipe.poolings not in _AGGREGATIONS:
        raise ExportError(
            f"pooling {'+'.join(recipe.poolings)} joins vectors that a graph of tokens does not have side by "
            "side; train with --pooling first or mean"
        )
    if recipe.poolings == ("mean",) and len(dense.layers) > 1:
        raise ExportError(
            "the vectors of a word's tokens are averaged before the head (--pooling mean), which a graph of "
            "tokens can follow for linear heads alone; train with --pooling first or another head"
        )
    if recipe.precision != "float32":
        raise ExportError(
            f"the features were computed in {recipe.precision}, and a graph in float32 would give others; train "
            "with --precision float32"
        )


def _described(extractor: WordExtractor, trained: Trained) -> Description:
    recipe, labels = extractor.recipe, trained.codec.classes
    task = trained.about.get(TAG_TASK, "auto")
    return Description(
        task="tokens",
        input="tokens",
        graphs={"float32": GRAPH},
        labels=labels,
        multi_label=False,
        has_probabilities=True,
        thresholds=None,
        max_length=recipe.max_length,
        side=recipe.side,
        prompt="",
        lowercase=False,  # the tokenizer that is written does it
        pad_id=recipe.pad_id,
        long="windows",
        normalize=False,
        bias=(),
        width=extractor.width("tokens"),
        aggregation=_AGGREGATIONS[recipe.poolings],
        decoding=decoding_for(spans=has_spans(labels, task)),
        tag_task=task,
    )
