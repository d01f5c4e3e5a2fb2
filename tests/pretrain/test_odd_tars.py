"""Tars in odd forms: what is wrong with a sample is counted by its kind, a file that is no tar is told as what it is."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from levl_eval.core.errors import LevlError, UsageError
from levl_eval.pretrain.samples import DOTTED, LINK, NO_TEXT, opened
from levl_eval.pretrain.tars import read_tar, shards
from tests.data import small_sets as small

IMAGE = small.image_bytes(0)


def tar(path: Path, *members: tuple[str, bytes | str]) -> Path:
    """Members (name, content), or (name, the name that it links to)."""
    with tarfile.open(path, "w") as out:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.LNKTYPE, content
                out.addfile(info)
            else:
                info.size = len(content)
                out.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("wanted", [None, lambda i: True])
@pytest.mark.parametrize(
    ("members", "problems"),
    [
        ([("a.png", IMAGE), ("a.txt", b"one")], [""]),
        ([("a.png", IMAGE), ("a.txt", "one".encode("utf-16-le"))], [NO_TEXT]),
        ([("a.1.png", IMAGE), ("a.1.txt", b"one"), ("b.png", IMAGE), ("b.txt", b"two")], [DOTTED, ""]),
        ([("a.png", IMAGE), ("a.seg.png", IMAGE), ("a.txt", b"one")], [""]),
        ([("a.png", IMAGE), ("a.txt", b"one"), ("b.png", "a.png"), ("b.txt", b"two")], ["", LINK]),
        ([("a.png", IMAGE), ("a.txt", b"one"), ("b.png", "a.png"), ("b.txt", "a.txt")], ["", LINK]),
        ([("latest", "a.png"), ("a.png", IMAGE), ("a.txt", b"one")], [""]),
    ],
)
def test_a_sample_says_what_is_wrong_with_it(members, problems, wanted, tmp_path):
    path = str(tar(tmp_path / "s.tar", *members))
    assert [opened(raw)[1] for raw in read_tar(path, ("txt",), wanted=wanted) if raw is not None] == problems


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is a Git LFS pointer"),
        (b"\x28\xb5\x2f\xfd" + b"x" * 2000, "is compressed by zstd, which is not read; unpack it"),
        (b"PK\x03\x04" + b"x" * 2000, "is a zip archive; unpack it"),
        (b"<html>" + b"x" * 2000, "is an HTML page, as a failed download leaves it"),
        (b"x" * 2000, "cannot be read as a tar .*; download it again or leave it out"),
    ],
)
def test_what_is_no_tar_is_told_as_what_it_is(content, words, tmp_path):
    path = small.write(tmp_path / "s.tar", content)
    with pytest.raises(LevlError, match=rf"s\.tar: {words}"):
        list(read_tar(str(path), ("txt",)))


@pytest.mark.parametrize("wanted", [None, lambda i: True])
@pytest.mark.parametrize(
    ("members", "words"),
    [
        ("a.png a.txt b.png b.txt a.png a.txt", r"holds the sample a twice; keep one"),
        ("a.png b.png a.txt b.txt", r"the members of the sample a do not follow one another; .*tar --sort=name"),
        ("a.png b.png b.txt a.json", r"the members of the sample a do not follow one another"),
    ],
)
def test_members_that_lie_apart_are_not_taken_for_a_sample_that_is_there_twice(members, words, wanted, tmp_path):
    path = tar(tmp_path / "s.tar", *((name, IMAGE if name.endswith("png") else b"one") for name in members.split()))
    with pytest.raises(LevlError, match=rf"s\.tar: {words}"):
        list(read_tar(str(path), ("txt",), wanted=wanted))


@pytest.mark.parametrize("zeros", [1024, 10240, 512 + (1 << 20), 512 + (2 << 20)])
def test_a_tar_behind_the_end_of_another_is_told_as_what_it_may_be(zeros, tmp_path):
    one, two = (tar(tmp_path / n, (f"{n}.png", IMAGE), (f"{n}.txt", b"one")) for n in "ab")
    with tarfile.open(one) as first:
        first.getmembers()
        end = first.offset  # where its zeros begin
    both = small.write(tmp_path / "s.tar", one.read_bytes()[:end] + bytes(zeros) + two.read_bytes())
    with pytest.raises(LevlError, match=r"s\.tar: another tar follows behind byte \d+, .*tar --concatenate"):
        list(read_tar(str(both), ("txt",)))


TWICE = 'json that gives "caption" twice'


@pytest.mark.parametrize(
    ("text", "fields", "captions", "problem"),
    [
        (b'{"caption": "a dog", "caption": "a cat"}', ("caption",), [], TWICE),
        (b'{"caption": "a dog", "caption": "a cat"}', ("txt", "caption"), ["one"], ""),
        (b'{"width": 1, "width": 2, "caption": "a dog"}', ("caption",), ["a dog"], ""),
    ],
)
def test_a_caption_that_a_json_gives_twice_is_none(text, fields, captions, problem, tmp_path):
    """The last was trained on."""
    shard = tar(tmp_path / "s.tar", ("a.png", IMAGE), ("a.txt", b"one"), ("a.json", text))
    [raw] = read_tar(str(shard), fields)
    assert (raw.captions, raw.problem, opened(raw)[1]) == (captions, problem, problem)


def test_a_shard_and_a_link_to_it_are_one(tmp_path):
    tar(tmp_path / "a.tar", ("a.png", IMAGE), ("a.txt", b"one"))
    (tmp_path / "b.tar").symlink_to(tmp_path / "a.tar")
    with pytest.raises(UsageError, match=r"names .*a\.tar twice; name each shard once"):
        shards(f"{tmp_path}/*.tar")
