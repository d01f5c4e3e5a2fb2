"""YAML as cards and `--set` values: one line for what is double, endless, deep, large or no text."""

from __future__ import annotations

import os
import time

import pytest

from levl_eval.cards import load_card
from levl_eval.cards.registry import task_card
from levl_eval.core.errors import UsageError
from levl_eval.core.safe_yaml import MAX_BYTES, parse_yaml

BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
)
WIDE = f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 100)}]"
MERGES = "\n".join(["m0: &m0 {k: v}", *(f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}" for n in range(1, 12))])

BAD = {
    "duplicate": ("kind: task\nname: a\nepochs: 1\nepochs: 2\n", r"line 4: the key `epochs` is there already, in line 3"),
    "duplicate inside": ("data: {split: a, split: b}", r"line 1: the key `split`"),
    "equal keys": ("1: a\n0x1: b\n", r"line 2: the key `0x1` is there already"),
    "bomb in name": (BOMB + "\nname: *a11\n", "stands for more than 100,000 values"),
    "wide bomb": (WIDE, "stands for more than"),
    "merge bomb": (MERGES, "stands for more than"),
    "itself": ("name: &a [*a]", "an alias inside what it stands for"),
    "itself, deeper": ("name: &a {b: [{c: *a}]}", "an alias inside what it stands for"),
    "deep": ("[" * 5_000, "more than 32 lists or mappings inside one another"),
    "deep block": ("".join(" " * n + "a:\n" for n in range(200)), "inside one another"),
    "list as key": ("? [a]\n: b", "a key is a word"),
    "tab": ("name:\n\tx: 1", r"not valid YAML.*'\\t'"),
    "no date": ("name: 2001-99-99", "not valid YAML"),
    "endless digits": ("name: " + "9" * 5_000, "not valid YAML"),
    "bad base64": ("name: !!binary a", "not valid YAML"),
    "two documents": ("a: 1\n---\nb: 2\n", "not valid YAML"),
    "python": ("name: !!python/object/apply:os.system ['true']", "not valid YAML"),
    "escape": ("name: \x1b[31mx", "not valid YAML"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=list(BAD))
def test_bad_yaml_is_one_line_with_the_file_at_once(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    started = time.monotonic()
    with pytest.raises(UsageError, match=message) as e:
        load_card(path)
    assert str(e.value).startswith(str(path)) and "\n" not in str(e.value) and len(str(e.value)) < 600
    assert time.monotonic() - started < 5
    with pytest.raises(UsageError, match=message):  # the same reader
        parse_yaml(text, "--set")


def test_the_value_of_an_option_is_read_by_the_same_reader():
    for value in ("{layout: gqa, layout: pope}", "[" * 100, BOMB):
        with pytest.raises(UsageError, match=r"--set gqa\.data=.*not valid YAML") as e:
            task_card("gqa", {"data": value})
        assert len(str(e.value)) < 600


def test_what_is_no_text_file_is_one_line(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff")
    with pytest.raises(UsageError, match=r"mine\.yaml: not valid YAML"):
        load_card(path)
    path.write_text("name: " + "x" * MAX_BYTES)
    with pytest.raises(UsageError, match=r"mine\.yaml: larger than 1,000,000 bytes"):
        load_card(path)
    for make in (os.mkdir, os.mkfifo):  # a pipe nobody writes to would be waited for
        path.unlink() if path.is_file() else None
        make(path)
        with pytest.raises(UsageError, match=r"mine\.yaml: no regular file"):
            load_card(path)
        os.rmdir(path) if path.is_dir() else os.unlink(path)
    with pytest.raises(UsageError, match=r"mine\.yaml: cannot be read"):
        load_card(path)


def test_plain_yaml_with_anchors_and_merges_stays_what_it_was():
    text = "a: &a {x: 1, y: [1, 2.5, null, true]}\nb: *a\nc: {<<: *a, x: 2}\nd: {<<: [*a, {z: 3}]}\n"
    inner = {"x": 1, "y": [1, 2.5, None, True]}
    assert parse_yaml(text, "t") == {"a": inner, "b": inner, "c": {**inner, "x": 2}, "d": {**inner, "z": 3}}
    assert parse_yaml("\ufeffname: x", "t") == {"name": "x"} and parse_yaml("", "t") is None


def test_a_found_value_is_told_shortened(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("kind: backbone\nuri: random:nano\nname: [" + ", ".join(["long words"] * 5_000) + "]\n")
    with pytest.raises(UsageError) as e:
        load_card(path)
    assert len(str(e.value)) < 500
