"""Image-caption pairs for pretraining: decoded once into a memory-mapped uint8 pool, then read in a fixed random order.

A pool belongs to its inputs (open_pool) and is used only while it is whole (sealed.py).

The order is a pure function of (seed, epoch), so a resumed run sees what an uninterrupted one sees.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

import numpy as np
import PIL

from levl_eval.core.children import process_pool
from levl_eval.core.distributed import cores
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.files import disk_full_as_error, regular
from levl_eval.core.in_use import hold
from levl_eval.core.kept import mark_used
from levl_eval.core.progress import Progress
from levl_eval.data.caption_files import read_caption_file
from levl_eval.data.images import one_name_each
from levl_eval.data.rgb import READING, decode_rgb, open_rgb
from levl_eval.models.config import PretrainConfig, crops_originals
from levl_eval.pretrain.sealed import MANIFEST, contents_mark, key_of, marks_of, sealed

_CHUNK = 500
# Of what a pool holds; raised when the same inputs give other contents. 3: images become RGB by data/rgb.py.
VERSION = 3


class Originals:
    """Encoded image files one after another, decoded when asked for: for augmentations that crop the original image.

    The bytes are kept with the pool, so that a run sees one set of images however the user's folder changes meanwhile.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self.ends = folder / "images.bin", np.load(folder / "ends.npy")

    def __getitem__(self, row: int) -> np.ndarray:
        """uint8 [H, W, 3]."""
        start = int(self.ends[row - 1]) if row else 0
        try:
            with open(self.path, "rb") as handle:
                handle.seek(start)
                data = handle.read(int(self.ends[row]) - start)
        except OSError as e:
            raise LevlError(
                f"{self.path}: cannot be read ({e.strerror}); was the cache removed? the same command again makes it anew and resumes"
            ) from e
        return np.asarray(decode_rgb(data, f"{self.path}: image {row}"))


@dataclass(frozen=True)
class Pool:
    """pixels: uint8 [N, S, S, 3] memory map, or the original images; captions: of each image, at least one."""

    pixels: np.ndarray | Originals
    captions: list[list[str]]
    broken: Sequence[str] = ()  # images of the source that could not be read
    sha256: str = ""  # over its contents
    identity: str = ""  # over images and captions alone: what a resumed run must find as it began

    def __len__(self) -> int:
        return len(self.captions)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(len(self))

    def rows(self, step: int, size: int, seed: int, part: tuple[int, int] = (0, 1)) -> tuple[np.ndarray, list[str]]:
        """Row numbers [B] and captions of ``step``; epochs follow one another, an incomplete last batch is dropped.

        part: (k, n), the k-th of n equal parts of that batch, so that what is seen does not depend on the number of processes.
        """
        per_epoch = len(self) // size
        epoch, at = divmod(step, per_epoch)
        rows = np.sort(self.order(seed, epoch)[at * size : (at + 1) * size])
        rng = random.Random(f"caption/{seed}/{step}")
        captions = [rng.choice(self.captions[i]) for i in rows]
        k, n = part
        mine = slice(k * size // n, (k + 1) * size // n)
        return rows[mine], captions[mine]

    def batch(self, step: int, size: int, seed: int, part: tuple[int, int] = (0, 1)) -> tuple[np.ndarray, list[str]]:
        """Images [B, S, S, 3] and captions of :meth:`rows`, of a pool of one size."""
        rows, captions = self.rows(step, size, seed, part)
        assert isinstance(self.pixels, np.ndarray)
        return self.pixels[rows], captions


_SceneJob: TypeAlias = tuple[PretrainConfig, int, int]  # first and last row
_FileJob: TypeAlias = tuple[list[tuple[Path, list[str]]], int, str, str]  # (image, captions), size, resize, interpolation
_Job = TypeVar("_Job")
# Images of some rows at the training size, or their files' bytes; their captions; the names of what cannot be read.
_Made: TypeAlias = tuple[np.ndarray | list[bytes], list[list[str]], list[str]]


def _scene_chunk(args: _SceneJob) -> _Made:
    from levl_eval.scenes.language import captions
    from levl_eval.scenes.render import render_image
    from levl_eval.scenes.world import CATEGORIES, sample_scene, single_object_scene, stable_seed

    c, start, stop = args
    pixels, texts = np.empty((stop - start, c.image_size, c.image_size, 3), np.uint8), []
    for i in range(start, stop):
        kind = random.Random(stable_seed("kind", c.seed, i))
        scene = sample_scene(stable_seed("pretrain", c.seed, i))
        if kind.random() < c.scenes_singles:
            scene = single_object_scene(stable_seed("pretrain", c.seed, i), kind.choice(CATEGORIES))
        pixels[i - start] = render_image(scene, c.image_size)
        texts.append(captions(scene, random.Random(stable_seed("caption", c.seed, i)), c.captions_per_image, c.scenes_captions))
    return pixels, texts, []


def csv_rows(
    path: Path, image: str = "image", fields: Sequence[str] = ("caption",), delimiter: str = ",", strip: bool = False
) -> list[tuple[Path, list[str]]]:
    """(image file, captions) of a csv whose header names both columns; files relative to it or to images/ beside it.

    fields: names of the caption column; the first that the header has is read. Several rows of an image are its captions, which
    are taken as they stand unless ``strip``. COCO's captions_*.json and Flickr's token file are read too (data.caption_files).
    """
    by_image: dict[str, list[str]] = {}
    for c in read_caption_file(path, image, fields, delimiter=delimiter):
        by_image.setdefault(c.image, []).append(c.caption.strip() if strip else c.caption)
    if not by_image:
        raise UsageError(f"{path}: holds no image with a caption")

    def place(name: str) -> Path:
        beside = path.parent / name
        return beside if beside.exists() else path.parent / "images" / name

    files = {name: place(name) for name in by_image}
    one_name_each(files, path)
    return [(files[name], captions) for name, captions in by_image.items()]


def _csv_chunk(args: _FileJob) -> _Made:
    """Images of some rows at the training size, their captions, and the names of what cannot be read."""
    from levl_eval.pretrain.augment import resized

    rows, size, how, interpolation = args
    pixels, texts, broken = [], [], []
    for path, captions in rows:
        try:
            pixels.append(resized(open_rgb(path), size, how, interpolation))
            texts.append(captions)
        except LevlError as e:
            broken.append(str(e))
    return np.array(pixels, np.uint8).reshape(len(pixels), size, size, 3), texts, broken


def _original_chunk(args: _FileJob) -> _Made:
    """:func:`_csv_chunk` with the files' bytes, of which each was decoded once to see that it can be."""
    files: list[bytes] = []
    texts, broken = [], []
    for path, captions in args[0]:
        try:
            data = Path(regular(path)).read_bytes()
            decode_rgb(data, str(path))
            files.append(data)
            texts.append(captions)
        except OSError as e:
            broken.append(f"{path} ({e.strerror})")
        except LevlError as e:
            broken.append(str(e))
    return files, texts, broken


def _workers() -> int:
    return min(8, cores())


def _too_many(broken: Sequence[str], total: int, allowed: float) -> None:
    if len(broken) > allowed * total:
        raise UsageError(
            f"data: {len(broken)} of {total} images cannot be read, more than max_broken={allowed}; first {broken[0]}"
        )


@dataclass(frozen=True)
class _Plan(Generic[_Job]):
    """How a pool is made: its key, its number of images before any is found broken, and the work of each process."""

    kind: str
    key: str
    total: int
    jobs: Sequence[_Job]
    work: Callable[[_Job], _Made]
    size: int
    unchanged: Callable[[], bool] = lambda: True  # whether the source is still what the key says

    def build(self, folder: Path, allowed: float, progress: Progress) -> None:
        """Run the jobs in processes; write their images one after another, and captions and the names of broken files beside."""
        captions: list[list[str]] = []
        broken: list[str] = []
        ends: list[int] = []
        originals = self.work is _original_chunk
        target = folder / ("images.bin" if originals else "pixels.npy")
        with disk_full_as_error(target):
            shape = (self.total, self.size, self.size, 3)
            pool = None if originals else np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=shape)
            with (
                open(target if originals else os.devnull, "ab") as file,
                process_pool(_workers()) as workers,
                progress.stage("preparing images", self.total, "image") as bar,
            ):
                for images, texts, unread in workers.map(self.work, self.jobs):
                    if pool is not None:
                        pool[len(captions) : len(captions) + len(texts)] = images
                    else:
                        for data in images:
                            file.write(data)
                            ends.append((ends[-1] if ends else 0) + len(data))
                    captions += texts
                    broken += unread
                    bar.advance(len(texts))
                    _too_many(broken, self.total, allowed)
            if pool is not None:
                pool.flush()
                del pool
            else:
                np.save(folder / "ends.npy", np.array(ends, np.int64))
            (folder / "captions.json").write_text(json.dumps({"captions": captions, "broken": broken}), encoding="utf-8")
        if broken:
            progress.say(f"skipped {len(broken)} unreadable images, first {broken[0]}")
        if not self.unchanged():
            raise LevlError("data: image files changed while they were being read; run the same command again")


def scenes_plan(config: PretrainConfig) -> _Plan[_SceneJob]:
    from levl_eval import scenes

    code = hashlib.sha256()
    for name in ("language", "render", "shapes", "textures", "world"):
        code.update((Path(scenes.__file__).parent / f"{name}.py").read_bytes())
    c, total = config, config.scenes_pool
    key = key_of(
        {"pool": VERSION, "scenes": scenes.VERSION, "code": code.hexdigest(), "pillow": PIL.__version__, "numpy": np.__version__,
         "seed": c.seed, "images": total, "size": c.image_size, "captions": c.captions_per_image,
         "style": c.scenes_captions, "singles": c.scenes_singles}
    )  # fmt: skip
    jobs = [(c, i, min(total, i + _CHUNK)) for i in range(0, total, _CHUNK)]
    return _Plan("scenes", key, total, jobs, _scene_chunk, c.image_size)


def csv_plan(config: PretrainConfig) -> _Plan[_FileJob]:
    c = config
    path = Path(c.data[4:]).expanduser()
    tabs = c.data.startswith("tsv:") or path.suffix == ".tsv"
    rows = csv_rows(path, c.image_field, c.caption_fields, "\t" if tabs else ",", c.strip_captions)
    files = [p for p, _ in rows]
    marks = marks_of(files)
    originals = crops_originals(c)
    form: dict[str, object] = {"form": "originals"}
    if not originals:
        form = {"form": "pixels", "reading": READING, "size": c.image_size, "resize": c.resize, "interpolation": c.interpolation}
    key = key_of(
        {"pool": VERSION, "pillow": PIL.__version__, **form},
        ([str(p.resolve()), mark, texts] for (p, texts), mark in zip(rows, marks, strict=True)),
    )
    jobs = [(rows[i : i + _CHUNK], c.image_size, c.resize, c.interpolation) for i in range(0, len(rows), _CHUNK)]
    work = _original_chunk if originals else _csv_chunk
    return _Plan("csv", key, len(rows), jobs, work, c.image_size, lambda: marks_of(files) == marks)


def open_pool(config: PretrainConfig, cache: Path, progress: Progress, deep: bool = True) -> Pool:
    """The pool of a configuration's data, made in the cache if it is not there. Raises UsageError for unusable data.

    Its key holds everything that can move it: captions, a mark of every image file (sealed.mark_of), geometry, and versions. What
    is made of captions later (tokenizer, maximal length, read-out) is not kept in it, hence not in its key.
    deep: check the contents of a pool that is there, not the files' sizes alone.
    """
    plan: _Plan[_SceneJob] | _Plan[_FileJob]
    if config.data == "scenes":
        plan = scenes_plan(config)
    elif config.data.startswith(("csv:", "tsv:")):
        plan = csv_plan(config)
    else:
        raise UsageError(f"data={config.data}: expected scenes, csv:FILE, tsv:FILE, wds:GLOB, lance:PATH or hf:NAME")
    folder = cache / "pretrain" / f"{plan.kind}-{plan.key[:32]}"
    hold(folder)
    digest = sealed(folder, plan.key, lambda f: plan.build(f, config.max_broken, progress), progress, deep)
    mark_used(folder / MANIFEST)
    texts = json.loads((folder / "captions.json").read_text(encoding="utf-8"))
    captions, broken = texts["captions"], texts["broken"]
    _too_many(broken, plan.total, config.max_broken)
    if len(captions) < config.batch_size:
        raise UsageError(f"data={config.data}: {len(captions)} images, fewer than batch_size={config.batch_size}")
    originals = plan.work is _original_chunk
    identity = key_of({"images": contents_mark(folder, "images.bin" if originals else "pixels.npy")}, captions)
    pixels = Originals(folder) if originals else np.load(folder / "pixels.npy", mmap_mode="r")[: len(captions)]
    return Pool(pixels, captions, broken, digest, identity)
