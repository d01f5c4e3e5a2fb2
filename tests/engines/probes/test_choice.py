"""Choices by image-text score: a perfect and a blind encoder,
official formulations on the same numbers, files of each layout, the scenes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from levl_eval.backbones.base import Backbone, Features, Preprocess, Readout
from levl_eval.cards import DataSpec
from levl_eval.cards.registry import task_card
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.data.check import check
from levl_eval.data.fingerprints import content_of
from levl_eval.data.readers import read_choices
from levl_eval.engines.probes import choice
from levl_eval.metrics.choices import WINOGROUND_CHANCE, caption_choice, macro_mean, winoground_scores
from levl_eval.scenes import choices

TASKS = ("sugarcrepe", "winoground", "aro-relation", "aro-attribution", "aro-order", "mmvp-vlm")


class Knows(Backbone):
    """Its texts point where its images of those captions do; blind: everything points one way."""

    readouts = (Readout("embedding", "embedding", "embedding"),)

    def __init__(self, data, template: str = "{}", blind: bool = False) -> None:
        super().__init__()
        self.name = self.uri = "knows"
        self.preprocess = Preprocess(64, "squash", None, "bilinear", (0.0,) * 3, (1.0,) * 3)
        self.dim = self.patch_dim = len(data.images) + 1
        self.grid, self.blind, self.weights_sha256 = (1, 1), blind, "0" * 64
        self.rows = {np.asarray(self.preprocess(data.images.open(i))).tobytes(): k for k, i in enumerate(data.images.ids)}
        self.of_text: dict[str, torch.Tensor] = {}
        for t in data.trials:
            for k, caption in enumerate(t.captions):
                own = t.images[k] if len(t.images) == 2 else t.images[0] if k == 0 else None
                vector = self.of_text.setdefault(template.replace("{}", caption), torch.zeros(self.dim))
                if own is not None:
                    vector[data.images.ids.index(own)] = 1.0

    @property
    def has_text(self) -> bool:
        return True

    def encode(self, images: torch.Tensor) -> Features:
        pooled = torch.zeros(len(images), self.dim)
        for k, image in enumerate(images):
            pooled[k, -1 if self.blind else self.rows[image.numpy().tobytes()]] = 1.0
        return Features(pooled, pooled[:, None], self.grid)

    def image_embeddings(self, pooled: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"embedding": pooled}

    def text_embeddings(self, texts: list[str]) -> dict[str, torch.Tensor]:
        return {"embedding": torch.nn.functional.normalize(torch.stack([self.of_text[t] for t in texts]), dim=-1)}


def blank(path, colour=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 12), (colour, 0, 9)).save(path)


@pytest.mark.parametrize("task", TASKS)
def test_a_perfect_and_a_blind_encoder_on_the_scenes(task, world, context):
    card = task_card(task)
    data = read_choices(card.data, str(world))
    perfect = choice.run(context(card, Knows(data, card.template)))
    assert perfect.metrics[card.main_metric].value == 1.0
    assert perfect.metrics["floor_chance"].value == pytest.approx(card.chance)
    assert perfect.metrics["gain_over_chance"].value == pytest.approx(1 - card.chance)
    blind = choice.run(context(card, Knows(data, card.template, blind=True)))
    assert blind.metrics["tied"].value == 1.0
    assert blind.metrics[card.main_metric].value == (1.0 if card.ties == "right" else 0.0)
    rows = list(perfect.samples)
    assert len(rows) == len(data.trials) and all(r.score == 1.0 for r in rows)
    assert {f"{card.main_metric}/embedding", card.main_metric} <= perfect.metrics.keys()


def test_winogrounds_scores_as_its_paper_defines_them():
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 4, (500, 2, 2)).astype(float)  # many ties
    for s in drawn:
        c0_i0, c1_i0, c0_i1, c1_i1 = s[0, 0], s[0, 1], s[1, 0], s[1, 1]
        text = c0_i0 > c1_i0 and c1_i1 > c0_i1
        image = c0_i0 > c0_i1 and c1_i1 > c1_i0
        assert winoground_scores(s) == (float(text), float(image), float(text and image))
    means = np.mean([winoground_scores(s) for s in rng.random((20_000, 2, 2))], 0)
    assert means == pytest.approx(WINOGROUND_CHANCE, abs=0.01)


def test_a_choice_among_captions_and_its_ties():
    assert caption_choice(np.array([0.3, 0.2])) == 1.0 and caption_choice(np.array([0.2, 0.3, 0.1])) == 0.0
    assert caption_choice(np.array([0.2, 0.2])) == 0.0 and caption_choice(np.array([0.2, 0.2]), "right") == 1.0
    # ARO's own: argmax over (false, true) for pairs, over (true, four false) for orders
    for s in np.random.default_rng(0).integers(0, 3, (200, 5)).astype(float):
        assert caption_choice(s, "right") == float(np.argmax(s) == 0)
        assert caption_choice(s[:2]) == float(np.argmax(s[[1, 0]]) == 1)


def test_the_mean_over_kinds_by_hand():
    e = macro_mean(np.array([1.0, 0.0, 1.0, 1.0]), ["a", "a", "a", "b"], np.array(["x", "y", "z", "z"]))
    assert e.value == pytest.approx((2 / 3 + 1) / 2) and e.n == 4 and e.clusters == 3


def test_kinds_left_out_and_small_ones_are_not_averaged(world, context):
    card = task_card("aro-relation", {"kinds_left_out": "[above, below]"})
    data = read_choices(card.data, str(world))
    out = choice.run(context(card, Knows(data)))
    kept = [s for s in out.samples if s.score is not None]
    assert {s.meta["split"] for s in kept} == {"to the left of", "to the right of"} and len(kept) < len(data.trials)
    few = task_card("aro-attribution", {"least_of_a_kind": "99"})
    with pytest.raises(UsageError, match=r"no kind has 99 pairs \(the largest has 30\); lower aro-attribution.least_of_a_kind"):
        choice.run(context(few, Knows(data)))


def test_sugarcrepes_files(tmp_path):
    root = tmp_path / "sugarcrepe"
    for k, kind in enumerate(("add_obj", "add_att", "replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att")):
        (root / "data").mkdir(parents=True, exist_ok=True)
        entry = {"filename": f"{k % 2}.jpg", "caption": f"right {k}", "negative_caption": f"wrong {k}"}
        (root / "data" / f"{kind}.json").write_text(json.dumps({"0": entry}))
    for k in range(2):
        blank(tmp_path / "coco" / "val2017" / f"{k}.jpg", k * 90)
    spec = DataSpec(layout="sugarcrepe", directory="sugarcrepe")
    data = read_choices(spec, str(tmp_path))
    assert len(data.trials) == 7 and len(data.images) == 2
    assert data.trials[1].captions == ("right 1", "wrong 1") and data.trials[1].kind == "add_att"
    assert len(read_choices(spec, str(tmp_path), 1).trials) == 4
    one = read_choices(replace_split(spec, "swap_att"), str(tmp_path))
    assert [t.trial_id for t in one.trials] == ["swap_att/0"]
    found = [(f.level, f.message) for f in check(tmp_path) if f.set == "sugarcrepe"]
    assert found == [("ok", "7 pairs about 2 images"), ("note", "is not the published release (SugarCrepe, 7,511 pairs)")]
    before = content_of(data).fingerprint
    (root / "data" / "swap_att.json").write_text(json.dumps({"0": {**entry, "negative_caption": "another"}}))
    assert content_of(read_choices(spec, str(tmp_path))).fingerprint != before
    (root / "data" / "swap_att.json").unlink()
    with pytest.raises(UsageError, match="the file of swap_att is missing"):
        read_choices(spec, str(tmp_path))
    with pytest.raises(UsageError, match="'swap' is no kind of SugarCrepe"):
        read_choices(replace_split(spec, "swap"), str(tmp_path))


def replace_split(spec: DataSpec, split: str) -> DataSpec:
    return spec.model_copy(update={"split": split})


def test_winogrounds_files(tmp_path):
    root = tmp_path / "winoground"
    for k in range(2):
        blank(root / "images" / f"ex_0_img_{k}.png", k * 90)
    entry = {
        "id": 0,
        "image_0": "ex_0_img_0",
        "image_1": "ex_0_img_1",
        "caption_0": "a b",
        "caption_1": "b a",
        "collapsed_tag": "Object",
    }
    (root / "examples.jsonl").write_text(json.dumps(entry) + "\n")
    spec = DataSpec(layout="winoground", directory="winoground")
    (trial,) = read_choices(spec, str(tmp_path)).trials
    assert trial.images == ("ex_0_img_0", "ex_0_img_1") and trial.captions == ("a b", "b a") and trial.kind == "Object"
    with pytest.raises(UsageError, match="--limit 1: no pair is about the first 1 images alone"):
        read_choices(spec, str(tmp_path), 1)
    (root / "examples.jsonl").write_text(json.dumps({**entry, "caption_1": "a b"}))
    with pytest.raises(UsageError, match='pair "0": both images have the caption "a b"'):
        read_choices(spec, str(tmp_path))
    (root / "examples.jsonl").write_text(json.dumps({k: v for k, v in entry.items() if k != "caption_1"}))
    with pytest.raises(UsageError, match=r"entry 1: field `caption_1`"):
        read_choices(spec, str(tmp_path))


def test_aros_images_are_cut_to_their_boxes(tmp_path):
    root = tmp_path / "aro"
    image = Image.new("RGB", (20, 10))
    image.paste((255, 0, 0), (10, 0, 20, 10))
    (root / "images").mkdir(parents=True)
    image.save(root / "images" / "1.png")
    box = {"bbox_x": 10, "bbox_y": 2, "bbox_w": 8, "bbox_h": 5}
    entry = {"image_path": "1.png", "relation_name": "on", "true_caption": "t", "false_caption": "f", **box}
    other = {**entry, "bbox_x": 0}
    (root / "visual_genome_relation.json").write_text(json.dumps([entry, other]))
    spec = DataSpec(layout="aro", directory="aro", split="relation")
    data = read_choices(spec, str(tmp_path))
    assert len(data.images) == 2 and data.images.open(data.images.ids[0]).size == (8, 5)
    assert data.images.open(data.images.ids[0]).getpixel((0, 0)) == (255, 0, 0)
    assert data.images.open(data.images.ids[1]).getpixel((0, 0)) == (0, 0, 0)
    assert data.images.content is not None and len({data.images.content(i) for i in data.images.ids}) == 2
    (root / "visual_genome_relation.json").write_text(json.dumps([{**entry, "bbox_w": 0}]))
    with pytest.raises(UsageError, match=r"entry 1: field `bbox_w`"):
        read_choices(spec, str(tmp_path))
    with pytest.raises(UsageError, match="expected one of relation, attribution, order, found 'relations'"):
        read_choices(replace_split(spec, "relations"), str(tmp_path))


def test_mmvp_vlms_files(tmp_path):
    root = tmp_path / "mmvp_vlm"
    for k in (1, 2):
        blank(root / "MLLM_VLM Images" / "Texts" / f"{k}.jpg", k * 90)
    (root / "Questions.csv").write_text('Question ID,Type,Statement\n1,Texts,"a, quoted"\n2,Texts,b\n')
    spec = DataSpec(layout="mmvp-vlm", directory="mmvp_vlm")
    (trial,) = read_choices(spec, str(tmp_path)).trials
    assert trial.captions == ("a, quoted", "b") and trial.images == ("Texts/1.jpg", "Texts/2.jpg") and trial.kind == "Texts"
    (root / "Questions.csv").write_text("Question ID,Type,Statement\n1,Texts,a\n")
    with pytest.raises(UsageError, match="two a pair"):
        read_choices(spec, str(tmp_path))


def test_own_pairs(tmp_path, context):
    for k in range(2):
        blank(tmp_path / f"{k}.png", k * 90)
    lines = [{"images": ["0.png"], "captions": ["a", "b", "c"]}, {"images": ["0.png", "1.png"], "captions": ["a", "b"]}]
    file = tmp_path / "p.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    card = task_card("sugarcrepe", {"data": f"{{layout: choices, annotations: {file}}}"})
    data = read_choices(card.data, str(tmp_path))
    with pytest.raises(UsageError, match="about one image and about two"):
        choice.run(context(card, Knows(data), data=tmp_path))
    single = replace(data, trials=data.trials[:1])
    assert choice.expected_scores(single)["accuracy"][0] == pytest.approx(1 / 3)


class Mute(Knows):
    @property
    def has_text(self) -> bool:
        return False


def test_a_backbone_without_text_is_refused(world, context):
    card = task_card("sugarcrepe")
    with pytest.raises(LevlError, match="has no text encoder"):
        choice.run(context(card, Mute(read_choices(card.data, str(world)))))


@pytest.mark.slow
def test_tables_of_the_hub(tmp_path):
    datasets = pytest.importorskip("datasets")

    def table(name: str, columns: dict, images: tuple[str, ...], spec: DataSpec):
        features = datasets.Features({c: datasets.Image() if c in images else datasets.Value("string") for c in columns})
        folder = tmp_path / name
        folder.mkdir()
        datasets.Dataset.from_dict(columns, features=features).to_parquet(str(folder / "test-00000-of-00001.parquet"))
        hub = {"repo": str(folder), "split": "test", "files": "test-*"}
        return read_choices(DataSpec.model_validate({**spec.model_dump(), "hub": hub}), "hub")

    pictures = [str(tmp_path / f"{k}.png") for k in range(2)]
    for k, path in enumerate(pictures):
        Image.new("RGB", (8, 8), (k * 90, 0, 0)).save(path)
    wino = {
        "image_0": pictures[:1],
        "image_1": pictures[1:],
        "caption_0": ["a b"],
        "caption_1": ["b a"],
        "collapsed_tag": ["Both"],
    }
    data = table("wino", wino, ("image_0", "image_1"), DataSpec(layout="winoground"))
    (trial,) = data.trials
    assert trial.captions == ("a b", "b a") and trial.kind == "Both"
    assert [data.images.open(i).getpixel((0, 0))[0] for i in trial.images] == [0, 90]
    sugar = {"images": pictures, "caption": ["r0", "r1"], "negative_caption": ["w0", "w1"]}
    data = table("sugar", sugar, ("images",), DataSpec(layout="sugarcrepe"))
    assert [t.captions for t in data.trials] == [("r0", "w0"), ("r1", "w1")] and len(data.images) == 2
    with pytest.raises(UsageError, match="field 'true_caption' is missing; its columns are image, caption"):
        table("aro", {"image": pictures, "caption": ["r0", "r1"]}, ("image",), DataSpec(layout="aro", split="relation"))
    with pytest.raises(UsageError, match="row 1: a caption was expected"):
        table("blank", {**sugar, "negative_caption": ["w0", " "]}, ("images",), DataSpec(layout="sugarcrepe"))


def test_exchanged_scenes_are_seen_the_other_way_round():
    for index in range(10):
        scene, x, y = choices.part_scene("winoground/test", index, 0)
        other = {o.category: o for o in choices.exchanged(scene, x, y).objects}
        assert choices.relation(other[x.category], other[y.category]) == choices.OPPOSITE[choices.relation(x, y)]
        painted = {o.category: o.color for o in choices.recoloured(scene, x, y).objects}
        assert painted[x.category] == y.color and painted[y.category] == x.color
        assert x.category not in choices.without(scene, x).counts()
