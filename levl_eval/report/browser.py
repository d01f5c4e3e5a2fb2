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
from levl_eval.records.scores import Scores
from levl_eval.report.derived import samples_of
from levl_eval.report.results import Results, Row

IMAGES = 24  # images of a task in the browser, with all their questions
SIDE = 192  # pixels of the longer side
MAX_SAMPLES = 400  # of a task
MAX_ANSWERS = 60_000  # of all tasks and backbones, about 40 bytes of the page each
LEAST_SAMPLES = 8  # of a task, however many there are
RIGHT = 0.5  # a score from which on a sample counts as right in the browser's filters

Opener = Callable[[Record], Callable[[str], Image.Image] | None]


class ShownSample(TypedDict):
    """An item of the browser. i: image id; q: question; t: target; p, s, l: prediction, score and line of its file, one per backbone."""

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


def _of_row(results: Results, row: Row, link: Callable[[Record, str], str], most: int) -> ShownTask | None:
    """A task's entry of at most ``most`` samples; None where no samples can be read.

    link: address of a record's file of a kind, '' where it has none.
    """
    loaded: dict[str, Scores] = {}
    for name, cell in row.cells.items():
        if cell.records:
            try:
                loaded[name] = results.scores(cell.records[0])
            except LevlError:
                continue
    if not loaded:
        return None
    first = next(iter(loaded.values())).items
    others = [s.items.position for s in loaded.values() if s.items is not first]
    common = [k for k, i in enumerate(first.ids) if all(i in p for p in others)]
    wanted = set(_chosen([first.images[k] for k in common]))
    shown = sorted((k for k in common if first.images[k] in wanted), key=lambda k: (first.images[k], first.ids[k]))[:most]
    places = [[s.items.position[first.ids[k]] for k in shown] for s in loaded.values()]
    records = [row.cells[n].records[0] for n in loaded]
    answers = [list(samples_of(r, s, p)) for r, s, p in zip(records, loaded.values(), places, strict=True)]
    samples: list[ShownSample] = [
        {
            "id": one[0].id, "i": one[0].image_id, "q": str(one[0].meta.get("question", "")), "t": one[0].target,
            "p": [s.prediction for s in one], "s": [round(float(s.score or 0.0), 3) for s in one], "l": [p[at] + 1 for p in places],
        }
        for at, one in enumerate(zip(*answers, strict=True))
    ]  # fmt: skip
    return {
        "title": row.title, "metric": row.metric, "backbones": list(loaded), "seeds": [r.seed for r in records],
        "files": [link(r, "samples") for r in records], "samples": samples, "images": {},
    }  # fmt: skip


def tasks_of(results: Results, link: Callable[[Record, str], str]) -> list[tuple[Row, ShownTask]]:
    """Each row with what the browser shows of it: the first seed of every backbone; without images yet.

    Of many rows and backbones fewer samples each, so that the page stays one that can be opened.
    """
    rows = [row for row in results.rows if any(c.records for c in row.cells.values())]
    most = {row.key: max(LEAST_SAMPLES, min(MAX_SAMPLES, MAX_ANSWERS // len(rows) // len(row.cells))) for row in rows}
    return [(row, task) for row in rows if (task := _of_row(results, row, link, most[row.key])) is not None]


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
