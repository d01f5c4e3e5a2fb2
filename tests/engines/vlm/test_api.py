"""levl_eval.vlm: save, load and answer; a connector of another encoder is refused; `levl-eval ask`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import levl_eval.vlm
from levl_eval.backbones import load_backbone
from levl_eval.cards import ConnectorSpec, PromptSpec
from levl_eval.cli import main
from levl_eval.core.errors import UsageError
from levl_eval.core.progress import Progress
from levl_eval.data.types import ImageSet
from levl_eval.engines.vlm.connector import Connector
from levl_eval.engines.vlm.tokens import check_layer, encode_tokens, layers_of_connector, read_tokens, width_of
from levl_eval.features.request import Reading
from levl_eval.features.store import FeatureStore
from levl_eval.runner.evaluate import evaluate
from tests.engines.vlm.models import TEXTS, make


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec", [{}, {"kind": "unshuffle_mlp", "layer": -2}, {"kind": "resampler", "tokens": "cls+patches", "layer": 1}]
)
def test_save_load_answer(tmp_path, capsys, spec):
    language = make("llama", tmp_path / "llm", context=512)
    connector = ConnectorSpec(**spec)
    backbone = load_backbone("random:nano")
    torch.manual_seed(0)
    net = Connector(connector, width_of(backbone, connector), language.width, 0.3, backbone.grid)
    vlm = levl_eval.vlm.VLM(backbone, net, language, PromptSpec(max_new_tokens=5, stop=[]), "random:nano", language.name)
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


@pytest.mark.parametrize(("field", "other"), [("prompt", PromptSpec(max_new_tokens=9)), ("connector", None)])
def test_a_saved_model_that_was_half_replaced_is_refused(tmp_path, monkeypatch, field, other):
    """Ctrl-C between the two files of a second `ask --save`: the new connector beside the earlier vlm.json."""
    language = make("llama", tmp_path / "llm", context=512)
    backbone = load_backbone("random:nano")

    def model(spec, prompt):
        net = Connector(spec, width_of(backbone, spec), language.width, 0.3, backbone.grid)
        return levl_eval.vlm.VLM(backbone, net, language, prompt, "random:nano", language.name)

    first, prompt = ConnectorSpec(), PromptSpec(max_new_tokens=5)
    model(first, prompt).save(tmp_path / "vlm")
    assert levl_eval.vlm.load(tmp_path / "vlm").spec == prompt

    def interrupted(path, content):
        raise KeyboardInterrupt

    monkeypatch.setattr("levl_eval.engines.vlm.api.atomic_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model(first if other else ConnectorSpec(layer=1), other or prompt).save(tmp_path / "vlm")
    with pytest.raises(UsageError, match=f"connector.safetensors: this connector was trained for another {field}"):
        levl_eval.vlm.load(tmp_path / "vlm")


def test_tokens_are_the_same_with_and_without_the_store(tmp_path):
    """Every choice of tokens and layer; a block is read after the final norm, its class token as wide as its patches."""
    backbone = load_backbone("random:nano")
    image = Image.new("RGB", (80, 60), (200, 30, 30))
    images = ImageSet(("a",), lambda name: image, "one red image")
    x, store = backbone.preprocess(image)[None], FeatureStore(tmp_path)
    seen = {}
    for layer in ("last", 0, -1):
        for tokens in ("patches", "cls", "cls+patches"):
            spec = ConnectorSpec(layer=layer, tokens=tokens)
            seen[layer, tokens] = raw = encode_tokens(backbone, x, spec)
            kept = read_tokens(store.get(backbone, images, how=Reading(layers=layers_of_connector(spec))), [0], spec)
            assert raw.shape == kept.shape and raw.shape[-1] == width_of(backbone, spec)
            assert np.allclose(raw.numpy(), kept, atol=2e-2)  # the store holds half precision
    assert torch.allclose(seen["last", "cls+patches"], seen[-1, "cls+patches"], atol=1e-5)  # of a plain ViT
    assert not torch.allclose(seen[0, "patches"], seen[-1, "patches"], atol=1e-2)
    with pytest.raises(UsageError, match=r"recipe.connector.layer.*one of its 4 blocks"):
        check_layer(backbone, ConnectorSpec(layer=9))


def test_ask_trains_a_connector_once_and_saves_the_model(world, tmp_path, monkeypatch, capsys):
    """`ask --backbone --llm`: the connector of the recipe, reused the second time and by a run; saved, it answers the same."""
    from levl_eval.engines.vlm import training

    language = make("llama", tmp_path / "llm", context=512)
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        "kind: recipe\nname: small\ndata:\n- {layout: gqa, directory: gqa, split: train_balanced}\n"
        "max_questions: 30\nsteps: 2\nimages_per_batch: 4\n"
    )
    image = tmp_path / "a.png"
    Image.new("RGB", (80, 60), (200, 30, 30)).save(image)
    words = ["--backbone", "random:nano", "--llm", language.name, "--recipe", str(recipe), "--data", str(world), "--quiet"]
    assert main(["ask", str(image), *TEXTS, *words, "--save", str(tmp_path / "vlm")]) == 0
    first = capsys.readouterr().out
    assert len(first.splitlines()) == len(TEXTS) and len(set(first.splitlines())) > 1
    (made,) = (tmp_path / "cache" / "connectors").glob("*.safetensors")

    def never(*args, **more):
        raise AssertionError("trained again")

    monkeypatch.setattr(training, "training_loop", never)
    assert main(["ask", str(image), *TEXTS, *words]) == 0 and capsys.readouterr().out == first
    assert main(["ask", "--model", str(tmp_path / "vlm"), str(image), *TEXTS]) == 0 and capsys.readouterr().out == first
    settings = [f"gqa.recipe={recipe}", "gqa.floors=[]"]
    (record,) = evaluate(
        ["random:nano"],
        ["gqa"],
        data=str(world),
        llm=language.name,
        settings=settings,
        out=tmp_path / "out",
        progress=Progress(quiet=True),
    )
    assert record.status == "done" and record.notes["connector"] == made.stem, record.reason
    assert main(["ask", str(tmp_path / "none.png"), "Why?", *words]) == 2 and "no such image" in capsys.readouterr().err
    assert (
        main(["ask", str(image), "Why?", *words[:4], "--recipe", "vqa-trian"]) == 2
        and "did you mean vqa-train" in capsys.readouterr().err
    )
