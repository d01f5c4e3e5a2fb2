"""What a record says of its head's convergence."""

from __future__ import annotations

import pytest

from levl_eval.records.convergence import RULE, converged
from tests.report.test_joins import job

EARLIER = RULE.replace("at most 0.02", "at most 0.05")


@pytest.mark.parametrize(
    ("note", "wanted"),
    [
        (None, None),
        ({"rule": RULE, "value": 0.004, "converged": True}, True),
        ({"rule": RULE, "value": 0.3, "converged": True}, True),  # nothing to learn: a value says nothing there
        ({"rule": RULE, "value": None, "converged": False}, False),
        ({"rule": EARLIER, "value": 0.049, "converged": True}, False),
        ({"rule": EARLIER, "value": 0.012, "converged": True}, True),
        ({"rule": "solved in closed form", "value": 0.0, "converged": True}, True),
        ({"rule": "gradient norms below a tolerance", "value": 3.0, "converged": True}, True),
        ({"a": {"converged": True, "value": 0.04, "rule": EARLIER}, "b": {"converged": True, "value": 0.0, "rule": RULE}}, False),
    ],
)
def test_an_earlier_milder_rule_is_judged_again(tmp_path, note, wanted):
    record = job(tmp_path, "a")
    record.notes = {} if note is None else {"converged": note}
    assert converged(record) is wanted
