"""Measure the feature store: writing, opening and reading in shuffled order.

Each figure is the median of several fresh processes, so that nothing is warm but the system's page cache.
Writing includes every fsync and the merge at the end, if the writer makes one. Memory is sampled every 5 ms:
the highest total and the highest anonymous resident memory, less what the process had before the measured part
and less the result array. The store maps no files, so the two hardly differ. Reading everything in one call
includes the kernel's zeroing of the result's pages, which alone varies between 0.2 and 3 us a row.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedkit.store import FeatureStore, Space, text_keys

CHUNK = 4096  # rows a put, about what an encoder hands over at a time


def keys_of(start: int, stop: int) -> NDArray[np.uint8]:
    return text_keys([f"made-up text number {i} of the benchmark of the store" for i in range(start, stop)])


def rows_of(start: int, stop: int, dim: int) -> NDArray[np.float32]:
    return np.random.default_rng(start).standard_normal((stop - start, dim), dtype=np.float32)


def space_of(args: argparse.Namespace) -> Space:
    return FeatureStore(args.dir, dtype=args.dtype).space({"bench": 1})


class Memory:
    """Highest resident memory (total, anonymous) while a block runs, in bytes above the start."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @staticmethod
    def now() -> tuple[int, int]:
        """Return total and anonymous resident memory."""
        lines = Path("/proc/self/status").read_text().splitlines()
        fields = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "RssAnon"))}
        return int(fields["VmRSS"]) * 1024, int(fields["RssAnon"]) * 1024

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.peak = tuple(max(a, b) for a, b in zip(self.peak, self.now(), strict=True))

    def __enter__(self) -> Memory:
        self.start = self.now()
        self.peak: tuple[int, ...] = self.start
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.rise = [int(high - low) for high, low in zip(self.peak, self.start, strict=True)]


def measure_write(args: argparse.Namespace) -> dict[str, float]:
    """Seconds in the store alone: making keys and vectors is not counted."""
    put = 0.0
    with Memory() as memory:
        space = space_of(args)
        writer = space.writer()
        writer.__enter__()
        for start in range(0, args.rows, CHUNK):
            stop = min(start + CHUNK, args.rows)
            keys, vectors = keys_of(start, stop), rows_of(start, stop, args.dim)
            tokens, truncated = np.full(stop - start, 20, np.uint32), np.zeros(stop - start, bool)
            began = time.perf_counter()
            writer.put(keys, vectors, tokens, truncated)
            put += time.perf_counter() - began
        began = time.perf_counter()
        writer.__exit__(None, None, None)
        put += time.perf_counter() - began
    shards = len(space.listing())
    return {"write us/row": put / args.rows * 1e6, "shards": shards, "write MB beyond": memory.rise[1] / 1e6}


def measure_open(args: argparse.Namespace) -> dict[str, float]:
    """Seconds from nothing to the first row, after the imports."""
    key = keys_of(7, 8)
    began = time.perf_counter()
    hits = space_of(args).lookup(key)
    seconds = time.perf_counter() - began
    assert hits.found.all()
    return {"open + 1 row s": seconds}


def measure_read(args: argparse.Namespace, chunk: int) -> dict[str, float]:
    """All rows in shuffled order, in one call or in chunks; values are compared with what was written."""
    order = np.random.default_rng(0).permutation(args.rows)
    keys = keys_of(0, args.rows)[order]
    space = space_of(args)
    space.lookup(keys[:1])
    result = 0
    with Memory() as memory:
        began = time.perf_counter()
        for start in range(0, args.rows, chunk):
            hits = space.lookup(keys[start : start + chunk])
            assert hits.found.all()
            result = max(result, hits.vectors.nbytes)
        seconds = time.perf_counter() - began
    last = int(order[-1])
    block = last // CHUNK * CHUNK
    expected = rows_of(block, min(block + CHUNK, args.rows), args.dim)[last - block]
    assert np.array_equal(hits.vectors[-1], expected.astype(args.dtype))
    name = "read" if chunk == args.rows else f"read by {chunk}"
    return {
        f"{name} us/row": seconds / args.rows * 1e6,
        f"{name} MB beyond (anonymous)": (memory.rise[1] - result) / 1e6,
        f"{name} MB beyond (all)": (memory.rise[0] - result) / 1e6,
    }


def measure_merge(args: argparse.Namespace) -> dict[str, float]:
    with Memory() as memory:
        began = time.perf_counter()
        FeatureStore(args.dir, dtype=args.dtype).gc(delete=True)
        seconds = time.perf_counter() - began
    return {
        "merge us/row": seconds / args.rows * 1e6,
        "merge MB beyond": memory.rise[1] / 1e6,
        "shards then": len(space_of(args).listing()),
    }


def measure_keys(args: argparse.Namespace) -> dict[str, float]:
    texts = [f"made-up text number {i} of the benchmark of the store" for i in range(200_000)]
    began = time.perf_counter()
    text_keys(texts)
    return {"key us/text": (time.perf_counter() - began) / len(texts) * 1e6}


def parts(args: argparse.Namespace) -> dict[str, Callable[[], dict[str, float]]]:
    def verify() -> dict[str, float]:
        began = time.perf_counter()
        assert FeatureStore(args.dir, dtype=args.dtype).verify().ok
        return {"verify us/row": (time.perf_counter() - began) / args.rows * 1e6}

    return {
        "keys": lambda: measure_keys(args),
        "write": lambda: measure_write(args),
        "open": lambda: measure_open(args),
        "read": lambda: measure_read(args, args.rows),
        "read-chunks": lambda: measure_read(args, 8192),
        "verify": verify,
        "merge": lambda: measure_merge(args),
    }


def child(args: argparse.Namespace, part: str) -> dict[str, float]:
    """Run one part in a fresh process."""
    command = [sys.executable, __file__, "--part", part, "--rows", str(args.rows), "--dim", str(args.dim)]
    command += ["--dtype", args.dtype, "--dir", str(args.dir)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout))


def one_round(args: argparse.Namespace) -> dict[str, float]:
    """Write a store, read it as the writer left it, merge it, read it again."""
    shutil.rmtree(args.dir, ignore_errors=True)
    figures: dict[str, float] = {}
    for part in ("keys", "write", "open", "read", "read-chunks", "verify"):
        figures |= child(args, part)
    figures |= child(args, "merge")
    for part in ("open", "read", "read-chunks"):
        figures |= {f"{name}, merged": value for name, value in child(args, part).items()}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--dir",
        type=Path,
        help="where the store is made and removed; default: the system's folder for temporary files",
    )
    parser.add_argument("--part", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        print(json.dumps(parts(args)[args.part]()))
        return
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        args.dir = Path(folder) / "store"
        rounds = [one_round(args) for _ in range(args.repeats)]
    print(f"{args.rows:,} rows of {args.dim} {args.dtype}; median of {args.repeats} (lowest to highest)")
    for name in rounds[0]:
        values = [figures[name] for figures in rounds]
        print(f"{name:42} {statistics.median(values):9.3g}   {min(values):.3g} to {max(values):.3g}")


if __name__ == "__main__":
    main()
