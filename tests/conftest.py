"""What holds for every test: no hub, no user's store, no display."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

_STORE = tempfile.mkdtemp(prefix="embedkit-tests-")
atexit.register(shutil.rmtree, _STORE, ignore_errors=True)

# Before any test module imports a library that reads them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["EMBEDKIT_STORE"] = _STORE
os.environ["MPLBACKEND"] = "agg"
