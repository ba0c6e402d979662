"""int8: the weights of a graph as 8-bit integers, products in integers, activations measured at run time."""

from __future__ import annotations

import contextlib
import logging
import platform
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedkit.errors import ExportError

_TABLE = 1 << 16  # numbers from which on a table of embeddings is worth being made small
_LARGEST = 127
_FLOAT = 1  # onnx.TensorProto.FLOAT
_WIDE_SUMS = {"avx512_vnni", "avx_vnni", "amx_int8", "avx_vnni_int8"}  # flags of CPUs that add without saturating


@dataclass(frozen=True)
class Setting:
    """What becomes 8-bit, and how.

    Attributes
    ----------
    per_channel : bool
        A scale for each column of a matrix; else one for all of it.
    reduced_range : bool
        Weights have 7 bits, so that sums of two products fit into 16 bits on CPUs without VNNI.
    embeddings : bool
        Also the tables of embeddings, with a scale for each row; else they stay in float.
    ends : bool
        Also the first and the last block; else these stay in float.
    """

    per_channel: bool = True
    reduced_range: bool = False
    embeddings: bool = True
    ends: bool = True

    @property
    def words(self) -> str:
        """What a table calls it."""
        said = ["per channel" if self.per_channel else "per matrix"]
        said += ["reduced range"] * self.reduced_range
        said += ["embeddings in float"] * (not self.embeddings)
        said += ["first and last block in float"] * (not self.ends)
        return ", ".join(said)


def settings(*, saturates: bool) -> list[Setting]:
    """Return what is tried, the smallest and fastest first.

    Parameters
    ----------
    saturates : bool
        Whether this CPU adds products of 8 bits in 16: then the reduced range comes first.
    """
    order = [
        Setting(),
        Setting(reduced_range=True),
        Setting(embeddings=False),
        Setting(ends=False),
        Setting(embeddings=False, ends=False),
        Setting(per_channel=False),
    ]
    return sorted(order, key=lambda setting: not setting.reduced_range) if saturates else order


def vnni() -> bool | None:
    """Say whether this CPU multiplies 8-bit integers without saturating; None where the system does not tell."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return True  # its 8-bit products are added in 32 bits
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("flags"):
                return bool(_WIDE_SUMS & set(line.split()))
    return None


def quantize(source: Path, target: Path, setting: Setting) -> int:
    """Write a graph whose large matrix products are in 8-bit integers (dynamic quantisation of onnxruntime).

    Activations get one scale a tensor, measured at each run: an answer depends a little on its neighbours in a
    batch. Products in attention and the last one before the logits stay in float.

    Parameters
    ----------
    source : Path
        A float32 graph of `embedkit.export.graph`.
    target : Path
        Written anew.
    setting : Setting

    Returns
    -------
    int
        Bytes of the file.

    Raises
    ------
    ExportError
        The graph holds no product that could be in 8 bits.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    products = _products(model.graph)
    left_out = _before_logits(model.graph, set(products))
    inner = [name for name in products if name not in left_out]
    if not inner:
        raise ExportError("no matrix product of this graph could be in int8")
    if not setting.ends:
        left_out |= _ends(inner, _count(model.graph, "Softmax"))
    with _quiet():
        quantize_dynamic(
            model,
            target,
            op_types_to_quantize=["MatMul"],
            per_channel=setting.per_channel,
            reduce_range=setting.reduced_range,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=sorted(left_out),
            extra_options={"MatMulConstBOnly": True, "DefaultTensorType": _FLOAT},
        )
    if setting.embeddings:
        small = onnx.load(target)
        for name in _tables(small.graph):
            _shrink(small.graph, name)
        target.write_bytes(small.SerializeToString(deterministic=True))
    return target.stat().st_size


def _products(graph: Any) -> list[str]:  # noqa: ANN401 - onnx.GraphProto
    """Return the names of the products with weights, in the order of the graph."""
    weights = {entry.name for entry in graph.initializer}
    return [node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights]


def _count(graph: Any, kind: str) -> int:  # noqa: ANN401 - onnx.GraphProto
    return sum(node.op_type == kind for node in graph.node)


def _before_logits(graph: Any, products: set[str]) -> set[str]:  # noqa: ANN401 - onnx.GraphProto
    """Return the product that the logits come from: a small one, where an error is one of the answer."""
    makers = {output: node for node in graph.node for output in node.output}
    waiting = ["logits"]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        node = makers.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        if node.name in products:
            return {node.name}
        if node.op_type != "Gemm":  # a product of its own, which stays in float anyway
            waiting += node.input
    return set()


def _ends(products: list[str], blocks: int) -> set[str]:
    """Return the products of the first and the last block; what is before the blocks counts for the first."""
    each = len(products) // max(1, blocks)
    return set(products[: len(products) % max(1, blocks) + each]) | set(products[len(products) - each :])


def _tables(graph: Any) -> list[str]:  # noqa: ANN401 - onnx.GraphProto
    """Return the large float tables that nothing but Gather reads."""
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            readers.setdefault(name, set()).add(node.op_type if place == 0 else "")
    return [
        entry.name
        for entry in graph.initializer
        if readers.get(entry.name) == {"Gather"}
        and entry.data_type == _FLOAT
        and len(entry.dims) == 2
        and entry.dims[0] * entry.dims[1] >= _TABLE
    ]


def _shrink(graph: Any, name: str) -> None:  # noqa: ANN401 - onnx.GraphProto
    """Store a table as 8-bit rows with a scale each, and look both up: an error of 0.4 % of a row's largest."""
    from onnx import helper, numpy_helper

    table = next(entry for entry in graph.initializer if entry.name == name)
    rows, scales = int8_rows(numpy_helper.to_array(table))
    graph.initializer.remove(table)
    parts: dict[str, NDArray[Any]] = {f"{name}_rows": rows, f"{name}_scales": scales}
    graph.initializer.extend(numpy_helper.from_array(array, part) for part, array in parts.items())
    nodes = []
    for node in graph.node:
        if node.op_type != "Gather" or node.input[0] != name:
            nodes.append(node)
            continue
        ids, out = node.input[1], node.output[0]
        nodes += [
            helper.make_node("Gather", [f"{name}_rows", ids], [f"{out}_rows"], f"{node.name}_rows"),
            helper.make_node("Gather", [f"{name}_scales", ids], [f"{out}_scales"], f"{node.name}_scales"),
            helper.make_node("Cast", [f"{out}_rows"], [f"{out}_wide"], f"{node.name}_wide", to=_FLOAT),
            helper.make_node("Mul", [f"{out}_wide", f"{out}_scales"], [out], node.name),
        ]
    del graph.node[:]
    graph.node.extend(nodes)


def int8_rows(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return a table as 8-bit rows and the scale of each, shape (n, 1): rows times scales are near the table.

    Examples
    --------
    >>> import numpy as np
    >>> rows, scales = int8_rows(np.array([[0.5, -1.0], [0.0, 0.0]], dtype=np.float32))
    >>> rows.tolist(), (rows * scales).round(2).tolist()
    ([[64, -127], [0, 0]], [[0.5, -1.0], [0.0, 0.0]])
    """
    largest = np.abs(table).max(axis=1, keepdims=True)
    scales = np.maximum(largest / _LARGEST, np.finfo(np.float32).tiny).astype(np.float32)
    return np.rint(table / scales).astype(np.int8), scales


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's remarks, which go to the root logger, to itself."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
