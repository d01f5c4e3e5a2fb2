"""`--grid`: its forms, its refusals, and a run whose combinations are protocols of their own."""

from __future__ import annotations

import json

import pytest

from levl_eval import UsageError
from levl_eval.cli import main
from levl_eval.runner.grid import split_values, variants
from levl_eval.runner.plan import resolve_tasks


def test_values_are_separated_outside_brackets():
    assert split_values("0.1, 0.2") == ["0.1", "0.2"]
    assert split_values("[0.9,0.99],[0.9,0.95]") == ["[0.9,0.99]", "[0.9,0.95]"]
    assert split_values("'a,b',{x: 1, y: 2}") == ["'a,b'", "{x: 1, y: 2}"]


def test_every_combination_is_a_variant():
    found = variants(["linear.lr=0.1,0.2", "linear.epochs=5,6,7"], ["linear", "zeroshot"])
    assert len(found) == 7 and found[0].label == "linear[lr=0.1, epochs=5]" and found[-1].label == "zeroshot"


@pytest.mark.parametrize(
    "grid, settings, said",
    [
        (["linear.lr"], [], "expected task.field"),
        (["linear.lr=0.1,"], [], "expected task.field"),
        (["pope.lr=1"], [], "is not among --tasks"),
        (["linear.lr=0.1", "linear.lr=0.2"], [], "given twice"),
        (["linear.lr=0.1,0.1"], [], "a value is given twice"),
        (["linear.lr=0.1,0.2"], ["linear.lr=0.3"], "fixed by --set"),
        (["linear.lr=0.1,1e-1"], [], "the same protocol"),
        (["linear.description=a,b"], [], "the same protocol"),
        (["linear.rl=0.1,0.2"], [], "did you mean lr"),
        (["linear.lr=0.1,null"], [], r"^--grid: linear\[lr=null\]: .*field `lr`"),
        (["linear.train.root=a,b"], [], "or a place of data: run those apart"),
        (["linear.validation.share=0.1,0.3", "linear.validation={share: 0.2},{share: 0.4}"], [], "is part of linear.validation"),
        (["linear.validation={share: 0.2},{share: 0.4}", "linear.validation.share=0.1,0.3"], [], "is part of linear.validation"),
        ([f"linear.{f}=" + ",".join(map(str, range(40))) for f in ("epochs", "batch_size")], [], "at most 1,000"),
    ],
)
def test_what_is_refused(grid, settings, said):
    with pytest.raises(UsageError, match=said):
        resolve_tasks(["linear"], settings, "scenes", grid=grid)


def test_cards_of_a_grid_differ_and_keep_their_task_s_name(capsys):
    cards = resolve_tasks(["linear"], ["linear.epochs=3"], "scenes", grid=["linear.lr=0.1,0.01", "linear.bias=true,false"])
    assert len(cards) == 4 and {c.name for c in cards.values()} == {"linear"} and {c.epochs for c in cards.values()} == {3}
    words = ["run", "--backbone", "random-nano", "--tasks", "linear", "--grid", "linear.lr=0.1,0.01", "--dry-run", "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert len({f["protocol_hash"] for f in found}) == 2 and found[0]["variant"] == "linear[lr=0.1]"


@pytest.mark.slow
def test_a_run_shares_features_and_gives_a_record_a_combination(world, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    words = [
        "run",
        "--backbone",
        "random-nano,clip-nano",
        "--tasks",
        "linear",
        "--data",
        str(world),
        "--seeds",
        "0",
        "--set",
        "linear.epochs=2",
    ]
    assert main([*words, "--grid", "linear.lr=0.1,0.01", "--out", str(tmp_path / "r"), "--quiet", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["records"]
    assert len(found) == 4 and len({f["protocol_hash"] for f in found}) == 2
    records = [json.loads(open(f["record"]).read()) for f in found]
    assert all(r["cache"]["feature_misses"] == 0 for r in records[1::2])  # the second head found the first one's features


@pytest.mark.slow
def test_combinations_are_told_apart_and_those_that_a_backbone_makes_one_are_said(world, tmp_path, caplog):
    from levl_eval import evaluate

    words = ["ade20k.score_size=null,64"]  # 64 is the backbone's own
    with caplog.at_level("INFO", logger="levl_eval"):
        records = evaluate(
            ["random-nano"], ["ade20k"], data=str(world), limit=8, seeds=[0], settings=["ade20k.epochs=1", "ade20k.until=epochs"],
            grid=words, out=tmp_path / "o", cache=tmp_path / "c", device="cpu",
        )  # fmt: skip
    assert len({r.key for r in records}) == 1
    assert "random-nano: ade20k[score_size=null] and ade20k[score_size=64] are one protocol for it" in caplog.text
    assert "[2/2] random-nano on ade20k[score_size=64]" in caplog.text
