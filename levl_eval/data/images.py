"""Image sets over files: opening with errors that name the file, and content hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.files import regular
from levl_eval.data.fingerprint_cache import active
from levl_eval.data.fingerprints import fingerprint_of as fingerprint_of  # the one entry for engines and report
from levl_eval.data.places import SUFFIXES as SUFFIXES
from levl_eval.data.types import ImageSet


def open_rgb(path: Path) -> Image.Image:
    """An image file as RGB. Raises LevlError naming the file where it is missing, no regular file or cannot be decoded."""
    try:
        with Image.open(regular(path)) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise LevlError(f"{path}: no such image; put it there or correct the data set's file list") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
        raise LevlError(f"{path}: cannot be decoded ({type(e).__name__}); replace the file") from e


def file_contents(files: Mapping[str, Path]) -> tuple[dict[str, str], int | None]:
    """id -> content hash of each file, through the cache in use; and how many were read whole, None for all.

    Sets of more files than the cache's ``sample_above`` are hashed in part. Raises LevlError: a file that cannot be read.
    """
    cache = active()
    sampled = len(files) > cache.sample_above
    hashes = cache.hash_files(files.values(), sampled)
    whole = sum(read for _, read in hashes) if sampled else None
    return {name: digest for name, (digest, _) in zip(files, hashes, strict=True)}, whole


def fingerprint_contents(contents: Mapping[str, str]) -> str:
    """SHA-256 over (id, content hash) in order: the key of what is stored by row and id."""
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(name.encode() + b"\0" + bytes.fromhex(content))
    return digest.hexdigest()


def fingerprint_text(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\n")
    return digest.hexdigest()


def image_set(ids: Iterable[str], locate: Callable[[str], Path], source: str, where: str) -> ImageSet:
    """An image set of files. Raises UsageError where images are missing: how many, the first one, and ``where`` to get them."""
    names = tuple(dict.fromkeys(ids))
    if not names:
        raise UsageError(f"{source}: holds no images")
    missing = [n for n in names if not locate(n).exists()]
    if missing:
        raise UsageError(f"{source}: {len(missing)} of {len(names)} images are missing, first {locate(missing[0])}; {where}")
    known, whole = file_contents({n: locate(n) for n in names})
    return ImageSet(names, lambda n: open_rgb(locate(n)), fingerprint_contents(known), source, known.__getitem__, whole)


def root_of(spec_root: str | None, directory: str, data: str) -> Path:
    """Folder of a data set: ``root`` where set, else DIR/directory."""
    return Path(spec_root).expanduser() if spec_root else Path(data) / directory


def under(data: str, path: str | None) -> Path | None:
    """A path of a card: absolute, relative to here if it exists, else below --data DIR."""
    if path is None:
        return None
    p = Path(path).expanduser()
    return p if p.is_absolute() or p.exists() else Path(data) / p
