"""report.html: self-contained, safe, small; and in a real headless Chromium: no console errors, filters work."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

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
from levl_eval.metrics.estimate import Estimate
from levl_eval.records import read_samples
from levl_eval.report import html as page
from levl_eval.report.html import build, write_report
from levl_eval.report.protocols import of_row, shared
from levl_eval.report.results import Results
from levl_eval.report.svg import bars, curves, scatter
from levl_eval.runner.evaluate import evaluate
from tests.report.conftest import fill, record
from tests.report.test_joins import job


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
    assert text.count("<svg") >= 2 and "gain over random in points" in text and "Data of the numbers" in text
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
    assert (
        bars([], "x")
        == curves([("a", 0, [1.0])], "x")
        == scatter([("a", 0, Estimate(value=1), Estimate(value=2))], "x", "y")
        == ""
    )


def test_the_command_writes_it(run_dir, capsys):
    assert main(["report", str(run_dir), "--no-images"]) == 0
    assert "report.html: written" in capsys.readouterr().out
    assert (run_dir / "report.html").stat().st_size < 15_000_000


@pytest.mark.slow
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
        *(f"depth.{part}.{field}={data / folder / sub}" for part, folder in (("train", "a"), ("data", "b"))
          for field, sub in (("images", ""), ("annotations", "depth"))),
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
    targets = re.findall(r'<details id="(r-[^"]+)"', text)
    assert sorted(targets) == sorted(f"r-{r.key}" for r in results.records) and len(set(targets)) == len(targets)
    linked = re.findall(r'<a href="#(r-[^"]+)">([^<]+)', text)
    assert {key for key, _ in linked} <= set(targets)
    cells = re.findall(r'<td class="n[^"]*"[^>]*>(.*?)</td>', text.split('id="gain"')[0])
    assert len(cells) == 5 * 4 + 4 * 3  # values of four backbones, gains of three
    assert cells and all(c.startswith("<a href") or c == "" for c in cells)


def test_a_sample_and_a_number_lead_to_their_files(results, run_dir):
    text = write_report(run_dir, results).read_text()
    linked = set(re.findall(r'href="([^"#][^"]*\.jsonl?)"', text))
    assert linked == {f"{kind}/{r.key}.{end}" for r in results.records
                      for kind, end in page.KINDS.items() if (run_dir / kind / f"{r.key}.{end}").is_file()}  # fmt: skip
    gqa = next(t for t in data_of(text) if t["title"] == "gqa")
    assert set(gqa["files"]) < linked
    for file, lines in zip(gqa["files"], zip(*(s["l"] for s in gqa["samples"]), strict=True), strict=True):
        there = (run_dir / file).read_text().splitlines()
        assert [json.loads(there[k - 1])["id"] for k in lines] == [s["id"] for s in gqa["samples"]]
    assert not any(any(t["files"]) for t in data_of(build(results)))  # a page for elsewhere links to nothing beside it


def test_the_head_says_what_when_how_and_on_what(tmp_path):
    made = {"date": "2026-11-30T05:02:28+00:00", "command": ["/usr/bin/levl-eval", "run", "--tasks", "a b"], "device_name": "Some <CPU>",
            "packages": {"levl-eval": "0.1.0", "torch": "2.13.0"}, "git": {"revision": "ab" * 20, "dirty": True}}  # fmt: skip
    fill(tmp_path, ("good", "random"), ("gqa", "linear"), device="cpu", precision={"encoder": "float32"}, environment=made)
    head = build(Results.read([tmp_path])).split("</header>")[0]
    for part in ("2 frozen encoders on 2 tasks", "random (random weights)", "2026-11-30",
                 "/usr/bin/levl-eval run --tasks &#39;a b&#39;", "cpu (Some &lt;CPU&gt;) float32",
                 "levl-eval 0.1.0, torch 2.13.0", "with uncommitted changes"):  # fmt: skip
        assert part in head, part


def test_the_panel_behind_a_number_tells_floors_gain_and_training(results):
    text = build(results)
    panel = next(p for p in text.split("<details")[1:] if "good on gqa, seed 0</summary>" in p)
    for part in ("floor text only 33.0 [30.0, 36.0]", "gain over random",
                 "connector loss 2 at the start, 0.8 at the end (-11.1% over the last tenth", "test fingerprint",
                 "good.jsonl" if "good.jsonl" in panel else "weights"):  # fmt: skip
        assert part in panel, part
    linear = next(p for p in text.split("<details")[1:] if "good on linear, seed 1</summary>" in p)
    assert "mean of 3 seeds" in linear and "mean of" not in panel  # the number that led here is not one seed's
    failed = next(p for p in text.split("<details")[1:] if "random on zeroshot, seed 0</summary>" in p)
    assert "no text encoder" in failed and "gain over" not in failed
    assert "nothing is trained" in next(p for p in text.split("<details")[1:] if "good on pope, seed 0</summary>" in p)


@pytest.mark.parametrize(
    ("note", "told"),
    [
        ({"rule": "a rule", "value": 0.4, "converged": False}, "NOT converged (value 0.4; rule: a rule)"),
        ({"rule": "a rule", "value": None, "converged": False}, "NOT converged (rule: a rule)"),
        ({"rule": "solved", "value": 0.0, "converged": True}, "converged (value 0; rule: solved)"),
        (True, "converged"), (False, "NOT converged"),
    ],
)  # fmt: skip
def test_the_panel_says_whether_training_had_converged(tmp_path, note, told):
    """Kills: a mapping that says no, taken for yes as it is not empty."""
    fill(tmp_path, ("good",), ("linear",), seeds=(0,), notes={"converged": note})
    assert f"<dt>training</dt><dd>{told}</dd>" in build(Results.read([tmp_path]))


def test_protocols_are_tables_with_the_differences_marked(tmp_path):
    fill(tmp_path, ("good",), ("gqa",))
    fill(
        tmp_path, ("good",), ("pope",), protocol={"name": "pope", "prompt": {"template": "Q", "max_new_tokens": 4}, "extra": None}
    )
    results = Results.read([tmp_path])
    found = {f.name: f for f in shared(results.rows)}
    assert {n: f.differs for n, f in found.items()} == {"prompt.max_new_tokens": True, "prompt.template": False}
    assert found["prompt.max_new_tokens"].values == ["8", "4"] and next(iter(found)) == "prompt.max_new_tokens"
    own = {f.name: f for f in of_row(results.rows[1], results.rows)}
    assert (
        own["prompt.max_new_tokens"].others == [("gqa", "8")]
        and not own["prompt.template"].others
        and own["extra"].value == "none"
    )
    text = build(results)
    assert "1 of 2 fields that several tasks have" in text and text.count('class="differs"') == 3 and "gqa: 8" in text
    assert "<pre>" not in text  # no raw JSON


def test_dense_panels_name_backbones_and_classes(tmp_path):
    fill(tmp_path, ("good", "random"), ("ade20k",))
    results = Results.read([tmp_path])
    for r in results.records:
        folder = tmp_path / "work" / r.key
        folder.mkdir(parents=True)
        Image.new("RGB", (204, 20)).save(folder / "truth.png")
        Image.new("RGB", (304, 20)).save(folder / "dense.png")
    assert "legend" not in build(results).split('id="dense"')[1].split('id="browse"')[0]  # a run of before has none
    for r, legend in zip(
        results.records, ([["sky", "#0000ff"], ["x", "red;}"]], [["<b>grass", "#00ff00"], ["sky", "#0000ff"]]), strict=True
    ):
        (tmp_path / "work" / r.key / "legend.json").write_text(json.dumps(legend))
    dense = build(results).split('id="dense"')[1].split('id="browse"')[0]
    assert re.findall(r"<figcaption>(.*?)</figcaption><img", dense) == ["the data", "good", "random"]  # above their images
    assert "grid-template-columns:204fr 304fr 304fr" in dense
    swatches = re.findall(r'<li><span style="background:([^"]*)"></span>(.*?)</li>', dense)
    assert {n: c for c, n in swatches} == {"sky": "#0000ff", "&lt;b&gt;grass": "#00ff00"}


def test_every_section_has_the_backbones_in_one_order(results):
    text = build(results)
    order = results.backbones
    for row in results.rows:
        panels = re.findall(rf"<summary>(\S+) on {row.task}, seed", text)
        assert list(dict.fromkeys(panels)) == [n for n in order if n in row.cells]
    heads = [re.findall(r'<th scope="col" class="n">(?:<a[^>]*>)?([^<]+)', part) for part in text.split("<table")[1:]]
    assert all(h == [n for n in order if n in h] for h in heads) and any(h == order for h in heads)
    assert all(t["backbones"] == [n for n in order if n in t["backbones"]] for t in data_of(text))


def test_markup_in_any_text_stays_text(tmp_path):
    bad = "<b>&\"'</script>\x1b"
    fill(tmp_path, (bad, "random"), ("gqa", "linear"), reason=bad, environment={"command": [bad], "device_name": bad, "date": bad},
         protocol={"name": "x", bad: bad}, notes={bad: bad, "y_loss": [2.0, 1.0]})  # fmt: skip
    text = build(Results.read([tmp_path]))
    assert "<b>" not in text and "\x1b" not in text and text.count("</script>") == 2


def test_the_wheel_holds_the_templates():
    from hatchling.builders.wheel import WheelBuilder

    root = Path(__file__).resolve().parents[2]
    shipped = {f.distribution_path for f in WheelBuilder(str(root)).recurse_included_files()}
    assert {f"levl_eval/report/{p.relative_to(root / 'levl_eval' / 'report')}"
            for p in (root / "levl_eval" / "report").rglob("*.*") if p.suffix in (".j2", ".css", ".js")} <= shipped  # fmt: skip
    assert any(name.endswith("report.html.j2") for name in shipped)


def test_no_markup_is_written_in_python():
    """Kills: a tag in an f-string, which nothing escapes."""
    root = Path(page.__file__).parent
    for file in root.glob("*.py"):
        assert not re.search(
            r"""["']\s*</?(a|b|d[dtl]|div|h\d|html|li|nav|p|rect|script|section|span|svg|t[dhr]|table|text|ul)\b""",
            file.read_text(),
        ), file


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
seen.mixed = [...document.querySelectorAll("#samples .question")].every((q) => q.querySelector(".right") && q.querySelector(".wrong"));
seen.none = set("search", "no such words");
set("search", ""); set("filter", "all");
seen.meaning = $("meaning").textContent;
seen.grouped = [...document.querySelectorAll("#samples > li")].map((li) => li.querySelectorAll(".question").length);
const link = document.querySelector('td a[href^="#r-"]'), there = $(link.hash.slice(1));
link.click(); dispatchEvent(new Event("hashchange")); seen.protocol = there.open && document.activeElement.parentElement === there;
seen.table = there.nextElementSibling.matches(".protocol[open]"); there.open = false;
$("after").focus(); seen.focus = document.activeElement.id; $("after").click();
seen.second = $("count").textContent;
seen.images = document.querySelectorAll("#samples img").length;
const open = () => document.querySelectorAll("main > details[open]").length;
dispatchEvent(new Event("beforeprint")); seen.opened = open(); dispatchEvent(new Event("afterprint")); seen.closed = open();
seen.wide = document.documentElement.scrollWidth <= innerWidth;
const wide = document.querySelector("table.wide"), heads = () => [...wide.tHead.rows[0].cells].slice(2).map((c) => c.textContent);
const rows = () => [...wide.tBodies[0].rows].filter((r) => !r.hidden).map((r) => r.cells[0].textContent);
const first = [heads(), rows()];
wide.tHead.rows[0].cells[heads().indexOf("good") + 2].querySelector("button").click();
seen.rows = rows(); seen.sorted = wide.querySelector("[aria-sort]").getAttribute("aria-sort");
[...wide.tBodies[0].rows].find((r) => r.cells[0].textContent === "gqa").querySelector("th button").click();
seen.heads = heads();
const choose = (id, value) => { $(id).value = value; $(id).dispatchEvent(new Event("input")); };
choose("rows", "GQ"); choose("columns", "fair");
seen.chosen = [rows(), [...wide.tHead.rows[0].cells].filter((c) => !c.hidden).map((c) => c.textContent), $("shown").textContent];
$("reset").click();
seen.reset = JSON.stringify([heads(), rows()]) === JSON.stringify(first) && !wide.querySelector("[aria-sort], [hidden]");
document.body.dataset.seen = JSON.stringify(seen);
</script></body>"""


def in_browser(tmp_path, page, width, wait_ms=0):
    """The page as a browser has made it, and what its script has written to data-seen.

    wait_ms: of the page's own time, for what comes later.
    """
    browser = next((b for b in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if b), None)
    if browser is None:
        pytest.skip("no browser found; install one, e.g. apt-get install chromium")
    path = tmp_path / "report.html"
    path.write_text(page)
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr",
        f"--window-size={width},800", *([f"--virtual-time-budget={wait_ms}"] if wait_ms else []),
    ]  # fmt: skip
    done = subprocess.run([browser, *flags, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=240)
    assert "CONSOLE" not in done.stderr, done.stderr
    found = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert found, done.stdout[-500:]
    return json.loads(found[1].replace("&quot;", '"').replace("&amp;", "&"))


MANY = """<script>
const $ = (id) => document.getElementById(id), seen = {};
const wide = document.querySelector("table.wide"), heads = () => [...wide.tHead.rows[0].cells].slice(2)
  .filter((c) => !c.hidden).map((c) => c.textContent);
const shown = () => [...document.querySelectorAll("details.panel")].filter((d) => !d.hidden).length;
seen.first = heads(); $("columnsafter").click(); seen.second = heads(); seen.told = $("shown").textContent;
$("columns").value = "e1"; $("columns").dispatchEvent(new Event("input")); seen.chosen = heads(); $("reset").click(); seen.reset = heads();
seen.panels = [shown(), $("panelcount").textContent]; $("panelsafter").click(); seen.rest = shown();
seen.averages = [...document.querySelectorAll("table.wide")].at(-1).tBodies[0].rows[0].offsetHeight > 0;
location.hash = wide.querySelector('td:not([hidden]) a').hash; dispatchEvent(new Event("hashchange"));
seen.revealed = $(location.hash.slice(1)).offsetHeight > 0;
seen.answers = document.querySelector("#samples dl").querySelectorAll("dt").length;
$("answerers").value = "e11"; $("answerers").dispatchEvent(new Event("input"));
seen.asked = [...document.querySelector("#samples dl").querySelectorAll("dt")].map((e) => e.textContent);
document.body.dataset.seen = JSON.stringify(seen);
</script></body>"""


@pytest.mark.slow
def test_many_records_stand_on_pages(tmp_path):
    """Forty-two records of fourteen backbones: six columns and forty panels at a time, filters choose among all."""
    names = [f"e{k:02}" for k in range(14)]
    for name in names:
        for seed in range(3):
            job(tmp_path, name, seed=seed, n=12)
    page = build(Results.read([tmp_path]))
    average = (
        '<table class="wide"><thead><tr><th>average</th><th>tasks</th><th>e00</th></tr></thead>'
        "<tbody><tr><th>VLM</th><td>gqa</td><td>1</td></tr></tbody></table>"
    )
    page = page.replace("</table>", f"</table>{average}", 1)
    seen = in_browser(tmp_path, page.replace("</body>", MANY), 1280)
    assert seen["averages"]  # which is no task, and so on no page of its own
    assert seen["first"] == names[:6] == seen["reset"] and seen["second"] == names[6:12]
    assert seen["told"] == "1 of 1 tasks, backbones 7 to 12 of 14" and seen["chosen"] == names[10:]
    assert seen["panels"] == [40, "42 of 42 records, page 1 of 2"] and seen["rest"] == 2 and seen["revealed"]
    assert seen["answers"] == 10 and seen["asked"] == ["e11"]


@pytest.mark.slow
def test_in_a_real_browser(results, tmp_path):
    page = build(results, opener)
    seen = in_browser(tmp_path, page.replace("</body>", CHECK), 420)
    everything = data_of(page)
    gqa = next(t for t in everything if t["title"] == "gqa")
    differ = [s for s in gqa["samples"] if len({x >= 0.5 for x in s["s"]}) > 1]
    assert seen["all"].startswith(f"{len(gqa['samples'])} of") and seen["differ"].startswith(f"{len(differ)} of")
    assert seen["mixed"] and seen["none"].startswith("0 of") and seen["focus"] == "after" and "page 2 of" in seen["second"]
    assert seen["images"] > 0 and seen["wide"]  # 420 px wide: only tables scroll, not the page
    assert seen["protocol"] and seen["table"]  # the panel of the number, and below it the table of its protocol
    assert seen["grouped"] == [6] * 12 and "its accuracy is at least 0.5" in seen["meaning"]
    values = {r.title: r for r in results.rows}
    of_good = {t: -results.summary(r, "good").estimate.value for t, r in values.items()}
    of_gqa = {n: -results.summary(values["gqa"], n).estimate.value for n in results.backbones}
    assert seen["rows"] == sorted(of_good, key=of_good.get) and seen["sorted"] == "descending"
    assert seen["heads"] == sorted(of_gqa, key=of_gqa.get)
    assert seen["chosen"][0] == ["gqa"] and seen["chosen"][2] == "1 of 5 tasks"
    assert seen["chosen"][1][:2] == ["task", "metric"] and set(seen["chosen"][1][2:]) == {"fair", "fair-twin"}
    assert seen["reset"]
    folded = page.split('id="protocols"')[0].count("<details>")
    assert 0 < seen["opened"] == folded and seen["closed"] == 0  # on paper metrics and curves are open, protocols are not


AXE = """<script>
for (const d of document.querySelectorAll("details")) d.open = true;
axe.run(document, {resultTypes: ["violations"]}).then((found) => {
  document.body.dataset.seen = JSON.stringify(found.violations.map((v) => [v.impact, v.id, v.nodes.length, v.nodes[0].html.slice(0, 120)]));
});
</script></body>"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400])
def test_axe_finds_nothing_serious(results, tmp_path, width):
    """axe-core's rules for keyboards and screen readers, on the page with everything unfolded. .ci/run fetches it from the npm registry."""
    rules = Path(os.environ.get("LEVL_AXE", ""))
    if not rules.is_file():
        pytest.skip("LEVL_AXE names no axe.min.js; `npm pack axe-core` brings one")
    script = rules.read_text(encoding="utf-8").replace("</script", "<\\/script")
    page = build(results, opener).replace("</body>", f"<script>{script}</script>{AXE}")
    found = in_browser(tmp_path, page, width, wait_ms=60_000)
    assert [v for v in found if v[0] in ("serious", "critical")] == []
