"""`show` prints what means something for a card, and what it prints is that card."""

from __future__ import annotations

import pytest
import yaml

from levl_eval.cards import parse_card, protocol_of
from levl_eval.cards.registry import names, task_card
from levl_eval.cli import main


@pytest.mark.parametrize("name", names("tasks"))
def test_what_is_shown_reads_back_as_the_same_protocol(name, capsys):
    assert main(["show", f"tasks/{name}"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert protocol_of(parse_card(shown, name)) == protocol_of(task_card(name))


def test_questions_are_shown_without_what_only_masks_have(capsys):
    assert main(["show", "gqa"]) == 0
    assert "reduce_zero_label" not in capsys.readouterr().out
    assert main(["show", "ade20k"]) == 0
    assert "reduce_zero_label: true" in capsys.readouterr().out
