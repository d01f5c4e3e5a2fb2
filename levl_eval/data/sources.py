"""What `--data` means: a directory, the hub, or the synthetic scenes; and which of a card's data fields are read there."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from pydantic import BaseModel

from levl_eval.cards.base import DataSpec
from levl_eval.cards.layouts import LAYOUTS, UnreadField
from levl_eval.core.errors import UsageError
from levl_eval.core.progress import Progress
from levl_eval.core.text import printable
from levl_eval.data.places import on_hub
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
    needed = LAYOUTS[spec.layout].required
    return bool(
        spec.root or (spec.images and (spec.questions or spec.annotations)) or (needed and all(getattr(spec, f) for f in needed))
    )


def reads_scenes(spec: DataSpec) -> bool:
    """Whether ``--data scenes`` has the synthetic scenes read for a set: they have such a one, and it does not lie elsewhere."""
    return not lies_elsewhere(spec) and spec.directory.partition("/")[0] in ROOMS


def unread_field(spec: DataSpec, data: str, given: Collection[str] = ()) -> UnreadField | None:
    """The first field of a set that is not read under ``--data``; None: all are. given: fields that a user sets beside the card.

    What no source reads is refused with the card itself (cards.layouts). A card may name the places of a set for files and for the hub, of
    which one is read; who sets one of them means it. ``split`` may follow ``hub.split``, as the row states it.
    """
    layout, hub = LAYOUTS[spec.layout], _of_hub(spec, data)
    reads, named = layout.reads(hub), layout.named(hub)
    follows = {"split"} if hub and {"hub", "hub.split"} & set(given) else set()
    for field in spec.stated():
        by_user = (field in given or field.partition(".")[0] in given) and field not in follows
        if field not in reads and (by_user or field not in named):
            return UnreadField(spec.layout, field, reads, f" with --data {data}")
    return None


def _of_hub(spec: DataSpec, data: str) -> bool:
    """Whether a set's table on the hub is read. Of a layout that has none, its reader says so."""
    return bool(LAYOUTS[spec.layout].hub) and on_hub(spec, data)


def check_read(card: BaseModel, name: str, given: Collection[str], data: str) -> None:
    """Raises UsageError for a field of a card's sets that is not read under ``--data``,
    and for a split's name that ``--set`` made another split's. given: what ``--set`` sets, dotted."""
    for path, spec in _specs(card):
        mine = [g.removeprefix(f"{path}.") for g in given if g.startswith(f"{path}.")]
        error = unread_field(spec, data, mine)
        if error is not None:
            raise UsageError(f"{name}: field `{path}.{error.field}`: {error}")
        stale = "hub.split" in mine and "split" not in mine and spec.split and "split" not in LAYOUTS[spec.layout].hub
        if stale and _of_hub(spec, data):
            raise UsageError(
                f"{name}: field `{path}.split`: is {printable(spec.split)[:60]!r} in every row, "
                f"while `{path}.hub.split` chooses what is read; set both"
            )


def check_complete(card: BaseModel, name: str, data: str) -> None:
    """Raises UsageError for fields that a set's layout needs to find its files and that are not set."""
    for path, spec in _specs(card):
        lacking = [f for f in LAYOUTS[spec.layout].required if not getattr(spec, f)]
        if lacking and not _of_hub(spec, data):
            options = " ".join(f"--set {name}.{path}.{f}=..." for f in lacking)
            raise UsageError(f"{name}: layout {spec.layout} needs `{path}.{lacking[0]}`; give {options}")


def _specs(node: object, path: str = "") -> Iterator[tuple[str, DataSpec]]:
    """The sets of a card with their dotted places in it."""
    if isinstance(node, DataSpec):
        yield path, node
    elif isinstance(node, BaseModel):
        for name in type(node).model_fields:
            yield from _specs(getattr(node, name), f"{path}.{name}".lstrip("."))
    elif isinstance(node, list):
        for k, one in enumerate(node):
            yield from _specs(one, f"{path}.{k}")
