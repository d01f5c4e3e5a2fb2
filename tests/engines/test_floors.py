"""Floors without sight: each against a count by hand, and what the engines write of them and of convergence."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from levl_eval.backbones import load_backbone
from levl_eval.cards import SegmentationCard
from levl_eval.cards.registry import task_card
from levl_eval.core.progress import Progress
from levl_eval.engines.contract import Context, engine
from levl_eval.engines.floors import chance, class_shares, majority, mean_map, of_counts, retrieval_chance
from levl_eval.engines.segmentation.fitting import Fitted, majority_map
from levl_eval.engines.segmentation.task import mean_iou_of
from levl_eval.features.store import FeatureStore
from levl_eval.features.views import make_views
from levl_eval.metrics.segmentation import confusion_matrix, mean_iou

QUIET = Progress(quiet=True)


def test_shares_by_place_and_what_stands_where_nothing_is_labelled():
    labels = np.array([[[0, 1, 9]], [[0, 2, 9]], [[1, 2, 9]]])
    shares = class_shares(labels, 3, 9)
    assert shares.shape == (3, 1, 3) and shares.dtype == np.float32
    np.testing.assert_allclose(shares[:, 0, 0], [2 / 3, 1 / 3, 0])
    np.testing.assert_allclose(shares[:, 0, 1], [0, 1 / 3, 2 / 3])
    np.testing.assert_allclose(shares[:, 0, 2], [2 / 6, 2 / 6, 2 / 6])


def test_mean_map_passes_over_what_is_unknown():
    depths = np.array([[[1.0, 4.0, np.nan]], [[3.0, np.nan, np.nan]]], np.float32)
    np.testing.assert_allclose(mean_map(depths), [[2.0, 4.0, 8 / 3]])


def test_majority_and_chance():
    truth, right = np.array([0, 1, 1, 2]), np.array([1.0, 1.0, 0.0, 1.0])
    found = majority(right, truth, np.array([1, 1, 0, 2, 2]), 3)  # the first of equals: 1
    assert found["floor_majority"].value == 0.5 and found["gain_over_majority"].value == pytest.approx(0.25)
    found = chance(right, 4)
    assert found["floor_chance"].value == 0.25 and found["gain_over_chance"].value == pytest.approx(0.5)
    assert found["floor_chance"].low == found["floor_chance"].high == 0.25


def test_gain_in_miou_is_the_difference_of_both():
    rng = np.random.default_rng(0)
    target, mine, theirs = rng.integers(0, 4, (3, 40, 50))
    counts = [np.stack([[_counts(p[i], target[i])] for i in range(40)])[:, 0] for p in (np.where(mine > 1, target, mine), theirs)]
    found = of_counts("majority_map", *counts, mean_iou_of)
    whole = [mean_iou(confusion_matrix(p, target, 4, 255)) for p in (np.where(mine > 1, target, mine), theirs)]
    assert found["floor_majority_map"].value == pytest.approx(whole[1])
    gain = found["gain_over_majority_map"]
    assert gain.value == pytest.approx(whole[0] - whole[1]) and gain.low < gain.value < gain.high


def _counts(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    table = confusion_matrix(predicted, truth, 4, 255)
    return np.stack([np.diag(table), table.sum(1), table.sum(0)], -1)


def test_chance_of_retrieval_is_the_mean_over_all_orders():
    owner = np.array([0, 0, 1, 2])
    by_image, by_text = retrieval_chance(owner, 3, [1, 2], 1)
    orders = list(itertools.permutations(range(4)))
    for r, k in enumerate((1, 2)):
        for image in range(3):
            wanted = np.mean([any(owner[j] == image for j in order[:k]) for order in orders])
            assert by_image[r, image] == pytest.approx(wanted)
        assert by_text[r] == pytest.approx(np.full(4, k / 3))
    apart = retrieval_chance(np.array([0, 1, 2, 3]), 4, [1], 2)
    assert apart[0].tolist() == [[0.5] * 4] and apart[1].tolist() == [[0.5] * 4]


def test_majority_map_of_windows_lies_where_the_windows_do():
    """Left half class 0, right half class 1, in every training mask: so says the floor, through windows and mirror images too."""
    card = SegmentationCard(name="s", main_metric="mean_iou", train={"layout": "segmentation"}, data={"layout": "segmentation"})
    mask = np.repeat([[0, 0, 0, 0, 1, 1, 1, 1]], 8, 0)
    geometry = replace(load_backbone("random:nano").preprocess, size=8)
    for views in (None, make_views(8, 4, 4, True)):
        cut = [mask] if views is None else list(views.cut(torch.from_numpy(mask)[None])[0].numpy())
        labels = np.stack(cut * 3)
        tokens = np.zeros((1, len(cut), labels.shape[1] ** 2, 2), np.float16)
        features = type("F", (), {"patches": tokens[:, 0] if views is None else tokens})()
        fitted = Fitted(torch.nn.Identity(), features, views, geometry, card, torch.device("cpu"))
        assert (majority_map(fitted, labels, 2, 255)((8, 8)).numpy() == mask).all()


@pytest.fixture
def run(tmp_path, world):
    def go(task: str, backbone: str, *settings: str, data=None):
        card = task_card(task, dict(s.split("=", 1) for s in settings))
        loaded = load_backbone(backbone)
        store = FeatureStore(tmp_path / "features")
        context = Context(card, loaded, str(data or world), 0, store, tmp_path, torch.device("cpu"), progress=QUIET)
        return engine(card.engine)(context)

    return go


@pytest.mark.slow
def test_engines_write_floor_gain_and_convergence(run):
    for task, main, floor, settings in (
        ("ade20k", "mean_iou", "majority_map", ["epochs=2"]), ("linear", "top1", "majority", []), ("knn", "top1_k20", "majority", []),
        ("linear-path", "top1", "majority", ["c_values=2"]), ("attentive", "top1", "majority", ["epochs=1", "heads=4"]),
        ("imagenet9", "mixed_rand", "majority", []), ("zeroshot", "top1", "chance", []),
    ):  # fmt: skip
        found = run(task, "clip-nano" if task == "zeroshot" else "random:nano", *settings)
        least, gain = found.metrics[f"floor_{floor}"], found.metrics[f"gain_over_{floor}"]
        assert gain.value == pytest.approx(found.metrics[main].value - least.value), task
        assert gain.low is not None and least.low is not None, task
        if task in ("knn", "zeroshot"):
            assert "converged" not in found.notes
        else:
            assert isinstance(found.notes["converged"]["converged"], bool) and found.notes["converged"]["rule"], task
        if task in ("ade20k", "attentive"):
            assert not found.notes["converged"]["converged"]  # two epochs, one epoch


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    """Twenty images whose brightness is their depth, half to learn from: a far wall above a near floor."""
    root, rng = tmp_path_factory.mktemp("depth"), np.random.default_rng(0)
    for split in ("train", "test"):
        for folder in ("images", "depths"):
            (root / split / folder).mkdir(parents=True)
        for k in range(10):
            metres = np.where(np.arange(64) < 32, rng.uniform(4, 8), rng.uniform(1, 2))[:, None].repeat(64, 1)
            grey = (metres * 30).astype(np.uint8)
            Image.fromarray(np.stack([grey] * 3, -1)).save(root / split / "images" / f"{k}.png")
            Image.fromarray((metres * 1000).astype(np.uint16)).save(root / split / "depths" / f"{k}.png")
    return root


@pytest.mark.slow
def test_depth_on_few_images_is_trained_out_and_beats_the_mean(run, rooms):
    """Ten images are one step an epoch: the epochs alone leave the head far above the mean map."""
    places = [f"{part}.{field}={rooms}/{split}/{folder}" for part, split in (("train", "train"), ("data", "test"))
              for field, folder in (("images", "images"), ("annotations", "depths"))]  # fmt: skip
    found = run("depth", "random:nano", *places)
    short = run("depth", "random:nano", *places, "until=epochs")
    floor = found.metrics["floor_mean_map/rmse"].value
    assert found.metrics["gain_over_mean_map/rmse"].value == pytest.approx(found.metrics["rmse"].value - floor)
    assert found.notes["converged"]["epochs"] > 30 == short.notes["converged"]["epochs"]
    assert found.metrics["rmse"].value < floor < short.metrics["rmse"].value
    assert not short.notes["converged"]["converged"] and len(found.notes["head_loss"]) <= 100
    ridge = run("depth", "random:nano", *places, "head=ridge")
    assert ridge.notes["converged"] == {"rule": "solved in closed form", "value": 0.0, "converged": True}


def test_depth_floor_is_the_training_mean_at_each_place(run, rooms):
    places = [f"{part}.{field}={rooms}/{split}/{folder}" for part, split in (("train", "train"), ("data", "test"))
              for field, folder in (("images", "images"), ("annotations", "depths"))]  # fmt: skip
    found = run("depth", "random:nano", *places, "head=ridge", "upsample=nearest")
    maps = {s: [np.asarray(Image.open(rooms / s / "depths" / f"{k}.png")) / 1000 for k in range(10)] for s in ("train", "test")}
    mean = np.mean(maps["train"], 0)
    wanted = np.mean([np.sqrt(((m - mean) ** 2).mean()) for m in maps["test"]])
    assert found.metrics["floor_mean_map/rmse"].value == pytest.approx(wanted, rel=1e-3)
    from levl_eval.engines.depth.fitting import CROPS

    assert CROPS["none"] == (0.0, 1.0, 0.0, 1.0)


def test_cards_whose_length_nobody_published_train_until_a_rule_holds_and_published_ones_do_not():
    convex = {"segmentation", "classify"}
    unseen = {"depth", "normals", "nyuv2", "kitti", "sunrgbd", "nyuv2-normals"}
    for name in ("ade20k", "ade20k-full", "linear", "imagenet9", "linear@pets", *convex, *unseen):
        assert task_card(name).until == ("converged" if name in convex else "held-out" if name in unseen else "epochs"), name
