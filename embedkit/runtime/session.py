"""Opening an ONNX file: what it would read besides itself, what it takes and gives."""

from __future__ import annotations

import mmap
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedkit.errors import ArtifactError

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_INTEGERS: dict[str, type[np.signedinteger[Any]]] = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
_FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)")
# Where tensors stand in onnx.proto: message -> field number -> message.
_FIELDS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}
_KEY, _VALUE = 1, 2  # of an entry of a tensor's external_data
_DATA_LOCATION = 14


class Session(NamedTuple):
    """A graph that is open.

    Attributes
    ----------
    path : Path
    handle : onnxruntime.InferenceSession
    inputs : dict of str to dtype
        Integers, by name.
    outputs : dict of str to list
        The shape of each, as onnxruntime writes it; in their order.
    """

    path: Path
    handle: Any
    inputs: dict[str, type[np.signedinteger[Any]]]
    outputs: dict[str, list[Any]]

    def answer(self, names: list[str], given: dict[str, NDArray[np.int64]]) -> list[NDArray[Any]]:
        """Run the graph on its inputs among `given`.

        Raises
        ------
        ArtifactError
            onnxruntime cannot: the graph and the tokenizer do not belong together.
        """
        fed = {name: given[name].astype(dtype, copy=False) for name, dtype in self.inputs.items()}
        try:
            found: list[NDArray[Any]] = self.handle.run(names, fed)
        except Exception as error:  # onnxruntime raises classes of its own
            raise ArtifactError(f"the graph fails on a batch of tokens: {_reason(error)}") from None
        return found


def open_session(graph: Path, threads: int | None = None, *, external: Collection[str] = ()) -> Session:
    """Open a graph on the CPU.

    Parameters
    ----------
    graph : Path
    threads : int, optional
        Of a forward pass. Default: one a core.
    external : collection of str
        Files beside the graph in which its weights may be, as it writes them. Default: none.

    Raises
    ------
    ArtifactError
        The graph would read another file, onnxruntime cannot open it, or it does not go from token ids of any
        number and length to numbers.
    """
    others = external_files(graph) - set(external)
    if others:
        named = ", ".join(map(repr, sorted(others)[:3]))
        raise ArtifactError(
            f"{graph} has weights in {named}, which is not read: they must be in "
            "the graph itself, or in files of the folder that its digests cover"
        )
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what goes wrong is raised; the rest is about the graph, not for the user
    options.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own
        raise ArtifactError(f"{graph}: onnxruntime cannot open this graph: {_reason(error)}") from None
    unknown = [entry.name for entry in session.get_inputs() if entry.name not in INPUTS]
    if unknown or not {"input_ids", "attention_mask"} <= {entry.name for entry in session.get_inputs()}:
        names = ", ".join(sorted(entry.name for entry in session.get_inputs()))
        raise ArtifactError(
            f"{graph}: a graph from {names} cannot be fed; supported are {', '.join(INPUTS)}, the first two always"
        )
    for entry in session.get_inputs():
        if entry.type not in _INTEGERS or any(isinstance(size, int) for size in entry.shape):
            raise ArtifactError(
                f"{graph}: its input {entry.name} is {entry.type} of shape {entry.shape}; integers of any batch "
                "and length are needed"
            )
    inputs = {entry.name: _INTEGERS[entry.type] for entry in session.get_inputs()}
    outputs = {entry.name: list(entry.shape) for entry in session.get_outputs() if entry.type in _FLOATS}
    return Session(graph, session, inputs, outputs)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


# ------------------------------------------------------------------------------------------- other files


def external_files(graph: Path) -> set[str]:
    """Return the files beside a graph in which it says that its weights are, as it writes them.

    The file's protobuf fields are walked here and weights are stepped over, so that nothing is opened that was
    not asked for, and a large file costs no memory.

    Raises
    ------
    ArtifactError
        The file is no ONNX graph.
    """
    with graph.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise ArtifactError(f"{graph} is empty; make the folder again")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return set(_locations(data))
            except (ValueError, IndexError):
                raise ArtifactError(f"{graph} is no ONNX graph, or damaged; make the folder again") from None


def _locations(data: mmap.mmap) -> Iterator[str]:
    """Yield the locations of all tensors that are said to be elsewhere; "" for one that does not say where."""
    waiting = [("Model", 0, len(data))]
    while waiting:
        message, start, end = waiting.pop()
        within, external, named = _FIELDS[message], False, False
        for number, wire, first, last in _fields(data, start, end):
            inner = within.get(number) if wire == 2 else None
            if inner == "Entry":
                key, value = _entry(data, first, last)
                if key == b"location":
                    named = True
                    yield value.decode("utf-8", "surrogateescape")
            elif inner is not None:
                waiting.append((inner, first, last))
            elif message == "Tensor" and number == _DATA_LOCATION:
                external = _varint(data, first, end)[0] != 0
        if external and not named:
            yield ""


def _entry(data: mmap.mmap, start: int, end: int) -> tuple[bytes, bytes]:
    found = {number: data[first:last] for number, _, first, last in _fields(data, start, end)}
    return found.get(_KEY, b""), found.get(_VALUE, b"")


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield number, wire type and place of each field; `ValueError` where this is no protobuf message."""
    place = start
    while place < end:
        tag, place = _varint(data, place, end)
        number, wire = tag >> 3, tag & 7
        if tag >> 32:  # readers that keep 32 bits of it would see another field
            raise ValueError("a field's number that is too large")
        if wire == 2:
            size, place = _varint(data, place, end)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        elif wire == 0:
            size = _varint(data, place, end)[1] - place
        else:
            raise ValueError("a group, which ONNX has none of")
        if place + size > end or not number:
            raise ValueError("a field that ends behind its message")
        yield number, wire, place, place + size
        place += size


def _varint(data: mmap.mmap, place: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while place < end and shift < 70:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise ValueError("a number that does not end")
