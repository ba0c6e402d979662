"""embedkit: good text classifiers that run fast on a CPU."""

from __future__ import annotations

__version__ = "0.1.0"
