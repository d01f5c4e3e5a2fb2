"""A release: read by `official:`, its vision tower by plain timm, with a card of what was measured on these very weights."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch
import yaml

from levl_eval.backbones import load_backbone
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.models.checkpoints import export, load_model, read, read_any, save
from levl_eval.models.config import parse_config
from levl_eval.pretrain import release as release_module
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
        "vision_encoder.safetensors", "text_encoder.safetensors",
        "model.safetensors", "config.json", "tokenizer.json", "README.md"}  # fmt: skip
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


def _imported(source, folder, **description):
    """The checkpoint of a published directory whose config.json says ``description`` beside its own; None takes a field out."""
    assert main(["export", str(source), "--to", "safetensors", "--out", str(folder)]) == 0
    told = {**json.loads((folder / "config.json").read_text()), **description}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in told.items() if v is not None}))
    assert main(["import", str(folder), "--out", str(folder / "back.pt")]) == 0
    return folder / "back.pt"


@pytest.mark.parametrize("resize_to", [73, None, 67])
def test_a_release_of_an_imported_model_says_what_its_files_told_and_no_more(checkpoints, tmp_path, resize_to):
    """timm's part said the defaults' normalisation and resize, and the card called the defaults every choice of the run."""
    import timm
    from PIL import Image

    preprocess = {"size": 64, "resize": "shortest", "resize_to": resize_to, "interpolation": "bicubic", "mean": [0.5, 0.4, 0.3],
                  "std": [0.2, 0.3, 0.4]}  # fmt: skip
    back = _imported(checkpoints["levljepa"], tmp_path / "dir", preprocess=preprocess, training={"objective": "levljepa"})
    assert main(["release", str(back), "--out", str(tmp_path / "out"), "--licence", "mit"]) == 0
    own = load_backbone(f"levl:{back}")
    tower = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(tower))
    image = Image.effect_noise((150, 100), 80).convert("RGB")
    assert torch.allclose(transform(image), own.preprocess(image), atol=1e-5)
    card = (tmp_path / "out" / "README.md").read_text()
    assert (
        "imported by `levl-pretrain` from a published form (objective `levljepa`)" in card
        and "Data that were not stated." in card
    )
    recipe = yaml.safe_load(card.split("```yaml")[1].split("```")[0])
    assert recipe["mean"] == [0.5, 0.4, 0.3] and {"lr", "steps", "seed", "batch_size", "augmentation", "data"}.isdisjoint(recipe)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["training"] == {"objective": "levljepa"}


def test_of_a_baseline_without_a_word_no_objective_is_told(checkpoints, tmp_path):
    """Its scale and bias tell; without them it was called clip."""
    stated = read(_imported(checkpoints["siglip"], tmp_path / "scaled", training=None))
    assert stated["config"]["objective"] == "siglip" and "objective" in stated["known"]
    back = _imported(checkpoints["siglip"], tmp_path / "silent", training=None, logit=None)
    assert "objective" not in read(back)["known"] and not {"lr", "batch_size", "seed"} & {*read(back)["known"]}
    assert main(["release", str(back), "--out", str(tmp_path / "out"), "--licence", "mit"]) == 0
    assert "clip" not in (tmp_path / "out" / "README.md").read_text()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["training"] == {}
    (release,) = export(back, "release", tmp_path / "r.safetensors")
    assert read_any(release)["known"] == read(back)["known"]


def test_earlier_runs_go_with_every_form(checkpoints, tmp_path):
    run = {"file": "ckpt.pt", "sha256": "ab" * 32, "step": 3, "objective": "levljepa", "data": "csv:/home/me/pairs.csv"}
    state = read(checkpoints["levljepa"])
    save(tmp_path / "ckpt.pt", {**state, "earlier": [run], "config": {**state["config"], "init_from": "/home/me/a/ckpt.pt"}})
    assert main(["release", str(tmp_path / "ckpt.pt"), "--out", str(tmp_path / "out"), "--licence", "mit"]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "/home/me" not in card + (tmp_path / "out" / "config.json").read_text()
    assert "init_from: ckpt.pt" in card and f"3 steps on csv:pairs.csv, file ckpt.pt, SHA-256 {'ab' * 32}" in card
    assert main(["import", str(tmp_path / "out"), "--out", str(tmp_path / "back.pt")]) == 0
    assert read(tmp_path / "back.pt")["earlier"] == [{**run, "data": "csv:pairs.csv"}]


def test_a_number_beyond_half_precision_stays_in_a_release(checkpoints, tmp_path):
    """It became infinite, and the release was called a training that diverged."""
    state = read(checkpoints["levljepa"])
    state["vision"]["pre_proj"]["1.running_var"][0] = 1e5
    save(tmp_path / "ckpt.pt", state)
    (release,) = export(tmp_path / "ckpt.pt", "release", tmp_path / "r.safetensors")
    assert load_model(release)[0].vision.pre_proj[1].running_var[0] == 1e5


def test_a_release_is_never_written_over_a_checkpoint(checkpoints, tmp_path):
    shutil.copy(checkpoints["clip"], tmp_path / "ckpt.pt")
    with pytest.raises(UsageError, match=r"ckpt.pt: a release is a file whose name ends with .safetensors"):
        export(tmp_path / "ckpt.pt", "release", tmp_path / "ckpt.pt")
    assert read(tmp_path / "ckpt.pt")["optimizer"]
    with pytest.raises(UsageError, match="is a directory; give the file in it"):
        export(tmp_path, "release", tmp_path / "r.safetensors")


def test_names_of_others_are_text_in_the_card():
    record = Record(
        backbone={"name": "x", "uri": "levl:x", "weights_sha256": "w"},
        task="[l](javascript:x)|<b>", engine="linear", main_metric="top1", protocol={},
        protocol_hash="p", data={"fingerprint": "f", "source": "scenes"}, seed=0, metrics={"top1": Estimate(value=0.5, n=100)},
    )  # fmt: skip
    state = {"config": parse_config(["data=csv:`a`.csv"]).model_dump(mode="json"), "step": 1}
    card = model_card(state, None, [record], "mit", "a\n# b")
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


def test_a_killed_release_leaves_nothing_that_the_next_refuses(checkpoints, tmp_path):
    """It left a folder with some of its files, "there already and not empty" for the next."""
    out = tmp_path / "out"
    words = ["release", str(checkpoints["clip"]), "--out", str(out), "--licence", "mit"]
    code = (
        "import os, sys\nfrom levl_eval.pretrain import release\nfrom levl_eval.pretrain.cli import main\n"
        "release.model_card = lambda *a: os._exit(9)\nmain(sys.argv[1:])"
    )
    assert subprocess.run([sys.executable, "-c", code, *words], check=False).returncode == 9
    assert not out.exists()
    out.mkdir()
    assert main(words) == 0
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} < {f.name for f in out.iterdir()}
    assert [f.name for f in tmp_path.iterdir()] == ["out"]


def test_a_release_that_fails_leaves_nothing(checkpoints, tmp_path, monkeypatch):
    def full(*_args):
        raise LevlError("disk full")

    monkeypatch.setattr(release_module, "model_card", full)
    assert main(["release", str(checkpoints["clip"]), "--out", str(tmp_path / "out"), "--licence", "mit"]) != 0
    assert list(tmp_path.iterdir()) == []
