"""Scenes with a sign on which words and numbers stand, in the layouts of ChartQA, DocVQA, InfographicVQA and OCRBench.

A sign has one to three lines of a short word, a number, or both. Letters are drawn from a table of 5 by 7 cells and not from a font, which
would differ between machines. At 96 pixels a cell is about one and a half pixels wide.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from levl_eval.scenes.world import CATEGORIES, COLORS, Scene, sample_scene, stable_seed

COUNTS: dict[str, int] = {"chartqa/test": 48, "docvqa/val": 48, "infovqa/val": 48, "ocrbench/test": 48}
ROOMS = tuple(part.partition("/")[0] for part in COUNTS)
WORDS = tuple(w for w in (*CATEGORIES, *COLORS) if len(w) <= 6)
_FACTOR = 4  # cells of the board are drawn so many times larger
_BOARDS = (((246, 243, 232), (28, 26, 30)), ((30, 74, 52), (240, 240, 236)), ((236, 206, 60), (30, 28, 30)))  # board, ink
_WOOD = (104, 74, 46)

# Seven rows of five cells a character, each a byte in hexadecimal, the leftmost cell the highest of five bits.
_GLYPHS = {
    "A": "0E11111F111111", "B": "1E11111E11111E", "C": "0E11101010110E", "D": "1C12111111121C", "E": "1F10101E10101F",
    "F": "1F10101E101010", "G": "0E11101711110F", "H": "1111111F111111", "I": "0E04040404040E", "J": "0702020202120C",
    "K": "11121418141211", "L": "1010101010101F", "M": "111B1515111111", "N": "11111915131111", "O": "0E11111111110E",
    "P": "1E11111E101010", "Q": "0E11111115120D", "R": "1E11111E141211", "S": "0F10100E01011E", "T": "1F040404040404",
    "U": "1111111111110E", "V": "11111111110A04", "W": "1111111515150A", "X": "11110A040A1111", "Y": "11110A04040404",
    "Z": "1F01020408101F", "0": "0E11131519110E", "1": "040C040404040E", "2": "0E11010204081F", "3": "1F02040201110E",
    "4": "02060A121F0202", "5": "1F101E0101110E", "6": "0608101E11110E", "7": "1F010204080808", "8": "0E11110E11110E",
    "9": "0E11110F01020C", " ": "00000000000000",
}  # fmt: skip


class Line(NamedTuple):
    """What stands in a line of a sign; one of both may be empty."""

    word: str
    number: str

    @property
    def text(self) -> str:
        return f"{self.word} {self.number}".strip()


def glyph(character: str) -> np.ndarray:
    """bool [7, 5]: the cells of a capital letter, a digit or a space. Raises KeyError for others."""
    rows = bytes.fromhex(_GLYPHS[character])
    return np.array([[bool(row >> (4 - k) & 1) for k in range(5)] for row in rows])


def cells(lines: tuple[Line, ...]) -> np.ndarray:
    """bool [H, W]: a board's cells with ink, one cell of margin; a line has seven rows and two of space."""
    texts = [line.text.upper() for line in lines]
    width = 6 * max(map(len, texts)) + 1
    out = np.zeros((9 * len(texts) + 1, width), bool)
    for k, text in enumerate(texts):
        left = (width - 6 * len(text)) // 2 + 1
        for n, character in enumerate(text):
            out[9 * k + 2 : 9 * k + 9, left + 6 * n : left + 6 * n + 5] = glyph(character)
    return out


def lines_of(part: str, index: int, seed: int) -> tuple[Line, ...]:
    """The lines of the sign of an image. Words of a sign are distinct, as are its numbers."""
    rng = random.Random(stable_seed("sign", part, seed, index))
    room, absent = part.partition("/")[0], ""
    if room == "reading":  # to be trained on: one to three lines, a single one at times without its word or number
        count, absent = rng.randint(1, 3), rng.choice(("word", "number", ""))
    elif room == "ocrbench":
        count, absent = 1 + (index % 4 == 3), {0: "number", 1: "word"}.get(index % 4, "")
    else:
        count = {"chartqa": 3, "infovqa": 2 + index % 2, "docvqa": 2}[room]
    words, numbers = rng.sample(WORDS, count), rng.sample(range(2, 100), count)
    lines = tuple(Line(w, str(n)) for w, n in zip(words, numbers, strict=True))
    return (lines[0]._replace(**{absent: ""}),) if count == 1 and absent else lines


def signed_scene(part: str, index: int, seed: int) -> Scene:
    """The scene in which the sign stands: two or three objects."""
    return sample_scene(stable_seed("export", part, seed, index), 2, 3)


def _board(part: str, index: int, seed: int, size: int) -> tuple[np.ndarray, int, int]:
    """A sign as it is drawn, uint8 [H, W, 3], and where it stands in an image of side ``size``: left and top."""
    rng = random.Random(stable_seed("board", part, seed, index))
    ink = cells(lines_of(part, index, seed))
    cell = max(1, int(0.84 * size * _FACTOR / ink.shape[1]))
    paint, colour = rng.choice(_BOARDS)
    board = np.where(np.kron(ink, np.ones((cell, cell), bool))[..., None], np.array(colour, np.uint8), np.array(paint, np.uint8))
    small = np.asarray(Image.fromarray(board).reduce(_FACTOR))
    return small, rng.randint(0, size - small.shape[1]), round(rng.uniform(0.1, 0.3) * size)


def signed_pixels(pixels: np.ndarray, part: str, index: int, seed: int) -> np.ndarray:
    """uint8 [S, S, 3] of a scene with its sign in front, four fifths of the image wide; a pure function of its arguments."""
    size = len(pixels)
    small, left, top = _board(part, index, seed, size)
    height, width = small.shape[:2]
    out = pixels.copy()
    for post in (0.2, 0.8):  # they go down to the image's lower edge
        x = left + int(post * width)
        out[top + height :, x : x + max(2, size // 32)] = _WOOD
    out[top : top + height, left : left + width] = small[: size - top]
    return out


def line_map(part: str, index: int, seed: int, size: int) -> np.ndarray:
    """int64 [size, size]: 1, 2, ... where the first, second, ... line of the sign stands, from its left end to its right, else 0."""
    small, left, top = _board(part, index, seed, size)
    height, width = small.shape[:2]
    count = len(lines_of(part, index, seed))
    out = np.zeros((size, size), np.int64)
    edges = [top + round((9 * k + 0.5) * height / (9 * count + 1)) for k in range(count + 1)]
    for k, (upper, lower) in enumerate(itertools.pairwise(edges), 1):
        out[upper:lower, left : left + width] = k
    return out


def image_path(part: str, index: int) -> str:
    """Of an image, below the root, as its data set names it."""
    return {
        "chartqa": f"chartqa/test/png/{index + 1}.png", "docvqa": f"docvqa/spdocvqa_images/sign{index:04d}_1.png",
        "infovqa": f"infovqa/infographicsvqa_images/{index + 1}.jpeg", "ocrbench": f"ocrbench/OCRBench_Images/scenes/{index:04d}.jpg",
    }[part.partition("/")[0]]  # fmt: skip


def _chartqa(part: str, count: int, seed: int) -> Iterator[tuple[str, str]]:
    human, augmented = [], []
    for index in range(count):
        lines, name = lines_of(part, index, seed), image_path(part, index).rpartition("/")[2]
        rng = random.Random(stable_seed("questions", part, seed, index))
        x, y = rng.sample(lines, 2)
        larger = max((x, y), key=lambda line: int(line.number))
        human.append({"imgname": name, "query": f"Which has the larger number, {x.word} or {y.word}?", "label": larger.word})
        augmented.append({"imgname": name, "query": f"What is the number of {x.word}?", "label": x.number})
    yield "chartqa/test/test_human.json", json.dumps(human)
    yield "chartqa/test/test_augmented.json", json.dumps(augmented)


def _documents(part: str, count: int, seed: int) -> Iterator[tuple[str, str]]:
    """DocVQA's and InfographicVQA's question files."""
    room, rows = part.partition("/")[0], list[dict[str, object]]()
    for index in range(count):
        lines, name = lines_of(part, index, seed), image_path(part, index).rpartition("/")[2]
        line = random.Random(stable_seed("questions", part, seed, index)).choice(lines)
        beside = (f"What number stands beside {line.word}?", line.number)
        first = ("What is the first word on the sign?", lines[0].word)
        many = ("How many lines does the sign have?", str(len(lines)))
        labels: dict[str, object]
        for k, (question, answer) in enumerate((beside, first) if room == "docvqa" else (beside, many)):
            if room == "docvqa":
                labels = {
                    "question_types": [["table/list"], ["layout", "free_text"]][k],
                    "docId": index,
                    "image": f"documents/{name}",
                }
                labels |= {"ucsf_document_id": name.partition("_")[0], "ucsf_document_page_no": "1"}
            else:
                labels = {"image_local_name": name, "answer_type": [("single span", "non-extractive")[k]]}
                labels |= {"operation/reasoning": ["counting"] if k else []}
            common = {"questionId": 10 * index + k, "question": question, "answers": [answer], "data_split": "val"}
            rows.append({**common, **labels})
    file = "spdocvqa_qas/val_v1.0_withQT" if room == "docvqa" else "infographicsvqa_qas/infographicsVQA_val_v1.0_withQT"
    yield f"{room}/{file}.json", json.dumps({"dataset_name": f"scenes {room}", "dataset_split": "val", "data": rows})


def _ocrbench(part: str, count: int, seed: int) -> Iterator[tuple[str, str]]:
    rows = []
    for index in range(count):
        lines = lines_of(part, index, seed)
        asked = (
            ("Regular Text Recognition", "what is written in the image?", lines[0].word),
            ("Digit String Recognition", "what is the number in the image?", lines[0].number),
            ("Key Information Extraction", f"what is the number of {lines[0].word}?", lines[0].number),
            ("Scene Text-centric VQA", f"what number stands beside {lines[-1].word}?", lines[-1].number),
        )
        kind, question, answer = asked[index % 4]
        path = image_path(part, index).removeprefix("ocrbench/OCRBench_Images/")
        rows.append(
            {"dataset_name": "scenes", "id": index, "image_path": path, "question": question, "answers": answer, "type": kind}
        )
    yield "ocrbench/OCRBench.json", json.dumps(rows)


def files_of(part: str, count: int, seed: int) -> Iterator[tuple[str, str]]:
    """(path below the root, text) of the question files that go with a part's images."""
    room = part.partition("/")[0]
    yield from (_chartqa if room == "chartqa" else _ocrbench if room == "ocrbench" else _documents)(part, count, seed)
