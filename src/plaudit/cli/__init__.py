"""The command line: one entry point, whose commands read their settings and call a workflow."""

from plaudit.cli.main import main

__all__ = ["main"]
