"""Long texts that were read in windows, put together again."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedkit.runtime.tokens import Tokens

Floats: TypeAlias = NDArray[np.float32]


class WindowMerger:
    """Puts the windows of long texts together: their mean, weighted by tokens."""

    def __init__(self, tokens: Tokens) -> None:
        self._rows = tokens.rows
        self._lengths = tokens.lengths
        self._left = np.bincount(tokens.rows, minlength=len(tokens.truncated))
        self._single = self._left == 1
        self._weights = tokens.row_lengths
        self._sums: dict[int, NDArray[np.float64]] = {}

    def add(self, windows: NDArray[np.int64], vectors: Floats) -> tuple[NDArray[np.int64], Floats]:
        """Take the vectors (V, B, H) of some windows; return the rows that are complete and theirs (V, R, H)."""
        rows = self._rows[windows]
        whole = self._single[rows]
        if whole.all():
            return rows, vectors
        finished: list[int] = []
        for at in np.flatnonzero(~whole).tolist():
            row = int(rows[at])
            part = vectors[:, at].astype(np.float64) * self._lengths[windows[at]]
            self._sums[row] = self._sums[row] + part if row in self._sums else part
            self._left[row] -= 1
            if not self._left[row]:
                finished.append(row)
        means = [(self._sums.pop(row) / self._weights[row]).astype(np.float32) for row in finished]
        done = np.concatenate([rows[whole], np.array(finished, dtype=np.int64)])
        ready = np.concatenate([vectors[:, whole], *(mean[:, None] for mean in means)], axis=1)
        return done, ready
