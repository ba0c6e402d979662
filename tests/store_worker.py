"""Another process at the store, for the tests: writes, merges or dies at a chosen point."""

from __future__ import annotations

import argparse
import os
import resource
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedkit.errors import StoreFullError
from embedkit.store import FeatureStore, Space, Writer, text_keys

DESCRIPTOR = {"test": 1}


def put(writer: Writer, keys: NDArray[np.uint8], jitter: float = 0.0) -> None:
    """Store 16 numbers a row that follow from the key, so that every process knows them."""
    vectors = keys.astype(np.float32) / 255 + np.float32(jitter)
    writer.put(keys, vectors, keys[:, 0].astype(np.uint32), keys[:, 1] % 2 == 1)


def keys_of(start: int, stop: int) -> NDArray[np.uint8]:
    return text_keys([f"text {i}" for i in range(start, stop)])


def die(*_: object, **__: object) -> None:
    os._exit(137)


def arm(point: str) -> None:
    """Make the process die, as by kill -9, at a point of writing or merging."""
    write, replace, unlink = os.write, Path.replace, Path.unlink

    def half(descriptor: int, data: memoryview) -> None:
        write(descriptor, data[: len(data) // 2])
        os._exit(137)

    def replace_and_die(*args: Path) -> None:
        replace(*args)
        os._exit(137)

    def unlink_and_die(path: Path) -> None:
        unlink(path)
        os._exit(137)

    patches = {
        "before-write": (os, "write", die),
        "mid-write": (os, "write", half),
        "before-fsync": (os, "fsync", die),
        "before-rename": (Path, "replace", die),
        "after-rename": (Path, "replace", replace_and_die),
        "before-unlink": (Path, "unlink", die),
        "after-unlink": (Path, "unlink", unlink_and_die),
    }
    setattr(*patches[point])


def write(space: Space, args: argparse.Namespace) -> None:
    """Put the rows in batches in an order of its own; print what is committed."""
    keys = keys_of(args.start, args.stop)
    np.random.default_rng(os.getpid()).shuffle(keys)
    if args.file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (args.file_limit, args.file_limit))
    try:
        with space.writer() as writer:
            for start in range(0, len(keys), args.batch):
                batch = keys[start : start + args.batch]
                batch = batch[~space.lookup(batch).found]
                put(writer, batch, os.getpid() * 1e-6 if args.jitter else 0.0)
                sys.stdout.write(f"{writer.saved}\n")
                sys.stdout.flush()
    except StoreFullError as error:
        sys.stderr.write(str(error))
        sys.exit(error.exit_code)


def fault(space: Space, args: argparse.Namespace) -> None:
    """Commit the first half, then die while committing the second, or while merging."""
    middle = (args.start + args.stop) // 2
    with space.writer() as writer:
        put(writer, keys_of(args.start, middle))
        writer.flush()
        if args.point.startswith("merge:"):
            put(writer, keys_of(middle, args.stop))
            writer.flush()
            arm(args.point.removeprefix("merge:"))
            space.merge()
        else:
            arm(args.point)
            put(writer, keys_of(middle, args.stop))
            writer.flush()


def churn(space: Space, args: argparse.Namespace) -> None:
    """Write small shards and merge them, again and again."""
    for number in range(args.rounds):
        for part in range(3):
            with space.writer() as writer:
                put(
                    writer,
                    keys_of(args.start + 30 * number + 10 * part, args.start + 30 * number + 10 * part + 10),
                )
        space.merge()
        FeatureStore(args.root).gc(delete=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=["write", "fault", "churn"])
    parser.add_argument("root", type=Path)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--stop", type=int, default=200)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--flush", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--file-limit", type=int, default=0)
    parser.add_argument("--jitter", action="store_true")
    parser.add_argument("--point", default="")
    args = parser.parse_args()
    space = FeatureStore(args.root, flush_rows=args.flush).space(DESCRIPTOR)
    {"write": write, "fault": fault, "churn": churn}[args.action](space, args)


if __name__ == "__main__":
    main()
