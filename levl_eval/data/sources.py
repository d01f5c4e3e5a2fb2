"""What `--data` means: a directory, the hub, or the synthetic scenes."""

from __future__ import annotations

from pathlib import Path

from levl_eval.cards.base import DataSpec
from levl_eval.core.errors import UsageError
from levl_eval.core.progress import Progress
from levl_eval.scenes.manifest import ROOMS


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


def lies_elsewhere(spec: DataSpec) -> bool:
    """Whether a card or ``--set`` names all places of a set: nothing of it is looked for below ``--data``."""
    return bool(spec.root or (spec.images and (spec.questions or spec.annotations)))


def reads_scenes(spec: DataSpec) -> bool:
    """Whether ``--data scenes`` has the synthetic scenes read for a set: they have such a one, and it does not lie elsewhere."""
    return not lies_elsewhere(spec) and spec.directory.partition("/")[0] in ROOMS
