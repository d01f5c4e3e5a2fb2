"""Suite cards: what they may say, what `suite:NAME` stands for, and that everything they name is there."""

from __future__ import annotations

import pytest

from levl_eval.cards import SuiteCard, parse_card, suites
from levl_eval.cards.registry import any_card, backbone_card, claim_card, suite_card, task_card
from levl_eval.cards.suites import left_out_by_suites, only_of_suites, suite_cards, suites_of, tasks_of
from levl_eval.core.errors import UsageError

ROUGH = {"kind": "suite", "name": "s", "tasks": ["gqa", "pope"]}


def test_the_named_suites_are_there():
    assert {"levljepa-paper", "dense", "global", "cambrian", "quick"} <= {s.name for s in suite_cards()}


@pytest.mark.parametrize("suite", suite_cards(), ids=lambda s: s.name)
def test_what_a_suite_names_is_there(suite: SuiteCard):
    for part in suite.parts:
        for task in part.tasks:
            task_card(task)
        for claim in part.claims:
            card = claim_card(claim)
            assert set(card.roles) <= set(suite.roles), claim
            assert {t.task for t in card.tasks} <= set(part.tasks), claim  # it can be judged on what is run
            assert not any(t.task in part.leave_out.get(b, ()) for t in card.tasks for r in card.roles for b in suite.roles[r]), (
                claim
            )
        for backbone in part.leave_out:
            backbone_card(backbone)
    assert suite.source


def test_a_suite_stands_for_its_tasks():
    paper = suite_card("levljepa-paper")
    assert tasks_of(["suite:levljepa-paper"], "hub") == paper.tasks
    assert paper.scenes is not None and tasks_of(["suite:levljepa-paper"], "scenes") == paper.scenes.tasks
    assert tasks_of(["pope", "suite:levljepa-paper"], "hub")[0] == "pope"
    assert tasks_of(["pope", "suite:levljepa-paper"], "hub").count("pope") == 1
    assert [s.name for s in suites_of(["suite:dense", "gqa", "suite:dense"])] == ["dense"]
    assert "pope" not in only_of_suites(["pope", "suite:levljepa-paper"], "hub") >= {"gqa"}
    assert any_card("suite:dense") == suite_card("dense")


def test_what_a_suite_leaves_out_is_run_where_it_is_named_or_another_suite_has_it(monkeypatch):
    short = parse_card({**ROUGH, "leave_out": {"random-nano": ["gqa"]}}, "s.yaml")
    whole = parse_card({**ROUGH, "name": "w"}, "w.yaml")
    monkeypatch.setattr(suites, "suite_card", {"s": short, "w": whole}.get)
    assert left_out_by_suites(["suite:s"], "scenes") == {("random-nano", "gqa")}
    assert left_out_by_suites(["suite:s", "linear"], "scenes") == {("random-nano", "gqa")}
    for words in (["suite:s", "gqa"], ["suite:s", "suite:w"], ["suite:w"], ["gqa"]):
        assert left_out_by_suites(words, "scenes") == frozenset()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tasks": ["gqa", "gqa"]}, "names a task twice"),
        ({"groups": {"all": ["gqa", "vqav2"]}}, "'vqav2', which is not in `tasks`"),
        ({"groups": {"all": ["gqa"]}}, "at least 2 items"),
        ({"groups": {"all": ["gqa", {"task": "gqa", "metric": "open"}]}}, "weigh double"),
        ({"scenes": {"tasks": []}}, "at least 1 item"),
        ({"averages": {}}, "no such field"),
        ({"leave_out": {"random-nano": ["vqav2"]}}, "`leave_out.random-nano` names 'vqav2', which is not in `tasks`"),
    ],
)
def test_a_bad_suite_is_refused(changes, words):
    with pytest.raises(UsageError, match=words):
        parse_card({**ROUGH, **changes}, "s.yaml")


def test_an_unknown_suite_names_those_there():
    with pytest.raises(UsageError, match=r"unknown suite 'levljepa-papers' \(did you mean.*levljepa-paper"):
        tasks_of(["suite:levljepa-papers"], "hub")
