"""The normals engine: labels, loss and closed form against plain formulations,
heads that learn, the scenes with floor and ceiling, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from levl_eval.cards import DataSpec
from levl_eval.cards.normals import NormalsCard
from levl_eval.core.errors import LevlError
from levl_eval.core.progress import Progress
from levl_eval.data.readers import read_normals
from levl_eval.engines.dense_common import FixedMap
from levl_eval.engines.normals.head import NormalTokens, grid_normals, normal_loss, token_angle, train_head
from levl_eval.engines.normals.task import mean_directions, paint
from levl_eval.metrics.normals import angles
from levl_eval.records import read_samples
from levl_eval.runner.evaluate import evaluate
from levl_eval.scenes.export import make_scenes

CPU, QUIET = torch.device("cpu"), Progress(quiet=True)
SPEC = {"layout": "normals"}


def card(**more) -> NormalsCard:
    return NormalsCard(**{"name": "n", "main_metric": "angle_rmse", "train": SPEC, "data": SPEC, **more})


def test_labels_of_tokens():
    normals = np.zeros((2, 4, 3), np.float32)
    normals[0, :2], normals[1, 0] = (1, 0, 0), (0, 0, -1)
    label = grid_normals(normals, (1, 2))
    assert np.allclose(label[0, 0], np.array([2, 0, -1]) / np.sqrt(5)) and np.isnan(label[0, 1]).all()
    mean = mean_directions(np.stack([label, np.full_like(label, np.nan)]))
    assert np.allclose(mean[0, 0], label[0, 0]) and np.allclose(mean[0, 1], label[0, 0])  # a place without any has that of all


def test_loss_by_hand():
    truth = torch.tensor([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
    outputs = torch.tensor([[0.0, 1.0, -1.0, 0.5], [0.0, 3.0, 0.0, -2.0]])
    angle = np.array([np.pi / 4, np.pi / 2])
    assert normal_loss(outputs[:, :3], truth).item() == pytest.approx(angle.mean(), rel=1e-5)
    kappa = np.array([0.5 + 1.01, np.exp(-2.0) - 1 + 1.01])
    wanted = np.log(1 + np.exp(-kappa * np.pi)) - np.log(kappa**2 + 1) + kappa * angle
    assert normal_loss(outputs, truth).item() == pytest.approx(wanted.mean(), rel=1e-5)


@pytest.mark.parametrize("outputs", [3, 4])
def test_heads_are_compared_by_their_angle_whatever_they_are_trained_by(outputs):
    truth = torch.tensor([[[[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [float("nan")] * 3]]])
    maps = torch.tensor([[0.0, 1.0, -1.0, 9.0], [0.0, 3.0, 0.0, -2.0], [5.0, 0.0, 0.0, 0.0]]).T[None, :outputs, None]
    x = torch.zeros(1, 3, 2)
    found = token_angle(FixedMap(maps), x, truth)
    assert found.item() == pytest.approx((np.pi / 4 + np.pi / 2) / 2, rel=1e-5)
    assert token_angle(FixedMap(maps), x, torch.full_like(truth, float("nan"))) is None


def toy(n: int = 24):
    """Tokens of which the components are a linear function; one token unknown."""
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(n, 12, 6)) * 3 + 50
    vectors = (patches - 50) / 3 @ rng.normal(size=(6, 3)) + (0, 0, -2)
    labels = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).reshape(n, 3, 4, 3).astype(np.float32)
    known = labels.copy()
    known[:, 0, 0] = np.nan
    return patches.astype(np.float32), known, labels


def test_ridge_is_the_regression():
    patches, known, _ = toy()
    head, curve = train_head(
        NormalTokens(patches, known, (3, 4)), card(head="ridge", ridge_lambda=3.0, batch_size=7), 0, CPU, QUIET
    )
    x = ((patches - patches.mean((0, 1))) / patches.std((0, 1))).reshape(-1, 6).astype(float)
    keep = np.isfinite(known.reshape(-1, 3)).all(-1)
    a = np.concatenate([x[keep], np.ones((keep.sum(), 1))], 1)
    solution = np.linalg.solve(a.T @ a + np.diag([3.0] * 6 + [0.0]), a.T @ known.reshape(-1, 3)[keep])
    assert curve == [] and np.allclose(
        head(torch.from_numpy(patches))[:, :, 1, 2].numpy(), (x.reshape(24, 12, 6)[:, 6] @ solution[:6] + solution[6]), atol=1e-4
    )


@pytest.mark.parametrize("loss", ["angular", "angular-nll"])
def test_heads_learn_directions(loss):
    patches, known, labels = toy()
    head, curve = train_head(
        NormalTokens(patches, known, (3, 4)), card(loss=loss, lr=0.05, epochs=60, batch_size=8), 0, CPU, QUIET
    )
    out = head(torch.from_numpy(patches))[:, :3].movedim(1, -1).reshape(-1, 3).numpy()
    own = angles(out, labels.reshape(-1, 3)).mean()
    blind = angles(np.broadcast_to(labels.reshape(-1, 3).mean(0), (labels.size // 3, 3)), labels.reshape(-1, 3)).mean()
    assert own < 0.3 * blind and curve[-1] < curve[0]
    with pytest.raises(LevlError, match="no training pixel has a normal"):
        train_head(NormalTokens(patches, np.full_like(known, np.nan), (3, 4)), card(), 0, CPU, QUIET)


def test_colours_of_normals():
    shown = paint(np.array([[[0.0, 0.0, -2.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]]), np.array([[True, True, False]]))
    assert shown[0].tolist() == [[128, 128, 0], [255, 128, 128], [128, 128, 128]]


@pytest.mark.slow
def test_the_task_on_the_scenes(tmp_path):
    world = tmp_path / "world"
    make_scenes(world, size=64, counts={"nyuv2_normals/train": 24, "nyuv2_normals/test": 12}, progress=QUIET)
    settings = [f"nyuv2-normals.{s}" for s in ("epochs=80", "lr=0.02", "batch_size=8", "loss=angular")]
    run = {"data": str(world), "cache": tmp_path / "c", "device": "cpu", "progress": QUIET, "out": tmp_path / "o"}
    records = evaluate(["oracle:geometry", "random:nano"], ["nyuv2-normals"], settings=settings, debug=True, **run)
    top, other = sorted(records, key=lambda r: r.metrics["angle_rmse"].value)
    assert "oracle" in top.backbone["name"] and top.metrics["gain_over_mean_map/angle_rmse"].high < 0
    assert top.metrics["within_11.25"].value > 0.5 and top.metrics["angle_rmse"].value < 0.8 * other.metrics["angle_rmse"].value
    assert (tmp_path / "o" / "work" / top.key / "dense.png").is_file()
    samples = list(read_samples(tmp_path / "o", top))
    assert np.mean([s.score for s in samples]) == pytest.approx(top.metrics["angle_rmse"].value)
    # The floor, written down anew: the mean training direction of each of 8 x 8 cells, upsampled by hand.
    train, test = (
        read_normals(DataSpec(layout="nyuv2-normals", directory="nyuv2_normals", split=s), str(world)) for s in ("train", "test")
    )
    cells = np.stack([grid_normals(train.normals(n), (8, 8)) for n in train.images.ids]).astype(np.float64)
    maps = [
        Image.fromarray(cells[..., k].mean(0).astype(np.float32)).resize((64, 64), Image.Resampling.BILINEAR) for k in range(3)
    ]
    blind = np.stack([np.asarray(m) for m in maps], -1).reshape(-1, 3)
    errors = [angles(blind, test.normals(n).reshape(-1, 3)) for n in test.images.ids]
    assert top.metrics["floor_mean_map/angle_rmse"].value == pytest.approx(
        np.mean([np.sqrt((e**2).mean()) for e in errors]), rel=1e-3
    )


def test_bad_maps_are_told_in_one_line(tmp_path):
    for kind in ("images", "normals"):
        (tmp_path / kind).mkdir()
    Image.new("RGB", (4, 3)).save(tmp_path / "images/a.png")
    Image.fromarray(np.full((2, 2, 3), 200, np.uint8)).save(tmp_path / "normals/a.png")
    settings = [
        f"normals.{part}.{k}={tmp_path / v}"
        for part in ("train", "data")
        for k, v in (("images", "images"), ("annotations", "normals"))
    ]
    [record] = evaluate(
        ["random:nano"],
        ["normals"],
        data=str(tmp_path),
        settings=settings,
        out=tmp_path / "o",
        cache=tmp_path / "c",
        progress=QUIET,
        device="cpu",
    )
    assert record.status == "failed" and "image is 4x3, its map of normals 2x2" in record.reason and "\n" not in record.reason
