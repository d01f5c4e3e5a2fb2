"""Image-caption pairs for pretraining: decoded once into a memory-mapped uint8 pool, then read in a fixed random order.

The order is a pure function of (seed, epoch), so a resumed run sees what an uninterrupted one sees.
"""

from __future__ import annotations

import csv
import hashlib
import json
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from levl_eval.errors import UsageError
from levl_eval.io import atomic_path, atomic_write
from levl_eval.pretrain.config import PretrainConfig
from levl_eval.processes import cores
from levl_eval.progress import Progress

_CHUNK = 500


@dataclass(frozen=True)
class Pool:
    """pixels: uint8 [N, S, S, 3] memory map; captions: of each picture, at least one."""

    pixels: np.ndarray
    captions: list[list[str]]
    broken: Sequence[str] = ()  # images of the source that could not be read

    def __len__(self) -> int:
        return len(self.captions)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(len(self))

    def batch(self, step: int, size: int, seed: int, part: tuple[int, int] = (0, 1)) -> tuple[np.ndarray, list[str]]:
        """Pictures [B, S, S, 3] and captions of ``step``; epochs follow one another, an incomplete last batch is dropped.

        part: (k, n), the k-th of n equal parts of that batch, so that what is seen does not depend on the number of processes.
        """
        per_epoch = len(self) // size
        epoch, at = divmod(step, per_epoch)
        rows = np.sort(self.order(seed, epoch)[at * size : (at + 1) * size])
        rng = random.Random(f"caption/{seed}/{step}")
        captions = [rng.choice(self.captions[i]) for i in rows]
        k, n = part
        mine = slice(k * size // n, (k + 1) * size // n)
        return self.pixels[rows[mine]], captions[mine]


def _scene_chunk(args: tuple[int, int, int, int, int]) -> tuple[np.ndarray, list[list[str]]]:
    from levl_eval.scenes.language import caption
    from levl_eval.scenes.render import render_image
    from levl_eval.scenes.world import sample_scene, stable_seed

    seed, start, stop, size, captions = args
    pixels, texts = np.empty((stop - start, size, size, 3), np.uint8), []
    for i in range(start, stop):
        scene = sample_scene(stable_seed("pretrain", seed, i))
        pixels[i - start] = render_image(scene, size)
        rng = random.Random(stable_seed("caption", seed, i))
        texts.append([caption(scene, rng) for _ in range(captions)])
    return pixels, texts


def _csv_rows(
    path: Path, image: str = "image", fields: Sequence[str] = ("caption",), delimiter: str = ","
) -> list[tuple[Path, list[str]]]:
    """(image file, captions) of a csv whose header names both columns; files relative to it or to images/ beside it.

    fields: names of the caption column; the first that the header has is read. Several rows of an image are its captions.
    """
    try:
        with open(path, newline="", encoding="utf-8") as f:
            reader = csv.DictReader(f, delimiter=delimiter)
            header = list(reader.fieldnames or [])
            caption = next((f for f in fields if f in header), None)
            if image not in header or caption is None:
                raise UsageError(
                    f"{path}: the header is {header}; expected columns {image} and {fields[0]} (image_field=, caption_fields=)"
                )
            by_image: dict[str, list[str]] = {}
            for row in reader:
                if row[image] and row[caption]:
                    by_image.setdefault(row[image], []).append(row[caption].strip())
    except OSError as e:
        raise UsageError(f"data=csv:{path}: cannot be read ({e.strerror})") from e
    except (UnicodeDecodeError, csv.Error) as e:
        raise UsageError(f"data=csv:{path}: not a UTF-8 table ({e}); save it as UTF-8 csv or tsv") from e
    if not by_image:
        raise UsageError(f"{path}: holds no image with a caption")

    def place(name: str) -> Path:
        beside = path.parent / name
        return beside if beside.exists() else path.parent / "images" / name

    return [(place(name), captions) for name, captions in by_image.items()]


def _csv_chunk(args: tuple[list[tuple[Path, list[str]]], int, str]) -> tuple[np.ndarray, list[list[str]], list[str]]:
    from PIL import Image

    from levl_eval.pretrain.augment import resized

    rows, size, how = args
    pixels, texts, broken = [], [], []
    for path, captions in rows:
        try:
            with Image.open(path) as image:
                pixels.append(resized(image, size, how))
            texts.append(captions)
        except Exception as e:  # whatever a decoder throws at a broken file
            broken.append(f"{path} ({type(e).__name__})")
    return np.array(pixels, np.uint8).reshape(len(pixels), size, size, 3), texts, broken


def _workers() -> int:
    return min(8, cores())


def _build(folder: Path, jobs: list, work: Callable, total: int, size: int, allowed: float, progress: Progress) -> None:
    """Run the jobs in processes, write their pictures one after another into pixels.npy, and the captions and counts beside."""
    captions: list[list[str]] = []
    broken: list[str] = []
    with atomic_path(folder / "pixels.npy") as temporary:
        pool = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=(total, size, size, 3))
        with ProcessPoolExecutor(_workers()) as workers, progress.stage("preparing pictures", total, "picture") as bar:
            for pixels, texts, *rest in workers.map(work, jobs):
                pool[len(captions) : len(captions) + len(texts)] = pixels
                captions += texts
                broken += rest[0] if rest else []
                bar.advance(len(texts))
                if len(broken) > allowed * total:
                    raise UsageError(
                        f"data: {len(broken)} of {total} images cannot be read, more than max_broken={allowed}; first {broken[0]}"
                    )
        pool.flush()
    if broken:
        progress.say(f"skipped {len(broken)} unreadable images, first {broken[0]}")
    atomic_write(folder / "captions.json", json.dumps({"captions": captions, "broken": broken}))


def open_pool(config: PretrainConfig, cache: Path, progress: Progress) -> Pool:
    """The pool of a configuration's data, made in the cache if it is not there. Raises UsageError for unusable data."""
    size = config.image_size
    if config.data == "scenes":
        import levl_eval.scenes as scenes

        key = f"scenes-{config.seed}-{config.scenes_pool}-{size}-{config.captions_per_image}-{scenes.VERSION}"
        total = config.scenes_pool
        jobs: list = [(config.seed, i, min(total, i + _CHUNK), size, config.captions_per_image) for i in range(0, total, _CHUNK)]
        work: Callable = _scene_chunk
    elif config.data.startswith(("csv:", "tsv:")):
        path = Path(config.data[4:]).expanduser()
        tabs = config.data.startswith("tsv:") or path.suffix == ".tsv"
        rows = _csv_rows(path, config.image_field, config.caption_fields, "\t" if tabs else ",")
        total = len(rows)
        text = "\n".join(f"{p.resolve()}|{p.stat().st_size if p.exists() else -1}|{c}" for p, c in rows)
        key = f"csv-{hashlib.sha256(text.encode()).hexdigest()[:24]}-{size}{'-crop' if config.resize == 'crop' else ''}"
        jobs = [(rows[i : i + _CHUNK], size, config.resize) for i in range(0, total, _CHUNK)]
        work = _csv_chunk
    else:
        raise UsageError(f"data={config.data}: expected scenes, csv:FILE, tsv:FILE, wds:GLOB or hf:NAME")
    folder = cache / "pretrain" / key
    if not (folder / "captions.json").exists():
        _build(folder, jobs, work, total, size, config.max_broken, progress)
    told = json.loads((folder / "captions.json").read_text())
    captions = told["captions"]
    if len(captions) < config.batch_size:
        raise UsageError(f"data={config.data}: {len(captions)} pictures, fewer than batch_size={config.batch_size}")
    return Pool(np.load(folder / "pixels.npy", mmap_mode="r")[: len(captions)], captions, told["broken"])
