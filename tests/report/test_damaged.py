"""Damaged files are left out of every table with a line on each, instead of gains that vanish or are +0.0 [+0.0, +0.0]."""

from __future__ import annotations

import json

import pytest

from levl_eval import UsageError
from levl_eval.cli import main
from levl_eval.records import read_records
from levl_eval.report.results import Results
from tests.report.test_joins import RANDOM, job


@pytest.fixture
def run(tmp_path):
    """A backbone and its random twin, which the damage befalls."""
    job(tmp_path, "m", skill=0.9), job(tmp_path, "rnd", skill=0.3, info=RANDOM)
    return tmp_path, next((tmp_path / "records").glob("*rnd*")), next((tmp_path / "samples").glob("*rnd*"))


def cut(record, samples):
    samples.write_bytes(b"".join(samples.read_bytes().splitlines(True)[:4]))


def emptied(record, samples):
    samples.write_bytes(b"")


def flipped(record, samples):
    raw = bytearray(samples.read_bytes())
    raw[raw.index(b'"score": ') + 9] ^= 1  # 0.0 becomes 1.0, or 1.0 0.0
    samples.write_bytes(bytes(raw))


def gone(record, samples):
    samples.unlink()


def digit(record, samples):
    text = record.read_text()
    at = text.index('"value": 0.') + 11
    record.write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :])


def schema_99(record, samples):
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "schema": "levl-eval/record/99"}))


def no_schema(record, samples):
    content = json.loads(record.read_text())
    del content["schema"]
    record.write_text(json.dumps(content))


def half(record, samples):
    record.write_text(record.read_text()[: record.stat().st_size // 2])


WAYS = [
    (cut, "4 samples, its record says 60; damaged"), (emptied, "0 samples, its record says 60; damaged"),
    (flipped, "not the samples its record was written with (checksum)"), (gone, "samples are missing"),
    (digit, "is not as it was written (checksum)"), (schema_99, "'levl-eval/record/99' is not known here"),
    (half, "not a levl-eval record"), (no_schema, "is missing); delete it and run again"),
]  # fmt: skip


@pytest.mark.parametrize("damage, told", WAYS, ids=lambda x: getattr(x, "__name__", ""))
def test_it_is_left_out_and_told_in_every_format(run, capsys, damage, told):
    out, record, samples = run
    damage(record, samples)
    for kind in ("table", "csv", "md", "tex", "html", "json"):
        assert main(["leaderboard", str(out), "--format", kind]) == 1
        text, err = capsys.readouterr()
        assert err.count("\n") == 1 and err.startswith("left out: ") and told in err
        assert "rnd" not in json.dumps([r["backbone"] for r in _rows(text)] if kind == "csv" else []) and "+0.0" not in text
        if kind in ("table", "md"):
            assert told in " ".join(text.split())
    assert main(["report", str(out), "--no-images"]) == 1
    assert "left out: " in (out / "report.html").read_text() and capsys.readouterr().err.count("\n") == 1
    results = Results.read([out])
    assert results.backbones == ["m"] and results.gain(results.rows[0], "m") is None and told in results.damaged[0]
    assert main(["compare", "m", "rnd", "--in", str(out)]) == 2
    assert "compare: left out: " in capsys.readouterr().err


def _rows(text):
    import csv
    import io

    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("damage, told", WAYS, ids=lambda x: getattr(x, "__name__", ""))
def test_where_nothing_is_whole_it_is_one_line(tmp_path, capsys, damage, told):
    job(tmp_path, "rnd", info=RANDOM)
    damage(next((tmp_path / "records").iterdir()), next((tmp_path / "samples").iterdir()))
    assert main(["leaderboard", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert told in err and err.count("\n") == 1


def test_samples_of_schema_1_that_are_fewer_than_the_metric_says_are_told(tmp_path):
    """Those records do not say what their samples were."""
    job(tmp_path, "m", skill=0.9), job(tmp_path, "rnd", skill=0.3, info=RANDOM)
    for path in (tmp_path / "records").iterdir():
        content = json.loads(path.read_text())
        for new in (
            "samples",
            "checksum",
            "identity_hash",
            "card_protocol",
            "versions",
            "resolved",
            "precision",
            "language_model",
            "device",
        ):
            content.pop(new, None)
        path.write_text(json.dumps({**content, "schema": "levl-eval/record/1"}))
    results = Results.read([tmp_path])
    assert results.gain(results.rows[0], "m") is not None and not results.notes()
    samples = next((tmp_path / "samples").glob("*rnd*"))
    samples.write_bytes(b"".join(samples.read_bytes().splitlines(True)[:4]))
    results = Results.read([tmp_path])
    assert results.gain(results.rows[0], "m") is None
    assert any("4 scored samples, top1 is of 60; damaged" in n for n in results.notes())
    with pytest.raises(UsageError, match="damaged"):
        results.scores(next(r for r in read_records(tmp_path) if r.backbone["name"] == "rnd"))


def test_facts_of_another_kind_are_left_out(tmp_path, capsys):
    """Of a record of the first schema, which has no checksum, anybody may have written what is only shown."""
    content = {
        "schema": "levl-eval/record/1", "task": "t", "engine": "linear", "main_metric": "top1", "protocol": {}, "protocol_hash": "0" * 64,
        "backbone": {"name": "x", "weights_sha256": "0" * 64, "info": ["a"], "preprocess": "none"}, "seed": 0,
        "data": {"counts": [1], "train": {"a": 1}}, "environment": {"command": 3, "packages": [1], "git": "x"},
        "metrics": {"top1": {"value": 0.5}}, "notes": {"train_loss": "falls", "lmms": ["x"]},
    }  # fmt: skip
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "r.json").write_text(json.dumps(content))
    assert main(["leaderboard", str(tmp_path)]) == 0 and "50.0" in capsys.readouterr().out
    assert main(["leaderboard", str(tmp_path), "--format", "csv"]) == 0
    assert main(["report", str(tmp_path)]) == 0 and (tmp_path / "report.html").is_file()
