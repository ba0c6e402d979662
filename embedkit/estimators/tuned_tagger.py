"""A fine-tuned tagger: answers for each word, is saved and loaded, without scikit-learn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedkit.data.labels import LabelCodec
from embedkit.data.text import unread
from embedkit.encoders import ModelFolder
from embedkit.estimators.tagging import OfTags, Tagged, tag_inputs
from embedkit.estimators.tuned_folder import BATCH_TOKENS, save_tuned
from embedkit.runtime.batching import plan
from embedkit.runtime.tagging import Aggregation, Tagging, TokenAnswers, decoding_for
from embedkit.runtime.tokens import Tokenizer, Tokens, Words


@dataclass(eq=False)
class TunedTagger(OfTags):
    """A model that answers for each word, its tokenizer and its tags.

    Attributes
    ----------
    model : transformers.PreTrainedModel
        Frozen, in float32 on the CPU when it was just trained.
    tokenizer : Tokenizer
    codec : LabelCodec
        Of the tags; those that stand for spans are IOB2.
    about : dict
        As `TunedClassifier` has it.
    device, batch_tokens, threads
        As in `embedkit.encoders.EncoderSettings`; none of them changes an answer.
    """

    model: Any
    tokenizer: Tokenizer
    codec: LabelCodec
    about: Mapping[str, Any]
    device: str = "auto"
    batch_tokens: int = BATCH_TOKENS
    threads: int | None = None
    load_seconds: float = 0.0
    _progress: Callable[[int], None] | None = None
    _answering: Any = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is made anew where it is needed: the model as it answers, and who listens."""
        return {**vars(self), "_answering": None, "_progress": None}

    def report_to(self, progress: Callable[[int], None]) -> None:
        """Tell `progress` the number of sentences that became ready, after each batch."""
        self._progress = progress

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
        aggregation : {"first", "average", "max", "none"}, default "first"
            As `embedkit.runtime.tagging.Tagging` has it.
        """
        decoding = decoding_for(spans=self.spans)
        tagging = Tagging(
            self.tokenizer, self.labels, aggregation=aggregation, decoding=decoding, spans=self.spans
        )

        def answer(sentences: list[Words], numbers: NDArray[np.int64] | None) -> TokenAnswers:
            return tagging.answer(sentences, self._run, rows=numbers)

        tagged = tag_inputs(inputs, rows, answer, spans=self.spans)
        tagged.extraction.load_seconds = self.load_seconds
        tagged.extraction.seconds += self.load_seconds
        return tagged

    def _run(self, tokens: Tokens) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        if self._answering is None:
            from embedkit.training.answers import LogitsModel

            self._answering = LogitsModel(self.model, self.device)
        batches = plan(tokens.lengths, self.batch_tokens)
        left = np.bincount(tokens.rows)  # windows of each sentence: its last one makes it ready
        for windows, logits in self._answering.run(tokens, batches, self.tokenizer.pad_id, self.threads):
            yield windows, logits
            rows = tokens.rows[windows]
            np.subtract.at(left, rows, 1)
            if self._progress is not None:
                self._progress(int((left[np.unique(rows)] == 0).sum()))

    def forget(self) -> None:
        """Let go of the weights; `model` must be set again before it answers."""
        self.model = self._answering = None

    def remarks(self, rows: int, truncated: int, empty: int) -> list[str]:
        """Say how many words of some sentences hold none."""
        return unread(rows, empty)

    def save(self, folder: Path, base: ModelFolder) -> None:
        """Write weights, tokenizer and manifest to a folder of `embedkit.artifact.staged`; call it last.

        Parameters
        ----------
        folder : Path
        base : ModelFolder
            As for `TunedClassifier.save`.
        """
        save_tuned(folder, base, self, "tokens")
