"""What `--data` means: a directory, the hub, or the synthetic scenes."""

from __future__ import annotations

from pathlib import Path

from levl_eval.core.errors import UsageError
from levl_eval.core.progress import Progress


def resolve_data(data: str, cache_folder: Path, progress: Progress) -> str:
    """``scenes`` -> the generated world, made in the cache if it is not there; a directory or "hub" as they are."""
    if data == "hub":
        return data
    if data == "scenes":
        from levl_eval.scenes.export import cached_world

        return str(cached_world(cache_folder, progress))
    if not Path(data).expanduser().is_dir():
        raise UsageError(
            f"--data {data}: no such directory; give one that holds gqa/, pope/, ade20k/, ..., or `hub`, or `scenes`"
        )
    return str(Path(data).expanduser())
