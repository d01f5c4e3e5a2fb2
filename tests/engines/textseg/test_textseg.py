"""Segmentation by text: a perfect and a blind encoder, the steps in plain form, the rule for background, names, and who is refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from levl_eval.backbones import load_backbone
from levl_eval.cards import TextSegmentationCard
from levl_eval.cards.registry import task_card
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.progress import Progress
from levl_eval.data.readers import read_segmentation
from levl_eval.data.types import ImageSet, SegmentationSet
from levl_eval.engines.contract import Context
from levl_eval.engines.segmentation.task import chance_counts
from levl_eval.engines.textseg.head import Rule
from levl_eval.engines.textseg.task import Prompts, run, scored_set
from levl_eval.features.store import FeatureStore
from levl_eval.metrics.segmentation import confusion_matrix, mean_iou
from levl_eval.report.html import build
from levl_eval.report.results import Results
from levl_eval.runner.evaluate import evaluate

QUIET, CPU = Progress(quiet=True), torch.device("cpu")
PLAIN = {"templates": '["{}"]'}


def card(**more) -> TextSegmentationCard:
    return TextSegmentationCard(**{"name": "t", "main_metric": "mean_iou", "data": {"layout": "segmentation"}, **more})


def context(world, folder, backbone, limit=None, **settings):
    loaded = load_backbone(backbone) if isinstance(backbone, str) else backbone
    loaded.open_data(str(world))
    resolved = task_card("ade20k-text", {k: str(v) for k, v in settings.items()})
    return Context(resolved, loaded, str(world), 0, FeatureStore(folder), folder, CPU, limit=limit, progress=QUIET)


def plain_iou(maps, masks, classes):
    """maps: predicted labels of each mask's size."""
    table = sum(confusion_matrix(p, m, classes, 255) for p, m in zip(maps, masks, strict=True))
    return mean_iou(table)


def up(array, size):
    return F.interpolate(torch.from_numpy(array).float().permute(2, 0, 1)[None], size=size, mode="bilinear")[0]


def test_perfect_sight_gives_what_the_grid_can_and_none_gives_chance(world, tmp_path):
    """Patches are the shares of classes, texts the classes: the largest share of the upsampled unit vectors."""
    c = context(world, tmp_path, "oracle:words", **PLAIN)
    outcome = run(c)
    test = read_segmentation(c.card.data, str(world))
    classes, masks, maps = len(test.classes), [test.mask(n) for n in test.images.ids], []
    for mask in masks:
        shares = np.zeros((8, 8, classes))
        for (y, x), value in np.ndenumerate(mask):
            if value != 255:
                shares[y // 8, x // 8, value] += 1
        maps.append(up(shares / np.maximum(np.linalg.norm(shares, axis=-1, keepdims=True), 1e-12), mask.shape).argmax(0).numpy())
    ceiling = plain_iou(maps, masks, classes)
    assert outcome.metrics["mean_iou"].value == pytest.approx(ceiling, abs=1e-9) and ceiling > 0.5
    blind = run(context(world, tmp_path, "oracle:words?keep=0", **PLAIN))
    floor = blind.metrics["floor_chance"].value
    assert blind.metrics["mean_iou"].value < floor + 0.02 and floor < 0.05
    pixels = np.bincount(np.concatenate([m[m != 255] for m in masks]), minlength=classes) / classes
    expected = [hit / (hit * classes + pixels.sum() - hit) for hit in pixels if hit]
    # A class that no mask shows is guessed too, and has nothing right.
    assert floor == pytest.approx(sum(expected) / classes)
    assert outcome.metrics["gain_over_chance"].value == pytest.approx(ceiling - floor)
    assert "train" not in outcome.data and outcome.data["counts"] == {"images": 12, "classes": classes}


def test_what_a_guess_is_expected_to_count():
    target = np.array([30, 10, 0])
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], target)
    tables = np.mean([confusion_matrix(rng.integers(0, 3, 40), truth, 3, 255) for _ in range(4000)], 0)
    drawn = np.stack([np.diag(tables), tables.sum(1), tables.sum(0)], -1)
    np.testing.assert_allclose(chance_counts(target), drawn, atol=0.2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"templates": '["a {}.", "one {}"]', "background": "threshold", "background_class": "sky", "background_threshold": 0.6},
        {**PLAIN, "background": "text", "background_class": "sky", "background_texts": "[air, blue sky]", "logit_scale": 20,
         "background_threshold": 0.03},
        {**PLAIN, "window": 32, "stride": 16, "size": 64, "flip": "true"},
    ],
)  # fmt: skip
def test_the_steps_in_plain_form(settings, world, checkpoints, tmp_path):
    backbone = load_backbone(str(checkpoints["clip"]))
    c = context(world, tmp_path, backbone, limit=5, token_dtype="float32", **settings)
    outcome = run(c)
    test = read_segmentation(c.card.data, str(world), 5)
    templates = c.card.templates
    names, owner = [], []
    for k, name in enumerate(test.classes):
        words = [name]
        if c.card.background != "none" and name == "sky":
            words = [] if c.card.background == "threshold" else ["air", "blue sky"]
        names, owner = names + words, owner + [k] * len(words)
    texts = F.normalize(
        torch.stack([backbone.text_embeddings([t.format(n) for n in names])["embedding"] for t in templates]).mean(0), dim=-1
    )
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (backbone.preprocess.mean, backbone.preprocess.std))

    def cosines(pixels):
        with torch.inference_mode():
            features = backbone.encode(pixels[None])
            flat = F.normalize(backbone.model.vision.pre_proj(features.patches[0]), dim=-1) @ texts.T
        return F.interpolate(flat.T.reshape(1, -1, *features.grid), size=pixels.shape[-2:], mode="bilinear")[0]

    maps, masks = [], [test.mask(n) for n in test.images.ids]
    for name, mask in zip(test.images.ids, masks, strict=True):
        image = test.images.open(name).resize((64, 64), 3)
        pixels = (torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 - mean) / std
        if c.card.window:
            total, times = torch.zeros(len(names), 64, 64), torch.zeros(64, 64)
            for y in (0, 16, 32):
                for x in (0, 16, 32):
                    part = pixels[:, y : y + 32, x : x + 32]
                    total[:, y : y + 32, x : x + 32] += cosines(part) + cosines(part.flip(-1)).flip(-1)
                    times[y : y + 32, x : x + 32] += 2
            found = total / times
        else:
            found = cosines(pixels)
        found = F.interpolate(found[None], size=mask.shape, mode="bilinear")[0]
        probability = (found * c.card.logit_scale).softmax(0)
        label = np.array(owner)[found.argmax(0).numpy()]
        if c.card.background != "none":
            label = np.where(probability.amax(0).numpy() < c.card.background_threshold, test.classes.index("sky"), label)
        maps.append(label)
    assert outcome.metrics["mean_iou"].value == pytest.approx(plain_iou(maps, masks, len(test.classes)), abs=1e-9)
    if c.card.background != "none":
        share = np.mean([(m == test.classes.index("sky")).mean() for m in maps])
        assert 0.02 < share < 0.98  # the threshold takes some pixels and not all


def test_a_rule_by_hand():
    cosines = torch.tensor([[[0.3, 0.1, 0.2]], [[0.2, 0.1, 0.21]], [[0.1, 0.1, 0.0]]])  # [M, 1, 3]
    owner = torch.tensor([2, 2, 1])
    assert Rule(owner, 10.0, None, -1).labels(cosines).tolist() == [[2, 2, 2]]
    probability = (cosines * 10).softmax(0).amax(0)[0]
    assert probability[1] == pytest.approx(1 / 3)
    assert Rule(owner, 10.0, 0.34, 0).labels(cosines).tolist() == [[2, 0, 2]]
    assert Rule(owner, 10.0, 0.6, 0).labels(cosines).tolist() == [[2, 0, 0]]


def toy_set(masks):
    images = ImageSet(tuple(masks), lambda name: None, "f")
    return SegmentationSet("voc", "val", images, masks.__getitem__, ("background", "cat", "dog"), 255, "m")


def test_void_background_is_no_class_and_its_pixels_are_void():
    test = toy_set({"a": np.array([[0, 1, 2, 255]])})
    void = scored_set(card(data={"layout": "voc"}, background="void"), test)
    assert void.classes == ("cat", "dog") and void.mask("a").tolist() == [[255, 0, 1, 255]]
    assert void.palette == (128, 0, 0, 0, 128, 0)  # their colours are what they were
    middle = scored_set(card(data={"layout": "voc"}, background="void", background_class="cat"), test)
    assert middle.classes == ("background", "dog") and middle.mask("a").tolist() == [[0, 255, 1, 255]]
    for rule in ("none", "text", "threshold"):
        assert scored_set(card(background=rule), test) is test
    with pytest.raises(UsageError, match=r"has no class 'cta' \(did you mean cat"):
        scored_set(card(background="text", background_class="cta"), test)


def test_names_of_classes():
    classes = ("building, edifice", "wall-brick", "tv_monitor; screen", "sky")
    first = Prompts.of(card(), classes)
    assert first == Prompts(["building", "wall brick", "tv monitor", "sky"], [0, 1, 2, 3])
    every = Prompts.of(card(synonyms="all"), classes)
    assert every == Prompts(["building", "edifice", "wall brick", "tv monitor", "screen", "sky"], [0, 0, 1, 2, 2, 3])
    own = card(class_names=["a", "b", "c", "d"], background="text", background_class="sky", background_texts=["air", "cloud"])
    assert Prompts.of(own, classes) == Prompts(["a", "b", "c", "air", "cloud"], [0, 1, 2, 3, 3])
    assert Prompts.of(own.model_copy(update={"background": "threshold"}), classes).owner == [0, 1, 2]
    with pytest.raises(UsageError, match="3 names for 4"):
        Prompts.of(card(class_names=["a", "b", "c"]), classes)
    with pytest.raises(UsageError, match="has an empty name"):
        Prompts.of(card(synonyms="all", class_names=["a, ", "b", "c", "d"]), classes)


def test_who_has_no_place_for_patches_among_texts_is_refused(world, tmp_path):
    with pytest.raises(LevlError, match="has no text encoder"):
        run(context(world, tmp_path, "random:nano", **PLAIN))
    pool = SimpleNamespace(name="siglip", has_text=True, readouts=load_backbone("oracle:words").readouts, projects_patches=False)
    c = context(world, tmp_path, "oracle:words", **PLAIN)
    c.backbone = pool
    with pytest.raises(LevlError, match="not defined of single patch tokens; leave this task out") as e:
        run(c)
    assert "\n" not in str(e.value)
    with pytest.raises(LevlError, match="has no last block whose values could be read; set `patches: projection`"):
        run(context(world, tmp_path, "oracle:words", patches="value", **PLAIN))


@pytest.mark.slow
def test_a_run_with_both_ways_of_patches_shows_images(world, checkpoints, tmp_path):
    settings = ["ade20k-text.templates=['{}']"]
    records = evaluate(
        ["oracle:words", str(checkpoints["levljepa"])], ["ade20k-text"], data=str(world), settings=settings, limit=4, out=tmp_path / "o",
        cache=tmp_path / "c", device="cpu", progress=QUIET, debug=True,
    )  # fmt: skip
    assert [r.resolved["score_size"] for r in records] == ["original"] * 2 and records[1].notes[
        "main_readout"
    ] == "image-to-predicted-text"
    results = Results.read([tmp_path / "o"])
    assert [row.title for row in results.rows] == ["ade20k-text"] and len(results.rows[0].cells) == 2
    page = build(results)
    assert page[page.index('id="dense"') : page.index('id="browse"')].count("<img src=") == 3
    (value,) = evaluate(
        [str(checkpoints["levljepa"])], ["ade20k-text"], data=str(world), settings=[*settings, "ade20k-text.patches=value"], limit=4,
        out=tmp_path / "o", cache=tmp_path / "c", device="cpu", progress=QUIET, debug=True,
    )  # fmt: skip
    assert value.cache["feature_misses"] == 1 and value.metrics["mean_iou"].value != records[1].metrics["mean_iou"].value
    assert "itself alone" in value.notes["patch_path"]
