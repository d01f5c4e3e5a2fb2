"""Folders that belong to no run."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache() -> Path:
    """$LEVL_CACHE, else ~/.cache/levl-eval."""
    return Path(os.environ.get("LEVL_CACHE") or Path.home() / ".cache" / "levl-eval")
