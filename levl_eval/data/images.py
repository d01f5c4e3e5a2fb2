"""Image sets over files: opening with errors that name the file, and content hashes."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from levl_eval.core.errors import UsageError
from levl_eval.core.text import printable
from levl_eval.data.fingerprint_cache import active
from levl_eval.data.fingerprints import fingerprint_of as fingerprint_of  # the one entry for engines and report
from levl_eval.data.listing import in_words
from levl_eval.data.places import SUFFIXES as SUFFIXES
from levl_eval.data.rgb import DEFAULT, Rules, rules_of
from levl_eval.data.rgb import open_rgb as open_rgb
from levl_eval.data.skipping import broken_files, named, without
from levl_eval.data.types import ImageSet
from levl_eval.scenes.manifest import MANIFEST as WORLD_FILE

if TYPE_CHECKING:
    from levl_eval.cards.base import DataSpec


@dataclass(frozen=True)
class FileOpener:
    """id -> RGB image of the file that ``locate`` names, by ``rules``."""

    locate: Callable[[str], Path]
    rules: Rules = DEFAULT

    def __call__(self, name: str) -> Image.Image:
        return open_rgb(self.locate(name), self.rules)


def opened_by(images: ImageSet, rules: Rules) -> ImageSet:
    """The set with its images opened by other rules than the default ones; features of it are kept apart.

    Sets of bare arrays have no EXIF and no transparency and stay as they are.
    """
    if rules == DEFAULT or not dataclasses.is_dataclass(images.open) or not hasattr(images.open, "rules"):
        return images
    opener = dataclasses.replace(images.open, rules=rules)
    fingerprint = fingerprint_text([images.fingerprint, rules.key]) if rules.key else images.fingerprint
    return dataclasses.replace(images, open=opener, fingerprint=fingerprint)


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


def image_set(
    ids: Iterable[str], locate: Callable[[str], Path], source: str, where: str, left_out: Mapping[str, int] | None = None,
    spec: DataSpec | None = None, skipped: Mapping[str, str] | None = None,
) -> ImageSet:  # fmt: skip
    """An image set of files. Raises UsageError where images are missing: how many, the first one, and ``where`` to get them.

    A name of the list and a file that differ only in how accents are composed (NFC, NFD) are one. left_out: see ImageSet. spec: where it
    allows that broken images are skipped, missing and unreadable ones are, beside those that the caller found (``skipped``, none of
    ``ids``).
    """
    names = tuple(dict.fromkeys(ids))
    if not names and not skipped:
        raise UsageError(f"{source}: holds no images{_left_out(left_out)}")
    files = {n: _composed(locate(check_image_name(n, source))) for n in names}
    broken = dict(skipped or {})
    if spec is not None and spec.skip_broken is not None:
        rules = rules_of(spec)
        broken |= broken_files(files, lambda path: open_rgb(path, rules), f"image {rules}")
        names = tuple(without(names, broken))
        files = {n: files[n] for n in names}
        if not names:
            raise UsageError(f"{source}: none of its images can be used: {named(broken)}")
    missing = [n for n, file in files.items() if not os.path.exists(file)]
    if missing:
        first = locate(missing[0])
        shown_path = missing[0] if in_generated_world(first) else str(first)
        raise UsageError(
            f"{source}: {len(missing)} of {len(names)} images are missing, first {printable(shown_path)[:400]}; "
            f"{where or 'put them there, or take them out of the set'}"
        )
    known, whole = file_contents(files)
    opener = FileOpener(files.__getitem__)
    return ImageSet(
        names, opener, fingerprint_contents(known), source, known.__getitem__, whole, dict(left_out or Counter()), broken
    )


def in_generated_world(path: Path) -> bool:
    """Whether a path lies in the world of synthetic scenes that the program keeps in its cache (scenes.export.world_folder):
    nobody is to put their images there."""
    return any(p.parent.name == "scenes" and p.name.startswith("seed") and (p / WORLD_FILE).is_file() for p in path.parents)


def one_name_each(files: Mapping[str, str | os.PathLike[str]], source: object) -> None:
    """Raises UsageError where two names of ``files`` (name -> path) are one file's: what is said of it would be of two images."""
    named_first: dict[str, str] = {}
    for name, path in files.items():
        if (first := named_first.setdefault(os.path.abspath(path), name)) != name:
            raise UsageError(
                f"{source}: images {printable(first)[:200]} and {printable(name)[:200]} are one file; write one name throughout"
            )


def put_into(folder: Path, what: str = "the images") -> str:
    """What to do about images that are missing from a folder."""
    if in_generated_world(folder / "x"):
        return f"set the data's field `images` to the folder of {what}, or give --data DIR"
    return f"put {what} into {folder}, or set the data's field `images`"


def _left_out(left_out: Mapping[str, int] | None) -> str:
    return f" ({in_words(left_out)})" if left_out else ""


def check_image_name(name: str, source: str) -> str:
    """The name. Raises UsageError for one that no file or record can hold."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{source}: the image name {name!a} is no UTF-8 text; rename the image") from None
    if "\0" in name:
        raise UsageError(f"{source}: the image name {name!a} holds a null character; correct the entry")
    return name


def _composed(path: Path) -> Path:
    """``path``, or the file there whose name is the same text with accents composed or taken apart."""
    if str(path).isascii() or os.path.exists(path):
        return path
    forms = (path.with_name(unicodedata.normalize(form, path.name)) for form in ("NFC", "NFD"))
    return next((p for p in forms if os.path.exists(p)), path)


def root_of(spec_root: str | None, directory: str, data: str) -> Path:
    """Folder of a data set: ``root`` where set, else DIR/directory."""
    return Path(spec_root).expanduser() if spec_root else Path(data) / directory


def under(data: str, path: str | None) -> Path | None:
    """A path of a card: absolute, relative to here if it exists, else below --data DIR."""
    if path is None:
        return None
    p = Path(path).expanduser()
    return p if p.is_absolute() or p.exists() else Path(data) / p
