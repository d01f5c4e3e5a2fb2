"""A folder of small odd files, one for each way in which images, labels, masks, questions, captions and tars go wrong or look wrong.

``make(folder)`` writes them. Each says what comes of it: what reading gives, or words of the one line by which it is refused.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.data import small_sets as small

PIPE, FOLDER, MISSING = "a pipe", "a folder", "nothing"


@dataclass(frozen=True)
class Odd:
    """One odd file. content: its bytes, or PIPE, FOLDER, MISSING.

    gives: what its reader gives; words: a pattern of its refusal, "" if read.

    fields: of its data specification; beside: other files of its folder, by name.
    """

    kind: str
    name: str
    content: bytes | str
    gives: Any = None
    words: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    beside: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.kind}/{ascii(self.name)[1:-1]}"

    def home(self, folder: Path) -> Path:
        """A folder of its own, so that no other odd file is found beside it."""
        return folder / self.kind / f"{[o.key for o in ODD].index(self.key):03d}"

    def path(self, folder: Path) -> Path:
        """Where it lies below ``folder``."""
        return self.home(folder) / self.name


def make(folder: Path, kind: str = "") -> list[Odd]:
    """Write every odd file below ``folder``, or those of one kind."""
    written = [o for o in ODD if kind in ("", o.kind)]
    for odd in written:
        path = odd.path(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        for name, content in odd.beside.items():
            small.write(odd.home(folder) / name, content)
        if odd.content == PIPE:
            os.mkfifo(path)
        elif odd.content == FOLDER:
            path.mkdir()
        elif isinstance(odd.content, bytes):
            small.write(path, odd.content)
    return written


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **more: Any) -> bytes:
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, kind, **more)
    return out.getvalue()


# ---- images: gives the size and the first pixel as RGB

RED = Image.new("RGB", (6, 4), (200, 10, 10))


def _turned() -> bytes:
    exif = RED.getexif()
    exif[0x0112] = 6
    return encoded(RED, "PNG", exif=exif)


def _full(value: float, dtype: Any) -> np.ndarray:
    return np.full((4, 6), value, dtype)


def _images() -> list[Odd]:
    red, white, size = (200, 10, 10), (255, 255, 255), (6, 4)
    clear = Image.new("RGBA", size, (200, 10, 10, 0))
    frames = encoded(RED.quantize(2), "GIF", save_all=True, append_images=[Image.new("RGB", size, (0, 0, 250)).quantize(2)])
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    undecodable = "cannot be decoded"
    return [
        Odd("images", name, content, gives, words)
        for name, content, gives, words in [
            ("turned.png", _turned(), ((4, 6), red), ""), ("clear.png", encoded(clear), (size, white), ""),
            ("grey-clear.png", encoded(Image.new("LA", size, (0, 0))), (size, white), ""),
            ("palette.png", encoded(RED.quantize(2)), (size, red), ""),
            ("palette-clear.png", encoded(RED.quantize(2), transparency=RED.quantize(2).getpixel((0, 0))), (size, white), ""),
            ("cmyk.tif", encoded(Image.new("CMYK", size, (0, 0, 0, 255)), "TIFF"), (size, (0, 0, 0)), ""),
            ("two-colours.png", encoded(Image.new("1", size, 1)), (size, white), ""),
            ("lab.tif", encoded(Image.new("LAB", size, (255, 128, 128)), "TIFF"), (size, (254, 255, 254)), ""),
            ("16-bit.png", encoded(_full(65535, np.uint16)), (size, white), ""),
            ("16-bit.tif", encoded(_full(257 * 10, np.uint16), "TIFF"), (size, (10, 10, 10)), ""),
            ("float-1.tif", encoded(_full(1, np.float32), "TIFF"), (size, white), ""),
            ("float-255.tif", encoded(_full(255, np.float32), "TIFF"), None, "a float image with values outside 0 to 1"),
            ("float-nan.tif", encoded(_full(np.nan, np.float32), "TIFF"), None, "a float image with values outside 0 to 1"),
            ("32-bit.tif", encoded(_full(70_000, np.int32), "TIFF"), None, "a 32-bit integer image"),
            ("frames.gif", frames, (size, red), ""), ("frames.webp", encoded(RED, "WEBP", lossless=True), (size, red), ""),
            ("named-wrong.jpg", encoded(RED), (size, red), ""), ("Upper.PNG", encoded(RED), (size, red), ""),
            ("caf\u00e9.png", encoded(RED), (size, red), ""), (os.fsdecode(b"caf\xe9.png"), encoded(RED), (size, red), ""),
            (os.fsdecode(b"no-image-\xe9.png"), b"junk", None, undecodable), ("\x1b[31m\n.png", b"junk", None, undecodable),
            ("junk.png", b"no image at all", None, undecodable), ("empty.png", b"", None, "is empty"),
            ("page.jpg", b"<html>404 Not Found</html>", None, "is an HTML page"), ("vector.svg", b"<svg xmlns='x'/>", None, undecodable),
            ("script.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n", None, undecodable),
            ("cut.jpg", encoded(noise, "JPEG")[:1500], None, r"cannot be decoded \(it is cut off\)"),
            ("cut.png", encoded(noise)[:5000], None, undecodable), ("damaged.png", _flipped(encoded(RED), 20), None, undecodable),
            ("pipe.png", PIPE, None, "is a named pipe, not a regular file"),
            ("folder.png", FOLDER, None, "is a directory, not a regular file"), ("missing.png", MISSING, None, "no such image"),
        ]
    ]  # fmt: skip


def _flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


# ---- labels of three images: gives the labels


def _labels() -> list[Odd]:
    images = {f"images/{k}.png": small.image_bytes(k) for k in range(3)}
    return [
        Odd("labels", name, text if isinstance(text, bytes) else text.encode(), gives, words, fields, images)
        for name, text, gives, words, fields in [
            ("mark.txt", "\ufeff0.png 0\r\n1.png 1\r\n2.png 0\r\n", [0, 1, 0], "", {}),
            ("numbers-alone.txt", "1\n0\n1\n", [1, 0, 1], "", {}),
            ("names.txt", "0.png dog\n1.png cat\n2.png dog\n", [1, 0, 1], "", {"classes": ["cat", "dog"]}),
            ("from-one.txt", "1\n2\n3\n", None, "labels run from 1 to 3, numbers count from 0", {}),
            ("minus-one.txt", "0\n-1\n1\n", None, "label -1 stands for no class", {}),
            ("beyond.txt", "0\n1\n2\n", None, "label 2 is beyond the 2 classes", {"classes": ["cat", "dog"]}),
            ("short.txt", "0\n1\n", None, "2 labels for the 3 images", {}),
            ("long.txt", "0\n1\n0\n1\n", None, "4 labels for the 3 images", {}),
            ("turned.txt", "0 0.png\n1 1.png\n0 2.png\n", None, "expected IMAGE LABEL in this order", {}),
            ("commas.csv", "0.png,0\n1.png,1\n2.png,0\n", None, "separated by a space", {}),
            ("floats.txt", "0.0\n1.0\n0.0\n", None, "'0.0'", {}),
            ("one-class.txt", "0\n0\n0\n", None, "at least 2 are needed", {}),
            ("classes-twice.txt", "0\n1\n0\n", None, "that of another class", {"classes": ["cat", "cat"]}),
            ("latin.txt", "0.png caf\u00e9\n".encode("latin-1"), None, "line 1: not UTF-8 text", {}),
            ("utf-16.txt", "0\n1\n0\n".encode("utf-16"), None, "is UTF-16", {}),
            ("empty.txt", "", None, "holds no label", {}),
            ("elsewhere.txt", "0.png 0\n9.png 1\n", None, "9.png", {}),
        ]
    ]  # fmt: skip


# ---- masks of one image: gives the labels its pixels hold


def _grid(*values: int, dtype: Any = np.uint8) -> np.ndarray:
    return np.resize(np.array(values, dtype), (4, 6))


def _masks() -> list[Odd]:
    palette = Image.fromarray(_grid(0, 1, 2)).convert("P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    abc: dict[str, Any] = {"classes": ["a", "b", "c"]}
    return [
        Odd("masks", name, content, gives, words, {**abc, **fields}, {"images/m.png": encoded(RED)})
        for name, content, gives, words, fields in [
            ("palette/m.png", encoded(palette), [0, 1, 2], "", {}), ("16-bit/m.png", encoded(_grid(0, 2, dtype=np.uint16)), [0, 2], "", {}),
            ("void/m.png", encoded(_grid(0, 2, 255)), [0, 2, 255], "", {}),
            ("two-colours/m.png", encoded(Image.fromarray(_grid(0, 255)).convert("1")), [0, 1], "", {}),
            ("zero-void/m.png", encoded(_grid(0, 1, 3, 255)), [0, 2, 255], "", {"reduce_zero_label": True}),
            ("0-and-255/m.png", encoded(_grid(0, 255)), None,
             "labels are 0 and 255.*did you mean classes 0 and 1", {"classes": ["a", "b"]}),
            ("from-one/m.png", encoded(_grid(1, 2, 3)), None, "labels run from 1 to 3: if they count from 1, set `reduce_zero_label`", {}),
            ("beyond/m.png", encoded(_grid(0, 9)), None, "label 9 is beyond the 3 classes", {}),
            ("all-void/m.png", encoded(_grid(255)), None, "mIoU is not defined on this test set", {}),
            ("colours/m.png", encoded(RED), None, "a RGB mask", {}),
            ("float/m.tif", encoded(_full(1, np.float32), "TIFF"), None, "a F mask", {}),
            ("negative/m.tif", encoded(_grid(0, -3, dtype=np.int32), "TIFF"), None, "label -3 is beyond", {}),
            ("jpeg/m.jpg", encoded(_grid(0, 1), "JPEG"), None, "a JPEG mask", {}), ("junk/m.png", b"junk", None, "no image format", {}),
            ("cut/m.png", encoded(_grid(0, 1))[:50], None, "cannot be decoded", {}),
        ]
    ]  # fmt: skip


# ---- questions in every format: gives (question, answer) pairs

OWN = {"image": "a.png", "question": "Is it?", "answer": "yes"}
TURNS = [{"from": "human", "value": "<image>\nIs it?"}, {"from": "gpt", "value": "yes"}]
LLAVA = {"id": "1", "image": "a.png", "conversations": TURNS}
POPE = {"question_id": 1, "image": "a.png", "text": "Is it?", "label": "yes"}
GQA = {"imageId": "a", "question": "Is it?", "answer": "yes"}
VIZWIZ = {"image": "a.png", "question": "Is it?", "answers": [{"answer": "yes"}] * 10}
TEXTVQA = {"question_id": 1, "image_id": "a", "question": "Is it?", "answers": ["yes"] * 10}
VQAV2 = {"question_id": 1, "image_id": 1, "question": "Is it?"}
NOTE = {"question_id": 1, "image_id": 1, "question_type": "is it", "answer_type": "yes/no",
        "multiple_choice_answer": "yes", "answers": [{"answer": "yes"}] * 10}  # fmt: skip


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _lines(*rows: Any) -> bytes:
    return b"\n".join(map(_json, rows))


def _questions() -> list[Odd]:
    yes = [("Is it?", "yes")]
    latin = json.dumps({**OWN, "answer": "caf\u00e9"}, ensure_ascii=False).encode("latin-1")
    rows: list[tuple[str, str, bytes, Any, str]] = [
        ("vqa", "mark.jsonl", b"\xef\xbb\xbf" + _json(OWN), yes, ""), ("vqa", "list.json", _json([OWN]), yes, ""),
        ("vqa", "separator.jsonl", _json({**OWN, "question": "one\u2028two"}), [("one\u2028two", "yes")], ""),
        ("vqa", "answers-text.jsonl", _json({**OWN, "answers": "yes"}), yes, ""),
        ("vqa", "answers-objects.jsonl", _json({"image": "a.png", "question": "Is it?", "answers": [{"answer": "yes"}]}), yes, ""),
        ("vqa", "true.jsonl", _json({**OWN, "answer": True}), None, "entry 1: field `answer`: expected a text"),
        ("vqa", "blank.jsonl", _json({**OWN, "answer": " "}), None, "holds a word"),
        ("vqa", "images.jsonl", _json({**OWN, "image": ["a.png"]}), None, "entry 1: field `image`"),
        ("vqa", "id-twice.jsonl", _lines(*[{**OWN, "question_id": 7}] * 2), None, 'question id "7" occurs twice'),
        ("vqa", "latin.jsonl", latin, None, "line 1: not UTF-8 text"),
        ("vqa", "utf-16.jsonl", _json(OWN).decode().encode("utf-16"), None, "is UTF-16"),
        ("vqa", "empty.jsonl", b"", None, "holds no questions"), ("vqa", "cut.jsonl", _json(OWN)[:-9], None, "not valid JSON"),
        ("vqa", "elsewhere.jsonl", _json({**OWN, "image": "b.png"}), None, "1 of 1 images are missing"),
        ("llava", "turns.json", _json([LLAVA]), yes, ""),
        ("llava", "images.json", _json([{**LLAVA, "image": ["a.png"]}]), None, "a list of 1"),
        ("llava", "no-turns.json", _json([{"image": "a.png"}]), None, "field `conversations` is missing"),
        ("vizwiz", "ten.json", _json([VIZWIZ]), yes, ""),
        ("vizwiz", "text.json", _json([{**VIZWIZ, "answers": [{"text": 4}]}]), None, "field `answers`"),
        ("pope", "coco_pope_random.json", _json(POPE), yes, ""),
        ("pope", "coco_pope_popular.json", _json({**POPE, "label": "maybe"}), None, "line 1: field `label`: expected yes or no"),
        ("gqa", "testdev_balanced_questions.json", _json({"q0": GQA}), yes, ""),
        ("gqa", "testdev_all_questions.json", _json({"q0": {**GQA, "types": "verify"}}), None, 'question "q0": field `types`'),
        ("gqa", "val_balanced_questions.json", _json([GQA]), None, "expected GQA"),
        ("textvqa", "TextVQA_0.5.1_val.json", _json({"data": [TEXTVQA]}), yes, ""),
        ("textvqa", "TextVQA_0.5.1_train.json", _json({"data": [{**TEXTVQA, "answers": [None]}]}), None, "field `answers`"),
        ("vqav2", "v2_OpenEnded_mscoco_val2014_questions.json", _json({"questions": [VQAV2]}), yes, ""),
        ("vqav2", "v2_OpenEnded_mscoco_train2014_questions.json",
         _json({"questions": [{**VQAV2, "image_id": "1"}]}), None, "question 1: field `image_id`"),
    ]  # fmt: skip
    return [_question(*row) for row in rows]


def _question(layout: str, name: str, content: bytes, gives: Any, words: str) -> Odd:
    part = "train2014" if "train2014" in name else "val2014"
    images = {n: encoded(RED) for n in ("a.png", "images/a.png", "images/a.jpg", "train_images/a.jpg", f"{part}/a.png")}
    images[f"{part}/COCO_{part}_{1:012d}.jpg"] = images["a.png"]
    beside = {**images, f"v2_mscoco_{part}_annotations.json": _json({"annotations": [NOTE]})} if layout == "vqav2" else images
    split = {
        "vqav2": part, "pope": name.removeprefix("coco_pope_").removesuffix(".json"), "gqa": name.removesuffix("_questions.json"),
        "textvqa": name.removeprefix("TextVQA_0.5.1_").removesuffix(".json"),
    }.get(layout, "")  # fmt: skip
    return Odd("questions", name, content, gives, words, {"layout": layout, "split": split}, beside)


# ---- captions of two images: gives them in the order of the images


def _captions() -> list[Odd]:
    images = {f"{n}.png": small.image_bytes(k) for k, n in enumerate("ab")}
    coco = {"images": [{"id": k, "file_name": f"{n}.png"} for k, n in enumerate("ab")]}
    notes = [{"id": k, "image_id": k, "caption": f"c{k}"} for k in range(2)]
    split = [{"filename": f"{n}.png", "split": "test", "sentences": [{"raw": f"c{k}"}]} for k, n in enumerate("ab")]
    head, rest, two = "image,caption\na.png,", "\nb.png,c1\n", ["c0", "c1"]
    return [
        Odd("captions", name, text if isinstance(text, bytes) else text.encode(), gives, words, {}, images)
        for name, text, gives, words in [
            ("quoted.csv", f'{head}"c, 0"{rest}', ["c, 0", "c1"], ""), ("mark.csv", "\ufeff" + head + "c0" + rest, two, ""),
            ("tabs.tsv", "image\tcaption\na.png\tc, 0\nb.png\tc1\n", ["c, 0", "c1"], ""),
            ("flickr.token", "a.png#0\tc0\nb.png#0\tc1\n", two, ""), ("coco.json", _json({**coco, "annotations": notes}), two, ""),
            ("dataset_x.json", _json({"images": split}), two, ""),
            ("unquoted.csv", f"{head}a dog, a cat{rest}", None, "line 2: 3 fields, the header has 2"),
            ("unclosed.csv", f'{head}"a dog{rest}', None, "line 2: not a table"),
            ("no-header.csv", "a.png,c0\nb.png,c1\n", None, "line 1 is a row already"),
            ("blanks.csv", f"{head}  {rest}", None, "line 2: image or caption is empty"),
            ("latin.csv", f"{head}caf\u00e9{rest}".encode("latin-1"), None, "line 2: not UTF-8"),
            ("utf-16.csv", (head + "c0" + rest).encode("utf-16"), None, "UTF-16"),
            ("no-header.tsv", "a.png\tc0\nb.png\tc1\n", None, "expected columns caption, image"),
            ("no-number.token", "a.png#0\tc0\nb.png c1\n", None, "line 2: expected IMAGE#NUMBER"),
            ("of-no-image.json", _json({**coco, "annotations": [{**notes[0], "image_id": 9}]}),
             None, "annotation 1: image_id 9 is none of its images"),
            ("dataset_twice.json", _json({"images": [split[0], *split]}), None, "image a.png is listed twice"),
            ("empty.csv", "", None, "the header is"),
        ]
    ]  # fmt: skip


# ---- tars of samples of an image and a text: gives the captions of those that can be used


def tar_of(members: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def _tars() -> list[Odd]:
    pairs = [((f"{k}.png", small.image_bytes(k)), (f"{k}.txt", f"c{k}".encode())) for k in range(3)]
    members = [m for pair in pairs for m in pair]
    whole, three = tar_of(members), ["c0", "c1", "c2"]
    second = whole.index(b"1.png")
    return [
        Odd("tars", name, content, gives, words)
        for name, content, gives, words in [
            ("whole.tar", whole, three, ""), ("packed.tar.gz", gzip.compress(whole), three, ""),
            ("packed-named-plain.tar", gzip.compress(whole), three, ""),
            ("dotted.tar", tar_of([*members, ("3.v2.png", small.image_bytes(3)), ("3.v2.txt", b"c3")]), three, ""),
            ("mac.tar", tar_of([("._0.png", b"x"), *members]), three, ""),
            ("broken-image.tar", tar_of([("9.png", b"x"), ("9.txt", b"c9"), *members]), three, ""),
            ("latin.tar", tar_of([*members, ("3.png", small.image_bytes(3)), ("3.txt", b"caf\xe9")]), three, ""),
            ("key-twice.tar", tar_of([*members, *pairs[0]]), None, "holds the sample 0 twice"),
            ("member-twice.tar", tar_of([members[0], *members]), None, "holds 0.png twice"),
            ("cut.tar", whole[:second], None, "is cut off"),
            ("cut.tar.gz", gzip.compress(whole)[:-300], None, "cannot be read as a tar|is cut off"),
            ("flipped.tar", _flipped(whole, second + 3), None, "damaged"), ("junk.tar", b"no tar", None, "cannot be read as a tar"),
            ("empty.tar", b"", None, "cannot be read as a tar"),
        ]
    ]  # fmt: skip


ODD: list[Odd] = [*_images(), *_labels(), *_masks(), *_questions(), *_captions(), *_tars()]
