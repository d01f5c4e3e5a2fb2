"""The published checkpoints' form as the hub's cache holds it, network off: evaluated by its card's name, imported, exported."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from levl_eval.backbones import load_backbone
from levl_eval.cards.registry import backbone_card, names
from levl_eval.cli import main as evaluate
from levl_eval.core.errors import UsageError
from levl_eval.models import tokenizer
from levl_eval.models.checkpoints import load_model
from levl_eval.models.config import parse_config
from levl_eval.models.published import Description
from levl_eval.models.towers import build_model
from levl_eval.pretrain.cli import main as pretrain

REVISION = "0123456789abcdef0123456789abcdef01234567"


def _in_cache(cache, repo, words):
    """A published directory of random weights, where huggingface_hub looks for a downloaded repository. Returns the snapshot."""
    tok = tokenizer.train(["a photo of a cat.", "a photo of a dog."], 300)
    config = parse_config(["model=base", "text.depth=1", "max_length=77", *words])
    torch.manual_seed(0)
    model = build_model(config, tok.get_vocab_size())
    folder = cache / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(REVISION)
    for side in ("vision", "text"):
        save_file(
            {k: v.contiguous() for k, v in getattr(model, side).state_dict().items()}, snapshot / f"{side}_encoder.safetensors"
        )
    told = {
        "model_type": "levljepa",
        "embed_dim": 768,
        "training": {"dataset": "cc12m", "total_steps": 200_000, "batch_size": 4096},
    }
    (snapshot / "config.json").write_text(json.dumps(told))  # as the template writes it: its embed_dim is not to be believed
    (snapshot / "tokenizer.json").write_text(tok.to_str())
    return snapshot


@pytest.fixture
def offline(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "hub"


@pytest.mark.slow
@pytest.mark.hub
def test_a_vit_b_in_the_hub_cache_goes_the_whole_way(offline, tmp_path):
    repo = "lukaskuhn/LeVLJEPA-ViT-B-DataComp-200k"
    snapshot = _in_cache(offline, repo, ["embed_dim=256"])
    rng = np.random.default_rng(0)
    for i in range(4):
        folder = tmp_path / "data" / "classification" / "test" / ("cat", "dog")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (240, 300, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    words = ["run", "--backbone", "levljepa-vit-b-datacomp", "--tasks", "zeroshot", "--data", str(tmp_path / "data")]
    assert evaluate([*words, "--out", str(tmp_path / "out")]) == 0
    (record,) = [json.loads(p.read_text()) for p in (tmp_path / "out" / "records").glob("*.json")]
    assert record["status"] == "done" and record["backbone"]["name"] == "levljepa-vit-b-datacomp"
    assert record["backbone"]["preprocess"]["resize_to"] == 256 and "top1/image-to-predicted-text" in record["metrics"]

    out = tmp_path / "ckpt.pt"
    assert pretrain(["import", repo, "--out", str(out)]) == 0
    model, meta = load_model(out)
    config = meta["config"]
    assert (config["model"], config["embed_dim"], config["head_width"], config["predictor_depth"]) == ("base", 256, 2048, 4)
    assert config["vision"] == {"width": 768, "depth": 12, "heads": 12, "patch": 16} and config["text"]["depth"] == 1
    del model
    assert pretrain(["export", str(out), "--to", "safetensors", "--out", str(tmp_path / "back")]) == 0
    for side in ("vision", "text"):
        one, two = (load_file(d / f"{side}_encoder.safetensors") for d in (snapshot, tmp_path / "back"))
        assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_a_matched_baseline_has_no_predictor(offline):
    _in_cache(offline, "lukaskuhn/SigLIP-ViT-B-DataComp-200k",
              ["objective=siglip", "embed_dim=48", "vision.width=64",
               "vision.depth=1", "vision.heads=1", "text.width=64", "text.heads=1"])  # fmt: skip
    b = load_backbone("siglip-vit-b-datacomp")
    assert [r.name for r in b.readouts] == ["embedding"] and b.grid == (14, 14)
    assert b.encode_text(["a photo of a cat."]).shape == (1, 48)


def test_cards_of_published_models_say_what_they_are():
    published = [n for n in names("backbones") if not n.endswith("-nano")]
    assert len(published) >= 23
    for name in published:
        card = backbone_card(name)
        assert card.licence and card.training_data and card.citation and card.description, name
        assert card.uri.startswith(("official:lukaskuhn/", "hf:", "open_clip:", "timm:"))
        if card.uri.startswith("official:"):
            assert card.preprocess is not None and card.preprocess.size == 224 and card.preprocess.mean and card.preprocess.std


def test_a_field_that_a_config_gives_twice_is_refused(tmp_path):
    """The last was taken."""
    (tmp_path / "config.json").write_text('{"text_readout": "eot", "text_readout": "pad77"}')
    with pytest.raises(UsageError, match='config.json: a field "text_readout" is given twice in one object; keep one'):
        Description.of(tmp_path)
