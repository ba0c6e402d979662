"""A tagger on frozen vectors of words: answers for each word, is saved and loaded, without scikit-learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedkit.data.labels import LabelCodec
from embedkit.encoders import EngineMaker, Extraction, WordExtractor, WordFeatures
from embedkit.encoders.settings import Engine
from embedkit.errors import ArtifactError, UsageError
from embedkit.estimators.frozen import FrozenClassifier, Here, classifier_at, read_frozen, save_frozen
from embedkit.estimators.tagging import OfTags, Tagged, tag_inputs
from embedkit.export.engine import make_engine
from embedkit.heads import Head, HeadSpec, check_class_names
from embedkit.heads.spec import gives_probabilities
from embedkit.runtime.manifest import task_of
from embedkit.runtime.tagging import Aggregation, TokenAnswers, decoding_for, joined_answers, word_answers
from embedkit.runtime.texts import chunks_of
from embedkit.runtime.tokens import Words


@dataclass(frozen=True, eq=False)
class FrozenTagger(OfTags):
    """A frozen encoder, a head that is asked for each word, and the tags.

    Tags that stand for spans are the most probable ones of a sentence that are valid IOB2; others are the most
    probable one of each word.

    Attributes
    ----------
    extractor : WordExtractor
    head : Head
        Fitted in the extractor's feature space; it gives probabilities.
    codec : LabelCodec
        Of the tags; those that stand for spans are IOB2.
    about : dict
        What the manifest says of the training: ``head_settings``, ``data``, ``seed``, ``tag_task``.
    """

    extractor: WordExtractor
    head: Head
    codec: LabelCodec
    about: Mapping[str, Any]

    def report_to(self, progress: Callable[[int], None]) -> None:
        """Tell `progress` the number of sentences that became ready."""
        self.extractor.progress = progress

    def predict(
        self,
        inputs: Sequence[str | Words],
        *,
        rows: NDArray[np.int64] | None = None,
        aggregation: Aggregation = "first",
    ) -> Tagged:
        """Tag texts, which are split into words, or lists of words.

        Parameters
        ----------
        inputs : sequence of str, or of list of str
        rows : ndarray of int64, shape (n,), optional
            What messages call them. Default: 1 to n.
        aggregation : {"first"}
            The head answers for the vector of a word, so nothing is left to aggregate.

        Raises
        ------
        DataError
            An input is of another kind than the first, or has no UTF-8.
        UsageError
            Another aggregation is asked for.
        """
        if aggregation != "first":
            pooling = "+".join(self.extractor.recipe.poolings)
            raise UsageError(
                f"aggregation {aggregation!r} is for models that answer for tokens; this tagger answers for "
                f"vectors of words (pooling {pooling}, chosen in training); leave it out"
            )
        load_seconds = 0.0

        def answer(sentences: list[Words], numbers: NDArray[np.int64] | None) -> TokenAnswers:
            nonlocal load_seconds
            named = np.arange(1, len(sentences) + 1) if numbers is None else numbers
            parts = []
            for part in chunks_of(sentences) if sentences else (slice(0, 0),):
                features = self.extractor.transform(sentences[part], rows=named[part])
                load_seconds += features.extraction.load_seconds
                parts.append(self.answer(features))
            return joined_answers(parts)

        tagged = tag_inputs(inputs, rows, answer, spans=self.spans)
        tagged.extraction.load_seconds = load_seconds
        return tagged

    def answer(self, features: WordFeatures) -> TokenAnswers:
        """Tag words of which the vectors are known."""
        counts = np.diff(features.offsets)
        return answers_of(self.head, features.vectors, ~features.empty, counts, self.labels, spans=self.spans)

    def remarks(self, rows: int, truncated: int, empty: int) -> list[str]:
        """Say how many words of some sentences hold nothing, and what computed the vectors."""
        return [*self.extractor.remarks(Extraction(rows=rows, empty=empty)), *self.extractor.engine_notes]

    def save(self, folder: Path) -> None:
        """Write the head and the manifest to a folder of `embedkit.artifact.staged`; call it last."""
        save_frozen(folder, self.extractor, self.head, self.codec, self.kind, {"task": "tokens", **self.about})


def check_tag_heads(specs: Sequence[HeadSpec], codec: LabelCodec) -> None:
    """Raise `UsageError` for a head without probabilities, or a class weight of an unknown tag."""
    for spec in specs:
        if not gives_probabilities(spec.clf):
            raise UsageError(
                f"{spec.clf} gives no probabilities, by which the tags of a sentence are decided; take logreg, "
                "lda, naive-bayes, mlp, knn or hist-gb"
            )
        check_class_names(spec.class_weight, codec.names)


def learnable(
    features: WordFeatures, tags: Sequence[Sequence[str]], codec: LabelCodec
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the vectors, (n, D), and codes, (n,), of the words that have a token: others teach nothing."""
    codes = codec.encode(list(chain.from_iterable(tags)))
    if not features.empty.any():
        return features.vectors, codes
    return features.vectors[~features.empty], codes[~features.empty]


def answers_of(
    head: Head,
    vectors: NDArray[np.floating[Any]],
    read: NDArray[np.bool_],
    counts: NDArray[np.int64],
    labels: Sequence[str],
    *,
    spans: bool,
) -> TokenAnswers:
    """Tag words by a head.

    Parameters
    ----------
    head : Head
        With probabilities.
    vectors : ndarray of float, shape (W, D)
        Of the words of all sentences, one after another.
    read : ndarray of bool, shape (W,)
        False for words of which the tokenizer makes nothing.
    counts : ndarray of int64, shape (n,)
        Words of each sentence.
    labels : sequence of str
        The tags, in the order of the head's codes.
    spans : bool
        Whether they stand for spans of words.
    """
    decoding = decoding_for(spans=spans)
    return word_answers(head.predict_proba(vectors), read, counts, labels, decoding, spans=spans)


def load_frozen_tagger(
    folder: Path,
    *,
    model: str | None = None,
    store: str | Path | bool | None = None,
    device: str = "auto",
    engine: Engine = "auto",
    batch_tokens: int | None = None,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
    engines: EngineMaker = make_engine,
) -> FrozenTagger:
    """Open a tagger that `FrozenTagger.save` wrote.

    Parameters
    ----------
    folder, model, store, device, engine, batch_tokens, threads, progress, engines
        As for `embedkit.estimators.frozen.load_frozen`.

    Raises
    ------
    InputMissingError, ArtifactError, SpaceMismatchError
        As `load_frozen`.
    UsageError
        The folder classifies texts.
    """
    return _tagger_at(folder, Here(model, store, device, engine, batch_tokens, threads, progress, engines))


def open_frozen(folder: Path, here: Here) -> FrozenClassifier | FrozenTagger:
    """Open a classifier or a tagger on frozen features, whichever the folder holds.

    Raises
    ------
    InputMissingError, ArtifactError, SpaceMismatchError
        As of `embedkit.estimators.frozen.load_frozen`.
    """
    return (_tagger_at if task_of(folder) == "tokens" else classifier_at)(folder, here)


def _tagger_at(folder: Path, here: Here) -> FrozenTagger:
    read = read_frozen(folder, "tokens", WordExtractor, here)
    if not read.head.has_probabilities:
        raise ArtifactError(f"{folder}: its head gives no probabilities, which tags are decided by")
    return FrozenTagger(read.extractor, read.head, read.codec, read.about)
