"""How many threads heads may use: mostly one, since they compute for shorter than threads wait for each other."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

# Numbers in the features from which trees may take a thread a core (25,000 rows of 384). On fewer they lose by it
# where another process uses a core: OpenMP's threads spin until all are done. A choice, not a measured limit.
MANY = 10_000_000


def fit_limit(numbers: int, threads: int | None) -> AbstractContextManager[Any]:
    """Return the limit of a fit on so many numbers: `threads`; else one, and a core each for trees on many.

    To be entered after scikit-learn was imported, whose thread pools it limits.
    """
    from threadpoolctl import threadpool_limits

    few = {"blas": 1, "openmp": 1} if numbers < MANY else {"blas": 1}
    limits: AbstractContextManager[Any] = threadpool_limits(
        limits=few if threads is None else {"blas": threads, "openmp": threads}
    )
    return limits


def answer_limit(numbers: int) -> AbstractContextManager[Any]:
    """Return the limit under which a scikit-learn object answers for so many numbers."""
    limits: AbstractContextManager[Any] = _pools().limit(limits=1 if numbers < MANY else None, user_api="openmp")
    return limits


@cache
def _pools() -> ThreadpoolController:
    """Return the thread pools of this process; looking for them takes longer than to answer for one text."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
