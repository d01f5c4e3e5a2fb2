"""Whether the hub answers, asked once and quickly: without a network a library's own retries take most of a minute."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from levl_eval.core.errors import UsageError
from levl_eval.core.hub import UNREACHED, hub

PATIENCE_S = 1.0  # of the one question; a name server that does not answer counts as no network


@cache
def reachable(endpoint: str, proxy: str | None) -> bool:
    """Whether the hub's host (or the proxy before it) takes a connection within ``PATIENCE_S`` seconds."""
    url = urlsplit(proxy or endpoint)
    if not url.hostname:
        return True  # not for us to judge
    place = (url.hostname, url.port or (80 if url.scheme == "http" else 443))
    answered = threading.Event()

    def ask() -> None:
        with contextlib.suppress(OSError), socket.create_connection(place, timeout=PATIENCE_S):
            answered.set()

    # In a thread of its own: resolving a name knows no timeout.
    asker = threading.Thread(target=ask, daemon=True)
    asker.start()
    asker.join(PATIENCE_S)
    return answered.is_set()


def proxy_of() -> str | None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        if os.environ.get(name):
            return os.environ[name]
    return None


def check_at_hand(scheme: str, rest: str, uri: str) -> None:
    """Raises UsageError where a model of the hub is not cached and the hub does not answer: its library needs many seconds to say so.

    scheme, rest: of a backbone's URI (locate.Location). Where the name of the repository is known to the library alone, only a cache
    that holds nothing at all is told from one that may hold it.
    """
    if scheme not in ("hf", "timm", "open_clip") or rest.startswith("local-dir:") or Path(rest).expanduser().is_dir():
        return
    if scheme == "open_clip" and ("/" not in rest or Path(rest.partition("/")[2]).expanduser().is_file()):
        return  # no weights are named, or a file of one's own
    from huggingface_hub import constants

    kept = Path(constants.HF_HUB_CACHE)
    prefix, colon, name = rest.partition(":")
    repo = rest if scheme == "hf" else name if colon and prefix in ("hf-hub", "hf_hub") else ""
    if repo:
        here = (kept / f"models--{repo.partition('@')[0].partition('?')[0].replace('/', '--')}").is_dir()
    else:
        torch_home = Path(
            os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch"
        )
        others = (torch_home / "hub" / "checkpoints", Path.home() / ".cache" / "clip")  # where weights of no repository go
        here = any(kept.glob("models--*")) or any(any(folder.glob("*")) for folder in others)
    if not here and (constants.HF_HUB_OFFLINE or not reachable(constants.ENDPOINT, proxy_of())):
        raise UsageError(f"{uri}: {UNREACHED}")


@contextlib.contextmanager
def hub_or_cache(uri: str) -> Iterator[None]:
    """:func:`levl_eval.core.hub.hub`, reading from the cache alone where the hub does not answer.

    Raises UsageError, in one line, for whatever the library raises.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    try:
        # Every library asks this one flag, at every call.
        constants.HF_HUB_OFFLINE = before or not reachable(constants.ENDPOINT, proxy_of())
        with hub(uri):
            yield
    finally:
        constants.HF_HUB_OFFLINE = before
