"""`verify --against project-page` on a reference the test makes in the page's form, by torchvision and the bare model."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from PIL import Image

from levl_eval.cli import main
from levl_eval.models.checkpoints import export, load_model
from levl_eval.models.tokenizer import encode

CLASSES = {"n03": "a photo of a church", "n01": "a photo of a fish", "n02": "a photo of an English dog"}  # not in order of name
SEED, EACH = 7, 4


@pytest.fixture(scope="module")
def page(checkpoints, tmp_path_factory):
    """Images, the published form of two checkpoints, and the reference: (root, arguments)."""
    from tokenizers import Tokenizer
    from torchvision import transforms as T

    root = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (root / "nette" / "val" / name).mkdir(parents=True)
        for k in range(7):
            w, h = (int(v) for v in rng.integers(225, 420, 2))  # odd differences: where geometries would come apart
            small = Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8))
            small.resize((w, h), Image.Resampling.BICUBIC).save(root / "nette" / "val" / name / f"{k}.JPEG", quality=90)
    draw, files = random.Random(SEED), []
    for name in CLASSES:
        files += draw.sample(sorted((root / "nette" / "val" / name).glob("*.JPEG")), EACH)
    cut = T.Compose(
        [T.Resize(224, interpolation=T.InterpolationMode.BICUBIC), T.CenterCrop(224), T.ToTensor(),
         T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    )  # fmt: skip
    pixels = torch.stack([cut(Image.open(f).convert("RGB")) for f in files])
    scores = {}
    for key, objective in (("levl", "levljepa"), ("clip", "clip")):
        export(checkpoints[objective], "safetensors", root / key)
        model, meta = load_model(checkpoints[objective])
        ids, last = encode(Tokenizer.from_str(meta["tokenizer"]), list(CLASSES.values()), 77)
        with torch.no_grad():
            image = model.eval().vision.pre_proj(model.vision.encoder(pixels))
            hidden = model.text.encoder(torch.from_numpy(ids)).last_hidden_state[torch.arange(len(ids)), torch.from_numpy(last)]
            text = model.text.pre_proj(hidden)
            if key == "levl":
                text = model.text.projector(text)
        scores[key] = torch.nn.functional.cosine_similarity(image[:, None], text[None], dim=-1).tolist()
    names = list(CLASSES)
    images = [
        {"id": f"{i // EACH:02d}-{i % EACH:02d}", "classId": names[i // EACH], "label": "x", "tsne": {"levl": [0, 0], "clip": [0, 0]},
         "scores": {k: [round(v, 6) for v in scores[k][i]] for k in scores}}
        for i in range(len(files))
    ]  # fmt: skip
    classes = [{"id": n, "label": n, "prompt": p} for n, p in CLASSES.items()]
    value = {"meta": {"dataset": "stand-in", "imageCount": len(files), "seed": SEED}, "classes": classes, "images": images}
    (root / "data.json").write_text(json.dumps(value))
    words = ["verify", "--against", "project-page", "--data", str(root / "nette"), "--quiet", "--batch-size", "5"]
    return root, [*words, "--as", f"official:{root / 'levl'}=LeVLJEPA", "--as", f"official:{root / 'clip'}=InfoNCE"]


def test_the_same_weights_give_the_same_cosines(page, capsys):
    root, words = page
    assert main([*words, "--reference", str(root / "data.json"), "--json"]) == 0
    found = {d["model"]: d for d in json.loads(capsys.readouterr().out)}
    assert set(found) == {"LeVLJEPA", "InfoNCE"}
    for d in found.values():
        assert d["images"] == 12 and d["largest"] < 2e-5 and d["within"] and d["accuracy"] == d["published_accuracy"]


@pytest.mark.slow
def test_a_difference_is_found_where_it_is(page, capsys):
    root, words = page
    value = json.loads((root / "data.json").read_text())
    value["images"][6]["scores"]["clip"][1] += 0.25
    (root / "other.json").write_text(json.dumps(value))
    assert main([*words, "--reference", str(root / "other.json")]) == 1
    out = capsys.readouterr().out
    assert "0.25" in out and "(image 01-02, 'a photo of a fish')" in out
    assert out.count("OUTSIDE the tolerance") == 1 and out.count("within the tolerance") == 1
    # Read in another space, the predicted text left out, the cosines are others: the read-out is part of what is verified.
    swapped = [w.replace("=InfoNCE", "=LeVLJEPA") if "clip" in w else w for w in words if "=LeVLJEPA" not in w]
    swapped.remove("--as")
    assert main([*swapped, "--reference", str(root / "data.json")]) == 1


def test_what_is_missing_is_one_line(page, tmp_path, capsys):
    root, words = page
    reference = ["--reference", str(root / "data.json")]
    (tmp_path / "junk.json").write_text('{"classes": []}')
    (tmp_path / "n03").mkdir()
    for wrong, said in [
        ([*words, "--reference", str(tmp_path / "none.json")], "cannot be read"),
        ([*words, "--reference", str(tmp_path / "junk.json")], "not the project page's data.json"),
        ([*words[:4], str(tmp_path), *words[5:], *reference], "holds 0 *.JPEG, 4 are drawn"),
        ([*words, *reference, "somewhere"], "no run directory"),
        ([*words, *reference, "--as", "random:nano=SigLIP"], "not SigLIP"),
        ([*words[:5], "--quiet", *reference, "--as", "random:nano=LeVLJEPA"], "has no text encoder"),
    ]:
        assert main(wrong) == 2, wrong
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1
