"""Planning: the planned images reach about the power asked, by simulation of whole data sets that is apart from the planner's."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from levl_eval import UsageError
from levl_eval.cards import parse_card
from levl_eval.claims import finished_records, judge
from levl_eval.claims.plan import images_needed, plan, power_of
from levl_eval.cli import main
from levl_eval.metrics.crossed import Components, crossed
from levl_eval.metrics.equivalence import evidence
from tests.claims.test_cards import GOOD


def simulated(parts, images, seeds, relation, margin, runs=500):
    """Share of drawn runs in which the difference is shown."""
    rng = np.random.default_rng(99)
    true = {"greater": margin, "less": -margin, "equivalent": 0.0}[relation]
    shown = 0
    for _ in range(runs):
        d = (
            true
            + np.sqrt(parts.image) * rng.standard_normal((1, images))
            + np.sqrt(parts.rest) * rng.standard_normal((seeds, images))
        )
        d = d + (np.sqrt(parts.seed) * rng.standard_normal((seeds, 1)) if seeds > 1 else 0.0)
        shown += bool(evidence(crossed(d), relation, margin if relation == "equivalent" else 0.0).support <= 0.05)
    return shown / runs


@pytest.mark.slow
@pytest.mark.parametrize(
    "parts, seeds, relation, margin",
    [
        (Components(0.0, 0.04, 0.0), 1, "greater", 0.03),
        (Components(0.0001, 0.02, 0.05), 5, "less", 0.03),
        (Components(0.00005, 0.03, 0.03), 3, "greater", 0.04),
        (Components(0.0, 0.04, 0.0), 1, "equivalent", 0.04),
        (Components(0.00005, 0.02, 0.02), 5, "equivalent", 0.03),
    ],
)
def test_the_planned_images_reach_about_the_power(parts, seeds, relation, margin):
    n = images_needed(parts, seeds, relation, margin, 0.8)
    assert n is not None and 30 < n < 3_000
    assert simulated(parts, n, seeds, relation, margin) == pytest.approx(0.8, abs=0.06)
    assert power_of(parts, n // 3, seeds, relation, margin) < 0.6


def test_where_seeds_differ_too_much_no_number_of_images_is_enough():
    parts = Components(0.0025, 0.04, 0.0)
    assert images_needed(parts, 2, "greater", 0.02, 0.8) is None
    assert images_needed(parts, 2, "greater", 1.5, 0.8) is not None


def test_a_claim_beyond_a_margin_is_planned_by_its_own_test(run):
    """A true difference of 4 is found beyond 2 as one of 2 is beyond 0, and one of 2 never is."""
    folder = run(one=0.6, two=0.55, tasks=("gqa",))

    def judged(margin):
        card = parse_card({**GOOD, "relation": "greater", "margin": margin, "tasks": [{"task": "gqa"}]}, "c")
        return judge([card], finished_records([folder]), {"a": ["one"], "b": ["two"]})[0]

    plain, beyond = plan(judged(0.0), 2.0, 0.8), plan(judged(2.0), 4.0, 0.8)
    assert beyond.needs[0][1] == pytest.approx(plain.needs[0][1], rel=0.05) and beyond.differences[0].now[2] < 0.9
    assert plan(judged(0.0), 4.0, 0.8).needs[0][1] < 0.5 * beyond.needs[0][1]
    for margin in (None, 2.0):
        with pytest.raises(UsageError, match="--margin 2: c asks for a difference beyond 2"):
            plan(judged(2.0), margin, 0.8)


@pytest.mark.slow
def test_the_command_and_its_refusals(run, tmp_path, capsys):
    folder = run(one=0.6, two=0.55, seeds=(0, 1, 2))
    card = tmp_path / "c.yaml"
    card.write_text(yaml.safe_dump({**GOOD, "tasks": [{"task": "gqa"}, {"task": "linear"}]}))
    words = ["plan", str(card), str(folder), "--as", "a=one", "--as", "b=two"]
    assert main([*words, "--margin", "2"]) == 0
    out = capsys.readouterr().out
    assert "5 head seeds:" in out and "all of them:" in out and max(map(len, out.splitlines())) <= 80
    assert main([*words, "--margin", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (
        found["power_each"] == pytest.approx(0.9)
        and len(found["differences"]) == 2
        and found["differences"][0]["now"][:2] == [200, 3]
    )
    for wrong, said in (([], "--margin 0"), (["--margin", "2", "--power", "1"], "--power 1"), (["--margin", "-1"], "--margin")):
        assert main([*words, *wrong]) == 2 and said in capsys.readouterr().err
    judged = judge(
        [parse_card({**GOOD, "tasks": [{"task": "pope"}]}, "c")], finished_records([folder]), {"a": ["one"], "b": ["two"]}
    )[0]
    with pytest.raises(UsageError, match=r"nothing of c was run: pope: was not run"):
        plan(judged, 1.0, 0.8)
