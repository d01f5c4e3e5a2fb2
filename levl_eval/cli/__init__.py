"""The `levl-eval` command: options and one command a file. Nothing heavy is imported before a command needs it."""

from levl_eval.cli.app import main

__all__ = ["main"]
