"""Names that others wrote, on their way out: terminal, CSV, Markdown, LaTeX, HTML, JSON."""

from __future__ import annotations

import csv
import io
import json
import sys

import pytest

from levl_eval.cli import main
from levl_eval.core.command import guard
from levl_eval.core.errors import UsageError
from levl_eval.core.messages import on_stderr
from levl_eval.core.progress import Progress
from levl_eval.core.terminal import numbers, print_rows
from levl_eval.core.text import csv_cell, html_text, json_text, latex_text, markdown_text, printable, size_text

ACTING = ["\x1b[31m", "\x1b]0;title\x07", "\x9b2J", "a\nb", "a\rb", "\x08\x08",
          "\x7f", "\u202egnp", "\u2066x", "\u200b", "\u2028x", "\ud800", "\t"]  # fmt: skip


@pytest.mark.parametrize("name", ACTING)
def test_nothing_acts_on_the_terminal(name, capsys):
    print_rows([[name, "x", name]])
    with on_stderr():
        Progress().say(f"[1/1] {name}")
    guard(lambda: (_ for _ in ()).throw(UsageError(f"{name}: no such file")), False, "levl-eval")
    print("\n".join(numbers(["a", "b", "c"], [[name, name, "1"]], None)))
    out, err = capsys.readouterr()
    for shown in (out, err):
        assert all(c == "\n" or printable(c) == c for c in shown), repr(shown)
    assert out.count("\n") == 3 and err.count("\n") == 2 and "\\" in out and "\\" in err


def test_letters_of_all_alphabets_stay_as_they_are():
    for name in ("mein Füßchen", "模型", "модель", "a\u00a0b", "naïve café 100 %", "🙂"):
        assert printable(name) == csv_cell(name) == name
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b" and printable("\U000e0001") == "\\U000e0001"


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1+cmd", "-1+cmd|x", "@SUM(A1)", "\t=1", "  =1", "＝1", "-x", "\r=1"])
def test_a_spreadsheet_computes_no_name(name):
    assert csv_cell(name).startswith("'")


@pytest.mark.parametrize("number", [
    "-4.79", "+9.3 [+0.2, +18.1]", "-0.5 0.5 -1.0", "1e-05", "-1e-05", "12", "-3.0 [-4.0, -2.0], seed sd 0.3 (3)", 3, -2.5, None,
])  # fmt: skip
def test_numbers_stay_numbers(number):
    assert csv_cell(number) == number


def test_markdown_shows_names_as_they_are():
    assert markdown_text("[l](javascript:alert(1))") == r"\[l\](javascript:alert(1))"
    assert markdown_text("a|b\nc") == r"a\|b\\nc" or markdown_text("a|b\nc") == "a\\|b\\\\nc"
    assert markdown_text("<script>") == "&lt;script&gt;" and markdown_text("`x`") == r"\`x\`"
    assert markdown_text("mean_iou @448 vit_base.augreg-2") == "mean_iou @448 vit_base.augreg-2"
    assert markdown_text("_x_ *y* # ~~z~~") == r"\_x\_ \*y\* # \~\~z\~\~" and markdown_text("# h").startswith(r"\#")
    assert markdown_text("![i](http://x/y.png)") == r"!\[i\](http://x/y.png)"


def test_latex_and_html():
    assert latex_text("a_b & 5% $x$ #1 {y} ~ ^ \\input{/etc/passwd}").startswith(r"a\_b \& 5\% \$x\$ \#1 \{y\}")
    assert latex_text("a<b>|") == r"a\textless{}b\textgreater{}\textbar{}"
    assert latex_text("[1] CLIP") == "{[}1] CLIP" and latex_text(" *: not trained out") == " {*}: not trained out"  # behind \\\\
    assert "\n" not in latex_text("x\n\\input{y}") and r"\input" not in latex_text("x\n\\input{y}")
    assert html_text('<b onload="x">\u202e') == "&lt;b onload=&quot;x&quot;&gt;\\u202e"


@pytest.mark.parametrize("name", ACTING)
def test_json_is_the_same_value_and_acts_on_nothing(name):
    text = json_text({"name": name, "é": [1, None]})
    assert json.loads(text) == {"name": name, "é": [1, None]} and "é" in text
    assert all(c == "\n" or printable(c) == c for c in text)


EVIL = "=x\x1b[31m|[l](javascript:y)<b>\\input{z}\nnext\u202e"


def test_every_form_of_the_leaderboard(tmp_path, capsys):
    """A record with such names, through each format: nothing acts, rows stay rows."""
    from levl_eval.metrics.estimate import Estimate
    from levl_eval.records import Record, Sample, write_record

    common = {"engine": "linear", "main_metric": "top1", "protocol": {}, "protocol_hash": "0" * 64, "seed": 0}
    for name, status in ((EVIL, "done"), ("other", "done"), (EVIL + "2", "failed")):
        record = Record(
            backbone={"name": name, "weights_sha256": "0" * 64, "preprocess": {}, "info": {}}, task="-" + EVIL, **common,
            data={"fingerprint": "f", "source": "scenes"}, status=status, reason=EVIL if status == "failed" else "",
        )  # fmt: skip
        if status == "done":
            record.metrics = {"top1": Estimate(value=0.5, low=0.4, high=0.6, n=2, clusters=2)}
        write_record(tmp_path, record, [Sample(id="a", image_id="a", score=1.0), Sample(id="b", image_id="b", score=0.0)])
    out = {}
    for kind in ("table", "csv", "md", "tex", "html", "json"):
        assert main(["leaderboard", str(tmp_path), "--format", kind]) == 0
        out[kind] = capsys.readouterr().out
        assert all(c == "\n" or printable(c) == c for c in out[kind]), kind
    assert main(["leaderboard", str(tmp_path), "--format", "csv", "--wide"]) == 0
    for text in (out["csv"], capsys.readouterr().out):
        rows = list(csv.reader(io.StringIO(text)))
        assert len({len(r) for r in rows}) == 1
        assert not any(c.startswith(("=", "+", "@", "-x", "-=")) for r in rows for c in r)
    assert "](javascript" not in out["md"].replace(r"\](", "") and "<b>" not in out["md"] and "<b>" not in out["html"]
    table = [line for line in out["md"].splitlines() if line.startswith("|")]
    assert len({line.replace(r"\|", "").count("|") for line in table}) == 1
    assert "\\input{" not in out["tex"] and json.loads(out["json"])
    assert main(["report", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "<b>" not in page and "\x1b" not in page and "\u202e" not in page


def test_markup_in_a_name_does_not_stop_a_progress_bar(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    progress = Progress()
    progress.terminal = True
    with progress.stage("features of [/red] [bold]x\x1b[2J", 2, "it") as bar:
        bar.advance(1, note="[/nothing]")
        assert "\x1b" not in bar.description


def test_characters_nobody_can_show_are_escaped():
    assert (
        printable("a\ud7ff\ue000b") == r"a\ud7ff\ue000b"
        and printable("caf\u00e9 \u4e2d\u6587\u00a0!") == "caf\u00e9 \u4e2d\u6587\u00a0!"
    )


def test_a_size_is_never_a_row_of_zeros():
    wanted = {0: "0 B", 7: "7 B", 31_000: "31.0 kB", 4_200_000: "4.2 MB", 2_500_000_000: "2.5 GB", 3 * 10**15: "3,000.0 TB"}
    assert {n: size_text(n) for n in wanted} == wanted
    assert size_text(123_456, 3) == "123.456 kB"
