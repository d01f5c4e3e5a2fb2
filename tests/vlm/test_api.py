"""levl_eval.vlm: save, load and answer; a connector of another encoder is refused; `levl-eval ask`."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

import levl_eval.vlm
from levl_eval.backbones import load_backbone
from levl_eval.cards import ConnectorSpec, PromptSpec
from levl_eval.cli import main
from levl_eval.errors import UsageError
from levl_eval.vlm.connector import Connector
from levl_eval.vlm.tokens import view
from tests.vlm.models import TEXTS, make


@pytest.mark.parametrize("spec", [{}, {"kind": "unshuffle_mlp", "layer": -2}, {"kind": "resampler", "tokens": "cls+patches"}])
def test_save_load_answer(tmp_path, capsys, spec):
    language = make("llama", tmp_path / "llm", context=512)
    connector = ConnectorSpec(**spec)
    eye = view(load_backbone("random:nano"), connector)
    torch.manual_seed(0)
    net = Connector(connector, eye.patch_dim, language.width, 0.3, eye.grid)
    vlm = levl_eval.vlm.VLM(eye, net, language, PromptSpec(max_new_tokens=5, stop=[]), "random:nano", language.name)
    image = Image.new("RGB", (80, 60), (200, 30, 30))
    want = vlm.answers(image, TEXTS)
    vlm.save(tmp_path / "vlm")
    image.save(tmp_path / "a.png")
    again = levl_eval.vlm.load(tmp_path / "vlm")
    assert again.answers(image, TEXTS) == want and len(set(want)) > 1
    assert main(["ask", "--model", str(tmp_path / "vlm"), str(tmp_path / "a.png"), *TEXTS]) == 0
    assert capsys.readouterr().out == "".join(w + "\n" for w in want)
    assert main(["ask", str(tmp_path / "a.png"), "Why?"]) == 2 and "either --backbone" in capsys.readouterr().err
    assert again.answer(str(tmp_path / "a.png"), TEXTS[0]) == want[0]
    with pytest.raises(UsageError, match="trained for another weights"):
        levl_eval.vlm.load(tmp_path / "vlm", backbone="random:nano?seed=1")
    with pytest.raises(UsageError, match="no saved model"):
        levl_eval.vlm.load(tmp_path)


def test_a_layer_is_another_set_of_features():
    plain = load_backbone("random:nano")
    early, late = view(plain, ConnectorSpec(layer=0)), view(plain, ConnectorSpec(layer=-1))
    x = torch.randn(2, 3, plain.preprocess.size, plain.preprocess.size)
    assert len({plain.weights_sha256, early.weights_sha256, late.weights_sha256}) == 3
    assert view(plain, ConnectorSpec(layer=3)).weights_sha256 == late.weights_sha256  # of four blocks
    assert early.encode(x).patches.shape == plain.encode(x).patches.shape
    assert torch.allclose(plain.model.norm(late.encode(x).patches), plain.encode(x).patches, atol=1e-5)
    with pytest.raises(UsageError, match="has 4 blocks"):
        view(plain, ConnectorSpec(layer=9))
