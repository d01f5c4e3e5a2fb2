"""Published numbers and measured ones beside them."""

from __future__ import annotations

import csv
import io
import json

import pytest

from levl_eval.cli import main
from levl_eval.cli.verify import NAMES
from levl_eval.data.published import POPE_WHOLE
from levl_eval.report.published import against_paper, as_rows, load_published, who
from levl_eval.report.results import Results
from levl_eval.report.tables import COLUMNS
from tests.report.test_joins import RANDOM, job


def test_every_number_has_source_grade_and_tolerance():
    numbers = load_published()
    assert len(numbers) == 188
    assert all(p.source and p.note and p.grade in ("official", "second-hand") and p.tolerance > 0 for p in numbers)
    assert {p.kind for p in numbers} == {"value", "gain"}
    by = {(p.task, p.backbone, p.kind, p.llm): p.value for p in numbers if p.table in ("vlm", "segmentation")}
    assert by["ade20k", "LeVLJEPA", "value", ""] == 23.15 and by["pope", "SigLIP", "gain", "Qwen-1.5B"] == 18.0
    # The drops follow from the accuracies (to the last digit printed).
    nine = {(p.backbone, p.metric): p.value for p in numbers if p.table == "imagenet9"}
    for b in ("LeVLJEPA", "InfoNCE", "SigLIP"):
        for m in ("mixed_same", "mixed_rand"):
            assert nine[b, "original"] - nine[b, m] == pytest.approx(nine[b, f"drop_{m}"], abs=0.011)


def test_numbers_of_other_recipes_are_there_and_never_beside_a_matched_checkpoint():
    """CC12M's ablations and the page of May: names of their own, so that `verify` cannot take one for the paper's DataComp number."""
    numbers = load_published()
    by = {(p.table, p.task, p.metric, p.backbone): p.value for p in numbers}
    assert by["ablations", "health", "effective_rank", "LeVLJEPA (CC12M)"] == 477
    assert by["ablations", "zeroshot@imagenet", "top1", "direct MSE + SIGReg"] == 1.82
    assert by["legacy", "zeroshot@stl10", "top1", "LeVLJEPA (CC12M, May)"] == 74.16
    assert by["legacy", "nyuv2", "rmse", "LeVLJEPA+ (CC12M, May)"] == 0.979
    assert by["legacy", "imagenet9", "mixed_same", "SigLIP (CC12M, May)"] == 74.89
    other = [p for p in numbers if p.table in ("ablations", "legacy")]
    assert len(other) == 120 and not {p.backbone for p in other} & set(NAMES) and all("CC12M" in p.note for p in other)
    assert {p.backbone for p in numbers if p not in other} == set(NAMES)


def test_published_rows_are_marked_and_fit_the_table(run_dir, capsys):
    assert all(set(r) <= set(COLUMNS) and r["status"] == "published" for r in as_rows(load_published()))
    assert main(["leaderboard", str(run_dir), "--format", "csv", "--published"]) == 0
    assert capsys.readouterr().out.count(",published,") == 188


def test_only_the_matched_checkpoints_are_recognised_by_themselves():
    assert who("levljepa-vit-b-datacomp", "official:lukaskuhn/LeVLJEPA-ViT-B-DataComp-200k", {}) == "LeVLJEPA"
    assert who("x", "official:lukaskuhn/InfoNCE-ViT-B-DataComp-200k", {}) == "InfoNCE"
    assert who("siglip-nano", "levl:siglip-nano", {}) is None and who("mine", "", {"mine": "SigLIP"}) == "SigLIP"


ADE = {
    "published": "ADE20K validation, 2,000 images of 150 classes (by counts)",
    "split": "validation",
    "counts": {"images": 2000},
}
VERIFY = ["--against", "paper", "--as", "good=LeVLJEPA"]


@pytest.fixture
def whole(tmp_path):
    """A result on the published set, whole; a score of 23.9 %, the paper's is 23.15."""
    job(tmp_path, "good", skill=0.239, task="ade20k", metric="mean_iou", source="data", data=ADE, n=2000)
    return tmp_path


def test_difference_and_tolerance(whole, capsys):
    (c,), refused = against_paper(Results.read([whole]), {"good": "LeVLJEPA"})
    assert not refused and c.difference == pytest.approx(c.measured - 23.15) and c.low < c.measured < c.high
    assert main(["verify", str(whole), *VERIFY]) == (0 if c.within else 1)
    out = capsys.readouterr().out
    assert "the tolerance of 1" in out and max(map(len, out.splitlines())) <= 80
    assert main(["verify", str(whole), *VERIFY, "--json"]) == (0 if c.within else 1)
    (found,) = json.loads(capsys.readouterr().out)
    assert found["published"]["grade"] == "official" and found["comparable"]
    for words in ([], ["--as", "good=CLIP"]):
        assert main(["verify", str(whole), "--against", "paper", *words]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_what_is_within_and_what_is_outside(tmp_path, capsys):
    for skill, code in ((0.2315, 0), (0.9, 1)):
        job(tmp_path / str(skill), "good", skill=skill, task="ade20k", metric="mean_iou", source="data", data=ADE, n=4000)
        assert main(["verify", str(tmp_path / str(skill)), *VERIFY]) == code
        assert ("OUTSIDE" in capsys.readouterr().out) == bool(code)


@pytest.mark.parametrize(
    "change, told",
    [
        ({"source": "scenes", "limit": 60}, "measured on synthetic scenes, not on the published set; limited to 60 test images"),
        ({"source": "scenes", "data": {**ADE, "test_source": "data", "train": "aaaa"}},
         "run on --data scenes, so what it trained on may be the synthetic scenes"),
        ({"data": {**ADE, "published": None}}, "its test data are not recognised as a published set, whole and unchanged"),
        ({"limit": 60}, "limited to 60 test images"),
        ({"data": {**ADE, "published": "ADE20K training, 20,210 images"}},
         "its test set is ADE20K training, 20,210 images, the paper's is ADE20K validation"),
    ],
)  # fmt: skip
def test_what_was_not_measured_on_the_published_set_is_not_compared(tmp_path, capsys, change, told):
    """Once `--limit 60` on scenes was "difference -4.79, OUTSIDE"."""
    job(tmp_path, "good", **{"task": "ade20k", "metric": "mean_iou", "source": "data", "data": ADE, **change})
    assert main(["verify", str(tmp_path), *VERIFY]) == 2
    out, err = capsys.readouterr()
    assert (
        "OUTSIDE" not in out
        and "difference" not in out
        and f"not comparable: ade20k, mean_iou, good as LeVLJEPA: {told}" in " ".join(out.split())
    )
    assert err.count("\n") == 1 and "not comparable" in err and told in err and max(map(len, out.splitlines())) <= 80
    assert main(["verify", str(tmp_path), *VERIFY, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)[0]["missing"]


def test_a_gain_needs_its_random_twin(tmp_path, capsys):
    pope = {"published": POPE_WHOLE, "split": ""}
    made = {"task": "pope", "metric": "accuracy", "source": "data", "data": pope, "protocol": {"llm": "Qwen2.5-1.5B"}}
    job(tmp_path, "good", skill=0.9, **made)
    job(tmp_path, "other", skill=0.2, **made)
    assert main(["verify", str(tmp_path), *VERIFY]) in (0, 1)  # the paper has an accuracy too
    out = capsys.readouterr().out
    assert "its random twin was not run" in " ".join(out.split()) and "(gain), good as LeVLJEPA\n" not in out
    job(tmp_path, "rnd", skill=0.2, info=RANDOM, **made)
    assert main(["verify", str(tmp_path), *VERIFY]) == 1
    assert "pope, accuracy (gain), good as LeVLJEPA\n  measured" in capsys.readouterr().out


def test_the_language_model_of_a_run_is_found_in_tables_and_against_the_paper(tmp_path, capsys):
    """A record holds its content in the identity and its name in the call; once both places were looked for in the protocol alone."""
    pope = {"published": POPE_WHOLE, "split": ""}
    made = {"task": "pope", "metric": "accuracy", "source": "data", "data": pope, "language_model": {"weights": "ab" * 32}}
    job(tmp_path / "a", "good", skill=0.9, **made, call={"llm": "qwen2.5-1.5b"})
    job(tmp_path / "b", "good", skill=0.9, **made, call={"llm": "scenes-lm"})
    assert main(["verify", str(tmp_path / "a"), *VERIFY]) in (0, 1) and "pope, accuracy" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "b"), *VERIFY]) == 2 and "pope, accuracy" not in capsys.readouterr().out
    assert main(["leaderboard", str(tmp_path / "a"), "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {r["llm"] for r in rows} == {"qwen2.5-1.5b"}


def test_schema_1_is_not_compared(run_dir, capsys):
    assert main(["verify", str(run_dir), *VERIFY]) == 2
    assert "a record of schema 1" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "words, told",
    [
        (["--as", "goood=LeVLJEPA"], "no such backbone (did you mean good?)"),
        (["--as", "good=LeVLJEPA", "--as", "good=SigLIP"], "given twice"),
    ],
)
def test_who_is_who_is_told_once_and_of_backbones_that_were_run(run_dir, capsys, words, told):
    assert main(["verify", str(run_dir), "--against", "paper", *words]) == 2
    assert told in capsys.readouterr().err
