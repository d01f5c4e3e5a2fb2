"""Retrieval: ranks with ties against plain loops, Karpathy's files, csv files, zero-shot read-outs."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image

from levl_eval.backbones import load_backbone
from levl_eval.cards import DataSpec
from levl_eval.cards.registry import task_card
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.data.captions import first_captions
from levl_eval.data.readers import read_captions
from levl_eval.engines.probes import retrieval, zeroshot
from levl_eval.engines.probes.texts import prompt_templates, spoken_names, text_embeddings
from levl_eval.metrics.retrieval import recall_at

CPU = torch.device("cpu")


def test_recall_with_ties_is_the_mean_over_all_orders():
    for greater, tied, right, k in itertools.product(range(3), range(4), (1, 2), (1, 2, 5)):
        hits = []
        for order in itertools.permutations(range(tied + right)):
            hits.append(any(item < right for item in order[: max(0, k - greater)]))
        assert recall_at([greater], [tied], k, [right])[0] == pytest.approx(np.mean(hits))


def test_ranks_equal_a_plain_count_whatever_the_blocks():
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(-1, 2, (9, 3)).astype(np.float32))  # many exact ties
    owner = np.repeat(np.arange(9), 2)[rng.permutation(18)]
    texts = torch.from_numpy(rng.integers(-1, 2, (18, 3)).astype(np.float32))
    s = (images @ texts.T).numpy()
    found = retrieval.ranks(images, texts, owner, CPU)
    for i in range(9):
        best = s[i][owner == i].max()
        wrong = s[i][owner != i]
        assert found.image[:, i].tolist() == [(wrong > best).sum(), (wrong == best).sum(), (s[i][owner == i] == best).sum()]
    for j in range(18):
        own = s[owner[j], j]
        assert found.text[:2, j].tolist() == [(s[:, j] > own).sum(), (s[:, j] == own).sum() - 1]
    small = retrieval.ranks(images, texts, owner, CPU, rows=4, columns=5)
    assert (small.image == found.image).all() and (small.text == found.text).all()


def test_a_collapsed_encoder_has_the_recall_of_chance():
    same = torch.randn(1, 64).repeat(20, 1)
    texts = torch.randn(1, 64).repeat(40, 1)
    by_image, by_text = retrieval.recalls(same, texts, np.repeat(np.arange(20), 2), [1, 5], 1, CPU)
    assert by_text[0] == pytest.approx(1 / 20) and by_text[1] == pytest.approx(5 / 20)
    assert by_image[0] == pytest.approx(2 / 40)


def _karpathy(root, test=6):
    images = []
    for i in range(test + 1):
        split = "test" if i < test else "train"
        (root / "val2014").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 12), (i * 30, 0, 9)).save(root / "val2014" / f"{i}.jpg")
        sentences = [{"raw": f"image {i} number {k}"} for k in range(6)]
        images.append({"filepath": "val2014", "filename": f"{i}.jpg", "split": split, "sentences": sentences})
    (root / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))


def test_karpathys_split(tmp_path):
    _karpathy(tmp_path / "coco")
    found = read_captions(DataSpec(layout="karpathy", directory="coco", split="test"), str(tmp_path))
    assert len(found.images) == 6 and len(found.captions) == 36 and found.owner[7] == 1
    assert found.images.open(found.images.ids[2]).getpixel((0, 0))[0] == pytest.approx(60, abs=4)
    thin = first_captions(found, 5)
    assert len(thin.captions) == 30 and thin.captions[5] == "image 1 number 0"
    with pytest.raises(UsageError, match=r"field `split`: 'dev'.*test, train"):
        read_captions(DataSpec(layout="karpathy", directory="coco", split="dev"), str(tmp_path))
    with pytest.raises(UsageError, match="Karpathy's split file"):
        read_captions(DataSpec(layout="karpathy", directory="flickr30k", split="test"), str(tmp_path))


def test_captions_csv(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    table = tmp_path / "c.csv"
    spec = DataSpec(layout="captions", annotations=str(table))
    table.write_text("image,caption,split\na.png,one,test\na.png,two,train\nb.png,three,test\n")
    assert read_captions(spec, "").captions == ("one", "two", "three")
    assert read_captions(spec.model_copy(update={"split": "test"}), "").captions == ("one", "three")
    for text, message in {
        "file,caption\n": "the header is", "image,caption\na.png,\n": "line 2: image or caption is empty",
        "image,caption\ngone.png,x\n": "1 of 1 images are missing", "image,caption\n": "holds no captions",
    }.items():  # fmt: skip
        table.write_text(text)
        with pytest.raises(UsageError, match=message):
            read_captions(spec, "")


def test_retrieval_engine_on_every_readout(context, checkpoints, tmp_path):
    _karpathy(tmp_path / "data" / "coco")
    b = load_backbone(str(checkpoints["levljepa"]))
    out = retrieval.run(context(task_card("coco-1k", {"folds": "2"}), b, tmp_path / "data"))
    assert {f"text_to_image_r1/{r.name}" for r in b.readouts} <= set(out.metrics)
    assert out.metrics["mean_recall"] == out.metrics["mean_recall/image-to-predicted-text"]
    ways = {}
    for s in out.samples:
        ways.setdefault(s.meta["split"], []).append(s.score)
    assert out.metrics["mean_recall"].value == pytest.approx(np.mean([np.mean(v) for v in ways.values()]))
    assert out.metrics["image_to_text_r10"].value == 1  # three images a fold, five captions each
    with pytest.raises(LevlError, match="no text encoder"):
        retrieval.run(context(task_card("coco-1k"), load_backbone("random:nano"), tmp_path / "data"))
    with pytest.raises(UsageError, match="7 folds of 6 images"):
        retrieval.run(context(task_card("coco-1k", {"folds": "7"}), b, tmp_path / "data"))


def test_text_embeddings_are_kept_and_equal_texts_are_equal(checkpoints, tmp_path):
    b = load_backbone(str(checkpoints["clip"]))
    first = text_embeddings(b, ["a cat", "a dog", "a cat"], tmp_path)["embedding"]
    assert torch.equal(first[0], first[2]) and len(list((tmp_path / "texts").iterdir())) == 1
    b.text_embeddings = None  # a second call runs no encoder
    assert torch.equal(text_embeddings(b, ["a cat", "a dog", "a cat"], tmp_path)["embedding"], first)


def test_zero_shot_readouts_and_class_names(context, checkpoints, tmp_path):
    b = load_backbone(str(checkpoints["levljepa"]))
    out = zeroshot.run(context(task_card("zeroshot", {"readout": "average"}), b))
    assert out.metrics["top1"] == out.metrics["top1/average"] and out.notes["main_readout"] == "average"
    assert {f"{m}/{r.name}" for m in ("top1", "top5", "calibration_error") for r in b.readouts} <= set(out.metrics)
    with pytest.raises(UsageError, match=r"field `readout`.*average"):
        zeroshot.run(context(task_card("zeroshot", {"readout": "avrage"}), b))
    names = tmp_path / "names.txt"
    names.write_text("tench\ngoldfish\n")
    assert spoken_names(str(names), ("n1", "n2"), (), "t") == ["tench", "goldfish"]
    assert spoken_names(None, ("a_b", "c"), (), "t") == ["a b", "c"]
    assert len(prompt_templates("openai", "t")) == 80 and len(spoken_names("openai", ("x",) * 1000, (), "t")) == 1000
    with pytest.raises(UsageError, match="expected a list of templates, or openai"):
        prompt_templates("a photo", "t")
