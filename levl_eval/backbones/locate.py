"""Where a backbone's card leads: which loader, and which files on this disk it reads. No heavy imports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from levl_eval.cards import BackboneCard
from levl_eval.cards.registry import ASSETS, SCHEMES
from levl_eval.core.errors import UsageError
from levl_eval.core.files import check_permitted


@dataclass(frozen=True)
class Location:
    """scheme: the loader's name. rest: what it is given. files: all it reads, or None where that is not known before loading.

    An empty tuple means that nothing is read: weights are drawn from a seed.
    """

    scheme: str
    rest: str
    files: tuple[Path, ...] | None


def locate(card: BackboneCard) -> Location:
    """Raises UsageError for a folder that holds none of the known forms, and for a file that this user may not read."""
    where = card.uri.replace("@assets", str(ASSETS))
    scheme, colon, rest = where.partition(":")
    if not colon or scheme not in SCHEMES:
        path = Path(where).expanduser()
        scheme, rest = _path_scheme(path), where
        if scheme == "levl" and path.is_dir():
            rest = str(path / "ckpt.pt")
    location = Location(scheme, rest, _files(scheme, rest))
    for file in stated(location):  # libraries call such a file missing, or damaged
        check_permitted(file)
    return location


def _path_scheme(path: Path) -> str:
    """Which loader a bare path goes to."""
    if path.is_dir():
        if (path / "ckpt.pt").exists():
            return "levl"
        is_published = (path / "vision_encoder.safetensors").exists() or any(path.glob("*_vision_step*.pt"))
        if is_published:
            return "official"
        if (path / "config.json").exists():
            return "hf"
        raise UsageError(f"{path}: holds neither ckpt.pt nor one of the published layouts nor a transformers model")
    if path.suffix == ".pt" and "_vision_step" in path.name:
        return "official"
    return "levl"


def nested(scheme: str, rest: str) -> tuple[str, str]:
    """(library, rest) of what a `random:` URI takes its configuration from; ("", rest) where that is timm's own table, or ours."""
    library, colon, inner = rest.partition("?")[0].removeprefix("timm:").partition(":")
    if scheme != "random" or not colon:
        return "", rest
    return (library, inner) if library in ("hf", "open_clip") else ("timm", f"{library}:{inner}")


def stated(location: Location) -> tuple[Path, ...]:
    """Files that a URI itself names: a file of weights, or all of a directory. More may be read, from the hub's cache."""
    if location.files is not None:
        return location.files
    library, rest = nested(location.scheme, location.rest)
    scheme = library or location.scheme
    path = Path(rest.partition("?")[0].removeprefix("local-dir:")).expanduser()
    if path.is_dir():
        return tuple(sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith(".")))
    file = Path(rest.partition("?")[0].partition("/")[2]).expanduser()  # open_clip:MODEL/FILE
    return (file,) if scheme == "open_clip" and file.is_file() else ()


def _files(scheme: str, rest: str) -> tuple[Path, ...] | None:
    if scheme == "random":
        return None if nested(scheme, rest)[0] else ()
    path = Path(rest.removeprefix("local-dir:")).expanduser()
    if scheme == "levl":
        return (path,) if path.is_file() else None
    # a step's weights by one of its two files; settings and tokenizer lie beside them
    if scheme == "official" and path.is_file():
        stem = path.name.replace("_text_step", "_vision_step")
        pair = {path.with_name(stem), path.with_name(stem.replace("_vision_step", "_text_step"))}
        there = tuple(sorted(p for p in (*pair, *path.parent.glob("*.json")) if p.is_file()))
        return there if any(p.name == "tokenizer.json" for p in there) else None
    if scheme in ("official", "hf", "timm", "open_clip") and path.is_dir():
        files = tuple(sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith(".")))
        # else GPT-2's is taken from the hub's cache
        alone = scheme != "official" or any(p.name == "tokenizer.json" for p in files)
        return files if alone else None
    return None  # the hub's, or a user's own Python: known once it is loaded
