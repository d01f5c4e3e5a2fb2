"""Read-out, maximal length, tokenizer and preprocessing travel with every form, and every form gives the same numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from levl_eval.backbones import load_backbone
from levl_eval.core.errors import UsageError
from levl_eval.models import checkpoints, tokenizer
from levl_eval.models.checkpoints import export, load_model, read, save
from levl_eval.models.config import parse_config
from levl_eval.models.towers import build_model
from levl_eval.pretrain.interchange import import_published

SMALL = ["vision.depth=1", "text.depth=1", "vision.width=48", "vision.heads=2", "text.width=32", "text.heads=2", "embed_dim=12",
         "head_width=20", "predictor_width=16", "predictor_depth=2", "image_size=32", "sigreg_slices=16"]  # fmt: skip
TEXTS = ["a photo of a red cat", "two dogs run over green fields while it rains in the town", "rain"]


def _checkpoint(path, *words, tok=None):
    """A ckpt.pt of random weights whose BatchNorms have seen something."""
    tok = tok or tokenizer.train(TEXTS * 10, 300)
    config = parse_config([*SMALL, *words])
    torch.manual_seed(0)
    model = build_model(config, tok.get_vocab_size())
    for m in model.modules():
        if isinstance(m, nn.BatchNorm1d):
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
    save(path, checkpoints.payload(model.state_dict(), config, tok.to_str(), 7))
    return path


def _numbers(uri):
    b = load_backbone(str(uri))
    g = np.random.default_rng(0)
    images = [Image.fromarray(g.integers(0, 255, (40, 60 + i, 3), dtype=np.uint8)) for i in range(3)]
    with torch.inference_mode():
        x = torch.stack([b.preprocess(i) for i in images])
        f = b.encode(x)
        out = {"x": x, "pooled": f.pooled, "patches": f.patches}
        out |= {f"image/{k}": v for k, v in b.image_embeddings(f.pooled).items()}
        out |= {f"text/{k}": v for k, v in b.text_embeddings(TEXTS).items()}
    return out, b.weights_sha256, b.preprocess


CASES = [
    ["text_readout=pad77", "max_length=11", "interpolation=bilinear"],
    ["text_readout=pad77", "pad77_attends=all", "resize=crop"],
    ["max_length=5", "mean=[0.1, 0.2, 0.3]", "std=[0.5, 0.4, 0.3]", "positions=40"],
    ["objective=siglip", "pre_proj_depth=2", "interpolation=bilinear"],
    ["pre_proj_hidden_dims=[20, 30]", "projector_hidden_dims=[16, 18, 14]", "dropout=0.1"],
    ["prediction=direct", "pre_proj_depth=0"],
]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["official", "safetensors"])
@pytest.mark.parametrize("words", CASES)
def test_every_form_gives_the_same_numbers_bit_for_bit(tmp_path, words, form):
    source = _checkpoint(tmp_path / "run.pt", *words)
    export(source, form, tmp_path / "dir")
    import_published(str(tmp_path / "dir"), tmp_path / "back.pt")
    export(tmp_path / "back.pt", form, tmp_path / "again")
    wanted = _numbers(f"levl:{source}")
    for uri in (f"official:{tmp_path / 'dir'}", f"levl:{tmp_path / 'back.pt'}", f"official:{tmp_path / 'again'}"):
        got = _numbers(uri)
        assert got[0].keys() == wanted[0].keys() and got[1:] == wanted[1:], uri
        for k, v in wanted[0].items():
            assert torch.equal(v, got[0][k]), (uri, k)
    before, after = read(source), read(tmp_path / "back.pt")
    for field in ("text_readout", "pad77_attends", "max_length", "objective", "prediction"):
        assert before["config"][field] == after["config"][field], field
    assert (before["preprocess"], before["tokenizer"]) == (after["preprocess"], after["tokenizer"])


def test_a_release_carries_them_too(tmp_path):
    source = _checkpoint(tmp_path / "run.pt", "text_readout=pad77", "max_length=11", "interpolation=bilinear")
    (release,) = export(source, "release", tmp_path / "r.safetensors")
    export(release, "safetensors", tmp_path / "dir")
    one, two = _numbers(f"levl:{release}"), _numbers(f"official:{tmp_path / 'dir'}")
    assert one[1:] == two[1:] and all(torch.equal(v, two[0][k]) for k, v in one[0].items())
    assert one[2].interpolation == "bilinear" and load_model(release)[1]["config"]["text_readout"] == "pad77"


def test_a_default_export_loads_in_the_authors_own_loader(tmp_path, shared):
    """Their loader, written here from its interface: strict state dictionaries, GPT-2 with its default 1,024 positions, pad77."""
    import timm
    from torchvision.ops import MLP

    from levl_eval.core.third_party import repair

    repair()
    from transformers import GPT2Config, GPT2Model

    tok = tokenizer.load_gpt2(str(shared / "gpt2_bpe"))
    words = ["model=tiny", "vision.depth=12", "text.depth=12", "vision.width=192", "vision.heads=3", "text.width=192", "text.heads=3",
             "embed_dim=192", "image_size=224", "head_width=2048",
             "predictor_width=2048", "predictor_depth=4", "text_readout=pad77"]  # fmt: skip
    for positions in ("77", "1024"):
        source = _checkpoint(tmp_path / f"{positions}.pt", *words, f"positions={positions}", tok=tok)
        vision, text, _ = export(source, "official", tmp_path / positions)
        v, t = (torch.load(p, map_location="cpu", weights_only=True) for p in (vision, text))
        encoder = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, dynamic_img_size=True)
        gpt = GPT2Model(
            GPT2Config(n_embd=192, n_layer=12, n_head=3, n_inner=768, vocab_size=50257, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0)
        )  # fmt: skip
        pre = [nn.Sequential(nn.Linear(192, 2048), nn.BatchNorm1d(2048), nn.GELU(), nn.Linear(2048, 192)) for _ in range(2)]
        mlp = [MLP(192, [2048] * 4 + [192], norm_layer=nn.BatchNorm1d, activation_layer=nn.GELU, dropout=0.0) for _ in range(2)]
        encoder.load_state_dict(v["encoder"])
        gpt.load_state_dict(t["encoder"])
        for state, p, m in zip((v, t), pre, mlp, strict=True):
            p.load_state_dict(state["pre_proj"])
            m.load_state_dict(state["projector"])
        for module in (encoder, gpt, *pre, *mlp):
            module.eval()
        rows = [tok.encode(x).ids for x in TEXTS]
        ids = torch.tensor([r + [50256] * (77 - len(r)) for r in rows])
        mask = torch.tensor([[1] * len(r) + [0] * (77 - len(r)) for r in rows])
        with torch.no_grad():
            theirs = mlp[1](pre[1](gpt(input_ids=ids, attention_mask=mask).last_hidden_state[:, -1]))
        ours = load_backbone(f"official:{tmp_path / positions}").text_embeddings(TEXTS)["predicted"]
        assert torch.allclose(nn.functional.normalize(theirs, dim=1), ours, atol=1e-6)


def test_a_directory_holds_one_model(tmp_path):
    one = _checkpoint(tmp_path / "one.pt")
    two = _checkpoint(tmp_path / "two.pt", "text_readout=pad77")
    export(one, "official", tmp_path / "dir")
    export(one, "official", tmp_path / "dir")
    with pytest.raises(UsageError, match=r"config\.json: describes another model; choose another --out"):
        export(two, "official", tmp_path / "dir")


@pytest.mark.parametrize(
    "part, field, value, expected",
    [
        ("text_encoder", "readout", "mean", "`text_encoder.readout` is 'mean'"),
        ("text_encoder", "max_length", 5000, "`text_encoder.max_length` is 5000; expected 1 to 32"),
        ("text_encoder", "positions", 0, "`text_encoder.positions` is 0"),
        ("vision_encoder", "num_heads", 5, "`vision_encoder.num_heads` is 5, which does not divide"),
        ("preprocess", "resize", "stretch", "`preprocess.resize` is 'stretch'"),
        ("preprocess", "std", [1, 0, 1], "`preprocess.std`"),
        ("preprocess", "size", "big", "`preprocess.size` is 'big'"),
    ],
)
def test_what_config_json_says_wrongly_is_one_line(tmp_path, part, field, value, expected):
    export(_checkpoint(tmp_path / "run.pt"), "safetensors", tmp_path / "dir")
    path = tmp_path / "dir" / "config.json"
    content = json.loads(path.read_text())
    content[part][field] = value
    path.write_text(json.dumps(content))
    for call in (
        lambda: load_backbone(f"official:{tmp_path / 'dir'}"),
        lambda: import_published(str(tmp_path / "dir"), tmp_path / "x.pt"),
    ):
        with pytest.raises(UsageError) as e:
            call()
        assert expected in str(e.value) and "config.json" in str(e.value) and "\n" not in str(e.value)


def test_julys_names_at_the_top_of_config_json_are_read(tmp_path):
    export(_checkpoint(tmp_path / "run.pt"), "safetensors", tmp_path / "dir")
    path = tmp_path / "dir" / "config.json"
    content = json.loads(path.read_text())
    del content["text_encoder"]["readout"], content["text_encoder"]["max_length"], content["preprocess"]
    path.write_text(json.dumps({**content, "text_readout": "pad77", "max_text_length": 9}))
    b = load_backbone(f"official:{tmp_path / 'dir'}")
    assert (b.readout, b.max_length, b.preprocess.resize) == ("pad77", 9, "shortest") and b.preprocess.mean[0] == 0.485
