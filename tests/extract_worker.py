"""Another process that extracts, for the tests: with the folder's own weights, or with a made-up encoder."""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import resource
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from embedkit.encoders import EncoderSettings, Extraction, FeatureExtractor, View
from embedkit.errors import EmbedkitError
from embedkit.runtime.tokens import Tokens
from embedkit.store import FeatureStore

if TYPE_CHECKING:
    from multiprocessing import Queue


class FakeEncoder:
    """Vectors that follow from the token ids and the view alone; counts what it is given.

    Parameters
    ----------
    width : int
        Numbers in a vector.
    delay : float
        Seconds that a batch takes.
    """

    overlaps = False

    def __init__(self, width: int = 32, delay: float = 0.0) -> None:
        self.width = width
        self.delay = delay
        self.batches = self.windows = 0
        self.views: list[tuple[View, ...]] = []

    def run(
        self,
        tokens: Tokens,
        batches: Sequence[NDArray[np.int64]],
        pad_id: int,
        views: Sequence[View],
        threads: int | None = None,
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        self.views.append(tuple(views))
        for windows in batches:
            time.sleep(self.delay)
            self.batches += 1
            self.windows += len(windows)
            ids = [tokens.ids[tokens.offsets[w] : tokens.offsets[w + 1]].tobytes() for w in windows]
            yield windows, np.stack([[self.vector(text, view) for text in ids] for view in views])

    def vector(self, ids: bytes, view: View) -> NDArray[np.float32]:
        """Return numbers between -1 and 1 that float16 has to round."""
        digest = hashlib.shake_128(ids + repr(view).encode()).digest(self.width)
        return np.frombuffer(digest, np.uint8).astype(np.float32) / np.float32(127.3) - 1


def texts_of(start: int, stop: int) -> list[str]:
    """Texts of different lengths that tell themselves apart."""
    return [f"the film {i} was {'very ' * (i % 5)}good" for i in range(start, stop)]


def settings_of(args: argparse.Namespace) -> EncoderSettings:
    return EncoderSettings(str(args.model), batch_tokens=args.batch_tokens, threads=args.threads)


def extract(args: argparse.Namespace) -> Extraction:
    """Extract in chunks."""
    store = FeatureStore(args.root, flush_rows=args.flush)
    encoder = None if args.real else FakeEncoder(args.width, args.delay)
    extractor = FeatureExtractor(settings_of(args), store=store, keep_going=False, encoder=encoder)
    total = Extraction()
    for start in range(args.start, args.stop, args.chunk):
        total += extractor.transform(texts_of(start, min(args.stop, start + args.chunk))).extraction
    return total


def long_text(args: argparse.Namespace) -> Extraction:
    """Extract texts of 1 MB."""
    store = FeatureStore(args.root)
    extractor = FeatureExtractor(settings_of(args), store=store, encoder=FakeEncoder(args.width))
    extractor.transform(["warm up"])
    global baseline
    baseline = peak()
    return extractor.transform(["x" * 1_000_000, "ab " * 333_333, "short"]).extraction


def _child(extractor: FeatureExtractor, texts: list[str], out: Queue[NDArray[np.float32]]) -> None:
    out.put(extractor.transform(texts).vectors)


def _spawned(args: argparse.Namespace, texts: list[str], out: Queue[NDArray[np.float32]]) -> None:
    out.put(FeatureExtractor(settings_of(args), store=FeatureStore(args.root)).transform(texts).vectors)


def together(args: argparse.Namespace) -> Extraction:
    """Extract in two threads, a forked and a spawned process at once; all must agree."""
    first, texts = texts_of(0, 8), texts_of(args.start, args.stop)
    extractor = FeatureExtractor(settings_of(args), store=FeatureStore(args.root))
    extractor.transform(first)  # the model is open, torch has its threads
    fork, spawn = multiprocessing.get_context("fork"), multiprocessing.get_context("spawn")
    results = [fork.Queue(), spawn.Queue()]
    children = [
        fork.Process(target=_child, args=(extractor, texts, results[0])),
        spawn.Process(target=_spawned, args=(args, texts, results[1])),
    ]
    for child in children:
        child.start()
    answers: list[NDArray[np.float32]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(extractor.transform(texts).vectors)) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    answers += [result.get(timeout=60) for result in results]
    for worker in (*threads, *children):
        worker.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    assert len(answers) == 4
    for other in answers[1:]:
        np.testing.assert_allclose(other, answers[0], rtol=0, atol=1e-5)
    return extractor.transform(texts).extraction


def peak() -> int:
    """Return the most memory this process has used, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


baseline = 0
ACTIONS = {"extract": extract, "long": long_text, "together": together}


def main() -> None:
    global baseline
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("root", type=Path)
    parser.add_argument("model")
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--stop", type=int, default=400)
    parser.add_argument("--chunk", type=int, default=100_000)
    parser.add_argument("--flush", type=int, default=8192)
    parser.add_argument("--batch-tokens", type=int, default=256)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--file-limit", type=int, default=0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--real", action="store_true")
    args = parser.parse_args()
    if args.file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (args.file_limit, args.file_limit))
    baseline = peak()
    try:
        done = ACTIONS[args.action](args)
    except EmbedkitError as error:
        sys.stderr.write(str(error))
        sys.exit(error.exit_code)
    heavy = [name for name in ("torch", "transformers", "sklearn", "pandas") if name in sys.modules]
    figures = {name: getattr(done, name) for name in ("rows", "unique", "hits", "computed", "truncated", "empty")}
    sys.stdout.write(json.dumps({**figures, "imported": heavy, "grown": peak() - baseline}))


if __name__ == "__main__":
    main()
