"""Where a file cannot be written, it is said in one line, and before anything is computed for it."""

from __future__ import annotations

import pytest

from levl_eval import cli
from levl_eval.core.errors import UsageError
from levl_eval.core.files import atomic_write, check_writable


def test_a_folder_is_no_file_to_write(tmp_path):
    (tmp_path / "a.json").mkdir()
    for write in (check_writable, lambda path: atomic_write(path, "x")):
        with pytest.raises(UsageError, match=r"a\.json: is a folder; name a file"):
            write(tmp_path / "a.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        check_writable(tmp_path / "file" / "b.json")


def test_what_can_be_written_is_left_as_it_is(tmp_path):
    check_writable(tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.json").write_text("kept")
    check_writable(tmp_path / "a.json")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["kept"]


def test_health_says_so_before_it_encodes(tmp_path, capsys):
    words = ["health", "--backbone", "random-nano", "--images", str(tmp_path / "none"), "--out", str(tmp_path)]
    assert cli.main(words) == 2
    assert "is a folder; name a file" in capsys.readouterr().err
