"""Fine-tuned classifiers of texts, pairs or words: answer, are saved and loaded, without scikit-learn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedkit.data.labels import LabelCodec
from embedkit.data.text import lost
from embedkit.encoders import EncoderSettings, Extraction, ModelFolder, check_texts, read_folder
from embedkit.errors import ArtifactError, DataError, ModelError
from embedkit.estimators.frozen import Predictions
from embedkit.estimators.start import settings_said
from embedkit.estimators.tuned_folder import BATCH_TOKENS, save_tuned
from embedkit.estimators.tuned_tagger import TunedTagger
from embedkit.hub import Resolved
from embedkit.runtime.batching import plan
from embedkit.runtime.description import PROBLEMS, Description
from embedkit.runtime.manifest import FINETUNED, TAG_TASK, checked_tag_task, read_manifest
from embedkit.runtime.model_folder import TOKENIZER
from embedkit.runtime.tokens import Text, Tokenizer

if TYPE_CHECKING:
    from embedkit.training.settings import TuneSettings
    from embedkit.training.tuning import Tuned

_ROWS = 2048  # between two reports of progress
_INPUTS = {"sequence": ("text", "pair"), "tokens": ("tokens",)}
_ABOUT = ("base", "data", "seed", "settings", "tuned_on", TAG_TASK)


@dataclass(eq=False)
class TunedClassifier:
    """A model with its head, its tokenizer and its labels.

    Attributes
    ----------
    model : transformers.PreTrainedModel
        Frozen, in float32 on the CPU when it was just trained.
    tokenizer : Tokenizer
    codec : LabelCodec
    kind : {"text", "pair"}
        What an input is.
    multi_label : bool
        Whether a text has any number of labels.
    about : dict
        What the manifest says of the training: ``base``, ``data``, ``seed``, ``settings``.
    device, batch_tokens, threads
        As in `embedkit.encoders.EncoderSettings`; none of them changes an answer.
    """

    model: Any
    tokenizer: Tokenizer
    codec: LabelCodec
    kind: str
    multi_label: bool
    about: Mapping[str, Any]
    device: str = "auto"
    batch_tokens: int = BATCH_TOKENS
    threads: int | None = None
    load_seconds: float = 0.0
    texts_per_row: int = 1
    thresholds: None = None
    _progress: Callable[[int], None] | None = None
    _answering: Any = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is made anew where it is needed: the model as it answers, and who listens."""
        return {**vars(self), "_answering": None, "_progress": None}

    def report_to(self, progress: Callable[[int], None]) -> None:
        """Tell `progress` the number of texts that became ready."""
        self._progress = progress

    def logits(self, inputs: Sequence[Text]) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
        """Return logits (n, C), which inputs lost tokens, and which hold none."""
        found = np.empty((len(inputs), len(self.codec)), np.float32)
        truncated, empty = np.zeros(len(inputs), bool), np.zeros(len(inputs), bool)
        for first in range(0, len(inputs), _ROWS):
            part = slice(first, first + _ROWS)
            tokens = self.tokenizer.encode(inputs[part])
            truncated[part], empty[part] = tokens.truncated, self.tokenizer.without_tokens(tokens)
            batches = plan(tokens.lengths, self.batch_tokens)
            for windows, logits in self._model_to_answer().run(
                tokens, batches, self.tokenizer.pad_id, self.threads
            ):
                found[first + windows] = logits
            if self._progress is not None:
                self._progress(len(truncated[part]))
        return found, truncated, empty

    def scores(
        self, inputs: Sequence[Text], *, rows: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.floating[Any]], NDArray[np.bool_], NDArray[np.bool_]]:
        """Return scores, (n,) for two classes, else (n, C); which inputs lost tokens, and which hold none.

        Raises
        ------
        DataError
            As for `predict`.
        """
        if len(inputs) and isinstance(inputs[0], tuple) != (self.kind == "pair"):
            raise DataError(f"this classifier was trained on {self.kind}s; the input is of the other kind")
        check_texts(inputs, None if rows is None else rows.tolist())
        logits, truncated, empty = self.logits(inputs)
        return self.description().scores(logits), truncated, empty

    def _model_to_answer(self) -> Any:  # noqa: ANN401 - embedkit.training.answers.LogitsModel
        if self._answering is None:
            from embedkit.training.answers import LogitsModel

            self._answering = LogitsModel(self.model, self.device)
        return self._answering

    def forget(self) -> None:
        """Let go of the weights; `model` must be set again before it answers."""
        self.model = self._answering = None

    def predict(self, inputs: Sequence[Text], *, rows: NDArray[np.int64] | None = None) -> Predictions:
        """Classify texts or pairs; `rows` are what messages call them.

        Raises
        ------
        DataError
            The inputs are pairs and the classifier was trained on texts, or the other way round.
        """
        start = time.perf_counter()
        scores, truncated, empty = self.scores(inputs, rows=rows)
        probabilities, codes = self.description().decide(scores)
        cost = Extraction(rows=len(inputs), truncated=int(truncated.sum()), empty=int(empty.sum()))
        cost.seconds, cost.load_seconds = time.perf_counter() - start + self.load_seconds, self.load_seconds
        return Predictions(codes, probabilities, None, cost)

    def description(self) -> Description:
        """Return what an exported folder of it would say of itself."""
        return Description(
            task="sequence",
            input=self.kind,
            graphs={},
            labels=self.codec.classes,
            multi_label=self.multi_label,
            has_probabilities=True,
            thresholds=None,
            max_length=self.tokenizer.max_length,
            side=self.tokenizer.side,
            prompt="",
            lowercase=False,
            pad_id=self.tokenizer.pad_id,
            long="truncate",
            normalize=False,
            bias=(),
            width=0,
        )

    def remarks(self, rows: int, truncated: int, empty: int) -> list[str]:
        """Say how many of some inputs lost tokens or held none."""
        return lost(rows, truncated, empty, self.tokenizer.max_length, self.tokenizer.side)

    def save(self, folder: Path, base: ModelFolder) -> None:
        """Write weights, tokenizer and manifest to a folder of `embedkit.artifact.staged`; call it last.

        Parameters
        ----------
        folder : Path
        base : ModelFolder
            The encoder that training began from: its tokenizer's settings are kept.
        """
        save_tuned(folder, base, self, "sequence")


def load_tuned(
    folder: Path, *, device: str = "auto", batch_tokens: int | None = None, threads: int | None = None
) -> TunedClassifier | TunedTagger:
    """Open what `save_tuned` wrote, every file's digest checked first.

    Parameters
    ----------
    folder : Path
    device, batch_tokens, threads
        As in `embedkit.encoders.EncoderSettings`.

    Raises
    ------
    InputMissingError
        The folder is not there.
    ArtifactError
        It is damaged or foreign.
    UsageError
        `device`, `batch_tokens` or `threads` is not allowed.
    """
    start = time.perf_counter()
    EncoderSettings(folder, device=device, batch_tokens=batch_tokens or BATCH_TOKENS, threads=threads)
    manifest = read_manifest(folder, kind=FINETUNED)
    try:
        codec = LabelCodec.said(manifest["labels"], manifest["label_dtype"])
        tokens, kind, problem = manifest["tokens"], manifest["input"], manifest["problem_type"]
        task = manifest["task"]
        if kind not in _INPUTS.get(task, ()) or problem not in PROBLEMS:
            raise ValueError("it is of a kind that this embedkit does not know")
        checked_tag_task(manifest)
        tokenizer = Tokenizer.from_file(
            folder / TOKENIZER, max_length=tokens["max_length"], pad_id=tokens["pad_id"], side=tokens["side"]
        )
    except KeyError as error:
        raise ArtifactError(f"{folder}: its manifest lacks {error}; make the folder again") from None
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{folder}: its manifest is damaged: {error}; make the folder again") from None
    model = _model(folder, task, len(codec))
    about = {name: manifest[name] for name in _ABOUT if name in manifest}
    found: TunedClassifier | TunedTagger
    if task == "tokens":
        found = TunedTagger(model, tokenizer, codec, about)
    else:
        found = TunedClassifier(model, tokenizer, codec, kind, problem == PROBLEMS[1], about)
    found.device, found.threads = device, threads
    found.batch_tokens = batch_tokens or BATCH_TOKENS
    found.load_seconds = time.perf_counter() - start
    return found


def tuned_said(settings: TuneSettings, tuned: Tuned) -> dict[str, Any]:
    """Return all that a fine-tuning was told and decided, as JSON."""
    learnt = sum(part.trainable for part in tuned.parts)
    return {**settings_said(settings, tuned.trained, tuned.rate), "trainable_parameters": learnt}


def _model(folder: Path, task: str, labels: int) -> Any:  # noqa: ANN401 - a family's own
    from embedkit.training.answers import open_trained

    try:
        return open_trained(read_folder(Resolved(folder, str(folder), "folder")).path, task, labels)
    except ModelError as error:
        raise ArtifactError(f"{error}; make the folder again") from None
