"""`report.html`: one self-contained file with the tables, charts, a sample browser and the protocol of every number."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from levl_eval.core.errors import LevlError
from levl_eval.core.files import atomic_write
from levl_eval.core.text import html_text, json_text
from levl_eval.metrics.estimate import Estimate
from levl_eval.records import Record
from levl_eval.report import svg
from levl_eval.report.paired import Samples
from levl_eval.report.results import Results, Row, entry_of
from levl_eval.report.tables import data_notes, failures, floor_notes
from levl_eval.report.units import interval, lower_note
from levl_eval.report.wide import html_tables, references

HERE = Path(__file__).resolve().parent
IMAGES = 24  # images of a task in the browser, with all their questions
SIDE = 192  # pixels of the longer side
MAX_FILE = 14_900_000  # bytes of the page; images get what its text leaves
MAX_BYTES = 12_000_000  # of images in all
MAX_DENSE = 1_500_000  # of the dense tasks' images, before they are written as text
MAX_SAMPLES = 400  # of a task

Opener = Callable[[Record], Callable[[str], Image.Image] | None]


def _data_uri(image: Image.Image) -> str:
    image = image.convert("RGB")
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _chosen(images: Sequence[str]) -> list[str]:
    """A fixed subset of image ids, the same for every backbone and run."""
    return sorted(set(images), key=lambda i: hashlib.sha256(i.encode()).digest())[:IMAGES]


def _samples(results: Results) -> list[tuple[Row, dict[str, Any]]]:
    """What the sample browser shows of each row, as plain JSON values; without images yet."""
    out = []
    for row in results.rows:
        loaded: dict[str, Samples] = {}
        for name, cell in row.cells.items():
            if cell.records:
                try:
                    loaded[name] = results.samples(cell.records[0])
                except LevlError:
                    continue
        if not loaded:
            continue
        common = set.intersection(*(set(s) for s in loaded.values()))
        first = next(iter(loaded.values()))
        wanted = set(_chosen([first[i].image_id for i in common]))
        ids = sorted((i for i in common if first[i].image_id in wanted), key=lambda i: (first[i].image_id, i))[:MAX_SAMPLES]
        samples = [
            {
                "id": i, "i": first[i].image_id, "q": str(first[i].meta.get("question", "")), "t": first[i].target,
                "p": [s[i].prediction for s in loaded.values()], "s": [round(float(s[i].score or 0.0), 3) for s in loaded.values()],
            }
            for i in ids
        ]  # fmt: skip
        out.append((row, {"title": row.title, "backbones": list(loaded), "samples": samples, "images": {}}))
    return out


def _add_images(shown: Sequence[tuple[Row, dict[str, Any]]], opener: Opener, room: int) -> None:
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


def _scaled(e: Estimate, scale: float) -> Estimate:
    ends = {k: None if v is None else v * scale for k, v in (("low", e.low), ("high", e.high))}
    return e.model_copy(update={"value": e.value * scale, **ends})


def _gains(results: Results, colour: dict[str, int]) -> str:
    rows = []
    for row in results.rows:
        found = [(n, colour[n], _scaled(g, row.kind.factor)) for n in row.cells if (g := results.gain(row, n)) is not None]
        if found:
            rows.append((f"{row.title}, {row.metric} ({results.gains_over(row)})", found))
    lower = html_text(lower_note(row.kind for row in results.rows))
    over = references(results)
    what = over[0] if len(over) == 1 else "the backbone named with each task"
    chart = svg.bars(rows, f"gain over {what} in points, with 95% intervals")
    return (
        f"<h2 id=gain>Gain over {html_text(what)}</h2><figure>{chart}<figcaption>Points, paired over images; whiskers are 95% intervals.{lower}</figcaption></figure>"
        if chart
        else ""
    )


def _scatter(results: Results, colour: dict[str, int]) -> str:
    """Mean IoU (dense) against top-1 (global), for the first row of each."""
    dense = next((r for r in results.rows if r.metric == "mean_iou"), None)
    whole = next((r for r in results.rows if r.metric == "top1"), None)
    if dense is None or whole is None:
        return ""
    both = [n for n in results.backbones if all(n in r.cells and r.cells[n].records for r in (dense, whole))]

    def at(row: Row, name: str) -> float:
        return 100 * results.summary(row, name).estimate.value

    points = [(n, colour[n], at(whole, n), at(dense, n)) for n in both]
    chart = svg.scatter(points, f"{whole.title}, top1", f"{dense.title}, mean_iou")
    return f"<h2 id=scatter>Dense against global</h2><figure>{chart}</figure>" if chart else ""


def _learning(results: Results, colour: dict[str, int]) -> str:
    parts = []
    for row in results.rows:
        for key in sorted({k for c in row.cells.values() for r in c.records for k in r.notes if k.endswith("_loss")}):
            lines = [
                (n, colour[n], c.records[0].notes[key])
                for n, c in row.cells.items()
                if c.records and isinstance(c.records[0].notes.get(key), list)
            ]
            what = key.replace("_", " ")
            chart = svg.curves(lines, f"{what} of {row.title}")
            if chart:
                parts.append(f"<h3>{html_text(f'{row.title}: {what}')}</h3><figure>{chart}</figure>")
    return (
        f"<h2 id=curves>Learning curves</h2><details><summary>Loss of heads and connectors over training</summary>{''.join(parts)}</details>"
        if parts
        else ""
    )


_DENSE_NOTE = (
    '<p class="soft">Errors of classes: grey is right, red wrong, black not scored. PCA: the first three components of all patch '
    "tokens of a backbone as red, green and blue; equal colours are equal features.</p>"
)


def _dense(results: Results) -> str:
    """Photo, truth and what each backbone predicts, of the segmentation rows whose run kept images (segmentation.images)."""
    parts, used = [], 0
    for row in results.rows:
        figures: list[str] = []
        for name, cell in row.cells.items():
            folder = next((f for r in cell.records if (f := r.home / "work" / r.key).joinpath("dense.png").is_file()), None)
            if folder is None:
                continue
            for title, file in (("", folder / "truth.png"), (name, folder / "dense.png")):
                if (title or not figures) and file.is_file() and used + file.stat().st_size <= MAX_DENSE:
                    content = file.read_bytes()
                    used += len(content)
                    uri = "data:image/png;base64," + base64.b64encode(content).decode()
                    alt = (
                        f"{title}: prediction, errors, principal components of patch tokens"
                        if title
                        else "images and their true labels"
                    )
                    figures.append(
                        f'<figure><img src="{uri}" alt="{html_text(alt)}"><figcaption>{html_text(title or "the data")}</figcaption></figure>'
                    )
        if figures:
            parts.append(f'<h3>{html_text(row.title)}</h3><div class="scroll dense" tabindex="0">{"".join(figures)}</div>')
    return f'<h2 id="dense">Dense predictions</h2>{_DENSE_NOTE}{"".join(parts)}' if parts else ""


def _breakdown(results: Results, row: Row) -> str:
    """Every metric of a row, one column a backbone."""
    names = [n for n, c in row.cells.items() if c.records]
    metrics = dict.fromkeys(m for n in names for r in row.cells[n].records for m in r.metrics)
    head = "".join(
        f'<th scope="col" class="n"><a href="#r-{html_text(row.cells[n].any.key)}">{html_text(n)}</a></th>' for n in names
    )
    body = []
    for m in metrics:
        cells = []
        for n in names:
            try:
                e = results.summary(row, n, m).estimate
                cells.append(f'<td class="n">{interval(e.value, e.low, e.high, entry_of(row.any, m))}</td>')
            except KeyError:
                cells.append("<td></td>")
        body.append(f'<tr><th scope="row">{html_text(m)}</th>{"".join(cells)}</tr>')
    table = f'<div class="scroll" tabindex="0"><table><thead><tr><th scope="col">metric</th>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
    return f"<details><summary>{html_text(row.title)}: {len(metrics)} metrics</summary>{table}</details>"


def _protocols(results: Results) -> str:
    """What made every number: the record without its metrics."""
    parts = []
    for r in results.records:
        text = json.dumps(
            r.model_dump(by_alias=True, mode="json", exclude={"metrics", "notes"}), indent=1, sort_keys=True, ensure_ascii=False
        )
        shown = html_text(text, "\n")
        title = f"{results.label(r)} on {r.task}, seed {r.seed}: protocol {r.protocol_hash[:12]}"
        parts.append(f'<details id="r-{html_text(r.key)}"><summary>{html_text(title)}</summary><pre>{shown}</pre></details>')
    return "".join(parts)


_BROWSER = f"""<h2 id="browse">Samples</h2>
<p class="soft">A fixed choice of up to {IMAGES} images of each task, with their questions; the folder samples/ of the run holds all.</p>
<div class="controls"><label>Task<select id="task"></select></label>
<label>Show<select id="filter"><option value="all">all</option><option value="differ">backbones disagree</option>
<option value="wrong">all wrong</option><option value="right">all right</option></select></label>
<label>Search<input id="search" type="search"></label>
<button id="before" type="button">Previous</button><button id="after" type="button">Next</button><output id="count" aria-live="polite"></output></div>
<ul id="samples"></ul>"""


def build(results: Results, opener: Opener | None = None) -> str:
    """The page. opener: gives for a record a function from image id to image, or None where its images are not at hand."""
    colour = {n: i for i, n in enumerate(results.backbones)}
    shown = _samples(results)
    listed = [*floor_notes(results.records), *failures(results), *results.notes()]
    notes = "".join(f"<li>{html_text(n)}</li>" for n in listed)
    data_of_rows = "".join(f"<li>{html_text(n)}</li>" for n in data_notes(results))
    breakdowns = "".join(_breakdown(results, row) for row in results.rows if any(c.records for c in row.cells.values()))
    charts = [_gains(results, colour), _scatter(results, colour), _dense(results)]
    curves = _learning(results, colour)
    links = {
        "summary": "Summary", **{k: t for k, t, c in zip(("gain", "scatter", "dense"), ("Gain", "Dense against global", "Dense"), charts, strict=True) if c},
        "browse": "Samples", "metrics": "All metrics", **({"curves": "Curves"} if curves else {}), "protocols": "Protocols",
    }  # fmt: skip
    nav = "".join(f'<a href="#{k}">{t}</a>' for k, t in links.items())
    css, script = ((HERE / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    begin = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>levl-eval report</title><style>{css}</style></head><body><header><h1>Frozen encoders, one protocol</h1>"
        f'<p class="soft">{len(results.backbones)} backbones, {len(results.rows)} tasks. Written by levl-eval from the records of this run.</p>'
        f'<details open class="soft"><summary>What data the numbers are from</summary><ul>{data_of_rows}</ul></details>'
        f"<nav>{nav}</nav></header><main>"
        f'<h2 id="summary">Summary</h2><div class="scroll" tabindex="0">{html_tables(results, linked=True)}</div><p class="soft">Each number leads to its protocol.</p><ul>{notes}</ul>'
        f"{''.join(charts)}{_BROWSER}"
        f'<h2 id="metrics">All metrics</h2>{breakdowns}{curves}<h2 id="protocols">The protocol of every number</h2>{_protocols(results)}</main>'
    )
    end = f"<script>{script}</script></body></html>\n"

    def data() -> str:
        text = json_text([task for _, task in shown], None).replace("<", "\\u003c")
        return f'<script type="application/json" id="data">{text}</script>'

    if opener is not None:
        _add_images(shown, opener, min(MAX_BYTES, MAX_FILE - sum(len(t.encode()) for t in (begin, data(), end))))
    return begin + data() + end


def write_report(out: Path, results: Results, opener: Opener | None = None) -> Path:
    path = out / "report.html"
    atomic_write(path, build(results, opener))
    return path
