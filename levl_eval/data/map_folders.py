"""Maps of a number or a vector a pixel: the one way from a file to its array, and a user's own maps,
two folders of images and maps of equal stems. Depth maps and maps of normals come through here."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from levl_eval.cards import DataSpec
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.files import regular
from levl_eval.data.images import SUFFIXES, under
from levl_eval.data.listing import Listing, by_stem, list_images, stem
from levl_eval.data.rgb import decoding, open_image, upright


def stored_map(path: Path, modes: tuple[str, ...], what: str, expected: str) -> np.ndarray:
    """The numbers of a map's file as stored, an image's of one of Pillow's ``modes`` or a .npy array's, never pickled objects.

    what: a map in words; expected: its form in words. Raises LevlError naming the file: missing, damaged, of another form, compressed with
    losses, or an image that is marked as turned.
    """
    try:
        if path.suffix.lower() == ".npy":
            # a size in the head that the file does not have is an error
            stored = np.load(regular(path), mmap_mode="r", allow_pickle=False)
            if not isinstance(stored, np.ndarray):
                raise LevlError(f"{path}: an archive of arrays (.npz) under another name; store the one array with numpy.save")
            return np.array(stored)
        with decoding(str(path)), open_image(path) as image:
            if image.format in ("JPEG", "MPO"):
                raise LevlError(f"{path}: a JPEG {what}, whose values its compression changes; take the original")
            if getattr(image, "n_frames", 1) > 1:
                raise LevlError(
                    f"{path}: holds {getattr(image, 'n_frames', 1)} pages or frames, of which a {what} has one; store that alone"
                )
            upright(image, str(path))
            if image.mode not in modes:
                raise LevlError(f"{path}: a {image.mode} image; expected {expected}")
            return np.array(image)
    except FileNotFoundError:
        raise LevlError(f"{path}: no such {what}; complete the pairs") from None
    except (OSError, ValueError, EOFError, OverflowError, MemoryError) as e:
        raise LevlError(f"{path}: the {what} cannot be read ({type(e).__name__}); replace the file") from e


class FolderPairs(NamedTuple):
    """pairs: (id, image, map) in order of the images. images: their folder. left_out: reason -> how many entries of both folders."""

    pairs: list[tuple[str, Path, Path]]
    images: Path
    left_out: Counter[str]


def folder_pairs(spec: DataSpec, data: str, task: str, what: tuple[str, str]) -> FolderPairs:
    """The pairs of the folders that ``images`` and ``annotations`` name. what: one map and several, in words.

    Images without a map are left out and counted. Raises UsageError: fields that are not set, missing folders, maps without an image, and
    names that do not tell which belongs to which.
    """
    one, many = what
    for name in ("images", "annotations"):
        if getattr(spec, name) is None:
            raise UsageError(
                f"task {task}: field `{name}` is not set; give the folder of the {'images' if name == 'images' else many}"
            )
    images, maps = Path(under(data, spec.images) or ""), Path(under(data, spec.annotations) or "")
    for folder in (images, maps):
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder; set `images` and `annotations`")
    maps_found, images_found = list_images(maps, (*SUFFIXES, ".npy")), list_images(images)
    of_stem, files = by_stem(maps_found, maps), images_found.files
    by_stem(Listing([p for p in files if stem(p) in of_stem]), images)
    pairs = [(p.name, p, of_stem[stem(p)]) for p in files if stem(p) in of_stem]
    if not pairs:
        first = f" (first {files[0].name})" if files else ""
        raise UsageError(f"{maps}: no {one} has the name of an image in {images}{first}")
    orphans = set(of_stem) - {stem(p) for p in files}
    if orphans:
        raise UsageError(f"{images}: {len(orphans)} {many} have no image, first {sorted(orphans)[0]}; complete the pairs")
    left_out = images_found.left_out + maps_found.left_out
    if len(files) > len(pairs):
        left_out[f"images without a {one}"] = len(files) - len(pairs)
    return FolderPairs(pairs, images, left_out)
