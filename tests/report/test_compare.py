"""Comparisons: refusals, verdicts, families, seeds, and the command's forms."""

from __future__ import annotations

import json
from collections import deque

import numpy as np
import pytest

import levl_eval
from levl_eval import ProtocolMismatch, UsageError
from levl_eval.cli import main
from levl_eval.metrics.permutation import sign_flip_test
from levl_eval.metrics.statistics import mean_estimate
from levl_eval.records import Sample, read_records, write_record
from levl_eval.report.compare import compare, compare_all, differing_fields
from tests.report.conftest import fill, record, tie_samples


def of(run_dir, name, task):
    return sorted((r for r in read_records(run_dir) if r.backbone["name"] == name and r.task == task), key=lambda r: r.seed)


def test_better_is_said_and_twins_are_not_told_apart(run_dir):
    c = levl_eval.compare(of(run_dir, "good", "gqa")[0], of(run_dir, "random", "gqa")[0])
    assert c.difference.low > 0 and c.p < 0.001 and "good is better than random by" in c.verdict
    assert c.values[0] == pytest.approx(of(run_dir, "good", "gqa")[0].metrics["accuracy"].value)
    assert c.difference.value == pytest.approx(c.values[0] - c.values[1]) and c.images == 40 and c.items == 240
    twins = compare(of(run_dir, "fair", "gqa")[0], of(run_dir, "fair-twin", "gqa")[0])
    assert "no difference shown" in twins.verdict and "points is possible" in twins.verdict
    assert twins.p == pytest.approx(compare(of(run_dir, "fair-twin", "gqa")[0], of(run_dir, "fair", "gqa")[0]).p, abs=0.02)


def test_most_different_samples_have_the_answers_of_both(run_dir):
    c = compare(of(run_dir, "good", "gqa")[0], of(run_dir, "random", "gqa")[0], most=4)
    assert len(c.most_different) == 4 and sum(c.wins) >= 4
    d = c.most_different[0]
    assert abs(d.scores[0] - d.scores[1]) == 1.0 and d.question and set(d.predictions) == {"yes", "no"}


def test_seeds_are_averaged_and_their_spread_is_apart(run_dir):
    a, b = of(run_dir, "good", "linear"), of(run_dir, "random", "linear")
    c = compare(a, b)
    assert compare(deque(a), tuple(b)).difference == c.difference  # any sequence of records is a side
    each = [compare(x, y).difference.value for x, y in zip(a, b, strict=True)]
    assert c.seeds == (0, 1, 2) and c.difference.value == pytest.approx(np.mean(each))
    assert c.seed_sd == pytest.approx(np.std(each, ddof=1)) and compare(a[0], b[0]).seed_sd is None
    with pytest.raises(UsageError, match="no seed in common"):
        compare(a[:2], b[2:])


def test_mean_iou_is_paired_by_image(run_dir):
    c = compare(of(run_dir, "good", "ade20k")[0], of(run_dir, "fair", "ade20k")[0])
    assert c.difference.low > 0 and c.difference.method.startswith("paired cluster bootstrap")
    assert c.values[0] == pytest.approx(of(run_dir, "good", "ade20k")[0].metrics["mean_iou"].value)


def test_of_an_error_the_smaller_is_the_better(tmp_path, capsys):
    for name, level in (("near", 0.3), ("far", 0.7)):
        errors = level + 0.1 * np.random.default_rng(len(name)).random(30)
        samples = [Sample(id=f"i{k}", image_id=f"i{k}", score=float(e)) for k, e in enumerate(errors)]
        write_record(tmp_path, record(name, "depth", "rmse", {"rmse": mean_estimate(errors)}, engine="depth"), samples)
    near, far = of(tmp_path, "near", "depth")[0], of(tmp_path, "far", "depth")[0]
    c = compare(near, far)
    assert c.verdict.startswith("near is better than far by 0.388 in rmse") and c.wins == (30, 0)
    assert compare(far, near).verdict.startswith("near is better than far by 0.388 in rmse") and compare(far, near).wins == (
        0,
        30,
    )
    for form in ("table", "md", "html"):
        assert main(["leaderboard", str(tmp_path), "--format", form]) == 0
        assert "ower is better for rmse" in capsys.readouterr().out
    with_itself = compare(near, near)
    assert "anything from +0.000 to +0.000 in rmse is possible" in with_itself.verdict


def test_other_protocol_or_data_is_refused_with_the_fields(run_dir, tmp_path):
    other = fill(
        tmp_path, ("other",), ("gqa",), protocol_hash="99" * 32, protocol={"name": "gqa", "prompt": {"template": "Q", "max_new_tokens": 4}},
        data={"fingerprint": "ffff"},
    )  # fmt: skip
    a, b = of(run_dir, "good", "gqa")[0], read_records(other)[0]
    with pytest.raises(ProtocolMismatch, match=r"prompt.max_new_tokens 8 against 4; data.test differs: .* against ffff") as e:
        compare(a, b)
    assert "\n" not in str(e.value) and "--allow-mismatch" in str(e.value)
    c = compare(a, b, allow_mismatch=True)
    assert c.verdict.startswith("NOT COMPARABLE as measured (prompt.max_new_tokens 8 against 4")


def test_differing_fields_names_what_is_missing_and_nested():
    a = {"x": {"y": [1, 2]}, "only": 1, "none": None}
    assert differing_fields(a, {"x": {"y": [1, 3]}, "more": "z"}) == [
        "x.y.1 2 against 3",
        "only only in the first (1)",
        "more only in the second (z)",
    ]


def test_a_family_is_adjusted_and_every_pair_is_there(run_dir):
    sides = [{t: of(run_dir, n, t) for t in ("gqa", "pope")} for n in ("good", "fair", "random")]
    found = compare_all(sides)
    assert [(c.a, c.b, c.task) for c in found[:3]] == [
        ("good", "fair", "gqa"),
        ("good", "fair", "pope"),
        ("good", "random", "gqa"),
    ]
    assert len(found) == 6 and all(c.family == 6 and c.p_holm >= c.p for c in found)
    assert "after adjustment for 6 comparisons" in found[2].verdict


def test_failed_answers_are_left_out_of_both_sides(tmp_path):
    def written(name, scores):
        samples = [
            Sample(id=str(i), image_id=str(i), score=s, status="ok" if s is not None else "failed: timeout")
            for i, s in enumerate(scores)
        ]
        known = [s for s in scores if s is not None]
        value = sum(known) / len(known)
        r = record(name, "gqa", "accuracy", {"accuracy": {"value": value}})
        write_record(tmp_path, r, samples)
        return r

    c = compare(written("a", [1, 1, None, 1, 0]), written("b", [0, 1, 1, 0, 0]))
    assert c.items == 4 and c.left_out == 1 and c.values == (0.75, 0.25)
    assert c.p == sign_flip_test(np.array([1.0, 0, 1, 0])).p == 0.5


def test_failed_records_and_samples_that_do_not_give_the_metric_are_told(run_dir, tmp_path):
    failed = of(run_dir, "random", "zeroshot")[0]
    with pytest.raises(UsageError, match="failed .no text encoder.; there is nothing"):
        compare(failed, of(run_dir, "good", "zeroshot")[0])
    fill(tmp_path, ("good", "fair"), ("gqa",))
    path = next((tmp_path / "samples").glob("*good*"))
    path.write_text(path.read_text().replace('"score": 1.0', '"score": 0.0', 5))
    a, b = read_records(tmp_path)
    with pytest.raises(UsageError, match="not the samples its record was written with"):
        compare(a, b)
    tie_samples(tmp_path, path.stem)
    a, b = read_records(tmp_path)
    with pytest.raises(UsageError, match="from the samples is .* the record says"):
        compare(a, b)
    path.write_text(path.read_text()[:-30])
    with pytest.raises(UsageError, match="line 240 is no sample"):
        compare(a, b)
    with pytest.raises(UsageError, match="was not read from a run directory"):
        compare(record("x", "gqa", "accuracy", {"accuracy": {"value": 1}}), b)


def test_command_in_80_columns_and_as_json(run_dir, capsys):
    assert main(["compare", f"{run_dir}:good", "random", "fair", "--in", str(run_dir), "--differ", "2"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80 and "\x1b" not in out
    assert "good is better than random" in " ".join(out.split()) and "Holm" in out
    assert main(["compare", "good", "random", "--in", str(run_dir), "--tasks", "linear", "--json"]) == 0
    (c,) = json.loads(capsys.readouterr().out)
    assert c["task"] == "linear" and c["seeds"] == [0, 1, 2] and c["verdict"] and c["difference"]["low"] > 0
    one = str(next((run_dir / "records").glob("gqa--good*")))
    two = str(next((run_dir / "records").glob("gqa--fair--*")))
    assert main(["compare", one, two]) == 0


@pytest.mark.parametrize(
    "words, told",
    [
        (["good"], "at least two sides"),
        (["good", "randm"], "holds no backbone 'randm' (did you mean random?)"),
        (["{run}", "good"], "holds 4 backbones"),
        (["good", "random", "--tasks", "depth"], "no side has task 'depth'"),
        (["good", "nowhere.json"], "nowhere.json: cannot be read (No such file"),
    ],
)
def test_wrong_sides_are_told_in_one_line(run_dir, capsys, words, told):
    assert main(["compare", *(w.format(run=run_dir) for w in words), "--in", str(run_dir)]) == 2
    err = capsys.readouterr().err
    assert told in err and err.count("\n") == 1


def test_mismatch_is_exit_code_2_and_can_be_allowed(run_dir, tmp_path, capsys):
    fill(tmp_path, ("other",), ("gqa",), protocol_hash="99" * 32, protocol={"name": "gqa"})
    words = ["compare", f"{run_dir}:good", str(tmp_path)]
    assert main(words) == 2
    assert "were not measured alike: prompt only in the first" in capsys.readouterr().err
    assert main([*words, "--allow-mismatch"]) == 0
    out = capsys.readouterr().out
    assert "MARKED" in out and "NOT COMPARABLE" in out
