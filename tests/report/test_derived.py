"""What is kept beside records spares reading samples, and is never believed against them."""

from __future__ import annotations

import json
import os
import time

import pytest

from levl_eval.cli import main
from levl_eval.core.errors import UsageError
from levl_eval.core.kept import read_json, write_json
from levl_eval.records import Sample, read_record
from levl_eval.records.samples import read_lines
from levl_eval.records.scores import read_scores, scores_path
from levl_eval.report import derived
from levl_eval.report.reading import read_directory
from levl_eval.report.serve import Live
from tests.report.conftest import fill
from tests.report.test_joins import RANDOM, job

TABLES = [
    ["leaderboard", "{}", "--format", "csv"],
    ["leaderboard", "{}", "--format", "json"],
    ["leaderboard", "{}", "--format", "csv", "--wide"],
]
COMPARE = ["compare", "good", "fair", "--in", "{}", "--json"]


@pytest.fixture
def run(tmp_path):
    """Three backbones on five kinds of task, written long enough ago that their files are remembered."""
    fill(tmp_path, ("good", "fair", "random"), seeds=(0, 1))
    age(tmp_path)
    return tmp_path


def age(out):
    time.sleep(0.06)  # of the clock of files


def printed(out, capsys, commands=(*TABLES, COMPARE)):
    texts = []
    for words in commands:
        assert main([w.format(out) for w in words]) == 0
        texts.append(capsys.readouterr().out)
    return texts


def forget(out):
    for path in sorted((out / "derived").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()


def lines_read(monkeypatch):
    """Counts samples that are parsed."""
    count, parse = [0], Sample.model_validate_json

    def counted(*words, **options):
        count[0] += 1
        return parse(*words, **options)

    monkeypatch.setattr(Sample, "model_validate_json", counted)
    return count


def test_tables_parse_no_sample_and_comparisons_only_those_they_show(run, capsys, monkeypatch):
    """Before, every table and every comparison parsed all samples of its records."""
    count = lines_read(monkeypatch)
    first = printed(run, capsys, TABLES)
    assert count == [0] and (run / "derived" / "pairs.json").is_file()
    printed(run, capsys, [[*COMPARE, "--differ", "2"]])
    assert count == [4 * 2 * 2]  # tasks (of the segmentation every score is 0.5), sides, samples
    monkeypatch.setattr(derived.Derived, "_read_scores", lambda *_: pytest.fail("kept differences were not used"))
    assert printed(run, capsys, TABLES) == first


def test_what_is_missing_is_made_again_with_the_same_values(run, capsys, monkeypatch):
    first = printed(run, capsys)
    forget(run)
    count = lines_read(monkeypatch)
    assert printed(run, capsys) == first and count[0] > 1000
    assert len(list((run / "derived" / "scores").iterdir())) == len(list((run / "samples").iterdir()))


@pytest.mark.parametrize("way", ["cut", "emptied", "flipped", "another's"])
def test_damage_of_what_is_kept_moves_no_number(run, capsys, way):
    first = printed(run, capsys)
    files = sorted(p for p in (run / "derived").rglob("*") if p.suffix in (".npz", ".json"))
    for path in files:
        raw = bytearray(path.read_bytes())
        if way == "flipped":
            raw[len(raw) // 2] ^= 4
        others = [p for p in files if p != path and p.suffix == path.suffix]
        path.write_bytes({"cut": raw[: len(raw) // 2], "emptied": b"", "flipped": raw, "another's": others[0].read_bytes()}[way])
    assert printed(run, capsys) == first


def test_records_that_were_computed_again_have_their_own_differences(tmp_path, capsys):
    """Equal identities, so equal names of files: what was kept is of the old samples."""
    job(tmp_path, "m", skill=0.9), job(tmp_path, "rnd", skill=0.3, info=RANDOM)
    age(tmp_path)
    old = printed(tmp_path, capsys, TABLES)
    kept = scores_path(tmp_path, job(tmp_path, "m", skill=0.5).key)
    assert kept.is_file()
    new = printed(tmp_path, capsys, TABLES)
    assert new != old
    forget(tmp_path)
    assert printed(tmp_path, capsys, TABLES) == new


def test_a_flipped_bit_is_noticed_although_the_file_was_remembered(run, capsys):
    """Of equal size, with its modification time set back."""
    printed(run, capsys)
    path = next((run / "samples").glob("gqa--good*"))
    before = path.stat()
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b'"score": 1.0', b'"score": 0.0', 1))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert main(["leaderboard", str(run)]) == 1 and "not the samples its record was written with" in capsys.readouterr().err


def test_check_reads_every_byte_whatever_is_remembered(run, capsys, monkeypatch):
    printed(run, capsys)
    path = next((run / "samples").glob("gqa--good*"))
    kept = json.loads((run / "derived" / "samples.json").read_text())["value"]
    assert set(kept) == {p.name for p in (run / "samples").iterdir()}
    monkeypatch.setattr(derived, "stat_mark", lambda s: kept[path.name][0].encode())  # a disk that turns a bit moves no time
    path.write_bytes(path.read_bytes().replace(b'"score": 1.0', b'"score": 0.0', 1))
    assert main(["check", str(run)]) == 1 and "checksum" in capsys.readouterr().out


def test_a_linked_record_belongs_to_the_run_it_leads_to(tmp_path):
    job(tmp_path / "one", "m", skill=0.9), job(tmp_path / "other", "rnd", skill=0.3, info=RANDOM)
    (record,) = (tmp_path / "other" / "records").glob("*.json")
    (tmp_path / "one" / "records" / record.name).symlink_to(record)
    both = read_directory(tmp_path / "one")
    assert not both.damaged and {r.home.name for r in both.records} == {"one", "other"}
    (tmp_path / "link").symlink_to(tmp_path / "one")
    assert {r.home for r in read_directory(tmp_path / "link").records} == {r.home for r in both.records}


def test_serving_writes_nothing(run):
    before = sorted(run.rglob("*"))
    assert Live([run]).csv() and sorted(run.rglob("*")) == before


def test_kept_scores_are_those_of_the_samples(run):
    for path in (run / "records").iterdir():
        record = read_record(path)
        if record.status != "done":
            continue
        scores = read_scores(scores_path(run, record.key), record.samples.sha256)
        samples = list(read_lines(run / "samples" / f"{record.key}.jsonl", record.samples))
        assert scores.items.ids == tuple(s.id for s in samples) and scores.items.images == tuple(s.image_id for s in samples)
        assert scores.score.tolist() == [s.score for s in samples] and scores.ok.all()
        assert list(derived.samples_of(record, scores, [3, 1])) == [samples[3], samples[1]]


def test_a_comparison_of_two_forgets_no_difference_of_the_others(run, capsys):
    """Of 2,000 records a comparison once threw away what the tables had kept: a file's entries beyond 2,000 went."""
    printed(run, capsys, TABLES)
    path, key = run / "derived" / "pairs.json", f"pairs {derived.code_digest()}"
    kept = read_json(path, key) | {f"of another record {k}": {"value": 0.5} for k in range(5000)}
    write_json(path, key, kept)
    printed(run, capsys, [[*COMPARE, "--tasks", "gqa"]])
    after = read_json(path, key)
    assert kept.items() <= after.items() and len(after) > len(kept)


def test_the_tables_of_one_object_are_of_the_samples_as_they_were_at_first(run):
    """A report reads each record's scores for several tables: they are held, and a file that changes meanwhile moves none of them."""
    record = next(r for r in map(read_record, sorted((run / "records").iterdir())) if r.status == "done")
    held = derived.Derived(writes=False)
    first = held.scores(record)
    samples = run / "samples" / f"{record.key}.jsonl"
    samples.unlink()
    assert held.scores(record) is first
    with pytest.raises(UsageError, match="samples are missing"):
        derived.Derived(writes=False).scores(record)
