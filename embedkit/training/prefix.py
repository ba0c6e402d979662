"""The output of frozen blocks: computed once, kept on disk, and used instead of them.

Frozen blocks in evaluation mode answer the same to a text in every epoch. Their output is kept for each token, and
training starts at the first block that learns.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from embedkit.errors import ModelError, StoreFullError, UsageError
from embedkit.runtime.batching import plan
from embedkit.runtime.tokens import Tokens
from embedkit.store.files import store_error
from embedkit.training.parts import Frozen
from embedkit.training.rows import padded_inputs

_ITEM = 4  # bytes of a float32
_TOLERANCE = 1e-4  # of the largest, at least of 1: as an exported graph is held to
# Whether a class of modules answers with a tuple: families differ in it, and releases of transformers may.
_gives_tuple: dict[type[nn.Module], bool] = {}
# How wide the states are that embeddings give; 0 where they give something else than states.
_widths: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def prefix_bytes(tokens: Tokens, hidden: int) -> int:
    """Return the bytes that `keep_states` writes: a float32 state of width `hidden` for each token."""
    return int(tokens.offsets[-1]) * hidden * _ITEM


class States:
    """Kept states of all tokens, memory-mapped.

    Parameters
    ----------
    path : Path
        A .npy file, shape (T, H), float32.
    offsets : ndarray of int64, shape (W + 1,)
        Window w is rows ``offsets[w]`` to ``offsets[w + 1]``.
    dtype : torch.dtype, default=torch.float32
        What the blocks gave, and `batch` gives: under autocast some families compute on in half precision.
    """

    def __init__(self, path: Path, offsets: NDArray[np.int64], dtype: torch.dtype = torch.float32) -> None:
        self._states = np.lib.format.open_memmap(path, mode="r")
        self._offsets, self._dtype = offsets, dtype

    def batch(self, windows: NDArray[np.int64]) -> torch.Tensor:
        """Return the states of some windows, shape (B, L, H); 0 after a window's end."""
        starts, ends = self._offsets[windows], self._offsets[windows + 1]
        padded = np.zeros((len(windows), int((ends - starts).max()), self._states.shape[1]), np.float32)
        for row, start, end in zip(padded, starts, ends, strict=True):
            row[: end - start] = self._states[start:end]
        return torch.from_numpy(padded).to(self._dtype)


def keep_states(
    model: PreTrainedModel,
    frozen: Frozen,
    tokens: Tokens,
    path: Path,
    *,
    pad_id: int,
    types: bool,
    autocast: Callable[[], AbstractContextManager[Any]],
    device: torch.device,
    batch_tokens: int = 4096,
    progress: Callable[[int], None] | None = None,
) -> States:
    """Compute the output of the frozen blocks for all tokens and keep it in a file.

    That training can start from it is tried first, on the longest and the shortest window together.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        On `device`. It is in evaluation mode meanwhile; its modes are put back.
    frozen : Frozen
        With at least one frozen block.
    tokens : Tokens
        At least one window.
    path : Path
        The file; it appears when it is whole, in the place of one that is there.
    pad_id : int
    types : bool
        Whether the model is given token types.
    autocast : callable
        Gives the context in which training computes.
    device : torch.device
    batch_tokens : int, default=4096
        Most tokens of a batch, padding included.
    progress : callable, optional
        Told the number of windows that became ready.

    Raises
    ------
    UsageError
        No block is frozen, or there are no windows.
    ModelError
        The model does not give the same when it starts from kept states.
    StoreFullError, StoreError
        The disk has no room for the file, or it cannot be written.
    """
    if not frozen.prefix:
        raise UsageError("no block is frozen, so there is no output of frozen blocks to keep")
    if not len(tokens.lengths):
        raise UsageError("there are no rows, so there is no output of frozen blocks to keep")
    run = _Run(model, frozen, tokens, pad_id, types, autocast, device)
    with _resting(model), torch.no_grad():
        hidden, dtype = run.check()
        _require_room(path.parent, prefix_bytes(tokens, hidden))
        with _appearing(path) as file:
            shape = (int(tokens.offsets[-1]), hidden)
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            begin = file.tell()
            for windows in plan(tokens.lengths, batch_tokens):
                states = run.states(run.given(windows)).float().cpu().numpy().astype("<f4", copy=False)
                for window, state in zip(windows, states, strict=True):
                    start, end = tokens.offsets[window : window + 2].tolist()
                    file.seek(begin + start * hidden * _ITEM)
                    file.write(state[: end - start].tobytes())
                if progress is not None:
                    progress(len(windows))
    return States(path, tokens.offsets, dtype)


@contextmanager
def from_block(model: PreTrainedModel, frozen: Frozen, hidden: torch.Tensor) -> Iterator[None]:
    """Let a model start at its first block that learns, from kept states.

    Inside, what gives the frozen blocks' output gives `hidden`, whatever it is called with; so do the embeddings,
    which are not computed, where they are as wide. Masks and positions are computed as always. No module is
    replaced, so names and hooks stay. Backward passes may come after the context, also those that compute a block
    again (gradient checkpointing).

    Parameters
    ----------
    model : transformers.PreTrainedModel
        What `freeze_parts` was given, not wrapped.
    frozen : Frozen
        With at least one frozen block.
    hidden : torch.Tensor, shape (B, L, H)
        As `States.batch` gives it, for the windows that the model is called with.

    Raises
    ------
    UsageError
        No block is frozen; or, from the model's call, its inputs have another shape than `hidden`.
    """
    if not frozen.prefix:
        raise UsageError("no block is frozen, so a model cannot start from the output of frozen blocks")
    _learn_kinds(model, frozen)
    given = hidden.to(model.device, non_blocking=True)
    forwards = {module: _answering(given, as_tuple=_gives_tuple[type(module)]) for module in frozen.prefix}
    if frozen.embeddings is not None and _widths.get(frozen.embeddings) == given.shape[2]:
        forwards[frozen.embeddings] = _beginning(given, frozen.embeddings.forward)
    before = [vars(module).get("forward") for module in forwards]
    try:
        for module, forward in forwards.items():
            vars(module)["forward"] = forward
        yield
    finally:
        for module, theirs in zip(forwards, before, strict=True):
            del vars(module)["forward"]
            if theirs is not None:  # somebody else's, such as accelerate's
                vars(module)["forward"] = theirs


def _answering(given: torch.Tensor, *, as_tuple: bool) -> Callable[..., Any]:
    """Return a forward that answers `given` to everything of its shape."""

    def forward(hidden_states: torch.Tensor, *_: object, **__: object) -> Any:  # noqa: ANN401 - as the family has it
        if hidden_states.shape != given.shape:
            raise UsageError(
                f"kept states of shape {tuple(given.shape)} were given for inputs of shape "
                f"{tuple(hidden_states.shape)}; pad them alike, and let nothing split the batch"
            )
        return (given, None) if as_tuple else given

    return forward


def _beginning(given: torch.Tensor, own: Callable[..., Any]) -> Callable[..., Any]:
    """Return a forward of embeddings that answers `given` to ids of its shape, to anything else as its `own`."""

    def forward(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the family has it
        ids = kwargs.get("input_ids", args[0] if args else None)
        alike = isinstance(ids, torch.Tensor) and ids.shape == given.shape[:2]
        return given if alike else own(*args, **kwargs)

    return forward


def _learn_kinds(model: PreTrainedModel, frozen: Frozen) -> None:
    """See once, on two tokens, which modules answer with a tuple, and how wide embeddings are."""
    known = frozen.embeddings is None or frozen.embeddings in _widths
    if known and all(type(module) in _gives_tuple for module in frozen.prefix):
        return
    ids = torch.zeros((1, 2), dtype=torch.long, device=model.device)
    with _resting(model), torch.no_grad():
        _output(model, frozen, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})


class _ReachedError(Exception):
    """The first block that is not frozen is about to be computed."""


def _output(model: PreTrainedModel, frozen: Frozen, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return what the frozen blocks give, shape (B, L, H), without computing the others."""
    last: list[torch.Tensor] = []

    def note(module: nn.Module, _: object, output: Any) -> None:  # noqa: ANN401 - as the family has it
        _gives_tuple[type(module)] = isinstance(output, tuple)
        if module is frozen.prefix[-1]:
            last[:] = [output[0] if isinstance(output, tuple) else output]

    def begin(module: nn.Module, _: object, output: object) -> None:
        _widths[module] = output.shape[-1] if isinstance(output, torch.Tensor) and output.ndim == 3 else 0

    def stop(*_: object) -> None:
        raise _ReachedError

    hooks = [module.register_forward_hook(note) for module in frozen.prefix]
    if frozen.embeddings is not None:
        hooks.append(frozen.embeddings.register_forward_hook(begin))
    if frozen.following is not None:
        hooks.append(frozen.following.register_forward_pre_hook(stop))
    try:
        model.base_model(**given)
    except _ReachedError:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return last[0]


class _Run:
    """What one pass over all windows needs."""

    def __init__(
        self,
        model: PreTrainedModel,
        frozen: Frozen,
        tokens: Tokens,
        pad_id: int,
        types: bool,
        autocast: Callable[[], AbstractContextManager[Any]],
        device: torch.device,
    ) -> None:
        self._model, self._frozen, self._tokens, self._pad_id = model, frozen, tokens, pad_id
        self._types, self._autocast, self._device = types, autocast, device

    def given(self, windows: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """Return what the model is given of some windows."""
        arrays = padded_inputs(self._tokens, windows, self._pad_id, types=self._types)
        return {name: torch.from_numpy(array).to(self._device) for name, array in arrays.items()}

    def states(self, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the output of the frozen blocks, shape (B, L, H)."""
        with self._autocast():
            return _output(self._model, self._frozen, given)

    def check(self) -> tuple[int, torch.dtype]:
        """Return width and dtype of states; `ModelError` unless the model answers as from the texts."""
        lengths = self._tokens.lengths
        given = self.given(np.unique([lengths.argmin(), lengths.argmax()]))
        there = given["attention_mask"].bool()
        states = self.states(given) * there[:, :, None]
        with self._autocast():
            whole = self._model.base_model(**given).last_hidden_state[there].float()
            with from_block(self._model, self._frozen, states):
                short = self._model.base_model(**given).last_hidden_state[there].float()
        off, largest = float((whole - short).abs().max()), float(whole.abs().max())
        if not off <= _TOLERANCE * max(1.0, largest):  # also where it is no number
            raise ModelError(
                f"a {type(self._model).__name__} that starts from kept states is off by {off:.2g} of "
                f"{largest:.2g}; run without them (--cache-prefix off)"
            )
        return int(states.shape[2]), states.dtype


@contextmanager
def _resting(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode; each module's own is put back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _require_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StoreFullError(
            f"the output of the frozen blocks takes {needed / 1e9:.2f} GB, and the disk of {folder} has "
            f"{free / 1e9:.2f} GB free; free some, or run without keeping it (--cache-prefix off)"
        )


@contextmanager
def _appearing(path: Path) -> Iterator[BinaryIO]:
    """Write a file under a temporary name; it gets its own when all is written, and goes if anything fails.

    The name is always the same, so that what a killed run left behind is written over.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            advice = "free some space, or run without keeping the output of frozen blocks (--cache-prefix off)"
            raise store_error(error, f"{path} cannot be written", advice) from error
        raise
