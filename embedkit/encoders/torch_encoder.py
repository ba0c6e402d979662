"""A frozen encoder in torch: the one file of this room that imports torch and transformers."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from embedkit.encoders.folder import ModelFolder
from embedkit.encoders.recipe import View
from embedkit.errors import ModelError, UsageError
from embedkit.runtime.batching import Batch, pad
from embedkit.runtime.pooling import pool
from embedkit.runtime.tokens import Tokens

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_KEPT_OPEN = 2
log = logging.getLogger("embedkit.encoders")


def resolve_device(device: str) -> torch.device:
    """Return the device that `EncoderSettings` allows: for auto cuda, mps or cpu, the first that is there.

    Raises
    ------
    UsageError
        It is not there.
    """
    if device == "auto":
        there = (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available()), ("cpu", True))
        return torch.device(next(name for name, is_there in there if is_there))
    chosen = torch.device(device)
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {device!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"device {device!r} is not there: this torch has no Apple GPU")
    return chosen


def check_precision(precision: str, device: torch.device) -> None:
    """Raise `UsageError` where the hardware would only emulate a precision."""
    if precision == "float32" or device.type == "mps":
        return
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if precision == "bfloat16" and major < 8:
            raise UsageError(f"bfloat16 needs a GPU of compute capability 8.0; this one has {major}.{minor}")
        return
    has = torch.ops.mkldnn
    name = torch.cpu.get_capabilities().get("cpu_name", "this CPU")
    if precision == "bfloat16" and not has._is_mkldnn_bf16_supported():
        raise UsageError(f"bfloat16 would be emulated and slow: {name} lacks AVX512; use float32")
    if precision == "float16" and not has._is_mkldnn_fp16_supported():
        raise UsageError(f"float16 would be emulated and slow: {name} lacks AVX512-FP16; use bfloat16 or float32")


class TorchEncoder:
    """An opened model that turns token batches into pooled hidden states.

    Parameters
    ----------
    folder : ModelFolder
        Whole and supported.
    precision : {"float32", "bfloat16", "float16"}
        Of weights and products; hidden states are pooled in float32.
    device : str
        As in `EncoderSettings`.

    Raises
    ------
    UsageError
        The device or precision is not there.
    ModelError
        transformers cannot open the folder, or its weights do not fit its configuration.
    """

    def __init__(self, folder: ModelFolder, precision: str, device: str) -> None:
        self.device = resolve_device(device)
        check_precision(precision, self.device)
        self._name = folder.resolved.name
        self._model, self._has_pooler = load_model(folder, _DTYPES[precision])
        self._model.to(self.device)
        if self.device.type == "cpu" and precision in ("float32", "bfloat16"):
            pack(self._model)

    def run(
        self,
        tokens: Tokens,
        batches: Sequence[NDArray[np.int64]],
        pad_id: int,
        views: Sequence[View],
        threads: int | None = None,
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Encode batches, one forward pass each.

        Parameters
        ----------
        tokens : Tokens
            All windows.
        batches : sequence of ndarray of int64
            Windows of each batch; see `embedkit.runtime.batching.plan`.
        pad_id : int
        views : sequence of View
            V pooled layers.
        threads : int, optional
            Threads of a forward pass on the CPU; torch's setting is put back afterwards. A forked process has
            one.

        Yields
        ------
        windows : ndarray of int64, shape (B,)
        vectors : ndarray of float32, shape (V, B, H)
        """
        self._check_views(views)
        padded = (pad(tokens, windows, pad_id) for windows in batches)
        if self.device.type == "cuda":
            yield from self._run_cuda(padded, views)
            return
        for batch in padded:
            with threads_set(threads):
                vectors = self._forward(batch, views)
            yield batch.windows, vectors.cpu().numpy()

    def token_states(
        self,
        tokens: Tokens,
        batches: Sequence[NDArray[np.int64]],
        pad_id: int,
        layers: Sequence[int | Literal["last"]],
        threads: int | None = None,
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Encode batches as `run` does, and keep the state of every token.

        Parameters
        ----------
        tokens, batches, pad_id, threads
            As for `run`.
        layers : sequence of int or "last"
            V hidden states.

        Yields
        ------
        windows : ndarray of int64, shape (B,)
        states : ndarray of float32, shape (V, B, L, H)
            Padded on the right, to the longest window of the batch.
        """
        for windows in batches:
            batch = pad(tokens, windows, pad_id)
            with threads_set(threads), torch.inference_mode():
                output = self._read(batch, layers)
                states = torch.stack([states_of(output, layer) for layer in layers])
            yield windows, states.cpu().numpy()

    @property
    def overlaps(self) -> bool:
        """Whether tokenising the next texts costs the device nothing."""
        return self.device.type == "cuda"

    def _check_views(self, views: Sequence[View]) -> None:
        if any(view.pooling == "pooler" for view in views) and not self._has_pooler:
            raise UsageError(f"{self._name} has no trained pooler; choose pooling cls or mean")

    def _forward(self, batch: Batch, views: Sequence[View]) -> torch.Tensor:
        """Return the views, shape (V, B, H), float32, on the device."""
        with torch.inference_mode():
            lengths = self._on_device(batch.lengths)
            mask = self._on_device(batch.mask()) if batch.padded else None
            output = self._read(batch, [view.layer for view in views])
            hidden: dict[int | Literal["last"], torch.Tensor] = {}
            pooled = []
            for layer, pooling in views:
                if pooling == "pooler":
                    pooled.append(output.pooler_output.float())
                    continue
                if layer not in hidden:
                    hidden[layer] = states_of(output, layer)
                pooled.append(pool(hidden[layer], lengths, mask, pooling))
            return torch.stack(pooled)

    def _read(self, batch: Batch, layers: Sequence[int | Literal["last"]]) -> Any:  # noqa: ANN401 - a family's own
        """Return the model's output for a batch, with the hidden states of all layers if one is asked for."""
        given: dict[str, torch.Tensor] = {"input_ids": self._on_device(batch.input_ids)}
        if batch.padded or self.device.type != "cpu":  # on the CPU a batch of one length is faster without
            given["attention_mask"] = self._on_device(batch.mask())
        if batch.type_ids is not None and takes_types(self._model.config):
            given["token_type_ids"] = self._on_device(batch.type_ids)
        return self._model(
            **given, output_hidden_states=any(layer != "last" for layer in layers), return_dict=True
        )

    def _on_device(self, array: NDArray[np.int64]) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def _run_cuda(
        self, batches: Iterator[Batch], views: Sequence[View]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Keep the GPU busy: while it computes a batch, the next is padded and the last is copied back.

        Marked "not run here": written without a GPU at hand, it claims no figure.
        """
        waiting: list[tuple[NDArray[np.int64], torch.Tensor, torch.cuda.Event]] = []
        for batch in batches:
            vectors = self._forward(batch, views)
            host = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
            host.copy_(vectors, non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
            waiting.append((batch.windows, host, done))
            if len(waiting) > 2:
                windows, ready, event = waiting.pop(0)
                event.synchronize()
                yield windows, ready.numpy()
        for windows, ready, event in waiting:
            event.synchronize()
            yield windows, ready.numpy()


def states_of(output: Any, layer: int | Literal["last"]) -> torch.Tensor:  # noqa: ANN401 - a family's own
    """Return the hidden states of a layer, shape (B, L, H), float32."""
    states: torch.Tensor = output.last_hidden_state if layer == "last" else output.hidden_states[layer]
    return states.float()


@contextlib.contextmanager
def threads_set(threads: int | None) -> Iterator[None]:
    """Let torch compute with some threads; its setting is put back afterwards. A forked process has one."""
    before = torch.get_num_threads()
    if threads is None or threads == before or _forked:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_forked = False


def _after_fork() -> None:
    """Stay on one thread in a forked process: OpenMP would wait for ever for those that the fork left behind."""
    global _forked, _opening, _loading, _speaking
    _forked, _opening, _loading, _speaking = True, threading.Lock(), threading.RLock(), threading.Lock()
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# ------------------------------------------------------------------------------------------------ loading

_open: dict[tuple[str, ...], TorchEncoder] = {}
_opening = threading.Lock()
_loading = threading.RLock()
_speaking = threading.Lock()


def open_encoder(folder: ModelFolder, weights: Sequence[str], precision: str, device: str) -> TorchEncoder:
    """Return an encoder, the last few of a process kept open.

    Parameters
    ----------
    folder : ModelFolder
    weights : sequence of str
        Digests of weights and configuration: what an encoder that is open is known by.
    precision, device : str
    """
    key = (*weights, precision, str(resolve_device(device)))
    with _opening:
        encoder = _open.pop(key, None) or TorchEncoder(folder, precision, device)
        _open[key] = encoder
        while len(_open) > _KEPT_OPEN:
            del _open[next(iter(_open))]
        return encoder


def takes_types(config: Any) -> bool:  # noqa: ANN401 - a family's own
    """Say whether a model tells token types apart."""
    return (getattr(config, "type_vocab_size", 0) or 0) > 1


def load_model(folder: ModelFolder, dtype: torch.dtype) -> tuple[Any, bool]:
    """Open a model on the CPU, frozen; return it and whether it has a trained pooler.

    Raises
    ------
    ModelError
        transformers cannot open the folder, or its weights do not fit its configuration.
    """
    model, missing = open_pretrained(AutoModel, folder.path, dtype)
    lost = [key for key in missing if not key.startswith("pooler.")]
    if lost:
        raise ModelError(
            f"{folder.path}: the weights lack {len(lost)} tensors of the configuration "
            f"({', '.join(lost[:3])}); the files do not belong together"
        )
    return model, getattr(model, "pooler", None) is not None and len(lost) == len(missing)


def open_pretrained(
    auto: Any,  # noqa: ANN401
    path: Path,
    dtype: torch.dtype,
    *,
    config: Any = None,  # noqa: ANN401 - a family's own
) -> tuple[Any, list[str]]:
    """Open a model, frozen; return it and the names of tensors that the weights lack.

    Parameters
    ----------
    auto : class
        One of transformers: `AutoModel`, `AutoModelForSequenceClassification`, ...
    path : Path
    dtype : torch.dtype
    config : transformers.PreTrainedConfig, optional
        Instead of the folder's; the layers outside of the encoder may then have other shapes than the weights, and
        count as lacking.

    Raises
    ------
    ModelError
        transformers cannot open the folder, or its weights have other shapes than its configuration.
    """
    with loading():
        try:
            model, info = auto.from_pretrained(
                path,
                **({} if config is None else {"config": config, "ignore_mismatched_sizes": True}),
                dtype=dtype,
                trust_remote_code=False,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
        except Exception as error:  # transformers raises many kinds
            reason = " ".join(str(error).split())[:300]
            raise ModelError(f"{path}: transformers cannot open this model: {reason}") from error
    mismatched = {key if isinstance(key, str) else key[0] for key in info.get("mismatched_keys") or ()}
    prefix = f"{model.base_model_prefix}."
    if any(config is None or name.startswith(prefix) for name in mismatched):
        raise ModelError(f"{path}: {len(mismatched)} weights have another shape than config.json says")
    return model.eval().requires_grad_(False), sorted({*info["missing_keys"], *mismatched})


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Let one thread at a time load a model, quietly.

    While transformers loads, it replaces methods of its classes. Of two threads the second would take the
    replacement for the original and put it back, and no model would have its weights tied any more.
    """
    with _loading, quiet():
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and load report to itself; what matters is checked here."""
    with _speaking:
        if not _silence.threads:
            _silence.level = transformers_logging.get_verbosity()
            _silence.bars = transformers_logging.is_progress_bar_enabled()
            transformers_logging.set_verbosity_error()
            transformers_logging.disable_progress_bar()
        _silence.threads += 1
    try:
        yield
    finally:
        with _speaking:
            _silence.threads -= 1
            if not _silence.threads:
                transformers_logging.set_verbosity(_silence.level)
                if _silence.bars:
                    transformers_logging.enable_progress_bar()


@dataclass
class _Silence:
    """How transformers spoke before the first of the threads that want it quiet."""

    threads: int = 0
    level: int = 0
    bars: bool = True


_silence = _Silence()


def build_tokenizer(path: Path) -> str:
    """Return the ``tokenizer.json`` that transformers makes of an older tokenizer's files.

    Raises
    ------
    ModelError
        transformers cannot.
    """
    with quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
            return str(tokenizer.backend_tokenizer.to_str())
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelError(f"{path}: no tokenizer.json can be made of this tokenizer: {reason}") from error


# ---------------------------------------------------------------------------------------------- fast linear


class _PackedLinear(torch.nn.Module):
    """A frozen linear layer whose weights oneDNN has laid out once, with the activation that follows.

    torch's own `Linear` lays them out again at each call, or goes through a library that knows fewer CPUs:
    on 2 cores of an AMD EPYC 8 to 18 % slower at 1,000 tokens, 19 to 72 % at 27 (``scripts/bench_linear.py``).
    """

    def __init__(self, linear: torch.nn.Linear, activation: str) -> None:
        super().__init__()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self._bias = linear.bias
        self._activation = activation
        self.register_buffer("weight", linear.weight.new_empty(0))  # families look at its dtype and device

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._packed, self._bias, self._activation, [], "none"
        )
        return y


def pack(model: torch.nn.Module) -> None:
    """Replace the linear layers of a model on the CPU by packed ones, where this torch has oneDNN."""
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not (has_onednn and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        log.info("this torch has no oneDNN: linear layers stay torch's own")
        return
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is not torch.nn.Linear:
                continue
            fused = name == "dense" and _is_exact_gelu(getattr(parent, "intermediate_act_fn", None))
            setattr(parent, name, _PackedLinear(child, "gelu" if fused else "none"))
            if fused:
                parent.intermediate_act_fn = torch.nn.Identity()


def _is_exact_gelu(activation: object) -> bool:
    """Say whether an activation is x * Phi(x), not one of its approximations."""
    if not isinstance(activation, torch.nn.Module) or "GELU" not in type(activation).__name__.upper():
        return False
    x = torch.linspace(-4, 4, 257)
    return torch.allclose(activation(x), torch.nn.functional.gelu(x), rtol=0, atol=1e-6)
