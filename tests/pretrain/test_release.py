"""A release: read by `official:`, its vision tower by plain timm, with a card of what was measured on these very weights."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from levl_eval.backbones import load_backbone
from levl_eval.models.config import parse_config
from levl_eval.pretrain.cli import main
from levl_eval.pretrain.release import model_card
from levl_eval.records import Estimate, Record, write_record


def _record(folder, weights, task="linear"):
    record = Record(
        backbone={"name": "x", "uri": "levl:x", "weights_sha256": weights}, task=task, engine="linear", main_metric="top1", protocol={},
        protocol_hash="p", data={"fingerprint": "f", "source": "scenes"}, seed=0, identity_hash=f"{task}{weights}"[:20],
        metrics={"top1": Estimate(value=0.5, low=0.4, high=0.6, n=100)},
    )  # fmt: skip
    write_record(folder, record)


@pytest.mark.parametrize("objective", ["levljepa", "siglip"])
def test_a_release_is_read_by_official_and_by_plain_timm(checkpoints, tmp_path, objective, capsys):
    import timm

    own = load_backbone(f"levl:{checkpoints[objective]}")
    _record(tmp_path / "results", own.weights_sha256)
    _record(tmp_path / "results", "another", task="zeroshot")
    out = tmp_path / "release"
    words = [
        "release",
        str(checkpoints[objective]),
        "--out",
        str(out),
        "--licence",
        "cc-by-4.0",
        "--results",
        str(tmp_path / "results"),
    ]
    assert main(words) == 0
    printed = capsys.readouterr().out.split()
    assert {p.rpartition("/")[2] for p in printed} == {p.name for p in out.iterdir()} == {
        "vision_encoder.safetensors", "text_encoder.safetensors", "model.safetensors", "config.json", "tokenizer.json", "README.md"}  # fmt: skip
    released = load_backbone(f"official:{out}")
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        a, b = own.encode(x), released.encode(x)
        assert torch.equal(a.pooled, b.pooled) and torch.equal(a.patches, b.patches)
        assert torch.equal(own.encode_text(["a red circle"]), released.encode_text(["a red circle"]))
        tower = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
        assert torch.allclose(tower(x), a.pooled, atol=1e-6) and torch.allclose(
            tower.forward_features(x)[:, 1:], a.patches, atol=1e-5
        )
    told = timm.data.resolve_model_data_config(tower)
    assert (
        tuple(told["input_size"]) == (3, 64, 64) and tuple(told["mean"]) == own.preprocess.mean and told["crop_mode"] == "squash"
    )
    card = (out / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "cc-by-4.0" and objective in head["tags"]
    assert "| linear | top1 | 0.5 | 0.4 to 0.6 | 100 | scenes | 0 |" in card and "zeroshot" not in card
    assert str(tmp_path) not in card + (out / "config.json").read_text() and f"objective: {objective}" in card
    assert json.loads((out / "config.json").read_text())["model_type"] == "levljepa"


def test_names_of_others_are_text_in_the_card():
    record = Record(
        backbone={"name": "x", "uri": "levl:x", "weights_sha256": "w"}, task="[l](javascript:x)|<b>", engine="linear", main_metric="top1", protocol={},
        protocol_hash="p", data={"fingerprint": "f", "source": "scenes"}, seed=0, metrics={"top1": Estimate(value=0.5, n=100)},
    )  # fmt: skip
    card = model_card(parse_config(["data=csv:`a`.csv"]), 1, None, [record], "mit", "a\n# b")
    assert r"| \[l\](javascript:x)\|&lt;b&gt; | top1 |" in card and "[l](" not in card.replace(r"\[l\](", "")
    assert "\n# b" not in card and r"csv:\`a\`.csv; 64 pairs" in card


def test_what_cannot_be_released_is_one_line(checkpoints, tmp_path, capsys):
    _record(tmp_path / "results", "another")
    run = str(checkpoints["clip"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    for words, expected in [
        (["--out", str(tmp_path / "full")], "is there already and not empty"),
        (
            ["--out", str(tmp_path / "o"), "--results", str(tmp_path / "results")],
            "1 records, none of these weights; run `levl-eval run --backbone",
        ),
    ]:
        assert main(["release", run, "--licence", "mit", *words]) == 2
        said = capsys.readouterr().err
        assert expected in said and said.count("\n") == 1
    assert not (tmp_path / "o").exists()
    assert main(["release", str(tmp_path), "--licence", "mit", "--out", str(tmp_path / "o")]) == 2
    assert "ckpt.pt: no such checkpoint" in capsys.readouterr().err
