"""What computes features: torch, or a graph that was made of the encoder once; which of them, and why."""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import logging
import math
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from embedkit.artifact import installed
from embedkit.encoders.folder import ModelFolder
from embedkit.encoders.onnx_encoder import OnnxEncoder
from embedkit.encoders.recipe import Floats, Recipe, View
from embedkit.encoders.settings import EncoderSettings
from embedkit.encoders.tokenizer_file import require_torch
from embedkit.errors import ExportError, ModelError, StoreError, UsageError
from embedkit.runtime.tokens import Text, Tokenizer, Tokens
from embedkit.store import FeatureStore, FileDigests, KeptEngine

OPSET = 20
SCHEMA = 1  # raised when something else is traced
# What a graph, or its agreement with torch, depends on beside the encoder's files.
_VERSIONS = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime")
_SAMPLE = 64  # texts by which the tokens of a job are estimated
# With engine "auto", a graph is made when torch has worked so many times as long as that takes: whatever comes of
# it, it costs a run no more than this part of itself.
_WORTH = 10
_MAKING = 30.0  # seconds: how long it is taken to last where no graph was made yet
_KEPT_OPEN = 2
log = logging.getLogger("embedkit.encoders")


class Encoder(Protocol):
    """What turns token batches into pooled hidden states."""

    @property
    def overlaps(self) -> bool:
        """Whether tokenising the next texts costs the device nothing."""

    def run(
        self,
        tokens: Tokens,
        batches: Sequence[NDArray[np.int64]],
        pad_id: int,
        views: Sequence[View],
        threads: int | None = None,
    ) -> Iterator[tuple[NDArray[np.int64], Floats]]:
        """Yield the windows of each batch and their vectors, shape (V, B, H)."""

    def token_states(
        self,
        tokens: Tokens,
        batches: Sequence[NDArray[np.int64]],
        pad_id: int,
        layers: Sequence[int | Literal["last"]],
        threads: int | None = None,
    ) -> Iterator[tuple[NDArray[np.int64], Floats]]:
        """Yield the windows of each batch and the states of their tokens, shape (V, B, L, H)."""


@dataclass(frozen=True, eq=False)
class EngineSource:
    """What an engine is opened from.

    Attributes
    ----------
    folder : ModelFolder
    weights : list of str
        SHA-256 of each weight file, as they were read first.
    config : str
        Digest of the configuration.
    recipe : Recipe
    tokenizer : Tokenizer
    settings : EncoderSettings
    store : FeatureStore or None
        Where graphs are kept.
    digests : FileDigests
    """

    folder: ModelFolder
    weights: list[str]
    config: str
    recipe: Recipe
    tokenizer: Tokenizer
    settings: EncoderSettings
    store: FeatureStore | None
    digests: FileDigests

    @property
    def engine_id(self) -> str:
        """What the encoder's graph is called: a digest of all that it depends on, 32 hexadecimal digits."""
        parts = [SCHEMA, OPSET, self.weights, self.config, installed(_VERSIONS)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def check_weights(self) -> None:
        """Raise `ModelError` if the weights are not those that were read first."""
        if [self.digests.sha256(path) for path in self.folder.weights] != self.weights:
            raise ModelError(f"{self.folder.path}: the weights changed since they were read; start again")

    def torch(self, device: str) -> tuple[Encoder, str]:
        """Open the encoder in torch; return it and the kind of device that it is on."""
        require_torch("computing features")
        import_torch()
        from embedkit.encoders.torch_encoder import open_encoder, resolve_device

        encoder = open_encoder(self.folder, (*self.weights, self.config), self.recipe.precision, device)
        self.check_weights()
        return encoder, str(resolve_device(device).type)


@functools.cache
def import_torch() -> float:
    """Import torch and transformers; return the seconds that it took, 0 where they were there already."""
    there = "torch" in sys.modules and "transformers" in sys.modules
    start = time.perf_counter()
    import embedkit.encoders.torch_encoder  # noqa: F401 - what it imports is what takes long

    return 0.0 if there else time.perf_counter() - start


# --------------------------------------------------------------------------------------- what engines take


@dataclass(frozen=True)
class Pace:
    """What an engine took on the machine where a graph was made.

    Attributes
    ----------
    imports, start : float
        Seconds of its imports (0 where others had imported it), and from there until it could compute.
    rate : float
        Tokens a second, of batches of the job for which the graph was made.
    """

    imports: float
    start: float
    rate: float

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> Pace:
        """Read what `Making.about` gave; `ValueError` where it is no pace."""
        pace = cls(*(float(about[field.name]) for field in fields(cls)))
        if not (math.isfinite(pace.imports + pace.start + pace.rate) and pace.rate > 0):
            raise ValueError("no pace")
        return pace

    def seconds(self, tokens: float, *, imported: bool) -> float:
        """Return how long so many tokens should take."""
        return (0.0 if imported else self.imports) + self.start + tokens / self.rate


@dataclass(frozen=True)
class Making:
    """What is known of a graph that was made.

    Attributes
    ----------
    torch, onnx : Pace
        Measured in turn, on the same batches.
    seconds : float
        That making it took, with comparing and measuring.
    device : str
        What torch takes where no device is named; a graph stands in for the CPU alone.
    parity : mapping
        How far it is from torch: the figures of `embedkit.export.parity.Parity`.
    """

    torch: Pace
    onnx: Pace
    seconds: float
    device: str
    parity: Mapping[str, Any]

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> Making | None:
        """Read what `about` gave; None where it is something else."""
        try:
            torch, onnx = Pace.of(about["torch"]), Pace.of(about["onnx"])
            made = cls(torch, onnx, float(about["seconds"]), str(about["device"]), dict(about["parity"]))
        except (KeyError, TypeError, ValueError):
            return None
        return made

    def about(self) -> dict[str, Any]:
        """Return what `of` reads, as JSON types."""
        return asdict(self)


class EngineMaker(Protocol):
    """What makes a graph of an encoder; `embedkit.export.engine.make_engine` is one."""

    def __call__(self, source: EngineSource, texts: Sequence[Text], path: Path) -> Making:
        """Write the graph to a file, compared with torch on texts, of which there may be none.

        Raises
        ------
        ExportError
            The encoder cannot be made into a graph, or the graph answers otherwise.
        """


# ----------------------------------------------------------------------------------------------- choosing


class Engines:
    """The engine of one extractor, chosen when the first text is to be computed.

    Parameters
    ----------
    source : EngineSource
    make : EngineMaker, optional
        Default: nothing is chosen, torch computes.

    Attributes
    ----------
    name : {"torch", "onnx"} or None
        What computes; None before the first text.
    note : str or None
        Which engine was taken and why; None where there was nothing to choose.

    Raises
    ------
    UsageError
        A graph is asked for, and nothing makes one.
    """

    def __init__(self, source: EngineSource, make: EngineMaker | None) -> None:
        self.name: Literal["torch", "onnx"] | None = None
        self.note: str | None = None
        self._source = source
        self._make = make
        self._worked = 0.0  # seconds that torch computed where a graph might have
        asked = source.settings.engine
        if asked == "onnx" and make is None:
            raise UsageError(
                "engine is 'onnx', but nothing here makes graphs; give the extractor "
                "engines=embedkit.export.engine.make_engine"
            )
        on_cpu = source.recipe.precision == "float32" and source.settings.device in ("auto", "cpu")
        self._choosing = asked == "auto" and make is not None and on_cpu

    def open(self, texts: Sequence[Text]) -> Encoder:
        """Return what shall compute texts.

        Raises
        ------
        ExportError
            A graph is asked for, and cannot be made.
        """
        if self._source.settings.engine == "onnx":
            return self._onnx(texts)
        kept = self._kept() if self._choosing else None
        if kept is not None and self._prefers(kept, texts):
            return self._opened(kept.path)
        if self._choosing:
            self.note = "engine: torch (no graph of this encoder is kept; --engine onnx makes one)"
        self.name = "torch"
        encoder, device = self._source.torch(self._source.settings.device)
        if device != "cpu":
            self._choosing, self.note = False, None
        return encoder

    def again(self, encoder: Encoder, texts: Sequence[Text], worked: float) -> Encoder:
        """Return what shall compute the texts that are left, after `worked` seconds of the engine that is open.

        Nobody knows how many texts later calls and runs will bring, so it is as with renting and buying skis: a
        graph is made when torch has worked several times as long as that takes.
        """
        store = self._source.store
        if not self._choosing or store is None or not store.writable:
            return encoder
        self._worked += worked
        if self._worked < _WORTH * _expected(store):
            return encoder
        self._choosing = False
        try:
            path, made = self._made(texts)
        except ExportError as error:
            log.info("%s", error)
            self.note = "engine: torch (no graph can be made of this encoder)"
            return encoder
        if made.onnx.rate <= made.torch.rate:
            self.note = f"engine: torch (a graph was made in {made.seconds:.0f} s and kept; it is not faster here)"
            return encoder
        self.note = f"engine: torch, then onnx (a graph was made in {made.seconds:.0f} s and kept)"
        return self._opened(path)

    def _prefers(self, kept: KeptEngine, texts: Sequence[Text]) -> bool:
        """Say whether a graph that is kept should be done with texts before torch; note why."""
        made = Making.of(kept.about)
        if made is None or (made.device != "cpu" and self._source.settings.device == "auto"):
            return False
        self._choosing = False
        tokens = self._tokens(texts)
        torch = made.torch.seconds(tokens, imported="torch" in sys.modules)
        onnx = made.onnx.seconds(tokens, imported="onnxruntime" in sys.modules)
        taken, other = ("onnx", "torch") if onnx <= torch else ("torch", "onnx")
        self.note = (
            f"engine: {taken} (a graph is kept; by what was measured when it was made, {min(onnx, torch):.1f} s "
            f"against {max(onnx, torch):.1f} s in {other})"
        )
        return onnx <= torch

    def _tokens(self, texts: Sequence[Text]) -> float:
        """Estimate the tokens of texts by some of them."""
        if not texts:
            return 0.0
        places = np.unique(np.linspace(0, len(texts) - 1, _SAMPLE).astype(int)).tolist()
        windows = self._source.recipe.long == "mean"
        tokens = self._source.tokenizer.encode([texts[i] for i in places], windows=windows)
        return float(tokens.lengths.sum()) / len(places) * len(texts)

    # ------------------------------------------------------------------------------------------- opening

    def _onnx(self, texts: Sequence[Text]) -> Encoder:
        """Open the graph, made before it is needed first."""
        kept = self._kept()
        if kept is not None:
            self.note = "engine: onnx (a graph is kept from an earlier run)"
            return self._opened(kept.path)
        path = _scratch() / f"{self._source.engine_id}.onnx"
        if path.exists():  # made by another extractor of this process
            return self._opened(path)
        path, made = self._made(texts)
        until = "for this run alone" if path.parent == _scratch() else "and kept"
        self.note = f"engine: onnx (a graph was made in {made.seconds:.0f} s {until})"
        return self._opened(path)

    def _kept(self) -> KeptEngine | None:
        store = self._source.store
        return None if store is None else store.engine(self._source.engine_id)

    def _made(self, texts: Sequence[Text]) -> tuple[Path, Making]:
        """Make the graph; keep it in the store, or where there is none for as long as this process runs."""
        assert self._make is not None
        source, name = self._source, self._source.engine_id
        path = _scratch() / f"{name}.part"
        made = self._make(source, texts, path)
        source.check_weights()
        if source.store is not None and source.store.writable:
            try:
                kept = source.store.keep_engine(name, path, made.about())
            except StoreError as error:
                log.warning("%s; the graph is not kept", error)
            else:
                path.unlink()
                return kept.path, made
        return path.replace(path.with_suffix(".onnx")), made

    def _opened(self, path: Path) -> Encoder:
        self.name = "onnx"
        return open_graph(path, self._source.engine_id, self._source.folder.resolved.name)


def _expected(store: FeatureStore) -> float:
    """Return how many seconds making a graph should take: the most that it took in this store."""
    made = (Making.of(info.about) for info in store.engines() if info.about is not None)
    return max((known.seconds for known in made if known is not None), default=_MAKING)


# ------------------------------------------------------------------------------------------------ opening

_open: dict[tuple[str, Path], OnnxEncoder] = {}
_opening = threading.Lock()


def open_graph(path: Path, engine_id: str, name: str) -> OnnxEncoder:
    """Return the encoder of a graph, the last few of a process kept open.

    Parameters
    ----------
    path : Path
    engine_id : str
        Of `EngineSource`.
    name : str
        What messages call the model.
    """
    with _opening:
        encoder = _open.pop((engine_id, path), None) or OnnxEncoder(path, name)
        _open[engine_id, path] = encoder
        while len(_open) > _KEPT_OPEN:
            del _open[next(iter(_open))]
        return encoder


@functools.cache
def _scratch() -> Path:
    """Return a folder that lasts as long as this process."""
    folder = Path(tempfile.mkdtemp(prefix="embedkit-"))
    atexit.register(_remove, folder, os.getpid())
    return folder


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # and not one that was forked from it
        shutil.rmtree(folder, ignore_errors=True)


def _after_fork() -> None:
    """Let go of a lock that another thread held: nobody will release it here."""
    global _opening
    _opening = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
