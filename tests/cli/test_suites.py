"""The claims of a suite, judged when its run ends."""

from __future__ import annotations

import numpy as np
import pytest

from levl_eval.cards.registry import suite_card
from levl_eval.cli.suites import claims_of, players, verdicts
from levl_eval.records import read_records
from tests.claims.conftest import write

PAPER = [suite_card("levljepa-paper")]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    level = rng.random((200, 1))
    for name, skill in (("levljepa-nano", 0.3), ("clip-nano", 0.6), ("siglip-nano", 0.6)):
        write(out, name, "zeroshot", (level < skill).astype(float))
    return read_records(out)


def test_claims_are_those_of_the_kind_of_data():
    assert {c.data for c in claims_of(PAPER, "hub")} == {"published"}
    assert {c.data for c in claims_of(PAPER, "scenes")} == {"scenes"}


def test_roles_are_the_suites_unless_named():
    names = ["levljepa-nano", "clip-nano", "mine"]
    assert players(PAPER, names, {}) == {"levljepa": ["levljepa-nano"], "clip": ["clip-nano"]}
    assert players(PAPER, names, {"levljepa": ["mine"]})["levljepa"] == ["mine"]


def test_claims_are_judged_on_the_runs_records(records):
    found = verdicts(PAPER, records, "scenes", {})
    by_name = {j.card.name: j.verdict for j in found.judged}
    assert by_name["scenes-zeroshot-lower"] == "supported"
    assert by_name["scenes-dense-better"] == "undecided" and not found.left
    assert any("scenes-zeroshot-lower: SUPPORTED" in line for line in found.lines()) and len(found.as_list()) == 4


def test_a_role_that_nobody_plays_is_told(records):
    two = [r for r in records if r.backbone_name != "siglip-nano"]
    found = verdicts(PAPER, two, "scenes", {})
    assert not found.judged
    assert found.left[0].endswith("was not judged: no backbone of this run plays siglip; add --as siglip=BACKBONE")
    again = verdicts(PAPER, two, "scenes", {"siglip": ["nobody"]})
    assert not again.judged and "were not judged" in again.left[0]
