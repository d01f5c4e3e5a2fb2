"""Embedding health against closed forms, the preprocessing audit, and both commands."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from levl_eval.backbones.base import Preprocess
from levl_eval.cli import main
from levl_eval.cli.audit import candidates, verdict, verdicts
from levl_eval.engines.probes import health as h


def test_effective_rank_uniformity_and_alignment_by_hand():
    x = torch.randn(200, 1, generator=torch.Generator().manual_seed(0)) * torch.ones(1, 6)
    assert h.effective_rank(x) == pytest.approx(1, abs=1e-3)
    square = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    assert h.effective_rank(square) == pytest.approx(2, abs=1e-3)
    plain = [math.exp(-2 * float((a - b).square().sum())) for i, a in enumerate(square) for j, b in enumerate(square) if i != j]
    assert h.uniformity(square * 3) == pytest.approx(math.log(np.mean(plain)))
    assert h.alignment(square, square * 2) == 0 and h.alignment(square[:1], -square[:1]) == pytest.approx(4)


def test_isotropy_tells_gaussian_from_stretched_whatever_the_scale():
    noise = torch.randn(500, 16, generator=torch.Generator().manual_seed(1))
    even, reference = h.epps_pulley(noise * 7 + 3)
    stretched, _ = h.epps_pulley(noise * torch.linspace(0.05, 3, 16))
    assert even < 2 * reference and stretched > 3 * reference


def test_duplicates_count_other_images_only():
    x = torch.tensor([[1.0, 0], [1, 0], [0, 1], [1, 1e-4], [0, 1]])
    assert h.duplicates(x) == (2, 3)
    assert h.duplicates(x, np.array(["a", "a", "b", "c", "d"])) == (1, 2)  # rows 0 and 1 are one image


def test_health_warns_of_collapse():
    g = torch.Generator().manual_seed(0)
    good = h.health(torch.randn(300, 8, generator=g), None)
    assert good["warnings"] == [] and good["alignment"] is None
    bad = h.health(torch.randn(300, 1, generator=g) * torch.tensor([[1.0] + [0] * 99]), None)
    assert bad["dead_dimensions"] == 99 and any("collapse" in w for w in bad["warnings"])
    same = h.health(torch.ones(20, 8), None)
    assert same["duplicates"] == 19 and math.isfinite(same["effective_rank"])


@pytest.mark.slow
def test_health_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for i in range(6):
        (tmp_path / "p" / "sub").mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / "p" / "sub" / f"{i}.png")
    words = ["health", "--backbone", "random:nano", "--images", str(tmp_path / "p")]
    assert main([*words, "--json", "--out", str(tmp_path / "h.json")]) == 0
    table = json.loads(capsys.readouterr().out)
    assert [r["space"] for r in table] == ["pooled", "mean-patch"] and table == json.loads((tmp_path / "h.json").read_text())
    assert table[0]["images"] == 6 and table[0]["alignment"] > 0
    assert main(words) == 0 and "effective rank" in capsys.readouterr().out
    assert main(["health", "--backbone", "random:nano", "--images", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_audit_candidates_leave_out_what_the_card_has():
    own = Preprocess(64, "squash", None)  # CLIP's statistics, bicubic
    names = set(candidates(own))
    assert names == {"imagenet", "half", "none", "shortest", "shortest, 256/224", "bilinear"}
    assert "shortest" not in candidates(Preprocess(64, "shortest", None))


def test_audit_intervals_hold_for_all_candidates_at_once():
    rng = np.random.default_rng(0)
    own = {str(i): float(v) for i, v in enumerate(rng.integers(0, 2, 400))}
    better = {k: 1.0 for k in own}
    alone = verdicts(own, {"b": better})[0]
    among = verdicts(own, {"a": dict(own), "b": better, "c": dict(own)})
    assert alone["beats_the_card"] and among[1]["low"] < alone["low"] and not among[0]["beats_the_card"]
    assert among[1]["difference"] == pytest.approx(1 - np.mean(list(own.values())))


def test_audit_ends_with_a_verdict():
    rng = np.random.default_rng(0)
    own = {str(i): float(v) for i, v in enumerate(rng.integers(0, 2, 400))}
    other = {k: 1 - v for k, v in own.items()}
    stands = verdict("mine", verdicts(own, {"a": dict(own), "b": other}))
    assert stands.startswith("the preprocessing of mine stands: no candidate is clearly better; b could be by ")
    loses = verdict(
        "mine",
        verdicts(
            own, {"a": dict(own), "b": {k: max(v, float(int(k) % 3 == 0)) for k, v in own.items()}, "c": dict.fromkeys(own, 1.0)}
        ),
    )
    assert loses == "the preprocessing of mine is to be corrected: c, b, best first, beat it clearly"


@pytest.mark.slow
def test_audit_warns_of_a_card_whose_normalisation_loses(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    for split, k, i in itertools.product(("train", "test"), (0, 1), range(8)):
        pixels = np.random.default_rng([k, i, split == "test"]).integers(0, 200, (64, 64, 3))
        pixels[..., 2 * k] += 50  # one class is redder, the other bluer
        folder = tmp_path / "d" / "classification" / split / ("red", "blue")[k]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    monkeypatch.setattr("levl_eval.cards.loading.of_levels", lambda values: False)  # such a deviation is refused by itself
    words = ["audit", "--data", str(tmp_path / "d"), "--set", "knn.k=[3]", "--set", "knn.main_metric=top1_k3"]
    for name, std in (("wrong", 1e12), ("right", 0.25)):  # divided by so much every image is the same grey
        card = tmp_path / f"{name}.yaml"
        card.write_text(f"kind: backbone\nname: {name}\nuri: random:nano\npreprocess: {{std: [{std}, {std}, {std}]}}\n")
        assert main([*words, "--backbone", str(card), "--out", str(tmp_path / name)]) == 0
        told = capsys.readouterr().out
        warned = [line for line in told.splitlines() if line.startswith("warning: ")]
        assert told.splitlines()[-1].startswith(
            f"verdict: the preprocessing of {name} {'stands' if name == 'right' else 'is to be'}"
        )
        found = json.loads((tmp_path / name / "audit.json").read_text())
        lost = {r["candidate"] for r in found["candidates"] if r["beats_the_card"]}
        if name == "right":
            assert warned == [] and lost == set() and found["card_value"] == 1
            continue
        assert found["card_value"] == 0.5 and lost == {"clip", "imagenet", "half", "none"}  # no resize mends it
        assert warned[0] == "warning: clip is clearly better than what the card of wrong says; correct its `preprocess`"
        assert len(warned) == 4


@pytest.mark.slow
def test_audit_command(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    words = ["audit", "--backbone", "random:nano", "--data", str(world), "--limit", "24", "--out", str(tmp_path / "a"), "--json"]
    assert main([*words, "--set", "knn.k=[20]"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 24 and found == json.loads((tmp_path / "a" / "audit.json").read_text())
    by = {r["candidate"]: r for r in found["candidates"]}
    assert by["imagenet"]["value"] - found["card_value"] == pytest.approx(by["imagenet"]["difference"])
    assert main([*words[:-1], "--task", "ade20k", "--set", "ade20k.epochs=1"]) == 2
    assert "no mean over images" in capsys.readouterr().err


def test_audit_refuses_what_knows_its_images_at_once(capsys):
    assert main(["audit", "--backbone", "oracle:classes"]) == 2
    assert "oracle:classes knows images by their pixels and has no preprocessing to vary" in capsys.readouterr().err
