"""A classifier of texts, pairs or words that transformers trained, in its own folder, as the source of a graph."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedkit.encoders import ModelFolder
from embedkit.errors import ExportError, UsageError
from embedkit.export.folder import GRAPH, splits_alike, transformers_tokenizer
from embedkit.export.parity import Input, encoded, parity_inputs, split_into_words
from embedkit.export.source import Answer
from embedkit.runtime.decide import Label
from embedkit.runtime.description import Description
from embedkit.runtime.entities import has_spans
from embedkit.runtime.manifest import TAG_TASK
from embedkit.runtime.model_folder import is_multi_label, labels_of, task_of
from embedkit.runtime.predictor import Predictor
from embedkit.runtime.tagging import decoding_for
from embedkit.runtime.tokens import Tokenizer
from embedkit.store import FileDigests

if TYPE_CHECKING:
    from embedkit.export.graph import TaskGraph


@dataclass(frozen=True, eq=False)
class Tuned:
    """What embedkit knows of a classifier that it fine-tuned, beside the folder.

    Attributes
    ----------
    labels : tuple
        In the order of the logits, as they were given.
    label_dtype : str
    kind : {"text", "pair", "tokens"}
    about : mapping
        What the folder shall keep of the training.
    metrics : mapping, optional
        ``metrics.json``.
    """

    labels: tuple[Label, ...]
    label_dtype: str
    kind: str
    about: Mapping[str, Any]
    metrics: Mapping[str, Any] | None = None


class TaskSource:
    """A folder with a classification head; see `embedkit.export.source.Source`.

    Parameters
    ----------
    folder : ModelFolder
    task : {"sequence", "tokens"}
    inputs : sequence of str, of (str, str), or of list of str
        Real ones; for tokens texts are split by `embedkit.runtime.words.split_words`. Whether the classifier
        reads texts or pairs is told from them.
    max_length : int, optional
        Most tokens of an input. Default: the folder's.
    tuned : Tuned, optional
        Where embedkit fine-tuned it.
    tag_task : {"auto", "ner", "chunk", "pos"}, default "auto"
        What is known of the tags of a model that others trained.

    Raises
    ------
    ModelError
        The model gives a number and no label.
    ExportError
        Its tokenizer splits texts otherwise in transformers than from its ``tokenizer.json``.
    UsageError
        The folder says that it was trained for the other task, `max_length` is more than the model has positions
        for, or the inputs are of another kind.
    """

    def __init__(
        self,
        folder: ModelFolder,
        task: str,
        inputs: Sequence[Input],
        *,
        max_length: int | None = None,
        tuned: Tuned | None = None,
        tag_task: str = "auto",
    ) -> None:
        if max_length is not None and folder.positions is not None and max_length > folder.positions:
            raise UsageError(
                f"max_length {max_length} is more than {folder.resolved.name} has positions for; allowed: up to "
                f"{folder.positions}"
            )
        said = task_of(folder.config)
        if said not in (None, task):  # a head of another task may have the same names and shapes
            raise UsageError(
                f"{folder.resolved.name} was trained for the task {said}, as the architecture in its config.json "
                f"says; its head is no answer to the task {task}"
            )
        self.folder = folder
        self._tuned = tuned
        self.metrics: Mapping[str, Any] | None = None if tuned is None else tuned.metrics
        self.beside: Mapping[str, Any] = {}
        labels = labels_of(folder.config, folder.path)
        several = task == "sequence" and is_multi_label(folder.config, labels, folder.path)
        given = split_into_words(inputs) if task == "tokens" else list(inputs)
        kind = "pair" if given and isinstance(given[0], tuple) else "text"
        if task == "sequence" and given and isinstance(given[0], list):
            raise UsageError("the model answers for a whole text, and the data are lists of words")
        length = max_length or folder.max_length
        self.tokenizer, self.inputs, self._types = _same_tokenizer(folder, given, length, ours=tuned is not None)
        known = tag_task if tuned is None else tuned.about.get(TAG_TASK, "auto")
        words = task == "tokens" and tuned is not None
        self.description = Description(
            task=task,
            input="tokens" if task == "tokens" else kind if tuned is None else tuned.kind,
            graphs={"float32": GRAPH},
            labels=labels if tuned is None else tuned.labels,
            multi_label=several,
            has_probabilities=True,
            thresholds=None,
            max_length=length,
            side=folder.side,
            prompt="",
            lowercase=False,
            pad_id=folder.pad_id,
            long="windows" if task == "tokens" else "truncate",
            normalize=False,
            bias=(),
            width=folder.hidden,
            decoding=decoding_for(spans=words and has_spans(labels, known)),  # others may not answer in IOB2
            tag_task=known,
        )

    @property
    def about(self) -> Mapping[str, Any]:
        """Where the weights are from."""
        resolved, digests = self.folder.resolved, FileDigests(None)
        told = {"label_dtype": "str"} if self._tuned is None else {"label_dtype": self._tuned.label_dtype}
        return {
            **({} if self._tuned is None else self._tuned.about),
            **told,
            "encoder": {
                "name": resolved.name,
                "repository": resolved.repository,
                "commit": resolved.commit,
                "weights": [digests.sha256(path) for path in self.folder.weights],
            },
        }

    @cached_property
    def _model(self) -> Any:  # noqa: ANN401 - a family's own
        from embedkit.export.graph import open_task_model

        return open_task_model(self.folder, self.description.task)

    @cached_property
    def _takes_types(self) -> bool:
        from embedkit.encoders.torch_encoder import takes_types

        return self._types and takes_types(self._model.config)

    def graph(self) -> TaskGraph:
        """Return the model as it is, with the probabilities of a text."""
        from embedkit.export.graph import TaskGraph

        link = "sigmoid" if self.description.multi_label else "softmax"
        sequence = self.description.task == "sequence"
        return TaskGraph(self._model, link if sequence else None, types=self._takes_types).eval()

    def expected(self, threads: int | None) -> list[NDArray[np.floating[Any]]]:
        """Return the logits of each input, read alone."""
        from embedkit.export.graph import torch_logits

        tokens = encoded(self.tokenizer, self.inputs)
        found = torch_logits(self._model, tokens, types=self._takes_types, threads=threads)
        if self.description.task == "tokens":  # the windows of an input stand one after another
            return np.split(np.concatenate(found), np.cumsum(tokens.row_lengths)[:-1])
        return [logits[None] for logits in found]

    def answer_of(self, predictor: Predictor) -> Answer:
        """Return what gives logits."""
        return predictor.token_logits if self.description.task == "tokens" else predictor.logits

    def decide(self, values: NDArray[np.floating[Any]]) -> NDArray[Any]:
        """Return the codes of logits."""
        if self.description.task == "tokens":
            return np.asarray(values.argmax(axis=1))
        return self.description.decide(self.description.scores(values))[1]


def task_of_folder(folder: ModelFolder) -> str:
    """Return what a folder is exported as: ``"sequence"`` or ``"tokens"`` for a classifier, else ``"encoder"``.

    A sentence-transformers model is an encoder, whatever its configuration was once for.
    """
    if (folder.resolved.folder / "modules.json").exists():
        return "encoder"
    return task_of(folder.config) or "encoder"


def _same_tokenizer(
    folder: ModelFolder, inputs: Sequence[Input], max_length: int, *, ours: bool
) -> tuple[Tokenizer, list[Input], bool]:
    """Return the tokenizer that the model was trained with, the inputs to compare, and whether it gives types.

    That is the ``tokenizer.json`` of a folder of ours, and else the one that transformers makes of the folder: its
    classes change a ``tokenizer.json`` that they read.
    """
    theirs = transformers_tokenizer(folder.path)
    types = theirs is None or "token_type_ids" in theirs.model_input_names
    for path in _tokenizer_files(folder):
        tokenizer = Tokenizer.from_file(path, max_length=max_length, pad_id=folder.pad_id, side=folder.side)
        chosen = parity_inputs(inputs, tokenizer)
        if ours or theirs is None or splits_alike(theirs, tokenizer, chosen):
            return tokenizer, chosen, types
    raise ExportError(
        f"the tokenizer of {folder.resolved.name} splits texts otherwise in transformers than its tokenizer.json "
        "does, so that the graph would be given other tokens than in training"
    )


def _tokenizer_files(folder: ModelFolder) -> Iterator[Path]:
    """Yield the folder's own ``tokenizer.json``, and then the one that transformers makes."""
    from embedkit.encoders.torch_encoder import build_tokenizer

    if folder.tokenizer is not None:
        yield folder.tokenizer
    with tempfile.TemporaryDirectory(prefix="embedkit-") as temporary:
        made = Path(temporary) / "tokenizer.json"
        made.write_text(build_tokenizer(folder.path), encoding="utf-8")
        yield made
