"""Failures of the hub, and of libraries that read from it, told in one line. No heavy imports."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from levl_eval.core.errors import UsageError


@contextlib.contextmanager
def hub(uri: str) -> Iterator[None]:
    """Hub and file errors of a library as one line."""
    try:
        yield
    except UsageError:
        raise
    except Exception as e:
        name = type(e).__name__
        text = " ".join(str(e).split())
        offline = (
            "connect",
            "offline",
            "resolve",
            "LocalEntry",
            "couldn't find",
            "Max retries",
            "Name or service",
            "cached",
            "timed out",
        )
        if any(w.lower() in (text + name).lower() for w in offline):
            raise UsageError(
                f"{uri}: the hub cannot be reached and its cache holds no copy; give a local directory, or fill the cache (HF_HOME) and set HF_HUB_OFFLINE=1"
            ) from e
        raise UsageError(f"{uri}: cannot be loaded ({name}: {text[:200]})") from e
