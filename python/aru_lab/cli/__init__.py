"""The command `aru`: entry.py runs it, commands.py lists its commands, and a module for each wing defines them."""

from __future__ import annotations

from aru_lab.cli.entry import main

__all__ = ["main"]
