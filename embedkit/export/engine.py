"""An encoder made into a graph that extracts: traced once, compared with torch, both timed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedkit.encoders.engines import Encoder, EngineSource, Making, Pace, import_torch
from embedkit.encoders.onnx_encoder import OnnxEncoder
from embedkit.encoders.recipe import Floats, View
from embedkit.errors import ExportError, require
from embedkit.export.parity import TEXTS, Input, encoded, mixed_batches, parity_inputs
from embedkit.runtime.batching import plan
from embedkit.runtime.tokens import Text, Tokens

TOLERANCE = 1e-5  # of the largest number of a layer, at least of 1
_POOLINGS = ("cls", "mean", "max")
_ROUNDS = 3  # of which the best counts
_TIMED = 2  # batches
# Compared where a job has fewer texts than a comparison needs.
_SENTENCES = (
    "The film was better than I had expected, and the end of it is brilliant.",
    "A dull, overlong and predictable story.",
    "Shares of the company fell by 3.5% on Monday after it had warned that profits would be lower this year!",
    "Who won?",
    "She opened the letter, read it twice (slowly) and put it back; nobody at the table said a word until the "
    "rain had stopped and the first guests began to look for their coats.",
    "The ministers of the seven countries met in Geneva to talk about fishing, taxes and a new railway.",
)


def make_engine(source: EngineSource, texts: Sequence[Text], path: Path) -> Making:
    """Write the graph of an encoder, and compare it with torch; an `EngineMaker`.

    Parameters
    ----------
    source : EngineSource
    texts : sequence of str, or of (str, str)
        Of the job; 64 of them are compared, alone and in mixed batches, in every layer.
    path : Path
        Written anew.

    Raises
    ------
    ExportError
        The encoder cannot be traced, or a number differs by more than 1e-5 of the largest.
    MissingExtraError
        A package that this needs is not installed.
    """
    start = time.perf_counter()
    for module in ("torch", "transformers", "onnx", "onnxscript", "onnxruntime"):
        require(module, extra="train", purpose="making an ONNX graph of an encoder")
    inputs = parity_inputs(_enough(texts), source.tokenizer)
    imports = import_torch()
    opening = time.perf_counter()
    torch, _ = source.torch("cpu")
    opened = time.perf_counter() - opening
    outputs = _trace(source, inputs, path)
    onnx = OnnxEncoder(path, source.folder.resolved.name)
    tokens = encoded(source.tokenizer, inputs)
    opening = time.perf_counter()
    _run(onnx, source, tokens, [np.array([0])], source.recipe.views)
    opened_onnx = time.perf_counter() - opening
    parity = _compare(source, torch, onnx, tokens, _views(outputs))
    rates = _time(source, [torch, onnx], inputs if not len(texts) else texts)
    paces = [Pace(imports, opened, rates[0]), Pace(0.0, opened_onnx, rates[1])]
    return Making(paces[0], paces[1], time.perf_counter() - start, _usual_device(), parity)


def _enough(texts: Sequence[Text]) -> list[Text]:
    """Return texts, and sentences of ours of the same kind where there are too few to compare on."""
    if len(texts) >= TEXTS:
        return list(texts)
    pairs = bool(texts) and isinstance(texts[0], tuple)
    ours: list[Text] = list(pairwise(_SENTENCES)) if pairs else list(_SENTENCES)
    return [*texts, *ours]


def _usual_device() -> str:
    from embedkit.encoders.torch_encoder import resolve_device

    return str(resolve_device("auto").type)


def _trace(source: EngineSource, inputs: Sequence[Any], path: Path) -> list[str]:
    from embedkit.export.engine_graph import write_layers

    tokens = encoded(source.tokenizer, inputs[1:3])
    examples = np.split(tokens.ids, tokens.offsets[1:-1])
    return write_layers(source.folder, path, examples, source.recipe.pad_id)


def _views(outputs: Sequence[str]) -> list[View]:
    """Return every layer, pooled in several ways; together they reach every number of it that differs."""
    states = sum(name.startswith("hidden_states.") for name in outputs)
    views = [View(layer, pooling) for layer in (*range(states), "last") for pooling in _POOLINGS]
    return [*views, *[View("last", "pooler")] * ("pooler_output" in outputs)]


def _run(
    encoder: Encoder, source: EngineSource, tokens: Tokens, batches: list[NDArray[np.int64]], views: Sequence[View]
) -> list[tuple[NDArray[np.int64], Floats]]:
    """Return windows and their vectors, shape (V, B, H), batch by batch."""
    return list(encoder.run(tokens, batches, source.recipe.pad_id, views, source.settings.threads))


def _compare(
    source: EngineSource, torch: Encoder, onnx: Encoder, tokens: Tokens, views: Sequence[View]
) -> dict[str, Any]:
    """Return how far the graph is from torch, where it is farthest; `ExportError` where that is too far."""
    alone = [np.array([i]) for i in range(len(tokens.lengths))]
    single = _run(torch, source, tokens, alone, views)
    wanted = np.concatenate([vectors for _, vectors in single], axis=1)  # (V, n, H)
    differences = np.zeros(len(views))
    for windows, vectors in _run(onnx, source, tokens, [*alone, *mixed_batches(tokens.lengths)], views):
        found = np.abs(vectors - wanted[:, windows]).max(axis=(1, 2))
        differences = np.maximum(differences, found)  # NaN stays NaN
    allowed = TOLERANCE * np.maximum(1, np.abs(wanted).max(axis=(1, 2)))
    worst = int(np.argmax(differences / allowed))  # the first NaN counts as the greatest
    figures = {
        "texts": len(tokens.lengths),
        "shortest": int(tokens.lengths.min()),
        "longest": int(tokens.lengths.max()),
        "difference": float(differences[worst]),
        "allowed": float(allowed[worst]),
    }
    if not differences[worst] <= allowed[worst]:
        view = views[worst]
        raise ExportError(
            f"the graph of {source.folder.resolved.name} does not answer as torch does: in layer {view.layer}, "
            f"pooling {view.pooling}, the largest difference is {differences[worst]:.2g} where "
            f"{allowed[worst]:.2g} is allowed; take --engine torch"
        )
    return figures


def _time(source: EngineSource, encoders: Sequence[Encoder], texts: Sequence[Input]) -> list[float]:
    """Return tokens a second of each encoder, in turn on the same batches of the job."""
    places = np.unique(np.linspace(0, len(texts) - 1, TEXTS).astype(int)).tolist()
    tokens = encoded(source.tokenizer, [texts[i] for i in places])
    batches = plan(tokens.lengths, source.settings.batch_tokens)
    middle = max(0, len(batches) // 2 - _TIMED // 2)
    batches = batches[middle : middle + _TIMED]
    best = [np.inf] * len(encoders)
    for _ in range(_ROUNDS):
        for place, encoder in enumerate(encoders):
            start = time.perf_counter()
            _run(encoder, source, tokens, batches, source.recipe.views)
            best[place] = min(best[place], time.perf_counter() - start)
    count = sum(int(tokens.lengths[batch].sum()) for batch in batches)
    return [count / seconds for seconds in best]
