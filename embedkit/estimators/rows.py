"""The rows that a classifier was trained on, without their texts: so that rows can be added later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from embedkit.artifact import packed, unpacked
from embedkit.data import Split
from embedkit.encoders import FeatureExtractor
from embedkit.errors import DataError, StoreError


@dataclass(frozen=True, eq=False)
class Rows:
    """Keys of inputs in the feature store, with their targets.

    They are kept in the store, not in the artifact: a key tells whether a text that somebody guesses was among
    them, and an artifact may be published.

    Attributes
    ----------
    keys : ndarray of uint8, shape (n, parts, 16)
        One part for texts and pairs that are read together, two for pairs that are read apart.
    targets : ndarray of int64 (n,), or of bool (n, C)
    """

    keys: NDArray[np.uint8]
    targets: NDArray[Any]

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def of(cls, extractor: FeatureExtractor, split: Split, targets: NDArray[Any]) -> Rows:
        """Return the rows of a split."""
        return cls(extractor.keys(cast("Any", split.inputs), split.rows), targets)

    def joined(self, later: Rows) -> Rows:
        """Return these rows and later ones, whose targets may know more labels."""
        targets = self.targets
        if targets.ndim == 2:
            targets = np.pad(targets, ((0, 0), (0, later.targets.shape[1] - targets.shape[1])))
        return Rows(np.concatenate([self.keys, later.keys]), np.concatenate([targets, later.targets]))

    def keep(self, extractor: FeatureExtractor) -> str | None:
        """Put the rows into the extractor's store; return what they are called, None where there is no store."""
        if extractor.store is None or not extractor.keeping:
            return None
        try:
            return extractor.store.keep_rows(packed({"keys": self.keys, "targets": self.targets}))
        except StoreError as error:
            extractor.go_without(str(error))
            return None

    @classmethod
    def read(cls, extractor: FeatureExtractor, name: object, folder: str) -> Rows:
        """Read what `keep` kept.

        Parameters
        ----------
        extractor : FeatureExtractor
            With the store that training used.
        name : str or None
            What `keep` returned.
        folder : str
            The artifact, for messages.

        Raises
        ------
        DataError
            The store does not have them.
        """
        data = None
        if isinstance(name, str) and extractor.store is not None:
            data = extractor.store.rows(name)
        if data is None:
            raise DataError(
                f"{folder}: the store does not have the rows that it was trained on, so none can be added "
                "(another store, a purged one, --no-store, or a fit in Python); train on all rows together"
            )
        arrays = unpacked(data, f"the rows of {folder}")
        keys, targets = arrays.get("keys"), arrays.get("targets")
        if keys is None or targets is None or keys.ndim != 3 or len(keys) != len(targets):
            raise DataError(f"the rows of {folder} are damaged; train on all rows together")
        return cls(keys, targets)
