"""What a user may ask of an encoder, checked before anything is opened."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Literal, TypeAlias, get_args

from embedkit.errors import UsageError
from embedkit.runtime.pooling import POOLINGS

Long: TypeAlias = Literal["truncate", "mean"]
Pairs: TypeAlias = Literal["cross", "bi"]
Join: TypeAlias = Literal["concat", "mean"]
Precision: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
Engine: TypeAlias = Literal["auto", "torch", "onnx"]
Side: TypeAlias = Literal["right", "left"]
Layers: TypeAlias = int | str | Sequence[int]

BATCH_TOKENS = 2048
WORD_POOLINGS = ("first", "mean")  # of the tokens of a word
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


@dataclass(frozen=True)
class EncoderSettings:
    """A model and what to take from it.

    Parameters
    ----------
    model : str or path
        ``"minilm"``, a folder, or a hub id; a path object is always a folder; see `embedkit.hub.resolve_model`.
    revision : str, optional
        Branch, tag or commit of a hub id.
    pooling : str, optional
        ``cls``, ``mean``, ``max``, ``last``, ``mean_sqrt_len`` or ``pooler``, or several joined by ``+``, such as
        ``cls+mean``. Default: what a sentence-transformers folder says; else ``cls``, for decoders ``last``. Of
        words ``first`` or ``mean`` (of the word's tokens), or both joined. Default: ``first``.
    layers : int, str or sequence of int, default -1
        Hidden states to pool: 0 are the embeddings, -1 is the model's ``last_hidden_state``. Several, also as
        ``"-1,-2"``, or ``"all"``.
    layer_join : {"concat", "mean"}, default "concat"
        What becomes of several layers.
    normalize : bool, optional
        Scale each text's vector to length 1. Default: what a sentence-transformers folder says, else no.
    max_length : int, optional
        Most tokens of a text, special tokens included. Default: the folder's.
    long : {"truncate", "mean"}, default "truncate"
        Texts beyond `max_length` lose their end, or are cut into windows whose vectors are averaged, weighted
        by their tokens.
    side : {"right", "left"}, optional
        The end that truncation cuts off. Default: the folder's, mostly right.
    prompt : str, optional
        The name of one of the folder's prompts, or else a text to put before every text. Default: the folder's
        default prompt, mostly none.
    pairs : {"cross", "bi"}, default "cross"
        Pairs are read together, or apart as (u, v, |u - v|, u * v) (Reimers & Gurevych, 2019).
    precision : {"auto", "float32", "bfloat16", "float16"}, default "auto"
        Of the model's weights and products; auto is float32. Pooling is always float32.
    engine : {"auto", "torch", "onnx"}, default "auto"
        What computes; vectors agree within 1e-5 of the largest number, and share a store. onnx makes a graph of
        the encoder once, which starts without torch; float32 on the CPU alone. auto takes a graph that is kept
        where, by what was measured when it was made, it should be done first, and makes one when torch has
        worked ten times as long in a run as that takes.
    device : str, default "auto"
        ``cpu``, ``cuda``, ``cuda:1``, ``mps``; auto takes cuda, mps or cpu, the first that is there.
    batch_tokens : int, default 2048
        Most tokens of a batch, padding included.
    threads : int, optional
        Threads of the forward pass. Default: the engine's own, mostly one a core.

    Raises
    ------
    UsageError
        A value is not allowed; the message lists what is.
    """

    model: str | os.PathLike[str]
    revision: str | None = None
    pooling: str | None = None
    layers: Layers = -1
    layer_join: Join = "concat"
    normalize: bool | None = None
    max_length: int | None = None
    long: Long = "truncate"
    side: Side | None = None
    prompt: str | None = None
    pairs: Pairs = "cross"
    precision: Precision = "auto"
    engine: Engine = "auto"
    device: str = "auto"
    batch_tokens: int = BATCH_TOKENS
    threads: int | None = None

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_texts()
        self._check_counts()
        self._check_engine()
        if self.pooling is not None:
            parse_pooling(
                self.pooling, [*POOLINGS, *WORD_POOLINGS]
            )  # a recipe asks for those of texts or of words
        object.__setattr__(self, "layers", parse_layers(self.layers))

    def _check_choices(self) -> None:
        for name, allowed in (
            ("layer_join", get_args(Join)),
            ("normalize", (None, True, False)),
            ("long", get_args(Long)),
            ("side", (None, *get_args(Side))),
            ("pairs", get_args(Pairs)),
            ("precision", get_args(Precision)),
            ("engine", get_args(Engine)),
        ):
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(map(str, allowed))}")

    def _check_engine(self) -> None:
        if self.engine != "onnx":
            return
        if self.precision not in ("auto", "float32"):
            raise UsageError(f"engine onnx computes in float32; for precision {self.precision} take engine torch")
        if self.device not in ("auto", "cpu"):
            raise UsageError(f"engine onnx runs on the CPU; for device {self.device} take engine torch")

    def _check_texts(self) -> None:
        if not isinstance(self.model, str | os.PathLike):
            raise UsageError(f"model is {self.model!r}; it must be a text or a path")
        for name in ("revision", "pooling", "prompt"):
            if not isinstance(getattr(self, name), str | None):
                raise UsageError(f"{name} is {getattr(self, name)!r}; it must be a text")
        if not _DEVICE.fullmatch(str(self.device)):
            raise UsageError(f"device {self.device!r} is unknown; allowed: auto, cpu, cuda, cuda:N, mps")

    def _check_counts(self) -> None:
        for name in ("max_length", "batch_tokens", "threads"):
            value = getattr(self, name)
            if value is None and name != "batch_tokens":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"{name} is {value!r}; it must be an integer of at least 1")


def parse_pooling(pooling: str, allowed: Sequence[str] = POOLINGS) -> tuple[str, ...]:
    """Return the poolings of a join, each one of those allowed.

    Examples
    --------
    >>> parse_pooling("cls+mean")
    ('cls', 'mean')
    """
    parts = tuple(part.strip() for part in pooling.split("+"))
    unknown = [part for part in parts if part not in allowed]
    if unknown or len(set(parts)) < len(parts):
        wrong = f"{unknown[0]!r} is unknown" if unknown else "one stands twice"
        raise UsageError(
            f"pooling {pooling!r}: {wrong}; allowed: {', '.join(allowed)}, and joins such as {allowed[0]}+mean"
        )
    return parts


def parse_layers(layers: Layers) -> tuple[int, ...] | Literal["all"]:
    """Return layer numbers as given, or ``"all"``.

    Examples
    --------
    >>> parse_layers("-1, -2"), parse_layers("-1+-2"), parse_layers(3), parse_layers("all")
    ((-1, -2), (-1, -2), (3,), 'all')
    """
    if layers == "all":
        return "all"
    try:
        numbers = tuple(map(_layer, re.split("[,+]", layers) if isinstance(layers, str) else _several(layers)))
        if not numbers:
            raise ValueError
    except (ValueError, TypeError):
        raise UsageError(f"layers is {layers!r}; allowed: an integer, several as -1,-2 or -1+-2, or all") from None
    return numbers


def _several(layers: int | Sequence[int]) -> Sequence[int]:
    return layers if isinstance(layers, Sequence) else [layers]


def _layer(number: str | int) -> int:
    if isinstance(number, bool):
        raise TypeError
    return int(number) if isinstance(number, str) else index(number)  # a float is no layer
