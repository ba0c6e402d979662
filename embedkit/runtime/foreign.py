"""ONNX folders that others made: optimum, transformers.js, sentence-transformers, fastembed's models.

They have no manifest and no digests. What they are for is read from ``config.json`` and from the graph's outputs;
nothing outside of the folder is opened.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from embedkit.errors import ArtifactError, InputMissingError
from embedkit.runtime.description import ANY_INPUT, Description
from embedkit.runtime.manifest import MANIFEST, MARK
from embedkit.runtime.model_folder import (
    CONFIG,
    TOKENIZER,
    ModelFacts,
    is_multi_label,
    labels_of,
    read_facts,
    read_modules,
    task_of,
)
from embedkit.runtime.session import Session, external_files

_NAMES = {"float32": ("model.onnx",), "int8": ("model_quantized.onnx", "model_int8.onnx")}
_PLACES = ("", "onnx/")
_STATES = ("token_embeddings", "last_hidden_state")  # of sentence-transformers, and of transformers
_POOLABLE = ("cls", "mean", "max", "last", "mean_sqrt_len")
_OTHER_HEAD = re.compile(r"For[A-Z]|LMHead")


def foreign_graphs(folder: Path) -> dict[str, str]:
    """Return the graphs by precision that lie where other tools put them; none in other folders."""
    found: dict[str, str] = {}
    for precision, names in _NAMES.items():
        files = [place + name for place in _PLACES for name in names]
        there = [file for file in files if os.path.lexists(folder / file)]
        found |= {precision: there[0]} if there else {}
    return found


def checked_external(folder: Path, graph: str) -> set[str]:
    """Return the files in which a graph says that its weights are, all of them in the folder.

    Raises
    ------
    ArtifactError
        One is elsewhere: an absolute path, a path upwards, a link that leads out.
    InputMissingError
        One is missing.
    """
    locations = external_files(_inside(folder, graph))
    for location in locations:
        parts = PurePosixPath(location).parts
        if not parts or {"..", "/"} & set(parts) or re.search(r"[\\:\0]", location):
            raise ArtifactError(
                f"{folder / graph} has weights in {location!r}, which is no path inside the folder"
            )
        _inside(folder, (PurePosixPath(graph).parent / location).as_posix())
    return locations


def read_foreign(folder: Path) -> ModelFacts:
    """Read the small files of a folder; nothing of them is a link out of it.

    Raises
    ------
    ArtifactError
        One is damaged, leads elsewhere or is of a kind that is not supported; or embedkit wrote the folder, and
        its manifest has gone.
    InputMissingError
        ``config.json`` or ``tokenizer.json`` is missing.
    """
    for pattern in ("*.json", "*/*.json"):
        for path in folder.glob(pattern):
            _inside(folder, path.relative_to(folder).as_posix())
    modules = read_modules(folder)
    for name in (CONFIG, TOKENIZER):
        _inside(folder, (PurePosixPath(modules[0][1] if modules else "") / name).as_posix())
    facts = read_facts(folder, modules)
    if MARK in facts.config:
        raise ArtifactError(
            f"{folder} was written by embedkit and has lost its {MANIFEST}, without which nothing is checked; "
            "restore it or make the folder again"
        )
    return facts


def describe(facts: ModelFacts, graphs: dict[str, str], session: Session) -> Description:
    """Return what a folder's files and its open graph say together.

    Raises
    ------
    ArtifactError
        They contradict each other, or the graph gives what is not supported.
    """
    task, output = _task(facts, session)
    encoder = task == "encoder"
    labels = () if encoder else labels_of(facts.config, facts.path)
    poolings = _poolings(facts) if output in _STATES else ()
    prompt = facts.prompts.get("", "") if encoder else ""
    if prompt and not facts.prompt_pooled:
        raise ArtifactError(f"{facts.path} leaves the prompt out of its pooling, which is not supported")
    return Description(
        task=task,
        input={"sequence": ANY_INPUT, "tokens": "tokens", "encoder": "text"}[task],
        graphs=graphs,
        labels=labels,
        multi_label=task == "sequence" and is_multi_label(facts.config, labels, facts.path),
        has_probabilities=not encoder,
        thresholds=None,
        max_length=facts.max_length,
        side=facts.side,
        prompt=prompt,
        lowercase=encoder and facts.lowercase,
        pad_id=facts.pad_id,
        long="windows" if task == "tokens" else "truncate",
        normalize=encoder and facts.normalize,
        bias=(),
        width=facts.hidden * len(poolings),
        output=output,
        poolings=poolings,
    )


def _task(facts: ModelFacts, session: Session) -> tuple[str, str]:
    """Return the task, and the output that is read."""
    if "logits" in session.outputs:
        return _of_logits(facts, session), "logits"
    for output in ("sentence_embedding", *_STATES):
        if output in session.outputs:
            return "encoder", output
    raise ArtifactError(
        f"{session.path} gives {', '.join(session.outputs) or 'no numbers'}; supported are logits, "
        f"sentence_embedding, {' and '.join(_STATES)}"
    )


def _of_logits(facts: ModelFacts, session: Session) -> str:
    said, rank = task_of(facts.config), len(session.outputs["logits"])
    classes = facts.config.get("architectures")
    names = [str(name) for name in classes] if isinstance(classes, list) else []
    if said is None and any(map(_OTHER_HEAD.search, names)):
        raise ArtifactError(f"{session.path}: logits of {names[0]} are not those of labels")
    seen = {2: "sequence", 3: "tokens"}.get(rank)
    if said is not None and seen is not None and said != seen:
        raise ArtifactError(
            f"{session.path}: {CONFIG} says {names[0]}, but its logits have the shape "
            f"{session.outputs['logits']}; the files do not belong together"
        )
    task = said or seen
    if task is None:
        raise ArtifactError(f"{session.path}: logits of shape {session.outputs['logits']} are not those of labels")
    return task


def _poolings(facts: ModelFacts) -> tuple[str, ...]:
    poolings = tuple(facts.pooling.split("+"))
    unknown = [pooling for pooling in poolings if pooling not in _POOLABLE]
    if facts.pooling_error or unknown:
        reason = facts.pooling_error or f"its pooling {unknown[0]!r} is not supported"
        raise ArtifactError(f"{facts.path}: the graph gives states of tokens, and {reason}")
    return poolings


def _inside(folder: Path, name: str) -> Path:
    """Return the path of a file, if it is in the folder, or in the hub's cache that the folder is a view of."""
    path, root = folder / name, folder.resolve()
    if not os.path.lexists(path):
        raise InputMissingError(f"{path} is missing; a folder needs {CONFIG}, {TOKENIZER} and all of its weights")
    roots = [root, *([root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [])]
    target = path.resolve()
    if not any(target.is_relative_to(place) for place in roots):
        raise ArtifactError(f"{path} is a link out of the folder, which is not followed; copy the file")
    if not target.is_file():
        raise ArtifactError(f"{path} is not a plain file")
    return path
