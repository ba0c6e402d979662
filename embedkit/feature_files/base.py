"""What every format does alike: a promise of rows, kept split after split."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedkit.data.labels import LabelCodec

ColumnChunk: TypeAlias = tuple[str, Mapping[str, Sequence[Any]], NDArray[np.int64]]
"""A source's name for messages, some of its rows by column, and their data rows, counted from 1."""


@dataclass(frozen=True)
class Plan:
    """What a file will hold, known before its first byte."""

    rows: Mapping[str, int]
    width: int
    codec: LabelCodec | None
    labelled: Collection[str]
    columns: Iterable[ColumnChunk] | None

    def __post_init__(self) -> None:
        if self.width < 1 or min(self.rows.values(), default=0) < 0:
            raise ValueError(f"width {self.width} and rows {dict(self.rows)} must be counts")
        strange = [split for split in self.labelled if split not in self.rows]
        if strange:
            raise ValueError(f"labelled splits {strange} are none of {list(self.rows)}")

    def has_labels(self, split: str) -> bool:
        """Say whether labels of a split are written."""
        return self.codec is not None and split in self.labelled


class FeatureFile(ABC):
    """A file that is being written; made by `feature_file`.

    Attributes
    ----------
    needs_columns : bool
        Whether the columns of the input are kept beside the vectors.
    """

    needs_columns: ClassVar[bool] = False

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._ahead = list(plan.rows)
        self._split: str | None = None
        self._left = 0

    def write(
        self,
        split: str,
        vectors: NDArray[np.float32],
        labels: Sequence[Any] | None,
        columns: Mapping[str, Sequence[Any]],
    ) -> None:
        """Add rows in order, split after split; some thousand at a time are best.

        Parameters
        ----------
        split : str
            The split that is being written, or the next one once all rows of this one were given.
        vectors : ndarray of float32, shape (n, width)
        labels : sequence or None
            n labels, or n lists of labels, of a split with labels; of others they are not looked at.
        columns : mapping of str to sequence
            n values each, as read; a column that is absent is null in these rows. Not looked at unless
            `needs_columns`.

        Raises
        ------
        ValueError
            This is not what was promised: another split, more rows, other shapes, labels that the codec lacks.
        DataError
            The columns are not those that were read before (the data changed meanwhile).
        OSError
            The file system refuses.
        """
        if vectors.dtype != np.float32 or vectors.ndim != 2 or vectors.shape[1] != self._plan.width:
            raise ValueError(
                f"vectors of {vectors.dtype} {vectors.shape}, promised float32 (rows, {self._plan.width})"
            )
        lengths = {len(values) for values in columns.values()} if self.needs_columns else set()
        if self._plan.has_labels(split):
            if labels is None:
                raise ValueError(f"no labels for rows of {split!r}, which was said to have labels")
            lengths.add(len(labels))
        if lengths - {len(vectors)}:
            raise ValueError(f"{len(vectors)} vectors of {split!r}, but {sorted(lengths)} labels or values")
        self._turn_to(split)
        if len(vectors) > self._left:
            raise ValueError(f"{split!r} has more than the promised {self._plan.rows[split]} rows")
        if len(vectors):
            self._put(split, vectors, labels, columns)
        self._left -= len(vectors)

    def _turn_to(self, split: str | None) -> None:
        """Go on to a split, or behind the last one; all before it must be whole."""
        if split is not None and split not in [self._split, *self._ahead]:
            raise ValueError(f"{split!r} is none of the promised splits {list(self._plan.rows)}, or is behind us")
        while self._split != split or (split is None and self._ahead):
            if self._left:
                given = self._plan.rows[self._split or ""] - self._left
                raise ValueError(f"{self._split!r} has {given} rows, promised {given + self._left}")
            self._split = self._ahead.pop(0) if self._ahead else None
            if self._split is not None:
                self._left = self._plan.rows[self._split]
                self._begin(self._split)

    @abstractmethod
    def _start(self, file: IO[bytes]) -> None:
        """Take the new file that is to be written."""

    def _begin(self, split: str) -> None:  # noqa: B027 - most formats have nothing to do
        """Take note that a split begins; called once for each, in order."""

    @abstractmethod
    def _put(
        self,
        split: str,
        vectors: NDArray[np.float32],
        labels: Sequence[Any] | None,
        columns: Mapping[str, Sequence[Any]],
    ) -> None:
        """Write at least one row, checked."""

    @abstractmethod
    def _finish(self) -> None:
        """Write what ends the file, behind the last row."""

    def _discard(self) -> None:  # noqa: B027 - only some libraries write at their own end
        """Let go of the file without an error."""
