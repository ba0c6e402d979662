"""How fast one text is answered, and how many a second."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

_ROUNDS, _WARM, _RUNS = 5, 5, 20  # a session's threads spin for a while after a call, so each has its turn alone


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

    def to_json(self) -> dict[str, Any]:
        """Return the figures."""
        return asdict(self)


def latencies(answers: Mapping[str, Callable[[], object]], tokens: int, threads: int | None) -> dict[str, Latency]:
    """Time functions that answer one text of `tokens` tokens: 100 calls each, in turns of 20."""
    taken: dict[str, list[float]] = {name: [] for name in answers}
    for _ in range(_ROUNDS):
        for name, answer in answers.items():
            for run in range(_WARM + _RUNS):
                start = time.perf_counter()
                answer()
                if run >= _WARM:
                    taken[name].append(1000 * (time.perf_counter() - start))
    found = {}
    for name, times in taken.items():
        median, p99 = np.percentile(times, [50, 99])
        found[name] = Latency(tokens, float(median), float(p99), threads or os.cpu_count() or 1, processor())
    return found


def processor() -> str:
    """Return the processor's name, as far as the system tells."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
