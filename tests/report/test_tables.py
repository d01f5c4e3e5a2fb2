"""Leaderboards: stable bytes, wide forms, merging, ties, seeds, 80 columns."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from levl_eval.cli import main
from levl_eval.metrics.statistics import mean_estimate
from levl_eval.records import read_records, write_record
from levl_eval.report.latex import with_intervals as latex
from levl_eval.report.published import folder
from levl_eval.report.results import Results
from levl_eval.report.tables import COLUMNS, failures, lines, rows, show, to_csv, write_leaderboard
from levl_eval.report.wide import WIDE_COLUMNS, html_page, markdown, tables, wide_csv
from tests.report.conftest import edit_record, fill, record


@pytest.fixture(scope="module")
def results(run_dir):
    return Results.read([run_dir])


def row(results, task):
    return next(r for r in results.rows if r.task == task)


def test_the_long_table_has_documented_columns_and_stable_bytes(run_dir, results):
    first = write_leaderboard(run_dir).read_bytes()
    shuffled = Results(list(reversed(read_records(run_dir))))
    assert to_csv(rows(shuffled)).encode() == first
    frame = pd.read_csv(run_dir / "leaderboard.csv")
    assert list(frame.columns) == list(COLUMNS)
    # gqa with its floor and the gain over it, pope, ade20k, three seeds of linear, zero-shot with a failure
    assert len(frame) == 3 * 4 + 4 + 4 + 12 + 4
    assert frame.query("status == 'failed'").reason.tolist() == ["no text encoder"]
    gain = frame.query("task == 'linear' and backbone == 'good' and seed == 1").iloc[0]
    floor = frame.query("task == 'linear' and backbone == 'random' and seed == 1").iloc[0]
    assert gain.gain == pytest.approx(gain.value - floor.value, abs=2e-3) and gain.gain_low < gain.gain < gain.gain_high


def test_only_the_best_beyond_error_is_bold(results):
    assert results.best(row(results, "gqa")) == "good"
    assert results.best(row(results, "ade20k")) == "good"
    # Without it the two equal ones lead: a tie within error.
    two = Results([r for r in results.records if r.backbone["name"] != "good"])
    assert two.best(row(two, "gqa")) is None
    assert "**" in markdown(results) and "**" not in markdown(two)


def test_seeds_share_a_cell_with_their_spread_apart(results):
    linear = row(results, "linear")
    s = results.summary(linear, "good")
    values = [r.metrics["top1"].value for r in linear.cells["good"].records]
    assert s.seeds == 3 and s.estimate.value == pytest.approx(sum(values) / 3) and s.seed_sd > 0
    assert s.estimate.method.startswith("mean of 3 seeds")
    # Averaging over seeds does not count the same images three times: far wider than 120 independent ones.
    assert s.estimate.high - s.estimate.low > 0.1
    assert f"seed sd {100 * s.seed_sd:.1f} (3)" in markdown(results)


def test_the_mark_stands_behind_the_value_not_behind_the_spread_over_seeds(results, monkeypatch):
    monkeypatch.setattr("levl_eval.report.wide.late_mark", lambda *_: "*")
    linear = next(r for r in tables(results)[0].rows if r[0] == "linear")[2]
    assert any("]*, seed sd" in e.text for e in linear) and not any(e.text.endswith(")*") for e in linear)


def test_markdown_latex_html_and_csv_say_the_same(results):
    value = next(r for r in tables(results)[0].rows if r[0] == "gqa")[2][0].text
    low = value.split("[")[1].split(",")[0]
    for text in (markdown(results), latex(results), html_page(results)):
        assert low in text
    md = markdown(results).splitlines()
    head = next(line for line in md if line.startswith("| task"))
    assert {line.count("|") for line in md if line.startswith("|")} >= {head.count("|")}
    tex = latex(results)
    assert tex.count(r"\toprule") == tex.count(r"\bottomrule") == 2 and r"mean\_iou" in tex and r"\mathbf{" in tex
    body = [line for line in tex.splitlines() if line.endswith(r"\\")]
    assert {line.count("&") for line in body} == {5, 4}  # values: 2 + 4 columns; gains: 2 + 3
    wide = pd.read_csv(io.StringIO(wide_csv(results)))
    assert wide.shape == (5, 11 + 4 * len(WIDE_COLUMNS))
    assert wide.set_index("task").loc["gqa", "fair.low"] == pytest.approx(float(low), abs=0.05)
    assert wide.set_index("task").loc["gqa", "good.best"] == 1

    class Balance(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open_tags = []

        def handle_starttag(self, tag, attrs):
            if tag not in ("meta",):
                self.open_tags.append(tag)

        def handle_endtag(self, tag):
            assert self.open_tags.pop() == tag

    Balance().feed(html_page(results))


def test_names_are_escaped(tmp_path):
    fill(tmp_path, ("a_b<c>&%", "random"), ("gqa",))
    results = Results.read([tmp_path])
    assert r"a\_b\textless{}c\textgreater{}\&\%" in latex(results) and "a_b&lt;c&gt;&amp;%" in html_page(results)


def test_directories_are_merged_and_protocols_never_share_a_row(run_dir, tmp_path, capsys):
    fill(tmp_path / "b", ("newcomer",), ("gqa",))
    fill(tmp_path / "c", ("good", "random"), ("gqa",), protocol_hash="99" * 32, protocol={"name": "gqa"})
    merged = Results.read([run_dir, tmp_path / "b", tmp_path / "c"])
    gqa = [r for r in merged.rows if r.task == "gqa"]
    assert len(gqa) == 2 and {r.mark for r in gqa} == {
        "(prompt.max_new_tokens=8, prompt.template=Q)",
        "(prompt.max_new_tokens=none, prompt.template=none)",
    }
    first = next(r for r in gqa if "=Q" in r.mark)
    assert list(first.cells) == ["fair", "fair-twin", "good", "newcomer", "random"]
    assert merged.gain(first, "newcomer") is not None  # its floor lies in the other directory
    assert main(["leaderboard", str(run_dir), str(tmp_path / "b"), "--format", "md"]) == 0
    assert "newcomer" in capsys.readouterr().out


def test_the_same_work_in_two_directories_is_one_row_and_a_difference_is_said(run_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path / "copy")
    said: list[str] = []
    assert len(Results.read([run_dir, tmp_path / "copy"], said.append).records) == len(read_records(run_dir)) and not said
    path = next((tmp_path / "copy" / "records").glob("gqa--good*"))
    edit_record(path, lambda content: content["metrics"]["accuracy"].update(value=0.1))
    Results.read([run_dir, tmp_path / "copy"], said.append)
    assert len(said) == 1 and "different values; the first is shown" in said[0]


def test_two_checkpoints_of_one_name_keep_their_columns_apart(tmp_path):
    fill(tmp_path / "a", ("good",), ("gqa",))
    fill(
        tmp_path / "b",
        ("good",),
        ("gqa",),
        backbone={"name": "good", "weights_sha256": "beef" * 16, "preprocess": {}, "info": {}},
    )
    assert set(Results.read([tmp_path / "a", tmp_path / "b"]).backbones) == {"good@676f6f64", "good@beefbeef"}


def test_a_done_record_goes_before_a_failed_one(run_dir, tmp_path):
    fill(tmp_path, ("good",), ("gqa",), status="failed", reason="disk full")
    for order in ([run_dir, tmp_path], [tmp_path, run_dir]):
        assert Results.read(order).rows[0].cells["good"].records


def test_failures_name_their_seeds_and_a_reason_once(tmp_path):
    """Each seed's was a line of the same words."""
    for seed, reason in enumerate(["disk full", "no text encoder", "no text encoder", ""]):
        status = "failed" if reason else "done"
        metrics = {} if reason else {"top1": mean_estimate(np.array([0.0, 1.0]))}
        write_record(tmp_path, record("good", "linear", "top1", metrics, seed=seed, status=status, reason=reason))
    write_record(tmp_path, record("fair", "linear", "top1", {}, status="failed", reason="disk full"))
    results = Results.read([tmp_path])
    assert sorted(failures(results, results.records)) == [
        "failed: fair on linear: disk full",
        "failed: good on linear, seed 0: disk full",
        "failed: good on linear, seeds 1, 2: no text encoder",
    ]


def test_the_terminal_table_is_plain_in_a_pipe_and_fits_80_columns(results, run_dir, capsys, monkeypatch):
    table = [line for line, _ in lines(results, 80)]
    assert max(map(len, table)) <= 80
    assert next(b for line, b in lines(results, 80) if "good" in line) is True
    assert main(["leaderboard", str(run_dir)]) == 0
    out = capsys.readouterr().out
    assert (
        "\x1b" not in out
        and "failed: random on zeroshot: no text encoder" in out
        and "gqa: text-only floor 33.0 [30.0, 36.0]" in out
    )
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setenv("COLUMNS", "80")
    show(results, terminal)
    assert max(len(re.sub(r"\x1b\[\d+m", "", line)) for line in terminal.getvalue().splitlines()) <= 80
    long = Results([r.model_copy(update={"backbone": {**r.backbone, "name": "x" * 90}}) for r in results.records[:1]])
    assert all(len(line) <= 80 for line, _ in lines(long, 80))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "md", "tex", "html", "json", "table"])
def test_every_format_goes_to_the_terminal_or_a_file(run_dir, tmp_path, capsys, kind):
    assert main(["leaderboard", str(run_dir), "--format", kind]) == 0
    out = capsys.readouterr().out
    assert "good" in out
    assert main(["leaderboard", str(run_dir), "--format", kind, "--out", str(tmp_path / "t")]) == 0
    if kind != "table":
        assert (tmp_path / "t").read_text() == out
    if kind == "json":
        found = json.loads(out)
        assert found[0]["cells"]["good"]["gain"] if found[0]["task"] == "gqa" else found
    if kind == "csv":
        assert list(csv.DictReader(io.StringIO(out)))


def test_wrong_use_is_told(run_dir, tmp_path, capsys):
    for words in (
        ["leaderboard", str(tmp_path)],
        ["leaderboard", str(run_dir), "--wide"],
        ["leaderboard", str(run_dir), "--format", "xls"],
    ):
        assert main(words) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_pandas_reads_every_file_in_one_line(run_dir):
    one = next(p for p in sorted((run_dir / "samples").iterdir()) if p.name.startswith("gqa"))
    samples = pd.read_json(one, lines=True)
    assert len(samples) == 240 and {"id", "image_id", "prediction", "target", "score"} <= set(samples.columns)
    record = pd.read_json(run_dir / "records" / f"{one.stem}.json", typ="series")
    assert record["task"] == "gqa" and record["metrics"]["accuracy"]["value"] == pytest.approx(samples["score"].mean())
    for file in sorted(folder().glob("*.csv")):
        assert len(pd.read_csv(file)) > 3


def test_columns_keep_their_places():
    """Whoever reads the long table by position may go on doing so: new columns stand at the end (docs/results.md)."""
    first = (
        "task metric main backbone seed value stderr low high n clusters method gain gain_low gain_high chance llm "
        "status reason limit image_size resize interpolation mean std protocol_hash data_fingerprint weights_sha256 "
        "source published_set split images train_fingerprint validation_fingerprint reference better device "
        "identity_hash comparison_hash date "
    ).split()
    assert list(COLUMNS)[: len(first)] == first
