"""Image sets over files: opening with errors that name the file, and fingerprints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from levl_eval.data.types import ImageSet, QuestionSet
from levl_eval.errors import LevlError, UsageError
from levl_eval.io import regular, sha256_file

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
FULL_HASH = 50_000  # images; above, a set is fingerprinted by name and size, which costs no reading


def open_rgb(path: Path) -> Image.Image:
    """An image file as RGB. Raises LevlError naming the file where it is missing, no regular file or cannot be decoded."""
    try:
        with Image.open(regular(path)) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise LevlError(f"{path}: no such image; put it there or correct the data set's file list") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
        raise LevlError(f"{path}: cannot be decoded ({type(e).__name__}); replace the file") from e


def fingerprint_files(paths: Iterable[tuple[str, Path]], count: int, known: dict[str, str] | None = None) -> str:
    """SHA-256 over (id, bytes) of every file in order; for large sets over (id, size). Names of folders do not enter.

    known: filled with each file's own SHA-256 by id, where files are read.
    """
    digest = hashlib.sha256()
    for name, path in paths:
        digest.update(name.encode() + b"\0")
        if count <= FULL_HASH:
            own = hashlib.sha256(Path(regular(path)).read_bytes())
            digest.update(own.digest())
            if known is not None:
                known[name] = own.hexdigest()
        else:
            digest.update(str(path.stat().st_size).encode())
    return digest.hexdigest()


def fingerprint_text(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\n")
    return digest.hexdigest()


def fingerprint_of(found: Any) -> str:
    """Hex digest of an annotated set, images included: what a record holds as its data's ``fingerprint``.

    found: one of data.types' sets. Question sets have a form of their own, kept so that rows measured before still compare.
    """
    if isinstance(found, QuestionSet):
        text = json.dumps({"images": found.images.fingerprint, "questions": found.fingerprint})
        return hashlib.sha256(text.encode()).hexdigest()
    return fingerprint_text([found.fingerprint, found.images.fingerprint])


def image_set(ids: Iterable[str], locate: Callable[[str], Path], source: str, where: str) -> ImageSet:
    """An image set of files. Raises UsageError where images are missing: how many, the first one, and ``where`` to get them."""
    names = tuple(dict.fromkeys(ids))
    if not names:
        raise UsageError(f"{source}: holds no images")
    missing = [n for n in names if not locate(n).exists()]
    if missing:
        raise UsageError(f"{source}: {len(missing)} of {len(names)} images are missing, first {locate(missing[0])}; {where}")
    known: dict[str, str] = {}
    digest = fingerprint_files(((n, locate(n)) for n in names), len(names), known)
    return ImageSet(names, lambda n: open_rgb(locate(n)), digest, source, lambda n: known.get(n) or sha256_file(locate(n)))


def root_of(spec_root: str | None, directory: str, data: str) -> Path:
    """Folder of a data set: ``root`` where set, else DIR/directory."""
    return Path(spec_root).expanduser() if spec_root else Path(data) / directory


def under(data: str, path: str | None) -> Path | None:
    """A path of a card: absolute, relative to here if it exists, else below --data DIR."""
    if path is None:
        return None
    p = Path(path).expanduser()
    return p if p.is_absolute() or p.exists() else Path(data) / p
