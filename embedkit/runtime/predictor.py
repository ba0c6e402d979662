"""Answers of an exported folder: numpy, tokenizers and onnxruntime, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedkit.errors import ArtifactError, DataError, UsageError
from embedkit.runtime.batching import pad, plan
from embedkit.runtime.decide import Thresholds, decide, probabilities
from embedkit.runtime.manifest import EXPORTED, read_manifest
from embedkit.runtime.texts import check_texts, check_unicode, chunks_of
from embedkit.runtime.tokens import Side, Text, Tokenizer, Tokens
from embedkit.runtime.windows import WindowMerger

Label: TypeAlias = str | int | float | bool
BATCH_TOKENS = 1024  # most tokens of a batch: what the caches of a CPU core bear
TOKENIZER = "tokenizer.json"
_PROBLEMS = ("single_label_classification", "multi_label_classification")


@dataclass(frozen=True)
class Description:
    """What ``embedkit.json`` says of an exported folder.

    Attributes
    ----------
    task : {"sequence", "encoder"}
        What the graph gives: logits, or vectors.
    input : {"text", "pair"}
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
    long : {"truncate", "mean"}
        What becomes of longer texts.
    normalize : bool
        Whether vectors are scaled to length 1.
    bias : tuple of float
        What logits are at a vector of zeros; needed for windows of normalised vectors, else empty.
    width : int
        Numbers of a vector.
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

    @property
    def names(self) -> tuple[str, ...]:
        """The labels as they are printed."""
        return tuple(map(str, self.labels))

    @property
    def merges(self) -> bool:
        """Whether windows are put together before they are normalised, from the output ``pooled``."""
        return self.long == "mean" and self.normalize

    def decide(self, scores: NDArray[np.floating[Any]]) -> tuple[NDArray[np.floating[Any]] | None, NDArray[Any]]:
        """Return the probabilities of scores, where there are some, and the classes: as `Answers` has them."""
        known = probabilities(scores, multi_label=self.multi_label) if self.has_probabilities else None
        if self.thresholds is None:
            return known, decide(scores, multi_label=self.multi_label)
        return known, self.thresholds.decide(scores if known is None else known, multi_label=self.multi_label)

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads back."""
        return {
            "task": self.task,
            "input": self.input,
            "graphs": dict(self.graphs),
            "labels": list(self.labels),
            "problem_type": _PROBLEMS[self.multi_label],
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
        }

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> Description:
        """Read back what `to_json` gave; `ValueError`, `TypeError` or `KeyError` where it is something else."""
        tokens, thresholds = described["tokens"], described["thresholds"]
        found = cls(
            task=_one_of(described["task"], ("sequence", "encoder")),
            input=_one_of(described["input"], ("text", "pair")),
            graphs={str(name): _of_type(file, str) for name, file in described["graphs"].items()},
            labels=tuple(_of_type(described["labels"], list)),
            multi_label=_one_of(described["problem_type"], _PROBLEMS) == _PROBLEMS[1],
            has_probabilities=_of_type(described["has_probabilities"], bool),
            thresholds=None if thresholds is None else Thresholds.from_json(thresholds),
            max_length=_of_type(tokens["max_length"], int),
            side=_one_of(tokens["side"], ("right", "left")),
            prompt=_of_type(tokens["prompt"], str),
            lowercase=_of_type(tokens["lowercase"], bool),
            pad_id=_of_type(tokens["pad_id"], int),
            long=_one_of(described["long"], ("truncate", "mean")),
            normalize=_of_type(described["normalize"], bool),
            bias=tuple(float(value) for value in _of_type(described["bias"], list)),
            width=_of_type(described["width"], int),
        )
        found._check()
        return found

    def _check(self) -> None:
        if not all(isinstance(label, str | int | float) for label in self.labels):
            raise TypeError("labels are not strings or numbers")
        if len(set(self.names)) < len(self.labels) or (self.task == "sequence") != bool(self.labels):
            raise ValueError(f"{len(self.labels)} labels of the task {self.task}, some of them equal")
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


def _one_of(value: Any, allowed: tuple[Any, ...]) -> Any:  # noqa: ANN401 - one of those
    if value not in allowed:
        raise ValueError(f"{value!r} is none of {', '.join(map(repr, allowed))}")
    return value


class Answers(NamedTuple):
    """Answers in input order.

    Attributes
    ----------
    codes : ndarray of int64, shape (n,), or of bool, shape (n, C)
        Classes; or which labels each row has.
    probabilities : ndarray of float64, shape (n, C), or None
        None where the classifier has none.
    scores : ndarray of float64, shape (n,) or (n, C), or None
        Where there are no probabilities: above 0 means yes, or the greatest wins.
    truncated, empty : ndarray of bool, shape (n,)
        Inputs that lost tokens, and inputs that hold nothing that the tokenizer knows.
    """

    codes: NDArray[Any]
    probabilities: NDArray[np.floating[Any]] | None
    scores: NDArray[np.floating[Any]] | None
    truncated: NDArray[np.bool_]
    empty: NDArray[np.bool_]


class Predictor:
    """An exported classifier or encoder, opened; safe to use from several threads.

    Parameters
    ----------
    description : Description
    tokenizer : Path
        ``tokenizer.json``.
    graph : Path
        One ONNX file.
    threads : int, optional
        Of a forward pass. Default: one a core.
    batch_tokens : int, default 1024
        Most tokens of a batch, padding included.
    batching : callable, optional
        Cuts windows into batches; default `embedkit.runtime.batching.plan`.
    about : mapping, optional
        The folder's manifest.

    Raises
    ------
    ArtifactError
        The graph cannot be opened, or has not the inputs and outputs that are described.
    """

    def __init__(
        self,
        description: Description,
        tokenizer: Path,
        graph: Path,
        *,
        threads: int | None = None,
        batch_tokens: int = BATCH_TOKENS,
        batching: Callable[[NDArray[np.int64], int], list[NDArray[np.int64]]] = plan,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.description = description
        self.about: Mapping[str, Any] = about or {}
        self.batch_tokens = batch_tokens
        self._batching = batching
        self._tokenizer = Tokenizer.from_file(
            tokenizer,
            max_length=description.max_length,
            pad_id=description.pad_id,
            side=description.side,
            prompt=description.prompt,
            lowercase=description.lowercase,
        )
        self._bias = np.array(description.bias, dtype=np.float32)
        self._session = _open(graph, threads)
        self._inputs = {entry.name for entry in self._session.get_inputs()}
        own = "sentence_embedding" if description.task == "encoder" else "logits"
        self._outputs = [own, *["pooled"] * description.merges]
        self._check_graph(graph)

    def _check_graph(self, graph: Path) -> None:
        """Refuse a graph that does not take and give what is described."""
        outputs = {entry.name: entry.shape for entry in self._session.get_outputs()}
        unknown = self._inputs - {"input_ids", "attention_mask", "token_type_ids"}
        if (
            unknown
            or not {"input_ids", "attention_mask"} <= self._inputs
            or not set(self._outputs) <= set(outputs)
        ):
            raise ArtifactError(
                f"{graph}: a graph from {', '.join(sorted(self._inputs))} to {', '.join(sorted(outputs))} is not "
                f"what {', '.join(self._outputs)} can be had of; make the folder again"
            )
        shape = outputs[self._outputs[0]]
        if len(shape) != 2 or shape[1] != self._width:
            raise ArtifactError(
                f"{graph}: {self._outputs[0]} is of shape {shape}, but {self._width} numbers a text are "
                "described; make the folder again"
            )

    @property
    def _width(self) -> int:
        return self.description.width if self.description.task == "encoder" else len(self.labels)

    @property
    def labels(self) -> tuple[Label, ...]:
        """The labels, in the order of their codes and of the columns of probabilities."""
        return self.description.labels

    # ------------------------------------------------------------------------------------------- answers

    def predict(self, texts: Sequence[Text]) -> list[Any]:
        """Return the label of each text; a list of labels where it may have several.

        Parameters
        ----------
        texts : sequence of str, or of (str, str)
            As the classifier was trained on.

        Raises
        ------
        DataError
            An input is not what the classifier reads.
        UsageError
            The folder holds an encoder.
        """
        codes = self.answer(texts).codes
        if self.description.multi_label:
            return [[self.labels[place] for place in np.flatnonzero(row)] for row in codes]
        return [self.labels[code] for code in codes.tolist()]

    def predict_proba(self, texts: Sequence[Text]) -> NDArray[np.float64]:
        """Return probabilities, float64 (n, C); rows sum to 1, unless texts have several labels.

        Raises
        ------
        UsageError
            The classifier has scores and no probabilities, or the folder holds an encoder.
        """
        found = self.answer(texts).probabilities
        if found is None:
            raise UsageError("this classifier gives scores and no probabilities; train it with --calibrate")
        return np.asarray(found, dtype=np.float64)

    def decision_function(self, texts: Sequence[Text]) -> NDArray[np.float64]:
        """Return scores, float64 (n,) for two classes, above 0 meaning the second; else (n, C)."""
        self.require("sequence")
        return self._scores(self._run(texts, None).values)

    def encode(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Return vectors, float32 (n, D).

        Raises
        ------
        UsageError
            The folder holds a classifier.
        """
        self.require("encoder")
        return self._run(texts, None).values

    def answer(self, texts: Sequence[Text], *, rows: NDArray[np.int64] | None = None) -> Answers:
        """Classify; `rows` are what messages call the texts (default: 1 to n)."""
        self.require("sequence")
        run = self._run(texts, rows)
        scores = self._scores(run.values)
        known, codes = self.description.decide(scores)
        return Answers(codes, known, scores if known is None else None, run.truncated, run.empty)

    def require(self, task: str) -> None:
        """Raise `UsageError` unless the folder holds a classifier (``"sequence"``) or an encoder."""
        if self.description.task != task:
            have, lack = ("an encoder", "labels") if task == "sequence" else ("a classifier", "vectors")
            raise UsageError(f"this folder holds {have}, which gives no {lack}")

    def _scores(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return scores as heads give them: for two classes (n,)."""
        wide = logits.astype(np.float64)
        return wide[:, 1] - wide[:, 0] if len(self.labels) == 2 and not self.description.multi_label else wide

    # ----------------------------------------------------------------------------------------- computing

    def _run(self, texts: Sequence[Text], rows: NDArray[np.int64] | None) -> _Run:
        self._check(texts, rows)
        texts = list(texts)  # arrays and series are taken apart once
        values = np.empty((len(texts), self._width), np.float32)
        truncated, empty = np.zeros(len(texts), bool), np.zeros(len(texts), bool)
        for part in chunks_of(texts):
            tokens = self._tokenizer.encode(texts[part], windows=self.description.long == "mean")
            truncated[part], empty[part] = tokens.truncated, self._tokenizer.without_tokens(tokens)
            merger = WindowMerger(tokens)
            for windows, outputs in self._outputs_of(tokens):
                done, ready = merger.add(windows, self._carried(outputs)[None])
                values[part.start + done] = self._settled(ready[0])
        return _Run(values, truncated, empty)

    def _check(self, texts: Sequence[Text], rows: NDArray[np.int64] | None) -> None:
        if isinstance(texts, str):
            raise UsageError("give a list of texts, not one text")
        numbers = None if rows is None else rows.tolist()
        check_texts(texts, numbers)
        check_unicode(texts, numbers)
        if len(texts) and isinstance(texts[0], tuple) != (self.description.input == "pair"):
            raise DataError(f"this folder reads {self.description.input}s; the input is of the other kind")

    def _outputs_of(self, tokens: Tokens) -> Iterator[tuple[NDArray[np.int64], list[NDArray[np.float32]]]]:
        """Yield the windows of each batch and the graph's outputs for them."""
        for windows in self._batching(tokens.lengths, self.batch_tokens):
            batch = pad(tokens, windows, self.description.pad_id)
            given = {"input_ids": batch.input_ids, "attention_mask": batch.mask()}
            if "token_type_ids" in self._inputs:
                types = batch.type_ids
                given["token_type_ids"] = np.zeros_like(batch.input_ids) if types is None else types
            yield windows, self._session.run(self._outputs, given)

    def _carried(self, outputs: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return what windows are averaged in, shape (B, ...).

        Vectors are averaged before they are normalised. Logits of a normalised vector v / |v| are
        W v / |v| + b, so that (logits - b) |v| is W v, which is linear and can be averaged beside v.
        """
        if not self.description.merges:
            return outputs[0]
        own, pooled = outputs
        if self.description.task == "encoder":
            return pooled
        norms = np.linalg.norm(pooled, axis=1, keepdims=True)
        return np.hstack([(own - self._bias) * norms, pooled])

    def _settled(self, merged: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return vectors or logits from what `_carried` gave, averaged."""
        if not self.description.merges:
            return merged
        start = 0 if self.description.task == "encoder" else len(self.labels)
        norms = np.linalg.norm(merged[:, start:], axis=1, keepdims=True)
        norms = np.where(norms > 0, norms, 1)
        if self.description.task == "encoder":
            return np.asarray(merged / norms, dtype=np.float32)
        return np.asarray(merged[:, :start] / norms + self._bias, dtype=np.float32)


class _Run(NamedTuple):
    values: NDArray[np.float32]
    truncated: NDArray[np.bool_]
    empty: NDArray[np.bool_]


def _open(graph: Path, threads: int | None) -> Any:  # noqa: ANN401 - onnxruntime.InferenceSession
    """Open a graph on the CPU; its weights must be in the file itself."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors are raised; warnings are about the graph, not for the user
    try:
        return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own
        reason = " ".join(str(error).split())[:200]
        raise ArtifactError(f"{graph}: onnxruntime cannot open this graph: {reason}") from None


def load(
    folder: str | Path, precision: str = "float32", threads: int | None = None, *, batch_tokens: int = BATCH_TOKENS
) -> Predictor:
    """Open a folder of ``embedkit export-onnx``; every file's digest is checked first.

    Parameters
    ----------
    folder : str or Path
    precision : {"float32"}, default "float32"
        Which of the folder's graphs.
    threads : int, optional
        Of a forward pass. Default: one a core.
    batch_tokens : int, default 1024
        Most tokens of a batch, padding included. More than one text a batch never changes an answer by more
        than float32 rounding.

    Returns
    -------
    Predictor

    Raises
    ------
    InputMissingError
        There is no such folder.
    ArtifactError
        The folder is damaged, foreign or too new.
    UsageError
        There is no graph of that precision, or a number is none.
    """
    folder = Path(folder)
    for name, value in (("threads", threads), ("batch_tokens", batch_tokens)):
        if value is not None and (type(value) is not int or value < 1):
            raise UsageError(f"{name} is {value!r}; it must be an integer of at least 1")
    manifest = read_manifest(folder, kind=EXPORTED)
    try:
        description = Description.from_json(manifest)
        unlisted = {TOKENIZER, *description.graphs.values()} - set(manifest["files"])
        if unlisted:
            raise ValueError(f"{min(unlisted)} is not among its files")
    except KeyError as error:
        raise ArtifactError(f"{folder}: its manifest lacks {error}; make the folder again") from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ArtifactError(f"{folder}: its manifest is damaged: {error}; make the folder again") from None
    if precision not in description.graphs:
        raise UsageError(f"{folder} holds no graph in {precision}; there is {', '.join(description.graphs)}")
    graph = folder / description.graphs[precision]
    return Predictor(
        description, folder / TOKENIZER, graph, threads=threads, batch_tokens=batch_tokens, about=manifest
    )
