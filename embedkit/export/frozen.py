"""A classifier on a frozen encoder, or the encoder alone, as the source of a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from embedkit.artifact import scrub
from embedkit.data.labels import LabelCodec
from embedkit.encoders import FeatureExtractor, ModelFolder, WordExtractor
from embedkit.errors import ExportError
from embedkit.export.dense import Dense, dense_of
from embedkit.export.folder import GRAPH, sentence_transformers_files
from embedkit.export.parity import Input, parity_inputs
from embedkit.export.source import Answer
from embedkit.heads import Head
from embedkit.runtime.decide import Thresholds
from embedkit.runtime.description import Description
from embedkit.runtime.predictor import Predictor
from embedkit.runtime.tokens import Text, Tokenizer

if TYPE_CHECKING:
    from embedkit.export.graph import Graph

_KEPT = ("data", "seed", "head_settings")  # the description has the rest


@dataclass(frozen=True, eq=False)
class Trained:
    """What a classifier on a frozen encoder is made of.

    Attributes
    ----------
    extractor : FeatureExtractor, or WordExtractor for a tagger
    head : Head
    codec : LabelCodec
    kind : {"text", "pair", "tokens"}
    thresholds : Thresholds, optional
    about : mapping
        What the folder shall keep of the training: ``data``, ``seed``, ``head_settings``.
    metrics : mapping, optional
        ``metrics.json``.
    """

    extractor: FeatureExtractor | WordExtractor
    head: Head
    codec: LabelCodec
    kind: str = "text"
    thresholds: Thresholds | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] | None = None


class FrozenSource:
    """A classifier, or an extractor alone; see `embedkit.export.source.Source`.

    Raises
    ------
    ExportError
        The head or the encoder's settings have no form as a graph.
    """

    def __init__(self, source: Trained | FeatureExtractor, texts: Sequence[Text]) -> None:
        self._trained = source if isinstance(source, Trained) else None
        self._extractor = cast("FeatureExtractor", source.extractor if isinstance(source, Trained) else source)
        self._dense = None if self._trained is None else dense_of(self._trained.head)
        _check(self._extractor, "text" if self._trained is None else self._trained.kind, self._dense)
        self.description = _described(self._extractor, self._trained, self._dense)
        self.inputs: list[Input] = parity_inputs(texts, self._extractor.tokenizer)

    @property
    def folder(self) -> ModelFolder:
        """The encoder's folder."""
        return self._extractor.folder

    @property
    def tokenizer(self) -> Tokenizer:
        """The extractor's."""
        return self._extractor.tokenizer

    @property
    def beside(self) -> Mapping[str, Any]:
        """Of an encoder: what sentence-transformers reads."""
        if self._trained is not None:
            return {}
        return sentence_transformers_files(self._extractor.recipe, self._extractor.folder.hidden)

    @property
    def metrics(self) -> Mapping[str, Any] | None:
        """Of the classifier."""
        return None if self._trained is None else self._trained.metrics

    @property
    def about(self) -> Mapping[str, Any]:
        """The encoder, and what is known of the training."""
        return trained_said(self._extractor, self.description.input, self._trained)

    def graph(self) -> Graph:
        """Return encoder, pooling, normalising and head."""
        from embedkit.export.graph import open_graph

        link = None
        if self.description.has_probabilities:
            link = "sigmoid" if self.description.multi_label else "softmax"
        recipe, pooled = self._extractor.recipe, self.description.merges
        return open_graph(self.folder, recipe, self._dense, link, pooled=pooled)

    def expected(self, threads: int | None) -> NDArray[np.floating[Any]]:
        """Return vectors, or the head's scores of them, in float32 on the CPU."""
        settings = replace(self._extractor.settings, engine="torch", device="cpu", threads=threads)
        vectors = FeatureExtractor(settings).transform(self.inputs).vectors  # type: ignore[arg-type]  # no words
        return vectors if self._trained is None else self._trained.head.decision_function(vectors)

    def answer_of(self, predictor: Predictor) -> Answer:
        """Return what gives vectors or scores."""
        return predictor.encode if self._trained is None else predictor.decision_function

    def decide(self, values: NDArray[np.floating[Any]]) -> NDArray[Any]:
        """Return the codes of scores; of vectors 0."""
        return np.zeros(len(values), np.int64) if self._trained is None else self.description.decide(values)[1]


def trained_said(
    extractor: FeatureExtractor | WordExtractor, kind: str, trained: Trained | None
) -> dict[str, Any]:
    """Return what a manifest says of the encoder, and of the training; `kind` is what an input is."""
    resolved = extractor.folder.resolved
    about: dict[str, Any] = {
        "encoder": {
            "name": resolved.name,
            "repository": resolved.repository,
            "commit": resolved.commit,
            "weights": extractor.weights,
            "space": extractor.space(kind),
        }
    }
    if trained is not None:
        about["label_dtype"] = trained.codec.dtype
        about |= {name: trained.about[name] for name in _KEPT if name in trained.about}
    return about


def _check(extractor: FeatureExtractor, kind: str, dense: Dense | None) -> None:
    """Refuse what one float32 graph cannot compute, before anything heavy is opened."""
    recipe = extractor.recipe
    if kind == "pair" and recipe.pairs == "bi":
        raise ExportError(
            "pairs that are read apart (--pairs bi) need two passes through the encoder, which one graph of one "
            "input cannot hold; train with --pairs cross"
        )
    if recipe.precision != "float32":
        raise ExportError(
            f"the features were computed in {recipe.precision}, and a graph in float32 would give others; train "
            "with --precision float32"
        )
    if scrub(recipe.prompt) != recipe.prompt:
        raise ExportError("the prompt holds what looks like a password or a token, which no manifest may keep")
    if dense is not None and len(dense.layers) > 1 and recipe.long == "mean":
        raise ExportError(
            "windows of long texts (--long mean) are averaged before the head, which a graph of one window can "
            "follow for linear heads alone; train with --long truncate or another head"
        )


def _described(extractor: FeatureExtractor, trained: Trained | None, dense: Dense | None) -> Description:
    recipe = extractor.recipe
    head = None if trained is None else trained.head
    merges = dense is not None and recipe.long == "mean" and recipe.normalize
    return Description(
        task="encoder" if trained is None else "sequence",
        input="text" if trained is None else trained.kind,
        graphs={"float32": GRAPH},
        labels=() if trained is None else trained.codec.classes,
        multi_label=head is not None and head.multi_label,
        has_probabilities=head is not None and head.has_probabilities,
        thresholds=None if trained is None else trained.thresholds,
        max_length=recipe.max_length,
        side=recipe.side,
        prompt=recipe.prompt,
        lowercase=False,  # the tokenizer that is written does it
        pad_id=recipe.pad_id,
        long=recipe.long,
        normalize=recipe.normalize,
        bias=tuple(dense.bias) if dense is not None and merges else (),
        width=extractor.width("text"),
    )
