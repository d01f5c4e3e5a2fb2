"""Images: colours by their rules, errors by hand, PCA that shows what differs, and the command."""

from __future__ import annotations

import io
import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from levl_eval.backbones import load_backbone
from levl_eval.cards.registry import task_card
from levl_eval.cli import main
from levl_eval.core.errors import UsageError
from levl_eval.core.progress import Progress
from levl_eval.data.readers import read_segmentation
from levl_eval.data.segmentation import file_palette
from levl_eval.engines.contract import Context
from levl_eval.engines.dense_images import pca_rgb, spread
from levl_eval.engines.segmentation.fitting import scored_geometry, truth_of
from levl_eval.engines.segmentation.images import error_map, show_dense
from levl_eval.engines.segmentation.palettes import paint, palette, voc_colours
from levl_eval.features.store import FeatureStore
from levl_eval.report.html import build
from levl_eval.report.results import Results
from levl_eval.runner.evaluate import evaluate


def test_palettes():
    assert voc_colours(22)[[0, 1, 2, 15, 20, 21]].tolist() == [
        [0, 0, 0], [128, 0, 0], [0, 128, 0], [192, 128, 128], [0, 64, 128], [128, 64, 128]
    ]  # fmt: skip
    for layout, n in (("ade20k", 150), ("coco-stuff", 171), ("cityscapes", 19), ("voc", 21)):
        colours = palette(layout, n)
        same = 1 if layout == "ade20k" else 0  # the devkit gives road and skyscraper one grey
        assert colours.shape == (n, 3) and len(np.unique(colours, axis=0)) == n - same
    assert palette("cityscapes", 19)[13].tolist() == [0, 0, 142]
    assert palette("segmentation", 2, [1, 2, 3, 4, 5, 6, 7, 8, 9]).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert paint(np.array([[1, 255]]), palette("segmentation", 2), 255).tolist() == [[[0, 128, 0], [0, 0, 0]]]


def test_colours_of_mask_files(tmp_path):
    mask = Image.fromarray(np.array([[0, 2], [1, 7]], np.uint8), "P")
    mask.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0, 0, 0, 200, *[5, 6, 7] * 4])
    mask.save(tmp_path / "a.png")
    read = partial(file_palette, tmp_path / "a.png")
    assert read(None, 3, False) == (9, 9, 9, 200, 0, 0, 0, 200, 0)
    assert read(None, 2, True) == (200, 0, 0, 0, 200, 0)  # value 0 is void
    table = np.array([255, 255, 0, 1])  # sparse ids: 2 is class 0, 3 is class 1
    assert read(table, 2, False) == (0, 200, 0, 0, 0, 200)
    assert read(None, 300, False) is None  # more classes than colours
    mask.putpalette([v for v in range(256) for _ in range(3)])
    mask.save(tmp_path / "a.png")
    assert read(None, 3, False) is None  # a grey ramp
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "a.png")
    assert read(None, 3, False) is None


def test_a_run_keeps_images_and_the_report_shows_them_side_by_side(world, tmp_path):
    settings = ["ade20k.head=ridge"]
    records = evaluate(
        ["random:nano", "random:nano?seed=1"], ["ade20k"], data=str(world), settings=settings, out=tmp_path / "o", cache=tmp_path / "c",
        device="cpu", progress=Progress(True), debug=True,
    )  # fmt: skip
    folders = [tmp_path / "o" / "work" / r.key for r in records]
    truth, one, other = (Image.open(f).convert("RGB") for f in (folders[0] / "truth.png", *(f / "dense.png" for f in folders)))
    assert truth.size == (2 * 100 + 4, 16 + 6 * 100 + 4) and one.size == other.size == (3 * 100 + 4, truth.height)
    assert not np.array_equal(np.array(one), np.array(other))
    page = build(Results.read([tmp_path / "o"]))
    section = page[page.index('id="dense"') : page.index('id="browse"')]
    assert section.count("<img src=") == 3 and "random:nano?seed=1</figcaption>" in section
    legend = json.loads((folders[0] / "legend.json").read_text())
    shown = {"#" + bytes(c).hex() for c in np.unique(np.array(truth)[20:116, 104:200].reshape(-1, 3), axis=0).astype(np.uint8)}
    assert shown - {"#000000"} <= {c for _, c in legend} and all(f"</span>{name}</li>" in section for name, _ in legend)
    (folders[0] / "dense.png").unlink()
    (folders[1] / "dense.png").unlink()
    assert 'id="dense"' not in build(Results.read([tmp_path / "o"]))


def test_errors_are_red_and_void_is_black():
    found = error_map(np.array([[0, 1, 1]]), np.array([[0, 0, 255]]), 255)
    assert found.tolist() == [[[225, 225, 225], [200, 30, 30], [0, 0, 0]]]


def test_pca_colours_tell_regions_apart_in_one_basis():
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 3, (4, 5 * 6))
    codes = np.linalg.qr(rng.normal(size=(8, 8)))[0][:3] * 10
    maps = pca_rgb((codes[kinds] + 0.01 * rng.normal(size=(4, 30, 8))).astype(np.float32), (5, 6))
    colours = np.stack(maps).reshape(-1, 3).astype(int)
    means = [colours[kinds.reshape(-1) == k].mean(0)[:2] for k in range(3)]
    spread_within = max(colours[kinds.reshape(-1) == k][:, :2].std(0).max() for k in range(3))
    assert spread_within < 6 and min(np.abs(means[i] - means[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))) > 60


def test_a_sheet_of_two_backbones(world, tmp_path):
    card = task_card("ade20k", {"head": "ridge"})

    def context(uri):
        return Context(
            card,
            load_backbone(uri),
            str(world),
            0,
            FeatureStore(tmp_path),
            tmp_path,
            torch.device("cpu"),
            progress=Progress(True),
        )

    two = [("a", context("random:nano")), ("b", context("random:nano?seed=1"))]
    image = Image.open(io.BytesIO(show_dense(two, count=3, side=32)))
    assert image.size == (8 * 36 + 4, 16 + 3 * 36 + 4)
    pixels = np.array(image.convert("RGB"))
    tiles = [pixels[20:52, 4 + 36 * k : 36 + 36 * k] for k in range(8)]
    assert all(t.std() > 5 for t in tiles) and not np.array_equal(tiles[2], tiles[5])
    assert spread(12, 3) == [0, 6, 11] and spread(2, 5) == [0, 1]
    with pytest.raises(UsageError, match="is not in the test set"):
        show_dense(two[:1], names=["nope.jpg"])


def test_the_command(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    words = [
        "show-dense",
        "--backbone",
        "random:nano",
        "--data",
        str(world),
        "--out",
        str(tmp_path / "o"),
        "--count",
        "2",
        "--quiet",
    ]
    assert main([*words, "--set", "ade20k.head=ridge"]) == 0
    assert Image.open(tmp_path / "o" / "ade20k.png").format == "PNG" and "ade20k.png" in capsys.readouterr().out
    assert main([*words, "--task", "ade20k-incontext"]) == 0 and (tmp_path / "o/ade20k-incontext.png").stat().st_size > 1000
    named = [*words[:2], "oracle:words", *words[3:], "--task", "ade20k-text", "--set", "ade20k-text.templates=['{}']"]
    assert main(named) == 0 and (tmp_path / "o/ade20k-text.png").stat().st_size > 1000
    assert main([*words, "--task", "linear"]) == 2 and "draws segmentation and depth tasks" in capsys.readouterr().err
    assert (
        main([*words, "--precision", "tf32", "--device", "cpu"]) == 2 and "is a format of NVIDIA GPUs" in capsys.readouterr().err
    )


def test_the_command_encodes_as_a_run_does(world, tmp_path, monkeypatch):
    """Features of another precision or order in memory are others, and are stored as such."""
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    words = [
        "show-dense",
        "--backbone",
        "random:nano",
        "--task",
        "ade20k-incontext",
        "--data",
        str(world),
        "--out",
        str(tmp_path / "o"),
    ]
    made = []
    for more in ([], ["--precision", "bf16"], ["--channels-last"], []):
        assert main([*words, "--count", "1", "--quiet", *more]) == 0
        made.append(len(list((tmp_path / "cache" / "features").iterdir())))
    assert made[0] < made[1] < made[2] == made[3]


@pytest.mark.parametrize("task", ["ade20k", "ade20k-incontext", "ade20k-text"])
def test_masks_are_scored_at_the_side_that_the_card_gives(world, task):
    card = task_card(task, {"score": "input", "score_size": "96"})
    test = read_segmentation(card.data, str(world))
    geometry = scored_geometry(card, load_backbone("random:nano").preprocess)
    assert truth_of(test, test.images.ids[0], geometry, card).shape == (96, 96)
