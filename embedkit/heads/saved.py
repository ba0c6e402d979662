"""Saved heads, read back: the kind picks the class from a fixed table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from embedkit.errors import ArtifactError, MissingExtraError
from embedkit.heads.arrays import GaussianHead, KnnHead, MlpHead
from embedkit.heads.base import Arrays, Head
from embedkit.heads.linear import ConstantHead, LinearHead
from embedkit.heads.skops_head import FILE, SkopsHead
from embedkit.heads.wrapped import CalibratedHead, PerLabelHead, nested

_PLAIN = {head.kind: head for head in (LinearHead, ConstantHead, KnnHead, GaussianHead, MlpHead, SkopsHead)}
_KINDS = (*_PLAIN, CalibratedHead.kind, PerLabelHead.kind)


def head_from_state(described: Mapping[str, Any], arrays: Arrays) -> Head:
    """Rebuild a head from what its `state` gave.

    Parameters
    ----------
    described : mapping
        The JSON-able part; ``kind`` picks the class from a fixed table.
    arrays : mapping of str to numpy.ndarray
        The named arrays.

    Returns
    -------
    Head
        Predicting as the head that was saved, bit for bit.

    Raises
    ------
    ArtifactError
        If the kind is unknown, or the parts are missing or do not fit together.
    """
    kind = described.get("kind")
    if kind not in _KINDS:
        raise ArtifactError(f"the head is of the unknown kind {kind!r}; known: {', '.join(_KINDS)}")
    try:
        _check_types(described, arrays)
        head = _rebuilt(described, arrays)
    except (ArtifactError, MissingExtraError):
        raise
    except KeyError as error:
        raise ArtifactError(f"the {kind} head lacks {error}") from None
    except (ValueError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ArtifactError(f"the {kind} head is damaged: {error}") from None
    said = (described["classes"], described["n_features"])
    if (head.classes, head.n_features) != said:
        raise ArtifactError(
            f"the {kind} head is described with {said[0]} classes and {said[1]} features, but its arrays hold "
            f"{head.classes} and {head.n_features}"
        )
    if head.multi_label != described["multi_label"]:
        raise ArtifactError(
            f"the {kind} head is described with multi_label {described['multi_label']}, and is not"
        )
    return head


def _check_types(described: Mapping[str, Any], arrays: Arrays) -> None:
    """Raise `ValueError` for numbers that are none, before a head takes them for something."""
    for name in ("classes", "n_features", *(name for name in ("k", "layers") if name in described)):
        if type(described[name]) is not int or described[name] < 1:
            raise ValueError(f"{name} must be an integer above 0, not {described[name]!r}")
    if type(described["multi_label"]) is not bool:
        raise ValueError(f"multi_label must be true or false, not {described['multi_label']!r}")
    for name, array in arrays.items():
        kinds = {"targets": "b", FILE: "u"}.get(name if name == FILE else name.rpartition(".")[2], "f")
        if np.asarray(array).dtype.kind not in kinds:
            raise ValueError(f"{name} must not be of dtype {np.asarray(array).dtype}")


def _rebuilt(described: Mapping[str, Any], arrays: Arrays) -> Head:
    kind = described["kind"]
    if kind in _PLAIN:
        head: Head = _PLAIN[kind].from_state(described, arrays)
        return head
    parts = [head_from_state(*part) for part in nested(described, arrays)]
    return CalibratedHead.of(parts[0], arrays) if kind == CalibratedHead.kind else PerLabelHead(parts)
