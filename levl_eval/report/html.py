"""`report.html`: one self-contained file with the tables, charts, a sample browser and the protocol of every number.

Here is what the page shows, as plain values; its markup is in ``templates/report.html.j2``.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict
from urllib.parse import quote

from markupsafe import Markup

from levl_eval.core.files import atomic_write
from levl_eval.metrics.estimate import Estimate
from levl_eval.records import Record
from levl_eval.report import browser, facts, protocols, svg
from levl_eval.report.browser import IMAGES, RIGHT, Opener
from levl_eval.report.budget import budgets, series
from levl_eval.report.protocol_curves import protocol_curves
from levl_eval.report.results import Results, Row, entry_of
from levl_eval.report.sight import doses
from levl_eval.report.specification import specification_curve_svg
from levl_eval.report.tables import data_notes, failures, floor_notes, instrument_notes
from levl_eval.report.templating import json_data, own_file, render
from levl_eval.report.units import interval, lower_note
from levl_eval.report.wide import references, tables

HERE = Path(__file__).resolve().parent
MOST_BARS = 12  # of a task in the chart of gains, and curves in one of training; the tables hold all
MAX_FILE = 14_900_000  # bytes of the page; images get what its text leaves
MAX_BYTES = 12_000_000  # of images in all
MAX_DENSE = 1_500_000  # of the dense tasks' images, before they are written as text
PLACE = Markup("<!--samples-->")  # where the browser's data go; no text of others can hold it, as that is escaped
SHEETS = ("truth.png", "dense.png", "legend.json")  # of engines/dense_images.py and segmentation/images.py
_SHOWN = {  # by engine: what the two sheets show, for those who cannot see them
    "segmentation": ("images and their true labels", "prediction, errors, principal components of patch tokens"),
    "depth": ("images and their true depth", "predicted depth, relative error, principal components of patch tokens"),
    "depth-recipe": ("images and their true depth", "predicted depth and relative error"),
    "normals": ("images and their true normals", "predicted normals, angular error, principal components of patch tokens"),
    "correspondence": ("pairs of images with their keypoints",
                       "where the keypoints are found, green where right, red with a line to the true place"),
    "multiview": ("two views of an object and a few of its points",
                  "where they are found in the second, in a green ring where right, red where wrong"),
    "propagation": ("frames and their true objects", "the objects as they were carried there, and the first frame's mask"),
    "instance": ("queries with an image to find", "the first images of each query's list, "
                 "in a green frame where right, red where wrong, grey where they do not count"),
}  # fmt: skip
SMALLEST = 0.45  # of their own size that sheets are shown at
KINDS = {"records": "json", "samples": "jsonl"}  # folders of a run, and how their files' names end


@dataclass(frozen=True)
class Chart:
    """A figure with a heading and a caption."""

    title: str
    drawing: Markup
    caption: str = ""


def _scaled(e: Estimate, scale: float) -> Estimate:
    ends = {k: None if v is None else v * scale for k, v in (("low", e.low), ("high", e.high))}
    return e.model_copy(update={"value": e.value * scale, **ends})


def _largest(gains: list[tuple[str, int, Estimate]], row: Row) -> list[tuple[str, int, Estimate]]:
    """All gains where they are few, else the best ones, best first."""
    sign = -1 if row.kind.lower_is_better else 1
    return gains if len(gains) <= MOST_BARS else sorted(gains, key=lambda g: -sign * g[2].value)[:MOST_BARS]


def _gains(results: Results, colour: dict[str, int]) -> Chart | None:
    rows = []
    for row in results.rows:
        gains = [(n, colour[n], _scaled(g, row.kind.factor)) for n in row.cells if (g := results.gain(row, n)) is not None]
        if gains:
            gains, left = _largest(gains, row), max(0, len(gains) - MOST_BARS)
            more = f"; the best {MOST_BARS} of {left + MOST_BARS}" if left else ""
            over_in_words = results.gains_over(row)
            named = over_in_words if len(over_in_words) < 200 else "gains over each one's reference"
            rows.append((f"{row.title}, {row.metric} ({named}{more})", gains))
    over = references(results)
    what = over[0] if len(over) == 1 else "the backbone named with each task"
    chart = svg.bars(rows, f"gain over {what} in points, with 95% intervals")
    caption = "Points, paired over images; whiskers are 95% intervals." + lower_note(row.kind for row in results.rows)
    return Chart(f"Gain over {what}", chart, caption) if chart else None


def _scatter(results: Results, colour: dict[str, int]) -> Chart | None:
    """Mean IoU (dense) against top-1 (global), for the first row of each."""
    dense = next((r for r in results.rows if r.metric == "mean_iou"), None)
    whole = next((r for r in results.rows if r.metric == "top1"), None)
    if dense is None or whole is None:
        return None
    both = [n for n in results.backbones if all(n in r.cells and r.cells[n].records for r in (dense, whole))]

    def at(row: Row, name: str) -> Estimate:
        return _scaled(results.summary(row, name).estimate, 100)

    points = [(n, colour[n], at(whole, n), at(dense, n)) for n in both]
    chart = svg.scatter(points, f"{whole.title}, top1, percent", f"{dense.title}, mean_iou, percent")
    caption = "Whiskers are 95% intervals over test images. The axes begin where the values do, not at zero."
    return Chart("Dense against global", chart, caption) if chart else None


def _learning(results: Results, colour: dict[str, int]) -> list[Chart]:
    out = []
    for row in results.rows:
        for key in sorted({k for c in row.cells.values() for r in c.records for k in r.notes if k.endswith("_loss")}):
            lines = [
                (n, colour[n], curve)
                for n, c in row.cells.items()
                if c.records and isinstance(curve := c.records[0].notes.get(key), list)
            ]
            what = key.replace("_", " ")
            more = f" The first {MOST_BARS} of {len(lines)} backbones." if len(lines) > MOST_BARS else ""
            if chart := svg.curves(lines[:MOST_BARS], f"{what} of {row.title} over training"):
                out.append(Chart(f"{row.title}: {what}", chart, f"Of the first seed.{more}"))
    return out


def _budgets(results: Results, colour: dict[str, int]) -> list[Chart]:
    """Score over how long the head or connector was trained, where a run has both."""
    out = []
    for group in budgets(results):
        lines = series(results, group, colour)[:MOST_BARS]
        chart = svg.response(lines, group.field, f"{group.title}, {group.rows[0][1].metric}")
        if chart:
            out.append(
                Chart(f"{group.title}: score against budget", chart, "Where a line still rises, the head limits the result.")
            )
    return out


def _specifications(results: Results) -> list[Chart]:
    """The gains of each backbone under every protocol that a grid has run."""
    out = []
    for task, whose, points in protocol_curves(results)[:MOST_BARS]:
        # rendered, hence escaped
        drawing = Markup(specification_curve_svg(points, f"gain of {whose} on {task} under {len(points)} protocols"))
        held = sum(p.verdict == "supported" for p in points)
        caption = (
            f"Gain of {whose} under each protocol, sorted, with 95% intervals and the protocol's choices; "
            f"significantly above zero in {held} of {len(points)}."
        )
        out.append(Chart(f"{task}: {whose}, by protocol", drawing, caption))
    return out


def _doses(results: Results) -> list[Chart]:
    """Score over the share of patches that an oracle knows (backbones.oracle), one line per task and kind of oracle."""
    lines = [(f"{title}, {kind}", k, points) for k, (title, kind, points) in enumerate(doses(results))]
    chart = svg.response(lines, "share of patches that are told", "percent")
    return [Chart("Dose and response", chart, "More information must give no lower score beyond its interval.")] if chart else []


class Sheet(TypedDict):
    """Images of a dense task in one file, side by side. uri: a data URI; width: pixels."""

    title: str
    uri: str
    alt: str
    width: int


@dataclass(frozen=True)
class Panel:
    """Sheets of images of a dense task, the data first; all have the same rows. legend: class and colour (#rrggbb)."""

    title: str
    sheets: list[Sheet]
    legend: list[tuple[str, str]]

    @property
    def columns(self) -> str:
        """Widths of the sheets in proportion, so that their rows stay level."""
        return " ".join(f"{s['width']}fr" for s in self.sheets)

    @property
    def width(self) -> int:
        """Pixels that all sheets take at their own size; they are made smaller to fit a page, not larger."""
        return sum(s["width"] for s in self.sheets)

    @property
    def least(self) -> int:
        """Width in pixels below which they scroll: eight backbones fit side by side at 1280."""
        return int(SMALLEST * self.width)


def _legend(path: Path) -> list[tuple[str, str]]:
    """Classes and colours that a sheet shows; [] where the file is not there or is none (older runs)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return [(str(n), str(c)) for n, c in content if re.fullmatch(r"#[0-9a-f]{6}", str(c))]
    except (OSError, ValueError, TypeError):
        return []


def _png_width(content: bytes) -> int:
    """Pixels across, from the header of a PNG file."""
    return max(1, int.from_bytes(content[16:20], "big"))


def _panel(row: Row, room: int) -> tuple[Panel, int]:
    """The sheets of a row in ``room`` bytes, and the bytes they take."""
    sheets: list[Sheet] = []
    legend: dict[str, str] = {}
    used = 0
    for name, cell in row.cells.items():
        truth, dense, named = SHEETS
        folder = next((f for r in cell.records if (f := r.home / "work" / r.key).joinpath(dense).is_file()), None)
        if folder is None:
            continue
        of_data, of_backbone = _SHOWN.get(row.any.engine, _SHOWN["segmentation"])
        for title, file, alt in (("", truth, of_data), (name, dense, f"{name}: {of_backbone}")):
            path = folder / file
            if (not title and sheets) or not path.is_file() or used + path.stat().st_size > room:
                continue
            content = path.read_bytes()
            used += len(content)
            uri = "data:image/png;base64," + base64.b64encode(content).decode()
            sheets.append({"title": title or "the data", "uri": uri, "alt": alt, "width": _png_width(content)})
            legend |= dict(_legend(folder / named))
    return Panel(row.title, sheets, list(legend.items())), used


def _dense(results: Results) -> list[Panel]:
    """Photo, truth and what each backbone predicts, of the segmentation rows whose run kept images (segmentation.images)."""
    panels, used = [], 0
    for row in results.rows:
        panel, size = _panel(row, MAX_DENSE - used)
        used += size
        panels += [panel] if panel.sheets else []
    return panels


def _breakdown(results: Results, row: Row) -> dict[str, object]:
    """Every metric of a row, one column a backbone."""
    names = [n for n, c in row.cells.items() if c.records]
    metrics = dict.fromkeys(m for n in names for r in row.cells[n].records for m in r.metrics)
    lines = []
    for m in metrics:
        cells = []
        for n in names:
            try:
                e = results.summary(row, n, m).estimate
                cells.append(interval(e.value, e.low, e.high, entry_of(row.any, m)))
            except KeyError:
                cells.append("")
        lines.append((m, cells))
    return {"title": row.title, "heads": [(n, row.cells[n].any.key) for n in names], "lines": lines}


def _tasks(results: Results, link: Callable[[Record, str], str]) -> list[dict[str, object]]:
    """Each row's protocol, and one panel per record, in the order of the tables."""
    out = []
    for row in results.rows:
        panels = [
            {
                "record": r, "label": name, "facts": facts.of_record(results, row, name, r),
                "files": [(f"{kind}/{r.key}", address) for kind in KINDS if (address := link(r, kind))],
            }
            for name, cell in row.cells.items()
            for r in (*cell.records, *cell.failed)
        ]  # fmt: skip
        out.append({"row": row, "fields": protocols.of_row(row, results.rows), "panels": panels})
    return out


def _linker(out: Path | None) -> Callable[[Record, str], str]:
    """Addresses of the files beside the page: none for records elsewhere, as the page may be sent without them."""
    here = out.resolve() if out is not None else None
    files = {k: {p.name for p in (here / k).glob(f"*.{KINDS[k]}") if p.is_file()} for k in KINDS} if here is not None else {}
    resolved: dict[Path, Path] = {}  # a folder's links are followed once, not once per record

    def link(record: Record, kind: str) -> str:
        if here is None:
            return ""
        if record.home not in resolved:
            resolved[record.home] = record.home.resolve()
        name = f"{record.key}.{KINDS[kind]}"
        return quote(f"{kind}/{name}") if resolved[record.home] == here and name in files[kind] else ""

    return link


def build(results: Results, opener: Opener | None = None, out: Path | None = None) -> str:
    """The page. opener: gives for a record a function from image id to image, or None where its images are not at hand.

    out: the folder the page will lie in, whose records and samples it then links to; None: it links to nothing outside itself.
    """
    colour = {n: i for i, n in enumerate(results.backbones)}
    link = _linker(out)
    shown = browser.tasks_of(results, link)
    page = render(
        "report.html.j2", css=own_file(HERE / "report.css"), script=own_file(HERE / "report.js"), results=results, head=facts.head(results),
        data_notes=data_notes(results), tables=tables(results),
        notes=list(dict.fromkeys([
            *floor_notes(results.records), *instrument_notes(results, results.rows), *failures(results, results.records), *results.notes(),
        ])),
        responses=[*_budgets(results, colour), *_doses(results), *_specifications(results)], gain=_gains(results, colour),
        scatter=_scatter(results, colour), dense=_dense(results), curves=_learning(results, colour),
        breakdowns=[_breakdown(results, row) for row in results.rows if any(c.records for c in row.cells.values())],
        shared=protocols.shared(results.rows), tasks=_tasks(results, link), images=IMAGES, right=RIGHT, data=PLACE,
    )  # fmt: skip
    begin, end = page.split(PLACE)

    def data() -> str:
        return json_data([task for _, task in shown])

    if opener is not None:
        browser.add_images(shown, opener, min(MAX_BYTES, MAX_FILE - sum(len(t.encode()) for t in (begin, data(), end))))
    return "".join((begin, data(), end))  # plain text from here on


def write_report(out: Path, results: Results, opener: Opener | None = None) -> Path:
    """Write ``out/report.html``; see build."""
    path = out / "report.html"
    atomic_write(path, build(results, opener, out))
    results.save()
    return path
