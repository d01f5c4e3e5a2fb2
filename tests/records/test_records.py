"""Records and files: atomic, complete, readable or told."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from levl_eval.core.errors import UsageError
from levl_eval.core.files import atomic_path, atomic_write
from levl_eval.metrics.estimate import Estimate
from levl_eval.records import Record, Sample, read_record, read_records, read_samples, write_record
from levl_eval.records.record import home_of
from levl_eval.records.schema import SCHEMA


def make(**changes) -> Record:
    fields = {
        "backbone": {"name": "b/one", "weights_sha256": "ab" * 32, "preprocess": {}, "info": {}},
        "task": "gqa",
        "engine": "vqa",
        "main_metric": "accuracy",
        "protocol": {"a": 1},
        "protocol_hash": "cd" * 32,
        "data": {"fingerprint": "f"},
        "seed": 0,
        "metrics": {"accuracy": Estimate(value=0.5, low=0.4, high=0.6, n=4, clusters=2)},
    }
    return Record.model_validate({**fields, **changes})


def test_round_trip_with_samples(tmp_path):
    record = make()
    samples = [Sample(id=str(i), image_id="x", prediction="ja", target="né", score=i / 3, meta={"k": [i]}) for i in range(3)]
    path = write_record(tmp_path, record, samples)
    assert "/" not in record.key
    assert read_record(path) == record == read_records(tmp_path)[0]
    assert list(read_samples(tmp_path, record)) == samples


def test_undefined_numbers_are_null_and_the_file_is_strict_json(tmp_path):
    record = make(notes={"loss": math.nan, "list": [math.inf, 1.0]})
    text = write_record(tmp_path, record).read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert json.loads(text)["notes"] == {"loss": None, "list": [None, 1.0]}


def test_no_record_without_its_samples(tmp_path):
    def broken():
        yield Sample(id="1", image_id="x")
        raise RuntimeError("killed here")

    with pytest.raises(RuntimeError):
        write_record(tmp_path, make(), broken())
    assert read_records(tmp_path) == []
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []  # no temporary file either


def test_truncated_record_is_told_in_one_line(tmp_path):
    path = write_record(tmp_path, make())
    path.write_text(path.read_text()[:100])
    with pytest.raises(UsageError) as e:
        read_record(path)
    assert str(path) in str(e.value) and "\n" not in str(e.value)


def test_unknown_field_in_a_record_is_refused(tmp_path):
    path = write_record(tmp_path, make())
    value = json.loads(path.read_text())
    value["extra"] = 1
    path.write_text(json.dumps(value))
    with pytest.raises(UsageError):
        read_record(path)


def test_atomic_path_keeps_the_old_file_on_failure(tmp_path):
    target = tmp_path / "a" / "f.txt"
    atomic_write(target, "old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(target.parent.iterdir()) == [target]


def test_unwritable_folder_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        atomic_write(tmp_path / "file" / "below", "x")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"backbone": {}}, r"field `backbone\.name`: expected text, found nothing"),
        ({"backbone": {"name": ["x"], "weights_sha256": "0"}}, r"field `backbone\.name`: expected text, found a list"),
        ({"backbone": {"name": "x", "weights_sha256": 3}}, r"field `backbone\.weights_sha256`: expected text, found a number"),
        ({"metrics": {"top1": {"value": "high"}}}, r"field `metrics\.top1\.value`: input should be a valid number"),
        ({"metrics": {}}, r"field `metrics`: lacks the main metric 'accuracy'"),
        ({"main_metric": "top1"}, r"field `metrics`: lacks the main metric 'top1'"),
        ({"metrics": {"accuracy": {"value": math.inf}}}, r"field `metrics\.accuracy\.value`: inf is not finite"),
        ({"metrics": {"accuracy": {"value": 0.5}, "x": {"value": math.nan}}}, r"field `metrics\.x\.value`: nan is not finite"),
        ({"status": "finished"}, r"field `status`: expected done or failed, found 'finished'"),
    ],
)
def test_a_field_of_another_kind_is_named(tmp_path, changed, told):
    path = tmp_path / "r.json"
    content = json.loads(make().model_dump_json(by_alias=True)) | {"schema": "levl-eval/record/1"}  # without a checksum
    path.write_text(json.dumps(content | changed))
    with pytest.raises(UsageError, match=rf"r\.json: not a levl-eval record \({told}"):
        read_record(path)


@pytest.mark.parametrize("schema", ["levl-eval/record/1", "levl-eval/record/3"])
def test_another_schema_does_not_take_a_records_checksum_off(tmp_path, schema):
    path = write_record(tmp_path, make())
    path.write_text(path.read_text().replace(SCHEMA, schema).replace("0.5", "0.9"))
    with pytest.raises(UsageError, match="checksum" if schema.endswith("1") else "is not known here"):
        read_record(path)


def test_a_record_is_of_the_run_it_lies_in_by_whatever_name_it_is_called(tmp_path, monkeypatch):
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "a.json").write_text("{}")
    for folder, name in [(tmp_path, "records/a.json"), (tmp_path / "records", "a.json"), (tmp_path / "records", "./a.json")]:
        monkeypatch.chdir(folder)
        assert home_of(Path(name)).resolve() == tmp_path.resolve(), name
    monkeypatch.chdir(tmp_path)
    assert home_of(Path("a.json")).resolve() == tmp_path.resolve()  # a record that was taken out of its run


def test_what_is_no_file_of_ours_among_records_is_passed_over_or_told_and_never_waited_for(tmp_path):
    """macOS lays ``._NAME`` beside each file that it copies to another disk; a pipe would be waited for."""
    from levl_eval.records.check import check_run
    from levl_eval.report.reading import read_directory

    write_record(tmp_path, make(), [Sample(id="1", image_id="1", score=1.0)])
    (path,) = (tmp_path / "records").glob("*.json")
    path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    (tmp_path / "samples" / f"._{path.stem}.jsonl").write_bytes(b"\0\5\x16\7")
    assert [f.state for f in check_run(tmp_path)] == ["whole"] and not read_directory(tmp_path).damaged
    os.mkfifo(path.with_name("pipe.json"))
    assert "no regular file" in read_directory(tmp_path).damaged[0] and len(read_directory(tmp_path).records) == 1


def test_a_missing_record_is_not_to_be_deleted(tmp_path):
    with pytest.raises(UsageError, match="cannot be read .No such file") as e:
        read_record(tmp_path / "nothing.json")
    assert "delete" not in str(e.value)
