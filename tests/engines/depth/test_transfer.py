"""KITTI's crops to the pixel, scales of both sets, and the tasks on the scenes: floor, encoder and ceiling."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from levl_eval.cards import parse_card
from levl_eval.cards.dense import DepthCard
from levl_eval.cards.registry import task_card
from levl_eval.core.errors import UsageError
from levl_eval.core.progress import Progress
from levl_eval.engines.depth.fitting import scored
from levl_eval.records import read_samples
from levl_eval.runner.evaluate import evaluate
from tests.data.test_depth_lists import kitti

QUIET = Progress(quiet=True)
SPEC = {"layout": "depth"}


def card(**more) -> DepthCard:
    return DepthCard(**{"name": "d", "main_metric": "rmse", "train": SPEC, "data": SPEC, **more})


def corners(inside: np.ndarray) -> tuple[int, ...]:
    rows, columns = np.nonzero(inside)
    return int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1


@pytest.mark.parametrize("crop,shape,expected", [
    # As KITTI's evaluations cut them: int() of the shares (AdaBins, the Monocular-Depth-Estimation-Toolbox).
    ("garg", (352, 1216), (143, 349, 43, 1172)), ("garg", (375, 1242), (153, 371, 44, 1197)),
    ("eigen-kitti", (352, 1216), (117, 321, 43, 1172)), ("eigen-pixels", (480, 640), (45, 471, 41, 601)),
    ("eigen-pixels", (530, 730), (45, 471, 41, 601)), ("eigen-pixels", (427, 561), (45, 427, 41, 561)),
])  # fmt: skip
def test_published_crops_to_the_pixel(crop, shape, expected):
    assert corners(scored(np.ones(shape, np.float32), card(crop=crop))) == expected


def test_scales_and_caps_of_the_test_set():
    both = card(depth_scale=256.0, test_depth_scale=1000.0, max_depth=10.0, test_max_depth=8.0)
    assert (both.scale_of("train"), both.scale_of("test"), both.in_scoring().max_depth, both.max_depth) == (
        256.0,
        1000.0,
        8.0,
        10.0,
    )
    assert card().scale_of("test") == 1000.0 and card().in_scoring().max_depth == 10.0
    assert not scored(np.full((4, 4), 9.0, np.float32), both.in_scoring()).any()
    with pytest.raises(UsageError, match=r"test_max_depth 0\.001 is not above min_depth 0\.5"):
        parse_card(
            {
                "name": "d",
                "engine": "depth",
                "main_metric": "rmse",
                "train": SPEC,
                "data": SPEC,
                "min_depth": 0.5,
                "test_max_depth": 0.001,
            },
            "x",
        )
    assert task_card("kitti").main_metric == task_card("sunrgbd").main_metric == "rmse"


def plain_kitti(predicted: np.ndarray, stored: np.ndarray) -> dict[str, float]:
    """KITTI's evaluation written down anew from its description: the benchmark's part, Garg's crop, 1 mm to 80 m, one image."""
    high, wide = stored.shape
    truth = stored[high - 352 :, (wide - 1216) // 2 : (wide - 1216) // 2 + 1216] / 256.0
    inside = np.zeros(truth.shape, bool)
    inside[int(0.40810811 * 352) : int(0.99189189 * 352), int(0.03594771 * 1216) : int(0.96405229 * 1216)] = True
    inside &= (truth > 1e-3) & (truth < 80)
    p, t = np.clip(predicted[inside], 1e-3, 80).astype(np.float64), truth[inside]
    log = np.log(p) - np.log(t)
    return {
        "rmse": float(np.sqrt(np.mean((p - t) ** 2))), "absrel": float(np.mean(np.abs(p - t) / t)),
        "delta1": float(np.mean(np.maximum(p / t, t / p) < 1.25)), "silog": float(np.sqrt(np.mean(log**2) - np.mean(log) ** 2)),
        "rmse_log": float(np.sqrt(np.mean(log**2))), "log10": float(np.mean(np.abs(np.log10(p) - np.log10(t)))),
    }  # fmt: skip


def test_kitti_scores_a_blind_prediction_as_its_evaluation_does(tmp_path):
    """The floor is a prediction of known values: the training mean of each token, which is one number where all depths are equal."""
    root = tmp_path / "kitti"
    stored = kitti(root, 2)
    kitti(root, 2, "train")
    for path in (root / "gt_depth").rglob("00000001*.png"):  # the training maps: 20 m everywhere
        Image.fromarray(np.full((375, 1242), 20 * 256, np.uint16)).save(path)
    [record] = evaluate(
        ["random:nano"], ["kitti"], data=str(tmp_path), out=tmp_path / "o", cache=tmp_path / "c", device="cpu", progress=QUIET,
        settings=["kitti.head=ridge", "kitti.target=metres", "kitti.ridge_lambda=1e12"], debug=True,
    )  # fmt: skip
    expected = [plain_kitti(np.full((352, 1216), 20.0), s) for s in stored]
    assert record.metrics["floor_mean_map/rmse"].value == pytest.approx(np.mean([e["rmse"] for e in expected]), rel=1e-9)
    for sample, wanted in zip(read_samples(tmp_path / "o", record), expected, strict=True):
        # the head's 20 m are float16 tokens' worth off
        assert {k: sample.meta[k] for k in wanted} == pytest.approx(wanted, abs=2e-4)


@pytest.mark.slow
def test_depth_on_the_scenes(world, tmp_path):
    """The ceiling is far above a random encoder, which is above the floor; the head of nyuv2 is read on sunrgbd."""
    settings = [
        f"{t}.{s}"
        for t in ("nyuv2", "sunrgbd", "kitti")
        for s in ("head=regression", "epochs=60", "lr=0.01", "batch_size=8", "crop=none")
    ]
    records = evaluate(
        ["oracle:geometry", "random:nano"], ["nyuv2", "sunrgbd", "kitti"], data=str(world), out=tmp_path / "o",
        cache=tmp_path / "c", device="cpu", progress=QUIET, settings=settings, seeds=[0], debug=True,
    )  # fmt: skip
    at = {(r.backbone["name"], r.task): r.metrics for r in records}
    assert {r.status for r in records} == {"done"} and len(records) == 6
    for task in ("nyuv2", "sunrgbd", "kitti"):
        top = next(m for (b, t), m in at.items() if t == task and "oracle" in b)
        assert top["delta1"].value > 0.8 and top["gain_over_mean_map/rmse"].high < 0
    by = {r.task: r for r in records if "oracle" in r.backbone["name"]}
    assert (
        by["sunrgbd"].data["train"] == by["nyuv2"].data["train"]
        and by["sunrgbd"].data["fingerprint"] != by["nyuv2"].data["fingerprint"]
    )
