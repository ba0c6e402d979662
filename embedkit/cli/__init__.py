"""The command line: ``embedkit COMMAND``, one file a command, no logic."""

from __future__ import annotations

from embedkit.cli.main import main

__all__ = ["main"]
