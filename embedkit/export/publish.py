"""From a trained classifier or an encoder to a folder that answers without torch; no parity, no folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from embedkit.artifact import installed, staged, write_json, write_manifest
from embedkit.encoders import FeatureExtractor, ModelFolder
from embedkit.errors import require
from embedkit.export.finetuned import TaskSource, Tuned
from embedkit.export.folder import GRAPH, SMALL, card, write_config, write_tokenizer
from embedkit.export.frozen import FrozenSource, Trained
from embedkit.export.outcomes import answering
from embedkit.export.parity import Input, Parity, compare, encoded, longest_windows
from embedkit.export.source import Source
from embedkit.export.speed import Latency, latencies
from embedkit.export.verdict import FLOAT, INT8, Answer, Trial, Verdict, decide_int8
from embedkit.export.words import FrozenWordSource
from embedkit.runtime.batching import plan
from embedkit.runtime.manifest import EXPORTED
from embedkit.runtime.model_folder import TOKENIZER
from embedkit.runtime.predictor import Batching, Predictor
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
    int8 : Verdict, optional
        Where one was asked for.
    """

    folder: Path
    parity: Parity
    size: int
    latency: Latency
    int8: Verdict | None = None


def export_classifier(
    trained: Trained,
    target: Path,
    texts: Sequence[Input],
    *,
    trial: Trial | None = None,
    overwrite: bool = False,
    threads: int | None = None,
) -> Exported:
    """Write a classifier or a tagger as one graph from token ids to logits, with all that its folder needs.

    Parameters
    ----------
    trained : Trained
    target : Path
        Where the folder shall be.
    texts : sequence of str, of (str, str), or of list of str
        Real ones, from which the texts of the parity check are chosen; for a tagger texts are split into words.
    trial : Trial, optional
        Also make an int8 graph, and publish it if it holds on these rows.
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
    words = trained.kind == "tokens"
    source = FrozenWordSource(trained, texts) if words else FrozenSource(trained, cast("Sequence[Text]", texts))
    return _export(source, target, trial, overwrite=overwrite, threads=threads)


def export_encoder(
    extractor: FeatureExtractor,
    target: Path,
    texts: Sequence[str],
    *,
    trial: Trial | None = None,
    overwrite: bool = False,
    threads: int | None = None,
) -> Exported:
    """Write an encoder as one graph from token ids to the last hidden state and the text's vector.

    Parameters and errors are those of `export_classifier`.
    """
    _require_all()
    return _export(FrozenSource(extractor, texts), target, trial, overwrite=overwrite, threads=threads)


def export_task_model(
    folder: ModelFolder,
    task: str,
    target: Path,
    inputs: Sequence[Input],
    *,
    max_length: int | None = None,
    tuned: Tuned | None = None,
    tag_task: str = "auto",
    trial: Trial | None = None,
    overwrite: bool = False,
    threads: int | None = None,
) -> Exported:
    """Write a classifier of transformers as one graph from token ids to its own logits.

    Parameters
    ----------
    folder : ModelFolder
        With weights of a head.
    task : {"sequence", "tokens"}
    inputs, max_length, tuned, tag_task
        As for `embedkit.export.finetuned.TaskSource`.
    target, trial, overwrite, threads
        As for `export_classifier`.

    Raises
    ------
    ModelError
        The head was never trained, or the model gives a number and no label.
    ExportError, OutputExistsError
        As for `export_classifier`.
    """
    _require_all()
    source = TaskSource(folder, task, inputs, max_length=max_length, tuned=tuned, tag_task=tag_task)
    return _export(source, target, trial, overwrite=overwrite, threads=threads)


def _require_all() -> None:
    for module in ("torch", "transformers", "onnx", "onnxscript", "onnxruntime"):
        require(module, extra="train", purpose="exporting to ONNX")


def _export(
    source: Source, target: Path, trial: Trial | None, *, overwrite: bool, threads: int | None
) -> Exported:
    """Build the folder beside its place, and move it there if the graph answers as its source."""
    with staged(target, overwrite=overwrite) as stage:
        (stage / GRAPH).parent.mkdir()
        expected = source.expected(threads)
        size, names = _trace(source, stage / GRAPH)
        write_tokenizer(stage, source.folder, source.tokenizer, names, source.inputs)
        write_config(stage, source.folder.config, source.description)
        for name, content in source.beside.items():
            (stage / name).parent.mkdir(exist_ok=True)
            write_json(stage / name, content)
        opener = _opener(source, stage, threads)
        predictor = opener(stage / GRAPH, batching=_together)
        lengths = longest_windows(encoded(source.tokenizer, source.inputs))
        parity = compare(source.inputs, lengths, expected, source.answer_of(predictor), source.decide)
        one = _sentence(source, lengths)
        exported = Exported(target, parity, size, _time(predictor, *one, threads))
        if trial is not None:
            exported = replace(exported, int8=_small(stage, trial, opener, one, threads))
        (stage / "README.md").write_text(_card(source, exported), encoding="utf-8")
        write_manifest(stage, _manifest(source, exported))
    return exported


class _Opener(Protocol):
    def __call__(self, graph: Path, *, batching: Batching = ...) -> Predictor: ...


def _opener(source: Source, stage: Path, threads: int | None) -> _Opener:
    """Return what opens a graph of the folder as the runtime does."""

    def opened(graph: Path, *, batching: Batching = plan) -> Predictor:
        session = open_session(graph, threads)
        return Predictor(source.description, stage / TOKENIZER, session, batching=batching)

    return opened


def _small(stage: Path, trial: Trial, opener: _Opener, one: tuple[Input, int], threads: int | None) -> Verdict:
    """Make the int8 graph, and leave it where it holds."""
    answers = answering(trial.fit, opener(stage / GRAPH))

    def opened(graph: Path) -> Answer:
        return answers(opener(graph))

    return decide_int8(trial, stage / GRAPH, stage / SMALL, opened, one, threads)


def _trace(source: Source, path: Path) -> tuple[int, list[str]]:
    """Write the graph; return its size and what it takes."""
    from embedkit.export.graph import write_graph

    graph = source.graph()
    tokens = encoded(source.tokenizer, source.inputs[1:3] or source.inputs)
    examples = np.split(tokens.ids, tokens.offsets[1:-1])
    return write_graph(graph, path, examples, source.description.pad_id), graph.inputs


def _sentence(source: Source, lengths: NDArray[np.int64]) -> tuple[Input, int]:
    """Return an input of about the length of a sentence, and its tokens."""
    place = int(np.abs(lengths - _SENTENCE).argmin())
    return source.inputs[place], int(lengths[place])


def _time(predictor: Predictor, given: Any, tokens: int, threads: int | None) -> Latency:  # noqa: ANN401 - a row
    answers: dict[str, Callable[[list[Any]], object]] = {
        "sequence": predictor.answer,
        "tokens": predictor.tag,
        "encoder": predictor.encode,
    }
    answer = answers[predictor.description.task]
    return latencies({FLOAT: lambda: answer([given])}, tokens, threads)[FLOAT]


def _card(source: Source, exported: Exported) -> str:
    resolved = source.folder.resolved
    # a folder's place on this machine is nobody's business
    name = resolved.name if resolved.repository else Path(resolved.name).name
    return card(
        source.description, name, source.metrics, exported.parity, exported.latency, exported.size, exported.int8
    )


def _manifest(source: Source, exported: Exported) -> dict[str, Any]:
    verdict = exported.int8
    small = {INT8: SMALL} if verdict is not None and verdict.published else {}
    description = replace(source.description, graphs={**source.description.graphs, **small})
    return {
        "kind": EXPORTED,
        **description.to_json(),
        **source.about,
        "parity": exported.parity.to_json(),
        **({} if verdict is None else {INT8: verdict.to_json()}),
        "versions": installed(_VERSIONS),
    }


def _together(lengths: NDArray[np.int64], batch_tokens: int) -> list[NDArray[np.int64]]:
    """Put all windows into one batch, however much of it is padding."""
    return [np.arange(len(lengths))]
