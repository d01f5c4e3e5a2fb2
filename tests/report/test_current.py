"""What a finished run prints again instead of making its tables anew."""

from __future__ import annotations

import os

from levl_eval.report import current


def test_a_table_that_was_changed_on_the_disk_is_made_again(tmp_path, capsys):
    made = []

    def tables():
        current.show_and_write(tmp_path, [], {}, lambda stream: made.append(stream.write("top1 11.1\n")), list)

    tables()
    tables()
    assert len(made) == 1
    kept = tmp_path / current.FILE
    kept.write_text(kept.read_text().replace("11.1", "77.1"))
    tables()
    assert len(made) == 2 and capsys.readouterr().out == "top1 11.1\n" * 3
    kept.write_text("{}")
    tables()
    assert len(made) == 3


def test_a_record_that_is_exchanged_in_place_is_seen(tmp_path, capsys):
    """Of equal size, with the time it had: its file has been changed all the same."""
    made = []

    def tables():
        current.show_and_write(tmp_path, [], {}, lambda stream: made.append(stream.write("x\n")), list)

    record = tmp_path / "records" / "a.json"
    record.parent.mkdir()
    record.write_text("11.1")
    before = record.stat()
    tables()
    with open(record, "r+") as f:
        f.write("77.1")
    os.utime(record, ns=(before.st_atime_ns, before.st_mtime_ns))
    tables()
    assert len(made) == 2
