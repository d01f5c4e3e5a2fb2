"""Our metrics against mmsegmentation's IoUMetric and the ADE20K devkit's definition, on the same predictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from levl_eval.core.third_party import repair_mmseg
from levl_eval.engines.segmentation.sweep import class_counts
from levl_eval.metrics import confusion_matrix, mean_iou
from levl_eval.metrics.segmentation import mean_accuracy, pixel_accuracy, statistics_from_counts


def pairs(seed: int, classes: int, absent: int):
    """Images of several sizes; the last classes never occur in the truth and seldom in predictions; void pixels."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(4):
        shape = tuple(rng.integers(20, 50, 2))
        truth = rng.integers(0, classes - absent, shape)
        pred = np.where(rng.random(shape) < 0.6, truth, rng.integers(0, classes - absent // 2, shape))
        truth[rng.random(shape) < 0.1] = 255
        out.append((pred, truth))
    return out


@pytest.mark.parametrize("classes,absent", [(3, 0), (21, 4), (150, 60)])
def test_equal_to_mmsegs_iou_metric(classes, absent):
    repair_mmseg()
    from mmseg.evaluation import IoUMetric

    found = pairs(classes, classes, absent)
    areas = [IoUMetric.intersect_and_union(torch.from_numpy(p), torch.from_numpy(t), classes, 255) for p, t in found]
    theirs = IoUMetric.total_area_to_metrics(*(sum(a) for a in zip(*areas, strict=True)), metrics=["mIoU"])
    confusion = sum(confusion_matrix(p, t, classes, 255) for p, t in found)
    assert mean_iou(confusion) == pytest.approx(float(np.nanmean(theirs["IoU"])), abs=1e-6)
    assert mean_accuracy(confusion) == pytest.approx(float(np.nanmean(theirs["Acc"])), abs=1e-6)
    assert pixel_accuracy(confusion) == pytest.approx(float(theirs["aAcc"]), abs=1e-6)
    # and the counts the engine keeps by image give the same three
    counts = sum(class_counts(torch.from_numpy(p[t != 255]), torch.from_numpy(t[t != 255]), classes) for p, t in found)
    ours = statistics_from_counts(counts.numpy())
    assert float(ours["mean_iou"]) == pytest.approx(mean_iou(confusion), abs=1e-12)
    assert float(ours["mean_accuracy"]) == pytest.approx(mean_accuracy(confusion), abs=1e-12)
    assert float(ours["pixel_accuracy"]) == pytest.approx(pixel_accuracy(confusion), abs=1e-12)


def test_the_devkits_sample_by_its_definition(shared):
    """The devkit sums intersections and unions over images, pixels of label 0 ignored, and takes the mean over all 150 classes."""
    folder = shared / "ade20k_sample" / "sampleData"
    names = sorted(p.stem for p in (folder / "annotations").glob("*.png"))
    assert len(names) == 3
    inter, union, right, labelled = np.zeros(150), np.zeros(150), 0, 0
    confusion = np.zeros((150, 150), np.int64)
    for name in names:
        truth = np.array(Image.open(folder / "annotations" / f"{name}.png")).astype(int)
        pred = np.array(Image.open(folder / "predictions" / f"{name}.png")).astype(int)
        for c in range(1, 151):
            p, t = (pred == c) & (truth > 0), truth == c
            inter[c - 1] += (p & t).sum()
            union[c - 1] += (p | t).sum()
        right += ((pred == truth) & (truth > 0)).sum()
        labelled += (truth > 0).sum()
        void = truth == 0
        assert pred[~void].min() > 0  # a prediction names a class everywhere it counts
        confusion += confusion_matrix(np.where(void, 0, pred - 1), np.where(void, 255, truth - 1), 150, 255)
    iou = inter / (union + np.spacing(1))
    present = (union > 0).sum()
    assert pixel_accuracy(confusion) == pytest.approx(right / labelled, abs=1e-6)
    # ours is over classes with a non-empty union, as on the benchmark's 2,000 images; the devkit counts absent ones as 0
    assert mean_iou(confusion) * present / 150 == pytest.approx(iou.mean(), abs=1e-6)
    assert 0 < present < 150 and 0 < iou.mean() < 1


def test_a_frozen_backbone_in_an_mmseg_model(tmp_path):
    repair_mmseg()
    from mmseg.registry import MODELS
    from mmseg.utils import register_all_modules

    register_all_modules()  # as mmengine's Runner does from a config's default_scope

    import levl_eval.engines.segmentation.mmseg_backbone  # noqa: F401
    from levl_eval.backbones import load_backbone

    norm = {"type": "BN", "requires_grad": True}
    model = MODELS.build({
        "type": "EncoderDecoder",
        "data_preprocessor": {"type": "SegDataPreProcessor", "mean": None, "std": None, "size": (64, 64)},
        "backbone": {"type": "LevlBackbone", "uri": "random:nano", "layers": [0, -1]},
        "decode_head": {"type": "FCNHead", "in_channels": 192, "in_index": 1, "channels": 192, "num_convs": 0, "kernel_size": 1,
                        "concat_input": False, "dropout_ratio": 0.0, "num_classes": 5, "norm_cfg": norm,
                        "loss_decode": {"type": "CrossEntropyLoss"}},
        "test_cfg": {"mode": "whole"},
    })  # fmt: skip
    model.train()
    pixels = torch.randint(0, 255, (2, 3, 64, 64)).float()
    maps = model.backbone(pixels)
    nano = load_backbone("random:nano")
    with torch.no_grad():
        want = nano.encode(nano.preprocess.normalize(pixels.movedim(1, -1))).patches
    assert len(maps) == 2 and torch.allclose(maps[1].flatten(2).transpose(1, 2), want, atol=1e-5)
    assert not model.backbone.encoder.training and not [k for k in model.state_dict() if "encoder" in k or "backbone" in k]
    model.decode_head(maps).sum().backward()
    assert model.decode_head.conv_seg.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.backbone.encoder.parameters())
    assert model.backbone(torch.zeros(1, 3, 60, 70))[0].shape[-2:] == (8, 9)  # padded to whole patches
