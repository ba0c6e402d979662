"""From a trained classifier or an encoder to a folder that answers without torch; no parity, no folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedkit.artifact import installed, staged, write_manifest
from embedkit.encoders import FeatureExtractor, ModelFolder
from embedkit.errors import require
from embedkit.export.finetuned import TaskSource
from embedkit.export.folder import GRAPH, card, write_config, write_tokenizer
from embedkit.export.frozen import FrozenSource, Trained
from embedkit.export.parity import Input, Parity, compare, encoded
from embedkit.export.source import Source
from embedkit.export.speed import Latency, latency
from embedkit.runtime.manifest import EXPORTED
from embedkit.runtime.model_folder import TOKENIZER
from embedkit.runtime.predictor import Predictor
from embedkit.runtime.session import open_session
from embedkit.runtime.tokens import Text

_SENTENCE = 25  # tokens
_VERSIONS = ("embedkit", "numpy", "tokenizers", "torch", "transformers", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes
    ----------
    folder : Path
    parity : Parity
    size : int
        Bytes of the graph.
    latency : Latency
        Of one text, of about 25 tokens where there is one.
    """

    folder: Path
    parity: Parity
    size: int
    latency: Latency


def export_classifier(
    trained: Trained, target: Path, texts: Sequence[Text], *, overwrite: bool = False, threads: int | None = None
) -> Exported:
    """Write a classifier as one graph from token ids to logits, with all that its folder needs.

    Parameters
    ----------
    trained : Trained
    target : Path
        Where the folder shall be.
    texts : sequence of str, or of (str, str)
        Real ones, from which the texts of the parity check are chosen.
    overwrite : bool, default False
        Replace an embedkit folder that is there.
    threads : int, optional
        Of the check.

    Raises
    ------
    ExportError
        The head or the encoder's settings have no form as a graph, or the graph answers otherwise. Nothing is
        left behind.
    OutputExistsError
        The target is there and may not be replaced.
    """
    _require_all()
    return _export(FrozenSource(trained, texts), target, overwrite=overwrite, threads=threads)


def export_encoder(
    extractor: FeatureExtractor,
    target: Path,
    texts: Sequence[str],
    *,
    overwrite: bool = False,
    threads: int | None = None,
) -> Exported:
    """Write an encoder as one graph from token ids to the last hidden state and the text's vector.

    Parameters and errors are those of `export_classifier`.
    """
    _require_all()
    return _export(FrozenSource(extractor, texts), target, overwrite=overwrite, threads=threads)


def export_task_model(
    folder: ModelFolder,
    task: str,
    target: Path,
    inputs: Sequence[Input],
    *,
    max_length: int | None = None,
    overwrite: bool = False,
    threads: int | None = None,
) -> Exported:
    """Write a classifier of transformers as one graph from token ids to its own logits.

    Parameters
    ----------
    folder : ModelFolder
        With weights of a head.
    task : {"sequence", "tokens"}
    inputs, max_length
        As for `embedkit.export.finetuned.TaskSource`.
    target, overwrite, threads
        As for `export_classifier`.

    Raises
    ------
    ModelError
        The head was never trained, or the model gives a number and no label.
    ExportError, OutputExistsError
        As for `export_classifier`.
    """
    _require_all()
    source = TaskSource(folder, task, inputs, max_length=max_length)
    return _export(source, target, overwrite=overwrite, threads=threads)


def _require_all() -> None:
    for module in ("torch", "transformers", "onnx", "onnxscript", "onnxruntime"):
        require(module, extra="train", purpose="exporting to ONNX")


def _export(source: Source, target: Path, *, overwrite: bool, threads: int | None) -> Exported:
    """Build the folder beside its place, and move it there if the graph answers as its source."""
    with staged(target, overwrite=overwrite) as stage:
        (stage / GRAPH).parent.mkdir()
        expected = source.expected(threads)
        size, names = _trace(source, stage / GRAPH)
        write_tokenizer(stage, source.folder, source.tokenizer, names, source.inputs)
        write_config(stage, source.folder.config, source.description)
        session = open_session(stage / GRAPH, threads)
        predictor = Predictor(source.description, stage / TOKENIZER, session, batching=_together)
        lengths = encoded(source.tokenizer, source.inputs).lengths
        parity = compare(source.inputs, lengths, expected, source.answer_of(predictor), source.decide)
        exported = Exported(target, parity, size, _time(source, predictor, lengths, threads))
        said = card(
            source.description, source.folder.resolved.name, source.metrics, parity, exported.latency, size
        )
        (stage / "README.md").write_text(said, encoding="utf-8")
        write_manifest(stage, _manifest(source, parity))
    return exported


def _trace(source: Source, path: Path) -> tuple[int, list[str]]:
    """Write the graph; return its size and what it takes."""
    from embedkit.export.graph import write_graph

    graph = source.graph()
    tokens = encoded(source.tokenizer, source.inputs[1:3] or source.inputs)
    examples = np.split(tokens.ids, tokens.offsets[1:-1])
    return write_graph(graph, path, examples, source.description.pad_id), graph.inputs


def _time(source: Source, predictor: Predictor, lengths: NDArray[np.int64], threads: int | None) -> Latency:
    """Time one text of about the length of a sentence."""
    place = int(np.abs(lengths - _SENTENCE).argmin())
    given: list[Any] = [source.inputs[place]]
    answers: dict[str, Callable[[list[Any]], object]] = {
        "sequence": predictor.answer,
        "tokens": predictor.tag,
        "encoder": predictor.encode,
    }
    answer = answers[source.description.task]
    return latency(lambda: answer(given), int(lengths[place]), threads)


def _manifest(source: Source, parity: Parity) -> dict[str, Any]:
    return {
        "kind": EXPORTED,
        **source.description.to_json(),
        **source.about,
        "parity": parity.to_json(),
        "versions": installed(_VERSIONS),
    }


def _together(lengths: NDArray[np.int64], batch_tokens: int) -> list[NDArray[np.int64]]:
    """Put all windows into one batch, however much of it is padding."""
    return [np.arange(len(lengths))]
