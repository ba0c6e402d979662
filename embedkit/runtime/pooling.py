"""Hidden states of tokens to one vector a text, written once for numpy arrays and torch tensors.

``mean`` counts special tokens, as sentence-transformers does.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import numpy as np

Pooling: TypeAlias = Literal["cls", "mean", "max", "last", "mean_sqrt_len", "pooler"]
POOLINGS: tuple[str, ...] = get_args(Pooling)


def pool(hidden: Any, lengths: Any, mask: Any | None, how: str) -> Any:  # noqa: ANN401 - numpy or torch
    """Pool over tokens.

    Parameters
    ----------
    hidden : array or tensor of float32, shape (B, L, H)
        Hidden states, padded on the right.
    lengths : array or tensor of int64, shape (B,)
        Tokens of each row; at least 1.
    mask : array or tensor, shape (B, L), or None
        1 for tokens, 0 for padding; None where no row is padded.
    how : {"cls", "mean", "max", "last", "mean_sqrt_len"}
        ``cls`` takes the first token, ``last`` the last one, ``mean_sqrt_len`` the sum over the square root of
        the length. (``pooler`` is a layer of the model, not a pooling of hidden states.)

    Returns
    -------
    array or tensor of float32, shape (B, H)

    Raises
    ------
    ValueError
        `how` is none of them.
    """
    if how == "cls":
        return hidden[:, 0]
    if how == "last":
        rows = (lengths > 0).cumsum(0) - 1  # 0, 1, 2, ...: of any number of rows, also in a traced graph
        return hidden[rows, lengths - 1]
    if isinstance(hidden, np.ndarray):  # numpy, unlike torch, widens float32 with int64 to float64
        lengths = lengths.astype(hidden.dtype)
        mask = None if mask is None else mask.astype(hidden.dtype)
    if how == "max":
        filled = hidden if mask is None else hidden + (mask[:, :, None] - 1) * 1e30
        return filled.amax(1) if hasattr(filled, "amax") else filled.max(1)
    total = (hidden if mask is None else hidden * mask[:, :, None]).sum(1)  # (B, H)
    if how == "mean":
        return total / lengths[:, None]
    if how == "mean_sqrt_len":
        return total / lengths[:, None] ** 0.5
    raise ValueError(f"pooling {how!r} is none of {', '.join(p for p in POOLINGS if p != 'pooler')}")
