"""What holds for every test: no hub, no user's store, no display."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_STORE = tempfile.mkdtemp(prefix="embedkit-tests-")
atexit.register(shutil.rmtree, _STORE, ignore_errors=True)

# Before any test module imports a library that reads them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["EMBEDKIT_STORE"] = _STORE
os.environ["MPLBACKEND"] = "agg"


@pytest.fixture(scope="module")
def one_torch_thread() -> Iterator[None]:
    """Let tiny models run on one thread: on batches this small a second one waits longer than it computes."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a test a store of its own, as a user would."""
    monkeypatch.setenv("EMBEDKIT_STORE", str(tmp_path / "store"))
    return tmp_path / "store"
