"""How fast one text is answered, for the card."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

WARM, RUNS = 5, 40


@dataclass(frozen=True)
class Latency:
    """Wall time from one text to its answer, tokenising included.

    Attributes
    ----------
    tokens : int
        Of the text.
    median, p99 : float
        Milliseconds.
    threads : int
    machine : str
        The processor.
    """

    tokens: int
    median: float
    p99: float
    threads: int
    machine: str


def latency(answer: Callable[[], object], tokens: int, threads: int | None) -> Latency:
    """Time `answer`, which answers one text of `tokens` tokens."""
    for _ in range(WARM):
        answer()
    taken = []
    for _ in range(RUNS):
        start = time.perf_counter()
        answer()
        taken.append(1000 * (time.perf_counter() - start))
    median, p99 = np.percentile(taken, [50, 99])
    return Latency(tokens, float(median), float(p99), threads or os.cpu_count() or 1, processor())


def processor() -> str:
    """Return the processor's name, as far as the system tells."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
