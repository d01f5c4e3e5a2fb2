"""Words on signs: what stands on them is what is asked, letters can be told apart,
and each set is read by the readers of the published one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from levl_eval.cards.registry import task_card
from levl_eval.data.readers import read_questions
from levl_eval.engines.vlm.scoring import estimates
from levl_eval.scenes.export import scene_of
from levl_eval.scenes.render import render_image
from levl_eval.scenes.signs import COUNTS, WORDS, Line, cells, glyph, lines_of, signed_pixels

TASKS = ("chartqa", "docvqa", "infovqa", "ocrbench")


def test_letters_and_digits_are_told_apart():
    known = {c: glyph(c) for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"}
    assert all(np.sum(a != b) >= 2 for a, b in itertools.combinations(known.values(), 2))
    assert set("".join(WORDS).upper()) <= known.keys()


def test_a_line_stands_on_the_board_as_it_is_read():
    board = cells((Line("cat", "12"), Line("ox", "")))
    assert board.shape == (19, 37) and not board[[0, 1, 9, 10]].any() and not board[:, 0].any()
    read = "".join(next(c for c in "CAT 12" if (board[2:9, 1 + 6 * k : 6 + 6 * k] == glyph(c)).all()) for k in range(6))
    assert read == "CAT 12"


@pytest.mark.parametrize("part", COUNTS)
def test_a_sign_covers_a_part_of_its_scene(part):
    for size in (64, 96):
        plain = render_image(scene_of(part, 1, 0), size)
        drawn = signed_pixels(plain, part, 1, 0)
        changed = (plain != drawn).any(-1)
        assert drawn.shape == plain.shape and 0.1 < changed.mean() < 0.8
        assert (drawn == signed_pixels(plain, part, 1, 0)).all() and (drawn != signed_pixels(plain, part, 1, 1)).any()


@pytest.mark.parametrize("task", TASKS)
def test_whoever_reads_the_signs_is_right_and_whoever_does_not_is_not(task, world):
    card = task_card(task)
    data = read_questions(card.data, str(world))
    assert len(data.images) == 12 and len({q.question for q in data.questions}) > 3
    part = next(p for p in COUNTS if p.startswith(task))
    order = {name: k for k, name in enumerate(sorted(data.images.ids, key=lambda i: (len(i), i)))}

    def read(q):
        lines = lines_of(part, order[q.image_id], 0)
        words = q.question.rstrip("?").split()
        line = next((x for x in lines if x.word in words), lines[0])
        if "larger" in words:
            return max((x for x in lines if x.word in [w.strip(",") for w in words]), key=lambda x: int(x.number)).word
        if "lines" in words:
            return str(len(lines))
        return line.word if "first" in words or "written" in words else line.number

    whole = estimates(card.scorer, data.questions, {q.question_id: read(q) for q in data.questions})
    blind = estimates(card.scorer, data.questions, dict.fromkeys((q.question_id for q in data.questions), "7777"))
    assert whole[card.main_metric].value == 1.0 and blind[card.main_metric].value < 0.1
