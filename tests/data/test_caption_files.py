"""Captions from tables, published files and tars: read, or refused by their line."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from levl_eval.cards import DataSpec
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.data.caption_files import read_caption_file
from levl_eval.data.readers import read_captions
from levl_eval.pretrain.data import csv_rows
from levl_eval.pretrain.samples import opened
from levl_eval.pretrain.tars import read_tar
from tests.data import small_sets as small

REFUSED = {
    "unquoted comma": ("image,caption\na.jpg,fine\nb.jpg,a dog, a cat and a hat\n",
                       "line 3: 3 fields, the header has 2; a caption that holds a comma"),
    "too few": ("image,caption\na.jpg\n", "line 2: 1 fields, the header has 2"),
    "unclosed quote": ('image,caption\na.jpg,"a dog\nb.jpg,a cat\n', "line 2: not a table"),
    "quote that closes later": ('image,caption\na.jpg,"a dog\nb.jpg,a cat"\nc.jpg,x\n',
                                "line 2: a quote that opens there closes in a later row"),
    "quote that closes in a caption": ('image,caption\na.jpg,"a dog\nb.jpg,a "big" cat\n', "line 2: not a table"),
    "no header": ("a.jpg,a dog\nb.jpg,a cat\n", "expected columns caption, image: line 1 is a row already"),
    "no header, tabs": ("a.jpg\ta dog\n", "expected columns caption, image"),
    "blanks": ("image,caption\na.jpg,  \n", "line 2: image or caption is empty"),
    "no image": ("image,caption\n ,a dog\n", "line 2: image or caption is empty"),
    "a column twice": ("image,caption,caption\na.jpg,x,y\n", "names a column twice"),
    "latin-1": ("image,caption\na.jpg,caf\u00e9\n".encode("latin-1"), "line 2: not UTF-8 text"),
    "utf-16": ("image,caption\na.jpg,x\n".encode("utf-16"), "UTF-16"),
    "nothing": ("", "the header is"),
    "line after a long caption": ('image,caption\na.jpg,"two\nlines"\nb.jpg,a, b\n', "line 4: 3 fields"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("read", [read_caption_file, csv_rows])
def test_tables_that_are_refused(name, read, tmp_path):
    content, words = REFUSED[name]
    file = small.write(tmp_path / "c.csv", content)
    with pytest.raises(UsageError, match=words) as e:
        read(file)
    assert "c.csv" in str(e.value) and str(e.value).isprintable()


@pytest.mark.parametrize(
    ("name", "content", "captions"),
    [
        ("c.csv", 'image,caption\na.jpg,"a dog, a cat"\n\nb.jpg,"say ""hi"""\n', ["a dog, a cat", 'say "hi"']),
        ("c.csv", "\ufeffcaption,image\r\na dog,a.jpg\r\n", ["a dog"]),
        ("c.csv", 'image,caption\na.jpg,"two\nlines"\n', ["two\nlines"]),
        ("c.csv", "image,caption\na.jpg,one\u2028line\n", ["one\u2028line"]),
        ("c.tsv", "image\tcaption\na.jpg\ta dog, a cat\n", ["a dog, a cat"]),
        ("c.token", "a.jpg#0\tA dog .\na.jpg#1\tA cat , too .\n", ["A dog .", "A cat , too ."]),
        ("c.json", json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}],
                               "annotations": [{"id": 5, "image_id": 1, "caption": "A dog"}]}), ["A dog"]),
    ],
)  # fmt: skip
def test_tables_that_are_read(name, content, captions, tmp_path):
    assert [c.caption for c in read_caption_file(small.write(tmp_path / name, content))] == captions


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("c.token", "a.jpg#0\tA dog\na.jpg A cat\n", "line 2: expected IMAGE#NUMBER"),
        ("c.json", '{"images": [], "annotations": [{"image_id": 1, "caption": "x"}]}', "annotation 1: image_id 1 is none of its images"),
        ("c.json", '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": " "}]}',
         "annotation 1: field `caption`"),
        ("c.json", '{"images": [{"id": 1}], "annotations": []}', "image 1: field `file_name` is missing"),
        ("c.json", '{"images": [{"filename": "a.jpg", "sentences": []}]}', "holds no lists `images` and `annotations`"),
    ],
)  # fmt: skip
def test_published_caption_files_that_are_refused(name, content, words, tmp_path):
    with pytest.raises(UsageError, match=words):
        read_caption_file(small.write(tmp_path / name, content))


def test_coco_captions_are_an_evaluation_set(tmp_path):
    for k in range(2):
        small.write(tmp_path / "images" / f"{k}.jpg", small.image_bytes(k, "JPEG"))
    file = {
        "images": [{"id": k, "file_name": f"{k}.jpg"} for k in range(2)],
        "annotations": [{"image_id": k % 2, "caption": f"c{k}"} for k in range(4)],
    }
    small.write(tmp_path / "captions_val.json", json.dumps(file))
    found = read_captions(DataSpec(layout="captions", annotations=str(tmp_path / "captions_val.json")), "")
    assert found.captions == ("c0", "c2", "c1", "c3") and found.owner.tolist() == [0, 0, 1, 1]


def test_coco_images_without_a_caption_are_counted(tmp_path):
    known = {"images": [{"id": k, "file_name": f"{k}.png"} for k in range(3)], "annotations": []}
    known["annotations"] = [{"image_id": k, "caption": "one"} for k in (0, 1)]
    file = small.write(tmp_path / "captions_val.json", json.dumps(known))
    for k in (0, 1):
        small.write(tmp_path / f"{k}.png", small.image_bytes(k))
    found = read_captions(DataSpec(layout="captions", annotations=str(file)), "")
    assert found.images.ids == ("0.png", "1.png") and dict(found.images.left_out) == {"images without a caption": 1}


def test_a_single_image_or_one_listed_twice_is_no_retrieval(tmp_path):
    small.write(tmp_path / "1.png", small.image_bytes(1))
    table = small.write(tmp_path / "c.csv", "image,caption\n1.png,a dog\n1.png,the dog\n")
    with pytest.raises(UsageError, match="c.csv: holds one image, which every caption finds; at least 2 are needed"):
        read_captions(DataSpec(layout="captions", annotations=str(table)), "")
    one = {"filename": "1.png", "split": "test", "sentences": [{"raw": "a dog"}]}
    split = small.write(tmp_path / "dataset_x.json", json.dumps({"images": [one, {**one, "sentences": [{"raw": "a cat"}]}]}))
    with pytest.raises(UsageError, match="image 1.png is listed twice; keep one entry"):
        read_captions(DataSpec(layout="karpathy", annotations=str(split), split="test"), "")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda i: i.update(sentences="x"), "image 1: field `sentences`"),
        (lambda i: i.pop("filename"), "image 1: field `filename` is missing"),
        (lambda i: i.update(sentences=[{"raw": ""}]), "image 1: field `sentences.0.raw`"), (lambda i: i.update(split=3), "field `split`"),
        (lambda i: i.update(sentences=[]), "1 images have no caption"),
    ],
)  # fmt: skip
def test_karpathy_entries(change, words, tmp_path):
    image = {"filename": "a.jpg", "split": "test", "sentences": [{"raw": "A dog"}]}
    change(image)
    small.write(tmp_path / "a.jpg", small.image_bytes(0, "JPEG"))
    small.write(tmp_path / "dataset_flickr30k.json", json.dumps({"images": [image]}))
    with pytest.raises(UsageError, match=words):
        read_captions(DataSpec(layout="karpathy", root=str(tmp_path), split="test"), "")


def tar_of(members: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def samples(n: int) -> list[tuple[str, bytes]]:
    return [m for i in range(n) for m in ((f"{i:05d}.png", small.image_bytes(i)), (f"{i:05d}.txt", f"number {i}".encode()))]


def usable(path: Path) -> list[str]:
    return [r.captions[0] for r in read_tar(str(path), ("txt",)) if opened(r)[0] is not None]


def test_whole_tars_are_read_packed_too(tmp_path):
    whole = tar_of(samples(5))
    for name, content in (("a.tar", whole), ("a.tar.gz", gzip.compress(whole))):
        assert usable(small.write(tmp_path / name, content)) == [f"number {i}" for i in range(5)]
    odd = [
        *samples(2),
        ("._00007.png", b"x"),
        ("__meta__.json", b"{}"),
        ("d/00008.v2.png", small.image_bytes(1)),
        ("00009.gif", small.image_bytes(2)),
        ("00009.txt", b"g"),
    ]
    assert usable(small.write(tmp_path / "b.tar", tar_of(odd))) == ["number 0", "number 1", "g"]
    # the dotted name is a sample without image: counted as broken
    assert len(list(read_tar(str(tmp_path / "b.tar"), ("txt",)))) == 4
    latin = [("00001.png", small.image_bytes(1)), ("00001.txt", b"caf\xe9")]
    assert usable(small.write(tmp_path / "c.tar", tar_of(latin))) == []


def test_tars_that_would_be_read_in_part_are_refused(tmp_path):
    whole, few = tar_of(samples(30)), samples(3)
    flipped = bytearray(whole)
    flipped[2 * 1024 * 15 + 3] ^= 1  # in the header of a member in the middle
    second = whole.index(b"00001.png")
    for content, words in [
        (tar_of([*few, few[0]]), "holds the sample 00000 twice"), (tar_of([few[0], few[0], few[1]]), "holds 00000.png twice"),
        (whole[: whole.index(b"00015.png")], "cut off"), (whole[: whole.index(b"00015.png") + 700], "cannot be read as a tar|cut off"),
        (bytes(flipped), "damaged"), (whole[:second] + b"\xff" + whole[second + 1 :], "damaged"), (b"no tar", "cannot be read as a tar"),
        (gzip.compress(whole[: whole.index(b"00015.png")]), "cut off"),
        (gzip.compress(whole)[:-2000], "cannot be read|cut off"), (b"", "cannot be read"),
    ]:  # fmt: skip
        with pytest.raises(LevlError, match=words) as e:
            list(read_tar(str(small.write(tmp_path / "a.tar", content)), ("txt",)))
        assert "a.tar" in str(e.value) and str(e.value).isprintable()


@settings(
    max_examples=150,
    deadline=1000,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    st.text(alphabet='ab.,"\n\r\t#0;jpg\u2028\0', max_size=60) | st.binary(max_size=40),
    st.sampled_from(["csv", "tsv", "json", "token"]),
    st.booleans(),
)
def test_any_text_as_a_table(tmp_path, body, suffix, header):
    head = "image\tcaption\n" if suffix == "tsv" else "image,caption\n"
    content = body if isinstance(body, bytes) else (head * header + body).encode()
    path = tmp_path / f"c.{suffix}"
    path.write_bytes(content)
    try:
        assert all(c.image.strip() and c.caption.strip() for c in read_caption_file(path))
    except LevlError as e:
        assert str(e).isprintable()


TAR = tar_of(samples(3))


@settings(
    max_examples=80,
    deadline=1000,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(st.integers(0, len(TAR) - 1), st.integers(1, 255), st.booleans())
def test_a_changed_byte_in_a_tar_loses_no_sample_silently(tmp_path, at, flip, cut):
    content = TAR[:at] if cut else TAR[:at] + bytes([TAR[at] ^ flip]) + TAR[at + 1 :]
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    try:
        assert len(list(read_tar(str(path), ("txt",)))) >= 3
    except LevlError as e:
        assert str(e).isprintable()
