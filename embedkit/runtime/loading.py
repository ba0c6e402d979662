"""A folder with an ONNX graph becomes a predictor: one that embedkit wrote, or one of others."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from embedkit.errors import ArtifactError, ModelError, UsageError
from embedkit.runtime.description import Description
from embedkit.runtime.foreign import checked_external, describe, foreign_graphs, read_foreign
from embedkit.runtime.manifest import EXPORTED, MANIFEST, kind_of, read_manifest, stamps_of
from embedkit.runtime.model_folder import TOKENIZER
from embedkit.runtime.predictor import BATCH_TOKENS, Predictor
from embedkit.runtime.session import open_session

# What `Predictor.about` says of a folder without a manifest.
_FOREIGN = {"label_dtype": "str"}


def load(
    folder: str | Path, precision: str = "float32", threads: int | None = None, *, batch_tokens: int = BATCH_TOKENS
) -> Predictor:
    """Open a folder of ``embedkit export-onnx``, every file's digest checked first; or an ONNX folder of others.

    Parameters
    ----------
    folder : str or Path
        Others' have ``model.onnx``, ``config.json``, ``tokenizer.json`` and what stands beside them; the graph
        may also be in ``onnx/``, and ``model_quantized.onnx`` or ``model_int8.onnx`` are int8.
    precision : {"float32", "int8"}, default "float32"
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
        There is no such folder, or a file of it is missing.
    ArtifactError
        The folder is damaged, foreign without being an ONNX folder, or too new; or a file leads out of it.
    UsageError
        There is no graph of that precision, or a number is none.
    """
    folder = Path(folder)
    for name, value in (("threads", threads), ("batch_tokens", batch_tokens)):
        if value is not None and (type(value) is not int or value < 1):
            raise UsageError(f"{name} is {value!r}; it must be an integer of at least 1")
    if is_foreign(folder):
        return _load_foreign(folder, precision, threads, batch_tokens)
    before = stamps_of(folder)
    manifest = read_manifest(folder, kind=EXPORTED)
    description = _described(folder, manifest)
    graph = PurePosixPath(_graph(folder, description.graphs, precision))
    beside = {
        PurePosixPath(name).relative_to(graph.parent).as_posix()
        for name in manifest["files"]
        if PurePosixPath(name).is_relative_to(graph.parent)
    }
    session = open_session(folder / graph, threads, external=beside)
    predictor = Predictor(description, folder / TOKENIZER, session, batch_tokens=batch_tokens, about=manifest)
    if stamps_of(folder) != before:  # labels of one folder, perhaps, and the graph of another
        raise ArtifactError(f"{folder} was replaced or changed while it was opened; open it again")
    return predictor


def answers_alone(folder: Path) -> bool:
    """Say whether `load` is what opens a folder, by its looks; nothing is checked."""
    return kind_of(folder) == EXPORTED or is_foreign(folder)


def is_foreign(folder: Path) -> bool:
    """Say whether a folder looks like an ONNX folder that others made."""
    return folder.is_dir() and not os.path.lexists(folder / MANIFEST) and bool(foreign_graphs(folder))


def _described(folder: Path, manifest: Mapping[str, Any]) -> Description:
    try:
        description = Description.from_json(manifest)
        unlisted = {TOKENIZER, *description.graphs.values()} - set(manifest["files"])
        if unlisted:
            raise ValueError(f"{min(unlisted)} is not among its files")
    except KeyError as error:
        raise ArtifactError(f"{folder}: its manifest lacks {error}; make the folder again") from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ArtifactError(f"{folder}: its manifest is damaged: {error}; make the folder again") from None
    return description


def _graph(folder: Path, graphs: Mapping[str, str], precision: str) -> str:
    if precision not in graphs:
        raise UsageError(f"{folder} holds no graph in {precision}; there is {', '.join(graphs)}")
    return graphs[precision]


def _load_foreign(folder: Path, precision: str, threads: int | None, batch_tokens: int) -> Predictor:
    graphs = foreign_graphs(folder)
    graph = _graph(folder, graphs, precision)
    try:
        facts = read_foreign(folder)
        external = checked_external(folder, graph)
        session = open_session(folder / graph, threads, external=external)
        description = describe(facts, graphs, session)
        return Predictor(description, facts.path / TOKENIZER, session, batch_tokens=batch_tokens, about=_FOREIGN)
    except ModelError as error:
        raise ArtifactError(str(error)) from None
