"""DINOv2's and DINOv3's depth recipes:
augmentation, head, loss and schedule against their descriptions, the mean of both sides, the whole engine, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from levl_eval.backbones import load_backbone
from levl_eval.cards.dense import DepthRecipeCard
from levl_eval.cards.registry import task_card
from levl_eval.core.errors import LevlError
from levl_eval.core.progress import Progress
from levl_eval.core.schedule import Schedule
from levl_eval.data.types import DepthSet, ImageSet
from levl_eval.engines.depth.augment import augmented, coloured
from levl_eval.engines.depth.recipe import Batches, BinsHead, Tokens, Trained, batch_loss, first_beta, log_loss, stacked
from levl_eval.runner.evaluate import evaluate
from tests.engines.depth.test_depth import rooms

SPEC = {"layout": "depth"}
PLAIN = {"rotation": 0.0, "flip": 0.0, "colour": 0.0}


def card(**more) -> DepthRecipeCard:
    return DepthRecipeCard(**{"name": "d", "main_metric": "rmse", "train": SPEC, "data": SPEC, **more})


def pair(size=(480, 640)) -> tuple[Image.Image, np.ndarray]:
    """An image whose red is its depth in decimetres."""
    depth = np.random.default_rng(0).integers(1, 100, size).astype(np.float32) / 10
    depth[:5] = 0
    red = (depth * 10).round().astype(np.uint8)
    return Image.fromarray(np.stack([red, red, red], -1)), depth


def test_the_fixed_part_of_nyuv2_and_crops_of_it():
    image, depth = pair()
    levels, metres = augmented(image, depth, card(frame="nyu", **PLAIN), np.random.default_rng(0))
    assert levels.shape == (427, 565, 3) and metres.shape == (427, 565)  # rows 45 to 472, columns 43 to 608
    assert np.array_equal(metres, depth[45:472, 43:608])
    cut, known = augmented(image, depth, card(frame="nyu", train_crop=(416, 544), **PLAIN), np.random.default_rng(1))
    assert cut.shape == (416, 544, 3) and np.array_equal(np.round(known * 10), cut[..., 0])  # image and map are cut alike
    with pytest.raises(LevlError, match="an image has 640x480 pixels, `train_crop` asks for 544x500"):
        augmented(image, depth, card(train_crop=(500, 544), **PLAIN), np.random.default_rng(0))


def test_mirror_and_rotation_move_both_alike():
    image, depth = pair((60, 80))
    levels, metres = augmented(image, depth, card(**{**PLAIN, "flip": 1.0}), np.random.default_rng(0))
    assert np.array_equal(metres, depth[:, ::-1]) and np.array_equal(levels[..., 0], np.round(depth[:, ::-1] * 10))
    smooth = np.add.outer(np.linspace(1, 5, 60), np.linspace(0, 4, 80)).astype(np.float32)
    ramp = Image.fromarray(np.repeat((smooth * 10).round().astype(np.uint8)[..., None], 3, -1))
    turned = [augmented(ramp, smooth, card(**{**PLAIN, "rotation": 20.0}), np.random.default_rng(k)) for k in range(12)]
    moved = [(a, b) for a, b in turned if not np.array_equal(b, smooth)]
    assert 2 <= len(moved) <= 10  # half of them
    for red, known in moved:
        there = known > 0
        assert (
            not there.all()
            and np.abs(red[..., 0] - known * 10)[there].max() < 12
            and np.median(np.abs(red[..., 0] - known * 10)[there]) < 1
        )


def test_colours_by_hand():
    levels = np.full((2, 2, 3), 50.0, np.float32)
    one = card(gamma=(1.1, 1.1), brightness=(0.8, 0.8), channels=(0.9, 0.9))
    assert np.allclose(coloured(levels, one, np.random.default_rng(0)), 50**1.1 * 0.8 * 0.9)
    assert coloured(levels * 5, one, np.random.default_rng(0)).max() == 255


def test_loss_and_schedule_are_those_of_the_recipe():
    c = task_card("nyuv2-dinov3")
    assert isinstance(c, DepthRecipeCard)
    p, t = torch.tensor([1.0, 4.0, 2.5]), torch.tensor([2.0, 2.0, 2.0])
    d = np.log(p.numpy() + 1e-3) - np.log(t.numpy() + 1e-3)
    assert log_loss(p, t, c, 99).item() == pytest.approx(math.sqrt(0.15 * d.mean() ** 2), rel=1e-5)
    assert log_loss(p, t, c, 100).item() == pytest.approx(math.sqrt(d.var(ddof=1) + 0.15 * d.mean() ** 2), rel=1e-5)

    def rate(step: int) -> float:
        """WarmupOneCycleLR of DINOv3's evaluation code, as a share of the highest rate."""
        if step < 12_800:
            return 1e-3 + (1 + math.cos(math.pi * step / 38_400)) / 2 * step / 12_800
        done = (step + 1) / 38_400
        return 1 / 25_000 + (1 - 1 / 25_000) / 2 * (math.cos(math.pi * done) + 1)

    mine = Schedule(c.steps, "cosine", warmup=round(c.warmup * c.steps), start=1e-3)
    assert max(abs(mine.at(k) - rate(k)) for k in range(0, 38_400, 7)) < 1.1e-3
    for step, share in ((0, None), (12_799, None), (12_800, 0.0), (25_600, 0.5), (38_399, 1.0)):
        wanted = 0.0 if share is None else 0.95 + (0.85 - 0.95) / 2 * (math.cos(math.pi * share) + 1)
        assert first_beta(c, step) == pytest.approx(wanted, abs=1e-6)


def test_dinov2s_loss_is_each_gpus_and_its_first_coefficient_falls_and_rises():
    c = task_card("nyuv2-dinov2")
    assert isinstance(c, DepthRecipeCard)
    p, t = (torch.rand(5, 4, 6, generator=torch.Generator().manual_seed(k)) * 8 + 1 for k in (0, 1))
    keep = torch.rand(5, 4, 6, generator=torch.Generator().manual_seed(2)) < 0.7
    keep[2:4] = False  # the second GPU's two images have no known pixel
    parts = [log_loss(p[rows][keep[rows]], t[rows][keep[rows]], c, 500) for rows in (slice(0, 2), slice(4, 5))]
    assert batch_loss(p, t, keep, c, 500).item() == pytest.approx(sum(float(x) for x in parts) / 2)
    assert batch_loss(p, t, keep, card(), 500).item() == pytest.approx(log_loss(p[keep], t[keep], c, 500).item())

    def momentum(step: int) -> float:
        """mmcv's OneCycleMomentumUpdaterHook with its defaults: from 0.95 to 0.85 in the first 30 %, then back."""
        start, end, low, high = (0.95, 0.85, 0.0, 0.3 * 38_400 - 1) if step <= 11_519 else (0.85, 0.95, 11_519.0, 38_399.0)
        return end + (start - end) / 2 * (math.cos(math.pi * (step - low) / (high - low)) + 1)

    assert max(abs(first_beta(c, k) - momentum(k)) for k in range(0, 38_400, 101)) < 1e-12
    assert (first_beta(c, 0), first_beta(c, 11_519), first_beta(c, 38_399)) == pytest.approx((0.95, 0.85, 0.95))
    short = c.model_copy(update={"steps": 4, "cycle_fall": 0.25})  # falls within the first step
    assert [first_beta(short, k) for k in (0, 3)] == pytest.approx([0.85, 0.95])


def test_an_encoder_whose_blocks_pass_the_final_norm_is_told_so():
    b = load_backbone("random:nano")
    b.encode_layers = lambda images, layers: None  # as a user's own class may have it
    images = torch.zeros(1, 3, 64, 64)
    with pytest.raises(LevlError, match="takes no `norm`.*final_norm: true"):
        Tokens(b, (-1,), norm=False)(images)


def test_dinov2s_head_reads_class_and_patch_tokens_at_four_times_their_grid():
    c = task_card("nyuv2-dinov2")
    assert isinstance(c, DepthRecipeCard)
    b = load_backbone("random:nano")
    tokens = Tokens(b, tuple(b.layer_indices([-1])), norm=False, class_token=True)
    seen: list[torch.Tensor] = []
    hook = b.model.blocks[-1].register_forward_hook(lambda m, i, o: seen.append(o))
    maps = tokens(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    hook.remove()
    patches, cls = seen[0][:, 1:], seen[0][:, 0]
    assert torch.equal(maps[:, : b.patch_dim].flatten(2).transpose(1, 2), patches)
    assert torch.equal(maps[:, b.patch_dim :], cls[:, :, None, None].expand(-1, -1, 8, 8))
    torch.manual_seed(0)
    head, plain = BinsHead(2 * b.patch_dim, c), torch.nn.Conv2d(2 * b.patch_dim, 256, 1)
    plain.load_state_dict(head.linear.state_dict())
    assert plain.bias is not None and plain.bias.abs().max() > 0  # torch's own initialisation has one
    weight = plain(torch.nn.functional.interpolate(maps, scale_factor=4, mode="bilinear")).relu() + 0.1  # BNHead's order
    metres = torch.einsum("bkhw,k->bhw", weight / weight.sum(1, keepdim=True), torch.linspace(1e-3, 10, 256))
    assert head(maps).shape == (2, 32, 32) and torch.allclose(head(maps), metres, atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"class_token": True}, "set `layers: .-1.`"), ({"final_norm": False}, "set `layers: .-1.`"),
        ({"cycle_fall": 0.3}, "`cycle_fall` is a part of `cycle`"),
    ],
)  # fmt: skip
def test_fields_that_do_not_go_together_are_told(wrong, message):
    with pytest.raises(ValidationError, match=message):
        card(**wrong)


def tiny(n: int = 5, size=(8, 12)) -> DepthSet:
    pixels = np.random.default_rng(0).integers(0, 255, (n, *size, 3), dtype=np.uint8)
    names = tuple(f"{k}.png" for k in range(n))
    images = ImageSet(names, lambda i: Image.fromarray(pixels[names.index(i)]), "f", "here")
    return DepthSet("d", "train", images, lambda i: np.full(size, 1.0 + names.index(i), np.float32), "m")


def test_what_a_step_sees_follows_from_the_seed():
    batches = Batches(tiny(), card(batch_size=2), 3)
    seen = [batches.rows(k) for k in range(4)]
    assert all(len(r) == 2 for r in seen) and len({*seen[0], *seen[1]}) == 4 and seen == [batches.rows(k) for k in range(4)]
    assert Batches(tiny(), card(batch_size=2), 4).rows(0) != seen[0] or Batches(tiny(), card(batch_size=2), 4).rows(1) != seen[1]
    once, again, other = (batches.one(7, 1, 2)[0] for _ in range(2)), batches.one(7, 1, 2)[0], batches.one(8, 1, 2)[0]
    assert all(np.array_equal(x, again) for x in once) and not np.array_equal(again, other)
    with pytest.raises(LevlError, match=r"here/2\.png: an image has 12x8 pixels"):
        Batches(tiny(), card(train_crop=(9, 9)), 0).one(0, 0, 2)
    with pytest.raises(LevlError, match=r"training images have different sizes \(2x2, 4x3\); set `train_crop`"):
        stacked([np.zeros((3, 4, 3)), np.zeros((2, 2, 3))], "images")


class Columns:
    """Tokens that are the image's first channel, scaled so that their metres are known."""

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :1]

    def normalised(self, levels: np.ndarray, device: torch.device) -> torch.Tensor:
        return torch.from_numpy(levels.astype(np.float32)).movedim(-1, 0)


def test_depth_is_the_mean_of_both_sides():
    one = card(max_depth=400.0, test_flip=True)
    head = BinsHead(1, one)
    head.forward = lambda x: x[:, 0] * torch.linspace(1, 2, x.shape[-1])  # type: ignore[method-assign]  # a head that knows left from right
    data = tiny()
    first = np.asarray(data.images.open("3.png"))[..., 0].astype(float)
    factor = np.linspace(1, 2, 12)
    made = Trained(head, Columns(), data, one, torch.device("cpu"))  # type: ignore[arg-type]
    assert np.allclose(made.predict(3, (8, 12)), np.clip(first * (factor + factor[::-1]) / 2, 1e-3, 400), atol=1e-3)
    made.card = card(max_depth=400.0, test_flip=False)
    assert np.allclose(made.predict(3, (8, 12)), np.clip(first * factor, 1e-3, 400), atol=1e-3)


@pytest.mark.slow
def test_the_recipe_from_files_to_record(tmp_path):
    rooms(tmp_path / "nyuv2/train", 6, 0)
    rooms(tmp_path / "nyuv2/test", 3, 1)
    small = ["frame=none", "train_crop=[32,32]", "batch_size=4", "steps=40", "lr=0.01", "crop=none", "bins=32"]
    run = {"data": str(tmp_path), "cache": tmp_path / "c", "device": "cpu", "progress": Progress(quiet=True)}
    settings = [f"nyuv2-dinov3.{s}" for s in small]
    [record] = evaluate(["random:nano"], ["nyuv2-dinov3"], out=tmp_path / "o", settings=settings, debug=True, **run)
    assert record.status == "done" and record.metrics["rmse"].value < 2.6 and record.metrics["floor_mean_map/rmse"].value < 2.6
    assert record.notes["head_loss"][-1] < record.notes["head_loss"][0] and record.data["counts"] == {
        "images": 3,
        "train_images": 6,
    }
    work = tmp_path / "o" / "work" / record.key
    assert {"truth.png", "dense.png"} <= {p.name for p in work.iterdir()}
    other = [f"nyuv2-dinov2.{s}" for s in small]
    [older] = evaluate(["random:nano"], ["nyuv2-dinov2"], out=tmp_path / "d", settings=other, debug=True, **run)
    assert older.status == "done" and older.notes["head_loss"][-1] < older.notes["head_loss"][0]
    [again] = evaluate(["random:nano"], ["nyuv2-dinov3"], out=tmp_path / "p", settings=settings, debug=True, **run)
    assert again.metrics["rmse"].value == record.metrics["rmse"].value
    [failed] = evaluate(["random:nano"], ["nyuv2-dinov3"], out=tmp_path / "q", settings=settings[:1], **run)
    assert (
        failed.status == "failed"
        and "`train_crop` asks for 544x416; set a smaller one" in failed.reason
        and "\n" not in failed.reason
    )
