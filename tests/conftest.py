"""What holds for every test: no hub, no user's store, no display."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

_STORE = tempfile.mkdtemp(prefix="embedkit-tests-")
atexit.register(shutil.rmtree, _STORE, ignore_errors=True)

# Before any test module imports a library that reads them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["EMBEDKIT_STORE"] = _STORE
os.environ["MPLBACKEND"] = "agg"

# Each run tries the same examples, so that a change is judged by what it changes; `--hypothesis-profile search`
# looks for new ones.
settings.register_profile("same", derandomize=True)
settings.register_profile("search", print_blob=True)
settings.load_profile("same")


@pytest.fixture(scope="module")
def one_torch_thread() -> Iterator[None]:
    """Let tiny models run on one thread: on batches this small a second one waits longer than it computes."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def little_garbage() -> Iterator[None]:
    """Leave what was imported out of the collection that accelerate asks for after each fit, its longest part."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a test a store of its own, as a user would."""
    monkeypatch.setenv("EMBEDKIT_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an exported classifier of short texts, as small as one can be: what is tested is not its answers."""
    from embedkit.data import LabelCodec
    from embedkit.encoders import EncoderSettings, FeatureExtractor
    from embedkit.export import Trained, export_classifier
    from embedkit.heads import LinearHead
    from tests.tiny_models import WORDS, make_encoder

    root, rng = tmp_path_factory.mktemp("served"), np.random.default_rng(0)
    make_encoder(root / "model", "bert", hidden=16, layers=1, heads=2, positions=16)
    extractor = FeatureExtractor(EncoderSettings(root / "model", pooling="mean", threads=1))
    head = LinearHead(rng.normal(size=(1, 16)), np.zeros(1), "sigmoid", False)
    texts = [" ".join(rng.choice(WORDS, size=size)) for size in rng.integers(1, 20, 100)]
    trained = Trained(extractor, head, LabelCodec(("bad", "good")), "text")
    export_classifier(trained, root / "exported", texts, threads=1)
    return root / "exported"
