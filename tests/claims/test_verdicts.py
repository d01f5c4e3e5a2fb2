"""Verdicts from run directories: supported, contradicted, undecided and why, seeds, protocols, refusals, and the command's forms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from levl_eval import UsageError
from levl_eval.cards import parse_card
from levl_eval.claims import finished_records, judge
from levl_eval.claims.curve import curve_of
from levl_eval.claims.wording import as_dict, lines, sentence
from levl_eval.cli import main
from levl_eval.engines.probes.backgrounds import by_foreground
from levl_eval.records import Estimate, Sample, digest, write_record
from tests.claims.conftest import answers, record, write, write_segments
from tests.claims.test_cards import GOOD

AS = {"a": ["one"], "b": ["two"]}


def claim(**changes):
    return parse_card({**GOOD, **changes}, "test")


def verdict(folder: Path, card=None, named=AS, **options):
    return judge([card or claim()], finished_records([folder]), named, **options)[0]


def test_a_verdict_on_imported_predictions_says_so(tmp_path):
    for name, skill in (("one", 0.7), ("two", 0.55)):
        write(tmp_path, name, "gqa", answers(skill, own=len(name)), info={"external": True})
    j = verdict(tmp_path)
    assert j.verdict == "supported" and any("one, two are imported predictions" in c for c in j.caveats)


def test_an_imported_system_has_a_file_of_predictions_a_task(tmp_path):
    for name, skill in (("one", 0.7), ("two", 0.55)):
        for task in ("gqa", "pope"):
            write(tmp_path, name, task, answers(skill, own=len(name)), info={"external": True}, weights=digest([name, task]))
    assert verdict(tmp_path).verdict == "supported"
    other = tmp_path / "other"
    write(other, "one", "gqa", answers(0.6, own=9), info={"external": True}, weights=digest("another file"))
    with pytest.raises(UsageError, match=r"--as: several encoders are named 'one' \(other weights\); give one of one@"):
        judge([claim()], finished_records([tmp_path, other]), AS)
    measured = tmp_path / "measured"
    write(measured, "one", "pope", answers(0.6, own=9), weights=digest("an encoder"))
    with pytest.raises(UsageError, match=r"several encoders are named 'one' \(other weights\)"):
        judge([claim()], finished_records([tmp_path, measured]), AS)


def test_supported_contradicted_undecided(run):
    folder = run(one=0.7, two=0.55)
    j = verdict(folder)
    assert (
        j.verdict == "supported"
        and sentence(j).startswith("Supported: a is above b on gqa")
        and "One pretraining seed" in sentence(j)
    )
    d = j.differences[0].contrast
    assert d.images == 200 and d.items == 800 and len(d.records) == 2 and all(len(r) == 64 for r in d.records)
    flipped = verdict(folder, named={"a": ["two"], "b": ["one"]})
    assert flipped.verdict == "contradicted" and "Contradicted: on gqa accuracy against b the difference is" in sentence(flipped)
    less = verdict(folder, claim(relation="less"))
    assert less.verdict == "contradicted"
    near = verdict(folder, claim(margin=15.0))
    assert near.verdict == "undecided" and "is possible; a margin of 15 is asked" in sentence(near)
    wide = verdict(folder, claim(relation="equivalent", margin=40))
    assert wide.verdict == "supported" and "a is on par with b within 40 points" in sentence(wide)
    narrow = verdict(folder, claim(relation="equivalent", margin=2))
    assert narrow.verdict == "contradicted"


def test_the_verdict_is_what_the_interval_says(run):
    for skill in (0.56, 0.57, 0.58, 0.6):
        j = verdict(run(folder=f"r{skill}", one=skill, two=0.55))
        low, high = j.differences[0].contrast.difference.interval()
        assert (j.verdict == "supported") == (low > 0) and (j.verdict == "contradicted") == (high < 0)


@pytest.mark.slow
def test_all_must_hold_or_any(run):
    folder = run(one=0.7, two=0.55, three=0.85)
    roles = {"roles": {"a": "", "b": "", "c": ""}, "against": ["b", "c"]}
    named = {**AS, "c": ["three"]}
    assert verdict(folder, claim(**roles), named).verdict == "contradicted"
    assert verdict(folder, claim(**roles, over={"against": "any"}), named).verdict == "supported"
    write(folder, "one", "pope", answers(0.5, own=1))
    write(folder, "two", "pope", answers(0.7, own=2))
    tasks = [{"task": "gqa"}, {"task": "pope"}]
    assert verdict(folder, claim(tasks=tasks)).verdict == "contradicted"
    assert verdict(folder, claim(tasks=tasks, over={"tasks": "any"})).verdict == "supported"


def test_missing_evidence_is_undecided_with_the_reason(run, tmp_path):
    folder = run(one=0.7, two=0.55)
    j = verdict(folder, claim(tasks=[{"task": "gqa"}, {"task": "pope"}]))
    assert j.verdict == "undecided" and "pope: was not run (or failed) for one (a)" in sentence(j)
    assert "nobody was named for b; add --as b=" in sentence(verdict(folder, named={"a": ["one"]}))
    j = verdict(folder, claim(over={"pretraining_seeds": 3}))
    assert j.verdict == "undecided" and "1 pretraining seed a role, the claim asks for 3" in sentence(j)
    j = verdict(folder, claim(data="published"))
    assert j.verdict == "undecided" and "was run on generated scenes" in sentence(j)
    assert "do not hold recall image by image" in sentence(verdict(folder, claim(tasks=[{"task": "gqa", "metric": "recall"}])))
    for name in ("one", "two"):
        write(tmp_path / "few", name, "gqa", answers(0.5, images=6, own=len(name)))
    assert "6 images in common; at least 10" in sentence(verdict(tmp_path / "few"))


def test_heads_that_had_not_converged_and_floors_make_it_undecided(tmp_path):
    for name, skill, notes in (("one", 0.7, {"converged": True}), ("two", 0.55, {"converged": {"connector": False}})):
        write(tmp_path / "late", name, "gqa", answers(skill, own=len(name)), notes=notes)
    j = verdict(tmp_path / "late")
    assert j.verdict == "undecided" and "1 of 1 heads of b (two, seed 0) had not converged" in sentence(j)
    for name in ("one", "two"):
        write(tmp_path / "unknown", name, "gqa", answers(0.7 if name == "one" else 0.55, own=len(name)), notes={})
    j = verdict(tmp_path / "unknown")
    assert j.verdict == "supported" and any("whether the heads had converged is not recorded" in c for c in j.caveats)
    for name in ("one", "two"):
        floor = {"floor_text_only": Estimate(value=0.9 if name == "one" else 0.91)}
        write(tmp_path / "blind", name, "gqa", answers(0.7 if name == "one" else 0.55, own=len(name)), metrics=floor)
    assert "neither a nor b is above the floor without sight (91.0)" in sentence(verdict(tmp_path / "blind"))
    for name in ("one", "two"):
        floor = {"floor_text_only": Estimate(value=0.3 if name == "one" else 0.31)}
        write(tmp_path / "floors", name, "gqa", answers(0.7 if name == "one" else 0.55, own=len(name)), metrics=floor)
    j = verdict(tmp_path / "floors")
    assert j.verdict == "supported" and any("floor_text_only is not the same on both sides" in c for c in j.caveats)


def test_four_times_the_training_that_moves_nothing_lets_a_claim_be_judged(tmp_path):
    """The loss of a connector falls for as long as it learns by heart; its score at another length says whether it is the limit."""
    late, far = {"converged": {"converged": False}}, tmp_path / "far"
    for epochs in (2, 8):
        protocol = {"name": "gqa", "recipe": {"epochs": epochs}}
        for name, skill in (("one", 0.7), ("two", 0.55)):
            write(tmp_path, name, "gqa", answers(skill, own=len(name)), protocol=protocol, notes=late)
            moved = skill + (0.1 if name == "two" and epochs == 8 else 0.0)
            write(far, name, "gqa", answers(moved, own=len(name)), protocol=protocol, notes=late)
    assert verdict(tmp_path).verdict == "supported"
    j = verdict(far)
    assert j.verdict == "undecided" and "1 of 1 heads of b (two, seed 0) had not converged" in sentence(j)


def test_sides_that_were_not_measured_alike_are_refused_with_the_field(run, tmp_path, capsys):
    folder = run(one=0.7)
    write(folder, "two", "gqa", answers(0.55, own=2), protocol={"name": "gqa", "lr": 0.2})
    j = verdict(folder)
    assert j.verdict == "undecided" and "not measured alike: lr 0.1 against 0.2" in sentence(j) and j.refused
    write(folder, "three", "gqa", answers(0.55, own=2), fingerprint="another")
    assert "data" in sentence(verdict(folder, named={"a": ["one"], "b": ["three"]}))
    card = tmp_path / "c.yaml"
    card.write_text(yaml.safe_dump(GOOD))
    words = ["claims", str(folder), "--claims", str(card), "--as", "a=one", "--as", "b=two"]
    assert main(words) == 2 and "lr 0.1 against 0.2" in capsys.readouterr().err  # nothing else could be judged
    write(folder, "two", "linear", answers(0.5, own=9))
    card.write_text(yaml.safe_dump({**GOOD, "tasks": [{"task": "gqa"}, {"task": "linear"}]}))
    assert main(words) == 1 and "lr 0.1 against 0.2" in " ".join(capsys.readouterr().out.split())


def test_several_pretraining_seeds_are_paired_and_widen_the_interval(tmp_path):
    rng = np.random.default_rng(0)
    for s in range(3):
        for name, skill in (("x", 0.62), ("y", 0.55)):
            write(
                tmp_path, f"{name}{s}", "gqa", answers(skill + rng.normal(0, 0.06), own=10 * s + (name == "x")), info={"seed": s}
            )
    # the order does not matter: seeds are recorded
    three = verdict(tmp_path, named={"a": ["x0", "x1", "x2"], "b": ["y2", "y1", "y0"]})
    c = three.differences[0].contrast
    assert c.pretraining_seeds == 3 and c.outer == "pretraining seeds" and c.layout.shape == (3, 200) and len(c.records) == 6
    assert any(
        "paired by their recorded pretraining seed" in x for x in three.caveats
    ) and "One pretraining seed" not in sentence(three)
    one = verdict(tmp_path, named={"a": ["x0"], "b": ["y0"]}).differences[0].contrast
    assert np.diff(c.difference.interval()) > np.diff(one.difference.interval())
    with pytest.raises(UsageError, match="seeds are paired, so give as many of each"):
        verdict(tmp_path, named={"a": ["x0", "x1"], "b": ["y0"]})
    with pytest.raises(UsageError, match="is the same encoder as a=x0"):
        verdict(tmp_path, named={"a": ["x0"], "b": ["x0"]})
    with pytest.raises(UsageError, match="no finished record of a backbone 'x9'.*did you mean"):
        verdict(tmp_path, named={"a": ["x9"], "b": ["x0"]})
    with pytest.raises(UsageError, match="no claim asked for has such a role"):
        verdict(tmp_path, named={"a": ["x1"], "z": ["x0"]})


SEEDS = {"model": "nano", "objective": "clip", "step": 6000}


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"weights_sha256": digest("x0"), "preprocess": {"size": 96}}, "have the same weights"),
        ({"info": {**SEEDS, "seed": 0}}, "were both trained with seed 0"),
        ({"info": {**SEEDS, "seed": 1, "objective": "siglip"}}, r"objective clip against siglip"),
        ({"info": {**SEEDS, "seed": 1, "step": 3000}}, r"step 6000 against 3000"),
        ({"info": {"seed": 1}}, ""),
    ],
)  # fmt: skip
def test_what_is_no_pretraining_seed_does_not_count_as_one(tmp_path, second, words):
    """The same training at two steps, or one checkpoint read in two ways, would be spread between seeds that nobody has seen."""
    for name, change in (
        ("x0", {"info": {**SEEDS, "seed": 0}}),
        ("x1", second),
        ("y0", {"info": {"seed": 0}}),
        ("y1", {"info": {"seed": 1}}),
    ):
        backbone = {
            "name": name,
            "uri": name,
            "weights_sha256": digest(name),
            "code": {},
            "text": {},
            "preprocess": {"size": 64},
            "info": {},
        }
        write(tmp_path, name, "gqa", answers(0.7, own=len(name)), backbone={**backbone, **change})
    roles = {"a": ["x0", "x1"], "b": ["y0", "y1"]}
    if words:
        with pytest.raises(UsageError, match=f"--as a=x0,x1: .*{words}"):
            verdict(tmp_path, named=roles)
    else:
        assert verdict(tmp_path, named=roles).differences[0].contrast.pretraining_seeds == 2


def test_where_the_test_data_lay_is_asked_of_the_task_not_of_the_run(tmp_path):
    """`--set gqa.data.root=REAL` on a run of scenes:
    a claim about scenes says nothing of it, and one about published data says what it is of."""
    for name, skill in (("x", 0.8), ("y", 0.5)):
        data = {"fingerprint": "f", "train": [], "source": "scenes", "test_source": "/real/gqa"}
        write(tmp_path, name, "gqa", answers(skill, own=len(name)), data=data)
    roles = {"a": ["x"], "b": ["y"]}
    assert "was run on other data" in sentence(verdict(tmp_path, claim(data="scenes"), named=roles))
    published = verdict(tmp_path, claim(data="published"), named=roles)
    assert published.differences[0].contrast is not None
    assert any("not recognised as a published set" in c for c in published.caveats)
    for name in "xy":
        data = {"fingerprint": "f", "train": ["scenes"], "source": "scenes", "test_source": "/real/gqa"}
        write(tmp_path / "trained", name, "gqa", answers(0.8, own=len(name)), data=data)
    assert "may be the generated scenes" in sentence(verdict(tmp_path / "trained", claim(data="published"), named=roles))


def test_a_claim_stands_in_a_family_once(run, tmp_path, capsys):
    folder = run(one=0.75, two=0.5)
    cards = [tmp_path / name / f"{GOOD['name']}.yaml" for name in ("here", "there")]
    for card in cards:
        card.parent.mkdir()
        card.write_text(yaml.safe_dump(GOOD))
    words = ["claims", str(folder), "--claims", ",".join(map(str, cards)), "--as", "a=one", "--as", "b=two"]
    assert main(words) == 2 and "are both the claim" in capsys.readouterr().err


def test_each_pretraining_seed_may_have_heads_of_its_own(tmp_path):
    """As results/scenes/seeds.sh gives them: heads of seed s for the encoders of seed s."""
    for s in range(3):
        for name, skill in (("x", 0.7), ("y", 0.5)):
            scores = answers(skill, own=10 * s + (name == "x"))
            write(tmp_path, f"{name}{s}", "gqa", scores, seed=s, info={"seed": s})
    roles = {"a": ["x0", "x1", "x2"], "b": ["y0", "y1", "y2"]}
    c = verdict(tmp_path, named=roles).differences[0].contrast
    assert (c.pretraining_seeds, c.head_seeds, c.layout.shape, len(c.records)) == (3, 1, (3, 200), 6)
    assert c.values[0] - c.values[1] == pytest.approx(c.layout.mean())
    write(tmp_path, "x3", "gqa", answers(0.7), seed=3, info={"seed": 3})
    write(tmp_path, "y3", "gqa", answers(0.5), seed=4, info={"seed": 3})
    roles = {role: [*names, f"{names[0][0]}3"] for role, names in roles.items()}
    assert "no head seed in common" in sentence(verdict(tmp_path, named=roles))


def test_head_seeds_are_paired_and_those_of_one_side_are_left_out(run, tmp_path):
    folder = run(one=0.7, two=0.55, seeds=(0, 1, 2))
    write(folder, "one", "linear", answers(0.7, draw=1, own=13), seed=3)
    j = verdict(folder, claim(tasks=[{"task": "linear"}]))
    assert j.differences[0].contrast.head_seeds == 3 and any("head seeds 3 are not on both sides" in c for c in j.caveats)


def test_mean_iou_and_drops_are_rebuilt_from_samples(tmp_path):
    for n, (name, skill) in enumerate((("one", 0.75), ("two", 0.68))):
        write_segments(tmp_path, name, skill, n)
        ids = [f"n01/{i}" for i in range(60)]
        rng = np.random.default_rng(n)
        right = {
            "original": np.ones(60),
            "mixed_same": (rng.random(60) < skill).astype(float),
            "mixed_rand": (rng.random(60) < skill - 0.2).astype(float),
        }
        variants = by_foreground({k: ids for k in right}, ids, right)
        samples = [
            Sample(id=i, image_id=i, score=v["mixed_rand"], meta={"variants": v}) for i, v in zip(ids, variants, strict=True)
        ]
        metrics = {k: Estimate(value=float(v.mean()), n=60) for k, v in right.items()}
        metrics["drop_mixed_rand"] = Estimate(value=float((right["original"] - right["mixed_rand"]).mean()), n=60)
        write_record(tmp_path, record(name, "imagenet9", metrics), samples)
    j = verdict(tmp_path, claim(tasks=[{"task": "ade20k"}]))
    assert j.verdict == "supported" and j.differences[0].metric == "mean_iou"
    records = {r.backbone["name"]: r for r in finished_records([tmp_path]) if r.task == "ade20k"}
    told = records["one"].metrics["mean_iou"].value - records["two"].metrics["mean_iou"].value
    assert float(j.differences[0].contrast.difference.value) == pytest.approx(told)
    drop = verdict(tmp_path, claim(tasks=[{"task": "imagenet9", "metric": "drop_mixed_rand"}], relation="less"))
    assert drop.differences[0].contrast is not None and drop.differences[0].metric == "drop_mixed_rand"
    assert by_foreground(
        {"original": ["a", "b"], "mixed_rand": ["b", "b"]}, ["b", "b"], {"original": np.ones(2), "mixed_rand": np.ones(2)}
    ) == [{}, {}]


def test_protocols_of_a_grid_are_counted_and_the_curve_is_sorted(tmp_path):
    for k, (lr, skill) in enumerate(((0.1, 0.72), (0.2, 0.56), (0.3, 0.7))):
        write(tmp_path, "one", "gqa", answers(skill, own=k), protocol={"name": "gqa", "lr": lr})
        write(tmp_path, "two", "gqa", answers(0.55, own=9 + k), protocol={"name": "gqa", "lr": lr})
    write(tmp_path, "one", "gqa", answers(0.7, own=50), protocol={"name": "gqa", "lr": 0.4})
    j = verdict(tmp_path)
    assert j.holds_in == (2, 3) and j.verdict == "undecided" and "It holds in 2 of 3 protocols." in sentence(j)
    assert any("1 of 4 protocols were not run by all roles" in c for c in j.caveats)
    assert "lr=0.2" in sentence(j)
    assert verdict(tmp_path, claim(over={"protocols": "any"})).verdict == "supported"
    curve = curve_of(j)
    values = [r.value for r in curve.rows]
    assert values == sorted(values) and next(dict(r.choices)["lr"] for r in curve.rows) == "0.2"
    table = curve.lines()
    assert len(table) == 4 and table[0].split() == ["difference", "interval", "alone", "lr"]
    drawn = curve.svg()
    assert drawn.startswith("<svg") and drawn.count("<title>") == 3 and ">lr<" in drawn and drawn.count('class="c5"') == 3


def test_a_family_is_adjusted_by_holm(run):
    folder = run(one=0.59, two=0.55)
    alone = verdict(folder)
    p = float(alone.evidence.support)
    cards = [
        claim(name="x"),
        claim(name="y", tasks=[{"task": "linear"}], relation="less"),
        claim(name="z", tasks=[{"task": "pope"}]),
    ]
    found = judge(cards, finished_records([folder]), AS)
    # z was not run: no test of the family
    assert [j.family for j in found] == [2, 2, 1] and found[0].holm[0] == pytest.approx(min(1, 2 * p))


def test_the_command_as_text_and_json(run, tmp_path, capsys):
    folder = run(one=0.7, two=0.55)
    card = tmp_path / "c.yaml"
    card.write_text(yaml.safe_dump(GOOD))
    words = ["claims", str(folder), "--claims", str(card), "--as", "a=one", "--as", "b=two"]
    assert main([*words, "--curve"]) == 0
    out = capsys.readouterr().out
    assert "c: SUPPORTED" in out and "difference  interval" in out and max(map(len, out.splitlines())) <= 80
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["claims"][0]
    assert (
        found["verdict"] == "supported"
        and found["differences"][0]["images"] == 200
        and len(found["differences"][0]["records"]) == 2
    )
    assert found["specification_curve"]["rows"][0]["choices"]["task"] == "gqa" and found["holds_in"] == {"protocols": 1, "of": 1}
    for wrong, said in (
        (["--as", "a"], "expected ROLE=BACKBONE"),
        (["--as", "a=one", "--as", "a=two"], "given twice"), (["--as", "a=one,one"], "named twice"),
        ([], "say who is who"), (["--as", "a=one", "--as", "b=two", "--alpha", "0.7"], "--alpha 0.7"),
        (["--as", "q=one"], "no claim asked for"),
    ):  # fmt: skip
        assert main([*words[:4], *wrong]) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1
    assert main(["claims", str(folder), "--claims", "dense", "--as", "a=one"]) == 2 and "did you mean" in capsys.readouterr().err


def test_damaged_samples_are_not_judged(run, capsys):
    folder = run(one=0.7, two=0.55)
    path = next((folder / "samples").glob("gqa--one*"))
    path.write_bytes(path.read_bytes()[:-400])
    j = verdict(folder)
    assert j.verdict == "undecided" and path.name in sentence(j)
    assert "\n" not in sentence(j) and as_dict(j)["reasons"] and lines(j)
