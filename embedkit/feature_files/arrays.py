"""Features as arrays: NumPy's npz and safetensors, streamed; only labels are kept until the end."""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from typing import IO, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from embedkit.data.labels import LabelCodec
from embedkit.data.text import name_of
from embedkit.errors import DataError
from embedkit.feature_files.base import FeatureFile, Plan


class _Codes:
    """The labels of all splits as codes: 8 bytes a row, or one bit a row and class."""

    def __init__(self, plan: Plan, classes: LabelCodec) -> None:
        self._codec = classes
        self._chunks: dict[str, list[NDArray[Any]]] = {split: [] for split in plan.rows if plan.has_labels(split)}
        self.several: bool | None = None

    def add(self, split: str, labels: Sequence[Any]) -> None:
        forms = {isinstance(label, (list, tuple, set, frozenset)) for label in labels} | {self.several} - {None}
        if len(forms) > 1:
            raise ValueError("some rows have one label, others a list of labels")
        self.several = any(forms)
        try:
            if self.several:
                self._chunks[split].append(np.packbits(self._codec.encode_sets(labels), axis=1))
            else:
                self._chunks[split].append(self._codec.encode(labels))
        except DataError as error:
            raise ValueError(f"the codec does not fit the labels of {split!r}: {error}") from error

    def arrays(self, split: str) -> Iterator[NDArray[Any]]:
        """Yield the codes as they are written."""
        for chunk in self._chunks[split]:
            if self.several:
                yield np.unpackbits(chunk, axis=1, count=len(self._codec)).astype(np.bool_)
            else:
                yield chunk.astype("<i8", copy=False)


def _array_names(splits: Iterable[str]) -> dict[str, str]:
    """Return what a split is called in names of arrays."""
    names: dict[str, str] = {}
    for split in splits:
        dots = len(split) - len(split.lstrip("."))
        name = "_" * dots + re.sub(r"[/\\\0\ud800-\udfff]", "_", split[dots:])
        if name in names.values():
            raise ValueError(f"the splits {list(splits)} are not distinct as names of arrays")
        names[split] = name
    return names


class _ArrayFile(FeatureFile):
    """Vectors in the order they come, labels behind them."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._names = _array_names(plan.rows)
        self._codes = None if plan.codec is None else _Codes(plan, plan.codec)

    def _shapes(self, several: bool) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return dtype and shape of the arrays, in the order of the file."""
        rows, codec = self._plan.rows, self._plan.codec
        shapes: dict[str, tuple[str, tuple[int, ...]]] = {
            f"X_{self._names[split]}": ("<f4", (count, self._plan.width)) for split, count in rows.items()
        }
        for split, count in rows.items():
            if codec is not None and self._plan.has_labels(split):
                shapes[f"y_{self._names[split]}"] = ("|b1", (count, len(codec))) if several else ("<i8", (count,))
        return shapes

    def _begin(self, split: str) -> None:
        self._open(f"X_{self._names[split]}")

    def _put(
        self,
        split: str,
        vectors: NDArray[np.float32],
        labels: Sequence[Any] | None,
        columns: Mapping[str, Sequence[Any]],
    ) -> None:
        if self._codes is not None and labels is not None and self._plan.has_labels(split):
            self._codes.add(split, labels)
        self._append(vectors.astype("<f4", copy=False))

    def _finish(self) -> None:
        for split in self._plan.rows:
            if self._codes is not None and self._plan.has_labels(split):
                self._open(f"y_{self._names[split]}")
                for chunk in self._codes.arrays(split):
                    self._append(chunk)

    @property
    def _several(self) -> bool:
        return self._codes is not None and bool(self._codes.several)

    @abstractmethod
    def _open(self, name: str) -> None:
        """Begin the next array."""

    @abstractmethod
    def _append(self, array: NDArray[Any]) -> None:
        """Write rows of the array that was begun."""


def _raw(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


class NpzFile(_ArrayFile):
    """One stored zip member an array, each streamed behind its npy header."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        for name in plan.codec.names if plan.codec is not None else ():
            if name.endswith("\0"):
                raise DataError(f"label {name_of(name)} ends in NUL, which .npz drops; write .safetensors")

    def _start(self, file: IO[bytes]) -> None:
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)
        self._member: IO[bytes] = io.BytesIO()  # closed when the first one is opened

    def _open(self, name: str) -> None:
        dtype, shape = self._shapes(self._several)[name]
        member = self._next_member(name)
        header = {"descr": dtype, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(member, header)

    def _next_member(self, name: str) -> IO[bytes]:
        self._member.close()
        # ZipInfo's own date, so that equal features are equal files
        self._member = self._zip.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)
        return self._member

    def _append(self, array: NDArray[Any]) -> None:
        self._member.write(_raw(array))

    def _finish(self) -> None:
        super()._finish()
        if self._plan.codec is not None:
            names = np.array(self._plan.codec.names, dtype=np.str_)
            np.lib.format.write_array(self._next_member("label_names"), names, allow_pickle=False)
        self._member.close()
        self._zip.close()

    def _discard(self) -> None:
        # Both would write at their end, or complain when they are collected.
        for part in (self._member, self._zip):
            with suppress(OSError):
                part.close()


class SafetensorsFile(_ArrayFile):
    """The header of the safetensors format, then the arrays one after another.

    Format: https://github.com/huggingface/safetensors#format
    """

    _DTYPES: ClassVar[dict[str, str]] = {"<f4": "F32", "<i8": "I64", "|b1": "BOOL"}

    def _start(self, file: IO[bytes]) -> None:
        # Whether rows have several labels shows with the first of them: there is room for either header.
        self._file, self._room = file, max(len(self._header(several)) for several in (False, True))
        file.write(bytes(8 + self._room))

    def _header(self, several: bool) -> bytes:
        header: dict[str, Any] = {}
        if self._plan.codec is not None:
            header["__metadata__"] = {"label_names": json.dumps(self._plan.codec.names)}
        shapes = self._shapes(several)
        sizes = (int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize for dtype, shape in shapes.values())
        offsets = list(accumulate(sizes, initial=0))
        for (name, (dtype, shape)), *place in zip(shapes.items(), offsets, offsets[1:], strict=False):
            header[name] = {"dtype": self._DTYPES[dtype], "shape": shape, "data_offsets": place}
        text = json.dumps(header, separators=(",", ":")).encode("ascii")
        return text.ljust(-(-len(text) // 8) * 8)

    def _open(self, name: str) -> None:
        pass

    def _append(self, array: NDArray[Any]) -> None:
        self._file.write(_raw(array))

    def _finish(self) -> None:
        super()._finish()
        self._file.seek(0)
        self._file.write(struct.pack("<Q", self._room) + self._header(self._several).ljust(self._room))
