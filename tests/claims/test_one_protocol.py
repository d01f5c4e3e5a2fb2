"""A protocol that is written in two ways is one: in a claim's share of protocols, in its curve, and in the report's curves."""

from __future__ import annotations

from levl_eval.cards import protocol_of
from levl_eval.cards.base import plain
from levl_eval.cards.registry import task_card
from levl_eval.claims.curve import curve_of
from tests.claims.conftest import answers, write
from tests.claims.test_verdicts import claim, verdict

INFO = {"architecture": {"depth": 4}}


def both(folder, settings, draw=0, sides=(64, 64), skills=(0.7, 0.55)):
    """Two backbones on correspondence, under the card with fields set."""
    card = task_card("spair71k", settings)
    for name, skill, side in zip(("one", "two"), skills, sides, strict=True):
        scores = answers(skill, own=draw + len(name) + ord(name[0]))
        write(
            folder, name, "spair71k", scores, protocol=protocol_of(card), card=dict(plain(card)), info=INFO, engine="correspondence",
            backbone={
                "name": name, "uri": name, "weights_sha256": name, "code": {}, "text": {}, "preprocess": {"size": side}, "info": INFO,
            },
        )  # fmt: skip


def judged(folder):
    return verdict(folder, claim(tasks=[{"task": "spair71k"}]))


def test_a_size_that_is_the_backbones_own_is_one_protocol(tmp_path):
    both(tmp_path, {}, 0)
    both(tmp_path, {"size": "64"}, 0)
    both(tmp_path, {"size": "128"}, 5)
    j = judged(tmp_path)
    assert j.holds_in == (2, 2) and len(curve_of(j).rows) == 2
    assert any("1 of its protocols come to the same" in c and "size=" in c for c in j.caveats)


def test_the_same_protocol_is_one_though_its_two_runs_do_not_agree_to_the_bit(tmp_path):
    """As two runs on a GPU may not: the blocks are the same four."""
    both(tmp_path, {"layers": "[3]"}, 0)
    both(tmp_path, {"layers": "[-1]"}, 1)
    assert judged(tmp_path).holds_in == (1, 1)


def test_blocks_counted_from_either_end_are_one_protocol(tmp_path):
    for layers in ("[3]", "[-1]", "[2]"):
        both(tmp_path, {"layers": layers}, 0 if layers != "[2]" else 9)
    assert judged(tmp_path).holds_in == (2, 2)


def test_the_own_output_and_the_last_block_are_one_where_all_answers_are_equal(tmp_path):
    both(tmp_path, {}, 0)
    both(tmp_path, {"layers": "[-1]"}, 0)
    assert judged(tmp_path).holds_in == (1, 1)


def test_a_size_that_is_one_backbones_own_and_not_the_others_is_two(tmp_path):
    both(tmp_path, {}, 0, sides=(64, 128))
    both(tmp_path, {"size": "64"}, 7, sides=(64, 128))
    assert judged(tmp_path).holds_in == (2, 2)


def test_protocols_that_differ_in_more_stay_two_with_equal_answers(tmp_path):
    both(tmp_path, {}, 0)
    both(tmp_path, {"query": "token"}, 0)
    assert judged(tmp_path).holds_in == (2, 2)
