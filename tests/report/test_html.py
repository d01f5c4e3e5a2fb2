"""report.html: self-contained, safe, small; and in a real headless Chromium: no console errors, filters work."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from levl_eval.cards.registry import task_card
from levl_eval.cli import main
from levl_eval.cli.report import images_of
from levl_eval.core.errors import LevlError
from levl_eval.core.progress import Progress
from levl_eval.data.readers import read_classification
from levl_eval.engines.probes import common
from levl_eval.records import read_samples
from levl_eval.report import html as page
from levl_eval.report.html import build
from levl_eval.report.results import Results
from levl_eval.report.svg import bars, curves, scatter
from levl_eval.runner.evaluate import evaluate
from tests.report.conftest import record


@pytest.fixture(scope="module")
def results(run_dir):
    return Results.read([run_dir])


def opener(record):
    def opened(name):
        if name == "img3":
            raise LevlError("gone")
        return Image.fromarray(np.full((300, 400, 3), 90, np.uint8))

    return opened


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def test_it_is_one_file_that_loads_nothing(results):
    text = build(results, opener)
    assert not re.search(r"""(?:src|href)=(?!["']?(?:#|data:))""", text) and "http" not in text
    assert text.count("<svg") >= 2 and "gain over random in points" in text and "What data the numbers are from" in text
    tasks = data_of(text)
    assert [t["title"] for t in tasks] == [r.title for r in results.rows]
    gqa = next(t for t in tasks if t["title"] == "gqa")
    assert gqa["backbones"] == ["fair", "fair-twin", "good", "random"] and all(len(s["p"]) == 4 for s in gqa["samples"])
    assert gqa["samples"][0]["q"].startswith("What <b> is &") and "<b> is" not in text  # markup of a question stays text
    assert gqa["images"] and "img3" not in gqa["images"]
    assert "no text encoder" in text and text.count("<details") > len(results.records)


def test_images_are_bounded(results, monkeypatch):
    monkeypatch.setattr(page, "MAX_BYTES", 9000)
    text = build(results, opener)
    assert sum(len(p) for t in data_of(text) for p in t["images"].values()) <= 9000
    assert not any(t["images"] for t in data_of(build(results)))
    assert all(t["images"] for t in data_of(text) if t["samples"])  # each task has some, before any has all
    monkeypatch.setattr(page, "MAX_BYTES", 10**9)
    whole = len(build(results, opener).encode())
    monkeypatch.setattr(page, "MAX_FILE", whole - 20_000)  # text and images together
    assert whole - 30_000 < len(build(results, opener).encode()) <= whole - 20_000


def test_charts_of_nothing_are_nothing():
    assert bars([], "x") == curves([("a", 0, [1.0])], "x") == scatter([("a", 0, 1.0, 2.0)], "x", "y") == ""


def test_the_command_writes_it(run_dir, capsys):
    assert main(["report", str(run_dir), "--no-images"]) == 0
    assert "report.html: written" in capsys.readouterr().out
    assert (run_dir / "report.html").stat().st_size < 15_000_000


def test_samples_of_every_engine_have_their_images(world, tmp_path, monkeypatch):
    """Also of the engines whose test set is no plain folder of classes; each is read again by the reader that was measured with."""
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data"
    for kind in ("classification", "imagenet9"):
        shutil.copytree(world / kind, data / kind)
    photos = sorted((data / "classification" / "test").rglob("*.jpg"))[:4]
    (data / "captions.csv").write_text("image,caption\n" + "".join(f"{p.relative_to(data)},a {p.parent.name}\n" for p in photos))
    for folder in ("a", "b"):
        (data / folder / "depth").mkdir(parents=True)
        for k in range(3):
            Image.new("RGB", (64, 64), (60 * k, 0, 0)).save(data / folder / f"{k}.png")
            np.save(data / folder / "depth" / f"{k}.npy", np.full((64, 64), 2.0 + k, np.float32))
    settings = [
        "imagenet9.epochs=1", "retrieval.data.annotations=captions.csv", f"retrieval.data.images={data}",
        *(f"depth.{part}.{field}={data / folder / sub}" for part, folder in (("train", "a"), ("data", "b")) for field, sub in (("images", ""), ("annotations", "depth"))),
        "depth.head=ridge", "depth.size=64",
    ]  # fmt: skip
    records = evaluate(
        ["clip-nano"], ["knn", "imagenet9", "retrieval", "depth"], data=str(data), seeds=[0], settings=settings,
        limit=6, out=tmp_path / "out", device="cpu", progress=Progress(quiet=True),
    )  # fmt: skip
    assert [(r.task, r.reason) for r in records if r.status != "done"] == []
    for r in records:
        find = images_of(r, str(data))
        assert find is not None, r.task
        for s in read_samples(tmp_path / "out", r):
            assert find(s.image_id).size[0] >= 64, (r.task, s.image_id)


def test_every_number_leads_to_its_protocol(results):
    text = build(results)
    targets = re.findall(r'<details id="([^"]+)"', text)
    assert sorted(targets) == sorted(f"r-{r.key}" for r in results.records) and len(set(targets)) == len(targets)
    linked = re.findall(r'<a href="#(r-[^"]+)">([^<]+)', text)
    assert {key for key, _ in linked} <= set(targets)
    cells = re.findall(r'<td class="n[^"]*">(.*?)</td>', text.split('id="gain"')[0].split("<h2 id=gain>")[0])
    assert cells and all(c.startswith("<a href") or c == "" for c in cells)


def test_images_of_other_data_are_not_shown(tmp_path, capsys):
    """Names alone may be those of other images: the set found must be the one measured, wherever the command is called."""
    data = tmp_path / "data" / "classification"
    for split, name in (("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")):
        (data / split / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (200, 0, 0)).save(data / split / name / "0.png")
    card = task_card("linear")
    measured = common.data_of(read_classification(card.data, str(tmp_path / "data")))
    one = record(
        "x", "linear", "top1", {}, card=card.model_dump(mode="json", exclude_none=True), data={**measured, "source": "data"},
        call={"folder": str(tmp_path)},
    )  # fmt: skip
    assert images_of(one)("a/0.png").size == (8, 8) and not capsys.readouterr().err
    Image.new("RGB", (9, 9), (0, 0, 200)).save(data / "test" / "a" / "0.png")
    assert images_of(one) is None and "holds other data than those measured; give --data DIR" in capsys.readouterr().err
    shutil.rmtree(data)
    assert images_of(one) is None and "no images of linear" in capsys.readouterr().err
    assert images_of(one, str(tmp_path / "none")) is None and f"{tmp_path / 'none'} is not there" in capsys.readouterr().err


CHECK = """<script>
const $ = (id) => document.getElementById(id), seen = {};
const set = (id, value) => { $(id).value = value; $(id).dispatchEvent(new Event("input")); return $("count").textContent; };
const task = [...$("task").options].find((o) => o.textContent === "gqa").value;
seen.all = set("task", task);
seen.differ = set("filter", "differ");
seen.mixed = [...document.querySelectorAll("#samples li")].every((li) => li.querySelector(".right") && li.querySelector(".wrong"));
seen.none = set("search", "no such words");
set("search", ""); set("filter", "all");
const link = document.querySelector('td a[href^="#r-"]'), there = $(link.hash.slice(1));
link.click(); dispatchEvent(new Event("hashchange")); seen.protocol = there.open && document.activeElement.parentElement === there; there.open = false;
$("after").focus(); seen.focus = document.activeElement.id; $("after").click();
seen.second = $("count").textContent;
seen.images = document.querySelectorAll("#samples img").length;
const open = () => document.querySelectorAll("main > details[open]").length;
dispatchEvent(new Event("beforeprint")); seen.opened = open(); dispatchEvent(new Event("afterprint")); seen.closed = open();
seen.wide = document.documentElement.scrollWidth <= innerWidth;
document.body.dataset.seen = JSON.stringify(seen);
</script></body>"""


@pytest.mark.slow
def test_in_a_real_browser(results, tmp_path):
    browser = next((b for b in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if b), None)
    if browser is None:
        pytest.skip("no browser found; install one, e.g. apt-get install chromium")
    path = tmp_path / "report.html"
    path.write_text(build(results, opener).replace("</body>", CHECK))
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--window-size=420,800",
    ]  # fmt: skip
    done = subprocess.run([browser, *flags, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=240)
    assert "CONSOLE" not in done.stderr, done.stderr
    found = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert found, done.stdout[-500:]
    seen = json.loads(found[1].replace("&quot;", '"'))
    everything = data_of(path.read_text())
    gqa = next(t for t in everything if t["title"] == "gqa")
    differ = [s for s in gqa["samples"] if len({x >= 0.5 for x in s["s"]}) > 1]
    assert seen["all"].startswith(f"{len(gqa['samples'])} of") and seen["differ"].startswith(f"{len(differ)} of")
    assert seen["mixed"] and seen["none"].startswith("0 of") and seen["focus"] == "after" and "page 2 of" in seen["second"]
    assert seen["images"] > 0 and seen["wide"]  # 420 px wide: only tables scroll, not the page
    assert seen["protocol"]
    folded = path.read_text().split('id="protocols"')[0].count("<details>")
    assert 0 < seen["opened"] == folded and seen["closed"] == 0  # on paper metrics and curves are open, protocols are not
