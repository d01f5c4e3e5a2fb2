"""Heads on cached features: segmentation, linear probe and zero-shot against closed forms and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from levl_eval.backbones import load_backbone
from levl_eval.backbones.base import Preprocess
from levl_eval.cards import LinearProbeCard, SegmentationCard, ZeroShotCard
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.progress import Progress
from levl_eval.data.types import ImageSet, SegmentationSet
from levl_eval.engines.contract import Context
from levl_eval.engines.dense_common import token_statistics
from levl_eval.engines.probes import linear, zeroshot
from levl_eval.engines.probes.common import Matrix, scores
from levl_eval.engines.segmentation.fitting import grid_labels, mask_at, task_preprocess
from levl_eval.engines.segmentation.head import ClassTokens, predict, train_head
from levl_eval.engines.segmentation.task import run
from levl_eval.features.store import FeatureStore

CPU = torch.device("cpu")
SPEC = {"layout": "segmentation"}
QUIET = Progress(quiet=True)


def seg_card(**more) -> SegmentationCard:
    return SegmentationCard(
        **{
            "name": "s",
            "main_metric": "mean_iou",
            "train": SPEC,
            "data": SPEC,
            "epochs": 40,
            "batch_size": 16,
            "lr": 0.05,
            **more,
        }
    )


@pytest.mark.slow
def test_a_spatially_structured_toy_is_learned_exactly():
    """Tokens that hold their class at their own place: any mix-up of space and channels could not reach this."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (40, 4, 6))
    codes = rng.normal(size=(3, 10))
    patches = (codes[labels].reshape(40, 24, 10) * 5 + 100 + 0.1 * rng.normal(size=(40, 24, 10))).astype(np.float32)
    head, curve = train_head(ClassTokens(patches, labels, (4, 6), 3, 255), seg_card(), 0, CPU, QUIET)
    assert curve[-1] < 0.05
    assert (predict(head, patches, (4, 6), CPU) == labels).all()
    large = predict(head, patches[:2], (40, 60), CPU)
    assert (large[:, 5::10, 5::10] == labels[:2]).mean() > 0.9  # logits upsampled around each token's centre
    mean, std = token_statistics(patches)
    assert np.allclose(mean, patches.reshape(-1, 10).mean(0), rtol=1e-4) and np.allclose(
        std, patches.reshape(-1, 10).std(0), rtol=1e-3
    )


def test_ignored_pixels_do_not_teach_and_all_ignored_is_told():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, (20, 2, 2))
    patches = np.eye(2, 5)[labels].reshape(20, 4, 5).astype(np.float32)
    noisy = labels.copy()
    noisy[:10] = 255
    head, _ = train_head(ClassTokens(patches, noisy, (2, 2), 2, 255), seg_card(), 0, CPU, QUIET)
    assert (predict(head, patches, (2, 2), CPU) == labels).all()
    with pytest.raises(LevlError, match="every training pixel is ignored"):
        train_head(ClassTokens(patches, np.full_like(labels, 255), (2, 2), 2, 255), seg_card(), 0, CPU, QUIET)


def test_the_same_seed_gives_the_same_head():
    rng = np.random.default_rng(2)
    patches, labels = rng.normal(size=(12, 4, 6)).astype(np.float32), rng.integers(0, 3, (12, 2, 2))
    data = ClassTokens(patches, labels, (2, 2), 3, 255)
    heads = [train_head(data, seg_card(epochs=3), s, CPU, QUIET)[0].linear.weight for s in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_grid_labels_take_the_pixel_at_each_tokens_centre():
    mask = np.arange(36).reshape(6, 6)
    assert grid_labels(mask, (3, 3)).tolist() == [[7, 9, 11], [19, 21, 23], [31, 33, 35]]


def _set(mask: np.ndarray, size: tuple[int, int]) -> SegmentationSet:
    images = ImageSet(("a",), lambda i: Image.new("RGB", size), "f", "here")
    return SegmentationSet("s", "", images, lambda i: mask, ("x", "y"), 255, "f")


def test_masks_follow_the_images_geometry():
    mask = np.zeros((40, 80), np.int64)
    mask[:, 40:] = 1
    mask[0, 0] = 255
    geometry = task_preprocess(seg_card(size=20), Preprocess(64, "squash", None))
    assert geometry.size == 20 and geometry.resize == "shortest"
    cut = mask_at(_set(mask, (80, 40)), "a", geometry)
    assert cut.shape == (20, 20) and (cut[:, :10] == 0).all() and (cut[:, 10:] == 1).all()  # centre crop of 40 x 20
    assert mask_at(_set(mask, (80, 40)), "a", geometry, 40).shape == (40, 40)
    with pytest.raises(LevlError, match="image is 81x40, its mask 80x40"):
        mask_at(_set(mask, (81, 40)), "a", geometry)


@pytest.fixture
def context(tmp_path, world):
    def make(card, backbone) -> Context:
        return Context(card, backbone, str(world), 0, FeatureStore(tmp_path / "f"), tmp_path, CPU, progress=QUIET)

    return make


@pytest.mark.slow
def test_segmentation_counts_rebuild_the_metric_and_other_sizes_are_scored(context):
    from levl_eval.cards.registry import task_card
    from levl_eval.metrics import mean_iou

    nano = load_backbone("random:nano")
    card = task_card("ade20k", {"epochs": "3", "score_size": "96"})
    out = run(context(card, nano))
    total = np.zeros((32, 3))
    for s in out.samples:
        for c, v in s.meta["counts"].items():
            total[int(c)] += v
    assert total[:, 1].sum() == 12 * 96 * 96  # every pixel of every test mask
    union = total[:, 1] + total[:, 2] - total[:, 0]
    assert out.metrics["mean_iou"].value == pytest.approx((total[:, 0] / np.maximum(union, 1))[union > 0].mean())
    confusion = np.diag(total[:, 0])
    assert 0 < mean_iou(confusion) <= 1 and set(out.notes["iou_by_class"]) <= {*load_classes(context, card)}


def load_classes(context, card):
    from levl_eval.data.readers import read_segmentation

    return read_segmentation(card.data, context(card, None).data).classes


@pytest.mark.slow
def test_linear_probe_solves_what_is_separable_and_agrees_with_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    centres = rng.normal(size=(12, 16))
    y = rng.integers(0, 12, 900)
    x = (centres[y] + 0.9 * rng.normal(size=(900, 16))).astype(np.float32)
    card = LinearProbeCard(
        name="l",
        main_metric="top1",
        train={"layout": "imagefolder"},
        data={"layout": "imagefolder"},
        lr=0.05,
        epochs=200,
        weight_decay=0,
    )
    train, test = Matrix(x, np.arange(600)), Matrix(x, np.arange(600, 900))
    train.fit_scale()
    test.scale_like(train)
    layer, curve, _ = linear.fit(train, y[:600], 12, card, 0, CPU)
    metrics, right = scores(linear.logits_of(layer, test, CPU), y[600:])
    model = LogisticRegression(C=1e4, max_iter=3000).fit(train.take(np.arange(600)).numpy(), y[:600])
    reference = model.score(test.take(np.arange(300)).numpy(), y[600:])
    assert curve[-1] < curve[0] and abs(metrics["top1"].value - reference) < 0.04
    assert metrics["top5"].value > metrics["top1"].value == pytest.approx(right.mean())
    by_class = np.mean([right[y[600:] == c].mean() for c in range(12)])
    assert metrics["mean_per_class"].value == pytest.approx(by_class)


def test_linear_probe_refuses_other_class_folders(context, world, tmp_path):
    from levl_eval.cards.registry import task_card

    (tmp_path / "t" / "zebra").mkdir(parents=True)
    (tmp_path / "t" / "cat").mkdir()
    for c in ("zebra", "cat"):
        Image.new("RGB", (8, 8)).save(tmp_path / "t" / c / "1.png")
    card = task_card("linear", {"data.root": str(tmp_path / "t"), "data.split": "''"})
    with pytest.raises(LevlError, match="class folders of training and test differ"):
        linear.run(context(card, load_backbone("random:nano")))


def test_zero_shot_readouts_by_hand(context, checkpoints, world):
    from levl_eval.cards.registry import task_card
    from levl_eval.data.readers import read_classification

    b = load_backbone(str(checkpoints["levljepa"]))
    card = task_card("zeroshot", {"templates": "['a photo of a {}.', 'my {}']"})
    out = zeroshot.run(context(card, b))
    data = read_classification(card.data, str(world))
    with torch.no_grad():
        f = b.encode(torch.stack([b.preprocess(data.images.open(i)) for i in data.images.ids]))
        image = b.image_embeddings(f.pooled)
        texts = [b.text_embeddings([t.format(c) for c in data.classes]) for t in card.templates]
    for r in b.readouts:
        mean = torch.nn.functional.normalize(texts[0][r.text] + texts[1][r.text], dim=-1)
        top = (image[r.image] @ mean.T).argmax(1).numpy()
        # stored in half precision
        assert out.metrics[f"top1/{r.name}"].value == pytest.approx((top == data.labels).mean(), abs=0.05)
    assert out.metrics["top1"] == out.metrics["top1/image-to-predicted-text"]


def test_zero_shot_bad_input(context, checkpoints):
    from levl_eval.cards.registry import task_card

    with pytest.raises(LevlError, match="no text encoder"):
        zeroshot.run(context(task_card("zeroshot"), load_backbone("random:nano")))
    b = load_backbone(str(checkpoints["clip"]))
    with pytest.raises(UsageError, match="1 names for 24"):
        zeroshot.run(context(task_card("zeroshot", {"class_names": "[cat]"}), b))
    with pytest.raises(UsageError, match="has no {}"):
        zeroshot.run(context(task_card("zeroshot", {"templates": "['a photo']"}), b))
    assert isinstance(task_card("zeroshot"), ZeroShotCard)
