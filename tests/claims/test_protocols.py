"""Claims on directories that hold several protocols, data or failures: every test is of the protocol that its line names."""

from __future__ import annotations

import json

import pytest

from levl_eval.claims import finished_records
from levl_eval.claims.curve import curve_of
from levl_eval.claims.evidence import roles_of
from levl_eval.claims.verdict import Judge
from levl_eval.cli import main
from levl_eval.records import write_record
from tests.claims.conftest import answers, record, write
from tests.claims.test_verdicts import AS, claim, verdict


def both(folder, skills=(0.7, 0.55), **changes):
    for name, skill in zip(("one", "two"), skills, strict=True):
        write(folder, name, "gqa", answers(skill, own=len(name) + ord(name[0])), **changes)


def test_a_test_is_told_by_the_main_metric_of_its_own_protocol(tmp_path):
    from levl_eval.metrics.statistics import mean_estimate

    for k in (5, 20, 50):
        metric = f"top1_k{min(k, 20)}"
        for name, skill in (("one", 0.7), ("two", 0.55)):
            scores = answers(skill, own=k + len(name))
            estimate = {metric: mean_estimate(scores.reshape(-1))}
            # the helper writes the samples of its own metric's name; the main metric follows from the protocol here
            write(tmp_path, name, "knn", scores, protocol={"k": k}, main_metric=metric, metrics=estimate)
    j = verdict(tmp_path, claim(tasks=[{"task": "knn"}]))
    assert {(d.metric, dict(d.choices)["k"]) for d in j.differences} == {("top1_k5", "5"), ("top1_k20", "20"), ("top1_k20", "50")}
    assert j.holds_in == (3, 3)


@pytest.mark.parametrize("data, source", [("published", "/d"), ("scenes", "scenes")])
@pytest.mark.parametrize("first", [0, 1])  # in the order of file names
def test_rows_of_data_that_a_claim_is_not_about_are_no_evidence(tmp_path, data, source, first):
    for number, (where, skills) in enumerate((("/d", (0.7, 0.55)), ("scenes", (0.55, 0.7)))):
        for name, skill in zip(("one", "two"), skills, strict=True):
            identity = f"{number ^ first}{name}{'0' * 60}"
            write(
                tmp_path, name, "gqa", answers(skill, own=ord(name[0])), source=where, fingerprint=where, identity_hash=identity
            )
    j = verdict(tmp_path, claim(data=data))
    assert [d.contrast is not None for d in j.differences] == [True] and not j.reasons
    assert j.verdict == {"/d": "supported", "scenes": "contradicted"}[source]
    assert any("1 of 2 protocols are of data that the claim is not about" in c for c in j.caveats)


def test_roles_that_share_protocols_with_the_subject_but_not_with_each_other_are_all_tested(tmp_path):
    """Only the first of the shared ones was, whatever the others said; and `any` protocol stood for `all` roles."""
    for lr, three in ((0.1, None), (0.2, None), (0.3, 0.9)):
        write(tmp_path, "one", "gqa", answers(0.7, own=int(lr * 10)), protocol={"lr": lr})
        name, skill = ("two", 0.55 if lr == 0.1 else 0.9) if three is None else ("three", three)
        write(tmp_path, name, "gqa", answers(skill, own=int(100 * lr)), protocol={"lr": lr})
    roles = {"roles": {"a": "", "b": "", "c": ""}, "against": ["b", "c"]}
    named = {**AS, "c": ["three"]}
    j = verdict(tmp_path, claim(**roles), named)
    assert {(d.other, dict(d.choices)["lr"]) for d in j.differences} == {("b", "0.1"), ("b", "0.2"), ("c", "0.3")}
    assert j.verdict == "contradicted" and any("no protocol was run by all roles" in c for c in j.caveats)
    assert verdict(tmp_path, claim(**roles, over={"protocols": "any"}), named).verdict == "contradicted"  # never above c
    assert verdict(tmp_path, claim(**roles, over={"protocols": "any", "against": "any"}), named).verdict == "supported"


def test_protocols_that_differ_behind_the_sixtieth_character_are_told_apart(tmp_path):
    long = "Answer in one word, as short as you can, and say nothing else at all"
    for text in (f"{long}.", f"{long}!"):
        both(tmp_path, protocol={"prompt": text, "names": ["a" * 64, text]})
    j = verdict(tmp_path)
    shown = [dict(d.choices) for d in j.differences]
    assert len({s["prompt"] for s in shown}) == 2 and len({s["names"] for s in shown}) == 2


def test_other_test_sets_count_as_protocols_and_are_told(tmp_path):
    both(tmp_path, fingerprint="x", limit=20)
    both(tmp_path, fingerprint="y")
    assert any("2 test sets (limits 20, none), each of which counts" in c for c in verdict(tmp_path).caveats)


def test_failed_jobs_are_named(tmp_path, capsys):
    both(tmp_path)
    failed = record("one", "gqa", {}, protocol={"lr": 9}, status="failed", reason="no room")
    write_record(tmp_path, failed)
    card = tmp_path / "mine.yaml"
    card.write_text(json.dumps({**claim().model_dump(mode="json"), "name": "mine"}))
    words = ["claims", str(tmp_path), "--as", "a=one", "--as", "b=two", "--claims", str(card)]
    assert main(words) == 0
    assert "failed, and in no verdict: one on gqa, seed 0: no room" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["failed"] == ["one on gqa, seed 0: no room"]


def test_a_curve_without_tests_says_so(tmp_path):
    both(tmp_path)
    (judged,) = Judge(roles_of(finished_records([tmp_path]), {"a": ["one"]})).judge([claim()])
    assert curve_of(judged).lines() == ["no difference could be tested, so there is no curve"]
