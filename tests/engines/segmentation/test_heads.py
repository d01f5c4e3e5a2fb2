"""Heads against closed forms and their one-by-one equals; label grids, views and scoring by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from levl_eval.backbones.base import Preprocess
from levl_eval.cards import SegmentationCard
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.progress import Progress
from levl_eval.engines.contract import Context
from levl_eval.engines.segmentation.closed import neighbour_head, ridge_head
from levl_eval.engines.segmentation.fitting import dense_logits, grid_labels
from levl_eval.engines.segmentation.head import ClassTokens, predict, train_head
from levl_eval.engines.segmentation.sweep import sweep_head
from levl_eval.engines.segmentation.task import run
from levl_eval.features.store import FeatureStore
from levl_eval.features.views import make_views

CPU, QUIET = torch.device("cpu"), Progress(quiet=True)
SPEC = {"layout": "segmentation"}


def card(**more) -> SegmentationCard:
    base = {"name": "s", "main_metric": "mean_iou", "train": SPEC, "data": SPEC, "epochs": 30, "batch_size": 16, "lr": 0.05}
    return SegmentationCard(**{**base, **more})


def toy(n: int = 30, noise: float = 0.1):
    """Tokens that hold their class at their own place, far from the origin; the upper left one is void."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (n, 4, 6))
    patches = rng.normal(size=(3, 10))[labels].reshape(n, 24, 10) * 5 + 100 + noise * rng.normal(size=(n, 24, 10))
    void = labels.copy()
    void[:, 0, 0] = 255
    return patches.astype(np.float32), void.astype(np.int16), labels


@pytest.mark.slow
@pytest.mark.parametrize("head", ["linear", "linear-bn", "conv"])
def test_gradient_heads_learn_a_structured_toy(head):
    patches, void, labels = toy()
    found, curve = train_head(ClassTokens(patches, void, (4, 6), 3, 255), card(head=head, conv_width=16), 0, CPU, QUIET)
    right = predict(found, patches, (4, 6), CPU) == labels
    assert right[:, 1:].mean() > 0.99 and curve[-1] < 0.1 * curve[0]


@pytest.mark.slow
def test_ridge_is_the_regression():
    from sklearn.linear_model import Ridge

    patches, void, labels = toy(noise=3.0)
    head = ridge_head(ClassTokens(patches, void, (4, 6), 3, 255), card(head="ridge", ridge_lambda=2.0, batch_size=7), CPU, QUIET)
    flat = patches.reshape(-1, 10)
    x = ((flat - flat.mean(0)) / flat.std(0))[void.reshape(-1) != 255]
    reference = Ridge(alpha=2.0).fit(x, np.eye(3)[void[void != 255]])
    assert np.allclose(head.linear.weight.numpy(), reference.coef_, atol=1e-4)
    assert np.allclose(head.linear.bias.numpy(), reference.intercept_, atol=1e-4)
    assert (predict(head, patches, (4, 6), CPU) == labels).mean() > 0.9


def test_neighbours_vote_as_counted_by_hand():
    patches, void, _ = toy(noise=3.0)
    c = card(head="knn", knn_k=5, knn_temperature=0.1)
    head = neighbour_head(ClassTokens(patches[:20], void[:20], (4, 6), 3, 255), c, 0, CPU)
    votes = head(torch.from_numpy(patches[20:21]))[0]
    flat = (patches.reshape(-1, 10)[: 20 * 24] - head.mean.numpy()) / head.std.numpy()
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    keep = void[:20].reshape(-1) != 255
    query = (patches[20, 7] - head.mean.numpy()) / head.std.numpy()
    cosine = unit[keep] @ (query / np.linalg.norm(query))
    nearest = np.argsort(-cosine)[:5]
    weight = np.exp(cosine[nearest] / 0.1)
    want = np.bincount(void[:20].reshape(-1)[keep][nearest], weight / weight.sum(), 3)
    assert np.allclose(votes[:, 1, 1].numpy(), want, atol=1e-4)
    few = neighbour_head(ClassTokens(patches, void, (4, 6), 3, 255), c.model_copy(update={"knn_memory": 40}), 0, CPU)
    assert few.memory.shape == (40, 10)


def test_a_sweep_is_its_fits_one_by_one_and_chooses_on_held_out_images():
    patches, void, _ = toy(40, noise=4.0)
    c = card(sweep_lr=[1e-4, 0.02], sweep_weight_decay=[0.0, 0.5], epochs=4, schedule="cosine")
    head, _, note = sweep_head(ClassTokens(patches, void, (4, 6), 3, 255), c, 3, CPU, QUIET)
    assert len(note["candidates"]) == 4 and note["held_out_images"] == 4
    assert note["chosen"]["held_out_mean_iou"] == max(x["held_out_mean_iou"] for x in note["candidates"])
    assert note["chosen"]["lr"] == 0.02
    # the same by torch's own AdamW, one candidate at a time
    generator = torch.Generator().manual_seed(3)
    rows = torch.randperm(40, generator=generator)[4:]
    torch.manual_seed(3)
    layer = torch.nn.Linear(10, 3)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.02, weight_decay=note["chosen"]["weight_decay"])
    x, y, step = torch.from_numpy(patches), torch.from_numpy(void).long(), 0
    for _ in range(4):
        order = rows[torch.randperm(36, generator=generator)]
        for i in range(0, 36, 16):
            optimizer.param_groups[0]["lr"] = 0.02 * 0.5 * (1 + np.cos(np.pi * step / 12))
            part = order[i : i + 16].sort().values
            loss = torch.nn.functional.cross_entropy(
                layer((x[part] - head.mean) / head.std).flatten(0, 1), y[part].flatten(), ignore_index=255
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    assert torch.allclose(head.linear.weight, layer.weight, atol=1e-4) and torch.allclose(head.linear.bias, layer.bias, atol=1e-4)
    with pytest.raises(UsageError, match="only `head: linear` is swept"):
        from levl_eval.engines.segmentation.sweep import sweep_pairs

        sweep_pairs(card(head="conv", sweep_lr=[0.1, 0.2]))
    with pytest.raises(LevlError, match="sweep_holdout"):
        sweep_head(ClassTokens(patches[:1], void[:1], (4, 6), 3, 255), c, 0, CPU, QUIET)


def test_grid_label_rules():
    mask = np.array([[0, 1, 255, 255], [1, 1, 255, 2]])
    assert grid_labels(mask, (1, 2), "corner").tolist() == [[0, 255]]
    assert grid_labels(mask, (1, 2), "nearest").tolist() == [[1, 2]]
    assert grid_labels(mask, (1, 2), "majority").tolist() == [[1, 2]]
    assert grid_labels(np.full((4, 4), 255), (2, 2), "majority").tolist() == [[255, 255], [255, 255]]
    torch_nearest = torch.nn.functional.interpolate(torch.arange(36.0).view(1, 1, 6, 6), size=(3, 3), mode="nearest")[0, 0]
    assert grid_labels(np.arange(36).reshape(6, 6), (3, 3), "corner").tolist() == torch_nearest.long().tolist()


def test_windows_and_mirror_images_are_put_back_where_they_were_cut():
    views = make_views(8, 4, 2, True)
    image = torch.arange(64.0).view(1, 1, 8, 8).expand(1, 2, 8, 8)
    tokens = views.cut(image).flatten(3).transpose(2, 3).numpy()  # every pixel a token of two channels

    class Pass(torch.nn.Module):
        def forward(self, x):
            return x.transpose(1, 2).unflatten(2, (4, 4))

    found = dense_logits(Pass(), tokens, views, Preprocess(8), card(), CPU)
    assert torch.allclose(found, image, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [
    {"head": "knn", "score": "original", "resize": "squash"},
    {"head": "ridge", "size": "96", "window": "64", "stride": "32", "flip": "true", "layers": "[-2, -1]", "resize": "squash",
     "score": "original", "label_grid": "majority"},
    {"sweep_lr": "[0.001, 0.01]", "epochs": "2"},
])  # fmt: skip
def test_protocols_run_and_count_every_pixel(settings, world, tmp_path):
    from levl_eval.backbones import load_backbone
    from levl_eval.cards.registry import task_card

    context = Context(
        task_card("ade20k", settings), load_backbone("random:nano"), str(world),
        0, FeatureStore(tmp_path), tmp_path, CPU, limit=4, progress=QUIET
    )  # fmt: skip
    out = run(context)
    assert sum(v[1] for s in out.samples for v in s.meta["counts"].values()) == 4 * 64 * 64
    assert 0 < out.metrics["mean_iou"].value < 1 and out.metrics["mean_iou"].low <= out.metrics["mean_iou"].high
    assert ("sweep" in out.notes) == ("sweep_lr" in settings) and out.cache == {"feature_hits": 0, "feature_misses": 2}
    context = replace(context, card=context.card.model_copy(update={"head": "ridge", "sweep_lr": None}))
    assert run(context).cache == {"feature_hits": 2, "feature_misses": 0}  # another head: no encoder


def test_protocols_that_cannot_be_are_one_line(world, tmp_path):
    from levl_eval.backbones import load_backbone
    from levl_eval.cards.registry import task_card

    nano = load_backbone("random:nano")
    for settings, words in [
        ({"score": "original"}, "needs `resize: squash`"),
        ({"size": "68"}, "no multiple of its patch size 8; take 64"),
        ({"window": "96"}, "beyond the image"),
        ({"layers": "[7]"}, "is not one of its"),
    ]:
        context = Context(
            task_card("ade20k", settings), nano, str(world), 0, FeatureStore(tmp_path), tmp_path, CPU, limit=2, progress=QUIET
        )
        with pytest.raises(LevlError, match=words) as e:
            run(context)
        assert "\n" not in str(e.value)
