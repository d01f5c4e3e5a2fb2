"""Published numbers and measured ones beside them."""

from __future__ import annotations

import json

import pytest

from levl_eval.cli import main
from levl_eval.commands.verify import NAMES
from levl_eval.report.published import against_paper, as_rows, load_published, who
from levl_eval.report.results import Results
from levl_eval.report.tables import COLUMNS


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


def test_difference_and_tolerance(run_dir, capsys):
    results = Results.read([run_dir])
    (ade,) = [c for c in against_paper(results, {"good": "LeVLJEPA"}) if c.published.task == "ade20k"]
    assert ade.difference == pytest.approx(ade.measured - 23.15) and not ade.within and ade.low < ade.measured < ade.high
    assert main(["verify", str(run_dir), "--against", "paper", "--as", "good=LeVLJEPA"]) == 1
    out = capsys.readouterr().out
    assert "OUTSIDE the tolerance" in out and max(map(len, out.splitlines())) <= 80
    assert main(["verify", str(run_dir), "--against", "paper", "--as", "good=LeVLJEPA", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)[0]["published"]["grade"] == "official"
    for words in ([], ["--as", "good=CLIP"]):
        assert main(["verify", str(run_dir), "--against", "paper", *words]) == 2
        assert capsys.readouterr().err.count("\n") == 1
