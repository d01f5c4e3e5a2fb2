"""Claim cards: the shipped ones, and what is refused in one line."""

from __future__ import annotations

import json

import pytest

from levl_eval import UsageError
from levl_eval.cards import parse_card
from levl_eval.cards.registry import claim_card, claim_files, set_names, task_card
from levl_eval.claims.published import published_differences
from levl_eval.cli import main

GOOD = {
    "kind": "claim", "name": "c", "statement": "a is above b", "roles": {"a": "one", "b": "other"}, "subject": "a", "against": ["b"],
    "relation": "greater", "tasks": [{"task": "gqa"}],
}  # fmt: skip


def test_the_shipped_cards_are_about_tasks_and_metrics_that_exist():
    assert {"dense-better", "linear-on-par", "zeroshot-lower", "backgrounds-smaller-drop"} <= set(claim_files())
    for name in claim_files():
        card = claim_card(name)
        assert card.name == name and card.source
        for t in card.tasks:
            task = task_card(t.task)
            assert t.metric == task.main_metric or task.engine == "backgrounds", (name, t.task)
    assert set_names()  # zeroshot@imagenet and the like are resolved through them


def test_published_numbers_stand_beside_every_test_of_the_paper_s_claims():
    signs = {"greater": 1, "less": -1}
    for name in ("dense-better", "linear-on-par", "zeroshot-lower", "backgrounds-smaller-drop"):
        card = claim_card(name)
        for t in card.tasks:
            for other in card.against:
                found = published_differences(card, t.task, t.metric, other)
                assert found and all(p.source and p.grade for p in found), (name, t.task)
                for p in found:  # the card says of them what the paper does
                    assert abs(p.value) < card.margin if card.relation == "equivalent" else signs[card.relation] * p.value > 0
    gqa = published_differences(claim_card("dense-better"), "gqa", "accuracy", "clip")
    assert [(p.value, p.llm) for p in gqa] == [(1.9, "Llama-1B"), (1.5, "Qwen-1.5B")]
    ade = published_differences(claim_card("dense-better"), "ade20k", "mean_iou", "siglip")
    assert [p.value for p in ade] == [3.91]


@pytest.mark.parametrize(
    "change, said",
    [
        ({"subject": "x"}, "`subject` names 'x'"),
        ({"against": ["a"]}, "the subject itself"),
        ({"against": []}, "`against`"),
        ({"roles": {"a": "", "b": "", "c": ""}}, "role 'c' is neither"),
        ({"relation": "better"}, "`relation`"),
        ({"relation": "equivalent"}, "needs a `margin` above 0"),
        ({"margin": -1}, "`margin`"),
        ({"margin": float("nan")}, "`margin`"),
        ({"margin": True}, "`margin`"),
        ({"tasks": [{"task": "gqa"}, {"task": "gqa"}]}, "`tasks` has an entry twice"),
        ({"tasks": [{"task": "gqa", "metrics": "x"}]}, "metrics"),
        ({"over": {"pretraining_seeds": 0}}, "pretraining_seeds"),
        ({"against": "b"}, "`against`"),
        ({"relatio": "greater"}, "did you mean relation"),
        ({"kind": "klaim"}, "field `kind`: expected"),
        ({"published": {"z": "LeVLJEPA"}}, "`published` names 'z'"),
    ],
)
def test_a_bad_card_is_one_line_with_the_field(change, said):
    with pytest.raises(UsageError) as e:
        parse_card({**GOOD, **change}, "my.yaml")
    assert str(e.value).startswith("my.yaml: ") and said in str(e.value) and "\n" not in str(e.value)


def test_list_and_show(capsys, tmp_path):
    assert main(["list", "claims"]) == 0 and "dense-better" in capsys.readouterr().out
    assert main(["show", "linear-on-par", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["margin"] == 2.5
    (tmp_path / "task.yaml").write_text("kind: recipe\nname: x\ntrain: {layout: gqa}\n")
    with pytest.raises(UsageError, match="task.yaml"):
        claim_card(str(tmp_path / "task.yaml"))
    assert main(["claims", str(tmp_path)]) == 2 and "no finished records" in capsys.readouterr().err
