"""`--budget`, score against budget, the mark of heads that were not trained out, and dose and response."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from levl_eval.cards.budget import budget_of, budget_words, parse_budgets
from levl_eval.cards.registry import task_card
from levl_eval.core.errors import UsageError
from levl_eval.metrics.statistics import mean_estimate
from levl_eval.records import Sample, write_record
from levl_eval.report import wide
from levl_eval.report.budget import budget_notes, budgets
from levl_eval.report.facts import of_record
from levl_eval.report.html import build
from levl_eval.report.protocol_curves import protocol_curves
from levl_eval.report.results import Results
from levl_eval.report.sight import doses
from levl_eval.report.tables import all_notes, late_mark, lines, rows

from tests.report.conftest import record  # isort: skip


def write(out, name, epochs, skill, converged=True, seed=0, fields=None, **info):
    scores = (np.random.default_rng(seed).random(300) < skill).astype(float)
    r = record(
        name, "linear", "top1", {"top1": mean_estimate(scores)},
        protocol={"name": "linear", "epochs": epochs, "until": "epochs", **(fields or {})},
    )  # fmt: skip
    r = r.model_copy(
        update={
            "protocol_hash": hashlib.sha256(f"{epochs} {fields}".encode()).hexdigest(),
            "notes": {"converged": {"converged": converged}},
        }
    )
    r.backbone["info"] = info
    write_record(out, r, [Sample(id=str(i), image_id=str(i), prediction="a", target="a", score=s) for i, s in enumerate(scores)])


def test_the_field_that_says_how_long():
    found = {
        name: budget_of(task_card(name, default_recipe="scenes"))
        for name in ("linear", "ade20k", "attentive", "gqa", "knn", "zeroshot")
    }
    assert found == {
        "linear": ("epochs", 50), "ade20k": ("epochs", 30), "attentive": ("epochs", 20), "gqa": ("recipe.epochs", 2.0), "knn": None,
        "zeroshot": None,
    }  # fmt: skip
    assert budget_of(task_card("linear", {"until": "converged"})) is None is budget_of(task_card("nyuv2"))  # by held-out images
    assert budget_of(task_card("gqa", {"recipe.steps": "70"}, default_recipe="scenes")) == ("recipe.steps", 70)


def test_budgets_become_words_of_a_grid():
    cards = {t: task_card(t, default_recipe="scenes") for t in ("linear", "gqa", "knn")}
    assert budget_words(cards, parse_budgets("x4,x2")) == ["linear.epochs=50,100,200", "gqa.recipe.epochs=2,4,8"]
    assert budget_words(cards, []) == ["linear.epochs=50", "gqa.recipe.epochs=2"]
    for words in ("x1", "2,2", "x2.5", "twice", "x100"):
        with pytest.raises(UsageError, match="--budget"):
            parse_budgets(words)
    with pytest.raises(UsageError, match="none of knn trains a head"):
        budget_words({"knn": cards["knn"]}, [2])


def test_a_head_that_is_the_limit_is_told_and_drawn(tmp_path):
    for name, few, many in (("a", 0.5, 0.5), ("b", 0.3, 0.9)):
        write(tmp_path, name, 50, few, converged=name == "a")
        write(tmp_path, name, 100, many)
    results = Results.read([tmp_path])
    (group,) = budgets(results)
    assert (group.field, [b for b, _ in group.rows]) == ("epochs", [50, 100])
    (note,) = budget_notes(results)
    assert note.startswith("linear: epochs 100 instead of 50 changes b +6") and note.endswith("it reverses the order of a and b")
    assert note in all_notes(results) and "score against budget" in build(results)


def test_more_budget_that_moves_nothing_is_told_too(tmp_path):
    for name in ("a", "b"):
        write(tmp_path, name, 50, 0.5)
        write(tmp_path, name, 100, 0.5)
    assert budget_notes(Results.read([tmp_path])) == ["linear: epochs 100 instead of 50 changes no score significantly"]


def test_each_protocol_of_a_grid_is_named_where_its_lengths_are_compared(tmp_path):
    for lr, many in ((0.1, 0.5), (0.2, 0.9)):
        write(tmp_path, "a", 50, 0.5, fields={"lr": lr})
        write(tmp_path, "a", 100, many, fields={"lr": lr})
    results = Results.read([tmp_path])
    still, moved = sorted(budget_notes(results))
    assert still == "linear (lr=0.1): epochs 100 instead of 50 changes no score significantly"
    assert moved.startswith("linear (lr=0.2): epochs 100 instead of 50 changes a +")
    marks = {r["mark"] for r in rows(results)}
    assert marks == {f"(epochs={epochs}, lr={lr})" for epochs in (50, 100) for lr in (0.1, 0.2)}
    page = build(results)
    assert "linear (lr=0.1): score against budget" in page and "linear (lr=0.2): score against budget" in page


def test_values_of_heads_that_were_still_learning_carry_a_mark(tmp_path):
    write(tmp_path, "done", 50, 0.5)
    write(tmp_path, "late", 50, 0.5, converged=False)
    results = Results.read([tmp_path])
    shown = {line.split()[0]: line for line, _ in lines(results) if line.startswith("  ")}
    assert "]*" in shown["late"] and "*" not in shown["done"]
    assert any(n.startswith("* linear: the head or connector had not converged") for n in all_notes(results))
    assert wide.markdown(results).count("]*") == 1
    assert [c["converged"] for c in wide.as_json(results)[0]["cells"].values()] == [True, False]


def test_another_length_of_training_settles_what_a_loss_curve_cannot(tmp_path):
    """A loss on what is learnt by heart never stops falling: where the score no longer moves the star goes; where it moves it comes."""
    for name, few, many in (("still", 0.5, 0.5), ("moved", 0.3, 0.9)):
        write(tmp_path, name, 50, few, converged=name == "moved")
        write(tmp_path, name, 100, many, converged=name == "moved")
    results = Results.read([tmp_path])
    short, long = (row for _, row in budgets(results)[0].rows)
    for row in (short, long):  # the longer one by the shorter: nothing came of twice the training
        assert late_mark(results, row, "still") == "" and late_mark(results, row, "moved") == "*"
    assert {(r["backbone"], r["converged"]) for r in rows(results)} == {("still", "1"), ("moved", "0")}
    found = results.effect_of_length(short, "moved")
    assert (found.field, found.few, found.many, found.held) == ("epochs", 50, 100, False) and found.change.low > 0
    panel = dict(of_record(results, short, "still", short.cells["still"].records[0]))["training"]
    assert panel[0].startswith("NOT converged") and panel[-1].startswith("epochs 100 instead of 50: +0.0")
    assert "trained out (rule: training of at least 2 times" in panel[-1]


def test_the_longest_training_decides(tmp_path):
    """Two small steps that no interval tells from none add up to one that does."""
    for epochs, skill in ((50, 0.5), (100, 0.505), (200, 0.6)):
        write(tmp_path, "slow", epochs, skill, converged=True)
    results = Results.read([tmp_path])
    verdicts = {value: late_mark(results, row, "slow") for value, row in budgets(results)[0].rows}
    assert verdicts[50] == "*" and results.effect_of_length(budgets(results)[0].rows[0][1], "slow").many == 200


def test_a_length_that_says_too_little_leaves_the_verdict_to_the_loss_curve(tmp_path):
    for epochs in (50, 90):  # less than twice
        write(tmp_path, "near", epochs, 0.5, converged=False)
    for epochs in (50, 100):  # answers that have nothing to do with each other: a paired interval wider than the score's
        write(tmp_path, "wide", epochs, 0.5, converged=False, seed=epochs // 50)
    results = Results.read([tmp_path])
    by_length = {value: row for group in results.lengths for value, r in group.examples for row in results.rows if row.any is r}
    assert results.effect_of_length(by_length[90], "near") is None and late_mark(results, by_length[90], "near") == "*"
    assert results.effect_of_length(by_length[100], "wide").held is None and late_mark(results, by_length[100], "wide") == "*"


def test_doses_are_lines_by_rising_share(tmp_path):
    for keep in (1.0, 0.0, 0.5):
        write(
            tmp_path,
            f"oracle:classes?keep={keep:g}",
            50,
            0.1 + 0.8 * keep,
            oracle={"kind": "classes", "keep": keep, "noise": 0.0},
        )
    write(tmp_path, "oracle:classes?noise=1", 50, 0.5, oracle={"kind": "classes", "keep": 1.0, "noise": 1.0})
    results = Results.read([tmp_path])
    ((title, kind, points),) = doses(results)
    assert (title, kind, [x for x, _ in points]) == ("linear", "classes", [0.0, 0.5, 1.0])
    assert points[0][1].value < points[1][1].value < points[2][1].value
    assert "Dose and response" in build(results)


def test_gains_under_several_protocols_are_a_specification_curve(tmp_path):
    for epochs, skill in ((50, 0.4), (100, 0.7), (200, 0.9)):
        write(tmp_path, "random", epochs, 0.5, baseline=True)
        write(tmp_path, "mine", epochs, skill)
    results = Results.read([tmp_path])
    ((task, whose, points),) = protocol_curves(results)
    assert (task, whose) == ("linear", "mine over random")
    assert [dict(p.choices) for p in points] == [{"epochs": e} for e in ("50", "100", "200")]
    assert [p.verdict for p in points] == ["contradicted", "supported", "supported"] and points[0].high < 0 < points[1].low
    assert "significantly above zero in 2 of 3" in build(results)
