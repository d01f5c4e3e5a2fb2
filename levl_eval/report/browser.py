"""What the report's sample browser shows, as plain JSON values: a fixed choice of images of each task with what is asked about them."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from typing import TypedDict

from PIL import Image

from levl_eval.core.errors import LevlError
from levl_eval.records import Record
from levl_eval.report.paired import Samples
from levl_eval.report.results import Results, Row

IMAGES = 24  # images of a task in the browser, with all their questions
SIDE = 192  # pixels of the longer side
MAX_SAMPLES = 400  # of a task
RIGHT = 0.5  # a score from which on a sample counts as right in the browser's filters

Opener = Callable[[Record], Callable[[str], Image.Image] | None]


class ShownSample(TypedDict):
    """An item of the browser. i: image id; q: question; t: target; p, s, l: prediction, score and line of its file, one a backbone."""

    id: str
    i: str
    q: str
    t: str
    p: list[str]
    s: list[float]
    l: list[int]  # noqa: E741 (the page's script knows it by this name)


class ShownTask(TypedDict):
    """A row of the tables in the browser. backbones, seeds, files: in the order of each sample's p, s and l; images: id -> data URI."""

    title: str
    metric: str
    backbones: list[str]
    seeds: list[int]
    files: list[str]
    samples: list[ShownSample]
    images: dict[str, str]


def _data_uri(image: Image.Image) -> str:
    image = image.convert("RGB")
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _chosen(images: Sequence[str]) -> list[str]:
    """A fixed subset of image ids, the same for every backbone and run."""
    return sorted(set(images), key=lambda i: hashlib.sha256(i.encode()).digest())[:IMAGES]


def _of_row(results: Results, row: Row, link: Callable[[Record, str], str]) -> ShownTask | None:
    """A task's entry; None where no samples can be read. link: address of a record's file of a kind, '' where it has none."""
    loaded: dict[str, Samples] = {}
    for name, cell in row.cells.items():
        if cell.records:
            try:
                loaded[name] = results.samples(cell.records[0])
            except LevlError:
                continue
    if not loaded:
        return None
    common = set.intersection(*(set(s) for s in loaded.values()))
    first = next(iter(loaded.values()))
    wanted = set(_chosen([first[i].image_id for i in common]))
    ids = sorted((i for i in common if first[i].image_id in wanted), key=lambda i: (first[i].image_id, i))[:MAX_SAMPLES]
    lines = [{i: k for k, i in enumerate(s, 1)} for s in loaded.values()]
    samples: list[ShownSample] = [
        {
            "id": i, "i": first[i].image_id, "q": str(first[i].meta.get("question", "")), "t": first[i].target,
            "p": [s[i].prediction for s in loaded.values()], "s": [round(float(s[i].score or 0.0), 3) for s in loaded.values()],
            "l": [line[i] for line in lines],
        }
        for i in ids
    ]  # fmt: skip
    seeds = [row.cells[n].records[0].seed for n in loaded]
    files = [link(row.cells[n].records[0], "samples") for n in loaded]
    return {
        "title": row.title, "metric": row.metric, "backbones": list(loaded), "seeds": seeds, "files": files, "samples": samples, "images": {},
    }  # fmt: skip


def tasks_of(results: Results, link: Callable[[Record, str], str]) -> list[tuple[Row, ShownTask]]:
    """Each row with what the browser shows of it: the first seed of every backbone; without images yet."""
    return [(row, task) for row in results.rows if (task := _of_row(results, row, link)) is not None]


def add_images(shown: Sequence[tuple[Row, ShownTask]], opener: Opener, room: int) -> None:
    """Give the samples their images, in ``room`` bytes of text: rows take turns, so that none goes without for another's sake."""
    waiting = []
    for row, task in shown:
        open_image = opener(row.cells[task["backbones"][0]].records[0])
        if open_image is not None:
            waiting.append((open_image, sorted({s["i"] for s in task["samples"]}), task["images"]))
    for turn in range(IMAGES):
        for open_image, names, images in waiting:
            if turn >= len(names):
                continue
            try:
                image = _data_uri(open_image(names[turn]))
            except (LevlError, KeyError, OSError):
                continue
            size = len(image) + len(json.dumps(names[turn])) + 4
            if size <= room:
                images[names[turn]] = image
                room -= size
